//! The access log: a line for each response, in the file it belongs to.

use std::fs;

use serde_json::Value;

use crate::reload::{edit, reload};
use crate::support::Policy;
use crate::support::certificates::KeyKind;
use crate::support::client::{Client, Manner, TLS12};
use crate::support::files::KIB;
use crate::support::for_each_policy;
use crate::support::process::{CURL, H2LOAD};
use crate::support::server::{Server, Setup};
use crate::support::wait::{until_equal, until_some};

for_each_policy!(json_tells_what_happened);

fn json_tells_what_happened(policy: Policy) {
    let server = Setup::new(policy)
        .table("access_log", "path = \"access.log\"")
        .table("access_log", "format = \"json\"")
        .with_redirect()
        .start();
    server.write_content("1k", KIB);
    let mut client = Client::connect(&server);
    client.send(
        b"GET /1k?q HTTP/1.1\r\nHost: localhost\r\nReferer: https://a.test/\"x\r\n\
          User-Agent: e2e\\ \xff\r\n\r\n",
    );
    assert_eq!(client.read_response().status(), 200);
    let old = Manner {
        versions: TLS12,
        ..Manner::default()
    };
    let mut refused = old.connect(&server);
    refused.send(b"GET / HTTP/9.9\r\n\r\n");
    assert_eq!(refused.read_response().status(), 505);
    let redirect = server.redirect.unwrap().to_string();
    CURL.run(["--silent", &format!("http://{redirect}/there")])
        .success();

    let lines = wait_for_lines(&server, "access.log", 3);
    let entries: Vec<Value> = lines
        .iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let entry = |status: u64| {
        let found = entries.iter().find(|entry| entry["status"] == status);
        found.unwrap_or_else(|| panic!("no {status} in {lines:?}"))
    };
    let served = entry(200);
    for (name, value) in [
        ("client", "127.0.0.1"),
        ("method", "GET"),
        ("host", "localhost"),
        ("target", "/1k?q"),
        ("protocol", "HTTP/1.1"),
        ("referer", "https://a.test/\"x"),
        ("user_agent", "e2e\\ \u{fffd}"),
        ("tls", "1.3"),
    ] {
        assert_eq!(served[name], value, "{name}: {served}");
    }
    assert_eq!(served["body_bytes"], 1024);
    assert_eq!(served["complete"], true);
    assert_eq!(served["resumed"], false);
    let suite = served["suite"].as_str().unwrap();
    assert!(suite.starts_with("TLS13_"), "{suite}");
    let layer = served["sealed_by"].as_str().unwrap();
    assert!(["kernel", "user"].contains(&layer), "{layer}");
    assert!(policy != Policy::Never || layer == "user", "{layer}");
    // A head that could not be read has no request.
    let refused = entry(505);
    assert_eq!(refused["tls"], "1.2");
    assert_eq!(refused.get("method"), None);
    let redirected = entry(308);
    assert_eq!(redirected["target"], "/there");
    assert_eq!(redirected.get("tls"), None);
}

#[test]
fn no_line_is_lost_when_the_process_ends() {
    let mut server = Setup::new(Policy::Auto)
        .table("access_log", "path = \"access.log\"")
        .start();
    server.write_content("1k", KIB);
    let url = server.url("/1k").replace("localhost", "127.0.0.1");
    H2LOAD
        .run(["--h1", "--requests", "2000", "--clients", "10", &url])
        .success();
    let counters = server.counters();
    assert_eq!(counters["access_log_dropped"], 0);
    server.terminate();
    assert!(server.wait().success());
    let lines = lines_of(&server, "access.log");
    assert_eq!(lines.len() as u64, counters["requests"]);
    for line in &lines {
        assert!(line.starts_with("127.0.0.1 - - ["), "{line}");
        assert!(
            line.contains("] \"GET /1k HTTP/1.1\" 200 1024 \"-\" \""),
            "{line}"
        );
    }
}

#[test]
fn a_hard_stop_keeps_the_last_lines() {
    let mut server = Setup::new(Policy::Auto)
        .table("access_log", "path = \"access.log\"")
        .start();
    server.write_content("1k", KIB);
    let mut client = Client::connect(&server);
    for _ in 0..3 {
        assert_eq!(client.get("/1k").status(), 200);
    }
    // It drains for as long as this request is not whole.
    let mut busy = Client::connect(&server);
    busy.send(b"GET /");
    // A second signal is a hard stop, before the lines that were gathered are due.
    server.terminate();
    server.wait_for_log("draining");
    server.terminate();
    assert_eq!(server.wait().code(), Some(1));
    assert_eq!(lines_of(&server, "access.log").len(), 3);
}

