//! What a peer knows: frames both ways, the windows that it opened, and what was sent on each stream.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "most frames change nothing here, or must not come"
)]

use std::collections::BTreeMap;

use portcullis::proto::h2::ErrorCode;
use portcullis::proto::h2::frame::{Decoder, Frame, Role, match_preface};
use portcullis::proto::h2::hpack::{self, Bounds, HeaderList};

use super::{PREFACE, StreamId};

/// Follows one side, `role`.
pub(super) struct Mirror {
    role: Role,
    /// Of what the side receives, while that can be read.
    heard: Option<Decoder>,
    input: Vec<u8>,
    awaits_preface: bool,
    /// Of what it sends.
    sent: Decoder,
    hpack: hpack::Decoder,
    has_preface: bool,
    /// What the side may send on all streams.
    window: i64,
    /// What each stream may be sent at first.
    initial: i64,
    /// The highest stream that the side has heard HEADERS of.
    heard_of: StreamId,
    /// It has acknowledged SETTINGS.
    pub(super) has_acknowledged: bool,
    pub(super) streams: BTreeMap<StreamId, Seen>,
    /// An error has ended the connection.
    is_over: bool,
}

/// What went over one stream.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Window updates less the content that was sent.
    credit: i64,
    /// The status of the response, or zero for a request, once it was sent.
    pub(super) status: Option<u16>,
    /// What content-length leaves.
    left: Option<u64>,
    /// Bytes of DATA frames.
    pub(super) frame_bytes: u64,
    pub(super) has_ended: bool,
    pub(super) is_reset: bool,
    /// The content that came, up to its end.
    pub(super) content: Vec<u8>,
    pub(super) content_ended: bool,
}

impl Mirror {
    pub(super) fn of(role: Role) -> Self {
        Self {
            role,
            heard: Some(Decoder::new(role)),
            input: Vec::new(),
            awaits_preface: role == Role::Server,
            sent: Decoder::new(match role {
                Role::Server => Role::Client,
                Role::Client => Role::Server,
            }),
            hpack: hpack::Decoder::new(),
            has_preface: role == Role::Server,
            window: 65_535,
            initial: 65_535,
            heard_of: 0,
            has_acknowledged: false,
            streams: BTreeMap::new(),
            is_over: false,
        }
    }

    /// The side receives `bytes`.
    pub(super) fn hear(&mut self, bytes: &[u8]) {
        let Some(decoder) = &mut self.heard else {
            return;
        };
        self.input.extend_from_slice(bytes);
        let mut consumed = 0;
        if self.awaits_preface {
            match match_preface(&self.input) {
                None => return,
                Some(true) => consumed = PREFACE.len(),
                Some(false) => {
                    self.heard = None;
                    return;
                }
            }
            self.awaits_preface = false;
        }
        loop {
            let decoded = match decoder.decode(&self.input[consumed..]) {
                Ok(Some(decoded)) => decoded,
                Ok(None) => break,
                Err(_) => {
                    self.heard = None;
                    return;
                }
            };
            consumed += decoded.consumed;
            match decoded.frame {
                Frame::Headers(headers) => {
                    self.heard_of = self.heard_of.max(headers.stream);
                    let seen = self.streams.entry(headers.stream).or_default();
                    seen.content_ended |= headers.end_stream;
                }
                Frame::Faulty(error) => self.heard_of = self.heard_of.max(error.stream),
                Frame::Data(data) => {
                    let seen = self.streams.entry(data.stream).or_default();
                    if !seen.content_ended {
                        seen.content.extend_from_slice(data.content);
                        seen.content_ended = data.end_stream;
                    }
                }
                Frame::Settings { payload } => {
                    for entry in payload.as_chunks::<6>().0 {
                        let [0, kind, value @ ..] = *entry else {
                            continue;
                        };
                        let value = u32::from_be_bytes(value);
                        match kind {
                            1 => self.hpack.set_size_limit(value),
                            4 => self.initial = value.into(),
                            _ => {}
                        }
                    }
                }
                Frame::SettingsAck => self.has_acknowledged = true,
                Frame::WindowUpdate { stream, increment } => match stream {
                    0 => self.window += i64::from(increment),
                    id => self.streams.entry(id).or_default().credit += i64::from(increment),
                },
                _ => {}
            }
        }
        self.input.drain(..consumed);
    }

