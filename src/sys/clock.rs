//! The system's clock.

#![expect(
    unsafe_code,
    reason = "adjtimex(2) and clock_gettime(2) have no safe form"
)]

use std::fs;
use std::io;
use std::mem;
use std::time::Duration;

/// What the kernel reads the time from ("tsc", "kvm-clock", "hpet").
///
/// # Errors
/// Those of open(2): without sysfs it cannot be told.
pub fn source() -> io::Result<String> {
    let path = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    Ok(fs::read_to_string(path)?.trim().to_owned())
}

/// Whether something (NTP, PTP, a hypervisor's agent) keeps the time right and has told the kernel so.
///
/// # Errors
/// `EPERM` where a filter of system calls forbids asking.
pub fn is_synchronised() -> io::Result<bool> {
    // SAFETY: all of its fields are numbers, for which zero is a value; no mode bit asks for a change.
    let mut timex: libc::timex = unsafe { mem::zeroed() };
    // SAFETY: adjtimex reads and writes one `struct timex`, which a reference makes valid.
    let state = unsafe { libc::adjtimex(&raw mut timex) };
    if state < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(state != libc::TIME_ERROR && timex.status & libc::STA_UNSYNC == 0)
}

/// The CPU time that the calling thread has taken, the kernel's for it among it.
///
/// # Errors
/// `EPERM` where a filter of system calls forbids asking.
pub fn thread_time() -> io::Result<Duration> {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: clock_gettime writes one `struct timespec`, which a reference makes valid.
    let status = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    if status < 0 {
        return Err(io::Error::last_os_error());
    }
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    let nanoseconds = u32::try_from(time.tv_nsec).unwrap_or_default();
    Ok(Duration::new(seconds, nanoseconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_source_is_one_of_those_available() {
        let available = "/sys/devices/system/clocksource/clocksource0/available_clocksource";
        let available = fs::read_to_string(available).unwrap();
        let source = source().unwrap();
        assert!(available.split_whitespace().any(|name| name == source));
    }

    #[test]
    fn asking_changes_nothing() {
        assert_eq!(is_synchronised().unwrap(), is_synchronised().unwrap());
    }

    #[test]
    fn a_thread_that_works_takes_time() {
        let before = thread_time().unwrap();
        while thread_time().unwrap() == before {}
    }
}
