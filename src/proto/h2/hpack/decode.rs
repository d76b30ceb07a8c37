//! Header blocks in, header lists out (RFC 7541 3 and 6).

use bytes::Bytes;

use super::super::field::Class;
use super::table::{DynamicTable, FIELD_OVERHEAD_BYTES, STATIC_ENTRIES, static_field};
use super::{Error, huffman};
use crate::limits::HPACK_INTEGER_BYTES_MAX;
use crate::message::{Fields, Span};

/// How large a decoded header list may be. Beyond, the block is still decoded, since the table must
/// stay in step with the peer's, but its further fields are dropped; beyond a multiple of the
/// bounds, decoding ends with [`Error::Excessive`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Names, values and 32 bytes per field (RFC 9113 6.5.2), repeated references to one table
    /// entry counted each time.
    pub list_bytes_max: usize,
    /// Fields, pseudo-header fields included.
    pub fields_max: usize,
}

/// Decoded fields in order: their text in one run of bytes, and where each is in it.
#[derive(Clone, Debug, Default)]
pub struct HeaderList {
    text: Vec<u8>,
    entries: Vec<Entry>,
    /// What RFC 9113 6.5.2 counts for all fields of the block, dropped ones too.
    size: usize,
    /// Fields of the block, dropped ones too.
    seen: usize,
    overflowed: bool,
}

#[derive(Clone, Debug)]
struct Entry {
    start: u32,
    /// The end of the name, where the value begins.
    name_end: u32,
    end: u32,
    class: Class,
}

impl Entry {
    fn name(&self) -> Span {
        self.start..self.name_end
    }

    fn value(&self) -> Span {
        self.name_end..self.end
    }
}

impl HeaderList {
    /// How many fields there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether fields were dropped because the list would have passed its [`Bounds`]: to be
    /// answered with 431 (RFC 9113 10.5.1).
    pub fn overflowed(&self) -> bool {
        self.overflowed
    }

    /// Each field as (name, value).
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.classified_from(0)
            .map(|(name, value, _)| (name, value))
    }

    /// Each field from the `first` on, as (name, value, class).
    pub fn classified_from(&self, first: usize) -> impl Iterator<Item = (&[u8], &[u8], Class)> {
        let entries = self.entries.get(first..).unwrap_or_default();
        entries
            .iter()
            .map(|entry| (self.name(entry), self.value(entry), entry.class))
    }

    /// The fields from the `first` on as a message has them, in memory of exactly their size. Cookie
    /// fields are joined into one, in the place of the first (RFC 9113 8.2.3).
    pub fn to_fields(&self, first: usize) -> Fields {
        let entries = self.entries.get(first..).unwrap_or_default();
        let Some(text_start) = entries.first().map(|entry| entry.start) else {
            return Fields::default();
        };
        let is_cookie = |entry: &&Entry| self.name(entry) == b"cookie";
        if entries.iter().filter(is_cookie).count() > 1 {
            return self.joined_fields(entries);
        }
        let text = self.text.get(text_start as usize..).unwrap_or_default();
        let shift = |span: Span| span.start - text_start..span.end - text_start;
        let spans = |entry: &Entry| (shift(entry.name()), shift(entry.value()));
        let entries = entries.iter().map(spans).collect();
        Fields::new(Bytes::copy_from_slice(text), entries)
    }

    /// Forgets all fields and keeps the memory for the next block.
    pub fn clear(&mut self) {
        self.text.clear();
        self.entries.clear();
        self.size = 0;
        self.seen = 0;
        self.overflowed = false;
    }

    fn joined_fields(&self, entries: &[Entry]) -> Fields {
        let mut text = Vec::with_capacity(self.text.len() + entries.len() * 2);
        let mut fields = Vec::with_capacity(entries.len());
        let mut cookie = None;
        for entry in entries {
            let name_span = append(&mut text, self.name(entry));
            if self.name(entry) != b"cookie" {
                let value = append(&mut text, self.value(entry));
                fields.push((name_span, value));
                continue;
            }
            if cookie.is_some() {
                text.truncate(name_span.start as usize);
                continue;
            }
            cookie = Some(());
            let start = name_span.end;
            let cookies = entries.iter().filter(|entry| self.name(entry) == b"cookie");
            for (i, cookie) in cookies.enumerate() {
                if i > 0 {
                    append(&mut text, b"; ");
                }
                append(&mut text, self.value(cookie));
            }
            fields.push((name_span, start..offset(&text)));
        }
        Fields::new(Bytes::from(text), fields)
    }

    /// Counts a field of that much text; whether it still fits. Once one did not, none does: a list
    /// with a hole in it would be another message.
    fn count(&mut self, text_len: usize, bounds: &Bounds) -> Result<bool, Error> {
        self.seen += 1;
        self.size = self
            .size
            .saturating_add(text_len)
            .saturating_add(FIELD_OVERHEAD_BYTES);
        if self.size <= bounds.list_bytes_max && self.seen <= bounds.fields_max {
            return Ok(true);
        }
        self.overflowed = true;
        if self.size > bounds.list_bytes_max.saturating_mul(EXCESS_FACTOR)
            || self.seen > bounds.fields_max.saturating_mul(EXCESS_FACTOR)
        {
            return Err(Error::Excessive);
        }
        Ok(false)
    }

    /// Makes a field of the text from `start` on, whose name ends at `name_end`.
    fn push_appended(
        &mut self,
        start: usize,
        name_end: usize,
        class: Class,
        bounds: &Bounds,
    ) -> Result<(), Error> {
        if self.count(self.text.len() - start, bounds)? {
            let end = offset(&self.text);
            let [start, name_end] = [start, name_end].map(|at| u32::try_from(at).unwrap_or(end));
            self.entries.push(Entry {
                start,
                name_end,
                end,
                class,
            });
        } else {
            self.text.truncate(start);
        }
        Ok(())
    }

    fn name(&self, entry: &Entry) -> &[u8] {
        self.text(entry.name())
    }

    fn value(&self, entry: &Entry) -> &[u8] {
        self.text(entry.value())
    }

    fn text(&self, span: Span) -> &[u8] {
        self.text
            .get(span.start as usize..span.end as usize)
            .unwrap_or_default()
    }
}

