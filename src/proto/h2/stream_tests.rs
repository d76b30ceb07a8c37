use std::collections::BTreeSet;

use super::*;
use crate::proto::h2::flow::{WINDOW_BYTES_INITIAL, WINDOW_BYTES_MAX};
use proptest::prelude::*;

const CONCURRENT_MAX: usize = 3;

fn opening(end_stream: bool, content_length: Option<u64>) -> Opening {
    Opening {
        end_stream,
        content_length,
        send: SendWindow::new(WINDOW_BYTES_INITIAL),
        receive: ReceiveWindow::new(100, 100),
        priority: Priority::default(),
    }
}

/// Streams with stream 1 open for a body of that content-length.
fn with_open(content_length: Option<u64>) -> Streams<()> {
    let mut streams = Streams::new(Role::Server, CONCURRENT_MAX);
    assert_eq!(streams.handle_headers(1, false), Ok(HeadersRole::Request));
    streams.open(1, opening(false, content_length), ());
    streams
}

fn data(stream: StreamId, content: &[u8], end_stream: bool) -> Data<'_> {
    Data {
        stream,
        content,
        content_start: 9,
        flow_bytes: u32::try_from(content.len()).unwrap(),
        end_stream,
    }
}

/// What taking that DATA did: whether a stream took it, or what it ends.
fn take(streams: &mut Streams<()>, frame: &Data<'_>) -> Result<bool, (bool, ErrorCode)> {
    streams
        .handle_data(frame)
        .map(|stream| stream.is_some())
        .map_err(scope)
}

fn scope(violation: Violation) -> (bool, ErrorCode) {
    match violation {
        Violation::Connection(error) => (CONNECTION, error.code),
        Violation::Stream(error) => (STREAM, error.code),
    }
}

fn headers(
    streams: &mut Streams<()>,
    id: StreamId,
    end: bool,
) -> Result<HeadersRole, (bool, ErrorCode)> {
    streams.handle_headers(id, end).map_err(scope)
}

const CONNECTION: bool = true;
const STREAM: bool = false;

#[test]
fn rfc9113_5_1_a_stream_from_idle_to_closed() {
    let mut streams = with_open(Some(5));
    assert_eq!(take(&mut streams, &data(1, b"abc", false)), Ok(true));
    assert_eq!(streams.get(1).unwrap().state(), State::Open);
    assert_eq!(take(&mut streams, &data(1, b"de", true)), Ok(true));
    assert_eq!(streams.get(1).unwrap().state(), State::HalfClosedRemote);
    streams.end_sending(1);
    assert_eq!(streams.get(1).unwrap().state(), State::Closed);
    assert!(streams.remove(1) && streams.is_empty());
}

#[test]
fn rfc9113_5_1_a_response_may_end_before_the_request() {
    let mut streams = with_open(None);
    streams.end_sending(1);
    assert_eq!(streams.get(1).unwrap().state(), State::HalfClosedLocal);
    assert_eq!(take(&mut streams, &data(1, b"a", false)), Ok(true));
    assert_eq!(headers(&mut streams, 1, true), Ok(HeadersRole::Trailers));
    assert_eq!(streams.get(1).unwrap().state(), State::Closed);
}

#[test]
fn rfc9113_5_1_idle_streams_take_nothing_but_headers() {
    let mut streams = with_open(None);
    for id in [3, 2, 0] {
        assert_eq!(
            take(&mut streams, &data(id, b"", false)),
            Err((CONNECTION, ErrorCode::Protocol))
        );
        assert_eq!(
            streams.handle_reset(id).unwrap_err().code,
            ErrorCode::Protocol
        );
        let update = streams
            .handle_window_update(id, 1)
            .map(|_| ())
            .map_err(scope);
        assert_eq!(update, Err((CONNECTION, ErrorCode::Protocol)));
    }
}

#[test]
fn rfc9113_5_1_half_closed_remote_takes_no_more_content() {
    let mut streams = with_open(None);
    take(&mut streams, &data(1, b"", true)).unwrap();
    let closed = Err((STREAM, ErrorCode::StreamClosed));
    assert_eq!(take(&mut streams, &data(1, b"x", false)), closed);
    assert_eq!(headers(&mut streams, 1, true).map(|_| true), closed);
    // But updates of its window.
    assert!(streams.handle_window_update(1, 1).unwrap().is_some());
}

#[test]
fn rfc9113_5_1_closed_streams_refuse_content_and_ignore_late_control_frames() {
    let mut streams = with_open(None);
    take(&mut streams, &data(1, b"", true)).unwrap();
    streams.end_sending(1);
    streams.remove(1);
    assert_eq!(
        take(&mut streams, &data(1, b"", false)),
        Err((STREAM, ErrorCode::StreamClosed))
    );
    assert_eq!(
        headers(&mut streams, 1, true),
        Err((CONNECTION, ErrorCode::StreamClosed))
    );
    assert!(streams.handle_reset(1).unwrap().is_none());
    assert!(streams.handle_window_update(1, 1).unwrap().is_none());
}

