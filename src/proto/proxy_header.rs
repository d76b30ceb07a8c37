//! The PROXY protocol, versions 1 and 2 (haproxy's proxy-protocol.txt, revision 2020/03/05): whose
//! connection a proxy passes on, told in front of the connection's own bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::{Buf, Bytes, BytesMut};

use crate::limits::PROXY_HEADER_BYTES_MAX;
use crate::proto::syntax::decimal;

/// A header.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxyHeader {
    /// Whose connection it is; `None` for the proxy's own (a health check), or one of a kind that has
    /// no such addresses: the socket's are to be used then (2.1, 2.2).
    pub addresses: Option<Addresses>,
    /// What else is told (2.2.1); empty in version 1.
    pub values: Vec<Value>,
}

/// The connection passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// The client.
    pub source: SocketAddr,
    /// Where it connected to.
    pub destination: SocketAddr,
}

/// A type-length-value of version 2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// Its type, as [`VALUE_ALPN`].
    pub kind: u8,
    /// Its content.
    pub content: Bytes,
}

/// What is wrong with a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

/// The application protocol that was negotiated (PP2_TYPE_ALPN).
pub const VALUE_ALPN: u8 = 0x01;
/// The name that the client asked for, as in SNI (PP2_TYPE_AUTHORITY).
pub const VALUE_AUTHORITY: u8 = 0x02;
/// What is known of the client's TLS session (PP2_TYPE_SSL): see [`tls_session`].
pub const VALUE_TLS: u8 = 0x20;
/// A checksum of the whole header (PP2_TYPE_CRC32C).
pub const VALUE_CRC32C: u8 = 0x03;

/// A certificate that a client has shown and that was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShownCertificate {
    /// The common name of its subject.
    pub common_name: Option<String>,
    /// It was shown in an earlier connection of the session.
    pub is_resumed: bool,
}

/// The value that tells of a TLS session (2.2.6): `version` as "TLSv1.3", `suite` by OpenSSL's name, and
/// the client's certificate.
pub fn tls_session(version: &str, suite: &str, client: Option<&ShownCertificate>) -> Value {
    let shown = match client {
        None => 0,
        Some(client) if client.is_resumed => CERTIFICATE_IN_SESSION,
        Some(_) => CERTIFICATE_IN_CONNECTION | CERTIFICATE_IN_SESSION,
    };
    let mut content = vec![CLIENT_SPEAKS_TLS | shown];
    // Zero "if the client presented a certificate and it was successfully verified".
    let verified = u32::from(client.is_none());
    content.extend_from_slice(&verified.to_be_bytes());
    push_value(&mut content, VALUE_TLS_VERSION, version.as_bytes());
    if let Some(name) = client.and_then(|client| client.common_name.as_deref()) {
        push_value(&mut content, VALUE_COMMON_NAME, name.as_bytes());
    }
    push_value(&mut content, VALUE_TLS_SUITE, suite.as_bytes());
    Value {
        kind: VALUE_TLS,
        content: content.into(),
    }
}

impl ProxyHeader {
    /// The header of a connection between these addresses.
    pub fn new(source: SocketAddr, destination: SocketAddr) -> Self {
        Self {
            addresses: Some(Addresses {
                source,
                destination,
            }),
            values: Vec::new(),
        }
    }

    /// The header that `input` begins with, taken off it; `None` when more bytes are needed.
    ///
    /// # Errors
    /// As soon as the bytes cannot become a header. The connection is then to be closed: "The
    /// receiver MUST NOT start processing the connection before it receives a complete and valid
    /// PROXY protocol header" (2).
    pub fn decode(input: &mut BytesMut) -> Result<Option<Self>, Malformed> {
        let start = |signature: &[u8]| {
            let common = signature.len().min(input.len());
            input.get(..common) == signature.get(..common)
        };
        if start(SIGNATURE_2) {
            decode_2(input)
        } else if start(SIGNATURE_1) {
            decode_1(input)
        } else {
            Err(Malformed("no PROXY header"))
        }
    }

