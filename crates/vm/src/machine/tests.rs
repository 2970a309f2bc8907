//! A guest that is stopped in the middle of its work and goes on in a fresh process, all chips restored from what was saved;
//! and what a fresh machine does with a saved state that was damaged.
//!
//! The state of KVM's own chips and of the vCPU is saved here, by the test: the machine itself does not do so.

mod guest;

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use boot::registers::Registers;
use hw::{SavedChipset, Timer};
use kvm_bindings::{kvm_irqchip, kvm_lapic_state, kvm_mp_state, kvm_regs, kvm_sregs, kvm_vcpu_events};
use model::{CommandLine, MemorySize, VmName};
use proto::probe::KernelKind;
use proto::vm::{ToVm, ToVmm};
use proto::{Channel, Received, exit};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::{Deserialize, Serialize};
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::kvm::{Exit, Kick};
use crate::lifecycle::Event;
use crate::{description, running, vcpus};

const PATIENCE: Duration = Duration::from_secs(120);
/// Names this test's program as the fresh process.
const FRESH: &str = "VMD_TEST_FRESH_PROCESS";

/// A machine that has been stopped.
#[derive(Serialize, Deserialize)]
struct Stopped {
    chipset: SavedChipset,
    /// The two 8259s and the I/O APIC.
    irqchips: Vec<kvm_irqchip>,
    regs: kvm_regs,
    sregs: kvm_sregs,
    lapic: kvm_lapic_state,
    events: kvm_vcpu_events,
    mp_state: kvm_mp_state,
}

impl Stopped {
    fn save(machine: &Machine, vcpu: &Vcpu) -> Self {
        let irqchip = |chip_id| {
            let mut chip = kvm_irqchip { chip_id, ..Default::default() };
            machine.outside.vm().fd().get_irqchip(&mut chip).unwrap();
            chip
        };
        Self {
            chipset: machine.chipset.save(&machine.outside),
            irqchips: (0..3).map(irqchip).collect(),
            regs: vcpu.fd().get_regs().unwrap(),
            sregs: vcpu.fd().get_sregs().unwrap(),
            lapic: vcpu.fd().get_lapic().unwrap(),
            events: vcpu.fd().get_vcpu_events().unwrap(),
            mp_state: vcpu.fd().get_mp_state().unwrap(),
        }
    }

    /// Gives KVM what is its own, before the chipset speaks to it.
    fn restore(&self, parts: &Parts) {
        for chip in &self.irqchips {
            parts.vm.fd().set_irqchip(chip).unwrap();
        }
        let vcpu = parts.vcpus[0].fd();
        vcpu.set_sregs(&self.sregs).unwrap();
        vcpu.set_regs(&self.regs).unwrap();
        vcpu.set_lapic(&self.lapic).unwrap();
        vcpu.set_vcpu_events(&self.events).unwrap();
        vcpu.set_mp_state(self.mp_state).unwrap();
    }
}

fn description() -> Description {
    Description {
        name: VmName::new("tiny").unwrap(),
        memory: MemorySize::LEAST_BOOTABLE,
        cpus: 1,
        kernel: KernelKind::Pvh,
        cmdline: CommandLine::default(),
        initrd: false,
        vmmci: false,
        devices: 0,
        debug: false,
    }
}

fn kvm() -> OwnedFd {
    File::options().read(true).write(true).open("/dev/kvm").expect("/dev/kvm is needed").into()
}

fn some_parts(memory: &OwnedFd, console: OwnedFd) -> Parts {
    parts(&description(), kvm(), console, memory.try_clone().unwrap()).unwrap()
}

fn restored(parts: Parts, chipset: &SavedChipset) -> Result<Assembled, Error> {
    furnish(parts, Vec::new(), false, |setup, outside| {
        Chipset::restore(setup, chipset, outside).map_err(Error::Chipset)
    })
}

/// A vCPU that runs in a thread until it is told to stop.
struct Turning {
    thread: JoinHandle<Result<Vcpu, String>>,
    kick: Kick,
    stop: Arc<AtomicBool>,
    marks: Receiver<u8>,
}

impl Turning {
    fn start(vcpu: Vcpu, machine: Arc<Machine>) -> Self {
        let (kick, stop) = (vcpu.kick(), Arc::new(AtomicBool::new(false)));
        let (teller, marks) = mpsc::channel();
        let told = stop.clone();
        let thread = std::thread::spawn(move || turn(vcpu, &machine, &told, &teller));
        Self { thread, kick, stop, marks }
    }

