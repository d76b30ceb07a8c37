//! The same requests for the same files, to Portcullis and to nginx: statuses, bodies and the fields
//! that describe them. What is meant to differ stands in the table, with its reason.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::support::Policy;
use crate::support::certificates::KeyKind;
use crate::support::client::{Client, field, status};
use crate::support::files::{assert_same_bytes, content};
use crate::support::process::{NGINX, Running, find};
use crate::support::server::{Server, Setup};
use crate::support::wait::{PATIENCE, until_some};

/// A request, and what is meant to differ.
struct Case {
    method: &'static str,
    target: &'static str,
    /// Lines of the head. `{etag}` and `{date}` stand for the validators that the same server has
    /// sent for the same target.
    fields: &'static [&'static str],
    differs: Option<Difference>,
}

struct Difference {
    ours: u16,
    nginx: u16,
    reason: &'static str,
}

const fn get(target: &'static str) -> Case {
    with("GET", target, &[])
}

const fn asks(target: &'static str, fields: &'static [&'static str]) -> Case {
    with("GET", target, fields)
}

const fn with(method: &'static str, target: &'static str, fields: &'static [&'static str]) -> Case {
    Case {
        method,
        target,
        fields,
        differs: None,
    }
}

impl Case {
    const fn but(mut self, ours: u16, nginx: u16, reason: &'static str) -> Self {
        self.differs = Some(Difference {
            ours,
            nginx,
            reason,
        });
        self
    }

    fn name(&self) -> String {
        format!("{} {} {:?}", self.method, self.target, self.fields)
    }
}

