//! One test per rule of openbsd/daemon.md, 2, named after its row. The machine alone; `edge.rs` beside it has real
//! processes.

use std::time::Duration;

use model::{DiskLimits, MacAddr, Text, VmName};
use proto::client::Order;
use proto::device::{Balloon, Blk, Net, Spec, ToDevice, ToVmm as FromDevice, Told};
use proto::probe::KernelKind;
use proto::vm::{ToVm, ToVmm as FromVm};
use proto::vmm::{Config, End, StartVm, Stop, ToParent, ToVmm};
use proto::{Code, Failure, RequestId, VmId, exit};
use rustix::process::Signal;
use sys::child::Exit;

use super::moment::Moment;
use super::running::*;

mod devices;
mod edge;
mod edges;
mod ends;
mod pauses;
mod property;
mod replaced;
mod starts;
mod stops;
mod successor;

const REQUEST: RequestId = RequestId(9);
const GRACEFUL: Stop = Stop::Graceful { seconds: 120 };

/// A machine, the time, and what it said.
struct Machine {
    running: Running,
    now: Moment,
}

fn machine() -> Machine {
    let mut machine = Machine { running: Running::new(65536, false), now: Moment::now() };
    machine.parent(ToVmm::Kvm);
    machine
}

fn mebibytes(count: i64) -> model::MemorySize {
    model::MemorySize::from_bytes(count << 20).expect("a size")
}

fn start_of(id: u32, name: &str, devices: u8) -> StartVm {
    StartVm {
        vm: VmId(id),
        name: VmName::new(name).expect("a name"),
        memory: mebibytes(256),
        cpus: 1,
        kernel: KernelKind::BzImage,
        cmdline: model::CommandLine::default(),
        initrd: false,
        vmmci: false,
        device_restarts: model::DEVICE_RESTARTS,
        cgroup: false,
        user: None,
        maker: None,
        devices,
        bases: 0,
    }
}

/// The device of this index, which is a disk.
fn disk(id: u32, device: u8) -> ToVmm {
    let (serial, called) = (Text::cut("disk"), Text::cut("/srv/a.img"));
    let told = Told::Blk(Blk {
        format: model::DiskFormat::Raw,
        bases: model::List::default(),
        read_only: false,
        limits: DiskLimits::default(),
        serial,
        called,
    });
    ToVmm::StartDevice { vm: VmId(id), device, spec: Box::new(Spec { number: device, told }) }
}

/// The device of this index, which is a card.
fn nic(id: u32, device: u8) -> ToVmm {
    let told = Told::Net(Net { mac: MacAddr([2, 0, 0, 0, 0, device]), locked: false, guarded: false, local: None });
    ToVmm::StartDevice { vm: VmId(id), device, spec: Box::new(Spec { number: device, told }) }
}

/// The device of this index, which is a balloon.
fn balloon(id: u32, device: u8) -> ToVmm {
    let told = Told::Balloon(Balloon { memory: mebibytes(256) });
    ToVmm::StartDevice { vm: VmId(id), device, spec: Box::new(Spec { number: device, told }) }
}

fn end(id: u32) -> ToVmm {
    ToVmm::StartEnd { vm: VmId(id) }
}

impl Machine {
    fn event(&mut self, event: Event) -> Vec<Action> {
        self.running.handle(event, self.now)
    }

    fn parent(&mut self, message: ToVmm) -> Vec<Action> {
        self.event(Event::Parent(message))
    }

    fn vm(&mut self, run: Run, message: FromVm) -> Vec<Action> {
        self.event(Event::Vm(run, message))
    }

    /// A process that ends as ours do: one with a status of its own says it before.
    fn exit(&mut self, run: Run, member: Member, exit: Exit) -> Vec<Action> {
        let said = match (member, exit) {
            (Member::Vm, Exit::Code(code)) => {
                u8::try_from(code).map_or_else(|_| vec![], |status| self.vm(run, FromVm::Ended { status }))
            }
            (Member::Device(_), Exit::Code(0)) => self.event(Event::Device(Process { run, member }, FromDevice::Ended)),
            (Member::Vm | Member::Device(_), Exit::Code(_) | Exit::Signal(_) | Exit::Unknown) => vec![],
        };
        assert_eq!(said, [], "a last word is only kept");
        self.dies(run, member, exit)
    }

    /// A process that ends without a last word.
    fn dies(&mut self, run: Run, member: Member, exit: Exit) -> Vec<Action> {
        self.event(Event::Exited(Process { run, member }, exit))
    }

    fn ready(&mut self, run: Run, member: Member) -> Vec<Action> {
        self.event(Event::Device(Process { run, member }, FromDevice::Ready))
    }

    /// Lets time pass, with the event that its passing is.
    fn pass(&mut self, time: Duration) -> Vec<Action> {
        self.now = self.now + time;
        self.event(Event::Time)
    }

    fn stop(&mut self, id: u32, how: Stop) -> Vec<Action> {
        self.parent(ToVmm::Terminate { request: REQUEST, vm: VmId(id), how })
    }

