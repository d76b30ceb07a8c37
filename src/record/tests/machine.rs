//! The rules for records after the handshake, each by the section that makes it.

use proptest::prelude::*;
use rustls::AlertDescription;

use crate::limits::{
    EMPTY_RECORDS_MAX, HANDSHAKE_BYTES_MAX, KEY_UPDATE_WINDOW_MS, KEY_UPDATES_PER_WINDOW_MAX,
    RENEGOTIATIONS_REFUSED_MAX, SESSION_TICKET_BYTES_MAX, SESSION_TICKETS_MAX, WARNING_ALERTS_MAX,
};
use crate::record::{Event, PostHandshake, Role, Version, encode};

const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const DATA: u8 = 23;
const BOTH: [Version; 2] = [Version::Tls12, Version::Tls13];
const KEY_UPDATE: [u8; 5] = [24, 0, 0, 1, 0];

fn after(version: Version, records: &[(u8, &[u8])]) -> PostHandshake {
    let mut machine = PostHandshake::new(version);
    for (kind, payload) in records {
        machine.on_record(*kind, payload, 0).unwrap();
    }
    machine
}

fn event(version: Version, kind: u8, payload: &[u8]) -> Event {
    after(version, &[]).on_record(kind, payload, 0).unwrap()
}

fn alert(version: Version, kind: u8, payload: &[u8]) -> AlertDescription {
    after(version, &[])
        .on_record(kind, payload, 0)
        .unwrap_err()
        .alert
}

/// A ClientHello as far as this side looks at it.
fn client_hello(body_bytes: usize) -> Vec<u8> {
    let mut message = (body_bytes as u32).to_be_bytes().to_vec();
    message[0] = 1;
    message.resize(4 + body_bytes, 0x42);
    message
}

#[test]
fn application_data_is_data() {
    for version in BOTH {
        assert_eq!(event(version, DATA, b"x"), Event::Data);
        assert_eq!(event(version, DATA, &[0; 16_384]), Event::Data);
    }
}

#[test]
fn rfc8446_5_1_empty_application_data_is_allowed_but_not_without_end() {
    for version in BOTH {
        let mut machine = after(version, &[]);
        for _ in 0..3 {
            for _ in 0..EMPTY_RECORDS_MAX {
                assert_eq!(machine.on_record(DATA, b"", 0), Ok(Event::Nothing));
            }
            assert_eq!(machine.on_record(DATA, b"x", 0), Ok(Event::Data));
        }
        for _ in 0..EMPTY_RECORDS_MAX {
            machine.on_record(DATA, b"", 0).unwrap();
        }
        let error = machine.on_record(DATA, b"", 0).unwrap_err();
        assert_eq!(error.alert, AlertDescription::UnexpectedMessage);
    }
}

#[test]
fn rfc8446_5_4_empty_handshake_and_alert_records_are_unexpected_message() {
    for version in BOTH {
        for kind in [HANDSHAKE, ALERT] {
            assert_eq!(
                alert(version, kind, b""),
                AlertDescription::UnexpectedMessage
            );
        }
    }
    let mut within = after(Version::Tls13, &[(HANDSHAKE, &KEY_UPDATE[..2])]);
    let error = within.on_record(HANDSHAKE, b"", 0).unwrap_err();
    assert_eq!(error.alert, AlertDescription::UnexpectedMessage);
}

#[test]
fn rfc8446_5_unknown_types_and_change_cipher_spec_are_unexpected_message() {
    for version in BOTH {
        for kind in (0..=255).filter(|kind| !(ALERT..=DATA).contains(kind)) {
            let alert = alert(version, kind, &[1]);
            assert_eq!(alert, AlertDescription::UnexpectedMessage, "type {kind}");
        }
    }
}

#[test]
fn rfc8446_5_1_an_alert_record_is_exactly_one_alert() {
    for version in BOTH {
        for payload in [&[1][..], &[1, 0, 1], &[1, 0, 1, 0]] {
            assert_eq!(
                alert(version, ALERT, payload),
                AlertDescription::DecodeError
            );
        }
    }
}

#[test]
fn rfc8446_6_1_close_notify_ends_the_session_and_what_follows_is_ignored() {
    for version in BOTH {
        for level in [1, 2] {
            assert_eq!(event(version, ALERT, &[level, 0]), Event::CloseNotify);
        }
        let mut closed = after(version, &[(ALERT, &[1, 0])]);
        for (kind, payload) in [
            (DATA, &b"late"[..]),
            (ALERT, &[2, 20]),
            (99, b""),
            (HANDSHAKE, &[9]),
        ] {
            assert_eq!(closed.on_record(kind, payload, 0), Ok(Event::CloseNotify));
        }
    }
}

