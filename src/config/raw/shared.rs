//! Sections and values that both roles have.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// A duration, not yet read.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(in crate::config) struct DurationText(pub(in crate::config) String);

impl From<&str> for DurationText {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl JsonSchema for DurationText {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A whole number with its unit: `ms`, `s`, `m`, `h` or `d`.",
            "type": "string",
            "pattern": "^[0-9]+(ms|s|m|h|d)$",
            "examples": ["500ms", "10s", "5m", "1h", "30d"]
        })
    }
}

/// A duration or `never`, not yet read.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(in crate::config) struct DurationOrNeverText(pub(in crate::config) String);

impl JsonSchema for DurationOrNeverText {
    fn schema_name() -> Cow<'static, str> {
        "DurationOrNever".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A whole number with its unit, `ms`, `s`, `m`, `h` or `d`; or `never`.",
            "type": "string",
            "pattern": "^([0-9]+(ms|s|m|h|d)|never)$",
            "examples": ["60s", "5m", "never"]
        })
    }
}

/// A size, not yet read.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(in crate::config) struct SizeText(pub(in crate::config) String);

impl From<&str> for SizeText {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl JsonSchema for SizeText {
    fn schema_name() -> Cow<'static, str> {
        "Size".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A whole number of bytes, or one with its unit: `KiB`, `MiB`, `GiB` or `TiB`, powers of 1024.",
            "type": ["string", "integer"],
            "pattern": "^[0-9]+(KiB|MiB|GiB|TiB)?$",
            "minimum": 0,
            "examples": ["8KiB", "64MiB", "4GiB", 1048576]
        })
    }
}

/// Where health and metrics are served: `/livez`, `/readyz`, `/metrics`, `/.well-known/jwks.json`.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Metrics {
    /// IP address and port.
    pub(in crate::config) address: String,
}

impl Default for Metrics {
    fn default() -> Self {
        Self { address: "127.0.0.1:7404".to_owned() }
    }
}

/// Diagnostics, on standard error. Decision records do not go there.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Log {
    /// How a line is written.
    pub(in crate::config) format: LogFormat,
    /// The least urgent level that is written.
    pub(in crate::config) level: LogLevel,
}

/// How a line of diagnostics is written.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::config) enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// How urgent a line of diagnostics is.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::config) enum LogLevel {
    /// Someone must act.
    Error,
    /// Degraded.
    Warn,
    /// Life cycle.
    #[default]
    Info,
    /// For each request.
    Debug,
    /// For each step.
    Trace,
}
