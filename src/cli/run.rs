//! Commands that run a role, and the check of its configuration.

use std::path::PathBuf;

use clap::Args;

use crate::cli::failure::Failure;
use crate::cli::print::Printer;

/// Arguments of `dev`.
#[derive(Args, Clone, Debug)]
pub struct DevArgs {
    /// Where state is kept; without it, in a folder that is removed at the end.
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Added to every port.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u16).range(..=50_000))]
    pub port_offset: u16,
}

/// Arguments of `hub`.
#[derive(Args, Clone, Debug)]
pub struct HubArgs {
    /// The configuration.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
}

/// Arguments of `proxy`.
#[derive(Args, Clone, Debug)]
pub struct ProxyArgs {
    /// The configuration.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
}

/// Arguments of `check`.
#[derive(Args, Clone, Debug)]
#[group(required = true, multiple = false)]
pub struct CheckArgs {
    /// The configuration to check.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print the JSON Schema of configurations instead.
    #[arg(long)]
    pub schema: bool,
}

/// Runs everything in this process until it is told to stop.
///
/// # Errors
/// A [`Failure`] when it cannot start.
pub fn dev(args: DevArgs) -> Result<(), Failure> {
    crate::app::run_dev(args.data, args.port_offset).map_err(|error| Failure::failed(error.to_string()))
}

/// Runs a hub until it is told to stop.
///
/// # Errors
/// A [`Failure`] when it cannot start.
pub fn hub(args: HubArgs) -> Result<(), Failure> {
    crate::app::run_hub(&args.config).map_err(|error| Failure::failed(error.to_string()))
}

/// Runs an enforcement point until it is told to stop.
///
/// # Errors
/// A [`Failure`] when it cannot start.
pub fn proxy(args: ProxyArgs) -> Result<(), Failure> {
    crate::app::run_proxy(&args.config).map_err(|error| Failure::failed(error.to_string()))
}

/// Says whether a configuration is valid, or prints the schema of configurations.
///
/// # Errors
/// A [`Failure`] when it is not.
pub fn check(args: CheckArgs, out: &mut Printer<'_>) -> Result<(), Failure> {
    let Some(file) = args.config else {
        return Ok(out.line(crate::config::schema(None).trim_end())?);
    };
    let warnings = crate::app::check(&file).map_err(|error| Failure::input(error.to_string()))?;
    warnings.iter().for_each(|warning| out.note(format_args!("warning: {warning}")));
    Ok(out.line(format_args!("{} is valid", file.display()))?)
}
