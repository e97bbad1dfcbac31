//! `portreeve issuer`: who vouches for identities.

use std::path::PathBuf;

use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::cli::failure::Failure;
use crate::cli::print::{Column, Printer, Table, cell, plain};
use crate::cli::records::{self, Spec, set};
use crate::cli::target::{Context, HubTarget};
use crate::cli::value::{Span, read_jwks};
use crate::core::id::Name;
use crate::core::identity::{RecordKind, SubjectMember, TokenProfile};

/// Arguments of `issuer`.
#[derive(Args, Clone, Debug)]
pub struct IssuerArgs {
    /// The hub.
    #[command(flatten)]
    pub hub: HubTarget,
    /// What to do.
    #[command(subcommand)]
    pub action: IssuerAction,
}

/// What can be done with issuers.
#[derive(Subcommand, Clone, Debug)]
pub enum IssuerAction {
    /// Print all issuers.
    List,
    /// Print an issuer, and how its keys and status lists stand.
    Show {
        /// Its name.
        #[arg(value_parser = Name::parse)]
        name: Name,
    },
    /// Make an issuer.
    Create(Box<CreateArgs>),
    /// Replace an issuer's keys.
    SetKeys {
        /// Its name.
        #[arg(value_parser = Name::parse)]
        name: Name,
        /// Where its keys are.
        #[command(flatten)]
        keys: KeysArgs,
    },
    /// Have the hub fetch an issuer's keys now.
    Refresh {
        /// Its name.
        #[arg(value_parser = Name::parse)]
        name: Name,
    },
    /// Have the hub fetch an issuer's status lists now.
    RefreshLists {
        /// Its name.
        #[arg(value_parser = Name::parse)]
        name: Name,
    },
    /// End an issuer: its tokens are refused from then on.
    Delete {
        /// Its name.
        #[arg(value_parser = Name::parse)]
        name: Name,
    },
}

/// Where an issuer's keys are.
#[derive(Args, Clone, Debug)]
#[group(multiple = false)]
pub struct KeysArgs {
    /// A JSON Web Key Set of public keys.
    #[arg(long, value_name = "FILE")]
    pub jwks: Option<PathBuf>,
    /// The `https` URL of a JSON Web Key Set, which the hub fetches.
    #[arg(long, value_name = "URL")]
    pub jwks_url: Option<String>,
    /// The hub finds the URL by OpenID Connect discovery at `iss`, and fetches.
    #[arg(long)]
    pub discovery: bool,
}

impl KeysArgs {
    const fn is_none(&self) -> bool {
        self.jwks.is_none() && self.jwks_url.is_none() && !self.discovery
    }

    fn spec(&self) -> Result<Value, Failure> {
        Ok(match (&self.jwks, &self.jwks_url) {
            (Some(file), _) => json!({ "inline": read_jwks(file)? }),
            (None, Some(url)) => json!({ "url": url }),
            (None, None) if self.discovery => json!({ "discovery": true }),
            (None, None) => {
                return Err(Failure::usage("no keys: name them with --jwks, --jwks-url or --discovery"));
            }
        })
    }
}

/// How an issuer is asked about its opaque tokens.
#[derive(Args, Clone, Debug)]
pub struct IntrospectionArgs {
    /// The `https` URL at which enforcement points ask about opaque tokens (RFC 7662). Without keys, it has no others.
    #[arg(long, value_name = "URL")]
    pub introspection: Option<String>,
    /// Which member of the answer is the subject: `sub`, or `client_id` of tokens that act for nobody else.
    #[arg(long, value_name = "MEMBER", requires = "introspection", value_parser = PossibleValuesParser::new(SubjectMember::ALL.map(SubjectMember::as_str)))]
    pub introspection_subject: Option<String>,
    /// What its opaque tokens begin with: needed where a tenant has several such issuers.
    #[arg(long, value_name = "TEXT", requires = "introspection")]
    pub token_prefix: Option<String>,
}

impl IntrospectionArgs {
    fn spec(&self) -> Option<Value> {
        let mut spec = Spec::new();
        set(&mut spec, "endpoint", Some(self.introspection.as_ref()?));
        set(&mut spec, "subject", self.introspection_subject.as_ref());
        set(&mut spec, "token_prefix", self.token_prefix.as_ref());
        Some(Value::Object(spec))
    }
}

