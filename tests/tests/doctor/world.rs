//! A host that is sound but for what a test does to it, and what vmctl doctor says of it before and after.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use testkit::apart::{apart, mount};
use testkit::{artefacts, schema};

const SCHEMA: &str = include_str!("../../../docs/schema/doctor.json");

/// Where this world has its programs, as a package would install them: users can reach them there.
pub const PROGRAMS: &str = "/mnt/bin";
/// Some user without an account.
pub const USER: u32 = 4321;

/// These follow from what this machine's KVM can do, and from what others take of its memory.
const OF_THE_MACHINE: [&str; 5] = ["cpu", "kvm-module", "kvm-access", "kvm-guest", "memory"];

/// What was found.
#[derive(Debug)]
pub struct Report {
    /// Exit status.
    pub status: Option<i32>,
    /// By name: verdict, what was seen, what to do.
    pub findings: BTreeMap<String, [String; 3]>,
}

impl Report {
    /// What that command's vmctl doctor says; it must be as the schema has it, with an exit status that fits.
    #[track_caller]
    pub fn of(command: &mut Command) -> Self {
        let output = command.args(["doctor", "--json"]).stdin(Stdio::null()).output().expect("vmctl can be run");
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!(err, "", "nothing is said on standard error");
        let out = String::from_utf8(output.stdout).expect("JSON");
        schema::holds(SCHEMA, &out);
        let told: serde_json::Value = serde_json::from_str(&out).expect("JSON");
        let text = |finding: &serde_json::Value, key: &str| finding[key].as_str().unwrap_or_default().to_owned();
        let findings: BTreeMap<String, [String; 3]> = told["findings"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|one| (text(one, "id"), ["verdict", "seen", "advice"].map(|key| text(one, key))))
            .collect();
        assert!(findings.len() > 20, "{out}");
        let faults = findings.values().filter(|[verdict, ..]| verdict == "fault").count();
        assert_eq!(output.status.code(), Some(i32::from(faults > 0)), "{out}");
        assert_eq!(told["can_run"], faults == 0, "{out}");
        Self { status: output.status.code(), findings }
    }

    /// The finding of that name is so bad, and what was seen and what to do have these words.
    #[track_caller]
    pub fn has(&self, id: &str, verdict: &str, words: &str) {
        let [found, seen, advice] = &self.findings[id];
        assert_eq!(found, verdict, "{id}: {seen}");
        assert!(seen.contains(words) || advice.contains(words), "{id}: {seen}; {advice}");
        assert!(verdict == "ok" || !advice.is_empty(), "{id}: {seen}: what to do?");
    }
}

/// vmctl of this world.
pub fn vmctl() -> Command {
    Command::new(format!("{PROGRAMS}/vmctl"))
}

/// The same, as an ordinary user.
pub fn as_user() -> Command {
    let mut command = vmctl();
    command.uid(USER).gid(USER);
    command
}

/// Puts vmctl and vmd where users can reach them: they may not enter every directory that these were built in.
pub fn copy_programs(to: &Path) {
    for program in [artefacts::vmctl(), artefacts::vmd()] {
        fs::copy(&program, to.join(program.file_name().expect("a name"))).expect("it is ours");
    }
}

/// Makes it, in a world that `apart` has made: with a device of KVM's number, cgroups, an /etc of its own, and programs that
/// users can reach.
fn make() -> Cgroup {
    fs::create_dir(PROGRAMS).expect("it is ours");
    copy_programs(Path::new(PROGRAMS));
    fs::remove_file("/dev/kvm").expect("it is ours");
    device("/dev/kvm", 10, 232);
    let cgroup = Cgroup::make();
    run("cp -a /etc /mnt/etc");
    mount("--bind /mnt/etc /etc");
    let kernel = testkit::idle::kernel_file(Path::new("/mnt"), testkit::idle::Does::Nothing);
    fs::write("/etc/vm.conf", testkit::idle::vm("web", &kernel, &[])).expect("it is ours");
    // Where the host has br_netfilter, each new name space filters frames within bridges.
    for family in ["iptables", "ip6tables"] {
        let filters = format!("/proc/sys/net/bridge/bridge-nf-call-{family}");
        if Path::new(&filters).exists() {
            fs::write(filters, "0").expect("root may");
        }
    }
    cgroup
}

/// The world's root of cgroups: one of the host's, so that nothing in it is another test's.
struct Cgroup(String);

impl Cgroup {
    fn make() -> Self {
        fs::create_dir("/mnt/cgroup").expect("it is ours");
        mount("-t cgroup2 cgroup2 /mnt/cgroup");
        let name = fs::read_to_string("/proc/sys/kernel/random/uuid").expect("a name");
        let path = format!("/mnt/cgroup/test-{}", name.trim());
        fs::create_dir(&path).expect("root may");
        mount(&format!("--bind {path} /sys/fs/cgroup"));
        Self(path)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = Command::new("find").args([&self.0, "-depth", "-type", "d", "-exec", "rmdir", "{}", ";"]).status();
    }
}

/// A device of these numbers, for root alone.
pub fn device(path: &str, major: u32, minor: u32) {
    let mode = Mode::from_raw_mode(0o600);
    mknodat(CWD, path, FileType::CharacterDevice, mode, makedev(major, minor)).expect("root can make devices");
}

/// Runs a shell's line; it must succeed.
pub fn run(line: &str) {
    let output = Command::new("sh").args(["-c", line]).output().expect("sh can be run");
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A host that is sound, then made faulty: exactly these findings change, but for what follows from this machine's KVM.
pub fn faulty(test: &str, expected: &[(&str, &str, &str)], spoil: impl FnOnce()) {
    faulty_for(test, expected, vmctl, || {
        spoil();
        vmctl()
    });
}

/// The same for others' commands, before and after.
pub fn faulty_for(
    test: &str,
    expected: &[(&str, &str, &str)],
    sound: fn() -> Command,
    spoiled: impl FnOnce() -> Command,
) {
    apart(test, || {
        let _cgroup = make();
        let before = Report::of(&mut sound());
        before.has("configuration", "ok", "");
        let after = Report::of(&mut spoiled());
        changes(&before, &after, expected);
    });
}

/// A sound world for a test that looks more than once.
pub fn sound(test: &str, body: impl FnOnce()) {
    apart(test, || {
        let _cgroup = make();
        body();
    });
}

/// Exactly these findings have become worse or better.
#[track_caller]
pub fn changes(before: &Report, after: &Report, expected: &[(&str, &str, &str)]) {
    for (id, verdict, words) in expected {
        after.has(id, verdict, words);
        let [was, seen, _] = &before.findings[*id];
        let better = was != verdict || !seen.contains(words);
        assert!(better, "{id}: it was so before: {seen}");
    }
    let is_expected = |id: &str| expected.iter().any(|(expected, ..)| *expected == id);
    for (id, [verdict, seen, _]) in &after.findings {
        let [was, ..] = &before.findings[id];
        let may = is_expected(id) || OF_THE_MACHINE.contains(&id.as_str());
        assert!(may || was == verdict, "{id}: was {was}, is {verdict}: {seen}");
    }
}
