//! rustls configurations: one for each distinct TLS policy, certificates chosen by name.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, SupportedKxGroup, aws_lc_rs};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, ProducesTickets, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{CipherSuite, ServerConfig, SupportedCipherSuite};

use super::client_auth::ClientAuthorities;
use super::client_config::ClientTls;
use super::client_hello::ClientHello;
use super::key_derivation::extracting_once;
use crate::config::{Config, Group, Service, Session, Suite, SuiteOrder, TlsPolicy, TlsVersion};
use crate::proto::host_names::HostNames;

/// The TLS side of a configuration: which site a name belongs to, and the rustls configuration of
/// each site's policy.
pub struct TlsSetup {
    names: Arc<HostNames>,
    /// By site: the index of its policy.
    site_policies: Vec<usize>,
    configs: Vec<PolicyConfig>,
    /// By the protocols of a listener's tunnel: as `configs`, with those protocols.
    tunnels: HashMap<Vec<String>, Vec<PolicyConfig>>,
    /// By upstream.
    upstreams: Vec<Option<Arc<ClientTls>>>,
    client_authorities: ClientAuthorities,
}

/// The rustls configuration of a policy, for the clients it differs for.
#[derive(Clone, Debug)]
pub struct PolicyConfig {
    /// For one without a session.
    pub fresh: Arc<ServerConfig>,
    /// For one that offers a session: it takes up a ticket (RFC 8446 C.4: clients should use none twice)
    /// and gets one for it, which keeps as many as its first handshake left it. One whose ticket is refused
    /// gets one as well: rustls asks for the number before it looks at the ticket.
    pub resuming: Arc<ServerConfig>,
}

impl PolicyConfig {
    fn new(config: ServerConfig) -> Self {
        let mut resuming = config.clone();
        resuming.send_tls13_tickets = resuming.send_tls13_tickets.min(1);
        Self {
            fresh: Arc::new(config),
            resuming: Arc::new(resuming),
        }
    }

    /// The one for the client of `hello`.
    pub fn for_client(&self, hello: &ClientHello) -> &Arc<ServerConfig> {
        match hello.offers_session {
            true => &self.resuming,
            false => &self.fresh,
        }
    }
}

impl TlsSetup {
    /// Builds the setup of `config` with the certificate of each site, in the order of the sites.
    ///
    /// `tickets` is shared by all policies and workers, and is to be kept over reloads, so that
    /// sessions can be resumed anywhere; see [`ticketer`]. Only policies that want certificates of
    /// clients have their own: a session of before must not stand for a certificate that nobody looked
    /// at, nor one for what other authorities had signed. `client_authorities` has what they name.
    ///
    /// # Errors
    /// What rustls says of a policy that cannot work, as one without a suite for its versions.
    pub fn new(
        config: &Config,
        certificates: Vec<Arc<CertifiedKey>>,
        client_authorities: ClientAuthorities,
        tickets: &Arc<dyn ProducesTickets>,
    ) -> Result<Self, rustls::Error> {
        let site_names = config.sites.iter().map(|site| site.names.as_slice());
        let names = Arc::new(HostNames::new(site_names, config.default_site));
        let resolver = Arc::new(SiteCertificates {
            names: names.clone(),
            certificates,
        });
        let mut policies: HashMap<&TlsPolicy, usize> = HashMap::new();
        let mut configs = Vec::new();
        let mut site_policies = Vec::with_capacity(config.sites.len());
        for site in &config.sites {
            let policy = match policies.get(&site.tls) {
                Some(&policy) => policy,
                None => {
                    let verifier = verifier(&site.tls, &client_authorities)?;
                    let own = verifier.is_some().then(ticketer).transpose()?;
                    let tickets = own.as_ref().unwrap_or(tickets);
                    let certificates = (verifier, &resolver);
                    let built = server_config(&site.tls, &config.session, certificates, tickets)?;
                    configs.push(PolicyConfig::new(built));
                    policies.insert(&site.tls, configs.len() - 1);
                    configs.len() - 1
                }
            };
            site_policies.push(policy);
        }
        let mut tunnels = HashMap::new();
        for listener in &config.listeners {
            if let Service::Tunnel { alpn, .. } = &listener.service {
                let with_alpn =
                    |config: &PolicyConfig| PolicyConfig::new(with_alpn(&config.fresh, alpn));
                let configs = || configs.iter().map(with_alpn).collect();
                tunnels.entry(alpn.clone()).or_insert_with(configs);
            }
        }
        Ok(Self {
            names,
            site_policies,
            configs,
            tunnels,
            upstreams: Vec::new(),
            client_authorities,
        })
    }

    /// The authorities of the policies that want certificates of clients.
    pub fn client_authorities(&self) -> &ClientAuthorities {
        &self.client_authorities
    }

    /// The same with what each upstream is connected to with, in the order of [`Config::upstreams`];
    /// `None` where that is plain text.
    #[must_use]
    pub fn with_upstreams(mut self, upstreams: Vec<Option<Arc<ClientTls>>>) -> Self {
        self.upstreams = upstreams;
        self
    }

    /// What the upstreams are connected to with.
    pub fn upstreams(&self) -> &[Option<Arc<ClientTls>>] {
        &self.upstreams
    }

    /// The policy of the site that `server_name` (in lower case) belongs to, which is the default
    /// site for an unknown name and for none. Without a default site there is no policy: the client
    /// is due an unrecognized_name alert (RFC 6066 3).
    pub fn policy_for(&self, server_name: Option<&str>) -> Option<usize> {
        let site = self.names.site(server_name)?;
        self.site_policies.get(site).copied()
    }

    /// The rustls configuration of a policy.
    pub fn server_config(&self, policy: usize) -> Option<&PolicyConfig> {
        self.configs.get(policy)
    }

