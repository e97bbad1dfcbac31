//! Key sets: RFC 7517, standards §4, T28.

use portreeve::core::credential::{Algorithm, KeySet};
use portreeve::core::policy::Reason;
use portreeve::core::time::Timestamp;
use serde_json::{Value, json};

use super::{HERE, NOW, NoCache, STAND, check, claims, issuer, name, with, without};
use crate::support::issuer::{TestIssuer, base64url, jwks};

/// An RSA key of `bits` bits that nobody has the private half of.
fn rsa(bits: usize, exponent: &[u8]) -> Value {
    let mut modulus = vec![0xa5; bits.div_ceil(8)];
    modulus[0] = u8::try_from((1_u32 << ((bits - 1) % 8 + 1)) - 1).unwrap();
    json!({ "kty": "RSA", "kid": "r", "alg": "RS256", "n": base64url(&modulus), "e": base64url(exponent) })
}

fn p256() -> Value {
    STAND.key(Algorithm::Es256).jwk()
}

/// Whether the key is taken, or else why not.
fn load(jwk: &Value, allowed: &[Algorithm]) -> Result<Algorithm, &'static str> {
    let set = KeySet::parse(&jwks(std::slice::from_ref(jwk)), allowed);
    match (set.keys(), set.refused()) {
        ([key], []) => Ok(key.algorithm()),
        ([], [refused]) => Err(refused.why),
        other => panic!("one key, one outcome: {other:?}"),
    }
}

#[test]
fn keys_that_are_taken() {
    for (algorithm, key) in &STAND.keys {
        assert_eq!(load(&key.jwk(), &Algorithm::ALL), Ok(*algorithm));
    }
    let three = [3].as_slice();
    let rows = [
        (rsa(2048, &[1, 0, 1]), Algorithm::Rs256),
        (rsa(2049, &[1, 0, 1]), Algorithm::Rs256),
        (rsa(8192, three), Algorithm::Rs256),
        (rsa(2048, &[0xff; 4]), Algorithm::Rs256),
        (without(p256(), "use"), Algorithm::Es256),
        (without(p256(), "kid"), Algorithm::Es256),
        (without(p256(), "alg"), Algorithm::Es256),
        (with(p256(), "key_ops", json!(["verify"])), Algorithm::Es256),
        (with(p256(), "key_ops", json!(["sign", "verify"])), Algorithm::Es256),
        (with(p256(), "kid", json!("k".repeat(256))), Algorithm::Es256),
        (with(p256(), "unknown", json!({ "a": [1] })), Algorithm::Es256),
        (with(STAND.key(Algorithm::EdDsa).jwk(), "alg", json!("Ed25519")), Algorithm::EdDsa),
    ];
    for (jwk, algorithm) in rows {
        assert_eq!(load(&jwk, &Algorithm::ALL), Ok(algorithm), "{jwk}");
    }
}

