//! Entries of the L1 and L2 tables (qcow2.rst, "Cluster mapping" and "Extended L2 Entries"). A reserved bit that is set is
//! corruption: the specification says 0, and QEMU writes 0.

use super::geometry::SUBCLUSTERS;
use super::{Geometry, Version};

/// The cluster has a refcount of exactly 1 and may be written in place.
const COPIED: u64 = 1 << 63;
/// The cluster is compressed.
const COMPRESSED: u64 = 1 << 62;
/// The cluster reads as zeros.
const ZERO: u64 = 1;
/// Bits 9 to 55: a host offset.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;

/// What is wrong with an entry by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadEntry {
    /// A bit is set that the format keeps 0.
    #[error("reserved bits are set")]
    Reserved,
    /// The offset is not a cluster's.
    #[error("its offset is not a multiple of the cluster size")]
    Unaligned,
    /// It says that it may be written in place and names nothing.
    #[error("it is marked as used once and names no cluster")]
    CopiedNothing,
    /// A subcluster is allocated and zero at once, or allocated in no cluster.
    #[error("its subclusters contradict each other")]
    Subclusters,
}

/// An L1 table's entry: where an L2 table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct L1Entry {
    /// The L2 table's first byte in the file; never 0.
    pub at: u64,
    /// Whether its refcount is exactly 1: it may be written in place.
    pub copied: bool,
}

impl L1Entry {
    /// Reads an entry; none where there is no L2 table.
    pub fn of(entry: u64, geometry: Geometry) -> Result<Option<Self>, BadEntry> {
        let (at, copied) = (entry & OFFSET, entry & COPIED != 0);
        if entry & !(OFFSET | COPIED) != 0 {
            return Err(BadEntry::Reserved);
        }
        if !geometry.is_aligned(at) {
            return Err(BadEntry::Unaligned);
        }
        match (at, copied) {
            (0, false) => Ok(None),
            (0, true) => Err(BadEntry::CopiedNothing),
            (at, copied) => Ok(Some(Self { at, copied })),
        }
    }

    /// The entry, as it stands in the file.
    pub fn bits(self) -> u64 {
        (self.at & OFFSET) | if self.copied { COPIED } else { 0 }
    }
}

/// An L2 table's entry as it stands in the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct L2Entry {
    /// The first 64 bits.
    pub bits: u64,
    /// The subclusters' 64 bits; 0 without extended entries.
    pub bitmap: u64,
}

/// What a cluster of the disk is in one image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cluster {
    /// Not in this image: the base has it, else it is zero.
    Unallocated,
    /// Zero, whatever the base has. It may keep a cluster for later.
    Zero {
        /// The kept cluster's first byte, and whether its refcount is exactly 1.
        kept: Option<(u64, bool)>,
    },
    /// At this place of the file.
    Standard {
        /// Its first byte in the file; never 0.
        at: u64,
        /// Whether its refcount is exactly 1: it may be written in place.
        copied: bool,
    },
    /// Compressed.
    Compressed {
        /// The first byte of the data; anywhere.
        at: u64,
        /// Bytes to the end of its last sector, at most; the data may end before.
        len: u64,
    },
    /// Each of 32 parts for itself.
    Subclusters {
        /// The cluster's first byte in the file and whether its refcount is 1, where any part is allocated or it is kept.
        at: Option<(u64, bool)>,
        /// The parts.
        parts: Subclusters,
    },
}

/// The state of 32 subclusters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subclusters(u64);

/// What a subcluster is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subcluster {
    /// Not in this image.
    Unallocated,
    /// Zero.
    Zero,
    /// At its place of the cluster.
    Standard,
}

impl Subclusters {
    /// What a subcluster is: 0 to 31.
    pub fn get(self, index: u8) -> Subcluster {
        let bit = |from: u32| self.0.wrapping_shr(from.saturating_add(u32::from(index))) & 1 == 1;
        match (bit(0), bit(32)) {
            _ if index >= SUBCLUSTERS => Subcluster::Unallocated,
            (true, _) => Subcluster::Standard,
            (false, true) => Subcluster::Zero,
            (false, false) => Subcluster::Unallocated,
        }
    }
}

