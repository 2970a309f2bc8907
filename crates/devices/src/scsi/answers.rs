//! What the drive says of itself and its medium: the bytes of each answer (SPC-4, MMC-6, SBC-3). Pure.

use super::BLOCK;
use super::command::{Features, Values};

/// Bytes of the longest answer, of which the drive gives at most as many as are asked for.
pub const MAX_ANSWER: usize = 256;

/// Bytes of a serial number.
pub const SERIAL: usize = 20;

/// What the original calls its drive (openbsd/devices.md, 5.3): vendor, product, revision.
const IDENTITY: [&[u8]; 3] = [b"OpenBSD ", b"VMM CD-ROM      ", b"001 "];

/// Blocks of a CD at most (MMC-6, 4.2.1: 79 minutes 57 seconds and 74 frames, and some more is written); what is larger is
/// shown as a DVD.
const CD_BLOCKS: u64 = 405_000;

/// Profiles (MMC-6, table 97).
const CD_ROM: u16 = 0x0008;
const DVD_ROM: u16 = 0x0010;

/// Events of the media class (MMC-6, table 317).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Event {
    /// Somebody would like to take the medium out.
    EjectRequest = 1,
    /// There is one, perhaps another.
    NewMedium = 2,
    /// It is out.
    Removed = 3,
}

impl Event {
    /// By its number.
    pub fn of(number: u8) -> Option<Event> {
        [Event::EjectRequest, Event::NewMedium, Event::Removed].into_iter().find(|event| *event as u8 == number)
    }
}

/// An answer that grows; what does not fit is lost, which no answer of ours is.
#[derive(Debug)]
pub struct Answer {
    bytes: [u8; MAX_ANSWER],
    len: usize,
}

impl Answer {
    /// An empty one.
    pub fn new() -> Answer {
        Answer { bytes: [0; MAX_ANSWER], len: 0 }
    }

    /// What is in it.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    /// Leaves the first `room` bytes.
    pub fn cut(&mut self, room: u32) {
        self.len = self.len.min(usize::try_from(room).unwrap_or(usize::MAX));
    }

    pub(super) fn put(&mut self, more: &[u8]) {
        let end = self.len.saturating_add(more.len()).min(MAX_ANSWER);
        let free = self.bytes.get_mut(self.len..end).unwrap_or_default();
        free.iter_mut().zip(more).for_each(|(to, from)| *to = *from);
        self.len = end;
    }

    fn put16(&mut self, value: u16) {
        self.put(&value.to_be_bytes());
    }

    fn put32(&mut self, value: u32) {
        self.put(&value.to_be_bytes());
    }

    /// Writes at `at` how many bytes follow that field, which has 1, 2 or 4 bytes.
    fn count(&mut self, at: usize, field: usize) {
        let following = u32::try_from(self.len.saturating_sub(at).saturating_sub(field)).unwrap_or(u32::MAX);
        let all = following.to_be_bytes();
        let bytes = all.get(all.len().saturating_sub(field)..).unwrap_or_default();
        let place = self.bytes.get_mut(at..at.saturating_add(field)).unwrap_or_default();
        place.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    }
}

impl Default for Answer {
    fn default() -> Self {
        Answer::new()
    }
}

/// INQUIRY (SPC-4, 6.6.2): a CD-ROM drive, whose medium can be taken out, of SPC-3.
pub fn identity(to: &mut Answer) {
    to.put(&[0x05, 0x80, 0x05, 0x02, 31, 0, 0, 0]);
    IDENTITY.into_iter().for_each(|text| to.put(text));
}

/// A page of vital product data (SPC-4, 7.8); false where the drive has no such page.
pub fn vital_product_data(to: &mut Answer, page: u8, serial: &[u8]) -> bool {
    to.put(&[0x05, page, 0, 0]);
    match page {
        0x00 => to.put(&[0x00, 0x80, 0x83]),
        0x80 => to.put(serial),
        0x83 => {
            // One designator: of the unit, in ASCII, by the vendor's identification.
            to.put(&[0x02, 0x01, 0, 0]);
            let at = to.len.saturating_sub(1);
            to.put(b"OpenBSD ");
            to.put(serial);
            to.count(at, 1);
        }
        _ => return false,
    }
    to.count(2, 2);
    true
}

