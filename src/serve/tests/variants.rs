//! What a site adds to plain files: codings, header rules, listings, error pages.

use std::fs::File;
use std::time::SystemTime;

use super::*;
use crate::config::{ErrorPage, HeaderRule};
use crate::metrics::{self, Counter};
use crate::proto::content_coding::Coding;

impl Fixture {
    /// Sets when `name` was modified, in seconds before now.
    fn age(&self, name: &str, seconds: u64) {
        let modified = SystemTime::now() - Duration::from_secs(seconds);
        let file = File::options().write(true).open(self.files.root.join(name));
        file.unwrap().set_modified(modified).unwrap();
    }

    fn pass(&mut self, time: Duration) {
        self.now.monotonic += time;
        self.now.wall += time;
    }

    fn accepting(&self, target: &str, value: &str) -> Response {
        self.get(target, &[("accept-encoding", value)])
    }
}

fn coding(response: &Response) -> String {
    field(response, "content-encoding").unwrap_or_default()
}

fn precompressed() -> Fixture {
    let fixture = Fixture::with(|site| {
        site.files.precompressed = vec![Coding::Brotli, Coding::Zstd, Coding::Gzip];
    });
    fixture.write("app.js", "plain");
    fixture.write("app.js.br", "brotli");
    fixture.write("app.js.gz", "gzipped");
    fixture.write("bare.txt", "bare");
    for name in ["app.js", "app.js.br", "app.js.gz"] {
        fixture.age(name, 100);
    }
    fixture
}

const BROWSER: &str = "gzip, deflate, br, zstd";

#[test]
fn rfc9110_12_5_3_a_sibling_in_an_accepted_coding_is_sent() {
    let fixture = precompressed();
    for (accepted, sent, body) in [
        (BROWSER, "br", "brotli"),
        ("gzip", "gzip", "gzipped"),
        ("gzip;q=1, br;q=0.5", "gzip", "gzipped"),
        ("zstd", "", "plain"),
        ("zstd, gzip;q=0.1", "gzip", "gzipped"),
        ("identity", "", "plain"),
        ("identity;q=0, gzip;q=0.1", "gzip", "gzipped"),
        ("", "", "plain"),
    ] {
        let response = fixture.accepting("/app.js", accepted);
        assert_eq!(response.status.0, 200, "{accepted}");
        assert_eq!(coding(&response), sent, "{accepted}");
        assert_eq!(text(&response), body, "{accepted}");
        assert_eq!(field(&response, "vary").unwrap(), "accept-encoding");
        // The type is that of what is coded.
        let content_type = field(&response, "content-type").unwrap();
        assert_eq!(content_type, "text/javascript; charset=utf-8");
    }
    let unasked = fixture.get("/app.js", &[]);
    assert_eq!(
        (coding(&unasked), text(&unasked)),
        (String::new(), "plain".into())
    );
    assert_eq!(field(&unasked, "vary").unwrap(), "accept-encoding");
    // A file without siblings does not vary, and a sibling is also a file of its own.
    let bare = fixture.accepting("/bare.txt", BROWSER);
    assert_eq!((field(&bare, "vary"), text(&bare)), (None, "bare".into()));
    let itself = fixture.accepting("/app.js.gz", BROWSER);
    assert_eq!(
        (coding(&itself), text(&itself)),
        (String::new(), "gzipped".into())
    );
    assert_eq!(field(&itself, "content-type").unwrap(), "application/gzip");
}

#[test]
fn rfc9110_15_5_7_what_is_not_acceptable_is_not_sent() {
    let fixture = precompressed();
    for accepted in ["zstd, identity;q=0", "*;q=0", "identity;q=0"] {
        let response = fixture.accepting("/app.js", accepted);
        assert_eq!(response.status.0, 406, "{accepted}");
        assert_eq!(field(&response, "vary").unwrap(), "accept-encoding");
    }
    let without = Fixture::new();
    without.write("f", "f");
    assert_eq!(without.accepting("/f", "*;q=0").status.0, 200);
}

