//! The first message of a connection, read without taking it: the same bytes then go to rustls, or to
//! the server behind us. Knows of the ClientHello (RFC 8446 4.1.2, RFC 5246 7.4.1.2) what decides
//! where a connection goes.

use std::net::IpAddr;

use rustls::AlertDescription;
use rustls::pki_types::DnsName;

use crate::limits::{HANDSHAKE_BYTES_MAX, RECORD_HEADER_BYTES, RECORD_PLAINTEXT_BYTES_MAX};
use crate::record::ProtocolError;

/// What the bytes received so far are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FirstBytes {
    /// The front of something that may become a ClientHello, or an HTTP request.
    NeedMore {
        /// Bytes without which nothing more can be said. Never zero.
        missing: usize,
    },
    /// Not TLS.
    NotTls {
        /// The bytes begin with an HTTP method: the client can be told in its own language.
        looks_like_http: bool,
    },
    /// A whole ClientHello.
    Hello(ClientHello),
    /// TLS, but not a ClientHello that may begin a connection.
    Invalid(ProtocolError),
}

/// A ClientHello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientHello {
    /// The host name that the client wants (RFC 6066 3): a syntactically valid DNS name in lower
    /// case. Without its trailing dot, which the RFC forbids and some clients send. `None` also for
    /// an IP address, which the RFC forbids too and rustls takes for no name.
    pub server_name: Option<Box<str>>,
    /// Whether it carries an encrypted ClientHello (extension 0xfe0d), real or GREASE; `server_name` may
    /// then be that of the outer one.
    pub has_ech: bool,
    /// Whether it offers to take up an earlier session of TLS 1.3 (`pre_shared_key`, RFC 8446 4.2.11).
    pub offers_session: bool,
    /// The versions it offers, in its order: `supported_versions` (RFC 8446 4.2.1), or without that
    /// extension the one in `legacy_version`. May hold GREASE (RFC 8701).
    pub supported_versions: Box<[u16]>,
    /// Protocol names with their length bytes, checked.
    alpn: Box<[u8]>,
}

impl ClientHello {
    /// The application protocols it offers, in its order (RFC 7301 3.1).
    pub fn alpn(&self) -> impl Iterator<Item = &[u8]> {
        let mut list = Reader(&self.alpn);
        std::iter::from_fn(move || list.vector8())
    }
}

/// Reads a ClientHello from a growing buffer. All calls together do work linear in what is received.
#[derive(Debug, Default)]
pub struct ClientHelloReader {
    /// Bytes of the whole records at the front, all of them checked.
    examined: usize,
    /// Handshake bytes in those records.
    collected: usize,
}

impl ClientHelloReader {
    /// A reader at the start of a connection.
    pub fn new() -> Self {
        Self::default()
    }

    /// Looks at `received`: all bytes of the connection so far, so each call's begins with those of
    /// the call before. Done when it answers anything but [`FirstBytes::NeedMore`]; it does so before
    /// [`HANDSHAKE_BYTES_MAX`] bytes.
    pub fn read(&mut self, received: &[u8]) -> FirstBytes {
        if self.examined == 0
            && let Some(outcome) = refuse_other_protocols(received)
        {
            return outcome;
        }
        match self.advance(received) {
            Ok(Progress::Missing(missing)) => FirstBytes::NeedMore { missing },
            Ok(Progress::Hello(hello)) => FirstBytes::Hello(hello),
            Err(error) => FirstBytes::Invalid(error),
        }
    }

    fn advance(&mut self, received: &[u8]) -> Result<Progress, ProtocolError> {
        loop {
            let rest = received.get(self.examined..).unwrap_or_default();
            let Some((header, fragment)) = rest.split_first_chunk::<RECORD_HEADER_BYTES>() else {
                return Ok(Progress::Missing(RECORD_HEADER_BYTES - rest.len()));
            };
            let bytes = check_header(*header)?;
            if self.examined + RECORD_HEADER_BYTES + bytes > HANDSHAKE_BYTES_MAX {
                return Err(TOO_LONG);
            }
            if fragment.len() < bytes {
                return Ok(Progress::Missing(bytes - fragment.len()));
            }
            self.examined += RECORD_HEADER_BYTES + bytes;
            self.collected += bytes;
            let records = received.get(..self.examined).unwrap_or_default();
            if self.is_whole(records)? {
                return parse_records(records).map(Progress::Hello);
            }
        }
    }

