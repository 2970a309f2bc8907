//! vmm's edge with real processes: it executes perl, which with `-x vm` runs a file of that name in the working directory:
//! a vm or a device that behaves as its VM's name says. Each test has a process of its own (limits, working directory).

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::process::Command;
use std::thread::JoinHandle;

use proto::channel;
use proto::{Channel, Received};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::*;
use crate::vmm::edge::Edge;
use crate::vmm::held::Held;

/// What no fake process takes.
const PATIENCE: Duration = Duration::from_secs(60);

const FAKE: &str = r#"#!perl
my ($role, $name) = do { local (@ARGV, $/) = "/proc/self/cmdline"; <> =~ /^vmd: (\w+) ([\w-]+)/ };
open(my $channel, "+<&=", 3) or die;
my ($heard, $begun, $version) = (0, 0, $name eq "stranger" ? "ffffffff" : "OUR_VERSION");
sub say_it { syswrite($channel, pack("H*", $version . shift)); $version = "" }
exit 1 if $role eq "vm" && $name eq "dies";
exit 3 if $role =~ /vio/ && $name eq "device-dies";
while (1) {
    my $bits = ""; vec($bits, 3, 1) = 1;
    select($bits, undef, undef, undef);
    my $there = sysread($channel, my $message, 65536);
    unless ($there) { say_it($role eq "vm" ? "POWERED_OFF" : "DEVICE_ENDED"); exit 0 }
    $message = substr($message, 4) unless $heard++;
    my $kind = ord $message;
    if ($role eq "vm") {
        if ($kind == ASK_TO_STOP) { say_it("POWERED_OFF"); exit 0 }
        if ($kind == LOG_LEVEL && $name eq "reboots-when-told") { say_it("REBOOTED"); exit 11 }
        if ($kind == A_DEVICE && $begun) { say_it("REBOOTED"); exit 11 }
        next unless $kind == BEGIN_IT;
        $begun = 1;
        if ($name eq "garbage") { say_it("ffff"); next }
        if ($name eq "fails") { say_it("NO_MEMORY"); exit 5 }
        next if $name eq "silent";
        say_it("STARTED");
        if ($name eq "reboots") { say_it("REBOOTED"); exit 11 }
        exit 0 if $name eq "speechless";
    } else {
        if ($name =~ /device-crashes/ && ($kind == VERBOSE || $name eq "device-crashes" && -e "crashed")) {
            open(my $crashed, ">", "crashed");
            kill 9, $$;
        }
        if ($name eq "device-fails") { say_it("BUSY"); exit 1 }
        say_it("READY") if $kind != VERBOSE;
    }
}
"#;

/// The script with the messages as they are encoded; of those it hears the first byte.
fn fake() -> String {
    let kind = |message: Vec<u8>| message.first().map(u8::to_string).unwrap_or_default();
    let (no_memory, busy) = (Failure::new(Code::NoMemory, "no room"), Failure::new(Code::Busy, "busy"));
    let front = proto::device::Front { virtio_id: 2, queues: 1, queue_size: 256, config_len: 60 };
    let words = [
        ("ASK_TO_STOP", kind(encoded(&ToVm::AskToStop))),
        ("A_DEVICE", kind(encoded(&ToVm::Device { device: 0, front }))),
        ("BEGIN_IT", kind(encoded(&ToVm::Begin))),
        ("LOG_LEVEL", kind(encoded(&ToVm::Verbose { debug: false }))),
        ("VERBOSE", kind(encoded(&ToDevice::Verbose { debug: false }))),
        ("NO_MEMORY", hex(&encoded(&FromVm::Failed(no_memory)))),
        ("OUR_VERSION", hex(&proto::VERSION_OF_A_VM.to_le_bytes())),
        ("STARTED", hex(&encoded(&FromVm::Started))),
        ("POWERED_OFF", hex(&encoded(&FromVm::Ended { status: proto::exit::POWERED_OFF }))),
        ("REBOOTED", hex(&encoded(&FromVm::Ended { status: proto::exit::REBOOTED }))),
        ("DEVICE_ENDED", hex(&encoded(&FromDevice::Ended))),
        ("BUSY", hex(&encoded(&FromDevice::Failed(busy)))),
        ("READY", hex(&encoded(&FromDevice::Ready))),
    ];
    words.iter().fold(FAKE.to_owned(), |text, (word, value)| text.replace(word, value))
}

