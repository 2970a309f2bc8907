//! Tables of a chain in memory: L2 tables and refcount blocks, bounded. Those used last are kept, and those that were
//! changed until they are written.

use std::collections::HashMap;
use std::ops::Range;

/// Which table: the file and its first byte there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) file: u8,
    pub(super) at: u64,
}

/// What a table is, for the order in which tables are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Refcounts.
    Block,
    /// L2 entries.
    Table,
}

/// A table.
#[derive(Debug)]
pub(super) struct Entry {
    bytes: Box<[u8]>,
    kind: Kind,
    /// When it was used last.
    used: u64,
    /// Bytes that were changed and are not written.
    changed: Option<Range<usize>>,
    /// Whether a copy of it is being written.
    writing: bool,
    /// Whose refcounts were held against it: itself, and each entry by its index.
    checked: (bool, Vec<u64>),
}

impl Entry {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn is_kept(&self) -> bool {
        self.changed.is_some() || self.writing
    }

    /// Whether the table's own refcount was found right; it is from now on.
    pub(super) fn is_checked(&self) -> bool {
        self.checked.0
    }

    pub(super) fn set_checked(&mut self) {
        self.checked.0 = true;
    }

    /// Whether an entry's refcounts were found right.
    pub(super) fn is_entry_checked(&self, index: u64) -> bool {
        let word = usize::try_from(index / 64).ok().and_then(|word| self.checked.1.get(word));
        word.is_some_and(|word| word.wrapping_shr(bit(index)) & 1 == 1)
    }

    pub(super) fn set_entry_checked(&mut self, index: u64) {
        let word = usize::try_from(index / 64).unwrap_or(usize::MAX);
        if self.checked.1.is_empty() {
            self.checked.1 = vec![0; self.bytes.len().div_ceil(512)];
        }
        if let Some(word) = self.checked.1.get_mut(word) {
            *word |= 1u64.wrapping_shl(bit(index));
        }
    }
}

fn bit(index: u64) -> u32 {
    u32::try_from(index & 63).unwrap_or(0)
}

/// The tables of a chain.
#[derive(Debug)]
pub(super) struct Cache {
    entries: HashMap<Key, Entry>,
    /// Bytes that are held.
    held: usize,
    /// Bytes of those that are changed or being written.
    kept: usize,
    /// Bytes to hold: more is let go at the next chance.
    limit: usize,
    /// Counts uses.
    clock: u64,
}

impl Cache {
    pub(super) fn new(limit: usize) -> Self {
        Self { entries: HashMap::new(), held: 0, kept: 0, limit, clock: 0 }
    }

    /// A table, which counts as used now.
    pub(super) fn get(&mut self, key: Key) -> Option<&mut Entry> {
        self.clock = self.clock.saturating_add(1);
        let entry = self.entries.get_mut(&key)?;
        entry.used = self.clock;
        Some(entry)
    }

    /// Takes a table in, in place of the one that was there.
    pub(super) fn insert(&mut self, key: Key, kind: Kind, bytes: Vec<u8>) -> Option<&mut Entry> {
        self.remove(key);
        self.clock = self.clock.saturating_add(1);
        self.held = self.held.saturating_add(bytes.len());
        let checked = (false, Vec::new());
        let entry = Entry { bytes: bytes.into(), kind, used: self.clock, changed: None, writing: false, checked };
        self.entries.insert(key, entry);
        self.entries.get_mut(&key)
    }

    /// Takes a new table in, which is to be written whole.
    pub(super) fn insert_changed(&mut self, key: Key, kind: Kind, bytes: Vec<u8>) -> Option<&mut Entry> {
        let all = 0..bytes.len();
        self.insert(key, kind, bytes);
        self.change(key, all);
        self.entries.get_mut(&key)
    }

    /// A table's bytes, of which those of the range are about to be changed, and to be written then; none where there is
    /// no such table.
    pub(super) fn change(&mut self, key: Key, range: Range<usize>) -> Option<&mut [u8]> {
        self.clock = self.clock.saturating_add(1);
        let entry = self.entries.get_mut(&key)?;
        entry.used = self.clock;
        if !entry.is_kept() {
            self.kept = self.kept.saturating_add(entry.bytes.len());
        }
        let changed = entry.changed.take().unwrap_or(range.clone());
        entry.changed = Some(changed.start.min(range.start)..changed.end.max(range.end));
        Some(&mut entry.bytes)
    }

    /// Lets a table go, whatever it is.
    pub(super) fn remove(&mut self, key: Key) {
        if let Some(gone) = self.entries.remove(&key) {
            self.held = self.held.saturating_sub(gone.bytes.len());
            if gone.is_kept() {
                self.kept = self.kept.saturating_sub(gone.bytes.len());
            }
        }
    }

