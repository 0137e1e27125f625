//! The body of any registration is decoded, or refused with a short message, without a panic. If
//! both this decoder and an independent one accept it, they decode it equally. Decoding its
//! canonical form gives the same request.
//! written canonically and decoded again, is the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use poet_proto::{
    json::{Malformed, submit_request},
    messages::SubmitRequest,
};
use poet_service_fuzz::{canonical, reflected};

/// Protobuf's timestamps begin with year 1.
const YEAR_1: &str = "0001-01-01T00:00:00Z";

fuzz_target!(|body: &[u8]| {
    let request = match submit_request(body) {
        Ok(request) => request,
        Err(Malformed(message)) => {
            assert!(!message.is_empty() && message.len() < 1000, "{message}");
            return;
        }
    };
    if body.trim_ascii().is_empty() {
        assert_eq!(request, SubmitRequest::default());
        return;
    }
    // A value that goes through serde_json's document type is an object.
    let json: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    assert!(json.is_object() || json.is_null());
    if let Some(mut reflected) = reflected(body) {
        // That type reads numbers with a fraction or an exponent as doubles.
        if request.nonce > 1 << 53 {
            reflected.nonce = request.nonce;
        }
        assert_eq!(request, reflected);
    }
    let first = YEAR_1.parse().expect("a time");
    if request.deadline.is_none_or(|deadline| deadline >= first) {
        let canonical = canonical(&request);
        assert_eq!(
            submit_request(canonical.as_bytes()),
            Ok(request),
            "{canonical}"
        );
    }
});
