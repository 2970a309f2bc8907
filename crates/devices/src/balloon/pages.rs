//! Which pages of its memory a guest has given, and which runs of the memory's file that leaves unused. Pure.
//!
//! The host gives guests pages of 2 MiB where it can, and a hole smaller than that frees nothing or breaks one up: so what
//! is given page by page is collected until a block is whole.

use std::ops::Range;

use sys::guest_io::{Extent, GuestMemory};
use vm_memory::{Address, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

/// A page of the balloon (virtio 1.2, 5.5.6: always 4096 bytes).
pub const PAGE: u64 = 4096;
/// What is freed at once: a huge page of the host.
pub const BLOCK: u64 = 2 << 20;
/// Words of the bitmap for a block.
const WORDS: usize = (BLOCK / PAGE / 64) as usize;

/// The pages of a guest's memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pages {
    regions: Vec<Region>,
    count: u64,
}

/// One range of guest memory, and the run of its file that it is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Region {
    start: u64,
    len: u64,
    /// Where it begins in its file.
    offset: u64,
    /// The block of the file that it begins in.
    first: u64,
    /// A bit for each page of the file from that block on.
    given: Vec<u64>,
}

/// What came of a page that was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Given {
    /// It is no page of the guest's memory.
    Outside,
    /// Its block is not whole yet, or was before.
    Kept,
    /// With it this run of the file is unused.
    Whole(Range<u64>),
}

impl Pages {
    /// All pages of a memory, none given.
    pub fn of(memory: &GuestMemory) -> Self {
        let region = |region: &<GuestMemory as GuestMemoryBackend>::R| {
            let offset = region.file_offset().map_or(0, |at| at.start());
            Region::new(region.start_addr().raw_value(), region.len(), offset)
        };
        Self { regions: memory.iter().map(region).collect(), count: 0 }
    }

    /// Whether this is the memory that they are of.
    pub fn are_of(&self, memory: &GuestMemory) -> bool {
        let places = memory.iter().map(|region| (region.start_addr().raw_value(), region.len()));
        self.regions.iter().map(|region| (region.start, region.len)).eq(places)
    }

    /// How many are given.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The page of this number (guest-physical address by [`PAGE`]) is given.
    pub fn give(&mut self, number: u32) -> Given {
        let Some((region, at)) = self.find(number) else { return Given::Outside };
        if !region.set(at, true) {
            return Given::Kept;
        }
        let block = region.block(at);
        let whole = region.whole(at).then_some(block);
        self.count = self.count.saturating_add(1);
        whole.map_or(Given::Kept, Given::Whole)
    }

    /// It is the guest's again.
    pub fn take(&mut self, number: u32) {
        let Some((region, at)) = self.find(number) else { return };
        if region.set(at, false) {
            self.count = self.count.saturating_sub(1);
        }
    }

    /// The run of the file that an extent's whole blocks are; none where it has none, or is not in one region.
    pub fn blocks(&self, extent: Extent) -> Option<Range<u64>> {
        let (start, len) = (extent.addr.raw_value(), u64::from(extent.len));
        let region = self.regions.iter().find(|region| region.holds(start, len))?;
        let from = region.in_file(start);
        let (first, end) = (from.checked_next_multiple_of(BLOCK)?, down(from.checked_add(len)?, BLOCK));
        (first < end).then_some(first..end)
    }

    /// The word of the bitmap that has this page's bit, and which of all it is; none where it is no page of the guest.
    pub fn word(&mut self, number: u32) -> Option<(u64, u64)> {
        let (region, at) = self.find(number)?;
        let (nth, _) = region.place(at);
        let word = *region.given.get(nth)?;
        let wanted = (region.start, region.len);
        let before = self.regions.iter().take_while(|region| (region.start, region.len) != wanted);
        let before = before.fold(0usize, |sum, region| sum.saturating_add(region.given.len()));
        Some((u64::try_from(before.saturating_add(nth)).ok()?, word))
    }

