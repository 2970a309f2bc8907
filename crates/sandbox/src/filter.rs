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

use crate::calls::{Argument, Call, EMPTY_ROOT, ENTER, Group, LOOK_UP, SEAL, SETIDS, START};
use crate::promise::{Promise, Root};

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

/// The calls that a child makes between exec and its own filter.
pub fn entry(child: &Promise) -> Vec<Call> {
    let mut groups = vec![START, ENTER, SEAL];
    if child.root != Root::Inherited {
        groups.extend([LOOK_UP, EMPTY_ROOT, SETIDS]);
    }
    groups.iter().flat_map(calls_of).collect()
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
        calls.extend(entry(child));
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
        if !needless && !kept.contains(call) {
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
