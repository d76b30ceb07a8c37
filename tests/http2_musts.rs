//! What RFC 9113, 7541, 9218 and 8441 demand of a server and an intermediary, and the tests that hold it.
//!
//! Requirements on clients alone, on pushes (none are sent or taken) and on TLS libraries are left out.

#![expect(
    clippy::unwrap_used,
    reason = "in a test's helpers a panic is the verdict"
)]

use std::collections::BTreeSet;
use std::path::Path;

/// Section, requirement, and the tests, of which the first is the closest.
type Must = (&'static str, &'static str, &'static [&'static str]);

const RFC9113: &[Must] = &[
    (
        "3.2",
        "over TLS, HTTP/2 is spoken where ALPN chose it",
        &["rfc9113_3_2_http2_is_spoken_where_it_is_agreed_on"],
    ),
    (
        "3.3",
        "prior knowledge on cleartext connections",
        &["rfc9113_3_3_prior_knowledge_on_a_plain_listener"],
    ),
    (
        "3.4",
        "the server's preface is a SETTINGS frame, the first that it sends",
        &[
            "rfc9113_3_4_our_settings_are_the_first_frame",
            "rfc9113_3_4_the_servers_preface_is_settings",
        ],
    ),
    (
        "3.4",
        "an invalid connection preface is a connection error",
        &[
            "rfc9113_3_4_the_preface_may_come_in_parts_and_must_be_right",
            "rfc9113_3_4_the_first_frame_is_settings",
        ],
    ),
    (
        "4.1",
        "frames of unknown types are ignored and discarded",
        &["rfc9113_4_1_and_5_5_unknown_types_are_ignored"],
    ),
    (
        "4.1",
        "undefined flags and the reserved bit are ignored",
        &["rfc9113_4_1_the_reserved_bit_and_undefined_flags_are_ignored"],
    ),
    (
        "4.2",
        "frames up to 16384 bytes are taken, larger ones are FRAME_SIZE_ERROR",
        &[
            "rfc9113_4_2_a_frame_larger_than_allowed_ends_the_connection",
            "rfc9113_4_2_a_frame_over_the_maximum_size_is_refused_from_its_header",
        ],
    ),
    (
        "4.3",
        "a field block that cannot be decoded is COMPRESSION_ERROR",
        &[
            "rfc9113_4_3_a_block_that_cannot_be_decoded_ends_the_connection",
            "rfc9113_4_3_a_response_whose_trailers_cannot_be_read_is_not_complete",
        ],
    ),
    (
        "4.3",
        "field blocks of streams that are not served are decoded all the same",
        &["rfc9113_4_3_blocks_of_refused_streams_are_decoded_all_the_same"],
    ),
    (
        "5.1",
        "idle: anything but HEADERS and PRIORITY is PROTOCOL_ERROR",
        &[
            "rfc9113_5_1_frames_on_idle_streams_end_the_connection",
            "rfc9113_5_1_idle_streams_take_nothing_but_headers",
            "rfc9113_5_1_nothing_comes_for_a_stream_that_waits_to_be_sent",
        ],
    ),
    (
        "5.1",
        "half-closed (remote): other frames than WINDOW_UPDATE, PRIORITY, RST_STREAM are STREAM_CLOSED",
        &[
            "rfc9113_5_1_data_after_the_request_is_a_stream_error",
            "rfc9113_5_1_half_closed_remote_takes_no_more_content",
        ],
    ),
    (
        "5.1",
        "closed: after END_STREAM or RST_STREAM of the peer, frames are STREAM_CLOSED",
        &[
            "rfc9113_5_1_a_peer_sends_nothing_after_its_own_reset",
            "rfc9113_5_1_closed_streams_refuse_content_and_ignore_late_control_frames",
        ],
    ),
    (
        "5.1",
        "closed: what was on its way when this side reset is ignored, and counted for flow control",
        &[
            "rfc9113_5_1_what_was_on_the_way_after_our_reset_is_ignored",
            "rfc9113_5_1_what_was_on_the_way_to_a_stream_we_reset_is_ignored",
            "a_dropped_stream_is_reset_and_holds_nothing",
        ],
    ),
    (
        "5.1.1",
        "identifiers of clients are odd and rise; others are PROTOCOL_ERROR",
        &[
            "rfc9113_5_1_1_stream_identifiers_are_odd_and_rise",
            "rfc9113_5_1_1_stream_numbers_are_odd_and_rise",
        ],
    ),
    (
        "5.1.1",
        "a server's stream that was not promised is PROTOCOL_ERROR",
        &["rfc9113_5_1_1_a_server_opens_no_streams"],
    ),
    (
        "5.1.2",
        "streams over SETTINGS_MAX_CONCURRENT_STREAMS are PROTOCOL_ERROR or REFUSED_STREAM",
        &[
            "rfc9113_5_1_2_one_stream_too_many_is_refused",
            "rfc9113_5_1_2_a_stream_too_many_is_refused_until_one_is_removed",
        ],
    ),
    (
        "5.1.2",
        "no more streams are opened than the peer allows",
        &[
            "rfc9113_5_1_2_the_servers_bound_on_streams_is_kept",
            "streams_and_connections_are_bounded_and_the_rest_waits",
        ],
    ),
    (
        "5.2.2",
        "flow control bounds what is sent and held; frames of the connection are read on",
        &[
            "rfc9113_6_9_the_connections_window_holds_all_back",
            "windows_agree_and_never_stall",
            "a_full_socket_does_not_stop_the_reader_before_its_bound",
        ],
    ),
    (
        "5.3.1",
        "a stream does not depend on itself (RFC 7540, deprecated)",
        &["rfc9113_5_3_1_a_stream_cannot_depend_on_itself"],
    ),
    (
        "5.4.1",
        "after a connection error GOAWAY is sent and the connection closed",
        &["rfc9113_5_4_1_an_error_ends_all_streams"],
    ),
    (
        "5.4.2",
        "a stream error is RST_STREAM, and none answers a RST_STREAM",
        &[
            "rfc9113_6_4_rst_stream_ends_the_response",
            "rfc9113_8_1_1_malformed_requests_are_stream_errors",
            "rfc9113_5_4_2_a_stream_is_reset_once",
        ],
    ),
    (
        "5.5",
        "extension frames within a field block are PROTOCOL_ERROR",
        &["rfc9113_5_5_unknown_frames_are_ignored_but_not_within_a_block"],
    ),
    (
        "6.1",
        "DATA on stream zero is PROTOCOL_ERROR",
        &["rfc9113_6_1_data_needs_a_stream"],
    ),
    (
        "6.1",
        "padding as long as the payload is PROTOCOL_ERROR",
        &["rfc9113_6_1_and_6_2_padding_as_long_as_the_payload_is_refused"],
    ),
    (
        "6.1",
        "the whole payload, padding too, counts for flow control",
        &[
            "rfc9113_6_1_padding_counts_for_flow_control_and_is_given_back",
            "rfc9113_6_1_data_padding_counts_for_flow_control_but_is_no_content",
        ],
    ),
    (
        "6.2",
        "HEADERS on stream zero are PROTOCOL_ERROR",
        &["rfc9113_6_2_headers_need_a_stream_and_room_for_their_fields"],
    ),
    (
        "6.3",
        "PRIORITY on stream zero is PROTOCOL_ERROR, of another length FRAME_SIZE_ERROR of the stream",
        &["rfc9113_6_3_priority_rules"],
    ),
    (
        "6.4",
        "RST_STREAM on stream zero or an idle one is PROTOCOL_ERROR, of another length FRAME_SIZE_ERROR",
        &[
            "rfc9113_6_4_rst_stream_rules",
            "rfc9113_5_1_frames_on_idle_streams_end_the_connection",
        ],
    ),
    (
        "6.5",
        "SETTINGS: on a stream PROTOCOL_ERROR; an ACK with a payload or a length of no multiple of six \
         FRAME_SIZE_ERROR",
        &["rfc9113_6_5_settings_rules"],
    ),
    (
        "6.5.2",
        "values out of their ranges",
        &[
            "rfc9113_6_5_2_values_out_of_range_are_refused",
            "rfc9113_6_5_2_a_server_must_not_enable_pushes",
        ],
    ),
    (
        "6.5.2",
        "unknown settings are ignored",
        &["rfc9113_6_5_2_unknown_settings_are_ignored"],
    ),
    (
        "6.5.3",
        "settings are applied in order and acknowledged at once",
        &[
            "rfc9113_6_5_settings_are_acknowledged_each",
            "rfc9113_6_5_3_the_last_value_holds",
            "rfc9113_6_5_3_own_settings_hold_once_acknowledged",
        ],
    ),
    (
        "6.5.3",
        "SETTINGS_TIMEOUT where no acknowledgement comes",
        &["rfc9113_6_5_3_settings_must_be_acknowledged_in_time"],
    ),
    (
        "6.6, 8.4",
        "PUSH_PROMISE is PROTOCOL_ERROR, from a client and where it was not enabled",
        &[
            "rfc9113_8_4_and_6_5_2_push_promise_is_refused",
            "rfc9113_8_4_a_client_cannot_push",
            "rfc9113_5_1_1_a_server_opens_no_streams",
        ],
    ),
    (
        "6.7",
        "PING is answered with its bytes; on a stream PROTOCOL_ERROR, of another length FRAME_SIZE_ERROR",
        &[
            "rfc9113_6_7_pings_are_answered_with_their_bytes",
            "rfc9113_6_7_ping_rules",
        ],
    ),
    (
        "6.8",
        "GOAWAY on a stream is PROTOCOL_ERROR; the last stream never rises",
        &[
            "rfc9113_6_8_goaway_rules",
            "rfc9113_6_8_a_drain_takes_two_steps_and_serves_what_comes_between",
        ],
    ),
    (
        "6.8",
        "after GOAWAY no new streams are opened; those above the last were not processed",
        &[
            "rfc9113_8_7_what_was_not_processed_is_told_apart",
            "rfc9113_6_8_after_the_clients_goaway_its_streams_are_finished",
            "rfc9113_6_8_streams_above_the_goaway_are_ignored",
        ],
    ),
    (
        "6.9",
        "WINDOW_UPDATE of zero: PROTOCOL_ERROR of the stream or connection; of another length \
         FRAME_SIZE_ERROR",
        &[
            "rfc9113_6_9_updates_of_zero_are_errors",
            "rfc9113_6_9_window_update_rules",
        ],
    ),
    (
        "6.9.1",
        "no more is sent than the windows allow; empty frames may be",
        &[
            "rfc9113_6_9_windows_hold_content_back_but_not_heads",
            "bodies_go_both_ways_on_many_streams",
        ],
    ),
    (
        "6.9.1",
        "a window over 2^31-1 is FLOW_CONTROL_ERROR, of the stream or the connection",
        &[
            "rfc9113_6_9_1_windows_over_their_maximum_are_errors",
            "rfc9113_6_9_1_a_send_window_may_reach_but_not_pass_its_maximum",
        ],
    ),
    (
        "6.9.2",
        "a change of the initial size moves all windows, below zero too",
        &[
            "rfc9113_6_9_2_a_smaller_initial_size_makes_a_window_negative",
            "rfc9113_6_9_2_an_initial_size_that_overflows_a_window_is_refused",
        ],
    ),
    (
        "6.10",
        "CONTINUATION without an open block is PROTOCOL_ERROR, and so is anything else within one",
        &[
            "rfc9113_6_10_continuation_needs_an_open_block",
            "rfc9113_6_10_nothing_else_may_come_within_a_block",
        ],
    ),
    (
        "8.1",
        "trailers end the stream; what follows the end is an error",
        &[
            "rfc9113_8_1_trailers_must_end_the_stream",
            "rfc9113_8_1_trailers_are_checked",
        ],
    ),
    (
        "8.1",
        "a complete response may be followed by RST_STREAM (NO_ERROR), and is not discarded for it",
        &[
            "rfc9113_8_1_an_early_response_is_complete_and_stops_the_body",
            "rfc9113_8_1_a_reset_behind_a_whole_response_takes_nothing_away",
        ],
    ),
    (
        "8.1.1",
        "malformed messages are not passed on: stream errors of type PROTOCOL_ERROR",
        &[
            "rfc9113_8_1_1_malformed_requests_are_stream_errors",
            "rfc9113_8_1_1_malformed_responses_end_their_stream_only",
        ],
    ),
    (
        "8.1.1",
        "content-length equals what DATA carries",
        &[
            "rfc9113_8_1_1_a_content_length_must_be_right",
            "rfc9113_8_1_1_content_length_agrees_with_the_end_of_the_stream",
            "rfc9113_8_1_1_content_must_be_as_long_as_declared",
        ],
    ),
    (
        "8.2",
        "field names are sent in lower case",
        &["rfc9113_8_2_request_fields_leave_in_lower_case_and_without_the_connections"],
    ),
    (
        "8.2.1",
        "names and values of forbidden characters are malformed",
        &[
            "rfc9113_8_2_1_field_names_and_values",
            "rfc9113_8_2_malformed_fields_of_responses_are_refused",
        ],
    ),
    (
        "8.2.2",
        "connection-specific fields are not sent, and malformed where they come; TE is trailers alone",
        &[
            "rfc9113_8_2_2_connection_specific_fields",
            "rfc9113_8_2_request_fields_leave_in_lower_case_and_without_the_connections",
            "rfc9113_8_2_malformed_fields_of_responses_are_refused",
        ],
    ),
    (
        "8.2.3",
        "cookies that come apart are joined before they are passed on",
        &[
            "rfc9113_8_2_3_cookies_are_joined_for_the_message",
            "rfc9113_8_2_3_cookies_that_came_apart_are_one_field",
        ],
    ),
    (
        "8.3",
        "pseudo-header fields: known, once each, before the others, none in trailers",
        &[
            "rfc9113_8_3_pseudo_fields_are_known_single_and_first",
            "rfc9113_8_1_trailers_have_no_pseudo_fields",
        ],
    ),
    (
        "8.3.1",
        "a request has :method, :scheme and :path, not empty; :authority and host agree",
        &[
            "rfc9113_8_3_1_mandatory_pseudo_fields",
            "rfc9113_8_3_1_path_and_scheme",
            "rfc9113_8_3_1_authority_and_host",
            "rfc9113_8_3_1_odd_requests_arrive_as_they_were_asked",
            "a_head_becomes_fields",
        ],
    ),
    (
        "8.3.2",
        "a response has :status, and no other",
        &["rfc9113_8_3_2_a_response_has_one_status_and_no_other_pseudo_header"],
    ),
    (
        "8.5",
        "CONNECT has :authority, and neither :scheme nor :path",
        &[
            "rfc9113_8_5_connect_is_refused",
            "rfc9113_8_5_connect_is_not_offered",
        ],
    ),
    (
        "8.6",
        "there is no 101",
        &["rfc9113_8_6_there_is_no_101_and_no_interim_end"],
    ),
    (
        "8.7",
        "requests are sent again only where that is safe, and not without a bound",
        &["rfc9113_8_7_what_a_server_has_not_begun_is_sent_again"],
    ),
    (
        "10.3",
        "what could split or smuggle a message of HTTP/1.1 is not passed on",
        &[
            "rfc9113_10_3_what_is_accepted_is_safe_to_forward",
            "rfc9113_10_3_nothing_is_smuggled_to_a_server_of_http_1",
        ],
    ),
    (
        "10.5",
        "what is cheap to send and costs to receive is bounded",
        &[
            "rfc9113_10_5_each_flood_ends_the_connection_and_only_its_own_budget",
            "compression_bombs_that_are_held",
            "slow_bodies",
            "unfinished_streams",
        ],
    ),
    (
        "10.5.1",
        "a field section that is too large is answered, and its block decoded",
        &[
            "rfc9113_10_5_1_a_header_list_too_large_is_answered",
            "rfc9113_10_5_1_a_list_over_its_bytes_is_dropped_but_the_table_kept_in_step",
        ],
    ),
];

