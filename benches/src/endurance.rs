//! A long run of the whole prover: does it keep its rate, and what interrupts it?
//!
//! Every leaf is timed, and pieces of a few thousand leaves, whose result is known, follow each
//! other. The stored data does not grow with the length: a histogram, and windows that become
//! longer. It is saved every minute, so that a kill costs a minute and the run can be resumed.

use std::panic::resume_unwind;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use poet_backends::Selection;
use poet_engine::{LABEL_DEPTH, SubtreeHeight, Tree, run};
use poet_host::programs::Watch;
use poet_host::sensors::{self, Energy};

use crate::histogram::Histogram;
use crate::pinning::on_core;
use crate::progress::Progress;
use crate::prover::Segment;
use crate::report::{Endurance, Interruptions};
use crate::sample::WrongAnswer;
use crate::windows::{Window, Windows};

/// Leaves per piece: some 30 ms.
const LEAVES: u64 = 2048;

/// The first part, with which the rest is compared.
const FIRST: Duration = Duration::from_secs(60);

/// How often sensors are read.
const SENSOR_INTERVAL: Duration = Duration::from_secs(1);

/// How often to sample other programs on the core, if they are watched.
const LOOK: Duration = Duration::from_millis(250);

/// How often a report of the run so far is saved. The first ones follow sooner, each after twice
/// the time of the previous one.
const CHECKPOINT: Duration = Duration::from_secs(60);
const FIRST_CHECKPOINT: Duration = Duration::from_secs(1);

/// The length of the shortest windows.
const WINDOW_S: f64 = 0.25;

/// The parameters of a long run.
pub struct Run<'a> {
    /// The core.
    pub core: usize,
    /// Its length, including the part that an earlier process ran.
    pub length: Duration,
    /// Set to end it early.
    pub stop: &'a AtomicBool,
    /// The result of an earlier process.
    pub before: Option<&'a Endurance>,
    /// Called with the result so far, every now and then.
    pub checkpoint: &'a mut dyn FnMut(Endurance),
    /// Watches which other programs run on the core.
    pub watch: Option<&'a mut Watch>,
}

/// The last sensor values; 0 for those that the machine does not report.
#[derive(Default)]
struct Sensors {
    millicelsius: AtomicU64,
    hz: AtomicU64,
    joules: Mutex<Option<f64>>,
}

impl Sensors {
    fn read(&self, core: usize) {
        let root = Path::new("/");
        let celsius = sensors::temperature(root).unwrap_or(0.0);
        self.millicelsius.store((celsius * 1e3) as u64, Relaxed);
        let hz = sensors::frequency(root, core).unwrap_or(0.0);
        self.hz.store(hz as u64, Relaxed);
    }

    fn add_energy(&self, joules: f64) {
        let mut sum = self.joules.lock().unwrap_or_else(PoisonError::into_inner);
        *sum = Some(sum.unwrap_or(0.0) + joules);
    }

    /// Returns a window without work.
    fn window(&self) -> Window {
        let shown = |sensor: &AtomicU64| Some(sensor.load(Relaxed)).filter(|value| *value > 0);
        Window {
            celsius: shown(&self.millicelsius).map(|milli| milli as f64 / 1e3),
            hz: shown(&self.hz).map(|hz| hz as f64),
            ..Window::default()
        }
    }
}

