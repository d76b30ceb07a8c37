//! Whole responses, from a request to the bytes of the body.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::{FileExt, symlink};
use std::time::Duration;

use super::testing::{ManualThreads, Mode, field, ready, request, site};
use super::*;
use crate::config::{ClientAuth, Files, Symlinks};
use crate::message::{Body, Method, Part};

mod variants;

/// One site, `example.org`, over a directory that begins empty.
struct Fixture {
    directory: tempfile::TempDir,
    files: Files,
    threads: ManualThreads,
    now: Now,
    serve: Serve<ManualThreads>,
}

impl Fixture {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut Site)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("root");
        fs::create_dir(&root).unwrap();
        let mut site = site(root, &["example.org"]);
        change(&mut site);
        let files = site.files.clone();
        let threads = ManualThreads::default();
        let config = testing::config(vec![site], None);
        let serve = serve(config, &[0], &threads);
        let mut now = Now::read();
        // Long enough for everything a test writes to be settled, so that tags are strong.
        now.wall += Duration::from_secs(60);
        Self {
            directory,
            files,
            threads,
            now,
            serve,
        }
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.files.root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn respond(&self, method: Method, target: &str, fields: &[(&str, &str)]) -> Response {
        let request = request(method, "example.org", target, fields);
        let body = RequestBody::Empty;
        let responding = self.serve.respond(&SECURE, &request, body, self.now);
        let response = ready(responding);
        // What the cache knows is the same.
        if let Some(known) = self.serve.respond_known(&SECURE, &request, self.now) {
            assert_eq!(
                described(&known),
                described(&response),
                "{target} {fields:?}"
            );
        }
        response
    }

    fn get(&self, target: &str, fields: &[(&str, &str)]) -> Response {
        self.respond(Method::Get, target, fields)
    }

    fn status(&self, target: &str) -> u16 {
        self.get(target, &[]).status.0
    }
}

fn serve(config: Config, policies: &[usize], threads: &ManualThreads) -> Serve<ManualThreads> {
    let routes = Routes::new(Arc::new(config), policies).unwrap();
    Serve::new(Arc::new(routes), threads.clone())
}

const SECURE: Client = Client {
    introduction: None,
    tls_policy: Some(0),
    address: IpAddr::V4(Ipv4Addr::LOCALHOST),
};

const PLAIN: Client = Client {
    introduction: None,
    tls_policy: None,
    ..SECURE
};

fn content(response: &Response) -> Vec<u8> {
    match &response.body {
        Body::Empty => Vec::new(),
        Body::Bytes(bytes) => bytes.to_vec(),
        Body::File(range) => {
            let mut bytes = vec![0; usize::try_from(range.length).unwrap()];
            range.file.read_exact_at(&mut bytes, range.offset).unwrap();
            bytes
        }
        Body::Parts(parts) => {
            let part = |part: &Part| {
                let body = match part.clone() {
                    Part::Bytes(bytes) => Body::Bytes(bytes),
                    Part::File(range) => Body::File(range),
                };
                content(&Response::new(Status(200)).with_body(body))
            };
            parts.iter().flat_map(part).collect()
        }
        Body::Stream(..) | Body::Upgrade(_) => panic!("{response:?}"),
    }
}

/// All that a client sees of a response but bodies made for it alone: their parts have a boundary of
/// their own.
fn described(response: &Response) -> String {
    let Response {
        status,
        block,
        fields,
        body,
        ..
    } = response;
    let lines = block
        .as_deref()
        .map_or(&b""[..], crate::message::FieldBlock::lines);
    let is_multipart = matches!(body, Body::Parts(_));
    let own = (!is_multipart).then(|| (fields, content(response)));
    format!("{status:?} {} {own:?}", String::from_utf8_lossy(lines))
}

fn text(response: &Response) -> String {
    String::from_utf8(content(response)).unwrap()
}

