//! Checks the operator's manual against the program: options, metrics, sample configurations,
//! dashboards, alerts and links.
#![allow(clippy::unwrap_used)]

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use clap::Args as _;
use common::{LocalServer, TestNode, await_some, certifier, config};
use poet_rounds::worker::AuditMode;
use poet_service::args::ServerArgs;
use serde_json::{Value, json};

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs")
}

fn read(name: &str) -> String {
    fs::read_to_string(docs().join(name)).unwrap()
}

/// Returns the cells of the rows of tables whose first cell is code.
fn rows(text: &str) -> Vec<Vec<String>> {
    text.lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| {
            let cells = line.trim_matches('|').split(" | ");
            cells.map(|cell| cell.trim().to_owned()).collect()
        })
        .collect()
}

/// Returns the text between a heading and the next one.
fn section(page: &str, heading: &str) -> String {
    let text = read(page);
    let (_, after) = text.split_once(&format!("\n## {heading}\n")).unwrap();
    after.split("\n## ").next().unwrap().to_owned()
}

/// Returns the output of `check-config`: each option's value and its source.
fn check_config(options: &[&str]) -> BTreeMap<String, (String, String)> {
    let output = Command::new(env!("CARGO_BIN_EXE_poet-service"))
        .arg("check-config")
        .args(options)
        .env_remove("POET_PRIVATE_KEY")
        .env_remove("POET_BACKEND")
        .env("HOME", "/home/operator")
        .output()
        .unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && errors.is_empty(), "{errors}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .take_while(|line| !line.is_empty())
        .map(|line| {
            let (name, rest) = line.split_once(' ').unwrap();
            let (value, source) = rest.trim().split_once("  ").unwrap();
            let (value, source) = (value.trim().to_owned(), source.trim().to_owned());
            (name.to_owned(), (value, source))
        })
        .collect()
}

#[test]
fn every_option_is_documented_with_its_default() {
    let command = ServerArgs::augment_args(clap::Command::new(""));
    let options: BTreeSet<String> = command
        .get_arguments()
        .map(|option| match option.get_short() {
            Some(short) => format!("`{}`, `-{short}`", option.get_long().unwrap()),
            None => format!("`{}`", option.get_long().unwrap()),
        })
        .collect();
    let documented: BTreeMap<String, String> = rows(&section("CONFIGURATION.md", "Options"))
        .into_iter()
        .map(|cells| (cells[0].clone(), cells[1].clone()))
        .collect();
    let names: BTreeSet<_> = documented.keys().cloned().collect();
    assert_eq!(names, options);

    let defaults = check_config(&["--poetdir=POETDIR"]);
    for (option, default) in &documented {
        let name = option.trim_start_matches('`').split('`').next().unwrap();
        let (value, _) = &defaults[name];
        let expected = match (name, value.as_str()) {
            ("poetdir", _) => "the user's cache directory + `/poet`".to_owned(),
            ("audit", _) => "`full`; `off` on a machine with one core".to_owned(),
            (_, "(unset)") => "unset".to_owned(),
            (_, value) => format!("`{value}`"),
        };
        assert_eq!(*default, expected, "{name}");
    }
}

#[test]
fn every_command_is_documented() {
    let help = Command::new(env!("CARGO_BIN_EXE_poet-service"))
        .arg("--help")
        .output()
        .unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let (_, after) = help.split_once("Commands:\n").unwrap();
    let commands: BTreeSet<String> = after
        .lines()
        .take_while(|line| !line.is_empty())
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .map(|name| format!("`{name}`"))
        .collect();
    let documented: BTreeSet<String> = rows(&section("CONFIGURATION.md", "Commands"))
        .into_iter()
        .map(|cells| cells[0].clone())
        .collect();
    assert_eq!(documented, commands);
}