    /// Whether the message in `records` is complete. Its header is in the first four records at the
    /// latest, so this is constant work.
    fn is_whole(&self, records: &[u8]) -> Result<bool, ProtocolError> {
        let mut head = fragments(records).flatten().copied();
        if head.next() != Some(HANDSHAKE_CLIENT_HELLO) {
            return Err(NOT_A_HELLO);
        }
        let (Some(high), Some(middle), Some(low)) = (head.next(), head.next(), head.next()) else {
            return Ok(false);
        };
        let body_bytes = u32::from_be_bytes([0, high, middle, low]) as usize;
        let message_bytes = HANDSHAKE_HEADER_BYTES + body_bytes;
        if message_bytes > HANDSHAKE_BYTES_MAX {
            return Err(TOO_LONG);
        }
        // RFC 8446 5.1: the keys change after it, so it ends its record. In TLS 1.2 nothing may
        // follow it either before the server has answered.
        if self.collected > message_bytes {
            return Err(BYTES_AFTER);
        }
        Ok(self.collected == message_bytes)
    }
}

enum Progress {
    Missing(usize),
    Hello(ClientHello),
}

/// An outcome, unless the first bytes are those of a TLS handshake record.
fn refuse_other_protocols(received: &[u8]) -> Option<FirstBytes> {
    let (first, major) = (received.first().copied(), received.get(1).copied());
    match (first, major) {
        (None, _) => Some(FirstBytes::NeedMore { missing: 1 }),
        (Some(TYPE_HANDSHAKE), None | Some(VERSION_MAJOR)) => None,
        (Some(TYPE_FIRST..=TYPE_LAST), None) => Some(FirstBytes::NeedMore { missing: 1 }),
        (Some(TYPE_FIRST..=TYPE_LAST), Some(VERSION_MAJOR)) => {
            Some(FirstBytes::Invalid(NOT_A_HANDSHAKE))
        }
        _ => Some(recognise_http(received)),
    }
}

fn recognise_http(received: &[u8]) -> FirstBytes {
    if HTTP_METHODS
        .iter()
        .any(|method| received.starts_with(method))
    {
        return FirstBytes::NotTls {
            looks_like_http: true,
        };
    }
    HTTP_METHODS
        .iter()
        .filter(|method| method.starts_with(received))
        .map(|method| method.len() - received.len())
        .min()
        .map_or(
            FirstBytes::NotTls {
                looks_like_http: false,
            },
            |missing| FirstBytes::NeedMore { missing },
        )
}

/// The fragment's length. The version's second byte is ignored (RFC 8446 5.1).
fn check_header(header: [u8; RECORD_HEADER_BYTES]) -> Result<usize, ProtocolError> {
    let [content_type, major, _, high, low] = header;
    if content_type != TYPE_HANDSHAKE {
        return Err(NOT_A_HANDSHAKE);
    }
    if major != VERSION_MAJOR {
        return Err(WRONG_VERSION);
    }
    match usize::from(u16::from_be_bytes([high, low])) {
        // RFC 8446 5.1: no empty fragments of handshake messages.
        0 => Err(EMPTY_FRAGMENT),
        bytes if bytes > RECORD_PLAINTEXT_BYTES_MAX => Err(RECORD_TOO_LONG),
        bytes => Ok(bytes),
    }
}

/// The contents of `records`, which are whole and checked.
fn fragments(records: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Reader(records);
    std::iter::from_fn(move || {
        rest.take(RECORD_HEADER_BYTES - 2)?;
        rest.vector16()
    })
}

fn parse_records(records: &[u8]) -> Result<ClientHello, ProtocolError> {
    let mut parts = fragments(records);
    match (parts.next(), parts.next()) {
        (Some(whole), None) => parse_message(whole),
        _ => parse_message(&fragments(records).collect::<Vec<_>>().concat()),
    }
}

