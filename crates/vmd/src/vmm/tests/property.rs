//! Whatever happens in whatever order: no panic, no process lost, each start answered exactly once, each end told once.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

/// What is done in one step; numbers choose among what there is.
#[derive(Debug, Clone)]
enum Step {
    Start {
        id: u8,
        devices: u8,
        parts: u8,
    },
    Cancel(u8),
    Stop(u8, bool),
    Spawn(bool),
    SayVm(u8, u8),
    SayDevice(u8, u8),
    Break(u8),
    Exit(u8, u8),
    Gone,
    Lost,
    Pass(u8),
    Info,
    /// Pause or not.
    Wish(u8, bool),
    Shutdown,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..4u8, 0..5u8, 0..8u8).prop_map(|(id, devices, parts)| Step::Start { id, devices, parts }),
        1 => (0..4u8).prop_map(Step::Cancel),
        2 => (0..4u8, any::<bool>()).prop_map(|(id, force)| Step::Stop(id, force)),
        12 => (0..10u8).prop_map(|n| Step::Spawn(n > 0)),
        8 => (any::<u8>(), 0..13u8).prop_map(|(which, what)| Step::SayVm(which, what)),
        3 => (0..4u8, any::<bool>()).prop_map(|(id, pause)| Step::Wish(id, pause)),
        6 => (any::<u8>(), 0..6u8).prop_map(|(which, what)| Step::SayDevice(which, what)),
        1 => any::<u8>().prop_map(Step::Break),
        6 => (any::<u8>(), 0..6u8).prop_map(|(which, how)| Step::Exit(which, how)),
        4 => Just(Step::Gone),
        1 => Just(Step::Lost),
        2 => (0..200u8).prop_map(Step::Pass),
        1 => Just(Step::Info),
        1 => (0..20u8).prop_map(|n| if n == 0 { Step::Shutdown } else { Step::Info }),
    ]
}

/// The world around the machine: the processes there are, the starts and runs that owe an answer.
#[derive(Default)]
struct World {
    alive: BTreeSet<Process>,
    asked: Vec<Process>,
    /// Of devices, of which the host may still carry something out.
    awaited: Vec<Process>,
    owed: BTreeMap<VmId, u32>,
    up: BTreeSet<VmId>,
    /// Pauses and unpauses that nobody has answered, and the next one's number.
    wishes: (BTreeSet<RequestId>, u32),
    quit: bool,
}

impl World {
    fn perform(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Spawn(process, _) => self.asked.push(process),
                Action::AwaitGone(process) => {
                    assert!(!self.alive.contains(&process), "{process:?} lives");
                    self.awaited.push(process);
                }
                Action::Reply(ToParent::StartDone { vm, result }) => {
                    let owed = self.owed.get_mut(&vm).filter(|owed| **owed > 0);
                    *owed.unwrap_or_else(|| panic!("vm {vm}: answered a start that nobody began")) -= 1;
                    if result.is_ok() {
                        assert!(self.up.insert(vm), "vm {vm} runs twice");
                    }
                }
                Action::Reply(ToParent::Ended { vm, .. }) => {
                    assert!(self.up.remove(&vm), "vm {vm}: an end without a start");
                }
                Action::Reply(ToParent::OrderDone { request, .. }) => {
                    assert!(self.wishes.0.remove(&request), "{request:?}: answered twice, or never asked");
                }
                Action::Quit => {
                    assert!(self.alive.is_empty() && self.asked.is_empty(), "ends with processes left");
                    self.quit = true;
                }
                _ => {}
            }
        }
    }

    fn pick(&self, which: u8) -> Option<Process> {
        self.alive.iter().nth(usize::from(which) % self.alive.len().max(1)).copied()
    }
}

