//! Derives the verdict from the measurements of a report.

use crate::known::KnownCore;
use crate::report::{Report, Sustained};
use crate::verdict::{Doubt, RoundRate, Verdict};

/// A wider spread of the samples is noise.
const NOISE: f64 = 0.02;
/// Interruptions that take a greater share are mentioned.
const INTERRUPTED: f64 = 0.01;
/// The same for the time that a hypervisor gives to others.
const STEAL: f64 = 0.002;
/// The greatest deviation of the ratio to the independent loop from that of other machines with the
/// same kind of core.
const RATIO: f64 = 0.02;
/// The greatest distance between the quartiles of the samples' clocks.
const CLOCK: f64 = 0.05;
/// The greatest measured rate relative to its bound.
const BOUND: f64 = 1.01;
/// The most by which the system's clock may be set during a run, in seconds.
const CLOCK_SET_S: f64 = 2.0;
/// The month of a price.
const MONTH_S: f64 = 30.0 * 24.0 * 3600.0;

impl Report {
    /// Returns this report with the verdict that follows from its measurements, and the doubts
    /// `more`, which do not follow from them.
    #[must_use]
    pub fn judged(mut self, more: &[Doubt]) -> Self {
        self.verdict = judge(&self, more);
        self
    }

    /// The same, keeping the verdict's doubts that do not follow from measurements.
    #[must_use]
    pub fn judged_again(self) -> Self {
        let doubts = self.verdict.doubts.iter();
        let more: Vec<Doubt> = doubts
            .filter(|doubt| !doubt.is_derived())
            .cloned()
            .collect();
        self.judged(&more)
    }

    /// Returns the rate with interruptions that counts, the length of its run, and whether that is
    /// the run of `--duration`.
    fn sustained(&self) -> (Sustained, f64, bool) {
        let short = (self.prover.with_interruptions, self.prover.seconds, false);
        let Some(run) = &self.endurance else {
            return short;
        };
        match Sustained::of(&run.windows, run.window_s) {
            // A verdict needs a minimum of work, and the longer run counts.
            Some(sustained) if run.seconds >= self.prover.seconds => (sustained, run.seconds, true),
            _ => short,
        }
    }

    /// Returns the cycles per hash of the whole prover.
    #[must_use]
    pub fn cycles_per_hash(&self) -> Option<f64> {
        let cycles = self.prover.cycles_per_leaf?.median;
        (self.settings.work == "sha256").then(|| cycles / self.prover.hashes_per_leaf)
    }

    /// Returns the power during the run that counts.
    #[must_use]
    pub fn watts(&self) -> Option<f64> {
        match &self.endurance {
            Some(run) if self.sustained().2 => run.watts,
            _ => self.prover.watts,
        }
    }
}

/// Returns whether the numbers of a report's verdict follow from its measurements.
#[must_use]
pub fn follows(report: &Report) -> bool {
    let (now, then) = (judge(report, &[]), &report.verdict);
    let positive = |rate: f64| rate.is_finite() && rate > 0.0;
    let numbers = |verdict: &Verdict| {
        let Verdict {
            undisturbed,
            with_interruptions,
            seconds,
            windows,
            long,
            ..
        } = verdict;
        (*undisturbed, *with_interruptions, *seconds, *windows, *long)
    };
    numbers(&now) == numbers(then)
        && positive(now.undisturbed.leaves_per_s)
        && positive(now.with_interruptions.leaves_per_s)
        && report.settings.tick_size > 0
}

