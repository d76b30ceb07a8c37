//! `--apply` and `--undo`.

use std::io::{self, ErrorKind};

use super::machine::{Machine, State, plain};
use super::record::{Change, Record, Store, now_s};
use super::settings::Setting;
use super::table::KNOBS;

/// What became of one setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// Its name.
    pub name: String,
    /// The value before, and the one that was to be set.
    pub from: String,
    /// See `from`.
    pub to: String,
    /// What became of it.
    pub outcome: Outcome,
}

/// See [`Done`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It has the new value.
    Set,
    /// It had that value already.
    Already,
    /// Somebody else has changed it since: it stays.
    ChangedSince,
    /// It is not there any more, as that of an interface that is gone: there is nothing to restore.
    Gone,
    /// It could not be set.
    Failed(String),
}

/// Why nothing was changed.
#[derive(Debug)]
pub enum Refused {
    /// A setting may not be written.
    Setting {
        /// Its name.
        name: String,
        /// Why.
        error: io::Error,
    },
    /// The record cannot be read or written.
    Record {
        /// Its file.
        path: String,
        /// Why.
        error: io::Error,
    },
    /// The record names something that this program never sets.
    Foreign {
        /// The record's file.
        path: String,
        /// What it names.
        what: String,
    },
}

/// Sets what differs, except what is left to the operator.
///
/// # Errors
/// See [`Refused`]; nothing is changed then.
pub fn apply(machine: &Machine) -> Result<Vec<Done>, Refused> {
    let mut wanted = Vec::new();
    for found in machine.survey() {
        if let (
            State::Differs {
                current,
                recommended,
            },
            None,
        ) = (found.state, found.setting.knob.left_because)
        {
            wanted.push((found.setting, current, recommended));
        }
    }
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    for (setting, ..) in &wanted {
        may_write(machine, setting)?;
    }
    let store = open(machine)?;
    let of_record = |error| of_record(&store, error);
    let boot = machine.boot();
    let mut record = match store.load().map_err(of_record)? {
        Some(record) if record.boot == boot => record,
        // Those of an earlier start are gone.
        _ => Record {
            boot,
            ..Record::default()
        },
    };
    let earlier = record.changes.clone();
    let planned = planned(&wanted);
    record.changes.extend(planned.iter().cloned());
    store.save(&record).map_err(of_record)?;
    record.changes = earlier;
    let mut done = Vec::new();
    for ((setting, ..), mut change) in wanted.iter().zip(planned) {
        let outcome = set(machine, setting, &mut change);
        done.push(Done {
            name: change.name.clone(),
            from: change.old.clone(),
            to: change.new.clone(),
            outcome,
        });
        // Also when it has become another value than it should: it was this program.
        if change.new != change.old {
            record.changes.push(change);
        }
    }
    store.save(&record).map_err(of_record)?;
    Ok(done)
}

fn planned(wanted: &[(Setting, String, String)]) -> Vec<Change> {
    let time_s = now_s();
    let of = |(setting, old, new): &(Setting, String, String)| Change {
        name: setting.name.clone(),
        path: format!("/{}", setting.path),
        old: old.clone(),
        new: new.clone(),
        time_s,
    };
    wanted.iter().map(of).collect()
}

/// Writes a setting, and notes in `change` what it has become.
fn set(machine: &Machine, setting: &Setting, change: &mut Change) -> Outcome {
    let written = machine.write(setting, &change.new);
    let outcome = match &written {
        Ok(now) if matches!(machine.correction(setting, now), Ok(None)) => Outcome::Set,
        Ok(now) => Outcome::Failed(format!("the kernel made it {now}")),
        Err(error) => Outcome::Failed(error.to_string()),
    };
    change.new = match (written, machine.read(setting)) {
        (Ok(now), _) | (Err(_), Ok(now)) => now,
        // What can neither be written nor read has not been changed.
        (Err(_), Err(_)) => change.old.clone(),
    };
    outcome
}

