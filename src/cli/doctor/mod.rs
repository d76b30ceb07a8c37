//! `portcullis doctor`: what this machine gives, what that means, and how to mend it.
//!
//! Three steps that know nothing of each other: [`Facts::gather`] asks the machine, [`findings()`]
//! judges the facts, [`render`] writes the judgement down.

mod facts;
mod findings;

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;

pub use facts::{Facts, Instructions, Limit};
pub use findings::findings;

/// Examines the machine and prints the report. Exit code 0: all is well; 1: it runs, but something
/// costs speed or capacity; 2: it cannot run.
#[must_use]
pub fn run() -> ExitCode {
    let findings = findings(&Facts::gather());
    let report = render(&findings);
    // Whoever closed the output has read enough; the exit code still says it all.
    let _ = std::io::stdout().lock().write_all(report.as_bytes());
    ExitCode::from(exit_code(&findings))
}

/// How good or bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// As it should be.
    Good,
    /// Worth knowing, nothing to mend.
    Note,
    /// It runs, at the cost of speed, capacity or comfort.
    Degraded,
    /// It cannot run.
    Broken,
}

/// One line of the report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What was examined.
    pub subject: &'static str,
    /// How it is.
    pub level: Level,
    /// What was found.
    pub found: String,
    /// What that means for the server; empty when it is plain.
    pub meaning: &'static str,
    /// How to mend it; empty when there is nothing to mend.
    pub mend: &'static str,
}

/// The findings as text: aligned, wrapped, the remedies under what they mend.
#[must_use]
pub fn render(findings: &[Finding]) -> String {
    let mut text = String::new();
    for finding in findings {
        let level = finding.level.word();
        let subject = finding.subject;
        let mut lines = wrapped(&finding.found).into_iter();
        let first = lines.next().unwrap_or_default();
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{level:<9} {subject:<SUBJECT_COLUMNS$} {first}");
        let remedy = match finding.mend {
            "" => String::new(),
            mend => format!("To mend: {mend}"),
        };
        let more = [wrapped(finding.meaning), wrapped(&remedy)].concat();
        for line in lines.chain(more) {
            let _ = writeln!(text, "{:INDENT_COLUMNS$}{line}", "");
        }
    }
    let _ = writeln!(text, "\n{}", verdict(worst(findings)));
    text
}

/// 0, 1 or 2. See [`run`].
#[must_use]
pub fn exit_code(findings: &[Finding]) -> u8 {
    match worst(findings) {
        Level::Good | Level::Note => 0,
        Level::Degraded => 1,
        Level::Broken => 2,
    }
}

impl Level {
    fn word(self) -> &'static str {
        match self {
            Self::Good => "ok",
            Self::Note => "note",
            Self::Degraded => "degraded",
            Self::Broken => "broken",
        }
    }
}

fn worst(findings: &[Finding]) -> Level {
    findings
        .iter()
        .map(|finding| finding.level)
        .max()
        .unwrap_or(Level::Good)
}

fn verdict(worst: Level) -> &'static str {
    match worst {
        Level::Good | Level::Note => "Portcullis runs well here.",
        Level::Degraded => {
            "Portcullis runs here, but less well than it could: see what is degraded."
        }
        Level::Broken => "Portcullis cannot run here: see what is broken.",
    }
}

/// Lines of at most [`TEXT_COLUMNS`], broken at spaces.
fn wrapped(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    if text.chars().count() <= TEXT_COLUMNS {
        // As it is: columns within it stay aligned.
        lines.extend((!text.is_empty()).then(|| text.to_owned()));
        return lines;
    }
    for word in text.split_ascii_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= TEXT_COLUMNS => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

const SUBJECT_COLUMNS: usize = 13;
const INDENT_COLUMNS: usize = 9 + 1 + SUBJECT_COLUMNS + 1;
const TEXT_COLUMNS: usize = 96 - INDENT_COLUMNS;

#[cfg(test)]
mod tests {
    use super::findings::tests::good;
    use super::*;
    use crate::sys::probe::{KernelTls, Refusal, Ring, RingRefusal};

    #[test]
    fn a_good_machine_reads_well_and_exits_with_0() {
        let findings = findings(&good());
        assert_eq!(exit_code(&findings), 0);
        let expected = "\
ok        kernel        6.18.2
ok        io_uring      usable, with SINGLE_ISSUER, COOP_TASKRUN, DEFER_TASKRUN
ok        kernel TLS    available
ok                      TLS 1.2 AES-128-GCM        send yes, receive yes
ok                      TLS 1.2 AES-256-GCM        send yes, receive yes
ok                      TLS 1.2 ChaCha20-Poly1305  send yes, receive yes
ok                      TLS 1.3 AES-128-GCM        send yes, receive yes
ok                      TLS 1.3 AES-256-GCM        send yes, receive yes
ok                      TLS 1.3 ChaCha20-Poly1305  send yes, receive yes
ok                      TLS 1.3 keys can be replaced (KeyUpdate)
ok                      TLS 1.3 records are decrypted in place for trusted peers
ok        open files    at most 20000 (may be raised to unlimited)
ok        locked memory at most 8388608 bytes
ok        accept queue  at most 4096 connections
ok        ports         all may be bound (CAP_NET_BIND_SERVICE)
ok        CPUs          8 allowed, no quota
ok        instructions  AES, carry-less multiplication, vector AES

Portcullis runs well here.
";
        assert_eq!(render(&findings), expected);
    }

    #[test]
    fn a_remedy_stands_under_what_it_mends() {
        let facts = Facts {
            ring: Ring::Refused(RingRefusal::ForbiddenBySysctl(2)),
            kernel_tls: KernelTls::refused(Refusal::NoModule),
            ..good()
        };
        let text = render(&findings(&facts));
        let expected = "\
degraded  io_uring      io_uring is forbidden by the sysctl kernel.io_uring_disabled = 2
                        epoll drives the sockets instead: more system calls per request.
                        To mend: sysctl -w kernel.io_uring_disabled=0; or set it to 1 and put
                        the service's group into kernel.io_uring_group.
degraded  kernel TLS    the kernel has no tls module
";
        assert!(text.contains(expected), "{text}");
        assert!(
            !text.contains("AES-128-GCM"),
            "suites of a module that is not there:\n{text}"
        );
        assert!(
            text.lines().all(|line| line.chars().count() <= 96),
            "{text}"
        );
        assert!(text.ends_with("see what is degraded.\n"), "{text}");
    }
}
