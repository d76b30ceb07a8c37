//! Tunnels and `[[passthrough]]`: what goes to a server as it is.

use std::collections::HashMap;
use std::ops::Range as Span;
use std::sync::Arc;

use toml::Spanned;

use super::Checker;
use super::site::Sites;
use crate::config::raw::{RawPassthrough, Value};
use crate::config::{Passthrough, Upstream};

/// The passthroughs that could be made.
#[derive(Default)]
pub(super) struct Passthroughs {
    pub(super) all: Vec<Passthrough>,
    pub(super) default: Option<usize>,
}

/// Where a tunnel leads, and what is agreed to by ALPN on its way.
pub(super) struct Tunnel {
    pub(super) upstream: usize,
    pub(super) alpn: Vec<String>,
    /// What names the upstream.
    pub(super) span: Span<usize>,
}

impl Checker<'_> {
    /// The passthroughs, whose names no site of `sites` may have.
    pub(super) fn passthroughs(
        &mut self,
        raw: Vec<Spanned<RawPassthrough>>,
        upstreams: &[Arc<Upstream>],
        sites: &mut Sites,
    ) -> Passthroughs {
        let mut passthroughs = Passthroughs::default();
        // Names with the same protocols, for those that want certain protocols.
        let mut taken_with_alpn = HashMap::new();
        for raw in raw {
            let header = raw.span();
            let raw = raw.into_inner();
            if let Some(flag) = raw.default.as_ref().filter(|flag| *flag.get_ref()) {
                let line = self.place(flag).line;
                match sites.default_line {
                    None => {
                        sites.default_line = Some(line);
                        passthroughs.default = Some(passthroughs.all.len());
                    }
                    Some(first) => self.problem(
                        flag.span(),
                        format!("what stands in line {first} is the default already"),
                        "keep `default = true` on one site or passthrough",
                    ),
                }
            }
            let flag = raw.default.as_ref().filter(|flag| *flag.get_ref());
            let alpn = self.alpn(raw.alpn.as_ref());
            if let (Some(flag), false) = (flag, alpn.is_empty()) {
                self.problem(
                    flag.span(),
                    "a default that only takes certain protocols",
                    "remove `alpn`, or `default`",
                );
            }
            let taken = match alpn.is_empty() {
                true => &mut sites.taken,
                false => taken_with_alpn.entry(alpn.clone()).or_default(),
            };
            let names = self.names(raw.names, &header, taken);
            let upstream = match &raw.upstream {
                Some(name) => self.upstream_named(name, upstreams),
                None => {
                    self.problem(
                        header,
                        "this [[passthrough]] has no `upstream`",
                        "add upstream = \"app\", the name of an [[upstream]]",
                    );
                    None
                }
            };
            if let (Some((names, _)), Some(upstream)) = (names, upstream) {
                passthroughs.all.push(Passthrough {
                    names,
                    alpn,
                    upstream,
                });
            }
        }
        passthroughs
    }

    /// The tunnel of a site or listener.
    pub(super) fn tunnel(
        &mut self,
        upstream: Value<String>,
        alpn: Value<Vec<Spanned<String>>>,
        upstreams: &[Arc<Upstream>],
        table: &str,
    ) -> Option<Tunnel> {
        let protocols = self.alpn(alpn.as_ref());
        let Some(name) = upstream else {
            if let Some(alpn) = alpn.filter(|alpn| !alpn.get_ref().is_empty()) {
                self.problem(
                    alpn.span(),
                    format!("`alpn` on a {table} that speaks HTTP"),
                    "HTTP's protocols are offered by themselves: remove `alpn`, or add `tunnel`",
                );
            }
            return None;
        };
        Some(Tunnel {
            upstream: self.upstream_named(&name, upstreams)?,
            alpn: protocols,
            span: name.span(),
        })
    }

    /// RFC 7301 3.1: a protocol's name is from 1 to 255 bytes.
    pub(super) fn alpn(&mut self, raw: Option<&Spanned<Vec<Spanned<String>>>>) -> Vec<String> {
        let mut protocols: Vec<String> = Vec::new();
        for protocol in raw.map(Spanned::get_ref).into_iter().flatten() {
            let written = protocol.get_ref();
            let is_name = (1..=ALPN_BYTES_MAX).contains(&written.len());
            if !is_name || protocols.contains(written) {
                self.problem(
                    protocol.span(),
                    format!("{written:?} is no further protocol"),
                    format!("write each name once, with 1 to {ALPN_BYTES_MAX} bytes"),
                );
                continue;
            }
            protocols.push(written.clone());
        }
        protocols
    }
}

const ALPN_BYTES_MAX: usize = 255;
