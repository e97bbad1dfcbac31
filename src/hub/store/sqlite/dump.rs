//! The whole file, for another engine.

use rusqlite::Connection;

use super::fault::FileFaults;
use super::read::{self, rows};
use super::{schema, side};
use crate::hub::store::{Dump, StoreError};

pub(super) fn dump(connection: &Connection, file: &FileFaults) -> Result<Dump, StoreError> {
    let cells = read::cells(connection, file)?;
    let images = cells.iter().map(|cell| read::snapshot(connection, file, &cell.tenant));
    let images = images.collect::<Result<Vec<_>, _>>()?;
    let mut dropped = Vec::new();
    for cell in &cells {
        let of_cell = read::dropped(connection, file, &cell.tenant)?;
        dropped.extend(of_cell.into_iter().map(|record| (cell.tenant.clone(), record)));
    }
    let spaces = rows(connection, file, "SELECT DISTINCT space FROM item ORDER BY space", [], |row| {
        row.get::<_, String>(0)
    })?;
    let mut items = Vec::new();
    for space in spaces {
        let of_space = side::items(connection, file, &space)?;
        items.extend(of_space.into_iter().map(|item| (space.clone(), item)));
    }
    let revisions = "SELECT DISTINCT revision FROM receipt ORDER BY revision";
    let revisions = rows(connection, file, revisions, [], |row| row.get::<_, i64>(0))?;
    let mut receipts = Vec::new();
    for revision in revisions {
        receipts.extend(side::receipts(connection, file, read::unsigned(file, revision)?)?);
    }
    Ok(Dump {
        identity: schema::identity(file, connection)?,
        head: read::head(connection, file)?,
        cells: images.into_iter().flatten().collect(),
        dropped,
        items,
        receipts,
        members: read::members(connection, file)?,
    })
}
