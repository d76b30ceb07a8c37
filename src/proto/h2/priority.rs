//! Extensible priorities (RFC 9218): the Priority field and PRIORITY_UPDATE.

/// How urgent a response is, and whether its bytes are of use before the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Priority {
    /// 0 (first) to 7 (last) (RFC 9218 4.1).
    pub urgency: u8,
    /// Whether it shares the bandwidth with others of its urgency instead of being sent after them
    /// (RFC 9218 4.2).
    pub incremental: bool,
}

impl Default for Priority {
    fn default() -> Self {
        Self {
            urgency: 3,
            incremental: false,
        }
    }
}

impl Priority {
    /// The priority that a field value gives: a dictionary of structured values (RFC 8941 3.2).
    /// Members unknown, of another type or out of range are ignored (RFC 9218 4). `None` when it is
    /// no dictionary, and so says nothing.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let mut priority = Self::default();
        let mut rest = trim_start(value, b" ");
        while !rest.is_empty() {
            let (key, after) = key(rest)?;
            let (item, after) = match after {
                [b'=', after @ ..] => item_or_list(after)?,
                // RFC 8941 3.2: a member without a value is true.
                _ => (Item::Boolean(true), after),
            };
            rest = parameters(after)?;
            match (key, item) {
                (b"u", Item::Digit(urgency @ 0..=7)) => priority.urgency = urgency,
                (b"i", Item::Boolean(incremental)) => priority.incremental = incremental,
                // RFC 8941 4.2.2: a repeated key replaces what was before it, with what is not a
                // priority by the default.
                (b"u", _) => priority.urgency = Self::default().urgency,
                (b"i", _) => priority.incremental = false,
                _ => {}
            }
            rest = trim_start(rest, b" \t");
            rest = match rest {
                [] => rest,
                [b',', after @ ..] => {
                    // RFC 8941 4.2.2: a comma at the end fails.
                    Some(trim_start(after, b" \t")).filter(|after| !after.is_empty())?
                }
                _ => return None,
            };
        }
        Some(priority)
    }
}

/// What of an item matters to a priority.
#[derive(Clone, Copy)]
enum Item {
    /// An integer of one digit.
    Digit(u8),
    Boolean(bool),
    Other,
}

fn key(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let starts = |byte: &u8| matches!(byte, b'a'..=b'z' | b'*');
    text.first().filter(|byte| starts(byte))?;
    let continues = |byte: &u8| starts(byte) || matches!(byte, b'0'..=b'9' | b'_' | b'-' | b'.');
    Some(take_while(text, continues))
}

/// An item, or a list of items in parentheses, and what follows it (RFC 8941 4.2.1).
fn item_or_list(text: &[u8]) -> Option<(Item, &[u8])> {
    let Some(mut rest) = text.strip_prefix(b"(") else {
        return item(text);
    };
    loop {
        rest = trim_start(rest, b" ");
        if let Some(rest) = rest.strip_prefix(b")") {
            return Some((Item::Other, rest));
        }
        let (_, after) = item(rest)?;
        rest = parameters(after)?;
        if !matches!(rest, [b' ' | b')', ..]) {
            return None;
        }
    }
}

/// Skips the parameters of an item (RFC 8941 4.2.3.2).
fn parameters(mut rest: &[u8]) -> Option<&[u8]> {
    while let Some(after) = rest.strip_prefix(b";") {
        let (_, after) = key(trim_start(after, b" "))?;
        rest = match after.strip_prefix(b"=") {
            Some(after) => item(after)?.1,
            None => after,
        };
    }
    Some(rest)
}

/// A bare item and what follows it (RFC 8941 4.2.3.1).
fn item(text: &[u8]) -> Option<(Item, &[u8])> {
    match text {
        [b'?', b'0', rest @ ..] => Some((Item::Boolean(false), rest)),
        [b'?', b'1', rest @ ..] => Some((Item::Boolean(true), rest)),
        [b'-' | b'0'..=b'9', ..] => number(text),
        [b'"', rest @ ..] => string(rest),
        [b':', rest @ ..] => {
            let in_base64 = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/=".contains(byte);
            let (_, rest) = take_while(rest, in_base64);
            Some((Item::Other, rest.strip_prefix(b":")?))
        }
        [b'*' | b'a'..=b'z' | b'A'..=b'Z', ..] => {
            let in_token =
                |byte: &u8| crate::proto::syntax::is_tchar(*byte) || b":/".contains(byte);
            Some((Item::Other, take_while(text, in_token).1))
        }
        _ => None,
    }
}

