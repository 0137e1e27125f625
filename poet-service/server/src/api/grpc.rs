//! The gRPC interface: the handlers of the REST interface behind protocol buffers.
//!
//! Proofs bypass the generated code. The proof of a round with a million members takes 33 MB, so
//! its gRPC frame is encoded once, and every response is sent from that buffer.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes, HttpBody},
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::post,
};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Frame, SizeHint};
use jiff::{SignedDuration, Timestamp};
use poet_proto::{
    certificate::SignedCertificate, messages, pow::PowParams, receipt::Receipt,
    timestamp::ProtoTimestamp,
};
use prost::Message;
use tokio::time::{Instant, Sleep, sleep};
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
    include!("generated/rpc.api.v1.rs");
}

/// The name of the service for nodes.
pub const POET_SERVICE: &str = "rpc.api.v1.PoetService";
/// The name of the service for operators.
pub const CONFIGURATION_SERVICE: &str = "rpc.api.v1.ConfigurationService";

/// The interface as reflection describes it.
const DESCRIPTORS: &[u8] = include_bytes!("generated/descriptors.bin");
/// The longest message to reflection and health. A client may have many of these streams open, and
/// incomplete messages are kept in memory.
const MAX_STREAM_MESSAGE_BYTES: usize = 4 * 1024;
/// How long such a message may take to arrive from its first byte on, and how long none may arrive.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(10);
const SILENCE_TIMEOUT: Duration = Duration::from_secs(60);
/// The prefixes of the methods that are streams: those of reflection, in both directions, and those
/// of health, to the client.
const REFLECTION_PATHS: &str = "/grpc.reflection.";
const WATCH_PATH: &str = "/grpc.health.v1.Health/Watch";

