use super::*;
use proptest::prelude::*;

fn encoded(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    encode(text, &mut out);
    assert_eq!(out.len(), encoded_len(text));
    out
}

fn decoded(code: &[u8]) -> Result<Vec<u8>, Error> {
    let mut out = b"kept".to_vec();
    decode(code, &mut out).map(|()| {
        assert_eq!(&out[..4], b"kept");
        out.split_off(4)
    })
}

#[test]
fn rfc7541_c_4_strings() {
    for (text, code) in [
        (
            &b"www.example.com"[..],
            &[
                0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff,
            ][..],
        ),
        (b"no-cache", &[0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf]),
        (
            b"custom-value",
            &[0x25, 0xa8, 0x49, 0xe9, 0x5b, 0xb8, 0xe8, 0xb4, 0xbf],
        ),
        (b"", &[]),
    ] {
        assert_eq!(encoded(text), code);
        assert_eq!(decoded(code).unwrap(), text);
    }
}

#[test]
fn every_byte_alone_and_before_every_other_round_trips() {
    for first in 0..=u8::MAX {
        assert_eq!(decoded(&encoded(&[first])).unwrap(), [first]);
        for second in 0..=u8::MAX {
            assert_eq!(
                decoded(&encoded(&[first, second])).unwrap(),
                [first, second]
            );
        }
    }
}

#[test]
fn rfc7541_5_2_padding_over_seven_bits_is_refused() {
    // 'o' is 00111.
    assert_eq!(decoded(&[0b0011_1111]).unwrap(), b"o");
    for code in [
        &[0xff][..],
        &[0b0011_1111, 0xff],
        &[0b0011_1111, 0xff, 0xff],
        &[0xff, 0xff, 0xff],
        &[0xff; 7],
    ] {
        assert_eq!(decoded(code), Err(Error::Huffman), "{code:x?}");
    }
}

#[test]
fn rfc7541_5_2_padding_other_than_ones_is_refused() {
    for padding in 0..0b111 {
        assert_eq!(
            decoded(&[0b0011_1000 | padding]),
            Err(Error::Huffman),
            "{padding:b}"
        );
    }
}

#[test]
fn rfc7541_5_2_eos_within_a_string_is_refused() {
    // EOS is thirty ones; alone, before a symbol, behind one, aligned and not.
    for code in [
        &[0xff, 0xff, 0xff, 0xff][..],
        &[0xff, 0xff, 0xff, 0xfc, 0x3f],
        &[0xff, 0xff, 0xff, 0xfc, 0x3f, 0x3f, 0x3f, 0x3f],
        &[0b0011_1111, 0xff, 0xff, 0xff, 0xff, 0xff],
        &[0b0011_1111, 0xff, 0xff, 0xff, 0xe0, 0x3f, 0x3f, 0x3f],
    ] {
        assert_eq!(decoded(code), Err(Error::Huffman), "{code:x?}");
    }
}

#[test]
fn the_longest_expansion_fits() {
    // '0' is 00000: eight of them in five bytes, the most symbols that bytes can hold.
    for bytes in (5..200).step_by(5) {
        assert_eq!(decoded(&vec![0; bytes]).unwrap(), vec![b'0'; bytes * 8 / 5]);
    }
}

proptest! {
    #[test]
    fn text_round_trips(text in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert_eq!(decoded(&encoded(&text)).unwrap(), text);
    }

    /// The code is a bijection but for its padding, which is fixed: whatever decodes is what
    /// encoding gives back.
    #[test]
    fn whatever_decodes_was_encoded(code in prop::collection::vec(any::<u8>(), 0..40)) {
        if let Ok(text) = decoded(&code) {
            prop_assert_eq!(encoded(&text), code);
        }
    }
}
