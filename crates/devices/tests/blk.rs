//! A disk through its socket, as a guest and a VMM use and abuse it (openbsd/devices.md, 11.1 and 11.2).

mod support;

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use devices::blk::{Blk, Blocks, Disk, Engine, MAX_IN_FLIGHT, State};
use devices::kept::Kept;
use devices::serve_vhost::Ended;
use model::{DiskLimits, Rate};
use support::{
    BUFFERS, Desc, Driver, EVENT_IDX, Guest, HIGH, HIGH_LEN, HOLE, INDIRECT, INDIRECT_DESC, LOW, NEXT, Part, VERSION_1,
    Vmm, WRITE,
};
use vhost::vhost_user::VhostUserFrontend;
use vhost::vhost_user::message::VhostUserConfigFlags;
use vhost::{VhostBackend, VhostUserMemoryRegionInfo};
use vm_memory::{Bytes, GuestAddress};

const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;

const OK: u8 = 0;
const IOERR: u8 = 1;
const UNSUPP: u8 = 2;

const F_RO: u64 = 1 << 5;
const F_FLUSH: u64 = 1 << 9;

const SECTORS: u64 = 2048;

/// Not a status.
const UNTOUCHED: u8 = 0xee;

#[derive(Clone, Copy, Debug, PartialEq)]
enum How {
    Ring,
    Plain,
}

fn image() -> File {
    let file = tempfile::tempfile().unwrap();
    file.set_len(SECTORS * 512).unwrap();
    file
}

fn engine(how: How, file: &File) -> Engine {
    let fd = file.try_clone().unwrap().into();
    match how {
        How::Ring => {
            let engine = Engine::new(fd, MAX_IN_FLIGHT, None);
            assert!(matches!(engine, Engine::Ring(_)), "this host gives no io_uring");
            engine
        }
        How::Plain => Engine::plain(fd, MAX_IN_FLIGHT),
    }
}

fn blk(how: How, file: &File, read_only: bool) -> Blk {
    let disk = Disk { sectors: SECTORS, read_only };
    Blk::new(file.try_clone().unwrap().into(), engine(how, file), disk, Blocks::of(512), b"serial-0")
}

/// A disk, its file, and a driver on its queue.
struct Fixture {
    vmm: Vmm,
    driver: Driver,
    file: File,
}

impl Fixture {
    fn new(how: How, features: u64) -> Fixture {
        Fixture::with(how, features, 128)
    }

    fn with(how: How, features: u64, size: u16) -> Fixture {
        let file = image();
        Fixture::of(blk(how, &file, features & F_RO != 0), file, features, size)
    }

    fn of(blk: Blk, file: File, features: u64, size: u16) -> Fixture {
        let mut vmm = Vmm::new(blk, features | VERSION_1);
        let driver = Driver::new(&vmm.guest, 0, size);
        vmm.start(0, &driver, 0);
        Fixture { vmm, driver, file }
    }

    fn guest(&self) -> &Guest {
        &self.vmm.guest
    }

    fn header(&self, at: u64, kind: u32, sector: u64) -> Part {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&kind.to_le_bytes());
        bytes[8..].copy_from_slice(&sector.to_le_bytes());
        self.guest().write(at, &bytes);
        Part::Out(at, 16)
    }

    /// One request, waited for: its status, and the used element's length.
    fn request(&mut self, kind: u32, sector: u64, data: &[Part]) -> (u8, u32) {
        let status = BUFFERS + 0x100;
        self.guest().write(status, &[UNTOUCHED]);
        let mut parts = vec![self.header(BUFFERS, kind, sector)];
        parts.extend(data);
        parts.push(Part::In(status, 1));
        let head = self.driver.add(&parts);
        self.driver.kick();
        let (id, len) = self.driver.used();
        assert_eq!(id, u32::from(head));
        (self.guest().read(status, 1)[0], len)
    }

    /// The device said that it is broken, lives, and serves again after a reset by the driver.
    fn heals(&mut self) {
        self.driver.wait_error();
        let _ = self.driver.was_called(Duration::ZERO); // for what was served before
        let used = self.driver.used_idx();
        self.driver.kick();
        assert!(!self.driver.was_called(Duration::from_millis(30)), "served while it needs a reset");
        assert_eq!(self.driver.used_idx(), used);
        self.vmm.stop(0);
        self.driver.reset();
        self.vmm.start(0, &self.driver, 0);
        assert_eq!(self.request(IN, 0, &[Part::In(BUFFERS + 0x1000, 512)]), (OK, 513));
    }
}

const DATA: u64 = BUFFERS + 0x1_0000;

fn both(test: impl Fn(How)) {
    test(How::Ring);
    test(How::Plain);
}

// What a disk is for

#[test]
fn what_is_written_reaches_the_file_and_is_read_back() {
    both(|how| {
        let mut fixture = Fixture::new(how, F_FLUSH);
        let pattern: Vec<u8> = (0..4096u32).map(|at| at as u8 ^ 0x5a).collect();
        fixture.guest().write(DATA, &pattern);
        // split at places that are no sectors
        let parts = [Part::Out(DATA, 100), Part::Out(DATA + 100, 0), Part::Out(DATA + 100, 3996)];
        assert_eq!(fixture.request(OUT, 8, &parts), (OK, 1));
        assert_eq!(fixture.request(FLUSH, 0, &[]), (OK, 1));
        let mut on_disk = vec![0; 4096];
        fixture.file.seek(SeekFrom::Start(8 * 512)).unwrap();
        fixture.file.read_exact(&mut on_disk).unwrap();
        assert_eq!(on_disk, pattern);
        let back = [Part::In(HIGH, 512), Part::In(DATA + 0x1_0000, 3584)];
        assert_eq!(fixture.request(IN, 8, &back), (OK, 4097));
        assert_eq!(fixture.guest().read(HIGH, 512), pattern[..512]);
        assert_eq!(fixture.guest().read(DATA + 0x1_0000, 3584), pattern[512..]);
        assert_eq!(fixture.vmm.end(), Ended::FrontEnd);
    });
}

#[test]
fn the_last_sector_is_read_and_written() {
    both(|how| {
        let mut fixture = Fixture::new(how, F_FLUSH);
        fixture.guest().write(DATA, &[9; 512]);
        assert_eq!(fixture.request(OUT, SECTORS - 1, &[Part::Out(DATA, 512)]), (OK, 1));
        assert_eq!(fixture.request(IN, SECTORS - 1, &[Part::In(DATA + 0x1000, 512)]), (OK, 513));
        assert_eq!(fixture.guest().read(DATA + 0x1000, 512), [9; 512]);
        assert_eq!(fixture.file.metadata().unwrap().len(), SECTORS * 512);
    });
}