/// An integer of up to 15 digits, or a decimal of up to 12 and 3 (RFC 8941 4.2.4).
fn number(text: &[u8]) -> Option<(Item, &[u8])> {
    let unsigned = text.strip_prefix(b"-").unwrap_or(text);
    let (integer, rest) = take_while(unsigned, u8::is_ascii_digit);
    if let Some(rest) = rest.strip_prefix(b".") {
        let (fraction, rest) = take_while(rest, u8::is_ascii_digit);
        let valid = (1..=12).contains(&integer.len()) && (1..=3).contains(&fraction.len());
        return valid.then_some((Item::Other, rest));
    }
    match text {
        [digit @ b'0'..=b'9', ..] if integer.len() == 1 => Some((Item::Digit(digit - b'0'), rest)),
        _ => (1..=15)
            .contains(&integer.len())
            .then_some((Item::Other, rest)),
    }
}

/// What follows a string whose first quotation mark is read (RFC 8941 4.2.5).
fn string(mut text: &[u8]) -> Option<(Item, &[u8])> {
    loop {
        text = match text {
            [b'"', rest @ ..] => return Some((Item::Other, rest)),
            [b'\\', b'"' | b'\\', rest @ ..] => rest,
            [b'\\', ..] | [] => return None,
            [b' '..=b'~', rest @ ..] => rest,
            _ => return None,
        };
    }
}

fn take_while(text: &[u8], belongs: impl Fn(&u8) -> bool) -> (&[u8], &[u8]) {
    let length = text.iter().take_while(|byte| belongs(byte)).count();
    text.split_at_checked(length).unwrap_or_default()
}

fn trim_start<'a>(text: &'a [u8], space: &[u8]) -> &'a [u8] {
    take_while(text, |byte| space.contains(byte)).1
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parsed(value: &str) -> Option<(u8, bool)> {
        Priority::parse(value.as_bytes()).map(|p| (p.urgency, p.incremental))
    }

    #[test]
    fn rfc9218_4_urgency_and_incremental() {
        for (value, expected) in [
            ("", (3, false)),
            ("u=0", (0, false)),
            ("u=7, i", (7, true)),
            ("i", (3, true)),
            ("i=?1,u=1", (1, true)),
            ("i=?0", (3, false)),
            ("  u=5 \t,\t i ", (5, true)),
            ("u=1, u=6", (6, false)),
            ("u=1;x=\"a;b\\\"\";y, i;z=:aGk=:", (1, true)),
        ] {
            assert_eq!(parsed(value), Some(expected), "{value}");
        }
    }

    #[test]
    fn rfc9218_4_unknown_and_unfit_members_are_ignored() {
        for (value, expected) in [
            ("u=8", (3, false)),
            ("u=-1", (3, false)),
            ("u=10", (3, false)),
            ("u=1.5", (3, false)),
            ("u=\"1\"", (3, false)),
            ("u, i", (3, true)),
            ("i=1", (3, false)),
            ("i=yes, u=2", (2, false)),
            ("x=(1 \"two\" three;a=4), u=2, *y-z.0_=?0", (2, false)),
        ] {
            assert_eq!(parsed(value), Some(expected), "{value}");
        }
    }

    #[test]
    fn rfc8941_4_2_what_is_no_dictionary_says_nothing() {
        for value in [
            "u=",
            "u=1,",
            "u=1 i",
            ",u=1",
            "=1",
            "U=1",
            "u=1;",
            "u=?2",
            "u=\"a",
            "u=(1",
            "u=(1)(2)",
            "u=1;=2",
            "u= 1",
            "u =1",
            "u=1.",
            "u=1234567890123456",
            "u=:a",
            "\u{e9}",
            "u=1\0",
        ] {
            assert_eq!(parsed(value), None, "{value:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_give_an_urgency_in_range(value in prop::collection::vec(any::<u8>(), 0..40)) {
            if let Some(priority) = Priority::parse(&value) {
                prop_assert!(priority.urgency <= 7);
            }
        }

        #[test]
        fn text_of_the_grammar_never_panics(value in "[ui=?0-9,;()\":. a\\\\]{0,30}") {
            if let Some(priority) = Priority::parse(value.as_bytes()) {
                prop_assert!(priority.urgency <= 7);
            }
        }
    }
}
