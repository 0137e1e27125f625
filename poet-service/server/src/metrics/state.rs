//! The state that is read for each request of the metrics: rounds, disk, process.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use jiff::Timestamp;
use poet_engine::TICK_LEAVES;
use poet_host::{limits::throttling, process::Process};
use poet_rounds::{
    clock::Clock,
    storage::Storage,
    worker::{AuditMode, Standing},
};
use poet_storage::directory;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};
use tokio::sync::watch;

use crate::{
    status::{ServerStatus, StatusReader, expected_leaves},
    version,
};

/// The state of the server, read for each request.
pub(crate) struct ServerState {
    pub(crate) status: StatusReader,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) storage: Arc<dyn Storage>,
    /// Why the server is not ready, if it is not.
    pub(crate) unready: watch::Receiver<Option<&'static str>>,
    /// The directory of the embedded database, if the server uses one.
    pub(crate) dbdir: Option<PathBuf>,
    pub(crate) datadir: PathBuf,
    /// When the server was started.
    pub(crate) started: Timestamp,
}

impl fmt::Debug for ServerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServerState")
    }
}

impl Collector for ServerState {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let status = self.status.status();
        let mut members = vec![(status.open.round, status.open.members)];
        if let Some(executing) = &status.executing {
            let id = [("id", executing.round.to_string())];
            let leaves = executing.leaves.load(Relaxed);
            let (rate, watched) = (executing.leaves_per_second(&*self.clock), executing.rate());
            let expected = expected_leaves(executing, &*self.clock);
            members.push((executing.round, executing.members));

            let name = "poet_round_leaves";
            let mut metric =
                encoder.encode_descriptor(name, "Leaves so far", None, MetricType::Counter)?;
            ConstCounter::new(leaves).encode(metric.encode_family(&id)?)?;
            for (name, help, value) in [
                (
                    "poet_round_leaves_per_second",
                    "Since the start of the work",
                    rate,
                ),
                (
                    "poet_round_newest_leaves_per_second",
                    "In the newest whole minute; before there is one, since the start of the work",
                    watched.newest.unwrap_or(rate),
                ),
                (
                    "poet_round_slow",
                    "1 while the work stays slower than in its first minutes",
                    f64::from(u8::from(watched.slow)),
                ),
                (
                    "poet_round_expected_leaves",
                    "At the end of the round",
                    expected as f64,
                ),
                (
                    "poet_round_expected_ticks",
                    "At the end of the round",
                    (expected / TICK_LEAVES) as f64,
                ),
                (
                    "poet_round_log_age_seconds",
                    "Since the newest entry of the log became durable",
                    executing.log_age(&*self.clock).as_secs_f64(),
                ),
            ] {
                let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
                ConstGauge::new(value).encode(metric.encode_family(&id)?)?;
            }
        }
        self.encode_audits(&mut encoder, &status)?;
        self.encode_dates(&mut encoder, &status)?;
        self.encode_process(&mut encoder)?;
        let name = "poet_round_members";
        let mut metric = encoder.encode_descriptor(name, "Members", None, MetricType::Counter)?;
        for (round, members) in members {
            let id = [("id", round.to_string())];
            ConstCounter::new(members).encode(metric.encode_family(&id)?)?;
        }
        let ready = self.unready.borrow().is_none();
        let waits = self.waits_for_first_round(status.open.round);
        let mut gauges = vec![
            (
                "poet_ready",
                "Whether the server can do its work",
                f64::from(u8::from(ready)),
            ),
            (
                "poet_waits_for_first_round",
                "Whether no round has closed yet that was opened here",
                f64::from(u8::from(waits)),
            ),
            (
                "poet_storage_queue",
                "Registrations and other writes that wait for the database",
                self.storage.queued() as f64,
            ),
            (
                "poet_worker_queue",
                "Rounds that wait to be worked on",
                status.queued as f64,
            ),
        ];
        if let Some(dbdir) = &self.dbdir {
            gauges.push((
                "poet_storage_bytes",
                "Size of the database",
                folder_bytes(dbdir) as f64,
            ));
            gauges.push((
                "poet_database_wal_bytes",
                "Size of the database's own log (-wal), part of the database",
                poet_storage::log_bytes(&dbdir.join(directory::DATABASE_FILE)) as f64,
            ));
            if let Some(bytes) = free_bytes(dbdir) {
                gauges.push((
                    "poet_dbdir_free_bytes",
                    "Free space for the database",
                    bytes,
                ));
            }
        }
        if let Some(bytes) = free_bytes(&self.datadir) {
            gauges.push(("poet_datadir_free_bytes", "Free space for the work", bytes));
        }
        // The embedded database uses this machine's clock.
        let offset = self.storage.clock_offset().unwrap_or_default();
        gauges.push((
            "poet_cluster_clock_offset_seconds",
            "How far the clock of this machine is ahead of the database's",
            offset.as_secs_f64(),
        ));
        self.encode_shared_work(&mut encoder)?;
        for (name, help, value) in gauges {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(value).encode(metric)?;
        }
        Ok(())
    }
}

