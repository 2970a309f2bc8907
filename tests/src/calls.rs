//! Which system calls a promise allows that no run ever made: what `scripts/count-calls` counted, beside the promises.
//!
//! A call is seen if the role made it, with the arguments that its promise asks for where the kernel was told to tell them
//! apart. What a process does before it enters its promise counts too. A refused call is never counted, and none is allowed.

use std::collections::{BTreeMap, BTreeSet};

use sandbox::calls::{Argument, Call, Made};
use sandbox::promise::ROLES;

/// The events that tell arguments: their names, the call, and which of its arguments.
const DETAILED: [(&str, i64, &[u8]); 6] = [
    ("ioctl", libc::SYS_ioctl, &[1]),
    ("fcntl", libc::SYS_fcntl, &[1]),
    ("prctl", libc::SYS_prctl, &[0]),
    ("socket", libc::SYS_socket, &[0, 2]),
    ("getsockopt", libc::SYS_getsockopt, &[1, 2]),
    ("setsockopt", libc::SYS_setsockopt, &[1, 2]),
];

/// One call as it was made: its number, and the arguments that are known by their index.
type Seen = (i64, Vec<(u8, u32)>);

/// What each role was seen to make.
#[derive(Debug, Default)]
pub struct Counts(BTreeMap<String, BTreeSet<Seen>>);

impl Counts {
    /// Adds what one machine counted: lines of `ROLE-EVENT KEY... HITS`.
    pub fn add(&mut self, text: &str) -> Result<(), String> {
        for line in text.lines() {
            let (role, seen) = parsed(line).ok_or_else(|| format!("not a count: \"{line}\""))?;
            self.0.entry(role).or_default().insert(seen);
        }
        Ok(())
    }

    fn made(&self, role: &str, call: &Call) -> bool {
        let told: &[u8] = DETAILED.iter().find(|detailed| detailed.1 == call.number).map_or(&[], |detailed| detailed.2);
        let holds = |arguments: &[(u8, u32)]| {
            call.when.iter().flatten().all(|condition| match condition {
                Argument::Bits { index, mask, value } => arguments
                    .iter()
                    .find(|argument| argument.0 == *index)
                    .is_none_or(|argument| argument.1 & mask == *value),
                Argument::Null { .. } | Argument::OwnPid { .. } => true,
            })
        };
        let of_role = self.0.get(role).into_iter().flatten();
        of_role
            .into_iter()
            .any(|(number, arguments)| *number == call.number && arguments.len() == told.len() && holds(arguments))
    }

    /// What is allowed, was not made, and is not explained: `role, group, call` a line.
    pub fn unexplained(&self) -> Vec<String> {
        let mut all = Vec::new();
        for role in ROLES {
            if !self.0.contains_key(role.name) {
                all.push(format!("{}: no such process was seen at all", role.name));
            }
            for group in sandbox::groups(role) {
                let by = |call: &Call| match group.made {
                    Made::ByEach => self.made(role.name, call),
                    Made::BySome(_) => ROLES.iter().any(|role| self.made(role.name, call)),
                    Made::Perhaps(_) => true,
                };
                let calls = group.calls.iter().filter(|call| call.rare.is_none() && !call.refused && !by(call));
                all.extend(calls.map(|call| format!("{}, {}: {}", role.name, group.name, shown(call))));
            }
        }
        all
    }
}

fn parsed(line: &str) -> Option<(String, Seen)> {
    let mut words = line.split_whitespace();
    let (role, event) = words.next()?.split_once("-sys_enter")?;
    let mut keys = words.map(|word| word.parse::<u64>().ok()).collect::<Option<Vec<_>>>()?;
    keys.pop()?; // how often
    let keys: Vec<u32> = keys.into_iter().map(u32::try_from).collect::<Result<_, _>>().ok()?;
    let seen = match event.strip_prefix('_') {
        None => (i64::from(*keys.first().filter(|_| keys.len() == 1)?), Vec::new()),
        Some(event) => {
            let (_, number, indexes) = DETAILED.iter().find(|detailed| detailed.0 == event)?;
            let arguments = indexes.iter().copied().zip(keys.iter().copied()).collect();
            (*number, (keys.len() == indexes.len()).then_some(arguments)?)
        }
    };
    Some((role.to_owned(), seen))
}

