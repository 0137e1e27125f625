//! Registration, independent of the transport: who may register for which round, and what the
//! server reports about itself.

use std::{
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use poet_proto::{
    certificate::{CertificateError, CertificateVerifier, Certifier, KeyHint, TrustedKeysError},
    duration::format_go,
    identity::PublicKey,
    messages::{Info, PublishedProof, SubmitRequest, Submitted},
    pow::{self, PowParams},
    receipt::Acknowledged,
};
use tokio::sync::Notify;

use crate::{
    checks::Checks,
    clock::{Clock, time_until},
    counters::{Counters, Published},
    cycle_gaps::{CycleGap, CycleGaps},
    publish::{ProofId, Publish},
    schedule::Schedule,
    storage::{Challenge, Member, NodeId, PowChallenges, Registered, Storage, StorageError},
};

/// How long a registration that arrived as a round closed waits for the next one to open.
const NEXT_ROUND_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a shared storage may lose a proof: a database that takes over lags behind by less.
const MAY_BE_LOST: Duration = Duration::from_secs(10 * 60);

/// Why a registration was refused. The texts are part of the API.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum RegistrationError {
    #[error("invalid public key")]
    PublicKey,
    #[error("invalid signature")]
    Signature,
    #[error("invalid challenge length: {0}, expected 32")]
    ChallengeLength(usize),
    #[error("invalid certificate public key hint")]
    CertificateHint,
    // The line break is the original server's.
    #[error("invalid certificate\n{0}")]
    Certificate(#[from] CertificateError),
    #[error("invalid proof of work parameters")]
    PowParams,
    #[error("invalid proof of work: invalid leading zero bits")]
    Pow,
    #[error("registration by proof of work is switched off: expected a certificate")]
    PowOff,
    #[error("too late to register for the desired round")]
    TooLate,
    #[error("maximum number of round members reached")]
    RoundFull,
    #[error("conflicting registration")]
    Conflict,
    /// It could not be stored, or no round opened in time. The cause is in the log.
    #[error("temporarily unavailable, try again later")]
    Unavailable,
}

/// The round that takes registrations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenRound {
    /// Its number.
    pub round: u64,
    /// Its members so far.
    pub members: u64,
}

/// The rules of registration.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Whether a proof of work suffices.
    pub pow: bool,
    /// Leading zero bits that a proof of work needs.
    pub pow_difficulty: u32,
    /// The maximum number of members in a round.
    pub max_round_members: u64,
    /// Who may certify nodes. `None` accepts proofs of work only.
    pub certifier: Option<Certifier>,
}

/// Registration, and everything else that clients request.
pub struct Registration {
    schedule: Schedule,
    rules: Rules,
    certificates: Option<CertificateVerifier>,
    gaps: CycleGaps,
    clock: Arc<dyn Clock>,
    storage: Arc<dyn Storage>,
    pow: RwLock<PowChallenges>,
    open: Mutex<OpenRound>,
    /// Signals that another round is open. Wakes waiters in the order of arrival, which a `watch`
    /// channel does not.
    opened: Notify,
    publish: Arc<dyn Publish>,
    counters: Arc<dyn Counters>,
    checks: Checks,
    /// The proofs that this server published, kept while a shared storage may lose them.
    published: Mutex<Vec<OwnProof>>,
}

/// A proof that this server has published.
#[derive(Clone)]
struct OwnProof {
    round: u64,
    /// For nodes with this longer cycle gap.
    early: Option<Duration>,
    proof: Arc<PublishedProof>,
    /// When it was published, on the monotonic clock.
    at: Duration,
}

