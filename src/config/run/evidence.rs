//! Records of decisions: the spool and its sinks.

use std::path::PathBuf;

use crate::config::error::quoted;
use crate::config::key::Key;
use crate::config::raw::proxy as raw;
use crate::config::run::check::Check;
use crate::config::units::{parse_size, show_size};

/// Records of decisions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Evidence {
    /// The decision log on disk.
    pub spool: Spool,
    /// Where records are sent from there; each at least once.
    pub sinks: Vec<Sink>,
}

/// The decision log on disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Spool {
    /// Most bytes on disk; at least four segments, at most 16 TiB.
    pub max_bytes: u64,
    /// Bytes of one segment file; 1 MiB to 1 GiB.
    pub segment_bytes: u64,
}

/// Where records are sent.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Sink {
    /// A file of JSON lines, appended to.
    File(PathBuf),
    /// Standard output, as JSON lines.
    Stdout,
}

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const SEGMENTS_MIN: u64 = 4;

pub(super) fn evidence(check: &mut Check<'_>, raw: &raw::Evidence) -> Option<Evidence> {
    let key = Key::root().field("evidence");
    let spool = spool(check, &key.field("spool"), &raw.spool);
    let sinks = sinks(check, &key.field("sinks"), &raw.sinks);
    Some(Evidence { spool: spool?, sinks: sinks? })
}

fn spool(check: &mut Check<'_>, key: &Key, raw: &raw::Spool) -> Option<Spool> {
    let segment_bytes = check.size(&key.field("segment_bytes"), &raw.segment_bytes, &(MIB..=GIB));
    let max_bytes =
        check.size(&key.field("max_bytes"), &raw.max_bytes, &(SEGMENTS_MIN * MIB..=16 * 1024 * GIB));
    let least = parse_size(&raw.segment_bytes.0).unwrap_or_default().saturating_mul(SEGMENTS_MIN);
    if segment_bytes.is_some() && max_bytes.is_some_and(|bytes| bytes < least) {
        let expected = format!("at least {}, four segments", quoted(&show_size(least)));
        let found = quoted(&raw.max_bytes.0);
        check.refuse(&key.field("max_bytes"), found, expected, "raise it, or lower `segment_bytes`");
        return None;
    }
    Some(Spool { max_bytes: max_bytes?, segment_bytes: segment_bytes? })
}

fn sinks(check: &mut Check<'_>, key: &Key, raw: &[raw::Sink]) -> Option<Vec<Sink>> {
    let mut known: Vec<Option<Sink>> = Vec::new();
    for (index, raw) in raw.iter().enumerate() {
        let key = key.item(index);
        let sink = match raw {
            raw::Sink::Stdout(raw::StdoutSink {}) => Some(Sink::Stdout),
            raw::Sink::File(file) => check.path(&key.field("path"), &file.path).map(Sink::File),
        };
        if sink.is_some() && known.contains(&sink) {
            check.refuse(&key, "the same sink a second time", "each sink once", "remove one of the two");
        }
        known.push(sink);
    }
    known.into_iter().collect()
}
