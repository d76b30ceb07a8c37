//! The README's tables of options are true: every key is there, with the default, range and choices
//! that the program has.

use std::collections::BTreeMap;
use std::path::Path;

use super::*;

const README: &str = include_str!("../../README.md");

/// The least that an `[[upstream]]` needs, and its check with settings of HTTP.
const UPSTREAM: &[(&str, &str, &str)] = &[
    ("[[upstream]]", "name", "\"app\""),
    ("[[upstream.server]]", "address", "\"tcp://127.0.0.1:8080\""),
    ("[upstream.health]", "", ""),
];
const UPSTREAM_HTTP: &[(&str, &str, &str)] = &[
    ("[[upstream]]", "name", "\"app\""),
    ("[[upstream.server]]", "address", "\"tcp://127.0.0.1:8080\""),
    ("[upstream.http]", "", ""),
];
const UPSTREAM_TLS: &[(&str, &str, &str)] = &[
    ("[[upstream]]", "name", "\"app\""),
    ("[[upstream.server]]", "address", "\"tcp://127.0.0.1:8080\""),
    ("[upstream.tls]", "", ""),
];
const PASSTHROUGH: &[(&str, &str, &str)] = &[
    ("[[upstream]]", "name", "\"app\""),
    ("[[upstream.server]]", "address", "\"tcp://127.0.0.1:8080\""),
    ("[[passthrough]]", "names", "[\"b.test\"]"),
    ("[[passthrough]]", "upstream", "\"app\""),
];
const UPSTREAM_CHECKED: &[(&str, &str, &str)] = &[
    ("[[upstream]]", "name", "\"app\""),
    ("[[upstream.server]]", "address", "\"tcp://127.0.0.1:8080\""),
    ("[upstream.health]", "kind", "\"http\""),
];

/// A listener that a proxy stands in front of.
const LISTENER_BEHIND: &[(&str, &str, &str)] = &[
    ("[[listener]]", "proxy_protocol", "true"),
    ("[[listener]]", "proxy_protocol_from", "[\"192.0.2.9\"]"),
];

/// The least that an `[[site.route]]` needs: of each kind.
const ROUTE: &[(&str, &str, &str)] = &[
    ("[[site.route]]", "prefix", "\"/a/\""),
    ("[[site.route]]", "redirect", "\"/b$path\""),
];
const ROUTE_FIXED: &[(&str, &str, &str)] = &[
    ("[[site.route]]", "prefix", "\"/a/\""),
    ("[[site.route]]", "status", "200"),
];
const ROUTE_PROXIED: &[(&str, &str, &str)] = &[
    ("[[upstream]]", "name", "\"app\""),
    ("[[upstream.server]]", "address", "\"tcp://127.0.0.1:8080\""),
    ("[[site.route]]", "prefix", "\"/a/\""),
    ("[[site.route]]", "upstream", "\"app\""),
];

#[derive(Debug)]
struct Row {
    table: String,
    key: String,
    kind: String,
    default: String,
    range: String,
    meaning: String,
}

fn rows() -> Vec<Row> {
    let (_, options) = README.split_once("## Every option").unwrap();
    let mut table = String::new();
    let mut rows = Vec::new();
    for line in options.lines().take_while(|line| !line.starts_with("## ")) {
        if let Some(heading) = line.strip_prefix("### ") {
            table = heading.trim_matches('`').to_owned();
        } else if line.starts_with("| `") {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            let [key, kind, unit, default, range, meaning] = cells[..] else {
                panic!("not six cells: {line}");
            };
            assert_eq!(
                unit.is_empty(),
                kind != "number" || key.contains("port"),
                "{line}"
            );
            rows.push(Row {
                table: table.clone(),
                key: key.trim_matches('`').to_owned(),
                kind: kind.to_owned(),
                default: default.to_owned(),
                range: range.to_owned(),
                meaning: meaning.to_owned(),
            });
        }
    }
    rows
}

impl Row {
    fn name(&self) -> String {
        format!("{} {}", self.table, self.key)
    }

    /// The values in back quotes of a cell.
    fn values(cell: &str) -> Vec<&str> {
        cell.split('`').skip(1).step_by(2).collect()
    }

    /// The edges of a range of numbers.
    fn edges(&self) -> (i64, i64) {
        let (low, high) = self.range.split_once(" to ").unwrap();
        (low.parse().unwrap(), high.parse().unwrap())
    }