impl L2Entry {
    /// Reads an entry.
    pub fn cluster(self, geometry: Geometry, version: Version) -> Result<Cluster, BadEntry> {
        if self.bits & COMPRESSED != 0 {
            return self.compressed(geometry);
        }
        let (at, copied) = (self.bits & OFFSET, self.bits & COPIED != 0);
        // Bit 0 is a flag in version 3 without subclusters alone.
        let zero_flag = if version == Version::V3 && !geometry.is_extended() { ZERO } else { 0 };
        if self.bits & !(OFFSET | COPIED | zero_flag) != 0 {
            return Err(BadEntry::Reserved);
        }
        if !geometry.is_aligned(at) {
            return Err(BadEntry::Unaligned);
        }
        if at == 0 && copied {
            return Err(BadEntry::CopiedNothing);
        }
        let place = (at != 0).then_some((at, copied));
        if geometry.is_extended() {
            return self.subclusters(place);
        }
        Ok(match place {
            kept if self.bits & ZERO != 0 => Cluster::Zero { kept },
            None => Cluster::Unallocated,
            Some((at, copied)) => Cluster::Standard { at, copied },
        })
    }

    fn compressed(self, geometry: Geometry) -> Result<Cluster, BadEntry> {
        // x of the specification: where the number of sectors begins.
        let x = 70u32.saturating_sub(u32::from(geometry.cluster_bits()));
        let at = self.bits & 1u64.wrapping_shl(x).wrapping_sub(1);
        // Offsets have 56 bits whatever the field has; the flag of clusters used once is never set here.
        if self.bits & COPIED != 0 || at & !0x00ff_ffff_ffff_ffff != 0 || self.bitmap != 0 {
            return Err(BadEntry::Reserved);
        }
        let more = (self.bits & (COMPRESSED - 1)).wrapping_shr(x);
        let len = more.saturating_add(1).saturating_mul(512).saturating_sub(at & 511);
        Ok(Cluster::Compressed { at, len })
    }

    fn subclusters(self, at: Option<(u64, bool)>) -> Result<Cluster, BadEntry> {
        let (allocated, zero) = (self.bitmap & 0xffff_ffff, self.bitmap.wrapping_shr(32));
        if allocated & zero != 0 || (allocated != 0 && at.is_none()) {
            return Err(BadEntry::Subclusters);
        }
        Ok(match (at, self.bitmap) {
            (None, 0) => Cluster::Unallocated,
            (at, bitmap) => Cluster::Subclusters { at, parts: Subclusters(bitmap) },
        })
    }

