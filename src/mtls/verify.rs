//! Which hub an enforcement point speaks to, and by which clock certificates are judged.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{
    CertificateError, DigitallySignedStruct, Error, PeerIncompatible, RootCertStore, SignatureScheme,
};
use subtle::ConstantTimeEq as _;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::name::{Cluster, names, public_key_digest};
use crate::core::time::Clock;

/// The one provider of cryptography.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// A store of authorities.
///
/// # Errors
/// Says which is none.
pub fn roots(certificates: &[CertificateDer<'static>]) -> Result<Arc<RootCertStore>, Error> {
    let mut roots = RootCertStore::empty();
    certificates.iter().try_for_each(|certificate| roots.add(certificate.clone()))?;
    Ok(Arc::new(roots))
}

/// Gives TLS the time of a [`Clock`].
#[derive(Clone)]
pub struct WallClock(Arc<dyn Clock>);

impl std::fmt::Debug for WallClock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WallClock")
    }
}

impl WallClock {
    /// Over `clock`.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self(clock)
    }

    pub(super) fn unix(&self) -> UnixTime {
        let micros = u64::try_from(self.0.now().wall.as_micros()).unwrap_or(0);
        UnixTime::since_unix_epoch(std::time::Duration::from_micros(micros))
    }
}

impl TimeProvider for WallClock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(self.unix())
    }
}

/// Accepts one cluster's hub, and no other server.
#[derive(Debug)]
pub struct HubVerifier {
    trust: Trust,
    /// The URI that its certificate must name; `None`: the host name it is dialled by is enough.
    identity: Option<String>,
    clock: WallClock,
    provider: Arc<CryptoProvider>,
}

#[derive(Debug)]
enum Trust {
    Authorities(Arc<RootCertStore>),
    /// The authority with this public key, which the hub itself shows: nothing else is known yet.
    Shown([u8; 32]),
}

impl HubVerifier {
    /// Of whom only the digest that a join token holds is known.
    pub fn by_token(cluster: &Cluster, authority: [u8; 32], clock: WallClock) -> Self {
        Self {
            trust: Trust::Shown(authority),
            identity: Some(cluster.hub_uri()),
            clock,
            provider: provider(),
        }
    }

    /// By the cluster's own authority.
    pub fn enrolled(cluster: &Cluster, roots: Arc<RootCertStore>, clock: WallClock) -> Self {
        let identity = Some(cluster.hub_uri());
        Self { trust: Trust::Authorities(roots), identity, clock, provider: provider() }
    }

    /// By authorities of one's own: the host name it is dialled by must be in its certificate.
    pub fn by_host(roots: Arc<RootCertStore>, clock: WallClock) -> Self {
        Self { trust: Trust::Authorities(roots), identity: None, clock, provider: provider() }
    }

    fn roots(&self, shown: &[CertificateDer<'_>]) -> Result<Arc<RootCertStore>, Error> {
        let pinned = match &self.trust {
            Trust::Authorities(roots) => return Ok(Arc::clone(roots)),
            Trust::Shown(pinned) => pinned,
        };
        let is_pinned = |found: &&CertificateDer<'_>| {
            public_key_digest(found).is_ok_and(|digest| bool::from(digest.ct_eq(pinned)))
        };
        match shown.iter().find(is_pinned) {
            Some(authority) => roots(&[authority.clone().into_owned()]),
            None => Err(Error::General(
                "its authority is not the one that the join token names: it is another cluster's hub"
                    .to_owned(),
            )),
        }
    }
}

impl ServerCertVerifier for HubVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let roots = self.roots(intermediates)?;
        let chain = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&self.provider)).build();
        let chain = chain.map_err(|e| Error::General(e.to_string()))?;
        let now = self.clock.unix();
        let verified =
            chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)?;
        let Some(identity) = &self.identity else { return Ok(verified) };
        let (_, parsed) = X509Certificate::from_der(end_entity).map_err(|_| CertificateError::BadEncoding)?;
        let (uris, _) = names(&parsed).map_err(|_| CertificateError::BadEncoding)?;
        match uris.as_slice() {
            [uri] if uri == identity => Ok(verified),
            _ => Err(CertificateError::NotValidForName.into()),
        }
    }

    /// Never called: the hub speaks TLS 1.3 alone.
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
