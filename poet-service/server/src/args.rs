//! The options of the server. Each is declared once, here: its name, help and default, its use in
//! files, the output of `check-config` and the manual's list follow from that.

use std::{ffi::OsString, fmt, net::SocketAddr, num::NonZero, path::PathBuf, time::Duration};

use axum::http::Uri;
use clap::{
    ArgMatches, Args, Command, FromArgMatches,
    builder::{PathBufValueParser, TypedValueParser},
    parser::ValueSource,
};
use jiff::Timestamp;
use poet_engine::MAX_THREADS;
use poet_host::{WorkCore, WorkPriority};
use poet_proto::{
    base64,
    certificate::{self, KeyTextError},
    duration::{self, DurationError},
    identity::PublicKey,
    network::{NETWORKS, Network},
    pow::MAX_DIFFICULTY,
    timestamp::ProtoTimestamp,
};
use poet_rounds::worker::AuditMode;
use poet_storage::DatabaseUrl;

use crate::{api::client::TrustedProxies, notify::WebhookUrl, paths};

/// Declares options: each field is one, and clap derives its name, help, value and default.
macro_rules! options {
    (
        $(#[$meta:meta])*
        pub struct $Options:ident {
            $($(#[$field_meta:meta])* pub $field:ident: $Value:ty,)*
        }
    ) => {
        $(#[$meta])*
        pub struct $Options {
            $($(#[$field_meta])* pub $field: $Value,)*
        }

        impl $Options {
            /// Returns the value of each option as text, with clap's id of the option.
            pub(crate) fn texts(&self) -> Vec<(&'static str, String)> {
                vec![$((stringify!($field), self.$field.text())),*]
            }
        }
    };
}

options! {
/// The options of the server, with their effective values.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// The network whose schedule to use: mainnet. It sets the genesis, the epoch, the phase shift
    /// and the cycle gap; the options for these override it [default: none]
    #[arg(help_heading = "Schedule", long, value_name = "NAME", value_parser = parse_network)]
    pub network: Option<&'static Network>,

    /// The network's genesis, in RFC 3339 [default: the server's first start]
    #[arg(help_heading = "Schedule", long, value_name = "TIME", value_parser = parse_time)]
    pub genesis_time: Option<Timestamp>,

    /// The parent of the directories below [default: the user's cache directory + /poet]
    #[arg(help_heading = "Files and logs", long, value_name = "DIR", value_parser = path())]
    pub poetdir: Option<PathBuf>,

    /// A file with options, one `name=value` per line
    #[arg(help_heading = "Files and logs", short = 'c', long, value_name = "FILE", value_parser = path())]
    pub configfile: Option<PathBuf>,

    /// The directory of the work in progress [default: POETDIR/data]
    #[arg(help_heading = "Files and logs", short = 'b', long, value_name = "DIR", value_parser = path())]
    pub datadir: Option<PathBuf>,

    /// The directory of the database [default: POETDIR/db]
    #[arg(help_heading = "Files and logs", long, value_name = "DIR", value_parser = path())]
    pub dbdir: Option<PathBuf>,

    /// A PostgreSQL database that several servers may share, by its URL as libpq reads it. The
    /// password comes from PGPASSWORD, or from the file that PGPASSFILE names [default: the
    /// embedded database in --dbdir]
    #[arg(help_heading = "Files and logs", long, value_name = "URL")]
    pub database: Option<DatabaseUrl>,

    /// The directory of the log files; the same lines go to standard error [default: POETDIR/logs]
    #[arg(help_heading = "Files and logs", long, value_name = "DIR", value_parser = path())]
    pub logdir: Option<PathBuf>,

    /// How many full log files to keep; 0 for one file without limit
    #[arg(help_heading = "Files and logs", long, value_name = "NUMBER", value_parser = parse_files, default_value = "3")]
    pub maxlogfiles: usize,

    /// The size of a full log file, in MB
    #[arg(help_heading = "Files and logs", long, value_name = "MB", value_parser = parse_megabytes, default_value = "10")]
    pub maxlogfilesize: u64,

    /// Log details, including each request
    #[arg(help_heading = "Files and logs", long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
        default_missing_value = "true", value_parser = parse_bool, default_value = "false",
        hide_default_value = true)]
    pub debuglog: bool,

    /// Log in JSON, one object per line
    #[arg(help_heading = "Files and logs", long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
        default_missing_value = "true", value_parser = parse_bool, default_value = "false",
        hide_default_value = true)]
    pub jsonlog: bool,

    /// Where to listen for REST clients
    #[arg(help_heading = "Listeners", short = 'w', long, value_name = "HOST:PORT", value_parser = parse_address, default_value = "localhost:8080")]
    pub restlisten: String,

    /// Where to listen for gRPC clients
    #[arg(help_heading = "Listeners", short = 'r', long, value_name = "HOST:PORT", value_parser = parse_address, default_value = "localhost:50002")]
    pub rpclisten: String,

    /// Where to listen for the operator's page and calls (gRPC and REST); must not be public
    #[arg(help_heading = "Listeners", long, value_name = "HOST:PORT", value_parser = parse_address, default_value = "localhost:50001")]
    pub config_rpclisten: String,

    /// The longest message over gRPC, in bytes; REST has no limit
    #[arg(help_heading = "Listeners", long, value_name = "BYTES", value_parser = parse_bytes, default_value = "8388608")]
    pub max_grpc_resp_size: usize,

    /// The maximum number of connections for REST [default: 16384, or what the limit on open files
    /// leaves]
    #[arg(help_heading = "Limits on clients", long, value_name = "NUMBER", value_parser = parse_connections)]
    pub max_connections: Option<usize>,

    /// The maximum number of connections for gRPC [default: a quarter of those for REST]
    #[arg(help_heading = "Limits on clients", long, value_name = "NUMBER", value_parser = parse_connections)]
    pub max_grpc_connections: Option<usize>,

    /// The maximum number of connections from one address, or from one /64 of IPv6; trusted proxies
    /// have no limit of their own [default: half of all]
    #[arg(help_heading = "Limits on clients", long, value_name = "NUMBER", value_parser = parse_connections)]
    pub max_connections_per_address: Option<usize>,

    /// Requests per second that one address, or one /64 of IPv6, may send in the long run; the
    /// server answers 429 to more. Behind a proxy it needs --trusted-proxies [default: no limit]
    #[arg(help_heading = "Limits on clients", long, value_name = "NUMBER", value_parser = parse_rate)]
    pub rate_limit: Option<f64>,

    /// Requests that one address may send at once [default: ten seconds' worth of --rate-limit]
    #[arg(help_heading = "Limits on clients", long, value_name = "NUMBER", value_parser = parse_burst)]
    pub rate_limit_burst: Option<NonZero<u32>>,

    /// Networks of reverse proxies, separated by commas: the sender of their requests is the last
    /// address in X-Forwarded-For that is not a proxy's [default: none]
    #[arg(help_heading = "Limits on clients", long, value_name = "CIDR,...")]
    pub trusted_proxies: Option<TrustedProxies>,

    /// The name of this server on its page and in its calendar, at most 64 characters
    #[arg(help_heading = "Listeners", long, value_name = "TEXT", value_parser = parse_name)]
    pub name: Option<String>,

    /// The address of this server for nodes, as its page shows it [default: the address that the
    /// page's reader used]
    #[arg(help_heading = "Listeners", long, value_name = "URL", value_parser = parse_url)]
    pub public_url: Option<String>,

    /// Whether REST serves a page for people at / and a calendar of the rounds at /calendar.ics
    #[arg(help_heading = "Listeners", long, value_name = "on|off", value_parser = parse_switch, default_value = "on")]
    pub page: Switch,

    /// Serve metrics for Prometheus on this port, at /metrics, on every interface [default: no
    /// metrics]
    #[arg(help_heading = "Listeners", long, value_name = "PORT", value_parser = parse_port)]
    pub metrics_port: Option<u16>,

    /// Serve metrics for Prometheus at this address, at /metrics; overrides --metrics-port
    #[arg(help_heading = "Listeners", long, value_name = "HOST:PORT", value_parser = parse_address)]
    pub metrics_listen: Option<String>,

    /// A program to run for each event (a round closed, a proof published, an alarm, slow work, not
    /// ready, ready again). It gets the event as JSON on its standard input, and may run for 30
    /// seconds [default: none]
    #[arg(help_heading = "Notifications", long, value_name = "PROGRAM", value_parser = path())]
    pub notify_command: Option<PathBuf>,

    /// A webhook to which to post the same events, as JSON with a field `text`. The path is kept
    /// secret [default: none]
    #[arg(help_heading = "Notifications", long, value_name = "URL")]
    pub notify_url: Option<WebhookUrl>,

    /// The time from one round's start to the next one's
    #[arg(help_heading = "Schedule", long, value_name = "DURATION", value_parser = parse_duration, default_value = "30s")]
    pub epoch_duration: Duration,

    /// The time from genesis to the start of round 0
    #[arg(help_heading = "Schedule", long, value_name = "DURATION", value_parser = parse_duration, default_value = "15s")]
    pub phase_shift: Duration,

    /// The time from a round's end to the next one's start
    #[arg(help_heading = "Schedule", long, value_name = "DURATION", value_parser = parse_duration, default_value = "10s")]
    pub cycle_gap: Duration,

    /// A longer gap, for nodes that need more time: when it begins, the server makes a proof of the
    /// leaves so far, while the work continues, and serves it under /gap/DURATION with a key of its
    /// own. May be given several times
    #[arg(help_heading = "Schedule", long, value_name = "DURATION", value_parser = parse_duration)]
    pub early_cycle_gap: Vec<Duration>,

    /// How long a leap of the clock over the start or the end of a round must last before the
    /// server believes it. Until then the work continues by the elapsed time
    #[arg(help_heading = "Schedule", long, value_name = "DURATION", value_parser = parse_duration, default_value = "5m")]
    pub clock_leap_patience: Duration,

    /// How many zero bits a proof of work must begin with
    #[arg(help_heading = "Registration", long, value_name = "BITS", value_parser = parse_difficulty, default_value = "0")]
    pub pow_difficulty: u32,

    /// The maximum number of members of a round
    #[arg(help_heading = "Registration", long, value_name = "NUMBER", value_parser = parse_members, default_value = "4294967296")]
    pub max_round_members: u64,

    /// How long to keep the registrations of a round after its end, once its proof is published.
    /// Proofs are always kept [default: for ever]
    #[arg(help_heading = "Registration", long, value_name = "DURATION", value_parser = parse_duration)]
    pub keep_registrations: Option<Duration>,

    /// The maximum number of registrations in one commit
    #[arg(help_heading = "Registration", long, value_name = "NUMBER", value_parser = parse_batch, default_value = "1000")]
    pub max_submit_batch_size: usize,

    /// How long the Go server lets a registration wait for others. In this server none waits longer
    /// than the disk takes, whatever the value
    #[arg(help_heading = "Registration", long, value_name = "DURATION", value_parser = parse_duration, default_value = "100ms")]
    pub submit_flush_interval: Duration,

    /// Whether nodes may register with a proof of work
    #[arg(help_heading = "Registration", long, value_name = "on|off", value_parser = parse_switch, default_value = "on")]
    pub pow: Switch,

    /// Whether nodes may register with a certificate
    #[arg(help_heading = "Registration", long, value_name = "on|off", value_parser = parse_switch, default_value = "on")]
    pub certificates: Switch,

    /// The address where nodes get certificates; needs --certifier-pubkey [default: none]
    #[arg(help_heading = "Registration", long, value_name = "URL")]
    pub certifier_url: Option<String>,

    /// The key that signs certificates: 32 bytes in base64 [default: none]
    #[arg(help_heading = "Registration", long, value_name = "KEY", value_parser = parse_public_key)]
    pub certifier_pubkey: Option<PublicKey>,

    /// A directory of keys that may sign certificates, with or without --certifier-pubkey: `*.key`
    /// files, each with one key in base64, read again on SIGHUP [default: none]
    #[arg(help_heading = "Registration", long, value_name = "DIR", value_parser = path())]
    pub trusted_pub_keys_dir_path: Option<PathBuf>,

    /// Whether this server works on rounds. Of several with the same --database, one works and the
    /// others follow it. `standby` works only while no other one does; `off` only registers nodes
    /// and serves proofs
    #[arg(help_heading = "Work", long, value_name = "on|standby|off", value_parser = parse_worker, default_value = "on")]
    pub worker: WorkerOption,

    /// With --database, how long the shared log of a round must not have grown before another server
    /// takes over the work, from 500ms to 10m
    #[arg(help_heading = "Work", long, value_name = "DURATION", value_parser = parse_takeover, default_value = "2s")]
    pub takeover_after: Duration,

    /// Do no work: a round that closes gets an empty proof with its members. A round whose work has
    /// begun waits until the server starts without this option. With --database, the same as
    /// --worker=off
    #[arg(help_heading = "Work", long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
        default_missing_value = "true", value_parser = parse_bool, default_value = "false",
        hide_default_value = true)]
    pub disable_worker: bool,

    /// The core reserved for the hashing thread while it works; all other threads are kept off it.
    /// `auto` takes the fastest one, measured at the start, and none if there is only one; a number
    /// takes that one; `off` lets the system place the threads. With a core of its own, the server
    /// locks its memory against swapping. If the system does not permit something, the server warns
    /// and continues without it
    #[arg(help_heading = "Work", long, value_name = "auto|N|off", default_value = "auto")]
    pub work_core: WorkCore,

    /// The priority of the hashing thread on its own core. `realtime` is above every ordinary
    /// thread, including the system's: use it with a core that the system does not use (isolcpus)
    /// and kernel.sched_rt_runtime_us=-1. `nice` is the highest ordinary priority: if the kernel
    /// schedules by groups (autogroups, cpu control groups), it slows the other threads of the
    /// server
    #[arg(help_heading = "Work", long, value_name = "off|nice|realtime", default_value = "off")]
    pub work_priority: WorkPriority,

    /// How much of the work other cores recompute during the round, to repair errors of a faulty CPU,
    /// memory or disk in time: full; sampled, a random eighth, and everything once it finds an error
    /// (misses most single wrong labels); or off [default: full; off on a machine with one core]
    #[arg(help_heading = "Work", long, value_name = "full|sampled|off")]
    pub audit: Option<AuditMode>,

    /// Threads of low priority for the audit
    #[arg(help_heading = "Work", long, value_name = "NUMBER", value_parser = parse_threads, default_value = "1")]
    pub audit_threads: usize,

    /// The backend that hashes [default: POET_BACKEND, or the fastest one on this machine]
    #[arg(help_heading = "Work", long, value_name = "NAME")]
    pub backend: Option<String>,

    /// Choose the backend by a fixed order instead of a timing trial at the start
    #[arg(help_heading = "Work", long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
        default_missing_value = "true", value_parser = parse_bool, default_value = "false",
        hide_default_value = true)]
    pub no_trial: bool,

    /// No effect: accepted for existing configurations
    #[arg(hide = true, long, value_name = "NUMBER")]
    pub lps: Option<String>,

    /// No effect: accepted for existing configurations
    #[arg(hide = true, long, value_name = "LAYERS")]
    pub memory: Option<String>,

    /// No effect: accepted for existing configurations
    #[arg(hide = true, long, value_name = "BYTES")]
    pub tree_file_buffer: Option<String>,

    /// No effect: accepted for existing configurations
    #[arg(hide = true, long, value_name = "FILE")]
    pub cpuprofile: Option<String>,

    /// No effect: accepted for existing configurations
    #[arg(hide = true, long, value_name = "PORT")]
    pub profile: Option<String>,
}
}

