//! Whether this thread may use io_uring, and with which setup flags.

#![expect(unsafe_code, reason = "submitting an operation to a ring")]

use std::fmt;
use std::fs;
use std::io;

use io_uring::{Builder, IoUring, Probe, opcode};

use super::Process;
use crate::limits::{RING_COMPLETIONS, RING_SUBMISSIONS};

/// What drives a worker's sockets. Displayed in words: "io_uring", or "epoll: " and the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ring {
    /// io_uring works, with these flags.
    Usable(RingSetup),
    /// epoll it is.
    Refused(RingRefusal),
}

/// The setup flags that this kernel knows, of those that suit one thread per ring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingSetup {
    /// IORING_SETUP_COOP_TASKRUN (Linux 5.19): completions do not interrupt the thread.
    pub coop_taskrun: bool,
    /// IORING_SETUP_SINGLE_ISSUER (Linux 6.0): one thread submits, so the kernel locks less. The
    /// ring belongs to the thread that builds it.
    pub single_issuer: bool,
    /// IORING_SETUP_DEFER_TASKRUN (Linux 6.1): completion work runs only when the thread waits.
    pub defer_taskrun: bool,
}

/// Why io_uring cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RingRefusal {
    /// The kernel was built without it, or is older than 5.1 (`ENOSYS`).
    NotInKernel,
    /// The kernel is older than 5.19: it knows none of the setup flags. Up to about 5.12 a ring whose
    /// completions overflow refuses submissions (`EBUSY`), which the runtime answers by running
    /// completions within completions.
    TooOld,
    /// `ENOSYS` under a seccomp filter, which may be the filter's answer.
    NotInKernelOrSeccomp,
    /// The sysctl kernel.io_uring_disabled (Linux 6.6) has this value: 1 asks for CAP_SYS_ADMIN or
    /// membership in kernel.io_uring_group, 2 forbids it to all.
    ForbiddenBySysctl(u8),
    /// A seccomp filter forbids it: the usual default of container engines.
    ForbiddenBySeccomp,
    /// Forbidden by something else, as a security module (`EPERM`, `EACCES`).
    Forbidden,
    /// The limit on locked memory is too low for a ring (`ENOMEM`; rings count against
    /// RLIMIT_MEMLOCK before Linux 5.12).
    Memory,
    /// No descriptor is free (`EMFILE`, `ENFILE`).
    Descriptors,
    /// The kernel is too old: it lacks these operations.
    Operations(Vec<&'static str>),
    /// Another failure of the named system call.
    Call {
        /// The system call.
        name: &'static str,
        /// Its error number.
        errno: i32,
    },
}

/// Builds a ring as large as a worker's with the best flags this kernel takes, turns it once and
/// throws it away.
#[must_use]
pub fn ring() -> Ring {
    ring_of(RING_SUBMISSIONS)
}

fn ring_of(entries: u32) -> Ring {
    for setup in RingSetup::BEST_FIRST {
        let outcome = setup
            .builder()
            .build(entries)
            .map_err(|error| RingRefusal::of("io_uring_setup", &error, &Policy::current()));
        return match outcome {
            // An unknown flag: perhaps not among fewer.
            Err(RingRefusal::Call { errno, .. }) if errno == libc::EINVAL => continue,
            Err(refusal) => Ring::Refused(refusal),
            Ok(mut ring) => match exercise(&mut ring) {
                Ok(()) => Ring::Usable(setup),
                Err(refusal) => Ring::Refused(refusal),
            },
        };
    }
    match RingSetup::default().builder().build(entries) {
        Ok(_) => Ring::Refused(RingRefusal::TooOld),
        Err(error) => Ring::Refused(RingRefusal::of(
            "io_uring_setup",
            &error,
            &Policy::current(),
        )),
    }
}

impl RingSetup {
    /// Each step drops the youngest flag; DEFER_TASKRUN demands SINGLE_ISSUER.
    const BEST_FIRST: [Self; 3] = [
        Self::with(true, true, true),
        Self::with(true, true, false),
        Self::with(true, false, false),
    ];

    const fn with(coop_taskrun: bool, single_issuer: bool, defer_taskrun: bool) -> Self {
        Self {
            coop_taskrun,
            single_issuer,
            defer_taskrun,
        }
    }

    /// The builder of a worker's ring: these flags, and room for
    /// [`RING_COMPLETIONS`]. Build it with
    /// [`RING_SUBMISSIONS`], on the thread that uses it.
    #[must_use]
    pub fn builder(self) -> Builder {
        let mut builder = IoUring::builder();
        builder.setup_cqsize(RING_COMPLETIONS).setup_clamp();
        if self.coop_taskrun {
            builder.setup_coop_taskrun();
        }
        if self.single_issuer {
            builder.setup_single_issuer();
        }
        if self.defer_taskrun {
            builder.setup_defer_taskrun();
        }
        builder
    }

    /// Every flag was taken (Linux 6.1).
    #[must_use]
    pub fn is_complete(self) -> bool {
        self == Self::with(true, true, true)
    }
}