/// By its name if this host has a list of them.
fn shown(call: &Call) -> String {
    let list = std::fs::read_to_string("/usr/include/x86_64-linux-gnu/asm/unistd_64.h").unwrap_or_default();
    let end = format!(" {}", call.number);
    let name = list.lines().find_map(|line| line.strip_prefix("#define __NR_")?.strip_suffix(&end));
    let conditions: Vec<String> = call.when.iter().flatten().map(|argument| format!(" {argument:x?}")).collect();
    name.map_or(format!("call {}", call.number), str::to_owned) + &conditions.concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The line that is counted when the role makes that call as its promise says.
    fn line(role: &str, call: &Call) -> String {
        let argument = |index| {
            let wanted = call.when.iter().flatten().find_map(|condition| match condition {
                Argument::Bits { index: at, value, .. } if *at == index => Some(*value),
                _ => None,
            });
            wanted.unwrap_or_default()
        };
        match DETAILED.iter().find(|detailed| detailed.1 == call.number) {
            Some((event, _, indexes)) => {
                let keys: Vec<String> = indexes.iter().map(|index| argument(*index).to_string()).collect();
                format!("{role}-sys_enter_{event} {} 3\n", keys.join(" "))
            }
            None => format!("{role}-sys_enter {} 3\n", call.number),
        }
    }

    fn counts(lines: &[String]) -> Counts {
        let mut counts = Counts::default();
        counts.add(&lines.concat()).expect("counts");
        counts
    }

    /// Each role makes what it may, but for what is rare.
    fn whole() -> Vec<String> {
        let of = |role: &'static sandbox::Promise| {
            let calls = sandbox::groups(role).flat_map(|group| group.calls).filter(|call| call.rare.is_none());
            calls.map(|call| line(role.name, call)).collect::<Vec<_>>()
        };
        ROLES.into_iter().flat_map(of).collect()
    }

    #[test]
    fn where_each_call_was_made_none_is_told() {
        assert_eq!(counts(&whole()).unexplained(), Vec::<String>::new());
    }

    #[test]
    fn a_call_that_its_role_never_made_is_told_for_it_alone() {
        for (role, group) in ROLES.into_iter().flat_map(|role| sandbox::groups(role).map(move |group| (role, group))) {
            let told = |call: &&Call| group.made == Made::ByEach && call.rare.is_none() && !call.refused;
            for call in group.calls.iter().filter(told) {
                let missing = line(role.name, call);
                let lines: Vec<String> = whole().into_iter().filter(|line| *line != missing).collect();
                let told = counts(&lines).unexplained();
                assert!(told.contains(&format!("{}, {}: {}", role.name, group.name, shown(call))), "{told:?}");
                assert!(told.iter().all(|line| line.starts_with(role.name)), "{told:?}");
            }
        }
    }

    #[test]
    fn a_shared_call_needs_one_role_that_makes_it() {
        let sigaltstack = format!("sys_enter {} 3\n", libc::SYS_sigaltstack);
        let mut lines = whole();
        lines.retain(|line| !line.ends_with(&sigaltstack));
        assert_eq!(counts(&lines).unexplained().len(), ROLES.len());
        lines.push(format!("vionet-{sigaltstack}"));
        assert_eq!(counts(&lines).unexplained(), Vec::<String>::new());
    }

    #[test]
    fn a_command_is_told_from_another_by_all_its_bits() {
        let run = 0xAE80_u32.to_string();
        let mut lines = whole();
        lines.retain(|line| !line.starts_with(&format!("vm-sys_enter_ioctl {run} ")));
        assert_eq!(counts(&lines).unexplained().len(), 1, "KVM_RUN");
        lines.push("vm-sys_enter_ioctl 2147528320 1\n".to_owned()); // 0x8000AE80
        assert_eq!(counts(&lines).unexplained().len(), 1, "its number with a size is another");
    }

    #[test]
    fn a_role_that_was_never_seen_is_told() {
        let lines: Vec<String> = whole().into_iter().filter(|line| !line.starts_with("vionet-")).collect();
        assert!(counts(&lines).unexplained().contains(&"vionet: no such process was seen at all".to_owned()));
    }

    #[test]
    fn what_is_no_count_is_refused() {
        for line in
            ["vm-sys_enter", "vm-sys_enter 1", "vm 1 2", "vm-sys_enter_ioctl 1 2 3", "vm-sys_enter_bpf 1 2", "x"]
        {
            assert!(Counts::default().add(line).is_err(), "{line}");
        }
        assert!(Counts::default().add("vm-sys_enter 1 2\nvm-sys_enter_socket 1 0 2\n").is_ok());
    }
}
