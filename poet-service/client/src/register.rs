//! `poet-client register`.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, Sender},
    },
    thread,
    time::Duration,
};

use anyhow::{anyhow, ensure};
use jiff::Timestamp;
use poet_proto::{
    certificate::{CertificateVerifier, Certifier, SignedCertificate, TrustedKeys},
    duration::format_go,
    identity::PublicKey,
    json::{self, Bytes, InfoResponse, RoundPhase, SubmitResponse},
    member::{Challenge, NodeId},
    messages::{Admission, Submission},
    network::Network,
    pow::{self, PowParams},
    receipt::Receipt,
    schedule::reward_epoch,
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    http::{Http, Url},
    input::read,
    key::{NodeKey, parse_challenge, parse_hex},
    output::{printable, table},
    poet::{Failure, Kind, RemotePoet},
    receipt::ExpectedReceipt,
    schedule::schedule_of,
    state::{DEFAULT_FILE, Lock, StateFile, StoredRegistration},
    time::{
        after, now, parse_duration, parse_time, parse_until, parse_wait, receive, rough,
        rough_between, time_until, wait_again,
    },
};

/// Register a challenge with PoET servers
///
/// Registers with all servers at the same time, with a certificate of the server's certifier if
/// --certificate gives one, otherwise with a proof of work. Retries servers that are down. Each
/// registration is stored in the state file at once, so that the same command can be repeated, with
/// more servers or after an interruption: it keeps the registrations in the file, and skips their
/// servers.
///
/// Exit codes: 0 registered with all servers, 1 with none, 2 the command line is wrong, 3 with some.
#[derive(Debug, clap::Args)]
#[command(args_override_self = true)]
pub(crate) struct Args {
    /// A server; give it once for each
    #[arg(long = "poet", value_name = "URL", required = true)]
    poets: Vec<Url>,

    /// The node's private key: 64 bytes in hex (as in a node's identities/local.key), in base64 or
    /// raw
    #[arg(long, value_name = "FILE")]
    key: PathBuf,

    /// Write a new key to the file of --key, unless it exists
    #[arg(long)]
    generate_key: bool,

    /// The challenge to register: 32 bytes in hex
    #[arg(long, value_name = "HEX", value_parser = parse_challenge)]
    challenge: Challenge,

    /// The latest time for the proof: servers whose open round ends later refuse [default: the end
    /// of the round that was open when this program was started, so that the node does not enter a
    /// later one]
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    deadline: Option<Timestamp>,

    /// Stop retrying servers at this time, or after this duration [default: the start of the round,
    /// as other servers report it, at least 10m; if none reports it (a Go server does not),
    /// --deadline, or else 10m]
    #[arg(long, value_name = "TIME", value_parser = parse_until)]
    until: Option<Timestamp>,

    /// A certificate for this node as its certifier issued it, in JSON: {"certificate": base64,
    /// "signature": base64}; give it once for each
    #[arg(long = "certificate", value_name = "FILE")]
    certificates: Vec<PathBuf>,

    /// Refuse servers with another phase shift, as nodes do [default: accept any]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    phase_shift: Option<Duration>,

    /// The id of the network, which is signed: 20 bytes in hex; the default is mainnet's
    #[arg(long, value_name = "HEX", value_parser = parse_hex::<20>,
        default_value = "9eebff023abb17ccb775c602daade8ed708f0a50", hide_default_value = true)]
    genesis_id: [u8; 20],

    /// Print the results as JSON, one object at the end
    #[arg(long)]
    json: bool,

    /// The file for the registrations
    #[arg(long, value_name = "FILE", default_value = DEFAULT_FILE)]
    state: PathBuf,

    /// Retry a failed server after one to two times this duration, or half of the remaining time
    #[arg(long, value_name = "DURATION", value_parser = parse_wait, default_value = "10s")]
    retry_delay: Duration,

    /// How long to wait for a complete response
    #[arg(long, value_name = "DURATION", value_parser = parse_wait, default_value = "30s")]
    timeout: Duration,
}