/// Options of the original server that have no effect here.
pub(crate) const WITHOUT_EFFECT: [&str; 5] =
    ["lps", "memory", "tree_file_buffer", "cpuprofile", "profile"];

/// The options on a command line. A file may add more, so that they have values only together with
/// it: see [`Config`](crate::config::Config).
#[derive(Clone, Debug, Default)]
pub struct ServerArgs(pub(crate) Vec<OsString>);

impl ServerArgs {
    /// Parses a command line that consists of options only.
    ///
    /// # Errors
    /// Fails if it contains anything else.
    pub fn parse(
        arguments: impl IntoIterator<Item = impl Into<OsString> + Clone>,
    ) -> Result<Self, clap::Error> {
        let matches = options_only().try_get_matches_from(arguments)?;
        Self::from_arg_matches(&matches)
    }
}

impl Args for ServerArgs {
    fn augment_args(command: Command) -> Command {
        // As with the original server, the last value of a repeated option counts, unless it may be
        // repeated.
        Options::augment_args(command).args_override_self(true)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Options::augment_args_for_update(command).args_override_self(true)
    }
}

impl FromArgMatches for ServerArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut arguments = Vec::new();
        for option in options_only().get_arguments() {
            let id = option.get_id().as_str();
            if matches.value_source(id) == Some(ValueSource::CommandLine)
                && let Some(name) = option.get_long()
            {
                // Only the last value of a single-valued option remains.
                for value in matches.get_raw(id).into_iter().flatten() {
                    let mut argument = OsString::from(format!("--{name}="));
                    argument.push(value);
                    arguments.push(argument);
                }
            }
        }
        Ok(Self(arguments))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.0.extend(Self::from_arg_matches(matches)?.0);
        Ok(())
    }
}

