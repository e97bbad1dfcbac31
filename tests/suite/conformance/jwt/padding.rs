//! RSA paddings that only look right (T7: RFC 8017 §8.2.2 and §9.1.2).
//!
//! No private key is needed: for a padded message `m` and any `s` with `s³ > m`, the
//! key of modulus `s³ - m` and exponent 3 takes `s` as the signature of `m`.

use aws_lc_rs::digest::{Algorithm as Hash, SHA256, SHA512, digest};
use portreeve::core::credential::Algorithm;
use portreeve::core::policy::Reason;
use portreeve::core::time::Timestamp;
use serde_json::json;

use super::{HERE, NOW, NoCache, check, claims, issuer, name};
use crate::support::issuer::{base64url, jwks};

/// What an RSA signature opens to, for a signing input.
type Padding<'a> = &'a dyn Fn(&[u8]) -> Vec<u8>;

const BYTES: usize = 256;
const SHA256_INFO: [u8; 19] =
    [0x30, 0x31, 0x30, 0x0d, 6, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1, 5, 0, 4, 0x20];
const SHA512_INFO: [u8; 19] =
    [0x30, 0x51, 0x30, 0x0d, 6, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 3, 5, 0, 4, 0x40];
const WITHOUT_NULL: [u8; 17] = [0x30, 0x2f, 0x30, 0x0b, 6, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1, 4, 0x20];
const LONG_LENGTH: [u8; 20] =
    [0x30, 0x81, 0x31, 0x30, 0x0d, 6, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1, 5, 0, 4, 0x20];

/// What comes of a token whose signature opens to `padded(signing input)`.
fn opened(algorithm: Algorithm, padded: impl Fn(&[u8]) -> Vec<u8>) -> Result<(), Reason> {
    let header = json!({ "alg": algorithm.as_str(), "kid": "r" }).to_string();
    let input = format!("{}.{}", base64url(header.as_bytes()), base64url(claims().to_string().as_bytes()));
    let message = padded(input.as_bytes());
    assert_eq!(message.len(), BYTES);
    let mut root = vec![0; 86];
    (root[0], root[1], root[85]) = (6, 0x59, 2 | (1 - message[BYTES - 1] % 2));
    let modulus = minus(&times(&times(&root, &root), &root), &message);
    let signature = [vec![0; BYTES - root.len()], root].concat();
    let jwk = json!({ "kty": "RSA", "kid": "r", "n": base64url(&modulus), "e": "Aw" });
    let record = issuer(HERE, &[algorithm], &jwks(&[jwk]));
    assert!(record.keys.refused().is_empty(), "{:?}", record.keys.refused());
    let token = format!("{input}.{}", base64url(&signature));
    let issuers = |_: &str| Some((name("here"), &record));
    check(token.as_bytes(), &issuers, Timestamp::from_seconds(NOW), &NoCache).map(drop)
}

