//! What a VM, a disk, a card, a switch and an owner are: names, sizes and limits with their reasons. Plain data, no I/O.
//!
//! vm.conf is read into these types, messages carry them, and the parent keeps them: an idea has one shape. Who holds one
//! knows that it is a legal one, also when it came out of a packet: decoding checks what `new` checks.
//!
//! | room | holds |
//! |---|---|
//! | `bounded` | text and lists that can't be longer than their type says |
//! | `names`, `mac` | names of VMs, switches and interfaces; hardware addresses |
//! | `lookalike` | characters that are not what they seem |
//! | `vm` | a whole VM, and what its instances may change |
//! | `memory`, `disk`, `nic` | its parts |
//! | `rate` | how fast a disk may be used |
//! | `switch`, `owner` | what it is attached to, and whose it is |
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_possible_wrap
    )
)]

mod bounded;
mod disk;
mod lookalike;
mod mac;
mod memory;
mod names;
mod nic;
mod owner;
mod rate;
mod switch;
mod vm;

pub use bounded::*;
pub use disk::*;
pub use lookalike::*;
pub use mac::*;
pub use memory::*;
pub use names::*;
pub use nic::*;
pub use owner::*;
pub use rate::*;
pub use switch::*;
pub use vm::*;
