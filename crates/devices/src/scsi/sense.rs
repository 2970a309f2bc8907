//! Why a command was not carried out: sense key and additional sense code (SPC-4, 4.5.6), as the guest reads them.

/// Bytes of sense data in the fixed format, whole (SPC-4, 4.5.3).
pub const FIXED: usize = 18;

/// A sense key with its additional sense code and qualifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sense {
    /// What kind of trouble (SPC-4, table 48).
    pub key: u8,
    /// Additional sense code.
    pub asc: u8,
    /// Its qualifier.
    pub ascq: u8,
}

const fn sense(key: u8, asc: u8, ascq: u8) -> Sense {
    Sense { key, asc, ascq }
}

impl Sense {
    /// Nothing is wrong.
    pub const NONE: Sense = sense(0, 0, 0);
    /// No medium, and the tray is closed.
    pub const NO_MEDIUM: Sense = sense(2, 0x3A, 0x01);
    /// The tray is open.
    pub const TRAY_OPEN: Sense = sense(2, 0x3A, 0x02);
    /// The host could not read.
    pub const UNREADABLE: Sense = sense(3, 0x11, 0x00);
    /// An operation code that the drive does not know.
    pub const UNKNOWN: Sense = sense(5, 0x20, 0x00);
    /// Blocks that the medium does not have.
    pub const BEYOND_END: Sense = sense(5, 0x21, 0x00);
    /// A field of the command that makes no sense, or that the drive does not know.
    pub const INVALID_FIELD: Sense = sense(5, 0x24, 0x00);
    /// Saved parameters are asked for; the drive saves none.
    pub const NOT_SAVED: Sense = sense(5, 0x39, 0x00);
    /// The tray is locked.
    pub const LOCKED: Sense = sense(5, 0x53, 0x02);
    /// Another medium may be in the drive.
    pub const MEDIUM_CHANGED: Sense = sense(6, 0x28, 0x00);
    /// The drive was reset.
    pub const RESET: Sense = sense(6, 0x29, 0x00);

    /// In the fixed format, of the current command.
    pub fn fixed(self) -> [u8; FIXED] {
        let mut bytes = [0; FIXED];
        let [code, _, key, _, _, _, _, additional, _, _, _, _, asc, ascq, ..] = &mut bytes;
        (*code, *key, *additional) = (0x70, self.key, 10);
        (*asc, *ascq) = (self.asc, self.ascq);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sense_data_lie_where_the_standard_has_them() {
        let expected = [0x70, 0, 2, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x3A, 1, 0, 0, 0, 0];
        assert_eq!(Sense::NO_MEDIUM.fixed(), expected);
    }
}
