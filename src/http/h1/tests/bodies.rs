//! Request bodies: read, dropped, refused, and asked for with 100 (Continue).

use super::*;

#[test]
fn request_bodies_reach_the_handler() {
    let ended = ended([
        post("/echo", "Content-Length: 5", "he"),
        data("llo"),
        post("/echo", "Transfer-Encoding: chunked", "3\r\nfoo\r\n"),
        data("3\r\nb"),
        data("ar\r\n0\r\nX: y\r\n\r\n"),
        get("/a"),
    ]);
    assert_eq!(ended.statuses(), [200, 200, 200]);
    assert!(ended.sent().contains("\r\n\r\nhelloHTTP/1.1"));
    assert!(ended.sent().contains("\r\n\r\nfoobarHTTP/1.1"));
}

#[test]
fn a_body_nobody_read_is_dropped_and_the_next_request_served() {
    let ended = ended([
        post("/a", "Content-Length: 5", "GET /"),
        post("/b", "Transfer-Encoding: chunked", "3\r\nfoo\r\n"),
        data("0\r\n\r\n"),
        get("/c"),
    ]);
    assert_eq!(ended.seen, ["/a", "/b", "/c"]);
    assert_eq!(ended.statuses(), [200, 200, 200]);
}

#[test]
fn a_large_body_nobody_read_ends_the_connection_instead() {
    let length = BODY_DISCARD_BYTES_MAX + 1;
    let ended = ended([
        post("/a", &format!("Content-Length: {length}"), "x"),
        Saw("\r\n\r\n/a"),
        data("y".repeat(1000)),
    ]);
    assert_eq!(ended.outcome(), Outcome::Closed);
    assert!(ended.sent().contains("\r\nconnection: close\r\n"));
    assert_eq!(ended.script.lingered, 1000);

    let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
    let chunks = std::iter::repeat_n(data(&chunk), 8);
    let ended = Test::new(
        [post("/a", "Transfer-Encoding: chunked", "")]
            .into_iter()
            .chain(chunks),
    )
    .run();
    assert_eq!(ended.outcome(), Outcome::Closed);
    assert_eq!(ended.statuses(), [200]);
}

#[test]
fn rfc9110_15_5_14_a_declared_body_over_its_bound_is_413_and_never_asked_for() {
    let ended = Test::new([
        post("/echo", "Expect: 100-continue\r\nContent-Length: 11", ""),
        data("y".repeat(11)),
    ])
    .limited(|limits| limits.body_bytes_max = 10)
    .run();
    assert_eq!(ended.outcome(), Outcome::Refused(Status(413)));
    assert_eq!(ended.statuses(), [413]);
    assert!(ended.seen.is_empty());
    assert_eq!(ended.script.lingered, 11);
}

#[test]
fn rfc9110_15_5_14_a_chunked_body_over_its_bound_is_413() {
    for target in ["/echo", "/ignored"] {
        let ended = Test::new([post(
            target,
            "Transfer-Encoding: chunked",
            "5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n",
        )])
        .limited(|limits| limits.body_bytes_max = 10)
        .run();
        assert_eq!(ended.statuses(), [413], "{target}");
        assert_eq!(ended.outcome(), Outcome::Refused(Status(413)));
    }
}

#[test]
fn a_malformed_body_is_400_whoever_finds_it() {
    for target in ["/echo", "/ignored"] {
        let ended = ended([
            post(target, "Transfer-Encoding: chunked", "x\r\n"),
            get("/b"),
        ]);
        assert_eq!(ended.outcome(), Outcome::Refused(Status(400)), "{target}");
        assert_eq!(ended.statuses(), [400]);
        assert_eq!(ended.seen, [target]);
    }
}

#[test]
fn rfc9110_10_1_1_continue_is_sent_when_the_body_is_asked_for() {
    let ended = ended([
        post("/echo", "Expect: 100-continue\r\nContent-Length: 5", ""),
        Saw("HTTP/1.1 100 Continue\r\n\r\n"),
        data("hello"),
        Saw("\r\n\r\nhello"),
        get("/a"),
    ]);
    assert_eq!(ended.statuses(), [100, 200, 200]);
}

#[test]
fn rfc9110_10_1_1_continue_is_not_sent_for_a_body_that_comes_unasked() {
    let ended = ended([
        post("/echo", "Expect: 100-continue\r\nContent-Length: 5", "he"),
        Saw(""),
        data("llo"),
    ]);
    assert_eq!(ended.statuses(), [200]);
}

#[test]
fn rfc9110_10_1_1_a_final_status_instead_of_continue_closes() {
    let ended = ended([
        post("/a", "Expect: 100-continue\r\nContent-Length: 5", ""),
        Saw("/a"),
        data("hello"),
    ]);
    assert_eq!(ended.statuses(), [200]);
    assert_eq!(ended.outcome(), Outcome::Closed);
    assert!(ended.sent().contains("\r\nconnection: close\r\n"));
}

#[test]
fn rfc9110_10_1_1_http_1_0_is_never_sent_continue() {
    let ended = ended([
        data("POST /echo HTTP/1.0\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"),
        Saw(""),
        data("hello"),
    ]);
    assert_eq!(ended.statuses(), [200]);
}
