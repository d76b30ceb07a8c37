//! From a host name to a site.

use std::collections::HashMap;
use std::sync::Arc;

use crate::config::Site;

/// The names of all sites.
#[derive(Debug, Default)]
pub(crate) struct Names {
    exact: HashMap<Box<str>, usize>,
    /// By what follows "*.".
    wildcard: HashMap<Box<str>, usize>,
}

impl Names {
    /// The names of `sites`. Where two have the same one, it is the first's.
    pub(crate) fn new(sites: &[Arc<Site>]) -> Self {
        let mut names = Self::default();
        for (index, site) in sites.iter().enumerate() {
            for name in &site.names {
                let (map, name) = match name.strip_prefix("*.") {
                    Some(parent) => (&mut names.wildcard, parent),
                    None => (&mut names.exact, name.as_str()),
                };
                map.entry(name.into()).or_insert(index);
            }
        }
        names
    }

    /// The index of the site that answers to `host` (in lower case, without port): the one with
    /// exactly that name, or else the one with a wildcard for its first label.
    ///
    /// A dot at the end, which marks a name as complete (RFC 1034 3.1), makes no other name of it.
    pub(crate) fn site(&self, host: &str) -> Option<usize> {
        let host = host.strip_suffix('.').unwrap_or(host);
        self.exact
            .get(host)
            .or_else(|| match host.split_once('.')? {
                ("", _) => None,
                (_, parent) => self.wildcard.get(parent),
            })
            .copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::testing;

    #[test]
    fn exact_names_go_before_wildcards_of_one_label() {
        let sites = [
            testing::site("/", &["*.example.org", "example.net"]),
            testing::site("/", &["www.example.org", "example.net"]),
        ];
        let names = Names::new(&sites.map(Arc::new));
        for (host, site) in [
            ("www.example.org", Some(1)),
            ("www.example.org.", Some(1)),
            ("a.example.org", Some(0)),
            ("example.net", Some(0)),
            ("a.b.example.org", None),
            ("example.org", None),
            (".example.org", None),
            ("*.example.org", Some(0)),
            ("", None),
            (".", None),
            ("example.net..", None),
        ] {
            assert_eq!(names.site(host), site, "{host}");
        }
    }
}
