//! How connections end: refusals, time, clients that go, drains.

use super::*;

#[test]
fn refusals_close_with_a_linger() {
    for (text, status) in [
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\nHost: a\n\n", 400),
        ("\x16\x03\x01", 400),
        ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
        ("POST / HTTP/1.1\r\nHost: a\r\nExpect: x\r\n\r\n", 417),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            501,
        ),
    ] {
        let ended = ended([get("/a"), data(text), data("more")]);
        assert_eq!(ended.statuses(), [200, status], "{text:?}");
        assert_eq!(ended.outcome(), Outcome::Refused(Status(status)));
        assert!(ended.sent().contains("\r\nconnection: close\r\n"));
        assert!(ended.script.finished);
        assert_eq!(ended.script.lingered, 4);
    }
}

#[test]
fn rfc9110_15_5_9_a_head_that_never_ends_is_408() {
    let ended = ended([get("/a"), data("GET / HT"), Silence(Phase::Header)]);
    assert_eq!(ended.statuses(), [200, 408]);
    assert_eq!(ended.outcome(), Outcome::Refused(Status(408)));
}

#[test]
fn an_idle_connection_ends_without_an_answer() {
    // Before the first request it is the head that is awaited, though not a byte has come.
    for (before, phase, statuses) in [
        (vec![], Phase::Header, &[][..]),
        (vec![data("\r\n")], Phase::Header, &[]),
        (vec![get("/a")], Phase::Idle, &[200]),
    ] {
        let ended = ended(before.into_iter().chain([Silence(phase)]));
        assert_eq!(ended.outcome(), Outcome::IdleTimeout);
        assert_eq!(ended.statuses(), statuses);
        assert!(ended.script.finished);
    }
}

#[test]
fn rfc9110_15_5_9_a_body_that_stalls_is_408_whoever_waits_for_it() {
    for target in ["/echo", "/ignored"] {
        let ended = ended([
            post(target, "Content-Length: 5", "he"),
            Silence(Phase::BodyProgress),
        ]);
        assert_eq!(ended.outcome(), Outcome::Refused(Status(408)), "{target}");
        assert_eq!(ended.statuses(), [408]);
    }
}

#[test]
fn rfc9112_8_a_client_that_breaks_off_is_an_error_of_its_own() {
    for events in [
        vec![data("GET / HTTP/1.1\r\nHo"), Close(Closure::Orderly)],
        vec![data("GET / HTTP/1.1\r\nHo"), Close(Closure::WithoutNotify)],
        vec![
            post("/echo", "Content-Length: 5", "he"),
            Close(Closure::Orderly),
        ],
        vec![
            post("/a", "Transfer-Encoding: chunked", "5\r\nhe"),
            Close(Closure::WithoutNotify),
        ],
        vec![post("/echo", "Content-Length: 5", "he"), Reset],
        vec![data("GET / HTTP/1.1\r\nHo"), Reset],
    ] {
        let text = format!("{events:?}");
        let ended = ended(events);
        let error = ended.result.unwrap_err();
        assert_eq!(error.side, Side::Client, "{text}");
        assert!(ended.script.sent.is_empty(), "{text}");
    }
}

#[test]
fn a_reset_between_requests_is_a_normal_end() {
    assert_eq!(ended([get("/a"), Reset]).outcome(), Outcome::PeerClosed);
    assert_eq!(ended([Reset]).outcome(), Outcome::PeerClosed);
}

#[test]
fn a_client_that_only_half_closed_still_gets_its_answers() {
    let ended = ended([get("/a"), get("/b"), Close(Closure::Orderly)]);
    assert_eq!(ended.statuses(), [200, 200]);
    assert_eq!(ended.outcome(), Outcome::PeerClosed);
}

#[test]
fn the_last_request_a_connection_may_make_is_told_so() {
    let ended = Test::new([get("/a"), get("/b"), get("/c")])
        .limited(|limits| limits.requests_per_connection_max = 2)
        .run();
    assert_eq!(ended.seen, ["/a", "/b"]);
    assert_eq!(ended.sent().matches("connection: close").count(), 1);
    assert_eq!(ended.outcome(), Outcome::Closed);
}

#[test]
fn an_exhausted_key_ends_the_connection_at_a_message_boundary() {
    let mut test = Test::new([get("/a"), get("/b")]);
    test.script.exhausted = true;
    let ended = test.run();
    assert_eq!(ended.seen, ["/a"]);
    assert!(ended.sent().contains("\r\nconnection: close\r\n"));
}

#[test]
fn a_draining_worker_answers_once_more_and_closes() {
    let test = Test::new([get("/a"), get("/b")]);
    test.context.drain();
    let ended = test.run();
    assert_eq!(ended.seen, ["/a"]);
    assert!(ended.sent().contains("\r\nconnection: close\r\n"));
    assert_eq!(ended.outcome(), Outcome::Closed);
}

