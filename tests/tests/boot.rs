//! A stock Debian kernel boots from vm.conf and has all that a machine needs: a disk that keeps what was written over a
//! reboot, a network to the host, every processor and all memory, a console session, and a graceful stop.
//!
//! The same for each way to hand a kernel over, one or four vCPUs, little memory or more than fits below the hole; and with one
//! vCPU on a raw disk, with four on a qcow2 image that `vmctl create` has made on a base.
#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use e2e::vm_conf::{Vm, switch};
use testkit::artefacts::{self, Kernel};
use testkit::bridge;
use testkit::census::Census;
use testkit::daemon::{self, Daemon};
use testkit::deadline::{self, DAEMON, GUEST};
use testkit::guest::{Guest, POWER_BUTTON};
use testkit::machine::Machine;

const BRIDGE: &str = "bridge0";
const LLADDR: &str = "fe:e1:bb:d1:00:01";
const HOST: &str = "10.77.0.1";
const GUEST_ADDRESS: &str = "10.77.0.2";

/// What is written to the disk and read back: 64 blocks of 64 KiB.
const WRITTEN: &str = "bs=64k count=64";

/// The disk's size in bytes.
const DISK: u64 = 16 << 20;

macro_rules! combinations {
    ($($test:ident: $kernel:ident, $vcpus:literal, $memory:literal;)*) => {
        $(
            #[test]
            fn $test() {
                // The guest's memory is counted as it is touched; that of the emulated machine is its limit. It takes two
                // minutes; an emulated machine whose only processor hangs with four vCPUs is not to cost a quarter of an hour.
                let machine = Machine { memory_mib: 8192, limit_s: 600 };
                machine.run(stringify!($test), || everything(Kernel::$kernel, $vcpus, $memory));
            }
        )*
    };
}

combinations! {
    bzimage_with_1_vcpu_and_256_mib: BzImage, 1, "256M";
    bzimage_with_1_vcpu_and_6_gib: BzImage, 1, "6G";
    bzimage_with_4_vcpus_and_256_mib: BzImage, 4, "256M";
    bzimage_with_4_vcpus_and_6_gib: BzImage, 4, "6G";
    pvh_with_1_vcpu_and_256_mib: Vmlinux, 1, "256M";
    pvh_with_1_vcpu_and_6_gib: Vmlinux, 1, "6G";
    pvh_with_4_vcpus_and_256_mib: Vmlinux, 4, "256M";
    pvh_with_4_vcpus_and_6_gib: Vmlinux, 4, "6G";
}

fn everything(kernel: Kernel, vcpus: u32, memory: &str) {
    let before = Census::take();
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let disk = if vcpus > 1 { Disk::on_a_base(dir.path()) } else { Disk::raw(dir.path()) };
    let vm = disk.given_to(Vm::new("guest", kernel).size(vcpus, memory)).card("lan", LLADDR);
    // A guest without its driver is asked to stop as one without the device is.
    let vmmci = vcpus > 1;
    let vm = if vmmci { vm.option("vmmci") } else { vm };
    let daemon = Daemon::start(&(switch("lan", BRIDGE) + &vm.text()));

    daemon.vmctl(&["start", "guest"]).success();
    let mut guest = Guest::wait_up(daemon.console("guest"));
    shows_its_banner(&guest);
    has_all_processors_and_memory(&mut guest, vcpus, memory);
    assert_eq!(has_vmmci(&mut guest), vmmci);
    has_entropy(&mut guest);
    let checksum = writes_its_disk(&mut guest);
    disk.shows_its_base(&mut guest);
    gives_room_back(&mut guest, &disk.path);
    let mut guest = reboots(&daemon, guest);
    assert_eq!(disk_checksum(&mut guest), checksum, "what was written before the reboot");
    pings_both_ways(&mut guest);
    drop(guest);
    has_a_console_session(&daemon);
    stops_gracefully(&daemon);
    assert_eq!(disk.checksum_on_host(), checksum, "the image holds what the guest wrote");

    assert!(daemon.stop().success(), "vmd ends well");
    assert!(!bridge::exists(BRIDGE), "the bridge that vmd made is gone");
    before.wait_same();
}

