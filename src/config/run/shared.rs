//! Sections that both roles have.

use std::net::SocketAddr;

use crate::config::key::Key;
use crate::config::raw::shared as raw;
use crate::config::run::check::Check;

/// Diagnostics, on standard error.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Log {
    /// How a line is written.
    pub format: LogFormat,
    /// The least urgent level that is written.
    pub level: LogLevel,
}

/// How a line of diagnostics is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// How urgent a line of diagnostics is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum LogLevel {
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

impl LogLevel {
    /// The level's name, as filters write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

pub(super) const fn log(raw: &raw::Log) -> Log {
    Log {
        format: match raw.format {
            raw::LogFormat::Text => LogFormat::Text,
            raw::LogFormat::Json => LogFormat::Json,
        },
        level: match raw.level {
            raw::LogLevel::Error => LogLevel::Error,
            raw::LogLevel::Warn => LogLevel::Warn,
            raw::LogLevel::Info => LogLevel::Info,
            raw::LogLevel::Debug => LogLevel::Debug,
            raw::LogLevel::Trace => LogLevel::Trace,
        },
    }
}

pub(super) fn metrics(check: &mut Check<'_>, raw: &raw::Metrics) -> Option<SocketAddr> {
    check.address(&Key::root().field("metrics").field("address"), &raw.address)
}