#[test]
fn rfc9110_8_8_3_3_each_coding_has_an_entity_tag_of_its_own() {
    let fixture = precompressed();
    let tag = |accepted: &str| field(&fixture.accepting("/app.js", accepted), "etag").unwrap();
    let (plain, brotli, gzip) = (tag(""), tag("br"), tag("gzip"));
    assert!(plain != brotli && brotli != gzip && gzip != plain);
    let asked = |accepted: &str, etag: &str| {
        let fields = [("accept-encoding", accepted), ("if-none-match", etag)];
        fixture.get("/app.js", &fields)
    };
    let response = asked("br", &brotli);
    assert_eq!(response.status.0, 304);
    assert_eq!(field(&response, "etag").unwrap(), brotli);
    assert_eq!(field(&response, "vary").unwrap(), "accept-encoding");
    assert_eq!(coding(&response), "");
    assert_eq!(asked("br", &plain).status.0, 200);
    assert_eq!(asked("gzip", &brotli).status.0, 200);
}

#[test]
fn rfc9110_14_2_ranges_are_of_the_coded_bytes() {
    let fixture = precompressed();
    let fields = [("accept-encoding", "br"), ("range", "bytes=1-3")];
    let response = fixture.get("/app.js", &fields);
    assert_eq!((response.status.0, text(&response)), (206, "rot".into()));
    assert_eq!(coding(&response), "br");
    assert_eq!(field(&response, "content-range").unwrap(), "bytes 1-3/6");
}

#[test]
fn a_sibling_that_is_older_than_its_file_is_not_sent() {
    let mut fixture = precompressed();
    fixture.age("app.js.br", 101);
    let response = fixture.accepting("/app.js", BROWSER);
    assert_eq!(
        (coding(&response), text(&response)),
        ("gzip".into(), "gzipped".into())
    );
    // Edited since: no sibling is of this state.
    fixture.write("app.js", "edited");
    fixture.pass(cache::REVALIDATE_AFTER);
    let response = fixture.accepting("/app.js", BROWSER);
    assert_eq!(
        (coding(&response), text(&response)),
        (String::new(), "edited".into())
    );
    assert_eq!(field(&response, "vary"), None);
    // Compressed anew.
    fixture.write("app.js.gz", "edited gzipped");
    fixture.pass(cache::REVALIDATE_AFTER);
    assert_eq!(
        text(&fixture.accepting("/app.js", BROWSER)),
        "edited gzipped"
    );
    fs::remove_file(fixture.files.root.join("app.js.gz")).unwrap();
    fixture.pass(cache::REVALIDATE_AFTER);
    assert_eq!(text(&fixture.accepting("/app.js", BROWSER)), "edited");
}

#[test]
fn a_hit_asks_the_system_for_no_sibling() {
    let fixture = precompressed();
    for target in ["/app.js", "/bare.txt", "/"] {
        fixture.accepting(target, BROWSER);
    }
    let misses = || metrics::of_this_thread(Counter::FileCacheMisses);
    let before = misses();
    for target in ["/app.js", "/bare.txt"] {
        for accepted in [BROWSER, "gzip", "zstd", ""] {
            assert_eq!(fixture.accepting(target, accepted).status.0, 200);
        }
    }
    assert_eq!(misses(), before);
}

#[test]
fn an_index_has_siblings_too() {
    let fixture = precompressed();
    fixture.write("docs/index.html", "index");
    fixture.age("docs/index.html", 100);
    fixture.write("docs/index.html.zst", "zstandard");
    let response = fixture.accepting("/docs/", BROWSER);
    assert_eq!(
        (coding(&response), text(&response)),
        ("zstd".into(), "zstandard".into())
    );
    let content_type = field(&response, "content-type").unwrap();
    assert_eq!(content_type, "text/html; charset=utf-8");
}

fn rule(path: &str, fields: &[(&'static str, &'static str)]) -> HeaderRule {
    HeaderRule {
        path: path.to_owned(),
        extensions: Vec::new(),
        fields: fields
            .iter()
            .map(|(name, value)| (*name, Bytes::from_static(value.as_bytes())))
            .collect(),
        content_type: None,
    }
}

