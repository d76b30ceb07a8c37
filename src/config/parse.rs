//! Text to raw tables, and the TOML library's complaints to ours.

use super::error::Problem;
use super::locate::Source;
use super::raw::{self, RawConfig};
use super::suggest;

/// Reads `source`'s text.
pub(super) fn parse(text: &str, source: &Source<'_>) -> Result<RawConfig, Problem> {
    toml::from_str(text).map_err(|error| {
        let span = error.span().unwrap_or(0..0);
        let written = source.slice(span.clone());
        let (message, remedy) = explain(error.message(), written);
        Problem::new(Some(source.place(span)), message, remedy)
    })
}

/// serde's and toml's messages are fixed texts; one that is not known here is passed on as it is.
fn explain(message: &str, written: &str) -> (String, String) {
    if let Some(rest) = message.strip_prefix("unknown field `") {
        return unknown_key(rest, written);
    }
    if let Some((found, expected)) = message
        .strip_prefix("invalid type: ")
        .or_else(|| message.strip_prefix("invalid value: "))
        .and_then(|rest| rest.rsplit_once(", expected "))
    {
        return wrong_type(found, expected);
    }
    if message == "duplicate key" {
        return (
            format!("`{written}` is set twice"),
            "keep one of the two; a table that may appear several times has two brackets, as \
             [[site]]"
                .to_owned(),
        );
    }
    (
        format!("this is not TOML: {message}"),
        "write `key = value` below a [table] line; text stands in \"quotes\" (https://toml.io)"
            .to_owned(),
    )
}

/// `rest` is what follows "unknown field `": the key, "`, expected ", and names in back quotes.
fn unknown_key(rest: &str, written: &str) -> (String, String) {
    let (key, expected) = rest.rsplit_once("`, expected ").unwrap_or((rest, ""));
    let known: Vec<&str> = expected.split('`').skip(1).step_by(2).collect();
    let shown = if written.is_empty() { key } else { written };
    let message = format!("unknown key `{shown}`");
    let is_elsewhere = |keys: &[&str]| keys.contains(&key) && keys != known;
    let elsewhere: Vec<&str> = raw::tables()
        .into_iter()
        .filter(|(_, keys)| is_elsewhere(keys))
        .map(|(table, _)| table)
        .collect();
    let remedy = match suggest::nearest(key, &known) {
        Some(near) => format!("did you mean `{near}`?"),
        None if !elsewhere.is_empty() => {
            format!("`{key}` belongs in {}", elsewhere.join(" or "))
        }
        None => format!("known here: {}", suggest::list(&known)),
    };
    (message, remedy)
}

fn wrong_type(found: &str, expected: &str) -> (String, String) {
    // A number too long for 64 bits is named with the width it would need.
    let found = found
        .replace(" as i128", "")
        .replace(" as u128", "")
        .replace(" as u64", "");
    let found = match found.as_str() {
        "map" => "a table or a date".to_owned(),
        "sequence" => "an array".to_owned(),
        _ => found,
    };
    let (expected, remedy) = match expected {
        "i64" => (
            "a whole number",
            "write digits without quotes, a point or a unit, as 1024",
        ),
        "a string" => ("text", "put the value in quotes"),
        "a boolean" => ("true or false", "write true or false, without quotes"),
        "a sequence" => (
            "an array",
            "write several values as [\"a\", \"b\"], and a table that may appear several times \
             with two brackets, as [[site]]",
        ),
        "a table" => (
            "a table",
            "open it with a line of its own, as [limits], and set its keys below",
        ),
        other => (other, "see the README's table of options"),
    };
    (
        format!("{found} stands where {expected} belongs"),
        remedy.to_owned(),
    )
}
