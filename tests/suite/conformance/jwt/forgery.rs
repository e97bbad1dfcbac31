//! Signatures made without the key, or with it but for something else (T1 to T7).

use aws_lc_rs::hmac;
use portreeve::core::credential::Algorithm;
use portreeve::core::policy::Reason::*;
use serde_json::json;

use super::rows::{header_row, row, run};
use super::{STAND, claims, with};
use crate::support::issuer::{TestIssuer, base64url};

#[test]
fn algorithm_confusion() {
    let unverified = Err(CredentialUnverified);
    let mut rows = Vec::new();
    for none in ["none", "None", "nOnE", "NONE", " none", "", "es256", "ES256K", "HS256", "RS256", "ES384"] {
        rows.push(header_row("T1", "alg", json!(none), unverified));
    }
    let payload = base64url(claims().to_string().as_bytes());
    let none = base64url(b"{\"alg\":\"none\"}");
    rows.push(row("T1 unsigned", format!("{none}.{payload}."), Err(CredentialMalformed)));
    let rsa = STAND.key(Algorithm::Rs256);
    let modulus = rsa.jwk()["n"].as_str().unwrap().as_bytes().to_vec();
    let secrets =
        [rsa.public_key_der(), pem(rsa).into_bytes(), rsa.jwk().to_string().into_bytes(), modulus, vec![]];
    for secret in secrets {
        let header = with(rsa.header(), "alg", json!("HS256")).to_string();
        let input = format!("{}.{payload}", base64url(header.as_bytes()));
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &secret), input.as_bytes());
        rows.push(row("T2 public key as secret", format!("{input}.{}", base64url(tag.as_ref())), unverified));
    }
    for named in [Algorithm::Rs384, Algorithm::Rs512, Algorithm::Ps256, Algorithm::Ps384] {
        let header = with(rsa.header(), "alg", json!(named.as_str())).to_string();
        let input = format!("{}.{payload}", base64url(header.as_bytes()));
        let signature = rsa.signature_as(named, input.as_bytes());
        let token = format!("{input}.{}", base64url(&signature));
        rows.push(row(format!("T3 {named} with an RS256 key"), token, unverified));
    }
    let other_pad = resigned(Algorithm::Rs256, |_| vec![0x55; 256]);
    rows.push(row("T3 RS256 of noise", other_pad, unverified));
    run(rows);
}

fn pem(key: &TestIssuer) -> String {
    let body = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, key.public_key_der());
    format!("-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n")
}

/// A good token of `algorithm` with its signature replaced.
fn resigned(algorithm: Algorithm, change: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
    let key = STAND.key(algorithm);
    let input = format!(
        "{}.{}",
        base64url(key.header().to_string().as_bytes()),
        base64url(claims().to_string().as_bytes())
    );
    let signature = change(&key.signature(input.as_bytes()));
    format!("{input}.{}", base64url(&signature))
}

#[test]
fn forged_signatures() {
    let unverified = Err(CredentialUnverified);
    let mut rows = Vec::new();
    for (algorithm, half) in [(Algorithm::Es256, 32), (Algorithm::Es384, 48), (Algorithm::Es512, 66)] {
        let rows_of = |change: &dyn Fn(&[u8]) -> Vec<u8>, clause: &str| {
            row(format!("{clause} {algorithm}"), resigned(algorithm, change), unverified)
        };
        rows.push(rows_of(&|_| vec![0; 2 * half], "T4 r = s = 0"));
        rows.push(rows_of(&|good| [vec![0; half], good[half..].to_vec()].concat(), "T4 r = 0"));
        rows.push(rows_of(&|good| [good[..half].to_vec(), vec![0; half]].concat(), "T4 s = 0"));
        rows.push(rows_of(&|_| vec![0xff; 2 * half], "T4 r and s over the order"));
        rows.push(rows_of(&|good| good[..2 * half - 1].to_vec(), "T5 short"));
        rows.push(rows_of(&|good| [good, &[0]].concat(), "T5 long"));
        rows.push(rows_of(&|good| [&[0], good].concat(), "T5 leading zero"));
        rows.push(rows_of(&widened, "T5 halves widened by 16 bytes"));
        rows.push(rows_of(&der, "T5 DER"));
    }
    let zero = |_: &[u8]| [ORDER_P256, [0; 32]].concat();
    rows.push(row("T4 r = n, s = 0", resigned(Algorithm::Es256, zero), unverified));
    let plus_order = |good: &[u8]| [&good[..32], &plus_l(&good[32..])].concat();
    rows.push(row("T6 S + L", resigned(Algorithm::EdDsa, plus_order), unverified));
    let small = |good: &[u8]| [&[1], &[0; 31][..], &good[32..]].concat();
    rows.push(row("T6 R of small order", resigned(Algorithm::EdDsa, small), unverified));
    let zeros = |_: &[u8]| [[1].as_slice(), &[0; 63]].concat();
    rows.push(row("T6 R of small order, S = 0", resigned(Algorithm::EdDsa, zeros), unverified));
    rows.push(row("T6 long", resigned(Algorithm::EdDsa, |good| [good, &[0]].concat()), unverified));
    for algorithm in [Algorithm::Rs256, Algorithm::Ps256] {
        rows.push(row("T7 short", resigned(algorithm, |good| good[1..].to_vec()), unverified));
        rows.push(row("T7 long", resigned(algorithm, |good| [&[0], good].concat()), unverified));
        rows.push(row("T7 zeros", resigned(algorithm, |good| vec![0; good.len()]), unverified));
        rows.push(row("T7 over the modulus", resigned(algorithm, |good| vec![0xff; good.len()]), unverified));
    }
    run(rows);
}

/// The order of P-256.
const ORDER_P256: [u8; 32] = [
    0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc, 0xe6, 0xfa,
    0xad, 0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
];

/// The order of the Edwards 25519 base point, little-endian.
const ORDER_ED25519: [u8; 32] = [
    0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
];

fn plus_l(scalar: &[u8]) -> Vec<u8> {
    let mut carry = 0;
    let sums = scalar.iter().zip(ORDER_ED25519).map(|(a, b)| {
        let sum = u16::from(*a) + u16::from(b) + carry;
        carry = sum >> 8;
        u8::try_from(sum & 0xff).unwrap()
    });
    sums.collect()
}

fn widened(good: &[u8]) -> Vec<u8> {
    let (r, s) = good.split_at(good.len() / 2);
    [&[0; 16], r, &[0; 16], s].concat()
}

fn der(good: &[u8]) -> Vec<u8> {
    let integer = |half: &[u8]| {
        let bytes = [&[0], half].concat();
        [&[2, u8::try_from(bytes.len()).unwrap()], bytes.as_slice()].concat()
    };
    let (r, s) = good.split_at(good.len() / 2);
    let body = [integer(r), integer(s)].concat();
    let length = u8::try_from(body.len()).unwrap();
    let head = if length < 128 { vec![0x30, length] } else { vec![0x30, 0x81, length] };
    [head, body].concat()
}
