//! VMs as a real snmpd tells them (RFC 7666 over AgentX), asked with net-snmp's own programs: walk, get, getnext, getbulk and
//! set; over restarts of snmpd and the death of agentx, under a context, and with a guest that runs and is paused.
#![forbid(unsafe_code)]

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use e2e::idle::{Does, kernel_file, vm};
use rustix::process::{Pid, Signal, kill_process};
use testkit::apart::apart;
use testkit::bridge;
use testkit::daemon::Daemon;
use testkit::deadline::{self, DAEMON, GUEST};
use testkit::machine::on_kvm;
use testkit::moment::{self, Met, Point};

const MASTER: &str = "/run/agentx-master";
const AGENT: &str = "udp:127.0.0.1:16161";
/// vmMIB.
const VM_MIB: &str = ".1.3.6.1.2.1.236";

/// For the default context and for one called `lab`, each with a community of its own.
const CONF: &str = "master agentx
agentXSocket /run/agentx-master
agentXTimeout 5
rocommunity public 127.0.0.1
rwcommunity secret 127.0.0.1
com2sec -Cn lab labuser 127.0.0.1 labpublic
group labgroup v2c labuser
view everything included .1
access labgroup lab v2c noauth exact everything none none
";

/// Debian's snmpd, with nothing of its own to tell and no file of the host to read or write.
struct Snmpd {
    child: Child,
    dir: tempfile::TempDir,
}

impl Snmpd {
    fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join("snmpd.conf"), CONF).expect("it is ours");
        let log = fs::File::create(dir.path().join("log")).expect("it is ours");
        let child = Command::new("/usr/sbin/snmpd")
            .args(["-f", "-Lo", "-C", "-c"])
            .arg(dir.path().join("snmpd.conf"))
            .arg(AGENT)
            .env("MIBS", "")
            .env("SNMP_PERSISTENT_DIR", dir.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a copy"))
            .stderr(log)
            .spawn()
            .expect("snmpd is installed (scripts/prepare test)");
        let snmpd = Self { child, dir };
        deadline::until("snmpd's socket", DAEMON, || Path::new(MASTER).exists().then_some(()));
        snmpd
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Snmpd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("--- snmpd's log ---\n{}---", self.log());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_file(MASTER); // or the next start is seen before it is there
    }
}

/// What one of net-snmp's programs prints, names and values as numbers, one a line.
fn ask(program: &str, community: &str, words: &[&str]) -> Vec<String> {
    let output = Command::new(program)
        .args(["-v2c", "-c", community, "-t", "10", "-r", "2", "-On", "-Oe"])
        .args(if program == "snmpbulkget" { &["-Cn1", "-Cr3"][..] } else { &[] })
        .arg(AGENT)
        .args(words)
        .env("MIBS", "")
        .env("SNMP_PERSISTENT_DIR", "/run/net-snmp")
        .stdin(Stdio::null())
        .output()
        .expect("net-snmp's programs are installed (scripts/prepare test)");
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    text.lines().filter(|line| !line.starts_with("Created directory")).map(str::to_owned).collect()
}

/// In the default context other tables follow; where nothing does, it says so.
fn walk(community: &str) -> Vec<String> {
    let lines = ask("snmpwalk", community, &[VM_MIB]);
    lines.into_iter().filter(|line| !line.contains("No more variables left in this MIB View")).collect()
}

fn get(below: &str) -> String {
    ask("snmpget", "public", &[&format!("{VM_MIB}.{below}")]).join("\n")
}

/// A column of vmTable for a VM.
fn cell(column: u32, id: u32) -> String {
    let line = get(&format!("1.4.1.{column}.{id}"));
    line.split_once(" = ").map(|(_, value)| value.to_owned()).unwrap_or(line)
}

/// Waits until snmpd has VMs to tell of.
fn served(community: &str) -> Vec<String> {
    let first = format!("{VM_MIB}.1.1.1.0");
    deadline::until("the VM-MIB", DAEMON, || {
        Some(walk(community)).filter(|lines| lines.first().is_some_and(|line| line.starts_with(&first)))
    })
}

/// Waits until a column says so: what is told may be a second old.
fn shows(column: u32, id: u32, value: &str) {
    deadline::until(format!("column {column} of VM {id} to be {value}"), GUEST, || {
        (cell(column, id) == value).then_some(())
    });
}

