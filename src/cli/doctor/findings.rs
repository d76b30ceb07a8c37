//! What the facts mean for a server, and what would mend them.

use crate::cli::doctor::facts::{Facts, Instructions, Limit, parse_release};
use crate::cli::doctor::kernel_bugs::known_bugs;
use crate::cli::doctor::surroundings::{clock, interfaces, pipes};
use crate::cli::doctor::{Finding, Guide, Level};
use crate::limits::{RING_COMPLETIONS, RING_SUBMISSIONS};
use crate::sys::probe::{self, KernelTls, Ring, RingRefusal};

/// Judges the facts, most basic first.
#[must_use]
pub fn findings(facts: &Facts) -> Vec<Finding> {
    let mut findings = vec![kernel(facts)];
    findings.extend(known_bugs(facts));
    findings.extend([io_uring(&facts.ring), kernel_tls(&facts.kernel_tls)]);
    if facts.kernel_tls.ulp.is_ok() {
        findings.extend(kernel_tls_suites(&facts.kernel_tls));
        findings.push(rekey(&facts.kernel_tls));
        findings.push(no_pad(&facts.kernel_tls));
    }
    findings.extend(interfaces(facts.interfaces.as_deref()));
    findings.extend([
        pipes(facts),
        descriptors(facts.descriptors),
        locked_memory(facts),
        accept_queue(facts.accept_queue_max),
        ports(facts),
        cpus(facts),
        instructions(facts.instructions),
        clock(facts),
    ]);
    findings
}

fn kernel(facts: &Facts) -> Finding {
    let Some(release) = &facts.kernel_release else {
        return Finding::unknown("kernel", Guide::KernelTls, "/proc/sys/kernel/osrelease");
    };
    let finding = Finding::good("kernel", Guide::KernelTls, release.clone());
    match parse_release(release) {
        Some(version) if version < KERNEL_MIN => finding.because(
            Level::Degraded,
            "Without openat2 (Linux 5.6) files are opened step by step, and no symbolic link is \
             followed.",
            "install Linux 5.6 or later; 6.1 or later is recommended.",
        ),
        _ => finding,
    }
}

fn io_uring(ring: &Ring) -> Finding {
    const EPOLL: &str = "epoll drives the sockets instead: more system calls per request.";
    let refusal = match ring {
        Ring::Usable(setup) => {
            let finding =
                Finding::good("io_uring", Guide::IoUring, format!("usable, with {setup}"));
            if setup.is_complete() {
                return finding;
            }
            return finding.because(
                Level::Degraded,
                "Without all of SINGLE_ISSUER, COOP_TASKRUN and DEFER_TASKRUN each request costs \
                 more CPU time.",
                "install Linux 6.1 or later.",
            );
        }
        Ring::Refused(refusal) => refusal,
    };
    let mend = match refusal {
        RingRefusal::NotInKernel | RingRefusal::TooOld | RingRefusal::Operations(_) => {
            "install Linux 6.1 or later, built with CONFIG_IO_URING."
        }
        RingRefusal::NotInKernelOrSeccomp | RingRefusal::ForbiddenBySeccomp => {
            "allow io_uring_setup, io_uring_enter and io_uring_register in the seccomp profile of \
             the container (--security-opt seccomp=FILE) or the service (SystemCallFilter=)."
        }
        RingRefusal::ForbiddenBySysctl(_) => {
            "sysctl -w kernel.io_uring_disabled=0; or set it to 1 and put the service's group into \
             kernel.io_uring_group."
        }
        RingRefusal::Forbidden => {
            "look for the denial in the audit log: a security module (SELinux, AppArmor) forbids \
             it."
        }
        RingRefusal::Memory => "raise the limit on locked memory (ulimit -l, LimitMEMLOCK=).",
        RingRefusal::Descriptors => "raise the limit on open files (ulimit -n, LimitNOFILE=).",
        RingRefusal::Call { .. } => "",
    };
    Finding::good("io_uring", Guide::IoUring, refusal.to_string()).because(
        Level::Degraded,
        EPOLL,
        mend,
    )
}

