//! The static and the dynamic table (RFC 7541 2.3).

use std::collections::VecDeque;

/// The field at `index` of the static table (1 to [`STATIC_ENTRIES`]).
pub fn static_field(index: usize) -> Option<(&'static [u8], &'static [u8])> {
    let (name, value) = STATIC_TABLE.get(index.checked_sub(1)?)?;
    Some((name.as_bytes(), value.as_bytes()))
}

/// The first index of the static table whose name is `name`.
pub fn static_index_of(name: &[u8]) -> Option<usize> {
    let mut slot = name_hash(name);
    loop {
        let index = usize::from(*STATIC_NAMES.get(slot)?);
        let (found, _) = static_field(index)?;
        if found == name {
            return Some(index);
        }
        slot = (slot + 1) % NAME_SLOTS;
    }
}

/// The size that a field has in a table and in a header list (RFC 7541 4.1, RFC 9113 6.5.2).
pub fn field_size(name: &[u8], value: &[u8]) -> usize {
    name.len() + value.len() + FIELD_OVERHEAD_BYTES
}

/// A dynamic table: the newest field first, the oldest evicted when there is no room.
///
/// The text of all fields is in one buffer, written front to back and moved to the front when the
/// end is reached. The buffer has room for twice the table, so that every byte is moved at most
/// once per byte added. Of each field its owner may note what it has found out about it.
#[derive(Debug)]
pub struct DynamicTable<N = ()> {
    text: Vec<u8>,
    /// The newest first.
    entries: VecDeque<Entry<N>>,
    /// The sum of all fields' sizes: never over `size_max`.
    size: usize,
    size_max: usize,
}

#[derive(Clone, Copy, Debug)]
struct Entry<N> {
    start: usize,
    name_len: usize,
    value_len: usize,
    note: N,
}

impl<N> Entry<N> {
    fn size(&self) -> usize {
        self.name_len + self.value_len + FIELD_OVERHEAD_BYTES
    }
}

impl DynamicTable {
    /// Adds a field as the newest. One larger than the whole table empties it and is not added,
    /// which is no error (RFC 7541 4.4).
    pub fn insert(&mut self, name: &[u8], value: &[u8]) {
        self.insert_noting(name, value, ());
    }
}

impl<N: Copy> DynamicTable<N> {
    /// An empty table of at most `size_max` bytes (RFC 7541 4.1). It takes no memory until a field
    /// is added, and at most twice `size_max` plus 24 bytes and a note
    /// per entry then.
    pub fn new(size_max: usize) -> Self {
        Self {
            text: Vec::new(),
            entries: VecDeque::new(),
            size: 0,
            size_max,
        }
    }

    /// The most that all fields' sizes may add up to.
    pub fn size_max(&self) -> usize {
        self.size_max
    }

    /// What all fields' sizes add up to.
    pub fn size(&self) -> usize {
        self.size
    }

    /// How many fields there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The field at `index`, zero for the newest.
    pub fn get(&self, index: usize) -> Option<(&[u8], &[u8])> {
        self.entries.get(index).map(|entry| self.field(entry))
    }

    /// The text of the field at `index`, its name and then its value, with the name's length and what
    /// was noted of it.
    pub fn get_noted(&self, index: usize) -> Option<(&[u8], usize, N)> {
        let entry = self.entries.get(index)?;
        let end = entry.start + entry.name_len + entry.value_len;
        let text = self.text.get(entry.start..end)?;
        Some((text, entry.name_len, entry.note))
    }

