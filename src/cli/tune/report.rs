//! What `tune` says, to people and to programs.

use std::fmt::Write as _;
use std::io::ErrorKind;

use super::change::{Done, Outcome, Refused};
use super::knobs::{Knob, Place};
use super::machine::{State, Survey};
use super::settings::Setting;
use crate::proto::json::JsonWriter;

/// What there is to say after `--apply` when nothing differed.
pub(super) const APPLIED_NOTHING: &str = "Nothing differs: nothing was changed.";

/// What there is to say after `--undo` when nothing was recorded.
pub(super) const UNDID_NOTHING: &str =
    "Nothing is recorded since this machine was started: nothing was changed.";

/// The settings as text: what differs with the reason, the rest in a line each. Those of one knob that
/// stand alike are told together.
#[must_use]
pub fn survey(found: &[Survey]) -> String {
    let mut text = String::new();
    for (found, count) in together(found) {
        let Survey { setting, state } = found;
        let knob = &setting.knob;
        let name = match count {
            1 => setting.name.clone(),
            count => format!("{} and {} more", setting.name, count - 1),
        };
        let word = word(knob, state);
        // Writing to a String cannot fail.
        let _ = match state {
            State::Right { current } => writeln!(text, "{word:<8} {name} = {current}"),
            State::Absent => writeln!(text, "{word:<8} {name}"),
            State::Unknown { reason } => writeln!(text, "{word:<8} {name}: {reason}"),
            State::Depends { current } => {
                let because = knob.left_because.unwrap_or("it depends");
                let page = knob.guide.path();
                let _ = writeln!(text, "{word:<8} {name} = {current}");
                writeln!(text, "{INDENT}Left to you: {because}. More: {page}")
            }
            State::Differs {
                current,
                recommended,
            } => {
                let wanted = knob.wanted.describe();
                let _ = writeln!(text, "{word:<8} {name} = {current}, recommended: {wanted}");
                let _ = writeln!(text, "{INDENT}{}", knob.why);
                if let Some(because) = knob.left_because {
                    let _ = writeln!(text, "{INDENT}Left to you: {because}.");
                }
                let how = how_to_set(setting, recommended, count);
                let _ = writeln!(text, "{INDENT}To set: {how}");
                writeln!(text, "{INDENT}More: {}", knob.guide.path())
            }
        };
    }
    let verdict = match found.iter().filter(|found| is_to_set(found)).count() {
        0 => "This machine is as the guide recommends.".to_owned(),
        1 => format!("One setting differs. {HOW_TO_SET}"),
        count => format!("{count} settings differ. {HOW_TO_SET}"),
    };
    let _ = writeln!(text, "\n{verdict}");
    text
}

/// The settings as an object.
#[must_use]
pub fn survey_json(found: &[Survey]) -> String {
    object(exit_code(found), "settings", |json| {
        for Survey { setting, state } in found {
            let knob = &setting.knob;
            json.begin_object()
                .string_member("name", setting.name.as_bytes())
                .string_member("path", format!("/{}", setting.path).as_bytes())
                .string_member("state", word(knob, state).as_bytes());
            let (current, recommended, reason) = match state {
                State::Right { current } | State::Depends { current } => {
                    (Some(current), None, None)
                }
                State::Differs {
                    current,
                    recommended,
                } => (Some(current), Some(recommended), None),
                State::Absent => (None, None, None),
                State::Unknown { reason } => (None, None, Some(reason)),
            };
            for (name, value) in [
                ("current", current),
                ("set_to", recommended),
                ("reason", reason),
            ] {
                optional(json.name(name), value.map(String::as_str));
            }
            optional(json.name("left_because"), knob.left_because);
            json.string_member("recommended", knob.wanted.describe().as_bytes())
                .string_member("why", knob.why.as_bytes())
                .string_member("guide", knob.guide.path().as_bytes())
                .end_object();
        }
    })
}

/// 1 when something differs that `--apply` would set, otherwise 0.
#[must_use]
pub fn exit_code(found: &[Survey]) -> u8 {
    u8::from(found.iter().any(is_to_set))
}

/// What became of each setting, as text; `nothing` when there is none.
#[must_use]
pub fn changes(done: &[Done], nothing: &str) -> String {
    if done.is_empty() {
        return format!("{nothing}\n");
    }
    let mut text = String::new();
    for Done {
        name,
        from,
        to,
        outcome,
    } in done
    {
        // Writing to a String cannot fail.
        let _ = match outcome {
            Outcome::Set => writeln!(text, "set      {name} = {to} (it was {from})"),
            Outcome::Already => writeln!(text, "as is    {name} = {to}"),
            Outcome::ChangedSince => writeln!(
                text,
                "kept     {name}: it is not {from} any more, so somebody else has changed it"
            ),
            Outcome::Gone => writeln!(text, "gone     {name}: there is nothing to restore"),
            Outcome::Failed(why) => writeln!(text, "failed   {name} = {to}: {why}"),
        };
    }
    text
}

