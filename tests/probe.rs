//! The start-up probes on a machine that forbids io_uring.

#![expect(
    clippy::unwrap_used,
    reason = "in a test's helpers a panic is the verdict"
)]

#[path = "support/forbid_io_uring.rs"]
mod forbid_io_uring;

use std::fs;
use std::process::Command;

use forbid_io_uring::{command_without_io_uring, forbid_io_uring_on_this_thread};
use portcullis::cli::doctor;
use portcullis::sys::probe::{KernelTls, Process, Ring, RingRefusal, TlsRefusal, ring, summary};

#[test]
fn a_ring_forbidden_by_seccomp_is_refused_for_that_reason() {
    let found = on_a_thread_without_io_uring(ring);
    let refusal = expected_refusal();
    assert_eq!(found, Ring::Refused(refusal.clone()));
    assert_eq!(found.to_string(), format!("epoll: {refusal}"));
    assert_eq!(
        summary(&found, &KernelTls::refused(TlsRefusal::NoModule)),
        format!("epoll ({refusal}), TLS in user space: the kernel has no tls module")
    );
}

#[test]
fn the_doctor_names_seccomp_and_how_to_mend_it() {
    let facts = on_a_thread_without_io_uring(doctor::Facts::gather);
    let findings = doctor::findings(&facts);
    assert!(doctor::exit_code(&findings) >= 1);
    let text = doctor::render(&findings);
    let line = format!("degraded  io_uring      {}\n", expected_refusal());
    assert!(text.contains(&line), "{text}");
    assert!(text.contains("To mend: "), "{text}");
}

#[test]
fn a_started_command_is_under_the_filter_and_its_parent_is_not() {
    let before = own_seccomp_mode();
    let mut command = Command::new("cat");
    command.arg("/proc/self/status");
    let output = command_without_io_uring(&mut command).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let status = String::from_utf8(output.stdout).unwrap();
    assert!(status.contains("\nSeccomp:\t2\n"), "{status}");
    assert_eq!(own_seccomp_mode(), before);
}

/// The sysctl is the stronger reason: a machine that has it set gives that one.
fn expected_refusal() -> RingRefusal {
    let sysctl = fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
    match sysctl.trim() {
        "2" => RingRefusal::ForbiddenBySysctl(2),
        "1" if !Process::current().sys_admin => RingRefusal::ForbiddenBySysctl(1),
        _ => RingRefusal::ForbiddenBySeccomp,
    }
}

fn own_seccomp_mode() -> Option<String> {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("Seccomp:"));
    line.map(str::to_owned)
}

fn on_a_thread_without_io_uring<T: Send + 'static>(task: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = std::thread::spawn(|| {
        forbid_io_uring_on_this_thread().unwrap();
        task()
    });
    thread.join().unwrap()
}
