//! What clients send, as bytes or nearly sound, through control to the registry, beside a world that answers late, wrongly
//! or not at all: each request has its one answer, a stranger moves nothing, and at the end nothing is left.
#![no_main]
#![allow(dead_code)] // not all of the daemon's is used here

#[path = "../../crates/vmd/src/control/clients.rs"]
mod clients;
mod parent;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use clients::Clients;
use libfuzzer_sys::fuzz_target;
use model::{Allow, Disk, IfName, List, MemorySize, Owner, SwitchName, Text, UserPath, VmName};
use parent::local::Locals;
use parent::registry::access::Who;
use parent::registry::definition::Definition;
use parent::registry::{Action, Asked, Event, File, Keep, LAUNCH_LIMIT, Registry, Run, Settings, Switch};
use proto::client::{
    DiskArg, DiskOperation, NicArg, Order, Reply, Request, Start, ToClient, ToControl, Unkillable, VERSION, VmRef,
};
use proto::device::{MemoryReport, Report};
use proto::opener::OpenFile;
use proto::probe::{Found, KernelKind, ToProbe};
use proto::vmm::End;
use proto::{Code, ConnId, Failure, Message, RequestId, VmId};
use vmd_fuzz::Script;

/// Those of vm.conf, and those that clients make up.
const CONFIGURED: [&str; 4] = ["a", "b", "c", "d"];
const NAMES: [&str; 8] = ["a", "b", "c", "d", "x", "y", "z", "a"];
const OWNER: u32 = 1000;
const GROUP: u32 = 7;
/// Steps of one run.
const MAX_STEPS: usize = 200;

fuzz_target!(|input: &[u8]| {
    let mut script = Script(input);
    let mut daemon = Daemon::new(&mut script);
    for _ in 0..MAX_STEPS {
        if script.is_empty() {
            break;
        }
        daemon.step(&mut script);
    }
    daemon.finish();
});

/// Who is at a connection: root, an owner, one of a group, and a stranger.
fn who(conn: ConnId) -> Who {
    match conn.0 % 4 {
        0 => Who::default(),
        1 => Who { uid: OWNER, gid: 1, groups: vec![] },
        2 => Who { uid: 2000, gid: 1, groups: vec![GROUP] },
        _ => Who { uid: 3000, gid: 3, groups: vec![4] },
    }
}

/// What priv calls a tap.
fn tap() -> IfName {
    IfName::new("tap0").expect("a name")
}

struct Daemon {
    clients: Clients,
    live: Vec<ConnId>,
    registry: Registry,
    now: Instant,
    /// What was forwarded, and is not answered.
    owed: BTreeSet<(ConnId, RequestId)>,
    /// What the world has not answered yet.
    pending: Vec<Event>,
    /// And until when vmm answers: its own deadlines are shorter than the registry's.
    launching: BTreeMap<VmId, Instant>,
    running: BTreeSet<VmId>,
    held: BTreeSet<VmId>,
    quit: bool,
    fail: bool,
}

impl Daemon {
    fn new(script: &mut Script<'_>) -> Self {
        let mut daemon = Self {
            clients: Clients::default(),
            live: vec![],
            registry: Registry::default(),
            now: Instant::now(),
            owed: BTreeSet::new(),
            pending: vec![],
            launching: BTreeMap::new(),
            running: BTreeSet::new(),
            held: BTreeSet::new(),
            quit: false,
            fail: false,
        };
        daemon.tell(Event::Configured(Box::new(settings(script, &[]))));
        for _ in 0..4 {
            daemon.arrives();
        }
        daemon
    }

