//! The composition root: the only room that knows every other.
//!
//! A file a role. Everything is opened and bound before anything runs, so that what
//! cannot work is an error at start; everything that runs has an owner that can end it.

mod certificates;
pub mod clock;
pub mod copy;
pub mod explain;
pub mod gauges;
pub mod hub;
mod issuer_keys;
mod memory;
pub mod observer;
pub mod proxy;
pub mod random;
pub mod restore;
mod secret;
mod thread;

use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use tokio::signal::unix::{SignalKind, signal};

use crate::config::{FILE_BYTES_MAX, Log, LogFormat};
use crate::files;
use crate::telemetry::logging::{self, LogLevel};

/// Why a role cannot start or end in order. The message names the part.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// Random bytes.
    #[error(transparent)]
    Random(#[from] random::NoRandom),
    /// The file system or a thread.
    #[error("{what}: {source}")]
    Io {
        /// What was being done, and where.
        what: String,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// Logging.
    #[error(transparent)]
    Logging(#[from] logging::LoggingError),
    /// A listener of the enforcement point.
    #[error(transparent)]
    Listener(#[from] crate::pep::BindError),
    /// A route.
    #[error(transparent)]
    Upstream(#[from] crate::pep::UnknownUpstream),
    /// A certificate of a listener.
    #[error(transparent)]
    ListenerTls(#[from] crate::pep::TlsError),
    /// A file of an upstream.
    #[error(transparent)]
    UpstreamFile(#[from] crate::pep::UpstreamFileError),
    /// A server that is asked about opaque tokens.
    #[error(transparent)]
    Introspection(#[from] crate::pep::IntrospectionFileError),
    /// Health or admin.
    #[error(transparent)]
    Admin(#[from] crate::admin::BindError),
    /// The last-known-good state.
    #[error(transparent)]
    Lkg(#[from] crate::state::LkgError),
    /// The decision log.
    #[error(transparent)]
    Spool(#[from] crate::spool::SpoolError),
    /// A sink of the decision log.
    #[error(transparent)]
    Sink(#[from] crate::sink::StartError),
    /// A file of certificates for the hub.
    #[error("hub: {0}")]
    Certificate(#[from] crate::mtls::FileError),
    /// The certificate that the hub gave.
    #[error("hub: {0}")]
    Enrolment(#[from] crate::state::EnrolmentError),
    /// The hub.
    #[error(transparent)]
    Hub(#[from] crate::hub::HubError),
    /// A part ended on its own, or panicked.
    #[error("{part} ended before it was told to")]
    Ended {
        /// The part.
        part: String,
    },
}

impl AppError {
    fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    fn unwritten(path: &Path, source: std::io::Error) -> Self {
        Self::Io { what: format!("writing {} ({})", path.display(), files::remedy(&source)), source }
    }
}

/// Sends log lines to standard error from now on; the first call of a process counts.
///
/// # Errors
/// [`AppError::Logging`] when called twice.
pub fn start_logging(log: &Log) -> Result<LogLevel, AppError> {
    let format = match log.format {
        LogFormat::Text => logging::LogFormat::Text,
        LogFormat::Json => logging::LogFormat::Json,
    };
    Ok(logging::init(format, log.level.as_str())?)
}

/// Makes a data folder and what it is in; what is new is for its owner alone.
///
/// # Errors
/// What the operating system says.
pub fn data_folder(path: &Path) -> std::io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Writes a secret in place of what was there, for its owner alone.
///
/// # Errors
/// [`AppError::Io`] names the file.
pub fn secret_file(path: &Path, bytes: &[u8]) -> Result<(), AppError> {
    files::replace(path, bytes).map_err(|e| AppError::unwritten(path, e))
}

/// Whether a secret may be put there, to be asked before there is one.
///
/// # Errors
/// [`AppError::Io`] names the file.
pub fn may_hold_a_secret(path: &Path) -> Result<(), AppError> {
    files::replaceable(path).map_err(|e| AppError::unwritten(path, e))
}

/// Tells when a configuration is to be read again: at each hangup signal, and when its file has changed.
#[derive(Debug)]
pub struct Reloads {
    hangup: tokio::signal::unix::Signal,
    looks: tokio::time::Interval,
    file: std::path::PathBuf,
    seen: Option<blake3::Hash>,
}

impl Reloads {
    /// Begins with what is in `file` now.
    ///
    /// # Errors
    /// [`AppError::Io`] when the process cannot watch signals.
    pub fn of(file: &Path) -> Result<Self, AppError> {
        let hangup = signal(SignalKind::hangup()).map_err(AppError::io("watching signals"))?;
        let looks = tokio::time::interval(LOOK_AT_CONFIG_EVERY);
        Ok(Self { hangup, looks, file: file.to_owned(), seen: digest(file) })
    }

    /// Resolves when it is time.
    pub async fn next(&mut self) {
        loop {
            tokio::select! {
                _ = self.hangup.recv() => {
                    self.seen = digest(&self.file);
                    return;
                }
                _ = self.looks.tick() => {
                    // A file that is being replaced is not there for a moment.
                    let now = digest(&self.file);
                    if now.is_some() && now != self.seen {
                        self.seen = now;
                        return;
                    }
                }
            }
        }
    }
}

/// How often the file of the configuration is looked at.
const LOOK_AT_CONFIG_EVERY: std::time::Duration = std::time::Duration::from_secs(5);

fn digest(file: &Path) -> Option<blake3::Hash> {
    files::read(file, FILE_BYTES_MAX).ok().map(|bytes| blake3::hash(&bytes))
}

/// Resolves at the first interrupt or termination signal. A file larger than the process may write is an
/// error of that write from now on, and not the end of the process.
///
/// # Errors
/// [`AppError::Io`] when the process cannot watch signals.
pub fn stop_signal() -> Result<impl Future<Output = ()>, AppError> {
    let watch = |kind| signal(kind).map_err(AppError::io("watching signals"));
    // Watched once, a signal has no other effect any more.
    drop(watch(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw()))?);
    let mut interrupt = watch(SignalKind::interrupt())?;
    let mut terminate = watch(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

/// Lets this process have as many open files and connections as its hard limit allows.
pub fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "the limit of open files stays as it was");
    }
}

/// Keeps keys and tokens in memory out of core dumps and out of reach of other processes of the same user.
///
/// # Errors
/// [`AppError::Io`] when the kernel refuses.
pub fn hide_memory() -> Result<(), AppError> {
    let hidden = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
    hidden.map_err(|error| AppError::io("keeping memory out of core dumps")(error.into()))
}
