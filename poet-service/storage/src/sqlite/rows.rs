//! Reads and writes the rows of the tables, with their checksums.

use poet_engine::{Node, Proof, SubtreeHeight};
use poet_proto::messages::PublishedProof;
use poet_rounds::storage::{
    Challenge, Execution, Member, NodeId, PowChallenges, PublishedRecord, RoundRecord, Setting,
};
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};

use crate::{ChangedRegistrations, DatabaseError as StorageError, checksum::proof_checksum};

const POW_CHALLENGE: &str = "pow_challenge";
const POW_CHALLENGE_PREVIOUS: &str = "pow_challenge_previous";

pub(super) const INSERT_REGISTRATION: &str = "
    INSERT INTO registrations (round, number, node_id, challenge, checksum)
    VALUES (?, ?, ?, ?, ?)";

pub(super) fn insert_members(
    transaction: &Transaction<'_>,
    round: i64,
    members: &[Member],
) -> Result<(), StorageError> {
    let mut insert = transaction.prepare_cached(INSERT_REGISTRATION)?;
    for (number, member) in (0..).zip(members) {
        let checksum = checksum(round, number, member);
        insert.execute(params![
            round,
            number,
            member.node_id.0,
            member.challenge.0,
            checksum
        ])?;
    }
    Ok(())
}

/// Reads only the length of the blobs.
pub(super) const SELECT_RECORDS: &str = "
    SELECT rounds.round, rounds.statement IS NOT NULL, proofs.leaves, length(proofs.members) / 32
    FROM rounds LEFT JOIN proofs ON proofs.round = rounds.round";

pub(super) fn read_record(row: &Row<'_>) -> Result<RoundRecord, StorageError> {
    let published = match row.get::<_, Option<i64>>(2)? {
        None => None,
        Some(leaves) => Some(PublishedRecord {
            leaves: unsigned(leaves)?,
            members: unsigned(row.get(3)?)?,
        }),
    };
    Ok(RoundRecord {
        round: unsigned(row.get(0)?)?,
        settled: row.get(1)?,
        published,
    })
}

pub(super) fn select_proof(
    connection: &Connection,
    round: i64,
) -> Result<Option<PublishedProof>, StorageError> {
    let mut query = connection.prepare_cached(
        "SELECT statement, leaves, root, proven_leaves, proof_nodes, members, checksum
         FROM proofs WHERE round = ?",
    )?;
    let mut rows = query.query([round])?;
    let Some(row) = rows.next()? else {
        return Ok(None);
    };
    let mut proof = read_proof(row)?;
    let stored: u32 = row.get(6)?;
    let mut query = connection.prepare_cached(
        "SELECT position, challenge FROM odd_members WHERE round = ? ORDER BY position",
    )?;
    let mut rows = query.query([round])?;
    while let Some(row) = rows.next()? {
        proof.odd_members.push((row.get(0)?, row.get(1)?));
    }
    if proof_checksum(round, &proof) == stored {
        Ok(Some(proof))
    } else {
        Err(StorageError::ProofChanged(round))
    }
}

pub(super) fn insert_proof(
    transaction: &Transaction<'_>,
    round: i64,
    proof: &PublishedProof,
) -> Result<(), StorageError> {
    let leaves = i64::try_from(proof.leaves).map_err(|_| StorageError::Damaged("a proof"))?;
    transaction.execute(
        "INSERT INTO proofs
         (round, statement, leaves, root, proven_leaves, proof_nodes, members, checksum)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        params![
            round,
            proof.statement,
            leaves,
            proof.proof.root,
            proof.proof.proven_leaves.as_flattened(),
            proof.proof.proof_nodes.as_flattened(),
            Challenge::concat(&proof.members),
            proof_checksum(round, proof),
        ],
    )?;
    for (position, challenge) in &proof.odd_members {
        transaction.execute(
            "INSERT INTO odd_members (round, position, challenge) VALUES (?, ?, ?)",
            params![round, position, challenge],
        )?;
    }
    Ok(())
}

fn read_proof(row: &Row<'_>) -> Result<PublishedProof, StorageError> {
    let list = |column: usize| -> Result<Vec<Node>, StorageError> {
        let bytes = row
            .get_ref(column)?
            .as_blob()
            .map_err(rusqlite::Error::from)?;
        match bytes.as_chunks() {
            (nodes, []) => Ok(nodes.to_vec()),
            _ => Err(StorageError::Damaged("a proof")),
        }
    };
    Ok(PublishedProof {
        statement: row.get(0)?,
        leaves: unsigned(row.get(1)?)?,
        proof: Proof {
            root: row.get(2)?,
            proven_leaves: list(3)?,
            proof_nodes: list(4)?,
        },
        members: Challenge::split(row.get_ref(5)?.as_blob().map_err(rusqlite::Error::from)?)
            .ok_or(StorageError::Damaged("a proof"))?,
        odd_members: Vec::new(),
    })
}

pub(super) fn name(setting: Setting) -> &'static str {
    match setting {
        Setting::PrivateKey => "private_key",
        Setting::Schedule => "schedule",
        Setting::TickLeaves => "tick_leaves",
    }
}