fn kernel_tls(tls: &KernelTls) -> Finding {
    match &tls.ulp {
        Ok(()) => Finding::good("kernel TLS", Guide::KernelTls, "available"),
        Err(refusal) => Finding::good("kernel TLS", Guide::KernelTls, refusal.to_string()).because(
            Level::Degraded,
            "TLS stays in user space: files and tunnels cost more CPU time, small responses do not.",
            "modprobe tls, and list tls in /etc/modules-load.d/; in a container, on its host. If \
             there is no such module, use a kernel built with CONFIG_TLS.",
        ),
    }
}

fn kernel_tls_suites(tls: &KernelTls) -> Vec<Finding> {
    let mut findings = Vec::new();
    for support in &tls.suites {
        let word = |outcome: Result<(), probe::TlsRefusal>| match outcome {
            Ok(()) => "yes".to_owned(),
            Err(refusal) => format!("no ({refusal})"),
        };
        let (version, cipher) = (support.suite.version, support.suite.aead);
        let (send, receive) = (word(support.send), word(support.receive));
        let finding = Finding::good(
            "kernel TLS",
            Guide::KernelTls,
            format!("{version} {cipher:<17}  send {send}, receive {receive}"),
        );
        findings.push(if support.send.and(support.receive).is_err() {
            finding.because(
                Level::Degraded,
                "Connections with this suite stay in user space in that direction.",
                "modprobe the cipher (gcm, chacha20poly1305), or use a later kernel.",
            )
        } else if support.is_slow {
            finding.because(
                Level::Degraded,
                "To send what the kernel seals takes more than twice the CPU time of sealing in user space, \
                 where the policy auto leaves this suite. Only a network card that seals would make always \
                 worth it.",
                "See in /proc/crypto whether the cipher has code for this processor. If not: modprobe \
                 aesni_intel on x86-64 or ghash-ce on ARM; for ChaCha20 chacha_x86_64 and poly1305_x86_64, \
                 or chacha_neon and poly1305_neon.",
            )
        } else {
            finding
        });
    }
    findings
}

fn rekey(tls: &KernelTls) -> Finding {
    if tls.rekey {
        return Finding::good(
            "kernel TLS",
            Guide::KernelTls,
            "TLS 1.3 keys can be replaced (KeyUpdate)",
        );
    }
    Finding::good(
        "kernel TLS",
        Guide::KernelTls,
        "TLS 1.3 keys cannot be replaced (KeyUpdate)",
    )
    .because(
        Level::Note,
        "A connection in the kernel whose peer sends a KeyUpdate, or whose key is used up, is \
         closed cleanly. Linux 6.14 and later can replace keys.",
        "",
    )
}

fn no_pad(tls: &KernelTls) -> Finding {
    if tls.no_pad {
        return Finding::good(
            "kernel TLS",
            Guide::KernelTls,
            "TLS 1.3 records can be decrypted in place (TLS_RX_EXPECT_NO_PAD)",
        );
    }
    Finding::good(
        "kernel TLS",
        Guide::KernelTls,
        "TLS 1.3 records cannot be decrypted in place",
    )
    .because(
        Level::Note,
        "Receiving through the kernel costs one more copy. Linux 6.0 and later can do without \
         (TLS_RX_EXPECT_NO_PAD).",
        "",
    )
}

fn descriptors(limit: Option<Limit>) -> Finding {
    let Some(limit) = limit else {
        return Finding::unknown("open files", Guide::Limits, "/proc/self/limits");
    };
    let finding = Finding::good("open files", Guide::Limits, format!("at most {limit}"));
    // The soft limit is raised to the hard one at the start.
    let most = limit.hard.unwrap_or(u64::MAX);
    if most < DESCRIPTORS_MIN {
        return finding.because(
            Level::Broken,
            "That is not enough for the workers' own descriptors.",
            "ulimit -Hn 65536, or LimitNOFILE=65536 in the service.",
        );
    }
    if most < DESCRIPTORS_RECOMMENDED {
        return finding.because(
            Level::Degraded,
            "Each connection takes two, each cached file one; connections beyond that are closed \
             as soon as they are accepted.",
            "ulimit -Hn 65536, or LimitNOFILE=65536 in the service.",
        );
    }
    finding
}

