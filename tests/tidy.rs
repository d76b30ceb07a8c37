//! The rules of the house, held as tests: what uses what, what may be written where, how long things
//! may be, and that the README tells the truth about commands and counters. Each rule is a function
//! from a source to what is wrong with it, so that each has a test that it finds something.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "in a test's helpers a panic is the verdict"
)]

#[path = "support/rust_source.rs"]
mod rust_source;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use portcullis::metrics::Counter;

use rust_source::{Kind, SourceFile, Token, begins, closing};

/// The rooms from the top down: a room uses only itself and rooms after it.
const ROOMS: [&str; 13] = [
    "main",
    "cli",
    "control",
    "worker",
    "http",
    "serve",
    "upstream",
    "tls",
    "net",
    "record",
    "buf",
    "sys",
    "vocabulary",
];

/// Modules that all rooms may use and that use only each other.
const VOCABULARY: [&str; 6] = ["proto", "config", "message", "metrics", "limits", "error"];

/// Uses against the order: file, the module it uses, and why that is right nevertheless.
const DEVIATIONS: [(&str, &str, &str); 0] = [];

/// What stands beside the dotfiles at the top.
const TOP_LEVEL: &str = "CHANGELOG.md Cargo.lock Cargo.toml LICENSE-MIT README.md benches \
    flamegraphs src target tests tuning";

const FILE_LINES_MAX: usize = 900;
/// Between its braces.
const FUNCTION_LINES_MAX: usize = 70;

#[test]
fn rooms_use_only_what_is_below_them() {
    let files = sources();
    let mut unused: BTreeSet<(&str, &str)> = DEVIATIONS
        .iter()
        .map(|&(file, room, _)| (file, room))
        .collect();
    let mut found = Vec::new();
    for file in &files {
        for arrow in arrows_upward(file) {
            let deviation = (&*file.path, &*arrow.to);
            let known = DEVIATIONS
                .iter()
                .find(|&&(path, to, _)| (path, to) == deviation);
            match known {
                Some(&(path, to, _)) => {
                    unused.remove(&(path, to));
                }
                None => found.push(arrow.message),
            }
        }
    }
    assert_none(&found);
    assert!(unused.is_empty(), "deviations that are no more: {unused:?}");
}

#[test]
fn an_arrow_upward_is_found_however_it_is_written() {
    for text in [
        "use crate::net::rt;",
        "pub use crate::{config::Site, net::{rt, socket}};",
        "use crate::{\n    config::Site,\n    net,\n};",
        "fn f() { crate::net::rt::spawn(()); }",
        "use super::super::net::rt;",
        "mod inner { use super::super::super::net; }",
        "use portcullis::net::rt;",
        "pub(in crate::net) struct S;",
    ] {
        let found = arrows_upward(&SourceFile::parse("sys/file.rs", text));
        assert_eq!(found.len(), 1, "{text}: {found:?}");
        assert_eq!(found[0].to, "net");
    }
    let vocabulary = SourceFile::parse("config/mod.rs", "use crate::sys::cpu;");
    assert_eq!(arrows_upward(&vocabulary).len(), 1);
    let unknown = SourceFile::parse("attic/mod.rs", "");
    assert_eq!(arrows_upward(&unknown).len(), 1);
    let everything = SourceFile::parse("sys/mod.rs", "use crate::*; use super::*;");
    assert_eq!(arrows_upward(&everything).len(), 2);
}

#[test]
fn an_arrow_downward_or_in_a_test_is_none_upward() {
    for text in [
        "use crate::{config::Site, record, sys::{cpu, file}};",
        "// use crate::serve::cache;\n/* crate::cli /* crate::cli */ */",
        "fn f() -> &'static str { \"crate::serve::cache\" }",
        "const A: &str = r#\"crate::\"serve\"#; const B: char = '\\''; const C: u8 = b'\"';",
        "#[cfg(test)] mod tests { use crate::serve::testing; }",
        "#[cfg(test)] use crate::serve::testing;",
        "fn f<'a>(x: &'a str) -> &'a str { x }",
        "use super::stream::Stream; mod inner { use super::super::stream; }",
    ] {
        let found = arrows_upward(&SourceFile::parse("net/send.rs", text));
        assert!(found.is_empty(), "{text}: {found:?}");
    }
}

