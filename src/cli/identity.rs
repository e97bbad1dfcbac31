//! `portreeve identity`: who the machines are.

use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::cli::failure::Failure;
use crate::cli::print::{Column, Printer};
use crate::cli::records::{self, Spec, set, set_in};
use crate::cli::target::{Context, HubTarget};
use crate::cli::value::{Bind, Label, When};
use crate::core::id::Name;
use crate::core::identity::{IdentityStatus, IdentityType, RecordKind, RiskLevel};

/// Arguments of `identity`.
#[derive(Args, Clone, Debug)]
pub struct IdentityArgs {
    /// The hub.
    #[command(flatten)]
    pub hub: HubTarget,
    /// What to do.
    #[command(subcommand)]
    pub action: IdentityAction,
}

/// What can be done with identities.
#[derive(Subcommand, Clone, Debug)]
pub enum IdentityAction {
    /// Print all identities.
    List,
    /// Print an identity.
    Show {
        /// Its name.
        #[arg(value_parser = Name::parse)]
        name: Name,
    },
    /// Make an identity.
    Create(Box<CreateArgs>),
    /// Give an entitlement, or change when it ends.
    Grant(GrantArgs),
    /// Take an entitlement away.
    Ungrant {
        /// Whose.
        #[arg(value_parser = Name::parse)]
        name: Name,
        /// Which.
        entitlement: String,
    },
    /// Stop an identity for now.
    Suspend(StatusArgs),
    /// Let an identity act again, or for the first time.
    Resume(StatusArgs),
    /// Lift the revocations of an identity, each by name, and let it act again. What was issued
    /// to it before stays refused.
    Reinstate(ReinstateArgs),
    /// End an identity for good.
    Retire(StatusArgs),
    /// Change some fields of an identity.
    Set(SetArgs),
}

/// Arguments of `identity create`.
#[derive(Args, Clone, Debug)]
pub struct CreateArgs {
    /// Its name: unique in the tenant, never reused.
    #[arg(value_parser = Name::parse)]
    pub name: Name,
    /// What kind of machine.
    #[arg(long = "type", default_value = "workload", value_parser = types())]
    pub kind: String,
    /// Whether it may act at once.
    #[arg(long, default_value = "active", value_parser = PossibleValuesParser::new(["active", "pending"]))]
    pub status: String,
    /// Where it runs.
    #[arg(long)]
    pub environment: String,
    /// Its owner and dates.
    #[command(flatten)]
    pub fields: Fields,
    /// The ticket it is made for.
    #[arg(long)]
    pub ticket: Option<String>,
    /// How much harm it could do.
    #[arg(long, value_parser = risks())]
    pub risk: Option<String>,
    /// Someone outside the organisation runs it.
    #[arg(long)]
    pub third_party: bool,
    /// A mark; may be repeated.
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = Label::parse)]
    pub labels: Vec<Label>,
    /// A subject of an issuer that it is; may be repeated.
    #[arg(long = "bind", value_name = "ISSUER=SUBJECT", value_parser = Bind::parse)]
    pub binds: Vec<Bind>,
    /// What it may do; may be repeated.
    #[arg(long = "entitlement", value_name = "NAME")]
    pub entitlements: Vec<String>,
}

/// Fields that can be given first and changed later.
#[derive(Args, Clone, Debug)]
pub struct Fields {
    /// The team that answers for it.
    #[arg(long, value_name = "TEAM")]
    pub owner_team: Option<String>,
    /// The person who answers for it.
    #[arg(long, value_name = "PERSON")]
    pub owner_person: Option<String>,
    /// How to reach them.
    #[arg(long, value_name = "ADDRESS")]
    pub owner_contact: Option<String>,
    /// When its rights are to be reviewed.
    #[arg(long, value_name = "TIME", value_parser = When::parse)]
    pub review_due: Option<When>,
    /// From when on it may no longer act.
    #[arg(long, value_name = "TIME", value_parser = When::parse)]
    pub end: Option<When>,
}

impl Fields {
    fn write(&self, spec: &mut Spec) {
        set_in(spec, "owner", "team", self.owner_team.as_ref());
        set_in(spec, "owner", "person", self.owner_person.as_ref());
        set_in(spec, "owner", "contact", self.owner_contact.as_ref());
        set(spec, "review_due", self.review_due);
        set(spec, "end", self.end);
    }
}