    /// Settings without which this key's whole range cannot be used.
    fn context(&self) -> &'static [(&'static str, &'static str, &'static str)] {
        match (self.table.as_str(), self.key.as_str()) {
            ("[[listener]]", "redirect_port") => &[("[[listener]]", "service", "\"redirect\"")],
            ("[[listener]]", "proxy_protocol") => {
                &[("[[listener]]", "proxy_protocol_from", "[\"192.0.2.7\"]")]
            }
            ("[[listener]]", key) if key.starts_with("proxy_protocol_") => LISTENER_BEHIND,
            ("[limits]", "target_bytes_max") => &[("[limits]", "header_bytes_max", "1048576")],
            ("[limits]", "header_bytes_max") => &[("[limits]", "target_bytes_max", "256")],
            (_, "client_certificate") => &[("[tls]", "client_ca", "\"ca.pem\"")],
            ("[site.hsts]", _) => &[("[site.hsts]", "", "")],
            ("[rate_limit]", _) => &[("[rate_limit]", "requests", "10")],
            ("[site.rate_limit]", _) => &[("[site.rate_limit]", "requests", "10")],
            ("[site.access_log]", _) => &[("[site.access_log]", "path", "\"-\"")],
            ("[access_log]", "format") => &[("[access_log]", "path", "\"-\"")],
            ("[admin]", "allow_remote") => &[("[admin]", "address", "\"127.0.0.1:1\"")],
            ("[[site.headers]]", "content_type") => &[("[[site.headers]]", "fields", "[]")],
            ("[[site.headers]]", _) => &[("[[site.headers]]", "content_type", "\"a/b\"")],
            ("[[site.error_pages]]", _) => &[
                ("[[site.error_pages]]", "statuses", "[404]"),
                ("[[site.error_pages]]", "file", "\"/etc/passwd\""),
            ],
            ("[upstream.health]", "path" | "host") => UPSTREAM_CHECKED,
            ("[[site.route]]", "status" | "body") => ROUTE_FIXED,
            ("[[site.route]]", key)
                if matches!(key, "upstream" | "host" | "forwarded")
                    || key.starts_with("request_") =>
            {
                ROUTE_PROXIED
            }
            ("[[site.route]]", _) => ROUTE,
            ("[upstream.http]", _) => UPSTREAM_HTTP,
            // A certificate has its key.
            ("[upstream.tls]", _) => UPSTREAM_TLS,
            ("[[passthrough]]", _) => PASSTHROUGH,
            (table, _) if table.trim_matches('[').starts_with("upstream") => UPSTREAM,
            _ => &[],
        }
    }

    /// A complete file with this key set to `value`, or left out.
    fn outcome(&self, value: Option<&str>) -> Result<String, ConfigError> {
        type Tables<'a> = BTreeMap<&'a str, BTreeMap<&'a str, &'a str>>;
        fn insert<'a>(tables: &mut Tables<'a>, table: &'a str, key: &'a str, value: &'a str) {
            let table = tables.entry(table).or_default();
            if !key.is_empty() {
                table.insert(key, value);
            }
        }
        let mut tables = Tables::new();
        let mut set = |table, key, value| insert(&mut tables, table, key, value);
        set("[[listener]]", "address", "\"[::]:443\"");
        set("[[site]]", "names", "[\"a.test\"]");
        set("[[site]]", "certificate", "\"c.pem\"");
        set("[[site]]", "key", "\"k.pem\"");
        set("[[site]]", "root", "\"/\"");
        for (table, key, value) in self.context() {
            set(table, key, value);
        }
        if self.key == "protocol" && value == Some("\"h2\"") {
            set("[upstream.tls]", "server_name", "\"a.test\"");
        }
        match value {
            Some(value) => set(&self.table, &self.key, value),
            None => {
                tables
                    .get_mut(self.table.as_str())
                    .map(|keys| keys.remove(self.key.as_str()));
            }
        }
        let mut text = String::new();
        // A table that belongs to another stands behind it.
        let mut order: Vec<&str> = tables.keys().copied().collect();
        order.sort_by_key(|table| (!table.starts_with("[["), table.trim_matches(['[', ']'])));
        for table in order {
            text.push_str(&format!("{table}\n"));
            for (key, value) in &tables[table] {
                text.push_str(&format!("{key} = {value}\n"));
            }
        }
        parse(text.as_bytes(), Path::new("p.toml"), Path::new("/"))
            .map(|loaded| format!("{:?}", loaded.config))
    }
}

