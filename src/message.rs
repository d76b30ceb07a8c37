//! Requests and responses, whatever HTTP version carries them.
//!
//! A [`Request`] keeps its header text in one block of bytes with a table of spans, so that both a
//! text parser (HTTP/1.1) and a header decompressor (HTTP/2) can make one with two allocations. A
//! [`Body`] is empty, bytes, a range of a file, several of both, or a stream that a room above
//! implements.

pub mod gather;

use std::any::Any;
use std::cell::{Cell, OnceCell, RefCell};
use std::fmt;
use std::fs::File;
use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::ops::Range;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Context;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;

use crate::error::{Cause, Error, Stage};
use crate::limits::{INTERIM_BYTES_MAX, INTERIM_RESPONSES_MAX};
use crate::proto::h1::encode::push_field_lines;

/// One moment, on both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// For ages and deadlines.
    pub monotonic: Instant,
    /// For dates.
    pub wall: SystemTime,
}

impl Now {
    /// This moment.
    pub fn read() -> Self {
        Self {
            monotonic: Instant::now(),
            wall: SystemTime::now(),
        }
    }
}

/// An HTTP method (RFC 9110 9). Methods are case-sensitive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Method {
    /// GET
    Get,
    /// HEAD
    Head,
    /// POST
    Post,
    /// PUT
    Put,
    /// DELETE
    Delete,
    /// OPTIONS
    Options,
    /// PATCH
    Patch,
    /// CONNECT
    Connect,
    /// TRACE
    Trace,
    /// Any other token.
    Other(Box<str>),
}

impl Method {
    /// The method of that exact name.
    pub fn from_token(token: &str) -> Self {
        match token {
            "GET" => Self::Get,
            "HEAD" => Self::Head,
            "POST" => Self::Post,
            "PUT" => Self::Put,
            "DELETE" => Self::Delete,
            "OPTIONS" => Self::Options,
            "PATCH" => Self::Patch,
            "CONNECT" => Self::Connect,
            "TRACE" => Self::Trace,
            other => Self::Other(other.into()),
        }
    }

    /// The method's name.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
            Self::Options => "OPTIONS",
            Self::Patch => "PATCH",
            Self::Connect => "CONNECT",
            Self::Trace => "TRACE",
            Self::Other(name) => name,
        }
    }

    /// Whether a request may be sent again when it is not known what became of the first (RFC 9110
    /// 9.2.2). Methods not known here are not.
    pub fn is_idempotent(&self) -> bool {
        match self {
            Self::Get | Self::Head | Self::Put | Self::Delete | Self::Options | Self::Trace => true,
            Self::Post | Self::Patch | Self::Connect | Self::Other(_) => false,
        }
    }
}

/// The HTTP version that carried a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// HTTP/1.0 (RFC 1945 semantics as RFC 9112 restates them)
    Http10,
    /// HTTP/1.1 (RFC 9112)
    Http11,
    /// HTTP/2 (RFC 9113)
    Http2,
}

/// A part of a [`Fields`] block. 32 bits: a header block is bounded far below 4 GiB.
pub type Span = Range<u32>;

/// Header fields in the order received, values trimmed of optional white space.
#[derive(Clone, Default)]
pub struct Fields {
    block: Bytes,
    entries: Vec<(Span, Span)>,
    /// See [`Fields::of_head`].
    is_head: bool,
}

/// Fields as lines of HTTP/1.1 (RFC 9112 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lines<'a> {
    /// The lines of one or more fields, each with the CRLF that ends the line before it.
    Written(&'a [u8]),
    /// A field that is still to be written: its name and its value.
    Unwritten(&'a [u8], &'a [u8]),
}

impl Fields {
    /// Fields whose (name, value) spans point into `block`. Spans outside it read as empty.
    pub fn new(block: Bytes, entries: Vec<(Span, Span)>) -> Self {
        Self {
            block,
            entries,
            is_head: false,
        }
    }

