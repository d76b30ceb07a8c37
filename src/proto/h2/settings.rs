//! SETTINGS (RFC 9113 6.5, RFC 8441 3, RFC 9218 2.1).

use super::flow::{WINDOW_BYTES_INITIAL, WINDOW_BYTES_MAX};
use super::frame::{PAYLOAD_BYTES_MAX, Role, put_settings};
use super::{ConnectionError, ErrorCode};
use crate::limits::H2_SETTINGS_PER_FRAME_MAX;

/// What one side told the other. Starts with the values of RFC 9113 6.5.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Bytes of the HPACK table that this side decodes with.
    pub header_table_size: u32,
    /// Whether it accepts pushes.
    pub enable_push: bool,
    /// Streams that the other side may have open at once; `None` for any number.
    pub max_concurrent_streams: Option<u32>,
    /// The window that every stream starts with, in bytes.
    pub initial_window_size: u32,
    /// The largest payload that it accepts, in bytes.
    pub max_frame_size: u32,
    /// The largest header list that it accepts, as RFC 9113 6.5.2 counts it; `None` for any size.
    pub max_header_list_size: Option<u32>,
    /// Whether extended CONNECT may be used (RFC 8441 3).
    pub enable_connect_protocol: bool,
    /// Whether it ignores the priorities of RFC 7540 (RFC 9218 2.1).
    pub no_rfc7540_priorities: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            header_table_size: 4096,
            enable_push: true,
            max_concurrent_streams: None,
            initial_window_size: WINDOW_BYTES_INITIAL,
            max_frame_size: 16_384,
            max_header_list_size: None,
            enable_connect_protocol: false,
            no_rfc7540_priorities: false,
        }
    }
}

impl Settings {
    /// Changes to what a SETTINGS frame's `payload` says, in its order, the last value of each
    /// (RFC 9113 6.5.3). `role` is this side's. The caller then adjusts its streams' windows and
    /// acknowledges.
    ///
    /// # Errors
    /// A value that is not allowed, or more of them than anyone has reason to send.
    pub fn apply(&mut self, payload: &[u8], role: Role) -> Result<(), ConnectionError> {
        if payload.len() > H2_SETTINGS_PER_FRAME_MAX * ENTRY_BYTES {
            return Err(ConnectionError::new(
                ErrorCode::EnhanceYourCalm,
                "too many settings in one frame",
            ));
        }
        // The frame decoder refused any other length (6.5).
        for entry in payload.as_chunks::<ENTRY_BYTES>().0 {
            let [i0, i1, v0, v1, v2, v3] = *entry;
            let identifier = u16::from_be_bytes([i0, i1]);
            self.set(identifier, u32::from_be_bytes([v0, v1, v2, v3]), role)?;
        }
        Ok(())
    }

    /// Appends SETTINGS with everything in which `self` differs from `before`, an empty frame if
    /// nothing. Neither "any number" nor "any size" can be said once it was restricted.
    pub fn encode(&self, before: &Self, out: &mut Vec<u8>) {
        let mut entries = [(0, 0); 8];
        let mut count = 0;
        for (value, old) in self.entries().into_iter().zip(before.entries()) {
            if let (identifier, Some(value)) = value
                && old.1 != Some(value)
                && let Some(entry) = entries.get_mut(count)
            {
                *entry = (identifier, value);
                count += 1;
            }
        }
        put_settings(entries.get(..count).unwrap_or_default(), out);
    }

    fn set(&mut self, identifier: u16, value: u32, role: Role) -> Result<(), ConnectionError> {
        match identifier {
            HEADER_TABLE_SIZE => self.header_table_size = value,
            ENABLE_PUSH => {
                self.enable_push = boolean(value)?;
                // RFC 9113 6.5.2: only a client may allow pushes.
                if self.enable_push && role == Role::Client {
                    return Err(protocol("a server that enables pushes"));
                }
            }
            MAX_CONCURRENT_STREAMS => self.max_concurrent_streams = Some(value),
            INITIAL_WINDOW_SIZE if value > WINDOW_BYTES_MAX => {
                return Err(ConnectionError::new(
                    ErrorCode::FlowControl,
                    "an initial window over the maximum",
                ));
            }
            INITIAL_WINDOW_SIZE => self.initial_window_size = value,
            MAX_FRAME_SIZE if !(FRAME_SIZE_LEAST..=FRAME_SIZE_MOST).contains(&value) => {
                return Err(protocol("a maximum frame size out of range"));
            }
            MAX_FRAME_SIZE => self.max_frame_size = value,
            MAX_HEADER_LIST_SIZE => self.max_header_list_size = Some(value),
            ENABLE_CONNECT_PROTOCOL => {
                let enabled = boolean(value)?;
                // RFC 8441 3: "A sender MUST NOT send [it] with the value of 0 after previously
                // sending a value of 1."
                if self.enable_connect_protocol && !enabled {
                    return Err(protocol("extended CONNECT was taken back"));
                }
                self.enable_connect_protocol = enabled;
            }
            NO_RFC7540_PRIORITIES => self.no_rfc7540_priorities = boolean(value)?,
            // RFC 9113 6.5.2: "An endpoint that receives a SETTINGS frame with any unknown or
            // unsupported identifier MUST ignore that setting."
            _ => {}
        }
        Ok(())
    }

