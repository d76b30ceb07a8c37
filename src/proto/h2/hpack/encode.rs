//! Fields in, header block fragments out (RFC 7541 6).

use super::huffman;
use super::table::{DynamicTable, STATIC_ENTRIES, field_size, static_field, static_index_of};
use crate::limits::HPACK_ENCODER_TABLE_BYTES_MAX;
use crate::message::Status;

/// What the table may do with a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Indexing {
    /// It is likely to be sent again with the same value: kept in the table.
    Indexed,
    /// Its value belongs to one message: it would only push others out of the table.
    Literal,
    /// It is a secret: no table on the way may hold it, so that nobody can find it out by watching
    /// sizes (RFC 7541 7.1.3).
    Never,
}

impl Indexing {
    /// What is right for the field `name` (in lower case) whatever its value.
    pub fn of(name: &[u8]) -> Self {
        match name {
            b"authorization" | b"cookie" | b"proxy-authorization" | b"set-cookie" => Self::Never,
            b"age"
            | b"content-length"
            | b"content-location"
            | b"content-range"
            | b"etag"
            | b"if-match"
            | b"if-modified-since"
            | b"if-none-match"
            | b"if-range"
            | b"if-unmodified-since"
            | b"last-modified"
            | b"location"
            | b"range"
            | b":path" => Self::Literal,
            _ => Self::Indexed,
        }
    }
}

/// Appends a field that no table keeps ([`Indexing::Literal`]), as it is whatever went before: the
/// same bytes on every connection (RFC 7541 6.2.2).
pub fn literal(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    let name_index = static_index_of(name).unwrap_or(0);
    integer(0, 4, name_index, out);
    if name_index == 0 {
        string(name, out);
    }
    string(value, out);
}

/// The encoding side of one connection. Fields must be sent in the order they were encoded.
#[derive(Debug)]
pub struct Encoder {
    table: DynamicTable,
    /// The table size the peer knows of: the initial one or that of the last update.
    announced: usize,
    /// The smallest limit the peer has set since then.
    smallest_limit: usize,
    /// The limit the peer has set last.
    limit: usize,
}

impl Encoder {
    /// An encoder for a peer that has not sent SETTINGS yet.
    pub fn new() -> Self {
        Self {
            table: DynamicTable::new(HPACK_ENCODER_TABLE_BYTES_MAX),
            announced: TABLE_BYTES_INITIAL,
            smallest_limit: TABLE_BYTES_INITIAL,
            limit: TABLE_BYTES_INITIAL,
        }
    }

    /// The peer's SETTINGS_HEADER_TABLE_SIZE: how much of a table it keeps. However much it offers,
    /// no more is used than [`HPACK_ENCODER_TABLE_BYTES_MAX`].
    pub fn set_peer_table_size(&mut self, bytes: u32) {
        self.limit = bytes as usize;
        self.smallest_limit = self.smallest_limit.min(self.limit);
    }

    /// Begins a header block: appends the table size updates that are due (RFC 7541 4.2).
    pub fn begin(&mut self, out: &mut Vec<u8>) {
        if self.smallest_limit < self.announced {
            self.announce(self.smallest_limit, out);
        }
        let wanted = self.limit.min(HPACK_ENCODER_TABLE_BYTES_MAX);
        if wanted > self.announced {
            self.announce(wanted, out);
        }
        self.smallest_limit = self.limit;
    }

    /// Appends the response's `:status`.
    pub fn status(&mut self, status: Status, out: &mut Vec<u8>) {
        if let Some(index) = static_index_of_status(status) {
            integer(0b1000_0000, 7, index, out);
            return;
        }
        let digits = [100, 10, 1].map(|unit| b'0' + (status.0 / unit % 10) as u8);
        self.field(b":status", &digits, Indexing::Indexed, out);
    }

    /// Appends a field if the dynamic table has it: one that was [indexed](Indexing::Indexed) before.
    pub fn repeat(&self, name: &[u8], value: &[u8], out: &mut Vec<u8>) -> bool {
        let index = self.table.index_of(name, value);
        if let Some(index) = index {
            integer(0b1000_0000, 7, STATIC_ENTRIES + 1 + index, out);
        }
        index.is_some()
    }

