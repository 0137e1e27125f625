//! The options for where and how the hashing thread runs.

use std::{fmt, str::FromStr};

use crate::MAX_CORES;

/// Which core the hashing thread gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WorkCore {
    /// The fastest.
    #[default]
    Auto,
    /// The one with this number.
    Number(usize),
    /// No core of its own.
    Off,
}

impl FromStr for WorkCore {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "off" => Ok(Self::Off),
            _ => text
                .parse()
                .ok()
                .filter(|core| *core < MAX_CORES)
                .map(Self::Number)
                .ok_or("expected auto, off or the number of a core"),
        }
    }
}

impl fmt::Display for WorkCore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Number(core) => write!(f, "{core}"),
            Self::Off => f.write_str("off"),
        }
    }
}

/// The priority of the hashing thread over other threads on its core.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WorkPriority {
    /// Like every other thread.
    #[default]
    Off,
    /// With the highest of the ordinary priorities.
    Nice,
    /// Before all threads that are not real-time.
    Realtime,
}

impl FromStr for WorkPriority {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Off, Self::Nice, Self::Realtime]
            .into_iter()
            .find(|priority| priority.to_string() == text)
            .ok_or("expected off, nice or realtime")
    }
}

impl fmt::Display for WorkPriority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "off",
            Self::Nice => "nice",
            Self::Realtime => "realtime",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_and_written() {
        for core in [WorkCore::Auto, WorkCore::Off, WorkCore::Number(3)] {
            assert_eq!(core.to_string().parse(), Ok(core));
        }
        for priority in [
            WorkPriority::Off,
            WorkPriority::Nice,
            WorkPriority::Realtime,
        ] {
            assert_eq!(priority.to_string().parse(), Ok(priority));
        }
        for text in ["", "-1", "1024", "fast", "0,1"] {
            assert!(text.parse::<WorkCore>().is_err());
        }
        assert!("high".parse::<WorkPriority>().is_err());
    }
}
