//! Host names to sites: exact, then wildcard, then the default.

use std::collections::HashMap;

/// A table of host names. A site is its index in the configuration.
#[derive(Debug, Default)]
pub struct HostNames {
    exact: HashMap<Box<str>, usize>,
    /// The same, where they are few.
    few: Vec<(Box<str>, usize)>,
    /// By what follows "*.".
    wildcard: HashMap<Box<str>, usize>,
    default: Option<usize>,
}

impl HostNames {
    /// The table of `sites`, each with its names in lower case ("*.example.org" stands for one more
    /// label), and the site for all other names.
    pub fn new<'a>(sites: impl IntoIterator<Item = &'a [String]>, default: Option<usize>) -> Self {
        let mut names = Self {
            default,
            ..Self::default()
        };
        for (site, patterns) in sites.into_iter().enumerate() {
            for pattern in patterns {
                match pattern.strip_prefix("*.") {
                    Some(parent) => names.wildcard.insert(parent.into(), site),
                    None => names.exact.insert(pattern.as_str().into(), site),
                };
            }
        }
        if names.exact.len() <= COMPARED_MAX {
            let exact = names.exact.iter();
            names.few = exact.map(|(name, site)| (name.clone(), *site)).collect();
        }
        names
    }

    /// The site of `host`, which is in lower case and without port. A trailing dot makes no
    /// difference (RFC 3986 3.2.2). `None` for no name at all asks for the default.
    pub fn site(&self, host: Option<&str>) -> Option<usize> {
        host.and_then(|host| self.named(host)).or(self.default)
    }

    /// The site that has `host` as a name; the default does not count.
    pub fn named(&self, host: &str) -> Option<usize> {
        let host = host.strip_suffix('.').unwrap_or(host);
        self.exact(host).or_else(|| {
            // RFC 6125 6.4.3: the wildcard stands for exactly one whole label.
            let (label, parent) = host.split_once('.')?;
            if label.is_empty() {
                None
            } else {
                self.wildcard.get(parent).copied()
            }
        })
    }

    fn exact(&self, host: &str) -> Option<usize> {
        if self.exact.len() > COMPARED_MAX {
            return self.exact.get(host).copied();
        }
        let mut sites = self.few.iter();
        sites
            .find(|(name, _)| **name == *host)
            .map(|(_, site)| *site)
    }
}

/// Up to so many names are compared one by one: most differ in their length already, and a keyed hash
/// costs more.
const COMPARED_MAX: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> HostNames {
        let sites = [
            vec!["example.org".to_owned(), "*.example.org".to_owned()],
            vec!["www.example.org".to_owned()],
            vec!["other.test".to_owned()],
        ];
        HostNames::new(sites.iter().map(Vec::as_slice), Some(2))
    }

    #[test]
    fn exact_goes_before_wildcard_and_wildcard_before_default() {
        let names = names();
        assert_eq!(names.site(Some("example.org")), Some(0));
        assert_eq!(names.site(Some("www.example.org")), Some(1));
        assert_eq!(names.site(Some("img.example.org")), Some(0));
        assert_eq!(names.site(Some("unknown.test")), Some(2));
        assert_eq!(names.site(None), Some(2));
    }

    #[test]
    fn a_wildcard_stands_for_one_label() {
        let names = names();
        assert_eq!(names.named("a.b.example.org"), None);
        assert_eq!(names.named(".example.org"), None);
        assert_eq!(names.named("org"), None);
        assert_eq!(names.named("img.example.org."), Some(0));
    }

    #[test]
    fn without_a_default_unknown_names_have_no_site() {
        let names = HostNames::new([["a.test".to_owned()].as_slice()], None);
        assert_eq!(names.site(Some("b.test")), None);
        assert_eq!(names.site(None), None);
    }
}
