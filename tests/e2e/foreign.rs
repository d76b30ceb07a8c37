//! Foreign clients that trust the authority and nothing else: two browsers, which load a page with all
//! that belongs to it, and the TLS and HTTP of four languages. Each is also shown a server that it must
//! not trust, so that its silence means something.
//!
//! The browsers, and a compiler or a virtual machine at each start, take minutes in a kernel that runs
//! as a process; the lab leaves this out.

mod compression;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;

use serde_json::Value;

use crate::support::Policy;
use crate::support::files::{KIB, MIB, assert_same_bytes, content};
use crate::support::for_each_policy;
use crate::support::process::{
    CERTUTIL, CHROMIUM, FIREFOX, GO, JAVA, NODE, PYTHON, quiet_chromium,
};
use crate::support::server::{Server, Setup};
use crate::support::wait::until_some;

for_each_policy!(python, node, go, java);

/// `ssl` and `http.client`, over one connection.
fn python(policy: Policy) {
    let server = Setup::new(policy).start();
    server.write_content("1m", MIB);
    let script = "\
import http.client, ssl, sys
authority, port = sys.argv[1:]
context = ssl.create_default_context(cafile=authority)
connection = http.client.HTTPSConnection('localhost', int(port), context=context, timeout=60)
for path, length in (('/1m', 1 << 20), ('/none', None), ('/1m', 1 << 20)):
    connection.request('GET', path)
    response = connection.getresponse()
    body = response.read()
    assert response.status == (200 if length else 404), response.status
    assert length is None or len(body) == length, len(body)
assert connection.sock.version() in ('TLSv1.2', 'TLSv1.3')
sys.stdout.buffer.write(body)
try:
    stranger = ssl.create_default_context()
    http.client.HTTPSConnection('localhost', int(port), context=stranger).request('GET', '/')
    sys.exit('an unknown authority is trusted')
except ssl.SSLCertVerificationError:
    pass
";
    let port = server.address.port().to_string();
    let finished = PYTHON
        .run(["-c", script, &server.authority(), &port])
        .success();
    assert_same_bytes(&finished.stdout, content(MIB), "by Python");
    assert_eq!(server.counters()["responses_2xx"], 2);
}

/// `https`, and `http2` with a library of its own for it.
fn node(policy: Policy) {
    let server = Setup::new(policy).start();
    server.write_content("1m", MIB);
    let script = "\
const fs = require('fs'), https = require('https'), http2 = require('http2');
const [authority, port] = process.argv.slice(1);
const ca = fs.readFileSync(authority);
const origin = `https://localhost:${port}`;
const fail = error => { console.error(error); process.exit(1); };
https.get(`${origin}/1m`, { ca }, response => {
    const parts = [];
    response.on('data', part => parts.push(part));
    response.on('end', () => {
        const first = Buffer.concat(parts);
        const session = http2.connect(origin, { ca });
        session.on('error', fail);
        if (response.statusCode !== 200) fail(response.statusCode);
        let open = 3;
        for (let index = 0; index < 3; index++) {
            const stream = session.request({ ':path': '/1m' });
            const parts = [];
            stream.on('response', fields => { if (fields[':status'] !== 200) fail(fields); });
            stream.on('data', part => parts.push(part));
            stream.on('end', () => {
                if (!Buffer.concat(parts).equals(first)) fail('HTTP/2 gives other bytes');
                if (--open) return;
                session.close();
                https.get(`${origin}/1m`, () => fail('an unknown authority is trusted'))
                    .on('error', error => {
                        if (!/certificate|issuer/.test(error.message)) fail(error);
                        process.stdout.write(first);
                    });
            });
        }
    });
}).on('error', fail);
";
    let port = server.address.port().to_string();
    let finished = NODE
        .run(["-e", script, "--", &server.authority(), &port])
        .success();
    assert_same_bytes(&finished.stdout, content(MIB), "by Node");
    let counters = server.counters();
    assert_eq!((counters["requests"], counters["requests_http2"]), (4, 3));
}

