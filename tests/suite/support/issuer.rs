//! A fake token issuer: one key, any header, any claims.

use std::sync::Arc;

use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    self, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RsaEncoding, RsaKeyPair, RsaPublicKeyComponents,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use portreeve::core::credential::Algorithm;
use portreeve::core::identity::{Issuer, TokenProfile};
use serde_json::{Value, json};

/// An issuer with one signing key.
pub(crate) struct TestIssuer {
    iss: String,
    key_id: String,
    algorithm: Algorithm,
    signer: Signer,
}

enum Signer {
    Rsa(RsaKeyPair),
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
}

impl TestIssuer {
    /// Makes a new key for `algorithm`.
    pub(crate) fn new(iss: &str, key_id: &str, algorithm: Algorithm) -> Self {
        let signer = match algorithm {
            Algorithm::Es256 => ec(&signature::ECDSA_P256_SHA256_FIXED_SIGNING),
            Algorithm::Es384 => ec(&signature::ECDSA_P384_SHA384_FIXED_SIGNING),
            Algorithm::Es512 => ec(&signature::ECDSA_P521_SHA512_FIXED_SIGNING),
            Algorithm::EdDsa => Signer::Ed(Ed25519KeyPair::generate().unwrap()),
            _ => Signer::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).unwrap()),
        };
        Self { iss: iss.to_owned(), key_id: key_id.to_owned(), algorithm, signer }
    }

    /// An issuer `https://issuer.test` with an ES256 key `key-1`.
    pub(crate) fn es256() -> Self {
        Self::new("https://issuer.test", "key-1", Algorithm::Es256)
    }

    /// The same with an Ed25519 key.
    pub(crate) fn eddsa() -> Self {
        Self::new("https://issuer.test", "key-1", Algorithm::EdDsa)
    }

    /// The same with an RS256 key of 2048 bits.
    pub(crate) fn rs256() -> Self {
        Self::new("https://issuer.test", "key-1", Algorithm::Rs256)
    }

    /// The exact `iss`.
    pub(crate) fn iss(&self) -> &str {
        &self.iss
    }

    /// The key's `kid`.
    pub(crate) fn key_id(&self) -> &str {
        &self.key_id
    }

    /// The key's algorithm.
    pub(crate) const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The public key as a JWK.
    pub(crate) fn jwk(&self) -> Value {
        let mut jwk = match &self.signer {
            Signer::Rsa(pair) => {
                let components = RsaPublicKeyComponents::<Vec<u8>>::from(pair.public_key());
                json!({ "kty": "RSA", "n": base64url(&components.n), "e": base64url(&components.e) })
            }
            Signer::Ec(pair) => {
                let point = pair.public_key().as_ref();
                let (x, y) = point[1..].split_at(point.len() / 2);
                let curve = match self.algorithm {
                    Algorithm::Es256 => "P-256",
                    Algorithm::Es384 => "P-384",
                    _ => "P-521",
                };
                json!({ "kty": "EC", "crv": curve, "x": base64url(x), "y": base64url(y) })
            }
            Signer::Ed(pair) => {
                json!({ "kty": "OKP", "crv": "Ed25519", "x": base64url(pair.public_key().as_ref()) })
            }
        };
        jwk["kid"] = json!(self.key_id);
        jwk["alg"] = json!(self.algorithm.as_str());
        jwk["use"] = json!("sig");
        jwk
    }

    /// The public key in DER, as `SubjectPublicKeyInfo`.
    pub(crate) fn public_key_der(&self) -> Vec<u8> {
        match &self.signer {
            Signer::Rsa(pair) => pair.public_key().as_der().unwrap().as_ref().to_vec(),
            Signer::Ec(pair) => pair.public_key().as_der().unwrap().as_ref().to_vec(),
            Signer::Ed(pair) => pair.public_key().as_der().unwrap().as_ref().to_vec(),
        }
    }

    /// A JWK set of this key alone.
    pub(crate) fn jwks(&self) -> Vec<u8> {
        jwks(&[self.jwk()])
    }

    /// The issuer record: its own algorithm, any audience, lives of up to an hour.
    pub(crate) fn record(&self) -> Issuer {
        let (iss, jwks) = (Arc::from(self.iss.as_str()), Arc::from(self.jwks()));
        Issuer::new(iss, TokenProfile::Generic, vec![self.algorithm], Vec::new(), 3600, jwks)
    }

    /// The header of an ordinary token.
    pub(crate) fn header(&self) -> Value {
        json!({ "alg": self.algorithm.as_str(), "kid": self.key_id, "typ": "JWT" })
    }

    /// A token of this header and these claims, signed by this key as its algorithm says.
    pub(crate) fn sign(&self, header: &Value, claims: &Value) -> String {
        self.sign_bytes(header.to_string().as_bytes(), claims.to_string().as_bytes())
    }

    /// The same for bytes that need not be JSON.
    pub(crate) fn sign_bytes(&self, header: &[u8], payload: &[u8]) -> String {
        let input = format!("{}.{}", base64url(header), base64url(payload));
        let signature = self.signature(input.as_bytes());
        format!("{input}.{}", base64url(&signature))
    }

    /// The signature of this key over `input`.
    pub(crate) fn signature(&self, input: &[u8]) -> Vec<u8> {
        self.signature_as(self.algorithm, input)
    }

    /// The signature of this key over `input` with another algorithm of its kind (RSA only).
    pub(crate) fn signature_as(&self, algorithm: Algorithm, input: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.signer {
            Signer::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(rsa_encoding(algorithm), &random, input, &mut signature).unwrap();
                signature
            }
            Signer::Ec(pair) => pair.sign(&random, input).unwrap().as_ref().to_vec(),
            Signer::Ed(pair) => pair.sign(input).as_ref().to_vec(),
        }
    }
}

/// A JWK set.
pub(crate) fn jwks(keys: &[Value]) -> Vec<u8> {
    json!({ "keys": keys }).to_string().into_bytes()
}

/// Base64url without padding.
pub(crate) fn base64url(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn ec(algorithm: &'static signature::EcdsaSigningAlgorithm) -> Signer {
    Signer::Ec(EcdsaKeyPair::generate(algorithm).unwrap())
}

fn rsa_encoding(algorithm: Algorithm) -> &'static dyn RsaEncoding {
    match algorithm {
        Algorithm::Rs256 => &signature::RSA_PKCS1_SHA256,
        Algorithm::Rs384 => &signature::RSA_PKCS1_SHA384,
        Algorithm::Rs512 => &signature::RSA_PKCS1_SHA512,
        Algorithm::Ps256 => &signature::RSA_PSS_SHA256,
        Algorithm::Ps384 => &signature::RSA_PSS_SHA384,
        Algorithm::Ps512 => &signature::RSA_PSS_SHA512,
        other => panic!("{other} is no RSA algorithm"),
    }
}