    fn step(&mut self, script: &mut Script<'_>) {
        let choice = script.byte();
        self.fail = choice & 0xE0 == 0xE0;
        match choice % 16 {
            0..=3 => {
                let (conn, id) = (self.conn(script), RequestId(u32::from(script.byte())));
                let said = ToControl::Ask { id, request: request(script) };
                self.said(conn, said);
            }
            4 | 5 => {
                let (conn, count) = (self.conn(script), usize::from(script.byte()));
                match proto::channel::decode::<ToControl>(script.bytes(count)) {
                    Ok(message) => self.said(conn, message),
                    Err(error) => self.client(clients::Event::Malformed(conn, error.to_string())),
                }
            }
            6 => self.arrives(),
            7 => {
                let conn = self.conn(script);
                let event = if choice & 16 == 0 { clients::Event::Left(conn) } else { clients::Event::Slow(conn) };
                self.client(event);
            }
            8..=11 if !self.pending.is_empty() => {
                let event = self.pending.remove(usize::from(script.byte()) % self.pending.len());
                self.tell(if self.fail { failed(event) } else { event });
            }
            12 => {
                let vm = self.running.iter().nth(usize::from(script.byte() % 4)).copied();
                let ends = [End::PoweredOff, End::Rebooted, End::Failed(failure())];
                let end = ends[usize::from(choice >> 4) % 3].clone();
                vm.into_iter().for_each(|vm| self.tell(Event::Ended(vm, end.clone())));
            }
            13 => {
                let step = Duration::from_millis(u64::from(script.byte()) << (script.byte() % 11));
                self.pass(step);
                self.tell(Event::Time);
                assert!(self.registry.next_deadline().is_none_or(|at| at > self.now), "time was not enough");
                self.client(clients::Event::Tick);
                assert!(self.clients.next_tick().is_none_or(|at| at > self.now), "time was not enough");
            }
            14 => {
                let event = self.odd(script);
                self.tell(event);
            }
            _ => {
                let event = self.late(script);
                self.tell(event);
            }
        }
    }

    /// Starts are answered before it is too late for that.
    fn pass(&mut self, step: Duration) {
        let then = self.now + step;
        while let Some(at) = self.pending.iter().position(|event| match event {
            Event::StartDone(vm, _) => self.launching.get(vm).is_some_and(|until| *until <= then),
            _ => false,
        }) {
            let event = self.pending.remove(at);
            self.tell(event);
        }
        self.now = then;
    }

    fn conn(&self, script: &mut Script<'_>) -> ConnId {
        let choice = usize::from(script.byte());
        self.live.get(choice % self.live.len().max(1)).copied().unwrap_or(ConnId(choice as u64))
    }

    fn arrives(&mut self) {
        let next = self.live.last().map_or(0, |last| last.0 + 1);
        for action in self.clients.handle(clients::Event::Accepted(who(ConnId(next)).uid), self.now) {
            if let clients::Action::Admit(conn) = action {
                self.live.push(conn);
            }
        }
        if let Some(conn) = self.live.last().copied() {
            self.clients.handle(clients::Event::Said(conn, ToControl::Hello { version: VERSION }), self.now);
        }
    }

    /// As control's edge does: who is not read says nothing, and what came with it is counted.
    fn said(&mut self, conn: ConnId, message: ToControl) {
        if !self.clients.reads(conn) {
            return;
        }
        let _ = message.fds();
        self.client(clients::Event::Said(conn, message));
    }

    fn client(&mut self, event: clients::Event) {
        for action in self.clients.handle(event, self.now) {
            match action {
                clients::Action::Forward(conn, id, request) => {
                    assert!(self.owed.insert((conn, id)), "a number twice");
                    self.ask(conn, id, request);
                }
                clients::Action::End(conn, _) => {
                    self.live.retain(|other| *other != conn);
                    self.owed.retain(|(other, _)| *other != conn);
                    self.tell(Event::Gone(conn));
                }
                clients::Action::Tell(..) | clients::Action::Admit(_) | clients::Action::TurnAway(..) => {}
            }
        }
    }

    fn ask(&mut self, conn: ConnId, id: RequestId, request: Request) {
        let (asked, who) = (Asked { conn, id }, who(conn));
        let stranger = who.uid == 3000;
        let actions = self.registry.handle(Event::Ask { asked, who, request }, self.now);
        if stranger {
            let answers = |action: &Action| matches!(action, Action::Answer(to, _) if *to == asked);
            let waits = actions.is_empty() && self.owed.contains(&(conn, id));
            assert!(!waits && actions.iter().all(answers), "a stranger moves something: {actions:?}");
        }
        actions.into_iter().for_each(|action| self.see(action));
    }

