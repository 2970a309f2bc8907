//! One test per rule of a VM's life; `world` drives it with everything in any order.

mod answers;
mod cdrom;
mod chains;
mod edges;
mod failures;
mod farewell;
mod instances;
mod late;
mod leaving;
mod local;
mod memory;
mod pausing;
mod permissions;
mod record;
mod reference;
mod reload;
mod rules;
mod silent;
mod unfit;
mod unkillable;
mod world;

use std::time::{Duration, Instant};

use model::{BootDevice, Disk, DiskFormat, IfName, List, MacAddr, MemorySize, Nic, VmName};
use proto::Code;
use proto::client::{DiskArg, DiskOperation, Start, VmLine, VmRef, VmState};
use proto::probe::KernelKind;

use super::cards::Card;
use super::*;

/// A VM of vm.conf's with a kernel and a disk, that is Ann's.
pub(super) fn definition(name: &str) -> Definition {
    let vm = model::Vm {
        enabled: false,
        boot: UserPath::new("/vmlinuz").ok(),
        disks: vec![Disk::new(UserPath::new(&format!("/{name}.raw")).unwrap(), None)],
        owner: Owner { uid: 1000, gid: None },
        ..model::Vm::new(VmName::new(name).unwrap())
    };
    Definition { vm: vm.into(), cards: vec![], owner_name: Text::cut("ann"), from_config: true, user: None }
}

/// The same, with a change.
pub(super) fn changed(name: &str, change: impl FnOnce(&mut model::Vm)) -> Definition {
    let definition = definition(name);
    let mut vm = model::Vm::clone(&definition);
    change(&mut vm);
    Definition { vm: vm.into(), ..definition }
}

/// One that starts with the daemon.
pub(super) fn enabled(name: &str) -> Definition {
    changed(name, |vm| vm.enabled = true)
}

/// With one more card.
pub(super) fn with_card(mut definition: Definition, nic: Nic) -> Definition {
    let mut vm = model::Vm::clone(&definition);
    let card = Card { locked: nic.locked, rdomain: nic.rdomain, group: None };
    vm.nics.push(nic);
    definition.cards.push(card);
    Definition { vm: vm.into(), ..definition }
}

/// A card on that switch.
pub(super) fn on(switch: &str) -> Nic {
    Nic { switch: SwitchName::new(switch).ok(), ..Nic::default() }
}

pub(super) fn switch(name: &str, bridge: &str) -> Switch {
    let spec = model::Switch {
        name: SwitchName::new(name).unwrap(),
        enabled: true,
        interface: IfName::new(bridge).unwrap(),
        locked_lladdr: false,
        guarded: false,
        isolated: false,
        external: false,
        group: None,
        rdomain: None,
        up: true,
    };
    Switch { id: 1, spec, maker: None }
}

pub(super) fn root() -> Who {
    Who::default()
}

pub(super) fn start_of(vm: VmRef) -> Start {
    Start {
        vm,
        instance_of: None,
        memory: None,
        cpus: None,
        kernel: None,
        disks: List::default(),
        cdrom: None,
        nics: List::default(),
        boot_device: None,
    }
}

pub(super) fn by_name(name: &str) -> VmRef {
    VmRef::Name(VmName::new(name).unwrap())
}

/// These VMs, two started at a time.
pub(super) fn settings(vms: Vec<Definition>) -> Settings {
    Settings {
        socket: Owner::default(),
        snmp: None,
        switches: vec![],
        locals: Locals::default(),
        troubles: vec![],
        vms,
        parallel: 2,
        delay: Duration::from_secs(30),
    }
}

/// A registry with these VMs, the time, and the number of the next request.
struct Fixture {
    registry: Registry,
    now: Instant,
    requests: u32,
    /// What the log was told of the last one; nothing else has it.
    recorded: Vec<Action>,
}

/// The cards of a start.
fn nics_of(launch: &Launch) -> Vec<proto::device::Net> {
    let card = |device: &Device| match &device.spec.told {
        proto::device::Told::Net(card) => Some(card.clone()),
        proto::device::Told::Blk(_) | proto::device::Told::Balloon(_) | proto::device::Told::Cdrom(_) => None,
    };
    launch.devices.iter().filter_map(card).collect()
}

impl Fixture {
    fn new(vms: Vec<Definition>) -> Self {
        let mut fixture = Self { registry: Registry::default(), now: Instant::now(), requests: 0, recorded: vec![] };
        let settings = settings(vms);
        fixture.on(Event::Configured(Box::new(settings)));
        fixture
    }

    fn on(&mut self, event: Event) -> Vec<Action> {
        self.registry.handle(event, self.now)
    }

