//! The server's configuration: command line over file over defaults.
//!
//! The file has one `name=value` in a line, with the names of the command line's long options.
//! Values may stand in double quotes, with the escapes of JSON in them; a switch without a value is on;
//! lines that begin with `;` or `#` are comments; section headers in brackets are passed over.

use std::{
    collections::HashMap,
    env,
    ffi::OsString,
    fmt, fs, io,
    num::NonZero,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use clap::{Args as _, Parser};
use jiff::Timestamp;
use poet_host::{WorkCore, WorkPlace, WorkPriority};
use poet_proto::{
    certificate::{Certifier, TrustedKeys, TrustedKeysError},
    duration::format_go,
    identity::{PRIVATE_KEY_VARIABLE, PrivateKey, PrivateKeyError, PublicKey},
};
use poet_rounds::{config::RoundsConfig, registration::Rules, worker::AuditMode};
use poet_storage::directory::Directories;

use crate::{
    api::client::Rate,
    args::{OptionLine, ServerArgs},
    limits::ClientLimits,
};

/// The environment variable that may name the backend.
const BACKEND_VARIABLE: &str = "POET_BACKEND";
/// The burst of an address, unless configured, in seconds of its rate.
const BURST_SECONDS: f64 = 10.0;
const MEGABYTE: u64 = 1_000_000;
/// Options of the original server that there is nothing to do for.
const WITHOUT_EFFECT: [&str; 5] = ["lps", "memory", "tree-file-buffer", "cpuprofile", "profile"];

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
    /// `host:port` for gRPC.
    pub rpclisten: String,
    /// `host:port` for the operator's gRPC.
    pub config_rpclisten: String,
    /// The longest message that is sent over gRPC.
    pub max_grpc_response_bytes: usize,
    /// What clients may cost.
    pub client_limits: ClientLimits,
    /// Where metrics are served, if they are.
    pub metrics_port: Option<u16>,
    /// The rules of registration.
    pub rules: Rules,
    /// The server's key, if it was given.
    pub private_key: Option<PrivateKey>,
    /// The backend to use, if it was named.
    pub backend: Option<String>,
    /// Whether backends are timed against each other.
    pub trial: bool,
    /// Whether rounds are worked on.
    pub worker: bool,
    /// The core that the hashing thread asks for.
    pub work_core: WorkCore,
    /// The priority that the hashing thread asks for.
    pub work_priority: WorkPriority,
    /// The place that it has got; it has to be asked for before any thread is started.
    pub work_place: WorkPlace,
    /// How much of the work is audited.
    pub audit: AuditMode,
    /// Threads that audit.
    pub audit_threads: usize,
    /// The most registrations in one commit.
    pub max_submit_batch: usize,
    /// Where the log's files are kept.
    pub logdir: PathBuf,
    /// How many full log files are kept; 0 for one without limit.
    pub max_log_files: usize,
    /// How large a log file becomes.
    pub max_log_file_bytes: u64,
    /// Options that were given and have no effect.
    pub ignored: Vec<String>,
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
    #[error("cannot read --configfile {path}: {cause}: expected a text of name=value lines")]
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
    /// No way to register is left.
    #[error(
        "with --pow=off and without certificates nobody could register: expected --pow=on, or \
         --certifier-pubkey with --certificates=on"
    )]
    NoRegistration,
    /// A burst of a rate that is not limited.
    #[error("--rate-limit-burst is given without --rate-limit: expected both")]
    BurstWithoutRate,
    /// The key in the environment is none.
    #[error("{PRIVATE_KEY_VARIABLE}: {cause}")]
    PrivateKey {
        /// Why.
        cause: PrivateKeyError,
    },
}

/// Where the value of an option comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Given on the command line.
    CommandLine,
    /// Given in the file.
    File {
        /// Which one.
        path: PathBuf,
        /// The number of its line, from 1.
        line: usize,
    },
    /// Given in the environment.
    Environment,
    /// Given nowhere.
    Default,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CommandLine => f.write_str("command line"),
            Self::File { path, line } => write!(f, "{}, line {line}", path.display()),
            Self::Environment => f.write_str("environment"),
            Self::Default => f.write_str("default"),
        }
    }
}