/// crypto/tls and net/http. Both versions of TLS, in each both of HTTP, over two connections each.
fn go(policy: Policy) {
    let server = server_with_sizes(policy);
    let client = server.path("client");
    build_go_client(&client);
    let paths = SIZES.map(|size| format!("/{size}"));
    let port = server.address.port().to_string();
    let authority = server.authority();
    let mut command = Command::new(client);
    command.args([&authority, &port]).args(paths);
    let finished = GO.start(&mut command).finish().success();
    assert_same_bytes(&finished.stdout, &bodies(8), "by Go");

    let counters = server.counters();
    for counter in [
        "handshakes_tls12_full",
        "handshakes_tls12_resumed",
        "handshakes_tls13_full",
        "handshakes_tls13_resumed",
    ] {
        assert_eq!(counters[counter], 2, "{counter}");
    }
    assert_eq!(counters["handshakes_failed"], 1);
    let requests = SIZES.len() as u64 * 8;
    assert_eq!(counters["responses_2xx"], requests);
    assert_eq!(counters["requests_http2"], requests / 2);
}

/// JSSE and `java.net.http`. In both versions of TLS: a connection for each of HTTP, and two of sockets.
fn java(policy: Policy) {
    let server = server_with_sizes(policy);
    let client = source("Client.java");
    let paths = SIZES.map(|size| format!("/{size}"));
    let port = server.address.port().to_string();
    let authority = server.authority();
    let arguments = [client.as_str(), &authority, &port];
    let paths = paths.iter().map(String::as_str);
    let finished = JAVA.run(arguments.into_iter().chain(paths)).success();
    let mut wanted = Vec::new();
    for _version in ["TLSv1.2", "TLSv1.3"] {
        wanted.extend(bodies(3));
        for _connection in 0..2 {
            wanted.extend(content(SIZES[0]));
        }
    }
    assert_same_bytes(&finished.stdout, &wanted, "by Java");

    let counters = server.counters();
    for version in ["tls12", "tls13"] {
        assert_eq!(counters[&format!("handshakes_{version}_full")], 3);
        assert_eq!(counters[&format!("handshakes_{version}_resumed")], 1);
    }
    assert_eq!(counters["handshakes_failed"], 1);
    let of_one_round = SIZES.len() as u64;
    assert_eq!(counters["responses_2xx"], 2 * (3 * of_one_round + 2));
    assert_eq!(counters["requests_http2"], 2 * 2 * of_one_round);
}

/// A server that has a file of each of [`SIZES`].
fn server_with_sizes(policy: Policy) -> Server {
    let server = Setup::new(policy).start();
    for size in SIZES {
        server.write_content(&size.to_string(), size);
    }
    server
}

/// What a client prints that asks so many times for all of [`SIZES`].
fn bodies(times: usize) -> Vec<u8> {
    let once: Vec<u8> = SIZES
        .iter()
        .flat_map(|&size| content(size))
        .copied()
        .collect();
    once.repeat(times)
}

/// Makes a program of `client.go`. Beside the build's results lies a cache of Go's own, with what it has
/// compiled of its library: the first of several fills it, the others only link.
fn build_go_client(program: &Path) {
    static BUILDING: Mutex<()> = Mutex::new(());
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let mut command = GO.command();
    command
        .env("GOCACHE", folder.join("go-cache"))
        .env("GOPATH", folder.join("go"))
        .env("GOFLAGS", "")
        .env("GO111MODULE", "off")
        .env("CGO_ENABLED", "0")
        .args(["build", "-o"])
        .arg(program)
        .arg(source("client.go"));
    let _one_at_a_time = BUILDING.lock();
    GO.start(&mut command).finish().success();
}

