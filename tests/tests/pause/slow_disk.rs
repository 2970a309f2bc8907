//! A pause while the host holds a disk up: it waits for as long, shows, and can be taken back. It ends no VM, and nobody else
//! waits with it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use e2e::vm_conf::Vm;
use rustix::process::{Pid, Signal, kill_process};
use testkit::artefacts::{self, Kernel};
use testkit::census::Census;
use testkit::console::Console;
use testkit::daemon::{self, Daemon, Reply};
use testkit::deadline::{self, DAEMON, GUEST};
use testkit::guest::{Guest, POWER_BUTTON};
use testkit::machine::Machine;
use testkit::process::Process;

/// Longer than a back end may take for anything but to finish what is under way.
const HELD_UP: Duration = Duration::from_secs(15);

/// Far less than any deadline of the daemon, and enough for an emulated machine.
const SOON: Duration = Duration::from_secs(20);

/// A file system for the image of one disk, which can be made to hold up all that is written to it.
struct Mount(PathBuf);

impl Mount {
    fn make(dir: &Path) -> Self {
        let (mount, image) = (dir.join("mount"), dir.join("image"));
        fs::create_dir(&mount).and_then(|()| File::create(&image)?.set_len(128 << 20)).expect("files can be made");
        tool("mke2fs", &["-q".as_ref(), "-t".as_ref(), "ext4".as_ref(), &image]);
        tool("mount", &["-o".as_ref(), "loop".as_ref(), &image, &mount]);
        Self(mount)
    }

    fn freeze(&self) -> Frozen<'_> {
        tool("fsfreeze", &["--freeze".as_ref(), &self.0]);
        Frozen(self)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        tool("umount", &[&self.0]);
    }
}

/// Until it is dropped.
struct Frozen<'a>(&'a Mount);

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        tool("fsfreeze", &["--unfreeze".as_ref(), &self.0.0]);
    }
}

fn tool(name: &str, arguments: &[&Path]) {
    let status = Command::new(name).args(arguments).status().unwrap_or_else(|error| panic!("{name}: {error}"));
    assert!(status.success(), "{name} {arguments:?}: {status}");
}

fn image(path: PathBuf) -> PathBuf {
    File::create(&path).and_then(|file| file.set_len(16 << 20)).expect("an image can be made");
    path
}

#[test]
fn a_pause_that_waits_for_a_disk_shows_and_is_taken_back() {
    Machine::default().run("slow_disk::a_pause_that_waits_for_a_disk_shows_and_is_taken_back", || {
        let before = Census::take();
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let mount = Mount::make(dir.path());
        let disks = [image(mount.0.join("held.img")), image(dir.path().join("free.img"))];
        let vm = Vm::new("guest", Kernel::BzImage).disk(&disks[0]).disk(&disks[1]);
        let daemon = Daemon::start(&vm.text());
        let mut guest = started(&daemon);
        let pid = daemon.row("guest").pid;

        let frozen = mount.freeze();
        writes(&mut guest);
        is_named_and_taken_back(&daemon, &mut guest);
        is_taken_back_by_who_asked_for_it(&daemon, &mut guest);
        let pause = pausing(&daemon);
        drop(frozen);
        pause.join().expect("vmctl was run").success();
        assert_eq!(daemon.row("guest").state, "paused");
        daemon.vmctl(&["unpause", "guest"]).success();
        has_written(&mut guest);
        waits_for_a_process_that_hangs(&daemon, &mut guest);
        assert_eq!(daemon.row("guest").pid, pid, "it is the same VM");

        is_taken_back_by_a_stop(&daemon, &mount, guest);
        ends_at_once_by_force(&daemon, &mount);
        assert!(daemon.stop().success(), "vmd ends well");
        drop(mount);
        before.wait_same();
    });
}

fn started(daemon: &Daemon) -> Guest {
    daemon.vmctl(&["start", "guest"]).success();
    Guest::wait_up(daemon.console("guest"))
}

/// Writes to the disk that is held up, and waits until the request is under way.
fn writes(guest: &mut Guest) {
    guest.check("rm -f /tmp/done; dd if=/dev/urandom of=/tmp/data bs=4k count=256");
    guest.check("(dd if=/tmp/data of=/dev/vda bs=4k conv=fsync 2>/dev/null; echo $? >/tmp/done) &");
    guest.check("until awk '$3 == \"vda\" { exit $12 == 0 }' /proc/diskstats; do sleep 0.1; done");
}

