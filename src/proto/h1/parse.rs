//! Request heads (RFC 9112 2-3, 6): where one ends, what it asks, how much body follows.

use bytes::{Buf, Bytes, BytesMut};
use httparse::{EMPTY_HEADER, Header};

use crate::limits::{EMPTY_LINES_MAX, HEADER_FIELDS_MAX, METHOD_BYTES_MAX};
use crate::message::{BodyLength, Fields, Interims, Method, Request, RequestId, Span, Version};
use crate::proto::authority::{host_of, is_connect_target};
use crate::proto::h1::Refusal;
use crate::proto::syntax::{decimal, is_tchar, is_token, list_members};

/// How large a head may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The request line and all fields, in bytes: 431 beyond. At most 4 GiB are understood.
    pub header_bytes_max: usize,
    /// The request target, in bytes: 414 beyond.
    pub target_bytes_max: usize,
}

/// A request head, and what it says about the connection.
#[derive(Debug)]
pub struct Head {
    /// The request.
    pub request: Request,
    /// Whether the client will use the connection again (RFC 9112 9.3).
    pub keep_alive: bool,
}

/// Finds and parses the heads of one connection, one after the other.
///
/// It remembers how far it has looked for the end of a head, so that one sent byte by byte costs no
/// more than one sent at once.
#[derive(Debug, Default)]
pub struct HeadParser {
    /// Bytes of the input already looked at.
    scanned: usize,
    /// Where the line not yet complete begins.
    line_start: usize,
    /// The length of the request line, once it is complete, without its CRLF.
    request_line_bytes: usize,
    /// Complete lines: the request line and fields.
    lines: usize,
    /// Empty lines skipped before the request line.
    empty_lines: usize,
    /// The last request line, complete or not, is one of HEAD.
    is_head: bool,
}

impl HeadParser {
    /// The next head of `input`, taken off it and kept as the fields' block, or `None` when more
    /// bytes are needed. `input` must begin with the bytes it had at the call before.
    ///
    /// # Errors
    /// A [`Refusal`] as soon as the bytes cannot become an acceptable head. `input` is then not to
    /// be parsed any further.
    pub fn parse(
        &mut self,
        input: &mut BytesMut,
        bounds: &Bounds,
    ) -> Result<Option<Head>, Refusal> {
        let Some(end) = self.find_end(input, bounds)? else {
            return Ok(None);
        };
        let Self {
            request_line_bytes,
            lines,
            is_head,
            ..
        } = std::mem::take(self);
        self.is_head = is_head;
        let block = input.split_to(end).freeze();
        // The small table covers what browsers send; an entry costs 32 bytes to clear.
        if lines <= FIELDS_USUAL_MAX {
            parse_block::<FIELDS_USUAL_MAX>(block, request_line_bytes, bounds).map(Some)
        } else {
            parse_block::<HEADER_FIELDS_MAX>(block, request_line_bytes, bounds).map(Some)
        }
    }

    /// Whether the request line looked at last, complete or not, says HEAD, so that its refusal too
    /// is sent without content (RFC 9110 9.3.2).
    pub fn is_head(&self) -> bool {
        self.is_head
    }