    /// As [`Fields::new`], where `block` is a head of HTTP/1.1 that was parsed: each field has a line in
    /// it, ended as the line before it by CRLF, and in their order; its name is followed by a colon, and
    /// its value holds no CR, LF or NUL. [`Fields::lines`] then gives the lines as they are.
    pub fn of_head(block: Bytes, entries: Vec<(Span, Span)>) -> Self {
        Self {
            block,
            entries,
            is_head: true,
        }
    }

    /// Each field as (name, value). Names keep their spelling: compare without case.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.entries
            .iter()
            .map(|(name, value)| (self.text(name), self.text(value)))
    }

    /// Every value of the field `name`, compared without case, in order.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        // The length tells most fields apart without a look at the block.
        let as_long = move |(field, _): &&(Span, Span)| field.len() == name.len();
        self.entries
            .iter()
            .filter(as_long)
            .filter(|(field, _)| self.text(field).eq_ignore_ascii_case(name.as_bytes()))
            .map(|(_, value)| self.text(value))
    }

    /// The first value of the field `name`.
    pub fn first<'a>(&'a self, name: &'a str) -> Option<&'a [u8]> {
        self.all(name).next()
    }

    /// The value of `name` if the field appears exactly once.
    pub fn only<'a>(&'a self, name: &'a str) -> Option<&'a [u8]> {
        let mut values = self.all(name);
        let value = values.next()?;
        values.next().is_none().then_some(value)
    }

    /// How many fields there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Keeps those that `keep` wants, given (name, value).
    pub fn retain(&mut self, mut keep: impl FnMut(&[u8], &[u8]) -> bool) {
        let Self { block, entries, .. } = self;
        entries.retain(|(name, value)| keep(text_at(block, name), text_at(block, value)));
    }

    /// The lines of the fields whose names `keep` wants, in order. Those of a head that was parsed are
    /// given as they stand in it, as many together as do: most of what a proxy passes on.
    pub fn lines<'a>(
        &'a self,
        mut keep: impl FnMut(&[u8]) -> bool,
    ) -> impl Iterator<Item = Lines<'a>> {
        let mut rest = self.entries.as_slice();
        std::iter::from_fn(move || {
            loop {
                let [(name, value), behind @ ..] = rest else {
                    return None;
                };
                rest = behind;
                if !keep(self.text(name)) {
                    continue;
                }
                let Some(start) = self.line_start(name, value) else {
                    return Some(Lines::Unwritten(self.text(name), self.text(value)));
                };
                let mut end = value.end;
                while let [(name, value), behind @ ..] = rest
                    && self.line_start(name, value) == Some(end)
                {
                    rest = behind;
                    if !keep(self.text(name)) {
                        break;
                    }
                    end = value.end;
                }
                return Some(Lines::Written(self.text(&(start..end))));
            }
        })
    }

    /// Where the line of a field begins, with the CRLF before it, if the line is as it would be written:
    /// with one space after the colon. That none is behind the value shows where the next line begins.
    fn line_start(&self, name: &Span, value: &Span) -> Option<u32> {
        let space = self.block.get(name.end as usize + 1);
        let is_written = self.is_head && value.start == name.end + 2 && space == Some(&b' ');
        name.start.checked_sub(2).filter(|_| is_written)
    }

    /// These fields and then `more`, in a block of their own.
    #[must_use]
    pub fn extended<'a>(&'a self, more: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Self {
        Self::of(self.iter().chain(more))
    }

    /// These (name, value), in a block of their own.
    pub fn of<'a>(fields: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Self {
        let mut block = Vec::new();
        let mut entries = Vec::with_capacity(fields.size_hint().0 + 1);
        for (name, value) in fields {
            let mut append = |text: &[u8]| {
                let start = u32::try_from(block.len()).ok()?;
                block.extend_from_slice(text);
                Some(start..u32::try_from(block.len()).ok()?)
            };
            // Header blocks and what is configured are bounded far below 4 GiB.
            if let (Some(name), Some(value)) = (append(name), append(value)) {
                entries.push((name, value));
            }
        }
        Self::new(block.into(), entries)
    }

    fn text(&self, span: &Span) -> &[u8] {
        text_at(&self.block, span)
    }
}

