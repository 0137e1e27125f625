//! Runs a program for each event, which it gets on its standard input. Its output is discarded. If
//! it runs for too long, it is killed together with everything that it has started.

use std::{
    io::Write as _,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

use poet_files::reason;
use poet_proto::identity::PRIVATE_KEY_VARIABLE;
use poet_rounds::clock::Clock;

use super::queue::{Queue, Receiver};

/// How long a program may run.
const TIME: Duration = Duration::from_secs(30);
/// How often to check whether it has ended.
const LOOK: Duration = Duration::from_millis(20);
/// How long it takes at most until a killed program is gone.
pub(super) const KILL_TIME: Duration = Duration::from_millis(200);
/// What a program of the server must not know, or answer in its name.
const HIDDEN: [&str; 5] = [
    PRIVATE_KEY_VARIABLE,
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
    "JOURNAL_STREAM",
];

pub(super) struct Program {
    path: PathBuf,
    clock: Arc<dyn Clock>,
}

impl Program {
    pub(super) fn new(path: PathBuf, clock: Arc<dyn Clock>) -> Self {
        Self { path, clock }
    }

    fn start(&self) -> Result<Child, String> {
        let mut command = Command::new(&self.path);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        for name in HIDDEN {
            command.env_remove(name);
        }
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        command.spawn().map_err(|error| {
            let reason = reason(&error);
            format!("it cannot be run: {reason}: expected an executable file, without arguments")
        })
    }
}

impl Receiver for Program {
    fn name(&self) -> String {
        format!("--notify-command {}", self.path.display())
    }

    fn deliver(&mut self, notice: &str, queue: &Queue) -> Result<(), String> {
        let mut child = self.start()?;
        if let Some(mut input) = child.stdin.take() {
            // The event is shorter than any pipe. The program need not read it.
            drop(input.write_all(notice.as_bytes()));
        }
        let started = self.clock.monotonic();
        let ended = loop {
            if has_ended(&mut child) {
                break true;
            }
            let passed = self.clock.monotonic().saturating_sub(started);
            if passed >= TIME || queue.given_up() {
                break false;
            }
            queue.pause(LOOK);
        };
        match (kill_all(&mut child), ended) {
            (_, false) => Err(format!(
                "it was killed: expected a program that ends within {} s",
                TIME.as_secs()
            )),
            (Some(status), true) if !status.success() => Err(format!("it failed: {status}")),
            _ => Ok(()),
        }
    }
}

/// Returns whether a child has ended. On Unix it remains a zombie, so that its process id and group
/// are not reused.
#[cfg(unix)]
fn has_ended(child: &mut Child) -> bool {
    use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
    !matches!(
        waitid(WaitId::Pid(Pid::from_child(child)), options),
        Ok(None)
    )
}

#[cfg(not(unix))]
fn has_ended(child: &mut Child) -> bool {
    !matches!(child.try_wait(), Ok(None))
}

/// Kills a child, unless it has ended, and everything it has started. Returns its exit status.
fn kill_all(child: &mut Child) -> Option<ExitStatus> {
    #[cfg(unix)]
    {
        use rustix::process::{Pid, Signal, kill_process_group};
        // There may be nothing left to kill.
        let _ = kill_process_group(Pid::from_child(child), Signal::KILL);
    }
    // It has ended, or is being killed.
    drop(child.kill());
    child.wait().ok()
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::{fs, path::Path, thread, time::Instant};

    use jiff::Timestamp;
    use poet_rounds::clock::{ManualClock, SystemClock};

    use super::*;

    fn program(folder: &Path, script: &str) -> Program {
        let (written, path) = (folder.join("written"), folder.join("told"));
        fs::write(&written, format!("#!/bin/sh\n{script}\n")).unwrap();
        // By another process: what this one has open for writing cannot be run as long as a child has that
        // file, too, which another test is starting.
        let mut install = Command::new("install");
        install.args(["-m", "700"]).args([&written, &path]);
        assert!(install.status().unwrap().success());
        Program::new(path, Arc::new(SystemClock))
    }

    #[test]
    fn a_program_gets_the_event_and_not_the_key() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("event");
        let script = format!("cat >{0}; env >>{0}", file.display());
        let told = program(folder.path(), &script).deliver("{\"text\":\"x\"}", &Queue::default());
        assert_eq!(told, Ok(()));
        let text = fs::read_to_string(file).unwrap();
        assert!(text.starts_with("{\"text\":\"x\"}"), "{text}");
        assert!(HIDDEN.iter().all(|name| !text.contains(name)), "{text}");
    }

    #[test]
    fn one_that_fails_or_is_missing_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let mut fails = program(folder.path(), "exit 7");
        let error = fails.deliver("{}", &Queue::default()).unwrap_err();
        assert!(error.contains("exit status: 7"), "{error}");
        let mut missing = Program::new(folder.path().join("missing"), Arc::new(SystemClock));
        let error = missing.deliver("{}", &Queue::default()).unwrap_err();
        assert!(error.contains("cannot be run"), "{error}");
        // A folder is no program.
        let mut folder = Program::new(folder.path().to_owned(), Arc::new(SystemClock));
        assert!(folder.deliver("{}", &Queue::default()).is_err());
    }

    #[test]
    fn one_that_writes_gigabytes_and_never_ends_is_killed_with_its_children() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("child");
        let script = format!("sleep 1000 & echo $! >{}; exec yes", file.display());
        let mut endless = program(folder.path(), &script);
        let clock = Arc::new(ManualClock::new(Timestamp::UNIX_EPOCH));
        endless.clock = clock.clone();
        let running = thread::spawn(move || endless.deliver("{}", &Queue::default()));
        let child = loop {
            match fs::read_to_string(&file) {
                Ok(child) if child.ends_with('\n') => break child,
                _ => thread::sleep(LOOK),
            }
        };
        assert!(!running.is_finished());
        clock.pass(TIME);
        let error = running.join().unwrap().unwrap_err();
        assert!(error.contains("killed"), "{error}");
        // A signal takes effect when its process gets a core. Then it is gone, or a zombie that was not
        // reaped yet.
        let stat = format!("/proc/{}/stat", child.trim());
        let lives = || fs::read_to_string(&stat).is_ok_and(|state| !state.contains(") Z "));
        let killed = Instant::now();
        while lives() {
            assert!(killed.elapsed() < Duration::from_secs(60), "it still runs");
            thread::sleep(LOOK);
        }
    }

    #[test]
    fn an_end_does_not_wait_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let mut endless = program(folder.path(), "exec sleep 1000");
        let queue = std::sync::Arc::<Queue>::default();
        let ending = std::sync::Arc::clone(&queue);
        let thread = thread::spawn(move || endless.deliver("{}", &ending));
        queue.give_up();
        assert!(thread.join().unwrap().is_err());
    }
}