    /// The entry of a cluster. Compressed ones and subclusters are only read here, and give none.
    pub fn new(cluster: Cluster) -> Option<Self> {
        let place = |at: u64, copied: bool| (at & OFFSET) | if copied { COPIED } else { 0 };
        let bits = match cluster {
            Cluster::Unallocated => 0,
            Cluster::Zero { kept: None } => ZERO,
            Cluster::Zero { kept: Some((at, copied)) } => place(at, copied) | ZERO,
            Cluster::Standard { at, copied } => place(at, copied),
            Cluster::Compressed { .. } | Cluster::Subclusters { .. } => return None,
        };
        Some(Self { bits, bitmap: 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn geometry(bits: u8) -> Geometry {
        Geometry::new(bits, 4, false).unwrap()
    }

    fn cluster(bits: u64) -> Result<Cluster, BadEntry> {
        L2Entry { bits, bitmap: 0 }.cluster(geometry(16), Version::V3)
    }

    /// Each of the 64 bits alone, in L1 entries of every cluster size: taken, or refused for its reason.
    #[test]
    fn each_bit_of_an_l1_entry_is_known() {
        for bits in 9..=21u8 {
            for bit in 0..64u8 {
                let found = L1Entry::of(1 << bit, geometry(bits));
                let wanted = match bit {
                    0..=8 | 56..=62 => Err(BadEntry::Reserved),
                    63 => Err(BadEntry::CopiedNothing),
                    _ if bit < bits => Err(BadEntry::Unaligned),
                    _ => Ok(Some(L1Entry { at: 1 << bit, copied: false })),
                };
                assert_eq!(found, wanted, "cluster bits {bits}, bit {bit}");
            }
        }
    }

    #[test]
    fn each_bit_of_an_l2_entry_is_known() {
        for (bits, version) in (9..=21u8).flat_map(|bits| [(bits, Version::V2), (bits, Version::V3)]) {
            for bit in (0..64u8).filter(|bit| *bit != 62) {
                let found = L2Entry { bits: 1 << bit, bitmap: 0 }.cluster(geometry(bits), version);
                let wanted = match bit {
                    0 if version == Version::V3 => Ok(Cluster::Zero { kept: None }),
                    0..=8 | 56..=61 => Err(BadEntry::Reserved),
                    63 => Err(BadEntry::CopiedNothing),
                    _ if bit < bits => Err(BadEntry::Unaligned),
                    _ => Ok(Cluster::Standard { at: 1 << bit, copied: false }),
                };
                assert_eq!(found, wanted, "cluster bits {bits}, {version:?}, bit {bit}");
            }
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        for kept in [None, Some((0x50000, true)), Some((0x50000, false))] {
            let entry = L2Entry::new(Cluster::Zero { kept }).unwrap();
            assert_eq!(cluster(entry.bits), Ok(Cluster::Zero { kept }));
        }
        for wanted in [Cluster::Unallocated, Cluster::Standard { at: 0xff_ffff_ffff_0000, copied: true }] {
            assert_eq!(cluster(L2Entry::new(wanted).unwrap().bits), Ok(wanted));
        }
        let entry = L1Entry { at: 0x70000, copied: true };
        assert_eq!(L1Entry::of(entry.bits(), geometry(16)), Ok(Some(entry)));
        assert_eq!(L1Entry::of(0, geometry(16)), Ok(None));
        assert_eq!(L2Entry::new(Cluster::Compressed { at: 1, len: 1 }), None);
    }

    #[test]
    fn a_compressed_cluster_says_where_it_is_and_how_long() {
        // 64 KiB clusters: x is 54, so 8 bits of sectors.
        assert_eq!(cluster(COMPRESSED | 0x50003), Ok(Cluster::Compressed { at: 0x50003, len: 509 }));
        assert_eq!(cluster(COMPRESSED | 5 << 54 | 0x200), Ok(Cluster::Compressed { at: 0x200, len: 6 * 512 }));
        assert_eq!(cluster(COMPRESSED | COPIED | 0x200), Err(BadEntry::Reserved));
        // 512 byte clusters: x is 61; bits 56 to 60 of the offset must be 0.
        let small = |bits| L2Entry { bits, bitmap: 0 }.cluster(geometry(9), Version::V2);
        assert_eq!(small(COMPRESSED | 1 << 61 | 0x1ff), Ok(Cluster::Compressed { at: 0x1ff, len: 513 }));
        assert_eq!(small(COMPRESSED | 1 << 56), Err(BadEntry::Reserved));
        // However it is set, the length is bounded by the cluster size and a sector.
        for bits in 9..=21 {
            let entry = L2Entry { bits: !COPIED, bitmap: 0 };
            if let Ok(Cluster::Compressed { len, .. }) = entry.cluster(geometry(bits), Version::V3) {
                assert!(len <= (1 << bits) * 2, "{bits}: {len}");
            }
        }
    }

    #[test]
    fn subclusters_stand_for_themselves() {
        let geometry = Geometry::new(16, 4, true).unwrap();
        let of = |bits, bitmap| L2Entry { bits, bitmap }.cluster(geometry, Version::V3);
        assert_eq!(of(0, 0), Ok(Cluster::Unallocated));
        let Ok(Cluster::Subclusters { at: Some((0x10000, true)), parts }) = of(COPIED | 0x10000, 1 | 1 << 33) else {
            panic!("it is right")
        };
        assert_eq!(parts.get(0), Subcluster::Standard);
        assert_eq!(parts.get(1), Subcluster::Zero);
        assert_eq!(parts.get(2), Subcluster::Unallocated);
        assert_eq!(parts.get(31), Subcluster::Unallocated);
        assert_eq!(parts.get(32), Subcluster::Unallocated);
        assert!(matches!(of(0, 1 << 63), Ok(Cluster::Subclusters { at: None, .. })));
        assert_eq!(of(0, 1), Err(BadEntry::Subclusters));
        assert_eq!(of(0x10000, 1 | 1 << 32), Err(BadEntry::Subclusters));
        assert_eq!(of(0x10001, 1), Err(BadEntry::Reserved), "the zero flag is the bitmap's here");
        assert_eq!(of(COMPRESSED | 0x200, 1), Err(BadEntry::Reserved));
    }
}