fn parse_message(message: &[u8]) -> Result<ClientHello, ProtocolError> {
    let mut body = Reader(message);
    body.take(HANDSHAKE_HEADER_BYTES).ok_or(MALFORMED)?;
    let legacy_version = body.u16().ok_or(MALFORMED)?;
    body.take(RANDOM_BYTES).ok_or(MALFORMED)?;
    let session_id = body.vector8().ok_or(MALFORMED)?;
    let suites = body.vector16().ok_or(MALFORMED)?;
    let compressions = body.vector8().ok_or(MALFORMED)?;
    if session_id.len() > SESSION_ID_BYTES_MAX
        || suites.is_empty()
        || !suites.len().is_multiple_of(2)
        || compressions.is_empty()
    {
        return Err(MALFORMED);
    }
    let mut hello = ClientHello {
        server_name: None,
        has_ech: false,
        offers_session: false,
        supported_versions: Box::new([legacy_version]),
        alpn: Box::default(),
    };
    // RFC 8446 4.1.2: before TLS 1.3 the extensions may be missing; nothing may follow them.
    if !body.is_empty() {
        let extensions = body.vector16().ok_or(MALFORMED)?;
        if !body.is_empty() {
            return Err(MALFORMED);
        }
        parse_extensions(extensions, &mut hello)?;
    }
    Ok(hello)
}

/// Looks for the extensions that matter here. Of the others rustls is the judge.
fn parse_extensions(extensions: &[u8], hello: &mut ClientHello) -> Result<(), ProtocolError> {
    let mut seen = [false; 5];
    let mut rest = Reader(extensions);
    while !rest.is_empty() {
        let kind = rest.u16().ok_or(MALFORMED)?;
        let content = rest.vector16().ok_or(MALFORMED)?;
        let [name, alpn, versions, ech, session] = &mut seen;
        let seen = match kind {
            EXTENSION_SERVER_NAME => {
                hello.server_name = parse_server_name(content)?;
                name
            }
            EXTENSION_ALPN => {
                hello.alpn = parse_alpn(content)?;
                alpn
            }
            EXTENSION_SUPPORTED_VERSIONS => {
                hello.supported_versions = parse_versions(content).ok_or(MALFORMED)?;
                versions
            }
            EXTENSION_ECH => {
                hello.has_ech = true;
                ech
            }
            EXTENSION_PRE_SHARED_KEY => {
                hello.offers_session = true;
                session
            }
            _ => continue,
        };
        // RFC 8446 4.2: not more than one of a type.
        if std::mem::replace(seen, true) {
            return Err(DUPLICATE_EXTENSION);
        }
    }
    Ok(())
}

/// RFC 6066 3: at most one name of the type host_name. What another type's name looks like is not
/// known, so nothing can be read after it.
fn parse_server_name(content: &[u8]) -> Result<Option<Box<str>>, ProtocolError> {
    let mut list = only_vector16(content)?;
    let mut host_name = None;
    while let Some(kind) = list.u8() {
        if kind != NAME_TYPE_HOST {
            break;
        }
        let name = list.vector16().filter(|name| !name.is_empty());
        if host_name.replace(name.ok_or(MALFORMED)?).is_some() {
            return Err(NAME_TWICE);
        }
    }
    host_name.map_or(Ok(None), normalise_host)
}

fn normalise_host(name: &[u8]) -> Result<Option<Box<str>>, ProtocolError> {
    let text = std::str::from_utf8(name).map_err(|_| BAD_NAME)?;
    if DnsName::try_from(text).is_err() {
        return match text.parse::<IpAddr>() {
            Ok(_) => Ok(None),
            Err(_) => Err(BAD_NAME),
        };
    }
    let text = text.strip_suffix('.').unwrap_or(text);
    Ok(Some(text.to_ascii_lowercase().into_boxed_str()))
}

/// RFC 7301 3.1: neither the list nor a name in it is empty.
fn parse_alpn(content: &[u8]) -> Result<Box<[u8]>, ProtocolError> {
    let mut list = only_vector16(content)?;
    let names = Box::from(list.0);
    while !list.is_empty() {
        if list.vector8().is_none_or(<[u8]>::is_empty) {
            return Err(MALFORMED);
        }
    }
    Ok(names)
}

