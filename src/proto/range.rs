//! Range requests (RFC 9110 14) over byte ranges, with If-Range (RFC 9110 13.1.5).

use std::time::SystemTime;

use crate::limits::RANGES_MAX;
use crate::message::{Fields, Method, Request};
use crate::metrics::{self, Counter};
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
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// Parts, as (offset, length), at least two and none empty: 206 as multipart/byteranges. They
    /// neither overlap nor touch, and lie farther apart than what introduces a part is long.
    Several(Vec<(u64, u64)>),
    /// Nothing: 416 with [`content_range_unsatisfied`].
    Unsatisfiable,
}

/// What of a representation of `total` bytes `request` selects. More ranges than
/// [`RANGES_MAX`] select all of it, which a server may always answer (RFC 9110 14.2); so do those
/// whose parts, with what introduces each, would be longer than all of it.
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
    let specs = match parse(value) {
        Ok(specs) => specs,
        Err(Unusable::TooMany) => {
            metrics::count(Counter::RangesIgnored);
            return Selection::Full;
        }
        Err(Unusable::Malformed) => return Selection::Full,
    };
    if !if_range_holds(&request.fields, current, now) {
        return Selection::Full;
    }
    // RFC 9110 14.1.2: the set is satisfiable if one of its ranges is; the others are left out.
    let parts = coalesce(specs.iter().filter_map(|spec| spec.resolve(total)));
    match *parts {
        // A suffix of a representation without bytes is satisfiable, but no Content-Range can
        // say so: the whole of it is the same.
        [] if total == 0 && specs.iter().any(|s| matches!(s, RangeSpec::Suffix(1..))) => {
            Selection::Full
        }
        [] => Selection::Unsatisfiable,
        [(offset, length)] => Selection::Partial { offset, length },
        _ => {
            let bytes: u64 = parts
                .iter()
                .map(|(_, length)| length + PART_BYTES_MIN)
                .sum();
            match bytes < total {
                true => Selection::Several(parts),
                false => Selection::Full,
            }
        }
    }
}

/// Why the value of a Range field is to be ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// Another unit than `bytes`, or a malformed or backward range (RFC 9110 14.2).
    Malformed,
    /// More than [`RANGES_MAX`].
    TooMany,
}

/// The ranges of a Range value, in order, at most [`RANGES_MAX`].
///
/// # Errors
/// When the field is to be ignored.
pub fn parse(value: &[u8]) -> Result<Vec<RangeSpec>, Unusable> {
    let equals = value.iter().position(|&byte| byte == b'=');
    let (unit, set) = equals
        .and_then(|equals| value.split_at_checked(equals))
        .ok_or(Unusable::Malformed)?;
    // RFC 9110 14.1: unit names are case-insensitive.
    if !unit.eq_ignore_ascii_case(b"bytes") {
        return Err(Unusable::Malformed);
    }
    let mut specs = Vec::new();
    for member in list_members(set.get(1..).unwrap_or_default()) {
        if specs.len() == RANGES_MAX {
            return Err(Unusable::TooMany);
        }
        specs.push(parse_spec(member).ok_or(Unusable::Malformed)?);
    }
    match specs.is_empty() {
        true => Err(Unusable::Malformed),
        false => Ok(specs),
    }
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

/// `parts`, as (offset, length), with those made one that overlap or are no farther apart than a
/// part costs (RFC 9110 15.3.7.2 allows it). So no request makes the response longer than the
/// representation is, and no byte is sent twice. The order stays that of the request.
fn coalesce(parts: impl Iterator<Item = (u64, u64)>) -> Vec<(u64, u64)> {
    struct Joined {
        place: usize,
        offset: u64,
        end: u64,
    }
    let mut parts: Vec<Joined> = parts
        .enumerate()
        .map(|(place, (offset, length))| Joined {
            place,
            offset,
            end: offset.saturating_add(length),
        })
        .collect();
    parts.sort_unstable_by_key(|part| part.offset);
    parts.dedup_by(|next, last| {
        let joins = next.offset <= last.end.saturating_add(PART_BYTES_MIN);
        if joins {
            last.end = last.end.max(next.end);
            last.place = last.place.min(next.place);
        }
        joins
    });
    parts.sort_unstable_by_key(|part| part.place);
    let span = |part: Joined| (part.offset, part.end - part.offset);
    parts.into_iter().map(span).collect()
}

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

/// What introduces a part of multipart/byteranges has at least so many bytes: its boundary, type and
/// range.
const PART_BYTES_MIN: u64 = 80;

#[cfg(test)]
#[path = "range_tests.rs"]
mod tests;