/// Arguments of `identity set`.
#[derive(Args, Clone, Debug)]
pub struct SetArgs {
    /// Its name.
    #[arg(value_parser = Name::parse)]
    pub name: Name,
    /// Where it runs.
    #[arg(long)]
    pub environment: Option<String>,
    /// Its owner and dates.
    #[command(flatten)]
    pub fields: Fields,
}

impl SetArgs {
    fn changes_nothing(&self) -> bool {
        let mut spec = Spec::new();
        self.fields.write(&mut spec);
        self.environment.is_none() && spec.is_empty()
    }
}

/// Arguments of `identity grant`.
#[derive(Args, Clone, Debug)]
pub struct GrantArgs {
    /// To whom.
    #[arg(value_parser = Name::parse)]
    pub name: Name,
    /// What, such as `orders:read`.
    pub entitlement: String,
    /// Why or whence: a ticket, a platform.
    #[arg(long)]
    pub source: Option<String>,
    /// From when on it no longer holds.
    #[arg(long, value_name = "TIME", value_parser = When::parse)]
    pub expires: Option<When>,
}

/// Arguments of `identity suspend`, `resume` and `retire`.
#[derive(Args, Clone, Debug)]
pub struct StatusArgs {
    /// Its name.
    #[arg(value_parser = Name::parse)]
    pub name: Name,
    /// Why.
    #[arg(long, value_name = "TEXT", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub reason: String,
    /// Do it although more identities are denied than may be at once; it is on record, with the reason.
    #[arg(long)]
    pub break_glass: bool,
}

/// Arguments of `identity reinstate`.
#[derive(Args, Clone, Debug)]
pub struct ReinstateArgs {
    /// Its name.
    #[arg(value_parser = Name::parse)]
    pub name: Name,
    /// Every revocation of the whole identity, by name, such as `r17`.
    #[arg(long, required = true, value_delimiter = ',', value_name = "REVOCATION", value_parser = Name::parse)]
    pub lifts: Vec<Name>,
    /// Why.
    #[arg(long)]
    pub reason: String,
}

const KIND: RecordKind = RecordKind::Identity;

const COLUMNS: [Column; 7] = [
    ("NAME", &["/name"]),
    ("TYPE", &["/spec/type"]),
    ("ENVIRONMENT", &["/spec/environment"]),
    ("STATUS", &["/spec/status"]),
    ("OWNER", &["/spec/owner/team", "/spec/owner/person"]),
    ("REVIEW DUE", &["/spec/review_due"]),
    ("REVISION", &["/revision"]),
];

/// Does what `args` ask.
///
/// # Errors
/// A [`Failure`] that says why not.
pub async fn run(args: IdentityArgs, out: &mut Printer<'_>) -> Result<(), Failure> {
    let cx = &mut args.hub.context(out)?;
    match args.action {
        IdentityAction::List => records::list(cx, KIND, &COLUMNS).await,
        IdentityAction::Show { name } => records::show(cx, KIND, &name).await,
        IdentityAction::Create(args) => records::create(cx, KIND, &args.name, created(&args)).await,
        IdentityAction::Grant(args) => records::modify(cx, KIND, &args.name, |spec| grant(spec, &args)).await,
        IdentityAction::Ungrant { name, entitlement } => {
            records::modify(cx, KIND, &name, |spec| ungrant(spec, &name, &entitlement)).await
        }
        IdentityAction::Suspend(args) => status(cx, &args, IdentityStatus::Suspended).await,
        IdentityAction::Resume(args) => status(cx, &args, IdentityStatus::Active).await,
        IdentityAction::Reinstate(args) => reinstate(cx, &args).await,
        IdentityAction::Retire(args) => status(cx, &args, IdentityStatus::Retired).await,
        IdentityAction::Set(args) => {
            if args.changes_nothing() {
                return Err(Failure::usage("nothing to set: name at least one field, see --help"));
            }
            records::modify(cx, KIND, &args.name, |spec| {
                set(spec, "environment", args.environment.as_ref());
                args.fields.write(spec);
                Ok(())
            })
            .await
        }
    }
}

fn created(args: &CreateArgs) -> Spec {
    let mut spec = Spec::new();
    set(&mut spec, "type", Some(&args.kind));
    set(&mut spec, "environment", Some(&args.environment));
    set(&mut spec, "status", Some(&args.status));
    args.fields.write(&mut spec);
    set(&mut spec, "ticket", args.ticket.as_ref());
    set(&mut spec, "risk", args.risk.as_ref());
    if args.third_party {
        spec.insert("third_party".to_owned(), Value::Bool(true));
    }
    for label in &args.labels {
        set_in(&mut spec, "labels", &label.key, Some(&label.value));
    }
    let bind = |b: &Bind| json!({ "issuer": b.issuer.as_str(), "subject": b.subject });
    spec.insert("bindings".to_owned(), args.binds.iter().map(bind).collect());
    let entitlement = |name: &String| json!({ "name": name });
    spec.insert("entitlements".to_owned(), args.entitlements.iter().map(entitlement).collect());
    spec
}

