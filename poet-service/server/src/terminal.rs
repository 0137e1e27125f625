//! What the operator sees: logs on standard error, with a status line below them if that is a
//! terminal, and the log files. None of them ever blocks the server (see `LogQueue`).

use std::{
    env,
    io::{self, IsTerminal as _},
    panic,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use poet_engine::TICK_LEAVES;
use poet_proto::duration::in_words;
use poet_rounds::clock::{Clock, time_until};
use tracing::{Level, Metadata};
use tracing_subscriber::{
    Layer as _, filter::LevelFilter, fmt, fmt::MakeWriter, layer::SubscriberExt as _,
};

use crate::{
    log_queue::{self, LogQueue, Portion, RecentLines, Sink},
    logfile::LogFile,
    notify::{Alarms, Notices},
    reports::percent,
    status::{ServerStatus, StatusReader, expected_leaves},
    systemd,
};

/// How often to write the status line.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);
/// The status line mentions the audit if it is further behind than this.
const AUDIT_LAG_SHOWN: Duration = Duration::from_secs(5);

/// The width of a terminal that does not report its own.
const USUAL_WIDTH: usize = 80;
/// How long the shutdown waits for lines to be written.
const END: Duration = Duration::from_secs(1);

/// The logs of this process. Dropping this writes what was logged, if that takes only a moment.
#[derive(Debug)]
pub struct Terminal {
    screen: LogQueue,
    file: LogQueue,
    recent: RecentLines,
    interactive: bool,
}

impl Terminal {
    /// Logs to standard error and to `file`.
    ///
    /// # Errors
    /// Fails if the system does not provide threads.
    pub fn new(file: LogFile) -> io::Result<Self> {
        let recent = RecentLines::default();
        Ok(Self {
            screen: LogQueue::start(Screen::default())?,
            file: LogQueue::start(file)?.keep_in(recent.clone()),
            recent,
            interactive: io::stderr().is_terminal(),
        })
    }

    /// Returns the newest lines of the log.
    pub fn recent(&self) -> &RecentLines {
        &self.recent
    }

    /// Sends the logs and panic messages of this process here, and alarms also to `notices`.
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
            .with_ansi(self.interactive && !json && colours_wanted())
            .with_writer(screen);
        let there = fmt::layer()
            .with_ansi(false)
            .with_writer(move || file.clone());
        let (here, there) = if json {
            // The only span is the request, so no list of spans is needed.
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
        // The filter avoids formatting other events for it.
        let alarms = Alarms(notices).with_filter(LevelFilter::ERROR).boxed();
        let layers = vec![here, there, alarms];
        let subscriber = tracing_subscriber::registry().with(layers);
        // A program that embeds this may have its own subscriber, which then stays.
        drop(tracing::subscriber::set_global_default(subscriber));
        panic::set_hook(Box::new(|panic| tracing::error!("{panic}")));
    }

    /// Keeps the status line up to date, if there is a terminal. Never resolves.
    pub async fn keep_status_line(&self, reader: StatusReader, clock: Arc<dyn Clock>) {
        if !self.interactive {
            std::future::pending::<()>().await;
        }
        let mut rate = ShownSpeed::default();
        loop {
            let status = reader.status();
            let leaves_per_second = rate.update(&status, clock.monotonic());
            let line = StatusLine::new(&reader, &status, leaves_per_second, &*clock);
            self.screen.status(Some(line.within(width())));
            tokio::time::sleep(STATUS_INTERVAL).await;
        }
    }

    /// Removes the status line.
    pub fn clear(&self) {
        self.screen.status(None);
    }

    /// Writes a last line to standard error that is not part of the log, whatever is still logged there.
    pub fn say_last(&self, line: &str) {
        self.screen.last_line(format!("{line}\n").as_bytes());
    }

    /// Returns a handle for reopening the log file.
    pub fn log_file(&self) -> LogFileHandle {
        LogFileHandle(self.file.clone())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // First the file, with its own time limit: usually it is standard error that nobody reads.
        self.file.end(END);
        self.screen.end(END);
    }
}

/// The log lines for standard error.
struct Lines {
    queue: LogQueue,
    /// Whether each line begins with its priority, as the journal reads it.
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
    /// `tracing` writes each event with one call. That of a panic may have several lines.
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

/// A handle to the log file.
#[derive(Clone, Debug)]
pub struct LogFileHandle(LogQueue);

impl LogFileHandle {
    /// Reopens the file, if it was moved.
    pub fn reopen(&self) {
        self.0.reopen();
    }
}

/// Standard error.
#[derive(Debug, Default)]
struct Screen {
    /// Whether the status line is where the next line will go.
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

/// The speed of the work between two updates.
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

/// Returns whether the user wants colours (see no-color.org).
fn colours_wanted() -> bool {
    env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Returns how many characters fit on a line of the terminal. The last column stays free, since a
/// cursor after it would start another line.
fn width() -> usize {
    let size = terminal_size::terminal_size_of(io::stderr());
    size.map_or(USUAL_WIDTH, |(width, _)| usize::from(width.0).max(2)) - 1
}

/// Describes what a server does, in a line of any length.
pub fn status_text(reader: &StatusReader, clock: &dyn Clock) -> String {
    let status = reader.status();
    let rate = status.executing.as_ref();
    let rate = rate.map(|executing| executing.leaves_per_second(clock) as u64);
    StatusLine::new(reader, &status, rate, clock).within(usize::MAX)
}

/// What a server does.
struct StatusLine {
    open: u64,
    members: u64,
    closes_in: String,
    executing: Option<ExecutingLine>,
}

struct ExecutingLine {
    round: u64,
    percent: f64,
    expected_ticks: u64,
    leaves_per_second: Option<u64>,
    left: String,
    audit_lag: Option<String>,
}

impl StatusLine {
    fn new(
        reader: &StatusReader,
        status: &ServerStatus,
        leaves_per_second: Option<u64>,
        clock: &dyn Clock,
    ) -> Self {
        let now = clock.now();
        let executing = status.executing.as_ref().map(|executing| {
            let start = reader.schedule().start(executing.round);
            let audit_lag = reader.audit_lag(clock);
            ExecutingLine {
                round: executing.round,
                percent: percent(start, executing.end, now),
                expected_ticks: expected_leaves(executing, clock) / TICK_LEAVES,
                leaves_per_second,
                left: in_words(time_until(now, executing.end)),
                audit_lag: audit_lag
                    .filter(|lag| *lag >= AUDIT_LAG_SHOWN)
                    .map(in_words),
            }
        });
        Self {
            open: status.open.round,
            members: status.open.members,
            closes_in: in_words(time_until(now, status.start)),
            executing,
        }
    }

    /// Returns the longest form that fits `width` characters, or the beginning of the shortest.
    fn within(&self, width: usize) -> String {
        let mut forms = (0..4).map(|form| self.form(form));
        let fits = forms.find(|line| line.chars().count() <= width);
        fits.unwrap_or_else(|| self.form(3).chars().take(width).collect())
    }

    /// Formats the line: 0 is the longest form, 3 the shortest.
    fn form(&self, form: u32) -> String {
        let Self {
            open,
            members,
            closes_in,
            executing,
        } = self;
        let open = match form {
            0 | 1 => format!("round {open} open, {members} members, closes in {closes_in}"),
            _ => format!("round {open} closes in {closes_in}"),
        };
        let Some(executing) = executing else {
            return open;
        };
        let mut line = format!("round {}: {:.1} %", executing.round, executing.percent);
        if form < 3 {
            line += &format!(", {} ticks expected", executing.expected_ticks);
        }
        if let (0, Some(rate)) = (form, executing.leaves_per_second) {
            line += &format!(", {rate} leaves/s");
        }
        line += &format!(", {} left", executing.left);
        if let Some(lag) = &executing.audit_lag {
            line += &format!(", audit {lag} behind");
        }
        match form {
            3 => line,
            _ => format!("{line} | {open}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;
    use poet_rounds::{registration::OpenRound, worker::Executing};

    #[test]
    fn the_status_line_says_what_goes_on_within_its_width() {
        let mut line = StatusLine {
            open: 88,
            members: 17,
            closes_in: "10 days 12 h".to_owned(),
            executing: None,
        };
        assert_eq!(
            line.within(usize::MAX),
            "round 88 open, 17 members, closes in 10 days 12 h"
        );
        assert_eq!(line.within(40), "round 88 closes in 10 days 12 h");
        line.executing = Some(ExecutingLine {
            round: 87,
            percent: 12.34,
            expected_ticks: 8587,
            leaves_per_second: Some(70_000),
            left: "10 days".to_owned(),
            audit_lag: Some("1 min 40 s".to_owned()),
        });
        assert_eq!(
            line.within(usize::MAX),
            "round 87: 12.3 %, 8587 ticks expected, 70000 leaves/s, 10 days left, audit 1 min 40 s behind \
             | round 88 open, 17 members, closes in 10 days 12 h"
        );
        for width in 0..200 {
            let shown = line.within(width);
            assert!(shown.chars().count() <= width, "{width}: {shown}");
        }
        assert_eq!(
            line.within(80),
            "round 87: 12.3 %, 10 days left, audit 1 min 40 s behind"
        );
        assert_eq!(line.within(16), "round 87: 12.3 %");
    }

    #[test]
    fn the_speed_is_that_between_two_looks() {
        let leaves = Arc::new(AtomicU64::new(1000));
        let status = ServerStatus {
            open: OpenRound {
                round: 4,
                members: 17,
            },
            start: jiff::Timestamp::UNIX_EPOCH,
            executing: Some(Executing {
                round: 3,
                end: jiff::Timestamp::UNIX_EPOCH,
                members: 5,
                leaves: Arc::clone(&leaves),
                started: (Duration::ZERO, 0),
                durable: Arc::default(),
                rate: Arc::default(),
                followed: Arc::default(),
            }),
            queued: 0,
        };
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