#[test]
fn rfc8446_6_2_error_alerts_are_fatal_at_any_level_in_tls13() {
    for level in [0, 1, 2, 255] {
        for code in (1..=255).filter(|code| *code != 90) {
            let expected = Event::FatalAlert(AlertDescription::from(code));
            assert_eq!(event(Version::Tls13, ALERT, &[level, code]), expected);
        }
    }
    let mut failed = after(Version::Tls13, &[(ALERT, &[2, 20])]);
    let expected = Event::FatalAlert(AlertDescription::BadRecordMac);
    assert_eq!(failed.on_record(DATA, b"late", 0), Ok(expected));
}

#[test]
fn rfc8446_6_1_user_canceled_is_no_error_and_close_notify_may_follow() {
    let mut machine = after(Version::Tls13, &[]);
    assert_eq!(machine.on_record(ALERT, &[1, 90], 0), Ok(Event::Nothing));
    assert_eq!(machine.on_record(ALERT, &[1, 0], 0), Ok(Event::CloseNotify));
}

#[test]
fn warning_alerts_without_data_between_them_are_bounded() {
    for version in BOTH {
        let mut machine = after(version, &[]);
        for _ in 0..3 {
            for _ in 0..WARNING_ALERTS_MAX {
                assert_eq!(machine.on_record(ALERT, &[1, 90], 0), Ok(Event::Nothing));
            }
            machine.on_record(DATA, b"x", 0).unwrap();
        }
        for _ in 0..WARNING_ALERTS_MAX {
            machine.on_record(ALERT, &[1, 90], 0).unwrap();
            machine.on_record(DATA, b"", 0).unwrap();
        }
        let error = machine.on_record(ALERT, &[1, 90], 0).unwrap_err();
        assert_eq!(error.alert, AlertDescription::UnexpectedMessage);
    }
}

#[test]
fn rfc5246_7_2_the_level_decides_in_tls12() {
    assert_eq!(event(Version::Tls12, ALERT, &[1, 112]), Event::Nothing);
    let fatal = Event::FatalAlert(AlertDescription::UnrecognisedName);
    assert_eq!(event(Version::Tls12, ALERT, &[2, 112]), fatal);
    for level in [0, 3, 255] {
        let alert = alert(Version::Tls12, ALERT, &[level, 112]);
        assert_eq!(alert, AlertDescription::IllegalParameter);
    }
}

#[test]
fn rfc8446_4_6_3_key_update_asks_for_a_reply_or_not() {
    for (value, reply) in [(0, false), (1, true)] {
        let message = [24, 0, 0, 1, value];
        assert_eq!(
            event(Version::Tls13, HANDSHAKE, &message),
            Event::KeyUpdate { reply }
        );
        assert_eq!(encode::key_update(reply), message);
    }
}

#[test]
fn rfc8446_4_6_3_another_request_value_is_illegal_parameter() {
    for value in 2..=255 {
        let alert = alert(Version::Tls13, HANDSHAKE, &[24, 0, 0, 1, value]);
        assert_eq!(alert, AlertDescription::IllegalParameter);
    }
}

#[test]
fn rfc8446_4_6_3_another_length_is_decode_error() {
    for length in [[0, 0, 0], [0, 0, 2], [0, 1, 1], [1, 0, 1]] {
        let message = [24, length[0], length[1], length[2], 0];
        assert_eq!(
            alert(Version::Tls13, HANDSHAKE, &message),
            AlertDescription::DecodeError
        );
        assert_eq!(
            alert(Version::Tls13, HANDSHAKE, &message[..4]),
            AlertDescription::DecodeError
        );
    }
}

#[test]
fn rfc8446_5_1_a_key_update_may_come_in_parts() {
    for cut in 1..5 {
        let mut machine = after(Version::Tls13, &[(HANDSHAKE, &KEY_UPDATE[..cut])]);
        assert!(machine.is_mid_message());
        let event = machine.on_record(HANDSHAKE, &KEY_UPDATE[cut..], 0);
        assert_eq!(event, Ok(Event::KeyUpdate { reply: false }));
        assert!(!machine.is_mid_message());
        assert_eq!(machine.on_record(DATA, b"x", 0), Ok(Event::Data));
    }
    let mut machine = after(Version::Tls13, &[]);
    for byte in &KEY_UPDATE[..4] {
        assert_eq!(
            machine.on_record(HANDSHAKE, &[*byte], 0),
            Ok(Event::Nothing)
        );
    }
    assert_eq!(
        machine.on_record(HANDSHAKE, &[1], 0),
        Ok(Event::KeyUpdate { reply: true })
    );
}