/// The path of a client's source.
fn source(name: &str) -> String {
    format!("{}/tests/e2e/foreign/{name}", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn chromium_loads_a_page_with_all_that_belongs_to_it() {
    let server = server_with_a_page();
    let load = |home: &Path| {
        let profile = format!("--user-data-dir={}", home.join("profile").display());
        let mut command = quiet_chromium();
        command.env("HOME", home).env_remove("XDG_DATA_HOME").args([
            &profile,
            "--virtual-time-budget=5000",
            "--dump-dom",
            &server.url("/"),
        ]);
        CHROMIUM.start(&mut command).finish().text()
    };
    let stranger = server.path("stranger");
    fs::create_dir_all(&stranger).unwrap();
    let warning = load(&stranger);
    assert!(!warning.contains("<title>"), "no warning: {warning}");
    assert_eq!(server.counters()["requests"], 0);

    let home = server.path("home");
    trust(&home.join(".pki/nssdb"), &server.authority());
    let page = load(&home);
    assert!(page.contains("<title>all is there</title>"), "{page}");
    assert_all_was_asked_for(&server);
}

#[test]
fn firefox_loads_a_page_with_all_that_belongs_to_it() {
    let server = server_with_a_page();
    let start = |profile: &Path| {
        fs::write(profile.join("user.js"), FIREFOX_IS_QUIET).unwrap();
        let mut command = FIREFOX.command();
        command
            .env("HOME", profile)
            .args(["--headless", "--no-remote", "--profile"])
            .arg(profile)
            .arg(server.url("/"));
        // It stays open, and is ended with this.
        FIREFOX.start(&mut command)
    };
    let stranger = server.path("stranger");
    fs::create_dir_all(&stranger).unwrap();
    let warned = start(&stranger);
    server.wait_for_counter("handshakes_failed", 1);
    drop(warned);
    assert_eq!(server.counters()["requests"], 0, "a stranger is trusted");

    let trusting = server.path("trusting");
    trust(&trusting, &server.authority());
    let _loaded = start(&trusting);
    assert_all_was_asked_for(&server);
}

/// A page whose script says when its style sheet, image, module and data have come.
fn server_with_a_page() -> Server {
    let server = Setup::new(Policy::Auto)
        .table("access_log", "path = \"access.log\"")
        .table("access_log", "format = \"json\"")
        .start();
    let root = server.path("root");
    for (name, text) in [
        (
            "index.html",
            "<!doctype html><html lang=\"en\"><head><title>not yet</title>\
             <link rel=\"icon\" href=\"data:,\"><link rel=\"stylesheet\" href=\"style.css\"></head>\
             <body><img src=\"image.svg\" alt=\"\">\
             <script type=\"module\" src=\"script.mjs\"></script></body></html>",
        ),
        ("style.css", "body { margin-top: 123px }"),
        (
            "image.svg",
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"7\" height=\"9\"></svg>",
        ),
        ("data.json", "{\"seven\": 7}"),
        (
            "script.mjs",
            "const image = document.images[0];\n\
             await image.decode();\n\
             const data = await (await fetch('data.json')).json();\n\
             const margin = getComputedStyle(document.body).marginTop;\n\
             const all = [image.naturalWidth, data.seven, margin].join();\n\
             document.title = all === '7,7,123px' ? 'all is there' : all;\n\
             await fetch('told?' + encodeURIComponent(document.title));\n",
        ),
    ] {
        fs::write(root.join(name), text).unwrap();
    }
    server
}

/// What the page needs was sent over HTTP/2, and its script was content.
fn assert_all_was_asked_for(server: &Server) {
    let told = until_some("the page has told what it found", || {
        let text = fs::read_to_string(server.path("access.log")).unwrap_or_default();
        let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
        let lines: Vec<Value> = lines.collect();
        let is_told = |line: &Value| line["target"].as_str().unwrap().starts_with("/told?");
        lines.iter().any(is_told).then_some(lines)
    });
    for path in ["/", "/style.css", "/image.svg", "/script.mjs", "/data.json"] {
        let line = told.iter().find(|line| line["target"] == path);
        let line = line.unwrap_or_else(|| panic!("no {path} in {told:?}"));
        assert_eq!(line["status"], 200, "{line}");
        assert_eq!(line["protocol"], "HTTP/2.0", "{line}");
        assert_eq!(line["tls"], "1.3", "{line}");
    }
    assert!(
        told.iter()
            .any(|line| line["target"] == "/told?all%20is%20there"),
        "{told:?}"
    );
}

/// Makes a certificate database of NSS that trusts `authority`.
fn trust(folder: &Path, authority: &str) {
    fs::create_dir_all(folder).unwrap();
    let database = format!("sql:{}", folder.display());
    CERTUTIL
        .run(["-N", "-d", &database, "--empty-password"])
        .success();
    let add = [
        "-A",
        "-d",
        &database,
        "-n",
        "test authority",
        "-t",
        "C,,",
        "-i",
        authority,
    ];
    CERTUTIL.run(add).success();
}

/// What Go's and Java's clients load: nothing, one byte, a segment, the most that one record holds and a
/// byte more, and enough to be handed over to the kernel on the way.
const SIZES: [usize; 6] = [1, 0, KIB, 16 * KIB, 16 * KIB + 1, MIB + 7];

/// Nothing but what it is told to load.
const FIREFOX_IS_QUIET: &str = "\
user_pref('app.update.enabled', false);
user_pref('browser.shell.checkDefaultBrowser', false);
user_pref('datareporting.policy.dataSubmissionEnabled', false);
user_pref('network.captive-portal-service.enabled', false);
user_pref('network.connectivity-service.enabled', false);
user_pref('security.OCSP.enabled', 0);
user_pref('toolkit.telemetry.enabled', false);
";