#[test]
fn a_file_comes_with_all_that_describes_it() {
    let fixture = Fixture::new();
    fixture.write("a/page.html", "<p>");
    let response = fixture.get("/a/page.html?x=1", &[]);
    assert_eq!((response.status.0, &*text(&response)), (200, "<p>"));
    for (name, value) in [
        ("content-type", "text/html; charset=utf-8"),
        ("accept-ranges", "bytes"),
        ("x-content-type-options", "nosniff"),
    ] {
        assert_eq!(field(&response, name).unwrap(), value);
    }
    let modified = fs::metadata(fixture.files.root.join("a/page.html")).unwrap();
    let modified = httpdate::fmt_http_date(modified.modified().unwrap());
    assert_eq!(field(&response, "last-modified").unwrap(), modified);
    assert!(field(&response, "etag").unwrap().starts_with('"'));
    for name in [
        "content-length",
        "date",
        "connection",
        "strict-transport-security",
    ] {
        assert_eq!(field(&response, name), None, "{name}");
    }
}

#[test]
fn rfc9110_9_3_2_head_is_as_get() {
    let fixture = Fixture::new();
    fixture.write("small.txt", "small");
    fixture.write("empty", "");
    fixture.write("big.bin", vec![1; 20_000]);
    fixture.write("docs/index.html", "index");
    for target in [
        "/small.txt",
        "/empty",
        "/big.bin",
        "/docs",
        "/docs/",
        "/absent",
        "/%",
        "/.hidden",
        "/",
    ] {
        let (get, head) = (
            fixture.get(target, &[]),
            fixture.respond(Method::Head, target, &[]),
        );
        assert_eq!(head.status, get.status, "{target}");
        assert!(head.all_fields().eq(get.all_fields()), "{target}");
        assert_eq!(head.body.length(), get.body.length(), "{target}");
    }
    // RFC 9110 14.2: range handling is defined for GET only.
    let head = fixture.respond(Method::Head, "/small.txt", &[("range", "bytes=0-1")]);
    assert_eq!((head.status.0, head.body.length()), (200, Some(5)));
}

#[test]
fn rfc9110_15_5_6_other_methods_are_refused_with_what_is_allowed() {
    let fixture = Fixture::new();
    fixture.write("f", "x");
    for method in [
        Method::Post,
        Method::Put,
        Method::Delete,
        Method::Patch,
        Method::Connect,
        Method::Trace,
    ] {
        let response = fixture.respond(method, "/f", &[]);
        assert_eq!(response.status.0, 405);
        assert_eq!(field(&response, "allow").unwrap(), "GET, HEAD, OPTIONS");
    }
    for target in ["/f", "*"] {
        let response = fixture.respond(Method::Options, target, &[]);
        assert_eq!((response.status.0, response.body.length()), (204, Some(0)));
        assert_eq!(field(&response, "allow").unwrap(), "GET, HEAD, OPTIONS");
    }
    let unknown = fixture.respond(Method::from_token("get"), "/f", &[]);
    assert_eq!(unknown.status.0, 501);
}

#[test]
fn directories_are_served_by_their_index() {
    let fixture = Fixture::new();
    fixture.write("index.html", "root");
    fixture.write("a b/index.txt", "second name");
    fixture.write("bare/file", "x");
    fixture.write("odd/index.html/file", "x");
    fixture.write("odd/index.txt", "beside a directory");
    for (target, expected) in [
        ("/", "root"),
        ("/?q", "root"),
        ("/bare/..", "root"),
        ("/a%20b/", "second name"),
        ("/odd/", "beside a directory"),
    ] {
        let response = fixture.get(target, &[]);
        assert_eq!(
            (response.status.0, &*text(&response)),
            (200, expected),
            "{target}"
        );
    }
    let response = fixture.get("/a%20b/", &[]);
    assert_eq!(
        field(&response, "content-type").unwrap(),
        "text/plain; charset=utf-8"
    );
    for target in ["/bare/", "/index.html/", "/absent/"] {
        assert_eq!(fixture.status(target), 404, "{target}");
    }
}

