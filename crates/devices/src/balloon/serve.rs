//! Takes pages, makes holes in guest memory, asks for statistics. The only file that touches the memory's file.
//!
//! Each call does a bounded piece of what a guest asks, whatever it wrote; a chain that is not finished when its queue stops
//! is put back and read again, which changes nothing of what was done.

use std::ops::Range;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use model::MemorySize;
use proto::device::{Ask, MemoryReport, REPORT_EVERY, Report, ToVmm};
use rustix::event::PollFlags;
use rustix::fs::FallocateFlags;
use sys::guest_io::GuestMemory;
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryRegion};
use zerocopy::IntoBytes;

use super::config::Config;
use super::pages::{Given, PAGE, Pages, address};
use super::request::{self, MAX_STATISTICS, NUMBER};
use super::{FEATURES, VIRTIO_BALLOON_F_MUST_TELL_HOST, VIRTIO_BALLOON_F_PAGE_REPORTING, VIRTIO_BALLOON_F_STATS_VQ};
use crate::kept::{Kept, WORDS};
use crate::queue::{Chain, RingFault, accepted};
use crate::serve_vhost::{Active, Device, Progress};

/// Page numbers, or chains, of one call at most. More come with the next.
const MAX_STEPS: usize = 1024;
/// Page numbers that are copied out of the guest at once.
const AT_ONCE: usize = 256;
/// Chains of free pages of one call at most: each can name a hole for every entry of its ring.
const MAX_REPORTS: usize = 8;
/// How often a guest is asked for its statistics.
const POLL_EVERY: Duration = Duration::from_secs(10);

/// The queues that every driver has: given pages, and pages taken back.
const INFLATE: usize = 0;
const DEFLATE: usize = 1;

/// A balloon that is served.
pub struct Balloon {
    /// All that the guest has.
    memory: MemorySize,
    state: State,
    /// Chains of page numbers, by queue.
    lines: [Line; 2],
    chain: Chain,
    /// The driver's buffer for statistics, which it gets back when there shall be new ones.
    held: Option<u16>,
    poll: Option<Instant>,
    statistics: [Option<u64>; proto::device::STATISTICS.len()],
    /// Requests of vmm that are to be answered: whether each changed the configuration space.
    answers: Vec<bool>,
    begun: Instant,
    /// What vmm heard last, and when; and whether there is something new.
    told: Option<(Instant, MemoryReport)>,
    news: bool,
    /// What the next process must know.
    kept: Option<Kept>,
}

/// The words that are kept: the configuration space; and not 0 where the driver has given pages, whose bitmap follows behind the
/// words that every device has.
const CONFIG: u64 = 0;
const GAVE: u64 = 1;

/// What a successor needs to go on, beside its rings'.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// What the driver accepted.
    pub features: u64,
    /// The configuration space.
    pub config: Config,
    /// What the guest gave.
    pub pages: Pages,
}

/// A queue of page numbers.
#[derive(Default)]
struct Line {
    chain: Chain,
    /// The chain is not finished.
    busy: bool,
}

/// What a queue is for, as the driver's features place it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Numbers(usize),
    Statistics,
    FreePages,
}

impl Balloon {
    /// An empty balloon of a guest with so much memory.
    pub fn new(memory: MemorySize) -> Self {
        Self {
            memory,
            state: State::default(),
            lines: [Line::default(), Line::default()],
            chain: Chain::default(),
            held: None,
            poll: None,
            statistics: [None; proto::device::STATISTICS.len()],
            answers: Vec::new(),
            begun: Instant::now(),
            told: None,
            news: false,
            kept: None,
        }
    }

    /// Goes on from what the process before it kept, and keeps what the next one must know.
    pub fn keeping(mut self, kept: Kept) -> Self {
        self.state.config = Config::of(kept.word(CONFIG));
        self.kept = Some(kept);
        self
    }

    /// The pages of this memory, those that a process before this one was given among them.
    fn begin(&mut self, memory: &GuestMemory) {
        self.state.pages = Pages::of(memory);
        if let Some(kept) = self.kept.as_ref().filter(|kept| kept.word(GAVE) != 0) {
            self.state.pages.load(|nth| kept.word(WORDS.saturating_add(nth)));
            self.news = true;
        }
    }

    fn keep(&mut self, number: u32) {
        let Some(kept) = &self.kept else { return };
        if let Some((nth, word)) = self.state.pages.word(number) {
            kept.keep(GAVE, 1);
            kept.keep(WORDS.saturating_add(nth), word);
        }
    }

