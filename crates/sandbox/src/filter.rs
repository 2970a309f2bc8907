//! From a promise to its seccomp programs: the union over everything that inherits it, then BPF.
//!
//! Two programs, because one has a single answer to what it does not allow: `allow` kills the process for a call
//! outside the promise, `refuse` answers ENOSYS to the few calls that libc tries first and can do without.
//! The kernel takes the strictest answer of all programs, so a child's can only take away.

use std::collections::BTreeMap;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

use crate::calls::{Argument, Call, EMPTY_ROOT, ENTER, Group, JOIN_USERS, LOOK_UP, SEAL, SETIDS, START};
use crate::promise::{Promise, ROLES, Root};

/// The compiled programs of one promise, in the order in which they are installed.
#[derive(Debug)]
pub struct Filters {
    /// ENOSYS for what is refused, if anything is.
    pub refuse: Option<BpfProgram>,
    /// Death for all that is not allowed.
    pub allow: BpfProgram,
}

/// Every call that `promise` must let pass: its own, those of its second stage, and those of the roles it starts
/// from their exec on. A call stands once, and without conditions where anything allows it so.
pub fn allowed(promise: &Promise) -> Vec<Call> {
    let mut calls = Vec::new();
    collect(promise, &mut calls);
    simplify(&calls)
}

/// The groups of a role: its own, and those that it needs to enter its promise if it inherits a filter.
pub fn groups(promise: &'static Promise) -> impl Iterator<Item = &'static Group> + use<> {
    let starter = ROLES.into_iter().find(|starter| starter.starts.iter().any(|child| child.name == promise.name));
    promise.calls.iter().chain(starter.into_iter().flat_map(|_| entry(promise)))
}

/// The calls that a child makes between exec and its own filter.
fn entry(child: &Promise) -> impl Iterator<Item = &'static Group> + use<> {
    let groups: &[&Group] = match child.root {
        Root::Inherited => &[&START, &ENTER, &SEAL],
        Root::Host | Root::Empty => &[&START, &ENTER, &SEAL, &LOOK_UP, &EMPTY_ROOT, &SETIDS],
    };
    let joins = !child.keeps_inside.is_empty();
    groups.iter().copied().chain(joins.then_some(&JOIN_USERS))
}

impl Filters {
    /// Compiles the promise for the process with id `own_pid`.
    pub fn compile(promise: &Promise, own_pid: u32) -> Result<Self, BackendError> {
        let (refused, passed): (Vec<Call>, Vec<Call>) = allowed(promise).into_iter().partition(|call| call.refused);
        // A refused call passes the killing program, so that the refusing one answers.
        let all: Vec<Call> = passed.iter().chain(&refused).copied().collect();
        let allow = program(&all, own_pid, SeccompAction::KillProcess, SeccompAction::Allow)?;
        let refuse = if refused.is_empty() {
            None
        } else {
            Some(program(&refused, own_pid, SeccompAction::Allow, SeccompAction::Errno(libc::ENOSYS as u32))?)
        };
        Ok(Self { refuse, allow })
    }
}

fn calls_of(group: &Group) -> impl Iterator<Item = Call> + use<> {
    group.calls.iter().copied()
}

fn collect(promise: &Promise, calls: &mut Vec<Call>) {
    calls.extend(promise.calls.iter().flat_map(calls_of));
    if let Some(then) = promise.then {
        calls.extend(calls_of(&SEAL));
        collect(then, calls);
    }
    for child in promise.starts {
        calls.extend(entry(child).flat_map(calls_of));
        calls.extend(allowed(child).into_iter().map(of_any_process));
    }
}

/// A starter can't know its child's process id.
fn of_any_process(mut call: Call) -> Call {
    for condition in &mut call.when {
        if matches!(condition, Some(Argument::OwnPid { .. })) {
            *condition = None;
        }
    }
    call
}

fn unconditional(call: &Call) -> bool {
    call.when.iter().all(Option::is_none)
}

fn simplify(calls: &[Call]) -> Vec<Call> {
    let mut kept: Vec<Call> = Vec::new();
    for call in calls {
        let same = || calls.iter().filter(|other| other.number == call.number && !other.refused);
        let needless =
            if call.refused { same().next().is_some() } else { !unconditional(call) && same().any(unconditional) };
        if !needless && !kept.iter().any(|other| other.is_same(call)) {
            kept.push(*call);
        }
    }
    kept
}

fn program(
    calls: &[Call],
    own_pid: u32,
    otherwise: SeccompAction,
    matched: SeccompAction,
) -> Result<BpfProgram, BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for call in calls {
        let chain = rules.entry(call.number).or_default();
        let conditions =
            call.when.iter().flatten().map(|argument| condition(*argument, own_pid)).collect::<Result<Vec<_>, _>>()?;
        if !conditions.is_empty() {
            chain.push(SeccompRule::new(conditions)?); // an empty chain is the call without conditions
        }
    }
    SeccompFilter::new(rules, otherwise, matched, TargetArch::x86_64)?.try_into()
}