#[test]
fn rfc8446_5_1_handshake_messages_are_not_interleaved_with_other_records() {
    let parts = [
        (Version::Tls13, &KEY_UPDATE[..3]),
        (Version::Tls12, &[1, 0, 0, 9, 7]),
    ];
    for (version, part) in parts {
        for (kind, payload) in [(DATA, &b"x"[..]), (DATA, b""), (ALERT, &[1, 0]), (20, &[1])] {
            let mut machine = after(version, &[(HANDSHAKE, part)]);
            let error = machine.on_record(kind, payload, 0).unwrap_err();
            assert_eq!(error.alert, AlertDescription::UnexpectedMessage);
        }
    }
}

#[test]
fn rfc8446_5_1_a_key_update_ends_its_record() {
    let two = [KEY_UPDATE, KEY_UPDATE].concat();
    for payload in [&two[..6], &two[..]] {
        assert_eq!(
            alert(Version::Tls13, HANDSHAKE, payload),
            AlertDescription::UnexpectedMessage
        );
    }
    let mut machine = after(Version::Tls13, &[(HANDSHAKE, &two[..2])]);
    let error = machine.on_record(HANDSHAKE, &two[2..7], 0).unwrap_err();
    assert_eq!(error.alert, AlertDescription::UnexpectedMessage);
}

#[test]
fn rfc8446_4_6_other_handshake_messages_are_unexpected_message() {
    for kind in (0..=255).filter(|kind| *kind != 24) {
        let alert = alert(Version::Tls13, HANDSHAKE, &[kind, 0, 0, 1, 0]);
        assert_eq!(alert, AlertDescription::UnexpectedMessage, "message {kind}");
    }
}

#[test]
fn rfc8446_4_1_2_a_client_hello_after_the_handshake_is_unexpected_message_in_tls13() {
    let hello = client_hello(200);
    assert_eq!(
        alert(Version::Tls13, HANDSHAKE, &hello),
        AlertDescription::UnexpectedMessage
    );
}

#[test]
fn key_updates_are_rate_limited() {
    let mut machine = after(Version::Tls13, &[]);
    let mut now_ms = 5_000;
    for window in 0..3 {
        for update in 0..KEY_UPDATES_PER_WINDOW_MAX {
            let event = machine.on_record(HANDSHAKE, &KEY_UPDATE, now_ms);
            assert_eq!(
                event,
                Ok(Event::KeyUpdate { reply: false }),
                "{window}, {update}"
            );
        }
        now_ms += KEY_UPDATE_WINDOW_MS;
    }
    now_ms -= 1;
    let error = machine
        .on_record(HANDSHAKE, &KEY_UPDATE, now_ms)
        .unwrap_err();
    assert_eq!(error.alert, AlertDescription::UnexpectedMessage);
}

#[test]
fn rfc8446_4_6_3_key_updates_do_not_exist_in_tls12() {
    let alert = alert(Version::Tls12, HANDSHAKE, &KEY_UPDATE);
    assert_eq!(alert, AlertDescription::UnexpectedMessage);
}

#[test]
fn rfc5246_7_2_2_a_renegotiation_is_refused_with_a_warning_and_then_fatal() {
    let hello = client_hello(300);
    let mut machine = after(Version::Tls12, &[]);
    for _ in 0..RENEGOTIATIONS_REFUSED_MAX {
        let event = machine.on_record(HANDSHAKE, &hello, 0);
        assert_eq!(event, Ok(Event::RefuseRenegotiation));
        assert_eq!(machine.on_record(DATA, b"goes on", 0), Ok(Event::Data));
    }
    let error = machine.on_record(HANDSHAKE, &hello[..1], 0).unwrap_err();
    assert_eq!(error.alert, AlertDescription::UnexpectedMessage);
    assert_eq!(encode::alert(AlertDescription::NoRenegotiation), [1, 100]);
}

#[test]
fn rfc5246_6_2_1_a_renegotiation_may_come_in_parts() {
    let hello = client_hello(40);
    for cut in 1..hello.len() {
        let mut machine = after(Version::Tls12, &[(HANDSHAKE, &hello[..cut])]);
        assert!(machine.is_mid_message());
        let event = machine.on_record(HANDSHAKE, &hello[cut..], 0);
        assert_eq!(event, Ok(Event::RefuseRenegotiation), "cut at {cut}");
        assert!(!machine.is_mid_message());
    }
}

