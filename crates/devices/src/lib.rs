//! The virtio back ends, one folder per device, each a process.
#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::wildcard_enum_match_arm))] // a new message is shown where it is missing
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

pub mod balloon;
pub mod blk;
pub mod entropy;
pub mod kept;
pub mod net;
pub mod queue;
pub mod scsi;
pub mod serve_vhost;
pub mod start;
