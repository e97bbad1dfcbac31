//! Exceptions: bounded, named, never for good.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::text::{self, OwnerSpec};
use super::time::Time;
use super::{Faults, Read};
use crate::core::identity::{Exception, Record};
use crate::core::policy::Reason;
use crate::core::time::Timestamp;

/// Longest time an exception may still run when it is written.
pub const EXCEPTION_SPAN_MAX: Duration = Duration::from_secs(90 * 86_400);

/// A bounded, visible lifting of named rules.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an exception's spec")]
pub struct ExceptionSpec {
    /// For these identities only; at least one.
    pub identities: Vec<String>,
    /// For these resources only; absent or empty: any of the tenant.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<String>,
    /// Reason codes it lifts: `hygiene.*` or `policy.denied`.
    pub lifts: Vec<String>,
    /// Why.
    pub reason: String,
    /// Ticket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<String>,
    /// Who answers for it.
    pub owner: OwnerSpec,
    /// Who approved it.
    pub approver: OwnerSpec,
    /// The first instant at which it no longer holds; at most 90 days ahead.
    pub expires: Time,
}

impl ExceptionSpec {
    pub(super) fn read(self, faults: &mut Faults) -> Option<Read> {
        if self.identities.is_empty() {
            faults.push("identities", "is empty: expected the names it is for");
        }
        let exception = Exception {
            identities: text::names(&self.identities, "identities", faults),
            resources: text::names(&self.resources, "resources", faults),
            lifts: self.lifts(faults),
            reason: text::needed(&self.reason, "reason", faults),
            ticket: text::optional(self.ticket.as_ref(), "ticket", faults),
            owner: self.owner.read_named("owner", faults),
            approver: self.approver.read_named("approver", faults),
            expires: self.expires.0,
        };
        Some(Read::plain(Record::Exception(Arc::new(exception))))
    }

    fn lifts(&self, faults: &mut Faults) -> Vec<Arc<str>> {
        if self.lifts.is_empty() {
            faults.push("lifts", format_args!("is empty: expected {LIFTABLE}"));
        }
        text::bounded(self.lifts.len(), text::LIST_MAX, "lifts", faults);
        for (place, code) in self.lifts.iter().enumerate() {
            if !Reason::parse(code).is_some_and(Reason::may_be_lifted) {
                let given = code.escape_debug();
                faults.push(
                    format_args!("lifts[{place}]"),
                    format_args!("`{given}` cannot be lifted: expected {LIFTABLE}"),
                );
            }
        }
        self.lifts.iter().map(|code| Arc::from(code.as_str())).collect()
    }
}

/// Refuses an end that is past or too far away, for an exception that is new or changed.
pub(super) fn check_span(exception: &Exception, now: Timestamp, faults: &mut Faults) {
    if exception.expires <= now {
        faults.push("expires", "is past");
    } else if exception.expires > now.after(EXCEPTION_SPAN_MAX) {
        faults.push("expires", "is too far away: expected at most 90 days from now");
    }
}

impl From<&Exception> for ExceptionSpec {
    fn from(v: &Exception) -> Self {
        let owner = |owner| OwnerSpec::of(owner).unwrap_or_default();
        Self {
            identities: v.identities.iter().map(ToString::to_string).collect(),
            resources: v.resources.iter().map(ToString::to_string).collect(),
            lifts: v.lifts.iter().map(ToString::to_string).collect(),
            reason: v.reason.to_string(),
            ticket: text::shown(v.ticket.as_ref()),
            owner: owner(&v.owner),
            approver: owner(&v.approver),
            expires: Time(v.expires),
        }
    }
}

const LIFTABLE: &str = "`policy.denied` or one of `hygiene.ownerless`, `hygiene.rotation_overdue`, \
                        `hygiene.review_lapsed`, `hygiene.environment`";
