//! The connections that a listener may have: shares of addresses, and which connection makes room.

use std::{
    cmp::Reverse,
    collections::{HashMap, VecDeque, hash_map::Entry},
    io::ErrorKind,
    mem::MaybeUninit,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use poet_rounds::clock::Clock;
use socket2::SockRef;
use tokio::{
    net::TcpStream,
    sync::{Notify, Semaphore},
};

use super::{
    client::{Network, TrustedProxies},
    connection::{Activity, Progress, Standing},
    dropped::Dropped,
    patience::Patience,
};

/// How long a connection remains after it was accepted or active.
const MIN_STAY: Duration = Duration::from_secs(2);
/// How long to wait for a connection to end before asking another one.
const ROOM_INTERVAL: Duration = Duration::from_millis(100);
/// The number of connections to choose at once, which then make room one by one.
const MAX_CHOSEN: usize = 32;
/// How long that choice is valid.
const CHOICE_TIMEOUT: Duration = Duration::from_millis(200);
/// How many newcomers beyond the share of their address may wait for one of its connections to end.
const MAX_WAITING: usize = 128;

/// The maximum number of connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ConnectionLimits {
    /// Of a listener. More connections wait to be accepted.
    pub(crate) all: usize,
    /// Of one address. More connections are closed.
    pub(crate) per_address: usize,
    /// Proxies, whose connections are those of others: one may have all of them.
    pub(crate) proxies: TrustedProxies,
    /// How long to wait for each.
    pub(crate) patience: Patience,
}

impl ConnectionLimits {
    /// At most `all` connections, and half of them for one address.
    pub(crate) fn new(all: usize) -> Self {
        Self {
            all,
            per_address: all.div_ceil(2),
            proxies: TrustedProxies::default(),
            patience: Patience::default(),
        }
    }
}

/// The connections that a listener may have.
pub(super) struct Slots {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) limits: ConnectionLimits,
    taken: Mutex<Taken>,
    /// Notifies the newcomer that waits for a slot of a change.
    pub(super) freed: Notify,
    /// The same for newcomers that wait for another connection of their address.
    freed_for_waiting: Notify,
    /// Limits the number of those.
    pub(super) waiting: Arc<Semaphore>,
    pub(super) dropped: Dropped,
}

/// The result of admitting a newcomer.
pub(super) enum Admitted {
    Slot(Slot),
    /// Its address has its share.
    OverShare,
    /// The newcomer did not wait.
    Gone,
}

/// Why there is no slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Full {
    /// All slots are taken.
    All,
    /// All slots of the address are taken.
    Share,
}

/// The connections that a listener has.
#[derive(Default)]
pub(super) struct Taken {
    next_id: u64,
    pub(super) connections: HashMap<u64, Connection>,
    per_network: HashMap<Network, usize>,
    /// The connections to close next, in order, and when they were chosen.
    chosen: VecDeque<u64>,
    chosen_at: Option<Duration>,
    /// The connection that was asked to close, and when.
    asked: Option<(u64, Duration)>,
}

pub(super) struct Connection {
    network: Network,
    activity: Arc<Activity>,
    progress: Progress,
}

/// A slot for a connection. Dropping it frees the slot.
pub(super) struct Slot {
    id: u64,
    pub(super) activity: Arc<Activity>,
    slots: Arc<Slots>,
}

