//! What all kinds of records have in common: list, show, create, change, delete.

use serde_json::{Map, Value, json};

use crate::cli::client::{query_value, warnings};
use crate::cli::failure::Failure;
use crate::cli::print::{Column, Table, cell};
use crate::cli::target::Context;
use crate::core::id::Name;
use crate::core::identity::RecordKind;

/// Records asked for at a time.
const PAGE_SIZE: u32 = 500;

/// The fields of a record.
pub type Spec = Map<String, Value>;

/// Prints the records of a kind.
///
/// # Errors
/// A [`Failure`] when the hub cannot be asked.
pub async fn list(cx: &mut Context<'_, '_>, kind: RecordKind, columns: &[Column]) -> Result<(), Failure> {
    let mut items = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let mut path = format!("{}?limit={PAGE_SIZE}", kind_path(cx, kind));
        if let Some(after) = &after {
            path.push_str(&format!("&after={}", query_value(after)));
        }
        let mut page = cx.client.get(&path).await?;
        if let Some(Value::Array(more)) = page.get_mut("items").map(Value::take) {
            items.extend(more);
        }
        match page.get("next").and_then(Value::as_str) {
            // A mark that does not move would ask forever.
            Some(next) if after.as_deref() != Some(next) => after = Some(next.to_owned()),
            _ => break,
        }
    }
    if cx.out.is_json() {
        return Ok(cx.out.json(&json!({ "items": items }))?);
    }
    if items.is_empty() {
        cx.out.note(format_args!("tenant `{}` has no record of kind {}", cx.tenant, kind.as_str()));
        return Ok(());
    }
    Ok(cx.out.line(Table::of(columns, &items))?)
}

/// Prints one record: as JSON, or as the document that `apply` would take.
///
/// # Errors
/// A [`Failure`] when the hub cannot be asked or has no such record.
pub async fn show(cx: &mut Context<'_, '_>, kind: RecordKind, name: &Name) -> Result<(), Failure> {
    let record = fetch(cx, kind, name).await?;
    if cx.out.is_json() {
        return Ok(cx.out.json(&record)?);
    }
    let [generation, revision] = ["generation", "revision"].map(|field| cell(record.get(field)));
    let spec = record.get("spec").cloned().unwrap_or_default();
    cx.out.line(format_args!("# generation {generation}, revision {revision}"))?;
    cx.out.line(format_args!("kind: {}\ntenant: {}\nname: {name}", kind.as_str(), cx.tenant))?;
    let text = serde_saphyr::to_string(&json!({ "spec": spec }))
        .map_err(|error| Failure::failed(format!("cannot print the record: {error}")))?;
    Ok(cx.out.line(text.trim_end())?)
}

/// Gets one record.
///
/// # Errors
/// A [`Failure`] when the hub cannot be asked or has no such record.
pub async fn fetch(cx: &Context<'_, '_>, kind: RecordKind, name: &Name) -> Result<Value, Failure> {
    Ok(cx.client.get(&record_path(cx, kind, name)).await?)
}

/// Makes a record.
///
/// # Errors
/// A [`Failure`] when the hub refuses it.
pub async fn create(
    cx: &mut Context<'_, '_>,
    kind: RecordKind,
    name: &Name,
    spec: Spec,
) -> Result<(), Failure> {
    let body = json!({ "name": name.as_str(), "spec": spec });
    let path = kind_path(cx, kind);
    let record = cx.client.post(&path, &body).await?;
    report(cx, kind, name, "created", &record)
}

/// Changes a record: reads it, edits it, writes it back if nobody else did in between.
///
/// A change by somebody else in between is met by one more try on what they left.
///
/// # Errors
/// A [`Failure`] when `edit` gives one, or the hub refuses the change.
pub async fn modify(
    cx: &mut Context<'_, '_>,
    kind: RecordKind,
    name: &Name,
    edit: impl Fn(&mut Spec) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let path = record_path(cx, kind, name);
    let mut again = true;
    loop {
        let mut record = cx.client.get(&path).await?;
        let revision = record.get("revision").cloned();
        let Some(Value::Object(mut spec)) = record.get_mut("spec").map(Value::take) else {
            return Err(Failure::failed(format!("the hub gave {} `{name}` without a spec", kind.as_str())));
        };
        edit(&mut spec)?;
        match cx.client.put(&path, &json!({ "spec": spec, "expect_revision": revision })).await {
            Ok(record) => return report(cx, kind, name, "changed", &record),
            Err(error) if again && error.is_conflict() => again = false,
            Err(error) => return Err(error.into()),
        }
    }
}

/// Ends a record.
///
/// # Errors
/// A [`Failure`] when the hub refuses.
pub async fn delete(cx: &mut Context<'_, '_>, kind: RecordKind, name: &Name) -> Result<(), Failure> {
    let path = record_path(cx, kind, name);
    let gone = cx.client.delete(&path).await?;
    report(cx, kind, name, "deleted", &gone)
}

/// Says what became of a record.
///
/// # Errors
/// A [`Failure`] when the output cannot be written.
pub fn report(
    cx: &mut Context<'_, '_>,
    kind: RecordKind,
    name: &Name,
    done: &str,
    reply: &Value,
) -> Result<(), Failure> {
    for warning in warnings(reply) {
        cx.out.note(format_args!("warning: {warning}"));
    }
    if cx.out.is_json() {
        return Ok(cx.out.json(reply)?);
    }
    let revision = reply.get("revision").map(|r| format!(", revision {}", cell(Some(r)))).unwrap_or_default();
    Ok(cx.out.line(format_args!("{} `{name}` {done}{revision}", kind.as_str()))?)
}

/// Where the records of a kind are found.
pub fn kind_path(cx: &Context<'_, '_>, kind: RecordKind) -> String {
    format!("/v1/tenants/{}/{}", cx.tenant, kind.as_str())
}

/// Where a record is found. Names need no encoding.
pub fn record_path(cx: &Context<'_, '_>, kind: RecordKind, name: &Name) -> String {
    format!("{}/{name}", kind_path(cx, kind))
}

/// Sets a field when there is something to set.
pub fn set(spec: &mut Spec, field: &str, value: Option<impl ToString>) {
    if let Some(value) = value {
        spec.insert(field.to_owned(), Value::String(value.to_string()));
    }
}

/// Sets a field of the object in `field`, making that object when it is not there.
pub fn set_in(spec: &mut Spec, field: &str, inner: &str, value: Option<impl ToString>) {
    let Some(value) = value else { return };
    let held = spec.entry(field).or_insert(Value::Null);
    if !held.is_object() {
        *held = json!({});
    }
    if let Value::Object(object) = held {
        set(object, inner, Some(value));
    }
}
