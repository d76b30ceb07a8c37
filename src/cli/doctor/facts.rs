//! What the machine says, as data.

use std::fmt;
use std::fs;

use crate::sys::interfaces::{self, Interface};
use crate::sys::probe::{self, KernelTls, Process, Ring};
use crate::sys::{clock, cpu};

/// What was found out about the machine. `None`: it could not be read.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The kernel's release, as `uname -r` prints it.
    pub kernel_release: Option<String>,
    /// How it was built, as `uname -v` prints it.
    pub kernel_build: Option<String>,
    /// io_uring.
    pub ring: Ring,
    /// Kernel TLS.
    pub kernel_tls: KernelTls,
    /// Descriptors the process may have open (RLIMIT_NOFILE).
    pub descriptors: Option<Limit>,
    /// Bytes the process may lock (RLIMIT_MEMLOCK).
    pub locked_memory_bytes: Option<Limit>,
    /// The longest accept queue (net.core.somaxconn), in connections.
    pub accept_queue_max: Option<u64>,
    /// The first port that needs no privilege (net.ipv4.ip_unprivileged_port_start).
    pub unprivileged_port_start: Option<u64>,
    /// What the process may do.
    pub process: Process,
    /// How many CPUs the process may run on.
    pub cpus_allowed: Option<usize>,
    /// The CPU time its control group allows, in CPUs; `None`: as much as there is.
    pub cpu_quota: Option<f64>,
    /// The processor's instructions for AEAD ciphers.
    pub instructions: Instructions,
    /// What network interfaces can do about TLS.
    pub interfaces: Option<Vec<Interface>>,
    /// The largest pipe (fs.pipe-max-size), in bytes.
    pub pipe_bytes_max: Option<u64>,
    /// What the pipes of a user without privileges may hold (fs.pipe-user-pages-soft), in pages; 0 is
    /// unlimited.
    pub pipe_user_pages_max: Option<u64>,
    /// What the kernel reads the time from.
    pub clock_source: Option<String>,
    /// Whether something keeps the time right.
    pub is_clock_synchronised: Option<bool>,
}

/// A resource limit; `None` is unlimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// What applies.
    pub soft: Option<u64>,
    /// What the process may raise it to.
    pub hard: Option<u64>,
}

/// The processor's instructions for AEAD ciphers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instructions {
    /// AES rounds (AES-NI; the AES extension of ARMv8).
    pub aes: bool,
    /// Carry-less multiplication, for GCM's authentication (PCLMULQDQ; PMULL).
    pub carryless_multiply: bool,
    /// AES on several blocks at once (VAES).
    pub vector_aes: bool,
}

impl Facts {
    /// Asks the machine. Takes a few milliseconds and changes nothing.
    #[must_use]
    pub fn gather() -> Self {
        let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
        Self {
            kernel_release: read_text("/proc/sys/kernel/osrelease"),
            kernel_build: read_text("/proc/sys/kernel/version"),
            ring: probe::ring(),
            kernel_tls: probe::kernel_tls(),
            descriptors: parse_limit(&limits, "Max open files"),
            locked_memory_bytes: parse_limit(&limits, "Max locked memory"),
            accept_queue_max: read_number("/proc/sys/net/core/somaxconn"),
            unprivileged_port_start: read_number("/proc/sys/net/ipv4/ip_unprivileged_port_start"),
            process: Process::current(),
            cpus_allowed: cpu::allowed().ok().map(|cpus| cpus.len()),
            cpu_quota: cpu::quota(),
            instructions: Instructions::of_this_processor(),
            interfaces: interfaces::interfaces().ok(),
            pipe_bytes_max: read_number("/proc/sys/fs/pipe-max-size"),
            pipe_user_pages_max: read_number("/proc/sys/fs/pipe-user-pages-soft"),
            clock_source: clock::source().ok(),
            is_clock_synchronised: clock::is_synchronised().ok(),
        }
    }
}