#[test]
fn rfc5246_7_4_1_2_a_renegotiation_is_bounded_and_alone() {
    let longest = (HANDSHAKE_BYTES_MAX as u32).to_be_bytes();
    let machine = after(
        Version::Tls12,
        &[(HANDSHAKE, &[1, longest[1], longest[2], longest[3]])],
    );
    assert!(machine.is_mid_message());
    let too_long = (HANDSHAKE_BYTES_MAX as u32 + 1).to_be_bytes();
    let header = [1, too_long[1], too_long[2], too_long[3]];
    assert_eq!(
        alert(Version::Tls12, HANDSHAKE, &header),
        AlertDescription::DecodeError
    );

    let mut two = client_hello(30);
    two.push(1);
    assert_eq!(
        alert(Version::Tls12, HANDSHAKE, &two),
        AlertDescription::UnexpectedMessage
    );
    for kind in (0..=255).filter(|kind| *kind != 1) {
        let alert = alert(Version::Tls12, HANDSHAKE, &[kind, 0, 0, 0]);
        assert_eq!(alert, AlertDescription::UnexpectedMessage, "message {kind}");
    }
}

#[test]
fn rfc8446_6_our_alerts_have_the_level_of_their_description() {
    for code in 0..=255 {
        let description = AlertDescription::from(code);
        let level = if matches!(code, 0 | 90 | 100) { 1 } else { 2 };
        assert_eq!(encode::alert(description), [level, code]);
        assert_eq!(
            encode::plaintext_alert_record(description),
            [21, 3, 3, 0, 2, level, code]
        );
    }
}

/// Records as a hostile peer would choose them: near the rules, and anywhere.
fn record() -> impl Strategy<Value = (u8, Vec<u8>)> {
    let bytes = || proptest::collection::vec(any::<u8>(), 0..12);
    prop_oneof![
        (any::<u8>(), bytes()),
        Just((DATA, b"data".to_vec())),
        Just((DATA, Vec::new())),
        (
            Just(ALERT),
            proptest::collection::vec(prop_oneof![Just(1), Just(90), any::<u8>()], 2)
        ),
        (0..=5_usize).prop_map(|cut| (HANDSHAKE, KEY_UPDATE[..cut].to_vec())),
        (0..=5_usize).prop_map(|cut| (HANDSHAKE, KEY_UPDATE[cut..].to_vec())),
        (0..40_usize, 0..44_usize).prop_map(|(body, cut)| {
            let hello = client_hello(body);
            (HANDSHAKE, hello[..cut.min(hello.len())].to_vec())
        }),
    ]
}

proptest! {
    #[test]
    fn no_records_panic_or_mean_what_they_cannot(
        tls13 in any::<bool>(), records in proptest::collection::vec((record(), 0..20_000_u64), 1..80),
    ) {
        let version = if tls13 { Version::Tls13 } else { Version::Tls12 };
        let mut machine = PostHandshake::new(version);
        let (mut now_ms, mut ended) = (0, None);
        for ((kind, payload), wait_ms) in records {
            now_ms += wait_ms;
            let Ok(event) = machine.on_record(kind, &payload, now_ms) else { break };
            if let Some(ended) = ended {
                prop_assert_eq!(event, ended);
            }
            match event {
                Event::Data => {
                    prop_assert!(kind == DATA && !payload.is_empty());
                                    }
                Event::Nothing => {}
                Event::KeyUpdate { .. } => prop_assert!(tls13),
                Event::RefuseRenegotiation => prop_assert!(!tls13),
                Event::CloseNotify | Event::FatalAlert(_) => ended = Some(event),
            }
        }
    }

    #[test]
    fn any_split_of_a_key_update_gives_one_event(
        cuts in proptest::collection::btree_set(1..5_usize, 0..4), request in 0..2_u8,
    ) {
        let message = [24, 0, 0, 1, request];
        let mut machine = PostHandshake::new(Version::Tls13);
        let mut start = 0;
        for cut in &cuts {
            prop_assert_eq!(machine.on_record(HANDSHAKE, &message[start..*cut], 0), Ok(Event::Nothing));
            start = *cut;
        }
        let event = machine.on_record(HANDSHAKE, &message[start..], 0);
        prop_assert_eq!(event, Ok(Event::KeyUpdate { reply: request == 1 }));
    }
}

fn client(version: Version) -> PostHandshake {
    PostHandshake::of(version, Role::Client)
}

/// A NewSessionTicket as far as this side looks at it.
fn ticket(content: &[u8]) -> Vec<u8> {
    let mut message = (content.len() as u32).to_be_bytes().to_vec();
    message[0] = 4;
    message.extend_from_slice(content);
    message
}

