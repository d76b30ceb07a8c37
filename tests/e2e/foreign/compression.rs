//! Header blocks both ways between this program and an implementation of another make: thousands of
//! random lists, under tables whose size changes.

use std::fmt::Write;

use portcullis::proto::h2::hpack::{Bounds, Decoder, Encoder, HeaderList, Indexing};

use super::source;
use crate::support::process::DEBIAN_PYTHON;

const CONNECTIONS: usize = 40;
const LISTS_PER_CONNECTION: usize = 60;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Field {
    name: Vec<u8>,
    value: Vec<u8>,
    /// No table on the way may hold it.
    is_secret: bool,
}

/// xorshift64 (Marsaglia 2003).
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from((self.0 >> 16) % end as u64).unwrap()
    }

    fn pick<'a>(&mut self, of: &[&'a [u8]]) -> &'a [u8] {
        of[self.below(of.len())]
    }

    fn text(&mut self, length: usize, alphabet: &[u8]) -> Vec<u8> {
        (0..length)
            .map(|_| alphabet[self.below(alphabet.len())])
            .collect()
    }

    fn name(&mut self) -> Vec<u8> {
        match self.below(8) {
            0..=4 => self.pick(NAMES).to_vec(),
            5 | 6 => [b"x-", &*self.below(6).to_string().into_bytes()].concat(),
            _ => {
                let length = 1 + self.below(20);
                self.text(length, b"abcdefghijklmnopqrstuvwxyz0123456789-_.!~")
            }
        }
    }

    /// Common ones, and those whose lengths and bytes are at the edges of what the format tells apart.
    fn value(&mut self) -> Vec<u8> {
        let length = match self.below(24) {
            0..=9 => return self.pick(VALUES).to_vec(),
            10 => 126 + self.below(4),
            11 => 250 + self.below(200),
            12 if self.below(4) == 0 => 3000 + self.below(3000),
            _ => self.below(24),
        };
        let any: Vec<u8> = (0..=255).collect();
        match self.below(3) {
            0 => self.text(length, &any),
            1 => self.text(length, b"0123456789abcdef-:, "),
            // Longer in Huffman code than without.
            _ => self.text(length, b"\\^`{}<>#\x01\x7f\xfe"),
        }
    }

    fn list(&mut self) -> Vec<Field> {
        (0..=self.below(9))
            .map(|_| {
                let (name, value) = (self.name(), self.value());
                let is_secret = Indexing::of(&name) == Indexing::Never;
                Field {
                    name,
                    value,
                    is_secret,
                }
            })
            .collect()
    }

    fn table_bytes(&mut self) -> u32 {
        let small = u32::try_from(self.below(600)).unwrap();
        [0, 64, small, 4096, 16_384][self.below(5)]
    }
}

/// What our encoder makes of lists is what another decoder reads.
#[test]
fn our_blocks_are_read_by_another() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let (mut script, mut wanted) = (String::new(), Vec::new());
    let (mut block_bytes, mut plain_bytes) = (0, 0);
    for _ in 0..CONNECTIONS {
        let mut encoder = Encoder::new();
        script.push_str("new\n");
        for _ in 0..LISTS_PER_CONNECTION {
            if random.below(6) == 0 {
                let mut limit = 0;
                // The smallest of several must be told too (RFC 7541 4.2).
                for _ in 0..=random.below(3) {
                    limit = random.table_bytes();
                    encoder.set_peer_table_size(limit);
                }
                writeln!(script, "limit {limit}").unwrap();
            }
            let list = random.list();
            let mut block = Vec::new();
            encoder.begin(&mut block);
            for field in &list {
                let indexing = Indexing::of(&field.name);
                encoder.field(&field.name, &field.value, indexing, &mut block);
                plain_bytes += field.name.len() + field.value.len();
            }
            block_bytes += block.len();
            writeln!(script, "decode {}", hex(&block)).unwrap();
            wanted.push(list);
        }
    }
    assert!(block_bytes < plain_bytes * 9 / 10, "nothing is compressed");
    for (line, list) in answers(&script, wanted.len()).iter().zip(&wanted) {
        let fields: Vec<Field> = line.split_whitespace().map(field_of).collect();
        assert_eq!(fields, *list);
    }
}

