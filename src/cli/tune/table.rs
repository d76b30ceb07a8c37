//! What the tuning guide recommends, as a table.

use super::knobs::{Knob, Place, Wanted, When};
use crate::cli::guide::Guide;

/// Every setting that is looked at, and the only ones that are ever written. Bounds are only raised.
/// Settings that hold back a default on purpose, or whose right value is a question of taste, are shown
/// and left alone.
pub const KNOBS: &[Knob] = &[
    // Settings of sysctl(8) with a value for everybody.
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
    // Accept queues.
    depends(
        sysctl(
            "net.ipv4.tcp_max_syn_backlog",
            Guide::Accept,
            "It counts only while tcp_syncookies is 0.",
        ),
        "with cookies on nothing asks for it",
    ),
    depends(
        sysctl(
            "net.ipv4.tcp_synack_retries",
            Guide::Accept,
            "Fewer forget vanished clients sooner.",
        ),
        "clients whose networks lose several packets in a row need them",
    ),
    depends(
        sysctl(
            "net.ipv4.tcp_fastopen",
            Guide::Accept,
            "0x402 saves returning clients a round trip.",
        ),
        "it concerns every service of the machine, and middleboxes may drop such SYNs",
    ),
    // TCP.
    depends(
        sysctl(
            "net.ipv4.tcp_mem",
            Guide::Tcp,
            "It bounds the buffers of all connections together.",
        ),
        "that memory cannot be anything else",
    ),
    depends(
        sysctl(
            "net.ipv4.tcp_congestion_control",
            Guide::Tcp,
            "bbr loses little speed to random losses.",
        ),
        "it decides how connections share lines with those of others",
    ),
    depends(
        sysctl(
            "net.core.default_qdisc",
            Guide::Tcp,
            "fq paces more cheaply than TCP's own timers.",
        ),
        "it holds for the whole machine, and interfaces that are there keep theirs",
    ),
    depends(
        sysctl(
            "net.ipv4.tcp_notsent_lowat",
            Guide::Tcp,
            "It bounds what is not yet sent.",
        ),
        "each connection of Portcullis has its own, notsent_low_water_bytes",
    ),
    depends(
        sysctl(
            "net.ipv4.ip_local_port_range",
            Guide::Tcp,
            "Connections to servers take their ports from it.",
        ),
        "ports that services listen on have to be kept out",
    ),
    depends(
        sysctl(
            "net.ipv4.tcp_tw_reuse",
            Guide::Tcp,
            "It lets ports of outgoing connections be taken again.",
        ),
        "connections to servers are kept for reuse, so few are new",
    ),
    depends(
        sysctl(
            "net.ipv4.tcp_max_orphans",
            Guide::Tcp,
            "Closed connections beyond it are reset.",
        ),
        "each takes memory that cannot be swapped out",
    ),
    // Interrupts, queues and steering.
    Knob {
        when: &[When::OneReceiveQueue],
        ..set(
            files(
                "rps_cpus",
                "sys/class/net/*/queues/rx-*/rps_cpus",
                Guide::Interrupts,
                "One CPU alone handles all packets of a card with one receive queue.",
            ),
            Wanted::Cpus,
        )
    },
    Knob {
        when: &[When::OneReceiveQueue],
        ..set(
            sysctl(
                "net.core.rps_sock_flow_entries",
                Guide::Interrupts,
                "Without it packets are not brought to the CPU of their connection's worker.",
            ),
            Wanted::AtLeast(FLOWS),
        )
    },
    Knob {
        when: &[When::OneReceiveQueue],
        ..set(
            files(
                "rps_flow_cnt",
                "sys/class/net/*/queues/rx-*/rps_flow_cnt",
                Guide::Interrupts,
                "A queue's share of net.core.rps_sock_flow_entries, which does nothing without it.",
            ),
            Wanted::AtLeast(FLOWS),
        )
    },
    Knob {
        when: &[When::QueueForEachCpu],
        ..set(
            files(
                "xps_cpus",
                "sys/class/net/*/queues/tx-*/xps_cpus",
                Guide::Interrupts,
                "CPUs that send by one queue wait for its lock.",
            ),
            Wanted::Cpus,
        )
    },
    depends(
        sysctl(
            "net.core.netdev_budget",
            Guide::Interrupts,
            "Packets that one turn of receiving may take.",
        ),
        "more helps when the third column of /proc/net/softnet_stat counts, and makes workers wait",
    ),
    depends(
        sysctl(
            "net.core.netdev_budget_usecs",
            Guide::Interrupts,
            "The time that such a turn may take.",
        ),
        "see net.core.netdev_budget",
    ),
    // Busy polling.
    depends(
        files(
            "napi_defer_hard_irqs",
            "sys/class/net/*/napi_defer_hard_irqs",
            Guide::BusyPolling,
            "With gro_flush_timeout it makes interrupts fewer and batches larger.",
        ),
        "a packet that comes alone waits longer",
    ),
    depends(
        files(
            "gro_flush_timeout",
            "sys/class/net/*/gro_flush_timeout",
            Guide::BusyPolling,
            "Nanoseconds between the polls that napi_defer_hard_irqs puts in place of interrupts.",
        ),
        "it is added to the latency of a packet that comes alone",
    ),
    depends(
        files(
            "threaded",
            "sys/class/net/*/threaded",
            Guide::BusyPolling,
            "Cards are polled by threads, which the scheduler can move and weigh.",
        ),
        "the threads need CPUs that workers leave to them",
    ),
    // Kernel TLS.
    set(
        Knob {
            place: Place::Module("tls"),
            ..sysctl(
                "tls",
                Guide::KernelTls,
                "Without it no connection can be handed to the kernel.",
            )
        },
        Wanted::Word {
            known: &[UNLOADED, LOADED],
            good: &[LOADED],
            set: LOADED,
        },
    ),
    // Processors, power and memory.
    Knob {
        when: &[
            When::Lacks("energy_performance_preference"),
            When::Offers("scaling_available_governors", "performance"),
        ],
        ..set(
            files(
                "scaling_governor",
                "sys/devices/system/cpu/cpufreq/policy*/scaling_governor",
                Guide::Cpu,
                "A handshake is over before some governors see that a CPU is busy.",
            ),
            Wanted::Word {
                known: &[
                    "performance",
                    "powersave",
                    "userspace",
                    "ondemand",
                    "conservative",
                    "schedutil",
                ],
                good: &["performance"],
                set: "performance",
            },
        )
    },
    Knob {
        when: &[When::Offers(
            "energy_performance_available_preferences",
            "balance_performance",
        )],
        ..set(
            files(
                "energy_performance_preference",
                "sys/devices/system/cpu/cpufreq/policy*/energy_performance_preference",
                Guide::Cpu,
                "The processor prefers saving power to becoming fast when a burst comes.",
            ),
            Wanted::Word {
                known: &[
                    "default",
                    "performance",
                    "balance_performance",
                    "balance_power",
                    "power",
                ],
                good: &["performance", "balance_performance"],
                set: "balance_performance",
            },
        )
    },
    Knob {
        when: &[When::BesideAtLeast("latency", DEEP_IDLE_US)],
        ..left(
            set(
                files(
                    "cpuidle",
                    "sys/devices/system/cpu/cpu*/cpuidle/state*/disable",
                    Guide::Cpu,
                    "A CPU needs 100 microseconds and more to wake up from this state.",
                ),
                Wanted::Exactly(1),
            ),
            "without it every idle CPU takes more power at all times",
        )
    },
    left(
        set(
            files(
                "smt",
                "sys/devices/system/cpu/smt/control",
                Guide::Cpu,
                "With both threads of a core, one works while the other waits for memory.",
            ),
            Wanted::Word {
                known: &["on", "off", "forceoff", "notsupported", "notimplemented"],
                good: &["on", "notsupported", "notimplemented"],
                set: "on",
            },
        ),
        "some switch it off because threads of a core can observe each other",
    ),
    Knob {
        when: &[When::SeveralNodes],
        ..left(
            set(
                sysctl(
                    "kernel.numa_balancing",
                    Guide::Cpu,
                    "Pinned workers need no balancing, and pay for its faults.",
                ),
                Wanted::Exactly(0),
            ),
            "services that do move fare worse without it",
        )
    },
    left(
        set(
            files(
                "current_clocksource",
                "sys/devices/system/clocksource/clocksource0/current_clocksource",
                Guide::Cpu,
                "Each reading is a system call and an access to a device.",
            ),
            Wanted::Word {
                known: &[
                    "tsc",
                    "kvm-clock",
                    "hyperv_clocksource_tsc_page",
                    "xen",
                    "arch_sys_counter",
                    "hyperv_clocksource_msr",
                    "hpet",
                    "acpi_pm",
                    "pit",
                    "jiffies",
                    "refined-jiffies",
                ],
                good: &[
                    "tsc",
                    "kvm-clock",
                    "hyperv_clocksource_tsc_page",
                    "xen",
                    "arch_sys_counter",
                ],
                set: "tsc",
            },
        ),
        "the kernel has had a reason not to trust the better one; its log has it",
    ),
    left(
        set(
            files(
                "transparent_hugepage",
                "sys/kernel/mm/transparent_hugepage/enabled",
                Guide::Cpu,
                "With `always` memory that is freed in pieces stays resident in units of 2 MiB.",
            ),
            Wanted::Word {
                known: &["always", "madvise", "never"],
                good: &["madvise", "never"],
                set: "madvise",
            },
        ),
        "another service may gain by it",
    ),
    depends(
        boot(
            "init_on_alloc",
            "At 1 the kernel zeroes every page and object before it gives them out.",
        ),
        "it keeps leftovers of memory from whoever gets it next: a decision about security",
    ),
    depends(
        boot(
            "mitigations",
            "`off` makes system calls cheaper on some processors, and leaks secrets.",
        ),
        "this process holds private keys: a decision about security",
    ),
    // Firewall.
    depends(
        sysctl(
            "net.netfilter.nf_conntrack_buckets",
            Guide::Firewall,
            "Fewer than entries make chains longer.",
        ),
        "changing it moves every entry; as many as entries are expected is enough",
    ),
    depends(
        sysctl(
            "net.netfilter.nf_conntrack_tcp_timeout_established",
            Guide::Firewall,
            "Entries of connections whose ends vanished live that long.",
        ),
        "connections of other services may be silent for longer",
    ),
    // Limits of the machine and of the service.
    depends(
        sysctl(
            "net.ipv4.ip_unprivileged_port_start",
            Guide::Limits,
            "Ports from it on need no capability.",
        ),
        "any user may take such a port: a decision about security",
    ),
    left(
        set(
            service(
                "RLIMIT_NOFILE",
                Place::Limit {
                    line: "Max open files",
                    unit: "LimitNOFILE=1048576",
                },
                Guide::Limits,
                "Connections of each worker are lowered to what it leaves.",
            ),
            Wanted::AtLeastOr(1_048_576, "unlimited"),
        ),
        UNIT,
    ),
    Knob {
        when: &[When::KernelBefore(5, 12)],
        ..left(
            set(
                service(
                    "RLIMIT_MEMLOCK",
                    Place::Limit {
                        line: "Max locked memory",
                        unit: "LimitMEMLOCK=64M",
                    },
                    Guide::Limits,
                    "Before Linux 5.12 rings count against it, and workers without one use epoll.",
                ),
                Wanted::AtLeastOr(67_108_864, "unlimited"),
            ),
            UNIT,
        )
    },
    left(
        set(
            service(
                "pids.max",
                Place::Group {
                    unit: "TasksMax=infinity",
                },
                Guide::Limits,
                "Workers, threads for files and logs, and the kernel's for io_uring all count.",
            ),
            Wanted::AtLeastOr(TASKS, "max"),
        ),
        UNIT,
    ),
    left(
        set(
            service(
                "memory.high",
                Place::Group {
                    unit: "MemoryHigh=infinity",
                },
                Guide::Limits,
                "Above it the service is slowed; buffers of sockets and files that are cached count.",
            ),
            Wanted::Unbounded,
        ),
        "a bound keeps other services alive; leave room for the files that it serves",
    ),
    left(
        set(
            service(
                "memory.max",
                Place::Group {
                    unit: "MemoryMax=infinity",
                },
                Guide::Limits,
                "At it the service is killed; buffers of sockets and files that are cached count.",
            ),
            Wanted::Unbounded,
        ),
        "a bound keeps other services alive; leave room for the files that it serves",
    ),
    left(
        set(
            service(
                "cpu.max",
                Place::Group { unit: "CPUQuota=" },
                Guide::Containers,
                "When it is used up, every connection stops until the period of 100 ms ends.",
            ),
            Wanted::Unbounded,
        ),
        "who shares the machine decides; CPUWeight= shares it without stopping anybody",
    ),
];