    /// The registry hears it; before that the world is as the event says.
    fn tell(&mut self, event: Event) {
        match &event {
            Event::StartDone(vm, result) => {
                let launched = self.launching.remove(vm).is_some();
                if launched && result.is_ok() {
                    self.running.insert(*vm);
                }
            }
            Event::Ended(vm, _) => drop(self.running.remove(vm)),
            _ => {}
        }
        self.registry.handle(event, self.now).into_iter().for_each(|action| self.see(action));
    }

    fn see(&mut self, action: Action) {
        let result = || if self.fail { Err(failure()) } else { Ok(()) };
        let more = match &action {
            Action::Answer(asked, reply) => {
                self.answered(*asked, reply.clone());
                vec![]
            }
            Action::MakeSwitch(switch) => vec![Event::SwitchMade(switch.spec.name.clone(), result())],
            Action::NameOwner(vm, _) => vec![Event::OwnerNamed(*vm, Text::cut("ann:staff"))],
            Action::ReadConfig(reading) => vec![Event::ConfigRead(reading.clone(), Err(vec!["1:1: wrong".to_owned()]))],
            Action::Open { run, files, .. } => {
                files.iter().map(|(file, ..)| Event::Opened(*run, *file, Ok(OpenFile::default()))).collect()
            }
            Action::Probe(run, file, kind) => {
                let found = match kind {
                    ToProbe::Kernel { .. } => Found::Kernel { kind: KernelKind::Pvh },
                    ToProbe::RawDisk | ToProbe::RawBase => Found::Raw,
                    ToProbe::Qcow2 { .. } => Found::Qcow2 { size: 1 << 30, base: None },
                };
                vec![Event::Probed(*run, *file, Ok(found))]
            }
            Action::MakeTap { run, nic, .. } => vec![Event::TapMade(*run, *nic, Ok(tap()))],
            Action::MakeConsole(run, _) => {
                self.held.insert(run.vm);
                vec![Event::ConsoleMade(*run, Ok(Text::cut("/dev/pts/9")))]
            }
            Action::Launch(run, launch) => {
                assert_eq!(run.vm, launch.vm.vm);
                assert!(self.held.contains(&run.vm), "nothing is held for a launch");
                assert!(!self.launching.contains_key(&run.vm) && !self.running.contains(&run.vm), "launched twice");
                self.launching.insert(run.vm, self.now + LAUNCH_LIMIT);
                vec![Event::StartDone(run.vm, result().map(|()| 100))]
            }
            Action::Terminate(request, vm, _) => {
                assert!(self.running.contains(vm) || self.launching.contains_key(vm), "a stop of what does not run");
                vec![Event::TerminateDone(*request, result())]
            }
            Action::Order(request, vm, order) => {
                vec![Event::OrderDone(*request, *vm, *order, result().map(|()| *order == Order::Pause))]
            }
            Action::Release(vm, Keep::Nothing) => {
                assert!(!self.running.contains(vm) && !self.launching.contains_key(vm), "released while it runs");
                self.held.remove(vm);
                vec![]
            }
            Action::Quit => {
                assert!(self.running.is_empty() && self.launching.is_empty() && !self.quit);
                self.quit = true;
                vec![]
            }
            _ => vec![],
        };
        self.pending.extend(more);
    }

    fn answered(&mut self, asked: Asked, reply: Reply) {
        let of = (asked.conn, asked.id);
        assert!(
            self.owed.contains(&of) || !self.live.contains(&asked.conn),
            "an answer that nobody waits for: {reply:?}"
        );
        let last = !matches!(reply, Reply::Vms(_) | Reply::Unkillable(_) | Reply::Wrong(_));
        let told = self.clients.handle(clients::Event::Answer(asked.conn, asked.id, reply), self.now);
        let said = |action: &clients::Action| matches!(action, clients::Action::Tell(_, ToClient::Answer { .. }));
        assert!(told.iter().all(said) && told.len() == usize::from(self.live.contains(&asked.conn)));
        if last {
            self.owed.remove(&of);
        }
    }

