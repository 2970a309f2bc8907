//! The package on a Debian whose first process is systemd: boots, reload, restart, patience, the package's own life, and other
//! programs that set up the network: a firewall's service, systemd-networkd.
#![forbid(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use testkit::deadline::{self, GUEST};
use testkit::idle::{self, Does};
use testkit::machine::{self, Machine};
use testkit::status::{self, Row};
use testkit::{artefacts, daemon};

const CONF: &str = "/etc/vm.conf";
/// What modprobe(8) is to do instead of loading KVM's module.
const MODPROBE: &str = "/etc/modprobe.d/kvm-test.conf";
/// The systemd machine needs no more.
const SMALL: Machine = Machine { memory_mib: 2048, limit_s: 1800 };

/// Prints the journal of a test that fails.
struct Journal;

impl Drop for Journal {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = Command::new("journalctl").args(["-b", "--no-pager", "-n", "120"]).status();
        }
    }
}

/// Runs it, and gives all that it printed; it must succeed.
fn run(program: &str, arguments: &[&str]) -> String {
    let (success, said) = attempt(program, arguments);
    assert!(success, "{program} {arguments:?}: {said}");
    said
}

/// Commands that take longer are printed with their time.
const LONG: Duration = Duration::from_secs(2);

fn attempt(program: &str, arguments: &[&str]) -> (bool, String) {
    let begin = Instant::now();
    let mut command = Command::new(program);
    let output = command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    if begin.elapsed() > LONG {
        println!("{program} {arguments:?} took {:.1} s", begin.elapsed().as_secs_f32());
    }
    (
        output.status.success(),
        [output.stdout, output.stderr].map(|it| String::from_utf8_lossy(&it).into_owned()).concat(),
    )
}

/// A property of the unit.
fn property(name: &str) -> String {
    run("systemctl", &["show", "--value", "--property", name, "vmd.service"]).trim().to_owned()
}