fn parse_versions(content: &[u8]) -> Option<Box<[u16]>> {
    let mut content = Reader(content);
    let mut list = Reader(content.vector8()?);
    if list.is_empty() || !content.is_empty() {
        return None;
    }
    let mut versions = Vec::with_capacity(list.0.len() / 2);
    while !list.is_empty() {
        versions.push(list.u16()?);
    }
    Some(versions.into_boxed_slice())
}

/// A list with a two-byte length, not empty, that fills `content`.
fn only_vector16(content: &[u8]) -> Result<Reader<'_>, ProtocolError> {
    let mut content = Reader(content);
    let list = content.vector16().ok_or(MALFORMED)?;
    if list.is_empty() || !content.is_empty() {
        return Err(MALFORMED);
    }
    Ok(Reader(list))
}

/// The unread rest of some bytes, read in TLS presentation language (RFC 8446 3).
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        let (byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*byte)
    }

    fn u16(&mut self) -> Option<u16> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u16::from_be_bytes(*bytes))
    }

    /// `opaque<0..2^8-1>`
    fn vector8(&mut self) -> Option<&'a [u8]> {
        let bytes = self.u8()?;
        self.take(usize::from(bytes))
    }

    /// `opaque<0..2^16-1>`
    fn vector16(&mut self) -> Option<&'a [u8]> {
        let bytes = self.u16()?;
        self.take(usize::from(bytes))
    }
}

const NOT_A_HANDSHAKE: ProtocolError = ProtocolError::new(
    AlertDescription::UnexpectedMessage,
    "another record than a handshake before the ClientHello was whole",
);
const NOT_A_HELLO: ProtocolError = ProtocolError::new(
    AlertDescription::UnexpectedMessage,
    "first handshake message that is no ClientHello",
);
const WRONG_VERSION: ProtocolError = ProtocolError::new(
    AlertDescription::DecodeError,
    "record with a version other than 3.x",
);
const EMPTY_FRAGMENT: ProtocolError = ProtocolError::new(
    AlertDescription::UnexpectedMessage,
    "handshake record without content",
);
const RECORD_TOO_LONG: ProtocolError = ProtocolError::new(
    AlertDescription::RecordOverflow,
    "record longer than 2^14 bytes",
);
const TOO_LONG: ProtocolError = ProtocolError::new(
    AlertDescription::DecodeError,
    "ClientHello longer than is accepted",
);
const BYTES_AFTER: ProtocolError = ProtocolError::new(
    AlertDescription::UnexpectedMessage,
    "more bytes in the record after the ClientHello",
);
const MALFORMED: ProtocolError =
    ProtocolError::new(AlertDescription::DecodeError, "malformed ClientHello");
const DUPLICATE_EXTENSION: ProtocolError = ProtocolError::new(
    AlertDescription::IllegalParameter,
    "extension twice in one ClientHello",
);
const NAME_TWICE: ProtocolError = ProtocolError::new(
    AlertDescription::IllegalParameter,
    "more than one host name in server_name",
);
const BAD_NAME: ProtocolError = ProtocolError::new(
    AlertDescription::IllegalParameter,
    "host name in server_name that is no DNS name",
);

const HTTP_METHODS: [&[u8]; 9] = [
    b"GET ",
    b"HEAD ",
    b"POST ",
    b"PUT ",
    b"DELETE ",
    b"OPTIONS ",
    b"PATCH ",
    b"CONNECT ",
    b"TRACE ",
];

const TYPE_FIRST: u8 = 20;
const TYPE_HANDSHAKE: u8 = 22;
const TYPE_LAST: u8 = 24;
const VERSION_MAJOR: u8 = 3;
const HANDSHAKE_CLIENT_HELLO: u8 = 1;
const HANDSHAKE_HEADER_BYTES: usize = 4;
const RANDOM_BYTES: usize = 32;
const SESSION_ID_BYTES_MAX: usize = 32;
const NAME_TYPE_HOST: u8 = 0;
const EXTENSION_SERVER_NAME: u16 = 0;
const EXTENSION_ALPN: u16 = 16;
const EXTENSION_PRE_SHARED_KEY: u16 = 41;
const EXTENSION_SUPPORTED_VERSIONS: u16 = 43;
const EXTENSION_ECH: u16 = 0xfe0d;

#[cfg(test)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "tests write length fields of lengths they chose"
)]
mod tests;
