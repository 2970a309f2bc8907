//! What `status` prints, as a table (openbsd/vmctl.md, 6) and as JSON. Scripts read the table: its columns, words and blanks
//! are the original's. Pure.

use config::json::Value;
use config::size;
use model::UserPath;
use proto::client::{Balloon, Detail, Unkillable, VmLine, VmRef, VmState};
use proto::device::STATISTICS;

/// Characters of the owner's column; the only one that is cut.
const MAX_OWNER: usize = 15;

/// Those that are meant of these VMs, or all, in their order as a table. A VM that was asked for by itself has its description,
/// what its next start changes and its last failure below: all of them keep to a line each, as the original's do.
pub fn table(vms: &[&VmLine], wanted: Option<&VmRef>, detail: &Detail) -> String {
    let description = |vm: &VmLine| vm.description.as_ref().map(ToString::to_string).filter(|text| !text.is_empty());
    let below = |vm: &VmLine| description(vm).filter(|_| wanted.is_some()).map(|text| format!("\ndescription: {text}"));
    let failure = detail.failure.as_ref();
    let failure = failure.map(|failure| format!("last failure, {} ago: {}\n", ago(failure.age), failure.reason));
    meant(vms, wanted)
        .map(|vm| line(vm) + &below(vm).unwrap_or_default())
        .fold(header() + "\n", |text, line| text + &line + "\n")
        + &detail.cdrom.as_ref().map(cdrom).unwrap_or_default()
        + &detail.next.as_ref().map(|next| format!("{next}\n")).unwrap_or_default()
        + &failure.unwrap_or_default()
}

fn cdrom(path: &UserPath) -> String {
    if path.is_empty() {
        return "cdrom: empty\n".to_owned();
    }
    format!("cdrom: {}\n", path.replace(char::is_control, "\u{fffd}")) // it keeps to its line
}

/// Seconds as a person says them.
fn ago(seconds: u32) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86400),
    }
}

/// The same as JSON: `docs/schema/status.json` describes it.
pub fn json(vms: &[&VmLine], wanted: Option<&VmRef>, detail: &Detail, unkillable: &[Unkillable]) -> Value {
    let failure = detail.failure.as_ref().map(|failure| {
        Value::Object(vec![("age_seconds", failure.age.into()), ("reason", Value::text(&failure.reason))])
    });
    let left = unkillable.iter().map(|left| {
        Value::Object(vec![
            ("what", Value::text(&left.what)),
            ("pid", left.pid.into()),
            ("since", left.since.into()),
            ("uid", left.uid.into()),
        ])
    });
    Value::Object(vec![
        ("vms", Value::List(meant(vms, wanted).map(value).collect())),
        ("cdrom", detail.cdrom.as_ref().map(medium).into()),
        ("next_start", detail.next.as_ref().map(Value::text).into()),
        ("last_failure", failure.into()),
        ("unkillable", Value::List(left.collect())),
    ])
}

/// What is in a CD-ROM drive.
fn medium(path: &UserPath) -> Value {
    let path = Some(path).filter(|path| !path.is_empty());
    Value::Object(vec![("medium", path.map(Value::text).into())])
}

/// A process that the kernel does not let go.
pub fn unkillable(left: &Unkillable) -> String {
    let (hours, minutes, seconds) = (left.since / 3600 % 24, left.since / 60 % 60, left.since % 60);
    let Unkillable { what, pid, uid, .. } = left;
    format!("unkillable since {hours:02}:{minutes:02}:{seconds:02} UTC, pid {pid}: {what} for a VM of uid {uid}")
}

fn meant<'a>(vms: &'a [&VmLine], wanted: Option<&VmRef>) -> impl Iterator<Item = &'a VmLine> {
    vms.iter().copied().filter(move |vm| wanted.is_none_or(|wanted| is_meant(vm, wanted)))
}

