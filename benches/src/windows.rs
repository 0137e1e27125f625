//! A rate over time, in constant memory: a fixed number of windows. When all are used, pairs of
//! neighbours are merged, and from then on a window is twice as long.

use serde::{Deserialize, Serialize};

/// The most windows.
const CAPACITY: usize = 240;

/// What happened in a period of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Window {
    /// Its length.
    pub seconds: f64,
    /// Leaves made.
    pub leaves: u64,
    /// Time lost to interruptions.
    pub lost_s: f64,
    /// The highest temperature, if the machine reports it.
    pub celsius: Option<f64>,
    /// The lowest clock in Hz, if the machine reports it.
    pub hz: Option<f64>,
}

impl Window {
    /// Returns the leaves per second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.leaves as f64 / self.seconds
    }

    /// Merges `other` into this window.
    pub fn merge(&mut self, other: &Self) {
        self.seconds += other.seconds;
        self.leaves += other.leaves;
        self.lost_s += other.lost_s;
        let pick = |a: Option<f64>, b: Option<f64>, of: fn(f64, f64) -> f64| match (a, b) {
            (Some(a), Some(b)) => Some(of(a, b)),
            (a, b) => a.or(b),
        };
        self.celsius = pick(self.celsius, other.celsius, f64::max);
        self.hz = pick(self.hz, other.hz, f64::min);
    }
}

/// Windows of equal length; the last may be shorter.
#[derive(Clone, Debug)]
pub struct Windows {
    length_s: f64,
    windows: Vec<Window>,
}

impl Windows {
    /// Creates windows that are at least `length_s` long.
    #[must_use]
    pub fn new(length_s: f64) -> Self {
        Self {
            length_s,
            windows: Vec::with_capacity(CAPACITY),
        }
    }

    /// Continues with the windows of an earlier run.
    #[must_use]
    pub fn resume(length_s: f64, mut windows: Vec<Window>) -> Self {
        windows.truncate(CAPACITY);
        windows.reserve_exact(CAPACITY - windows.len());
        Self { length_s, windows }
    }

    /// Adds a piece that follows all earlier ones.
    pub fn add(&mut self, piece: &Window) {
        let length_s = self.length_s;
        match self.windows.last_mut() {
            Some(last) if last.seconds < length_s => last.merge(piece),
            _ => {
                if self.windows.len() == CAPACITY {
                    self.halve();
                }
                self.windows.push(*piece);
            }
        }
    }

    fn halve(&mut self) {
        for index in 0..CAPACITY / 2 {
            let mut window = self.windows[2 * index];
            window.merge(&self.windows[2 * index + 1]);
            self.windows[index] = window;
        }
        self.windows.truncate(CAPACITY / 2);
        self.length_s *= 2.0;
    }

    /// Returns the windows, in order.
    #[must_use]
    pub fn all(&self) -> &[Window] {
        &self.windows
    }

    /// Returns the length of a full window.
    #[must_use]
    pub fn length_s(&self) -> f64 {
        self.length_s
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_lost_and_memory_stays() {
        let mut windows = Windows::new(1.0);
        for i in 0..100_000_u64 {
            windows.add(&Window {
                seconds: 0.5,
                leaves: 7,
                lost_s: 0.25,
                celsius: (i == 500).then_some(80.0),
                hz: Some(if i == 700 { 1e9 } else { 3e9 }),
            });
            assert!(windows.windows.len() <= CAPACITY);
            assert_eq!(windows.windows.capacity(), CAPACITY);
        }
        let windows = windows.all();
        assert!(windows.len() >= CAPACITY / 2);
        assert_eq!(windows.iter().map(|w| w.leaves).sum::<u64>(), 700_000);
        assert_eq!(windows.iter().map(|w| w.seconds).sum::<f64>(), 50_000.0);
        assert_eq!(windows.iter().map(|w| w.lost_s).sum::<f64>(), 25_000.0);
        assert_eq!(
            windows.iter().filter(|w| w.celsius == Some(80.0)).count(),
            1
        );
        assert_eq!(windows.iter().filter(|w| w.hz == Some(1e9)).count(), 1);
        let lengths: Vec<f64> = windows.iter().map(|w| w.seconds).collect();
        assert!(
            lengths[..lengths.len() - 1]
                .windows(2)
                .all(|w| w[0] == w[1])
        );
        assert_eq!(windows[0].rate(), 14.0);
    }
}