    /// Lets those go that were used longest ago and are neither changed nor `pinned`, down to the limit. The one used
    /// last stays.
    pub(super) fn shrink(&mut self, pinned: impl Fn() -> Vec<Key>) {
        if self.held <= self.limit {
            return;
        }
        let pinned = pinned();
        let mut ages: Vec<(u64, Key)> = self.entries.iter().map(|(key, entry)| (entry.used, *key)).collect();
        ages.sort_unstable_by_key(|(used, _)| *used);
        ages.pop();
        for (_, key) in ages {
            if self.held > self.limit && !pinned.contains(&key) && !self.entries.get(&key).is_some_and(Entry::is_kept) {
                self.remove(key);
            }
        }
    }

    /// Whether so much is changed that it should be written before more is.
    pub(super) fn is_full(&self) -> bool {
        self.kept > self.limit / 2
    }

    /// Whether any table is changed or being written.
    pub(super) fn is_changed(&self) -> bool {
        self.kept != 0
    }

    /// Copies of what is changed of this kind, each with its place in file 0, to be written now.
    pub(super) fn take_changed(&mut self, kind: Kind) -> Vec<(u64, Vec<u8>)> {
        let mut copies = Vec::new();
        for (key, entry) in self.entries.iter_mut().filter(|(_, entry)| entry.kind == kind) {
            let Some(range) = entry.changed.take() else { continue };
            // Whole sectors: a torn one is the old or the new.
            let end = range.end.next_multiple_of(512).min(entry.bytes.len());
            let range = (range.start & !511)..end;
            let at = key.at.saturating_add(u64::try_from(range.start).unwrap_or(u64::MAX));
            copies.push((at, entry.bytes.get(range).unwrap_or_default().to_vec()));
            entry.writing = true;
        }
        copies
    }

    /// What was being written is written, or must be again.
    pub(super) fn written(&mut self, well: bool) {
        for entry in self.entries.values_mut().filter(|entry| entry.writing) {
            entry.writing = false;
            if !well {
                entry.changed = Some(0..entry.bytes.len());
            }
            if !entry.is_kept() {
                self.kept = self.kept.saturating_sub(entry.bytes.len());
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

    fn key(at: u64) -> Key {
        Key { file: 0, at }
    }

    #[test]
    fn those_used_last_are_kept_and_pinned_ones_too() {
        let mut cache = Cache::new(300);
        for at in 0..3 {
            cache.insert(key(at), Kind::Table, vec![0; 100]);
        }
        assert!(cache.get(key(0)).is_some());
        cache.insert(key(3), Kind::Table, vec![0; 100]);
        cache.shrink(|| vec![key(1)]);
        assert_eq!(cache.held(), 300);
        let there: Vec<bool> = (0..4).map(|at| cache.get(key(at)).is_some()).collect();
        assert_eq!(there, [true, true, false, true]);
        cache.insert(key(3), Kind::Table, vec![0; 50]);
        assert_eq!(cache.held(), 250, "one that is replaced counts once");
        cache.insert(key(9), Kind::Table, vec![0; 1000]);
        cache.shrink(Vec::new);
        assert_eq!(cache.held(), 1000, "one that is too large stays until the next comes");
    }

    #[test]
    fn what_is_changed_stays_until_it_is_written() {
        let mut cache = Cache::new(1000);
        cache.insert(key(4096), Kind::Table, vec![0; 2048]);
        cache.change(key(4096), 600..608).unwrap()[600..608].fill(7);
        cache.insert(key(8192), Kind::Block, vec![0; 2048]);
        assert!(cache.is_full() && cache.is_changed());
        assert_eq!(cache.take_changed(Kind::Block), []);
        let copies = cache.take_changed(Kind::Table);
        assert_eq!((copies[0].0, copies[0].1.len()), (4096 + 512, 512));
        cache.shrink(Vec::new);
        assert!(cache.get(key(4096)).is_some(), "it is being written");
        cache.written(false);
        assert_eq!(cache.take_changed(Kind::Table)[0].1.len(), 2048, "again, and whole");
        assert!(cache.is_full() && cache.is_changed());
        cache.written(true);
        assert!(!cache.is_full() && !cache.is_changed());
        cache.insert(key(0), Kind::Block, vec![0; 512]);
        cache.shrink(Vec::new);
        assert!(cache.get(key(4096)).is_none());
    }

    #[test]
    fn entries_are_checked_one_by_one() {
        let mut cache = Cache::new(0);
        let entry = cache.insert(key(0), Kind::Table, vec![0; 512]).unwrap();
        entry.set_entry_checked(63);
        let checked: Vec<u64> = (0..70).filter(|index| entry.is_entry_checked(*index)).collect();
        assert_eq!(checked, [63]);
        assert!(!entry.is_checked());
    }
}
