//! One test per rule of the command line.

use model::{BootDevice, DiskFormat, MemorySize, SwitchName};
use proto::client::NicArg;

use super::*;
use crate::create::Content;

fn parsed(line: &str) -> Result<Command, String> {
    words_parsed(&line.split_whitespace().collect::<Vec<_>>())
}

fn words_parsed(words: &[&str]) -> Result<Command, String> {
    let arguments: Vec<OsString> = words.iter().map(OsString::from).collect();
    parse(&arguments).map(|invocation| invocation.command).map_err(|misuse| misuse.to_string())
}

fn usage_of(line: &str) -> String {
    let error = parsed(line).expect_err(line);
    error.strip_prefix("usage:\tvmctl [-v] ").unwrap_or_else(|| panic!("{error}")).to_owned()
}

fn started(line: &str) -> Start {
    match parsed(line) {
        Ok(Command::Start(start)) => *start,
        other => panic!("{other:?}"),
    }
}

fn named(name: &str) -> VmRef {
    VmRef::Name(VmName::new(name).expect("a name"))
}

#[test]
fn no_command_shows_the_general_usage() {
    for line in ["", "-v", "-vv --"] {
        assert_eq!(parsed(line), Err(GENERAL.into()), "{line:?}");
    }
    assert_eq!(parsed("-x"), Err(format!("vmctl: unknown option -- x\n{GENERAL}")));
}

#[test]
fn shortest_forms_of_the_specification_are_commands() {
    let forms = [
        ("co x", "console x"),
        ("cr -s 1M x", "create -s 1M x"),
        ("loa x", "load x"),
        ("log b", "log brief"),
        ("p x", "pause x"),
        ("rel", "reload"),
        ("res", "reset"),
        ("rec x", "receive x"),
        ("sh", "show"),
        ("se x", "send x"),
        ("star x", "start x"),
        ("stat", "status"),
        ("sto x", "stop x"),
        ("u x", "unpause x"),
        ("w x", "wait x"),
    ];
    for (short, long) in forms {
        assert!(parsed(long).is_ok(), "{long}");
        assert_eq!(parsed(short), parsed(long), "{short}");
    }
}

#[test]
fn shorter_ones_are_ambiguous_and_others_unknown() {
    for word in ["c", "l", "lo", "r", "re", "s", "st", "sta"] {
        let error = parsed(word).expect_err(word);
        assert!(error.starts_with(&format!("ambiguous argument: {word}: ")), "{error}");
        assert!(error.ends_with(&format!("\n{GENERAL}")), "{error}");
    }
    assert!(words_parsed(&[""]).expect_err("empty").starts_with("ambiguous argument: : cdrom, console, create"));
    let unknown = &format!("unknown argument: Start (did you mean \"start\"?)\n{GENERAL}");
    assert_eq!(parsed("Start"), Err(unknown.into()));
    assert_eq!(parsed("xyz"), Err(format!("unknown argument: xyz\n{GENERAL}")));
}

#[test]
fn a_command_of_ours_takes_no_abbreviation_from_the_originals() {
    let entry = |name| Entry { name, about: "", syntax: "", parse: reload };
    let commands = [entry("disk-fail"), entry("doctor"), entry("status"), entry("stop"), entry("ours")];
    let meant = |word: &str| meant(word, &commands, &["doctor", "ours"]).map(|entry| entry.name).ok();
    assert_eq!(
        (meant("d"), meant("di"), meant("do"), meant("o")),
        (Some("disk-fail"), Some("disk-fail"), Some("doctor"), Some("ours"))
    );
    assert_eq!((meant("st"), meant(""), meant("x")), (None, None, None));
}

#[test]
fn verbose_precedes_the_command() {
    let arguments = ["-v", "reload"].map(OsString::from);
    assert!(parse(&arguments).expect("right").verbose);
    assert_eq!(parsed("reload -v"), Err("vmctl: unknown option -- v\nusage:\tvmctl [-v] reload".into()));
}

