//! The configuration of `portcullis serve`: one directory, everything else at its default.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use super::{Config, Files, Listener, Offload, OffloadPolicy, Service, Site};

/// What the command line says.
#[derive(Clone, Debug)]
pub struct Options {
    /// The directory; absolute.
    pub root: PathBuf,
    /// The addresses to listen on; empty for the first of [`Plan::candidates`] that may be bound.
    pub listen: Vec<SocketAddr>,
    /// When the record layer moves into the kernel.
    pub offload: OffloadPolicy,
    /// How many workers; `None`: one per CPU.
    pub workers: Option<usize>,
    /// The PEM file with the certificate.
    pub certificate_file: PathBuf,
    /// The PEM file with its key; may be the same one.
    pub key_file: PathBuf,
}

/// A configuration and the ways it may listen.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The configuration, with the first candidate as its listeners.
    pub config: Config,
    /// Sets of listeners in order of preference; the first that this user may bind is to be taken.
    pub candidates: Vec<Vec<Listener>>,
}

/// The configuration for `options`: one site for every name.
pub fn config_for(options: Options) -> Plan {
    let candidates = candidates(&options.listen);
    let site = Site {
        names: SITE_NAMES.map(str::to_owned).to_vec(),
        certificate_file: options.certificate_file,
        key_file: options.key_file,
        tls: Default::default(),
        hsts: None,
        files: Files::new(options.root),
        routes: Vec::new(),
        tunnel: None,
        access: Default::default(),
        access_log: Default::default(),
        rate_limit: None,
    };
    let config = Config {
        workers: options.workers,
        listeners: candidates.first().cloned().unwrap_or_default(),
        sites: vec![Arc::new(site)],
        default_site: Some(0),
        passthroughs: Vec::new(),
        default_passthrough: None,
        upstreams: Vec::new(),
        proxies: Default::default(),
        rate_limit: None,
        offload: Offload {
            policy: options.offload,
            ..Default::default()
        },
        timeouts: Default::default(),
        limits: Default::default(),
        tcp: Default::default(),
        session: Default::default(),
        admin: None,
        http2: Default::default(),
        access_log: None,
        request_id: Default::default(),
    };
    Plan { config, candidates }
}

/// For each port, dual stack goes first, and IPv4 alone is for machines without IPv6.
fn candidates(listen: &[SocketAddr]) -> Vec<Vec<Listener>> {
    if !listen.is_empty() {
        return vec![listen.iter().copied().map(listener).collect()];
    }
    let any = [
        IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    ];
    PORTS
        .into_iter()
        .flat_map(|port| any.map(|ip| vec![listener(SocketAddr::new(ip, port))]))
        .collect()
}

fn listener(address: SocketAddr) -> Listener {
    Listener {
        proxy_protocol: None,
        address,
        ipv6_only: false,
        backlog: Listener::BACKLOG_DEFAULT,
        service: Service::Https,
        access: Default::default(),
    }
}

/// The name in the certificate that `serve` makes; other names reach the site as the default.
const SITE_NAMES: [&str; 1] = ["localhost"];

const PORTS: [u16; 2] = [443, 8443];

#[cfg(test)]
mod tests {
    use super::*;

    fn options(listen: &[&str]) -> Options {
        Options {
            root: "/srv".into(),
            listen: listen.iter().map(|text| text.parse().unwrap()).collect(),
            offload: OffloadPolicy::Never,
            workers: Some(3),
            certificate_file: "/c.pem".into(),
            key_file: "/k.pem".into(),
        }
    }

    fn addresses(plan: &Plan) -> Vec<Vec<String>> {
        let text = |set: &Vec<Listener>| set.iter().map(|l| l.address.to_string()).collect();
        plan.candidates.iter().map(text).collect()
    }

    #[test]
    fn the_standard_port_goes_first() {
        let plan = config_for(options(&[]));
        let expected = [
            ["[::]:443"],
            ["0.0.0.0:443"],
            ["[::]:8443"],
            ["0.0.0.0:8443"],
        ];
        assert_eq!(addresses(&plan), expected);
        assert_eq!(plan.config.listeners, plan.candidates[0]);
    }

    #[test]
    fn addresses_given_are_all_taken_and_nothing_else() {
        let plan = config_for(options(&["127.0.0.1:0", "[::1]:9443"]));
        assert_eq!(addresses(&plan), [["127.0.0.1:0", "[::1]:9443"]]);
    }

    #[test]
    fn options_reach_the_configuration() {
        let config = config_for(options(&[])).config;
        assert_eq!(config.workers, Some(3));
        assert_eq!(config.offload.policy, OffloadPolicy::Never);
        assert_eq!(config.default_site, Some(0));
        assert_eq!(config.sites[0].files.root, PathBuf::from("/srv"));
    }
}
