//! Looking whether the table in memory still is what its digest says.

use std::time::Duration;

use tokio::sync::{Mutex, mpsc};

use crate::core::id::Name;
use crate::core::identity::Snapshot;
use crate::state::applier::Applier;
use crate::state::status::StateStatus;

/// How often one cell is looked through, at most.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(30);
/// How much longer than a look the time to the next one is: a large cell takes a thirtieth of a core.
const SHARE: u32 = 30;

/// Looks through one cell after the other, and has what differs mended. Never ends.
pub(super) async fn watch(applier: &Mutex<Applier>, status: &StateStatus, mend: &mpsc::Sender<Name>) {
    let mut last: Option<Name> = None;
    let mut pause = LOOK_EVERY;
    loop {
        tokio::time::sleep(pause).await;
        // A copy of the pointers, not the published state itself: nobody waits for it to be let go.
        let state = Snapshot::clone(&*applier.lock().await.snapshot());
        let Some(cell) = next(&state, last.as_ref()) else { continue };
        last = Some(cell.clone());
        let began = tokio::time::Instant::now();
        let sound = is_sound(state, cell.clone()).await;
        pause = LOOK_EVERY.max(began.elapsed() * SHARE);
        if sound {
            continue;
        }
        status.drifted();
        tracing::error!(%cell, "the table in memory is not what its digest says; it is repaired from the hub");
        // Full: it is being mended.
        mend.try_send(cell).ok();
    }
}

/// The cell after `last`, in turn.
fn next(state: &Snapshot, last: Option<&Name>) -> Option<Name> {
    let cells = || state.cells().iter().map(|held| &held.cell);
    let after = cells().find(|cell| last.is_none_or(|last| *cell > last));
    after.or_else(|| cells().next()).cloned()
}

/// Whether a cell's records still add up to its digest. Takes time in proportion to them.
pub(super) async fn is_sound(state: Snapshot, cell: Name) -> bool {
    let look = move || {
        let said = state.cell(&cell).map(|held| held.state_digest);
        state.recompute_digest(&cell) == said
    };
    // The runtime is ending when this fails: there is nothing to mend then.
    tokio::task::spawn_blocking(look).await.unwrap_or(true)
}
