//! The memory that incomplete requests may use, per address and in total.
//!
//! A request costs memory from its headers on, long before it is known whether it is valid:
//! thousands of connections with many incomplete requests each would fill the memory. So each
//! request is charged for its headers, for the body as it arrives, and for overhead; what exceeds
//! the budget is refused. Every address is granted a little, whatever the others use.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use axum::http::HeaderMap;

use super::client::Network;

/// The limit for all requests to an interface.
const ALL_BYTES: usize = 80 << 20;
/// The limit for one address: enough for 10,000 registrations at once.
const NETWORK_BYTES: usize = 56 << 20;
/// What an address may use even if nothing is left.
const GRANTED_BYTES: usize = 16 << 10;
/// What a request uses besides its headers and its body: tasks, buffers.
const REQUEST_BYTES: usize = 4 << 10;
/// The same for a gRPC stream, which uses it for as long as it is open.
const STREAM_BYTES: usize = 32 << 10;
/// What a header uses besides its name and its value.
const HEADER_BYTES: usize = 64;

/// The budget of an interface.
#[derive(Debug, Default)]
pub(crate) struct Budget(Mutex<Charged>);

#[derive(Debug, Default)]
struct Charged {
    all: usize,
    /// The highest total since it was last read.
    highest: usize,
    per_network: HashMap<Network, usize>,
}

/// The budget is used up.
#[derive(Debug, thiserror::Error)]
#[error("too much is being received")]
pub(super) struct OverBudget;

impl Budget {
    /// Charges a request for its headers. Requests through a proxy, `None`, come from many clients
    /// and have no limit of their own.
    pub(super) fn charge(
        self: &Arc<Self>,
        network: Option<Network>,
        headers: &HeaderMap,
        is_stream: bool,
    ) -> Result<Charge, OverBudget> {
        let kept = match is_stream {
            true => STREAM_BYTES,
            false => REQUEST_BYTES,
        };
        let headers = headers
            .iter()
            .map(|(name, value)| name.as_str().len() + value.len() + HEADER_BYTES);
        let charge = Charge(Arc::new(Request {
            budget: Arc::clone(self),
            network,
            kept,
            bytes: AtomicUsize::new(0),
        }));
        charge.grow(kept + headers.sum::<usize>())?;
        Ok(charge)
    }

    /// Returns the highest total since the last call.
    pub(super) fn take_highest(&self) -> usize {
        let mut charged = self.lock();
        let all = charged.all;
        std::mem::replace(&mut charged.highest, all)
    }

    fn lock(&self) -> MutexGuard<'_, Charged> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one request is charged, until the last copy of this is dropped.
#[derive(Clone, Debug)]
pub(super) struct Charge(Arc<Request>);

#[derive(Debug)]
struct Request {
    budget: Arc<Budget>,
    network: Option<Network>,
    /// The part that remains until the response is complete.
    kept: usize,
    bytes: AtomicUsize,
}

impl Charge {
    /// Charges `bytes` more.
    pub(super) fn grow(&self, bytes: usize) -> Result<(), OverBudget> {
        let mut charged = self.0.budget.lock();
        let all = charged.all + bytes;
        if let Some(network) = self.0.network {
            let before = charged.per_network.get(&network).copied().unwrap_or(0);
            let its_own = before + bytes;
            let granted = its_own <= GRANTED_BYTES;
            if !granted && (its_own > NETWORK_BYTES || all > ALL_BYTES) {
                return Err(OverBudget);
            }
            charged.per_network.insert(network, its_own);
        } else if all > ALL_BYTES {
            return Err(OverBudget);
        }
        charged.all = all;
        charged.highest = charged.highest.max(all);
        self.0.bytes.fetch_add(bytes, Relaxed);
        Ok(())
    }

    /// Returns what headers and body were charged.
    pub(super) fn settle(&self) {
        let mut charged = self.0.budget.lock();
        let bytes = self.0.bytes.load(Relaxed);
        let over = bytes.saturating_sub(self.0.kept);
        self.0.bytes.store(bytes - over, Relaxed);
        charged.give_back(self.0.network, over);
    }
}

impl Charged {
    fn give_back(&mut self, network: Option<Network>, bytes: usize) {
        self.all -= bytes;
        if let Some(network) = network
            && let Entry::Occupied(mut its_own) = self.per_network.entry(network)
        {
            *its_own.get_mut() -= bytes;
            if *its_own.get() == 0 {
                its_own.remove();
            }
        }
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        let bytes = self.bytes.load(Relaxed);
        self.budget.lock().give_back(self.network, bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(last: u8) -> Option<Network> {
        Some(Network::of([192, 0, 2, last].into()))
    }

    /// Charges as much as possible. Returns the number of whole megabytes.
    fn fill(budget: &Arc<Budget>, network: Option<Network>) -> (Vec<Charge>, usize) {
        let charge = budget.charge(network, &HeaderMap::new(), false).unwrap();
        let mut megabytes = 0;
        while charge.grow(1 << 20).is_ok() {
            megabytes += 1;
        }
        for bytes in [1 << 10, 1] {
            while charge.grow(bytes).is_ok() {}
        }
        (vec![charge], megabytes)
    }

    #[test]
    fn one_address_leaves_something_for_others_and_everybody_has_a_little() {
        let budget = Arc::new(Budget::default());
        let (one, megabytes) = fill(&budget, network(1));
        assert_eq!(megabytes, 55);
        let (two, megabytes) = fill(&budget, network(2));
        assert_eq!(megabytes, 23);
        // The budget is used up.
        let (_three, megabytes) = fill(&budget, network(3));
        assert_eq!(megabytes, 0);
        let small: Vec<_> = (0..10)
            .map_while(|_| budget.charge(network(4), &HeaderMap::new(), false).ok())
            .collect();
        assert_eq!(small.len(), GRANTED_BYTES / REQUEST_BYTES);
        drop(one);
        let (_one, megabytes) = fill(&budget, network(1));
        assert_eq!(megabytes, 55);
        drop((two, small));
    }

    #[test]
    fn what_is_charged_is_given_back() {
        let budget = Arc::new(Budget::default());
        let mut headers = HeaderMap::new();
        headers.insert("x-name", "0123456789".parse().unwrap());
        let charge = budget.charge(network(1), &headers, false).unwrap();
        let charged = || budget.lock().all;
        assert_eq!(charged(), REQUEST_BYTES + HEADER_BYTES + 16);
        let copy = charge.clone();
        copy.grow(1000).unwrap();
        assert_eq!(charged(), REQUEST_BYTES + HEADER_BYTES + 1016);
        charge.settle();
        charge.settle();
        assert_eq!(charged(), REQUEST_BYTES);
        drop(charge);
        assert_eq!(charged(), REQUEST_BYTES);
        drop(copy);
        assert_eq!(charged(), 0);
        assert!(budget.lock().per_network.is_empty());
        let stream = budget.charge(network(1), &headers, true).unwrap();
        stream.settle();
        assert_eq!(charged(), STREAM_BYTES);
        drop(stream);
        // A proxy stands for many clients.
        let (proxied, megabytes) = fill(&budget, None);
        assert_eq!(megabytes, 79);
        drop(proxied);
        assert_eq!(charged(), 0);
    }
}
