//! Sizes that follow from an image's cluster bits, refcount width and kind of L2 entry.

/// The smallest cluster is 512 bytes (qcow2.rst, "Header", cluster_bits).
pub const MIN_CLUSTER_BITS: u8 = 9;
/// The largest cluster is 2 MiB, as in QEMU (qcow2.rst, "Header", cluster_bits): buffers of one cluster stay small.
pub const MAX_CLUSTER_BITS: u8 = 21;
/// The widest refcount has 64 bits (qcow2.rst, "Header", refcount_order).
pub const MAX_REFCOUNT_ORDER: u8 = 6;
/// The smallest cluster with extended L2 entries: 16 KiB, so that a subcluster has a sector (qcow2.rst, "Header").
pub(super) const MIN_EXTENDED_BITS: u8 = 14;
/// Subclusters of a cluster with extended L2 entries (qcow2.rst, "Extended L2 Entries").
pub const SUBCLUSTERS: u8 = 32;

/// What an image's layout follows from. Made only of values in range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    cluster_bits: u8,
    refcount_order: u8,
    extended: bool,
}

/// Where a byte of the disk has its entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Index in the L1 table.
    pub l1: u64,
    /// Index in the L2 table.
    pub l2: u64,
    /// Bytes into the cluster.
    pub within: u64,
}

impl Geometry {
    /// A layout; none where a value is out of range.
    pub fn new(cluster_bits: u8, refcount_order: u8, extended: bool) -> Option<Self> {
        let least = if extended { MIN_EXTENDED_BITS } else { MIN_CLUSTER_BITS };
        let fits = (least..=MAX_CLUSTER_BITS).contains(&cluster_bits) && refcount_order <= MAX_REFCOUNT_ORDER;
        fits.then_some(Self { cluster_bits, refcount_order, extended })
    }

    /// The base-2 logarithm of a cluster's bytes: 9 to 21.
    pub fn cluster_bits(self) -> u8 {
        self.cluster_bits
    }

    /// Bytes of a cluster.
    pub fn cluster_size(self) -> u64 {
        power(self.cluster_bits)
    }

    /// Bytes of a cluster, for buffers.
    pub fn cluster_len(self) -> usize {
        1usize.wrapping_shl(u32::from(self.cluster_bits))
    }

    /// The base-2 logarithm of a refcount's bits: 0 to 6.
    pub fn refcount_order(self) -> u8 {
        self.refcount_order
    }

    /// The largest count that fits.
    pub fn max_refcount(self) -> u64 {
        let bits = 1u32.wrapping_shl(u32::from(self.refcount_order));
        u64::MAX.wrapping_shr(64u32.saturating_sub(bits))
    }

    /// Whether L2 entries have a bitmap of subclusters behind them.
    pub fn is_extended(self) -> bool {
        self.extended
    }

    /// Bytes of an L2 entry: 8 or 16.
    pub fn l2_entry_size(self) -> u64 {
        if self.extended { 16 } else { 8 }
    }

    /// The base-2 logarithm of an L2 table's entries.
    fn l2_bits(self) -> u8 {
        self.cluster_bits.saturating_sub(if self.extended { 4 } else { 3 })
    }

    /// Entries of an L2 table.
    pub fn l2_entries(self) -> u64 {
        power(self.l2_bits())
    }

    /// Bytes of the disk that one L2 table describes.
    pub fn l2_covers(self) -> u64 {
        power(self.l2_bits().saturating_add(self.cluster_bits))
    }

    /// Bytes of a subcluster.
    pub fn subcluster_size(self) -> u64 {
        power(self.cluster_bits.saturating_sub(5))
    }

    /// Refcounts of one block.
    pub fn block_entries(self) -> u64 {
        power(self.block_bits())
    }

    /// The base-2 logarithm of a block's refcounts.
    pub(super) fn block_bits(self) -> u8 {
        self.cluster_bits.saturating_add(3).saturating_sub(self.refcount_order)
    }

    /// L1 entries that a disk of `size` bytes needs.
    pub fn l1_needed(self, size: u64) -> u64 {
        let bits = self.l2_bits().saturating_add(self.cluster_bits);
        shift_up(size, bits)
    }

    /// Clusters that so many bytes touch.
    pub fn clusters(self, bytes: u64) -> u64 {
        shift_up(bytes, self.cluster_bits)
    }