/// A command with only the options.
pub(crate) fn options_only() -> Command {
    let command = Command::new("")
        .no_binary_name(true)
        .disable_help_flag(true);
    ServerArgs::augment_args(command)
}

/// A value as it is written in a file.
trait Text {
    /// Returns the text; empty for a value that is not set.
    fn text(&self) -> String;
}

impl<T: Text> Text for Option<T> {
    fn text(&self) -> String {
        self.as_ref().map_or(String::new(), Text::text)
    }
}

impl<T: Text> Text for Vec<T> {
    fn text(&self) -> String {
        let texts: Vec<_> = self.iter().map(Text::text).collect();
        texts.join(", ")
    }
}

macro_rules! displayed {
    ($($Value:ty),*) => {
        $(impl Text for $Value {
            fn text(&self) -> String {
                self.to_string()
            }
        })*
    };
}

displayed!(
    AuditMode,
    DatabaseUrl,
    NonZero<u32>,
    String,
    Switch,
    WorkerOption,
    Timestamp,
    TrustedProxies,
    WebhookUrl,
    WorkCore,
    WorkPriority,
    bool,
    f64,
    u16,
    u32,
    u64,
    usize
);

impl Text for &'static Network {
    fn text(&self) -> String {
        self.name.to_owned()
    }
}