    /// The vCPU, outside its guest and with nothing of its last access undone; or why it could not go on.
    fn stop(self) -> Result<Vcpu, String> {
        self.stop.store(true, Ordering::SeqCst);
        self.kick.kick(&self.thread);
        self.thread.join().unwrap()
    }
}

fn turn(mut vcpu: Vcpu, machine: &Machine, stop: &AtomicBool, marks: &Sender<u8>) -> Result<Vcpu, String> {
    while machine.outside.ended().is_none() {
        let held_back = |port, data: &[u8]| machine.chipset.pio_write(port, data, &machine.outside);
        let exit = vcpu.run(&machine.held_back, &held_back);
        let interrupted = matches!(exit, Exit::Interrupted);
        if let Exit::Out { port: guest::MARKS, data, .. } = exit {
            let _ = marks.send(data[0]); // who has seen enough hears no more
        } else if let ControlFlow::Break(why) = vcpus::handle(exit, machine) {
            return Err(format!("{why}; {}", vcpu.describe()));
        }
        // Only an entry that was interrupted has finished the access that the one before it left for.
        if interrupted && stop.load(Ordering::SeqCst) {
            break;
        }
    }
    Ok(vcpu)
}

/// A guest that has programmed all chips and waits, saved; with its memory. Since then its console got a byte, and its power
/// button was pressed.
fn stopped() -> (Stopped, OwnedFd) {
    let memory = sys::memory::Pool::SmallPages.take(description().memory.bytes()).unwrap();
    let pty = sys::pty::Pty::open().unwrap();
    let parts = some_parts(&memory, pty.master);
    let registers = Registers::pvh(guest::LOAD);
    guest::put(parts.vm.memory(), &registers);
    entry_state::set_first(parts.vcpus[0].fd(), &registers).unwrap();
    let new = |setup, _: &Outside| Chipset::new(setup).map_err(|error| Error::Chipset(error.into()));
    let Assembled { machine, mut vcpus, .. } = furnish(parts, Vec::new(), false, new).unwrap();

    let turning = Turning::start(vcpus.remove(0), machine.clone());
    assert_eq!(turning.marks.recv_timeout(PATIENCE), Ok(guest::READY));
    assert_eq!(machine.chipset.serial_input(b"x", &machine.outside), 1);
    machine.chipset.power_button(&machine.outside);
    let vcpu = turning.stop().unwrap();
    let alarms: u8 = machine.outside.vm().memory().read_obj(GuestAddress(guest::ALARMS.into())).unwrap();
    assert_eq!(alarms, 0, "nobody rings the clock here: its alarm is still to come");
    (Stopped::save(&machine, &vcpu), memory)
}

#[test]
#[ignore = "needs /dev/kvm"]
fn a_guest_goes_on_in_a_fresh_process_with_all_chips_as_they_were() {
    if std::env::var_os(FRESH).is_some() {
        be_the_fresh_process();
    }
    let (stopped, memory) = stopped();
    let mut state = tempfile::tempfile().unwrap();
    state.write_all(&postcard::to_stdvec(&stopped).unwrap()).unwrap();
    state.rewind().unwrap();

    let (ours, theirs) = sys::seqpacket::pair().unwrap();
    let test = "machine::tests::a_guest_goes_on_in_a_fresh_process_with_all_chips_as_they_were";
    let mut process = Command::new("/proc/self/exe")
        .args(["--exact", test, "--ignored", "--nocapture"])
        .env(FRESH, "")
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut vmm: Channel<ToVm, ToVmm> = Channel::new(ours);
    let pty = sys::pty::Pty::open().unwrap();
    // As vmm starts any VM; the state comes in the kernel's place.
    let fds = vec![kvm(), pty.master.try_clone().unwrap(), memory, state.into()];
    vmm.send(&ToVm::Describe(Box::new(description())), fds).unwrap();
    vmm.send(&ToVm::Begin, Vec::new()).unwrap();
    let mut hear = || match vmm.recv_within(PATIENCE).expect("a message in time") {
        Received::Message(message, _) => message,
        nothing => panic!("{nothing:?}"),
    };
    assert_eq!(hear(), ToVmm::Started);

    let mut console = File::from(pty.slave);
    let mut read = |count| {
        let mut bytes = vec![0; count];
        for byte in &mut bytes {
            let patience = Timespec::try_from(PATIENCE).unwrap();
            let ready = poll(&mut [PollFd::new(&console, PollFlags::IN)], Some(&patience)).unwrap();
            assert_eq!(ready, 1, "the console is silent");
            console.read_exact(std::slice::from_mut(byte)).unwrap();
        }
        bytes
    };
    assert_eq!(read(guest::EARLY.len()), guest::EARLY, "output that had waited in the serial port");
    for look in guest::looks().into_iter().chain(guest::served()) {
        assert_eq!(read(look.sees.len()), look.sees, "{}", look.what);
    }
    assert_eq!(hear(), ToVmm::Leaving { reboot: true }, "the keyboard controller takes the byte for its output port");
    assert_eq!(process.wait().unwrap().code(), Some(exit::REBOOTED.into()));
}