    /// The rustls configuration of a policy on a listener whose tunnel agrees to the protocols
    /// `alpn`.
    pub fn tunnel_config(&self, policy: usize, alpn: &[String]) -> Option<&PolicyConfig> {
        self.tunnels.get(alpn)?.get(policy)
    }

    /// The names of all sites.
    pub fn names(&self) -> &HostNames {
        &self.names
    }

    /// By site, the index of its policy.
    pub fn site_policies(&self) -> &[usize] {
        &self.site_policies
    }
}

impl fmt::Debug for TlsSetup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsSetup")
            .field("names", &self.names)
            .field("site_policies", &self.site_policies)
            .finish_non_exhaustive()
    }
}

/// The ticket keys of a process: encrypted with AES-256, authenticated, rotated every six hours by
/// rustls, tickets accepted for twelve.
///
/// # Errors
/// When the random number generator fails.
pub fn ticketer() -> Result<Arc<dyn ProducesTickets>, rustls::Error> {
    aws_lc_rs::Ticketer::new()
}

fn server_config(
    policy: &TlsPolicy,
    session: &Session,
    (verifier, resolver): (Option<Arc<dyn ClientCertVerifier>>, &Arc<SiteCertificates>),
    tickets: &Arc<dyn ProducesTickets>,
) -> Result<ServerConfig, rustls::Error> {
    let versions: Vec<&rustls::SupportedProtocolVersion> = [
        (TlsVersion::Tls13, &rustls::version::TLS13),
        (TlsVersion::Tls12, &rustls::version::TLS12),
    ]
    .into_iter()
    .filter(|(version, _)| (policy.version_min..=policy.version_max).contains(version))
    .map(|(_, version)| version)
    .collect();
    let builder = ServerConfig::builder_with_provider(Arc::new(provider(policy)))
        .with_protocol_versions(&versions)?;
    let builder = match verifier {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(resolver.clone());
    config.alpn_protocols = match &policy.alpn {
        None => {
            let offered = policy.protocols.iter();
            offered
                .map(|protocol| protocol.alpn_id().to_vec())
                .collect()
        }
        Some(alpn) => protocols(alpn),
    };
    // With the client's order rustls ignores that of `suites`, which then only says what is allowed.
    config.ignore_client_order = policy.suite_order == SuiteOrder::Server;
    // The record layer is ours or the kernel's after the handshake.
    config.enable_secret_extraction = true;
    // Tickets keep the state with the client: no memory and no lock here, and any worker resumes.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    if session.tickets {
        config.ticketer = tickets.clone();
        config.send_tls13_tickets = session.tickets_per_handshake;
    } else {
        config.send_tls13_tickets = 0;
    }
    Ok(config)
}

/// What takes certificates of clients under `policy`, where it wants any.
fn verifier(
    policy: &TlsPolicy,
    authorities: &ClientAuthorities,
) -> Result<Option<Arc<dyn ClientCertVerifier>>, rustls::Error> {
    let wanted = policy.client_auth.as_ref();
    let verifier = |auth| authorities.verifier(auth, Arc::new(provider(policy)));
    wanted.map(verifier).transpose()
}

fn with_alpn(config: &Arc<ServerConfig>, alpn: &[String]) -> ServerConfig {
    let mut config = ServerConfig::clone(config);
    config.alpn_protocols = protocols(alpn);
    config
}

fn protocols(alpn: &[String]) -> Vec<Vec<u8>> {
    alpn.iter().map(|name| name.clone().into_bytes()).collect()
}

/// The suites and groups of `policy`.
pub(super) fn provider(policy: &TlsPolicy) -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites = policy
        .suites
        .iter()
        .flat_map(|&suite| suites_of(suite))
        .map(|&suite| extracting_once(suite))
        .collect();
    provider.kx_groups = policy.groups.iter().map(|&group| group_of(group)).collect();
    provider
}

/// The suites that use an AEAD, TLS 1.3 first.
fn suites_of(suite: Suite) -> impl Iterator<Item = &'static SupportedCipherSuite> {
    let wanted = match suite {
        Suite::Aes128Gcm => [
            CipherSuite::TLS13_AES_128_GCM_SHA256,
            CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
            CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        ],
        Suite::Aes256Gcm => [
            CipherSuite::TLS13_AES_256_GCM_SHA384,
            CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
            CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        ],
        Suite::Chacha20Poly1305 => [
            CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
            CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
            CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
        ],
    };
    aws_lc_rs::ALL_CIPHER_SUITES
        .iter()
        .filter(move |suite| wanted.contains(&suite.suite()))
}

fn group_of(group: Group) -> &'static dyn SupportedKxGroup {
    match group {
        Group::X25519Mlkem768 => aws_lc_rs::kx_group::X25519MLKEM768,
        Group::X25519 => aws_lc_rs::kx_group::X25519,
        Group::Secp256r1 => aws_lc_rs::kx_group::SECP256R1,
        Group::Secp384r1 => aws_lc_rs::kx_group::SECP384R1,
    }
}

/// Each site's certificate, found by the name in the ClientHello.
struct SiteCertificates {
    names: Arc<HostNames>,
    certificates: Vec<Arc<CertifiedKey>>,
}

impl fmt::Debug for SiteCertificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the keys.
        f.debug_struct("SiteCertificates")
            .field("names", &self.names)
            .finish_non_exhaustive()
    }
}

impl ResolvesServerCert for SiteCertificates {
    fn resolve(&self, hello: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().map(str::to_ascii_lowercase);
        let site = self.names.site(name.as_deref())?;
        self.certificates.get(site).cloned()
    }
}

#[cfg(test)]
mod tests;
