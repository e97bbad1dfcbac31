//! The public keys of one issuer (RFC 7517 §5), parsed once when they arrive.
//!
//! INVARIANT: a key verifies with the one algorithm it is pinned to, and no two keys
//! share a key id. Both are made true in [`KeySet::parse`].

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use aws_lc_rs::signature::ParsedPublicKey;

use super::algorithm::Algorithm;
use super::json::{self, Value};
use super::jwk;

/// An issuer's keys. A set that does not parse is an empty one that says why.
#[derive(Clone, Debug, Default)]
pub struct KeySet {
    keys: Vec<VerifyKey>,
    by_id: BTreeMap<Arc<str>, usize>,
    refused: Vec<RefusedKey>,
    digest: [u8; 32],
}

impl KeySet {
    /// Parses a JWK set of at most 256 KiB and 100 keys, for the algorithms `allowed`.
    ///
    /// Bad keys are refused one by one, keys that share a `kid` all of them; what is
    /// wrong with the set as a whole empties it. Neither is an error: see [`Self::refused`].
    pub fn parse(jwks_json: &[u8], allowed: &[Algorithm]) -> Self {
        Self::parse_for(jwks_json, allowed, KeyUse::Signature)
    }

    /// The same, for keys of another use.
    pub fn parse_for(jwks_json: &[u8], allowed: &[Algorithm], key_use: KeyUse) -> Self {
        let digest = digest(jwks_json, allowed, key_use);
        let jwks = match members(jwks_json, SET_BYTES_MAX) {
            Ok(jwks) => jwks,
            Err(why) => {
                return Self { refused: vec![RefusedKey { key_id: None, why }], digest, ..Self::default() };
            }
        };
        let mut uses: BTreeMap<Arc<str>, usize> = BTreeMap::new();
        for id in jwks.iter().filter_map(jwk::key_id) {
            *uses.entry(id).or_default() += 1;
        }
        let mut set = Self { digest, ..Self::default() };
        for jwk in &jwks {
            let key_id = jwk::key_id(jwk);
            let shared = key_id.as_ref().and_then(|id| uses.get(id)).is_some_and(|count| *count > 1);
            let made = if shared {
                Err("`kid` is not unique in the set")
            } else {
                jwk::verify_key(jwk, allowed, key_use)
            };
            match made {
                Ok(key) => set.push(key),
                Err(why) => set.refused.push(RefusedKey { key_id, why }),
            }
        }
        set
    }

    /// The key for a token that names `key_id` and `algorithm`.
    ///
    /// With an id: the key of that id, if it is pinned to that algorithm. Without: the
    /// only key pinned to that algorithm, if there is just one.
    pub fn find(&self, key_id: Option<&str>, algorithm: Algorithm) -> Option<&VerifyKey> {
        let fits = |key: &&VerifyKey| key.algorithm == algorithm;
        if let Some(key_id) = key_id {
            return self.by_id.get(key_id).and_then(|place| self.keys.get(*place)).filter(fits);
        }
        let mut fitting = self.keys.iter().filter(fits);
        fitting.next().filter(|_| fitting.next().is_none())
    }

    /// Whether the set has a key of this id, usable or not.
    pub fn names(&self, key_id: &str) -> bool {
        self.by_id.contains_key(key_id)
            || self.refused.iter().any(|key| key.key_id.as_deref() == Some(key_id))
    }

    /// The usable keys, in the set's order.
    pub fn keys(&self) -> &[VerifyKey] {
        &self.keys
    }

    /// The keys that are not used, and why.
    pub fn refused(&self) -> &[RefusedKey] {
        &self.refused
    }

    /// How many keys are usable.
    pub const fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether no key is usable: nothing verifies.
    pub const fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// BLAKE3 over all that [`Self::parse`] was given; zero for the default set.
    pub const fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    fn push(&mut self, key: VerifyKey) {
        if let Some(id) = &key.key_id {
            self.by_id.insert(Arc::clone(id), self.keys.len());
        }
        self.keys.push(key);
    }
}

/// What the keys of a set must say they are for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeyUse {
    /// `sig`, or nothing (RFC 7517 §4.2).
    Signature,
    /// `jwt-svid`, said and in this case (SPIFFE Trust Domain and Bundle §4.2.2).
    JwtSvid,
}

impl PartialEq for KeySet {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl Eq for KeySet {}

/// A public key, pinned to one algorithm.
#[derive(Clone)]
pub struct VerifyKey {
    pub(super) key_id: Option<Arc<str>>,
    pub(super) algorithm: Algorithm,
    pub(super) thumbprint: [u8; 32],
    pub(super) signature_bytes: usize,
    pub(super) parsed: ParsedPublicKey,
}

impl VerifyKey {
    /// Its `kid`, if it has one.
    pub const fn key_id(&self) -> Option<&Arc<str>> {
        self.key_id.as_ref()
    }

