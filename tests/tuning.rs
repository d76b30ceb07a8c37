//! The tuning guide holds what it promises: every page is linked, every section has its parts, every
//! setting that `tune` knows is explained and in the sysctl file, and every link leads somewhere. Each
//! rule is a function from a text to what is wrong with it, so that each has a test that it finds
//! something.

#![expect(
    clippy::unwrap_used,
    reason = "in a test's helpers a panic is the verdict"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use portcullis::cli::doctor::Guide;
use portcullis::cli::tune::knobs::{Knob, Place};
use portcullis::cli::tune::table::KNOBS;

/// What each section says, in this order.
const PARTS: [&str; 7] = [
    "Does",
    "Check",
    "Helps",
    "Costs",
    "Undo",
    "Figure",
    "Portcullis",
];

/// Settings of `tune` that the sysctl file leaves out: a line would lower what systemd or a recent kernel
/// has, or do nothing without files below /sys. Its head says so.
const LEFT_OUT: [&str; 4] = [
    "fs.file-max",
    "fs.nr_open",
    "net.core.rps_sock_flow_entries",
    "net.ipv4.tcp_rmem",
];

/// Files that the guide names and `tune` does not look at.
const NOT_SETTINGS: [(&str, &str); 12] = [
    (
        "/proc/irq/N/smp_affinity_list",
        "whose queue it is, no file tells; irqbalance moves them",
    ),
    (
        "/proc/sys/kernel/io_uring_group",
        "a part of kernel.io_uring_disabled, a group's number",
    ),
    (
        "/proc/sys/net/ipv4/tcp_available_ulp",
        "it is how the module is looked at",
    ),
    (
        "/proc/sys/net/ipv4/tcp_available_congestion_control",
        "a list of what could be set",
    ),
    ("/proc/sys/net/netfilter/nf_conntrack_count", "a count"),
    ("/proc/sys/fs/file-nr", "a count"),
    ("/proc/sys/net/core", "a folder"),
    ("/proc/sys", "a folder"),
    ("/sys/class/net/*/queues", "a folder"),
    ("/sys/class/net/*/device/numa_node", "a fact of the machine"),
    (
        "/sys/devices/system/cpu/cpufreq/policy*/scaling_driver",
        "a fact of the machine",
    ),
    (
        "/sys/devices/system/cpu/vulnerabilities/*",
        "facts of the machine",
    ),
];

/// Beginnings of such files that are counts, facts of the machine, or of one process.
const FACTS: [&str; 13] = [
    "/proc/*/smaps_rollup",
    "/proc/*/status",
    "/proc/*/task",
    "/proc/config.gz",
    "/proc/cpuinfo",
    "/proc/crypto",
    "/proc/interrupts",
    "/proc/net/",
    "/sys/devices/system/cpu/cpu*/cpuidle/state*/latency",
    "/sys/devices/system/cpu/cpu*/cpuidle/state*/name",
    "/sys/devices/system/cpu/cpu*/cpuidle/state*/usage",
    "/sys/fs/cgroup/memory.events",
    "/sys/fs/cgroup/memory.stat",
];

/// What names a source in the text of a figure.
const CITATIONS: [&str; 5] = [".rst", ".c", "RFC ", "README", "man page"];

/// The reference to the README.
const QUOTED_FROM_README: &str = "(README, Measured)";

/// How a figure may begin: where it comes from.
const SOURCES: [&str; 7] = [
    "Measured",
    "Quoted",
    "Computed",
    "Read here",
    "Unmeasured",
    "None to measure",
    "See ",
];

#[test]
fn every_page_that_commands_name_is_there_and_in_the_index() {
    let named: BTreeSet<String> = Guide::ALL
        .iter()
        .map(|page| page.path().to_owned())
        .collect();
    assert_eq!(named.len(), Guide::ALL.len());
    let there: BTreeSet<String> = pages().into_keys().collect();
    assert_eq!(named, there);
    let index = read("tuning/README.md");
    for page in there {
        let name = page.trim_start_matches("tuning/");
        assert!(index.contains(&format!("| [{name}]({name}) |")), "{page}");
    }
}

