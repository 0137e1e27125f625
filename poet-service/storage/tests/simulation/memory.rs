//! A storage in memory that never fails: the durable state of a simulated world.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use poet_proto::messages::PublishedProof;
use poet_rounds::storage::{
    Challenge, EarlyProofRecord, Execution, Member, NodeId, PowChallenges, PublishedRecord,
    Registered, Removed, RoundRecord, Setting, Storage, StorageError, StorageFuture,
    UnfinishedRound,
};

/// The state that survives a process.
#[derive(Default)]
pub(crate) struct Tables {
    settings: Vec<(Setting, Vec<u8>)>,
    pow: Option<PowChallenges>,
    rounds: BTreeMap<u64, Option<Execution>>,
    registrations: BTreeMap<u64, BTreeMap<NodeId, Challenge>>,
    proofs: BTreeMap<u64, Arc<PublishedProof>>,
    early_proofs: BTreeMap<(u64, Duration), Arc<PublishedProof>>,
    unfinished: BTreeSet<u64>,
}

/// The storage as one process sees it.
pub(crate) struct MemoryStorage {
    tables: Arc<Mutex<Tables>>,
    open: Mutex<Option<u64>>,
}

impl MemoryStorage {
    pub(crate) fn new(tables: Arc<Mutex<Tables>>) -> Self {
        Self {
            tables,
            open: Mutex::default(),
        }
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap()
    }
}

fn done<T: Send + 'static>(value: T) -> StorageFuture<T> {
    Box::pin(std::future::ready(Ok(value)))
}

impl Tables {
    fn member_count(&self, round: u64) -> u64 {
        self.registrations.get(&round).map_or(0, BTreeMap::len) as u64
    }

    fn record(&self, round: u64, execution: Option<&Execution>) -> RoundRecord {
        RoundRecord {
            round,
            settled: execution.is_some(),
            published: self.proofs.get(&round).map(|proof| PublishedRecord {
                leaves: proof.leaves,
                members: proof.members.len() as u64,
            }),
        }
    }
}

impl Storage for MemoryStorage {
    fn setting(&self, setting: Setting) -> Result<Option<Vec<u8>>, StorageError> {
        let tables = self.tables();
        let found = tables.settings.iter().find(|(name, _)| *name == setting);
        Ok(found.map(|(_, value)| value.clone()))
    }

    fn store_setting(&self, setting: Setting, value: &[u8]) -> Result<(), StorageError> {
        let mut tables = self.tables();
        tables.settings.retain(|(name, _)| *name != setting);
        tables.settings.push((setting, value.to_vec()));
        Ok(())
    }

    fn pow_challenges(&self) -> Result<Option<PowChallenges>, StorageError> {
        Ok(self.tables().pow.clone())
    }

    fn store_pow_challenges(&self, challenges: &PowChallenges) -> Result<(), StorageError> {
        self.tables().pow = Some(challenges.clone());
        Ok(())
    }

    fn unfinished_rounds(&self) -> Result<Vec<UnfinishedRound>, StorageError> {
        let tables = self.tables();
        let round = |round: &u64| UnfinishedRound {
            round: *round,
            execution: tables.rounds[round].clone(),
        };
        Ok(tables.unfinished.iter().map(round).collect())
    }

    fn first_unsettled_round(&self, from: u64) -> Result<u64, StorageError> {
        let tables = self.tables();
        let settled = |round: &u64| matches!(tables.rounds.get(round), Some(Some(_)));
        Ok((from..).find(|round| !settled(round)).unwrap())
    }

    fn open_round(&self, round: u64) -> StorageFuture<u64> {
        let mut tables = self.tables();
        tables.rounds.entry(round).or_default();
        if !tables.proofs.contains_key(&round) {
            tables.unfinished.insert(round);
        }
        *self.open.lock().unwrap() = Some(round);
        done(tables.member_count(round))
    }

    fn register(&self, round: u64, member: Member, max_members: u64) -> StorageFuture<Registered> {
        if *self.open.lock().unwrap() != Some(round) {
            return done(Registered::Closed);
        }
        let mut tables = self.tables();
        if tables.member_count(round) >= max_members {
            return done(Registered::Full);
        }
        let members = tables.registrations.entry(round).or_default();
        match members.get(&member.node_id) {
            Some(challenge) if *challenge == member.challenge => done(Registered::Already),
            Some(_) => done(Registered::Conflict),
            None => {
                members.insert(member.node_id, member.challenge);
                done(Registered::New)
            }
        }
    }