#[test]
fn unsafe_is_only_in_sys() {
    let found = in_all_sources(|file| stray_word(file, "unsafe", "sys"));
    assert_none(&found);
    let block = "fn f() { unsafe { g() } } #[cfg(test)] mod tests { unsafe fn h() {} }";
    assert_eq!(
        stray_word(&SourceFile::parse("net/send.rs", block), "unsafe", "sys").len(),
        2
    );
    assert!(stray_word(&SourceFile::parse("sys/file.rs", block), "unsafe", "sys").is_empty());
    let said = "//! unsafe\n#![deny(unsafe_code)]\nconst A: &str = \"unsafe\";";
    assert!(stray_word(&SourceFile::parse("net/send.rs", said), "unsafe", "sys").is_empty());
}

#[test]
fn monoio_is_named_only_in_net() {
    let found = in_all_sources(|file| stray_word(file, "monoio", "net"));
    assert_none(&found);
    let line = "use monoio::net::TcpStream;";
    assert_eq!(
        stray_word(&SourceFile::parse("http/mod.rs", line), "monoio", "net").len(),
        1
    );
    assert!(stray_word(&SourceFile::parse("net/rt.rs", line), "monoio", "net").is_empty());
}

#[test]
fn files_are_not_too_long() {
    assert_none(&in_all_sources(too_long_file));
    let code = "const A: u8 = 1;\n".repeat(FILE_LINES_MAX);
    assert!(too_long_file(&SourceFile::parse("a.rs", &code)).is_empty());
    let tests = "#[cfg(test)]\nmod tests {\n    const A: u8 = 1;\n}\n";
    let with_tests = format!("{code}{tests}");
    assert!(too_long_file(&SourceFile::parse("a.rs", &with_tests)).is_empty());
    let longer = format!("{with_tests}// One more.\n");
    assert_eq!(too_long_file(&SourceFile::parse("a.rs", &longer)).len(), 1);
}

#[test]
fn functions_are_not_too_long() {
    assert_none(&in_all_sources(too_long_functions));
    let function = |lines: usize| {
        let body = "    g();\n".repeat(lines);
        format!("pub(crate) async fn f<T>(a: [u8; 2]) -> impl Fn(u8)\n{{\n{body}}}\n")
    };
    assert!(too_long_functions(&source(&function(FUNCTION_LINES_MAX))).is_empty());
    let long = function(FUNCTION_LINES_MAX + 1);
    assert_eq!(too_long_functions(&source(&long)).len(), 1);
    let trait_then_long = format!("trait A {{ fn a(&self); }} type B = fn(u8) -> u8;\n{long}");
    assert_eq!(too_long_functions(&source(&trait_then_long)).len(), 1);
    let in_tests = format!("#[cfg(test)]\nmod tests {{\n{long}}}\n");
    assert!(too_long_functions(&source(&in_tests)).is_empty());
}

#[test]
fn nothing_is_left_to_do() {
    let found = in_all_sources(|file| unfinished(&file.path, &file.text));
    assert_none(&found);
    for marker in UNFINISHED {
        let text = format!("fn f() {{}}\n// {marker}: the rest\n");
        assert_eq!(unfinished("a.rs", &text).len(), 1, "{text}");
    }
    assert!(unfinished("a.rs", "// mktemp run.XXXXXX gives a name\n").is_empty());
}