#[test]
fn rfc9113_5_1_what_was_on_the_way_to_a_stream_we_reset_is_ignored() {
    for removed in [false, true] {
        let mut streams = with_open(None);
        streams.reset(1);
        if removed {
            streams.remove(1);
        }
        assert_eq!(take(&mut streams, &data(1, b"late", false)), Ok(false));
        assert_eq!(headers(&mut streams, 1, true), Ok(HeadersRole::Late));
        assert!(streams.handle_reset(1).unwrap().is_none());
    }
}

#[test]
fn rfc9113_5_1_a_peer_sends_nothing_after_its_own_reset() {
    let mut streams = with_open(None);
    assert!(streams.handle_reset(1).unwrap().is_some());
    assert!(streams.handle_reset(1).unwrap().is_none());
    assert_eq!(
        take(&mut streams, &data(1, b"x", false)),
        Err((STREAM, ErrorCode::StreamClosed))
    );
    assert_eq!(
        headers(&mut streams, 1, true),
        Err((CONNECTION, ErrorCode::StreamClosed))
    );
}

#[test]
fn rfc9113_5_1_1_stream_numbers_are_odd_and_rise() {
    let mut streams = with_open(None);
    assert_eq!(
        headers(&mut streams, 2, true),
        Err((CONNECTION, ErrorCode::Protocol))
    );
    assert_eq!(
        headers(&mut streams, 0, true),
        Err((CONNECTION, ErrorCode::Protocol))
    );
    assert_eq!(headers(&mut streams, 9, true), Ok(HeadersRole::Request));
    streams.open(9, opening(true, None), ());
    // 5.1.1: opening 9 has closed all idle ones below.
    assert_eq!(
        headers(&mut streams, 7, true),
        Err((CONNECTION, ErrorCode::StreamClosed))
    );
    assert_eq!(streams.last(), 9);
}

#[test]
fn rfc9113_5_1_2_a_stream_too_many_is_refused_until_one_is_removed() {
    let mut streams = Streams::new(Role::Server, CONCURRENT_MAX);
    for id in [1, 3, 5] {
        headers(&mut streams, id, true).unwrap();
        streams.open(id, opening(true, None), ());
    }
    assert_eq!(
        headers(&mut streams, 7, false),
        Err((STREAM, ErrorCode::RefusedStream))
    );
    // The body that was already on its way.
    assert_eq!(take(&mut streams, &data(7, b"x", true)), Ok(false));
    // Rapid reset: a stream that the peer resets keeps its place while it is served.
    streams.handle_reset(3).unwrap();
    assert_eq!(
        headers(&mut streams, 9, true),
        Err((STREAM, ErrorCode::RefusedStream))
    );
    assert!(streams.remove(3));
    assert_eq!(headers(&mut streams, 11, true), Ok(HeadersRole::Request));
}

#[test]
fn rfc9113_6_8_streams_above_the_goaway_are_ignored() {
    let mut streams = with_open(None);
    streams.stop_opening();
    assert_eq!(headers(&mut streams, 3, false), Ok(HeadersRole::Late));
    assert_eq!(take(&mut streams, &data(3, b"x", true)), Ok(false));
    assert_eq!(take(&mut streams, &data(1, b"x", true)), Ok(true));
    streams.stop_opening();
    assert_eq!(streams.last(), 1);
}

#[test]
fn rfc9113_6_9_1_a_stream_window_overrun_ends_the_stream() {
    let mut streams = with_open(None);
    assert_eq!(take(&mut streams, &data(1, &[0; 100], false)), Ok(true));
    assert_eq!(
        take(&mut streams, &data(1, b"x", false)),
        Err((STREAM, ErrorCode::FlowControl))
    );
}

#[test]
fn rfc9113_6_9_1_and_6_9_2_send_windows_over_the_maximum() {
    let mut streams = with_open(None);
    let update = streams
        .handle_window_update(1, WINDOW_BYTES_MAX)
        .map(|_| ())
        .map_err(scope);
    assert_eq!(update, Err((STREAM, ErrorCode::FlowControl)));
    streams
        .handle_window_update(1, WINDOW_BYTES_MAX - WINDOW_BYTES_INITIAL)
        .unwrap();
    let change = streams.change_initial_send_window(WINDOW_BYTES_INITIAL, WINDOW_BYTES_INITIAL + 1);
    assert_eq!(change.unwrap_err().code, ErrorCode::FlowControl);
    streams
        .change_initial_send_window(WINDOW_BYTES_INITIAL, 0)
        .unwrap();
    let available = streams.get(1).unwrap().send.available();
    assert_eq!(available, WINDOW_BYTES_MAX - WINDOW_BYTES_INITIAL);
}

#[test]
fn rfc9113_8_1_1_content_must_be_as_long_as_declared() {
    let malformed = Err((STREAM, ErrorCode::Protocol));
    let mut streams = with_open(Some(3));
    assert_eq!(take(&mut streams, &data(1, b"abcd", false)), malformed);
    let mut streams = with_open(Some(3));
    assert_eq!(take(&mut streams, &data(1, b"ab", true)), malformed);
    let mut streams = with_open(Some(3));
    take(&mut streams, &data(1, b"ab", false)).unwrap();
    assert_eq!(headers(&mut streams, 1, true).map(|_| true), malformed);
}

