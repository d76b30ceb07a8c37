//! What a setting may be, and what the tuning guide says about it. The table is [`super::table`].

use crate::cli::guide::Guide;

/// A setting, and what the guide says about it. One knob can be many settings: a file for each CPU or
/// queue.
#[derive(Clone, Copy, Debug)]
pub struct Knob {
    /// Its name: that of sysctl(8), of the file, of the limit, or of the module. Its section of the guide
    /// has it in the heading.
    pub name: &'static str,
    /// Where it is.
    pub place: Place,
    /// Where the guide recommends something at all: all of these hold. Elsewhere it is right as it is.
    pub when: &'static [When],
    /// What it should be.
    pub wanted: Wanted,
    /// The page that has its section.
    pub guide: Guide,
    /// What it is good for.
    pub why: &'static str,
    /// Why it is shown and never set; `None`: `--apply` sets it.
    pub left_because: Option<&'static str>,
}

/// Where a setting is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A file below proc/sys, by the knob's name.
    Sysctl,
    /// The files of this pattern, from the root on. A `*` stands for any part of a name, once in each
    /// name; of network interfaces only those count that are up and have a device.
    Files(&'static str),
    /// A module of the kernel: `loaded` or `unloaded`.
    Module(&'static str),
    /// A parameter of the kernel's command line, by the knob's name.
    BootParameter,
    /// A hard limit of the service that runs.
    Limit {
        /// Its line in /proc/PID/limits.
        line: &'static str,
        /// What is to be written into the unit.
        unit: &'static str,
    },
    /// A file of the control group (version 2) of the service that runs, and of those above it, by the
    /// knob's name.
    Group {
        /// What is to be written into the unit.
        unit: &'static str,
    },
}

/// What has to hold for the guide to recommend something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// There is no such file beside the setting's.
    Lacks(&'static str),
    /// The first, a file beside the setting's, has the second among its words.
    Offers(&'static str, &'static str),
    /// The first, a file beside the setting's, has at least this number.
    BesideAtLeast(&'static str, u64),
    /// The setting's interface, or any if it belongs to none, has one receive queue, and there are more
    /// CPUs.
    OneReceiveQueue,
    /// The setting's interface has a transmit queue for each CPU, and there are several; and this queue
    /// is one of those.
    QueueForEachCpu,
    /// Memory belongs to several nodes.
    SeveralNodes,
    /// The kernel is older than this version.
    KernelBefore(u32, u32),
}

/// What a value should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// This number.
    Exactly(u64),
    /// This number or a greater one.
    AtLeast(u64),
    /// The same, where 0 stands for no bound.
    AtLeastOrUnbounded(u64),
    /// The same, where this word stands for no bound.
    AtLeastOr(u64, &'static str),
    /// Three numbers, of which the last is at least this one; the others are as they are.
    ThirdAtLeast(u64),
    /// Some CPUs, in place of none; which ones is the setting's.
    Cpus,
    /// One word of a few.
    Word {
        /// All that may be met.
        known: &'static [&'static str],
        /// Those that are as good as the recommended one.
        good: &'static [&'static str],
        /// What is recommended in place of others.
        set: &'static str,
    },
    /// `max`: no bound.
    Unbounded,
    /// It depends: the guide has no value for everybody.
    Depends,
}

impl Wanted {
    /// What `value` would have to be instead; `None` when it is right. `cpus` is the mask that is meant
    /// by [`Wanted::Cpus`].
    ///
    /// # Errors
    /// [`NotUnderstood`]: nothing can be said about such a value, and nothing may be put in its place.
    pub fn correction(self, value: &str, cpus: &str) -> Result<Option<String>, NotUnderstood> {
        Ok(match self {
            Self::Exactly(wanted) => (single(value)? != wanted).then(|| wanted.to_string()),
            Self::AtLeast(least) => (single(value)? < least).then(|| least.to_string()),
            Self::AtLeastOrUnbounded(least) => {
                let number = single(value)?;
                (number != 0 && number < least).then(|| least.to_string())
            }
            Self::AtLeastOr(_, unbounded) if value == unbounded => None,
            Self::AtLeastOr(least, _) => (single(value)? < least).then(|| least.to_string()),
            Self::ThirdAtLeast(least) => match *numbers(value)?.as_slice() {
                // The kernel keeps no order among them, and a third below the second helps nobody.
                [first, second, third] if third < least => {
                    Some(format!("{first} {second} {}", least.max(second)))
                }
                [_, _, _] => None,
                _ => return Err(NotUnderstood),
            },
            Self::Cpus if is_mask(value) => {
                let is_none = value.bytes().all(|byte| b"0,".contains(&byte));
                is_none.then(|| cpus.to_owned())
            }
            Self::Word { known, good, set } if known.contains(&value) => {
                (!good.contains(&value)).then(|| set.to_owned())
            }
            Self::Cpus | Self::Word { .. } => return Err(NotUnderstood),
            Self::Unbounded => match value.split(' ').next() {
                Some("max") => None,
                _ => Some("max".to_owned()),
            },
            Self::Depends => None,
        })
    }

    /// Whether a value is one that such a setting can have, and may be written.
    #[must_use]
    pub fn is_sound(self, value: &str) -> bool {
        match self {
            Self::Exactly(_)
            | Self::AtLeast(_)
            | Self::AtLeastOrUnbounded(_)
            | Self::ThirdAtLeast(_) => numbers(value).is_ok(),
            Self::Cpus => is_mask(value),
            Self::Word { known, .. } => known.contains(&value),
            // Nobody writes those.
            Self::AtLeastOr(..) | Self::Unbounded | Self::Depends => false,
        }
    }

