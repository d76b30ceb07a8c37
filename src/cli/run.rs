//! `portcullis run`: the sites of a configuration file.

use std::process::ExitCode;

use super::{ConfigArguments, FAILURE, check};
use crate::control::{Control, StartError};

pub(super) fn run(arguments: &ConfigArguments) -> ExitCode {
    let (read, tickets) = match check::read(&arguments.config) {
        Ok(read) => read,
        Err(error) => return check::refuse(&error),
    };
    let prepared = read
        .into_parts(&arguments.config, tickets)
        .map_err(|error| StartError::Io("tell where the configuration is", error))
        .and_then(|(config, tls, origin)| Control::prepare(config, tls, Some(origin)));
    let control = match prepared {
        Ok(control) => control,
        Err(error) => {
            eprintln!("portcullis: {error}");
            return ExitCode::from(FAILURE);
        }
    };
    let announcement = control.describe();
    super::supervise(control, &announcement)
}
