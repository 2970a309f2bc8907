//! What vmd can't start with gets one clear line and exit status 1, and nothing is left behind.

use std::fs::File;
use std::path::Path;

use crate::world::{Ended, configuration, nothing_is_left, own_dev, own_world, vmd};

const GOOD: &str = "switch \"lan\" {\n\tinterface bridge0\n}\n";

/// In the foreground, as root, with a configuration that is right.
fn started(dir: &Path) -> Ended {
    vmd(&["-d", "-f", &configuration(dir, GOOD)], 0)
}

#[test]
fn not_root_is_told() {
    let dir = own_world(true);
    let ended = vmd(&["-d", "-f", &configuration(dir.path(), GOOD)], 65534);
    ended.says(&["need root privileges"]);
    nothing_is_left();
}

#[test]
fn a_check_needs_no_root_and_says_ok() {
    let dir = own_world(true);
    let ended = vmd(&["-n", "-f", &configuration(dir.path(), GOOD)], 65534);
    assert_eq!((ended.status, ended.stderr.as_str()), (Some(0), "configuration OK\n"));
    nothing_is_left();
}

#[test]
fn no_account_is_told_with_what_to_do() {
    let dir = own_world(false);
    started(dir.path()).says(&["unknown user _vmd", "useradd"]);
    nothing_is_left();
}

#[test]
fn no_kvm_is_told_and_leaves_nothing() {
    let dir = own_world(true);
    own_dev(dir.path(), &[("null", "/dev/null")]);
    started(dir.path()).says(&["/dev/kvm", "No such file or directory", "kvm_intel or kvm_amd"]);
    nothing_is_left();
}

#[test]
fn a_second_vmd_is_told_of_the_first_and_leaves_it_alone() {
    let dir = own_world(true);
    // As the first one holds it.
    std::fs::write("/run/vmd.pid", "4242\n").expect("write");
    std::fs::write("/run/vmd.sock", "").expect("write");
    let held = File::options().read(true).write(true).open("/run/vmd.pid").expect("open");
    assert!(sys::lock::try_lock(&held, sys::lock::Kind::Exclusive).expect("lock"));
    started(dir.path()).says(&["already runs", "4242"]);
    assert_eq!(std::fs::read_to_string("/run/vmd.pid").expect("still there"), "4242\n");
    assert!(Path::new("/run/vmd.sock").exists());
}

#[test]
fn an_error_in_the_configuration_is_told_with_its_place() {
    let dir = own_world(true);
    for bad in ["switch \"lan\" {\n\tinterface\n}\n", "vm \"x\" {\n\tdisc \"/x\"\n}\n", "\"\n"] {
        let file = configuration(dir.path(), bad);
        for arguments in [&["-n", "-f", &file][..], &["-d", "-f", &file]] {
            let ended = vmd(arguments, 0);
            assert_eq!(ended.status, Some(1), "{}", ended.stderr);
            assert!(ended.stderr.contains(&format!("{file}:")) && ended.stderr.contains('^'), "{}", ended.stderr);
        }
        nothing_is_left();
    }
}

#[test]
fn a_configuration_that_is_not_there_is_told() {
    let _dir = own_world(true);
    vmd(&["-d", "-f", "/nowhere/vm.conf"], 0).says(&["/nowhere/vm.conf", "No such file or directory"]);
    nothing_is_left();
}

const USAGE: &str = "usage: vmd [-dnv] [-D macro=value] [-f file]
       vmd -n --format | --json [-D macro=value] [-f file]
";

#[test]
fn wrong_arguments_are_the_usage() {
    let _dir = own_world(true);
    for arguments in [&["-z"][..], &["-P", "vmm"], &["-V", "3"], &["-n", "left over"], &["-f"], &["--json"], &["-dx"]] {
        let ended = vmd(arguments, 65534);
        assert_eq!((ended.status, ended.stdout.as_str()), (Some(1), ""), "{arguments:?}");
        assert_eq!(ended.stderr, USAGE, "{arguments:?}");
    }
    nothing_is_left();
}