/// SQLite's integers are signed, but round numbers never get that large.
pub(super) fn key(round: u64) -> Result<i64, StorageError> {
    i64::try_from(round).map_err(|_| StorageError::Damaged("a round"))
}

pub(super) fn unsigned(value: i64) -> Result<u64, StorageError> {
    u64::try_from(value).map_err(|_| StorageError::Damaged("a number"))
}

pub(super) fn read_setting(
    connection: &Connection,
    name: &str,
) -> Result<Option<Vec<u8>>, StorageError> {
    connection
        .query_row("SELECT value FROM settings WHERE name = ?", [name], |row| {
            row.get(0)
        })
        .optional()
        .map_err(StorageError::from)
}

pub(super) fn write_setting(
    transaction: &Transaction<'_>,
    name: &str,
    value: &[u8],
) -> Result<(), StorageError> {
    transaction.execute(
        "INSERT INTO settings (name, value) VALUES (?, ?)
         ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        params![name, value],
    )?;
    Ok(())
}

pub(super) fn read_pow_challenges(
    connection: &Connection,
) -> Result<Option<PowChallenges>, StorageError> {
    let read = |name| -> Result<Option<Node>, StorageError> {
        let value = read_setting(connection, name)?;
        value
            .map(|value| {
                value
                    .try_into()
                    .map_err(|_| StorageError::Damaged("a challenge"))
            })
            .transpose()
    };
    let previous = read(POW_CHALLENGE_PREVIOUS)?;
    Ok(read(POW_CHALLENGE)?.map(|current| PowChallenges { current, previous }))
}

pub(super) fn write_pow_challenges(
    transaction: &Transaction<'_>,
    challenges: &PowChallenges,
) -> Result<(), StorageError> {
    write_setting(transaction, POW_CHALLENGE, &challenges.current)?;
    if let Some(previous) = &challenges.previous {
        write_setting(transaction, POW_CHALLENGE_PREVIOUS, previous)?;
    }
    Ok(())
}

/// Reads the registrations of a round in order of arrival, as they were stored. Yields a
/// registration that has changed in an unknown way as it is: it must not stop a round.
pub(super) fn each_registration(
    connection: &Connection,
    round: i64,
    mut tell: impl FnMut(Member),
) -> Result<ChangedRegistrations, StorageError> {
    let mut query = connection.prepare_cached(
        "SELECT number, node_id, challenge, checksum FROM registrations
         WHERE round = ? ORDER BY number",
    )?;
    let mut rows = query.query([round])?;
    let mut changed = ChangedRegistrations::default();
    while let Some(row) = rows.next()? {
        let (number, stored): (_, u32) = (row.get(0)?, row.get(3)?);
        let mut member = Member {
            node_id: NodeId(row.get(1)?),
            challenge: Challenge(row.get(2)?),
        };
        if checksum(round, number, &member) != stored {
            let known = restored(round, number, &member, stored);
            tracing::error!(
                round,
                number,
                known = known.is_some(),
                "ALARM: a registration has changed in the database since it was stored: memory or \
                 disk are unreliable"
            );
            changed.count += 1;
            changed.known += u64::from(known.is_some());
            member = known.unwrap_or(member);
        }
        tell(member);
    }
    Ok(changed)
}

pub(super) fn checksum(round: i64, number: i64, member: &Member) -> u32 {
    let place = [round.to_be_bytes(), number.to_be_bytes()];
    let crc = crc32c::crc32c(place.as_flattened());
    let crc = crc32c::crc32c_append(crc, &member.node_id.0);
    crc32c::crc32c_append(crc, &member.challenge.0)
}

/// Returns what a registration was before a single bit of it, or of its checksum, changed; `None`
/// if more has changed.
pub(super) fn restored(round: i64, number: i64, member: &Member, stored: u32) -> Option<Member> {
    if (checksum(round, number, member) ^ stored).is_power_of_two() {
        return Some(*member);
    }
    let mut bits = (0..32).flat_map(|byte| (0..8).map(move |bit| (byte, 1 << bit)));
    bits.find_map(|(byte, bit)| {
        let (mut node, mut challenge) = (*member, *member);
        node.node_id.0[byte] ^= bit;
        challenge.challenge.0[byte] ^= bit;
        let fits = |member: &Member| checksum(round, number, member) == stored;
        [node, challenge].into_iter().find(fits)
    })
}

pub(super) fn count_members(connection: &Connection, round: i64) -> Result<u64, StorageError> {
    let members = connection.query_row(
        "SELECT count(*) FROM registrations WHERE round = ?",
        [round],
        |row| row.get(0),
    )?;
    unsigned(members)
}

/// Reads the second and the third column of a round.
pub(super) fn read_execution(row: &Row<'_>) -> Result<Option<Execution>, StorageError> {
    let Some(statement) = row.get(1)? else {
        return Ok(None);
    };
    let height = SubtreeHeight::new(row.get(2)?);
    Ok(Some(Execution {
        statement,
        subtree_height: height.map_err(|_| StorageError::Damaged("a round"))?,
    }))
}