#[test]
fn the_sample_configurations_are_what_they_say() {
    let file = |name: &str| docs().join("files").join(name);
    let check = |name: &str| {
        let file = file(name).display().to_string();
        (check_config(&["-c", &file]), file)
    };
    let (mainnet, path) = check("mainnet.conf");
    assert!(mainnet["network"].1.starts_with(&path));
    for (name, value) in [
        ("genesis-time", "2023-07-14T08:00:00Z"),
        ("epoch-duration", "336h0m0s"),
        ("phase-shift", "240h0m0s"),
        ("cycle-gap", "12h0m0s"),
    ] {
        let (found, source) = &mainnet[name];
        assert_eq!(found, value, "{name}");
        assert_eq!(source, "network mainnet", "{name}");
    }
    assert_eq!(mainnet["datadir"].0, "/var/lib/poet/data");
    // The directories of the unit are those of the configuration.
    let unit = read("files/poet-service.service");
    assert!(unit.contains("StateDirectory=poet\n") && unit.contains("LogsDirectory=poet\n"));
    assert_eq!(mainnet["logdir"].0, "/var/log/poet");
    // The proxy and the monitoring use the server's addresses; the public cannot reach them.
    let proxy = read("files/nginx.conf");
    for name in ["restlisten", "rpclisten"] {
        let (address, _) = &mainnet[name];
        assert!(proxy.contains(&format!("server {address};")), "{name}");
    }
    let port = &mainnet["metrics-port"].0;
    assert!(read("files/nftables.conf").contains(&format!("dport {port} ip saddr @monitoring")));
    assert!(read("monitoring/prometheus.yml").contains(&format!(":{port}\"]")));
    assert!(read("files/Dockerfile").contains(&format!("--metrics-port={port}")));

    let (local, _) = check("local.conf");
    assert_eq!(local["datadir"].0, "/home/operator/poet-test/data");
    assert_eq!(local["epoch-duration"].0, "10m0s");
}

/// Returns the metrics of a server that works on a round and has published another one: the names
/// with their types, and the names of the samples.
fn scrape() -> (BTreeMap<String, String>, BTreeSet<String>) {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path());
    config.rounds.rules.certifier = Some(certifier());
    config.work.audit = AuditMode::Full;
    let server = LocalServer::start(config, 10);
    let params = server.client.pow_params();
    server.client.register(&TestNode::new(1));
    let mut certified = TestNode::new(2).request(&params);
    certified["certificate"] = json!({"data": "AAAA", "signature": "AAAA"});
    assert_eq!(server.client.submit(&certified).status, 401);
    server.at(30);
    server.await_work(0);
    server.at(80);
    server.client.await_proof(0);
    server.at(90);
    server.await_work(1);
    let monitoring = server.monitoring();
    // The last series to appear: when the auditors have begun with the round.
    let text = await_some("all metrics", || {
        let text = monitoring.get("/metrics").body;
        text.contains("poet_audit_lag_leaves").then_some(text)
    });
    let types = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .map(|(name, kind)| (name.to_owned(), kind.to_owned()))
        .collect();
    let samples = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split(['{', ' ']).next())
        .map(str::to_owned)
        .collect();
    (types, samples)
}

/// Returns the names of metrics in an expression.
fn metrics_in(expression: &str) -> impl Iterator<Item = &str> {
    let name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    expression.split(move |c| !name(c)).filter(|word| {
        ["poet_", "grpc_server_", "process_"]
            .iter()
            .any(|prefix| word.starts_with(prefix))
    })
}

#[test]
fn every_metric_is_documented_and_nothing_asks_for_others() {
    let (types, samples) = scrape();
    let documented: BTreeMap<String, String> = rows(&read("METRICS.md"))
        .into_iter()
        .map(|cells| (cells[0].trim_matches('`').to_owned(), cells[1].clone()))
        .collect();
    assert_eq!(documented, types);

    let dashboard: Value = serde_json::from_str(&read("monitoring/dashboard.json")).unwrap();
    let mut asked: Vec<String> = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            asked.push(target["expr"].as_str().unwrap().to_owned());
        }
    }
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        asked.push(variable["definition"].as_str().unwrap().to_owned());
    }
    let alerts = read("monitoring/alerts.yml");
    asked.push(alerts.clone());
    let mut names = BTreeSet::new();
    for expression in &asked {
        names.extend(metrics_in(expression));
    }
    assert!(names.len() > 15, "{names:?}");
    for name in &names {
        assert!(samples.contains(*name), "{name} is not in a scrape");
    }
    // And the reverse: each metric is shown somewhere.
    for (metric, kind) in &types {
        let sample = match kind.as_str() {
            "histogram" => format!("{metric}_bucket"),
            _ => metric.clone(),
        };
        assert!(names.contains(&*sample), "{sample} is shown nowhere");
    }
}