#[test]
fn every_section_has_its_parts() {
    for (path, text) in pages() {
        assert_none(&lacking_parts(&path, &text));
        assert!(sections(&text).len() >= 4, "{path} has few sections");
    }
    let good = PARTS.map(|part| match part {
        "Check" => "- **Check**: `sysctl x`.\n".to_owned(),
        "Figure" => "- **Figure**: Unmeasured.\n".to_owned(),
        part => format!("- **{part}**: Something.\n"),
    });
    let good = format!("# Page\n\n## `x`\n\n{}", good.concat());
    assert_none(&lacking_parts("a.md", &good));
    for (from, to) in [
        ("- **Costs**: Something.\n", ""),
        ("- **Costs**: Something.\n", "- **Costs**:\n"),
        ("`sysctl x`", "sysctl x"),
        ("Unmeasured", "Much faster"),
        ("Unmeasured", "Measured: 7 (Linux 6.18)"),
        ("Unmeasured", "Measured: 7 (`command`)"),
        ("Unmeasured", "Quoted: 7"),
        ("Unmeasured", "Quoted: 7 (somebody)"),
        ("**Does**", "**Helps**"),
    ] {
        let wrong = good.replace(from, to);
        assert_ne!(wrong, good);
        assert_eq!(lacking_parts("a.md", &wrong).len(), 1, "{wrong}");
    }
}

/// A quotation is between quotation marks, and rows of a table are between back quotes.
#[test]
fn what_is_quoted_from_the_readme_stands_there() {
    let readme = read("README.md");
    let mut quoting = 0;
    for (path, text) in pages() {
        for (heading, body) in sections(&text) {
            for (_, figure) in parts(body) {
                if figure.contains(QUOTED_FROM_README) {
                    quoting += 1;
                    let missing = misquoted(&figure, &readme);
                    assert!(missing.is_empty(), "{path}: {heading}: {missing:?}");
                }
            }
        }
    }
    assert!(quoting > 0, "nothing is quoted");
    let readme = "## Measured\n\nIt takes 5.7 KB\nof memory.\n\n| a | 1 | 2 |\n\n## Next\n\n9.9 KB";
    let right = "\"takes 5.7 KB of memory\" and `a | 1` (README, Measured)";
    assert_eq!(misquoted(right, readme), Vec::<String>::new());
    for (from, to) in [
        ("5.7", "5.8"),
        ("| 1", "| 3"),
        ("takes 5.7 KB of memory", "9.9 KB"),
    ] {
        assert_eq!(misquoted(&right.replace(from, to), readme).len(), 1, "{to}");
    }
    assert_eq!(misquoted("5.7 KB (README, Measured)", readme).len(), 1);
}

#[test]
fn every_setting_of_tune_has_its_section_and_its_line() {
    let conf = read("tuning/sysctl.d/90-portcullis.conf");
    for knob in KNOBS {
        assert_none(&unexplained(knob, &read(knob.guide.path())));
    }
    assert_none(&against_sysctl_file(&conf));
    for (from, to) in [
        ("net.core.somaxconn = 4096", "net.core.somaxconn = 128"),
        ("net.core.somaxconn = 4096\n", ""),
        ("net.core.somaxconn", "net.core.somaxcon"),
        (
            "accept queues: tuning/accept.md",
            "accept queues: tuning/tcp.md",
        ),
        (
            "fs.pipe-max-size = ",
            "kernel.io_uring_disabled = 0\nfs.pipe-max-size = ",
        ),
        (
            "fs.pipe-max-size = ",
            "fs.nr_open = 1048576\nfs.pipe-max-size = ",
        ),
        ("net.ipv4.tcp_rmem, whose", "one, whose"),
    ] {
        assert!(conf.contains(from), "{from}");
        let wrong = conf.replacen(from, to, 1);
        assert!(!against_sysctl_file(&wrong).is_empty(), "{to}");
    }
    let queue = KNOBS.iter().find(|knob| knob.name == "net.core.somaxconn");
    assert_eq!(unexplained(queue.unwrap(), "# Page\n\n## `x`\n").len(), 1);
}

