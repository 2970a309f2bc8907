//! Users, groups and files that vm.conf names, as the host has them. Names are asked of getent(1), with a deadline.

pub mod names;

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use config::{AccountNames, Users};
use model::Owner;

use super::network::ifgroups;
use names::Names;

/// A directory server has this long to answer for one name.
const LOOKUP_LIMIT: Duration = Duration::from_secs(10);

/// And this long while VMs run: the daemon waits meanwhile.
const LOOKUP_LIMIT_OF_RUNNING: Duration = Duration::from_secs(1);

/// Bytes of one file of a configuration: some 100,000 VMs. More is something else, a device without end perhaps.
const MAX_TEXT: u64 = 64 << 20;

/// Bytes of a small file of the host's.
const MAX_HOST_TEXT: u64 = 64 << 10;

/// Opening a pipe that has no writer does not wait.
const NONBLOCK: i32 = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();

/// Reads one file of a configuration whole.
pub fn read_text(path: &Path) -> io::Result<Vec<u8>> {
    read_whole(File::open(path)?)
}

/// The same of what can't make the daemon wait: no pipe, which may have no writer.
pub fn read_at_once(path: &Path) -> io::Result<Vec<u8>> {
    let file = File::options().read(true).custom_flags(NONBLOCK).open(path)?;
    if file.metadata()?.file_type().is_fifo() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "is a pipe; name a file"));
    }
    read_whole(file)
}

fn read_whole(file: File) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    let read = file.take(MAX_TEXT + 1).read_to_end(&mut text)?;
    if u64::try_from(read).is_ok_and(|read| read <= MAX_TEXT) {
        return Ok(text);
    }
    Err(io::Error::new(
        io::ErrorKind::FileTooLarge,
        format!("more than {} MiB: too large for a configuration", MAX_TEXT >> 20),
    ))
}

/// The host's own files and accounts.
#[derive(Debug)]
pub struct HostAccounts;

impl Users for HostAccounts {
    fn uid(&self, user: &str) -> io::Result<Option<u32>> {
        let found = sys::users::user(user, LOOKUP_LIMIT).map_err(io::Error::other)?;
        Ok(found.map(|user| user.uid))
    }

    fn gid(&self, group: &str) -> io::Result<Option<u32>> {
        let found = sys::users::group(group, LOOKUP_LIMIT).map_err(io::Error::other)?;
        Ok(found.map(|group| group.gid))
    }

    fn interface_group(&self, group: &str) -> io::Result<Option<u32>> {
        for path in ifgroups::FILES {
            match read_some(path) {
                Ok(text) => return Ok(ifgroups::number_of(&text, group)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(io::Error::new(error.kind(), format!("{path}: {error}"))),
            }
        }
        Ok(None)
    }
}

/// The beginning of a small file of the host's: what lies behind is no more than a mistake.
pub fn read_some(path: &str) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    let file = File::options().read(true).custom_flags(NONBLOCK).open(path)?;
    file.take(MAX_HOST_TEXT).read_to_end(&mut text)?;
    Ok(text)
}

impl AccountNames for HostAccounts {
    fn user(&self, uid: u32) -> Option<String> {
        sys::users::user_by_id(uid, LOOKUP_LIMIT).ok().flatten().map(|user| user.name)
    }

    fn group(&self, gid: u32) -> Option<String> {
        sys::users::group_by_id(gid, LOOKUP_LIMIT).ok().flatten().map(|group| group.name)
    }
}

impl Names for HostAccounts {
    fn owner(&mut self, owner: Owner) -> String {
        owner_name(owner, LOOKUP_LIMIT)
    }
}

/// What users call an owner, asked while VMs run.
pub fn owner_name_at_once(owner: Owner) -> String {
    owner_name(owner, LOOKUP_LIMIT_OF_RUNNING)
}

/// `user[:group]`; an owner without a name is a number.
fn owner_name(owner: Owner, limit: Duration) -> String {
    let user = sys::users::user_by_id(owner.uid, limit).ok().flatten();
    let user = user.map_or_else(|| owner.uid.to_string(), |user| user.name);
    let Some(gid) = owner.gid else { return user };
    let group = sys::users::group_by_id(gid, limit).ok().flatten();
    format!("{user}:{}", group.map_or_else(|| gid.to_string(), |group| group.name))
}

/// Random bytes.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()); // some bytes are never short
    bytes
}

/// Seven random bytes, the same ones each time in the daemon's life.
pub fn drawn() -> [u8; 7] {
    static DRAWN: OnceLock<[u8; 7]> = OnceLock::new();
    *DRAWN.get_or_init(random)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_is_told_by_names_and_one_without_by_numbers() {
        assert_eq!(HostAccounts.owner(Owner { uid: 0, gid: Some(0) }), "root:root");
        assert_eq!(HostAccounts.owner(Owner { uid: 0, gid: None }), "root");
        let nobody = Owner { uid: 3_999_999_999, gid: Some(3_999_999_998) };
        assert_eq!(HostAccounts.owner(nobody), "3999999999:3999999998");
    }
}
