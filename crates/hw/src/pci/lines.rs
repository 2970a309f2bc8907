//! Interrupt lines that PCI functions share (PCI 3.0, 2.2.6): a line is up while any of its functions asks for it.

use std::collections::BTreeMap;

/// How many functions hold each line up; those not in it are down.
#[derive(Debug, Clone, Default)]
pub struct Lines(BTreeMap<u32, u32>);

impl Lines {
    /// A function asserts the line or releases it. Returns the line's new level, if it changes.
    pub fn change(&mut self, gsi: u32, asks: bool) -> Option<bool> {
        let asking = self.0.entry(gsi).or_default();
        let before = *asking;
        *asking = if asks { before.saturating_add(1) } else { before.saturating_sub(1) };
        let level = *asking > 0;
        (level != (before > 0)).then_some(level)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_up_while_any_function_asks() {
        let mut lines = Lines::default();
        assert_eq!(lines.change(10, true), Some(true));
        assert_eq!(lines.change(10, true), None, "a second function");
        assert_eq!(lines.change(11, true), Some(true), "another line");
        assert_eq!(lines.change(10, false), None);
        assert_eq!(lines.change(10, false), Some(false));
        assert_eq!(lines.change(10, false), None, "down already");
        assert_eq!(lines.change(10, true), Some(true));
    }
}
