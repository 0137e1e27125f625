//! Log output that never blocks its callers: lines go into a bounded queue, from which a separate
//! thread takes them.
//!
//! The reader of the output may stop: Ctrl-S on the terminal, a pipe to a program that hangs, a
//! disk that does not answer. Then lines are dropped and counted, and their number is logged as
//! soon as there is room again.

use std::{
    collections::VecDeque,
    io::{self, ErrorKind, Write},
    mem,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use poet_files::reason;

/// Bytes that may wait: some thousands of lines.
const QUEUE_BYTES: usize = 1 << 20;
/// The number of newest lines kept for display, and the length to which each is cut.
const RECENT_LINES: usize = 200;
const RECENT_LINE_BYTES: usize = 2_000;
/// How long to wait before retrying output that accepts nothing at the moment.
const RETRY: Duration = Duration::from_millis(20);

/// What to write at once.
#[derive(Debug, Default)]
pub(crate) struct Portion {
    /// Whole lines.
    pub(crate) lines: Vec<u8>,
    /// The status below the lines.
    pub(crate) status: Option<String>,
    /// Whether to reopen the output if it was moved.
    pub(crate) reopen: bool,
}

/// The newest lines of a log, for display. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct RecentLines(Arc<Mutex<VecDeque<String>>>);

impl RecentLines {
    /// Adds a line, and removes the oldest one if there are too many.
    pub fn add(&self, line: &[u8]) {
        let line = &line[..line.len().min(RECENT_LINE_BYTES)];
        let line = String::from_utf8_lossy(line.trim_ascii_end()).into_owned();
        let mut lines = self.lines();
        if lines.len() == RECENT_LINES {
            lines.pop_front();
        }
        lines.push_back(line);
    }

    /// Returns the lines, the newest one first.
    pub fn newest_first(&self) -> Vec<String> {
        self.lines().iter().rev().cloned().collect()
    }

    fn lines(&self) -> MutexGuard<'_, VecDeque<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The destination of lines. Only the thread of its [`LogQueue`] calls it, so it may block.
pub(crate) trait Sink: Send + 'static {
    /// Returns its name for operators.
    fn name(&self) -> String;

    /// Writes a portion.
    ///
    /// # Errors
    /// Fails if that is not possible; some lines may have been written.
    fn write(&mut self, portion: &Portion) -> io::Result<()>;
}

/// The queue in front of a sink. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct LogQueue {
    shared: Arc<Shared>,
    recent: Option<RecentLines>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Signals that there is something to write, or that the output must end.
    waiting: Condvar,
    /// Signals that everything was written, and no more will be.
    ended: Condvar,
}

#[derive(Debug, Default)]
struct State {
    next: Portion,
    status_changed: bool,
    /// Lines dropped because there was no room for them after those in `next`.
    dropped: u64,
    /// Whether the last line is queued or written.
    closed: bool,
    end: bool,
    ended: bool,
}

impl State {
    fn idle(&self) -> bool {
        let unchanged = !self.status_changed && !self.next.reopen && !self.end;
        unchanged && self.next.lines.is_empty() && self.dropped == 0
    }
}

impl LogQueue {
    /// Starts the thread that writes to `sink`.
    ///
    /// # Errors
    /// Fails if the system does not provide a thread.
    pub(crate) fn start(sink: impl Sink) -> io::Result<Self> {
        let shared = Arc::<Shared>::default();
        thread::Builder::new().name("log".to_owned()).spawn({
            let shared = Arc::clone(&shared);
            move || shared.drain(sink)
        })?;
        Ok(Self {
            shared,
            recent: None,
        })
    }

    /// Also keeps the newest lines in `recent`.
    pub(crate) fn keep_in(mut self, recent: RecentLines) -> Self {
        self.recent = Some(recent);
        self
    }

