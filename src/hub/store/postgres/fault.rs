//! The driver's errors as faults of one database.

use std::fmt;

use tokio_postgres::error::SqlState;

use crate::hub::store::{FaultKind, StoreFault};

/// Why a statement has no answer.
#[derive(Debug)]
pub(super) enum SqlError {
    /// The driver or the server says so.
    Told(tokio_postgres::Error),
    /// Nothing came in time.
    Late,
}

impl SqlError {
    /// What the server called it.
    pub(super) fn state(&self) -> Option<&SqlState> {
        match self {
            Self::Told(error) => error.code(),
            Self::Late => None,
        }
    }

    /// Whether the same transaction may come through when it is begun again.
    pub(super) fn is_collision(&self) -> bool {
        let state = self.state();
        state == Some(&SqlState::T_R_SERIALIZATION_FAILURE) || state == Some(&SqlState::T_R_DEADLOCK_DETECTED)
    }
}

impl fmt::Display for SqlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Late => f.write_str("no answer in time"),
            Self::Told(error) => match error.as_db_error() {
                Some(told) => {
                    write!(f, "{} ({})", told.message().replace('\n', " "), told.code().code())
                }
                None => f.write_str(&chain(error)),
            },
        }
    }
}

/// An error with what it rests on, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let told = inner.to_string();
        if !text.ends_with(&told) {
            text.push_str(": ");
            text.push_str(&told);
        }
        source = inner.source();
    }
    text.replace('\n', " ")
}

/// Makes faults that name the database, without its password.
#[derive(Clone, Debug)]
pub(super) struct PlaceFaults(pub(super) String);

impl PlaceFaults {
    pub(super) fn place(&self) -> &str {
        &self.0
    }

    pub(super) fn fault(&self, kind: FaultKind, what: impl fmt::Display) -> StoreFault {
        StoreFault::at(&self.0, kind, what)
    }

    pub(super) fn damaged(&self, what: impl fmt::Display) -> StoreFault {
        self.fault(FaultKind::Damaged, what)
    }

    pub(super) fn superseded(&self) -> StoreFault {
        self.fault(FaultKind::Superseded, "a newer epoch was begun, or this process was given up for dead")
    }

    pub(super) fn sql(&self, doing: &str, error: &SqlError) -> StoreFault {
        self.fault(kind_of(error), format_args!("{doing}: {error}"))
    }

    /// A column that is not what it should be.
    pub(super) fn column(&self, error: &tokio_postgres::Error) -> StoreFault {
        self.damaged(chain(error))
    }
}

fn kind_of(error: &SqlError) -> FaultKind {
    let Some(state) = error.state() else { return FaultKind::Unreachable };
    match state.code() {
        "53100" => FaultKind::Full,
        "42501" | "28000" | "28P01" | "3D000" => FaultKind::Denied,
        // What the schema should hold is not there, or holds something else.
        "42P01" | "42703" | "42804" | "XX001" | "XX002" => FaultKind::Damaged,
        _ => FaultKind::Unreachable,
    }
}
