//! Readers that stall: the server must wait without spinning, lose nothing, and go on where it was,
//! also when the connection moves to the kernel in between.

use crate::support::Policy;
use crate::support::client::{Client, Manner, TLS12, TLS13, Versions, content_length, request};
use crate::support::files::{KIB, MIB, assert_same_bytes, content};
use crate::support::for_each_policy;
use crate::support::kernel::{KernelTls, kernel_tls};
use crate::support::server::{Server, Setup};

for_each_policy!(
    tls12,
    tls13,
    in_the_middle_of_a_pipeline,
    while_small_responses_wait,
    pipelined_small_requests,
    others_are_served_meanwhile,
);

fn tls12(policy: Policy) {
    after_small_responses(policy, TLS12);
}

fn tls13(policy: Policy) {
    after_small_responses(policy, TLS13);
}

/// Small responses in user space, then 64 MiB, for which `auto` hands the connection over.
fn after_small_responses(policy: Policy, versions: Versions) {
    let server = server(policy);
    let mut client = slow(versions).connect(&server);
    for _ in 0..3 {
        assert_eq!(client.get("/1k").body, content(KIB));
    }
    assert_offloaded(&server, policy, policy == Policy::Always);
    client.ask("/64m");
    client.wait_until_full();
    assert_offloaded(&server, policy, policy != Policy::Never);
    let length = content_length(&client.read_head());
    read_in_pieces(&mut client, length);
    // And small ones again, wherever the connection is now.
    for _ in 0..3 {
        assert_eq!(client.get("/1k").body, content(KIB));
    }
}

/// Requests before, for and after the large file in one write: the hand-over finds requests that
/// were read and not answered, and responses that were not sent.
fn in_the_middle_of_a_pipeline(policy: Policy) {
    let server = server(policy);
    for versions in [TLS12, TLS13] {
        let mut client = slow(versions).connect(&server);
        let paths = ["/1k", "/16k", "/64m", "/1k", "/1m", "/16k"];
        client.send(paths.map(request).concat().as_bytes());
        client.wait_until_full();
        for (path, length) in paths
            .into_iter()
            .zip([KIB, 16 * KIB, 64 * MIB, KIB, MIB, 16 * KIB])
        {
            let head = client.read_head();
            assert_eq!(content_length(&head), length, "{path}");
            if length > MIB {
                read_in_pieces(&mut client, length);
            } else {
                let mut body = Vec::new();
                client.read_into(&mut body, length);
                assert_same_bytes(&body, content(length), path);
            }
        }
    }
}

/// The first responses fill the connection before the large file is reached: what waits in user
/// space goes out before the kernel seals anything.
fn while_small_responses_wait(policy: Policy) {
    let server = server(policy);
    let mut client = slow(TLS13).connect(&server);
    let small = 64;
    client.send(
        [request("/16k").repeat(small), request("/64m")]
            .concat()
            .as_bytes(),
    );
    client.wait_until_full();
    for _ in 0..small {
        assert_same_bytes(&client.read_response().body, content(16 * KIB), "/16k");
    }
    let length = content_length(&client.read_head());
    read_in_pieces(&mut client, length);
}

fn pipelined_small_requests(policy: Policy) {
    let server = server(policy);
    for versions in [TLS12, TLS13] {
        let mut client = slow(versions).connect(&server);
        let count = 200;
        client.send(request("/1k").repeat(count).as_bytes());
        for _ in 0..count {
            assert_eq!(client.read_response().body, content(KIB));
        }
    }
    assert_eq!(server.counters()["requests"], 400);
}

/// With one worker, a connection that cannot be written must not hold up another.
fn others_are_served_meanwhile(policy: Policy) {
    let server = Setup::new(policy).workers(1).start();
    write_files(&server);
    let mut stalled = slow(TLS13).connect(&server);
    stalled.ask("/64m");
    stalled.wait_until_full();
    let sent = server.counters()["bytes_sent"];
    let mut other = Client::connect(&server);
    for _ in 0..10 {
        assert_same_bytes(&other.get("/1m").body, content(MIB), "/1m");
    }
    // The stalled one is still where it was: its bytes are not among those sent since.
    let sent = server.counters()["bytes_sent"] - sent;
    assert!(sent < 12 * u64::try_from(MIB).unwrap(), "{sent} bytes");
    let length = content_length(&stalled.read_head());
    read_in_pieces(&mut stalled, length);
}

/// Reads a body of `length` bytes, stalling after each of [`PIECES`] pieces until the server has
/// filled the connection again.
fn read_in_pieces(client: &mut Client, length: usize) {
    let mut body = Vec::with_capacity(length);
    for _ in 0..PIECES {
        client.read_into(&mut body, length / PIECES / 2);
        client.wait_until_full();
    }
    let left = length - body.len();
    client.read_into(&mut body, left);
    assert_same_bytes(&body, content(length), "a download in pieces");
}

/// Fails unless the only connection's sending side is in the kernel as `is_expected` says.
fn assert_offloaded(server: &Server, policy: Policy, is_expected: bool) {
    let is_expected = is_expected && kernel_tls() != KernelTls::Absent;
    let found = server.counters()["offloaded_send"];
    assert_eq!(found, u64::from(is_expected), "{policy:?}");
}

fn slow(versions: Versions) -> Manner {
    Manner {
        versions,
        receive_buffer_bytes: Some(64 * KIB),
        ..Manner::default()
    }
}

fn server(policy: Policy) -> Server {
    let server = Setup::new(policy).start();
    write_files(&server);
    server
}

fn write_files(server: &Server) {
    server.write_content("1k", KIB);
    server.write_content("16k", 16 * KIB);
    server.write_content("1m", MIB);
    server.write_content("64m", 64 * MIB);
}

const PIECES: usize = 8;