#[test]
fn wrong_operands_show_the_usage_of_the_command() {
    for (line, usage) in [
        ("console", "console id"),
        ("console a b", "console id"),
        ("create", "create [-b base | -i disk] [-s size] disk"),
        ("image", "image [-r] [--json] info | check disk | resize disk size"),
        ("image info", "image [-r] [--json] info | check disk | resize disk size"),
        ("image resize x", "image [-r] [--json] info | check disk | resize disk size"),
        ("image --json resize x 1G", "image [-r] [--json] info | check disk | resize disk size"),
        ("image check x 1G", "image [-r] [--json] info | check disk | resize disk size"),
        ("image -r info x", "image [-r] [--json] info | check disk | resize disk size"),
        ("image inf x", "image [-r] [--json] info | check disk | resize disk size"),
        ("load", "load filename"),
        ("log", "log [brief | verbose]"),
        ("log loud", "log [brief | verbose]"),
        ("cdrom web", "cdrom [-f] id eject | insert path"),
        ("cdrom web eject /a.iso", "cdrom [-f] id eject | insert path"),
        ("cdrom web insert", "cdrom [-f] id eject | insert path"),
        ("cdrom web close", "cdrom [-f] id eject | insert path"),
        ("memory", "memory id size"),
        ("nmi", "nmi id"),
        ("pause", "pause id"),
        ("receive", "receive name"),
        ("reload now", "reload"),
        ("reset vm", "reset [all | switches | vms]"),
        ("reset all vms", "reset [all | switches | vms]"),
        ("send", "send id"),
        ("show a b", "show [--json] [id]"),
        ("status a b", "status [--json] [-r] [id]"),
        ("stop", "stop [-fw] [id | -a]"),
        ("stop -a x", "stop [-fw] [id | -a]"),
        ("stop x y", "stop [-fw] [id | -a]"),
        ("unpause", "unpause id"),
        ("wait", "wait id"),
        (
            "start",
            "start [-cLw] [-B device] [-b path] [-d disk] [-i count]\n\t\t[-m size] [-n switch] [-p count] [-r path] [-t name] id | name",
        ),
    ] {
        assert_eq!(usage_of(line), usage, "{line}");
    }
}

#[test]
fn unknown_options_are_named_before_the_usage() {
    let expected = "vmctl: unknown option -- x\nusage:\tvmctl [-v] stop [-fw] [id | -a]";
    assert_eq!(parsed("stop -fx web"), Err(expected.into()));
    let missing = parsed("create -s").expect_err("no size");
    assert!(missing.starts_with("vmctl: option requires an argument -- s\nusage:\tvmctl [-v] create "), "{missing}");
}

#[test]
fn log_takes_any_beginning_in_any_case() {
    for word in ["brief", "B", "bR"] {
        assert_eq!(parsed(&format!("log {word}")), Ok(Command::Log { verbose: false }), "{word}");
    }
    assert_eq!(words_parsed(&["log", ""]), Ok(Command::Log { verbose: false }));
    assert_eq!(parsed("log VERB"), Ok(Command::Log { verbose: true }));
}

#[test]
fn reset_takes_whole_words_in_any_case() {
    assert_eq!(parsed("reset"), Ok(Command::Reset { vms: true, switches: true }));
    assert_eq!(parsed("reset ALL"), Ok(Command::Reset { vms: true, switches: true }));
    assert_eq!(parsed("reset vms"), Ok(Command::Reset { vms: true, switches: false }));
    assert_eq!(parsed("reset Switches"), Ok(Command::Reset { vms: false, switches: true }));
}

#[test]
fn status_number_0_is_all() {
    assert_eq!(parsed("status 0"), Ok(Command::Status { json: false, running: false, vm: None }));
    assert_eq!(parsed("show -r web"), Ok(Command::Status { json: false, running: true, vm: Some(named("web")) }));
    assert_eq!(parsed("status --json"), Ok(Command::Status { json: true, running: false, vm: None }));
    assert_eq!(
        parsed("stop --json"),
        Err("vmctl: unknown option -- json\nusage:\tvmctl [-v] stop [-fw] [id | -a]".to_owned())
    );
    assert_eq!(parsed("status web -r"), parsed("status -r web"));
}

#[test]
fn stop_takes_its_options_in_a_cluster_and_behind_the_vm() {
    let all = Command::Stop { vm: Some(VmRef::Id(7)), force: true, wait: true };
    assert_eq!(parsed("stop -fw 7"), Ok(all));
    assert_eq!(parsed("stop 7 -w -f"), parsed("stop -fw 7"));
    assert_eq!(parsed("stop -a"), Ok(Command::Stop { vm: None, force: false, wait: false }));
}

#[test]
fn id_behind_two_dashes_is_invalid_when_it_begins_with_one() {
    let error = parsed("pause -- -x").expect_err("-x");
    assert_eq!(error, "vmctl: invalid id: -x: name begins with '-'");
}