#[test]
fn outside_tests_nothing_is_unwrapped() {
    assert_none(&in_all_sources(unwrapped));
    for text in [
        "fn f() { g().unwrap(); }",
        "fn f() { g()\n    .expect(\"it is there\"); }",
        "fn f() { g().map(Option::unwrap); }",
    ] {
        assert_eq!(unwrapped(&source(text)).len(), 1, "{text}");
    }
    for text in [
        "fn f() { g().unwrap_or_default(); }",
        "#[expect(lint, reason = \"x\")] fn f() {}",
        "#[cfg(test)] mod tests { #[test] fn t() { g().unwrap(); } }",
        "fn f(&self) { self.expect.add(1); expect(1); }",
        "// g().unwrap()",
    ] {
        assert!(unwrapped(&source(text)).is_empty(), "{text}");
    }
}

#[test]
fn no_file_names_a_place_that_only_one_machine_has() {
    let mut found = Vec::new();
    let mut seen = 0;
    for path in repository_files() {
        if let Ok(text) = fs::read_to_string(&path) {
            seen += 1;
            found.extend(machine_places(&path.display().to_string(), &text));
        }
    }
    assert!(seen > 50, "only {seen} files were read");
    assert_none(&found);
    for place in MACHINE_PLACES {
        let text = format!("cd {}{}x\n", place.0, place.1);
        assert_eq!(machine_places("a.sh", &text).len(), 1, "{text}");
    }
}

#[test]
fn the_top_level_holds_what_it_should() {
    for entry in std::fs::read_dir(env!("CARGO_MANIFEST_DIR")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let belongs = name.starts_with('.') || TOP_LEVEL.split(' ').any(|known| known == name);
        assert!(belongs, "{name}");
    }
}

#[test]
fn every_counter_has_a_name_of_its_own_and_a_help_text() {
    let described: Vec<(&str, &str)> = Counter::ALL
        .iter()
        .map(|counter| (counter.name(), counter.help()))
        .collect();
    assert!(described.len() > 30, "only {} counters", described.len());
    assert_none(&badly_described(&described));
    for wrong in [
        [
            ("requests", "Requests read."),
            ("requests", "Requests answered."),
        ],
        [
            ("requests", "Requests read."),
            ("Requests", "Requests answered."),
        ],
        [("requests", "Requests read."), ("answers", "")],
        [
            ("requests", "Requests read."),
            ("answers", "requests answered"),
        ],
        [
            ("requests", "Requests read."),
            ("answers", "Requests read."),
        ],
    ] {
        assert_eq!(badly_described(&wrong).len(), 1, "{wrong:?}");
    }
}

#[test]
fn every_counter_is_counted_somewhere() {
    assert_none(&never_counted(&sources(), &counter_variants()));
    let used = SourceFile::parse("net/send.rs", "fn f() { count(Counter::Requests); }");
    let variants = ["Requests".to_owned(), "BytesSent".to_owned()];
    let found = never_counted(&[used], &variants);
    assert_eq!(found, ["BytesSent is never counted"]);
}

#[test]
fn every_counter_is_expected_by_a_test() {
    let counters: Vec<(String, &str)> = Counter::ALL
        .iter()
        .map(|counter| (format!("{counter:?}"), counter.name()))
        .collect();
    let mut files = SourceFile::read_all(&root().join("tests"));
    // This file names counters only to look for them.
    files.retain(|file| file.path != "tidy.rs");
    for file in &mut files {
        file.path = format!("tests/{}", file.path);
    }
    files.extend(sources());
    assert_none(&never_expected(&files, &counters));

    let counters = [("BytesSent".to_owned(), "bytes_sent")];
    let expects = |path: &str, text: &str| {
        let file = SourceFile::parse(path, text);
        never_expected(&[file], &counters).is_empty()
    };
    let e2e = "tests/e2e/x.rs";
    assert!(expects(
        e2e,
        "fn f() { assert!(counters[\"bytes_sent\"] > 7); }"
    ));
    assert!(expects(
        e2e,
        "fn f() { server.wait_for_counter(\"bytes_sent\", 1); }"
    ));
    assert!(!expects(
        e2e,
        "fn f() { assert_eq!(counters[\"bytes_sent\"], 0); }"
    ));
    assert!(!expects(e2e, "fn f() { note(\"bytes_sent_twice\"); }"));
    let counted = "count(Counter::BytesSent)";
    assert!(!expects("net/x.rs", &format!("fn f() {{ {counted}; }}")));
    let of_test = format!("#[cfg(test)]\nmod tests {{ fn f() {{ {counted}; }} }}");
    assert!(expects("net/x.rs", &of_test));
}

