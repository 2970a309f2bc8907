//! Signals that cross a reset, and devices that take long to stop, one step of the loop at a time.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
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
    fn role(&self) -> &'static str {
        "willing"
    }
    fn socket(&self) -> Option<BorrowedFd<'_>> {
        None
    }
    fn config(&mut self) -> Result<Vec<u8>, Failure> {
        Ok(vec![1, 2, 3])
    }
    fn activate(&mut self, _: &Activation, _: &Port) -> Result<(), Failure> {
        Ok(())
    }
    fn stop(&mut self) -> Result<bool, Failure> {
        Ok(true)
    }
    fn reset(&mut self) -> Result<(), Failure> {
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
    devices: Mutex<Vec<Event>>,
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
    fn devices_are(&self, what: Event) {
        self.devices.lock().unwrap().push(what);
    }
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
    worker.perform(Job::Activate(SLOT, activation()), &told);
    port.broken.set();
    port.queues[0].call.set();
    worker.perform(Job::Reset(SLOT), &told);
    assert!(!port.queues[0].call.is_set(), "a call of before the reset");
    // The loop had seen the signal before it came to the reset.
    worker.happened(Token::Broken(SLOT), &told);
    worker.perform(Job::Activate(SLOT, activation()), &told);
    worker.happened(Token::Broken(SLOT), &told);
    assert_eq!((told.reset_done.load(Ordering::SeqCst), told.needs_reset.load(Ordering::SeqCst)), (1, 0));
    port.broken.set();
    worker.happened(Token::Broken(SLOT), &told);
    assert_eq!(told.needs_reset.load(Ordering::SeqCst), 1);
}

#[test]
fn a_back_end_that_signals_while_it_is_not_active_is_not_heard() {
    let (mut worker, told) = (worker(), Told::default());
    let front_ends = worker.front_ends.clone();
    front_ends.port(SLOT).unwrap().broken.set();
    worker.happened(Token::Broken(SLOT), &told);
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
    worker.happened(Token::Wake, &told);
    assert_eq!(*told.config.lock().unwrap(), [(SLOT, vec![1, 2, 3])]);
    front_ends.read_config(SLOT);
    front_ends.read_config(Slot(9));
    worker.happened(Token::Wake, &told);
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
    fn devices_are(&self, _: Event) {}
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
        worker.happened(Token::Wake, &restless);
        assert_eq!(restless.resets.load(Ordering::SeqCst), turn);
        assert!(worker.front_ends.wake().is_set(), "the next is not forgotten");
    }
}

/// A back end that has stopped when it is let go.
struct Slow {
    socket: UnixStream,
    done: Arc<Mutex<Vec<&'static str>>>,
    lost: bool,
}

impl Slow {
    fn does(&self, what: &'static str) {
        self.done.lock().unwrap().push(what);
    }
}

impl BackEnd for Slow {
    fn role(&self) -> &'static str {
        "slow"
    }
    fn socket(&self) -> Option<BorrowedFd<'_>> {
        Some(self.socket.as_fd())
    }
    fn config(&mut self) -> Result<Vec<u8>, Failure> {
        self.does("config");
        Ok(vec![4])
    }
    fn activate(&mut self, _: &Activation, _: &Port) -> Result<(), Failure> {
        self.does("activate");
        Ok(())
    }
    fn stop(&mut self) -> Result<bool, Failure> {
        self.does("stop");
        Ok(false)
    }
    fn stopped(&mut self) -> Result<bool, Failure> {
        match self.socket.read(&mut [0]) {
            Ok(1) => Ok(true),
            _ => Err(Failure::Gone("hung up".into())),
        }
    }
    fn reset(&mut self) -> Result<(), Failure> {
        self.does("reset");
        Ok(())
    }
    fn unpause(&mut self, _: &Port) -> Result<(), Failure> {
        self.does("unpause");
        Ok(())
    }
    fn lose(&mut self) {
        self.does("lose");
        self.lost = true;
    }
    fn is_lost(&self) -> bool {
        self.lost
    }
    /// Refused where the test says no.
    fn replace(&mut self, socket: OwnedFd) -> Result<Vec<u8>, Failure> {
        self.does("replace");
        self.lost = false;
        if self.done.lock().unwrap().contains(&"no") {
            return Err(Failure::Gone("as told".into()));
        }
        self.socket = socket.into();
        Ok(vec![5])
    }
}