    /// In words, after "recommended".
    #[must_use]
    pub fn describe(self) -> String {
        match self {
            Self::Exactly(wanted) => wanted.to_string(),
            Self::AtLeast(least) => format!("at least {least}"),
            Self::AtLeastOrUnbounded(least) => format!("at least {least}, or 0"),
            Self::AtLeastOr(least, unbounded) => format!("at least {least}, or {unbounded}"),
            Self::ThirdAtLeast(least) => format!("the third number at least {least}"),
            Self::Cpus => "some CPUs".to_owned(),
            Self::Word { good, .. } => good.join(" or "),
            Self::Unbounded => "max".to_owned(),
            Self::Depends => "it depends".to_owned(),
        }
    }
}

/// A value that is not made of what it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotUnderstood;

fn single(value: &str) -> Result<u64, NotUnderstood> {
    match *numbers(value)?.as_slice() {
        [number] => Ok(number),
        _ => Err(NotUnderstood),
    }
}

/// The numbers of a value; at least one.
fn numbers(value: &str) -> Result<Vec<u64>, NotUnderstood> {
    let parse = |word: &str| match word.bytes().all(|byte| byte.is_ascii_digit()) {
        true => word.parse().map_err(|_| NotUnderstood),
        false => Err(NotUnderstood),
    };
    let numbers: Vec<u64> = value
        .split_ascii_whitespace()
        .map(parse)
        .collect::<Result<_, _>>()?;
    match numbers.is_empty() {
        true => Err(NotUnderstood),
        false => Ok(numbers),
    }
}

/// A mask of CPUs as the kernel writes it: groups of eight hexadecimal digits with commas between them.
fn is_mask(value: &str) -> bool {
    let is_digit = |byte: u8| byte.is_ascii_hexdigit();
    let is_group = |group: &str| (1..=8).contains(&group.len()) && group.bytes().all(is_digit);
    value.split(',').all(is_group)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn correction(wanted: Wanted, value: &str) -> Result<Option<String>, NotUnderstood> {
        wanted.correction(value, "f")
    }

    #[test]
    fn a_bound_is_raised_and_never_lowered() {
        let at_least = |value| correction(Wanted::AtLeast(4096), value).unwrap();
        assert_eq!(at_least("128"), Some("4096".to_owned()));
        assert_eq!(at_least("4096"), None);
        assert_eq!(at_least("65535\n"), None);
        let or_unbounded = |value| correction(Wanted::AtLeastOrUnbounded(16), value).unwrap();
        assert_eq!(or_unbounded("15"), Some("16".to_owned()));
        assert_eq!((or_unbounded("0"), or_unbounded("17")), (None, None));
        let or_word = |value| correction(Wanted::AtLeastOr(16, "max"), value);
        assert_eq!(or_word("15"), Ok(Some("16".to_owned())));
        assert_eq!((or_word("max"), or_word("16")), (Ok(None), Ok(None)));
        assert_eq!(or_word("unlimited"), Err(NotUnderstood));
        let exactly = |value| correction(Wanted::Exactly(1), value).unwrap();
        assert_eq!(exactly("2"), Some("1".to_owned()));
        assert_eq!(exactly("1"), None);
    }

    #[test]
    fn of_three_numbers_only_the_third_changes() {
        let third = |value| correction(Wanted::ThirdAtLeast(100), value);
        assert_eq!(third("4\t16\t64\n"), Ok(Some("4 16 100".to_owned())));
        assert_eq!(third("4 128 64"), Ok(Some("4 128 128".to_owned())));
        assert_eq!(third("4 16 100"), Ok(None));
        assert_eq!(third("4 16"), Err(NotUnderstood));
        assert_eq!(third("400"), Err(NotUnderstood));
    }

    #[test]
    fn what_is_no_number_is_not_judged() {
        for value in [
            "",
            " \n",
            "-1",
            "+1",
            "cubic",
            "1 x",
            "99999999999999999999",
        ] {
            assert_eq!(numbers(value), Err(NotUnderstood), "{value:?}");
        }
        assert_eq!(correction(Wanted::AtLeast(1), "0 0"), Err(NotUnderstood));
    }

    #[test]
    fn a_mask_that_somebody_has_chosen_stays() {
        let cpus = |value| correction(Wanted::Cpus, value);
        for none in ["0", "00", "00000000,00000000"] {
            assert_eq!(cpus(none), Ok(Some("f".to_owned())), "{none}");
        }
        for some in ["1", "f", "00000001,00000000"] {
            assert_eq!(cpus(some), Ok(None), "{some}");
        }
        for none in ["", "x", ",", "1,", "0x1", "123456789", "0 0", "-1"] {
            assert_eq!(cpus(none), Err(NotUnderstood), "{none:?}");
        }
    }

    #[test]
    fn a_word_is_good_or_bad_or_unknown() {
        let wanted = Wanted::Word {
            known: &["slow", "quick", "fast"],
            good: &["quick", "fast"],
            set: "fast",
        };
        assert_eq!(correction(wanted, "slow"), Ok(Some("fast".to_owned())));
        assert_eq!(correction(wanted, "quick"), Ok(None));
        assert_eq!(correction(wanted, "fastest"), Err(NotUnderstood));
        assert_eq!(wanted.describe(), "quick or fast");
        assert!(wanted.is_sound("slow") && !wanted.is_sound("fastest"));
    }

    #[test]
    fn a_group_is_bounded_or_not() {
        let unbounded = |value| correction(Wanted::Unbounded, value).unwrap();
        assert_eq!((unbounded("max"), unbounded("max 100000")), (None, None));
        assert_eq!(unbounded("50000 100000"), Some("max".to_owned()));
        assert!(!Wanted::Unbounded.is_sound("max"));
    }
}