#[test]
fn header_rules_apply_in_order_and_the_last_decides() {
    let fixture = Fixture::with(|site| {
        site.files.listing = true;
        site.files.headers = Arc::new([
            rule(
                "/",
                &[("cache-control", "no-cache"), ("x-frame-options", "DENY")],
            ),
            rule("/assets/", &[("cache-control", "max-age=9, immutable")]),
            HeaderRule {
                extensions: vec!["foo".into()],
                content_type: Some("application/x-foo".into()),
                ..rule("/assets/", &[("link", "<a>"), ("link", "<b>")])
            },
            rule("/assets/raw", &[("x-content-type-options", "none")]),
        ]);
    });
    for name in [
        "index.html",
        "assets/a.js",
        "assets/b.foo",
        "assets/raw",
        "c.foo",
    ] {
        fixture.write(name, name);
    }
    for (target, name, value) in [
        ("/", "cache-control", Some("no-cache")),
        ("/", "x-frame-options", Some("DENY")),
        (
            "/assets/a.js",
            "cache-control",
            Some("max-age=9, immutable"),
        ),
        ("/assets/a.js", "x-frame-options", Some("DENY")),
        ("/assets/a.js", "link", None),
        ("/assets/b.foo", "content-type", Some("application/x-foo")),
        ("/c.foo", "content-type", Some("application/octet-stream")),
        ("/assets/raw", "x-content-type-options", Some("none")),
        ("/c.foo", "x-content-type-options", Some("nosniff")),
        ("/assets/", "cache-control", Some("max-age=9, immutable")),
        ("/absent", "cache-control", None),
    ] {
        let response = fixture.get(target, &[]);
        assert_eq!(field(&response, name).as_deref(), value, "{target} {name}");
    }
    let response = fixture.get("/assets/b.foo", &[]);
    let links = response.all_fields().filter(|(name, _)| *name == "link");
    assert_eq!(links.count(), 2);
    // RFC 9110 15.4.5: what guides caches comes with a 304 too, and what describes content not.
    let etag = field(&response, "etag").unwrap();
    let response = fixture.get("/assets/b.foo", &[("if-none-match", &etag)]);
    assert_eq!(response.status.0, 304);
    assert_eq!(
        field(&response, "cache-control").unwrap(),
        "max-age=9, immutable"
    );
    assert_eq!(field(&response, "content-type"), None);
    // The parts of several ranges have the rule's type.
    fixture.write("assets/long.foo", vec![b'x'; 1_000]);
    let response = fixture.get("/assets/long.foo", &[("range", "bytes=0-0,-1")]);
    assert_eq!(
        text(&response)
            .matches("content-type: application/x-foo\r\n")
            .count(),
        2
    );
    assert_eq!(field(&response, "x-frame-options").unwrap(), "DENY");
}

#[test]
fn directories_without_an_index_are_listed_where_the_site_says() {
    let plain = Fixture::new();
    let mut fixture = Fixture::with(|site| site.files.listing = true);
    for fixture in [&plain, &fixture] {
        fixture.write("d/one", "1");
        fixture.write("e/index.html", "index");
    }
    assert_eq!(plain.status("/d/"), 404);
    let response = fixture.get("/d/", &[]);
    assert_eq!(response.status.0, 200);
    assert!(text(&response).contains("<a href=\"./one\">one</a>"));
    let content_type = field(&response, "content-type").unwrap();
    assert_eq!(content_type, "text/html; charset=utf-8");
    assert_eq!(field(&response, "last-modified"), None);
    assert_eq!(text(&fixture.get("/e/", &[])), "index");
    assert!(text(&fixture.get("/", &[])).contains("href=\"./d/\""));
    // Without the slash its references would lead elsewhere.
    let redirect = fixture.get("/d?x", &[]);
    assert_eq!(redirect.status.0, 308);
    assert_eq!(field(&redirect, "location").unwrap(), "/d/?x");
    for target in ["/absent/", "/d/one/", "/.git/"] {
        assert_eq!(fixture.status(target), 404, "{target}");
    }
    let etag = field(&response, "etag").unwrap();
    assert_eq!(
        fixture.get("/d/", &[("if-none-match", &etag)]).status.0,
        304
    );
    let head = fixture.respond(Method::Head, "/d/", &[]);
    assert_eq!(head.body.length(), response.body.length());
    // Fresh within a second, made once while it is.
    let jobs = fixture.threads.jobs_run();
    fixture.write("d/two", "2");
    assert!(!text(&fixture.get("/d/", &[])).contains("two"));
    assert_eq!(fixture.threads.jobs_run(), jobs);
    fixture.pass(cache::REVALIDATE_AFTER);
    let changed = fixture.get("/d/", &[("if-none-match", &etag)]);
    assert_eq!(changed.status.0, 200);
    assert!(text(&changed).contains("two"));
}