impl Slots {
    pub(super) fn new(limits: ConnectionLimits, dropped: Dropped, clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            limits,
            taken: Mutex::default(),
            freed: Notify::new(),
            freed_for_waiting: Notify::new(),
            waiting: Arc::new(Semaphore::new(MAX_WAITING)),
            dropped,
        }
    }

    /// Finds a slot for a newcomer, if necessary by closing another connection.
    pub(super) async fn admit(self: &Arc<Self>, stream: &TcpStream, peer: IpAddr) -> Admitted {
        loop {
            match self.take(peer) {
                Ok(slot) => return Admitted::Slot(slot),
                Err(Full::Share) => return Admitted::OverShare,
                Err(Full::All) => {}
            }
            if is_gone(stream) {
                return Admitted::Gone;
            }
            if self.lock().make_room(self.clock.monotonic()) {
                self.dropped.for_room();
            }
            let freed = self.freed.notified();
            drop(tokio::time::timeout(ROOM_INTERVAL, freed).await);
        }
    }

    /// Waits for a slot within the share of an address.
    pub(super) async fn await_share(self: &Arc<Self>, peer: IpAddr) -> Slot {
        loop {
            let freed = self.freed_for_waiting.notified();
            if let Ok(slot) = self.take(peer) {
                return slot;
            }
            freed.await;
        }
    }

    fn take(self: &Arc<Self>, peer: IpAddr) -> Result<Slot, Full> {
        let network = Network::of(peer);
        let mut taken = self.lock();
        let count = taken.per_network.get(&network).copied().unwrap_or(0);
        if count >= self.limits.per_address && !self.limits.proxies.contains(peer) {
            return Err(Full::Share);
        }
        if taken.connections.len() >= self.limits.all {
            return Err(Full::All);
        }
        taken.per_network.insert(network, count + 1);
        let id = taken.next_id;
        taken.next_id += 1;
        let activity = Arc::new(Activity::new(Arc::clone(&self.clock)));
        let connection = Connection {
            network,
            activity: Arc::clone(&activity),
            progress: Progress::new(&self.limits.patience),
        };
        taken.connections.insert(id, connection);
        Ok(Slot {
            id,
            activity,
            slots: Arc::clone(self),
        })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns whether a client that has sent nothing has closed its connection.
fn is_gone(stream: &TcpStream) -> bool {
    let mut first = [MaybeUninit::uninit()];
    match SockRef::from(stream).peek(&mut first) {
        Ok(bytes) => bytes == 0,
        Err(error) => error.kind() != ErrorKind::WouldBlock,
    }
}

impl Taken {
    /// Asks a connection to close, unless one is closing already at this time. Returns whether one was asked; it
    /// may decline.
    ///
    /// First the one that has been idle longest; then, among those that wait for the body of a
    /// request, one of the address with the most connections, namely the one that has waited
    /// longest.
    fn make_room(&mut self, now: Duration) -> bool {
        if let Some((id, at)) = self.asked
            && now.saturating_sub(at) < ROOM_INTERVAL * 10
            && let Some(connection) = self.connections.get(&id)
            && connection.activity.is_closing()
        {
            return false;
        }
        if self
            .chosen_at
            .is_none_or(|at| now.saturating_sub(at) > CHOICE_TIMEOUT)
        {
            self.chosen.clear();
        }
        if self.chosen.is_empty() {
            self.choose();
            self.chosen_at = Some(now);
        }
        while let Some(id) = self.chosen.pop_front() {
            if let Some(connection) = self.connections.get(&id)
                && connection.may_make_room().is_some()
            {
                connection.activity.ask_to_close();
                self.asked = Some((id, now));
                return true;
            }
        }
        false
    }

    fn choose(&mut self) {
        let mut candidates: Vec<_> = self
            .connections
            .iter()
            .filter_map(|(id, connection)| {
                let (receives, since) = connection.may_make_room()?;
                let count = match receives {
                    true => self.per_network.get(&connection.network).copied(),
                    false => None,
                };
                let rank = (receives, Reverse(count), Reverse(since));
                Some((rank, *id))
            })
            .collect();
        let chosen = MAX_CHOSEN.min(candidates.len());
        if chosen < candidates.len() {
            candidates.select_nth_unstable(chosen);
            candidates.truncate(chosen);
        }
        candidates.sort_unstable();
        self.chosen = candidates.into_iter().map(|(_, id)| id).collect();
    }

    /// Closes connections that are idle for too long, or too slow. Returns the number of slow ones.
    pub(super) fn sweep(&mut self, idle_timeout: Duration, patience: &Patience) -> u64 {
        let mut slow = 0;
        for connection in self.connections.values_mut() {
            let activity = &connection.activity;
            let timeout = if activity.had_request() {
                idle_timeout
            } else {
                patience.headers
            };
            let idle = matches!(activity.standing(), Standing::Idle(idle) if idle > timeout);
            let is_slow = !connection.progress.is_enough(activity, patience);
            if idle || is_slow {
                tracing::debug!(idle, "closing a connection that is idle or too slow");
                activity.close();
                slow += u64::from(is_slow);
            }
        }
        slow
    }
}

impl Connection {
    /// Returns whether the connection may be closed to make room for another one: whether it waits
    /// for bodies, and for how long it has waited or been idle.
    fn may_make_room(&self) -> Option<(bool, Duration)> {
        let (receives, since) = match self.activity.standing() {
            Standing::Busy => return None,
            Standing::Receiving(since) => (true, since),
            Standing::Idle(since) => (false, since),
        };
        let stayed = since >= MIN_STAY && self.activity.age() >= MIN_STAY;
        (stayed && !self.activity.is_closing()).then_some((receives, since))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut taken = self.slots.lock();
        if let Some(connection) = taken.connections.remove(&self.id)
            && let Entry::Occupied(mut count) = taken.per_network.entry(connection.network)
        {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
        drop(taken);
        self.slots.freed.notify_one();
        self.slots.freed_for_waiting.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use jiff::Timestamp;
    use poet_rounds::clock::ManualClock;

    use super::{super::dropped::DroppedCounters, *};

    fn taken(connections: &[(u8, Standing)]) -> Taken {
        let mut taken = Taken::default();
        for (id, (address, standing)) in connections.iter().enumerate() {
            let network = Network::of([192, 0, 2, *address].into());
            *taken.per_network.entry(network).or_default() += 1;
            let activity = Arc::new(Activity::of(*standing));
            let connection = Connection {
                network,
                activity,
                progress: Progress::new(&Patience::default()),
            };
            taken.connections.insert(id as u64, connection);
        }
        taken
    }

    /// Returns the order in which connections make room, if none declines.
    fn order(taken: &mut Taken) -> Vec<u64> {
        let mut order = Vec::new();
        while taken.make_room(Duration::ZERO) {
            let (id, _) = taken.asked.unwrap();
            taken.connections.remove(&id);
            order.push(id);
        }
        order
    }

    fn idle(seconds: u64) -> Standing {
        Standing::Idle(Duration::from_secs(seconds))
    }

    fn receiving(seconds: u64) -> Standing {
        Standing::Receiving(Duration::from_secs(seconds))
    }

    #[test]
    fn idle_connections_make_room_before_those_that_wait_for_bodies() {
        let mut taken = taken(&[
            (1, Standing::Busy),
            (1, receiving(9)),
            (2, idle(3)),
            (2, idle(20)),
            // Too young.
            (3, idle(1)),
            (3, receiving(1)),
            // Of an address with more connections.
            (4, receiving(3)),
            (4, receiving(5)),
            (4, Standing::Busy),
            (1, Standing::Busy),
            (4, receiving(4)),
        ]);
        assert_eq!(order(&mut taken), [3, 2, 7, 10, 6, 1]);
        // None of the rest may be closed.
        assert!(!taken.make_room(Duration::ZERO));
    }

    #[test]
    fn one_at_a_time_is_asked() {
        let mut taken = taken(&[(1, idle(10)), (1, idle(5))]);
        assert!(taken.make_room(Duration::ZERO));
        assert!(!taken.make_room(Duration::ZERO));
        assert!(taken.connections[&0].activity.is_closing());
        assert!(!taken.connections[&1].activity.is_closing());
        // It has not closed within a second.
        assert!(!taken.make_room(Duration::from_millis(999)));
        assert!(taken.make_room(Duration::from_secs(1)));
        assert!(taken.connections[&1].activity.is_closing());
    }

    const SECOND: Duration = Duration::from_secs(1);

    fn take(slots: &Arc<Slots>) -> Result<Slot, Full> {
        slots.take([192, 0, 2, 1].into())
    }

    /// Slots for this many connections of an address, and their clock.
    fn slots(count: usize) -> (Arc<Slots>, Arc<ManualClock>) {
        let clock = Arc::new(ManualClock::stopped(Timestamp::UNIX_EPOCH));
        let limits = ConnectionLimits {
            per_address: count + 1,
            ..ConnectionLimits::new(count)
        };
        let dropped = DroppedCounters::default().of("test");
        (Arc::new(Slots::new(limits, dropped, clock.clone())), clock)
    }

    /// Returns whether the connection is told to close.
    async fn is_told_to_close(slot: &Slot) -> bool {
        let connection = std::future::pending::<Result<(), Infallible>>();
        let end = slot.activity.drive(connection, || {});
        tokio::time::timeout(SECOND, end).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn idle_connections_are_closed_in_time() {
        let (slots, clock) = slots(3);
        let patience = Patience::default();
        let idle_timeout = patience.idle;
        let sweep = || slots.lock().sweep(idle_timeout, &patience);
        let [silent, asked, busy] = [(); 3].map(|()| take(&slots).unwrap());
        drop(asked.activity.begin_request(false, true, None));
        let _request = busy.activity.begin_request(false, true, None);
        clock.pass(patience.headers - SECOND);
        assert_eq!(sweep(), 0);
        assert!(!is_told_to_close(&silent).await);
        clock.pass(2 * SECOND);
        assert_eq!(sweep(), 0);
        assert!(is_told_to_close(&silent).await);
        assert!(!is_told_to_close(&asked).await);
        clock.pass(idle_timeout - patience.headers);
        assert_eq!(sweep(), 0);
        assert!(is_told_to_close(&asked).await);
        assert!(!is_told_to_close(&busy).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_makes_room_once_it_has_stayed() {
        let (slots, clock) = slots(1);
        let slot = take(&slots).unwrap();
        assert_eq!(take(&slots).err(), Some(Full::All));
        let make_room = || slots.lock().make_room(clock.monotonic());
        assert!(!make_room());
        clock.pass(MIN_STAY);
        assert!(make_room());
        assert!(is_told_to_close(&slot).await);
        drop(slot);
        assert!(take(&slots).is_ok());
    }
}
