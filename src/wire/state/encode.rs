//! Core to wire.

use super::{Bytes, Timestamp, core, proto};

fn text(value: Option<&std::sync::Arc<str>>) -> String {
    value.map(|v| v.to_string()).unwrap_or_default()
}

fn micros(value: Option<Timestamp>) -> Option<i64> {
    value.map(Timestamp::as_micros)
}

fn owner(value: &core::Owner) -> Option<proto::Owner> {
    (*value != core::Owner::default()).then(|| proto::Owner {
        team: text(value.team.as_ref()),
        person: text(value.person.as_ref()),
        contact: text(value.contact.as_ref()),
    })
}

pub(super) fn identity(v: &core::Identity) -> proto::Identity {
    proto::Identity {
        r#type: match v.kind {
            core::IdentityType::Workload => proto::IdentityType::Workload,
            core::IdentityType::ServiceAccount => proto::IdentityType::ServiceAccount,
            core::IdentityType::CiJob => proto::IdentityType::CiJob,
            core::IdentityType::ApiClient => proto::IdentityType::ApiClient,
            core::IdentityType::Agent => proto::IdentityType::Agent,
        } as i32,
        environment: v.environment.to_string(),
        status: match v.status {
            core::IdentityStatus::Pending => proto::IdentityStatus::Pending,
            core::IdentityStatus::Active => proto::IdentityStatus::Active,
            core::IdentityStatus::Suspended => proto::IdentityStatus::Suspended,
            core::IdentityStatus::Retired => proto::IdentityStatus::Retired,
        } as i32,
        owner: owner(&v.owner),
        ticket: text(v.ticket.as_ref()),
        end_us: micros(v.end),
        review_due_us: micros(v.review_due),
        third_party: v.third_party,
        risk: match v.risk {
            None => proto::RiskLevel::Unspecified,
            Some(core::RiskLevel::Low) => proto::RiskLevel::Low,
            Some(core::RiskLevel::Medium) => proto::RiskLevel::Medium,
            Some(core::RiskLevel::High) => proto::RiskLevel::High,
        } as i32,
        labels: v.labels.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect(),
        entitlements: v.entitlements.iter().map(entitlement).collect(),
        bindings: v
            .bindings
            .iter()
            .map(|b| proto::Binding { issuer: b.issuer.to_string(), subject: b.subject.to_string() })
            .collect(),
        not_before_us: micros(v.not_before),
    }
}

fn entitlement(v: &core::Entitlement) -> proto::Entitlement {
    proto::Entitlement {
        name: v.name.to_string(),
        source: text(v.source.as_ref()),
        granted_us: micros(v.granted),
        expires_us: micros(v.expires),
    }
}

pub(super) fn credential(v: &core::Credential) -> proto::Credential {
    proto::Credential {
        kind: match v.kind {
            core::CredentialKind::SigningKey => proto::CredentialKind::SigningKey,
            core::CredentialKind::ApiKey => proto::CredentialKind::ApiKey,
            core::CredentialKind::Certificate => proto::CredentialKind::Certificate,
        } as i32,
        identity: v.identity.as_ref().map(ToString::to_string).unwrap_or_default(),
        fingerprint: Bytes::copy_from_slice(&v.fingerprint),
        digest: v.digest.map(|digest| Bytes::copy_from_slice(&digest)).unwrap_or_default(),
        issued_us: micros(v.issued),
        rotate_by_us: micros(v.rotate_by),
        expires_us: micros(v.expires),
        status: match v.status {
            core::CredentialStatus::Active => proto::CredentialStatus::Active,
            core::CredentialStatus::Revoked => proto::CredentialStatus::Revoked,
        } as i32,
        source: text(v.source.as_ref()),
    }
}

fn introspection(v: &core::Introspection) -> proto::Introspection {
    proto::Introspection {
        endpoint: v.endpoint.to_string(),
        subject: match v.subject {
            core::SubjectMember::Sub => proto::SubjectMember::Sub,
            core::SubjectMember::ClientId => proto::SubjectMember::ClientId,
        } as i32,
        token_prefix: v.token_prefix.to_string(),
    }
}