/// What it answers a walk by, of these VMs, none of which runs: (id, name, disabled, CPUs, MiB).
fn expected(vms: &[(u32, &str, bool, u32, u32)]) -> Vec<String> {
    let line = |below: &str, value: &str| format!("{VM_MIB}.{below} = {value}");
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("a kernel");
    let mut lines = vec![
        line("1.1.1.0", &format!("STRING: \"vmd for Linux {}\"", env!("CARGO_PKG_VERSION"))),
        line("1.1.2.0", &format!("STRING: \"{}\"", release.trim())),
        line("1.1.3.0", "OID: .0.0"),
        line("1.2.0", &format!("INTEGER: {}", vms.len())),
    ];
    for column in 2..=15 {
        for (id, name, disabled, cpus, mib) in vms {
            let value = match column {
                2 => format!("STRING: \"{name}\""),
                3 | 4 => "\"\"".to_owned(),
                5 => "INTEGER: 4".to_owned(),
                6 => "INTEGER: 11".to_owned(),
                7 => format!("INTEGER: {}", if *disabled { 3 } else { 2 }),
                8 => "INTEGER: 1".to_owned(),
                9..=11 => format!("INTEGER: {cpus}"),
                12 => "INTEGER: 1048576".to_owned(),
                13 => "INTEGER: 0".to_owned(),
                14 => "INTEGER: -1".to_owned(),
                _ => format!("INTEGER: {mib}"),
            };
            lines.push(line(&format!("1.4.1.{column}.{id}"), &value));
        }
    }
    lines
}

/// A VM that is not started, of this size.
fn idle(name: &str, mib: u32, options: &[&str]) -> String {
    vm(name, Path::new("/dev/null"), options).replace("memory 64M", &format!("memory {mib}M"))
}

/// For the next reload.
fn rewrite(daemon: &Daemon, conf: &str) {
    fs::write(daemon.path("vm.conf"), conf).expect("it is ours");
}

fn agentx(options: &str) -> String {
    format!("agentx path \"{MASTER}\" {options}\n")
}

#[test]
fn a_walk_is_the_whole_table_and_each_way_to_ask_agrees_with_it() {
    apart("a_walk_is_the_whole_table_and_each_way_to_ask_agrees_with_it", || {
        bridge::ip("link set lo up");
        let snmpd = Snmpd::start();
        let conf = agentx("") + &idle("web", 512, &["cpus 2"]) + &idle("mail.example.org", 64, &[]);
        let daemon = Daemon::start(&conf);
        let all = served("public");
        assert_eq!(all, expected(&[(1, "web", true, 2, 512), (2, "mail.example.org", true, 1, 64)]));
        for line in &all {
            let (name, _) = line.split_once(" = ").expect("a value");
            assert_eq!(ask("snmpget", "public", &[name]), [line.as_str()]);
        }
        for two in all.windows(2) {
            let (name, _) = two[0].split_once(" = ").expect("a value");
            assert_eq!(ask("snmpgetnext", "public", &[name]), [two[1].as_str()]);
        }
        let column = |column: u32, id: u32| format!("{VM_MIB}.1.4.1.{column}.{id}");
        let bulk = ask("snmpbulkget", "public", &[&format!("{VM_MIB}.1.2"), &column(2, 0), &column(6, 1)]);
        let names: Vec<&str> = bulk.iter().filter_map(|line| Some(line.split_once(" = ")?.0)).collect();
        let round = [column(2, 1), column(6, 2), column(2, 2), column(7, 1), column(3, 1), column(7, 2)];
        assert_eq!(names, [&[format!("{VM_MIB}.1.2.0")], round.as_slice()].concat(), "{bulk:?}");

        // What is not there, beyond the end, and what can't be set.
        assert!(get("1.4.1.2.3").ends_with("No Such Instance currently exists at this OID"));
        assert!(
            get("1.4.1.1.1").ends_with("No Such Object available on this agent at this OID"),
            "vmIndex is not accessible"
        );
        assert!(get("1.3.0").ends_with("No Such Object available on this agent at this OID"));
        let beyond = ask("snmpgetnext", "public", &[&column(15, 2)]);
        assert!(!beyond[0].starts_with(VM_MIB), "{beyond:?}");
        let set = ask("snmpset", "secret", &[&column(5, 1), "i", "1"]).join("\n");
        assert!(set.contains("notWritable"), "{set}");
        assert_eq!(walk("public"), all, "as it was");

        // A VM that is gone from the file, and one that is new.
        rewrite(&daemon, &(agentx("") + &idle("web", 512, &["cpus 2"]) + &idle("db", 128, &[])));
        daemon.vmctl(&["reload"]).success();
        let now = expected(&[(1, "web", true, 2, 512), (3, "db", true, 1, 128)]);
        deadline::until("the new table", DAEMON, || (walk("public") == now).then_some(()));
        assert!(daemon.stop().success(), "vmd ends well");
        assert!(ask("snmpgetnext", "public", &[VM_MIB])[0].find(VM_MIB).is_none(), "its session is closed");
        drop(snmpd);
    });
}