const RFC7541: &[Must] = &[
    (
        "2.3.3, 6.1",
        "index zero, and one behind the tables, are decoding errors",
        &["rfc7541_6_1_index_zero_and_indexes_behind_the_tables_are_refused"],
    ),
    (
        "4.2",
        "a reduction is announced at the start of the next block, the smallest size first",
        &[
            "rfc7541_4_2_a_smaller_peer_table_is_announced_and_obeyed",
            "rfc7541_4_2_the_smallest_size_between_two_blocks_is_announced_first",
            "rfc7541_4_2_an_acknowledged_reduction_must_be_obeyed",
            "rfc7541_4_2_size_updates_only_begin_a_block_and_are_two_at_most",
        ],
    ),
    (
        "4.3, 4.4",
        "entries are evicted until the table fits",
        &[
            "rfc7541_4_3_a_smaller_table_evicts_the_oldest",
            "rfc7541_4_4_a_field_larger_than_the_table_empties_it",
        ],
    ),
    (
        "5.1",
        "integers over the limits are decoding errors",
        &["rfc7541_5_1_integers_over_the_limits_are_refused"],
    ),
    (
        "5.2",
        "padding over seven bits or other than ones, and EOS, are decoding errors",
        &[
            "rfc7541_5_2_padding_over_seven_bits_is_refused",
            "rfc7541_5_2_padding_other_than_ones_is_refused",
            "rfc7541_5_2_eos_within_a_string_is_refused",
        ],
    ),
    (
        "6.3",
        "a size over the limit is a decoding error",
        &["rfc7541_6_3_a_size_over_the_limit_is_refused"],
    ),
    (
        "7.1.3",
        "what must never be indexed is not",
        &["rfc7541_7_1_3_secrets_are_never_indexed"],
    ),
];