impl Registration {
    /// Creates the registration for `open`, which the storage has opened.
    #[expect(
        clippy::too_many_arguments,
        reason = "each is another thing, and named once"
    )]
    pub(crate) fn new(
        schedule: Schedule,
        rules: Rules,
        gaps: CycleGaps,
        clock: Arc<dyn Clock>,
        storage: Arc<dyn Storage>,
        pow: PowChallenges,
        open: OpenRound,
        publish: Arc<dyn Publish>,
        counters: Arc<dyn Counters>,
        checks: Checks,
    ) -> Self {
        Self {
            schedule,
            certificates: rules.certifier.clone().map(CertificateVerifier::new),
            rules,
            gaps,
            clock,
            pow: RwLock::new(pow),
            open: Mutex::new(open),
            opened: Notify::new(),
            storage,
            publish,
            counters,
            checks,
            published: Mutex::default(),
        }
    }

    /// The schedule of the rounds.
    pub fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// The cycle gaps that get proofs.
    pub fn gaps(&self) -> &CycleGaps {
        &self.gaps
    }

    /// The round that takes registrations.
    pub fn open_round(&self) -> OpenRound {
        *self.open()
    }

    fn open(&self) -> MutexGuard<'_, OpenRound> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes the open round and opens `round`. When this returns, every registration for the
    /// closed round is stored, and there will be no more.
    ///
    /// # Errors
    /// Fails if the storage does; the open round then stays open.
    pub async fn open_next(&self, round: u64) -> Result<(), StorageError> {
        let members = self.storage.open_round(round).await?;
        *self.open() = OpenRound { round, members };
        self.opened.notify_waiters();
        Ok(())
    }

    /// The parameters that a proof of work should use.
    pub fn pow_params(&self) -> PowParams {
        PowParams {
            difficulty: self.rules.pow_difficulty,
            challenge: self.pow_challenges().current.to_vec(),
        }
    }

    fn pow_challenges(&self) -> PowChallenges {
        self.pow
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// What the server reports about itself to nodes with this cycle gap.
    pub fn info<'a>(&'a self, gap: &'a CycleGap) -> Info<'a> {
        Info {
            public_key: gap.public_key(),
            phase_shift: signed(self.schedule.phase_shift()),
            cycle_gap: signed(gap.duration()),
            certifier: self.rules.certifier.as_ref(),
        }
    }

    /// Registers the challenge of a node with this cycle gap for the open round. Returns when the
    /// registration is durable.
    ///
    /// # Errors
    /// Fails if the request breaks a rule. The rules are checked in the order of the protocol.
    pub async fn submit(
        self: &Arc<Self>,
        gap: &CycleGap,
        request: SubmitRequest,
    ) -> Result<Submitted, RegistrationError> {
        let (registration, deadline) = (Arc::clone(self), request.deadline);
        let checked = self.checks.run(move || registration.check(&request)).await;
        let member = checked.unwrap_or(Err(RegistrationError::Unavailable))?;
        self.enter_round(gap, member, deadline).await
    }

    /// Returns whom a request would register, if it keeps the rules that are expensive to check.
    fn check(&self, request: &SubmitRequest) -> Result<Member, RegistrationError> {
        let node_id: NodeId = request
            .pubkey
            .as_slice()
            .try_into()
            .map_err(|_| RegistrationError::PublicKey)?;
        let signed = PublicKey::from_bytes(&node_id.0).is_some_and(|key| {
            key.verifies(&[&request.prefix, &request.challenge], &request.signature)
        });
        if !signed {
            return Err(RegistrationError::Signature);
        }
        // A node cuts or pads every member of a proof to 32 bytes when it rebuilds the statement: a
        // single challenge of another length would invalidate the proof for all members.
        let challenge: Challenge = request
            .challenge
            .as_slice()
            .try_into()
            .map_err(|_| RegistrationError::ChallengeLength(request.challenge.len()))?;
        let hint: Option<KeyHint> = match request.certificate_pubkey_hint.as_slice() {
            [] => None,
            bytes => Some(
                bytes
                    .try_into()
                    .map_err(|_| RegistrationError::CertificateHint)?,
            ),
        };
        match (&self.certificates, &request.certificate) {
            (Some(verifier), Some(certificate)) => {
                let verified = verifier.verify(certificate, hint, node_id, self.clock.now());
                self.counters
                    .registration_with_certificate(verified.is_ok());
                verified?;
            }
            _ if self.rules.pow => {
                let checked = self.check_pow(request, node_id, challenge);
                self.counters.registration_with_pow(checked.is_ok());
                checked?;
            }
            // Not the error for a bad certificate: nodes expect that one only if they sent one.
            _ => return Err(RegistrationError::PowOff),
        }
        Ok(Member { node_id, challenge })
    }

    fn check_pow(
        &self,
        request: &SubmitRequest,
        node_id: NodeId,
        challenge: Challenge,
    ) -> Result<(), RegistrationError> {
        let params = &request.pow_params;
        let challenges = self.pow_challenges();
        let known = params.challenge == challenges.current
            || challenges
                .previous
                .is_some_and(|previous| params.challenge == previous);
        if params.difficulty != self.rules.pow_difficulty || !known {
            return Err(RegistrationError::PowParams);
        }
        if !pow::is_valid(params, node_id, &challenge.0, request.nonce) {
            return Err(RegistrationError::Pow);
        }
        Ok(())
    }

    async fn enter_round(
        &self,
        gap: &CycleGap,
        member: Member,
        deadline: Option<Timestamp>,
    ) -> Result<Submitted, RegistrationError> {
        loop {
            let round = self.open_round().round;
            let end = self.schedule.end_before(round, gap.duration());
            if deadline.is_some_and(|deadline| deadline < end) {
                return Err(RegistrationError::TooLate);
            }
            // The round has started and is about to close: this is for the next one. If that does
            // not open, the request fails rather than name a round that may be over.
            if self.clock.now() >= self.schedule.start(round) {
                self.await_opening_after(round).await?;
                continue;
            }
            let max_members = self.rules.max_round_members;
            match self.storage.register(round, member, max_members).await {
                Ok(outcome @ (Registered::New | Registered::Already)) => {
                    if outcome == Registered::New {
                        self.count_member(round);
                    }
                    return self.acknowledge(gap, round, member, end).await;
                }
                Ok(Registered::Conflict) => return Err(RegistrationError::Conflict),
                Ok(Registered::Full) => return Err(RegistrationError::RoundFull),
                // The round closed meanwhile: this is for the next one, which ends later.
                Ok(Registered::Closed) => self.await_opening_after(round).await?,
                Err(error) => {
                    // The storage logs the reason, once a minute rather than once a request.
                    tracing::debug!(%error, round, "cannot store a registration");
                    return Err(RegistrationError::Unavailable);
                }
            }
        }
    }

    /// Returns the answer for a stored member of `round`, signed with the key that nodes with its
    /// gap know.
    async fn acknowledge(
        &self,
        gap: &CycleGap,
        round: u64,
        member: Member,
        end: Timestamp,
    ) -> Result<Submitted, RegistrationError> {
        let now = self.clock.now();
        let acknowledged = Acknowledged {
            round,
            node_id: member.node_id,
            challenge: member.challenge,
            time: now,
            round_end: end,
        };
        let receipt = gap.signer().sign(acknowledged).await;
        Ok(Submitted {
            round,
            time_to_end: end.duration_since(now),
            // The registration is stored; a repeated request gets another receipt.
            receipt: receipt.ok_or(RegistrationError::Unavailable)?,
        })
    }

    /// Waits until the open round is not `round`.
    async fn await_opening_after(&self, round: u64) -> Result<(), RegistrationError> {
        let mut opened = pin!(self.opened.notified());
        // From here on, no opening is missed.
        opened.as_mut().enable();
        if self.open_round().round != round {
            return Ok(());
        }
        tokio::time::timeout(NEXT_ROUND_TIMEOUT, opened)
            .await
            .map_err(|_| RegistrationError::Unavailable)
    }

    fn count_member(&self, round: u64) {
        let mut open = self.open();
        if open.round == round {
            open.members += 1;
        }
    }

    /// Reads what other servers of the same storage have changed: members and challenges. May
    /// block.
    ///
    /// # Errors
    /// Fails if the storage does.
    pub fn look_at_storage(&self) -> Result<(), StorageError> {
        self.look_at_published()?;
        if let Some(challenges) = self.storage.pow_challenges()? {
            *self.pow.write().unwrap_or_else(PoisonError::into_inner) = challenges;
        }
        let round = self.open_round().round;
        let members = self.storage.member_count(round)?;
        let mut open = self.open();
        if open.round == round {
            open.members = members;
        }
        Ok(())
    }

    fn published(&self) -> MutexGuard<'_, Vec<OwnProof>> {
        self.published
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers a proof that this server has published, if the storage may lose it.
    fn remember(&self, round: u64, early: Option<Duration>, proof: Arc<PublishedProof>) {
        if self.storage.shared() {
            let at = self.clock.monotonic();
            self.published().push(OwnProof {
                round,
                early,
                proof,
                at,
            });
        }
    }

    /// Publishes proofs again that a shared storage has lost, because a database took over that did not
    /// have them yet. May block.
    fn look_at_published(&self) -> Result<(), StorageError> {
        let now = self.clock.monotonic();
        let published = {
            let mut published = self.published();
            published.retain(|proof| now.saturating_sub(proof.at) <= MAY_BE_LOST);
            published.clone()
        };
        for OwnProof {
            round,
            early,
            proof,
            ..
        } in published
        {
            // The storage may have lost even the round, until it is opened again.
            let Some(record) = self.storage.round(round)? else {
                continue;
            };
            let stored = match early {
                None => record.published.map(|record| record.leaves),
                Some(gap) => (self.storage.early_proofs(round..=round)?.iter())
                    .find(|record| record.gap == gap)
                    .map(|record| record.leaves),
            };
            let cycle_gap = early.map(format_go);
            match stored {
                Some(leaves) if leaves == proof.leaves => continue,
                Some(leaves) => {
                    tracing::error!(
                        round,
                        cycle_gap,
                        leaves = proof.leaves,
                        stored = leaves,
                        "ALARM: the storage has another proof than the one that this server has published"
                    );
                    (self.published()).retain(|proof| (proof.round, proof.early) != (round, early));
                    continue;
                }
                None => tracing::error!(
                    round,
                    cycle_gap,
                    "ALARM: the storage has lost the proof that this server has published, and gets it \
                     again"
                ),
            }
            match early {
                Some(gap) => self.storage.store_early_proof(round, gap, proof)?,
                None => {
                    let challenges = self.storage.publish(round, proof)?;
                    *self.pow.write().unwrap_or_else(PoisonError::into_inner) = challenges;
                }
            }
        }
        Ok(())
    }

    /// Reads the directory of trusted certifier keys again. May block.
    ///
    /// # Errors
    /// Fails if there is none, or something in it cannot be used; the keys are then unchanged.
    pub fn reload_trusted_keys(&self) -> Result<(), TrustedKeysError> {
        let reloaded = match &self.certificates {
            Some(verifier) => verifier.reload(),
            None => Err(TrustedKeysError::NoFolder),
        };
        match &reloaded {
            Ok(keys) => tracing::info!(keys, "trusted keys reloaded"),
            Err(error) => tracing::error!("the trusted keys are unchanged: {error}"),
        }
        reloaded.map(drop)
    }

    /// Counts that a round closed with this many members.
    pub(crate) fn count_closed(&self, round: u64, members: u64) {
        self.counters.closed(round, members);
    }

    /// Publishes the proof of a round and replaces the challenge of the proof of work. Nodes with a
    /// longer cycle gap that have no proof yet get the same one. May block.
    ///
    /// # Errors
    /// Fails if the storage does; the proof is then not published.
    pub fn publish(&self, round: u64, proof: Arc<PublishedProof>) -> Result<(), StorageError> {
        let published = proof
            .root()
            .is_some()
            .then_some((proof.leaves, proof.members.len()));
        // A longer cycle gap whose proof the storage has lost gets that one again, and no other.
        self.look_at_published()?;
        for gap in self.gaps_without_proof(round)? {
            if let Err(error) = self.publish_early(round, gap, Arc::clone(&proof)) {
                // Another server may have been first here as well.
                let missing = self.gaps_without_proof(round)?;
                if missing.iter().any(|missing| missing.early() == gap.early()) {
                    return Err(error);
                }
            }
        }
        let own = self.gaps.own();
        // Prepared before any client can request it.
        let serve = self.prepare(round, own, &proof);
        let challenges = match self.storage.publish(round, Arc::clone(&proof)) {
            Ok(challenges) => challenges,
            Err(error) => {
                // Another server may have been first: its proof counts.
                let theirs = self.storage.shared()
                    && (self.storage.round(round)?).is_some_and(|round| round.published.is_some());
                if !theirs {
                    return Err(error);
                }
                tracing::info!(round, "another server has published the proof");
                return self.look_at_storage();
            }
        };
        serve();
        if let Some((leaves, members)) = published {
            self.counters.published(&Published {
                round,
                leaves,
                members: members as u64,
                late: time_until(self.schedule.end(round), self.clock.now()),
            });
        }
        *self.pow.write().unwrap_or_else(PoisonError::into_inner) = challenges;
        self.remember(round, None, proof);
        Ok(())
    }

    /// Returns the longer cycle gaps that have no proof of a round yet, ordered by their ends. May
    /// block.
    pub(crate) fn gaps_without_proof(&self, round: u64) -> Result<Vec<&CycleGap>, StorageError> {
        if self.gaps.early().is_empty() {
            return Ok(Vec::new());
        }
        let stored = self.storage.early_proofs(round..=round)?;
        let missing = |gap: &&CycleGap| stored.iter().all(|proof| proof.gap != gap.duration());
        Ok(self.gaps.early().iter().filter(missing).collect())
    }

    /// Publishes the proof of a round for nodes with this longer cycle gap. May block.
    pub(crate) fn publish_early(
        &self,
        round: u64,
        gap: &CycleGap,
        proof: Arc<PublishedProof>,
    ) -> Result<(), StorageError> {
        let serve = self.prepare(round, gap, &proof);
        self.storage
            .store_early_proof(round, gap.duration(), Arc::clone(&proof))?;
        serve();
        self.remember(round, Some(gap.duration()), proof);
        Ok(())
    }

    /// Compresses the proofs of a round that this server has published. May block.
    pub(crate) fn compress(&self, round: u64) {
        for gap in self.gaps.all() {
            let early = gap.early();
            self.publish.compress(ProofId { round, early });
        }
    }

    /// Prepares a proof. Calling the returned function publishes it.
    pub(crate) fn prepare(
        &self,
        round: u64,
        gap: &CycleGap,
        proof: &PublishedProof,
    ) -> Box<dyn FnOnce() + '_> {
        let early = gap.early();
        (self.publish).prepare(ProofId { round, early }, gap.public_key(), proof)
    }
}

fn signed(duration: Duration) -> SignedDuration {
    SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX)
}