/// The value that counts of an option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effective {
    /// The option.
    pub name: &'static str,
    /// Its value; empty for an option that is not set.
    pub value: String,
    /// Where the value comes from.
    pub source: Source,
}

impl Config {
    /// The configuration from a command line and the environment.
    ///
    /// # Errors
    /// When it, or the file it names, cannot be used.
    pub fn load(args: ServerArgs) -> Result<Self, ConfigError> {
        Self::explain(args).map(|(config, _)| config)
    }

    /// As [`Self::load`], with where each value comes from.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn explain(args: ServerArgs) -> Result<(Self, Vec<Effective>), ConfigError> {
        // As for the original server, an empty one is none.
        let given_key = env::var_os(PRIVATE_KEY_VARIABLE).filter(|text| !text.is_empty());
        let private_key = given_key
            .map(|text| PrivateKey::from_base64(&text.to_string_lossy()))
            .transpose()
            .map_err(|cause| ConfigError::PrivateKey { cause })?;
        let path = args.configfile.clone().map(expand);
        let file = match &path {
            None => File::default(),
            Some(path) => read_file(path)?,
        };
        let on_command_line = given(&args);
        let source = |name: &str| {
            if on_command_line.contains(&name) {
                return Source::CommandLine;
            }
            match (&path, file.lines.get(name)) {
                (Some(path), Some(line)) => Source::File {
                    path: path.clone(),
                    line: *line,
                },
                _ => Source::Default,
            }
        };
        let args = over(args, file.args);
        let config = Self::resolve(args.clone(), private_key)?;
        let effective = config
            .values(args)
            .into_iter()
            .map(|(name, value)| Effective {
                name,
                value,
                source: match name {
                    PRIVATE_KEY_VARIABLE if config.private_key.is_some() => Source::Environment,
                    "backend"
                        if config.backend.is_none() && env::var_os(BACKEND_VARIABLE).is_some() =>
                    {
                        Source::Environment
                    }
                    _ => source(name),
                },
            })
            .collect();
        Ok((config, effective))
    }

    /// What rounds follow.
    pub fn rounds(&self) -> RoundsConfig {
        RoundsConfig {
            genesis: self.genesis,
            epoch_duration: self.epoch_duration,
            phase_shift: self.phase_shift,
            cycle_gap: self.cycle_gap,
            rules: self.rules.clone(),
            private_key: self.private_key.clone(),
            worker: self.worker,
        }
    }

    /// Where the server keeps what must survive.
    pub fn directories(&self) -> Directories {
        Directories {
            dbdir: self.dbdir.clone(),
            datadir: self.datadir.clone(),
        }
    }

    /// Every option with the value that counts.
    fn values(&self, args: ServerArgs) -> Vec<(&'static str, String)> {
        fn text(value: Option<impl ToString>) -> String {
            value.map_or(String::new(), |value| value.to_string())
        }
        let path = |path: &Path| path.display().to_string();
        let switch = |on| if on { "on" } else { "off" }.to_owned();
        let key = |key: &PublicKey| STANDARD.encode(key.as_bytes());
        let (rules, limits) = (&self.rules, &self.client_limits);
        let (poetdir, configfile) = (args.poetdir.map(expand), args.configfile.map(expand));
        let (keys, backend) = (args.trusted_pub_keys_dir_path.map(expand), &self.backend);
        let backend = backend.clone().or_else(|| env::var(BACKEND_VARIABLE).ok());
        let flush = args.submit_flush_interval;
        vec![
            ("genesis-time", text(self.genesis)),
            (
                "poetdir",
                text(poetdir.or_else(default_poetdir).as_deref().map(path)),
            ),
            ("configfile", text(configfile.as_deref().map(path))),
            ("datadir", path(&self.datadir)),
            ("dbdir", path(&self.dbdir)),
            ("logdir", path(&self.logdir)),
            ("maxlogfiles", self.max_log_files.to_string()),
            (
                "maxlogfilesize",
                (self.max_log_file_bytes / MEGABYTE).to_string(),
            ),
            ("debuglog", self.debug_log.to_string()),
            ("jsonlog", self.json_log.to_string()),
            ("restlisten", self.restlisten.clone()),
            ("rpclisten", self.rpclisten.clone()),
            ("config-rpclisten", self.config_rpclisten.clone()),
            (
                "max-grpc-resp-size",
                self.max_grpc_response_bytes.to_string(),
            ),
            ("max-connections", text(limits.max_connections)),
            (
                "max-connections-per-address",
                text(limits.max_connections_per_address),
            ),
            ("rate-limit", text(limits.rate.map(|rate| rate.per_second))),
            ("rate-limit-burst", text(limits.rate.map(|rate| rate.burst))),
            ("trusted-proxies", limits.proxies.to_string()),
            ("metrics-port", text(self.metrics_port)),
            ("epoch-duration", format_go(self.epoch_duration)),
            ("phase-shift", format_go(self.phase_shift)),
            ("cycle-gap", format_go(self.cycle_gap)),
            ("pow-difficulty", rules.pow_difficulty.to_string()),
            ("max-round-members", rules.max_round_members.to_string()),
            ("max-submit-batch-size", self.max_submit_batch.to_string()),
            (
                "submit-flush-interval",
                format_go(flush.unwrap_or(Duration::from_millis(100))),
            ),
            ("pow", switch(rules.pow)),
            ("certificates", switch(args.certificates.unwrap_or(true))),
            ("certifier-url", text(args.certifier_url)),
            (
                "certifier-pubkey",
                text(args.certifier_pubkey.as_ref().map(key)),
            ),
            ("trusted-pub-keys-dir-path", text(keys.as_deref().map(path))),
            ("disable-worker", (!self.worker).to_string()),
            ("work-core", self.work_core.to_string()),
            ("work-priority", self.work_priority.to_string()),
            ("audit", self.audit.to_string()),
            ("audit-threads", self.audit_threads.to_string()),
            ("backend", text(backend)),
            ("no-trial", (!self.trial).to_string()),
            ("lps", text(args.lps)),
            ("memory", text(args.memory)),
            ("tree-file-buffer", text(args.tree_file_buffer)),
            ("cpuprofile", text(args.cpuprofile)),
            ("profile", text(args.profile)),
            (
                PRIVATE_KEY_VARIABLE,
                // Never the key itself.
                text(
                    self.private_key
                        .as_ref()
                        .map(|private| format!("the private key of {}", key(&private.public()))),
                ),
            ),
        ]
    }

    fn resolve(args: ServerArgs, private_key: Option<PrivateKey>) -> Result<Self, ConfigError> {
        let ignored = given(&args)
            .into_iter()
            .filter(|name| WITHOUT_EFFECT.contains(name))
            .map(|name| format!("--{name}"))
            .collect();
        let poetdir = args.poetdir.or_else(default_poetdir);
        let directory = |given: Option<PathBuf>, name| {
            given
                .or_else(|| Some(poetdir.as_ref()?.join(name)))
                .map(expand)
                .ok_or(ConfigError::NoCacheDirectory)
        };
        let certifier = match (args.certifier_pubkey, args.certifier_url) {
            (Some(pubkey), url) => {
                let trusted = match args.trusted_pub_keys_dir_path {
                    None => TrustedKeys::default(),
                    Some(folder) => TrustedKeys::read(expand(folder))
                        .map_err(|cause| ConfigError::TrustedKeys { cause })?,
                };
                Some(Certifier {
                    url: url.unwrap_or_default(),
                    pubkey,
                    trusted: Arc::new(trusted),
                })
            }
            (None, Some(_)) => return Err(ConfigError::CertifierWithoutKey),
            (None, None) if args.trusted_pub_keys_dir_path.is_some() => {
                return Err(ConfigError::TrustedWithoutCertifier);
            }
            (None, None) => None,
        };
        let certifier = certifier.filter(|_| args.certificates.unwrap_or(true));
        let pow = args.pow.unwrap_or(true);
        if !pow && certifier.is_none() {
            return Err(ConfigError::NoRegistration);
        }
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
            rpclisten: args
                .rpclisten
                .unwrap_or_else(|| "localhost:50002".to_owned()),
            config_rpclisten: args
                .config_rpclisten
                .unwrap_or_else(|| "localhost:50001".to_owned()),
            max_grpc_response_bytes: args.max_grpc_resp_size.unwrap_or(8 << 20),
            client_limits: ClientLimits {
                max_connections: args.max_connections,
                max_connections_per_address: args.max_connections_per_address,
                rate: rate(args.rate_limit, args.rate_limit_burst)?,
                proxies: args.trusted_proxies.unwrap_or_default(),
            },
            metrics_port: args.metrics_port,
            worker: !args.disable_worker.unwrap_or(false),
            work_core: args.work_core.unwrap_or_default(),
            work_priority: args.work_priority.unwrap_or_default(),
            work_place: WorkPlace::default(),
            audit: args.audit.unwrap_or_else(AuditMode::for_this_machine),
            audit_threads: args.audit_threads.unwrap_or(1),
            max_submit_batch: args.max_submit_batch_size.unwrap_or(1000),
            logdir: directory(args.logdir, "logs")?,
            max_log_files: args.maxlogfiles.unwrap_or(3),
            max_log_file_bytes: args.maxlogfilesize.unwrap_or(10) * MEGABYTE,
            ignored,
            rules: Rules {
                pow,
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

fn rate(per_second: Option<f64>, burst: Option<NonZero<u32>>) -> Result<Option<Rate>, ConfigError> {
    let Some(per_second) = per_second else {
        return match burst {
            Some(_) => Err(ConfigError::BurstWithoutRate),
            None => Ok(None),
        };
    };
    let default = || {
        let requests = (per_second * BURST_SECONDS).ceil() as u32;
        NonZero::new(requests).unwrap_or(NonZero::<u32>::MIN)
    };
    Ok(Some(Rate {
        per_second,
        burst: burst.unwrap_or_else(default),
    }))
}

/// What is done to every option.
macro_rules! for_all_options {
    ($($field:ident $name:literal),* $(,)?) => {
        /// `args`, and where it says nothing, `file`.
        fn over(args: ServerArgs, file: ServerArgs) -> ServerArgs {
            ServerArgs {
                $($field: args.$field.or(file.$field)),*
            }
        }

        /// The names of the options that are set in `args`.
        fn given(args: &ServerArgs) -> Vec<&'static str> {
            let mut names = Vec::new();
            $(if args.$field.is_some() {
                names.push($name);
            })*
            names
        }
    };
}

for_all_options!(
    genesis_time "genesis-time",
    poetdir "poetdir",
    configfile "configfile",
    datadir "datadir",
    dbdir "dbdir",
    logdir "logdir",
    maxlogfiles "maxlogfiles",
    maxlogfilesize "maxlogfilesize",
    debuglog "debuglog",
    jsonlog "jsonlog",
    restlisten "restlisten",
    rpclisten "rpclisten",
    config_rpclisten "config-rpclisten",
    max_grpc_resp_size "max-grpc-resp-size",
    max_connections "max-connections",
    max_connections_per_address "max-connections-per-address",
    rate_limit "rate-limit",
    rate_limit_burst "rate-limit-burst",
    trusted_proxies "trusted-proxies",
    metrics_port "metrics-port",
    epoch_duration "epoch-duration",
    phase_shift "phase-shift",
    cycle_gap "cycle-gap",
    pow_difficulty "pow-difficulty",
    max_round_members "max-round-members",
    max_submit_batch_size "max-submit-batch-size",
    submit_flush_interval "submit-flush-interval",
    pow "pow",
    certificates "certificates",
    certifier_url "certifier-url",
    certifier_pubkey "certifier-pubkey",
    trusted_pub_keys_dir_path "trusted-pub-keys-dir-path",
    disable_worker "disable-worker",
    work_core "work-core",
    work_priority "work-priority",
    audit "audit",
    audit_threads "audit-threads",
    backend "backend",
    no_trial "no-trial",
    lps "lps",
    memory "memory",
    tree_file_buffer "tree-file-buffer",
    cpuprofile "cpuprofile",
    profile "profile",
);

/// What stands in a file.
#[derive(Default)]
struct File {
    args: ServerArgs,
    /// The line of each option that counts.
    lines: HashMap<String, usize>,
}

fn read_file(path: &Path) -> Result<File, ConfigError> {
    let text = fs::read_to_string(path).map_err(|cause| ConfigError::Read {
        path: path.to_owned(),
        cause,
    })?;
    let mut file = File::default();
    for (index, line) in text.lines().enumerate() {
        let option = parse_line(line.trim()).map_err(|reason| ConfigError::Line {
            path: path.to_owned(),
            line: index + 1,
            reason,
        })?;
        if let Some((name, option)) = option {
            // As on the command line of the original server, the last one counts.
            file.args = over(option, file.args);
            file.lines.insert(name, index + 1);
        }
    }
    Ok(file)
}

/// The option in a line, if there is one.
fn parse_line(line: &str) -> Result<Option<(String, ServerArgs)>, String> {
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
    let option = OptionLine::try_parse_from([argument]).map_err(|error| {
        let message = error.to_string();
        let first_line = message.lines().next().unwrap_or_default();
        first_line
            .strip_prefix("error: ")
            .unwrap_or(first_line)
            .to_owned()
    })?;
    Ok(Some((name.to_owned(), option.server)))
}

/// An option that a file may have: any of the command line but that for the file.
fn find_option(name: &str) -> Option<clap::Arg> {
    ServerArgs::augment_args(clap::Command::new(""))
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

/// Replaces a leading `~` by the user's home and `$NAME` or `${NAME}` by that variable of the
/// environment, for files that no shell has seen. A variable that is not set is left as it stands:
/// the path is wrong either way, and so the error says why.
fn expand(path: PathBuf) -> PathBuf {
    let path = match (path.strip_prefix("~"), env::home_dir()) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => path,
    };
    match path.to_str() {
        Some(text) if text.contains('$') => expand_variables(text, |name| env::var_os(name)).into(),
        _ => path,
    }
}

fn expand_variables(text: &str, variable: impl Fn(&str) -> Option<OsString>) -> OsString {
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
            None => {
                expanded.push("$");
                expanded.push(part);
            }
        }
    }
    expanded
}