#[test]
fn pages_of_the_tuning_guide_that_doctor_names_are_there() {
    let is_page = |text: &&str| text.starts_with("tuning/") && text.ends_with(".md");
    let files = sources();
    let literals = files.iter().flat_map(|file| file.text.split('"'));
    let named: BTreeSet<&str> = literals.filter(is_page).collect();
    assert!(named.len() >= 6, "{named:?}");
    let is_missing = |page: &&&str| !root().join(page).is_file();
    let missing: Vec<String> = named
        .iter()
        .filter(is_missing)
        .map(ToString::to_string)
        .collect();
    assert_none(&missing);
}

#[test]
fn the_readme_lists_the_counters_that_there_are() {
    let described: Vec<(&str, &str)> = Counter::ALL
        .iter()
        .map(|counter| (counter.name(), counter.help()))
        .collect();
    assert_none(&counters_against_readme(&described, &readme()));
    let table = "# A\n## Counters\n\n| `requests` | Requests read. |\n\n## B\n| `x` | Y. |\n";
    let listed = [("requests", "Requests read.")];
    assert_none(&counters_against_readme(&listed, table));
    for wrong in [
        table.replace("requests", "answers"),
        table.replace("read.", "seen."),
        table.replace("| `requests` | Requests read. |", ""),
        table.replace("## Counters", "## Gauges"),
    ] {
        assert!(
            !counters_against_readme(&listed, &wrong).is_empty(),
            "{wrong}"
        );
    }
}

#[test]
fn the_readme_and_the_help_agree_on_commands_and_options() {
    assert_none(&commands_against_readme(
        &commands_of_the_program(),
        &readme(),
    ));
}

#[test]
fn a_command_or_option_that_only_one_side_has_is_found() {
    let options = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let commands = BTreeMap::from([
        (String::new(), options(&["--log"])),
        ("serve".to_owned(), options(&["--log", "--listen"])),
        ("doctor".to_owned(), options(&["--log"])),
    ]);
    let good = "Run `portcullis doctor`, or:\n```sh\ncargo run --release -- serve ./site \\\n    \
                --listen [::]:443\n```\n`--log LEVEL` works everywhere; `curl --http2` may help.";
    assert_none(&commands_against_readme(&commands, good));
    for (from, to) in [
        ("portcullis doctor", "portcullis"),
        (
            "portcullis doctor",
            "portcullis nurse` and `portcullis doctor",
        ),
        ("--listen [::]:443", "./site"),
        ("--listen [::]:443", "--listen [::]:443 --lisp"),
        ("`--log LEVEL`", "log"),
        ("`--log LEVEL`", "`--log LEVEL` and `--lag`"),
        ("portcullis doctor", "portcullis doctor --listen [::]:1"),
    ] {
        assert!(good.contains(from));
        let wrong = good.replace(from, to);
        let found = commands_against_readme(&commands, &wrong);
        assert_eq!(found.len(), 1, "{wrong}: {found:?}");
    }
}

#[test]
fn options_are_read_from_a_help_text() {
    let help = "Serve\n\nUsage: portcullis serve [OPTIONS]\n\nCommands:\n  serve   Serve a directory\n  \
                help    Print this message\n\nOptions:\n      --log <LEVEL>\n          How much\n  \
                -h, --help     Print help, see --version\n";
    assert_eq!(
        options_in_help(help),
        BTreeSet::from(["--log".to_owned(), "--help".to_owned()])
    );
    assert_eq!(commands_in_help(help), ["serve", "help"]);
}

/// A use of a room that may not be used.
#[derive(Debug)]
struct Arrow {
    to: String,
    message: String,
}

