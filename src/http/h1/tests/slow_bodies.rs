//! Deadlines of request bodies, on the script's clock.

use super::*;

/// A client that sends a byte each so often, as the default deadlines allow.
fn drip(target: &str, every: Duration, bytes: usize) -> Vec<Event> {
    let mut events = vec![post(target, "Content-Length: 1000", "")];
    for _ in 0..bytes {
        events.extend([Passes(every), data("x")]);
    }
    events
}

#[test]
fn rfc9110_15_5_9_a_body_that_drips_is_408_when_its_whole_time_is_over() {
    let every = Duration::from_secs(29);
    let total = Timeouts::default().body;
    let whole = usize::try_from(total.as_secs() / every.as_secs()).unwrap();
    for target in ["/echo", "/ignored"] {
        let mut events = drip(target, every, whole);
        events.push(Silence(Phase::BodyProgress));
        let before = metrics::of_this_thread(Counter::TimeoutsBody);
        let ended = ended(events);
        assert_eq!(ended.outcome(), Outcome::Refused(Status(408)), "{target}");
        assert_eq!(ended.statuses(), [408]);
        let counted = metrics::of_this_thread(Counter::TimeoutsBody) - before;
        assert_eq!(counted, 1);
    }
}

#[test]
fn the_last_wait_for_a_body_is_no_longer_than_what_is_left() {
    let wire = Wire(Rc::default());
    let test = Test::new([]);
    let mut events = drip("/echo", Duration::from_secs(29), 10);
    events.push(Silence(Phase::BodyProgress));
    wire.0.borrow_mut().events = events.into();
    let begun = wire.0.borrow().now.monotonic;
    let outcome = run(serve(wire.clone(), wire.clone(), &test.site, &test.context));
    assert_eq!(outcome.unwrap(), Outcome::Refused(Status(408)));
    let passed = wire.0.borrow().now.monotonic - begun;
    assert_eq!(passed, Timeouts::default().body);
}

#[test]
fn a_body_that_comes_after_its_time_is_not_waited_for() {
    let mut test = Test::new([
        post("/echo", "Content-Length: 3", ""),
        Passes(Duration::from_secs(20)),
        data("a"),
        Passes(Duration::from_secs(20)),
        data("b"),
        data("c"),
    ]);
    test.context.timeouts.body = Duration::from_secs(40);
    // The wheel that ends the wait is coarse: the time may be over with no expiry seen.
    let ended = test.run();
    assert_eq!(ended.statuses(), [408]);
    assert_eq!(ended.script.events.len(), 0, "the rest is lingered for");
}

#[test]
fn the_time_for_a_body_begins_anew_with_each_request() {
    let slow = || {
        vec![
            post("/echo", "Content-Length: 2", ""),
            Passes(Duration::from_secs(20)),
            data("a"),
            Passes(Duration::from_secs(15)),
            data("b"),
        ]
    };
    let mut test = Test::new([slow(), slow(), slow()].concat());
    test.context.timeouts.body = Duration::from_secs(40);
    assert_eq!(test.run().statuses(), [200, 200, 200]);
}
