//! The eventfds of one device's queues, and how they are wired to KVM right now.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use hw::{Delivery, MsiMessage, Slot};
use sys::guest_log;
use sys::signal::Signal;

use super::routes::Routes;
use super::wiring::Wiring;

/// Bytes between the notify registers of two queues (`hw::virtio::layout::NOTIFY_MULTIPLIER`).
const NOTIFY_STEP: u64 = hw::virtio::layout::NOTIFY_MULTIPLIER as u64;

/// One virtqueue.
pub struct Queue {
    /// Written for a notification by the driver.
    pub kick: Signal,
    /// Written for an interrupt to the driver.
    pub call: Signal,
    gsi: u32,
    wires: Mutex<Wires>,
}

struct Wires {
    /// Where KVM takes kicks.
    kick_at: Option<u64>,
    delivery: Delivery,
    /// Whether KVM takes calls.
    call_wired: bool,
}

/// One device.
pub struct Port {
    /// Its place.
    pub slot: Slot,
    /// Its queues.
    pub queues: Vec<Queue>,
    /// Written when a back end finds a ring broken.
    pub broken: Signal,
}

impl Port {
    /// Unwired queues, whose lines begin with `gsi`.
    pub fn new(slot: Slot, queues: usize, gsi: u32) -> io::Result<Self> {
        let queue = |gsi| {
            let wires = Mutex::new(Wires { kick_at: None, delivery: Delivery::Intx, call_wired: false });
            Ok(Queue { kick: Signal::new()?, call: Signal::new()?, gsi, wires })
        };
        let queues = (gsi..).take(queues).map(queue).collect::<io::Result<_>>()?;
        Ok(Self { slot, queues, broken: Signal::new()? })
    }

    /// The queue of this index.
    pub fn queue(&self, index: u16) -> Option<&Queue> {
        self.queues.get(usize::from(index))
    }

    /// Takes back what a stopped back end had signalled and nobody had heard: it is not of the device after its reset.
    pub fn forget_signals(&self) {
        self.broken.clear();
        for queue in &self.queues {
            queue.call.clear();
        }
    }

    /// The notify registers are there now, or nowhere. Where KVM can't take the kicks, they come as exits.
    pub fn move_notify(&self, base: Option<u64>, wiring: &dyn Wiring) {
        for (index, queue) in (0u64..).zip(&self.queues) {
            let at = base.and_then(|base| base.checked_add(index.checked_mul(NOTIFY_STEP)?));
            queue.move_kick(at, wiring);
        }
    }
}

impl Queue {
    /// Where its interrupts go.
    pub fn delivery(&self) -> Delivery {
        self.wires().delivery
    }

    /// Its interrupts go there now. Gives where they went before.
    pub fn deliver(&self, delivery: Delivery, routes: &Mutex<Routes>, wiring: &dyn Wiring) -> Delivery {
        let mut wires = self.wires();
        let before = std::mem::replace(&mut wires.delivery, delivery);
        let wired = match delivery {
            Delivery::Msi(message) => self.wire_call(&mut wires, message, routes, wiring),
            Delivery::Held | Delivery::Intx => self.unwire_call(&mut wires, wiring),
        };
        if let Err(error) = wired {
            guest_log!(Warn, "interrupt {} can't be given another way: {error}", self.gsi);
        }
        before
    }

    fn wire_call(
        &self,
        wires: &mut Wires,
        message: MsiMessage,
        routes: &Mutex<Routes>,
        wiring: &dyn Wiring,
    ) -> io::Result<()> {
        routes.lock().unwrap_or_else(PoisonError::into_inner).set(self.gsi, message, wiring)?;
        if !wires.call_wired {
            wiring.add_call(self.gsi, &self.call)?;
            wires.call_wired = true;
        }
        Ok(())
    }

    fn unwire_call(&self, wires: &mut Wires, wiring: &dyn Wiring) -> io::Result<()> {
        if wires.call_wired {
            wiring.remove_call(self.gsi, &self.call)?;
            wires.call_wired = false;
        }
        Ok(())
    }

    fn move_kick(&self, at: Option<u64>, wiring: &dyn Wiring) {
        let mut wires = self.wires();
        if wires.kick_at == at {
            return;
        }
        if let Some(old) = wires.kick_at.take() {
            if let Err(error) = wiring.remove_kick(old, &self.kick) {
                guest_log!(Warn, "kicks at {old:#x} can't be given up: {error}");
            }
        }
        if let Some(new) = at {
            match wiring.add_kick(new, &self.kick) {
                Ok(()) => wires.kick_at = Some(new),
                Err(error) => guest_log!(Warn, "kicks at {new:#x} can't be taken: {error}"),
            }
        }
    }

    fn wires(&self) -> MutexGuard<'_, Wires> {
        self.wires.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
