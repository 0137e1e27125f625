//! Notifications: webhooks, programs and the service manager; receivers that do not respond cost
//! nothing.
#![allow(clippy::unwrap_used)]
#![cfg(target_os = "linux")]

mod common;
#[path = "common/program.rs"]
mod program;

use std::{
    fs,
    io::{BufRead as _, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, mpsc},
    thread,
};

use common::{LocalServer, TestNode, await_some, config};
use poet_service::notify::NotifyConfig;
use program::{ServerProcess, install};
use serde_json::Value;

/// Receives webhooks and sends the requests to the channel.
struct Hook {
    url: String,
    got: mpsc::Receiver<Value>,
}

/// Accepts a connection, with or without TLS.
trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

impl Hook {
    /// Answers with these statuses, then with 200.
    fn start(statuses: &'static [u16]) -> Self {
        Self::start_with("http://127.0.0.1", statuses, |stream| Box::new(stream))
    }

    fn start_with(
        origin: &str,
        statuses: &'static [u16],
        wrap: impl Fn(TcpStream) -> Box<dyn Stream> + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (told, got) = mpsc::channel();
        thread::spawn(move || {
            let mut statuses = statuses.iter();
            for stream in listener.incoming() {
                let status = statuses.next().unwrap_or(&200);
                let body = answer(&mut *wrap(stream.unwrap()), *status);
                // The test may have ended; a client that did not trust the server has sent nothing.
                if let (200, Some(body)) = (status, body)
                    && told.send(serde_json::from_str(&body).unwrap()).is_err()
                {
                    return;
                }
            }
        });
        Self {
            url: format!("{origin}:{port}/hooks/secret?token=also"),
            got,
        }
    }

    fn config(&self) -> NotifyConfig {
        NotifyConfig {
            url: Some(self.url.parse().unwrap()),
            command: None,
        }
    }

    /// The next event, which must have this name.
    #[track_caller]
    fn event(&self, name: &str) -> Value {
        let event = await_some(name, || self.got.try_recv().ok());
        assert_eq!(event["event"], name, "{event}");
        event
    }
}

/// Reads a request and responds; returns its body.
fn answer(stream: &mut dyn Stream, status: u16) -> Option<String> {
    let mut reader = BufReader::new(&mut *stream);
    let mut length = 0;
    let mut head = String::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if line.trim().is_empty() {
            break;
        }
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        head += &line;
    }
    assert!(
        head.starts_with("POST /hooks/secret?token=also HTTP/1.1"),
        "{head}"
    );
    assert!(
        head.to_lowercase()
            .contains("content-type: application/json"),
        "{head}"
    );
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let answer = format!("HTTP/1.1 {status} Told\r\ncontent-length: 2\r\n\r\nok");
    stream.write_all(answer.as_bytes()).unwrap();
    stream.flush().unwrap();
    Some(String::from_utf8(body).unwrap())
}

fn script(folder: &Path, text: &str) -> PathBuf {
    let (written, path) = (folder.join("written"), folder.join("told.sh"));
    fs::write(&written, format!("#!/bin/sh\n{text}\n")).unwrap();
    install(&written, &path);
    path
}

#[test]
fn a_round_and_what_goes_wrong_are_told() {
    let hook = Hook::start(&[]);
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path());
    config.notify = hook.config();
    let rounds = config.directories.datadir.join("rounds");
    let server = LocalServer::start(config, 10);
    server.client.register(&TestNode::new(1));
    server.client.register(&TestNode::new(2));
    server.at(30);
    let closed = hook.event("round-closed");
    assert_eq!(
        (&closed["round"], &closed["members"]),
        (&0.into(), &2.into())
    );
    let text = closed["text"].as_str().unwrap();
    assert!(
        text.ends_with(": round 0 is closed with 2 members"),
        "{text}"
    );
    server.await_work(0);
    // The next round cannot be worked on: a file is in the place of its folder.
    drop(fs::remove_dir(rounds.join("1")));
    fs::write(rounds.join("1"), "").unwrap();
    server.at(80);
    let published = hook.event("proof-published");
    assert_eq!(
        (&published["round"], &published["members"]),
        (&0.into(), &2.into())
    );
    assert!(published["leaves"].as_u64().unwrap() > 200, "{published}");
    assert_eq!(published["ticks"], 0);
    assert!(published["secondsLate"].as_f64().unwrap() >= 0.0);
    let key = server.client.get("/v1/info").json()["servicePubkey"].clone();
    assert_eq!(published["server"], key);
    server.client.await_proof(0);
    server.at(90);
    hook.event("round-closed");
    let not_ready = hook.event("not-ready");
    assert_eq!(not_ready["reason"], "the work on a round fails");
    fs::remove_file(rounds.join("1")).unwrap();
    hook.event("ready");
}

