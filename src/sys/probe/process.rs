//! What the kernel says of this thread's powers, in /proc/thread-self/status (proc(5)).

use std::fs;

/// The powers of the calling thread; what cannot be read counts as absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Process {
    /// A seccomp filter judges every system call.
    pub seccomp_filter: bool,
    /// CAP_SYS_ADMIN is in effect.
    pub sys_admin: bool,
    /// CAP_NET_BIND_SERVICE is in effect: ports below net.ipv4.ip_unprivileged_port_start may be
    /// bound.
    pub net_bind_service: bool,
}

impl Process {
    /// Of the calling thread: filters and capabilities are a thread's, not the process's.
    #[must_use]
    pub fn current() -> Self {
        fs::read_to_string("/proc/thread-self/status")
            .map(|status| Self::parse(&status))
            .unwrap_or_default()
    }

    fn parse(status: &str) -> Self {
        let value = |name: &str| {
            status.lines().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                (key == name).then(|| value.trim())
            })
        };
        let capabilities = value("CapEff")
            .and_then(|hexadecimal| u64::from_str_radix(hexadecimal, 16).ok())
            .unwrap_or(0);
        Self {
            seccomp_filter: value("Seccomp") == Some(SECCOMP_MODE_FILTER),
            sys_admin: capabilities >> CAP_SYS_ADMIN & 1 == 1,
            net_bind_service: capabilities >> CAP_NET_BIND_SERVICE & 1 == 1,
        }
    }
}

/// From include/uapi/linux/capability.h.
const CAP_NET_BIND_SERVICE: u32 = 10;
const CAP_SYS_ADMIN: u32 = 21;

/// From include/uapi/linux/seccomp.h, as proc(5) shows it.
const SECCOMP_MODE_FILTER: &str = "2";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_are_read_from_the_status() {
        let status = "Name:\tx\nCapEff:\t0000000000200400\nNoNewPrivs:\t1\nSeccomp:\t2\n";
        let all = Process {
            seccomp_filter: true,
            sys_admin: true,
            net_bind_service: true,
        };
        assert_eq!(Process::parse(status), all);
        let status = "CapInh:\tffffffffffffffff\nCapEff:\t0000000000000400\nSeccomp:\t0\n";
        let only_ports = Process {
            net_bind_service: true,
            ..Process::default()
        };
        assert_eq!(Process::parse(status), only_ports);
        for nothing in ["", "CapEff: zz\nSeccomp:", "Seccomp_filters: 2\nx"] {
            assert_eq!(Process::parse(nothing), Process::default());
        }
    }
}
