//! Every step of a VM's start is made to fail, by what can happen to it on a host: the caller hears why, the daemon goes on
//! and serves other VMs, and nothing is left. Counted after each of a hundred faults of a step.
//!
//! Two steps can't be made to fail from outside, as nothing of them has a name: the exec of a process, by a descriptor that
//! was opened at the daemon's start (`row_2_11_exec_failure_is_eio_and_leaves_nothing`), and the making of a machine with a
//! /dev/kvm that was opened then too (`a_kvm_that_is_none_fails_the_start_and_is_named`).
#![forbid(unsafe_code)]

mod cards;
mod count;
mod cycle;
mod files;
mod hold;
mod kills;
mod late;
mod limits;
mod members;
mod messages;
mod scarce;
mod steps;
mod world;

use testkit::apart::with_idle_guests;
use testkit::machine::on_kvm;
use world::{Kind, World};

/// A machine with a daemon, to which these faults happen, and on which nothing is left in the end.
fn faults(test: &str, switches: &str, kinds: &[Kind], each: &[fn(&mut World)]) {
    on_kvm(test, || {
        scarce::own_ptys();
        let mut world = World::new(switches, kinds);
        each.iter().for_each(|faults| faults(&mut world));
        world.end();
    });
}

#[test]
fn a_fault_of_a_file_or_a_card_fails_its_start_alone_and_leaves_nothing() {
    let name = "a_fault_of_a_file_or_a_card_fails_its_start_alone_and_leaves_nothing";
    faults(name, cards::SWITCH, &cards::KINDS, &[cards::all, files::all]);
}

#[test]
fn a_process_or_a_descriptor_that_is_lost_fails_its_start_alone_and_leaves_nothing() {
    let name = "a_process_or_a_descriptor_that_is_lost_fails_its_start_alone_and_leaves_nothing";
    faults(name, "", &[], &[members::all, steps::descriptors]);
}

#[test]
fn a_host_without_room_fails_a_start_alone_and_leaves_nothing() {
    faults("a_host_without_room_fails_a_start_alone_and_leaves_nothing", "", &[], &[scarce::all]);
}

#[test]
fn a_start_that_hangs_ends_at_its_deadline_and_leaves_nothing() {
    faults("a_start_that_hangs_ends_at_its_deadline_and_leaves_nothing", "", &late::KINDS, &[late::all]);
}

#[test]
fn kill_9_at_any_moment_leaves_guests_running_and_the_daemon_serving() {
    let test = "kill_9_at_any_moment_leaves_guests_running_and_the_daemon_serving";
    faults(test, kills::AGENTX, &[], &[kills::survived]);
}

#[test]
fn kill_9_of_vmm_or_the_parent_ends_all_vms_and_leaves_nothing() {
    on_kvm("kill_9_of_vmm_or_the_parent_ends_all_vms_and_leaves_nothing", kills::the_end);
}

/// A life cycle killed at each of its messages takes long in an emulated machine.
const LIMIT_S: u32 = 2400;

#[test]
fn kill_9_of_control_or_priv_at_each_message_leaves_guests_running() {
    let name = "kill_9_of_control_or_priv_at_each_message_leaves_guests_running";
    with_idle_guests(name, LIMIT_S, messages::of_roles);
}

#[test]
fn kill_9_of_a_client_at_each_message_leaves_guests_running() {
    with_idle_guests("kill_9_of_a_client_at_each_message_leaves_guests_running", LIMIT_S, messages::of_clients);
}

#[test]
fn kill_9_of_vmm_at_each_message_ends_all_vms_and_leaves_nothing() {
    let name = "kill_9_of_vmm_at_each_message_ends_all_vms_and_leaves_nothing";
    with_idle_guests(name, LIMIT_S, || messages::of_the_end("vmm"));
}

#[test]
fn kill_9_of_the_parent_at_each_message_ends_all_vms_and_leaves_nothing() {
    let name = "kill_9_of_the_parent_at_each_message_ends_all_vms_and_leaves_nothing";
    with_idle_guests(name, LIMIT_S, || messages::of_the_end("parent"));
}
