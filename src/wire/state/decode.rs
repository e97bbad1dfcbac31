//! Wire to core.

use super::{Arc, BTreeMap, Name, Timestamp, WireError, core, hash32, proto};
use crate::core::credential::Algorithm;
use crate::core::policy::{PathPattern, Reason};

fn text(value: String) -> Option<Arc<str>> {
    (!value.is_empty()).then(|| Arc::from(value))
}

fn needed(place: &'static str, value: String) -> Result<Arc<str>, WireError> {
    text(value).ok_or_else(|| WireError::new(place, "is empty"))
}

fn time(value: Option<i64>) -> Option<Timestamp> {
    value.map(Timestamp::from_micros)
}

fn unknown(place: &'static str, value: i32) -> WireError {
    WireError::new(place, format!("value {value} is unknown to this build"))
}

fn owner(value: Option<proto::Owner>) -> core::Owner {
    let proto::Owner { team, person, contact } = value.unwrap_or_default();
    core::Owner { team: text(team), person: text(person), contact: text(contact) }
}

fn names(values: Vec<String>) -> Result<Vec<Name>, WireError> {
    values.iter().map(|name| Ok(Name::parse(name)?)).collect()
}

fn texts(values: Vec<String>) -> Vec<Arc<str>> {
    values.into_iter().map(Arc::from).collect()
}

