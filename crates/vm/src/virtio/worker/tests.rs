//! Signals that cross a reset, one step of the loop at a time.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use hw::{Activation, DeviceEffect};

use super::*;
use crate::outside::FrontEnds as _;
use crate::virtio::port::Port;
use crate::virtio::tests::FakeKvm;

const SLOT: Slot = Slot(1);

/// A back end that does as asked.
struct Willing;

impl BackEnd for Willing {
    fn socket(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        None
    }
    fn config(&mut self) -> Result<Vec<u8>, Failure> {
        Ok(vec![1, 2, 3])
    }
    fn activate(&mut self, _: &Activation, _: &Port) -> Result<(), Failure> {
        Ok(())
    }
    fn stop(&mut self) -> Result<(), Failure> {
        Ok(())
    }
    fn pause(&mut self) -> Result<(), Failure> {
        Ok(())
    }
    fn unpause(&mut self, _: &Port) -> Result<(), Failure> {
        Ok(())
    }
}

/// What the registers were told, counted.
#[derive(Default)]
struct Told {
    reset_done: AtomicUsize,
    needs_reset: AtomicUsize,
    config: Mutex<Vec<(Slot, Vec<u8>)>>,
}

impl Registers for Told {
    fn reset_done(&self, _: Slot) {
        self.reset_done.fetch_add(1, Ordering::SeqCst);
    }
    fn needs_reset(&self, _: Slot) {
        self.needs_reset.fetch_add(1, Ordering::SeqCst);
    }
    fn config_changed(&self, slot: Slot, config: &[u8]) {
        self.config.lock().unwrap().push((slot, config.to_vec()));
    }
    fn queue_interrupt(&self, _: Slot, _: u16) {}
    fn devices_are(&self, _: bool) {}
    fn device_gone(&self) -> bool {
        true
    }
}

fn activation() -> Activation {
    Activation { features: 1 << 32, queues: Vec::new() }
}

fn worker() -> Worker {
    let front_ends = Arc::new(FrontEnds::new(Arc::new(FakeKvm::default()), &[1]).unwrap());
    Worker::new(front_ends, vec![Box::new(Willing)]).unwrap()
}

#[test]
fn a_ring_that_broke_before_a_reset_says_nothing_of_the_device_after_it() {
    let (mut worker, told) = (worker(), Told::default());
    let front_ends = worker.front_ends.clone();
    let port = front_ends.port(SLOT).unwrap();
    worker.perform(Job::Activate(SLOT, activation()), &told).unwrap();
    port.broken.set();
    port.queues[0].call.set();
    worker.perform(Job::Reset(SLOT), &told).unwrap();
    assert!(!port.queues[0].call.is_set(), "a call of before the reset");
    // The loop had seen the signal before it came to the reset.
    worker.happened(Token::Broken(SLOT), &told).unwrap();
    worker.perform(Job::Activate(SLOT, activation()), &told).unwrap();
    worker.happened(Token::Broken(SLOT), &told).unwrap();
    assert_eq!((told.reset_done.load(Ordering::SeqCst), told.needs_reset.load(Ordering::SeqCst)), (1, 0));
    port.broken.set();
    worker.happened(Token::Broken(SLOT), &told).unwrap();
    assert_eq!(told.needs_reset.load(Ordering::SeqCst), 1);
}

#[test]
fn a_back_end_that_signals_while_it_is_not_active_is_not_heard() {
    let (mut worker, told) = (worker(), Told::default());
    let front_ends = worker.front_ends.clone();
    front_ends.port(SLOT).unwrap().broken.set();
    worker.happened(Token::Broken(SLOT), &told).unwrap();
    assert_eq!(told.needs_reset.load(Ordering::SeqCst), 0);
    assert!(!front_ends.port(SLOT).unwrap().broken.is_set(), "else the loop would turn forever");
}

#[test]
fn a_changed_configuration_is_asked_for_once_and_told() {
    let (mut worker, told) = (worker(), Told::default());
    let front_ends = worker.front_ends.clone();
    for _ in 0..3 {
        front_ends.read_config(SLOT);
    }
    worker.happened(Token::Wake, &told).unwrap();
    assert_eq!(*told.config.lock().unwrap(), [(SLOT, vec![1, 2, 3])]);
    front_ends.read_config(SLOT);
    front_ends.read_config(Slot(9));
    worker.happened(Token::Wake, &told).unwrap();
    assert_eq!(told.config.lock().unwrap().len(), 2, "no device is in slot 9");
}

/// A guest that resets its device again as soon as it may.
struct Restless {
    front_ends: Arc<FrontEnds>,
    resets: AtomicUsize,
}

impl Registers for Restless {
    fn reset_done(&self, slot: Slot) {
        assert!(self.resets.fetch_add(1, Ordering::SeqCst) < 100, "the loop came to nothing else");
        self.front_ends.perform(slot, DeviceEffect::Reset);
    }
    fn needs_reset(&self, _: Slot) {}
    fn config_changed(&self, _: Slot, _: &[u8]) {}
    fn queue_interrupt(&self, _: Slot, _: u16) {}
    fn devices_are(&self, _: bool) {}
    fn device_gone(&self) -> bool {
        true
    }
}

#[test]
fn a_guest_that_resets_on_and_on_holds_up_no_other_device() {
    let mut worker = worker();
    let restless = Restless { front_ends: worker.front_ends.clone(), resets: AtomicUsize::new(0) };
    worker.front_ends.perform(SLOT, DeviceEffect::Reset);
    for turn in 1..=3 {
        worker.happened(Token::Wake, &restless).unwrap();
        assert_eq!(restless.resets.load(Ordering::SeqCst), turn);
        assert!(worker.front_ends.wake().is_set(), "the next is not forgotten");
    }
}
