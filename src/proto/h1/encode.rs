//! Response framing (RFC 9112 4, 6, 7): heads and chunks, written into a buffer handed in.

use bytes::Bytes;

use crate::message::{Fields, Interim, Lines, Method, Status, Version};
use crate::proto::syntax::push_decimal;

/// How the end of a response's body is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// No framing field.
    None,
    /// `content-length`.
    Length(u64),
    /// `transfer-encoding: chunked`.
    Chunked,
    /// By the end of the connection (RFC 9112 6.3, item 8); for HTTP/1.0.
    Close,
}

/// How a response is framed, and whether its body is sent at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What the head says.
    pub framing: Framing,
    /// Whether body bytes follow the head.
    pub sends_body: bool,
}

impl Plan {
    /// The framing of a response of `status` to a request of `method` and `version`, whose body has
    /// `length` bytes, `None` when only its end will tell. For HEAD and 304 that is the body GET
    /// would have had.
    pub fn new(method: &Method, version: Version, status: Status, length: Option<u64>) -> Self {
        let bare = |framing| Self {
            framing,
            sends_body: false,
        };
        match status.0 {
            // RFC 9110 8.6: no Content-Length in 1xx and 204; RFC 9112 6.1: no Transfer-Encoding.
            100..=199 | 204 => return bare(Framing::None),
            // RFC 9110 15.3.6: no content is generated, and its absence is stated.
            205 => return bare(Framing::Length(0)),
            // RFC 9110 8.6: only the length that a 200 would have had. An empty body here means
            // that nobody made one.
            304 => {
                return bare(match length {
                    None | Some(0) => Framing::None,
                    Some(length) => Framing::Length(length),
                });
            }
            _ => {}
        }
        let framing = match length {
            Some(length) => Framing::Length(length),
            // RFC 9110 9.3.2: what is only known after making the body may be left out.
            None if *method == Method::Head => Framing::None,
            // RFC 9112 6.1: never to a client that is not known to understand 1.1.
            None if version >= Version::Http11 => Framing::Chunked,
            None => Framing::Close,
        };
        let sends_body = *method != Method::Head && length != Some(0);
        Self {
            framing,
            sends_body,
        }
    }

    /// Whether the connection must end for the client to see the end of the body.
    pub fn closes(self) -> bool {
        self.framing == Framing::Close
    }
}

/// What a response head says.
#[derive(Clone, Copy, Debug)]
pub struct ResponseHead<'a> {
    /// The status.
    pub status: Status,
    /// The version of the request: a 1.0 client is told when the connection persists.
    pub version: Version,
    /// The Date (RFC 9110 6.6.1), as text.
    pub date: &'a [u8],
    /// The lines of a [`crate::message::FieldBlock`]; empty without one.
    pub block_lines: &'a [u8],
    /// The other fields.
    pub fields: &'a [(&'static str, Bytes)],
    /// Fields of another server's response, passed on.
    pub relayed: Option<&'a Fields>,
    /// How the body ends.
    pub framing: Framing,
    /// Whether the connection is kept (RFC 9112 9.3, 9.6).
    pub keep_alive: bool,
}

impl ResponseHead<'_> {
    /// Appends the head, its empty line included, to `out`.
    ///
    /// The version is always 1.1, the highest of this major version that is spoken here, also to
    /// 1.0 clients (RFC 9110 2.5).
    pub fn write(&self, out: &mut Vec<u8>) {
        out.reserve(HEAD_BYTES_USUAL);
        out.extend_from_slice(b"HTTP/1.1 ");
        push_decimal(out, u64::from(self.status.0));
        out.push(b' ');
        out.extend_from_slice(self.status.reason().as_bytes());
        // RFC 9110 6.6.1: a date that the origin generated is the response's own.
        if self
            .relayed
            .is_none_or(|fields| fields.first("date").is_none())
        {
            out.extend_from_slice(b"\r\ndate: ");
            out.extend_from_slice(self.date);
        }
        out.extend_from_slice(self.block_lines);
        push_field_lines(out, self.fields);
        if let Some(relayed) = self.relayed {
            push_lines(out, relayed.lines(|_| true));
        }
        match self.framing {
            Framing::Length(length) => {
                out.extend_from_slice(b"\r\ncontent-length: ");
                push_decimal(out, length);
            }
            Framing::Chunked => out.extend_from_slice(b"\r\ntransfer-encoding: chunked"),
            Framing::None | Framing::Close => {}
        }
        match (self.keep_alive, self.version) {
            // RFC 9110 7.8: the Upgrade field that names the protocol is for this connection.
            _ if self.status == Status(101) => out.extend_from_slice(b"\r\nconnection: upgrade"),
            (false, _) => out.extend_from_slice(b"\r\nconnection: close"),
            (true, Version::Http10) => out.extend_from_slice(b"\r\nconnection: keep-alive"),
            (true, Version::Http11 | Version::Http2) => {}
        }
        out.extend_from_slice(b"\r\n\r\n");
    }
}

