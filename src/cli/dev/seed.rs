//! What `dev` begins with: records applied through the hub's own interface.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::app;
use crate::cli::client::Client;
use crate::cli::document;
use crate::cli::failure::Failure;
use crate::cli::token::DevIssuer;
use crate::core::id::Name;

/// The tenant everything of `dev` belongs to.
pub(super) const TENANT: &str = "demo";
const ISS: &str = "https://issuer.portreeve.dev";
const AUDIENCE: &str = "orders";
const RECORDS: &str = include_str!("../../../deploy/dev/records.yaml");

/// The issuer's key file, made at first start.
pub(super) fn issuer(folder: &Path) -> Result<(PathBuf, DevIssuer), Failure> {
    let path = folder.join("dev-issuer.json");
    let issuer =
        if path.exists() { DevIssuer::load(&path)? } else { DevIssuer::create(&path, ISS, AUDIENCE)? };
    Ok((path, issuer))
}

/// Lets the enforcement point join, as any other would: with a token, once.
pub(super) async fn join(hub: &Client, folder: &Path) -> Result<(), Failure> {
    let scope = json!({ "tenants": [TENANT] });
    let made = hub.post("/v1/join-tokens", &json!({ "id": "dev", "scope": scope, "ttl_s": 600 })).await?;
    let token = made.get("token").and_then(Value::as_str).unwrap_or_default();
    Ok(app::secret_file(&folder.join("join.token"), format!("{token}\n").as_bytes())?)
}

/// Applies the records unless the tenant is there already: what was changed since stays changed.
pub(super) async fn apply(hub: &Client, folder: &Path, issuer: &DevIssuer) -> Result<(), Failure> {
    let status = hub.get("/v1/status").await?;
    let tenants = status.get("tenants").and_then(Value::as_array);
    if tenants.is_some_and(|all| all.iter().any(|t| t.get("tenant").is_some_and(|name| name == TENANT))) {
        return Ok(());
    }
    std::fs::write(folder.join("dev-issuer.jwks.json"), issuer.jwks_json().to_string())?;
    let tenant = Name::parse(TENANT).map_err(|e| Failure::failed(e.to_string()))?;
    // Written out so that it can be read, changed and applied again.
    let file = folder.join("records.yaml");
    std::fs::write(&file, RECORDS)?;
    let documents = document::load(&[file], &tenant)?;
    let documents: Vec<Value> = documents.iter().map(document::Document::to_json).collect();
    hub.post("/v1/apply", &json!({ "documents": documents })).await?;
    Ok(())
}
