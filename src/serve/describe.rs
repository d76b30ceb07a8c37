//! The fields that describe a file in every response with it.

use bytes::Bytes;

use super::content_type;
use super::error_page::NOSNIFF;
use crate::config::HeaderRule;
use crate::message::FieldBlock;
use crate::proto::content_coding::Coding;

/// What is known of a file besides its name.
pub(crate) struct Described<'a> {
    /// The value of ETag.
    pub(crate) etag: &'a Bytes,
    /// The value of Last-Modified, if it has one.
    pub(crate) last_modified: Option<&'a Bytes>,
    /// The value of Content-Type where no rule says another.
    pub(crate) content_type: Bytes,
}

impl<'a> Described<'a> {
    /// Its fields under `rules`, where it lies at `path` beneath the root.
    pub(crate) fn fields(self, rules: &[HeaderRule], path: &[u8]) -> FieldBlock {
        let mut content_type = self.content_type;
        let mut added: Vec<(&'static str, Bytes)> = Vec::new();
        for rule in rules.iter().filter(|rule| rule.covers(path)) {
            // A field of a later rule replaces those of that name from earlier ones, but one rule may
            // set several of one name.
            added.retain(|(name, _)| !rule.fields.iter().any(|(later, _)| later == name));
            added.extend(rule.fields.iter().cloned());
            if let Some(own) = &rule.content_type {
                content_type = own.clone();
            }
        }
        let mut fields = vec![(CONTENT_TYPE, content_type)];
        let last_modified = self.last_modified.cloned();
        fields.extend(last_modified.map(|value| (LAST_MODIFIED, value)));
        fields.push((ETAG, self.etag.clone()));
        fields.push((ACCEPT_RANGES, BYTES));
        if !added.iter().any(|(name, _)| *name == NOSNIFF_NAME) {
            fields.push((NOSNIFF_NAME, NOSNIFF));
        }
        fields.extend(added);
        FieldBlock::new(fields)
    }
}

/// The fields of a file at `path` by its name, as [`Described::fields`].
pub(crate) fn of_file(
    etag: &Bytes,
    last_modified: &Bytes,
    rules: &[HeaderRule],
    path: &[u8],
) -> FieldBlock {
    Described {
        etag,
        last_modified: Some(last_modified),
        content_type: content_type::of_name(path),
    }
    .fields(rules, path)
}

/// The fields of a file with `fields` where it is sent in `coding`, with the validators of `sibling`,
/// which holds that.
pub(crate) fn coded(fields: &FieldBlock, coding: Coding, sibling: &FieldBlock) -> FieldBlock {
    let own = |(name, own): &(&'static str, Bytes)| match *name {
        ETAG | LAST_MODIFIED => (*name, value(sibling, name).unwrap_or(own).clone()),
        _ => (*name, own.clone()),
    };
    let mut coded: Vec<_> = fields.fields().iter().map(own).collect();
    let token = Bytes::from_static(coding.token().as_bytes());
    coded.push((CONTENT_ENCODING, token));
    coded.push((VARY, ACCEPT_ENCODING));
    FieldBlock::new(coded)
}

/// The fields of a file that there is in codings too, where it is sent as it is.
pub(crate) fn uncoded(fields: &FieldBlock) -> FieldBlock {
    let mut varying = fields.fields().to_vec();
    varying.push((VARY, ACCEPT_ENCODING));
    FieldBlock::new(varying)
}

/// Those of `fields` that a 304 repeats (RFC 9110 15.4.5): the validators, and what is no metadata
/// of the content itself.
pub(crate) fn not_modified(fields: &FieldBlock) -> Vec<(&'static str, Bytes)> {
    let kept = |name: &str| {
        !matches!(name, ACCEPT_RANGES | NOSNIFF_NAME) && !name.starts_with("content-")
            || name.starts_with("content-security-policy")
    };
    let fields = fields.fields().iter();
    fields.filter(|(name, _)| kept(name)).cloned().collect()
}

/// The value of the field `name`.
pub(crate) fn value<'a>(fields: &'a FieldBlock, name: &str) -> Option<&'a Bytes> {
    let mut fields = fields.fields().iter();
    fields
        .find(|(field, _)| *field == name)
        .map(|(_, value)| value)
}

pub(crate) const CONTENT_TYPE: &str = "content-type";

/// The value of Accept-Ranges (RFC 9110 14.3).
pub(crate) const BYTES: Bytes = Bytes::from_static(b"bytes");

/// The value of Vary where the coding was negotiated.
pub(crate) const ACCEPT_ENCODING: Bytes = Bytes::from_static(b"accept-encoding");

pub(crate) const VARY: &str = "vary";
pub(crate) const ACCEPT_RANGES: &str = "accept-ranges";
const CONTENT_ENCODING: &str = "content-encoding";
const ETAG: &str = "etag";
const LAST_MODIFIED: &str = "last-modified";
const NOSNIFF_NAME: &str = "x-content-type-options";
