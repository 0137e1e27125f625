//! The real database behind the faults. A simulated process has one thread, on which nothing may
//! wait for another thread; so each operation runs, and is waited for, on a separate thread.

use std::{
    ops::RangeInclusive,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use poet_proto::messages::PublishedProof;
use poet_rounds::{
    clock::SystemClock,
    storage::{
        Challenge, EarlyProofRecord, Execution, Member, NodeId, PowChallenges, Registered, Removed,
        RoundRecord, Setting, Storage, StorageError, StorageFuture, UnfinishedRound,
    },
};
use poet_storage::SqliteStorage;

use crate::life::Durable;

/// A database file.
pub(crate) struct File(PathBuf);

impl File {
    pub(crate) fn new(folder: &Path) -> Self {
        Self(folder.join("poet.sqlite"))
    }
}

impl Durable for File {
    fn open(&self) -> Arc<dyn Storage> {
        let storage =
            SqliteStorage::open(&self.0, 1000, Arc::new(SystemClock), Arc::new(())).unwrap();
        Arc::new(Waiting(Box::new(storage)))
    }
}

struct Waiting(Box<dyn Storage>);

/// Calls `call` on a thread that may block.
fn elsewhere<T: Send>(call: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| scope.spawn(call).join().unwrap())
}

impl Waiting {
    fn wait<T: Send + 'static>(&self, future: StorageFuture<T>) -> StorageFuture<T> {
        let result = elsewhere(|| {
            tokio::runtime::Builder::new_current_thread()
                .build()
                .unwrap()
                .block_on(future)
        });
        Box::pin(std::future::ready(result))
    }
}

impl Storage for Waiting {
    fn setting(&self, setting: Setting) -> Result<Option<Vec<u8>>, StorageError> {
        self.0.setting(setting)
    }

    fn store_setting(&self, setting: Setting, value: &[u8]) -> Result<(), StorageError> {
        elsewhere(|| self.0.store_setting(setting, value))
    }

    fn pow_challenges(&self) -> Result<Option<PowChallenges>, StorageError> {
        self.0.pow_challenges()
    }

    fn store_pow_challenges(&self, challenges: &PowChallenges) -> Result<(), StorageError> {
        elsewhere(|| self.0.store_pow_challenges(challenges))
    }

    fn unfinished_rounds(&self) -> Result<Vec<UnfinishedRound>, StorageError> {
        self.0.unfinished_rounds()
    }

    fn first_unsettled_round(&self, from: u64) -> Result<u64, StorageError> {
        self.0.first_unsettled_round(from)
    }

    fn open_round(&self, round: u64) -> StorageFuture<u64> {
        self.wait(self.0.open_round(round))
    }

    fn register(&self, round: u64, member: Member, max_members: u64) -> StorageFuture<Registered> {
        self.wait(self.0.register(round, member, max_members))
    }

    fn queued(&self) -> usize {
        self.0.queued()
    }

    fn member_count(&self, round: u64) -> Result<u64, StorageError> {
        self.0.member_count(round)
    }

    fn probe(&self) -> StorageFuture<()> {
        self.wait(self.0.probe())
    }

    fn newest_rounds(&self, count: usize) -> Result<Vec<RoundRecord>, StorageError> {
        self.0.newest_rounds(count)
    }

    fn round(&self, round: u64) -> Result<Option<RoundRecord>, StorageError> {
        self.0.round(round)
    }

    fn is_member(&self, round: u64, node_id: NodeId) -> Result<bool, StorageError> {
        self.0.is_member(round, node_id)
    }

    fn registrations(&self, round: u64) -> Result<Vec<Member>, StorageError> {
        self.0.registrations(round)
    }

    fn members(&self, round: u64) -> Result<Vec<Challenge>, StorageError> {
        self.0.members(round)
    }

    fn settle_round(&self, round: u64, execution: &Execution) -> Result<(), StorageError> {
        elsewhere(|| self.0.settle_round(round, execution))
    }

    fn publish(
        &self,
        round: u64,
        proof: Arc<PublishedProof>,
    ) -> Result<PowChallenges, StorageError> {
        elsewhere(|| self.0.publish(round, proof))
    }

    fn remove_registrations(&self, before: u64, count: u32) -> Result<Removed, StorageError> {
        elsewhere(|| self.0.remove_registrations(before, count))
    }

    fn proof(&self, round: u64) -> Result<Option<PublishedProof>, StorageError> {
        self.0.proof(round)
    }

    fn store_early_proof(
        &self,
        round: u64,
        gap: Duration,
        proof: Arc<PublishedProof>,
    ) -> Result<(), StorageError> {
        elsewhere(|| self.0.store_early_proof(round, gap, proof))
    }

    fn early_proof(
        &self,
        round: u64,
        gap: Duration,
    ) -> Result<Option<PublishedProof>, StorageError> {
        self.0.early_proof(round, gap)
    }

    fn early_proofs(
        &self,
        rounds: RangeInclusive<u64>,
    ) -> Result<Vec<EarlyProofRecord>, StorageError> {
        self.0.early_proofs(rounds)
    }
}
