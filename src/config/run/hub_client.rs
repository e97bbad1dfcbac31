//! How an enforcement point reaches its hubs.

use std::path::PathBuf;

use crate::config::endpoint::Endpoint;
use crate::config::error::quoted;
use crate::config::key::Key;
use crate::config::raw::proxy as raw;
use crate::config::run::check::Check;

/// The hubs that identity state is streamed from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HubClient {
    /// In the order they are tried; at least one.
    pub endpoints: Vec<Endpoint>,
    /// How they are spoken to.
    pub access: HubAccess,
}

/// How hubs are spoken to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum HubAccess {
    /// By mutual TLS, with certificates from files.
    Files {
        /// Authorities of the hub's certificate.
        ca: PathBuf,
        /// The enforcement point's certificate, then its intermediates.
        certificate: PathBuf,
        /// Its private key.
        key: PathBuf,
    },
    /// By mutual TLS, with a certificate that the hub gives for the join token in this file.
    JoinToken(PathBuf),
    /// In clear, on loopback.
    InsecureCleartext,
}

pub(super) fn hub_client(check: &mut Check<'_>, raw: &raw::HubClient) -> Option<HubClient> {
    let access = access(check, raw);
    let endpoints = endpoints(check, &raw.endpoints, raw.insecure_cleartext_loopback);
    Some(HubClient { endpoints: endpoints?, access: access? })
}

fn access(check: &mut Check<'_>, raw: &raw::HubClient) -> Option<HubAccess> {
    let key = Key::root().field("hub");
    let insecure = raw.insecure_cleartext_loopback;
    match (&raw.tls, &raw.join_token_file) {
        (Some(tls), None) if !insecure => {
            let key = key.field("tls");
            let ca = check.path(&key.field("ca"), &tls.ca);
            let certificate = check.path(&key.field("certificate"), &tls.certificate);
            let private = check.path(&key.field("key"), &tls.key);
            Some(HubAccess::Files { ca: ca?, certificate: certificate?, key: private? })
        }
        (None, Some(file)) if !insecure => {
            check.path(&key.field("join_token_file"), file).map(HubAccess::JoinToken)
        }
        (None, None) if insecure => {
            let weak = "whoever listens there in the hub's place decides what is allowed here";
            check.warn(&key.field("insecure_cleartext_loopback"), weak);
            Some(HubAccess::InsecureCleartext)
        }
        (tls, token) => {
            let ways = usize::from(tls.is_some()) + usize::from(token.is_some()) + usize::from(insecure);
            let found = if ways == 0 {
                "no way to be known to the hub"
            } else {
                "more than one way to be known to the hub"
            };
            let remedy =
                "write `join_token_file`, with a file that `portreeve hub join-token` filled, or `tls`";
            check.refuse(&key, found, "one of `join_token_file` and `tls`", remedy);
            None
        }
    }
}

fn endpoints(check: &mut Check<'_>, raw: &[String], insecure: bool) -> Option<Vec<Endpoint>> {
    let key = Key::root().field("hub").field("endpoints");
    if raw.is_empty() {
        let remedy = "add `https://127.0.0.1:7410`, where the hub listens";
        check.refuse(&key, "an empty list", "at least one", remedy);
        return None;
    }
    let mut known: Vec<Option<Endpoint>> = Vec::new();
    for (index, text) in raw.iter().enumerate() {
        let key = key.item(index);
        let hub = endpoint(check, &key, text, insecure);
        if hub.is_some() && known.contains(&hub) {
            let found = format!("{} a second time", quoted(text));
            check.refuse(&key, found, "each hub once", "remove one of the two");
        }
        known.push(hub);
    }
    known.into_iter().collect()
}

fn endpoint(check: &mut Check<'_>, key: &Key, text: &str, insecure: bool) -> Option<Endpoint> {
    let found = if text.contains('@') { "a URL with a user".to_owned() } else { quoted(text) };
    let Some(hub) = Endpoint::parse_either(text) else {
        let expected = "a URL of scheme, host and port only, such as `https://hub.example:7410`";
        let remedy = "write `https://`, the host, `:` and the port, and nothing else";
        check.refuse(key, found, expected, remedy);
        return None;
    };
    match (hub.is_secure(), insecure) {
        (true, false) => Some(hub),
        (false, true) if hub.is_loopback() => Some(hub),
        (false, true) => {
            let expected = "a loopback host, because identity state must not cross a network in clear";
            check.refuse(key, found, expected, "remove `insecure_cleartext_loopback`, and write `https`");
            None
        }
        (false, false) => {
            check.refuse(key, found, "an `https` URL: the hub speaks TLS", "write `https`");
            None
        }
        (true, true) => {
            let expected = "an `http` URL beside `insecure_cleartext_loopback: true`";
            check.refuse(key, found, expected, "remove `insecure_cleartext_loopback`, or write `http`");
            None
        }
    }
}
