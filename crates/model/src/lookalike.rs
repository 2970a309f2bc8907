//! Characters that a web page, a word processor or a keyboard puts in place of plain ones: they look right, and mean nothing to
//! a program.

/// What such a character is, and what to write; `None` for one that is what it seems.
pub fn lookalike(c: char) -> Option<String> {
    let (what, advice) = match c {
        '\u{2018}'..='\u{201B}' | '\u{2032}' | '\u{2039}' | '\u{203A}' | '\u{00B4}' | '\u{02BC}' => {
            ("a typographic quote", "write ' instead")
        }
        '\u{201C}'..='\u{201F}' | '\u{2033}' | '\u{00AB}' | '\u{00BB}' | '\u{FF02}' => {
            ("a typographic quote", "write \" instead")
        }
        '\u{2010}'..='\u{2015}' | '\u{2212}' | '\u{FE58}' | '\u{FF0D}' => ("a typographic dash", "write - instead"),
        '\u{00A0}' | '\u{2000}'..='\u{200A}' | '\u{202F}' | '\u{205F}' | '\u{3000}' => {
            ("a blank of another kind", "write an ordinary one instead")
        }
        '\u{2028}' | '\u{2029}' | '\u{0085}' => ("a line end of another kind", "write an ordinary one instead"),
        '\u{00AD}'
        | '\u{061C}'
        | '\u{200B}'..='\u{200F}'
        | '\u{202A}'..='\u{202E}'
        | '\u{2060}'..='\u{2069}'
        | '\u{FEFF}' => ("an invisible character", "remove it"),
        _ => return None,
    };
    Some(format!("{what} (U+{:04X}); {advice}", u32::from(c)))
}

/// That of the first one in a text.
pub fn lookalike_in(text: &str) -> Option<String> {
    text.chars().find_map(lookalike)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_looks_like_another_character_is_told_with_the_right_one() {
        for (c, told) in [
            ('\u{2019}', "a typographic quote (U+2019); write ' instead"),
            ('\u{201C}', "a typographic quote (U+201C); write \" instead"),
            ('\u{2013}', "a typographic dash (U+2013); write - instead"),
            ('\u{A0}', "a blank of another kind (U+00A0); write an ordinary one instead"),
            ('\u{FEFF}', "an invisible character (U+FEFF); remove it"),
        ] {
            assert_eq!(lookalike(c).as_deref(), Some(told));
        }
    }

    #[test]
    fn what_is_plain_or_only_foreign_is_not() {
        for c in (' '..='~').chain(['\t', '\n', 'é', 'ß', '字', '\u{2020}', '\u{2026}', '\u{10FFFF}']) {
            assert_eq!(lookalike(c), None, "{c:?}");
        }
        assert_eq!(lookalike_in("plain é"), None);
        assert_eq!(lookalike_in("a\u{2013}b\u{A0}"), lookalike('\u{2013}'));
    }
}
