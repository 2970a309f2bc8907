//! Hosts whose devices, mounts or accounts are not as vmd needs them.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use testkit::apart::{mount, unmount};

use crate::world::{PROGRAMS, as_user, device, faulty, faulty_for, run};

const SKIPPED: [(&str, &str, &str); 2] = [("kvm-access", "note", "not tried"), ("kvm-guest", "note", "not tried")];

#[test]
fn a_host_without_dev_kvm() {
    let expected = [&[("kvm-device", "fault", "/dev/kvm: not there")][..], &SKIPPED].concat();
    faulty("devices::a_host_without_dev_kvm", &expected, || fs::remove_file("/dev/kvm").expect("it is ours"));
}

#[test]
fn a_dev_kvm_that_is_a_plain_file() {
    let expected = [&[("kvm-device", "fault", "/dev/kvm: it is a plain file, no device")][..], &SKIPPED].concat();
    faulty("devices::a_dev_kvm_that_is_a_plain_file", &expected, || {
        fs::remove_file("/dev/kvm").expect("it is ours");
        fs::write("/dev/kvm", "").expect("it is ours");
    });
}

#[test]
fn a_dev_kvm_that_is_another_device() {
    let expected = [&[("kvm-device", "fault", "it is device 1:3, not 10:232")][..], &SKIPPED].concat();
    faulty("devices::a_dev_kvm_that_is_another_device", &expected, || {
        fs::remove_file("/dev/kvm").expect("it is ours");
        device("/dev/kvm", 1, 3);
    });
}

/// It is no fault: the daemon opens it as root. What a user can't be told is told as such, and nothing fails for it.
#[test]
fn a_dev_kvm_that_a_user_may_not_open() {
    let test = "devices::a_dev_kvm_that_a_user_may_not_open";
    let expected = [
        ("caller", "note", "user \"4321\" (uid 4321)"),
        ("kvm-access", "note", "user \"4321\" may not open /dev/kvm (mode 0600, root:root)"),
        ("kvm-guest", "note", "the probe guest: can't be told as user \"4321\""),
        ("tun", "note", "/dev/net/tun"),
        ("nftables", "note", "can't be told as user \"4321\""),
        ("firewall", "note", "can't be told as user \"4321\""),
        ("configuration", "note", "/etc/vm.conf: can't be told as user \"4321\""),
        ("descriptors", "ok", "those of root count"),
    ];
    faulty_for(test, &expected, crate::world::vmctl, || {
        fs::set_permissions("/etc/vm.conf", fs::Permissions::from_mode(0o600)).expect("it is ours");
        without_tun();
        device("/dev/net/tun", 10, 200);
        as_user()
    });
}

#[test]
fn a_host_without_dev_net_tun() {
    let expected = [("tun", "warning", "/dev/net/tun: not there; VMs with network cards do not start")];
    faulty("devices::a_host_without_dev_net_tun", &expected, without_tun);
}

/// The world's is the host's, mounted twice.
fn without_tun() {
    unmount("/dev/net/tun");
    unmount("/mnt/dev/net/tun");
    fs::remove_file("/dev/net/tun").expect("it is ours");
}

#[test]
fn a_host_without_terminals() {
    let expected = [("terminals", "fault", "/dev/ptmx: not there")];
    faulty("devices::a_host_without_terminals", &expected, || fs::remove_file("/dev/ptmx").expect("it is ours"));
}

#[test]
fn a_host_without_the_account() {
    let expected = [("account", "fault", "no user _vmd in /etc/passwd"), ("account", "fault", "useradd --system")];
    faulty("devices::a_host_without_the_account", &expected, || run("sed -i /^_vmd:/d /etc/passwd"));
}

#[test]
fn a_host_without_cgroups_of_version_2() {
    let expected = [("cgroups", "warning", "not where vmd looks: VMs run without")];
    faulty("devices::a_host_without_cgroups_of_version_2", &expected, || unmount("/sys/fs/cgroup"));
}

#[test]
fn a_host_whose_cgroups_can_not_be_written() {
    let expected = [("cgroups", "warning", "/sys/fs/cgroup is mounted for reading only")];
    faulty("devices::a_host_whose_cgroups_can_not_be_written", &expected, || {
        mount("-o remount,bind,ro /sys/fs/cgroup");
    });
}

#[test]
fn a_run_that_can_not_be_written() {
    let expected = [("socket", "fault", "/run: Read-only file system; vmd can't make its socket there")];
    faulty("devices::a_run_that_can_not_be_written", &expected, || mount("-o remount,bind,ro /run"));
}

#[test]
fn a_host_without_vmd() {
    let expected = [
        ("vmd", "fault", "no vmd beside vmctl"),
        ("kvm-guest", "note", "no vmd to run it"),
        ("configuration", "note", "no vmd to ask"),
    ];
    faulty("devices::a_host_without_vmd", &expected, || {
        fs::remove_file(format!("{PROGRAMS}/vmd")).expect("it is ours");
        for folder in ["/usr/local/sbin", "/usr/sbin", "/sbin"] {
            let installed = format!("{folder}/vmd");
            if fs::exists(&installed).expect("it can be told") {
                fs::create_dir_all("/mnt/none").expect("it is ours");
                mount(&format!("--bind /mnt/none {folder}"));
            }
        }
    });
}

#[test]
fn a_vmd_that_is_another_program() {
    let expected =
        [("vmd", "fault", "is not vmd of this release"), ("vmd", "fault", "install vmd and vmctl of one release")];
    faulty("devices::a_vmd_that_is_another_program", &expected, || {
        fs::copy("/bin/true", format!("{PROGRAMS}/vmd")).expect("it is ours");
    });
}

#[test]
fn a_configuration_with_errors() {
    let expected = [
        ("configuration", "fault", "/etc/vm.conf:1:1:"),
        ("configuration", "fault", "(and 1 more)"),
        ("configuration", "fault", "with one vmd does not start, or not the VM that it concerns"),
    ];
    faulty("devices::a_configuration_with_errors", &expected, || {
        fs::write("/etc/vm.conf", "vn \"web\" { }\nvm \"a\" { memory 1X }\n").expect("it is ours");
    });
}
