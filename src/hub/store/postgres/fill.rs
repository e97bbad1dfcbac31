//! A store made from another engine's, in a database that holds none.

use tokio_postgres::types::Type;

use super::commit::{PUT_DROPPED, PUT_RECORDS};
use super::read::signed;
use super::schema::{self, Beginning};
use super::side::{AT_ONCE, save_receipts};
use super::{Driver, Engine, Given, PostgresSettings, PostgresStore, Session, SqlError};
use crate::core::id::Position;
use crate::core::time::Timestamp;
use crate::hub::store::side::{epoch_hash, next_epoch};
use crate::hub::store::{
    CellImage, Dump, FaultKind, Minted, StoreError, StoreFault, StoreIdentity, StoredReceipt, StoredRecord,
};
use crate::wire::state::kind_to_wire;

impl PostgresStore {
    /// Makes the store from `dump`, all or nothing, under a new epoch: the log begins anew, and what the
    /// receipts said is void, as after a restore. The roster goes with it: leases run on. Blocks.
    ///
    /// # Errors
    /// [`FaultKind::Held`] when the database holds a store; a fault of the database.
    pub fn fill(settings: &PostgresSettings, dump: &Dump, now: Timestamp) -> Result<Minted, StoreFault> {
        let driver = Driver::start(settings)?;
        fill(&Engine::new(settings, &driver)?, dump, now)
    }
}

fn fill(engine: &Engine, dump: &Dump, now: Timestamp) -> Result<Minted, StoreFault> {
    let held = || {
        let what = "the database holds a store already";
        engine.faults.fault(FaultKind::Held, what).with_remedy("name an empty database")
    };
    if schema::identity(engine)?.is_some() {
        return Err(held());
    }
    let parent = dump.head.position;
    let random = || engine.faults.fault(FaultKind::Io, "no random bytes");
    let position = Position { epoch: next_epoch(Some(parent.epoch)).ok_or_else(random)?, ..parent };
    let begin = Beginning {
        identity: StoreIdentity {
            cluster_id: dump.identity.cluster_id,
            epoch: position.epoch,
            parent: Some(parent),
        },
        revision: position.revision,
        global_hash: epoch_hash(&dump.head.global_hash, position),
    };
    let voided: Vec<_> =
        dump.receipts.iter().map(|receipt| StoredReceipt { voided: true, ..receipt.clone() }).collect();
    let made = schema::create(engine, &begin, |session| {
        dump.cells.iter().try_for_each(|cell| put_cell(engine, session, cell, now))?;
        put_dropped(engine, session, dump)?;
        put_items(engine, session, dump)?;
        save_receipts(engine, session, &voided)?;
        put_members(engine, session, dump)
    });
    if !made? {
        return Err(held());
    }
    let open = dump.receipts.iter().filter(|receipt| !receipt.voided).count();
    Ok(Minted { position, parent, voided: open as u64 })
}

fn sql(engine: &Engine) -> impl Fn(SqlError) -> StoreFault + '_ {
    |error| engine.faults.sql("fill it", &error)
}

