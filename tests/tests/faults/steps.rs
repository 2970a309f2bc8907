//! A start that is given one thing more each time, so that each of its steps is the first that fails.

use std::collections::BTreeSet;

use rustix::process::Resource;
use testkit::daemon::Reply;

use crate::hold::{At, Hold};
use crate::limits::{Limited, full};
use crate::world::{ROUNDS, World, answer, begin};

/// From nothing until a start goes well, then again, for so many rounds. At least so many steps fail, each with one of
/// these words.
pub fn step_by_step(
    world: &mut World,
    fault: &str,
    rounds: usize,
    least: u64,
    words: &[&str],
    mut start: impl FnMut(&mut World, &str, u64) -> Reply,
) {
    let (mut step, mut steps) = (0, None);
    let mut heard = BTreeSet::new();
    world.rounds((fault, "vm"), rounds, |world, name| {
        let reply = start(world, name, step);
        if reply.status == Some(0) {
            world.stop(name);
            steps = Some(step);
            step = 0;
            return;
        }
        let known = words.iter().any(|words| reply.stderr.contains(words));
        assert!(reply.status == Some(1) && known, "{fault}: step {step}: {reply:?}");
        heard.insert(reply.stderr.splitn(3, ": ").nth(2).unwrap_or_default().trim().to_owned());
        step += 1;
    });
    println!("{fault}: {steps:?} steps: {heard:#?}");
    assert!(steps.is_some_and(|steps| steps >= least), "{fault}: only {steps:?} steps failed before one went well");
    world.serves(fault);
}

/// The tables of descriptors share the rounds of this fault.
pub fn descriptors(world: &mut World) {
    of_vmm(world);
    of_the_vm(world);
    of_the_parent(world);
}

fn of_vmm(world: &mut World) {
    let vmm = world.role("vmm");
    let words = ["Too many open files", "vmm has no descriptor free for what the start brings"];
    step_by_step(world, "a descriptor that vmm can't have", ROUNDS / 2, 12, &words, |world, name, step| {
        let _few = Limited::softly(vmm, Resource::Nofile, full(vmm) + step);
        world.start(name)
    });
}

/// It is held where it reads the kernel, so it has what it came with, its machine and its memory, and raises no limit any more.
fn of_the_vm(world: &mut World) {
    let mut hold = Hold::new(At::Read, &world.files("vm").kernel, "vmd: vm ");
    let fault = "a descriptor that the vm process can't have";
    step_by_step(world, fault, ROUNDS / 2, 10, &["Too many open files"], |_, name, step| {
        hold.arm();
        let start = begin(name);
        let vm = hold.caught();
        let few = Limited::softly(vm, Resource::Nofile, full(vm) + step);
        hold.let_go();
        let reply = answer(start);
        drop(few);
        reply
    });
}

fn of_the_parent(world: &mut World) {
    let parent = world.daemon.process();
    let words = ["Too many open files", "vmd may have no more descriptors"];
    step_by_step(world, "a descriptor that the parent can't have", ROUNDS / 2, 15, &words, |world, name, step| {
        let _few = Limited::softly(parent, Resource::Nofile, full(parent) + step);
        world.start(name)
    });
}
