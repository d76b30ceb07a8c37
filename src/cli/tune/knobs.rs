//! What the tuning guide recommends, as a table.

use crate::cli::guide::Guide;

/// A setting of the kernel, and what the guide says about it.
#[derive(Clone, Copy, Debug)]
pub struct Knob {
    /// Its name, as sysctl(8) has it.
    pub name: &'static str,
    /// What it should be.
    pub wanted: Wanted,
    /// The page that has its section.
    pub guide: Guide,
    /// What it is good for.
    pub why: &'static str,
    /// Why it is shown and never set; `None`: `--apply` sets it.
    pub left_because: Option<&'static str>,
}

/// What a value should be. Values are one or more whole numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// This number.
    Exactly(u64),
    /// This number or a greater one.
    AtLeast(u64),
    /// The same, where 0 stands for no bound.
    AtLeastOrUnbounded(u64),
    /// Three numbers, of which the last is at least this one; the others are as they are.
    ThirdAtLeast(u64),
}

impl Knob {
    /// Its file beneath the root directory.
    #[must_use]
    pub fn path(&self) -> String {
        format!("proc/sys/{}", self.name.replace('.', "/"))
    }
}

impl Wanted {
    /// What `value` would have to be instead; `None` when it is right.
    ///
    /// # Errors
    /// [`NotNumbers`]: nothing can be said about such a value, and nothing may be put in its place.
    pub fn correction(self, value: &str) -> Result<Option<String>, NotNumbers> {
        let numbers = numbers(value)?;
        let single = || match *numbers.as_slice() {
            [number] => Ok(number),
            _ => Err(NotNumbers),
        };
        Ok(match self {
            Self::Exactly(wanted) => (single()? != wanted).then(|| wanted.to_string()),
            Self::AtLeast(least) => (single()? < least).then(|| least.to_string()),
            Self::AtLeastOrUnbounded(least) => {
                let number = single()?;
                (number != 0 && number < least).then(|| least.to_string())
            }
            Self::ThirdAtLeast(least) => match *numbers.as_slice() {
                // The kernel keeps no order among them, and a third below the second helps nobody.
                [first, second, third] if third < least => {
                    Some(format!("{first} {second} {}", least.max(second)))
                }
                [_, _, _] => None,
                _ => return Err(NotNumbers),
            },
        })
    }

    /// In words, after "recommended".
    #[must_use]
    pub fn describe(self) -> String {
        match self {
            Self::Exactly(wanted) => wanted.to_string(),
            Self::AtLeast(least) => format!("at least {least}"),
            Self::AtLeastOrUnbounded(least) => format!("at least {least}, or 0"),
            Self::ThirdAtLeast(least) => format!("the third number at least {least}"),
        }
    }
}

/// A value that is not made of whole numbers, or not of as many as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotNumbers;

/// The numbers of a value; at least one.
pub(super) fn numbers(value: &str) -> Result<Vec<u64>, NotNumbers> {
    let parse = |word: &str| match word.bytes().all(|byte| byte.is_ascii_digit()) {
        true => word.parse().map_err(|_| NotNumbers),
        false => Err(NotNumbers),
    };
    let numbers: Vec<u64> = value
        .split_ascii_whitespace()
        .map(parse)
        .collect::<Result<_, _>>()?;
    match numbers.is_empty() {
        true => Err(NotNumbers),
        false => Ok(numbers),
    }
}

const fn knob(name: &'static str, wanted: Wanted, guide: Guide, why: &'static str) -> Knob {
    Knob {
        name,
        wanted,
        guide,
        why,
        left_because: None,
    }
}

const fn left(mut knob: Knob, because: &'static str) -> Knob {
    knob.left_because = Some(because);
    knob
}

