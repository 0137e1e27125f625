//! Any option file is read, or refused with one sentence that names the line. The effective values
//! can be written to a file that gives the same values; and of each option the last line counts.
#![no_main]

use std::{fs::File, io::Write as _, os::fd::AsRawFd as _};

use libfuzzer_sys::fuzz_target;
use poet_service::{
    args::ServerArgs,
    config::{Config, ConfigError, Effective, OptionSource},
};

fn load(content: &[u8]) -> Result<Vec<Effective>, ConfigError> {
    let file = memfd::MemfdOptions::new().create("config").expect("memory");
    let mut file: File = file.into_file();
    file.write_all(content).expect("memory");
    let args = ServerArgs::parse([
        format!("--configfile=/proc/self/fd/{}", file.as_raw_fd()),
        "--poetdir=/poet".to_owned(),
    ])
    .expect("options");
    Config::load(args).map(|config| config.effective)
}

fuzz_target!(|content: &[u8]| {
    // Must not create folders on this machine.
    let reads_folder = |line: &[u8]| line.trim_ascii_start().starts_with(b"trusted-pub-keys");
    if content.split(|byte| *byte == b'\n').any(reads_folder) {
        return;
    }
    let effective = match load(content) {
        Ok(effective) => effective,
        Err(error) => {
            let message = error.to_string();
            assert!(!message.contains('\n'), "{message}");
            if let ConfigError::Line { line, .. } = error {
                let text = str::from_utf8(content).expect("it was read");
                assert!((1..=text.lines().count()).contains(&line), "{message}");
            }
            return;
        }
    };
    let text = str::from_utf8(content).expect("it was read");
    let mut again = String::new();
    for option in &effective {
        let OptionSource::File { lines, .. } = &option.source else {
            continue;
        };
        let sets = |text: &str| {
            let name = text.split('=').next().unwrap_or_default();
            name.trim() == option.name
        };
        for line in lines {
            let line = text.lines().nth(line - 1).expect("the line");
            assert!(sets(line), "{option:?}");
        }
        let last = *lines.last().expect("a line");
        assert!(!text.lines().skip(last).any(sets), "{option:?}");
        if let [_] = lines[..] {
            again += &format!(
                "{}={}\n",
                option.name,
                serde_json::Value::from(&*option.value)
            );
            continue;
        }
        // A repeatable option is given on each of its lines.
        for line in lines {
            again += text.lines().nth(line - 1).expect("the line");
            again.push('\n');
        }
    }
    let values = |effective: Vec<Effective>| -> Vec<_> {
        let options = effective
            .into_iter()
            .filter(|option| option.name != "configfile");
        options.map(|option| (option.name, option.value)).collect()
    };
    let reread = load(again.as_bytes()).unwrap_or_else(|error| panic!("{again}: {error}"));
    assert_eq!(values(reread), values(effective), "{again}");
});
