//! Groups of servers of which some misbehave: who is left out, and who is not.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};

use super::backend::Backend;
use super::http2_backend::Http2Backend;
use crate::support::Policy;
use crate::support::client::Client;
use crate::support::server::Setup;

/// One worker that passes everything on to a group of these servers, with lines for it and for its
/// `[upstream.http]`.
fn passing_on_to(servers: &[SocketAddr], group: &str, http: &str) -> Setup {
    let mut text = format!("[[upstream]]\nname = \"app\"\n{group}\n");
    for address in servers {
        text.push_str(&format!(
            "[[upstream.server]]\naddress = \"tcp://{address}\"\n"
        ));
    }
    text.push_str(&format!("[upstream.http]\n{http}\n"));
    Setup::passing_on(Policy::Auto).text(&text)
}

/// A server that accepts, reads, says `answer` and then nothing.
fn useless(answer: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        while let Ok((mut socket, _)) = listener.accept() {
            std::thread::spawn(move || {
                let mut request = [0; 4096];
                if matches!(socket.read(&mut request), Ok(1..)) {
                    drop(socket.write_all(answer));
                    drop(socket.read(&mut request));
                }
            });
        }
    });
    address
}

/// It accepts whenever it is asked, which does not make good for the answers that do not come.
#[test]
fn a_server_that_accepts_and_does_not_answer_is_left_out() {
    for (answer, status) in [(&b""[..], 504), (b"220 ready\r\n", 502)] {
        let well = Backend::start();
        let servers = [useless(answer), well.address];
        let server = passing_on_to(&servers, "eject_ms = 3600000", "first_byte_ms = 250").start();
        let mut client = Client::connect(&server);
        let mut statuses = Vec::new();
        while server.counters()["upstream_ejections"] == 0 {
            statuses.push(client.get("/hello").status());
            assert!(statuses.len() <= 6, "not left out: {statuses:?}");
        }
        let failed = |statuses: &[u16]| statuses.iter().filter(|&&s| s == status).count();
        assert_eq!(failed(&statuses), 3, "{statuses:?}");
        for _ in 0..6 {
            assert_eq!(client.get("/hello").status(), 200);
        }
        assert_eq!(well.accepted(), 1);
    }
}

#[test]
fn an_http2_server_whose_connections_break_is_left_out() {
    let backend = Http2Backend::start(&[]);
    let server = passing_on_to(&[backend.address], "", "protocol = \"h2c\"").start();
    let mut client = Client::connect(&server);
    for ejections in [0, 0, 1] {
        assert_eq!(client.get("/close").status(), 502);
        assert_eq!(server.counters()["upstream_ejections"], ejections);
    }
}

/// Each has all the connections that it may have, which take more requests all the same.
#[test]
fn http2_servers_at_their_bound_go_on_in_turn() {
    let backends = [Http2Backend::start(&[]), Http2Backend::start(&[])];
    let mut text = "[[upstream]]\nname = \"app\"\n".to_owned();
    for backend in &backends {
        let address = backend.address;
        text.push_str(&format!(
            "[[upstream.server]]\naddress = \"tcp://{address}\"\nconnections_max = 1\n"
        ));
    }
    text.push_str("[upstream.http]\nprotocol = \"h2c\"\n");
    let server = Setup::passing_on(Policy::Auto).text(&text).start();
    let mut client = Client::connect(&server);
    for _ in 0..10 {
        assert_eq!(client.get("/hello").status(), 200);
    }
    for backend in &backends {
        assert_eq!(backend.asked_for("/hello").len(), 5);
        assert_eq!(backend.accepted(), 1);
    }
}

/// A server may close when a client does not go on with its upload.
#[test]
fn what_a_client_leaves_unsent_is_no_failure_of_the_server() {
    // It ends with its answer: nobody waits for the rest.
    const UPLOAD: &[u8] = b"POST /die HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
        Content-Length: 9\r\n\r\n";
    let backend = Backend::start();
    let server = passing_on_to(&[backend.address], "", "").start();
    for _ in 0..4 {
        let mut client = Client::connect(&server);
        client.send(UPLOAD);
        assert_eq!(client.read_response().status(), 502);
    }
    assert_eq!(server.counters()["upstream_ejections"], 0);
    let mut client = Client::connect(&server);
    for _ in 0..3 {
        assert_eq!(client.get("/die").status(), 502);
    }
    assert_eq!(server.counters()["upstream_ejections"], 1);
}
