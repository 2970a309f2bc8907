//! The daemon as a service of its host: its start and end, its names in /run and /var/lib, and what it tells a service
//! manager, an SNMP master and itself of how it does.

mod agentx;
mod background;
pub mod notify;
pub mod options;
mod pid_file;
pub mod pulse;
pub mod say;
pub mod snmp;
pub mod socket;
mod sole;
pub mod startup;
pub mod state;
