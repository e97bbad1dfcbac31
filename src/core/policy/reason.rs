//! Why: the one table of reason codes.

use std::fmt;

/// Who or what a refusal is about; decides the status and how much is said.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReasonClass {
    /// The request itself cannot be judged.
    Request,
    /// The credential, its issuer or its identity: all look the same to the caller.
    Credential,
    /// A rule or policy said no to a known identity.
    Policy,
    /// The enforcement point cannot decide now.
    Unable,
    /// A fault of ours.
    Internal,
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $class:ident, $status:literal;)*) => {
        /// A stable, machine-readable reason for a verdict.
        ///
        /// docs/reasons.md holds the same table; a test keeps them equal.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum Reason { $($(#[$doc])* $name,)* }

        impl Reason {
            /// Every reason.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The dotted code.
            pub const fn code(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }

            /// What it is about.
            pub const fn class(self) -> ReasonClass {
                match self { $(Self::$name => ReasonClass::$class,)* }
            }

            /// The HTTP status of a refusal for this reason.
            pub const fn status(self) -> u16 {
                match self { $(Self::$name => $status,)* }
            }
        }
    };
}

reasons! {
    /// Path, host, framing or headers can be read in two ways.
    RequestAmbiguous = "request.ambiguous", Request, 400;
    /// More than one credential was presented.
    RequestCredentials = "request.credentials", Request, 400;
    /// The head is over its limit, in bytes or lines.
    RequestLimit = "request.limit", Request, 431;
    /// The target is longer than its limit.
    RequestTarget = "request.target_too_long", Request, 414;
    /// The body is larger than its limit.
    RequestBody = "request.body_too_large", Request, 413;
    /// The body comes too slowly.
    RequestSlow = "request.too_slow", Request, 408;
    /// No credential was presented.
    CredentialMissing = "credential.missing", Credential, 401;
    /// The credential does not parse.
    CredentialMalformed = "credential.malformed", Credential, 401;
    /// The credential does not verify: signature, key, algorithm or kind.
    CredentialUnverified = "credential.unverified", Credential, 401;
    /// The credential is outside its times, or lives longer than its issuer may grant.
    CredentialExpired = "credential.expired", Credential, 401;
    /// The credential is meant for someone else.
    CredentialAudience = "credential.audience", Credential, 401;
    /// The credential is bound to a proof that was not given.
    CredentialUnbound = "credential.unbound", Credential, 401;
    /// The signed proof of possession is none, or is not for this request, token and time.
    CredentialProof = "credential.proof", Credential, 401;
    /// The proof of possession carries no nonce of ours that still counts.
    CredentialNonce = "credential.nonce", Credential, 401;
    /// The credential, its token id or its signing key was revoked.
    CredentialRevoked = "credential.revoked", Credential, 401;
    /// Its issuer says that the credential is not active.
    CredentialInactive = "credential.inactive", Credential, 401;
    /// The token names a status list that its issuer's record does not take, or another way to ask.
    StatusUnlisted = "credential.status_unlisted", Credential, 401;
    /// The status list that the token names is not here.
    StatusMissing = "credential.status_missing", Credential, 401;
    /// The status list that the token names counts no more.
    StatusStale = "credential.status_stale", Credential, 401;
    /// The status list that the token names has no such place.
    StatusRange = "credential.status_range", Credential, 401;
    /// Its issuer's status list says: invalid.
    StatusInvalid = "credential.status_invalid", Credential, 401;
    /// Its issuer's status list says: suspended.
    StatusSuspended = "credential.status_suspended", Credential, 401;
    /// Its issuer's status list says what has no meaning here.
    StatusOther = "credential.status_other", Credential, 401;
    /// No issuer of the tenant has this name.
    IssuerUnknown = "issuer.unknown", Credential, 401;
    /// More than one issuer of the tenant may have issued this opaque token.
    IssuerUndecided = "issuer.undecided", Credential, 401;
    /// No identity of the tenant is bound to this subject.
    IdentityUnknown = "identity.unknown", Credential, 401;
    /// The identity was revoked.
    IdentityRevoked = "identity.revoked", Credential, 401;
    /// The identity is suspended, or not yet active.
    IdentitySuspended = "identity.suspended", Credential, 401;
    /// The identity was retired.
    IdentityRetired = "identity.retired", Credential, 401;
    /// The identity is past its end date.
    IdentityExpired = "identity.expired", Credential, 401;
    /// The identity has no owner.
    HygieneOwnerless = "hygiene.ownerless", Policy, 403;
    /// The credential is past its rotation date.
    HygieneRotationOverdue = "hygiene.rotation_overdue", Policy, 403;
    /// The identity is past its review date.
    HygieneReviewLapsed = "hygiene.review_lapsed", Policy, 403;
    /// The identity's environment is not the resource's.
    HygieneEnvironment = "hygiene.environment", Policy, 403;
    /// No policy permits it, one forbids it, or no route matches.
    PolicyDenied = "policy.denied", Policy, 403;
    /// A policy could not be evaluated.
    PolicyError = "policy.error", Policy, 403;
    /// No state has arrived yet.
    StateAbsent = "state.absent", Unable, 503;
    /// The state is older than the route allows.
    StateStale = "state.stale", Unable, 503;
    /// The decision cannot be recorded as the route demands.
    EvidenceUnavailable = "evidence.unavailable", Unable, 503;
    /// This enforcement point may not ask the issuer of an opaque token.
    IntrospectionUnconfigured = "introspection.unconfigured", Unable, 503;
    /// The issuer of an opaque token gave no answer that can be taken.
    IntrospectionFailed = "introspection.failed", Unable, 503;
    /// The issuer of an opaque token failed too often and is not asked for a moment.
    IntrospectionPaused = "introspection.paused", Unable, 503;
    /// Too much at once.
    Overloaded = "overloaded", Unable, 503;
    /// A fault of ours.
    Internal = "internal", Internal, 500;
}

impl Reason {
    /// The reason with this code.
    pub fn parse(code: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|reason| reason.code() == code)
    }

    /// Whether an exception may lift it: hygiene rules and policy denials only.
    pub fn may_be_lifted(self) -> bool {
        matches!(
            self,
            Self::HygieneOwnerless
                | Self::HygieneRotationOverdue
                | Self::HygieneReviewLapsed
                | Self::HygieneEnvironment
                | Self::PolicyDenied
        )
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_follows_the_code() {
        for reason in Reason::ALL {
            let (family, expected) = match reason.code().split('.').next() {
                Some("request") => ("request", [400, 408, 413, 414, 431].as_slice()),
                Some("credential" | "issuer" | "identity") => ("credential", [401].as_slice()),
                Some("hygiene" | "policy") => ("policy", [403].as_slice()),
                Some("state" | "evidence" | "introspection" | "overloaded") => ("unable", [503].as_slice()),
                _ => ("internal", [500].as_slice()),
            };
            assert!(expected.contains(&reason.status()), "{family}: {reason}");
            assert_eq!(Reason::parse(reason.code()), Some(*reason));
        }
    }

    #[test]
    fn a_refused_credential_is_never_lifted() {
        for reason in Reason::ALL {
            let liftable = reason.code().starts_with("hygiene.") || *reason == Reason::PolicyDenied;
            assert_eq!(reason.may_be_lifted(), liftable, "{reason}");
        }
    }
}
