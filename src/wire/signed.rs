//! What a hub vouches for: bytes as they were encoded once, and an Ed25519 signature over them.
//!
//! The signature covers `context ‖ 0x00 ‖ body`; each kind has a context of its own, so that one
//! message cannot be shown for another.

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use bytes::Bytes;
use prost::Message as _;

use crate::wire::state::WireError;
use crate::wire::state_proto as proto;

/// What acknowledgements are signed under.
const RECEIPT: &str = "portreeve receipt v1";

/// Signs `body` as one of `kind`.
pub fn sign(key: &Ed25519KeyPair, key_id: u32, kind: proto::SignedKind, body: Bytes) -> proto::Signed {
    let signature = key.sign(&covered(context(kind), &body));
    proto::Signed { kind: kind as i32, body, key_id, signature: Bytes::copy_from_slice(signature.as_ref()) }
}

/// The body, once its signature is known to be that of one of `keys`.
///
/// # Errors
/// [`WireError`] when it is of another kind, of no such key, or the signature does not fit.
pub fn verify(
    signed: &proto::Signed,
    keys: &[proto::SigningKey],
    kind: proto::SignedKind,
) -> Result<Bytes, WireError> {
    let refuse = |detail: String| Err(WireError::new(context(kind), detail));
    if kind == proto::SignedKind::Unspecified || signed.kind != kind as i32 {
        return refuse(format!("signed as kind {}", signed.kind));
    }
    let Some(key) = keys.iter().find(|key| key.key_id == signed.key_id) else {
        return refuse(format!("signed by key {}, which is not trusted here", signed.key_id));
    };
    let key = UnparsedPublicKey::new(&ED25519, &key.public_key);
    match key.verify(&covered(context(kind), &signed.body), &signed.signature) {
        Ok(()) => Ok(signed.body.clone()),
        Err(_) => refuse("the signature does not fit".to_owned()),
    }
}

/// Signs an acknowledgement with an incarnation's receipt key.
pub fn sign_ack(key: &Ed25519KeyPair, ack: Bytes) -> proto::SignedAck {
    let signature = key.sign(&covered(RECEIPT, &ack));
    proto::SignedAck { signature: Bytes::copy_from_slice(signature.as_ref()), ack }
}

/// Whether an acknowledgement is signed by the receipt key with this public half.
///
/// # Errors
/// [`WireError`] when the signature does not fit.
pub fn verify_ack(signed: &proto::SignedAck, public_key: &[u8]) -> Result<(), WireError> {
    let key = UnparsedPublicKey::new(&ED25519, public_key);
    key.verify(&covered(RECEIPT, &signed.ack), &signed.signature)
        .map_err(|_| WireError::new("acknowledgement", "the signature does not fit the key of its hello"))
}

/// What a kept receipt says, once its signature is known to fit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CheckedReceipt {
    /// The enforcement point.
    pub spoke_id: String,
    /// Up to here everything, or every revocation, of some cell is in force there.
    pub covers: u64,
}

/// Reads a receipt as a hub kept it: an encoded `Ack`, its signature, the incarnation's public key.
///
/// # Errors
/// [`WireError`] when the signature does not fit or the acknowledgement cannot be read.
pub fn check_receipt(ack: &[u8], signature: &[u8], key: &[u8]) -> Result<CheckedReceipt, WireError> {
    let signed =
        proto::SignedAck { ack: Bytes::copy_from_slice(ack), signature: Bytes::copy_from_slice(signature) };
    verify_ack(&signed, key)?;
    let ack = proto::Ack::decode(ack).map_err(|e| WireError::new("acknowledgement", e))?;
    let covers = ack.in_force.iter().map(|held| held.revision.max(held.kill_revision)).max();
    Ok(CheckedReceipt { spoke_id: ack.spoke_id, covers: covers.unwrap_or(0) })
}

/// The id of a key: the first bytes of the BLAKE3 of its public half, so that it needs no registry.
pub fn key_id(public_key: &[u8]) -> u32 {
    let [a, b, c, d, ..] = *blake3::hash(public_key).as_bytes();
    u32::from_be_bytes([a, b, c, d])
}

/// A key's public half, as enforcement points pin it.
pub fn public(key: &Ed25519KeyPair) -> proto::SigningKey {
    let public_key = Bytes::copy_from_slice(key.public_key().as_ref());
    proto::SigningKey { key_id: key_id(&public_key), public_key }
}

fn context(kind: proto::SignedKind) -> &'static str {
    match kind {
        proto::SignedKind::Unspecified => "portreeve state v1",
        proto::SignedKind::Delta => "portreeve state v1 delta",
        proto::SignedKind::Urgent => "portreeve state v1 urgent",
        proto::SignedKind::Head => "portreeve state v1 head",
        proto::SignedKind::Manifest => "portreeve state v1 manifest",
    }
}

fn covered(context: &str, body: &[u8]) -> Vec<u8> {
    let mut covered = Vec::with_capacity(context.len() + 1 + body.len());
    covered.extend_from_slice(context.as_bytes());
    covered.push(0);
    covered.extend_from_slice(body);
    covered
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(seed: u8) -> Ed25519KeyPair {
        Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap()
    }

    #[test]
    fn a_body_is_given_only_with_the_right_key_kind_and_bytes() {
        use proto::SignedKind::{Delta, Head};
        let (ours, other) = (key(1), key(2));
        let keys = [public(&ours)];
        let signed = sign(&ours, keys[0].key_id, Delta, Bytes::from_static(b"body"));
        assert_eq!(verify(&signed, &keys, Delta).unwrap(), "body");
        let rows = [
            ("another kind", verify(&signed, &keys, Head)),
            ("relabelled", verify(&proto::Signed { kind: Head as i32, ..signed.clone() }, &keys, Head)),
            ("no such key", verify(&proto::Signed { key_id: 9, ..signed.clone() }, &keys, Delta)),
            ("another key", verify(&sign(&other, keys[0].key_id, Delta, signed.body.clone()), &keys, Delta)),
            (
                "altered",
                verify(&proto::Signed { body: Bytes::from_static(b"bodx"), ..signed.clone() }, &keys, Delta),
            ),
            ("no signature", verify(&proto::Signed { signature: Bytes::new(), ..signed }, &keys, Delta)),
        ];
        for (row, verdict) in rows {
            assert!(verdict.is_err(), "{row}");
        }
    }

    #[test]
    fn a_receipt_is_good_only_for_who_signed_it() {
        let held = proto::CellPosition { revision: 5, kill_revision: 7, ..Default::default() };
        let ack = proto::Ack { spoke_id: "edge".into(), in_force: vec![held], ..Default::default() };
        let signed = sign_ack(&key(1), Bytes::from(ack.encode_to_vec()));
        let public = key(1).public_key().as_ref().to_vec();
        let good = check_receipt(&signed.ack, &signed.signature, &public).unwrap();
        assert_eq!(good, CheckedReceipt { spoke_id: "edge".into(), covers: 7 });
        assert!(check_receipt(&signed.ack, b"", &public).is_err());
        assert!(check_receipt(b"other", &signed.signature, &public).is_err());
    }

    #[test]
    fn an_acknowledgement_is_its_incarnations() {
        let signed = sign_ack(&key(1), Bytes::from_static(b"ack"));
        assert!(verify_ack(&signed, key(1).public_key().as_ref()).is_ok());
        assert!(verify_ack(&signed, key(2).public_key().as_ref()).is_err());
        assert!(verify_ack(&signed, b"").is_err());
    }
}
