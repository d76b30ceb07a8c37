//! The configuration file as it is written: every key, every value with its place, nothing judged.
//!
//! The field names are the file's keys; [`keys`] reads them back for help texts and for the test
//! that holds the README to them.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Visitor};
use toml::Spanned;

/// A value and the bytes of the file that say it.
pub(super) type Value<T> = Option<Spanned<T>>;

/// The whole file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(super) struct RawConfig {
    pub(super) workers: RawWorkers,
    pub(super) listener: Vec<Spanned<RawListener>>,
    pub(super) site: Vec<Spanned<RawSite>>,
    pub(super) passthrough: Vec<Spanned<RawPassthrough>>,
    pub(super) upstream: Vec<Spanned<RawUpstream>>,
    pub(super) proxies: RawProxies,
    pub(super) tls: RawTls,
    pub(super) offload: RawOffload,
    pub(super) timeouts: RawTimeouts,
    pub(super) limits: RawLimits,
    pub(super) tcp: RawTcp,
    pub(super) session: RawSession,
    pub(super) admin: RawAdmin,
    pub(super) http2: RawHttp2,
    pub(super) access_log: RawAccessLog,
    pub(super) rate_limit: Value<RawRateLimit>,
    pub(super) request_id: RawRequestId,
}

/// `[workers]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(super) struct RawWorkers {
    pub(super) count: Value<i64>,
}

/// `[[listener]]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(super) struct RawListener {
    pub(super) address: Value<String>,
    pub(super) ipv6_only: Value<bool>,
    pub(super) backlog: Value<i64>,
    pub(super) service: Value<String>,
    pub(super) redirect_port: Value<i64>,
    pub(super) tunnel: Value<String>,
    pub(super) alpn: Value<Vec<Spanned<String>>>,
    pub(super) allow: Value<Vec<Spanned<String>>>,
    pub(super) deny: Value<Vec<Spanned<String>>>,
    pub(super) proxy_protocol: Value<bool>,
    pub(super) proxy_protocol_from: Value<Vec<Spanned<String>>>,
    pub(super) proxy_protocol_others: Value<String>,
}

/// `[[site]]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(super) struct RawSite {
    pub(super) names: Value<Vec<Spanned<String>>>,
    pub(super) default: Value<bool>,
    pub(super) certificate: Value<String>,
    pub(super) key: Value<String>,
    pub(super) root: Value<String>,
    pub(super) index: Value<Vec<Spanned<String>>>,
    pub(super) dotfiles: Value<bool>,
    pub(super) symlinks: Value<String>,
    pub(super) precompressed: Value<Vec<Spanned<String>>>,
    pub(super) listing: Value<bool>,
    pub(super) tunnel: Value<String>,
    pub(super) alpn: Value<Vec<Spanned<String>>>,
    pub(super) allow: Value<Vec<Spanned<String>>>,
    pub(super) deny: Value<Vec<Spanned<String>>>,
    pub(super) tls: Value<RawTls>,
    pub(super) hsts: Value<RawHsts>,
    pub(super) rate_limit: Value<RawRateLimit>,
    pub(super) access_log: Value<RawSiteLog>,
    pub(super) route: Vec<Spanned<RawRoute>>,
    pub(super) headers: Vec<Spanned<RawHeaders>>,
    pub(super) error_pages: Vec<Spanned<RawErrorPage>>,
}

/// `[[site.headers]]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(super) struct RawHeaders {
    pub(super) path: Value<String>,
    pub(super) extensions: Value<Vec<Spanned<String>>>,
    pub(super) fields: Value<Vec<Spanned<String>>>,
    pub(super) content_type: Value<String>,
}

/// `[[site.error_pages]]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(super) struct RawErrorPage {
    pub(super) statuses: Value<Vec<Spanned<i64>>>,
    pub(super) file: Value<String>,
}

/// `[tls]` and `[site.tls]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(super) struct RawTls {
    pub(super) version_min: Value<String>,
    pub(super) version_max: Value<String>,
    pub(super) suites: Value<Vec<Spanned<String>>>,
    pub(super) suite_order: Value<String>,
    pub(super) groups: Value<Vec<Spanned<String>>>,
    pub(super) alpn: Value<Vec<Spanned<String>>>,
    pub(super) client_ca: Value<String>,
    pub(super) client_certificate: Value<String>,
}

/// `[site.hsts]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(super) struct RawHsts {
    pub(super) max_age_s: Value<i64>,
    pub(super) include_subdomains: Value<bool>,
    pub(super) preload: Value<bool>,
}

/// `[[passthrough]]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(super) struct RawPassthrough {
    pub(super) names: Value<Vec<Spanned<String>>>,
    pub(super) default: Value<bool>,
    pub(super) alpn: Value<Vec<Spanned<String>>>,
    pub(super) upstream: Value<String>,
}

