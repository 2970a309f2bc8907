//! Tables of a chain in memory, bounded: those used last are kept.

use std::collections::HashMap;

/// Which table: the file and its first byte there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) file: u8,
    pub(super) at: u64,
}

/// A table.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) bytes: Box<[u8]>,
    /// When it was used last.
    used: u64,
}

/// The tables of a chain.
#[derive(Debug)]
pub(super) struct Cache {
    entries: HashMap<Key, Entry>,
    /// Bytes that are held.
    held: usize,
    /// Bytes to hold: more is let go at the next chance.
    limit: usize,
    /// Counts uses.
    clock: u64,
}

impl Cache {
    pub(super) fn new(limit: usize) -> Self {
        Self { entries: HashMap::new(), held: 0, limit, clock: 0 }
    }

    /// A table, which counts as used now.
    pub(super) fn get(&mut self, key: Key) -> Option<&Entry> {
        self.clock = self.clock.saturating_add(1);
        let entry = self.entries.get_mut(&key)?;
        entry.used = self.clock;
        Some(entry)
    }

    /// Takes a table in, in place of the one that was there.
    pub(super) fn insert(&mut self, key: Key, bytes: Vec<u8>) {
        self.clock = self.clock.saturating_add(1);
        self.held = self.held.saturating_add(bytes.len());
        let entry = Entry { bytes: bytes.into(), used: self.clock };
        if let Some(old) = self.entries.insert(key, entry) {
            self.held = self.held.saturating_sub(old.bytes.len());
        }
    }

    /// Lets those go that were used longest ago and are not `pinned`, down to the limit. The one used last stays.
    pub(super) fn shrink(&mut self, pinned: impl Fn() -> Vec<Key>) {
        if self.held <= self.limit {
            return;
        }
        let pinned = pinned();
        let mut ages: Vec<(u64, Key)> = self.entries.iter().map(|(key, entry)| (entry.used, *key)).collect();
        ages.sort_unstable_by_key(|(used, _)| *used);
        ages.pop();
        for (_, key) in ages {
            if self.held > self.limit && !pinned.contains(&key) {
                if let Some(gone) = self.entries.remove(&key) {
                    self.held = self.held.saturating_sub(gone.bytes.len());
                }
            }
        }
    }

    /// Bytes that are held.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.held
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_used_last_are_kept_and_pinned_ones_too() {
        let key = |at| Key { file: 0, at };
        let mut cache = Cache::new(300);
        for at in 0..3 {
            cache.insert(key(at), vec![0; 100]);
        }
        assert!(cache.get(key(0)).is_some());
        cache.insert(key(3), vec![0; 100]);
        cache.shrink(|| vec![key(1)]);
        assert_eq!(cache.held(), 300);
        let there: Vec<bool> = (0..4).map(|at| cache.get(key(at)).is_some()).collect();
        assert_eq!(there, [true, true, false, true]);
        cache.insert(key(3), vec![0; 50]);
        assert_eq!(cache.held(), 250, "one that is replaced counts once");
        cache.insert(key(9), vec![0; 1000]);
        cache.shrink(Vec::new);
        assert_eq!(cache.held(), 1000, "one that is too large stays until the next comes");
    }
}
