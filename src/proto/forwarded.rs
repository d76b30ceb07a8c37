//! Who a request came from, told to the next server: Forwarded (RFC 7239) and the X-Forwarded fields
//! that came before it.
//!
//! What a client says of others is passed on only where its address is trusted; otherwise the fields
//! begin here, or a client could claim any address.

use std::borrow::Cow;
use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::limits::FORWARDED_HOPS_MAX;
use crate::message::Fields;
use crate::proto::h1::encode::{push_field_line, push_list_line};
use crate::proto::syntax::{NameSet, is_token, trim_ows};

/// Which fields are sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Style {
    /// None, and those received are removed.
    None,
    /// X-Forwarded-For, -Proto and -Host: what most applications read.
    #[default]
    XForwarded,
    /// Forwarded.
    Forwarded,
    /// All of them.
    Both,
}

/// Where a trusted proxy says whom a request came from. Only one field is believed: a proxy that sets
/// one may pass another on as the client sent it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientField {
    /// X-Forwarded-For.
    #[default]
    XForwardedFor,
    /// Forwarded.
    Forwarded,
    /// Nowhere.
    None,
}

/// What is known of a request's way so far.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    /// The address that the connection came from, or that a trusted PROXY header told.
    pub client: IpAddr,
    /// Whether that is a proxy whose own fields are believed.
    pub is_trusted: bool,
    /// `https` or `http`.
    pub scheme: &'static str,
    /// Host as the client sent it.
    pub host: &'a [u8],
}

/// Whether `name` is a field of this module's, which is never copied as it came. Under CGI and its kin
/// an underscore in a name is as good as a hyphen.
pub fn is_forwarding_field(name: &[u8]) -> bool {
    if !FIELDS.has_length_of(name) {
        return false;
    }
    let plain = |byte: &u8| match byte {
        b'_' => b'-',
        byte => byte.to_ascii_lowercase(),
    };
    FIELDS
        .iter()
        .any(|field| name.iter().map(plain).eq(field.bytes()))
}

/// Appends the fields of `style` for a request from `origin` that came with `received`.
pub fn push_fields(out: &mut Vec<u8>, style: Style, origin: &Origin<'_>, received: &Fields) {
    let address = Text::of_address(origin.client.to_canonical());
    let before = |name| origin.is_trusted.then(|| received.all(name));
    if matches!(style, Style::XForwarded | Style::Both) {
        push_list(
            out,
            X_FORWARDED_FOR,
            before(X_FORWARDED_FOR),
            address.bytes(),
        );
        // The outermost proxy's word: it alone saw what the client did.
        let first = |name| before(name).and_then(|mut values| values.next());
        let scheme = first(X_FORWARDED_PROTO).unwrap_or(origin.scheme.as_bytes());
        push_field_line(out, X_FORWARDED_PROTO.as_bytes(), scheme);
        let host = first(X_FORWARDED_HOST).unwrap_or(origin.host);
        if !host.is_empty() {
            push_field_line(out, X_FORWARDED_HOST.as_bytes(), host);
        }
    }
    if matches!(style, Style::Forwarded | Style::Both) {
        let element = element(origin, address.bytes());
        push_list(out, FORWARDED, before(FORWARDED), &element);
    }
}

/// The address of a request's client. `peer`, which is trusted, sent `received`; each proxy appended
/// the address it got the request from, so they are read from the end until one is not trusted. What
/// is no address (`unknown`, an obfuscated name) ends it too: then the proxy that said so is the last
/// that is known.
pub fn client(
    peer: IpAddr,
    field: ClientField,
    received: &Fields,
    trusts: impl Fn(IpAddr) -> bool,
) -> IpAddr {
    let (name, is_forwarded) = match field {
        ClientField::XForwardedFor => (X_FORWARDED_FOR, false),
        ClientField::Forwarded => (FORWARDED, true),
        ClientField::None => return peer,
    };
    let values: Vec<&[u8]> = received.all(name).collect();
    let mut known = peer;
    let mut hops = 0;
    for value in values.into_iter().rev() {
        for element in elements_from_end(value, is_forwarded) {
            let node = match is_forwarded {
                true => forwarded_for(element),
                false => Some(element.into()),
            };
            let address = node.and_then(|node| node_address(&node));
            let Some(address) = address else {
                return known;
            };
            known = address;
            hops += 1;
            if hops == FORWARDED_HOPS_MAX || !trusts(known) {
                return known;
            }
        }
    }
    known
}

