//! The configuration: TOML text to checked, plain data.
//!
//! `raw` mirrors the file (serde, unknown keys refused); `check` turns it into the types below and
//! refuses what cannot work, with the file, line, column, offending text and remedy. Every other
//! room reads only these types.

mod access;
mod check;
mod error;
mod files;
mod held;
mod load;
mod locate;
mod parse;
mod range;
mod rate;
mod raw;
#[cfg(test)]
mod readme_tests;
mod route;
pub mod serve;
mod suggest;
#[cfg(test)]
mod tests;
mod upstream;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::proto::content_coding::Coding;

pub use self::access::{Access, Networks};
pub use self::error::{ConfigError, Place, Problem, Warning};
pub use self::files::{ErrorPage, HeaderRule};
pub use self::load::{Loaded, Places, SitePlaces, UpstreamTlsPlaces, load, parse};
pub use self::rate::RateLimit;
pub use self::route::{
    FieldEdits, Network, Proxies, Route, RouteAction, RouteFiles, RoutePath, RouteProxy,
    UpstreamHttp, UpstreamProtocol,
};
pub use self::upstream::{
    Balance, Ejection, HashKey, HealthCheck, HealthCheckKind, ProxyVersion, Upstream,
    UpstreamAddress, UpstreamIdentity, UpstreamServer, UpstreamTls,
};

/// A whole, checked configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// How many worker threads; `None`: one per CPU this process may use.
    pub workers: Option<usize>,
    /// The sockets to listen on; at least one.
    pub listeners: Vec<Listener>,
    /// The sites.
    pub sites: Vec<Arc<Site>>,
    /// The index in `sites` of the one that serves names no site has; `None` refuses them
    /// (unrecognized_name during the handshake, RFC 6066 3).
    pub default_site: Option<usize>,
    /// Names whose connections are passed on without terminating TLS.
    pub passthroughs: Vec<Passthrough>,
    /// The index in `passthroughs` of the one that serves names that neither a site nor a
    /// passthrough has. There is no default site then.
    pub default_passthrough: Option<usize>,
    /// Groups of servers behind this one.
    pub upstreams: Vec<Arc<Upstream>>,
    /// The proxies in front of this server.
    pub proxies: Proxies,
    /// How many requests one client may make, of the sites that have no limit of their own together.
    pub rate_limit: Option<RateLimit>,
    /// When the record layer moves into the kernel.
    pub offload: Offload,
    /// Deadlines.
    pub timeouts: Timeouts,
    /// Bounds.
    pub limits: Limits,
    /// TCP settings of accepted sockets.
    pub tcp: Tcp,
    /// TLS session settings shared by all sites.
    pub session: Session,
    /// Where operators and their machines look at this process; `None`: nowhere.
    pub admin: Option<Admin>,
    /// Bounds of HTTP/2 connections.
    pub http2: Http2,
    /// Where responses are logged, of sites without a log of their own; `None`: nowhere.
    pub access_log: Option<AccessLog>,
    /// What requests are known by.
    pub request_id: RequestIds,
}

/// One address to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// The address and port.
    pub address: SocketAddr,
    /// For an IPv6 address: refuse IPv4-mapped peers (IPV6_V6ONLY). `false` is dual stack.
    pub ipv6_only: bool,
    /// The accept queue's length per worker socket; the kernel caps it at net.core.somaxconn.
    pub backlog: u32,
    /// What is spoken there.
    pub service: Service,
    /// Whose connections are taken, by the address that connects.
    pub access: Access,
    /// Who tells, in front of a connection's own bytes, whose connection it is.
    pub proxy_protocol: Option<Arc<ProxyProtocol>>,
}

/// Proxies that send the PROXY protocol's header in front of each connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyProtocol {
    /// Their networks; from there a connection must begin with the header.
    pub from: Networks<()>,
    /// Whether others may connect too, as if there were no such protocol. What they send is never
    /// taken for a header.
    pub takes_others: bool,
}

impl ProxyProtocol {
    /// Whether `address` is one of the proxies.
    pub fn trusts(&self, address: IpAddr) -> bool {
        self.from.find(address).is_some()
    }
}

