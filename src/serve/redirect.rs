//! The plain-HTTP listener: every request is sent to HTTPS.

use bytes::Bytes;

use super::{error_page, path};
use crate::config::Config;
use crate::message::{Request, Response, Status};
use crate::tls::names::Names;

/// Redirects plain HTTP to HTTPS.
///
/// Only to names of the configured sites, so it is no open redirect: a request for any other host,
/// or none, goes to the default site's first name that is no wildcard, or is refused with 400 when
/// there is none. Strict-Transport-Security is never sent here (RFC 6797 7.2: "An HSTS Host MUST NOT
/// include the STS header field in HTTP responses conveyed over non-secure transport").
#[derive(Debug)]
pub struct Redirect {
    names: Names,
    default_name: Option<Box<str>>,
    /// What follows the host: empty, or ':' and the port.
    port: String,
}

impl Redirect {
    /// Redirects to the sites of `config` on `port`, which is left out of the URL when it is 443.
    pub fn new(config: &Config, port: u16) -> Self {
        let default = config.default_site.and_then(|site| config.sites.get(site));
        let exact = |name: &&String| !name.starts_with("*.");
        let names = config.sites.iter().map(|site| site.names.as_slice());
        Self {
            names: Names::new(names, None),
            default_name: default
                .and_then(|site| site.names.iter().find(exact))
                .map(|name| name.as_str().into()),
            port: match port {
                443 => String::new(),
                port => format!(":{port}"),
            },
        }
    }

    /// 308 (Permanent Redirect), which keeps method and body, to the same target over HTTPS.
    pub fn respond(&self, request: &Request) -> Response {
        let host = match self.names.named(&request.host) {
            Some(_) if is_plain_name(&request.host) => Some(&*request.host),
            _ => self.default_name.as_deref(),
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
}

/// Whether `host` holds nothing but what names are made of: a wildcard lets the client choose a
/// label.
fn is_plain_name(host: &str) -> bool {
    host.bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Method;
    use crate::serve::testing;

    fn config(default_site: Option<usize>) -> Config {
        let sites = vec![
            testing::site("/", &["*.example.org", "main.example.org"]),
            testing::site("/", &["example.net"]),
        ];
        testing::config(sites, default_site)
    }

    fn location(redirect: &Redirect, host: &str, target: &str) -> Result<String, u16> {
        let request = testing::request(Method::Post, host, target, &[]);
        let response = redirect.respond(&request);
        // RFC 6797 7.2
        assert_eq!(testing::field(&response, "strict-transport-security"), None);
        testing::field(&response, "location").ok_or(response.status.0)
    }

    #[test]
    fn known_hosts_keep_their_name_and_target() {
        let redirect = Redirect::new(&config(None), 443);
        let request = testing::request(Method::Post, "example.net", "/", &[]);
        assert_eq!(redirect.respond(&request).status, Status(308));
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
        let redirect = Redirect::new(&config(None), 8443);
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
            let refusing = Redirect::new(&config(None), 443);
            assert_eq!(location(&refusing, host, "/"), Err(400), "{host}");
            let redirecting = Redirect::new(&config(Some(0)), 443);
            let location = location(&redirecting, host, "/a").unwrap();
            assert_eq!(location, "https://main.example.org/a", "{host}");
        }
    }
}
