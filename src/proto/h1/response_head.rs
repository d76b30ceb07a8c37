//! Response heads (RFC 9112 4-6) of the servers that requests are passed on to: where one ends, what
//! it says, how much body follows.
//!
//! As strict as the request parser: what a client could read otherwise than this parser is refused,
//! so that no upstream can smuggle a response past it or split one in two.

use bytes::BytesMut;
use httparse::{EMPTY_HEADER, Header};

use super::Malformed;
use super::parse::{FIELDS_USUAL_MAX, span_within};
use crate::limits::{HEADER_FIELDS_MAX, INTERIM_RESPONSES_MAX, UPSTREAM_HEADER_BYTES_MAX};
use crate::message::{Fields, Interim, Method, Span, Status, Version};
use crate::proto::hop_by_hop::{ConnectionOptions, TooManyOptions};
use crate::proto::syntax::decimal;

/// What a response head says.
#[derive(Clone, Debug)]
pub struct ResponseHead {
    /// The status: 101, or 200 and above.
    pub status: Status,
    /// All fields.
    pub fields: Fields,
    /// How the end of its body is told.
    pub framing: Framing,
    /// content-length, also where no body follows (HEAD, 304).
    pub content_length: Option<u64>,
    /// Whether the connection may be used again after the body (RFC 9112 9.3).
    pub keep_alive: bool,
    /// What its connection fields name.
    pub options: ConnectionOptions,
}

/// How the end of a response's body is told (RFC 9112 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is no body, whatever the fields say.
    None,
    /// So many bytes.
    Length(u64),
    /// Chunked.
    Chunked,
    /// The connection's end.
    Close,
}

/// Finds and parses the head of one response, past the interim ones before it.
#[derive(Debug, Default)]
pub struct ResponseParser {
    /// Bytes of the input already looked at.
    scanned: usize,
    /// Where the line not yet complete begins.
    line_start: usize,
    /// The length of the status line, once it is complete, without its CRLF.
    status_line_bytes: usize,
    /// Complete lines.
    lines: usize,
    /// How many interim responses there were.
    interim: usize,
    /// Those that are to be passed on.
    interims: Vec<Interim>,
    has_continue: bool,
}

impl ResponseParser {
    /// The head of the final response to a request of `method`, or of a 101, taken off `input`;
    /// `None` when more bytes are needed. `input` must begin with the bytes it had at the call before.
    ///
    /// # Errors
    /// As soon as the bytes cannot become an acceptable head.
    pub fn parse(
        &mut self,
        input: &mut BytesMut,
        method: &Method,
    ) -> Result<Option<ResponseHead>, Malformed> {
        while let Some(head) = self.next_head(input, method)? {
            if head.status.0 >= 200 || head.status.0 == 101 {
                return Ok(Some(head));
            }
            self.interim += 1;
            if self.interim > INTERIM_RESPONSES_MAX {
                return Err(Malformed("too many interim responses"));
            }
            match head.status {
                Status(100) => self.has_continue = true,
                status => self.interims.push(Interim {
                    status,
                    fields: head.fields,
                }),
            }
        }
        Ok(None)
    }

    /// The interim responses that have come, but for 100 (Continue).
    pub fn take_interims(&mut self) -> Vec<Interim> {
        std::mem::take(&mut self.interims)
    }

    /// Whether 100 (Continue) has come: the server wants the request's body (RFC 9110 10.1.1). A client is
    /// told so where its body is asked for.
    pub fn has_continue(&self) -> bool {
        self.has_continue
    }

    fn next_head(
        &mut self,
        input: &mut BytesMut,
        method: &Method,
    ) -> Result<Option<ResponseHead>, Malformed> {
        // Nearly always a head comes at once. What is wrong with one that does not look so is told by
        // looking at each line, and all of it again costs at most as much as the first look.
        if self.scanned == 0
            && let Some(read) = read_whole(input, method)
        {
            return Ok(Some(read.off(input)));
        }
        let Some(end) = self.find_end(input)? else {
            return Ok(None);
        };
        let status_line_bytes = self.status_line_bytes;
        *self = Self {
            interim: self.interim,
            interims: std::mem::take(&mut self.interims),
            has_continue: self.has_continue,
            ..Self::default()
        };
        let text = input.get(..end).unwrap_or_default();
        let read = read::<HEADER_FIELDS_MAX>(text, status_line_bytes, method)?;
        if read.end != end {
            return Err(MALFORMED_FIELDS);
        }
        Ok(Some(read.off(input)))
    }