#[test]
fn tune_looks_at_every_setting_that_the_guide_has_in_a_file() {
    let nowhere = tempfile::tempdir().unwrap();
    let looked_at: BTreeSet<String> = KNOBS
        .iter()
        .flat_map(|knob| knob.settings(nowhere.path()))
        .map(|setting| format!("/{}", setting.path))
        .collect();
    let named: BTreeSet<String> = pages().values().flat_map(|page| files_in(page)).collect();
    assert!(named.len() > 60, "only {} files", named.len());
    let is_fact = |path: &str| FACTS.iter().any(|fact| path.starts_with(fact));
    let is_known = |path: &String| {
        looked_at.contains(path)
            || is_fact(path)
            || NOT_SETTINGS.iter().any(|(known, _)| known == path)
    };
    let missing: Vec<String> = named
        .iter()
        .filter(|path| !is_known(path))
        .cloned()
        .collect();
    assert_none(&missing);
    // The lists hold nothing that is looked at, or that the guide does not name.
    for (path, reason) in NOT_SETTINGS {
        assert!(
            named.contains(path) && !looked_at.contains(path),
            "{path}: {reason}"
        );
    }
    for fact in FACTS {
        assert!(named.iter().any(|path| path.starts_with(fact)), "{fact}");
        assert!(
            !looked_at.iter().any(|path| path.starts_with(fact)),
            "{fact}"
        );
    }
    let text = "`cat /sys/class/net/IFACE/{a,b}`, /proc/x; `sysctl -w net.core.x=1 fs.y` and\n\
                `echo 4 > /sys/class/net/eth0/queues/tx-N/xps_cpus`.";
    let files = [
        "/proc/sys/fs/y",
        "/proc/sys/net/core/x",
        "/proc/x",
        "/sys/class/net/*/a",
        "/sys/class/net/*/b",
        "/sys/class/net/*/queues/tx-*/xps_cpus",
    ];
    assert_eq!(files_in(text).into_iter().collect::<Vec<_>>(), files);
}

#[test]
fn every_link_of_the_guide_leads_somewhere() {
    let mut links = 0;
    let mut all = pages();
    all.insert("tuning/README.md".to_owned(), read("tuning/README.md"));
    for (path, text) in &all {
        for link in links_in(text) {
            links += 1;
            assert_none(&broken_link(path, &link));
        }
    }
    assert!(links > 25, "only {links} links");
    for broken in ["nowhere.md", "irq.md#nothing", "#nothing"] {
        assert_eq!(broken_link("tuning/tcp.md", broken).len(), 1, "{broken}");
    }
}

#[test]
fn the_guide_names_no_option_that_the_program_does_not_have() {
    let readme = read("README.md");
    for (path, text) in pages() {
        for key in bare_keys(&text) {
            assert!(readme.contains(&format!("`{key}`")), "{path}: {key}");
        }
    }
    assert_eq!(bare_keys("`limits.no_key` and `tcp.md`"), ["no_key"]);
}

/// The rest of the file system is read-only under the unit.
#[test]
fn the_unit_may_write_where_the_readme_says() {
    let (unit, readme) = (read("tuning/systemd/portcullis.service"), read("README.md"));
    for (setting, place) in [
        ("RuntimeDirectory=portcullis", "/run/portcullis"),
        ("LogsDirectory=portcullis", "/var/log/portcullis"),
    ] {
        assert!(unit.lines().any(|line| line == setting), "{setting}");
        assert!(readme.contains(&format!("`{place}`")), "{place}");
    }
}

#[test]
fn every_drop_in_is_for_the_service_and_names_its_page() {
    let folder = root().join("tuning/systemd/portcullis.service.d");
    let mut seen = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let shown = path.display();
        seen += 1;
        assert!(path.extension().is_some_and(|it| it == "conf"), "{shown}");
        let (comment, settings) = text.split_once("[Service]\n").unwrap();
        let is_comment = |line: &str| line.starts_with('#');
        assert!(comment.lines().all(is_comment), "{shown}");
        let named = Guide::ALL.iter().any(|page| comment.contains(page.path()));
        assert!(named, "{shown} names no page");
        let is_setting = |line: &str| line.split_once('=').is_some_and(|(_, to)| !to.is_empty());
        assert!(
            !settings.is_empty() && settings.lines().all(is_setting),
            "{shown}"
        );
    }
    assert!(seen >= 5, "only {seen} drop-ins");
}

