//! `portreeve hub join-token`: what lets an enforcement point come for its certificate, once.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use crate::app;
use crate::cli::failure::Failure;
use crate::cli::print::{Printer, cell};
use crate::cli::target::HubAddress;
use crate::cli::value::Span;
use crate::core::id::Name;

/// Arguments of `hub join-token`.
#[derive(Args, Clone, Debug)]
pub struct JoinTokenArgs {
    /// The hub.
    #[command(flatten)]
    pub hub: HubAddress,
    /// The enforcement point: its `enforcement_point.id`.
    #[arg(long, value_name = "NAME", value_parser = Name::parse)]
    pub id: Name,
    /// One of the tenants it may hold, once for each; without this and `--all` its scope stays as it is.
    #[arg(long, value_name = "NAME", value_parser = Name::parse, conflicts_with = "all")]
    pub tenant: Vec<Name>,
    /// It may hold every tenant, those to come included.
    #[arg(long)]
    pub all: bool,
    /// How long the token can be used; 1m to 7d.
    #[arg(long, value_name = "SPAN", default_value = "1h", value_parser = Span::parse)]
    pub ttl: Span,
    /// Write the token to this file, for its owner alone, instead of printing it.
    #[arg(long, value_name = "FILE")]
    pub to: Option<PathBuf>,
}

/// Makes a join token and prints it, or puts it in a file.
///
/// # Errors
/// A [`Failure`] that says why not.
pub async fn run(args: JoinTokenArgs, out: &mut Printer<'_>) -> Result<(), Failure> {
    let cx = args.hub.context(out)?;
    let scope = (args.all || !args.tenant.is_empty()).then(|| scope_of(&args.tenant, args.all));
    let mut body = json!({ "id": args.id.as_str(), "ttl_s": args.ttl.length().as_secs() });
    if let Some(scope) = scope {
        body["scope"] = scope;
    }
    if let Some(file) = &args.to {
        app::may_hold_a_secret(file)?;
    }
    let mut made = cx.client.post("/v1/join-tokens", &body).await?;
    if let Some(file) = &args.to {
        let token = made.get("token").and_then(Value::as_str).filter(|token| !token.is_empty());
        let token = token.ok_or_else(|| cx.client.nonsense("/v1/join-tokens", "it names no token"))?;
        app::secret_file(file, format!("{token}\n").as_bytes())?;
        made["token"] = json!(file);
    }
    if cx.out.is_json() {
        return Ok(cx.out.json(&made)?);
    }
    if made.get("scope") == Some(&json!([])) {
        let (id, how) = (&args.id, "give it tenants with `portreeve fleet scope`");
        cx.out.note(format_args!("warning: `{id}` may hold no tenant, and so allows nothing: {how}"));
    }
    let (expires, scope) = (cell(made.get("expires_at")), shown_scope(&made));
    cx.out.note(format_args!("for `{}`, which may hold {scope}; to be used once, by {expires}", args.id));
    match &args.to {
        Some(file) => Ok(cx.out.line(format_args!("written to {}", file.display()))?),
        None => Ok(cx.out.line(cell(made.get("token")))?),
    }
}

/// A scope as the hub takes it.
pub(super) fn scope_of(tenants: &[Name], all: bool) -> Value {
    if all {
        json!({ "all": true })
    } else {
        json!({ "tenants": tenants.iter().map(Name::as_str).collect::<Vec<_>>() })
    }
}

/// A scope for people.
pub(super) fn shown_scope(of: &Value) -> String {
    match of.get("scope").and_then(Value::as_array) {
        None => "every tenant".to_owned(),
        Some(tenants) if tenants.is_empty() => "no tenant".to_owned(),
        Some(tenants) => tenants.iter().map(|tenant| cell(Some(tenant))).collect::<Vec<_>>().join(", "),
    }
}