    /// All parts of a start but its end: its devices are disks.
    fn describe(&mut self, start: StartVm) -> Run {
        let devices: Vec<ToVmm> = (0..start.devices).map(|n| disk(start.vm.0, n)).collect();
        self.describe_with(start, &devices)
    }

    fn describe_with(&mut self, start: StartVm, devices: &[ToVmm]) -> Run {
        let actions = self.parent(ToVmm::StartVm(Box::new(start)));
        let run = actions.iter().find_map(|action| match action {
            Action::Hold(run, _) => Some(*run),
            _ => None,
        });
        for device in devices {
            assert_eq!(answers(&self.parent(device.clone())), []);
        }
        run.expect("the start was taken")
    }

    /// A VM whose processes were all started, process ids from 100.
    fn spawn(&mut self, start: StartVm) -> (Run, Vec<Action>) {
        let id = start.vm.0;
        (self.describe(start), self.launch(id))
    }

    /// The end of a start's messages, and all its processes.
    fn launch(&mut self, id: u32) -> Vec<Action> {
        let mut actions = self.parent(end(id));
        let mut all = actions.clone();
        let mut pid = 100;
        while let Some(process) = spawned(&actions) {
            actions = self.event(Event::Spawned(process, pid));
            all.extend(actions.clone());
            pid += 1;
        }
        all
    }

    /// A VM whose guest runs.
    fn up(&mut self, id: u32, name: &str, devices: u8) -> Run {
        let devices: Vec<ToVmm> = (0..devices).map(|n| disk(id, n)).collect();
        self.up_with(id, name, &devices)
    }

    /// The same, with these devices.
    fn up_with(&mut self, id: u32, name: &str, devices: &[ToVmm]) -> Run {
        self.up_outliving(model::DEVICE_RESTARTS, id, name, devices)
    }

    /// The same, which ends where more than so many of its devices die.
    fn up_outliving(&mut self, device_restarts: u8, id: u32, name: &str, devices: &[ToVmm]) -> Run {
        let count = u8::try_from(devices.len()).expect("few devices");
        let run = self.describe_with(StartVm { device_restarts, ..start_of(id, name, count) }, devices);
        self.launch(id);
        for device in 0..count {
            self.ready(run, Member::Device(device));
        }
        let answers = answers(&self.vm(run, FromVm::Started));
        assert!(matches!(answers.as_slice(), [ToParent::StartDone { result: Ok(_), .. }]), "{answers:?}");
        run
    }

    /// The VMs that `Info` tells.
    fn told(&mut self) -> Vec<u32> {
        let ids = |answer| match answer {
            ToParent::Info { vm, .. } => Some(vm.0),
            _ => None,
        };
        answers(&self.parent(ToVmm::Info { request: REQUEST })).into_iter().filter_map(ids).collect()
    }
}

fn answers(actions: &[Action]) -> Vec<ToParent> {
    let answer = |action: &Action| match action {
        Action::Reply(message) => Some(message.clone()),
        _ => None,
    };
    actions.iter().filter_map(answer).collect()
}

fn spawned(actions: &[Action]) -> Option<Process> {
    actions.iter().find_map(|action| match action {
        Action::Spawn(process, _) => Some(*process),
        _ => None,
    })
}

fn kills(actions: &[Action]) -> Vec<(Member, Signal)> {
    let kill = |action: &Action| match action {
        Action::Kill(process, signal) => Some((process.member, *signal)),
        _ => None,
    };
    actions.iter().filter_map(kill).collect()
}

fn said_to_vm(actions: &[Action]) -> Vec<ToVm> {
    let say = |action: &Action| match action {
        Action::TellVm(_, message) => Some(message.clone()),
        _ => None,
    };
    actions.iter().filter_map(say).collect()
}

fn log(actions: &[Action]) -> String {
    let line = |action: &Action| match action {
        Action::Log(_, text) => Some(text.clone()),
        Action::LogOf(name, _, _, text) => Some(format!("vm \"{name}\": {text}")),
        _ => None,
    };
    actions.iter().filter_map(line).collect::<Vec<_>>().join("\n")
}

fn holds_something(actions: &[Action]) -> bool {
    actions.iter().any(|action| matches!(action, Action::Hold(..) | Action::HoldHost(_)))
}

/// The code of the one answer, which is a failed start of this VM.
fn refused(actions: &[Action], id: u32) -> Code {
    match answers(actions).as_slice() {
        [ToParent::StartDone { vm, result: Err(failure) }] if vm.0 == id => failure.code,
        other => panic!("not one refusal of vm {id}: {other:?}"),
    }
}

/// The result of the one answer to a stop.
fn stopped(actions: &[Action]) -> Result<(), Code> {
    match answers(actions).as_slice() {
        [ToParent::TerminateDone { request: REQUEST, result, .. }] => result.clone().map_err(|failure| failure.code),
        other => panic!("not one answer to a stop: {other:?}"),
    }
}

/// The one end that was told.
fn ended(actions: &[Action]) -> End {
    match answers(actions).as_slice() {
        [ToParent::Ended { end, .. }] => end.clone(),
        other => panic!("not one end: {other:?}"),
    }
}
