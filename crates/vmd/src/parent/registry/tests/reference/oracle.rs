//! The model: what is expected of the registry, step by step (openbsd/daemon.md, 3).

use std::collections::{BTreeMap, BTreeSet};

use super::super::*;

/// Starts sooner than this after one another are fast, and so many of them too many.
const FAST: Duration = Duration::from_secs(6);
const TOO_MANY: u32 = 3;

/// What the registry does that others see.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Out {
    Reply(u64, u32, Said, u32),
    Begin(u32),
    Launch(u32),
    Terminate(u32, bool),
    Pause(u32, bool),
    Release(u32, bool),
    Read,
    Quit,
}

/// Kinds of answers; a failure's code stands beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Said {
    Done,
    Vms,
    Started,
    Accepted,
    Ended,
    Wrong,
    Failed,
}

impl Said {
    pub const ALL: [Self; 7] =
        [Self::Done, Self::Vms, Self::Started, Self::Accepted, Self::Ended, Self::Wrong, Self::Failed];
}

fn code(code: Code) -> u32 {
    u32::try_from(code.number()).unwrap()
}

impl Out {
    /// What of an action others see.
    pub fn of(action: &Action) -> Option<Self> {
        Some(match action {
            Action::Answer(asked, reply) => {
                let (said, number) = match reply {
                    Reply::Done => (Said::Done, 0),
                    Reply::Vms(_) | Reply::Unkillable(_) | Reply::Detail(_) => (Said::Vms, 0),
                    Reply::Started { id, .. } => (Said::Started, *id),
                    Reply::Accepted { id } => (Said::Accepted, *id),
                    Reply::Ended { id } => (Said::Ended, *id),
                    Reply::Wrong(_) => (Said::Wrong, 0),
                    Reply::Note(_) => return None,
                    Reply::Failed(failure) => (Said::Failed, code(failure.code)),
                };
                Self::Reply(asked.conn.0, asked.id.0, said, number)
            }
            Action::MakeConsole(run, _) => Self::Begin(run.vm.0),
            Action::Launch(run, _) => Self::Launch(run.vm.0),
            Action::Terminate(_, vm, how) => Self::Terminate(vm.0, *how == Stop::Force),
            Action::Order(_, vm, order) => Self::Pause(vm.0, *order == Order::Pause),
            Action::Release(vm, keep) => Self::Release(vm.0, *keep == Keep::ForReboot),
            Action::ReadConfig(_) => Self::Read,
            Action::Quit => Self::Quit,
            _ => return None,
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting,
    Stopped,
    Preparing,
    Launching,
    Running,
    Paused,
    Stopping,
}

#[derive(Debug)]
struct Machine {
    id: u32,
    name: String,
    memory: MemorySize,
    uid: u32,
    listed_for_good: bool,
    has_kernel: bool,
    /// What a reload said since it runs: memory, and the owner.
    next: Option<(MemorySize, u32)>,
    state: State,
    starter: Option<Asked>,
    run: Option<crate::parent::registry::Run>,
    missing: BTreeSet<&'static str>,
    deadline: Instant,
    /// To be ended once it has started: by force, or gently.
    doomed: Option<bool>,
    last_start: Option<Instant>,
    fast: u32,
    since: u32,
    waits: Vec<Asked>,
    /// Pauses that vmm owes an answer, since it last began to run.
    pausing: BTreeSet<u32>,
}

/// All that the model remembers.
#[derive(Debug)]
pub struct Model {
    vms: Vec<Machine>,
    ids: BTreeMap<(String, u32), u32>,
    last_id: u32,
    parallel: usize,
    next_batch: Option<Instant>,
    clock: u32,
    ending: bool,
    quit: bool,
    now: Instant,
    stops: BTreeMap<u32, (Asked, u32, bool)>,
    pauses: BTreeMap<u32, Asked>,
    /// The client of the step's stop or pause, whose number the registry chooses.
    asking: Option<(Asked, u32, bool)>,
    outs: Vec<Out>,
    said: BTreeSet<Said>,
}

impl Model {
    pub fn new(now: Instant) -> Self {
        Self {
            vms: vec![],
            ids: BTreeMap::new(),
            last_id: 0,
            parallel: 0,
            next_batch: None,
            clock: 0,
            ending: false,
            quit: false,
            now,
            stops: BTreeMap::new(),
            pauses: BTreeMap::new(),
            asking: None,
            outs: vec![],
            said: BTreeSet::new(),
        }
    }

    /// Numbers that the registry chose.
    pub fn learn(&mut self, action: &Action) {
        match action {
            Action::MakeConsole(run, _) => {
                let vm = self.vms.iter_mut().find(|vm| vm.id == run.vm.0);
                vm.expect("a start of an unknown VM").run = Some(*run);
            }
            Action::Terminate(request, ..) => {
                self.stops.extend(self.asking.map(|asking| (request.0, asking)));
            }
            Action::Order(request, vm, order) => {
                let vm = self.vms.iter_mut().find(|other| other.id == vm.0);
                vm.expect("an order to an unknown VM").pausing.extend((*order == Order::Pause).then_some(request.0));
                self.pauses.extend(self.asking.map(|(asked, ..)| (request.0, asked)));
            }
            _ => {}
        }
    }

    pub fn knows(&self, name: &str) -> bool {
        self.vms.iter().any(|vm| vm.name == name)
    }

    pub fn has_quit(&self) -> bool {
        self.quit
    }

    pub fn said(&self) -> BTreeSet<Said> {
        self.said.clone()
    }

    pub fn owes_nobody(&self) -> bool {
        self.vms.iter().all(|vm| vm.waits.is_empty() && vm.starter.is_none()) && self.stops.is_empty()
    }

    /// Those with a process first, in order of their starts; then the others as they were defined.
    pub fn list(&self) -> Vec<(String, u32, MemorySize, VmState, Option<u32>)> {
        let alive = |vm: &&Machine| matches!(vm.state, State::Running | State::Paused | State::Stopping);
        let mut first: Vec<&Machine> = self.vms.iter().filter(alive).collect();
        first.sort_by_key(|vm| vm.since);
        let rest = self.vms.iter().filter(|vm| !alive(vm));
        let line = |vm: &Machine| {
            let state = match vm.state {
                State::Waiting => VmState::Waiting,
                State::Stopped => VmState::Stopped,
                State::Preparing | State::Launching => VmState::Starting,
                State::Running if vm.pausing.is_empty() => VmState::Running,
                State::Running => VmState::Pausing,
                State::Paused => VmState::Paused,
                State::Stopping => VmState::Stopping,
            };
            (vm.name.clone(), vm.id, vm.memory, state, alive(&vm).then_some(100))
        };
        first.into_iter().chain(rest).map(line).collect()
    }

    fn done(&mut self) -> Vec<Out> {
        let idle = self.vms.iter().all(|vm| matches!(vm.state, State::Waiting | State::Stopped));
        if self.ending && idle && !self.quit {
            self.quit = true;
            self.outs.push(Out::Quit);
        }
        std::mem::take(&mut self.outs)
    }

    fn say(&mut self, asked: Asked, said: Said, number: u32) {
        self.said.insert(said);
        self.outs.push(Out::Reply(asked.conn.0, asked.id.0, said, number));
    }

    fn fail(&mut self, asked: Asked, why: Code) {
        self.say(asked, Said::Failed, code(why));
    }

    fn index(&self, id: u32) -> Option<usize> {
        self.vms.iter().position(|vm| vm.id == id)
    }

    // Configuration.

    pub fn configured(&mut self, settings: &Settings, now: Instant) -> Vec<Out> {
        self.now = now;
        self.parallel = settings.parallel;
        self.take(settings, true);
        self.done()
    }

    pub fn read(&mut self, asked: Asked, load: bool, settings: Option<&Settings>, now: Instant) -> Vec<Out> {
        self.now = now;
        let Some(settings) = settings else {
            self.say(asked, Said::Wrong, 0);
            self.fail(asked, Code::Invalid);
            return self.done();
        };
        if !load {
            self.vms.retain(|vm| !matches!(vm.state, State::Waiting | State::Stopped));
            self.parallel = settings.parallel;
        }
        self.take(settings, load);
        self.say(asked, Said::Done, 0);
        self.done()
    }

    fn take(&mut self, settings: &Settings, load: bool) {
        for definition in &settings.vms {
            let name = definition.name.as_str();
            if let Some(vm) = self.vms.iter_mut().find(|vm| vm.name == name) {
                vm.listed_for_good = true;
                if !load {
                    vm.next = Some((definition.memory, definition.owner.uid));
                }
                continue;
            }
            let state = if definition.enabled { State::Waiting } else { State::Stopped };
            self.define(name, definition.owner.uid, definition.memory, true, state);
        }
        self.batch();
    }

    fn define(&mut self, name: &str, uid: u32, memory: MemorySize, configured: bool, state: State) -> u32 {
        let key = (name.to_owned(), uid);
        let before = self.ids.get(&key).copied().filter(|id| self.index(*id).is_none());
        let id = before.unwrap_or_else(|| {
            while {
                self.last_id += 1;
                self.index(self.last_id).is_some()
            } {}
            self.last_id
        });
        self.ids.insert(key, id);
        self.vms.push(Machine {
            id,
            name: name.to_owned(),
            memory,
            uid,
            listed_for_good: configured,
            has_kernel: configured,
            next: None,
            state,
            starter: None,
            run: None,
            missing: BTreeSet::new(),
            deadline: self.now,
            doomed: None,
            last_start: None,
            fast: 0,
            since: 0,
            waits: vec![],
            pausing: BTreeSet::new(),
        });
        id
    }

    fn batch(&mut self) {
        if self.ending {
            return;
        }
        let waiting: Vec<u32> = self.vms.iter().filter(|vm| vm.state == State::Waiting).map(|vm| vm.id).collect();
        for id in waiting.iter().take(self.parallel) {
            self.start(*id, None, false, false);
        }
        self.next_batch = (waiting.len() > self.parallel).then(|| self.now + Duration::from_secs(5));
    }

    pub fn time(&mut self, now: Instant) -> Vec<Out> {
        self.now = now;
        let late = |vm: &&Machine| vm.state == State::Preparing && vm.deadline <= now;
        for id in self.vms.iter().filter(late).map(|vm| vm.id).collect::<Vec<_>>() {
            self.start_failed(id, Code::TimedOut);
        }
        if self.next_batch.is_some_and(|next| next <= now) {
            self.next_batch = None;
            self.batch();
        }
        self.done()
    }

    // A start.

    fn start(&mut self, id: u32, starter: Option<Asked>, own_kernel: bool, again: bool) {
        let now = self.now;
        let at = self.index(id).unwrap();
        let vm = &mut self.vms[at];
        vm.starter = starter;
        if vm.last_start.is_some() {
            let fast = vm.last_start.is_some_and(|last| now - last < FAST);
            vm.fast = if fast { vm.fast + 1 } else { 0 };
        }
        if vm.fast >= TOO_MANY {
            return self.start_failed(id, Code::NotPermitted);
        }
        vm.last_start = Some(now);
        if !vm.has_kernel && !own_kernel {
            return self.start_failed(id, Code::BiosMissing);
        }
        vm.missing = BTreeSet::from(["kernel", "console"]);
        vm.missing.extend((vm.has_kernel && !again).then_some("disk")); // a defined VM has none, a reboot still holds it
        vm.state = State::Preparing;
        vm.deadline = now + PREPARE_LIMIT;
        self.outs.push(Out::Begin(id));
    }

    fn start_failed(&mut self, id: u32, why: Code) {
        let at = self.index(id).unwrap();
        if let Some(asked) = self.vms[at].starter.take() {
            self.fail(asked, why);
        }
        self.settle(id);
    }

    fn settle(&mut self, id: u32) {
        let at = self.index(id).unwrap();
        self.outs.push(Out::Release(id, false));
        let vm = &mut self.vms[at];
        vm.state = State::Stopped;
        vm.run = None;
        vm.doomed = None;
        vm.starter = None;
        let (listed, next) = (vm.listed_for_good, vm.next.take());
        for asked in std::mem::take(&mut vm.waits) {
            self.say(asked, Said::Ended, id);
        }
        if !listed {
            self.vms.remove(at);
        } else if let Some((memory, uid)) = next {
            let old = self.vms.remove(at);
            let id = self.define(&old.name, uid, memory, true, State::Stopped);
            let new = self.vms.pop().unwrap();
            assert_eq!(new.id, id);
            self.vms.insert(at, Machine { last_start: old.last_start, fast: old.fast, ..new });
        }
    }

    pub fn answered(&mut self, event: &Event, now: Instant) -> Vec<Out> {
        self.now = now;
        self.asking = None;
        match event {
            Event::Opened(run, file, result) => {
                let part = if matches!(file, File::Disk(_)) { Some("disk") } else { None };
                self.part(*run, part, result.is_ok());
            }
            Event::Probed(run, _, result) => self.part(*run, Some("kernel"), result.is_ok()),
            Event::ConsoleMade(run, result) => self.part(*run, Some("console"), result.is_ok()),
            Event::StartDone(vm, result) => self.launched(vm.0, result.is_ok()),
            Event::TerminateDone(request, result) => {
                if let Some((asked, vm, wait)) = self.stops.remove(&request.0) {
                    self.stop_answered(asked, vm, wait, result.is_ok());
                }
            }
            Event::OrderDone(request, vm, _, result) => {
                let asked = self.pauses.remove(&request.0);
                for vm in &mut self.vms {
                    vm.pausing.remove(&request.0);
                }
                if result.is_ok() {
                    let vm = self.vms.iter_mut().find(|other| other.id == vm.0);
                    if let Some(vm) = vm.filter(|vm| matches!(vm.state, State::Running | State::Paused)) {
                        vm.state = if *result == Ok(true) { State::Paused } else { State::Running };
                    }
                }
                match (asked, result.is_ok()) {
                    (None, _) => {}
                    (Some(asked), true) => self.say(asked, Said::Accepted, vm.0),
                    (Some(asked), false) => self.fail(asked, Code::Io),
                }
            }
            other => panic!("the world owes no {other:?}"),
        }
        self.done()
    }

    fn part(&mut self, run: crate::parent::registry::Run, part: Option<&'static str>, good: bool) {
        let of = |vm: &Machine| vm.run == Some(run) && vm.state == State::Preparing;
        let Some(at) = self.vms.iter().position(of) else { return };
        let id = self.vms[at].id;
        if !good {
            return self.start_failed(id, Code::Io);
        }
        let vm = &mut self.vms[at];
        vm.missing.retain(|missing| Some(*missing) != part);
        if vm.missing.is_empty() {
            vm.state = State::Launching;
            self.outs.push(Out::Launch(id));
        }
    }

    fn launched(&mut self, id: u32, good: bool) {
        self.clock += 1;
        let at = self.index(id).expect("a start of nothing");
        assert_eq!(self.vms[at].state, State::Launching);
        if !good {
            return self.start_failed(id, Code::Io);
        }
        let vm = &mut self.vms[at];
        vm.state = State::Running;
        vm.pausing.clear();
        vm.since = self.clock;
        let (starter, doomed) = (vm.starter.take(), vm.doomed.take());
        if let Some(asked) = starter {
            self.say(asked, Said::Started, id);
        }
        if let Some(force) = doomed {
            self.vms[at].state = State::Stopping;
            self.outs.push(Out::Terminate(id, force));
        }
    }

    // Ends.

    pub fn leaving(&mut self, vm: VmId, reboot: bool) {
        let at = self.index(vm.0).unwrap();
        let vm = &mut self.vms[at];
        vm.state = match (vm.state, reboot) {
            (State::Running | State::Paused, false) => State::Stopping,
            (State::Stopping, true) => {
                vm.pausing.clear();
                State::Running
            }
            (same, _) => same,
        };
    }

    pub fn ended(&mut self, vm: VmId, end: &End, now: Instant) -> Vec<Out> {
        self.now = now;
        let at = self.index(vm.0).unwrap();
        let machine = &mut self.vms[at];
        let again = *end == End::Rebooted && machine.state != State::Stopping && machine.has_kernel && !self.ending;
        if !again {
            self.settle(vm.0);
            return self.done();
        }
        self.outs.push(Out::Release(vm.0, true));
        for asked in std::mem::take(&mut machine.waits) {
            self.say(asked, Said::Ended, vm.0);
        }
        self.start(vm.0, None, false, true);
        self.done()
    }

    fn stop_answered(&mut self, asked: Asked, vm: u32, wait: bool, good: bool) {
        let still = self.vms.iter().any(|other| other.id == vm && other.waits.contains(&asked));
        match (good, wait, still) {
            (true, false, _) => self.say(asked, Said::Accepted, vm),
            (true, true, _) | (false, true, false) => {}
            (false, ..) => {
                self.vms.iter_mut().for_each(|vm| vm.waits.retain(|wait| *wait != asked));
                self.fail(asked, Code::Io);
            }
        }
    }

    /// Ends it for nobody in particular.
    fn doom(&mut self, id: u32, force: bool) {
        let at = self.index(id).unwrap();
        match self.vms[at].state {
            State::Waiting => self.vms[at].state = State::Stopped,
            State::Stopped => {}
            State::Preparing => self.start_failed(id, Code::Invalid),
            State::Launching => self.vms[at].doomed = Some(force),
            State::Running | State::Paused | State::Stopping => {
                self.vms[at].state = State::Stopping;
                self.outs.push(Out::Terminate(id, force));
            }
        }
    }

    pub fn terminate(&mut self) -> Vec<Out> {
        self.asking = None;
        let force = self.ending;
        self.ending = true;
        self.next_batch = None;
        for id in self.vms.iter().map(|vm| vm.id).collect::<Vec<_>>() {
            self.doom(id, force);
        }
        self.done()
    }

    // Clients.

    pub fn gone(&mut self, conn: u64) -> Vec<Out> {
        self.asking = None;
        let theirs = |asked: &Asked| asked.conn.0 == conn;
        self.stops.retain(|_, (asked, ..)| !theirs(asked));
        let before = self.pauses.clone();
        self.pauses.retain(|_, asked| !theirs(asked));
        for vm in &mut self.vms {
            vm.waits.retain(|asked| !theirs(asked));
            vm.starter = vm.starter.filter(|asked| !theirs(asked));
            let theirs_alone = vm.pausing.iter().all(|request| !self.pauses.contains_key(request));
            let theirs = vm.pausing.iter().any(|request| before.contains_key(request));
            if vm.state == State::Running && theirs && theirs_alone {
                self.outs.push(Out::Pause(vm.id, false));
            }
        }
        self.done()
    }

    pub fn ask(&mut self, asked: Asked, who: &Who, request: &Request, now: Instant) -> Vec<Out> {
        self.now = now;
        self.asking = None;
        if let Err(why) = self.asked(asked, who, request) {
            self.fail(asked, why);
        }
        self.done()
    }

    fn find(&self, who: &Who, wanted: &VmRef) -> Result<usize, Code> {
        let at = self.vms.iter().position(|vm| match wanted {
            VmRef::Id(id) => vm.id == *id,
            VmRef::Name(name) => vm.name == name.as_str(),
        });
        let at = at.ok_or(Code::NotFound)?;
        if who.uid == 0 || who.uid == self.vms[at].uid { Ok(at) } else { Err(Code::NotPermitted) }
    }

    fn asked(&mut self, asked: Asked, who: &Who, request: &Request) -> Result<(), Code> {
        let root = if who.uid == 0 { Ok(()) } else { Err(Code::NotPermitted) };
        match request {
            Request::List => {
                self.outs.extend((!self.vms.is_empty()).then_some(Out::Reply(asked.conn.0, asked.id.0, Said::Vms, 0)));
                self.said.insert(Said::Vms);
                self.say(asked, Said::Done, 0);
                Ok(())
            }
            Request::Start(start) => self.ask_start(asked, who, start),
            Request::Stop { vm, force, wait } => self.ask_stop(asked, self.find(who, vm)?, *force, *wait),
            Request::Wait { vm } => self.ask_wait(asked, self.find(who, vm)?),
            Request::Order { vm, order: Order::Pause } => self.ask_pause(asked, self.find(who, vm)?, true),
            Request::Order { vm, order: Order::Unpause } => self.ask_pause(asked, self.find(who, vm)?, false),
            Request::Reload | Request::Load { .. } => {
                root?;
                self.outs.push(Out::Read);
                Ok(())
            }
            Request::Reset { .. } => {
                root?;
                self.reset();
                self.say(asked, Said::Done, 0);
                Ok(())
            }
            other => panic!("nobody asks for {other:?}"),
        }
    }

    fn ask_start(&mut self, asked: Asked, who: &Who, start: &Start) -> Result<(), Code> {
        let own_kernel = start.kernel.is_some();
        let id = match self.find(who, &start.vm) {
            Ok(at) if matches!(self.vms[at].state, State::Stopped | State::Waiting) => self.vms[at].id,
            Ok(at) if self.vms[at].state == State::Stopping || self.vms[at].doomed.is_some() => {
                return Err(Code::InProgress);
            }
            Ok(_) => return Err(Code::Already),
            Err(Code::NotFound) if who.uid != 0 => return Err(Code::NotPermitted),
            Err(Code::NotFound) => match &start.vm {
                VmRef::Name(name) if own_kernel => {
                    self.define(name.as_str(), 0, MemorySize::DEFAULT, false, State::Stopped)
                }
                VmRef::Name(_) | VmRef::Id(_) => return Err(Code::NotFound),
            },
            Err(why) => return Err(why),
        };
        self.start(id, Some(asked), own_kernel, false);
        Ok(())
    }

    fn ask_stop(&mut self, asked: Asked, at: usize, force: bool, wait: bool) -> Result<(), Code> {
        let id = self.vms[at].id;
        match self.vms[at].state {
            State::Stopped | State::Waiting => return Err(Code::Invalid),
            State::Preparing | State::Launching => {
                self.vms[at].waits.extend(wait.then_some(asked));
                self.doom(id, force);
                if !wait {
                    self.say(asked, Said::Accepted, id);
                }
            }
            State::Running | State::Paused | State::Stopping => {
                self.vms[at].waits.extend(wait.then_some(asked));
                self.doom(id, force);
                self.asking = Some((asked, id, wait));
            }
        }
        Ok(())
    }

    fn ask_wait(&mut self, asked: Asked, at: usize) -> Result<(), Code> {
        let held = self.vms.iter().flat_map(|vm| &vm.waits).filter(|wait| wait.conn == asked.conn).count();
        if held >= MAX_WAITS {
            return Err(Code::Busy);
        }
        if matches!(self.vms[at].state, State::Stopped | State::Waiting) {
            return Err(Code::Invalid);
        }
        self.vms[at].waits.push(asked);
        Ok(())
    }

    fn ask_pause(&mut self, asked: Asked, at: usize, pause: bool) -> Result<(), Code> {
        if !matches!(self.vms[at].state, State::Running | State::Paused) {
            return Err(Code::Invalid);
        }
        let id = self.vms[at].id;
        self.asking = Some((asked, id, false));
        self.outs.push(Out::Pause(id, pause));
        Ok(())
    }

    fn reset(&mut self) {
        self.ids.clear();
        self.last_id = 0;
        self.next_batch = None;
        for id in self.vms.iter().map(|vm| vm.id).collect::<Vec<_>>() {
            let at = self.index(id).unwrap();
            self.vms[at].listed_for_good = false;
            self.doom(id, true);
        }
        self.vms.retain(|vm| vm.state != State::Stopped);
    }
}