#[test]
fn a_directory_without_its_slash_is_redirected_within_the_site() {
    let fixture = Fixture::new();
    fixture.write("docs/sub/f", "x");
    fixture.write("\\evil.example/f", "x");
    for (target, location) in [
        ("/docs", "/docs/"),
        ("/docs?a=b&c", "/docs/?a=b&c"),
        ("//docs", "/docs/"),
        ("/docs//sub", "/docs/sub/"),
        ("/x/../docs", "/docs/"),
        ("/%64ocs", "/docs/"),
        ("/\\evil.example", "/%5Cevil.example/"),
        ("//%5Cevil.example", "/%5Cevil.example/"),
    ] {
        let response = fixture.get(target, &[]);
        assert_eq!(response.status.0, 308, "{target}");
        assert_eq!(field(&response, "location").unwrap(), location, "{target}");
    }
}

#[test]
fn what_is_not_there_or_not_to_be_seen_is_not_found() {
    let fixture = Fixture::new();
    fixture.write(".env", "secret");
    fixture.write(".git/config", "secret");
    fixture.write(".well-known/security.txt", "public");
    fixture.write("f", "x");
    fs::write(fixture.directory.path().join("outside"), "secret").unwrap();
    for (target, status) in [
        ("/absent", 404),
        ("/f/below", 404),
        ("/.env", 404),
        ("/%2eenv", 404),
        ("/.git/config", 404),
        ("/.well-known/security.txt", 200),
        ("/../outside", 400),
        ("/%2e%2e/outside", 400),
        ("/x/../../outside", 400),
        ("/..%2foutside", 400),
        ("/f%00", 400),
        ("/%zz", 400),
        ("f", 400),
    ] {
        assert_eq!(fixture.status(target), status, "{target}");
    }
    assert_eq!(fixture.status(&format!("/{}", "n".repeat(300))), 404);
    assert_eq!(fixture.status(&"/n".repeat(3_000)), 414);
    let showing = Fixture::with(|site| site.files.dotfiles = true);
    showing.write(".env", "shown");
    assert_eq!(text(&showing.get("/.env", &[])), "shown");
}

#[test]
fn links_are_followed_as_the_site_says() {
    for (symlinks, inside, outside) in [
        (Symlinks::Deny, 404, 404),
        (Symlinks::Beneath, 200, 404),
        (Symlinks::Follow, 200, 200),
    ] {
        let fixture = Fixture::with(|site| site.files.symlinks = symlinks);
        fixture.write("real/f", "inside");
        fixture.write("plain", "x");
        fs::write(fixture.directory.path().join("secret"), "outside").unwrap();
        let link = |to: &str, name: &str| symlink(to, fixture.files.root.join(name)).unwrap();
        link("real/f", "file");
        link("real", "directory");
        link("real/../real/f", "winding");
        link("../secret", "relative");
        link("..", "parent");
        link(
            fixture.directory.path().join("secret").to_str().unwrap(),
            "absolute",
        );
        link("self", "self");
        for target in ["/file", "/directory/f", "/winding"] {
            assert_eq!(fixture.status(target), inside, "{symlinks:?} {target}");
        }
        for target in ["/relative", "/parent/secret", "/absolute"] {
            assert_eq!(fixture.status(target), outside, "{symlinks:?} {target}");
        }
        assert_eq!(fixture.status("/self"), 404);
        assert_eq!(fixture.status("/plain"), 200);
    }
}

#[test]
fn special_files_neither_block_nor_appear() {
    let fixture = Fixture::with(|site| site.files.symlinks = Symlinks::Follow);
    fs::create_dir(fixture.files.root.join("d")).unwrap();
    crate::sys::test_support::make_fifo(&fixture.files.root.join("fifo")).unwrap();
    symlink("/dev/zero", fixture.files.root.join("zero")).unwrap();
    symlink("/dev/tty", fixture.files.root.join("tty")).unwrap();
    let socket = fixture.files.root.join("socket");
    let _socket = std::os::unix::net::UnixListener::bind(socket).unwrap();
    for target in ["/fifo", "/zero", "/tty", "/socket"] {
        assert_eq!(fixture.status(target), 404, "{target}");
    }
}

