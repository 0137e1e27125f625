//! Proofs ready to send: each is encoded and compressed once, and all responses are sent from the
//! same buffers.

use std::{
    cmp::Reverse,
    collections::VecDeque,
    io::Write as _,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use axum::body::Bytes;
use flate2::{Compression, write::GzEncoder};
use poet_proto::{identity::PublicKey, json, messages::PublishedProof};
use poet_rounds::{
    blocking,
    publish::{ProofId, Publish},
    storage::{Storage, StorageError},
};

use crate::api::proof_frame::proof_frame;

/// How much memory cached proofs may use. The proof of the newest round is always cached, since it
/// is the one that nodes request. With a million members it takes 115 MB.
const KEPT_BYTES: usize = 256 << 20;
/// The limit for cached proofs and those still being sent. Beyond it, no more are read: clients
/// that request many old proofs and do not read them must not fill the memory.
const ALIVE_BYTES: usize = 1 << 30;

/// An encoded proof.
#[derive(Clone, Debug)]
pub(crate) struct EncodedProof {
    /// The JSON response.
    pub json: Bytes,
    /// The compressed JSON response, if the proof has been compressed.
    pub json_gzip: Option<Bytes>,
    /// The gRPC response with its prefix.
    pub grpc: Bytes,
    /// Identifies the content: the root, which binds the statement and so the members.
    pub etag: String,
    /// The same for the compressed response.
    pub etag_gzip: String,
}

impl EncodedProof {
    fn bytes(&self) -> usize {
        self.json.len() + self.json_gzip.as_ref().map_or(0, Bytes::len) + self.grpc.len()
    }
}

/// A buffer that is counted until the last response with it is sent.
struct Counted {
    buffer: Vec<u8>,
    alive: Arc<AtomicUsize>,
}

impl Counted {
    fn bytes(buffer: Vec<u8>, alive: &Arc<AtomicUsize>) -> Bytes {
        alive.fetch_add(buffer.len(), Relaxed);
        let alive = Arc::clone(alive);
        Bytes::from_owner(Self { buffer, alive })
    }
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.alive.fetch_sub(self.buffer.len(), Relaxed);
    }
}

/// Why a proof is not available right now.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProofsError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error("too many old proofs are being sent")]
    TooManySent,
}

/// The published proofs.
pub(crate) struct Proofs {
    storage: Arc<dyn Storage>,
    /// The most recently used one is last.
    kept: Mutex<VecDeque<(ProofId, EncodedProof)>>,
    /// Proofs that are being published: encoded, and perhaps stored already.
    coming: Mutex<Vec<ProofId>>,
    /// The total size of all encoded proofs, cached or still being sent.
    alive: Arc<AtomicUsize>,
    /// Locked while a proof is read, so that concurrent requests for it read it once.
    reading: tokio::sync::Mutex<()>,
}

impl Proofs {
    pub(crate) fn new(storage: Arc<dyn Storage>) -> Self {
        Self {
            storage,
            kept: Mutex::default(),
            coming: Mutex::default(),
            alive: Arc::default(),
            reading: tokio::sync::Mutex::default(),
        }
    }

    /// Encodes a proof without compressing it.
    fn encode(&self, server: &PublicKey, proof: &PublishedProof) -> EncodedProof {
        encode(proof, server.as_bytes(), &self.alive)
    }

    fn compressed(&self, encoded: EncodedProof) -> EncodedProof {
        let json_gzip = Counted::bytes(gzip(&encoded.json), &self.alive);
        EncodedProof {
            json_gzip: Some(json_gzip),
            ..encoded
        }
    }

    fn insert(&self, id: ProofId, encoded: EncodedProof) {
        let mut kept = self.kept();
        kept.retain(|(kept, _)| *kept != id);
        kept.push_back((id, encoded));
        // Of a round's proofs, that for the shortest gap is made last.
        let newest = kept.iter().map(|(id, _)| *id);
        let newest = newest.max_by_key(|id| (id.round, Reverse(id.early)));
        let mut bytes: usize = kept.iter().map(|(_, encoded)| encoded.bytes()).sum();
        while bytes > KEPT_BYTES
            && let Some(place) = kept.iter().position(|(id, _)| Some(*id) != newest)
            && let Some((_, dropped)) = kept.remove(place)
        {
            bytes -= dropped.bytes();
        }
    }

