//! Where KVM's interrupt lines (GSIs) go: the chips' pins as they were, and a message for each virtqueue.
//!
//! KVM takes the table only as a whole, so one table serves all devices.

use std::collections::BTreeMap;

use hw::MsiMessage;

use super::wiring::Wiring;

/// The messages of the lines from [`super::wiring::FIRST_GSI`] on.
#[derive(Debug, Default)]
pub struct Routes(BTreeMap<u32, MsiMessage>);

impl Routes {
    /// Routes a line to a message; KVM is told only of a change. Whether it holds.
    pub fn set(&mut self, gsi: u32, message: MsiMessage, wiring: &dyn Wiring) -> std::io::Result<()> {
        let before = self.0.insert(gsi, message);
        if before == Some(message) {
            return Ok(());
        }
        let table: Vec<_> = self.0.iter().map(|(gsi, message)| (*gsi, *message)).collect();
        let told = wiring.set_routes(&table);
        if told.is_err() {
            // KVM has kept its old table whole.
            self.0.remove(&gsi);
            self.0.extend(before.map(|before| (gsi, before)));
        }
        told
    }
}
