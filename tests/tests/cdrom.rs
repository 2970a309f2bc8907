//! A stock guest reads a CD-ROM with its kernel's own drivers (virtio_scsi and sr_mod).
#![forbid(unsafe_code)]

use std::fs;

use e2e::vm_conf::Vm;
use testkit::artefacts::Kernel;
use testkit::census::Census;
use testkit::daemon::Daemon;
use testkit::guest::Guest;
use testkit::machine::Machine;

/// Blocks of the first image.
const BLOCKS: u32 = 512;

/// An image in which each block tells its number and which image it is.
fn image(path: &std::path::Path, which: u32, blocks: u32) {
    let mut bytes = Vec::new();
    for block in 0..blocks {
        let words = (0..512).flat_map(|word| (block * 512 + word * which).to_le_bytes());
        bytes.extend(words);
    }
    fs::write(path, bytes).expect("it is ours");
}

/// What a tool on this side says of a file, in the words of the guest's.
fn checksum(path: &std::path::Path) -> String {
    let said = std::process::Command::new("md5sum").arg(path).output().expect("md5sum runs");
    String::from_utf8_lossy(&said.stdout).split_whitespace().next().expect("a sum").to_owned()
}

#[test]
fn a_guest_reads_the_image_in_its_cdrom_drive() {
    Machine::default().run("a_guest_reads_the_image_in_its_cdrom_drive", || {
        let before = Census::take();
        let directory = tempfile::tempdir().expect("a directory");
        let first = directory.path().join("first.iso");
        image(&first, 1, BLOCKS);
        let vm = Vm::new("guest", Kernel::BzImage).option(&format!("cdrom \"{}\"", first.display()));
        let daemon = Daemon::start(&vm.text());
        daemon.vmctl(&["start", "guest"]).success();
        let mut guest = Guest::wait_up(daemon.console("guest"));
        let size = guest.check("cat /sys/block/sr0/size");
        assert_eq!(size.trim(), (BLOCKS * 4).to_string(), "in units of 512 bytes");
        assert_eq!(
            guest.check("cat /sys/block/sr0/device/vendor /sys/block/sr0/device/model").trim(),
            "OpenBSD \nVMM CD-ROM"
        );
        let read = guest.check("md5sum /dev/sr0");
        assert_eq!(read.split_whitespace().next(), Some(checksum(&first).as_str()));
        assert_ne!(guest.run("dd if=/dev/zero of=/dev/sr0 bs=2048 count=1").status, 0, "it is only read");
        daemon.vmctl(&["stop", "-f", "-w", "guest"]).success();
        assert!(daemon.stop().success(), "vmd ends well");
        before.wait_same();
    });
}
