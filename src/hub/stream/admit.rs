//! Who a stream is of: what the connection tells, and the hub admits.

use std::sync::Arc;

use tonic::Status;

use super::Shared;
use super::plan::unavailable;
use crate::hub::admission::Admission;
use crate::hub::peer::{Peer, Who};

/// An enforcement point that may come.
#[derive(Clone, Debug)]
pub(super) struct Admitted {
    /// Its id, as its certificate says where there is one.
    pub(super) spoke_id: String,
    /// For which tenants.
    pub(super) admission: Admission,
}

impl Shared {
    /// Admits whoever says it is `named`; empty: it does not say.
    pub(super) async fn admit(&self, peer: &Peer, named: &str) -> Result<Admitted, Status> {
        let certificate = self.certificate(peer)?;
        let spoke_id = match certificate {
            Some(certified) if !named.is_empty() && named != certified.id.as_str() => {
                let id = &certified.id;
                let what = format!("the certificate is of enforcement point `{id}`, not of the one named");
                return Err(self.refuse(peer, what));
            }
            Some(certified) => certified.id.to_string(),
            None => named.to_owned(),
        };
        let admission = self.admissions.read(&spoke_id).await.map_err(|e| unavailable(&e))?;
        match admission.refuses(certificate.map(Arc::as_ref)) {
            Some(why) => Err(self.refuse(peer, format!("enforcement point `{spoke_id}`: {why}"))),
            None => Ok(Admitted { spoke_id, admission }),
        }
    }

    /// Refuses whose certificate has come to its end: a stream outlives a handshake.
    pub(super) fn still_certified(&self, peer: &Peer) -> Result<(), Status> {
        self.certificate(peer).map(|_| ())
    }

    fn certificate<'p>(&self, peer: &'p Peer) -> Result<Option<&'p Arc<crate::mtls::Certified>>, Status> {
        match &peer.who {
            Who::Claimed => Ok(None),
            Who::Certified(certified) if self.clock.now().wall > certified.not_after => {
                Err(Status::unauthenticated("the certificate has expired: connect with a newer one"))
            }
            Who::Certified(certified) => Ok(Some(certified)),
            Who::Stranger => Err(Status::unauthenticated("a client certificate is needed: join first")),
            Who::Nameless(why) => Err(self.refuse(peer, why.clone())),
        }
    }

    fn refuse(&self, peer: &Peer, why: String) -> Status {
        tracing::warn!(peer = peer.place(), why, "an enforcement point was turned away");
        Status::permission_denied(why)
    }
}
