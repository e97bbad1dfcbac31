//! Keys that a token names and its issuer's set lacks.
//!
//! A token signed by a key that was published a moment ago is refused like any other that does not
//! verify. It is then worth a look whether the hub knows of a newer set; here is seen whether it is.

use std::sync::Arc;

use super::algorithm::Algorithm;
use super::json;
use super::jws::Jws;
use super::jwt::voucher;
use super::presented::{Presented, TOKEN_BYTES_MAX};
use crate::core::id::Name;
use crate::core::identity::Issuer;

/// Is told of keys and status lists that are missing. Never waits, and may drop what it is told.
pub trait MissingKeys: Send + Sync {
    /// A token of `issuer` names `key_id`, which nobody has verified.
    fn missing(&self, tenant: &Name, issuer: &Name, key_id: &str);

    /// A token of `issuer`, which verifies, names a status list that is not here.
    fn missing_list(&self, tenant: &Name, issuer: &Name, uri: &str);
}

/// The issuer and the key id of a token that was refused, if its issuer's keys are fetched and have
/// none of that id: neither a good one nor one that is refused.
pub fn missing_key<'s>(
    refused: &Presented,
    issuers: &dyn Fn(&str) -> Option<(Name, &'s Issuer)>,
) -> Option<(Name, Arc<str>)> {
    let token = refused.token()?;
    if token.len() > TOKEN_BYTES_MAX {
        return None;
    }
    let jws = Jws::parse(token).ok()?;
    let key_id = jws.key_id().filter(|key_id| !key_id.is_empty())?;
    let algorithm = Algorithm::parse(jws.algorithm())?;
    let payload = json::parse_object(jws.payload()).ok()?;
    let (name, issuer) = voucher(&payload, issuers).ok()?;
    let worth_a_look = issuer.key_source.is_fetched()
        && issuer.algorithms.contains(&algorithm)
        && !issuer.keys.names(key_id);
    worth_a_look.then(|| (name, Arc::from(key_id)))
}