fn locked_memory(facts: &Facts) -> Finding {
    let Some(limit) = facts.locked_memory_bytes else {
        return Finding::unknown("locked memory", Guide::Limits, "/proc/self/limits");
    };
    let finding = Finding::good(
        "locked memory",
        Guide::Limits,
        format!("at most {limit} bytes"),
    );
    let version = facts.kernel_release.as_deref().and_then(parse_release);
    let counts_rings = version.is_some_and(|version| version < RINGS_UNCOUNTED_SINCE);
    let needed = RING_LOCKED_BYTES * facts.cpus_allowed.unwrap_or(1) as u64;
    if counts_rings && limit.soft.is_some_and(|bytes| bytes < needed) {
        return finding.because(
            Level::Degraded,
            "Before Linux 5.12 every worker's ring counts against it, so some may get none.",
            "ulimit -l unlimited, or LimitMEMLOCK=infinity in the service.",
        );
    }
    finding
}

fn accept_queue(connections: Option<u64>) -> Finding {
    let Some(connections) = connections else {
        return Finding::unknown(
            "accept queue",
            Guide::Accept,
            "/proc/sys/net/core/somaxconn",
        );
    };
    let finding = Finding::good(
        "accept queue",
        Guide::Accept,
        format!("at most {connections} connections"),
    );
    if connections < ACCEPT_QUEUE_RECOMMENDED {
        return finding.because(
            Level::Degraded,
            "A burst of new connections longer than that is dropped, and tried again by the \
             clients after a second.",
            "sysctl -w net.core.somaxconn=4096.",
        );
    }
    finding
}

fn ports(facts: &Facts) -> Finding {
    let Some(start) = facts.unprivileged_port_start else {
        return Finding::unknown(
            "ports",
            Guide::Limits,
            "/proc/sys/net/ipv4/ip_unprivileged_port_start",
        );
    };
    if facts.process.net_bind_service {
        return Finding::good(
            "ports",
            Guide::Limits,
            "all may be bound (CAP_NET_BIND_SERVICE)",
        );
    }
    let finding = Finding::good(
        "ports",
        Guide::Limits,
        format!("from {start} on may be bound"),
    );
    if start > HTTP_PORT {
        return finding.because(
            Level::Degraded,
            "The usual ports 80 and 443 are not all free to this user; `serve` takes 8443.",
            "AmbientCapabilities=CAP_NET_BIND_SERVICE in the service; setcap \
             cap_net_bind_service=ep on the binary; or sysctl -w \
             net.ipv4.ip_unprivileged_port_start=80.",
        );
    }
    finding
}

fn cpus(facts: &Facts) -> Finding {
    let Some(allowed) = facts.cpus_allowed else {
        return Finding::good("CPUs", Guide::Cpu, "unknown: sched_getaffinity fails").because(
            Level::Broken,
            "Workers cannot be placed.",
            "allow sched_getaffinity in the seccomp profile.",
        );
    };
    let Some(quota) = facts.cpu_quota else {
        return Finding::good("CPUs", Guide::Cpu, format!("{allowed} allowed, no quota"));
    };
    let finding = Finding::good(
        "CPUs",
        Guide::Containers,
        format!("{allowed} allowed, quota {quota:.2}"),
    );
    #[expect(clippy::cast_precision_loss, reason = "CPU counts are far below 2^52")]
    let short = quota < allowed as f64;
    if short {
        return finding.because(
            Level::Note,
            "The control group pauses the process when its quota is used up. No more workers are \
             started than the quota can keep busy.",
            "",
        );
    }
    finding
}

fn instructions(found: Instructions) -> Finding {
    let names: Vec<&str> = [
        (found.aes, "AES"),
        (found.carryless_multiply, "carry-less multiplication"),
        (found.vector_aes, "vector AES"),
    ]
    .into_iter()
    .filter_map(|(present, name)| present.then_some(name))
    .collect();
    if found.aes && found.carryless_multiply {
        return Finding::good("instructions", Guide::Cpu, names.join(", "));
    }
    let found = match names.join(", ") {
        none if none.is_empty() => "no AES".to_owned(),
        some => format!("only {some}"),
    };
    Finding::good("instructions", Guide::Cpu, found).because(
        Level::Degraded,
        "AES-GCM is computed without the processor's help, several times slower; \
         ChaCha20-Poly1305 is the better suite here.",
        "in a virtual machine, pass the host's processor through (-cpu host).",
    )
}