    /// Each field, the newest first.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.entries.iter().map(|entry| self.field(entry))
    }

    /// The index of the newest field of that name and value.
    pub fn index_of(&self, name: &[u8], value: &[u8]) -> Option<usize> {
        for (index, entry) in self.entries.iter().enumerate() {
            // Lengths tell most apart without a look at the text.
            if entry.name_len == name.len()
                && entry.value_len == value.len()
                && self.field(entry) == (name, value)
            {
                return Some(index);
            }
        }
        None
    }

    /// The index of the newest field of that name.
    pub fn index_of_name(&self, name: &[u8]) -> Option<usize> {
        self.entries
            .iter()
            .position(|entry| entry.name_len == name.len() && self.field(entry).0 == name)
    }

    /// Changes the bound and evicts what no longer fits (RFC 7541 4.3).
    pub fn set_size_max(&mut self, size_max: usize) {
        self.size_max = size_max;
        self.evict_to(size_max);
        if self.text.capacity() > 2 * size_max {
            self.move_to_front();
            self.text.shrink_to(2 * size_max);
        }
    }

    /// [Adds](DynamicTable::insert) a field of which `note` is known.
    pub fn insert_noting(&mut self, name: &[u8], value: &[u8], note: N) {
        let size = field_size(name, value);
        if size > self.size_max {
            self.evict_to(0);
            return;
        }
        self.evict_to(self.size_max - size);
        let text_len = name.len() + value.len();
        if self.text.len() + text_len > 2 * self.size_max {
            self.move_to_front();
        }
        let start = self.text.len();
        self.text.extend_from_slice(name);
        self.text.extend_from_slice(value);
        self.entries.push_front(Entry {
            start,
            name_len: name.len(),
            value_len: value.len(),
            note,
        });
        self.size += size;
    }

    fn evict_to(&mut self, size_max: usize) {
        while self.size > size_max {
            let Some(entry) = self.entries.pop_back() else {
                break;
            };
            self.size -= entry.size();
        }
        if self.is_empty() {
            self.text.clear();
        }
    }

    fn move_to_front(&mut self) {
        let unused = self.entries.back().map_or(self.text.len(), |e| e.start);
        self.text.drain(..unused);
        for entry in &mut self.entries {
            entry.start -= unused;
        }
    }

    fn field(&self, entry: &Entry<N>) -> (&[u8], &[u8]) {
        let text = self.text.get(entry.start..).unwrap_or_default();
        let (name, rest) = text.split_at_checked(entry.name_len).unwrap_or_default();
        (name, rest.get(..entry.value_len).unwrap_or_default())
    }
}

const fn name_hash(name: &[u8]) -> usize {
    match name {
        [first, .., last] => {
            (*first as usize * 5 + *last as usize * 29 + name.len() * 13) % NAME_SLOTS
        }
        _ => 0,
    }
}

#[expect(
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "computed when compiled: an index out of range would not compile"
)]
const fn static_names() -> [u8; NAME_SLOTS] {
    let mut slots = [0; NAME_SLOTS];
    let mut index = STATIC_ENTRIES;
    while index > 0 {
        let name = STATIC_TABLE[index - 1].0.as_bytes();
        let is_first = index == 1 || !equal(name, STATIC_TABLE[index - 2].0.as_bytes());
        if is_first {
            let mut slot = name_hash(name);
            while slots[slot] != 0 {
                slot = (slot + 1) % NAME_SLOTS;
            }
            slots[slot] = index as u8;
        }
        index -= 1;
    }
    slots
}

#[expect(
    clippy::indexing_slicing,
    reason = "computed when compiled: an index out of range would not compile"
)]
const fn equal(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    let mut i = 0;
    while i < a.len() {
        if a[i] != b[i] {
            return false;
        }
        i += 1;
    }
    true
}

/// What a field takes beyond its text (RFC 7541 4.1).
pub const FIELD_OVERHEAD_BYTES: usize = 32;

/// How many fields the static table has.
pub const STATIC_ENTRIES: usize = 61;

/// Slots of [`STATIC_NAMES`]: five times the names, so that a search ends after a step or two.
const NAME_SLOTS: usize = 256;

/// The static table's names by hash, each as the first index that has it; zero where there is none.
static STATIC_NAMES: [u8; NAME_SLOTS] = static_names();

/// RFC 7541 Appendix A.
#[rustfmt::skip]
const STATIC_TABLE: [(&str, &str); STATIC_ENTRIES] = [
    (":authority", ""), (":method", "GET"), (":method", "POST"), (":path", "/"),
    (":path", "/index.html"), (":scheme", "http"), (":scheme", "https"), (":status", "200"),
    (":status", "204"), (":status", "206"), (":status", "304"), (":status", "400"),
    (":status", "404"), (":status", "500"), ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"), ("accept-language", ""), ("accept-ranges", ""),
    ("accept", ""), ("access-control-allow-origin", ""), ("age", ""), ("allow", ""),
    ("authorization", ""), ("cache-control", ""), ("content-disposition", ""),
    ("content-encoding", ""), ("content-language", ""), ("content-length", ""),
    ("content-location", ""), ("content-range", ""), ("content-type", ""), ("cookie", ""),
    ("date", ""), ("etag", ""), ("expect", ""), ("expires", ""), ("from", ""), ("host", ""),
    ("if-match", ""), ("if-modified-since", ""), ("if-none-match", ""), ("if-range", ""),
    ("if-unmodified-since", ""), ("last-modified", ""), ("link", ""), ("location", ""),
    ("max-forwards", ""), ("proxy-authenticate", ""), ("proxy-authorization", ""), ("range", ""),
    ("referer", ""), ("refresh", ""), ("retry-after", ""), ("server", ""), ("set-cookie", ""),
    ("strict-transport-security", ""), ("transfer-encoding", ""), ("user-agent", ""), ("vary", ""),
    ("via", ""), ("www-authenticate", ""),
];

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