    /// Where the head ends, after its empty line. Each line must end in CRLF: RFC 9112 2.2 lets a
    /// recipient take a bare LF for one, and peers that differ in it can be played against each
    /// other.
    fn find_end(
        &mut self,
        input: &mut BytesMut,
        bounds: &Bounds,
    ) -> Result<Option<usize>, Refusal> {
        loop {
            if self.lines == 0 {
                self.is_head = input.starts_with(b"HEAD ");
            }
            let unseen = input.get(self.scanned..).unwrap_or_default();
            let Some(newline) = memchr::memchr(b'\n', unseen) else {
                self.scanned = input.len();
                self.check_partial(input, bounds)?;
                return Ok(None);
            };
            let end = self.scanned + newline + 1;
            let line = input.get(self.line_start..end).unwrap_or_default();
            // In the order of the bytes that show each fault, which is the order in which they would
            // be met if the line came byte by byte.
            if self.lines == 0 {
                let start = line.strip_suffix(b"\n").unwrap_or(line);
                check_line_before_end(start, bounds)?;
            }
            if end > bounds.header_bytes_max {
                return Err(HEAD_TOO_LARGE);
            }
            let Some(line) = line.strip_suffix(b"\r\n") else {
                return Err(Refusal::bad("a line in the head ends in a bare LF"));
            };
            match (line.len(), self.lines) {
                // RFC 9112 2.2: "a server [...] SHOULD ignore at least one empty line (CRLF)
                // received prior to the request-line."
                (0, 0) => {
                    input.advance(end);
                    self.scanned = 0;
                    self.empty_lines += 1;
                    if self.empty_lines > EMPTY_LINES_MAX {
                        return Err(Refusal::bad("empty lines instead of a request"));
                    }
                    continue;
                }
                (0, _) => return Ok(Some(end)),
                (bytes, 0) => self.request_line_bytes = bytes,
                // The request line is among the lines before this one.
                (_, before) if before > HEADER_FIELDS_MAX => return Err(TOO_MANY_FIELDS),
                _ => {}
            }
            self.lines += 1;
            self.scanned = end;
            self.line_start = end;
        }
    }

    /// Refuses early what no further byte can make acceptable.
    fn check_partial(&self, input: &[u8], bounds: &Bounds) -> Result<(), Refusal> {
        if self.lines == 0 {
            check_line_before_end(input, bounds)?;
        }
        if input.len() > bounds.header_bytes_max {
            return Err(HEAD_TOO_LARGE);
        }
        Ok(())
    }
}

/// What can be said of a request line by what there is of it before its LF.
fn check_line_before_end(line: &[u8], bounds: &Bounds) -> Result<(), Refusal> {
    match line {
        // Perhaps an empty line.
        [] | [b'\r'] => return Ok(()),
        [b'\r', ..] => return Err(Refusal::bad("a bare CR in the head")),
        // Not HTTP at all, such as a TLS record on a plain port: no reason to wait for more.
        [first, ..] if !is_tchar(*first) => return Err(MALFORMED_METHOD),
        _ => {}
    }
    // A CR at its end is the line end's, as far as one can tell.
    let bytes = line.strip_suffix(b"\r").unwrap_or(line).len();
    let bytes_max = bounds
        .target_bytes_max
        .saturating_add(REQUEST_LINE_REST_BYTES_MAX);
    // Where the whole head has no more room than that, its bound is met first.
    if bytes > bytes_max && bytes_max < bounds.header_bytes_max {
        return Err(TARGET_TOO_LONG);
    }
    Ok(())
}

/// The method, target and version of a request line (RFC 9112 3).
struct RequestLine<'a> {
    method: Method,
    target: &'a [u8],
    version: Version,
}

impl<'a> RequestLine<'a> {
    /// Exactly `method SP request-target SP HTTP-version`: RFC 9112 3 allows other white space for
    /// robustness only, and warns of what that costs in security.
    fn parse(line: &'a [u8], bounds: &Bounds) -> Result<Self, Refusal> {
        let mut parts = line.split(|&byte| byte == b' ');
        let method = parts.next().unwrap_or_default();
        if !is_token(method) {
            return Err(MALFORMED_METHOD);
        }
        let (Some(target), Some(version), None) = (parts.next(), parts.next(), parts.next()) else {
            return Err(Refusal::bad("the request line has not three parts"));
        };
        let version = parse_version(version)?;
        if method.len() > METHOD_BYTES_MAX {
            // RFC 9112 3: "A server that receives a method longer than any that it implements
            // SHOULD respond with a 501".
            return Err(Refusal::new(501, "the method is longer than any known"));
        }
        if target.len() > bounds.target_bytes_max {
            return Err(TARGET_TOO_LONG);
        }
        // RFC 9112 3.2 wants a URI's characters; browsers also send '|', '{', '^' and the like
        // raw, which no implementation takes for framing. A fragment never belongs on the wire.
        if target.is_empty()
            || !target
                .iter()
                .all(|b| matches!(b, 0x21..=0x7e) && *b != b'#')
        {
            return Err(Refusal::bad("the request target has forbidden characters"));
        }
        let method = std::str::from_utf8(method).map_err(|_| MALFORMED_METHOD)?;
        Ok(Self {
            method: Method::from_token(method),
            target,
            version,
        })
    }
}

