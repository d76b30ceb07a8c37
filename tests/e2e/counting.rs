//! What a server counts of ordinary work, where no other test looks at the number.

use crate::support::Policy;
use crate::support::client::{Manner, TLS12, TLS13};
use crate::support::files::KIB;
use crate::support::for_each_policy;
use crate::support::server::Setup;

for_each_policy!(handshakes_files_and_bytes_are_counted_where_they_belong);

fn handshakes_files_and_bytes_are_counted_where_they_belong(policy: Policy) {
    let server = Setup::new(policy)
        .workers(1)
        .table("session", "tickets = false")
        .start();
    server.write_content("4k", 4 * KIB);
    let mut sent = 0;
    for (versions, connections) in [(TLS12, 2), (TLS13, 3)] {
        let manner = Manner {
            versions,
            ..Manner::default()
        };
        for _ in 0..connections {
            let mut client = manner.connect(&server);
            for path in ["/4k", "/4k", "/."] {
                let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
                client.send(request.as_bytes());
                sent += request.len() as u64;
                let response = client.read_response();
                assert_eq!(response.status(), if path == "/4k" { 200 } else { 404 });
            }
        }
    }
    // A response is counted when it has been sent: the client may have read it before.
    server.wait_for_counter("connections_closed", 5);
    let counters = server.counters();
    assert_eq!(counters["handshakes_tls12_full"], 2);
    assert_eq!(counters["handshakes_tls13_full"], 3);
    assert_eq!(counters["requests"], 15);
    assert_eq!(counters["responses_2xx"], 10);
    assert_eq!(counters["responses_4xx"], 5);
    assert_eq!(counters["bytes_received"], sent);
    assert!(counters["bytes_sent"] > 10 * 4 * KIB as u64);
    // Each file is looked for once.
    assert!(counters["file_cache_hits"] >= 9);
    assert!((1..=6).contains(&counters["file_cache_misses"]));
}
