//! Where KVM's interrupt lines (GSIs) go: the chips' pins as they were, and a message for each virtqueue.
//!
//! KVM takes the table only as a whole, so one table serves all devices.

use hw::MsiMessage;

use super::wiring::{FIRST_GSI, Wiring};

/// The messages of the lines from [`FIRST_GSI`] on.
#[derive(Debug)]
pub struct Routes {
    messages: Vec<Option<MsiMessage>>,
}

impl Routes {
    /// No messages yet for so many lines.
    pub fn new(lines: usize) -> Self {
        Self { messages: vec![None; lines] }
    }

    /// Routes a line to a message; KVM is told only of a change. Whether it holds.
    pub fn set(&mut self, gsi: u32, message: MsiMessage, wiring: &dyn Wiring) -> std::io::Result<()> {
        let place = gsi.checked_sub(FIRST_GSI).and_then(|place| usize::try_from(place).ok());
        let Some(entry) = place.and_then(|place| self.messages.get_mut(place)) else {
            return Err(std::io::ErrorKind::NotFound.into());
        };
        let before = entry.replace(message);
        if before == Some(message) {
            return Ok(());
        }
        let told = wiring.set_routes(&self.table());
        if told.is_err() {
            // KVM has kept its old table whole.
            if let Some(entry) = place.and_then(|place| self.messages.get_mut(place)) {
                *entry = before;
            }
        }
        told
    }

    fn table(&self) -> Vec<(u32, MsiMessage)> {
        let lines = (FIRST_GSI..).zip(&self.messages);
        lines.filter_map(|(gsi, message)| Some((gsi, (*message)?))).collect()
    }
}