/// A VM without a process has no memory of the host and no console, whatever was last known of them: as in the table.
fn value(vm: &VmLine) -> Value {
    let running = runs(vm);
    let owner = Value::Object(vec![("uid", vm.uid.into()), ("gid", vm.gid.into()), ("name", Value::text(&vm.owner))]);
    Value::Object(vec![
        ("id", vm.id.into()),
        ("name", Value::text(&vm.name)),
        ("description", vm.description.as_ref().map(Value::text).into()),
        ("state", (if vm.state == VmState::NotStartable { "not startable" } else { state(vm.state) }).into()),
        ("pid", vm.pid.filter(|_| running).into()),
        ("cpus", vm.cpus.into()),
        ("memory_bytes", vm.memory.bytes().into()),
        ("resident_bytes", vm.used.filter(|_| running).into()),
        ("tty", vm.tty.as_ref().filter(|_| running).map(Value::text).into()),
        ("owner", owner),
        ("lladdrs", Value::list(vm.macs.iter().map(Value::text))),
        ("balloon", vm.balloon.as_ref().filter(|_| running).map(balloon).into()),
    ])
}

fn balloon(balloon: &Balloon) -> Value {
    let report = balloon.report.as_ref().map(|(age, report)| {
        let statistics = STATISTICS.into_iter().zip(report.statistics).map(|(name, value)| (name, value.into()));
        Value::Object(vec![
            ("age_seconds", (*age).into()),
            ("taken_bytes", report.taken.into()),
            ("statistics", Value::Object(statistics.collect())),
        ])
    });
    Value::Object(vec![("wanted_bytes", balloon.wanted.bytes().into()), ("report", report.into())])
}

/// The line above the VMs.
fn header() -> String {
    row(["ID", "PID", "VCPUS", "MAXMEM", "CURMEM", "TTY", "OWNER", "STATE", "NAME"].map(str::to_owned))
}

/// A VM's line.
fn line(vm: &VmLine) -> String {
    let running = runs(vm);
    let or_dash = |text: Option<String>| text.filter(|_| running).unwrap_or_else(|| "-".to_owned());
    row([
        vm.id.to_string(),
        or_dash(vm.pid.map(|pid| pid.to_string())),
        vm.cpus.to_string(),
        size::format(vm.memory.bytes()),
        or_dash(vm.used.map(size::format)),
        or_dash(vm.tty.as_ref().map(|tty| tty.strip_prefix("/dev/").unwrap_or(tty).to_owned())),
        vm.owner.chars().take(MAX_OWNER).collect(),
        state(vm.state).to_owned(),
        vm.name.to_string(),
    ])
}

/// Whether a VM has a process.
pub fn runs(vm: &VmLine) -> bool {
    vm.pid.is_some() && vm.id != 0
}

/// Whether a user's word means this VM. Number 0 means none.
pub fn is_meant(vm: &VmLine, wanted: &VmRef) -> bool {
    match wanted {
        VmRef::Id(id) => *id != 0 && vm.id == *id,
        VmRef::Name(name) => vm.name == *name,
    }
}

fn row([id, pid, cpus, max, current, tty, owner, state, name]: [String; 9]) -> String {
    format!("{id:>5} {pid:>5} {cpus:>5} {max:>7} {current:>7} {tty:>7} {owner:>12} {state:>8} {name}")
}

/// A state's word.
fn state(state: VmState) -> &'static str {
    match state {
        VmState::Waiting => "waiting",
        VmState::Starting => "starting",
        VmState::Running => "running",
        VmState::Pausing => "pausing",
        VmState::Paused => "paused",
        VmState::Stopping => "stopping",
        VmState::Stopped => "stopped",
        VmState::NotStartable => "stopped", // one word: scripts count columns
    }
}

#[cfg(test)]
mod tests {
    use model::{Text, VmName};

    use super::*;

    fn vm(name: &str) -> VmLine {
        VmLine {
            id: 2,
            name: VmName::new(name).expect("a name"),
            description: None,
            pid: None,
            cpus: 1,
            memory: model::MemorySize::from_bytes(1 << 30).unwrap(),
            used: None,
            tty: None,
            uid: 1000,
            gid: None,
            owner: Text::cut("joe:staff"),
            state: VmState::Stopped,
            macs: model::List::default(),
            balloon: None,
        }
    }

