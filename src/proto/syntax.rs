//! The small grammar that HTTP field values share (RFC 9110 5.6).

/// A set of bytes. Whether a byte is in it is told without a branch for each member.
#[derive(Clone, Copy, Debug)]
pub struct ByteSet([u64; 4]);

impl ByteSet {
    /// ASCII letters, digits and `others`.
    pub const fn alphanumeric_and(others: &[u8]) -> Self {
        let letters = (1 << 26) - 1;
        // The words hold 64 byte values each.
        let mut set = [
            0x3ff << b'0',
            letters << (b'A' - 64) | letters << (b'a' - 64),
            0,
            0,
        ];
        let mut rest = others;
        while let [byte, behind @ ..] = rest {
            let [low, ascii, high, highest] = &mut set;
            let word = match *byte / 64 {
                0 => low,
                1 => ascii,
                2 => high,
                _ => highest,
            };
            *word |= 1 << (*byte % 64);
            rest = behind;
        }
        Self(set)
    }

    /// Whether `byte` is one of them.
    pub fn contains(&self, byte: u8) -> bool {
        let word = self.0.get(usize::from(byte / 64));
        word.is_some_and(|word| word >> (byte % 64) & 1 == 1)
    }
}

/// A few field names, compared without case. Most names have the length of none of them, which one look
/// tells.
#[derive(Clone, Copy, Debug)]
pub struct NameSet<const N: usize> {
    names: [&'static str; N],
    /// One bit for each length.
    lengths: u64,
}

impl<const N: usize> NameSet<N> {
    /// These names, each shorter than 64 bytes.
    pub const fn new(names: [&'static str; N]) -> Self {
        let mut lengths = 0;
        let mut rest: &[&str] = &names;
        while let [name, behind @ ..] = rest {
            assert!(name.len() < 64, "the length has no bit");
            lengths |= 1 << name.len();
            rest = behind;
        }
        Self { names, lengths }
    }

    /// Whether some name is as long as `name`.
    pub fn has_length_of(&self, name: &[u8]) -> bool {
        name.len() < 64 && self.lengths >> name.len() & 1 == 1
    }

    /// Whether `name` is one of them.
    pub fn contains(&self, name: &[u8]) -> bool {
        self.place(name).is_some()
    }

    /// Which of them `name` is.
    pub fn place(&self, name: &[u8]) -> Option<usize> {
        if !self.has_length_of(name) {
            return None;
        }
        let is = |listed: &&str| name.eq_ignore_ascii_case(listed.as_bytes());
        self.names.iter().position(is)
    }

    /// The names.
    pub fn iter(&self) -> impl Iterator<Item = &'static str> + use<N> {
        self.names.into_iter()
    }
}

/// Whether `byte` may stand in a token (RFC 9110 5.6.2: tchar).
pub fn is_tchar(byte: u8) -> bool {
    TCHAR.contains(byte)
}

/// Whether `text` is a token: one or more tchar.
pub fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().copied().all(is_tchar)
}

/// Whether `byte` may stand in a field value (RFC 9110 5.5): visible, obs-text, space or tab.
pub fn is_field_value_byte(byte: u8) -> bool {
    matches!(byte, b'\t' | b' '..=0x7e | 0x80..)
}

/// Whether `value` may be one of a field (RFC 9110 5.5), white space around it aside. All of it is looked
/// at, many bytes at a time: hardly any is not.
pub fn is_field_value(value: &[u8]) -> bool {
    let valid = |valid, &byte| valid & is_field_value_byte(byte);
    value.iter().fold(true, valid)
}

/// `text` without the optional white space around it (RFC 9110 5.6.3: space and tab only).
pub fn trim_ows(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = text {
        text = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}

/// The members of a comma-separated list whose members hold no quoted commas, trimmed, without the
/// empty ones that a recipient must ignore (RFC 9110 5.6.1.2).
pub fn list_members(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value
        .split(|&byte| byte == b',')
        .map(trim_ows)
        .filter(|member| !member.is_empty())
}

/// A decimal number of ASCII digits only. `None` when there is none, another byte among them (a
/// sign, a space), or the number does not fit.
pub fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, digit| {
        let value = digit.wrapping_sub(b'0');
        if value > 9 {
            return None;
        }
        number.checked_mul(10)?.checked_add(u64::from(value))
    })
}

/// Appends `number` in decimal. Without the formatting machinery: every response passes here.
pub fn push_decimal(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0_u8; DECIMAL_DIGITS_MAX];
    let mut start = digits.len();
    for slot in digits.iter_mut().rev() {
        *slot = b'0' + (number % 10) as u8;
        number /= 10;
        start -= 1;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(digits.get(start..).unwrap_or_default());
}

/// The digits of `u64::MAX`.
const DECIMAL_DIGITS_MAX: usize = 20;

static TCHAR: ByteSet = ByteSet::alphanumeric_and(b"!#$%&'*+-.^_`|~");

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rfc9110_5_6_2_token_characters_are_exactly_the_listed_ones() {
        let expected: Vec<u8> = (0..=u8::MAX)
            .filter(|&b| b > 0x20 && b < 0x7f && !br#"(),/:;<=>?@[\]{}""#.contains(&b))
            .collect();
        let found: Vec<u8> = (0..=u8::MAX).filter(|&b| is_tchar(b)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn names_are_found_without_case_and_others_are_not() {
        static NAMES: NameSet<3> = NameSet::new(["te", "host", "via"]);
        assert_eq!(NAMES.place(b"Host"), Some(1));
        assert!(NAMES.contains(b"TE") && NAMES.contains(b"via"));
        for other in ["", "t", "date", "hosts", "tea", &"x".repeat(66)] {
            assert!(!NAMES.contains(other.as_bytes()), "{other}");
        }
        assert!(NAMES.has_length_of(b"date") && !NAMES.has_length_of(&[b'x'; 66]));
    }

    #[test]
    fn rfc9110_5_6_1_2_empty_list_members_are_ignored() {
        let members: Vec<_> = list_members(b" ,a,, b\t,").collect();
        assert_eq!(members, [b"a", b"b"]);
    }

    #[test]
    fn decimal_refuses_what_is_not_digits_or_does_not_fit() {
        for bad in [
            "",
            "+1",
            "-1",
            " 1",
            "1 ",
            "0x1",
            "1_0",
            "18446744073709551616",
        ] {
            assert_eq!(decimal(bad.as_bytes()), None, "{bad:?}");
        }
        assert_eq!(decimal(b"18446744073709551615"), Some(u64::MAX));
        assert_eq!(decimal(b"0000000000000000000000007"), Some(7));
    }

    proptest! {
        #[test]
        fn decimal_text_round_trips(number: u64) {
            let mut text = Vec::new();
            push_decimal(&mut text, number);
            prop_assert_eq!(String::from_utf8(text.clone()).unwrap(), number.to_string());
            prop_assert_eq!(decimal(&text), Some(number));
        }
    }
}