pub(super) fn issuer(v: &core::Issuer) -> proto::Issuer {
    proto::Issuer {
        iss: v.iss.to_string(),
        profile: match v.profile {
            core::TokenProfile::Generic => proto::TokenProfile::Generic,
            core::TokenProfile::AccessToken => proto::TokenProfile::Rfc9068,
            core::TokenProfile::JwtSvid => proto::TokenProfile::JwtSvid,
            core::TokenProfile::Kubernetes => proto::TokenProfile::Kubernetes,
            core::TokenProfile::GitHub => proto::TokenProfile::Github,
            core::TokenProfile::GitLab => proto::TokenProfile::Gitlab,
            core::TokenProfile::X509 => proto::TokenProfile::X509,
        } as i32,
        algorithms: v.algorithms.iter().map(|a| a.as_str().to_owned()).collect(),
        audiences: v.audiences.iter().map(ToString::to_string).collect(),
        max_lifetime_s: v.max_lifetime_s,
        jwks: Bytes::copy_from_slice(&v.jwks),
        key_source: match v.key_source {
            core::KeySource::Given => proto::KeySource::Given,
            core::KeySource::Url(_) => proto::KeySource::Url,
            core::KeySource::Discovery => proto::KeySource::Discovery,
        } as i32,
        keys_url: match &v.key_source {
            core::KeySource::Url(url) => url.to_string(),
            core::KeySource::Given | core::KeySource::Discovery => String::new(),
        },
        introspection: v.introspection.as_deref().map(introspection),
        status_lists: v.status_lists.as_ref().map(|lists| proto::StatusLists {
            uris: lists.uris.iter().map(ToString::to_string).collect(),
            max_age_s: lists.max_age_s,
        }),
        keys_until_us: v.keys_until.map_or(0, Timestamp::as_micros),
    }
}

pub(super) fn revocation(v: &core::Revocation) -> proto::Revocation {
    use proto::revocation::Target;
    let token = |issuer: String, jti: String, digest: Bytes, expires: Timestamp| {
        Target::Token(proto::RevokedToken {
            issuer,
            jti,
            signing_input_digest: digest,
            expires_us: expires.as_micros(),
        })
    };
    let target = match &v.target {
        core::RevocationTarget::TokenId { issuer, jti, expires } => {
            token(issuer.to_string(), jti.to_string(), Bytes::new(), *expires)
        }
        core::RevocationTarget::TokenDigest { digest, expires } => {
            token(String::new(), String::new(), Bytes::copy_from_slice(digest), *expires)
        }
        core::RevocationTarget::Credential(name) => {
            Target::Credential(proto::RevokedCredential { credential: name.to_string() })
        }
        core::RevocationTarget::IssuedBefore { identity, not_before } => {
            Target::IssuedBefore(proto::RevokedIssuedBefore {
                identity: identity.to_string(),
                not_before_us: not_before.as_micros(),
            })
        }
        core::RevocationTarget::Identity { identity, generation } => {
            Target::Identity(proto::RevokedIdentity {
                identity: identity.to_string(),
                generation: *generation,
            })
        }
    };
    proto::Revocation {
        reason: v.reason.to_string(),
        requested_by: v.requested_by.to_string(),
        at_us: v.at.as_micros(),
        target: Some(target),
    }
}

fn rule(v: core::HygieneRule) -> Option<proto::HygieneRule> {
    Some(proto::HygieneRule {
        mode: match v.mode {
            core::HygieneMode::Off => proto::HygieneMode::Off,
            core::HygieneMode::Warn => proto::HygieneMode::Warn,
            core::HygieneMode::Deny => proto::HygieneMode::Deny,
        } as i32,
        deny_from_us: micros(v.deny_from),
    })
}

pub(super) fn policy_set(v: &core::PolicySet) -> proto::PolicySet {
    proto::PolicySet {
        cedar: v.cedar.to_string(),
        mode: match v.mode {
            core::PolicyMode::Enforce => proto::PolicyMode::Enforce,
            core::PolicyMode::Shadow => proto::PolicyMode::Shadow,
        } as i32,
        hygiene: Some(proto::Hygiene {
            ownerless: rule(v.hygiene.ownerless),
            rotation_overdue: rule(v.hygiene.rotation_overdue),
            review_lapsed: rule(v.hygiene.review_lapsed),
            environment: rule(v.hygiene.environment),
        }),
    }
}

pub(super) fn exception(v: &core::Exception) -> proto::Exception {
    proto::Exception {
        identities: v.identities.iter().map(ToString::to_string).collect(),
        resources: v.resources.iter().map(ToString::to_string).collect(),
        lifts: v.lifts.iter().map(ToString::to_string).collect(),
        reason: v.reason.to_string(),
        ticket: text(v.ticket.as_ref()),
        owner: owner(&v.owner),
        approver: owner(&v.approver),
        expires_us: v.expires.as_micros(),
    }
}

pub(super) fn resource(v: &core::Resource) -> proto::Resource {
    proto::Resource {
        environment: v.environment.to_string(),
        owner: owner(&v.owner),
        routes: v
            .routes
            .iter()
            .map(|route| proto::ResourceRoute {
                methods: route.methods.iter().map(ToString::to_string).collect(),
                path: route.path.text().to_string(),
                requires: text(route.requires.as_ref()),
            })
            .collect(),
    }
}

pub(super) fn status_list(v: &core::StatusList) -> proto::StatusList {
    proto::StatusList {
        issuer: v.issuer.to_string(),
        uri: v.uri.to_string(),
        bits: v.bits.count().into(),
        issued_us: v.issued.as_micros(),
        valid_until_us: v.valid_until.as_micros(),
        signed_by: Bytes::copy_from_slice(&v.signed_by),
        packed: Bytes::copy_from_slice(v.packed()),
    }
}
