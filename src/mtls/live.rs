//! A certificate of one's own, and authorities of trust domains, that change while they are used.
//!
//! INVARIANT: an edition is counted up after what it counts was put in place. Whoever reads the edition first
//! and then what it counts never takes older for newer.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::{ArcSwap, ArcSwapOption};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

use super::verify::{WallClock, provider, roots};

/// A certificate of one's own that is replaced while it is used; none at first.
#[derive(Default)]
pub struct LiveIdentity {
    held: ArcSwapOption<CertifiedKey>,
    edition: AtomicU64,
}

impl fmt::Debug for LiveIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LiveIdentity").field("edition", &self.edition()).finish_non_exhaustive()
    }
}

impl LiveIdentity {
    /// Shows another certificate from now on: the leaf, its intermediates, and the leaf's key.
    ///
    /// # Errors
    /// When the key is not the leaf's, or of a kind that is not supported: the one before stays.
    pub fn replace(
        &self,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<(), Error> {
        let pair = CertifiedKey::from_der(chain, key, &provider())?;
        self.held.store(Some(Arc::new(pair)));
        self.edition.fetch_add(1, Ordering::Release);
        Ok(())
    }

    /// Shows none from now on.
    pub fn withdraw(&self) {
        if self.held.swap(None).is_some() {
            self.edition.fetch_add(1, Ordering::Release);
        }
    }

    /// What is shown now.
    pub fn current(&self) -> Option<Arc<CertifiedKey>> {
        self.held.load_full()
    }

    /// Counts up with each change.
    pub fn edition(&self) -> u64 {
        self.edition.load(Ordering::Acquire)
    }
}

impl ResolvesServerCert for LiveIdentity {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.current()
    }
}

/// The authorities of each trust domain; none at first.
#[derive(Default)]
pub struct LiveBundles {
    held: ArcSwap<HashMap<Arc<str>, Arc<dyn ClientCertVerifier>>>,
    edition: AtomicU64,
}

impl fmt::Debug for LiveBundles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LiveBundles").field("edition", &self.edition()).finish_non_exhaustive()
    }
}

impl LiveBundles {
    /// Puts these in place of all before. Gives the domains whose authorities cannot be used, and why: they
    /// have none.
    pub fn replace(
        &self,
        bundles: impl IntoIterator<Item = (Arc<str>, Vec<CertificateDer<'static>>)>,
    ) -> Vec<(Arc<str>, String)> {
        let (mut held, mut refused) = (HashMap::new(), Vec::new());
        for (domain, authorities) in bundles {
            match verifier_of(&authorities) {
                Ok(verifier) => drop(held.insert(domain, verifier)),
                Err(why) => refused.push((domain, why)),
            }
        }
        self.held.store(Arc::new(held));
        self.edition.fetch_add(1, Ordering::Release);
        refused
    }

    /// Counts up with each change.
    pub fn edition(&self) -> u64 {
        self.edition.load(Ordering::Acquire)
    }

    /// Whether no domain has any.
    pub fn is_empty(&self) -> bool {
        self.held.load().is_empty()
    }

    fn of(&self, domain: &str) -> Option<Arc<dyn ClientCertVerifier>> {
        self.held.load().get(domain).cloned()
    }
}

fn verifier_of(authorities: &[CertificateDer<'static>]) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let roots = roots(authorities).map_err(|error| error.to_string())?;
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider()).build();
    verifier.map_err(|error| error.to_string())
}

/// Whom one trust domain vouches for, as it is now.
#[derive(Clone, Debug)]
pub struct DomainTrust {
    bundles: Arc<LiveBundles>,
    domain: Arc<str>,
    clock: WallClock,
}

impl DomainTrust {
    /// By the bundle of `domain` alone, `spiffe://` and its name.
    pub const fn new(bundles: Arc<LiveBundles>, domain: Arc<str>, clock: WallClock) -> Self {
        Self { bundles, domain, clock }
    }

    /// Counts up with each change.
    pub fn edition(&self) -> u64 {
        self.bundles.edition()
    }

