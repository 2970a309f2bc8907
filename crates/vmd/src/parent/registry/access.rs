//! Who may do what (openbsd/daemon.md, 5.2). Pure; who asks was read by the parent from the connection itself.

use model::Owner;
use proto::control::MAX_CONNECTIONS;

/// A user has all the connections that one may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("uid {uid} has {held} connections; one more is refused")]
pub struct TooManyConnections {
    uid: u32,
    held: usize,
}

/// The process at the other end of a connection, as the kernel names it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Who {
    /// Effective user id.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

impl Who {
    /// The user whom nothing belongs to (`nobody` of every distribution, and the kernel's overflow id): opens what all may read.
    pub fn nobody() -> Self {
        Self { uid: 65534, gid: 65534, groups: Vec::new() }
    }

    /// Root.
    pub fn is_root(&self) -> bool {
        self.uid == 0
    }

    /// May start, stop, wait for, pause and continue a VM of this owner.
    pub fn may_use(&self, owner: Owner) -> bool {
        self.is_root() || self.uid == owner.uid || owner.gid.is_some_and(|gid| self.is_in(gid))
    }

    /// May connect beside these, who are connected: control's places are for all users. Control says so before; this is for
    /// one that is taken over.
    pub fn may_connect<'a>(&self, connected: impl Iterator<Item = &'a Who>) -> Result<(), TooManyConnections> {
        let held = connected.filter(|other| other.uid == self.uid).count();
        if held >= MAX_CONNECTIONS && !self.is_root() {
            return Err(TooManyConnections { uid: self.uid, held });
        }
        Ok(())
    }

    /// All its groups.
    pub fn gids(&self) -> Vec<u32> {
        [&[self.gid], self.groups.as_slice()].concat()
    }

    fn is_in(&self, gid: u32) -> bool {
        self.gid == gid || self.groups.contains(&gid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(uid: u32, gid: u32, groups: &[u32]) -> Who {
        Who { uid, gid, groups: groups.to_vec() }
    }

    #[test]
    fn root_the_owner_and_the_owner_group_may_and_nobody_else() {
        let owner = Owner { uid: 1000, gid: Some(50) };
        for (asker, may) in [
            (who(0, 0, &[]), true),
            (who(1000, 1000, &[]), true),
            (who(1001, 50, &[]), true),
            (who(1001, 1001, &[7, 50]), true),
            (who(1001, 1001, &[7]), false),
            (who(1001, 1000, &[]), false),
        ] {
            assert_eq!(asker.may_use(owner), may, "{asker:?}");
        }
    }

    #[test]
    fn no_owner_group_grants_nothing_to_group_zero() {
        assert!(!who(1001, 0, &[0]).may_use(Owner { uid: 0, gid: None }));
        assert!(who(1001, 0, &[]).may_use(Owner { uid: 0, gid: Some(0) }));
    }

    #[test]
    fn a_user_has_so_many_connections_whoever_else_has_some_and_root_has_more() {
        let of = |uid, count| vec![who(uid, uid, &[]); count];
        let connected = [of(1000, MAX_CONNECTIONS - 1), of(1001, MAX_CONNECTIONS), of(0, MAX_CONNECTIONS + 1)].concat();
        let may = |uid| who(uid, 7, &[]).may_connect(connected.iter()).map_err(|why| why.to_string());
        assert_eq!((may(1000), may(1002), may(0)), (Ok(()), Ok(()), Ok(())));
        assert_eq!(may(1001), Err("uid 1001 has 64 connections; one more is refused".to_owned()));
    }
}
