//! `portcullis completions` and `portcullis manual`: what packages install beside the program, made
//! from the command line itself, so that neither can be out of date.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::CommandFactory;
use clap_complete::Shell;

use super::{Arguments, FAILURE, UNUSABLE};

/// What `completions` is told.
#[derive(Debug, clap::Args)]
pub(super) struct CompletionsArguments {
    /// The shell
    shell: Shell,
}

/// What `manual` is told.
#[derive(Debug, clap::Args)]
pub(super) struct ManualArguments {
    /// The command to describe [default: the program itself]
    command: Option<String>,
}

pub(super) fn completions(arguments: &CompletionsArguments) -> ExitCode {
    let mut script = Vec::new();
    let mut command = Arguments::command();
    clap_complete::generate(arguments.shell, &mut command, "portcullis", &mut script);
    print(&script)
}

pub(super) fn manual(arguments: &ManualArguments) -> ExitCode {
    let mut program = Arguments::command().disable_help_subcommand(true);
    program.build();
    let command = match &arguments.command {
        None => program,
        Some(name) => match program.find_subcommand(name) {
            Some(command) => command.clone(),
            None => {
                eprintln!("portcullis: there is no command {name:?}: see portcullis --help");
                return ExitCode::from(UNUSABLE);
            }
        },
    };
    let mut page = Vec::new();
    match clap_mangen::Man::new(command).render(&mut page) {
        Ok(()) => print(&page),
        Err(error) => failed(&error),
    }
}

fn print(bytes: &[u8]) -> ExitCode {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

fn failed(error: &io::Error) -> ExitCode {
    eprintln!("portcullis: {error}");
    ExitCode::from(FAILURE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Arguments::command().debug_assert();
    }

    /// Its table of commands has each with what it must be told, and where it stands by itself.
    #[test]
    fn the_readme_has_the_usage_of_each_command() {
        let readme = include_str!("../../README.md");
        let mut program = Arguments::command().disable_help_subcommand(true);
        program.build();
        for command in program.get_subcommands() {
            let usage = usage(command);
            assert!(readme.contains(&format!("\n| `{usage}` | ")), "{usage}");
            for default in command
                .get_positionals()
                .flat_map(|it| it.get_default_values())
            {
                let default = format!(
                    "\n| `{usage}` | Serves a directory (`{}`",
                    default.display()
                );
                assert!(readme.contains(&default), "{default}");
            }
        }
    }

    /// Required options and every argument, as the help has them.
    fn usage(command: &clap::Command) -> String {
        let mut words = vec!["portcullis".to_owned(), command.get_name().to_owned()];
        for argument in command.get_arguments() {
            let names = argument.get_value_names().unwrap_or_default();
            let name = names.first().map_or("", |name| name.as_str());
            match (argument.get_long(), argument.is_required_set()) {
                (Some(long), true) => words.push(format!("--{long} {name}")),
                (Some(_), false) => {}
                (None, true) => words.push(name.to_owned()),
                (None, false) => words.push(format!("[{name}]")),
            }
        }
        words.join(" ")
    }
}