/// Runs the prover.
///
/// # Errors
/// Fails if the thread cannot be pinned, or the prover computes something wrong.
pub fn endurance(selection: &Selection, run: Run<'_>) -> Result<Endurance> {
    let work = selection.work(LABEL_DEPTH)?;
    let segment = Segment::new(&work, selection.latency().name, LEAVES);
    let Run {
        core,
        length,
        stop,
        before,
        checkpoint,
        mut watch,
    } = run;
    let sensors = Sensors::default();
    sensors.read(core);
    let done_s = before.map_or(0.0, |run| run.seconds);
    let left_s = (length.as_secs_f64() - done_s).max(0.0);
    let progress = Progress::new("the whole prover, for long", left_s);
    let asked = Asked::default();
    thread::scope(|scope| -> Result<_> {
        let hashing = scope.spawn(|| {
            on_core(core, || {
                let thread = u32::try_from(thread_id()).unwrap_or(0);
                asked.thread.store(thread.into(), Relaxed);
                hash(&segment, core, length, before, stop, &sensors, &asked)
            })
        });
        let (start, mut read, mut looked) = (Instant::now(), Instant::now(), Instant::now());
        let mut energy = Energy::read(Path::new("/"));
        let mut next = FIRST_CHECKPOINT;
        while !hashing.is_finished() {
            let _ = progress.goes_on();
            thread::sleep(Duration::from_millis(20));
            if read.elapsed() >= SENSOR_INTERVAL {
                sensors.read(core);
                let now = Energy::read(Path::new("/"));
                if let (Some(now), Some(before)) = (&now, &energy) {
                    sensors.add_energy(now.since(before));
                }
                energy = now;
                read = Instant::now();
            }
            if let Some(watch) = &mut watch
                && looked.elapsed() >= LOOK
            {
                watch.except(asked.thread.load(Relaxed) as u32);
                watch.look();
                looked = Instant::now();
            }
            if start.elapsed() >= next {
                asked.now.store(true, Relaxed);
                next += next.min(CHECKPOINT);
            }
            let answer = asked
                .answer
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take();
            if let Some(so_far) = answer {
                progress.note(so_far.leaves_per_s, done_s + start.elapsed().as_secs_f64());
                checkpoint(so_far);
            }
        }
        let result = hashing.join().unwrap_or_else(|panic| resume_unwind(panic));
        Ok(result??)
    })
}

#[cfg(target_os = "linux")]
fn thread_id() -> i32 {
    rustix::thread::gettid().as_raw_nonzero().get()
}

#[cfg(not(target_os = "linux"))]
fn thread_id() -> i32 {
    0
}

/// Requests the hashing thread's result so far.
#[derive(Default)]
struct Asked {
    thread: AtomicU64,
    now: AtomicBool,
    answer: Mutex<Option<Endurance>>,
}

/// The result of a run so far.
struct State {
    core: usize,
    asked_s: f64,
    first_s: f64,
    resumed_s: Vec<f64>,
    /// The energy that earlier processes measured.
    joules: Option<f64>,
    interruptions: Interruptions,
    histogram: Histogram,
    windows: Windows,
    first: Window,
    rest: Window,
}

impl State {
    fn new(core: usize, length: Duration, median_ns: u64) -> Self {
        Self {
            core,
            asked_s: length.as_secs_f64(),
            first_s: FIRST.min(length / 4).as_secs_f64(),
            resumed_s: Vec::new(),
            joules: None,
            interruptions: Interruptions {
                median_ns,
                threshold_ns: 2 * median_ns,
                count: 0,
                lost_s: 0.0,
                worst_ns: 0,
            },
            histogram: Histogram::default(),
            windows: Windows::new(WINDOW_S),
            first: Window::default(),
            rest: Window::default(),
        }
    }

    /// Continues the run of an earlier process.
    fn resume(length: Duration, before: &Endurance) -> Self {
        let new = Self::new(before.core, length, before.interruptions.median_ns);
        let mut resumed_s = before.resumed_s.clone();
        resumed_s.push(before.seconds);
        Self {
            // The first part is complete, whatever the length.
            first_s: if before.rest.leaves > 0 {
                before.first.seconds
            } else {
                new.first_s
            },
            resumed_s,
            joules: before.watts.map(|watts| watts * before.seconds),
            interruptions: before.interruptions,
            histogram: Histogram::of(&before.histogram),
            windows: Windows::resume(before.window_s, before.windows.clone()),
            first: before.first,
            rest: before.rest,
            ..new
        }
    }

    fn seconds(&self) -> f64 {
        self.first.seconds + self.rest.seconds
    }

    fn add(&mut self, piece: &Window) {
        self.interruptions.lost_s += piece.lost_s;
        self.windows.add(piece);
        let part = if self.first.seconds < self.first_s {
            &mut self.first
        } else {
            &mut self.rest
        };
        part.merge(piece);
    }

    fn report(&self, joules: Option<f64>) -> Endurance {
        let (seconds, leaves) = (self.seconds(), self.first.leaves + self.rest.leaves);
        let joules = match (self.joules, joules) {
            (Some(before), Some(now)) => Some(before + now),
            (before, now) => before.or(now),
        };
        Endurance {
            core: self.core,
            asked_s: self.asked_s,
            seconds,
            stopped_early: seconds < self.asked_s,
            resumed_s: self.resumed_s.clone(),
            leaves,
            leaves_per_s: leaves as f64 / seconds,
            first: self.first,
            rest: self.rest,
            slowdown: if self.rest.leaves > 0 {
                1.0 - self.rest.rate() / self.first.rate()
            } else {
                0.0
            },
            window_s: self.windows.length_s(),
            windows: self.windows.all().to_vec(),
            interruptions: self.interruptions,
            histogram: self.histogram.buckets(),
            watts: joules
                .map(|joules| joules / seconds)
                .filter(|watts| *watts > 0.0),
        }
    }
}