impl fmt::Display for RingSetup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flags = [
            (self.single_issuer, "SINGLE_ISSUER"),
            (self.coop_taskrun, "COOP_TASKRUN"),
            (self.defer_taskrun, "DEFER_TASKRUN"),
        ];
        let set: Vec<&str> = flags
            .into_iter()
            .filter_map(|(set, name)| set.then_some(name))
            .collect();
        if set.is_empty() {
            return f.write_str("no setup flags");
        }
        f.write_str(&set.join(", "))
    }
}

impl fmt::Display for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usable(_) => f.write_str("io_uring"),
            Self::Refused(refusal) => write!(f, "epoll: {refusal}"),
        }
    }
}

impl fmt::Display for RingRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotInKernel => f.write_str("the kernel has no io_uring"),
            Self::TooOld => f.write_str("the kernel's io_uring is older than 5.19"),
            Self::NotInKernelOrSeccomp => {
                f.write_str("the kernel has no io_uring, or seccomp hides it")
            }
            Self::ForbiddenBySysctl(value) => write!(
                f,
                "io_uring is forbidden by the sysctl kernel.io_uring_disabled = {value}"
            ),
            Self::ForbiddenBySeccomp => f.write_str("io_uring is forbidden by seccomp"),
            Self::Forbidden => f.write_str("io_uring is forbidden to this process"),
            Self::Memory => f.write_str("the limit on locked memory is too low for io_uring"),
            Self::Descriptors => f.write_str("no descriptor is free for io_uring"),
            Self::Operations(names) => write!(
                f,
                "the kernel's io_uring is too old: it lacks {}",
                names.join(", ")
            ),
            Self::Call { name, errno } => {
                write!(f, "{name}: {}", io::Error::from_raw_os_error(*errno))
            }
        }
    }
}

impl RingRefusal {
    fn of(call: &'static str, error: &io::Error, policy: &Policy) -> Self {
        match error.raw_os_error() {
            Some(libc::ENOSYS) if policy.process.seccomp_filter => Self::NotInKernelOrSeccomp,
            Some(libc::ENOSYS) => Self::NotInKernel,
            Some(libc::EPERM | libc::EACCES) => match policy.io_uring_disabled {
                2 => Self::ForbiddenBySysctl(2),
                1 if !policy.process.sys_admin => Self::ForbiddenBySysctl(1),
                _ if policy.process.seccomp_filter => Self::ForbiddenBySeccomp,
                _ => Self::Forbidden,
            },
            Some(libc::ENOMEM) => Self::Memory,
            Some(libc::EMFILE | libc::ENFILE) => Self::Descriptors,
            errno => Self::Call {
                name: call,
                errno: errno.unwrap_or(0),
            },
        }
    }
}

/// What may stand behind an `EPERM`.
struct Policy {
    process: Process,
    io_uring_disabled: u8,
}

impl Policy {
    fn current() -> Self {
        let disabled = fs::read_to_string("/proc/sys/kernel/io_uring_disabled");
        Self {
            process: Process::current(),
            io_uring_disabled: disabled
                .ok()
                .and_then(|text| text.trim().parse().ok())
                .unwrap_or(0),
        }
    }
}

/// A filter may allow io_uring_setup and forbid the two other calls, so both are made.
fn exercise(ring: &mut IoUring) -> Result<(), RingRefusal> {
    let refusal = |call, error: io::Error| RingRefusal::of(call, &error, &Policy::current());
    let mut probe = Probe::new();
    ring.submitter()
        .register_probe(&mut probe)
        .map_err(|error| match error.raw_os_error() {
            // Linux 5.1 to 5.5 cannot even be asked.
            Some(libc::EINVAL) => RingRefusal::Operations(vec!["PROBE"]),
            _ => refusal("io_uring_register", error),
        })?;
    let missing: Vec<&'static str> = OPERATIONS
        .iter()
        .filter(|(code, _)| !probe.is_supported(*code))
        .map(|(_, name)| *name)
        .collect();
    if !missing.is_empty() {
        return Err(RingRefusal::Operations(missing));
    }
    let no_operation = opcode::Nop::new().build().user_data(TOKEN);
    // SAFETY: a no-operation refers to no memory, so nothing needs to outlive its completion.
    let pushed = unsafe { ring.submission().push(&no_operation) };
    let lost = RingRefusal::Call {
        name: "io_uring_enter",
        errno: libc::EIO,
    };
    pushed.map_err(|_| lost.clone())?;
    ring.submit_and_wait(1)
        .map_err(|error| refusal("io_uring_enter", error))?;
    let completed = ring.completion().next().map(|entry| entry.user_data());
    if completed == Some(TOKEN) {
        Ok(())
    } else {
        Err(lost)
    }
}

