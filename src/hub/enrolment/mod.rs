//! How an enforcement point comes by its certificate: once with a join token, then with the
//! certificate it has.

mod authority;
mod bound;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tonic::{Request, Response, Status};

use super::admission::{Admission, Admissions, RedeemError};
use super::blocking;
use super::door::BACKDATED;
use super::feed::Feed;
use super::peer::{Peer, Who};
use crate::core::id::Name;
use crate::core::time::Clock;
use crate::mtls::JoinToken;
use crate::wire::state_proto as proto;
use crate::wire::state_proto::enrolment_server::{Enrolment, EnrolmentServer};
pub(crate) use authority::CertificateAuthority;
use authority::SigningRequest;
use bound::FailureBound;

/// Makes certificates for enforcement points.
pub(crate) struct Enrolling {
    pub(crate) authority: Arc<CertificateAuthority>,
    pub(crate) admissions: Arc<Admissions>,
    feed: Arc<Feed>,
    clock: Arc<dyn Clock>,
    lifetime: Duration,
    /// Whether the state stream is one that can be joined: it is not when it is in clear.
    pub(crate) is_open: bool,
    bound: FailureBound,
    pub(crate) counts: EnrolmentCounts,
}

/// Numbers for metrics.
#[derive(Debug, Default)]
pub(crate) struct EnrolmentCounts {
    pub(crate) joined: AtomicU64,
    pub(crate) renewed: AtomicU64,
    pub(crate) refused: AtomicU64,
}

impl std::fmt::Debug for Enrolling {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Enrolling").field("authority", &self.authority).finish_non_exhaustive()
    }
}

impl Enrolling {
    pub(crate) fn new(
        authority: Arc<CertificateAuthority>,
        admissions: Arc<Admissions>,
        feed: Arc<Feed>,
        clock: Arc<dyn Clock>,
        lifetime: Duration,
        is_open: bool,
    ) -> Self {
        let (bound, counts) = (FailureBound::default(), EnrolmentCounts::default());
        Self { authority, admissions, feed, clock, lifetime, is_open, bound, counts }
    }

    async fn join(&self, asked: &proto::JoinRequest) -> Result<proto::Enrolled, Status> {
        if !self.is_open {
            return Err(Status::failed_precondition(IN_CLEAR));
        }
        let token = JoinToken::parse(asked.token.trim());
        let token = token.map_err(|e| Status::invalid_argument(format!("the join token: {e}")))?;
        if token.cluster() != self.authority.cluster() {
            return Err(Status::permission_denied("the join token is another cluster's"));
        }
        if asked.spoke_id != token.spoke_id().as_str() {
            return Err(Status::permission_denied("the join token is for another enforcement point"));
        }
        let request = read(&asked.csr_der)?;
        let (admissions, key) = (Arc::clone(&self.admissions), request.key_digest());
        let id = token.spoke_id().clone();
        let redeemed = blocking(&**self.feed.store(), move || admissions.redeem(&token, key)).await;
        let admission = redeemed.map_err(|error| match error {
            RedeemError::Store(error) => unavailable(&error),
            refused => Status::permission_denied(refused.to_string()),
        })?;
        let enrolled = self.certify(&id, request, &admission)?;
        self.counts.joined.fetch_add(1, Ordering::Relaxed);
        tracing::info!(spoke = %id, "an enforcement point joined");
        Ok(enrolled)
    }

    async fn renew(&self, peer: &Peer, asked: &proto::RenewRequest) -> Result<proto::Enrolled, Status> {
        let Who::Certified(held) = &peer.who else {
            return Err(Status::unauthenticated("a certificate is renewed with the one before: show it"));
        };
        if !held.is_enrolled(&self.authority.cluster()) {
            let why = "the certificate is of another authority: it is renewed where it was made";
            return Err(Status::permission_denied(why));
        }
        if self.clock.now().wall > held.not_after {
            return Err(Status::unauthenticated("the certificate has expired: a join token is needed"));
        }
        let admission = self.admissions.read(held.id.as_str()).await.map_err(|e| unavailable(&e))?;
        if let Some(why) = admission.refuses(Some(held)) {
            return Err(Status::permission_denied(format!("enforcement point `{}`: {why}", held.id)));
        }
        let enrolled = self.certify(&held.id, read(&asked.csr_der)?, &admission)?;
        self.counts.renewed.fetch_add(1, Ordering::Relaxed);
        tracing::info!(spoke = %held.id, "an enforcement point renewed its certificate");
        Ok(enrolled)
    }

    fn certify(
        &self,
        id: &Name,
        request: SigningRequest,
        admission: &Admission,
    ) -> Result<proto::Enrolled, Status> {
        let now = self.clock.now().wall;
        // Never from before a removal, by which older ones are told.
        let from = now.before(BACKDATED).max(admission.refused_before.unwrap_or_default());
        let made = self.authority.certify(id, request, from, now.after(self.lifetime));
        let made = made.ok_or_else(|| Status::internal("no certificate can be made"))?;
        Ok(proto::Enrolled {
            chain_der: vec![Bytes::copy_from_slice(&made)],
            roots_der: vec![Bytes::copy_from_slice(self.authority.certificate())],
            cluster_id: Bytes::copy_from_slice(self.authority.cluster().as_bytes()),
            signing_keys: vec![self.feed.key().public().clone()],
        })
    }

    fn refused(&self, peer: &Peer, status: &Status) {
        self.counts.refused.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(peer = peer.place(), why = status.message(), "no certificate was given");
    }
}

fn read(der: &[u8]) -> Result<SigningRequest, Status> {
    SigningRequest::read(der)
        .ok_or_else(|| Status::invalid_argument("csr_der: expected PKCS #10, signed by the key it holds"))
}

fn unavailable(error: &super::store::StoreError) -> Status {
    tracing::error!(%error, "no certificate can be given");
    Status::unavailable("the hub's store cannot be used")
}

/// The gRPC service.
#[derive(Clone, Debug)]
pub(crate) struct EnrolmentService(Arc<Enrolling>);

impl EnrolmentService {
    pub(crate) fn server(enrolling: Arc<Enrolling>) -> EnrolmentServer<Self> {
        EnrolmentServer::new(Self(enrolling)).max_decoding_message_size(REQUEST_BYTES_MAX)
    }
}

#[tonic::async_trait]
impl Enrolment for EnrolmentService {
    async fn join(&self, request: Request<proto::JoinRequest>) -> Result<Response<proto::Enrolled>, Status> {
        let this = &self.0;
        let peer = Peer::of(&request)?;
        let (address, now) = (peer.address.map(|address| address.ip()), this.clock.now().boot);
        if !this.bound.allows(address, now) {
            let status =
                Status::resource_exhausted("too many join tokens were refused from there: wait a minute");
            this.refused(&peer, &status);
            return Err(status);
        }
        let answer = this.join(request.get_ref()).await;
        if let Err(status) = &answer {
            this.refused(&peer, status);
            if status.code() != tonic::Code::Unavailable {
                this.bound.failed(address, now);
            }
        }
        answer.map(Response::new)
    }

    async fn renew(
        &self,
        request: Request<proto::RenewRequest>,
    ) -> Result<Response<proto::Enrolled>, Status> {
        let peer = Peer::of(&request)?;
        let answer = self.0.renew(&peer, request.get_ref()).await;
        answer.inspect_err(|status| self.0.refused(&peer, status)).map(Response::new)
    }
}

/// Why nobody can join a hub whose state stream is in clear.
pub(crate) const IN_CLEAR: &str = "the state stream is in clear: there is nothing to join";
const REQUEST_BYTES_MAX: usize = 64 * 1024;
