//! `portreeve explain`: how an enforcement point would decide, step by step.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::cli::client::Client;
use crate::cli::failure::Failure;
use crate::cli::print::{Printer, cell, plain};
use crate::cli::value::{read_secret, read_text};

/// Arguments of `explain`.
#[derive(Args, Clone)]
pub struct ExplainArgs {
    /// The token that would be presented. Other users of this machine may see it: prefer a file.
    #[arg(long, value_name = "TOKEN", conflicts_with = "token_file")]
    pub token: Option<String>,
    /// A file that holds the token; `-` for standard input. Without a token: as if none was presented.
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// A file that holds an API key instead; `-` for standard input.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["token", "token_file"])]
    pub api_key_file: Option<PathBuf>,
    /// A PEM file of the certificate that the caller shows.
    #[arg(long, value_name = "FILE")]
    pub certificate_file: Option<PathBuf>,
    /// The request's method.
    #[arg(long, default_value = "GET")]
    pub method: String,
    /// The request's path.
    #[arg(long)]
    pub path: String,
    /// The request's host.
    #[arg(long)]
    pub host: Option<String>,
    /// The listener it would arrive at; without it, the first proxy listener.
    #[arg(long, value_name = "NAME")]
    pub listener: Option<String>,
    /// The enforcement point's admin address.
    #[arg(long, env = "PORTREEVE_ADMIN", value_name = "URL", default_value = "http://127.0.0.1:7403")]
    pub admin: String,
}

impl std::fmt::Debug for ExplainArgs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ExplainArgs")
            .field("method", &self.method)
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

/// Does what `args` ask. A refusal that was explained is a success.
///
/// # Errors
/// A [`Failure`] when the token cannot be read or the enforcement point does not explain.
pub async fn run(args: ExplainArgs, out: &mut Printer<'_>) -> Result<(), Failure> {
    let token = match (args.token, &args.token_file) {
        (Some(token), _) => Some(Zeroizing::new(token)),
        (None, Some(file)) => Some(read_secret(file)?),
        (None, None) => None,
    };
    let key = args.api_key_file.as_deref().map(read_secret).transpose()?;
    let client = Client::new(&args.admin, "is the enforcement point running? --admin, PORTREEVE_ADMIN")?;
    if (token.is_some() || key.is_some()) && !client.is_local() {
        out.note("warning: the credential is sent without encryption to another machine");
    }
    let question = json!({
        "token": token.as_ref().map(|token| token.as_str()),
        "api_key": key.as_ref().map(|key| key.as_str()),
        "certificate": args.certificate_file.as_deref().map(read_text).transpose()?,
        "method": args.method,
        "path": args.path,
        "host": args.host,
        "listener": args.listener,
    });
    let reply = client.post("/explain", &question).await?;
    if out.is_json() {
        return Ok(out.json(&reply)?);
    }
    lines(&reply).into_iter().try_for_each(|line| out.line(line))?;
    Ok(())
}

/// The steps, numbered; the verdict; then whatever else was said.
fn lines(reply: &Value) -> Vec<String> {
    let steps = reply.get("steps").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let name = |step: &Value| cell(step.get("name"));
    let width = steps.iter().map(|step| name(step).chars().count()).max().unwrap_or(0);
    let step = |(index, step): (usize, &Value)| {
        format!("{:>2}. {:<width$}  {}", index + 1, name(step), cell(step.get("finding")))
    };
    let mut lines: Vec<String> = steps.iter().enumerate().map(step).collect();
    let reason = match reply.get("reason") {
        None | Some(Value::Null) => String::new(),
        reason => format!(" ({})", cell(reason)),
    };
    lines.push(format!("verdict: {}{reason}", cell(reply.get("effect"))));
    let rest = reply.as_object().into_iter().flatten();
    let rest = rest
        .filter(|(key, value)| !matches!(key.as_str(), "steps" | "effect" | "reason") && !value.is_null());
    lines.extend(rest.map(|(key, value)| format!("{}: {}", plain(key).replace('_', " "), cell(Some(value)))));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_numbered_and_the_verdict_follows() {
        let reply = json!({
            "effect": "deny", "reason": "identity.revoked", "state_version": "7@ab",
            "steps": [{ "name": "verify", "finding": "ES256, key k1" }, { "name": "resolve", "finding": "revoked" }],
        });
        let expected = [
            " 1. verify   ES256, key k1",
            " 2. resolve  revoked",
            "verdict: deny (identity.revoked)",
            "state version: 7@ab",
        ];
        assert_eq!(lines(&reply), expected);
    }
}
