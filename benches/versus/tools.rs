//! The programs a run needs: found, or installed on demand, or named with the way to get them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::Failure;
use crate::arguments::{Arguments, LoadClient};

/// What is there besides the servers.
#[derive(Debug)]
pub(crate) struct Tools {
    /// `h2load --version`.
    pub(crate) h2load: String,
    /// What wrk says of its version, where it makes the load.
    pub(crate) wrk: Option<String>,
    /// `openssl version`.
    pub(crate) openssl: String,
}

/// A program and the Debian package that has it.
#[derive(Debug)]
pub(crate) struct Wanted {
    program: PathBuf,
    package: &'static str,
}

impl Wanted {
    /// `program` of Debian's `package`.
    pub(crate) fn package(program: &Path, package: &'static str) -> Self {
        Self {
            program: program.to_owned(),
            package,
        }
    }

    /// Where the program is, after an attempt to install it where `arguments` allow; otherwise a line
    /// that says how to get it.
    pub(crate) fn provide(self, arguments: &Arguments) -> Result<Result<PathBuf, String>, Failure> {
        if locate(&self.program).is_none() && arguments.install {
            install(std::slice::from_ref(&self))?;
        }
        Ok(locate(&self.program).ok_or_else(|| {
            let program = self.program.display();
            format!("{program} is missing: Debian has it as {}", self.package)
        }))
    }
}

impl Tools {
    /// Finds every program that a run needs whatever its servers are.
    pub(crate) fn find(arguments: &Arguments) -> Result<Self, Failure> {
        let missing = missing(arguments);
        if !missing.is_empty() {
            if !arguments.install {
                return Err(explain(&missing).into());
            }
            install(&missing)?;
        }
        Ok(Self {
            h2load: first_line(Command::new("h2load").arg("--version"))?,
            wrk: match arguments.load {
                LoadClient::Wrk => Some(first_line(Command::new("wrk").arg("--version"))?),
                LoadClient::H2load => None,
            },
            openssl: first_line(Command::new("openssl").arg("version"))?,
        })
    }
}

/// The first line that `command` writes, on whichever stream: nginx prints its version on standard
/// error.
pub(crate) fn first_line(command: &mut Command) -> Result<String, Failure> {
    let text = all_output(command)?;
    Ok(text.lines().next().unwrap_or_default().trim().to_owned())
}

/// Everything that `command` writes, standard output first.
pub(crate) fn all_output(command: &mut Command) -> Result<String, Failure> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("cannot run {:?}: {error}", command.get_program()))?;
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    Ok(text)
}

fn missing(arguments: &Arguments) -> Vec<Wanted> {
    let mut wanted: Vec<Wanted> = ALWAYS
        .iter()
        .map(|(program, package)| Wanted::package(Path::new(program), package))
        .collect();
    if arguments.load == LoadClient::Wrk {
        wanted.push(Wanted::package(Path::new("wrk"), "wrk"));
    }
    wanted.retain(|wanted| locate(&wanted.program).is_none());
    wanted
}

/// Where `program` is: itself when it is a path to a file, or the file of that name in PATH.
pub(crate) fn locate(program: &Path) -> Option<PathBuf> {
    if program.components().count() > 1 {
        return program.is_file().then(|| program.to_owned());
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        // Debian keeps servers where an ordinary user's PATH does not look.
        .chain([PathBuf::from("/usr/sbin")])
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
}

fn explain(missing: &[Wanted]) -> String {
    let programs: Vec<String> = missing
        .iter()
        .map(|wanted| wanted.program.display().to_string())
        .collect();
    format!(
        "missing: {}\n  on Debian and Ubuntu: sudo apt-get install {}\n  or, as root: cargo bench \
         --bench versus -- --install",
        programs.join(", "),
        packages(missing).join(" ")
    )
}

fn install(missing: &[Wanted]) -> Result<(), Failure> {
    let packages = packages(missing);
    eprintln!("installing {}", packages.join(" "));
    let status = Command::new("apt-get")
        .args(["install", "--yes", "--no-install-recommends"])
        .args(&packages)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .status()
        .map_err(|error| format!("cannot run apt-get: {error}\n{}", explain(missing)))?;
    if !status.success() {
        return Err(format!("apt-get: {status}\n{}", explain(missing)).into());
    }
    Ok(())
}

fn packages(missing: &[Wanted]) -> Vec<&'static str> {
    let mut packages: Vec<_> = missing.iter().map(|wanted| wanted.package).collect();
    packages.sort_unstable();
    packages.dedup();
    packages
}

const ALWAYS: [(&str, &str); 4] = [
    ("h2load", "nghttp2-client"),
    ("openssl", "openssl"),
    ("taskset", "util-linux"),
    ("sh", "dash"),
];
