//! What this kernel does for TLS, and its own account of it.

use std::collections::BTreeMap;
use std::fs;
use std::sync::OnceLock;

use portcullis::sys::probe;

/// What kernel TLS can do here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KernelTls {
    /// There is none.
    Absent,
    /// All six suites, but keys cannot be changed (before Linux 6.14).
    WithoutRekey,
    /// All six suites and KeyUpdates.
    WithRekey,
}

/// What this kernel can do. In the lab the runner says what must be there, so that a kernel without
/// its module fails the tests instead of making them pass in user space.
pub(crate) fn kernel_tls() -> KernelTls {
    static FOUND: OnceLock<KernelTls> = OnceLock::new();
    *FOUND.get_or_init(|| {
        let found = probed();
        let wanted = std::env::var(KERNEL_TLS).ok();
        let shown = match found {
            KernelTls::Absent => "absent",
            KernelTls::WithoutRekey => "without-rekey",
            KernelTls::WithRekey => "with-rekey",
        };
        assert!(
            wanted.is_none() || wanted.as_deref() == Some(shown),
            "{KERNEL_TLS} is {wanted:?}, the probe says {shown}"
        );
        found
    })
}

/// Whether this is one of the lab's kernels, where a system call takes a hundred times longer.
pub(crate) fn is_lab() -> bool {
    std::env::var_os(KERNEL_TLS).is_some()
}

fn probed() -> KernelTls {
    let found = probe::kernel_tls();
    let is_whole = found.ulp.is_ok()
        && found
            .suites
            .iter()
            .all(|suite| suite.send.is_ok() && suite.receive.is_ok());
    if !is_whole {
        return KernelTls::Absent;
    }
    if found.rekey {
        KernelTls::WithRekey
    } else {
        KernelTls::WithoutRekey
    }
}

/// The kernel's own counters (Documentation/networking/tls.rst). They are those of the whole network
/// namespace: a test that compares them runs by itself, as in the lab all do.
#[derive(Debug, Default)]
pub(crate) struct TlsStatistics(BTreeMap<String, u64>);

impl TlsStatistics {
    /// The counters now.
    pub(crate) fn read() -> Self {
        // Its own connections are not to be counted between two reads.
        kernel_tls();
        let text = fs::read_to_string("/proc/net/tls_stat").unwrap_or_default();
        let parse = |line: &str| {
            let (name, value) = line.split_once(char::is_whitespace)?;
            Some((name.to_owned(), value.trim().parse().ok()?))
        };
        Self(text.lines().filter_map(parse).collect())
    }

    /// The counter `name`; zero where the kernel has none of that name.
    pub(crate) fn get(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or_default()
    }

    /// How much `name` has grown since `before`.
    pub(crate) fn since(&self, before: &Self, name: &str) -> u64 {
        self.get(name) - before.get(name)
    }
}

/// "absent", "without-rekey" or "with-rekey": what the tests must find.
const KERNEL_TLS: &str = "PORTCULLIS_TEST_KERNEL_TLS";
