//! How connections end, and that either side can tell a whole ending from a cut (RFC 8446 6.1).

use crate::support::Policy;
use crate::support::client::{Ending, Manner, TLS12, TLS13, content_length};
use crate::support::files::{KIB, MIB, assert_same_bytes, content};
use crate::support::for_each_policy;
use crate::support::server::{Server, Setup};

for_each_policy!(
    the_server_says_that_it_ends,
    the_client_ends_its_side_early,
    a_killed_server_is_not_taken_for_a_whole_ending,
);

fn the_server_says_that_it_ends(policy: Policy) {
    let server = server(policy);
    for versions in [TLS12, TLS13] {
        for path in ["/1k", "/1m"] {
            let mut client = Manner {
                versions,
                ..Manner::default()
            }
            .connect(&server);
            client.send(closing_request(path).as_bytes());
            let response = client.read_response();
            assert_eq!(response.field("connection"), Some("close"));
            assert_eq!(client.read_to_ending(), Ending::CloseNotify, "{path}");
        }
    }
}

/// A client that has said all it has to say still gets its response (RFC 9112 9.6: a half-closed
/// connection is no reason to stop).
fn the_client_ends_its_side_early(policy: Policy) {
    let server = server(policy);
    let manner = Manner {
        versions: TLS13,
        receive_buffer_bytes: Some(64 * KIB),
        ..Manner::default()
    };
    let mut client = manner.connect(&server);
    client.ask("/64m");
    client.wait_until_full();
    client.close_notify();
    client.truncate();
    let length = content_length(&client.read_head());
    let mut body = Vec::new();
    client.read_into(&mut body, length);
    assert_same_bytes(&body, content(64 * MIB), "after the client's close_notify");
    assert_eq!(client.read_to_ending(), Ending::CloseNotify);
}

fn a_killed_server_is_not_taken_for_a_whole_ending(policy: Policy) {
    let server = server(policy);
    let manner = Manner {
        receive_buffer_bytes: Some(64 * KIB),
        ..Manner::default()
    };
    let mut client = manner.connect(&server);
    client.ask("/64m");
    client.wait_until_full();
    drop(server);
    let (bytes, ending) = client.read_rest();
    assert!(bytes.len() < 64 * MIB);
    assert!(
        matches!(ending, Ending::Truncated | Ending::Reset),
        "{ending:?}"
    );
}

fn server(policy: Policy) -> Server {
    let server = Setup::new(policy).start();
    server.write_content("1k", KIB);
    server.write_content("1m", MIB);
    server.write_content("64m", 64 * MIB);
    server
}

fn closing_request(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
}
