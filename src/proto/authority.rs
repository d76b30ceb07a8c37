//! The authority of a request: Host (RFC 9110 7.2), absolute-form targets and `:authority`.

use std::net::Ipv6Addr;

use crate::limits::HOST_BYTES_MAX;
use crate::proto::syntax::{ByteSet, decimal};

/// The host of `authority` (`uri-host [ ":" port ]`, RFC 9110 7.2) in lower case, without port and
/// without the final dot of a fully qualified name; an IPv6 literal keeps its brackets.
///
/// `None` when it is malformed or has no host, which the http and https schemes forbid (RFC 9110
/// 4.2.1), or holds userinfo, which a recipient is to treat as an error (RFC 9110 4.2.4).
pub fn host_of(authority: &[u8]) -> Option<Box<str>> {
    let (host, port) = split_port(authority)?;
    if !port.is_none_or(is_port) {
        return None;
    }
    let host = match host {
        [b'[', literal @ .., b']'] => {
            std::str::from_utf8(literal)
                .ok()?
                .parse::<Ipv6Addr>()
                .ok()?;
            host
        }
        _ if !is_reg_name(host) => return None,
        _ => host.strip_suffix(b".").unwrap_or(host),
    };
    if host.is_empty() || host.len() > HOST_BYTES_MAX {
        return None;
    }
    // ASCII by now.
    let host = std::str::from_utf8(host).ok()?;
    Some(host.to_ascii_lowercase().into())
}

/// Whether `target` is the authority-form of CONNECT (RFC 9112 3.2.3): a host and a port.
pub fn is_connect_target(target: &[u8]) -> bool {
    let has_port = split_port(target).is_some_and(|(_, port)| port.is_some_and(|p| !p.is_empty()));
    has_port && host_of(target).is_some()
}

/// The host and, after a colon, the port. A colon within brackets belongs to the host.
fn split_port(authority: &[u8]) -> Option<(&[u8], Option<&[u8]>)> {
    let host_end = match authority {
        [b'[', ..] => authority.iter().position(|&byte| byte == b']')? + 1,
        _ => authority
            .iter()
            .position(|&byte| byte == b':')
            .unwrap_or(authority.len()),
    };
    match authority.split_at_checked(host_end)? {
        (host, []) => Some((host, None)),
        (host, [b':', port @ ..]) => Some((host, Some(port))),
        _ => None,
    }
}

/// Whether `port` is `*DIGIT` (RFC 3986 3.2.3: it may be empty) and a TCP port.
fn is_port(port: &[u8]) -> bool {
    port.is_empty() || decimal(port).is_some_and(|n| n <= 65_535)
}

/// Whether `name` is a reg-name (RFC 3986 3.2.2).
fn is_reg_name(name: &[u8]) -> bool {
    let mut rest = name.iter();
    while let Some(&byte) = rest.next() {
        let is_allowed = match byte {
            b'%' => {
                let digits = [rest.next(), rest.next()];
                digits
                    .iter()
                    .all(|digit| digit.is_some_and(u8::is_ascii_hexdigit))
            }
            _ => REG_NAME.contains(byte),
        };
        if !is_allowed {
            return false;
        }
    }
    true
}

/// Bytes of a reg-name as they stand: unreserved and sub-delims (RFC 3986 2.2, 2.3).
static REG_NAME: ByteSet = ByteSet::alphanumeric_and(b"-._~!$&'()*+,;=");

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rfc9110_7_2_valid_authorities() {
        for (authority, host) in [
            ("example.org", "example.org"),
            ("EXAMPLE.org:8443", "example.org"),
            ("example.org:", "example.org"),
            ("example.org.", "example.org"),
            ("192.0.2.1:80", "192.0.2.1"),
            ("[2001:DB8::1]:443", "[2001:db8::1]"),
            ("[::1]", "[::1]"),
            ("a_b-c~d", "a_b-c~d"),
            ("x%41", "x%41"),
        ] {
            assert_eq!(
                host_of(authority.as_bytes()).as_deref(),
                Some(host),
                "{authority}"
            );
        }
    }

    #[test]
    fn rfc9110_7_2_invalid_authorities() {
        for authority in [
            "",
            ".",
            ":80",
            "user@example.org",
            "user:pw@example.org",
            "a b",
            "a/b",
            "a?b",
            "a#b",
            "a:80:80",
            "a:x",
            "a:65536",
            "a:-1",
            "[::1",
            "::1",
            "[::1]x",
            "[v1.x]",
            "[fe80::1%25e]",
            "[]",
            "a%4",
            "a%zz",
            "a\\b",
            "a\"b",
            "a<b",
            "a[b]",
            "\u{e9}",
            "a\0b",
            "a,\tb",
        ] {
            assert_eq!(host_of(authority.as_bytes()), None, "{authority:?}");
        }
        assert!(host_of(&[b'a'; HOST_BYTES_MAX]).is_some());
        assert!(host_of(&[b'a'; HOST_BYTES_MAX + 1]).is_none());
    }

    #[test]
    fn rfc9112_3_2_3_authority_form_needs_a_port() {
        assert!(is_connect_target(b"example.org:443"));
        assert!(is_connect_target(b"[::1]:443"));
        for target in [
            "example.org",
            "example.org:",
            "/",
            "*",
            "http://example.org/",
            ":443",
        ] {
            assert!(!is_connect_target(target.as_bytes()), "{target}");
        }
    }

    proptest! {
        #[test]
        fn a_host_is_never_empty_and_never_upper_case(
            authority in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            if let Some(host) = host_of(&authority) {
                prop_assert!(!host.is_empty());
                prop_assert!(!host.bytes().any(|b| b.is_ascii_uppercase() || b <= b' ' || b == b'@'));
            }
        }

        #[test]
        fn a_name_comes_back_whatever_its_port(name in "[a-z0-9][a-z0-9.-]{0,20}[a-z0-9]", port: u16) {
            let host = host_of(format!("{name}:{port}").as_bytes());
            prop_assert_eq!(host.as_deref(), Some(&*name));
        }
    }
}