impl ServerState {
    /// Encodes the state of work that is shared with other servers; zeros if it is not.
    fn encode_shared_work(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let standing = self.status.standing();
        let own = standing.as_ref().and_then(Standing::own);
        let works = own.is_some_and(|own| own.works);
        let behind = own.zip(standing.as_ref());
        let behind = behind.map_or(Duration::ZERO, |(own, standing)| standing.behind(own));
        let quiet = standing.as_ref().map(|standing| standing.seen.quiet);
        for (name, help, value) in [
            (
                "poet_cluster_works",
                "1 while this server works on a round that it shares with others",
                f64::from(u8::from(works)),
            ),
            (
                "poet_cluster_behind_seconds",
                "How far this server's copy is behind the working server, in time of its work",
                behind.as_secs_f64(),
            ),
            (
                "poet_cluster_quiet_seconds",
                "Time since the shared log last grew, when this server last read it",
                quiet.unwrap_or_default().as_secs_f64(),
            ),
        ] {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(value).encode(metric)?;
        }
        let name = "poet_cluster_disagreements";
        let help = "How often entries of this server and of the shared log differed";
        let metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        ConstCounter::new(self.status.disagreements()).encode(metric)
    }

    /// Returns whether no round that was opened here has closed yet.
    fn waits_for_first_round(&self, open: u64) -> bool {
        let rounds = self.storage.newest_rounds(2);
        rounds.is_ok_and(|rounds| rounds.iter().all(|record| record.round >= open))
    }

    /// Encodes when rounds start and end.
    fn encode_dates(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        status: &ServerStatus,
    ) -> fmt::Result {
        let schedule = self.status.schedule();
        let mut rounds = vec![status.open.round];
        rounds.extend(status.executing.as_ref().map(|executing| executing.round));
        let seconds = |time: Timestamp| time.as_nanosecond() as f64 / 1e9;
        let name = "poet_round_start_timestamp_seconds";
        let help = "When registration closes and the work begins";
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for round in &rounds {
            let id = [("id", round.to_string())];
            let start = seconds(schedule.start(*round));
            ConstGauge::new(start).encode(metric.encode_family(&id)?)?;
        }
        let name = "poet_round_end_timestamp_seconds";
        let help = "When the work ends and the proof is made";
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for round in &rounds {
            let id = [("id", round.to_string())];
            let end = seconds(schedule.end(*round));
            ConstGauge::new(end).encode(metric.encode_family(&id)?)?;
        }
        Ok(())
    }