/// Two devices that take long to stop, in slots 1 and 2, set up by their driver.
struct Pair {
    worker: Worker,
    told: Told,
    peers: [UnixStream; 2],
    done: [Arc<Mutex<Vec<&'static str>>>; 2],
}

const BOTH: [Slot; 2] = [Slot(1), Slot(2)];

impl Pair {
    fn new() -> Self {
        let front_ends = Arc::new(FrontEnds::new(Arc::new(FakeKvm::default()), &[1, 1]).unwrap());
        let done: [Arc<Mutex<Vec<_>>>; 2] = Default::default();
        let (mut peers, mut back_ends) = (Vec::new(), Vec::<Box<dyn BackEnd>>::new());
        for done in &done {
            let (socket, peer) = UnixStream::pair().unwrap();
            back_ends.push(Box::new(Slow { socket, done: done.clone(), lost: false }));
            peers.push(peer);
        }
        let worker = Worker::new(front_ends, back_ends).unwrap();
        let mut pair = Self { worker, told: Told::default(), peers: peers.try_into().unwrap(), done };
        for slot in BOTH {
            pair.does(Job::Activate(slot, activation()));
        }
        assert_eq!([pair.done(0), pair.done(1)], [["activate"], ["activate"]]);
        pair
    }

    fn does(&mut self, job: Job) {
        self.worker.perform(job, &self.told);
    }

    /// What the device has done since the last look.
    fn done(&self, device: usize) -> Vec<&'static str> {
        std::mem::take(&mut self.done[device].lock().unwrap())
    }

    /// A device has finished what was under way.
    fn finishes(&mut self, device: usize) {
        self.peers[device].write_all(&[0]).unwrap();
        for ready in self.worker.events.wait(Some(Instant::now())).unwrap() {
            self.worker.happened(ready.token, &self.told);
        }
    }

    fn told(&self) -> Vec<Event> {
        std::mem::take(&mut self.told.devices.lock().unwrap())
    }
}

#[test]
fn a_pause_is_told_when_all_devices_have_stopped() {
    let mut pair = Pair::new();
    pair.does(Job::Quiet(1));
    assert_eq!([pair.done(0), pair.done(1)], [["stop"], ["stop"]], "none waits for another");
    assert_eq!(pair.told(), []);
    pair.finishes(1);
    assert_eq!(pair.told(), []);
    pair.finishes(0);
    assert_eq!(pair.told(), [Event::Quiet(1)]);
    pair.does(Job::WakeUp(1));
    assert_eq!([pair.done(0), pair.done(1)], [["unpause"], ["unpause"]]);
    assert_eq!(pair.told(), [Event::Awake(1)]);
}

#[test]
fn when_a_pause_is_taken_back_each_device_serves_as_soon_as_it_can() {
    let mut pair = Pair::new();
    pair.does(Job::Quiet(1));
    pair.finishes(0);
    pair.does(Job::WakeUp(1));
    assert_eq!(pair.done(0), ["stop", "unpause"], "a disk that is held up is the other's");
    assert_eq!(pair.done(1), ["stop"]);
    // Another pause waits for the same stop.
    pair.does(Job::Quiet(2));
    assert_eq!([pair.done(0), pair.done(1)], [vec!["stop"], vec![]]);
    pair.finishes(0);
    pair.told();
    pair.finishes(1);
    assert_eq!(pair.told(), [Event::Quiet(2)]);
    pair.does(Job::WakeUp(2));
    assert_eq!([pair.done(0), pair.done(1)], [["unpause"], ["unpause"]]);

    pair.does(Job::Quiet(3));
    pair.does(Job::WakeUp(3));
    pair.done(1);
    pair.finishes(1);
    assert_eq!(pair.done(1), ["unpause"], "when it has finished");
    pair.finishes(0);
    assert!(!pair.told().contains(&Event::Quiet(3)));
}

#[test]
fn a_reset_of_a_device_that_is_held_up_is_done_when_it_has_stopped_and_holds_up_no_other() {
    let mut pair = Pair::new();
    let resets = |pair: &Pair| pair.told.reset_done.load(Ordering::SeqCst);
    pair.does(Job::Reset(Slot(2)));
    assert_eq!((pair.done(1), resets(&pair)), (vec!["stop"], 0));
    pair.does(Job::ReadConfig(Slot(2)));
    pair.does(Job::ReadConfig(Slot(1)));
    assert_eq!((pair.done(0), pair.done(1)), (vec!["config"], vec![]), "the other one answers");
    pair.does(Job::Quiet(1));
    pair.finishes(0);
    assert_eq!(pair.told(), [], "a pause waits for it too");
    pair.finishes(1);
    assert_eq!((pair.done(1), resets(&pair), pair.told()), (vec!["config", "reset"], 1, vec![Event::Quiet(1)]));
    pair.does(Job::WakeUp(1));
    assert_eq!(pair.done(1), [""; 0], "it waits for its driver");
}