/// The elements of a list, the last one first. Quotation marks are paired from the end too: one that a
/// client left open cannot swallow what a proxy appended.
fn elements_from_end(value: &[u8], has_quotes: bool) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(value);
    let elements = std::iter::from_fn(move || {
        let list = rest?;
        let mut is_quoted = false;
        let comma = (0..list.len()).rev().find(|&at| {
            let (before, byte) = (list.get(..at).unwrap_or_default(), list.get(at));
            let escapes = before.iter().rev().take_while(|&&byte| byte == b'\\');
            if has_quotes && byte == Some(&b'"') && escapes.count() % 2 == 0 {
                is_quoted = !is_quoted;
            }
            byte == Some(&b',') && !is_quoted
        });
        let after = comma.map_or(0, |comma| comma + 1);
        rest = comma.and_then(|comma| list.get(..comma));
        Some(trim_ows(list.get(after..).unwrap_or_default()))
    });
    elements.filter(|element| !element.is_empty())
}

/// The node in the `for` parameter of a forwarded-element (RFC 7239 4).
fn forwarded_for(element: &[u8]) -> Option<Cow<'_, [u8]>> {
    for pair in parameters(element) {
        let equals = pair.iter().position(|&byte| byte == b'=')?;
        let (name, value) = pair.split_at_checked(equals)?;
        if !name.eq_ignore_ascii_case(b"for") {
            continue;
        }
        let value = value.get(1..)?;
        return match value {
            [b'"', quoted @ .., b'"'] => Some(unescaped(quoted).into()),
            token => Some(token.into()),
        };
    }
    None
}

/// Without the backslashes of quoted pairs (RFC 9110 5.6.4).
fn unescaped(quoted: &[u8]) -> Vec<u8> {
    let mut bytes = quoted.iter();
    let mut text = Vec::with_capacity(quoted.len());
    while let Some(&byte) = bytes.next() {
        text.push(match byte {
            b'\\' => bytes.next().copied().unwrap_or(byte),
            other => other,
        });
    }
    text
}

/// The address of a node, with or without a port (RFC 7239 6).
fn node_address(node: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(node).ok()?;
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(address.to_canonical());
    }
    let (address, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, rest) = rest.split_once(']')?;
            let address: Ipv6Addr = address.parse().ok()?;
            (IpAddr::from(address), rest.strip_prefix(':'))
        }
        None => {
            let (address, port) = text.split_once(':')?;
            let address: Ipv4Addr = address.parse().ok()?;
            (IpAddr::from(address), Some(port))
        }
    };
    let is_port = |port: &str| !port.is_empty() && port.bytes().all(|b| b.is_ascii_graphic());
    port.is_none_or(is_port).then(|| address.to_canonical())
}

/// The parameters of a forwarded-element: between semicolons, those within quoted strings aside.
fn parameters(element: &[u8]) -> impl Iterator<Item = &[u8]> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    let parts = element.split(move |&byte| {
        if is_quoted {
            match byte {
                _ if is_escaped => is_escaped = false,
                b'\\' => is_escaped = true,
                b'"' => is_quoted = false,
                _ => {}
            }
            return false;
        }
        is_quoted = byte == b'"';
        byte == b';'
    });
    parts.map(trim_ows)
}

/// One forwarded-element (RFC 7239 4).
fn element(origin: &Origin<'_>, address: &[u8]) -> Vec<u8> {
    let mut element = b"for=".to_vec();
    match origin.client.to_canonical() {
        IpAddr::V4(_) => element.extend_from_slice(address),
        // RFC 7239 6: in brackets, and so quoted.
        IpAddr::V6(_) => {
            element.extend_from_slice(b"\"[");
            element.extend_from_slice(address);
            element.extend_from_slice(b"]\"");
        }
    }
    if is_token(origin.host) {
        element.extend_from_slice(b";host=");
        element.extend_from_slice(origin.host);
    } else if !origin.host.is_empty()
        && !origin.host.contains(&b'"')
        && !origin.host.contains(&b'\\')
    {
        element.extend_from_slice(b";host=\"");
        element.extend_from_slice(origin.host);
        element.push(b'"');
    }
    element.extend_from_slice(b";proto=");
    element.extend_from_slice(origin.scheme.as_bytes());
    element
}

/// Appends one list field of the values `before` and `last`.
fn push_list<'a>(
    out: &mut Vec<u8>,
    name: &str,
    before: Option<impl Iterator<Item = &'a [u8]>>,
    last: &'a [u8],
) {
    let before = before.into_iter().flatten().filter(|part| !part.is_empty());
    push_list_line(out, name.as_bytes(), before.chain([last]));
}

/// A little text without an allocation.
struct Text {
    bytes: [u8; ADDRESS_BYTES_MAX],
    length: usize,
}

