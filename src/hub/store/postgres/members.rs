//! The roster: rows of this process, and those of the others.

use serde_json::{Value, json};
use tokio_postgres::types::Type;

use super::read::{Columns, member_of};
use super::session::Session;
use super::{Engine, Given};
use crate::core::id::Name;
use crate::core::time::Timestamp;
use crate::hub::store::{Peer, PeerInForce, PeerMember, PeerStream, StoreError, StoreFault, StoredMember};

/// Every member, whoever told of it: with the longest lease anybody granted.
pub(super) fn members(engine: &Engine, session: &Session) -> Result<Vec<StoredMember>, StoreError> {
    let sql = "SELECT spoke_id, incarnation, deny_after_us, waived, build FROM portreeve_member
               WHERE stream <> 3 ORDER BY spoke_id, incarnation, joined";
    let found = session.rows(sql, &[]).map_err(|e| engine.faults.sql("read the roster", &e))?;
    let mut members: Vec<StoredMember> = Vec::with_capacity(found.len());
    for row in &found {
        let next = member_of(&Columns::of(&engine.faults, row))?;
        match members.last_mut() {
            Some(last) if last.spoke_id == next.spoke_id && last.incarnation == next.incarnation => {
                let longest = last.deny_after_max.max(next.deny_after_max);
                *last = StoredMember { deny_after_max: longest, ..next };
            }
            _ => members.push(next),
        }
    }
    Ok(members)
}

/// Saves one member with an open stream, under the next number of what this process tells.
pub(super) fn save(engine: &Engine, member: &StoredMember) -> Result<(), StoreError> {
    let mut told = engine.told.lock();
    let next = *told + 1;
    let waived = member.waived.join("\n");
    let deny_after = member.deny_after_max.map(|span| i64::try_from(span.as_micros()).unwrap_or(i64::MAX));
    let given: [Given<'_>; 7] = [
        (&&engine.id[..], Type::BYTEA),
        (&member.spoke_id, Type::TEXT),
        (&&member.incarnation[..], Type::BYTEA),
        (&deny_after, Type::INT8),
        (&waived, Type::TEXT),
        (&member.build, Type::TEXT),
        (&next, Type::INT8),
    ];
    engine.write("save a member", |session| {
        let saved = session.rows(SAVE, &given).map_err(|e| engine.faults.sql("save a member", &e))?;
        if saved.is_empty() { Err(engine.supersede().into()) } else { Ok(()) }
    })?;
    *told = next;
    Ok(())
}

/// Nothing is saved for a process that was given up for dead: its members count as gone.
const SAVE: &str = "INSERT INTO portreeve_member (replica, spoke_id, incarnation, deny_after_us, waived,
      build, stream, joined, told, in_force)
    SELECT $1::bytea, $2::text, $3::bytea, $4::bigint, $5::text, $6::text, 0,
      nextval('portreeve_number'), $7::bigint, '[]'
    FROM portreeve_replica WHERE id = $1
    ON CONFLICT (replica, spoke_id, incarnation) DO UPDATE SET deny_after_us = excluded.deny_after_us,
      waived = excluded.waived, build = excluded.build, stream = 0, joined = excluded.joined,
      told = excluded.told, holds = NULL
    RETURNING 1";

/// Lets one member of this process go: others see that, and then the row goes.
pub(super) fn forget(engine: &Engine, spoke_id: &str, incarnation: &[u8; 16]) -> Result<(), StoreError> {
    let mut told = engine.told.lock();
    let next = *told + 1;
    let old = next - GONE_KEPT;
    let sql = |e: super::SqlError| engine.faults.sql("forget a member", &e);
    engine.write("forget a member", |session| {
        let gone = "UPDATE portreeve_member SET stream = 3, told = $4
                    WHERE replica = $1 AND spoke_id = $2 AND incarnation = $3";
        let given: [Given<'_>; 4] = [
            (&&engine.id[..], Type::BYTEA),
            (&spoke_id, Type::TEXT),
            (&&incarnation[..], Type::BYTEA),
            (&next, Type::INT8),
        ];
        session.rows(gone, &given).map_err(sql)?;
        // Whoever looks so seldom that it misses this waits for the lease instead.
        let drop = "DELETE FROM portreeve_member WHERE replica = $1 AND stream = 3 AND told < $2";
        session.rows(drop, &[(&&engine.id[..], Type::BYTEA), (&old, Type::INT8)]).map_err(sql)?;
        Ok(())
    })?;
    *told = next;
    Ok(())
}

/// Tells the others how members of this process stand.
pub(super) fn tell(engine: &Engine, members: &[PeerMember]) -> Result<(), StoreError> {
    let mut told = engine.told.lock();
    let next = *told + 1;
    let spokes: Vec<&str> = members.iter().map(|it| &*it.member.spoke_id).collect();
    let incarnations: Vec<&[u8]> = members.iter().map(|it| &it.member.incarnation[..]).collect();
    let streams: Vec<i32> = members.iter().map(|it| number_of(it.stream)).collect();
    let in_force: Vec<String> = members.iter().map(|it| encode(&it.in_force)).collect();
    let holds: Vec<Option<String>> = members.iter().map(|it| it.holds.as_deref().map(lines)).collect();
    let given: [Given<'_>; 7] = [
        (&&engine.id[..], Type::BYTEA),
        (&next, Type::INT8),
        (&spokes, Type::TEXT_ARRAY),
        (&incarnations, Type::BYTEA_ARRAY),
        (&streams, Type::INT4_ARRAY),
        (&in_force, Type::TEXT_ARRAY),
        (&holds, Type::TEXT_ARRAY),
    ];
    engine.write("tell of members", |session| {
        session.rows(TELL, &given).map_err(|e| engine.faults.sql("tell of members", &e))?;
        Ok(())
    })?;
    *told = next;
    Ok(())
}

