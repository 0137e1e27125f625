//! Detects, tests and chooses the backends on which a work function runs.
//!
//! A *backend* is what a user chooses by name; its *kernels* are the functions that compute.
//!
//! 1. *Detection*: finds the backends of the table whose features this CPU has.
//! 2. *Self-test*: checks that they compute known answers. A backend that gets one wrong is
//!    excluded, and [`Selection::warnings`] reports it: it must not go unnoticed, since either the
//!    machine or the backend is broken.
//! 3. *Timing trial*: measures the others for some milliseconds, separately in two roles: one chain
//!    (latency: the sequential work) and many (throughput: proofs, verification, audit).
//! 4. *Choice*: takes the fastest in each role. A backend is preferred to one before it in the
//!    table only if it is more than 1 % faster, so that noise does not choose between equals.
//!
//! A name given by `--backend`, or else by the environment variable `POET_BACKEND`, forces the
//! choice. A backend for one chain is then used in both roles. One that is for many chains only
//! (`avx512`, `avx2`) is used for those, and the backend for one chain is chosen as usual: programs
//! that hash one chain refuse it ([`Selection::for_one_chain`]), because another one would do their
//! work.
//!
//! A new backend is one row in the table.

mod self_test;
mod table;
#[cfg(test)]
mod tests;
mod trial;

use std::ffi::OsString;
use std::fmt;

use poet_engine::{DepthError, Kernels, Work, WorkFunction};

use table::{BackendKernels, ROWS, Roles, Row};
use trial::Rates;

/// The environment variable that forces a backend by name. Empty is the same as unset.
pub const ENVIRONMENT_VARIABLE: &str = "POET_BACKEND";

/// How much faster a backend must be than one before it in the table.
const MARGIN: f64 = 1.01;

/// How to choose a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SelectOptions<'a> {
    /// The name of the backend to use (`--backend`). Without it, [`ENVIRONMENT_VARIABLE`] may name
    /// one.
    pub forced: Option<&'a str>,
    /// Whether backends are timed. If not, the order of the table decides, and no rates are known.
    pub trial: bool,
}

impl Default for SelectOptions<'_> {
    fn default() -> Self {
        Self {
            forced: None,
            trial: true,
        }
    }
}

/// Why a backend was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It was the fastest of the timing trial.
    Fastest,
    /// The caller named it: [`SelectOptions::forced`].
    ForcedByOption,
    /// [`ENVIRONMENT_VARIABLE`] named it.
    ForcedByEnvironment,
    /// There was no trial, and it comes first in the table.
    Preference,
}

impl Reason {
    fn is_forced(self) -> bool {
        matches!(self, Self::ForcedByOption | Self::ForcedByEnvironment)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fastest => "fastest of the trial",
            Self::ForcedByOption => "forced by --backend",
            Self::ForcedByEnvironment => "forced by POET_BACKEND",
            Self::Preference => "preference order, trial off",
        })
    }
}

/// The backend chosen for a role.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// The name of the backend.
    pub name: &'static str,
    /// Invocations of the work function per second in this role, if it was measured.
    pub hashes_per_s: Option<f64>,
    /// The reason for the choice.
    pub reason: Reason,
}

impl fmt::Display for Choice {
    /// `sha-ni-avx (22.87 M hashes/s, fastest of the trial)`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (", self.name)?;
        if let Some(rate) = self.hashes_per_s {
            write!(f, "{:.2} M hashes/s, ", rate / 1e6)?;
        }
        write!(f, "{})", self.reason)
    }
}

/// Why a backend cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Excluded {
    /// The CPU, or the operating system, lacks these features.
    Unsupported {
        /// The names of the features.
        missing: Vec<&'static str>,
    },
    /// It computed something wrong.
    Failed {
        /// The wrong result.
        failure: String,
    },
}

impl fmt::Display for Excluded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsupported { missing } => write!(f, "the CPU lacks {}", missing.join(", ")),
            Self::Failed { failure } => write!(f, "it failed its self-test: {failure}"),
        }
    }
}

/// What is known about a backend.
#[derive(Clone, Debug, PartialEq)]
pub struct BackendReport {
    /// The name that selects it.
    pub name: &'static str,
    /// Whether it can be chosen for one chain. All can be chosen for many.
    pub latency: bool,
    /// Why it cannot be used; `None` if the CPU has its features and it passed its self-test.
    pub excluded: Option<Excluded>,
    /// Invocations of the work function per second on one chain, if measured.
    pub one_hashes_per_s: Option<f64>,
    /// Invocations of the work function per second on many chains, if measured.
    pub many_hashes_per_s: Option<f64>,
    /// Whether it was chosen for one chain.
    pub chosen_latency: bool,
    /// Whether it was chosen for many chains.
    pub chosen_throughput: bool,
}