/// The domain byte of a node's registration signature, which follows the network's id.
const POET_DOMAIN: u8 = 4;
/// How long to retry servers that do not respond, by default.
const DEFAULT_PATIENCE: Duration = Duration::from_secs(600);
/// The longest round: mainnet's take 13.5 days, and a node may register days before.
const MAX_ROUND: Duration = Duration::from_secs(100 * 24 * 3600);
/// How far clocks may differ when the end of a round is compared with the deadline.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(60);
/// A proof of work of this many bits takes a core about 20 minutes; networks require less.
const MAX_POW_BITS: u32 = 32;
/// Nonces to try between two checks of the time.
const NONCES: u64 = 1 << 16;
/// The maximum size of a certificate file. The signed part has some 45 bytes.
const MAX_CERTIFICATE_BYTES: u64 = 16 * 1024;
/// How much longer a request may take that began in time.
const GRACE: Duration = Duration::from_secs(2);

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let begin = now();
    if let Some(deadline) = args.deadline {
        ensure!(deadline > begin, "--deadline {deadline} has passed");
    }
    let key = if args.generate_key {
        NodeKey::read_or_generate(&args.key)?
    } else {
        NodeKey::read(&args.key)?
    };
    let node_id = key.node_id();
    let certificates = args
        .certificates
        .iter()
        .map(|path| read_certificate(path))
        .collect::<Result<_, _>>()?;
    let _lock = Lock::take(&args.state)?;
    let mut state = open_state(&args.state, node_id, args.challenge)?;

    let mut poets = args.poets.clone();
    poets.sort();
    poets.dedup();
    let missing = poets.iter().filter(|poet| !state.has(poet));
    let mut outcomes: BTreeMap<Url, String> = missing
        .map(|poet| (poet.clone(), "not asked in time".to_owned()))
        .collect();
    let http = Http::new(outcomes.keys())?;
    let retry_limit = RetryLimit {
        until: args.until,
        deadline: args.deadline,
        least: after(begin, DEFAULT_PATIENCE),
    };
    let job = Arc::new(Registering {
        begin,
        network: Network::with_id(&args.genesis_id),
        signed: SignedChallenge::new(&key, args),
        certificates,
        deadline: args.deadline,
        phase_shift: args.phase_shift,
        limit: Mutex::new(retry_limit.limit(None)),
        retry_delay: args.retry_delay,
        timeout: args.timeout,
    });

    if !args.json {
        println!("node {}", hex::encode(node_id));
        println!("challenge {}", hex::encode(args.challenge));
    }
    let (sender, events) = mpsc::channel();
    for url in outcomes.keys() {
        let (job, sender) = (Arc::clone(&job), sender.clone());
        let poet = RemotePoet::new(url.clone(), http.clone());
        let url = url.clone();
        // Not joined: a server that hangs must not delay the others.
        thread::spawn(move || job.run(&url, &poet, &sender));
    }
    drop(sender);
    let mut start = None;
    let mut pending: BTreeSet<Url> = outcomes.keys().cloned().collect();
    while !pending.is_empty()
        && let Some((poet, event)) = receive(&events, after(job.limit(), GRACE))
    {
        match event {
            RegisterEvent::RoundStart(told) => {
                // If they differ, the latest: a wrong one must not cost the other servers time.
                start = start.max(Some(told));
                job.set_limit(retry_limit.limit(start));
            }
            RegisterEvent::Registered(registration) => {
                eprintln!(
                    "{poet}: registered in round {}, which is rewarded in epoch {} and ends in {}",
                    registration.round,
                    reward_epoch(registration.round),
                    rough_between(now(), registration.round_end)
                );
                state.registrations.push(registration);
                state.write(&args.state)?;
                outcomes.remove(&poet);
                pending.remove(&poet);
            }
            RegisterEvent::Failed { reason, again } => {
                let before = outcomes.insert(poet.clone(), reason.clone());
                match again {
                    Some(wait) if before.as_ref() != Some(&reason) => {
                        eprintln!("{poet}: {reason}; asked again in {}", rough(wait));
                    }
                    _ => {}
                }
                if again.is_none() {
                    pending.remove(&poet);
                }
            }
        }
    }
    drop(events);

    if args.json {
        println!("{}", report(&state, &outcomes));
    } else {
        print!("{}", summary(&poets, &state, &outcomes));
    }
    let registered = poets.len() - outcomes.len();
    Ok(match (registered, outcomes.len()) {
        (_, 0) => ExitCode::SUCCESS,
        (0, _) => ExitCode::FAILURE,
        _ => ExitCode::from(3),
    })
}