fn judge(report: &Report, more: &[Doubt]) -> Verdict {
    let (settings, prover) = (&report.settings, &report.prover);
    let rate = |leaves_per_s| RoundRate::of(leaves_per_s, settings.round_s, settings.tick_size);
    let (sustained, seconds, long) = report.sustained();
    let undisturbed = rate(prover.leaves_per_s.median);
    let with_interruptions = rate(sustained.leaves_per_s);
    let known = KnownCore::of(&report.machine, prover.core);
    let known = known.filter(|_| settings.work == "sha256");
    let bound = known.and_then(|core| core.bound);
    let bound_reached = bound
        .zip(report.cycles_per_hash())
        .map(|(bound, cycles)| bound / cycles);
    let per_tick = |amount_per_s: f64| {
        amount_per_s * settings.tick_size as f64 / with_interruptions.leaves_per_s
    };

    let mut doubts = Vec::new();
    if settings.quick {
        doubts.push(Doubt::Quick);
    }
    if let Some(run) = report.endurance.as_ref().filter(|_| !long) {
        doubts.push(Doubt::LongRunTooShort {
            seconds: run.seconds,
            needed_s: prover.seconds,
        });
    }
    let ratio = report.yardstick.ratio.map(|ratio| ratio.median);
    let expected = known.and_then(|core| core.ratio(&prover.backend));
    if let Some((ratio, expected)) = ratio.zip(expected)
        && (ratio / expected - 1.0).abs() > RATIO
    {
        doubts.push(Doubt::WrongRatio { ratio, expected });
    }
    if let Some(reached) = bound_reached.filter(|reached| *reached > BOUND) {
        doubts.push(Doubt::BeyondBound { reached });
    }
    if report.cores.tied.len() > 1 {
        let cores = report.cores.tied.clone();
        doubts.push(Doubt::CoresTied { cores });
    }
    let spread = prover.leaves_per_s.spread();
    if spread > NOISE {
        doubts.push(Doubt::Noisy { spread });
    }
    let share = 1.0 - with_interruptions.leaves_per_s / undisturbed.leaves_per_s;
    if share > INTERRUPTED {
        doubts.push(Doubt::Interrupted { share });
    }
    if let Some(share) = prover.steal.filter(|share| *share > STEAL) {
        doubts.push(Doubt::Steal { share });
    }
    let speed = report.yardstick.speed;
    if speed.is_none_or(|speed| speed.dropped > speed.hashes_per_s.samples) {
        doubts.push(Doubt::UnsteadyClock);
    }
    if let Some(hz) = prover.clock_hz.filter(|hz| hz.spread() > CLOCK) {
        doubts.push(Doubt::ClockChanged {
            from_hz: hz.q1,
            to_hz: hz.q3,
        });
    }
    doubts.extend(more.iter().cloned());
    Verdict {
        undisturbed,
        with_interruptions,
        seconds,
        windows: [sustained.windows.q1, sustained.windows.q3],
        window_s: sustained.window_s,
        long,
        bound_cycles_per_hash: bound,
        bound_reached,
        ticks_per_100_mhz: prover
            .cycles_per_leaf
            .map(|cycles| 1e8 / cycles.median * settings.round_s / settings.tick_size as f64),
        joules_per_tick: report.watts().map(per_tick),
        price_per_tick: settings.price.map(|price| per_tick(price / MONTH_S)),
        doubts,
    }
}