/// Why no backend could be chosen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SelectError {
    /// No backend has the name.
    #[error("unknown backend {name:?} ({reason}); {}", choices(*.function, .available))]
    Unknown {
        /// The name.
        name: String,
        /// How it was named.
        reason: Reason,
        /// The work function.
        function: WorkFunction,
        /// The usable backends.
        available: Vec<&'static str>,
    },
    /// The CPU cannot run the backend.
    #[error(
        "backend {name} ({reason}) is not supported: the CPU lacks {}; {}",
        .missing.join(", "),
        choices(*.function, .available)
    )]
    Unsupported {
        /// The name.
        name: &'static str,
        /// How it was named.
        reason: Reason,
        /// The CPU features that it lacks.
        missing: Vec<&'static str>,
        /// The work function.
        function: WorkFunction,
        /// The usable backends.
        available: Vec<&'static str>,
    },
    /// The backend computed something wrong.
    #[error(
        "backend {name} ({reason}) failed its self-test: {failure}; {}",
        choices(*.function, .available)
    )]
    SelfTest {
        /// The name.
        name: &'static str,
        /// How it was named.
        reason: Reason,
        /// The wrong result.
        failure: String,
        /// The work function.
        function: WorkFunction,
        /// The usable backends.
        available: Vec<&'static str>,
    },
    /// The backend is for many chains only.
    #[error(
        "backend {name} ({reason}) hashes only many chains at once, and this work is one chain; {}",
        choices(*.function, .available)
    )]
    ManyChainsOnly {
        /// The name.
        name: &'static str,
        /// How it was named.
        reason: Reason,
        /// The work function.
        function: WorkFunction,
        /// The usable backends.
        available: Vec<&'static str>,
    },
    /// There is no backend to choose from.
    #[error("there is no usable backend for {function}{}", because(.warnings))]
    NoBackend {
        /// The work function.
        function: WorkFunction,
        /// The excluded backends and the reasons.
        warnings: Vec<String>,
    },
}

fn choices(function: WorkFunction, names: &[&str]) -> String {
    if names.is_empty() {
        format!("this CPU has none for {function}")
    } else {
        format!("for {function} this CPU has {}", names.join(", "))
    }
}

fn because(warnings: &[String]) -> String {
    let separate = |warning| format!("; {warning}");
    warnings.iter().map(separate).collect()
}

/// The backends chosen for a work function.
#[derive(Clone)]
pub struct Selection {
    function: WorkFunction,
    latency: Choice,
    throughput: Choice,
    kernels: Kernels,
    reports: Vec<BackendReport>,
    warnings: Vec<String>,
}

impl Selection {
    /// Returns the work function at `depth`, on the kernels of the chosen backends.
    ///
    /// # Errors
    /// Fails if `depth` is out of range.
    pub fn work(&self, depth: u32) -> Result<Work, DepthError> {
        Work::new(self.function, depth, self.kernels)
    }

    /// Returns the same selection, for a program whose work is one chain.
    ///
    /// # Errors
    /// Fails if the forced backend is for many chains only: another one would do the work.
    pub fn for_one_chain(self) -> Result<Self, SelectError> {
        if self.latency.name == self.throughput.name || !self.throughput.reason.is_forced() {
            return Ok(self);
        }
        let usable = |report: &&BackendReport| report.latency && report.excluded.is_none();
        let available = self.reports.iter().filter(usable);
        Err(SelectError::ManyChainsOnly {
            name: self.throughput.name,
            reason: self.throughput.reason,
            function: self.function,
            available: available.map(|report| report.name).collect(),
        })
    }

    /// Returns the backend for one chain.
    #[must_use]
    pub fn latency(&self) -> Choice {
        self.latency
    }

    /// Returns the backend for many chains.
    #[must_use]
    pub fn throughput(&self) -> Choice {
        self.throughput
    }

    /// Returns the reports on all backends for the work function.
    #[must_use]
    pub fn reports(&self) -> &[BackendReport] {
        &self.reports
    }

    /// Returns the warnings for the operator: one sentence for each backend that failed its
    /// self-test.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }
}

impl fmt::Debug for Selection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Selection")
            .field("function", &self.function)
            .field("latency", &self.latency)
            .field("throughput", &self.throughput)
            .field("warnings", &self.warnings)
            .finish_non_exhaustive()
    }
}