/// READ CAPACITY: the last block, and the size of each (MMC-6, 6.24; SBC-3, 5.16).
pub fn capacity(to: &mut Answer, long: bool, blocks: u64) {
    let (last, block) = (blocks.saturating_sub(1), u32::try_from(BLOCK).unwrap_or(u32::MAX));
    if long {
        to.put(&last.to_be_bytes());
        to.put32(block);
        to.put(&[0; 20]);
    } else {
        to.put32(u32::try_from(last).unwrap_or(u32::MAX));
        to.put32(block);
    }
}

/// READ TOC, format 0 (MMC-6, 6.26.2.4): one data track, and where it ends. False where the disc has no such track.
pub fn toc(to: &mut Answer, msf: bool, track: u8, blocks: u64) -> bool {
    const LEAD_OUT: u8 = 0xAA;
    to.put(&[0, 0, 1, 1]);
    match track {
        0 | 1 => to.put(&[0, 0x14, 1, 0]),
        LEAD_OUT => {}
        _ => return false,
    }
    if track != LEAD_OUT {
        to.put(&place(msf, 0));
    }
    to.put(&[0, 0x14, LEAD_OUT, 0]);
    to.put(&place(msf, blocks));
    to.count(0, 2);
    true
}

/// READ TOC, format 1 (MMC-6, 6.26.2.5): one session, whose first track is the first.
pub fn sessions(to: &mut Answer, msf: bool) {
    to.put(&[0, 10, 1, 1, 0, 0x14, 1, 0]);
    to.put(&place(msf, 0));
}

/// An address as a number, or as minutes, seconds and frames with the two seconds before the first block (MMC-6, table 713).
fn place(msf: bool, block: u64) -> [u8; 4] {
    if !msf {
        return u32::try_from(block).unwrap_or(u32::MAX).to_be_bytes();
    }
    let frames = block.saturating_add(150);
    let byte = |value: u64| u8::try_from(value).unwrap_or(u8::MAX);
    [0, byte(frames / 75 / 60), byte(frames / 75 % 60), byte(frames % 75)]
}

/// What a mode page or an answer needs to know of the drive.
#[derive(Clone, Copy, Debug)]
pub struct Tray {
    /// Blocks of the medium, if one can be read.
    pub blocks: Option<u64>,
    /// It is open.
    pub open: bool,
    /// It is locked.
    pub locked: bool,
}

/// MODE SENSE: the header and one page, or all for 3Fh (SPC-4, 7.5; MMC-6, annex E.3). False where the drive has no such page.
pub fn mode_pages(to: &mut Answer, long: bool, values: Values, page: u8, tray: Tray) -> bool {
    const ERROR_RECOVERY: u8 = 0x01;
    const CAPABILITIES: u8 = 0x2A;
    const ALL: u8 = 0x3F;
    // Medium type: closed with a data CD of 120 mm, closed and empty, open (SCSI-2, 14.3.3.1).
    let medium = match tray {
        Tray { open: true, .. } => 0x71,
        Tray { blocks: Some(_), .. } => 0x01,
        Tray { blocks: None, .. } => 0x70,
    };
    if long {
        to.put(&[0, 0, medium, 0, 0, 0, 0, 0])
    } else {
        to.put(&[0, medium, 0, 0])
    }
    let mut add = |bytes: &[u8]| {
        to.put(bytes.get(..2).unwrap_or_default());
        let rest = bytes.iter().skip(2);
        rest.for_each(|byte| to.put(&[if values == Values::Current { *byte } else { 0 }]));
    };
    match page {
        ERROR_RECOVERY => add(&error_recovery()),
        CAPABILITIES => add(&capabilities(tray.locked)),
        ALL => {
            add(&error_recovery());
            add(&capabilities(tray.locked));
        }
        _ => return false,
    }
    to.count(0, if long { 2 } else { 1 });
    true
}

/// As the original has it: five retries.
fn error_recovery() -> [u8; 12] {
    [0x01, 10, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0]
}

