//! The admin listener: metrics, health, and the status page in a browser.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;

use serde_json::Value;

use crate::support::Policy;
use crate::support::client::{Client, Ending, body_of, status};
use crate::support::files::MIB;
use crate::support::process::{CHROMIUM, quiet_chromium};
use crate::support::server::{Server, Setup};
use crate::support::wait::{PATIENCE, until_equal};

const README: &str = include_str!("../../README.md");
const DASHBOARD: &str = include_str!("../../tuning/grafana/portcullis.json");

#[test]
fn what_happens_is_in_the_metrics_and_in_the_status() {
    let (server, admin) = start();
    server.write_content("1k", 1024);
    let mut client = Client::connect(&server);
    for _ in 0..5 {
        assert_eq!(client.get("/1k").status(), 200);
    }
    assert_eq!(client.get("/none").status(), 404);
    let mut broken = Client::connect(&server);
    broken.send(b"GET / HT");
    broken.truncate();
    assert_eq!(broken.read_to_ending(), Ending::Truncated);
    server.wait_for_counter("connections_closed", 1);

    let metrics = get(admin, "/metrics");
    let sum = |name: &str| sum_of(&metrics, name);
    assert_eq!(sum("portcullis_requests_total"), 6.0);
    assert_eq!(sum("portcullis_responses_2xx_total"), 5.0);
    assert_eq!(sum("portcullis_connections"), 1.0);
    assert_eq!(sum("portcullis_client_networks"), 1.0);
    assert_eq!(sum("portcullis_workers"), 2.0);
    assert_eq!(sum("portcullis_ready"), 1.0);
    assert_eq!(sum("portcullis_request_duration_seconds_count"), 6.0);
    assert!(sum("portcullis_request_duration_seconds_sum") > 0.0);
    let error = "portcullis_errors_total{side=\"client\",stage=\"request_head\"} 1";
    assert!(metrics.lines().any(|line| line == error), "{metrics}");
    let expiry = "portcullis_certificate_expiry_seconds{site=\"localhost\"} ";
    assert!(metrics.contains(expiry), "{metrics}");
    // Both workers are there from the beginning, whichever has had the connections.
    for worker in ["worker-0", "worker-1"] {
        let series = format!("portcullis_connections{{thread=\"{worker}\"}} ");
        assert!(metrics.contains(&series), "{metrics}");
    }

    let now: Value = serde_json::from_str(&get(admin, "/status.json")).unwrap();
    assert_eq!(now["phase"], "ready");
    assert_eq!(now["counters"]["requests"], 6);
    assert_eq!(now["workers"].as_array().unwrap().len(), 2);
    assert_eq!(now["certificates"][0]["names"][0], "localhost");
    assert_eq!(now["errors"][0]["stage"], "request_head");
    let counts = now["durations"]["counts"].as_array().unwrap();
    let counts: u64 = counts.iter().map(|count| count.as_u64().unwrap()).sum();
    assert_eq!(counts, 6);
}

#[test]
fn the_readme_and_the_dashboard_know_the_metrics_that_there_are() {
    let (server, admin) = start();
    let metrics = get(admin, "/metrics");
    let described: BTreeSet<String> = metrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .map(|rest| rest.split(' ').next().unwrap().to_owned())
        .collect();
    let counters = server.counters();
    let (_, section) = README.split_once("\n## Watching it\n").unwrap();
    let (section, _) = section.split_once("\n## ").unwrap();
    let documented: BTreeSet<String> = section
        .lines()
        .filter_map(|line| line.strip_prefix("| `portcullis_"))
        .map(|rest| format!("portcullis_{}", rest.split('`').next().unwrap()))
        .collect();
    // The counters have a table of their own.
    let is_counter = |name: &&String| {
        let name = name.trim_start_matches("portcullis_");
        counters.has(name.trim_end_matches("_total"))
    };
    let others: BTreeSet<String> = described
        .iter()
        .filter(|name| !is_counter(name))
        .cloned()
        .collect();
    assert_eq!(documented, others);

    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let mut expressions = Vec::new();
    collect_expressions(&dashboard, &mut expressions);
    assert!(expressions.len() > 30, "{expressions:?}");
    for expression in expressions {
        let names = expression
            .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .filter(|word| word.starts_with("portcullis_"));
        let mut found = 0;
        for name in names {
            found += 1;
            let bare = name.trim_end_matches("_bucket");
            assert!(described.contains(bare), "{name} in {expression:?}");
        }
        assert!(found > 0, "{expression:?}");
    }
}

