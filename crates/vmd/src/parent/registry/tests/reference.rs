//! The registry beside a model that is written for itself: plain tables, no actions. Both get the same random commands,
//! ends, reloads and answers in any order; after each step they must have said the same to the same, and show the same list.
//!
//! Every run is of a number, which a failure names: `MODEL_SEED=number` runs that one alone.

mod oracle;
mod random;

use oracle::{Model, Out, Said};
use random::Random;

use super::world::failed;
use super::*;

/// Random steps of the whole test, and of one registry's life.
const STEPS: u32 = 120_000;
const STEPS_OF_ONE: u32 = 300;
/// Configured VMs, and those that clients define.
const CONFIGURED: [&str; 5] = ["a", "b", "c", "d", "e"];
const DEFINED: [&str; 2] = ["x", "y"];
/// Clients; `who` tells who they are.
const CLIENTS: u64 = 5;

fn who(conn: u64) -> Who {
    match conn {
        2 => Who { uid: 1000, gid: 1, groups: vec![] },
        3 => Who { uid: 2000, gid: 1, groups: vec![7] },
        _ => root(),
    }
}

/// One registry, one model, and a world that owes answers.
struct Pair {
    registry: Registry,
    model: Model,
    random: Random,
    now: Instant,
    requests: u32,
    /// What vmm and others have not answered yet.
    owed: Vec<Event>,
    /// VMs that vmm runs.
    alive: Vec<VmId>,
}

impl Pair {
    fn new(seed: u64) -> Self {
        let (registry, random, now) = (Registry::default(), Random::new(seed), Instant::now());
        let model = Model::new(now);
        let mut pair = Self { registry, model, random, now, requests: 0, owed: vec![], alive: vec![] };
        let settings = pair.settings();
        let expected = pair.model.configured(&settings, pair.now);
        pair.both(Event::Configured(Box::new(settings)), expected);
        pair
    }

    fn settings(&mut self) -> Settings {
        let mut vms = Vec::new();
        for name in CONFIGURED {
            if self.random.below(4) > 0 {
                let memory = MemorySize::from_bytes((1 + i64::from(self.random.below(2))) << 30).unwrap();
                let enabled = self.random.below(2) == 0;
                vms.push(changed(name, |vm| (vm.memory, vm.enabled) = (memory, enabled)));
            }
        }
        let parallel = 1 + usize::try_from(self.random.below(2)).unwrap();
        Settings { parallel, delay: Duration::from_secs(5), ..settings(vms) }
    }

    /// The registry's turn: it must do what the model expects.
    fn both(&mut self, event: Event, expected: Vec<Out>) {
        let shown = format!("{event:?}");
        let actions = self.registry.handle(event, self.now);
        let mut outs: Vec<Out> = actions.iter().filter_map(Out::of).collect();
        let mut expected = expected;
        outs.sort();
        expected.sort();
        assert_eq!(outs, expected, "the registry did the left, the model the right, at {shown}");
        for action in &actions {
            self.model.learn(action);
            self.world(action);
        }
        let listed = self.registry.handle(
            Event::Ask { asked: Asked { conn: ConnId(999), id: RequestId(1) }, who: root(), request: Request::List },
            self.now,
        );
        let lines = replies(&listed).into_iter().filter_map(|reply| match reply {
            Reply::Vms(lines) => {
                Some(lines.into_iter().map(|vm| (vm.name.to_string(), vm.id, vm.memory, vm.state, vm.pid)))
            }
            _ => None,
        });
        assert_eq!(lines.flatten().collect::<Vec<_>>(), self.model.list(), "after {shown}");
    }

    fn world(&mut self, action: &Action) {
        let fail = self.random.below(6) == 0;
        let result = if fail { Err(Failure::new(Code::Io, "test")) } else { Ok(()) };
        match action {
            Action::Launch(run, _) => self.owed.push(Event::StartDone(run.vm, result.map(|()| 100))),
            Action::Terminate(request, ..) => self.owed.push(Event::TerminateDone(*request, result)),
            Action::Order(request, vm, order) => {
                let result = result.map(|()| *order == Order::Pause);
                self.owed.push(Event::OrderDone(*request, *vm, *order, result));
            }
            other => {
                let fail = self.random.below(20) == 0;
                self.owed.extend(answers(other).into_iter().map(|event| if fail { failed(event) } else { event }));
            }
        }
    }

    fn step(&mut self) {
        match self.random.below(20) {
            0..=6 => self.ask(),
            7..=13 if !self.owed.is_empty() => {
                let at = self.random.index(self.owed.len());
                let event = self.owed.remove(at);
                self.answered(event);
            }
            14 | 15 if !self.alive.is_empty() => self.end(),
            16 => {
                let reboot = self.random.below(2) == 0;
                if let Some(vm) = self.some_alive() {
                    self.model.leaving(vm, reboot);
                    self.both(Event::Leaving(vm, reboot), vec![]);
                }
            }
            17 => self.pass(),
            18 => {
                let conn = u64::from(self.random.below(u32::try_from(CLIENTS).unwrap()));
                let expected = self.model.gone(conn);
                self.both(Event::Gone(ConnId(conn)), expected);
            }
            _ => {}
        }
    }

    fn some_alive(&mut self) -> Option<VmId> {
        (!self.alive.is_empty()).then(|| self.alive[self.random.index(self.alive.len())])
    }

