//! Disk images: what a descriptor holds, which format it is taken for, and making and copying them. Used by vioblk, the
//! probe and vmctl. Reads and writes nothing that it was not handed, spawns nothing, logs nothing.
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::arithmetic_side_effects
    )
)]

mod base;
mod copy;
mod create;
mod format;
mod image;
pub mod qcow2;

/// The system's words for an error, without the number that Rust puts behind them.
pub(crate) fn plain(error: &std::io::Error) -> String {
    error.to_string().split(" (os error").next().unwrap_or_default().to_owned()
}

pub use base::{NoFileName, is_beside, path_of_base};
pub use copy::{CopyError, PIECE, RawSource, RawTarget, Source, Target, Watch, copy, pour};
pub use create::{CreateError, NewFile, create_raw};
pub use format::{QCOW2_MAGIC, RawBaseError, RawError, check_raw, check_raw_base};
pub use image::{Image, ImageError, SECTOR, file_len};