    /// Appends the header in version 1, without its values.
    pub fn encode_1(&self, out: &mut Vec<u8>) {
        let Some((source, destination)) = self.unified() else {
            out.extend_from_slice(b"PROXY UNKNOWN\r\n");
            return;
        };
        let family = match source {
            SocketAddr::V4(_) => "TCP4",
            SocketAddr::V6(_) => "TCP6",
        };
        let line = format!(
            "PROXY {family} {} {} {} {}\r\n",
            source.ip(),
            destination.ip(),
            source.port(),
            destination.port()
        );
        out.extend_from_slice(line.as_bytes());
    }

    /// Appends the header in version 2, with a checksum where `with_checksum`. Values that would make
    /// it longer than [`PROXY_HEADER_BYTES_MAX`] are left out, the last ones first.
    pub fn encode_2(&self, out: &mut Vec<u8>, with_checksum: bool) {
        let begin = out.len();
        out.extend_from_slice(SIGNATURE_2);
        let unified = self.unified();
        out.push(if unified.is_some() {
            VERSION_2_PROXY
        } else {
            VERSION_2_LOCAL
        });
        out.push(match unified {
            Some((SocketAddr::V4(_), _)) => TCP_4,
            Some((SocketAddr::V6(_), _)) => TCP_6,
            None => UNSPECIFIED,
        });
        out.extend_from_slice(&[0, 0]);
        if let Some((source, destination)) = unified {
            for ip in [source.ip(), destination.ip()] {
                match ip {
                    IpAddr::V4(ip) => out.extend_from_slice(&ip.octets()),
                    IpAddr::V6(ip) => out.extend_from_slice(&ip.octets()),
                }
            }
            out.extend_from_slice(&source.port().to_be_bytes());
            out.extend_from_slice(&destination.port().to_be_bytes());
        }
        for value in self
            .values
            .iter()
            .filter(|value| value.kind != VALUE_CRC32C)
        {
            let bytes = out.len() - begin + VALUE_HEADER_BYTES + value.content.len();
            if bytes + VALUE_HEADER_BYTES + CHECKSUM_BYTES > PROXY_HEADER_BYTES_MAX {
                break;
            }
            push_value(out, value.kind, &value.content);
        }
        let checksum_at = with_checksum.then(|| {
            push_value(out, VALUE_CRC32C, &[0; CHECKSUM_BYTES]);
            out.len() - CHECKSUM_BYTES
        });
        let length = out.len() - begin - FIXED_2_BYTES;
        let length = u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes();
        if let Some(place) = out.get_mut(begin + FIXED_2_BYTES - 2..begin + FIXED_2_BYTES) {
            place.copy_from_slice(&length);
        }
        let checksum = crc32c(out.get(begin..).unwrap_or_default()).to_be_bytes();
        if let Some(place) = checksum_at.and_then(|at| out.get_mut(at..)) {
            place.copy_from_slice(&checksum);
        }
    }

    /// Both addresses in one family, as the protocol wants them.
    fn unified(&self) -> Option<(SocketAddr, SocketAddr)> {
        let Addresses {
            source,
            destination,
        } = self.addresses?;
        let canonical =
            |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
        let (source, destination) = (canonical(source), canonical(destination));
        if source.is_ipv4() == destination.is_ipv4() {
            return Some((source, destination));
        }
        let mapped = |address: SocketAddr| match address.ip() {
            IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
            IpAddr::V6(_) => address,
        };
        Some((mapped(source), mapped(destination)))
    }
}