/// What a listener speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Service {
    /// TLS, then HTTP.
    Https,
    /// TLS, then whatever the client and the servers of an upstream say to each other.
    Tunnel {
        /// The index of the upstream in [`Config::upstreams`].
        upstream: usize,
        /// The application protocols that are agreed to, in order of preference (RFC 7301).
        alpn: Vec<String>,
    },
    /// Plain HTTP that redirects every request to HTTPS with 308.
    RedirectToHttps {
        /// The port in the redirect's target; 443 is left out of the URL.
        port: u16,
    },
}

/// One site: names, a certificate, and what it serves.
#[derive(Clone, Debug)]
pub struct Site {
    /// The names it answers to, in lower case; "*.example.org" stands for exactly one more label.
    pub names: Vec<String>,
    /// The PEM file with the certificate chain, leaf first.
    pub certificate_file: PathBuf,
    /// The PEM file with the private key.
    pub key_file: PathBuf,
    /// TLS versions, suites and groups.
    pub tls: TlsPolicy,
    /// Strict-Transport-Security for every response over TLS (RFC 6797).
    pub hsts: Option<Hsts>,
    /// What it serves where no route says otherwise. The root is empty where the routes leave it no
    /// path, and for a tunnel.
    pub files: Files,
    /// Paths that are served otherwise.
    pub routes: Vec<Route>,
    /// The index in [`Config::upstreams`] of the upstream to which everything goes instead.
    pub tunnel: Option<usize>,
    /// Whose requests are answered, by the client's address (see [`Proxies::client`]); 403 for
    /// others.
    pub access: Access,
    /// Where its responses are logged.
    pub access_log: SiteLog,
    /// How many requests one client may make, in place of [`Config::rate_limit`]; 429 for others.
    pub rate_limit: Option<RateLimit>,
}

/// Names whose connections are passed on as they are: what their ClientHello says decides where to,
/// and TLS is terminated there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passthrough {
    /// The names, as those of a site; no site has one of them, unless `alpn` tells them apart.
    pub names: Vec<String>,
    /// Only for clients that offer one of these application protocols; empty: for all.
    pub alpn: Vec<String>,
    /// The index of the upstream in [`Config::upstreams`].
    pub upstream: usize,
}

/// A directory and how it is served.
#[derive(Clone, Debug)]
pub struct Files {
    /// The directory; absolute.
    pub root: PathBuf,
    /// File names tried, in order, for a path that ends in '/'.
    pub index: Vec<String>,
    /// Serve names that begin with a dot. `.well-known` is always served.
    pub dotfiles: bool,
    /// Which symbolic links are followed.
    pub symlinks: Symlinks,
    /// The codings in which a file may lie beside itself (`app.js.br` beside `app.js`), in order of
    /// preference; empty to look for none.
    pub precompressed: Vec<Coding>,
    /// Fields of responses; of several rules with the same field the last decides.
    pub headers: Arc<[HeaderRule]>,
    /// List the directories that have no index file.
    pub listing: bool,
    /// Pages for statuses; at most one for each.
    pub error_pages: Vec<ErrorPage>,
}

/// Which symbolic links are followed below a root.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Symlinks {
    /// None: a path through a link is not found.
    Deny,
    /// Those that stay beneath the root (openat2 RESOLVE_BENEATH).
    #[default]
    Beneath,
    /// All of them.
    Follow,
}

/// The TLS versions, suites and groups a site allows. Sites with equal policies share one rustls
/// configuration, and requests may be coalesced between them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TlsPolicy {
    /// The oldest version.
    pub version_min: TlsVersion,
    /// The newest version.
    pub version_max: TlsVersion,
    /// The suites, in order of preference.
    pub suites: Vec<Suite>,
    /// Whose order of preference decides among the suites that both sides have.
    pub suite_order: SuiteOrder,
    /// The key-exchange groups, in order of preference.
    pub groups: Vec<Group>,
    /// The versions of HTTP offered by ALPN (RFC 7301), in order of preference.
    pub protocols: Vec<Protocol>,
    /// The application protocols of a tunnel (RFC 7301), in order of preference; `None` for sites
    /// that speak HTTP.
    pub alpn: Option<Vec<String>>,
    /// Certificates wanted of clients; `None` asks for none.
    pub client_auth: Option<ClientAuth>,
}

