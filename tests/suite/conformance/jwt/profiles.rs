//! Token profiles: whose token it is, what it must say, and whom it names (standards §3.9, §5, §7, §8; T27, T34).

use std::fmt::Write as _;
use std::sync::Arc;

use portreeve::core::credential::{Algorithm, SpiffeId, Verified};
use portreeve::core::identity::{Issuer, TokenProfile};
use portreeve::core::policy::Reason::{self, *};
use portreeve::core::time::Timestamp;
use serde_json::{Value, json};

use super::{HERE, LIFETIME, NOW, NoCache, STAND, check, name, with, without};
use crate::support::issuer::{TestIssuer, jwks};

const DOMAIN: &str = "spiffe://acme.example";

/// An issuer of one profile, its key and a good token's claims.
struct Stand {
    key: TestIssuer,
    record: Issuer,
    claims: Value,
}

fn stand(profile: TokenProfile, own: Value) -> Stand {
    let iss = if profile == TokenProfile::JwtSvid { DOMAIN } else { HERE };
    let key = TestIssuer::new(iss, "k", Algorithm::Es256);
    let mut jwk = key.jwk();
    if profile == TokenProfile::JwtSvid {
        jwk["use"] = json!("jwt-svid");
    }
    let mut claims = json!({ "iss": HERE, "aud": "orders", "iat": NOW - 10, "exp": NOW + 300 });
    own.as_object().unwrap().iter().for_each(|(member, value)| claims[member] = value.clone());
    let (lifetime, set) = (u32::try_from(LIFETIME).unwrap(), jwks(&[jwk]));
    let record = Issuer::new(iss.into(), profile, Algorithm::ALL.to_vec(), Vec::new(), lifetime, set.into());
    Stand { key, record, claims }
}

fn generic() -> Stand {
    stand(TokenProfile::Generic, json!({ "sub": "ledger" }))
}

fn access_token() -> Stand {
    stand(TokenProfile::AccessToken, json!({ "sub": "ledger", "client_id": "ledger", "jti": "t-1" }))
}

fn svid() -> Stand {
    let stand = stand(TokenProfile::JwtSvid, json!({ "sub": "spiffe://acme.example/ns/pay/ledger" }));
    Stand { claims: without(stand.claims, "iss"), ..stand }
}

fn kubernetes() -> Stand {
    let bound = json!({
        "namespace": "pay", "serviceaccount": { "name": "ledger", "uid": "0e1f" },
        "pod": { "name": "ledger-0", "uid": "77aa" }, "node": { "name": "n", "uid": "1" },
    });
    stand(
        TokenProfile::Kubernetes,
        json!({ "sub": "system:serviceaccount:pay:ledger", "jti": "t-1", "kubernetes.io": bound }),
    )
}

fn github() -> Stand {
    stand(
        TokenProfile::GitHub,
        json!({
            "sub": "repo:acme/orders:ref:refs/heads/main", "repository": "acme/orders",
            "repository_id": "74", "repository_owner_id": "65", "event_name": "push", "ref": "refs/heads/main",
        }),
    )
}

fn gitlab() -> Stand {
    stand(
        TokenProfile::GitLab,
        json!({
            "sub": "project_path:acme/orders:ref_type:branch:ref:main", "project_id": "22",
            "namespace_id": "72", "ref": "main", "ref_type": "branch", "ref_protected": "true",
            "pipeline_source": "push",
        }),
    )
}

impl Stand {
    fn header(&self) -> Value {
        let header = self.key.header();
        if self.record.profile == TokenProfile::AccessToken {
            with(header, "typ", json!("at+jwt"))
        } else {
            header
        }
    }

    fn verify(&self, header: &Value, claims: &Value) -> Result<Arc<Verified>, Reason> {
        let issuers = |iss: &str| (iss == &*self.record.iss).then(|| (name("it"), &self.record));
        let token = self.key.sign(header, claims);
        check(token.as_bytes(), &issuers, Timestamp::from_seconds(NOW), &NoCache).map(|found| found.verified)
    }

    fn claims(&self, claims: &Value) -> Result<Arc<Verified>, Reason> {
        self.verify(&self.header(), claims)
    }
}

/// What is done to a good token's claims, and whom it then names, or why it is refused.
type Row<'a> = (&'a str, Value, Result<&'a str, Reason>);

