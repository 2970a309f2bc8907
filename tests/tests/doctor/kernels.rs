//! Hosts whose kernel lacks or forbids something. A filter of system calls stands for the kernel, as a container's does: the
//! calls fail in earnest, for vmctl and for the vmd that it runs. The firewall is one of the test's own network.

use std::collections::BTreeMap;
use std::process::Command;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

use crate::world::{PROGRAMS, Report, changes, faulty, faulty_for, run, sound, vmctl};

/// From now on this call fails so in this thread, and in all that it starts. With an argument: only where its second is that.
pub fn forbid(call: i64, argument: Option<u64>, errno: i32) {
    let errno = SeccompAction::Errno(errno.unsigned_abs());
    let only = |value| {
        let is = SeccompCondition::new(1, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, value).expect("a condition");
        SeccompRule::new(vec![is]).expect("a rule")
    };
    let rules = BTreeMap::from([(call, argument.map(only).into_iter().collect())]);
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, errno, TargetArch::x86_64).expect("a filter");
    seccompiler::apply_filter(&BpfProgram::try_from(filter).expect("a program")).expect("a filter can be set");
}

#[test]
fn a_kernel_without_landlock() {
    let expected = [("landlock", "warning", "none: Operation not supported"), ("landlock", "warning", "lsm=")];
    faulty("kernels::a_kernel_without_landlock", &expected, || {
        forbid(libc::SYS_landlock_create_ruleset, None, libc::EOPNOTSUPP);
    });
}

#[test]
fn a_kernel_without_filters_of_system_calls() {
    let expected = [("seccomp", "fault", "no filters of system calls: Function not implemented")];
    faulty("kernels::a_kernel_without_filters_of_system_calls", &expected, || {
        forbid(libc::SYS_seccomp, None, libc::ENOSYS);
    });
}

#[test]
fn a_container_that_forbids_rings() {
    let expected = [("io-uring", "note", "no ring: Operation not permitted")];
    faulty("kernels::a_container_that_forbids_rings", &expected, || {
        forbid(libc::SYS_io_uring_setup, None, libc::EPERM);
    });
}

#[test]
fn a_firewall_whose_policy_is_drop() {
    let chain = "chain FORWARD of table ip filter drops packets from guests on local interfaces";
    faulty("kernels::a_firewall_whose_policy_is_drop", &[("firewall", "warning", chain)], || {
        run("nft 'add table ip filter; \
             add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }'");
    });
}

/// docker leaves a place for others' rules, which vmd uses.
#[test]
fn a_firewall_with_a_way_through_is_no_fault() {
    sound("kernels::a_firewall_with_a_way_through_is_no_fault", || {
        let before = Report::of(&mut vmctl());
        run("nft 'add table ip filter; add chain ip filter DOCKER-USER; \
             add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }'");
        let after = Report::of(&mut vmctl());
        changes(&before, &after, &[("firewall", "ok", "chain FORWARD of table ip filter (by DOCKER-USER)")]);
    });
}

/// Started without the right to raise its limits, as in a container or by a careless script.
fn with_descriptors(number: u32) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set", "-sys_resource", "--inh-caps", "-sys_resource", "--", "prlimit"]);
    command.args([format!("--nofile={number}:{number}"), "--".to_owned(), format!("{PROGRAMS}/vmctl")]);
    command
}

#[test]
fn a_limit_of_descriptors_that_is_too_low() {
    let expected =
        [("descriptors", "fault", "limits 100 and 100"), ("descriptors", "fault", "vmd can have 100, too few")];
    let test = "kernels::a_limit_of_descriptors_that_is_too_low";
    faulty_for(test, &expected, vmctl, || with_descriptors(100));
}

#[test]
fn a_limit_of_descriptors_for_few_vms() {
    let expected = [("descriptors", "warning", "vmd can have 1024, and wants 65536")];
    let test = "kernels::a_limit_of_descriptors_for_few_vms";
    faulty_for(test, &expected, vmctl, || with_descriptors(1024));
}