#[test]
fn rfc8446_4_6_1_tickets_are_kept_however_they_are_cut() {
    let large = vec![7; 3000];
    let messages = [
        ticket(b"one"),
        ticket(&large),
        ticket(b""),
        KEY_UPDATE.to_vec(),
    ]
    .concat();
    for cut in [1, 2, 3, 4, 5, 7, 100, 3000, messages.len()] {
        let mut machine = client(Version::Tls13);
        let mut tickets = Vec::new();
        let mut events = Vec::new();
        for part in messages.chunks(cut) {
            events.push(machine.on_record(HANDSHAKE, part, 0).unwrap());
            tickets.extend(machine.take_tickets());
        }
        assert_eq!(
            tickets,
            [b"one".to_vec(), large.clone(), Vec::new()],
            "{cut}"
        );
        assert_eq!(
            events.pop(),
            Some(Event::KeyUpdate { reply: false }),
            "{cut}"
        );
        assert!(events.iter().all(|&event| event == Event::Nothing), "{cut}");
        assert!(!machine.is_mid_message());
        assert_eq!(machine.on_record(DATA, b"x", 0), Ok(Event::Data));
    }
}

#[test]
fn tickets_beyond_the_bounds_are_passed_over() {
    let mut machine = client(Version::Tls13);
    let too_long = ticket(&vec![0; SESSION_TICKET_BYTES_MAX + 1]);
    for part in too_long.chunks(16_384) {
        assert_eq!(machine.on_record(HANDSHAKE, part, 0), Ok(Event::Nothing));
    }
    assert_eq!(machine.take_tickets(), Vec::<Vec<u8>>::new());
    let mut kept = 0;
    for _ in 0..2 * SESSION_TICKETS_MAX {
        let event = machine.on_record(HANDSHAKE, &ticket(b"x"), 0);
        assert_eq!(event, Ok(Event::Nothing));
        kept += machine.take_tickets().len();
    }
    assert_eq!(kept, SESSION_TICKETS_MAX as usize - 1);
    assert_eq!(machine.on_record(DATA, b"x", 0), Ok(Event::Data));
}

#[test]
fn what_a_server_may_not_send_after_the_handshake() {
    // RFC 8446 4.6.2: post-handshake authentication was not offered.
    for message in [&[13, 0, 0, 0][..], &client_hello(10), &[2], &[0, 0, 0, 0]] {
        let refused = client(Version::Tls13).on_record(HANDSHAKE, message, 0);
        assert_eq!(
            refused.unwrap_err().alert,
            AlertDescription::UnexpectedMessage
        );
    }
    let refused = client(Version::Tls13).on_record(HANDSHAKE, &[4, 0xff, 0, 0], 0);
    assert_eq!(refused.unwrap_err().alert, AlertDescription::DecodeError);
    let mut machine = client(Version::Tls13);
    machine
        .on_record(HANDSHAKE, &ticket(b"abc")[..5], 0)
        .unwrap();
    let refused = machine.on_record(DATA, b"x", 0);
    assert_eq!(
        refused.unwrap_err().alert,
        AlertDescription::UnexpectedMessage
    );
    let behind = [&KEY_UPDATE[..], &ticket(b"x")].concat();
    let refused = client(Version::Tls13).on_record(HANDSHAKE, &behind, 0);
    assert_eq!(
        refused.unwrap_err().alert,
        AlertDescription::UnexpectedMessage
    );
}

#[test]
fn a_client_sends_no_tickets() {
    assert_eq!(
        alert(Version::Tls13, HANDSHAKE, &ticket(b"x")),
        AlertDescription::UnexpectedMessage
    );
}

#[test]
fn rfc5246_7_4_1_1_a_hello_request_is_refused_and_the_next_one_ends_it() {
    let mut machine = client(Version::Tls12);
    for _ in 0..RENEGOTIATIONS_REFUSED_MAX {
        let event = machine.on_record(HANDSHAKE, &[0, 0, 0, 0], 0);
        assert_eq!(event, Ok(Event::RefuseRenegotiation));
    }
    assert!(machine.on_record(HANDSHAKE, &[0, 0, 0, 0], 0).is_err());
    let long = client(Version::Tls12).on_record(HANDSHAKE, &[0, 0, 0, 1, 9], 0);
    assert_eq!(long.unwrap_err().alert, AlertDescription::DecodeError);
    let hello = client(Version::Tls12).on_record(HANDSHAKE, &client_hello(10), 0);
    assert_eq!(
        hello.unwrap_err().alert,
        AlertDescription::UnexpectedMessage
    );
}