/// It reads CD-R, CD-RW and DVD-ROM, data with several sessions; its tray opens by command and can be locked.
fn capabilities(locked: bool) -> [u8; 32] {
    const SPEED: [u8; 2] = (50 * 176u16).to_be_bytes(); // kB/s at 50 times
    let [s0, s1] = SPEED;
    let mut page = [0; 32];
    let start = [0x2A, 30, 0x0B, 0, 0x50, 0, 0x29 | u8::from(locked) << 1, 0, s0, s1, 0, 0, 0, 128, s0, s1];
    page.iter_mut().zip(start).for_each(|(to, from)| *to = from);
    page
}

/// GET EVENT STATUS NOTIFICATION (MMC-6, 6.7): of the classes that are asked for the drive has that of the media. Says
/// whether the event was told.
pub fn events(to: &mut Answer, classes: u8, room: u32, event: Option<Event>, tray: Tray) -> bool {
    const MEDIA: u8 = 4;
    const SUPPORTED: u8 = 1 << MEDIA;
    if classes & SUPPORTED == 0 {
        to.put(&[0, 2, 0x80, SUPPORTED]); // no event available
        return false;
    }
    let present = tray.blocks.is_some() && !tray.open;
    let code = event.map_or(0, |event| event as u8);
    to.put(&[0, 6, MEDIA, SUPPORTED, code, u8::from(present) << 1 | u8::from(tray.open), 0, 0]);
    room > 4
}

/// READ DISC INFORMATION (MMC-6, 6.22.3.1): a CD-ROM or DVD-ROM that is complete, of one session with one track.
pub fn disc_information(to: &mut Answer) {
    to.put(&[0, 32, 0x0E, 1, 1, 1, 1, 0x20, 0, 0, 0, 0, 0, 0, 0, 0]);
    to.put(&[0xFF; 8]); // no lead-in of a next session, no last possible lead-out
    to.put(&[0; 10]);
}

/// MECHANISM STATUS (MMC-6, 6.9): no changer, nothing under way.
pub fn mechanism(to: &mut Answer, open: bool) {
    to.put(&[0, u8::from(open) << 4, 0, 0, 0, 0, 0, 0]);
}

/// REPORT LUNS (SPC-4, 6.33): the drive's is 0.
pub fn luns(to: &mut Answer, known_only: bool) {
    to.put(&[0, 0, 0, if known_only { 0 } else { 8 }, 0, 0, 0, 0]);
    if !known_only {
        to.put(&[0; 8]);
    }
}

