//! Content codings (RFC 9110 8.4.1) and the negotiation of one (RFC 9110 12.5.3).

use crate::message::Fields;
use crate::proto::syntax::{list_members, trim_ows};

/// A content coding in which a file may be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// Brotli (RFC 7932)
    Brotli,
    /// Zstandard (RFC 8878)
    Zstd,
    /// gzip (RFC 1952)
    Gzip,
}

impl Coding {
    /// How many there are.
    pub const COUNT: usize = 3;

    /// Its name in Content-Encoding and Accept-Encoding.
    pub const fn token(self) -> &'static str {
        match self {
            Self::Brotli => "br",
            Self::Zstd => "zstd",
            Self::Gzip => "gzip",
        }
    }

    /// What is appended to a file's name for the file in this coding.
    pub fn suffix(self) -> &'static [u8] {
        match self {
            Self::Brotli => b".br",
            Self::Zstd => b".zst",
            Self::Gzip => b".gz",
        }
    }

    /// Its place in a table of [`Coding::COUNT`].
    pub fn index(self) -> usize {
        match self {
            Self::Brotli => 0,
            Self::Zstd => 1,
            Self::Gzip => 2,
        }
    }

    fn of_token(token: &[u8]) -> Option<Self> {
        // RFC 9110 8.4.1: case-insensitive; 8.4.1.3: x-gzip is gzip.
        [Self::Brotli, Self::Zstd, Self::Gzip]
            .into_iter()
            .find(|coding| token.eq_ignore_ascii_case(coding.token().as_bytes()))
            .or_else(|| token.eq_ignore_ascii_case(b"x-gzip").then_some(Self::Gzip))
    }
}

/// What a request's Accept-Encoding says, in weights of thousandths: 0 is not acceptable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Acceptable {
    codings: [Option<u16>; Coding::COUNT],
    identity: Option<u16>,
    any: Option<u16>,
}

impl Acceptable {
    /// What `fields` say. Members that are malformed say nothing; of several for the same coding,
    /// the first counts.
    pub fn parse(fields: &Fields) -> Self {
        let mut acceptable = Self::default();
        for member in fields.all("accept-encoding").flat_map(list_members) {
            let mut parts = member.splitn(2, |&byte| byte == b';');
            let token = trim_ows(parts.next().unwrap_or_default());
            let weight = match parts.next() {
                None => Some(WEIGHT_FULL),
                Some(parameter) => weight(trim_ows(parameter)),
            };
            let place = match Coding::of_token(token) {
                Some(coding) => acceptable.codings.get_mut(coding.index()),
                None if token == b"*" => Some(&mut acceptable.any),
                None if token.eq_ignore_ascii_case(b"identity") => Some(&mut acceptable.identity),
                None => None,
            };
            if let (Some(place), Some(weight)) = (place, weight) {
                place.get_or_insert(weight);
            }
        }
        acceptable
    }

    /// How much `coding` is wanted. 0 without an Accept-Encoding: a client that does not say what it
    /// can decode may be able to decode nothing.
    pub fn weight(&self, coding: Coding) -> u16 {
        let listed = self.codings.get(coding.index()).copied().flatten();
        listed.or(self.any).unwrap_or(0)
    }

    /// How much the file as it is is wanted: always a little, unless the request says otherwise (RFC
    /// 9110 12.5.3, rule 2).
    pub fn identity_weight(&self) -> u16 {
        self.identity.or(self.any).unwrap_or(1)
    }

    /// The one of `codings`, in their order of preference, to answer with; the outer `None` when
    /// neither one of them nor the file as it is is acceptable, the inner one for the file as it is.
    pub fn choose(&self, codings: impl Iterator<Item = Coding>) -> Option<Option<Coding>> {
        let mut best = None;
        let mut best_weight = 0;
        for coding in codings {
            let weight = self.weight(coding);
            if weight > best_weight {
                (best, best_weight) = (Some(coding), weight);
            }
        }
        match (best, self.identity_weight()) {
            (Some(coding), identity) if best_weight >= identity => Some(Some(coding)),
            (_, 0) => None,
            _ => Some(None),
        }
    }
}

/// The weight of "q=0.5", in thousandths (RFC 9110 12.4.2).
fn weight(parameter: &[u8]) -> Option<u16> {
    let [b'q' | b'Q', b'=', whole, rest @ ..] = parameter else {
        return None;
    };
    let digits = match rest {
        [] | [b'.'] => &[][..],
        [b'.', digits @ ..] if digits.len() <= 3 => digits,
        _ => return None,
    };
    let mut thousandths = match whole {
        b'0' => 0,
        b'1' => WEIGHT_FULL,
        _ => return None,
    };
    let mut place = 100;
    for digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        thousandths += u16::from(digit - b'0') * place;
        place /= 10;
    }
    (thousandths <= WEIGHT_FULL).then_some(thousandths)
}

