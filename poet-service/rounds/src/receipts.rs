//! Signs receipts. Receipts that become due together, because one commit stored their
//! registrations, share one signature.

use std::{
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
};

use poet_proto::{
    identity::PrivateKey,
    receipt::{Acknowledged, Receipt},
};
use tokio::sync::oneshot;

/// Signs receipts with one key.
pub(crate) struct ReceiptSigner {
    key: PrivateKey,
    waiting: Mutex<Vec<Waiting>>,
}

struct Waiting {
    acknowledged: Acknowledged,
    reply: oneshot::Sender<Receipt>,
}

impl ReceiptSigner {
    pub(crate) fn new(key: PrivateKey) -> Self {
        Self {
            key,
            waiting: Mutex::default(),
        }
    }

    /// Signs an acknowledgement.
    pub(crate) async fn sign(&self, acknowledged: Acknowledged) -> Option<Receipt> {
        let (reply, receipt) = oneshot::channel();
        let first = {
            let mut waiting = self.waiting();
            waiting.push(Waiting {
                acknowledged,
                reply,
            });
            waiting.len() == 1
        };
        if first {
            // Signs for all, even if this future is dropped: later requests rely on it.
            let _leader = Leader(self);
            // Other requests that the same commit has woken run now.
            tokio::task::yield_now().await;
        }
        receipt.await.ok()
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The first request in the queue. When it is dropped, it signs for all of them.
struct Leader<'a>(&'a ReceiptSigner);

impl Drop for Leader<'_> {
    fn drop(&mut self) {
        let waiting = std::mem::take(&mut *self.0.waiting());
        let acknowledged: Vec<_> = waiting.iter().map(|one| one.acknowledged).collect();
        let receipts = Receipt::sign(&acknowledged, &self.0.key);
        for (one, receipt) in waiting.into_iter().zip(receipts) {
            // The receiver may be gone.
            drop(one.reply.send(receipt));
        }
    }
}

/// Shows no secret.
impl fmt::Debug for ReceiptSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReceiptSigner").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, task::Context};

    use jiff::Timestamp;
    use poet_proto::member::{Challenge, NodeId};

    use super::*;

    fn acknowledged(round: u64) -> Acknowledged {
        Acknowledged {
            round,
            node_id: NodeId([1; 32]),
            challenge: Challenge([2; 32]),
            time: Timestamp::UNIX_EPOCH,
            round_end: Timestamp::UNIX_EPOCH,
        }
    }

    #[tokio::test]
    async fn those_of_a_moment_share_a_signature() {
        let signer = Arc::new(ReceiptSigner::new(PrivateKey::generate().unwrap()));
        let asked: Vec<_> = (0..100)
            .map(|round| {
                let signer = Arc::clone(&signer);
                tokio::spawn(async move { signer.sign(acknowledged(round)).await })
            })
            .collect();
        let mut signatures = Vec::new();
        for (asked, round) in asked.into_iter().zip(0..) {
            let receipt = asked.await.unwrap().unwrap();
            assert_eq!(receipt.acknowledged().round, round);
            let json = serde_json::to_value(&receipt).unwrap();
            assert_eq!(Receipt::from_json(&json), Ok(receipt.clone()));
            signatures.push(*receipt.signature());
        }
        signatures.dedup();
        assert_eq!(signatures.len(), 1);
        // A single request is signed alone.
        let alone = signer.sign(acknowledged(7)).await.unwrap();
        assert!(alone.path().is_empty());
    }

    #[tokio::test]
    async fn nobody_waits_for_a_client_that_has_gone() {
        let signer = ReceiptSigner::new(PrivateKey::generate().unwrap());
        let mut first = Box::pin(signer.sign(acknowledged(1)));
        let mut second = Box::pin(signer.sign(acknowledged(2)));
        let waker = std::task::Waker::noop();
        let mut context = Context::from_waker(waker);
        assert!(first.as_mut().poll(&mut context).is_pending());
        assert!(second.as_mut().poll(&mut context).is_pending());
        drop(first);
        let receipt = second.await.unwrap();
        assert_eq!(receipt.acknowledged().round, 2);
        // The next request leads again.
        assert!(signer.sign(acknowledged(3)).await.is_some());
    }
}
