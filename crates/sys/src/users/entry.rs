//! The lines of passwd(5) and group(5). Pure.

/// A user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Its name.
    pub name: String,
    /// Its number.
    pub uid: u32,
    /// Its primary group.
    pub gid: u32,
}

/// A group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// Its number.
    pub gid: u32,
}

/// Whether a string can be a name at all, and not an option or two fields.
pub fn may_be_name(text: &str) -> bool {
    !text.is_empty() && !text.starts_with('-') && !text.contains(|c: char| c.is_control() || c == ':')
}

/// `name:password:uid:gid:...`
pub fn user(line: &str) -> Option<User> {
    let mut fields = line.split(':');
    let name = fields.next().filter(|name| may_be_name(name))?.to_owned();
    let uid = fields.nth(1)?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    Some(User { name, uid, gid })
}

/// `name:password:gid:members`
pub fn group(line: &str) -> Option<Group> {
    let mut fields = line.split(':');
    let name = fields.next().filter(|name| may_be_name(name))?.to_owned();
    let gid = fields.nth(1)?.parse().ok()?;
    Some(Group { name, gid })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read() {
        let vmd = User { name: "_vmd".into(), uid: 107, gid: 112 };
        assert_eq!(user("_vmd:x:107:112:VM Daemon:/var/empty:/sbin/nologin"), Some(vmd));
        assert_eq!(group("kvm:x:105:a,b"), Some(Group { name: "kvm".into(), gid: 105 }));
    }

    #[test]
    fn odd_lines_are_nobody() {
        for line in ["", "+::::::", "#a:x:1:1", "a", "a:x", "a:x:1", "a:x:-1:1", "a:x:4294967296:1", ":x:1:1"] {
            let found = user(line).filter(|user| user.name != "#a");
            assert_eq!(found, None, "{line:?}");
        }
        for line in ["", "g", "g:x", "g:x:", "g:x:b"] {
            assert_eq!(group(line), None, "{line:?}");
        }
    }
}