fn encoded(message: &impl proto::Message) -> Vec<u8> {
    postcard::to_stdvec(message).expect("encode")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Runs `body` in a fresh process that executes only the calling test, in a directory that holds the fakes.
fn alone(test: &str, body: impl FnOnce()) {
    let name = format!("vmm::tests::edge::{test}");
    if std::env::var_os("VMM_TEST_ALONE").is_some_and(|value| value == *name) {
        return body();
    }
    let dir = tempfile::tempdir().expect("temporary directory");
    for role in ["vm", "vioblk", "vionet"] {
        std::fs::write(dir.path().join(role), fake()).expect("write a fake");
    }
    let output = Command::new(std::env::current_exe().expect("the test's own path"))
        .args(["--exact", &name, "--nocapture", "--test-threads=1"])
        .env("VMM_TEST_ALONE", &name)
        .current_dir(dir.path())
        .output()
        .expect("run the test again");
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{}\n{text}\n{errors}", output.status);
}

/// A vmm in a thread of this process.
struct Vmm {
    parent: Channel<ToVmm, ToParent>,
    thread: JoinHandle<std::io::Result<()>>,
}

fn null() -> OwnedFd {
    File::options().read(true).write(true).open("/dev/null").expect("open /dev/null").into()
}

fn perl() -> OwnedFd {
    File::open("/usr/bin/perl").expect("perl, which Debian always has").into()
}

impl Vmm {
    fn new(exe: OwnedFd) -> Self {
        let (parent, channel) = channel::pair::<ToVmm, ToParent>().expect("channel");
        let channel = channel.into_socket();
        let thread = std::thread::spawn(move || Edge::new(channel, exe)?.serve());
        let mut vmm = Self { parent, thread };
        vmm.say(ToVmm::Kvm, 1);
        vmm
    }

    fn say(&mut self, message: ToVmm, fds: usize) {
        self.parent.send(&message, (0..fds).map(|_| null()).collect()).expect("send");
    }

    fn hear(&mut self) -> ToParent {
        match self.parent.recv_within(PATIENCE) {
            Ok(Received::Message(message, _)) => message,
            other => panic!("vmm said nothing: {other:?}"),
        }
    }

    /// All of a start but its end.
    fn describe(&mut self, id: u32, name: &str, disks: u8) {
        self.say(ToVmm::StartVm(Box::new(start_of(id, name, disks))), 3);
        (0..disks).for_each(|n| self.say(disk(id, n), 1));
    }

    fn start(&mut self, id: u32, name: &str, disks: u8) -> Result<u32, Failure> {
        self.describe(id, name, disks);
        self.say(end(id), 1);
        match self.hear() {
            ToParent::StartDone { vm, result } if vm.0 == id => result,
            other => panic!("no answer to the start: {other:?}"),
        }
    }

    fn running(&mut self) -> Vec<u32> {
        self.say(ToVmm::Info { request: REQUEST }, 0);
        let mut ids = Vec::new();
        loop {
            match self.hear() {
                ToParent::Info { vm, .. } => ids.push(vm.0),
                ToParent::InfoEnd { .. } => return ids,
                other => panic!("not an info: {other:?}"),
            }
        }
    }

    fn stop(&mut self, id: u32, how: Stop) -> End {
        self.say(ToVmm::Terminate { request: REQUEST, vm: VmId(id), how }, 0);
        assert!(matches!(self.hear(), ToParent::TerminateDone { result: Ok(()), .. }));
        self.end_of(id)
    }

    fn end_of(&mut self, id: u32) -> End {
        match self.hear() {
            ToParent::Ended { vm, end } if vm.0 == id => end,
            other => panic!("no end: {other:?}"),
        }
    }

    /// The parent goes; vmm must end, and leave no child.
    fn leave(self) {
        drop(self.parent);
        self.thread.join().expect("vmm does not panic").expect("vmm ends without an error");
        assert_eq!(children(), Err(rustix::io::Errno::CHILD), "a process is left");
    }
}

/// ECHILD, or that there are some.
fn children() -> Result<(), rustix::io::Errno> {
    rustix::process::wait(rustix::process::WaitOptions::NOHANG).map(|_| ())
}

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("list descriptors").count()
}

/// A fault a hundred times: the right answer, the other VM served, nothing left.
fn a_hundred_times(name: &str, disks: u8, code: Code, text: &str) {
    let mut vmm = Vmm::new(perl());
    vmm.start(1, "other", 1).expect("the other VM");
    let fail = |vmm: &mut Vmm| vmm.start(2, name, disks).expect_err("it fails");
    fail(&mut vmm);
    let before = open_descriptors();
    for _ in 0..100 {
        let failure = fail(&mut vmm);
        assert_eq!(failure.code, code, "{failure}");
        assert!(failure.text.contains(text), "{failure}");
    }
    assert_eq!(vmm.running(), [1]);
    assert_eq!(open_descriptors(), before);
    assert_eq!(vmm.stop(1, GRACEFUL), End::PoweredOff);
    vmm.leave();
}