#[test]
fn a_driver_without_flush_is_served_write_through() {
    both(|how| {
        let mut fixture = Fixture::new(how, 0);
        fixture.guest().write(DATA, &[3; 512]);
        assert_eq!(fixture.request(OUT, 1, &[Part::Out(DATA, 512)]), (OK, 1));
        assert_eq!(fixture.request(IN, 1, &[Part::In(DATA + 0x1000, 512)]), (OK, 513));
        assert_eq!(fixture.guest().read(DATA + 0x1000, 512), [3; 512]);
    });
}

#[test]
fn many_requests_are_under_way_at_once_and_each_is_answered() {
    both(|how| {
        let mut fixture = Fixture::with(how, F_FLUSH | EVENT_IDX | INDIRECT_DESC, 256);
        let count = 85u64; // three descriptors each
        for request in 0..count {
            let at = BUFFERS + request * 0x1000;
            let header = fixture.header(at, OUT, request * 2);
            fixture.guest().write(at + 0x200, &[request as u8; 1024]);
            fixture.driver.add(&[header, Part::Out(at + 0x200, 1024), Part::In(at + 0x100, 1)]);
        }
        fixture.driver.kick();
        let mut heads: Vec<u32> = (0..count).map(|_| fixture.driver.used().0).collect();
        heads.sort_unstable();
        assert_eq!(heads, (0..count as u32).map(|request| request * 3).collect::<Vec<_>>());
        let mut on_disk = vec![0; count as usize * 1024];
        fixture.file.seek(SeekFrom::Start(0)).unwrap();
        fixture.file.read_exact(&mut on_disk).unwrap();
        assert!(on_disk.chunks(1024).enumerate().all(|(request, bytes)| bytes == [request as u8; 1024]));
    });
}

#[test]
fn a_guest_is_held_to_its_disks_limit() {
    both(|how| {
        let limits = DiskLimits { iops: Rate::new(50, 5), bandwidth: None };
        let file = image();
        let mut fixture = Fixture::of(blk(how, &file, false).limited(limits), file, F_FLUSH | EVENT_IDX, 128);
        let began = Instant::now();
        for _ in 0..15 {
            assert_eq!(fixture.request(IN, 0, &[Part::In(DATA, 512)]), (OK, 513));
        }
        assert!(began.elapsed() >= Duration::from_millis(200), "ten took {:?}", began.elapsed());
    });
}

#[test]
fn indirect_tables_are_followed_where_negotiated() {
    let mut fixture = Fixture::new(How::Ring, INDIRECT_DESC | F_FLUSH);
    let Part::Out(header, _) = fixture.header(BUFFERS, IN, 0) else { unreachable!() };
    let table = [
        Desc { addr: header, len: 16, flags: NEXT, next: 2 },
        Desc { addr: BUFFERS + 0x100, len: 1, flags: WRITE, next: 0 },
        Desc { addr: DATA, len: 512, flags: NEXT | WRITE, next: 1 },
    ];
    fixture.driver.put_table(BUFFERS + 0x208, &table); // a table need not be aligned
    fixture.driver.put_desc(5, Desc { addr: BUFFERS + 0x208, len: 48, flags: INDIRECT, next: 0 });
    fixture.driver.offer(5);
    fixture.driver.kick();
    assert_eq!(fixture.driver.used(), (5, 513));
    assert_eq!(fixture.guest().read(BUFFERS + 0x100, 1), [OK]);
}

#[test]
fn the_ring_goes_on_where_it_stood_after_a_stop() {
    let mut fixture = Fixture::new(How::Ring, F_FLUSH);
    for _ in 0..3 {
        assert_eq!(fixture.request(IN, 0, &[Part::In(DATA, 512)]).0, OK);
    }
    let base = fixture.vmm.stop(0);
    assert_eq!(base, 3);
    fixture.vmm.start(0, &fixture.driver, base);
    for _ in 0..200 {
        assert_eq!(fixture.request(IN, 0, &[Part::In(DATA, 512)]).0, OK);
    }
}

#[test]
fn a_kick_before_the_queue_started_is_not_lost() {
    let file = image();
    let mut vmm = Vmm::new(blk(How::Ring, &file, false), VERSION_1);
    let driver = Driver::new(&vmm.guest, 0, 16);
    let mut fixture = Fixture { vmm, driver, file };
    let header = fixture.header(BUFFERS, IN, 0);
    fixture.driver.add(&[header, Part::In(DATA, 512), Part::In(BUFFERS + 0x100, 1)]);
    vmm = fixture.vmm;
    vmm.start(0, &fixture.driver, 0);
    assert_eq!(fixture.driver.used(), (0, 513));
}

#[test]
fn other_memory_under_a_running_queue_is_taken_over() {
    let mut fixture = Fixture::new(How::Ring, F_FLUSH);
    assert_eq!(fixture.request(IN, 0, &[Part::In(DATA, 512)]).0, OK);
    fixture.vmm.front_end.set_mem_table(&fixture.vmm.guest.regions()).unwrap();
    assert_eq!(fixture.request(IN, 0, &[Part::In(DATA, 512)]).0, OK);
    // and without the ring's memory it is broken, not crashed
    fixture.vmm.front_end.set_mem_table(&fixture.vmm.guest.regions()[1..]).unwrap();
    fixture.driver.wait_error();
    fixture.vmm.front_end.set_mem_table(&fixture.vmm.guest.regions()).unwrap();
    fixture.vmm.stop(0);
    fixture.driver.reset();
    fixture.vmm.start(0, &fixture.driver, 0);
    assert_eq!(fixture.request(IN, 0, &[Part::In(DATA, 512)]).0, OK);
}

