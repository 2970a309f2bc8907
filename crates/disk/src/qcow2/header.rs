//! The header: an image's first cluster, read with every check that needs no other part of the file, and written.

use model::DiskFormat;

use super::geometry::MIN_EXTENDED_BITS;
use super::{Extensions, Geometry, HeaderError, MAX_CLUSTER_BITS, MAX_REFCOUNT_ORDER, MIN_CLUSTER_BITS, TableName};
use crate::{QCOW2_MAGIC, SECTOR};

/// Bytes of a version 2 header.
const V2_LEN: u32 = 72;
/// Bytes of a version 3 header, at least.
const V3_LEN: u32 = 104;
/// Entries of an L1 table: 32 MiB, QEMU's bound (qcow2.rst, "Header", size), which is held in memory.
const MAX_L1_ENTRIES: u32 = 4 << 20;
/// Bytes of a refcount table: QEMU's bound (qcow2.rst, "Host cluster management").
pub(super) const MAX_REFCOUNT_TABLE: u64 = 8 << 20;
/// Snapshots of an image: QEMU's bound (block/qcow2.h, QCOW_MAX_SNAPSHOTS).
const MAX_SNAPSHOTS: u32 = 65536;
/// Bytes of a base's name (qcow2.rst, "Header", backing_file_size).
const MAX_BACKING_LEN: u32 = 1023;

/// Feature bits that are known here (qcow2.rst, "Header").
pub mod features {
    /// Incompatible: refcounts may be wrong until they are repaired.
    pub const DIRTY: u64 = 1;
    /// Incompatible: the image was found corrupt; it may only be read.
    pub const CORRUPT: u64 = 1 << 1;
    /// Incompatible: another file has the data.
    pub const EXTERNAL_DATA: u64 = 1 << 2;
    /// Incompatible: a field names the compression.
    pub const COMPRESSION: u64 = 1 << 3;
    /// Incompatible: L2 entries have subclusters.
    pub const EXTENDED_L2: u64 = 1 << 4;
    /// Compatible: refcounts may be written late while the dirty bit is set.
    pub const LAZY_REFCOUNTS: u64 = 1;
    /// Autoclear: the bitmaps agree with the data.
    pub const BITMAPS: u64 = 1;
    /// All that are incompatible and known.
    pub const KNOWN: u64 = DIRTY | CORRUPT | EXTERNAL_DATA | COMPRESSION | EXTENDED_L2;
}

/// The format's versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// Without feature bits and zero clusters.
    V2,
    /// With them.
    V3,
}

/// How clusters are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// RFC 1951, without zlib's frame.
    Deflate,
    /// Zstandard.
    Zstd,
}

/// A table that the header names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table {
    /// Its first byte in the file.
    pub at: u64,
    /// The L1 table's entries; the refcount table's clusters.
    pub count: u32,
}

/// The snapshot table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Snapshots {
    /// Its first byte in the file.
    pub at: u64,
    /// Snapshots in it; not 0.
    pub count: u32,
}

/// The base that an image names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backing {
    /// The file's name as it was recorded: 1 to 1023 bytes without a zero byte. It is a path, whatever it looks like.
    pub name: Vec<u8>,
    /// Its format, where the image records one. Contents never decide it.
    pub format: Option<DiskFormat>,
}

/// What a user wants of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// To read it.
    Read,
    /// To write it too.
    Write,
}

/// A checked header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The format's version.
    pub version: Version,
    /// What the layout follows from.
    pub geometry: Geometry,
    /// The disk's bytes: at least 512; the last sector may be cut.
    pub size: u64,
    /// The L1 table: `count` is its entries.
    pub l1: Table,
    /// The refcount table: `count` is its clusters.
    pub refcounts: Table,
    /// Internal snapshots.
    pub snapshots: Option<Snapshots>,
    /// Incompatible features; known ones alone.
    pub incompatible: u64,
    /// Compatible features.
    pub compatible: u64,
    /// Features that are cleared by the first write of one who does not know them.
    pub autoclear: u64,
    /// How compressed clusters are read.
    pub compression: Compression,
    /// The base.
    pub backing: Option<Backing>,
    /// What follows the fields.
    pub extensions: Extensions,
    /// Fields behind the known ones, kept as they are.
    unknown_fields: Vec<u8>,
}