    /// The cluster of a byte.
    pub fn cluster_of(self, at: u64) -> u64 {
        at.wrapping_shr(u32::from(self.cluster_bits))
    }

    /// The first byte of a cluster; none beyond 2^64.
    pub fn start_of(self, cluster: u64) -> Option<u64> {
        cluster.checked_mul(self.cluster_size())
    }

    /// Bytes into its cluster.
    pub fn within(self, at: u64) -> u64 {
        at & self.cluster_size().wrapping_sub(1)
    }

    /// Whether a cluster begins here.
    pub fn is_aligned(self, at: u64) -> bool {
        self.within(at) == 0
    }

    /// Up to the next cluster's begin; none beyond 2^64.
    pub fn round_up(self, at: u64) -> Option<u64> {
        self.start_of(self.clusters(at))
    }

    /// Where a byte of the disk has its entry.
    pub fn place(self, offset: u64) -> Place {
        let cluster = self.cluster_of(offset);
        Place {
            l1: cluster.wrapping_shr(u32::from(self.l2_bits())),
            l2: cluster & self.l2_entries().wrapping_sub(1),
            within: self.within(offset),
        }
    }
}

/// 2 to the power of `bits`, which are below 64.
fn power(bits: u8) -> u64 {
    1u64.wrapping_shl(u32::from(bits))
}

/// Divides by a power of 2, upwards.
fn shift_up(value: u64, bits: u8) -> u64 {
    let whole = value.wrapping_shr(u32::from(bits));
    if value & power(bits).wrapping_sub(1) == 0 { whole } else { whole.saturating_add(1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All layouts there are: enumerated whole.
    fn all() -> impl Iterator<Item = Geometry> {
        let kinds = [false, true].into_iter();
        kinds.flat_map(|extended| {
            (0..=64).flat_map(move |bits| (0..=64).filter_map(move |order| Geometry::new(bits, order, extended)))
        })
    }

    #[test]
    fn there_are_as_many_layouts_as_the_format_has() {
        assert_eq!(all().count(), 13 * 7 + 8 * 7);
        assert_eq!(Geometry::new(8, 4, false), None);
        assert_eq!(Geometry::new(22, 4, false), None);
        assert_eq!(Geometry::new(255, 4, false), None);
        assert_eq!(Geometry::new(16, 7, false), None);
        assert_eq!(Geometry::new(13, 4, true), None);
    }

    #[test]
    fn sizes_multiply_to_what_they_divide() {
        for geometry in all() {
            let size = geometry.cluster_size();
            assert_eq!(u64::try_from(geometry.cluster_len()).unwrap(), size);
            assert_eq!(geometry.l2_entries() * geometry.l2_entry_size(), size, "{geometry:?}");
            assert_eq!(geometry.l2_covers(), geometry.l2_entries() * size, "{geometry:?}");
            assert_eq!(geometry.block_entries() * (1 << geometry.refcount_order()), size * 8, "{geometry:?}");
            assert_eq!(geometry.subcluster_size() * u64::from(SUBCLUSTERS), size);
            let bits = 1u32 << geometry.refcount_order();
            assert_eq!(u128::from(geometry.max_refcount()), (1u128 << bits) - 1);
        }
    }

    #[test]
    fn a_place_and_its_parts_agree() {
        for geometry in all() {
            for offset in
                [0, 1, 511, 512, geometry.cluster_size(), geometry.l2_covers() - 1, geometry.l2_covers(), 1 << 50]
            {
                let Place { l1, l2, within } = geometry.place(offset);
                assert_eq!(l1 * geometry.l2_covers() + l2 * geometry.cluster_size() + within, offset);
                assert!(l1 < geometry.l1_needed(offset + 1), "{geometry:?} {offset}");
                assert_eq!(geometry.l1_needed(l1 * geometry.l2_covers()), l1);
                assert_eq!(geometry.within(offset), within);
            }
        }
    }

    #[test]
    fn rounding_ends_at_the_last_cluster() {
        let geometry = Geometry::new(16, 4, false).unwrap();
        assert_eq!(geometry.round_up(1), Some(65536));
        assert_eq!(geometry.round_up(65536), Some(65536));
        assert_eq!(geometry.round_up(u64::MAX), None);
        assert_eq!(geometry.clusters(u64::MAX), 1 << 48);
    }
}
