//! Parts of a site that are served otherwise than from its root.

use std::net::IpAddr;
use std::time::Duration;

use super::Files;
use super::access::Networks;
use crate::message::Fields;
use crate::proto::forwarded::{self, ClientField, Style};

/// What requests for some paths of a site get.
#[derive(Clone, Debug)]
pub struct Route {
    /// Which paths.
    pub path: RoutePath,
    /// What they get.
    pub action: RouteAction,
    /// Changes to the request before it is passed on.
    pub request_fields: FieldEdits,
    /// Changes to the response, whoever made it.
    pub response_fields: FieldEdits,
}

impl Route {
    /// The directory, where it has one.
    pub fn files(&self) -> Option<&Files> {
        match &self.action {
            RouteAction::Files(of) => Some(&of.files),
            RouteAction::Proxy(_) | RouteAction::Redirect { .. } | RouteAction::Fixed { .. } => {
                None
            }
        }
    }
}

/// The paths of a route, compared after percent-decoding and without dot segments. An exact path goes
/// before every prefix, and a longer prefix before a shorter one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RoutePath {
    /// This path only.
    Exact(String),
    /// This path and those below it: one that does not end in '/' ends at a segment's end.
    Prefix(String),
}

/// What a route's requests get.
#[derive(Clone, Debug)]
pub enum RouteAction {
    /// A file.
    Files(RouteFiles),
    /// What a server behind this one answers.
    Proxy(RouteProxy),
    /// A redirect.
    Redirect {
        /// 301, 302, 303, 307 or 308.
        status: u16,
        /// The target. Where it ends in `$path`, that stands for the request's path and query, without
        /// the prefix where it is to be stripped.
        location: String,
        /// Cut the route's prefix off what `$path` stands for.
        strip_prefix: bool,
    },
    /// Always the same response.
    Fixed {
        /// From 200 to 599.
        status: u16,
        /// Plain text; `None` for the page that belongs to the status.
        body: Option<String>,
    },
}

/// A route's directory.
#[derive(Clone, Debug)]
pub struct RouteFiles {
    /// The directory, with the site's settings of files.
    pub files: Files,
    /// Cut the route's prefix off the path that is looked for.
    pub strip_prefix: bool,
}

/// How requests are passed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteProxy {
    /// The index of the group in [`super::Config::upstreams`].
    pub upstream: usize,
    /// Cut the route's prefix off the target.
    pub strip_prefix: bool,
    /// The Host field that is sent; `None` sends the client's.
    pub host: Option<String>,
    /// Which fields tell of the client.
    pub forwarded: Style,
}

/// Changes to a message's fields: first those removed, then those set, then those added.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldEdits {
    /// Names, in lower case.
    pub remove: Vec<String>,
    /// Names, in lower case, and values that take the place of what was there.
    pub set: Vec<(String, String)>,
    /// Names, in lower case, and values that are added to what is there.
    pub add: Vec<(String, String)>,
}

impl FieldEdits {
    /// Whether nothing is changed.
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.add.is_empty()
    }

    /// Whether what was there of the field `name`, compared without case, goes.
    pub fn replaces(&self, name: &[u8]) -> bool {
        let is = |field: &String| name.eq_ignore_ascii_case(field.as_bytes());
        self.remove.iter().any(is) || self.set.iter().any(|(field, _)| is(field))
    }

    /// The fields that are put in, in order.
    pub fn put(&self) -> impl Iterator<Item = &(String, String)> {
        self.set.iter().chain(&self.add)
    }
}

/// How HTTP is spoken with the servers of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpstreamHttp {
    /// Which version.
    pub protocol: UpstreamProtocol,
    /// From the end of a request to the first byte of its answer.
    pub first_byte: Duration,
    /// Between two bytes of an answer.
    pub between_bytes: Duration,
    /// Without a byte in either direction of a connection that has changed its protocol.
    pub upgraded_idle: Duration,
    /// Idle connections kept per server and worker.
    pub idle_connections_max: usize,
    /// How long an idle connection is kept.
    pub idle: Duration,
    /// How long a connection is used for new requests.
    pub age: Duration,
    /// Requests of one worker, and tunnels of one, that may wait for a connection when the servers
    /// have all they may have.
    pub queue_max: usize,
    /// How long each may wait.
    pub queue: Duration,
    /// HTTP/2 connections per server and worker.
    pub http2_connections_max: usize,
    /// Requests at a time over each of them.
    pub streams_max: usize,
    /// Silence of one with requests under way after which a sign of life is asked for; `None`: never.
    pub ping: Option<Duration>,
}

/// A version of HTTP that servers are spoken to in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UpstreamProtocol {
    /// HTTP/1.1.
    #[default]
    Http11,
    /// HTTP/2, with prior knowledge (RFC 9113 3.3).
    Http2,
}

