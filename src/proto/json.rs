//! Writing JSON (RFC 8259), straight into bytes: a line of a log is made on the data path.

/// Appends one JSON value to a buffer. Members and elements separate themselves; what is opened is to
/// be closed by its own [`JsonWriter::end_object`] or [`JsonWriter::end_array`].
#[derive(Debug)]
pub struct JsonWriter<'a> {
    out: &'a mut Vec<u8>,
    /// Whether a comma is due before the next name or element.
    is_after_value: bool,
}

impl<'a> JsonWriter<'a> {
    /// Writes behind what `out` has already.
    pub fn new(out: &'a mut Vec<u8>) -> Self {
        Self {
            out,
            is_after_value: false,
        }
    }

    /// `{`
    pub fn begin_object(&mut self) -> &mut Self {
        self.begin(b'{')
    }

    /// `}`
    pub fn end_object(&mut self) -> &mut Self {
        self.end(b'}')
    }

    /// `[`
    pub fn begin_array(&mut self) -> &mut Self {
        self.begin(b'[')
    }

    /// `]`
    pub fn end_array(&mut self) -> &mut Self {
        self.end(b']')
    }

    /// The name of an object's next member; its value is to follow.
    pub fn name(&mut self, name: &str) -> &mut Self {
        self.string(name.as_bytes());
        self.out.push(b':');
        self.is_after_value = false;
        self
    }

    /// A string. What is not UTF-8 becomes U+FFFD, so that any bytes make valid JSON.
    pub fn string(&mut self, text: &[u8]) -> &mut Self {
        self.separate();
        self.out.push(b'"');
        for chunk in text.utf8_chunks() {
            chunk
                .valid()
                .bytes()
                .for_each(|byte| self.push_escaped(byte));
            if !chunk.invalid().is_empty() {
                self.out.extend_from_slice("\u{fffd}".as_bytes());
            }
        }
        self.out.push(b'"');
        self.is_after_value = true;
        self
    }

    /// A whole number.
    pub fn number(&mut self, number: u64) -> &mut Self {
        self.literal(&number.to_string())
    }

    /// `true` or `false`.
    pub fn boolean(&mut self, value: bool) -> &mut Self {
        self.literal(if value { "true" } else { "false" })
    }

    /// `null`
    pub fn null(&mut self) -> &mut Self {
        self.literal("null")
    }

    /// A member that is a string.
    pub fn string_member(&mut self, name: &str, text: &[u8]) -> &mut Self {
        self.name(name).string(text)
    }

    /// A member that is a whole number.
    pub fn number_member(&mut self, name: &str, number: u64) -> &mut Self {
        self.name(name).number(number)
    }

    fn begin(&mut self, bracket: u8) -> &mut Self {
        self.separate();
        self.out.push(bracket);
        self.is_after_value = false;
        self
    }

    fn end(&mut self, bracket: u8) -> &mut Self {
        self.out.push(bracket);
        self.is_after_value = true;
        self
    }

    fn literal(&mut self, text: &str) -> &mut Self {
        self.separate();
        self.out.extend_from_slice(text.as_bytes());
        self.is_after_value = true;
        self
    }

    fn separate(&mut self) {
        if self.is_after_value {
            self.out.push(b',');
        }
    }

    /// RFC 8259 7: quotation mark, reverse solidus and control characters are escaped; DEL too, which
    /// terminals obey.
    fn push_escaped(&mut self, byte: u8) {
        match byte {
            b'"' | b'\\' => self.out.extend_from_slice(&[b'\\', byte]),
            0..0x20 | 0x7f => {
                let digit = |value: u8| match value {
                    0..10 => b'0' + value,
                    _ => b'a' + value - 10,
                };
                let escape = [b'\\', b'u', b'0', b'0', digit(byte >> 4), digit(byte & 15)];
                self.out.extend_from_slice(&escape);
            }
            _ => self.out.push(byte),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn members_and_elements_are_separated() {
        let mut out = Vec::new();
        let mut json = JsonWriter::new(&mut out);
        json.begin_object().name("a").begin_array();
        json.number(1).boolean(true).null().string(b"x");
        json.begin_object().end_object().end_array();
        json.string_member("b", b"y").number_member("c", 2);
        json.name("d").begin_array().end_array().end_object();
        let text = r#"{"a":[1,true,null,"x",{}],"b":"y","c":2,"d":[]}"#;
        assert_eq!(String::from_utf8(out).unwrap(), text);
    }

    #[test]
    fn rfc8259_7_control_characters_are_escaped() {
        let mut out = Vec::new();
        JsonWriter::new(&mut out).string(b"\"\\\n\x1b\x7f\xff/\xc3\xa9");
        let text = "\"\\\"\\\\\\u000a\\u001b\\u007f\u{fffd}/\u{e9}\"";
        assert_eq!(String::from_utf8(out).unwrap(), text);
    }

    /// What a reader makes of a string.
    fn unescaped(text: &str) -> String {
        let inner = text.strip_prefix('"').unwrap().strip_suffix('"').unwrap();
        let mut plain = String::new();
        let mut chars = inner.chars();
        while let Some(char) = chars.next() {
            plain.push(match char {
                '"' => panic!("it ends early: {text}"),
                '\\' => match chars.next().unwrap() {
                    'u' => {
                        let digits: String = chars.by_ref().take(4).collect();
                        char::from_u32(u32::from_str_radix(&digits, 16).unwrap()).unwrap()
                    }
                    other => other,
                },
                other => other,
            });
        }
        plain
    }

    proptest! {
        #[test]
        fn any_bytes_make_a_string_that_reads_back(bytes: Vec<u8>) {
            let mut out = Vec::new();
            JsonWriter::new(&mut out).string(&bytes);
            let text = String::from_utf8(out.clone()).unwrap();
            prop_assert_eq!(unescaped(&text), String::from_utf8_lossy(&bytes));
            prop_assert!(out.iter().all(|byte| !byte.is_ascii_control()));
        }
    }
}
