//! A back end that dies with requests under way, and the next one, which goes on with them: by the record that the front end keeps
//! (QEMU's docs/interop/vhost-user.rst, "Inflight I/O tracking").

mod support;

use std::fs::File;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use devices::queue::{Chain, RingFault};
use devices::serve_vhost::{Active, Device, MAX_RECORDS_LEN, Progress};
use rustix::event::PollFlags;
use rustix::fs::{MemfdFlags, memfd_create};
use support::{BUFFERS, Desc, Driver, Guest, Part, VERSION_1, Vmm};
use vhost::VhostBackend;
use vhost::vhost_user::message::VhostUserInflight;
use vhost::vhost_user::{VhostUserFrontend, VhostUserProtocolFeatures};

const SIZE: u16 = 8;
const PATIENCE: Duration = Duration::from_secs(20);

/// Takes all requests, says so, and answers the first few of them; the others are under way for ever.
struct Slow {
    answers: usize,
    told: Sender<u16>,
    records: Option<File>,
}

impl Device for Slow {
    fn queues(&self) -> usize {
        1
    }
    fn features(&self) -> u64 {
        VERSION_1
    }
    fn config(&self) -> &[u8] {
        &[]
    }
    fn accept(&mut self, _: u64) {}
    fn kicked(&mut self, _: usize, on: &mut Active<'_>) -> Result<Progress, RingFault> {
        let mut chain = Chain::default();
        while on.ring.pop(on.memory, &mut chain)? {
            if self.answers > 0 {
                self.answers -= 1;
                on.ring.push_used(on.memory, &[(chain.head, 0)])?;
                on.notify()?;
            }
            let _ = self.told.send(chain.head);
        }
        Ok(Progress::Idle)
    }
    fn source(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        None
    }
    fn ready(&mut self, _: Option<&mut Active<'_>>) -> Result<Progress, RingFault> {
        Ok(Progress::Idle)
    }
    fn deadline(&self) -> Option<Instant> {
        None
    }
    /// As one that is killed: what is under way stays so.
    fn stop(&mut self, _: usize, _: Option<&mut Active<'_>>) {}
    fn records(&self) -> Option<&File> {
        self.records.as_ref()
    }
    fn finish(&mut self) {}
}

fn records() -> File {
    let file = File::from(memfd_create("records", MemfdFlags::CLOEXEC).unwrap());
    file.set_len(MAX_RECORDS_LEN).unwrap();
    file
}

/// A back end for this guest that answers so many requests.
fn back_end(guest: &Arc<Guest>, answers: usize) -> (Vmm, Receiver<u16>) {
    let (told, heads) = channel();
    (Vmm::of(Slow { answers, told, records: Some(records()) }, VERSION_1, guest.clone()), heads)
}

fn record(vmm: &mut Vmm) -> (VhostUserInflight, File) {
    vmm.front_end.get_inflight_fd(&VhostUserInflight::new(0, 0, 1, SIZE)).unwrap()
}

fn hear(heads: &Receiver<u16>, count: usize) -> Vec<u16> {
    (0..count).map(|_| heads.recv_timeout(PATIENCE).expect("a request is taken")).collect()
}

#[test]
fn the_next_back_end_goes_on_with_what_is_under_way() {
    let guest = Arc::new(Guest::new());
    let mut driver = Driver::new(&guest, 0, SIZE);
    let (mut vmm, heads) = back_end(&guest, 2);
    let (told, file) = record(&mut vmm);
    vmm.front_end.set_inflight_fd(&told, file.as_raw_fd()).unwrap();
    vmm.start(0, &driver, 0);
    let offered: Vec<u16> = (0..5).map(|_| driver.add(&[Part::In(BUFFERS, 8)])).collect();
    driver.kick();
    assert_eq!(hear(&heads, 5), offered);
    vmm.end();
    assert_eq!(driver.used_idx(), 2);

    // The record alone says where it stands, and not the base.
    let more: Vec<u16> = (0..2).map(|_| driver.add(&[Part::In(BUFFERS, 8)])).collect();
    let (mut vmm, heads) = back_end(&guest, usize::MAX);
    vmm.front_end.set_inflight_fd(&told, file.as_raw_fd()).unwrap();
    vmm.start(0, &driver, 0);
    assert_eq!(hear(&heads, 5), [&offered[2..], &more].concat(), "in the order of taking, without a kick");
    let used: Vec<u32> = (0..7).map(|_| driver.used().0).collect();
    assert_eq!(used, [&offered[..], &more].concat().into_iter().map(u32::from).collect::<Vec<_>>(), "each once");
}

#[test]
fn a_driver_that_begins_anew_gets_no_request_of_before() {
    for breaks in [false, true] {
        let guest = Arc::new(Guest::new());
        let mut driver = Driver::new(&guest, 0, SIZE);
        let (mut vmm, heads) = back_end(&guest, 0);
        let (told, file) = record(&mut vmm);
        vmm.front_end.set_inflight_fd(&told, file.as_raw_fd()).unwrap();
        vmm.start(0, &driver, 0);
        driver.add(&[Part::In(BUFFERS, 8)]);
        driver.kick();
        hear(&heads, 1);
        if breaks {
            driver.put_desc(7, Desc { addr: BUFFERS, len: 8, flags: support::NEXT, next: 99 });
            driver.offer(7);
            driver.kick();
            driver.wait_error();
            vmm.stop(0);
        } else {
            vmm.stop(0);
            vmm.front_end.reset_device().unwrap();
        }
        driver.reset();
        vmm.start(0, &driver, 0);
        let head = driver.add(&[Part::In(BUFFERS, 8), Part::In(BUFFERS, 8)]);
        driver.kick();
        assert_eq!(hear(&heads, 1), [head]);
        assert!(heads.recv_timeout(Duration::from_millis(30)).is_err(), "nothing else comes");
    }
}

#[test]
fn records_that_do_not_fit_are_refused_and_the_rest_goes_on() {
    let guest = Arc::new(Guest::new());
    let driver = Driver::new(&guest, 0, SIZE);
    let (mut vmm, _heads) = back_end(&guest, 0);
    let (told, file) = record(&mut vmm);
    for wrong in [
        VhostUserInflight { mmap_size: told.mmap_size - 1, ..told },
        VhostUserInflight { mmap_offset: MAX_RECORDS_LEN, ..told },
        VhostUserInflight { num_queues: 5, ..told },
        VhostUserInflight { queue_size: 7, ..told },
    ] {
        assert!(vmm.front_end.set_inflight_fd(&wrong, file.as_raw_fd()).is_err());
    }
    // Room for fewer entries than the queue has.
    let small = VhostUserInflight { queue_size: SIZE / 2, ..told };
    vmm.front_end.set_inflight_fd(&small, file.as_raw_fd()).unwrap();
    vmm.front_end.set_vring_num(0, SIZE).unwrap();
    let ring = vmm.ring(&driver);
    vmm.front_end.set_vring_addr(0, &ring).unwrap();
    vmm.front_end.set_vring_kick(0, &driver.kick).unwrap();
    assert!(vmm.front_end.set_vring_enable(0, true).is_err());
    vmm.front_end.set_inflight_fd(&told, file.as_raw_fd()).unwrap();
    vmm.front_end.set_vring_enable(0, true).unwrap();
    assert!(vmm.front_end.set_inflight_fd(&told, file.as_raw_fd()).is_err(), "a queue runs");
    assert!(vmm.is_serving());
}

#[test]
fn a_device_that_keeps_no_records_does_not_offer_them() {
    let (told, _heads) = channel();
    let mut vmm = Vmm::new(Slow { answers: 0, told, records: None }, VERSION_1);
    let offered = vmm.front_end.get_protocol_features().unwrap();
    assert!(!offered.contains(VhostUserProtocolFeatures::INFLIGHT_SHMFD));
}