/// All of it, and nothing was lost.
fn has_written(guest: &mut Guest) {
    guest.check("until [ -s /tmp/done ]; do sleep 0.1; done; [ $(cat /tmp/done) = 0 ]");
    guest.check("echo 3 >/proc/sys/vm/drop_caches; cmp -n 1048576 /tmp/data /dev/vda");
}

fn uses_its_other_disk(guest: &mut Guest) {
    guest.check("dd if=/tmp/data of=/dev/vdb bs=4k conv=fsync && cmp -n 1048576 /tmp/data /dev/vdb");
}

/// A pause that has begun.
fn pausing(daemon: &Daemon) -> JoinHandle<Reply> {
    let pause = thread::spawn(|| daemon::vmctl(&["pause", "guest"]));
    daemon.wait_state("guest", "pausing");
    pause
}

fn was_taken_back(pause: JoinHandle<Reply>) {
    let reply = pause.join().expect("vmctl was run");
    assert_eq!((reply.status, reply.stderr.contains("was unpaused before")), (Some(1), true), "{reply:?}");
}

fn is_named_and_taken_back(daemon: &Daemon, guest: &mut Guest) {
    let first = pausing(daemon);
    let second = pausing(daemon);
    thread::sleep(HELD_UP);
    let begun = Instant::now();
    assert_eq!(daemon.row("guest").state, "pausing", "{}", daemon.log());
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    let log = daemon.log();
    assert_eq!(
        log.matches("vioblk0 was to stop for a pause 10 s ago, and has not finished its requests").count(),
        1,
        "{log}"
    );
    assert!(!log.contains("vioblk1 was to stop"), "{log}");
    daemon.vmctl(&["unpause", "guest"]).success();
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    was_taken_back(first);
    was_taken_back(second);
    assert_eq!(daemon.row("guest").state, "running");
    uses_its_other_disk(guest);
}

/// By ^C, while the seconds are shown.
fn is_taken_back_by_who_asked_for_it(daemon: &Daemon, guest: &mut Guest) {
    let vmctl = artefacts::vmctl();
    let words = ["--default-signal=INT".as_ref(), vmctl.as_os_str(), "pause".as_ref(), "guest".as_ref()];
    let mut terminal = Console::of_program(Command::new("env").args(words)); // a shell's background jobs ignore ^C
    terminal.expect("pause \"guest\": 3 s", DAEMON);
    assert_eq!(daemon.row("guest").state, "pausing");
    terminal.send("\x03");
    daemon.wait_state("guest", "running");
    uses_its_other_disk(guest);
}

fn waits_for_a_process_that_hangs(daemon: &Daemon, guest: &mut Guest) {
    let disks = daemon.in_role("vioblk");
    disks.iter().for_each(|disk| signal(*disk, Signal::STOP));
    let pause = pausing(daemon);
    daemon.vmctl(&["unpause", "guest"]).success();
    was_taken_back(pause);
    assert_eq!(guest.check("echo $((6 * 7))"), "42");
    disks.iter().for_each(|disk| signal(*disk, Signal::CONT));
    uses_its_other_disk(guest);
}

fn signal(process: Process, signal: Signal) {
    let pid = i32::try_from(process.pid).ok().and_then(Pid::from_raw).expect("it runs");
    kill_process(pid, signal).expect("it runs");
}

fn is_taken_back_by_a_stop(daemon: &Daemon, mount: &Mount, mut guest: Guest) {
    let frozen = mount.freeze();
    writes(&mut guest);
    let pause = pausing(daemon);
    let stop = thread::spawn(|| daemon::vmctl(&["stop", "-w", "guest"]));
    guest.console().expect(POWER_BUTTON, GUEST);
    was_taken_back(pause);
    drop(frozen);
    stop.join().expect("vmctl was run").success();
    assert_eq!(daemon.row("guest").state, "stopped");
}

/// Its guest does, while its disk's process waits in the kernel, where no signal reaches it.
fn ends_at_once_by_force(daemon: &Daemon, mount: &Mount) {
    let mut guest = started(daemon);
    let frozen = mount.freeze();
    writes(&mut guest);
    let pause = pausing(daemon);
    let vm = Process { pid: daemon.row("guest").pid.expect("it runs") };
    let begun = Instant::now();
    daemon.vmctl(&["stop", "-f", "guest"]).success();
    deadline::until("the guest's end", SOON, || vm.title().is_empty().then_some(()));
    println!("its guest was ended within {:?}", begun.elapsed());
    assert_eq!(pause.join().expect("vmctl was run").status, Some(1));
    drop(frozen);
    daemon.wait_state("guest", "stopped");
}
