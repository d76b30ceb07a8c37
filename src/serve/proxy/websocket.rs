//! The opening of a WebSocket (RFC 6455 4, RFC 8441 5): HTTP/1.1 proves with a key that the server knows
//! the protocol, HTTP/2 does without.

use aws_lc_rs::{digest, rand};

use crate::message::Fields;

/// A key for a server that is asked in HTTP/1.1 (RFC 6455 4.1); `None` when there is no randomness.
pub(super) fn new_key() -> Option<String> {
    let mut nonce = [0; 16];
    rand::fill(&mut nonce).ok()?;
    Some(base64(&nonce))
}

/// What the server makes of `key` (RFC 6455 4.2.2).
pub(super) fn accept(key: &[u8]) -> String {
    let mut context = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    context.update(key);
    context.update(GUID);
    base64(context.finish().as_ref())
}

/// Whether `protocol` is the name of this one.
pub(super) fn is_websocket(protocol: &[u8]) -> bool {
    protocol.eq_ignore_ascii_case(b"websocket")
}

/// Whether `fields` have the answer to `key`.
pub(super) fn is_accepted(fields: &Fields, key: &str) -> bool {
    fields.only("sec-websocket-accept") == Some(accept(key.as_bytes()).as_bytes())
}

/// RFC 4648 4
fn base64(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits = (0..3).fold(0_u32, |bits, at| {
            bits << 8 | u32::from(group.get(at).copied().unwrap_or_default())
        });
        for place in 0..4 {
            let index = (bits >> (18 - 6 * place) & 0x3f) as usize;
            let letter = ALPHABET
                .get(index)
                .copied()
                .filter(|_| place <= group.len());
            text.push(char::from(letter.unwrap_or(b'=')));
        }
    }
    text
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// RFC 6455 1.3
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc4648_10_vectors() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }

    #[test]
    fn rfc6455_1_3_the_example() {
        assert_eq!(
            accept(b"dGhlIHNhbXBsZSBub25jZQ=="),
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
        let keys = [new_key().unwrap(), new_key().unwrap()];
        assert!(keys[0] != keys[1] && keys[0].len() == 24);
    }
}
