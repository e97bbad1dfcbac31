//! Cedar, and nowhere else: compiling a tenant's policies and asking them.
//!
//! Differences from bare Cedar, all on the side of refusing: policies are validated
//! strictly against [`SCHEMA`] before they are used, and an evaluation error is
//! reported so that the caller denies, where Cedar would skip the policy, even a `forbid`.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;
use std::sync::Arc;

use cedar_policy::{
    Authorizer, Context, Decision, Entities, Entity, EntityId, EntityTypeName, EntityUid, Policy, PolicyId,
    Request, RestrictedExpression, Schema, ValidationMode, Validator,
};

use crate::core::credential::Verified;
use crate::core::id::Name;
use crate::core::identity::{
    Held, Hygiene, HygieneRule, IdentityView, PolicyMode, PolicySet, Principal, Resource, ResourceRoute,
};
use crate::core::policy::request::Exchange;
use crate::core::time::{Now, Timestamp};

/// What policies may read, in Cedar's schema language.
pub const SCHEMA: &str = include_str!("schema.cedarschema");

/// The policy set a new tenant begins with.
pub const DEFAULT_POLICY: &str = include_str!("default.cedar");

const NAMED_METHODS: [&str; 7] = ["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"];

/// Why a tenant's policies are refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("policy set `{set}`: {detail}")]
pub struct PolicyError {
    set: String,
    detail: String,
}

impl PolicyError {
    fn new(set: &Name, detail: impl std::fmt::Display) -> Self {
        Self { set: set.to_string(), detail: detail.to_string().replace('\n', " ") }
    }
}

/// What a set of policies answered.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Answer {
    /// Something permits and nothing forbids.
    pub permits: bool,
    /// The policies that decided, as `set/policy`.
    pub determining: Vec<Arc<str>>,
    /// Policies that could not be evaluated; any one denies.
    pub errors: Vec<Arc<str>>,
}

/// What a shadow policy set would have answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ShadowOutcome {
    /// The policy set.
    pub set: Name,
    /// Whether it would have permitted; an evaluation error would not.
    pub permits: bool,
}

/// A tenant's policies, compiled once a change.
#[derive(Debug)]
pub struct TenantPolicy {
    enforced: Compiled,
    shadows: Vec<(Name, Compiled)>,
    hygiene: Hygiene,
    digest: [u8; 32],
    vocabulary: Vocabulary,
}

#[derive(Debug)]
struct Compiled {
    policies: cedar_policy::PolicySet,
    reads: Reads,
}

/// Which attributes the policies can read, of those that cost or change.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Reads {
    pub(super) now: bool,
    pub(super) path: bool,
    pub(super) source_ip: bool,
    pub(super) credential: bool,
    labels: bool,
}

impl Reads {
    fn union(self, other: Self) -> Self {
        Self {
            now: self.now || other.now,
            path: self.path || other.path,
            source_ip: self.source_ip || other.source_ip,
            credential: self.credential || other.credential,
            labels: self.labels || other.labels,
        }
    }

    const ALL: Self = Self { now: true, path: true, source_ip: true, credential: true, labels: true };
}

/// Names parsed once.
#[derive(Debug)]
struct Vocabulary {
    identity: EntityTypeName,
    resource: EntityTypeName,
    /// By method: the action with the groups it belongs to.
    actions: BTreeMap<&'static str, Entity>,
}

/// One question to the policies.
#[derive(Debug)]
pub(crate) struct Question<'a> {
    pub(crate) principal: &'a Principal<'a>,
    pub(crate) verified: &'a Verified,
    pub(crate) resource: &'a Held<Resource>,
    pub(crate) route: &'a ResourceRoute,
    pub(crate) exchange: &'a Exchange,
    pub(crate) now: Now,
}

