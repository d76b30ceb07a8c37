//! `portcullis reload`: the process that serves a configuration file reads it again.

use std::io::{ErrorKind, Write};
use std::path::Path;
use std::process::ExitCode;

use super::{ConfigArguments, FAILURE};
use crate::control::channel;

pub(super) fn run(arguments: &ConfigArguments) -> ExitCode {
    let reply = std::path::absolute(&arguments.config).and_then(|path| channel::reload(&path));
    match reply {
        Ok(reply) => {
            let text = reply.text.trim_end();
            match reply.code {
                0 => drop(writeln!(std::io::stdout(), "{text}")),
                _ => eprintln!("{text}"),
            }
            ExitCode::from(reply.code)
        }
        Err(error) => {
            eprintln!("portcullis: {}", explain(&arguments.config, &error));
            ExitCode::from(FAILURE)
        }
    }
}

fn explain(path: &Path, error: &std::io::Error) -> String {
    let path = path.display();
    let kind = error.kind();
    if kind == ErrorKind::ConnectionRefused {
        format!(
            "no process serves {path}\n  name the file as `portcullis run --config` does; a process \
             in another network namespace (a container) is reloaded from there"
        )
    } else if kind == ErrorKind::PermissionDenied {
        format!(
            "the process that serves {path} is another user's\n  run this as that user, or as root"
        )
    } else if kind == ErrorKind::WouldBlock {
        format!("the process that serves {path} does not answer")
    } else {
        format!("cannot ask the process that serves {path}: {error}")
    }
}
