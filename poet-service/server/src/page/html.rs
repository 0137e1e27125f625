//! Pieces of HTML. Text from elsewhere must go through [`escape`].

use std::{fmt, time::Duration};

use jiff::Timestamp;
use poet_engine::TICK_LEAVES;
use poet_proto::duration::in_words;
use poet_rounds::clock::time_until;

/// Escapes a text for elements and for attributes in double quotes.
pub(crate) fn escape(text: &str) -> Escaped<'_> {
    Escaped(text)
}

pub(crate) struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for letter in self.0.chars() {
            match letter {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                '\n' | '\t' => f.write_str(letter.encode_utf8(&mut [0; 4]))?,
                // Control characters are invisible, and some are not allowed.
                _ if letter.is_control() => f.write_str("\u{fffd}")?,
                _ => f.write_str(letter.encode_utf8(&mut [0; 4]))?,
            }
        }
        Ok(())
    }
}

/// Replaces each `{{name}}` in a template with a piece of HTML.
pub(crate) fn fill(template: &str, pieces: &[(&str, String)]) -> String {
    let mut page = String::with_capacity(2 * template.len());
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        let (name, after) = after.split_once("}}").unwrap_or((after, ""));
        page += before;
        // Pieces are not expanded: they may contain braces from elsewhere.
        if let Some((_, piece)) = pieces.iter().find(|(piece, _)| *piece == name) {
            page += piece;
        }
        rest = after;
    }
    page + rest
}

/// Formats a time, to the second, in UTC. The page's script adds the reader's time zone.
pub(crate) fn time(time: Timestamp) -> String {
    let seconds = match time.as_second() % 60 {
        0 => "%H:%M",
        _ => "%H:%M:%S",
    };
    format!(
        "<time datetime=\"{}\">{} UTC</time>",
        time.strftime("%Y-%m-%dT%H:%M:%SZ"),
        time.strftime(&format!("%a %-d %b %Y, {seconds}")),
    )
}

/// Formats the time left until `then`. The page's script counts it down.
pub(crate) fn countdown(now: Timestamp, then: Timestamp) -> String {
    let left = time_until(now, then);
    let words = match left.as_secs() {
        0 => "now".to_owned(),
        _ => format!("in {}", in_words(left)),
    };
    format!(
        "<span data-until=\"{}\">{words}</span>",
        then.strftime("%Y-%m-%dT%H:%M:%SZ")
    )
}

/// Shows how much of something is done.
pub(crate) fn progress(part: f64, label: &str) -> String {
    let percent = (part * 100.0).clamp(0.0, 100.0);
    format!(
        "<div class=\"bar\"><progress max=\"100\" value=\"{percent:.2}\" aria-label=\"{}\">\
         </progress><span>{percent:.1}\u{a0}%</span></div>",
        escape(label)
    )
}

/// Formats a number with commas between thousands.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3 + 1);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Converts leaves to ticks. A node counts whole ones; of a few, the fraction is of interest.
pub(crate) fn ticks(leaves: u64) -> String {
    match leaves / TICK_LEAVES {
        0..10 => format!("{:.2}", leaves as f64 / TICK_LEAVES as f64),
        ticks => grouped(ticks),
    }
}

/// Formats a number of bytes.
pub(crate) fn bytes(bytes: u64) -> String {
    let (unit, name) = match bytes {
        0..1_000_000 => (1e3, "kB"),
        1_000_000..1_000_000_000 => (1e6, "MB"),
        1_000_000_000..1_000_000_000_000 => (1e9, "GB"),
        _ => (1e12, "TB"),
    };
    format!("{:.1} {name}", bytes as f64 / unit)
}

/// Formats how long after the end of its round a proof was published.
pub(crate) fn late(late: Duration) -> String {
    match late.as_secs() {
        0..60 => format!("{:.1} s", late.as_secs_f64()),
        _ => in_words(late),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_markup() {
        let text = "<a href=\"x\" title='y'>&amp;\u{0}\u{1b}[31m\n";
        assert_eq!(
            escape(text).to_string(),
            "&lt;a href=&quot;x&quot; title=&#39;y&#39;&gt;&amp;amp;\u{fffd}\u{fffd}[31m\n"
        );
    }

    #[test]
    fn pieces_are_not_filled_themselves() {
        let pieces = [("a", "{{b}}".to_owned()), ("b", "B".to_owned())];
        assert_eq!(fill("<{{a}}> {{b}}, {{c}}.", &pieces), "<{{b}}> B, .");
        assert_eq!(fill("{{a", &pieces), "{{b}}");
    }

    #[test]
    fn numbers_for_people() {
        for (number, text) in [
            (0, "0"),
            (999, "999"),
            (1_000, "1,000"),
            (39_412_345_678, "39,412,345,678"),
        ] {
            assert_eq!(grouped(number), text);
        }
        assert_eq!(ticks(TICK_LEAVES / 8), "0.12");
        assert_eq!(ticks(TICK_LEAVES * 9650 + 7), "9,650");
        assert_eq!(bytes(1_234_567), "1.2 MB");
        assert_eq!(late(Duration::from_millis(83)), "0.1 s");
        assert_eq!(late(Duration::from_secs(3_725)), "1 h 2 min");
    }

    #[test]
    fn times_are_told_and_counted_down() {
        let at = |text: &str| text.parse().unwrap();
        assert_eq!(
            time(at("2026-11-23T08:00:00.9Z")),
            "<time datetime=\"2026-11-23T08:00:00Z\">Mon 23 Nov 2026, 08:00 UTC</time>"
        );
        assert!(time(at("2026-11-23T08:00:07Z")).contains("08:00:07 UTC"));
        let left = countdown(at("2026-11-20T04:00:00Z"), at("2026-11-23T08:00:00Z"));
        assert!(left.contains(">in 3 days 4 h<"), "{left}");
        assert!(countdown(at("2026-11-23T08:00:00Z"), Timestamp::MIN).contains(">now<"));
    }
}
