//! `portcullis tune`: where this machine's settings differ from what the tuning guide recommends, and,
//! if told to, the change and the way back.
//!
//! [`table`] is what is looked at, made of [`knobs`]; [`settings`] finds what each is on a machine;
//! [`machine`] reads and writes; [`change`] applies and undoes with a [`record`]; what is said about it is
//! [`report`]'s.

pub mod change;
pub mod knobs;
pub mod machine;
mod module;
pub mod record;
pub mod report;
pub mod settings;
pub mod table;

#[cfg(test)]
mod kinds_tests;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use super::{FAILURE, UNUSABLE};
use change::{Outcome, Refused};
use machine::Machine;

/// What `tune` can be told.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// Set what differs, and record what was there before
    #[arg(long, conflicts_with = "undo")]
    apply: bool,

    /// Restore what was there before, as recorded
    #[arg(long)]
    undo: bool,

    /// Print the report as JSON
    #[arg(long)]
    json: bool,

    /// The directory that is looked at and changed in place of the root
    #[arg(long, value_name = "DIRECTORY", default_value = "/", hide = true)]
    root: PathBuf,
}

/// Shows, applies or undoes. Exit code 0: nothing differs, or all is done; 1: something differs, or a
/// part could not be done; 2: it may not be done, and nothing was changed.
#[must_use]
pub fn run(arguments: &Arguments) -> ExitCode {
    let machine = Machine::at(&arguments.root);
    let (report, code) = if arguments.apply {
        match change::apply(&machine) {
            Ok(done) => changed(arguments, &done, report::APPLIED_NOTHING),
            Err(refused) => return refuse(&refused, "apply"),
        }
    } else if arguments.undo {
        match change::undo(&machine) {
            Ok(done) => changed(arguments, &done.unwrap_or_default(), report::UNDID_NOTHING),
            Err(refused) => return refuse(&refused, "undo"),
        }
    } else {
        let survey = machine.survey();
        let text = match arguments.json {
            true => report::survey_json(&survey),
            false => report::survey(&survey),
        };
        (text, report::exit_code(&survey))
    };
    // Whoever closed the output has read enough; the exit code still says it all.
    let _ = std::io::stdout().lock().write_all(report.as_bytes());
    ExitCode::from(code)
}

fn changed(arguments: &Arguments, done: &[change::Done], nothing: &str) -> (String, u8) {
    let is_failure = |done: &change::Done| matches!(done.outcome, Outcome::Failed(_));
    let code = match done.iter().any(is_failure) {
        true => FAILURE,
        false => 0,
    };
    let text = match arguments.json {
        true => report::changes_json(done, code),
        false => report::changes(done, nothing),
    };
    (text, code)
}

fn refuse(refused: &Refused, what: &str) -> ExitCode {
    eprintln!("portcullis: {}", report::refusal(refused, what));
    ExitCode::from(UNUSABLE)
}
