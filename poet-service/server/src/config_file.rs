//! The option file: one `name=value` per line, with the names of the command line's long options.
//!
//! A value may be in double quotes, with JSON's escapes; a switch without a value is on; lines that
//! begin with `;` or `#` are comments; section headers in brackets are ignored.

use std::{collections::HashMap, ffi::OsString, fs, path::Path};

use crate::{args::options_only, config_error::ConfigError};

/// The contents of a file.
#[derive(Default)]
pub(crate) struct OptionFile {
    /// The lines as arguments of a command line, with the names of their options.
    pub(crate) arguments: Vec<(String, OsString)>,
    /// The numbers of the effective lines of each option, by its name: all lines of an option that
    /// may be repeated, otherwise the last one.
    pub(crate) lines: HashMap<String, Vec<usize>>,
}

impl OptionFile {
    /// Reads the file.
    ///
    /// # Errors
    /// Fails if it cannot be read, or a line is invalid.
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
                // As on the command line of the original server, the last value counts.
                if !repeatable {
                    lines.clear();
                }
                lines.push(index + 1);
            }
        }
        Ok(file)
    }
}

/// Parses a line. Returns the name of the option in it and the equivalent argument, if there is
/// one.
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
        // The escapes are JSON's.
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

/// Finds an option that a file may contain: any but the one that names the file.
fn find_option(name: &str) -> Option<clap::Arg> {
    options_only()
        .get_arguments()
        .find(|option| option.get_long() == Some(name) && name != "configfile")
        .cloned()
}

/// Returns whether an option needs no value.
fn is_switch(option: &clap::Arg) -> bool {
    option
        .get_num_args()
        .is_some_and(|values| values.min_values() == 0)
}

/// Returns whether an option may be repeated.
fn is_repeatable(option: &clap::Arg) -> bool {
    matches!(option.get_action(), clap::ArgAction::Append)
}