#[test]
fn regions_of_memory_come_and_go_under_a_running_queue() {
    let mut fixture = Fixture::new(How::Ring, F_FLUSH);
    let [low, high] = fixture.vmm.guest.regions();
    let in_high = [Part::In(HIGH + 0x1000, 512)];
    assert_eq!(fixture.request(IN, 0, &in_high).0, OK);
    fixture.vmm.front_end.remove_mem_region(&high).unwrap();
    assert_eq!(fixture.request(IN, 0, &in_high).0, IOERR, "memory that was taken away");
    assert_eq!(fixture.request(IN, 0, &[Part::In(DATA, 512)]).0, OK);
    assert!(fixture.vmm.front_end.remove_mem_region(&high).is_err(), "it is gone already");
    fixture.vmm.front_end.add_mem_region(&high).unwrap();
    assert!(fixture.vmm.front_end.add_mem_region(&high).is_err(), "it is there already");
    assert_eq!(fixture.request(IN, 0, &in_high).0, OK);

    // The memory of the ring itself: the queue waits for it, and goes on where it stood.
    fixture.vmm.front_end.remove_mem_region(&low).unwrap();
    let header = fixture.header(BUFFERS, IN, 0);
    let head = fixture.driver.add(&[header, in_high[0], Part::In(BUFFERS + 0x100, 1)]);
    fixture.driver.kick();
    assert_eq!(fixture.vmm.front_end.get_max_mem_slots().unwrap(), 32, "the device has seen to the kick");
    assert_eq!(fixture.driver.used_within(Duration::from_millis(30)), None, "the ring's memory is not the device's");
    let twice = VhostUserMemoryRegionInfo { memory_size: LOW / 2, ..low };
    fixture.vmm.front_end.add_mem_region(&twice).unwrap();
    assert_eq!(fixture.driver.used(), (u32::from(head), 513), "it came back, as one of two regions");
    let rest = VhostUserMemoryRegionInfo {
        guest_phys_addr: LOW / 2,
        memory_size: LOW / 2,
        userspace_addr: low.userspace_addr + LOW / 2,
        mmap_offset: LOW / 2,
        ..low
    };
    fixture.vmm.front_end.add_mem_region(&rest).unwrap();
    assert_eq!(fixture.request(IN, 0, &[Part::In(LOW / 2, 512)]).0, OK);

    // Requests that are under way in a region are done when it is gone.
    let header = fixture.header(BUFFERS, IN, 0);
    for _ in 0..4 {
        fixture.driver.add(&[header, Part::In(HIGH, 1 << 18), Part::In(BUFFERS + 0x100, 1)]);
    }
    fixture.driver.kick();
    fixture.vmm.front_end.remove_mem_region(&high).unwrap();
    for _ in 0..4 {
        fixture.driver.used();
    }
    assert_eq!(fixture.vmm.stop(0), fixture.driver.next);
}

// Interrupts

#[test]
fn no_interrupt_is_sent_where_the_driver_wants_none() {
    let mut fixture = Fixture::new(How::Plain, F_FLUSH);
    fixture.request(IN, 0, &[Part::In(DATA, 512)]);
    assert!(fixture.driver.was_called(Duration::from_secs(5)));
    fixture.driver.set_avail_flags(1);
    fixture.request(IN, 0, &[Part::In(DATA, 512)]);
    fixture.vmm.stop(0); // all that would be sent has been
    assert!(!fixture.driver.was_called(Duration::ZERO));
}

#[test]
fn no_interrupt_is_sent_for_nothing() {
    let mut fixture = Fixture::new(How::Ring, F_FLUSH);
    fixture.driver.kick();
    fixture.vmm.stop(0);
    assert!(!fixture.driver.was_called(Duration::ZERO));
}

#[test]
fn an_event_index_is_waited_for() {
    let mut fixture = Fixture::new(How::Plain, F_FLUSH | EVENT_IDX);
    fixture.request(IN, 0, &[Part::In(DATA, 512)]);
    assert!(fixture.driver.was_called(Duration::from_secs(5)));
    fixture.driver.set_used_event(2);
    fixture.request(IN, 0, &[Part::In(DATA, 512)]);
    let base = fixture.vmm.stop(0);
    assert!(!fixture.driver.was_called(Duration::ZERO));
    fixture.vmm.start(0, &fixture.driver, base);
    fixture.request(IN, 0, &[Part::In(DATA, 512)]);
    assert!(fixture.driver.was_called(Duration::from_secs(5)));
}

// 11.2: requests

#[test]
fn b1_sectors_outside_the_disk_are_refused_and_the_file_does_not_grow() {
    both(|how| {
        let mut fixture = Fixture::new(how, F_FLUSH);
        for sector in [u64::MAX, 1 << 55, (1 << 55) + 8, SECTORS - 1, SECTORS, u64::MAX / 512] {
            assert_eq!(fixture.request(OUT, sector, &[Part::Out(DATA, 1024)]), (IOERR, 1), "{sector}");
            assert_eq!(fixture.request(IN, sector, &[Part::In(DATA, 1024)]), (IOERR, 1), "{sector}");
        }
        assert_eq!(fixture.file.metadata().unwrap().len(), SECTORS * 512);
    });
}

#[test]
fn b2_data_that_is_no_whole_sector_is_refused() {
    let mut fixture = Fixture::new(How::Ring, F_FLUSH);
    for len in [1, 511, 513] {
        assert_eq!(fixture.request(OUT, 0, &[Part::Out(DATA, len)]), (IOERR, 1));
        assert_eq!(fixture.request(IN, 0, &[Part::In(DATA, len)]), (IOERR, 1));
    }
}

#[test]
fn b2_a_header_may_be_split_and_must_be_whole() {
    let mut fixture = Fixture::new(How::Ring, F_FLUSH);
    let status = Part::In(BUFFERS + 0x100, 1);
    for cut in 1..16 {
        fixture.header(BUFFERS, OUT, 5);
        let rest = 16 - cut;
        // the end of the header and the data in one descriptor
        fixture.guest().write(DATA, &fixture.guest().read(BUFFERS + u64::from(cut), rest as usize));
        fixture.guest().write(DATA + u64::from(rest), &[cut as u8; 512]);
        fixture.driver.add(&[Part::Out(BUFFERS, cut), Part::Out(DATA, rest + 512), status]);
        fixture.driver.kick();
        assert_eq!(fixture.driver.used().1, 1);
        assert_eq!(fixture.guest().read(BUFFERS + 0x100, 1), [OK]);
        let mut sector = [0; 512];
        fixture.file.seek(SeekFrom::Start(5 * 512)).unwrap();
        fixture.file.read_exact(&mut sector).unwrap();
        assert_eq!(sector, [cut as u8; 512]);
    }
    fixture.driver.add(&[Part::Out(BUFFERS, 15), status]);
    fixture.driver.kick();
    fixture.driver.used();
    assert_eq!(fixture.guest().read(BUFFERS + 0x100, 1), [IOERR]);
}