    fn ask_as(&mut self, who: Who, request: Request) -> (Asked, Vec<Action>) {
        self.requests += 1;
        let asked = Asked { conn: ConnId(7), id: RequestId(self.requests) };
        let mut actions = self.on(Event::Ask { asked, who, request });
        self.recorded = actions.extract_if(.., |action| matches!(action, Action::Asked { .. })).collect();
        (asked, actions)
    }

    fn ask(&mut self, request: Request) -> Vec<Action> {
        self.ask_as(root(), request).1
    }

    fn start(&mut self, name: &str) -> Vec<Action> {
        self.ask(Request::Start(Box::new(start_of(by_name(name)))))
    }

    fn stop(&mut self, name: &str, force: bool, wait: bool) -> Vec<Action> {
        self.ask(Request::Stop { vm: by_name(name), force, wait })
    }

    /// Answers everything that a start asks for, up to `Launch`.
    fn prepare(&mut self, actions: Vec<Action>) -> Vec<Action> {
        let mut all = Vec::new();
        let mut todo = actions;
        while !todo.is_empty() {
            let events: Vec<Event> = todo.iter().flat_map(answers).collect();
            all.append(&mut todo);
            todo = events.into_iter().flat_map(|event| self.on(event)).collect();
        }
        all
    }

    /// A VM of that name that runs as process 42.
    fn running(&mut self, name: &str) -> VmId {
        let actions = self.start(name);
        let actions = self.prepare(actions);
        let id = launched(&actions).expect("no launch");
        self.on(Event::StartDone(id, Ok(42)));
        id
    }

    fn line(&mut self, name: &str) -> Option<VmLine> {
        replies(&self.ask(Request::List)).into_iter().find_map(|reply| match reply {
            Reply::Vms(lines) => lines.into_iter().find(|line| line.name.as_str() == name),
            _ => None,
        })
    }

    fn state(&mut self, name: &str) -> Option<VmState> {
        self.line(name).map(|line| line.state)
    }
}

/// Each file of a start is another one.
pub(super) fn opened(file: File) -> OpenFile {
    let inode = match file {
        File::Kernel => 1,
        File::Initrd => 2,
        File::Disk(disk) => 1000 * (u64::from(disk) + 1),
        File::Base(disk, nth) => 1000 * (u64::from(disk) + 1) + u64::from(nth),
        File::Cdrom => 3,
        File::Medium => 4,
    };
    OpenFile { id: FileId { device: 1, inode }, size: 1 << 20, block: false }
}

/// What a host where all is well answers at once.
pub(super) fn answers(action: &Action) -> Vec<Event> {
    match action {
        Action::MakeSwitch(switch) => vec![Event::SwitchMade(switch.spec.name.clone(), Ok(()))],
        Action::Open { run, files, .. } => {
            files.iter().map(|(file, ..)| Event::Opened(*run, *file, Ok(opened(*file)))).collect()
        }
        Action::Probe(run, file, ToProbe::Kernel { .. }) => {
            vec![Event::Probed(*run, *file, Ok(Found::Kernel { kind: KernelKind::Pvh }))]
        }
        Action::Probe(run, file, ToProbe::RawDisk | ToProbe::RawBase) => {
            vec![Event::Probed(*run, *file, Ok(Found::Raw))]
        }
        Action::Probe(run, file, ToProbe::Qcow2 { .. }) => {
            vec![Event::Probed(*run, *file, Ok(Found::Qcow2 { size: 1 << 30, base: None }))]
        }
        Action::MakeTap { run, nic, .. } => vec![Event::TapMade(*run, *nic, Ok(tap(*nic)))],
        Action::MakeConsole(run, _) => vec![Event::ConsoleMade(*run, Ok(Text::cut("/dev/pts/9")))],
        _ => vec![],
    }
}

/// What priv calls the tap of a card.
pub(super) fn tap(nic: u8) -> IfName {
    IfName::new(format!("tap{nic}")).unwrap()
}

fn launched(actions: &[Action]) -> Option<VmId> {
    actions.iter().find_map(|action| match action {
        Action::Launch(_, launch) => Some(launch.vm.vm),
        _ => None,
    })
}

fn replies(actions: &[Action]) -> Vec<Reply> {
    actions
        .iter()
        .filter_map(|action| match action {
            Action::Answer(_, reply) => Some(reply.clone()),
            _ => None,
        })
        .collect()
}

fn code(actions: &[Action]) -> Option<Code> {
    replies(actions).into_iter().find_map(|reply| match reply {
        Reply::Failed(failure) => Some(failure.code),
        _ => None,
    })
}