fn arrows_upward(file: &SourceFile) -> Vec<Arrow> {
    let module = file.module();
    let from = match (module.first(), &*file.path) {
        (Some(room), _) => *room,
        (None, "main.rs") => "main",
        // The root only declares the modules.
        (None, _) => return Vec::new(),
    };
    let Some(height) = height(from) else {
        let message = format!("{}: {from} is not among the rooms", file.path);
        return vec![Arrow {
            to: from.to_owned(),
            message,
        }];
    };
    let mut arrows = Vec::new();
    for (to, line) in uses_of_rooms(&file.tokens_outside_tests(), module.len()) {
        let is_allowed = match self::height(&to) {
            Some(other) if VOCABULARY.contains(&from) => other == height,
            Some(other) => other > height || to == from,
            None => false,
        };
        if !is_allowed {
            let message = format!("{}:{line}: {from} may not use {to}", file.path);
            arrows.push(Arrow { to, message });
        }
    }
    arrows
}

/// How far down a room is: what is below may be used.
fn height(room: &str) -> Option<usize> {
    let name = if VOCABULARY.contains(&room) {
        "vocabulary"
    } else {
        room
    };
    ROOMS.iter().position(|&other| other == name)
}

/// The top-level modules that `tokens` name, each with its line, in a file whose module is so deep
/// below the crate's root.
fn uses_of_rooms(tokens: &[Token], module_depth: usize) -> Vec<(String, usize)> {
    let mut uses = Vec::new();
    // Where the inline modules end that are open at the token looked at.
    let mut inline_ends: Vec<usize> = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        inline_ends.retain(|&end| end > at);
        let rest = &tokens[at..];
        if rest[0].is("mod") && rest.get(2).is_some_and(|token| token.is("{")) {
            inline_ends.push(closing(tokens, at + 2));
        }
        let continues_a_path = at > 0 && tokens[at - 1].is("::");
        let supers = rest
            .chunks(2)
            .take_while(|pair| begins(pair, &["super", "::"]))
            .count();
        let is_root = rest[0].is("crate") || rest[0].is("portcullis");
        if !continues_a_path && is_root && rest.get(1).is_some_and(|token| token.is("::")) {
            heads(tokens, at + 2, &mut uses);
        } else if !continues_a_path && supers > 0 {
            if supers >= module_depth + inline_ends.len() {
                heads(tokens, at + 2 * supers, &mut uses);
            }
            at += 2 * supers - 1;
        } else if begins(rest, &["in", "crate", "::"]) {
            heads(tokens, at + 3, &mut uses);
            at += 2;
        }
        at += 1;
    }
    uses
}

/// The first names of the path, or of the group of paths, at `at`.
fn heads(tokens: &[Token], at: usize, uses: &mut Vec<(String, usize)>) {
    let Some(first) = tokens.get(at) else { return };
    if !first.is("{") {
        uses.push((first.text.clone(), first.line));
        return;
    }
    let end = closing(tokens, at);
    let mut next = at + 1;
    while next < end {
        uses.push((tokens[next].text.clone(), tokens[next].line));
        // On to the comma that ends this path; those of its own groups do not.
        while next < end && !tokens[next].is(",") {
            next = if tokens[next].is("{") {
                closing(tokens, next) + 1
            } else {
                next + 1
            };
        }
        next += 1;
    }
}

/// Where `word` is used outside `room`, in tests too.
fn stray_word(file: &SourceFile, word: &str, room: &str) -> Vec<String> {
    if file.module().first() == Some(&room) {
        return Vec::new();
    }
    let is_stray = |token: &&Token| token.is(word);
    let message = |token: &Token| format!("{}:{}: {word} outside {room}", file.path, token.line);
    file.tokens.iter().filter(is_stray).map(message).collect()
}

fn too_long_file(file: &SourceFile) -> Vec<String> {
    let lines = file.lines_outside_tests();
    if lines <= FILE_LINES_MAX {
        return Vec::new();
    }
    vec![format!(
        "{}: {lines} lines outside tests, at most {FILE_LINES_MAX}",
        file.path
    )]
}