    /// Encodes what this program is, and its use of the machine.
    fn encode_process(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let labels = [("version", version::VERSION), ("commit", version::COMMIT)];
        let (name, help) = ("poet_build_info", "Always 1; the labels say what was built");
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        ConstGauge::new(1.0).encode(metric.encode_family(&labels)?)?;

        let throttled = throttling(Path::new("/")).unwrap_or_default();
        let process = Process::read();
        for (name, help, value) in [
            (
                "poet_cpu_throttled_periods",
                "Periods in which the control group of the server was stopped by its CPU limit",
                throttled.periods as f64,
            ),
            (
                "poet_cpu_throttled_seconds",
                "How long the threads were stopped, summed over all threads",
                throttled.seconds,
            ),
            (
                "process_cpu_seconds",
                "CPU time of all threads",
                process.cpu_seconds,
            ),
        ] {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            ConstCounter::new(value).encode(metric)?;
        }
        for (name, help, value) in [
            (
                "process_resident_memory_bytes",
                "Memory of the server",
                process.resident_bytes as f64,
            ),
            (
                "process_virtual_memory_bytes",
                "Addresses of the server",
                process.virtual_bytes as f64,
            ),
            ("process_threads", "Threads", process.threads as f64),
            (
                "process_open_fds",
                "Files and sockets that are open",
                process.open_files as f64,
            ),
            (
                "process_max_fds",
                "The most files and sockets that may be open; 0 without a limit",
                process.max_open_files as f64,
            ),
            (
                "process_start_time_seconds",
                "When the server was started, since 1970",
                self.started.as_nanosecond() as f64 / 1e9,
            ),
        ] {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(value).encode(metric)?;
        }
        Ok(())
    }

    /// Encodes what auditors do and have found.
    fn encode_audits(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        status: &ServerStatus,
    ) -> fmt::Result {
        let audits = self.status.audits();
        let total = audits.total();
        let name = "poet_audit_mismatches";
        let help = "Entries that auditors recomputed to another value, by what was wrong";
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (culprit, count) in [
            ("work", total.work),
            ("log", total.copies),
            ("auditor", total.auditor),
        ] {
            ConstCounter::new(count).encode(metric.encode_family(&[("culprit", culprit)])?)?;
        }
        for (name, help, count) in [
            ("poet_audit_subtrees", "Subtrees audited", total.subtrees),
            (
                "poet_audit_rollbacks",
                "How often the work went back to its last right leaf",
                total.rollbacks,
            ),
            (
                "poet_audit_lost_leaves",
                "Leaves lost to roll-backs of the work",
                total.lost_leaves,
            ),
            (
                "poet_audit_bad_proofs",
                "Proofs that were not valid, and not published",
                total.bad_proofs,
            ),
        ] {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            ConstCounter::new(count).encode(metric)?;
        }
        if let Some(executing) = &status.executing
            && audits.mode() != AuditMode::Off
            && let Some(report) = audits.round(executing.round)
        {
            let leaves = executing.leaves.load(Relaxed);
            let behind = leaves.saturating_sub(report.audited_leaves);
            let (name, help) = ("poet_audit_lag_leaves", "Leaves that are not audited yet");
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            let id = [("id", executing.round.to_string())];
            ConstGauge::new(behind as f64).encode(metric.encode_family(&id)?)?;
            let lag = executing.audit_lag(&*self.clock, &report).as_secs_f64();
            let (name, help) = (
                "poet_audit_lag_seconds",
                "How long the work takes for the leaves that are not audited yet",
            );
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(lag).encode(metric.encode_family(&id)?)?;
        }
        Ok(())
    }
}

/// Returns the total size of the files in a folder.
pub(crate) fn folder_bytes(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else {
        return 0;
    };
    entries
        .flatten()
        .filter_map(|entry| entry.metadata().ok())
        .filter(fs::Metadata::is_file)
        .map(|metadata| metadata.len())
        .sum()
}

/// Returns how much an ordinary user may still write to the file system of `path`.
#[cfg(unix)]
pub(crate) fn free_bytes(path: &Path) -> Option<f64> {
    let space = rustix::fs::statvfs(path).ok()?;
    Some(space.f_bavail as f64 * space.f_frsize as f64)
}

#[cfg(not(unix))]
pub(crate) fn free_bytes(_path: &Path) -> Option<f64> {
    None
}
