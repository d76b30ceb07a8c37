//! Certificate files that change under a running process.
//!
//! They are looked at now and then instead of being watched by inotify: that sees no change behind a
//! symbolic link that is turned elsewhere, nor on network filesystems, and both are how certificates
//! are rolled out.

use std::collections::{BTreeSet, HashMap};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::config::Config;

/// How often [`CertificateWatch::changed`] is to be asked.
pub const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// The certificate and key files of a configuration.
#[derive(Debug)]
pub struct CertificateWatch {
    files: HashMap<PathBuf, Watched>,
    /// Sites with a file that has changed and is perhaps still being written.
    unsettled: BTreeSet<usize>,
}

#[derive(Debug)]
struct Watched {
    look: Option<Look>,
    sites: Vec<usize>,
}

/// What a look at a file shows; `ctime` changes with every change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Look {
    device: u64,
    inode: u64,
    bytes: u64,
    modified_ns: (i64, i64),
    changed_ns: (i64, i64),
}

impl CertificateWatch {
    /// Looks at the files of `config` as they are at this moment.
    pub fn new(config: &Config) -> Self {
        let mut files: HashMap<PathBuf, Watched> = HashMap::new();
        for (index, site) in config.sites.iter().enumerate() {
            for file in [&site.certificate_file, &site.key_file] {
                let watched = files.entry(file.clone()).or_insert_with(|| Watched {
                    look: look(file),
                    sites: Vec::new(),
                });
                watched.sites.push(index);
            }
        }
        Self {
            files,
            unsettled: BTreeSet::new(),
        }
    }

    /// The sites of which a file has changed, once neither of their files changes any more from one
    /// call to the next: certificate and key are written one after the other.
    pub fn changed(&mut self) -> Vec<usize> {
        let mut moving = BTreeSet::new();
        for (file, watched) in &mut self.files {
            let look = look(file);
            if look != watched.look {
                watched.look = look;
                moving.extend(&watched.sites);
            }
        }
        let settled = self.unsettled.difference(&moving).copied().collect();
        self.unsettled = moving;
        settled
    }
}

/// `None` for a file that is not there, which is a change too.
fn look(file: &Path) -> Option<Look> {
    let metadata = std::fs::metadata(file).ok()?;
    Some(Look {
        device: metadata.dev(),
        inode: metadata.ino(),
        bytes: metadata.size(),
        modified_ns: (metadata.mtime(), metadata.mtime_nsec()),
        changed_ns: (metadata.ctime(), metadata.ctime_nsec()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "[[listener]]\naddress = \"0.0.0.0:443\"\n\
        [[site]]\nnames = [\"a.test\"]\ncertificate = \"a.pem\"\nkey = \"a.key\"\nroot = \".\"\n\
        [[site]]\nnames = [\"b.test\"]\ncertificate = \"b.pem\"\nkey = \"shared.key\"\nroot = \".\"\n\
        [[site]]\nnames = [\"c.test\"]\ncertificate = \"c.pem\"\nkey = \"shared.key\"\nroot = \".\"\n";

    fn watch() -> (tempfile::TempDir, CertificateWatch) {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a.pem", "a.key", "b.pem", "c.pem", "shared.key"] {
            std::fs::write(folder.path().join(name), name).unwrap();
        }
        let path = Path::new("p.toml");
        let loaded = crate::config::parse(TEXT.as_bytes(), path, folder.path()).unwrap();
        let watch = CertificateWatch::new(&loaded.config);
        (folder, watch)
    }

    #[test]
    fn a_change_is_told_once_and_when_it_is_over() {
        let (folder, mut watch) = watch();
        assert!(watch.changed().is_empty());
        std::fs::write(folder.path().join("a.pem"), "new").unwrap();
        assert!(watch.changed().is_empty());
        // The key follows its certificate.
        std::fs::write(folder.path().join("a.key"), "new key").unwrap();
        assert!(watch.changed().is_empty());
        assert_eq!(watch.changed(), [0]);
        assert!(watch.changed().is_empty());
    }

    #[test]
    fn a_shared_file_concerns_each_of_its_sites() {
        let (folder, mut watch) = watch();
        std::fs::write(folder.path().join("shared.key"), "new").unwrap();
        assert!(watch.changed().is_empty());
        assert_eq!(watch.changed(), [1, 2]);
    }

    #[test]
    fn a_file_that_goes_or_is_replaced_has_changed() {
        let (folder, mut watch) = watch();
        let file = folder.path().join("a.pem");
        std::fs::remove_file(&file).unwrap();
        assert!(watch.changed().is_empty());
        assert_eq!(watch.changed(), [0]);
        std::os::unix::fs::symlink(folder.path().join("b.pem"), &file).unwrap();
        assert!(watch.changed().is_empty());
        assert_eq!(watch.changed(), [0]);
        // Turned elsewhere.
        std::fs::remove_file(&file).unwrap();
        std::os::unix::fs::symlink(folder.path().join("c.pem"), &file).unwrap();
        assert!(watch.changed().is_empty());
        assert_eq!(watch.changed(), [0]);
    }
}
