//! The daemon as a service: what it tells the manager that started it, and the files that make it one.
#![forbid(unsafe_code)]

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use testkit::apart::apart;
use testkit::artefacts;

/// The next state that begins so; those between are signs of life.
fn told(socket: &UnixDatagram, state: &str) -> String {
    loop {
        let mut got = [0; 256];
        let count = socket.recv(&mut got).unwrap_or_else(|error| panic!("{state}: {error}"));
        let text = String::from_utf8_lossy(&got[..count]).into_owned();
        match text.starts_with(state) {
            true => return text,
            false => assert_eq!(text, "WATCHDOG=1", "while {state} was waited for"),
        }
    }
}

#[test]
fn the_manager_is_told_of_readiness_life_reload_and_end() {
    apart("the_manager_is_told_of_readiness_life_reload_and_end", || {
        let socket = UnixDatagram::bind("/run/notify").expect("a socket");
        socket.set_read_timeout(Some(Duration::from_secs(120))).expect("a deadline");
        let conf = tempfile::NamedTempFile::new().expect("a file");
        let mut vmd = Command::new(artefacts::vmd())
            .args(["-d", "-f"])
            .arg(conf.path())
            .env("NOTIFY_SOCKET", "/run/notify")
            .env("WATCHDOG_USEC", "100000")
            .stdin(Stdio::null())
            .spawn()
            .expect("vmd can be run");
        let pid = Pid::from_child(&vmd);
        told(&socket, "READY=1");
        for _ in 0..3 {
            told(&socket, "WATCHDOG=1");
        }
        kill_process(pid, Signal::HUP).expect("it runs");
        let reloading = told(&socket, "RELOADING=1\n");
        let (_, usec) = reloading.split_once("\nMONOTONIC_USEC=").expect("when");
        assert!(usec.parse::<u64>().is_ok_and(|usec| usec > 0), "{reloading}");
        told(&socket, "READY=1");
        kill_process(pid, Signal::TERM).expect("it runs");
        told(&socket, "STOPPING=1");
        assert!(vmd.wait().expect("it ends").success());
    });
}

/// `make install` below a directory, of the programs under test.
fn installed() -> tempfile::TempDir {
    installed_with(&[])
}

/// The same, with further variables of make.
fn installed_with(variables: &[&str]) -> tempfile::TempDir {
    let root = tempfile::tempdir().expect("a directory");
    let programs = artefacts::vmd().parent().expect("a folder").to_owned();
    let output = Command::new("make")
        .current_dir(artefacts::project())
        .arg("install")
        .arg(format!("OUT={}", programs.display()))
        .arg(format!("DESTDIR={}", root.path().display()))
        .arg("PREFIX=/usr")
        .args(variables)
        .output()
        .expect("make can be run");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    root
}

/// The values of a setting of the unit, in their order.
fn settings(unit: &str, section: &str, name: &str) -> Vec<String> {
    let mut inside = false;
    let mut values = Vec::new();
    for line in unit.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(title) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            inside = title == section;
        } else {
            let (key, value) = line.split_once('=').unwrap_or_else(|| panic!("no setting: {line}"));
            if inside && key == name {
                values.push(value.to_owned());
            }
        }
    }
    values
}

/// Seconds that the daemon gives its guests (vmd(8), SIGTERM).
const GRACE_S: u64 = 120;

