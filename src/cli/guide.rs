//! The pages of the tuning guide, for the commands that point into it.

/// A page of the tuning guide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guide {
    /// Accept queues and listeners.
    Accept,
    /// Busy polling.
    BusyPolling,
    /// Containers and control groups.
    Containers,
    /// Processors and clocks.
    Cpu,
    /// Firewall and connection tracking.
    Firewall,
    /// io_uring.
    IoUring,
    /// Interrupts and queues.
    Interrupts,
    /// Kernel TLS.
    KernelTls,
    /// Limits of resources.
    Limits,
    /// TCP.
    Tcp,
}

impl Guide {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Accept,
        Self::BusyPolling,
        Self::Containers,
        Self::Cpu,
        Self::Firewall,
        Self::IoUring,
        Self::Interrupts,
        Self::KernelTls,
        Self::Limits,
        Self::Tcp,
    ];

    /// Its file, from the project's root on.
    #[must_use]
    pub fn path(self) -> &'static str {
        match self {
            Self::Accept => "tuning/accept.md",
            Self::BusyPolling => "tuning/busy-polling.md",
            Self::Containers => "tuning/containers.md",
            Self::Cpu => "tuning/cpu.md",
            Self::Firewall => "tuning/firewall.md",
            Self::IoUring => "tuning/io_uring.md",
            Self::Interrupts => "tuning/irq.md",
            Self::KernelTls => "tuning/ktls.md",
            Self::Limits => "tuning/limits.md",
            Self::Tcp => "tuning/tcp.md",
        }
    }
}