    fn find_end(&mut self, input: &BytesMut) -> Result<Option<usize>, Malformed> {
        loop {
            let unseen = input.get(self.scanned..).unwrap_or_default();
            let Some(newline) = memchr::memchr(b'\n', unseen) else {
                self.scanned = input.len();
                // Not HTTP at all: no reason to wait for more.
                let start = input.get(..VERSION_START.len().min(input.len()));
                if !start.is_some_and(|start| VERSION_START.starts_with(start)) {
                    return Err(NOT_HTTP);
                }
                if input.len() > UPSTREAM_HEADER_BYTES_MAX {
                    return Err(TOO_LARGE);
                }
                return Ok(None);
            };
            let end = self.scanned + newline + 1;
            if end > UPSTREAM_HEADER_BYTES_MAX {
                return Err(TOO_LARGE);
            }
            let line = input.get(self.line_start..end).unwrap_or_default();
            let Some(line) = line.strip_suffix(b"\r\n") else {
                return Err(Malformed("a line in the head ends in a bare LF"));
            };
            match (line.len(), self.lines) {
                (_, 0) if !line.starts_with(VERSION_START) => return Err(NOT_HTTP),
                (bytes, 0) => self.status_line_bytes = bytes,
                (0, _) => return Ok(Some(end)),
                (_, before) if before > HEADER_FIELDS_MAX => return Err(TOO_MANY_FIELDS),
                _ => {}
            }
            self.lines += 1;
            self.scanned = end;
            self.line_start = end;
        }
    }
}

/// A head that was read and is still in the input.
struct Read {
    /// Where it ends, after its empty line.
    end: usize,
    status: Status,
    framing: Framing,
    content_length: Option<u64>,
    keep_alive: bool,
    options: ConnectionOptions,
    entries: Vec<(Span, Span)>,
}

impl Read {
    /// Takes the head off `input`.
    fn off(self, input: &mut BytesMut) -> ResponseHead {
        let block = input.split_to(self.end).freeze();
        ResponseHead {
            status: self.status,
            framing: self.framing,
            content_length: self.content_length,
            keep_alive: self.keep_alive,
            options: self.options,
            fields: Fields::of_head(block, self.entries),
        }
    }
}

/// The head that `text` begins with, if all of it is there and nothing is wrong with it, and it is no
/// larger than most.
fn read_whole(text: &[u8], method: &Method) -> Option<Read> {
    let newline = memchr::memchr(b'\n', text)?;
    let status_line = text.get(..newline)?.strip_suffix(b"\r")?;
    let read = read::<FIELDS_USUAL_MAX>(text, status_line.len(), method).ok()?;
    let is_good =
        read.end <= UPSTREAM_HEADER_BYTES_MAX && ends_in_crlf(text, &read.entries, read.end);
    is_good.then_some(read)
}

/// Whether the lines of a head do, which httparse takes without CR as well: a field's name begins behind
/// the end of the line before it.
fn ends_in_crlf(text: &[u8], entries: &[(Span, Span)], end: usize) -> bool {
    let before = |end: usize| text.get(..end).unwrap_or_default();
    let are_lines = entries
        .iter()
        .all(|(name, _)| before(name.start as usize).ends_with(b"\r\n"));
    are_lines && before(end).ends_with(b"\r\n\r\n")
}

/// The head that `text` begins with, of at most `N` fields.
fn read<const N: usize>(
    text: &[u8],
    status_line_bytes: usize,
    method: &Method,
) -> Result<Read, Malformed> {
    let (version, status) = parse_status_line(text.get(..status_line_bytes).unwrap_or_default())?;
    let fields_start = status_line_bytes + 2;
    let field_text = text.get(fields_start..).unwrap_or_default();
    let mut table = [EMPTY_HEADER; N];
    let (fields_bytes, headers) = match httparse::parse_headers(field_text, &mut table) {
        Ok(httparse::Status::Complete(complete)) => complete,
        Err(httparse::Error::TooManyHeaders) => return Err(TOO_MANY_FIELDS),
        // obs-fold too: RFC 9112 5.2 lets a proxy answer with 502.
        Ok(httparse::Status::Partial) | Err(_) => return Err(MALFORMED_FIELDS),
    };
    let mut control = Control::default();
    let mut entries = Vec::with_capacity(headers.len());
    for field in headers {
        control.read(field)?;
        let name = span_within(text, field.name.as_bytes()).ok_or(TOO_LARGE)?;
        let value = span_within(text, field.value).ok_or(TOO_LARGE)?;
        entries.push((name, value));
    }
    let framing = control.framing(method, version, status)?;
    let options = control.options;
    let has = |option| options.contains(option);
    let persists = !has("close") && (version >= Version::Http11 || has("keep-alive"));
    Ok(Read {
        end: fields_start + fields_bytes,
        status,
        framing,
        content_length: control.content_length,
        keep_alive: persists && framing != Framing::Close,
        options,
        entries,
    })
}