/// `[[upstream]]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(super) struct RawUpstream {
    pub(super) name: Value<String>,
    pub(super) balance: Value<String>,
    pub(super) hash_key: Value<String>,
    pub(super) connect_ms: Value<i64>,
    pub(super) slow_start_ms: Value<i64>,
    pub(super) eject_failures: Value<i64>,
    pub(super) eject_ms: Value<i64>,
    pub(super) resolve_s: Value<i64>,
    pub(super) send_proxy_protocol: Value<String>,
    pub(super) server: Vec<Spanned<RawUpstreamServer>>,
    pub(super) tls: Value<RawUpstreamTls>,
    pub(super) http: Value<RawUpstreamHttp>,
    pub(super) health: Value<RawHealth>,
}

/// `[upstream.tls]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(super) struct RawUpstreamTls {
    pub(super) server_name: Value<String>,
    pub(super) ca: Value<String>,
    pub(super) certificate: Value<String>,
    pub(super) key: Value<String>,
    pub(super) version_min: Value<String>,
    pub(super) alpn: Value<Vec<Spanned<String>>>,
    pub(super) danger_accept_any_certificate: Value<bool>,
}

/// `[upstream.http]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(super) struct RawUpstreamHttp {
    pub(super) protocol: Value<String>,
    pub(super) first_byte_ms: Value<i64>,
    pub(super) between_bytes_ms: Value<i64>,
    pub(super) upgraded_idle_ms: Value<i64>,
    pub(super) idle_connections_max: Value<i64>,
    pub(super) idle_connection_ms: Value<i64>,
    pub(super) connection_age_ms: Value<i64>,
    pub(super) queue_max: Value<i64>,
    pub(super) queue_ms: Value<i64>,
    pub(super) http2_connections_max: Value<i64>,
    pub(super) streams_max: Value<i64>,
    pub(super) ping_ms: Value<i64>,
}

/// `[[site.route]]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(super) struct RawRoute {
    pub(super) path: Value<String>,
    pub(super) prefix: Value<String>,
    pub(super) strip_prefix: Value<bool>,
    pub(super) upstream: Value<String>,
    pub(super) host: Value<String>,
    pub(super) forwarded: Value<String>,
    pub(super) root: Value<String>,
    pub(super) redirect: Value<String>,
    pub(super) status: Value<i64>,
    pub(super) body: Value<String>,
    pub(super) request_remove: Value<Vec<Spanned<String>>>,
    pub(super) request_set: Value<Vec<Spanned<String>>>,
    pub(super) request_add: Value<Vec<Spanned<String>>>,
    pub(super) response_remove: Value<Vec<Spanned<String>>>,
    pub(super) response_set: Value<Vec<Spanned<String>>>,
    pub(super) response_add: Value<Vec<Spanned<String>>>,
}

/// `[proxies]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(super) struct RawProxies {
    pub(super) trusted: Value<Vec<Spanned<String>>>,
    pub(super) client_field: Value<String>,
}

/// `[[upstream.server]]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(super) struct RawUpstreamServer {
    pub(super) address: Value<String>,
    pub(super) weight: Value<i64>,
    pub(super) connections_max: Value<i64>,
}

/// `[upstream.health]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(super) struct RawHealth {
    pub(super) kind: Value<String>,
    pub(super) path: Value<String>,
    pub(super) host: Value<String>,
    pub(super) interval_ms: Value<i64>,
    pub(super) timeout_ms: Value<i64>,
    pub(super) rise: Value<i64>,
    pub(super) fall: Value<i64>,
}

/// `[offload]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(super) struct RawOffload {
    pub(super) policy: Value<String>,
    pub(super) file_bytes_min: Value<i64>,
    pub(super) http2_bytes_min: Value<i64>,
    pub(super) answer_bytes_min: Value<i64>,
    pub(super) sent_bytes_min: Value<i64>,
    pub(super) tunnel_bytes_min: Value<i64>,
}

/// `[timeouts]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(super) struct RawTimeouts {
    pub(super) handshake_ms: Value<i64>,
    pub(super) header_ms: Value<i64>,
    pub(super) body_progress_ms: Value<i64>,
    pub(super) body_ms: Value<i64>,
    pub(super) send_progress_ms: Value<i64>,
    pub(super) idle_ms: Value<i64>,
    pub(super) linger_ms: Value<i64>,
    pub(super) tunnel_idle_ms: Value<i64>,
    pub(super) tunnel_lifetime_ms: Value<i64>,
    pub(super) drain_ms: Value<i64>,
}