fn put_cell(engine: &Engine, session: &Session, cell: &CellImage, now: Timestamp) -> Result<(), StoreError> {
    let (tenant, hash) = (cell.position.tenant.as_str(), &cell.position.history_hash[..]);
    let revision = signed(&engine.faults, cell.position.revision)?;
    let given: [Given<'_>; 3] = [(&tenant, Type::TEXT), (&revision, Type::INT8), (&hash, Type::BYTEA)];
    let insert = "INSERT INTO portreeve_cell (tenant, revision, history_hash) VALUES ($1, $2, $3)";
    session.rows(insert, &given).map_err(sql(engine))?;
    for part in cell.records.chunks(AT_ONCE) {
        put_records(engine, session, (tenant, now), part)?;
    }
    Ok(())
}

fn put_records(
    engine: &Engine,
    session: &Session,
    (tenant, now): (&str, Timestamp),
    records: &[StoredRecord],
) -> Result<(), StoreError> {
    // When each was last changed is not told: it was by now.
    let at = now.as_micros();
    let kinds: Vec<i32> = records.iter().map(|it| kind_to_wire(it.kind) as i32).collect();
    let names: Vec<&str> = records.iter().map(|it| it.name.as_str()).collect();
    let generations: Vec<i64> = records.iter().map(|it| i64::from(it.generation)).collect();
    let revisions: Vec<i64> = records.iter().map(|it| it.revision.cast_signed()).collect();
    let bodies: Vec<Option<&[u8]>> = records.iter().map(|it| it.body.as_deref()).collect();
    let given: [Given<'_>; 7] = [
        (&tenant, Type::TEXT),
        (&kinds, Type::INT4_ARRAY),
        (&names, Type::TEXT_ARRAY),
        (&generations, Type::INT8_ARRAY),
        (&revisions, Type::INT8_ARRAY),
        (&bodies, Type::BYTEA_ARRAY),
        (&at, Type::INT8),
    ];
    session.rows(PUT_RECORDS, &given).map_err(sql(engine))?;
    Ok(())
}

fn put_dropped(engine: &Engine, session: &Session, dump: &Dump) -> Result<(), StoreError> {
    for of_tenant in dump.dropped.chunk_by(|a, b| a.0 == b.0) {
        for part in of_tenant.chunks(AT_ONCE) {
            let Some(tenant) = part.first().map(|(tenant, _)| tenant.as_str()) else { continue };
            let records = || part.iter().map(|(_, record)| record);
            let kinds: Vec<i32> = records().map(|it| kind_to_wire(it.kind) as i32).collect();
            let names: Vec<&str> = records().map(|it| it.name.as_str()).collect();
            let generations: Vec<i64> = records().map(|it| i64::from(it.generation)).collect();
            let revisions: Vec<i64> = records().map(|it| it.revision.cast_signed()).collect();
            let given: [Given<'_>; 5] = [
                (&tenant, Type::TEXT),
                (&kinds, Type::INT4_ARRAY),
                (&names, Type::TEXT_ARRAY),
                (&generations, Type::INT8_ARRAY),
                (&revisions, Type::INT8_ARRAY),
            ];
            session.rows(PUT_DROPPED, &given).map_err(sql(engine))?;
        }
    }
    Ok(())
}

fn put_items(engine: &Engine, session: &Session, dump: &Dump) -> Result<(), StoreError> {
    let insert = "INSERT INTO portreeve_item (space, key, value, version)
                  VALUES ($1, $2, $3, nextval('portreeve_number'))";
    for (space, item) in &dump.items {
        let value = &item.value[..];
        let given: [Given<'_>; 3] = [(space, Type::TEXT), (&item.key, Type::TEXT), (&value, Type::BYTEA)];
        session.rows(insert, &given).map_err(sql(engine))?;
    }
    Ok(())
}

/// The members become those of a hub that is gone: what they hold of leases runs on from the next start.
fn put_members(engine: &Engine, session: &Session, dump: &Dump) -> Result<(), StoreError> {
    let id = &engine.id[..];
    let enter = "INSERT INTO portreeve_replica (id, beats) VALUES ($1, 0)";
    session.rows(enter, &[(&id, Type::BYTEA)]).map_err(sql(engine))?;
    let insert = "INSERT INTO portreeve_member (replica, spoke_id, incarnation, deny_after_us, waived, build,
                    stream, joined, told, in_force)
                  VALUES ($1, $2, $3, $4, $5, $6, 0, nextval('portreeve_number'), 1, '[]')";
    for member in &dump.members {
        let lease = member.deny_after_max.map(|span| i64::try_from(span.as_micros()).unwrap_or(i64::MAX));
        let (waived, incarnation) = (member.waived.join("\n"), &member.incarnation[..]);
        let given: [Given<'_>; 6] = [
            (&id, Type::BYTEA),
            (&member.spoke_id, Type::TEXT),
            (&incarnation, Type::BYTEA),
            (&lease, Type::INT8),
            (&waived, Type::TEXT),
            (&member.build, Type::TEXT),
        ];
        session.rows(insert, &given).map_err(sql(engine))?;
    }
    Ok(())
}
