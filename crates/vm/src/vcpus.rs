//! The vCPUs' threads: run the guest, hand each exit to the chipset, wait outside it while the VM is paused, and come back
//! when it ends.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::entry_state::takes_nmi;
use crate::error::Error;
use crate::kvm::{Exit, Kick, Vcpu};
use crate::lifecycle::Event;
use crate::machine::Machine;

/// Stack of a vCPU's thread. Register models and a log line need a small part of it.
const STACK: usize = 128 << 10;
/// How long the vCPUs may take to leave the guest, for a pause or the end. They need microseconds; a kernel that does not
/// let go of one may not keep the process.
const MAX_STOP: Duration = Duration::from_secs(2);

/// All vCPUs of the VM; none before the start.
#[derive(Default)]
pub struct Vcpus {
    threads: Vec<(JoinHandle<()>, Kick)>,
    gate: Arc<Gate>,
}

/// Where vCPUs wait while the VM is paused.
#[derive(Default)]
struct Gate {
    /// Whether it is shut, for the threads to see without the lock at each exit.
    shut: AtomicBool,
    /// The vCPUs that have an NMI to take, a bit each.
    nmis: AtomicU64,
    threads: Mutex<Threads>,
    changed: Condvar,
}

/// Where the threads are.
#[derive(Default)]
struct Threads {
    /// In their loops, those that wait among them.
    alive: usize,
    /// At the gate.
    waiting: usize,
}

impl Vcpus {
    /// Starts one thread each. Those but the first wait in KVM until the first wakes them.
    pub fn start(&mut self, vcpus: Vec<Vcpu>, machine: &Arc<Machine>) -> Result<(), Error> {
        for mut vcpu in vcpus {
            let kick = vcpu.kick();
            let (machine, gate) = (machine.clone(), self.gate.clone());
            gate.lock().alive += 1;
            let thread = std::thread::Builder::new()
                .name(format!("vcpu-{}", vcpu.id()))
                .stack_size(STACK)
                .spawn(move || {
                    run(&mut vcpu, &machine, &gate);
                    gate.lock().alive -= 1;
                    gate.changed.notify_all();
                })
                .map_err(Error::system("vCPU thread"))?;
            self.threads.push((thread, kick));
        }
        Ok(())
    }

    /// Has the first look around: it takes writes that are held back.
    pub fn kick_first(&self) {
        if let Some((thread, kick)) = self.threads.first() {
            kick.kick(thread);
        }
    }

    /// An edge at the pin of each local APIC that firmware leaves as the NMI's. A guest chooses which vCPUs hear it: Linux,
    /// the first alone.
    pub fn nmi(&self) {
        self.gate.nmis.store(u64::MAX, Ordering::SeqCst);
        self.kick_all();
    }

    /// Has all of them wait outside the guest. False: some are stuck in the kernel; `unpause` lets the others go on.
    pub fn pause(&self) -> bool {
        self.gate.shut.store(true, Ordering::SeqCst);
        self.kick_all();
        self.gate.wait_until(|threads| threads.waiting == threads.alive)
    }

    /// Lets them go on.
    pub fn unpause(&self) {
        self.gate.open();
    }

    /// Stops all of them, after the VM was ended. False: some are stuck in the kernel, and only an exit of the process
    /// helps.
    pub fn stop(&self) -> bool {
        self.gate.open();
        self.kick_all();
        self.gate.wait_until(|threads| threads.alive == 0)
    }

    fn kick_all(&self) {
        for (thread, kick) in &self.threads {
            kick.kick(thread);
        }
    }
}

impl Gate {
    fn lock(&self) -> MutexGuard<'_, Threads> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_until(&self, holds: impl Fn(&Threads) -> bool) -> bool {
        let waited = self.changed.wait_timeout_while(self.lock(), MAX_STOP, |threads| !holds(threads));
        holds(&waited.unwrap_or_else(PoisonError::into_inner).0)
    }

    fn open(&self) {
        let threads = self.lock(); // or a thread that is about to wait would miss it
        self.shut.store(false, Ordering::SeqCst);
        drop(threads);
        self.changed.notify_all();
    }

    /// Whether this vCPU has an NMI to take: true once for each, and for several that came together.
    fn nmi(&self, vcpu: u8) -> bool {
        let bit = 1u64.checked_shl(vcpu.into()).unwrap_or(0);
        self.nmis.load(Ordering::SeqCst) & bit != 0 && self.nmis.fetch_and(!bit, Ordering::SeqCst) & bit != 0
    }

    /// Waits while it is shut; true if it was.
    fn pass(&self) -> bool {
        if !self.shut.load(Ordering::SeqCst) {
            return false;
        }
        let mut threads = self.lock();
        threads.waiting += 1;
        self.changed.notify_all();
        while self.shut.load(Ordering::SeqCst) {
            threads = self.changed.wait(threads).unwrap_or_else(PoisonError::into_inner);
        }
        threads.waiting -= 1;
        true
    }
}