/// The routes of the interface for nodes.
///
/// # Errors
/// Fails if the description of the interface is damaged.
pub fn router(
    registration: Arc<Poet>,
    health: HealthServer<impl Health>,
    max_response_bytes: usize,
) -> Result<Router, tonic_reflection::server::Error> {
    let proofs = ProofCall {
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

/// The routes of the interface for operators, which are never public: over gRPC, over REST for
/// those who have only `curl`, and `others` over REST.
///
/// # Errors
/// Fails if the description of the interface is damaged.
pub fn private_router(
    registration: Arc<Poet>,
    health: HealthServer<impl Health>,
    others: Router,
) -> Result<Router, tonic_reflection::server::Error> {
    let service = ConfigurationServiceServer::new(Handlers(Arc::clone(&registration)));
    let router = with_reflection(Routes::new(service), CONFIGURATION_SERVICE)?
        .add_service(health.max_decoding_message_size(MAX_STREAM_MESSAGE_BYTES))
        .into_axum_router()
        .route(
            "/v1/reload_trusted_keys",
            post(reload_trusted_keys).with_state(registration),
        )
        .merge(others);
    Ok(finish(router))
}

/// What both interfaces have in common.
fn finish(router: Router) -> Router {
    router
        .fallback(unknown_path)
        .layer(middleware::from_fn(read_unary))
}

async fn unknown_path(headers: HeaderMap) -> Response {
    match is_grpc(&headers) {
        true => Status::unimplemented("unknown method").into_http::<Body>(),
        false => ApiError::UnknownPath.into_response(),
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

/// Returns whether a path leads to a stream.
pub(super) fn is_stream(path: &str) -> bool {
    path.starts_with(REFLECTION_PATHS) || path == WATCH_PATH
}

/// Formats an error as the client expects it.
pub(super) fn refuse(headers: &HeaderMap, error: ApiError) -> Response {
    match is_grpc(headers) {
        true => Status::from(error).into_http::<Body>(),
        false => error.into_response(),
    }
}

fn is_grpc(headers: &HeaderMap) -> bool {
    headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// The messages of a stream, each of which must arrive, and be complete, in time.
struct Messages {
    body: Body,
    /// What has arrived of the next message's prefix, and what is missing of the message after it.
    prefix: Vec<u8>,
    missing_bytes: usize,
    deadline: Pin<Box<Sleep>>,
}

impl Messages {
    fn limit(body: Body) -> Body {
        Body::new(Self {
            body,
            prefix: Vec::with_capacity(FRAME_PREFIX_BYTES),
            missing_bytes: 0,
            deadline: Box::pin(sleep(SILENCE_TIMEOUT)),
        })
    }

    fn is_incomplete(&self) -> bool {
        self.missing_bytes > 0 || !self.prefix.is_empty()
    }

    /// Skips the data that has arrived. Returns whether a message ended in it.
    fn advance(&mut self, mut data: &[u8]) -> bool {
        let mut ended = false;
        while !data.is_empty() {
            let skipped = self.missing_bytes.min(data.len());
            self.missing_bytes -= skipped;
            data = &data[skipped..];
            ended |= skipped > 0 && self.missing_bytes == 0;
            let of_prefix = (FRAME_PREFIX_BYTES - self.prefix.len()).min(data.len());
            self.prefix.extend(&data[..of_prefix]);
            data = &data[of_prefix..];
            if let Ok([_, length @ ..]) = <[u8; FRAME_PREFIX_BYTES]>::try_from(&*self.prefix) {
                self.prefix.clear();
                self.missing_bytes = usize::try_from(u32::from_be_bytes(length)).unwrap_or(0);
                ended |= self.missing_bytes == 0;
            }
        }
        ended
    }
}

impl HttpBody for Messages {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) else {
            ready!(self.deadline.as_mut().poll(context));
            let late = Status::deadline_exceeded("no complete message was received in time");
            return Poll::Ready(Some(Err(axum::Error::new(late))));
        };
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            let begun_before = self.is_incomplete();
            let ended = self.advance(data);
            let timeout = match self.is_incomplete() {
                false => Some(SILENCE_TIMEOUT),
                // A message has its time from its first byte on.
                true if ended || !begun_before => Some(MESSAGE_TIMEOUT),
                true => None,
            };
            if let Some(timeout) = timeout {
                self.deadline.as_mut().reset(Instant::now() + timeout);
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Applies the limits of REST to requests. Reflection is a stream in both directions, without an
/// end to wait for; each of its messages has its own limit.
async fn read_unary(request: Request, next: Next) -> Response {
    if request.uri().path().starts_with(REFLECTION_PATHS) {
        return next.run(request.map(Messages::limit)).await;
    }
    let response = match read_whole_body(request).await {
        Ok((parts, body)) => next.run(Request::from_parts(parts, body.into())).await,
        Err(error) => return Status::from(error).into_http::<Body>(),
    };
    // The library reports what it cannot decode as an internal error. It is the client's error, and
    // no reason for an alarm.
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
            receipt: Some(submitted.receipt.into()),
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
            certifier: info.certifier.and_then(|certifier| {
                Some(Cerifier {
                    url: certifier.url.clone(),
                    pubkey: certifier.pubkey.as_ref()?.as_bytes().to_vec(),
                })
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
struct ProofCall {
    registration: Arc<Poet>,
    max_response_bytes: usize,
}

/// `PoetService.Proof`, sent from the prepared frame.
async fn proof(State(proofs): State<ProofCall>, body: Bytes) -> Response {
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

/// Returns the only message in a request's body.
///
/// # Errors
/// Fails if there is no message, more than one, or something else.
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
            ProtoTimestamp::new(deadline.seconds, deadline.nanos).ok_or_else(|| {
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
            deadline: deadline.transpose()?.and_then(ProtoTimestamp::deadline),
            certificate: request.certificate.map(|certificate| SignedCertificate {
                data: certificate.data,
                signature: certificate.signature,
            }),
            certificate_pubkey_hint: request.certificate_pubkey_hint,
        })
    }
}

impl From<Receipt> for proto::Receipt {
    fn from(receipt: Receipt) -> Self {
        let acknowledged = receipt.acknowledged();
        let timestamp = |time: Timestamp| prost_types::Timestamp {
            seconds: time.as_second(),
            nanos: time.subsec_nanosecond(),
        };
        Self {
            round_id: acknowledged.round.to_string(),
            node_id: acknowledged.node_id.0.to_vec(),
            challenge: acknowledged.challenge.0.to_vec(),
            time: Some(timestamp(acknowledged.time)),
            round_end: Some(timestamp(acknowledged.round_end)),
            service_pubkey: receipt.server().as_bytes().to_vec(),
            signature: receipt.signature().to_vec(),
            index: receipt.index(),
            path: receipt.path().iter().map(|node| node.to_vec()).collect(),
        }
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
    use poet_proto::member::Challenge;

    use crate::api::proof_frame::proof_frame;

    #[test]
    fn a_proof_frame_is_the_encoded_message() {
        for members in [0_u8, 1, 200] {
            let published = PublishedProof {
                statement: vec![9; 32],
                members: (0..members).map(|i| Challenge([i; 32])).collect(),
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
            // A response has the same prefix as a request.
            let again: proto::ProofResponse = unary_message(&frame).unwrap();
            assert_eq!(again, message);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn messages_of_a_stream_must_be_complete_in_time() {
        /// What arrives on a stream: after this many seconds, these bytes.
        async fn ends_after(parts: &'static [(u64, &'static [u8])]) -> u64 {
            let (sender, received) = tokio::sync::mpsc::channel(1);
            let frames = tonic::codegen::tokio_stream::wrappers::ReceiverStream::new(received);
            let mut body = Messages::limit(Body::from_stream(frames));
            let begin = Instant::now();
            tokio::spawn(async move {
                for (seconds, bytes) in parts {
                    sleep(Duration::from_secs(*seconds)).await;
                    drop(
                        sender
                            .send(Ok::<_, std::io::Error>(Bytes::from_static(bytes)))
                            .await,
                    );
                }
                sleep(Duration::from_secs(10_000)).await;
            });
            while let Some(Ok(_)) = body.frame().await {}
            begin.elapsed().as_secs()
        }
        assert_eq!(ends_after(&[]).await, 60);
        let twice: &[(u64, &[u8])] = &[(50, &[0, 0, 0, 0, 2, 1, 2]), (50, &[0, 0, 0, 0, 2, 1, 2])];
        assert_eq!(ends_after(twice).await, 160);
        // A message that begins and never completes; dripping does not help.
        assert_eq!(ends_after(&[(50, &[0, 0])]).await, 60);
        let dripping: &[(u64, &[u8])] = &[(0, &[0, 0, 0, 0, 9]), (6, &[1]), (3, &[1]), (3, &[1])];
        assert_eq!(ends_after(dripping).await, 10);
        // Two messages in one part, the second one incomplete.
        let two: &[(u64, &[u8])] = &[(5, &[0, 0, 0, 0, 1, 7, 0, 0, 0])];
        assert_eq!(ends_after(two).await, 15);
        let both: &[(u64, &[u8])] = &[(5, &[0, 0, 0, 0, 1, 7, 0, 0, 0]), (9, &[0, 0])];
        assert_eq!(ends_after(both).await, 74);
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
