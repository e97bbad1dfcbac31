//! For each threat and fault of the list: what it is, and the tests that show what becomes of it.

use std::collections::BTreeSet;
use std::path::Path;

/// Number, what it is, and tests, each as a file and a name in it.
type Entry = (&'static str, &'static str, &'static [(&'static str, &'static str)]);

const SMUGGLING: &str = "tests/suite/attack/smuggling.rs";
const PATHS: &str = "tests/suite/attack/paths.rs";
const NAMES: &str = "tests/suite/attack/names.rs";
const FRAMES: &str = "tests/suite/attack/frames.rs";
const UPSTREAMS: &str = "tests/suite/attack/upstreams.rs";
const FAULTS: &str = "tests/suite/attack/faults.rs";
const PROXY: &str = "tests/suite/reverse_proxy.rs";
const LIMITS: &str = "tests/suite/reverse_proxy/limits.rs";
const FLOODS: &str = "tests/suite/reverse_proxy/limits/frames.rs";
const LIFE: &str = "tests/suite/reverse_proxy/lifecycle.rs";
const NONSENSE: &str = "tests/suite/reverse_proxy/upstreams.rs";
const SOCKETS: &str = "tests/suite/reverse_proxy/websocket.rs";
const TURNS: &str = "tests/suite/reverse_proxy/sever/turns.rs";
const HTTP2: &str = "tests/suite/reverse_proxy/http2.rs";
const TLS: &str = "tests/suite/reverse_proxy/tls.rs";
const ENVOY: &str = "tests/suite/ext_authz.rs";
const ROLES: &str = "tests/suite/roles/lifecycle.rs";
const ISSUERS: &str = "tests/suite/hub/issuers.rs";
const OUTBOUND: &str = "tests/suite/outbound.rs";
const CONFIG: &str = "tests/suite/config.rs";

const INDEX: &[Entry] = &[
    (
        "H1",
        "a length beside a coding",
        &[(SMUGGLING, "a_body_has_one_length"), (PROXY, "length_beside_coding_smuggles_nothing")],
    ),
    ("H2", "a coding in disguise", &[(SMUGGLING, "a_coding_is_chunked_and_said_plainly")]),
    ("H3", "a length that is no number, or there twice", &[(SMUGGLING, "a_body_has_one_length")]),
    (
        "H4",
        "a chunk that ends elsewhere for others",
        &[
            (SMUGGLING, "a_chunk_is_framed_in_one_way"),
            ("src/pep/framing.rs", "chunks_are_framed_in_one_way"),
        ],
    ),
    ("H5", "chunk extensions without end", &[(SMUGGLING, "a_chunk_is_framed_in_one_way")]),
    (
        "H6",
        "trailers that say what a head says",
        &[(SMUGGLING, "trailers_end_here"), ("src/pep/headers.rs", "trailers_say_nothing_of_a_head")],
    ),
    (
        "H7",
        "a coding in HTTP/1.0, a body without a length",
        &[(SMUGGLING, "older_versions_and_other_protocols")],
    ),
    (
        "H8",
        "bytes before a switch, an upgrade to HTTP/2 in clear",
        &[
            (SMUGGLING, "older_versions_and_other_protocols"),
            (SOCKETS, "no_other_upgrade_is_forwarded"),
            (SOCKETS, "an_allowed_one_is_relayed_both_ways"),
        ],
    ),
    ("H9", "a body where none is expected, or that nobody reads", &[(SMUGGLING, "a_body_is_no_request")]),
    (
        "H10",
        "a second request behind one that is allowed",
        &[(SMUGGLING, "a_body_is_no_request"), (PROXY, "each_pipelined_request_is_judged_alone")],
    ),
    (
        "H11",
        "line ends, NULs, folds, spaces and letters that readers disagree on",
        &[(SMUGGLING, "a_head_is_plain"), ("src/pep/framing.rs", "heads_are_framed_in_one_way")],
    ),
    (
        "H12",
        "a path with two readings",
        &[
            (PATHS, "a_path_is_read_once"),
            ("src/core/policy/path.rs", "canonical_forms"),
            ("tests/suite/fuzzed.rs", "a_plainer_reader_reads_the_same"),
        ],
    ),
    ("H13", "a target of another form", &[(PATHS, "a_target_names_no_other_host")]),
    (
        "H14",
        "no host, two, or one in disguise",
        &[
            ("tests/suite/attack/hosts.rs", "there_is_one_host"),
            ("tests/suite/attack/hosts.rs", "a_route_is_its_hosts"),
        ],
    ),
    (
        "H15",
        "names that `Connection` would have dropped",
        &[
            (NAMES, "what_concerns_one_connection_ends_here"),
            ("src/pep/headers.rs", "connection_may_not_name_what_counts"),
        ],
    ),
    (
        "H16",
        "our own headers, sent by a caller",
        &[
            (NAMES, "nobody_else_introduces_a_caller"),
            ("src/pep/headers.rs", "names_are_sorted_by_what_they_fold_to"),
        ],
    ),
    (
        "H17",
        "what only a proxy in front may say",
        &[(NAMES, "what_only_a_proxy_in_front_may_say_is_not_passed_on")],
    ),
    (
        "H18",
        "another method or target in a header",
        &[
            (NAMES, "what_only_a_proxy_in_front_may_say_is_not_passed_on"),
            (ENVOY, "headers_that_name_another_request_are_removed"),
        ],
    ),
    (
        "H19",
        "a header of several values in a policy: policies read none, and two credentials are refused",
        &[
            ("tests/suite/pipeline.rs", "policies_read_context_and_labels"),
            (NAMES, "there_is_one_credential"),
        ],
    ),
    ("H20", "a query that is taken for a path", &[(PATHS, "a_query_is_no_path"), (ENVOY, "rows")]),
    (
        "H21",
        "heads and targets that are too large",
        &[
            (PATHS, "what_is_too_much_is_refused_at_once"),
            (LIFE, "the_configured_bound_of_a_head_is_exact"),
            (LIMITS, "the_number_of_header_lines_is_bounded"),
            (LIMITS, "the_bound_of_a_target_is_exact"),
        ],
    ),
    (
        "H22",
        "callers that are slow, silent, or do not read",
        &[
            (LIMITS, "a_head_that_drips_has_its_end_from_the_accepting_on"),
            (LIMITS, "a_body_that_stands_still_is_not_waited_for"),
            (LIMITS, "an_answer_that_is_not_taken_ends_in_a_reset"),
            (LIMITS, "an_idle_connection_ends"),
            (LIFE, "a_silent_caller_is_not_waited_for"),
            (LIFE, "a_full_listener_closes_what_comes"),
        ],
    ),
    ("H23", "a target that is an address inside", &[(PATHS, "a_target_names_no_other_host")]),
    (
        "H24",
        "an upstream that is broken or evil",
        &[
            (UPSTREAMS, "a_head_that_can_be_read_in_two_ways_is_none"),
            (UPSTREAMS, "an_answer_is_whole_or_visibly_cut_and_nothing_follows_it"),
            (UPSTREAMS, "hints_without_end_are_no_answer"),
            (NONSENSE, "nonsense_is_a_bad_gateway_and_its_connection_is_not_used_again"),
        ],
    ),
    (
        "G1",
        "streams that are opened and reset",
        &[(FLOODS, "resets_of_streams_are_bounded"), (FLOODS, "resets_in_one_burst_are_bounded")],
    ),
    (
        "G2",
        "resets that the server is made to send",
        &[(FLOODS, "resets_that_the_server_is_made_to_send_are_bounded")],
    ),
    (
        "G3",
        "a head of many frames",
        &[(FLOODS, "frames_of_a_head_are_bounded"), (FLOODS, "a_head_whose_frames_do_not_end_has_its_end")],
    ),
    ("G4", "frames of data without data", &[(FRAMES, "empty_data_is_bounded")]),
    ("G5", "a small block that is a large list", &[(FRAMES, "a_small_block_is_not_a_large_list")]),
    (
        "G6",
        "frames that carry nothing, windows that stay shut",
        &[
            (FLOODS, "frames_that_carry_nothing_are_bounded"),
            ("tests/suite/reverse_proxy/sever/http2.rs", "a_caller_that_gives_no_window_is_reset"),
        ],
    ),
    (
        "G7",
        "a length that lies, bytes that HTTP/1 would split at",
        &[(FRAMES, "a_length_over_http2_is_the_bodys"), (FRAMES, "a_head_over_http2_is_plain")],
    ),
    (
        "G8",
        "pseudo-fields and connection fields where they may not be",
        &[
            (FRAMES, "a_head_over_http2_is_plain"),
            (FRAMES, "a_head_over_http2_is_read_in_one_way"),
            (FRAMES, "frames_out_of_place_end_the_connection"),
        ],
    ),
    ("G9", "a credential in trailers", &[(FRAMES, "a_credential_in_trailers_counts_for_nothing")]),
    (
        "G10",
        "streams of one connection",
        &[(HTTP2, "each_stream_is_judged_alone_and_reaches_an_http1_upstream")],
    ),
    (
        "G11",
        "checks that are too large, too many, or do not end",
        &[
            (ENVOY, "a_check_is_bounded_in_size_and_time"),
            (ENVOY, "one_check_too_many_is_shed_on_record"),
            (ENVOY, "health_says_what_it_is_told"),
        ],
    ),
    (
        "G12",
        "a stream that outlives what allowed it",
        &[
            (TURNS, "a_change_ends_what_it_turns_and_leaves_the_others"),
            (TURNS, "what_it_relied_on_ends_and_so_does_it"),
            (TURNS, "the_thread_ends_what_is_due_within_a_second"),
        ],
    ),
    ("G13", "a WebSocket to where it may not go", &[(SOCKETS, "a_denied_one_leaves_the_upstream_untouched")]),
    (
        "G14",
        "cancellations that end a connection which others share",
        &[(HTTP2, "cancellations_of_one_end_no_connection_of_others")],
    ),
    (
        "S12",
        "operations open to the network, secrets in a dump",
        &[
            (CONFIG, "each_refusal_has_its_message"),
            ("tests/suite/hub/api.rs", "nothing_listens_beyond_loopback"),
            (ROLES, "the_operator_sees_the_last_decisions_and_what_runs"),
        ],
    ),
    (
        "S13",
        "a server of keys that is slow, huge, or points elsewhere",
        &[
            (OUTBOUND, "only_a_whole_json_answer_of_status_200_is_taken"),
            (OUTBOUND, "whoever_is_slow_is_not_waited_for"),
            (OUTBOUND, "nothing_inside_is_asked_unless_its_host_is_listed"),
            (OUTBOUND, "only_a_certificate_of_a_trusted_authority_for_that_host_will_do"),
            ("src/outbound/target.rs", "only_plain_https_urls_are_targets"),
            (ISSUERS, "discovery_is_believed_only_of_the_issuer_itself"),
            (ISSUERS, "what_cannot_be_fetched_is_not_written"),
        ],
    ),
    (
        "S14",
        "a clock that is set back",
        &[
            ("src/core/time.rs", "neither_time_ever_falls"),
            ("src/core/time.rs", "time_that_has_passed_is_the_larger_of_both_clocks"),
            ("src/core/time.rs", "an_anchor_outlives_its_process"),
            ("tests/suite/introspection/memory.rs", "a_wall_clock_that_falls_lengthens_nothing"),
        ],
    ),
    (
        "S15",
        "a panic within a request",
        &[
            (FAULTS, "a_fault_allows_nothing_and_ends_nothing"),
            (LIFE, "a_fault_refuses_the_request_and_nothing_else"),
        ],
    ),
    (
        "S16",
        "a configuration that says nothing or the wrong thing",
        &[
            (CONFIG, "unknown_keys_are_refused_at_every_level"),
            ("tests/suite/pipeline.rs", "without_state_everything_is_refused"),
            ("tests/suite/pipeline.rs", "policies_forbid_fail_and_shadow"),
        ],
    ),
    (
        "F17",
        "an upstream that is gone, breaks off, or is silent",
        &[
            (NONSENSE, "failures_have_their_status_and_count"),
            (NONSENSE, "a_dead_connection_costs_a_retry_and_nothing_else"),
            (UPSTREAMS, "what_may_have_arrived_is_not_sent_again"),
            (UPSTREAMS, "an_old_caller_sees_that_an_answer_was_cut"),
        ],
    ),
    (
        "F18",
        "an issuer that is gone, keys that rotate",
        &[
            (ISSUERS, "keys_outlive_an_outage_up_to_their_bound"),
            (ISSUERS, "a_new_key_is_found_by_its_first_token_and_a_removed_one_is_gone_at_once"),
            (ISSUERS, "a_missing_key_brings_one_fetch_and_a_flood_of_them_no_more"),
            (
                "tests/suite/roles/issuers.rs",
                "a_providers_keys_rotate_under_load_and_no_good_token_is_refused",
            ),
        ],
    ),
    (
        "F19",
        "a certificate that ends or is replaced",
        &[
            (TLS, "rotations_fail_no_handshake"),
            (TLS, "an_expired_certificate_begins_no_connection_and_ends_none"),
        ],
    ),
    (
        "F20",
        "memory that runs short",
        &[
            (LIMITS, "memory_that_is_short_sheds_connections_and_then_requests"),
            ("tests/suite/roles/limits.rs", "a_spent_memory_budget_refuses_and_says_so"),
        ],
    ),
    (
        "F21",
        "many slow connections",
        &[
            (LIMITS, "a_head_that_drips_has_its_end_from_the_accepting_on"),
            (LIFE, "a_full_listener_closes_what_comes"),
        ],
    ),
    (
        "F22",
        "being told to end",
        &[
            (ROLES, "told_to_end_under_load_it_fails_no_request_and_keeps_every_record"),
            (ROLES, "what_drains_is_not_ready"),
            (LIFE, "stopping_lets_the_exchange_under_way_finish"),
        ],
    ),
    (
        "F23",
        "a configuration that is read again",
        &[
            (ROLES, "a_hundred_reloads_under_load_fail_no_request"),
            (ROLES, "a_reload_is_taken_whole_or_refused_by_name"),
        ],
    ),
    (
        "F24",
        "no descriptor left",
        &[("tests/suite/roles/limits.rs", "accepting_goes_on_after_descriptors_have_run_out")],
    ),
    ("F25", "a fault of ours, many times over", &[(FAULTS, "a_fault_allows_nothing_and_ends_nothing")]),
];

#[test]
fn each_threat_names_tests_that_exist() {
    let named: Vec<&str> = INDEX.iter().map(|(number, ..)| *number).collect();
    let all = [("H", 1..=24), ("G", 1..=14), ("S", 12..=16), ("F", 17..=25)];
    let all = all.into_iter().flat_map(|(letter, numbers)| numbers.map(move |n| format!("{letter}{n}")));
    assert_eq!(named, all.collect::<Vec<_>>());
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut lacking = BTreeSet::new();
    for (number, what, tests) in INDEX {
        assert!(!tests.is_empty() && !what.is_empty(), "{number}");
        for (file, test) in *tests {
            let text = std::fs::read_to_string(root.join(file)).unwrap_or_default();
            let shown = text.split("#[test]").skip(1).chain(text.split("#[tokio::test").skip(1));
            let call = format!("fn {test}(");
            // The name stands near its mark.
            if !shown.into_iter().any(|text| text.get(..200.min(text.len())).unwrap_or(text).contains(&call))
            {
                lacking.insert(format!("{number}: {file}: {test}"));
            }
        }
    }
    assert!(lacking.is_empty(), "{lacking:#?}");
}