    /// Appends a field. `name` must be in lower case (RFC 9113 8.2).
    pub fn field(&mut self, name: &[u8], value: &[u8], indexing: Indexing, out: &mut Vec<u8>) {
        // What the static table has is never put into the other.
        if indexing == Indexing::Indexed && self.repeat(name, value, out) {
            return;
        }
        let name_index = match self.find(name, value, indexing) {
            Found::Field(index) => {
                integer(0b1000_0000, 7, index, out);
                return;
            }
            Found::Name(index) => index,
            Found::Nothing => 0,
        };
        // A field that takes a good part of the table would cost more fields than it saves.
        let fits = field_size(name, value) <= self.table.size_max() / 4;
        match indexing {
            Indexing::Indexed if fits => {
                integer(0b0100_0000, 6, name_index, out);
                self.table.insert(name, value);
            }
            Indexing::Indexed | Indexing::Literal => integer(0, 4, name_index, out),
            Indexing::Never => integer(0b0001_0000, 4, name_index, out),
        }
        if name_index == 0 {
            string(name, out);
        }
        string(value, out);
    }

    fn announce(&mut self, size: usize, out: &mut Vec<u8>) {
        integer(0b0010_0000, 5, size, out);
        self.announced = size;
        self.table
            .set_size_max(size.min(HPACK_ENCODER_TABLE_BYTES_MAX));
    }

    /// What the tables have of a field that the dynamic one does not have as a whole.
    fn find(&self, name: &[u8], value: &[u8], indexing: Indexing) -> Found {
        let Some(first) = static_index_of(name) else {
            let newest = match indexing {
                Indexing::Indexed => self.table.index_of_name(name),
                Indexing::Literal | Indexing::Never => None,
            };
            return newest.map_or(Found::Nothing, |index| {
                Found::Name(STATIC_ENTRIES + 1 + index)
            });
        };
        // Those of one name follow each other; one without a value is alone.
        for index in first..=STATIC_ENTRIES {
            match static_field(index) {
                Some((n, v)) if !v.is_empty() && (index == first || n == name) => {
                    if v == value {
                        return Found::Field(index);
                    }
                }
                _ => break,
            }
        }
        Found::Name(first)
    }
}

impl Default for Encoder {
    fn default() -> Self {
        Self::new()
    }
}

/// What the tables have of a field, as an index of their one address space.
enum Found {
    Field(usize),
    Name(usize),
    Nothing,
}

/// RFC 7541 Appendix A.
fn static_index_of_status(status: Status) -> Option<usize> {
    match status.0 {
        200 => Some(8),
        204 => Some(9),
        206 => Some(10),
        304 => Some(11),
        400 => Some(12),
        404 => Some(13),
        500 => Some(14),
        _ => None,
    }
}

/// Appends `value` with a prefix of `prefix_bits` under `pattern` (RFC 7541 5.1).
fn integer(pattern: u8, prefix_bits: u32, value: usize, out: &mut Vec<u8>) {
    let low_byte = |number: usize| number.to_le_bytes()[0];
    let prefix_max = (1_usize << prefix_bits) - 1;
    out.push(pattern | low_byte(value.min(prefix_max)));
    let Some(mut rest) = value.checked_sub(prefix_max) else {
        return;
    };
    while rest >= 0x80 {
        out.push(low_byte(rest) | 0x80);
        rest >>= 7;
    }
    out.push(low_byte(rest));
}

/// Appends a string literal, in Huffman code where that is shorter (RFC 7541 5.2).
fn string(text: &[u8], out: &mut Vec<u8>) {
    let encoded_len = huffman::encoded_len(text);
    if encoded_len < text.len() {
        integer(0b1000_0000, 7, encoded_len, out);
        huffman::encode(text, out);
    } else {
        integer(0, 7, text.len(), out);
        out.extend_from_slice(text);
    }
}

/// SETTINGS_HEADER_TABLE_SIZE before any is exchanged (RFC 9113 6.5.2).
const TABLE_BYTES_INITIAL: usize = 4096;

#[cfg(test)]
#[path = "encode_tests.rs"]
mod tests;