#[test]
fn every_key_is_documented_and_nothing_else() {
    let mut documented: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for row in rows() {
        assert!(row.meaning.ends_with('.'), "{}", row.name());
        documented.entry(row.table).or_default().push(row.key);
    }
    for (table, keys) in raw::tables() {
        let bare = |name: &str| name.trim_matches(['[', ']']).to_owned();
        let is_table = |key: &&str| {
            raw::tables()
                .iter()
                .any(|(name, _)| bare(name) == format!("{}.{key}", bare(table)))
        };
        let keys = keys.iter().copied();
        let expected: Vec<&str> = keys.filter(|key| !is_table(key)).collect();
        assert_eq!(
            documented.remove(table).unwrap_or_default(),
            expected,
            "{table}"
        );
    }
    assert!(
        documented.is_empty(),
        "not in the file's format: {documented:?}"
    );
    let named: Vec<String> = raw::tables()
        .into_iter()
        .map(|(table, _)| table.trim_matches(['[', ']']).to_owned())
        .filter(|table| !table.contains('.'))
        .collect();
    let mut accepted = raw::keys::<raw::RawConfig>().to_vec();
    accepted.sort_unstable();
    let mut named: Vec<&str> = named.iter().map(String::as_str).collect();
    named.sort_unstable();
    assert_eq!(named, accepted);
}

#[test]
fn a_default_that_is_written_down_changes_nothing() {
    for row in rows() {
        let left_out = row.outcome(None);
        match (row.default.as_str(), Row::values(&row.default).as_slice()) {
            ("required", []) => {
                let error = left_out.expect_err(&row.name()).to_string();
                assert!(error.contains(&format!("no `{}`", row.key)), "{error}");
            }
            ("by extension", []) => assert!(left_out.unwrap().contains("content_type: None")),
            ("one per CPU", []) => assert!(left_out.unwrap().contains("workers: None")),
            ("none", []) if row.table == "[admin]" => assert_ne!(
                left_out.unwrap(),
                row.outcome(Some("\"127.0.0.1:1\"")).unwrap(),
                "{} does nothing",
                row.name()
            ),
            // A route needs one of several.
            ("none", []) if row.table == "[[site.route]]" => {}
            ("none", []) => assert!(left_out.is_ok(), "{}", row.name()),
            ("as in `[tls]`", _) => assert!(row.table == "[site.tls]"),
            (_, [default]) => {
                assert_eq!(
                    row.outcome(Some(default)).unwrap(),
                    left_out.unwrap(),
                    "{}",
                    row.name()
                );
            }
            _ => panic!("no default: {row:?}"),
        }
    }
}

#[test]
fn ranges_of_numbers_are_those_that_are_checked() {
    for row in rows().iter().filter(|row| row.kind == "number") {
        let (low, high) = row.edges();
        let outcome = |number: i64| row.outcome(Some(&number.to_string()));
        assert_ne!(
            outcome(low).unwrap(),
            outcome(high).unwrap(),
            "{} does nothing",
            row.name()
        );
        for outside in [low - 1, high + 1] {
            let error = outcome(outside).expect_err(&row.name()).to_string();
            assert!(
                error.contains(&format!("`{}` is {outside}", row.key)),
                "{error}"
            );
        }
    }
}

#[test]
fn choices_are_all_known_and_all_different() {
    for row in rows() {
        let choices = Row::values(&row.range);
        let outcomes: Vec<String> = choices
            .iter()
            .map(|choice| {
                row.outcome(Some(choice))
                    .unwrap_or_else(|e| panic!("{}: {e}", row.name()))
            })
            .collect();
        for (index, outcome) in outcomes.iter().enumerate() {
            let twice = outcomes[..index].contains(outcome);
            assert!(!twice, "{}: {} does nothing", row.name(), choices[index]);
        }
        assert!(
            row.kind != "boolean" || choices == ["true", "false"],
            "{}",
            row.name()
        );
    }
}