#[test]
fn a_start_opens_probes_launches_and_answers() {
    let mut f = Fixture::new(vec![definition("web")]);
    let actions = f.start("web");
    let actions = f.prepare(actions);
    let id = launched(&actions).unwrap();
    assert!(replies(&actions).is_empty(), "no answer before vmm's");
    let done = f.on(Event::StartDone(id, Ok(42)));
    assert_eq!(replies(&done), [Reply::Started { id: 1, tty: Text::cut("/dev/pts/9") }]);
    let line = f.line("web").unwrap();
    assert_eq!((line.state, line.pid), (VmState::Running, Some(42)));
}

#[test]
fn a_kernel_without_a_command_line_gets_console_and_first_disk() {
    let mut f = Fixture::new(vec![definition("web")]);
    let actions = f.start("web");
    let actions = f.prepare(actions);
    let cmdline = actions.iter().find_map(|action| match action {
        Action::Launch(_, launch) => Some(launch.vm.cmdline.to_string()),
        _ => None,
    });
    assert_eq!(cmdline.unwrap(), "console=ttyS0 root=/dev/vda rw");
}

#[test]
fn a_disk_that_was_called_raw_is_not_probed() {
    let disk = Disk::new(UserPath::new("/d").unwrap(), Some(DiskFormat::Raw));
    let mut f = Fixture::new(vec![changed("web", |vm| vm.disks = vec![disk])]);
    let actions = f.start("web");
    let actions = f.prepare(actions);
    assert!(launched(&actions).is_some());
    assert!(!actions.iter().any(|a| matches!(a, Action::Probe(_, File::Disk(_), _))));
}

#[test]
fn start_of_a_running_vm_is_already() {
    let mut f = Fixture::new(vec![definition("web")]);
    f.running("web");
    assert_eq!(code(&f.start("web")), Some(Code::Already));
}

#[test]
fn start_of_a_known_vm_with_devices_is_already() {
    let mut f = Fixture::new(vec![definition("web")]);
    let mut start = start_of(by_name("web"));
    start.memory = MemorySize::from_bytes(1 << 30).ok();
    assert_eq!(code(&f.ask(Request::Start(Box::new(start)))), Some(Code::Already));
}

#[test]
fn ten_thousand_vms_are_told_in_fewer_messages_than_a_queue_holds() {
    let vms = (0..10_000).map(|number| definition(&format!("vm{number}"))).collect();
    let actions = Fixture::new(vms).ask(Request::List);
    let answers = replies(&actions);
    assert!(answers.len() < proto::channel::MAX_QUEUE / 2, "{} answers", answers.len());
    let told = |reply: &Reply| if let Reply::Vms(lines) = reply { lines.len() } else { 0 };
    assert_eq!(answers.iter().map(told).sum::<usize>(), 10_000);
    assert_eq!(answers.last(), Some(&Reply::Done));
}

#[test]
fn a_disk_that_another_vm_has_is_told_with_its_name_until_that_one_ended() {
    let same = |name: &str| changed(name, |vm| vm.disks.clone_from(&definition("web").disks));
    let mut f = Fixture::new(vec![definition("web"), same("other")]);
    let id = f.running("web");
    let refused = f.start("other");
    let answers = replies(&refused);
    let [Reply::Failed(failure)] = answers.as_slice() else { panic!("{refused:?}") };
    let text = "disk \"/web.raw\": already in use by vm \"web\"; stop it, or name another image";
    assert_eq!((failure.code, &*failure.text), (Code::DiskMissing, text));
    assert!(!refused.iter().any(|action| matches!(action, Action::Open { .. })));
    f.on(Event::Ended(id, proto::vmm::End::PoweredOff));
    let actions = f.start("other");
    assert!(launched(&f.prepare(actions)).is_some());
}

#[test]
fn a_disk_that_is_given_twice_is_told() {
    let mut f = Fixture::new(vec![changed("web", |vm| vm.disks.extend_from_within(..))]);
    assert!(format!("{:?}", replies(&f.start("web"))).contains("given twice to vm"));
}

#[test]
fn a_file_that_does_not_open_undoes_the_start() {
    let mut f = Fixture::new(vec![definition("web")]);
    let actions = f.start("web");
    let run = actions.iter().find_map(|a| if let Action::Open { run, .. } = a { Some(*run) } else { None }).unwrap();
    let failed = f.on(Event::Opened(run, File::Disk(0), Err(Failure::new(Code::DiskMissing, "no"))));
    assert_eq!(code(&failed), Some(Code::DiskMissing));
    assert!(failed.contains(&Action::Abandon(run)) && failed.contains(&Action::Release(run.vm, Keep::Nothing)));
    assert_eq!(f.state("web"), Some(VmState::Stopped));
    assert!(f.on(Event::Opened(run, File::Kernel, Ok(OpenFile::default()))).is_empty(), "what comes late is of no use");
}