/// What a page's sections lack.
fn lacking_parts(path: &str, page: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (heading, body) in sections(page) {
        let mut wrong = |what: String| found.push(format!("{path}: {heading}: {what}"));
        let parts = parts(body);
        let names: Vec<&str> = parts.iter().map(|(name, _)| *name).collect();
        if names != PARTS {
            wrong(format!("its parts are {names:?}"));
            continue;
        }
        for (name, text) in parts {
            let source = SOURCES.iter().find(|source| text.starts_with(*source));
            match name {
                _ if text.is_empty() => wrong(format!("{name} is empty")),
                "Check" if !text.contains('`') => wrong("no command to check it".to_owned()),
                "Figure" if source.is_none() => wrong(format!("whose figure? {text}")),
                "Figure"
                    if text.starts_with("Measured")
                        && !(text.contains('`') && text.contains("Linux ")) =>
                {
                    wrong("measured by which command, on which kernel?".to_owned());
                }
                "Figure"
                    if text.starts_with("Quoted")
                        && !CITATIONS.iter().any(|it| text.contains(it)) =>
                {
                    wrong("quoted from where?".to_owned());
                }
                _ => {}
            }
        }
    }
    found
}

/// Headings of the second level, with what stands below each.
fn sections(page: &str) -> Vec<(&str, &str)> {
    page.split("\n## ")
        .skip(1)
        .map(|section| section.split_once('\n').unwrap_or((section, "")))
        .collect()
}

/// The list items of a section that begin with a bold name, their lines joined.
fn parts(section: &str) -> Vec<(&str, String)> {
    section
        .split("\n- **")
        .skip(1)
        .filter_map(|part| part.split_once("**:"))
        .map(|(name, text)| {
            let words: Vec<&str> = text.split_ascii_whitespace().collect();
            (name, words.join(" "))
        })
        .collect()
}

/// The quotations before a figure's reference to the README's section "Measured" that it does not have; a
/// figure that quotes nothing is its own.
fn misquoted(figure: &str, readme: &str) -> Vec<String> {
    let (figure, _) = figure.rsplit_once(QUOTED_FROM_README).unwrap();
    let (_, measured) = readme.split_once("## Measured\n").unwrap();
    let (measured, _) = measured.split_once("\n## ").unwrap();
    let words: Vec<&str> = measured.split_ascii_whitespace().collect();
    let measured = words.join(" ");
    let marked = |mark: char| figure.split(mark).skip(1).step_by(2).map(str::to_owned);
    let quotations: Vec<String> = marked('"').chain(marked('`')).collect();
    if quotations.is_empty() {
        return vec![figure.to_owned()];
    }
    let is_missing = |quotation: &String| !measured.contains(quotation.as_str());
    quotations.into_iter().filter(is_missing).collect()
}

fn unexplained(knob: &Knob, page: &str) -> Vec<String> {
    let name = format!("`{}`", knob.name);
    match sections(page)
        .iter()
        .any(|(heading, _)| heading.contains(&name))
    {
        true => Vec::new(),
        false => vec![format!("{} has no section {name}", knob.guide.path())],
    }
}

/// Each line of the sysctl file against the table, and the other way round.
fn against_sysctl_file(conf: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut missing: BTreeSet<&str> = KNOBS
        .iter()
        .filter(|knob| knob.place == Place::Sysctl && knob.left_because.is_none())
        .filter(|knob| !LEFT_OUT.contains(&knob.name))
        .map(|knob| knob.name)
        .collect();
    let head = conf.split("\n\n").next().unwrap_or_default();
    let unnamed = LEFT_OUT.into_iter().filter(|name| !head.contains(name));
    found.extend(unnamed.map(|name| format!("the head does not say that {name} is left out")));
    let mut comment = String::new();
    let mut was_comment = false;
    for line in conf.lines() {
        let goes_on = std::mem::replace(&mut was_comment, line.starts_with('#'));
        if let Some(said) = line.strip_prefix('#') {
            if !goes_on {
                comment.clear();
            }
            comment.push_str(said);
            continue;
        }
        let Some((name, value)) = line.split_once(" = ") else {
            continue;
        };
        let name = name.trim_start_matches('-');
        let knob = KNOBS.iter().find(|knob| knob.name == name);
        let Some(knob) = knob.filter(|_| missing.remove(name)) else {
            found.push(format!("{line}: `tune` does not set it, or twice"));
            continue;
        };
        if knob.wanted.correction(value, "") != Ok(None) {
            found.push(format!("{line}: {} is recommended", knob.wanted.describe()));
        }
        if !comment.contains(knob.guide.path()) {
            found.push(format!("{line}: the comment names another page"));
        }
    }
    found.extend(missing.into_iter().map(|name| format!("{name} is missing")));
    found
}

