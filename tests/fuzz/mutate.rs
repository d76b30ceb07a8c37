//! Mutations of seeds, as a function of a number.

/// Makes inputs from seeds.
pub(crate) struct Mutator {
    state: u64,
    seeds: Vec<Vec<u8>>,
    words: &'static [&'static [u8]],
    bytes_max: usize,
}

impl Mutator {
    /// Mutations of `seeds` that also insert `words`; the same from the same `start`.
    pub(crate) fn new(
        start: u64,
        mut seeds: Vec<Vec<u8>>,
        words: &'static [&'static [u8]],
        bytes_max: usize,
    ) -> Self {
        seeds.push(Vec::new());
        Self {
            state: start.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            seeds,
            words,
            bytes_max,
        }
    }

    /// The seeds.
    pub(crate) fn seeds(&self) -> &[Vec<u8>] {
        &self.seeds
    }

    /// A seed with one to eight changes.
    pub(crate) fn next_input(&mut self) -> Vec<u8> {
        let seed = self.below(self.seeds.len());
        let mut input = self.seeds[seed].clone();
        for _ in 0..=self.below(8) {
            self.change(&mut input);
        }
        input.truncate(self.bytes_max);
        input
    }

    fn change(&mut self, input: &mut Vec<u8>) {
        let at = self.below(input.len() + 1);
        match self.below(10) {
            0 | 1 => {
                if let Some(byte) = input.get_mut(at) {
                    *byte ^= 1 << self.below(8);
                }
            }
            2 => {
                let edge = EDGES[self.below(EDGES.len())];
                if let Some(byte) = input.get_mut(at) {
                    *byte = edge;
                }
            }
            3 => {
                if let Some(byte) = input.get_mut(at) {
                    *byte = self.next_byte();
                }
            }
            4 => {
                let end = (at + 1 + self.below(16)).min(input.len());
                input.drain(at.min(end)..end);
            }
            5 => {
                let end = (at + 1 + self.below(64)).min(input.len());
                let piece = input[at.min(end)..end].to_vec();
                let times = 1 + self.below(4);
                input.splice(at..at, piece.repeat(times));
            }
            6 => {
                let bytes: Vec<u8> = (0..=self.below(8)).map(|_| self.next_byte()).collect();
                input.splice(at..at, bytes);
            }
            7 => input.truncate(at),
            8 if !self.words.is_empty() => {
                let word = self.words[self.below(self.words.len())];
                input.splice(at..at, word.iter().copied());
            }
            _ => {
                let seed = self.below(self.seeds.len());
                let from = self.below(self.seeds[seed].len() + 1);
                let piece = self.seeds[seed][from..].to_vec();
                input.splice(at.., piece);
            }
        }
    }

    fn next_byte(&mut self) -> u8 {
        self.next_number().to_le_bytes()[3]
    }

    fn below(&mut self, end: usize) -> usize {
        let number = self.next_number() >> 16;
        usize::try_from(number % end as u64).unwrap()
    }

    /// xorshift64 (Marsaglia 2003).
    fn next_number(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state
    }
}

const EDGES: [u8; 14] = [
    0, 1, 0x7f, 0x80, 0xff, 0x14, 0x17, b' ', b'\r', b'\n', b'0', b'9', b'%', b'"',
];
