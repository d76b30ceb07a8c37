//! A configuration file to a [`Config`].

use std::io::{self, Read};
use std::path::Path;

use super::error::{ConfigError, Place, Problem, Warning};
use super::locate::Source;
use super::parse::parse as parse_raw;
use super::{Config, check};

/// A checked configuration with what later checks need to point into its file.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// Where the file names what only a later check can judge.
    pub places: Places,
    /// What works, but probably not as intended.
    pub warnings: Vec<Warning>,
}

/// Places in the configuration file. Empty for a configuration that no file says.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// In the order of [`Config::sites`].
    pub sites: Vec<SitePlaces>,
    /// In the order of [`Config::upstreams`].
    pub upstreams: Vec<UpstreamTlsPlaces>,
}

/// Where the files of an upstream's TLS are written.
#[derive(Clone, Debug, Default)]
pub struct UpstreamTlsPlaces {
    /// The table.
    pub table: Option<Place>,
    /// Its authorities.
    pub authorities: Option<Place>,
    /// Its certificate.
    pub certificate: Option<Place>,
    /// Its key.
    pub key: Option<Place>,
}

/// Where a site is written.
#[derive(Clone, Debug)]
pub struct SitePlaces {
    /// Its certificate file.
    pub certificate: Place,
    /// Its key file.
    pub key: Place,
    /// Where the authorities of its clients are named, in its own table or in `[tls]`.
    pub client_authorities: Option<Place>,
    /// Its names, in the order of [`super::Site::names`].
    pub names: Vec<Place>,
}

impl Places {
    /// The places of the site with that index.
    pub fn site(&self, index: usize) -> Option<&SitePlaces> {
        self.sites.get(index)
    }

    /// The places of the upstream with that index.
    pub fn upstream(&self, index: usize) -> Option<&UpstreamTlsPlaces> {
        self.upstreams.get(index)
    }
}

/// Reads and checks the configuration file at `path`. Looks at the directories it names, but not
/// into its certificates.
///
/// # Errors
/// Every problem found; see [`ConfigError`].
pub fn load(path: &Path) -> Result<Loaded, ConfigError> {
    let unreadable = |error: io::Error| unreadable(path, &error);
    let absolute = std::path::absolute(path).map_err(unreadable)?;
    let text = read_bounded(path).map_err(unreadable)?;
    parse(&text, path, absolute.parent().unwrap_or(Path::new("/")))
}

/// Checks the configuration `text`, which is called `file` in messages; relative paths in it start
/// at `base`, which is absolute.
///
/// # Errors
/// Every problem found; see [`ConfigError`].
pub fn parse(text: &[u8], file: &Path, base: &Path) -> Result<Loaded, ConfigError> {
    if text.len() > FILE_BYTES_MAX {
        let message = format!("{} is longer than {FILE_BYTES_MAX} bytes", file.display());
        let remedy = "a configuration is text of a few kilobytes: is this the right file?";
        return Err(Problem::new(None, message, remedy).into());
    }
    let text = match std::str::from_utf8(text) {
        Ok(text) => text,
        Err(error) => return Err(not_utf8(text, error.valid_up_to(), file).into()),
    };
    let source = Source::new(file, text);
    let raw = parse_raw(text, &source)?;
    check::check(raw, &source, base)
}

fn unreadable(path: &Path, error: &io::Error) -> Problem {
    let remedy = if error.kind() == io::ErrorKind::NotFound {
        "name an existing file with --config"
    } else if error.kind() == io::ErrorKind::PermissionDenied {
        "let this user read the file and pass its directories"
    } else {
        "name a regular file with --config"
    };
    Problem::new(
        None,
        format!("cannot read {}: {error}", path.display()),
        remedy,
    )
}

fn not_utf8(text: &[u8], valid: usize, file: &Path) -> Problem {
    let shown = String::from_utf8_lossy(text);
    // What is valid keeps its length, so the offset points at the replacement character.
    let place = Source::new(file, &shown).place(valid..valid + 1);
    Problem::new(
        Some(place),
        "the file is not UTF-8 from here on",
        "save it as UTF-8 (TOML 1.0, section Spec)",
    )
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    std::fs::File::open(path)?
        .take(FILE_BYTES_MAX as u64 + 1)
        .read_to_end(&mut text)?;
    Ok(text)
}

/// Thousands of sites fit.
const FILE_BYTES_MAX: usize = 4 * 1024 * 1024;
