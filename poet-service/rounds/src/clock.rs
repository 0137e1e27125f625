//! Time, injected so that tests can set it: the wall clock, and a monotonic one.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use jiff::{SignedDuration, Timestamp};

/// Tells the time.
pub trait Clock: Send + Sync + 'static {
    /// The wall-clock time. It may leap in either direction.
    fn now(&self) -> Timestamp;

    /// The time since some fixed moment. It never goes back, and cannot be set.
    fn monotonic(&self) -> Duration;
}

/// The clocks of the operating system.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        // A clock set beyond the year 9999 must not crash the server.
        Timestamp::try_from(SystemTime::now()).unwrap_or(Timestamp::MAX)
    }

    fn monotonic(&self) -> Duration {
        monotonic()
    }
}

/// This clock includes the time that the machine sleeps, so that waking up is no leap.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn monotonic() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    time.try_into().unwrap_or_default()
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn monotonic() -> Duration {
    use std::{sync::LazyLock, time::Instant};

    static FIRST: LazyLock<Instant> = LazyLock::new(Instant::now);
    FIRST.elapsed()
}

/// A wall clock that stands still until it is set. The monotonic clock runs normally, or stands still
/// as well.
#[derive(Debug)]
pub struct ManualClock(Mutex<Shown>);

#[derive(Debug)]
struct Shown {
    wall: Timestamp,
    /// How far the wall clock was set forwards.
    skipped: Duration,
    /// Whether the monotonic clock runs.
    runs: bool,
}

impl ManualClock {
    /// Creates a clock that shows `now`.
    pub fn new(now: Timestamp) -> Self {
        Self::with(now, true)
    }

    /// Creates a clock that shows `now`, and whose monotonic clock moves only with it: for what must
    /// not happen yet, however slow the machine is.
    pub fn stopped(now: Timestamp) -> Self {
        Self::with(now, false)
    }

    fn with(now: Timestamp, runs: bool) -> Self {
        Self(Mutex::new(Shown {
            wall: now,
            skipped: Duration::ZERO,
            runs,
        }))
    }

    /// Sets both clocks forwards.
    pub fn pass(&self, time: Duration) {
        let mut shown = self.lock();
        shown.skipped += time;
        shown.wall = shown.wall.checked_add(time).unwrap_or(Timestamp::MAX);
    }

    /// Sets the wall clock, forwards or back. The monotonic clock follows forwards.
    pub fn set(&self, now: Timestamp) {
        let mut shown = self.lock();
        let passed = time_until(shown.wall, now);
        shown.skipped += passed;
        shown.wall = now;
    }

    fn lock(&self) -> MutexGuard<'_, Shown> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        self.lock().wall
    }

    fn monotonic(&self) -> Duration {
        let shown = self.lock();
        let passed = match shown.runs {
            true => monotonic(),
            false => Duration::ZERO,
        };
        passed + shown.skipped
    }
}

/// Returns the time from `now` until `then`; zero if `then` has passed.
pub fn time_until(now: Timestamp, then: Timestamp) -> Duration {
    let left: SignedDuration = then.duration_since(now);
    left.try_into().unwrap_or(Duration::ZERO)
}
