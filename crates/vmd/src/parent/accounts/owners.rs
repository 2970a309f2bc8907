//! What users call an owner, asked while VMs run.

use std::time::Duration;

use model::Owner;

/// A directory server has this long for one name: the daemon waits meanwhile. An owner without a name is a number.
const LIMIT: Duration = Duration::from_secs(1);

/// `user[:group]`.
pub fn name(owner: Owner) -> String {
    let user = sys::users::user_by_id(owner.uid, LIMIT).ok().flatten();
    let user = user.map_or_else(|| owner.uid.to_string(), |user| user.name);
    let Some(gid) = owner.gid else { return user };
    let group = sys::users::group_by_id(gid, LIMIT).ok().flatten();
    format!("{user}:{}", group.map_or_else(|| gid.to_string(), |group| group.name))
}
