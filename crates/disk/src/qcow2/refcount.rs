//! Refcounts: how often each cluster of a file is referred to. A table of offsets of blocks, each a cluster of counts of
//! 1 to 64 bits (qcow2.rst, "Host cluster management").

use super::{BadEntry, Geometry};

/// The offset of the refcount block in a table's entry; none where there is no block and all its counts are 0.
pub fn table_entry(entry: u64, geometry: Geometry) -> Result<Option<u64>, BadEntry> {
    // Bits 0 to 8 are reserved; an offset that is not a cluster's has one of the others below the cluster bits.
    if entry & 0x1ff != 0 {
        return Err(BadEntry::Reserved);
    }
    if !geometry.is_aligned(entry) {
        return Err(BadEntry::Unaligned);
    }
    Ok((entry != 0).then_some(entry))
}

/// Where the count of a cluster of the file stands: index of the block in the table, index in the block.
pub fn block_of(cluster: u64, geometry: Geometry) -> (u64, u64) {
    let bits = u32::from(geometry.block_bits());
    (cluster.wrapping_shr(bits), cluster & geometry.block_entries().wrapping_sub(1))
}

/// The bytes of a refcount block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefcountBlock<B> {
    bytes: B,
    geometry: Geometry,
}

impl<B: AsRef<[u8]>> RefcountBlock<B> {
    /// One over a cluster's bytes; counts beyond their end are 0.
    pub fn new(bytes: B, geometry: Geometry) -> Self {
        Self { bytes, geometry }
    }

    /// The bytes, as they stand in the file.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.as_ref()
    }

    /// The count at an index.
    pub fn get(&self, index: u64) -> u64 {
        let place = Width::of(index, self.geometry);
        let Some(bytes) = self.bytes.as_ref().get(place.range()) else { return 0 };
        let whole = bytes.iter().fold(0, |count: u64, byte| count.wrapping_shl(8) | u64::from(*byte));
        whole.wrapping_shr(place.shift) & self.geometry.max_refcount()
    }
}

impl<B: AsRef<[u8]> + AsMut<[u8]>> RefcountBlock<B> {
    /// Sets the count at an index. Whether it fitted: it stays as it was otherwise.
    #[must_use]
    pub fn set(&mut self, index: u64, count: u64) -> bool {
        let place = Width::of(index, self.geometry);
        let max = self.geometry.max_refcount();
        if count > max {
            return false;
        }
        let Some(bytes) = self.bytes.as_mut().get_mut(place.range()) else { return false };
        if let [byte] = bytes {
            // Counts of less than a byte begin at its lowest bit; an 8 bit one fills it.
            let mask = u8::try_from(max.wrapping_shl(place.shift) & 0xff).unwrap_or(0xff);
            let bits = u8::try_from(count.wrapping_shl(place.shift) & 0xff).unwrap_or(0);
            *byte = (*byte & !mask) | bits;
            return true;
        }
        let whole = count.to_be_bytes();
        let from = whole.len().saturating_sub(bytes.len());
        if let Some(low) = whole.get(from..) {
            bytes.copy_from_slice(low);
        }
        true
    }
}

/// Where a count stands in a block.
struct Width {
    /// Its first byte.
    at: usize,
    /// Its bytes: 1 to 8.
    len: usize,
    /// Its lowest bit in the byte, where it has less than one.
    shift: u32,
}

impl Width {
    fn of(index: u64, geometry: Geometry) -> Self {
        // An index beyond a block is beyond its bytes, whatever it becomes here.
        let bits = index.saturating_mul(1u64.wrapping_shl(u32::from(geometry.refcount_order())));
        let len = 1usize.wrapping_shl(u32::from(geometry.refcount_order().saturating_sub(3)));
        let shift = u32::try_from(bits & 7).unwrap_or(0);
        Self { at: usize::try_from(bits / 8).unwrap_or(usize::MAX), len, shift }
    }