    /// Queues a line, or drops it if there is no room. Ignores what comes after the last one.
    pub(crate) fn line(&self, line: &[u8]) {
        if let Some(recent) = &self.recent {
            recent.add(line);
        }
        let mut state = self.shared.state();
        if state.closed {
            return;
        }
        // A line after a dropped one would hide the gap.
        if state.dropped > 0 || state.next.lines.len() + line.len() > QUEUE_BYTES {
            state.dropped += 1;
        } else {
            state.next.lines.extend_from_slice(line);
        }
        self.shared.waiting.notify_one();
    }

    /// Queues the last line, even if there is no room.
    pub(crate) fn last_line(&self, line: &[u8]) {
        let mut state = self.shared.state();
        state.next.lines.extend_from_slice(line);
        state.closed = true;
        self.shared.waiting.notify_one();
    }

    /// Replaces the status below the lines.
    pub(crate) fn status(&self, status: Option<String>) {
        let mut state = self.shared.state();
        state.next.status = status;
        state.status_changed = true;
        self.shared.waiting.notify_one();
    }

    /// Reopens the output if it was moved.
    pub(crate) fn reopen(&self) {
        self.shared.state().next.reopen = true;
        self.shared.waiting.notify_one();
    }

    /// Ends the output, after writing everything in the queue unless that takes longer than
    /// `patience`.
    pub(crate) fn end(&self, patience: Duration) {
        let mut state = self.shared.state();
        state.end = true;
        self.shared.waiting.notify_one();
        let ended = &self.shared.ended;
        drop(ended.wait_timeout_while(state, patience, |state| !state.ended));
    }
}

/// For `tracing`, which writes each event with one call.
impl Write for LogQueue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.line(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for something to write. Also returns how many lines after it were dropped, and whether
    /// it is the last.
    fn take(&self) -> (Portion, u64, bool) {
        let mut state = self.state();
        while state.idle() {
            let waited = self.waiting.wait(state);
            state = waited.unwrap_or_else(PoisonError::into_inner);
        }
        state.status_changed = false;
        let portion = Portion {
            lines: mem::take(&mut state.next.lines),
            status: state.next.status.clone(),
            reopen: mem::take(&mut state.next.reopen),
        };
        (portion, mem::take(&mut state.dropped), state.end)
    }

    /// The body of the thread that writes.
    fn drain(&self, mut sink: impl Sink) {
        let mut failing = false;
        let mut lost = 0;
        loop {
            let (portion, dropped, last) = self.take();
            lost += dropped;
            // There is room for this line directly after the gap.
            if !failing {
                report(&sink.name(), &mut lost);
            }
            match sink.write(&portion) {
                Ok(()) => {
                    failing = false;
                    report(&sink.name(), &mut lost);
                }
                Err(error) => {
                    lost += portion.lines.iter().filter(|byte| **byte == b'\n').count() as u64;
                    if !mem::replace(&mut failing, true) {
                        let (error, output) = (reason(&error), sink.name());
                        tracing::error!(error, output, "cannot write the log");
                    }
                }
            }
            let mut state = self.state();
            if last && (state.next.lines.is_empty() || failing) {
                state.ended = true;
                self.ended.notify_all();
                return;
            }
        }
    }
}

/// Logs how many lines were lost since the last report.
fn report(output: &str, lost: &mut u64) {
    let lines = mem::take(lost);
    if lines > 0 {
        tracing::warn!(
            lines,
            output,
            "lines of the log were dropped: they came faster than they were read or written"
        );
    }
}

