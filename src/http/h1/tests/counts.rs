//! What is counted, and when.

use super::*;

/// How much this thread counted of `counters` while `test` ran.
fn counted<const N: usize>(test: Test, counters: [Counter; N]) -> [u64; N] {
    let before = counters.map(metrics::of_this_thread);
    drop(test.run());
    let mut after = counters.map(metrics::of_this_thread);
    for (after, before) in after.iter_mut().zip(before) {
        *after -= before;
    }
    after
}

const RESPONSES: [Counter; 4] = [
    Counter::Responses2xx,
    Counter::Responses3xx,
    Counter::Responses4xx,
    Counter::Responses5xx,
];

#[test]
fn each_response_is_counted_once_by_its_status() {
    for (events, expected) in [
        (
            vec![get("/a"), get("/unchanged"), get("/none")],
            [2, 1, 0, 0],
        ),
        (vec![get("/stream"), get("/stream/5")], [2, 0, 0, 0]),
        (vec![data("GET / HTTP/1.1\r\n\r\n")], [0, 0, 1, 0]),
        (vec![data("GET / HTTP/2.0\r\n\r\n")], [0, 0, 0, 1]),
        // The handler's 500 is not what is sent.
        (
            vec![post("/echo", "Transfer-Encoding: chunked", "x\r\n")],
            [0, 0, 1, 0],
        ),
        (
            vec![
                post("/echo", "Expect: 100-continue\r\nContent-Length: 1", ""),
                data("x"),
            ],
            [1, 0, 0, 0],
        ),
    ] {
        let text = format!("{events:?}");
        assert_eq!(counted(Test::new(events), RESPONSES), expected, "{text}");
    }
}

#[test]
fn a_response_counts_once_its_head_is_handed_over() {
    let mut unsent = Test::new([get("/a")]);
    unsent.script.send_fails = true;
    assert_eq!(counted(unsent, RESPONSES), [0; 4]);

    let mut truncated = Test::new([get("/file")]);
    truncated.site.file = Some(Arc::new(tempfile::tempfile().unwrap()));
    assert_eq!(counted(truncated, RESPONSES), [1, 0, 0, 0]);

    let short = Test::new([get("/stream/short")]);
    assert_eq!(counted(short, RESPONSES), [1, 0, 0, 0]);
}

#[test]
fn an_answer_without_a_request_is_counted_and_dated() {
    let mut wire = Wire(Rc::default());
    let context = Context::new(Timeouts::default(), Limits::default());
    let before = metrics::of_this_thread(Counter::Responses4xx);
    let response = Response::new(Status(400)).with_body(Body::Bytes(Bytes::from_static(b"no")));
    run(answer(&mut wire, &context, response)).unwrap();
    assert_eq!(metrics::of_this_thread(Counter::Responses4xx) - before, 1);
    let sent = String::from_utf8(wire.0.borrow().sent.clone()).unwrap();
    assert!(
        sent.starts_with("HTTP/1.1 400 Bad Request\r\ndate: "),
        "{sent}"
    );
    assert!(
        sent.ends_with("\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno"),
        "{sent}"
    );
}

#[test]
fn an_exhausted_key_counts_where_it_ends_the_connection() {
    let exhausted = |events: Vec<Event>| {
        let mut test = Test::new(events);
        test.script.exhausted = true;
        counted(test, [Counter::KeyExhausted])
    };
    assert_eq!(exhausted(vec![get("/a"), get("/b")]), [1]);
    let closing = data("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert_eq!(exhausted(vec![closing]), [0], "it would have ended anyway");
}

#[test]
fn deadlines_count_under_their_own_names() {
    let counters = [
        Counter::TimeoutsHeader,
        Counter::TimeoutsBody,
        Counter::TimeoutsIdle,
    ];
    for (events, expected) in [
        (vec![data("GET /"), Silence(Phase::Header)], [1, 0, 0]),
        (vec![Silence(Phase::Header)], [1, 0, 0]),
        (
            vec![
                post("/echo", "Content-Length: 5", "he"),
                Silence(Phase::BodyProgress),
            ],
            [0, 1, 0],
        ),
        (vec![get("/a"), Silence(Phase::Idle)], [0, 0, 1]),
        (vec![get("/a"), Drained], [0, 0, 0]),
    ] {
        let text = format!("{events:?}");
        assert_eq!(counted(Test::new(events), counters), expected, "{text}");
    }
}
