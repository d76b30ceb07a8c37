//! The settings that a knob is on a machine: one file, a file for each CPU, queue or interface, or one
//! for each process of the service that runs.

use std::fs;
use std::path::Path;

use super::knobs::{Knob, Place};

/// One setting of a machine.
#[derive(Clone, Debug)]
pub struct Setting {
    /// What it is one of.
    pub knob: Knob,
    /// The knob's name, and what of several it is: "rps_cpus eth0/rx-0".
    pub name: String,
    /// Its file beneath the root directory. Of a knob that is nowhere on this machine, the pattern.
    pub path: String,
}

impl Setting {
    /// The file of that name beside this one's, or the one with that path from there on.
    #[must_use]
    pub fn beside(&self, name: &str) -> String {
        let folder = self.path.rsplit_once('/').map_or("", |(folder, _)| folder);
        format!("{folder}/{name}")
    }

    /// The network interface that it belongs to.
    #[must_use]
    pub fn interface(&self) -> Option<&str> {
        self.path.strip_prefix(INTERFACES)?.split('/').next()
    }
}

impl Knob {
    /// Its settings beneath `root`; at least one, which is nowhere if there is none.
    #[must_use]
    pub fn settings(&self, root: &Path) -> Vec<Setting> {
        let found: Vec<Setting> = match self.place {
            Place::Files(pattern) => files(root, pattern)
                .iter()
                .filter_map(|path| self.setting_at(path))
                .collect(),
            Place::Limit { .. } => processes(root)
                .iter()
                .map(|process| self.of(process, format!("proc/{process}/limits")))
                .collect(),
            Place::Group { .. } => groups(root)
                .iter()
                .map(|group| self.of(group, format!("{GROUPS}{group}/{}", self.name)))
                .filter(|setting| root.join(&setting.path).exists())
                .collect(),
            Place::Sysctl | Place::Module(_) | Place::BootParameter => vec![self.only()],
        };
        match found.is_empty() {
            true => vec![self.only()],
            false => found,
        }
    }

    /// The setting at this path, whether it is there or not, if this knob can be set there.
    #[must_use]
    pub fn setting_at(&self, path: &str) -> Option<Setting> {
        let Place::Files(pattern) = self.place else {
            let only = self.only();
            return (only.path == path).then_some(only);
        };
        let names = matched(pattern, path)?;
        Some(self.of(&names.join("/"), path.to_owned()))
    }

    fn only(&self) -> Setting {
        let path = match self.place {
            Place::Sysctl => format!("proc/sys/{}", self.name.replace('.', "/")),
            Place::Files(pattern) => pattern.to_owned(),
            Place::Module(name) => format!("sys/module/{name}"),
            Place::BootParameter => "proc/cmdline".to_owned(),
            Place::Limit { .. } => "proc/*/limits".to_owned(),
            Place::Group { .. } => format!("{GROUPS}/*/{}", self.name),
        };
        self.of("", path)
    }

    fn of(&self, which: &str, path: String) -> Setting {
        let name = match which {
            "" => self.name.to_owned(),
            which => format!("{} {which}", self.name),
        };
        Setting {
            knob: *self,
            name,
            path,
        }
    }
}

/// The names in `path` that stand where the pattern has a `*`; `None` for a path that is not like it.
fn matched<'a>(pattern: &str, path: &'a str) -> Option<Vec<&'a str>> {
    let mut names = Vec::new();
    let mut parts = path.split('/');
    for wanted in pattern.split('/') {
        let part = parts.next()?;
        let Some((before, after)) = wanted.split_once('*') else {
            if part != wanted {
                return None;
            }
            continue;
        };
        let any = part.strip_prefix(before)?.strip_suffix(after)?;
        let is_plain = |character: char| !character.is_whitespace() && !character.is_control();
        if any.is_empty() || [".", ".."].contains(&part) || !part.chars().all(is_plain) {
            return None;
        }
        names.push(part);
    }
    parts.next().is_none().then_some(names)
}

/// The paths beneath `root` that are like the pattern, in the order of their numbers.
fn files(root: &Path, pattern: &str) -> Vec<String> {
    let mut paths = vec![String::new()];
    for part in pattern.split('/') {
        let join = |path: &str, name: &str| match path {
            "" => name.to_owned(),
            path => format!("{path}/{name}"),
        };
        let extend = |path: String| match part.contains('*') {
            false => vec![join(&path, part)],
            true => names(&root.join(&path))
                .into_iter()
                .filter(|name| matched(part, name).is_some())
                .map(|name| join(&path, &name))
                .filter(|path| is_counted(root, path))
                .collect(),
        };
        paths = paths.into_iter().flat_map(extend).collect();
    }
    paths.retain(|path| root.join(path).exists());
    paths
}

/// Whether a path counts that leads to a network interface: one that is up and has a device. Packets of
/// others have passed one of those, or none, and their settings are their owners'.
fn is_counted(root: &Path, path: &str) -> bool {
    let is_interface = path
        .strip_prefix(INTERFACES)
        .is_some_and(|name| !name.contains('/'));
    if !is_interface {
        return true;
    }
    let folder = root.join(path);
    let flags = fs::read_to_string(folder.join("flags")).unwrap_or_default();
    let flags = u32::from_str_radix(flags.trim().trim_start_matches("0x"), 16).unwrap_or(0);
    flags & IFF_UP != 0 && folder.join("device").exists()
}

/// The names in a directory, those with shorter numbers first; none where it cannot be read.
pub(super) fn names(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    names.sort_by(|a, b| (a.len(), a).cmp(&(b.len(), b)));
    names
}

/// The processes that serve: named as this program, by a command that serves.
fn processes(root: &Path) -> Vec<String> {
    let folder = root.join("proc");
    let serves = |process: &String| {
        let read = |name: &str| fs::read_to_string(folder.join(process).join(name));
        let is_named = read("comm").is_ok_and(|name| name.trim_end() == "portcullis");
        is_named
            && read("cmdline").is_ok_and(|line| {
                line.split('\0')
                    .skip(1)
                    .any(|word| ["run", "serve"].contains(&word))
            })
    };
    names(&folder)
        .into_iter()
        .filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
        .filter(serves)
        .collect()
}

/// The control groups (version 2) of those, and the groups above them, each once.
fn groups(root: &Path) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for process in processes(root) {
        let path = root.join("proc").join(process).join("cgroup");
        let text = fs::read_to_string(path).unwrap_or_default();
        let Some(group) = text.lines().find_map(|line| line.strip_prefix("0::")) else {
            continue;
        };
        // Outside of what this control group namespace sees.
        if group.split('/').any(|part| part == "..") {
            continue;
        }
        let mut group = group.trim_end_matches('/');
        loop {
            if !found.iter().any(|known| known == group) {
                found.push(group.to_owned());
            }
            match group.rsplit_once('/') {
                Some((above, _)) => group = above,
                None => break,
            }
        }
    }
    found
}

const GROUPS: &str = "sys/fs/cgroup";
const INTERFACES: &str = "sys/class/net/";
const IFF_UP: u32 = 1;
