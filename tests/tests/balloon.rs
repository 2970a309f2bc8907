//! What an unchanged guest does not use goes back to the host: by itself, and by `vmctl memory`. A guest that does not
//! answer keeps what it has, and a paused one too.
#![forbid(unsafe_code)]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use e2e::vm_conf::Vm;
use serde_json::Value;
use testkit::artefacts::Kernel;
use testkit::census::Census;
use testkit::daemon::Daemon;
use testkit::deadline::GUEST;
use testkit::guest::Guest;
use testkit::machine::Machine;
use testkit::process::Process;

const MIB: u64 = 1 << 20;

/// Longer than a guest waits before it reports free pages (Linux, mm/page_reporting.c: 2 s).
const REPORTING: Duration = Duration::from_secs(10);

#[test]
fn a_guest_gives_back_what_it_does_not_use() {
    Machine::default().run("a_guest_gives_back_what_it_does_not_use", || {
        let before = Census::take();
        let vm = Vm::new("guest", Kernel::BzImage).size(1, "768M").option("balloon 128M");
        let plain = Vm::new("plain", Kernel::BzImage);
        let daemon = Daemon::start(&(vm.text() + &plain.text()));
        daemon.vmctl(&["start", "guest"]).success();
        let mut guest = Guest::wait_up(daemon.console("guest"));
        let memory = Memory::of(&daemon);
        frees_by_itself(&mut guest, &memory);
        keeps_what_it_has_while_it_is_paused(&daemon, &mut guest, &memory);
        gives_when_it_is_asked(&daemon, &memory);
        is_asked_only_for_what_it_can_give(&daemon);
        may_not_answer(&daemon, &mut guest);
        daemon.vmctl(&["stop", "-f", "-w", "guest"]).success();
        assert!(daemon.stop().success(), "vmd ends well");
        before.wait_same();
    });
}

/// The file that is the guest's memory.
struct Memory(String);

impl Memory {
    fn of(daemon: &Daemon) -> Self {
        let vm = Process { pid: daemon.row("guest").pid.expect("it has a process") };
        let fds = vm.descriptors();
        let (fd, _) = fds.iter().find(|(_, target)| target.contains("guest memory")).expect("guest memory is open");
        Self(format!("/proc/{}/fd/{fd}", vm.pid))
    }

    /// Bytes of the host's memory that it takes.
    fn taken(&self) -> u64 {
        fs::metadata(&self.0).expect("the guest runs").blocks() * 512
    }

    fn wait(&self, what: &str, reached: impl Fn(u64) -> bool) {
        let deadline = Instant::now() + GUEST;
        while !reached(self.taken()) {
            assert!(Instant::now() < deadline, "{what}: {} MiB", self.taken() / MIB);
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

fn fill(guest: &mut Guest) {
    guest.check("mkdir -p /full && mount -t tmpfs -o size=300m tmpfs /full");
    guest.check("dd if=/dev/zero of=/full/file bs=1M count=256 2>/dev/null");
}

fn frees_by_itself(guest: &mut Guest, memory: &Memory) {
    fill(guest);
    let full = memory.taken();
    assert!(full > 256 * MIB, "{} MiB", full / MIB);
    guest.check("umount /full");
    memory.wait("200 MiB of 256 come back", |taken| taken + 200 * MIB <= full);
}

fn keeps_what_it_has_while_it_is_paused(daemon: &Daemon, guest: &mut Guest, memory: &Memory) {
    fill(guest);
    guest.begin("umount /full");
    daemon.vmctl(&["pause", "guest"]).success();
    let then = memory.taken();
    std::thread::sleep(REPORTING); // nothing must happen: there is no event to wait for
    assert_eq!(memory.taken(), then, "a paused guest keeps its memory");
    daemon.vmctl(&["unpause", "guest"]).success();
    memory.wait("its memory comes back later", |taken| taken + 150 * MIB <= then);
}

/// What `status --json` says of the balloon.
fn balloon(daemon: &Daemon) -> Value {
    let status: Value =
        serde_json::from_str(&daemon.vmctl(&["status", "--json", "guest"]).success().stdout).expect("JSON");
    status["vms"][0]["balloon"].clone()
}

fn wait_report(daemon: &Daemon, what: &str, reached: impl Fn(&Value) -> bool) {
    let deadline = Instant::now() + GUEST;
    while !reached(&balloon(daemon)["report"]) {
        assert!(Instant::now() < deadline, "{what}: {}", balloon(daemon));
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn gives_when_it_is_asked(daemon: &Daemon, memory: &Memory) {
    let id = daemon.row("guest").id;
    let reply = daemon.vmctl(&["memory", "guest", "256M"]).success();
    assert_eq!(reply.stderr, format!("vmctl: asked vm {id} to get along with 256M\n"));
    assert_eq!(balloon(daemon)["wanted_bytes"], 256 * MIB);
    wait_report(daemon, "the guest gives 512 MiB", |report| report["taken_bytes"] == 512 * MIB);
    memory.wait("the host has them", |taken| taken < 320 * MIB);
    wait_report(daemon, "the guest says what it has", |report| {
        let total = report["statistics"]["total"].as_u64();
        total.is_some_and(|total| (600 * MIB..768 * MIB).contains(&total)) && report["age_seconds"].is_u64()
    });
    let available = |report: &Value| report["statistics"]["available"].as_u64();
    wait_report(daemon, "its statistics follow", |report| available(report).is_some_and(|left| left < 256 * MIB));
    daemon.vmctl(&["memory", "guest", "768M"]).success();
    wait_report(daemon, "the guest has all again", |report| report["taken_bytes"] == 0);
    wait_report(daemon, "its statistics follow again", |report| available(report) > Some(400 * MIB));
}

fn is_asked_only_for_what_it_can_give(daemon: &Daemon) {
    for (size, why) in [
        ("127M", "\"guest\" can get along with 128M to 768M, not with 127M"),
        ("1G", "\"guest\" can get along with 128M to 768M, not with 1024M"),
    ] {
        let refused = daemon.vmctl(&["memory", "guest", size]);
        assert_eq!((refused.status, refused.stderr.contains(why)), (Some(1), true), "{refused:?}");
    }
    let stopped = daemon.vmctl(&["memory", "plain", "128M"]);
    assert_eq!((stopped.status, stopped.stderr.contains("not running")), (Some(1), true), "{stopped:?}");
    assert_eq!(balloon(daemon)["wanted_bytes"], 768 * MIB, "what was refused changes nothing");
}

/// Its driver leaves: what is asked is kept for the next, and nothing else happens.
fn may_not_answer(daemon: &Daemon, guest: &mut Guest) {
    guest.check("cd /sys/bus/virtio/drivers/virtio_balloon && for of in virtio*; do echo $of >unbind; done");
    daemon.vmctl(&["memory", "guest", "128M"]).success();
    std::thread::sleep(REPORTING);
    assert_eq!(
        (balloon(daemon)["wanted_bytes"].as_u64(), daemon.row("guest").state.as_str()),
        (Some(128 * MIB), "running")
    );
    assert_eq!(balloon(daemon)["report"]["taken_bytes"], 0);
    guest.check("for of in /sys/bus/virtio/devices/virtio*; do echo ${of##*/} >/sys/bus/virtio/drivers/virtio_balloon/bind; done 2>/dev/null; true");
    wait_report(daemon, "the next driver does it", |report| report["taken_bytes"].as_u64() > Some(600 * MIB));
}
