//! The vCPUs' threads: run the guest, hand each exit to the chipset, and come back when the VM ends.

use std::ops::ControlFlow;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::error::Error;
use crate::kvm::{Exit, Kick, Vcpu};
use crate::lifecycle::Event;
use crate::machine::Machine;

/// Stack of a vCPU's thread. Register models and a log line need a small part of it.
const STACK: usize = 128 << 10;
/// How long the vCPUs may take to leave the guest at the end. They need microseconds; a kernel that does not let go of one
/// may not keep the process.
const MAX_STOP: Duration = Duration::from_secs(2);

/// All vCPUs of the VM; none before the start.
#[derive(Default)]
pub struct Vcpus {
    threads: Vec<(JoinHandle<()>, Kick)>,
    running: Arc<Running>,
}

/// How many threads are in their loops.
#[derive(Default)]
struct Running {
    count: Mutex<usize>,
    less: Condvar,
}

impl Vcpus {
    /// Starts one thread each. Those but the first wait in KVM until the first wakes them.
    pub fn start(&mut self, vcpus: Vec<Vcpu>, machine: &Arc<Machine>) -> Result<(), Error> {
        for mut vcpu in vcpus {
            let kick = vcpu.kick();
            let (machine, running) = (machine.clone(), self.running.clone());
            *running.lock() += 1;
            let thread = std::thread::Builder::new()
                .name(format!("vcpu-{}", vcpu.id()))
                .stack_size(STACK)
                .spawn(move || {
                    run(&mut vcpu, &machine);
                    *running.lock() -= 1;
                    running.less.notify_all();
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

    /// Brings all of them back, after the VM was ended. False: some are stuck in the kernel, and only exit helps.
    pub fn stop(&self) -> bool {
        for (thread, kick) in &self.threads {
            kick.kick(thread);
        }
        let left = self.running.less.wait_timeout_while(self.running.lock(), MAX_STOP, |count| *count > 0);
        *left.unwrap_or_else(PoisonError::into_inner).0 == 0
    }
}

impl Running {
    fn lock(&self) -> std::sync::MutexGuard<'_, usize> {
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn run(vcpu: &mut Vcpu, machine: &Machine) {
    let held_back = |port, data: &[u8]| machine.chipset.pio_write(port, data, &machine.outside);
    while machine.outside.ended().is_none() {
        let handled = handle(vcpu.run(&machine.held_back, &held_back), machine);
        if let ControlFlow::Break(reason) = handled {
            log::error!("vCPU {} can't go on: {reason}; {}", vcpu.id(), vcpu.describe());
            machine.outside.end(Event::VcpuFailed);
        }
    }
}

fn handle(exit: Exit<'_>, machine: &Machine) -> ControlFlow<String> {
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
