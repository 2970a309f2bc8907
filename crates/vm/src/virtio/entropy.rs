//! The entropy device's back end: `devices::entropy` on the worker's thread. It holds no host resource.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use devices::entropy::{Entropy, FEATURES, QUEUE_SIZE};
use devices::queue::RingAddresses;
use devices::serve_vhost::Progress;
use hw::Activation;
use hw::virtio::{Device, Kind};
use vm_memory::GuestAddress;

use super::port::Port;
use super::{BackEnd, Failure};
use crate::memory::GuestMemory;

/// The device, running or not.
pub struct InProcess {
    memory: Arc<GuestMemory>,
    running: Option<Entropy>,
}

/// The device for the chipset, and its back end.
pub fn make(memory: GuestMemory) -> (Device, InProcess) {
    let function = Device {
        kind: Kind::ENTROPY,
        features: FEATURES,
        queues: vec![QUEUE_SIZE],
        config: Vec::new(),
        irq_line: None,
    };
    (function, InProcess { memory: Arc::new(memory), running: None })
}

impl BackEnd for InProcess {
    fn role(&self) -> &'static str {
        "entropy"
    }

    fn socket(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// It has none (virtio 1.2, 5.4.4).
    fn config(&mut self) -> Result<Vec<u8>, Failure> {
        Ok(Vec::new())
    }

    fn activate(&mut self, activation: &Activation, _: &Port) -> Result<(), Failure> {
        let Some(queue) = activation.queues.first() else { return Ok(()) };
        let addresses = RingAddresses {
            descriptors: GuestAddress(queue.desc),
            available: GuestAddress(queue.avail),
            used: GuestAddress(queue.used),
        };
        let device = Entropy::new(self.memory.clone(), addresses, queue.size, 0, activation.features);
        self.running = Some(device.map_err(|error| Failure::Refused(error.to_string()))?);
        Ok(())
    }

    /// It only serves when it is kicked, and the worker does not.
    fn stop(&mut self) -> Result<bool, Failure> {
        Ok(true)
    }

    fn reset(&mut self) -> Result<(), Failure> {
        self.running = None;
        Ok(())
    }

    fn unpause(&mut self, _: &Port) -> Result<(), Failure> {
        Ok(())
    }

    fn kicked(&mut self, port: &Port) -> Result<bool, Failure> {
        let (Some(device), Some(queue)) = (&mut self.running, port.queue(0)) else { return Ok(false) };
        match device.serve() {
            Ok(served) => {
                if served.interrupt {
                    queue.call.set();
                }
                Ok(served.progress == Progress::More)
            }
            Err(fault) => {
                self.running = None;
                Err(Failure::Refused(fault.to_string()))
            }
        }
    }
}