/// Adds the entitlement, or changes what is given of one that is there.
fn grant(spec: &mut Spec, args: &GrantArgs) -> Result<(), Failure> {
    let held = entitlements(spec)?;
    let place = held.iter().position(|e| is_named(e, &args.entitlement)).unwrap_or_else(|| {
        held.push(json!({ "name": args.entitlement }));
        held.len() - 1
    });
    if let Some(Value::Object(entitlement)) = held.get_mut(place) {
        set(entitlement, "source", args.source.as_ref());
        set(entitlement, "expires", args.expires);
    }
    Ok(())
}

fn ungrant(spec: &mut Spec, name: &Name, entitlement: &str) -> Result<(), Failure> {
    let held = entitlements(spec)?;
    let before = held.len();
    held.retain(|e| !is_named(e, entitlement));
    if held.len() == before {
        return Err(Failure::failed(format!("identity `{name}` holds no entitlement `{entitlement}`")));
    }
    Ok(())
}

fn entitlements(spec: &mut Spec) -> Result<&mut Vec<Value>, Failure> {
    let held = spec.entry("entitlements").or_insert_with(|| json!([]));
    if held.is_null() {
        *held = json!([]);
    }
    held.as_array_mut().ok_or_else(|| Failure::failed("the hub gave entitlements that are no list"))
}

fn is_named(entitlement: &Value, name: &str) -> bool {
    entitlement.get("name").and_then(Value::as_str) == Some(name)
}

async fn status(cx: &mut Context<'_, '_>, args: &StatusArgs, to: IdentityStatus) -> Result<(), Failure> {
    let path = format!("{}/status", records::record_path(cx, KIND, &args.name));
    let body = json!({ "status": to.as_str(), "reason": args.reason, "break_glass": args.break_glass });
    let reply = cx.client.post(&path, &body).await?;
    records::report(cx, KIND, &args.name, &format!("is {}", to.as_str()), &reply)
}

async fn reinstate(cx: &mut Context<'_, '_>, args: &ReinstateArgs) -> Result<(), Failure> {
    let path = format!("{}/status", records::record_path(cx, KIND, &args.name));
    let lifts: Vec<&str> = args.lifts.iter().map(Name::as_str).collect();
    let asked = json!({ "status": "active", "reason": args.reason, "lifts": lifts });
    let reply = cx.client.post(&path, &asked).await?;
    records::report(cx, KIND, &args.name, "is active again", &reply)
}

fn types() -> PossibleValuesParser {
    PossibleValuesParser::new(IdentityType::ALL.map(IdentityType::as_str))
}

fn risks() -> PossibleValuesParser {
    PossibleValuesParser::new(RiskLevel::ALL.map(RiskLevel::as_str))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(source: Option<&str>) -> GrantArgs {
        GrantArgs {
            name: Name::parse("ledger").expect("a name"),
            entitlement: "orders:read".to_owned(),
            source: source.map(str::to_owned),
            expires: When::parse("2027-11-01").ok(),
        }
    }

    fn spec(value: Value) -> Spec {
        value.as_object().cloned().expect("an object")
    }

    #[test]
    fn granting_twice_changes_the_one_entitlement() {
        let mut held = spec(json!({ "environment": "prod" }));
        grant(&mut held, &args(Some("TICKET-1"))).expect("granted");
        grant(&mut held, &args(None)).expect("granted");
        let expected = json!([
            { "name": "orders:read", "source": "TICKET-1", "expires": "2027-11-01T00:00:00Z" }
        ]);
        assert_eq!(held.get("entitlements"), Some(&expected));
        assert_eq!(held.get("environment"), Some(&json!("prod")));
    }

    #[test]
    fn what_is_not_held_cannot_be_taken_away() {
        let name = Name::parse("ledger").expect("a name");
        let mut held = spec(json!({ "entitlements": [{ "name": "a" }, { "name": "b" }] }));
        ungrant(&mut held, &name, "a").expect("taken away");
        assert_eq!(held.get("entitlements"), Some(&json!([{ "name": "b" }])));
        assert!(ungrant(&mut held, &name, "a").is_err());
    }
}