#[test]
fn a_vm_starts_is_told_of_stops_and_leaves_nothing() {
    alone("a_vm_starts_is_told_of_stops_and_leaves_nothing", || {
        let before = open_descriptors();
        let mut vmm = Vmm::new(perl());
        for round in 0..20 {
            let pid = vmm.start(1, "good", 2).expect("start");
            let title = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).expect("its title");
            assert_eq!(title, "vmd: vm good\0-x\0vm\0");
            assert_eq!(vmm.running(), [1]);
            let how = if round % 2 == 0 { GRACEFUL } else { Stop::Force };
            assert_eq!(vmm.stop(1, how), End::PoweredOff);
            assert!(vmm.running().is_empty());
        }
        vmm.leave();
        assert_eq!(open_descriptors(), before);
    });
}

#[test]
fn a_reboot_ends_the_process_and_the_next_start_is_a_fresh_one() {
    alone("a_reboot_ends_the_process_and_the_next_start_is_a_fresh_one", || {
        let mut vmm = Vmm::new(perl());
        for _ in 0..3 {
            vmm.start(1, "reboots", 1).expect("start");
            assert_eq!(vmm.end_of(1), End::Rebooted);
        }
        vmm.leave();
    });
}

#[test]
fn a_vm_that_says_nothing_at_its_end_has_failed_whatever_its_status() {
    alone("a_vm_that_says_nothing_at_its_end_has_failed_whatever_its_status", || {
        let mut vmm = Vmm::new(perl());
        vmm.start(1, "speechless", 1).expect("start");
        let End::Failed(failure) = vmm.end_of(1) else { panic!("it has not failed") };
        assert_eq!(&*failure.text, "vm process failed: exit status 0");
        vmm.leave();
    });
}

#[test]
fn a_last_word_is_heard_of_a_process_that_takes_no_more() {
    alone("a_last_word_is_heard_of_a_process_that_takes_no_more", || {
        let mut vmm = Vmm::new(perl());
        for _ in 0..20 {
            vmm.start(1, "reboots-when-told", 1).expect("start");
            // It ends after the first, while the others are sent.
            for _ in 0..100 {
                vmm.say(ToVmm::Verbose { debug: false }, 0);
            }
            assert_eq!(vmm.end_of(1), End::Rebooted);
        }
        vmm.leave();
    });
}

#[test]
fn row_2_11_a_vm_that_dies_before_it_answers_leaves_nothing() {
    alone("row_2_11_a_vm_that_dies_before_it_answers_leaves_nothing", || {
        a_hundred_times("dies", 1, Code::Io, "vm process ended before its guest ran: exit status 1");
    });
}

#[test]
fn row_2_11_a_vm_that_says_why_it_fails_leaves_nothing() {
    alone("row_2_11_a_vm_that_says_why_it_fails_leaves_nothing", || {
        a_hundred_times("fails", 1, Code::NoMemory, "no room");
    });
}

#[test]
fn a_vm_of_another_version_leaves_nothing() {
    alone("a_vm_of_another_version_leaves_nothing", || {
        let said = format!(
            "speaks version {} of this conversation, and this process version {}",
            u32::MAX,
            proto::VERSION_OF_A_VM
        );
        a_hundred_times("stranger", 0, Code::Io, &said);
    });
}

#[test]
fn row_2_8_a_short_message_of_a_vm_leaves_nothing() {
    alone("row_2_8_a_short_message_of_a_vm_leaves_nothing", || {
        a_hundred_times("garbage", 1, Code::Io, "vm: malformed message");
    });
}

#[test]
fn row_1_8_a_device_that_dies_before_it_is_ready_leaves_nothing() {
    alone("row_1_8_a_device_that_dies_before_it_is_ready_leaves_nothing", || {
        a_hundred_times("device-dies", 1, Code::Io, "vioblk0 ended before the guest ran: exit status 3");
    });
}

#[test]
fn row_1_8_a_device_that_says_why_it_fails_leaves_nothing() {
    alone("row_1_8_a_device_that_says_why_it_fails_leaves_nothing", || {
        a_hundred_times("device-fails", 2, Code::Busy, "busy");
    });
}