/// `HTTP-version SP status-code SP [ reason-phrase ]` (RFC 9112 4); the second space may be missing
/// where the reason is, as many servers write it.
fn parse_status_line(line: &[u8]) -> Result<(Version, Status), Malformed> {
    let (version, rest) = line.split_at_checked(VERSION_BYTES).ok_or(NOT_HTTP)?;
    let version = match version {
        b"HTTP/1.0" => Version::Http10,
        // RFC 9110 2.5: a higher minor version is read as the highest known.
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'1'..=b'9'] => Version::Http11,
        _ => return Err(NOT_HTTP),
    };
    let (digits, reason) = match rest {
        [b' ', a, b, c] => ([*a, *b, *c], &[][..]),
        [b' ', a, b, c, b' ', reason @ ..] => ([*a, *b, *c], reason),
        _ => return Err(MALFORMED_STATUS),
    };
    // RFC 9110 15: other classes are invalid.
    let status = match decimal(&digits).and_then(|status| u16::try_from(status).ok()) {
        Some(status @ 100..=599) => Status(status),
        _ => return Err(MALFORMED_STATUS),
    };
    // The reason is not passed on, but a CR in it would tell of a server that splits its lines.
    if reason.iter().any(|&byte| byte < b' ' && byte != b'\t') {
        return Err(MALFORMED_STATUS);
    }
    Ok((version, status))
}

/// The fields that frame the message.
#[derive(Default)]
struct Control {
    content_length: Option<u64>,
    /// How many times, and whether it says exactly `chunked`.
    transfer_encoding: Option<bool>,
    options: ConnectionOptions,
}

impl Control {
    fn read(&mut self, field: &Header<'_>) -> Result<(), Malformed> {
        match field.name.len() {
            10 if field.name.eq_ignore_ascii_case("connection") => {
                let added = self.options.add(field.value);
                added.map_err(|TooManyOptions| Malformed("too many connection options"))?;
            }
            14 if field.name.eq_ignore_ascii_case("content-length") => {
                if self.content_length.is_some() {
                    return Err(Malformed("repeated content-length"));
                }
                let length = decimal(field.value).ok_or(Malformed("malformed content-length"))?;
                self.content_length = Some(length);
            }
            17 if field.name.eq_ignore_ascii_case("transfer-encoding") => {
                let only = self.transfer_encoding.is_none();
                self.transfer_encoding = Some(only && field.value.eq_ignore_ascii_case(b"chunked"));
            }
            _ => {}
        }
        Ok(())
    }

    /// RFC 9112 6.3, with every case in which two recipients could differ refused.
    fn framing(
        &self,
        method: &Method,
        version: Version,
        status: Status,
    ) -> Result<Framing, Malformed> {
        match (self.transfer_encoding, self.content_length) {
            (Some(_), Some(_)) => {
                return Err(Malformed("content-length next to transfer-encoding"));
            }
            (Some(false), None) => return Err(Malformed("a transfer coding other than chunked")),
            // RFC 9112 6.1: faultily framed.
            (Some(true), None) if version < Version::Http11 => {
                return Err(Malformed("transfer-encoding in HTTP/1.0"));
            }
            _ => {}
        }
        // Item 1: whatever the fields say.
        if *method == Method::Head || matches!(status.0, 100..=199 | 204 | 304) {
            return Ok(Framing::None);
        }
        Ok(match (self.transfer_encoding, self.content_length) {
            (Some(_), _) => Framing::Chunked,
            (None, Some(length)) => Framing::Length(length),
            (None, None) => Framing::Close,
        })
    }
}

const VERSION_START: &[u8] = b"HTTP/1.";
const VERSION_BYTES: usize = 8;

const NOT_HTTP: Malformed = Malformed("an answer that is no HTTP/1 response");
const MALFORMED_STATUS: Malformed = Malformed("malformed status line");
const TOO_LARGE: Malformed = Malformed("the head is too large");
const TOO_MANY_FIELDS: Malformed = Malformed("too many fields");
const MALFORMED_FIELDS: Malformed = Malformed("malformed fields");

#[cfg(test)]
#[path = "response_head_tests.rs"]
mod tests;