#[test]
fn rfc9113_8_1_trailers_must_end_the_stream() {
    let mut streams = with_open(None);
    assert_eq!(
        headers(&mut streams, 1, false),
        Err((STREAM, ErrorCode::Protocol))
    );
}

/// Ending one moves none of the others, whatever they hold, and costs the next no memory.
#[test]
fn streams_stay_where_they_are_and_their_places_are_used_again() {
    let places = |streams: &mut Streams<[u8; 256]>| -> Vec<_> {
        let place = |stream: &mut Stream<_>| (stream.id(), std::ptr::from_ref(stream).addr());
        streams.iter_mut().map(place).collect()
    };
    let open = |streams: &mut Streams<[u8; 256]>, id: StreamId| {
        assert_eq!(streams.handle_headers(id, true), Ok(HeadersRole::Request));
        streams.open(id, opening(true, None), [id.to_be_bytes()[3]; 256]);
    };
    let mut streams = Streams::new(Role::Server, 100);
    (0..100).for_each(|n| open(&mut streams, 2 * n + 1));
    let first = places(&mut streams);
    let is_ended = |id: StreamId| id % 7 < 3 || id == 1;
    for &(id, _) in first.iter().filter(|(id, _)| is_ended(*id)) {
        assert!(streams.remove(id) && !streams.remove(id));
    }
    let (ended, left): (Vec<_>, Vec<_>) = first.iter().copied().partition(|(id, _)| is_ended(*id));
    assert_eq!(places(&mut streams), left);
    (0..ended.len()).for_each(|n| open(&mut streams, u32::try_from(2 * n).unwrap() + 201));
    let second = places(&mut streams);
    assert_eq!(second[..left.len()], left);
    let of = |places: &[(StreamId, usize)]| -> BTreeSet<_> {
        places.iter().map(|&(_, place)| place).collect()
    };
    assert_eq!(of(&first), of(&second));
    assert!(streams.free.is_empty());
    // A connection that rests keeps few of them.
    for (id, _) in second {
        assert!(streams.remove(id));
    }
    assert_eq!(streams.free.len(), FREE_PLACES_MAX);
}

#[derive(Clone, Debug)]
enum Step {
    Headers(StreamId, bool),
    Data(StreamId, usize, bool),
    PeerReset(StreamId),
    Update(StreamId, u32),
    EndSending(StreamId),
    Reset(StreamId),
    Remove(StreamId),
    Drain,
}

fn step() -> impl Strategy<Value = Step> {
    let id = || 0..16_u32;
    prop_oneof![
        6 => (id(), any::<bool>()).prop_map(|(id, end)| Step::Headers(id, end)),
        6 => (id(), 0..60_usize, any::<bool>()).prop_map(|(id, n, end)| Step::Data(id, n, end)),
        2 => id().prop_map(Step::PeerReset),
        2 => (id(), 1..=WINDOW_BYTES_MAX).prop_map(|(id, n)| Step::Update(id, n)),
        3 => id().prop_map(Step::EndSending),
        2 => id().prop_map(Step::Reset),
        3 => id().prop_map(Step::Remove),
        1 => Just(Step::Drain),
    ]
}

proptest! {
    /// Whatever comes, the table stays bounded and sorted, and content reaches only streams whose
    /// request is not complete.
    #[test]
    fn any_order_of_events_keeps_the_table_in_order(steps in prop::collection::vec(step(), 0..80)) {
        let mut streams = Streams::new(Role::Server, CONCURRENT_MAX);
        for step in steps {
            match step {
                Step::Headers(id, end) => {
                    let last = streams.last;
                    if streams.handle_headers(id, end) == Ok(HeadersRole::Request) {
                        prop_assert!(id > last && id % 2 == 1);
                        streams.open(id, opening(end, None), ());
                    }
                }
                Step::Data(id, length, end) => {
                    let before = streams.get(id).map(|stream| stream.state());
                    let content = vec![0; length];
                    if take(&mut streams, &data(id, &content, end)) == Ok(true) {
                        let open = matches!(before, Some(State::Open | State::HalfClosedLocal));
                        prop_assert!(open);
                    }
                }
                Step::PeerReset(id) => {
                    let _ = streams.handle_reset(id);
                }
                Step::Update(id, increment) => {
                    let _ = streams.handle_window_update(id, increment);
                }
                Step::EndSending(id) => {
                    streams.end_sending(id);
                }
                Step::Reset(id) => streams.reset(id),
                Step::Remove(id) => {
                    streams.remove(id);
                }
                Step::Drain => streams.stop_opening(),
            }
            prop_assert!(streams.len() + streams.free.len() <= CONCURRENT_MAX);
            prop_assert!(streams.free.iter().all(|place| place.is_none()));
            let ids: Vec<_> = streams.iter_mut().map(|stream| stream.id()).collect();
            prop_assert!(ids.is_sorted_by(|a, b| a < b));
            prop_assert!(streams.recently_reset.len() <= H2_RESETS_REMEMBERED);
        }
    }
}
