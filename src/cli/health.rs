//! `portreeve health`: for probes of containers that hold nothing but this binary.

use std::time::Duration;

use clap::Args;
use http::Method;

use crate::cli::client::Client;
use crate::cli::failure::Failure;
use crate::cli::print::{Printer, plain};

/// Arguments of `health`.
#[derive(Args, Clone, Debug)]
pub struct HealthArgs {
    /// Where the process answers about its health.
    #[arg(long, env = "PORTREEVE_HEALTH", value_name = "URL", default_value = "http://127.0.0.1:7404")]
    pub address: String,
    /// Ask whether it may serve, not only whether it is alive.
    #[arg(long)]
    pub ready: bool,
}

/// Does what `args` ask.
///
/// # Errors
/// A [`Failure`] when the process does not answer, or says that it is not well.
pub async fn run(args: HealthArgs, out: &mut Printer<'_>) -> Result<(), Failure> {
    let client = Client::new(&args.address, "is the process running? --address, PORTREEVE_HEALTH")?;
    let (path, good) = if args.ready { ("/readyz", "ready") } else { ("/livez", "alive") };
    let answer = client.exchange(Method::GET, path, None, Duration::ZERO).await?;
    let said = String::from_utf8_lossy(&answer.body);
    let said = said.trim();
    if out.is_json() {
        return Ok(out.json(&serde_json::json!({ "state": good, "answer": said }))?);
    }
    // What else was said: in what condition it is ready.
    let rest: Vec<String> = said.lines().filter(|line| ![good, "ok"].contains(line)).map(plain).collect();
    Ok(out.line(if rest.is_empty() { good.to_owned() } else { format!("{good}: {}", rest.join("; ")) })?)
}