    /// Returns a proof by the server with this key.
    pub(crate) async fn get(
        &self,
        id: ProofId,
        server: &PublicKey,
    ) -> Result<Option<EncodedProof>, ProofsError> {
        if let Some(encoded) = self.find(id) {
            return Ok(Some(encoded));
        }
        if self.coming().contains(&id) {
            // To read and encode it a second time would take seconds, and hold up everybody else.
            return Ok(None);
        }
        let _reading = self.reading.lock().await;
        // The last holder of the lock may have read this very proof.
        if let Some(encoded) = self.find(id) {
            return Ok(Some(encoded));
        }
        if self.alive.load(Relaxed) > ALIVE_BYTES {
            return Err(ProofsError::TooManySent);
        }
        let encoded = blocking(|| {
            let proof = match id.early {
                None => self.storage.proof(id.round)?,
                Some(gap) => self.storage.early_proof(id.round, gap)?,
            };
            Ok::<_, StorageError>(proof.map(|proof| {
                let encoded = self.encode(server, &proof);
                self.compressed(encoded)
            }))
        })?;
        if let Some(encoded) = &encoded {
            self.insert(id, encoded.clone());
        }
        Ok(encoded)
    }

    fn find(&self, id: ProofId) -> Option<EncodedProof> {
        let mut kept = self.kept();
        let place = kept.iter().position(|(kept, _)| *kept == id)?;
        let entry = kept.remove(place)?;
        let encoded = entry.1.clone();
        kept.push_back(entry);
        Some(encoded)
    }

    fn kept(&self) -> MutexGuard<'_, VecDeque<(ProofId, EncodedProof)>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn coming(&self) -> MutexGuard<'_, Vec<ProofId>> {
        self.coming.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A proof that is being published, until it is served or given up.
struct Coming<'a>(&'a Proofs, ProofId);

impl<'a> Coming<'a> {
    fn new(proofs: &'a Proofs, id: ProofId) -> Self {
        proofs.coming().push(id);
        Self(proofs, id)
    }
}

impl Drop for Coming<'_> {
    fn drop(&mut self) {
        let mut coming = self.0.coming();
        if let Some(place) = coming.iter().position(|id| *id == self.1) {
            coming.swap_remove(place);
        }
    }
}

impl Publish for Proofs {
    fn prepare(
        &self,
        id: ProofId,
        server: &PublicKey,
        proof: &PublishedProof,
    ) -> Box<dyn FnOnce() + '_> {
        let coming = Coming::new(self, id);
        let encoded = self.encode(server, proof);
        Box::new(move || {
            self.insert(id, encoded);
            drop(coming);
        })
    }

    fn compress(&self, id: ProofId) {
        let encoded = self.find(id).filter(|proof| proof.json_gzip.is_none());
        if let Some(encoded) = encoded {
            self.insert(id, self.compressed(encoded));
        }
    }
}

fn encode(proof: &PublishedProof, public_key: &[u8; 32], alive: &Arc<AtomicUsize>) -> EncodedProof {
    let hex: String = proof
        .proof
        .root
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let json = json::proof_response(proof, public_key).into_bytes();
    EncodedProof {
        json_gzip: None,
        json: Counted::bytes(json, alive),
        grpc: Counted::bytes(proof_frame(proof, public_key), alive),
        etag: format!("\"{hex}\""),
        etag_gzip: format!("\"{hex}-gzip\""),
    }
}

fn gzip(json: &[u8]) -> Vec<u8> {
    // The content is hashes in base64: only the overhead of base64 can be compressed, at any level.
    let mut encoder = GzEncoder::new(Vec::with_capacity(json.len()), Compression::fast());
    // Writing to memory cannot fail; if it did, the response would be empty.
    drop(encoder.write_all(json));
    let mut compressed = encoder.finish().unwrap_or_default();
    compressed.shrink_to_fit();
    compressed
}

#[cfg(test)]
mod tests {
    use std::{io::Read as _, time::Duration};

    use flate2::read::GzDecoder;
    use poet_engine::Proof;
    use poet_proto::{identity::PrivateKey, member::Challenge};
    use poet_storage::SqliteStorage;

    use poet_rounds::clock::SystemClock;

    use super::*;

    fn published(members: Vec<Challenge>) -> PublishedProof {
        PublishedProof {
            statement: vec![1; 32],
            members,
            odd_members: Vec::new(),
            leaves: 5,
            proof: Proof {
                root: [2; 32],
                proven_leaves: Vec::new(),
                proof_nodes: Vec::new(),
            },
        }
    }