#[test]
fn the_unit_leaves_the_daemon_its_time_and_its_cgroups() {
    let root = installed();
    let unit = fs::read_to_string(root.path().join("usr/lib/systemd/system/vmd.service")).expect("a unit");
    let one = |name| {
        let values = settings(&unit, "Service", name);
        assert_eq!(values.len(), 1, "{name}: {values:?}");
        values.concat()
    };
    assert_eq!((one("Type"), one("KillMode"), one("Delegate")), ("notify".into(), "mixed".into(), "yes".into()));
    assert_eq!((one("ExecStart"), one("OOMPolicy")), ("/usr/sbin/vmd -d".into(), "continue".into()));
    // The daemon judges its file: one missing image is no reason for no VM at all.
    assert_eq!(settings(&unit, "Service", "ExecStartPre"), [""; 0]);
    assert_eq!(one("ExecReload"), "/usr/bin/vmctl reload");
    assert!(one("TimeoutStopSec").parse::<u64>().expect("seconds") >= GRACE_S + 20, "and ten for force, twice");
    assert!(one("WatchdogSec").parse::<u64>().expect("seconds") > 0);
    let manual = fs::read_to_string(artefacts::project().join("man/vmd.8")).expect("a manual");
    assert!(manual.contains(&format!("{GRACE_S} seconds")), "the manual gives another time than this test knows");
    assert_eq!(settings(&unit, "Install", "WantedBy"), ["multi-user.target"]);
    for line in unit.lines() {
        assert!(!line.contains("@PREFIX"), "a place that was not filled in: {line}");
    }
}

