//! Why an image's header is refused: what is wrong, with which value, and what to do, in users' words.

/// A table that the header names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableName {
    /// Where the L2 tables are.
    L1,
    /// Where the refcount blocks are.
    Refcount,
    /// The internal snapshots.
    Snapshot,
}

impl std::fmt::Display for TableName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::L1 => "L1 table",
            Self::Refcount => "refcount table",
            Self::Snapshot => "snapshot table",
        })
    }
}

/// Why an image is not opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Too few bytes for what the header says it has.
    #[error("the file ends within the qcow2 header; it was cut off, or is no qcow2 image")]
    Short,
    /// It does not begin as one.
    #[error("the file is no qcow2 image; if it is a raw disk, say \"format raw\"")]
    Magic,
    /// Neither 2 nor 3.
    #[error("qcow2 version {0} is not known; versions 2 and 3 are")]
    Version(u32),
    /// The length of the header that it gives.
    #[error("the qcow2 header gives its own length as {0} bytes; the image is damaged")]
    HeaderLength(u32),
    /// Clusters of no size that is served.
    #[error("the cluster size is 2^{0} bytes; 2^{1} to 2^21 are read")]
    ClusterBits(u32, u8),
    /// Refcounts of more than 64 bits.
    #[error("the refcount order is {0}; it is at most 6, so the image is damaged")]
    RefcountOrder(u32),
    /// No sector, or more than can be counted.
    #[error("the image's disk has {0} bytes; a disk has 512 to 2^63 - 1")]
    Size(u64),
    /// Too few entries for the size, or too many for memory.
    #[error("the L1 table has {entries} entries; a disk of this size has {needed} or more, up to 4194304")]
    L1Entries {
        /// What the header says.
        entries: u32,
        /// What the disk's size needs.
        needed: u64,
    },
    /// None, or too much for memory.
    #[error("the refcount table has {0} clusters; it has at least one and at most 8 MiB, so the image is damaged")]
    RefcountTable(u32),
    /// More than QEMU makes.
    #[error("the image has {0} snapshots; up to 65536 are read")]
    Snapshots(u32),
    /// A table that can't be where the header says.
    #[error("the {0} is at byte {1}, where none can be; the image is damaged, see vmctl image check")]
    TableAt(TableName, u64),
    /// Two that share bytes.
    #[error("the {0} and the {1} overlap; the image is damaged, see vmctl image check")]
    Overlap(TableName, TableName),
    /// Its content is encrypted.
    #[error("the image is encrypted ({0}); decrypt it with qemu-img convert, or encrypt within the guest")]
    Encrypted(String),
    /// Features that change the meaning of the rest.
    #[error("the image needs features that are not known here: {0}; convert it with qemu-img convert")]
    Features(String),
    /// A compression that is not read.
    #[error("compression type {0} is not known; convert the image with qemu-img convert")]
    Compression(u8),
    /// Another file has the data.
    #[error("the image keeps its data in another file; make one file of it with qemu-img convert")]
    ExternalData,
    /// It was found damaged before.
    #[error("the image is marked as corrupt and can only be read; see vmctl image check")]
    Corrupt,
    /// Its refcounts were not written out.
    #[error("the image was not closed and must be repaired before it is written; run vmctl image check -r")]
    Dirty,
    /// Entries with subclusters are not written.
    #[error("images with extended L2 entries can only be read here; convert it with qemu-img convert")]
    ExtendedL2,
    /// The name is where none can be.
    #[error("the base's name is at byte {0}, where none can be; the image is damaged")]
    BackingAt(u64),
    /// No name, or too much of one.
    #[error("the base's name has {0} bytes; it has 1 to 1023")]
    BackingLength(u32),
    /// It ends early.
    #[error("the base's name holds a zero byte; the image is damaged")]
    BackingNul,
    /// A base that is not read.
    #[error("the base's format is \"{0}\"; bases can be \"raw\" and \"qcow2\"")]
    BackingFormat(String),
    /// An extension that runs out of the header's cluster.
    #[error("a header extension (type {0:#010x}) has {1} bytes and runs out of its cluster; the image is damaged")]
    ExtensionLength(u32, u32),
    /// One that may stand once.
    #[error("a header extension (type {0:#010x}) stands there twice; the image is damaged")]
    ExtensionTwice(u32),
    /// What is to be written does not fit in the header's cluster.
    #[error(
        "the header has {0} bytes and does not fit in a cluster; use a shorter name for the base or larger clusters"
    )]
    TooLong(u64),
}
