//! Programs that others wrote, as `.ci/peers` names them.

use std::path::PathBuf;

/// Where a peer is, by its variable; `None`, loudly, where it is not installed. In CI its absence is a failure.
pub(crate) fn peer(variable: &str) -> Option<PathBuf> {
    let found = std::env::var_os(variable).map(PathBuf::from);
    if found.is_none() {
        assert!(std::env::var_os("CI").is_none(), "{variable} is not set: run `.ci/peers`");
        eprintln!("SKIPPED: no peer. Set {variable} (`.ci/peers` installs it).");
    }
    found
}
