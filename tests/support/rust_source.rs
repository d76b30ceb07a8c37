//! Rust sources as tokens: enough of the language to hold rules over it. Comments fall away, so no
//! rule is broken or kept by what a comment says; literals stay, marked as such.

use std::collections::BTreeSet;
use std::fs;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

/// A source file below `src`.
#[derive(Debug)]
pub(crate) struct SourceFile {
    /// Its path below `src`, as `net/stream/mod.rs`.
    pub(crate) path: String,
    /// The file as it is.
    pub(crate) text: String,
    /// All of its tokens; none of a file that is a test module.
    pub(crate) tokens: Vec<Token>,
    /// The lines of its `#[cfg(test)]` items; all lines of a file that is a test module.
    pub(crate) test_lines: Vec<RangeInclusive<usize>>,
}

/// One token and the line, from 1, that it begins on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) kind: Kind,
    pub(crate) text: String,
    pub(crate) line: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An identifier, keyword or number.
    Word,
    /// A string, byte string or character, as written.
    Literal,
    Lifetime,
    /// One character, or `::`.
    Punctuation,
}

impl SourceFile {
    /// Every file below `src`, sorted; files of test modules are known from the `#[cfg(test)] mod`
    /// that declares them.
    pub(crate) fn read_all(src: &Path) -> Vec<Self> {
        let mut paths = Vec::new();
        collect(src, &mut paths);
        paths.sort();
        let mut files: Vec<Self> = paths
            .iter()
            .map(|path| {
                let below = path.strip_prefix(src).unwrap();
                Self::parse(below.to_str().unwrap(), &fs::read_to_string(path).unwrap())
            })
            .collect();
        let test_modules: BTreeSet<String> =
            files.iter().flat_map(Self::declared_test_modules).collect();
        for file in &mut files {
            if test_modules
                .iter()
                .any(|module| is_within(&file.path, module))
            {
                file.become_test();
            }
        }
        files
    }

    /// One file by itself.
    pub(crate) fn parse(path: &str, text: &str) -> Self {
        let tokens = tokens(text);
        let test_lines = test_items(&tokens)
            .into_iter()
            .map(|item| tokens[*item.start()].line..=tokens[*item.end()].line)
            .collect();
        Self {
            path: path.to_owned(),
            text: text.to_owned(),
            tokens,
            test_lines,
        }
    }

    /// Its tokens outside test items.
    pub(crate) fn tokens_outside_tests(&self) -> Vec<Token> {
        let items = test_items(&self.tokens);
        let is_outside = |index: &usize| !items.iter().any(|item| item.contains(index));
        (0..self.tokens.len())
            .filter(is_outside)
            .map(|index| self.tokens[index].clone())
            .collect()
    }

    /// How many of its lines are outside test items.
    pub(crate) fn lines_outside_tests(&self) -> usize {
        let in_tests = |line: &usize| self.test_lines.iter().any(|lines| lines.contains(line));
        (1..=self.text.lines().count())
            .filter(|line| !in_tests(line))
            .count()
    }

    /// The modules between the crate's root and this file, as `["net", "stream"]`; none for the
    /// roots `lib.rs` and `main.rs`.
    pub(crate) fn module(&self) -> Vec<&str> {
        let stem = self.path.strip_suffix(".rs").unwrap_or(&self.path);
        let mut names: Vec<&str> = stem.split('/').collect();
        if names.last() == Some(&"mod") || names == ["lib"] || names == ["main"] {
            names.pop();
        }
        names
    }

    fn become_test(&mut self) {
        self.tokens.clear();
        self.test_lines = vec![1..=self.text.lines().count()];
    }

