use std::{fmt, str::FromStr, thread};

use poet_engine::MAX_THREADS;

/// How much of the work is audited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuditMode {
    /// Everything.
    Full,
    /// A random eighth; everything once an error is found.
    Sampled,
    /// Nothing, unless a proof turns out to be wrong.
    Off,
}

impl AuditMode {
    /// Returns the best mode for this machine: `Full` if there is a core to spare.
    pub fn for_this_machine() -> Self {
        if cores() > 1 { Self::Full } else { Self::Off }
    }
}

impl FromStr for AuditMode {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "full" => Ok(Self::Full),
            "sampled" => Ok(Self::Sampled),
            "off" => Ok(Self::Off),
            _ => Err("expected full, sampled or off"),
        }
    }
}

impl fmt::Display for AuditMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "full",
            Self::Sampled => "sampled",
            Self::Off => "off",
        })
    }
}

/// The number of cores that this process may use.
pub(super) fn cores() -> usize {
    thread::available_parallelism().map_or(1, |n| n.get().min(MAX_THREADS))
}