#[test]
fn keys_refused_for_their_members() {
    let rsa2048 = || rsa(2048, &[1, 0, 1]);
    let ed = STAND.key(Algorithm::EdDsa).jwk();
    are_refused(&[
        (json!("key"), "not an object"),
        (json!({}), "`kty`"),
        (json!({ "kty": "oct", "k": "AAAA", "alg": "HS256" }), "private"),
        (json!({ "kty": "oct", "alg": "HS256" }), "symmetric"),
        (with(p256(), "kty", json!("RSA")), "`kty`"),
        (with(p256(), "kty", json!("ec")), "`kty`"),
        (with(p256(), "kty", json!("OKP")), "`kty`"),
        (with(p256(), "crv", json!("P-384")), "`alg` does not fit"),
        (with(p256(), "crv", json!("secp256k1")), "`kty`"),
        (with(p256(), "crv", json!("p-256")), "`kty`"),
        (with(p256(), "crv", Value::Null), "`kty`"),
        (with(rsa2048(), "crv", json!("P-256")), "`kty`"),
        (with(ed.clone(), "crv", json!("Ed448")), "`kty`"),
        (with(ed.clone(), "crv", json!("X25519")), "`kty`"),
        (with(p256(), "d", json!("AAAA")), "private"),
        (with(rsa2048(), "p", json!("AAAA")), "private"),
        (with(ed.clone(), "d", Value::Null), "private"),
        (with(p256(), "use", json!("enc")), "`use`"),
        (with(p256(), "use", json!("jwt-svid")), "`use`"),
        (with(p256(), "use", json!(["sig"])), "`use`"),
        (with(p256(), "key_ops", json!(["encrypt"])), "`key_ops`"),
        (with(p256(), "key_ops", json!([])), "`key_ops`"),
        (with(p256(), "key_ops", json!("verify")), "`key_ops`"),
        (with(p256(), "key_ops", json!(["verify", 1])), "`key_ops`"),
        (with(p256(), "alg", json!("HS256")), "`alg` is not"),
        (with(p256(), "alg", json!("none")), "`alg` is not"),
        (with(p256(), "alg", Value::Null), "`alg` is not"),
        (with(p256(), "alg", json!("RS256")), "`alg` does not fit"),
        (with(p256(), "alg", json!("ES384")), "`alg` does not fit"),
        (with(rsa2048(), "alg", json!("RSA-OAEP")), "`alg` is not"),
        (with(p256(), "kid", json!("k".repeat(257))), "`kid`"),
        (with(p256(), "kid", json!("")), "`kid`"),
        (with(p256(), "kid", json!("a\n")), "`kid`"),
        (with(p256(), "kid", json!(1)), "`kid`"),
    ]);
}

#[test]
fn keys_refused_for_their_numbers() {
    let (f4, rsa2048) = ([1, 0, 1].as_slice(), || rsa(2048, &[1, 0, 1]));
    let ed = STAND.key(Algorithm::EdDsa).jwk();
    let p384 = STAND.key(Algorithm::Es384).jwk();
    let (x, y) = (p256()["x"].clone(), p256()["y"].clone());
    let mut even = vec![0xff; 256];
    even[255] = 0xfe;
    are_refused(&[
        (rsa(1024, f4), "2048"),
        (rsa(2047, f4), "2048"),
        (rsa(8193, f4), "8192"),
        (rsa(2048, &[1]), "exponent"),
        (rsa(2048, &[2]), "exponent"),
        (rsa(2048, &[1, 0, 0]), "exponent"),
        (rsa(2048, &[1, 0, 0, 0, 1]), "exponent"),
        (rsa(2048, &[]), "exponent"),
        (rsa(2048, &[0, 1, 0, 1]), "leading zeros"),
        (with(rsa2048(), "n", json!(base64url(&[[0].as_slice(), &[0xff; 256]].concat()))), "leading zeros"),
        (with(rsa2048(), "n", json!(base64url(&even))), "even"),
        (with(rsa2048(), "n", json!(base64url(&marked_by_roca()))), "CVE-2017-15361"),
        (with(rsa2048(), "n", json!("")), "empty"),
        (without(rsa2048(), "n"), "missing"),
        (without(rsa2048(), "e"), "missing"),
        (with(rsa2048(), "e", json!("AQAB=")), "base64url"),
        (with(rsa2048(), "e", json!("AQA+")), "base64url"),
        (with(rsa2048(), "e", json!(65_537)), "missing"),
        (without(p256(), "y"), "missing"),
        (with(with(p256(), "x", y), "y", x), "curve"),
        (with(with(p256(), "x", json!(base64url(&[0; 32]))), "y", json!(base64url(&[0; 32]))), "curve"),
        (with(p256(), "x", json!(base64url(&[0xff; 32]))), "curve"),
        (with(p256(), "x", json!(base64url(&[1; 31]))), "field"),
        (with(p256(), "x", json!(base64url(&[0; 33]))), "field"),
        (with(p384, "x", json!(base64url(&[1; 47]))), "field"),
        (with(ed.clone(), "x", json!(base64url(&[1; 31]))), "32 bytes"),
        (with(ed, "x", json!(base64url(&[1; 33]))), "32 bytes"),
    ]);
}

