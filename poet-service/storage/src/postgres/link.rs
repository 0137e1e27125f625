//! A connection to the database that reconnects when it is lost.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use poet_rounds::clock::Clock;
use tokio_postgres::Client;

use super::{
    error::{Fault, PostgresError, connecting},
    schema::{Described, prepare},
    tls::Tls,
    url::DatabaseUrl,
};
use crate::DatabaseError;

/// How long connecting may take, including the first queries.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);
/// After a failure to connect, how long operations fail at once rather than try again.
const AWAY: Duration = Duration::from_millis(300);
/// How often to repeat an operation whose answer was lost.
const REPEATS: u32 = 2;

/// A database, shared by all connections to it.
pub(super) struct Place {
    pub(super) url: DatabaseUrl,
    clock: Arc<dyn Clock>,
    /// The id of the database, once it was reached.
    id: OnceLock<Vec<u8>>,
}

impl Place {
    pub(super) fn new(url: DatabaseUrl, clock: Arc<dyn Clock>) -> Self {
        let id = OnceLock::new();
        Self { url, clock, id }
    }
}

/// A connection, which may be lost.
pub(super) struct Link {
    place: Arc<Place>,
    tls: Tls,
    client: Option<Client>,
    /// When it last failed to connect, by the monotonic clock, and why.
    away: Option<(Duration, String)>,
    /// How often it has connected.
    connections: u64,
}

impl Link {
    /// Connects, and creates missing tables if `create`.
    pub(super) async fn open(place: Arc<Place>, create: bool) -> Result<Self, DatabaseError> {
        let tls = Tls::new(place.url.trust()).map_err(|cause| PostgresError::Tls {
            server: place.url.to_string(),
            cause,
        })?;
        let mut link = Self {
            place,
            tls,
            client: None,
            away: None,
            connections: 1,
        };
        let (client, described) = link.connect(create).await?;
        if create && !described.weak.is_empty() {
            tracing::warn!(
                off = described.weak.join(", "),
                "the database may lose or damage what it has acknowledged: expected these settings on"
            );
        }
        if described.may_lag {
            tracing::warn!(
                "after a fail-over to a replica that lags, registrations that were acknowledged are gone: \
                 expected synchronous replicas, in the setting synchronous_standby_names of the database"
            );
        }
        link.client = Some(client);
        Ok(link)
    }

    /// Tries the hosts in order.
    async fn connect(&self, create: bool) -> Result<(Client, Described), PostgresError> {
        let url = &self.place.url;
        let servers = url.servers();
        let servers =
            servers.map_err(|error| PostgresError::Password(poet_files::reason(&error)))?;
        let mut failed = None;
        for server in servers {
            let connect = async {
                let (mut client, connection) = server
                    .config
                    .connect(self.tls.clone())
                    .await
                    .map_err(|error| {
                        connecting(&error, &server.shown, url.user(), url.database())
                    })?;
                // It ends when the client is dropped.
                tokio::spawn(async move { drop(connection.await) });
                let described = prepare(&mut client, &server.shown, url, create).await;
                let described = described.map_err(|fault| match fault {
                    Fault::Final(error) | Fault::Repeat(error) | Fault::Lost(error) => error,
                    Fault::Damaged(_) | Fault::ProofChanged(_) => PostgresError::Stopped,
                })?;
                if self.place.id.get_or_init(|| described.id.clone()) != &described.id {
                    let server = server.shown.clone();
                    return Err(PostgresError::Another { server });
                }
                Ok((client, described))
            };
            // Creating the tables may take long.
            let patience = if create {
                CONNECT_PATIENCE * 20
            } else {
                CONNECT_PATIENCE
            };
            match tokio::time::timeout(patience, connect).await {
                Ok(Ok(connected)) => return Ok(connected),
                Ok(Err(error)) => failed = Some(failed.unwrap_or(error)),
                Err(_) => {
                    failed = failed.or(Some(PostgresError::Unreachable {
                        server: server.shown,
                        cause: "it does not answer".to_owned(),
                    }));
                }
            }
        }
        Err(failed.unwrap_or(PostgresError::Timeout))
    }

    /// Runs an operation, each attempt within `patience`. Repeats it if the connection is lost
    /// meanwhile: it must be idempotent.
    pub(super) async fn run<T>(
        &mut self,
        patience: Duration,
        operation: impl AsyncFn(&mut Client) -> Result<T, Fault>,
    ) -> Result<T, DatabaseError> {
        let mut repeats = 0;
        loop {
            let mut client = self.client().await?;
            match tokio::time::timeout(patience, operation(&mut client)).await {
                Ok(Ok(done)) => {
                    self.client = Some(client);
                    return Ok(done);
                }
                Ok(Err(fault)) => self.failed(client, fault, repeats)?,
                // The operation ends with the connection.
                Err(_) => return Err(PostgresError::Timeout.into()),
            }
            repeats += 1;
        }
    }

    // What follows is apart from `run` since that is compiled for each operation.

    async fn client(&mut self) -> Result<Client, PostgresError> {
        match self.client.take() {
            Some(client) if !client.is_closed() => Ok(client),
            _ => self.reconnect().await,
        }
    }

    /// Called when an operation has failed. Fails if it is not to be repeated.
    fn failed(&mut self, client: Client, fault: Fault, repeats: u32) -> Result<(), DatabaseError> {
        let (keep, repeatable, error) = match fault {
            Fault::Lost(error) => (false, true, error.into()),
            Fault::Repeat(error) => (true, true, error.into()),
            Fault::Final(error) => (true, false, error.into()),
            Fault::Damaged(what) => (true, false, DatabaseError::Damaged(what)),
            Fault::ProofChanged(round) => (true, false, DatabaseError::ProofChanged(round)),
        };
        if keep {
            self.client = Some(client);
        }
        if repeatable && repeats < REPEATS {
            Ok(())
        } else {
            Err(error)
        }
    }

    /// Returns how often it has connected: each connection may lead to another server.
    pub(super) fn connections(&self) -> u64 {
        self.connections
    }

    async fn reconnect(&mut self) -> Result<Client, PostgresError> {
        if let Some((since, why)) = &self.away
            && self.place.clock.monotonic().saturating_sub(*since) < AWAY
        {
            return Err(PostgresError::Away(why.clone()));
        }
        match self.connect(false).await {
            Ok((client, _)) => {
                self.connections += 1;
                if self.away.take().is_some() {
                    tracing::info!("the database is back");
                }
                Ok(client)
            }
            Err(error) => {
                if self.away.is_none() {
                    tracing::error!(%error, "the database is unreachable");
                }
                self.away = Some((self.place.clock.monotonic(), error.to_string()));
                Err(error)
            }
        }
    }
}
