//! Dates for people: in the machine's time zone, which `TZ` names, or in UTC.

use std::env;

use jiff::{Timestamp, tz::TimeZone};

/// A time zone.
#[derive(Clone, Debug)]
pub struct Zone(TimeZone);

impl Zone {
    /// UTC.
    pub fn utc() -> Self {
        Self(TimeZone::UTC)
    }

    /// Returns the machine's time zone, from `TZ` or `/etc/localtime`; UTC if neither is set.
    ///
    /// # Errors
    /// Fails if `TZ` names an unknown time zone. The text is a sentence.
    pub fn local() -> Result<Self, String> {
        match (TimeZone::try_system(), env::var_os("TZ")) {
            (Ok(zone), _) => Ok(Self(zone)),
            (Err(_), Some(name)) if !name.is_empty() => Err(format!(
                "TZ={} is no time zone that this machine knows: expected a name such as Europe/Prague, \
                 and the package tzdata",
                name.to_string_lossy().escape_debug()
            )),
            (Err(_), _) => Ok(Self::utc()),
        }
    }

    /// Returns the machine's time zone, or UTC with a warning on standard error.
    pub fn local_or_utc() -> Self {
        Self::local().unwrap_or_else(|reason| {
            eprintln!("WARNING: {reason}; times are in UTC");
            Self::utc()
        })
    }

    /// Returns whether this is UTC, by whatever name.
    pub fn is_utc(&self) -> bool {
        self.0 == TimeZone::UTC || matches!(self.0.iana_name(), Some("UTC" | "Etc/UTC"))
    }

    /// Returns the name of the zone.
    pub fn name(&self) -> String {
        match self.0.iana_name() {
            _ if self.is_utc() => "UTC".to_owned(),
            Some(name) => name.to_owned(),
            None => "local time".to_owned(),
        }
    }

    /// Formats a time to the minute, or to the second if it is not a whole minute: `2026-12-07
    /// 09:00`.
    pub fn date(&self, time: Timestamp) -> String {
        let zoned = time.to_zoned(self.0.clone());
        let form = if zoned.second() == 0 {
            "%F %H:%M"
        } else {
            "%F %T"
        };
        zoned.strftime(form).to_string()
    }

    /// As [`Self::date`], preceded by the day of the week and followed by the zone: `Mon 2026-12-07
    /// 09:00 CET`.
    pub fn full_date(&self, time: Timestamp) -> String {
        let zoned = time.to_zoned(self.0.clone());
        format!(
            "{} {} {}",
            zoned.strftime("%a"),
            self.date(time),
            zoned.strftime("%Z")
        )
    }

    /// Formats a time in RFC 3339 with the offset of this zone.
    pub fn rfc3339(&self, time: Timestamp) -> String {
        time.to_zoned(self.0.clone())
            .strftime("%Y-%m-%dT%H:%M:%S%:z")
            .to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_in_a_zone() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let prague = Zone(TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap());
        let (winter, summer) = (at("2026-12-07T08:00:00Z"), at("2026-07-06T08:00:30Z"));
        assert_eq!(prague.date(winter), "2026-12-07 09:00");
        assert_eq!(prague.date(summer), "2026-07-06 10:00:30");
        assert_eq!(prague.full_date(winter), "Mon 2026-12-07 09:00 CET");
        assert_eq!(prague.full_date(summer), "Mon 2026-07-06 10:00:30 CEST");
        assert_eq!(prague.rfc3339(winter), "2026-12-07T09:00:00+01:00");
        assert!(!prague.is_utc());
        assert_eq!(Zone::utc().full_date(winter), "Mon 2026-12-07 08:00 UTC");
        assert_eq!(
            (Zone::utc().name(), Zone::utc().is_utc()),
            ("UTC".to_owned(), true)
        );
        for end in [Timestamp::MIN, Timestamp::MAX] {
            assert!(!prague.full_date(end).is_empty());
        }
    }
}
