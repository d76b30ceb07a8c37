//! Conditional requests (RFC 9110 13): entity tags, dates and the order in which they decide.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::message::{Fields, Method, Request};
use crate::proto::syntax::trim_ows;

/// An entity tag (RFC 9110 8.8.3), borrowed from the text it was parsed from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntityTag<'a> {
    /// Whether it is weak: equal representations, not equal bytes.
    pub weak: bool,
    /// What stands between the quotation marks.
    pub opaque: &'a [u8],
}

impl<'a> EntityTag<'a> {
    /// The entity tag that `text` is, exactly: `"..."` or `W/"..."` (the `W` is case-sensitive).
    pub fn parse(text: &'a [u8]) -> Option<Self> {
        let (tag, rest) = Self::take(text)?;
        rest.is_empty().then_some(tag)
    }

    /// Strong comparison (RFC 9110 8.8.3.2): equal and neither weak.
    pub fn strong_eq(self, other: EntityTag<'_>) -> bool {
        !self.weak && !other.weak && self.opaque == other.opaque
    }

    /// Weak comparison (RFC 9110 8.8.3.2): equal, weak or not.
    pub fn weak_eq(self, other: EntityTag<'_>) -> bool {
        self.opaque == other.opaque
    }

    /// The entity tag that `text` begins with, and what follows it.
    fn take(text: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (weak, quoted) = match text.strip_prefix(b"W/") {
            Some(quoted) => (true, quoted),
            None => (false, text),
        };
        let inner = quoted.strip_prefix(b"\"")?;
        let end = inner.iter().position(|&byte| byte == b'"')?;
        let (opaque, rest) = inner.split_at_checked(end)?;
        let valid = opaque
            .iter()
            .all(|&b| matches!(b, 0x21 | 0x23..=0x7e | 0x80..));
        valid.then_some((Self { weak, opaque }, rest.get(1..)?))
    }
}

/// What is known of the representation a request would select.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Validators<'a> {
    /// Its entity tag.
    pub etag: Option<EntityTag<'a>>,
    /// When it was last modified. Compared in whole seconds, all that an HTTP date can say.
    pub last_modified: Option<SystemTime>,
}

/// What the preconditions of a request decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Perform the method. A Range may still apply ([`crate::proto::range::select`]).
    Proceed,
    /// 304 (Not Modified)
    NotModified,
    /// 412 (Precondition Failed)
    Failed,
}

/// Evaluates the preconditions of `request` in the order of RFC 9110 13.2.2. `current` is `None`
/// when no representation exists.
///
/// To be called only where the answer without preconditions would have been 2xx (RFC 9110 13.2.1).
pub fn evaluate(request: &Request, current: Option<&Validators<'_>>) -> Verdict {
    let fields = &request.fields;
    // RFC 9110 13.2.1: ignored with methods that neither select nor modify a representation.
    if matches!(
        request.method,
        Method::Connect | Method::Options | Method::Trace
    ) {
        return Verdict::Proceed;
    }
    let reads = matches!(request.method, Method::Get | Method::Head);
    let modified = current.and_then(|current| current.last_modified);

    if fields.first(IF_MATCH).is_some() {
        if !any_tag_matches(fields, IF_MATCH, current, |a, b| a.strong_eq(b)) {
            return Verdict::Failed;
        }
    } else if let (Some(bound), Some(modified)) =
        (date_field(fields, IF_UNMODIFIED_SINCE), modified)
        && seconds(modified) > seconds(bound)
    {
        return Verdict::Failed;
    }

    if fields.first(IF_NONE_MATCH).is_some() {
        if any_tag_matches(fields, IF_NONE_MATCH, current, |a, b| a.weak_eq(b)) {
            return if reads {
                Verdict::NotModified
            } else {
                Verdict::Failed
            };
        }
    } else if reads
        && let (Some(bound), Some(modified)) = (date_field(fields, IF_MODIFIED_SINCE), modified)
        && seconds(modified) <= seconds(bound)
    {
        return Verdict::NotModified;
    }
    Verdict::Proceed
}

/// Whether `fields` hold anything that [`evaluate`] or [`crate::proto::range::select`] looks at. Most
/// requests have nothing of it, which one look at each name tells.
pub fn may_decide(fields: &Fields) -> bool {
    fields.iter().any(|(name, _)| match name {
        [b'i' | b'I', b'f' | b'F', b'-', ..] => true,
        [b'r' | b'R', ..] => name.eq_ignore_ascii_case(b"range"),
        _ => false,
    })
}

/// An HTTP date in any of its three forms (RFC 9110 5.6.7).
pub fn parse_date(value: &[u8]) -> Option<SystemTime> {
    httpdate::parse_http_date(std::str::from_utf8(value).ok()?).ok()
}

/// Whole seconds since the epoch, rounded down; times before it count as its first second.
pub(crate) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// The date in `name`. `None`, so that the precondition is ignored, when the field is missing, is
/// not a date, or appears more than once (RFC 9110 13.1.3, 13.1.4).
fn date_field(fields: &Fields, name: &str) -> Option<SystemTime> {
    parse_date(fields.only(name)?)
}

/// Whether `*` or one of the entity tags in all lines of `name` matches the current one.
///
/// What is malformed matches nothing: If-Match then fails, the safe side for a write, and
/// If-None-Match sends the whole representation.
fn any_tag_matches(
    fields: &Fields,
    name: &str,
    current: Option<&Validators<'_>>,
    equal: impl Fn(EntityTag<'_>, EntityTag<'_>) -> bool,
) -> bool {
    let Some(current) = current else {
        return false;
    };
    if fields.only(name) == Some(b"*") {
        return true;
    }
    let Some(own) = current.etag else {
        return false;
    };
    fields
        .all(name)
        .any(|line| Tags(line).any(|tag| equal(tag, own)))
}

/// The entity tags of one list. They may hold commas, so it is not split at them. Ends at the first
/// malformed member.
struct Tags<'a>(&'a [u8]);

impl<'a> Iterator for Tags<'a> {
    type Item = EntityTag<'a>;

    fn next(&mut self) -> Option<EntityTag<'a>> {
        let mut text = self.0;
        while let [b',' | b' ' | b'\t', rest @ ..] = text {
            text = rest;
        }
        let (tag, rest) = EntityTag::take(text)?;
        let rest = trim_ows(rest);
        // Two tags without a comma between them are no list.
        self.0 = match rest {
            [] | [b',', ..] => rest,
            _ => b"",
        };
        Some(tag)
    }
}

const IF_MATCH: &str = "if-match";
const IF_NONE_MATCH: &str = "if-none-match";
const IF_MODIFIED_SINCE: &str = "if-modified-since";
const IF_UNMODIFIED_SINCE: &str = "if-unmodified-since";

#[cfg(test)]
#[path = "conditional_tests.rs"]
mod tests;
