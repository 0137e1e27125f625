//! The gRPC interface: the handlers of the REST interface behind protocol buffers.
//!
//! Proofs do not pass through the generated code. A proof of a round with a million members takes
//! 33 MB, so its gRPC frame is encoded once, and everyone who asks is sent from that buffer.

use std::sync::Arc;

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::post,
};
use http_body_util::{BodyExt as _, Full};
use jiff::{SignedDuration, Timestamp};
use poet_proto::{certificate::SignedCertificate, messages, pow::PowParams};
use prost::Message;
use tonic::{Code, Status, service::Routes};
use tonic_health::pb::health_server::{Health, HealthServer};

use self::proto::{
    InfoRequest, InfoResponse, PowParamsRequest, PowParamsResponse, ProofRequest,
    ReloadTrustedKeysRequest, ReloadTrustedKeysResponse, SubmitRequest, SubmitResponse,
    configuration_service_server::{ConfigurationService, ConfigurationServiceServer},
    info_response::Cerifier,
    poet_service_server::{PoetService, PoetServiceServer},
};
use super::{error::ApiError, poet::Poet, proof_frame::FRAME_PREFIX_BYTES, read_whole_body};

/// The messages and services of the interface.
#[expect(
    missing_docs,
    reason = "generated; the .proto file says what they mean"
)]
pub mod proto {
    tonic::include_proto!("rpc.api.v1");
}

/// The name of the service for nodes.
pub const POET_SERVICE: &str = "rpc.api.v1.PoetService";
/// The name of the service for operators.
pub const CONFIGURATION_SERVICE: &str = "rpc.api.v1.ConfigurationService";

/// The interface as reflection shows it.
const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
/// The longest message to reflection and health. A client may have many of those streams open, and
/// a message that is half there is kept.
const MAX_STREAM_MESSAGE_BYTES: usize = 4 * 1024;
/// The path of all methods that are not streams begins so.
const UNARY_PATHS: &str = "/rpc.api.v1.";
/// Those of the services that have streams, reflection and health, begin so.
const STREAM_PATHS: &str = "/grpc.";

/// The routes of the interface for nodes.
///
/// # Errors
/// When the description of the interface is damaged.
pub fn router(
    registration: Arc<Poet>,
    health: HealthServer<impl Health>,
    max_response_bytes: usize,
) -> Result<Router, tonic_reflection::server::Error> {
    let proofs = Proofs {
        registration: Arc::clone(&registration),
        max_response_bytes,
    };
    let service = PoetServiceServer::new(Handlers(registration))
        .max_encoding_message_size(max_response_bytes);
    let router = with_reflection(Routes::new(service), POET_SERVICE)?
        .add_service(health.max_decoding_message_size(MAX_STREAM_MESSAGE_BYTES))
        .into_axum_router()
        .route(
            "/rpc.api.v1.PoetService/Proof",
            post(proof).with_state(proofs),
        );
    Ok(finish(router))
}

/// The routes of the interface for operators, which are never public: over gRPC and, for those who
/// have only `curl`, over REST.
///
/// # Errors
/// When the description of the interface is damaged.
pub fn private_router(
    registration: Arc<Poet>,
    health: HealthServer<impl Health>,
) -> Result<Router, tonic_reflection::server::Error> {
    let service = ConfigurationServiceServer::new(Handlers(Arc::clone(&registration)));
    let router = with_reflection(Routes::new(service), CONFIGURATION_SERVICE)?
        .add_service(health.max_decoding_message_size(MAX_STREAM_MESSAGE_BYTES))
        .into_axum_router()
        .route(
            "/v1/reload_trusted_keys",
            post(reload_trusted_keys).with_state(registration),
        );
    Ok(finish(router))
}

/// What both interfaces have in common.
fn finish(router: Router) -> Router {
    router
        .fallback(unknown_path)
        .layer(middleware::from_fn(read_unary))
}

async fn unknown_path(headers: HeaderMap) -> Response {
    let grpc = headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    if grpc {
        Status::unimplemented("unknown method").into_http::<Body>()
    } else {
        ApiError::UnknownPath.into_response()
    }
}

fn with_reflection(
    routes: Routes,
    service: &str,
) -> Result<Routes, tonic_reflection::server::Error> {
    let builder = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .with_service_name(service)
            .with_service_name("grpc.health.v1.Health")
    };
    let v1 = builder().build_v1()?;
    let v1alpha = builder().build_v1alpha()?;
    Ok(routes
        .add_service(v1.max_decoding_message_size(MAX_STREAM_MESSAGE_BYTES))
        .add_service(v1alpha.max_decoding_message_size(MAX_STREAM_MESSAGE_BYTES)))
}