#[test]
fn everything_that_a_host_needs_is_installed() {
    let root = installed();
    for (file, contains) in [
        ("usr/lib/sysusers.d/vmd.conf", "u _vmd "),
        ("usr/lib/tmpfiles.d/vmd.conf", "r! /run/vmd.sock"),
        ("usr/lib/systemd/network/00-vmd.network", "[Match]\nName=vmd-*\n\n[Link]\nUnmanaged=yes\n"),
        ("usr/lib/NetworkManager/conf.d/00-vmd.conf", "match-device=interface-name:tap*;"),
        ("usr/lib/udev/rules.d/81-vmd.rules", "ATTR{netdev_group}==\"7761252|7761253\", ENV{NM_UNMANAGED}=\"1\""),
        ("usr/share/bash-completion/completions/vmctl", "complete -F _vmctl vmctl"),
        ("usr/share/zsh/site-functions/_vmctl", "#compdef vmctl"),
        ("usr/share/fish/vendor_completions.d/vmctl.fish", "complete -c vmctl"),
        ("usr/share/man/man8/vmd.8", ".Dt VMD 8"),
        ("usr/share/man/man8/vmctl.8", ".Dt VMCTL 8"),
        ("usr/share/man/man5/vm.conf.5", ".Dt VM.CONF 5"),
        ("usr/share/vmd/examples/vm.conf", "vm \"small\""),
    ] {
        let text = fs::read_to_string(root.path().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert!(text.contains(contains), "{file}");
    }
    // Where the PATH of ordinary users has it: Debian's has no sbin.
    for program in ["usr/sbin/vmd", "usr/bin/vmctl"] {
        assert!(root.path().join(program).is_file(), "{program}");
    }
}

#[test]
fn uninstall_removes_what_install_put_and_nothing_else() {
    let root = installed();
    let theirs =
        ["usr/share/vmd/notes", "usr/sbin/other", "usr/lib/sysusers.d/other.conf"].map(|it| root.path().join(it));
    for file in &theirs {
        fs::write(file, "").expect("it is ours");
    }
    let mut make = Command::new("make");
    make.current_dir(artefacts::project()).args(["uninstall", "PREFIX=/usr"]);
    let output = make.arg(format!("DESTDIR={}", root.path().display())).output().expect("make can be run");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let find = Command::new("find").arg(root.path()).args(["-type", "f"]).output().expect("it can be run");
    let mut left: Vec<PathBuf> = String::from_utf8_lossy(&find.stdout).lines().map(PathBuf::from).collect();
    left.sort();
    let mut theirs = theirs.to_vec();
    theirs.sort();
    assert_eq!(left, theirs);
    assert!(!root.path().join("usr/share/vmd/examples").exists(), "its own directory stays");
}

/// Debian's own checker, where "make test" installs it: errors and warnings alike.
#[test]
fn lintian_accepts_the_package() {
    let dir = tempfile::tempdir().expect("a directory");
    let programs = artefacts::vmd().parent().expect("a folder").to_owned();
    let deb = Command::new(artefacts::script("deb")).arg(programs).arg(dir.path()).output().expect("it can be run");
    assert!(deb.status.success(), "{}", String::from_utf8_lossy(&deb.stderr));
    let file = String::from_utf8_lossy(&deb.stdout).trim().to_owned();
    let contents = Command::new("dpkg-deb").args(["--contents", &file]).output().expect("it can be run");
    let contents = String::from_utf8_lossy(&contents.stdout).into_owned();
    for name in [
        "systemd/system/vmd.service",
        "sysusers.d/vmd.conf",
        "tmpfiles.d/vmd.conf",
        "completions/vmctl",
        "vendor-completions/_vmctl",
        "vendor_completions.d/vmctl.fish",
        "man8/vmd.8.gz",
        "man8/vmctl.8.gz",
        "man5/vm.conf.5.gz",
        "doc/vmd/copyright",
        "examples/vm.conf",
    ] {
        assert!(contents.contains(name), "{name} is missing in {contents}");
    }
    assert!(contents.starts_with("drwxr-xr-x root/root"), "dpkg gives / this mode: {contents}");
    let mut lintian = Command::new("lintian");
    let found = lintian.args(["--allow-root", "--fail-on", "error,warning", &file]).output().expect("it is installed");
    assert!(found.status.success(), "{}", String::from_utf8_lossy(&found.stdout));
}

/// What systemd-analyze(1) says at most of how much the unit exposes, as vmd(8) has it: 10 is everything.
const EXPOSURE: &str = "5.9";

#[test]
fn the_unit_bounds_what_the_daemon_may_do_and_lets_it_do_its_work() {
    let root = installed();
    let unit = fs::read_to_string(root.path().join("usr/lib/systemd/system/vmd.service")).expect("a unit");
    let all = |name| settings(&unit, "Service", name).join(" ");
    assert!(all("TasksMax").parse::<u32>().is_ok_and(|most| most >= 16384), "a bound, and room for hundreds of VMs");
    assert_eq!(all("MemoryMax") + &all("MemoryHigh"), "", "guests' memory is vm.conf's to give");
    // The first process gives up all capabilities but these itself, and works with them.
    let capability = |name: &str| {
        let known = name.strip_prefix("CAP_").and_then(sandbox::promise::Capabilities::from_name);
        known.unwrap_or_else(|| panic!("{name}"))
    };
    let bounding = all("CapabilityBoundingSet").split_whitespace().map(capability).collect();
    assert_eq!(sandbox::promise::PARENT.keeps, bounding);
    for name in ["NoNewPrivileges", "MemoryDenyWriteExecute", "LockPersonality", "RestrictRealtime", "RestrictSUIDSGID"]
    {
        assert_eq!(all(name), "yes", "{name}");
    }
    assert_eq!(all("RestrictAddressFamilies"), "AF_UNIX AF_NETLINK AF_INET AF_INET6");
    assert_eq!(all("DeviceAllow"), "/dev/kvm rw /dev/net/tun rw /dev/sev rw block-* rw");
    // VMs would not run: paths are hidden or protected, cgroups can't be made, or clone3(2) is refused.
    let hiding = ["ProtectHome", "ProtectSystem", "PrivateTmp", "PrivateDevices", "PrivateMounts", "ReadOnlyPaths"];
    let others = ["ProtectControlGroups", "ProtectKernelTunables", "PrivateNetwork", "RestrictNamespaces", "User"];
    for name in hiding.into_iter().chain(others) {
        assert_eq!(all(name), "", "{name}");
    }
    let manual = fs::read_to_string(artefacts::project().join("man/vmd.8")).expect("a manual");
    assert!(manual.contains(&format!("gives it {EXPOSURE} ")), "the manual has another figure");
    if Path::new("/usr/bin/systemd-analyze").exists() {
        let file = root.path().join("vmd.service");
        fs::write(&file, &unit).expect("it is ours");
        let analyze = ["security", "--offline=true", "--no-pager"];
        let output = Command::new("systemd-analyze").args(analyze).arg(&file).output().expect("it can be run");
        let said = String::from_utf8_lossy(&output.stdout);
        let (_, figure) = said.rsplit_once("vmd.service: ").unwrap_or_else(|| panic!("{said}"));
        let figure = figure.split_whitespace().next().and_then(|figure| figure.parse::<f32>().ok());
        let most = EXPOSURE.parse().expect("a number");
        assert!(figure.is_some_and(|figure| figure <= most), "{said}");
    }
}

/// Whatever systemd-analyze(1) holds against the unit is set there as far as it goes, or a comment names it with its reason.
#[test]
fn the_unit_has_a_reason_for_each_directive_that_it_leaves_out() {
    let root = installed();
    let file = root.path().join("usr/lib/systemd/system/vmd.service");
    let unit = fs::read_to_string(&file).expect("a unit");
    let comments: String = unit.lines().filter(|line| line.starts_with('#')).collect();
    for name in settings(&unit, "Service", "CapabilityBoundingSet").join(" ").split_whitespace() {
        assert!(comments.contains(name), "{name} is kept without a reason");
    }
    let analyze = ["security", "--offline=true", "--no-pager", "--json=short"];
    let output = Command::new("systemd-analyze").args(analyze).arg(&file).output().expect("make test installs it");
    let found: serde_json::Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    let mut held_against_it = 0;
    for row in found.as_array().expect("a table") {
        // What does not apply has no figure.
        if row["set"].as_bool() != Some(false) || row["exposure"].as_str().is_none() {
            continue;
        }
        held_against_it += 1;
        let name = row["name"].as_str().expect("a name");
        let (directive, value) = name.split_once('=').expect("a directive");
        let reasoned = match value.strip_prefix("~@") {
            Some(group) => comments.contains(&format!("@{group}")),
            None => comments.contains(directive) || !settings(&unit, "Service", directive).is_empty(),
        };
        assert!(reasoned, "{name} is left out without a reason: {row}");
    }
    assert!(held_against_it > 0, "{found}");
}

/// KVM's modules may be loaded late, and what a start lacks may come later.
#[test]
fn the_unit_waits_for_kvm_and_is_patient() {
    let with = |systemd: &str| {
        let root = installed_with(&[&format!("SYSTEMD={systemd}")]);
        fs::read_to_string(root.path().join("usr/lib/systemd/system/vmd.service")).expect("a unit")
    };
    let (older, newer) = (with("252"), with("254"));
    for unit in [&older, &newer, &with("")] {
        for module in ["kvm", "kvm_amd", "kvm_intel"] {
            for name in ["Wants", "After"] {
                let units = settings(unit, "Unit", name).join(" ");
                assert!(units.split(' ').any(|it| it == format!("modprobe@{module}.service")), "{name}: {units}");
            }
        }
        assert_eq!(settings(unit, "Unit", "StartLimitIntervalSec"), ["0"]);
        let pause = settings(unit, "Service", "RestartSec").concat();
        assert!(pause.parse::<u32>().is_ok_and(|seconds| seconds >= 2), "{pause}");
    }
    for name in ["RestartSteps", "RestartMaxDelaySec"] {
        assert!(settings(&older, "Service", name).is_empty(), "systemd 252 does not know {name}");
        assert_eq!(settings(&newer, "Service", name).len(), 1, "{name}");
    }
}

/// The daemon as the unit has it started: with these capabilities alone, and nothing to gain.
#[test]
fn with_the_capabilities_of_the_unit_the_daemon_serves() {
    apart("with_the_capabilities_of_the_unit_the_daemon_serves", || {
        let root = installed();
        let unit = fs::read_to_string(root.path().join("usr/lib/systemd/system/vmd.service")).expect("a unit");
        let names = settings(&unit, "Service", "CapabilityBoundingSet").join(" ").to_lowercase();
        let kept: Vec<String> = names.split_whitespace().map(|name| name.replacen("cap_", "+", 1)).collect();
        let socket = UnixDatagram::bind("/run/notify").expect("a socket");
        socket.set_read_timeout(Some(Duration::from_secs(120))).expect("a deadline");
        let conf = tempfile::NamedTempFile::new().expect("a file");
        fs::write(conf.path(), "switch \"uplink\" {\n\tinterface bridge0\n}\n").expect("it is ours");
        let mut vmd = Command::new("setpriv")
            .args(["--no-new-privs", "--inh-caps=-all", &format!("--bounding-set=-all,{}", kept.join(",")), "--"])
            .arg(artefacts::vmd())
            .args(["-d", "-f"])
            .arg(conf.path())
            .env("NOTIFY_SOCKET", "/run/notify")
            .stdin(Stdio::null())
            .spawn()
            .expect("setpriv can be run");
        told(&socket, "READY=1");
        let vmctl = Command::new(artefacts::vmctl()).arg("status").output().expect("it can be run");
        let said = String::from_utf8_lossy(&vmctl.stdout);
        assert!(said.starts_with(testkit::status::HEADER), "{said}{}", String::from_utf8_lossy(&vmctl.stderr));
        kill_process(Pid::from_child(&vmd), Signal::TERM).expect("it runs");
        assert!(vmd.wait().expect("it ends").success());
    });
}

/// Systemd's own words about the files, where it is installed: `make test` installs it.
#[test]
fn systemd_finds_no_fault_in_the_files() {
    let root = installed();
    let at = |file: &str| root.path().join(file);
    if Path::new("/usr/bin/systemd-analyze").exists() {
        // The programs are looked for on the host, so the unit names those that were installed.
        let unit = fs::read_to_string(at("usr/lib/systemd/system/vmd.service")).expect("a unit");
        let there =
            |unit: String, from: &str| unit.replace(&format!("=/{from}/"), &format!("={}/", at(from).display()));
        let here = there(there(unit, "usr/sbin"), "usr/bin");
        fs::write(at("vmd.service"), here).expect("it is ours");
        quiet(Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(at("vmd.service")));
    }
    if Path::new("/usr/bin/systemd-sysusers").exists() {
        fs::create_dir(at("etc")).expect("it is ours");
        let file = at("usr/lib/sysusers.d/vmd.conf");
        quiet(Command::new("systemd-sysusers").arg(format!("--root={}", root.path().display())).arg(file));
        let accounts = fs::read_to_string(at("etc/passwd")).expect("an account was made");
        assert!(accounts.contains("_vmd:"), "{accounts}");
    }
    if Path::new("/usr/bin/systemd-tmpfiles").exists() {
        fs::create_dir(at("run")).expect("it is ours");
        fs::write(at("run/vmd.sock"), "").expect("it is ours");
        let file = at("usr/lib/tmpfiles.d/vmd.conf");
        let root = format!("--root={}", root.path().display());
        quiet(Command::new("systemd-tmpfiles").args(["--remove", "--boot", &root]).arg(file));
        assert!(!at("run/vmd.sock").exists(), "a boot leaves it");
    }
}

/// Runs it; it must succeed and find nothing to say of vmd.
fn quiet(command: &mut Command) {
    let output = command.output().expect("it can be run");
    let said = String::from_utf8_lossy(&output.stderr);
    let ours: Vec<&str> =
        said.lines().filter(|line| line.contains("vmd.service") || line.contains("vmd.conf")).collect();
    assert!(output.status.success() && ours.is_empty(), "{command:?}: {said}");
}
