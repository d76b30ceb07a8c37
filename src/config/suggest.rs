//! Did you mean.

/// The candidate that `written` is probably a slip of.
pub(super) fn nearest<'a>(written: &str, candidates: &[&'a str]) -> Option<&'a str> {
    let written = normal(written);
    candidates
        .iter()
        .map(|&candidate| {
            (
                strsim::osa_distance(&written, &normal(candidate)),
                candidate,
            )
        })
        .filter(|(distance, candidate)| {
            let candidate = normal(candidate);
            *distance <= (candidate.len() / 3).max(1)
                || is_part(&written, &candidate)
                || is_part(&candidate, &written)
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// `a`, `b` and `c`, in back quotes.
pub(super) fn list(values: &[&str]) -> String {
    let quoted: Vec<String> = values.iter().map(|value| format!("`{value}`")).collect();
    match quoted.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
        None => String::new(),
    }
}

/// Case and the kind of hyphen make no difference.
fn normal(text: &str) -> String {
    let chars = text.chars().take(CHARS_MAX);
    chars
        .map(|c| {
            if c == '_' {
                '-'
            } else {
                c.to_ascii_lowercase()
            }
        })
        .collect()
}

/// A key without its unit, a suite without its decoration.
fn is_part(part: &str, whole: &str) -> bool {
    part.chars().count() >= 4 && whole.contains(part)
}

/// Longer than any key or value; bounds the work for a hostile file.
const CHARS_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_recognized_and_strangers_are_not() {
        let keys = ["handshake_ms", "header_ms", "idle_ms"];
        assert_eq!(nearest("handshke_ms", &keys), Some("handshake_ms"));
        assert_eq!(nearest("idle", &keys), Some("idle_ms"));
        assert_eq!(nearest("Idle_MS", &keys), Some("idle_ms"));
        assert_eq!(nearest("colour", &keys), None);
        assert_eq!(nearest(&"x".repeat(1 << 20), &keys), None);
    }

    #[test]
    fn lists_read_as_prose() {
        assert_eq!(list(&[]), "");
        assert_eq!(list(&["a"]), "`a`");
        assert_eq!(list(&["a", "b", "c"]), "`a`, `b` and `c`");
    }
}
