//! Checks of an upstream, as run.

use std::sync::Arc;
use std::time::Duration;

use crate::config::error::quoted;
use crate::config::key::Key;
use crate::config::raw::health as raw;
use crate::config::run::check::Check;

/// How an upstream is checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Health {
    /// What is asked for, with GET; `None`: a connection is enough.
    pub path: Option<Arc<str>>,
    /// From the end of a check to the next; 100 ms to 1 h.
    pub interval: Duration,
    /// Longest time that a check may take; 10 ms to 1 min.
    pub timeout: Duration,
    /// Checks in a row that pass until it is healthy again; 1 to 100.
    pub healthy_after: u32,
    /// Checks in a row that fail until it is unhealthy; 1 to 100.
    pub unhealthy_after: u32,
    /// Statuses that pass, 200 to 599; none: 200 to 299.
    pub expected_status: Arc<[u16]>,
    /// Whether the process is not ready while it is unhealthy.
    pub gates_readiness: bool,
}

pub(super) fn health(check: &mut Check<'_>, key: &Key, raw: &raw::Health) -> Option<Health> {
    let ms = Duration::from_millis;
    let path = match &raw.path {
        None => Some(None),
        Some(text) => path(check, &key.field("path"), text).map(Some),
    };
    let interval = check.duration(&key.field("interval"), &raw.interval, &(ms(100)..=ms(3_600_000)));
    let timeout = check.duration(&key.field("timeout"), &raw.timeout, &(ms(10)..=ms(60_000)));
    let healthy_after = check.number(&key.field("healthy_after"), raw.healthy_after, 1..=AFTER_MAX);
    let unhealthy_after = check.number(&key.field("unhealthy_after"), raw.unhealthy_after, 1..=AFTER_MAX);
    let expected_status = expected_status(check, key, raw);
    Some(Health {
        path: path?,
        interval: interval?,
        timeout: timeout?,
        healthy_after: healthy_after?,
        unhealthy_after: unhealthy_after?,
        expected_status: expected_status?,
        gates_readiness: raw.gates_readiness,
    })
}

const AFTER_MAX: u32 = 100;
const PATH_BYTES_MAX: usize = 2048;
const STATUSES_MAX: usize = 64;

fn path(check: &mut Check<'_>, key: &Key, text: &str) -> Option<Arc<str>> {
    // RFC 3986 §3.3 and §3.4.
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@%/?".contains(&b);
    let sound = text.starts_with('/') && text.bytes().all(plain) && text.len() <= PATH_BYTES_MAX;
    if !sound {
        let expected = format!("a path of a URL that begins with `/`, at most {PATH_BYTES_MAX} bytes");
        check.refuse(key, quoted(text), expected, "write a path such as `/healthz`");
    }
    sound.then(|| Arc::from(text))
}

fn expected_status(check: &mut Check<'_>, key: &Key, raw: &raw::Health) -> Option<Arc<[u16]>> {
    let Some(statuses) = &raw.expected_status else { return Some(Arc::default()) };
    let key = key.field("expected_status");
    if raw.path.is_none() {
        check.refuse(&key, "no `path` beside it", "`path`, whose answer has a status", "add `path`");
        return None;
    }
    if !(1..=STATUSES_MAX).contains(&statuses.len()) {
        let found = format!("{} statuses", statuses.len());
        check.refuse(&key, found, format!("1 to {STATUSES_MAX} statuses"), "name those, or remove the key");
        return None;
    }
    let judged: Vec<_> =
        statuses.iter().enumerate().map(|(at, one)| check.number(&key.item(at), *one, 200..=599)).collect();
    judged.into_iter().collect()
}