fn number(name: &str) -> u32 {
    property(name).parse().unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn is_active() -> bool {
    property("ActiveState") == "active"
}

/// Waits until these VMs run, and no other; their lines.
fn running(names: &[&str]) -> Vec<Row> {
    deadline::until(format!("only {names:?} to run; vmctl says: {:?}", daemon::vmctl(&["status"])), GUEST, || {
        let reply = daemon::vmctl(&["status", "-r"]);
        let mut rows = if reply.status == Some(0) { status::table(&reply.stdout) } else { Vec::new() };
        rows.sort_by(|one, other| one.name.cmp(&other.name));
        let told: Vec<&str> = rows.iter().filter(|row| row.state == "running").map(|row| row.name.as_str()).collect();
        (told == names).then_some(rows)
    })
}

/// Does one part of the test, and prints how long it took and when it ended, in seconds since the boot.
fn part(what: &str, does: impl FnOnce()) {
    let begin = Instant::now();
    does();
    let uptime = fs::read_to_string("/proc/uptime").expect("procfs is mounted");
    let uptime = uptime.split(' ').next().expect("two numbers");
    println!("{what}: {:.1} s, ended {uptime} s after the boot", begin.elapsed().as_secs_f32());
}

/// What tells one run of a VM from the next.
fn pids(rows: &[Row]) -> Vec<Option<u32>> {
    rows.iter().map(|row| row.pid).collect()
}

/// Packages of the programs under test, of two revisions.
fn packages() -> TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    let programs = artefacts::vmd().parent().expect("a folder").to_owned();
    for revision in ["1", "2"] {
        let mut deb = Command::new(artefacts::script("deb"));
        // xz takes its time, here and in the machine.
        deb.env("DPKG_DEB_COMPRESSOR_TYPE", "gzip").env("DPKG_DEB_COMPRESSOR_LEVEL", "1");
        let output = deb.arg(&programs).arg(dir.path()).arg(revision).output().expect("it can be run");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    dir
}

fn package(dir: &Path, revision: u32) -> PathBuf {
    let end = format!("-{revision}_amd64.deb");
    let mut files = fs::read_dir(dir).expect("it was made").map(|entry| entry.expect("an entry").path());
    files.find(|file| file.to_string_lossy().ends_with(&end)).unwrap_or_else(|| panic!("no package {revision}"))
}

fn dpkg(action: &str, what: &Path) -> String {
    run("dpkg", &[action, what.to_str().expect("a plain name")])
}

/// A VM that is started with the daemon, and boots this kernel.
fn vm(name: &str, kernel: &Path) -> String {
    idle::vm(name, kernel, &[]).replace("\tdisable\n", "")
}

/// Two VMs of their own accord, and switches. Without a pause between them: that is for disks. One has a card on an isolated
/// bridge of vmd's, the other one of its own with NAT, and both taps have the names that other programs know.
fn conf(kernel: &Path) -> String {
    let switches = "staggered start parallel 2 delay 1\nswitch \"late\" {\n\tinterface br-late\n}\n\
                    switch \"lan\" {\n\tinterface bridge0\n\tisolated\n}\n";
    let with = |vm: String, card: &str| vm.replacen("{\n", &format!("{{\n\t{card}\n"), 1);
    let one = with(vm("one", kernel), "interface tap40 { switch \"lan\" }");
    let two = with(vm("two", kernel), "local interface tap41");
    format!("{switches}{one}{two}")
}

/// A bridge of somebody else's, which comes when vmd waits for it already, or much later.
const NETDEV: &str = "[NetDev]\nName=br-late\nKind=bridge\n";
const LATE_BRIDGE: &str = "[Service]\nType=oneshot\nRemainAfterExit=yes\n\
    ExecStart=/bin/bash -c 'timeout 100 grep -q waiting.up < <(journalctl -b -f -u vmd); \
    ip link add br-late type bridge'\n[Install]\nWantedBy=multi-user.target\n";

#[test]
fn the_package_serves_from_boot_to_purge() {
    SMALL.systemd("the_package_serves_from_boot_to_purge", packages, |boot, packages| {
        let _journal = Journal;
        match boot {
            1 => {
                part("installs", || installs(packages));
                // udev's own probing of KVM takes its time: more than a start that gives up would have taken.
                let slow = "install kvm_amd /usr/bin/sleep 4; /sbin/modprobe --ignore-install kvm_amd\n";
                fs::write(MODPROBE, slow).expect("it can be written");
                machine::reboot();
            }
            2..4 => {
                part("serves from boot on", serves_from_boot_on);
                machine::reboot();
            }
            4 => {
                part("serves from boot on", serves_from_boot_on);
                part("reloads", reloads);
                part("keeps its tables", keeps_its_tables);
                part("keeps its interfaces", keeps_its_interfaces);
                part("restarts", restarts);
                part("comes back after a kill", comes_back_after_a_kill);
                part("is upgraded", || is_upgraded(packages));
                part("waits for KVM", waits_for_kvm);
                part("is removed and purged", is_removed_and_purged);
            }
            _ => panic!("it boots again and again"),
        }
    });
}

/// What this machine boots without, in less time.
const NOT_NEEDED: [&str; 6] = [
    "modprobe@drm.service",
    "modprobe@fuse.service",
    "modprobe@loop.service",
    "modprobe@dm_mod.service",
    "modprobe@efi_pstore.service",
    "sys-fs-fuse-connections.mount",
];

fn installs(packages: &Path) {
    run("systemctl", &[&["mask"][..], &NOT_NEEDED].concat());
    fs::write("/etc/dpkg/dpkg.cfg.d/fast", "force-unsafe-io\n").expect("it can be written");
    dpkg("--install", &package(packages, 1));
    assert!(is_active(), "a package's service runs once it is installed");
    assert!(run("getent", &["passwd", "_vmd"]).starts_with("_vmd:"), "its account");
    fs::write("/etc/systemd/network/br-late.netdev", NETDEV).expect("it can be written");
    fs::write("/etc/systemd/system/late-bridge.service", LATE_BRIDGE).expect("it can be written");
    run("systemctl", &["enable", "late-bridge"]);
    let kernel = idle::kernel_file(Path::new("/srv"), Does::PowersOff);
    fs::write(CONF, conf(&kernel)).expect("it can be written");
    // As an administrator goes on: the VMs are defined now, and started with the next boot.
    run("systemctl", &["reload", "vmd"]);
    assert_eq!(daemon::vmctl(&["status"]).success().stdout.lines().count(), 3);
}

fn serves_from_boot_on() {
    running(&["one", "two"]);
    assert!(is_active());
    assert_eq!(number("NRestarts"), 0, "it was tried too early");
    assert_eq!(run("systemctl", &["is-enabled", "vmd"]).trim(), "enabled");
    // Whoever makes a bridge finds its name free.
    let late = run("systemctl", &["show", "--value", "--property", "Result", "late-bridge"]);
    assert_eq!(late.trim(), "success", "{}", run("journalctl", &["-b", "--no-pager", "-u", "late-bridge"]));
    let said = run("journalctl", &["-b", "--no-pager", "-u", "vmd"]);
    let word =
        "switch \"late\": waiting up to 30 s for bridge br-late, which /etc/systemd/network/br-late.netdev makes";
    assert!(said.contains(word), "{said}");
}

fn reloads() {
    let before = pids(&running(&["one", "two"]));
    let right = fs::read_to_string(CONF).expect("it was written");
    fs::write(CONF, "vm \"one\" {\n").expect("it can be written");
    let _ = attempt("systemctl", &["reload", "vmd"]);
    assert!(is_active(), "a wrong file ends nothing");
    let kernel = Path::new("/srv/PowersOff.elf");
    fs::write(CONF, right + &idle::vm("three", kernel, &[])).expect("it can be written");
    run("systemctl", &["reload", "vmd"]);
    assert!(daemon::vmctl(&["status"]).success().stdout.contains(" three\n"));
    assert_eq!(pids(&running(&["one", "two"])), before, "a reload ends no guest");
}

/// Tables of nftables by family and name, and what is in those of vmd.
fn tables() -> (Vec<String>, String) {
    let all = run("nft", &["list", "tables"]);
    let ours = |line: &&str| line.contains(" vmd");
    let all: Vec<String> = all.lines().filter(ours).map(str::to_owned).collect();
    // Counters change.
    let text = run("nft", &["--stateless", "list", "table", "inet", "vmd"]);
    (all, text)
}

/// A firewall that begins with "flush ruleset" is loaded anew, as Debian's own file does.
fn keeps_its_tables() {
    let before = tables();
    assert!(before.0.iter().any(|table| table == "table inet vmd"), "{before:?}");
    assert!(before.1.contains("masquerade"), "{}", before.1);
    let file = fs::read_to_string("/etc/nftables.conf").expect("Debian has it");
    assert!(file.contains("flush ruleset"), "{file}");
    run("nft", &["add", "table", "inet", "of-others"]);
    run("systemctl", &["start", "nftables"]);
    run("systemctl", &["reload", "nftables"]);
    assert!(!run("nft", &["list", "tables"]).contains("of-others"), "it was not flushed");
    deadline::until("all tables of vmd", GUEST, || (tables() == before).then_some(()));
}

/// Where systemd-networkd has its files.
const NETWORKD: &str = "/etc/systemd/network";

/// As networkd tells of an interface.
fn state_of(name: &str) -> Option<String> {
    let index = fs::read_to_string(format!("/sys/class/net/{name}/ifindex")).ok()?;
    let state = fs::read_to_string(format!("/run/systemd/netif/links/{}", index.trim())).ok()?;
    state.lines().find_map(|line| line.strip_prefix("ADMIN_STATE=")).map(str::to_owned)
}

/// Whether both taps are as vmd made them: a port that is isolated, and an end with its address.
fn taps_are_right() -> bool {
    let port = run("ip", &["-d", "link", "show", "tap40"]);
    let addresses = run("ip", &["-o", "-4", "address", "show", "tap41"]);
    port.contains("master bridge0") && port.contains("isolated on") && addresses.contains("100.64.")
}

fn of_doctor() -> String {
    let said = attempt("vmctl", &["doctor"]).1;
    said.lines().find(|line| line.contains("managers: ")).unwrap_or_else(|| panic!("{said}")).to_owned()
}

/// A file of the administrator's matches all interfaces. With vmd's own networkd leaves its alone; where that is masked,
/// vmd puts back what networkd took, and says who is likely.
fn keeps_its_interfaces() {
    let put_back = || run("journalctl", &["-b", "--no-pager", "-u", "vmd"]).matches("vmd has put it back").count();
    fs::write(format!("{NETWORKD}/99-all.network"), "[Match]\nName=*\n[Network]\nLinkLocalAddressing=no\n")
        .expect("it can be written");
    assert!(taps_are_right());
    run("systemctl", &["start", "systemd-networkd"]);
    deadline::until("networkd to have looked at all", GUEST, || {
        let states = ["br-late", "bridge0", "tap40", "tap41"].map(state_of);
        let [late, ours @ ..] = &states;
        let done = late.as_deref().is_some_and(|state| ["configuring", "configured"].contains(&state))
            && ours.iter().all(|state| state.as_deref() == Some("unmanaged"));
        done.then_some(())
    });
    assert_eq!((taps_are_right(), put_back()), (true, 0), "nothing had to be put back");
    assert!(of_doctor().contains("no other program manages vmd's interfaces"), "{}", of_doctor());
    // Without vmd's file.
    std::os::unix::fs::symlink("/dev/null", format!("{NETWORKD}/00-vmd.network")).expect("it can be made");
    run("systemctl", &["restart", "systemd-networkd"]);
    deadline::until("vmd to put back what networkd took", GUEST, || (put_back() > 0).then_some(()));
    deadline::until("the taps to be right", GUEST, || taps_are_right().then_some(()));
    let said = run("journalctl", &["-b", "--no-pager", "-u", "vmd"]);
    assert!(said.contains("another program (likely systemd-networkd)"), "{said}");
    assert!(of_doctor().contains("systemd-networkd manages "), "{}", of_doctor());
    run("systemctl", &["stop", "systemd-networkd"]);
    for file in ["00-vmd.network", "99-all.network"] {
        fs::remove_file(format!("{NETWORKD}/{file}")).expect("it was made");
    }
}

fn restarts() {
    let before = pids(&running(&["one", "two"]));
    let begin = Instant::now();
    run("systemctl", &["restart", "vmd"]);
    assert!(begin.elapsed() < Duration::from_secs(100), "guests that react to the button hold nobody up");
    let after = pids(&running(&["one", "two"]));
    assert!(before.iter().all(|pid| !after.contains(pid)), "{before:?}, then {after:?}");
    assert_eq!(number("NRestarts"), 0, "it was asked for");
}

fn comes_back_after_a_kill() {
    run("systemctl", &["kill", "--kill-whom=main", "--signal=KILL", "vmd"]);
    deadline::until("systemd to start it again", GUEST, || (number("NRestarts") == 1 && is_active()).then_some(()));
    running(&["one", "two"]);
}

/// Guests go on under the old release unless somebody says that they may end.
fn is_upgraded(packages: &Path) {
    let (daemon, guests) = (property("MainPID"), pids(&running(&["one", "two"])));
    let said = dpkg("--install", &package(packages, 2));
    assert!(said.contains("the old release goes on") && said.contains("systemctl restart vmd"), "{said}");
    assert_eq!((property("MainPID"), pids(&running(&["one", "two"]))), (daemon.clone(), guests.clone()));
    // What an administrator answers, or has answered beforehand.
    fs::write("/root/answers", "vmd vmd/restart boolean true\n").expect("it can be written");
    run("debconf-set-selections", &["/root/answers"]);
    let said = dpkg("--install", &package(packages, 2));
    assert!(said.contains("120 seconds to end"), "{said}");
    assert!(property("MainPID") != daemon && is_active(), "it was restarted");
    let now = pids(&running(&["one", "two"]));
    assert!(guests.iter().all(|pid| !now.contains(pid)), "{guests:?}, then {now:?}");
}

/// Without KVM the service fails, again and again, and serves as soon as KVM is there: no command of anybody's is needed.
fn waits_for_kvm() {
    run("systemctl", &["stop", "vmd"]);
    fs::write(MODPROBE, "install kvm_amd /bin/false\n").expect("it can be written");
    run("rmmod", &["kvm_amd"]);
    let begin = Instant::now();
    assert!(!attempt("systemctl", &["start", "vmd"]).0, "a start without KVM fails");
    deadline::until("three starts", GUEST, || (number("NRestarts") >= 2).then_some(()));
    assert!(
        begin.elapsed() > Duration::from_secs(6),
        "it is tried every few seconds: five in ten are the last otherwise"
    );
    fs::remove_file(MODPROBE).expect("it was written");
    run("modprobe", &["kvm_amd"]);
    running(&["one", "two"]);
}

fn is_removed_and_purged() {
    dpkg("--remove", Path::new("vmd"));
    assert_eq!(property("ActiveState"), "inactive");
    assert!(!attempt("pgrep", &["-x", "vmd"]).0, "processes are left");
    for file in ["/usr/sbin/vmd", "/usr/bin/vmctl", "/usr/lib/systemd/system/vmd.service", "/run/vmd.sock"] {
        assert!(!Path::new(file).exists(), "{file} is left");
    }
    assert!(Path::new("/var/lib/vmd/ids").exists(), "a package that comes back knows its VMs");
    dpkg("--purge", Path::new("vmd"));
    assert!(!Path::new("/var/lib/vmd").exists(), "the state is left");
    assert!(Path::new(CONF).exists(), "the administrator's file is gone");
    let left = run("find", &["/etc/systemd", "/var/lib/systemd", "/usr/share", "/usr/lib", "-xdev", "-name", "*vmd*"]);
    assert_eq!(left, "", "files are left");
    assert!(!attempt("debconf-show", &["vmd"]).1.contains("vmd/restart"), "a question is left");
}

/// The unit leaves a guest that does not react its 120 seconds, and the daemon the time to end it by force.
#[test]
#[ignore = "it waits for two minutes: make test-long"]
fn a_deaf_guest_holds_a_stop_up_for_120_seconds() {
    SMALL.systemd("a_deaf_guest_holds_a_stop_up_for_120_seconds", packages, |_, packages| {
        let _journal = Journal;
        dpkg("--install", &package(packages, 1));
        let kernel = idle::kernel_file(Path::new("/srv"), Does::Nothing);
        fs::write(CONF, vm("deaf", &kernel)).expect("it can be written");
        run("systemctl", &["restart", "vmd"]);
        running(&["deaf"]);
        let begin = Instant::now();
        run("systemctl", &["stop", "vmd"]);
        let took = begin.elapsed();
        assert!((120..150).contains(&took.as_secs()), "{took:?}");
        assert_eq!((property("ActiveState"), property("Result")), ("inactive".into(), "success".into()));
        assert!(!attempt("pgrep", &["-x", "vmd"]).0, "processes are left");
    });
}