fn text_at<'a>(block: &'a Bytes, span: &Span) -> &'a [u8] {
    block
        .get(span.start as usize..span.end as usize)
        .unwrap_or_default()
}

impl fmt::Debug for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(
                self.iter()
                    .map(|(n, v)| (String::from_utf8_lossy(n), String::from_utf8_lossy(v))),
            )
            .finish()
    }
}

/// How much request body follows a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyLength {
    /// Exactly so many bytes; zero when there is no body.
    Known(u64),
    /// As many as its framing delimits (chunked, or HTTP/2 DATA without content-length).
    Delimited,
}

impl BodyLength {
    /// Whether no body follows.
    pub fn is_none(self) -> bool {
        self == Self::Known(0)
    }
}

/// A request head. Its body travels apart from it, as a [`RequestBody`].
#[derive(Clone, Debug)]
pub struct Request {
    /// The method.
    pub method: Method,
    /// The version that carried it.
    pub version: Version,
    /// The target's host in lower case, without port, from the absolute-form target, `:authority`
    /// or Host, in that order. Empty only where the version allows a request without one.
    pub host: Box<str>,
    /// The target's path and query as sent: begins with '/', or is "*" for OPTIONS.
    pub target: Box<str>,
    /// The header fields.
    pub fields: Fields,
    /// How much body follows.
    pub body_length: BodyLength,
    /// Whether the client waits for 100 (Continue) before it sends the body (RFC 9110 10.1.1).
    pub expects_continue: bool,
    /// What it is known by, unless a proxy in front has named it.
    pub id: RequestId,
    /// Where interim responses to it are left for its driver.
    pub interims: Interims,
}

impl Request {
    /// The target's path, without the query.
    pub fn path(&self) -> &str {
        let end = memchr::memchr(b'?', self.target.as_bytes());
        end.and_then(|end| self.target.get(..end))
            .unwrap_or(&self.target)
    }

    /// The target's query, without the '?'.
    pub fn query(&self) -> Option<&str> {
        self.target.split_once('?').map(|(_, query)| query)
    }
}

/// An interim response of another server, to be passed on: 102 and above (RFC 9110 15.2).
#[derive(Clone, Debug)]
pub struct Interim {
    /// Its status.
    pub status: Status,
    /// Its fields.
    pub fields: Fields,
}

/// Interim responses on their way from whoever answers a request to the driver, which looks here each
/// time that it has polled the answer.
///
/// Most requests get none, and it takes one word.
#[derive(Clone, Debug, Default)]
pub struct Interims(OnceCell<Box<Waiting>>);

#[derive(Clone, Debug, Default)]
struct Waiting {
    interims: RefCell<Vec<Interim>>,
    /// Of all that were left.
    count: Cell<usize>,
    bytes: Cell<usize>,
}

impl Interims {
    /// Leaves one; gives whether there was room. Over all of a request's life there is for
    /// [`INTERIM_RESPONSES_MAX`] with [`INTERIM_BYTES_MAX`] of fields.
    pub fn push(&self, interim: Interim) -> bool {
        let waiting = self.0.get_or_init(Box::default);
        let fields = interim.fields.iter();
        let bytes: usize = fields.map(|(name, value)| name.len() + value.len()).sum();
        let count = waiting.count.get() + 1;
        let bytes = waiting.bytes.get().saturating_add(bytes);
        let has_room = count <= INTERIM_RESPONSES_MAX && bytes <= INTERIM_BYTES_MAX;
        if has_room {
            waiting.count.set(count);
            waiting.bytes.set(bytes);
            waiting.interims.borrow_mut().push(interim);
        }
        has_room
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        let waiting = self.0.get();
        waiting.is_none_or(|waiting| waiting.interims.borrow().is_empty())
    }

    /// Takes those that wait.
    pub fn take(&self) -> Vec<Interim> {
        let waiting = self.0.get();
        waiting.map_or_else(Vec::new, |waiting| waiting.interims.take())
    }
}

/// A number that is made at random when it is first asked for: most requests need none. It belongs to
/// the thread that asks.
#[derive(Clone, Debug, Default)]
pub struct RequestId(Cell<u64>);