pub(super) fn identity(v: proto::Identity) -> Result<core::Identity, WireError> {
    let kind = match proto::IdentityType::try_from(v.r#type) {
        Ok(proto::IdentityType::Workload) => core::IdentityType::Workload,
        Ok(proto::IdentityType::ServiceAccount) => core::IdentityType::ServiceAccount,
        Ok(proto::IdentityType::CiJob) => core::IdentityType::CiJob,
        Ok(proto::IdentityType::ApiClient) => core::IdentityType::ApiClient,
        Ok(proto::IdentityType::Agent) => core::IdentityType::Agent,
        _ => return Err(unknown("type", v.r#type)),
    };
    let status = match proto::IdentityStatus::try_from(v.status) {
        Ok(proto::IdentityStatus::Pending) => core::IdentityStatus::Pending,
        Ok(proto::IdentityStatus::Active) => core::IdentityStatus::Active,
        Ok(proto::IdentityStatus::Suspended) => core::IdentityStatus::Suspended,
        Ok(proto::IdentityStatus::Retired) => core::IdentityStatus::Retired,
        _ => return Err(unknown("status", v.status)),
    };
    let risk = match proto::RiskLevel::try_from(v.risk) {
        Ok(proto::RiskLevel::Unspecified) => None,
        Ok(proto::RiskLevel::Low) => Some(core::RiskLevel::Low),
        Ok(proto::RiskLevel::Medium) => Some(core::RiskLevel::Medium),
        Ok(proto::RiskLevel::High) => Some(core::RiskLevel::High),
        Err(_) => return Err(unknown("risk", v.risk)),
    };
    let labels: BTreeMap<_, _> = v.labels.into_iter().map(|(k, v)| (Arc::from(k), Arc::from(v))).collect();
    Ok(core::Identity {
        kind,
        environment: needed("environment", v.environment)?,
        status,
        owner: owner(v.owner),
        ticket: text(v.ticket),
        end: time(v.end_us),
        review_due: time(v.review_due_us),
        third_party: v.third_party,
        risk,
        labels,
        entitlements: v.entitlements.into_iter().map(entitlement).collect::<Result<_, _>>()?,
        bindings: v.bindings.into_iter().map(binding).collect::<Result<_, _>>()?,
        not_before: time(v.not_before_us),
    })
}

fn entitlement(v: proto::Entitlement) -> Result<core::Entitlement, WireError> {
    Ok(core::Entitlement {
        name: needed("entitlement name", v.name)?,
        source: text(v.source),
        granted: time(v.granted_us),
        expires: time(v.expires_us),
    })
}

fn binding(v: proto::Binding) -> Result<core::Binding, WireError> {
    Ok(core::Binding { issuer: Name::parse(&v.issuer)?, subject: needed("binding subject", v.subject)? })
}

pub(super) fn credential(v: proto::Credential) -> Result<core::Credential, WireError> {
    let kind = match proto::CredentialKind::try_from(v.kind) {
        Ok(proto::CredentialKind::SigningKey) => core::CredentialKind::SigningKey,
        Ok(proto::CredentialKind::ApiKey) => core::CredentialKind::ApiKey,
        Ok(proto::CredentialKind::Certificate) => core::CredentialKind::Certificate,
        _ => return Err(unknown("kind", v.kind)),
    };
    let status = match proto::CredentialStatus::try_from(v.status) {
        Ok(proto::CredentialStatus::Active) => core::CredentialStatus::Active,
        Ok(proto::CredentialStatus::Revoked) => core::CredentialStatus::Revoked,
        _ => return Err(unknown("status", v.status)),
    };
    Ok(core::Credential {
        kind,
        identity: text(v.identity).map(|name| Name::parse(&name)).transpose()?,
        fingerprint: hash32("fingerprint", &v.fingerprint)?,
        digest: (!v.digest.is_empty()).then(|| hash32("digest", &v.digest)).transpose()?,
        issued: time(v.issued_us),
        rotate_by: time(v.rotate_by_us),
        expires: time(v.expires_us),
        status,
        source: text(v.source),
    })
}

pub(super) fn issuer(v: proto::Issuer) -> Result<core::Issuer, WireError> {
    let profile = match proto::TokenProfile::try_from(v.profile) {
        Ok(proto::TokenProfile::Generic) => core::TokenProfile::Generic,
        Ok(proto::TokenProfile::Rfc9068) => core::TokenProfile::AccessToken,
        Ok(proto::TokenProfile::JwtSvid) => core::TokenProfile::JwtSvid,
        Ok(proto::TokenProfile::Kubernetes) => core::TokenProfile::Kubernetes,
        Ok(proto::TokenProfile::Github) => core::TokenProfile::GitHub,
        Ok(proto::TokenProfile::Gitlab) => core::TokenProfile::GitLab,
        Ok(proto::TokenProfile::X509) => core::TokenProfile::X509,
        _ => return Err(unknown("profile", v.profile)),
    };
    let algorithm = |name: &String| {
        Algorithm::parse(name).ok_or_else(|| WireError::new("algorithms", format!("`{name}` is unknown")))
    };
    let algorithms = v.algorithms.iter().map(algorithm).collect::<Result<Vec<_>, _>>()?;
    let introspection = v.introspection.map(introspection).transpose()?;
    let keyless = profile == core::TokenProfile::X509 || (introspection.is_some() && v.jwks.is_empty());
    if algorithms.is_empty() != keyless || v.max_lifetime_s == 0 {
        return Err(WireError::new("issuer", "algorithms and max_lifetime_s must not be empty"));
    }
    let key_source = match proto::KeySource::try_from(v.key_source) {
        Ok(proto::KeySource::Given) => core::KeySource::Given,
        Ok(proto::KeySource::Url) => core::KeySource::Url(needed("keys_url", v.keys_url)?),
        Ok(proto::KeySource::Discovery) => core::KeySource::Discovery,
        Err(_) => return Err(unknown("key_source", v.key_source)),
    };
    let issuer = core::Issuer::new(
        needed("iss", v.iss)?,
        profile,
        algorithms,
        texts(v.audiences),
        v.max_lifetime_s,
        Arc::from(&v.jwks[..]),
    );
    let until = (v.keys_until_us != 0).then(|| Timestamp::from_micros(v.keys_until_us));
    let issuer = issuer.with_source(key_source).with_introspection(introspection).with_keys_until(until);
    Ok(match v.status_lists {
        None => issuer,
        Some(lists) => issuer
            .with_status_lists(core::StatusLists { uris: texts(lists.uris), max_age_s: lists.max_age_s }),
    })
}

fn introspection(v: proto::Introspection) -> Result<Arc<core::Introspection>, WireError> {
    let subject = match proto::SubjectMember::try_from(v.subject) {
        Ok(proto::SubjectMember::Sub) => core::SubjectMember::Sub,
        Ok(proto::SubjectMember::ClientId) => core::SubjectMember::ClientId,
        Err(_) => return Err(unknown("introspection subject", v.subject)),
    };
    let endpoint = needed("introspection endpoint", v.endpoint)?;
    Ok(Arc::new(core::Introspection { endpoint, subject, token_prefix: Arc::from(v.token_prefix) }))
}

pub(super) fn revocation(v: proto::Revocation) -> Result<core::Revocation, WireError> {
    use proto::revocation::Target;
    let target = match v.target {
        Some(Target::Token(t)) if t.signing_input_digest.is_empty() => core::RevocationTarget::TokenId {
            issuer: Name::parse(&t.issuer)?,
            jti: needed("jti", t.jti)?,
            expires: Timestamp::from_micros(t.expires_us),
        },
        Some(Target::Token(t)) => core::RevocationTarget::TokenDigest {
            digest: hash32("signing_input_digest", &t.signing_input_digest)?,
            expires: Timestamp::from_micros(t.expires_us),
        },
        Some(Target::Credential(c)) => core::RevocationTarget::Credential(Name::parse(&c.credential)?),
        Some(Target::IssuedBefore(t)) => core::RevocationTarget::IssuedBefore {
            identity: Name::parse(&t.identity)?,
            not_before: Timestamp::from_micros(t.not_before_us),
        },
        Some(Target::Identity(t)) => {
            core::RevocationTarget::Identity { identity: Name::parse(&t.identity)?, generation: t.generation }
        }
        None => return Err(WireError::new("target", "is absent or unknown to this build")),
    };
    Ok(core::Revocation {
        target,
        reason: Arc::from(v.reason),
        requested_by: Arc::from(v.requested_by),
        at: Timestamp::from_micros(v.at_us),
    })
}

fn rule(place: &'static str, v: Option<proto::HygieneRule>) -> Result<core::HygieneRule, WireError> {
    let v = v.ok_or_else(|| WireError::new(place, "is absent"))?;
    let mode = match proto::HygieneMode::try_from(v.mode) {
        Ok(proto::HygieneMode::Off) => core::HygieneMode::Off,
        Ok(proto::HygieneMode::Warn) => core::HygieneMode::Warn,
        Ok(proto::HygieneMode::Deny) => core::HygieneMode::Deny,
        _ => return Err(unknown(place, v.mode)),
    };
    Ok(core::HygieneRule { mode, deny_from: time(v.deny_from_us) })
}

pub(super) fn policy_set(v: proto::PolicySet) -> Result<core::PolicySet, WireError> {
    let mode = match proto::PolicyMode::try_from(v.mode) {
        Ok(proto::PolicyMode::Enforce) => core::PolicyMode::Enforce,
        Ok(proto::PolicyMode::Shadow) => core::PolicyMode::Shadow,
        _ => return Err(unknown("mode", v.mode)),
    };
    let hygiene = v.hygiene.ok_or_else(|| WireError::new("hygiene", "is absent"))?;
    Ok(core::PolicySet {
        cedar: Arc::from(v.cedar),
        mode,
        hygiene: core::Hygiene {
            ownerless: rule("hygiene.ownerless", hygiene.ownerless)?,
            rotation_overdue: rule("hygiene.rotation_overdue", hygiene.rotation_overdue)?,
            review_lapsed: rule("hygiene.review_lapsed", hygiene.review_lapsed)?,
            environment: rule("hygiene.environment", hygiene.environment)?,
        },
    })
}

pub(super) fn exception(v: proto::Exception) -> Result<core::Exception, WireError> {
    for code in &v.lifts {
        if !Reason::parse(code).is_some_and(Reason::may_be_lifted) {
            return Err(WireError::new("lifts", format!("`{}` cannot be lifted", code.escape_debug())));
        }
    }
    Ok(core::Exception {
        identities: names(v.identities)?,
        resources: names(v.resources)?,
        lifts: texts(v.lifts),
        reason: needed("reason", v.reason)?,
        ticket: text(v.ticket),
        owner: owner(v.owner),
        approver: owner(v.approver),
        expires: Timestamp::from_micros(v.expires_us),
    })
}

pub(super) fn resource(v: proto::Resource) -> Result<core::Resource, WireError> {
    let route = |route: proto::ResourceRoute| {
        let path = PathPattern::parse(&route.path).map_err(|e| WireError::new("path", e))?;
        Ok(core::ResourceRoute { methods: texts(route.methods), path, requires: text(route.requires) })
    };
    Ok(core::Resource {
        environment: needed("environment", v.environment)?,
        owner: owner(v.owner),
        routes: v.routes.into_iter().map(route).collect::<Result<_, WireError>>()?,
    })
}

pub(super) fn status_list(v: proto::StatusList) -> Result<core::StatusList, WireError> {
    let bits = core::StatusBits::of(v.bits.into());
    let mut list = core::StatusList::withdrawn(Name::parse(&v.issuer)?, needed("uri", v.uri)?);
    list.bits = bits.ok_or_else(|| WireError::new("bits", "expected 1, 2, 4 or 8"))?;
    list.issued = Timestamp::from_micros(v.issued_us);
    list.valid_until = Timestamp::from_micros(v.valid_until_us);
    list.signed_by = hash32("signed_by", &v.signed_by)?;
    if v.packed.is_empty() {
        return Ok(list);
    }
    list.with_values(Arc::from(&v.packed[..])).map_err(|e| WireError::new("packed", e))
}