    /// The one algorithm it verifies.
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Its RFC 7638 thumbprint, with SHA-256.
    pub const fn thumbprint(&self) -> &[u8; 32] {
        &self.thumbprint
    }

    /// Whether `signature` over `signing_input` is this key's.
    ///
    /// # Standard
    /// RFC 7518 §3.3 to §3.5 and RFC 8037 §3.1. ECDSA signatures are R and S of the
    /// field's length, RSA ones as long as the modulus; other lengths are refused first.
    #[must_use]
    pub fn verify(&self, signing_input: &[u8], signature: &[u8]) -> bool {
        signature.len() == self.signature_bytes && self.parsed.verify_sig(signing_input, signature).is_ok()
    }
}

impl fmt::Debug for VerifyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifyKey")
            .field("key_id", &self.key_id)
            .field("algorithm", &self.algorithm)
            .finish_non_exhaustive()
    }
}

/// A key that is not used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RefusedKey {
    /// Its `kid`, if that is fit to be shown; `None` also when the whole set is refused.
    pub key_id: Option<Arc<str>>,
    /// What is wrong with it: one of a fixed list of texts.
    pub why: &'static str,
}

impl fmt::Display for RefusedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.key_id {
            Some(id) => write!(f, "key `{id}`: {}", self.why),
            None => f.write_str(self.why),
        }
    }
}

/// A set as a hub keeps it, and what it left out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CanonicalSet {
    /// A JSON Web Key Set.
    pub jwks: Vec<u8>,
    /// Keys that are not even kept, and why.
    pub dropped: Vec<RefusedKey>,
}

/// Brings a set that was fetched into the one form that it is kept in: what verification reads of each
/// key and nothing else, in an order that is not the sender's. Sets that mean the same become equal.
///
/// Keys with private members are left out: a secret must not be kept, and is no secret any more. Of a
/// SPIFFE bundle only the keys of `key_use` are kept: its others are for certificates, and no fault.
///
/// # Errors
/// Why the whole is no set to be kept.
pub fn canonical(fetched: &[u8], key_use: KeyUse) -> Result<CanonicalSet, &'static str> {
    let mut kept = Vec::new();
    let mut dropped = Vec::new();
    let fetched = members(fetched, FETCHED_BYTES_MAX)?;
    for jwk in fetched.iter().filter(|jwk| !jwk::is_for_others(jwk, key_use)) {
        match jwk::public_members(jwk) {
            Ok(public) => kept.push(serde_json::Value::Object(public).to_string()),
            Err(why) => dropped.push(RefusedKey { key_id: jwk::key_id(jwk), why }),
        }
    }
    kept.sort_unstable();
    let jwks = format!(r#"{{"keys":[{}]}}"#, kept.join(",")).into_bytes();
    if jwks.len() > SET_BYTES_MAX {
        return Err("key set is longer than 256 KiB");
    }
    Ok(CanonicalSet { jwks, dropped })
}

fn members(jwks_json: &[u8], bytes_max: usize) -> Result<Vec<Value<'_>>, &'static str> {
    if jwks_json.len() > bytes_max {
        return Err("key set is longer than 256 KiB");
    }
    let mut object = json::parse_object(jwks_json).map_err(|_| "key set is not a strict JSON object")?;
    match object.remove("keys") {
        Some(Value::Array(keys)) if keys.len() > KEYS_MAX => Err("key set has more than 100 keys"),
        Some(Value::Array(keys)) => Ok(keys),
        _ => Err("key set has no `keys` array"),
    }
}

fn digest(jwks_json: &[u8], allowed: &[Algorithm], key_use: KeyUse) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    if key_use == KeyUse::JwtSvid {
        hasher.update(b"jwt-svid\n");
    }
    for algorithm in allowed {
        hasher.update(algorithm.as_str().as_bytes());
        hasher.update(b"\n");
    }
    hasher.update(b"\n");
    hasher.update(jwks_json);
    *hasher.finalize().as_bytes()
}

