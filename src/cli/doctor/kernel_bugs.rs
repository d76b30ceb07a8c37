//! Kernels that are known to be bad for what Portcullis does with them.

use super::facts::Facts;
use super::{Finding, Guide, Level};

/// Major, minor and stable release.
type Version = (u32, u32, u32);

/// A mistake of the kernel's that its stable releases have mended.
struct Bug {
    /// Where it is described: <https://osv.dev/vulnerability/> and its name.
    name: &'static str,
    what: &'static str,
    meaning: &'static str,
    mend: &'static str,
    /// From the first release that has it until the first that does not, by series.
    affected: &'static [(Version, Version)],
}

/// Those that this kernel has. All are in its TLS: without it, none matters.
pub(super) fn known_bugs(facts: &Facts) -> Vec<Finding> {
    let release = facts.kernel_release.as_deref().unwrap_or_default();
    let build = facts.kernel_build.as_deref().unwrap_or_default();
    let Some((version, is_exact)) = version_of(release, build) else {
        return Vec::new();
    };
    if facts.kernel_tls.ulp.is_err() {
        return Vec::new();
    }
    let has = |bug: &&Bug| {
        let mut ranges = bug.affected.iter();
        ranges.any(|&(from, until)| from <= version && version < until)
    };
    let level = match is_exact {
        true => Level::Degraded,
        // Distributions put such changes into kernels whose number they keep.
        false => Level::Note,
    };
    let finding = |bug: &Bug| {
        let found = match is_exact {
            true => format!("{}: {}", bug.name, bug.what),
            false => format!(
                "{}, unless the distribution has mended it: {}",
                bug.name, bug.what
            ),
        };
        Finding::good("kernel", Guide::KernelTls, found).because(level, bug.meaning, bug.mend)
    };
    BUGS.iter().filter(has).map(finding).collect()
}

/// The version that a kernel's sources have, and whether that is all there is to know: a distribution
/// may have added to them. Debian says in the build which stable release it has taken.
fn version_of(release: &str, build: &str) -> Option<(Version, bool)> {
    let of_debian = build
        .split_once("Debian ")
        .and_then(|(_, rest)| numbers(rest));
    if let Some((version, _)) = of_debian {
        return Some((version, true));
    }
    let (version, rest) = numbers(release)?;
    Some((version, rest.is_empty() || rest.starts_with("-rc")))
}

/// Up to three numbers between dots, and what comes after them.
fn numbers(text: &str) -> Option<(Version, &str)> {
    let end = text
        .find(|character: char| !character.is_ascii_digit() && character != '.')
        .unwrap_or(text.len());
    let (digits, rest) = text.split_at_checked(end)?;
    let mut numbers = digits.split('.').map(str::parse);
    let major = numbers.next()?.ok()?;
    let minor = numbers.next()?.ok()?;
    let stable = numbers.next().unwrap_or(Ok(0)).ok()?;
    Some(((major, minor, stable), rest))
}

const BUGS: [Bug; 3] = [
    Bug {
        name: "CVE-2026-23240",
        what: "closing a kernel TLS connection races with its sending",
        meaning: "Under load the kernel may use memory that it has freed, and crash.",
        mend: "install Linux 6.12.75, 6.18.16, 6.19.6 or later, or set policy = \"never\" in [offload].",
        affected: &[
            ((5, 3, 0), (6, 12, 75)),
            ((6, 13, 0), (6, 18, 16)),
            ((6, 19, 0), (6, 19, 6)),
        ],
    },
    Bug {
        name: "CVE-2026-23414",
        what: "receiving by kernel TLS can leak memory",
        meaning: "A connection that receives through the kernel may lose its last buffers when memory \
                  is short.",
        mend: "install Linux 6.1.168, 6.6.131, 6.12.80, 6.18.21, 6.19.11 or later, or set policy = \
               \"never\" in [offload].",
        affected: &[
            ((0, 0, 0), (6, 1, 168)),
            ((6, 2, 0), (6, 6, 131)),
            ((6, 7, 0), (6, 12, 80)),
            ((6, 13, 0), (6, 18, 21)),
            ((6, 19, 0), (6, 19, 11)),
        ],
    },
    Bug {
        name: "CVE-2025-39946",
        what: "receiving by kernel TLS can write past a buffer",
        meaning: "A client that sends broken record headers may corrupt the kernel's memory.",
        mend: "install Linux 6.1.154, 6.6.108, 6.12.49, 6.16.9 or later, or set policy = \"never\" in [offload].",
        affected: &[
            ((6, 0, 0), (6, 1, 154)),
            ((6, 2, 0), (6, 6, 108)),
            ((6, 7, 0), (6, 12, 49)),
            ((6, 13, 0), (6, 16, 9)),
        ],
    },
];