#[test]
fn a_reset_while_a_device_stops_for_a_pause_is_done_with_it() {
    let mut pair = Pair::new();
    pair.does(Job::Quiet(1));
    pair.does(Job::WakeUp(1));
    pair.does(Job::Reset(Slot(2)));
    pair.finishes(1);
    assert_eq!(pair.done(1), ["stop", "reset"]);
    assert_eq!(pair.told.reset_done.load(Ordering::SeqCst), 1);
}

#[test]
fn a_device_that_takes_long_to_stop_is_named_once() {
    let mut pair = Pair::new();
    assert_eq!(pair.worker.deadline(), None);
    pair.does(Job::Quiet(1));
    let names: Vec<&str> = pair.worker.served.iter().map(|served| served.name.as_str()).collect();
    assert_eq!(names, ["slow0", "slow1"]);
    let at = pair.worker.deadline().expect("somebody is to be named");
    pair.worker.name_the_slow(at - SLOW / 2);
    assert_eq!(pair.worker.deadline(), Some(at));
    pair.worker.name_the_slow(at + SLOW);
    assert_eq!(pair.worker.deadline(), None, "each was");
    pair.finishes(0);
    pair.finishes(1);
    assert_eq!(pair.told(), [Event::Quiet(1)]);
}

/// What a device is when another process has taken its place; the other end of its socket.
fn replace(pair: &mut Pair, slot: Slot) -> UnixStream {
    let (socket, peer) = UnixStream::pair().unwrap();
    pair.does(Job::Replace(slot, socket.into()));
    peer
}

#[test]
fn a_device_that_is_lost_goes_on_where_it_was_when_another_takes_its_place() {
    let mut pair = Pair::new();
    let front_ends = pair.worker.front_ends.clone();
    let call = &front_ends.queue(Slot(2), 0).unwrap().call;
    pair.peers[1].shutdown(Shutdown::Both).unwrap();
    pair.worker.happened(Token::Socket(Slot(2)), &pair.told);
    assert_eq!(pair.done(1), ["lose"]);
    pair.worker.happened(Token::Socket(Slot(2)), &pair.told);
    pair.does(Job::ReadConfig(Slot(2)));
    assert_eq!(pair.done(1), [""; 0], "nobody is asked");
    pair.peers[1] = replace(&mut pair, Slot(2));
    assert_eq!(pair.done(1), ["replace", "unpause"]);
    assert!(call.is_set(), "what was handed back without a call");
    assert_eq!(*pair.told.config.lock().unwrap(), [(Slot(2), vec![5])]);
    // What the loop had seen of the socket before.
    pair.worker.happened(Token::Socket(Slot(2)), &pair.told);
    assert_eq!(pair.done(1), [""; 0]);
    pair.does(Job::Quiet(1));
    pair.finishes(1);
    assert_eq!(pair.done(1), ["stop"], "it is watched");
}

#[test]
fn a_device_that_is_lost_while_it_stops_has_stopped_when_another_takes_its_place() {
    for resets in [false, true] {
        let mut pair = Pair::new();
        if resets {
            pair.does(Job::Reset(Slot(2)));
        }
        pair.does(Job::Quiet(1));
        pair.finishes(0);
        pair.peers[1].shutdown(Shutdown::Both).unwrap();
        pair.worker.happened(Token::Socket(Slot(2)), &pair.told);
        assert_eq!((pair.done(1), pair.told()), (vec!["stop", "lose"], vec![]), "the host may still be at work");
        pair.peers[1] = replace(&mut pair, Slot(2));
        assert_eq!(pair.told(), [Event::Quiet(1)]);
        let (reset, done) = (pair.told.reset_done.load(Ordering::SeqCst), pair.done(1));
        let expected = if resets { (1, vec!["replace", "reset"]) } else { (0, vec!["replace"]) };
        assert_eq!((reset, done), expected);
        pair.does(Job::WakeUp(1));
        assert_eq!(pair.done(1), if resets { vec![] } else { vec!["unpause"] });
    }
}

#[test]
fn what_does_not_take_a_place_is_lost_like_the_one_before() {
    let mut pair = Pair::new();
    pair.done[0].lock().unwrap().push("no");
    drop(replace(&mut pair, Slot(1)));
    assert_eq!(pair.done(0), ["no", "lose", "replace", "lose"]);
    pair.peers[0] = replace(&mut pair, Slot(1));
    assert_eq!(pair.done(0), ["replace", "unpause"]);
}
