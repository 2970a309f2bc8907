//! The host that the test configurations speak of: a few accounts, a few files to include, and all paths but those
//! below `/nonexistent`.

use std::io;
use std::path::{Path, PathBuf};

use config::{AccountNames, Sources, Users};

pub struct World;

const USERS: &[(&str, u32)] = &[("root", 0), ("joe", 1000), ("ann", 1001)];
const INTERFACE_GROUPS: &[(&str, u32)] = &[("default", 0), ("g", 7), ("dmz", 1000), ("inside", 1001)];
const GROUPS: &[(&str, u32)] = &[("wheel", 0), ("operator", 5), ("staff", 20)];

impl Sources for World {
    fn include(&self, path: &Path) -> io::Result<Vec<u8>> {
        match path.to_str() {
            Some("/etc/vm.d/one.conf") => Ok(b"inner = \"/var/one\"\nswitch one { interface br1 }".to_vec()),
            Some("/etc/vm.d/wrong.conf") => Ok(b"# first line\nvm \"w\" {\n\tmemory 512\n}\n".to_vec()),
            Some("/etc/vm.d/quote.conf") => Ok(b"vm \"open".to_vec()),
            Some("/etc/vm.d/self.conf") => Ok(b"include \"/etc/vm.d/self.conf\"\n".to_vec()),
            Some(_) | None => Err(io::Error::from_raw_os_error(2)),
        }
    }

    fn resolve(&self, path: &Path) -> io::Result<PathBuf> {
        match path.starts_with("/nonexistent") || path.to_string_lossy().starts_with('~') {
            true => Err(io::Error::from_raw_os_error(2)),
            false => Ok(Path::new("/here").join(path)),
        }
    }
}

impl Users for World {
    fn uid(&self, user: &str) -> io::Result<Option<u32>> {
        match user {
            "slow" => Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in 5 s")),
            _ => Ok(USERS.iter().find(|(name, _)| *name == user).map(|(_, id)| *id)),
        }
    }

    fn gid(&self, group: &str) -> io::Result<Option<u32>> {
        Ok(GROUPS.iter().find(|(name, _)| *name == group).map(|(_, id)| *id))
    }

    fn interface_group(&self, group: &str) -> io::Result<Option<u32>> {
        match group {
            "slow" => Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in 5 s")),
            _ => Ok(INTERFACE_GROUPS.iter().find(|(name, _)| *name == group).map(|(_, id)| *id)),
        }
    }
}

impl AccountNames for World {
    fn user(&self, uid: u32) -> Option<String> {
        USERS.iter().find(|(_, id)| *id == uid).map(|(name, _)| (*name).to_owned())
    }

    fn group(&self, gid: u32) -> Option<String> {
        GROUPS.iter().find(|(_, id)| *id == gid).map(|(name, _)| (*name).to_owned())
    }
}