impl Text {
    fn of_address(address: IpAddr) -> Self {
        let mut this = Self {
            bytes: [0; ADDRESS_BYTES_MAX],
            length: 0,
        };
        match address {
            // Most are these, and the formatting machinery takes five times as long.
            IpAddr::V4(address) => this.push_octets(address.octets()),
            // An address always fits, and what would not is cut.
            IpAddr::V6(address) => drop(write!(this, "{address}")),
        }
        this
    }

    fn push_octets(&mut self, octets: [u8; 4]) {
        for (place, octet) in octets.into_iter().enumerate() {
            if place > 0 {
                self.push(b'.');
            }
            if octet >= 100 {
                self.push(b'0' + octet / 100);
            }
            if octet >= 10 {
                self.push(b'0' + octet / 10 % 10);
            }
            self.push(b'0' + octet % 10);
        }
    }

    fn push(&mut self, byte: u8) {
        if let Some(place) = self.bytes.get_mut(self.length) {
            *place = byte;
            self.length += 1;
        }
    }

    fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

impl Write for Text {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let end = self.length + text.len();
        let place = self
            .bytes
            .get_mut(self.length..end)
            .ok_or(std::fmt::Error)?;
        place.copy_from_slice(text.as_bytes());
        self.length = end;
        Ok(())
    }
}

const X_FORWARDED_FOR: &str = "x-forwarded-for";
const X_FORWARDED_PROTO: &str = "x-forwarded-proto";
const X_FORWARDED_HOST: &str = "x-forwarded-host";
const FORWARDED: &str = "forwarded";

/// Those written here, and those that applications take for them.
static FIELDS: NameSet<7> = NameSet::new([
    FORWARDED,
    X_FORWARDED_FOR,
    X_FORWARDED_PROTO,
    X_FORWARDED_HOST,
    "x-forwarded-port",
    "x-forwarded-server",
    "x-real-ip",
]);

