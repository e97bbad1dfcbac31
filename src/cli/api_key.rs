//! API keys: made here, shown once. The hub is told a digest and nothing else.

use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::cli::client::warnings;
use crate::cli::credential::{CreateArgs, RotateArgs};
use crate::cli::failure::Failure;
use crate::cli::print::cell;
use crate::cli::records::{self, Spec, set};
use crate::cli::target::Context;
use crate::cli::value::When;
use crate::core::credential::MintedKey;
use crate::core::id::Name;
use crate::core::identity::{CredentialKind, RecordKind};

const KIND: RecordKind = RecordKind::Credential;

/// Makes a key and its record, and prints the key.
///
/// # Errors
/// A [`Failure`] when the hub refuses the record: the key is forgotten then.
pub async fn create(cx: &mut Context<'_, '_>, args: &CreateArgs) -> Result<(), Failure> {
    if args.fingerprint.is_some() {
        return Err(Failure::usage("--fingerprint is for signing keys: an API key is made here"));
    }
    if args.identity.is_none() {
        return Err(Failure::usage("an API key is one identity's: name it with --identity"));
    }
    let key = mint()?;
    let mut spec = spec(&key);
    set(&mut spec, "identity", args.identity.as_ref());
    set(&mut spec, "issued", Some(args.issued.unwrap_or_else(When::now)));
    set(&mut spec, "rotate_by", args.rotate_by);
    set(&mut spec, "expires", args.expires);
    set(&mut spec, "source", args.source.as_ref());
    let body = json!({ "name": args.name.as_str(), "spec": spec });
    let record = cx.client.post(&records::kind_path(cx, KIND), &body).await?;
    show(cx, &key, &args.name, &record, "created")
}

/// Makes the next key of the same identity, and ends the one before after an overlap.
///
/// # Errors
/// A [`Failure`] when there is no such key, or the hub refuses: nothing has changed then.
pub async fn rotate(cx: &mut Context<'_, '_>, args: &RotateArgs) -> Result<(), Failure> {
    let held = records::fetch(cx, KIND, &args.name).await?;
    let Some(Value::Object(mut old)) = held.get("spec").cloned() else {
        return Err(Failure::failed(format!("the hub gave credential `{}` without a spec", args.name)));
    };
    if old.get("kind").and_then(Value::as_str) != Some(CredentialKind::ApiKey.as_str()) {
        let message =
            format!("credential `{}` is no API key: keys of issuers rotate with `issuer`", args.name);
        return Err(Failure::input(message));
    }
    let name = args.to.clone().map_or_else(|| next_name(&args.name), Ok)?;
    let now = When::now();
    let time = |spec: &Spec, field: &str| {
        spec.get(field).and_then(Value::as_str).and_then(|text| When::parse(text).ok())
    };
    let out_of_reach = || Failure::usage("that is beyond the years that can be written");
    // As long as the one before had.
    let span = time(&old, "rotate_by").zip(time(&old, "issued")).and_then(|(by, issued)| by.since(issued));
    let again = span.map(|span| now.after(span).ok_or_else(out_of_reach)).transpose()?;
    let end = now.after(args.overlap.length()).ok_or_else(out_of_reach)?;
    let key = mint()?;
    let mut new = spec(&key);
    for kept in ["identity", "source"] {
        new.extend(old.get(kept).map(|value| (kept.to_owned(), value.clone())));
    }
    set(&mut new, "issued", Some(now));
    set(&mut new, "rotate_by", args.rotate_by.or(again));
    set(&mut new, "expires", args.expires);
    // A key that ends sooner anyway keeps its end.
    let sooner = time(&old, "expires").is_some_and(|held| end.since(held).is_some());
    set(&mut old, "expires", Some(end).filter(|_| !sooner));
    let document = |name: &Name, spec: Spec| json!({ "kind": KIND.as_str(), "tenant": cx.tenant.as_str(), "name": name.as_str(), "spec": spec });
    let documents = [document(&args.name, old), document(&name, new)];
    let reply = cx.client.post("/v1/apply", &json!({ "documents": documents })).await?;
    let record = reply.pointer("/tenants/0").cloned().unwrap_or_default();
    let done = format!(
        "created; `{}` ends {}",
        args.name,
        if sooner { "as it was to".to_owned() } else { end.to_string() }
    );
    show(cx, &key, &name, &record, &done)
}

fn mint() -> Result<MintedKey, Failure> {
    let mut random = Zeroizing::new([0; 40]);
    aws_lc_rs::rand::fill(&mut *random)
        .map_err(|_| Failure::failed("the operating system gives no random bytes"))?;
    Ok(MintedKey::new(&random))
}

fn spec(key: &MintedKey) -> Spec {
    let mut spec = Spec::new();
    set(&mut spec, "kind", Some(CredentialKind::ApiKey.as_str()));
    set(&mut spec, "key_id", Some(&key.id));
    set(&mut spec, "digest", Some(key.digest_text()));
    spec
}

/// The key goes to the output, alone; what is said of it, to the diagnostics.
fn show(
    cx: &mut Context<'_, '_>,
    key: &MintedKey,
    name: &Name,
    record: &Value,
    done: &str,
) -> Result<(), Failure> {
    for warning in warnings(record) {
        cx.out.note(format_args!("warning: {warning}"));
    }
    let revision = cell(record.get("revision"));
    if cx.out.is_json() {
        let shown = json!({
            "name": name.as_str(), "key_id": key.id, "key": key.text.as_str(), "revision": record.get("revision"),
        });
        return Ok(cx.out.json(&shown)?);
    }
    cx.out.note(format_args!(
        "credential `{name}` {done}, revision {revision}; this is the only time its key is shown"
    ));
    Ok(cx.out.line(key.text.as_str())?)
}

/// `name-2` after `name`, `name-3` after that.
fn next_name(name: &Name) -> Result<Name, Failure> {
    let text = name.as_str();
    let numbered = text.rsplit_once('-').and_then(|(stem, number)| Some((stem, number.parse::<u32>().ok()?)));
    let next = match numbered {
        Some((stem, number)) => format!("{stem}-{}", number.saturating_add(1)),
        None => format!("{text}-2"),
    };
    Name::parse(&next).map_err(|_| Failure::usage("the next name is too long: choose one with --to"))
}