    #[test]
    fn table_of_the_specification_is_printed_to_the_blank() {
        let running = VmLine {
            id: 1,
            pid: Some(12345),
            memory: model::MemorySize::DEFAULT,
            used: Some(150 << 20),
            tty: Some(Text::cut("/dev/ttyp1")),
            owner: Text::cut("root"),
            state: VmState::Running,
            ..vm("myvm")
        };
        let table = [header(), line(&running), line(&vm("vm2.example.com"))].join("\n");
        let expected = [
            "   ID   PID VCPUS  MAXMEM  CURMEM     TTY        OWNER    STATE NAME",
            "    1 12345     1    512M    150M   ttyp1         root  running myvm",
            "    2     -     1    1.0G       -       -    joe:staff  stopped vm2.example.com",
        ];
        let expected = expected.join("\n");
        assert_eq!(table, expected);
    }

    #[test]
    fn stopped_vm_shows_no_process_memory_and_terminal() {
        let stale = VmLine { used: Some(5), tty: Some(Text::cut("/dev/pts/1")), ..vm("a") };
        assert_eq!(line(&stale), line(&vm("a")));
    }

    #[test]
    fn a_description_is_shown_of_one_vm_that_was_asked_for_and_of_no_list() {
        let described = |text: &str| VmLine { description: model::Description::new(text).ok(), ..vm("a") };
        let (web, silent, empty) = (described("Ann's web server"), vm("a"), described(""));
        let below = |vm: &VmLine, wanted: Option<&VmRef>| {
            let table = table(&[vm], wanted, &Detail::default());
            table.strip_prefix(&format!("{}\n{}\n", header(), line(vm))).expect("the VM's line first").to_owned()
        };
        let by_id = Some(&VmRef::Id(2));
        assert_eq!(below(&web, by_id), "description: Ann's web server\n");
        assert_eq!([below(&web, None), below(&silent, by_id), below(&empty, by_id)], [""; 3]);
        let named = VmRef::Name(VmName::new("b").expect("a name"));
        let other = VmLine { id: 3, ..vm("b") };
        assert_eq!(
            table(&[&web, &other], Some(&named), &Detail::default()),
            format!("{}\n{}\n", header(), line(&other))
        );
        let told = |vm: &VmLine| json(&[vm], None, &Detail::default(), &[]).to_string();
        assert!(
            told(&web).contains("\"description\": \"Ann's web server\",")
                && told(&silent).contains("\"description\": null,")
        );
    }

    #[test]
    fn what_can_not_be_killed_is_told_with_its_time_and_pid() {
        let left = Unkillable { what: Text::cut("opener"), pid: 4242, since: 86400 * 365 + 3600 * 23 + 61, uid: 1000 };
        assert_eq!(unkillable(&left), "unkillable since 23:01:01 UTC, pid 4242: opener for a VM of uid 1000");
        let told = json(&[], None, &Detail::default(), &[left]).to_string();
        assert!(told.contains("\"pid\": 4242") && told.contains("\"since\": 31618861"), "{told}");
    }

    #[test]
    fn owner_is_cut_and_nothing_else_is() {
        let wide = VmLine {
            id: 1_234_567,
            pid: Some(1_234_567),
            tty: Some(Text::cut("/dev/pts/1234")),
            owner: Text::cut("a-long-user:a-long-group"),
            ..vm("a")
        };
        assert_eq!(line(&wide), "1234567 1234567     1    1.0G       - pts/1234 a-long-user:a-l  stopped a");
    }

    #[test]
    fn each_state_has_its_word() {
        let words = [
            (VmState::Waiting, " waiting"),
            (VmState::Starting, "starting"),
            (VmState::Running, " running"),
            (VmState::Pausing, " pausing"),
            (VmState::Paused, "  paused"),
            (VmState::Stopping, "stopping"),
            (VmState::Stopped, " stopped"),
            (VmState::NotStartable, " stopped"),
        ];
        for (state, word) in words {
            assert!(line(&VmLine { state, ..vm("a") }).ends_with(&format!(" {word} a")), "{state:?}");
        }
    }

    #[test]
    fn number_0_means_no_vm() {
        assert!(is_meant(&vm("a"), &VmRef::Id(2)) && !is_meant(&VmLine { id: 0, ..vm("a") }, &VmRef::Id(0)));
        assert!(is_meant(&vm("a"), &VmRef::Name(VmName::new("a").expect("a name"))));
        assert!(!is_meant(&vm("a"), &VmRef::Name(VmName::new("A").expect("a name"))));
    }
}