    /// What a successor needs to go on. Nothing is under way once the queues have stopped.
    pub fn save(&self) -> State {
        self.state.clone()
    }

    /// Goes on from a predecessor's state, before the first queue starts.
    pub fn restore(&mut self, state: State) {
        self.state = state;
    }

    fn role(&self, queue: usize) -> Option<Role> {
        let has = |feature| accepted(self.state.features, feature);
        let of_statistics = has(VIRTIO_BALLOON_F_STATS_VQ).then_some(Role::Statistics);
        let of_free_pages = has(VIRTIO_BALLOON_F_PAGE_REPORTING).then_some(Role::FreePages);
        match queue {
            INFLATE | DEFLATE => Some(Role::Numbers(queue)),
            _ => of_statistics.into_iter().chain(of_free_pages).nth(queue.saturating_sub(2)),
        }
    }

    fn numbers(&mut self, queue: usize, on: &mut Active<'_>) -> Result<Progress, RingFault> {
        let Some(mut line) = self.lines.get_mut(queue).map(std::mem::take) else { return Ok(Progress::Idle) };
        let result = self.read_numbers(queue == INFLATE, &mut line, on);
        self.lines.get_mut(queue).into_iter().for_each(|place| *place = std::mem::take(&mut line));
        on.notify()?;
        result
    }

    fn read_numbers(&mut self, give: bool, line: &mut Line, on: &mut Active<'_>) -> Result<Progress, RingFault> {
        let mut steps = MAX_STEPS;
        on.ring.disable_kicks(on.memory)?;
        while steps > 0 {
            if !line.busy {
                if !on.ring.pop_or_wait(on.memory, &mut line.chain)? {
                    return Ok(Progress::Idle);
                }
                if line.chain.writable_bytes() > 0 {
                    return Err(RingFault::Direction); // 5.5.6: the driver only writes
                }
                line.busy = true;
            }
            let left = usize::try_from(line.chain.readable_bytes()).unwrap_or(usize::MAX) / NUMBER;
            let count = left.min(steps).min(AT_ONCE);
            if count == 0 {
                on.ring.push_used(on.memory, &[(line.chain.head, 0)])?;
                line.busy = false;
            } else {
                let mut bytes = [0; AT_ONCE * NUMBER];
                let bytes = bytes.get_mut(..count.saturating_mul(NUMBER)).unwrap_or(&mut []);
                line.chain.take_front(on.memory, bytes)?;
                request::numbers(bytes).for_each(|number| self.page(give, number, on.memory));
            }
            steps = steps.saturating_sub(count.max(1));
        }
        Ok(Progress::More)
    }

    /// A number outside the guest's memory is ignored: its driver has counted wrong.
    fn page(&mut self, give: bool, number: u32, memory: &GuestMemory) {
        self.news = true;
        if !give {
            self.state.pages.take(number);
            return self.keep(number);
        }
        // Who does not tell before it uses a page again would lose what it wrote meanwhile.
        let tells = accepted(self.state.features, VIRTIO_BALLOON_F_MUST_TELL_HOST);
        match self.state.pages.give(number) {
            Given::Whole(run) if tells => punch(memory, address(number), run),
            Given::Whole(_) | Given::Kept | Given::Outside => {}
        }
        self.keep(number); // after the hole: a next process reads the chain again, and makes it
    }

    fn free_pages(&mut self, on: &mut Active<'_>) -> Result<Progress, RingFault> {
        on.ring.disable_kicks(on.memory)?;
        for _ in 0..MAX_REPORTS {
            if !on.ring.pop_or_wait(on.memory, &mut self.chain)? {
                on.notify()?;
                return Ok(Progress::Idle);
            }
            if self.chain.readable_bytes() > 0 {
                return Err(RingFault::Direction); // 5.5.6.7: the device may write
            }
            for extent in &self.chain.writable {
                if let Some(run) = self.state.pages.blocks(*extent) {
                    punch(on.memory, extent.addr, run);
                }
            }
            on.ring.push_used(on.memory, &[(self.chain.head, 0)])?;
        }
        on.notify()?;
        Ok(Progress::More)
    }

