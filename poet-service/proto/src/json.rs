//! The canonical JSON mapping of protobuf, for the messages of this API, in both directions: the
//! server reads requests and writes responses, clients the reverse.
//!
//! Written: lowerCamelCase, standard base64, 64-bit integers as strings, unset fields of responses
//! written out.
//!
//! Read: lowerCamelCase or, in requests, snake_case names; bytes in standard or URL-safe base64,
//! padded or not; 64-bit integers as strings or numbers; `null` means unset; unknown fields are
//! ignored; a duplicate field is an error.

mod fields;
mod request;
mod response;
mod rounds;
mod text;

pub use fields::{Bytes, Bytes32, Number, Seconds, TimeLeft, time};
pub use request::{submit_request, write_submit_request};
pub use response::{
    CertifierMessage, InfoResponse, PowParamsResponse, ProofResponse, SubmitResponse,
    info_response, pow_params_response, proof_response, submit_response,
};
pub use rounds::{ErrorResponse, HealthResponse, Round, RoundPhase, RoundsResponse};
pub use text::{Base64, Malformed, read, reason, write};
