//! A vm process that does nothing any more holds up nobody: the daemon answers, other VMs start and end, who asked for
//! something hears in time which VM it is, and it can be ended.
#![forbid(unsafe_code)]

use std::thread;
use std::time::{Duration, Instant};

use e2e::idle::{Does, kernel_file, vm};
use rustix::process::{Pid, Signal, kill_process};
use testkit::census::Census;
use testkit::daemon::{self, Daemon};
use testkit::machine::on_kvm;

/// Far less than any deadline of the daemon, and enough for an emulated machine.
const SOON: Duration = Duration::from_secs(20);
/// What a vm process has to answer.
const ANSWER: Duration = Duration::from_secs(60);

/// The status table comes at once, with the VM that hangs in it.
fn answers(daemon: &Daemon) {
    let begun = Instant::now();
    assert!(["running", "pausing"].contains(&daemon.row("one").state.as_str()), "{:?}", daemon.row("one"));
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
}

#[test]
fn a_vm_process_that_hangs_holds_up_nobody_and_is_named() {
    on_kvm("a_vm_process_that_hangs_holds_up_nobody_and_is_named", || {
        let nothing = Census::take();
        let dir = tempfile::tempdir().expect("a directory");
        let kernel = kernel_file(dir.path(), Does::Nothing);
        let daemon = Daemon::start(&["one", "two"].map(|name| vm(name, &kernel, &[])).concat());
        daemon.vmctl(&["start", "one"]).success();
        let row = daemon.row("one");
        let pid = row.pid.and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw).expect("it runs");
        kill_process(pid, Signal::STOP).expect("it runs");
        answers(&daemon);

        let begun = Instant::now();
        let pause = thread::spawn(|| daemon::vmctl(&["pause", "one"]));
        for _ in 0..2 {
            daemon.vmctl(&["start", "two"]).success();
            daemon.vmctl(&["log", "brief"]).success();
            daemon.vmctl(&["pause", "two"]).success();
            daemon.vmctl(&["stop", "-f", "-w", "two"]).success();
            answers(&daemon);
        }
        assert!(begun.elapsed() < ANSWER, "others had to wait: {:?}", begun.elapsed());
        let reply = pause.join().expect("no panic");
        assert!(begun.elapsed() >= ANSWER, "{:?}", begun.elapsed());
        assert_eq!(reply.status, Some(1));
        assert!(
            reply.stderr.contains(&format!("vm \"one\" (vm {}) has not answered within 60 s", row.id)),
            "{reply:?}"
        );
        // It is not asked a second thing, and who asks need not wait again.
        let begun = Instant::now();
        let reply = daemon.vmctl(&["unpause", "one"]);
        assert!(
            reply.stderr.contains(&format!("vm {} has not answered the previous request yet", row.id)),
            "{reply:?}"
        );
        assert!(begun.elapsed() < SOON);

        // SIGTERM does not reach it, SIGKILL does.
        let begun = Instant::now();
        daemon.vmctl(&["stop", "-f", "-w", "one"]).success();
        assert!(begun.elapsed() < ANSWER, "{:?}", begun.elapsed());
        assert!(daemon.log().contains(&format!("force killed vm {}", row.id)), "{}", daemon.log());
        daemon.vmctl(&["start", "one"]).success();
        daemon.vmctl(&["stop", "-f", "-w", "one"]).success();
        assert!(daemon.stop().success());
        nothing.wait_same();
    });
}
