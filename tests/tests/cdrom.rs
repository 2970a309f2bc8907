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

fn refused(daemon: &Daemon, arguments: &[&str]) -> String {
    let reply = daemon.vmctl(arguments);
    assert_eq!(reply.status, Some(1), "{reply:?}");
    reply.stderr
}

fn shown(daemon: &Daemon) -> serde_json::Value {
    let said = daemon.vmctl(&["status", "--json", "guest"]).success().stdout;
    let status: serde_json::Value = serde_json::from_str(&said).expect("JSON");
    status["cdrom"]["medium"].clone()
}

/// The second image is another and larger, and the guest sees that; the tray that the guest has locked is opened by force alone.
fn changes_while_it_runs(daemon: &Daemon, guest: &mut Guest, directory: &std::path::Path) {
    let second = directory.join("second.iso");
    image(&second, 7, BLOCKS + 9);
    let path = second.to_str().expect("text");
    daemon.vmctl(&["cdrom", "guest", "eject"]).success();
    assert_eq!(shown(daemon), serde_json::Value::Null);
    assert_ne!(guest.run("dd if=/dev/sr0 of=/dev/null bs=2048 count=1").status, 0, "there is no medium");
    let missing = refused(daemon, &["cdrom", "guest", "insert", "/nowhere.iso"]);
    assert!(missing.contains("invalid iso image path: /nowhere.iso: No such file"), "{missing}");
    daemon.vmctl(&["cdrom", "guest", "insert", path]).success();
    assert_eq!(shown(daemon), path);
    let read = guest.check("md5sum /dev/sr0");
    assert_eq!(read.split_whitespace().next(), Some(checksum(&second).as_str()));
    assert_eq!(guest.check("cat /sys/block/sr0/size").trim(), ((BLOCKS + 9) * 4).to_string());
    // Who has it open has locked the tray.
    guest.check("(exec 8</dev/sr0; : >/tmp/held; exec sleep 1000000) >/dev/null 2>&1 & echo $! >/tmp/holder");
    guest.check("until [ -e /tmp/held ]; do sleep 0.1; done");
    let locked = refused(daemon, &["cdrom", "guest", "eject"]);
    assert!(locked.contains("has locked the tray of its CD-ROM drive"), "{locked}");
    assert_eq!(shown(daemon), path);
    daemon.vmctl(&["cdrom", "-f", "guest", "eject"]).success();
    guest.check("kill $(cat /tmp/holder)");
    assert_ne!(guest.run("dd if=/dev/sr0 of=/dev/null bs=2048 count=1").status, 0, "it is out");
    assert!(daemon.vmctl(&["status", "guest"]).success().stdout.contains("\ncdrom: empty\n"));
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
        // Linux looks for drives beside what else it does.
        guest.check("until [ -b /dev/sr0 ]; do sleep 0.1; done");
        let size = guest.check("cat /sys/block/sr0/size");
        assert_eq!(size.trim(), (BLOCKS * 4).to_string(), "in units of 512 bytes");
        assert_eq!(
            guest.check("cat /sys/block/sr0/device/vendor /sys/block/sr0/device/model").trim(),
            "OpenBSD \nVMM CD-ROM"
        );
        let read = guest.check("md5sum /dev/sr0");
        assert_eq!(read.split_whitespace().next(), Some(checksum(&first).as_str()));
        assert_ne!(guest.run("dd if=/dev/zero of=/dev/sr0 bs=2048 count=1").status, 0, "it is only read");
        changes_while_it_runs(&daemon, &mut guest, directory.path());
        daemon.vmctl(&["stop", "-f", "-w", "guest"]).success();
        assert!(daemon.stop().success(), "vmd ends well");
        before.wait_same();
    });
}