/// Whose certificates clients show (RFC 8446 4.3.2).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClientAuth {
    /// PEM file with the authorities that sign them.
    pub authorities_file: PathBuf,
    /// Whether a client without one is refused.
    pub is_required: bool,
}

/// An application protocol, as ALPN names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// HTTP/2 over TLS (RFC 9113 3.2)
    H2,
    /// HTTP/1.1 (RFC 7301 6)
    Http11,
}

impl Protocol {
    /// Its identification sequence (RFC 7301 6).
    pub fn alpn_id(self) -> &'static [u8] {
        match self {
            Self::H2 => b"h2",
            Self::Http11 => b"http/1.1",
        }
    }
}

/// A TLS version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TlsVersion {
    /// TLS 1.2 (RFC 5246)
    Tls12,
    /// TLS 1.3 (RFC 8446)
    Tls13,
}

/// A cipher suite by its AEAD; in TLS 1.2 it is offered with ECDHE and the certificate's signature
/// algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Suite {
    /// AES-128-GCM
    Aes128Gcm,
    /// AES-256-GCM
    Aes256Gcm,
    /// ChaCha20-Poly1305
    Chacha20Poly1305,
}

/// Whose order of preference decides among the suites that both sides have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SuiteOrder {
    /// The client's. Every suite here is strong, and the client knows its own processor: one without
    /// AES instructions puts ChaCha20-Poly1305 first.
    Client,
    /// Ours.
    Server,
}

/// A key-exchange group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Group {
    /// X25519MLKEM768, post-quantum hybrid; TLS 1.3 only
    X25519Mlkem768,
    /// X25519
    X25519,
    /// P-256
    Secp256r1,
    /// P-384
    Secp384r1,
}

/// Strict-Transport-Security.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hsts {
    /// max-age, in seconds.
    pub max_age_s: u64,
    /// includeSubDomains.
    pub include_subdomains: bool,
    /// preload.
    pub preload: bool,
}

/// When the record layer moves into the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offload {
    /// The policy.
    pub policy: OffloadPolicy,
    /// Under [`OffloadPolicy::Auto`]: a file of at least so many bytes that is sent over HTTP/1.1 moves its
    /// connection's sending side into the kernel.
    pub file_bytes_min: u64,
    /// Under [`OffloadPolicy::Auto`]: a body of at least so many bytes that is sent over HTTP/2 does the
    /// same.
    pub http2_bytes_min: u64,
    /// Under [`OffloadPolicy::Auto`]: a server's answer of at least so many bytes that is passed on over
    /// HTTP/1.1 does the same, and moves the receiving side of the connection that it comes over.
    pub answer_bytes_min: u64,
    /// Under [`OffloadPolicy::Auto`]: a body that is bulk (of more than
    /// [`CACHED_CONTENT_BYTES_MAX`](crate::limits::CACHED_CONTENT_BYTES_MAX) bytes) moves its
    /// connection's sending side into the kernel when it begins, if it and the bytes sent before it
    /// come to so many.
    pub sent_bytes_min: u64,
    /// Under [`OffloadPolicy::Auto`]: so many bytes in one direction of a tunnel move that direction
    /// into the kernel.
    pub tunnel_bytes_min: u64,
}

/// Whether connections are handed to kernel TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffloadPolicy {
    /// When it pays.
    Auto,
    /// Both directions, as soon as the handshake is done.
    Always,
    /// Never.
    Never,
}

/// Deadlines. They are checked about four times a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// From accept to an established session.
    pub handshake: Duration,
    /// From a request's first byte, or from the handshake for a connection's first request, to the
    /// end of the request's head.
    pub header: Duration,
    /// Without a byte of a request body.
    pub body_progress: Duration,
    /// From the end of a request's head to the end of its body, however steadily it comes.
    pub body: Duration,
    /// Without room for more of a response in the socket, which the kernel reports when half of
    /// [`Tcp::notsent_low_water_bytes`] is free.
    pub send_progress: Duration,
    /// Between requests on a kept connection.
    pub idle: Duration,
    /// For the peer to finish after our last byte: the lingering close.
    pub linger: Duration,
    /// Without a byte in either direction of a tunnel.
    pub tunnel_idle: Duration,
    /// For a tunnel in all; `None` sets no bound.
    pub tunnel_lifetime: Option<Duration>,
    /// From the first termination signal to the hard stop.
    pub drain: Duration,
}