    /// The side sends `bytes`: whole frames, each allowed.
    pub(super) fn see(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        if !self.has_preface {
            rest = rest.strip_prefix(PREFACE).expect("the preface first");
            self.has_preface = true;
        }
        while !rest.is_empty() {
            assert!(!self.is_over, "a frame behind the last GOAWAY");
            let (frame, consumed) = match self.sent.decode(rest) {
                Ok(Some(decoded)) => (decoded.frame, decoded.consumed),
                other => panic!("no frame: {other:?}"),
            };
            rest = &rest[consumed..];
            match frame {
                Frame::Headers(headers) => {
                    let mut list = HeaderList::default();
                    let decoded = self.hpack.decode(headers.block, &BOUNDS, &mut list);
                    decoded.expect("a block that can be read");
                    let seen = seen(&mut self.streams, headers.stream);
                    seen.see_head(self.role, &list, headers.end_stream);
                }
                Frame::Data(data) => {
                    let seen = seen(&mut self.streams, data.stream);
                    let bytes = i64::from(data.flow_bytes);
                    seen.credit -= bytes;
                    self.window -= bytes;
                    if bytes > 0 {
                        assert!(self.window >= 0, "the connection's window is overrun");
                        assert!(self.initial + seen.credit >= 0, "a window is overrun");
                    }
                    seen.see_data(data.content.len(), data.end_stream);
                    seen.frame_bytes += consumed as u64;
                }
                Frame::RstStream { stream, .. } => {
                    let known = match self.role {
                        Role::Server => stream <= self.heard_of,
                        Role::Client => self.streams.get(&stream).is_some_and(Seen::has_head),
                    };
                    assert!(known, "an idle stream is reset");
                    // RFC 9113 5.4.2: more than once it should not be; a frame that is faulty by
                    // itself is answered whatever its stream has become.
                    self.streams.entry(stream).or_default().is_reset = true;
                }
                Frame::WindowUpdate { stream: 0, .. } => {}
                Frame::WindowUpdate { stream, .. } => {
                    seen(&mut self.streams, stream);
                }
                Frame::GoAway { code, .. } => self.is_over = code != ErrorCode::No,
                Frame::Settings { .. }
                | Frame::SettingsAck
                | Frame::Ping(_)
                | Frame::PingAck(_) => {}
                other => panic!("{other:?} is sent"),
            }
        }
    }
}

/// The stream, on which something is sent.
fn seen(streams: &mut BTreeMap<StreamId, Seen>, id: StreamId) -> &mut Seen {
    assert!(id % 2 == 1, "stream {id}");
    let seen = streams.entry(id).or_default();
    assert!(!seen.is_reset, "stream {id} goes on behind its reset");
    seen
}

impl Seen {
    fn has_head(&self) -> bool {
        self.status.is_some()
    }

    fn see_head(&mut self, role: Role, list: &HeaderList, end_stream: bool) {
        assert!(!self.has_ended, "fields behind the end");
        for (name, value) in list.iter() {
            assert!(!name.is_empty() && !name.iter().any(u8::is_ascii_uppercase));
            assert!(!value.iter().any(|byte| b"\r\n\0".contains(byte)));
        }
        let first = list.iter().next().expect("fields");
        if self.has_head() {
            assert!(end_stream && !first.0.starts_with(b":"), "trailers");
            assert!(matches!(self.left, None | Some(0)), "{self:?}");
        } else if role == Role::Server {
            let (b":status", &[a, b, c]) = first else {
                panic!("{first:?}");
            };
            let status = [a, b, c]
                .iter()
                .fold(0, |n, d| n * 10 + u16::from(d - b'0'));
            if status < 200 {
                assert!(!end_stream);
                return;
            }
            self.status = Some(status);
            self.left = length_of(list);
        } else {
            self.status = Some(0);
            self.left = length_of(list);
        }
        self.has_ended = end_stream;
    }

    fn see_data(&mut self, bytes: usize, end_stream: bool) {
        assert!(self.has_head() && !self.has_ended, "{self:?}");
        assert!(bytes > 0 || end_stream, "a frame for nothing");
        if let Some(left) = &mut self.left {
            let rest = left.checked_sub(bytes as u64);
            *left = rest.expect("no more than content-length");
            assert!(!end_stream || *left == 0, "less than content-length");
        }
        self.has_ended = end_stream;
    }
}

fn length_of(list: &HeaderList) -> Option<u64> {
    let mut fields = list.iter();
    let (_, value) = fields.find(|(name, _)| *name == b"content-length")?;
    let value = std::str::from_utf8(value).expect("digits");
    Some(value.parse().expect("a number"))
}

const BOUNDS: Bounds = Bounds {
    list_bytes_max: 1 << 20,
    fields_max: 1000,
};
