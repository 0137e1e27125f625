//! Limits the number of events.

use std::{collections::VecDeque, time::Duration};

use super::event::Event;

/// Events that may follow each other at once, and how long it takes until one more may.
const BURST: u32 = 30;
const REFILL: Duration = Duration::from_secs(6);
/// How long the same alarm is not sent again.
const REPEATED_ALARM: Duration = Duration::from_secs(3600);
/// The number of alarms remembered for that.
const REMEMBERED_ALARMS: usize = 64;

/// Limits the number of events.
#[derive(Debug)]
pub(super) struct Budget {
    room: u32,
    /// When room was last added.
    refilled: Duration,
    /// The newest alarms, and when they were sent.
    alarms: VecDeque<(String, Duration)>,
    left_out: u64,
}

impl Budget {
    pub(super) fn new(now: Duration) -> Self {
        Self {
            room: BURST,
            refilled: now,
            alarms: VecDeque::new(),
            left_out: 0,
        }
    }

    /// Returns how many events were left out before this one, or `None` if this one must be left
    /// out.
    pub(super) fn take(&mut self, event: &Event, now: Duration) -> Option<u64> {
        let passed = now.saturating_sub(self.refilled);
        let refills = (passed.as_secs() / REFILL.as_secs()).min(u64::from(BURST));
        if refills > 0 {
            self.room = (self.room + refills as u32).min(BURST);
            self.refilled = now;
        }
        self.alarms
            .retain(|(_, told)| now.saturating_sub(*told) < REPEATED_ALARM);
        let alarm = match event {
            Event::Alarm { message, .. } => Some(message),
            _ => None,
        };
        let repeated = alarm.is_some_and(|alarm| self.alarms.iter().any(|(told, _)| told == alarm));
        if repeated || self.room == 0 {
            self.left_out += 1;
            return None;
        }
        self.room -= 1;
        if let Some(alarm) = alarm {
            if self.alarms.len() == REMEMBERED_ALARMS {
                self.alarms.pop_front();
            }
            self.alarms.push_back((alarm.clone(), now));
        }
        Some(std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::{super::event::tests::alarm, *};

    #[test]
    fn an_alarm_that_repeats_is_told_once_an_hour() {
        let seconds = Duration::from_secs;
        let mut budget = Budget::new(seconds(5));
        assert_eq!(budget.take(&alarm("a"), seconds(5)), Some(0));
        // A round that fails every five seconds.
        for second in (10..3600).step_by(5) {
            assert_eq!(budget.take(&alarm("a"), seconds(second)), None);
        }
        assert_eq!(budget.take(&alarm("b"), seconds(3604)), Some(718));
        assert_eq!(budget.take(&alarm("a"), seconds(3604)), None);
        assert_eq!(budget.take(&alarm("a"), seconds(3605)), Some(1));
        // The number of different alarms does not matter.
        for number in 0..1000 {
            budget.take(&alarm(&number.to_string()), seconds(10_000 + number * 6));
        }
        assert!(budget.alarms.len() <= REMEMBERED_ALARMS);
    }

    #[test]
    fn events_are_bounded_in_number() {
        let mut budget = Budget::new(Duration::ZERO);
        let mut told = |from: u64, to: u64| {
            let at = (from * 10..to * 10).map(|tenth| Duration::from_millis(tenth * 100));
            at.filter(|at| budget.take(&Event::Ready, *at).is_some())
                .count()
        };
        // Ten a second for a minute: the burst, and one every six seconds.
        assert_eq!(told(0, 60), 30 + 9);
        assert_eq!(told(60, 120), 10);
        // An hour of silence allows no more than the burst.
        assert_eq!(told(3600, 3604), 30);
        // The next event says how many were left out.
        let next = budget.take(&Event::Ready, Duration::from_secs(9999));
        assert_eq!(next, Some(40 - 30));
    }
}
