//! Message bodies (RFC 9112 6-7): taken out of the input without copying, bounded in every part.

use bytes::{Buf, Bytes, BytesMut};

use crate::limits::{
    BODY_OVERHEAD_BYTES_MAX, CHUNK_LINE_BYTES_MAX, CHUNK_SIZE_DIGITS_MAX, TRAILER_BYTES_MAX,
    TRAILER_FIELDS_MAX,
};
use crate::message::{Fields, Span};
use crate::proto::h1::Refusal;
use crate::proto::syntax::{is_field_value_byte, is_tchar, is_token, trim_ows};

/// One step of a [`BodyDecoder`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// Bytes of the body, never empty.
    Data(Bytes),
    /// All input is used; receive more and call again.
    NeedMore,
    /// The body is complete. What is left of the input belongs to the next request.
    End,
}

/// Decodes one message body.
#[derive(Debug)]
pub struct BodyDecoder {
    state: State,
    /// Bytes the body may still have; only a chunked one can exceed it.
    budget: u64,
    /// Bytes of chunk extensions and trailers, which are read but not kept, still tolerated.
    overhead: usize,
    /// How far the input was searched for the end of the current line.
    scanned: usize,
    /// The trailer fields, where they are kept.
    trailers: Option<Trailers>,
}

/// Trailer fields: their lines one after the other, and where names and values are.
#[derive(Debug, Default)]
struct Trailers {
    block: Vec<u8>,
    entries: Vec<(Span, Span)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// So many bytes are left of a body of known length.
    Known(u64),
    /// A chunk's size line comes next.
    ChunkSize,
    /// So many bytes are left of a chunk.
    ChunkData(u64),
    /// The CRLF after a chunk's data comes next.
    ChunkEnd,
    /// A trailer field or the empty line after them comes next; so many fields were read.
    Trailers(usize),
    /// Complete.
    Done,
}

impl BodyDecoder {
    /// A body of exactly `length` bytes. The caller has held that against its bound.
    pub fn known(length: u64) -> Self {
        Self::new(State::Known(length), length)
    }

    /// A chunked body of at most `body_bytes_max` bytes.
    pub fn chunked(body_bytes_max: u64) -> Self {
        Self::new(State::ChunkSize, body_bytes_max)
    }

    /// The same decoder, which keeps the trailer fields for [`BodyDecoder::take_trailers`].
    #[must_use]
    pub fn keeping_trailers(mut self) -> Self {
        self.trailers = Some(Trailers::default());
        self
    }

    /// The trailer fields that were kept, once the body is complete.
    pub fn take_trailers(&mut self) -> Fields {
        let Trailers { block, entries } = self.trailers.take().unwrap_or_default();
        Fields::new(block.into(), entries)
    }

