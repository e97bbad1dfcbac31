//! The last decisions of this process, read back from its log.

use crate::spool::{Read, SpoolLog};
use crate::wire::evidence::{decode, json_line};

/// The last `count` records of the live log, a JSON object each. Blocks.
///
/// # Errors
/// Why the log cannot be read.
pub(super) fn tail(log: &SpoolLog, count: u64) -> Result<Vec<String>, String> {
    let written = log.written();
    let from = written.saturating_sub(count);
    if from == written {
        return Ok(Vec::new());
    }
    let mut reader = log.reader(log.id(), from).map_err(|error| error.to_string())?;
    let mut lines = Vec::new();
    loop {
        match reader.read(Some(written)).map_err(|error| error.to_string())? {
            Read::Records(records) => {
                let decoded = records.iter().filter_map(|(sequence, bytes)| {
                    Some(json_line(&decode(bytes).ok()?, log.id(), sequence))
                });
                lines.extend(decoded);
            }
            Read::Missing { .. } | Read::Damaged(_) => {}
            Read::End => return Ok(lines),
        }
    }
}
