//! The server's configuration: command line over file over defaults.
//!
//! The file has one `name=value` in a line, with the names of the command line's long options.
//! Values may stand in double quotes; lines that begin with `;` or `#` are comments; section
//! headers in brackets are passed over.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args as _, Parser};
use jiff::Timestamp;

use crate::{
    args::{OptionLine, ServerArgs},
    certificate::{self, Certifier, TrustedKeysError},
    identity::{PRIVATE_KEY_VARIABLE, PrivateKey, PrivateKeyError},
    registration::Rules,
};

/// All that the server needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// The network's genesis; without one, the server's first start.
    pub genesis: Option<Timestamp>,
    /// The length of an epoch.
    pub epoch_duration: Duration,
    /// From genesis to the start of round 0.
    pub phase_shift: Duration,
    /// From a round's end to the next one's start.
    pub cycle_gap: Duration,
    /// Where the work in progress is kept.
    pub datadir: PathBuf,
    /// Where the database is kept.
    pub dbdir: PathBuf,
    /// `host:port` for REST.
    pub restlisten: String,
    /// The rules of registration.
    pub rules: Rules,
    /// The server's key, if it was given.
    pub private_key: Option<PrivateKey>,
    /// The backend to use, if it was named.
    pub backend: Option<String>,
    /// Whether backends are timed against each other.
    pub trial: bool,
    /// Whether to log details.
    pub debug_log: bool,
    /// Whether to log in JSON.
    pub json_log: bool,
}