    /// Whether the body has been decoded to its end.
    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Done | State::Known(0))
    }

    /// The bytes still to come, where the length is known.
    pub fn remaining_exact(&self) -> Option<u64> {
        match self.state {
            State::Known(left) => Some(left),
            State::Done => Some(0),
            State::ChunkSize | State::ChunkData(_) | State::ChunkEnd | State::Trailers(_) => None,
        }
    }

    /// So many bytes of a body of known length were taken elsewhere.
    pub fn skip(&mut self, bytes: u64) {
        if let State::Known(left) = self.state {
            self.state = State::Known(left.saturating_sub(bytes));
        }
    }

    /// Takes the next part of the body off `input`, which must begin with the bytes that the call
    /// before left in it.
    ///
    /// # Errors
    /// 413 when a chunked body exceeds its bound, 431 for too many or too large trailers, 400 for
    /// malformed framing. Nothing in the connection can be understood after one.
    pub fn decode(&mut self, input: &mut BytesMut) -> Result<Decoded, Refusal> {
        loop {
            match self.state {
                State::Done | State::Known(0) => return Ok(Decoded::End),
                State::Known(left) => {
                    let Some((data, left)) = take(input, left) else {
                        return Ok(Decoded::NeedMore);
                    };
                    self.state = State::Known(left);
                    return Ok(Decoded::Data(data));
                }
                State::ChunkData(left) => {
                    let Some((data, left)) = take(input, left) else {
                        return Ok(Decoded::NeedMore);
                    };
                    self.state = match left {
                        0 => State::ChunkEnd,
                        left => State::ChunkData(left),
                    };
                    return Ok(Decoded::Data(data));
                }
                State::ChunkSize => match self.take_line(input, CHUNK_LINE_BYTES_MAX)? {
                    None => return Ok(Decoded::NeedMore),
                    Some(line) => self.begin_chunk(&line)?,
                },
                State::ChunkEnd => match &**input {
                    [b'\r', b'\n', ..] => {
                        input.advance(2);
                        self.state = State::ChunkSize;
                    }
                    [] | [b'\r'] => return Ok(Decoded::NeedMore),
                    _ => return Err(Refusal::bad("a chunk does not end with its size")),
                },
                State::Trailers(count) => match self.take_line(input, TRAILER_BYTES_MAX)? {
                    None => return Ok(Decoded::NeedMore),
                    Some(line) if line.is_empty() => self.state = State::Done,
                    Some(line) => self.read_trailer(&line, count)?,
                },
            }
        }
    }

    fn new(state: State, budget: u64) -> Self {
        Self {
            state,
            budget,
            overhead: BODY_OVERHEAD_BYTES_MAX,
            scanned: 0,
            trailers: None,
        }
    }

    /// The next line without its CRLF, or `None` when its end has not come yet.
    fn take_line(
        &mut self,
        input: &mut BytesMut,
        line_bytes_max: usize,
    ) -> Result<Option<Bytes>, Refusal> {
        let unseen = input.get(self.scanned..).unwrap_or_default();
        let Some(newline) = memchr::memchr(b'\n', unseen) else {
            self.scanned = input.len();
            return if input.len() > line_bytes_max {
                Err(self.too_long())
            } else {
                Ok(None)
            };
        };
        let end = self.scanned + newline + 1;
        self.scanned = 0;
        if end > line_bytes_max {
            return Err(self.too_long());
        }
        let mut line = input.split_to(end).freeze();
        if !line.ends_with(b"\r\n") {
            return Err(Refusal::bad(
                "a line in the chunked framing ends in a bare LF",
            ));
        }
        line.truncate(line.len() - 2);
        Ok(Some(line))
    }

    fn too_long(&self) -> Refusal {
        match self.state {
            State::Trailers(_) => TRAILERS_TOO_LARGE,
            State::Known(_)
            | State::ChunkSize
            | State::ChunkData(_)
            | State::ChunkEnd
            | State::Done => Refusal::bad("a chunk's size line is too long"),
        }
    }

    /// Reads `chunk-size [ chunk-ext ]` (RFC 9112 7.1).
    fn begin_chunk(&mut self, line: &[u8]) -> Result<(), Refusal> {
        let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
        let (size, extensions) = line.split_at_checked(digits).unwrap_or_default();
        let size = chunk_size(size).ok_or(Refusal::bad("malformed chunk size"))?;
        if !are_extensions(extensions) {
            return Err(Refusal::bad("malformed chunk extension"));
        }
        // One chunk's line is bounded, but there may be one for every byte of the body.
        self.overhead = self
            .overhead
            .checked_sub(extensions.len())
            .ok_or(Refusal::bad("too many chunk extensions"))?;
        self.budget = self.budget.checked_sub(size).ok_or(Refusal::new(
            413,
            "the body is larger than limits.body_bytes_max",
        ))?;
        self.state = match size {
            0 => State::Trailers(0),
            size => State::ChunkData(size),
        };
        Ok(())
    }

    /// Checks one trailer field, and keeps it or drops it: RFC 9112 7.1.2 lets a recipient discard
    /// them, and none is merged into the head (RFC 9110 6.5.1).
    fn read_trailer(&mut self, line: &[u8], count: usize) -> Result<(), Refusal> {
        let colon = line.iter().position(|&byte| byte == b':');
        let (name, value) = colon
            .and_then(|colon| line.split_at_checked(colon))
            .ok_or(MALFORMED_TRAILER)?;
        let value_valid = value.iter().skip(1).copied().all(is_field_value_byte);
        if !is_token(name) || !value_valid {
            return Err(MALFORMED_TRAILER);
        }
        self.overhead = self
            .overhead
            .checked_sub(line.len())
            .ok_or(TRAILERS_TOO_LARGE)?;
        if count == TRAILER_FIELDS_MAX {
            return Err(TRAILERS_TOO_LARGE);
        }
        self.state = State::Trailers(count + 1);
        if let Some(trailers) = &mut self.trailers {
            trailers.push(name, trim_ows(value.get(1..).unwrap_or_default()));
        }
        Ok(())
    }
}