#[test]
fn receive_takes_no_number() {
    assert_eq!(parsed("receive 12"), Err("vmctl: invalid vm name\nvmctl: invalid id: 12".into()));
    assert_eq!(parsed("receive web"), Ok(Command::Receive(VmName::new("web").expect("a name"))));
}

#[test]
fn load_takes_no_empty_name() {
    assert_eq!(words_parsed(&["load", ""]), Err("vmctl: load: the file's name is empty".into()));
}

#[test]
fn start_takes_all_its_options() {
    let start = started("start -cL -Bnet -b /k -d qcow2:/d -d /e.qcow2 -i 4 -m1G -n lan -n . -p 2 -r /i -t base web");
    assert_eq!((start.vm, start.console), (named("web"), true));
    assert_eq!(
        (start.memory, start.cpus, start.boot_device),
        (MemorySize::from_bytes(1 << 30).ok(), Some(2), Some(BootDevice::Net))
    );
    assert_eq!((start.kernel, start.cdrom), (Some("/k".into()), Some("/i".into())));
    assert_eq!(start.disks, [("/d".into(), Some(DiskFormat::Qcow2)), ("/e.qcow2".into(), None)]);
    let lan = NicArg::Switch(SwitchName::new("lan").expect("a switch"));
    assert_eq!(start.nics, [NicArg::Local, lan, NicArg::Local, NicArg::Plain]);
    assert_eq!(start.template, VmName::new("base").ok());
}

#[test]
fn a_switch_without_a_name_is_none() {
    let arguments = ["start", "-b", "/k", "-n", "", "-n", ".", "-i", "2", "web"].map(OsString::from);
    match parse(&arguments).expect("right").command {
        Command::Start(start) => assert_eq!(start.nics, [NicArg::Plain, NicArg::Local]),
        other => panic!("{other:?}"),
    }
}

#[test]
fn start_refuses_what_may_be_given_once() {
    for (options, what) in [
        ("-B disk -B disk", "boot device"),
        ("-b /k -b /k", "boot image"),
        ("-i 1 -i 1", "interfaces"),
        ("-m 1G -m 1G", "memory"),
        ("-p 1 -p 1", "cpus"),
        ("-r /i -r /i", "iso image"),
    ] {
        let line = format!("start {options} web");
        assert_eq!(parsed(&line), Err(format!("vmctl: {what} specified multiple times")), "{line}");
    }
    assert_eq!(started("start -t a -t b web").template, VmName::new("b").ok());
}

#[test]
fn start_refuses_wrong_values() {
    let long = "x".repeat(64);
    for (options, message) in [
        ("-B hd".to_owned(), "unknown boot device hd: expected cdrom, disk or net".to_owned()),
        ("-i 0".to_owned(), "count is too small: 0; give 1 to 8\nvmctl: invalid interface count: 0".to_owned()),
        ("-i x".to_owned(), "count is invalid: x; give 1 to 8\nvmctl: invalid interface count: x".to_owned()),
        ("-p 65".to_owned(), "cpu count is too large: 65; give 1 to 64".to_owned()),
        ("-p 0".to_owned(), "cpu count is too small: 0; give 1 to 64".to_owned()),
        (
            "-m 512".to_owned(),
            "memory size must be at least 1MB: 512; a number alone is bytes, so write it with M or G".to_owned(),
        ),
        (format!("-n {long}"), format!("interface name too long: {long}; a switch has at most 63 bytes")),
        (format!("-t {long}"), format!("instance vm name too long: at most 63 bytes\nvmctl: invalid name: {long}")),
    ] {
        assert_eq!(parsed(&format!("start {options} web")), Err(format!("vmctl: {message}")), "{options}");
    }
    for (name, reason) in [
        ("a/b", "name has the character '/'"),
        ("a b", "name has the character ' '"),
        ("-7", "name begins with '-'"),
        ("", "name is empty"),
    ] {
        let said = format!("vmctl: invalid name: {name}: {reason}; -t takes the name of the vm to make an instance of");
        assert_eq!(words_parsed(&["start", "-t", name, "web"]), Err(said));
    }
    let name = parsed("start a/b").expect_err("a/b");
    assert!(name.starts_with("vmctl: invalid VM name: \"a/b\""), "{name}");
}

#[test]
fn start_with_device_options_needs_something_to_boot() {
    let both = "vmctl: starting without disks\nvmctl: no kernel or disk/cdrom specified: give -b, -d or -r, or only the \
                name of a known vm";
    assert_eq!(parsed("start -m 1G web"), Err(both.to_owned()));
    let rounded = format!("vmctl: memory size rounded to 1.0M\n{both}");
    assert_eq!(parsed("start -m 1.5M web"), Err(rounded), "what was noticed before is said before");
    assert!(parsed("start -L web").is_err() && parsed("start -i 1 web").is_err());
    assert_eq!(started("start -p 2 -B disk -c web").warnings, [""; 0]);
    assert_eq!(started("start -m 1G -t base web").warnings, [""; 0]);
}