#[cfg(test)]
mod tests {
    use super::super::findings::tests::good;
    use super::*;
    use crate::sys::probe::{KernelTls, TlsRefusal};

    fn names(release: &str, build: &str) -> Vec<(String, Level)> {
        let facts = Facts {
            kernel_release: Some(release.to_owned()),
            kernel_build: Some(build.to_owned()),
            ..good()
        };
        let name = |finding: Finding| {
            let (name, _) = finding.found.split_once([':', ',']).unwrap();
            (name.to_owned(), finding.level)
        };
        known_bugs(&facts).into_iter().map(name).collect()
    }

    #[test]
    fn a_kernels_number_tells_what_is_wrong_with_it() {
        let degraded = |name: &str| (name.to_owned(), Level::Degraded);
        for (release, expected) in [
            (
                "6.12.48",
                &["CVE-2026-23240", "CVE-2026-23414", "CVE-2025-39946"][..],
            ),
            ("6.12.49", &["CVE-2026-23240", "CVE-2026-23414"]),
            ("6.12.75", &["CVE-2026-23414"]),
            ("6.12.80", &[]),
            (
                "6.13",
                &["CVE-2026-23240", "CVE-2026-23414", "CVE-2025-39946"],
            ),
            ("6.19.0", &["CVE-2026-23240", "CVE-2026-23414"]),
            ("6.19.11", &[]),
            ("7.2-rc3", &[]),
            ("nonsense", &[]),
        ] {
            let expected: Vec<_> = expected.iter().map(|name| degraded(name)).collect();
            assert_eq!(names(release, ""), expected, "{release}");
        }
    }

    #[test]
    fn the_guide_and_the_remedy_name_every_release_that_mends_it() {
        let guide = include_str!("../../../tuning/ktls.md");
        for bug in BUGS {
            assert!(guide.contains(bug.name), "{}", bug.name);
            for (_, (major, minor, stable)) in bug.affected {
                let release = format!("{major}.{minor}.{stable}");
                assert!(guide.contains(&release), "{}: {release}", bug.name);
                assert!(bug.mend.contains(&release), "{}: {release}", bug.name);
            }
        }
    }

    #[test]
    fn what_a_distribution_may_have_mended_is_no_verdict() {
        let ubuntu = names("6.8.0-60-generic", "#63-Ubuntu SMP PREEMPT_DYNAMIC");
        assert_eq!(ubuntu.len(), 3);
        assert!(ubuntu.iter().all(|(_, level)| *level == Level::Note));
        // Debian tells which stable release it is.
        let build = "#1 SMP PREEMPT_DYNAMIC Debian 6.1.168-1 (2026-04-20)";
        let debian = names("6.1.0-45-amd64", build);
        assert_eq!(debian, [("CVE-2026-23240".to_owned(), Level::Degraded)]);
    }

    #[test]
    fn without_kernel_tls_its_bugs_do_not_matter() {
        let facts = Facts {
            kernel_release: Some("6.13.0".to_owned()),
            kernel_tls: KernelTls::refused(TlsRefusal::NoModule),
            ..good()
        };
        assert_eq!(known_bugs(&facts), []);
    }
}
