//! Go's durations: any text is parsed or refused, formatting a parsed duration gives a text that
//! parses to the same, and sums of parts agree with exact arithmetic.
#![no_main]

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use poet_proto::duration::{DurationError, format_go, parse_go};

#[derive(Arbitrary, Debug)]
enum Input<'a> {
    Text(&'a str),
    Parts { plus: bool, parts: Vec<Part> },
}

#[derive(Arbitrary, Debug)]
struct Part {
    whole: u32,
    fraction: Option<u32>,
    /// Zeros before the digits of the fraction.
    zeros: u8,
    unit: u8,
}

const UNITS: [(&str, u128); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("\u{b5}s", 1_000),
    ("\u{3bc}s", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

fuzz_target!(|input: Input| {
    let (text, nanos) = match input {
        Input::Text(text) => (text.to_owned(), None),
        Input::Parts { plus, parts } => {
            let mut text = if plus { "+" } else { "" }.to_owned();
            let mut nanos = 0_u128;
            for part in &parts {
                let (unit, unit_nanos) = UNITS[usize::from(part.unit) % UNITS.len()];
                text += &part.whole.to_string();
                nanos += u128::from(part.whole) * unit_nanos;
                if let Some(fraction) = part.fraction {
                    let digits = "0".repeat(usize::from(part.zeros % 8)) + &fraction.to_string();
                    let scale = 10_u128.pow(digits.len() as u32);
                    nanos += u128::from(fraction) * unit_nanos / scale;
                    text += &format!(".{digits}");
                }
                text += unit;
            }
            (text, Some(nanos).filter(|_| !parts.is_empty()))
        }
    };
    let parsed = parse_go(&text);
    if let Ok(duration) = parsed {
        assert!(duration.as_nanos() <= i64::MAX as u128, "{text}");
        assert_eq!(parse_go(&format_go(duration)), Ok(duration), "{text}");
    }
    match nanos {
        Some(nanos) if nanos <= i64::MAX as u128 => {
            assert_eq!(
                parsed.map(|duration| duration.as_nanos()),
                Ok(nanos),
                "{text}"
            );
        }
        Some(_) => assert_eq!(parsed, Err(DurationError::TooLong), "{text}"),
        None => {}
    }
});
