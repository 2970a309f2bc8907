//! Sections 7.3 and 10: `vm` and its options.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use config::{Macros, Sources};
use model::{BootDevice, DiskFormat, DiskLimits, Rate, Sev};

use crate::world::World;
use crate::{config, errors, option_refused, refused, told, told_by, vm};

#[test]
fn a_vm_that_says_only_its_disk_has_the_defaults() {
    let vm = vm("enable");
    assert_eq!((vm.enabled, vm.memory.bytes(), vm.cpus), (true, 512 << 20, 1));
    assert_eq!((vm.boot, vm.boot_device, vm.cdrom, vm.nics.len(), vm.sev), (None, None, None, 0, None));
    assert_eq!((vm.owner.uid, vm.owner.gid, vm.allow.owner), (0, None, None));
}

#[test]
fn of_enable_and_disable_the_last_counts() {
    assert!(!vm("enable\n\tdisable").enabled && vm("disable\n\tenable").enabled);
}

#[test]
fn memory_is_bytes_or_a_size_in_whole_mebibytes() {
    let bytes = |text: &str| vm(&format!("memory {text}")).memory.bytes();
    assert_eq!(bytes("1048576"), 1 << 20);
    assert_eq!(bytes("2097151"), 1 << 20, "rounded down");
    assert_eq!(bytes("1.5G"), 1_610_612_736);
    assert_eq!(bytes("128G"), 128 << 30);
    assert_eq!(bytes("\"512m\""), 512 << 20);
    option_refused("memory 1048575", "failed to parse size: 1048575: memory size must be at least 1MB");
    option_refused("memory -1", "failed to parse size: -1: memory size must be at least 1MB");
    option_refused("memory 129G", "failed to parse size: 129G: memory size too large (limit is 128G)");
    option_refused("memory 137438953473", "failed to parse size: 137438953473: memory size too large (limit is 128G)");
    option_refused("memory 1GB", "invalid memory size: 1GB: Invalid argument");
    option_refused("memory 99E", "invalid memory size: 99E: Result too large");
    option_refused("memory \"\"", "failed to parse size: : memory size must be at least 1MB");
}

#[test]
fn cpus_are_1_to_64() {
    assert_eq!((vm("cpus 1").cpus, vm("cpus 64").cpus), (1, 64));
    option_refused("cpus 0", "invalid number of cpus: 0");
    option_refused("cpus 65", "invalid number of cpus: 65");
    option_refused("cpus -1", "invalid number of cpus: -1");
}

#[test]
fn what_may_be_given_once_is_told_when_it_is_given_again() {
    for (option, what) in [
        ("memory 1G", "memory"),
        ("memory 1073741824", "memory"),
        ("cpus 2", "cpus"),
        ("boot \"/k\"", "boot"),
        ("cdrom \"/c\"", "cdrom"),
        ("interfaces 1", "interfaces"),
    ] {
        let text = format!("vm v {{\n\tdisk d\n\t{option}\n\t{option}\n}}\n");
        refused(&text, &format!("4: {what} specified more than once"));
    }
    assert_eq!(vm("interfaces 0\n\tinterfaces 2").nics.len(), 2, "0 was none");
}

#[test]
fn a_kernel_must_be_there_and_is_kept_resolved() {
    assert_eq!(vm("boot \"bsd\"").boot.as_deref(), Some("/here/bsd"));
    option_refused("boot \"/nonexistent\"", "kernel path not found: \"/nonexistent\": No such file or directory");
}

#[test]
fn of_several_boot_devices_the_last_counts_and_none_is_checked() {
    let device = |text: &str| vm(text).boot_device;
    assert_eq!(device("boot device cdrom"), Some(BootDevice::Cdrom));
    assert_eq!(device("boot device cdrom\n\tboot device disk"), Some(BootDevice::Disk));
    assert_eq!(device("boot \"/k\"\n\tboot device net"), Some(BootDevice::Net));
    option_refused("boot device hd", "unknown boot device \"hd\"");
}

#[test]
fn a_cdrom_of_none_is_an_empty_drive() {
    for options in ["cdrom none", "cdrom \"none\"", "cdrom \"\""] {
        let vm = vm(&format!("disk d\n\t{options}"));
        assert_eq!((vm.cdrom.as_deref(), vm.medium()), (Some(""), None), "{options}");
    }
}

