//! LogQueue that makes nobody wait: lines go into a queue of bounded size, and a thread of its own
//! takes them from there.
//!
//! Whoever reads the output may stop: Ctrl-S on the terminal, a pipe to a program that hangs, a disk
//! that does not answer. Then lines are dropped and counted. How many is said as soon as there is room
//! again.

use std::{
    collections::VecDeque,
    io::{self, ErrorKind, Write},
    mem,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

/// Bytes that may wait: some thousands of lines.
const QUEUE_BYTES: usize = 1 << 20;
/// Newest lines that are kept to be looked at, and what is kept of each.
const RECENT_LINES: usize = 200;
const RECENT_LINE_BYTES: usize = 2_000;
/// How long to wait before output that takes nothing at the moment is tried again.
const RETRY: Duration = Duration::from_millis(20);

/// What is to be written at once.
#[derive(Debug, Default)]
pub(crate) struct Portion {
    /// Whole lines.
    pub(crate) lines: Vec<u8>,
    /// What is to stand below them.
    pub(crate) status: Option<String>,
    /// Whether the output should be opened again if it was moved.
    pub(crate) reopen: bool,
}

/// The newest lines of a log, for those who look at them. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct RecentLines(Arc<Mutex<VecDeque<String>>>);

impl RecentLines {
    /// Adds a line, and drops the oldest one if there are too many.
    pub fn add(&self, line: &[u8]) {
        let line = &line[..line.len().min(RECENT_LINE_BYTES)];
        let line = String::from_utf8_lossy(line.trim_ascii_end()).into_owned();
        let mut lines = self.lines();
        if lines.len() == RECENT_LINES {
            lines.pop_front();
        }
        lines.push_back(line);
    }

    /// The lines, the newest one first.
    pub fn newest_first(&self) -> Vec<String> {
        self.lines().iter().rev().cloned().collect()
    }

    fn lines(&self) -> MutexGuard<'_, VecDeque<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where lines end up. Only the thread of its [`LogQueue`] calls it, so it may block.
pub(crate) trait Sink: Send + 'static {
    /// What an operator calls it.
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
    /// There is something to write, or the output is to end.
    waiting: Condvar,
    /// Everything has been written, and nothing will be any more.
    ended: Condvar,
}

#[derive(Debug, Default)]
struct State {
    next: Portion,
    status_changed: bool,
    /// Lines that found no room behind those in `next`.
    dropped: u64,
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
    /// Fails if the system has no thread to give.
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

    /// The same queue, whose newest lines are in `recent`, too.
    pub(crate) fn keep_in(mut self, recent: RecentLines) -> Self {
        self.recent = Some(recent);
        self
    }

    /// Queues a line, or drops it if there is no room.
    pub(crate) fn line(&self, line: &[u8]) {
        if let Some(recent) = &self.recent {
            recent.add(line);
        }
        let mut state = self.shared.state();
        // Lines that come after one that was dropped would hide the gap.
        if state.dropped > 0 || state.next.lines.len() + line.len() > QUEUE_BYTES {
            state.dropped += 1;
        } else {
            state.next.lines.extend_from_slice(line);
        }
        self.shared.waiting.notify_one();
    }

    /// Replaces what stands below the lines.
    pub(crate) fn status(&self, status: Option<String>) {
        let mut state = self.shared.state();
        state.next.status = status;
        state.status_changed = true;
        self.shared.waiting.notify_one();
    }

    /// Opens the output again if it was moved.
    pub(crate) fn reopen(&self) {
        self.shared.state().next.reopen = true;
        self.shared.waiting.notify_one();
    }

    /// Ends the output; everything queued is written if that takes no longer than until `deadline`.
    pub(crate) fn end(&self, deadline: Instant) {
        let mut state = self.shared.state();
        state.end = true;
        self.shared.waiting.notify_one();
        while !state.ended {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let waited = self.shared.ended.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
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

    /// Waits for something to write. Says how many lines were dropped behind it, and whether it is
    /// the last.
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

    /// The thread that writes.
    fn drain(&self, mut sink: impl Sink) {
        let mut failing = false;
        let mut lost = 0;
        loop {
            let (portion, dropped, last) = self.take();
            lost += dropped;
            // Now there is room for this line, directly behind the gap.
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
                        tracing::error!(%error, output = sink.name(), "cannot write the log");
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

/// Says how many lines were lost since this was said last.
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

/// Writes everything, also to what does not block.
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
    use std::sync::mpsc;

    use super::*;

    /// Takes portions when it is told to, and says what they were.
    struct Slow {
        go: mpsc::Receiver<bool>,
        written: mpsc::Sender<String>,
    }

    impl Sink for Slow {
        fn name(&self) -> String {
            "a slow one".to_owned()
        }

        fn write(&mut self, portion: &Portion) -> io::Result<()> {
            // Without anybody who tells, it hangs for a while.
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
        // It is being written: the thread hangs in it.
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
        output.end(Instant::now() + Duration::from_secs(60));
        assert_eq!(text.recv().unwrap(), "last\n");
    }

    #[test]
    fn an_end_waits_for_what_is_queued_but_not_for_ever() {
        let (output, tell, text) = slow();
        output.line(b"one\n");
        let start = Instant::now();
        output.end(start + Duration::from_millis(50));
        assert!(start.elapsed() < Duration::from_secs(50));
        tell.send(true).unwrap();
        assert_eq!(text.recv().unwrap(), "one\n");
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