#[test]
fn a_drained_idle_connection_ends_without_an_answer() {
    // What the wheel's drain does to a connection in its idle phase.
    let ended = ended([get("/a"), Drained]);
    assert_eq!(ended.outcome(), Outcome::Drained);
    assert_eq!(ended.statuses(), [200]);
    assert!(ended.script.finished);
}

#[test]
fn a_send_that_times_out_is_the_clients_error() {
    let mut test = Test::new([get("/a"), get("/b")]);
    test.script.send_fails = true;
    let error = test.run().result.unwrap_err();
    assert_eq!((error.side, error.stage), (Side::Client, Stage::Response));
}

#[test]
fn a_lingering_close_reads_only_so_much() {
    let flood = std::iter::repeat_n(data("x".repeat(1 << 20)), 10);
    let ended = Test::new([data("GET / HTTP/1.1\r\n\r\n")].into_iter().chain(flood)).run();
    assert_eq!(ended.statuses(), [400]);
    assert_eq!(ended.script.lingered, LINGER_BYTES_MAX);
    assert_eq!(ended.script.events.len(), 6);
}

#[test]
fn a_lingering_close_ends_in_time() {
    let ended = ended([data("GET / HTTP/1.1\r\n\r\n"), Silence(Phase::Linger)]);
    assert_eq!(ended.outcome(), Outcome::Refused(Status(400)));
}

#[test]
fn waiting_for_a_request_takes_little_memory() {
    let wire = Wire(Rc::new(RefCell::new(Script::default())));
    let site = Site::default();
    let context = Context::new(Timeouts::default(), Limits::default());
    let future = serve(wire.clone(), wire, &site, &context);
    let bytes = std::mem::size_of_val(&future);
    assert!(bytes <= 512, "{bytes} bytes");
}

proptest! {
    #[test]
    fn any_bytes_end_in_an_outcome_or_an_error(
        pieces in prop::collection::vec(
            prop_oneof![
                prop::collection::vec(any::<u8>(), 0..40),
                prop::sample::select(vec![
                    &b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..], b"POST /echo HTTP/1.1\r\nHost: a\r\n",
                    b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"\r\n",
                    b"Expect: 100-continue\r\n", b"3\r\nabc\r\n", b"0\r\n\r\n", b"abc",
                    b"Connection: close\r\n", b"GET /stream HTTP/1.0\r\n\r\n",
                ]).prop_map(<[u8]>::to_vec),
            ],
            0..12,
        ),
    ) {
        let events = pieces.into_iter().filter(|piece| !piece.is_empty()).map(Event::Data);
        let ended = Test::new(events).run();
        prop_assert!(ended.result.is_err() || ended.script.finished);
    }

    #[test]
    fn requests_survive_any_cut(cuts in prop::collection::vec(1_usize..60, 1..10)) {
        let text = "GET /a HTTP/1.1\r\nHost: a\r\n\r\nPOST /echo HTTP/1.1\r\nHost: a\r\n\
            Transfer-Encoding: chunked\r\n\r\n3\r\nfoo\r\n0\r\n\r\nPOST /b HTTP/1.1\r\nHost: a\r\n\
            Content-Length: 4\r\n\r\nGET GET /c HTTP/1.1\r\nHost: a\r\n\r\n";
        let mut rest = text.as_bytes();
        let mut events = Vec::new();
        for cut in cuts.iter().cycle() {
            let (now, later) = rest.split_at(rest.len().min(*cut));
            events.push(data(now));
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
        let ended = Test::new(events).run();
        prop_assert_eq!(&ended.seen, &["/a", "/echo", "/b", "/c"]);
        prop_assert_eq!(ended.statuses(), [200; 4]);
    }
}

#[test]
fn a_client_that_leaves_while_an_answer_is_made_ends_it() {
    for end in [Close(Closure::WithoutNotify), Reset] {
        for asked in [
            get("/late"),
            get("/stream/slow"),
            post("/late", "Content-Length: 3", "all"),
            post(
                "/late",
                "Transfer-Encoding: chunked",
                "3\r\nall\r\n0\r\n\r\n",
            ),
        ] {
            let text = format!("{asked:?} {end:?}");
            let ended = ended([asked, end.clone()]);
            let error = ended.result.as_ref().unwrap_err();
            assert_eq!(error.side, Side::Client, "{text}");
            assert!(
                !ended.script.finished && !ended.sent().contains("cde"),
                "{text}"
            );
        }
    }
    // One that has only ended its direction is answered, and so is what came meanwhile.
    let kept = ended([
        post("/late", "Content-Length: 3", "all"),
        get("/stream/slow"),
        Close(Closure::Orderly),
    ]);
    assert_eq!(
        (kept.outcome(), kept.statuses()),
        (Outcome::PeerClosed, vec![200, 200])
    );
    assert!(kept.sent().contains("\r\n\r\nall") && kept.sent().contains("cde"));
}