fn condition(argument: Argument, own_pid: u32) -> Result<SeccompCondition, BackendError> {
    use SeccompCmpArgLen::{Dword, Qword};
    match argument {
        Argument::Bits { index, mask: u32::MAX, value } => {
            SeccompCondition::new(index, Dword, SeccompCmpOp::Eq, value.into())
        }
        Argument::Bits { index, mask, value } => {
            SeccompCondition::new(index, Dword, SeccompCmpOp::MaskedEq(mask.into()), value.into())
        }
        Argument::Null { index } => SeccompCondition::new(index, Qword, SeccompCmpOp::Eq, 0),
        Argument::OwnPid { index } => SeccompCondition::new(index, Dword, SeccompCmpOp::Eq, own_pid.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::promise::{PARENT, VIOBLK, VM, VMM};

    /// Whether `calls` lets pass all that `wanted` needs: the same call, or the same number without conditions.
    fn passes(calls: &[Call], wanted: &Call) -> bool {
        let wanted = of_any_process(*wanted);
        calls.iter().any(|call| {
            call.number == wanted.number
                && (wanted.refused || !call.refused)
                && (unconditional(call) || call.when == wanted.when || of_any_process(*call).when == wanted.when)
        })
    }

    fn second_stages() -> impl Iterator<Item = (&'static Promise, &'static Promise)> {
        ROLES.into_iter().filter_map(|promise| promise.then.map(|then| (promise, then)))
    }

    #[test]
    fn a_starter_lets_pass_all_that_its_children_promise() {
        for starter in ROLES {
            let own = allowed(starter);
            for child in starter.starts {
                for call in allowed(child) {
                    assert!(passes(&own, &call), "{} starts {}: {call:?}", starter.name, child.name);
                }
            }
        }
    }

    #[test]
    fn a_starter_lets_pass_what_its_children_need_to_enter() {
        for starter in ROLES {
            let own = allowed(starter);
            for child in starter.starts {
                for call in entry(child).flat_map(calls_of) {
                    assert!(passes(&own, &call), "{} starts {}: {call:?}", starter.name, child.name);
                }
            }
        }
    }

    #[test]
    fn a_starter_has_at_least_the_limits_of_its_children() {
        for starter in ROLES {
            for child in starter.starts {
                assert!(starter.limits.descriptors >= child.limits.descriptors, "{}", child.name);
                assert!(starter.limits.grows_files || !child.limits.grows_files, "{}", child.name);
            }
        }
    }

    #[test]
    fn a_starter_has_the_capabilities_that_its_children_keep() {
        for child in PARENT.starts {
            assert!(PARENT.keeps.contains(child.keeps), "{}", child.name);
        }
        for child in VMM.starts {
            assert!(child.keeps.is_empty(), "{}", child.name);
        }
    }

    #[test]
    fn a_second_stage_only_takes_away() {
        assert_eq!(second_stages().count(), 4);
        for (promise, then) in second_stages() {
            let (before, after) = (allowed(promise), allowed(then));
            assert!(after.len() < before.len(), "{}", promise.name);
            assert!(after.iter().all(|call| passes(&before, call)), "{}", promise.name);
            assert!(promise.keeps.contains(then.keeps), "{}", promise.name);
        }
    }

    #[test]
    fn what_a_child_is_allowed_is_not_refused_by_its_starter() {
        let clone3 = |promise| allowed(promise).into_iter().find(|call| call.number == libc::SYS_clone3);
        assert!(clone3(&VM).expect("listed").refused);
        assert!(!clone3(&VMM).expect("listed").refused, "vmm itself makes processes by it");
    }

    #[test]
    fn a_call_without_conditions_stands_alone() {
        let kill: Vec<Call> = allowed(&VMM).into_iter().filter(|call| call.number == libc::SYS_tgkill).collect();
        assert_eq!(kill.len(), 1, "{kill:?}");
        assert!(kill.iter().all(unconditional), "vmm can't know the ids of its children");
        let own: Vec<Call> = allowed(&VIOBLK).into_iter().filter(|call| call.number == libc::SYS_tgkill).collect();
        assert!(!own.iter().any(unconditional));
    }

    /// BPF_MAXINSNS (linux/bpf_common.h).
    const MAX_INSTRUCTIONS: usize = 4096;

    #[test]
    fn every_promise_compiles_within_the_kernels_limit() {
        for promise in ROLES.into_iter().chain(second_stages().map(|(_, then)| then)) {
            let filters = Filters::compile(promise, 1).expect("compiles");
            assert!(filters.allow.len() < MAX_INSTRUCTIONS, "{}", promise.name);
        }
    }

    /// KVM_RUN is the one call on a guest's path: its filter reads few lines of the ioctls.
    #[test]
    fn a_vcpu_is_first_among_the_ioctls() {
        for promise in [&VM, &crate::promise::VM_RUNNING] {
            let first = allowed(promise).into_iter().find(|call| call.number == libc::SYS_ioctl).expect("ioctls");
            assert_eq!(
                first.when.first().copied().flatten(),
                Some(Argument::Bits { index: 1, mask: u32::MAX, value: 0xAE80 })
            );
        }
    }
}
