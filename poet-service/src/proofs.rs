//! Proofs ready to be sent: each is encoded once, and all who ask get the same buffer.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::body::Bytes;

use crate::{
    api::{grpc, json},
    storage::{PublishedProof, Storage, StorageError},
};

/// Encoded proofs kept in memory. Nodes ask for the newest one; of a round with a million members
/// it takes 81 MB.
const KEPT: usize = 2;

/// A proof as it goes over the wire.
#[derive(Clone, Debug)]
pub struct EncodedProof {
    /// The JSON answer.
    pub json: Bytes,
    /// The gRPC answer with what stands before it on the wire.
    pub grpc: Bytes,
    /// Names its content: the root, which binds the statement and with it the members.
    pub etag: String,
}

/// The published proofs.
pub(crate) struct Proofs {
    storage: Arc<dyn Storage>,
    public_key: [u8; 32],
    /// The most recently used one is last.
    kept: Mutex<VecDeque<(u64, EncodedProof)>>,
    /// Held while a proof is read, so that a crowd that asks for the same one costs one reading.
    reading: tokio::sync::Mutex<()>,
}

impl Proofs {
    pub(crate) fn new(storage: Arc<dyn Storage>, public_key: [u8; 32]) -> Self {
        Self {
            storage,
            public_key,
            kept: Mutex::default(),
            reading: tokio::sync::Mutex::default(),
        }
    }

    pub(crate) fn encode(&self, proof: &PublishedProof) -> EncodedProof {
        encode(proof, &self.public_key)
    }

    pub(crate) fn insert(&self, round: u64, encoded: EncodedProof) {
        let mut kept = self.kept();
        kept.push_back((round, encoded));
        if kept.len() > KEPT {
            kept.pop_front();
        }
    }

    pub(crate) async fn get(&self, round: u64) -> Result<Option<EncodedProof>, StorageError> {
        if let Some(encoded) = self.find(round) {
            return Ok(Some(encoded));
        }
        let _reading = self.reading.lock().await;
        // Whoever had the lock before may have read this very proof.
        if let Some(encoded) = self.find(round) {
            return Ok(Some(encoded));
        }
        let (storage, public_key) = (Arc::clone(&self.storage), self.public_key);
        let encoded = tokio::task::spawn_blocking(move || {
            Ok(storage
                .proof(round)?
                .map(|proof| encode(&proof, &public_key)))
        })
        .await
        .map_err(|_| StorageError::Stopped)
        .flatten()?;
        if let Some(encoded) = &encoded {
            self.insert(round, encoded.clone());
        }
        Ok(encoded)
    }

    fn find(&self, round: u64) -> Option<EncodedProof> {
        let mut kept = self.kept();
        let place = kept.iter().position(|(kept, _)| *kept == round)?;
        let entry = kept.remove(place)?;
        let encoded = entry.1.clone();
        kept.push_back(entry);
        Some(encoded)
    }

    fn kept(&self) -> MutexGuard<'_, VecDeque<(u64, EncodedProof)>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn encode(proof: &PublishedProof, public_key: &[u8; 32]) -> EncodedProof {
    let hex: String = proof
        .proof
        .root
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    EncodedProof {
        json: Bytes::from(json::proof_response(proof, public_key)),
        grpc: grpc::proof_frame(proof, public_key),
        etag: format!("\"{hex}\""),
    }
}
