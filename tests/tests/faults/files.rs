//! Steps of a start that need a file: opener and lock, probe, loader.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{FlockOperation, fcntl_lock};
use rustix::process::Signal;

use crate::hold::{At, Hold};
use crate::world::{ROUNDS, World, answer, begin, kill};

pub fn all(world: &mut World) {
    a_kernel_that_is_missing(world);
    a_kernel_that_is_a_fifo(world);
    a_disk_that_is_missing(world);
    a_disk_that_another_has_locked(world);
    an_opener_that_is_killed(world);
    a_kernel_that_is_no_kernel(world);
    a_probe_that_is_killed(world);
    a_kernel_that_is_cut_off(world);
    a_kernel_that_is_changed_after_it_was_looked_at(world);
}

/// Each of the five ways in which the opener's step fails.
const OPENER: usize = ROUNDS.div_ceil(5);
/// Each of the two of the probe's, and of the loader's.
const READERS: usize = ROUNDS / 2;

/// A file out of its place, until this is dropped.
struct Aside {
    path: PathBuf,
    aside: PathBuf,
}

impl Aside {
    fn put(path: &Path) -> Self {
        let aside = path.with_extension("aside");
        fs::rename(path, &aside).expect("it is ours");
        Self { path: path.to_path_buf(), aside }
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        fs::rename(&self.aside, &self.path).expect("it is ours");
    }
}

fn a_kernel_that_is_missing(world: &mut World) {
    let gone = Aside::put(&world.files("vm").kernel);
    let words = format!("kernel \"{}\": no such file", gone.path.display());
    world.fails(("a kernel that is missing", "vm"), OPENER, &words, |world, name| world.start(name));
    drop(gone);
    world.serves("a kernel that is missing");
}

fn a_kernel_that_is_a_fifo(world: &mut World) {
    let fifo = Aside::put(&world.files("vm").kernel);
    assert!(Command::new("mkfifo").arg(&fifo.path).status().expect("mkfifo can be run").success());
    let words = format!("kernel \"{}\": is a fifo", fifo.path.display());
    world.fails(("a kernel that is a fifo", "vm"), OPENER, &words, |world, name| world.start(name));
    fs::remove_file(&fifo.path).expect("it is ours");
    drop(fifo);
    world.serves("a kernel that is a fifo");
}

fn a_disk_that_is_missing(world: &mut World) {
    let gone = Aside::put(&world.files("vm").disk);
    let words = format!("disk \"{}\": no such file", gone.path.display());
    world.fails(("a disk that is missing", "vm"), OPENER, &words, |world, name| world.start(name));
    drop(gone);
    world.serves("a disk that is missing");
}

fn a_disk_that_another_has_locked(world: &mut World) {
    let disk = File::options().read(true).write(true).open(world.files("vm").disk).expect("it is ours");
    fcntl_lock(&disk, FlockOperation::NonBlockingLockExclusive).expect("nobody else has it");
    let words = format!("already in use by process {}", std::process::id());
    world.fails(("a disk that is locked", "vm"), OPENER, &words, |world, name| world.start(name));
    drop(disk);
    world.serves("a disk that is locked");
}

fn an_opener_that_is_killed(world: &mut World) {
    let mut hold = Hold::new(At::Open, &world.files("vm").kernel, "vmd: opener");
    let words = "the opener ended before it answered";
    world.fails(("an opener that is killed", "vm"), OPENER, words, |_, name| {
        hold.arm();
        let start = begin(name);
        kill(hold.caught(), Signal::KILL);
        answer(start)
    });
    drop(hold);
    world.serves("an opener that is killed");
}

fn a_kernel_that_is_no_kernel(world: &mut World) {
    let text = Aside::put(&world.files("vm").kernel);
    fs::write(&text.path, "no kernel ".repeat(1000)).expect("it is ours");
    let words = format!("kernel \"{}\": ", text.path.display());
    world.fails(("a kernel that is no kernel", "vm"), READERS, &words, |world, name| world.start(name));
    drop(text);
    world.serves("a kernel that is no kernel");
}

fn a_probe_that_is_killed(world: &mut World) {
    let mut hold = Hold::new(At::Read, &world.files("vm").kernel, "vmd: probe");
    let words = "the probe ended before it answered";
    world.fails(("a probe that is killed", "vm"), READERS, words, |_, name| {
        hold.arm();
        let start = begin(name);
        kill(hold.caught(), Signal::KILL);
        answer(start)
    });
    drop(hold);
    world.serves("a probe that is killed");
}

/// Its headers are right, which is all that the probe reads.
fn a_kernel_that_is_cut_off(world: &mut World) {
    let cut = Aside::put(&world.files("vm").kernel);
    let whole = fs::read(&cut.aside).expect("it is ours");
    fs::write(&cut.path, &whole[..whole.len() - 1]).expect("it is ours");
    world.fails(("a kernel that is cut off", "vm"), READERS, "kernel", |world, name| world.start(name));
    drop(cut);
    world.serves("a kernel that is cut off");
}

fn a_kernel_that_is_changed_after_it_was_looked_at(world: &mut World) {
    let path = world.files("vm").kernel;
    let whole = fs::read(&path).expect("it is ours");
    let mut hold = Hold::new(At::Read, &path, "vmd: vm ");
    world.fails(("a kernel that is changed", "vm"), READERS, "kernel", |_, name| {
        hold.arm();
        let start = begin(name);
        hold.caught();
        fs::write(&path, "changed").expect("it is ours");
        hold.let_go();
        let reply = answer(start);
        fs::write(&path, &whole).expect("it is ours");
        reply
    });
    drop(hold);
    world.serves("a kernel that is changed");
}
