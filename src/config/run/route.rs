//! Routes, as run.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::config::endpoint::is_host_name;
use crate::config::error::{listed, nearest, quoted};
use crate::config::key::Key;
use crate::config::raw::listener as raw;
use crate::config::raw::shared::DurationOrNeverText;
use crate::config::run::callers::Proofs;
use crate::config::run::carriers::Carriers;
use crate::config::run::check::Check;
use crate::config::run::proxy::audiences;
use crate::config::units::show_duration;
use crate::core::evidence::EvidenceMode;
use crate::core::id::{Name, NameError};
use crate::core::policy::{PathPattern, RouteRules, ServiceRef, Staleness};

/// A route: what it matches, whom it asks for, where it leads.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Route {
    /// The exact host, in lower case and without a port; `None`: any.
    pub host: Option<Arc<str>>,
    /// The path.
    pub path: PathPattern,
    /// Methods, in upper case; empty: any.
    pub methods: Arc<[Arc<str>]>,
    /// The protected service; `None`: anonymous.
    pub service: Option<ServiceRef>,
    /// How it is judged and where it leads. An anonymous route has no `deny_after` and no audiences.
    pub rules: Arc<RouteRules>,
}

/// What a route has that does not say it. `None`: refused already.
pub(super) struct Defaults<'a> {
    pub(super) tenant: Option<Name>,
    pub(super) carriers: Option<Carriers>,
    pub(super) audiences: Option<Arc<[Arc<str>]>>,
    pub(super) clock_skew: Option<Duration>,
    /// Whether there is a Workload API to take anything from.
    pub(super) workload_api: bool,
    /// The names of the upstreams there are.
    pub(super) upstreams: Vec<&'a str>,
}

/// Reads the name of a service: `name`, or `tenant/name`.
///
/// # Errors
/// [`NameError`] when the tenant or the name is none.
pub fn service_ref(text: &str, default_tenant: &Name) -> Result<ServiceRef, NameError> {
    match text.split_once('/') {
        Some((tenant, name)) => Ok(ServiceRef { tenant: Name::parse(tenant)?, resource: Name::parse(name)? }),
        None => Ok(ServiceRef { tenant: default_tenant.clone(), resource: Name::parse(text)? }),
    }
}

pub(super) fn routes(
    check: &mut Check<'_>,
    key: &Key,
    raw: &[raw::Route],
    proofs: &Proofs,
    defaults: &Defaults<'_>,
) -> Option<Arc<[Route]>> {
    if raw.is_empty() {
        check.refuse(key, "an empty list", "at least one route", "add one; what no route matches is refused");
        return None;
    }
    let mut known: Vec<Option<Route>> = Vec::with_capacity(raw.len());
    for (index, raw) in raw.iter().enumerate() {
        let route = route(check, &key.item(index), raw, proofs, defaults);
        let hidden =
            |earlier: &Option<Route>| matches!((earlier, &route), (Some(a), Some(b)) if covers(a, b));
        if let Some(first) = known.iter().position(hidden) {
            let line = check.line(&key.item(first));
            let found =
                format!("a route that is never reached: the one on line {line} matches all it matches");
            check.refuse(
                &key.item(index).field("match"),
                found,
                "a request it is for",
                "move it up, or remove it",
            );
        }
        known.push(route);
    }
    known.into_iter().collect()
}

/// Whether each request that `later` matches is plainly one that `earlier` matches.
fn covers(earlier: &Route, later: &Route) -> bool {
    let host = earlier.host.is_none() || earlier.host == later.host;
    let path = earlier.path == later.path || &**earlier.path.text() == "/**";
    let within =
        || !later.methods.is_empty() && later.methods.iter().all(|method| earlier.methods.contains(method));
    host && path && (earlier.methods.is_empty() || within())
}

