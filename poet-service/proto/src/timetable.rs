//! The next rounds of a schedule, printed by programs.

use jiff::Timestamp;
use serde::Serialize;

use crate::{
    calendar::{Owner, calendar},
    dates::Zone,
    duration::in_words,
    network::Network,
    schedule::Schedule,
};

/// The most rounds in a table.
pub const MAX_ROUNDS: u64 = 1000;

/// The next rounds of a schedule.
#[derive(Clone, Debug)]
pub struct Timetable {
    schedule: Schedule,
    now: Timestamp,
    rounds: u64,
}

/// The output format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A table for people.
    Text,
    /// One object.
    Json,
    /// A calendar of the next year.
    Calendar,
}

impl Timetable {
    /// Returns the round being worked on at `now`, if any, and `rounds` rounds starting with the
    /// open one.
    pub fn new(schedule: Schedule, now: Timestamp, rounds: u64) -> Self {
        Self {
            schedule,
            now,
            rounds: rounds.clamp(1, MAX_ROUNDS),
        }
    }

    /// Formats the table, with times in `zone` and in UTC. `name` is the server's, or the
    /// network's.
    pub fn print(&self, form: Form, name: &str, zone: &Zone) -> String {
        match form {
            Form::Text => self.text(zone),
            Form::Json => self.json(zone),
            Form::Calendar => {
                let owner = Owner { name, id: "poet" };
                calendar(&self.schedule, self.now, owner)
            }
        }
    }

    fn open(&self) -> u64 {
        self.schedule.open_round(self.now)
    }

    /// The round being worked on.
    fn executing(&self) -> Option<u64> {
        let round = self.open().checked_sub(1)?;
        (self.now < self.schedule.end(round)).then_some(round)
    }

    fn listed(&self) -> impl Iterator<Item = u64> {
        let open = self.open();
        let first = self.executing().unwrap_or(open);
        first..=open.saturating_add(self.rounds - 1)
    }

    fn left(&self, then: Timestamp) -> String {
        let left = then.duration_since(self.now);
        in_words(left.try_into().unwrap_or_default())
    }

    fn text(&self, zone: &Zone) -> String {
        let schedule = &self.schedule;
        let network = Network::of(schedule);
        let mut text = network.map_or_else(String::new, |network| {
            format!("network     {}\n", network.name)
        });
        text += &format!(
            "schedule    a round every {}, {} of work each\nnow         {}\n",
            in_words(schedule.epoch_duration()),
            in_words(schedule.work_duration()),
            both(zone, self.now),
        );
        let open = self.open();
        let closes = schedule.start(open);
        text += &format!(
            "open        round {open}: registering now counts for epoch {} (published in {})\n\
             \x20           closes in {}\n            {}\n",
            schedule.reward_epoch(open),
            schedule.publish_epoch(open),
            self.left(closes),
            both(zone, closes),
        );
        if let Some(round) = self.executing() {
            let end = schedule.end(round);
            text += &format!(
                "working     round {round}: its proof comes in {}\n            {}\n",
                self.left(end),
                both(zone, end)
            );
        } else if open > 0 {
            text +=
                &format!("working     nothing, until round {open} closes: this is the cycle gap\n");
        }
        let zones = if zone.is_utc() {
            vec![zone.clone()]
        } else {
            vec![zone.clone(), Zone::utc()]
        };
        for zone in zones {
            let mut rows =
                vec![["round", "for epoch", "opens", "closes", "proof"].map(str::to_owned)];
            for round in self.listed() {
                let opens = schedule.opens(round).map(|opens| zone.date(opens));
                rows.push([
                    round.to_string(),
                    schedule.reward_epoch(round).to_string(),
                    opens.unwrap_or_else(|| "-".to_owned()),
                    zone.date(schedule.start(round)),
                    zone.date(schedule.end(round)),
                ]);
            }
            text += &format!("\n{}:\n", zone.name());
            text += &columns(&rows);
        }
        text
    }

    fn json(&self, zone: &Zone) -> String {
        let schedule = &self.schedule;
        let time = |time: Timestamp| Time {
            utc: time.to_string(),
            local: zone.rfc3339(time),
        };
        let describe = |round: u64| RoundDates {
            round: round.to_string(),
            publish_epoch: schedule.publish_epoch(round).to_string(),
            reward_epoch: schedule.reward_epoch(round).to_string(),
            opens: schedule.opens(round).map(time),
            closes: time(schedule.start(round)),
            ends: time(schedule.end(round)),
        };
        let table = Table {
            network: Network::of(schedule).map(|network| network.name),
            genesis: schedule.genesis().to_string(),
            epoch_seconds: schedule.epoch_duration().as_secs_f64(),
            phase_shift_seconds: schedule.phase_shift().as_secs_f64(),
            cycle_gap_seconds: schedule.cycle_gap().as_secs_f64(),
            time_zone: zone.name(),
            now: time(self.now),
            open_round: self.open().to_string(),
            executing_round: self.executing().map(|round| round.to_string()),
            rounds: self.listed().map(describe).collect(),
        };
        crate::json::write(&table) + "\n"
    }
}