fn too_long_functions(file: &SourceFile) -> Vec<String> {
    let tokens = file.tokens_outside_tests();
    let mut found = Vec::new();
    for (at, pair) in tokens.windows(2).enumerate() {
        // Without a name it is the type of a pointer.
        if !pair[0].is("fn") || !pair[1].is_word() {
            continue;
        }
        let mut next = at + 2;
        while next < tokens.len() && !tokens[next].is("{") && !tokens[next].is(";") {
            let is_open = tokens[next].is("(") || tokens[next].is("[");
            next = if is_open {
                closing(&tokens, next) + 1
            } else {
                next + 1
            };
        }
        if next < tokens.len() && tokens[next].is("{") {
            let lines = tokens[closing(&tokens, next)]
                .line
                .saturating_sub(tokens[next].line + 1);
            if lines > FUNCTION_LINES_MAX {
                let (path, line, name) = (&file.path, pair[0].line, &pair[1].text);
                found.push(format!(
                    "{path}:{line}: {name} has {lines} lines, at most {FUNCTION_LINES_MAX}"
                ));
            }
        }
    }
    found
}

fn unfinished(path: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let mut words = line.split(|character: char| !character.is_alphanumeric());
        if words.any(|word| UNFINISHED.contains(&word)) {
            found.push(format!("{path}:{}: {}", index + 1, line.trim()));
        }
    }
    found
}

fn unwrapped(file: &SourceFile) -> Vec<String> {
    let tokens = file.tokens_outside_tests();
    let mut found = Vec::new();
    for three in tokens.windows(3) {
        let is_panic = three[1].is("unwrap") || three[1].is("expect");
        let is_method = three[0].is(".") && three[2].is("(");
        if is_panic && (is_method || three[0].is("::")) {
            found.push(format!(
                "{}:{}: {}",
                file.path, three[1].line, three[1].text
            ));
        }
    }
    found
}

fn machine_places(path: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let names_one = |place: &(&str, &str)| line.contains(&format!("{}{}", place.0, place.1));
        if MACHINE_PLACES.iter().any(names_one) {
            found.push(format!("{path}:{}: {}", index + 1, line.trim()));
        }
    }
    found
}

fn badly_described(described: &[(&str, &str)]) -> Vec<String> {
    let mut found = Vec::new();
    let (mut names, mut helps) = (BTreeSet::new(), BTreeSet::new());
    for &(name, help) in described {
        let is_snake =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        let is_sentence =
            help.starts_with(|first: char| first.is_uppercase()) && help.ends_with('.');
        if name.is_empty() || !name.bytes().all(is_snake) {
            found.push(format!("{name}: not a name in lower case"));
        } else if !names.insert(name) {
            found.push(format!("{name}: a second counter of this name"));
        } else if !is_sentence {
            found.push(format!("{name}: its help text is no sentence: {help:?}"));
        } else if !helps.insert(help) {
            found.push(format!("{name}: another counter's help text"));
        }
    }
    found
}

fn never_counted(files: &[SourceFile], variants: &[String]) -> Vec<String> {
    let mut counted = BTreeSet::new();
    for file in files {
        for three in file.tokens_outside_tests().windows(3) {
            if three[0].is("Counter") && three[1].is("::") {
                counted.insert(three[2].text.clone());
            }
        }
    }
    let is_never = |variant: &&String| !counted.contains(*variant);
    let message = |variant: &String| format!("{variant} is never counted");
    variants.iter().filter(is_never).map(message).collect()
}