/// The decoding side of one connection. Blocks must be decoded in the order received, those of
/// refused streams too (RFC 9113 4.3).
#[derive(Debug)]
pub struct Decoder {
    table: DynamicTable<Class>,
    /// What the peer may set the table's size to: the acknowledged SETTINGS_HEADER_TABLE_SIZE.
    size_limit: usize,
    /// The limit fell below the table's size, which the next block must reduce.
    must_reduce: bool,
}

impl Decoder {
    /// A decoder whose table starts with the size that every connection starts with (RFC 9113
    /// 6.5.2).
    pub fn new() -> Self {
        Self {
            table: DynamicTable::new(TABLE_BYTES_INITIAL),
            size_limit: TABLE_BYTES_INITIAL,
            must_reduce: false,
        }
    }

    /// The peer acknowledged this SETTINGS_HEADER_TABLE_SIZE.
    pub fn set_size_limit(&mut self, bytes: u32) {
        self.size_limit = bytes as usize;
        self.must_reduce = self.table.size_max() > self.size_limit;
    }

    /// Bytes that the table's fields count (RFC 7541 4.1).
    pub fn table_size(&self) -> usize {
        self.table.size()
    }

    /// Decodes one whole header block into `list`, replacing what it had. The work is linear in the
    /// block's length and in `bounds`.
    ///
    /// # Errors
    /// See [`Error`]. The connection must end.
    pub fn decode(
        &mut self,
        block: &[u8],
        bounds: &Bounds,
        list: &mut HeaderList,
    ) -> Result<(), Error> {
        list.clear();
        let mut input = self.size_updates(block)?;
        while let Some((&first, _)) = input.split_first() {
            // RFC 7541 6: the pattern of the first bits tells the representation.
            input = match first.leading_zeros() {
                0 => self.indexed(input, bounds, list)?,
                1 => self.literal(input, 6, true, bounds, list)?,
                2 => return Err(Error::UnexpectedSizeUpdate),
                // Without indexing or never indexed: the difference binds whoever encodes again.
                _ => self.literal(input, 4, false, bounds, list)?,
            };
        }
        Ok(())
    }