/// Version 1: one line of text (2.1).
fn decode_1(input: &mut BytesMut) -> Result<Option<ProxyHeader>, Malformed> {
    let seen = input
        .get(..LINE_1_BYTES_MAX.min(input.len()))
        .unwrap_or_default();
    let Some(newline) = memchr::memchr(b'\n', seen) else {
        return match input.len() >= LINE_1_BYTES_MAX {
            true => Err(Malformed("the PROXY line is too long")),
            false => Ok(None),
        };
    };
    let line = input.get(..newline).unwrap_or_default();
    let line = line
        .strip_suffix(b"\r")
        .ok_or(Malformed("the PROXY line ends in a bare LF"))?;
    let text = std::str::from_utf8(line).map_err(|_| MALFORMED_LINE)?;
    let rest = text.strip_prefix("PROXY ").ok_or(MALFORMED_LINE)?;
    // "the receiver must ignore anything presented before the CRLF" (2.1).
    let addresses = match rest.split(' ').next() {
        Some("UNKNOWN") => None,
        _ => Some(parse_addresses(rest)?),
    };
    input.advance(newline + 1);
    Ok(Some(ProxyHeader {
        addresses,
        values: Vec::new(),
    }))
}

fn parse_addresses(text: &str) -> Result<Addresses, Malformed> {
    let parts: Vec<&str> = text.split(' ').collect();
    let &[family, source, destination, source_port, destination_port] = &*parts else {
        return Err(MALFORMED_LINE);
    };
    let ip = |text: &str| match family {
        "TCP4" => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        "TCP6" => text.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        _ => None,
    };
    let port = |text: &str| {
        let canonical = text == "0" || !text.starts_with('0');
        let number = decimal(text.as_bytes()).filter(|_| canonical)?;
        u16::try_from(number).ok()
    };
    let address = |address, number| Some(SocketAddr::new(ip(address)?, port(number)?));
    let (source, destination) = address(source, source_port)
        .zip(address(destination, destination_port))
        .ok_or(MALFORMED_LINE)?;
    Ok(Addresses {
        source,
        destination,
    })
}

/// Version 2: binary (2.2).
fn decode_2(input: &mut BytesMut) -> Result<Option<ProxyHeader>, Malformed> {
    let Some(&[command, family, high, low]) = input
        .get(SIGNATURE_2.len()..FIXED_2_BYTES)
        .and_then(|fixed| fixed.first_chunk())
    else {
        return Ok(None);
    };
    let is_proxied = match command {
        VERSION_2_LOCAL => false,
        VERSION_2_PROXY => true,
        _ => {
            return Err(Malformed(
                "an unknown version or command of the PROXY protocol",
            ));
        }
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    if FIXED_2_BYTES + length > PROXY_HEADER_BYTES_MAX {
        return Err(Malformed("the PROXY header is too long"));
    }
    if input.len() < FIXED_2_BYTES + length {
        return Ok(None);
    }
    let header = input.split_to(FIXED_2_BYTES + length).freeze();
    let mut rest = header.slice(FIXED_2_BYTES..);
    let addresses = take_addresses(family, &mut rest)?;
    let values = take_values(rest)?;
    check_checksum(&header, &values)?;
    Ok(Some(ProxyHeader {
        addresses: addresses.filter(|_| is_proxied),
        values,
    }))
}

fn take_addresses(family: u8, rest: &mut Bytes) -> Result<Option<Addresses>, Malformed> {
    let address_bytes = match family >> 4 {
        0 => 0,
        1 => 12,
        2 => 36,
        3 => 216,
        _ => return Err(Malformed("an unknown address family in the PROXY header")),
    };
    // "the receiver must ignore the address" of what is unspecified (2.2), which may have any size.
    if family >> 4 == 0 {
        rest.clear();
        return Ok(None);
    }
    if rest.len() < address_bytes {
        return Err(Malformed("the PROXY header is too short for its addresses"));
    }
    let mut block = rest.split_to(address_bytes);
    let mut ip = || match family >> 4 {
        1 => Some(IpAddr::V4(block.get_u32().into())),
        2 => Some(IpAddr::V6(block.get_u128().into())),
        _ => None,
    };
    let (Some(source), Some(destination)) = (ip(), ip()) else {
        return Ok(None);
    };
    let (source_port, destination_port) = (block.get_u16(), block.get_u16());
    // Datagrams too are said to come from there.
    Ok(Some(Addresses {
        source: SocketAddr::new(source, source_port),
        destination: SocketAddr::new(destination, destination_port),
    }))
}

fn take_values(mut rest: Bytes) -> Result<Vec<Value>, Malformed> {
    let mut values = Vec::new();
    while !rest.is_empty() {
        let Some(&[kind, high, low]) = rest.first_chunk() else {
            return Err(MALFORMED_VALUE);
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        rest.advance(VALUE_HEADER_BYTES);
        if rest.len() < length {
            return Err(MALFORMED_VALUE);
        }
        values.push(Value {
            kind,
            content: rest.split_to(length),
        });
    }
    Ok(values)
}

/// "the receiver [...] MUST [...] verify" a checksum that is there (2.2.3).
fn check_checksum(header: &Bytes, values: &[Value]) -> Result<(), Malformed> {
    for value in values.iter().filter(|value| value.kind == VALUE_CRC32C) {
        let told: [u8; CHECKSUM_BYTES] =
            (&*value.content).try_into().map_err(|_| MALFORMED_VALUE)?;
        let at = value.content.as_ptr() as usize - header.as_ptr() as usize;
        let mut copy = header.to_vec();
        if let Some(place) = copy.get_mut(at..at + CHECKSUM_BYTES) {
            place.fill(0);
        }
        if crc32c(&copy) != u32::from_be_bytes(told) {
            return Err(Malformed("the PROXY header's checksum is wrong"));
        }
    }
    Ok(())
}

fn push_value(out: &mut Vec<u8>, kind: u8, content: &[u8]) {
    out.push(kind);
    // The caller bounds the header far below 64 KiB.
    let length = u16::try_from(content.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(content);
}

/// CRC-32C (RFC 3720 appendix B.4), bit by bit: a header is short, and few have one.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| (crc >> 1) ^ (CRC32C_REFLECTED & (crc & 1).wrapping_neg());
    let sum = bytes.iter().fold(!0_u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), step)
    });
    !sum
}

