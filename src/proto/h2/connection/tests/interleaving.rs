//! Many streams at once, in any order: every byte arrives, and no window is overrun.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Action {
    Open { incremental: bool, urgency: u8 },
    Reset(prop::sample::Index),
    Respond(prop::sample::Index, usize),
    Window(prop::sample::Index, u32),
    ConnectionWindow(u32),
    InitialWindow(u32),
    Send,
    Pass(u64),
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        4 => (any::<bool>(), 0u8..8).prop_map(|(incremental, urgency)| Action::Open { incremental, urgency }),
        1 => any::<prop::sample::Index>().prop_map(Action::Reset),
        4 => (any::<prop::sample::Index>(), prop_oneof![0usize..100, 0usize..100_000])
            .prop_map(|(index, bytes)| Action::Respond(index, bytes)),
        4 => (any::<prop::sample::Index>(), prop_oneof![1u32..100, 1u32..100_000])
            .prop_map(|(index, bytes)| Action::Window(index, bytes)),
        2 => (1u32..200_000).prop_map(Action::ConnectionWindow),
        1 => (0u32..100_000).prop_map(Action::InitialWindow),
        4 => Just(Action::Send),
        1 => (0u64..5000).prop_map(Action::Pass),
    ]
}

/// What the client knows of a stream.
#[derive(Default)]
struct Known {
    window: i64,
    response: Option<usize>,
    received: Vec<u8>,
    is_over: bool,
}

struct Model {
    client: Client,
    streams: BTreeMap<StreamId, Known>,
    window: i64,
    initial: i64,
    next: StreamId,
}

impl Model {
    fn pick(&self, index: &prop::sample::Index) -> Option<StreamId> {
        let open: Vec<_> = self
            .streams
            .iter()
            .filter(|(_, known)| !known.is_over)
            .collect();
        (!open.is_empty()).then(|| *open[index.index(open.len())].0)
    }

    fn act(&mut self, action: &Action) {
        match action {
            Action::Open {
                incremental,
                urgency,
            } => {
                let priority = format!("u={urgency}{}", if *incremental { ", i" } else { "" });
                let fields = [&GET[..], &[("priority", &priority)]].concat();
                let id = self.next;
                self.next += 2;
                let headers = self.client.headers(id, &fields, true);
                self.client.send(&headers).unwrap();
                let window = self.initial;
                self.streams.insert(
                    id,
                    Known {
                        window,
                        ..Known::default()
                    },
                );
            }
            Action::Reset(index) => {
                if let Some(id) = self.pick(index) {
                    self.client.send(&rst(id)).unwrap();
                    self.streams.get_mut(&id).unwrap().is_over = true;
                    self.client.now_ms += 60;
                }
            }
            Action::Respond(index, size) => {
                if let Some(id) = self.pick(index)
                    && self.streams[&id].response.is_none()
                {
                    self.client.respond(id, Body::Bytes(bytes(*size)));
                    self.streams.get_mut(&id).unwrap().response = Some(*size);
                }
            }
            Action::Window(index, increment) => {
                if let Some(id) = self.pick(index) {
                    self.client.send(&window(id, *increment)).unwrap();
                    self.streams.get_mut(&id).unwrap().window += i64::from(*increment);
                }
            }
            Action::ConnectionWindow(increment) => {
                self.client.send(&window(0, *increment)).unwrap();
                self.window += i64::from(*increment);
            }
            Action::InitialWindow(initial) => {
                self.client.now_ms += 1000;
                self.client.send(&settings(&[(4, *initial)])).unwrap();
                for known in self.streams.values_mut() {
                    known.window += i64::from(*initial) - self.initial;
                }
                self.initial = i64::from(*initial);
            }
            Action::Send => {
                let got = self.client.receive_once();
                self.receive(&got);
            }
            Action::Pass(ms) => self.client.now_ms += ms,
        }
        self.client.requests();
    }

    fn receive(&mut self, got: &[Got]) {
        for frame in got {
            match frame {
                Got::Headers {
                    stream,
                    status,
                    end,
                    ..
                } => {
                    let known = self.streams.get_mut(stream).unwrap();
                    if *status == 200 {
                        known.is_over |= end;
                    } else {
                        known.is_over = true;
                    }
                }
                Got::Data {
                    stream,
                    content,
                    end,
                } => {
                    let known = self.streams.get_mut(stream).unwrap();
                    assert!(!known.is_over, "content for a stream that is over");
                    known.received.extend_from_slice(content);
                    known.window -= content.len() as i64;
                    self.window -= content.len() as i64;
                    assert!(content.is_empty() || (known.window >= 0 && self.window >= 0));
                    assert!(content.len() <= 16_384);
                    if *end {
                        assert_eq!(Some(known.received.len()), known.response);
                        assert!(known.received == bytes(known.received.len()));
                        known.is_over = true;
                    }
                }
                Got::Reset(stream, ErrorCode::RefusedStream) => {
                    self.streams.get_mut(stream).unwrap().is_over = true;
                }
                Got::SettingsAck => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn every_byte_arrives_within_the_windows(actions in prop::collection::vec(action(), 1..400)) {
        let mut model = Model {
            client: Client::new(),
            streams: BTreeMap::new(),
            window: 65_535,
            initial: 65_535,
            next: 1,
        };
        for action in &actions {
            model.act(action);
        }
        // In the end the client opens everything, and all that was answered arrives.
        let unanswered: Vec<_> = model.streams.iter()
            .filter(|(_, known)| !known.is_over && known.response.is_none())
            .map(|(id, _)| *id)
            .collect();
        for id in unanswered {
            model.client.respond(id, Body::Bytes(bytes(77)));
            model.streams.get_mut(&id).unwrap().response = Some(77);
        }
        model.act(&Action::ConnectionWindow(100_000_000));
        model.act(&Action::InitialWindow(10_000_000));
        let got = model.client.receive();
        model.receive(&got);
        prop_assert!(model.streams.values().all(|known| known.is_over));
        prop_assert!(!model.client.connection.is_serving());
    }
}