#[test]
fn preparation_has_a_deadline() {
    let mut f = Fixture::new(vec![definition("web")]);
    f.start("web");
    assert_eq!(f.registry.next_deadline(), Some(f.now + PREPARE_LIMIT));
    f.now += PREPARE_LIMIT;
    assert_eq!(code(&f.on(Event::Time)), Some(Code::TimedOut));
}

#[test]
fn a_launch_has_a_deadline_and_what_comes_after_it_is_ended() {
    let mut f = Fixture::new(vec![definition("web")]);
    let actions = f.start("web");
    let id = launched(&f.prepare(actions)).unwrap();
    assert_eq!(f.registry.next_deadline(), Some(f.now + LAUNCH_LIMIT));
    f.now += LAUNCH_LIMIT;
    let late = f.on(Event::Time);
    assert_eq!(code(&late), Some(Code::TimedOut));
    assert!(late.iter().any(|a| matches!(a, Action::Terminate(_, _, Stop::Force))));
    let after = f.on(Event::StartDone(id, Ok(7)));
    assert!(matches!(after.as_slice(), [Action::Terminate(_, ended, Stop::Force)] if *ended == id));
    assert_eq!(f.state("web"), Some(VmState::Stopped));
}

#[test]
fn vmm_failing_a_start_answers_and_releases() {
    let mut f = Fixture::new(vec![definition("web")]);
    let actions = f.start("web");
    let id = launched(&f.prepare(actions)).unwrap();
    let failed = f.on(Event::StartDone(id, Err(Failure::new(Code::NoMemory, "no memory"))));
    assert_eq!(code(&failed), Some(Code::NoMemory));
    assert!(failed.contains(&Action::Release(id, Keep::Nothing)));
}

#[test]
fn only_root_defines_and_a_defined_vm_disappears_when_it_stops() {
    let mut f = Fixture::new(vec![]);
    let mut start = start_of(by_name("new"));
    start.kernel = Some(UserPath::new("/k").unwrap());
    start.disks.push(DiskArg { path: UserPath::new("/d").unwrap(), format: None }).unwrap();
    let stranger = Who { uid: 1000, gid: 1000, groups: vec![] };
    let (_, refused) = f.ask_as(stranger, Request::Start(Box::new(start.clone())));
    assert_eq!(code(&refused), Some(Code::NotPermitted));
    let actions = f.ask(Request::Start(Box::new(start)));
    let id = launched(&f.prepare(actions)).unwrap();
    f.on(Event::StartDone(id, Ok(9)));
    assert_eq!(f.state("new"), Some(VmState::Running));
    f.on(Event::Ended(id, End::PoweredOff));
    assert_eq!(f.state("new"), None);
}

#[test]
fn an_unknown_vm_with_nothing_to_start_from_is_not_found() {
    let mut f = Fixture::new(vec![]);
    assert_eq!(code(&f.start("ghost")), Some(Code::NotFound));
}

#[test]
fn a_vm_without_a_kernel_says_so() {
    let mut f = Fixture::new(vec![changed("web", |vm| vm.boot = None)]);
    assert_eq!(code(&f.start("web")), Some(Code::BiosMissing));
    assert_eq!(f.state("web"), Some(VmState::Stopped));
}

#[test]
fn strangers_may_list_and_nothing_else() {
    let mut f = Fixture::new(vec![definition("web")]);
    f.running("web");
    let stranger = || Who { uid: 1001, gid: 1001, groups: vec![5] };
    let vm = || by_name("web");
    for request in [
        Request::Start(Box::new(start_of(vm()))),
        Request::Stop { vm: vm(), force: true, wait: false },
        Request::Wait { vm: vm() },
        Request::Order { vm: vm(), order: Order::Pause },
        Request::Order { vm: vm(), order: Order::Unpause },
        Request::DiskFail { vm: vm(), disk: 9, operation: DiskOperation::Read, count: 1 },
        Request::FlushStop { vm: vm(), disk: 9, count: 1 },
        Request::Send { vm: vm() },
        Request::Receive { name: VmName::new("x").unwrap() },
        Request::Log { verbose: true },
        Request::Reload,
        Request::Load { path: UserPath::new("/x").unwrap() },
        Request::Reset { vms: true, switches: true },
    ] {
        let (_, actions) = f.ask_as(stranger(), request.clone());
        assert_eq!(code(&actions), Some(Code::NotPermitted), "{request:?}");
        assert_eq!(actions.len(), 1, "{request:?}");
    }
    let (_, actions) = f.ask_as(stranger(), Request::List);
    assert_eq!(replies(&actions).len(), 2);
}