    /// The buffer stays here until new statistics are due (virtio 1.2, 5.5.6.3).
    fn read_statistics(&mut self, on: &mut Active<'_>) -> Result<Progress, RingFault> {
        for _ in 0..on.ring.size() {
            if !on.ring.pop_or_wait(on.memory, &mut self.chain)? {
                return Ok(Progress::Idle);
            }
            if self.chain.writable_bytes() > 0 {
                return Err(RingFault::Direction);
            }
            let mut bytes = [0; MAX_STATISTICS];
            let count = usize::try_from(self.chain.readable_bytes()).unwrap_or(usize::MAX).min(MAX_STATISTICS);
            let bytes = bytes.get_mut(..count).unwrap_or(&mut []);
            self.chain.take_front(on.memory, bytes)?;
            (self.statistics, self.news) = (request::statistics(bytes), true);
            self.poll = self.poll.or_else(|| Instant::now().checked_add(POLL_EVERY));
            // A driver that gives a second one has the first back at once.
            if let Some(before) = self.held.replace(self.chain.head) {
                on.ring.push_used(on.memory, &[(before, 0)])?;
                on.notify()?;
            }
        }
        Ok(Progress::More)
    }

    fn report(&self) -> MemoryReport {
        MemoryReport { taken: self.state.pages.count().saturating_mul(PAGE), statistics: self.statistics }
    }

    fn report_due(&self) -> Option<Instant> {
        let (true, told) = (self.news, &self.told) else { return None };
        told.as_ref().map_or(Some(self.begun), |(when, _)| when.checked_add(REPORT_EVERY))
    }
}

/// A hole in the file that holds an address; what the guest reads there next is zero. A file that takes none keeps the pages.
fn punch(memory: &GuestMemory, holds: GuestAddress, run: Range<u64>) {
    let Some(file) = memory.find_region(holds).and_then(GuestMemoryRegion::file_offset) else { return };
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    let len = run.end.saturating_sub(run.start);
    if let Err(error) = rustix::io::retry_on_intr(|| rustix::fs::fallocate(file.file(), flags, run.start, len)) {
        sys::guest_log!(Warn, "guest memory at {:#x} can't be given back: {error}", run.start);
    }
}

impl Device for Balloon {
    fn queues(&self) -> usize {
        4
    }

    fn features(&self) -> u64 {
        FEATURES
    }

    fn config(&self) -> &[u8] {
        self.state.config.as_bytes()
    }

    fn accept(&mut self, features: u64) {
        self.state.features = features;
    }

    fn kicked(&mut self, queue: usize, on: &mut Active<'_>) -> Result<Progress, RingFault> {
        if !self.state.pages.are_of(on.memory) {
            self.begin(on.memory);
        }
        match self.role(queue) {
            Some(Role::Numbers(queue)) => self.numbers(queue, on),
            Some(Role::Statistics) => self.read_statistics(on),
            Some(Role::FreePages) => self.free_pages(on),
            None => Ok(Progress::Idle),
        }
    }

    fn source(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        None
    }

    fn source_queue(&self) -> usize {
        2
    }

    /// Time for new statistics: the driver gets its buffer back.
    fn ready(&mut self, on: Option<&mut Active<'_>>) -> Result<Progress, RingFault> {
        if self.poll.take_if(|at| *at <= Instant::now()).is_some() {
            if let (Some(on), Some(head)) = (on, self.held.take()) {
                on.ring.push_used(on.memory, &[(head, 0)])?;
                on.notify()?;
            }
        }
        Ok(Progress::Idle)
    }

    fn deadline(&self) -> Option<Instant> {
        [self.poll, self.report_due()].into_iter().flatten().min()
    }

    fn stop(&mut self, queue: usize, on: Option<&mut Active<'_>>) {
        let unfinished = match self.role(queue) {
            Some(Role::Numbers(queue)) => self.lines.get_mut(queue).is_some_and(|line| std::mem::take(&mut line.busy)),
            Some(Role::Statistics) => {
                self.poll = None;
                self.held.take().is_some()
            }
            Some(Role::FreePages) | None => false,
        };
        if let (Some(on), true) = (on, unfinished) {
            on.ring.put_back(1);
        }
    }

    /// A driver that begins anew has given nothing.
    fn reset(&mut self) {
        (self.state.pages, self.news) = (Pages::default(), true);
        self.statistics = [None; proto::device::STATISTICS.len()];
        if let Some(kept) = self.kept.as_ref().filter(|kept| kept.word(GAVE) != 0) {
            (WORDS..kept.words()).for_each(|nth| kept.keep(nth, 0));
            kept.keep(GAVE, 0);
        }
    }

    fn asked(&mut self, ask: Ask, _: Vec<OwnedFd>) -> bool {
        let left = match ask {
            Ask::Memory(left) => left,
            Ask::Eject { .. } | Ask::Insert { .. } => return false,
        };
        let pages = self.memory.bytes().saturating_sub(left.bytes()) / PAGE;
        let wanted = u32::try_from(pages).unwrap_or(u32::MAX);
        self.answers.push(self.state.config.wanted != wanted);
        self.state.config = Config::new(wanted, u32::try_from(self.state.pages.count()).unwrap_or(u32::MAX));
        self.kept.iter().for_each(|kept| kept.keep(CONFIG, self.state.config.word()));
        true
    }

