//! The body of any gRPC call is one message, or refused. A registration is decoded like an
//! independent decoder does, and its deadline is valid if protobuf allows the timestamp.
#![no_main]

use std::ops::RangeInclusive;

use libfuzzer_sys::fuzz_target;
use poet_proto::messages;
use poet_service::api::{
    error::ApiError,
    grpc::{
        proto::{ProofRequest, SubmitRequest},
        unary_message,
    },
};
use poet_service_fuzz::decoded;
use prost_reflect::prost::Message;

/// `google.protobuf.Timestamp` goes from 0001-01-01T00:00:00Z to 9999-12-31T23:59:59Z.
const SECONDS: RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;

fuzz_target!(|bytes: &[u8]| {
    // Raw, and as the message of a frame.
    body(bytes);
    body(&frame(bytes));
});

fn body(body: &[u8]) {
    let message = match body {
        [0, length @ ..] => length
            .split_first_chunk()
            .filter(|(length, rest)| u32::from_be_bytes(**length) as usize == rest.len())
            .map(|(_, message)| message),
        _ => None,
    };
    let request: Option<SubmitRequest> = read(body);
    assert_eq!(request, message.and_then(decoded));
    read::<ProofRequest>(body);
    let Some(request) = request else { return };
    let deadline = request.deadline;
    let valid = deadline.is_none_or(|time| {
        SECONDS.contains(&time.seconds) && (0..1_000_000_000).contains(&time.nanos)
    });
    let taken = messages::SubmitRequest::try_from(request.clone());
    assert_eq!(taken.is_ok(), valid, "{taken:?}");
    if let Ok(taken) = taken {
        // Go's zero time means no deadline.
        let given =
            deadline.is_some_and(|time| (time.seconds, time.nanos) != (*SECONDS.start(), 0));
        assert_eq!(taken.deadline.is_some(), given);
        assert_eq!(
            (taken.nonce, taken.pubkey, taken.signature),
            (request.nonce, request.pubkey, request.signature)
        );
    }
}

fn read<M: Message + Default + PartialEq>(body: &[u8]) -> Option<M> {
    match unary_message::<M>(body) {
        Ok(message) => {
            let again = unary_message(&frame(&message.encode_to_vec()));
            assert!(again.as_ref() == Ok(&message));
            Some(message)
        }
        Err(ApiError::Malformed(reason)) => {
            assert!(!reason.is_empty());
            None
        }
        Err(error) => {
            assert_eq!(error, ApiError::Compressed);
            assert_ne!(body[0], 0);
            None
        }
    }
}

fn frame(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).expect("short");
    [&[0][..], &length.to_be_bytes(), message].concat()
}
