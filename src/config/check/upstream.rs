//! `[[upstream]]`: groups of servers that can be connected to.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::ops::Range as Span;
use std::sync::Arc;
use std::time::Duration;

use toml::Spanned;

use super::Checker;
use super::host_name::host_name;
use crate::config::raw::{RawHealth, RawUpstream, RawUpstreamServer, Value};
use crate::config::{
    Balance, Ejection, HashKey, HealthCheck, HealthCheckKind, ProxyVersion, Upstream,
    UpstreamAddress, UpstreamProtocol, UpstreamServer, UpstreamTlsPlaces, range, suggest,
};
use crate::limits::{UPSTREAM_SERVERS_MAX, UPSTREAMS_MAX};
use crate::proto::syntax::is_token;

impl Checker<'_> {
    /// The groups. When there is a problem with one, it is missing: the caller gives up anyway.
    /// With the places of their TLS, in the same order.
    pub(super) fn upstreams(
        &mut self,
        raw: Vec<Spanned<RawUpstream>>,
    ) -> (Vec<Arc<Upstream>>, Vec<UpstreamTlsPlaces>) {
        if let Some(first) = raw.get(UPSTREAMS_MAX) {
            self.problem(
                first.span(),
                format!("more than {UPSTREAMS_MAX} [[upstream]] tables"),
                "put servers that can stand in for each other into one",
            );
            return Default::default();
        }
        let mut places = Vec::with_capacity(raw.len());
        let mut upstreams: Vec<Arc<Upstream>> = Vec::with_capacity(raw.len());
        for raw in raw {
            let header = raw.span();
            let raw = raw.into_inner();
            let name = raw.name.as_ref().map(Spanned::span);
            let place = self.upstream_tls_places(raw.tls.as_ref());
            let Some(upstream) = self.upstream(raw, header) else {
                continue;
            };
            if upstreams.iter().any(|known| known.name == upstream.name) {
                self.problem(
                    name.unwrap_or_default(),
                    format!("{:?} is the name of another [[upstream]]", upstream.name),
                    "give each a name of its own",
                );
                continue;
            }
            upstreams.push(Arc::new(upstream));
            places.push(place);
        }
        (upstreams, places)
    }

    /// The index of the group that `name` names.
    pub(super) fn upstream_named(
        &mut self,
        name: &Spanned<String>,
        upstreams: &[Arc<Upstream>],
    ) -> Option<usize> {
        let written = name.get_ref();
        let index = upstreams.iter().position(|known| known.name == *written);
        if index.is_none() {
            let names: Vec<&str> = upstreams.iter().map(|known| known.name.as_str()).collect();
            let remedy = match suggest::nearest(written, &names) {
                Some(near) => format!("did you mean \"{near}\"?"),
                None => format!("add [[upstream]] and below it name = {written:?}"),
            };
            self.problem(
                name.span(),
                format!("there is no [[upstream]] with the name {written:?}"),
                remedy,
            );
        }
        index
    }

    fn upstream(&mut self, raw: RawUpstream, header: Span<usize>) -> Option<Upstream> {
        let balance = self.choice_or("balance", raw.balance, &BALANCES, Balance::RoundRobin);
        let hash_key = self.hash_key(raw.hash_key, balance);
        let connect = self.optional_number("connect_ms", raw.connect_ms, &range::TIMEOUT_MS);
        let slow_start =
            self.optional_number("slow_start_ms", raw.slow_start_ms, &range::SLOW_START_MS);
        let resolve = self.optional_number("resolve_s", raw.resolve_s, &range::RESOLVE_S);
        let introduced = raw.send_proxy_protocol.as_ref().map(Spanned::span);
        let proxy_protocol = self.choice_or(
            "send_proxy_protocol",
            raw.send_proxy_protocol,
            &PROXY_VERSIONS,
            None,
        );
        let ejection = self.ejection(raw.eject_failures, raw.eject_ms);
        let http = raw.http.map(Spanned::into_inner).unwrap_or_default();
        let http = self.upstream_http(http, raw.tls.is_some());
        if proxy_protocol.is_some() && http.protocol == UpstreamProtocol::Http2 {
            self.problem(
                introduced.unwrap_or_default(),
                "`send_proxy_protocol` tells of one client, and HTTP/2 carries many on a connection",
                "remove it: `forwarded` in [[site.route]] tells of each, or speak \"http/1.1\"",
            );
        }
        let health = raw.health.map(|health| self.health(health.into_inner()));
        let name = self.upstream_name(raw.name, &header);
        if http.protocol == UpstreamProtocol::Http2 {
            self.warn_of_few_connections(&raw.server);
        }
        let servers = self.upstream_servers(raw.server, &header)?;
        let tls = raw.tls.map(|tls| self.upstream_tls(tls, &servers));
        Some(Upstream {
            name: name?,
            balance,
            hash_key,
            servers,
            connect: connect.map_or(Upstream::CONNECT_DEFAULT, Duration::from_millis),
            slow_start: slow_start.map_or(Duration::ZERO, Duration::from_millis),
            ejection,
            resolve: resolve.map_or(Upstream::RESOLVE_DEFAULT, Duration::from_secs),
            proxy_protocol,
            tls,
            http,
            health,
        })
    }

    fn hash_key(&mut self, written: Value<String>, balance: Balance) -> HashKey {
        let Some(written) = written else {
            return HashKey::default();
        };
        let text = written.get_ref();
        let is_name = |name: &str| is_token(name.as_bytes());
        let key = match text.split_once(':') {
            None if text == "client" => HashKey::Client,
            Some(("header", name)) if is_name(name) => HashKey::Header(name.to_ascii_lowercase()),
            Some(("cookie", name)) if is_name(name) => HashKey::Cookie(name.to_owned()),
            _ => {
                self.problem(
                    written.span(),
                    format!("`hash_key` cannot be {text:?}"),
                    "write \"client\", \"header:x-user\" or \"cookie:session\"",
                );
                return HashKey::default();
            }
        };
        if balance != Balance::Hash {
            self.warning(
                written.span(),
                "`hash_key` of a group that is not balanced by hash",
                "add balance = \"hash\", or remove it",
            );
        }
        key
    }

    fn upstream_name(&mut self, name: Value<String>, header: &Span<usize>) -> Option<String> {
        let Some(name) = name else {
            self.problem(
                header.clone(),
                "this [[upstream]] has no `name`",
                "add name = \"app\"; sites call it by this name",
            );
            return None;
        };
        let written = name.get_ref();
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if written.is_empty() || written.len() > NAME_BYTES_MAX || !written.chars().all(is_plain) {
            self.problem(
                name.span(),
                format!("{written:?} is no name for an upstream"),
                format!(
                    "use at most {NAME_BYTES_MAX} letters, digits, hyphens, underscores and dots"
                ),
            );
            return None;
        }
        Some(name.into_inner())
    }

    fn ejection(&mut self, failures: Value<i64>, time_ms: Value<i64>) -> Ejection {
        let default = Ejection::default();
        let failures: Option<u32> =
            self.optional_number("eject_failures", failures, &range::EJECT_FAILURES);
        let time = self.optional_number("eject_ms", time_ms, &range::TIMEOUT_MS);
        Ejection {
            failures: match failures {
                Some(failures) => Some(failures).filter(|&failures| failures > 0),
                None => default.failures,
            },
            time: time.map_or(default.time, Duration::from_millis),
        }
    }

    fn health(&mut self, raw: RawHealth) -> HealthCheck {
        let default = HealthCheck::default();
        let is_http = self.choice_or("kind", raw.kind, &HEALTH_KINDS, false);
        for (key, value) in [("path", &raw.path), ("host", &raw.host)] {
            let Some(value) = value else { continue };
            let (span, text) = (value.span(), value.get_ref());
            let is_visible = text.bytes().all(|byte| byte.is_ascii_graphic());
            let is_path = key != "path" || text.starts_with('/');
            if !is_http {
                self.problem(
                    span,
                    format!("`{key}` of a check that does not speak HTTP"),
                    format!("add kind = \"http\", or remove `{key}`"),
                );
            } else if text.is_empty() || !is_visible || !is_path {
                self.problem(
                    span,
                    format!("`{key}` cannot be {text:?}"),
                    "write visible ASCII without spaces; a path begins with '/'",
                );
            }
        }
        let text = |value: Value<String>, default: &str| {
            value.map_or_else(|| default.to_owned(), Spanned::into_inner)
        };
        let kind = match is_http {
            false => HealthCheckKind::Connect,
            true => HealthCheckKind::Http {
                path: text(raw.path, "/"),
                host: text(raw.host, "localhost"),
            },
        };
        let range = &range::TIMEOUT_MS;
        let interval = self.optional_number("interval_ms", raw.interval_ms, range);
        let timeout = self.optional_number("timeout_ms", raw.timeout_ms, range);
        HealthCheck {
            kind,
            interval: interval.map_or(default.interval, Duration::from_millis),
            timeout: timeout.map_or(default.timeout, Duration::from_millis),
            rise: self.number_or("rise", raw.rise, &range::HEALTH_COUNT, default.rise),
            fall: self.number_or("fall", raw.fall, &range::HEALTH_COUNT, default.fall),
        }
    }

    /// Each worker has connections of its own, and one that carries many requests at a time is never
    /// idle under load: workers that have none wait then.
    fn warn_of_few_connections(&mut self, servers: &[Spanned<RawUpstreamServer>]) {
        let cpus = || std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let workers = self.workers.unwrap_or_else(cpus);
        for server in servers {
            let Some(written) = &server.get_ref().connections_max else {
                continue;
            };
            let max = usize::try_from(*written.get_ref()).unwrap_or(0);
            if max > 0 && max < workers {
                self.warning(
                    written.span(),
                    format!(
                        "fewer HTTP/2 connections than the {workers} workers, which share none"
                    ),
                    format!("set it to {workers} or more, or set fewer workers"),
                );
            }
        }
    }

    fn upstream_servers(
        &mut self,
        raw: Vec<Spanned<RawUpstreamServer>>,
        header: &Span<usize>,
    ) -> Option<Vec<UpstreamServer>> {
        if raw.is_empty() || raw.len() > UPSTREAM_SERVERS_MAX {
            self.problem(
                header.clone(),
                format!("this [[upstream]] has {} servers", raw.len()),
                format!(
                    "add from 1 to {UPSTREAM_SERVERS_MAX} lines [[upstream.server]], each with \
                     address = \"tcp://127.0.0.1:8080\" below it"
                ),
            );
            return None;
        }
        let mut servers: Vec<UpstreamServer> = Vec::with_capacity(raw.len());
        for raw in raw {
            let written = raw.get_ref().address.as_ref().map(Spanned::span);
            let Some(server) = self.upstream_server(raw) else {
                continue;
            };
            if servers.iter().any(|known| known.address == server.address) {
                self.problem(
                    written.unwrap_or_default(),
                    format!(
                        "{} is a server of this [[upstream]] already",
                        server.address
                    ),
                    "remove one of the two; `weight` gives a server a larger share",
                );
            }
            servers.push(server);
        }
        Some(servers)
    }

    fn upstream_server(&mut self, raw: Spanned<RawUpstreamServer>) -> Option<UpstreamServer> {
        let header = raw.span();
        let raw = raw.into_inner();
        let weight = self.number_or("weight", raw.weight, &range::WEIGHT, 1);
        let connections_max: Option<usize> = self.optional_number(
            "connections_max",
            raw.connections_max,
            &range::SERVER_CONNECTIONS,
        );
        let Some(address) = raw.address else {
            self.problem(
                header,
                "this [[upstream.server]] has no `address`",
                "add address = \"tcp://127.0.0.1:8080\", or \"unix:/run/app.sock\"",
            );
            return None;
        };
        Some(UpstreamServer {
            address: self.upstream_address(&address)?,
            weight,
            connections_max: connections_max.filter(|&max| max > 0),
        })
    }

    fn upstream_address(&mut self, address: &Spanned<String>) -> Option<UpstreamAddress> {
        match parse_address(address.get_ref()) {
            Ok(UpstreamAddress::Unix(path)) => {
                let path = self.base.join(path);
                if path.as_os_str().len() > UNIX_PATH_BYTES_MAX {
                    self.problem(
                        address.span(),
                        format!("a socket's path has at most {UNIX_PATH_BYTES_MAX} bytes"),
                        "use a shorter one (unix(7))",
                    );
                    return None;
                }
                Some(UpstreamAddress::Unix(path))
            }
            Ok(address) => Some(address),
            Err(remedy) => {
                self.problem(
                    address.span(),
                    format!("{:?} is no server's address", address.get_ref()),
                    remedy,
                );
                None
            }
        }
    }
}

