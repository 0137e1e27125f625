//! The web pages in a headless browser: over a whole round, on a phone and on a desktop, in light
//! and in dark. The pictures stay in `target/page`.
#![allow(clippy::unwrap_used)]

#[path = "common/browser.rs"]
mod browser;
mod common;

use std::path::{Path, PathBuf};

use browser::Browser;
use common::{Client, LocalServer, TestNode, await_some, config, verify_fetched};
use poet_service::{config::Config, log_queue::RecentLines};
use serde_json::{Value, json};

/// A name and a log line that would do harm if they were not escaped.
const NAME: &str = "<img src=x onerror=alert(1)> \"A\" & 'B' {{cards}}";
const LINE: &str = "</pre><script>document.title = 'taken'</script><b>& more";

fn pictures() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("../page")
}

/// Rounds of twenty minutes with a quarter of an hour of work each, starting after a minute.
fn quarters(folder: &Path) -> Config {
    let mut config = config(folder);
    let minutes = |minutes: u64| std::time::Duration::from_secs(60 * minutes);
    config.rounds.epoch_duration = minutes(20);
    config.rounds.phase_shift = minutes(1);
    config.rounds.cycle_gap = minutes(5);
    config
}

/// What must be true of every page.
fn check(browser: &mut Browser, url: &str, name: &str) {
    for (scheme, back) in [("light", "rgb(252, 252, 251)"), ("dark", "rgb(22, 24, 27)")] {
        browser.set_scheme(scheme);
        let shown = browser.value("getComputedStyle(document.body).backgroundColor");
        assert_eq!(shown, back);
        for width in [360, 1600] {
            browser.set_size(width, 1200);
            let wide = browser.value("document.documentElement.scrollWidth");
            assert!(
                wide.as_u64() <= Some(width.into()),
                "{name} at {width}: {wide}"
            );
            // No text of a picture is cut off.
            let cut = browser.value(
                "[...document.querySelectorAll('svg text')].filter(text => {
                    const inner = text.getBoundingClientRect();
                    const outer = text.ownerSVGElement.getBoundingClientRect();
                    return inner.left < outer.left - 1 || inner.right > outer.right + 1
                        || inner.top < outer.top - 1 || inner.bottom > outer.bottom + 1;
                }).map(text => text.textContent)",
            );
            assert_eq!(cut, json!([]), "{name} at {width}");
            browser.save_picture(&pictures().join(format!("{name}-{width}-{scheme}.png")));
        }
    }
    // One first-level heading, no level skipped, and a name for everything that can have the focus.
    let levels = browser
        .value("[...document.querySelectorAll('h1, h2, h3')].map(part => Number(part.tagName[1]))");
    let levels: Vec<_> = levels
        .as_array()
        .unwrap()
        .iter()
        .map(Value::as_u64)
        .collect();
    assert_eq!(levels[0], Some(1), "{levels:?}");
    for pair in levels.windows(2) {
        assert!(
            pair[1] > Some(1) && pair[1] <= pair[0].map(|level| level + 1),
            "{levels:?}"
        );
    }
    let nameless = browser.value(
        "[...document.querySelectorAll('progress, svg, [tabindex], a, button')].filter(part =>
            !part.getAttribute('aria-label') && !part.getAttribute('aria-labelledby')
            && !part.textContent.trim()).map(part => part.outerHTML)",
    );
    assert_eq!(nameless, json!([]));
    for selector in ["header", "main", "footer"] {
        assert_eq!(
            browser.value(&format!("document.querySelectorAll('{selector}').length")),
            1
        );
    }
    assert_eq!(
        browser.value("document.querySelectorAll('img, b, iframe').length"),
        0
    );
    assert_eq!(browser.complaints, Vec::<String>::new());
    assert!(browser.asked.len() > 4, "{:?}", browser.asked);
    for asked in &browser.asked {
        assert!(asked.starts_with(url), "{asked}");
    }
}

