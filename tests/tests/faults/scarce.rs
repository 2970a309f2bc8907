//! Steps of a start for which the host has no room: a pty, a cgroup, processes, memory.

use std::fs;
use std::path::Path;
use std::process::Command;

use rustix::process::Resource;

use crate::limits::Limited;
use crate::steps::step_by_step;
use crate::world::{ROUNDS, World};

/// Where the daemon's VMs have their cgroups: on a machine of a test it is started in the root.
const VMS: &str = "/sys/fs/cgroup/vmd/vms";

/// Address space of each process, in bytes: enough for its own, too little for a guest of 64 MiB.
const LITTLE: u64 = 48 << 20;

/// Starts that lack a cgroup go well, and one that goes well takes as long as five that fail.
const GO_WELL: usize = ROUNDS / 5;

pub fn all(world: &mut World) {
    a_pty(world);
    a_cgroup(world);
    a_process_of_the_user(world);
    a_process_of_the_cgroup(world);
    memory(world);
}

/// /dev/pts is this test's own (`own_ptys`).
fn a_pty(world: &mut World) {
    let most = |number: &str| mount(&["-o", &format!("remount,max={number}"), "/dev/pts"]);
    let taken = fs::read_dir("/dev/pts").expect("it is mounted").count() - 1; // without ptmx
    most(&taken.to_string());
    world.fails(("a pty that can't be had", "vm"), ROUNDS, "open a pty for the console", |world, name| {
        world.start(name)
    });
    most("1024");
    world.serves("a pty that can't be had");
}

/// A new instance of devpts, with which nobody else has terminals. Before the daemon is started.
pub fn own_ptys() {
    mount(&["-t", "devpts", "-o", "newinstance,ptmxmode=0666,max=1024", "devpts", "/dev/pts"]);
}

fn mount(arguments: &[&str]) {
    let done = Command::new("mount").arg("-n").args(arguments).status().expect("mount can be run");
    assert!(done.success(), "mount {arguments:?}");
}

/// It does without (see the daemon's `host.rs`): its processes are held by their pidfds.
fn a_cgroup(world: &mut World) {
    let most = |number: &str| write("cgroup.max.descendants", number);
    most("0");
    world.rounds(("a cgroup that can't be made", "vm"), GO_WELL, |world, name| {
        world.start(name).success();
        assert!(world.daemon.log().contains("its processes are tracked by their pidfds alone"));
        world.stop(name);
    });
    most("max");
    world.serves("a cgroup that can't be made");
}

fn write(file: &str, text: &str) {
    fs::write(Path::new(VMS).join(file), text).unwrap_or_else(|error| panic!("{file} of {VMS}: {error}"));
}

/// vionet, vioblk and vm, then the vm's threads.
const NO_PROCESS: &[&str] = &["Resource temporarily unavailable"];

/// A VM's user has its processes alone. vmm's has, in the user namespace of VMs, vmm and for a moment the process that it makes.
fn a_process_of_the_user(world: &mut World) {
    let vmm = world.role("vmm");
    let fault = "a process that the user can't have";
    step_by_step(world, fault, ROUNDS / 2, 4, NO_PROCESS, |world, name, step| {
        let _few = Limited::firmly(vmm, Resource::Nproc, 1 + step);
        world.start(name)
    });
}

fn a_process_of_the_cgroup(world: &mut World) {
    let current = fs::read_to_string(Path::new(VMS).join("pids.current")).expect("the pids controller is there");
    let tasks: u64 = current.trim().parse().expect("a number");
    step_by_step(world, "a process that the cgroup can't have", ROUNDS / 2, 4, NO_PROCESS, |world, name, step| {
        write("pids.max", &(tasks + step).to_string());
        let reply = world.start(name);
        write("pids.max", "max");
        reply
    });
}

fn memory(world: &mut World) {
    let vmm = world.role("vmm");
    let words = "could not allocate guest memory";
    world.fails(("memory that can't be had", "vm"), ROUNDS, words, |world, name| {
        let _little = Limited::softly(vmm, Resource::As, LITTLE);
        world.start(name)
    });
    world.serves("memory that can't be had");
}