/// What Grafana requires of an imported dashboard.
#[test]
fn the_dashboard_imports_cleanly() {
    let dashboard: Value = serde_json::from_str(&read("monitoring/dashboard.json")).unwrap();
    // If another one has this id, Grafana asks. A number would be the id in another Grafana's
    // database.
    assert_eq!(dashboard["id"], json!(null));
    assert!(dashboard["uid"].as_str().is_some_and(|uid| uid.len() <= 40));
    assert!(dashboard["schemaVersion"].as_u64().unwrap() >= 36);
    assert!(!dashboard["title"].as_str().unwrap().is_empty());
    let input = &dashboard["__inputs"][0];
    assert_eq!(input["type"], "datasource");
    assert_eq!(input["pluginId"], "prometheus");
    let source = json!({
        "type": "prometheus",
        "uid": format!("${{{}}}", input["name"].as_str().unwrap()),
    });
    let required: BTreeSet<_> = dashboard["__requires"]
        .as_array()
        .unwrap()
        .iter()
        .map(|required| required["id"].as_str().unwrap())
        .collect();
    let mut ids = BTreeSet::new();
    let mut taken = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = panel["title"].as_str().unwrap();
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}");
        let place = |name: &str| panel["gridPos"][name].as_u64().unwrap();
        assert!(place("x") + place("w") <= 24, "{title} is too wide");
        for x in place("x")..place("x") + place("w") {
            for y in place("y")..place("y") + place("h") {
                assert!(taken.insert((x, y)), "{title} lies over another panel");
            }
        }
        let kind = panel["type"].as_str().unwrap();
        if kind == "row" {
            continue;
        }
        assert!(required.contains(kind), "{title}: {kind}");
        assert_eq!(panel["datasource"], source, "{title}");
        assert!(panel["description"].is_string(), "{title}");
        let mut letters = BTreeSet::new();
        for target in panel["targets"].as_array().unwrap() {
            assert_eq!(target["datasource"], source, "{title}");
            let expression = target["expr"].as_str().unwrap();
            let pairs =
                |open, close| expression.matches(open).count() == expression.matches(close).count();
            assert!(
                pairs('(', ')') && pairs('{', '}') && pairs('[', ']'),
                "{title}"
            );
            assert!(expression.contains("instance=~\"$instance\""), "{title}");
            assert!(letters.insert(target["refId"].as_str().unwrap()), "{title}");
        }
        assert!(!letters.is_empty(), "{title}");
    }
    assert!(ids.len() > 10);
}

#[test]
fn every_alert_is_tested_and_explained() {
    let names = |file: &str, key: &str| -> BTreeSet<String> {
        read(file)
            .lines()
            .filter_map(|line| line.split_once(key))
            .map(|(_, name)| name.split(',').next().unwrap().trim().to_owned())
            .collect()
    };
    let alerts = names("monitoring/alerts.yml", "- alert:");
    assert!(alerts.len() > 5);
    assert_eq!(names("monitoring/alerts_test.yml", "alertname:"), alerts);
    assert_eq!(names("MONITORING.md", "### "), alerts);
}

/// Returns the anchor that Markdown readers give a heading.
fn anchor_of(heading: &str) -> String {
    let letters = heading.chars().filter_map(|letter| match letter {
        ' ' => Some('-'),
        '-' | '_' => Some(letter),
        _ if letter.is_alphanumeric() => Some(letter),
        _ => None,
    });
    letters.collect::<String>().to_lowercase()
}

#[test]
fn links_lead_somewhere() {
    let mut links = 0;
    for entry in fs::read_dir(docs()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "md") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        for (before, after) in text.match_indices("](").map(|(at, _)| text.split_at(at)) {
            let link = after[2..].split(')').next().unwrap();
            if link.contains("://") {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => path.clone(),
                file => docs().join(file),
            };
            assert!(target.exists(), "{}: {link}", path.display());
            if !anchor.is_empty() {
                let headings = fs::read_to_string(&target).unwrap();
                let found = headings
                    .lines()
                    .filter(|line| line.starts_with('#'))
                    .map(|line| line.trim_start_matches(['#', ' ']))
                    .any(|heading| anchor_of(heading) == anchor);
                assert!(found, "{}: {link}, after {before:.20}", path.display());
            }
            links += 1;
        }
    }
    assert!(links > 20, "{links}");
    // Every page and file is in the index.
    let index = read("README.md");
    for folder in ["", "files", "monitoring"] {
        for entry in fs::read_dir(docs().join(folder)).unwrap() {
            let path = entry.unwrap().path();
            let path = path.strip_prefix(docs()).unwrap().display().to_string();
            if !path.contains('.') || path == "README.md" {
                continue;
            }
            assert!(index.contains(&path), "{path} is not in README.md");
        }
    }
}

/// The unit permits what the manual requires.
#[test]
fn the_unit_has_the_limits_of_the_manual() {
    let unit = read("files/poet-service.service");
    for line in ["MemoryMax=2G", "LimitCORE=0"] {
        assert!(unit.lines().any(|other| other == line), "{line}");
    }
    let running = read("RUNNING.md");
    assert!(running.contains("| memory | 2 GiB: "));
    assert!(running.contains("- `MemoryMax`: 2 GiB"));
    // Wherever its lines end.
    let load = read("LOAD.md").replace('\n', " ");
    assert!(load.contains("`MemoryMax` of the unit is 2 GiB"));
}