fn events(step: &Step, world: &mut World, vmm: &mut Machine) -> Vec<Event> {
    let said = |message| vec![Event::Parent(message)];
    match step {
        Step::Start { id, devices, parts } => {
            let id = u32::from(*id);
            *world.owed.entry(VmId(id)).or_default() += 1;
            let start = start_of(id, &format!("vm{id}"), *devices);
            let mut messages = vec![ToVmm::StartVm(Box::new(start))];
            messages.extend((0..*devices).map(|n| disk(id, n)));
            if *parts == 0 {
                messages.push(disk(id, 9)); // a part that is wrong
            }
            messages.push(end(id));
            messages.into_iter().map(Event::Parent).collect()
        }
        Step::Cancel(id) => said(ToVmm::StartCancel { vm: VmId((*id).into()) }),
        Step::Stop(id, force) => {
            let how = if *force { Stop::Force } else { GRACEFUL };
            said(ToVmm::Terminate { request: REQUEST, vm: VmId((*id).into()), how })
        }
        Step::Spawn(works) => {
            let Some(process) = world.asked.pop() else { return Vec::new() };
            if *works {
                world.alive.insert(process);
                vec![Event::Spawned(process, 1)]
            } else {
                vec![Event::SpawnFailed(process, Failure::new(Code::Io, "clone"))]
            }
        }
        Step::SayVm(which, what) => {
            let Some(Process { run, .. }) = world.pick(*which) else { return Vec::new() };
            vec![Event::Vm(
                run,
                match what {
                    0..=3 => FromVm::Started,
                    4 => FromVm::Failed(Failure::new(Code::NoMemory, "no memory")),
                    5 => FromVm::Leaving { reboot: false },
                    6 => FromVm::Leaving { reboot: true },
                    7 => FromVm::Done(Order::Unpause, Ok(false)),
                    8 => FromVm::Done(Order::Pause, Err(Failure::new(Code::TimedOut, "a vCPU hangs"))),
                    9 => FromVm::Ended { status: exit::POWERED_OFF },
                    11 => FromVm::Pausing,
                    10 => FromVm::Ended { status: exit::REBOOTED },
                    _ => FromVm::Done(Order::Pause, Ok(true)),
                },
            )]
        }
        Step::SayDevice(which, what) => {
            let Some(process) = world.pick(*which).filter(|process| process.member != Member::Vm) else {
                return Vec::new();
            };
            vec![Event::Device(
                process,
                match what {
                    0 => FromDevice::Failed(Failure::new(Code::Busy, "busy")),
                    1 => FromDevice::Ended,
                    _ => FromDevice::Ready,
                },
            )]
        }
        Step::Break(which) => {
            world.pick(*which).map(|process| Event::Broken(process, "malformed".to_owned())).into_iter().collect()
        }
        Step::Exit(which, how) => {
            let Some(process) = world.pick(*which) else { return Vec::new() };
            world.alive.remove(&process);
            vec![Event::Exited(
                process,
                match how {
                    0..=2 => Exit::Code(0),
                    3 => Exit::Code(11),
                    4 => Exit::Code(5),
                    _ => Exit::Signal(9),
                },
            )]
        }
        Step::Gone => world.awaited.pop().map(Event::Gone).into_iter().collect(),
        Step::Lost => vec![Event::Lost("lost".to_owned())],
        Step::Pass(seconds) => {
            vmm.now = vmm.now + Duration::from_secs((*seconds).into());
            vec![Event::Time]
        }
        Step::Wish(id, pause) => {
            let request = RequestId(world.wishes.1);
            world.wishes.1 += 1;
            world.wishes.0.insert(request);
            let vm = VmId((*id).into());
            said(ToVmm::Order { request, vm, order: if *pause { Order::Pause } else { Order::Unpause } })
        }
        Step::Info => said(ToVmm::Info { request: REQUEST }),
        Step::Shutdown => vec![Event::Shutdown],
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_events_of_which_a_successor_hears_each_are_answered_as_without_one(
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let (mut vmm, mut world) = (machine(), World::default());
        for step in &steps {
            if world.quit {
                break;
            }
            for event in events(step, &mut world, &mut vmm) {
                let mut successor = vmm.successor();
                let actions = vmm.event(event.clone());
                prop_assert_eq!(&successor.event(event), &actions);
                prop_assert_eq!(successor.running.next_deadline(), vmm.running.next_deadline());
                world.perform(actions);
            }
        }
    }

    #[test]
    fn random_events_never_panic_never_lose_a_child_and_answer_every_start_once(steps in prop::collection::vec(step(), 1..120)) {
        let mut vmm = machine();
        let mut world = World::default();
        for step in &steps {
            if world.quit {
                break;
            }
            for event in events(step, &mut world, &mut vmm) {
                let actions = vmm.event(event);
                world.perform(actions);
            }
        }
        finish(&mut world, &mut vmm);
        prop_assert!(world.quit);
        prop_assert!(world.up.is_empty(), "an end was not told");
        prop_assert!(world.wishes.0.is_empty(), "not answered: {:?}", world.wishes.0);
        prop_assert!(world.owed.values().all(|owed| *owed == 0), "a start was not answered: {:?}", world.owed);
    }
}

/// vmm is told to end, and processes do what they are told.
fn finish(world: &mut World, vmm: &mut Machine) {
    if world.quit {
        return;
    }
    let actions = vmm.event(Event::Shutdown);
    world.perform(actions);
    while let Some(process) = world.asked.pop() {
        world.alive.insert(process);
        let actions = vmm.event(Event::Spawned(process, 1));
        assert!(actions.contains(&Action::Kill(process, Signal::KILL)), "{process:?} would live on");
        world.perform(actions);
    }
    while let Some(process) = world.alive.pop_first() {
        let actions = vmm.event(Event::Exited(process, Exit::Signal(9)));
        world.perform(actions);
    }
}
