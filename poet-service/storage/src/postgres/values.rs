//! Values as PostgreSQL has them.

use poet_engine::{Node, SubtreeHeight};
use poet_rounds::storage::{Challenge, Execution};
use tokio_postgres::Row;

use super::error::Fault;
use crate::DatabaseError;

/// PostgreSQL's integers are signed, but round numbers never get that large.
pub(super) fn key(round: u64) -> Result<i64, DatabaseError> {
    i64::try_from(round).map_err(|_| DatabaseError::Damaged("a round"))
}

pub(super) fn unsigned(value: i64) -> Result<u64, Fault> {
    u64::try_from(value).map_err(|_| Fault::Damaged("a number"))
}

/// Reads the statement in a column, and the height in the next one.
pub(super) fn read_execution(row: &Row, column: usize) -> Result<Option<Execution>, Fault> {
    let Some(statement) = row.get(column) else {
        return Ok(None);
    };
    let height = row.get::<_, Option<i32>>(column + 1);
    let height = height.and_then(|height| u32::try_from(height).ok());
    let subtree_height = height.and_then(|height| SubtreeHeight::new(height).ok());
    Ok(Some(Execution {
        statement,
        subtree_height: subtree_height.ok_or(Fault::Damaged("a round"))?,
    }))
}

pub(super) fn list(bytes: &[u8]) -> Result<Vec<Node>, Fault> {
    match bytes.as_chunks() {
        (nodes, []) => Ok(nodes.to_vec()),
        _ => Err(Fault::Damaged("a proof")),
    }
}

pub(super) fn challenges(bytes: &[u8]) -> Result<Vec<Challenge>, Fault> {
    Challenge::split(bytes).ok_or(Fault::Damaged("a proof"))
}
