//! What a request is known by in logs and in the logs of the servers it passes.

use std::borrow::Cow;

use crate::limits::REQUEST_ID_BYTES_MAX;
use crate::message::Request;

/// The id of `request`: the one that its field `name` carries where the sender is trusted, otherwise
/// its own number, in hexadecimal.
pub fn of<'a>(request: &'a Request, name: &'a str, is_trusted: bool) -> Cow<'a, str> {
    let received = request.fields.only(name).filter(|_| is_trusted);
    match received.and_then(accepted) {
        Some(id) => id.into(),
        None => in_hexadecimal(request.id.number()).into(),
    }
}

/// All 32 digits of `number`. Every request has one: the formatting machinery takes ten times as long.
fn in_hexadecimal(number: u128) -> String {
    let mut digits = [0; 2 * size_of::<u128>()];
    for (pair, byte) in digits.chunks_exact_mut(2).zip(number.to_be_bytes()) {
        pair.copy_from_slice(&[hex_digit(byte >> 4), hex_digit(byte & 0xf)]);
    }
    std::str::from_utf8(&digits).unwrap_or_default().to_owned()
}

fn hex_digit(value: u8) -> u8 {
    match value {
        0..=9 => b'0' + value,
        _ => b'a' - 10 + value,
    }
}

/// An id goes into logs and fields as it is: only what means nothing there is taken.
fn accepted(id: &[u8]) -> Option<&str> {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:+/=@".contains(byte);
    let is_accepted = !id.is_empty() && id.len() <= REQUEST_ID_BYTES_MAX && id.iter().all(is_plain);
    std::str::from_utf8(id).ok().filter(|_| is_accepted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Method;
    use crate::proto::testing::request;

    #[test]
    fn an_id_is_made_once_and_is_like_no_other() {
        let (first, second) = (request(Method::Get, &[]), request(Method::Get, &[]));
        let id = of(&first, "x-request-id", true).into_owned();
        assert_eq!(id, format!("{:032x}", first.id.number()));
        assert_eq!(of(&first, "x-request-id", false), id);
        assert_eq!(of(&first.clone(), "x-request-id", false), id);
        assert_ne!(of(&second, "x-request-id", true), id);
        let elsewhere = std::thread::spawn(|| request(Method::Get, &[]).id.number());
        assert_ne!(elsewhere.join().unwrap(), first.id.number());
    }

    #[test]
    fn only_a_trusted_proxy_names_a_request() {
        let named = request(Method::Get, &[("X-Request-Id", "a-B_1.2:3+/=@")]);
        assert_eq!(of(&named, "x-request-id", true), "a-B_1.2:3+/=@");
        assert_ne!(of(&named, "x-request-id", false), "a-B_1.2:3+/=@");
        assert_ne!(of(&named, "x-other", true), "a-B_1.2:3+/=@");
    }

    #[test]
    fn what_could_mean_something_in_a_log_is_not_taken() {
        let long = "a".repeat(REQUEST_ID_BYTES_MAX);
        let longer = format!("{long}a");
        for (id, is_taken) in [
            (&*long, true),
            (&longer, false),
            ("", false),
            ("a b", false),
            ("a\"b", false),
            ("a\\b", false),
            ("a{b", false),
            ("\u{e9}", false),
        ] {
            let named = request(Method::Get, &[("x-request-id", id)]);
            assert_eq!(of(&named, "x-request-id", true) == id, is_taken, "{id}");
        }
        let twice = request(Method::Get, &[("x-request-id", "a"), ("x-request-id", "b")]);
        assert_eq!(of(&twice, "x-request-id", true).len(), 32);
    }
}
