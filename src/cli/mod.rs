//! The command line: one file a group of commands.
//!
//! What belongs here: arguments, talking to the hub's and the enforcement points' interfaces,
//! printing. What is deliberately absent: decisions, state, anything that outlives a command.
//!
//! Exit codes are [`failure::Exit`]; results go to the output, diagnostics to the error stream.

pub mod api_key;
pub mod apply;
pub mod client;
pub mod copy;
pub mod credential;
pub mod debug;
pub mod dev;
pub mod document;
pub mod exception;
pub mod explain;
pub mod failure;
pub mod fleet;
pub mod health;
pub mod identity;
pub mod issuer;
pub mod join_token;
pub mod mint;
pub mod policy;
pub mod print;
pub mod records;
pub mod resource;
pub mod restore;
pub mod revocation;
pub mod revoke;
pub mod run;
pub mod target;
pub mod token;
pub mod value;

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::cli::failure::{Exit, Failure};
use crate::cli::print::{Format, Printer};

/// Request-time authorization for machine identities.
#[derive(Parser, Debug)]
#[command(name = "portreeve", version, max_term_width = 100)]
pub struct Cli {
    /// How results are printed.
    #[arg(long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    pub output: Format,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Every command.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Try it: hub, enforcement point, issuer and a sample service in one process.
    Dev(dev::DevArgs),
    /// Run a hub, restore one, or let an enforcement point join one.
    Hub(run::HubArgs),
    /// Run an enforcement point.
    Proxy(run::ProxyArgs),
    /// Say whether a configuration is valid.
    Check(run::CheckArgs),
    /// Bring the hub's records to what files say.
    Apply(apply::ApplyArgs),
    /// Machine identities.
    Identity(identity::IdentityArgs),
    /// Credentials and signing keys.
    Credential(credential::CredentialArgs),
    /// Issuers of tokens.
    Issuer(issuer::IssuerArgs),
    /// Protected services.
    Resource(resource::ResourceArgs),
    /// Policy sets.
    Policy(policy::PolicyArgs),
    /// Bounded liftings of rules.
    Exception(exception::ExceptionArgs),
    /// What has been revoked.
    Revocation(revocation::RevocationArgs),
    /// Take away: an identity, a credential, a token, or everything issued before a time.
    Revoke(revoke::RevokeArgs),
    /// Enforcement points as the hub sees them.
    Fleet(fleet::FleetArgs),
    /// Ask an enforcement point how it would decide, step by step.
    Explain(explain::ExplainArgs),
    /// Tokens for trying things out.
    Token(mint::TokenArgs),
    /// The proxy's own parts, driven by hand.
    Debug(debug::DebugArgs),
    /// Say whether a process is alive, or ready.
    Health(health::HealthArgs),
    /// Print a completion script for a shell.
    Completion {
        /// Which shell.
        shell: clap_complete::Shell,
    },
}

/// Runs the command that `args` name, the program's name first; prints to the process's streams.
pub fn run<I, T>(args: I) -> ExitCode
where
    I: IntoIterator<Item = T>,
    T: Into<OsString> + Clone,
{
    ExitCode::from(run_with(args, &mut io::stdout(), &mut io::stderr()).code())
}

/// Runs the command that `args` name, printing to `out` and `err`.
pub fn run_with<I, T>(args: I, out: &mut dyn Write, err: &mut dyn Write) -> Exit
where
    I: IntoIterator<Item = T>,
    T: Into<OsString> + Clone,
{
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => return explain_usage(&error, out, err),
    };
    let mut printer = Printer::new(cli.output, out, err);
    match dispatch(cli.command, &mut printer) {
        Ok(()) => Exit::Ok,
        Err(failure) => {
            if failure.exit() != Exit::Ok {
                printer.note(&failure);
            }
            failure.exit()
        }
    }
}

/// Help and version are results; anything else is a fault in the arguments.
fn explain_usage(error: &clap::Error, out: &mut dyn Write, err: &mut dyn Write) -> Exit {
    let text = error.render();
    // Nobody is left to be told when neither stream can be written.
    if error.use_stderr() {
        write!(err, "{text}").unwrap_or_default();
        return Exit::Usage;
    }
    write!(out, "{text}").unwrap_or_default();
    Exit::Ok
}

fn dispatch(command: Command, out: &mut Printer<'_>) -> Result<(), Failure> {
    match command {
        Command::Dev(args) => block_on(dev::run(args, out)),
        Command::Hub(args) => block_on(run::hub(args, out)),
        Command::Proxy(args) => block_on(run::proxy(args)),
        Command::Check(args) => run::check(args, out),
        Command::Token(args) => mint::run(args, out),
        Command::Debug(args) => debug::run(args, out),
        Command::Completion { shell } => completion(shell, out),
        remote => block_on(dispatch_remote(remote, out)),
    }
}

/// The commands that talk to a running process.
async fn dispatch_remote(command: Command, out: &mut Printer<'_>) -> Result<(), Failure> {
    match command {
        Command::Apply(args) => apply::run(args, out).await,
        Command::Identity(args) => identity::run(args, out).await,
        Command::Credential(args) => credential::run(args, out).await,
        Command::Issuer(args) => issuer::run(args, out).await,
        Command::Resource(args) => resource::run(args, out).await,
        Command::Policy(args) => policy::run(args, out).await,
        Command::Exception(args) => exception::run(args, out).await,
        Command::Revocation(args) => revocation::run(args, out).await,
        Command::Revoke(args) => revoke::run(args, out).await,
        Command::Fleet(args) => fleet::run(args, out).await,
        Command::Explain(args) => explain::run(args, out).await,
        Command::Health(args) => health::run(args, out).await,
        Command::Dev(_)
        | Command::Hub(_)
        | Command::Proxy(_)
        | Command::Check(_)
        | Command::Token(_)
        | Command::Debug(_)
        | Command::Completion { .. } => Ok(()),
    }
}

fn block_on<F: Future<Output = Result<(), Failure>>>(work: F) -> Result<(), Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("cannot start: {error}")))?
        .block_on(work)
}

fn completion(shell: clap_complete::Shell, out: &mut Printer<'_>) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "portreeve", &mut script);
    Ok(out.bytes(&script)?)
}