#[test]
fn the_example_is_accepted() {
    let (_, after) = README.split_once("```toml\n").unwrap();
    let (example, _) = after.split_once("```").unwrap();
    let base = tempfile::tempdir().unwrap();
    for root in ["sites/example.org", "sites/static"] {
        std::fs::create_dir_all(base.path().join(root)).unwrap();
    }
    let read = |text: &str| parse(text.as_bytes(), Path::new("portcullis.toml"), base.path());
    let loaded = read(example).unwrap();
    assert_eq!(loaded.warnings, []);
    assert_eq!(loaded.config.sites.len(), 2);
    assert_eq!(loaded.config.sites[1].tls.version_min, TlsVersion::Tls13);
    let shown = read(&example.replace("idle_ms", "idle"))
        .unwrap_err()
        .to_string();
    assert!(
        README.contains(&format!("```text\n{shown}\n```")),
        "{shown}"
    );
}

#[test]
fn keys_that_errors_name_are_keys() {
    let keys: Vec<String> = rows()
        .iter()
        .map(|row| format!("{}.{}", row.table.trim_matches(['[', ']']), row.key))
        .collect();
    let mut files = Vec::new();
    collect_sources(
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")),
        &mut files,
    );
    let mut named = 0;
    for (path, text) in files {
        let wrong = misnamed_keys(&text, &keys, &mut named);
        assert!(
            wrong.is_empty(),
            "{}: no such keys: {wrong:?}",
            path.display()
        );
    }
    assert!(named >= 10, "only {named} keys found: the search is broken");
}

#[test]
fn a_misnamed_key_is_found() {
    let keys = [
        "timeouts.idle_ms".to_owned(),
        "limits.body_bytes_max".to_owned(),
    ];
    for (text, wrong) in [
        (r#"Cause::Timeout("timeouts.idle_ms")"#, vec![]),
        (r#"Cause::Timeout("idle")"#, vec!["idle"]),
        ("Cause::Limit(\n    \"body\",\n)", vec!["body"]),
        (
            r#"Refusal::new(413, "over body_bytes_max")"#,
            vec!["body_bytes_max"],
        ),
        (r#"Refusal::new(413, "over limits.body_bytes_max")"#, vec![]),
        (
            r#"let key = "timeouts.idel_ms passed";"#,
            vec!["timeouts.idel_ms"],
        ),
        (r#"// Refusal::new(413, "over body_bytes_max")"#, vec![]),
    ] {
        assert_eq!(misnamed_keys(text, &keys, &mut 0), wrong, "{text}");
    }
}

/// The words in `text`'s literals that name a deadline or bound otherwise than by its whole key:
/// all there is in a `Cause::Timeout` or `Cause::Limit`, a word that begins like a key, and a key
/// without its table in a refusal. Counts in `named` those that are right.
fn misnamed_keys(text: &str, keys: &[String], named: &mut usize) -> Vec<String> {
    let code: Vec<&str> = text
        .lines()
        .take_while(|line| *line != "#[cfg(test)]")
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect();
    let code = code.join("\n");
    let mut wrong = Vec::new();
    let mut before = "";
    for (index, piece) in code.split('"').enumerate() {
        if index % 2 == 0 {
            before = piece.trim_end();
            continue;
        }
        let is_key = |word: &str| keys.iter().any(|key| key == word);
        let is_cause = before.ends_with("Cause::Timeout(") || before.ends_with("Cause::Limit(");
        let is_refusal = before.contains("Refusal::");
        let words = piece.split(|c: char| !c.is_ascii_alphanumeric() && !"_.".contains(c));
        for word in words.map(|word| word.trim_matches('.')) {
            let is_like_key = ["timeouts.", "limits."].iter().any(|t| word.starts_with(t));
            let is_like_key = is_like_key && !word.ends_with(".md");
            let is_bare = keys.iter().any(|key| {
                key.split_once('.')
                    .is_some_and(|(_, bare)| bare == word && bare.contains('_'))
            });
            match () {
                () if is_key(word) => *named += 1,
                () if is_cause || is_like_key || is_refusal && is_bare => {
                    wrong.push(word.to_owned());
                }
                () => {}
            }
        }
    }
    wrong
}

fn collect_sources(directory: &Path, files: &mut Vec<(std::path::PathBuf, String)>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect_sources(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs")
            && !path.to_string_lossy().contains("tests")
        {
            files.push((path.clone(), std::fs::read_to_string(&path).unwrap()));
        }
    }
}
