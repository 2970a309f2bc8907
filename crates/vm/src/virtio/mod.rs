//! The front ends of the virtio devices: from the chipset's effects to the back ends' sockets, and to KVM's shortcuts.
//!
//! ```text
//! vCPU ─► hw::Chipset ─effects─► FrontEnds ──ioeventfd, irqfd, routes──► KVM        (at once, on the vCPU's thread)
//!              ▲                     │ jobs
//!              └──reset_done ... ── Worker ──vhost-user──► vioblk, vionet           (a thread of its own)
//!                                    └──────────────────► devices::entropy
//! ```
//!
//! Once a device is active, nothing of this runs: a kick goes from KVM to the back end's eventfd, a call from there to KVM.
//! A masked vector's irqfd is taken away, so that its calls stay in the eventfd; given back, KVM delivers what waits.

mod answer;
mod base;
mod entropy;
mod front_ends;
#[cfg(fuzzing)]
pub mod fuzzing;
mod port;
mod routes;
mod vhost_user;
mod wiring;
mod worker;

use std::os::fd::OwnedFd;
use std::sync::Arc;

use hw::{Activation, Slot};

use crate::description;
use crate::error::Error;
use crate::kvm::Vm;
use crate::lifecycle::Event;
use port::Port;

pub use front_ends::FrontEnds;
pub use worker::Worker;

/// Why a back end did not do as asked.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// It refused: the driver must reset the device.
    #[error("refused: {0}")]
    Refused(String),
    /// It is gone, or does not keep to the protocol: it is lost, until vmm sends another.
    #[error("{0}")]
    Gone(String),
}

/// What serves a device's queues.
trait BackEnd: Send {
    /// What its process is called, without its number.
    fn role(&self) -> &'static str;
    /// The descriptor that hangs up when it is gone. One on this thread has none, and takes the kicks of its queue.
    fn socket(&self) -> Option<std::os::fd::BorrowedFd<'_>>;
    /// Its configuration space, as it is now.
    fn config(&mut self) -> Result<Vec<u8>, Failure>;
    /// Serves these queues from now on.
    fn activate(&mut self, activation: &Activation, port: &Port) -> Result<(), Failure>;
    /// Has it finish what is under way, however long that takes, and remember where its queues stand. True: it serves no
    /// queue any more, and touches no guest memory. Else its socket becomes readable.
    fn stop(&mut self) -> Result<bool, Failure>;
    /// Its socket is readable while it stops; as `stop`.
    fn stopped(&mut self) -> Result<bool, Failure> {
        Ok(true)
    }
    /// It has stopped, and forgets what its driver set up.
    fn reset(&mut self) -> Result<(), Failure>;
    /// Goes on where they stood.
    fn unpause(&mut self, port: &Port) -> Result<(), Failure>;
    /// It is gone, or of no use: its socket is shut, and it does as asked only in so far as no process is needed for it.
    fn lose(&mut self) {}
    /// Whether it is, and none has taken its place.
    fn is_lost(&self) -> bool {
        false
    }
    /// Another process, on this socket, goes on where it had come. Serves no queue before `unpause`. Gives its configuration
    /// space.
    fn replace(&mut self, _: OwnedFd) -> Result<Vec<u8>, Failure> {
        Err(Failure::Gone("it has no process".into()))
    }
    /// Its queue was kicked; true: again, without a kick.
    fn kicked(&mut self, _: &Port) -> Result<bool, Failure> {
        Ok(false)
    }
}

/// What the worker tells the registers and the VM.
pub trait Registers {
    /// The back end has stopped.
    fn reset_done(&self, slot: Slot);
    /// The driver must reset the device.
    fn needs_reset(&self, slot: Slot);
    /// Its configuration space is this now.
    fn config_changed(&self, slot: Slot, config: &[u8]);
    /// A call of a queue that has no vector of its own.
    fn queue_interrupt(&self, slot: Slot, queue: u16);
    /// No back end serves a queue, or all serve theirs again: [`Event::Quiet`] or [`Event::Awake`].
    fn devices_are(&self, what: Event);
    /// Devices can't be served any more: the VM ends. False if it was ending already.
    fn device_gone(&self) -> bool;
}

/// The devices of a machine, connected to their back ends.
pub struct Devices {
    /// For the chipset, in order of slots from 1.
    pub functions: Vec<hw::virtio::Device>,
    /// For the effects.
    pub front_ends: Arc<FrontEnds>,
    /// To be started before the first vCPU.
    pub worker: Worker,
}

/// The slots of devices with a process: slot 1 is the entropy device, which serves itself.
const FIRST_SLOT: u8 = 2;

/// The slot of the device of an index.
pub fn slot_of(device: u8) -> Slot {
    Slot(device.saturating_add(FIRST_SLOT))
}

/// Asks each back end what it offers, and makes the wires.
pub fn connect(devices: Vec<description::Device>, vm: &Arc<Vm>) -> Result<Devices, Error> {
    let memory = vm.memory();
    let (function, entropy) = entropy::make(memory.clone());
    let mut functions = vec![function];
    let mut back_ends: Vec<Box<dyn BackEnd>> = vec![Box::new(entropy)];
    for (slot, device) in (FIRST_SLOT..=u8::MAX).zip(devices) {
        let connected = vhost_user::connect(vhost_user::MAX_ANSWERS, device.front, device.socket, memory.clone());
        let (function, back_end) = connected.map_err(|failure| Error::Device { slot, cause: failure.to_string() })?;
        functions.push(function);
        back_ends.push(Box::new(back_end));
    }
    for (slot, function) in (1..).zip(&mut functions) {
        function.irq_line = Some(boot::layout::intx_irq(slot));
    }
    let sizes: Vec<usize> = functions.iter().map(|function| function.queues.len()).collect();
    let front_ends = FrontEnds::new(vm.clone(), &sizes).map_err(Error::system("eventfds of devices"))?;
    let front_ends = Arc::new(front_ends);
    let worker = Worker::new(front_ends.clone(), back_ends).map_err(Error::system("event loop of devices"))?;
    Ok(Devices { functions, front_ends, worker })
}

#[cfg(test)]
mod tests;
