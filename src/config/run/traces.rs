//! Spans of requests, by the variables that OpenTelemetry has for them.
//!
//! What cannot be used is warned of and exports nothing: a setting for telemetry must not keep a door shut.
//!
//! # Standard
//! OpenTelemetry environment variable specification; an empty variable is an absent one.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::config::error::quoted;
use crate::config::run::check::Check;

/// Where spans are exported to, and which.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Traces {
    /// `http://host:port` or `https://host:port`; gRPC.
    pub endpoint: Arc<str>,
    /// The file of the only authorities trusted for `https`, in PEM; `None`: the system's.
    pub ca: Option<PathBuf>,
    /// Who says it: `service.name`, then what else is written.
    pub resource: Arc<[(Arc<str>, Arc<str>)]>,
    /// Whether a caller's trace is exported exactly if the caller records it.
    pub parent_based: bool,
    /// Of 2^63 other traces, how many are.
    pub share: u64,
    /// Spans that may wait; 1 to 1,000,000.
    pub queue_max: usize,
    /// Spans in one message; 1 to `queue_max`.
    pub batch_max: usize,
    /// How long a span waits for others; up to 1 min.
    pub delay: Duration,
}

/// Every trace.
const WHOLE: u64 = 1 << 63;

/// What the environment asks for; `None`: nothing.
pub(super) fn traces(check: &mut Check<'_>) -> Option<Traces> {
    if value(check, "OTEL_SDK_DISABLED").is_some_and(|text| text.eq_ignore_ascii_case("true")) {
        return None;
    }
    let endpoint = signal(check, "ENDPOINT")?;
    match value(check, "OTEL_TRACES_EXPORTER").as_deref() {
        None | Some("otlp") => {}
        Some("none") => return None,
        Some(other) => return unusable(check, "OTEL_TRACES_EXPORTER", other, "`otlp` or `none`"),
    }
    if let Some(protocol) = signal(check, "PROTOCOL").filter(|protocol| protocol != "grpc") {
        return unusable(check, "OTEL_EXPORTER_OTLP_PROTOCOL", &protocol, "`grpc`");
    }
    let Some(endpoint) = server(&endpoint) else {
        let expected = "`http://host:port` or `https://host:port`";
        // What stands before an `@` may be a password: it is not shown.
        let found = if endpoint.contains('@') { "a URL with a user" } else { endpoint.as_str() };
        return unusable(check, "OTEL_EXPORTER_OTLP_ENDPOINT", found, expected);
    };
    let (parent_based, share) = sampler(check)?;
    let queue_max = whole(check, "OTEL_BSP_MAX_QUEUE_SIZE", 2048, 1_000_000)?;
    let batch_max = whole(check, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512, 1_000_000)?;
    let delay_ms = whole(check, "OTEL_BSP_SCHEDULE_DELAY", 5000, 60_000)?;
    Some(Traces {
        endpoint: Arc::from(endpoint),
        ca: signal(check, "CERTIFICATE").map(PathBuf::from),
        resource: resource(check),
        parent_based,
        share,
        queue_max: usize::try_from(queue_max).ok()?,
        batch_max: usize::try_from(batch_max.min(queue_max)).ok()?,
        delay: Duration::from_millis(delay_ms),
    })
}

fn value(check: &Check<'_>, name: &str) -> Option<String> {
    (check.environment.variables)(name).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
}

/// A variable of traces, or else of all that OTLP carries.
fn signal(check: &Check<'_>, name: &str) -> Option<String> {
    let own = value(check, &format!("OTEL_EXPORTER_OTLP_TRACES_{name}"));
    own.or_else(|| value(check, &format!("OTEL_EXPORTER_OTLP_{name}")))
}

fn unusable<T>(check: &mut Check<'_>, name: &str, found: &str, expected: &str) -> Option<T> {
    let text = format!("`{name}`: found {}, expected {expected}: no spans are exported", quoted(found));
    check.warnings.push(text);
    None
}

/// The scheme, host and port of a URL: gRPC has no use for a path.
fn server(text: &str) -> Option<&str> {
    let scheme = ["http://", "https://"].into_iter().find(|scheme| text.starts_with(scheme))?;
    let authority = text[scheme.len()..].split('/').next().unwrap_or_default();
    let plain = authority.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'@' | b'?' | b'#'));
    (plain && !authority.is_empty()).then(|| &text[..scheme.len() + authority.len()])
}

fn sampler(check: &mut Check<'_>) -> Option<(bool, u64)> {
    const SAMPLER: &str = "OTEL_TRACES_SAMPLER";
    let name = value(check, SAMPLER).unwrap_or_else(|| "parentbased_always_on".to_owned());
    let (parent_based, root) = match name.strip_prefix("parentbased_") {
        Some(root) => (true, root),
        None => (false, name.as_str()),
    };
    let share = match root {
        "always_on" => WHOLE,
        "always_off" => 0,
        "traceidratio" => ratio(check)?,
        _ => {
            let expected =
                "`always_on`, `always_off` or `traceidratio`, with or without `parentbased_` before it";
            return unusable(check, SAMPLER, &name, expected);
        }
    };
    Some((parent_based, share))
}

#[expect(clippy::cast_possible_truncation, reason = "a fraction of 2^63 is whole enough, and not above it")]
fn ratio(check: &mut Check<'_>) -> Option<u64> {
    const ARGUMENT: &str = "OTEL_TRACES_SAMPLER_ARG";
    let text = value(check, ARGUMENT).unwrap_or_else(|| "1.0".to_owned());
    match text.parse::<f64>() {
        Ok(ratio) if (0.0..=1.0).contains(&ratio) => Some((ratio * WHOLE as f64) as u64),
        _ => unusable(check, ARGUMENT, &text, "0.0 to 1.0"),
    }
}

fn whole(check: &mut Check<'_>, name: &str, default: u64, most: u64) -> Option<u64> {
    let Some(text) = value(check, name) else { return Some(default) };
    let least = u64::from(name != "OTEL_BSP_SCHEDULE_DELAY");
    match text.parse::<u64>() {
        Ok(number) if (least..=most).contains(&number) => Some(number),
        _ => unusable(check, name, &text, &format!("{least} to {most}")),
    }
}

/// `service.name`, and what `OTEL_RESOURCE_ATTRIBUTES` has, values percent-decoded.
fn resource(check: &Check<'_>) -> Arc<[(Arc<str>, Arc<str>)]> {
    let text = value(check, "OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default();
    let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
    let mut found: Vec<(Arc<str>, Arc<str>)> = pairs
        .map(|(key, value)| (Arc::from(key.trim()), Arc::from(decoded(value.trim()).as_str())))
        .filter(|(key, _): &(Arc<str>, Arc<str>)| !key.is_empty())
        .collect();
    if let Some(name) = value(check, "OTEL_SERVICE_NAME") {
        found.retain(|(key, _)| &**key != NAME);
        found.insert(0, (Arc::from(NAME), Arc::from(name.as_str())));
    }
    if !found.iter().any(|(key, _)| &**key == NAME) {
        found.insert(0, (Arc::from(NAME), Arc::from("portreeve")));
    }
    found.into()
}

const NAME: &str = "service.name";

fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut out, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while let Some(byte) = bytes.get(at) {
        let digits = bytes.get(at + 1..at + 3).filter(|_| *byte == b'%');
        let hex = digits.and_then(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
        out.push(hex.unwrap_or(*byte));
        at += if hex.is_some() { 3 } else { 1 };
    }
    String::from_utf8(out).unwrap_or_else(|_| text.to_owned())
}