#[test]
fn a_listing_is_never_made_by_the_worker_itself() {
    let fixture = Fixture::with(|site| site.files.listing = true);
    fixture.write("d/one", "1");
    for (mode, status) in [
        (Mode::Refuse, 503),
        (Mode::Panic, 500),
        (Mode::RunAtOnce, 200),
    ] {
        // The index file is known to be absent.
        fixture.threads.set(Mode::RunAtOnce);
        fixture.get("/d/index.html", &[]);
        fixture.get("/d/index.txt", &[]);
        fixture.threads.set(mode);
        assert_eq!(fixture.status("/d/"), status);
    }
}

#[test]
fn a_cut_listing_is_counted() {
    let fixture = Fixture::with(|site| site.files.listing = true);
    for number in 0..=crate::limits::LISTING_ENTRIES_MAX {
        fixture.write(&number.to_string(), "");
    }
    let before = metrics::of_this_thread(Counter::ListingsCut);
    assert!(text(&fixture.get("/", &[])).contains("more than is shown"));
    assert_eq!(metrics::of_this_thread(Counter::ListingsCut), before + 1);
}

#[test]
fn a_site_has_pages_of_its_own_for_errors() {
    let fixture = Fixture::with(|site| {
        site.files.error_pages = vec![
            ErrorPage {
                statuses: vec![Status(404), Status(405), Status(416)],
                file: "errors/sorry.html".into(),
            },
            ErrorPage {
                statuses: vec![Status(403)],
                file: "errors/none.html".into(),
            },
        ];
    });
    fixture.write("errors/sorry.html", "sorry");
    fixture.write("f", "content");
    let response = fixture.get("/absent", &[("range", "bytes=0-1"), ("if-none-match", "*")]);
    assert_eq!((response.status.0, &*text(&response)), (404, "sorry"));
    let content_type = field(&response, "content-type").unwrap();
    assert_eq!(content_type, "text/html; charset=utf-8");
    for name in ["etag", "last-modified", "accept-ranges"] {
        assert_eq!(field(&response, name), None, "{name}");
    }
    assert_eq!(
        field(&response, "x-content-type-options").unwrap(),
        "nosniff"
    );
    let response = fixture.respond(Method::Put, "/f", &[]);
    assert_eq!((response.status.0, &*text(&response)), (405, "sorry"));
    assert_eq!(field(&response, "allow").unwrap(), "GET, HEAD, OPTIONS");
    let response = fixture.get("/f", &[("range", "bytes=100-")]);
    assert_eq!((response.status.0, &*text(&response)), (416, "sorry"));
    assert_eq!(field(&response, "content-range").unwrap(), "bytes */7");
    // The page itself is a file as any other.
    assert_eq!(fixture.status("/errors/sorry.html"), 200);
    // A status without a page, and a page that is gone.
    assert!(text(&fixture.get("/%00", &[])).contains("400 Bad Request"));
    fs::remove_file(fixture.files.root.join("errors/sorry.html")).unwrap();
    let later = Fixture {
        now: Now {
            monotonic: fixture.now.monotonic + cache::REVALIDATE_AFTER,
            ..fixture.now
        },
        ..fixture
    };
    assert!(text(&later.get("/absent", &[])).contains("404 Not Found"));
}
