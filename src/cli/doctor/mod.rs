//! `portcullis doctor`: what this machine gives, what that means, and how to mend it.
//!
//! Three steps that know nothing of each other: [`Facts::gather`] asks the machine, [`findings()`]
//! judges the facts, [`render`] writes the judgement down.

pub(super) mod facts;
mod findings;
mod kernel_bugs;
mod surroundings;

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;

use crate::proto::json::JsonWriter;

pub use super::guide::Guide;
pub use facts::{Facts, Instructions, Limit};
pub use findings::findings;

/// What `doctor` can be told.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Arguments {
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

/// Examines the machine and prints the report. Exit code 0: all is well; 1: it runs, but something
/// costs speed or capacity; 2: it cannot run.
#[must_use]
pub fn run(arguments: Arguments) -> ExitCode {
    let findings = findings(&Facts::gather());
    let report = match arguments.json {
        true => render_json(&findings),
        false => render(&findings),
    };
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
    /// What was examined. Findings of one subject stand together.
    pub subject: &'static str,
    /// Where more is said about it.
    pub guide: Guide,
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
    let mut before = "";
    for finding in findings {
        let level = finding.level.word();
        let subject = match finding.subject {
            subject if subject == before => "",
            subject => subject,
        };
        before = finding.subject;
        let mut lines = wrapped(&finding.found).into_iter();
        let first = lines.next().unwrap_or_default();
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{level:<9} {subject:<SUBJECT_COLUMNS$} {first}");
        let remedy = match finding.mend {
            "" => String::new(),
            mend => format!("To mend: {mend}"),
        };
        let page = match finding.level {
            Level::Good => String::new(),
            Level::Note | Level::Degraded | Level::Broken => {
                format!("More: {}", finding.guide.path())
            }
        };
        let more = [finding.meaning, &remedy, &page].map(wrapped).concat();
        for line in lines.chain(more) {
            let _ = writeln!(text, "{:INDENT_COLUMNS$}{line}", "");
        }
    }
    let _ = writeln!(text, "\n{}", verdict(worst(findings)));
    text
}

/// The findings as an object: the exit code, the verdict, and each finding.
#[must_use]
pub fn render_json(findings: &[Finding]) -> String {
    let mut text = Vec::new();
    let mut json = JsonWriter::new(&mut text);
    json.begin_object()
        .number_member("exit_code", u64::from(exit_code(findings)))
        .string_member("verdict", verdict(worst(findings)).as_bytes())
        .name("findings")
        .begin_array();
    for finding in findings {
        json.begin_object()
            .string_member("subject", finding.subject.as_bytes())
            .string_member("level", finding.level.word().as_bytes())
            .string_member("found", finding.found.as_bytes())
            .string_member("means", finding.meaning.as_bytes())
            .string_member("mend", finding.mend.as_bytes())
            .string_member("guide", finding.guide.path().as_bytes())
            .end_object();
    }
    json.end_array().end_object();
    text.push(b'\n');
    String::from_utf8_lossy(&text).into_owned()
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

impl Finding {
    fn good(subject: &'static str, guide: Guide, found: impl Into<String>) -> Self {
        Self {
            subject,
            guide,
            level: Level::Good,
            found: found.into(),
            meaning: "",
            mend: "",
        }
    }

    fn because(self, level: Level, meaning: &'static str, mend: &'static str) -> Self {
        Self {
            level,
            meaning,
            mend,
            ..self
        }
    }

    fn unknown(subject: &'static str, guide: Guide, source: &str) -> Self {
        Self::good(subject, guide, format!("{source} cannot be read")).because(
            Level::Note,
            "Nothing can be said about it.",
            "",
        )
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
    use crate::sys::probe::{KernelTls, Ring, RingRefusal, TlsRefusal};

    #[test]
    fn a_good_machine_reads_well_and_exits_with_0() {
        let findings = findings(&good());
        assert_eq!(exit_code(&findings), 0);
        let expected = "\
ok        kernel        7.2.1
ok        io_uring      usable, with SINGLE_ISSUER, COOP_TASKRUN, DEFER_TASKRUN
ok        kernel TLS    available
ok                      TLS 1.2 AES-128-GCM        send yes, receive yes
ok                      TLS 1.2 AES-256-GCM        send yes, receive yes
ok                      TLS 1.2 ChaCha20-Poly1305  send yes, receive yes
ok                      TLS 1.3 AES-128-GCM        send yes, receive yes
ok                      TLS 1.3 AES-256-GCM        send yes, receive yes
ok                      TLS 1.3 ChaCha20-Poly1305  send yes, receive yes
ok                      TLS 1.3 keys can be replaced (KeyUpdate)
ok                      TLS 1.3 records can be decrypted in place (TLS_RX_EXPECT_NO_PAD)
ok        interfaces    eth0 takes over TLS records: send yes, receive yes
ok        pipes         at most 1048576 bytes each, 16384 pages for a user
ok        open files    at most 20000 (may be raised to unlimited)
ok        locked memory at most 8388608 bytes
ok        accept queue  at most 4096 connections
ok        ports         all may be bound (CAP_NET_BIND_SERVICE)
ok        CPUs          8 allowed, no quota
ok        instructions  AES, carry-less multiplication, vector AES
ok        clock         tsc, synchronised

Portcullis runs well here.
";
        assert_eq!(render(&findings), expected);
    }

    #[test]
    fn json_says_the_same() {
        let facts = Facts {
            ring: Ring::Refused(RingRefusal::Memory),
            ..good()
        };
        let findings = findings(&facts);
        let json: serde_json::Value = serde_json::from_str(&render_json(&findings)).unwrap();
        assert_eq!(json["exit_code"], 1);
        let all = json["findings"].as_array().unwrap();
        assert_eq!(all.len(), findings.len());
        let ring = all.iter().find(|it| it["subject"] == "io_uring").unwrap();
        assert_eq!(ring["level"], "degraded");
        assert_eq!(ring["guide"], "tuning/io_uring.md");
        for part in ["found", "means", "mend"] {
            assert_ne!(ring[part], "", "{part}");
        }
    }

    #[test]
    fn a_remedy_stands_under_what_it_mends() {
        let facts = Facts {
            ring: Ring::Refused(RingRefusal::ForbiddenBySysctl(2)),
            kernel_tls: KernelTls::refused(TlsRefusal::NoModule),
            ..good()
        };
        let text = render(&findings(&facts));
        let expected = "\
degraded  io_uring      io_uring is forbidden by the sysctl kernel.io_uring_disabled = 2
                        epoll drives the sockets instead: more system calls per request.
                        To mend: sysctl -w kernel.io_uring_disabled=0; or set it to 1 and put
                        the service's group into kernel.io_uring_group.
                        More: tuning/io_uring.md
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