    fn end(&mut self) {
        let at = self.random.index(self.alive.len());
        let vm = self.alive.remove(at);
        let end = match self.random.below(4) {
            0 => End::PoweredOff,
            1 => End::Failed(Failure::new(Code::Io, "it died")),
            _ => End::Rebooted,
        };
        let expected = self.model.ended(vm, &end, self.now);
        self.both(Event::Ended(vm, end), expected);
    }

    /// Time goes on; vmm answers starts before their deadline, as it has shorter ones.
    fn pass(&mut self) {
        let millis = [100, 1500, 6000, 20_000][self.random.index(4)];
        if millis > 6000 {
            self.answer_starts();
        }
        self.now += Duration::from_millis(millis);
        let expected = self.model.time(self.now);
        self.both(Event::Time, expected);
    }

    fn answer_starts(&mut self) {
        while let Some(at) = self.owed.iter().position(|event| matches!(event, Event::StartDone(..))) {
            let event = self.owed.remove(at);
            self.answered(event);
        }
    }

    fn answered(&mut self, event: Event) {
        if let Event::StartDone(vm, Ok(_)) = &event {
            self.alive.push(*vm);
        }
        let expected = self.model.answered(&event, self.now);
        self.both(event, expected);
    }

    fn ask(&mut self) {
        self.requests += 1;
        let conn = u64::from(self.random.below(u32::try_from(CLIENTS).unwrap()));
        let asked = Asked { conn: ConnId(conn), id: RequestId(self.requests) };
        let request = self.request();
        let expected = self.model.ask(asked, &who(conn), &request, self.now);
        let reads = expected.contains(&Out::Read);
        let load = matches!(request, Request::Load { .. });
        self.both(Event::Ask { asked, who: who(conn), request }, expected);
        if reads {
            self.read(asked, load);
        }
    }

    /// The edge reads at once, as in the daemon.
    fn read(&mut self, asked: Asked, load: bool) {
        let load = load.then(|| UserPath::new("/more").unwrap());
        let mut settings = self.settings();
        if load.is_some() {
            settings.vms.retain(|vm| !self.model.knows(vm.name.as_str())); // as the parser does
        }
        let read = if self.random.below(4) == 0 { Err(vec!["1:1: wrong".to_owned()]) } else { Ok(Box::new(settings)) };
        let expected = self.model.read(asked, load.is_some(), read.as_deref().ok(), self.now);
        self.both(Event::ConfigRead(Reading { asked: Some(asked), load }, read), expected);
    }

    fn request(&mut self) -> Request {
        let names = [&CONFIGURED[..], &DEFINED].concat();
        let name = names[self.random.index(names.len())];
        let vm = if self.random.below(8) == 0 { VmRef::Id(self.random.below(9)) } else { by_name(name) };
        match self.random.below(24) {
            0..=8 => {
                let mut start = start_of(vm);
                start.kernel =
                    (DEFINED.contains(&name) || self.random.below(6) == 0).then(|| UserPath::new("/k").unwrap());
                Request::Start(Box::new(start))
            }
            9..=11 => Request::Stop { vm, force: false, wait: self.random.below(2) == 0 },
            12 | 13 => Request::Stop { vm, force: true, wait: self.random.below(2) == 0 },
            14..=16 => Request::Wait { vm },
            17 | 18 => Request::Order { vm, order: Order::Pause },
            19 | 20 => Request::Order { vm, order: Order::Unpause },
            21 => Request::Reload,
            22 => Request::Load { path: UserPath::new("/more").unwrap() },
            _ if self.random.below(4) == 0 => Request::Reset { vms: true, switches: true },
            _ => Request::List,
        }
    }

    /// The daemon ends: all is answered, and nothing runs.
    fn finish(mut self) {
        for _ in 0..20 {
            let expected = self.model.terminate();
            let quit = expected.contains(&Out::Quit);
            self.both(Event::Terminate, expected);
            while !self.owed.is_empty() {
                let event = self.owed.remove(0);
                self.answered(event);
            }
            while !self.alive.is_empty() {
                self.end();
            }
            if quit || self.model.has_quit() {
                return assert!(self.model.owes_nobody(), "somebody waits for ever: {:?}", self.model);
            }
        }
        panic!("it does not end");
    }
}

/// Says which run failed.
struct Told(u64, u32);

impl Drop for Told {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("at step {} of MODEL_SEED={}", self.1, self.0);
        }
    }
}

#[test]
fn the_registry_is_the_model_for_a_hundred_thousand_random_steps() {
    let only: Option<u64> = std::env::var("MODEL_SEED").ok().and_then(|seed| seed.parse().ok());
    let long: u64 = std::env::var("VMD_LONG").ok().and_then(|times| times.parse().ok()).unwrap_or(1);
    let seeds = only.map_or(0..u64::from(STEPS / STEPS_OF_ONE) * long, |seed| seed..seed + 1);
    let mut said: std::collections::BTreeSet<Said> = std::collections::BTreeSet::new();
    for seed in seeds {
        let mut told = Told(seed, 0);
        let mut pair = Pair::new(seed);
        for step in 0..STEPS_OF_ONE {
            told.1 = step;
            pair.step();
        }
        said.extend(pair.model.said());
        pair.finish();
    }
    if only.is_none() {
        let all = Said::ALL.into_iter().collect();
        assert_eq!(said, all, "each kind of answer has come");
    }
}
