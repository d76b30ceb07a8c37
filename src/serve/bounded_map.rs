//! A map from (site, path) to values that holds a bounded number of them.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::ffi::CStr;
use std::hash::{Hash, Hasher};
use std::rc::Rc;

/// Values by site and path. When it is full, the CLOCK algorithm makes room: a hand goes around the
/// entries and evicts the first one that was not used since it last came by. That keeps what is in
/// use as LRU does, and a hit costs one flag instead of a list operation.
///
/// Invariant: `index[site][path]` is the position in `entries` of the entry with that key, and every
/// entry is indexed.
pub(crate) struct BoundedMap<V> {
    /// By site. The hash is keyed with a random key: paths come from peers.
    index: Vec<HashMap<Key, usize>>,
    entries: Vec<Entry<V>>,
    hand: usize,
    /// Where the value was that was asked for last. It is often asked for again, and costs no hash.
    last: usize,
    /// Where the next [`Self::sweep`] begins.
    broom: usize,
    entries_max: usize,
}

struct Entry<V> {
    site: usize,
    path: Rc<CStr>,
    value: V,
    used: bool,
}

/// A path as the key of a table, which is looked for by its bytes without the NUL.
#[derive(PartialEq, Eq)]
struct Key(Rc<CStr>);

impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        self.0.to_bytes()
    }
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.to_bytes().hash(state);
    }
}

impl<V> BoundedMap<V> {
    /// A map for `sites` sites that holds at most `entries_max` entries.
    pub(crate) fn new(sites: usize, entries_max: usize) -> Self {
        Self {
            index: (0..sites).map(|_| HashMap::new()).collect(),
            entries: Vec::new(),
            hand: 0,
            last: 0,
            broom: 0,
            entries_max,
        }
    }

    /// How many entries there are.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The value at a key, which counts as used.
    pub(crate) fn get_mut(&mut self, site: usize, path: &[u8]) -> Option<&mut V> {
        let is_same = |entry: &Entry<V>| entry.site == site && entry.path.to_bytes() == path;
        if !self.entries.get(self.last).is_some_and(is_same) {
            self.last = *self.index.get(site)?.get(path)?;
        }
        let entry = self.entries.get_mut(self.last)?;
        entry.used = true;
        Some(&mut entry.value)
    }

    /// Puts `value` at a key. Returns the value it replaced, or the one evicted to make room, or,
    /// where no entry is allowed or the site is unknown, `value` itself.
    pub(crate) fn insert(&mut self, site: usize, path: &CStr, value: V) -> Option<V> {
        if let Some(present) = self.get_mut(site, path.to_bytes()) {
            return Some(std::mem::replace(present, value));
        }
        if self.entries_max == 0 || site >= self.index.len() {
            return Some(value);
        }
        let evicted = if self.entries.len() >= self.entries_max {
            self.evict()
        } else {
            None
        };
        let path: Rc<CStr> = path.into();
        if let Some(paths) = self.index.get_mut(site) {
            paths.insert(Key(Rc::clone(&path)), self.entries.len());
        }
        // Not yet used: a name asked for once is the first to go.
        self.entries.push(Entry {
            site,
            path,
            value,
            used: false,
        });
        evicted
    }

    /// Takes the value at a key out.
    pub(crate) fn remove(&mut self, site: usize, path: &CStr) -> Option<V> {
        let position = *self.index.get(site)?.get(path.to_bytes())?;
        self.remove_at(position)
    }

    /// Takes out a value that was not used lately. `None` only when the map is empty.
    pub(crate) fn evict(&mut self) -> Option<V> {
        // One round clears every flag, so the second finds an entry at the latest.
        for _ in 0..=self.entries.len() {
            if self.hand >= self.entries.len() {
                self.hand = 0;
            }
            let entry = self.entries.get_mut(self.hand)?;
            if !std::mem::take(&mut entry.used) {
                return self.remove_at(self.hand);
            }
            self.hand += 1;
        }
        None
    }

    /// Looks at the next `looks` entries, going around, and takes those out that are to go.
    pub(crate) fn sweep(&mut self, looks: usize, is_to_go: impl Fn(&V) -> bool) -> Vec<V> {
        let mut swept = Vec::new();
        for _ in 0..looks.min(self.entries.len()) {
            if self.broom >= self.entries.len() {
                self.broom = 0;
            }
            match self.entries.get(self.broom) {
                Some(entry) if is_to_go(&entry.value) => swept.extend(self.remove_at(self.broom)),
                _ => self.broom += 1,
            }
        }
        swept
    }