/// Whether a path may lead to a stream.
pub(super) fn is_stream(path: &str) -> bool {
    path.starts_with(STREAM_PATHS)
}

/// Holds requests to the limits that they have over REST. Reflection and health are streams, which
/// have no end to wait for; their messages are bounded one by one.
async fn read_unary(request: Request, next: Next) -> Response {
    if !request.uri().path().starts_with(UNARY_PATHS) {
        return next.run(request).await;
    }
    let response = match read_whole_body(request).await {
        Ok(request) => next.run(request).await,
        Err(error) => return Status::from(error).into_http::<Body>(),
    };
    // The library calls what it cannot decode an internal error. It is the client's, and no reason to
    // alarm anybody.
    match Status::from_header_map(response.headers()) {
        Some(status)
            if status.code() == Code::Internal
                && status.message() != ApiError::Internal.to_string() =>
        {
            Status::invalid_argument(status.message()).into_http::<Body>()
        }
        _ => response,
    }
}

struct Handlers(Arc<Poet>);

#[tonic::async_trait]
impl PoetService for Handlers {
    async fn pow_params(
        &self,
        _request: tonic::Request<PowParamsRequest>,
    ) -> Result<tonic::Response<PowParamsResponse>, Status> {
        let PowParams {
            difficulty,
            challenge,
        } = self.0.pow_params();
        Ok(tonic::Response::new(PowParamsResponse {
            pow_params: Some(proto::PowParams {
                difficulty,
                challenge,
            }),
        }))
    }

    async fn submit(
        &self,
        request: tonic::Request<SubmitRequest>,
    ) -> Result<tonic::Response<SubmitResponse>, Status> {
        let submitted = self.0.submit(request.into_inner().try_into()?).await;
        let submitted = submitted.map_err(ApiError::from)?;
        Ok(tonic::Response::new(SubmitResponse {
            round_id: submitted.round.to_string(),
            round_end: Some(duration(submitted.time_to_end)),
        }))
    }

    async fn info(
        &self,
        _request: tonic::Request<InfoRequest>,
    ) -> Result<tonic::Response<InfoResponse>, Status> {
        let info = self.0.info();
        Ok(tonic::Response::new(InfoResponse {
            service_pubkey: info.public_key.as_bytes().to_vec(),
            phase_shift: Some(duration(info.phase_shift)),
            cycle_gap: Some(duration(info.cycle_gap)),
            certifier: info.certifier.map(|certifier| Cerifier {
                url: certifier.url.clone(),
                pubkey: certifier.pubkey.as_bytes().to_vec(),
            }),
        }))
    }
}

#[tonic::async_trait]
impl ConfigurationService for Handlers {
    async fn reload_trusted_keys(
        &self,
        _request: tonic::Request<ReloadTrustedKeysRequest>,
    ) -> Result<tonic::Response<ReloadTrustedKeysResponse>, Status> {
        self.0.reload_trusted_keys().await?;
        Ok(tonic::Response::new(ReloadTrustedKeysResponse {}))
    }
}

async fn reload_trusted_keys(State(registration): State<Arc<Poet>>) -> Result<Response, ApiError> {
    registration.reload_trusted_keys().await?;
    Ok(([(header::CONTENT_TYPE, "application/json")], "{}").into_response())
}

#[derive(Clone)]
struct Proofs {
    registration: Arc<Poet>,
    max_response_bytes: usize,
}

/// `PoetService.Proof`, from the prepared frame.
async fn proof(State(proofs): State<Proofs>, body: Bytes) -> Response {
    let frame = async {
        let ProofRequest { round_id } = unary_message(&body)?;
        let frame = proofs.registration.proof(&round_id).await?.grpc;
        let (bytes, max) = (frame.len() - FRAME_PREFIX_BYTES, proofs.max_response_bytes);
        if bytes > max {
            return Err(ApiError::ResponseTooLarge { bytes, max });
        }
        Ok(frame)
    };
    match frame.await {
        Err(error) => Status::from(error).into_http::<Body>(),
        Ok(frame) => {
            let mut trailers = HeaderMap::new();
            trailers.insert(Status::GRPC_STATUS, HeaderValue::from_static("0"));
            let body = Full::new(frame).with_trailers(async { Some(Ok(trailers)) });
            let headers = [(header::CONTENT_TYPE, "application/grpc")];
            (headers, Body::new(body)).into_response()
        }
    }
}

