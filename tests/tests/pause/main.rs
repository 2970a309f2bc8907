//! A guest that works is paused for a minute and goes on: meanwhile it does nothing at all, afterwards its clock is right,
//! its kernel has noticed no hang, and its disk and network work. It can be stopped while it is paused.
#![forbid(unsafe_code)]

mod slow_disk;

use std::fs::{self, File};
use std::path::Path;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use e2e::vm_conf::{Vm, switch};
use testkit::artefacts::Kernel;
use testkit::bridge;
use testkit::census::Census;
use testkit::daemon::{self, Daemon};
use testkit::deadline::GUEST;
use testkit::guest::{Guest, POWER_BUTTON};
use testkit::machine::Machine;
use testkit::process::Process;

const BRIDGE: &str = "bridge0";
const LLADDR: &str = "fe:e1:bb:d1:00:01";
const HOST: &str = "10.77.0.1";
const GUEST_ADDRESS: &str = "10.77.0.2";

/// The length of the long pause: the subject of this test, and beyond what Linux's watchdogs bear (20 s).
const PAUSE: Duration = Duration::from_secs(60);

/// Keeps writing to its disk, and counts the rounds.
const BUSY: &str = "(n=0; while :; do dd if=/dev/urandom of=/dev/vda bs=4k count=64 conv=fsync 2>/dev/null; n=$((n + 1)); echo $n >/tmp/n; done) &";

#[test]
fn a_pause_of_a_minute() {
    // It takes some 130 to 190 s; a machine that hangs is given up before the usual limit.
    Machine { limit_s: 600, ..Machine::default() }.run("a_pause_of_a_minute", || {
        let before = Census::take();
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let disk = dir.path().join("disk.img");
        File::create(&disk).and_then(|file| file.set_len(16 << 20)).expect("an image can be made");
        let vm = Vm::new("guest", Kernel::BzImage).size(4, "256M").disk(&disk).card("lan", LLADDR);
        let daemon = Daemon::start(&(switch("lan", BRIDGE) + &vm.text()));
        let mut guest = works(&daemon);
        stands_still(&daemon, &disk);
        goes_on(&daemon, &mut guest);
        hears_an_nmi(&daemon, &mut guest);
        drop(guest);
        is_stopped_gracefully_while_it_is_paused(&daemon);
        is_stopped_by_force_while_it_is_paused(&daemon);
        assert!(daemon.stop().success(), "vmd ends well");
        before.wait_same();
    });
}

fn works(daemon: &Daemon) -> Guest {
    daemon.vmctl(&["start", "guest"]).success();
    let mut guest = Guest::wait_up(daemon.console("guest"));
    bridge::ip(&format!("addr add {HOST}/24 dev {BRIDGE}"));
    guest.check(&format!("ip addr add {GUEST_ADDRESS}/24 dev eth0 && ip link set eth0 up"));
    assert!(bridge::ping(GUEST_ADDRESS), "the host reaches the guest");
    guest.check(BUSY);
    guest.check("while [ ! -s /tmp/n ]; do sleep 0.1; done");
    guest
}

fn stands_still(daemon: &Daemon, disk: &Path) {
    let id = daemon.row("guest").id;
    let reply = daemon.vmctl(&["pause", "guest"]).success();
    assert_eq!(reply.stderr, format!("vmctl: paused vm {id} successfully\n"));
    let row = daemon.row("guest");
    assert_eq!(row.state, "paused");
    let vm = Process { pid: row.pid.expect("it has a process") };
    let then = (written(disk), guest_time(vm));
    thread::sleep(PAUSE);
    assert_eq!((written(disk), guest_time(vm)), then, "nothing was written, and no vCPU ran");
    assert!(!bridge::ping(GUEST_ADDRESS), "and nobody answers");
    daemon.vmctl(&["pause", "guest"]).success();
    assert_eq!(daemon.row("guest").state, "paused", "again is no error");
    let refused = daemon.vmctl(&["nmi", "guest"]);
    let said = "vmctl: nmi \"guest\": the guest is paused: unpause it first\n";
    assert_eq!((refused.status, refused.stderr.as_str()), (Some(1), said));
}

fn goes_on(daemon: &Daemon, guest: &mut Guest) {
    let id = daemon.row("guest").id;
    let reply = daemon.vmctl(&["unpause", "guest"]).success();
    assert_eq!(reply.stderr, format!("vmctl: unpaused vm {id} successfully\n"));
    assert_eq!(daemon.row("guest").state, "running");
    daemon.vmctl(&["unpause", "guest"]).success();
    let (before, inside, after) = (now(), guest.check("date +%s").parse::<u64>().expect("seconds"), now());
    assert!((before - 1..=after + 1).contains(&inside), "{inside} is not within 1 s of {before} to {after}");
    guest.check("n=$(cat /tmp/n); while [ $(cat /tmp/n) -lt $((n + 3)) ]; do sleep 0.1; done");
    assert!(bridge::ping(GUEST_ADDRESS), "the host reaches the guest again");
    let noticed = guest.run("dmesg | grep -iE 'lockup|stall|hung|clocksource.*(unstable|skew)'");
    assert_eq!(noticed.output, "", "the guest's kernel noticed no hang");
}

fn hears_an_nmi(daemon: &Daemon, guest: &mut Guest) {
    let id = daemon.row("guest").id;
    let reply = daemon.vmctl(&["nmi", "guest"]).success();
    assert_eq!(reply.stderr, format!("vmctl: sent an NMI to vm {id} successfully\n"));
    guest.check("while ! dmesg | grep -q 'NMI received for unknown reason'; do sleep 0.1; done");
    assert_eq!(daemon.row("guest").state, "running");
}

fn is_stopped_gracefully_while_it_is_paused(daemon: &Daemon) {
    daemon.vmctl(&["pause", "guest"]).success();
    let mut console = daemon.console("guest");
    let stop = thread::spawn(|| daemon::vmctl(&["stop", "-w", "guest"]));
    console.expect(POWER_BUTTON, GUEST);
    stop.join().expect("vmctl was run").success();
    assert_eq!(daemon.row("guest").state, "stopped");
    let refused = daemon.vmctl(&["pause", "guest"]);
    assert_eq!((refused.status, refused.stderr.contains("not running")), (Some(1), true), "{refused:?}");
}

fn is_stopped_by_force_while_it_is_paused(daemon: &Daemon) {
    daemon.vmctl(&["start", "guest"]).success();
    daemon.vmctl(&["pause", "guest"]).success();
    daemon.vmctl(&["stop", "-f", "-w", "guest"]).success();
    assert_eq!(daemon.wait_state("guest", "stopped").pid, None);
}

/// When the image was last written.
fn written(disk: &Path) -> SystemTime {
    fs::metadata(disk).and_then(|image| image.modified()).expect("the image is there")
}

/// Clock ticks that its vCPUs spent in the guest, and in the host for it (proc(5), /proc/PID/task/TID/stat, 14 and 15).
fn guest_time(vm: Process) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{}/task", vm.pid)).expect("it runs").flatten();
    let vcpus = tasks
        .filter_map(|task| fs::read_to_string(task.path().join("stat")).ok())
        .filter(|stat| stat.contains("(vcpu-"));
    let ticks = |stat: String| {
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        fields.iter().skip(11).take(2).map(|field| field.parse::<u64>().expect("ticks")).sum::<u64>()
    };
    let ticks: Vec<u64> = vcpus.map(ticks).collect();
    assert_eq!(ticks.len(), 4, "all vCPUs have threads");
    ticks.into_iter().sum()
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a time after 1970").as_secs()
}