#[test]
fn b3_no_data_is_fine_and_the_status_is_never_data() {
    let mut fixture = Fixture::new(How::Ring, F_FLUSH);
    fixture.file.write_all(&[0x77; 512]).unwrap();
    assert_eq!(fixture.request(IN, 0, &[]), (OK, 1));
    assert_eq!(fixture.request(OUT, 0, &[]), (OK, 1));
    // a status that shares its descriptor with data
    let header = fixture.header(BUFFERS, IN, 0);
    fixture.driver.add(&[header, Part::In(DATA, 513)]);
    fixture.driver.kick();
    assert_eq!(fixture.driver.used().1, 513);
    assert_eq!(fixture.guest().read(DATA, 512), [0x77; 512]);
    assert_eq!(fixture.guest().read(DATA + 512, 1), [OK]);
}

#[test]
fn b3_without_a_writable_byte_the_ring_is_broken() {
    let mut fixture = Fixture::new(How::Ring, F_FLUSH);
    let header = fixture.header(BUFFERS, OUT, 0);
    fixture.driver.add(&[header, Part::Out(DATA, 512)]);
    fixture.driver.kick();
    fixture.heals();
    let header = fixture.header(BUFFERS, FLUSH, 0);
    fixture.driver.add(&[header, Part::In(DATA, 0)]);
    fixture.driver.kick();
    fixture.heals();
}

#[test]
fn b4_data_of_the_wrong_direction_is_refused() {
    let mut fixture = Fixture::new(How::Ring, F_FLUSH);
    assert_eq!(fixture.request(IN, 0, &[Part::Out(DATA, 512)]), (IOERR, 1));
    assert_eq!(fixture.request(OUT, 0, &[Part::In(DATA, 512)]), (IOERR, 1));
}

#[test]
fn b5_unknown_types_are_unsupported() {
    let mut fixture = Fixture::new(How::Ring, F_FLUSH);
    for kind in [2, 3, 5, 14, 17, u32::MAX] {
        assert_eq!(fixture.request(kind, 0, &[Part::In(DATA, 512)]), (UNSUPP, 1), "{kind}");
    }
}

#[test]
fn b5_the_id_is_padded_and_cut() {
    let mut fixture = Fixture::new(How::Ring, F_FLUSH);
    let padded = *b"serial-0\0\0\0\0\0\0\0\0\0\0\0\0";
    for (room, given) in [(0u32, 0u32), (5, 5), (20, 20), (30, 20)] {
        fixture.guest().write(DATA, &[UNTOUCHED; 32]);
        let split = [Part::In(DATA, room / 2), Part::In(DATA + u64::from(room / 2), room - room / 2)];
        assert_eq!(fixture.request(GET_ID, 0, &split), (OK, given + 1));
        let given = given as usize;
        assert_eq!(fixture.guest().read(DATA, given), padded[..given]);
        assert_eq!(fixture.guest().read(DATA + given as u64, 32 - given), vec![UNTOUCHED; 32 - given]);
    }
}

#[test]
fn b6_a_file_that_became_short_is_an_error() {
    both(|how| {
        let mut fixture = Fixture::new(how, F_FLUSH);
        fixture.file.set_len(512).unwrap();
        assert_eq!(fixture.request(IN, 0, &[Part::In(DATA, 1024)]), (IOERR, 1));
        assert_eq!(fixture.request(IN, 8, &[Part::In(DATA, 1024)]), (IOERR, 1));
        assert_eq!(fixture.request(IN, 0, &[Part::In(DATA, 512)]), (OK, 513));
    });
}

#[test]
fn b7_a_failed_flush_fails_for_ever() {
    both(|how| {
        // fdatasync of a character device fails
        let file = File::options().read(true).write(true).open("/dev/null").unwrap();
        let mut fixture = Fixture::of(blk(how, &file, false), file, F_FLUSH, 16);
        assert_eq!(fixture.request(FLUSH, 0, &[]), (IOERR, 1));
        assert_eq!(fixture.request(FLUSH, 7, &[]), (IOERR, 1));
        // on a file where it would succeed, a predecessor's failure still counts
        let file = image();
        let mut device = blk(how, &file, false);
        device.restore(State { features: 0, sync_failed: true });
        let mut fixture = Fixture::of(device, file, F_FLUSH, 16);
        assert_eq!(fixture.request(FLUSH, 0, &[]), (IOERR, 1));
        assert_eq!(fixture.request(OUT, 0, &[Part::Out(DATA, 512)]), (OK, 1));
    });
}

#[test]
fn a_flush_that_failed_fails_in_the_next_process_too() {
    both(|how| {
        let kept = File::from(sys::memory::sealed("kept", proto::device::KEPT).unwrap());
        let disk = |file: &File| blk(how, file, false).keeping(Kept::map(&kept).unwrap());
        let good = image();
        let mut first = Fixture::of(disk(&good), good, F_FLUSH, 16);
        assert_eq!(first.request(FLUSH, 0, &[]), (OK, 1));
        let broken = File::options().read(true).write(true).open("/dev/null").unwrap();
        let mut second = Fixture::of(disk(&broken), broken, F_FLUSH, 16);
        assert_eq!(second.request(FLUSH, 0, &[]), (IOERR, 1));
        let good = image();
        let mut third = Fixture::of(disk(&good), good, F_FLUSH, 16);
        assert_eq!(third.request(FLUSH, 0, &[]), (IOERR, 1), "what was lost stays lost");
    });
}

/// A range as DISCARD and WRITE_ZEROES have it.
fn range(fixture: &Fixture, sector: u64, sectors: u32, flags: u32) -> Part {
    let mut bytes = sector.to_le_bytes().to_vec();
    bytes.extend(sectors.to_le_bytes());
    bytes.extend(flags.to_le_bytes());
    fixture.guest().write(DATA, &bytes);
    Part::Out(DATA, 16)
}

