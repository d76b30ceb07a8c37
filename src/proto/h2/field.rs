//! What a field is to whoever reads its message: told once where a table keeps it, since most fields
//! of most messages are references to it.

use crate::proto::syntax::{is_field_value, is_tchar};

/// What is known of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Its name begins with a colon (RFC 9113 8.3).
    Pseudo,
    /// It is well-formed, and the connection itself may have to obey or to refuse it.
    Control,
    /// It is well-formed, and nothing to the connection itself.
    Plain,
    /// No field may have such a name or value.
    Malformed,
}

impl Class {
    /// That of the field `name`: `value`.
    pub fn of(name: &[u8], value: &[u8]) -> Self {
        match name {
            [b':', ..] => Self::Pseudo,
            _ if check(name, value).is_err() => Self::Malformed,
            // RFC 9113 8.2.2
            b"connection" | b"keep-alive" | b"proxy-connection" | b"transfer-encoding"
            | b"upgrade" | b"te" => Self::Control,
            b"content-length" | b"expect" | b"host" | b"priority" => Self::Control,
            _ => Self::Plain,
        }
    }
}

/// RFC 9113 8.2.1, and the whole grammar of RFC 9110 5: what it forbids beyond, an HTTP/1.1 server
/// may take for something else.
///
/// # Errors
/// What is wrong. A pseudo-header field is, as any other.
pub fn check(name: &[u8], value: &[u8]) -> Result<(), &'static str> {
    let in_name = |&byte: &u8| is_tchar(byte) && !byte.is_ascii_uppercase();
    if name.is_empty() || !name.iter().all(in_name) {
        return Err("malformed field name");
    }
    let padded = matches!(value, [b' ' | b'\t', ..] | [.., b' ' | b'\t']);
    if padded || !is_field_value(value) {
        return Err("malformed field value");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_well_formed_is_obeyed_or_plain() {
        for name in ["te", "host", "content-length", "upgrade", "priority"] {
            assert_eq!(Class::of(name.as_bytes(), b"1"), Class::Control, "{name}");
            assert_eq!(Class::of(name.as_bytes(), b" 1"), Class::Malformed);
        }
        assert_eq!(Class::of(b"user-agent", b"x y"), Class::Plain);
        assert_eq!(Class::of(b"x-empty", b""), Class::Plain);
        assert_eq!(Class::of(b":path", b"\0"), Class::Pseudo);
        for name in ["", "Host", "a b", "a:", "\u{e4}"] {
            assert_eq!(Class::of(name.as_bytes(), b"1"), Class::Malformed, "{name}");
        }
    }

    proptest! {
        #[test]
        fn malformed_is_what_the_check_refuses(name in "[:a-zA-Z -]{0,6}", value in "[\0-\u{ff}]{0,6}") {
            let (name, value) = (name.as_bytes(), value.as_bytes());
            let is_good = matches!(Class::of(name, value), Class::Control | Class::Plain);
            prop_assert_eq!(is_good, check(name, value).is_ok());
        }
    }
}
