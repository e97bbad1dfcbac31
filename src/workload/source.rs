//! What each stream brings, read without leniency.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tonic::{Response, Status, Streaming};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::keys::JwtBundles;
use super::stream::{Client, Source, Taken, call};
use crate::core::credential::{KeyUse, SpiffeId, canonical};
use crate::mtls::{LiveBundles, LiveIdentity};
use crate::wire::workload as proto;

/// This workload's own certificate.
pub(super) struct Identity {
    held: Arc<LiveIdentity>,
    /// Digest of what was last taken, so that the same again changes nothing.
    said: Mutex<Option<blake3::Hash>>,
}

impl Identity {
    pub(super) fn new(held: Arc<LiveIdentity>) -> Self {
        Self { held, said: Mutex::default() }
    }
}

impl Source for Identity {
    type Message = proto::X509svidResponse;

    async fn open(&self, client: &mut Client) -> Result<Response<Streaming<Self::Message>>, Status> {
        client.fetch_x509svid(call(proto::X509svidRequest {})).await
    }

    /// The first is the default, and the one that is used.
    fn take(&self, message: Self::Message) -> Taken {
        let Some(svid) = message.svids.into_iter().next() else {
            return Taken { changed: self.withdraw(), ..Taken::default() };
        };
        let holds = self.held.current().is_some();
        let kept = |why: String| Taken { changed: false, holds, refused: vec![why] };
        let chain = match of_workload(&svid) {
            Ok(chain) => chain,
            Err(why) => return kept(why),
        };
        let said = blake3::Hasher::new().update(&svid.x509_svid).update(&svid.x509_svid_key).finalize();
        if *self.said.lock() == Some(said) {
            return Taken { changed: false, holds, refused: Vec::new() };
        }
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(svid.x509_svid_key.to_vec()));
        match self.held.replace(chain, key) {
            Ok(()) => {
                *self.said.lock() = Some(said);
                Taken { changed: true, holds: true, refused: Vec::new() }
            }
            Err(error) => kept(format!("the key of `{}`: {error}", shown(&svid.spiffe_id))),
        }
    }

    fn withdraw(&self) -> bool {
        let held = self.held.current().is_some();
        *self.said.lock() = None;
        self.held.withdraw();
        held
    }
}

/// The chain of a certificate that is of the workload it says it is of.
fn of_workload(svid: &proto::X509svid) -> Result<Vec<CertificateDer<'static>>, String> {
    let refuse = |why: &str| format!("the certificate of `{}` {why}", shown(&svid.spiffe_id));
    if !SpiffeId::parse(&svid.spiffe_id).is_some_and(SpiffeId::has_path) {
        return Err(format!("`{}` is no SPIFFE ID of a workload", shown(&svid.spiffe_id)));
    }
    let chain = split(&svid.x509_svid).ok_or_else(|| refuse("is not read"))?;
    let leaf = chain.first().ok_or_else(|| refuse("is missing"))?;
    let (_, parsed) = X509Certificate::from_der(leaf).map_err(|_| refuse("is not read"))?;
    let names = parsed.subject_alternative_name().map_err(|_| refuse("is not read"))?;
    let uris = names.iter().flat_map(|names| &names.value.general_names).filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    let is_its = uris.collect::<Vec<_>>() == [svid.spiffe_id.as_str()];
    if is_its { Ok(chain) } else { Err(refuse("names another")) }
}

/// Authorities of trust domains.
pub(super) struct Authorities {
    held: Arc<LiveBundles>,
    /// What was last said, so that the same again changes nothing.
    said: Mutex<Vec<(Arc<str>, Vec<CertificateDer<'static>>)>>,
}

impl Authorities {
    pub(super) fn new(held: Arc<LiveBundles>) -> Self {
        Self { held, said: Mutex::default() }
    }
}

impl Source for Authorities {
    type Message = proto::X509BundlesResponse;

    async fn open(&self, client: &mut Client) -> Result<Response<Streaming<Self::Message>>, Status> {
        client.fetch_x509_bundles(call(proto::X509BundlesRequest {})).await
    }

    fn take(&self, message: Self::Message) -> Taken {
        let (mut read, mut refused) = (Vec::new(), Vec::new());
        for (id, bundle) in message.bundles {
            match (domain(&id), split(&bundle)) {
                (Some(domain), Some(bundle)) => read.push((domain, bundle)),
                _ => refused.push(format!("the authorities of `{}` are not read", shown(&id))),
            }
        }
        read.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        let changed = *self.said.lock() != read;
        if changed {
            let unfit = self.held.replace(read.clone());
            refused.extend(
                unfit.into_iter().map(|(domain, why)| format!("the authorities of `{domain}`: {why}")),
            );
            *self.said.lock() = read;
        }
        Taken { changed, holds: !self.held.is_empty(), refused }
    }

    fn withdraw(&self) -> bool {
        let held = !self.held.is_empty();
        self.said.lock().clear();
        self.held.replace([]);
        held
    }
}

/// Keys of trust domains.
pub(super) struct Keys(pub(super) Arc<JwtBundles>);

impl Source for Keys {
    type Message = proto::JwtBundlesResponse;

    async fn open(&self, client: &mut Client) -> Result<Response<Streaming<Self::Message>>, Status> {
        client.fetch_jwt_bundles(call(proto::JwtBundlesRequest {})).await
    }

    fn take(&self, message: Self::Message) -> Taken {
        let (mut read, mut refused) = (HashMap::new(), Vec::new());
        for (id, bundle) in message.bundles {
            let Some(domain) = domain(&id) else {
                refused.push(format!("`{}` is no trust domain", shown(&id)));
                continue;
            };
            match canonical(&bundle, KeyUse::JwtSvid) {
                Ok(set) => {
                    refused.extend(set.dropped.iter().map(|key| format!("of `{domain}` {key}")));
                    read.insert(domain, Arc::from(set.jwks));
                }
                Err(why) => refused.push(format!("the keys of `{domain}`: {why}")),
            }
        }
        let holds = !read.is_empty();
        // Whoever rests on them is told once they are put in.
        self.0.replace(read);
        Taken { changed: false, holds, refused }
    }

    fn withdraw(&self) -> bool {
        self.0.replace(HashMap::new());
        false
    }
}

fn domain(id: &str) -> Option<Arc<str>> {
    SpiffeId::parse(id).filter(|id| !id.has_path()).map(|id| Arc::from(id.as_str()))
}

/// Certificates that stand one after the other; `None`: something else does.
fn split(mut der: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let mut found = Vec::new();
    while !der.is_empty() {
        let (rest, _) = X509Certificate::from_der(der).ok()?;
        let (one, _) = der.split_at_checked(der.len() - rest.len())?;
        found.push(CertificateDer::from(one.to_vec()));
        if found.len() > CERTIFICATES_MAX {
            return None;
        }
        der = rest;
    }
    Some(found)
}

fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(SHOWN_CHARS).collect()
}

const CERTIFICATES_MAX: usize = 100;
const SHOWN_CHARS: usize = 200;