    #[test]
    fn the_compressed_answer_is_the_same_and_shorter() {
        let mut state = 1_u64;
        let mut random = || {
            std::array::from_fn(|_| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                (state >> 56) as u8
            })
        };
        let proof = published((0..1000).map(|_| Challenge(random())).collect());
        let encoded = encode(&proof, &[3; 32], &Arc::default());
        let json_gzip = gzip(&encoded.json);
        let mut json = Vec::new();
        GzDecoder::new(&*json_gzip).read_to_end(&mut json).unwrap();
        assert_eq!(json, encoded.json);
        assert!(json_gzip.len() < encoded.json.len() * 8 / 10);
    }

    /// Whoever asks between the moment at which it is stored and that at which it is served.
    #[test]
    fn a_proof_that_is_being_published_is_not_read_and_encoded_again() {
        let folder = tempfile::tempdir().unwrap();
        let storage = SqliteStorage::open(
            &folder.path().join("poet.sqlite"),
            1,
            Arc::new(SystemClock),
            Arc::new(()),
        )
        .unwrap();
        let storage: Arc<dyn Storage> = Arc::new(storage);
        let server = PrivateKey::generate().unwrap().public();
        let proofs = Proofs::new(Arc::clone(&storage));
        let proof = published(vec![Challenge([1; 32])]);
        let id = ProofId {
            round: 0,
            early: None,
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let get = || runtime.block_on(proofs.get(id, &server)).unwrap();
        runtime.block_on(storage.open_round(0)).unwrap();
        let serve = proofs.prepare(id, &server, &proof);
        storage.publish(0, Arc::new(proof.clone())).unwrap();
        assert!(get().is_none());
        serve();
        let served = get().unwrap();
        assert!(served.json_gzip.is_none(), "somebody waited for this");
        proofs.compress(id);
        let compressed = get().unwrap();
        assert_eq!(served.json.as_ptr(), compressed.json.as_ptr());
        assert!(compressed.json_gzip.is_some());
        // One that is given up is read, if it is stored.
        proofs.kept().clear();
        drop(proofs.prepare(id, &server, &proof));
        assert!(get().is_some());
    }

    #[test]
    fn the_memory_of_kept_proofs_is_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let storage = SqliteStorage::open(
            &folder.path().join("poet.sqlite"),
            1,
            Arc::new(SystemClock),
            Arc::new(()),
        )
        .unwrap();
        let server = PrivateKey::generate().unwrap().public();
        let proofs = Proofs::new(Arc::new(storage));
        let entry = |bytes| EncodedProof {
            json: Counted::bytes(vec![0; bytes], &proofs.alive),
            json_gzip: None,
            grpc: Bytes::new(),
            etag: String::new(),
            etag_gzip: String::new(),
        };
        let id = |round| ProofId { round, early: None };
        let kept = || -> Vec<u64> { proofs.kept().iter().map(|(id, _)| id.round).collect() };
        let alive = || proofs.alive.load(Relaxed);
        for round in 0..4 {
            proofs.insert(id(round), entry(KEPT_BYTES / 3));
        }
        assert_eq!(kept(), [1, 2, 3]);
        assert_eq!(alive(), KEPT_BYTES / 3 * 3);
        proofs.find(id(1));
        proofs.insert(id(4), entry(1000));
        assert_eq!(kept(), [3, 1, 4]);
        // The newest round stays cached, however often others are requested.
        proofs.insert(id(2), entry(KEPT_BYTES));
        assert_eq!(kept(), [4]);
        proofs.insert(id(5), entry(KEPT_BYTES + 1));
        assert_eq!(kept(), [5]);
        proofs.insert(id(0), entry(1000));
        assert_eq!(kept(), [5]);
        // Of the newest round, the proof at its end.
        let early = Some(Duration::from_secs(1));
        proofs.insert(ProofId { round: 5, early }, entry(1000));
        assert_eq!(proofs.kept()[0].0, id(5));
        assert_eq!(kept(), [5]);

        // What is still being sent counts, too, and blocks further reads.
        let sent = Counted::bytes(vec![0; ALIVE_BYTES - KEPT_BYTES], &proofs.alive);
        let part = sent.slice(5..);
        drop(sent);
        let get = |round| {
            let runtime = tokio::runtime::Builder::new_current_thread().build();
            runtime.unwrap().block_on(proofs.get(id(round), &server))
        };
        assert!(matches!(get(9), Err(ProofsError::TooManySent)));
        assert!(get(5).unwrap().is_some());
        drop(part);
        assert!(get(9).unwrap().is_none());
        assert_eq!(alive(), KEPT_BYTES + 1);
    }
}