#[test]
fn rfc9110_13_preconditions_decide_before_the_file_is_sent() {
    let fixture = Fixture::new();
    fixture.write("f", "content");
    let plain = fixture.get("/f", &[]);
    let (etag, date) = (
        field(&plain, "etag").unwrap(),
        field(&plain, "last-modified").unwrap(),
    );
    let weak = format!("W/{etag}");
    let list = format!("\"other\", {weak}");
    const OLD: &str = "Mon, 01 Jan 2001 00:00:00 GMT";
    let cases: &[(&[(&str, &str)], u16)] = &[
        (&[("if-none-match", &etag)], 304),
        (&[("if-none-match", &weak)], 304),
        (&[("if-none-match", &list)], 304),
        (&[("if-none-match", "*")], 304),
        (&[("if-none-match", "\"other\"")], 200),
        (&[("if-modified-since", &date)], 304),
        (&[("if-modified-since", OLD)], 200),
        (&[("if-modified-since", "yesterday")], 200),
        // 13.1.3: If-None-Match goes before If-Modified-Since.
        (
            &[("if-none-match", "\"other\""), ("if-modified-since", &date)],
            200,
        ),
        (&[("if-match", &etag)], 200),
        (&[("if-match", &weak)], 412),
        (&[("if-match", "*")], 200),
        (&[("if-match", "\"other\"")], 412),
        (&[("if-unmodified-since", &date)], 200),
        (&[("if-unmodified-since", OLD)], 412),
        (&[("if-match", &etag), ("if-unmodified-since", OLD)], 200),
        (&[("if-match", "\"other\""), ("if-none-match", &etag)], 412),
        (&[("if-match", &etag), ("if-none-match", &etag)], 304),
        (&[("if-none-match", &etag), ("range", "bytes=0-1")], 304),
        (&[("if-match", "\"other\""), ("range", "bytes=0-1")], 412),
    ];
    for (fields, status) in cases {
        let response = fixture.get("/f", fields);
        assert_eq!(response.status.0, *status, "{fields:?}");
        if *status == 304 {
            assert_eq!(field(&response, "etag").unwrap(), etag);
            assert_eq!(field(&response, "last-modified").unwrap(), date);
            assert_eq!(field(&response, "content-type"), None);
            // The length that GET would have sent: the driver needs it.
            assert_eq!(response.body.length(), Some(7));
        }
    }
    // 13.2.1: preconditions do not apply where the answer is no success.
    assert_eq!(fixture.get("/absent", &[("if-match", "*")]).status.0, 404);
    assert_eq!(
        fixture.get("/absent", &[("if-none-match", "*")]).status.0,
        404
    );
}

#[test]
fn rfc9110_14_one_range_is_sent_as_a_part() {
    let fixture = Fixture::new();
    let bytes: Vec<u8> = (0..20_000_u32).map(|n| (n % 251) as u8).collect();
    fixture.write("small", &bytes[..100]);
    fixture.write("big", &bytes);
    fixture.write("empty", "");
    for (target, total) in [("/small", 100), ("/big", 20_000)] {
        for (range, part) in [
            ("bytes=0-0", 0..1),
            ("bytes=5-9", 5..10),
            ("bytes=90-", 90..total),
            ("bytes=-10", total - 10..total),
            ("bytes=50-99999999", 50..total),
            ("bytes=-99999999", 0..total),
            ("BYTES=5-9", 5..10),
        ] {
            let response = fixture.get(target, &[("range", range)]);
            assert_eq!(response.status.0, 206, "{range}");
            assert_eq!(content(&response), bytes[part.clone()], "{range}");
            assert_eq!(
                field(&response, "content-range").unwrap(),
                format!("bytes {}-{}/{total}", part.start, part.end - 1)
            );
            assert!(field(&response, "etag").is_some());
            assert!(field(&response, "content-type").is_some());
        }
        for range in ["bytes=99999999-", "bytes=-0"] {
            let response = fixture.get(target, &[("range", range)]);
            assert_eq!(response.status.0, 416, "{range}");
            let value = field(&response, "content-range").unwrap();
            assert_eq!(value, format!("bytes */{total}"));
        }
        for range in ["bytes=9-5", "lines=1-2", "bytes=", "bytes=a-b"] {
            let response = fixture.get(target, &[("range", range)]);
            assert_eq!(response.status.0, 200, "{range}");
            assert_eq!(content(&response), bytes[..total], "{range}");
            assert_eq!(field(&response, "content-range"), None);
        }
    }
    assert_eq!(
        fixture.get("/empty", &[("range", "bytes=0-")]).status.0,
        416
    );
    assert_eq!(
        fixture.get("/empty", &[("range", "bytes=-5")]).status.0,
        200
    );
}

