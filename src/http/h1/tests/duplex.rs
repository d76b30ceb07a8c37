//! Responses that begin while the request's body is still coming.

use super::*;

#[test]
fn a_response_is_sent_while_the_request_still_comes() {
    let ended = ended([
        post("/duplex", "Transfer-Encoding: chunked", "3\r\nfoo\r\n"),
        Saw("transfer-encoding: chunked\r\n\r\n3\r\nfoo\r\n"),
        data("3\r\nb"),
        Saw("1\r\nb\r\n"),
        data("ar\r\n0\r\n\r\n"),
        get("/a"),
    ]);
    assert_eq!(ended.seen, ["/duplex", "/a"]);
    assert_eq!(ended.statuses(), [200, 200]);
    assert!(ended.sent().contains("2\r\nar\r\n0\r\n\r\nHTTP/1.1 200 OK"));
    assert!(ended.script.finished);
}

#[test]
fn pipelined_requests_behind_a_streamed_body_are_served() {
    let ended = ended([post(
        "/duplex",
        "Content-Length: 3",
        "fooGET /a HTTP/1.1\r\nHost: a\r\n\r\n",
    )]);
    assert_eq!(ended.seen, ["/duplex", "/a"]);
    assert!(ended.sent().contains("3\r\nfoo\r\n0\r\n\r\nHTTP"));
}

#[test]
fn a_client_that_breaks_off_a_streamed_body_gets_no_end_of_its_response() {
    for end in [Close(Closure::Orderly), Reset, Silence(Phase::BodyProgress)] {
        let text = format!("{end:?}");
        let ended = ended([post("/duplex", "Content-Length: 5", "he"), end]);
        let error = ended.result.as_ref().unwrap_err();
        assert_eq!(
            (error.side, error.stage),
            (Side::Client, Stage::RequestBody),
            "{text}"
        );
        assert!(ended.sent().ends_with("2\r\nhe\r\n"), "{text}");
        assert!(
            !ended.script.finished,
            "{text}: the end must be seen to be missing"
        );
    }
}

#[test]
fn a_malformed_streamed_body_ends_the_connection() {
    let ended = ended([
        post("/duplex", "Transfer-Encoding: chunked", "3\r\nfoo\r\nx\r\n"),
        get("/a"),
    ]);
    assert_eq!(ended.result.as_ref().unwrap_err().side, Side::Client);
    assert_eq!(ended.seen, ["/duplex"]);
    assert!(ended.sent().ends_with("3\r\nfoo\r\n"));
}

#[test]
fn what_a_response_leaves_of_the_body_is_dropped_after_it() {
    let kept = ended([
        post("/duplex/first", "Content-Length: 8", "foo"),
        Saw("3\r\nfoo\r\n0\r\n\r\n"),
        data("more!"),
        get("/a"),
    ]);
    assert_eq!(kept.seen, ["/duplex/first", "/a"]);

    let length = BODY_DISCARD_BYTES_MAX + 4;
    let closed = ended([
        post("/duplex/first", &format!("Content-Length: {length}"), "foo"),
        data("more"),
    ]);
    assert_eq!(closed.outcome(), Outcome::Closed);
    assert_eq!(closed.script.lingered, 4);
}

#[test]
fn rfc9110_10_1_1_no_continue_follows_a_final_status() {
    let ended = ended([
        post("/duplex", "Expect: 100-continue\r\nContent-Length: 5", ""),
        data("hello"),
        get("/a"),
    ]);
    assert_eq!(ended.statuses(), [200]);
    assert!(ended.sent().ends_with("5\r\nhello\r\n0\r\n\r\n"));
    assert_eq!(ended.outcome(), Outcome::Closed);
}

/// The client may wait for it for ever, and the response for the body.
#[test]
fn rfc9110_10_1_1_continue_goes_before_a_response_made_of_the_body() {
    let ended = ended([
        post(
            "/duplex/asked",
            "Expect: 100-continue\r\nContent-Length: 5",
            "",
        ),
        Saw("HTTP/1.1 100 Continue\r\n\r\n"),
        data("hello"),
        get("/a"),
    ]);
    assert_eq!(ended.statuses(), [100, 200, 200]);
}

#[test]
fn rfc9110_6_5_1_trailers_are_sent_to_clients_that_take_them() {
    let with = |fields: &str| ended([post("/trailers", fields, "")]).sent();
    assert!(
        with("TE: gzip;q=0.5, Trailers\r\nConnection: TE")
            .ends_with("\r\n\r\n0\r\nSum: 1\r\nbad: a  b\r\n\r\n")
    );
    assert!(with("TE: gzip").ends_with("\r\n\r\n0\r\n\r\n"));
}

#[test]
fn rfc9110_6_6_1_a_relayed_date_is_the_only_one() {
    let ended = ended([get("/relayed")]);
    let text = String::from_utf8(ended.script.sent.clone()).unwrap();
    assert_eq!(
        text,
        "HTTP/1.1 200 OK\r\nServer: x\r\nDATE: then\r\ncontent-length: 0\r\n\r\n"
    );
}