/// See [`Place::Module`].
pub(super) const LOADED: &str = "loaded";
/// See [`Place::Module`].
pub(super) const UNLOADED: &str = "unloaded";

const fn knob(name: &'static str, wanted: Wanted, guide: Guide, why: &'static str) -> Knob {
    set(sysctl(name, guide, why), wanted)
}

const fn sysctl(name: &'static str, guide: Guide, why: &'static str) -> Knob {
    service(name, Place::Sysctl, guide, why)
}

const fn files(name: &'static str, pattern: &'static str, guide: Guide, why: &'static str) -> Knob {
    service(name, Place::Files(pattern), guide, why)
}

const fn boot(name: &'static str, why: &'static str) -> Knob {
    service(name, Place::BootParameter, Guide::Cpu, why)
}

const fn service(name: &'static str, place: Place, guide: Guide, why: &'static str) -> Knob {
    Knob {
        name,
        place,
        when: &[],
        wanted: Wanted::Depends,
        guide,
        why,
        left_because: None,
    }
}

const fn set(mut knob: Knob, wanted: Wanted) -> Knob {
    knob.wanted = wanted;
    knob
}

const fn left(mut knob: Knob, because: &'static str) -> Knob {
    knob.left_because = Some(because);
    knob
}

const fn depends(knob: Knob, because: &'static str) -> Knob {
    left(set(knob, Wanted::Depends), because)
}