fn run(vcpu: &mut Vcpu, machine: &Machine, gate: &Gate) {
    let held_back = |port, data: &[u8]| machine.chipset.pio_write(port, data, &machine.outside);
    while machine.outside.ended().is_none() {
        if gate.pass() {
            vcpu.was_paused();
            continue; // the VM may have ended
        }
        if gate.nmi(vcpu.id()) {
            nmi(vcpu);
        }
        let handled = handle(vcpu.run(&machine.held_back, &held_back), machine);
        if let ControlFlow::Break(reason) = handled {
            log::error!("vCPU {} can't go on: {reason}; {}", vcpu.id(), vcpu.describe());
            machine.outside.end(Event::VcpuFailed);
        }
    }
}

/// KVM_NMI is the NMI itself; what lies between it and the pin is for us to do (Documentation/virt/kvm/api.rst, KVM_NMI).
fn nmi(vcpu: &Vcpu) {
    let done = vcpu.fd().get_lapic().and_then(|lapic| match takes_nmi(&lapic) {
        true => vcpu.fd().nmi(),
        false => {
            log::debug!("vCPU {}: the guest masks NMIs", vcpu.id());
            Ok(())
        }
    });
    if let Err(error) = done {
        sys::guest_log!(Warn, "vCPU {}: no NMI: {error}", vcpu.id());
    }
}

/// Does what the guest left for; a reason if the vCPU can't go on.
pub fn handle(exit: Exit<'_>, machine: &Machine) -> ControlFlow<String> {
    let (chipset, outside) = (&machine.chipset, &machine.outside);
    match exit {
        // A string instruction moves several items at once; a device sees them one by one.
        Exit::In { port, size, data } => {
            data.chunks_mut(size.max(1)).for_each(|item| chipset.pio_read(port, item, outside));
        }
        Exit::Out { port, size, data } => {
            data.chunks(size.max(1)).for_each(|item| chipset.pio_write(port, item, outside));
        }
        Exit::Read { gpa, data } => chipset.mmio_read(gpa, data, outside),
        Exit::Write { gpa, data } => chipset.mmio_write(gpa, data, outside),
        Exit::Interrupted => {}
        Exit::Shutdown => outside.end(Event::GuestReset),
        Exit::Failed(reason) => return ControlFlow::Break(reason),
    }
    ControlFlow::Continue(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[test]
    fn each_vcpu_takes_an_nmi_once() {
        let gate = Gate::default();
        assert!(!gate.nmi(0));
        gate.nmis.store(u64::MAX, Ordering::SeqCst);
        assert_eq!([0, 63, 0, 63, 64].map(|vcpu| gate.nmi(vcpu)), [true, true, false, false, false]);
        assert!(gate.nmi(1));
    }

    /// Threads that count instead of running a guest.
    fn counting(gate: &Arc<Gate>, threads: usize) -> (Arc<AtomicUsize>, Arc<AtomicBool>, Vec<JoinHandle<()>>) {
        let (count, end) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        gate.lock().alive = threads;
        let run = |_| {
            let (gate, count, end) = (gate.clone(), count.clone(), end.clone());
            std::thread::spawn(move || {
                while !end.load(Ordering::SeqCst) {
                    gate.pass();
                    count.fetch_add(1, Ordering::SeqCst);
                    std::thread::yield_now();
                }
                gate.lock().alive -= 1;
                gate.changed.notify_all();
            })
        };
        let threads = (0..threads).map(run).collect();
        (count, end, threads)
    }

    #[test]
    fn nobody_passes_a_shut_gate_and_all_pass_it_when_it_opens() {
        let gate = Arc::new(Gate::default());
        let (count, end, threads) = counting(&gate, 4);
        for _ in 0..50 {
            gate.shut.store(true, Ordering::SeqCst);
            assert!(gate.wait_until(|threads| threads.waiting == threads.alive));
            let before = count.load(Ordering::SeqCst);
            std::thread::yield_now();
            assert_eq!(count.load(Ordering::SeqCst), before);
            gate.open();
            let start = std::time::Instant::now();
            while count.load(Ordering::SeqCst) < before + 4 {
                assert!(start.elapsed() < Duration::from_secs(20), "they do not go on");
                std::thread::yield_now();
            }
        }
        end.store(true, Ordering::SeqCst);
        assert!(gate.wait_until(|threads| threads.alive == 0));
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
}
