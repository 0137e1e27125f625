//! The server as a separate program.

// Not every test binary uses all of this.
#![allow(dead_code)]

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
};

use crate::common::{Client, await_some};

/// A server in its own process, under the real clock.
pub(crate) struct ServerProcess {
    child: Child,
    pub(crate) client: Client,
    greeting: Vec<String>,
    log: PathBuf,
}

impl ServerProcess {
    /// Starts a server in `folder` on a free port and waits until it serves.
    pub(crate) fn start(folder: &Path, options: &[&str]) -> Self {
        Self::start_with(folder, options, &[])
    }

    /// Like [`Self::start`], with environment variables.
    pub(crate) fn start_with(
        folder: &Path,
        options: &[&str],
        environment: &[(&str, &str)],
    ) -> Self {
        let mut command = command(folder);
        command
            .arg("--restlisten=127.0.0.1:0")
            .args(options)
            .envs(environment.iter().copied());
        Self::start_command(folder, command)
    }

    /// Starts a server by a command, which is one for `folder`, and waits until it serves.
    pub(crate) fn start_command(folder: &Path, command: Command) -> Self {
        let log = folder.join("log.txt");
        let stderr = File::create(&log).unwrap().into();
        Self::start_with_stderr(log, command, stderr)
    }

    /// As [`Self::start_command`], with a standard error of its own; its log is also in the file `log`.
    pub(crate) fn start_with_stderr(log: PathBuf, mut command: Command, stderr: Stdio) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let greeting: Vec<_> = stdout
            .lines()
            .map_while(Result::ok)
            .take_while(|line| !line.is_empty())
            .collect();
        if greeting.is_empty() {
            panic!("{}", fs::read_to_string(&log).unwrap());
        }
        let mut server = Self {
            child,
            client: Client::new(""),
            greeting,
            log,
        };
        server.client = Client::new(server.told("REST"));
        server
    }

    /// Returns what the server prints after `name` when it starts.
    pub(crate) fn told(&self, name: &str) -> &str {
        let mut told = self
            .greeting
            .iter()
            .filter_map(|line| line.strip_prefix(name));
        told.next().unwrap().trim()
    }

    /// Returns what the server has logged so far: its threads that write lines may be behind.
    pub(crate) fn log(&self) -> String {
        await_some("the log", || (!self.writes_log()).then_some(()));
        fs::read_to_string(&self.log).unwrap()
    }

    /// Whether such a thread has lines to write, as far as the system tells.
    fn writes_log(&self) -> bool {
        let threads = fs::read_dir(format!("/proc/{}/task", self.pid()));
        threads.into_iter().flatten().flatten().any(|thread| {
            let stat = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
            ["(log) R", "(log) D"]
                .iter()
                .any(|busy| stat.contains(busy))
        })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns its exit status, if it has ended.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Kills the process.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends a signal (`HUP`, `TERM`, `INT`).
    #[cfg(unix)]
    pub(crate) fn send_signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.child.id());
        let sent = Command::new("sh").args(["-c", &kill]).status().unwrap();
        assert!(sent.success());
    }

    /// Sends a signal and waits for the end.
    #[cfg(unix)]
    pub(crate) fn signal(mut self, name: &str) -> ExitStatus {
        self.send_signal(name);
        self.child.wait().unwrap()
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        // A failed test must not leave its server running. It may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Copies a program. Another process does it: one that this process has open for writing cannot be run as
/// long as a child has that file, too, which another thread is starting.
pub(crate) fn install(program: &Path, to: &Path) {
    let mut install = Command::new("install");
    install.args(["-m", "755"]).args([program, to]);
    assert!(install.status().unwrap().success());
}

/// Returns a command for the program, with its directories in `folder`, free ports for gRPC, no
/// dedicated core (tests run in parallel), and no environment variables.
pub(crate) fn command(folder: &Path) -> Command {
    in_folder(Command::new(env!("CARGO_BIN_EXE_poet-service")), folder)
}

/// Like [`command`], in a network namespace.
pub(crate) fn command_in(namespace: &Path, folder: &Path) -> Command {
    let mut command = Command::new("nsenter");
    command
        .arg(format!("--net={}", namespace.display()))
        .arg(env!("CARGO_BIN_EXE_poet-service"));
    in_folder(command, folder)
}

fn in_folder(mut command: Command, folder: &Path) -> Command {
    command
        .arg(format!("--poetdir={}", folder.display()))
        .args(["--rpclisten=127.0.0.1:0", "--config-rpclisten=127.0.0.1:0"])
        .arg("--work-core=off")
        .env_remove("POET_PRIVATE_KEY")
        .stdin(Stdio::null());
    command
}