/// Restores what was recorded, the latest first; what somebody else has changed since stays. `None`:
/// nothing is recorded of this start of the machine.
///
/// # Errors
/// See [`Refused`]; nothing is changed then.
pub fn undo(machine: &Machine) -> Result<Option<Vec<Done>>, Refused> {
    // Looked at without the lock first: where there is nothing, nothing is made.
    match super::record::load(&machine.record_directory()) {
        Ok(None) => return Ok(None),
        Ok(Some(_)) => {}
        Err(error) => {
            let path = machine.record_directory().join("tune.json");
            return Err(Refused::Record {
                path: path.display().to_string(),
                error,
            });
        }
    }
    let store = open(machine)?;
    let of_record = |error| of_record(&store, error);
    let Some(mut record) = store.load().map_err(of_record)? else {
        return Ok(None);
    };
    if record.boot != machine.boot() {
        store.save(&Record::default()).map_err(of_record)?;
        return Ok(None);
    }
    let settings = settings_of(&record, &store)?;
    for (setting, change) in settings.iter().zip(&record.changes) {
        let now = machine.read(setting);
        if now.is_ok_and(|now| now == plain(&change.new)) {
            may_write(machine, setting)?;
        }
    }
    let mut done = Vec::new();
    let mut left = Vec::new();
    for (setting, change) in settings.iter().zip(&record.changes).rev() {
        let outcome = restore(machine, setting, change);
        if matches!(outcome, Outcome::Failed(_)) {
            left.push(change.clone());
        }
        done.push(Done {
            name: change.name.clone(),
            from: change.new.clone(),
            to: change.old.clone(),
            outcome,
        });
    }
    left.reverse();
    record.changes = left;
    store.save(&record).map_err(of_record)?;
    Ok(Some(done))
}

fn restore(machine: &Machine, setting: &Setting, change: &Change) -> Outcome {
    let (old, new) = (plain(&change.old), plain(&change.new));
    match machine.read(setting) {
        Ok(now) if now == old => Outcome::Already,
        Ok(now) if now != new => Outcome::ChangedSince,
        Ok(_) => match machine.write(setting, &old) {
            Ok(now) if now == old => Outcome::Set,
            Ok(now) => Outcome::Failed(format!("the kernel made it {now}")),
            Err(error) => Outcome::Failed(error.to_string()),
        },
        Err(error) if error.kind() == ErrorKind::NotFound => Outcome::Gone,
        Err(error) => Outcome::Failed(error.to_string()),
    }
}

/// The setting of each change, which need not be there any more. Whatever else a record names is not this
/// program's to write.
fn settings_of(record: &Record, store: &Store) -> Result<Vec<Setting>, Refused> {
    let of = |change: &Change| {
        let path = change.path.trim_start_matches('/');
        let found = KNOBS
            .iter()
            .filter(|knob| knob.left_because.is_none())
            .filter_map(|knob| knob.setting_at(path))
            .find(|setting| setting.name == change.name);
        let is_sound = |setting: &Setting| {
            let wanted = setting.knob.wanted;
            wanted.is_sound(&plain(&change.old)) && wanted.is_sound(&plain(&change.new))
        };
        found.filter(is_sound).ok_or_else(|| Refused::Foreign {
            path: store.path().display().to_string(),
            what: format!("{} = {}", change.name, change.old),
        })
    };
    record.changes.iter().map(of).collect()
}

fn may_write(machine: &Machine, setting: &Setting) -> Result<(), Refused> {
    let refused = |error| Refused::Setting {
        name: setting.name.clone(),
        error,
    };
    machine.may_write(setting).map_err(refused)
}

fn open(machine: &Machine) -> Result<Store, Refused> {
    let directory = machine.record_directory();
    Store::open(&directory).map_err(|error| Refused::Record {
        path: directory.display().to_string(),
        error,
    })
}

