//! Reading reports.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::judge::follows;
use crate::report::{FORMAT, Report, SCHEMA};

/// The largest size of a report, with room for the largest machines.
const MAX_BYTES: u64 = 1 << 26;

impl Report {
    /// Reads a report from JSON.
    ///
    /// # Errors
    /// Fails if it is not JSON, not a report, of another version, or edited: its verdict must
    /// follow from its measurements.
    pub fn from_json(json: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(json)
            .ok()
            .context("it is not JSON: expected a report that poet-bench wrote with --json")?;
        ensure!(
            value.get("format").and_then(Value::as_str) == Some(FORMAT),
            "it is not a report of poet-bench"
        );
        match value.get("schema").and_then(Value::as_u64) {
            Some(SCHEMA) => {}
            Some(other) => bail!(
                "it has schema version {other}, and this program reads version {SCHEMA}: measure \
                 again, or use the version of poet-bench that wrote it"
            ),
            None => bail!("it has no schema version"),
        }
        let report: Self = serde_json::from_value(value)
            .ok()
            .context("it is damaged: a field is missing or has a wrong value")?;
        ensure!(
            follows(&report),
            "it was edited: its verdict does not follow from its measurements"
        );
        Ok(report)
    }

    /// Reads a report from a file.
    ///
    /// # Errors
    /// Fails if the file cannot be read or holds no report.
    pub fn load(path: &Path) -> Result<Self> {
        let name = path.display();
        let mut json = String::new();
        let read = File::open(path).and_then(|file| file.take(MAX_BYTES).read_to_string(&mut json));
        if let Err(error) = read {
            bail!("cannot read {name}: {}", poet_files::reason(&error));
        }
        Self::from_json(&json).with_context(|| format!("cannot use {name}"))
    }
}
