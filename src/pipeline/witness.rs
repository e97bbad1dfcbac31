//! Who sees the steps of a decision: nobody, or whoever asks for an explanation.

use std::time::Duration;

use crate::core::credential::Verified;
use crate::core::policy::Reason;

/// What a decision does at each step, for `explain`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The step's name.
    pub name: &'static str,
    /// What was found.
    pub finding: String,
}

/// Sees the steps of a decision. The everyday witness sees nothing and costs nothing.
pub trait Witness {
    /// Is told of one step; `finding` is only called by a witness that wants it.
    fn step(&mut self, name: &'static str, finding: impl FnOnce() -> String);
}

/// Sees nothing.
#[derive(Debug)]
pub struct NoWitness;

impl Witness for NoWitness {
    #[inline]
    fn step(&mut self, _: &'static str, _: impl FnOnce() -> String) {}
}

impl Witness for Vec<Step> {
    fn step(&mut self, name: &'static str, finding: impl FnOnce() -> String) {
        self.push(Step { name, finding: finding() });
    }
}

/// Passes a finding on, and tells a refusal.
pub(super) fn seen<T>(
    witness: &mut impl Witness,
    step: &'static str,
    found: Result<T, Reason>,
) -> Result<T, Reason> {
    if let Err(reason) = &found {
        witness.step(step, || format!("refused: {reason}"));
    }
    found
}

/// A verified credential as people read it.
pub(super) fn said_credential(verified: &Verified) -> String {
    let (kind, key) = (verified.kind().as_str(), verified.key_id());
    let Some(issuer) = verified.issuer() else { return format!("{kind} `{key}`") };
    let meant = match verified.audiences().len() {
        0 | 1 => String::new(),
        many => format!(", meant for {many} audiences"),
    };
    format!("{kind}: `{}` of issuer `{issuer}`, key `{key}`{meant}", verified.subject())
}

/// The state's age as people read it.
pub(super) fn said_age(age: Option<Duration>) -> String {
    age.map_or_else(
        || "state age unknown".to_owned(),
        |age| format!("state is {:.1}s old", age.as_secs_f64()),
    )
}