/// openat2(2).
const KERNEL_MIN: (u32, u32) = (5, 6);

/// Since then a ring's memory counts against the control group, not RLIMIT_MEMLOCK.
const RINGS_UNCOUNTED_SINCE: (u32, u32) = (5, 12);

/// A worker's ring: 64 bytes and a 4-byte index per submission, 16 bytes per completion, and the
/// queue heads.
const RING_LOCKED_BYTES: u64 = RING_SUBMISSIONS as u64 * 68 + RING_COMPLETIONS as u64 * 16 + 4096;

/// A worker takes about eight descriptors before its first connection.
const DESCRIPTORS_MIN: u64 = 64;
const DESCRIPTORS_RECOMMENDED: u64 = 8192;
const ACCEPT_QUEUE_RECOMMENDED: u64 = 1024;
const HTTP_PORT: u64 = 80;

#[cfg(test)]
pub(super) mod tests {
    use crate::cli::doctor::exit_code;
    use crate::sys::interfaces::{Interface, Offload};
    use crate::sys::probe::{Process, RingSetup, TlsRefusal};

    use super::*;

    #[test]
    fn the_kernels_shortfalls_have_their_level() {
        judge("kernel", Level::Degraded, |it| {
            it.kernel_release = release("5.4.0-1")
        });
        let recent = Facts {
            kernel_release: release("5.6-rc1"),
            ..good()
        };
        assert_eq!(kernel(&recent).level, Level::Good);
        judge("kernel", Level::Note, |it| it.kernel_release = None);
        judge("io_uring", Level::Degraded, |it| {
            it.ring = Ring::Usable(RingSetup::default());
        });
        judge("kernel TLS", Level::Degraded, |it| {
            it.kernel_tls = KernelTls::refused(TlsRefusal::NoModule);
        });
        judge("accept queue", Level::Degraded, |it| {
            it.accept_queue_max = Some(128)
        });
        judge("instructions", Level::Degraded, |it| {
            it.instructions.aes = false
        });
    }

    #[test]
    fn the_processs_shortfalls_have_their_level() {
        judge("open files", Level::Broken, |it| it.descriptors = limit(63));
        judge("open files", Level::Degraded, |it| {
            it.descriptors = limit(1024)
        });
        judge("locked memory", Level::Good, |it| {
            it.locked_memory_bytes = limit(65_536)
        });
        judge("locked memory", Level::Degraded, |it| {
            it.kernel_release = release("5.10.0");
            it.locked_memory_bytes = limit(65_536);
        });
        judge("ports", Level::Degraded, |it| {
            it.process.net_bind_service = false
        });
        judge("ports", Level::Good, |it| {
            it.process.net_bind_service = false;
            it.unprivileged_port_start = Some(0);
        });
        judge("CPUs", Level::Note, |it| it.cpu_quota = Some(1.5));
        judge("CPUs", Level::Good, |it| it.cpu_quota = Some(8.0));
        judge("CPUs", Level::Broken, |it| it.cpus_allowed = None);
    }

    pub(in crate::cli::doctor) fn judge(
        subject: &str,
        level: Level,
        change: impl FnOnce(&mut Facts),
    ) {
        let mut facts = good();
        change(&mut facts);
        let findings = findings(&facts);
        let finding = findings.iter().find(|finding| finding.subject == subject);
        let finding = finding.unwrap();
        assert_eq!(finding.level, level, "{finding:?}");
        assert_eq!(
            finding.meaning.is_empty(),
            level == Level::Good,
            "{finding:?}"
        );
        let exit = match level {
            Level::Good | Level::Note => 0,
            Level::Degraded => 1,
            Level::Broken => 2,
        };
        assert_eq!(exit_code(&findings), exit);
    }