fn parse_version(text: &[u8]) -> Result<Version, Refusal> {
    // RFC 9112 2.3: the name is case-sensitive, the numbers are one digit each.
    match text {
        b"HTTP/1.1" => Ok(Version::Http11),
        b"HTTP/1.0" => Ok(Version::Http10),
        // RFC 9110 2.5: a higher minor version is processed "as if it was in the highest minor
        // version within that major version" that the recipient knows.
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'2'..=b'9'] => Ok(Version::Http11),
        [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'] => {
            Err(Refusal::new(505, "another major version of HTTP"))
        }
        _ => Err(Refusal::bad("the request line does not end in a version")),
    }
}

/// A field that decides about framing or routing and must not be given twice.
#[derive(Clone, Copy, Default)]
enum Given<'a> {
    #[default]
    Never,
    Once(&'a [u8]),
    Repeatedly,
}

impl<'a> Given<'a> {
    fn add(&mut self, value: &'a [u8]) {
        *self = match self {
            Self::Never => Self::Once(value),
            Self::Once(_) | Self::Repeatedly => Self::Repeatedly,
        };
    }
}

/// The fields that the connection itself obeys, gathered in one pass.
#[derive(Default)]
struct Control<'a> {
    host: Given<'a>,
    content_length: Given<'a>,
    transfer_encoding: Given<'a>,
    expect: Given<'a>,
    close: bool,
    keep_alive: bool,
}

impl<'a> Control<'a> {
    fn read(&mut self, field: &Header<'a>) {
        // The length tells most fields apart without comparing them.
        match field.name.len() {
            4 if field.name.eq_ignore_ascii_case("host") => self.host.add(field.value),
            6 if field.name.eq_ignore_ascii_case("expect") => self.expect.add(field.value),
            10 if field.name.eq_ignore_ascii_case("connection") => {
                for option in list_members(field.value) {
                    self.close |= option.eq_ignore_ascii_case(b"close");
                    self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
                }
            }
            14 if field.name.eq_ignore_ascii_case("content-length") => {
                self.content_length.add(field.value);
            }
            17 if field.name.eq_ignore_ascii_case("transfer-encoding") => {
                self.transfer_encoding.add(field.value);
            }
            _ => {}
        }
    }

    /// RFC 9112 9.3: close wins; 1.1 persists unless told otherwise, 1.0 only if told.
    fn persists(&self, version: Version) -> bool {
        !self.close && (version >= Version::Http11 || self.keep_alive)
    }

