//! The settings of this machine: read, judged, and written.

use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use super::knobs::{Knob, Place, Wanted, When};
use super::module;
use super::settings::{Setting, names};
use super::table::KNOBS;
use crate::cli::doctor::facts::{parse_limit, parse_release};

/// Where a machine's settings are: its root directory.
#[derive(Clone, Debug)]
pub struct Machine {
    root: PathBuf,
}

/// A setting and how it stands.
#[derive(Clone, Debug)]
pub struct Survey {
    /// What was looked at.
    pub setting: Setting,
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
    /// The guide has no value for everybody.
    Depends {
        /// Its value.
        current: String,
    },
    /// This machine, its kernel, or this network namespace, does not have it.
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

    /// Looks at every setting. Changes nothing.
    #[must_use]
    pub fn survey(&self) -> Vec<Survey> {
        let of = |setting: Setting| Survey {
            state: self.state(&setting),
            setting,
        };
        let settings = |knob: &Knob| knob.settings(&self.root);
        KNOBS.iter().flat_map(settings).map(of).collect()
    }

    /// A setting's value, its blanks made one space each.
    ///
    /// # Errors
    /// Those of open(2) and read(2); `NotFound` when this machine does not have it.
    pub fn read(&self, setting: &Setting) -> io::Result<String> {
        let path = self.root.join(&setting.path);
        match setting.knob.place {
            Place::Sysctl | Place::Files(_) | Place::Group { .. } => {
                Ok(chosen(&plain(&fs::read_to_string(path)?)))
            }
            Place::Module(name) => module::state(&self.root, name),
            Place::BootParameter => boot_parameter(&fs::read_to_string(path)?, setting.knob.name),
            Place::Limit { line, .. } => hard_limit(&fs::read_to_string(path)?, line),
        }
    }

    /// Whether a setting may be written, without writing it.
    ///
    /// # Errors
    /// Those of open(2).
    pub fn may_write(&self, setting: &Setting) -> io::Result<()> {
        if let Place::Module(_) = setting.knob.place {
            return module::may_change(&self.root);
        }
        self.open(setting, false).map(drop)
    }

    /// Writes a setting, and gives the value that it has then: the kernel may round.
    ///
    /// # Errors
    /// Those of open(2), write(2) and read(2), and of loading a module: `EINVAL` for what the kernel does
    /// not take, and for what is no value of such a setting.
    pub fn write(&self, setting: &Setting, value: &str) -> io::Result<String> {
        if !setting.knob.wanted.is_sound(value) {
            return Err(ErrorKind::InvalidInput.into());
        }
        if let Place::Module(name) = setting.knob.place {
            module::change(&self.root, name, value)?;
            return self.read(setting);
        }
        // One call: the kernel takes each write as a whole value. Cutting is for files that are none of
        // the kernel's, and done as the shell's `>` does it.
        self.open(setting, true)?
            .write_all(format!("{value}\n").as_bytes())?;
        self.read(setting)
    }

