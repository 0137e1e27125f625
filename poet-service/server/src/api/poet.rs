//! The state from which requests are answered.

use std::{ops::Deref, sync::Arc};

use poet_proto::messages::{Info, SubmitRequest, Submitted};
use poet_rounds::{
    cycle_gaps::CycleGap,
    publish::ProofId,
    registration::{Registration, RegistrationError},
};

use super::error::ApiError;
use crate::proofs::{EncodedProof, Proofs};

/// The state from which requests of nodes with one cycle gap are answered: registration and proofs.
pub struct Poet {
    registration: Arc<Registration>,
    proofs: Arc<Proofs>,
    gap: CycleGap,
}

impl Deref for Poet {
    type Target = Registration;

    fn deref(&self) -> &Registration {
        &self.registration
    }
}

impl Poet {
    pub(crate) fn new(registration: Arc<Registration>, proofs: Arc<Proofs>, gap: CycleGap) -> Self {
        Self {
            registration,
            proofs,
            gap,
        }
    }

    /// Returns what the server reports about itself.
    pub(crate) fn info(&self) -> Info<'_> {
        self.registration.info(&self.gap)
    }

    /// Registers a challenge for the open round. Returns when the registration is durable.
    ///
    /// # Errors
    /// Fails if the request breaks a rule.
    pub(crate) async fn submit(
        &self,
        request: SubmitRequest,
    ) -> Result<Submitted, RegistrationError> {
        self.registration.submit(&self.gap, request).await
    }

    /// Returns the proof of a round by the id that clients use: the decimal number.
    ///
    /// # Errors
    /// [`ApiError::ProofNotFound`] for anything that is not the id of a published round.
    pub(crate) async fn proof(&self, id: &str) -> Result<EncodedProof, ApiError> {
        let round = parse_round(id).ok_or(ApiError::ProofNotFound)?;
        let early = self.gap.early();
        let id = ProofId { round, early };
        match self.proofs.get(id, self.gap.public_key()).await {
            Ok(proof) => proof.ok_or(ApiError::ProofNotFound),
            Err(error) => {
                tracing::error!(%error, round, "cannot read a proof");
                Err(ApiError::Unavailable)
            }
        }
    }

    /// Reads the directory of trusted certifier keys again.
    ///
    /// # Errors
    /// Fails if there is none, or something in it cannot be used; the keys are then unchanged.
    pub(crate) async fn reload_trusted_keys(&self) -> Result<(), ApiError> {
        let registration = Arc::clone(&self.registration);
        tokio::task::spawn_blocking(move || registration.reload_trusted_keys())
            .await
            .map_err(|_| ApiError::Internal)?
            .map_err(|error| ApiError::TrustedKeys(error.to_string()))
    }
}

/// Returns the number of the round with this id. Each round has one id: 7 is valid, +7 and 07 are
/// not.
pub(crate) fn parse_round(id: &str) -> Option<u64> {
    id.parse()
        .ok()
        .filter(|round: &u64| round.to_string() == id)
}
