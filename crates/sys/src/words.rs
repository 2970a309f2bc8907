//! The system's words for an error, as people read them: without the number that Rust puts behind them.

use std::borrow::Cow;

/// Where such a number begins: `No such file or directory (os error 2)`.
const NUMBER: &str = " (os error ";

/// The text without the numbers of the system's errors, wherever they stand in it.
pub fn plain(text: &str) -> Cow<'_, str> {
    if next(text).is_none() {
        return Cow::Borrowed(text);
    }
    let (mut plain, mut rest) = (String::with_capacity(text.len()), text);
    while let Some((before, behind)) = next(rest) {
        plain.push_str(before);
        rest = behind;
    }
    plain.push_str(rest);
    Cow::Owned(plain)
}

/// What stands before and behind the first number.
fn next(text: &str) -> Option<(&str, &str)> {
    text.match_indices(NUMBER).find_map(|(at, _)| {
        let (before, number) = (text.get(..at)?, text.get(at..)?.strip_prefix(NUMBER)?);
        let behind = number.trim_start_matches(|c: char| c.is_ascii_digit());
        (behind.len() < number.len()).then_some(())?;
        Some((before, behind.strip_prefix(')')?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_errors_go_and_all_else_stays() {
        for (text, told) in [
            ("cgroup: Device or resource busy (os error 16)", "cgroup: Device or resource busy"),
            ("a (os error 1): b (os error 22); look", "a: b; look"),
            ("x (os error )", "x (os error )"),
            ("x (os error 1", "x (os error 1"),
            ("x (os error é) y (os error 5)", "x (os error é) y"),
            ("", ""),
        ] {
            assert_eq!(plain(text), told);
        }
        let error = std::io::Error::from_raw_os_error(13);
        assert_eq!(plain(&error.to_string()), "Permission denied");
    }
}
