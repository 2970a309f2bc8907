//! qcow2 images: QEMU's copy-on-write format, versions 2 and 3 (QEMU, docs/interop/qcow2.rst). What stands in a file is
//! read and written here as types; nothing but `check`, `reader`, `resize` and `writer` does I/O, on files that it was handed. Used by
//! the probe (names of bases), vioblk and vmctl.
//!
//! | file | holds |
//! |---|---|
//! | `header` | the first cluster: every field checked, and written |
//! | `extensions` | what follows the header's fields in its cluster |
//! | `fault` | why a header is refused, in users' words |
//! | `geometry` | sizes that follow from cluster bits and refcount width |
//! | `entry` | entries of the L1 and L2 tables |
//! | `refcount` | entries of refcount tables and blocks |
//! | `check/` | looks at a whole image |
//! | `unpack` | compressed clusters |
//! | `map` | a guest's requests to operations on the files of a chain |
//! | `reader` | a chain that is read from begin to end |
//! | `resize` | larger disks |
//! | `writer` | new images, written from begin to end |

pub mod check;
mod entry;
mod extensions;
mod fault;
mod geometry;
mod header;
mod map;
mod reader;
mod refcount;
mod resize;
mod unpack;
mod writer;

pub use entry::{BadEntry, Cluster, L1Entry, L2Entry, Subcluster, Subclusters};
pub use extensions::{Extension, Extensions};
pub use fault::{HeaderError, TableName};
pub use geometry::{Geometry, MAX_CLUSTER_BITS, MAX_REFCOUNT_ORDER, MIN_CLUSTER_BITS, Place};
pub use header::{Access, Backing, Compression, Header, Probe, Snapshots, Table, Version, features};
pub use map::{
    Action, Corruption, Failure, Layer, LayerError, Limits, MAX_CHAIN, MAX_PENDING, Map, Op, Pending, Request,
    RequestId, Token,
};
pub use reader::{ChainFile, Reader};
pub use refcount::{RefcountBlock, block_of, table_entry};
pub use resize::{ResizeError, grow};
pub use unpack::unpack;
pub use writer::{MAX_NEW_SIZE, WriteError, Writer};