    /// What happens by itself.
    fn odd(&mut self, script: &mut Script<'_>) -> Event {
        let vm = VmId(u32::from(script.byte() % 8));
        match script.byte() % 8 {
            0 => Event::Hangup,
            1 => Event::Leaving(vm, self.fail),
            2 => {
                let memory = MemoryReport { taken: script.number(), statistics: [Some(script.number()); _] };
                Event::Reported(vm, script.byte() % 4, Report::Memory(memory))
            }
            3 => {
                let what = Unkillable { what: Text::cut("vioblk0"), pid: 9, since: script.number(), uid: OWNER };
                Event::Unkillable(vec![(Some(vm), what); usize::from(script.byte() % 3)])
            }
            4 => Event::VmmSilent(Duration::from_secs(5)),
            5 => Event::OwnerNamed(vm, Text::cut("ann")),
            // A reading is answered, with what the file says now.
            _ => {
                let at = self.pending.iter().position(|event| matches!(event, Event::ConfigRead(..)));
                match at.map(|at| self.pending.remove(at)) {
                    Some(Event::ConfigRead(reading, _)) => {
                        let known = if reading.load.is_some() { &CONFIGURED[..] } else { &[] };
                        Event::ConfigRead(reading, Ok(Box::new(settings(script, known))))
                    }
                    _ => Event::Time,
                }
            }
        }
    }

    /// An answer of a start that may be over, or of a request that was never made.
    fn late(&self, script: &mut Script<'_>) -> Event {
        let run = Run { vm: VmId(u32::from(script.byte() % 6)), nth: u64::from(script.byte()) };
        let file = [File::Kernel, File::Initrd, File::Disk(0), File::Disk(9), File::Cdrom][usize::from(script.byte() % 5)];
        let result = || if self.fail { Err(failure()) } else { Ok(()) };
        match script.byte() % 6 {
            0 => Event::Opened(run, file, result().map(|()| OpenFile::default())),
            1 => Event::Probed(run, file, result().map(|()| Found::Raw)),
            2 => Event::TapMade(run, script.byte() % 3, result().map(|()| tap())),
            3 => Event::TerminateDone(RequestId(u32::from(script.byte())), Err(failure())),
            4 => Event::ConsoleMade(run, result().map(|()| Text::cut("/dev/pts/1"))),
            _ => Event::Gone(ConnId(u64::from(script.byte()) + 1000)),
        }
    }

    /// Whatever happened before, the daemon can end, and all is answered and released.
    fn finish(mut self) {
        self.fail = false;
        for _ in 0..100 {
            self.tell(Event::Terminate);
            while let Some(event) = self.pending.pop() {
                self.tell(event);
            }
            for vm in self.running.clone() {
                self.tell(Event::Ended(vm, End::PoweredOff));
            }
            if self.quit {
                break;
            }
        }
        assert!(self.quit, "it does not end");
        assert!(self.held.is_empty(), "left behind: {:?}", self.held);
        assert!(self.owed.is_empty(), "not answered: {:?}", self.owed);
    }
}

fn failure() -> Failure {
    Failure::new(Code::Io, "test")
}

fn failed(event: Event) -> Event {
    match event {
        Event::Opened(run, file, _) => Event::Opened(run, file, Err(failure())),
        Event::Probed(run, file, _) => Event::Probed(run, file, Err(failure())),
        Event::TapMade(run, nic, _) => Event::TapMade(run, nic, Err(failure())),
        Event::ConsoleMade(run, _) => Event::ConsoleMade(run, Err(failure())),
        other => other,
    }
}

/// What vm.conf says now: some of its VMs, but for those that are known.
fn settings(script: &mut Script<'_>, known: &[&str]) -> Settings {
    let choice = script.byte();
    let vms = CONFIGURED.iter().enumerate().filter(|(nth, name)| choice >> nth & 1 == 0 && !known.contains(name));
    let vms = vms.map(|(nth, name)| definition(name, nth as u32, choice)).collect();
    let spec = model::Switch {
        name: SwitchName::new("lan").expect("a name"),
        enabled: true,
        interface: IfName::new("br0").expect("a name"),
        locked_lladdr: false,
        guarded: false,
        isolated: false,
        external: false,
        group: None,
        rdomain: None,
        up: true,
    };
    let switches = if choice & 0x40 != 0 { vec![Switch { id: 1, spec, maker: None }] } else { vec![] };
    let delay = Duration::from_secs(5);
    let parallel = 1 + usize::from(choice >> 7);
    Settings { socket: Owner::default(), snmp: None, switches, locals: Locals::default(), troubles: vec![], vms, parallel, delay }
}

