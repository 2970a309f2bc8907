//! "Did you mean": the known word nearest to a mistyped one. vmctl uses it for its commands too.

/// Longest word compared; the table of distances is quadratic, and no keyword is longer than this.
const MAX_COMPARED: usize = 32;

/// Names that are compared in one parse. Thousands of wrong ones beside thousands of right ones would take an hour;
/// the ones behind the first are told without an offer.
const MAX_NAMES: usize = 100_000;

/// What may still be compared in a parse.
pub(crate) struct Suggestions {
    left: usize,
}

impl Default for Suggestions {
    fn default() -> Self {
        Self { left: MAX_NAMES }
    }
}

impl Suggestions {
    /// As [`closest`] of so many candidates, as long as there may be any.
    pub fn closest<'a>(
        &mut self,
        word: &str,
        count: usize,
        candidates: impl IntoIterator<Item = &'a str>,
    ) -> Option<&'a str> {
        self.left = self.left.checked_sub(count)?;
        closest(word, candidates)
    }
}

/// The candidate that fewest insertions, deletions, replacements or swaps of neighbours turn into `word`, when
/// these are at most a third of its letters (and at least one is allowed).
pub fn closest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if word.is_empty() || word.len() > MAX_COMPARED {
        return None;
    }
    let allowed = (word.len() / 3).max(1);
    candidates
        .into_iter()
        .filter(|candidate| candidate.len().abs_diff(word.len()) <= allowed)
        .map(|candidate| (distance(word.as_bytes(), candidate.as_bytes()), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Optimal string alignment distance, a row of the table at a time; `before` is the row before the last.
fn distance(a: &[u8], b: &[u8]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    let mut left_letter = None;
    for (row, letter) in a.iter().enumerate() {
        let mut current = vec![row.saturating_add(1)];
        for (column, other) in b.iter().enumerate() {
            let next = column.saturating_add(1);
            let cell = |cells: &[usize], at: usize| cells.get(at).copied().unwrap_or(usize::MAX);
            let mut best = cell(&last, column).saturating_add(usize::from(letter != other));
            best = best.min(cell(&last, next).saturating_add(1)).min(cell(&current, column).saturating_add(1));
            if let Some(previous) = column.checked_sub(1) {
                let swapped = left_letter == Some(other) && b.get(previous) == Some(letter);
                if swapped {
                    best = best.min(cell(&before, previous).saturating_add(1));
                }
            }
            current.push(best);
        }
        before = std::mem::replace(&mut last, current);
        left_letter = Some(letter);
    }
    last.last().copied().unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swapped_neighbours_count_once() {
        assert_eq!(closest("mmeory", ["cdrom", "memory"]), Some("memory"));
        assert_eq!(distance(b"ab", b"ba"), 1);
    }

    #[test]
    fn missing_and_wrong_letters_are_found() {
        assert_eq!(closest("interfac", ["interfaces", "interface"]), Some("interface"));
        assert_eq!(closest("dusk", ["disk"]), Some("disk"));
    }

    #[test]
    fn a_word_is_as_much_longer_or_shorter_as_letters_may_be_wrong() {
        assert_eq!((closest("disk", ["dis"]), closest("disk", ["disks"])), (Some("dis"), Some("disks")));
        assert_eq!((closest("disk", ["di"]), closest("disk", ["disksx"])), (None, None));
    }

    #[test]
    fn a_parse_compares_100_000_names_and_no_more() {
        let mut all = Suggestions::default();
        assert_eq!(all.closest("dusk", 99_999, ["disk"]), Some("disk"));
        assert_eq!(all.closest("dusk", 2, ["disk"]), None);
        assert_eq!(all.closest("dusk", 1, ["disk"]), Some("disk"), "the last one");
        assert_eq!(all.closest("dusk", 1, ["disk"]), None);
    }

    #[test]
    fn unlike_words_are_not_offered() {
        assert_eq!(closest("nifs", ["disk", "memory", "sev"]), None);
        assert_eq!(closest("", ["up"]), None);
        assert_eq!(closest(&"x".repeat(40), ["up"]), None);
    }
}