impl TenantPolicy {
    /// Compiles and validates every set.
    ///
    /// # Errors
    /// [`PolicyError`] names the first set that does not parse, does not validate, has
    /// templates or two policies of one name.
    pub fn compile(sets: &BTreeMap<Name, PolicySet>) -> Result<Self, PolicyError> {
        let schema = schema().map_err(|detail| PolicyError { set: "schema".to_owned(), detail })?;
        let mut enforced = Vec::new();
        let mut shadows = Vec::new();
        let mut hygiene: Option<Hygiene> = None;
        let mut hasher = blake3::Hasher::new();
        for (name, set) in sets {
            digest_set(&mut hasher, name, set);
            let policies = parse(name, &set.cedar)?;
            validate(name, &schema, &policies)?;
            match set.mode {
                PolicyMode::Enforce => {
                    enforced.extend(policies);
                    hygiene = Some(hygiene.map_or(set.hygiene, |held| strictest(held, set.hygiene)));
                }
                PolicyMode::Shadow => shadows.push((name.clone(), Compiled::new(name, policies)?)),
            }
        }
        let all = Name::parse("enforced")
            .map_err(|e| PolicyError { set: "enforced".to_owned(), detail: e.to_string() })?;
        Ok(Self {
            enforced: Compiled::new(&all, enforced)?,
            shadows,
            hygiene: hygiene.unwrap_or_default(),
            digest: *hasher.finalize().as_bytes(),
            vocabulary: Vocabulary::new(&schema)
                .map_err(|detail| PolicyError { set: "schema".to_owned(), detail })?,
        })
    }

    /// The hygiene rules that apply: the strictest of the enforced sets.
    pub const fn hygiene(&self) -> &Hygiene {
        &self.hygiene
    }

    /// Digest of every set: names, texts, modes, hygiene rules.
    pub const fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    /// What the enforced and shadow policies can read.
    pub(super) fn reads(&self) -> Reads {
        self.shadows.iter().fold(self.enforced.reads, |reads, (_, set)| reads.union(set.reads))
    }

    /// Asks the enforced policies and then the shadow sets.
    pub(super) fn ask(&self, question: &Question<'_>) -> (Answer, Vec<ShadowOutcome>) {
        let prepared = match self.prepare(question, self.reads()) {
            Ok(prepared) => prepared,
            Err(detail) => {
                return (Answer { errors: vec![Arc::from(detail)], ..Answer::default() }, Vec::new());
            }
        };
        let answer = self.enforced.evaluate(&prepared);
        let shadow = |(name, set): &(Name, Compiled)| {
            let answer = set.evaluate(&prepared);
            ShadowOutcome { set: name.clone(), permits: answer.permits && answer.errors.is_empty() }
        };
        (answer, self.shadows.iter().map(shadow).collect())
    }

    fn prepare(&self, question: &Question<'_>, reads: Reads) -> Result<(Request, Entities), String> {
        let words = &self.vocabulary;
        let text = |e: &dyn std::fmt::Display| format!("request: {e}");
        let uid = |kind: &EntityTypeName, name: &Name| {
            EntityUid::from_type_name_and_id(kind.clone(), EntityId::new(name.as_str()))
        };
        let principal = uid(&words.identity, question.principal.name());
        let resource = uid(&words.resource, &question.resource.name);
        let action = words
            .actions
            .get(&*question.exchange.method)
            .or_else(|| words.actions.get("OTHER"))
            .ok_or_else(|| "request: no action".to_owned())?;
        let context = context(question, reads).map_err(|e| text(&e))?;
        let identity = identity_entity(principal.clone(), question.principal, question.now.wall, reads)
            .map_err(|e| text(&e))?;
        let target = resource_entity(resource.clone(), question.resource).map_err(|e| text(&e))?;
        let entities =
            Entities::from_entities([action.clone(), identity, target], None).map_err(|e| text(&e))?;
        let request = Request::new(principal, action.uid(), resource, context, None).map_err(|e| text(&e))?;
        Ok((request, entities))
    }
}

impl Compiled {
    fn new(set: &Name, policies: Vec<Policy>) -> Result<Self, PolicyError> {
        let reads = policies.iter().fold(Reads::default(), |reads, policy| reads.union(reads_of(policy)));
        let policies =
            cedar_policy::PolicySet::from_policies(policies).map_err(|e| PolicyError::new(set, e))?;
        Ok(Self { policies, reads })
    }

    fn evaluate(&self, (request, entities): &(Request, Entities)) -> Answer {
        let response = Authorizer::new().is_authorized(request, &self.policies, entities);
        let diagnostics = response.diagnostics();
        Answer {
            permits: response.decision() == Decision::Allow,
            determining: diagnostics.reason().map(|id| Arc::from(id.to_string())).collect(),
            errors: diagnostics.errors().map(|e| Arc::from(e.to_string())).collect(),
        }
    }
}

