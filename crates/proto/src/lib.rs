//! What processes say to each other: one enum per pair and direction, and the socket that carries it.
//!
//! Data, no behaviour. What a process may not say, its type can't express; what a type can't hold (a name too long, a
//! hundred disks) is refused when the packet is decoded. Every message states how many descriptors come with it.
//!
//! | file | peers |
//! |---|---|
//! | [`client`] | vmctl and control |
//! | [`control`] | control and parent |
//! | [`opener`], [`probe`] | parent and its short-lived helpers |
//! | [`privileged`] | parent and priv |
//! | [`vmm`] | parent and vmm |
//! | [`vm`] | vmm and one VM's process |
//! | [`device`] | vmm and a device's process |
//! | [`doctor`] | `vmd -x doctor` and vmctl: text, no messages |
//! | [`agentx`] | parent and agentx |
#![forbid(unsafe_code)]

pub mod agentx;
pub mod channel;
pub mod client;
pub mod control;
pub mod device;
pub mod doctor;
pub mod exit;
pub mod failure;
pub mod names;
pub mod opener;
pub mod privileged;
pub mod probe;
pub mod vm;
pub mod vmm;

pub use channel::{Channel, Message, Received};
pub use failure::{Code, Failure};
pub use names::{ConnId, RequestId, VmId};

/// What vmm and the processes of a VM speak: changes whenever a message of [`vm`] or [`device`] does.
pub const VERSION_OF_A_VM: u32 = 8;

/// Bytes of one encoded message at most; a longer one is refused by both sides.
pub const MAX_MESSAGE: usize = 64 * 1024;