/// Chooses the backends for `function`: the one that `forced` names (`--backend`), or else the one
/// that [`ENVIRONMENT_VARIABLE`] names, or else the fastest.
///
/// # Errors
/// Fails if the named backend is unknown, not supported by this CPU, or failed its self-test, or if
/// there is none for `function`.
pub fn select(function: WorkFunction, forced: Option<&str>) -> Result<Selection, SelectError> {
    let options = SelectOptions {
        forced,
        ..SelectOptions::default()
    };
    select_with(function, options)
}

/// Like [`select`], with all options.
///
/// # Errors
/// Fails as [`select`] does.
pub fn select_with(
    function: WorkFunction,
    options: SelectOptions<'_>,
) -> Result<Selection, SelectError> {
    let forced = forced(options.forced, std::env::var_os(ENVIRONMENT_VARIABLE));
    let candidates = evaluate(ROWS, function, options.trial);
    choose(ROWS, function, forced.as_ref(), &candidates)
}

/// Returns the reports on all backends for `function`. Some are marked as chosen, unless
/// [`ENVIRONMENT_VARIABLE`] names one that cannot be used.
#[must_use]
pub fn survey(function: WorkFunction) -> Vec<BackendReport> {
    let forced = forced(None, std::env::var_os(ENVIRONMENT_VARIABLE));
    let candidates = evaluate(ROWS, function, true);
    match choose(ROWS, function, forced.as_ref(), &candidates) {
        Ok(selection) => selection.reports,
        Err(_) => reports(&candidates),
    }
}

/// A forced name, and where it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Forced {
    name: String,
    reason: Reason,
}

/// The option takes precedence over the environment, whose empty value means nothing.
fn forced(option: Option<&str>, environment: Option<OsString>) -> Option<Forced> {
    if let Some(name) = option {
        return Some(Forced {
            name: name.to_owned(),
            reason: Reason::ForcedByOption,
        });
    }
    let name = environment.filter(|name| !name.is_empty())?;
    Some(Forced {
        // A name that is not Unicode is unknown in any case.
        name: name.to_string_lossy().into_owned(),
        reason: Reason::ForcedByEnvironment,
    })
}

/// A row of the table and what is known about it.
struct Candidate {
    name: &'static str,
    roles: Roles,
    status: Result<BackendKernels, Excluded>,
    rates: Rates,
}

impl Candidate {
    fn ready(&self) -> Result<Ready, &Excluded> {
        let backend = *self.status.as_ref()?;
        Ok(Ready {
            name: self.name,
            roles: self.roles,
            backend,
            rates: self.rates,
        })
    }
}

/// Returns the candidates that can be chosen.
fn ready(candidates: &[Candidate]) -> impl Iterator<Item = Ready> {
    candidates
        .iter()
        .filter_map(|candidate| candidate.ready().ok())
}

/// A candidate that can be chosen.
#[derive(Clone, Copy)]
struct Ready {
    name: &'static str,
    roles: Roles,
    backend: BackendKernels,
    rates: Rates,
}

impl Ready {
    fn choice(&self, hashes_per_s: Option<f64>, forced: Option<Reason>) -> Choice {
        let unforced = match hashes_per_s {
            Some(_) => Reason::Fastest,
            None => Reason::Preference,
        };
        Choice {
            name: self.name,
            hashes_per_s,
            reason: forced.unwrap_or(unforced),
        }
    }
}

/// Detects, tests and, if `trial`, times the backends for `function`.
fn evaluate(rows: &[Row], function: WorkFunction, trial: bool) -> Vec<Candidate> {
    let rows = rows.iter().filter(|row| row.function == function);
    let mut candidates: Vec<_> = rows
        .map(|row| Candidate {
            name: row.name,
            roles: row.roles,
            status: detect(row),
            rates: Rates::default(),
        })
        .collect();
    if trial {
        let mut ready: Vec<_> = candidates
            .iter_mut()
            .filter_map(|candidate| {
                let chain = candidate.status.as_ref().ok()?.chain;
                Some((chain, candidate.roles, &mut candidate.rates))
            })
            .collect();
        trial::run(&mut ready);
    }
    candidates
}

/// Returns the kernels of `row` if the CPU can run them and they pass the self-test.
fn detect(row: &Row) -> Result<BackendKernels, Excluded> {
    let backend = (row.get)().ok_or_else(|| Excluded::Unsupported {
        missing: (row.missing)(),
    })?;
    match self_test::run(row.function, backend) {
        Ok(()) => Ok(backend),
        Err(failure) => Err(Excluded::Failed { failure }),
    }
}

