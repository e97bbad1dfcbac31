//! Log lines: set up once, level changeable while running.
//!
//! Never a credential, at any level. The message is a fixed sentence, values are fields.

use std::fmt;
use std::io::IsTerminal as _;

use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, fmt as lines, reload};

/// What a log line looks like.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum LogFormat {
    /// For eyes.
    Text,
    /// One JSON object a line.
    #[default]
    Json,
}

/// Why logging cannot be set up or changed.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// The level does not parse.
    #[error(
        "malformed log level `{0}`: expected error, warn, info, debug or trace, or directives such as `info,portreeve::pep=debug`"
    )]
    Level(String),
    /// Another part of the process has set up logging already.
    #[error("logging is set up already")]
    Twice,
}

/// Changes the log level of the running process.
#[derive(Clone)]
pub struct LogLevel(reload::Handle<EnvFilter, Registry>);

impl fmt::Debug for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LogLevel")
    }
}

impl LogLevel {
    /// Replaces the level.
    ///
    /// # Errors
    /// [`LoggingError::Level`] when `level` does not parse; the old one stays.
    pub fn set(&self, level: &str) -> Result<(), LoggingError> {
        let filter = parse(level)?;
        self.0.reload(filter).map_err(|_| LoggingError::Twice)
    }

    /// The level in force.
    pub fn current(&self) -> String {
        self.0.with_current(ToString::to_string).unwrap_or_default()
    }
}

/// Sends log lines to standard error from now on.
///
/// # Errors
/// [`LoggingError`] when `level` does not parse, or when called twice.
pub fn init(format: LogFormat, level: &str) -> Result<LogLevel, LoggingError> {
    let (filter, handle) = reload::Layer::new(parse(level)?);
    let registry = tracing_subscriber::registry().with(filter);
    let layer = lines::layer().with_ansi(colours()).with_writer(std::io::stderr);
    let outcome = match format {
        LogFormat::Text => registry.with(layer).try_init(),
        LogFormat::Json => registry.with(layer.json().flatten_event(true)).try_init(),
    };
    outcome.map_err(|_| LoggingError::Twice)?;
    Ok(LogLevel(handle))
}

/// Colours are for a terminal whose user has not refused them (no-color.org).
fn colours() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// A bare word is a level: the filter's own parser takes one that is none for a target, and so a typing
/// mistake for "everything of the target `inof` and nothing else".
fn parse(level: &str) -> Result<EnvFilter, LoggingError> {
    let malformed = || LoggingError::Level(level.to_owned());
    let is_level = |word: &str| !word.is_empty() && word.parse::<LevelFilter>().is_ok();
    if !level.split(',').all(|part| part.contains('=') || is_level(part.trim())) {
        return Err(malformed());
    }
    // A bare level is for this program; its libraries' every frame has to be asked for by name.
    let quiet = if matches!(level.trim(), "debug" | "trace") { LIBRARIES } else { "" };
    EnvFilter::builder().parse(format!("{level}{quiet}")).map_err(|_| malformed())
}

/// Libraries that log every frame at `debug`, kept to warnings.
const LIBRARIES: &str = ",h2=warn,hyper=warn,hyper_util=warn,tonic=warn,tower=warn";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_parse_or_are_named() {
        for good in ["info", "warn,portreeve::pep=debug", "trace", "off"] {
            assert!(parse(good).is_ok(), "{good}");
        }
        for bad in ["", "inof", "info,loud", "portreeve", "info,"] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
        let error = parse("info,portreeve=loud").unwrap_err().to_string();
        assert!(error.contains("`info,portreeve=loud`") && error.contains("expected"), "{error}");
    }
}