/// Opens the state in `path`, or creates a new one.
fn open_state(path: &Path, node_id: NodeId, challenge: Challenge) -> anyhow::Result<StateFile> {
    let name = path.display();
    let Some(state) = StateFile::read(path)? else {
        // Before any request, so that no response is lost.
        let state = StateFile::new(node_id, challenge);
        state.write(path)?;
        return Ok(state);
    };
    ensure!(
        state.node_id == node_id,
        "--state {name} holds the registrations of another node, {}: expected its key, or another \
         file",
        state.node_id
    );
    ensure!(
        state.challenge == challenge,
        "--state {name} holds the registrations of another challenge, {}: expected another file",
        state.challenge
    );
    Ok(state)
}

fn read_certificate(path: &Path) -> anyhow::Result<SignedCertificate> {
    /// A certificate as a certifier issues it.
    #[derive(Deserialize)]
    struct CertificateFile {
        certificate: Bytes,
        signature: Bytes,
    }

    let option = format!("--certificate {}", path.display());
    let text = read(&option, path, MAX_CERTIFICATE_BYTES)?;
    let file: CertificateFile = json::read(&text).map_err(|error| {
        anyhow!("{option} is not a certificate: {error}; expected JSON as a certifier answers with")
    })?;
    Ok(SignedCertificate {
        data: file.certificate.0,
        signature: file.signature.0,
    })
}

/// The challenge as the node signed it: the same for all servers.
struct SignedChallenge {
    node_id: NodeId,
    challenge: Challenge,
    prefix: Vec<u8>,
    signature: [u8; 64],
}

impl SignedChallenge {
    fn new(key: &NodeKey, args: &Args) -> Self {
        let prefix = [&args.genesis_id[..], &[POET_DOMAIN]].concat();
        let signature = key.sign(&[&prefix[..], &args.challenge.0].concat());
        Self {
            node_id: key.node_id(),
            challenge: args.challenge,
            prefix,
            signature,
        }
    }
}

/// Returns the results in JSON.
fn report(state: &StateFile, outcomes: &BTreeMap<Url, String>) -> serde_json::Value {
    let registration = |it: &StoredRegistration| {
        json!({
            "poet": it.poet,
            "pubkey": it.pubkey,
            "round": it.round,
            "rewardEpoch": reward_epoch(it.round),
            "roundEnd": it.round_end,
        })
    };
    let failed = |(poet, reason): (&Url, &String)| json!({"poet": poet, "error": reason});
    json!({
        "nodeId": state.node_id.to_string(),
        "challenge": state.challenge.to_string(),
        "registrations": state.registrations.iter().map(registration).collect::<Vec<_>>(),
        "failed": outcomes.iter().map(failed).collect::<Vec<_>>(),
    })
}

