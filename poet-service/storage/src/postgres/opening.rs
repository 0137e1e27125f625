//! Opens rounds.

use poet_proto::schedule::Schedule;
use poet_rounds::storage::Setting;
use tokio_postgres::{Client, types::Type};

use super::{
    error::Fault,
    settings::{name, read_setting},
};

/// The result of opening a round.
pub(super) enum Opened {
    /// The round is open, and has this many members.
    Members(i64),
    /// A round before it starts only in this many seconds.
    TooEarly(f64),
}

/// Opens a round and closes those before it, unless it is too early by the database's clock.
pub(super) async fn open(client: &Client, round: u64) -> Result<Opened, Fault> {
    let number = i64::try_from(round).map_err(|_| Fault::Damaged("a round"))?;
    let schedule = schedule(client).await?;
    let start = |round| {
        let start = schedule.as_ref()?.start(round).as_microsecond();
        Some(start as f64 / 1e6)
    };
    // The preceding round may never have been opened.
    if let Some(before) = round.checked_sub(1).and_then(start) {
        let query = "SELECT $1 - extract(epoch FROM clock_timestamp())::float8";
        let row = client
            .query_typed_one(query, &[(&before, Type::FLOAT8)])
            .await?;
        let wait = row.get(0);
        if wait > 0.0 {
            return Ok(Opened::TooEarly(wait));
        }
    }
    let row = client
        .query_typed_one(
            "SELECT count, wait FROM poet.open_round($1, to_timestamp($2))",
            &[(&number, Type::INT8), (&start(round), Type::FLOAT8)],
        )
        .await?;
    match row.get::<_, Option<i64>>(0) {
        Some(members) => Ok(Opened::Members(members)),
        None => Ok(Opened::TooEarly(
            row.get::<_, Option<f64>>(1).unwrap_or_default(),
        )),
    }
}

/// Returns the stored schedule, if there is one.
async fn schedule(client: &Client) -> Result<Option<Schedule>, Fault> {
    let Some(text) = read_setting(client, name(Setting::Schedule)).await? else {
        return Ok(None);
    };
    let schedule = str::from_utf8(&text)
        .ok()
        .and_then(|text| text.parse().ok());
    schedule.map(Some).ok_or(Fault::Damaged("the schedule"))
}