fn route(
    check: &mut Check<'_>,
    key: &Key,
    raw: &raw::Route,
    proofs: &Proofs,
    defaults: &Defaults<'_>,
) -> Option<Route> {
    let matched = key.field("match");
    let host = raw.r#match.host.as_ref().map(|host| self::host(check, &matched.field("host"), host));
    let path = path(check, &matched.field("path"), &raw.r#match.path);
    let methods = methods(check, &matched.field("methods"), raw.r#match.methods.as_deref());
    let service = service(check, key, raw, defaults);
    let rules = rules(check, key, raw, proofs, defaults);
    let host = match host {
        Some(host) => Some(host?),
        None => None,
    };
    Some(Route { host, path: path?, methods: methods?, service: service?, rules: Arc::new(rules?) })
}

fn host(check: &mut Check<'_>, key: &Key, text: &str) -> Option<Arc<str>> {
    let host = text.to_ascii_lowercase();
    let address = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(&host);
    if !is_host_name(&host) && address.parse::<IpAddr>().is_err() {
        let remedy =
            if text.contains(':') { "leave the port out" } else { "write the exact name, without `*`" };
        check.refuse(key, quoted(text), "a host name or an IP address", remedy);
        return None;
    }
    Some(Arc::from(host))
}

fn path(check: &mut Check<'_>, key: &Key, text: &str) -> Option<PathPattern> {
    match PathPattern::parse(text) {
        Ok(path) => Some(path),
        Err(error) => {
            let told = error.to_string();
            // The core's message names the text, then the cause, then the form.
            let cause = told.split_once("`: ").map_or(told.as_str(), |(_, cause)| cause);
            let cause = cause.split_once("; expected").map_or(cause, |(cause, _)| cause);
            let found = format!("{}, a template that {}", quoted(text), grammatical(cause));
            let remedy = "let `*` stand for one segment and a last `**` for any rest";
            check.refuse(key, found, "a path such as `/orders/*` or `/orders/**`", remedy);
            None
        }
    }
}

/// The cause as the end of a sentence.
fn grammatical(cause: &str) -> String {
    match cause {
        "not in canonical form" => "is not in canonical form".to_owned(),
        "longer than 8192 bytes" => "is longer than 8192 bytes".to_owned(),
        "`**` stands before the end" => "has `**` before its end".to_owned(),
        "`*` stands beside other characters" => "has `*` beside other characters".to_owned(),
        other => other.to_owned(),
    }
}

fn methods(check: &mut Check<'_>, key: &Key, raw: Option<&[String]>) -> Option<Arc<[Arc<str>]>> {
    let Some(raw) = raw else { return Some(Arc::from([])) };
    let before = check.problems.len();
    if raw.is_empty() {
        check.refuse(
            key,
            "an empty list",
            "at least one method",
            "name the methods, or remove the key to match any",
        );
    }
    for (index, method) in raw.iter().enumerate() {
        let key = key.item(index);
        let upper = method.to_ascii_uppercase();
        let token =
            !method.is_empty() && method.bytes().all(|b| b.is_ascii_uppercase() || b"-_.".contains(&b));
        if !token {
            let remedy = match upper.bytes().all(|b| b.is_ascii_uppercase()) && !upper.is_empty() {
                true => format!("write {}", quoted(&upper)),
                false => "write a method such as `GET`".to_owned(),
            };
            check.refuse(&key, quoted(method), "a method in upper case", remedy);
        } else if raw.iter().take(index).any(|other| other == method) {
            check.refuse(
                &key,
                format!("{} a second time", quoted(method)),
                "each method once",
                "remove one of the two",
            );
        }
    }
    (check.problems.len() == before).then(|| raw.iter().map(|method| Arc::from(method.as_str())).collect())
}

/// The service of a route; inside, `None`: anonymous.
fn service(
    check: &mut Check<'_>,
    key: &Key,
    raw: &raw::Route,
    defaults: &Defaults<'_>,
) -> Option<Option<ServiceRef>> {
    let expected = "exactly one of `service` and `anonymous: true`";
    match (&raw.service, raw.anonymous) {
        (None, true) => {
            let text =
                "anyone may use this route: no credential is asked for, and so no revocation reaches it";
            check.warn(&key.field("anonymous"), text);
            Some(None)
        }
        (None, false) => {
            check.refuse(
                key,
                "neither",
                expected,
                "add `service: NAME`, or `anonymous: true` to ask for no credential",
            );
            None
        }
        (Some(_), true) => {
            check.refuse(&key.field("anonymous"), "both", expected, "remove one of them");
            None
        }
        (Some(text), false) => {
            // Without a known tenant the name alone is still judged.
            let stand_in = Name::parse("default").ok();
            let tenant = defaults.tenant.clone().or(stand_in)?;
            let service = service_ref(text, &tenant).ok();
            if service.is_none() {
                let form = "`name` or `tenant/name`, each 1 to 128 of `a-z`, `0-9`, `.`, `_`, `-`";
                check.refuse(
                    &key.field("service"),
                    quoted(text),
                    form,
                    "name a resource of the identity state",
                );
            }
            service.map(Some)
        }
    }
}

fn rules(
    check: &mut Check<'_>,
    key: &Key,
    raw: &raw::Route,
    proofs: &Proofs,
    defaults: &Defaults<'_>,
) -> Option<RouteRules> {
    let upstream = upstream(check, &key.field("upstream"), &raw.upstream, defaults);
    let evidence = evidence(check, &key.field("evidence"), raw.evidence);
    let (staleness, audiences) = if raw.anonymous {
        for (name, there) in [("staleness", raw.staleness.is_some()), ("audiences", raw.audiences.is_some())]
        {
            if there {
                let found = format!("{} beside `anonymous: true`", quoted(name));
                let expected = "none, because an anonymous route reads no identity state";
                check.refuse(&key.field(name), found, expected, "remove one of them");
            }
        }
        let staleness = Staleness { deny_after: None, ..Staleness::default() };
        (Some(staleness), Some(Arc::from([])))
    } else {
        let written = raw.staleness.clone().unwrap_or_default();
        let staleness = staleness(check, &key.field("staleness"), &written);
        (staleness, own_audiences(check, key, raw.audiences.as_deref(), defaults))
    };
    Some(RouteRules {
        staleness: staleness?,
        evidence,
        audiences: audiences?,
        clock_skew: defaults.clock_skew?,
        anonymous: raw.anonymous,
        public_origin: proofs.origin.clone(),
        proof_nonces: proofs.nonces,
        upstream: upstream?,
    })
}

/// The rules of every check of an ext_authz listener.
pub(super) fn check_rules(
    check: &mut Check<'_>,
    key: &Key,
    raw: &raw::ExtAuthzListener,
    proofs: &Proofs,
    defaults: &Defaults<'_>,
) -> Option<RouteRules> {
    let evidence = evidence(check, &key.field("evidence"), raw.evidence);
    let staleness = staleness(check, &key.field("staleness"), &raw.staleness);
    let audiences = own_audiences(check, key, raw.audiences.as_deref(), defaults);
    Some(RouteRules {
        staleness: staleness?,
        evidence,
        audiences: audiences?,
        clock_skew: defaults.clock_skew?,
        anonymous: false,
        public_origin: proofs.origin.clone(),
        proof_nonces: proofs.nonces,
        upstream: Arc::from(""),
    })
}

fn upstream(check: &mut Check<'_>, key: &Key, text: &str, defaults: &Defaults<'_>) -> Option<Arc<str>> {
    if defaults.upstreams.contains(&text) {
        return Some(Arc::from(text));
    }
    let names = defaults.upstreams.iter().copied();
    let expected = match defaults.upstreams.as_slice() {
        [] => "a name among `upstreams`, which has none".to_owned(),
        [only] => quoted(only),
        _ => format!("one of {}", listed(names.clone())),
    };
    let remedy = match nearest(text, names) {
        Some(near) => format!("did you mean {}", quoted(near)),
        None => "add it to `upstreams`, or name one that is there".to_owned(),
    };
    check.refuse(key, format!("the unknown upstream {}", quoted(text)), expected, remedy);
    None
}

fn evidence(check: &mut Check<'_>, key: &Key, raw: raw::EvidenceModeName) -> EvidenceMode {
    match raw {
        raw::EvidenceModeName::Require => EvidenceMode::Require,
        raw::EvidenceModeName::ProcessSafe => EvidenceMode::ProcessSafe,
        raw::EvidenceModeName::BestEffort => {
            check.warn(
                key,
                "decisions go on without their record when there is no room, and a crash loses records",
            );
            EvidenceMode::BestEffort
        }
    }
}

const NEVER: &str = "never";
const DURATION_OR_NEVER: &str = "a duration such as `60s`, `5m` or `1h`, or `never`";

fn staleness(check: &mut Check<'_>, key: &Key, raw: &raw::Staleness) -> Option<Staleness> {
    let bounds = Duration::from_secs(1)..=Duration::from_secs(30 * 24 * 3600);
    let standard = Staleness::default();
    let deny_key = key.field("deny_after");
    let deny_after = match &raw.deny_after {
        None => Some(standard.deny_after),
        Some(DurationOrNeverText(text)) if text == NEVER => {
            check.warn(
                &deny_key,
                "requests are allowed on state of any age: a revocation may never take effect here",
            );
            Some(None)
        }
        Some(DurationOrNeverText(text)) => {
            check.duration_or(&deny_key, text, &bounds, DURATION_OR_NEVER).map(Some)
        }
    };
    let warn_key = key.field("warn_after");
    let warn_after = match &raw.warn_after {
        None => standard.warn_after.min(deny_after.flatten().unwrap_or(Duration::MAX)),
        Some(text) => check.duration(&warn_key, text, &bounds)?,
    };
    let deny_after = deny_after?;
    if deny_after.is_some_and(|deny_after| warn_after > deny_after) {
        let limit = show_duration(deny_after.unwrap_or_default());
        let expected = format!("at most {}, `deny_after`", quoted(&limit));
        check.refuse(
            &warn_key,
            quoted(&show_duration(warn_after)),
            expected,
            "lower it, or raise `deny_after`",
        );
        return None;
    }
    Some(Staleness { warn_after, deny_after })
}

fn own_audiences(
    check: &mut Check<'_>,
    key: &Key,
    own: Option<&[String]>,
    defaults: &Defaults<'_>,
) -> Option<Arc<[Arc<str>]>> {
    match own {
        Some(own) => audiences(check, &key.field("audiences"), own),
        None => defaults.audiences.clone(),
    }
}
