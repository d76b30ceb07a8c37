//! `[[listener]]`: addresses that can be opened side by side.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use toml::Spanned;

use super::Checker;
use crate::config::range;
use crate::config::raw::{RawListener, Value};
use crate::config::{Listener, Networks, ProxyProtocol, Service, Upstream};

/// A listener and the bytes that say its address.
struct Written {
    listener: Listener,
    span: std::ops::Range<usize>,
}

impl Checker<'_> {
    pub(super) fn listeners(
        &mut self,
        raw: Vec<Spanned<RawListener>>,
        upstreams: &[Arc<Upstream>],
    ) -> Vec<Listener> {
        if raw.is_empty() {
            self.problem(
                0..0,
                "there is no [[listener]]",
                "add a line [[listener]] and below it address = \"[::]:443\"",
            );
        }
        let mut written: Vec<Written> = Vec::with_capacity(raw.len());
        for raw in raw {
            let Some(new) = self.listener(raw, upstreams) else {
                continue;
            };
            if let Some(old) = written
                .iter()
                .find(|old| overlap(&old.listener, &new.listener))
            {
                let line = self.source.place(old.span.clone()).line;
                let message = format!(
                    "{} takes connections that {} in line {line} takes too",
                    new.listener.address, old.listener.address
                );
                let remedy = overlap_remedy(&old.listener, &new.listener);
                self.problem(new.span.clone(), message, remedy);
                continue;
            }
            written.push(new);
        }
        let speaks_tls = |written: &Written| match written.listener.service {
            Service::Https | Service::Tunnel { .. } => true,
            Service::RedirectToHttps { .. } => false,
        };
        if let Some(first) = written.first()
            && !written.iter().any(speaks_tls)
        {
            self.warning(
                first.span.clone(),
                "no listener speaks TLS",
                "add a [[listener]] with service = \"https\"",
            );
        }
        written
            .into_iter()
            .map(|written| written.listener)
            .collect()
    }

    fn listener(
        &mut self,
        raw: Spanned<RawListener>,
        upstreams: &[Arc<Upstream>],
    ) -> Option<Written> {
        let header = raw.span();
        let raw = raw.into_inner();
        let before = self.problems.len();
        let backlog = self.number_or(
            "backlog",
            raw.backlog,
            &range::BACKLOG,
            Listener::BACKLOG_DEFAULT,
        );
        let port_written = raw.redirect_port.as_ref().map(Spanned::span);
        let port = self.number_or("redirect_port", raw.redirect_port, &range::PORT, 443);
        let is_redirect = self.choice_or("service", raw.service, &SERVICES, false);
        let tunnel = self.tunnel(raw.tunnel, raw.alpn, upstreams, "listener");
        let access = self.access(raw.allow, raw.deny);
        let service = match (is_redirect, tunnel) {
            (true, None) => Service::RedirectToHttps { port },
            (false, None) => Service::Https,
            (false, Some(tunnel)) => Service::Tunnel {
                upstream: tunnel.upstream,
                alpn: tunnel.alpn,
            },
            (true, Some(tunnel)) => {
                self.problem(
                    tunnel.span,
                    "`tunnel` on a listener that redirects",
                    "remove `tunnel`, or service = \"redirect\"",
                );
                return None;
            }
        };
        if let (Some(span), false, true) =
            (port_written, is_redirect, self.problems.len() == before)
        {
            self.problem(
                span,
                "`redirect_port` on a listener that does not redirect",
                "add service = \"redirect\", or remove `redirect_port`",
            );
        }
        let proxy_protocol = self.proxy_protocol(
            raw.proxy_protocol,
            raw.proxy_protocol_from,
            raw.proxy_protocol_others,
        );
        let Some(text) = raw.address else {
            self.problem(
                header,
                "this [[listener]] has no `address`",
                "add address = \"0.0.0.0:443\", or \"[::]:443\" for IPv6 and IPv4",
            );
            return None;
        };
        let address = self.address(&text)?;
        self.check_ipv6_only(raw.ipv6_only.as_ref(), address);
        Some(Written {
            listener: Listener {
                address,
                ipv6_only: raw.ipv6_only.is_some_and(Spanned::into_inner),
                backlog,
                service,
                access,
                proxy_protocol,
            },
            span: text.span(),
        })
    }

    fn check_ipv6_only(&mut self, written: Option<&Spanned<bool>>, address: SocketAddr) {
        if let Some(only) = written
            && address.is_ipv4()
        {
            self.problem(
                only.span(),
                format!("`ipv6_only` on the IPv4 address {address}"),
                "remove `ipv6_only`, or write an IPv6 address such as \"[::]:443\"",
            );
        }
    }

    fn proxy_protocol(
        &mut self,
        flag: Value<bool>,
        from: Value<Vec<Spanned<String>>>,
        others: Value<String>,
    ) -> Option<Arc<ProxyProtocol>> {
        let from_written = from.as_ref().map(Spanned::span);
        let others_written = others.as_ref().map(Spanned::span);
        let from = self.networks("proxy_protocol_from", from);
        let is_empty = from.is_empty();
        let from = from.into_iter().map(|(network, _)| (network, ()));
        let from = Networks::new(from.collect());
        let takes_others = self.choice_or("proxy_protocol_others", others, &OTHERS, false);
        let flag = flag.filter(|flag| *flag.get_ref());
        let Some(flag) = flag else {
            if let Some(span) = from_written.or(others_written) {
                self.warning(
                    span,
                    "who speaks the PROXY protocol, on a listener that does not",
                    "add proxy_protocol = true, or remove this",
                );
            }
            return None;
        };
        if is_empty && from_written.is_none() {
            self.problem(
                flag.span(),
                "`proxy_protocol` with no `proxy_protocol_from`, those whose word is taken",
                "add proxy_protocol_from = [\"192.0.2.0/24\"], the networks of the proxies: \
                 anybody else could claim any address",
            );
        }
        Some(Arc::new(ProxyProtocol { from, takes_others }))
    }

    fn address(&mut self, text: &Spanned<String>) -> Option<SocketAddr> {
        let written = text.get_ref();
        let remedy = match written.parse::<SocketAddr>() {
            Ok(SocketAddr::V6(address)) => match address.ip().to_ipv4_mapped() {
                None => return Some(address.into()),
                Some(v4) => format!("write the IPv4 address: \"{v4}:{}\"", address.port()),
            },
            Ok(address) => return Some(address),
            Err(_) => address_remedy(written),
        };
        self.problem(
            text.span(),
            format!("{written:?} is no address to listen on"),
            remedy,
        );
        None
    }
}