#[test]
fn a_cdrom_is_kept_as_written_and_not_looked_for() {
    assert_eq!(vm("cdrom \"nonexistent/x.iso\"").cdrom.as_deref(), Some("nonexistent/x.iso"));
    assert_eq!(config("vm v { cdrom x.iso }\n").vms.len(), 1, "it is enough to boot from");
}

#[test]
fn a_disk_must_be_there_is_kept_resolved_and_has_at_most_16_beside_it() {
    assert_eq!(config("vm v { disk \"a.img\" }\n").vms[0].disks[0].path.as_str(), "/here/a.img");
    option_refused("disk \"/nonexistent\"", "disk path not found: \"/nonexistent\": No such file or directory");
    config(&format!("vm v {{\n{}}}\n", "disk d\n".repeat(16)));
    let text = format!("vm v {{\n{}disk last\n}}\n", "disk d\n".repeat(16));
    refused(&text, "18: failed to parse disks: last: too many disks");
}

/// The original reads the file, whose contents a guest may have written.
#[test]
fn a_disks_format_is_its_word_then_its_prefix_then_its_extension_then_raw() {
    let format = |text: &str| {
        let format = vm(&format!("disk {text}")).disks.remove(1).format;
        (format.kind, format.named)
    };
    assert_eq!(format("x format raw"), (DiskFormat::Raw, true));
    assert_eq!(format("x.raw format QCOW2"), (DiskFormat::Qcow2, true));
    assert_eq!(format("qcow2:x"), (DiskFormat::Qcow2, true));
    assert_eq!(format("x.qcow2"), (DiskFormat::Qcow2, false));
    assert_eq!(format("x.img"), (DiskFormat::Raw, false));
    option_refused("disk x format rotten", "unrecognized disk format rotten");
}

#[test]
fn a_card_names_any_tap_or_one() {
    assert_eq!(vm("interface tap").nics[0].tap, None);
    assert_eq!(vm("interface tap12").nics[0].tap.as_ref().map(|tap| tap.as_str()), Some("tap12"));
    for name in ["eth0", "tapx", "tap3x", "\"\""] {
        option_refused(&format!("interface {name}"), &format!("invalid interface: {}", name.trim_matches('"')));
    }
    option_refused("interface tap1234567890123", "interface name too long: tap1234567890123");
}

#[test]
fn a_ninth_interface_is_too_many() {
    let nics = |count| format!("vm v {{\n\tdisk d\n{}}}\n", "interface\n".repeat(count));
    assert_eq!(config(&nics(8)).vms[0].nics.len(), 8);
    refused(&nics(9), "11: too many interfaces: 9");
}

#[test]
fn interfaces_is_the_least_number_of_cards_and_the_rest_are_plain() {
    let nics = vm("interfaces 3\n\tlocal interface").nics;
    assert_eq!(nics.iter().map(|nic| nic.local).collect::<Vec<_>>(), [true, false, false]);
    assert_eq!(vm("interface\n\tinterface\n\tinterfaces 1").nics.len(), 2);
    option_refused("interfaces 9", "too many interfaces: 9");
    option_refused("interfaces -1", "too many interfaces: -1");
}

#[test]
fn an_address_is_six_octets_or_random_and_locks_when_it_says_so() {
    let nic = |text: &str| vm(&format!("interface {text}")).nics.remove(0);
    let address = |text: &str| nic(text).lladdr.map(|address| address.to_string());
    assert_eq!(address("lladdr 2:A:b:0x0:00:f").as_deref(), Some("02:0a:0b:00:00:0f"));
    assert_eq!((address("lladdr"), address("lladdr 00:00:00:00:00:00"), address("up")), (None, None, None));
    assert!(nic("locked lladdr").locked && !nic("lladdr 2:0:0:0:0:1").locked);
    assert!(nic("locked lladdr lladdr 2:0:0:0:0:1").locked, "never cleared");
    for text in
        ["00:11:22:33:44", "0:0:0:0:0:100", "g:0:0:0:0:0", "\"\"", "0000:11:22:33:44:54", "00000000000a:1:2:3:4:5"]
    {
        option_refused(&format!("interface lladdr {text}"), &format!("invalid address: {}", text.trim_matches('"')));
    }
}