/// Formats one line per server.
fn summary(poets: &[Url], state: &StateFile, outcomes: &BTreeMap<Url, String>) -> String {
    let now = now();
    let mut rows = vec![
        ["server", "round", "epoch", "ends", "in"]
            .map(str::to_owned)
            .to_vec(),
    ];
    for registration in &state.registrations {
        let end = registration.round_end;
        let mut left = rough_between(now, end);
        if !poets.contains(&registration.poet) {
            left.push_str("  (registered earlier)");
        }
        rows.push(vec![
            registration.poet.to_string(),
            registration.round.to_string(),
            reward_epoch(registration.round).to_string(),
            format!("{end:.0}"),
            left,
        ]);
    }
    let mut text = if rows.len() > 1 {
        table(&rows)
    } else {
        String::new()
    };
    for (poet, reason) in outcomes {
        text.push_str(&format!("{poet}: not registered: {reason}\n"));
    }
    text
}

impl StateFile {
    fn has(&self, poet: &Url) -> bool {
        self.registrations
            .iter()
            .any(|registration| registration.poet == *poet)
    }
}

/// The result of an attempt.
enum RegisterEvent {
    Registered(StoredRegistration),
    /// When the round starts for which we are registered.
    RoundStart(Timestamp),
    Failed {
        reason: String,
        /// The wait until the next attempt.
        again: Option<Duration>,
    },
}

/// How long to retry servers that do not respond.
struct RetryLimit {
    until: Option<Timestamp>,
    deadline: Option<Timestamp>,
    least: Timestamp,
}

impl RetryLimit {
    /// Returns when to give up, if the round is known to start at `start`: the servers of a network
    /// start their rounds at the same time.
    fn limit(&self, start: Option<Timestamp>) -> Timestamp {
        let deadline = self.deadline.unwrap_or(Timestamp::MAX);
        self.until.unwrap_or_else(|| match (start, self.deadline) {
            (Some(start), _) => start.max(self.least).min(deadline),
            (None, Some(deadline)) => deadline,
            (None, None) => self.least,
        })
    }
}

/// Which round to register for.
#[derive(Clone, Copy, Debug, Default)]
struct RoundChoice {
    /// Sent to the server, which refuses if its round ends later.
    deadline: Option<Timestamp>,
    /// The last acceptable round, for a server that ignores the deadline.
    last_round: Option<u64>,
}

/// What to do with every server.
struct Registering {
    /// When this program was started.
    begin: Timestamp,
    network: Option<&'static Network>,
    signed: SignedChallenge,
    certificates: Vec<SignedCertificate>,
    deadline: Option<Timestamp>,
    phase_shift: Option<Duration>,
    /// When to give up, as far as is known.
    limit: Mutex<Timestamp>,
    retry_delay: Duration,
    timeout: Duration,
}

impl Registering {
    /// Tries until it succeeds, there is no hope, or the time is over.
    fn run(&self, url: &Url, poet: &RemotePoet, events: &Sender<(Url, RegisterEvent)>) {
        // If nothing receives this, the program is ending.
        let tell = |event| drop(events.send((url.clone(), event)));
        while !time_until(self.limit()).is_zero() {
            let failure = match self.register(url, poet) {
                Ok(registration) => {
                    let round = registration.round;
                    tell(RegisterEvent::Registered(registration));
                    if let Some(start) = self.round_start(poet, round) {
                        tell(RegisterEvent::RoundStart(start));
                    }
                    return;
                }
                Err(failure) => failure,
            };
            let again = match failure.kind {
                Kind::Passing => wait_again(self.retry_delay, self.limit()),
                Kind::Unauthorized | Kind::Final => None,
            };
            tell(RegisterEvent::Failed {
                reason: failure.reason,
                again,
            });
            let Some(wait) = again else { return };
            thread::sleep(wait);
        }
    }

