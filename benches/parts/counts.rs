//! Counts of instructions: read from what valgrind says, kept as JSON, held against earlier ones.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use serde::{Deserialize, Serialize};

/// The result of one run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Counts {
    /// What was measured, as git describes it.
    pub(crate) commit: String,
    /// Valgrind's version: another one may take another way through the cryptography.
    pub(crate) valgrind: String,
    /// The compiler's.
    pub(crate) rustc: String,
    /// Instructions of one call, by part.
    pub(crate) instructions: BTreeMap<String, f64>,
}

impl Counts {
    /// A table of all parts; with `before`, what has changed by more than
    /// [`CHANGE_PERCENT_MIN`] since.
    pub(crate) fn table(&self, before: Option<&Self>) -> String {
        let names = self.instructions.keys();
        let width = names.map(String::len).max().unwrap_or_default();
        let mut table = String::new();
        for (name, count) in &self.instructions {
            // Writing to a String cannot fail.
            let _ = write!(table, "{name:width$}  {count:>12.1}");
            let change = before.map(|before| change(before.instructions.get(name), *count));
            let _ = writeln!(table, "{}", change.unwrap_or_default());
        }
        table
    }

    /// What a reader of [`Self::table`] should know about `before`: parts that are not measured any
    /// more, and that other tools measured it.
    pub(crate) fn remarks(&self, before: &Self, is_filtered: bool) -> Vec<String> {
        let mut remarks = Vec::new();
        for (what, then, at_present) in [
            ("valgrind", &before.valgrind, &self.valgrind),
            ("rustc", &before.rustc, &self.rustc),
        ] {
            if then != at_present {
                remarks.push(format!("{what} was another: {then}, here {at_present}"));
            }
        }
        let here: BTreeSet<&String> = self.instructions.keys().collect();
        let gone = before
            .instructions
            .keys()
            .filter(|name| !here.contains(name));
        if !is_filtered {
            remarks.extend(gone.map(|name| format!("{name} is no more")));
        }
        remarks
    }
}

/// What is said beside a count of which there was an earlier one.
fn change(before: Option<&f64>, count: f64) -> String {
    let Some(&before) = before else {
        return "  new".to_owned();
    };
    let percent = (count / before - 1.0) * 100.0;
    if percent.abs() > CHANGE_PERCENT_MIN {
        format!("  {percent:+7.1}%  from {before:.1}")
    } else {
        String::new()
    }
}

/// The count in what callgrind says at its end.
pub(crate) fn collected(said: &str) -> Option<u64> {
    let line = said
        .lines()
        .rev()
        .find(|line| line.contains("Collected :"))?;
    line.rsplit(':').next()?.trim().parse().ok()
}

/// Changes up to here are not worth a look: hash tables with random seeds move counts by some tenths
/// of a percent.
pub(crate) const CHANGE_PERCENT_MIN: f64 = 1.0;
