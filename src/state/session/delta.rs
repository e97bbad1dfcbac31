//! Taking a batch: into force, or refused, or after a damaged table has been mended.

use super::{Session, SessionError, Stream};
use crate::core::id::Name;
use crate::core::identity::Snapshot;
use crate::state::drift;
use crate::wire::state::{self as wire, WireError};
use crate::wire::state_proto as proto;

/// What became of a batch; the error comes with the revision held.
type Taken = Result<Outcome, (u64, SessionError)>;

enum Outcome {
    InForce,
    /// A repair has come past it.
    Past,
}

impl Session<'_> {
    pub(super) async fn delta(
        &mut self,
        stream: &mut Stream,
        signed: &proto::Signed,
    ) -> Result<(), SessionError> {
        let delta = wire::open_delta(signed, self.applier.lock().await.lkg().keys())?;
        let cell = Name::parse(&delta.cell).map_err(WireError::from)?;
        // A repair has yet to come.
        if stream.broken.contains(&cell) {
            return Ok(());
        }
        let mut taken = self.take(&cell, &delta, signed).await;
        if taken.as_ref().is_err_and(|(_, error)| error.may_be_damage())
            && self.mend_if_damaged(stream, &cell).await?
        {
            taken = match self.take(&cell, &delta, signed).await {
                Ok(Outcome::Past) => Ok(Outcome::InForce),
                taken => taken,
            };
        }
        let (at, error) = match taken {
            Ok(Outcome::Past) => return Ok(()),
            Ok(Outcome::InForce) => {
                self.renew(stream).await;
                return self.acknowledge(stream, Vec::new()).await;
            }
            Err(refused) => refused,
        };
        tracing::error!(%cell, %error, "a batch is refused; the last good state stays until it is repaired");
        stream.broken.insert(cell);
        let refusal = proto::Refusal {
            cell: delta.cell,
            from_revision: at,
            to_revision: delta.to_revision,
            code: "delta.refused".to_owned(),
            detail: error.to_string(),
        };
        self.acknowledge(stream, vec![refusal]).await
    }

    async fn take(&self, cell: &Name, delta: &proto::Delta, signed: &proto::Signed) -> Taken {
        let mut applier = self.applier.lock().await;
        let snapshot = applier.snapshot();
        let held = snapshot.cell(cell);
        let (at, before) = held.map_or((0, [0; 32]), |held| (held.revision, held.history_hash));
        drop(snapshot);
        if delta.to_revision <= at {
            return Ok(Outcome::Past);
        }
        let taken = match wire::decode_delta(delta, &before) {
            Ok(batch) => applier.delta(&batch, signed).await.map_err(SessionError::from),
            Err(error) => Err(error.into()),
        };
        taken.map(|()| Outcome::InForce).map_err(|error| (at, error))
    }

    /// Repairs a cell whose table in memory is not what its digest says; whether it was so.
    ///
    /// Such a table refuses what is right. Told to the hub as a bad batch, it would keep the batch from
    /// everyone.
    async fn mend_if_damaged(&mut self, stream: &mut Stream, cell: &Name) -> Result<bool, SessionError> {
        let state = Snapshot::clone(&*self.applier.lock().await.snapshot());
        if drift::is_sound(state, cell.clone()).await {
            return Ok(false);
        }
        self.status.drifted();
        tracing::error!(%cell, "the table in memory is not what its digest says; it is repaired before a batch");
        self.repair(stream, cell).await?;
        self.status.mended();
        Ok(true)
    }
}
