//! One test per promise of `spawn`; faults run in a process of their own.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::*;
use crate::alone::{alone, fill_descriptors};
use crate::child::Exit;
use crate::exe::Executable;

fn shell() -> Executable {
    Executable::open(Path::new("/bin/sh")).expect("open the shell")
}

fn null() -> OwnedFd {
    File::open("/dev/null").expect("open /dev/null").into()
}

/// Runs a script with its standard output on a pipe, and extra descriptors.
fn output(script: &str, extra: Vec<(u16, OwnedFd)>) -> String {
    let exe = shell();
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).expect("pipe");
    let mut spawn = Spawn::new(&exe, &["sh", "-c", script]).fd(1, write);
    for (number, fd) in extra {
        spawn = spawn.fd(number, fd);
    }
    let mut child = spawn.spawn().expect("spawn");
    let mut text = String::new();
    File::from(read).read_to_string(&mut text).expect("read its output");
    assert_eq!(child.wait().expect("wait"), Exit::Code(0), "{text}");
    text
}

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("list descriptors").count()
}

#[test]
fn child_has_exactly_the_descriptors_of_the_map() {
    let inherited = rustix::io::dup(null()).expect("a descriptor without close-on-exec");
    let text = output("ls /proc/$$/fd", vec![(0, null()), (4, null()), (9, null())]);
    drop(inherited);
    let mut numbers: Vec<u32> = text.split_whitespace().map(|word| word.parse().expect("a number")).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [0, 1, 4, 9]);
}

#[test]
fn descriptors_that_swap_places_do_not_overwrite_each_other() {
    alone("spawn::tests::descriptors_that_swap_places_do_not_overwrite_each_other", || {
        let file = |text: &str| {
            let mut file = tempfile::tempfile().expect("temporary file");
            std::io::Write::write_all(&mut file, text.as_bytes()).expect("write");
            std::io::Seek::rewind(&mut file).expect("rewind");
            OwnedFd::from(file)
        };
        let (five, six) = (file("five "), file("six "));
        let low = five.as_raw_fd().min(six.as_raw_fd());
        // Whatever numbers they have, they want each other's, and the pipe's and the executable's lie beside them.
        let (first, second) = (u16::try_from(low).expect("small"), u16::try_from(low + 1).expect("small"));
        assert_eq!(six.as_raw_fd(), low + 1, "neighbours");
        let text = output(&format!("cat <&{first}; cat <&{second}"), vec![(first, six), (second, five)]);
        assert_eq!(text, "six five ");
    });
}

#[test]
fn child_has_an_empty_environment_its_own_session_and_its_title() {
    let text = output("tr '\\0' '\\n' </proc/$$/environ; cut -d' ' -f1,6 /proc/$$/stat; echo $0", vec![]);
    let mut lines = text.lines();
    let ids: Vec<&str> = lines.next().expect("stat").split(' ').collect();
    assert_eq!(ids.first(), ids.get(1), "the session is the process itself");
    assert_eq!(lines.next(), Some("sh"));
}

#[test]
fn child_starts_with_default_signals_although_the_parent_blocks_and_ignores() {
    alone("spawn::tests::child_starts_with_default_signals_although_the_parent_blocks_and_ignores", || {
        // SAFETY: changes dispositions and the mask of a process that runs only this test.
        unsafe {
            libc::signal(libc::SIGUSR1, libc::SIG_IGN);
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigfillset(&mut set);
            libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
        }
        let text = output("exec grep -E 'Sig(Blk|Ign)' /proc/self/status", vec![]);
        let masks: Vec<&str> = text.lines().filter_map(|line| line.split_whitespace().nth(1)).collect();
        assert_eq!(masks, ["0000000000000000"; 2], "{text}");
        let still = std::fs::read_to_string("/proc/thread-self/status").expect("own status");
        let mask = still.lines().find_map(|line| line.strip_prefix("SigBlk:\t")).expect("own mask");
        assert_ne!(mask, "0000000000000000", "the caller's mask is as it was");
    });
}