#[test]
fn the_owner_may_stop_and_start() {
    let mut f = Fixture::new(vec![definition("web")]);
    f.running("web");
    let owner = Who { uid: 1000, gid: 1, groups: vec![] };
    let (_, actions) = f.ask_as(owner, Request::Stop { vm: by_name("web"), force: false, wait: false });
    assert!(actions.iter().any(|a| matches!(a, Action::Terminate(_, _, Stop::Graceful { seconds: GRACE_SECONDS }))));
}

#[test]
fn stop_is_answered_by_vmm_and_stop_wait_by_the_end() {
    let mut f = Fixture::new(vec![definition("web")]);
    let id = f.running("web");
    let waiting = f.stop("web", false, true);
    let Some(Action::Terminate(request, ..)) = waiting.first() else { panic!("{waiting:?}") };
    assert!(replies(&f.on(Event::TerminateDone(*request, Ok(())))).is_empty());
    let forced = f.stop("web", true, false);
    let Some(Action::Terminate(request, _, Stop::Force)) = forced.first() else { panic!("{forced:?}") };
    assert_eq!(replies(&f.on(Event::TerminateDone(*request, Ok(())))), [Reply::Accepted { id: 1 }]);
    assert_eq!(replies(&f.on(Event::Ended(id, End::PoweredOff))), [Reply::Ended { id: 1 }]);
    assert_eq!(f.state("web"), Some(VmState::Stopped));
}

#[test]
fn stop_of_a_stopped_vm_is_invalid() {
    let mut f = Fixture::new(vec![definition("web")]);
    assert_eq!(code(&f.stop("web", false, false)), Some(Code::Invalid));
    assert_eq!(code(&f.stop("ghost", false, false)), Some(Code::NotFound));
}

#[test]
fn a_further_stop_is_taken_and_waits_for_the_same_end() {
    let mut f = Fixture::new(vec![definition("web")]);
    let id = f.running("web");
    f.stop("web", false, false);
    let terminates = |actions: Vec<Action>| match actions.as_slice() {
        [Action::Terminate(request, vm, Stop::Graceful { .. })] if *vm == id => *request,
        other => panic!("not one stop: {other:?}"),
    };
    let request = terminates(f.stop("web", false, false));
    assert_eq!(replies(&f.on(Event::TerminateDone(request, Ok(())))), [Reply::Accepted { id: 1 }]);
    let request = terminates(f.stop("web", false, true));
    // vmm has reaped its process already; its end is yet to come.
    let gone = Failure::new(Code::StopInvalid, "vm 1 does not run");
    assert_eq!(f.on(Event::TerminateDone(request, Err(gone))), []);
    assert_eq!(replies(&f.on(Event::Ended(id, End::PoweredOff))), [Reply::Ended { id: 1 }]);
}

#[test]
fn start_of_a_vm_that_is_being_stopped_says_so() {
    let mut f = Fixture::new(vec![definition("web")]);
    let actions = f.start("web");
    let id = launched(&f.prepare(actions)).unwrap();
    f.stop("web", false, false);
    assert_eq!(code(&f.start("web")), Some(Code::InProgress), "before its guest runs");
    f.on(Event::StartDone(id, Ok(5)));
    let refused = f.start("web");
    assert_eq!(code(&refused), Some(Code::InProgress));
    assert!(format!("{refused:?}").contains("is being stopped; start -w waits for that"), "{refused:?}");
    f.on(Event::Ended(id, End::PoweredOff));
    assert_eq!(code(&f.start("web")), None);
}

#[test]
fn stop_while_starting_ends_the_start() {
    let mut f = Fixture::new(vec![definition("web")]);
    f.start("web");
    let actions = f.stop("web", false, true);
    assert_eq!(code(&actions), Some(Code::Invalid), "the starter is told");
    assert!(replies(&actions).contains(&Reply::Ended { id: 1 }));
    assert_eq!(f.state("web"), Some(VmState::Stopped));
}

#[test]
fn stop_while_vmm_starts_it_comes_right_after() {
    let mut f = Fixture::new(vec![definition("web")]);
    let actions = f.start("web");
    let id = launched(&f.prepare(actions)).unwrap();
    assert_eq!(replies(&f.stop("web", true, false)), [Reply::Accepted { id: 1 }]);
    let done = f.on(Event::StartDone(id, Ok(5)));
    assert!(done.iter().any(|a| matches!(a, Action::Terminate(_, _, Stop::Force))));
}

#[test]
fn waits_are_answered_at_the_end_and_at_a_reboot() {
    let mut f = Fixture::new(vec![definition("web")]);
    let id = f.running("web");
    f.ask(Request::Wait { vm: by_name("web") });
    f.now += Duration::from_secs(60);
    let rebooted = f.on(Event::Ended(id, End::Rebooted));
    assert_eq!(replies(&rebooted), [Reply::Ended { id: 1 }]);
    assert!(rebooted.contains(&Action::Release(id, Keep::ForReboot)));
}