/// Bounds an operator may set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Open connections per worker.
    pub connections_per_worker_max: usize,
    /// Open connections per client address (IPv6: per /64), over all workers.
    pub connections_per_address_max: u32,
    /// A request line and its header fields together, in bytes.
    pub header_bytes_max: usize,
    /// A request target, in bytes.
    pub target_bytes_max: usize,
    /// A request body, in bytes.
    pub body_bytes_max: u64,
    /// Requests on one connection before it is closed.
    pub requests_per_connection_max: u64,
    /// Open files cached per worker.
    pub open_files_per_worker_max: usize,
    /// Records protected with one AES-GCM key before it is changed, at most
    /// [`crate::limits::AES_GCM_RECORDS_MAX`].
    pub records_per_key_max: u64,
}

/// TCP settings of accepted sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tcp {
    /// TCP_NODELAY.
    pub nodelay: bool,
    /// TCP_NOTSENT_LOWAT, in bytes: how much unsent data the kernel queues before the socket stops
    /// being writable.
    pub notsent_low_water_bytes: Option<u32>,
    /// TCP_USER_TIMEOUT: unacknowledged data older than this resets the connection.
    pub user_timeout: Option<Duration>,
    /// Idle time before the first keepalive probe; `None` turns keepalive off.
    pub keepalive_idle: Option<Duration>,
    /// Time between keepalive probes.
    pub keepalive_interval: Duration,
    /// Unanswered keepalive probes before the connection is reset.
    pub keepalive_probes_max: u32,
}

/// Bounds of one HTTP/2 connection (RFC 9113), beyond those of [`Limits`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Http2 {
    /// Requests under way at once (SETTINGS_MAX_CONCURRENT_STREAMS), at most
    /// [`crate::limits::H2_STREAMS_MAX`].
    pub concurrent_streams_max: usize,
    /// Bytes of one request body that may be on the way or wait to be consumed
    /// (SETTINGS_INITIAL_WINDOW_SIZE).
    pub stream_window_bytes: u32,
    /// The same for all request bodies of a connection together.
    pub connection_window_bytes: u32,
    /// The fields of one request with 32 bytes for each (SETTINGS_MAX_HEADER_LIST_SIZE).
    pub header_list_bytes_max: usize,
    /// The table that a client compresses its fields with (SETTINGS_HEADER_TABLE_SIZE), in bytes.
    pub header_table_bytes: u32,
}

/// TLS session settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    /// Issue and accept session tickets (RFC 5077, RFC 8446 4.6.1).
    pub tickets: bool,
    /// Tickets sent after a full TLS 1.3 handshake. A client that offers a session gets at most one.
    pub tickets_per_handshake: usize,
}

/// The admin listener: metrics, health and the status page, over plain HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Where it listens.
    pub address: AdminAddress,
    /// Whether `address` may be one that other machines reach.
    pub allow_remote: bool,
}

/// The log with a line for each response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessLog {
    /// Where it is written.
    pub destination: LogDestination,
    /// What a line is.
    pub format: LogFormat,
}

/// Where a site's responses are logged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum SiteLog {
    /// In [`Config::access_log`].
    #[default]
    Common,
    /// In a log of the site's own, which other sites may name too.
    Own(AccessLog),
    /// Nowhere.
    Off,
}

/// What requests are known by in logs and beyond this server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestIds {
    /// The field that carries it, in lower case. A trusted proxy's is taken over.
    pub field: &'static str,
    /// Whether servers behind this one get it.
    pub to_upstreams: bool,
    /// Whether responses have it.
    pub to_clients: bool,
}

/// Where a log is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogDestination {
    /// To standard output.
    Stdout,
    /// To the end of a file, which is made where it is missing; its path is absolute.
    File(PathBuf),
}

/// What a line of the access log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// The "combined" format of other servers.
    Combined,
    /// A JSON object.
    Json,
}