impl Default for UpstreamHttp {
    fn default() -> Self {
        Self {
            protocol: UpstreamProtocol::default(),
            first_byte: Duration::from_secs(60),
            between_bytes: Duration::from_secs(60),
            upgraded_idle: Duration::from_secs(600),
            idle_connections_max: 32,
            idle: Duration::from_secs(30),
            age: Duration::from_secs(3600),
            queue_max: 256,
            queue: Duration::from_secs(5),
            http2_connections_max: 8,
            streams_max: 100,
            ping: Some(Duration::from_secs(30)),
        }
    }
}

/// The proxies in front of this server whose word is taken for who a client is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proxies {
    /// Their networks.
    pub trusted: Networks<()>,
    /// The field in which they say who a client is.
    pub client_field: ClientField,
}

impl Proxies {
    /// Whether `address` is one of them.
    pub fn trusts(&self, address: IpAddr) -> bool {
        self.trusted.find(address).is_some()
    }

    /// The address of the client whose request came with `fields` over a connection from `peer`:
    /// what the proxies say, as far as each of them is trusted.
    pub fn client(&self, peer: IpAddr, fields: &Fields) -> IpAddr {
        if !self.trusts(peer) {
            return peer;
        }
        forwarded::client(peer, self.client_field, fields, |address| {
            self.trusts(address)
        })
    }
}

/// A range of IP addresses (RFC 4632, RFC 4291 2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix_bits: u32,
}

impl Network {
    /// The network that `text` says: an address, or an address, '/' and the bits that its members
    /// share with it.
    pub fn parse(text: &str) -> Option<Self> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let bits_max = address_bits(address);
        let prefix_bits = match bits {
            None => bits_max,
            Some(bits) if bits.bytes().all(|byte| byte.is_ascii_digit()) => bits.parse().ok()?,
            Some(_) => return None,
        };
        (prefix_bits <= bits_max).then_some(Self {
            address,
            prefix_bits,
        })
    }

    /// Whether it is one of IPv4.
    pub fn is_v4(&self) -> bool {
        self.address.is_ipv4()
    }

    /// Its first and its last address as numbers; stray bits are none of them.
    pub fn edges(&self) -> (u128, u128) {
        let rest = address_bits(self.address) - self.prefix_bits;
        let address = match self.address {
            IpAddr::V4(address) => u128::from(u32::from(address)),
            IpAddr::V6(address) => u128::from(address),
        };
        let beyond = 1_u128.checked_shl(rest).map_or(u128::MAX, |size| size - 1);
        (address & !beyond, address | beyond)
    }

    /// Whether `address` is in it. An IPv4 address stays one where IPv6 maps it.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let shift = 32 - self.prefix_bits;
                let differing = u32::from(network) ^ u32::from(address);
                differing.checked_shr(shift).unwrap_or(0) == 0
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let shift = 128 - self.prefix_bits;
                let differing = u128::from(network) ^ u128::from(address);
                differing.checked_shr(shift).unwrap_or(0) == 0
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }

    /// Whether the address has bits that its members need not share with it.
    pub fn has_stray_bits(&self) -> bool {
        let rest = match self.address {
            IpAddr::V4(address) => u128::from(
                u32::from(address)
                    .checked_shl(self.prefix_bits)
                    .unwrap_or(0),
            ),
            IpAddr::V6(address) => u128::from(address)
                .checked_shl(self.prefix_bits)
                .unwrap_or(0),
        };
        rest != 0
    }
}

fn address_bits(address: IpAddr) -> u32 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_contain_what_shares_their_bits() {
        for (network, inside, outside) in [
            ("192.0.2.0/24", "192.0.2.255", "192.0.3.0"),
            ("192.0.2.7", "192.0.2.7", "192.0.2.6"),
            ("192.0.2.0/24", "::ffff:192.0.2.1", "::1"),
            ("2001:db8::/33", "2001:db8:7fff::1", "2001:db8:8000::"),
            ("::1", "::1", "0.0.0.1"),
            ("0.0.0.0/0", "255.255.255.255", "::1"),
            ("::/0", "ffff::", "1.2.3.4"),
        ] {
            let parsed = Network::parse(network).unwrap();
            assert!(
                parsed.contains(inside.parse().unwrap()),
                "{network} {inside}"
            );
            assert!(
                !parsed.contains(outside.parse().unwrap()),
                "{network} {outside}"
            );
            assert!(!parsed.has_stray_bits(), "{network}");
        }
        assert!(Network::parse("192.0.2.1/24").unwrap().has_stray_bits());
        assert!(Network::parse("2001:db8::1/64").unwrap().has_stray_bits());
    }

    #[test]
    fn what_is_no_network() {
        for text in [
            "",
            "a",
            "192.0.2.0/33",
            "::/129",
            "192.0.2.0/",
            "192.0.2.0/+8",
            "1.2.3/8",
        ] {
            assert_eq!(Network::parse(text), None, "{text}");
        }
    }
}