/// What the daemon needs of an image before it starts a VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// The disk's bytes.
    pub size: u64,
    /// The base.
    pub backing: Option<Backing>,
    /// Bytes of a cluster.
    pub cluster_size: u64,
    /// Why it can't be written, where it can't.
    pub writable: Result<(), HeaderError>,
    /// Whether its refcounts must be repaired first.
    pub dirty: bool,
}

impl Header {
    /// Bytes of the file's begin that `parse` wants, told from the first 24 or more: a cluster.
    pub fn bytes_needed(first: &[u8]) -> Result<usize, HeaderError> {
        let mut fields = Fields::new(first);
        if fields.bytes(4).ok_or(HeaderError::Short)? != QCOW2_MAGIC {
            return Err(HeaderError::Magic);
        }
        let bits = Fields::at(first, 20).u32().ok_or(HeaderError::Short)?;
        let bits = u8::try_from(bits).ok().filter(|bits| (MIN_CLUSTER_BITS..=MAX_CLUSTER_BITS).contains(bits));
        let bits =
            bits.ok_or_else(|| HeaderError::ClusterBits(Fields::at(first, 20).u32().unwrap_or(0), MIN_CLUSTER_BITS));
        Ok(1usize.wrapping_shl(u32::from(bits?)))
    }

    /// What the daemon needs of the image, from `bytes` as for `parse`.
    pub fn probe(bytes: &[u8], file_len: u64) -> Result<Probe, HeaderError> {
        let header = Self::parse(bytes, file_len)?;
        header.check(Access::Read)?;
        Ok(Probe {
            size: header.size,
            cluster_size: header.geometry.cluster_size(),
            writable: header.check(Access::Write),
            dirty: header.incompatible & features::DIRTY != 0,
            backing: header.backing,
        })
    }

    /// Whether the image can be read, or written. Encrypted images and unknown features are refused by `parse` itself.
    pub fn check(&self, access: Access) -> Result<(), HeaderError> {
        let has = |bit| self.incompatible & bit != 0;
        match access {
            _ if has(features::EXTERNAL_DATA) => Err(HeaderError::ExternalData),
            Access::Read => Ok(()),
            Access::Write if has(features::CORRUPT) => Err(HeaderError::Corrupt),
            Access::Write if has(features::EXTENDED_L2) => Err(HeaderError::ExtendedL2),
            Access::Write if has(features::DIRTY) => Err(HeaderError::Dirty),
            Access::Write => Ok(()),
        }
    }

    /// Reads a header from the file's first cluster, or all of a shorter file. `file_len` is the file's bytes: tables
    /// must begin and end within them.
    pub fn parse(bytes: &[u8], file_len: u64) -> Result<Self, HeaderError> {
        let cluster = Self::bytes_needed(bytes)?;
        let bytes = bytes.get(..cluster.min(bytes.len())).unwrap_or(bytes);
        let fixed = Fixed::read(bytes)?;
        let (version, header_len) = fixed.version_and_length(cluster)?;
        let geometry = fixed.geometry(version)?;
        if !(SECTOR..=i64::MAX.unsigned_abs()).contains(&fixed.size) {
            return Err(HeaderError::Size(fixed.size));
        }
        let v3 = version == Version::V3;
        let area = fixed.extension_area(bytes, header_len)?;
        // Version 2 may have extensions too: QEMU writes the base's format so.
        let extensions = Extensions::parse(area)?;
        fixed.check_features(v3, &extensions)?;
        let (l1, refcounts, snapshots) = fixed.tables(geometry, file_len)?;
        let known = if v3 { header_len.min(V3_LEN.saturating_add(8)) } else { header_len };
        let unknown = usize::try_from(known).ok().zip(usize::try_from(header_len).ok());
        Ok(Self {
            version,
            geometry,
            size: fixed.size,
            l1,
            refcounts,
            snapshots,
            incompatible: if v3 { fixed.incompatible } else { 0 },
            compatible: if v3 { fixed.compatible } else { 0 },
            autoclear: if v3 { fixed.autoclear } else { 0 },
            compression: if v3 { fixed.compression(bytes, header_len)? } else { Compression::Deflate },
            backing: fixed.backing(bytes, header_len, &extensions)?,
            extensions,
            unknown_fields: unknown.and_then(|(from, to)| bytes.get(from..to)).unwrap_or_default().to_vec(),
        })
    }