/// PP2_CLIENT_SSL
const CLIENT_SPEAKS_TLS: u8 = 0x01;
/// PP2_CLIENT_CERT_CONN
const CERTIFICATE_IN_CONNECTION: u8 = 0x02;
/// PP2_CLIENT_CERT_SESS
const CERTIFICATE_IN_SESSION: u8 = 0x04;
/// PP2_SUBTYPE_SSL_CN
const VALUE_COMMON_NAME: u8 = 0x22;
/// PP2_SUBTYPE_SSL_VERSION
const VALUE_TLS_VERSION: u8 = 0x21;
/// PP2_SUBTYPE_SSL_CIPHER
const VALUE_TLS_SUITE: u8 = 0x23;

const SIGNATURE_1: &[u8] = b"PROXY ";
const SIGNATURE_2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// The signature, version and command, family, length.
const FIXED_2_BYTES: usize = 16;
/// "107 bytes [...] including the CRLF" (2.1).
const LINE_1_BYTES_MAX: usize = 107;
const VALUE_HEADER_BYTES: usize = 3;
const CHECKSUM_BYTES: usize = 4;
const VERSION_2_LOCAL: u8 = 0x20;
const VERSION_2_PROXY: u8 = 0x21;
const UNSPECIFIED: u8 = 0x00;
const TCP_4: u8 = 0x11;
const TCP_6: u8 = 0x21;
const CRC32C_REFLECTED: u32 = 0x82f6_3b78;

const MALFORMED_LINE: Malformed = Malformed("malformed PROXY line");
const MALFORMED_VALUE: Malformed = Malformed("malformed type-length-value in the PROXY header");

const _: () = assert!(PROXY_HEADER_BYTES_MAX >= FIXED_2_BYTES + 216);

#[cfg(test)]
#[path = "proxy_header_tests.rs"]
mod tests;