#[test]
fn rfc9110_14_6_several_ranges_are_sent_as_parts() {
    let fixture = Fixture::new();
    let bytes: Vec<u8> = (0..40_000_u32).map(|n| (n % 251) as u8).collect();
    fixture.write("small.txt", &bytes[..1_000]);
    fixture.write("big.txt", &bytes);
    for (target, total, is_read) in [("/small.txt", 1_000, true), ("/big.txt", 40_000, false)] {
        let response = fixture.get(target, &[("range", "bytes=-10,0-0,99999-,500-509")]);
        assert_eq!(response.status.0, 206);
        let content_type = field(&response, "content-type").unwrap();
        let boundary = content_type
            .strip_prefix("multipart/byteranges; boundary=")
            .unwrap();
        assert_eq!(boundary.len(), 32);
        let mut expected = Vec::new();
        for range in [total - 10..total, 0..1, 500..510] {
            let (first, last) = (range.start, range.end - 1);
            expected.extend_from_slice(
                format!(
                    "\r\n--{boundary}\r\ncontent-type: text/plain; charset=utf-8\r\n\
                     content-range: bytes {first}-{last}/{total}\r\n\r\n"
                )
                .as_bytes(),
            );
            expected.extend_from_slice(&bytes[range]);
        }
        expected.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
        assert_eq!(content(&response), expected);
        assert_eq!(response.body.length(), Some(expected.len() as u64));
        let Body::Parts(parts) = &response.body else {
            panic!("{response:?}");
        };
        let files = parts.iter().filter(|part| matches!(part, Part::File(_)));
        assert_eq!(files.count(), if is_read { 0 } else { 3 });
        // RFC 9110 15.3.7.2: the parts have it.
        assert_eq!(field(&response, "content-range"), None);
        for name in ["etag", "last-modified", "accept-ranges"] {
            assert!(field(&response, name).is_some(), "{name}");
        }
        let again = fixture.get(target, &[("range", "bytes=-10,0-0")]);
        assert_ne!(field(&again, "content-type").unwrap(), content_type);
    }
    // What is asked for twice is sent once, and a head has no range.
    let response = fixture.get("/big.txt", &[("range", "bytes=0-9,5-19,0-")]);
    assert_eq!(
        (response.status.0, content(&response)),
        (206, bytes.clone())
    );
    let range = [("range", "bytes=0-0,-1")];
    let head = fixture.respond(Method::Head, "/big.txt", &range);
    assert_eq!((head.status.0, head.body.length()), (200, Some(40_000)));
}

#[test]
fn rfc9110_13_1_5_if_range_asks_for_the_same_bytes() {
    let fixture = Fixture::new();
    fixture.write("f", "content");
    let plain = fixture.get("/f", &[]);
    let (etag, date) = (
        field(&plain, "etag").unwrap(),
        field(&plain, "last-modified").unwrap(),
    );
    for (condition, status) in [
        (&*etag, 206),
        (&*format!("W/{etag}"), 200),
        ("\"other\"", 200),
        (&*date, 206),
        ("Mon, 01 Jan 2001 00:00:00 GMT", 200),
        ("nonsense", 200),
    ] {
        let response = fixture.get("/f", &[("range", "bytes=1-2"), ("if-range", condition)]);
        assert_eq!(response.status.0, status, "{condition}");
    }
    // A file just written may change again without a trace: no part of it is promised.
    let young = Fixture {
        now: Now::read(),
        ..Fixture::new()
    };
    young.write("f", "content");
    let etag = field(&young.get("/f", &[]), "etag").unwrap();
    let response = young.get("/f", &[("range", "bytes=1-2"), ("if-range", &etag)]);
    assert_eq!(response.status.0, 200);
}