impl Vocabulary {
    fn new(schema: &Schema) -> Result<Self, String> {
        let kind = |name| EntityTypeName::from_str(name).map_err(|e| e.to_string());
        // Each action as the schema defines it, with the groups above it.
        let all = schema.action_entities().map_err(|e| e.to_string())?;
        let action = |method: &'static str| {
            let found = all.iter().find(|action| action.uid().id().unescaped() == method);
            found.cloned().map(|action| (method, action)).ok_or_else(|| format!("no action {method}"))
        };
        Ok(Self {
            identity: kind("Portreeve::Identity")?,
            resource: kind("Portreeve::Resource")?,
            actions: NAMED_METHODS.into_iter().chain(["OTHER"]).map(action).collect::<Result<_, _>>()?,
        })
    }
}

fn schema() -> Result<Schema, String> {
    Schema::from_cedarschema_str(SCHEMA).map(|(schema, _)| schema).map_err(|e| e.to_string())
}

fn parse(set: &Name, text: &str) -> Result<Vec<Policy>, PolicyError> {
    let parsed = cedar_policy::PolicySet::from_str(text).map_err(|errors| {
        let all: Vec<_> = errors.iter().map(|e| located(e, text)).collect();
        PolicyError::new(set, all.join("; "))
    })?;
    if parsed.num_of_templates() > 0 {
        return Err(PolicyError::new(set, "templates are not supported; write the policy out"));
    }
    let mut names = BTreeSet::new();
    parsed
        .policies()
        .map(|policy| {
            let own = policy.annotation("id").map_or_else(|| policy.id().to_string(), str::to_owned);
            if !names.insert(own.clone()) {
                return Err(PolicyError::new(set, format!("two policies are named `{own}`")));
            }
            Ok(policy.new_id(PolicyId::new(format!("{set}/{own}"))))
        })
        .collect()
}

fn located(error: &cedar_policy::ParseError, text: &str) -> String {
    use miette::Diagnostic as _;
    let line = error
        .labels()
        .and_then(|mut labels| labels.next())
        .map(|label| text.bytes().take(label.offset()).filter(|b| *b == b'\n').count() + 1);
    line.map_or_else(|| error.to_string(), |line| format!("line {line}: {error}"))
}

fn validate(set: &Name, schema: &Schema, policies: &[Policy]) -> Result<(), PolicyError> {
    let policies = cedar_policy::PolicySet::from_policies(policies.iter().cloned())
        .map_err(|e| PolicyError::new(set, e))?;
    let result = Validator::new(schema.clone()).validate(&policies, ValidationMode::Strict);
    let errors: Vec<_> = result.validation_errors().map(|e| e.to_string()).collect();
    if errors.is_empty() { Ok(()) } else { Err(PolicyError::new(set, errors.join("; "))) }
}

fn strictest(a: Hygiene, b: Hygiene) -> Hygiene {
    let rule = |a: HygieneRule, b: HygieneRule| HygieneRule {
        mode: if a.mode as u8 >= b.mode as u8 { a.mode } else { b.mode },
        deny_from: [a.deny_from, b.deny_from].into_iter().flatten().min(),
    };
    Hygiene {
        ownerless: rule(a.ownerless, b.ownerless),
        rotation_overdue: rule(a.rotation_overdue, b.rotation_overdue),
        review_lapsed: rule(a.review_lapsed, b.review_lapsed),
        environment: rule(a.environment, b.environment),
    }
}

fn digest_set(hasher: &mut blake3::Hasher, name: &Name, set: &PolicySet) {
    let mut field = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    field(name.as_str().as_bytes());
    field(set.cedar.as_bytes());
    field(set.mode.as_str().as_bytes());
    let Hygiene { ownerless, rotation_overdue, review_lapsed, environment } = set.hygiene;
    for rule in [ownerless, rotation_overdue, review_lapsed, environment] {
        field(rule.mode.as_str().as_bytes());
        field(&rule.deny_from.map_or(i64::MIN, Timestamp::as_micros).to_le_bytes());
    }
}

/// What a policy can read, from its JSON form. Anything not understood counts as reading everything.
fn reads_of(policy: &Policy) -> Reads {
    let Ok(json) = policy.to_json() else { return Reads::ALL };
    let mut reads = Reads::default();
    walk(&json, &mut reads);
    reads
}

fn walk(node: &serde_json::Value, reads: &mut Reads) {
    match node {
        serde_json::Value::Object(members) => {
            for (operator, operand) in members {
                if operator == "getTag" || operator == "hasTag" {
                    reads.labels = true;
                }
                if operator == "Var" && operand == "context" {
                    *reads = Reads { labels: reads.labels, ..Reads::ALL };
                }
                let direct = matches!(operator.as_str(), "." | "has")
                    && operand.pointer("/left/Var").is_some_and(|v| v == "context");
                match operand.get("attr") {
                    Some(attribute) if direct => note(attribute, reads),
                    _ => walk(operand, reads),
                }
            }
        }
        serde_json::Value::Array(items) => items.iter().for_each(|item| walk(item, reads)),
        _ => {}
    }
}

