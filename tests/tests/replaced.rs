//! A device's process that is killed while its guest uses it: another takes its place, and the guest sees a pause.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use e2e::vm_conf::Vm;
use rustix::process::{Pid, Signal, kill_process};
use testkit::artefacts::Kernel;
use testkit::census::Census;
use testkit::daemon::Daemon;
use testkit::deadline::{self, DAEMON, GUEST};
use testkit::guest::Guest;
use testkit::machine::in_lab;
use testkit::process::Process;

/// As many as a VM may lose within a minute.
const KILLED: [&str; 5] = ["vioblk", "vionet", "vioblk", "vionet", "vioblk"];

/// Bytes of what is written and sent again and again.
const LEN: usize = 16 * 65536;

/// The host's end of the local interface.
const HOST: &str = "100.64.1.2";

const PORT: u16 = 7777;

#[test]
fn a_disk_and_a_card_whose_processes_are_killed_lose_nothing() {
    in_lab("a_disk_and_a_card_whose_processes_are_killed_lose_nothing", || {
        let before = Census::take();
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let image = dir.path().join("disk.img");
        File::create(&image).and_then(|file| file.set_len(16 << 20)).expect("an image can be made");
        let vm = Vm::new("guest", Kernel::BzImage).disk(&image).option("local interface");
        let daemon = Daemon::start(&format!("local nat no\n{}", vm.text()));
        daemon.vmctl(&["start", "guest"]).success();
        let mut guest = Guest::wait_up(daemon.console("guest"));
        let pid = daemon.row("guest").pid;
        guest.check("dd if=/dev/urandom of=/tmp/data bs=64k count=16 2>/dev/null");
        writes_and_verifies(&mut guest);
        let stream = sends(&mut guest);
        for (after, role) in (0..).zip(KILLED) {
            kill(&daemon, role, Duration::from_millis(91) * after);
            stream.goes_on();
        }
        has_lost_nothing(&mut guest);
        stream.ends_well();
        assert_eq!(daemon.row("guest").pid, pid, "it is the same VM");
        let log = daemon.log();
        let told = log.matches("0 ended (signal 9): another process takes its place").count();
        assert_eq!(told, KILLED.len(), "{log}");
        daemon.vmctl(&["stop", "-fw", "guest"]).success();
        assert!(daemon.stop().success(), "vmd ends well");
        before.wait_same();
    });
}

/// Writes the same data on and on, and reads it again, past the guest's cache, until it is told to stop.
fn writes_and_verifies(guest: &mut Guest) {
    guest.check(
        "(while [ ! -e /tmp/stop ]; do \
         dd if=/tmp/data of=/dev/vda bs=64k oflag=direct 2>/dev/null && \
         dd if=/dev/vda bs=64k count=16 iflag=direct 2>/dev/null | cmp - /tmp/data || echo wrong >>/tmp/wrong; \
         echo round >>/tmp/rounds; done; touch /tmp/stopped) &",
    );
    guest.check("until [ -s /tmp/rounds ]; do sleep 0.1; done");
}

fn has_lost_nothing(guest: &mut Guest) {
    guest
        .check("rounds=$(wc -l </tmp/rounds); until [ $(wc -l </tmp/rounds) -gt $((rounds + 1)) ]; do sleep 0.1; done");
    guest.check("touch /tmp/stop; until [ -e /tmp/stopped ]; do sleep 0.1; done; [ ! -e /tmp/wrong ]");
    guest.check("! dmesg | grep -i 'i/o error'");
}

/// What the guest sends by TCP.
struct Stream {
    came: Arc<AtomicUsize>,
    reads: JoinHandle<()>,
}

/// Sends the same data on and on until it is told to stop.
fn sends(guest: &mut Guest) -> Stream {
    let listener = TcpListener::bind((HOST, PORT)).expect("the host has its address");
    guest.check("ip addr add 100.64.1.3/31 dev eth0 && ip link set eth0 up && ping -c 3 -W 10 100.64.1.2");
    guest.check("(while [ ! -e /tmp/stop ]; do cat /tmp/data; done | nc 100.64.1.2 7777) >/dev/null 2>&1 &");
    let (stream, _) = listener.accept().expect("a connection");
    let came = Arc::new(AtomicUsize::new(0));
    let count = came.clone();
    Stream { came, reads: thread::spawn(move || reads(stream, &count)) }
}

/// Whatever comes is the first copy again.
fn reads(mut stream: TcpStream, came: &AtomicUsize) {
    stream.set_read_timeout(Some(GUEST)).expect("a limit");
    let mut first = vec![0; LEN];
    let mut piece = [0; 65536];
    stream.read_exact(&mut first).expect("a whole copy");
    let mut at = LEN;
    loop {
        came.store(at, Ordering::SeqCst);
        let read = stream.read(&mut piece).expect("the stream goes on");
        if read == 0 {
            return;
        }
        for byte in &piece[..read] {
            assert_eq!(*byte, first[at % LEN], "byte {at}");
            at += 1;
        }
    }
}

impl Stream {
    /// More comes, of what was sent now too: more than lies on the way.
    fn goes_on(&self) {
        let before = self.came.load(Ordering::SeqCst);
        let more = || (self.came.load(Ordering::SeqCst) > before + LEN).then_some(());
        deadline::until("more of the stream", GUEST, more);
    }

    fn ends_well(self) {
        self.reads.join().expect("all that came was right");
        assert_eq!(self.came.load(Ordering::SeqCst) % LEN, 0, "the last copy is whole");
    }
}

/// Ends the process of one of the guest's devices at some time within its work, and waits until another is there.
fn kill(daemon: &Daemon, role: &str, after: Duration) {
    let found = || daemon.in_role(role).first().copied();
    let one = || deadline::until(format!("a process {role}"), DAEMON, found);
    let process: Process = one();
    thread::sleep(after);
    let pid = Pid::from_raw(i32::try_from(process.pid).expect("a process id")).expect("a process id");
    kill_process(pid, Signal::KILL).expect("it runs");
    deadline::until(format!("another process {role}"), DAEMON, || (one() != process).then_some(()));
}
