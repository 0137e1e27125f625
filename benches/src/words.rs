//! Numbers formatted for people.

use crate::stat::Stat;

/// `12,345`
#[must_use]
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `324 h`, or in a unit that is shorter to read.
#[must_use]
pub fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 9.95 => format!("{s:.1} s").replace(".0 s", " s"),
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7200.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.0} h", s / 3600.0),
    }
}

/// `3.60 GHz`
#[must_use]
pub fn clock(hz: f64) -> String {
    format!("{:.2} GHz", hz / 1e9)
}

/// Core numbers, as a list.
#[must_use]
pub fn list(numbers: &[usize]) -> String {
    let texts: Vec<String> = numbers.iter().map(ToString::to_string).collect();
    or_none(&texts.join(", "), "none")
}

/// `1.2 %`
#[must_use]
pub fn percent(share: f64) -> String {
    format!("{:.2} %", 100.0 * share)
}

/// `15.2 µs`
#[must_use]
pub fn micro(ns: u64) -> String {
    match ns {
        ns if ns < 1_000_000 => format!("{:.1} µs", ns as f64 / 1e3),
        ns => format!("{:.2} ms", ns as f64 / 1e6),
    }
}

/// The median, in millions.
#[must_use]
pub fn mega(stat: Option<Stat>) -> String {
    stat.map_or_else(dash, |stat| format!("{:.2}", stat.median / 1e6))
}

/// The distance between the quartiles.
#[must_use]
pub fn spread(stat: Option<Stat>) -> String {
    stat.map_or_else(dash, |stat| percent(stat.spread()))
}

pub(crate) fn dash() -> String {
    "-".into()
}

pub(crate) fn or_none(text: &str, none: &str) -> String {
    if text.is_empty() { none } else { text }.to_owned()
}

/// Escapes text for any place in a page.
#[must_use]
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        assert_eq!(thousands(0), "0");
        assert_eq!(thousands(999), "999");
        assert_eq!(thousands(9_331_200), "9,331,200");
        assert_eq!(duration(1_166_400.0), "324 h");
        assert_eq!(duration(600.0), "10 min");
        assert_eq!(duration(0.62), "0.6 s");
        assert_eq!(duration(3.0), "3 s");
        assert_eq!(clock(3.6e9), "3.60 GHz");
        assert_eq!(micro(15_230), "15.2 µs");
        assert_eq!(list(&[]), "none");
        assert_eq!(list(&[1, 2]), "1, 2");
        assert_eq!(spread(None), "-");
    }
}