/// GET CONFIGURATION (MMC-6, 6.6): the current profile, and features.
pub fn configuration(to: &mut Answer, which: Features, first: u16, tray: Tray) {
    let profile = tray.blocks.filter(|_| !tray.open).map(|blocks| if blocks <= CD_BLOCKS { CD_ROM } else { DVD_ROM });
    to.put(&[0; 6]);
    to.put16(profile.unwrap_or(0));
    let is = |of: u16| u8::from(profile == Some(of));
    let medium = u8::from(profile.is_some());
    let ([d0, d1], [c0, c1]) = (DVD_ROM.to_be_bytes(), CD_ROM.to_be_bytes());
    let profiles = [d0, d1, is(DVD_ROM), 0, c0, c1, is(CD_ROM), 0];
    // Code; version, persistent and current (MMC-6, 5.2.2.3); the rest.
    let features: [(u16, u8, &[u8]); 7] = [
        (0x0000, 0x03, &profiles),
        (0x0001, 0x0B, &[0, 0, 0, 1, 0x01, 0, 0, 0]), // core, version 2: SCSI; events of devices
        (0x0002, 0x07, &[0x02, 0, 0, 0]),             // morphing, version 1: events of operational changes, polled
        (0x0003, 0x03, &[0x29, 0, 0, 0]),             // removable medium: a tray, eject, lock
        (0x0010, medium, &[0, 0, 8, 0, 0, 1, 0, 0]),  // random readable: 2048 bytes, one by one
        (0x001E, 0x08 | is(CD_ROM), &[0, 0, 0, 0]),   // CD read, version 2
        (0x001F, is(DVD_ROM), &[]),                   // DVD read
    ];
    for (code, flags, rest) in features {
        let wanted = match which {
            Features::All => code >= first,
            Features::Current => code >= first && flags & 1 == 1,
            Features::One => code == first,
        };
        if wanted {
            to.put16(code);
            to.put(&[flags, u8::try_from(rest.len()).unwrap_or(0)]);
            to.put(rest);
        }
    }
    to.count(0, 4);
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLOSED: Tray = Tray { blocks: Some(1000), open: false, locked: false };
    const EMPTY: Tray = Tray { blocks: None, open: false, locked: false };
    const OPEN: Tray = Tray { blocks: Some(1000), open: true, locked: false };

    fn said(write: impl FnOnce(&mut Answer)) -> Vec<u8> {
        let mut answer = Answer::new();
        write(&mut answer);
        answer.bytes().to_vec()
    }

    #[test]
    fn a_drive_says_that_it_is_a_removable_cd_rom() {
        let bytes = said(identity);
        assert_eq!((bytes.len(), bytes[0], bytes[1], usize::from(bytes[4])), (36, 5, 0x80, 36 - 5));
        assert_eq!(&bytes[8..], b"OpenBSD VMM CD-ROM      001 ");
    }

    #[test]
    fn product_pages_have_their_lengths_and_the_serial_number() {
        let page = |page| said(|to| assert!(vital_product_data(to, page, b"cdrom0-web")));
        assert_eq!(page(0), [5, 0, 0, 3, 0, 0x80, 0x83]);
        assert_eq!(page(0x80), [&[5, 0x80, 0, 10][..], b"cdrom0-web"].concat());
        assert_eq!(page(0x83), [&[5, 0x83, 0, 22, 2, 1, 0, 18][..], b"OpenBSD cdrom0-web"].concat());
        assert!(!vital_product_data(&mut Answer::new(), 0xB0, b""));
    }

    #[test]
    fn a_capacity_that_does_not_fit_says_so() {
        let of = |long, blocks| said(|to| capacity(to, long, blocks));
        assert_eq!(of(false, 1000), [0, 0, 3, 0xE7, 0, 0, 8, 0]);
        assert_eq!(of(false, 1 << 32), [0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 8, 0]);
        assert_eq!(of(false, (1 << 32) + 1)[..4], [0xFF; 4]);
        let long = of(true, (1 << 32) + 1);
        assert_eq!((long.len(), &long[..12]), (32, &[0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 8, 0][..]));
    }

    #[test]
    fn the_table_of_contents_has_one_track_and_its_end() {
        let of = |msf, track| said(|to| assert!(toc(to, msf, track, 1000)));
        let whole = [0, 18, 1, 1, 0, 0x14, 1, 0, 0, 0, 0, 0, 0, 0x14, 0xAA, 0, 0, 0, 3, 0xE8];
        assert_eq!((of(false, 0), of(false, 1)), (whole.to_vec(), whole.to_vec()));
        assert_eq!(of(false, 0xAA), [0, 10, 1, 1, 0, 0x14, 0xAA, 0, 0, 0, 3, 0xE8]);
        // 150 frames are 2 seconds, 1150 are 15 seconds and 25 frames
        let msf = of(true, 0);
        assert_eq!((&msf[8..12], &msf[16..20]), (&[0, 0, 2, 0][..], &[0, 0, 15, 25][..]));
        assert_eq!(place(true, u64::MAX)[1], 255);
        assert!([2, 99, 0xA9, 0xAB].into_iter().all(|track| !toc(&mut Answer::new(), false, track, 1000)));
        assert_eq!(said(|to| sessions(to, false)), [0, 10, 1, 1, 0, 0x14, 1, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn mode_pages_have_the_originals_lengths() {
        let of = |long, page| said(|to| assert!(mode_pages(to, long, Values::Current, page, CLOSED)));
        assert_eq!([of(false, 1).len(), of(false, 0x2A).len()], [16, 36]);
        assert_eq!([of(true, 1).len(), of(true, 0x2A).len(), of(true, 0x3F).len()], [20, 40, 52]);
        assert_eq!((of(false, 1)[0], &of(true, 0x3F)[..2]), (15, &[0, 50][..]));
        assert_eq!((of(false, 1)[1], of(true, 1)[2]), (0x01, 0x01));
        assert_eq!(of(false, 0x2A)[4..6], [0x2A, 30]);
        assert!(!mode_pages(&mut Answer::new(), false, Values::Current, 0x0E, CLOSED));
    }

    #[test]
    fn the_lock_and_the_tray_show_and_nothing_can_be_changed() {
        let of = |values, tray| said(|to| assert!(mode_pages(to, false, values, 0x2A, tray)));
        let locked = Tray { locked: true, ..CLOSED };
        assert_eq!((of(Values::Current, CLOSED)[10], of(Values::Current, locked)[10]), (0x29, 0x2B));
        assert_eq!((of(Values::Current, EMPTY)[1], of(Values::Current, OPEN)[1]), (0x70, 0x71));
        assert_eq!(of(Values::Changeable, locked)[6..], [0; 30]);
    }

    #[test]
    fn events_are_told_where_there_is_room_for_them() {
        let of = |classes, room, event, tray| {
            let mut told = false;
            (said(|to| told = events(to, classes, room, event, tray)), told)
        };
        let new = Some(Event::NewMedium);
        assert_eq!(of(0x10, 8, new, CLOSED), (vec![0, 6, 4, 0x10, 2, 2, 0, 0], true));
        assert_eq!(of(0x7E, 8, None, EMPTY), (vec![0, 6, 4, 0x10, 0, 0, 0, 0], true));
        assert_eq!(of(0x10, 8, Some(Event::Removed), OPEN).0[4..6], [3, 1]);
        assert!(!of(0x10, 4, new, CLOSED).1);
        assert_eq!(of(0x02, 8, new, CLOSED), (vec![0, 2, 0x80, 0x10], false));
    }

    #[test]
    fn features_are_those_that_are_asked_for() {
        let of = |which, first, tray| said(|to| configuration(to, which, first, tray));
        let codes = |bytes: &[u8]| {
            let mut rest = &bytes[8..];
            let mut codes = Vec::new();
            while let [a, b, _, len, ..] = rest {
                codes.push(u16::from_be_bytes([*a, *b]));
                rest = &rest[4 + usize::from(*len)..];
            }
            codes
        };
        let all = of(Features::All, 0, CLOSED);
        assert_eq!(codes(&all), [0, 1, 2, 3, 0x10, 0x1E, 0x1F]);
        assert_eq!(u32::from_be_bytes(all[..4].try_into().unwrap()) as usize, all.len() - 4);
        assert_eq!(all[6..8], [0, 8]);
        assert_eq!(codes(&of(Features::Current, 0, CLOSED)), [0, 1, 2, 3, 0x10, 0x1E]);
        assert_eq!(codes(&of(Features::Current, 2, EMPTY)), [2, 3]);
        assert_eq!(codes(&of(Features::One, 0x1F, CLOSED)), [0x1F]);
        assert_eq!(codes(&of(Features::One, 0x20, CLOSED)), [0; 0]);
        let large = of(Features::Current, 0x1E, Tray { blocks: Some(CD_BLOCKS + 1), ..CLOSED });
        assert_eq!((&large[6..8], codes(&large)), (&[0, 0x10][..], vec![0x1F]));
        assert_eq!(of(Features::All, 0, OPEN)[6..8], [0, 0]);
    }

    #[test]
    fn the_disc_is_complete() {
        let bytes = said(disc_information);
        assert_eq!((bytes.len(), bytes[1], bytes[2]), (34, 32, 0x0E));
        assert_eq!(said(|to| mechanism(to, true)), [0, 0x10, 0, 0, 0, 0, 0, 0]);
        assert_eq!(said(|to| luns(to, false)), [0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(said(|to| luns(to, true)), [0; 8]);
    }

    #[test]
    fn an_answer_is_cut_to_its_room_and_never_overflows() {
        let mut answer = Answer::new();
        answer.put(&[7; MAX_ANSWER]);
        answer.put(&[8; 10]);
        assert_eq!(answer.bytes(), [7; MAX_ANSWER]);
        answer.cut(3);
        assert_eq!(answer.bytes(), [7; 3]);
        answer.cut(u32::MAX);
        assert_eq!(answer.bytes(), [7; 3]);
    }
}
