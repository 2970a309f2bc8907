//! Instances made by an ordinary user: the real daemon, the real vmctl run as that user. There is no KVM, so that a start
//! which is right in all else ends at /dev/kvm.
#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use e2e::idle::{self, Does};
use testkit::apart::apart;
use testkit::artefacts;
use testkit::daemon::Daemon;

/// Some user without an account, in the group that may use the control socket.
const USER: u32 = 4321;
const GROUP: u32 = 990;

/// What vmctl says as that user.
fn as_user(arguments: &[&str]) -> String {
    // By descriptor: a user may not reach every directory that this was built in.
    let program = File::open(artefacts::vmctl()).expect("vmctl");
    let mut vmctl = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()));
    vmctl.arg0("vmctl");
    vmctl.args(arguments).uid(USER).gid(GROUP).stdin(Stdio::null());
    let output = vmctl.output().expect("vmctl can be run");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn image(path: &Path, owner: u32, mode: u32) {
    fs::File::create(path).and_then(|file| file.set_len(1 << 20)).unwrap();
    chown(path, Some(owner), Some(owner)).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_users_instance_has_the_users_rights_and_not_more() {
    apart("a_users_instance_has_the_users_rights_and_not_more", || {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let kernel = idle::kernel_file(dir.path(), Does::Nothing);
        fs::set_permissions(&kernel, fs::Permissions::from_mode(0o600)).unwrap();
        let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        image(Path::new(&at("mine.raw")), USER, 0o600);
        image(Path::new(&at("theirs.raw")), 0, 0o600);
        let template = |name: &str, allow: &str| {
            format!("vm \"{name}\" {{\n\tdisable\n\tmemory 64M\n\tboot \"{}\"\n\t{allow}\n}}\n", kernel.display())
        };
        let configuration = "socket owner :_vmd\n".to_owned()
            + &template("open", "allow instance { owner :_vmd, disk }")
            + &template("closed", "");
        let daemon = Daemon::start_quietly(&configuration);
        let start = |template: &str, rest: &[&str]| as_user(&[&["start", "-t", template], rest, &["new"]].concat());
        let said = start("open", &["-d", &at("mine.raw")]);
        assert!(said.ends_with("/dev/kvm: is not KVM; load kvm_intel or kvm_amd, which create it\n"), "{said}");
        let said = start("open", &["-d", &at("theirs.raw")]);
        assert!(said.contains("theirs.raw") && said.contains("ermission denied"), "{said}");
        let said = start("open", &["-m", "128M"]);
        assert_eq!(said, "vmctl: start \"new\": vm \"new\": no permission to set memory\n");
        let said = start("closed", &["-d", &at("mine.raw")]);
        let why =
            "may make no instance of \"closed\"; \"allow instance { owner ... }\" of that vm in vm.conf says who may";
        assert_eq!(said, format!("vmctl: start \"new\": vm \"new\": uid {USER} {why}\n"));
        let names: Vec<String> = daemon.status().into_iter().map(|row| row.name).collect();
        assert_eq!(names, ["open", "closed"], "what failed is forgotten");
        assert!(daemon.stop().success());
    });
}
