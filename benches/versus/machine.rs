//! The machine a result belongs to.

use std::fs;
use std::process::Command;

use serde::Serialize;

use crate::Failure;
use crate::arguments::Arguments;
use crate::tools;

/// What a reader needs to know about it.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    pub(crate) kernel: String,
    pub(crate) cpu_model: String,
    pub(crate) cpus: usize,
    /// The CPUs that share the server's physical core; the load's should not be among them.
    pub(crate) server_cpu_siblings: String,
    /// Whether softirqs are left out of threads' CPU time: the kernel's
    /// CONFIG_IRQ_TIME_ACCOUNTING; `None` when its configuration cannot be read.
    pub(crate) softirqs_apart: Option<bool>,
}

impl Machine {
    pub(crate) fn look(arguments: &Arguments) -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let models: Vec<&str> = cpuinfo
            .lines()
            .filter(|line| line.starts_with("model name"))
            .filter_map(|line| Some(line.split_once(':')?.1.trim()))
            .collect();
        let siblings = format!(
            "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list",
            arguments.server_cpu
        );
        let kernel = one_line("/proc/sys/kernel/osrelease");
        Self {
            cpu_model: models.first().map_or("unknown", |model| model).to_owned(),
            cpus: cpuinfo
                .lines()
                .filter(|line| line.starts_with("processor"))
                .count(),
            server_cpu_siblings: one_line(&siblings),
            softirqs_apart: softirqs_apart(&kernel),
            kernel,
        }
    }
}

/// The connections that servers can be expected to hold, by the limit of open files: a proxy has two
/// descriptors for each, and some more of its own.
pub(crate) fn connections_max() -> Result<u32, Failure> {
    let limits = fs::read_to_string("/proc/self/limits")?;
    let hard = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))
        .and_then(|line| line.split_ascii_whitespace().nth(1))
        .ok_or("no open files in /proc/self/limits")?;
    // "unlimited" is no number.
    Ok(hard.parse().map_or(u32::MAX, |hard: u64| {
        let connections = (hard / 2).saturating_sub(DESCRIPTORS_SPARE);
        u32::try_from(connections).unwrap_or(u32::MAX)
    }))
}

fn one_line(file: &str) -> String {
    fs::read_to_string(file).map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

fn softirqs_apart(kernel: &str) -> Option<bool> {
    let zcat = || tools::all_output(Command::new("zcat").arg("/proc/config.gz")).ok();
    let config = fs::read_to_string(format!("/boot/config-{kernel}"))
        .ok()
        .or_else(zcat)?;
    if config
        .lines()
        .any(|line| line == "CONFIG_IRQ_TIME_ACCOUNTING=y")
    {
        return Some(true);
    }
    config
        .lines()
        .any(|line| line == "# CONFIG_IRQ_TIME_ACCOUNTING is not set")
        .then_some(false)
}

/// Why there are fewer connections than there could be.
pub(crate) const FEW_FILES: &str = "the limit of open files is low (ulimit -Hn)";

const DESCRIPTORS_SPARE: u64 = 600;
