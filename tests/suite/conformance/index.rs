//! What is asked of credentials, clause by clause, and the tests that show each.
//!
//! `T` numbers are attacks, `S` numbers the parts of the standards: S3 tokens, S4 keys of issuers, S5 how a
//! refusal is said, S6 proof of possession, S7 SPIFFE, S8 tokens of platforms, S9 transaction tokens, S10 opaque
//! tokens and API keys, S11 status lists. Comments of the tests name them by these numbers.
//!
//! A test is named by its file, below `tests/suite` or `src`, and its function. That each is there, is a test
//! here; that it says what the row says, its reader must see. What is not done says why.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

/// What shows that a row holds.
enum Shown {
    /// These tests: `file::function`.
    By(&'static [&'static str]),
    /// None, for this reason.
    Not(&'static str),
}
use Shown::{By, Not};

/// Number, what must hold, what shows it.
type Row = (&'static str, &'static str, Shown);

const THREATS: &[Row] = &[
    (
        "T1",
        "`alg` of `none` in any spelling is refused: the key says the algorithm",
        By(&["conformance/jwt/forgery.rs::algorithm_confusion"]),
    ),
    (
        "T2",
        "a public key is never the secret of an HMAC",
        By(&["conformance/jwt/forgery.rs::algorithm_confusion"]),
    ),
    (
        "T3",
        "a key verifies its own algorithm and no other",
        By(&[
            "conformance/jwt/forgery.rs::algorithm_confusion",
            "conformance/jwt/keys.rs::what_an_issuer_may_use_bounds_its_keys",
        ]),
    ),
    (
        "T4",
        "an ECDSA signature of zeros, or of r equal to the order, is none",
        By(&["conformance/jwt/forgery.rs::forged_signatures"]),
    ),
    (
        "T5",
        "an ECDSA signature has exactly its length: no DER, nothing longer, nothing shorter",
        By(&["conformance/jwt/forgery.rs::forged_signatures", "conformance/jwt/rows.rs::shape_and_size"]),
    ),
    (
        "T6",
        "an Ed25519 signature is canonical, its R of full order",
        By(&["conformance/jwt/forgery.rs::forged_signatures"]),
    ),
    (
        "T7",
        "RSA paddings are exact: PKCS#1 v1.5 and PSS, salt and mask",
        By(&[
            "conformance/jwt/padding.rs::pkcs1",
            "conformance/jwt/padding.rs::pss",
            "conformance/jwt/forgery.rs::forged_signatures",
        ]),
    ),
    (
        "T8",
        "a key inside a token's header is not used",
        By(&[
            "conformance/jwt/rows.rs::an_embedded_key_is_never_used",
            "conformance/jwt/rows.rs::header_members",
        ]),
    ),
    (
        "T9",
        "an address inside a token's header is not asked",
        By(&[
            "conformance/jwt/rows.rs::an_embedded_key_is_never_used",
            "conformance/jwt/rows.rs::header_members",
        ]),
    ),
    (
        "T10",
        "an issuer that no record names is not asked for its keys",
        By(&[
            "conformance/jwt/missing.rs::only_an_unknown_key_of_an_issuer_that_is_fetched_is_missing",
            "key_sources.rs::without_a_record_nothing_is_fetched_and_nobody_is_known",
        ]),
    ),
    (
        "T11",
        "a key id is a bounded text that is looked up and used for nothing else",
        By(&[
            "conformance/jwt/rows.rs::header_members",
            "conformance/jwt/missing.rs::only_an_unknown_key_of_an_issuer_that_is_fetched_is_missing",
        ]),
    ),
    (
        "T12",
        "a flood of made-up key ids brings one fetch an interval, and the keys before stay",
        By(&[
            "hub/issuers.rs::a_missing_key_brings_one_fetch_and_a_flood_of_them_no_more",
            "key_sources.rs::made_up_keys_bring_one_fetch_an_interval_and_each_one_once",
            "state/missing.rs::a_key_is_told_of_once_and_a_flood_is_a_trickle",
            "jwks/looked.rs::a_key_is_looked_for_once_in_a_while_and_the_memory_is_bounded",
        ]),
    ),
    (
        "T13",
        "a key verifies tokens of its own issuer and of no other",
        By(&["conformance/jwt/rows.rs::issuers_and_their_keys"]),
    ),
    (
        "T14",
        "a subject belongs to its issuer: another issuer's token does not speak for it",
        By(&[
            "conformance/subjects.rs::another_issuers_token_does_not_speak_for_the_same_subject",
            "pipeline.rs::a_subject_belongs_to_its_issuer_and_moves_with_its_record",
        ]),
    ),
    ("T15", "times are numbers within their range, nothing else", By(&["conformance/jwt/claims.rs::times"])),
    (
        "T16",
        "an end is required, a life is bounded, nothing is issued in the future",
        By(&["conformance/jwt/claims.rs::times", "conformance/jwt/claims.rs::times_to_the_microsecond"]),
    ),
    ("T17", "an audience is one of ours, exactly", By(&["conformance/jwt/claims.rs::audiences"])),
    (
        "T18",
        "an issuer is a record's `iss`, exactly",
        By(&["conformance/jwt/rows.rs::issuers_and_their_keys"]),
    ),
    (
        "T19",
        "a subject is a known one, to the byte, and fit for a header",
        By(&[
            "conformance/jwt/claims.rs::subjects_ids_and_actors",
            "conformance/subjects.rs::a_subject_that_only_looks_like_one_is_nobodys",
        ]),
    ),
    ("T20", "no member of an object is there twice", By(&["conformance/jwt/rows.rs::strict_json"])),
    (
        "T21",
        "`crit`, `b64` and `zip` are refused, whatever they say",
        By(&["conformance/jwt/rows.rs::header_members"]),
    ),
    (
        "T22",
        "an encrypted token is refused by its shape: nothing of it is decoded",
        By(&["conformance/jwt/rows.rs::shape_and_size", "conformance/jwt/rows.rs::header_members"]),
    ),
    (
        "T23",
        "a token has three parts, none empty, and one form",
        By(&["conformance/jwt/rows.rs::shape_and_size"]),
    ),
    (
        "T24",
        "base64url has one spelling, so that a token has no alias",
        By(&[
            "conformance/jwt/rows.rs::shape_and_size",
            "conformance/jwt/cache.rs::equal_tokens_have_equal_fingerprints_and_aliases_do_not_exist",
        ]),
    ),
    (
        "T25",
        "JSON is read without leniency",
        By(&[
            "conformance/jwt/rows.rs::strict_json",
            "conformance/jwt/differential.rs::noise_is_refused_without_panic",
        ]),
    ),
    (
        "T26",
        "size and depth are bounded before anything is read",
        By(&[
            "conformance/jwt/rows.rs::shape_and_size",
            "conformance/jwt/rows.rs::strict_json",
            "conformance/jwt/rows.rs::the_parser_bounds_its_input_itself",
        ]),
    ),
    (
        "T27",
        "a token of another kind is none, whoever signed it",
        By(&[
            "conformance/jwt/profiles.rs::kinds_exclude_each_other",
            "conformance/jwt/rows.rs::header_members",
        ]),
    ),
    (
        "T28",
        "a weak or mis-declared key is refused alone, and somebody is told",
        By(&[
            "conformance/jwt/keys.rs::keys_refused_for_their_members",
            "conformance/jwt/keys.rs::keys_refused_for_their_numbers",
            "conformance/jwt/keys.rs::bad_keys_leave_good_ones",
            "hub/issuers.rs::a_bad_key_is_refused_and_the_others_are_used",
            "key_sources.rs::a_bad_set_takes_the_place_of_nothing_and_a_bad_key_of_no_other",
        ]),
    ),
    (
        "T29",
        "a credential is looked for in configured places only; two are refused",
        By(&[
            "conformance/carriers.rs::a_credential_elsewhere_is_none",
            "conformance/carriers.rs::two_credentials_are_refused_and_any_case_of_the_scheme_is_taken",
            "conformance/api_key.rs::through_the_proxy",
            "pep/extract/tests.rs::credentials",
            "ext_authz.rs::rows",
        ]),
    ),
    (
        "T30",
        "a revocation counts for a token that was verified before",
        By(&[
            "pipeline.rs::every_shape_of_revocation_beats_a_remembered_token",
            "conformance/jwt/cache.rs::a_hit_ends_with_its_issuer",
            "pipeline.rs::the_last_look_takes_an_allow_back",
        ]),
    ),
    (
        "T31",
        "what is remembered is found only for the same token, tenant, issuer and keys, and policy is asked each time",
        By(&[
            "conformance/jwt/cache.rs::tenants_and_routes_share_nothing",
            "conformance/jwt/cache.rs::a_hit_of_another_tenant_is_not_believed",
            "conformance/jwt/cache.rs::a_changed_issuer_is_asked_anew",
            "conformance/opaque.rs::an_answer_about_another_token_or_of_another_record_says_nothing",
            "pipeline.rs::a_remembered_answer_ends_with_what_it_rested_on",
        ]),
    ),
    (
        "T32",
        "an unknown API key and a wrong secret look alike, to the clock too",
        By(&[
            "conformance/api_key.rs::only_the_very_key_is_taken",
            "conformance/api_key_timing.rs::timing_of_a_refusal_tells_nothing",
        ]),
    ),
    (
        "T33",
        "neither records nor metrics hold a key, a token or a query",
        By(&[
            "conformance/api_key.rs::the_secret_is_nowhere",
            "conformance/carriers.rs::no_record_holds_a_token_or_what_the_query_says",
        ]),
    ),
    (
        "T34",
        "a service account's token is its cluster's, for us, and ends with its pod",
        By(&[
            "conformance/jwt/profiles.rs::service_account_tokens",
            "pipeline.rs::the_tokens_of_a_pod_end_with_it",
        ]),
    ),
    (
        "T35",
        "a client certificate is of its own trust domain, names one identity, and is what its authority may sign",
        By(&[
            "conformance/certificate.rs::rows",
            "conformance/certificate.rs::over_real_connections",
            "conformance/certificate.rs::what_an_authority_may_not_sign_is_not_taken",
            "workload/certificates.rs::a_handshake_by_svids_and_authorities_that_rotate_and_go",
        ]),
    ),
    (
        "T36",
        "a forwarded certificate counts from configured peers only, and is removed",
        By(&[
            "conformance/certificate.rs::a_certificate_is_believed_from_configured_peers_only",
            "conformance/certificate.rs::over_real_connections",
        ]),
    ),
];