#[test]
fn sites_log_to_files_of_their_own() {
    let own = "[site.access_log]\npath = \"own.log\"\nformat = \"json\"";
    let server = Setup::new(Policy::Auto)
        .site(&["localhost"], KeyKind::P256, "root")
        .site_with(&["own.test"], KeyKind::P256, "root", own)
        .site_with(
            &["quiet.test"],
            KeyKind::P256,
            "root",
            "[site.access_log]\nenabled = false",
        )
        .table("access_log", "path = \"access.log\"")
        .table("proxies", "trusted = [\"127.0.0.1\"]")
        .table("request_id", "to_clients = true")
        .start();
    server.write_content("1k", KIB);
    let mut client = Client::connect(&server);
    let mut ask = |host: &str, fields: &str| {
        client.send(format!("GET /1k HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n").as_bytes());
        let response = client.read_response();
        assert_eq!(response.status(), 200, "{host}");
        response.field("x-request-id").unwrap().to_owned()
    };
    ask("quiet.test", "");
    ask("localhost", "");
    let made = ask("own.test", "");
    let told = "X-Forwarded-For: 192.0.2.7\r\nX-Request-ID: given-1\r\n";
    assert_eq!(ask("own.test", told), "given-1");
    let lines = wait_for_lines(&server, "own.log", 2);
    let entries: Vec<Value> = lines
        .iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(entries[0]["id"], made.as_str());
    assert_eq!(made.len(), 32);
    assert_eq!(entries[0]["client"], "127.0.0.1");
    assert_eq!(entries[0].get("proxy"), None);
    assert_eq!(entries[1]["id"], "given-1");
    assert_eq!(entries[1]["client"], "192.0.2.7");
    assert_eq!(entries[1]["proxy"], "127.0.0.1");
    assert_eq!(entries[1]["site"], "own.test");
    assert_eq!(wait_for_lines(&server, "access.log", 1).len(), 1);
}

#[test]
fn a_connection_from_before_a_reload_goes_on_logging_where_it_did() {
    let mut server = Setup::new(Policy::Auto)
        .table("access_log", "path = \"first.log\"")
        .start();
    server.write_content("1k", KIB);
    let mut before = Client::connect(&server);
    assert_eq!(before.get("/1k").status(), 200);
    edit(&server, |text| text.replace("first.log", "second.log"));
    reload(&server).success();
    assert_eq!(before.get("/1k").status(), 200);
    wait_for_lines(&server, "first.log", 2);
    // SIGUSR1 reaches both, and a stop loses nothing of either.
    fs::rename(server.path("first.log"), server.path("first.log.1")).unwrap();
    server.signal(libc::SIGUSR1);
    until_some("the file is there again", || {
        server.path("first.log").exists().then_some(())
    });
    assert_eq!(before.get("/1k").status(), 200);
    assert_eq!(Client::connect(&server).get("/1k").status(), 200);
    server.terminate();
    assert!(server.wait().success());
    assert_eq!(lines_of(&server, "first.log.1").len(), 2);
    assert_eq!(lines_of(&server, "first.log").len(), 1);
    assert_eq!(lines_of(&server, "second.log").len(), 1);
}

#[test]
fn sigusr1_opens_the_file_anew() {
    let server = Setup::new(Policy::Auto)
        .table("access_log", "path = \"access.log\"")
        .start();
    server.write_content("1k", KIB);
    let mut client = Client::connect(&server);
    assert_eq!(client.get("/1k").status(), 200);
    wait_for_lines(&server, "access.log", 1);
    fs::rename(server.path("access.log"), server.path("access.log.1")).unwrap();
    server.signal(libc::SIGUSR1);
    until_some("the file is there again", || {
        server.path("access.log").exists().then_some(())
    });
    assert_eq!(client.get("/1k").status(), 200);
    wait_for_lines(&server, "access.log", 1);
    assert_eq!(lines_of(&server, "access.log.1").len(), 1);
}

#[test]
fn a_reload_turns_it_on_and_moves_it() {
    let server = Setup::new(Policy::Auto).start();
    server.write_content("1k", KIB);
    edit(&server, |text| {
        text + "[access_log]\npath = \"first.log\"\n"
    });
    reload(&server).success();
    assert_eq!(Client::connect(&server).get("/1k").status(), 200);
    wait_for_lines(&server, "first.log", 1);
    edit(&server, |text| {
        text.replace("first.log", "nowhere/second.log")
    });
    let refused = reload(&server);
    assert_eq!(refused.status.code(), Some(1), "{}", refused.errors());
    assert!(refused.errors().contains("open the access log"));
    edit(&server, |text| {
        text.replace("nowhere/second.log", "second.log")
    });
    reload(&server).success();
    assert_eq!(Client::connect(&server).get("/1k").status(), 200);
    wait_for_lines(&server, "second.log", 1);
    assert_eq!(lines_of(&server, "first.log").len(), 1);
}

#[test]
fn a_log_that_cannot_be_written_costs_lines_and_nothing_else() {
    // Every write to it fails (full(4)).
    let server = Setup::new(Policy::Auto)
        .table("access_log", "path = \"/dev/full\"")
        .start();
    server.write_content("1k", KIB);
    let mut client = Client::connect(&server);
    for _ in 0..3 {
        assert_eq!(client.get("/1k").status(), 200);
    }
    server.wait_for_counter("access_log_dropped", 3);
    server.wait_for_log("the access log cannot be written");
}

fn lines_of(server: &Server, name: &str) -> Vec<String> {
    let text = fs::read_to_string(server.path(name)).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn wait_for_lines(server: &Server, name: &str, count: usize) -> Vec<String> {
    until_equal(name, &count, || lines_of(server, name).len());
    lines_of(server, name)
}
