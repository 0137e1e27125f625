//! The server's configuration: the command line overrides the file, which overrides the defaults.

use std::{env, fmt, num::NonZero, path::PathBuf};

use clap::FromArgMatches as _;
use poet_host::{WorkCore, WorkPriority};
use poet_proto::{
    base64,
    certificate::{Certifier, TrustedKeys},
    identity::{PRIVATE_KEY_VARIABLE, PrivateKey},
};
use poet_rounds::{
    config::{ClusterConfig, RoundsConfig, WorkerMode},
    registration::Rules,
    worker::AuditMode,
};
use poet_storage::{DatabaseUrl, directory::Directories};

pub use crate::config_error::ConfigError;
use crate::{
    api::{client::RequestRate, patience::Patience},
    args::{Options, ServerArgs, Switch, WITHOUT_EFFECT, WorkerOption, options_only},
    config_file::OptionFile,
    limits::ClientLimits,
    notify::NotifyConfig,
    paths::default_poetdir,
};

/// The default burst of an address, in seconds of its rate.
const BURST_SECONDS: f64 = 10.0;
const MEGABYTE: u64 = 1_000_000;

/// The whole configuration of the server.
#[derive(Clone, Debug)]
pub struct Config {
    /// The configuration of the rounds.
    pub rounds: RoundsConfig,
    /// The directories of what must survive.
    pub directories: Directories,
    /// The database shared with other servers, used instead of the embedded one.
    pub database: Option<DatabaseUrl>,
    /// The most registrations in one commit.
    pub max_submit_batch: usize,
    /// How long registrations are kept after the end of their round; for ever if `None`.
    pub keep_registrations: Option<std::time::Duration>,
    /// Where the server listens, and the limits of its clients.
    pub listeners: ListenersConfig,
    /// How the work is done.
    pub work: WorkConfig,
    /// What the server's pages say.
    pub page: PageConfig,
    /// How the server logs.
    pub log: LogConfig,
    /// Who is notified of events.
    pub notify: NotifyConfig,
    /// Options that were given and have no effect.
    pub ignored: Vec<String>,
    /// Every option with its value and its source.
    pub effective: Vec<Effective>,
}

/// Where the server listens, and the limits of its clients.
#[derive(Clone, Debug)]
pub struct ListenersConfig {
    /// `host:port` for REST.
    pub rest: String,
    /// `host:port` for gRPC.
    pub grpc: String,
    /// `host:port` for the operator's gRPC.
    pub private: String,
    /// Where metrics are served, if anywhere.
    pub metrics: Option<MetricsAddress>,
    /// The longest message to send over gRPC.
    pub max_grpc_response_bytes: usize,
    /// The limits of clients.
    pub limits: ClientLimits,
}

/// Where metrics are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetricsAddress {
    /// The option that sets it.
    pub option: &'static str,
    /// `host:port`, or `:port` for every interface.
    pub address: String,
}

/// What the server's pages say.
#[derive(Clone, Debug)]
pub struct PageConfig {
    /// The server's name.
    pub name: Option<String>,
    /// The address at which nodes reach it.
    pub public_url: Option<String>,
    /// Whether there is a public page.
    pub public: bool,
}

/// How the work is done.
#[derive(Clone, Debug)]
pub struct WorkConfig {
    /// The backend to use, if one is configured.
    pub backend: Option<String>,
    /// Whether to choose the backend by a timing trial.
    pub trial: bool,
    /// The core for the hashing thread.
    pub core: WorkCore,
    /// The priority of the hashing thread.
    pub priority: WorkPriority,
    /// How much of the work to audit.
    pub audit: AuditMode,
    /// The number of auditing threads.
    pub audit_threads: usize,
}

/// How the server logs.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// The folder of the log files.
    pub folder: PathBuf,
    /// How many full log files to keep; 0 for one file without limit.
    pub max_files: usize,
    /// The size of a full log file.
    pub max_file_bytes: u64,
    /// Whether to log details.
    pub debug: bool,
    /// Whether to log in JSON.
    pub json: bool,
}

/// The source of an option's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OptionSource {
    /// Given on the command line.
    CommandLine,
    /// Given in the file.
    File {
        /// Its path.
        path: PathBuf,
        /// The numbers of its lines, from 1.
        lines: Vec<usize>,
    },
    /// Given in the environment.
    Environment,
    /// The default of the network with this name.
    Network(&'static str),
    /// Not given.
    Default,
}

