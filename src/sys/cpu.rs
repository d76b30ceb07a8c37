//! The CPUs this process may use: which ones, and how much of their time.

#![expect(
    unsafe_code,
    reason = "sched_getaffinity and sched_setaffinity with masks of any length"
)]

use std::fs;
use std::io;
use std::mem::size_of_val;
use std::path::{Component, Path, PathBuf};

/// The CPUs the calling thread may run on, in ascending order (sched_getaffinity(2)). The mask grows
/// until the kernel's fits, so there is no highest CPU number.
///
/// # Errors
///
/// Those of sched_getaffinity(2); `OutOfMemory` for a kernel that claims more than 2^20 CPUs.
pub fn allowed() -> io::Result<Vec<usize>> {
    let mut words = MASK_WORDS_FIRST;
    while words <= MASK_WORDS_MAX {
        let mut mask: Vec<libc::c_ulong> = vec![0; words];
        // SAFETY: sched_getaffinity writes at most the given number of bytes to the mask, which is
        // exactly that long and aligned as cpu_set_t (an array of c_ulong); 0 is this thread.
        let result = unsafe {
            libc::sched_getaffinity(0, size_of_val(mask.as_slice()), mask.as_mut_ptr().cast())
        };
        if result == 0 {
            return Ok(cpus_of(&mask));
        }
        let error = io::Error::last_os_error();
        // EINVAL: the mask is smaller than the kernel's.
        if error.raw_os_error() != Some(libc::EINVAL) {
            return Err(error);
        }
        words *= 2;
    }
    Err(io::ErrorKind::OutOfMemory.into())
}

/// Binds the calling thread to one CPU (sched_setaffinity(2)).
///
/// # Errors
///
/// `EINVAL`: the CPU does not exist, is offline, or is outside the process's cpuset.
pub fn pin_current_thread(cpu: usize) -> io::Result<()> {
    let mask = mask_of(cpu).ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
    // SAFETY: sched_setaffinity reads the given number of bytes from the mask, which is exactly that
    // long and aligned as cpu_set_t (an array of c_ulong), and keeps nothing; 0 is this thread.
    let result =
        unsafe { libc::sched_setaffinity(0, size_of_val(mask.as_slice()), mask.as_ptr().cast()) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The CPU time this process may use, in CPUs (1.5: one and a half), as set by its control group and
/// the groups above it: the smallest `cpu.max` (version 2) or `cpu.cfs_quota_us` (version 1). `None`
/// when nothing limits it, or when the control group file system cannot be read.
#[must_use]
pub fn quota() -> Option<f64> {
    let membership = fs::read_to_string("/proc/self/cgroup").ok()?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    cpu_groups(&membership, &mounts)
        .iter()
        .filter_map(quota_of)
        .min_by(f64::total_cmp)
}

/// A control group directory that may hold a CPU limit, with the format of its files.
#[derive(Clone, Debug, PartialEq, Eq)]
enum CpuGroup {
    /// Version 1, controller `cpu`: `cpu.cfs_quota_us` and `cpu.cfs_period_us`.
    V1(PathBuf),
    /// Version 2: `cpu.max`.
    V2(PathBuf),
}

fn quota_of(group: &CpuGroup) -> Option<f64> {
    match group {
        CpuGroup::V1(directory) => {
            let quota = fs::read_to_string(directory.join("cpu.cfs_quota_us")).ok()?;
            let period = fs::read_to_string(directory.join("cpu.cfs_period_us")).ok()?;
            ratio(&quota, &period)
        }
        CpuGroup::V2(directory) => {
            parse_cpu_max(&fs::read_to_string(directory.join("cpu.max")).ok()?)
        }
    }
}

/// `cpu.max`: `QUOTA PERIOD` in microseconds, or `max PERIOD` (kernel: admin-guide/cgroup-v2.rst).
fn parse_cpu_max(text: &str) -> Option<f64> {
    let mut words = text.split_ascii_whitespace();
    ratio(words.next()?, words.next()?)
}

/// `max` (version 2) and -1 (version 1) mean no limit and give `None`.
fn ratio(quota_us: &str, period_us: &str) -> Option<f64> {
    let quota_us: u32 = quota_us.trim().parse().ok()?;
    let period_us: u32 = period_us.trim().parse().ok()?;
    (quota_us > 0 && period_us > 0).then(|| f64::from(quota_us) / f64::from(period_us))
}

/// The directories of this process's control group and its ancestors, as far as they are mounted
/// here, from /proc/self/cgroup (`ID:CONTROLLERS:PATH`) and /proc/self/mountinfo (proc(5)).
fn cpu_groups(membership: &str, mounts: &str) -> Vec<CpuGroup> {
    let mut groups = Vec::new();
    for line in membership.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(id), Some(controllers), Some(path)) =
            (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        if id == "0" && controllers.is_empty() {
            let found = directories(path, mounts, |kind, _| kind == "cgroup2");
            groups.extend(found.into_iter().map(CpuGroup::V2));
        } else if names_cpu(controllers) {
            let found = directories(path, mounts, |kind, options| {
                kind == "cgroup" && names_cpu(options)
            });
            groups.extend(found.into_iter().map(CpuGroup::V1));
        }
    }
    groups
}

fn names_cpu(list: &str) -> bool {
    list.split(',').any(|name| name == "cpu")
}

/// From the group `path` up to the root of each mount that `wanted` (file system type, its options)
/// picks.
fn directories(path: &str, mounts: &str, wanted: impl Fn(&str, &str) -> bool) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for line in mounts.lines() {
        // 36 35 98:0 ROOT MOUNT_POINT OPTIONS [TAG ...] - TYPE SOURCE SUPER_OPTIONS
        let Some((mount, file_system)) = line.split_once(" - ") else {
            continue;
        };
        let mut file_system = file_system.split(' ');
        let (Some(kind), Some(options)) = (file_system.next(), file_system.nth(1)) else {
            continue;
        };
        let mut mount = mount.split(' ').skip(3);
        let (Some(root), Some(mount_point)) = (mount.next(), mount.next()) else {
            continue;
        };
        if !wanted(kind, options) {
            continue;
        }
        // A container may see only its own part of the hierarchy mounted (root = its group), and a
        // control group namespace shows paths outside of it as `/..`.
        let inner = Path::new(path).strip_prefix(root).unwrap_or(Path::new(""));
        let inner: PathBuf = inner
            .components()
            .filter(|part| matches!(part, Component::Normal(_)))
            .collect();
        for above in inner.ancestors() {
            found.push(Path::new(mount_point).join(above));
        }
    }
    found
}