    fn news(&mut self) -> Option<ToVmm> {
        if let Some(changed) = self.answers.pop() {
            return Some(ToVmm::Answered { changed, result: Ok(()) });
        }
        let now = Instant::now();
        self.report_due().filter(|due| *due <= now)?;
        self.news = false;
        let report = self.report();
        let told = self.told.replace((now, report.clone()));
        told.is_none_or(|(_, before)| before != report).then_some(ToVmm::Report(Report::Memory(report)))
    }

    fn finish(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn size(mib: i64) -> MemorySize {
        MemorySize::from_bytes(mib << 20).unwrap()
    }

    fn memory() -> GuestMemory {
        GuestMemory::from_ranges(&[(GuestAddress(0), 4 << 20)]).unwrap()
    }

    #[test]
    fn what_is_asked_is_told_to_the_guest_by_the_configuration_space_and_answered_once() {
        let mut balloon = Balloon::new(size(512));
        for (left, pages, changed) in [(512, 0, false), (128, 384 * 256, true), (128, 384 * 256, false), (512, 0, true)]
        {
            assert!(balloon.asked(Ask::Memory(size(left)), vec![]));
            assert_eq!(balloon.config(), Config::new(pages, 0).as_bytes());
            assert_eq!((balloon.news(), balloon.news()), (Some(ToVmm::Answered { changed, result: Ok(()) }), None));
        }
    }

    #[test]
    fn a_report_is_made_when_there_is_news_and_not_twice_within_its_time() {
        let mut balloon = Balloon::new(size(512));
        assert_eq!((balloon.news(), balloon.deadline()), (None, None));
        balloon.state.pages = Pages::of(&memory());
        balloon.page(true, 7, &memory());
        let taken = |taken| Some(ToVmm::Report(Report::Memory(MemoryReport { taken, statistics: [None; 10] })));
        assert_eq!((balloon.news(), balloon.news()), (taken(4096), None));
        balloon.page(true, 8, &memory());
        assert_eq!(balloon.news(), None, "too soon");
        let due = balloon.deadline().expect("it is due later");
        assert!(due > Instant::now() && due <= Instant::now() + REPORT_EVERY);
        balloon.told = balloon.told.map(|(when, report)| (when - REPORT_EVERY, report));
        assert_eq!(balloon.news(), taken(8192));
        balloon.page(false, 8, &memory());
        balloon.page(true, 8, &memory());
        balloon.told = balloon.told.map(|(when, report)| (when - REPORT_EVERY, report));
        assert_eq!((balloon.news(), balloon.deadline()), (None, None), "nothing is new");
    }

    #[test]
    fn the_configuration_space_counts_what_was_given_when_it_changes() {
        let mut balloon = Balloon::new(size(4));
        balloon.state.pages = Pages::of(&memory());
        (0..10).for_each(|number| balloon.page(true, number, &memory()));
        balloon.asked(Ask::Memory(size(2)), vec![]);
        assert_eq!(balloon.config(), Config::new(512, 10).as_bytes());
        assert_eq!(u64::from(balloon.save().config.wanted.get()) * PAGE, 2 * MIB);
    }

    #[test]
    fn a_successor_goes_on_from_what_was_saved() {
        let mut first = Balloon::new(size(4));
        first.accept(FEATURES);
        first.state.pages = Pages::of(&memory());
        first.page(true, 3, &memory());
        let mut second = Balloon::new(size(4));
        second.restore(first.save());
        assert_eq!(second.save(), first.save());
        assert!(second.state.pages.are_of(&memory()), "and does not begin anew");
    }

    #[test]
    fn queues_are_where_the_drivers_features_place_them() {
        let mut balloon = Balloon::new(size(4));
        let (statistics, free) = (1 << VIRTIO_BALLOON_F_STATS_VQ, 1 << VIRTIO_BALLOON_F_PAGE_REPORTING);
        for (features, third, fourth) in [
            (0, None, None),
            (statistics, Some(Role::Statistics), None),
            (free, Some(Role::FreePages), None),
            (statistics | free, Some(Role::Statistics), Some(Role::FreePages)),
        ] {
            balloon.accept(features);
            let roles = [0, 1, 2, 3].map(|queue| balloon.role(queue));
            assert_eq!(roles, [Some(Role::Numbers(0)), Some(Role::Numbers(1)), third, fourth]);
        }
    }
}