#[test]
fn help_and_release_are_shown_to_everybody_who_asks() {
    let _dir = own_world(true);
    for arguments in [&["--help"][..], &["-h"], &["-dn", "--help"]] {
        let ended = vmd(arguments, 65534);
        assert_eq!((ended.status, ended.stderr.as_str()), (Some(0), ""), "{arguments:?}");
        let options = ended.stdout.strip_prefix(USAGE).expect("the usage first");
        for option in ["-D macro=value", "-d", "-f file", "-h, --help", "-n", "--format", "--json", "-v", "--version"] {
            assert!(options.contains(&format!("\n  {option:<16}")), "{option}: {options}");
        }
    }
    let ended = vmd(&["--version"], 65534);
    let version = concat!("vmd ", env!("CARGO_PKG_VERSION"), "\n");
    assert_eq!((ended.status, ended.stdout.as_str(), ended.stderr.as_str()), (Some(0), version, ""));
    nothing_is_left();
}

#[test]
fn a_closed_pipe_is_no_reason_to_complain() {
    let dir = own_world(true);
    let conf = dir.path().join("vm.conf");
    std::fs::write(&conf, "# nothing\n").expect("it is ours");
    let check = |tell| vec!["-n".to_owned(), tell, "-f".to_owned(), conf.to_str().expect("UTF-8").to_owned()];
    for arguments in [check("--json".into()), check("--format".into()), vec!["--help".into()], vec!["--version".into()]]
    {
        let (unread, closed) = std::io::pipe().expect("a pipe");
        drop(unread);
        let mut vmd = std::process::Command::new(env!("CARGO_BIN_EXE_vmd"));
        let ended = vmd.args(&arguments).stdin(std::process::Stdio::null()).stdout(closed).output().expect("it runs");
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert_eq!((ended.status.code(), said.as_str()), (Some(0), ""), "{arguments:?}");
    }
}

#[test]
fn a_role_is_not_for_users() {
    let _dir = own_world(true);
    for (arguments, words) in [
        (&["-x"][..], ["unknown role \"\"", "-x is for vmd's own use"]),
        (&["-x", "king"], ["unknown role \"king\"", "-x is for vmd's own use"]),
        (&["-x", "control"], ["descriptor", "only vmd starts its roles"]),
        (&["-x", "priv"], ["descriptor 3", "only vmd starts its roles"]),
        (&["-x", "vmm"], ["descriptor", "only vmd starts its roles"]),
        (&["-x", "vm"], ["descriptor 3", "only vmd starts its roles"]),
        (&["-x", "vioblk"], ["descriptor 3", "only vmd starts its roles"]),
        (&["-x", "vionet", "-v"], ["descriptor 3", "only vmd starts its roles"]),
    ] {
        vmd(arguments, 0).says(&words);
    }
    nothing_is_left();
}

#[test]
fn a_kvm_that_is_none_fails_the_start_and_is_named() {
    use model::{CommandLine, MemorySize, VmName};
    use proto::probe::KernelKind;
    use proto::vm::{Description, ToVm, ToVmm};
    use proto::{Channel, Received};
    let (ours, theirs) = sys::seqpacket::pair().expect("pair");
    let process = std::thread::spawn(move || vm::serve(theirs, || Ok(())));
    let mut vmm: Channel<ToVm, ToVmm> = Channel::new(ours);
    let null = || File::options().read(true).write(true).open("/dev/null").expect("/dev/null").into();
    let console = sys::pty::Pty::open().expect("pty");
    let description = Description {
        name: VmName::new("none").expect("name"),
        memory: MemorySize::LEAST_BOOTABLE,
        cpus: 1,
        kernel: KernelKind::Pvh,
        cmdline: CommandLine::default(),
        initrd: false,
        vmmci: false,
        devices: 0,
        debug: false,
    };
    vmm.send(&ToVm::Describe(Box::new(description)), vec![null(), console.master, null(), null()]).expect("send");
    vmm.send(&ToVm::Begin, vec![]).expect("send");
    match vmm.recv_within(std::time::Duration::from_secs(20)).expect("an answer") {
        Received::Message(ToVmm::Failed(failure), _) => assert!(failure.text.contains("/dev/kvm"), "{failure}"),
        other => panic!("no failure: {other:?}"),
    }
    assert_ne!(process.join().expect("no panic"), 0);
}