const CASES: &[Case] = &[
    // Files, indexes, and what is missing.
    get("/"),
    get("/small.txt"),
    get("/big.bin"),
    get("/empty"),
    get("/docs/"),
    get("/docs/page.html?x=1"),
    get("/docs").but(308, 301, "308 keeps the method (RFC 9110 15.4.9)"),
    get("/docs?x=%20").but(308, 301, "308 keeps the method (RFC 9110 15.4.9)"),
    get("/bare/").but(404, 403, "which directories there are is not told"),
    get("/absent"),
    get("/docs/absent"),
    get("/small.txt/"),
    get("/small.txt/x"),
    get("/.hidden").but(
        404,
        200,
        "names with a dot are not served unless the site says so",
    ),
    get("/link.txt"),
    get("/outside").but(
        404,
        200,
        "links stay beneath the root unless the site says otherwise",
    ),
    // Spellings of a target.
    get("/a%20b.txt"),
    get("/%73mall.txt"),
    get("/SMALL.txt"),
    get("//small.txt"),
    get("/docs/../small.txt"),
    get("/docs/./page.html"),
    get("/docs/%2e%2e/small.txt"),
    get("/../small.txt"),
    get("/%2e%2e/%2e%2e/etc/passwd"),
    get("/%00"),
    get("/%zz"),
    get("/small.txt%"),
    get("/docs%2Fpage.html").but(
        400,
        200,
        "an encoded slash is data, not a delimiter (RFC 3986 2.2)",
    ),
    get("/caf%C3%A9.txt"),
    get("http://localhost/small.txt"),
    get("small.txt"),
    get("*"),
    // Methods.
    with("HEAD", "/small.txt", &[]),
    with("HEAD", "/absent", &[]),
    with("POST", "/small.txt", &["Content-Length: 0"]),
    with("PUT", "/small.txt", &["Content-Length: 0"]),
    with("DELETE", "/small.txt", &[]),
    with("OPTIONS", "/small.txt", &[]).but(204, 405, "OPTIONS tells the methods (RFC 9110 9.3.7)"),
    with("TRACE", "/small.txt", &[]),
    with("BREW", "/small.txt", &[]).but(
        501,
        405,
        "an unknown method is not implemented (RFC 9110 9.1)",
    ),
    // One range.
    asks("/small.txt", &["Range: bytes=0-0"]),
    asks("/small.txt", &["Range: bytes=5-9"]),
    asks("/small.txt", &["Range: bytes=-10"]),
    asks("/small.txt", &["Range: bytes=990-"]),
    asks("/small.txt", &["Range: bytes=990-99999"]),
    asks("/small.txt", &["Range: bytes=-99999"]),
    asks("/small.txt", &["Range: bytes=1000-"]),
    asks("/small.txt", &["Range: bytes=-0"]),
    asks("/small.txt", &["Range: items=0-1"]),
    asks("/small.txt", &["Range: bytes=9-5"]).but(
        200,
        416,
        "a malformed Range is ignored (RFC 9110 14.2)",
    ),
    asks("/small.txt", &["Range: bytes=x"]).but(
        200,
        416,
        "a malformed Range is ignored (RFC 9110 14.2)",
    ),
    asks("/big.bin", &["Range: bytes=65536-131071"]),
    asks("/absent", &["Range: bytes=0-1"]),
    // Several ranges.
    asks("/big.bin", &["Range: bytes=0-9,500-599,-5"]),
    asks("/big.bin", &["Range: bytes=-5,0-9"]),
    asks("/small.txt", &["Range: bytes=0-9,5000-,500-509"]),
    asks("/small.txt", &["Range: bytes=5000-,6000-"]),
    asks("/small.txt", &["Range: bytes=0-999,0-999"]).but(
        206,
        200,
        "ranges that overlap are made one (RFC 9110 15.3.7.2)",
    ),
    // Conditions.
    asks("/small.txt", &["If-None-Match: {etag}"]),
    asks("/small.txt", &["If-None-Match: W/{etag}"]),
    asks("/small.txt", &["If-None-Match: \"other\", {etag}"]),
    asks("/small.txt", &["If-None-Match: *"]),
    asks("/small.txt", &["If-None-Match: \"other\""]),
    asks("/small.txt", &["If-Modified-Since: {date}"]),
    asks(
        "/small.txt",
        &["If-Modified-Since: Mon, 01 Jan 2001 00:00:00 GMT"],
    ),
    asks(
        "/small.txt",
        &["If-None-Match: \"other\"", "If-Modified-Since: {date}"],
    ),
    asks("/small.txt", &["If-Match: {etag}"]),
    asks("/small.txt", &["If-Match: \"other\""]),
    asks("/small.txt", &["If-Match: *"]),
    asks("/small.txt", &["If-Unmodified-Since: {date}"]),
    asks(
        "/small.txt",
        &["If-Unmodified-Since: Mon, 01 Jan 2001 00:00:00 GMT"],
    ),
    asks("/small.txt", &["If-Range: {etag}", "Range: bytes=0-1"]),
    asks("/small.txt", &["If-Range: \"other\"", "Range: bytes=0-1"]),
    asks("/small.txt", &["If-Range: {date}", "Range: bytes=0-1"]),
    asks("/small.txt", &["If-None-Match: {etag}", "Range: bytes=0-1"]),
    // Files compressed beforehand.
    asks("/app.js", &["Accept-Encoding: gzip, deflate, br"]),
    asks("/app.js", &["Accept-Encoding: gzip", "Range: bytes=1-2"]).but(
        206,
        200,
        "a range is one of the coded bytes (RFC 9110 14.2)",
    ),
    asks("/app.js", &["Accept-Encoding: gzip;q=0"]),
    asks("/app.js", &["Accept-Encoding: identity"]),
    asks("/app.js", &[]),
    asks("/small.txt", &["Accept-Encoding: gzip"]),
    asks("/app.js.gz", &["Accept-Encoding: gzip"]),
];

/// The fields that describe content, compared wherever the statuses are the same success.
const FIELDS: &[&str] = &[
    "content-type",
    "content-length",
    "content-range",
    "content-encoding",
    "last-modified",
    "location",
];