    /// Whether a chain, its leaf first, holds now.
    pub fn holds(&self, chain: &[CertificateDer<'_>]) -> bool {
        let Some((leaf, intermediates)) = chain.split_first() else { return false };
        self.verify(leaf, intermediates, self.clock.unix()).is_ok()
    }

    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verifier = self.bundles.of(&self.domain).ok_or(CertificateError::UnknownIssuer)?;
        verifier.verify_client_cert(leaf, intermediates, now)
    }
}

/// Verifies callers' certificates in a handshake by the authorities of one trust domain, as they are then.
#[derive(Debug)]
pub struct DomainVerifier {
    trust: DomainTrust,
    mandatory: bool,
    provider: Arc<CryptoProvider>,
}

impl DomainVerifier {
    /// `mandatory`: a caller without a certificate is refused, too.
    pub fn new(trust: DomainTrust, mandatory: bool) -> Self {
        Self { trust, mandatory, provider: provider() }
    }
}

impl ClientCertVerifier for DomainVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    /// None: they change, and callers have one certificate.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    /// By the clock of the decision, not by the one that TLS was set up with.
    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.trust.verify(leaf, intermediates, self.trust.clock.unix())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::time::{Clock, Now, Timestamp};
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

    struct At(i64);

    impl Clock for At {
        fn now(&self) -> Now {
            Now { wall: Timestamp::from_seconds(self.0), ..Now::default() }
        }
    }

    fn authority() -> (CertificateDer<'static>, Issuer<'static, KeyPair>) {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().der().clone();
        (certificate, Issuer::new(params, key))
    }

    fn leaf(of: &Issuer<'static, KeyPair>) -> (CertificateDer<'static>, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(["a.test".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        params.not_after = rcgen::date_time_ymd(2027, 1, 1);
        (params.signed_by(&key, of).unwrap().der().clone(), key)
    }

    #[test]
    fn a_chain_holds_by_the_authorities_of_its_own_domain_as_they_are_then() {
        let ((root, issuer), (other_root, other)) = (authority(), authority());
        let (chain, others) = (vec![leaf(&issuer).0], vec![leaf(&other).0]);
        let bundles = Arc::new(LiveBundles::default());
        // 2026-07-01, and the day before and after the leaf's year.
        let trust = |at| {
            DomainTrust::new(Arc::clone(&bundles), "spiffe://a".into(), WallClock::new(Arc::new(At(at))))
        };
        let (within, over) = (1_782_864_000, 1_798_848_000);
        let holds = || [trust(within).holds(&chain), trust(within).holds(&others)];
        assert_eq!((holds(), bundles.edition()), ([false, false], 0));
        let named = |domain: &str, roots: &[&CertificateDer<'static>]| {
            (Arc::from(domain), roots.iter().map(|root| (*root).clone()).collect::<Vec<_>>())
        };
        assert!(
            bundles.replace([named("spiffe://a", &[&root]), named("spiffe://b", &[&other_root])]).is_empty()
        );
        assert_eq!((holds(), bundles.edition()), ([true, false], 1));
        assert!(!trust(over).holds(&chain) && !trust(within).holds(&[]));
        // Old and new side by side, then the new alone, then the domain is gone.
        bundles.replace([named("spiffe://a", &[&root, &other_root])]);
        assert_eq!(holds(), [true, true]);
        bundles.replace([named("spiffe://a", &[&other_root])]);
        assert_eq!(holds(), [false, true]);
        bundles.replace([named("spiffe://b", &[&root, &other_root])]);
        assert_eq!((holds(), bundles.edition()), ([false, false], 4));
        let unfit = (Arc::from("spiffe://a"), vec![CertificateDer::from(vec![1, 2, 3])]);
        assert_eq!(bundles.replace([unfit, named("spiffe://b", &[])]).len(), 2, "told, and without effect");
        assert_eq!(holds(), [false, false]);
    }

    #[test]
    fn a_key_that_does_not_fit_changes_nothing() {
        let (_, issuer) = authority();
        let ((first, key), (second, _)) = (leaf(&issuer), leaf(&issuer));
        let live = LiveIdentity::default();
        let der = || PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        assert!(live.current().is_none());
        live.replace(vec![first.clone()], der()).unwrap();
        assert!(live.replace(vec![second], der()).is_err());
        assert_eq!((live.current().unwrap().cert.clone(), live.edition()), (vec![first], 1));
        live.withdraw();
        live.withdraw();
        assert!(live.current().is_none() && live.edition() == 2);
    }
}