/// A server's address as it is written; a Unix path may still be relative.
fn parse_address(written: &str) -> Result<UpstreamAddress, String> {
    if let Some(path) = written.strip_prefix("unix:") {
        return match path.is_empty() || path.contains('\0') {
            true => Err("write the socket's path, as \"unix:/run/app.sock\"".to_owned()),
            false => Ok(UpstreamAddress::Unix(path.into())),
        };
    }
    let Some(rest) = written.strip_prefix("tcp://") else {
        return Err(
            "write \"tcp://host:port\", or \"unix:/path\" for a Unix socket; [upstream.tls] below \
             it speaks TLS"
                .to_owned(),
        );
    };
    if let Ok(address) = rest.parse::<SocketAddr>() {
        return match address.port() {
            0 => Err("write the port that the server listens on".to_owned()),
            _ => Ok(UpstreamAddress::Ip(address)),
        };
    }
    let port = rest.rsplit_once(':').and_then(|(host, port)| {
        let port = port.parse::<u16>().ok().filter(|&port| port > 0)?;
        Some((host, port))
    });
    let Some((host, port)) = port else {
        return Err(format!("add the port: \"tcp://{rest}:8080\""));
    };
    match host_name(host) {
        Ok(name) if !name.starts_with("*.") => Ok(UpstreamAddress::Name(name, port)),
        Ok(_) => Err("write one server's name: a wildcard has no address".to_owned()),
        Err((_, remedy)) => Err(remedy),
    }
}