/// Arguments of `issuer create`.
#[derive(Args, Clone, Debug)]
pub struct CreateArgs {
    /// Its name: unique in the tenant, never reused.
    #[arg(value_parser = Name::parse)]
    pub name: Name,
    /// The exact `iss` of its tokens.
    #[arg(long)]
    pub iss: String,
    /// What its tokens look like.
    #[arg(long, default_value = "generic", value_parser = PossibleValuesParser::new(TokenProfile::ALL.map(TokenProfile::as_str)))]
    pub profile: String,
    /// Where its keys are.
    #[command(flatten)]
    pub keys: KeysArgs,
    /// How it is asked about opaque tokens.
    #[command(flatten)]
    pub introspection: IntrospectionArgs,
    /// The only algorithms taken from it, such as `ES256`; separated by commas. Profile `x509` has none.
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    pub algorithms: Vec<String>,
    /// Audiences it may issue for, separated by commas. Profile `x509` has none.
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    pub audiences: Vec<String>,
    /// Longest time from issue to expiry of a token.
    #[arg(long, default_value = "1h", value_name = "SPAN", value_parser = Span::parse)]
    pub max_lifetime: Span,
    /// URIs of its status lists, separated by commas; one that ends with `/` stands for those below it.
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    pub status_lists: Vec<String>,
}

const KIND: RecordKind = RecordKind::Issuer;

const COLUMNS: [Column; 7] = [
    ("NAME", &["/name"]),
    ("ISS", &["/spec/iss"]),
    ("PROFILE", &["/spec/profile"]),
    ("ALGORITHMS", &["/spec/algorithms"]),
    ("AUDIENCES", &["/spec/audiences"]),
    ("MAX LIFETIME", &["/spec/max_lifetime"]),
    ("REVISION", &["/revision"]),
];

/// Does what `args` ask.
///
/// # Errors
/// A [`Failure`] that says why not.
pub async fn run(args: IssuerArgs, out: &mut Printer<'_>) -> Result<(), Failure> {
    let cx = &mut args.hub.context(out)?;
    match args.action {
        IssuerAction::List => records::list(cx, KIND, &COLUMNS).await,
        IssuerAction::Show { name } => show(cx, &name).await,
        IssuerAction::Create(args) => records::create(cx, KIND, &args.name, created(&args)?).await,
        IssuerAction::Refresh { name } => {
            let path = format!("{}/refresh", records::record_path(cx, KIND, &name));
            let keys = cx.client.post(&path, &json!({})).await?;
            print_keys(cx, &keys)?;
            match keys.get("last_error").and_then(Value::as_str) {
                Some(error) => Err(Failure::failed(format!("the keys cannot be fetched: {}", plain(error)))),
                None => Ok(()),
            }
        }
        IssuerAction::RefreshLists { name } => {
            let path = format!("{}/status-lists/refresh", records::record_path(cx, KIND, &name));
            let lists = cx.client.post(&path, &json!({})).await?;
            print_lists(cx, &lists)
        }
        IssuerAction::SetKeys { name, keys } => {
            let keys = keys.spec()?;
            records::modify(cx, KIND, &name, |spec| {
                spec.insert("keys".to_owned(), keys.clone());
                Ok(())
            })
            .await
        }
        IssuerAction::Delete { name } => records::delete(cx, KIND, &name).await,
    }
}

async fn show(cx: &mut Context<'_, '_>, name: &Name) -> Result<(), Failure> {
    let path = records::record_path(cx, KIND, name);
    let keys = cx.client.get(&format!("{path}/keys")).await?;
    let lists = cx.client.get(&format!("{path}/status-lists")).await?;
    if cx.out.is_json() {
        let mut record = records::fetch(cx, KIND, name).await?;
        if let Value::Object(record) = &mut record {
            record.insert("keys".to_owned(), keys);
            record.insert("status_lists".to_owned(), lists.get("lists").cloned().unwrap_or_default());
        }
        return Ok(cx.out.json(&record)?);
    }
    records::show(cx, KIND, name).await?;
    cx.out.line("")?;
    print_keys(cx, &keys)?;
    if lists.get("lists").and_then(Value::as_array).is_some_and(|lists| !lists.is_empty()) {
        cx.out.line("")?;
        print_lists(cx, &lists)?;
    }
    Ok(())
}