#[test]
fn a_whole_round_on_the_page_for_everybody() {
    let Some(mut browser) = Browser::start() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let mut config = quarters(folder.path());
    config.page.name = Some(NAME.to_owned());
    let server = LocalServer::start(config, 10);
    let url = format!("{}/", server.url());
    browser.open(&url);
    assert_eq!(browser.text("h1"), NAME);
    assert_eq!(browser.value("document.title"), NAME);
    let headline = browser.text("#headline");
    assert_eq!(
        headline,
        "Round 0 is open for registration until Thu 1 Jan 2026, 00:01 UTC."
    );
    let cards = browser.text("#cards");
    for text in [
        "Round 0: open for registration",
        "Thu 1 Jan 2026, 00:01 UTC in",
        "is published in epoch 1 and rewarded in epoch 2",
        "No round has started yet",
    ] {
        assert!(cards.contains(text), "{text}: {cards}");
    }
    assert_eq!(
        browser.value("document.querySelectorAll('#dates li').length"),
        4
    );
    assert!(browser.text("#dates").contains("Proof of round 0 expected"));
    assert_eq!(browser.text("#rounds"), "No proof has been published yet.");
    // What a node must configure, with the address that the browser used.
    let node = browser.value("JSON.parse(document.getElementById('node').textContent)");
    let key = server.client.get("/v1/info").json()["servicePubkey"].clone();
    let expected = json!({"main": {"poet-servers": [{"address": server.url(), "pubkey": key}]}});
    assert_eq!(node, expected);
    assert_eq!(
        browser.text("[data-address='calendar.ics']"),
        format!("{}/calendar.ics", server.url())
    );

    // Everything that follows appears without reloading the page.
    browser.value("window.same = true");
    for number in 1..=3 {
        server.client.register(&TestNode::new(number));
    }
    browser.wait_for_text("#cards", "members so far 3");
    server.at(60);
    server.await_work(0);
    browser.wait_for_text("#headline", "Round 0 is in progress.");
    browser.wait_for_text("#cards", "Round 0: working");
    // Half of the work; the other bar shows the time for registration.
    server.at(60 + 450);
    browser.wait_for_text("#cards", "50.0 %");
    browser.wait("document.title.startsWith('50 %')");
    let bars = browser
        .value("[...document.querySelectorAll('progress')].map(bar => [bar.value, bar.ariaLabel])");
    assert_eq!(bars[0][0], 37.5, "{bars}");
    assert_eq!(
        bars[1],
        json!([50, "Round 0, time of work that has passed"])
    );
    let cards = browser.text("#cards");
    for text in ["members 3", "leaves", "a second)", "ticks expected 0."] {
        assert!(cards.contains(text), "{text}: {cards}");
    }
    check(&mut browser, &url, "working");

    server.at(60 + 900);
    let proof = verify_fetched(&server.client.await_proof(0));
    browser.wait_for_text("#cards", "Round 0: published");
    // The lateness comes from the history, a second later.
    browser.wait_for_text("#rounds", "0.0 s");
    let row = browser
        .value("[...document.querySelectorAll('#rounds tbody td')].map(cell => cell.textContent)");
    let leaves = row[2].as_str().unwrap().replace(',', "");
    assert_eq!(leaves, proof.leaves.to_string());
    assert_eq!(row[1], "3");
    assert_eq!(browser.value("window.same"), true);
    check(&mut browser, &url, "published");

    // In another time zone, both times are shown.
    let zone = json!({"timezoneId": "Asia/Kathmandu"});
    browser.call("Emulation.setTimezoneOverride", &zone);
    browser.value("location.reload()");
    browser.wait_for_text(
        "#headline",
        "Thu, 1 Jan 2026, 06:06 GMT+5:45 (Thu 1 Jan 2026, 00:21 UTC)",
    );
    browser.wait_for_text("#dates", "GMT+5:45");

    // Without scripts, the page shows the current state.
    let off = json!({"value": true});
    browser.call("Emulation.setScriptExecutionDisabled", &off);
    browser.open(&url);
    let page = browser.text("body");
    for text in [
        "Round 1: open for registration",
        "00:21 UTC",
        "without them it shows",
    ] {
        assert!(page.contains(text), "{text}: {page}");
    }
}

#[test]
fn a_node_of_each_cycle_gap_finds_its_configuration() {
    let Some(mut browser) = Browser::start() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let mut config = quarters(folder.path());
    config.rounds.early_cycle_gaps = vec![std::time::Duration::from_secs(8 * 60)];
    let server = LocalServer::start(config, 10);
    let url = format!("{}/", server.url());
    browser.open(&url);
    for (id, path, gap) in [("node", "", "5m0s"), ("node-gap-8m", "/gap/8m", "8m0s")] {
        let shown = browser.value(&format!(
            "JSON.parse(document.getElementById('{id}').textContent)"
        ));
        let info = server.client.get(&format!("{path}/v1/info")).json();
        let (address, key) = (format!("{}{path}", server.url()), &info["servicePubkey"]);
        let expected = json!({
            "main": {"poet-servers": [{"address": address, "pubkey": key}]},
            "poet": {"cycle-gap": gap},
        });
        assert_eq!(shown, expected);
    }
    // The early proof comes three minutes before the other one.
    let dates = browser.text("#dates");
    let early = dates.find("Proof of round 0 for a cycle gap of 8 min expected");
    let own = dates.find("Proof of round 0 expected");
    assert!(early.is_some() && early < own, "{dates}");
    browser.wait("document.documentElement.dataset.updates > 0");
    check(&mut browser, &url, "gaps");
}

