//! `[tls]` and `[site.tls]`: policies that can establish a session.

use std::fmt::Debug;

use toml::Spanned;

use super::Checker;
use crate::config::raw::{RawTls, Value};
use crate::config::{ClientAuth, Group, Protocol, Suite, SuiteOrder, TlsPolicy, TlsVersion};

impl Checker<'_> {
    /// The policy of `raw`, with `inherited` for what it leaves open.
    pub(super) fn tls_policy(&mut self, raw: &RawTls, inherited: &TlsPolicy) -> TlsPolicy {
        let before = self.problems.len();
        let mut version = |key, value: &Value<String>, inherited| {
            self.choice_or(key, value.clone(), &VERSIONS, inherited)
        };
        let version_min = version("version_min", &raw.version_min, inherited.version_min);
        let version_max = version("version_max", &raw.version_max, inherited.version_max);
        let order = raw.suite_order.clone();
        let policy = TlsPolicy {
            version_min,
            version_max,
            suites: self.choices("suites", &raw.suites, &SUITES, &inherited.suites),
            suite_order: self.choice_or("suite_order", order, &ORDERS, inherited.suite_order),
            groups: self.choices("groups", &raw.groups, &GROUPS, &inherited.groups),
            protocols: self.choices("alpn", &raw.alpn, &PROTOCOLS, &inherited.protocols),
            alpn: inherited.alpn.clone(),
            client_auth: self.client_auth(raw, inherited.client_auth.as_ref()),
        };
        if self.problems.len() == before {
            self.coherence(raw, &policy);
        }
        policy
    }

    fn client_auth(&mut self, raw: &RawTls, inherited: Option<&ClientAuth>) -> Option<ClientAuth> {
        let wanted = raw.client_certificate.as_ref();
        let wanted = wanted.and_then(|text| self.choice("client_certificate", text, &WANTED));
        let authorities_file = match &raw.client_ca {
            Some(file) => self.file_named("client_ca", file),
            None => inherited.map(|auth| auth.authorities_file.clone()),
        };
        let is_wanted = matches!(wanted, Some(Wanted::Optional | Wanted::Required));
        if let (Some(written), None, true) = (&raw.client_certificate, &authorities_file, is_wanted)
            && raw.client_ca.is_none()
        {
            self.problem(
                written.span(),
                "`client_certificate` without authorities that could have signed one",
                "add client_ca = \"clients.pem\", or remove it",
            );
        }
        let is_required = match wanted {
            Some(Wanted::None) => return None,
            Some(Wanted::Optional) => false,
            Some(Wanted::Required) => true,
            None => inherited.is_none_or(|auth| auth.is_required),
        };
        Some(ClientAuth {
            authorities_file: authorities_file?,
            is_required,
        })
    }

    fn coherence(&mut self, raw: &RawTls, policy: &TlsPolicy) {
        let written = |value: &Value<String>| value.as_ref().map(Spanned::span);
        let versions = written(&raw.version_min).or(written(&raw.version_max));
        if policy.version_min > policy.version_max
            && let Some(span) = versions.clone()
        {
            self.problem(
                span,
                "`version_min` is above `version_max`",
                "raise `version_max` or lower `version_min`; unset they are \"1.2\" and \"1.3\", \
                 and a site takes over what [tls] sets",
            );
            return;
        }
        let is_hybrid_only = policy.groups == [Group::X25519Mlkem768];
        if policy.version_min == TlsVersion::Tls12
            && is_hybrid_only
            && let Some(span) = raw.groups.as_ref().map(Spanned::span).or(versions)
        {
            self.problem(
                span,
                "TLS 1.2 is allowed, but no group that it can use",
                "add \"x25519\" to `groups`, or set version_min = \"1.3\"",
            );
        }
    }

    fn choices<T: Copy + PartialEq + Debug>(
        &mut self,
        key: &str,
        values: &Value<Vec<Spanned<String>>>,
        choices: &[(&str, T)],
        inherited: &[T],
    ) -> Vec<T> {
        let Some(values) = values else {
            return inherited.to_vec();
        };
        if values.get_ref().is_empty() {
            self.problem(
                values.span(),
                format!("`{key}` is empty"),
                format!("name at least one, or remove `{key}` for the default"),
            );
        }
        let mut chosen: Vec<T> = Vec::with_capacity(values.get_ref().len());
        for value in values.get_ref() {
            let Some(choice) = self.choice(key, value, choices) else {
                continue;
            };
            if chosen.contains(&choice) {
                self.problem(
                    value.span(),
                    format!("{:?} is in `{key}` twice", value.get_ref()),
                    "keep the one whose place in the order of preference is right",
                );
                continue;
            }
            chosen.push(choice);
        }
        chosen
    }
}

pub(super) const VERSIONS: [(&str, TlsVersion); 2] =
    [("1.2", TlsVersion::Tls12), ("1.3", TlsVersion::Tls13)];

/// What is wanted of a client.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Wanted {
    None,
    Optional,
    Required,
}

const WANTED: [(&str, Wanted); 3] = [
    ("required", Wanted::Required),
    ("optional", Wanted::Optional),
    ("none", Wanted::None),
];

const SUITES: [(&str, Suite); 3] = [
    ("aes-128-gcm", Suite::Aes128Gcm),
    ("aes-256-gcm", Suite::Aes256Gcm),
    ("chacha20-poly1305", Suite::Chacha20Poly1305),
];

const ORDERS: [(&str, SuiteOrder); 2] = [
    ("client", SuiteOrder::Client),
    ("server", SuiteOrder::Server),
];

const GROUPS: [(&str, Group); 4] = [
    ("x25519mlkem768", Group::X25519Mlkem768),
    ("x25519", Group::X25519),
    ("secp256r1", Group::Secp256r1),
    ("secp384r1", Group::Secp384r1),
];

const PROTOCOLS: [(&str, Protocol); 2] = [("h2", Protocol::H2), ("http/1.1", Protocol::Http11)];
