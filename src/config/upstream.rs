//! Groups of servers behind this one.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::{TlsVersion, UpstreamHttp};

/// A group of servers that can stand in for each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// What sites call it; no other group has the name.
    pub name: String,
    /// Which of its servers a connection goes to.
    pub balance: Balance,
    /// What [`Balance::Hash`] keeps together.
    pub hash_key: HashKey,
    /// At least one.
    pub servers: Vec<UpstreamServer>,
    /// For a connection to be established, over all addresses of the server that are tried.
    pub connect: Duration,
    /// How long a server that comes back is given less than its share; zero gives it all at once.
    pub slow_start: Duration,
    /// When servers are left out because they failed.
    pub ejection: Ejection,
    /// How often host names are looked up again, at the most: sooner after a failure.
    pub resolve: Duration,
    /// The version of the PROXY protocol in which they are told whose connection it is.
    pub proxy_protocol: Option<ProxyVersion>,
    /// How TLS is spoken with them; `None` connects in plain text.
    pub tls: Option<UpstreamTls>,
    /// How HTTP is spoken with them.
    pub http: UpstreamHttp,
    /// Checks that are made whether anybody connects or not.
    pub health: Option<HealthCheck>,
}

/// Which server of a group a connection goes to, among those that are healthy and have room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Balance {
    /// One after the other, each as often as its weight says.
    RoundRobin,
    /// The one with the fewest requests and tunnels under way for its weight.
    LeastConnections,
    /// Of two picked at random by weight, the one with fewer of them for its weight.
    TwoChoices,
    /// The same one for the same key (rendezvous hashing): a server that leaves moves no keys but
    /// its own.
    Hash,
}

/// What a hash of requests is made of. Where a request has none of it, and for tunnels, it is the
/// client's address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum HashKey {
    /// The client's address.
    #[default]
    Client,
    /// A field's value; the field's name in lower case.
    Header(String),
    /// A cookie's value (RFC 6265 4.2).
    Cookie(String),
}

/// One server of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamServer {
    /// Where it listens.
    pub address: UpstreamAddress,
    /// Its share beside the others'.
    pub weight: u32,
    /// Connections open to it at a time, over all workers; `None` sets no bound.
    pub connections_max: Option<usize>,
}

/// A version of the PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyVersion {
    /// Text: addresses only.
    V1,
    /// Binary: what is known of the TLS session too.
    V2,
}

/// How TLS is spoken with the servers of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamTls {
    /// The host name or IP address that every server's certificate must have; `None`: each has that
    /// of its own address.
    pub server_name: Option<String>,
    /// The PEM file with the authorities that certificates are taken from; `None`: those that
    /// browsers take them from.
    pub authorities_file: Option<PathBuf>,
    /// Our own certificate, for servers that ask for one.
    pub identity: Option<UpstreamIdentity>,
    /// The oldest version.
    pub version_min: TlsVersion,
    /// The application protocols that tunnels offer (RFC 7301), in order of preference.
    pub alpn: Vec<String>,
    /// Whether servers' certificates are verified at all.
    pub verifies: bool,
}

/// A certificate of ours for servers that ask for one; its files in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamIdentity {
    /// The chain, leaf first.
    pub certificate_file: PathBuf,
    /// The private key.
    pub key_file: PathBuf,
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum UpstreamAddress {
    /// An IP address and a TCP port.
    Ip(SocketAddr),
    /// A host name, looked up again and again, and a TCP port.
    Name(String, u16),
    /// A Unix stream socket; the path is absolute.
    Unix(PathBuf),
}

impl fmt::Display for UpstreamAddress {
    /// As it is written in the configuration.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => write!(f, "tcp://{address}"),
            Self::Name(host, port) => write!(f, "tcp://{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// When servers are left out because they failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ejection {
    /// Failures in a row after which a server is left out; `None` never does.
    pub failures: Option<u32>,
    /// For how long the first time; doubled each time it fails again right after,
    /// up to [`crate::limits::EJECTION_DOUBLINGS_MAX`] times.
    pub time: Duration,
}

/// A check that a server is well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// What is asked of it.
    pub kind: HealthCheckKind,
    /// From one check's end to the next check's start.
    pub interval: Duration,
    /// A check that takes longer has failed.
    pub timeout: Duration,
    /// Checks passed in a row after which a server is up.
    pub rise: u32,
    /// Checks failed in a row after which a server is down.
    pub fall: u32,
}

/// What a check asks of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HealthCheckKind {
    /// To accept a connection.
    Connect,
    /// To answer a GET over HTTP/1.1 with a status from 200 to 399.
    Http {
        /// The path and query, in ASCII.
        path: String,
        /// The Host field.
        host: String,
    },
}

impl UpstreamTls {
    /// The name that the certificate of the server at `address` must have. A group with a Unix socket
    /// has one for all.
    pub fn name_of(&self, address: &UpstreamAddress) -> Option<String> {
        let own = || match address {
            UpstreamAddress::Ip(address) => Some(address.ip().to_string()),
            UpstreamAddress::Name(host, _) => Some(host.clone()),
            UpstreamAddress::Unix(_) => None,
        };
        self.server_name.clone().or_else(own)
    }
}

impl Upstream {
    /// [`Upstream::connect`] where none is set.
    pub const CONNECT_DEFAULT: Duration = Duration::from_secs(5);

    /// [`Upstream::resolve`] where none is set.
    pub const RESOLVE_DEFAULT: Duration = Duration::from_secs(30);
}

impl Default for Ejection {
    fn default() -> Self {
        Self {
            failures: Some(3),
            time: Duration::from_secs(10),
        }
    }
}

impl Default for HealthCheck {
    fn default() -> Self {
        Self {
            kind: HealthCheckKind::Connect,
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(2),
            rise: 2,
            fall: 3,
        }
    }
}