/// What became of each setting, as an object.
#[must_use]
pub fn changes_json(done: &[Done], code: u8) -> String {
    object(code, "changes", |json| {
        for Done {
            name,
            from,
            to,
            outcome,
        } in done
        {
            let (outcome, reason) = match outcome {
                Outcome::Set => ("set", None),
                Outcome::Already => ("already", None),
                Outcome::ChangedSince => ("changed_since", None),
                Outcome::Gone => ("gone", None),
                Outcome::Failed(why) => ("failed", Some(why.as_str())),
            };
            json.begin_object()
                .string_member("name", name.as_bytes())
                .string_member("from", from.as_bytes())
                .string_member("to", to.as_bytes())
                .string_member("outcome", outcome.as_bytes());
            optional(json.name("reason"), reason);
            json.end_object();
        }
    })
}

/// Why nothing was changed, and what to do about it. `what` is the option's name.
#[must_use]
pub fn refusal(refused: &Refused, what: &str) -> String {
    match refused {
        Refused::Setting { name, error } => {
            let kind = error.kind();
            let help = if kind == ErrorKind::PermissionDenied {
                format!(
                    "run it as root: sudo portcullis tune --{what}; in a container ask for the \
                     setting where it is started"
                )
            } else if kind == ErrorKind::ReadOnlyFilesystem {
                "in a container ask for the setting where it is started, or run it on the host"
                    .to_owned()
            } else {
                "see whether it can be set by hand".to_owned()
            };
            format!("may not set {name}: {error}\n  nothing was changed; {help}")
        }
        Refused::Record { path, error } => format!(
            "cannot keep the record in {path}: {error}\n  nothing can be undone without it, so \
             nothing is changed; run it as root, or move a file there that is no record away"
        ),
        Refused::Foreign { path, what } => format!(
            "{path} names what this program does not set: {what}\n  nothing was changed; look at \
             the file, and remove it if it is not yours"
        ),
    }
}

fn is_to_set(found: &Survey) -> bool {
    matches!(found.state, State::Differs { .. }) && found.setting.knob.left_because.is_none()
}

/// The first of those that stand alike, and how many there are.
fn together(found: &[Survey]) -> Vec<(&Survey, usize)> {
    let mut groups: Vec<(&Survey, usize)> = Vec::new();
    for one in found {
        let is_alike = |first: &Survey| {
            first.setting.knob.name == one.setting.knob.name && first.state == one.state
        };
        match groups.iter_mut().rev().find(|(first, _)| is_alike(first)) {
            Some((_, count)) => *count += 1,
            None => groups.push((one, 1)),
        }
    }
    groups
}

/// What a person types, or writes where the service is started. `count`: so many alike.
fn how_to_set(setting: &Setting, value: &str, count: usize) -> String {
    let Setting { knob, path, .. } = setting;
    match knob.place {
        Place::Sysctl => format!("sysctl -w {}='{value}'", knob.name),
        Place::Files(_) if count > 1 => format!("echo {value} > /{path}, and the others alike"),
        Place::Files(_) => format!("echo {value} > /{path}"),
        Place::Module(name) => format!("modprobe {name}"),
        Place::BootParameter => format!("{}={value} on the kernel's command line", knob.name),
        Place::Limit { unit, .. } | Place::Group { unit } => {
            format!("systemctl edit portcullis, and below [Service] {unit}")
        }
    }
}

fn word(knob: &Knob, state: &State) -> &'static str {
    match state {
        State::Right { .. } => "ok",
        State::Depends { .. } => "left",
        State::Differs { .. } if knob.left_because.is_some() => "left",
        State::Differs { .. } => "differs",
        State::Absent => "absent",
        State::Unknown { .. } => "unknown",
    }
}