    fn queued(&self) -> usize {
        0
    }

    fn member_count(&self, round: u64) -> Result<u64, StorageError> {
        Ok(self.tables().member_count(round))
    }

    fn probe(&self) -> StorageFuture<()> {
        done(())
    }

    fn newest_rounds(&self, count: usize) -> Result<Vec<RoundRecord>, StorageError> {
        let tables = self.tables();
        let rounds = tables.rounds.iter().rev().take(count);
        Ok(rounds
            .map(|(round, execution)| tables.record(*round, execution.as_ref()))
            .collect())
    }

    fn round(&self, round: u64) -> Result<Option<RoundRecord>, StorageError> {
        let tables = self.tables();
        let execution = tables.rounds.get(&round);
        Ok(execution.map(|execution| tables.record(round, execution.as_ref())))
    }

    fn is_member(&self, round: u64, node_id: NodeId) -> Result<bool, StorageError> {
        let tables = self.tables();
        let members = tables.registrations.get(&round);
        Ok(members.is_some_and(|members| members.contains_key(&node_id)))
    }

    fn registrations(&self, round: u64) -> Result<Vec<Member>, StorageError> {
        let tables = self.tables();
        let members = tables.registrations.get(&round).into_iter().flatten();
        let member = |(node_id, challenge): (&NodeId, &Challenge)| Member {
            node_id: *node_id,
            challenge: *challenge,
        };
        Ok(members.map(member).collect())
    }

    fn members(&self, round: u64) -> Result<Vec<Challenge>, StorageError> {
        let tables = self.tables();
        let members = tables.registrations.get(&round);
        Ok(members
            .map(|members| members.values().copied().collect())
            .unwrap_or_default())
    }

    fn settle_round(&self, round: u64, execution: &Execution) -> Result<(), StorageError> {
        if let Some(record) = self.tables().rounds.get_mut(&round) {
            *record = Some(execution.clone());
        }
        Ok(())
    }

    fn publish(
        &self,
        round: u64,
        proof: Arc<PublishedProof>,
    ) -> Result<PowChallenges, StorageError> {
        let mut tables = self.tables();
        let challenges = PowChallenges {
            current: proof.proof.root,
            previous: tables.pow.take().map(|challenges| challenges.current),
        };
        tables.pow = Some(challenges.clone());
        tables.unfinished.remove(&round);
        if tables.proofs.insert(round, proof).is_some() {
            return Err(StorageError::new("a proof was there already"));
        }
        Ok(challenges)
    }

    fn remove_registrations(&self, before: u64, count: u32) -> Result<Removed, StorageError> {
        let mut tables = self.tables();
        let Tables {
            registrations,
            proofs,
            ..
        } = &mut *tables;
        let oldest = registrations
            .range_mut(..before)
            .find(|(round, members)| proofs.contains_key(round) && !members.is_empty());
        let Some((&round, members)) = oldest else {
            return Ok(Removed::Nothing);
        };
        let before = members.len() as u64;
        for _ in 0..count {
            members.pop_first();
        }
        let count = before - members.len() as u64;
        Ok(Removed::Registrations { round, count })
    }

    fn proof(&self, round: u64) -> Result<Option<PublishedProof>, StorageError> {
        Ok(self
            .tables()
            .proofs
            .get(&round)
            .map(|proof| (**proof).clone()))
    }

    fn store_early_proof(
        &self,
        round: u64,
        gap: Duration,
        proof: Arc<PublishedProof>,
    ) -> Result<(), StorageError> {
        match self.tables().early_proofs.insert((round, gap), proof) {
            None => Ok(()),
            Some(_) => Err(StorageError::new("an early proof was there already")),
        }
    }

    fn early_proof(
        &self,
        round: u64,
        gap: Duration,
    ) -> Result<Option<PublishedProof>, StorageError> {
        let tables = self.tables();
        let proof = tables.early_proofs.get(&(round, gap));
        Ok(proof.map(|proof| (**proof).clone()))
    }

    fn early_proofs(
        &self,
        rounds: RangeInclusive<u64>,
    ) -> Result<Vec<EarlyProofRecord>, StorageError> {
        let tables = self.tables();
        let proofs = tables
            .early_proofs
            .range((*rounds.start(), Duration::ZERO)..=(*rounds.end(), Duration::MAX));
        let record = |(&(round, gap), proof): (&(u64, Duration), &Arc<PublishedProof>)| {
            let leaves = proof.leaves;
            EarlyProofRecord { round, gap, leaves }
        };
        Ok(proofs.map(record).collect())
    }
}