fn note(attribute: &serde_json::Value, reads: &mut Reads) {
    match attribute.as_str() {
        Some("now") => reads.now = true,
        Some("path") => reads.path = true,
        Some("sourceIp") => reads.source_ip = true,
        Some("credential") => reads.credential = true,
        Some(_) => {}
        None => *reads = Reads::ALL,
    }
}

fn string(text: &str) -> RestrictedExpression {
    RestrictedExpression::new_string(text.to_owned())
}

fn seconds(span: std::time::Duration) -> RestrictedExpression {
    RestrictedExpression::new_long(i64::try_from(span.as_secs()).unwrap_or(i64::MAX))
}

fn context(question: &Question<'_>, reads: Reads) -> Result<Context, String> {
    let mut pairs = vec![
        ("method".to_owned(), string(&question.exchange.method)),
        ("path".to_owned(), string(question.exchange.path.as_str())),
        ("route".to_owned(), string(question.route.path.text())),
        ("delegated".to_owned(), RestrictedExpression::new_bool(!question.verified.actors().is_empty())),
    ];
    if let Some(requires) = &question.route.requires {
        pairs.push(("requires".to_owned(), string(requires)));
    }
    if reads.now {
        let now = jiff::Timestamp::from_second(question.now.wall.as_seconds()).map_err(|e| e.to_string())?;
        pairs.push(("now".to_owned(), RestrictedExpression::new_datetime(now.to_string())));
    }
    if reads.credential {
        pairs.push(("credential".to_owned(), credential(question.verified, question.now.wall)?));
    }
    if let (true, Some(peer)) = (reads.source_ip, question.exchange.peer) {
        pairs.push(("sourceIp".to_owned(), RestrictedExpression::new_ip(peer.to_string())));
    }
    Context::from_pairs(pairs).map_err(|e| e.to_string())
}

fn credential(verified: &Verified, now: Timestamp) -> Result<RestrictedExpression, String> {
    let mut fields = vec![
        ("kind".to_owned(), string(verified.kind().as_str())),
        ("issuer".to_owned(), string(verified.issuer().map_or("", Name::as_str))),
    ];
    if let Some(issued) = verified.issued_at() {
        fields.push(("ageSeconds".to_owned(), seconds(now.since(issued))));
        let lifetime = verified.expires_at().map(|end| seconds(end.since(issued)));
        fields.extend(lifetime.map(|lifetime| ("lifetimeSeconds".to_owned(), lifetime)));
    }
    RestrictedExpression::new_record(fields).map_err(|e| e.to_string())
}

fn identity_entity(
    uid: EntityUid,
    principal: &Principal<'_>,
    now: Timestamp,
    reads: Reads,
) -> Result<Entity, String> {
    let identity: &IdentityView<'_> = principal.identity();
    let live = identity.entitlements.iter().filter(|e| e.expires.is_none_or(|end| now < end));
    let mut attributes = vec![
        ("type".to_owned(), string(identity.kind.as_str())),
        ("environment".to_owned(), string(identity.environment)),
        ("thirdParty".to_owned(), RestrictedExpression::new_bool(identity.third_party)),
        ("entitlements".to_owned(), RestrictedExpression::new_set(live.map(|e| string(e.name)))),
    ];
    attributes.extend(identity.owner.name().map(|owner| ("owner".to_owned(), string(owner))));
    attributes.extend(identity.risk.map(|risk| ("risk".to_owned(), string(risk.as_str()))));
    let labels = identity.labels.iter().filter(|_| reads.labels).map(|(k, v)| (k.to_string(), string(v)));
    Entity::new_with_tags(uid, attributes, [], labels).map_err(|e| e.to_string())
}

fn resource_entity(uid: EntityUid, resource: &Held<Resource>) -> Result<Entity, String> {
    let value = resource.value.as_ref();
    let mut attributes = Vec::new();
    attributes.extend(value.map(|r| ("environment".to_owned(), string(&r.environment))));
    attributes.extend(value.and_then(|r| r.owner.name()).map(|owner| ("owner".to_owned(), string(owner))));
    Entity::new_with_tags(uid, attributes, [], []).map_err(|e| e.to_string())
}
