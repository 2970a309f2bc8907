//! The registry against a world that answers late, wrongly or not at all, in any order.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

/// What the registry believes the edge holds for each VM, and what it owes to clients.
#[derive(Default)]
struct World {
    pending: Vec<Event>,
    owed: BTreeMap<(u64, u32), usize>,
    launching: BTreeSet<VmId>,
    running: BTreeSet<VmId>,
    held: BTreeSet<VmId>,
    quit: bool,
}

impl World {
    fn see(&mut self, action: Action, fail: bool) {
        let failure = || Failure::new(Code::Io, "test");
        match &action {
            Action::Answer(asked, Reply::Vms(_)) => {
                assert!(self.owed.contains_key(&(asked.conn.0, asked.id.0)));
            }
            Action::Answer(asked, _) => {
                let owed = self.owed.get_mut(&(asked.conn.0, asked.id.0)).expect("an answer to nobody");
                assert_eq!(*owed, 1, "answered twice: {action:?}");
                *owed = 0;
            }
            Action::MakeConsole(run, _) => drop(self.held.insert(run.vm)),
            Action::Launch(run, launch) => {
                assert_eq!(run.vm, launch.vm.vm);
                assert!(self.held.contains(&run.vm), "nothing is held for a launch");
                assert!(self.launching.insert(run.vm) && !self.running.contains(&run.vm), "launched twice");
                let result = if fail { Err(failure()) } else { Ok(100) };
                self.pending.push(Event::StartDone(run.vm, result));
            }
            Action::Terminate(request, vm, _) => {
                assert!(self.running.contains(vm) || self.launching.contains(vm), "a stop of what does not run");
                self.pending.push(Event::TerminateDone(*request, if fail { Err(failure()) } else { Ok(()) }));
            }
            Action::Release(vm, Keep::Nothing) => {
                assert!(!self.running.contains(vm) && !self.launching.contains(vm), "released while it runs");
                self.held.remove(vm);
            }
            Action::Quit => {
                assert!(self.running.is_empty() && self.launching.is_empty());
                self.quit = true;
            }
            _ => {}
        }
        self.pending.extend(answers(&action).into_iter().map(|event| if fail { failed(event) } else { event }));
    }

    /// Before an event reaches the registry, the world is as the event says.
    fn happen(&mut self, event: &Event) {
        match event {
            Event::StartDone(vm, result) => {
                self.launching.remove(vm);
                if result.is_ok() {
                    self.running.insert(*vm);
                }
            }
            Event::Ended(vm, _) => drop(self.running.remove(vm)),
            _ => {}
        }
    }
}

pub(super) fn failed(event: Event) -> Event {
    let failure = || Failure::new(Code::Io, "test");
    match event {
        Event::Opened(run, file, _) => Event::Opened(run, file, Err(failure())),
        Event::Probed(run, file, _) => Event::Probed(run, file, Err(failure())),
        Event::TapMade(run, nic, _) => Event::TapMade(run, nic, Err(failure())),
        Event::ConsoleMade(run, _) => Event::ConsoleMade(run, Err(failure())),
        other => other,
    }
}

fn request(choice: u8, name: &str) -> Request {
    let vm = by_name(name);
    match choice % 8 {
        0..=2 => Request::Start(Box::new(start_of(vm))),
        3 => Request::Stop { vm, force: false, wait: true },
        4 => Request::Stop { vm, force: true, wait: false },
        5 => Request::Wait { vm },
        6 => Request::List,
        _ => Request::Stop { vm, force: false, wait: false },
    }
}

struct Run {
    registry: Registry,
    world: World,
    now: Instant,
    next: u32,
}

impl Run {
    fn new() -> Self {
        let vms = ["a", "b", "c"].map(|name| changed(name, |vm| vm.enabled = name == "a"));
        let settings = Settings { parallel: 1, delay: Duration::from_secs(5), ..settings(vms.to_vec()) };
        let mut run = Self { registry: Registry::default(), world: World::default(), now: Instant::now(), next: 0 };
        run.on(Event::Configured(Box::new(settings)), false);
        run
    }

    fn on(&mut self, event: Event, fail: bool) {
        self.world.happen(&event);
        for action in self.registry.handle(event, self.now) {
            self.world.see(action, fail);
        }
    }

    fn step(&mut self, kind: u8, choice: u8, fail: bool) {
        let name = ["a", "b", "c"][usize::from(choice) % 3];
        match kind % 8 {
            0 | 1 => {
                self.next += 1;
                let asked = Asked { conn: ConnId(u64::from(choice % 4)), id: RequestId(self.next) };
                self.world.owed.insert((asked.conn.0, asked.id.0), 1);
                let event = Event::Ask { asked, who: root(), request: request(choice / 3, name) };
                self.on(event, fail);
            }
            2..=4 if !self.world.pending.is_empty() => {
                let event = self.world.pending.remove(usize::from(choice) % self.world.pending.len());
                self.on(event, fail);
            }
            5 => {
                let vm = self.world.running.iter().nth(usize::from(choice) % 3).copied();
                let end = [End::PoweredOff, End::Rebooted][usize::from(fail)].clone();
                vm.into_iter().for_each(|vm| self.on(Event::Ended(vm, end.clone()), false));
            }
            6 => {
                self.now += Duration::from_millis(u64::from(choice) * 50);
                self.on(Event::Time, fail);
            }
            7 if choice < 16 => {
                self.world.owed.retain(|(conn, _), _| *conn != u64::from(choice % 4));
                self.on(Event::Gone(ConnId(u64::from(choice % 4))), false);
            }
            _ => {}
        }
    }

    /// The daemon ends: whatever happened before, it can, and all is released and answered.
    fn finish(mut self) {
        for _ in 0..100 {
            self.on(Event::Terminate, false);
            while let Some(event) = self.world.pending.pop() {
                self.on(event, false);
            }
            for vm in self.world.running.clone() {
                self.on(Event::Ended(vm, End::PoweredOff), false);
            }
            if self.world.quit {
                break;
            }
        }
        assert!(self.world.quit, "it does not end");
        assert!(self.world.held.is_empty(), "left behind: {:?}", self.world.held);
        let owed: Vec<_> = self.world.owed.iter().filter(|(_, owed)| **owed != 0).collect();
        assert!(owed.is_empty(), "not answered: {owed:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]
    #[test]
    fn every_request_is_answered_once_and_nothing_is_left(
        steps in proptest::collection::vec((any::<u8>(), any::<u8>(), prop::bool::weighted(0.2)), 0..120)
    ) {
        let mut run = Run::new();
        for (kind, choice, fail) in steps {
            run.step(kind, choice, fail);
        }
        run.finish();
    }
}
