//! The Landlock domain of a promise: which names it can still use, whom it can signal.
//!
//! As much as the kernel knows is enforced: files since Linux 5.13, TCP since 6.7, signals and abstract sockets to
//! the outside since 6.12. A domain is inherited by all that a process starts.

use std::os::fd::OwnedFd;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, PathBeneath, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetError, RulesetStatus, Scope,
};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;

use crate::promise::{Access, File};

/// The newest rules that are asked for; an older kernel enforces those it knows.
const NEWEST: ABI = ABI::V6;

/// A rule with its object opened, while it still had a name.
#[derive(Debug)]
pub struct Rule {
    object: OwnedFd,
    access: Access,
}

/// Opens what the rules name.
pub fn open_rules(files: &[(File, Access)]) -> Result<Vec<Rule>, Errno> {
    let mut rules = Vec::new();
    for (file, access) in files {
        let held = format!("/proc/self/fd/{}", sys::ipv6::NUMBER);
        let path = match file {
            File::OwnExecutable => "/proc/self/exe",
            File::Everything => "/",
            File::Ipv6Settings => held.as_str(),
        };
        match open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
            Ok(object) => rules.push(Rule { object, access: *access }),
            Err(Errno::NOENT) if *file == File::Ipv6Settings => {}
            Err(error) => return Err(error),
        }
    }
    Ok(rules)
}

/// Enters the domain. `false`: this kernel has no Landlock.
pub fn restrict(rules: Vec<Rule>) -> Result<bool, RulesetError> {
    let mut ruleset = Ruleset::default()
        .handle_access(handled(&rules))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?;
    for rule in rules {
        ruleset = ruleset.add_rule(PathBeneath::new(rule.object, granted(rule.access)))?;
    }
    Ok(ruleset.restrict_self()?.ruleset != RulesetStatus::NotEnforced)
}

/// The rights that the domain denies where no rule grants them.
fn handled(rules: &[Rule]) -> BitFlags<AccessFs> {
    let all = AccessFs::from_all(NEWEST);
    if rules.iter().any(|rule| rule.access == Access::ReadWrite) {
        // These two are noted in the open file and go with it to whom it is handed: a vioblk must be able to make
        // an image longer and to ask a block device for its size. The opener itself has no such system call.
        return all & !(AccessFs::Truncate | AccessFs::IoctlDev);
    }
    all
}

fn granted(access: Access) -> BitFlags<AccessFs> {
    match access {
        Access::Execute => AccessFs::Execute | AccessFs::ReadFile, // exec opens for reading too
        Access::ReadWrite => AccessFs::ReadFile | AccessFs::WriteFile,
    }
}
