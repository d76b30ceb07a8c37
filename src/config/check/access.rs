//! Networks: `[proxies]`, `allow` and `deny`.

use toml::Spanned;

use super::Checker;
use crate::config::raw::{RawProxies, Value};
use crate::config::{Access, Network, Networks, Proxies};
use crate::limits::NETWORKS_PER_LIST_MAX;
use crate::proto::forwarded::ClientField;

impl Checker<'_> {
    pub(super) fn proxies(&mut self, raw: RawProxies) -> Proxies {
        let trusted = self.networks("trusted", raw.trusted);
        let trusted = trusted.into_iter().map(|(network, _)| (network, ()));
        Proxies {
            trusted: Networks::new(trusted.collect()),
            client_field: self.choice_or(
                "client_field",
                raw.client_field,
                &CLIENT_FIELDS,
                ClientField::default(),
            ),
        }
    }

    /// The lists of a listener or a site.
    pub(super) fn access(
        &mut self,
        allow: Value<Vec<Spanned<String>>>,
        deny: Value<Vec<Spanned<String>>>,
    ) -> Access {
        let allow = self.networks("allow", allow);
        let deny = self.networks("deny", deny);
        let mut allowed: Vec<Network> = allow.into_iter().map(|(network, _)| network).collect();
        allowed.sort_unstable_by_key(order);
        for (network, span) in &deny {
            if allowed.binary_search_by_key(&order(network), order).is_ok() {
                self.problem(
                    span.clone(),
                    "this network is in `allow` too",
                    "keep it in one of the two; of networks within each other the smaller decides",
                );
            }
        }
        let denied: Vec<Network> = deny.into_iter().map(|(network, _)| network).collect();
        Access::new(&allowed, &denied)
    }

    pub(super) fn networks(
        &mut self,
        key: &str,
        raw: Value<Vec<Spanned<String>>>,
    ) -> Vec<(Network, std::ops::Range<usize>)> {
        let raw = raw.map(Spanned::into_inner).unwrap_or_default();
        if let Some(first) = raw.get(NETWORKS_PER_LIST_MAX) {
            self.problem(
                first.span(),
                format!("more than {NETWORKS_PER_LIST_MAX} networks in `{key}`"),
                "join neighbours into larger networks",
            );
            return Vec::new();
        }
        let mut networks = Vec::with_capacity(raw.len());
        for text in raw {
            let written = text.get_ref();
            match Network::parse(written) {
                Some(network) if !network.has_stray_bits() => networks.push((network, text.span())),
                Some(_) => self.problem(
                    text.span(),
                    format!("{written:?} has bits beyond its prefix"),
                    "write the network's first address",
                ),
                None => self.problem(
                    text.span(),
                    format!("{written:?} is no network"),
                    "write an address, or a network as \"192.0.2.0/24\" or \"2001:db8::/32\"",
                ),
            }
        }
        networks
    }
}

fn order(network: &Network) -> (bool, (u128, u128)) {
    (network.is_v4(), network.edges())
}

const CLIENT_FIELDS: [(&str, ClientField); 3] = [
    ("x-forwarded-for", ClientField::XForwardedFor),
    ("forwarded", ClientField::Forwarded),
    ("none", ClientField::None),
];
