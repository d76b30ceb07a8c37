//! What a part is, and the two usual shapes of one.

use std::hint::black_box;

use crate::meter::Meter;

/// A part of the program, ready to be measured.
pub(crate) struct Part {
    /// Its group and, after '/', its name within it.
    pub(crate) name: String,
    /// Calls that a count of instructions is the mean of.
    pub(crate) calls: u64,
    /// What one call moves, where that says something.
    pub(crate) bytes: Option<u64>,
    /// Makes what it works on.
    pub(crate) prepare: Box<dyn Fn() -> Work>,
}

/// Does so many calls, with [`Meter::measure`] around what counts of them.
pub(crate) type Work = Box<dyn FnMut(u64, &mut Meter)>;

impl Part {
    /// A part that does by itself what belongs to a call and what does not.
    pub(crate) fn new(
        name: impl Into<String>,
        calls: u64,
        prepare: impl Fn() -> Work + 'static,
    ) -> Self {
        Self {
            name: name.into(),
            calls,
            bytes: None,
            prepare: Box::new(prepare),
        }
    }

    /// The same, of so many bytes each call.
    pub(crate) fn of_bytes(mut self, bytes: usize) -> Self {
        self.bytes = Some(bytes as u64);
        self
    }
}

/// Calls that can follow each other without anything in between. Each says whether it did its work.
pub(crate) fn repeated(mut call: impl FnMut() -> bool + 'static) -> Work {
    Box::new(move |calls, meter| {
        let mut done = true;
        meter.measure(|| {
            for _ in 0..calls {
                done &= black_box(call());
            }
        });
        assert!(done, "a call did not do its work");
    })
}

/// Calls that each use up an input. Making the inputs is not measured; what is made of them, dropping
/// it included, is. Each call says whether it did its work.
pub(crate) fn consuming<I: 'static>(
    mut input: impl FnMut() -> I + 'static,
    mut call: impl FnMut(I) -> bool + 'static,
) -> Work {
    Box::new(move |calls, meter| {
        let mut done = true;
        let mut left = calls;
        let mut inputs = Vec::with_capacity(BATCH);
        while left > 0 {
            let batch = left.min(BATCH as u64);
            inputs.extend((0..batch).map(|_| input()));
            meter.measure(|| {
                for input in inputs.drain(..) {
                    done &= black_box(call(black_box(input)));
                }
            });
            left -= batch;
        }
        assert!(done, "a call did not do its work");
    })
}

/// Inputs that wait at a time: few enough to stay in a cache near the core.
const BATCH: usize = 64;

/// One site in the directory that the configuration lies in.
pub(crate) const CONFIGURATION: &str = r#"
[[listener]]
address = "127.0.0.1:443"

[[site]]
names = ["localhost"]
certificate = "chain.pem"
key = "key.pem"
root = "."
"#;