/// `[limits]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(super) struct RawLimits {
    pub(super) connections_per_worker_max: Value<i64>,
    pub(super) connections_per_address_max: Value<i64>,
    pub(super) header_bytes_max: Value<i64>,
    pub(super) target_bytes_max: Value<i64>,
    pub(super) body_bytes_max: Value<i64>,
    pub(super) requests_per_connection_max: Value<i64>,
    pub(super) open_files_per_worker_max: Value<i64>,
    pub(super) records_per_key_max: Value<i64>,
}

/// `[tcp]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(super) struct RawTcp {
    pub(super) nodelay: Value<bool>,
    pub(super) notsent_low_water_bytes: Value<i64>,
    pub(super) user_timeout_ms: Value<i64>,
    pub(super) keepalive_idle_s: Value<i64>,
    pub(super) keepalive_interval_s: Value<i64>,
    pub(super) keepalive_probes_max: Value<i64>,
}

/// `[session]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(super) struct RawSession {
    pub(super) tickets: Value<bool>,
    pub(super) tickets_per_handshake: Value<i64>,
}

/// `[admin]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(super) struct RawAdmin {
    pub(super) address: Value<String>,
    pub(super) allow_remote: Value<bool>,
}

/// `[http2]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(super) struct RawHttp2 {
    pub(super) concurrent_streams_max: Value<i64>,
    pub(super) stream_window_bytes: Value<i64>,
    pub(super) connection_window_bytes: Value<i64>,
    pub(super) header_list_bytes_max: Value<i64>,
    pub(super) header_table_bytes: Value<i64>,
}

/// `[access_log]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(super) struct RawAccessLog {
    pub(super) path: Value<String>,
    pub(super) format: Value<String>,
}

/// `[site.access_log]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(super) struct RawSiteLog {
    pub(super) enabled: Value<bool>,
    pub(super) path: Value<String>,
    pub(super) format: Value<String>,
}

/// `[request_id]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(super) struct RawRequestId {
    pub(super) field: Value<String>,
    pub(super) to_upstreams: Value<bool>,
    pub(super) to_clients: Value<bool>,
}

/// `[rate_limit]` and `[site.rate_limit]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(super) struct RawRateLimit {
    pub(super) requests: Value<i64>,
    pub(super) per_s: Value<i64>,
    pub(super) burst: Value<i64>,
    pub(super) exempt: Value<Vec<Spanned<String>>>,
}

/// Every table as a file opens it, with its keys.
pub(super) fn tables() -> Vec<(&'static str, &'static [&'static str])> {
    vec![
        ("[workers]", keys::<RawWorkers>()),
        ("[[listener]]", keys::<RawListener>()),
        ("[[site]]", keys::<RawSite>()),
        ("[site.hsts]", keys::<RawHsts>()),
        ("[site.tls]", keys::<RawTls>()),
        ("[site.rate_limit]", keys::<RawRateLimit>()),
        ("[site.access_log]", keys::<RawSiteLog>()),
        ("[[site.route]]", keys::<RawRoute>()),
        ("[[site.headers]]", keys::<RawHeaders>()),
        ("[[site.error_pages]]", keys::<RawErrorPage>()),
        ("[[passthrough]]", keys::<RawPassthrough>()),
        ("[[upstream]]", keys::<RawUpstream>()),
        ("[[upstream.server]]", keys::<RawUpstreamServer>()),
        ("[upstream.tls]", keys::<RawUpstreamTls>()),
        ("[upstream.http]", keys::<RawUpstreamHttp>()),
        ("[upstream.health]", keys::<RawHealth>()),
        ("[proxies]", keys::<RawProxies>()),
        ("[rate_limit]", keys::<RawRateLimit>()),
        ("[tls]", keys::<RawTls>()),
        ("[offload]", keys::<RawOffload>()),
        ("[timeouts]", keys::<RawTimeouts>()),
        ("[limits]", keys::<RawLimits>()),
        ("[tcp]", keys::<RawTcp>()),
        ("[session]", keys::<RawSession>()),
        ("[admin]", keys::<RawAdmin>()),
        ("[http2]", keys::<RawHttp2>()),
        ("[access_log]", keys::<RawAccessLog>()),
        ("[request_id]", keys::<RawRequestId>()),
    ]
}

/// The keys that the table `T` accepts.
pub(super) fn keys<'de, T: Deserialize<'de>>() -> &'static [&'static str] {
    match T::deserialize(KeyReader) {
        Err(Keys(keys)) => keys,
        Ok(_) => &[],
    }
}

/// A deserializer that has no data: it reports the fields that a structure asks for, as an error.
struct KeyReader;

#[derive(Debug)]
struct Keys(&'static [&'static str]);

impl fmt::Display for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl std::error::Error for Keys {}

impl serde::de::Error for Keys {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self(&[])
    }
}

impl<'de> Deserializer<'de> for KeyReader {
    type Error = Keys;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Keys> {
        Err(Keys(&[]))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Keys> {
        Err(Keys(fields))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}