const STANDARDS: &[Row] = &[
    (
        "S3",
        "every algorithm that is said to be taken is, also from another library",
        By(&[
            "conformance/jwt/rows.rs::every_algorithm_is_accepted",
            "conformance/jwt/vectors.rs::signatures",
            "conformance/jwt/differential.rs::jsonwebtoken_agrees",
            "conformance/jwt/jose.rs::tokens_of_another_library_are_taken_and_touched_ones_are_not",
        ]),
    ),
    (
        "S3",
        "a token changed by a byte is refused",
        By(&[
            "conformance/jwt/differential.rs::one_changed_byte_never_verifies",
            "conformance/jwt/differential.rs::a_byte_more_or_less_never_verifies",
        ]),
    ),
    (
        "S3",
        "the signature is judged before the claims",
        By(&["conformance/jwt/claims.rs::the_signature_is_judged_before_the_claims"]),
    ),
    (
        "S3",
        "fractions of seconds count, skew is bounded, both sides of each end",
        By(&["conformance/jwt/claims.rs::times", "conformance/jwt/claims.rs::times_to_the_microsecond"]),
    ),
    (
        "S3",
        "whoever acts for another stands as well",
        By(&["pipeline.rs::every_party_of_a_delegation_must_stand"]),
    ),
    (
        "S3",
        "a token for several audiences is a finding",
        Not("findings about use are not made here; the record of the decision is what they are made from"),
    ),
    (
        "S4",
        "a new key is known by its first token, once, and soon",
        By(&[
            "hub/issuers.rs::a_new_key_is_found_by_its_first_token_and_a_removed_one_is_gone_at_once",
            "key_sources.rs::a_new_key_is_found_by_its_first_token_and_a_removed_one_is_gone_at_once",
            "roles/issuers.rs::a_providers_keys_rotate_under_load_and_no_good_token_is_refused",
        ]),
    ),
    (
        "S4",
        "a removed key is gone at once with what it verified; an empty set is a set",
        By(&[
            "hub/issuers.rs::a_set_is_a_change_only_when_it_is_another_set",
            "conformance/jwt/keys.rs::a_new_key_works_and_a_removed_one_does_not",
            "key_sources.rs::a_new_key_is_found_by_its_first_token_and_a_removed_one_is_gone_at_once",
        ]),
    ),
    (
        "S4",
        "the last good keys count through an outage up to their bound, everywhere",
        By(&[
            "hub/issuers.rs::keys_outlive_an_outage_up_to_their_bound",
            "hub/issuers.rs::enforcement_points_are_told_until_when_keys_count",
            "conformance/jwt/bound.rs::keys_that_were_not_fetched_for_too_long_verify_nothing",
            "key_sources.rs::an_outage_is_outlived_up_to_the_bound",
            "app/issuer_keys.rs::keys_are_overdue_from_their_bound_on",
        ]),
    ),
    (
        "S4",
        "a server is heard within bounds about when to come again",
        By(&["hub/issuers/fetched.rs::what_a_server_says_is_heard_within_bounds"]),
    ),
    (
        "S4",
        "discovery is believed of the issuer itself, over https, at judged addresses",
        By(&[
            "hub/issuers.rs::discovery_is_believed_only_of_the_issuer_itself",
            "jwks/discovery.rs::the_issuer_is_exactly_the_one_asked_for",
            "key_sources.rs::keys_are_found_by_discovery",
            "key_sources.rs::only_judged_addresses_are_asked",
            "outbound.rs::nothing_inside_is_asked_unless_its_host_is_listed",
            "outbound.rs::only_a_whole_json_answer_of_status_200_is_taken",
        ]),
    ),
    (
        "S4",
        "metadata of RFC 8414, whose path is inserted",
        By(&[
            "jwks/discovery.rs::a_document_lies_below_the_issuer_and_metadata_before_its_path",
            "hub/issuers.rs::metadata_counts_only_where_there_is_no_discovery_document",
        ]),
    ),
    (
        "S4",
        "a key id is needed where several keys fit, belongs to one key, and sets are bounded",
        By(&[
            "conformance/jwt/keys.rs::a_token_without_key_id_needs_the_only_key",
            "conformance/jwt/keys.rs::a_shared_id_refuses_all_who_share_it",
            "conformance/jwt/keys.rs::sets_at_their_bounds",
        ]),
    ),
    (
        "S5",
        "nothing presented is no error; a bad credential is `invalid_token`; a policy's no is 403",
        By(&[
            "pep/respond.rs::each_reason_has_its_answer",
            "core/policy/reason.rs::status_follows_the_code",
            "conformance/carriers.rs::a_credential_elsewhere_is_none",
            "reverse_proxy.rs::refusals_leave_one_record_and_the_upstream_untouched",
        ]),
    ),
    (
        "S5",
        "every 401 says the same, whatever the reason",
        By(&["pep/respond.rs::unauthorized_answers_are_equal_to_the_byte"]),
    ),
    (
        "S5",
        "the scheme is taken in any case, the query and a form never",
        By(&[
            "conformance/carriers.rs::two_credentials_are_refused_and_any_case_of_the_scheme_is_taken",
            "conformance/carriers.rs::a_credential_elsewhere_is_none",
        ]),
    ),
    (
        "S5",
        "an access token says its client, its id and when",
        By(&["conformance/jwt/profiles.rs::access_tokens"]),
    ),
    (
        "S5",
        "metadata of the protected resource (RFC 9728)",
        Not("callers here are configured; nothing is served at that address"),
    ),
    (
        "S6",
        "a token bound to a certificate needs that one, on this connection",
        By(&[
            "conformance/certificate.rs::tokens_bound_to_a_certificate",
            "conformance/certificate.rs::over_real_connections",
        ]),
    ),
    (
        "S6",
        "a proof is of this token, method and address, fresh, signed by the token's key, and taken once",
        By(&[
            "conformance/dpop.rs::rows",
            "conformance/dpop.rs::the_hash_of_a_token_is_that_of_the_standard",
            "conformance/dpop.rs::a_proof_is_taken_once",
            "conformance/dpop.rs::keys_of_every_algorithm_prove",
            "conformance/dpop.rs::the_memory_of_proofs_is_bounded_and_forgets_what_is_over",
        ]),
    ),
    (
        "S6",
        "a bound token is never a bearer's, and unknown ways of binding refuse",
        By(&[
            "conformance/dpop.rs::a_bound_token_is_never_a_bearer_token",
            "conformance/dpop.rs::unknown_ways_of_binding_refuse",
        ]),
    ),
    (
        "S6",
        "what a proof lacks is said as its standard has it, a nonce too",
        By(&[
            "conformance/dpop.rs::through_the_proxy",
            "conformance/dpop/nonce.rs::rows",
            "conformance/dpop/nonce.rs::through_the_proxy",
        ]),
    ),
    (
        "S6",
        "workload identity tokens and their proofs, alone or in `Authorization`, are nothing",
        By(&[
            "conformance/carriers.rs::a_credential_elsewhere_is_none",
            "conformance/jwt/profiles.rs::kinds_exclude_each_other",
        ]),
    ),
    (
        "S6",
        "workload identity tokens with proofs or signatures are taken",
        Not("they are drafts; what they carry is refused until they are done"),
    ),
    ("S7", "a SPIFFE ID has one spelling", By(&["conformance/jwt/profiles.rs::spiffe_ids"])),
    (
        "S7",
        "a certificate is no authority's, signs, and chains to its own domain",
        By(&[
            "conformance/certificate.rs::rows",
            "workload/certificates.rs::a_handshake_by_svids_and_authorities_that_rotate_and_go",
        ]),
    ),
    (
        "S7",
        "a token is signed by a key for tokens, without EdDSA and without other header members",
        By(&[
            "conformance/jwt/profiles.rs::jwt_svids",
            "conformance/jwt/profiles.rs::svid_keys_are_for_svids",
        ]),
    ),
    (
        "S7",
        "what a bundle drops is trusted no more, from a file, the Workload API or a URL",
        By(&[
            "workload/certificates.rs::what_a_withdrawn_domain_opened_is_ended_and_nothing_else",
            "workload/keys.rs::keys_arrive_rotate_and_are_withdrawn",
            "hub/issuers.rs::a_spiffe_bundle_gives_its_keys_for_tokens",
            "key_sources.rs::a_trust_domains_bundle_gives_its_keys_for_tokens",
        ]),
    ),
    (
        "S7",
        "streams of the Workload API are asked again, or not, as their standard has it",
        By(&[
            "workload/streams.rs::a_denial_withdraws_and_is_asked_again_ever_later",
            "workload/streams.rs::what_asking_again_would_not_change_is_not_asked_again",
        ]),
    ),
    (
        "S7",
        "WIT-SVIDs are taken",
        Not("they are a draft; keys for them are passed over, tokens of them refused"),
    ),
    (
        "S8",
        "whom a platform's token names is what is never given again: UIDs and ids",
        By(&[
            "conformance/jwt/profiles.rs::service_account_tokens",
            "conformance/jwt/profiles.rs::github_jobs",
            "conformance/jwt/profiles.rs::gitlab_jobs",
        ]),
    ),
    (
        "S8",
        "an issuer that signs for everyone needs the profile that tells its customers apart; legacy ones are not written",
        By(&[
            "hub/model.rs::faults_name_their_path_and_what_was_expected",
            "hub/model.rs::what_a_profile_asks_of_its_issuer",
        ]),
    ),
    (
        "S8",
        "a directory's token that acts for a person is refused",
        By(&["conformance/jwt/profiles.rs::generic_tokens"]),
    ),
    (
        "S8",
        "what callers choose in a token, such as request tags, grants nothing",
        Not("no claim but those above is read: entitlements are the identity's"),
    ),
    (
        "S9",
        "a transaction token alone authenticates nobody, and in `Authorization` is refused",
        By(&[
            "conformance/carriers.rs::a_credential_elsewhere_is_none",
            "conformance/jwt/profiles.rs::kinds_exclude_each_other",
        ]),
    ),
    (
        "S9",
        "transaction tokens are verified and given to policies",
        Not("they are a draft; the header passes as any other"),
    ),
    (
        "S10",
        "an answer about a token is judged as a token is, clause by clause",
        By(&[
            "conformance/opaque.rs::a_row_for_each_clause",
            "conformance/opaque.rs::what_is_no_answer_says_nothing_of_the_token",
        ]),
    ),
    (
        "S10",
        "an answer counts to its bound and never beyond the token's end; no answer denies",
        By(&[
            "introspection/memory.rs::an_answer_counts_to_its_bound_and_no_longer",
            "introspection/memory.rs::no_answer_counts_beyond_the_end_of_its_token",
            "introspection/faults.rs::rows",
            "introspection/pauses.rs::a_server_that_fails_is_left_alone_and_tried_again",
        ]),
    ),
    (
        "S10",
        "a revocation here wins over an answer that is remembered",
        By(&[
            "introspection/memory.rs::a_revocation_wins_over_a_remembered_answer_at_once",
            "conformance/opaque.rs::a_revocation_in_the_state_wins_over_the_issuers_answer",
        ]),
    ),
    (
        "S10",
        "tokens are revoked by their holder (RFC 7009)",
        Not("who revokes here is an operator, through the hub's own API"),
    ),
    (
        "S10",
        "an API key is taken whole, in its header, while its record is good",
        By(&[
            "conformance/api_key.rs::only_the_very_key_is_taken",
            "conformance/api_key.rs::its_record_says_whether_it_is_good",
            "conformance/api_key.rs::revocations_reach_it",
            "conformance/api_key.rs::where_keys_are_not_looked_for_they_are_nothing",
        ]),
    ),
    (
        "S10",
        "two keys overlap, and no more than two",
        By(&[
            "conformance/api_key.rs::keys_overlap_and_the_old_one_ends",
            "hub/api_keys.rs::two_keys_of_an_identity_may_live",
        ]),
    ),
    (
        "S10",
        "one identity stands behind all kinds",
        By(&["conformance/api_key.rs::one_identity_stands_behind_all_kinds"]),
    ),
    (
        "S11",
        "the vectors of the draft read as it says",
        By(&["conformance/status/vectors.rs::the_drafts_lists_read_as_it_says"]),
    ),
    (
        "S11",
        "a list is its URI's and its issuer's, whole, bounded, and read as strictly as a token",
        By(&[
            "conformance/status.rs::a_lists_token_is_read_as_strictly_as_any",
            "conformance/status.rs::a_lists_token_is_its_issuers_and_of_its_own_kind",
            "conformance/status.rs::a_list_is_its_issuers_and_its_uris",
            "hub/status_lists.rs::what_is_no_list_of_the_issuer_is_not_taken",
        ]),
    ),
    (
        "S11",
        "only what says valid is valid; a place past the end is refused",
        By(&["conformance/status.rs::what_the_list_says_decides"]),
    ),
    (
        "S11",
        "the token itself comes first",
        By(&["conformance/status.rs::the_token_comes_first_and_our_own_revocations_before_its_issuers"]),
    ),
    (
        "S11",
        "a list counts until its last moment",
        By(&[
            "conformance/status.rs::a_list_counts_until_its_last_moment",
            "hub/status_lists.rs::a_list_outlives_an_outage_up_to_its_bound",
        ]),
    ),
    (
        "S11",
        "lists are found by aggregation",
        Not("the record names them; others are fetched when a token names them"),
    ),
];

