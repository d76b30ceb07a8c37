//! Resource limits of this process.

#![expect(
    unsafe_code,
    reason = "getrlimit and setrlimit have no safe form in std"
)]

use std::io;

/// Raises the soft limit of open files to the hard limit and gives the limit then in force.
///
/// # Errors
///
/// Those of getrlimit(2) and setrlimit(2).
pub fn raise_open_files() -> io::Result<u64> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: getrlimit writes one `struct rlimit` to the pointer, which a reference makes valid.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    if limit.rlim_cur < limit.rlim_max {
        limit.rlim_cur = limit.rlim_max;
        // SAFETY: setrlimit reads one `struct rlimit` from the pointer during the call.
        if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(limit.rlim_cur)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_reaches_the_hard_one() {
        let limit = raise_open_files().unwrap();
        assert!(limit > 0);
        let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
        let line = limits
            .lines()
            .find(|l| l.starts_with("Max open files"))
            .unwrap();
        let columns: Vec<_> = line.split_whitespace().collect();
        assert_eq!(columns.get(3), columns.get(4), "{line}");
        assert_eq!(columns.get(3), Some(&limit.to_string().as_str()), "{line}");
    }
}
