//! The settings of this machine: read, judged, and written.

use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use super::knobs::{KNOBS, Knob, numbers};

/// Where a machine's settings are: its root directory.
#[derive(Clone, Debug)]
pub struct Machine {
    root: PathBuf,
}

/// A knob and how it stands.
#[derive(Clone, Debug)]
pub struct Survey {
    /// What was looked at.
    pub knob: Knob,
    /// How it is.
    pub state: State,
}

/// How a setting stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// As recommended.
    Right {
        /// Its value.
        current: String,
    },
    /// Otherwise.
    Differs {
        /// Its value.
        current: String,
        /// The value that is recommended in its place.
        recommended: String,
    },
    /// This kernel, or this network namespace, does not have it.
    Absent,
    /// It cannot be read, or not understood.
    Unknown {
        /// Why.
        reason: String,
    },
}

impl Machine {
    /// The machine whose root directory this is.
    #[must_use]
    pub fn at(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
        }
    }

    /// Looks at every knob. Changes nothing.
    #[must_use]
    pub fn survey(&self) -> Vec<Survey> {
        let of = |knob: Knob| Survey {
            knob,
            state: self.state(&knob),
        };
        KNOBS.into_iter().map(of).collect()
    }

    /// A knob's value, its blanks made one space each.
    ///
    /// # Errors
    /// Those of open(2) and read(2).
    pub fn read(&self, knob: &Knob) -> io::Result<String> {
        Ok(plain(&fs::read_to_string(self.root.join(knob.path()))?))
    }

    /// Whether a knob may be written, without writing it.
    ///
    /// # Errors
    /// Those of open(2).
    pub fn may_write(&self, knob: &Knob) -> io::Result<()> {
        self.open(knob, false).map(drop)
    }

    /// Writes a knob, and gives the value that it has then: the kernel may round.
    ///
    /// # Errors
    /// Those of open(2), write(2) and read(2): `EINVAL` for what the kernel does not take, and for what
    /// is not made of numbers.
    pub fn write(&self, knob: &Knob, value: &str) -> io::Result<String> {
        if numbers(value).is_err() {
            return Err(ErrorKind::InvalidInput.into());
        }
        // One call: the kernel takes each write as a whole value. Cutting is for files that are none of
        // the kernel's, and done as the shell's `>` does it.
        self.open(knob, true)?
            .write_all(format!("{value}\n").as_bytes())?;
        self.read(knob)
    }

    /// What tells this start of the machine from others; settings do not outlive it.
    #[must_use]
    pub fn boot(&self) -> String {
        let path = self.root.join("proc/sys/kernel/random/boot_id");
        fs::read_to_string(path)
            .map(|id| plain(&id))
            .unwrap_or_default()
    }

    /// Where the record of changes is kept: they are the machine's, whoever made them.
    #[must_use]
    pub fn record_directory(&self) -> PathBuf {
        self.root.join("var/lib/portcullis")
    }

    fn state(&self, knob: &Knob) -> State {
        let current = match self.read(knob) {
            Ok(current) => current,
            Err(error) if error.kind() == ErrorKind::NotFound => return State::Absent,
            Err(error) => {
                return State::Unknown {
                    reason: error.to_string(),
                };
            }
        };
        match knob.wanted.correction(&current) {
            Ok(None) => State::Right { current },
            Ok(Some(recommended)) => State::Differs {
                current,
                recommended,
            },
            Err(_) => State::Unknown {
                reason: format!("{current:?} is not made of the numbers that it should be"),
            },
        }
    }

    /// Never made: it is a setting of the kernel or nothing.
    fn open(&self, knob: &Knob, is_cut: bool) -> io::Result<fs::File> {
        let file = fs::OpenOptions::new()
            .write(true)
            .truncate(is_cut)
            .open(self.root.join(knob.path()))?;
        match file.metadata()?.is_file() {
            true => Ok(file),
            false => Err(ErrorKind::InvalidInput.into()),
        }
    }
}

/// The kernel separates the numbers of a value with tabs, and ends it with a newline.
pub(super) fn plain(value: &str) -> String {
    value.split_ascii_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
pub(super) mod testing {
    use tempfile::TempDir;

    use super::*;

    /// A root directory with these settings and a boot id.
    pub(in crate::cli::tune) fn machine(settings: &[(&str, &str)]) -> (TempDir, Machine) {
        let root = tempfile::tempdir().unwrap();
        for (name, value) in settings {
            set(&root, name, value);
        }
        set(&root, "kernel.random.boot_id", "first");
        let machine = Machine::at(root.path());
        (root, machine)
    }

    pub(in crate::cli::tune) fn set(root: &TempDir, name: &str, value: &str) {
        let path = root.path().join("proc/sys").join(name.replace('.', "/"));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("{value}\n")).unwrap();
    }

    pub(in crate::cli::tune) fn get(root: &TempDir, name: &str) -> String {
        let path = root.path().join("proc/sys").join(name.replace('.', "/"));
        plain(&fs::read_to_string(path).unwrap())
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{get, machine};
    use super::*;

    fn state(machine: &Machine, name: &str) -> State {
        let survey = machine.survey();
        let found = survey.into_iter().find(|found| found.knob.name == name);
        found.unwrap().state
    }

    #[test]
    fn each_setting_is_right_or_differs_or_is_not_there() {
        let (_root, machine) = machine(&[
            ("net.core.somaxconn", "128"),
            ("net.ipv4.tcp_syncookies", "1"),
            ("net.ipv4.tcp_wmem", "4096\t16384\t65536"),
            ("net.ipv4.tcp_sack", "yes"),
        ]);
        let differs = |current: &str, recommended: &str| State::Differs {
            current: current.to_owned(),
            recommended: recommended.to_owned(),
        };
        let of = |name| state(&machine, name);
        assert_eq!(of("net.core.somaxconn"), differs("128", "4096"));
        let wmem = differs("4096 16384 65536", "4096 16384 4194304");
        assert_eq!(of("net.ipv4.tcp_wmem"), wmem);
        let current = "1".to_owned();
        assert_eq!(of("net.ipv4.tcp_syncookies"), State::Right { current });
        assert_eq!(of("fs.nr_open"), State::Absent);
        assert!(matches!(of("net.ipv4.tcp_sack"), State::Unknown { .. }));
    }

    #[test]
    fn only_numbers_are_written_and_nothing_is_made() {
        let (root, machine) = machine(&[("net.core.somaxconn", "128")]);
        let knob = |name| *KNOBS.iter().find(|knob| knob.name == name).unwrap();
        let somaxconn = knob("net.core.somaxconn");
        assert_eq!(machine.write(&somaxconn, "4096").unwrap(), "4096");
        for wrong in ["", "x", "1; reboot", "-1"] {
            let error = machine.write(&somaxconn, wrong).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{wrong:?}");
        }
        assert_eq!(get(&root, "net.core.somaxconn"), "4096");
        let absent = knob("fs.nr_open");
        let error = machine.write(&absent, "1").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(!root.path().join(absent.path()).exists());
    }

    #[test]
    fn this_machine_has_the_settings_that_every_kernel_has() {
        let machine = Machine::at(Path::new("/"));
        for name in [
            "net.core.somaxconn",
            "net.ipv4.tcp_slow_start_after_idle",
            "net.ipv4.tcp_wmem",
            "fs.pipe-max-size",
        ] {
            let state = state(&machine, name);
            let is_read = matches!(state, State::Right { .. } | State::Differs { .. });
            assert!(is_read, "{name}: {state:?}");
        }
        assert!(!machine.boot().is_empty());
    }
}