/// What the process of a VM does, but that it takes its guest as it was.
fn be_the_fresh_process() -> ! {
    let mut channel = Channel::new(std::io::stdin().as_fd().try_clone_to_owned().unwrap());
    let Plan { description, kvm, console, memory, entry, devices } = description::receive(&mut channel).unwrap();
    let Entry::Kernel { kernel: mut state, .. } = entry;
    let mut bytes = Vec::new();
    state.read_to_end(&mut bytes).unwrap();
    let stopped: Stopped = postcard::from_bytes(&bytes).unwrap();
    assert_eq!(devices.len(), 0);
    let parts = parts(&description, kvm, console, memory).unwrap();
    stopped.restore(&parts);
    let status = running::run(&mut channel, restored(parts, &stopped.chipset).unwrap()).unwrap();
    std::process::exit(status.into());
}

/// Damaged states that are tried: each is a machine, and an emulated host makes few a second.
const DAMAGED: usize = 200;
/// How long a machine with a damaged state is let run, if its guest gets nowhere.
const MAX_RUN: Duration = Duration::from_millis(20);

#[test]
#[ignore = "needs /dev/kvm"]
fn a_damaged_state_is_refused_by_the_chips_name_or_gives_a_machine_that_runs() {
    let (stopped, memory) = stopped();
    let console = sys::pty::Pty::open().unwrap();
    let parts = || some_parts(&memory, console.master.try_clone().unwrap());
    let mut image = vec![0; guest::LEN];
    parts().vm.memory().read_slice(&mut image, GuestAddress(guest::LOAD.into())).unwrap();

    let lens = stopped.chipset.chips.iter().map(|chip| chip.state.bytes.len());
    let places: Vec<(usize, usize)> =
        lens.enumerate().flat_map(|(chip, len)| (0..len).map(move |at| (chip, at))).collect();
    let (mut refused, mut ran) = (0, 0);
    for (number, (chip, at)) in places.iter().copied().step_by(places.len().div_ceil(DAMAGED)).enumerate() {
        let mut damaged = stopped.chipset.clone();
        damaged.chips[chip].state.bytes[at] ^= 1 << (number % 8);
        let parts = parts();
        parts.vm.memory().write_slice(&image, GuestAddress(guest::LOAD.into())).unwrap();
        stopped.restore(&parts);
        match restored(parts, &damaged) {
            Ok(assembled) => {
                runs(assembled).unwrap_or_else(|why| panic!("byte {at} of {}: {why}", damaged.chips[chip].name));
                ran += 1;
            }
            Err(error) => {
                let name = &damaged.chips[chip].name;
                assert!(error.to_string().starts_with(&format!("saved state of {name}: ")), "{error}");
                refused += 1;
            }
        }
    }
    println!("of {} damaged states {refused} were refused and {ran} ran", refused + ran);
    assert!(refused > 0 && ran > 0);
}

/// Rings the clock and lets the guest look around, or as long as it is let.
fn runs(assembled: Assembled) -> Result<(), String> {
    let Assembled { machine, mut vcpus, .. } = assembled;
    let turning = Turning::start(vcpus.remove(0), machine.clone());
    machine.chipset.timer(Timer::Rtc, &machine.outside);
    let until = Instant::now() + MAX_RUN;
    while machine.outside.ended().is_none() && Instant::now() < until {
        if turning.marks.recv_timeout(MAX_RUN / 20) == Ok(guest::LOOKED) {
            break;
        }
    }
    turning.stop()?;
    match machine.outside.ended() {
        None | Some(Event::GuestReset | Event::GuestPowerOff) => Ok(()),
        Some(other) => Err(format!("{other:?}")),
    }
}
