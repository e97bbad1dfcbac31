//! Whether the authorities that signed a caller's certificate are still trusted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustls::pki_types::CertificateDer;

use crate::core::credential::{ClientCertificate, Vouched, Voucher};
use crate::mtls::DomainTrust;

/// The chain that a connection showed, verified again when the authorities change.
#[derive(Debug)]
struct Chain {
    trust: DomainTrust,
    shown: Vec<CertificateDer<'static>>,
    /// What was found, and by which edition of the authorities: twice the edition, and one if it held.
    found: AtomicU64,
}

impl Voucher for Chain {
    fn vouches(&self) -> bool {
        // Read first: authorities that come meanwhile have another edition, and are asked the next time.
        let edition = self.trust.edition();
        let found = self.found.load(Ordering::Relaxed);
        if found >> 1 == edition {
            return found & 1 == 1;
        }
        let holds = self.trust.holds(&self.shown);
        self.found.store(edition << 1 | u64::from(holds), Ordering::Relaxed);
        holds
    }
}

/// A certificate whose chain is verified by `trust` at each decision, as far as that may have changed.
pub(crate) fn vouched(
    certificate: ClientCertificate,
    shown: &[CertificateDer<'_>],
    trust: &DomainTrust,
) -> ClientCertificate {
    let shown = shown.iter().map(|one| one.clone().into_owned()).collect();
    // Of no edition there is: the first decision verifies it.
    let chain = Chain { trust: trust.clone(), shown, found: AtomicU64::new(u64::MAX) };
    ClientCertificate { voucher: Some(Vouched::by(Arc::new(chain))), ..certificate }
}