/// The guest's disk.
struct Disk {
    path: PathBuf,
    base: Option<PathBuf>,
}

impl Disk {
    fn raw(dir: &Path) -> Self {
        let path = dir.join("disk.img");
        File::create(&path).and_then(|file| file.set_len(DISK)).expect("an image can be made");
        Self { path, base: None }
    }

    /// The base is shorter than the disk.
    fn on_a_base(dir: &Path) -> Self {
        let (base, path) = (dir.join("base.img"), dir.join("disk.qcow2"));
        on_host("head -c 12582912 /dev/urandom >\"$1\"", &base);
        let (base_name, name) = (base.to_str().expect("text"), path.to_str().expect("text"));
        daemon::vmctl(&["create", "-b", base_name, "-s", "16M", name]).success();
        fs::copy(&base, dir.join("base.copy")).expect("there is room");
        Self { path, base: Some(base) }
    }

    fn given_to(&self, vm: Vm) -> Vm {
        match &self.base {
            None => vm.disk(&self.path),
            Some(_) => vm.option(&format!("disk \"{}\" format qcow2", self.path.display())),
        }
    }

    /// Behind what the guest writes, up to the base's end and beyond.
    fn shows_its_base(&self, guest: &mut Guest) {
        let Some(base) = &self.base else { return };
        let shown = guest.check("dd if=/dev/vda bs=1M skip=4 count=4 iflag=direct 2>/dev/null | sha256sum");
        assert_eq!(shown, on_host("dd if=\"$1\" bs=1M skip=4 count=4 2>/dev/null | sha256sum", base));
        assert_eq!(guest.check("dd if=/dev/vda bs=1M skip=12 iflag=direct 2>/dev/null | tr -d '\\0' | wc -c"), "0");
    }

    /// As others' tools read it; and they find nothing wrong.
    fn checksum_on_host(&self) -> String {
        let Some(base) = &self.base else { return checksum_on_host(&self.path) };
        let raw = self.path.with_extension("raw");
        on_host("qemu-img check -q \"$1\" && qemu-img convert -O raw \"$1\" \"${1%.qcow2}.raw\"", &self.path);
        on_host("cmp \"$1\" \"${1%.img}.copy\"", base);
        on_host("cmp -i 4194304 -n 4194304 \"$1\" \"${1%base.img}disk.raw\"", base);
        checksum_on_host(&raw)
    }
}