#[test]
fn pkcs1() {
    let sha256 = |input: &[u8]| digest(&SHA256, input).as_ref().to_vec();
    let sha512 = |input: &[u8]| digest(&SHA512, input).as_ref().to_vec();
    let info = |info: &[u8], input: &[u8]| [&[0], info, &sha256(input)].concat();
    let good = |input: &[u8]| filled(&[0, 1], &info(&SHA256_INFO, input));
    assert_eq!(opened(Algorithm::Rs256, good), Ok(()), "as it should be");
    let rows: [(&str, Padding<'_>); 11] = [
        ("no NULL", &|input| filled(&[0, 1], &info(&WITHOUT_NULL, input))),
        ("long-form length", &|input| filled(&[0, 1], &info(&LONG_LENGTH, input))),
        ("bare digest", &|input| filled(&[0, 1], &info(&[], input))),
        ("another digest", &|input| filled(&[0, 1], &[&[0], &SHA512_INFO[..], &sha512(input)].concat())),
        ("SHA-512's name, SHA-256's digest", &|input| filled(&[0, 1], &info(&SHA512_INFO, input))),
        ("block type 0", &|input| filled(&[0, 0], &info(&SHA256_INFO, input))),
        ("block type 2", &|input| filled(&[0, 2], &info(&SHA256_INFO, input))),
        ("no zero behind the pad", &|input| filled(&[0, 1], &info(&SHA256_INFO, input)[1..])),
        ("short pad, trailing bytes", &|input| {
            let mut bytes =
                [&[0, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], &info(&SHA256_INFO, input)[..]]
                    .concat();
            bytes.resize(BYTES, 0x11);
            bytes
        }),
        ("a trailing byte", &|input| filled(&[0, 1], &[info(&SHA256_INFO, input), vec![0x11]].concat())),
        ("a wrong pad byte", &|input| {
            let mut bytes = filled(&[0, 1], &info(&SHA256_INFO, input));
            bytes[9] = 0xfe;
            bytes
        }),
    ];
    for (what, padded) in rows {
        assert_eq!(opened(Algorithm::Rs256, padded), Err(Reason::CredentialUnverified), "{what}");
    }
    assert_eq!(opened(Algorithm::Ps256, good), Err(Reason::CredentialUnverified), "a PSS key");
}

#[test]
fn pss() {
    let good = |input: &[u8]| pss_padded(input, 32, &SHA256);
    assert_eq!(opened(Algorithm::Ps256, good), Ok(()), "as it should be");
    assert_eq!(opened(Algorithm::Rs256, good), Err(Reason::CredentialUnverified), "a PKCS#1 key");
    for salt in [0, 20, 31, 33, 64, 222] {
        let padded = |input: &[u8]| pss_padded(input, salt, &SHA256);
        assert_eq!(opened(Algorithm::Ps256, padded), Err(Reason::CredentialUnverified), "salt of {salt}");
    }
    let mask = |input: &[u8]| pss_padded(input, 32, &SHA512);
    assert_eq!(opened(Algorithm::Ps256, mask), Err(Reason::CredentialUnverified), "mask of another hash");
    let trailer = |input: &[u8]| [&good(input)[..BYTES - 1], &[0xcc]].concat();
    assert_eq!(opened(Algorithm::Ps256, trailer), Err(Reason::CredentialUnverified), "trailer");
}

/// `start`, as many 0xff as there is room for, `end`.
fn filled(start: &[u8], end: &[u8]) -> Vec<u8> {
    [start, &vec![0xff; BYTES - start.len() - end.len()], end].concat()
}

/// EMSA-PSS with SHA-256, a salt of this length, and the mask made by `mask`.
fn pss_padded(input: &[u8], salt: usize, mask: &'static Hash) -> Vec<u8> {
    let salt = vec![0x5a; salt];
    let message = digest(&SHA256, input);
    let hash = digest(&SHA256, &[&[0; 8], message.as_ref(), &salt].concat());
    let mut block = vec![0; BYTES - 32 - 1];
    let place = block.len() - salt.len();
    block[place - 1] = 1;
    block[place..].copy_from_slice(&salt);
    let masks = (0_u32..)
        .flat_map(|count| digest(mask, &[hash.as_ref(), &count.to_be_bytes()].concat()).as_ref().to_vec());
    block.iter_mut().zip(masks).for_each(|(byte, mask)| *byte ^= mask);
    block[0] &= 0x7f;
    [block.as_slice(), hash.as_ref(), &[0xbc]].concat()
}

/// The product of two big-endian numbers, without leading zeros.
fn times(a: &[u8], b: &[u8]) -> Vec<u8> {
    let mut product = vec![0_u64; a.len() + b.len()];
    for (i, x) in a.iter().enumerate() {
        for (j, y) in b.iter().enumerate() {
            product[i + j + 1] += u64::from(*x) * u64::from(*y);
        }
    }
    let mut carry = 0;
    for digit in product.iter_mut().rev() {
        carry += *digit;
        *digit = carry & 0xff;
        carry >>= 8;
    }
    product.into_iter().skip_while(|digit| *digit == 0).map(|digit| u8::try_from(digit).unwrap()).collect()
}

/// The difference of two big-endian numbers of equal length, the first being larger.
fn minus(a: &[u8], b: &[u8]) -> Vec<u8> {
    assert_eq!(a.len(), b.len());
    let mut difference = a.to_vec();
    let mut borrow = 0;
    for (digit, less) in difference.iter_mut().zip(b).rev() {
        let value = i16::from(*digit) - i16::from(*less) - borrow;
        borrow = i16::from(value < 0);
        *digit = u8::try_from(value.rem_euclid(256)).unwrap();
    }
    assert_eq!(borrow, 0);
    difference
}
