//! Users and groups by name. Only the parent asks for them.
//!
//! vmd is linked statically, and static glibc has no dependable NSS: `_vmd`, which every installation has in its files, is
//! read from them; all others come from getent(1), which asks whatever the host asks (LDAP, systemd), with a deadline.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::child::Exit;

mod entry;
mod getent;

pub use entry::{Group, User};

/// Why a name could not be looked up; a name that does not exist is no error.
#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    /// getent is missing or could not run.
    #[error("getent: {0}")]
    Run(#[from] io::Error),
    /// A directory server does not answer.
    #[error("getent: no answer within {0:?}")]
    Late(Duration),
    /// getent failed.
    #[error("getent: {0}")]
    Failed(Exit),
    /// getent wrote something odd.
    #[error("getent: odd answer for \"{0}\"")]
    Odd(String),
}

/// A user of /etc/passwd, such as `_vmd`.
pub fn user_in_files(name: &str) -> io::Result<Option<User>> {
    let text = std::fs::read_to_string("/etc/passwd")?;
    Ok(text.lines().filter_map(entry::user).find(|user| user.name == name))
}

/// What /etc/passwd calls a user, who may have no name there.
pub fn name_in_files(uid: u32) -> Option<String> {
    let text = std::fs::read_to_string("/etc/passwd").ok()?;
    text.lines().filter_map(entry::user).find(|user| user.uid == uid).map(|user| user.name)
}

/// A group of /etc/group.
pub fn group_in_files(name: &str) -> io::Result<Option<Group>> {
    let text = std::fs::read_to_string("/etc/group")?;
    Ok(text.lines().filter_map(entry::group).find(|group| group.name == name))
}

/// A user by name, as the host knows it.
pub fn user(name: &str, limit: Duration) -> Result<Option<User>, LookupError> {
    // A number is looked up as an id: that is another question.
    Ok(ask("passwd", name, limit, entry::user)?.filter(|user| user.name == name))
}

/// A user by number.
pub fn user_by_id(uid: u32, limit: Duration) -> Result<Option<User>, LookupError> {
    Ok(ask("passwd", &uid.to_string(), limit, entry::user)?.filter(|user| user.uid == uid))
}

/// A group by name, as the host knows it.
pub fn group(name: &str, limit: Duration) -> Result<Option<Group>, LookupError> {
    Ok(ask("group", name, limit, entry::group)?.filter(|group| group.name == name))
}

/// A group by number.
pub fn group_by_id(gid: u32, limit: Duration) -> Result<Option<Group>, LookupError> {
    Ok(ask("group", &gid.to_string(), limit, entry::group)?.filter(|group| group.gid == gid))
}

fn ask<T>(database: &str, key: &str, limit: Duration, parse: fn(&str) -> Option<T>) -> Result<Option<T>, LookupError> {
    if !entry::may_be_name(key) {
        return Ok(None);
    }
    let deadline = Instant::now() + limit;
    match getent::run(Path::new("/usr/bin/getent"), &["getent", database, key], deadline)? {
        getent::Answer::Late => Err(LookupError::Late(limit)),
        getent::Answer::Ended(Exit::Code(0), text) => match text.lines().next().and_then(parse) {
            Some(entry) => Ok(Some(entry)),
            None => Err(LookupError::Odd(key.to_owned())),
        },
        getent::Answer::Ended(Exit::Code(2), _) => Ok(None), // getent(1): a key was not found
        getent::Answer::Ended(exit, _) => Err(LookupError::Failed(exit)),
    }
}

fn null(write: bool) -> io::Result<OwnedFd> {
    Ok(File::options().read(!write).write(write).open("/dev/null")?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    #[test]
    fn root_is_in_the_files_and_known_to_the_host() {
        let in_files = user_in_files("root").expect("read").expect("root");
        assert_eq!((in_files.uid, in_files.gid), (0, 0));
        assert_eq!(user("root", LIMIT).expect("getent"), Some(in_files.clone()));
        assert_eq!(user_by_id(0, LIMIT).expect("getent"), Some(in_files));
        assert_eq!(group_in_files("root").expect("read").expect("root").gid, 0);
        assert_eq!(group("root", LIMIT).expect("getent").expect("root").gid, 0);
        assert_eq!(group_by_id(0, LIMIT).expect("getent").expect("root").name, "root");
    }

    #[test]
    fn who_does_not_exist_is_no_error() {
        assert_eq!(user_in_files("nobody-such").expect("read"), None);
        assert_eq!(user("nobody-such", LIMIT).expect("getent"), None);
        assert_eq!(group("nobody-such", LIMIT).expect("getent"), None);
        assert_eq!(user_by_id(3_999_999_999, LIMIT).expect("getent"), None);
        assert_eq!(group_by_id(3_999_999_999, LIMIT).expect("getent"), None);
    }

    #[test]
    fn a_number_is_not_a_name() {
        assert_eq!(user("0", LIMIT).expect("getent"), None);
        assert_eq!(group("0", LIMIT).expect("getent"), None);
    }

    #[test]
    fn what_cannot_be_a_name_is_not_asked() {
        for odd in ["", "-V", "a:b", "a\nb", "a\0b"] {
            assert_eq!(user(odd, Duration::ZERO).expect("not asked"), None, "{odd:?}");
        }
    }
}