#[test]
fn b8_ranges_that_can_not_be_cleared_are_refused() {
    both(|how| {
        let mut fixture = Fixture::new(how, F_FLUSH);
        fixture.file.write_all(&[7; 4096]).unwrap();
        for kind in [DISCARD, WRITE_ZEROES] {
            for (sector, sectors) in [(SECTORS, 1), (SECTORS - 1, 2), (0, u32::MAX), (u64::MAX, 1), (1 << 55, 8)] {
                let data = [range(&fixture, sector, sectors, 0)];
                assert_eq!(fixture.request(kind, 0, &data), (IOERR, 1), "{sector}+{sectors}");
            }
            for flags in [2, 3, u32::MAX] {
                let data = [range(&fixture, 0, 8, flags)];
                assert_eq!(fixture.request(kind, 0, &data), (UNSUPP, 1), "{flags:#x}");
            }
            for len in [0, 1, 15, 17, 32] {
                assert_eq!(fixture.request(kind, 0, &[Part::Out(DATA, len)]), (IOERR, 1), "{len} bytes");
            }
            assert_eq!(fixture.request(kind, 0, &[Part::In(DATA, 16)]), (IOERR, 1));
        }
        let data = [range(&fixture, 0, 8, 1)];
        assert_eq!(fixture.request(DISCARD, 0, &data), (UNSUPP, 1));
        let mut is = [0; 4096];
        fixture.file.seek(SeekFrom::Start(0)).unwrap();
        fixture.file.read_exact(&mut is).unwrap();
        assert_eq!(is, [7; 4096], "nothing was touched");
        assert_eq!(fixture.file.metadata().unwrap().len(), SECTORS * 512);
    });
}

#[test]
fn b8_a_read_only_disk_is_not_cleared() {
    let mut fixture = Fixture::new(How::Ring, F_RO | F_FLUSH);
    assert_eq!(fixture.vmm.front_end.get_features().unwrap() & (1 << 13 | 1 << 14), 0);
    for kind in [DISCARD, WRITE_ZEROES] {
        let data = [range(&fixture, 0, 8, 0)];
        assert_eq!(fixture.request(kind, 0, &data), (IOERR, 1));
    }
}

#[test]
fn what_is_discarded_takes_no_room_and_what_is_zeroed_reads_so() {
    both(|how| {
        for (features, kind, flags) in [
            (F_FLUSH, DISCARD, 0),
            (F_FLUSH, WRITE_ZEROES, 1),
            (F_FLUSH, WRITE_ZEROES, 0),
            (0, WRITE_ZEROES, 1),
            (0, WRITE_ZEROES, 0),
        ] {
            let mut fixture = Fixture::new(how, features);
            fixture.file.write_all(&vec![7; SECTORS as usize * 512]).unwrap();
            let whole = fixture.file.metadata().unwrap().blocks();
            // split at a place within it, as a guest may
            let Part::Out(at, _) = range(&fixture, 8, 1024, flags) else { unreachable!() };
            assert_eq!(fixture.request(kind, 0, &[Part::Out(at, 5), Part::Out(at + 5, 11)]), (OK, 1));
            let mut is = vec![0; SECTORS as usize * 512];
            fixture.file.seek(SeekFrom::Start(0)).unwrap();
            fixture.file.read_exact(&mut is).unwrap();
            let cleared = 8 * 512..1032 * 512;
            let right = is.iter().enumerate().all(|(at, byte)| *byte == if cleared.contains(&at) { 0 } else { 7 });
            assert!(right, "{how:?}, {features:#x}, {kind}, {flags}");
            let is = fixture.file.metadata().unwrap();
            assert_eq!(is.len(), SECTORS * 512);
            assert!(is.blocks() == whole || kind == DISCARD || flags == 1, "blocks stay where the driver wants them");
            assert!(is.blocks() < whole || (kind, flags) == (WRITE_ZEROES, 0), "blocks are given back");
        }
    });
}

#[test]
fn b8_a_file_that_can_not_be_cleared_by_itself_is_written_and_discards_are_a_hint() {
    both(|how| {
        // a character device has no fallocate(2), and takes no write either
        let file = File::options().read(true).write(true).open("/dev/full").unwrap();
        let mut fixture = Fixture::of(blk(how, &file, false), file, F_FLUSH, 16);
        for _ in 0..2 {
            let data = [range(&fixture, 0, 8, 0)];
            assert_eq!(fixture.request(DISCARD, 0, &data), (OK, 1));
            let data = [range(&fixture, 0, 8, 1)];
            assert_eq!(fixture.request(WRITE_ZEROES, 0, &data), (IOERR, 1));
        }
        let file = File::options().read(true).write(true).open("/dev/null").unwrap();
        let mut fixture = Fixture::of(blk(how, &file, false), file, F_FLUSH, 16);
        let data = [range(&fixture, 0, SECTORS as u32, 0)];
        assert_eq!(fixture.request(WRITE_ZEROES, 0, &data), (OK, 1));
    });
}

#[test]
fn b9_a_read_only_disk_is_not_written() {
    let mut fixture = Fixture::new(How::Ring, F_RO | F_FLUSH);
    fixture.guest().write(DATA, &[1; 512]);
    assert_eq!(fixture.request(OUT, 0, &[Part::Out(DATA, 512)]), (IOERR, 1));
    assert_eq!(fixture.request(IN, 0, &[Part::In(DATA, 512)]), (OK, 513));
    assert_eq!(fixture.guest().read(DATA, 512), [0; 512]);
}

#[test]
fn b10_a_full_disk_is_an_error_each_time_and_nothing_else() {
    both(|how| {
        let file = File::options().read(true).write(true).open("/dev/full").unwrap();
        let mut fixture = Fixture::of(blk(how, &file, false), file, F_FLUSH, 16);
        for _ in 0..3 {
            assert_eq!(fixture.request(OUT, 0, &[Part::Out(DATA, 512)]), (IOERR, 1));
        }
        assert_eq!(fixture.request(IN, 0, &[Part::In(DATA, 512)]), (OK, 513));
    });
}

#[test]
fn b11_a_full_ring_of_large_requests_is_served() {
    let mut fixture = Fixture::with(How::Ring, F_FLUSH, 1024);
    let status = BUFFERS + 0x100;
    let header = fixture.header(BUFFERS, IN, 0);
    for _ in 0..341 {
        fixture.driver.add(&[header, Part::In(BUFFERS + 0x1000, 1 << 20), Part::In(status, 1)]);
    }
    fixture.driver.kick();
    for _ in 0..341 {
        assert_eq!(fixture.driver.used().1, (1 << 20) + 1);
    }
}

// 11.1: rings