#[test]
fn waits_of_one_connection_are_bounded_and_end_with_it() {
    let mut f = Fixture::new(vec![definition("web")]);
    let id = f.running("web");
    for _ in 0..MAX_WAITS {
        assert_eq!(code(&f.ask(Request::Wait { vm: by_name("web") })), None);
    }
    assert_eq!(code(&f.ask(Request::Wait { vm: by_name("web") })), Some(Code::Busy));
    f.on(Event::Gone(ConnId(7)));
    assert!(replies(&f.on(Event::Ended(id, End::PoweredOff))).is_empty());
}

#[test]
fn a_reboot_keeps_disks_and_taps_and_reads_the_kernel_anew() {
    let vm = with_card(definition("web"), Nic::default());
    let mut f = Fixture::new(vec![vm]);
    let id = f.running("web");
    f.now += Duration::from_secs(60);
    let actions = f.on(Event::Ended(id, End::Rebooted));
    let all = f.prepare(actions);
    assert!(all.iter().all(|action| !matches!(action, Action::MakeTap { .. })));
    let files: Vec<File> = all
        .iter()
        .filter_map(|action| match action {
            Action::Open { files, .. } => Some(files.iter().map(|(file, ..)| *file)),
            _ => None,
        })
        .flatten()
        .collect();
    assert_eq!(files, [File::Kernel]);
    assert_eq!(launched(&all), Some(id));
}

#[test]
fn a_reboot_while_stopping_is_an_end() {
    let mut f = Fixture::new(vec![definition("web")]);
    let id = f.running("web");
    f.stop("web", false, false);
    let actions = f.on(Event::Ended(id, End::Rebooted));
    assert!(actions.contains(&Action::Release(id, Keep::Nothing)));
    assert_eq!(f.state("web"), Some(VmState::Stopped));
}

#[test]
fn with_a_boot_device_a_reboot_is_an_end() {
    let mut f = Fixture::new(vec![changed("web", |vm| vm.boot_device = Some(BootDevice::Net))]);
    let id = f.running("web");
    f.on(Event::Ended(id, End::Rebooted));
    assert_eq!(f.state("web"), Some(VmState::Stopped));
}

#[test]
fn a_boot_device_that_is_asked_for_holds_for_that_boot_alone() {
    let mut f = Fixture::new(vec![definition("web")]);
    let start = Start { boot_device: Some(BootDevice::Disk), ..start_of(by_name("web")) };
    let actions = f.ask(Request::Start(Box::new(start)));
    let id = launched(&f.prepare(actions)).unwrap();
    f.on(Event::StartDone(id, Ok(42)));
    f.on(Event::Ended(id, End::Rebooted));
    assert_eq!(f.state("web"), Some(VmState::Stopped));
    f.now += Duration::from_secs(60);
    f.running("web");
    f.now += Duration::from_secs(60);
    let actions = f.on(Event::Ended(id, End::Rebooted));
    assert_eq!(launched(&f.prepare(actions)), Some(id), "the next boot is an ordinary one");
}

#[test]
fn a_guest_that_reboots_without_pause_is_stopped() {
    let mut f = Fixture::new(vec![definition("web")]);
    let id = f.running("web");
    for _ in 0..2 {
        let actions = f.on(Event::Ended(id, End::Rebooted));
        assert_eq!(launched(&f.prepare(actions)), Some(id));
        f.on(Event::StartDone(id, Ok(7)));
    }
    let actions = f.on(Event::Ended(id, End::Rebooted));
    assert_eq!(launched(&f.prepare(actions)), None);
    assert_eq!(f.state("web"), Some(VmState::Stopped));
}

#[test]
fn a_failed_vm_is_not_started_again() {
    let mut f = Fixture::new(vec![definition("web")]);
    let id = f.running("web");
    f.on(Event::Ended(id, End::Failed(Failure::new(Code::Io, "vioblk0 died"))));
    assert_eq!(f.state("web"), Some(VmState::Stopped));
}

#[test]
fn guests_that_leave_show_it_and_may_change_their_mind() {
    let mut f = Fixture::new(vec![definition("web")]);
    let id = f.running("web");
    f.on(Event::Leaving(id, false));
    assert_eq!(f.state("web"), Some(VmState::Stopping));
    f.on(Event::Leaving(id, true));
    assert_eq!(f.state("web"), Some(VmState::Running));
}