    fn entries(&self) -> [(u16, Option<u32>); 8] {
        [
            (HEADER_TABLE_SIZE, Some(self.header_table_size)),
            (ENABLE_PUSH, Some(self.enable_push.into())),
            (MAX_CONCURRENT_STREAMS, self.max_concurrent_streams),
            (INITIAL_WINDOW_SIZE, Some(self.initial_window_size)),
            (MAX_FRAME_SIZE, Some(self.max_frame_size)),
            (MAX_HEADER_LIST_SIZE, self.max_header_list_size),
            (
                ENABLE_CONNECT_PROTOCOL,
                Some(self.enable_connect_protocol.into()),
            ),
            (
                NO_RFC7540_PRIORITIES,
                Some(self.no_rfc7540_priorities.into()),
            ),
        ]
    }
}

/// This side's settings: what the peer has acknowledged, and what it was sent and has not. One
/// change is in flight at a time, so that an acknowledgement says which it is for.
#[derive(Debug, Default)]
pub struct LocalSettings {
    acknowledged: Settings,
    sent: Option<(Settings, u64)>,
}

impl LocalSettings {
    /// What the peer is held to: until a change is acknowledged, the values before it (RFC 9113
    /// 6.5.3).
    pub fn acknowledged(&self) -> &Settings {
        &self.acknowledged
    }

    /// Appends SETTINGS that change to `settings`, at `now_ms`. `false`, and nothing is sent, while
    /// another change waits for its acknowledgement.
    pub fn send(&mut self, settings: Settings, now_ms: u64, out: &mut Vec<u8>) -> bool {
        if self.sent.is_some() {
            return false;
        }
        settings.encode(&self.acknowledged, out);
        self.sent = Some((settings, now_ms));
        true
    }

    /// The peer acknowledged: the settings before, and those that hold from now on. The caller
    /// adjusts receive windows and the HPACK decoder to them.
    ///
    /// # Errors
    /// Nothing was to be acknowledged.
    pub fn handle_ack(&mut self) -> Result<(Settings, Settings), ConnectionError> {
        let (new, _) = self
            .sent
            .take()
            .ok_or(protocol("an acknowledgement of no SETTINGS"))?;
        let old = std::mem::replace(&mut self.acknowledged, new);
        Ok((old, new))
    }

    /// Since when, in milliseconds, an acknowledgement is awaited. A peer that takes too long may be
    /// ended with SETTINGS_TIMEOUT (RFC 9113 6.5.3).
    pub fn awaited_since_ms(&self) -> Option<u64> {
        self.sent.map(|(_, sent_ms)| sent_ms)
    }
}

fn boolean(value: u32) -> Result<bool, ConnectionError> {
    match value {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(protocol("a setting that is neither 0 nor 1")),
    }
}

const fn protocol(reason: &'static str) -> ConnectionError {
    ConnectionError::protocol(reason)
}

const HEADER_TABLE_SIZE: u16 = 0x01;
const ENABLE_PUSH: u16 = 0x02;
const MAX_CONCURRENT_STREAMS: u16 = 0x03;
const INITIAL_WINDOW_SIZE: u16 = 0x04;
const MAX_FRAME_SIZE: u16 = 0x05;
const MAX_HEADER_LIST_SIZE: u16 = 0x06;
const ENABLE_CONNECT_PROTOCOL: u16 = 0x08;
const NO_RFC7540_PRIORITIES: u16 = 0x09;

/// An identifier and a value (RFC 9113 6.5.1).
const ENTRY_BYTES: usize = 6;

/// The range of SETTINGS_MAX_FRAME_SIZE (RFC 9113 6.5.2).
const FRAME_SIZE_LEAST: u32 = 16_384;
const FRAME_SIZE_MOST: u32 = 16_777_215;

