//! Commands that run a role, and the check of its configuration.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use crate::app::{self, AppError};
use crate::cli::failure::Failure;
use crate::cli::join_token::{self, JoinTokenArgs};
use crate::cli::print::Printer;
use crate::cli::{copy, restore};
use crate::config::{self, ConfigError, Environment, HubConfig, Loaded, Role};

/// Arguments of `hub`.
#[derive(Args, Clone, Debug)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct HubArgs {
    /// The configuration.
    #[arg(long, value_name = "FILE", required = true)]
    pub config: Option<PathBuf>,
    /// What to do instead of running it.
    #[command(subcommand)]
    pub action: Option<HubAction>,
}

/// What can be done with a hub, other than to run it.
#[derive(Subcommand, Clone, Debug)]
pub enum HubAction {
    /// Make a token with which one enforcement point joins a running hub.
    JoinToken(JoinTokenArgs),
    /// Go on from a store that was put back: begin a new epoch over it.
    Restore(restore::RestoreArgs),
    /// Move its store from SQLite to PostgreSQL, under a new epoch.
    Copy(copy::CopyArgs),
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

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::input(error.to_string())
    }
}

impl From<AppError> for Failure {
    fn from(error: AppError) -> Self {
        Self::failed(error.to_string())
    }
}

/// Runs a hub until it is told to stop, or does what else is asked.
///
/// # Errors
/// A [`Failure`] when it cannot start, or ends out of order.
pub async fn hub(args: HubArgs, out: &mut Printer<'_>) -> Result<(), Failure> {
    match (args.action, args.config) {
        (Some(HubAction::JoinToken(args)), _) => join_token::run(args, out).await,
        (Some(HubAction::Restore(args)), _) => restore::run(&args, out),
        (Some(HubAction::Copy(args)), _) => copy::run(&args, out),
        (None, Some(config)) => run_hub(&config).await,
        (None, None) => Err(Failure::usage("name the hub's configuration: --config FILE")),
    }
}

async fn run_hub(config: &Path) -> Result<(), Failure> {
    let loaded = load_hub(config)?;
    app::start_logging(&loaded.config.log)?;
    app::hide_memory()?;
    warn(&loaded);
    let stop = app::stop_signal()?;
    let hub = app::hub::start(&loaded.config, app::hub::Operations::Own).await?;
    tracing::info!("the hub is running");
    tokio::select! {
        () = stop => {}
        () = hub.ended() => {}
    }
    Ok(hub.stop().await?)
}

/// Runs an enforcement point until it is told to stop.
///
/// # Errors
/// A [`Failure`] when it cannot start, or ends out of order.
pub async fn proxy(args: ProxyArgs) -> Result<(), Failure> {
    let read = || loaded(|environment| config::load_proxy(&args.config, environment));
    let loaded = read()?;
    let level = app::start_logging(&loaded.config.log)?;
    app::hide_memory()?;
    app::raise_descriptor_limit();
    warn(&loaded);
    let stop = app::stop_signal()?;
    let mut reloads = app::Reloads::of(&args.config)?;
    let mut proxy = app::proxy::start(&loaded.config, Some(level))?;
    tracing::info!("the enforcement point is running");
    let ended = proxy.ended();
    tokio::pin!(stop, ended);
    loop {
        tokio::select! {
            biased;
            () = stop.as_mut() => break,
            // Nothing goes on half: whoever starts it again starts all of it.
            () = ended.as_mut() => break,
            () = reloads.next() => {}
        }
        match read() {
            Err(error) => proxy.refuse_reload(&error.to_string()),
            Ok(loaded) => {
                warn(&loaded);
                if let Err(error) = proxy.reload(loaded.config).await {
                    tracing::error!("the configuration is refused, the one before goes on: {error}");
                }
            }
        }
    }
    Ok(proxy.stop().await?)
}

/// The configuration of a hub.
pub(super) fn load_hub(config: &Path) -> Result<Loaded<HubConfig>, Failure> {
    Ok(loaded(|environment| config::load_hub(config, environment))?)
}

fn warn<T>(loaded: &Loaded<T>) {
    for warning in &loaded.warnings {
        tracing::warn!("configuration: {warning}");
    }
}

/// Says whether a configuration is valid, or prints the schema of configurations.
///
/// # Errors
/// A [`Failure`] when it is not.
pub fn check(args: CheckArgs, out: &mut Printer<'_>) -> Result<(), Failure> {
    let Some(file) = args.config else {
        return Ok(out.line(config::schema(None).trim_end())?);
    };
    let warnings = warnings(&file)?;
    for warning in warnings {
        out.note(format_args!("warning: {warning}"));
    }
    Ok(out.line(format_args!("{} is valid", file.display()))?)
}

fn warnings(file: &Path) -> Result<Vec<String>, Failure> {
    let text = config::read_text(file)?;
    Ok(loaded(|environment| match config::detect_role(&text) {
        Some(Role::Hub) => config::parse_hub(&text, file, environment).map(|l| l.warnings),
        _ => config::parse_proxy(&text, file, environment).map(|l| l.warnings),
    })?)
}

fn loaded<T>(read: impl FnOnce(&Environment<'_>) -> Result<T, ConfigError>) -> Result<T, ConfigError> {
    let host = rustix::system::uname();
    let host_name = host.nodename().to_string_lossy().to_ascii_lowercase();
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let environment = Environment { host_name: &host_name, cores, variables: &config::process_variable };
    read(&environment)
}