#[test]
fn the_staggered_start_takes_so_many_at_a_time() {
    let vms = ["a", "b", "c", "d", "e"].map(enabled);
    let mut f = Fixture { registry: Registry::default(), now: Instant::now(), requests: 0, recorded: vec![] };
    let told = |actions: Vec<Action>| {
        actions.into_iter().find_map(|a| if let Action::Log(_, text) = a { Some(text) } else { None })
    };
    let rest = |wait| {
        Some(format!("{wait} for a turn: 2 at a time, the next in 30 s (\"staggered start\" in vm.conf changes that)"))
    };
    assert_eq!(told(f.on(Event::Configured(Box::new(settings(vms.to_vec()))))), rest("3 VMs wait"));
    let states = |f: &mut Fixture| ["a", "b", "c", "d", "e"].map(|name| f.state(name).unwrap());
    use VmState::{Starting, Waiting};
    assert_eq!(states(&mut f), [Starting, Starting, Waiting, Waiting, Waiting]);
    f.now += Duration::from_secs(29);
    f.on(Event::Time);
    assert_eq!(states(&mut f)[2], Waiting);
    f.now += Duration::from_secs(1);
    assert_eq!(told(f.on(Event::Time)), rest("1 VM waits"));
    assert_eq!(states(&mut f)[2..], [Starting, Starting, Waiting]);
    f.now += Duration::from_secs(30);
    assert_eq!(told(f.on(Event::Time)), None);
    assert_eq!(states(&mut f)[4], Starting);
}

#[test]
fn vms_wait_until_every_switch_was_answered_for() {
    let name = SwitchName::new("lan").unwrap();
    let bridge = IfName::new("br0").unwrap();
    let switch = switch("lan", "br0");
    let vm = with_card(enabled("web"), on("lan"));
    let settings = Settings { switches: vec![switch], ..settings(vec![vm]) };
    let mut registry = Registry::default();
    let now = Instant::now();
    let first = registry.handle(Event::Configured(Box::new(settings)), now);
    assert!(matches!(first.as_slice(), [Action::MakeSwitch(_), Action::KeepIds(_)]));
    let then = registry.handle(Event::SwitchMade(name, Ok(())), now);
    let joined =
        then.iter().any(|a| matches!(a, Action::MakeTap { tap: TapSpec { bridge: Some(b), .. }, .. } if *b == bridge));
    assert!(joined, "{then:?}");
}

#[test]
fn a_vm_on_a_switch_that_could_not_be_made_does_not_start() {
    let vm = with_card(definition("web"), on("lan"));
    let mut f = Fixture::new(vec![vm]);
    f.on(Event::SwitchMade(SwitchName::new("lan").unwrap(), Err(Failure::new(Code::Exists, "no bridge"))));
    assert_eq!(code(&f.start("web")), Some(Code::NotFound));
    f.on(Event::SwitchMade(SwitchName::new("lan").unwrap(), Ok(())));
    assert_eq!(code(&f.start("web")), None, "a reload has made it");
}

#[test]
fn the_same_name_and_owner_keep_their_id() {
    let mut f = Fixture::new(vec![definition("a"), definition("b")]);
    assert_eq!(f.line("b").unwrap().id, 2);
    f.registry.vms.remove(0);
    assert_eq!(f.registry.register(definition("a")), Ok(VmId(1)));
    let other = changed("b", |vm| vm.owner.uid = 2);
    assert_eq!(f.registry.register(other), Ok(VmId(3)));
}

#[test]
fn ids_are_kept_when_they_change_and_known_at_the_next_start() {
    let mut registry = Registry::default();
    let configured = |vms| Event::Configured(Box::new(settings(vms)));
    let kept = |actions: Vec<Action>| {
        let kept = actions.into_iter().filter_map(|a| if let Action::KeepIds(ids) = a { Some(ids) } else { None });
        kept.collect::<Vec<Ids>>()
    };
    let all = kept(registry.handle(configured(vec![definition("a"), definition("b")]), Instant::now()));
    let [ids] = all.as_slice() else { panic!("{all:?}") };
    let mut f = Fixture {
        registry: Registry::knowing(ids.clone(), [0; 2]),
        now: Instant::now(),
        requests: 0,
        recorded: vec![],
    };
    let again = f.on(configured(vec![definition("c"), definition("b"), definition("a")]));
    assert_eq!(["a", "b", "c"].map(|name| f.line(name).unwrap().id), [1, 2, 3]);
    assert_eq!(kept(again).first().map(Ids::len), Some(3));
    assert!(kept(f.start("a")).is_empty(), "nothing is new");
    assert_eq!(kept(f.ask(Request::Reset { vms: true, switches: false })), [Ids::new()]);
}