/// Formats a time in both zones.
pub fn both(zone: &Zone, time: Timestamp) -> String {
    if zone.is_utc() {
        return zone.full_date(time);
    }
    let (local, utc) = (zone.full_date(time), Zone::utc().date(time));
    format!("{local} ({utc} UTC)")
}

fn columns<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let mut text = String::new();
    for row in rows {
        let cells = row
            .iter()
            .enumerate()
            .map(|(column, cell)| format!("{cell:0$}", width(column)));
        text += cells.collect::<Vec<_>>().join("  ").trim_end();
        text.push('\n');
    }
    text
}

#[derive(Serialize)]
struct Time {
    utc: String,
    local: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RoundDates {
    round: String,
    publish_epoch: String,
    reward_epoch: String,
    opens: Option<Time>,
    closes: Time,
    ends: Time,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Table {
    network: Option<&'static str>,
    genesis: String,
    epoch_seconds: f64,
    phase_shift_seconds: f64,
    cycle_gap_seconds: f64,
    time_zone: String,
    now: Time,
    open_round: String,
    executing_round: Option<String>,
    rounds: Vec<RoundDates>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mainnet(now: &str) -> Timetable {
        let schedule = Network::named("mainnet").unwrap().schedule().unwrap();
        Timetable::new(schedule, now.parse().unwrap(), 2)
    }

    #[test]
    fn mainnet_in_the_middle_of_a_round() {
        let text = mainnet("2026-11-26T20:00:00Z").print(Form::Text, "", &Zone::utc());
        let expected = "\
network     mainnet
schedule    a round every 14 days, 13 days 12 h of work each
now         Thu 2026-11-26 20:00 UTC
open        round 88: registering now counts for epoch 90 (published in 89)
            closes in 10 days 12 h
            Mon 2026-12-07 08:00 UTC
working     round 87: its proof comes in 10 days
            Sun 2026-12-06 20:00 UTC

UTC:
round  for epoch  opens             closes            proof
87     89         2026-11-09 08:00  2026-11-23 08:00  2026-12-06 20:00
88     90         2026-11-23 08:00  2026-12-07 08:00  2026-12-20 20:00
89     91         2026-12-07 08:00  2026-12-21 08:00  2027-01-03 20:00
";
        assert_eq!(text, expected);
        assert!(text.lines().all(|line| line.len() <= 80), "{text}");
    }

    /// The network's dates since its first round.
    #[test]
    fn mainnet_since_2023() {
        for (now, open, executing, publish, reward) in [
            ("2023-07-14T08:00:00Z", "0", None, "1", "2"),
            ("2023-07-24T07:59:59Z", "0", None, "1", "2"),
            ("2023-07-24T08:00:00Z", "1", Some("0"), "2", "3"),
            ("2023-08-06T19:59:59Z", "1", Some("0"), "2", "3"),
            ("2023-08-06T20:00:00Z", "1", None, "2", "3"),
            ("2024-02-29T12:00:00Z", "16", Some("15"), "17", "18"),
            ("2025-02-16T20:00:00Z", "41", None, "42", "43"),
            ("2026-11-26T20:00:00Z", "88", Some("87"), "89", "90"),
            ("1970-01-01T00:00:00Z", "0", None, "1", "2"),
        ] {
            let json = mainnet(now).print(Form::Json, "", &Zone::utc());
            let table: serde_json::Value = serde_json::from_str(&json).unwrap();
            assert_eq!(table["network"], "mainnet");
            assert_eq!(table["openRound"], open, "{now}");
            assert_eq!(table["executingRound"].as_str(), executing, "{now}");
            let rounds = table["rounds"].as_array().unwrap();
            let round = rounds.iter().find(|round| round["round"] == open).unwrap();
            assert_eq!(round["publishEpoch"], publish, "{now}");
            assert_eq!(round["rewardEpoch"], reward, "{now}");
        }
    }

    #[test]
    fn every_form_survives_the_ends_of_time() {
        for now in ["-009999-01-02T01:59:59Z", "9999-12-30T22:00:00Z"] {
            for form in [Form::Text, Form::Json, Form::Calendar] {
                assert!(!mainnet(now).print(form, "x", &Zone::utc()).is_empty());
            }
        }
        let table = Timetable::new(
            Network::named("mainnet").unwrap().schedule().unwrap(),
            Timestamp::UNIX_EPOCH,
            u64::MAX,
        );
        assert_eq!(table.listed().count() as u64, MAX_ROUNDS);
    }
}
