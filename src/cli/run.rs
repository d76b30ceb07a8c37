//! `portcullis run`: the sites of a configuration file.

use std::process::ExitCode;

use super::{ConfigArguments, FAILURE, check};
use crate::control::Control;

pub(super) fn run(arguments: &ConfigArguments) -> ExitCode {
    let (loaded, prepared) = match check::read(&arguments.config) {
        Ok(read) => read,
        Err(error) => return check::refuse(&error),
    };
    let control = match Control::prepare(loaded.config, prepared.tls) {
        Ok(control) => control,
        Err(error) => {
            eprintln!("portcullis: {error}");
            return ExitCode::from(FAILURE);
        }
    };
    let announcement = control.describe();
    super::supervise(control, &announcement)
}