#[test]
fn row_2_11_exec_failure_is_eio_and_leaves_nothing() {
    alone("row_2_11_exec_failure_is_eio_and_leaves_nothing", || {
        let mut text = File::create("no-program").expect("a file that is no program");
        text.write_all(b"text").expect("write");
        let mut vmm = Vmm::new(File::open("no-program").expect("open").into());
        vmm.start(1, "web", 1).expect_err("not executable");
        let before = open_descriptors();
        for _ in 0..100 {
            let failure = vmm.start(1, "web", 1).expect_err("not executable");
            assert_eq!(failure.code, Code::Io);
            assert!(failure.text.starts_with("start child failed: vioblk0: execute: "), "{failure}");
        }
        assert_eq!(open_descriptors(), before);
        vmm.leave();
    });
}

#[test]
fn row_2_11_full_descriptor_table_at_each_step_fails_the_start_alone_and_leaves_nothing() {
    alone("row_2_11_full_descriptor_table_at_each_step_fails_the_start_alone_and_leaves_nothing", || {
        let mut vmm = Vmm::new(perl());
        vmm.start(1, "other", 0).expect("the other VM");
        let limit = getrlimit(Resource::Nofile);
        let before = open_descriptors();
        let mut failures = 0;
        for free in 0..40 {
            vmm.describe(2, "good", 1);
            assert_eq!(vmm.running(), [1], "and so the description has arrived");
            let console = null();
            setrlimit(Resource::Nofile, Rlimit { current: Some(128), maximum: limit.maximum }).expect("limit");
            let mut held: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
            held.truncate(held.len() - free);
            vmm.parent.send(&end(2), vec![console]).expect("send");
            let answer = vmm.hear();
            drop(held);
            setrlimit(Resource::Nofile, limit).expect("restore the limit");
            match answer {
                ToParent::StartDone { result: Ok(_), .. } => {
                    assert_eq!(vmm.stop(2, Stop::Force), End::PoweredOff);
                    break;
                }
                ToParent::StartDone { result: Err(failure), .. } => {
                    // Where not even the console's descriptor found room, the message itself was lost.
                    let lost = failure.code == Code::Io && failure.text.contains("lost");
                    assert!(lost || failure.code == Code::NoDescriptors, "{free} free: {failure}");
                    failures += 1;
                }
                other => panic!("{free} free: {other:?}"),
            }
            assert_eq!(open_descriptors(), before, "{free} free");
        }
        assert!(failures > 4, "only {failures} steps failed");
        assert_eq!(vmm.running(), [1]);
        vmm.leave();
    });
}

#[test]
fn row_1_8_a_device_that_crashes_on_and_on_ends_its_vm_and_no_other() {
    alone("row_1_8_a_device_that_crashes_on_and_on_ends_its_vm_and_no_other", || {
        let mut vmm = Vmm::new(perl());
        vmm.start(1, "other", 1).expect("the other VM");
        vmm.start(2, "device-crashes", 2).expect("start");
        vmm.say(ToVmm::Verbose { debug: false }, 0);
        let End::Failed(failure) = vmm.end_of(2) else { panic!("it has not failed") };
        assert!(failure.text.starts_with("vioblk"), "{failure}");
        assert!(failure.text.contains("ended: signal 9, and 5 deaths"), "{failure}");
        assert_eq!(vmm.running(), [1]);
        vmm.leave();
    });
}

#[test]
fn a_device_that_crashes_is_replaced_and_the_vm_process_given_the_next() {
    alone("a_device_that_crashes_is_replaced_and_the_vm_process_given_the_next", || {
        let before = open_descriptors();
        let mut vmm = Vmm::new(perl());
        vmm.start(2, "device-crashes-once", 1).expect("start");
        vmm.say(ToVmm::Verbose { debug: false }, 0);
        assert_eq!(vmm.end_of(2), End::Rebooted, "which the vm process wishes then");
        vmm.leave();
        assert_eq!(open_descriptors(), before);
    });
}

/// A vmm in this thread with one VM, whose guest runs: all that is left of it are what it knows, as bytes, and what it holds.
fn predecessor() -> (Vec<u8>, Held) {
    let (mut parent, channel) = channel::pair::<ToVmm, ToParent>().expect("channel");
    let mut vmm = Edge::new(channel.into_socket(), perl()).expect("vmm");
    let mut say = |message, fds| parent.send(&message, (0..fds).map(|_| null()).collect()).expect("send");
    say(ToVmm::Kvm, 1);
    say(ToVmm::StartVm(Box::new(start_of(1, "good", 2))), 3);
    (0..2).for_each(|device| say(disk(1, device), 1));
    say(end(1), 1);
    while !matches!(parent.recv().expect("heard"), Received::Message(ToParent::StartDone { result: Ok(_), .. }, _)) {
        vmm.turn().expect("a turn");
    }
    (postcard::to_stdvec(&vmm.running).expect("encode"), std::mem::take(&mut vmm.held))
}

