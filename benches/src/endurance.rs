//! The whole prover for long: does it keep its rate, and what interrupts it?
//!
//! Every leaf is timed, and pieces of a few thousand leaves, whose answer is known, follow each
//! other. What is kept does not grow with the length: a histogram, and windows that become longer.

use std::panic::resume_unwind;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use poet_backends::Selection;
use poet_engine::{LABEL_DEPTH, SubtreeHeight, Tree, run};

use crate::histogram::Histogram;
use crate::measure::{Segment, WrongAnswer};
use crate::pinning::on_core;
use crate::progress::Progress;
use crate::report::{Endurance, Interruptions};
use crate::windows::{Window, Windows};
use poet_host::sensors;

/// Leaves of a piece: some 30 ms.
const LEAVES: u64 = 2048;

/// What the end is compared with.
const FIRST: Duration = Duration::from_secs(60);

/// How often sensors are read.
const SENSOR_INTERVAL: Duration = Duration::from_secs(1);

/// The length of the shortest windows.
const WINDOW_S: f64 = 0.25;

/// Sensors, as last read; 0 for what the machine does not show.
#[derive(Default)]
struct Sensors {
    millicelsius: AtomicU64,
    hz: AtomicU64,
}

impl Sensors {
    fn read(&self, core: usize) {
        let root = Path::new("/");
        let celsius = sensors::temperature(root).unwrap_or(0.0);
        self.millicelsius.store((celsius * 1e3) as u64, Relaxed);
        let hz = sensors::frequency(root, core).unwrap_or(0.0);
        self.hz.store(hz as u64, Relaxed);
    }

    /// A window without work.
    fn window(&self) -> Window {
        let shown = |sensor: &AtomicU64| Some(sensor.load(Relaxed)).filter(|value| *value > 0);
        Window {
            celsius: shown(&self.millicelsius).map(|milli| milli as f64 / 1e3),
            hz: shown(&self.hz).map(|hz| hz as f64),
            ..Window::default()
        }
    }
}

/// Runs the prover on `core` for `length`, or until `stop`.
///
/// # Errors
/// When the thread cannot be pinned, or the prover computes something wrong.
pub fn endurance(
    selection: &Selection,
    core: usize,
    length: Duration,
    stop: &AtomicBool,
) -> Result<Endurance> {
    let work = selection.work(LABEL_DEPTH)?;
    let segment = Segment::new(&work, selection.latency().name, LEAVES);
    let sensors = Sensors::default();
    sensors.read(core);
    let progress = Progress::new("the whole prover, for long", length.as_secs_f64());
    thread::scope(|scope| -> Result<_> {
        let hashing =
            scope.spawn(|| on_core(core, || hash(&segment, core, length, stop, &sensors)));
        let mut read = Instant::now();
        while !hashing.is_finished() {
            let _ = progress.goes_on();
            thread::sleep(Duration::from_millis(20));
            if read.elapsed() >= SENSOR_INTERVAL {
                sensors.read(core);
                read = Instant::now();
            }
        }
        let result = hashing.join().unwrap_or_else(|panic| resume_unwind(panic));
        Ok(result??)
    })
}

/// The hashing thread: one piece at least, however early it is to stop.
fn hash(
    segment: &Segment,
    core: usize,
    length: Duration,
    stop: &AtomicBool,
    sensors: &Sensors,
) -> Result<Endurance, WrongAnswer> {
    // Warm, and long enough to know the median.
    let mut warm_up = Histogram::default();
    for _ in 0..10 {
        piece(segment, |ns| warm_up.add(ns))?;
    }
    let median_ns = warm_up.median_ns().unwrap_or_default();
    let mut interruptions = Interruptions {
        median_ns,
        threshold_ns: 2 * median_ns,
        count: 0,
        lost_s: 0.0,
        worst_ns: 0,
    };
    let mut histogram = Histogram::default();
    let mut windows = Windows::new(WINDOW_S);
    let (mut first, mut rest) = (Window::default(), Window::default());
    let first_s = FIRST.min(length / 4).as_secs_f64();
    let start = Instant::now();
    let mut before_s = 0.0;
    loop {
        let mut lost_ns = 0;
        piece(segment, |ns| {
            histogram.add(ns);
            interruptions.worst_ns = interruptions.worst_ns.max(ns);
            if ns >= interruptions.threshold_ns {
                interruptions.count += 1;
                lost_ns += ns - median_ns;
            }
        })?;
        let now_s = start.elapsed().as_secs_f64();
        let piece = Window {
            seconds: now_s - before_s,
            leaves: LEAVES,
            lost_s: lost_ns as f64 / 1e9,
            ..sensors.window()
        };
        interruptions.lost_s += piece.lost_s;
        windows.add(&piece);
        let part = if first.seconds < first_s {
            &mut first
        } else {
            &mut rest
        };
        part.merge(&piece);
        before_s = now_s;
        if start.elapsed() >= length || stop.load(Relaxed) {
            break;
        }
    }
    let (seconds, leaves) = (before_s, first.leaves + rest.leaves);
    let slowdown = if rest.leaves > 0 {
        1.0 - rest.rate() / first.rate()
    } else {
        0.0
    };
    Ok(Endurance {
        core,
        seconds,
        stopped_early: seconds < length.as_secs_f64(),
        leaves,
        leaves_per_s: leaves as f64 / seconds,
        first,
        rest,
        slowdown,
        windows: windows.finish(),
        interruptions,
        histogram: histogram.buckets(),
    })
}

/// Makes a piece and tells the time of each leaf. (To read the clock takes some 30 ns of them.)
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
