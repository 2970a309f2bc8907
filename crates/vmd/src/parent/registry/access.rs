//! Who may do what (openbsd/daemon.md, 5.2). Pure; who asks was read by the parent from the connection itself.

use model::Owner;

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
    /// Root.
    pub fn is_root(&self) -> bool {
        self.uid == 0
    }

    /// May start, stop, wait for, pause and continue a VM of this owner.
    pub fn may_use(&self, owner: Owner) -> bool {
        self.is_root() || self.uid == owner.uid || owner.gid.is_some_and(|gid| self.is_in(gid))
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
}