#[test]
fn start_warns_of_what_may_be_forgotten() {
    let both = ["starting without disks", "starting without network interfaces"];
    assert_eq!(started("start -r /i web").warnings, both);
    assert_eq!(started("start -d /d web").warnings, both[1..]);
    assert_eq!(started("start -b /k web").warnings, [""; 0]);
    assert_eq!(started("start -m 1.5M -b /k web").warnings, ["memory size rounded to 1.0M"]);
}

#[test]
fn start_holds_the_limits_of_disks_and_interfaces() {
    let disks = |count| format!("start {} web", "-d /d ".repeat(count));
    assert_eq!(started(&disks(16)).disks.len(), 16);
    assert_eq!(parsed(&disks(17)), Err("vmctl: too many disks: at most 16".into()));
    let nics = |count| format!("start -b /k {} web", "-L ".repeat(count));
    assert_eq!(started(&nics(8)).nics.len(), 8);
    assert_eq!(parsed(&nics(9)), Err("vmctl: too many network interfaces: at most 8".into()));
    assert_eq!(parsed("start -t b -i 9 web"), Err("vmctl: too many network interfaces: at most 8".into()));
    assert_eq!(started("start -b /k -LL -i 1 web").nics, [NicArg::Local, NicArg::Local]);
}

fn created(line: &str) -> Create {
    match parsed(line) {
        Ok(Command::Create(create)) => create,
        other => panic!("{other:?}"),
    }
}

#[test]
fn create_takes_its_format_from_prefix_or_extension() {
    for (word, format) in [("x", DiskFormat::Raw), ("x.QCOW2", DiskFormat::Qcow2), ("raw:x.qcow2", DiskFormat::Raw)] {
        let create = created(&format!("create -s 1G {word}"));
        assert_eq!((create.format, create.content), (format, Content::Empty { size: 1 << 30 }), "{word}");
    }
    let based = |line: &str| match created(line).content {
        Content::Base { base, size } => (base.path, base.format, size),
        content => panic!("{content:?}"),
    };
    assert_eq!(based("create -b base.qcow2 x.qcow2"), ("base.qcow2".into(), DiskFormat::Qcow2, None));
    assert_eq!(based("create -b raw:b.gz -s 2M x.qcow2"), ("b.gz".into(), DiskFormat::Raw, Some(2 << 20)));
    let copied = |line: &str| match created(line).content {
        Content::Copy { source, size } => (source.path, size),
        content => panic!("{content:?}"),
    };
    assert_eq!(copied("create -i a x"), ("a".into(), None));
    assert_eq!(copied("create -i raw:a -s 2M x"), ("a".into(), Some(2 << 20)));
    assert_eq!(created("create x -s 1500K -s 1G").warning, None);
}

#[test]
fn create_refuses_in_the_order_of_the_specification() {
    for (line, message) in [
        (
            "create -s 1 -b a -i b",
            "disk size must be at least 1MB: 1; a number alone is bytes, so write it with M or G",
        ),
        ("create -b a -i b x", "conflicting -b and -i arguments"),
        ("create -b a x", "base images require qcow2 disk format"),
        ("create -s 1Q x", "invalid disk size: 1Q: Invalid argument; give a number with B, K, M, G or T"),
    ] {
        assert_eq!(parsed(line), Err(format!("vmctl: {message}")), "{line}");
    }
    let expected =
        "could not create x: missing size argument\nusage:\tvmctl [-v] create [-b base | -i disk] [-s size] disk";
    assert_eq!(parsed("create x"), Err(expected.into()));
}

#[test]
fn a_cdrom_is_ejected_or_inserted_and_by_force_with_a_letter() {
    let cdrom =
        |medium: Option<&str>, force| Ok(Command::Cdrom { vm: named("web"), medium: medium.map(Into::into), force });
    assert_eq!(parsed("cdrom web eject"), cdrom(None, false));
    assert_eq!(parsed("cd -f web eject"), cdrom(None, true));
    assert_eq!(parsed("cdrom web insert a.iso"), cdrom(Some("a.iso"), false));
    assert_eq!(parsed("cdrom web insert a.iso -f"), cdrom(Some("a.iso"), true));
}
