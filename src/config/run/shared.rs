//! Sections that both roles have.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use crate::config::endpoint::is_host_name;
use crate::config::error::quoted;
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

/// Hosts that may be at loopback or private addresses.
pub(super) fn internal_hosts(check: &mut Check<'_>, key: &Key, raw: &[String]) -> Option<BTreeSet<String>> {
    let mut found = Some(BTreeSet::new());
    for (place, host) in raw.iter().enumerate() {
        let lower = host.to_ascii_lowercase();
        if lower.parse::<IpAddr>().is_ok() || is_host_name(&lower) {
            found.as_mut().map(|all| all.insert(lower));
        } else {
            let expected = "a host name or an address, without scheme, port or brackets";
            check.refuse(&key.item(place), quoted(host), expected, "write only the host");
            found = None;
        }
    }
    found
}
