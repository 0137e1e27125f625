//! A schedule's rounds as a calendar (iCalendar, RFC 5545) to which programs can subscribe.

use std::{fmt::Write as _, time::Duration};

use jiff::{SignedDuration, Timestamp};

use crate::schedule::Schedule;

/// How far ahead the calendar goes, and its greatest number of rounds: a test network may have a
/// million of them in a year.
const AHEAD: SignedDuration = SignedDuration::from_hours(365 * 24);
const MAX_ROUNDS: u64 = 60;
/// The reminders, by the time before registration closes.
const REMINDERS: [(Duration, &str); 2] = [
    (Duration::from_secs(24 * 3600), "in 24 hours"),
    (Duration::from_secs(3600), "in 1 hour"),
];
/// The most octets in a line; longer lines are folded.
const LINE_OCTETS: usize = 75;

/// The owner of the rounds in a calendar.
#[derive(Clone, Copy, Debug)]
pub struct Owner<'a> {
    /// The owner's name.
    pub name: &'a str,
    /// Distinguishes the calendar's events from those of other calendars.
    pub id: &'a str,
}

/// Returns the rounds of a year from `now`, at most 60, as a calendar: when registration opens,
/// when it closes in a day and in an hour, and when the proof is expected.
pub fn calendar(schedule: &Schedule, now: Timestamp, owner: Owner<'_>) -> String {
    let mut text = Text(String::new());
    for line in [
        "BEGIN:VCALENDAR",
        "VERSION:2.0",
        "PRODID:-//poet-service//schedule//EN",
        "CALSCALE:GREGORIAN",
        "REFRESH-INTERVAL;VALUE=DURATION:P1D",
        "X-PUBLISHED-TTL:P1D",
    ] {
        text.line(line);
    }
    text.text("NAME", owner.name);
    text.text("X-WR-CALNAME", owner.name);
    let open = schedule.open_round(now);
    let until = now.checked_add(AHEAD).unwrap_or(Timestamp::MAX);
    // Starts with the round being worked on.
    for round in (open.saturating_sub(1)..).take(MAX_ROUNDS as usize) {
        let start = schedule.start(round);
        if start > until {
            break;
        }
        let counts = format!(
            "A registration in round {round} is proven and published in epoch {}, and rewarded in \
             epoch {}.",
            schedule.publish_epoch(round),
            schedule.reward_epoch(round),
        );
        let closes = format!("Registration closes at {}.", start.strftime("%F %T UTC"));
        let mut event = |what: &str, from: Timestamp, to: Timestamp, title: String, says: &str| {
            text.event(owner, schedule, round, what, from, to, &title, says);
        };
        let opens = schedule.opens(round);
        if let Some(opens) = opens {
            let title = format!("{}: registration for round {round} opens", owner.name);
            event("opens", opens, opens, title, &format!("{closes} {counts}"));
        }
        for (number, (before, when)) in REMINDERS.iter().enumerate() {
            let Ok(at) = start.checked_sub(*before) else {
                continue;
            };
            // Registration needs an existing network.
            if opens.unwrap_or(schedule.genesis()) < at {
                let title = format!(
                    "{}: registration for round {round} closes {when}",
                    owner.name
                );
                let says = format!("{closes} {counts}");
                // The last one lasts until registration has closed.
                let to = if number + 1 == REMINDERS.len() {
                    start
                } else {
                    at
                };
                event(&format!("closes{number}"), at, to, title, &says);
            }
        }
        let end = schedule.end(round);
        let title = format!("{}: proof of round {round} expected", owner.name);
        let says = format!("The work on round {round} ends, and its proof is served. {counts}");
        event("proof", end, end, title, &says);
    }
    text.line("END:VCALENDAR");
    text.0
}

/// A calendar being written.
struct Text(String);

impl Text {
    /// Appends a line, folded if it is too long.
    fn line(&mut self, line: &str) {
        let mut octets = 0;
        for letter in line.chars() {
            if octets + letter.len_utf8() > LINE_OCTETS {
                self.0 += "\r\n ";
                octets = 1;
            }
            self.0.push(letter);
            octets += letter.len_utf8();
        }
        self.0 += "\r\n";
    }

    /// Appends a property whose value is text.
    fn text(&mut self, name: &str, value: &str) {
        let mut line = format!("{name}:");
        for letter in value.chars() {
            match letter {
                '\n' => line += "\\n",
                '\\' | ';' | ',' => line.extend(['\\', letter]),
                _ if letter.is_control() => {}
                _ => line.push(letter),
            }
        }
        self.line(&line);
    }