impl fmt::Display for OptionSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CommandLine => f.write_str("command line"),
            Self::File { path, lines } => {
                let numbers: Vec<_> = lines.iter().map(usize::to_string).collect();
                let word = if lines.len() == 1 { "line" } else { "lines" };
                write!(f, "{}, {word} {}", path.display(), numbers.join(", "))
            }
            Self::Environment => f.write_str("environment"),
            Self::Network(name) => write!(f, "network {name}"),
            Self::Default => f.write_str("default"),
        }
    }
}

/// The effective value of an option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effective {
    /// The option, or the environment variable.
    pub name: String,
    /// Its value; empty for an option that is not set.
    pub value: String,
    /// The source of the value.
    pub source: OptionSource,
}

impl Config {
    /// Loads the configuration from a command line and the environment.
    ///
    /// # Errors
    /// Fails if it, or the file it names, cannot be used.
    pub fn load(args: ServerArgs) -> Result<Self, ConfigError> {
        let ServerArgs(given) = args;
        // As with the original server, an empty variable counts as unset.
        let given_key = env::var_os(PRIVATE_KEY_VARIABLE).filter(|text| !text.is_empty());
        let private_key = given_key
            .map(|text| PrivateKey::from_base64(&text.to_string_lossy()))
            .transpose()
            .map_err(|cause| ConfigError::PrivateKey { cause })?;
        let on_command_line = options_only().try_get_matches_from(&given)?;
        let path = on_command_line.get_one::<PathBuf>("configfile").cloned();
        let file = match &path {
            None => OptionFile::default(),
            Some(path) => OptionFile::read(path)?,
        };
        let is_on_command_line = |id: &str| {
            on_command_line.value_source(id) == Some(clap::parser::ValueSource::CommandLine)
        };
        let mut command = options_only();
        // The command line overrides the file, even for options that may be repeated. Within
        // either, the last value of any other option counts.
        let overridden: Vec<_> = command
            .get_arguments()
            .filter(|option| is_on_command_line(option.get_id().as_str()))
            .filter_map(clap::Arg::get_long)
            .map(str::to_owned)
            .collect();
        let in_file = file.arguments.iter();
        let in_file = in_file.filter(|(name, _)| !overridden.contains(name));
        let arguments = in_file.map(|(_, argument)| argument).chain(&given);
        let matches = command.try_get_matches_from_mut(arguments)?;
        let mut options = Options::from_arg_matches(&matches)?;
        let is_given =
            |id: &str| matches.value_source(id) == Some(clap::parser::ValueSource::CommandLine);
        let ignored: Vec<_> = WITHOUT_EFFECT
            .into_iter()
            .filter(|id| is_given(id))
            .map(|id| format!("--{}", id.replace('_', "-")))
            .collect();
        let of_network = options.follow_network(is_given);
        let audit = options.complete()?;
        let backend_variable = env::var(poet_backends::ENVIRONMENT_VARIABLE).ok();
        let mut effective = Vec::new();
        for (id, mut value) in options.texts() {
            let name = command
                .get_arguments()
                .find(|option| option.get_id() == id)
                .and_then(clap::Arg::get_long)
                .unwrap_or(id)
                .to_owned();
            let source = if is_on_command_line(id) {
                OptionSource::CommandLine
            } else if let (Some(path), Some(lines)) = (&path, file.lines.get(&name)) {
                OptionSource::File {
                    path: path.clone(),
                    lines: lines.clone(),
                }
            } else if let ("backend", Some(variable)) = (id, &backend_variable) {
                value.clone_from(variable);
                OptionSource::Environment
            } else if let (Some(network), true) = (options.network, of_network.contains(&id)) {
                OptionSource::Network(network.name)
            } else {
                OptionSource::Default
            };
            effective.push(Effective {
                name,
                value,
                source,
            });
        }
        // The key itself must never be shown.
        let key = private_key.as_ref().map(|key| {
            let public = base64::encode(key.public().as_bytes());
            format!("the private key of {public}")
        });
        effective.push(Effective {
            name: PRIVATE_KEY_VARIABLE.to_owned(),
            source: match key {
                Some(_) => OptionSource::Environment,
                None => OptionSource::Default,
            },
            value: key.unwrap_or_default(),
        });
        Self::resolve(options, audit, private_key, ignored, effective)
    }

