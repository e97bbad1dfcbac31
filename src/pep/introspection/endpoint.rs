//! One server that is asked: with whose credentials, how it stands, and what it is being asked now.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::HeaderValue;
use parking_lot::Mutex;
use prometheus::IntGauge;
use tokio::sync::watch;
use zeroize::Zeroizing;

use super::breaker::{Breaker, PauseRule};
use super::{IntrospectionClient, IntrospectionFileError};
use crate::core::credential::Introspected;
use crate::core::time::BootInstant;
use crate::mtls::{FileError, Files};
use crate::outbound::Target;
use crate::pep::secret;

/// Where an answer comes to; `None` until then.
pub(super) type Told = watch::Receiver<Option<Introspected>>;

/// A server.
///
/// INVARIANT: a secret that cannot be used changes nothing: what was read before is used on.
pub(super) struct Endpoint {
    pub(super) url: Arc<str>,
    pub(super) target: Target,
    client_id: Arc<str>,
    file: PathBuf,
    seen: Mutex<Files>,
    authorization: ArcSwap<HeaderValue>,
    pub(super) state: Mutex<State>,
    paused: IntGauge,
}

/// How it stands.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) breaker: Breaker,
    /// Tokens that it is being asked about.
    pub(super) flights: HashMap<[u8; 32], Told>,
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Endpoint").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Endpoint {
    /// Reads the secret. Blocks.
    pub(super) fn open(
        client: &IntrospectionClient,
        paused: IntGauge,
    ) -> Result<Self, IntrospectionFileError> {
        let fault = |what: String| IntrospectionFileError { endpoint: Arc::clone(&client.endpoint), what };
        let target = Target::parse(&client.endpoint).map_err(|e| fault(format!("it {e}")))?;
        let mut seen = Files::default();
        let held =
            read(&mut seen, &client.secret_file, &client.client_id).map_err(|e| fault(e.to_string()))?;
        Ok(Self {
            url: Arc::clone(&client.endpoint),
            target,
            client_id: Arc::clone(&client.client_id),
            file: client.secret_file.clone(),
            seen: Mutex::new(seen),
            authorization: ArcSwap::from_pointee(held.unwrap_or_else(|| HeaderValue::from_static(""))),
            state: Mutex::default(),
            paused,
        })
    }

    /// Takes over what has changed. Blocks.
    pub(super) fn look(&self) {
        let endpoint = &*self.url;
        match read(&mut self.seen.lock(), &self.file, &self.client_id) {
            Ok(None) => {}
            Ok(Some(value)) => {
                self.authorization.store(Arc::new(value));
                tracing::info!(endpoint, "a secret for introspection was taken over");
            }
            Err(error) => {
                tracing::error!(%error, endpoint, "a secret for introspection cannot be taken over; the one before stays");
            }
        }
    }

    pub(super) fn authorization(&self) -> HeaderValue {
        HeaderValue::clone(&self.authorization.load())
    }

    /// Notes that a question about `key` has ended.
    pub(super) fn ended(&self, key: &[u8; 32], answered: bool, now: BootInstant, rule: PauseRule) {
        let mut state = self.state.lock();
        state.flights.remove(key);
        let before = state.breaker.is_open();
        state.breaker.ended(answered, now, rule);
        let after = state.breaker.is_open();
        self.paused.set(i64::from(after));
        drop(state);
        let endpoint = &*self.url;
        match (before, after) {
            (false, true) => {
                tracing::warn!(endpoint, "an issuer failed too often, and is not asked for a moment")
            }
            (true, false) => tracing::info!(endpoint, "an issuer answers again"),
            _ => {}
        }
    }
}

/// The form that asks about a token.
///
/// # Standard
/// RFC 7662 §2.1.
pub(super) fn form(token: &[u8]) -> Bytes {
    let parts = ["token=", &encoded(token), "&token_type_hint=access_token"];
    Bytes::from_owner(Zeroizing::new(parts.concat().into_bytes()))
}

/// # Standard
/// RFC 6749 §2.3.1: both parts are encoded before they are joined.
fn read(seen: &mut Files, file: &Path, client_id: &str) -> Result<Option<HeaderValue>, FileError> {
    let Some(secret) = secret::one_line(seen, file)? else { return Ok(None) };
    let (id, secret) = (encoded(client_id.as_bytes()), encoded(secret.as_bytes()));
    secret::basic(&id, &secret, file).map(Some)
}

/// As `application/x-www-form-urlencoded` has it.
fn encoded(bytes: &[u8]) -> Zeroizing<String> {
    // Room for all of it, so that nothing is left behind by growing.
    let mut written = Zeroizing::new(String::with_capacity(bytes.len() * 3));
    for byte in bytes {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_') {
            written.push(char::from(*byte));
        } else {
            let hex = |half: u8| char::from_digit(u32::from(half), 16).unwrap_or('0').to_ascii_uppercase();
            written.extend(['%', hex(byte >> 4), hex(byte & 15)]);
        }
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_can_be_read_in_one_way() {
        assert_eq!(*encoded(b"aZ09-._"), "aZ09-._");
        assert_eq!(*encoded("+/=~&% \u{e4}:".as_bytes()), "%2B%2F%3D%7E%26%25%20%C3%A4%3A");
        assert_eq!(&form(b"a+b=")[..], b"token=a%2Bb%3D&token_type_hint=access_token");
    }
}