    /// Takes the words of a bitmap over, as [`word`](Self::word) numbers them. Bits of what is no page of the guest do not count.
    pub fn load(&mut self, words: impl Fn(u64) -> u64) {
        let (mut nth, mut count) = (0u64, 0u64);
        for region in &mut self.regions {
            let pages = region.pages();
            for (index, word) in (0u64..).zip(&mut region.given) {
                *word = words(nth) & mask(index, &pages);
                count = count.saturating_add(word.count_ones().into());
                nth = nth.saturating_add(1);
            }
        }
        self.count = count;
    }

    fn find(&mut self, number: u32) -> Option<(&mut Region, u64)> {
        let start = u64::from(number).checked_mul(PAGE)?;
        let region = self.regions.iter_mut().find(|region| region.holds(start, PAGE))?;
        let at = region.in_file(start);
        Some((region, at))
    }
}

impl Region {
    fn new(start: u64, len: u64, offset: u64) -> Self {
        let first = down(offset, BLOCK);
        let blocks = offset.saturating_add(len).saturating_sub(first).div_ceil(BLOCK);
        let words = usize::try_from(blocks).unwrap_or(0).saturating_mul(WORDS);
        Self { start, len, offset, first, given: vec![0; words] }
    }

    fn holds(&self, start: u64, len: u64) -> bool {
        let inside = start.checked_sub(self.start).and_then(|from| from.checked_add(len));
        inside.is_some_and(|end| end <= self.len)
    }

    fn in_file(&self, address: u64) -> u64 {
        address.saturating_sub(self.start).saturating_add(self.offset)
    }

    /// Which bits are of whole pages of it.
    fn pages(&self) -> Range<u64> {
        let from = |at: u64| at.saturating_sub(self.first);
        from(self.offset).div_ceil(PAGE)..from(self.offset.saturating_add(self.len)) / PAGE
    }

    /// The word and the bit of a place in the file.
    fn place(&self, at: u64) -> (usize, u64) {
        let page = at.saturating_sub(self.first) / PAGE;
        (usize::try_from(page / 64).unwrap_or(usize::MAX), 1 << (page % 64))
    }

    /// Whether that changed anything.
    fn set(&mut self, at: u64, given: bool) -> bool {
        let (word, bit) = self.place(at);
        let Some(word) = self.given.get_mut(word) else { return false };
        let before = std::mem::replace(word, if given { *word | bit } else { *word & !bit });
        before != *word
    }

    /// The block of the file around a place.
    fn block(&self, at: u64) -> Range<u64> {
        let start = down(at, BLOCK);
        start..start.saturating_add(BLOCK)
    }

    fn whole(&self, at: u64) -> bool {
        let (word, _) = self.place(down(at, BLOCK));
        let words = self.given.get(word..word.saturating_add(WORDS));
        words.is_some_and(|words| words.iter().all(|word| *word == u64::MAX))
    }
}

/// The bits of a word of the bitmap that are in a range of bits.
fn mask(index: u64, bits: &Range<u64>) -> u64 {
    let first = index.saturating_mul(64);
    let below = |end: u64| {
        let count = u32::try_from(end.saturating_sub(first).min(64)).unwrap_or(64);
        1u64.checked_shl(count).map_or(u64::MAX, |bit| bit.saturating_sub(1))
    };
    below(bits.end) & !below(bits.start)
}

fn down(value: u64, unit: u64) -> u64 {
    value.saturating_sub(value.checked_rem(unit).unwrap_or(0))
}

/// The address of a page.
pub fn address(number: u32) -> GuestAddress {
    GuestAddress(u64::from(number).saturating_mul(PAGE))
}

#[cfg(test)]
mod tests {
    use super::*;

    const IN_BLOCK: u32 = (BLOCK / PAGE) as u32;

    /// 4 MiB at 0, 4 MiB at 1 GiB, which lie in the file from `offset` on.
    fn pages(offset: u64) -> Pages {
        let regions = vec![Region::new(0, 4 << 20, offset), Region::new(1 << 30, 4 << 20, offset + (4 << 20))];
        Pages { regions, count: 0 }
    }

