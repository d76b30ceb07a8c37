//! What h2load says at its end.

use super::Counted;

/// The counts of h2load's main phase (its bytes of data include the warm-up's; those in all do not), when all went as it must and every line of `due` is there.
pub(crate) fn judge(text: &str, due: &[String]) -> Result<Counted, String> {
    for line in due {
        if !text.lines().any(|found| found == line) {
            return Err(format!("no line {line:?}"));
        }
    }
    let requests = count(text, "requests: ", "done")?;
    for (label, bad) in BAD {
        if count(text, label, bad)? > 0 {
            return Err(format!("requests with {bad}"));
        }
    }
    // Of large files none may have been answered in full.
    let bytes = bytes(text)?;
    if bytes == 0 {
        return Err("nothing was received".to_owned());
    }
    Ok(Counted {
        requests,
        // Below 2^53, so exact as a double.
        bytes: bytes as f64,
    })
}

/// The number before `unit` in the line that begins with `label`: "requests: 12 total, 11 done".
fn count(text: &str, label: &str, unit: &str) -> Result<u64, String> {
    text.lines()
        .find_map(|line| line.strip_prefix(label))
        .and_then(|line| {
            line.split(", ")
                .find_map(|part| part.strip_suffix(unit)?.trim().parse().ok())
        })
        .ok_or_else(|| format!("no count of {unit} in the line {label:?}"))
}

/// The exact number in "traffic: 721.53MB (756582794) total, ...".
fn bytes(text: &str) -> Result<u64, String> {
    text.lines()
        .find_map(|line| line.strip_prefix("traffic: "))
        .and_then(|line| {
            let (_, exact) = line.split_once('(')?;
            exact.split_once(") total")?.0.parse().ok()
        })
        .ok_or_else(|| "no total in the line \"traffic: \"".to_owned())
}

/// Counts that must be 0, by the line they are in.
const BAD: [(&str, &str); 6] = [
    ("requests: ", "failed"),
    ("requests: ", "errored"),
    ("requests: ", "timeout"),
    ("status codes: ", "3xx"),
    ("status codes: ", "4xx"),
    ("status codes: ", "5xx"),
];