fn run(stand: &Stand, rows: &[Row<'_>]) {
    let mut wrong = String::new();
    for (clause, changes, expected) in rows {
        let mut claims = stand.claims.clone();
        for (member, value) in changes.as_object().unwrap() {
            claims = match value {
                Value::String(gone) if gone == "-" => without(claims, member),
                value => with(claims, member, value.clone()),
            };
        }
        let found = stand.claims(&claims);
        let found = found.as_ref().map(|verified| &**verified.subject());
        if found != expected.as_ref().map(|subject| *subject) {
            writeln!(wrong, "{clause} {changes}: expected {expected:?}, found {found:?}").unwrap();
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn kinds_exclude_each_other() {
    let every = [
        "JWT",
        "JOSE",
        "at+jwt",
        "application/at+jwt",
        "wit+jwt",
        "wpt+jwt",
        "dpop+jwt",
        "txntoken+jwt",
        "secevent+jwt",
        "statuslist+jwt",
        "logout+jwt",
        "",
    ];
    let stands: [(Stand, &[&str], bool); 6] = [
        (generic(), &["JWT", "at+jwt", "application/at+jwt"], true),
        (access_token(), &["at+jwt", "application/at+jwt"], false),
        (svid(), &["JWT", "JOSE"], true),
        (kubernetes(), &["JWT"], true),
        (github(), &["JWT"], true),
        (gitlab(), &["JWT"], true),
    ];
    for (stand, known, may_be_absent) in stands {
        let profile = stand.record.profile.as_str();
        for kind in every {
            let found = stand.verify(&with(stand.header(), "typ", json!(kind)), &stand.claims).map(drop);
            let expected = if known.contains(&kind) { Ok(()) } else { Err(CredentialUnverified) };
            assert_eq!(found, expected, "T27 {profile} `{kind}`");
        }
        let found = stand.verify(&without(stand.header(), "typ"), &stand.claims).is_ok();
        assert_eq!(found, may_be_absent, "§3.9 {profile} without `typ`");
        for claim in ["nonce", "at_hash", "c_hash", "events"] {
            let found = stand.claims(&with(stand.claims.clone(), claim, json!("x"))).map(drop);
            assert_eq!(found, Err(CredentialUnverified), "T27 {profile} with `{claim}`");
        }
    }
}

#[test]
fn generic_tokens() {
    run(
        &generic(),
        &[
            ("§3", json!({}), Ok("ledger")),
            ("§8 Entra, application", json!({ "tid": "t", "roles": ["a"] }), Ok("ledger")),
            ("§8 Entra, person", json!({ "tid": "t", "scp": "a" }), Err(CredentialUnverified)),
            ("§8 scope without a directory", json!({ "scp": ["a"] }), Ok("ledger")),
        ],
    );
}

#[test]
fn access_tokens() {
    let malformed = Err(CredentialMalformed);
    run(
        &access_token(),
        &[
            ("RFC 9068 §2.2", json!({}), Ok("ledger")),
            ("RFC 9068 §2.2", json!({ "client_id": "-" }), malformed),
            ("RFC 9068 §2.2", json!({ "client_id": "" }), malformed),
            ("RFC 9068 §2.2", json!({ "client_id": 1 }), malformed),
            ("RFC 9068 §2.2", json!({ "iat": "-" }), malformed),
            ("RFC 9068 §2.2", json!({ "jti": "-" }), malformed),
            ("RFC 9068 §2.2", json!({ "jti": "" }), malformed),
            ("RFC 9068 §2.2", json!({ "sub": "-" }), malformed),
            ("RFC 9068 §2.2", json!({ "exp": "-" }), malformed),
            ("RFC 9068 §2.2", json!({ "aud": "-" }), Err(CredentialAudience)),
            ("RFC 9068 §4", json!({ "iss": "https://issuer.test/" }), Err(IssuerUnknown)),
        ],
    );
}

#[test]
fn jwt_svids() {
    let (unverified, malformed) = (Err(CredentialUnverified), Err(CredentialMalformed));
    let workload = "spiffe://acme.example/ns/pay/ledger";
    let stand = svid();
    run(
        &stand,
        &[
            ("JWT-SVID §3.1", json!({}), Ok(workload)),
            ("JWT-SVID §3, iss is not used", json!({ "iss": "https://oidc.acme.example" }), Ok(workload)),
            ("JWT-SVID §3, iss of the domain", json!({ "iss": DOMAIN }), Ok(workload)),
            (
                "JWT-SVID §3, domain's iss, other sub",
                json!({ "iss": DOMAIN, "sub": "spiffe://other.example/x" }),
                unverified,
            ),
            ("JWT-SVID §3, domain's iss, no SPIFFE ID", json!({ "iss": DOMAIN, "sub": "ledger" }), malformed),
            ("§7 other domain", json!({ "sub": "spiffe://other.example/x" }), malformed),
            ("§7 no path", json!({ "sub": "spiffe://acme.example" }), unverified),
            ("§7 upper case", json!({ "sub": "spiffe://ACME.example/x" }), malformed),
            ("§7 no iss, no SPIFFE ID", json!({ "sub": "ledger" }), malformed),
            ("JWT-SVID §3.2", json!({ "aud": "-" }), Err(CredentialAudience)),
            ("JWT-SVID §3.3", json!({ "exp": "-" }), malformed),
        ],
    );
    let more = stand.verify(&with(stand.header(), "x", json!(1)), &stand.claims).map(drop);
    assert_eq!(more, Err(CredentialUnverified), "JWT-SVID §2: no other header parameter");
}

#[test]
fn svid_keys_are_for_svids() {
    let verify = |jwk: Value, key: &TestIssuer| {
        let record = Issuer::new(
            DOMAIN.into(),
            TokenProfile::JwtSvid,
            Algorithm::ALL.to_vec(),
            Vec::new(),
            3600,
            jwks(&[jwk]).into(),
        );
        let issuers = |iss: &str| (iss == DOMAIN).then(|| (name("it"), &record));
        let token = key.sign(&key.header(), &svid().claims);
        check(token.as_bytes(), &issuers, Timestamp::from_seconds(NOW), &NoCache).map(drop)
    };
    let unverified = Err(CredentialUnverified);
    let key = STAND.key(Algorithm::Es256);
    let rows = [
        (json!("jwt-svid"), Ok(())),
        (json!("JWT-SVID"), unverified),
        (json!("x509-svid"), unverified),
        (json!("wit-svid"), unverified),
        (json!("sig"), unverified),
        (Value::Null, unverified),
    ];
    for (said, expected) in rows {
        assert_eq!(verify(with(key.jwk(), "use", said.clone()), key), expected, "bundle §4.2.2 {said}");
    }
    assert_eq!(verify(without(key.jwk(), "use"), key), unverified, "bundle §4.2.2 absent");
    for algorithm in Algorithm::ALL {
        let key = STAND.key(algorithm);
        let expected = if algorithm == Algorithm::EdDsa { unverified } else { Ok(()) };
        assert_eq!(
            verify(with(key.jwk(), "use", json!("jwt-svid")), key),
            expected,
            "JWT-SVID §2.1 {algorithm}"
        );
    }
}

#[test]
fn spiffe_ids() {
    let long = |bytes: usize| format!("spiffe://td/{}", "a".repeat(bytes - 12));
    let domain = |bytes: usize| format!("spiffe://{}/a", "d".repeat(bytes));
    let rows = [
        ("spiffe://td", true),
        ("spiffe://td/a", true),
        ("spiffe://td.example-1_a/A/b.c/-_", true),
        (&long(2048), true),
        (&long(2049), false),
        (&domain(255), true),
        (&domain(256), false),
        ("spiffe://TD/x", false),
        ("SPIFFE://td/x", false),
        ("spiffe://td/a//b", false),
        ("spiffe://td/a/", false),
        ("spiffe://td/", false),
        ("spiffe:///a", false),
        ("spiffe://", false),
        ("spiffe://td:443/a", false),
        ("spiffe://user@td/a", false),
        ("spiffe://td/%61", false),
        ("spiffe://td/a?b", false),
        ("spiffe://td/a#b", false),
        ("spiffe://td/.", false),
        ("spiffe://td/a/../b", false),
        ("spiffe://td/ä", false),
        ("https://td/a", false),
        ("", false),
    ];
    for (id, expected) in rows {
        assert_eq!(SpiffeId::parse(id).is_some(), expected, "§7 {id}");
    }
    let id = SpiffeId::parse("spiffe://td/a/b").unwrap();
    assert_eq!((id.domain(), id.has_path(), id.as_str()), ("spiffe://td", true, "spiffe://td/a/b"));
    assert!(!SpiffeId::parse("spiffe://td").unwrap().has_path());
}

#[test]
fn service_account_tokens() {
    let stand = kubernetes();
    let malformed = Err(CredentialMalformed);
    let bound = |change: &dyn Fn(&mut Value)| {
        let mut bound = stand.claims["kubernetes.io"].clone();
        change(&mut bound);
        json!({ "kubernetes.io": bound })
    };
    let year = NOW + 365 * 86_400;
    let mut warned = bound(&|b| b["warnafter"] = json!(NOW + 3000));
    warned["exp"] = json!(year);
    let mut past = bound(&|b| b["warnafter"] = json!(NOW - 31));
    past["exp"] = json!(year);
    run(
        &stand,
        &[
            ("§8 by UID", json!({}), Ok("0e1f")),
            ("§8 made anew", bound(&|b| b["serviceaccount"]["uid"] = json!("0e20")), Ok("0e20")),
            ("§8 no pod", bound(&|b| drop(b.as_object_mut().unwrap().remove("pod"))), Ok("0e1f")),
            ("§8 other namespace", bound(&|b| b["namespace"] = json!("dev")), malformed),
            ("§8 other account", bound(&|b| b["serviceaccount"]["name"] = json!("x")), malformed),
            ("§8 no UID", bound(&|b| b["serviceaccount"] = json!({ "name": "ledger" })), malformed),
            ("§8 UID no text", bound(&|b| b["serviceaccount"]["uid"] = json!(1)), malformed),
            ("§8 pod without UID", bound(&|b| b["pod"] = json!({ "name": "x" })), malformed),
            ("§8 subject of another kind", json!({ "sub": "system:node:x" }), malformed),
            (
                "§8 token of a secret",
                json!({ "kubernetes.io": "-", "kubernetes.io/serviceaccount/namespace": "pay" }),
                malformed,
            ),
            ("§8 a year, warned of", warned, Ok("0e1f")),
            ("§8 past its warning", past, Err(CredentialExpired)),
            ("§8 a year, not warned of", json!({ "exp": year }), Err(CredentialExpired)),
            ("§8 warning no number", bound(&|b| b["warnafter"] = json!("1")), malformed),
            (
                "T34 other audience",
                json!({ "aud": "https://kubernetes.default.svc" }),
                Err(CredentialAudience),
            ),
            ("T34 other cluster", json!({ "iss": "https://other.test" }), Err(IssuerUnknown)),
        ],
    );
    let verified = stand.claims(&stand.claims).unwrap();
    assert_eq!(verified.instance().map(|uid| &**uid), Some("77aa"));
}

#[test]
fn github_jobs() {
    let malformed = Err(CredentialMalformed);
    run(
        &github(),
        &[
            ("§8 branch", json!({}), Ok("65/74:ref:refs/heads/main")),
            (
                "§8 subject with ids",
                json!({ "sub": "repo:acme@65/orders@74:ref:refs/heads/main" }),
                Ok("65/74:ref:refs/heads/main"),
            ),
            (
                "§8 renamed",
                json!({ "repository": "acme/other", "sub": "custom" }),
                Ok("65/74:ref:refs/heads/main"),
            ),
            (
                "§8 other owner, same name",
                json!({ "repository_owner_id": "66" }),
                Ok("66/74:ref:refs/heads/main"),
            ),
            ("§8 environment", json!({ "environment": "prod" }), Ok("65/74:environment:prod")),
            ("§8 colon", json!({ "environment": "a:ref:b" }), Ok("65/74:environment:a:ref:b")),
            ("§8 pull request", json!({ "event_name": "pull_request" }), Ok("65/74:pull_request")),
            (
                "§8 pull request to an environment",
                json!({ "event_name": "pull_request_target", "environment": "prod" }),
                Ok("65/74:pull_request"),
            ),
            ("§8 no owner id", json!({ "repository_owner_id": "-" }), malformed),
            ("§8 no repository id", json!({ "repository_id": "-" }), malformed),
            ("§8 id no digits", json!({ "repository_id": "74:x" }), malformed),
            ("§8 id no text", json!({ "repository_id": 74 }), malformed),
            ("§8 no event", json!({ "event_name": "-" }), malformed),
            ("§8 no ref", json!({ "ref": "-" }), malformed),
            ("§8 environment no text", json!({ "environment": 1 }), malformed),
            ("§8 default audience", json!({ "aud": "https://github.com/acme" }), Err(CredentialAudience)),
        ],
    );
}

#[test]
fn gitlab_jobs() {
    let malformed = Err(CredentialMalformed);
    run(
        &gitlab(),
        &[
            ("§8 branch", json!({}), Ok("72/22:ref_type:branch:ref:main")),
            ("§8 tag", json!({ "ref_type": "tag", "ref": "v1" }), Ok("72/22:ref_type:tag:ref:v1")),
            ("§8 moved", json!({ "namespace_id": "73" }), Ok("73/22:ref_type:branch:ref:main")),
            (
                "§8 merge request",
                json!({ "pipeline_source": "merge_request_event" }),
                Ok("72/22:merge_request"),
            ),
            ("§8 no project", json!({ "project_id": "-" }), malformed),
            ("§8 no namespace", json!({ "namespace_id": "-" }), malformed),
            ("§8 no source", json!({ "pipeline_source": "-" }), malformed),
            ("§8 protected, no string", json!({ "ref_protected": true }), malformed),
            ("§8 protected, no such string", json!({ "environment_protected": "yes" }), malformed),
            ("§8 unprotected", json!({ "ref_protected": "false" }), Ok("72/22:ref_type:branch:ref:main")),
        ],
    );
}
