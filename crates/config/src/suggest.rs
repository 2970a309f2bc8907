//! "Did you mean": the known word nearest to a mistyped one. vmctl uses it for its commands too.

/// Longest word compared; the table of distances is quadratic, and no keyword is longer than this.
const MAX_COMPARED: usize = 32;

/// The candidate that fewest insertions, deletions, replacements or swaps of neighbours turn into `word`, when
/// these are at most a third of its letters (and at least one is allowed).
pub fn closest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if word.is_empty() || word.len() > MAX_COMPARED {
        return None;
    }
    let allowed = (word.len() / 3).max(1);
    candidates
        .into_iter()
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
    fn unlike_words_are_not_offered() {
        assert_eq!(closest("nifs", ["disk", "memory", "sev"]), None);
        assert_eq!(closest("", ["up"]), None);
        assert_eq!(closest(&"x".repeat(40), ["up"]), None);
    }
}