/// The hashing thread: makes at least one piece, however early it must stop.
fn hash(
    segment: &Segment,
    core: usize,
    length: Duration,
    before: Option<&Endurance>,
    stop: &AtomicBool,
    sensors: &Sensors,
    asked: &Asked,
) -> Result<Endurance, WrongAnswer> {
    // The core is warm, and there are enough times for a median.
    let mut warm_up = Histogram::default();
    for _ in 0..10 {
        piece(segment, |ns| warm_up.add(ns))?;
    }
    let mut state = match before {
        Some(before) => State::resume(length, before),
        None => State::new(core, length, warm_up.median_ns().unwrap_or_default()),
    };
    let joules = || {
        *sensors
            .joules
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    };
    let mut last = Instant::now();
    loop {
        let mut lost_ns = 0;
        let (interruptions, histogram) = (&mut state.interruptions, &mut state.histogram);
        piece(segment, |ns| {
            histogram.add(ns);
            interruptions.worst_ns = interruptions.worst_ns.max(ns);
            if ns >= interruptions.threshold_ns {
                interruptions.count += 1;
                lost_ns += ns - interruptions.median_ns;
            }
        })?;
        let now = Instant::now();
        state.add(&Window {
            seconds: (now - last).as_secs_f64(),
            leaves: LEAVES,
            lost_s: lost_ns as f64 / 1e9,
            ..sensors.window()
        });
        last = now;
        if state.seconds() >= length.as_secs_f64() || stop.load(Relaxed) {
            break;
        }
        if asked.now.swap(false, Relaxed) {
            let so_far = state.report(joules());
            *asked.answer.lock().unwrap_or_else(PoisonError::into_inner) = Some(so_far);
        }
    }
    Ok(state.report(joules()))
}

/// Makes a piece and reports the time of each leaf. (Reading the clock takes some 30 ns of it.)
fn piece(segment: &Segment, mut leaf: impl FnMut(u64)) -> Result<(), WrongAnswer> {
    let mut tree: Tree = segment.start.clone();
    let target = AtomicU64::new(tree.leaves() + LEAVES);
    let mut before = Instant::now();
    let every_leaf = SubtreeHeight::new(0).expect("0 is a height");
    run(&mut tree, every_leaf, &target, &AtomicU64::new(0), |_| {
        let now = Instant::now();
        leaf((now - before).as_nanos() as u64);
        before = now;
    });
    segment.check(&tree)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resumed_run_is_the_sum_of_its_parts() {
        let length = Duration::from_secs(100);
        let mut whole = State::new(3, length, 15_000);
        let piece = |seconds| Window {
            seconds,
            leaves: 2048,
            lost_s: 0.001,
            ..Window::default()
        };
        for step in 0..3000 {
            whole.add(&piece(0.03));
            whole.histogram.add(15_000 + step);
            if step % 700 == 0 {
                let seconds = whole.seconds();
                let resumed = State::resume(length, &whole.report(Some(10.0 * seconds)));
                assert_eq!(resumed.resumed_s.last(), Some(&seconds));
                whole = resumed;
            }
        }
        let mut at_once = State::new(3, length, 15_000);
        for step in 0..3000 {
            at_once.add(&piece(0.03));
            at_once.histogram.add(15_000 + step);
        }
        let (whole, at_once) = (whole.report(None), at_once.report(None));
        assert_eq!(whole.leaves, 3000 * 2048);
        assert_eq!(whole.windows, at_once.windows);
        assert_eq!(whole.histogram, at_once.histogram);
        assert_eq!(whole.interruptions, at_once.interruptions);
        assert_eq!(whole.resumed_s.len(), 5);
        assert!((whole.seconds - at_once.seconds).abs() < 1e-6);
        assert!((whole.first.seconds - 25.0).abs() < 0.031);
        assert!(whole.stopped_early);
        // The energy that earlier processes measured is kept.
        assert!(whole.watts.unwrap() > 0.0);
    }
}