/// What the runtime submits: what its own check asks for, and STATX, which it uses without asking.
const OPERATIONS: [(u8, &str); 18] = [
    (opcode::Accept::CODE, "ACCEPT"),
    (opcode::AsyncCancel::CODE, "ASYNC_CANCEL"),
    (opcode::Close::CODE, "CLOSE"),
    (opcode::Connect::CODE, "CONNECT"),
    (opcode::Fsync::CODE, "FSYNC"),
    (opcode::OpenAt::CODE, "OPENAT"),
    (opcode::PollAdd::CODE, "POLL_ADD"),
    (opcode::ProvideBuffers::CODE, "PROVIDE_BUFFERS"),
    (opcode::Read::CODE, "READ"),
    (opcode::Readv::CODE, "READV"),
    (opcode::Recv::CODE, "RECV"),
    (opcode::RecvMsg::CODE, "RECVMSG"),
    (opcode::Send::CODE, "SEND"),
    (opcode::SendMsg::CODE, "SENDMSG"),
    (opcode::Timeout::CODE, "TIMEOUT"),
    (opcode::Write::CODE, "WRITE"),
    (opcode::Writev::CODE, "WRITEV"),
    (opcode::Statx::CODE, "STATX"),
];

const TOKEN: u64 = 0x706f_7274;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_name_their_cause() {
        let policy = |io_uring_disabled, seccomp_filter, sys_admin| Policy {
            io_uring_disabled,
            process: Process {
                seccomp_filter,
                sys_admin,
                net_bind_service: false,
            },
        };
        let open = policy(0, false, false);
        let cases = [
            (
                libc::ENOSYS,
                policy(0, false, true),
                RingRefusal::NotInKernel,
            ),
            (
                libc::ENOSYS,
                policy(0, true, false),
                RingRefusal::NotInKernelOrSeccomp,
            ),
            (
                libc::EPERM,
                policy(2, true, true),
                RingRefusal::ForbiddenBySysctl(2),
            ),
            (
                libc::EPERM,
                policy(1, true, false),
                RingRefusal::ForbiddenBySysctl(1),
            ),
            (
                libc::EPERM,
                policy(1, true, true),
                RingRefusal::ForbiddenBySeccomp,
            ),
            (
                libc::EPERM,
                policy(0, true, false),
                RingRefusal::ForbiddenBySeccomp,
            ),
            (
                libc::EACCES,
                policy(0, false, false),
                RingRefusal::Forbidden,
            ),
            (libc::ENOMEM, policy(0, false, false), RingRefusal::Memory),
            (
                libc::EMFILE,
                policy(0, false, false),
                RingRefusal::Descriptors,
            ),
        ];
        for (errno, policy, expected) in cases {
            let error = io::Error::from_raw_os_error(errno);
            assert_eq!(RingRefusal::of("io_uring_setup", &error, &policy), expected);
        }
        let other = RingRefusal::of("call", &io::Error::from_raw_os_error(libc::EINVAL), &open);
        assert_eq!(other.to_string(), "call: Invalid argument (os error 22)");
    }

    #[test]
    fn the_probe_agrees_with_what_the_system_says() {
        match ring() {
            Ring::Usable(setup) => {
                // What was found must be usable by a worker, on its own thread.
                let built = std::thread::spawn(move || {
                    let ring = setup.builder().build(RING_SUBMISSIONS)?;
                    let parameters = ring.params();
                    io::Result::Ok((
                        parameters.is_setup_single_issuer(),
                        parameters.sq_entries(),
                        parameters.cq_entries(),
                    ))
                });
                assert_eq!(
                    built.join().unwrap().unwrap(),
                    (setup.single_issuer, RING_SUBMISSIONS, RING_COMPLETIONS)
                );
            }
            Ring::Refused(refusal) => {
                let error = IoUring::new(64).map(drop).unwrap_err();
                assert_eq!(
                    RingRefusal::of("io_uring_setup", &error, &Policy::current()),
                    refusal
                );
            }
        }
    }

    #[test]
    fn another_failure_is_named_with_its_call() {
        if matches!(ring(), Ring::Usable(_)) {
            let refused = RingRefusal::Call {
                name: "io_uring_setup",
                errno: libc::EINVAL,
            };
            assert_eq!(ring_of(0), Ring::Refused(refused));
        } else {
            assert!(matches!(ring_of(0), Ring::Refused(_)));
        }
    }

    #[test]
    fn outcomes_read_as_words() {
        let setup = RingSetup::with(true, true, true);
        assert_eq!(Ring::Usable(setup).to_string(), "io_uring");
        assert_eq!(
            setup.to_string(),
            "SINGLE_ISSUER, COOP_TASKRUN, DEFER_TASKRUN"
        );
        assert_eq!(RingSetup::default().to_string(), "no setup flags");
        let refused = Ring::Refused(RingRefusal::ForbiddenBySeccomp);
        assert_eq!(
            refused.to_string(),
            "epoll: io_uring is forbidden by seccomp"
        );
        let old = RingRefusal::Operations(vec!["READ", "STATX"]);
        assert_eq!(
            old.to_string(),
            "the kernel's io_uring is too old: it lacks READ, STATX"
        );
    }
}