    /// The paths, without `.rs`, of the files of its `#[cfg(test)] mod name;` items.
    fn declared_test_modules(&self) -> Vec<String> {
        let own_file = self.path.strip_suffix(".rs").unwrap();
        let folder = Path::new(&self.path).parent().unwrap();
        let children = match self.module().is_empty() || self.path.ends_with("/mod.rs") {
            true => folder.to_owned(),
            false => PathBuf::from(own_file),
        };
        let shown = |path: PathBuf| path.to_str().unwrap().to_owned();
        let mut modules = Vec::new();
        for item in test_items(&self.tokens) {
            let item = &self.tokens[item];
            let Some(at) = item.iter().position(|token| token.is("mod")) else {
                continue;
            };
            if item.get(at + 2).is_some_and(|token| token.is(";")) {
                let attribute = item.windows(3).find(|three| {
                    three[0].is("path") && three[1].is("=") && three[2].kind == Kind::Literal
                });
                modules.push(match attribute {
                    Some(three) => {
                        let file = three[2].text.trim_matches('"');
                        shown(folder.join(file.strip_suffix(".rs").unwrap()))
                    }
                    None => shown(children.join(&item[at + 1].text)),
                });
            }
        }
        modules
    }
}

impl Token {
    /// Whether it is this word or punctuation.
    pub(crate) fn is(&self, text: &str) -> bool {
        matches!(self.kind, Kind::Word | Kind::Punctuation) && self.text == text
    }

    pub(crate) fn is_word(&self) -> bool {
        self.kind == Kind::Word
    }
}

/// Whether `tokens` begins with `wanted`, which are words and punctuation.
pub(crate) fn begins(tokens: &[Token], wanted: &[&str]) -> bool {
    tokens.len() >= wanted.len()
        && wanted
            .iter()
            .zip(tokens)
            .all(|(text, token)| token.is(text))
}

/// The index of the bracket that closes the one at `open`; the last index where none does.
pub(crate) fn closing(tokens: &[Token], open: usize) -> usize {
    let mut depth = 0_usize;
    for (index, token) in tokens.iter().enumerate().skip(open) {
        if token.is("(") || token.is("[") || token.is("{") {
            depth += 1;
        } else if token.is(")") || token.is("]") || token.is("}") {
            depth = depth.saturating_sub(1);
            if depth == 0 {
                return index;
            }
        }
    }
    tokens.len().saturating_sub(1)
}

/// The tokens of a Rust source.
pub(crate) fn tokens(source: &str) -> Vec<Token> {
    let characters: Vec<char> = source.chars().collect();
    let mut tokens = Vec::new();
    let (mut at, mut line) = (0, 1);
    while at < characters.len() {
        let rest = &characters[at..];
        let (kind, length) = next_token(rest);
        let text: String = rest[..length].iter().collect();
        let lines = text.matches('\n').count();
        if let Some(kind) = kind {
            tokens.push(Token { kind, text, line });
        }
        at += length;
        line += lines;
    }
    tokens
}

/// The kind (none of blanks and comments) and the length of what `rest`, not empty, begins with.
fn next_token(rest: &[char]) -> (Option<Kind>, usize) {
    let at = |index: usize| rest.get(index).copied().unwrap_or('\0');
    if at(0) == '/' && at(1) == '/' {
        let length = rest.iter().position(|&character| character == '\n');
        return (None, length.unwrap_or(rest.len()));
    }
    if at(0) == '/' && at(1) == '*' {
        return (None, block_comment(rest));
    }
    if let Some(length) = string(rest) {
        return (Some(Kind::Literal), length);
    }
    if at(0) == '\'' {
        return character_or_lifetime(rest);
    }
    if is_word(at(0)) {
        let raw = usize::from(at(0) == 'r' && at(1) == '#' && is_word(at(2))) * 2;
        let length = rest[raw..]
            .iter()
            .take_while(|&&character| is_word(character))
            .count();
        return (Some(Kind::Word), raw + length);
    }
    if at(0).is_whitespace() {
        return (None, 1);
    }
    let length = if at(0) == ':' && at(1) == ':' { 2 } else { 1 };
    (Some(Kind::Punctuation), length)
}

/// Block comments nest.
fn block_comment(rest: &[char]) -> usize {
    let (mut at, mut depth) = (0, 0_usize);
    while at < rest.len() {
        match (rest[at], rest.get(at + 1)) {
            ('/', Some('*')) => {
                depth += 1;
                at += 2;
            }
            ('*', Some('/')) => {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return at;
                }
            }
            _ => at += 1,
        }
    }
    rest.len()
}