/// The only message of a request's body.
///
/// # Errors
/// When there is none, more than one, or something else.
pub fn unary_message<M: Message + Default>(body: &[u8]) -> Result<M, ApiError> {
    let malformed = |reason: String| ApiError::Malformed(reason);
    let (&[compressed, length @ ..], message) = body
        .split_first_chunk::<FRAME_PREFIX_BYTES>()
        .ok_or_else(|| malformed("the request holds no message".to_owned()))?;
    if compressed != 0 {
        return Err(ApiError::Compressed);
    }
    if usize::try_from(u32::from_be_bytes(length)) != Ok(message.len()) {
        return Err(malformed(
            "expected one message of the announced length".to_owned(),
        ));
    }
    M::decode(message).map_err(|error| malformed(error.to_string()))
}

impl From<ApiError> for Status {
    fn from(error: ApiError) -> Self {
        Self::new(Code::from_i32(error.code() as i32), error.to_string())
    }
}

impl TryFrom<SubmitRequest> for messages::SubmitRequest {
    type Error = ApiError;

    fn try_from(request: SubmitRequest) -> Result<Self, ApiError> {
        let params = request.pow_params.unwrap_or_default();
        let deadline = request.deadline.map(|deadline| {
            Timestamp::new(deadline.seconds, deadline.nanos).map_err(|_| {
                ApiError::Malformed(
                    "invalid value for google.protobuf.Timestamp field deadline".to_owned(),
                )
            })
        });
        Ok(Self {
            nonce: request.nonce,
            pow_params: PowParams {
                difficulty: params.difficulty,
                challenge: params.challenge,
            },
            prefix: request.prefix,
            challenge: request.challenge,
            pubkey: request.pubkey,
            signature: request.signature,
            deadline: deadline.transpose()?,
            certificate: request.certificate.map(|certificate| SignedCertificate {
                data: certificate.data,
                signature: certificate.signature,
            }),
            certificate_pubkey_hint: request.certificate_pubkey_hint,
        })
    }
}

fn duration(duration: SignedDuration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: duration.as_secs(),
        nanos: duration.subsec_nanos(),
    }
}

#[cfg(test)]
mod tests {
    use poet_engine::Proof;
    use poet_proto::messages::PublishedProof;

    use super::*;
    use crate::api::proof_frame::proof_frame;

    #[test]
    fn a_proof_frame_is_the_encoded_message() {
        for members in [0_u8, 1, 200] {
            let published = PublishedProof {
                statement: vec![9; 32],
                members: (0..members).map(|i| [i; 32]).collect(),
                odd_members: (0..members / 100)
                    .map(|i| (7 * u32::from(i), vec![i; 200]))
                    .collect(),
                leaves: 1 << 40 | 5,
                proof: Proof {
                    root: [1; 32],
                    proven_leaves: vec![[2; 32]; 150],
                    proof_nodes: vec![[3; 32]; 300],
                },
            };
            let list = |entries: &[[u8; 32]]| entries.iter().map(|entry| entry.to_vec()).collect();
            let message = proto::ProofResponse {
                proof: Some(proto::PoetProof {
                    proof: Some(proto::MerkleProof {
                        root: vec![1; 32],
                        proven_leaves: list(&published.proof.proven_leaves),
                        proof_nodes: list(&published.proof.proof_nodes),
                    }),
                    members: published.registered_members().map(<[u8]>::to_vec).collect(),
                    leaves: published.leaves,
                }),
                pubkey: vec![4; 32],
            };
            let frame = proof_frame(&published, &[4; 32]);
            assert_eq!(frame[FRAME_PREFIX_BYTES..], message.encode_to_vec());
            // The prefix of an answer is that of a request.
            let again: proto::ProofResponse = unary_message(&frame).unwrap();
            assert_eq!(again, message);
        }
    }

    #[test]
    fn bodies_that_are_not_one_message_are_refused() {
        let parse = |body: &[u8]| unary_message::<ProofRequest>(body);
        assert_eq!(parse(&[0, 0, 0, 0, 0]).unwrap(), ProofRequest::default());
        assert_eq!(parse(&[1, 0, 0, 0, 0]), Err(ApiError::Compressed));
        for body in [
            &b""[..],
            &[0, 0, 0, 0],
            &[0, 0, 0, 0, 1],
            &[0, 0, 0, 0, 0, 0],
            &[0, 0xff, 0xff, 0xff, 0xff],
            &[0, 0, 0, 0, 2, 10, 9],
        ] {
            let error = parse(body).unwrap_err();
            assert!(matches!(error, ApiError::Malformed(_)), "{body:?}");
        }
    }
}