fn of_record(store: &Store, error: io::Error) -> Refused {
    Refused::Record {
        path: store.path().display().to_string(),
        error,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::super::machine::testing::{get, machine, set};
    use super::super::record;
    use super::*;

    const BUSY: &str = "net.core.busy_poll";
    const IDLE: &str = "net.ipv4.tcp_slow_start_after_idle";
    const QUEUE: &str = "net.core.somaxconn";
    const SEND: &str = "net.ipv4.tcp_wmem";

    fn untuned() -> (TempDir, Machine) {
        machine(&[
            (QUEUE, "128"),
            (IDLE, "1"),
            (SEND, "4096\t16384\t65536"),
            (BUSY, "50"),
            ("net.ipv4.tcp_syncookies", "1"),
        ])
    }

    /// A small number that can be read and that not even the superuser may write, which no file of a
    /// test's own is.
    const UNWRITABLE: &str = "/proc/sys/kernel/cap_last_cap";

    fn both(first: &str, second: &str) -> (String, String) {
        (first.to_owned(), second.to_owned())
    }

    fn recorded(machine: &Machine) -> Option<Record> {
        record::load(&machine.record_directory()).unwrap()
    }

    fn outcomes(done: &[Done]) -> Vec<(&str, &Outcome)> {
        done.iter()
            .map(|done| (done.name.as_str(), &done.outcome))
            .collect()
    }

    #[test]
    fn what_differs_is_set_and_recorded_and_nothing_else() {
        let (root, machine) = untuned();
        let done = apply(&machine).unwrap();
        let set = &Outcome::Set;
        assert_eq!(outcomes(&done), [(QUEUE, set), (IDLE, set), (SEND, set)]);
        assert_eq!(get(&root, QUEUE), "4096");
        assert_eq!(get(&root, IDLE), "0");
        assert_eq!(get(&root, SEND), "4096 16384 4194304");
        assert_eq!(get(&root, BUSY), "50");
        let record = recorded(&machine).unwrap();
        assert_eq!(record.boot, "first");
        let first = record.changes.first().unwrap();
        assert_eq!(first.path, "/proc/sys/net/core/somaxconn");
        assert_eq!((&*first.old, &*first.new), ("128", "4096"));
        assert!(first.time_s > 1_700_000_000);
        // Once more: nothing differs, and the record is what it was.
        assert_eq!(apply(&machine).unwrap(), []);
        assert_eq!(recorded(&machine), Some(record));
    }

    #[test]
    fn undo_restores_exactly_what_was_recorded_in_reverse_order() {
        let (root, machine) = untuned();
        apply(&machine).unwrap();
        // Between the two somebody takes a value back, and it is applied again.
        set(&root, QUEUE, "256");
        apply(&machine).unwrap();
        let done = undo(&machine).unwrap().unwrap();
        let (set, since) = (&Outcome::Set, &Outcome::ChangedSince);
        let expected = [(QUEUE, set), (SEND, set), (IDLE, set), (QUEUE, since)];
        assert_eq!(outcomes(&done), expected);
        assert_eq!(get(&root, QUEUE), "256");
        assert_eq!(get(&root, IDLE), "1");
        assert_eq!(get(&root, SEND), "4096 16384 65536");
        assert_eq!(recorded(&machine), None);
        assert_eq!(undo(&machine).unwrap(), None);
    }

    #[test]
    fn what_somebody_else_has_changed_since_stays() {
        let (root, machine) = untuned();
        apply(&machine).unwrap();
        set(&root, QUEUE, "8192");
        set(&root, IDLE, "1");
        let done = undo(&machine).unwrap().unwrap();
        let expected = [
            (SEND, &Outcome::Set),
            (IDLE, &Outcome::Already),
            (QUEUE, &Outcome::ChangedSince),
        ];
        assert_eq!(outcomes(&done), expected);
        assert_eq!(get(&root, QUEUE), "8192");
        assert_eq!(recorded(&machine), None);
    }

    #[test]
    fn a_record_of_an_earlier_start_undoes_nothing() {
        let (root, machine) = untuned();
        apply(&machine).unwrap();
        set(&root, "kernel.random.boot_id", "second");
        assert_eq!(undo(&machine).unwrap(), None);
        assert_eq!(get(&root, QUEUE), "4096");
        assert_eq!(recorded(&machine), None);
        // Applied in this start, only this start's changes are kept.
        set(&root, QUEUE, "64");
        apply(&machine).unwrap();
        let record = recorded(&machine).unwrap();
        assert_eq!((record.boot.as_str(), record.changes.len()), ("second", 1));
    }

    #[test]
    fn what_may_not_be_written_is_refused_before_anything_is_changed() {
        let (root, machine) = untuned();
        replace(&root, QUEUE, UNWRITABLE);
        match apply(&machine) {
            Err(Refused::Setting { name, .. }) => assert_eq!(name, QUEUE),
            other => panic!("{other:?}"),
        }
        assert_eq!(
            (get(&root, IDLE), get(&root, SEND)),
            both("1", "4096 16384 65536")
        );
        assert_eq!(recorded(&machine), None);
        assert!(!machine.record_directory().exists());
    }

    #[test]
    fn what_may_not_be_written_is_not_undone_in_part() {
        let (root, machine) = untuned();
        apply(&machine).unwrap();
        let mut record = recorded(&machine).unwrap();
        let change = record.changes.first_mut().unwrap();
        change.new = fs::read_to_string(UNWRITABLE).unwrap().trim().to_owned();
        let store = Store::open(&machine.record_directory()).unwrap();
        store.save(&record).unwrap();
        drop(store);
        replace(&root, QUEUE, UNWRITABLE);
        assert!(matches!(undo(&machine), Err(Refused::Setting { .. })));
        assert_eq!(get(&root, IDLE), "0");
        assert_eq!(recorded(&machine), Some(record));
    }

    #[test]
    fn what_cannot_be_restored_stays_recorded() {
        let (root, machine) = untuned();
        apply(&machine).unwrap();
        let path = root.path().join("proc/sys/net/ipv4/tcp_wmem");
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        let done = undo(&machine).unwrap().unwrap();
        assert!(matches!(done.first().unwrap().outcome, Outcome::Failed(_)));
        assert_eq!((get(&root, QUEUE), get(&root, IDLE)), both("128", "1"));
        let left = recorded(&machine).unwrap().changes;
        let names: Vec<&str> = left.iter().map(|change| change.name.as_str()).collect();
        assert_eq!(names, [SEND]);
    }

    fn replace(root: &TempDir, name: &str, target: &str) {
        let path = root.path().join("proc/sys").join(name.replace('.', "/"));
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(target, &path).unwrap();
    }

    #[test]
    fn a_record_that_cannot_be_kept_is_a_reason_to_change_nothing() {
        let (root, machine) = untuned();
        fs::write(root.path().join("var"), "a file").unwrap();
        assert!(matches!(apply(&machine), Err(Refused::Record { .. })));
        assert_eq!(get(&root, QUEUE), "128");
        fs::remove_file(root.path().join("var")).unwrap();
        fs::create_dir_all(machine.record_directory()).unwrap();
        fs::write(machine.record_directory().join("tune.json"), "{").unwrap();
        assert!(matches!(apply(&machine), Err(Refused::Record { .. })));
        assert!(matches!(undo(&machine), Err(Refused::Record { .. })));
        assert_eq!(get(&root, QUEUE), "128");
    }

    #[test]
    fn a_record_that_names_anything_else_is_refused_as_a_whole() {
        for (name, old) in [
            ("kernel.core_pattern", "1"),
            (BUSY, "0"),
            ("../../etc/passwd", "1"),
            (QUEUE, "|/bin/sh"),
        ] {
            let (root, machine) = untuned();
            apply(&machine).unwrap();
            let mut record = recorded(&machine).unwrap();
            let change = record.changes.first_mut().unwrap();
            change.name = name.to_owned();
            change.old = old.to_owned();
            let store = Store::open(&machine.record_directory()).unwrap();
            store.save(&record).unwrap();
            drop(store);
            let refused = undo(&machine);
            assert!(matches!(refused, Err(Refused::Foreign { .. })), "{name}");
            assert_eq!(get(&root, IDLE), "0", "{name}");
        }
    }
}