fn definition(name: &str, nth: u32, choice: u8) -> Definition {
    let owner = [
        Owner::default(),
        Owner { uid: OWNER, gid: None },
        Owner { uid: 1001, gid: Some(GROUP) },
        Owner { uid: OWNER, gid: Some(GROUP) },
    ];
    let owner = owner[nth as usize % 4];
    let vm = model::Vm {
        enabled: choice >> 4 & 3 == nth as u8,
        boot: UserPath::new("/vmlinuz").ok(),
        disks: vec![Disk::new(path(if nth < 2 { "/same.raw" } else { "/d" }), None)],
        owner,
        allow: Allow { owner: (nth == 3).then_some(owner), ..Allow::default() },
        balloon: (nth == 1).then_some(MemorySize::DEFAULT),
        ..model::Vm::new(VmName::new(name).expect("a name"))
    };
    Definition { vm: vm.into(), cards: vec![], owner_name: Text::cut("ann"), from_config: true, user: None }
}

fn path(text: &str) -> UserPath {
    UserPath::new(text).expect("a path")
}

fn name(script: &mut Script<'_>) -> VmName {
    VmName::new(NAMES[usize::from(script.byte() % 8)]).expect("a name")
}

fn vm(script: &mut Script<'_>) -> VmRef {
    match script.byte() % 8 {
        0 => VmRef::Id(u32::from(script.byte() % 8)),
        _ => VmRef::Name(name(script)),
    }
}

/// A request that is right in its form.
fn request(script: &mut Script<'_>) -> Request {
    let choice = script.byte();
    let (flag, other) = (choice & 0x40 != 0, choice & 0x80 != 0);
    match choice % 24 {
        0..=7 => Request::Start(Box::new(start(script))),
        8..=10 => Request::Stop { vm: vm(script), force: flag, wait: other },
        11 | 12 => Request::Wait { vm: vm(script) },
        13 | 14 => {
            let order = [Order::Pause, Order::Unpause, Order::Nmi][usize::from(script.byte() % 3)];
            Request::Order { vm: vm(script), order }
        }
        15 => {
            let size = MemorySize::from_bytes(i64::from(script.word()) << 20).unwrap_or(MemorySize::MAX);
            Request::Memory { vm: vm(script), size }
        }
        16 => Request::DiskFail { vm: vm(script), disk: script.byte() % 3, operation: DiskOperation::Read, count: 1 },
        17 => Request::FlushStop { vm: vm(script), disk: script.byte() % 3, count: 0 },
        18 => Request::Send { vm: vm(script) },
        19 => Request::Receive { name: name(script) },
        20 => Request::Reload,
        21 => Request::Load { path: path("/more") },
        22 => Request::Reset { vms: flag, switches: other },
        _ if flag => Request::Log { verbose: other },
        _ => Request::List,
    }
}

fn start(script: &mut Script<'_>) -> Start {
    let choice = script.byte();
    let mut start = Start {
        vm: vm(script),
        instance_of: (choice % 8 == 7).then(|| name(script)),
        memory: (choice & 0x18 == 0x18).then(|| MemorySize::from_bytes(i64::from(script.word()) << 20).ok()).flatten(),
        cpus: (choice & 0x28 == 0x28).then(|| script.byte()),
        kernel: (choice % 4 == 1).then(|| path("/k")),
        disks: List::default(),
        cdrom: (choice & 0x48 == 0x48).then(|| path("/cd")),
        nics: List::default(),
        boot_device: None,
    };
    if choice & 0x80 != 0 {
        for _ in 0..script.byte() % 6 {
            let paths = ["/x", "/same.raw", "/d"];
            let _ = start.disks.push(DiskArg { path: path(paths[usize::from(script.byte() % 3)]), format: None });
            let lan = || SwitchName::new("lan").expect("a name");
            let nics = [NicArg::Plain, NicArg::Local, NicArg::Switch(lan())];
            let _ = start.nics.push(nics[usize::from(script.byte() % 3)].clone());
        }
    }
    start
}
