//! The plain-HTTP listener: every request is sent to HTTPS.

use std::sync::Arc;

use bytes::Bytes;

use super::rate::Rates;
use super::refusal::refusal;
use super::{Client, error_page, path};
use crate::config::Config;
use crate::message::{Now, Request, Response, Status};
use crate::proto::host_names::HostNames;

/// Redirects plain HTTP to HTTPS.
///
/// Only to names of the configured sites, so it is no open redirect: a request for any other host,
/// or none, goes to the default site's first name that is no wildcard, or is refused with 400 when
/// there is none. Strict-Transport-Security is never sent here (RFC 6797 7.2: "An HSTS Host MUST NOT
/// include the STS header field in HTTP responses conveyed over non-secure transport").
///
/// Whom a site does not let in, or who asks too often, is refused here too: where a site is found is as
/// little theirs to ask for as what it holds.
#[derive(Debug)]
pub struct Redirect {
    config: Arc<Config>,
    rates: Arc<Rates>,
    names: HostNames,
    /// What follows the host: empty, or ':' and the port.
    port: String,
}

impl Redirect {
    /// Redirects to the sites of `config` on `port`, which is left out of the URL when it is 443.
    /// Requests take their tokens from `rates`.
    pub fn new(config: Arc<Config>, rates: Arc<Rates>, port: u16) -> Self {
        let names = config.sites.iter().map(|site| site.names.as_slice());
        Self {
            names: HostNames::new(names, config.default_site),
            config,
            rates,
            port: match port {
                443 => String::new(),
                port => format!(":{port}"),
            },
        }
    }

    /// 308 (Permanent Redirect), which keeps method and body, to the same target over HTTPS. 403 and
    /// 429 as the site that is led to would answer.
    pub fn respond(&self, client: &Client, request: &Request, now: Now) -> Response {
        let site = self.names.site(Some(&request.host));
        let Some(site) = site.and_then(|index| self.config.sites.get(index)) else {
            return error_page::page(Status(400));
        };
        let proxies = &self.config.proxies;
        let address = proxies.client(client.address, &request.fields);
        let refusal = refusal(&self.config, site, &self.rates, address, now.monotonic);
        if let Some(refusal) = refusal {
            return refusal;
        }
        let host = match self.names.named(&request.host) {
            Some(_) if is_plain_name(&request.host) => Some(&*request.host),
            _ => self.default_name(),
        };
        let target = match &*request.target {
            // RFC 9110 9.3.7: the whole server; a URL has no other way to say so.
            "*" => "/",
            target => target,
        };
        let (Some(host), true) = (host, target.starts_with('/')) else {
            return error_page::page(Status(400));
        };
        let mut location = Vec::with_capacity(64 + host.len() + target.len());
        for part in ["https://", host, &self.port] {
            location.extend_from_slice(part.as_bytes());
        }
        path::push_visible(&mut location, target.as_bytes());
        error_page::page(Status(308)).with("location", Bytes::from(location))
    }

    /// The first name of the default site that is no wildcard.
    fn default_name(&self) -> Option<&str> {
        let site = self.config.sites.get(self.config.default_site?)?;
        let exact = |name: &&String| !name.starts_with("*.");
        site.names.iter().find(exact).map(String::as_str)
    }
}