/// Writes everything, even to non-blocking output.
pub(crate) fn write_all(to: &mut impl Write, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match to.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(RETRY),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, time::Instant};

    use super::*;

    /// Takes each portion when the test allows it, and passes it to the test.
    struct Slow {
        go: mpsc::Receiver<bool>,
        written: mpsc::Sender<String>,
    }

    impl Sink for Slow {
        fn name(&self) -> String {
            "a slow one".to_owned()
        }

        fn write(&mut self, portion: &Portion) -> io::Result<()> {
            // If the test does nothing, it hangs for a while.
            match self.go.recv_timeout(Duration::from_secs(60)) {
                Ok(true) => {}
                _ => return Err(ErrorKind::StorageFull.into()),
            }
            let text = String::from_utf8(portion.lines.clone()).unwrap();
            self.written.send(text).unwrap();
            Ok(())
        }
    }

    fn slow() -> (LogQueue, mpsc::Sender<bool>, mpsc::Receiver<String>) {
        let (tell, go) = mpsc::channel();
        let (written, text) = mpsc::channel();
        (LogQueue::start(Slow { go, written }).unwrap(), tell, text)
    }

    #[test]
    fn the_newest_lines_are_kept() {
        let recent = RecentLines::default();
        let (output, _tell, _text) = slow();
        let output = output.keep_in(recent.clone());
        for number in 0..RECENT_LINES + 7 {
            output.line(format!("line {number}\n").as_bytes());
        }
        output.line(&[b'x'; 10_000]);
        let lines = recent.newest_first();
        assert_eq!(lines.len(), RECENT_LINES);
        assert_eq!(lines[0], "x".repeat(RECENT_LINE_BYTES));
        assert_eq!(lines[1], format!("line {}", RECENT_LINES + 6));
        assert_eq!(lines[RECENT_LINES - 1], "line 8");
    }

    #[test]
    fn what_finds_no_room_is_dropped_and_counted() {
        let (output, tell, text) = slow();
        let line = [&[b'x'; 1023][..], b"\n"].concat();
        output.line(b"first\n");
        // The thread is writing, and hangs in it.
        while !output.shared.state().next.lines.is_empty() {
            thread::sleep(RETRY);
        }
        for _ in 0..3000 {
            output.line(&line);
        }
        assert_eq!(output.shared.state().next.lines.len(), QUEUE_BYTES);
        assert_eq!(output.shared.state().dropped, 3000 - 1024);
        output.line(b"short\n");
        assert_eq!(
            output.shared.state().dropped,
            3001 - 1024,
            "gaps are not hidden"
        );
        tell.send(true).unwrap();
        assert_eq!(text.recv().unwrap(), "first\n");
        tell.send(true).unwrap();
        assert_eq!(text.recv().unwrap().len(), QUEUE_BYTES);
        output.line(b"last\n");
        tell.send(true).unwrap();
        // The end may be a portion of its own.
        tell.send(true).unwrap();
        output.end(Duration::from_secs(60));
        assert_eq!(text.recv().unwrap(), "last\n");
    }

    #[test]
    fn an_end_waits_for_what_is_queued_but_not_for_ever() {
        let (output, tell, text) = slow();
        output.line(b"one\n");
        let start = Instant::now();
        output.end(Duration::from_millis(50));
        assert!(start.elapsed() < Duration::from_secs(50));
        tell.send(true).unwrap();
        assert_eq!(text.recv().unwrap(), "one\n");
    }

    #[test]
    fn nothing_comes_after_the_last_line() {
        let (output, tell, text) = slow();
        output.line(b"one\n");
        output.last_line(b"the last one\n");
        output.line(b"another\n");
        // Not more portions than these: either is one of its own, and so is the end.
        for _ in 0..3 {
            tell.send(true).unwrap();
        }
        output.end(Duration::from_secs(60));
        assert_eq!(text.try_iter().collect::<String>(), "one\nthe last one\n");
    }

    #[test]
    fn an_output_that_fails_is_tried_again_with_the_next_line() {
        let (output, tell, text) = slow();
        tell.send(false).unwrap();
        output.line(b"lost\n");
        while !output.shared.state().next.lines.is_empty() {
            thread::sleep(RETRY);
        }
        tell.send(true).unwrap();
        output.line(b"next\n");
        assert_eq!(text.recv().unwrap(), "next\n");
    }
}
