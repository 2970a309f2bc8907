//! The drive: its tray, its medium, and what it does with a command. Pure: it reads no block and writes no memory.
//!
//! ```text
//!             the guest opens it, unless locked          the guest closes it
//!  Closed ─────────────────────────────────────► Open ─────────────────────────► Closed
//!  with a medium or without ◄── the host puts one in, or takes it out: the tray ends closed ──┘
//! ```
//!
//! What a guest has ejected stays in the open tray: closing that brings it back. What the host takes out is gone.

use super::BLOCK;
use super::answers::{self, Answer, Event, SERIAL, Tray};
use super::command::Command;
use super::request::Lun;
use super::sense::Sense;

/// The guest has locked the tray, and was asked to open it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the tray is locked")]
pub struct Locked;

/// What becomes of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reaction {
    /// Done; what is in the answer goes to the driver.
    Done,
    /// So many bytes of the medium go to the driver.
    Read {
        /// From this byte on; all of them are on the medium.
        at: u64,
        /// How many.
        len: u64,
    },
    /// Not done.
    Check(Sense),
}

/// A drive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drive {
    serial: [u8; SERIAL],
    serial_len: usize,
    /// Blocks of the medium that is in it, in an open tray too.
    pub(super) blocks: Option<u64>,
    pub(super) open: bool,
    pub(super) locked: bool,
    /// What the next command hears first.
    pub(super) reset: bool,
    pub(super) changed: bool,
    pub(super) event: Option<Event>,
}

impl Drive {
    /// A drive with a medium of so many blocks, or an empty one; in a tray that is open, where a guest had left it so. Its
    /// serial number is what fits of this.
    pub fn new(serial: &[u8], blocks: Option<u64>, open: bool) -> Drive {
        let mut kept = [0; SERIAL];
        kept.iter_mut().zip(serial).for_each(|(to, from)| *to = *from);
        let serial_len = serial.len().min(SERIAL);
        Drive { serial: kept, serial_len, blocks, open, locked: false, reset: false, changed: false, event: None }
    }

    /// Whether a medium is in it, also in an open tray.
    pub fn is_loaded(&self) -> bool {
        self.blocks.is_some()
    }

    /// Whether the tray is open.
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// Whether the guest has locked it.
    pub fn is_locked(&self) -> bool {
        self.locked
    }

    /// Its driver begins anew.
    pub fn reset(&mut self) {
        (self.locked, self.reset, self.changed, self.event) = (false, false, false, None);
    }

    /// A driver resets the unit and goes on: the next command hears of it.
    pub fn reset_unit(&mut self) {
        (self.locked, self.reset) = (false, true);
    }

    /// The host takes the medium out. A locked tray stays as it is, and the guest is asked; by force it is opened.
    pub fn eject(&mut self, force: bool) -> Result<(), Locked> {
        self.unlock(force)?;
        if self.blocks.take().is_some() && !self.open {
            self.event = Some(Event::Removed);
        }
        (self.open, self.locked, self.changed) = (false, false, false);
        Ok(())
    }

    /// The host puts a medium in, in place of what there is.
    pub fn insert(&mut self, blocks: u64, force: bool) -> Result<(), Locked> {
        self.unlock(force)?;
        (self.blocks, self.open, self.locked) = (Some(blocks), false, false);
        self.medium_is_new();
        Ok(())
    }

    fn unlock(&mut self, force: bool) -> Result<(), Locked> {
        if self.locked && !self.open && self.blocks.is_some() && !force {
            self.event = Some(Event::EjectRequest);
            return Err(Locked);
        }
        Ok(())
    }

    fn medium_is_new(&mut self) {
        (self.changed, self.event) = (true, Some(Event::NewMedium));
    }

    fn tray(&self) -> Tray {
        Tray { blocks: self.blocks, open: self.open, locked: self.locked }
    }

    /// Carries a command out, or says what is to be read for it.
    pub fn perform(&mut self, lun: Lun, command: &Command, answer: &mut Answer) -> Reaction {
        match (lun, command) {
            (Lun::ReportLuns, Command::ReportLuns { .. }) | (Lun::Drive, _) => {}
            (Lun::ReportLuns | Lun::NoUnit | Lun::NoTarget, _) => return Reaction::Check(Sense::UNKNOWN),
        }
        if let Some(attention) = self.attention(command) {
            return Reaction::Check(attention);
        }
        match self.answer(command, answer) {
            Ok(reaction) => reaction,
            Err(sense) => Reaction::Check(sense),
        }
    }