#[test]
fn a_successor_goes_on_with_what_vmm_knew_and_held() {
    alone("a_successor_goes_on_with_what_vmm_knew_and_held", || {
        for how in [GRACEFUL, Stop::Force] {
            let before = open_descriptors();
            let (known, held) = predecessor();
            // /dev/kvm, the log, of each process a pidfd and a channel, of each disk a pipe, its image and what it keeps.
            assert_eq!(open_descriptors() - before, 1 + 1 + 3 * 2 + 2 * 3);
            let (parent, channel) = channel::pair::<ToVmm, ToParent>().expect("channel");
            let channel = channel.into_socket();
            let thread = std::thread::spawn(move || {
                let mut edge = Edge::new(channel, perl())?;
                edge.running = postcard::from_bytes(&known).expect("decode");
                for (run, launch) in &held.runs {
                    for (member, living) in &launch.living {
                        edge.watch(Process { run: *run, member: *member }, living)?;
                    }
                }
                edge.held = held;
                edge.serve()
            });
            let mut vmm = Vmm { parent, thread };
            assert_eq!(vmm.running(), [1]);
            vmm.start(2, "device-crashes", 1).expect("it starts others");
            vmm.say(ToVmm::Verbose { debug: false }, 0);
            assert!(matches!(vmm.end_of(2), End::Failed(_)));
            std::fs::remove_file("crashed").expect("a device has crashed");
            assert_eq!(vmm.stop(1, how), End::PoweredOff);
            vmm.leave();
            assert_eq!(open_descriptors(), before);
        }
    });
}

#[test]
fn a_silent_vm_can_be_stopped_and_its_start_is_answered() {
    alone("a_silent_vm_can_be_stopped_and_its_start_is_answered", || {
        let mut vmm = Vmm::new(perl());
        vmm.describe(1, "silent", 1);
        vmm.say(end(1), 1);
        vmm.say(ToVmm::Terminate { request: REQUEST, vm: VmId(1), how: Stop::Force }, 0);
        assert!(matches!(vmm.hear(), ToParent::TerminateDone { result: Ok(()), .. }));
        assert!(matches!(vmm.hear(), ToParent::StartDone { result: Err(_), .. }));
        vmm.leave();
    });
}

#[test]
fn row_2_7_vmm_ends_with_its_parent_and_all_vms_with_it() {
    alone("row_2_7_vmm_ends_with_its_parent_and_all_vms_with_it", || {
        let before = open_descriptors();
        let mut vmm = Vmm::new(perl());
        vmm.start(1, "one", 2).expect("start");
        vmm.start(2, "two", 0).expect("start");
        vmm.describe(3, "silent", 1);
        vmm.say(end(3), 1);
        vmm.describe(4, "described", 1);
        vmm.leave();
        assert_eq!(open_descriptors(), before);
    });
}

#[test]
fn row_2_3_a_malformed_message_of_the_parent_ends_no_vm() {
    alone("row_2_3_a_malformed_message_of_the_parent_ends_no_vm", || {
        let mut vmm = Vmm::new(perl());
        vmm.start(1, "other", 0).expect("the other VM");
        for bytes in [&[255u8, 255][..], &[0], &[2, 3, 4]] {
            use std::os::fd::AsFd;
            sys::seqpacket::send(vmm.parent.as_fd(), bytes, &[]).expect("send");
        }
        assert_eq!(vmm.running(), [1]);
        vmm.start(2, "good", 1).expect("it still starts VMs");
        vmm.leave();
    });
}

#[test]
fn a_parent_that_is_behind_gets_every_answer() {
    alone("a_parent_that_is_behind_gets_every_answer", || {
        let mut vmm = Vmm::new(perl());
        const ASKED: usize = 2000;
        for _ in 0..ASKED {
            while vmm.parent.send(&ToVmm::Info { request: REQUEST }, Vec::new()).is_err() {
                // Our own queue is full; vmm reads on although its answers are not read.
                vmm.parent.flush().expect("flush");
                std::thread::yield_now();
            }
        }
        for _ in 0..ASKED {
            assert_eq!(vmm.hear(), ToParent::InfoEnd { request: REQUEST });
        }
        vmm.leave();
    });
}