    fn range(&self) -> std::ops::Range<usize> {
        self.at..self.at.saturating_add(self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn geometry(bits: u8, order: u8) -> Geometry {
        Geometry::new(bits, order, false).unwrap()
    }

    /// Refcount width x position, whole for a block of 512 bytes: setting one count sets that one alone.
    #[test]
    fn each_count_of_each_width_stands_alone() {
        for order in 0..=6 {
            let geometry = geometry(9, order);
            for index in 0..geometry.block_entries() {
                for count in [1, geometry.max_refcount()] {
                    let mut block = RefcountBlock::new(vec![0; 512], geometry);
                    assert!(block.set(index, count));
                    assert_eq!(block.get(index), count, "order {order} index {index}");
                    let bits: u32 = block.bytes().iter().map(|byte| byte.count_ones()).sum();
                    assert_eq!(bits, count.count_ones(), "order {order} index {index}");
                    assert!(block.set(index, 0));
                    assert!(block.bytes().iter().all(|byte| *byte == 0));
                }
            }
        }
    }

    /// A full block keeps all others as one count is set to 0: refcount width x cluster size x position, the positions
    /// of large clusters at both ends and every 1009th.
    #[test]
    fn neighbours_keep_their_counts() {
        for order in 0..=6 {
            for bits in [9, 12, 16, 21] {
                let geometry = geometry(bits, order);
                let mut block = RefcountBlock::new(vec![0xff; geometry.cluster_len()], geometry);
                let last = geometry.block_entries() - 1;
                for index in (0..=last).step_by(1009).chain([last]) {
                    assert!(block.set(index, 0));
                    assert_eq!(block.get(index), 0);
                    let neighbours = [index.checked_sub(1), Some(index + 1).filter(|next| *next <= last)];
                    for next in neighbours.into_iter().flatten() {
                        assert_eq!(block.get(next), geometry.max_refcount(), "{order} {bits} {index}");
                    }
                    assert!(block.set(index, geometry.max_refcount()));
                }
                assert!(block.bytes().iter().all(|byte| *byte == 0xff));
            }
        }
    }

    #[test]
    fn bytes_stand_as_the_specification_says() {
        let bytes = |order, counts: &[(u64, u64)]| {
            let mut block = RefcountBlock::new(vec![0; 512], geometry(9, order));
            assert!(counts.iter().all(|(index, count)| block.set(*index, *count)));
            block.bytes()[..8].to_vec()
        };
        assert_eq!(bytes(0, &[(0, 1), (9, 1)]), [1, 2, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes(1, &[(1, 3), (4, 2)]), [0x0c, 2, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes(2, &[(0, 5), (1, 10)]), [0xa5, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes(4, &[(1, 0x0102)]), [0, 0, 1, 2, 0, 0, 0, 0]);
        assert_eq!(bytes(6, &[(0, 0x0102_0304_0506_0708)]), [1, 2, 3, 4, 5, 6, 7, 8]);
    }

    #[test]
    fn what_does_not_fit_changes_nothing() {
        let mut block = RefcountBlock::new(vec![0; 512], geometry(9, 1));
        assert!(!block.set(0, 4));
        assert!(!block.set(2048, 1));
        assert!(!block.set(u64::MAX, 1));
        assert_eq!(block.get(u64::MAX), 0);
        assert!(block.bytes().iter().all(|byte| *byte == 0));
    }

    #[test]
    fn a_cluster_has_one_place() {
        for order in 0..=6 {
            let geometry = geometry(9, order);
            let entries = geometry.block_entries();
            for cluster in [0, 1, entries - 1, entries, 3 * entries + 7, u64::MAX] {
                let (block, index) = block_of(cluster, geometry);
                assert_eq!(u128::from(block) * u128::from(entries) + u128::from(index), u128::from(cluster));
            }
        }
    }

    #[test]
    fn a_table_entry_is_a_cluster_or_nothing() {
        let geometry = geometry(16, 4);
        assert_eq!(table_entry(0, geometry), Ok(None));
        assert_eq!(table_entry(0x30000, geometry), Ok(Some(0x30000)));
        assert_eq!(table_entry(0x30001, geometry), Err(BadEntry::Reserved));
        assert_eq!(table_entry(0x30200, geometry), Err(BadEntry::Unaligned));
    }
}