    fn limit(&self) -> Timestamp {
        *self.limit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_limit(&self, limit: Timestamp) {
        *self.limit.lock().unwrap_or_else(PoisonError::into_inner) = limit;
    }

    /// Returns when `round` starts, if the server reports it.
    fn round_start(&self, poet: &RemotePoet, round: u64) -> Option<Timestamp> {
        let rounds = poet.rounds(self.time().ok()?).ok()??;
        let mut rounds = rounds.iter().filter(|it| it.id.0 == round);
        rounds.next().map(|round| round.start)
    }

    /// Returns how long the next response may take.
    fn time(&self) -> Result<Duration, Failure> {
        let left = time_until(self.limit());
        if left.is_zero() {
            return Err(Failure::last("not done in time"));
        }
        Ok(self.timeout.min(left))
    }

    fn register(&self, url: &Url, poet: &RemotePoet) -> Result<StoredRegistration, Failure> {
        let info = poet.info(self.time()?)?;
        if let Some(expected) = self.phase_shift
            && info.phase_shift.0 != expected
        {
            return Err(Failure::last(format!(
                "its phase shift is {}, expected {}",
                format_go(info.phase_shift.0),
                format_go(expected)
            )));
        }
        let target = self.target(poet, &info)?;
        let submitted = self.submit(poet, &info, target.deadline)?;
        let left = Duration::try_from(submitted.round_end.0).unwrap_or_default();
        if left.is_zero() {
            return Err(Failure::last(
                "it says that its round has ended already: its clock or its schedule is wrong",
            ));
        }
        let round = submitted.round_id.0;
        if let Some(last) = target.last_round
            && round > last
        {
            return Err(Failure::last(format!(
                "it has entered the node into round {round}, although round {last} was asked for: its \
                 proof comes too late"
            )));
        }
        let round_end = after(now(), left);
        let latest = match self.deadline {
            Some(deadline) => after(deadline, CLOCK_TOLERANCE),
            None => after(now(), MAX_ROUND),
        };
        if round_end > latest {
            return Err(Failure::last(format!(
                "it says that its round ends at {round_end:.0}, too late to be of use"
            )));
        }
        let receipt = submitted.receipt.map(|receipt| {
            let receipt = Receipt::from_json(&receipt).map_err(|error| error.to_string())?;
            let registered = ExpectedReceipt {
                server: Some(info.service_pubkey.0),
                node_id: Some(self.signed.node_id),
                challenge: Some(self.signed.challenge),
                round: Some(round),
            };
            registered.check(&receipt).map(|()| Box::new(receipt))
        });
        let receipt = receipt.transpose().unwrap_or_else(|reason: String| {
            // The server said that we are registered. That counts as much as it would without a
            // receipt.
            eprintln!("WARNING: {url}: its receipt is not kept: {reason}");
            None
        });
        Ok(StoredRegistration {
            poet: url.clone(),
            pubkey: info.service_pubkey,
            round,
            round_end,
            cycle_gap: info.cycle_gap,
            receipt,
        })
    }

    /// Returns the round that was open when this program was started, unless the user asked for
    /// another.
    fn target(&self, poet: &RemotePoet, info: &InfoResponse) -> Result<RoundChoice, Failure> {
        if self.deadline.is_some() {
            return Ok(RoundChoice {
                deadline: self.deadline,
                last_round: None,
            });
        }
        let rounds = match poet.rounds(self.time()?) {
            Err(failure) if failure.kind == Kind::Passing => return Err(failure),
            rounds => rounds.ok().flatten(),
        };
        let open = rounds
            .iter()
            .flatten()
            .filter(|it| it.state == RoundPhase::Open);
        let open = open.max_by_key(|round| round.id.0);
        let schedule = schedule_of(info, rounds.as_deref(), self.network);
        let at_begin = schedule.map(|schedule| {
            let round = schedule.open_round(self.begin);
            (round, schedule.end(round))
        });
        // The earlier one: the server's has been opened since, or its clock is behind.
        let round = open.map(|round| (round.id.0, round.end));
        let round = round.into_iter().chain(at_begin).min();
        Ok(RoundChoice {
            deadline: round.map(|(_, end)| end),
            last_round: round.map(|(round, _)| round),
        })
    }

    /// Submits with each certificate that the server's certifier issued, then with a proof of work.
    fn submit(
        &self,
        poet: &RemotePoet,
        info: &InfoResponse,
        deadline: Option<Timestamp>,
    ) -> Result<SubmitResponse<Value>, Failure> {
        for certificate in self.certificates_for(info) {
            let admission = Admission::Certificate(certificate);
            match self.submit_with(poet, deadline, admission) {
                Err(failure) if failure.kind == Kind::Unauthorized => {}
                other => return other,
            }
        }
        let params = poet.pow_params(self.time()?)?;
        let admission = Admission::Work {
            params: &params,
            nonce: self.solve(&params)?,
        };
        self.submit_with(poet, deadline, admission)
            .map_err(|failure| {
                let reason = match info.certifier() {
                    Some(certifier) if failure.kind != Kind::Passing => format!(
                        "{} (it accepted no --certificate; its certifier is {})",
                        failure.reason,
                        printable(&certifier.url)
                    ),
                    _ => failure.reason,
                };
                let kind = match failure.kind {
                    Kind::Unauthorized => Kind::Final,
                    other => other,
                };
                Failure { kind, reason }
            })
    }

    fn submit_with(
        &self,
        poet: &RemotePoet,
        deadline: Option<Timestamp>,
        admission: Admission<'_>,
    ) -> Result<SubmitResponse<Value>, Failure> {
        let submission = Submission {
            prefix: &self.signed.prefix,
            challenge: &self.signed.challenge,
            node_id: &self.signed.node_id,
            signature: &self.signed.signature,
            deadline,
            admission,
        };
        poet.submit(&submission, self.time()?)
    }

    /// Returns the certificates for this node by the server's certifier.
    fn certificates_for(&self, info: &InfoResponse) -> Vec<&SignedCertificate> {
        let certifier = info.certifier().and_then(|certifier| {
            let key = certifier.pubkey.0.as_slice().try_into().ok()?;
            Some(CertificateVerifier::new(Certifier {
                url: String::new(),
                pubkey: Some(PublicKey::from_bytes(key)?),
                trusted: TrustedKeys::default(),
            }))
        });
        let Some(verifier) = certifier else {
            return Vec::new();
        };
        let valid = |certificate: &&SignedCertificate| {
            verifier
                .verify(certificate, None, self.signed.node_id, now())
                .is_ok()
        };
        self.certificates.iter().filter(valid).collect()
    }

    /// Returns a nonce that meets `params`.
    fn solve(&self, params: &PowParams) -> Result<u64, Failure> {
        let bits = params.difficulty;
        if bits > MAX_POW_BITS {
            return Err(Failure::last(format!(
                "it asks for a proof of work of {bits} bits, expected at most {MAX_POW_BITS}"
            )));
        }
        let SignedChallenge {
            node_id, challenge, ..
        } = &self.signed;
        let valid = |nonce: &u64| pow::is_valid(params, *node_id, &challenge.0, *nonce);
        let mut first = 0_u64;
        loop {
            self.time()?;
            let next = first.saturating_add(NONCES);
            if let Some(nonce) = (first..next).find(valid) {
                return Ok(nonce);
            }
            first = next;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_asked_again_until_their_round_starts() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let limit = |until: Option<i64>, deadline: Option<i64>, start: Option<i64>| {
            let retry_limit = RetryLimit {
                until: until.map(at),
                deadline: deadline.map(at),
                least: at(600),
            };
            retry_limit.limit(start.map(at)).as_second()
        };
        assert_eq!(limit(None, None, None), 600);
        assert_eq!(limit(None, None, Some(9000)), 9000);
        assert_eq!(limit(None, Some(90_000), None), 90_000);
        assert_eq!(limit(None, Some(90_000), Some(9000)), 9000);
        // A server that reports a wrong time.
        assert_eq!(limit(None, None, Some(1)), 600);
        assert_eq!(limit(None, Some(90_000), Some(100_000)), 90_000);
        assert_eq!(limit(None, Some(300), Some(1)), 300);
        for start in [None, Some(1), Some(9000)] {
            assert_eq!(limit(Some(700), Some(90_000), start), 700);
        }
    }
}
