//! Credentials: from what is presented to what is verified.
//!
//! A [`Presented`] gives no access to what it claims. Only [`verify`] makes a
//! [`Verified`], and only from an issuer of the snapshot. Algorithms come from our
//! configuration and the key, never from the token (RFC 8725 §3.1).

mod algorithm;
mod api_key;
mod certificate;
mod claims;
mod digest;
mod dpop;
mod introspection;
mod json;
mod jwk;
mod jws;
mod jwt;
mod keys;
mod missing;
mod nonce;
mod possession;
mod presented;
mod profile;
mod spiffe;
mod status;
mod verified;

pub use algorithm::Algorithm;
pub use api_key::{API_KEY_PREFIX, MintedKey, api_key_fingerprint, api_key_id, verify_api_key};
pub use certificate::{ClientCertificate, KnownCertificates, Vouched, Voucher, verify_certificate};
pub use dpop::PROOF_SPAN;
pub use introspection::{
    ANSWER_GRACE, AnswerLife, Asking, Introspect, Introspected, NoAnswer, TokenQuestion, verify_opaque,
};
pub use jws::{Jws, JwsError};
pub use jwt::{Expected, TokenCache, Verification, signer, verify};
pub use keys::{CanonicalSet, KeySet, KeyUse, NO_KEYS, RefusedKey, VerifyKey, canonical};
pub use missing::{MissingKeys, missing_key};
pub use nonce::{NONCE_SPAN, ProofNonces};
pub use possession::{Confirmation, Possession, Proof, ProvenRequest, ReplayMemory, Seen};
pub use presented::{Presented, TOKEN_BYTES_MAX};
pub use spiffe::SpiffeId;
pub use status::{ListToken, StatusListError, StatusRef, status_list_name, verify_status_list};
pub use verified::{Actor, FingerprintKey, Kind, Verified};
