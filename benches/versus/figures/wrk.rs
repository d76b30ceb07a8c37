//! What wrk says at its end.

use super::Counted;

/// The counts in wrk's output, when all went as it must. Its bytes are rounded, to three digits at
/// least, and include the beginnings of answers that its end cut off.
pub(crate) fn judge(text: &str) -> Result<Counted, String> {
    for bad in BAD {
        if let Some(line) = text.lines().find(|line| line.trim().starts_with(bad)) {
            return Err(line.trim().to_owned());
        }
    }
    let counted = text
        .lines()
        .find_map(counted)
        .ok_or("no count of requests")?;
    // Of large files none may have been answered in full.
    if counted.bytes <= 0.0 {
        return Err("nothing was received".to_owned());
    }
    Ok(counted)
}

/// From "43894 requests in 1.10s, 53.20MB read".
fn counted(line: &str) -> Option<Counted> {
    let (requests, rest) = line.trim().split_once(" requests in ")?;
    let (_, bytes) = rest.split_once(", ")?;
    Some(Counted {
        requests: requests.parse().ok()?,
        bytes: bytes_of(bytes.strip_suffix(" read")?)?,
    })
}

/// "53.20MB": a unit is 1024 of the one before.
fn bytes_of(text: &str) -> Option<f64> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let exponent = match text.strip_prefix(digits)? {
        "B" => 0,
        "KB" => 1,
        "MB" => 2,
        "GB" => 3,
        "TB" => 4,
        _ => return None,
    };
    let number: f64 = digits.parse().ok()?;
    Some(number * 1024_f64.powi(exponent))
}

/// What lines of failures begin with; wrk writes them only when there is something to tell.
const BAD: [&str; 3] = ["Socket errors:", "Non-2xx or 3xx responses:", "unable to"];