/// Returns the doubt about a system's clock that was set by this much.
#[must_use]
pub fn clock_set(seconds: f64) -> Option<Doubt> {
    (seconds.abs() > CLOCK_SET_S).then_some(Doubt::ClockSet { seconds })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::sample;
    use crate::stat::Stat;
    use crate::verdict::Basis;

    fn short() -> Report {
        let mut report = sample();
        report.endurance = None;
        report.judged(&[])
    }

    #[test]
    fn ticks_of_a_round() {
        let rate = RoundRate::of(78_000.0, 1_166_400.0, 9_331_200);
        assert_eq!((rate.leaves_per_round, rate.ticks), (90_979_200_000, 9750));
        assert_eq!(RoundRate::of(1.0, 10.0, 20).ticks, 0);
    }

    #[test]
    fn undisturbed_is_the_same_whatever_the_options() {
        let (long, short) = (sample().verdict, short().verdict);
        assert_eq!(long.undisturbed, short.undisturbed);
        assert_eq!(long.bound_reached, short.bound_reached);
        assert_eq!(long.undisturbed.leaves_per_s, 55_400.0);
        assert_eq!(long.with_interruptions.leaves_per_s, 55_000.0);
        assert_eq!((long.seconds, long.long), (3.0, true));
        assert_eq!(long.windows, [55_000.0, 56_000.0]);
        assert_eq!(short.with_interruptions.leaves_per_s, 55_100.0);
        assert_eq!((short.seconds, short.long), (2.5, false));
    }

    #[test]
    fn a_long_run_that_was_none_does_not_count() {
        let mut report = sample();
        report.endurance.as_mut().unwrap().seconds = 0.05;
        let verdict = report.judged(&[]).verdict;
        let expected = short().verdict;
        assert_eq!(verdict.with_interruptions, expected.with_interruptions);
        assert!(!verdict.long);
        let expected = Doubt::LongRunTooShort {
            seconds: 0.05,
            needed_s: 2.5,
        };
        assert_eq!(verdict.doubts, [expected]);
    }

    fn stat(median: f64, spread: f64) -> Stat {
        Stat {
            median,
            q1: median * (1.0 - spread / 2.0),
            q3: median * (1.0 + spread / 2.0),
            samples: 9,
        }
    }

    fn doubts(change: impl Fn(&mut Report)) -> Vec<Doubt> {
        let mut report = short();
        change(&mut report);
        report.judged(&[]).verdict.doubts
    }

    #[test]
    fn a_report_is_not_trusted_beyond_a_threshold() {
        // The ratio of Golden Cove is 1.252, whatever the spread.
        for ratio in [1.228, 1.252, 1.276] {
            let trusted = doubts(|report| report.yardstick.ratio = Some(stat(ratio, 0.1)));
            assert_eq!(trusted, [], "{ratio}");
        }
        for ratio in [1.22, 1.28] {
            let doubted = doubts(|report| report.yardstick.ratio = Some(stat(ratio, 0.0)));
            let expected = 1.252;
            assert_eq!(doubted, [Doubt::WrongRatio { ratio, expected }]);
            assert!(doubted[0].is_fatal());
            assert!(doubted[0].to_string().contains("should not be trusted"));
            // An unknown kernel or core raises no doubt.
            let unknown = doubts(|report| {
                report.yardstick.ratio = Some(stat(ratio, 0.0));
                report.prover.backend = "generic".into();
            });
            assert_eq!(unknown, []);
            let unknown = doubts(|report| {
                report.yardstick.ratio = Some(stat(ratio, 0.0));
                report.machine.microarchitecture = None;
            });
            assert_eq!(unknown, []);
        }
        let beyond = doubts(|report| report.prover.cycles_per_leaf = Some(stat(50_000.0, 0.0)));
        assert!(matches!(beyond[..], [Doubt::BeyondBound { reached }] if reached > 1.08));
    }

    #[test]
    fn each_doubt_has_its_threshold() {
        assert_eq!(doubts(|_| ()), []);
        assert_eq!(
            doubts(|report| report.settings.quick = true),
            [Doubt::Quick]
        );
        let cores = vec![0, 1];
        let tied = doubts(|report| report.cores.tied = vec![0, 1]);
        assert_eq!(tied, [Doubt::CoresTied { cores }]);
        let noisy = doubts(|report| report.prover.leaves_per_s = stat(55_400.0, 0.03));
        assert!(matches!(noisy[..], [Doubt::Noisy { spread }] if (spread - 0.03).abs() < 1e-9));
        let interrupted = doubts(|report| {
            report.prover.with_interruptions.leaves_per_s = 27_700.0;
        });
        assert_eq!(interrupted, [Doubt::Interrupted { share: 0.5 }]);
        let steal = doubts(|report| report.prover.steal = Some(0.1));
        assert_eq!(steal, [Doubt::Steal { share: 0.1 }]);
        let unsteady = doubts(|report| report.yardstick.speed = None);
        assert_eq!(unsteady, [Doubt::UnsteadyClock]);
        let changed = doubts(|report| report.prover.clock_hz = Some(stat(2e9, 0.2)));
        let (from_hz, to_hz) = (1.8e9, 2.2e9);
        assert_eq!(changed, [Doubt::ClockChanged { from_hz, to_hz }]);
        assert_eq!(clock_set(-1.9), None);
        assert_eq!(clock_set(-60.0), Some(Doubt::ClockSet { seconds: -60.0 }));
    }

    #[test]
    fn energy_and_price_are_those_of_the_rate_with_interruptions() {
        let mut report = sample();
        report.settings.price = Some(100.0);
        report.endurance.as_mut().unwrap().watts = Some(60.0);
        let verdict = report.judged(&[]).verdict;
        let joules = verdict.joules_per_tick.unwrap();
        assert!((joules - 60.0 * 9_331_200.0 / 55_000.0).abs() < 1e-6);
        let price = verdict.price_per_tick.unwrap();
        assert!((price - 100.0 * 9_331_200.0 / 55_000.0 / 2_592_000.0).abs() < 1e-9);
        let ticks = verdict.ticks_per_100_mhz.unwrap();
        assert!((ticks - 1e8 / 54_150.0 / 8.0).abs() < 1e-6);
        // 54,150 cycles over 412.5 hashes are 131.27 per hash.
        let reached = verdict.bound_reached.unwrap();
        assert!((reached - 131.0 / (54_150.0 / 412.5)).abs() < 1e-9);
    }

    #[test]
    fn doubts_that_do_not_follow_are_kept() {
        let set = Doubt::ClockSet { seconds: 9.0 };
        let mut report = sample().judged(std::slice::from_ref(&set));
        report.settings.quick = true;
        assert_eq!(report.judged_again().verdict.doubts, [Doubt::Quick, set]);
    }

    #[test]
    fn either_rate_can_be_tested() {
        let verdict = sample().verdict;
        assert_eq!(verdict.too_slow(Some(55_000.0), Some(55_400.0)), []);
        let slow = verdict.too_slow(Some(55_001.0), Some(55_401.0));
        let bases: Vec<Basis> = slow.iter().map(|it| it.basis).collect();
        assert_eq!(bases, [Basis::WithInterruptions, Basis::Undisturbed]);
        let text = slow[0].to_string();
        assert_eq!(
            text,
            "55000 leaves/s with interruptions are less than 55001"
        );
    }

    #[test]
    fn a_verdict_that_was_edited_is_noticed() {
        let report = sample();
        assert!(follows(&report));
        let mut edited = report.clone();
        edited.verdict.undisturbed.ticks += 1;
        assert!(!follows(&edited));
        let mut edited = report.clone();
        edited.prover.leaves_per_s.median *= 2.0;
        assert!(!follows(&edited));
        let mut edited = report;
        edited.prover.leaves_per_s.median = f64::NAN;
        assert!(!follows(&edited.judged(&[])));
    }
}
