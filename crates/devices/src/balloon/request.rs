//! What a driver writes into its buffers: page numbers, and statistics. Pure.

use proto::device::STATISTICS;

/// Bytes of a page's number (virtio 1.2, 5.5.6: le32).
pub const NUMBER: usize = 4;
/// Bytes of one statistic: le16 tag, le64 value (virtio 1.2, 5.5.6.3).
const STATISTIC: usize = 10;
/// Statistics that are read of one buffer. The specification has ten; what follows is dropped.
pub const MAX_STATISTICS: usize = 64 * STATISTIC;

/// Page numbers. Bytes left over at the end are dropped.
pub fn numbers(bytes: &[u8]) -> impl Iterator<Item = u32> + '_ {
    bytes.chunks_exact(NUMBER).filter_map(|number| Some(u32::from_le_bytes(number.try_into().ok()?)))
}

/// Statistics by tag. Of a tag that comes twice the last counts; those that have no name are dropped.
pub fn statistics(bytes: &[u8]) -> [Option<u64>; STATISTICS.len()] {
    let mut found = [None; STATISTICS.len()];
    for entry in bytes.chunks_exact(STATISTIC) {
        if let [a, b, value @ ..] = entry {
            let place = found.get_mut(usize::from(u16::from_le_bytes([*a, *b])));
            let value = value.try_into().map(u64::from_le_bytes).ok();
            place.into_iter().for_each(|place| *place = value);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_little_endian_and_a_rest_is_none() {
        let found: Vec<u32> = numbers(&[1, 0, 0, 0, 4, 3, 2, 1, 9, 9, 9]).collect();
        assert_eq!(found, [1, 0x0102_0304]);
        assert_eq!(numbers(&[]).count(), 0);
    }

    #[test]
    fn statistics_are_by_tag_the_last_counts_and_the_unknown_is_dropped() {
        let entry = |tag: u16, value: u64| [&tag.to_le_bytes()[..], &value.to_le_bytes()].concat();
        let bytes =
            [entry(4, 1), entry(9, u64::MAX), entry(10, 5), entry(u16::MAX, 6), entry(4, 2), vec![0; 9]].concat();
        let mut expected = [None; 10];
        (expected[4], expected[9]) = (Some(2), Some(u64::MAX));
        assert_eq!(statistics(&bytes), expected);
    }
}
