//! What every storage must do, on SQLite and on PostgreSQL, and what only a shared one must do.
#![allow(clippy::unwrap_used)]

mod cases;
#[cfg(unix)]
mod copy;
#[cfg(unix)]
mod faults;
mod server;
#[cfg(unix)]
mod shared;
#[cfg(unix)]
mod shared_log;
#[cfg(unix)]
mod wire;

use std::{path::PathBuf, sync::Arc};

use poet_rounds::{clock::SystemClock, storage::Storage};
use poet_storage::{PostgresStorage, SqliteStorage};

use crate::{
    cases::{CASES, Database},
    server::PostgresServer,
};

struct Sqlite(PathBuf);

impl Database for Sqlite {
    fn open(&self) -> Arc<dyn Storage> {
        Arc::new(SqliteStorage::open(&self.0, 100, Arc::new(SystemClock), Arc::new(())).unwrap())
    }
}

struct Postgres(String);

impl Database for Postgres {
    fn open(&self) -> Arc<dyn Storage> {
        Arc::new(open(&self.0))
    }
}

fn open(url: &str) -> PostgresStorage {
    try_open(url).unwrap()
}

fn try_open(url: &str) -> Result<PostgresStorage, String> {
    let url = url.parse().unwrap();
    let clock = Arc::new(SystemClock);
    PostgresStorage::open(&url, 100, clock, Arc::new(())).map_err(|error| error.to_string())
}

#[test]
fn on_sqlite() {
    for (name, case) in CASES {
        println!("{name}");
        let folder = tempfile::tempdir().unwrap();
        case(&Sqlite(folder.path().join("poet.sqlite")));
    }
}

#[cfg(unix)]
#[test]
fn on_postgres() {
    let Some(server) = PostgresServer::start() else {
        return;
    };
    for (name, case) in CASES {
        println!("{name}");
        case(&Postgres(server.database(&format!("case_{name}"))));
    }
}