    fn resolve(
        args: Options,
        audit: AuditMode,
        private_key: Option<PrivateKey>,
        ignored: Vec<String>,
        effective: Vec<Effective>,
    ) -> Result<Self, ConfigError> {
        if args.certifier_url.is_some() && args.certifier_pubkey.is_none() {
            return Err(ConfigError::CertifierWithoutKey);
        }
        let trusted = match args.trusted_pub_keys_dir_path {
            None => None,
            Some(folder) => Some(
                TrustedKeys::read(folder).map_err(|cause| ConfigError::TrustedKeys { cause })?,
            ),
        };
        let certifier = (args.certifier_pubkey.is_some() || trusted.is_some()).then(|| Certifier {
            url: args.certifier_url.unwrap_or_default(),
            pubkey: args.certifier_pubkey,
            trusted: trusted.unwrap_or_default(),
        });
        let certifier = certifier.filter(|_| args.certificates == Switch::On);
        let pow = args.pow == Switch::On;
        if !pow && certifier.is_none() {
            return Err(ConfigError::NoRegistration);
        }
        let worker = match (&args.database, args.worker, args.disable_worker) {
            (Some(_), WorkerOption::Off, _) | (Some(_), _, true) => WorkerMode::Off,
            (None, _, true) => WorkerMode::Nobody,
            (None, worker @ (WorkerOption::Standby | WorkerOption::Off), false) => {
                return Err(ConfigError::NobodyWorks(worker));
            }
            (Some(_), WorkerOption::Standby, false) => WorkerMode::Standby,
            (_, WorkerOption::On, false) => WorkerMode::On,
        };
        let directory = |path: Option<PathBuf>| path.ok_or(ConfigError::NoCacheDirectory);
        Ok(Self {
            rounds: RoundsConfig {
                genesis: args.genesis_time,
                epoch_duration: args.epoch_duration,
                phase_shift: args.phase_shift,
                cycle_gap: args.cycle_gap,
                early_cycle_gaps: args.early_cycle_gap,
                rules: Rules {
                    pow,
                    pow_difficulty: args.pow_difficulty,
                    max_round_members: args.max_round_members,
                    certifier,
                },
                private_key,
                clock_leap_patience: args.clock_leap_patience,
                worker,
                cluster: ClusterConfig {
                    name: String::new(),
                    takeover_after: args.takeover_after,
                },
            },
            directories: Directories {
                dbdir: directory(args.dbdir)?,
                datadir: directory(args.datadir)?,
            },
            database: args.database,
            max_submit_batch: args.max_submit_batch_size,
            keep_registrations: args.keep_registrations,
            listeners: ListenersConfig {
                rest: args.restlisten,
                grpc: args.rpclisten,
                private: args.config_rpclisten,
                metrics: metrics_address(args.metrics_listen, args.metrics_port),
                max_grpc_response_bytes: args.max_grpc_resp_size,
                limits: ClientLimits {
                    max_connections: args.max_connections,
                    max_grpc_connections: args.max_grpc_connections,
                    max_connections_per_address: args.max_connections_per_address,
                    rate: rate(args.rate_limit, args.rate_limit_burst)?,
                    proxies: args.trusted_proxies.unwrap_or_default(),
                    patience: Patience::default(),
                },
            },
            work: WorkConfig {
                backend: args.backend,
                trial: !args.no_trial,
                core: args.work_core,
                priority: args.work_priority,
                audit,
                audit_threads: args.audit_threads,
            },
            page: PageConfig {
                name: args.name,
                public_url: args.public_url,
                public: args.page == Switch::On,
            },
            log: LogConfig {
                folder: directory(args.logdir)?,
                max_files: args.maxlogfiles,
                max_file_bytes: args.maxlogfilesize * MEGABYTE,
                debug: args.debuglog,
                json: args.jsonlog,
            },
            notify: NotifyConfig {
                command: args.notify_command,
                url: args.notify_url,
            },
            ignored,
            effective,
        })
    }
}

fn metrics_address(address: Option<String>, port: Option<u16>) -> Option<MetricsAddress> {
    let listen = address.map(|address| MetricsAddress {
        option: "--metrics-listen",
        address,
    });
    // On all interfaces, like the original server.
    let every = |port| MetricsAddress {
        option: "--metrics-port",
        address: format!(":{port}"),
    };
    listen.or(port.map(every))
}

