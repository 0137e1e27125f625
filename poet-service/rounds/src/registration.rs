//! Registration, whatever the transport: who may register for which round, and what the server tells
//! about itself.

use std::{
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use poet_proto::{
    certificate::{CertificateError, Certifier, KeyHint, TrustedKeysError},
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

/// How long a registration that met the closing of a round waits for the next one to open.
const NEXT_ROUND_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a shared storage may lose a proof: no database lags behind another one more and takes over.
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
    /// It could not be stored, or no round opened in time. The cause has been logged.
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
    /// Whether a proof of work is enough.
    pub pow: bool,
    /// Leading zero bits that a proof of work must have.
    pub pow_difficulty: u32,
    /// The most members of a round.
    pub max_round_members: u64,
    /// Who may certify nodes; without one, only proofs of work are looked at.
    pub certifier: Option<Certifier>,
}

/// Registration and everything else that clients ask for.
pub struct Registration {
    schedule: Schedule,
    rules: Rules,
    gaps: CycleGaps,
    clock: Arc<dyn Clock>,
    storage: Arc<dyn Storage>,
    pow: RwLock<PowChallenges>,
    open: Mutex<OpenRound>,
    /// Another round is open. Those who wait go on in the order in which they came, which a
    /// `watch` channel would not keep.
    opened: Notify,
    publish: Arc<dyn Publish>,
    counters: Arc<dyn Counters>,
    checks: Checks,
    /// The proofs that this server has published, for as long as a shared storage may lose them.
    published: Mutex<Vec<OwnProof>>,
}

/// A proof that this server has published.
#[derive(Clone)]
struct OwnProof {
    round: u64,
    /// For nodes with this longer cycle gap.
    early: Option<Duration>,
    proof: Arc<PublishedProof>,
    at: Duration,
}

impl Registration {
    /// Registration for `open`, which the storage has opened.
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

    /// The cycle gaps that there are proofs for.
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

    /// Closes the open round and opens `round`. When this returns, all that was registered for
    /// the closed round is stored, and nothing will be added to it.
    ///
    /// # Errors
    /// When the storage fails; the open round then stays open.
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

    /// What the server tells nodes with this cycle gap about itself.
    pub fn info<'a>(&'a self, gap: &'a CycleGap) -> Info<'a> {
        Info {
            public_key: gap.public_key(),
            phase_shift: signed(self.schedule.phase_shift()),
            cycle_gap: signed(gap.duration()),
            certifier: self.rules.certifier.as_ref(),
        }
    }

    /// Registers a challenge of a node with this cycle gap for the open round. Returns when the
    /// registration is durable.
    ///
    /// # Errors
    /// When the request breaks a rule; the rules are checked in the order of the API.
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

    /// Who a request would register, if it keeps the rules that cost a computation.
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
        // A node cuts or pads every member of a proof to 32 bytes when it rebuilds the statement,
        // so a single challenge of another length would spoil the proof for all members.
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
        match (&self.rules.certifier, &request.certificate) {
            (Some(certifier), Some(certificate)) => {
                let verified = certifier.verify(certificate, hint, node_id, self.clock.now());
                self.counters
                    .registration_with_certificate(verified.is_ok());
                verified?;
            }
            _ if self.rules.pow => {
                let checked = self.check_pow(request, node_id, challenge);
                self.counters.registration_with_pow(checked.is_ok());
                checked?;
            }
            // Not the error of a bad certificate: nodes expect that one only if they sent one.
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
            // Its start has passed, and it closes: this is for the next one. Where that does not open,
            // nobody is told that he is a member of a round that may be over.
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
                // The round closed on the way: this is for the next one, whose end is later.
                Ok(Registered::Closed) => self.await_opening_after(round).await?,
                Err(error) => {
                    // The storage logs why, once a minute and not for each.
                    tracing::debug!(%error, round, "cannot store a registration");
                    return Err(RegistrationError::Unavailable);
                }
            }
        }
    }

    /// The answer for a member of `round` that is stored, signed with the key that nodes with its gap
    /// know.
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
            // It is stored; to ask again gives another receipt.
            receipt: receipt.ok_or(RegistrationError::Unavailable)?,
        })
    }

    /// Waits for a round other than `round` to be open.
    async fn await_opening_after(&self, round: u64) -> Result<(), RegistrationError> {
        let mut opened = pin!(self.opened.notified());
        // From here on no opening is missed.
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

    /// Takes over what other servers of the same storage have changed: members and challenges. May block.
    ///
    /// # Errors
    /// When the storage fails.
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

    /// Takes note that this server has published a proof, if the storage may lose it.
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

    /// Publishes proofs again that a shared storage has lost, because a database has taken over that had not
    /// got them yet. May block.
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
    /// When there is none, or something in it cannot be used; the keys then stay as they were.
    pub fn reload_trusted_keys(&self) -> Result<(), TrustedKeysError> {
        let reloaded = match &self.rules.certifier {
            Some(certifier) => certifier.trusted.reload(),
            None => Err(TrustedKeysError::NoFolder),
        };
        match &reloaded {
            Ok(keys) => tracing::info!(keys, "trusted keys reloaded"),
            Err(error) => tracing::error!("the trusted keys are unchanged: {error}"),
        }
        reloaded.map(drop)
    }

    /// Counts that a round was closed, with so many members.
    pub(crate) fn count_closed(&self, round: u64, members: u64) {
        self.counters.closed(round, members);
    }

    /// Publishes the proof of a round and rotates the challenge of the proof of work. Nodes with a
    /// longer cycle gap for which there is no proof yet get the same one. May block.
    ///
    /// # Errors
    /// When the storage fails; this proof is not published then.
    pub fn publish(&self, round: u64, proof: Arc<PublishedProof>) -> Result<(), StorageError> {
        let published = proof
            .root()
            .is_some()
            .then_some((proof.leaves, proof.members.len()));
        for gap in self.gaps_without_proof(round)? {
            if let Err(error) = self.publish_early(round, gap, Arc::clone(&proof)) {
                // Another server may have been first, here too.
                let missing = self.gaps_without_proof(round)?;
                if missing.iter().any(|missing| missing.early() == gap.early()) {
                    return Err(error);
                }
            }
        }
        let own = self.gaps.own();
        // Prepared before anybody can ask for it.
        let serve = self.prepare(round, own, &proof);
        let challenges = match self.storage.publish(round, Arc::clone(&proof)) {
            Ok(challenges) => challenges,
            Err(error) => {
                // Another server may have been first: then its proof is the one that counts.
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

    /// The longer cycle gaps for which a round has no proof yet, in the order of their ends. May block.
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

    /// Prepares a proof; it is published when what this returns is called.
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
