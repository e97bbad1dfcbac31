//! Tokens that another library made, of each algorithm: taken, and refused once touched.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use portreeve::core::credential::Algorithm;
use portreeve::core::policy::Reason;
use portreeve::core::time::Timestamp;
use serde_json::Value;

use super::{HERE, NOW, NoCache, check, issuer, name};
use crate::support::node::{peers, script};
use crate::support::process::output_of;

#[test]
fn tokens_of_another_library_are_taken_and_touched_ones_are_not() {
    let Some(peers) = peers() else { return };
    let output = output_of(script(&peers, "jose.mjs").env("ISS", HERE).env("NOW", NOW.to_string()));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let made: Value = serde_json::from_slice(&output.stdout).unwrap();
    let known = issuer(HERE, &Algorithm::ALL, made["jwks"].to_string().as_bytes());
    assert!(known.keys.refused().is_empty(), "{:?}", known.keys.refused());
    let issuers = |iss: &str| (iss == HERE).then(|| (name("here"), &known));
    let verdict =
        |token: &str| check(token.as_bytes(), &issuers, Timestamp::from_seconds(NOW), &NoCache).map(|_| ());
    let mut seen = Vec::new();
    for (algorithm, token) in made["tokens"].as_object().unwrap() {
        let token = token.as_str().unwrap();
        assert_eq!(verdict(token), Ok(()), "{algorithm}");
        seen.push(algorithm.clone());
        let parts: Vec<_> = token.split('.').collect();
        let [header, payload, signature] = parts[..] else { panic!("three parts") };
        // Another subject, as long as the one before; each bit of a signature's ends; another's signature.
        let claims = String::from_utf8(URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap();
        let other = URL_SAFE_NO_PAD.encode(claims.replace("ledger", "ledges"));
        assert_eq!(
            verdict(&format!("{header}.{other}.{signature}")),
            Err(Reason::CredentialUnverified),
            "{algorithm}"
        );
        let bytes = URL_SAFE_NO_PAD.decode(signature).unwrap();
        for place in [0, bytes.len() / 2, bytes.len() - 1] {
            for bit in 0..8 {
                let mut touched = bytes.clone();
                touched[place] ^= 1 << bit;
                let token = format!("{header}.{payload}.{}", URL_SAFE_NO_PAD.encode(touched));
                assert_eq!(verdict(&token), Err(Reason::CredentialUnverified), "{algorithm} {place} {bit}");
            }
        }
        for (another, token) in made["tokens"].as_object().unwrap() {
            let foreign = token.as_str().unwrap().rsplit('.').next().unwrap();
            let mixed = verdict(&format!("{header}.{payload}.{foreign}"));
            assert_eq!(mixed.is_ok(), algorithm == another, "{algorithm}, signed as {another}");
        }
    }
    seen.sort();
    let mut all: Vec<_> = Algorithm::ALL.map(|algorithm| algorithm.as_str().to_owned()).into();
    all.sort();
    assert_eq!(seen, all, "each algorithm");
}
