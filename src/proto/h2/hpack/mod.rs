//! Header compression (RFC 7541).
//!
//! [`Decoder`] turns one header block at a time into a [`HeaderList`]: one run of bytes and a table
//! of spans, reused from block to block. [`Encoder`] appends fields to a buffer. Both own a dynamic
//! table that is bounded by what this program offers, whatever the peer asks for.

pub mod decode;
pub mod encode;
pub mod huffman;
pub mod table;

use std::fmt;

pub use decode::{Bounds, Decoder, HeaderList};
pub use encode::{Encoder, Indexing, literal};

use super::ErrorCode;

/// Why a header block cannot be decoded. All of them are connection errors (RFC 9113 4.3): the
/// dynamic tables of the two sides no longer agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The block ends within a field.
    Truncated,
    /// An integer is larger than any length or index can be (RFC 7541 5.1).
    IntegerOverflow,
    /// EOS or bad padding in a Huffman string (RFC 7541 5.2).
    Huffman,
    /// An index of zero, or behind the end of both tables (RFC 7541 2.3.3, 6.1).
    Index,
    /// A table size over the limit (RFC 7541 6.3).
    TableSize,
    /// A table size update after the first field, or more than the two that can make sense
    /// (RFC 7541 4.2).
    UnexpectedSizeUpdate,
    /// The table's limit was lowered and acknowledged, and the block does not begin with the size
    /// update that must follow (RFC 7541 4.2).
    MissingSizeUpdate,
    /// The list is so far over its bounds that reading the rest, only to drop it, would be work for
    /// an attacker.
    Excessive,
}

impl Error {
    /// The code that the connection ends with.
    pub fn code(self) -> ErrorCode {
        match self {
            Self::Excessive => ErrorCode::EnhanceYourCalm,
            Self::Truncated
            | Self::IntegerOverflow
            | Self::Huffman
            | Self::Index
            | Self::TableSize
            | Self::UnexpectedSizeUpdate
            | Self::MissingSizeUpdate => ErrorCode::Compression,
        }
    }

    /// What was wrong, for the log.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Truncated => "the header block ends within a field",
            Self::IntegerOverflow => "an integer in the header block is too large",
            Self::Huffman => "malformed Huffman code in the header block",
            Self::Index => "the header block refers to no table entry",
            Self::TableSize => "a header table larger than allowed",
            Self::UnexpectedSizeUpdate => "a header table size update out of place",
            Self::MissingSizeUpdate => "the header table was not reduced as acknowledged",
            Self::Excessive => "a header list far over the bound",
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason())
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
#[path = "interop_tests.rs"]
mod interop_tests;
