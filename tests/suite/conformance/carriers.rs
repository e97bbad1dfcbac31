//! Where a credential is never looked for, and what stays unsaid of one: standards §5, §6 and §9, threats T29 and T33.

use crate::support::front::Gate;
use crate::support::upstream::Upstream;
use portreeve::core::policy::Reason;

/// What looks like a credential and is none here, as header lines.
fn elsewhere(token: &str) -> Vec<(&'static str, String)> {
    vec![
        ("a cookie", format!("Cookie: access_token={token}; token={token}\r\n")),
        ("a proxy's", format!("Proxy-Authorization: Bearer {token}\r\n")),
        ("a header of its own", format!("X-Access-Token: {token}\r\n")),
        ("a key where none is configured", format!("X-Api-Key: {token}\r\n")),
        ("a forwarded one", format!("X-Forwarded-Authorization: Bearer {token}\r\n")),
        ("a transaction token", format!("Txn-Token: {token}\r\n")),
        ("a workload's token", format!("Workload-Identity-Token: {token}\r\n")),
        (
            "a workload's token with a proof",
            format!("Workload-Identity-Token: {token}\r\nWorkload-Proof-Token: {token}\r\n"),
        ),
        ("a proof alone", format!("DPoP: {token}\r\n")),
        ("a client's name", "X-SSL-Client-S-DN: CN=ledger\r\n".to_owned()),
        ("an identity", "X-Portreeve-Identity: ledger\r\n".to_owned()),
    ]
}

#[test]
fn a_credential_elsewhere_is_none() {
    let upstream = Upstream::hello();
    let gate = Gate::new(upstream.address());
    let token = gate.token();
    let ask = |target: &str, lines: &str| {
        gate.caller().ask(&format!("GET {target} HTTP/1.1\r\nHost: orders.test\r\n{lines}\r\n"))
    };
    let mut rows: Vec<_> =
        elsewhere(&token).into_iter().map(|(what, lines)| (what, "/orders/1".to_owned(), lines)).collect();
    for name in ["access_token", "token", "api_key", "authorization", "jwt"] {
        rows.push((name, format!("/orders/1?{name}={token}"), String::new()));
    }
    let form = format!("access_token={token}");
    let form =
        format!("Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n", form.len());
    for (what, target, lines) in rows {
        let answer = ask(&target, &lines);
        assert_eq!(answer.status, 401, "{what}");
        assert_eq!(gate.world.log.last_verdict().reason(), Some(Reason::CredentialMissing), "{what}");
        // Nothing was presented: no error is named (RFC 6750 §3.1).
        assert_eq!(answer.one("www-authenticate"), Some(r#"Bearer realm="portreeve""#), "{what}");
    }
    let posted = gate
        .caller()
        .ask(&format!("POST /orders/1 HTTP/1.1\r\nHost: orders.test\r\n{form}\r\naccess_token={token}"));
    assert_eq!(posted.status, 401, "a form");
    assert_eq!(gate.world.log.last_verdict().reason(), Some(Reason::CredentialMissing));
    assert!(upstream.is_untouched());
    // Beside a credential they count for nothing, neither way.
    let stranger = gate.world.token(&gate.world.claims("stranger"));
    for (what, lines) in elsewhere(&stranger).into_iter().filter(|(what, _)| !what.contains("proof")) {
        let bearer = format!("{lines}Authorization: Bearer {token}\r\n");
        assert_eq!(ask("/orders/1", &bearer).status, 200, "{what}");
        assert_eq!(upstream.next().one("x-portreeve-identity"), Some("ledger"), "{what}");
        let refused = format!("{}Authorization: Bearer {stranger}\r\n", lines.replace(&stranger, &token));
        assert_eq!(ask("/orders/1", &refused).status, 401, "{what}");
    }
    assert!(upstream.is_untouched());
}

#[test]
fn two_credentials_are_refused_and_any_case_of_the_scheme_is_taken() {
    let upstream = Upstream::hello();
    let gate = Gate::new(upstream.address());
    let token = gate.token();
    let status = |lines: &str| {
        let text = format!("GET /orders/1 HTTP/1.1\r\nHost: orders.test\r\n{lines}\r\n");
        gate.caller().ask(&text).status
    };
    for (lines, expected) in [
        (format!("Authorization: Bearer {token}\r\n"), 200),
        (format!("authorization: bearer {token}\r\n"), 200),
        (format!("AUTHORIZATION: BEARER {token}\r\n"), 200),
        (format!("Authorization: Bearer {token}\r\nAuthorization: Bearer {token}\r\n"), 400),
        (format!("Authorization: Bearer {token}\r\nAuthorization: Basic eDp5\r\n"), 400),
        (format!("Authorization: Bearer {token}, Bearer {token}\r\n"), 401),
        (format!("Authorization: Bearer {token} {token}\r\n"), 401),
        (format!("Authorization: Token {token}\r\n"), 401),
        (format!("Authorization: {token}\r\n"), 401),
    ] {
        assert_eq!(status(&lines), expected, "{lines}");
        if expected == 200 {
            upstream.next();
        }
    }
    assert!(upstream.is_untouched());
}

#[test]
fn no_record_holds_a_token_or_what_the_query_says() {
    let upstream = Upstream::hello();
    let gate = Gate::new(upstream.address());
    let secret = "s3cr3t-0123456789abcdef";
    let token = gate.token();
    let [_, claims, signature] = token.split('.').collect::<Vec<_>>()[..] else { panic!("three parts") };
    for (lines, expected) in [
        (format!("Authorization: Bearer {token}\r\n"), 200),
        (format!("Authorization: Bearer {}\r\n", token.replace(signature, secret)), 401),
        (format!("Authorization: Basic {secret}\r\n"), 401),
    ] {
        let target = format!("/orders/1?access_token={secret}&api_key={secret}");
        let text = format!("GET {target} HTTP/1.1\r\nHost: orders.test\r\n{lines}\r\n");
        assert_eq!(gate.caller().ask(&text).status, expected);
    }
    let records = format!("{:?}", gate.world.log.entries());
    let metrics = gate.metrics.render();
    for (kept, what) in [(&records, "records"), (&metrics, "metrics")] {
        for hidden in [secret, claims, signature] {
            assert!(!kept.contains(hidden), "{what} hold {hidden}");
        }
    }
}