fn cpus_of(mask: &[libc::c_ulong]) -> Vec<usize> {
    let mut cpus = Vec::new();
    for (position, word) in mask.iter().enumerate() {
        for bit in 0..WORD_BITS {
            if word >> bit & 1 == 1 {
                cpus.push(position * WORD_BITS + bit);
            }
        }
    }
    cpus
}

fn mask_of(cpu: usize) -> Option<Vec<libc::c_ulong>> {
    let position = cpu / WORD_BITS;
    if position >= MASK_WORDS_MAX {
        return None;
    }
    let mut mask: Vec<libc::c_ulong> = vec![0; position + 1];
    *mask.last_mut()? = 1 << (cpu % WORD_BITS);
    Some(mask)
}

const WORD_BITS: usize = libc::c_ulong::BITS as usize;

/// 1024 CPUs, glibc's `cpu_set_t`.
const MASK_WORDS_FIRST: usize = 1024 / WORD_BITS;

/// 2^20 CPUs.
const MASK_WORDS_MAX: usize = (1 << 20) / WORD_BITS;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_allowed_cpus_are_those_the_kernel_lists() {
        let status = fs::read_to_string("/proc/thread-self/status").unwrap();
        let list = status
            .lines()
            .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
            .unwrap();
        let mut listed = Vec::new();
        for range in list.trim().split(',') {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            listed.extend(first.parse::<usize>().unwrap()..=last.parse().unwrap());
        }
        assert_eq!(allowed().unwrap(), listed);
    }

    #[test]
    fn a_pinned_thread_is_allowed_that_cpu_only() {
        for cpu in allowed().unwrap() {
            std::thread::spawn(move || {
                pin_current_thread(cpu).unwrap();
                assert_eq!(allowed().unwrap(), [cpu]);
            })
            .join()
            .unwrap();
        }
    }

    #[test]
    fn a_cpu_that_is_not_there_is_refused() {
        for cpu in [WORD_BITS * MASK_WORDS_MAX - 1, usize::MAX] {
            let refused = pin_current_thread(cpu).unwrap_err();
            assert_eq!(refused.raw_os_error(), Some(libc::EINVAL), "cpu {cpu}");
        }
    }

    proptest! {
        #[test]
        fn a_mask_names_its_cpu(cpu in 0..WORD_BITS * MASK_WORDS_MAX) {
            prop_assert_eq!(cpus_of(&mask_of(cpu).unwrap()), [cpu]);
        }
    }

    #[test]
    fn quotas_are_ratios_or_absent() {
        assert_eq!(parse_cpu_max("150000 100000\n"), Some(1.5));
        assert_eq!(parse_cpu_max("max 100000\n"), None);
        assert_eq!(parse_cpu_max(""), None);
        assert_eq!(parse_cpu_max("100000 0\n"), None);
        assert_eq!(ratio("50000\n", "100000\n"), Some(0.5));
        assert_eq!(ratio("-1\n", "100000\n"), None);
    }

    #[test]
    fn version_2_groups_are_found_up_to_the_root() {
        let mounts = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(
            cpu_groups("0::/system.slice/portcullis.service\n", mounts),
            [
                v2("/sys/fs/cgroup/system.slice/portcullis.service"),
                v2("/sys/fs/cgroup/system.slice"),
                v2("/sys/fs/cgroup/"),
            ]
        );
    }

    #[test]
    fn version_1_groups_are_found_by_their_controller() {
        let membership = "9:name=systemd:/\n4:memory:/box\n1:cpu,cpuacct:/docker/box\n";
        let mounts = "\
            33 32 0:28 /docker/box /sys/fs/cgroup/memory ro shared:9 - cgroup cgroup rw,memory\n\
            34 32 0:29 /docker/box /sys/fs/cgroup/cpu ro - cgroup cgroup rw,cpu,cpuacct\n";
        let group = CpuGroup::V1(PathBuf::from("/sys/fs/cgroup/cpu/"));
        assert_eq!(cpu_groups(membership, mounts), [group]);
    }

    #[test]
    fn a_group_outside_the_mount_is_read_at_its_root() {
        let mounts = "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        assert_eq!(
            cpu_groups("0::/../other\n", mounts),
            [v2("/sys/fs/cgroup/other"), v2("/sys/fs/cgroup/")]
        );
        let mounts = "30 23 0:26 /mine /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        assert_eq!(cpu_groups("0::/other\n", mounts), [v2("/sys/fs/cgroup/")]);
    }

    #[test]
    fn malformed_lines_are_passed_over() {
        assert_eq!(
            cpu_groups("nonsense\n\n0::\n", "x - y\n - \n1 2 3 - cgroup2 a b\n"),
            []
        );
    }

    fn v2(path: &str) -> CpuGroup {
        CpuGroup::V2(PathBuf::from(path))
    }
}