const _: () = assert!(PAYLOAD_BYTES_MAX == FRAME_SIZE_LEAST as usize);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::h2::frame::{Decoder, Frame};
    use proptest::prelude::*;

    fn payload(entries: &[(u16, u32)]) -> Vec<u8> {
        let mut out = Vec::new();
        put_settings(entries, &mut out);
        out.split_off(9)
    }

    fn applied(entries: &[(u16, u32)]) -> Result<Settings, ErrorCode> {
        let mut settings = Settings::default();
        let result = settings.apply(&payload(entries), Role::Server);
        result.map(|()| settings).map_err(|error| error.code)
    }

    #[test]
    fn rfc9113_6_5_3_the_last_value_holds() {
        let settings = applied(&[(4, 1), (3, 7), (4, 2)]).unwrap();
        assert_eq!(settings.initial_window_size, 2);
        assert_eq!(settings.max_concurrent_streams, Some(7));
    }

    #[test]
    fn rfc9113_6_5_2_values_out_of_range_are_refused() {
        for (identifier, allowed, refused, code) in [
            (2, &[0, 1][..], &[2, u32::MAX][..], ErrorCode::Protocol),
            (
                4,
                &[0, 0x7fff_ffff],
                &[0x8000_0000, u32::MAX],
                ErrorCode::FlowControl,
            ),
            (
                5,
                &[16_384, 16_777_215],
                &[0, 16_383, 16_777_216],
                ErrorCode::Protocol,
            ),
            (8, &[0, 1], &[2], ErrorCode::Protocol),
            (9, &[0, 1], &[2], ErrorCode::Protocol),
            (1, &[0, u32::MAX], &[], ErrorCode::Protocol),
            (3, &[0, u32::MAX], &[], ErrorCode::Protocol),
            (6, &[0, u32::MAX], &[], ErrorCode::Protocol),
        ] {
            for value in allowed {
                assert!(
                    applied(&[(identifier, *value)]).is_ok(),
                    "{identifier} {value}"
                );
            }
            for value in refused {
                assert_eq!(
                    applied(&[(identifier, *value)]),
                    Err(code),
                    "{identifier} {value}"
                );
            }
        }
    }

    #[test]
    fn rfc9113_6_5_2_unknown_settings_are_ignored() {
        let unknown = [(0, 1), (7, 2), (10, 3), (0x4a4a, u32::MAX)];
        assert_eq!(applied(&unknown), Ok(Settings::default()));
    }

    #[test]
    fn rfc9113_6_5_2_a_server_must_not_enable_pushes() {
        let mut settings = Settings::default();
        let result = settings.apply(&payload(&[(2, 1)]), Role::Client);
        assert_eq!(result.unwrap_err().code, ErrorCode::Protocol);
        assert_eq!(settings.apply(&payload(&[(2, 0)]), Role::Client), Ok(()));
    }

    #[test]
    fn rfc8441_3_extended_connect_cannot_be_taken_back() {
        assert!(applied(&[(8, 1), (8, 1)]).is_ok());
        assert_eq!(applied(&[(8, 1), (8, 0)]), Err(ErrorCode::Protocol));
    }

    #[test]
    fn settings_flood_within_one_frame_is_refused() {
        let entries = vec![(3, 100); H2_SETTINGS_PER_FRAME_MAX];
        assert!(applied(&entries).is_ok());
        let entries = vec![(3, 100); H2_SETTINGS_PER_FRAME_MAX + 1];
        assert_eq!(applied(&entries), Err(ErrorCode::EnhanceYourCalm));
    }

    #[test]
    fn rfc9113_6_5_3_own_settings_hold_once_acknowledged() {
        let mut local = LocalSettings::default();
        let mut out = Vec::new();
        let wanted = Settings {
            initial_window_size: 1 << 20,
            ..Settings::default()
        };
        assert!(local.send(wanted, 5, &mut out));
        assert_eq!(out[9..], payload(&[(4, 1 << 20)]));
        assert_eq!(local.awaited_since_ms(), Some(5));
        assert_eq!(*local.acknowledged(), Settings::default());
        let length = out.len();
        assert!(!local.send(Settings::default(), 6, &mut out));
        assert_eq!(out.len(), length);
        assert_eq!(local.handle_ack(), Ok((Settings::default(), wanted)));
        assert_eq!(local.awaited_since_ms(), None);
        assert_eq!(local.handle_ack().unwrap_err().code, ErrorCode::Protocol);
        assert!(local.send(Settings::default(), 7, &mut out));
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_what_is_applied(
            header_table_size: u32,
            enable_push: bool,
            max_concurrent_streams: Option<u32>,
            initial_window_size in 0..=WINDOW_BYTES_MAX,
            max_frame_size in FRAME_SIZE_LEAST..=FRAME_SIZE_MOST,
            max_header_list_size: Option<u32>,
            enable_connect_protocol: bool,
            no_rfc7540_priorities: bool,
        ) {
            let sent = Settings {
                header_table_size,
                enable_push,
                max_concurrent_streams,
                initial_window_size,
                max_frame_size,
                max_header_list_size,
                enable_connect_protocol,
                no_rfc7540_priorities,
            };
            let mut out = Vec::new();
            sent.encode(&Settings::default(), &mut out);
            let mut decoder = Decoder::new(Role::Server);
            let frame = decoder.decode(&out).unwrap().unwrap().frame;
            let Frame::Settings { payload } = frame else {
                panic!("{frame:?}");
            };
            let mut received = Settings::default();
            received.apply(payload, Role::Server).unwrap();
            prop_assert_eq!(received, sent);
        }

        #[test]
        fn any_payload_leaves_values_in_range(payload in prop::collection::vec(any::<u8>(), 0..60)) {
            let mut settings = Settings::default();
            let _ = settings.apply(&payload, Role::Server);
            prop_assert!(settings.initial_window_size <= WINDOW_BYTES_MAX);
            prop_assert!((FRAME_SIZE_LEAST..=FRAME_SIZE_MOST).contains(&settings.max_frame_size));
        }
    }
}