#[test]
fn snmpd_may_come_late_go_and_come_again_and_agentx_may_be_killed() {
    apart("snmpd_may_come_late_go_and_come_again_and_agentx_may_be_killed", || {
        bridge::ip("link set lo up");
        let daemon = Daemon::start(&(agentx("") + &idle("web", 64, &[])));
        let table = expected(&[(1, "web", true, 1, 64)]);
        let one = || daemon.in_role("agentx").into_iter().next().expect("agentx runs");
        deadline::until("a warning", DAEMON, || daemon.log().contains("VMs are not reported").then_some(()));
        let first = one();
        for _ in 0..2 {
            let snmpd = Snmpd::start();
            assert_eq!(served("public"), table);
            drop(snmpd);
            deadline::until("a loss", DAEMON, || daemon.log().contains("closed the connection").then_some(()));
        }
        assert_eq!(one(), first, "the same process all the while");
        let warnings = daemon.log().matches("VMs are not reported").count();
        assert!(warnings <= 4, "a reason is told once: {warnings} warnings");

        let _snmpd = Snmpd::start();
        assert_eq!(served("public"), table);
        kill_process(Pid::from_raw(first.pid.try_into().expect("a pid")).expect("a pid"), Signal::KILL)
            .expect("it runs");
        deadline::until("another agentx", DAEMON, || {
            daemon.in_role("agentx").into_iter().find(|it| *it != first).map(drop)
        });
        assert_eq!(served("public"), table);
        daemon.vmctl(&["status"]).success();
        assert!(daemon.stop().success(), "vmd ends well");
    });
}

#[test]
fn kill_9_of_agentx_at_each_message_and_the_next_serves() {
    apart("kill_9_of_agentx_at_each_message_and_the_next_serves", || {
        bridge::ip("link set lo up");
        let mut snmpd = Some(Snmpd::start());
        let daemon = Daemon::start(&(agentx("") + &idle("web", 64, &[])));
        let table = expected(&[(1, "web", true, 1, 64)]);
        assert_eq!(served("public"), table);
        let mut points = Vec::new();
        loop {
            // A connection is asked for and comes, then the VMs: all that agentx and the parent ever say.
            let victim = daemon.in_role("agentx")[0];
            let follower = moment::follow(victim, points.len() + 1);
            drop(snmpd.take());
            snmpd = Some(Snmpd::start());
            // It may be killed in the middle of a walk, which ends in an error then.
            deadline::until(format!("the table after {points:?}"), DAEMON, || (walk("public") == table).then_some(()));
            moment::let_go(victim);
            match follower.join().expect("no panic") {
                Met::Killed(point) => points.push(point),
                Met::Passed(_) => break,
            }
            daemon.vmctl(&["status"]).success();
        }
        println!("kill -9 of agentx: at each of {} points", points.len());
        for point in [Point::Woken, Point::Heard, Point::Saying, Point::Said] {
            assert!(points.contains(&point), "{points:?}");
        }
        assert!(daemon.stop().success(), "vmd ends well");
    });
}

#[test]
fn a_context_has_the_table_alone_and_a_reload_moves_it() {
    apart("a_context_has_the_table_alone_and_a_reload_moves_it", || {
        bridge::ip("link set lo up");
        let _snmpd = Snmpd::start();
        let web = idle("web", 64, &[]);
        let daemon = Daemon::start(&(agentx("context \"lab\"") + &web));
        let table = expected(&[(1, "web", true, 1, 64)]);
        let first = daemon.in_role("agentx");
        assert_eq!(served("labpublic"), table);
        assert!(!walk("public").join("\n").contains("web"), "nothing in the default context");

        rewrite(&daemon, &(agentx("") + &web));
        daemon.vmctl(&["reload"]).success();
        assert_eq!(served("public"), table);
        assert!(!walk("labpublic").join("\n").contains("web"), "given back");
        assert_eq!(daemon.in_role("agentx"), first, "in the same session");

        rewrite(&daemon, &web);
        daemon.vmctl(&["reload"]).success();
        deadline::until("the end of the session", DAEMON, || {
            (!walk("public").join("\n").contains("web")).then_some(())
        });
        assert_eq!(daemon.in_role("agentx"), []);
        assert!(daemon.stop().success(), "vmd ends well");
    });
}

