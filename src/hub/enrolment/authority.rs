//! The cluster's own certificate authority: its key is derived from the cluster key, so that
//! every hub of the cluster is the same one, and nothing more has to be kept or carried.

use aws_lc_rs::rand;
use aws_lc_rs::signature::Ed25519KeyPair;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ED25519, SanType, SerialNumber,
};
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use zeroize::Zeroizing;

use crate::core::id::Name;
use crate::core::time::Timestamp;
use crate::mtls::{Cluster, provider, public_key_digest};

/// Signs certificates of hubs and enforcement points.
pub(crate) struct CertificateAuthority {
    cluster: Cluster,
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    digest: [u8; 32],
}

impl std::fmt::Debug for CertificateAuthority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CertificateAuthority").field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

/// A request for a certificate, its signature checked: who asks has the key. Only the key is taken from it.
#[derive(Debug)]
pub(crate) struct SigningRequest(CertificateSigningRequestParams);

impl SigningRequest {
    /// Reads PKCS #10; `None`: it is none, or not signed by its key.
    pub(crate) fn read(der: &[u8]) -> Option<Self> {
        if der.len() > REQUEST_BYTES_MAX {
            return None;
        }
        CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(der)).ok().map(Self)
    }

    /// A digest of the key that is to be certified.
    pub(crate) fn key_digest(&self) -> [u8; 32] {
        use rcgen::PublicKeyData as _;
        *blake3::hash(&self.0.public_key.subject_public_key_info()).as_bytes()
    }
}

impl CertificateAuthority {
    /// The authority that `seed` makes; `None`: the library refuses.
    ///
    /// Byte for byte the same certificate for the same seed and cluster.
    pub(crate) fn new(cluster: Cluster, seed: &Zeroizing<[u8; 32]>) -> Option<Self> {
        let pair = Ed25519KeyPair::from_seed_unchecked(&**seed).ok()?;
        let encoded = pair.to_pkcs8v1().ok()?;
        let encoded = PrivatePkcs8KeyDer::from(encoded.as_ref());
        let key = KeyPair::from_pkcs8_der_and_sign_algo(&encoded, &PKCS_ED25519).ok()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = named(&format!("Portreeve authority of {}", cluster.trust_domain()));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.serial_number = Some(SerialNumber::from(1));
        params.not_before = rcgen::date_time_ymd(2025, 1, 1);
        // RFC 5280 §4.1.2.5: a certificate without a well-defined end.
        params.not_after = rcgen::date_time_ymd(9999, 12, 31);
        let certificate = params.self_signed(&key).ok()?.der().clone();
        let digest = public_key_digest(&certificate).ok()?;
        Some(Self { cluster, issuer: Issuer::new(params, key), certificate, digest })
    }

    /// Whose authority it is.
    pub(crate) const fn cluster(&self) -> Cluster {
        self.cluster
    }

    /// Its certificate.
    pub(crate) const fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// SHA-256 of its public key: what a join token pins.
    pub(crate) const fn digest(&self) -> [u8; 32] {
        self.digest
    }

    /// A certificate for an enforcement point, good from `from` to `until`. What the request asks for
    /// beside its key is ignored.
    pub(crate) fn certify(
        &self,
        id: &Name,
        SigningRequest(mut request): SigningRequest,
        from: Timestamp,
        until: Timestamp,
    ) -> Option<CertificateDer<'static>> {
        let mut params = leaf(id.as_str(), ExtendedKeyUsagePurpose::ClientAuth, from, until)?;
        params.subject_alt_names = vec![SanType::URI(self.cluster.spoke_uri(id).try_into().ok()?)];
        request.params = params;
        Some(request.signed_by(&self.issuer).ok()?.der().clone())
    }

    /// A certificate for a hub, with a key that nobody else has.
    pub(crate) fn certify_hub(&self, from: Timestamp, until: Timestamp) -> Option<CertifiedKey> {
        let key = KeyPair::generate().ok()?;
        let host = self.cluster.hub_host();
        let mut params = leaf(&host, ExtendedKeyUsagePurpose::ServerAuth, from, until)?;
        params.subject_alt_names = vec![
            SanType::URI(self.cluster.hub_uri().try_into().ok()?),
            SanType::DnsName(host.try_into().ok()?),
        ];
        let certificate = params.signed_by(&key, &self.issuer).ok()?.der().clone();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        CertifiedKey::from_der(vec![certificate, self.certificate.clone()], key, &provider()).ok()
    }
}

fn leaf(
    name: &str,
    usage: ExtendedKeyUsagePurpose,
    from: Timestamp,
    until: Timestamp,
) -> Option<CertificateParams> {
    let at = |time: Timestamp| {
        let seconds = u64::try_from(time.as_seconds()).unwrap_or(0);
        rcgen::date_time_ymd(1970, 1, 1) + std::time::Duration::from_secs(seconds)
    };
    let mut serial = [0; 16];
    rand::fill(&mut serial).ok()?;
    // RFC 5280 §4.1.2.2: positive.
    serial[0] &= 0x7f;
    let mut params = CertificateParams::default();
    params.distinguished_name = named(name);
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    params.use_authority_key_identifier_extension = true;
    (params.not_before, params.not_after) = (at(from), at(until));
    Some(params)
}

fn named(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

const REQUEST_BYTES_MAX: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mtls::certified;
    use std::time::Duration;

    fn authority(seed: u8) -> CertificateAuthority {
        CertificateAuthority::new(Cluster::new([1; 16]), &Zeroizing::new([seed; 32])).unwrap()
    }

    #[test]
    fn every_hub_of_a_cluster_is_the_same_authority() {
        let (one, same, other) = (authority(1), authority(1), authority(2));
        assert_eq!((one.certificate(), one.digest()), (same.certificate(), same.digest()));
        assert_ne!(one.digest(), other.digest());
    }

    #[test]
    fn only_the_key_is_taken_from_a_request() {
        let authority = authority(1);
        let key = KeyPair::generate().unwrap();
        let mut asked = CertificateParams::default();
        let hub = SanType::URI(authority.cluster().hub_uri().try_into().unwrap());
        asked.subject_alt_names = vec![hub, SanType::DnsName("hub.example".try_into().unwrap())];
        asked.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        asked.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let der = asked.serialize_request(&key).unwrap().der().to_vec();
        let id = Name::parse("orders-1").unwrap();
        let (from, until) = (Timestamp::from_seconds(1000), Timestamp::from_seconds(2000));
        let made = authority.certify(&id, SigningRequest::read(&der).unwrap(), from, until).unwrap();
        let found = certified(&made, Some(&authority.cluster())).unwrap();
        assert_eq!((&found.id, found.not_before, found.not_after), (&id, from, until));
        assert!(found.is_enrolled(&authority.cluster()));
        use x509_parser::prelude::{FromDer as _, X509Certificate};
        let (_, parsed) = X509Certificate::from_der(&made).unwrap();
        assert!(!parsed.is_ca());
        let usage = parsed.extended_key_usage().unwrap().unwrap().value;
        assert!(usage.client_auth && !usage.server_auth);
        let names = &parsed.subject_alternative_name().unwrap().unwrap().value.general_names;
        assert_eq!(names.len(), 1, "{names:?}");

        let mut forged = der.clone();
        let last = forged.len() - 1;
        forged[last] ^= 1;
        assert!(SigningRequest::read(&forged).is_none(), "not signed by its key");
        assert!(SigningRequest::read(&vec![0; REQUEST_BYTES_MAX + 1]).is_none());
        assert!(authority.certify_hub(from, from.after(Duration::from_secs(60))).is_some());
    }
}