#[test]
fn a_receiver_that_fails_is_asked_again_and_one_that_refuses_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let test = |hook: &Hook| hook.config().test().remove(0);
    let hook = Hook::start(&[503]);
    let (name, told) = test(&hook);
    assert_eq!(told, Ok(()));
    assert!(
        !name.contains("secret") && !name.contains("token"),
        "{name}"
    );
    hook.event("test");
    let (_, told) = test(&Hook::start(&[404, 200]));
    assert_eq!(told, Err("it answered 404".to_owned()));
    // On the command line, with all receivers.
    let hook = Hook::start(&[]);
    let file = folder.path().join("event");
    let program = script(folder.path(), &format!("cat >{}", file.display()));
    let output = Command::new(env!("CARGO_BIN_EXE_poet-service"))
        .args(["notify-test", "--poetdir=/nowhere"])
        .arg(format!("--notify-url={}", hook.url))
        .arg(format!("--notify-command={}", program.display()))
        .output()
        .unwrap();
    let out = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{out}");
    assert_eq!(out.matches(": delivered").count(), 2, "{out}");
    assert!(!out.contains("secret"), "{out}");
    let text = hook.event("test")["text"].clone();
    let written: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    assert_eq!(written["text"], text);
    let output = Command::new(env!("CARGO_BIN_EXE_poet-service"))
        .args(["notify-test", "--poetdir=/nowhere"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        error.contains("expected --notify-command or --notify-url"),
        "{error}"
    );
}

#[test]
fn https_trusts_the_systems_certificates_and_no_others() {
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../client/tests/data/tls");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_file(data.join("server.pem")).unwrap()],
            PrivateKeyDer::from_pem_file(data.join("server.key")).unwrap(),
        )
        .unwrap();
    let tls = Arc::new(tls);
    let hook = Hook::start_with("https://localhost", &[], move |stream| {
        let connection = rustls::ServerConnection::new(Arc::clone(&tls)).unwrap();
        Box::new(rustls::StreamOwned::new(connection, stream))
    });
    let run = |trusted: &Path| {
        Command::new(env!("CARGO_BIN_EXE_poet-service"))
            .args(["notify-test", "--poetdir=/nowhere"])
            .arg(format!("--notify-url={}", hook.url))
            .env("SSL_CERT_FILE", trusted)
            .env_remove("SSL_CERT_DIR")
            .output()
            .unwrap()
    };
    let output = run(&data.join("ca.pem"));
    let out = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{out}");
    hook.event("test");
    let output = run(Path::new("/nowhere/none"));
    let out = String::from_utf8(output.stdout).unwrap();
    assert!(
        out.contains("not delivered: https needs trusted certificates"),
        "{out}"
    );
    assert_eq!(output.status.code(), Some(1));
}

/// A webhook that accepts connections and does not respond, and a program that writes for ever:
/// rounds are not affected, and the server ends in time.
#[test]
fn receivers_that_hang_cost_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", silent.local_addr().unwrap());
    let pid = folder.path().join("pid");
    let program = script(
        folder.path(),
        &format!("echo $$ >{}; exec yes", pid.display()),
    );
    let server = ServerProcess::start(
        folder.path(),
        &[
            "--epoch-duration=4s",
            "--phase-shift=3s",
            "--cycle-gap=2s",
            &format!("--genesis-time={:.0}", jiff::Timestamp::now()),
            &format!("--notify-url={url}"),
            &format!("--notify-command={}", program.display()),
        ],
    );
    let round = server.client.register(&TestNode::new(1));
    server.client.await_proof(round);
    let pid = await_some("the program", || {
        let pid = fs::read_to_string(&pid).ok()?;
        pid.trim().parse::<u32>().ok()
    });
    server.client.await_ready();
    assert!(server.signal("TERM").success());
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
    assert!(
        stat.as_ref().map_or(true, |stat| stat.contains(") Z ")
            || !stat.contains("(yes)")),
        "{stat:?}"
    );
}

/// As systemd starts it: the socket, the watchdog, and standard error as the journal.
#[test]
fn the_service_manager_and_the_journal_are_told() {
    use std::os::unix::fs::MetadataExt as _;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    // The file that becomes standard error: it is truncated, not replaced.
    let log = folder.path().join("log.txt");
    fs::write(&log, "").unwrap();
    let stderr = fs::metadata(&log).unwrap();
    let journal = format!("{}:{}", stderr.dev(), stderr.ino());
    let server = ServerProcess::start_with(
        folder.path(),
        &[],
        &[
            ("NOTIFY_SOCKET", path.to_str().unwrap()),
            ("WATCHDOG_USEC", "200000"),
            ("JOURNAL_STREAM", &journal),
        ],
    );
    let next = || {
        let mut buffer = [0; 1024];
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    };
    assert_eq!(next(), "READY=1");
    for _ in 0..10 {
        let status = next();
        assert!(status.starts_with("STATUS=round "), "{status}");
        assert!(status.ends_with("\nWATCHDOG=1"), "{status}");
    }
    server.send_signal("TERM");
    await_some("the end", || (next() == "STOPPING=1").then_some(()));
    let log = await_some("its last line", || {
        let log = fs::read_to_string(&log).unwrap();
        log.contains(" ended").then_some(log)
    });
    drop(server);
    // Without --genesis-time there is a warning.
    for line in log.lines() {
        assert!(line.starts_with("<6>") || line.starts_with("<4>"), "{line}");
    }
    assert!(log.contains("<4>") && log.contains("<6>"), "{log}");
}