#[test]
fn readiness_ends_when_the_drain_begins_and_liveness_does_not() {
    let (mut server, admin) = start();
    server.write_content("16m", 16 * MIB);
    assert_eq!(ask(admin, "/readyz", "localhost").0, 200);
    let mut client = Client::connect(&server);
    client.ask("/16m");
    client.wait_until_full();
    server.terminate();
    until_equal("readiness", &503, || ask(admin, "/readyz", "localhost").0);
    assert_eq!(ask(admin, "/readyz", "localhost").1, "draining\n");
    assert_eq!(ask(admin, "/healthz", "localhost").0, 200);
    assert_eq!(client.read_response().body.len(), 16 * MIB);
    assert_eq!(client.read_to_ending(), Ending::CloseNotify);
    assert!(server.wait().success());
}

#[test]
fn silent_connections_keep_nobody_from_the_numbers() {
    let (_server, admin) = start();
    let mut silent: Vec<_> = (0..80)
        .map(|_| TcpStream::connect(admin).unwrap())
        .collect();
    assert_eq!(ask(admin, "/healthz", "localhost").0, 200);
    // Those who came first have made room, and the last may still ask.
    assert_eq!(silent[0].read(&mut [0]).unwrap(), 0);
    let last = silent.last_mut().unwrap();
    write!(last, "GET /healthz HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    last.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[test]
fn a_page_of_another_name_learns_nothing() {
    let (_server, admin) = start();
    assert_eq!(ask(admin, "/metrics", "evil.test").0, 421);
    assert_eq!(ask(admin, "/metrics", &admin.to_string()).0, 200);
}

#[test]
fn a_unix_socket_answers_too() {
    let server = Setup::new(Policy::Auto)
        .table("admin", "address = \"unix:admin.sock\"")
        .start();
    let announced = server.announced("admin: unix:");
    assert_eq!(announced, server.path("admin.sock").to_str().unwrap());
    let mut stream = UnixStream::connect(announced).unwrap();
    stream.write_all(b"GET /readyz HTTP/1.1\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.ends_with("\r\n\r\nready\n"), "{answer}");
}

#[test]
fn the_status_page_shows_itself_in_a_browser() {
    let (server, admin) = start();
    server.write_content("1k", 1024);
    let mut client = Client::connect(&server);
    for _ in 0..7 {
        assert_eq!(client.get("/1k").status(), 200);
    }
    let profile = server.path("browser");
    let mut command = quiet_chromium();
    command.args([
        "--enable-logging=stderr",
        &format!("--user-data-dir={}", profile.display()),
        // The page's own clock runs ahead while nothing is loading.
        "--virtual-time-budget=3000",
        "--dump-dom",
        &format!("http://{admin}/"),
    ]);
    let finished = CHROMIUM.start(&mut command).finish().success();
    let page = finished.text();
    for part in [
        ">ready</b>",
        "<b>7</b><span>requests</span>",
        "<td>worker-0</td>",
        "<td>worker-1</td>",
        "<td>localhost</td>",
        "<td>tls13 full</td><td>1</td><td>100.0 %</td>",
    ] {
        assert!(page.contains(part), "no {part} in {page}");
    }
    let console: Vec<String> = finished
        .errors()
        .lines()
        .filter(|line| line.contains("CONSOLE"))
        .map(str::to_owned)
        .collect();
    assert!(console.is_empty(), "{console:?}");
}

/// A server and the address of its admin listener.
fn start() -> (Server, SocketAddr) {
    let server = Setup::new(Policy::Auto)
        .table("admin", "address = \"127.0.0.1:0\"")
        .start();
    let address = server.announced("admin: http://").parse().unwrap();
    (server, address)
}

/// The body of what is found at `path`.
fn get(address: SocketAddr, path: &str) -> String {
    let (status, body) = ask(address, path, "localhost");
    assert_eq!(status, 200, "{path}: {body}");
    body
}

/// The status and body of the answer to a request for `host`.
fn ask(address: SocketAddr, path: &str, host: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let body = String::from_utf8(body_of(&answer).to_vec()).unwrap();
    (status(&String::from_utf8_lossy(&answer)), body)
}

/// The sum of a metric's series.
fn sum_of(metrics: &str, name: &str) -> f64 {
    let values = metrics.lines().filter_map(|line| {
        let (series, value) = line.rsplit_once(' ')?;
        let is_it = series.split('{').next() == Some(name);
        is_it.then(|| value.parse::<f64>().unwrap())
    });
    let values: Vec<f64> = values.collect();
    assert!(!values.is_empty(), "no {name} in {metrics}");
    values.iter().sum()
}

fn collect_expressions(value: &Value, expressions: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            if let Some(Value::String(expression)) = fields.get("expr") {
                expressions.push(expression.clone());
            }
            fields
                .values()
                .for_each(|value| collect_expressions(value, expressions));
        }
        Value::Array(values) => values
            .iter()
            .for_each(|value| collect_expressions(value, expressions)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
