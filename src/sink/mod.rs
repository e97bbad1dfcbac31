//! Shipping records: what reads the spool and hands it to somebody else, at least once.
//!
//! Each sink has a thread of its own, reads every log in order from its cursor, and can be as slow
//! or as dead as it likes: it waits for the spool, never the other way round.
//!
//! The order is fixed: the sink has flushed a batch, then the cursor says so on stable storage,
//! and only then does the spool hear of it and may remove a segment.

mod cursor;
mod file;
mod ship;

use std::io;

pub use cursor::{Cursor, CursorError};
pub use file::{FileSink, StdoutSink};
pub use ship::{Shipper, ShipperOptions, StartError};

/// Where JSON lines go.
pub trait Sink: Send {
    /// Takes whole lines. After an error the same lines come again.
    ///
    /// # Errors
    /// What the system says; it is tried again, less and less often.
    fn write(&mut self, lines: &[u8]) -> io::Result<()>;

    /// Returns once what was written is out of this process.
    ///
    /// # Errors
    /// What the system says.
    fn flush(&mut self) -> io::Result<()>;
}