impl Trailers {
    fn push(&mut self, name: &[u8], value: &[u8]) {
        let mut append = |text: &[u8]| {
            let start = self.block.len();
            self.block.extend_from_slice(text);
            Some(u32::try_from(start).ok()?..u32::try_from(self.block.len()).ok()?)
        };
        // The overhead bounds them far below 4 GiB.
        if let (Some(name), Some(value)) = (append(name), append(value)) {
            self.entries.push((name, value));
        }
    }
}

/// Up to `left` bytes off `input`, and how many are left then. `None` when there are none.
fn take(input: &mut BytesMut, left: u64) -> Option<(Bytes, u64)> {
    if input.is_empty() {
        return None;
    }
    let count = usize::try_from(left).map_or(input.len(), |left| left.min(input.len()));
    Some((input.split_to(count).freeze(), left - count as u64))
}

/// The number that 1 to 16 hexadecimal digits make: it fits 64 bits.
fn chunk_size(digits: &[u8]) -> Option<u64> {
    if digits.len() > CHUNK_SIZE_DIGITS_MAX {
        return None;
    }
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// Whether `text` is `*( BWS ";" BWS name [ BWS "=" BWS ( token / quoted-string ) ] )` (RFC 9112
/// 7.1.1).
fn are_extensions(mut text: &[u8]) -> bool {
    while !text.is_empty() {
        let Some(rest) = trim_start_ows(text).strip_prefix(b";") else {
            return false;
        };
        let Some(rest) = skip_token(trim_start_ows(rest)) else {
            return false;
        };
        text = rest;
        if let Some(value) = trim_start_ows(rest).strip_prefix(b"=") {
            let value = trim_start_ows(value);
            let rest = match value {
                [b'"', quoted @ ..] => skip_quoted(quoted),
                _ => skip_token(value),
            };
            let Some(rest) = rest else {
                return false;
            };
            text = rest;
        }
    }
    true
}

fn trim_start_ows(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = text {
        text = rest;
    }
    text
}

/// What follows the token that `text` begins with; `None` when there is none.
fn skip_token(text: &[u8]) -> Option<&[u8]> {
    let length = text.iter().copied().take_while(|&b| is_tchar(b)).count();
    if length == 0 {
        return None;
    }
    text.get(length..)
}

/// What follows a quoted-string (RFC 9110 5.6.4) whose first quotation mark is already read.
fn skip_quoted(mut text: &[u8]) -> Option<&[u8]> {
    loop {
        text = match text {
            [b'"', rest @ ..] => return Some(rest),
            [b'\\', escaped, rest @ ..] if is_field_value_byte(*escaped) => rest,
            [b'\\', ..] | [] => return None,
            [byte, rest @ ..] if is_field_value_byte(*byte) => rest,
            _ => return None,
        };
    }
}

const MALFORMED_TRAILER: Refusal = Refusal::bad("malformed trailer field");
const TRAILERS_TOO_LARGE: Refusal = Refusal::new(431, "too many or too large trailer fields");

#[cfg(test)]
#[path = "body_tests.rs"]
mod tests;