/// The length of the string that `rest` begins with, its prefix included.
fn string(rest: &[char]) -> Option<usize> {
    let prefix = rest
        .iter()
        .take_while(|&character| "bcr".contains(*character))
        .count();
    let name: String = rest[..prefix].iter().collect();
    if !["", "b", "c", "r", "br", "cr"].contains(&&*name) {
        return None;
    }
    if name == "b" && rest.get(1) == Some(&'\'') {
        return Some(1 + character_or_lifetime(&rest[1..]).1);
    }
    let is_raw = name.ends_with('r');
    let hashes = match is_raw {
        true => rest[prefix..]
            .iter()
            .take_while(|&&character| character == '#')
            .count(),
        false => 0,
    };
    let open = prefix + hashes;
    if rest.get(open) != Some(&'"') {
        return None;
    }
    let mut at = open + 1;
    while at < rest.len() {
        match rest[at] {
            '\\' if !is_raw => at += 2,
            '"' if rest[at + 1..]
                .iter()
                .take(hashes)
                .filter(|&&c| c == '#')
                .count()
                == hashes =>
            {
                return Some(at + 1 + hashes);
            }
            _ => at += 1,
        }
    }
    Some(rest.len())
}

/// `rest` begins with a quote.
fn character_or_lifetime(rest: &[char]) -> (Option<Kind>, usize) {
    if rest.get(1) == Some(&'\\') {
        // The character after the backslash may itself be a quote.
        let end = rest.iter().skip(3).position(|&character| character == '\'');
        return (Some(Kind::Literal), end.map_or(rest.len(), |end| end + 4));
    }
    if rest.get(2) == Some(&'\'') {
        return (Some(Kind::Literal), 3);
    }
    let name = rest[1..]
        .iter()
        .take_while(|&&character| is_word(character))
        .count();
    (Some(Kind::Lifetime), 1 + name)
}

fn is_word(character: char) -> bool {
    character == '_' || character.is_alphanumeric()
}

/// The ranges of tokens of items under `#[cfg(test)]` or `#[cfg(all(test, ...))]`, attributes
/// included.
fn test_items(tokens: &[Token]) -> Vec<RangeInclusive<usize>> {
    let mut items = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let is_test = begins(&tokens[at..], &["#", "[", "cfg", "(", "test", ")", "]"])
            || begins(&tokens[at..], &["#", "[", "cfg", "(", "all", "(", "test"]);
        if is_test {
            let end = item_end(tokens, at);
            items.push(at..=end);
            at = end;
        }
        at += 1;
    }
    items
}

/// The last token of the item whose first attribute begins at `start`.
fn item_end(tokens: &[Token], start: usize) -> usize {
    let mut at = start;
    while begins(&tokens[at.min(tokens.len())..], &["#", "["]) {
        at = closing(tokens, at + 1) + 1;
    }
    // Braces end a module, function or type, but not a `use` or the value of a constant.
    let ends_with_semicolon = tokens[at.min(tokens.len())..]
        .iter()
        .take_while(|token| !token.is("{") && !token.is(";"))
        .any(|token| token.is("use") || token.is("const") || token.is("static") || token.is("="))
        && !tokens[at..]
            .iter()
            .take_while(|token| !token.is("("))
            .any(|token| token.is("fn"));
    while at < tokens.len() {
        if tokens[at].is(";") {
            return at;
        }
        // A field or a variant may also end with its enclosing bracket.
        if tokens[at].is("}") {
            return at - 1;
        }
        if tokens[at].is("{") || tokens[at].is("(") || tokens[at].is("[") {
            let is_brace = tokens[at].is("{");
            at = closing(tokens, at);
            if is_brace && !ends_with_semicolon {
                return at;
            }
        }
        at += 1;
    }
    tokens.len() - 1
}

fn is_within(path: &str, module: &str) -> bool {
    path.strip_prefix(module)
        .is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
}

fn collect(folder: &Path, paths: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, paths);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            paths.push(path);
        }
    }
}
