//! The table: what a token is like, and the expected reason.

use std::fmt::Write as _;

use portreeve::core::credential::{Algorithm, Jws, JwsError, TOKEN_BYTES_MAX};
use portreeve::core::policy::Reason::{self, *};
use serde_json::{Value, json};

use super::{HERE, NOW, STAND, THERE, claims, with, without};
use crate::support::issuer::TestIssuer;

/// A clause, a token, and what comes of it.
pub(super) struct Row {
    clause: String,
    token: Vec<u8>,
    expected: Result<(), Reason>,
}

pub(super) fn row(clause: impl Into<String>, token: impl Into<Vec<u8>>, expected: Result<(), Reason>) -> Row {
    Row { clause: clause.into(), token: token.into(), expected }
}

pub(super) fn run(rows: Vec<Row>) {
    let mut wrong = String::new();
    for Row { clause, token, expected } in rows {
        let found = STAND.verify(&token, NOW).map(drop);
        if found != expected {
            writeln!(wrong, "{clause}: expected {expected:?}, found {found:?}").unwrap();
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

pub(super) fn es256() -> &'static TestIssuer {
    STAND.key(Algorithm::Es256)
}

pub(super) fn with_claims(claims: &Value) -> String {
    es256().sign(&es256().header(), claims)
}

fn with_header(header: &Value) -> String {
    es256().sign(header, &claims())
}

pub(super) fn claim_row(clause: &str, member: &str, value: Value, expected: Result<(), Reason>) -> Row {
    row(format!("{clause}: {member} = {value}"), with_claims(&with(claims(), member, value)), expected)
}

pub(super) fn header_row(clause: &str, member: &str, value: Value, expected: Result<(), Reason>) -> Row {
    row(
        format!("{clause}: {member} = {value}"),
        with_header(&with(es256().header(), member, value)),
        expected,
    )
}

/// Header, payload and signature in base64url.
fn parts(token: &str) -> [&str; 3] {
    token.split('.').collect::<Vec<_>>().try_into().unwrap()
}

#[test]
fn every_algorithm_is_accepted() {
    run(Algorithm::ALL
        .iter()
        .map(|algorithm| {
            let key = STAND.key(*algorithm);
            row(format!("§3.6 {algorithm}"), key.sign(&key.header(), &claims()), Ok(()))
        })
        .collect());
    let ed = STAND.key(Algorithm::EdDsa);
    let renamed = with(ed.header(), "alg", json!("Ed25519"));
    run(vec![row("§3.6 fully specified name", ed.sign(&renamed, &claims()), Ok(()))]);
}

#[test]
fn shape_and_size() {
    let good = with_claims(&claims());
    let [header, payload, signature] = parts(&good);
    let bad = |clause: &str, token: String| row(clause, token, Err(CredentialMalformed));
    let padded = format!("{header}=.{payload}.{signature}");
    run(vec![
        row("§3.1 good", good.clone(), Ok(())),
        bad("T23 empty", String::new()),
        bad("T23 one part", header.to_owned()),
        bad("T23 two parts", format!("{header}.{payload}")),
        bad("T23 four parts", format!("{good}.{signature}")),
        bad("T22 five parts", format!("{good}.{payload}.{payload}")),
        bad("T23 leading dot", format!(".{good}")),
        bad("T23 trailing dot", format!("{good}.")),
        bad("T23 ten thousand dots", format!("{good}{}", ".".repeat(10_000))),
        bad("T23 dots alone", "..".to_owned()),
        bad("T23 empty header", format!(".{payload}.{signature}")),
        bad("T23 empty payload", format!("{header}..{signature}")),
        bad("T23 empty signature", format!("{header}.{payload}.")),
        bad(
            "T23 JSON serialisation",
            json!({ "protected": header, "payload": payload, "signature": signature }).to_string(),
        ),
        bad("T24 padding", padded),
        bad("T24 padded signature", format!("{good}==")),
        bad("T24 space in front", format!(" {good}")),
        bad("T24 newline behind", format!("{good}\n")),
        bad("T24 newline within", format!("{header}.{payload}\n.{signature}")),
        bad("T24 standard alphabet", format!("{header}.{payload}.+/{}", &signature[2..])),
        bad("T24 set bits behind the last byte", format!("{header}.{payload}.{}", trailing_bit(signature))),
        bad("T24 NUL", format!("{good}\0")),
        row("T24 bytes above ASCII", [good.as_bytes(), b"\xff"].concat(), Err(CredentialMalformed)),
        row("T26 16 KiB", sized(TOKEN_BYTES_MAX), Ok(())),
        bad("T26 16 KiB and a byte", sized(TOKEN_BYTES_MAX + 1)),
        bad("T26 1 MB", "a".repeat(1_000_000)),
        bad("T5 16 KB signature", format!("{header}.{payload}.{}", "A".repeat(16 * 1024))),
    ]);
}

#[test]
fn the_parser_bounds_its_input_itself() {
    assert!(Jws::parse(sized(TOKEN_BYTES_MAX).as_bytes()).is_ok());
    assert_eq!(Jws::parse(sized(TOKEN_BYTES_MAX + 1).as_bytes()).err(), Some(JwsError::Size));
}

/// The signature with one of its four unused last bits set (64 bytes leave four).
fn trailing_bit(signature: &str) -> String {
    let (rest, last) = signature.split_at(signature.len() - 1);
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let place = alphabet.find(last).unwrap();
    assert_eq!(place % 16, 0, "canonical");
    format!("{rest}{}", &alphabet[place + 1..place + 2])
}

/// A good token of exactly `bytes` bytes.
fn sized(bytes: usize) -> String {
    let sizes = (0..4).flat_map(|header| (8_000..12_500).map(move |payload| (header, payload)));
    let fits = |(header, payload): &(usize, usize)| {
        let header = with(es256().header(), "x", json!("x".repeat(*header))).to_string().len();
        let payload = with(claims(), "x", json!("")).to_string().len() + payload;
        header.div_ceil(3) * 4 - (3 - header % 3) % 3 + payload.div_ceil(3) * 4 - (3 - payload % 3) % 3 + 88
            == bytes
    };
    let (header, payload) = sizes.into_iter().find(fits).unwrap();
    let header = with(es256().header(), "x", json!("x".repeat(header)));
    let token = es256().sign(&header, &with(claims(), "x", json!("x".repeat(payload))));
    assert_eq!(token.len(), bytes);
    token
}

#[test]
fn strict_json() {
    let header = es256().header().to_string();
    let (good, spare) = (claims().to_string(), without(claims(), "sub").to_string());
    let payload = |clause: &str, payload: &str, expected| {
        row(clause, es256().sign_bytes(header.as_bytes(), payload.as_bytes()), expected)
    };
    let head = |clause: &str, header: &str, expected| {
        row(clause, es256().sign_bytes(header.as_bytes(), good.as_bytes()), expected)
    };
    let nested =
        |depth: usize| with(claims(), "x", (1..depth).fold(json!(1), |inner, _| json!([inner]))).to_string();
    let open = spare.trim_end_matches('}');
    let malformed = Err(CredentialMalformed);
    run(vec![
        payload("§3.2 good", &good, Ok(())),
        payload("RFC 8259 white space around", &format!(" {good}\r\n"), Ok(())),
        payload("T20 sub twice", &format!("{open},\"sub\":\"a\",\"sub\":\"b\"}}"), malformed),
        payload("T20 sub twice, equal", &format!("{open},\"sub\":\"a\",\"sub\":\"a\"}}"), malformed),
        payload(
            "T20 sub twice, once escaped",
            &format!("{open},\"sub\":\"a\",\"s\\u0075b\":\"b\"}}"),
            malformed,
        ),
        payload(
            "T20 twice in an inner object",
            &format!("{open},\"sub\":\"a\",\"x\":{{\"y\":1,\"y\":1}}}}"),
            malformed,
        ),
        payload("T20 exp twice", &format!("{open},\"sub\":\"a\",\"exp\":{}}}", NOW + 9), malformed),
        head("T20 alg twice", "{\"alg\":\"ES256\",\"kid\":\"ES256\",\"alg\":\"ES256\"}", malformed),
        payload("T25 trailing comma", &format!("{open},\"sub\":\"a\",}}"), malformed),
        payload("T25 single quotes", &format!("{open},'sub':'a'}}"), malformed),
        payload("T25 byte order mark", &format!("\u{feff}{good}"), malformed),
        payload("T25 trailing bytes", &format!("{good}x"), malformed),
        payload("T25 second object", &format!("{good}{{}}"), malformed),
        payload("T25 NaN", &format!("{open},\"sub\":\"a\",\"x\":NaN}}"), malformed),
        payload("T25 lone surrogate", &format!("{open},\"sub\":\"\\ud800\"}}"), malformed),
        row("T25 bad UTF-8", es256().sign_bytes(header.as_bytes(), b"{\"sub\":\"\xff\"}"), malformed),
        payload("§3.2 array", "[]", malformed),
        payload("§3.2 string", "\"x\"", malformed),
        head("§3.2 header array", "[\"ES256\"]", malformed),
        head("T25 header trailing comma", "{\"alg\":\"ES256\",\"kid\":\"ES256\",}", malformed),
        payload("T26 depth 32", &nested(32), Ok(())),
        payload("T26 depth 33", &nested(33), malformed),
        payload("T26 depth 3000", &format!("{}{}", "[".repeat(3000), "]".repeat(3000)), malformed),
    ]);
}

#[test]
fn header_members() {
    let (malformed, unverified) = (Err(CredentialMalformed), Err(CredentialUnverified));
    let mut rows = vec![
        row("§3.3 alg absent", with_header(&without(es256().header(), "alg")), malformed),
        header_row("§3.3 not a string", "alg", json!(["ES256"]), malformed),
        header_row("§3.3 not a string", "alg", Value::Null, malformed),
        header_row("T11 not a string", "kid", json!(1), malformed),
        header_row("T11 not a string", "kid", Value::Null, malformed),
        header_row("T11 empty", "kid", json!(""), unverified),
        header_row("T11 other case", "kid", json!("es256"), unverified),
        header_row("T11 traversal", "kid", json!("../../dev/null"), unverified),
        header_row("T11 SQL", "kid", json!("x' UNION SELECT 'key'--"), unverified),
        header_row("T11 NUL", "kid", json!("ES256\0"), malformed),
        header_row("T11 newline", "kid", json!("ES256\n"), malformed),
        header_row("T11 256 bytes", "kid", json!("x".repeat(256)), unverified),
        header_row("T11 257 bytes", "kid", json!("x".repeat(257)), malformed),
        header_row("T11 8 KB", "kid", json!("x".repeat(8192)), malformed),
        row("T11 256 bytes, known", STAND.long_id.sign(&STAND.long_id.header(), &claims()), Ok(())),
        row("§4 kid absent, two keys fit", with_header(&without(es256().header(), "kid")), unverified),
        row("§3.9 typ absent", with_header(&without(es256().header(), "typ")), Ok(())),
        header_row("§3.9 not a string", "typ", json!(1), malformed),
        header_row("T8 embedded key", "jwk", STAND.other.jwk(), Ok(())),
        header_row("T8 embedded chain", "x5c", json!(["AAAA"]), Ok(())),
        header_row("T9 elsewhere", "jku", json!("http://169.254.169.254/keys"), Ok(())),
        header_row("T9 elsewhere", "x5u", json!("http://169.254.169.254/keys"), Ok(())),
    ];
    let good_kinds = ["JWT", "jwt", "at+jwt", "AT+JWT", "application/at+jwt", "Application/JWT"];
    rows.extend(good_kinds.map(|kind| header_row("§3.9", "typ", json!(kind), Ok(()))));
    let bad_kinds = [
        "",
        "JOSE",
        "dpop+jwt",
        "secevent+jwt",
        "logout+jwt",
        "wit+jwt",
        "wpt+jwt",
        "txntoken+jwt",
        "application/",
        "application/secevent+jwt",
        "text/jwt",
        "JWT ",
        "statuslist+jwt",
        "applicatioñ/JWT",
    ];
    rows.extend(bad_kinds.map(|kind| header_row("T27", "typ", json!(kind), unverified)));
    let crits =
        [json!(["exp"]), json!(["alg"]), json!([]), json!("exp"), Value::Null, json!(["x"]), json!({})];
    rows.extend(crits.map(|crit| header_row("T21", "crit", crit, malformed)));
    rows.extend([true, false].map(|b64| header_row("T21", "b64", json!(b64), malformed)));
    rows.push(header_row("T21", "zip", json!("DEF"), malformed));
    run(rows);
}

#[test]
fn an_embedded_key_is_never_used() {
    let stranger = TestIssuer::new(HERE, "ES256", Algorithm::Es256);
    for member in ["jwk", "jku", "x5c", "x5u"] {
        let header = with(stranger.header(), member, stranger.jwk());
        run(vec![row(format!("T8 {member}"), stranger.sign(&header, &claims()), Err(CredentialUnverified))]);
    }
}

#[test]
fn issuers_and_their_keys() {
    let other = &STAND.other;
    let theirs = with(claims(), "iss", json!(THERE));
    let mut rows = vec![
        row("§3.4 the other issuer", other.sign(&other.header(), &theirs), Ok(())),
        row("T13 their key, our iss", other.sign(&other.header(), &claims()), Err(CredentialUnverified)),
        row("T13 our key, their iss", with_claims(&theirs), Err(CredentialUnverified)),
        row("§3.4 iss absent", with_claims(&without(claims(), "iss")), Err(CredentialMalformed)),
        claim_row("T18", "iss", json!([HERE]), Err(CredentialMalformed)),
        claim_row("T18", "iss", Value::Null, Err(CredentialMalformed)),
        claim_row("T18", "iss", json!(1), Err(CredentialMalformed)),
    ];
    let unknown =
        ["https://issuer.test/", "HTTPS://issuer.test", "https://issuer.test.evil", "https://issuer.tes", ""];
    rows.extend(unknown.map(|iss| claim_row("T18", "iss", json!(iss), Err(IssuerUnknown))));
    rows.push(claim_row("T10", "iss", json!("http://169.254.169.254/"), Err(IssuerUnknown)));
    run(rows);
    let verified = STAND.verify(other.sign(&other.header(), &theirs).as_bytes(), NOW).unwrap().verified;
    assert_eq!((verified.issuer().unwrap().as_str(), &**verified.iss()), ("there", THERE), "T14");
}