/// Every setting that is looked at, and the only ones that are ever written. Bounds are only raised.
/// Settings that hold back a default on purpose, or whose right value is a question of taste, are in
/// the guide and not here.
pub const KNOBS: [Knob; 20] = [
    knob(
        "net.core.somaxconn",
        Wanted::AtLeast(4096),
        Guide::Accept,
        "A burst of new connections longer than the accept queue is dropped.",
    ),
    knob(
        "net.ipv4.tcp_syncookies",
        Wanted::Exactly(1),
        Guide::Accept,
        "With 0 a flood of SYNs shuts clients out; with 2 every connection loses TCP options.",
    ),
    knob(
        "net.ipv4.tcp_abort_on_overflow",
        Wanted::Exactly(0),
        Guide::Accept,
        "A burst that overflows an accept queue becomes errors for clients.",
    ),
    knob(
        "net.core.netdev_max_backlog",
        Wanted::AtLeast(1000),
        Guide::Interrupts,
        "Packets of RPS, loopback and veth are dropped beyond it.",
    ),
    knob(
        "net.ipv4.tcp_slow_start_after_idle",
        Wanted::Exactly(0),
        Guide::Tcp,
        "A kept connection that was idle begins slowly again.",
    ),
    knob(
        "net.ipv4.tcp_mtu_probing",
        Wanted::AtLeast(1),
        Guide::Tcp,
        "Connections over paths that lose large packets silently hang.",
    ),
    knob(
        "net.ipv4.tcp_window_scaling",
        Wanted::Exactly(1),
        Guide::Tcp,
        "Without it no more than 64 KiB are under way on a connection.",
    ),
    knob(
        "net.ipv4.tcp_sack",
        Wanted::Exactly(1),
        Guide::Tcp,
        "Without it each loss costs a round trip of its own.",
    ),
    knob(
        "net.ipv4.tcp_timestamps",
        Wanted::AtLeast(1),
        Guide::Tcp,
        "Connections made by SYN cookies keep their options only with it.",
    ),
    knob(
        "net.ipv4.tcp_moderate_rcvbuf",
        Wanted::Exactly(1),
        Guide::Tcp,
        "Without it receive buffers stay small, and uploads slow.",
    ),
    knob(
        "net.ipv4.tcp_wmem",
        Wanted::ThirdAtLeast(4_194_304),
        Guide::Tcp,
        "The third number bounds how fast a client that is far away can be served.",
    ),
    knob(
        "net.ipv4.tcp_rmem",
        Wanted::ThirdAtLeast(6_291_456),
        Guide::Tcp,
        "The third number bounds how fast a client that is far away can upload.",
    ),
    knob(
        "fs.nr_open",
        Wanted::AtLeast(1_048_576),
        Guide::Limits,
        "The service's LimitNOFILE= cannot be above it.",
    ),
    knob(
        "fs.file-max",
        Wanted::AtLeast(1_048_576),
        Guide::Limits,
        "It bounds the connections and files of all processes together.",
    ),
    knob(
        "fs.pipe-max-size",
        Wanted::AtLeast(crate::limits::PIPE_BYTES as u64),
        Guide::Limits,
        "Tunnels splice through pipes of that size.",
    ),
    knob(
        "fs.pipe-user-pages-soft",
        Wanted::AtLeastOrUnbounded(16_384),
        Guide::Limits,
        "Beyond it a user's pipes hold two pages each, and tunnels take more calls.",
    ),
    knob(
        "net.netfilter.nf_conntrack_max",
        Wanted::AtLeast(262_144),
        Guide::Firewall,
        "When the table of tracked connections is full, new ones are dropped.",
    ),
    left(
        knob(
            "kernel.io_uring_disabled",
            Wanted::Exactly(0),
            Guide::IoUring,
            "Without rings, workers use epoll and more system calls.",
        ),
        "who may use io_uring is a decision about security",
    ),
    left(
        knob(
            "net.core.busy_read",
            Wanted::Exactly(0),
            Guide::BusyPolling,
            "Each receive that finds nothing polls the network card, on the worker's time.",
        ),
        "another service may want it",
    ),
    left(
        knob(
            "net.core.busy_poll",
            Wanted::Exactly(0),
            Guide::BusyPolling,
            "Workers on epoll burn the time in which they would sleep.",
        ),
        "another service may want it",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_is_raised_and_never_lowered() {
        let at_least = |value| Wanted::AtLeast(4096).correction(value).unwrap();
        assert_eq!(at_least("128"), Some("4096".to_owned()));
        assert_eq!(at_least("4096"), None);
        assert_eq!(at_least("65535\n"), None);
        let or_unbounded = |value| Wanted::AtLeastOrUnbounded(16).correction(value).unwrap();
        assert_eq!(or_unbounded("15"), Some("16".to_owned()));
        assert_eq!((or_unbounded("0"), or_unbounded("17")), (None, None));
        let exactly = |value| Wanted::Exactly(1).correction(value).unwrap();
        assert_eq!(exactly("2"), Some("1".to_owned()));
        assert_eq!(exactly("1"), None);
    }

    #[test]
    fn of_three_numbers_only_the_third_changes() {
        let third = |value| Wanted::ThirdAtLeast(100).correction(value);
        assert_eq!(third("4\t16\t64\n"), Ok(Some("4 16 100".to_owned())));
        assert_eq!(third("4 128 64"), Ok(Some("4 128 128".to_owned())));
        assert_eq!(third("4 16 100"), Ok(None));
        assert_eq!(third("4 16"), Err(NotNumbers));
        assert_eq!(third("400"), Err(NotNumbers));
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
            assert_eq!(numbers(value), Err(NotNumbers), "{value:?}");
        }
        assert_eq!(Wanted::AtLeast(1).correction("0 0"), Err(NotNumbers));
    }

    #[test]
    fn every_knob_is_one_setting_with_a_reason() {
        let mut names: Vec<&str> = KNOBS.iter().map(|knob| knob.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), KNOBS.len());
        for knob in KNOBS {
            assert!(knob.why.ends_with('.'), "{}", knob.name);
            let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
            assert!(knob.name.bytes().all(is_plain), "{}", knob.name);
            assert!(!knob.name.contains(".."), "{}", knob.name);
        }
    }
}