#[test]
fn a_round_and_a_restart_on_the_page_of_the_operator() {
    let Some(mut browser) = Browser::start() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let start = |at| {
        let mut config = quarters(folder.path());
        // In the middle of a minute.
        config.rounds.phase_shift = std::time::Duration::from_secs(90);
        config.page.name = Some(NAME.to_owned());
        let log = RecentLines::default();
        log.add(LINE.as_bytes());
        LocalServer::start_with_log(config, at, log)
    };
    let points = "[...document.querySelectorAll('svg.plot')].map(plot =>
        [Number(plot.dataset.points), Number(plot.dataset.interruptions)])";
    // A minute is over when it has a row.
    let pass = |server: &LocalServer, minute: i64| {
        server.at(60 * minute);
        let path = folder.path().join("data/history.sqlite");
        let history = rusqlite::Connection::open(path).unwrap();
        await_some("the minute", || {
            let newest = "SELECT max(minute) % 1440 FROM minutes";
            let newest: Option<i64> = history.query_row(newest, [], |row| row.get(0)).ok()?;
            (newest == Some(minute - 1)).then_some(())
        });
    };
    let server = start(10);
    server.client.register(&TestNode::new(1));
    let url = format!("http://{}/", server.addresses.private);
    browser.open(&url);
    assert_eq!(browser.text("h1"), NAME);
    assert_eq!(
        browser.text(".plots p"),
        ["Nothing was measured yet: a point comes every minute."; 4].join(" ")
    );
    pass(&server, 1);
    server.at(90);
    server.await_work(0);
    for minute in 2..=7 {
        pass(&server, minute);
    }
    // The work began in minute 1; minutes 2 to 6 have a minute of work before them.
    browser.wait(&format!("{points}[0]?.[0] === 5"));
    let plots = browser.value(points);
    // The hour, the day in parts of five minutes, the round, and seven minutes of registrations.
    assert_eq!(plots, json!([[5, 0], [2, 0], [5, 0], [2, 0]]));
    let cards = browser.text("#cards");
    for text in [
        "Work: round 0",
        "newest durable entry",
        "backend",
        "behind the work",
        "valid since the start 1",
        "200 OK",
        "differs from this browser's by",
    ] {
        assert!(cards.contains(text), "{text}: {cards}");
    }
    assert!(browser.text("#log").contains(LINE));
    assert!(
        browser.text("table").contains("cycle-gap"),
        "no configuration"
    );
    drop(server);

    // Five minutes without a server, which had another port before.
    browser.value("window.stop()");
    browser.call("Page.navigate", &json!({"url": "about:blank"}));
    browser.complaints.clear();
    browser.asked.clear();
    let server = start(60 * 11);
    server.await_work(0);
    let url = format!("http://{}/", server.addresses.private);
    browser.open(&url);
    for minute in 12..=14 {
        pass(&server, minute);
    }
    // Minutes 2 to 6 from before, 12 and 13 from now: 11 has nothing before it.
    browser.wait(&format!("{points}[0]?.[0] === 7"));
    let plots = browser.value(points);
    assert_eq!(plots[0], json!([7, 1]));
    assert_eq!(plots[2], json!([7, 1]));
    assert!(browser.text("#plots").contains("one interruption"));
    assert!(browser.text("#log").contains(LINE));
    assert_eq!(browser.value("document.title.endsWith('taken')"), false);
    check(&mut browser, &url, "operator");
}

#[test]
fn pages_are_for_those_whom_they_are_for() {
    let folder = tempfile::tempdir().unwrap();
    let server = LocalServer::start(config(folder.path()), 10);
    let page = server.client.get("/");
    assert_eq!(page.status, 200);
    for (header, value) in [
        ("content-type", "text/html; charset=utf-8"),
        ("cache-control", "public, max-age=1"),
        ("x-content-type-options", "nosniff"),
    ] {
        assert_eq!(page.header(header), Some(value), "{header}");
    }
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'none';") && !policy.contains("unsafe"));
    let calendar = server.client.get("/calendar.ics");
    assert_eq!(
        calendar.header("content-type"),
        Some("text/calendar; charset=utf-8")
    );
    assert!(calendar.body.starts_with("BEGIN:VCALENDAR\r\n"));
    // Many readers get the same page, which is rendered once.
    let looks: std::collections::BTreeSet<_> =
        (0..50).map(|_| server.client.get("/").body).collect();
    assert!(looks.len() < 25, "{}", looks.len());

    // A foreign page cannot read the operator's page, whatever name it uses.
    let operator = Client::new(&format!("http://{}", server.addresses.private));
    assert_eq!(operator.get_with("/", "accept", "text/html").status, 200);
    for (header, value) in [
        ("host", "evil.example"),
        ("origin", "http://evil.example"),
        ("origin", "null"),
    ] {
        let answer = operator.get_with("/", header, value);
        assert_eq!(answer.status, 403, "{header}: {value}");
        assert!(!answer.body.contains("html"), "{}", answer.body);
    }
    assert_eq!(server.client.get("/page.css").status, 200);
    drop(server);

    let mut config = config(folder.path());
    config.page.public = false;
    let server = LocalServer::start(config, 20);
    for path in ["/", "/calendar.ics", "/page.css", "/page.js"] {
        server.client.get(path).assert_error(404, 5, "Not Found");
    }
    let operator = Client::new(&format!("http://{}", server.addresses.private));
    assert_eq!(operator.get_with("/", "accept", "text/html").status, 200);
}