impl RequestId {
    /// The number; the same each time.
    pub fn number(&self) -> u128 {
        IDS.with(|ids| {
            if self.0.get() == 0 {
                self.0.set(ids.next());
            }
            ids.number(self.0.get())
        })
    }
}

/// One thread's source of numbers: two keyed hashes of a count, so that they cannot be guessed from
/// each other and threads do not meet.
struct Ids {
    high: RandomState,
    low: RandomState,
    count: Cell<u64>,
}

thread_local! {
    static IDS: Ids = Ids {
        high: RandomState::new(),
        low: RandomState::new(),
        count: Cell::new(0),
    };
}

impl Ids {
    fn next(&self) -> u64 {
        let next = self.count.get() + 1;
        self.count.set(next);
        next
    }

    fn number(&self, count: u64) -> u128 {
        let (high, low) = (self.high.hash_one(count), self.low.hash_one(count));
        (u128::from(high) << 64 | u128::from(low)).max(1)
    }
}

/// A response status (RFC 9110 15), three digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Status(pub u16);

impl Status {
    /// The reason phrase that HTTP/1.1 sends with it; empty for one unknown.
    pub fn reason(self) -> &'static str {
        match self.0 {
            100 => "Continue",
            101 => "Switching Protocols",
            103 => "Early Hints",
            200 => "OK",
            204 => "No Content",
            206 => "Partial Content",
            301 => "Moved Permanently",
            302 => "Found",
            304 => "Not Modified",
            307 => "Temporary Redirect",
            308 => "Permanent Redirect",
            400 => "Bad Request",
            403 => "Forbidden",
            404 => "Not Found",
            405 => "Method Not Allowed",
            406 => "Not Acceptable",
            408 => "Request Timeout",
            411 => "Length Required",
            412 => "Precondition Failed",
            413 => "Content Too Large",
            414 => "URI Too Long",
            416 => "Range Not Satisfiable",
            417 => "Expectation Failed",
            421 => "Misdirected Request",
            429 => "Too Many Requests",
            431 => "Request Header Fields Too Large",
            500 => "Internal Server Error",
            501 => "Not Implemented",
            502 => "Bad Gateway",
            503 => "Service Unavailable",
            504 => "Gateway Timeout",
            505 => "HTTP Version Not Supported",
            _ => "",
        }
    }
}