    /// A version 3 header of a new image: no snapshots, features or base yet.
    pub fn new(geometry: Geometry, size: u64, l1: Table, refcounts: Table) -> Self {
        Self {
            version: Version::V3,
            geometry,
            size,
            l1,
            refcounts,
            snapshots: None,
            incompatible: if geometry.is_extended() { features::EXTENDED_L2 } else { 0 },
            compatible: 0,
            autoclear: 0,
            compression: Compression::Deflate,
            backing: None,
            extensions: Extensions::default(),
            unknown_fields: Vec::new(),
        }
    }

    /// The header's bytes with its extensions and the base's name, which fit in a cluster. The base's format is written as
    /// `backing` has it.
    pub fn to_bytes(&self) -> Result<Vec<u8>, HeaderError> {
        let v3 = self.version == Version::V3;
        // The compression's field is there where it says something, as QEMU 5.1 and later write it always.
        let header_len = if v3 { V3_LEN.saturating_add(8) } else { V2_LEN };
        let unknown = u32::try_from(self.unknown_fields.len()).unwrap_or(u32::MAX);
        let header_len = header_len.saturating_add(unknown);
        let mut extensions = self.extensions.clone();
        let word = self.backing.as_ref().and_then(|backing| backing.format).map(DiskFormat::word);
        if extensions.backing_format() != word.map(str::as_bytes) {
            extensions.set_backing_format(word);
        }
        let extensions = extensions.to_bytes();
        let name = self.backing.as_ref().map_or(&[][..], |backing| &backing.name);
        let name_at = extensions.len().saturating_add(usize::try_from(header_len).unwrap_or(usize::MAX));
        let name_at = if name.is_empty() { 0 } else { u64::try_from(name_at).unwrap_or(u64::MAX) };
        let name_len = u32::try_from(name.len()).unwrap_or(u32::MAX);
        if name_len > MAX_BACKING_LEN {
            return Err(HeaderError::BackingLength(name_len));
        }
        let mut out = QCOW2_MAGIC.to_vec();
        out.extend(if v3 { 3u32 } else { 2 }.to_be_bytes());
        out.extend(name_at.to_be_bytes());
        out.extend(name_len.to_be_bytes());
        out.extend(u32::from(self.geometry.cluster_bits()).to_be_bytes());
        out.extend(self.size.to_be_bytes());
        out.extend(0u32.to_be_bytes());
        out.extend(self.l1.count.to_be_bytes());
        out.extend(self.l1.at.to_be_bytes());
        out.extend(self.refcounts.at.to_be_bytes());
        out.extend(self.refcounts.count.to_be_bytes());
        out.extend(self.snapshots.map_or(0, |table| table.count).to_be_bytes());
        out.extend(self.snapshots.map_or(0, |table| table.at).to_be_bytes());
        if v3 {
            let zstd = self.compression == Compression::Zstd;
            let others = self.incompatible & !features::COMPRESSION;
            out.extend((others | if zstd { features::COMPRESSION } else { 0 }).to_be_bytes());
            out.extend(self.compatible.to_be_bytes());
            out.extend(self.autoclear.to_be_bytes());
            out.extend(u32::from(self.geometry.refcount_order()).to_be_bytes());
            out.extend(header_len.to_be_bytes());
            out.extend([u8::from(zstd), 0, 0, 0, 0, 0, 0, 0]);
        }
        out.extend(&self.unknown_fields);
        out.extend(extensions);
        out.extend(name);
        let len = u64::try_from(out.len()).unwrap_or(u64::MAX);
        if len > self.geometry.cluster_size() { Err(HeaderError::TooLong(len)) } else { Ok(out) }
    }
}

/// The fields as they stand in the file, unchecked.
struct Fixed {
    version: u32,
    backing_at: u64,
    backing_len: u32,
    cluster_bits: u32,
    size: u64,
    crypt: u32,
    l1_entries: u32,
    l1_at: u64,
    refcounts_at: u64,
    refcount_clusters: u32,
    snapshots: u32,
    snapshots_at: u64,
    incompatible: u64,
    compatible: u64,
    autoclear: u64,
    refcount_order: u32,
    header_len: u32,
}