#[test]
fn v1_buffers_outside_memory() {
    both(|how| {
        let mut fixture = Fixture::new(how, F_FLUSH);
        let bad = [
            (HOLE, 512),
            (LOW - 256, 512),             // over the end of a range
            (LOW, 512),                   // just behind it
            (HIGH - 512, 512),            // just before the next
            (HIGH - 256, 512),            // into the next
            (HIGH + HIGH_LEN - 256, 512), // over the end of all
            (u64::MAX - 255, 512),        // wraps
            (u64::MAX, 512),
        ];
        for (addr, len) in bad {
            assert_eq!(fixture.request(IN, 0, &[Part::In(addr, len)]), (IOERR, 1), "{addr:#x}");
            assert_eq!(fixture.request(OUT, 0, &[Part::Out(addr, len)]), (IOERR, 1), "{addr:#x}");
        }
        for addr in [HOLE, LOW, LOW - 10, HIGH - 20, u64::MAX - 10] {
            assert_eq!(fixture.request(GET_ID, 0, &[Part::In(addr, 20)]), (IOERR, 1), "{addr:#x}");
        }
        // a whole range's last byte is memory
        assert_eq!(fixture.request(IN, 0, &[Part::In(HIGH + HIGH_LEN - 512, 512)]), (OK, 513));
    });
}

#[test]
fn v1_a_header_or_status_outside_memory_breaks_the_ring() {
    let mut fixture = Fixture::new(How::Ring, F_FLUSH);
    for addr in [HOLE, LOW - 8, u64::MAX - 7, HIGH - 8] {
        fixture.driver.add(&[Part::Out(addr, 16), Part::In(DATA, 512), Part::In(BUFFERS + 0x100, 1)]);
        fixture.driver.kick();
        fixture.heals();
    }
    for addr in [HOLE, LOW, u64::MAX, HIGH - 1, HIGH + HIGH_LEN] {
        let header = fixture.header(BUFFERS, IN, 0);
        fixture.driver.add(&[header, Part::In(DATA, 512), Part::In(addr, 1)]);
        fixture.driver.kick();
        fixture.heals();
    }
}

/// Offers descriptor 0 after `make` has written descriptors, and expects a broken ring.
fn breaks(features: u64, make: impl Fn(&mut Fixture)) {
    let mut fixture = Fixture::with(How::Ring, features | F_FLUSH, 16);
    fixture.header(BUFFERS, IN, 0);
    make(&mut fixture);
    fixture.driver.kick();
    fixture.heals();
}

fn desc(addr: u64, len: u32, flags: u16, next: u16) -> Desc {
    Desc { addr, len, flags, next }
}

#[test]
fn v3_a_head_that_is_no_descriptor() {
    for head in [16, 17, 255, 0x7fff, 0xffff] {
        breaks(0, |fixture| fixture.driver.offer(head));
    }
}

#[test]
fn v3_a_link_that_is_no_descriptor() {
    for next in [16, 0xffff] {
        breaks(0, |fixture| {
            fixture.driver.put_desc(0, desc(BUFFERS, 16, NEXT, next));
            fixture.driver.offer(0);
        });
    }
}

#[test]
fn v3_loops() {
    let to_itself = [(0, 0)];
    let of_two = [(0, 1), (1, 0)];
    let not_to_the_head = [(0, 1), (1, 2), (2, 1)];
    for links in [&to_itself[..], &of_two, &not_to_the_head] {
        breaks(0, |fixture| {
            for (index, next) in links {
                fixture.driver.put_desc(*index, desc(BUFFERS, 16, NEXT, *next));
            }
            fixture.driver.offer(0);
        });
    }
}

#[test]
fn v3_a_loop_in_an_indirect_table() {
    breaks(INDIRECT_DESC, |fixture| {
        fixture.driver.put_table(DATA, &[desc(BUFFERS, 16, NEXT, 1), desc(BUFFERS, 16, NEXT, 0)]);
        fixture.driver.put_desc(0, desc(DATA, 32, INDIRECT, 0));
        fixture.driver.offer(0);
    });
}

#[test]
fn v4_an_available_index_that_jumps() {
    for idx in [17, 100, 0x8000, 0xffff] {
        breaks(0, |fixture| fixture.driver.set_avail_idx(idx));
    }
}

#[test]
fn v4_an_available_index_that_goes_back() {
    breaks(0, |fixture| {
        for _ in 0..3 {
            fixture.request(IN, 0, &[Part::In(DATA, 512)]);
        }
        fixture.driver.set_avail_idx(1);
    });
}

#[test]
fn v5_a_chain_as_long_as_the_ring_is_served_and_zero_lengths_are_skipped() {
    both(|how| {
        let mut fixture = Fixture::with(how, F_FLUSH, 1024);
        let mut data: Vec<Part> = (0..1021).map(|place| Part::In(DATA + place * 512, 512)).collect();
        assert_eq!(fixture.request(IN, 0, &data), (OK, 1021 * 512 + 1));
        data.iter_mut().step_by(2).for_each(|part| *part = Part::In(HOLE, 0));
        assert_eq!(fixture.request(IN, 0, &data), (OK, 510 * 512 + 1));
        let header = fixture.header(BUFFERS, FLUSH, 0);
        fixture.driver.add(&[
            Part::Out(HOLE, 0),
            header,
            Part::Out(0, 0),
            Part::In(BUFFERS + 0x100, 1),
            Part::In(0, 0),
        ]);
        fixture.driver.kick();
        assert_eq!(fixture.driver.used().1, 1);
        assert_eq!(fixture.guest().read(BUFFERS + 0x100, 1), [OK]);
    });
}

#[test]
fn v5_lengths_that_overflow_are_refused() {
    let mut fixture = Fixture::new(How::Ring, F_FLUSH);
    for data in [vec![Part::In(DATA, u32::MAX)], vec![Part::In(DATA, 0x8000_0000); 2], vec![Part::In(0, u32::MAX); 100]]
    {
        assert_eq!(fixture.request(IN, 0, &data), (IOERR, 1));
    }
    for data in [vec![Part::Out(DATA, u32::MAX)], vec![Part::Out(0, 0xffff_fe00); 100]] {
        assert_eq!(fixture.request(OUT, 0, &data), (IOERR, 1));
    }
}

#[test]
fn v6_readable_after_writable() {
    breaks(0, |fixture| {
        let status = Part::In(BUFFERS + 0x100, 1);
        fixture.driver.add(&[Part::Out(BUFFERS, 16), status, Part::Out(DATA, 512)]);
    });
}

