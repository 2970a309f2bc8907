//! The configuration space (virtio 1.2, 5.5.4). What a driver writes to it is not heeded: how much it gave is counted here.

/// Both fields, as the guest reads them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Config([u8; 8]);

impl Config {
    /// Pages that the guest is to give: `num_pages`.
    pub fn wanted(self) -> u32 {
        let [a, b, c, d, ..] = self.0;
        u32::from_le_bytes([a, b, c, d])
    }

    /// These fields: le32 `num_pages`, le32 `actual`.
    pub fn new(wanted: u32, actual: u32) -> Self {
        let ([a, b, c, d], [e, f, g, h]) = (wanted.to_le_bytes(), actual.to_le_bytes());
        Self([a, b, c, d, e, f, g, h])
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_lie_as_the_specification_has_them() {
        let config = Config::new(0x0102_0304, 0x0a0b_0c0d);
        assert_eq!(config.as_bytes(), [4, 3, 2, 1, 0x0d, 0x0c, 0x0b, 0x0a]);
        assert_eq!(config.wanted(), 0x0102_0304);
    }
}
