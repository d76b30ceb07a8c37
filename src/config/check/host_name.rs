//! The names of a site: DNS names as clients send them.

/// A name in the form it is looked up in: lower case, no dot at the end.
///
/// # Errors
/// What is wrong with it, and the remedy.
pub(super) fn host_name(written: &str) -> Result<String, (String, String)> {
    let wrong = |what: &str, remedy: String| Err((format!("{written:?} {what}"), remedy));
    let name = written
        .strip_suffix('.')
        .unwrap_or(written)
        .to_ascii_lowercase();
    if let Some((_, rest)) = name.split_once("://") {
        let host = rest.split(['/', ':']).next().unwrap_or_default();
        return wrong("is a URL", format!("write the host name alone: \"{host}\""));
    }
    if name == "*" {
        return wrong(
            "would match every name",
            "set `default = true` on the site that serves names no other site has".to_owned(),
        );
    }
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    if bare.parse::<std::net::IpAddr>().is_ok() {
        return wrong(
            "is an address, for which clients send no name",
            "set `default = true` on the site that answers to addresses".to_owned(),
        );
    }
    if let Some((host, port)) = name.rsplit_once(':')
        && port.parse::<u16>().is_ok()
    {
        return wrong(
            "has a port",
            format!("write the host name alone: \"{host}\""),
        );
    }
    if !name.is_ascii() {
        return wrong(
            "is not ASCII",
            "write the name's punycode form, whose labels begin with \"xn--\" (RFC 5891); `idn2` \
             and most registrars show it"
                .to_owned(),
        );
    }
    let labels = name.strip_prefix("*.").unwrap_or(&name);
    if labels.contains('*') {
        return wrong(
            "has a wildcard that no certificate can have",
            "a wildcard is the whole first label, as \"*.example.org\" (RFC 9525 6.3)".to_owned(),
        );
    }
    if name.len() > NAME_BYTES_MAX {
        return wrong(
            "is too long",
            format!("a name has at most {NAME_BYTES_MAX} characters (RFC 1035 2.3.4)"),
        );
    }
    match labels.split('.').find(|label| !is_label(label)) {
        None => Ok(name),
        Some("") => wrong(
            "has an empty label",
            "write labels with one dot between them, as \"www.example.org\"".to_owned(),
        ),
        Some(label) => wrong(
            "is no host name",
            format!(
                "the label {label:?} may have letters, digits, '_' and inner hyphens, at most \
                 {LABEL_BYTES_MAX} (RFC 1123 2.1)"
            ),
        ),
    }
}

fn is_label(label: &str) -> bool {
    let is_allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    (1..=LABEL_BYTES_MAX).contains(&label.len())
        && label.bytes().all(is_allowed)
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// RFC 1035 2.3.4: 255 octets with the length octets of the labels and of the root.
const NAME_BYTES_MAX: usize = 253;
/// RFC 1035 2.3.4
const LABEL_BYTES_MAX: usize = 63;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_take_the_form_they_are_looked_up_in() {
        for (written, name) in [
            ("example.org", "example.org"),
            ("WWW.Example.ORG.", "www.example.org"),
            ("*.Example.org", "*.example.org"),
            ("localhost", "localhost"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
            ("_dmarc.a-b.example", "_dmarc.a-b.example"),
        ] {
            assert_eq!(host_name(written), Ok(name.to_owned()));
        }
    }

    #[test]
    fn what_is_no_name_is_told_how_to_be_one() {
        let long_label = format!("{}.org", "a".repeat(64));
        let long_name = ["abcdefg"; 32].join(".");
        for (written, what, remedy) in [
            ("https://example.org:8443/a", "is a URL", "\"example.org\""),
            ("example.org:443", "has a port", "\"example.org\""),
            ("*", "every name", "default = true"),
            ("192.0.2.1", "is an address", "default = true"),
            ("[2001:db8::1]", "is an address", "default = true"),
            ("b\u{fc}cher.example", "not ASCII", "punycode"),
            ("www.*.org", "wildcard", "*.example.org"),
            ("w*.example.org", "wildcard", "*.example.org"),
            ("*.*.example.org", "wildcard", "*.example.org"),
            ("a..b", "empty label", "one dot"),
            ("", "empty label", "one dot"),
            ("*.", "every name", "default = true"),
            ("-a.org", "no host name", "\"-a\""),
            ("a b.org", "no host name", "\"a b\""),
            (&long_label, "no host name", "63"),
            (&long_name, "too long", "253"),
        ] {
            let (message, help) = host_name(written).unwrap_err();
            assert!(message.contains(what), "{written}: {message}");
            assert!(help.contains(remedy), "{written}: {help}");
        }
    }
}