#[test]
fn ten_thousand_vms_are_walked() {
    apart("ten_thousand_vms_are_walked", || {
        bridge::ip("link set lo up");
        let _snmpd = Snmpd::start();
        let vms: String =
            (1..=10_000).map(|n| format!("vm \"v{n}\" {{\n\tdisable\n\tboot \"/etc/passwd\"\n}}\n")).collect();
        let daemon = Daemon::start_quietly(&(agentx("") + &vms));
        deadline::until("the number of VMs", GUEST, || (get("1.2.0").ends_with("INTEGER: 10000")).then_some(()));
        let names = ask("snmpbulkwalk", "public", &[&format!("{VM_MIB}.1.4.1.2")]);
        assert_eq!(names.len(), 10_000, "{:?}", names.last());
        for (n, line) in (1..).zip(&names) {
            assert_eq!(*line, format!("{VM_MIB}.1.4.1.2.{n} = STRING: \"v{n}\""));
        }
        assert!(daemon.stop().success(), "vmd ends well");
    });
}

#[test]
fn a_running_guest_is_told_as_vmctl_tells_it_paused_and_stopped() {
    on_kvm("a_running_guest_is_told_as_vmctl_tells_it_paused_and_stopped", || {
        let dir = tempfile::tempdir().expect("a directory");
        let kernel = kernel_file(dir.path(), Does::Nothing);
        let _snmpd = Snmpd::start();
        let conf = agentx("") + &vm("idle", &kernel, &["cpus 2"]) + &vm("other", &kernel, &[]);
        let daemon = Daemon::start(&conf);
        daemon.vmctl(&["start", "idle"]).success();
        served("public");
        let (row, other) = (daemon.row("idle"), daemon.row("other").id);
        let id = row.id;
        shows(6, id, "INTEGER: 4");
        assert_eq!(cell(2, id), "STRING: \"idle\"");
        assert_eq!((cell(5, id).as_str(), row.state.as_str()), ("INTEGER: 1", "running"));
        assert_eq!((cell(9, id).as_str(), row.vcpus), ("INTEGER: 2", 2));
        assert_eq!((cell(15, id).as_str(), row.maxmem.as_str()), ("INTEGER: 64", "64.0M"));
        let json = daemon.vmctl(&["status", "--json", "idle"]).success().stdout;
        let used: u64 = number_after(&json, "\"resident_bytes\":");
        let told: u64 = cell(13, id).trim_start_matches("INTEGER: ").parse().expect("a number");
        assert!(told.abs_diff(used >> 20) <= 1, "{told} MiB, and by vmctl {used} bytes");
        assert_eq!((cell(5, other), cell(6, other)), ("INTEGER: 4".to_owned(), "INTEGER: 11".to_owned()), "the other");

        daemon.vmctl(&["pause", "idle"]).success();
        shows(6, id, "INTEGER: 8");
        assert_eq!(cell(5, id), "INTEGER: 3");
        let (agentx, guest) = (daemon.in_role("agentx")[0], daemon.in_role("vm"));
        kill_process(Pid::from_raw(agentx.pid.try_into().expect("a pid")).expect("a pid"), Signal::KILL)
            .expect("it runs");
        deadline::until("another agentx", DAEMON, || {
            daemon.in_role("agentx").into_iter().find(|it| *it != agentx).map(drop)
        });
        served("public");
        assert_eq!(daemon.in_role("vm"), guest, "the guest runs on");
        assert_eq!(cell(6, id), "INTEGER: 8");
        daemon.vmctl(&["unpause", "idle"]).success();
        shows(6, id, "INTEGER: 4");

        daemon.vmctl(&["stop", "-f", "-w", "idle"]).success();
        shows(6, id, "INTEGER: 11");
        assert_eq!((cell(5, id).as_str(), cell(13, id).as_str()), ("INTEGER: 4", "INTEGER: 0"));
        assert!(daemon.stop().success(), "vmd ends well");
    });
}

fn number_after(text: &str, key: &str) -> u64 {
    let (_, rest) = text.split_once(key).unwrap_or_else(|| panic!("no {key} in {text}"));
    let digits: String = rest.trim_start().chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap_or_else(|_| panic!("no number: {rest}"))
}