const RFC9218: &[Must] = &[
    (
        "4",
        "unknown parameters, values out of range and of other types are ignored",
        &[
            "rfc9218_4_unknown_and_unfit_members_are_ignored",
            "rfc9218_4_urgency_and_incremental",
        ],
    ),
    (
        "7.1",
        "PRIORITY_UPDATE: on a stream or of stream zero PROTOCOL_ERROR, from a server too; for streams to \
         come it is kept within bounds",
        &[
            "rfc9218_7_1_priority_update_rules",
            "rfc9218_7_1_priority_updates_before_and_after_the_request",
        ],
    ),
    (
        "10",
        "the more urgent first; incremental ones share",
        &[
            "rfc9218_10_the_more_urgent_go_first",
            "rfc9218_10_incremental_ones_share_and_others_are_whole",
        ],
    ),
];

const RFC8441: &[Must] = &[
    (
        "3",
        "SETTINGS_ENABLE_CONNECT_PROTOCOL is 0 or 1 and is not taken back; :protocol is used only where \
         it is allowed",
        &[
            "rfc8441_3_extended_connect_cannot_be_taken_back",
            "rfc8441_5_through_http2_on_both_sides",
        ],
    ),
    (
        "4",
        "with :protocol CONNECT has :scheme and :path; no other method has it",
        &[
            "rfc8441_4_extended_connect",
            "rfc8441_4_a_malformed_extended_connect_is_refused",
        ],
    ),
    (
        "5",
        "a WebSocket is a 2xx, without key and upgrade; the stream's end is the connection's",
        &[
            "rfc8441_5_through_http2_on_both_sides",
            "through_both_versions",
        ],
    ),
];