    /// Obeys the size updates that a block may begin with, at most two (RFC 7541 4.2: the smallest
    /// size in between and the final one).
    fn size_updates<'a>(&mut self, mut input: &'a [u8]) -> Result<&'a [u8], Error> {
        let mut updates = 0;
        while input.first().is_some_and(|first| first >> 5 == 0b001) {
            updates += 1;
            if updates > SIZE_UPDATES_MAX {
                return Err(Error::UnexpectedSizeUpdate);
            }
            let (size, rest) = integer(input, 5)?;
            if size > self.size_limit {
                return Err(Error::TableSize);
            }
            self.table.set_size_max(size);
            self.must_reduce = false;
            input = rest;
        }
        if self.must_reduce {
            return Err(Error::MissingSizeUpdate);
        }
        Ok(input)
    }

    /// RFC 7541 6.1.
    fn indexed<'a>(
        &self,
        input: &'a [u8],
        bounds: &Bounds,
        list: &mut HeaderList,
    ) -> Result<&'a [u8], Error> {
        let (index, rest) = integer(input, 7)?;
        let start = list.text.len();
        let (name_len, class) = match index.checked_sub(STATIC_ENTRIES + 1) {
            Some(dynamic) => {
                let noted = self.table.get_noted(dynamic);
                let (text, name_len, class) = noted.ok_or(Error::Index)?;
                list.text.extend_from_slice(text);
                (name_len, class)
            }
            None => {
                let (name, value) = static_field(index).ok_or(Error::Index)?;
                list.text.extend_from_slice(name);
                list.text.extend_from_slice(value);
                (name.len(), Class::of(name, value))
            }
        };
        list.push_appended(start, start + name_len, class, bounds)?;
        Ok(rest)
    }

    /// RFC 7541 6.2: the name by index or as text, the value as text.
    fn literal<'a>(
        &mut self,
        input: &'a [u8],
        prefix_bits: u32,
        indexing: bool,
        bounds: &Bounds,
        list: &mut HeaderList,
    ) -> Result<&'a [u8], Error> {
        let start = list.text.len();
        let (index, mut rest) = integer(input, prefix_bits)?;
        if index == 0 {
            rest = string(rest, &mut list.text)?;
        } else {
            let (name, _) = self.field(index)?;
            list.text.extend_from_slice(name);
        }
        let name_end = list.text.len();
        rest = string(rest, &mut list.text)?;
        let text = list.text.get(start..).unwrap_or_default();
        let (name, value) = text.split_at_checked(name_end - start).unwrap_or_default();
        let class = Class::of(name, value);
        if indexing {
            self.table.insert_noting(name, value, class);
        }
        list.push_appended(start, name_end, class, bounds)?;
        Ok(rest)
    }

    /// The field at `index` of the one address space of both tables (RFC 7541 2.3.3).
    fn field(&self, index: usize) -> Result<(&[u8], &[u8]), Error> {
        match index.checked_sub(STATIC_ENTRIES + 1) {
            Some(dynamic) => self.table.get(dynamic),
            None => static_field(index),
        }
        .ok_or(Error::Index)
    }
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

/// The integer with a prefix of `prefix_bits` that `input` begins with, and what follows it
/// (RFC 7541 5.1). It fits 32 bits.
#[inline]
fn integer(input: &[u8], prefix_bits: u32) -> Result<(usize, &[u8]), Error> {
    let (&first, rest) = input.split_first().ok_or(Error::Truncated)?;
    let prefix_max = u8::MAX >> (8 - prefix_bits);
    let prefix = first & prefix_max;
    // Most are one byte.
    match prefix == prefix_max {
        true => long_integer(prefix, rest),
        false => Ok((usize::from(prefix), rest)),
    }
}

/// The integer whose `prefix` is full, in front of `rest`.
#[inline(never)]
fn long_integer(prefix: u8, mut rest: &[u8]) -> Result<(usize, &[u8]), Error> {
    let mut value = u64::from(prefix);
    let mut shift = 0;
    loop {
        // RFC 7541 5.1: encodings "that exceed implementation limits -- in value or octet length --
        // MUST be treated as decoding errors".
        if shift == HPACK_INTEGER_BYTES_MAX * 7 {
            return Err(Error::IntegerOverflow);
        }
        let (&byte, after) = rest.split_first().ok_or(Error::Truncated)?;
        rest = after;
        value += u64::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            break;
        }
    }
    let value = u32::try_from(value).map_err(|_| Error::IntegerOverflow)?;
    Ok((value as usize, rest))
}

/// Appends the string literal that `input` begins with (RFC 7541 5.2); returns what follows it.
fn string<'a>(input: &'a [u8], out: &mut Vec<u8>) -> Result<&'a [u8], Error> {
    let is_huffman = input.first().is_some_and(|first| first & 0x80 != 0);
    let (length, rest) = integer(input, 7)?;
    let (text, rest) = rest.split_at_checked(length).ok_or(Error::Truncated)?;
    if is_huffman {
        huffman::decode(text, out)?;
    } else {
        out.extend_from_slice(text);
    }
    Ok(rest)
}

fn append(text: &mut Vec<u8>, part: &[u8]) -> Span {
    let start = offset(text);
    text.extend_from_slice(part);
    start..offset(text)
}

/// The end of `text` as a span has it. Header blocks are bounded far below 4 GiB; a longer one
/// would give spans that read as empty.
fn offset(text: &[u8]) -> u32 {
    u32::try_from(text.len()).unwrap_or(u32::MAX)
}

/// SETTINGS_HEADER_TABLE_SIZE before any is exchanged (RFC 9113 6.5.2).
const TABLE_BYTES_INITIAL: usize = 4096;

const SIZE_UPDATES_MAX: u32 = 2;

/// How many times the bounds of a list are read, to keep the connection of a peer that is answered
/// with 431. A reference costs a peer a byte and this side, with indexing, the copy of a whole name.
const EXCESS_FACTOR: usize = 4;

#[cfg(test)]
#[path = "decode_tests.rs"]
mod tests;