impl Options {
    /// Sets the options that the network determines and nothing else sets. Returns which.
    fn follow_network(&mut self, is_given: impl Fn(&str) -> bool) -> Vec<&'static str> {
        let Some(network) = self.network else {
            return Vec::new();
        };
        let mut set = Vec::new();
        let mut follow = |id, set_value: &mut dyn FnMut()| {
            if !is_given(id) {
                set_value();
                set.push(id);
            }
        };
        follow("genesis_time", &mut || {
            self.genesis_time = Some(network.genesis);
        });
        for (id, value, of_network) in [
            (
                "epoch_duration",
                &mut self.epoch_duration,
                network.epoch_duration,
            ),
            ("phase_shift", &mut self.phase_shift, network.phase_shift),
            ("cycle_gap", &mut self.cycle_gap, network.cycle_gap),
        ] {
            follow(id, &mut || *value = of_network);
        }
        set
    }

    /// Sets the options whose default depends on other options, or on the machine. Returns the one
    /// that always has a value then.
    fn complete(&mut self) -> Result<AuditMode, ConfigError> {
        self.poetdir = self.poetdir.take().or_else(default_poetdir);
        for (directory, name) in [
            (&mut self.datadir, "data"),
            (&mut self.dbdir, "db"),
            (&mut self.logdir, "logs"),
        ] {
            if directory.is_none() {
                let poetdir = self.poetdir.as_ref();
                let poetdir = poetdir.ok_or(ConfigError::NoCacheDirectory)?;
                *directory = Some(poetdir.join(name));
            }
        }
        if let Some(per_second) = self.rate_limit {
            self.rate_limit_burst
                .get_or_insert_with(|| burst(per_second));
        }
        Ok(*self.audit.get_or_insert_with(AuditMode::for_this_machine))
    }
}

/// Returns the default burst of an address with this rate.
fn burst(per_second: f64) -> NonZero<u32> {
    let requests = (per_second * BURST_SECONDS).ceil() as u32;
    NonZero::new(requests).unwrap_or(NonZero::<u32>::MIN)
}