    /// RFC 9112 6.3, with every case in which two recipients could differ refused.
    fn body_length(&self, version: Version, fields: &[Header<'_>]) -> Result<BodyLength, Refusal> {
        match (self.transfer_encoding, self.content_length) {
            (Given::Never, Given::Never) => Ok(BodyLength::Known(0)),
            (Given::Never, Given::Once(value)) => decimal(value)
                .map(BodyLength::Known)
                .ok_or(Refusal::bad("malformed content-length")),
            // RFC 9112 6.3 lets identical values pass as one; nobody honest sends them.
            (Given::Never, Given::Repeatedly) => Err(Refusal::bad("repeated content-length")),
            (_, Given::Once(_) | Given::Repeatedly) => {
                Err(Refusal::bad("content-length next to transfer-encoding"))
            }
            // RFC 9112 6.1: a 1.0 message with Transfer-Encoding is treated as faultily framed.
            (_, Given::Never) if version < Version::Http11 => {
                Err(Refusal::bad("transfer-encoding in HTTP/1.0"))
            }
            (Given::Once(value), Given::Never) if value.eq_ignore_ascii_case(b"chunked") => {
                Ok(BodyLength::Delimited)
            }
            (_, Given::Never) => Err(refuse_codings(fields)),
        }
    }

    /// Whether the client waits for 100 (Continue).
    fn expects_continue(&self, version: Version) -> Result<bool, Refusal> {
        // RFC 9110 10.1.1: in a 1.0 request the expectation "MUST" be ignored.
        if version < Version::Http11 {
            return Ok(false);
        }
        match self.expect {
            Given::Never => Ok(false),
            Given::Once(value) if value.eq_ignore_ascii_case(b"100-continue") => Ok(true),
            Given::Once(_) | Given::Repeatedly => {
                Err(Refusal::new(417, "an expectation other than 100-continue"))
            }
        }
    }
}

/// The refusal of transfer codings other than exactly one `chunked`: 501 for codings that are not
/// implemented under a final `chunked` (RFC 9112 6.1), 400 where the length of the body cannot be
/// told (RFC 9112 6.3).
fn refuse_codings(fields: &[Header<'_>]) -> Refusal {
    let is_chunked = |coding: &[u8]| coding.eq_ignore_ascii_case(b"chunked");
    let codings: Vec<&[u8]> = fields
        .iter()
        .filter(|field| field.name.eq_ignore_ascii_case("transfer-encoding"))
        .flat_map(|field| list_members(field.value))
        .collect();
    match &*codings {
        [before @ .., last] if !before.is_empty() && is_chunked(last) => {
            let named = before.iter().all(|coding| {
                let name = coding.split(|&b| matches!(b, b';' | b' ' | b'\t')).next();
                name.is_some_and(|name| is_token(name) && !is_chunked(name))
            });
            if named {
                Refusal::new(501, "a transfer coding that is not implemented")
            } else {
                MALFORMED_CODING
            }
        }
        _ => MALFORMED_CODING,
    }
}

/// A request's host and target, as its form of target gives them (RFC 9112 3.2).
fn resolve_target(
    line: &RequestLine<'_>,
    control: &Control<'_>,
) -> Result<(Box<str>, Box<str>), Refusal> {
    // RFC 9112 3.2: 400 for a 1.1 request without Host, with several, or with an invalid one,
    // whatever the form of the target.
    let host = match control.host {
        Given::Once(value) => host_of(value).ok_or(Refusal::bad("invalid host"))?,
        Given::Repeatedly => return Err(Refusal::bad("repeated host")),
        Given::Never if line.version >= Version::Http11 => {
            return Err(Refusal::bad("no host"));
        }
        Given::Never => Box::from(""),
    };
    let text = |bytes| {
        std::str::from_utf8(bytes)
            .map(Box::from)
            .map_err(|_| MALFORMED_TARGET)
    };
    match line.target {
        // No tunnels are offered to anyone: the method is "not implemented" (RFC 9110 9.3.6,
        // 15.6.2).
        target if line.method == Method::Connect => Err(if is_connect_target(target) {
            Refusal::new(501, "CONNECT")
        } else {
            MALFORMED_TARGET
        }),
        [b'/', ..] => Ok((host, text(line.target)?)),
        b"*" if line.method == Method::Options => Ok((host, "*".into())),
        target => {
            let (authority, rest) = split_absolute(target).ok_or(MALFORMED_TARGET)?;
            // RFC 9112 3.2.2: the target's authority replaces the Host received.
            let host = host_of(authority).ok_or(Refusal::bad("invalid authority in the target"))?;
            let target = match rest {
                [b'/', ..] => text(rest)?,
                // RFC 9112 3.2.4: no path and no query stands for the whole server.
                [] if line.method == Method::Options => "*".into(),
                _ => format!("/{}", text(rest)?).into(),
            };
            Ok((host, target))
        }
    }
}

/// The authority of an absolute-form target, and its path and query.
fn split_absolute(target: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = target.iter().position(|&byte| byte == b':')?;
    let (scheme, rest) = target.split_at_checked(colon)?;
    if !scheme.eq_ignore_ascii_case(b"http") && !scheme.eq_ignore_ascii_case(b"https") {
        return None;
    }
    let rest = rest.strip_prefix(b"://")?;
    let end = rest
        .iter()
        .position(|byte| matches!(byte, b'/' | b'?'))
        .unwrap_or(rest.len());
    rest.split_at_checked(end)
}

/// Parses a complete head of at most `N` fields.
fn parse_block<const N: usize>(
    block: Bytes,
    request_line_bytes: usize,
    bounds: &Bounds,
) -> Result<Head, Refusal> {
    let head: &[u8] = &block;
    let line = head.get(..request_line_bytes).unwrap_or_default();
    let line = RequestLine::parse(line, bounds)?;

    let field_text = head.get(request_line_bytes + 2..).unwrap_or_default();
    let mut table = [EMPTY_HEADER; N];
    let headers = match httparse::parse_headers(field_text, &mut table) {
        Ok(httparse::Status::Complete((end, headers))) if end == field_text.len() => headers,
        Ok(_) => return Err(Refusal::bad("malformed fields")),
        Err(error) => return Err(refuse_fields(error)),
    };
    let mut control = Control::default();
    let mut entries = Vec::with_capacity(headers.len());
    for field in headers {
        control.read(field);
        let name = span_within(head, field.name.as_bytes()).ok_or(HEAD_TOO_LARGE)?;
        let value = span_within(head, field.value).ok_or(HEAD_TOO_LARGE)?;
        entries.push((name, value));
    }

    let (host, target) = resolve_target(&line, &control)?;
    let body_length = control.body_length(line.version, headers)?;
    // RFC 9110 10.1.1: without content there is nothing to wait with.
    let expects_continue = control.expects_continue(line.version)? && !body_length.is_none();
    let keep_alive = control.persists(line.version);
    let RequestLine {
        method, version, ..
    } = line;
    Ok(Head {
        keep_alive,
        request: Request {
            version,
            method,
            host,
            target,
            fields: Fields::of_head(block, entries),
            body_length,
            expects_continue,
            id: RequestId::default(),
            interims: Interims::default(),
        },
    })
}

/// Where `part`, a slice of `block`, lies in it.
pub(super) fn span_within(block: &[u8], part: &[u8]) -> Option<Span> {
    let start = (part.as_ptr() as usize).checked_sub(block.as_ptr() as usize)?;
    let end = start.checked_add(part.len())?;
    Some(u32::try_from(start).ok()?..u32::try_from(end).ok()?)
}

fn refuse_fields(error: httparse::Error) -> Refusal {
    use httparse::Error as E;
    match error {
        // Also a line that begins with white space: obs-fold (RFC 9112 5.2), or the trick after
        // the request line (RFC 9112 2.2).
        E::HeaderName => Refusal::bad("malformed field name"),
        E::HeaderValue => Refusal::bad("malformed field value"),
        E::TooManyHeaders => TOO_MANY_FIELDS,
        E::NewLine | E::Status | E::Token | E::Version => Refusal::bad("malformed fields"),
    }
}

/// What a request line has beyond its target: the method, two spaces, the version, CRLF.
const REQUEST_LINE_REST_BYTES_MAX: usize = METHOD_BYTES_MAX + 2 + 8 + 2;
/// Lines up to which the small table of fields is used.
pub(super) const FIELDS_USUAL_MAX: usize = 32;

const _: () = assert!(FIELDS_USUAL_MAX < HEADER_FIELDS_MAX);

const HEAD_TOO_LARGE: Refusal =
    Refusal::new(431, "the head is larger than limits.header_bytes_max");
const TOO_MANY_FIELDS: Refusal = Refusal::new(431, "too many fields");
const TARGET_TOO_LONG: Refusal =
    Refusal::new(414, "the target is longer than limits.target_bytes_max");
const MALFORMED_METHOD: Refusal = Refusal::bad("malformed method");
const MALFORMED_TARGET: Refusal = Refusal::bad("malformed request target");
const MALFORMED_CODING: Refusal = Refusal::bad("transfer-encoding other than chunked");

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
