//! The authority: one record of each identity, the log of every change, and the streams
//! that bring it to every enforcement point.
//!
//! | Module | Holds |
//! |---|---|
//! | [`store`] | the records and the change log, durably |
//! | [`model`] | what a record may say, as people write it and as decisions read it |
//! | `authority` | the one place that writes: judges a request against the records, commits |
//! | `admission` | who may come, for which tenants; join tokens |
//! | `enrolment` | the cluster's certificate authority, and how an enforcement point gets a certificate |
//! | `door`, `peer` | mutual TLS of the state stream, and who is at the other end |
//! | `guard`, `held` | what denies too many at once, and waits for a second approval |
//! | [`copy`] | a store moved to another engine |
//! | `feed` | the change log as streams read it, signed |
//! | `figures` | numbers for metrics |
//! | `follow` | what other hubs on the same store do |
//! | `mirror` | the table that every enforcement point shall hold |
//! | `keys` | what the hub signs with |
//! | `issuers` | keys of issuers, fetched |
//! | `witness` | the highest head it has named, outside the store |
//! | `restore` | a new epoch over a store that was put back |
//! | `retention` | the log behind a window, and records that deny nothing any more, let go of |
//! | `roster` | who holds state under a lease; receipts |
//! | `receipts` | acknowledgements that complete a revocation, kept |
//! | `stream` | the gRPC service |
//! | [`api`] | the HTTP service |
//!
//! Deliberately absent: decisions on requests, and any way to read state in-process; an
//! enforcement point in the same process speaks gRPC like any other.

mod admission;
pub mod api;
mod authority;
pub mod copy;
mod door;
mod enrolment;
mod feed;
mod figures;
mod follow;
mod guard;
mod held;
mod issuers;
mod keys;
mod mirror;
pub mod model;
mod peer;
mod receipts;
pub mod restore;
mod retention;
mod roster;
mod service;
mod settings;
pub mod store;
mod stream;
mod token;
mod witness;

pub use admission::Scope;
pub use figures::HubFigures;
pub use guard::GuardLimits;
pub use issuers::IssuerSettings;
pub use retention::RetentionSettings;
pub use service::{BoundHub, Hub};
pub use settings::{AccessSettings, HubError, HubSettings, StoreSettings, StreamSecurity, TlsFiles};
pub use stream::{MESSAGE_BYTES_MAX, StreamSettings};

/// Runs work on `store`, which may block, where the store says.
async fn blocking<T: Send + 'static>(
    store: &dyn store::StateStore,
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    let (done, answer) = tokio::sync::oneshot::channel();
    let work = Box::new(move || {
        // Whoever asked may have gone.
        done.send(work()).ok();
    });
    store.dispatch(work).await;
    match answer.await {
        Ok(answer) => answer,
        // The runtime is ending; so is whoever waits here.
        Err(_) => std::future::pending().await,
    }
}
