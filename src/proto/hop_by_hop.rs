//! Which fields belong to one connection and are not passed on (RFC 9110 7.6.1).

use crate::limits::CONNECTION_OPTIONS_MAX;
use crate::message::Fields;
use crate::proto::syntax::{NameSet, list_members};

/// The connection options of one message: the names of fields that are for its recipient only.
#[derive(Clone, Debug, Default)]
pub struct ConnectionOptions {
    /// All that were named, repeated ones too.
    count: usize,
    /// Which of [`USUAL_OPTIONS`], one bit for each.
    usual: u8,
    /// All others.
    others: Vec<Box<[u8]>>,
}

/// A message names more connection options than are looked at
/// ([`crate::limits::CONNECTION_OPTIONS_MAX`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManyOptions;

impl ConnectionOptions {
    /// Those that `fields` names.
    ///
    /// # Errors
    /// When there are too many: what they name could not be told from what is to be passed on.
    pub fn of(fields: &Fields) -> Result<Self, TooManyOptions> {
        let mut this = Self::default();
        fields
            .all("connection")
            .try_for_each(|value| this.add(value))?;
        Ok(this)
    }

    /// Adds those that `value` names, one of a `connection` field.
    ///
    /// # Errors
    /// As [`ConnectionOptions::of`].
    pub fn add(&mut self, value: &[u8]) -> Result<(), TooManyOptions> {
        for option in list_members(value) {
            if self.count == CONNECTION_OPTIONS_MAX {
                return Err(TooManyOptions);
            }
            self.count += 1;
            match USUAL_OPTIONS.place(option) {
                Some(place) => self.usual |= 1 << place,
                None => self.others.push(option.into()),
            }
        }
        Ok(())
    }

    /// Whether `option` is among them.
    pub fn contains(&self, option: &str) -> bool {
        self.names(option.as_bytes())
    }

    /// Whether the field `name` ends here: named by the message, or by RFC 9110 7.6.1 whether named
    /// or not, or the framing, which is made anew for each connection.
    pub fn is_hop_by_hop(&self, name: &[u8]) -> bool {
        HOP_BY_HOP.contains(name) || self.names(name)
    }

    fn names(&self, name: &[u8]) -> bool {
        let is_usual = |place| self.usual >> place & 1 == 1;
        let is = |named: &[u8]| named.eq_ignore_ascii_case(name);
        USUAL_OPTIONS.place(name).is_some_and(is_usual) || self.others.iter().any(|named| is(named))
    }

    /// The protocols that `fields` want to change to (RFC 9110 7.8), if this is an upgrade: the
    /// field alone, without the connection option, may be from a hop before.
    pub fn upgrade<'a>(&self, fields: &'a Fields) -> Option<&'a [u8]> {
        let protocols = fields.only("upgrade")?;
        (self.contains("upgrade") && !protocols.is_empty()).then_some(protocols)
    }
}

/// Whether the trailer field `name` may be passed on: none that frames, routes, authenticates or says
/// how content is to be read (RFC 9110 6.5.1).
pub fn may_be_trailer(name: &[u8]) -> bool {
    !HOP_BY_HOP.contains(name) && !NEVER_TRAILERS.contains(name)
}

/// RFC 9110 7.6.1, with the fields that RFC 2616 13.5.1 listed and that are still sent.
static HOP_BY_HOP: NameSet<10> = NameSet::new([
    "connection",
    "content-length",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
]);

/// What nearly every message with connection options names.
static USUAL_OPTIONS: NameSet<4> = NameSet::new(["close", "keep-alive", "te", "upgrade"]);

static NEVER_TRAILERS: NameSet<18> = NameSet::new([
    "age",
    "authorization",
    "cache-control",
    "content-encoding",
    "content-range",
    "content-type",
    "cookie",
    "date",
    "expect",
    "expires",
    "host",
    "location",
    "max-forwards",
    "range",
    "retry-after",
    "set-cookie",
    "vary",
    "www-authenticate",
]);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Method;
    use crate::proto::testing::request;

    fn fields(pairs: &[(&str, &str)]) -> Fields {
        request(Method::Get, pairs).fields
    }

    #[test]
    fn rfc9110_7_6_1_named_and_known_fields_end_here() {
        let fields = fields(&[("Connection", "X-Mine, Close"), ("connection", "other")]);
        let options = ConnectionOptions::of(&fields).unwrap();
        for name in [
            "x-mine",
            "OTHER",
            "close",
            "Keep-Alive",
            "TE",
            "Transfer-Encoding",
            "upgrade",
        ] {
            assert!(options.is_hop_by_hop(name.as_bytes()), "{name}");
        }
        for name in ["x-min", "accept", "x-mine2"] {
            assert!(!options.is_hop_by_hop(name.as_bytes()), "{name}");
        }
        assert!(options.contains("Close") && !options.contains("keep-alive"));
    }

    #[test]
    fn rfc9110_7_8_an_upgrade_needs_its_connection_option() {
        for (pairs, upgrade) in [
            (
                &[("Upgrade", "websocket"), ("Connection", "x, Upgrade")][..],
                Some("websocket"),
            ),
            (&[("Upgrade", "websocket")], None),
            (&[("Connection", "upgrade")], None),
            (&[("Upgrade", ""), ("Connection", "upgrade")], None),
            (
                &[
                    ("Upgrade", "a"),
                    ("Upgrade", "b"),
                    ("Connection", "upgrade"),
                ],
                None,
            ),
        ] {
            let fields = fields(pairs);
            let options = ConnectionOptions::of(&fields).unwrap();
            assert_eq!(
                options.upgrade(&fields),
                upgrade.map(str::as_bytes),
                "{pairs:?}"
            );
        }
    }

    #[test]
    fn connection_options_are_bounded() {
        let many = |count: usize| vec!["a"; count].join(",");
        let most = fields(&[("connection", &many(CONNECTION_OPTIONS_MAX))]);
        assert!(ConnectionOptions::of(&most).is_ok());
        let more = fields(&[("connection", &many(CONNECTION_OPTIONS_MAX + 1))]);
        assert_eq!(ConnectionOptions::of(&more).unwrap_err(), TooManyOptions);
    }

    #[test]
    fn rfc9110_6_5_1_trailers_decide_nothing() {
        for name in [
            "Content-Length",
            "transfer-encoding",
            "Host",
            "Set-Cookie",
            "Trailer",
        ] {
            assert!(!may_be_trailer(name.as_bytes()), "{name}");
        }
        assert!(may_be_trailer(b"grpc-status") && may_be_trailer(b"digest"));
    }
}