#[test]
fn the_same_files_are_served_alike() {
    let ours = Setup::new(Policy::Never)
        .site_with(
            &["localhost"],
            KeyKind::P256,
            "root",
            "precompressed = [\"gzip\"]",
        )
        .start();
    let root = ours.path("root");
    write_files(&root);
    let nginx = Nginx::start(&root);
    // Tags are strong once a change could no longer go unseen.
    until_some("the files are settled", || {
        let answer = Answer::to(&get("/app.js"), |request| ask_portcullis(&ours, request));
        field(&answer.head, "etag")?.starts_with('"').then_some(())
    });
    let mut wrong = Vec::new();
    for case in CASES {
        wrong.extend(compare(case, &ours, &nginx));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What is not as it should be.
fn compare(case: &Case, ours: &Server, nginx: &Nginx) -> Vec<String> {
    let our_answer = Answer::to(case, |request| ask_portcullis(ours, request));
    let their_answer = Answer::to(case, |request| nginx.ask(request));
    let name = case.name();
    let statuses = (our_answer.status(), their_answer.status());
    if let Some(difference) = &case.differs {
        if statuses == (difference.ours, difference.nginx) {
            return Vec::new();
        }
        return vec![format!(
            "{name}: {statuses:?}, though {}",
            difference.reason
        )];
    }
    if statuses.0 != statuses.1 {
        return vec![format!("{name}: {} here, {} there", statuses.0, statuses.1)];
    }
    let mut wrong = Vec::new();
    let (our_parts, their_parts) = (our_answer.parts(), their_answer.parts());
    if our_parts.is_some() || their_parts.is_some() {
        if our_parts != their_parts {
            wrong.push(format!("{name}: other parts"));
        }
        return wrong;
    }
    // Pages that tell an error are each server's own.
    if statuses.0 < 300 {
        if our_answer.body != their_answer.body {
            wrong.push(format!("{name}: other bodies"));
        }
        for field_name in FIELDS {
            let (our_value, their_value) = (
                field(&our_answer.head, field_name),
                field(&their_answer.head, field_name),
            );
            if our_value != their_value {
                wrong.push(format!(
                    "{name}: {field_name} {our_value:?}, {their_value:?}"
                ));
            }
        }
    }
    let varies = |answer: &Answer| {
        field(&answer.head, "vary")
            .is_some_and(|value| value.eq_ignore_ascii_case("accept-encoding"))
    };
    if statuses.0 == 200 && varies(&our_answer) != varies(&their_answer) {
        wrong.push(format!("{name}: one varies, the other not"));
    }
    if statuses.0 == 416 {
        let range = |answer: &Answer| field(&answer.head, "content-range").map(str::to_owned);
        if range(&our_answer) != range(&their_answer) {
            wrong.push(format!("{name}: another content-range"));
        }
    }
    wrong
}

/// A response, read to the end of the connection.
struct Answer {
    head: String,
    body: Vec<u8>,
}

impl Answer {
    /// The answer to `case`, its placeholders filled in by a request before it.
    fn to(case: &Case, ask: impl Fn(&str) -> Vec<u8>) -> Self {
        let lines = case.fields.concat();
        let (mut etag, mut date) = (String::new(), String::new());
        if lines.contains('{') {
            let plain = Self::read(&ask(&request("GET", case.target, &[])));
            etag = field(&plain.head, "etag").unwrap().to_owned();
            date = field(&plain.head, "last-modified").unwrap().to_owned();
        }
        let fill = |line: &&str| line.replace("{etag}", &etag).replace("{date}", &date);
        let fields: Vec<String> = case.fields.iter().map(fill).collect();
        Self::read(&ask(&request(case.method, case.target, &fields)))
    }

    fn read(bytes: &[u8]) -> Self {
        let end = find(bytes, b"\r\n\r\n").map(|at| at + 4);
        let end = end.unwrap_or_else(|| panic!("no head: {:?}", String::from_utf8_lossy(bytes)));
        Self {
            head: String::from_utf8(bytes[..end].to_vec()).unwrap(),
            body: bytes[end..].to_vec(),
        }
    }

    fn status(&self) -> u16 {
        status(&self.head)
    }

    /// The parts of multipart/byteranges, without the boundary, which is anyone's own.
    fn parts(&self) -> Option<Vec<Vec<u8>>> {
        let content_type = field(&self.head, "content-type")?;
        let boundary = content_type.strip_prefix("multipart/byteranges; boundary=")?;
        let announced: usize = field(&self.head, "content-length")?.parse().ok()?;
        assert_eq!(announced, self.body.len());
        let separator = format!("\r\n--{boundary}");
        let mut parts = Vec::new();
        let mut rest = &self.body[..];
        while let Some(at) = find(rest, separator.as_bytes()) {
            parts.push(rest[..at].to_vec());
            rest = &rest[at + separator.len()..];
        }
        assert_eq!(rest, b"--\r\n");
        // The names of fields are spelt as anyone likes.
        for part in &mut parts {
            let head = find(part, b"\r\n\r\n").unwrap_or(0);
            part[..head].make_ascii_lowercase();
        }
        Some(parts)
    }
}

fn request(method: &str, target: &str, fields: &[String]) -> String {
    let mut text =
        format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
    for line in fields {
        text.push_str(line);
        text.push_str("\r\n");
    }
    text.push_str("\r\n");
    text
}

fn ask_portcullis(server: &Server, request: &str) -> Vec<u8> {
    let mut client = Client::connect(server);
    client.send(request.as_bytes());
    client.read_rest().0
}

/// nginx with the same document root, on a socket in a folder of its own.
struct Nginx {
    socket: PathBuf,
    _running: Running,
    _folder: tempfile::TempDir,
}

impl Nginx {
    fn start(root: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("socket");
        let config = folder.path().join("nginx.conf");
        fs::write(&config, configuration(root, &socket)).unwrap();
        let mut command = NGINX.command();
        command.arg("-p").arg(folder.path()).arg("-c").arg(&config);
        let running = NGINX.start(&mut command);
        until_some("nginx listens", || UnixStream::connect(&socket).ok());
        Self {
            socket,
            _running: running,
            _folder: folder,
        }
    }

    fn ask(&self, request: &str) -> Vec<u8> {
        let mut stream = UnixStream::connect(&self.socket).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        bytes
    }
}

/// What Portcullis does without being told is told here: If-Modified-Since as a bound, redirects
/// without a host, a charset for text.
fn configuration(root: &Path, socket: &Path) -> String {
    format!(
        "daemon off;
master_process off;
pid nginx.pid;
error_log stderr crit;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    types {{
        text/html html;
        text/plain txt;
        text/javascript js;
        application/gzip gz;
    }}
    default_type application/octet-stream;
    charset utf-8;
    charset_types text/html text/plain text/javascript;
    gzip_static on;
    gzip_vary on;
    gzip_http_version 1.0;
    if_modified_since before;
    absolute_redirect off;
    server {{
        listen unix:{};
        root {};
    }}
}}
",
        socket.display(),
        root.display()
    )
}