#[test]
fn v6_a_header_that_is_writable_is_no_header() {
    let mut fixture = Fixture::new(How::Ring, F_FLUSH);
    fixture.header(BUFFERS, IN, 0);
    fixture.driver.add(&[Part::In(BUFFERS, 16), Part::In(DATA, 512), Part::In(BUFFERS + 0x100, 1)]);
    fixture.driver.kick();
    assert_eq!(fixture.driver.used().1, 1);
    assert_eq!(fixture.guest().read(BUFFERS + 0x100, 1), [IOERR]);
}

#[test]
fn v8_indirect_that_was_not_negotiated() {
    breaks(0, |fixture| {
        fixture.driver.put_table(DATA, &[desc(BUFFERS, 16, NEXT, 1), desc(BUFFERS + 0x100, 1, WRITE, 0)]);
        fixture.driver.put_desc(0, desc(DATA, 32, INDIRECT, 0));
        fixture.driver.offer(0);
    });
}

#[test]
fn v8_indirect_tables_that_are_invalid() {
    let nested = desc(DATA + 0x1000, 32, INDIRECT, 0);
    for head in [
        desc(DATA, 32, INDIRECT | NEXT, 1), // and a next
        desc(DATA, 0, INDIRECT, 0),
        desc(DATA, 33, INDIRECT, 0),
        desc(DATA, 15, INDIRECT, 0),
        desc(DATA, 17 * 16, INDIRECT, 0), // more than the ring
        desc(DATA, 0xffff_fff0, INDIRECT, 0),
        desc(HOLE, 32, INDIRECT, 0),
        desc(LOW - 16, 32, INDIRECT, 0),
        desc(u64::MAX - 15, 32, INDIRECT, 0),
        desc(DATA + 0x2000, 16, INDIRECT, 0), // holds another
    ] {
        breaks(INDIRECT_DESC, |fixture| {
            fixture.driver.put_table(DATA, &[desc(BUFFERS, 16, NEXT, 1), desc(BUFFERS + 0x100, 1, WRITE, 0)]);
            fixture.driver.put_table(LOW - 16, &[desc(BUFFERS, 16, NEXT, 1)]);
            fixture.driver.put_table(DATA + 0x2000, &[nested]);
            fixture.driver.put_desc(0, head);
            fixture.driver.put_desc(1, desc(BUFFERS + 0x100, 1, WRITE, 0));
            fixture.driver.offer(0);
        });
    }
}

#[test]
fn v9_rings_and_buffers_on_top_of_each_other() {
    let mut fixture = Fixture::with(How::Ring, F_FLUSH, 16);
    fixture.vmm.stop(0);
    let (desc, avail, used) = (fixture.driver.desc, fixture.driver.avail, fixture.driver.used);
    for (avail, used) in [(desc, desc), (avail, desc), (avail, avail + 4), (desc + 16, used)] {
        fixture.driver.reset();
        fixture.driver.avail = avail;
        fixture.driver.used = used;
        fixture.vmm.start(0, &fixture.driver, 0);
        let header = fixture.header(BUFFERS, IN, 0);
        fixture.driver.add(&[header, Part::In(desc, 512), Part::In(used + 2, 1)]);
        fixture.driver.kick();
        fixture.vmm.stop(0);
    }
    fixture.driver = Driver::new(&fixture.vmm.guest, 0, 16);
    fixture.driver.reset();
    fixture.vmm.start(0, &fixture.driver, 0);
    assert_eq!(fixture.request(IN, 0, &[Part::In(DATA, 512)]).0, OK);
}

#[test]
fn v10_rings_that_can_not_be_set_up() {
    let file = image();
    let vmm = Vmm::new(blk(How::Ring, &file, false), VERSION_1);
    for size in [0, 3, 1023, 1025, 2048, 32768] {
        assert!(vmm.front_end.set_vring_num(0, size).is_err(), "{size}");
    }
    vmm.front_end.set_vring_num(0, 256).unwrap();
    let good = Driver::new(&vmm.guest, 0, 256);
    let at = |desc, avail, used| {
        let mut ring = vmm.ring(&good);
        (ring.desc_table_addr, ring.avail_ring_addr, ring.used_ring_addr) =
            (Guest::user(desc), Guest::user(avail), Guest::user(used));
        vmm.front_end.set_vring_addr(0, &ring)
    };
    let (desc, avail, used) = (good.desc, good.avail, good.used);
    for bad in [0, HOLE, LOW, LOW - 16, HIGH - 16, HIGH + HIGH_LEN - 16, HIGH + HIGH_LEN] {
        assert!(at(bad, avail, used).is_err(), "descriptors at {bad:#x}");
        assert!(at(desc, bad, used).is_err(), "available at {bad:#x}");
        assert!(at(desc, avail, bad).is_err(), "used at {bad:#x}");
    }
    // the two bytes of the event index count
    assert!(at(desc, LOW - (4 + 512), used).is_err());
    assert!(at(desc, LOW - (6 + 512), used).is_ok());
    assert!(at(desc, avail, LOW - (4 + 2048)).is_err());
    assert!(at(desc, avail, LOW - (8 + 2048)).is_ok());
    assert!(vmm.is_serving());
}

#[test]
fn v10_a_running_queue_is_not_set_up_again() {
    let mut fixture = Fixture::new(How::Ring, F_FLUSH);
    assert!(fixture.vmm.front_end.set_vring_num(0, 16).is_err());
    assert!(fixture.vmm.front_end.set_vring_addr(0, &fixture.vmm.ring(&fixture.driver)).is_err());
    assert!(fixture.vmm.front_end.set_vring_base(0, 0).is_err());
    fixture.vmm.front_end.set_vring_enable(0, true).unwrap();
    assert_eq!(fixture.request(IN, 0, &[Part::In(DATA, 512)]).0, OK);
}

#[test]
fn v10_a_queue_that_is_not_there() {
    let mut fixture = Fixture::new(How::Ring, F_FLUSH);
    assert!(fixture.vmm.front_end.set_vring_num(1, 16).is_err());
    assert!(fixture.vmm.front_end.set_vring_enable(3, true).is_err());
    assert_eq!(fixture.request(IN, 0, &[Part::In(DATA, 512)]).0, OK);
}

#[test]
fn v11_a_disabled_queue_is_not_served() {
    let mut fixture = Fixture::new(How::Ring, F_FLUSH);
    fixture.vmm.front_end.set_vring_enable(0, false).unwrap();
    let header = fixture.header(BUFFERS, IN, 0);
    fixture.driver.add(&[header, Part::In(DATA, 512), Part::In(BUFFERS + 0x100, 1)]);
    fixture.driver.kick();
    assert_eq!(fixture.driver.used_within(Duration::from_millis(50)), None);
    fixture.vmm.front_end.set_vring_enable(0, true).unwrap();
    assert_eq!(fixture.driver.used(), (0, 513));
}

