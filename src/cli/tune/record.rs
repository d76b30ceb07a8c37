//! The record of what was changed, so that it can be undone. It is written before the first change, so
//! that nothing can be changed without being in it, and replaced as a whole, by rename(2).

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::sys::lock;

/// What was changed, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// The start of the machine in which it was: later ones begin with their own values.
    pub boot: String,
    /// The changes, the oldest first.
    pub changes: Vec<Change>,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// The setting, as sysctl(8) names it.
    pub name: String,
    /// Its file.
    pub path: String,
    /// The value before.
    pub old: String,
    /// The value after.
    pub new: String,
    /// When, in seconds since 1970.
    pub time_s: u64,
}

/// The record's file, locked: two processes that change settings would record each other's values.
#[derive(Debug)]
pub struct Store {
    directory: PathBuf,
    _lock: File,
}

impl Store {
    /// Makes the directory if it is not there, and waits for whoever else uses the record.
    ///
    /// # Errors
    /// Those of mkdir(2), open(2) and flock(2).
    pub fn open(directory: &Path) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(FILE_MODE)
            .open(directory.join("tune.lock"))?;
        lock::lock_exclusive(file.as_fd())?;
        Ok(Self {
            directory: directory.to_owned(),
            _lock: file,
        })
    }

    /// Where the record is.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        path_in(&self.directory)
    }

    /// See [`load`].
    ///
    /// # Errors
    /// Those of [`load`].
    pub fn load(&self) -> io::Result<Option<Record>> {
        load(&self.directory)
    }

    /// Puts `record` in the place of the one before, or removes that where nothing is left to undo.
    ///
    /// # Errors
    /// Those of open(2), write(2), fsync(2), rename(2) and unlink(2); the one before is then as it was.
    pub fn save(&self, record: &Record) -> io::Result<()> {
        if record.changes.is_empty() {
            return remove(&self.path());
        }
        let temporary = self.directory.join("tune.json.new");
        remove(&temporary)?;
        let mut text = serde_json::to_vec_pretty(record)?;
        text.push(b'\n');
        let mut file = File::options()
            .write(true)
            .create_new(true)
            .mode(FILE_MODE)
            .open(&temporary)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&temporary, self.path())?;
        File::open(&self.directory)?.sync_all()
    }
}

/// The record in `directory`; `None` where there is none.
///
/// # Errors
/// Those of open(2) and read(2); `InvalidData` when it is not a record.
pub fn load(directory: &Path) -> io::Result<Option<Record>> {
    let file = match File::open(path_in(directory)) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut text = Vec::new();
    file.take(RECORD_BYTES_MAX).read_to_end(&mut text)?;
    Ok(Some(serde_json::from_slice(&text)?))
}

/// Seconds since 1970.
pub(super) fn now_s() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

fn path_in(directory: &Path) -> PathBuf {
    directory.join("tune.json")
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

const FILE_MODE: u32 = 0o644;

/// Thousands of changes; a longer file is none that this program wrote.
const RECORD_BYTES_MAX: u64 = 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        Record {
            boot: "first".to_owned(),
            changes: vec![Change {
                name: "net.core.somaxconn".to_owned(),
                path: "/proc/sys/net/core/somaxconn".to_owned(),
                old: "128".to_owned(),
                new: "4096".to_owned(),
                time_s: 1_700_000_000,
            }],
        }
    }

    #[test]
    fn a_record_is_replaced_as_a_whole_and_goes_when_it_is_empty() {
        let directory = tempfile::tempdir().unwrap();
        let below = directory.path().join("lib/portcullis");
        assert_eq!(load(&below).unwrap(), None);
        let store = Store::open(&below).unwrap();
        assert_eq!(store.load().unwrap(), None);
        store.save(&record()).unwrap();
        assert_eq!(store.load().unwrap(), Some(record()));
        let mut longer = record();
        longer.changes.extend(record().changes);
        // What a crash has left does not hinder.
        fs::write(below.join("tune.json.new"), "{").unwrap();
        store.save(&longer).unwrap();
        assert_eq!(store.load().unwrap(), Some(longer));
        store.save(&Record::default()).unwrap();
        assert_eq!(store.load().unwrap(), None);
        assert!(!store.path().exists());
    }

    #[test]
    fn what_is_no_record_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        for text in ["", "{}", "[]", r#"{"boot":"x","changes":[],"more":1}"#] {
            fs::write(directory.path().join("tune.json"), text).unwrap();
            let error = load(directory.path()).unwrap_err();
            let is_data =
                [ErrorKind::InvalidData, ErrorKind::UnexpectedEof].contains(&error.kind());
            assert!(is_data, "{text}: {error:?}");
        }
    }
}