#[test]
fn every_requirement_is_held_by_tests_that_there_are() {
    let mut functions = BTreeSet::new();
    for folder in ["src", "tests"] {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
        collect(&root, &mut functions);
    }
    assert!(functions.len() > 1000, "{}", functions.len());
    for (section, requirement, tests) in [RFC9113, RFC7541, RFC9218, RFC8441].concat() {
        assert!(!tests.is_empty(), "{section}: {requirement}");
        for test in tests {
            assert!(functions.contains(*test), "{section}: no test {test}");
        }
    }
    assert!(!functions.contains("a_test_that_nobody_has_written_yet"));
}

/// A test that says a section in its name is entered here: what it holds would be missed otherwise.
#[test]
fn every_test_of_a_section_is_entered() {
    let mut functions = BTreeSet::new();
    collect(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("src/proto/h2"),
        &mut functions,
    );
    let all = [RFC9113, RFC7541, RFC9218, RFC8441].concat();
    let sections: BTreeSet<String> = all
        .iter()
        .flat_map(|(sections, _, _)| sections.split(", "))
        .map(|section| section.replace('.', "_"))
        .collect();
    for function in functions {
        let Some(rest) = function.strip_prefix("rfc9113_") else {
            continue;
        };
        let known = sections
            .iter()
            .any(|section| rest.starts_with(&format!("{section}_")));
        assert!(known, "{function} names a section that the table lacks");
    }
}

/// The names of the functions in all Rust files below `folder`.
fn collect(folder: &Path, functions: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, functions);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            for (_, rest) in text
                .match_indices("fn ")
                .map(|(at, _)| text.split_at(at + 3))
            {
                let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
                let name: String = rest.chars().take_while(|&c| is_name(c)).collect();
                functions.insert(name);
            }
        }
    }
}
