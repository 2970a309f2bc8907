//! Hosts of a few files, each below a directory of its own.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;

use super::*;

/// A host with these files.
fn host(files: &[(&str, &str)]) -> (tempfile::TempDir, Root) {
    let folder = tempfile::tempdir().expect("a directory");
    let root = Root(folder.path().to_owned());
    for (path, text) in files {
        let at = root.at(path);
        fs::create_dir_all(at.parent().expect("a folder")).expect("it is ours");
        fs::write(at, text).expect("it is ours");
    }
    (folder, root)
}

#[test]
fn the_processor_is_read() {
    let cpu = |flags: &str| {
        let text = format!(
            "processor\t: 0\nvendor_id\t: GenuineIntel\nflags\t\t: fpu {flags}\nvmx flags\t: vnmi\n\nprocessor\t: 1\n"
        );
        host(&[("/proc/cpuinfo", &text)]).1.cpu()
    };
    let of = |virtualization, is_guest| Ok(Cpu { vendor: "GenuineIntel".into(), virtualization, is_guest });
    assert_eq!(cpu("vmx sse"), of(Some("vmx"), false));
    assert_eq!(cpu("svm hypervisor"), of(Some("svm"), true));
    assert_eq!(cpu("vmx_like"), of(None, false));
    assert_eq!(host(&[]).1.cpu(), Err(Unseen::Missing));
}

#[test]
fn modules_are_loaded_built_in_loadable_or_absent() {
    let (_folder, root) = host(&[
        ("/sys/module/bridge/refcnt", "0"),
        ("/lib/modules/6.1/modules.builtin", "kernel/drivers/net/tun.ko\n"),
        (
            "/lib/modules/6.1/modules.dep",
            "kernel/arch/x86/kvm/kvm-intel.ko.xz: kernel/virt/kvm.ko.xz\nkernel/drivers/net/vrf.ko:\n",
        ),
    ]);
    let modules = root.modules("6.1");
    for (name, state) in [
        ("bridge", Module::Present),
        ("tun", Module::BuiltIn),
        ("kvm_intel", Module::Loadable),
        ("vrf", Module::Loadable),
        ("nft_masq", Module::Absent),
    ] {
        assert_eq!(modules.get(name), Some(&state), "{name}");
    }
    let other = root.modules("5.10");
    assert_eq!((other.get("bridge"), other.get("tun")), (Some(&Module::Present), Some(&Module::Unknown)));
}

#[test]
fn a_file_of_dev_is_told_by_kind_and_another_device_is_not_opened() {
    let (_folder, root) = host(&[("/dev/kvm", ""), ("/etc/passwd", "root:x:0:0::/:\n"), ("/etc/group", "")]);
    let node = |root: &Root| root.node("/dev/kvm", (10, 232), true);
    fs::set_permissions(root.at("/dev/kvm"), fs::Permissions::from_mode(0o640)).expect("it is ours");
    let plain = node(&root).expect("it is there");
    assert_eq!((plain.kind, plain.mode, plain.opens), (NodeKind::Other("a plain file"), 0o640, Ok(())));
    fs::remove_file(root.at("/dev/kvm")).expect("it is ours");
    assert_eq!(node(&root), Err(Unseen::Missing));
    symlink("/dev/full", root.at("/dev/kvm")).expect("it is ours");
    assert_eq!(node(&root).map(|node| node.kind), Ok(NodeKind::Character(1, 7)));
}

#[test]
fn who_asks_and_vmds_account_are_read_from_the_files() {
    let (_folder, root) = host(&[
        ("/etc/passwd", "root:x:0:0:::\nann:x:1000:1000:::\nnew:x:1000:1000:::\n_vmd:x:990:991:::\n"),
        ("/etc/group", "kvm:x:104:ann\n"),
        ("/proc/self/status", "Name:\tx\nCapEff:\t0000000000201000\n"),
    ]);
    let caller = root.caller(1000, &[1000, 104]);
    assert_eq!(
        (caller.name.as_str(), caller.groups, caller.capabilities),
        ("ann", vec!["1000".into(), "kvm".into()], 0x20_1000)
    );
    assert_eq!(root.account(), Ok(Some((990, 991))));
    assert_eq!(host(&[("/etc/passwd", "vmd:x:1:1:::\n")]).1.account(), Ok(None));
}

#[test]
fn mounts_of_version_2_are_found_and_cgroups_of_vmd_below_them() {
    let (_folder, root) = host(&[
        (
            "/proc/self/mountinfo",
            "29 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n\
             30 23 0:27 / /ro ro,nosuid - cgroup2 cgroup2 rw\n28 23 0:30 / /hidden rw - cgroup2 cgroup2 rw\n31 23 0:28 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n",
        ),
        ("/sys/fs/cgroup/system.slice/vmd.service/vms/vmm/cgroup.procs", ""),
        ("/sys/fs/cgroup/other/vms/file", ""),
        ("/sys/fs/cgroup/cgroup.controllers", "cpu pids\n"),
        ("/ro/cgroup.controllers", "\n"),
        ("/proc/self/cgroup", "1:cpu:/x\n0::/system.slice\n"),
    ]);
    let mount = |place: &str, read_only, home, controllers: &[&str]| {
        let controllers = controllers.iter().map(|name| (*name).to_owned()).collect();
        Cgroups { place: place.to_owned(), read_only, home, controllers }
    };
    let mounts =
        [mount("/sys/fs/cgroup", false, Ok(()), &["cpu", "pids"]), mount("/ro", true, Err(Unseen::Missing), &[])];
    assert_eq!(root.own_cgroup(), Ok("/system.slice".to_owned()));
    assert_eq!(root.cgroups(), Ok(mounts.to_vec()));
    assert_eq!(root.marked_cgroups(&mounts), ["/sys/fs/cgroup/system.slice/vmd.service"]);
}