#[test]
fn exec_failure_is_the_callers_error_and_leaves_no_process_and_no_descriptor() {
    alone("spawn::tests::exec_failure_is_the_callers_error_and_leaves_no_process_and_no_descriptor", || {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("text");
        std::fs::write(&path, "no program").expect("write");
        let exe = Executable::open(&path).expect("open");
        let before = open_descriptors();
        for _ in 0..100 {
            let error = Spawn::new(&exe, &["x"]).fd(0, null()).spawn().expect_err("not executable");
            assert_eq!(error, SpawnError { step: Step::Exec, errno: Errno::ACCESS });
        }
        assert_eq!(open_descriptors(), before);
        let none = rustix::process::wait(rustix::process::WaitOptions::NOHANG);
        assert_eq!(none.map(|_| ()), Err(Errno::CHILD), "no child is left");
    });
}

#[test]
fn full_descriptor_table_fails_each_step_and_leaves_nothing() {
    alone("spawn::tests::full_descriptor_table_fails_each_step_and_leaves_nothing", || {
        let exe = shell();
        for (left, step) in [(0, Step::Pipe), (1, Step::Pipe), (2, Step::Clone), (3, Step::Descriptors)] {
            let held = fill_descriptors(left);
            let error = Spawn::new(&exe, &["sh"]).spawn().expect_err("no descriptor left");
            drop(held);
            assert_eq!(error.step, step, "{left} left");
            assert_eq!(error.errno, Errno::MFILE, "{left} left");
        }
        let none = rustix::process::wait(rustix::process::WaitOptions::NOHANG);
        assert_eq!(none.map(|_| ()), Err(Errno::CHILD), "no child is left");
    });
}

#[test]
fn a_number_beyond_the_limit_is_an_error_of_the_descriptors() {
    alone("spawn::tests::a_number_beyond_the_limit_is_an_error_of_the_descriptors", || {
        drop(fill_descriptors(0));
        let exe = shell();
        let error = Spawn::new(&exe, &["sh"]).fd(1000, null()).spawn().expect_err("limit is 64");
        assert_eq!(error.step, Step::Descriptors);
    });
}

#[test]
fn the_same_number_twice_and_a_nul_are_bad_requests() {
    let exe = shell();
    let twice = Spawn::new(&exe, &["sh"]).fd(3, null()).fd(3, null()).spawn();
    assert_eq!(twice.map(|_| ()), Err(SpawnError { step: Step::Request, errno: Errno::INVAL }));
    let nul = Spawn::new(&exe, &["s\0h"]).spawn();
    assert_eq!(nul.map(|_| ()), Err(SpawnError { step: Step::Request, errno: Errno::INVAL }));
}

#[test]
fn a_directory_that_is_no_cgroup_does_not_hinder_the_start() {
    let exe = shell();
    let dir = File::open("/tmp").expect("open a directory");
    let mut child = Spawn::new(&exe, &["sh", "-c", "exit 4"]).cgroup(Some(dir.as_fd())).spawn().expect("spawn");
    assert_eq!(child.wait().expect("wait"), Exit::Code(4));
}

#[test]
fn a_child_that_dies_with_its_parent_does() {
    alone("spawn::tests::a_child_that_dies_with_its_parent_does", || {
        let exe = shell();
        let child = std::thread::spawn(move || {
            Spawn::new(&exe, &["sh", "-c", "while :; do :; done"]).die_with_parent().spawn().expect("spawn")
        });
        let mut child = child.join().expect("the starting thread");
        assert_eq!(child.wait().expect("wait"), Exit::Signal(9));
    });
}

#[test]
fn starts_without_clone3_too() {
    let exe = shell();
    let argv = [c"sh".to_owned(), c"-c".to_owned(), c"exit 6".to_owned()];
    let (report, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).expect("pipe");
    let mut blueprint = Blueprint::new(&argv, Vec::new(), exe.as_fd().as_raw_fd(), write.as_raw_fd());
    let old = block_all_signals();
    // SAFETY: signals are blocked and `argv` outlives the call.
    let child = unsafe { clone_before_clone3(&mut blueprint) };
    restore_signals(&old);
    drop(write);
    assert_eq!(read_report(&report), None);
    assert_eq!(child.expect("clone").wait().expect("wait"), Exit::Code(6));
}
