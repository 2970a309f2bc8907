//! A process that the kernel does not let go: a file on a mount whose server has stopped answering.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use testkit::apart::apart;
use testkit::daemon::Daemon;
use testkit::deadline::{self, DAEMON};
use testkit::process::Process;

use crate::world::in_run;

const STUCK: &str = "/mnt/stuck";

/// linux/fuse.h: requests that this server answers, and the one that it never does.
const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const OPEN: u32 = 14;
const INIT: u32 = 26;
const BATCH_FORGET: u32 = 42;
const ENOSYS: i32 = 38;

/// Mounts a file system with one file, whose opening never ends. It ends with its descriptor, and all that wait with it. Each
/// opening is told.
fn stuck() -> (File, Receiver<()>) {
    fs::create_dir(STUCK).expect("it is ours");
    let device = rustix::fs::makedev(10, 229);
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, "/mnt/fuse", rustix::fs::FileType::CharacterDevice, mode, device)
        .expect("a device");
    let fuse = OpenOptions::new().read(true).write(true).open("/mnt/fuse").expect("the kernel has FUSE");
    let data = format!("fd={},rootmode=40000,user_id=0,group_id=0,allow_other", fuse.as_raw_fd());
    let data = std::ffi::CString::new(data).expect("no zero");
    rustix::mount::mount("stuck", STUCK, "fuse", rustix::mount::MountFlags::empty(), data.as_c_str()).expect("a mount");
    let mut server = fuse.try_clone().expect("a copy");
    let (told, opened) = channel();
    std::thread::spawn(move || serve(&mut server, &told));
    (fuse, opened)
}

fn serve(fuse: &mut File, opened: &Sender<()>) {
    let mut request = vec![0; 1 << 17];
    while let Ok(40..) = fuse.read(&mut request) {
        let word = |at: usize| u32::from_le_bytes(request[at..at + 4].try_into().expect("four"));
        let (opcode, node) = (word(4), word(16));
        let answer = match opcode {
            INIT => {
                Ok([7u32, 31, 0, 0, 0, 1 << 16, 1].iter().flat_map(|word| word.to_le_bytes()).chain([0; 36]).collect())
            }
            LOOKUP => {
                Ok([2u64, 0, 100, 100, 0].iter().flat_map(|word| word.to_le_bytes()).chain(attributes(2)).collect())
            }
            GETATTR => Ok([100u64, 0].iter().flat_map(|word| word.to_le_bytes()).chain(attributes(node)).collect()),
            OPEN => {
                let _ = opened.send(()); // and nothing else, for ever
                continue;
            }
            FORGET | BATCH_FORGET => continue, // no answer is wanted
            _ => Err(-ENOSYS),
        };
        let (error, body): (i32, Vec<u8>) = answer.map_or_else(|error| (error, vec![]), |body| (0, body));
        let total = u32::try_from(16 + body.len()).expect("it is short");
        let head = [&total.to_le_bytes()[..], &error.to_le_bytes(), &request[8..16]].concat();
        if fuse.write_all(&[head, body].concat()).is_err() {
            return;
        }
    }
}

/// struct fuse_attr: the root is a directory, the rest a file of 1 MiB.
fn attributes(node: u32) -> impl Iterator<Item = u8> {
    let mode: u32 = if node == 1 { 0o040_755 } else { 0o100_644 };
    let long = [u64::from(node), 1 << 20, 2048, 0, 0, 0].into_iter().flat_map(u64::to_le_bytes);
    long.chain([0, 0, 0, mode, 1, 0, 0, 0, 4096, 0].into_iter().flat_map(u32::to_le_bytes))
}

#[test]
fn an_opener_that_can_not_be_killed_holds_nobody_up_is_listed_and_left_behind() {
    apart("unkillable::an_opener_that_can_not_be_killed_holds_nobody_up_is_listed_and_left_behind", || {
        let (server, opened) = stuck();
        let conf = format!("vm \"stuck\" {{\n\tdisable\n\tboot \"{STUCK}/kernel\"\n}}\n");
        let daemon = Daemon::start_quietly(&conf);
        let start = std::thread::spawn(|| testkit::daemon::vmctl(&["start", "stuck"]));
        opened.recv_timeout(DAEMON).expect("the kernel is opened");
        let opener = daemon.in_role("opener").pop().expect("who opens it");
        daemon.vmctl(&["stop", "-f", "stuck"]).success();
        start.join().expect("it ends");
        deadline::until("it to be killed, and to wait on", DAEMON, || waits(&opener).then_some(()));
        // Nobody waits for it.
        let begun = Instant::now();
        let mut worst = Duration::ZERO;
        let told = deadline::until("vmctl status to list it", DAEMON, || {
            let asked = Instant::now();
            let reply = daemon.vmctl(&["status"]).success();
            worst = worst.max(asked.elapsed());
            std::thread::sleep(Duration::from_millis(20));
            (!reply.stderr.is_empty()).then_some(reply.stderr)
        });
        println!("status was answered within {worst:?}, {:?} long", begun.elapsed());
        let shown = format!(" UTC, pid {}: opener for a VM of uid 0\n", opener.pid);
        assert!(told.starts_with("vmctl: unkillable since ") && told.ends_with(&shown), "{told}");
        assert!(worst < Duration::from_secs(5), "{worst:?}");
        let json = daemon.vmctl(&["status", "--json"]).success().stdout;
        assert!(json.contains(&format!("\"pid\": {}", opener.pid)), "{json}");
        let log = daemon.log();
        assert_eq!(log.matches("can't be killed: it waits in the kernel").count(), 1, "{log}");
        // And the end does not wait for it either.
        let log = daemon.path("log");
        let copy = File::open(log).expect("the log");
        assert!(daemon.stop().success(), "vmd ends well");
        let mut log = String::new();
        (&copy).read_to_string(&mut log).expect("the log");
        assert!(log.contains(&format!("opener, pid {}, can't be killed and is left behind", opener.pid)), "{log}");
        assert!(waits(&opener) && in_run().is_empty());
        // The mount's server goes: the kernel lets go of it.
        fs::write(abort(), "1").expect("the mount can be cut off");
        drop(server);
        deadline::until("its end", DAEMON, || (!waits(&opener)).then_some(()));
    });
}

/// Whether it is in an uninterruptible wait (proc_pid_stat(5): state D).
fn waits(process: &Process) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", process.pid)).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('D'))
}

/// Cuts the only FUSE mount of this test off (Documentation/filesystems/fuse.rst).
fn abort() -> std::path::PathBuf {
    fs::create_dir_all("/mnt/control").expect("it is ours");
    testkit::apart::mount("-t fusectl fusectl /mnt/control");
    let minor = rustix::fs::minor(
        rustix::fs::statat(rustix::fs::CWD, STUCK, rustix::fs::AtFlags::NO_AUTOMOUNT).expect("it is there").st_dev,
    );
    Path::new("/mnt/control").join(minor.to_string()).join("abort")
}