/// The counters, by variant and name, that no test names: in its code, or in a text that is not about
/// there being none.
fn never_expected(files: &[SourceFile], counters: &[(String, &str)]) -> Vec<String> {
    let mut expected = BTreeSet::new();
    for file in files {
        // Not those of the file, which has none where all of it is a test.
        let tokens = rust_source::tokens(&file.text);
        for (at, token) in tokens.iter().enumerate() {
            if !is_of_a_test(file, token.line) {
                continue;
            }
            if at >= 2 && tokens[at - 2].is("Counter") && tokens[at - 1].is("::") {
                expected.insert(token.text.clone());
            }
            let after: Vec<&str> = tokens[at + 1..]
                .iter()
                .take(4)
                .map(|token| token.text.as_str())
                .collect();
            let is_none = matches!(after[..], ["]", ",", "0", ")" | ","]);
            if token.kind == Kind::Literal && !is_none {
                expected.insert(token.text.trim_matches('"').to_owned());
            }
        }
    }
    let is_never = |(variant, name): &&(String, &str)| {
        !expected.contains(variant) && !expected.contains(*name)
    };
    let message = |(_, name): &(String, &str)| format!("{name} is expected by no test");
    counters.iter().filter(is_never).map(message).collect()
}

/// Whether that line is in a test, or in a file that has nothing else.
fn is_of_a_test(file: &SourceFile, line: usize) -> bool {
    let mut test_lines = file.test_lines.iter();
    file.path.starts_with("tests/") || test_lines.any(|lines| lines.contains(&line))
}

fn counter_variants() -> Vec<String> {
    Counter::ALL
        .iter()
        .map(|counter| format!("{counter:?}"))
        .collect()
}

/// The rows of the README's section "Counters", against the counters there are.
fn counters_against_readme(described: &[(&str, &str)], readme: &str) -> Vec<String> {
    let Some((_, section)) = readme.split_once("\n## Counters\n") else {
        return vec!["the README has no section \"Counters\"".to_owned()];
    };
    let listed: BTreeSet<&str> = section
        .lines()
        .take_while(|line| !line.starts_with("## "))
        .filter(|line| line.starts_with("| `"))
        .collect();
    let wanted: BTreeSet<String> = described
        .iter()
        .map(|(name, help)| format!("| `{name}` | {help} |"))
        .collect();
    let missing = wanted.iter().filter(|row| !listed.contains(&***row));
    let foreign = listed.iter().filter(|row| !wanted.contains(**row));
    missing
        .map(|row| format!("not in the README: {row}"))
        .chain(foreign.map(|row| format!("in the README, and no counter: {row}")))
        .collect()
}

/// The commands ("" for none) and the long options of each, from the help texts.
fn commands_of_the_program() -> BTreeMap<String, BTreeSet<String>> {
    let help = help_of(&["--help"]);
    let mut commands = BTreeMap::from([(String::new(), options_in_help(&help))]);
    for command in commands_in_help(&help) {
        if command != "help" {
            let options = options_in_help(&help_of(&[&command, "--help"]));
            commands.insert(command, options);
        }
    }
    assert!(
        commands.len() > 1,
        "the help text names no command:\n{help}"
    );
    commands
}

