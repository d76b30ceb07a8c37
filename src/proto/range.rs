//! Range requests (RFC 9110 14) over byte ranges, with If-Range (RFC 9110 13.1.5).

use std::time::SystemTime;

use crate::message::{Fields, Method, Request};
use crate::proto::conditional::{EntityTag, Validators, parse_date, seconds};
use crate::proto::syntax::{list_members, push_decimal};

/// One range as requested, before the length of the representation is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeSpec {
    /// `first-last`: both positions belong to it.
    Closed {
        /// The first byte's position.
        first: u64,
        /// The last byte's position, at least `first`.
        last: u64,
    },
    /// `first-`: from a position to the end.
    From(u64),
    /// `-length`: the last so many bytes.
    Suffix(u64),
}

impl RangeSpec {
    /// The (offset, length) it selects of a representation of `total` bytes. `None` when it is not
    /// satisfiable (RFC 9110 14.1.2). The length is never zero.
    pub fn resolve(self, total: u64) -> Option<(u64, u64)> {
        let (offset, end) = match self {
            Self::Closed { first, last } => (first, last.saturating_add(1).min(total)),
            Self::From(first) => (first, total),
            Self::Suffix(length) => (total.saturating_sub(length), total),
        };
        let length = end.checked_sub(offset)?;
        (length > 0).then_some((offset, length))
    }
}

/// What a request's Range selects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selection {
    /// The whole representation: 200.
    Full,
    /// A part, never empty: 206 with [`content_range`].
    Partial {
        /// The first byte.
        offset: u64,
        /// How many bytes.
        length: u64,
    },
    /// Nothing: 416 with [`content_range_unsatisfied`].
    Unsatisfiable,
}

/// What of a representation of `total` bytes `request` selects. Several ranges select all of it,
/// which a server may always answer (RFC 9110 14.2).
///
/// `now` tells whether a Last-Modified date is a strong validator for If-Range.
pub fn select(
    request: &Request,
    current: &Validators<'_>,
    total: u64,
    now: SystemTime,
) -> Selection {
    // RFC 9110 14.2: "A server MUST ignore a Range header field received with a request method
    // [...] for which range handling is not defined": GET is the only one.
    if request.method != Method::Get {
        return Selection::Full;
    }
    let Some(value) = request.fields.only("range") else {
        return Selection::Full;
    };
    let Some(specs) = parse(value) else {
        return Selection::Full;
    };
    if !if_range_holds(&request.fields, current, now) {
        return Selection::Full;
    }
    let [spec] = *specs else {
        return Selection::Full;
    };
    match spec.resolve(total) {
        Some((offset, length)) => Selection::Partial { offset, length },
        // A suffix of a representation without bytes is satisfiable, but no Content-Range can
        // say so: the whole of it is the same.
        None if total == 0 && matches!(spec, RangeSpec::Suffix(1..)) => Selection::Full,
        None => Selection::Unsatisfiable,
    }
}

/// The ranges of a Range value, in order, at most [`RANGES_MAX`].
///
/// `None` when the field is to be ignored (RFC 9110 14.2): another unit than `bytes`, a malformed
/// or backward range, or more ranges than anyone needs.
pub fn parse(value: &[u8]) -> Option<Vec<RangeSpec>> {
    let equals = value.iter().position(|&byte| byte == b'=')?;
    let (unit, set) = value.split_at_checked(equals)?;
    // RFC 9110 14.1: unit names are case-insensitive.
    if !unit.eq_ignore_ascii_case(b"bytes") {
        return None;
    }
    let mut specs = Vec::new();
    for member in list_members(set.get(1..)?) {
        if specs.len() == RANGES_MAX {
            return None;
        }
        specs.push(parse_spec(member)?);
    }
    (!specs.is_empty()).then_some(specs)
}

/// The Content-Range of a 206 (RFC 9110 14.4). `length` must not be zero.
pub fn content_range(offset: u64, length: u64, total: u64) -> Vec<u8> {
    let mut value = b"bytes ".to_vec();
    push_decimal(&mut value, offset);
    value.push(b'-');
    push_decimal(&mut value, offset.saturating_add(length).saturating_sub(1));
    value.push(b'/');
    push_decimal(&mut value, total);
    value
}

/// The Content-Range of a 416 (RFC 9110 15.5.17).
pub fn content_range_unsatisfied(total: u64) -> Vec<u8> {
    let mut value = b"bytes */".to_vec();
    push_decimal(&mut value, total);
    value
}

/// Ranges in one request beyond which the field is ignored (RFC 9110 17.15: many small ranges are
/// an attack on the server's memory and disks).
pub const RANGES_MAX: usize = 16;

fn parse_spec(member: &[u8]) -> Option<RangeSpec> {
    let dash = member.iter().position(|&byte| byte == b'-')?;
    let (first, last) = member.split_at_checked(dash)?;
    match (first, last.get(1..)?) {
        (b"", suffix) => Some(RangeSpec::Suffix(position(suffix)?)),
        (first, b"") => Some(RangeSpec::From(position(first)?)),
        (first, last) => {
            let (first, last) = (position(first)?, position(last)?);
            // RFC 9110 14.1.1: "An int-range is invalid if the last-pos value is present and less
            // than first-pos."
            (first <= last).then_some(RangeSpec::Closed { first, last })
        }
    }
}

/// A position in digits; one too large for 64 bits lies behind any end (RFC 9110 14.1.2 asks to
/// expect large numbers).
fn position(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(digits.iter().fold(0_u64, |number, digit| {
        number
            .saturating_mul(10)
            .saturating_add(u64::from(digit - b'0'))
    }))
}

/// Whether If-Range is absent or its condition holds (RFC 9110 13.1.5): the same strong entity tag,
/// or exactly the same date when that date is a strong validator.
fn if_range_holds(fields: &Fields, current: &Validators<'_>, now: SystemTime) -> bool {
    if fields.first("if-range").is_none() {
        return true;
    }
    let Some(value) = fields.only("if-range") else {
        return false;
    };
    if let Some(tag) = EntityTag::parse(value) {
        return current.etag.is_some_and(|own| own.strong_eq(tag));
    }
    let (Some(date), Some(modified)) = (parse_date(value), current.last_modified) else {
        return false;
    };
    // RFC 9110 8.8.2.2: strong only if it is known not to have changed twice within its second;
    // while that second lasts it still may.
    seconds(date) == seconds(modified) && seconds(now) > seconds(modified)
}

#[cfg(test)]
#[path = "range_tests.rs"]
mod tests;