#[test]
fn processes_are_known_by_their_title() {
    let (_folder, root) = host(&[
        ("/proc/9/cmdline", "vmd: vm web\0-x\0vm\0"),
        ("/proc/8/cmdline", "vmd: priv\0-x\0priv\0"),
        ("/proc/7/cmdline", "vim\0vmd: notes\0-x\0"),
        ("/proc/6/cmdline", "vmd: a title\0"),
        ("/proc/self/cmdline", "vmd: x\0-x\0"),
    ]);
    assert_eq!(root.marked_processes(), [(8, "priv".to_owned()), (9, "vm web".to_owned())]);
}

#[test]
fn a_name_of_run_is_a_socket_or_something_else() {
    let (_folder, root) = host(&[("/run/file", "")]);
    let _listener = UnixListener::bind(root.at("/run/vmd.sock")).expect("bound");
    symlink("vmd.sock", root.at("/run/link")).expect("it is ours");
    assert_eq!(root.is_socket("/run/vmd.sock"), Ok(Ok(())));
    assert_eq!(root.is_socket("/run/file"), Ok(Err("a plain file")));
    assert_eq!(root.is_socket("/run"), Ok(Err("a directory")));
    assert_eq!(root.is_socket("/run/link"), Ok(Err("a link")));
    assert_eq!(root.is_socket("/run/none"), Err(Unseen::Missing));
}

#[test]
fn a_pid_file_is_told_with_its_lock() {
    let (_folder, root) = host(&[("/run/vmd.pid", "123\n")]);
    assert_eq!(root.pid_file("/run/vmd.pid"), Ok(("123".to_owned(), false)));
    let file = fs::File::options().read(true).write(true).open(root.at("/run/vmd.pid")).expect("it is ours");
    assert!(sys::lock::try_lock(&file, sys::lock::Kind::Exclusive).expect("locked"));
    assert_eq!(root.pid_file("/run/vmd.pid"), Ok(("123".to_owned(), true)));
    assert_eq!(root.pid_file("/run/none"), Err(Unseen::Missing));
}

#[test]
fn values_memory_and_file_systems_are_read() {
    let (_folder, root) = host(&[
        ("/proc/meminfo", "MemTotal:       16000 kB\nMemFree: 1 kB\nMemAvailable:    8000 kB\n"),
        ("/proc/filesystems", "nodev\tsysfs\nnodev\ttmpfs\n\text4\n"),
        ("/proc/misc", "232 kvm\n200 tun\n"),
        ("/proc/sys/net/ipv4/ip_forward", "1\n"),
        ("/usr/share/OVMF/OVMF_CODE.fd", ""),
        ("/var/lib/vmd/ids.new", ""),
    ]);
    assert_eq!(root.memory(), Ok((16000 << 10, 8000 << 10)));
    assert_eq!(root.file_systems(), Ok(["sysfs", "tmpfs", "ext4"].map(str::to_owned).to_vec()));
    assert_eq!(root.drivers(), Ok(["kvm", "tun"].map(str::to_owned).to_vec()));
    let values = root.values();
    assert_eq!(values.get(&Value::ForwardIpv4), Some(&Ok("1".to_owned())));
    assert_eq!(values.get(&Value::ForwardIpv6), Some(&Err(Unseen::Missing)));
    assert_eq!(root.firmware(), ["/usr/share/OVMF/OVMF_CODE.fd"]);
    assert_eq!(root.half_written(), ["/var/lib/vmd/ids.new"]);
}

#[test]
fn vmd_is_looked_for_beside_vmctl_first() {
    let files = ["/usr/sbin/vmd", "/opt/vmd", "/opt/own/sbin/vmd", "/usr/local/sbin/other"].map(|path| (path, ""));
    let (folder, root) = host(&files);
    assert_eq!(root.program(Some(&folder.path().join("opt"))), Ok(root.at("/opt/vmd")));
    assert_eq!(root.program(Some(&folder.path().join("opt/own/bin"))), Ok(root.at("/opt/own/sbin/vmd")));
    assert_eq!(root.program(Some(&folder.path().join("none"))), Ok(root.at("/usr/sbin/vmd")));
    assert_eq!(host(&[]).1.program(None), Err(Unseen::Missing));
}

#[test]
fn who_manages_an_interface_is_read_from_its_state() {
    let networkd = |state| format!("# This is private data. Do not parse.\nADMIN_STATE={state}\nOPER_STATE=routable\n");
    let manager = |path: &str, text: &str| host(&[(path, text)]).1.manager(7);
    for (state, managed) in [
        ("pending", None),
        ("initialized", None),
        ("configuring", Some(Manager::Networkd)),
        ("configured", Some(Manager::Networkd)),
        ("failed", Some(Manager::Networkd)),
        ("unmanaged", None),
        ("linger", None),
    ] {
        assert_eq!(manager("/run/systemd/netif/links/7", &networkd(state)), Ok(managed), "{state}");
    }
    assert_eq!(manager("/run/systemd/netif/links/8", &networkd("configured")), Ok(None), "another's");
    for (said, managed) in [("true", Some(Manager::NetworkManager)), ("false", None)] {
        let text = format!("[device]\nmanaged={said}\nnm-owned=false\n");
        assert_eq!(manager("/run/NetworkManager/devices/7", &text), Ok(managed), "{said}");
    }
    assert_eq!(manager("/run/NetworkManager/devices/7", "[device]\n"), Ok(None));
}