impl Text for Duration {
    fn text(&self) -> String {
        duration::format_go(*self)
    }
}

impl Text for PathBuf {
    fn text(&self) -> String {
        self.display().to_string()
    }
}

impl Text for PublicKey {
    fn text(&self) -> String {
        base64::encode(self.as_bytes())
    }
}

/// Whether something is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switch {
    /// On.
    On,
    /// Off.
    Off,
}

impl fmt::Display for Switch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::On => "on",
            Self::Off => "off",
        })
    }
}

/// Whether a server works on rounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerOption {
    /// It works, or follows another server that does.
    On,
    /// It works while no other server does.
    Standby,
    /// It does not work.
    Off,
}

impl fmt::Display for WorkerOption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::On => "on",
            Self::Standby => "standby",
            Self::Off => "off",
        })
    }
}

/// Parses a path that no shell may have expanded.
fn path() -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().try_map(paths::expand)
}

fn parse_time(text: &str) -> Result<Timestamp, &'static str> {
    ProtoTimestamp::parse(text)
        .and_then(ProtoTimestamp::time)
        .ok_or("expected a time in RFC 3339, such as 2023-07-14T08:00:00Z")
}

fn parse_network(text: &str) -> Result<&'static Network, String> {
    Network::named(text).ok_or_else(|| {
        let names = NETWORKS.map(|network| network.name);
        format!(
            "expected the name of a network that is known: {}",
            names.join(", ")
        )
    })
}

fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    duration::parse_go(text)
}

fn parse_difficulty(text: &str) -> Result<u32, String> {
    text.parse()
        .ok()
        .filter(|difficulty| *difficulty <= MAX_DIFFICULTY)
        .ok_or_else(|| format!("expected a number of bits from 0 to {MAX_DIFFICULTY}"))
}

fn parse_members(text: &str) -> Result<u64, &'static str> {
    text.parse().map_err(|_| "expected a number of members")
}

/// Accepts the spellings of Go's flags.
fn parse_bool(text: &str) -> Result<bool, &'static str> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("expected true or false"),
    }
}

fn parse_worker(text: &str) -> Result<WorkerOption, &'static str> {
    match text {
        "on" => Ok(WorkerOption::On),
        "standby" => Ok(WorkerOption::Standby),
        "off" => Ok(WorkerOption::Off),
        _ => Err("expected on, standby or off"),
    }
}

fn parse_takeover(text: &str) -> Result<Duration, &'static str> {
    duration::parse_go(text)
        .ok()
        .filter(|time| (Duration::from_millis(500)..=Duration::from_secs(600)).contains(time))
        .ok_or("expected a duration from 500ms to 10m")
}

fn parse_switch(text: &str) -> Result<Switch, &'static str> {
    match text {
        "on" => Ok(Switch::On),
        "off" => Ok(Switch::Off),
        _ => Err("expected on or off"),
    }
}