/// Entries for receive flow steering, in all and of a card's only queue: what the kernel's documentation
/// suggests for a moderately loaded server (Documentation/networking/scaling.rst).
const FLOWS: u64 = 32_768;

/// From it on an idle state is deep: packets of a fast line come more often.
const DEEP_IDLE_US: u64 = 100;

/// Four for each worker of 256 CPUs.
const TASKS: u64 = 1024;

const UNIT: &str = "it is set where the service is started";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_knob_is_one_setting_with_a_reason() {
        let mut names: Vec<&str> = KNOBS.iter().map(|knob| knob.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), KNOBS.len());
        for knob in KNOBS {
            let name = knob.name;
            assert!(knob.why.ends_with('.'), "{name}");
            let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
            assert!(name.bytes().all(is_plain), "{name}");
            assert!(!name.contains(".."), "{name}");
        }
    }

    #[test]
    fn what_can_be_written_is_written_as_it_would_be_read() {
        for knob in KNOBS {
            let name = knob.name;
            let is_writable = matches!(
                knob.place,
                Place::Sysctl | Place::Files(_) | Place::Module(_)
            );
            assert!(is_writable || knob.left_because.is_some(), "{name}");
            let is_sound = if let Wanted::Word { known, good, set } = knob.wanted {
                good.contains(&set) && good.iter().all(|word| known.contains(word))
            } else {
                let is_sound = |value| knob.wanted.is_sound(value);
                knob.left_because.is_some() || is_sound("1") || is_sound("1 1 1")
            };
            assert!(is_sound, "{name}");
            if let Place::Files(pattern) = knob.place {
                let is_once = |part: &str| part.matches('*').count() <= 1 && !part.is_empty();
                assert!(pattern.split('/').all(is_once), "{name}");
            }
        }
    }
}
