//! Values that are stored once, by name.

use poet_rounds::storage::{PowChallenges, Setting};
use tokio_postgres::{Client, types::Type};

use super::error::Fault;

pub(super) const POW_CHALLENGE: &str = "pow_challenge";
const POW_CHALLENGE_PREVIOUS: &str = "pow_challenge_previous";

pub(super) fn name(setting: Setting) -> &'static str {
    match setting {
        Setting::PrivateKey => "private_key",
        Setting::Schedule => "schedule",
        Setting::TickLeaves => "tick_leaves",
    }
}

pub(super) fn value(bytes: &[u8], of: &'static str) -> Result<[u8; 32], Fault> {
    bytes.try_into().map_err(|_| Fault::Damaged(of))
}

pub(super) async fn read_setting(client: &Client, name: &str) -> Result<Option<Vec<u8>>, Fault> {
    let query = "SELECT value FROM poet.settings WHERE name = $1";
    let row = client
        .query_typed_opt(query, &[(&name, Type::TEXT)])
        .await?;
    Ok(row.map(|row| row.get(0)))
}

pub(super) async fn write_setting(client: &Client, name: &str, value: &[u8]) -> Result<(), Fault> {
    client
        .execute_typed(
            "INSERT INTO poet.settings (name, value) VALUES ($1, $2)
             ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            &[(&name, Type::TEXT), (&value, Type::BYTEA)],
        )
        .await?;
    Ok(())
}

/// Stores a setting unless there is one, and returns the stored one.
pub(super) async fn claim_setting(
    client: &Client,
    name: &str,
    value: &[u8],
) -> Result<Vec<u8>, Fault> {
    client
        .execute_typed(
            "INSERT INTO poet.settings (name, value) VALUES ($1, $2) ON CONFLICT DO NOTHING",
            &[(&name, Type::TEXT), (&value, Type::BYTEA)],
        )
        .await?;
    let stored = read_setting(client, name).await?;
    stored.ok_or(Fault::Damaged("a setting"))
}

pub(super) async fn read_pow_challenges(client: &Client) -> Result<Option<PowChallenges>, Fault> {
    // One query, so that both are from the same moment.
    let rows = client
        .query_typed(
            "SELECT name, value FROM poet.settings WHERE name IN ($1, $2)",
            &[
                (&POW_CHALLENGE, Type::TEXT),
                (&POW_CHALLENGE_PREVIOUS, Type::TEXT),
            ],
        )
        .await?;
    let (mut current, mut previous) = (None, None);
    for row in rows {
        let challenge = Some(value(row.get(1), "a challenge")?);
        match row.get(0) {
            POW_CHALLENGE => current = challenge,
            _ => previous = challenge,
        }
    }
    Ok(current.map(|current| PowChallenges { current, previous }))
}

pub(super) async fn write_pow_challenges(
    client: &Client,
    challenges: &PowChallenges,
) -> Result<(), Fault> {
    write_setting(client, POW_CHALLENGE, &challenges.current).await?;
    if let Some(previous) = &challenges.previous {
        write_setting(client, POW_CHALLENGE_PREVIOUS, previous).await?;
    }
    Ok(())
}
