//! The error type of the API: every failed request has a gRPC code, an HTTP status and a message
//! for the client.

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};

use poet_proto::json::{self, Malformed};
use poet_rounds::{registration::RegistrationError, worker::RehearsalError};
use serde::Serialize;

/// The gRPC status codes that the server uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "names and numbers are gRPC's")]
pub enum Code {
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    AlreadyExists = 6,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    OutOfRange = 11,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    Unauthenticated = 16,
}

/// Why a request failed. The texts are part of the API. Internal causes are logged where they occur
/// and never appear here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum ApiError {
    #[error("{0}")]
    Malformed(String),
    #[error(transparent)]
    Registration(#[from] RegistrationError),
    #[error("proof not found")]
    ProofNotFound,
    #[error("round not found")]
    RoundNotFound,
    #[error("the round still takes registrations")]
    RoundOpen,
    #[error("not a member of the round")]
    NotAMember,
    #[error(
        "the registrations of the round are no longer kept: its challenges, in the same order, are in \
         its proof"
    )]
    RegistrationsGone,
    #[error("the range begins after the end of the proof, which has {bytes} bytes")]
    Range { bytes: usize },
    #[error("Not Found")]
    UnknownPath,
    #[error("Method Not Allowed")]
    Method,
    #[error("request body larger than {0} bytes")]
    BodyTooLarge(usize),
    #[error("request body not received in time")]
    BodyTimeout,
    #[error("request body cut off")]
    BodyIncomplete,
    #[error("compressed requests are not supported")]
    Compressed,
    #[error("the request's body is compressed: expected it as it is, without Content-Encoding")]
    ContentEncoding,
    #[error("expected one Host header with a valid host")]
    Host,
    /// Only on the private listener.
    #[error(
        "this host is not served: expected localhost, the address that the server listens on, or the \
         name that --config-rpclisten gives"
    )]
    ForeignHost,
    /// Only on the private listener.
    #[error("requests from web pages are not served")]
    ForeignOrigin,
    #[error("too many requests from your address are incomplete, try again later")]
    OverBudget,
    #[error("more than {0} streams are open on this connection")]
    TooManyStreams(usize),
    // The original server's text.
    #[error("trying to send message larger than max ({bytes} vs. {max})")]
    ResponseTooLarge { bytes: usize, max: usize },
    /// Only on the private listener.
    #[error("the trusted keys are unchanged: {0}")]
    TrustedKeys(String),
    /// Only on the private listener.
    #[error(transparent)]
    Rehearsal(#[from] RehearsalError),
    #[error("too many requests, try again in {retry_after_seconds} s")]
    TooManyRequests { retry_after_seconds: u64 },
    #[error("busy, try again in {retry_after_seconds} s")]
    Busy { retry_after_seconds: u64 },
    #[error("temporarily unavailable, try again later")]
    Unavailable,
    #[error("internal error")]
    Internal,
}

impl ApiError {
    /// The gRPC code.
    pub fn code(&self) -> Code {
        match self {
            Self::Registration(error) => registration_code(error),
            Self::Malformed(_) | Self::BodyIncomplete | Self::ContentEncoding | Self::Host => {
                Code::InvalidArgument
            }
            Self::ForeignHost | Self::ForeignOrigin => Code::PermissionDenied,
            Self::Rehearsal(RehearsalError::Failed(_)) => Code::Internal,
            Self::RoundOpen | Self::TrustedKeys(_) | Self::Rehearsal(_) => Code::FailedPrecondition,
            Self::BodyTooLarge(_)
            | Self::OverBudget
            | Self::TooManyStreams(_)
            | Self::ResponseTooLarge { .. }
            | Self::TooManyRequests { .. } => Code::ResourceExhausted,
            Self::ProofNotFound
            | Self::RoundNotFound
            | Self::NotAMember
            | Self::RegistrationsGone
            | Self::UnknownPath => Code::NotFound,
            Self::Range { .. } => Code::OutOfRange,
            Self::Method | Self::Compressed => Code::Unimplemented,
            Self::BodyTimeout => Code::DeadlineExceeded,
            Self::Busy { .. } | Self::Unavailable => Code::Unavailable,
            Self::Internal => Code::Internal,
        }
    }

    /// The HTTP status: that of the code, unless HTTP has a better one.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::BodyTooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::ContentEncoding => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::RegistrationsGone => StatusCode::GONE,
            _ => match self.code() {
                Code::InvalidArgument | Code::FailedPrecondition => StatusCode::BAD_REQUEST,
                Code::Unauthenticated => StatusCode::UNAUTHORIZED,
                Code::PermissionDenied => StatusCode::FORBIDDEN,
                Code::NotFound => StatusCode::NOT_FOUND,
                Code::AlreadyExists => StatusCode::CONFLICT,
                Code::OutOfRange => StatusCode::RANGE_NOT_SATISFIABLE,
                Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
                Code::Internal => StatusCode::INTERNAL_SERVER_ERROR,
                Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
                Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
                Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
            },
        }
    }

    fn json(&self) -> String {
        json::write(&ErrorMessage {
            code: self.code() as i32,
            message: self.to_string(),
            details: [],
        })
    }
}

fn registration_code(error: &RegistrationError) -> Code {
    match error {
        RegistrationError::PublicKey
        | RegistrationError::Signature
        | RegistrationError::ChallengeLength(_)
        | RegistrationError::CertificateHint
        | RegistrationError::PowParams
        | RegistrationError::Pow => Code::InvalidArgument,
        RegistrationError::Certificate(_) => Code::Unauthenticated,
        RegistrationError::PowOff | RegistrationError::TooLate => Code::FailedPrecondition,
        RegistrationError::RoundFull => Code::ResourceExhausted,
        RegistrationError::Conflict => Code::AlreadyExists,
        RegistrationError::Unavailable => Code::Unavailable,
    }
}

impl From<Malformed> for ApiError {
    fn from(Malformed(message): Malformed) -> Self {
        Self::Malformed(message)
    }
}

#[derive(Serialize)]
struct ErrorMessage {
    code: i32,
    message: String,
    details: [(); 0],
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let headers = [
            (header::CONTENT_TYPE, "application/json"),
            // The proof may be published later.
            (header::CACHE_CONTROL, "no-store"),
        ];
        let mut response = (self.status(), headers, self.json()).into_response();
        if let Self::TooManyRequests {
            retry_after_seconds,
        }
        | Self::Busy {
            retry_after_seconds,
        } = self
        {
            let seconds = HeaderValue::from(retry_after_seconds);
            response.headers_mut().insert(header::RETRY_AFTER, seconds);
        }
        if let Self::Range { bytes } = self
            && let Ok(range) = HeaderValue::from_str(&format!("bytes */{bytes}"))
        {
            response.headers_mut().insert(header::CONTENT_RANGE, range);
        }
        // For the metrics.
        response.extensions_mut().insert(self.code());
        response
    }
}