#[test]
fn names_of_users_are_forgotten_when_they_are_too_many_and_numbers_come_back() {
    let mut f = Fixture::new(vec![definition("web")]);
    f.registry.last_id = 12_000;
    for number in 0..5_000 {
        let id = f.registry.claim(&format!("vm{number}"), 2000).unwrap();
        assert!(id.0 <= 16_383, "{id}");
        assert!(f.registry.ids.len() <= 4098, "{}", f.registry.ids.len());
    }
    assert_eq!(f.line("web").unwrap().id, 1);
    assert_eq!(f.registry.ids.get(&("web".to_owned(), 1000)), Some(&VmId(1)), "it is on the list");
    let ids: std::collections::BTreeSet<VmId> = f.registry.ids.values().copied().collect();
    assert_eq!(ids.len(), f.registry.ids.len(), "no number twice");
}

#[test]
fn an_eighth_of_users_names_goes_the_oldest_first_and_none_of_roots_or_of_the_list() {
    let mut f = Fixture::new(vec![definition("web")]);
    f.registry.claim("roots", 0).unwrap();
    (0..4096).for_each(|number| drop(f.registry.claim(&format!("vm{number}"), 2000)));
    assert_eq!(f.registry.ids.len(), 4098, "as many as are remembered");
    f.registry.claim("more", 2000).unwrap();
    assert_eq!(f.registry.ids.len(), 4098 - 512 + 1);
    let known = |name: &str, owner| f.registry.ids.contains_key(&(name.to_owned(), owner));
    assert!(known("web", 1000) && known("roots", 0) && known("vm512", 2000) && known("more", 2000));
    assert!(!known("vm0", 2000) && !known("vm511", 2000));
}

#[test]
fn terminate_stops_all_gracefully_then_by_force_then_quits() {
    let mut f = Fixture::new(vec![definition("a"), enabled("b")]);
    let a = f.running("a");
    let first = f.on(Event::Terminate);
    assert!(first.iter().any(|x| matches!(x, Action::Terminate(_, id, Stop::Graceful { .. }) if *id == a)));
    assert!(!first.contains(&Action::Quit));
    assert_eq!(code(&f.start("b")), Some(Code::Invalid));
    let second = f.on(Event::Terminate);
    assert!(second.iter().any(|x| matches!(x, Action::Terminate(_, id, Stop::Force) if *id == a)));
    let last = f.on(Event::Ended(a, End::PoweredOff));
    assert_eq!(last.last(), Some(&Action::Quit));
}

#[test]
fn reset_ends_all_at_once_and_forgets_them() {
    let mut f = Fixture::new(vec![definition("a"), definition("b")]);
    let a = f.running("a");
    let actions = f.ask(Request::Reset { vms: true, switches: true });
    assert!(actions.iter().any(|x| matches!(x, Action::Terminate(_, id, Stop::Force) if *id == a)));
    f.on(Event::Ended(a, End::PoweredOff));
    assert_eq!((f.state("a"), f.state("b")), (None, None));
}

#[test]
fn the_end_of_vmm_is_the_end_of_all() {
    let mut f = Fixture::new(vec![definition("a"), definition("b")]);
    f.running("a");
    f.start("b");
    let actions = f.on(Event::VmmGone);
    assert_eq!(code(&actions), Some(Code::Io), "who waited for b is told");
    assert_eq!((f.state("a"), f.state("b")), (Some(VmState::Stopped), Some(VmState::Stopped)));
}

#[test]
fn a_request_may_bring_a_kernel_and_cpus_for_one_boot() {
    let mut f = Fixture::new(vec![definition("web")]);
    let mut start = start_of(by_name("web"));
    start.kernel = Some(UserPath::new("/k").unwrap());
    start.cpus = Some(4);
    let actions = f.ask(Request::Start(Box::new(start)));
    let held = actions.iter().position(|action| matches!(action, Action::HoldKernel(run) if run.vm == VmId(1)));
    let probe = |action: &Action| matches!(action, Action::Probe(_, File::Kernel, ToProbe::Kernel { .. }));
    assert!(actions.iter().position(probe) > held && held.is_some(), "it is held before it is looked at");
    let all = f.prepare(actions);
    let cpus = all.iter().find_map(|a| if let Action::Launch(_, l) = a { Some(l.vm.cpus) } else { None });
    assert_eq!(cpus, Some(4));
    assert_eq!(f.line("web").unwrap().cpus, 1);
}

#[test]
fn what_this_release_does_not_do_is_refused_by_name() {
    let mut f = Fixture::new(vec![definition("web")]);
    let vm = || by_name("web");
    let fail = Request::DiskFail { vm: vm(), disk: 0, operation: DiskOperation::Write, count: 1 };
    let stop = Request::FlushStop { vm: vm(), disk: 0, count: 1 };
    f.running("web");
    for request in [Request::Send { vm: vm() }, Request::Receive { name: VmName::new("x").unwrap() }, fail, stop] {
        assert_eq!(code(&f.ask(request.clone())), Some(Code::Unsupported), "{request:?}");
    }
}