impl Instructions {
    /// Asks the processor.
    #[cfg(target_arch = "x86_64")]
    #[must_use]
    pub fn of_this_processor() -> Self {
        Self {
            aes: std::arch::is_x86_feature_detected!("aes"),
            carryless_multiply: std::arch::is_x86_feature_detected!("pclmulqdq"),
            vector_aes: std::arch::is_x86_feature_detected!("vaes"),
        }
    }

    /// Asks the processor.
    #[cfg(target_arch = "aarch64")]
    #[must_use]
    pub fn of_this_processor() -> Self {
        Self {
            aes: std::arch::is_aarch64_feature_detected!("aes"),
            carryless_multiply: std::arch::is_aarch64_feature_detected!("pmull"),
            vector_aes: false,
        }
    }

    /// No such instructions are known on this architecture.
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    #[must_use]
    pub fn of_this_processor() -> Self {
        Self {
            aes: false,
            carryless_multiply: false,
            vector_aes: false,
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = |value: Option<u64>| value.map_or("unlimited".to_owned(), |n| n.to_string());
        if self.soft == self.hard {
            return f.write_str(&word(self.soft));
        }
        write!(
            f,
            "{} (may be raised to {})",
            word(self.soft),
            word(self.hard)
        )
    }
}

/// A line of /proc/PID/limits (proc(5)): the name, then soft and hard limit and the unit, in
/// columns.
pub(in crate::cli) fn parse_limit(text: &str, name: &str) -> Option<Limit> {
    let mut values = text
        .lines()
        .find_map(|line| line.strip_prefix(name))?
        .split_ascii_whitespace()
        .map(|word| match word {
            "unlimited" => Some(None),
            number => number.parse().ok().map(Some),
        });
    Some(Limit {
        soft: values.next()??,
        hard: values.next()??,
    })
}

/// Major and minor version of a release such as "6.1.0-18-cloud-amd64" or "7.2-rc3".
pub(in crate::cli) fn parse_release(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release
        .split(|character: char| !character.is_ascii_digit())
        .map(|digits| digits.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

fn read_text(path: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    Some(text.trim().to_owned())
}

fn read_number(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_examined_without_a_gap() {
        let facts = Facts::gather();
        assert!(
            facts
                .kernel_release
                .as_deref()
                .and_then(parse_release)
                .is_some()
        );
        assert!(facts.descriptors.is_some() && facts.locked_memory_bytes.is_some());
        assert!(facts.accept_queue_max.is_some() && facts.unprivileged_port_start.is_some());
        assert!(facts.cpus_allowed.unwrap() > 0);
        assert!(facts.pipe_bytes_max.is_some() && facts.pipe_user_pages_max.is_some());
        assert!(facts.kernel_build.is_some() && facts.interfaces.is_some());
    }

    #[test]
    fn limits_are_read_from_their_columns() {
        let text = "\
Limit                     Soft Limit           Hard Limit           Units
Max processes             96000                96000                processes
Max open files            1024                 524288               files
Max locked memory         unlimited            unlimited            bytes
Max address space         unlimited
Max pending signals       many                 2                    signals
";
        let limit = |soft, hard| Some(Limit { soft, hard });
        assert_eq!(
            parse_limit(text, "Max open files"),
            limit(Some(1024), Some(524_288))
        );
        assert_eq!(parse_limit(text, "Max locked memory"), limit(None, None));
        for absent in [
            "Max address space",
            "Max pending signals",
            "Max nice priority",
        ] {
            assert_eq!(parse_limit(text, absent), None, "{absent}");
        }
    }

    #[test]
    fn releases_give_their_version() {
        assert_eq!(parse_release("6.1.0-18-cloud-amd64"), Some((6, 1)));
        assert_eq!(parse_release("7.2-rc3"), Some((7, 2)));
        for nonsense in ["", "six", "6", "99999999999.1"] {
            assert_eq!(parse_release(nonsense), None, "{nonsense}");
        }
    }
}