#[test]
fn a_file_truncated_after_it_was_opened_is_left_to_the_sender() {
    let fixture = Fixture::new();
    fixture.write("f", vec![1; 50_000]);
    let Body::File(range) = fixture.get("/f", &[]).body else {
        panic!("a large file is sent from its descriptor");
    };
    fixture.write("f", vec![2; 30_000]);
    assert_eq!(range.length, 50_000);
    assert_eq!(range.file.metadata().unwrap().len(), 30_000);
    // The next request, a moment later, sees it as it is.
    let later = Fixture {
        now: Now {
            monotonic: fixture.now.monotonic + cache::REVALIDATE_AFTER,
            ..fixture.now
        },
        ..fixture
    };
    assert_eq!(content(&later.get("/f", &[])), vec![2; 30_000]);
    later.write("f", "");
    let last = Fixture {
        now: Now {
            monotonic: later.now.monotonic + cache::REVALIDATE_AFTER,
            ..later.now
        },
        ..later
    };
    let response = last.get("/f", &[]);
    assert_eq!((response.status.0, response.body.length()), (200, Some(0)));
}

#[test]
fn overload_and_failure_have_their_status() {
    let fixture = Fixture::new();
    for (mode, status) in [
        (Mode::Refuse, 503),
        (Mode::Panic, 500),
        (Mode::RunAtOnce, 404),
    ] {
        fixture.threads.set(mode);
        assert_eq!(fixture.status("/never-looked-up"), status);
    }
    let overloaded = crate::metrics::Counter::FileThreadsOverloaded;
    assert_eq!(crate::metrics::of_this_thread(overloaded), 1);
}

#[test]
fn cold_files_come_through_the_file_threads_of_a_worker() {
    use crate::metrics::{Counter, of_this_thread};
    use crate::net::file_threads::FileThreads;
    use crate::net::rt::{Driver, block_on};
    use crate::sys::probe::RingSetup;

    for driver in [Driver::Epoll, Driver::Ring(RingSetup::default())] {
        let directory = tempfile::tempdir().unwrap();
        let config = testing::config(vec![site(directory.path(), &["example.org"])], None);
        let routes = Arc::new(Routes::new(Arc::new(config), &[0]).unwrap());
        let threads = FileThreads::start().unwrap();
        block_on(driver, async {
            let serve = Serve::new(routes, threads.attach().unwrap());
            let cold_before = of_this_thread(Counter::FileOpensCold);
            // A name the kernel has not looked up yet is not in memory.
            let request = request(Method::Get, "example.org", "/f", &[]);
            let mut now = Now::read();
            let absent = serve
                .respond(&SECURE, &request, RequestBody::Empty, now)
                .await;
            assert_eq!(absent.status.0, 404);
            assert_eq!(of_this_thread(Counter::FileOpensCold), cold_before + 1);
            fs::write(directory.path().join("f"), "there").unwrap();
            now.monotonic += cache::REVALIDATE_AFTER;
            let there = serve
                .respond(&SECURE, &request, RequestBody::Empty, now)
                .await;
            assert_eq!(text(&there), "there");
        })
        .unwrap();
    }
}

/// Two sites under policy 0 and one under policy 1, each with a file that says its name.
fn three_sites(default_site: Option<usize>) -> (tempfile::TempDir, Serve<ManualThreads>) {
    let directory = tempfile::tempdir().unwrap();
    let names: [&[&str]; 3] = [&["a.example"], &["*.b.example"], &["c.example"]];
    let sites = names.map(|names| {
        let root = directory.path().join(names[0]);
        fs::create_dir(&root).unwrap();
        fs::write(root.join("name"), names[0]).unwrap();
        let mut site = site(root, names);
        site.hsts = Some(Hsts {
            max_age_s: 31_536_000,
            include_subdomains: true,
            preload: names[0] == "a.example",
        });
        site
    });
    let config = testing::config(sites.into(), default_site);
    let serve = serve(config, &[0, 0, 1], &ManualThreads::default());
    (directory, serve)
}