fn are_refused(rows: &[(Value, &str)]) {
    for (jwk, why) in rows {
        match load(jwk, &Algorithm::ALL) {
            Err(found) => assert!(found.contains(why), "{jwk}: `{found}` is not `{why}`"),
            Ok(_) => panic!("{jwk} is taken"),
        }
    }
}

/// A modulus that is 1 modulo each of the primes which CVE-2017-15361 marks.
fn marked_by_roca() -> Vec<u8> {
    let primes = (3_u32..=167).filter(|n| (2..*n).all(|d| n % d != 0));
    let mut product = vec![1_u8];
    for prime in primes {
        let mut carry = 0;
        for byte in product.iter_mut().rev() {
            carry += u32::from(*byte) * prime;
            *byte = u8::try_from(carry & 0xff).unwrap();
            carry >>= 8;
        }
        if carry > 0 {
            product.insert(0, u8::try_from(carry).unwrap());
        }
    }
    product.resize(257, 0);
    product[256] = 1;
    product
}

#[test]
fn what_an_issuer_may_use_bounds_its_keys() {
    let rs = without(rsa(2048, &[1, 0, 1]), "alg");
    assert_eq!(load(&rs, &[Algorithm::Es256, Algorithm::Ps384, Algorithm::Rs256]), Ok(Algorithm::Ps384));
    assert_eq!(load(&rs, &[Algorithm::Es256]), Err("no allowed algorithm fits the key"));
    assert_eq!(load(&p256(), &[Algorithm::Es384]), Err("`alg` is not allowed for the issuer"));
    assert_eq!(load(&without(p256(), "alg"), &[]), Err("no allowed algorithm fits the key"));
}

#[test]
fn bad_keys_leave_good_ones() {
    let set = jwks(&[p256(), rsa(1024, &[3]), json!(1), STAND.key(Algorithm::EdDsa).jwk()]);
    let set = KeySet::parse(&set, &Algorithm::ALL);
    assert_eq!((set.len(), set.refused().len()), (2, 2));
    assert_eq!(set.refused()[0].to_string(), "key `r`: RSA modulus is not of 2048 to 8192 bits");
    assert!(set.find(Some("ES256"), Algorithm::Es256).is_some());
    assert!(set.find(Some("ES256"), Algorithm::EdDsa).is_none());
    assert!(set.find(Some("r"), Algorithm::Rs256).is_none());
}

#[test]
fn a_shared_id_refuses_all_who_share_it() {
    let other = TestIssuer::new(HERE, "ES256", Algorithm::Es384).jwk();
    let hidden = json!({ "kty": "oct", "kid": "ES256", "k": "AAAA" });
    for second in [p256(), other, hidden] {
        let set = KeySet::parse(&jwks(&[p256(), second, STAND.key(Algorithm::EdDsa).jwk()]), &Algorithm::ALL);
        assert_eq!(set.len(), 1);
        assert!(set.refused().iter().all(|refused| refused.why == "`kid` is not unique in the set"));
        assert_eq!(set.refused().len(), 2);
    }
}

#[test]
fn sets_at_their_bounds() {
    let bare = without(p256(), "kid");
    let many = |count: usize| jwks(&vec![bare.clone(); count]);
    assert_eq!(KeySet::parse(&many(100), &Algorithm::ALL).len(), 100);
    let too_many = KeySet::parse(&many(101), &Algorithm::ALL);
    assert_eq!((too_many.len(), too_many.refused().len()), (0, 1));
    let mut wide = jwks(&[p256()]);
    wide.resize(256 * 1024, b' ');
    assert_eq!(KeySet::parse(&wide, &Algorithm::ALL).len(), 1);
    wide.push(b' ');
    assert_eq!(KeySet::parse(&wide, &Algorithm::ALL).len(), 0);
}