    #[expect(clippy::too_many_arguments, reason = "each is a line of the event")]
    fn event(
        &mut self,
        owner: Owner<'_>,
        schedule: &Schedule,
        round: u64,
        what: &str,
        from: Timestamp,
        to: Timestamp,
        title: &str,
        says: &str,
    ) {
        let time = |time: Timestamp| time.strftime("%Y%m%dT%H%M%SZ").to_string();
        self.line("BEGIN:VEVENT");
        // The same on every request, so that a calendar recognises the event.
        let genesis = schedule.genesis().as_second();
        self.text("UID", &format!("{what}-{round}-{genesis}@{}", owner.id));
        let mut dates = format!("DTSTAMP:{}", time(schedule.genesis()));
        let _ = write!(dates, "\nDTSTART:{}", time(from));
        if to > from {
            let _ = write!(dates, "\nDTEND:{}", time(to));
        }
        for line in dates.lines() {
            self.line(line);
        }
        self.text("SUMMARY", title);
        self.text("DESCRIPTION", says);
        self.line("TRANSP:TRANSPARENT");
        self.line("END:VEVENT");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mainnet() -> Schedule {
        let hours = |hours: u64| Duration::from_secs(hours * 3600);
        let genesis = "2023-07-14T08:00:00Z".parse().unwrap();
        Schedule::new(genesis, hours(336), hours(240), hours(12)).unwrap()
    }

    fn of(schedule: &Schedule, now: &str, name: &str) -> String {
        let owner = Owner { name, id: "poet" };
        calendar(schedule, now.parse().unwrap(), owner)
    }

    /// The lines after unfolding.
    fn lines(calendar: &str) -> Vec<String> {
        assert!(calendar.ends_with("\r\n"));
        let unfolded = calendar.replace("\r\n ", "");
        unfolded.split("\r\n").map(str::to_owned).collect()
    }

    #[test]
    fn a_year_of_mainnet() {
        let calendar = of(&mainnet(), "2026-11-26T19:00:00Z", "PoET");
        for line in calendar.split("\r\n") {
            assert!(line.len() <= LINE_OCTETS && !line.contains('\n'), "{line}");
        }
        let lines = lines(&calendar);
        let count = |line: &str| lines.iter().filter(|other| *other == line).count();
        // Round 87 is being worked on, 88 is open; the rounds up to 113 start within the year.
        assert_eq!(count("BEGIN:VEVENT"), 4 * 27);
        assert_eq!(count("END:VEVENT"), 4 * 27);
        let event = |summary: &str| {
            let at = lines.iter().position(|line| line == summary).unwrap();
            lines[..at]
                .iter()
                .rev()
                .take_while(|line| *line != "BEGIN:VEVENT")
                .filter(|line| line.starts_with("DTSTART") || line.starts_with("DTEND"))
                .cloned()
                .collect::<Vec<_>>()
        };
        for (summary, times) in [
            (
                "SUMMARY:PoET: registration for round 88 opens",
                &["DTSTART:20261123T080000Z"][..],
            ),
            (
                "SUMMARY:PoET: registration for round 88 closes in 24 hours",
                &["DTSTART:20261206T080000Z"],
            ),
            (
                "SUMMARY:PoET: registration for round 88 closes in 1 hour",
                &["DTEND:20261207T080000Z", "DTSTART:20261207T070000Z"],
            ),
            (
                "SUMMARY:PoET: proof of round 87 expected",
                &["DTSTART:20261206T200000Z"],
            ),
        ] {
            assert_eq!(event(summary), times, "{summary}");
        }
        let uids: std::collections::BTreeSet<_> = lines
            .iter()
            .filter(|line| line.starts_with("UID:"))
            .collect();
        assert_eq!(uids.len(), 4 * 27);
        // A week later, the events are the same.
        let later = self::lines(&of(&mainnet(), "2026-12-03T19:00:00Z", "PoET"));
        assert!(uids.iter().all(|uid| later.contains(uid)));
    }

    #[test]
    fn short_epochs_are_bounded_and_have_no_reminders() {
        let seconds = Duration::from_secs;
        let genesis = "2026-01-01T00:00:00Z".parse().unwrap();
        let schedule = Schedule::new(genesis, seconds(30), seconds(15), seconds(10)).unwrap();
        let lines = lines(&of(&schedule, "2026-01-01T00:00:00Z", "PoET"));
        let events = lines.iter().filter(|line| *line == "BEGIN:VEVENT").count();
        // Registration for round 0 has no opening time.
        assert_eq!(events as u64, 2 * MAX_ROUNDS - 1);
        // The end of time.
        let last = of(&schedule, "9999-12-30T22:00:00Z", "PoET");
        assert!(last.ends_with("END:VCALENDAR\r\n"));
    }

    #[test]
    fn names_cannot_add_lines() {
        let name = "a,b;c\\d\r\nEND:VCALENDAR\u{7}\u{2028}äöü";
        let calendar = of(&mainnet(), "2026-11-26T19:00:00Z", name);
        let lines = lines(&calendar);
        let ends = lines
            .iter()
            .filter(|line| line.starts_with("END:VCALENDAR"));
        assert_eq!(ends.count(), 1);
        let expected = "NAME:a\\,b\\;c\\\\d\\nEND:VCALENDAR\u{2028}äöü";
        assert_eq!(lines.iter().filter(|line| *line == expected).count(), 1);
    }
}