fn address_remedy(written: &str) -> String {
    if let Some(port) = written
        .strip_prefix(':')
        .or_else(|| written.strip_prefix("*:"))
        && port.parse::<u16>().is_ok()
    {
        return format!("write \"[::]:{port}\" for every IPv6 and IPv4 address");
    }
    if let Ok(port) = written.parse::<u16>() {
        return format!("write \"[::]:{port}\" for every IPv6 and IPv4 address");
    }
    match written.parse::<IpAddr>() {
        Ok(IpAddr::V4(address)) => format!("add the port: \"{address}:443\""),
        Ok(IpAddr::V6(address)) => format!("add brackets and the port: \"[{address}]:443\""),
        Err(_) => "write an IP address and a port, as \"0.0.0.0:443\" or \"[::]:443\"; host names \
                   are not looked up"
            .to_owned(),
    }
}

/// Whether some connection could go to either. The kernel would let SO_REUSEPORT sockets with
/// overlapping addresses coexist and choose by a score; which one it is should not be a riddle.
fn overlap(a: &Listener, b: &Listener) -> bool {
    // Port 0 asks the kernel for a free one, another for each.
    if a.address.port() != b.address.port() || a.address.port() == 0 {
        return false;
    }
    match (a.address, b.address) {
        (SocketAddr::V4(a), SocketAddr::V4(b)) => {
            a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified()
        }
        (SocketAddr::V6(a), SocketAddr::V6(b)) => {
            (a.ip() == b.ip() && a.scope_id() == b.scope_id())
                || a.ip().is_unspecified()
                || b.ip().is_unspecified()
        }
        (SocketAddr::V6(v6), SocketAddr::V4(_)) => v6.ip().is_unspecified() && !a.ipv6_only,
        (SocketAddr::V4(_), SocketAddr::V6(v6)) => v6.ip().is_unspecified() && !b.ipv6_only,
    }
}

fn overlap_remedy(a: &Listener, b: &Listener) -> String {
    if a.address == b.address {
        "remove one of the two".to_owned()
    } else if a.address.is_ipv4() == b.address.is_ipv4() {
        "remove one of the two: the unspecified address already takes all connections".to_owned()
    } else {
        "\"[::]\" takes IPv4 connections too: add `ipv6_only = true` to it, or remove the IPv4 \
         listener"
            .to_owned()
    }
}

const OTHERS: [(&str, bool); 2] = [("refuse", false), ("plain", true)];

const SERVICES: [(&str, bool); 2] = [("https", false), ("redirect", true)];