const TELL: &str = "UPDATE portreeve_member AS held
    SET stream = given.stream, in_force = given.in_force, holds = given.holds, told = $2
    FROM unnest($3::text[], $4::bytea[], $5::int[], $6::text[], $7::text[])
      AS given (spoke_id, incarnation, stream, in_force, holds)
    WHERE held.replica = $1 AND held.spoke_id = given.spoke_id AND held.incarnation = given.incarnation
      AND held.stream <> 3";

/// The other processes.
pub(super) fn peers(engine: &Engine, session: &Session) -> Result<Vec<Peer>, StoreError> {
    let sql = "SELECT id, beats FROM portreeve_replica WHERE id <> $1 ORDER BY id";
    let found = session
        .rows(sql, &[(&&engine.id[..], Type::BYTEA)])
        .map_err(|e| engine.faults.sql("read the other hubs", &e))?;
    let peers = found.iter().map(|row| {
        let columns = Columns::of(&engine.faults, row);
        Ok(Peer { id: columns.array16(0)?, beats: columns.number(1)? })
    });
    peers.collect()
}

/// What one process told after number `after`.
pub(super) fn told_by(
    engine: &Engine,
    session: &Session,
    peer: &[u8; 16],
    after: u64,
) -> Result<Vec<PeerMember>, StoreError> {
    let sql =
        "SELECT spoke_id, incarnation, deny_after_us, waived, build, stream, joined, told, in_force, holds
               FROM portreeve_member WHERE replica = $1 AND told > $2 ORDER BY told";
    let after = super::read::signed(&engine.faults, after)?;
    let found = session
        .rows(sql, &[(&&peer[..], Type::BYTEA), (&after, Type::INT8)])
        .map_err(|e| engine.faults.sql("read another hub's roster", &e))?;
    let members = found.iter().map(|row| {
        let columns = Columns::of(&engine.faults, row);
        let damaged = |what: &str| engine.faults.damaged(format_args!("another hub's roster: {what}"));
        Ok(PeerMember {
            member: member_of(&columns)?,
            stream: stream_of(columns.get(5)?).ok_or_else(|| damaged("a stream's state"))?,
            joined: columns.number(6)?,
            told: columns.number(7)?,
            holds: names(columns.get(9)?).map_err(|()| damaged("a tenant"))?,
            in_force: decode(columns.get(8)?).ok_or_else(|| damaged("a position"))?,
        })
    });
    members.collect()
}

/// Takes a process that is gone out of the store, with its roster.
pub(super) fn forget_peer(engine: &Engine, peer: &[u8; 16]) -> Result<(), StoreError> {
    let sql = |e: super::SqlError| engine.faults.sql("forget another hub", &e);
    engine.write("forget another hub", |session| {
        let given: [Given<'_>; 1] = [(&&peer[..], Type::BYTEA)];
        let gone: [(&str, &[Given<'_>]); 2] = [
            ("DELETE FROM portreeve_replica WHERE id = $1", &given),
            ("DELETE FROM portreeve_member WHERE replica = $1", &given),
        ];
        session.all(&gone).map_err(sql)?;
        Ok(())
    })
}

/// Enters this process among those that serve from the store.
pub(super) fn enter(engine: &Engine) -> Result<(), StoreFault> {
    let entered = engine.write("enter this hub", |session| {
        let sql = "INSERT INTO portreeve_replica (id, beats) VALUES ($1, 0)";
        session
            .rows(sql, &[(&&engine.id[..], Type::BYTEA)])
            .map_err(|e| engine.faults.sql("enter this hub", &e))?;
        Ok(())
    });
    match entered {
        Err(StoreError::Fault(fault)) => Err(fault),
        _ => Ok(()),
    }
}

const fn number_of(stream: PeerStream) -> i32 {
    match stream {
        PeerStream::Live => 0,
        PeerStream::Left => 1,
        PeerStream::Fenced => 2,
        PeerStream::Gone => 3,
    }
}

const fn stream_of(number: i32) -> Option<PeerStream> {
    match number {
        0 => Some(PeerStream::Live),
        1 => Some(PeerStream::Left),
        2 => Some(PeerStream::Fenced),
        3 => Some(PeerStream::Gone),
        _ => None,
    }
}

/// Tenants, one a line.
fn lines(tenants: &[Name]) -> String {
    tenants.iter().map(Name::as_str).collect::<Vec<_>>().join("\n")
}

fn names(lines: Option<&str>) -> Result<Option<Vec<Name>>, ()> {
    let read = lines.map(|lines| lines.lines().map(Name::parse).collect::<Result<_, _>>());
    read.transpose().map_err(|_| ())
}

fn encode(in_force: &[PeerInForce]) -> String {
    let each = in_force.iter().map(|it| {
        json!([
            it.cell.as_str(),
            it.revision,
            it.kill_revision,
            it.at.as_micros(),
            it.purged,
            it.ended_streams
        ])
    });
    Value::Array(each.collect()).to_string()
}

fn decode(text: &str) -> Option<Vec<PeerInForce>> {
    let each: Vec<(String, u64, u64, i64, u64, u64)> = serde_json::from_str(text).ok()?;
    let read = each.into_iter().map(|(cell, revision, kill_revision, at, purged, ended_streams)| {
        let at = Timestamp::from_micros(at);
        Some(PeerInForce {
            cell: Name::parse(&cell).ok()?,
            revision,
            kill_revision,
            at,
            purged,
            ended_streams,
        })
    });
    read.collect()
}

/// For how many more tellings the row of a member that went is kept.
const GONE_KEPT: i64 = 4096;