    fn remove_at(&mut self, position: usize) -> Option<V> {
        if position >= self.entries.len() {
            return None;
        }
        let removed = self.entries.swap_remove(position);
        if let Some(paths) = self.index.get_mut(removed.site) {
            paths.remove(removed.path.to_bytes());
        }
        // The last entry now stands where the removed one stood.
        if let Some(moved) = self.entries.get(position)
            && let Some(indexed) = self
                .index
                .get_mut(moved.site)
                .and_then(|paths| paths.get_mut(moved.path.to_bytes()))
        {
            *indexed = position;
        }
        Some(removed.value)
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::CString;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_sweep_takes_out_what_is_to_go_and_comes_round() {
        let mut map = BoundedMap::new(1, 100);
        for number in 0..100u32 {
            let path = CString::new(number.to_string()).unwrap();
            assert_eq!(map.insert(0, &path, number), None);
        }
        let mut swept = Vec::new();
        for _ in 0..10 {
            swept.extend(map.sweep(20, |number| number % 3 == 0));
            map.check_invariants();
        }
        swept.sort_unstable();
        assert_eq!(swept, (0..100).step_by(3).collect::<Vec<_>>());
        assert_eq!(map.len(), 66);
        assert_eq!(map.sweep(20, |number| number % 3 == 0), Vec::<u32>::new());
    }

    impl<V> BoundedMap<V> {
        fn check_invariants(&self) {
            assert!(self.entries.len() <= self.entries_max);
            let indexed: usize = self.index.iter().map(HashMap::len).sum();
            assert_eq!(indexed, self.entries.len());
            for (position, entry) in self.entries.iter().enumerate() {
                assert_eq!(self.index[entry.site][entry.path.to_bytes()], position);
            }
        }
    }

    #[test]
    fn what_is_used_stays_and_what_is_not_goes() {
        let mut map = BoundedMap::new(1, 3);
        for (value, path) in [c"a", c"b", c"c"].into_iter().enumerate() {
            assert_eq!(map.insert(0, path, value), None);
        }
        assert!(map.get_mut(0, b"a").is_some());
        assert_eq!(map.insert(0, c"d", 3), Some(1));
        assert!(map.get_mut(0, b"a").is_some());
        assert!(map.get_mut(0, b"b").is_none());
        assert_eq!(map.len(), 3);
    }

    #[test]
    fn no_entry_fits_where_none_is_allowed() {
        let mut map = BoundedMap::new(1, 0);
        assert_eq!(map.insert(0, c"a", 1), Some(1));
        assert_eq!(map.evict(), None);
        let mut map = BoundedMap::new(1, 4);
        assert_eq!(map.insert(1, c"a", 1), Some(1));
        assert_eq!(map.len(), 0);
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_plain_map_and_keeps_its_bound(
            operations in proptest::collection::vec((0_u8..4, 0_usize..2, 0_u8..12), 0..200),
            entries_max in 1_usize..8,
        ) {
            let mut map = BoundedMap::new(2, entries_max);
            let mut model: HashMap<(usize, u8), usize> = HashMap::new();
            for (count, (operation, site, name)) in operations.into_iter().enumerate() {
                let path = CString::new(vec![b'a' + name]).unwrap();
                let key = (site, name);
                match operation {
                    0 => {
                        let out = map.insert(site, &path, count);
                        if let Some(replaced) = model.insert(key, count) {
                            prop_assert_eq!(out, Some(replaced));
                        } else if let Some(evicted) = out {
                            model.retain(|_, value| *value != evicted);
                        }
                    }
                    1 => prop_assert_eq!(map.remove(site, &path), model.remove(&key)),
                    2 => {
                        let evicted = map.evict();
                        prop_assert_eq!(evicted.is_some(), !model.is_empty());
                        model.retain(|_, value| Some(*value) != evicted);
                    }
                    _ => prop_assert_eq!(
                        map.get_mut(site, path.to_bytes()).copied(),
                        model.get(&key).copied()
                    ),
                }
                map.check_invariants();
                prop_assert_eq!(map.len(), model.len());
            }
        }
    }
}
