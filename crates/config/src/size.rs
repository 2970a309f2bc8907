//! Sizes as scan_scaled(3) reads and fmt_scaled(3) writes them (openbsd/vm.conf.md, 7), for vm.conf and vmctl.

/// Units in order of their power of 1024.
const UNITS: [char; 7] = ['B', 'K', 'M', 'G', 'T', 'P', 'E'];

/// Integer digits accepted (openbsd/vm.conf.md, 7.1); more are out of range whatever they say.
const MAX_WHOLE_DIGITS: usize = 20;

/// Fractional digits that count; further ones are skipped.
const MAX_FRACTION_DIGITS: usize = 19;

/// One mebibyte: the unit that memory and disks are counted in.
pub const MIB: u64 = 1 << 20;

/// Why a word is no size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// EINVAL of scan_scaled.
    #[error("Invalid argument")]
    Invalid,
    /// ERANGE of scan_scaled: more than a signed 64-bit number of bytes.
    #[error("Result too large")]
    TooLarge,
}

/// The number of bytes that a word such as `512M` or `1.5G` says. May be negative.
pub fn scan(word: &[u8]) -> Result<i64, SizeError> {
    let word = word.trim_ascii_start();
    let (negative, word) = match word.split_first() {
        Some((b'-', rest)) => (true, rest),
        Some((b'+', rest)) => (false, rest),
        _ => (false, word),
    };
    let digits = word.iter().take_while(|byte| byte.is_ascii_digit() || **byte == b'.').count();
    let (digits, suffix) = word.split_at_checked(digits).ok_or(SizeError::Invalid)?;
    let mut parts = digits.split(|byte| *byte == b'.');
    let whole = parts.next().unwrap_or_default();
    let fraction = parts.next().unwrap_or_default();
    if parts.next().is_some() {
        return Err(SizeError::Invalid);
    }
    let factor = factor(suffix)?;
    let whole = decimal(whole).filter(|_| whole.len() <= MAX_WHOLE_DIGITS).ok_or(SizeError::TooLarge)?;
    let whole = whole.checked_mul(factor).ok_or(SizeError::TooLarge)?;
    let bytes = whole.checked_add(scaled_fraction(fraction, factor)).ok_or(SizeError::TooLarge)?;
    let bytes = if negative { bytes.checked_neg() } else { Some(bytes) };
    bytes.and_then(|bytes| i64::try_from(bytes).ok()).ok_or(SizeError::TooLarge)
}

/// The factor of a suffix: its unit, then nothing that looks like more of the word.
fn factor(suffix: &[u8]) -> Result<i128, SizeError> {
    let Some((unit, rest)) = suffix.split_first() else { return Ok(1) };
    if rest.first().is_some_and(u8::is_ascii_alphanumeric) {
        return Err(SizeError::Invalid);
    }
    let unit = char::from(unit.to_ascii_uppercase());
    let power = UNITS.iter().position(|known| *known == unit).ok_or(SizeError::Invalid)?;
    u32::try_from(power).ok().and_then(|power| 1024_i128.checked_pow(power)).ok_or(SizeError::TooLarge)
}

fn decimal(digits: &[u8]) -> Option<i128> {
    digits
        .iter()
        .try_fold(0_i128, |sum, digit| sum.checked_mul(10)?.checked_add(i128::from(digit.saturating_sub(b'0'))))
}

/// The fraction in bytes, cut off and not rounded. Bytes themselves have none.
fn scaled_fraction(digits: &[u8], factor: i128) -> i128 {
    let mut bytes = 0_i128;
    let mut divisor = 1_i128;
    for digit in digits.iter().take(MAX_FRACTION_DIGITS) {
        bytes = bytes.saturating_mul(10).saturating_add(i128::from(digit.saturating_sub(b'0')));
        divisor = divisor.saturating_mul(10);
    }
    bytes.saturating_mul(factor).checked_div(divisor).unwrap_or(0)
}

/// A number of bytes in at most four significant characters and a unit: `512M`, `1.5G`, `0B`.
pub fn format(bytes: u64) -> String {
    let mut unit = 0_usize;
    let mut divisor = 1_u64;
    while bytes.checked_div(divisor).is_some_and(|value| value >= 1024) {
        divisor = divisor.saturating_mul(1024);
        unit = unit.saturating_add(1);
    }
    let letter = UNITS.get(unit).copied().unwrap_or('E');
    let mut whole = bytes.checked_div(divisor).unwrap_or(0);
    // The fraction counts 1024ths of the unit first, then tenths, rounded half up: so does the original.
    let parts = bytes.checked_rem(divisor).unwrap_or(0).checked_div((divisor / 1024).max(1)).unwrap_or(0);
    let mut tenths = if unit == 0 { 0 } else { parts.saturating_mul(10).saturating_add(512) / 1024 };
    if tenths >= 10 {
        whole = whole.saturating_add(1);
        tenths = 0;
    }
    match whole {
        _ if unit == 0 => format!("{whole}B"),
        100.. => format!("{}{letter}", whole.saturating_add(u64::from(tenths >= 5))),
        _ => format!("{whole}.{tenths}{letter}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_the_specification_are_read() {
        for (word, bytes) in [
            ("512M", 512 << 20),
            ("1.5G", 1_610_612_736),
            ("1.G", 1 << 30),
            (".5G", 1 << 29),
            ("10b", 10),
            ("3k", 3072),
            ("1e", 1 << 60),
            ("1.9", 1),
            ("", 0),
            (".", 0),
            (" +2K", 2048),
            ("-1M", -(1 << 20)),
            ("1G-x", 1 << 30),
            ("7E", 7 << 60),
            ("9223372036854775807", i64::MAX),
            ("0.99999999999999999999999K", 1023),
        ] {
            assert_eq!(scan(word.as_bytes()), Ok(bytes), "{word:?}");
        }
    }

    #[test]
    fn words_that_are_no_size_are_invalid() {
        for word in ["1GB", "1Gi", "1.2.3", "x", "1 G", "--1", "+-1", "1_0", "G1", "1G5"] {
            assert_eq!(scan(word.as_bytes()), Err(SizeError::Invalid), "{word:?}");
        }
    }

    #[test]
    fn sizes_beyond_64_bits_are_too_large() {
        for word in [
            "9223372036854775808",
            "8E",
            "10000P",
            "000000000000000000001",
            "99999999999999999999999999999999999999999999",
        ] {
            assert_eq!(scan(word.as_bytes()), Err(SizeError::TooLarge), "{word:?}");
        }
    }

    #[test]
    fn sizes_of_the_specification_are_written() {
        for (bytes, text) in [
            (0, "0B"),
            (1023, "1023B"),
            (1536, "1.5K"),
            (536_870_912, "512M"),
            (1 << 30, "1.0G"),
            (1_610_612_736, "1.5G"),
            (1 << 20, "1.0M"),
            (1_072_693_248, "1023M"),
            (137_438_953_472, "128G"),
            (1_048_535, "1024K"),
            (104_752_742, "99.9M"),
            (u64::MAX, "16.0E"),
        ] {
            assert_eq!(format(bytes), text, "{bytes}");
        }
    }

    #[test]
    fn what_is_written_reads_back_within_its_precision() {
        for shift in 0..63 {
            let bytes = 1_u64 << shift;
            assert_eq!(scan(format(bytes).as_bytes()), Ok(1_i64 << shift));
        }
    }
}