fn help_of(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(arguments)
        .output()
        .unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn commands_in_help(help: &str) -> Vec<String> {
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    lines
        .take_while(|line| !line.is_empty())
        .filter(|line| line.starts_with("  ") && !line.starts_with("    "))
        .map(|line| line.split_ascii_whitespace().next().unwrap().to_owned())
        .collect()
}

fn options_in_help(help: &str) -> BTreeSet<String> {
    let mut options = BTreeSet::new();
    for line in help.lines() {
        // An explanation is indented further than any option, or stands after one.
        let heads = line
            .split_ascii_whitespace()
            .take(2)
            .filter(|word| word.starts_with("--"));
        if line.trim_start().starts_with('-') {
            options.extend(heads.map(|word| word.trim_end_matches(',').to_owned()));
        }
    }
    options
}

fn commands_against_readme(
    commands: &BTreeMap<String, BTreeSet<String>>,
    readme: &str,
) -> Vec<String> {
    let mut found = Vec::new();
    let mut mentioned_commands = BTreeSet::new();
    let mut mentioned_options = BTreeSet::new();
    let all_options: BTreeSet<&str> = commands.values().flatten().map(String::as_str).collect();
    for line in code_in(readme) {
        let Some(arguments) = arguments_of_the_program(&line) else {
            continue;
        };
        let command = arguments.iter().find(|argument| !argument.starts_with('-'));
        let known = command.map(|command| (*command, commands.get(*command)));
        let options = match known {
            Some((command, None)) => {
                found.push(format!("the README has a command {command}: {line}"));
                continue;
            }
            Some((command, Some(options))) => {
                mentioned_commands.insert(command.to_owned());
                options.iter().map(String::as_str).collect()
            }
            // An option by itself: of any command.
            None => all_options.clone(),
        };
        for argument in arguments
            .iter()
            .filter(|argument| argument.starts_with("--"))
        {
            let option = argument.split('=').next().unwrap_or(argument);
            mentioned_options.insert(option.to_owned());
            if !options.contains(option) {
                found.push(format!("the README has an option {option}: {line}"));
            }
        }
    }
    let is_new = |command: &&String| !command.is_empty() && !mentioned_commands.contains(*command);
    for command in commands.keys().filter(is_new) {
        found.push(format!("the README lacks the command {command}"));
    }
    // Every program has these two.
    for option in all_options
        .into_iter()
        .filter(|option| !["--help", "--version"].contains(option))
    {
        if !mentioned_options.contains(option) {
            found.push(format!("the README lacks the option {option}"));
        }
    }
    found
}

/// The lines of fenced code, continued ones joined, and the code between back quotes.
fn code_in(markdown: &str) -> Vec<String> {
    let joined = markdown.replace("\\\n", " ");
    let mut code = Vec::new();
    for (index, block) in joined.split("```").enumerate() {
        if index % 2 == 1 {
            code.extend(block.lines().skip(1).map(str::to_owned));
        } else {
            // A span may go on in the next line.
            let spans = block.split('`').skip(1).step_by(2);
            code.extend(spans.map(|span| span.replace('\n', " ")));
        }
    }
    code
}

/// The words after the program's name, if `line` starts it; a line that begins with an option is
/// about the program too.
fn arguments_of_the_program(line: &str) -> Option<Vec<&str>> {
    let line = line
        .trim()
        .trim_start_matches("$ ")
        .trim_start_matches("sudo ");
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    let first = *words.first()?;
    let start = if first.starts_with("--") {
        0
    } else if first == "portcullis" || first.ends_with("/portcullis") {
        1
    } else if words.starts_with(&["cargo", "run"]) {
        words.iter().position(|word| *word == "--")? + 1
    } else {
        return None;
    };
    let ends = |word: &&&str| !["|", "&", ">", "#", "&&", ";"].contains(*word);
    let arguments: Vec<&str> = words[start..].iter().take_while(ends).copied().collect();
    // `--log LEVEL`: its value is no command.
    Some(if start == 0 {
        arguments[..1].to_vec()
    } else {
        arguments
    })
}

fn in_all_sources(rule: impl Fn(&SourceFile) -> Vec<String>) -> Vec<String> {
    sources().iter().flat_map(rule).collect()
}

fn sources() -> Vec<SourceFile> {
    let files = SourceFile::read_all(&root().join("src"));
    assert!(files.len() > 50, "only {} files were read", files.len());
    files
}

fn source(text: &str) -> SourceFile {
    SourceFile::parse("net/send.rs", text)
}

fn readme() -> String {
    fs::read_to_string(root().join("README.md")).unwrap()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files but what is built, and what git keeps for itself.
fn repository_files() -> Vec<PathBuf> {
    let mut folders = vec![root().to_owned()];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let is_skipped = path == root().join("target") || path == root().join(".git");
            if path.is_dir() && !path.is_symlink() && !is_skipped {
                folders.push(path);
            } else if path.is_file() && !is_skipped {
                files.push(path);
            }
        }
    }
    files
}

fn assert_none(found: &[String]) {
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

/// Marks of unfinished work.
const UNFINISHED: [&str; 3] = [
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
];

/// Paths that stand for a machine of a developer; in two parts, so that this file names none.
const MACHINE_PLACES: [(&str, &str); 2] = [("/wo", "rk/"), ("/tmp/ha", "ck")];