impl Fixed {
    fn read(bytes: &[u8]) -> Result<Self, HeaderError> {
        let mut fields = Fields::at(bytes, 4);
        let version = fields.u32().ok_or(HeaderError::Short)?;
        let mut read = || -> Option<Self> {
            let mut fixed = Self {
                version,
                backing_at: fields.u64()?,
                backing_len: fields.u32()?,
                cluster_bits: fields.u32()?,
                size: fields.u64()?,
                crypt: fields.u32()?,
                l1_entries: fields.u32()?,
                l1_at: fields.u64()?,
                refcounts_at: fields.u64()?,
                refcount_clusters: fields.u32()?,
                snapshots: fields.u32()?,
                snapshots_at: fields.u64()?,
                incompatible: 0,
                compatible: 0,
                autoclear: 0,
                refcount_order: 4,
                header_len: V2_LEN,
            };
            if version == 3 {
                fixed.incompatible = fields.u64()?;
                fixed.compatible = fields.u64()?;
                fixed.autoclear = fields.u64()?;
                fixed.refcount_order = fields.u32()?;
                fixed.header_len = fields.u32()?;
            }
            Some(fixed)
        };
        read().ok_or(HeaderError::Short)
    }

    fn version_and_length(&self, cluster: usize) -> Result<(Version, u32), HeaderError> {
        match self.version {
            2 => Ok((Version::V2, V2_LEN)),
            3 => {
                let fits = usize::try_from(self.header_len).is_ok_and(|len| len <= cluster);
                let right = fits && self.header_len >= V3_LEN && self.header_len.is_multiple_of(8);
                if right { Ok((Version::V3, self.header_len)) } else { Err(HeaderError::HeaderLength(self.header_len)) }
            }
            other => Err(HeaderError::Version(other)),
        }
    }

    fn geometry(&self, version: Version) -> Result<Geometry, HeaderError> {
        let extended = version == Version::V3 && self.incompatible & features::EXTENDED_L2 != 0;
        let order = u8::try_from(self.refcount_order).ok().filter(|order| *order <= MAX_REFCOUNT_ORDER);
        let order = order.ok_or(HeaderError::RefcountOrder(self.refcount_order))?;
        let least = if extended { MIN_EXTENDED_BITS } else { MIN_CLUSTER_BITS };
        let bits = u8::try_from(self.cluster_bits).ok();
        let geometry = bits.and_then(|bits| Geometry::new(bits, order, extended));
        geometry.ok_or(HeaderError::ClusterBits(self.cluster_bits, least))
    }