const BALANCES: [(&str, Balance); 4] = [
    ("round-robin", Balance::RoundRobin),
    ("least-connections", Balance::LeastConnections),
    ("two-choices", Balance::TwoChoices),
    ("hash", Balance::Hash),
];

const PROXY_VERSIONS: [(&str, Option<ProxyVersion>); 3] = [
    ("none", None),
    ("v1", Some(ProxyVersion::V1)),
    ("v2", Some(ProxyVersion::V2)),
];

const HEALTH_KINDS: [(&str, bool); 2] = [("connect", false), ("http", true)];

const NAME_BYTES_MAX: usize = 64;

/// What sockaddr_un holds beside its terminating zero (unix(7)).
const UNIX_PATH_BYTES_MAX: usize = 107;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_they_are_meant() {
        for (written, read) in [
            ("tcp://127.0.0.1:80", "tcp://127.0.0.1:80"),
            ("tcp://[::1]:80", "tcp://[::1]:80"),
            ("tcp://App.Example.ORG:8080", "tcp://app.example.org:8080"),
            ("tcp://localhost:65535", "tcp://localhost:65535"),
            ("unix:/run/a b.sock", "unix:/run/a b.sock"),
            ("unix:relative", "unix:relative"),
        ] {
            assert_eq!(parse_address(written).unwrap().to_string(), read);
        }
        for written in [
            "",
            "127.0.0.1:80",
            "http://a.test:80",
            "tcp://",
            "tcp://a.test",
            "tcp://a.test:0",
            "tcp://a.test:65536",
            "tcp://127.0.0.1:0",
            "tcp://*.a.test:80",
            "tcp://a b:80",
            "tcp://::1:80",
            "unix:",
            "unix:a\0b",
        ] {
            let remedy = parse_address(written).expect_err(written);
            assert!(!remedy.is_empty());
        }
    }
}