#[test]
fn each_row_has_a_test_or_a_reason() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut wrong = String::new();
    for (number, what, shown) in THREATS.iter().chain(STANDARDS) {
        match shown {
            By(tests) => {
                if tests.is_empty() {
                    writeln!(wrong, "{number} {what}: no test").unwrap();
                }
                for test in tests.iter().filter(|test| !is_there(root, test)) {
                    writeln!(wrong, "{number} {what}: there is no test `{test}`").unwrap();
                }
            }
            Not(reason) => assert!(!reason.is_empty(), "{number} {what}: no reason"),
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// Whether `file::function` is a test of the suite or a unit test.
fn is_there(root: &Path, test: &str) -> bool {
    let Some((file, function)) = test.split_once("::") else { return false };
    let texts = ["tests/suite", "src"].map(|folder| fs::read_to_string(root.join(folder).join(file)));
    texts.into_iter().flatten().any(|text| is_test(&text, function))
}

fn is_test(text: &str, function: &str) -> bool {
    let mut armed = false;
    for line in text.lines().map(str::trim) {
        let named = |prefix: &str| {
            line.strip_prefix(prefix)
                .is_some_and(|rest| rest.strip_prefix(function).is_some_and(|rest| rest.starts_with('(')))
        };
        if armed && (named("fn ") || named("async fn ")) {
            return true;
        }
        // Attributes and comments may stand between the mark and the function.
        armed = line.starts_with("#[test]")
            || line.starts_with("#[tokio::test")
            || (armed && (line.starts_with("#[") || line.starts_with("//") || line.is_empty()));
    }
    false
}

#[test]
fn each_number_has_its_rows() {
    let mut threats = BTreeMap::<&str, usize>::new();
    THREATS.iter().for_each(|(number, ..)| *threats.entry(number).or_default() += 1);
    for number in 1..=36 {
        assert_eq!(threats.remove(format!("T{number}").as_str()), Some(1), "T{number}, once");
    }
    assert!(threats.is_empty(), "{threats:?}");
    for number in 3..=11 {
        let shown = |row: &&Row| row.0 == format!("S{number}") && matches!(row.2, By(_));
        assert!(STANDARDS.iter().any(|row| shown(&row)), "S{number}");
    }
    let known: Vec<_> = (3..=11).map(|number| format!("S{number}")).collect();
    assert!(STANDARDS.iter().all(|(number, ..)| known.iter().any(|known| known == number)));
}

#[test]
fn a_name_alone_is_no_test() {
    let text = "#[test]\nfn one() {}\n\n#[tokio::test(flavor = \"multi_thread\")]\nasync fn two() {}\n\nfn three() {}\n\
                #[test]\n#[ignore = \"slow\"]\nfn four() {}\n// fn five()\n";
    for (function, expected) in
        [("one", true), ("two", true), ("three", false), ("four", true), ("five", false), ("on", false)]
    {
        assert_eq!(is_test(text, function), expected, "{function}");
    }
    assert!(!is_there(Path::new(env!("CARGO_MANIFEST_DIR")), "conformance/index.rs::nothing"));
    assert!(!is_there(Path::new(env!("CARGO_MANIFEST_DIR")), "nowhere.rs::rows"));
}