const WEIGHT_FULL: u16 = 1000;

#[cfg(test)]
mod tests {
    use super::Coding::{Brotli, Gzip, Zstd};
    use super::*;
    use crate::message::Method;
    use crate::proto::testing::request;
    use proptest::prelude::*;

    fn chosen(value: Option<&str>, codings: &[Coding]) -> Option<Option<Coding>> {
        let fields: Vec<_> = value
            .map(|value| ("Accept-Encoding", value))
            .into_iter()
            .collect();
        let request = request(Method::Get, &fields);
        Acceptable::parse(&request.fields).choose(codings.iter().copied())
    }

    #[test]
    fn rfc9110_12_5_3_the_best_acceptable_coding_is_chosen() {
        const ALL: &[Coding] = &[Brotli, Zstd, Gzip];
        for (value, codings, expected) in [
            // Nobody asked, or asked for nothing.
            (None, ALL, Some(None)),
            (Some(""), ALL, Some(None)),
            (Some("deflate"), ALL, Some(None)),
            (Some("gzip, deflate, br, zstd"), ALL, Some(Some(Brotli))),
            (
                Some("gzip, deflate, br, zstd"),
                &[Gzip, Brotli],
                Some(Some(Gzip)),
            ),
            (Some("gzip, deflate, br, zstd"), &[], Some(None)),
            (Some("GZIP"), ALL, Some(Some(Gzip))),
            (Some("x-gzip"), ALL, Some(Some(Gzip))),
            (Some("br;q=0.5, gzip;q=0.8"), ALL, Some(Some(Gzip))),
            (Some("br ; q=0.5 ,\tgzip; Q=0.501"), ALL, Some(Some(Gzip))),
            (Some("br;q=0, gzip;q=0.001"), ALL, Some(Some(Gzip))),
            (Some("br;q=0, gzip;q=0, zstd;q=0"), ALL, Some(None)),
            // "*" stands for what is not listed, identity among it.
            (Some("*"), ALL, Some(Some(Brotli))),
            (Some("br;q=0, *"), ALL, Some(Some(Zstd))),
            (Some("gzip, *;q=0.5"), ALL, Some(Some(Gzip))),
            (Some("*;q=0"), ALL, None),
            (Some("*;q=0, gzip"), ALL, Some(Some(Gzip))),
            (Some("*;q=0, identity"), ALL, Some(None)),
            // Identity by its weight.
            (Some("identity"), ALL, Some(None)),
            (Some("gzip;q=0.5, identity"), ALL, Some(None)),
            (Some("gzip;q=0.5, identity;q=0.5"), ALL, Some(Some(Gzip))),
            (Some("gzip;q=0.1, identity;q=0"), ALL, Some(Some(Gzip))),
            (Some("gzip;q=0.1, identity;q=0"), &[Brotli], None),
            (Some("identity;q=0"), ALL, None),
            // What is malformed says nothing.
            (Some("br;q=2, gzip"), ALL, Some(Some(Gzip))),
            (Some("br;q=0.1234, gzip;q=1.000"), ALL, Some(Some(Gzip))),
            (Some("br;level=5, gzip"), ALL, Some(Some(Gzip))),
            (Some("br;q=1.001"), ALL, Some(None)),
            (Some("br;q=, br;q=-1, br;q=.5, br;q=0.x"), ALL, Some(None)),
            (Some("br;q=0, br"), ALL, Some(None)),
            (Some(",, ,gzip;q=1."), ALL, Some(Some(Gzip))),
        ] {
            assert_eq!(chosen(value, codings), expected, "{value:?} {codings:?}");
        }
    }

    #[test]
    fn several_lines_are_one_list() {
        let fields = [("accept-encoding", "br;q=0.1"), ("Accept-Encoding", "gzip")];
        let request = request(Method::Get, &fields);
        let acceptable = Acceptable::parse(&request.fields);
        assert_eq!(
            acceptable.choose([Brotli, Gzip].into_iter()),
            Some(Some(Gzip))
        );
    }

    proptest! {
        #[test]
        fn what_is_chosen_is_acceptable(value in "([a-z*]{0,4}(br|gzip|zstd|identity)?(;q=[01](\\.[0-9]{0,4})?)?,?){0,6}") {
            let request = request(Method::Get, &[("accept-encoding", &value)]);
            let acceptable = Acceptable::parse(&request.fields);
            match acceptable.choose([Zstd, Brotli].into_iter()) {
                Some(Some(coding)) => prop_assert!(acceptable.weight(coding) > 0),
                Some(None) => prop_assert!(acceptable.identity_weight() > 0),
                None => prop_assert_eq!(acceptable.identity_weight(), 0),
            }
        }
    }
}