/// A set without keys.
pub const NO_KEYS: &[u8] = br#"{"keys":[]}"#;
/// Longest set, in bytes.
const SET_BYTES_MAX: usize = 256 * 1024;
/// Longest set as it comes, with what is not kept of it.
const FETCHED_BYTES_MAX: usize = 1024 * 1024;
const KEYS_MAX: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(fetched: &str) -> (String, Vec<String>) {
        let set = canonical(fetched.as_bytes(), KeyUse::Signature).unwrap();
        (String::from_utf8(set.jwks).unwrap(), set.dropped.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn sets_that_mean_the_same_become_equal() {
        let one = r#"{"keys":[{"kid":"b","kty":"OKP","crv":"Ed25519","x":"AA"},{"kty":"RSA","n":"AQ","e":"AQAB","kid":"a"}]}"#;
        let other = r#" {"spiffe_sequence": 7, "keys": [
            {"n":"AQ", "e":"AQAB","kid":"a","kty":"RSA","x5c":["MII"],"x5t":"t","exp":9},
            {"x":"AA","kty":"OKP","crv":"Ed25519","kid":"b"}]}"#;
        assert_eq!(kept(one), kept(other));
        let (jwks, dropped) = kept(one);
        assert_eq!(
            jwks,
            r#"{"keys":[{"kid":"a","kty":"RSA","n":"AQ","e":"AQAB"},{"kid":"b","kty":"OKP","crv":"Ed25519","x":"AA"}]}"#
        );
        assert!(dropped.is_empty());
        assert_ne!(kept(one).0, kept(&one.replace("AQAB", "AQAC")).0);
        assert_eq!(kept(r#"{"keys":[]}"#).0, r#"{"keys":[]}"#);
    }

    #[test]
    fn of_a_spiffe_bundle_the_keys_of_certificates_are_no_fault() {
        let key = |key_use: &str| {
            format!(r#"{{"kty":"OKP","crv":"Ed25519","x":"AA","use":"{key_use}","kid":"{key_use}"}}"#)
        };
        let uses = ["jwt-svid", "x509-svid", "wit-svid", "enc", "JWT-SVID"];
        let bundle = format!(r#"{{"spiffe_sequence":1,"keys":[{}]}}"#, uses.map(key).join(","));
        let of = |key_use| String::from_utf8(canonical(bundle.as_bytes(), key_use).unwrap().jwks).unwrap();
        let kept = |set: &str| uses.map(|name| set.contains(&format!(r#""kid":"{name}""#)));
        // What is none of SPIFFE's own uses stays, to be refused by name.
        assert_eq!(kept(&of(KeyUse::JwtSvid)), [true, false, false, true, true]);
        assert_eq!(kept(&of(KeyUse::Signature)), [true; 5]);
    }

    #[test]
    fn what_is_kept_is_refused_for_the_same_reason() {
        let all = [Algorithm::EdDsa];
        let x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
        for (members, usable) in [
            (format!(r#""crv":"Ed25519","x":"{x}","kid":"a""#), true),
            (format!(r#""crv":"Ed25519","x":"{x}","kid":7"#), false),
            (format!(r#""crv":"Ed25519","x":"{x}","use":"enc""#), false),
            (format!(r#""crv":"Ed25519","x":"{x}","use":["sig"]"#), false),
            (format!(r#""crv":"Ed25519","x":"{x}","key_ops":["verify"]"#), true),
            (format!(r#""crv":"Ed25519","x":"{x}","key_ops":["verify",1]"#), false),
            (format!(r#""crv":"Ed25519","x":"{x}","key_ops":["encrypt"]"#), false),
            (format!(r#""crv":"Ed25519","x":"{x}","alg":null"#), false),
        ] {
            let fetched = format!(r#"{{"keys":[{{"kty":"OKP",{members}}}]}}"#);
            let before = KeySet::parse(fetched.as_bytes(), &all);
            let after = KeySet::parse(&canonical(fetched.as_bytes(), KeyUse::Signature).unwrap().jwks, &all);
            assert_eq!(before.len(), usize::from(usable), "{members}");
            assert_eq!((before.len(), before.refused()), (after.len(), after.refused()), "{members}");
        }
    }

    #[test]
    fn a_secret_is_not_kept_and_what_is_no_set_is_refused() {
        let fetched = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"AA","d":"s3cret","kid":"a"},{"kty":"oct","k":"s3cret"},5]}"#;
        let (jwks, dropped) = kept(fetched);
        assert_eq!(jwks, r#"{"keys":[]}"#);
        assert_eq!(dropped.len(), 3);
        assert!(dropped[0].starts_with("key `a`: secret"), "{dropped:?}");
        let many = vec![r#"{"kty":"RSA"}"#; KEYS_MAX + 1].join(",");
        let long = "A".repeat(SET_BYTES_MAX);
        for bad in [
            "[]",
            "{}",
            r#"{"keys":{}}"#,
            r#"{"keys":[],"keys":[]}"#,
            r#"{"keys":[]} x"#,
            &format!(r#"{{"keys":[{many}]}}"#),
            &format!(r#"{{"keys":[{{"kty":"RSA","n":"{long}"}}]}}"#),
        ] {
            assert!(canonical(bad.as_bytes(), KeyUse::Signature).is_err(), "{}", &bad[..bad.len().min(60)]);
        }
    }
}