/// An address of the admin listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminAddress {
    /// A TCP address and port.
    Tcp(SocketAddr),
    /// A Unix socket's path; absolute.
    Unix(PathBuf),
}

impl Listener {
    /// The accept queue's length where none is set: the kernel's own net.core.somaxconn since 5.4.
    pub const BACKLOG_DEFAULT: u32 = 4096;
}

impl Files {
    /// The directory `root`, served as where nothing else is said.
    pub fn new(root: PathBuf) -> Self {
        Self {
            root,
            index: Self::index_default(),
            dotfiles: false,
            symlinks: Symlinks::default(),
            precompressed: Vec::new(),
            headers: Arc::new([]),
            listing: false,
            error_pages: Vec::new(),
        }
    }

    /// The index file names where none are set.
    pub fn index_default() -> Vec<String> {
        vec!["index.html".to_owned()]
    }
}

impl Default for Hsts {
    /// One year, for this host alone.
    fn default() -> Self {
        Self {
            max_age_s: 31_536_000,
            include_subdomains: false,
            preload: false,
        }
    }
}

impl Default for TlsPolicy {
    fn default() -> Self {
        Self {
            version_min: TlsVersion::Tls12,
            version_max: TlsVersion::Tls13,
            suites: vec![Suite::Aes128Gcm, Suite::Aes256Gcm, Suite::Chacha20Poly1305],
            suite_order: SuiteOrder::Client,
            groups: vec![
                Group::X25519Mlkem768,
                Group::X25519,
                Group::Secp256r1,
                Group::Secp384r1,
            ],
            protocols: vec![Protocol::H2, Protocol::Http11],
            alpn: None,
            client_auth: None,
        }
    }
}

/// More than any connection sends.
const MORE_BYTES_THAN_ANY: u64 = 1 << 50;

impl Default for Offload {
    fn default() -> Self {
        Self {
            policy: OffloadPolicy::Auto,
            // .github/CONTRIBUTING.md has the counts that these follow from.
            file_bytes_min: 256 * 1024,
            http2_bytes_min: MORE_BYTES_THAN_ANY,
            answer_bytes_min: MORE_BYTES_THAN_ANY,
            sent_bytes_min: MORE_BYTES_THAN_ANY,
            tunnel_bytes_min: MORE_BYTES_THAN_ANY,
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(10),
            header: Duration::from_secs(15),
            body_progress: Duration::from_secs(30),
            body: Duration::from_secs(300),
            send_progress: Duration::from_secs(30),
            idle: Duration::from_secs(75),
            linger: Duration::from_secs(5),
            tunnel_idle: Duration::from_secs(3600),
            tunnel_lifetime: None,
            drain: Duration::from_secs(30),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_per_worker_max: 65_536,
            connections_per_address_max: 4_096,
            header_bytes_max: 32 * 1024,
            target_bytes_max: 8 * 1024,
            body_bytes_max: 1024 * 1024,
            requests_per_connection_max: 1_000_000,
            open_files_per_worker_max: 1_024,
            records_per_key_max: crate::limits::AES_GCM_RECORDS_MAX - 1024,
        }
    }
}

impl Default for Tcp {
    fn default() -> Self {
        Self {
            nodelay: true,
            notsent_low_water_bytes: Some(128 * 1024),
            user_timeout: Some(Duration::from_secs(30)),
            keepalive_idle: Some(Duration::from_secs(60)),
            keepalive_interval: Duration::from_secs(15),
            keepalive_probes_max: 4,
        }
    }
}

impl Default for Http2 {
    fn default() -> Self {
        Self {
            concurrent_streams_max: 128,
            stream_window_bytes: 256 * 1024,
            connection_window_bytes: 1024 * 1024,
            header_list_bytes_max: 32 * 1024,
            header_table_bytes: 4096,
        }
    }
}

impl Default for RequestIds {
    fn default() -> Self {
        Self {
            field: "x-request-id",
            to_upstreams: true,
            to_clients: false,
        }
    }
}

impl Default for Session {
    fn default() -> Self {
        Self {
            tickets: true,
            tickets_per_handshake: 2,
        }
    }
}