/// Returns the rate of an address; one that is given has a burst by now.
fn rate(
    per_second: Option<f64>,
    burst: Option<NonZero<u32>>,
) -> Result<Option<RequestRate>, ConfigError> {
    match (per_second, burst) {
        (None, Some(_)) => Err(ConfigError::BurstWithoutRate),
        (per_second, burst) => Ok(per_second
            .zip(burst)
            .map(|(per_second, burst)| RequestRate { per_second, burst })),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path, time::Duration};

    use super::*;

    fn load(file: &str, arguments: &[&str]) -> Result<Config, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("poet.conf");
        fs::write(&path, file).unwrap();
        let file = format!("--configfile={}", path.display());
        let line = [file.as_str()].into_iter().chain(arguments.iter().copied());
        let args = ServerArgs::parse(line).unwrap();
        Config::load(args).map_err(|error| error.to_string())
    }

    #[test]
    fn defaults() {
        let config = load("", &["--poetdir=/p"]).unwrap();
        assert_eq!(config.rounds.genesis, None);
        assert_eq!(config.rounds.epoch_duration, Duration::from_secs(30));
        assert_eq!(config.rounds.phase_shift, Duration::from_secs(15));
        assert_eq!(config.rounds.cycle_gap, Duration::from_secs(10));
        assert_eq!(config.directories.datadir, Path::new("/p/data"));
        assert_eq!(config.directories.dbdir, Path::new("/p/db"));
        assert_eq!(config.listeners.rest, "localhost:8080");
        assert_eq!(config.listeners.grpc, "localhost:50002");
        assert_eq!(config.listeners.private, "localhost:50001");
        assert_eq!(config.listeners.max_grpc_response_bytes, 8_388_608);
        assert_eq!(config.rounds.rules.pow_difficulty, 0);
        assert_eq!(config.rounds.rules.max_round_members, 4_294_967_296);
        assert_eq!(config.log.folder, Path::new("/p/logs"));
        assert_eq!(
            (config.log.max_files, config.log.max_file_bytes),
            (3, 10_000_000)
        );
        assert_eq!(config.max_submit_batch, 1000);
        assert!(
            config.rounds.worker == WorkerMode::On
                && config.rounds.rules.pow
                && config.ignored.is_empty()
        );
        assert_eq!(config.work.core, WorkCore::Auto);
        assert_eq!(config.work.priority, WorkPriority::Off);
        assert!(config.rounds.rules.certifier.is_none() && !config.log.debug && !config.log.json);
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
            config.rounds.genesis,
            Some("2023-07-14T08:00:00Z".parse().unwrap())
        );
        assert_eq!(
            config.rounds.epoch_duration,
            Duration::from_secs(336 * 3600)
        );
        assert_eq!(config.rounds.cycle_gap, Duration::from_secs(12 * 3600));
        assert_eq!(config.rounds.rules.pow_difficulty, 3);
        assert_eq!(config.rounds.rules.max_round_members, 7);
        assert_eq!(config.directories.datadir, Path::new("/elsewhere"));
        assert_eq!(config.directories.dbdir, Path::new("/p/db"));
        assert_eq!(config.listeners.rest, ":99");
        assert!(config.log.debug && config.log.json);
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
        let args = ServerArgs::parse(["--configfile=/missing/file"]).unwrap();
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
        let folder = tempfile::tempdir().unwrap();
        let keys = format!("--trusted-pub-keys-dir-path={}", folder.path().display());
        let config = load("", &["--poetdir=/p", &keys]).unwrap();
        assert!(config.rounds.rules.certifier.unwrap().pubkey.is_none());
        let key = "--certifier-pubkey=V2j2EMp26MjC55ZVa9p/PpRBIgoM94JlHVSDR1LN+Ys=";
        let config = load("certifier-url=http://c", &["--poetdir=/p", key]).unwrap();
        assert_eq!(config.rounds.rules.certifier.unwrap().url, "http://c");
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
        let limits = |line: &[&str]| rate(line).unwrap().listeners.limits;
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
        assert!(!config.rounds.rules.pow && config.rounds.rules.certifier.is_some());
        let config = load(key, &["--poetdir=/p", "--certificates=off"]).unwrap();
        assert!(config.rounds.rules.pow && config.rounds.rules.certifier.is_none());
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
    fn a_byte_order_mark_is_no_part_of_a_file() {
        let config = load("\u{feff}pow-difficulty=7\r\n", &["--poetdir=/p"]).unwrap();
        assert_eq!(config.rounds.rules.pow_difficulty, 7);
    }

    #[test]
    fn quoted_values_and_the_spellings_of_go() {
        let file = "datadir=\"/a \\\"b\\\"\"\ndebuglog=1\njsonlog=T\ndisable-worker=True\n";
        let config = load(file, &["--poetdir=/p", "--jsonlog=0"]).unwrap();
        assert_eq!(config.directories.datadir, Path::new("/a \"b\""));
        assert!(config.log.debug && !config.log.json && config.rounds.worker == WorkerMode::Nobody);
        // A switch without a value is on; other options need a value.
        let config = load("debuglog=\n disable-worker =\n", &["--poetdir=/p"]).unwrap();
        assert!(config.log.debug && !config.log.json && config.rounds.worker == WorkerMode::Nobody);
        for line in ["datadir=", "pow=", "epoch-duration=", "certifier-url="] {
            let error = load(line, &["--poetdir=/p"]).unwrap_err();
            let (name, _) = line.split_once('=').unwrap();
            assert!(error.contains(&format!("--{name}")), "{error}");
        }
    }

    #[test]
    fn early_gaps_may_be_several() {
        let hours = |hours: u64| Duration::from_secs(hours * 3600);
        let gaps = |file: &str, line: &[&str]| {
            let config = load(file, &[&["--poetdir=/p"], line].concat()).unwrap();
            config.rounds.early_cycle_gaps
        };
        let file = "early-cycle-gap=24h\ncycle-gap=12h\nearly-cycle-gap=36h\n";
        assert_eq!(gaps("", &[]), []);
        assert_eq!(gaps(file, &[]), [hours(24), hours(36)]);
        // The command line replaces all values of the file.
        let line = ["--early-cycle-gap=48h", "--early-cycle-gap", "13h"];
        assert_eq!(gaps(file, &line), [hours(48), hours(13)]);

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("poet.conf");
        fs::write(&path, file).unwrap();
        let line = [
            format!("--configfile={}", path.display()),
            "--poetdir=/p".into(),
        ];
        let config = Config::load(ServerArgs::parse(line).unwrap()).unwrap();
        let mut effective = config.effective.iter();
        let early = effective.find(|option| option.name == "early-cycle-gap");
        let early = early.unwrap();
        assert_eq!(early.value, "24h0m0s, 36h0m0s");
        let source = format!("{}, lines 1, 3", path.display());
        assert_eq!(early.source.to_string(), source);
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
        let args = ServerArgs::parse(line).unwrap();
        let effective = Config::load(args).unwrap().effective;
        let of = |name: &str| effective.iter().find(|option| option.name == name).unwrap();
        let difficulty = of("pow-difficulty");
        assert_eq!(
            (&*difficulty.value, &difficulty.source),
            (
                "5",
                &OptionSource::File {
                    path,
                    lines: vec![3]
                }
            )
        );
        assert_eq!(
            (&*of("memory").value, &of("memory").source),
            ("2", &OptionSource::CommandLine)
        );
        assert_eq!(
            (&*of("logdir").value, &of("logdir").source),
            ("/p/logs", &OptionSource::Default)
        );
        // Both lists name the options as the command line does.
        let command = options_only();
        let mut known: Vec<_> = command
            .get_arguments()
            .filter_map(clap::Arg::get_long)
            .collect();
        let mut explained: Vec<_> = effective
            .iter()
            .map(|option| option.name.as_str())
            .collect();
        explained.retain(|name| *name != PRIVATE_KEY_VARIABLE);
        known.sort_unstable();
        explained.sort_unstable();
        assert_eq!(explained, known);
    }

    #[test]
    fn a_network_sets_the_schedule_and_explicit_options_win() {
        let schedule = |config: &Config| {
            let rounds = &config.rounds;
            let hours = |duration: Duration| duration.as_secs() / 3600;
            (
                rounds.genesis.map(|genesis| genesis.to_string()),
                hours(rounds.epoch_duration),
                hours(rounds.phase_shift),
                hours(rounds.cycle_gap),
            )
        };
        let genesis = Some("2023-07-14T08:00:00Z".to_owned());
        let config = load("network=mainnet", &["--poetdir=/p"]).unwrap();
        assert_eq!(schedule(&config), (genesis.clone(), 336, 240, 12));
        // From both sources, in either order; also the option's own default.
        let options = ["--poetdir=/p", "--cycle-gap=2h", "--network=mainnet"];
        let config = load("phase-shift=5h", &options).unwrap();
        assert_eq!(schedule(&config), (genesis, 336, 5, 2));
        let config = load(
            "cycle-gap=10s\ngenesis-time=2024-01-01T00:00:00Z",
            &options[..1],
        );
        assert_eq!(config.unwrap().rounds.cycle_gap, Duration::from_secs(10));
        let args = ServerArgs::parse(["--poetdir=/p", "--network=mainnet", "--cycle-gap=10s"]);
        let config = Config::load(args.unwrap()).unwrap();
        assert_eq!(config.rounds.cycle_gap, Duration::from_secs(10));
        let of = |name: &str| {
            let mut options = config.effective.iter();
            let option = options.find(|option| option.name == name).unwrap();
            (option.value.clone(), option.source.clone())
        };
        assert_eq!(
            of("cycle-gap"),
            ("10s".to_owned(), OptionSource::CommandLine)
        );
        let network = OptionSource::Network("mainnet");
        assert_eq!(of("phase-shift"), ("240h0m0s".to_owned(), network));
    }

    #[test]
    fn homes_are_expanded() {
        let Some(home) = env::home_dir() else { return };
        let config = load("poetdir=~/poet", &[]).unwrap();
        assert_eq!(config.directories.datadir, home.join("poet/data"));
    }

    #[test]
    fn variables_are_expanded() {
        let path = env::var_os("PATH").unwrap();
        let config = load("dbdir=${PATH}", &["--poetdir=/p"]).unwrap();
        assert_eq!(config.directories.dbdir, Path::new(&path));
        let error = load("\ndatadir=$POET_NO_SUCH/x", &["--poetdir=/p"]).unwrap_err();
        for expected in ["line 2: ", "--datadir", "POET_NO_SUCH is not set"] {
            assert!(error.contains(expected), "{error}");
        }
    }
}