/// What a command on the host says of a file, its first argument.
fn on_host(script: &str, file: &Path) -> String {
    let output = Command::new("sh").args(["-c", script, "sh"]).arg(file).output().expect("sh can be run");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    assert!(output.status.success(), "{script}: {} {}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

fn shows_its_banner(guest: &Guest) {
    let banner = format!("Linux version {}", artefacts::kernel_version());
    assert!(guest.boot().contains(&banner), "no {banner:?} in: {}", guest.boot());
}

fn has_all_processors_and_memory(guest: &mut Guest, vcpus: u32, memory: &str) {
    assert_eq!(guest.check("nproc"), vcpus.to_string());
    let total: u64 = guest.check("awk '/^MemTotal/ { print $2 }' /proc/meminfo").parse().expect("a number of kB");
    let ram = guest.check("grep 'System RAM' /proc/iomem");
    // The kernel keeps some for itself: 45 MB of a small guest, 1/64 and more of a large one.
    if memory == "6G" {
        assert!((5_900_000..6_291_456).contains(&total), "{total} kB");
        assert!(ram.contains("100000000-"), "memory goes on above the hole: {ram}");
    } else {
        assert!((200_000..262_144).contains(&total), "{total} kB");
        assert!(!ram.contains("100000000-"), "all of it lies below the hole: {ram}");
    }
}

/// Behind the entropy device, the card and the disk, with its ports where the guest's kernel can use them.
fn has_vmmci(guest: &mut Guest) -> bool {
    let shown = guest.check(
        "cd /sys/bus/pci/devices && for of in *:04.0; do cat $of/device $of/resource; done 2>/dev/null | head -2; true",
    );
    if shown.is_empty() {
        return false;
    }
    let mut lines = shown.lines().map(str::trim);
    assert_eq!(lines.next(), Some("0x0777"), "{shown}");
    let ports = lines.next().unwrap_or_default();
    assert!(ports.starts_with("0x0000000000001000 0x0000000000001fff "), "{ports}");
    true
}

fn has_entropy(guest: &mut Guest) {
    assert_eq!(guest.check("cat /sys/class/misc/hw_random/rng_current"), "virtio_rng.0");
    assert_eq!(guest.check("dd if=/dev/hwrng bs=32 count=1 2>/dev/null | wc -c"), "32");
}

fn writes_its_disk(guest: &mut Guest) -> String {
    assert_eq!(guest.check("blockdev --getsize64 /dev/vda"), DISK.to_string());
    guest.check(&format!("dd if=/dev/urandom of=/dev/vda {WRITTEN} conv=fsync 2>/dev/null"));
    disk_checksum(guest)
}

/// Behind what is read back later. Clusters of an image go back when what showed them is written out.
fn gives_room_back(guest: &mut Guest, image: &Path) {
    let blocks = || image.metadata().expect("the image is there").blocks();
    guest.check("dd if=/dev/urandom of=/dev/vda bs=1M seek=8 count=4 conv=fsync 2>/dev/null");
    let before = blocks();
    guest.check("blkdiscard -o 8388608 -l 4194304 /dev/vda");
    deadline::until("the blocks to be given back", DAEMON, || (blocks() + 8000 < before).then_some(()));
    let zeros = guest.check("dd if=/dev/vda bs=1M skip=8 count=4 iflag=direct 2>/dev/null | tr -d '\\0' | wc -c");
    assert_eq!(zeros, "0");
}

/// Of 6 MiB a second's 2 are there at once, and the last request is begun on credit.
fn is_held_to_its_limit(guest: &mut Guest) {
    let began = Instant::now();
    guest.check("dd if=/dev/vda of=/dev/null bs=1M count=6 2>/dev/null");
    assert!(began.elapsed() >= Duration::from_millis(1500), "6 MiB took {:?}", began.elapsed());
}

fn disk_checksum(guest: &mut Guest) -> String {
    guest.check(&format!("dd if=/dev/vda {WRITTEN} 2>/dev/null | sha256sum"))
}

fn checksum_on_host(image: &Path) -> String {
    on_host(&format!("dd if=\"$1\" {WRITTEN} 2>/dev/null | sha256sum"), image)
}

fn reboots(daemon: &Daemon, mut guest: Guest) -> Guest {
    let before = daemon.row("guest");
    guest.begin("reboot -f");
    let guest = guest.wait_up_again();
    let after = daemon.row("guest");
    assert_ne!(before.pid, after.pid, "a reboot is a new process");
    assert_eq!((before.id, before.tty), (after.id, after.tty), "with the same id and console");
    assert_eq!(after.state, "running");
    guest
}

fn pings_both_ways(guest: &mut Guest) {
    assert_eq!(bridge::members(BRIDGE).len(), 1, "one tap on the bridge");
    bridge::ip(&format!("addr add {HOST}/24 dev {BRIDGE}"));
    assert_eq!(guest.check("cat /sys/class/net/eth0/address"), LLADDR);
    guest.check(&format!("ip addr add {GUEST_ADDRESS}/24 dev eth0 && ip link set eth0 up"));
    guest.check(&format!("ping -c 3 -W 10 {HOST}"));
    assert!(bridge::ping(GUEST_ADDRESS), "the host reaches the guest");
}

fn has_a_console_session(daemon: &Daemon) {
    let mut session = daemon.vmctl_console("guest");
    session.send("\necho session-$((6 * 7))\n");
    session.expect("session-42", GUEST);
    session.send("\r~.");
    assert_eq!(session.finish(DAEMON), Some(0), "leaving with ~. is success");
    assert_eq!(daemon.row("guest").state, "running", "and the guest does not notice");
}

fn stops_gracefully(daemon: &Daemon) {
    let mut console = daemon.console("guest");
    let id = daemon.row("guest").id;
    // Read meanwhile: what a console holds is lost when its other side closes.
    let stop = thread::spawn(|| daemon::vmctl(&["stop", "-w", "guest"]));
    console.expect(POWER_BUTTON, GUEST);
    let reply = stop.join().expect("vmctl was run").success();
    assert_eq!(reply.stderr, format!("stopping vm guest: terminated vm {id}\n"));
    let row = daemon.row("guest");
    assert_eq!((row.state.as_str(), row.pid), ("stopped", None));
}

#[test]
fn a_guest_without_msi_has_its_interrupts_by_intx() {
    Machine::default().run("a_guest_without_msi_has_its_interrupts_by_intx", || {
        has_its_interrupts_by("pci=nomsi", "IO-APIC");
    });
}

#[test]
fn a_guest_without_io_apic_has_its_interrupts_by_the_8259s() {
    Machine::default().run("a_guest_without_io_apic_has_its_interrupts_by_the_8259s", || {
        has_its_interrupts_by("pci=nomsi noapic", "XT-PIC");
    });
}

/// Without ACPI Linux looks for a keyboard controller, port access by port access: seconds, and in the lab minutes.
const NO_KEYBOARD: &str = "initcall_blacklist=i8042_init";

#[test]
fn a_guest_without_acpi_has_what_firmware_leaves_behind() {
    Machine::default().run("a_guest_without_acpi_has_what_firmware_leaves_behind", || {
        has_its_interrupts_by(&format!("acpi=off {NO_KEYBOARD}"), "XT-PIC");
    });
}

/// It takes the window in which firmware put the BARs for a device of ACPI's, and puts them elsewhere.
#[test]
fn a_guest_that_takes_no_pci_from_acpi_has_disk_and_card() {
    Machine::default().run("a_guest_that_takes_no_pci_from_acpi_has_disk_and_card", || {
        has_its_interrupts_by("pci=noacpi", "XT-PIC");
    });
}

fn has_its_interrupts_by(arguments: &str, controller: &str) {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let disk = dir.path().join("disk.img");
    File::create(&disk).and_then(|file| file.set_len(DISK)).expect("an image can be made");
    let vm = Vm::new("guest", Kernel::BzImage).disk(&disk).card("lan", LLADDR).arguments(arguments);
    let daemon = Daemon::start(&(switch("lan", BRIDGE) + &vm.text()));
    daemon.vmctl(&["start", "guest"]).success();
    let mut guest = Guest::wait_up(daemon.console("guest"));
    has_entropy(&mut guest);
    let checksum = writes_its_disk(&mut guest);
    pings_both_ways(&mut guest);
    // The functions share three lines, so one of these has one to four names behind it.
    let interrupts = guest.check("grep virtio /proc/interrupts");
    for line in interrupts.lines() {
        assert!(line.contains(controller), "{arguments}: {line}");
    }
    for device in ["virtio0", "virtio1", "virtio2"] {
        assert!(interrupts.contains(device), "{arguments}: no {device} in {interrupts}");
    }
    drop(guest);
    daemon.vmctl(&["stop", "-f", "-w", "guest"]).success();
    assert_eq!(checksum_on_host(&disk), checksum, "the image holds what the guest wrote");
    assert!(daemon.stop().success(), "vmd ends well");
}

#[test]
fn a_guest_that_resets_by_the_reset_vector_starts_again() {
    Machine::default().run("a_guest_that_resets_by_the_reset_vector_starts_again", || starts_again("reboot=b"));
}

#[test]
fn a_guest_that_resets_by_efi_without_having_it_starts_again() {
    Machine::default().run("a_guest_that_resets_by_efi_without_having_it_starts_again", || starts_again("reboot=e"));
}

fn starts_again(arguments: &str) {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let disk = dir.path().join("disk.img");
    File::create(&disk).and_then(|file| file.set_len(DISK)).expect("an image can be made");
    let limited = format!("disk \"{}\" {{ bandwidth 2M }}", disk.display());
    let daemon = Daemon::start(&Vm::new("guest", Kernel::BzImage).option(&limited).arguments(arguments).text());
    daemon.vmctl(&["start", "guest"]).success();
    let guest = Guest::wait_up(daemon.console("guest"));
    let mut guest = reboots(&daemon, guest);
    is_held_to_its_limit(&mut guest);
    drop(guest);
    daemon.vmctl(&["stop", "-f", "-w", "guest"]).success();
    assert!(daemon.stop().success(), "vmd ends well");
}
