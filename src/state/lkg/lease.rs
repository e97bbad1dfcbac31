//! The lease beside the last-known-good: what it rests on, under which terms, and what it covers.

use std::fs;
use std::io;
use std::time::Duration;

use prost::Message as _;

use super::{LastKnownGood, LkgError};
use crate::core::id::{Epoch, Name};
use crate::core::identity::{CellState, Lease, Snapshot};
use crate::core::time::{Anchor, BootInstant, Timestamp};
use crate::wire::state_proto as proto;

impl LastKnownGood {
    /// Writes the lease with the positions it covers.
    pub(in crate::state) fn write_lease(&self, lease: &Lease, snapshot: &Snapshot) -> Result<(), LkgError> {
        let mut text = format!(
            "portreeve-lease 1\nboot {}\nterms {}\nfresh {} {}\nclock {} {} {} {} {}\nhub {}\n",
            self.boot_id,
            lease.deny_after_max.as_micros(),
            lease.fresh_at.map_or(0, BootInstant::as_micros),
            lease.wall_at.as_micros(),
            lease.anchor.ahead_us,
            lease.anchor.lead_us,
            lease.anchor.offset_us,
            lease.anchor.offset_max_us,
            lease.anchor.steps,
            lease.hub_time_us
        );
        for cell in snapshot.cells().iter().filter(|cell| cell.confirmed) {
            let (name, epoch) = (&cell.cell, cell.epoch);
            text.push_str(&format!("cell {name} {epoch} {} {}\n", cell.revision, cell.kill_revision));
        }
        if let Some(head) = &self.head {
            let bytes = head.encode_to_vec();
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            text.push_str(&format!("head {hex}\n"));
        }
        text.push_str(&format!("crc {:08x}\n", crc32c::crc32c(text.as_bytes())));
        let path = self.folder.join("lease");
        let beside = self.folder.join("lease.new");
        // Not synced: a crash of the host ends the lease anyway, since its boot id changes.
        fs::write(&beside, text)
            .and_then(|()| fs::rename(&beside, &path))
            .map_err(|source| LkgError::Io { path, source })
    }

    /// Takes the lease away from a restart.
    pub(in crate::state) fn remove_lease(&self) -> Result<(), LkgError> {
        let path = self.folder.join("lease");
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(LkgError::Io { path, source }),
            _ => Ok(()),
        }
    }

    pub(super) fn read_lease(&self) -> Option<CoveredLease> {
        let text = fs::read_to_string(self.folder.join("lease")).ok()?;
        let (body, crc) = text.split_at(text.rfind("crc ")?);
        if crc.trim_end() != format!("crc {:08x}", crc32c::crc32c(body.as_bytes())) {
            return None;
        }
        let mut found = CoveredLease::default();
        for line in body.lines() {
            let mut words = line.split(' ');
            match (words.next()?, words.next()?) {
                ("boot", id) => id.clone_into(&mut found.boot_id),
                ("terms", us) => found.lease.deny_after_max = Duration::from_micros(us.parse().ok()?),
                // Zero: nobody has granted one. Read as a time it would be fresh soon after a boot.
                ("fresh", "0") => {}
                ("fresh", us) => {
                    found.lease.fresh_at = Some(BootInstant::from_micros(us.parse().ok()?));
                    found.lease.wall_at = Timestamp::from_micros(words.next()?.parse().ok()?);
                }
                ("clock", ahead) => {
                    found.lease.anchor = Anchor {
                        ahead_us: ahead.parse().ok()?,
                        lead_us: words.next()?.parse().ok()?,
                        offset_us: words.next()?.parse().ok()?,
                        offset_max_us: words.next()?.parse().ok()?,
                        steps: words.next()?.parse().ok()?,
                    };
                }
                ("hub", us) => found.lease.hub_time_us = us.parse().ok()?,
                ("cell", name) => found.positions.push(LeasePosition {
                    cell: Name::parse(name).ok()?,
                    epoch: parse_epoch(words.next()?)?,
                    revision: words.next()?.parse().ok()?,
                    kill_revision: words.next()?.parse().ok()?,
                }),
                ("head", hex) => found.head = from_hex(hex).and_then(|b| proto::Signed::decode(&*b).ok()),
                _ => {}
            }
        }
        Some(found)
    }
}

#[derive(Debug, Default)]
pub(super) struct CoveredLease {
    pub(super) boot_id: String,
    pub(super) lease: Lease,
    pub(super) positions: Vec<LeasePosition>,
    pub(super) head: Option<proto::Signed>,
}

#[derive(Debug)]
pub(super) struct LeasePosition {
    pub(super) cell: Name,
    pub(super) epoch: Epoch,
    pub(super) revision: u64,
    pub(super) kill_revision: u64,
}

impl LeasePosition {
    /// Whether more had been in force than is held.
    pub(super) fn is_past(&self, held: &CellState) -> bool {
        self.epoch > held.epoch
            || (self.epoch == held.epoch
                && (self.revision > held.revision || self.kill_revision > held.kill_revision))
    }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes().chunks(2);
    digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

fn parse_epoch(text: &str) -> Option<Epoch> {
    let value = u128::from_str_radix(text, 16).ok().filter(|_| text.len() == 32)?;
    Some(Epoch::from_bytes(value.to_be_bytes()))
}