#[test]
fn of_a_repeated_option_of_a_card_the_last_counts() {
    let nic = vm("interface switch a switch b rdomain 1 rdomain 2 group a group b up down").nics.remove(0);
    assert_eq!((nic.switch.expect("b").as_str(), nic.rdomain, nic.up), ("b", Some(2), false));
    assert_eq!(nic.group.expect("b").name.as_str(), "b");
}

/// What is kept is the file that a link leads to; the daemon looks at that one's extension too.
#[test]
fn a_links_own_extension_does_not_count() {
    let format = |text: &str| {
        let told = told_by(format!("vm v {{ disk {text} }}\n").as_bytes(), &Macros::new(), &Links);
        let disk = told.config.expect("right").vms.remove(0).disks.remove(0);
        (disk.path.to_string(), disk.format.kind, disk.format.named)
    };
    assert_eq!(format("/link.img"), ("/to.qcow2".to_owned(), DiskFormat::Qcow2, false));
    assert_eq!(format("/link.qcow2"), ("/to".to_owned(), DiskFormat::Raw, false));
    assert_eq!(format("/link.img format raw"), ("/to.qcow2".to_owned(), DiskFormat::Raw, true));
    assert_eq!(format("qcow2:/link.qcow2"), ("/to".to_owned(), DiskFormat::Qcow2, true));
}

/// Links, and where they lead to.
struct Links;

impl Sources for Links {
    fn include(&self, path: &Path) -> io::Result<Vec<u8>> {
        World.include(path)
    }

    fn resolve(&self, path: &Path) -> io::Result<PathBuf> {
        Ok(match path.to_str() {
            Some("/link.img") => "/to.qcow2".into(),
            Some("/link.qcow2") => "/to".into(),
            Some("/latin1") => OsStr::from_bytes(b"/caf\xe9").into(),
            _ => path.to_owned(),
        })
    }
}

/// What goes from process to process is UTF-8, and told here with its place.
#[test]
fn paths_and_command_lines_are_utf8() {
    let wrong = |option: &str, said: &str| {
        let mut text = b"vm v {\n\tdisk /d\n\t".to_vec();
        text.extend(option.replace('#', "\u{1}").bytes().map(|byte| if byte == 1 { 0xe9 } else { byte }));
        text.extend(b"\n}\n");
        let wrong = config::parse("f", &text, &Macros::new(), &Links, &World).expect_err(option).errors;
        let told = wrong.iter().map(|error| error.to_string()).collect::<Vec<_>>();
        assert!(told.len() == 1 && told[0].starts_with("f:3:") && told[0].contains(said), "{option}: {told:?}");
        wrong[0].fault.hint()
    };
    let write = Some("write it in UTF-8".to_owned());
    assert_eq!(wrong("disk \"/x#\"", ": disk path is not UTF-8: \"/x\u{fffd}\"\n"), write);
    assert_eq!(wrong("boot \"#\"", ": kernel path is not UTF-8: \"\u{fffd}\"\n"), write);
    assert_eq!(wrong("initrd \"#\"", ": initrd path is not UTF-8: \""), write);
    assert_eq!(wrong("cdrom \"#\"", ": cdrom path is not UTF-8: \""), write);
    assert_eq!(wrong("cmdline \"a=#\"", ": kernel command line is not UTF-8: \"a=\u{fffd}\""), write);
    let rename = Some("rename the file".to_owned());
    assert_eq!(wrong("disk /latin1", ": disk path leads to a name that is not UTF-8: \"/caf\u{fffd}\"\n"), rename);
    assert_eq!(wrong("boot /latin1", ": kernel path leads to a name that is not UTF-8: \""), rename);
}

#[test]
fn of_several_owners_the_last_counts() {
    let owner = vm("owner joe:staff\n\towner ann").owner;
    assert_eq!((owner.uid, owner.gid), (1001, None));
}