#[test]
fn a_set_that_does_not_parse_is_empty() {
    let twice = format!("{{\"keys\":[{}],\"keys\":[]}}", p256());
    for text in ["", "[]", "{}", "{\"keys\":{}}", "{\"keys\":null}", "{\"keys\":[]}}", &twice] {
        let set = KeySet::parse(text.as_bytes(), &Algorithm::ALL);
        assert!(set.is_empty(), "{text}");
        assert_eq!(set.refused().len(), 1, "{text}");
        assert_eq!(set.refused()[0].key_id, None);
    }
    let none = KeySet::parse(b"{\"keys\":[]}", &Algorithm::ALL);
    assert!(none.is_empty() && none.refused().is_empty());
    assert_ne!(none, KeySet::default());
}

#[test]
fn equal_sets_have_equal_digests() {
    let set = jwks(&[p256()]);
    assert_eq!(KeySet::parse(&set, &Algorithm::ALL), KeySet::parse(&set, &Algorithm::ALL));
    assert_ne!(KeySet::parse(&set, &Algorithm::ALL), KeySet::parse(&set, &[Algorithm::Es256]));
    assert_ne!(KeySet::parse(&set, &Algorithm::ALL), KeySet::parse(&jwks(&[]), &Algorithm::ALL));
}

#[test]
fn a_token_without_key_id_needs_the_only_key() {
    let (one, two) = (TestIssuer::es256(), TestIssuer::new(HERE, "key-2", Algorithm::Es256));
    let ed = TestIssuer::new(HERE, "key-3", Algorithm::EdDsa);
    let token = one.sign(&without(one.header(), "kid"), &claims());
    let ask = |keys: &[Value]| {
        let record = issuer(HERE, &Algorithm::ALL, &jwks(keys));
        let issuers = |_: &str| Some((name("here"), &record));
        check(token.as_bytes(), &issuers, Timestamp::from_seconds(NOW), &NoCache)
            .map(|done| done.verified.key_id().to_string())
    };
    assert_eq!(ask(&[one.jwk(), ed.jwk()]), Ok("key-1".to_owned()));
    assert_eq!(ask(&[without(one.jwk(), "kid")]), Ok(String::new()));
    assert_eq!(ask(&[one.jwk(), two.jwk()]), Err(Reason::CredentialUnverified));
    assert_eq!(ask(&[two.jwk()]), Err(Reason::CredentialUnverified));
    assert_eq!(ask(&[]), Err(Reason::CredentialUnverified));
}

#[test]
fn a_new_key_works_and_a_removed_one_does_not() {
    let (old, new) = (TestIssuer::es256(), TestIssuer::new(HERE, "key-2", Algorithm::Es256));
    let record = issuer(HERE, &[new.algorithm()], &new.jwks());
    let issuers = |_: &str| Some((name("here"), &record));
    let ask = |key: &TestIssuer| {
        let token = key.sign(&key.header(), &claims());
        check(token.as_bytes(), &issuers, Timestamp::from_seconds(NOW), &NoCache).map(drop)
    };
    assert_eq!(ask(&new), Ok(()));
    assert_eq!(ask(&old), Err(Reason::CredentialUnverified));
    assert_eq!((old.iss(), old.key_id(), new.key_id()), (HERE, "key-1", "key-2"));
}

#[test]
fn an_issuer_record_takes_its_own_tokens() {
    for key in [TestIssuer::es256(), TestIssuer::eddsa(), TestIssuer::rs256()] {
        let record = key.record();
        let issuers = |iss: &str| (*record.iss == *iss).then(|| (name("here"), &record));
        let token = key.sign(&key.header(), &claims());
        let done = check(token.as_bytes(), &issuers, Timestamp::from_seconds(NOW), &NoCache);
        assert!(done.is_ok(), "{}", key.algorithm());
    }
}
