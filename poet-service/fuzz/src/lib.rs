//! What the fuzz targets share: the independent decoder and JSON mapping of a `SubmitRequest`.
//!
//! Run one target with `cargo +nightly fuzz run -s none NAME corpus/NAME seeds/NAME` in the folder
//! above, or all for a short time with `.ci/fuzz`.
#![forbid(unsafe_code)]

use std::sync::LazyLock;

use jiff::Timestamp;
use poet_proto::{certificate::SignedCertificate, messages::SubmitRequest, pow::PowParams};
use poet_service::api::grpc::proto;
use prost_reflect::{
    DescriptorPool, DeserializeOptions, DynamicMessage, MessageDescriptor, prost::Message as _,
};
use serde_json::Deserializer;

/// The first second of the year 1, and that of the year 10000.
const YEAR_1: i64 = -62_135_596_800;
const YEAR_10000: i64 = 253_402_300_800;

/// The description of `SubmitRequest`, compiled from the interface.
static SUBMIT_REQUEST: LazyLock<MessageDescriptor> = LazyLock::new(|| {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../proto");
    let files = protox::compile(["rpc/api/v1/api.proto"], [folder]).expect("the interface");
    DescriptorPool::from_file_descriptor_set(files)
        .expect("the interface")
        .get_message_by_name("rpc.api.v1.SubmitRequest")
        .expect("the request")
});

/// Decodes a message with the other decoder, if it accepts it.
pub fn decoded(message: &[u8]) -> Option<proto::SubmitRequest> {
    let message = DynamicMessage::decode(SUBMIT_REQUEST.clone(), message).ok()?;
    Some(proto::SubmitRequest::decode(&*message.encode_to_vec()).expect("just encoded"))
}

/// Decodes a body with the other JSON mapping, if it accepts it.
pub fn reflected(body: &[u8]) -> Option<SubmitRequest> {
    let mut json = Deserializer::from_slice(body);
    let options = DeserializeOptions::new().deny_unknown_fields(false);
    let message =
        DynamicMessage::deserialize_with_options(SUBMIT_REQUEST.clone(), &mut json, &options)
            .ok()?;
    json.end().ok()?;
    let request = proto::SubmitRequest::decode(&*message.encode_to_vec()).expect("just encoded");
    let deadline = match request.deadline {
        None => None,
        // It accepts any year. The first moment of the year 1 is Go's zero time.
        Some(time) if !(YEAR_1..YEAR_10000).contains(&time.seconds) => return None,
        Some(time) if (time.seconds, time.nanos) == (YEAR_1, 0) => None,
        Some(time) => Some(Timestamp::new(time.seconds, time.nanos).unwrap_or(Timestamp::MAX)),
    };
    let params = request.pow_params.unwrap_or_default();
    Some(SubmitRequest {
        nonce: request.nonce,
        pow_params: PowParams {
            difficulty: params.difficulty,
            challenge: params.challenge,
        },
        prefix: request.prefix,
        challenge: request.challenge,
        pubkey: request.pubkey,
        signature: request.signature,
        deadline,
        certificate: request.certificate.map(|certificate| SignedCertificate {
            data: certificate.data,
            signature: certificate.signature,
        }),
        certificate_pubkey_hint: request.certificate_pubkey_hint,
    })
}

/// Returns the canonical JSON of a request, by the other mapping.
pub fn canonical(request: &SubmitRequest) -> String {
    let message = proto::SubmitRequest {
        nonce: request.nonce,
        pow_params: Some(proto::PowParams {
            difficulty: request.pow_params.difficulty,
            challenge: request.pow_params.challenge.clone(),
        }),
        prefix: request.prefix.clone(),
        challenge: request.challenge.clone(),
        pubkey: request.pubkey.clone(),
        signature: request.signature.clone(),
        deadline: request.deadline.map(|deadline| {
            // Counted from the second below, as in protobuf.
            let nanos = deadline.as_nanosecond();
            prost_types::Timestamp {
                seconds: i64::try_from(nanos.div_euclid(1_000_000_000)).expect("years are few"),
                nanos: i32::try_from(nanos.rem_euclid(1_000_000_000)).expect("under a second"),
            }
        }),
        certificate: request.certificate.as_ref().map(|certificate| {
            proto::submit_request::Certificate {
                data: certificate.data.clone(),
                signature: certificate.signature.clone(),
            }
        }),
        certificate_pubkey_hint: request.certificate_pubkey_hint.clone(),
    };
    let message = DynamicMessage::decode(SUBMIT_REQUEST.clone(), &*message.encode_to_vec());
    serde_json::to_string(&message.expect("just encoded")).expect("text")
}
