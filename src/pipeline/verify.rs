//! The step from what is presented to a verified credential, and what is asked before it.

use std::sync::Arc;

use super::{Case, Pipeline, Proofs};
use crate::core::credential::{
    Expected, Kind, KnownCertificates, Possession, Presented, TokenQuestion, Verification, missing_key,
    verify, verify_api_key, verify_certificate, verify_opaque,
};
use crate::core::id::Name;
use crate::core::identity::{CredentialKind, Issuer, Snapshot};
use crate::core::policy::{Exchange, Presentation, Reason};
use crate::core::time::Now;

impl Pipeline {
    /// Has the issuer of an opaque token asked, before the request is judged. Anything else passes at once.
    pub async fn introspect(&self, exchange: &mut Exchange) {
        let Some(introspect) = &self.introspect else { return };
        let asked = {
            let snapshot = self.state.load();
            // What cannot be asked, the decision refuses.
            let Some(Ok(question)) = self.question(&snapshot, exchange) else { return };
            introspect.remembered(&question).ok_or_else(|| introspect.ask(&question))
        };
        let answer = match asked {
            Ok(answer) => answer,
            Err(asking) => asking.await,
        };
        if let Presentation::One(presented) = &mut exchange.presentation {
            presented.answered(answer);
        }
    }

    /// Whom to ask about what is presented; `None`: nobody.
    fn question<'a>(
        &'a self,
        snapshot: &Snapshot,
        exchange: &'a Exchange,
    ) -> Option<Result<TokenQuestion<'a>, Reason>> {
        let tenant = &exchange.service.as_ref()?.tenant;
        let Presentation::One(presented) = &exchange.presentation else { return None };
        TokenQuestion::of(presented, tenant, snapshot.introspecting(tenant), &self.fingerprint)
    }

    pub(super) fn verify(&self, case: &Case<'_>) -> Result<Verification, Reason> {
        let (tenant, rules) = (&case.service.tenant, &case.exchange.rules);
        let issuers = |iss: &str| {
            let held = case.snapshot.issuer_of(tenant, iss)?;
            Some((held.name.clone(), case.keys.of(tenant, held.value.as_deref()?)?))
        };
        let known = |kind| move |place: &[u8; 32]| case.snapshot.credential_of(tenant, kind, place);
        let by_itself = |verified| Verification {
            verified: Arc::new(verified),
            cached: false,
            proof: None,
            asked_until: None,
            keys_until: None,
        };
        let certificate = case.exchange.certificate.as_deref();
        let presented = match (&case.exchange.presentation, certificate) {
            (Presentation::Nothing, None) => return Err(Reason::CredentialMissing),
            (Presentation::Nothing, Some(certificate)) => {
                let records = known(CredentialKind::Certificate);
                let known = KnownCertificates { tenant, records: &records, issuers: &issuers };
                let now = case.now.wall;
                return verify_certificate(certificate, &known, rules.clock_skew, now, &self.fingerprint)
                    .map(by_itself);
            }
            (Presentation::Malformed, _) => return Err(Reason::CredentialMalformed),
            (Presentation::One(presented), _) => presented,
        };
        if presented.kind() == Kind::ApiKey {
            let records = known(CredentialKind::ApiKey);
            return verify_api_key(
                presented,
                tenant,
                &records,
                rules.clock_skew,
                case.now.wall,
                &self.fingerprint,
            )
            .map(by_itself);
        }
        self.token(case, presented, &issuers)
    }

    fn token<'s>(
        &self,
        case: &Case<'_>,
        presented: &Presented,
        issuers: &dyn Fn(&str) -> Option<(Name, &'s Issuer)>,
    ) -> Result<Verification, Reason> {
        let (tenant, rules) = (&case.service.tenant, &case.exchange.rules);
        let certificate = case.exchange.certificate.as_deref();
        let request = self.proving.request(case.exchange, case.proofs, case.now.wall);
        let possession = Possession { certificate, request };
        let expected =
            Expected { tenant, audiences: &rules.audiences, clock_skew: rules.clock_skew, possession };
        if let Some(question) = self.question(case.snapshot, case.exchange) {
            return self.opaque(&question?, presented, &expected, case.proofs, case.now);
        }
        let now = case.now.wall;
        let found = verify(presented, &expected, issuers, now, &*self.cache, &self.fingerprint);
        if matches!(found, Err(Reason::CredentialUnverified))
            && let Some(told) = &self.missing
            && let Some((issuer, key_id)) = missing_key(presented, issuers)
        {
            told.missing(tenant, &issuer, &key_id);
        }
        found
    }

    /// By what its issuer said of it. Of an exchange that is open, its issuer is asked again when that is old.
    fn opaque(
        &self,
        question: &TokenQuestion<'_>,
        presented: &Presented,
        expected: &Expected<'_>,
        proofs: Proofs,
        now: Now,
    ) -> Result<Verification, Reason> {
        let introspect = self.introspect.as_ref().ok_or(Reason::IntrospectionUnconfigured)?;
        let open = matches!(proofs, Proofs::WereTaken(_));
        let since = open.then(|| introspect.last(question));
        let found = verify_opaque(question, presented, since, expected, now)?;
        if open && found.asked_until.is_some_and(|until| until <= now.wall) {
            // The next look finds the answer: it is not waited for.
            drop(introspect.ask(question));
        }
        Ok(found)
    }
}