    fn give_all(pages: &mut Pages, numbers: Range<u32>) -> Vec<Range<u64>> {
        let whole = |number| match pages.give(number) {
            Given::Whole(run) => Some(run),
            Given::Kept | Given::Outside => None,
        };
        numbers.filter_map(whole).collect()
    }

    #[test]
    fn a_block_is_whole_with_its_last_page_in_any_order_and_only_then() {
        let mut pages = pages(0);
        assert_eq!(give_all(&mut pages, 1..IN_BLOCK), []);
        assert_eq!(pages.give(0), Given::Whole(0..BLOCK));
        assert_eq!((pages.give(0), pages.count()), (Given::Kept, 512), "a page given twice counts once");
        let high = (1u32 << 18)..(1 << 18) + 2 * IN_BLOCK;
        assert_eq!(give_all(&mut pages, high), [(4 << 20)..(6 << 20), (6 << 20)..(8 << 20)]);
        assert_eq!(pages.count(), 3 * 512);
    }

    #[test]
    fn a_page_taken_back_makes_its_block_whole_again_when_it_returns() {
        let mut pages = pages(0);
        give_all(&mut pages, 0..IN_BLOCK);
        pages.take(7);
        pages.take(7);
        pages.take(IN_BLOCK); // never given
        assert_eq!(pages.count(), 511);
        assert_eq!(pages.give(7), Given::Whole(0..BLOCK));
    }

    #[test]
    fn a_bitmap_is_taken_over_but_for_what_is_no_page() {
        for offset in [0, 4096, 1 << 20, (2 << 20) - 4096] {
            let mut first = pages(offset);
            let given = [0, 1, 63, 64, 511, 512, 1023, 1 << 18, (1 << 18) + 1023];
            let mut words = std::collections::BTreeMap::new();
            for number in given {
                first.give(number);
                words.extend(first.word(number));
            }
            let mut second = pages(offset);
            second.load(|nth| words.get(&nth).copied().unwrap_or(0));
            assert_eq!(second, first, "{offset:#x}");
            second.load(|_| u64::MAX);
            assert_eq!(second.count(), 2048, "{offset:#x}: bits beside its pages do not count");
            assert_eq!((second.word(1024), second.word(u32::MAX)), (None, None));
        }
    }

    #[test]
    fn what_is_no_page_of_the_guest_is_outside() {
        let mut pages = pages(0);
        for number in [2 * IN_BLOCK, (1 << 18) - 1, (1 << 18) + 2 * IN_BLOCK, u32::MAX] {
            assert_eq!(pages.give(number), Given::Outside, "{number:#x}");
            pages.take(number);
        }
        assert_eq!(pages.count(), 0);
    }

    #[test]
    fn blocks_are_those_of_the_file() {
        // The memory begins 1 MiB into a block of the file: the blocks at both of its ends are never whole.
        let mut pages = pages(1 << 20);
        assert_eq!(give_all(&mut pages, 0..2 * IN_BLOCK), std::slice::from_ref(&(BLOCK..2 * BLOCK)));
        assert_eq!(pages.count(), 1024);
    }

    #[test]
    fn an_extent_has_the_whole_blocks_inside_it() {
        let pages = pages(0);
        let blocks = |addr, len| pages.blocks(Extent { addr: GuestAddress(addr), len });
        assert_eq!(blocks(0, 4 << 20), Some(0..4 << 20));
        assert_eq!(blocks(1, (4 << 20) - 1), Some(2 << 20..4 << 20));
        assert_eq!(blocks(1 << 30, (2 << 20) + 1), Some(4 << 20..6 << 20));
        assert_eq!(blocks(1, (4 << 20) - 2), None);
        assert_eq!(blocks(0, 0), None);
        for (addr, len) in [(0, (4 << 20) + 1), (4 << 20, 2 << 20), ((1 << 30) - 1, 2 << 20), (u64::MAX - 9, u32::MAX)]
        {
            assert_eq!(blocks(addr, len), None, "{addr:#x}+{len:#x} is not in one range");
        }
    }
}