fn object(exit_code: u8, list: &str, elements: impl FnOnce(&mut JsonWriter<'_>)) -> String {
    let mut text = Vec::new();
    let mut json = JsonWriter::new(&mut text);
    json.begin_object()
        .number_member("exit_code", u64::from(exit_code))
        .name(list)
        .begin_array();
    elements(&mut json);
    json.end_array().end_object();
    text.push(b'\n');
    String::from_utf8_lossy(&text).into_owned()
}

fn optional(json: &mut JsonWriter<'_>, value: Option<&str>) {
    match value {
        Some(value) => json.string(value.as_bytes()),
        None => json.null(),
    };
}

const INDENT: &str = "         ";
const HOW_TO_SET: &str = "`portcullis tune --apply` sets what differs, `--undo` restores it.";

#[cfg(test)]
mod tests {
    use super::super::machine::testing::machine;
    use super::*;

    #[test]
    fn a_survey_reads_as_what_to_do() {
        let (_root, machine) = machine(&[
            ("net.core.somaxconn", "4096"),
            ("net.ipv4.tcp_slow_start_after_idle", "1"),
            ("net.core.busy_poll", "50"),
            ("net.ipv4.tcp_sack", "on"),
        ]);
        let found = machine.survey();
        let text = survey(&found);
        for part in [
            "ok       net.core.somaxconn = 4096\n",
            "differs  net.ipv4.tcp_slow_start_after_idle = 1, recommended: 0\n         \
             A kept connection that was idle begins slowly again.\n         \
             To set: sysctl -w net.ipv4.tcp_slow_start_after_idle='0'\n         \
             More: tuning/tcp.md\n",
            "left     net.core.busy_poll = 50, recommended: 0\n",
            "Left to you: another service may want it.\n",
            "absent   fs.nr_open\n",
            "unknown  net.ipv4.tcp_sack: \"on\" is not",
            "\nOne setting differs. ",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        assert_eq!(exit_code(&found), 1);
    }

    #[test]
    fn a_survey_is_an_object_too() {
        let (_root, machine) =
            machine(&[("net.core.somaxconn", "128"), ("net.core.busy_poll", "50")]);
        let found = machine.survey();
        let json: serde_json::Value = serde_json::from_str(&survey_json(&found)).unwrap();
        assert_eq!(json["exit_code"], 1);
        let settings = json["settings"].as_array().unwrap();
        assert_eq!(settings.len(), found.len());
        let of = |name: &str| settings.iter().find(|it| it["name"] == name).unwrap();
        let queue = of("net.core.somaxconn");
        assert_eq!(queue["path"], "/proc/sys/net/core/somaxconn");
        assert_eq!(
            (&queue["state"], &queue["current"]),
            (&"differs".into(), &"128".into())
        );
        assert_eq!(
            (&queue["set_to"], &queue["left_because"]),
            (&"4096".into(), &().into())
        );
        assert_eq!(of("net.core.busy_poll")["state"], "left");
        assert_eq!(of("fs.nr_open")["state"], "absent");
    }

    #[test]
    fn changes_say_what_became_of_each() {
        let done = |outcome| Done {
            name: "net.core.somaxconn".to_owned(),
            from: "128".to_owned(),
            to: "4096".to_owned(),
            outcome,
        };
        let all = [
            done(Outcome::Set),
            done(Outcome::Already),
            done(Outcome::ChangedSince),
            done(Outcome::Failed("no".to_owned())),
        ];
        assert_eq!(
            changes(&all, "nothing"),
            "set      net.core.somaxconn = 4096 (it was 128)\n\
             as is    net.core.somaxconn = 4096\n\
             kept     net.core.somaxconn: it is not 128 any more, so somebody else has changed it\n\
             failed   net.core.somaxconn = 4096: no\n"
        );
        assert_eq!(changes(&[], "nothing"), "nothing\n");
        let json: serde_json::Value = serde_json::from_str(&changes_json(&all, 1)).unwrap();
        let outcomes: Vec<&str> = json["changes"]
            .as_array()
            .unwrap()
            .iter()
            .map(|change| change["outcome"].as_str().unwrap())
            .collect();
        assert_eq!(outcomes, ["set", "already", "changed_since", "failed"]);
        assert_eq!(json["changes"][3]["reason"], "no");
    }

    #[test]
    fn a_refusal_names_the_cause_and_the_remedy() {
        let name = "net.core.somaxconn".to_owned();
        let setting = |kind: ErrorKind| Refused::Setting {
            name: name.clone(),
            error: kind.into(),
        };
        let denied = refusal(&setting(ErrorKind::PermissionDenied), "apply");
        assert!(denied.contains("sudo portcullis tune --apply"), "{denied}");
        let read_only = refusal(&setting(ErrorKind::ReadOnlyFilesystem), "undo");
        assert!(read_only.contains("container"), "{read_only}");
        for text in [denied, read_only] {
            assert!(text.contains("net.core.somaxconn"), "{text}");
            assert!(text.contains("nothing was changed"), "{text}");
        }
    }
}