    #[test]
    fn every_refusal_of_io_uring_that_can_be_mended_says_how() {
        let refusals = [
            RingRefusal::NotInKernel,
            RingRefusal::NotInKernelOrSeccomp,
            RingRefusal::ForbiddenBySysctl(1),
            RingRefusal::ForbiddenBySeccomp,
            RingRefusal::Forbidden,
            RingRefusal::Memory,
            RingRefusal::Descriptors,
            RingRefusal::Operations(vec!["STATX"]),
        ];
        for refusal in refusals {
            let finding = io_uring(&Ring::Refused(refusal));
            assert_eq!(finding.level, Level::Degraded);
            assert!(!finding.mend.is_empty(), "{finding:?}");
        }
    }

    #[test]
    fn a_suite_that_fails_one_way_says_which_and_why() {
        let mut tls = good().kernel_tls;
        tls.suites[2].receive = Err(TlsRefusal::WrongBytes);
        let findings = kernel_tls_suites(&tls);
        assert_eq!(findings[2].level, Level::Degraded);
        assert_eq!(
            findings[2].found,
            "TLS 1.2 ChaCha20-Poly1305  send yes, receive no (the kernel's records are wrong)"
        );
        assert_eq!(findings[1].level, Level::Good);
        tls.rekey = false;
        tls.no_pad = false;
        assert_eq!(
            (rekey(&tls).level, no_pad(&tls).level),
            (Level::Note, Level::Note)
        );
    }

    #[test]
    fn a_suite_that_the_kernel_seals_slowly_is_told() {
        let mut tls = good().kernel_tls;
        tls.suites[3].is_slow = true;
        let findings = kernel_tls_suites(&tls);
        let told: Vec<_> = findings.iter().map(|finding| finding.level).collect();
        let (good, slow) = (Level::Good, Level::Degraded);
        assert_eq!(told, [good, good, good, slow, good, good]);
        assert!(findings[3].mend.contains("aesni_intel"));
    }

    pub(in crate::cli::doctor) fn good() -> Facts {
        let mut kernel_tls = KernelTls::refused(TlsRefusal::NoModule);
        kernel_tls.ulp = Ok(());
        kernel_tls.rekey = true;
        kernel_tls.no_pad = true;
        for support in &mut kernel_tls.suites {
            support.send = Ok(());
            support.receive = Ok(());
        }
        Facts {
            kernel_release: release("7.2.1"),
            kernel_build: release("#1 SMP PREEMPT_DYNAMIC"),
            ring: Ring::Usable(RingSetup {
                coop_taskrun: true,
                single_issuer: true,
                defer_taskrun: true,
            }),
            kernel_tls,
            descriptors: Some(Limit {
                soft: Some(20_000),
                hard: None,
            }),
            locked_memory_bytes: limit(8_388_608),
            accept_queue_max: Some(4096),
            unprivileged_port_start: Some(1024),
            process: Process {
                seccomp_filter: false,
                sys_admin: false,
                net_bind_service: true,
            },
            cpus_allowed: Some(8),
            cpu_quota: None,
            instructions: Instructions {
                aes: true,
                carryless_multiply: true,
                vector_aes: true,
            },
            interfaces: Some(vec![Interface {
                name: "eth0".to_owned(),
                send: Offload::On,
                receive: Offload::On,
            }]),
            pipe_bytes_max: Some(1_048_576),
            pipe_user_pages_max: Some(16_384),
            clock_source: release("tsc"),
            is_clock_synchronised: Some(true),
        }
    }

    /// What counts is what a start raises the limit to.
    #[test]
    fn open_files_are_judged_by_the_hard_limit() {
        let limits = |soft, hard| {
            Some(Limit {
                soft: Some(soft),
                hard: Some(hard),
            })
        };
        for (soft, hard, level) in [
            (1, 65_536, Level::Good),
            (1024, 1024, Level::Degraded),
            (32, 32, Level::Broken),
        ] {
            judge("open files", level, |it| {
                it.descriptors = limits(soft, hard)
            });
        }
    }

    fn release(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    fn limit(value: u64) -> Option<Limit> {
        Some(Limit {
            soft: Some(value),
            hard: Some(value),
        })
    }
}
