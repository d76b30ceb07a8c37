//! Many connections and requests at a time, by h2load.

use crate::support::Policy;
use crate::support::files::KIB;
use crate::support::for_each_policy;
use crate::support::process::H2LOAD;
use crate::support::server::Setup;

for_each_policy!(many_requests, many_connections);

fn many_requests(policy: Policy) {
    load(policy, 2000, 20);
}

/// A handshake for each four requests.
fn many_connections(policy: Policy) {
    load(policy, 400, 100);
}

fn load(policy: Policy, requests: u64, clients: u64) {
    let server = Setup::new(policy).start();
    server.write_content("16k", 16 * KIB);
    let before = server.holdings();
    let (requests_text, clients_text) = (requests.to_string(), clients.to_string());
    let finished = H2LOAD
        .run([
            "--h1",
            "--requests",
            &requests_text,
            "--clients",
            &clients_text,
            &server.url("/16k").replace("localhost", "127.0.0.1"),
        ])
        .success();
    let report = finished.text();
    for line in [
        format!("{requests} succeeded, 0 failed, 0 errored, 0 timeout"),
        format!("status codes: {requests} 2xx, 0 3xx, 0 4xx, 0 5xx"),
    ] {
        assert!(report.contains(&line), "{report}");
    }
    // What is counted last is counted behind the client's back.
    server.wait_for_holdings(before);
    let counters = server.counters();
    assert_eq!(counters["responses_2xx"], requests);
    assert_eq!(counters["connections_accepted"], clients);
    assert!(counters["bytes_sent"] >= requests * 16 * 1024);
}