#[test]
fn v12_features_that_were_not_offered_or_are_needed() {
    let file = image();
    let vmm = Vmm::new(blk(How::Ring, &file, false), VERSION_1);
    let offered = vmm.front_end.get_features().unwrap();
    assert_eq!(offered & (F_RO | 1 << 11 | 1 << 12 | 1 << 34), 0);
    assert!(vmm.front_end.set_features(offered | 1 << 12).is_err());
    assert!(vmm.front_end.set_features(offered & !VERSION_1).is_err());
    assert!(vmm.front_end.set_features(offered).is_ok());
}

#[test]
fn v13_the_configuration_space_has_an_end() {
    let mut fixture = Fixture::new(How::Ring, F_FLUSH);
    let mut config = |offset: u32, size: u32| {
        let buffer = vec![0; size as usize];
        let flags = VhostUserConfigFlags::empty();
        fixture.vmm.front_end.get_config(offset, size, flags, &buffer).map(|(_, bytes)| bytes)
    };
    assert_eq!(config(0, 8).unwrap(), SECTORS.to_le_bytes());
    assert_eq!(config(12, 4).unwrap(), 126u32.to_le_bytes());
    assert_eq!(config(20, 4).unwrap(), 512u32.to_le_bytes());
    assert_eq!(config(56, 6).unwrap(), [1, 0, 0, 0, 0, 0]); // the end of what is known
    for (offset, size) in [(255, 1), (255, 2), (256, 4), (4095, 1), (57, 4039)] {
        assert_eq!(config(offset, size).unwrap(), vec![0; size as usize]);
    }
    let flags = VhostUserConfigFlags::WRITABLE;
    assert!(fixture.vmm.front_end.set_config(0, flags, &[1]).is_err());
    assert_eq!(fixture.request(IN, 0, &[Part::In(DATA, 512)]).0, OK);
}

#[test]
fn v20_nothing_moves_after_a_reset() {
    for round in 0..20u64 {
        let mut fixture = Fixture::with(How::Ring, F_FLUSH, 128);
        let header = fixture.header(BUFFERS, IN, 0);
        for _ in 0..40 {
            fixture.driver.add(&[header, Part::In(DATA, 1 << 20), Part::In(BUFFERS + 0x100, 1)]);
        }
        fixture.driver.kick();
        std::thread::sleep(Duration::from_micros(round * 50)); // another moment each time; none is waited for
        let base = fixture.vmm.stop(0);
        let used = fixture.driver.used_idx();
        assert_eq!(used, base, "what was taken was answered");
        fixture.guest().write(DATA, &vec![0x5a; 1 << 20]);
        fixture.vmm.start(0, &Driver::new(&fixture.vmm.guest, 2, 16), 0);
        fixture.driver.kick();
        assert_eq!(fixture.driver.used_idx(), used);
        assert_eq!(fixture.guest().read(DATA, 1 << 20), vec![0x5a; 1 << 20]);
    }
}

#[test]
fn a_descriptor_that_is_changed_while_it_is_served_leads_to_no_crash() {
    let mut fixture = Fixture::new(How::Ring, F_FLUSH | INDIRECT_DESC);
    let memory = fixture.vmm.guest.memory.clone();
    let table = fixture.driver.desc;
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let stopped = stop.clone();
    let other_cpu = std::thread::spawn(move || {
        let mut noise = 0x9e37_79b9_7f4a_7c15u64;
        while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
            noise = noise.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let at = table + (noise >> 60) * 8;
            memory.write_obj(noise, GuestAddress(at)).unwrap();
            memory.write_obj(noise >> 30, GuestAddress(BUFFERS + (noise >> 62) * 4)).unwrap();
        }
    });
    for _ in 0..200 {
        fixture.driver.reset();
        let header = fixture.header(BUFFERS, IN, 0);
        fixture.driver.add(&[header, Part::In(DATA, 512), Part::In(BUFFERS + 0x100, 1)]);
        fixture.driver.kick();
        fixture.driver.used_within(Duration::from_micros(500));
        fixture.vmm.stop(0);
        fixture.vmm.start(0, &fixture.driver, 0);
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    other_cpu.join().unwrap();
    fixture.vmm.stop(0);
    fixture.driver.reset();
    fixture.vmm.start(0, &fixture.driver, 0);
    assert_eq!(fixture.request(IN, 0, &[Part::In(DATA, 512)]).0, OK);
    assert_eq!(fixture.file.metadata().unwrap().len(), SECTORS * 512);
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(48))]

    /// Whatever a ring holds, the device lives, the file keeps its size, and a reset heals.
    #[test]
    fn any_ring_at_all(
        descs in proptest::collection::vec((0usize..8, 0u32..3000, 0u16..8, 0u16..18, 0usize..6), 16),
        heads in proptest::collection::vec(0u16..18, 16),
        kinds in proptest::collection::vec((0u32..15, 0u64..2060), 6),
        idx in 0u16..20,
    ) {
        let mut fixture = Fixture::with(How::Ring, F_FLUSH | INDIRECT_DESC | EVENT_IDX, 16);
        let places = [DATA, BUFFERS, BUFFERS + 16, HOLE, LOW - 100, HIGH, DATA + 0x1000, u64::MAX - 100];
        for (at, (kind, sector)) in kinds.iter().enumerate() {
            fixture.header(BUFFERS + at as u64 * 16, *kind, *sector);
        }
        for (index, (place, len, flags, next, shape)) in descs.iter().enumerate() {
            let len = match shape { 0 => 16, 1 => 512, 2 => 1, 3 => *len, 4 => len * 512, _ => u32::MAX };
            fixture.driver.put_desc(index as u16, desc(places[*place], len, *flags, *next));
        }
        for head in heads {
            fixture.driver.offer(head);
        }
        fixture.driver.set_avail_idx(idx);
        fixture.driver.kick();
        fixture.driver.used_within(Duration::from_millis(2));
        fixture.vmm.stop(0);
        fixture.driver.reset();
        fixture.vmm.start(0, &fixture.driver, 0);
        proptest::prop_assert_eq!(fixture.request(IN, 0, &[Part::In(DATA, 512)]).0, OK);
        proptest::prop_assert_eq!(fixture.file.metadata().unwrap().len(), SECTORS * 512);
    }
}