fn default_poetdir() -> Option<PathBuf> {
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
        assert_eq!(config.rpclisten, "localhost:50002");
        assert_eq!(config.config_rpclisten, "localhost:50001");
        assert_eq!(config.max_grpc_response_bytes, 8_388_608);
        assert_eq!(config.rules.pow_difficulty, 0);
        assert_eq!(config.rules.max_round_members, 4_294_967_296);
        assert_eq!(config.logdir, Path::new("/p/logs"));
        assert_eq!(
            (config.max_log_files, config.max_log_file_bytes),
            (3, 10_000_000)
        );
        assert_eq!(config.max_submit_batch, 1000);
        assert!(config.worker && config.rules.pow && config.ignored.is_empty());
        assert_eq!(config.work_core, WorkCore::Auto);
        assert_eq!(config.work_priority, WorkPriority::Off);
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
                "\ndatadir=\"/a",
                "line 2: expected a value in double quotes, with \\ before quotes in it, found \"/a",
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
    fn rates_have_a_burst() {
        let rate = |line: &[&str]| load("", &[&["--poetdir=/p"], line].concat());
        let limits = |line: &[&str]| rate(line).unwrap().client_limits;
        assert_eq!(limits(&[]), ClientLimits::default());
        let of = |line: &[&str]| limits(line).rate.unwrap().burst.get();
        assert_eq!(of(&["--rate-limit=2.5"]), 25);
        assert_eq!(of(&["--rate-limit=0.01"]), 1);
        assert_eq!(of(&["--rate-limit=2", "--rate-limit-burst=7"]), 7);
        let error = rate(&["--rate-limit-burst=7"]).unwrap_err();
        assert!(error.contains("without --rate-limit"), "{error}");
    }

    #[test]
    fn a_way_to_register_is_left() {
        let key = "certifier-pubkey=V2j2EMp26MjC55ZVa9p/PpRBIgoM94JlHVSDR1LN+Ys=";
        let config = load(key, &["--poetdir=/p", "--pow=off"]).unwrap();
        assert!(!config.rules.pow && config.rules.certifier.is_some());
        let config = load(key, &["--poetdir=/p", "--certificates=off"]).unwrap();
        assert!(config.rules.pow && config.rules.certifier.is_none());
        for (file, options) in [
            ("", &["--pow=off"][..]),
            (key, &["--pow=off", "--certificates=off"]),
        ] {
            let options = [&["--poetdir=/p"], options].concat();
            let error = load(file, &options).unwrap_err();
            assert!(error.contains("nobody could register"), "{error}");
        }
    }

    #[test]
    fn quoted_values_and_the_spellings_of_go() {
        let file = "datadir=\"/a \\\"b\\\"\"\ndebuglog=1\njsonlog=T\ndisable-worker=True\n";
        let config = load(file, &["--poetdir=/p", "--jsonlog=0"]).unwrap();
        assert_eq!(config.datadir, Path::new("/a \"b\""));
        assert!(config.debug_log && !config.json_log && !config.worker);
        // A switch without a value is on, other options need one.
        let config = load("debuglog=\n disable-worker =\n", &["--poetdir=/p"]).unwrap();
        assert!(config.debug_log && !config.json_log && !config.worker);
        for line in ["datadir=", "pow=", "epoch-duration=", "certifier-url="] {
            let error = load(line, &["--poetdir=/p"]).unwrap_err();
            let (name, _) = line.split_once('=').unwrap();
            assert!(error.contains(&format!("--{name}")), "{error}");
        }
    }

    #[test]
    fn options_without_effect_are_named() {
        let config = load("lps=1000\nmemory=26\n", &["--poetdir=/p", "--profile=1"]).unwrap();
        assert_eq!(config.ignored, ["--lps", "--memory", "--profile"]);
    }

    #[test]
    fn every_option_is_explained() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("poet.conf");
        fs::write(&path, "\nmemory=1\npow-difficulty=5\n").unwrap();
        let file = format!("--configfile={}", path.display());
        let line = [&file, "--poetdir=/p", "--memory=2"];
        let args = OptionLine::try_parse_from(line).unwrap().server;
        let (_, effective) = Config::explain(args).unwrap();
        let of = |name: &str| effective.iter().find(|option| option.name == name).unwrap();
        let difficulty = of("pow-difficulty");
        assert_eq!(
            (&*difficulty.value, &difficulty.source),
            ("5", &Source::File { path, line: 3 })
        );
        assert_eq!(
            (&*of("memory").value, &of("memory").source),
            ("2", &Source::CommandLine)
        );
        assert_eq!(
            (&*of("logdir").value, &of("logdir").source),
            ("/p/logs", &Source::Default)
        );
        // The names of both lists are those of the command line.
        let command = ServerArgs::augment_args(clap::Command::new(""));
        let mut known: Vec<_> = command
            .get_arguments()
            .filter_map(clap::Arg::get_long)
            .collect();
        let mut explained: Vec<_> = effective.iter().map(|option| option.name).collect();
        explained.retain(|name| *name != PRIVATE_KEY_VARIABLE);
        known.sort_unstable();
        explained.sort_unstable();
        assert_eq!(explained, known);
    }

    #[test]
    fn homes_are_expanded() {
        let Some(home) = env::home_dir() else { return };
        let config = load("poetdir=~/poet", &[]).unwrap();
        assert_eq!(config.datadir, home.join("poet/data"));
    }

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
            ("/srv/$NO/${NO}/x", "/srv/$NO/${NO}/x"),
            ("/srv/$", "/srv/$"),
            ("/srv/$$N/${N", "/srv/$7/${N"),
        ] {
            assert_eq!(expand_variables(text, variable), *expanded, "{text}");
        }
        let path = env::var_os("PATH").unwrap();
        let config = load("dbdir=${PATH}", &["--poetdir=/p"]).unwrap();
        assert_eq!(config.dbdir, Path::new(&path));
    }
}
