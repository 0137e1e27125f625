//! The file of options: one `name=value` in a line, with the names of the command line's long options.
//!
//! Values may stand in double quotes, with the escapes of JSON in them; a switch without a value is on;
//! lines that begin with `;` or `#` are comments; section headers in brackets are passed over.

use std::{collections::HashMap, ffi::OsString, fs, path::Path};

use crate::{args::options_only, config_error::ConfigError};

/// What stands in a file.
#[derive(Default)]
pub(crate) struct OptionFile {
    /// Its lines as arguments of a command line, with the names of the options.
    pub(crate) arguments: Vec<(String, OsString)>,
    /// The lines of each option that count, by its name: the last one, of an option that may be given
    /// several times all.
    pub(crate) lines: HashMap<String, Vec<usize>>,
}

impl OptionFile {
    /// Reads the file.
    ///
    /// # Errors
    /// Fails if it cannot be read, or a line is no option.
    pub(crate) fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(path).map_err(|cause| ConfigError::Read {
            path: path.to_owned(),
            cause,
        })?;
        // Editors of other systems begin a file with a byte order mark.
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        let mut file = Self::default();
        for (index, line) in text.lines().enumerate() {
            let option = parse_line(line.trim()).map_err(|reason| ConfigError::Line {
                path: path.to_owned(),
                line: index + 1,
                reason,
            })?;
            if let Some((name, argument)) = option {
                file.arguments.push((name.clone(), argument.into()));
                let repeatable = find_option(&name).is_some_and(|option| is_repeatable(&option));
                let lines = file.lines.entry(name).or_default();
                // As on the command line of the original server, the last one counts.
                if !repeatable {
                    lines.clear();
                }
                lines.push(index + 1);
            }
        }
        Ok(file)
    }
}

/// The option in a line, if there is one: its name, and the argument that it is on a command line.
fn parse_line(line: &str) -> Result<Option<(String, String)>, String> {
    if line.is_empty() || line.starts_with([';', '#', '[']) {
        return Ok(None);
    }
    let (name, value) = line
        .split_once('=')
        .ok_or_else(|| format!("expected name=value, found {line:?}"))?;
    let (name, value) = (name.trim(), value.trim());
    let option = find_option(name).ok_or_else(|| format!("unknown option {name:?}"))?;
    let value = if value.starts_with('"') {
        // The same escapes as in JSON.
        serde_json::from_str(value).map_err(|_| {
            format!("expected a value in double quotes, with \\ before quotes in it, found {value}")
        })?
    } else {
        value.to_owned()
    };
    let argument = if value.is_empty() && is_switch(&option) {
        format!("--{name}")
    } else {
        format!("--{name}={value}")
    };
    options_only()
        .try_get_matches_from([&argument])
        .map_err(|error| {
            let message = error.to_string();
            let first_line = message.lines().next().unwrap_or_default();
            first_line
                .strip_prefix("error: ")
                .unwrap_or(first_line)
                .to_owned()
        })?;
    Ok(Some((name.to_owned(), argument)))
}

/// An option that a file may have: any of the command line but that for the file.
fn find_option(name: &str) -> Option<clap::Arg> {
    options_only()
        .get_arguments()
        .find(|option| option.get_long() == Some(name) && name != "configfile")
        .cloned()
}

/// Whether an option may stand without a value.
fn is_switch(option: &clap::Arg) -> bool {
    option
        .get_num_args()
        .is_some_and(|values| values.min_values() == 0)
}

/// Whether an option may be given several times.
fn is_repeatable(option: &clap::Arg) -> bool {
    matches!(option.get_action(), clap::ArgAction::Append)
}
