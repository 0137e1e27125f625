//! A PostgreSQL server for a test, in a temporary folder.

// Not every test binary uses all of this.
#![allow(dead_code)]

use std::{
    env,
    fs::{self, OpenOptions},
    io::Write as _,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use poet_conformance::skip;

/// The password that `--auth-host` requires.
pub(crate) const PASSWORD: &str = "a password: with\\signs";

/// A server that is stopped when this is dropped.
pub(crate) struct PostgresServer {
    programs: PathBuf,
    folder: tempfile::TempDir,
    network: Network,
    port: u16,
    /// Whether what is committed survives a failure of the machine.
    durable: bool,
    child: Option<Child>,
}

/// Where a server listens.
#[derive(Clone)]
pub(crate) struct Network {
    /// The network namespace that it runs in, if that is not the test's.
    pub(crate) namespace: Option<PathBuf>,
    pub(crate) address: String,
}

impl Default for Network {
    fn default() -> Self {
        Self {
            namespace: None,
            address: "127.0.0.1".to_owned(),
        }
    }
}

/// Runs a query over the server's socket.
#[derive(Clone)]
pub(crate) struct Psql {
    programs: PathBuf,
    folder: PathBuf,
    port: u16,
}

impl Psql {
    pub(crate) fn try_sql(&self, database: &str, sql: &str) -> Output {
        Command::new(self.programs.join("psql"))
            .arg("-h")
            .arg(&self.folder)
            .args(["-p", &self.port.to_string(), "-U", "poet"])
            .args(["-X", "-A", "-t", "-d", database, "-c", sql])
            .output()
            .unwrap()
    }
}

impl PostgresServer {
    /// Starts a server. Returns `None`, and says so, if PostgreSQL is not installed. Every user may
    /// connect as `poet` through the socket, and with [`PASSWORD`] from this machine.
    pub(crate) fn start() -> Option<Self> {
        let Some(programs) = programs() else {
            skip("PostgreSQL is not installed (apt install postgresql)");
            return None;
        };
        Some(Self::start_in(programs, tempfile::tempdir().unwrap()))
    }

    /// The same, where commits wait for the disk. Others do not: no test checks what survives a failure of the
    /// machine.
    pub(crate) fn start_durable() -> Option<Self> {
        let mut server = Self::start()?;
        server.signal("INT");
        if let Some(mut child) = server.child.take() {
            child.wait().unwrap();
        }
        server.durable = true;
        server.run();
        Some(server)
    }

    /// Starts a server in this folder, which may be a separate file system.
    pub(crate) fn start_in(programs: PathBuf, folder: tempfile::TempDir) -> Self {
        Self::start_on(programs, folder, Network::default())
    }

    /// Starts a server in this folder, on this network.
    pub(crate) fn start_on(programs: PathBuf, folder: tempfile::TempDir, network: Network) -> Self {
        let mut server = Self::stopped(programs, folder, network);
        let password = server.folder.path().join("password");
        fs::write(&password, PASSWORD).unwrap();
        let made = server
            .as_postgres("initdb")
            .args(["-U", "poet", "-E", "UTF8", "--no-locale", "--no-sync"])
            .args(["--auth-local=trust", "--auth-host=scram-sha-256"])
            .arg(format!("--pwfile={}", password.display()))
            .arg("-D")
            .arg(server.data())
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        if server.network.namespace.is_some() {
            // From any other machine, as from this one.
            let rules = server.data().join("pg_hba.conf");
            let mut rules = OpenOptions::new().append(true).open(rules).unwrap();
            writeln!(rules, "host all all all scram-sha-256").unwrap();
        }
        server.run();
        server
    }

    /// Returns a server without a cluster of databases.
    fn stopped(programs: PathBuf, folder: tempfile::TempDir, network: Network) -> Self {
        if is_root() {
            // PostgreSQL does not run as root.
            let chown = Command::new("chown")
                .args(["-R", "postgres:postgres"])
                .arg(folder.path())
                .status();
            assert!(chown.unwrap().success());
        }
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        Self {
            programs,
            folder,
            network,
            port,
            durable: false,
            child: None,
        }
    }

    /// Starts a replica of the server.
    pub(crate) fn replica(&self) -> Self {
        self.replica_on(Network::default(), None)
    }

    /// Starts a replica of the server on this network, at this port or a free one.
    pub(crate) fn replica_on(&self, network: Network, port: Option<u16>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut replica = Self::stopped(self.programs.clone(), folder, network);
        replica.port = port.unwrap_or(replica.port);
        let copied = replica
            .as_postgres("pg_basebackup")
            .arg("-h")
            .arg(self.folder.path())
            .args([
                "-p",
                &self.port.to_string(),
                "-U",
                "poet",
                "-c",
                "fast",
                "-X",
                "stream",
                "-R",
            ])
            .arg("-D")
            .arg(replica.data())
            .output()
            .unwrap();
        assert!(copied.status.success(), "{copied:?}");
        replica.run();
        replica
    }

    /// Returns a program of PostgreSQL, run as a user that it accepts.
    fn as_postgres(&self, program: &str) -> Command {
        let program = self.programs.join(program);
        if !is_root() {
            return Command::new(program);
        }
        let mut command = match &self.network.namespace {
            None => Command::new("setpriv"),
            Some(namespace) => {
                let mut command = Command::new("nsenter");
                command
                    .arg(format!("--net={}", namespace.display()))
                    .arg("setpriv");
                command
            }
        };
        command
            .args(["--reuid=postgres", "--regid=postgres", "--clear-groups"])
            .arg(program)
            .current_dir("/");
        command
    }

    /// Gives the server a certificate for the name `localhost`. Returns the file of the issuing
    /// authority, and that of another one.
    pub(crate) fn use_tls(&self) -> (PathBuf, PathBuf) {
        let make = "
            key='-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes'
            for ca in ca other; do
                openssl req -x509 $key -keyout $ca.key -out $ca.pem -subj /CN=$ca -days 3650
            done
            openssl req $key -keyout server.key -out server.csr -subj /CN=localhost
            echo subjectAltName=DNS:localhost >ext
            openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 3650 \
                -extfile ext -out server.crt
            chmod 600 server.key
            [ $(id -u) != 0 ] || chown postgres server.key server.crt
            cp -p server.key server.crt data/";
        let made = Command::new("sh")
            .args(["-ec", make])
            .current_dir(self.folder.path())
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        self.sql("postgres", "ALTER SYSTEM SET ssl = on");
        self.sql("postgres", "SELECT pg_reload_conf()");
        let file = |name| self.folder.path().join(name);
        (file("ca.pem"), file("other.pem"))
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Returns the folder of the socket.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn network(&self) -> &Network {
        &self.network
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Keeps the server on a core.
    pub(crate) fn pin(&self, core: usize) {
        let process = self.child.as_ref().unwrap().id().to_string();
        // Its children, too, those of later connections included.
        let children = Command::new("pgrep").args(["-P", &process]).output();
        let children = String::from_utf8(children.unwrap().stdout).unwrap();
        for process in children.split_whitespace().chain([&*process]) {
            let pinned = Command::new("taskset")
                .args(["-c", "-p", &core.to_string(), process])
                .output();
            assert!(pinned.unwrap().status.success());
        }
    }

    /// Starts or restarts the server, and waits until it responds.
    pub(crate) fn run(&mut self) {
        let start = Instant::now();
        loop {
            let child = self
                .as_postgres("postgres")
                .arg("-D")
                .arg(self.data())
                .arg("-k")
                .arg(self.folder.path())
                .args(["-c", &format!("listen_addresses={}", self.network.address)])
                .args(["-c", &format!("port={}", self.port)])
                .args(["-c", &format!("fsync={}", self.durable)])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn();
            let mut child = child.unwrap();
            // After a kill, the memory of the old process must be free first.
            while child.try_wait().unwrap().is_none() {
                if self.try_sql("postgres", "SELECT 1").status.success() {
                    self.child = Some(child);
                    return;
                }
                assert!(start.elapsed() < Duration::from_secs(120));
                thread::sleep(Duration::from_millis(50));
            }
            assert!(start.elapsed() < Duration::from_secs(120));
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Creates a database and returns its URL, through the socket.
    pub(crate) fn database(&self, name: &str) -> String {
        self.sql("postgres", &format!("CREATE DATABASE {name}"));
        self.url(name)
    }

    /// Returns the URL of a database, through the socket.
    pub(crate) fn url(&self, name: &str) -> String {
        let folder = self.folder.path().display();
        format!("postgres://poet@/{name}?host={folder}&port={}", self.port)
    }

    pub(crate) fn psql(&self) -> Psql {
        Psql {
            programs: self.programs.clone(),
            folder: self.folder.path().to_owned(),
            port: self.port,
        }
    }

    fn try_sql(&self, database: &str, sql: &str) -> Output {
        self.psql().try_sql(database, sql)
    }

    /// Returns the result of a statement.
    pub(crate) fn sql(&self, database: &str, sql: &str) -> String {
        let done = self.try_sql(database, sql);
        assert!(done.status.success(), "{sql}: {done:?}");
        String::from_utf8(done.stdout).unwrap().trim().to_owned()
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, name: &str) {
        if let Some(child) = &self.child {
            // Its group is the test's, so this signals the postmaster and its children one by one.
            let children = Command::new("pgrep")
                .args(["-P", &child.id().to_string()])
                .output()
                .map_or(Vec::new(), |found| found.stdout);
            let mut kill = format!("kill -{name} {}", child.id());
            if name != "KILL" && name != "QUIT" {
                for child in String::from_utf8(children).unwrap().split_whitespace() {
                    kill += &format!(" {child}");
                }
            }
            // One of the children may have ended meanwhile.
            drop(
                Command::new("sh")
                    .args(["-c", &kill])
                    .stderr(Stdio::null())
                    .status(),
            );
        }
    }

    /// Kills the server.
    pub(crate) fn kill(&mut self) {
        self.signal("KILL");
        if let Some(mut child) = self.child.take() {
            child.wait().unwrap();
        }
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        self.signal("CONT");
        // An immediate shutdown, which does not wait for clients.
        self.signal("QUIT");
        if let Some(mut child) = self.child.take() {
            drop(child.wait());
        }
    }
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output();
    id.is_ok_and(|id| id.stdout.trim_ascii() == b"0")
}

/// Returns the folder of the newest PostgreSQL's programs.
pub(crate) fn programs() -> Option<PathBuf> {
    let mut folders: Vec<PathBuf> = env::split_paths(&env::var_os("PATH")?).collect();
    if let Ok(versions) = fs::read_dir("/usr/lib/postgresql") {
        let mut versions: Vec<_> = versions.flatten().map(|entry| entry.path()).collect();
        versions.sort();
        folders.extend(
            versions
                .into_iter()
                .rev()
                .map(|version| version.join("bin")),
        );
    }
    let has_all = |folder: &PathBuf| {
        ["initdb", "postgres", "psql"]
            .iter()
            .all(|program| folder.join(program).exists())
    };
    folders.into_iter().find(has_all)
}