/// The longest text of an IPv6 address.
const ADDRESS_BYTES_MAX: usize = 46;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Method;
    use crate::proto::testing::request;

    #[test]
    fn addresses_are_written_as_everywhere() {
        let octets = (0..=u8::MAX).map(|octet| IpAddr::from([octet, 255 - octet, octet / 2, 0]));
        let others = ["::1", "2001:db8::1", "::ffff:0:192.0.2.1"].map(|text| text.parse().unwrap());
        for address in octets.chain(others) {
            let text = Text::of_address(address);
            assert_eq!(text.bytes(), address.to_string().as_bytes());
        }
    }

    fn written(style: Style, client: &str, is_trusted: bool, received: &[(&str, &str)]) -> String {
        let origin = Origin {
            client: client.parse().unwrap(),
            is_trusted,
            scheme: "https",
            host: b"example.org:8443",
        };
        let mut out = Vec::new();
        push_fields(
            &mut out,
            style,
            &origin,
            &request(Method::Get, received).fields,
        );
        String::from_utf8(out).unwrap()
    }

    const RECEIVED: [(&str, &str); 5] = [
        ("X-Forwarded-For", "10.0.0.1, 10.0.0.2"),
        ("X-FORWARDED-FOR", "10.0.0.3"),
        ("X-Forwarded-Proto", "http"),
        ("X-Forwarded-Host", "outer"),
        ("Forwarded", "for=10.0.0.1"),
    ];

    #[test]
    fn what_an_untrusted_client_says_of_others_is_not_passed_on() {
        assert_eq!(
            written(Style::Both, "192.0.2.1", false, &RECEIVED),
            "\r\nx-forwarded-for: 192.0.2.1\r\nx-forwarded-proto: https\
             \r\nx-forwarded-host: example.org:8443\
             \r\nforwarded: for=192.0.2.1;host=\"example.org:8443\";proto=https"
        );
    }

    #[test]
    fn a_trusted_proxy_is_added_to() {
        assert_eq!(
            written(Style::Both, "192.0.2.1", true, &RECEIVED),
            "\r\nx-forwarded-for: 10.0.0.1, 10.0.0.2, 10.0.0.3, 192.0.2.1\
             \r\nx-forwarded-proto: http\r\nx-forwarded-host: outer\
             \r\nforwarded: for=10.0.0.1, for=192.0.2.1;host=\"example.org:8443\";proto=https"
        );
    }

    #[test]
    fn rfc7239_6_addresses_of_version_6_are_quoted_and_mapped_ones_are_version_4() {
        let of = |client| written(Style::Forwarded, client, false, &[]);
        assert!(of("2001:db8::1").starts_with("\r\nforwarded: for=\"[2001:db8::1]\";host="));
        assert!(of("::ffff:192.0.2.1").starts_with("\r\nforwarded: for=192.0.2.1;host="));
        let longest = "1111:2222:3333:4444:5555:6666:7777:8888";
        assert!(of(longest).contains(longest));
    }

    fn client_of(field: ClientField, received: &[(&str, &str)]) -> String {
        let trusts = |address: IpAddr| address.to_string().starts_with("10.");
        let peer = "10.0.0.1".parse().unwrap();
        let request = request(Method::Get, received);
        client(peer, field, &request.fields, trusts).to_string()
    }

    #[test]
    fn the_first_address_that_is_not_trusted_is_the_client() {
        for (values, expected) in [
            (&[][..], "10.0.0.1"),
            (&["192.0.2.1"], "192.0.2.1"),
            // What comes before it is the client's own word.
            (&["1.1.1.1, 192.0.2.1"], "192.0.2.1"),
            (
                &["1.1.1.1", "192.0.2.1, 10.0.0.3", " 10.0.0.2 "],
                "192.0.2.1",
            ),
            (&["10.0.0.3,10.0.0.2"], "10.0.0.3"),
            (&["192.0.2.1:4711"], "192.0.2.1"),
            (&["2001:db8::1"], "2001:db8::1"),
            (&["[2001:db8::1]:80, [2001:db8::2]"], "2001:db8::2"),
            (&["::ffff:192.0.2.1"], "192.0.2.1"),
            (&["192.0.2.1, unknown, 10.0.0.2"], "10.0.0.2"),
            (&["192.0.2.1, \"10.0.0.2"], "10.0.0.1"),
            (&["192.0.2.1,, 10.0.0.2,"], "192.0.2.1"),
            // A client's quotation mark swallows nothing.
            (&["\", 192.0.2.1"], "192.0.2.1"),
        ] {
            let fields: Vec<_> = values
                .iter()
                .map(|value| ("X-Forwarded-For", *value))
                .collect();
            assert_eq!(
                client_of(ClientField::XForwardedFor, &fields),
                expected,
                "{values:?}"
            );
            assert_eq!(client_of(ClientField::None, &fields), "10.0.0.1");
            assert_eq!(client_of(ClientField::Forwarded, &fields), "10.0.0.1");
        }
    }

    #[test]
    fn rfc7239_4_forwarded_elements_are_read_from_the_end() {
        for (value, expected) in [
            ("for=192.0.2.1", "192.0.2.1"),
            ("For=1.1.1.1, by=a;FOR=192.0.2.1;proto=http", "192.0.2.1"),
            ("for=\"[2001:db8::1]:4711\", for=10.0.0.2", "2001:db8::1"),
            ("for=192.0.2.1;by=\"a,b;for=1.1.1.1\\\"\"", "192.0.2.1"),
            ("by=\"a,b;for=1.1.1.1\\\"\";for=192.0.2.1", "192.0.2.1"),
            ("for=\"192.0.2.\\1\"", "192.0.2.1"),
            ("for=192.0.2.1, for=_hidden", "10.0.0.1"),
            ("for=\", for=192.0.2.1", "192.0.2.1"),
            ("for=\"\\, for=\"192.0.2.1\", for=10.0.0.2", "192.0.2.1"),
            ("for=192.0.2.1, proto=https", "10.0.0.1"),
            ("for=192.0.2.1, for", "10.0.0.1"),
            ("for=192.0.2.1, for=\"[::1", "10.0.0.1"),
        ] {
            let fields = [("Forwarded", value)];
            assert_eq!(
                client_of(ClientField::Forwarded, &fields),
                expected,
                "{value}"
            );
        }
    }

    #[test]
    fn a_chain_of_proxies_is_followed_so_far() {
        let chain = vec!["10.0.0.9"; FORWARDED_HOPS_MAX].join(", ");
        let fields = [("x-forwarded-for", &*format!("192.0.2.1, {chain}"))];
        assert_eq!(client_of(ClientField::XForwardedFor, &fields), "10.0.0.9");
    }

    #[test]
    fn styles_write_theirs_only() {
        assert_eq!(written(Style::None, "192.0.2.1", true, &RECEIVED), "");
        assert!(!written(Style::XForwarded, "192.0.2.1", true, &[]).contains("\r\nforwarded"));
        assert!(!written(Style::Forwarded, "192.0.2.1", true, &[]).contains("x-forwarded"));
    }

    #[test]
    fn fields_that_claim_an_address_are_known() {
        for name in [
            "X-Real-IP",
            "Forwarded",
            "x-forwarded-for",
            "X_Forwarded_Proto",
        ] {
            assert!(is_forwarding_field(name.as_bytes()), "{name}");
        }
        assert!(!is_forwarding_field(b"x-forwarded"));
    }
}