/// Prints how an issuer's status lists stand; as JSON, what the hub answered.
fn print_lists(cx: &mut Context<'_, '_>, lists: &Value) -> Result<(), Failure> {
    if cx.out.is_json() {
        return Ok(cx.out.json(lists)?);
    }
    let lists = lists.get("lists").and_then(Value::as_array).cloned().unwrap_or_default();
    match lists.is_empty() {
        true => cx.out.line("no status list is held or sought")?,
        false => cx.out.line(Table::of(&LIST_COLUMNS, &lists))?,
    }
    Ok(())
}

const LIST_COLUMNS: [Column; 6] = [
    ("STATUS LIST", &["/uri"]),
    ("ENTRIES", &["/held/entries"]),
    ("FETCHED", &["/fetched_at"]),
    ("COUNTS UNTIL", &["/held/valid_until"]),
    ("NEXT FETCH", &["/next_at"]),
    ("LAST ERROR", &["/last_error"]),
];

/// Prints how an issuer's keys stand; as JSON, what the hub answered.
fn print_keys(cx: &mut Context<'_, '_>, keys: &Value) -> Result<(), Failure> {
    if cx.out.is_json() {
        return Ok(cx.out.json(keys)?);
    }
    let list = |field: &str| keys.get(field).and_then(Value::as_array).cloned().unwrap_or_default();
    let in_use = list("keys");
    match in_use.is_empty() {
        true => cx.out.line("no key is in use: every JWT of this issuer is refused")?,
        false => cx.out.line(Table::of(&KEY_COLUMNS, &in_use))?,
    }
    for refused in list("refused") {
        cx.out.line(format_args!("refused: {}", cell(Some(&refused))))?;
    }
    for (field, what) in FETCHED {
        if let Some(value) = keys.get(field).filter(|value| !value.is_null()) {
            cx.out.line(format_args!("{what}: {}", cell(Some(value))))?;
        }
    }
    if keys.get("given_up") == Some(&Value::Bool(true)) {
        cx.out.line("the keys were given up: they could not be fetched for too long")?;
    }
    Ok(())
}

const KEY_COLUMNS: [Column; 3] =
    [("KEY", &["/kid"]), ("ALGORITHM", &["/algorithm"]), ("THUMBPRINT", &["/thumbprint"])];

const FETCHED: [(&str, &str); 5] = [
    ("url", "found at"),
    ("fetched_at", "last fetch"),
    ("next_at", "next fetch"),
    ("last_error", "last error"),
    ("kept_until", "kept until, if they cannot be fetched"),
];

fn created(args: &CreateArgs) -> Result<Spec, Failure> {
    let mut spec = Spec::new();
    set(&mut spec, "iss", Some(&args.iss));
    set(&mut spec, "profile", Some(&args.profile));
    let introspection = args.introspection.spec();
    let keyless = introspection.is_some() && args.algorithms.is_empty() && args.keys.is_none();
    if args.profile != TokenProfile::X509.as_str() {
        for (flag, values) in [("--algorithms", &args.algorithms), ("--audiences", &args.audiences)] {
            if values.is_empty() && !(keyless && flag == "--algorithms") {
                return Err(Failure::usage(format!("{flag} is missing: an issuer of tokens has some")));
            }
        }
        if !keyless {
            spec.insert("keys".to_owned(), args.keys.spec()?);
        }
    }
    if let Some(introspection) = introspection {
        spec.insert("introspection".to_owned(), introspection);
    }
    // What an issuer of certificates does not have, the hub refuses by name.
    for (field, values) in [("algorithms", &args.algorithms), ("audiences", &args.audiences)] {
        if !values.is_empty() {
            spec.insert(field.to_owned(), json!(values));
        }
    }
    set(&mut spec, "max_lifetime", Some(args.max_lifetime.as_str()));
    if !args.status_lists.is_empty() {
        spec.insert("status_lists".to_owned(), json!({ "uris": args.status_lists }));
    }
    Ok(spec)
}