/// Response fields that stay the same from one response to the next. Their HTTP/1.1 text is made
/// once, and so is what HPACK makes of those that no table keeps.
#[derive(Debug, PartialEq, Eq)]
pub struct FieldBlock {
    fields: Box<[(&'static str, Bytes)]>,
    lines: Box<[u8]>,
    literals: OnceCell<Box<[u8]>>,
}

impl FieldBlock {
    /// A block of these fields, in order, named as [`Response::fields`] are.
    pub fn new(fields: Vec<(&'static str, Bytes)>) -> Self {
        let mut lines = Vec::new();
        push_field_lines(&mut lines, &fields);
        Self {
            fields: fields.into(),
            lines: lines.into(),
            literals: OnceCell::new(),
        }
    }

    /// The fields.
    pub fn fields(&self) -> &[(&'static str, Bytes)] {
        &self.fields
    }

    /// Their lines in HTTP/1.1, each with the CRLF that ends the line before it.
    pub fn lines(&self) -> &[u8] {
        &self.lines
    }

    /// What `encode` once made of the fields, which must be the same whoever asks.
    pub fn literals(&self, encode: impl FnOnce(&[(&'static str, Bytes)]) -> Vec<u8>) -> &[u8] {
        self.literals.get_or_init(|| encode(&self.fields).into())
    }
}

/// A response head and body, before any HTTP version frames it.
#[derive(Debug)]
pub struct Response {
    /// The status.
    pub status: Status,
    /// Fields that come before the others, shared with other responses.
    pub block: Option<Rc<FieldBlock>>,
    /// The other fields, in order. Names in lower case. Without the fields that framing owns (content-length,
    /// transfer-encoding, connection) and without date: the drivers write those.
    pub fields: Vec<(&'static str, Bytes)>,
    /// Fields of another server's response that are passed on, after the others. Names as that
    /// server spelled them; without those that framing owns and those of its connection (RFC 9110
    /// 7.6.1). A date among them is sent instead of the driver's own.
    pub relayed: Fields,
    /// The body. For HEAD and 304 it is the body that GET would have sent; the driver sends only
    /// its length.
    pub body: Body,
}

impl Response {
    /// A response without fields or body.
    pub fn new(status: Status) -> Self {
        Self {
            status,
            block: None,
            fields: Vec::new(),
            relayed: Fields::default(),
            body: Body::Empty,
        }
    }

    /// All fields of our own, in order.
    #[cfg(test)]
    pub(crate) fn all_fields(&self) -> impl Iterator<Item = &(&'static str, Bytes)> {
        let block = self.block.as_deref().map(FieldBlock::fields);
        block.unwrap_or_default().iter().chain(&self.fields)
    }

    /// The same response with these fields before all others, instead of those that were.
    #[must_use]
    pub fn with_block(mut self, block: Rc<FieldBlock>) -> Self {
        self.block = Some(block);
        self
    }

    /// The same response with one more field. `name` in lower case.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<Bytes>) -> Self {
        self.fields.push((name, value.into()));
        self
    }

    /// The same response with another body.
    #[must_use]
    pub fn with_body(mut self, body: Body) -> Self {
        self.body = body;
        self
    }
}

/// A response body.
#[derive(Default)]
pub enum Body {
    /// No bytes.
    #[default]
    Empty,
    /// These bytes.
    Bytes(Bytes),
    /// A range of a file. The file may shrink while it is sent: the sender must notice.
    File(FileRange),
    /// Bytes and ranges of files, one after the other: at most
    /// [`crate::limits::RANGES_MAX`] of files.
    Parts(Vec<Part>),
    /// Bytes made while they are sent; its length when known.
    Stream(Box<dyn BodyStream>, Option<u64>),
    /// Not a body: after the head, which says 101 and names the protocol, the connection carries that
    /// protocol's bytes to and from this other end (RFC 9110 7.8). Only in response to a request that
    /// asked for it.
    Upgrade(Box<dyn Upgrade>),
}

impl Body {
    /// How many bytes it has, unless only its end will tell.
    pub fn length(&self) -> Option<u64> {
        match self {
            Self::Empty | Self::Upgrade(_) => Some(0),
            Self::Bytes(bytes) => Some(bytes.len() as u64),
            Self::File(range) => Some(range.length),
            Self::Parts(parts) => Some(parts.iter().map(Part::length).sum()),
            Self::Stream(_, length) => *length,
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("Empty"),
            Self::Bytes(bytes) => write!(f, "Bytes({})", bytes.len()),
            Self::File(range) => write!(f, "File({}+{})", range.offset, range.length),
            Self::Parts(parts) => f.debug_tuple("Parts").field(parts).finish(),
            Self::Stream(_, length) => write!(f, "Stream({length:?})"),
            Self::Upgrade(_) => f.write_str("Upgrade"),
        }
    }
}

/// One of the parts of a body. Never empty.
#[derive(Clone, Debug)]
pub enum Part {
    /// These bytes.
    Bytes(Bytes),
    /// A range of a file, as in [`Body::File`].
    File(FileRange),
}

impl Part {
    /// How many bytes it has.
    pub fn length(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File(range) => range.length,
        }
    }
}

/// A part of an open file. The descriptor is shared with the cache that opened it.
#[derive(Clone, Debug)]
pub struct FileRange {
    /// The open file.
    pub file: Arc<File>,
    /// The first byte.
    pub offset: u64,
    /// How many bytes.
    pub length: u64,
    /// Whether its file system may wait for somebody else even for bytes that are in memory (a
    /// server across the network, a process): then threads read it, whatever is cached.
    pub is_remote: bool,
}

/// A future on one worker's thread.
pub type LocalFuture<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// Bytes that arrive over time: a request body, or a response body made while it is sent.
pub trait BodyStream {
    /// The next bytes, never empty, or `None` at the end. After an error or the end it must not be
    /// called again. Dropping the future before it is ready loses no bytes.
    fn next(&mut self) -> LocalFuture<'_, Result<Option<Bytes>, Error>>;

    /// The connection that the next bytes come over as they are, for those who can pass them on without
    /// looking at them; `None` where there is none, or bytes are here already. What was moved off it
    /// is told by [`BodyStream::relayed`].
    fn source(&mut self) -> Option<Source<'_>> {
        None
    }

    /// So many bytes were moved off [`BodyStream::source`], and perhaps it has failed then.
    ///
    /// # Errors
    /// What that failure is for the body. It must not be used again.
    fn relayed(&mut self, _bytes: u64, failure: Option<Cause>) -> Result<(), Error> {
        match failure {
            None => Ok(()),
            Some(cause) => Err(Error::upstream(Stage::Exchange, cause)),
        }
    }

    /// Does what goes on beside these bytes, such as a request whose response they are: to be polled
    /// while nobody asks for the next.
    fn poll_beside(&mut self, _context: &mut Context<'_>) {}

    /// The fields that followed the bytes (RFC 9110 6.5), to be taken after the end.
    fn take_trailers(&mut self) -> Fields {
        Fields::default()
    }
}

/// Where the next bytes of a body come from, as they are.
pub struct Source<'a> {
    /// The receiving half of a connection ([`crate::net::stream::ReadHalf`]).
    pub connection: &'a mut dyn Any,
    /// How many of them are the body's.
    pub bytes: u64,
    /// How long there may be none.
    pub idle_max: Duration,
    /// The configuration key that sets it.
    pub idle_key: &'static str,
}

/// The other end of a connection that has changed its protocol.
pub trait Upgrade {
    /// Its two directions.
    fn into_halves(self: Box<Self>) -> (Box<dyn BodyStream>, Box<dyn BodySink>);

    /// How long the connection may be without a byte in either direction, also when one of them has ended.
    /// Whoever carries the bytes sees to it.
    fn idle_max(&self) -> Duration;
}

/// Where bytes go. Dropped before it has finished, it lets the other end see that they are not all.
pub trait BodySink {
    /// Sends `data` and waits until it is taken.
    fn send(&mut self, data: Bytes) -> LocalFuture<'_, Result<(), Error>>;

    /// Says that nothing more comes.
    fn finish(&mut self) -> LocalFuture<'_, Result<(), Error>>;
}

/// A request's body. It is the handler's own, so that a response can begin while the request is
/// still coming: as a part of the response's body, or of what makes it. It must not outlive that.
#[derive(Default)]
pub enum RequestBody {
    /// No bytes.
    #[default]
    Empty,
    /// Bytes as they are asked for.
    Stream(Box<dyn BodyStream>),
}

impl RequestBody {
    /// As [`BodyStream::next`].
    ///
    /// # Errors
    /// When the client breaks off, is too slow, or sends more than it may. The driver knows it too,
    /// and answers or ends the connection whatever the handler makes of it.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        match self {
            Self::Empty => Ok(None),
            Self::Stream(stream) => stream.next().await,
        }
    }
}

impl fmt::Debug for RequestBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "Empty",
            Self::Stream(_) => "Stream",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interim_responses_are_bounded_in_number_and_size() {
        let hint = |bytes: usize| Interim {
            status: Status(103),
            fields: Fields::of([(&b"link"[..], &*vec![b'a'; bytes])].into_iter()),
        };
        let interims = Interims::default();
        assert!(interims.is_empty() && interims.take().is_empty());
        assert!(interims.push(hint(INTERIM_BYTES_MAX - 10)));
        assert!(!interims.push(hint(3)));
        assert!(interims.push(hint(2)));
        assert_eq!(interims.take().len(), 2);
        assert!(interims.is_empty());
        // What was taken counts on.
        assert!(!interims.push(hint(0)));
        let interims = Interims::default();
        for _ in 0..INTERIM_RESPONSES_MAX {
            assert!(interims.push(hint(1)));
        }
        assert!(!interims.push(hint(1)));
        assert_eq!(interims.take().len(), INTERIM_RESPONSES_MAX);
    }
}