    /// What has happened to the drive is told before anything else is done, once; but not to who asks what it is
    /// (SPC-4, 5.14; MMC-6, 4.1.6.1).
    fn attention(&mut self, command: &Command) -> Option<Sense> {
        match command {
            Command::Inquiry { .. }
            | Command::ReportLuns { .. }
            | Command::RequestSense { .. }
            | Command::Configuration { .. }
            | Command::Events { .. } => None,
            Command::TestUnitReady
            | Command::ModeSense { .. }
            | Command::Tray { .. }
            | Command::Lock(_)
            | Command::Capacity { .. }
            | Command::Read { .. }
            | Command::Toc { .. }
            | Command::DiscInformation { .. }
            | Command::Mechanism { .. }
            | Command::Verify { .. }
            | Command::Nothing => self.take_attention(),
        }
    }

    fn take_attention(&mut self) -> Option<Sense> {
        if std::mem::take(&mut self.reset) {
            return Some(Sense::RESET);
        }
        std::mem::take(&mut self.changed).then_some(Sense::MEDIUM_CHANGED)
    }

    /// Blocks of the medium, if one can be read.
    fn medium(&self) -> Result<u64, Sense> {
        if self.open {
            return Err(Sense::TRAY_OPEN);
        }
        self.blocks.ok_or(Sense::NO_MEDIUM)
    }

    fn answer(&mut self, command: &Command, answer: &mut Answer) -> Result<Reaction, Sense> {
        let known = |known: bool| if known { Ok(()) } else { Err(Sense::INVALID_FIELD) };
        let room = match *command {
            Command::TestUnitReady => self.medium().map(|_| 0)?,
            Command::Nothing => 0,
            Command::Read { block, count } => {
                return self.extent(block, count).map(|(at, len)| Reaction::Read { at, len });
            }
            Command::Verify { block, count } => self.extent(block, count).map(|_| 0)?,
            Command::RequestSense { room } => {
                let sense = self.take_attention().or(self.medium().err()).unwrap_or(Sense::NONE);
                answer.put(&sense.fixed());
                room
            }
            Command::Inquiry { page: None, room } => {
                answers::identity(answer);
                room
            }
            Command::Inquiry { page: Some(page), room } => {
                let serial = self.serial.get(..self.serial_len).unwrap_or_default();
                known(answers::vital_product_data(answer, page, serial))?;
                room
            }
            Command::ModeSense { long, values, page, room } => {
                known(answers::mode_pages(answer, long, values, page, self.tray()))?;
                room
            }
            Command::Tray { open } => self.move_tray(open).map(|()| 0)?,
            Command::Lock(locked) => {
                self.locked = locked;
                0
            }
            Command::Capacity { long, room } => {
                answers::capacity(answer, long, self.medium()?);
                room
            }
            Command::Toc { format: 0, msf, track, room } => {
                known(answers::toc(answer, msf, track, self.medium()?))?;
                room
            }
            Command::Toc { msf, room, .. } => {
                self.medium()?;
                answers::sessions(answer, msf);
                room
            }
            Command::Events { classes, room } => {
                if answers::events(answer, classes, room, self.event, self.tray()) {
                    self.event = None;
                }
                room
            }
            Command::DiscInformation { room } => {
                self.medium()?;
                answers::disc_information(answer);
                room
            }
            Command::Configuration { which, first, room } => {
                answers::configuration(answer, which, first, self.tray());
                room
            }
            Command::Mechanism { room } => {
                answers::mechanism(answer, self.open);
                room
            }
            Command::ReportLuns { known_only, room } => {
                answers::luns(answer, known_only);
                room
            }
        };
        answer.cut(room);
        Ok(Reaction::Done)
    }

    /// The guest opens the tray or closes it.
    fn move_tray(&mut self, open: bool) -> Result<(), Sense> {
        match (self.open, open) {
            (true, true) | (false, false) => {}
            (false, true) if self.locked => return Err(Sense::LOCKED),
            (false, true) => {
                (self.open, self.changed) = (true, false);
                self.event = Some(Event::Removed);
            }
            (true, false) => {
                self.open = false;
                if self.blocks.is_some() {
                    self.medium_is_new();
                }
            }
        }
        Ok(())
    }

    /// Where blocks lie on the medium, and how many bytes they have.
    fn extent(&self, block: u64, count: u32) -> Result<(u64, u64), Sense> {
        let blocks = self.medium()?;
        let count = u64::from(count);
        let room = blocks.checked_sub(block).ok_or(Sense::BEYOND_END)?;
        if count > room || block == blocks {
            return Err(Sense::BEYOND_END);
        }
        let at = block.checked_mul(BLOCK).ok_or(Sense::BEYOND_END)?;
        Ok((at, count.saturating_mul(BLOCK)))
    }
}

#[cfg(test)]
mod tests;