/// What another encoder makes of lists is what our decoder reads.
#[test]
fn blocks_of_another_are_read_by_us() {
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let mut script = String::new();
    // Where a connection begins, the table's size if it has changed, and the list.
    let mut wanted: Vec<(bool, Option<u32>, Vec<Field>)> = Vec::new();
    for _ in 0..CONNECTIONS {
        script.push_str("new\n");
        let mut table = 4096;
        for index in 0..LISTS_PER_CONNECTION {
            let size = Some(random.table_bytes()).filter(|&size| size != table && size % 5 != 1);
            if let Some(size) = size {
                table = size;
                writeln!(script, "size {size}").unwrap();
            }
            let list = random.list();
            script.push_str("encode");
            if random.below(4) == 0 {
                script.push_str(" plain");
            }
            for field in &list {
                let mark = if field.is_secret { "!" } else { "" };
                let (name, value) = (hex(&field.name), hex(&field.value));
                write!(script, " {name}:{value}{mark}").unwrap();
            }
            script.push('\n');
            wanted.push((index == 0, size, list));
        }
    }
    let mut decoder = Decoder::new();
    let mut list = HeaderList::default();
    for (line, (begins, size, fields)) in answers(&script, wanted.len()).iter().zip(wanted) {
        if begins {
            decoder = Decoder::new();
        }
        if let Some(size) = size {
            decoder.set_size_limit(size);
        }
        decoder.decode(&bytes(line), &BOUNDS, &mut list).unwrap();
        let read: Vec<(&[u8], &[u8])> = list.iter().collect();
        let fields: Vec<(&[u8], &[u8])> = fields.iter().map(|f| (&*f.name, &*f.value)).collect();
        assert_eq!(read, fields);
    }
}

/// What the other end prints: a line for each of `count` blocks.
fn answers(script: &str, count: usize) -> Vec<String> {
    let mut command = DEBIAN_PYTHON.command();
    command.arg(source("hpack_peer.py"));
    let mut peer = DEBIAN_PYTHON.start(&mut command);
    peer.write(script.as_bytes());
    let said = peer.finish().success().text();
    let lines: Vec<String> = said.lines().map(str::to_owned).collect();
    assert_eq!(lines.len(), count);
    lines
}

fn field_of(text: &str) -> Field {
    let (name, value) = text.trim_end_matches('!').split_once(':').unwrap();
    Field {
        name: bytes(name),
        value: bytes(value),
        is_secret: text.ends_with('!'),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn bytes(hex: &str) -> Vec<u8> {
    let pairs = hex.as_bytes().chunks(2);
    let pairs = pairs.map(|pair| std::str::from_utf8(pair).unwrap());
    pairs
        .map(|pair| u8::from_str_radix(pair, 16).unwrap())
        .collect()
}

const BOUNDS: Bounds = Bounds {
    list_bytes_max: 1 << 20,
    fields_max: 1000,
};

const NAMES: &[&[u8]] = &[
    b":status",
    b":path",
    b":authority",
    b"accept-encoding",
    b"authorization",
    b"cache-control",
    b"content-length",
    b"content-type",
    b"cookie",
    b"date",
    b"etag",
    b"set-cookie",
    b"vary",
    b"www-authenticate",
    b"x-request-id",
];

const VALUES: &[&[u8]] = &[
    b"",
    b"200",
    b"304",
    b"/",
    b"/index.html",
    b"gzip, deflate",
    b"text/html; charset=utf-8",
    b"max-age=31536000",
    b"a=b; c=d",
    b"Mon, 21 Oct 2013 20:13:21 GMT",
];