/// The longest name of a server, in characters.
const MAX_NAME: usize = 64;

fn parse_name(text: &str) -> Result<String, String> {
    let length = text.chars().count();
    let fits = (1..=MAX_NAME).contains(&length) && !text.chars().any(char::is_control);
    fits.then(|| text.to_owned()).ok_or_else(|| {
        format!("expected a name of 1 to {MAX_NAME} characters without control characters")
    })
}

fn parse_url(text: &str) -> Result<String, &'static str> {
    const EXPECTED: &str = "expected an address such as https://poet.example";
    let url: Uri = text.parse().map_err(|_| EXPECTED)?;
    let authority = url.authority().map_or("", |authority| authority.as_str());
    let scheme = matches!(url.scheme_str(), Some("http" | "https"));
    let fits = scheme && !authority.is_empty() && !authority.contains('@') && url.query().is_none();
    match fits {
        true => Ok(text.trim_end_matches('/').to_owned()),
        false => Err(EXPECTED),
    }
}

fn parse_files(text: &str) -> Result<usize, &'static str> {
    text.parse().map_err(|_| "expected a number of files")
}

fn parse_megabytes(text: &str) -> Result<u64, &'static str> {
    text.parse()
        .ok()
        .filter(|megabytes| (1..=1_000_000).contains(megabytes))
        .ok_or("expected a number of MB from 1 to 1000000")
}

fn parse_batch(text: &str) -> Result<usize, &'static str> {
    text.parse()
        .ok()
        .filter(|batch| *batch > 0)
        .ok_or("expected a number of registrations, at least 1")
}

fn parse_threads(text: &str) -> Result<usize, String> {
    text.parse()
        .ok()
        .filter(|threads| (1..=MAX_THREADS).contains(threads))
        .ok_or_else(|| format!("expected a number of threads from 1 to {MAX_THREADS}"))
}

fn parse_connections(text: &str) -> Result<usize, &'static str> {
    text.parse()
        .ok()
        .filter(|connections| *connections > 0)
        .ok_or("expected a number of connections, at least 1")
}

fn parse_rate(text: &str) -> Result<f64, &'static str> {
    text.parse()
        .ok()
        .filter(|rate: &f64| rate.is_finite() && *rate > 0.0)
        .ok_or("expected a number of requests per second, above 0")
}

fn parse_burst(text: &str) -> Result<NonZero<u32>, &'static str> {
    text.parse()
        .map_err(|_| "expected a number of requests, at least 1")
}

fn parse_port(text: &str) -> Result<u16, &'static str> {
    text.parse().map_err(|_| "expected a port from 0 to 65535")
}

fn parse_bytes(text: &str) -> Result<usize, &'static str> {
    text.parse().map_err(|_| "expected a number of bytes")
}

fn parse_public_key(text: &str) -> Result<PublicKey, KeyTextError> {
    certificate::parse_public_key(text)
}