/// Why there is no usable configuration. Each message tells all there is to tell: causes are in
/// it, not behind it.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read --configfile {path}: {cause}")]
    Read {
        /// Which one.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// A line of the file means nothing.
    #[error("{path}, line {line}: {reason}")]
    Line {
        /// The file.
        path: PathBuf,
        /// The line's number, from 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// There is no place for the default directories.
    #[error("the user's cache directory is unknown: expected --poetdir, or --datadir and --dbdir")]
    NoCacheDirectory,
    /// A certifier without a key.
    #[error("--certifier-url is given without --certifier-pubkey: expected both")]
    CertifierWithoutKey,
    /// Trusted keys that nothing would be checked against.
    #[error("--trusted-pub-keys-dir-path is given without --certifier-pubkey: expected both")]
    TrustedWithoutCertifier,
    /// The trusted keys cannot be used.
    #[error("--trusted-pub-keys-dir-path: {cause}")]
    TrustedKeys {
        /// Why.
        cause: TrustedKeysError,
    },
    /// The key in the environment is none.
    #[error("{PRIVATE_KEY_VARIABLE}: {cause}")]
    PrivateKey {
        /// Why.
        cause: PrivateKeyError,
    },
}

impl Config {
    /// The configuration from a command line and the environment.
    ///
    /// # Errors
    /// When it, or the file it names, cannot be used.
    pub fn load(args: ServerArgs) -> Result<Self, ConfigError> {
        let private_key = match env::var_os(PRIVATE_KEY_VARIABLE) {
            None => None,
            Some(text) => Some(
                PrivateKey::from_base64(&text.to_string_lossy())
                    .map_err(|cause| ConfigError::PrivateKey { cause })?,
            ),
        };
        let file = match &args.configfile {
            None => ServerArgs::default(),
            Some(path) => read_file(&expand(path.clone()))?,
        };
        Self::resolve(over(args, file), private_key)
    }

    fn resolve(args: ServerArgs, private_key: Option<PrivateKey>) -> Result<Self, ConfigError> {
        let poetdir = args
            .poetdir
            .or_else(|| Some(cache_directory()?.join("poet")));
        let directory = |given: Option<PathBuf>, name| {
            given
                .or_else(|| Some(poetdir.as_ref()?.join(name)))
                .map(expand)
                .ok_or(ConfigError::NoCacheDirectory)
        };
        let certifier = match (args.certifier_pubkey, args.certifier_url) {
            (Some(pubkey), url) => {
                let trusted = match args.trusted_pub_keys_dir_path {
                    None => Vec::new(),
                    Some(folder) => certificate::read_trusted_keys(&expand(folder))
                        .map_err(|cause| ConfigError::TrustedKeys { cause })?,
                };
                Some(Certifier {
                    url: url.unwrap_or_default(),
                    pubkey,
                    trusted,
                })
            }
            (None, Some(_)) => return Err(ConfigError::CertifierWithoutKey),
            (None, None) if args.trusted_pub_keys_dir_path.is_some() => {
                return Err(ConfigError::TrustedWithoutCertifier);
            }
            (None, None) => None,
        };
        Ok(Self {
            genesis: args.genesis_time,
            epoch_duration: args.epoch_duration.unwrap_or(Duration::from_secs(30)),
            phase_shift: args.phase_shift.unwrap_or(Duration::from_secs(15)),
            cycle_gap: args.cycle_gap.unwrap_or(Duration::from_secs(10)),
            datadir: directory(args.datadir, "data")?,
            dbdir: directory(args.dbdir, "db")?,
            restlisten: args
                .restlisten
                .unwrap_or_else(|| "localhost:8080".to_owned()),
            rules: Rules {
                pow_difficulty: args.pow_difficulty.unwrap_or(0),
                max_round_members: args.max_round_members.unwrap_or(1 << 32),
                certifier,
            },
            private_key,
            backend: args.backend,
            trial: !args.no_trial.unwrap_or(false),
            debug_log: args.debuglog.unwrap_or(false),
            json_log: args.jsonlog.unwrap_or(false),
        })
    }
}

/// `args`, and where it says nothing, `file`.
fn over(args: ServerArgs, file: ServerArgs) -> ServerArgs {
    ServerArgs {
        genesis_time: args.genesis_time.or(file.genesis_time),
        poetdir: args.poetdir.or(file.poetdir),
        configfile: args.configfile.or(file.configfile),
        datadir: args.datadir.or(file.datadir),
        dbdir: args.dbdir.or(file.dbdir),
        debuglog: args.debuglog.or(file.debuglog),
        jsonlog: args.jsonlog.or(file.jsonlog),
        restlisten: args.restlisten.or(file.restlisten),
        epoch_duration: args.epoch_duration.or(file.epoch_duration),
        phase_shift: args.phase_shift.or(file.phase_shift),
        cycle_gap: args.cycle_gap.or(file.cycle_gap),
        pow_difficulty: args.pow_difficulty.or(file.pow_difficulty),
        max_round_members: args.max_round_members.or(file.max_round_members),
        certifier_url: args.certifier_url.or(file.certifier_url),
        certifier_pubkey: args.certifier_pubkey.or(file.certifier_pubkey),
        trusted_pub_keys_dir_path: args
            .trusted_pub_keys_dir_path
            .or(file.trusted_pub_keys_dir_path),
        backend: args.backend.or(file.backend),
        no_trial: args.no_trial.or(file.no_trial),
    }
}

fn read_file(path: &Path) -> Result<ServerArgs, ConfigError> {
    let text = fs::read_to_string(path).map_err(|cause| ConfigError::Read {
        path: path.to_owned(),
        cause,
    })?;
    let mut args = ServerArgs::default();
    for (index, line) in text.lines().enumerate() {
        let option = parse_line(line.trim()).map_err(|reason| ConfigError::Line {
            path: path.to_owned(),
            line: index + 1,
            reason,
        })?;
        // As on the command line of the original server, the last one counts.
        args = over(option, args);
    }
    Ok(args)
}

fn parse_line(line: &str) -> Result<ServerArgs, String> {
    if line.is_empty() || line.starts_with([';', '#', '[']) {
        return Ok(ServerArgs::default());
    }
    let (name, value) = line
        .split_once('=')
        .ok_or_else(|| format!("expected name=value, found {line:?}"))?;
    let (name, value) = (name.trim(), value.trim());
    if !is_option(name) {
        return Err(format!("unknown option {name:?}"));
    }
    let quoted = value
        .strip_prefix('"')
        .and_then(|value| value.strip_suffix('"'));
    let argument = format!("--{name}={}", quoted.unwrap_or(value));
    OptionLine::try_parse_from([argument])
        .map(|option| option.server)
        .map_err(|error| {
            let message = error.to_string();
            let first_line = message.lines().next().unwrap_or_default();
            first_line
                .strip_prefix("error: ")
                .unwrap_or(first_line)
                .to_owned()
        })
}

/// Whether a file may have this option: any of the command line but that for the file.
fn is_option(name: &str) -> bool {
    ServerArgs::augment_args(clap::Command::new(""))
        .get_arguments()
        .any(|option| option.get_long() == Some(name) && name != "configfile")
}

/// Replaces a leading `~` by the user's home, for files that no shell has seen.
fn expand(path: PathBuf) -> PathBuf {
    match (path.strip_prefix("~"), env::home_dir()) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => path,
    }
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

    fn load(file: &str, arguments: &[&str]) -> Result<Config, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("poet.conf");
        fs::write(&path, file).unwrap();
        let file = format!("--configfile={}", path.display());
        let line = [file.as_str()].into_iter().chain(arguments.iter().copied());
        let args = OptionLine::try_parse_from(line).unwrap().server;
        Config::load(args).map_err(|error| error.to_string())
    }

    #[test]
    fn defaults() {
        let config = load("", &["--poetdir=/p"]).unwrap();
        assert_eq!(config.genesis, None);
        assert_eq!(config.epoch_duration, Duration::from_secs(30));
        assert_eq!(config.phase_shift, Duration::from_secs(15));
        assert_eq!(config.cycle_gap, Duration::from_secs(10));
        assert_eq!(config.datadir, Path::new("/p/data"));
        assert_eq!(config.dbdir, Path::new("/p/db"));
        assert_eq!(config.restlisten, "localhost:8080");
        assert_eq!(config.rules.pow_difficulty, 0);
        assert_eq!(config.rules.max_round_members, 4_294_967_296);
        assert!(config.rules.certifier.is_none() && !config.debug_log && !config.json_log);
    }

    #[test]
    fn command_line_over_file_over_defaults() {
        let file = "\
            ; mainnet\n\
            [Server]\n\
            # all of it\n\
            genesis-time = 2023-07-14T08:00:00Z\n\
            epoch-duration=336h\n\
            \n\
            phase-shift=240h\n\
            cycle-gap=\"12h\"\n\
            pow-difficulty=20\n\
            debuglog=true\n\
            jsonlog=false\n\
            datadir=/elsewhere\n\
            max-round-members=7\n";
        let config = load(
            file,
            &[
                "--poetdir=/p",
                "--pow-difficulty=3",
                "--jsonlog",
                "-w",
                ":99",
            ],
        )
        .unwrap();
        assert_eq!(
            config.genesis,
            Some("2023-07-14T08:00:00Z".parse().unwrap())
        );
        assert_eq!(config.epoch_duration, Duration::from_secs(336 * 3600));
        assert_eq!(config.cycle_gap, Duration::from_secs(12 * 3600));
        assert_eq!(config.rules.pow_difficulty, 3);
        assert_eq!(config.rules.max_round_members, 7);
        assert_eq!(config.datadir, Path::new("/elsewhere"));
        assert_eq!(config.dbdir, Path::new("/p/db"));
        assert_eq!(config.restlisten, ":99");
        assert!(config.debug_log && config.json_log);
    }

    #[test]
    fn bad_files_are_named_with_the_line() {
        for (file, expected) in [
            ("\nfoo=1", "line 2: unknown option \"foo\""),
            ("configfile=x", "line 1: unknown option \"configfile\""),
            ("help=1", "line 1: unknown option \"help\""),
            (
                "epoch-duration",
                "line 1: expected name=value, found \"epoch-duration\"",
            ),
            (
                ";\n;\nepoch-duration=5",
                "line 3: invalid value '5' for '--epoch-duration <DURATION>': the unit is missing",
            ),
            (
                "debuglog=perhaps",
                "invalid value 'perhaps' for '--debuglog[=<BOOL>]'",
            ),
        ] {
            let error = load(file, &["--poetdir=/p"]).unwrap_err();
            assert!(
                error.contains("poet.conf") && error.contains(expected),
                "{error}"
            );
        }
        let args = ServerArgs {
            configfile: Some("/missing/file".into()),
            ..Default::default()
        };
        let error = Config::load(args).unwrap_err().to_string();
        assert!(
            error.starts_with("cannot read --configfile /missing/file: "),
            "{error}"
        );
    }

    #[test]
    fn certifiers_need_a_key() {
        let error = load("", &["--poetdir=/p", "--certifier-url=http://c"]).unwrap_err();
        assert!(error.contains("--certifier-pubkey"), "{error}");
        let error = load("", &["--poetdir=/p", "--trusted-pub-keys-dir-path=/k"]).unwrap_err();
        assert!(error.contains("--certifier-pubkey"), "{error}");
        let key = "--certifier-pubkey=V2j2EMp26MjC55ZVa9p/PpRBIgoM94JlHVSDR1LN+Ys=";
        let config = load("certifier-url=http://c", &["--poetdir=/p", key]).unwrap();
        assert_eq!(config.rules.certifier.unwrap().url, "http://c");
        let keys = "--trusted-pub-keys-dir-path=/missing";
        let error = load("", &["--poetdir=/p", key, keys]).unwrap_err();
        assert!(
            error.contains("--trusted-pub-keys-dir-path: cannot read /missing"),
            "{error}"
        );
    }

    #[test]
    fn homes_are_expanded() {
        let Some(home) = env::home_dir() else { return };
        let config = load("poetdir=~/poet", &[]).unwrap();
        assert_eq!(config.datadir, home.join("poet/data"));
    }
}
