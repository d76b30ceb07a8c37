//! How files are described and what stands in for them: header rules and error pages.

use std::collections::BTreeSet;
use std::sync::Mutex;

use bytes::Bytes;

use crate::message::Status;

/// Response fields for the files it covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderRule {
    /// The files beneath this path, which begins and ends in '/', or the one file with this path.
    pub path: String,
    /// Of those, the ones whose names end in one of these extensions (lower case, without the dot);
    /// empty for all.
    pub extensions: Vec<String>,
    /// Fields, named as [`crate::message::Response::fields`] are.
    pub fields: Vec<(&'static str, Bytes)>,
    /// The Content-Type, instead of the one by extension.
    pub content_type: Option<Bytes>,
}

/// A page of the site for statuses that it answers with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorPage {
    /// The statuses, each from 400 to 599.
    pub statuses: Vec<Status>,
    /// The file, relative to the site's root.
    pub file: String,
}

impl HeaderRule {
    /// Whether it covers the file at `path`, which is relative to the site's root.
    pub fn covers(&self, path: &[u8]) -> bool {
        let beneath = self.path.strip_prefix('/').unwrap_or_default().as_bytes();
        let is_there = match beneath {
            [] | [.., b'/'] => path.starts_with(beneath),
            file => path == file,
        };
        is_there && (self.extensions.is_empty() || self.has_extension(path))
    }

    fn has_extension(&self, path: &[u8]) -> bool {
        let name = path.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
        let mut parts = name.rsplitn(2, |&byte| byte == b'.');
        // A name that only begins with a dot has no extension.
        let (Some(extension), Some([_, ..])) = (parts.next(), parts.next()) else {
            return false;
        };
        self.extensions
            .iter()
            .any(|known| extension.eq_ignore_ascii_case(known.as_bytes()))
    }
}

/// `name` for as long as the process lives, which names in responses are taken to be. Each distinct
/// name is kept once, however often configurations are loaded.
pub(super) fn interned(name: &str) -> &'static str {
    let mut names = NAMES
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(known) = names.get(name) {
        return known;
    }
    let kept: &'static str = Box::leak(name.into());
    names.insert(kept);
    kept
}

static NAMES: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(path: &str, extensions: &[&str]) -> HeaderRule {
        HeaderRule {
            path: path.to_owned(),
            extensions: extensions.iter().map(|&text| text.to_owned()).collect(),
            fields: Vec::new(),
            content_type: None,
        }
    }

    #[test]
    fn a_rule_covers_a_directory_or_a_file() {
        for (path, covered, not_covered) in [
            ("/", &["a", "a/b", "assets/"][..], &[][..]),
            (
                "/assets/",
                &["assets/a", "assets/b/c"],
                &["assets", "assets-old/a", "x/assets/a"],
            ),
            ("/a/b.js", &["a/b.js"], &["a/b.js/c", "a/b.jsx", "b.js"]),
        ] {
            for file in covered {
                assert!(rule(path, &[]).covers(file.as_bytes()), "{path} {file}");
            }
            for file in not_covered {
                assert!(!rule(path, &[]).covers(file.as_bytes()), "{path} {file}");
            }
        }
    }

    #[test]
    fn a_rule_covers_its_extensions() {
        let rule = rule("/d/", &["js", "css"]);
        for (file, covered) in [
            ("d/a.js", true),
            ("d/a.CSS", true),
            ("d/a.min.js", true),
            ("d/js", false),
            ("d/.js", false),
            ("d/a.js/b", false),
            ("d/a.jsx", false),
            ("a.js", false),
        ] {
            assert_eq!(rule.covers(file.as_bytes()), covered, "{file}");
        }
    }

    #[test]
    fn a_name_is_kept_once() {
        let made = String::from("x-kept-once");
        assert!(std::ptr::eq(interned(&made), interned("x-kept-once")));
        assert_eq!(interned(&made), "x-kept-once");
    }
}