/// Appends the lines of `fields` (RFC 9112 5), each with the CRLF that ends the line before it.
pub fn push_field_lines(out: &mut Vec<u8>, fields: &[(&'static str, Bytes)]) {
    for (name, value) in fields {
        push_field_line(out, name.as_bytes(), value);
    }
}

/// Appends one field's line, with the CRLF that ends the line before it. The name must be a token.
pub fn push_field_line(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    push_value(out, value);
}

/// Appends `lines`, each with the CRLF that ends the line before it.
pub fn push_lines<'a>(out: &mut Vec<u8>, lines: impl Iterator<Item = Lines<'a>>) {
    for lines in lines {
        match lines {
            Lines::Written(text) => out.extend_from_slice(text),
            Lines::Unwritten(name, value) => push_field_line(out, name, value),
        }
    }
}

/// As [`push_field_line`], for a list of `members` (RFC 9110 5.6.1).
pub fn push_list_line<'a>(
    out: &mut Vec<u8>,
    name: &[u8],
    mut members: impl Iterator<Item = &'a [u8]>,
) {
    push_field_line(out, name, members.next().unwrap_or_default());
    for member in members {
        out.extend_from_slice(b", ");
        push_value(out, member);
    }
}

/// Appends the line that begins a chunk of `length` bytes (RFC 9112 7.1). `length` must not be
/// zero: that would end the body.
pub fn push_chunk_line(out: &mut Vec<u8>, length: usize) {
    debug_assert!(length > 0, "a chunk of zero bytes ends the body");
    let digits = (usize::BITS - length.leading_zeros()).div_ceil(4).max(1);
    for place in (0..digits).rev() {
        let digit = (length >> (4 * place)) & 0xf;
        out.push(HEX_DIGITS.get(digit).copied().unwrap_or(b'0'));
    }
    out.extend_from_slice(b"\r\n");
}

/// What follows a chunk's data.
pub const CHUNK_END: &[u8] = b"\r\n";

/// Appends the last chunk and the trailer fields (RFC 9112 7.1.2).
pub fn push_last_chunk(out: &mut Vec<u8>, trailers: &Fields) {
    out.push(b'0');
    for (name, value) in trailers.iter() {
        push_field_line(out, name, value);
    }
    out.extend_from_slice(b"\r\n\r\n");
}

/// The interim response to `Expect: 100-continue` (RFC 9110 15.2.1).
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Appends an interim response (RFC 9110 15.2).
pub fn push_interim(out: &mut Vec<u8>, interim: &Interim) {
    out.extend_from_slice(b"HTTP/1.1 ");
    push_decimal(out, u64::from(interim.status.0));
    out.push(b' ');
    out.extend_from_slice(interim.status.reason().as_bytes());
    for (name, value) in interim.fields.iter() {
        push_field_line(out, name, value);
    }
    out.extend_from_slice(b"\r\n\r\n");
}

/// Appends a field value. CR, LF and NUL, with which a value could forge fields or a response,
/// become spaces (RFC 9110 5.5).
fn push_value(out: &mut Vec<u8>, value: &[u8]) {
    let forges = may_forge(value) && value.iter().any(|&byte| matches!(byte, b'\r' | b'\n' | 0));
    if !forges {
        out.extend_from_slice(value);
        return;
    }
    out.extend(value.iter().map(|&byte| match byte {
        b'\r' | b'\n' | 0 => b' ',
        other => other,
    }));
}

/// Whether some byte of `value` is below 0x10, as those that forge are: eight at a time. Most values are
/// short, so that calling memchr for one costs more than looking at all of it.
fn may_forge(value: &[u8]) -> bool {
    // A byte below n borrows from its high bit where n is subtracted from it, and had none.
    let has_low = |word: u64| word.wrapping_sub(BYTES * 0x10) & !word & (BYTES * 0x80) != 0;
    let Some(last) = value.last_chunk::<8>() else {
        return value.iter().any(|&byte| byte < 0x10);
    };
    // The last word may have bytes of the one before.
    let (words, _) = value.as_chunks::<8>();
    let mut words = words.iter().chain([last]);
    words.any(|word| has_low(u64::from_ne_bytes(*word)))
}

/// One in each byte of a word.
const BYTES: u64 = u64::from_ne_bytes([1; 8]);

const HEX_DIGITS: &[u8; 16] = b"0123456789abcdef";
/// Room for a usual head, so that the buffer grows at most once.
const HEAD_BYTES_USUAL: usize = 512;

#[cfg(test)]
#[path = "encode_tests.rs"]
mod tests;