/// The files of /proc and /sys that a page names, and those of the settings that it has sysctl(8) show; `*`
/// in place of what a knob has several of.
fn files_in(page: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut page = page.replace("$(pidof -s portcullis)", "*");
    for (one, any) in [
        ("IFACE", "*"),
        ("net/eth0/", "net/*/"),
        ("tx-N", "tx-*"),
        ("cpu/cpu0/", "cpu/cpu*/"),
    ] {
        page = page.replace(one, any);
    }
    let is_end = |character: char| character.is_whitespace() || "`;()'\"|:".contains(character);
    for word in page.split(is_end) {
        let word = word.trim_end_matches(['.', ',']);
        if !["/proc/", "/sys/"]
            .iter()
            .any(|root| word.starts_with(root))
        {
            continue;
        }
        let Some((before, choices)) = word.split_once('{') else {
            found.insert(word.to_owned());
            continue;
        };
        let (choices, after) = choices.split_once('}').unwrap_or((choices, ""));
        let choices = choices.split(',');
        found.extend(choices.map(|choice| format!("{before}{choice}{after}")));
    }
    for span in page.split('`').skip(1).step_by(2) {
        for command in span.split(';') {
            let mut words = command.split_whitespace();
            if words.next() != Some("sysctl") {
                continue;
            }
            let names = words.filter_map(|word| word.split('=').next());
            let names = names.filter(|name| name.contains('.'));
            found.extend(names.map(|name| format!("/proc/sys/{}", name.replace('.', "/"))));
        }
    }
    found
}

/// The targets of links in Markdown that lead to files and sections.
fn links_in(text: &str) -> Vec<String> {
    text.split("](")
        .skip(1)
        .filter_map(|rest| rest.split_once(')'))
        .map(|(target, _)| target.to_owned())
        .filter(|target| !target.contains("://"))
        .collect()
}

fn broken_link(from: &str, target: &str) -> Vec<String> {
    let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
    let path = match file {
        "" => root().join(from),
        file => root().join(from).with_file_name(file),
    };
    let is_there = match anchor {
        "" => path.exists(),
        anchor => fs::read_to_string(&path).is_ok_and(|text| anchors(&text).contains(anchor)),
    };
    match is_there {
        true => Vec::new(),
        false => vec![format!("{from}: {target} leads nowhere")],
    }
}

/// What headings are linked by: lower case, blanks as hyphens, and of the rest letters, digits, hyphens
/// and underscores only.
fn anchors(text: &str) -> BTreeSet<String> {
    let of = |heading: &str| {
        let kept = |character: &char| character.is_alphanumeric() || " -_".contains(*character);
        let heading = heading.trim_start_matches('#').trim().to_lowercase();
        heading
            .chars()
            .filter(kept)
            .collect::<String>()
            .replace(' ', "-")
    };
    let is_heading = |line: &&str| line.starts_with('#');
    text.lines().filter(is_heading).map(of).collect()
}

/// The keys of the configuration that are named with their table, as `limits.header_bytes_max`.
fn bare_keys(text: &str) -> Vec<String> {
    let tables = [
        "limits.",
        "tcp.",
        "tls.",
        "timeouts.",
        "workers.",
        "offload.",
        "session.",
        "http2.",
    ];
    text.split('`')
        .skip(1)
        .step_by(2)
        .filter_map(|span| {
            let key = tables.iter().find_map(|table| span.strip_prefix(table))?;
            let is_key = |byte: u8| byte.is_ascii_lowercase() || b"_0123456789".contains(&byte);
            (key != "md" && key.bytes().all(is_key)).then(|| key.to_owned())
        })
        .collect()
}

/// The guide's pages, the index aside, by their paths from the root.
fn pages() -> BTreeMap<String, String> {
    let mut pages = BTreeMap::new();
    for entry in fs::read_dir(root().join("tuning")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.ends_with(".md") && name != "README.md" {
            let path = format!("tuning/{name}");
            let text = read(&path);
            pages.insert(path, text);
        }
    }
    pages
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

fn assert_none(found: &[String]) {
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}