    /// Between the header and the base's name, else the cluster's end.
    fn extension_area<'a>(&self, bytes: &'a [u8], header_len: u32) -> Result<&'a [u8], HeaderError> {
        let from = usize::try_from(header_len).unwrap_or(usize::MAX);
        let end = match self.backing_at {
            0 => bytes.len(),
            at => usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len()),
        };
        if from > bytes.len() {
            return Err(HeaderError::Short);
        }
        bytes.get(from..end).ok_or(HeaderError::BackingAt(self.backing_at))
    }

    fn check_features(&self, v3: bool, extensions: &Extensions) -> Result<(), HeaderError> {
        let unknown = self.incompatible & !features::KNOWN;
        if v3 && unknown != 0 {
            return Err(HeaderError::Features(extensions.incompatible_names(unknown)));
        }
        match self.crypt {
            0 => Ok(()),
            1 => Err(HeaderError::Encrypted("AES".to_owned())),
            2 => Err(HeaderError::Encrypted("LUKS".to_owned())),
            other => Err(HeaderError::Encrypted(format!("method {other}"))),
        }
    }

    fn compression(&self, bytes: &[u8], header_len: u32) -> Result<Compression, HeaderError> {
        let field = if header_len > V3_LEN { bytes.get(104).copied().ok_or(HeaderError::Short)? } else { 0 };
        match (self.incompatible & features::COMPRESSION != 0, field) {
            (false, 0) => Ok(Compression::Deflate),
            (true, 1) => Ok(Compression::Zstd),
            (_, other) => Err(HeaderError::Compression(other)),
        }
    }

    fn backing(&self, bytes: &[u8], header_len: u32, extensions: &Extensions) -> Result<Option<Backing>, HeaderError> {
        if self.backing_at == 0 {
            return Ok(None);
        }
        if !(1..=MAX_BACKING_LEN).contains(&self.backing_len) {
            return Err(HeaderError::BackingLength(self.backing_len));
        }
        let at = HeaderError::BackingAt(self.backing_at);
        if self.backing_at < u64::from(header_len) {
            return Err(at);
        }
        let from = usize::try_from(self.backing_at).unwrap_or(usize::MAX);
        let len = usize::try_from(self.backing_len).unwrap_or(usize::MAX);
        let name = bytes.get(from..from.saturating_add(len)).ok_or(at)?.to_vec();
        if name.contains(&0) {
            return Err(HeaderError::BackingNul);
        }
        let format = extensions.backing_format().filter(|word| !word.is_empty());
        let format = format.map(|word| {
            let unknown = || HeaderError::BackingFormat(word.escape_ascii().to_string());
            DiskFormat::of_word(word).ok_or_else(unknown)
        });
        Ok(Some(Backing { name, format: format.transpose()? }))
    }

    fn tables(&self, geometry: Geometry, file_len: u64) -> Result<(Table, Table, Option<Snapshots>), HeaderError> {
        let (entries, needed) = (self.l1_entries, geometry.l1_needed(self.size));
        if u64::from(entries) < needed || entries > MAX_L1_ENTRIES {
            return Err(HeaderError::L1Entries { entries, needed });
        }
        let clusters = self.refcount_clusters;
        let bytes = u64::from(clusters).saturating_mul(geometry.cluster_size());
        if clusters == 0 || bytes > MAX_REFCOUNT_TABLE {
            return Err(HeaderError::RefcountTable(clusters));
        }
        if self.snapshots > MAX_SNAPSHOTS {
            return Err(HeaderError::Snapshots(self.snapshots));
        }
        // A snapshot's entry has at least 40 bytes (qcow2.rst, "Snapshots").
        let snapshots = Snapshots { at: self.snapshots_at, count: self.snapshots };
        let tables = [
            (TableName::L1, self.l1_at, u64::from(entries).saturating_mul(8)),
            (TableName::Refcount, self.refcounts_at, bytes),
            (TableName::Snapshot, self.snapshots_at, u64::from(self.snapshots).saturating_mul(40)),
        ];
        // A file may end within its last cluster: what is beyond reads as zeros.
        let end = geometry.round_up(file_len).unwrap_or(u64::MAX);
        let used = || tables.iter().filter(|(_, _, len)| *len != 0);
        for (name, at, len) in used() {
            let within = at.checked_add(*len).is_some_and(|last| last <= end) && *at >= geometry.cluster_size();
            if !within || !geometry.is_aligned(*at) {
                return Err(HeaderError::TableAt(*name, *at));
            }
        }
        for (index, (name, at, len)) in used().enumerate() {
            let overlaps = |(_, other, other_len): &&(TableName, u64, u64)| {
                *other < at.saturating_add(*len) && *at < other.saturating_add(*other_len)
            };
            if let Some((other, ..)) = used().skip(index.saturating_add(1)).find(overlaps) {
                return Err(HeaderError::Overlap(*name, *other));
            }
        }
        Ok((
            Table { at: self.l1_at, count: entries },
            Table { at: self.refcounts_at, count: clusters },
            (snapshots.count != 0).then_some(snapshots),
        ))
    }
}

/// Reads big-endian fields one behind the other.
pub(super) struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Fields<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    fn at(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at }
    }

    pub(super) fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(len)?;
        let found = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(found)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.bytes(4)?.try_into().ok().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.bytes(8)?.try_into().ok().map(u64::from_be_bytes)
    }

    pub(super) fn skip_to_multiple_of_8(&mut self) {
        self.at = self.at.checked_next_multiple_of(8).unwrap_or(usize::MAX);
    }
}

#[cfg(test)]
#[path = "header_tests.rs"]
mod tests;