fn reports(candidates: &[Candidate]) -> Vec<BackendReport> {
    let report = |candidate: &Candidate| BackendReport {
        name: candidate.name,
        latency: candidate.roles == Roles::Both,
        excluded: candidate.status.as_ref().err().cloned(),
        one_hashes_per_s: candidate.rates.one,
        many_hashes_per_s: candidate.rates.many,
        chosen_latency: false,
        chosen_throughput: false,
    };
    candidates.iter().map(report).collect()
}

fn warnings(candidates: &[Candidate]) -> Vec<String> {
    let failures = candidates.iter().filter_map(|candidate| {
        let Err(Excluded::Failed { failure }) = &candidate.status else {
            return None;
        };
        let name = candidate.name;
        Some(format!(
            "backend {name} is not used: it failed its self-test: {failure}"
        ))
    });
    failures.collect()
}

/// Returns the first of `backends`, unless a later one is faster by more than the margin.
fn fastest(
    backends: impl Iterator<Item = Ready>,
    rate: impl Fn(&Ready) -> Option<f64>,
) -> Option<Ready> {
    backends.reduce(|best, next| match (rate(&best), rate(&next)) {
        (Some(best_rate), Some(next_rate)) if next_rate > MARGIN * best_rate => next,
        _ => best,
    })
}

/// Finds the named backend.
fn find(
    function: WorkFunction,
    forced: &Forced,
    candidates: &[Candidate],
) -> Result<Ready, SelectError> {
    let reason = forced.reason;
    let available = || ready(candidates).map(|ready| ready.name).collect();
    let Some(candidate) = candidates
        .iter()
        .find(|candidate| candidate.name == forced.name)
    else {
        return Err(SelectError::Unknown {
            name: forced.name.clone(),
            reason,
            function,
            available: available(),
        });
    };
    let name = candidate.name;
    match candidate.ready() {
        Ok(ready) => Ok(ready),
        Err(Excluded::Unsupported { missing }) => Err(SelectError::Unsupported {
            name,
            reason,
            missing: missing.clone(),
            function,
            available: available(),
        }),
        Err(Excluded::Failed { failure }) => Err(SelectError::SelfTest {
            name,
            reason,
            failure: failure.clone(),
            function,
            available: available(),
        }),
    }
}

/// Chooses from the candidates for `function`. `rows` is the whole table: a function other than
/// SHA-256 needs a SHA-256 backend, too.
fn choose(
    rows: &[Row],
    function: WorkFunction,
    forced: Option<&Forced>,
    candidates: &[Candidate],
) -> Result<Selection, SelectError> {
    let mut warnings = warnings(candidates);
    let both = |ready: &Ready| ready.roles == Roles::Both;
    let forced = match forced {
        Some(forced) => Some((find(function, forced, candidates)?, Some(forced.reason))),
        None => None,
    };
    // The backend for each role, with the reason if it is forced.
    let one = forced.filter(|(backend, _)| both(backend)).or_else(|| {
        let backends = ready(candidates).filter(both);
        Some((fastest(backends, |backend| backend.rates.one)?, None))
    });
    let many = forced.or_else(|| {
        let backends = ready(candidates);
        Some((fastest(backends, |backend| backend.rates.many)?, None))
    });
    let (Some((one, one_reason)), Some((many, many_reason))) = (one, many) else {
        return Err(SelectError::NoBackend { function, warnings });
    };
    let latency = one.choice(one.rates.one, one_reason);
    let throughput = many.choice(many.rates.many, many_reason);

    let (sha256, wide_sha256) = match (one.backend.sha256, many.backend.sha256) {
        (Some(one), Some(many)) => (one, many),
        _ if function == WorkFunction::Sha256 => {
            return Err(SelectError::NoBackend { function, warnings });
        }
        // The work function is not SHA-256, which only starts a label and makes the tree: the first
        // in the table is fast enough.
        _ => {
            let sha256 = evaluate(rows, WorkFunction::Sha256, false);
            let sha256 = choose(rows, WorkFunction::Sha256, None, &sha256)?;
            warnings.extend(sha256.warnings);
            (sha256.kernels.sha256, sha256.kernels.wide_sha256)
        }
    };
    let mut reports = reports(candidates);
    for report in &mut reports {
        report.chosen_latency = report.name == latency.name;
        report.chosen_throughput = report.name == throughput.name;
    }
    Ok(Selection {
        function,
        latency,
        throughput,
        kernels: Kernels {
            sha256,
            chain: one.backend.chain,
            wide_sha256,
            wide_chain: many.backend.chain,
        },
        reports,
        warnings,
    })
}
