//! The database as the [`Storage`] of the rounds.

use std::{ops::RangeInclusive, sync::Arc, time::Duration};

use poet_proto::messages::PublishedProof;
use poet_rounds::storage::{
    Challenge, EarlyProofRecord, Ended, Execution, Member, NodeId, PowChallenges, Registered,
    Removed, RoundRecord, Setting, Storage, StorageError, StorageFuture, UnfinishedRound,
};

use super::SqliteStorage;

impl Storage for SqliteStorage {
    fn setting(&self, setting: Setting) -> Result<Option<Vec<u8>>, StorageError> {
        Ok(self.setting(setting)?)
    }

    fn store_setting(&self, setting: Setting, value: &[u8]) -> Result<(), StorageError> {
        Ok(self.store_setting(setting, value)?)
    }

    fn pow_challenges(&self) -> Result<Option<PowChallenges>, StorageError> {
        Ok(self.pow_challenges()?)
    }

    fn store_pow_challenges(&self, challenges: &PowChallenges) -> Result<(), StorageError> {
        Ok(self.store_pow_challenges(challenges)?)
    }

    fn unfinished_rounds(&self) -> Result<Vec<UnfinishedRound>, StorageError> {
        Ok(self.unfinished_rounds()?)
    }

    fn first_unsettled_round(&self, from: u64) -> Result<u64, StorageError> {
        Ok(self.first_unsettled_round(from)?)
    }

    fn open_round(&self, round: u64) -> StorageFuture<u64> {
        self.open_round(round)
    }

    fn register(&self, round: u64, member: Member, max_members: u64) -> StorageFuture<Registered> {
        self.register(round, member, max_members)
    }

    fn queued(&self) -> usize {
        self.queued()
    }

    fn probe(&self) -> StorageFuture<()> {
        self.probe()
    }

    fn close(&self) -> StorageFuture<()> {
        self.close()
    }

    fn ended(&self) -> Ended {
        self.ended()
    }

    fn newest_rounds(&self, count: usize) -> Result<Vec<RoundRecord>, StorageError> {
        Ok(self.newest_rounds(count)?)
    }

    fn round(&self, round: u64) -> Result<Option<RoundRecord>, StorageError> {
        Ok(self.round(round)?)
    }

    fn registrations(&self, round: u64) -> Result<Vec<Member>, StorageError> {
        Ok(self.registrations(round)?)
    }

    fn is_member(&self, round: u64, node_id: NodeId) -> Result<bool, StorageError> {
        Ok(self.is_member(round, node_id)?)
    }

    fn member_count(&self, round: u64) -> Result<u64, StorageError> {
        Ok(self.member_count(round)?)
    }

    fn members(&self, round: u64) -> Result<Vec<Challenge>, StorageError> {
        Ok(self.members(round)?)
    }

    fn settle_round(&self, round: u64, execution: &Execution) -> Result<(), StorageError> {
        Ok(self.settle_round(round, execution)?)
    }

    fn publish(
        &self,
        round: u64,
        proof: Arc<PublishedProof>,
    ) -> Result<PowChallenges, StorageError> {
        Ok(self.publish(round, proof)?)
    }

    fn remove_registrations(&self, before: u64, count: u32) -> Result<Removed, StorageError> {
        Ok(self.remove_registrations(before, count)?)
    }

    fn proof(&self, round: u64) -> Result<Option<PublishedProof>, StorageError> {
        Ok(self.proof(round)?)
    }

    fn store_early_proof(
        &self,
        round: u64,
        gap: Duration,
        proof: Arc<PublishedProof>,
    ) -> Result<(), StorageError> {
        Ok(self.store_early_proof(round, gap, proof)?)
    }

    fn early_proof(
        &self,
        round: u64,
        gap: Duration,
    ) -> Result<Option<PublishedProof>, StorageError> {
        Ok(self.early_proof(round, gap)?)
    }

    fn early_proofs(
        &self,
        rounds: RangeInclusive<u64>,
    ) -> Result<Vec<EarlyProofRecord>, StorageError> {
        Ok(self.early_proofs(rounds)?)
    }
}
