//! Expands paths of the configuration.

use std::{env, ffi::OsString, path::PathBuf};

/// A path contains a variable that is not set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the environment variable {0} is not set: expected a path whose variables are all set")]
pub(crate) struct UnsetVariable(String);

/// Replaces a leading `~` with the user's home, and `$NAME` or `${NAME}` with that environment
/// variable, for files that no shell has processed.
///
/// # Errors
/// Fails if such a variable is not set.
pub(crate) fn expand(path: PathBuf) -> Result<PathBuf, UnsetVariable> {
    let path = match (path.strip_prefix("~"), env::home_dir()) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => path,
    };
    match path.to_str() {
        Some(text) if text.contains('$') => {
            expand_variables(text, |name| env::var_os(name)).map(PathBuf::from)
        }
        _ => Ok(path),
    }
}

fn expand_variables(
    text: &str,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<OsString, UnsetVariable> {
    let mut parts = text.split('$');
    let mut expanded = OsString::from(parts.next().unwrap_or_default());
    for part in parts {
        let braced = part.strip_prefix('{').and_then(|part| part.split_once('}'));
        let (name, rest) = braced.unwrap_or_else(|| {
            let in_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
            part.split_at(part.find(|c| !in_name(c)).unwrap_or(part.len()))
        });
        match variable(name) {
            Some(value) => {
                expanded.push(value);
                expanded.push(rest);
            }
            // Not the name of a variable.
            None if name.is_empty() || name.starts_with(|first: char| first.is_ascii_digit()) => {
                expanded.push("$");
                expanded.push(part);
            }
            None => return Err(UnsetVariable(name.to_owned())),
        }
    }
    Ok(expanded)
}

/// The default parent of a server's directories.
pub(crate) fn default_poetdir() -> Option<PathBuf> {
    Some(cache_directory()?.join("poet"))
}

fn cache_directory() -> Option<PathBuf> {
    if cfg!(windows) {
        return env::var_os("LOCALAPPDATA").map(PathBuf::from);
    }
    if cfg!(target_os = "macos") {
        return env::home_dir().map(|home| home.join("Library/Caches"));
    }
    env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| env::home_dir().map(|home| home.join(".cache")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_expanded() {
        let variable = |name: &str| match name {
            "HOME" => Some("/home/operator".into()),
            "N" => Some("7".into()),
            _ => None,
        };
        for (text, expanded) in [
            ("$HOME/poet", "/home/operator/poet"),
            ("${HOME}/poet", "/home/operator/poet"),
            ("/srv/$N-${N}${N}$N", "/srv/7-777"),
            ("/srv/$", "/srv/$"),
            ("/srv/$/$1/${", "/srv/$/$1/${"),
            ("/srv/$$N/${N", "/srv/$7/${N"),
        ] {
            assert_eq!(
                expand_variables(text, variable).unwrap(),
                *expanded,
                "{text}"
            );
        }
        for (text, name) in [
            ("$NO_SUCH/poet", "NO_SUCH"),
            ("/srv/${NO}/x", "NO"),
            ("$$X", "X"),
        ] {
            let error = expand_variables(text, variable).unwrap_err();
            assert_eq!(error, UnsetVariable(name.to_owned()), "{text}");
        }
    }
}
