//! Byte offsets in a configuration file to places that can be shown.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::error::Place;

/// A configuration file's name and text.
#[derive(Debug)]
pub(super) struct Source<'a> {
    file: Arc<Path>,
    text: &'a str,
}

impl<'a> Source<'a> {
    pub(super) fn new(file: &Path, text: &'a str) -> Self {
        Self {
            file: file.into(),
            text,
        }
    }

    /// The place of the bytes `span`; what goes over its first line is left out. An offset past the
    /// end stands for the end, one inside a character for that character.
    pub(super) fn place(&self, span: Range<usize>) -> Place {
        let start = self.boundary(span.start);
        let end = self.boundary(span.end.max(start));
        let (before, rest) = self.text.split_at(start);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line_rest = rest.split('\n').next().unwrap_or_default();
        let line_rest = line_rest.strip_suffix('\r').unwrap_or(line_rest);
        let line_end = start + line_rest.len();
        let prefix: Vec<char> = self.slice(line_start..start).chars().collect();
        let marked = self.slice(start..end.min(line_end)).chars().count();
        let shown_from = prefix.len().saturating_sub(CHARS_BEFORE_MAX);
        let shown = prefix
            .iter()
            .skip(shown_from)
            .copied()
            .chain(line_rest.chars().take(CHARS_AFTER_MAX))
            .map(printable)
            .collect::<String>();
        Place {
            file: self.file.clone(),
            line: before.matches('\n').count() + 1,
            column: prefix.len() + 1,
            text: shown,
            indent: prefix.len() - shown_from,
            width: marked.clamp(1, CHARS_AFTER_MAX),
        }
    }

    /// The text of `span`, empty where it is none.
    pub(super) fn slice(&self, span: Range<usize>) -> &'a str {
        self.text.get(span).unwrap_or_default()
    }

    fn boundary(&self, offset: usize) -> usize {
        (0..=offset.min(self.text.len()))
            .rev()
            .find(|&offset| self.text.is_char_boundary(offset))
            .unwrap_or(0)
    }
}

/// A tab takes one column, so that the caret stands where it should.
fn printable(c: char) -> char {
    match c {
        '\t' => ' ',
        c if c.is_control() || is_bidirectional_control(c) => char::REPLACEMENT_CHARACTER,
        c => c,
    }
}

/// Characters that reorder the text around them when shown (Unicode UAX #9).
fn is_bidirectional_control(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

const CHARS_BEFORE_MAX: usize = 60;
const CHARS_AFTER_MAX: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;

    fn place(text: &str, span: Range<usize>) -> (usize, usize, String, usize, usize) {
        let place = Source::new(Path::new("f"), text).place(span);
        (
            place.line,
            place.column,
            place.text,
            place.indent,
            place.width,
        )
    }

    #[test]
    fn counts_lines_and_characters_from_one() {
        assert_eq!(place("ab\ncd = 1\r\n", 8..9), (2, 6, "cd = 1".into(), 5, 1));
        assert_eq!(
            place("\u{e9}\u{e9} x", 5..6),
            (1, 4, "\u{e9}\u{e9} x".into(), 3, 1)
        );
    }

    #[test]
    fn ends_at_the_line_and_the_text() {
        assert_eq!(place("ab\ncd", 1..5), (1, 2, "ab".into(), 1, 1));
        assert_eq!(place("ab", 99..120), (1, 3, "ab".into(), 2, 1));
        assert_eq!(place("", 0..0), (1, 1, String::new(), 0, 1));
        assert_eq!(place("a\n", 2..2), (2, 1, String::new(), 0, 1));
    }

    #[test]
    fn an_offset_inside_a_character_is_that_character() {
        assert_eq!(place("\u{e9}", 1..2), (1, 1, "\u{e9}".into(), 0, 1));
    }

    #[test]
    fn long_lines_are_cut_around_the_stretch() {
        let text = format!("{}X{}", "a".repeat(500), "b".repeat(500));
        let (_, column, shown, indent, width) = place(&text, 500..501);
        assert_eq!((column, width), (501, 1));
        assert_eq!(shown.chars().nth(indent), Some('X'));
        assert!(shown.len() <= CHARS_BEFORE_MAX + CHARS_AFTER_MAX);
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        let (_, _, shown, ..) = place("a\u{1b}[2J\t\u{202e}b", 0..1);
        assert_eq!(shown, "a\u{fffd}[2J \u{fffd}b");
    }
}