fn ask(serve: &Serve<ManualThreads>, client: Client, host: &str) -> Result<String, u16> {
    let request = request(Method::Get, host, "/name", &[]);
    let response = ready(serve.respond(&client, &request, RequestBody::Empty, Now::read()));
    match response.status.0 {
        200 => Ok(text(&response)),
        status => Err(status),
    }
}

#[test]
fn the_host_picks_the_site() {
    let (_directory, serve) = three_sites(None);
    let (_other, with_default) = three_sites(Some(0));
    for (host, name) in [("a.example", "a.example"), ("x.b.example", "*.b.example")] {
        assert_eq!(ask(&serve, SECURE, host).unwrap(), name);
        assert_eq!(ask(&with_default, SECURE, host).unwrap(), name);
    }
    for host in ["unknown.example", "x.y.b.example", ""] {
        assert_eq!(ask(&serve, SECURE, host), Err(421), "{host}");
        assert_eq!(ask(&serve, PLAIN, host), Err(404), "{host}");
        assert_eq!(ask(&with_default, SECURE, host).unwrap(), "a.example");
    }
}

#[test]
fn rfc9110_15_5_20_another_tls_policy_is_misdirected() {
    let (_directory, serve) = three_sites(Some(0));
    for (policy, host, outcome) in [
        (Some(0), "a.example", Ok("a.example")),
        (Some(0), "x.b.example", Ok("*.b.example")),
        (Some(0), "c.example", Err(421)),
        (Some(1), "c.example", Ok("c.example")),
        (Some(1), "a.example", Err(421)),
        (Some(1), "unknown.example", Err(421)),
        (None, "a.example", Ok("a.example")),
        (None, "c.example", Ok("c.example")),
    ] {
        let outcome = outcome.map(str::to_owned);
        let client = Client {
            introduction: None,
            tls_policy: policy,
            ..SECURE
        };
        assert_eq!(ask(&serve, client, host), outcome, "{policy:?} {host}");
    }
}

#[test]
fn what_wants_a_clients_certificate_is_not_served_in_plain_text() {
    for (is_required, outcome) in [(true, Err(421)), (false, Ok("a.example".to_owned()))] {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("name"), "a.example").unwrap();
        let mut site = site(directory.path(), &["a.example"]);
        site.tls.client_auth = Some(ClientAuth {
            authorities_file: "/ca.pem".into(),
            is_required,
        });
        let config = testing::config(vec![site], None);
        let serve = serve(config, &[0], &ManualThreads::default());
        assert_eq!(ask(&serve, PLAIN, "a.example"), outcome);
        assert_eq!(ask(&serve, SECURE, "a.example").unwrap(), "a.example");
    }
}

#[test]
fn rfc6797_7_hsts_is_sent_over_tls_only() {
    let (_directory, serve) = three_sites(None);
    for (host, target, secure, expected) in [
        (
            "a.example",
            "/name",
            true,
            Some("max-age=31536000; includeSubDomains; preload"),
        ),
        (
            "x.b.example",
            "/name",
            true,
            Some("max-age=31536000; includeSubDomains"),
        ),
        (
            "a.example",
            "/absent",
            true,
            Some("max-age=31536000; includeSubDomains; preload"),
        ),
        ("a.example", "/name", false, None),
        ("unknown.example", "/name", true, None),
    ] {
        let request = request(Method::Get, host, target, &[]);
        let client = if secure { SECURE } else { PLAIN };
        let response = ready(serve.respond(&client, &request, RequestBody::Empty, Now::read()));
        let value = field(&response, "strict-transport-security");
        assert_eq!(value.as_deref(), expected, "{host}{target}");
    }
}

#[test]
fn routes_need_a_policy_for_each_site() {
    let config = || Arc::new(testing::config(vec![site("/", &["a.example"])], None));
    assert!(Routes::new(config(), &[0]).is_ok());
    for policies in [&[][..], &[0, 1]] {
        let error = Routes::new(config(), policies).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
    let config = testing::config(vec![site("/a\0b", &["a.example"])], None);
    let error = Routes::new(Arc::new(config), &[0]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
}
