//! What the operator sees: logs on standard error, and, if that is a terminal, a status line
//! below them; and the log's files. Nobody waits for any of them (see `LogQueue`).

use std::{
    io::{self, IsTerminal as _},
    panic,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use poet_proto::duration::format_go;
use poet_rounds::clock::{Clock, time_until};
use tracing::{Level, Metadata};
use tracing_subscriber::{
    Layer as _, filter::LevelFilter, fmt, fmt::MakeWriter, layer::SubscriberExt as _,
};

use crate::{
    log_queue::{self, LogQueue, Portion, RecentLines, Sink},
    logfile::LogFile,
    notify::{Alarms, Notices},
    status::{ServerStatus, StatusReader},
    systemd,
};

/// How often the status line is written.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);
/// How far the audit must be behind for the status line to say so.
const AUDIT_LAG_SHOWN: Duration = Duration::from_secs(5);

/// How long an end waits for lines that are still to be written.
const END: Duration = Duration::from_secs(1);

/// The logs of this process. When this is dropped, what was logged is written, if that takes no more
/// than a moment.
#[derive(Debug)]
pub struct Terminal {
    screen: LogQueue,
    file: LogQueue,
    interactive: bool,
}

impl Terminal {
    /// Logs to standard error and to `file`; the newest lines are in `recent`, too.
    ///
    /// # Errors
    /// When the system has no threads to give.
    pub fn new(file: LogFile, recent: RecentLines) -> io::Result<Self> {
        Ok(Self {
            screen: LogQueue::start(Screen::default())?,
            file: LogQueue::start(file)?.keep_in(recent),
            interactive: io::stderr().is_terminal(),
        })
    }

    /// Sends the logs of this process here, and the reasons of panics; alarms to `notices`, too.
    pub fn init_logs(&self, debug: bool, json: bool, notices: Notices) {
        let level = if debug {
            LevelFilter::DEBUG
        } else {
            LevelFilter::INFO
        };
        let screen = Lines {
            queue: self.screen.clone(),
            with_priority: systemd::stderr_is_journal(),
        };
        let file = self.file.clone();
        let here = fmt::layer()
            .with_ansi(self.interactive && !json)
            .with_writer(screen);
        let there = fmt::layer()
            .with_ansi(false)
            .with_writer(move || file.clone());
        let (here, there) = if json {
            // The only span is that of a request: no list of them is needed.
            let (here, there) = (here.json(), there.json());
            let (here, there) = (here.flatten_event(true), there.flatten_event(true));
            (
                here.with_span_list(false).with_filter(level).boxed(),
                there.with_span_list(false).with_filter(level).boxed(),
            )
        } else {
            (
                here.with_target(false).with_filter(level).boxed(),
                there.with_target(false).with_filter(level).boxed(),
            )
        };
        let layers = vec![here, there, Alarms(notices).boxed()];
        let subscriber = tracing_subscriber::registry().with(layers);
        // Whoever embeds this may have a subscriber of its own: then that one counts.
        drop(tracing::subscriber::set_global_default(subscriber));
        panic::set_hook(Box::new(|panic| tracing::error!("{panic}")));
    }

    /// Keeps the status line, if there is a terminal. Never resolves.
    pub async fn keep_status_line(&self, reader: StatusReader, clock: Arc<dyn Clock>) {
        if !self.interactive {
            std::future::pending::<()>().await;
        }
        let mut rate = ShownSpeed::default();
        loop {
            let status = reader.status();
            let leaves_per_second = rate.update(&status, clock.monotonic());
            let audit_lag = reader.audit_lag(&*clock);
            let text = status_line(&status, leaves_per_second, audit_lag, &*clock);
            self.screen.status(Some(text));
            tokio::time::sleep(STATUS_INTERVAL).await;
        }
    }

    /// Takes the status line away.
    pub fn clear(&self) {
        self.screen.status(None);
    }

    /// Writes a line that is no log to standard error.
    pub fn say(&self, line: &str) {
        self.screen.line(format!("{line}\n").as_bytes());
    }

    /// Handles for those who move the log's file.
    pub fn log_file(&self) -> LogFileHandle {
        LogFileHandle(self.file.clone())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // The file first, with time of its own: what nobody reads is mostly standard error.
        self.file.end(std::time::Instant::now() + END);
        self.screen.end(std::time::Instant::now() + END);
    }
}

/// The lines of the log, for standard error.
struct Lines {
    queue: LogQueue,
    /// Whether each begins with its priority, as the journal reads it.
    with_priority: bool,
}

/// A line whose priority is known.
struct Line {
    queue: LogQueue,
    priority: &'static [u8],
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line {
            queue: self.queue.clone(),
            priority: b"",
        }
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> Line {
        let priority: &[u8] = match *metadata.level() {
            _ if !self.with_priority => b"",
            Level::ERROR => b"<3>",
            Level::WARN => b"<4>",
            Level::INFO => b"<6>",
            _ => b"<7>",
        };
        Line {
            priority,
            ..self.make_writer()
        }
    }
}

impl io::Write for Line {
    /// `tracing` writes each event with one call; that of a panic may have several lines.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let lines = event.split_inclusive(|byte| *byte == b'\n');
        let parts: Vec<_> = lines.flat_map(|line| [self.priority, line]).collect();
        self.queue.line(&parts.concat());
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The file of the log, while it is written.
#[derive(Clone, Debug)]
pub struct LogFileHandle(LogQueue);

impl LogFileHandle {
    /// Opens the file again, if it was moved.
    pub fn reopen(&self) {
        self.0.reopen();
    }
}

/// Standard error.
#[derive(Debug, Default)]
struct Screen {
    /// Whether a status line stands where the next line would go.
    status_shown: bool,
}

impl Sink for Screen {
    fn name(&self) -> String {
        "standard error".to_owned()
    }

    fn write(&mut self, portion: &Portion) -> io::Result<()> {
        const CLEAR: &[u8] = b"\r\x1b[K";
        let before = if self.status_shown { CLEAR } else { b"" };
        let mut bytes = [before, &portion.lines].concat();
        self.status_shown = portion.status.is_some();
        if let Some(status) = &portion.status {
            bytes.extend_from_slice(CLEAR);
            bytes.extend_from_slice(status.as_bytes());
        }
        log_queue::write_all(&mut io::stderr(), &bytes)
    }
}

/// The speed of the work between two looks at it.
#[derive(Default)]
struct ShownSpeed(Option<(u64, u64, Duration)>);

impl ShownSpeed {
    fn update(&mut self, status: &ServerStatus, now: Duration) -> Option<u64> {
        let before = self.0.take();
        let executing = status.executing.as_ref()?;
        let leaves = executing.leaves.load(Relaxed);
        self.0 = Some((executing.round, leaves, now));
        let (round, leaves_before, then) = before?;
        let seconds = now.saturating_sub(then).as_secs_f64();
        let made = leaves.checked_sub(leaves_before)?;
        (round == executing.round && seconds > 0.0).then(|| (made as f64 / seconds) as u64)
    }
}

/// What a server does, in a line.
pub fn status_text(reader: &StatusReader, clock: &dyn Clock) -> String {
    let status = reader.status();
    let rate = status.executing.as_ref();
    let rate = rate.map(|executing| executing.leaves_per_second(clock) as u64);
    status_line(&status, rate, reader.audit_lag(clock), clock)
}

fn status_line(
    status: &ServerStatus,
    leaves_per_second: Option<u64>,
    audit_lag: Option<Duration>,
    clock: &dyn Clock,
) -> String {
    let now = clock.now();
    let left = |then| format_go(Duration::from_secs(time_until(now, then).as_secs()));
    let mut line = format!(
        "round {} open, {} members, starts in {}",
        status.open.round,
        status.open.members,
        left(status.start)
    );
    if let Some(executing) = &status.executing {
        let leaves = executing.leaves.load(Relaxed);
        let rate = leaves_per_second.map_or(String::new(), |rate| format!(", {rate}/s"));
        let end = left(executing.end);
        line += &format!(
            " | round {}: {leaves} leaves{rate}, {end} left",
            executing.round
        );
        if let Some(lag) = audit_lag.filter(|lag| *lag >= AUDIT_LAG_SHOWN) {
            let lag = format_go(Duration::from_secs(lag.as_secs()));
            line += &format!(", audit {lag} behind");
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;
    use poet_rounds::{clock::ManualClock, registration::OpenRound, worker::Executing};

    #[test]
    fn the_status_line_says_what_goes_on() {
        let at = |text: &str| text.parse::<jiff::Timestamp>().unwrap();
        let clock = ManualClock::new(at("2026-01-01T00:00:00Z"));
        let mut status = ServerStatus {
            open: OpenRound {
                round: 4,
                members: 17,
            },
            start: at("2026-01-01T00:01:30.7Z"),
            executing: None,
            queued: 0,
        };
        assert_eq!(
            status_line(&status, None, None, &clock),
            "round 4 open, 17 members, starts in 1m30s"
        );
        let leaves = Arc::new(AtomicU64::new(1000));
        status.executing = Some(Executing {
            round: 3,
            end: at("2026-01-01T00:01:20Z"),
            members: 5,
            leaves: Arc::clone(&leaves),
            started: (Duration::ZERO, 0),
            durable: Arc::default(),
            rate: Arc::default(),
        });
        let lag = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!(
            status_line(&status, Some(70_000), lag(4), &clock),
            "round 4 open, 17 members, starts in 1m30s | round 3: 1000 leaves, 70000/s, 1m20s left"
        );
        assert!(status_line(&status, None, lag(100), &clock).ends_with("left, audit 1m40s behind"));
        // A round that is late has no time left.
        clock.set(at("2026-01-01T00:01:25Z"));
        assert!(
            status_line(&status, None, None, &clock).ends_with("round 3: 1000 leaves, 0s left")
        );

        let mut rate = ShownSpeed::default();
        assert_eq!(rate.update(&status, Duration::from_secs(1)), None);
        leaves.store(900, Relaxed);
        assert_eq!(
            rate.update(&status, Duration::from_secs(2)),
            None,
            "fewer leaves than before: resumed"
        );
        leaves.store(2000, Relaxed);
        let later = Duration::from_secs(4);
        assert_eq!(rate.update(&status, later), Some(550));
    }
}
