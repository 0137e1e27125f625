//! A registration in every form that clients may use: names in either case, base64 in either
//! alphabet, padded or not, numbers as strings, fields in any order, unset, `null` or unknown. All
//! of them decode to the same request.
#![no_main]

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD},
};
use jiff::Timestamp;
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use poet_proto::{
    certificate::SignedCertificate, json::submit_request, messages::SubmitRequest, pow::PowParams,
};
use poet_service_fuzz::{canonical, reflected};
use serde_json::Value;

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    nonce: Number,
    difficulty: u32,
    difficulty_as_text: bool,
    pow_challenge: Bytes<'a>,
    prefix: Bytes<'a>,
    challenge: Bytes<'a>,
    pubkey: Bytes<'a>,
    signature: Bytes<'a>,
    hint: Bytes<'a>,
    deadline: Option<Deadline>,
    certificate: Option<(Bytes<'a>, Bytes<'a>)>,
    snake: bool,
    /// Unset fields are written as `null`.
    nulls: bool,
    unknown: Option<&'a str>,
    rotate: u8,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
struct Bytes<'a> {
    bytes: &'a [u8],
    form: u8,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
struct Number {
    value: u64,
    as_text: bool,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
struct Deadline {
    seconds: u32,
    nanos: u32,
    offset_hours: i8,
}

impl Bytes<'_> {
    fn json(&self) -> String {
        let engine = match self.form % 4 {
            0 => &STANDARD,
            1 => &STANDARD_NO_PAD,
            2 => &URL_SAFE,
            _ => &URL_SAFE_NO_PAD,
        };
        format!("\"{}\"", engine.encode(self.bytes))
    }
}

fn number(value: impl std::fmt::Display, as_text: bool) -> String {
    match as_text {
        true => format!("\"{value}\""),
        false => value.to_string(),
    }
}

impl Deadline {
    fn time(&self) -> Timestamp {
        let nanos = i32::try_from(self.nanos % 1_000_000_000).expect("under a second");
        Timestamp::new(i64::from(self.seconds), nanos).expect("a time")
    }

    fn json(&self) -> String {
        let hours = self.offset_hours % 24;
        let offset = jiff::tz::Offset::constant(hours);
        format!("\"{}\"", self.time().display_with_offset(offset))
    }
}

fuzz_target!(|input: Input| {
    let name = |camel: &str, snake: &str| match input.snake {
        true => snake.to_owned(),
        false => camel.to_owned(),
    };
    let mut fields = vec![
        (
            "nonce".to_owned(),
            number(input.nonce.value, input.nonce.as_text),
        ),
        (
            name("powParams", "pow_params"),
            format!(
                "{{\"difficulty\": {}, \"challenge\": {}}}",
                number(input.difficulty, input.difficulty_as_text),
                input.pow_challenge.json()
            ),
        ),
        ("prefix".to_owned(), input.prefix.json()),
        ("challenge".to_owned(), input.challenge.json()),
        ("pubkey".to_owned(), input.pubkey.json()),
        ("signature".to_owned(), input.signature.json()),
        (
            name("certificatePubkeyHint", "certificate_pubkey_hint"),
            input.hint.json(),
        ),
    ];
    match &input.deadline {
        Some(deadline) => fields.push(("deadline".to_owned(), deadline.json())),
        None if input.nulls => fields.push(("deadline".to_owned(), "null".to_owned())),
        None => {}
    }
    match &input.certificate {
        Some((data, signature)) => fields.push((
            "certificate".to_owned(),
            format!(
                "{{\"signature\":{},\"data\":{}}}",
                signature.json(),
                data.json()
            ),
        )),
        None if input.nulls => fields.push(("certificate".to_owned(), "null".to_owned())),
        None => {}
    }
    if let Some(text) = input.unknown {
        fields.push(("somethingNew".to_owned(), Value::from(text).to_string()));
    }
    let middle = usize::from(input.rotate) % fields.len();
    fields.rotate_left(middle);
    let fields: Vec<_> = fields
        .iter()
        .map(|(name, value)| format!("\"{name}\": {value}"))
        .collect();
    let body = format!("{{{}}}", fields.join(",\n"));

    let expected = SubmitRequest {
        nonce: input.nonce.value,
        pow_params: PowParams {
            difficulty: input.difficulty,
            challenge: input.pow_challenge.bytes.to_vec(),
        },
        prefix: input.prefix.bytes.to_vec(),
        challenge: input.challenge.bytes.to_vec(),
        pubkey: input.pubkey.bytes.to_vec(),
        signature: input.signature.bytes.to_vec(),
        deadline: input.deadline.map(|deadline| deadline.time()),
        certificate: input
            .certificate
            .map(|(data, signature)| SignedCertificate {
                data: data.bytes.to_vec(),
                signature: signature.bytes.to_vec(),
            }),
        certificate_pubkey_hint: input.hint.bytes.to_vec(),
    };
    assert_eq!(
        submit_request(body.as_bytes()).as_ref(),
        Ok(&expected),
        "{body}"
    );
    let canonical = canonical(&expected);
    assert_eq!(submit_request(canonical.as_bytes()).as_ref(), Ok(&expected));
    assert_eq!(reflected(canonical.as_bytes()), Some(expected));
});