#[test]
fn a_disk_has_the_limits_that_are_said_and_a_second_of_each_at_once() {
    let limits = |options: &str| vm(&format!("disk d {options}")).disks.last().expect("it").limits;
    assert_eq!(limits(""), DiskLimits::default());
    assert_eq!(limits("{ }"), DiskLimits::default());
    let both = DiskLimits { iops: Rate::new(500, 1000), bandwidth: Rate::new(1 << 20, 1 << 20) };
    assert_eq!(limits("format raw { iops 500 burst 1000 bandwidth 1M }"), both);
    assert_eq!(limits("{\n\tbandwidth 1048576 burst 1M\n\tiops 500 burst 1000\n\t}"), both);
    assert_eq!(limits("{ iops 1 burst 2 iops 7 }"), DiskLimits { iops: Rate::new(7, 7), bandwidth: None }, "the last");
    for (option, error) in [
        ("iops 0", "invalid iops: 0"),
        ("iops 1000000001", "invalid iops: 1000000001"),
        ("iops 1 burst 0", "invalid burst: 0"),
        ("bandwidth 65535", "invalid bandwidth: 65535"),
        ("bandwidth 2P", "invalid bandwidth: 2P"),
        ("bandwidth 1x", "invalid bandwidth: 1x: Invalid argument"),
    ] {
        option_refused(&format!("disk d {{ {option} }}"), error);
    }
}

#[test]
fn seves_is_sev_and_more_in_any_order() {
    let sev = |text: &str| vm(text).sev;
    assert_eq!(
        (sev("sev\n\tsev"), sev("seves\n\tsev"), sev("sev\n\tseves")),
        (Some(Sev::Memory), Some(Sev::State), Some(Sev::State))
    );
}

#[test]
fn a_vms_name_has_63_bytes_and_is_checked_by_the_check_too() {
    assert_eq!(config(&format!("vm {} {{ disk d }}\n", "x".repeat(63))).vms.len(), 1);
    let long = "x".repeat(64);
    refused(&format!("vm {long} {{ disk d }}\n"), "1: vm name too long");
    refused(&format!("vm {long} instance i {{ disk d }}\n"), &format!("1: vm {long} name too long"));
    for name in ["1", "9.a-b_c"] {
        assert_eq!(config(&format!("vm \"{name}\" {{ disk d }}\n")).vms[0].name.as_str(), name);
    }
    for name in ["", "-a", ".a", "_a", "a b", "a/b", "ä"] {
        refused(&format!("vm \"{name}\" {{ disk d }}\n"), &format!("1: invalid VM name \"{name}\""));
    }
}

#[test]
fn a_second_block_of_a_name_has_no_effect_and_is_warned_of() {
    let told = told("vm a { boot \"/k\" }\nvm a { disk d\n\tmemory 1G\n}\n");
    assert_eq!(told.warnings, ["2: vm \"a\" is defined a second time: this block has no effect"]);
    let config = told.config.expect("right");
    assert_eq!((config.vms.len(), config.vms[0].boot.as_deref()), (1, Some("/k")), "its kernel neither");
}

#[test]
fn a_vm_without_any_device_is_none() {
    for options in ["disable", "owner joe", "boot device disk", "allow instance boot", "sev"] {
        refused(&format!("vm x {{ {options}\n}}\n"), "1: vm \"x\" failed: invalid configuration, no devices");
    }
}

#[test]
fn a_vm_has_something_to_boot_from() {
    for options in ["memory 1G", "cpus 2", "interface", "interfaces 1"] {
        refused(&format!("vm x {{ {options}\n}}\n"), "1: vm \"x\" failed: no kernel or disk/cdrom specified");
    }
    for options in ["boot \"/k\"", "disk d", "cdrom c"] {
        assert_eq!(config(&format!("vm x {{ {options} }}\n")).vms.len(), 1);
    }
}

#[test]
fn vms_stand_in_the_order_of_the_file() {
    let read = config("vm c { disk d }\nvm a { disk d }\nvm b { disk d }\n");
    assert_eq!(read.vms.iter().map(|vm| vm.name.as_str()).collect::<Vec<_>>(), ["c", "a", "b"]);
}

#[test]
fn options_that_development_trees_had_are_none() {
    for option in ["firmware bios", "efivars \"/x\"", "display 1024x768", "id 5", "nifs 5", "user joe"] {
        let word = option.split(' ').next().expect("a word");
        assert_eq!(
            errors(&format!("vm v {{\n\tdisk d\n\t{option}\n}}\n")),
            [format!("3: syntax error: unknown vm option \"{word}\"")]
        );
    }
}
