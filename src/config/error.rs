//! What is wrong with a configuration, where, and what to do about it.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// Why a configuration is refused: one or more problems, in the order they were found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    problems: Vec<Problem>,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where it is written; `None` when no configuration file says it.
    pub place: Option<Place>,
    /// What is wrong.
    pub message: String,
    /// What to do about it; empty where the message says so already.
    pub remedy: String,
}

/// Something that works, but probably not as its owner wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning(pub Problem);

/// A stretch of one line of a configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file, as it was named.
    pub file: Arc<Path>,
    /// The line, counted from 1.
    pub line: usize,
    /// The character in the line, counted from 1.
    pub column: usize,
    /// The line's text, or the part around the stretch where the line is long. Control characters
    /// are replaced, so that a file cannot steer the terminal that shows it.
    pub text: String,
    /// Characters of `text` before the stretch.
    pub indent: usize,
    /// Characters in the stretch, at least one.
    pub width: usize,
}

impl ConfigError {
    /// An error of these problems.
    ///
    /// Returns `None` for no problems: then there is no error.
    pub fn of(problems: Vec<Problem>) -> Option<Self> {
        (!problems.is_empty()).then_some(Self { problems })
    }

    /// The problems; at least one.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

impl From<Problem> for ConfigError {
    fn from(problem: Problem) -> Self {
        Self {
            problems: vec![problem],
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("\n\n")?;
            }
            problem.write(f, "error")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

impl Problem {
    /// A problem at `place`.
    pub fn new(
        place: Option<Place>,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            place,
            message: message.into(),
            remedy: remedy.into(),
        }
    }

    fn write(&self, f: &mut fmt::Formatter<'_>, severity: &str) -> fmt::Result {
        let Self {
            place,
            message,
            remedy,
        } = self;
        match place {
            None => {
                write!(f, "{severity}: {message}")?;
                write_help(f, "\n  ", remedy)
            }
            Some(place) => {
                let number = place.line.to_string();
                let gutter = number.len();
                writeln!(f, "{place}: {severity}: {message}")?;
                writeln!(f, "  {number} | {}", place.text)?;
                let (indent, carets) = (place.indent, "^".repeat(place.width));
                write!(f, "  {:gutter$} | {:indent$}{carets}", "", "")?;
                write_help(f, &format!("\n  {:gutter$} ", ""), remedy)
            }
        }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.write(f, "warning")
    }
}

impl fmt::Display for Place {
    /// `file:line:column`, which editors and terminals turn into a link.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file.display(), self.line, self.column)
    }
}

fn write_help(f: &mut fmt::Formatter<'_>, margin: &str, remedy: &str) -> fmt::Result {
    if remedy.is_empty() {
        return Ok(());
    }
    write!(f, "{margin}help: {remedy}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> Place {
        Place {
            file: Path::new("p.toml").into(),
            line: 12,
            column: 3,
            text: "a = b".to_owned(),
            indent: 2,
            width: 1,
        }
    }

    #[test]
    fn a_problem_shows_its_place_its_text_and_its_remedy() {
        let error = ConfigError::from(Problem::new(Some(place()), "what", "do this"));
        assert_eq!(
            error.to_string(),
            "p.toml:12:3: error: what\n  12 | a = b\n     |   ^\n     help: do this"
        );
    }

    #[test]
    fn each_problem_is_told_once_and_apart() {
        let problems = vec![
            Problem::new(None, "one", "first"),
            Problem::new(None, "two", "second"),
        ];
        let error = ConfigError::of(problems).unwrap();
        assert_eq!(
            error.to_string(),
            "error: one\n  help: first\n\nerror: two\n  help: second"
        );
        assert_eq!(ConfigError::of(Vec::new()), None);
    }
}