    /// What would have to be there in place of this value; `None`: it is right.
    ///
    /// # Errors
    /// Nothing can be said about such a value.
    pub fn correction(
        &self,
        setting: &Setting,
        value: &str,
    ) -> Result<Option<String>, super::knobs::NotUnderstood> {
        let wanted = setting.knob.wanted;
        let correction = wanted.correction(value, &self.cpus_for(setting))?;
        let is_asked_for = || {
            setting
                .knob
                .when
                .iter()
                .all(|when| self.holds(*when, setting))
        };
        Ok(correction.filter(|_| is_asked_for()))
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

    fn state(&self, setting: &Setting) -> State {
        let current = match self.read(setting) {
            Ok(current) => current,
            Err(error) if error.kind() == ErrorKind::NotFound => return State::Absent,
            Err(error) => {
                return State::Unknown {
                    reason: error.to_string(),
                };
            }
        };
        if setting.knob.wanted == Wanted::Depends {
            return State::Depends { current };
        }
        match self.correction(setting, &current) {
            Ok(None) => State::Right { current },
            Ok(Some(recommended)) => State::Differs {
                current,
                recommended,
            },
            Err(_) => State::Unknown {
                reason: format!("{current:?} is not what such a setting is made of"),
            },
        }
    }

    fn holds(&self, when: When, setting: &Setting) -> bool {
        let beside = |name: &str| self.text(&setting.beside(name));
        match when {
            When::Lacks(name) => !self.root.join(setting.beside(name)).exists(),
            When::Offers(name, word) => beside(name).split(' ').any(|offered| offered == word),
            When::BesideAtLeast(name, least) => beside(name)
                .parse()
                .is_ok_and(|number: u64| number >= least),
            When::OneReceiveQueue => {
                let has_one = |interface: &str| self.queues(interface, "rx-") == 1;
                let is_one = match setting.interface() {
                    Some(interface) => has_one(interface),
                    None => self.interfaces().iter().any(|interface| has_one(interface)),
                };
                is_one && self.cpus().len() > 1
            }
            When::QueueForEachCpu => {
                let cpus = self.cpus();
                let queues = setting.interface().map_or(0, |it| self.queues(it, "tx-"));
                let is_own = transmit_queue(setting).is_some_and(|queue| queue < cpus.len());
                is_own && cpus.len() > 1 && queues >= cpus.len()
            }
            When::SeveralNodes => self.root.join("sys/devices/system/node/node1").exists(),
            When::KernelBefore(major, minor) => {
                parse_release(&self.text(RELEASE)).is_some_and(|version| version < (major, minor))
            }
        }
    }

    /// The mask of all CPUs, or for a transmit queue that of its own.
    fn cpus_for(&self, setting: &Setting) -> String {
        if setting.knob.wanted != Wanted::Cpus {
            return String::new();
        }
        let cpus = self.cpus();
        match transmit_queue(setting) {
            Some(queue) => mask(cpus.get(queue..=queue).unwrap_or_default()),
            None => mask(&cpus),
        }
    }

    /// The numbers of the CPUs that run.
    fn cpus(&self) -> Vec<usize> {
        let list = self.text("sys/devices/system/cpu/online");
        list.split(',').flat_map(range).take(CPUS_MAX).collect()
    }

    fn interfaces(&self) -> Vec<String> {
        let rps = KNOBS.iter().find(|knob| knob.name == "rps_cpus");
        rps.map(|knob| knob.settings(&self.root))
            .unwrap_or_default()
            .iter()
            .filter_map(|setting| setting.interface().map(str::to_owned))
            .collect()
    }

    fn queues(&self, interface: &str, kind: &str) -> usize {
        names(&self.root.join(format!("sys/class/net/{interface}/queues")))
            .iter()
            .filter(|name| name.starts_with(kind))
            .count()
    }

    /// A file's words; none when it cannot be read.
    fn text(&self, path: &str) -> String {
        fs::read_to_string(self.root.join(path))
            .map(|text| plain(&text))
            .unwrap_or_default()
    }

    /// Never made: it is a setting of the kernel or nothing.
    fn open(&self, setting: &Setting, is_cut: bool) -> io::Result<fs::File> {
        let file = fs::OpenOptions::new()
            .write(true)
            .truncate(is_cut)
            .open(self.root.join(&setting.path))?;
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

/// Of a list of choices, as `always [madvise] never`, the one that holds; anything else as it is.
fn chosen(value: &str) -> String {
    let is_chosen = |word: &&str| word.starts_with('[') && word.ends_with(']');
    let word = value.split(' ').find(is_chosen).unwrap_or(value);
    word.trim_start_matches('[')
        .trim_end_matches(']')
        .to_owned()
}

/// The last word `name=value`, which is the one that counts.
fn boot_parameter(line: &str, name: &str) -> io::Result<String> {
    line.split_ascii_whitespace()
        .rev()
        .find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
        .map(str::to_owned)
        .ok_or_else(|| ErrorKind::NotFound.into())
}

fn hard_limit(limits: &str, line: &str) -> io::Result<String> {
    let limit = parse_limit(limits, line).ok_or(ErrorKind::InvalidData)?;
    let word = limit.hard.map(|number| number.to_string());
    Ok(word.unwrap_or_else(|| "unlimited".to_owned()))
}

/// The number of the queue whose map this is.
fn transmit_queue(setting: &Setting) -> Option<usize> {
    let (_, queue) = setting.path.split_once("/queues/tx-")?;
    queue.split('/').next()?.parse().ok()
}

/// Of a list as "0-3,8" one part.
fn range(part: &str) -> std::ops::RangeInclusive<usize> {
    let (first, last) = part.split_once('-').unwrap_or((part, part));
    match (first.parse(), last.parse::<usize>()) {
        (Ok(first), Ok(last)) => first..=last.min(CPUS_MAX),
        _ => NO_CPU,
    }
}

/// As the kernel reads and writes it: groups of eight hexadecimal digits, the one of the lowest CPUs last.
fn mask(cpus: &[usize]) -> String {
    let groups = cpus.iter().max().map_or(1, |highest| highest / 32 + 1);
    let mut text = String::new();
    for group in (0..groups).rev() {
        let of_group = cpus.iter().filter(|cpu| *cpu / 32 == group);
        let bits = of_group.fold(0_u32, |bits, cpu| bits | 1 << (cpu % 32));
        text.push_str(&match text.is_empty() {
            true => format!("{bits:x}"),
            false => format!(",{bits:08x}"),
        });
    }
    text
}

const RELEASE: &str = "proc/sys/kernel/osrelease";

/// More than any kernel is built for (CONFIG_NR_CPUS).
const CPUS_MAX: usize = 8192;
#[expect(clippy::reversed_empty_ranges, reason = "it is to be empty")]
const NO_CPU: std::ops::RangeInclusive<usize> = 1..=0;

#[cfg(test)]
pub(super) mod testing {
    use tempfile::TempDir;

    use super::*;

    /// A root directory with these settings of sysctl(8) and a boot id.
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
        put(root, &sysctl(name), &format!("{value}\n"));
    }

    pub(in crate::cli::tune) fn get(root: &TempDir, name: &str) -> String {
        contents(root, &sysctl(name))
    }

    pub(in crate::cli::tune) fn put(root: &TempDir, path: &str, text: &str) {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub(in crate::cli::tune) fn contents(root: &TempDir, path: &str) -> String {
        plain(&fs::read_to_string(root.path().join(path)).unwrap())
    }

    pub(in crate::cli::tune) fn state(machine: &Machine, name: &str) -> State {
        let survey = machine.survey();
        let found = survey.into_iter().find(|found| found.setting.name == name);
        found.unwrap_or_else(|| panic!("{name}")).state
    }

    pub(in crate::cli::tune) fn right(current: &str) -> State {
        let current = current.to_owned();
        State::Right { current }
    }

    pub(in crate::cli::tune) fn differs(current: &str, recommended: &str) -> State {
        State::Differs {
            current: current.to_owned(),
            recommended: recommended.to_owned(),
        }
    }

    fn sysctl(name: &str) -> String {
        format!("proc/sys/{}", name.replace('.', "/"))
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{differs, get, machine, right, state};
    use super::*;

    #[test]
    fn each_setting_is_right_or_differs_or_is_not_there() {
        let (_root, machine) = machine(&[
            ("net.core.somaxconn", "128"),
            ("net.ipv4.tcp_syncookies", "1"),
            ("net.ipv4.tcp_wmem", "4096\t16384\t65536"),
            ("net.ipv4.tcp_sack", "yes"),
            ("net.ipv4.tcp_congestion_control", "cubic"),
        ]);
        let of = |name| state(&machine, name);
        assert_eq!(of("net.core.somaxconn"), differs("128", "4096"));
        let wmem = differs("4096 16384 65536", "4096 16384 4194304");
        assert_eq!(of("net.ipv4.tcp_wmem"), wmem);
        assert_eq!(of("net.ipv4.tcp_syncookies"), right("1"));
        assert_eq!(of("fs.nr_open"), State::Absent);
        assert!(matches!(of("net.ipv4.tcp_sack"), State::Unknown { .. }));
        let current = "cubic".to_owned();
        let control = of("net.ipv4.tcp_congestion_control");
        assert_eq!(control, State::Depends { current });
    }

    #[test]
    fn only_numbers_are_written_and_nothing_is_made() {
        let (root, machine) = machine(&[("net.core.somaxconn", "128")]);
        let setting = |name| {
            let knob = KNOBS.iter().find(|knob| knob.name == name).unwrap();
            knob.settings(root.path()).remove(0)
        };
        let somaxconn = setting("net.core.somaxconn");
        assert_eq!(machine.write(&somaxconn, "4096").unwrap(), "4096");
        for wrong in ["", "x", "1; reboot", "-1"] {
            let error = machine.write(&somaxconn, wrong).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{wrong:?}");
        }
        assert_eq!(get(&root, "net.core.somaxconn"), "4096");
        let absent = setting("fs.nr_open");
        let error = machine.write(&absent, "1").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(!root.path().join(absent.path).exists());
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
        assert!(!machine.cpus().is_empty());
    }

    #[test]
    fn masks_are_written_as_the_kernel_reads_them() {
        assert_eq!(mask(&[]), "0");
        assert_eq!(mask(&[0, 1]), "3");
        assert_eq!(mask(&[4]), "10");
        let forty: Vec<usize> = (0..40).collect();
        assert_eq!(mask(&forty), "ff,ffffffff");
        assert_eq!(mask(&[64]), "1,00000000,00000000");
        let list = |text: &str| text.split(',').flat_map(range).collect::<Vec<_>>();
        assert_eq!(list("0-2,8"), [0, 1, 2, 8]);
        assert_eq!(list("0"), [0]);
        for nonsense in ["", "x", "3-", "-1", "2-1"] {
            assert_eq!(list(nonsense), [0_usize; 0], "{nonsense}");
        }
        assert!(list("0-18446744073709551615").len() <= CPUS_MAX + 1);
    }

    #[test]
    fn of_choices_the_one_in_brackets_counts() {
        assert_eq!(chosen("always [madvise] never"), "madvise");
        assert_eq!(chosen("4096 16384 65536"), "4096 16384 65536");
        assert_eq!(chosen(""), "");
    }

    #[test]
    fn of_a_boot_parameter_the_last_counts() {
        let line = "quiet mitigations=auto,nosmt init_on_alloc=1 init_on_alloc=0 mitigations_x=1\n";
        let value = |name| boot_parameter(line, name).ok();
        assert_eq!(value("init_on_alloc").as_deref(), Some("0"));
        assert_eq!(value("mitigations").as_deref(), Some("auto,nosmt"));
        assert_eq!((value("quiet"), value("alloc")), (None, None));
    }
}