fn parse_address(text: &str) -> Result<String, &'static str> {
    let valid = text.parse::<SocketAddr>().is_ok()
        || text
            .rsplit_once(':')
            .is_some_and(|(host, port)| !host.contains(':') && port.parse::<u16>().is_ok());
    if valid {
        Ok(text.to_owned())
    } else {
        Err("expected host:port, such as localhost:8080 or 0.0.0.0:8080")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        options_only().debug_assert();
    }

    #[test]
    fn bad_values_name_the_option_and_what_is_expected() {
        for (argument, expected) in [
            ("--genesis-time=yesterday", "a time in RFC 3339"),
            // The Go server is as strict.
            ("--genesis-time=2023-07-14 08:00:00Z", "a time in RFC 3339"),
            ("--genesis-time=2023-07-14t08:00:00z", "a time in RFC 3339"),
            ("--genesis-time=2023-07-14T08:00Z", "a time in RFC 3339"),
            (
                "--genesis-time=2023-07-14T08:00:00+25:00",
                "a time in RFC 3339",
            ),
            (
                "--genesis-time=2023-07-14T08:00:00+02:00[Europe/Prague]",
                "a time in RFC 3339",
            ),
            ("--network=testnet", "known: mainnet"),
            ("--epoch-duration=30", "unit"),
            ("--phase-shift=-1s", "not negative"),
            ("--cycle-gap=abc", "a duration such as"),
            ("--early-cycle-gap=24", "unit"),
            ("--keep-registrations=1y", "a duration such as"),
            ("--pow-difficulty=257", "from 0 to 256"),
            ("--max-round-members=-1", "a number of members"),
            ("--certifier-pubkey=abc", "base64 form of a 32-byte"),
            ("--restlisten=8080", "host:port"),
            ("--restlisten=localhost:80808", "host:port"),
            ("--restlisten=::1", "host:port"),
            ("--metrics-port=70000", "a port"),
            ("--metrics-listen=9090", "host:port"),
            ("--name=", "a name of 1 to 64 characters"),
            ("--name=a\nb", "a name of 1 to 64 characters"),
            ("--public-url=poet.example", "an address such as"),
            ("--public-url=ftp://poet.example", "an address such as"),
            (
                "--public-url=https://me:secret@poet.example",
                "an address such as",
            ),
            ("--page=maybe", "on or off"),
            ("--rpclisten=50002", "host:port"),
            ("--config-rpclisten=x", "host:port"),
            ("--max-grpc-resp-size=8MB", "a number of bytes"),
            ("--debuglog=maybe", "true or false"),
            ("--pow=maybe", "on or off"),
            ("--certificates=1", "on or off"),
            ("--worker=maybe", "on, standby or off"),
            ("--takeover-after=400ms", "from 500ms to 10m"),
            ("--takeover-after=11m", "from 500ms to 10m"),
            ("--database=mysql://one/poet", "postgres://USER@HOST/NAME"),
            ("--database=postgres://me:secret@one/poet", "PGPASSWORD"),
            ("--work-core=fastest", "auto, off or the number of a core"),
            ("--work-core=4096", "auto, off or the number of a core"),
            ("--work-priority=high", "off, nice or realtime"),
            ("--maxlogfiles=few", "a number of files"),
            ("--maxlogfilesize=0", "a number of MB"),
            ("--max-submit-batch-size=0", "at least 1"),
            ("--submit-flush-interval=1", "unit"),
            ("--audit=some", "expected full, sampled or off"),
            ("--audit-threads=0", "a number of threads from 1 to 1024"),
            ("--max-connections=0", "at least 1"),
            ("--max-connections-per-address=many", "at least 1"),
            ("--max-grpc-connections=0", "at least 1"),
            ("--rate-limit=0", "above 0"),
            ("--rate-limit-burst=0", "at least 1"),
            ("--trusted-proxies=10.0.0.0/40", "networks with commas"),
            ("--notify-url=hooks.example/x", "a URL such as"),
        ] {
            let error = ServerArgs::parse([argument]).err().unwrap().to_string();
            let (option, _) = argument.split_once('=').unwrap();
            assert!(
                error.contains(option) && error.contains(expected),
                "{error}"
            );
        }
    }

    /// Options without effect are in the manual only.
    #[test]
    fn help_is_grouped_and_shows_what_has_an_effect() {
        let command = options_only();
        for option in command.get_arguments() {
            let id = option.get_id().as_str();
            assert_eq!(option.is_hide_set(), WITHOUT_EFFECT.contains(&id), "{id}");
            assert!(
                option.is_hide_set() || option.get_help_heading().is_some(),
                "{id}"
            );
        }
    }

    #[test]
    fn every_audit_mode() {
        for mode in ["full", "sampled", "off"] {
            let argument = format!("--audit={mode}");
            let matches = options_only().try_get_matches_from([argument]).unwrap();
            let options = Options::from_arg_matches(&matches).unwrap();
            assert_eq!(options.audit.unwrap().to_string(), mode);
        }
    }

    #[test]
    fn addresses() {
        for address in [
            "localhost:8080",
            ":80",
            "0.0.0.0:0",
            "[::1]:8080",
            "poet.example:443",
        ] {
            assert_eq!(parse_address(address).as_deref(), Ok(address));
        }
    }
}