/// Whether `host` holds nothing but what names are made of: a wildcard lets the client choose a
/// label.
fn is_plain_name(host: &str) -> bool {
    host.bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::{Access, RateLimit};
    use crate::message::Method;
    use crate::serve::testing;

    fn config(default_site: Option<usize>) -> Config {
        let sites = vec![
            testing::site("/", &["*.example.org", "main.example.org"]),
            testing::site("/", &["example.net"]),
        ];
        testing::config(sites, default_site)
    }

    fn redirect(config: Config, port: u16) -> Redirect {
        Redirect::new(Arc::new(config), Arc::default(), port)
    }

    fn client(address: &str) -> Client {
        Client {
            tls_policy: None,
            address: address.parse().unwrap(),
            introduction: None,
        }
    }

    fn ask(redirect: &Redirect, address: &str, request: &Request) -> Response {
        redirect.respond(&client(address), request, Now::read())
    }

    fn location(redirect: &Redirect, host: &str, target: &str) -> Result<String, u16> {
        let request = testing::request(Method::Post, host, target, &[]);
        let response = ask(redirect, "192.0.2.1", &request);
        // RFC 6797 7.2
        assert_eq!(testing::field(&response, "strict-transport-security"), None);
        testing::field(&response, "location").ok_or(response.status.0)
    }

    #[test]
    fn known_hosts_keep_their_name_and_target() {
        let redirect = redirect(config(None), 443);
        let request = testing::request(Method::Post, "example.net", "/", &[]);
        let response = ask(&redirect, "192.0.2.1", &request);
        assert_eq!(response.status, Status(308));
        for (host, target, expected) in [
            ("example.net", "/", "https://example.net/"),
            (
                "a.example.org",
                "/x?y=%20z",
                "https://a.example.org/x?y=%20z",
            ),
            (
                "example.net",
                "//evil.example/",
                "https://example.net//evil.example/",
            ),
            ("example.net", "/\\evil", "https://example.net/%5Cevil"),
            (
                "example.net",
                "/\r\nx: y",
                "https://example.net/%0D%0Ax:%20y",
            ),
            ("example.net", "*", "https://example.net/"),
        ] {
            assert_eq!(location(&redirect, host, target).unwrap(), expected);
        }
        assert_eq!(location(&redirect, "example.net", "@evil"), Err(400));
    }

    #[test]
    fn the_port_is_named_unless_it_is_the_default() {
        let redirect = redirect(config(None), 8443);
        let location = location(&redirect, "example.net", "/x").unwrap();
        assert_eq!(location, "https://example.net:8443/x");
    }

    #[test]
    fn unknown_hosts_are_never_the_target() {
        for host in [
            "evil.example",
            "",
            "x/@evil.example.org",
            "evil/.example.org",
            "[::1]",
        ] {
            let refusing = redirect(config(None), 443);
            assert_eq!(location(&refusing, host, "/"), Err(400), "{host}");
            let redirecting = redirect(config(Some(0)), 443);
            let location = location(&redirecting, host, "/a").unwrap();
            assert_eq!(location, "https://main.example.org/a", "{host}");
        }
    }

    #[test]
    fn sites_refuse_here_whom_they_refuse_over_tls() {
        let network = |text| crate::config::Network::parse(text).unwrap();
        let denied = [network("198.51.100.0/24")];
        let mut config = config(None);
        Arc::make_mut(&mut config.sites[1]).access = Access::new(&[], &denied);
        config.rate_limit = Some(RateLimit {
            token: Duration::from_secs(3600),
            burst: 2,
            exempt: Default::default(),
            scope: "".into(),
        });
        let redirect = redirect(config, 443);
        for (address, host, status) in [
            ("198.51.100.1", "example.net", 403),
            // Who is refused needs no token, and another site has other lists.
            ("198.51.100.1", "main.example.org", 308),
            ("198.51.100.1", "a.example.org", 308),
            ("198.51.100.1", "main.example.org", 429),
            ("192.0.2.1", "example.net", 308),
            // Nor does who asks for no site.
            ("192.0.2.1", "evil.example", 400),
            ("192.0.2.1", "main.example.org", 308),
            ("192.0.2.1", "example.net", 429),
        ] {
            let request = testing::request(Method::Get, host, "/", &[]);
            let response = ask(&redirect, address, &request);
            assert_eq!(response.status, Status(status), "{address} {host}");
            let retry_after = testing::field(&response, "retry-after");
            assert_eq!(retry_after.as_deref(), (status == 429).then_some("3600"));
        }
    }
}