/// Files a while old, so that their validators are strong.
fn write_files(root: &Path) {
    for folder in ["docs", "bare"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    for (name, bytes) in [
        ("index.html", &b"<p>start"[..]),
        ("small.txt", content(1_000)),
        ("big.bin", content(300_000)),
        ("empty", b""),
        ("docs/index.html", b"<p>docs"),
        ("docs/page.html", b"<p>page"),
        ("a b.txt", b"a blank"),
        ("caf\u{e9}.txt", b"an accent"),
        (".hidden", b"hidden"),
        ("app.js", b"let uncompressed;"),
        ("app.js.gz", b"stands for gzip"),
    ] {
        let path = root.join(name);
        fs::write(&path, bytes).unwrap();
        let file = fs::File::options().write(true).open(&path).unwrap();
        let long_ago = SystemTime::now() - Duration::from_secs(3_600);
        file.set_modified(long_ago).unwrap();
    }
    symlink("small.txt", root.join("link.txt")).unwrap();
    symlink("/etc/hostname", root.join("outside")).unwrap();
}

#[test]
fn a_file_has_the_bytes_of_its_parts() {
    let server = Setup::new(Policy::Auto).start();
    let length = 3_000_000;
    server.write_content("f", length);
    let case = asks("/f", &["Range: bytes=0-99999,1000000-1999999,-1"]);
    let answer = Answer::to(&case, |request| ask_portcullis(&server, request));
    assert_eq!(answer.status(), 206);
    let parts = answer.parts().unwrap();
    let all = content(length);
    let wanted = [
        &all[..100_000],
        &all[1_000_000..2_000_000],
        &all[length - 1..],
    ];
    // Before the first boundary there is nothing.
    assert_eq!(parts.len(), wanted.len() + 1);
    for (part, wanted) in parts[1..].iter().zip(wanted) {
        let head = find(part, b"\r\n\r\n").unwrap();
        assert_same_bytes(&part[head + 4..], wanted, "a part");
    }
}
