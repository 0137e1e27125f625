//! The gRPC interface, used by a client that knows only what reflection describes.
#![allow(clippy::unwrap_used)]

mod common;

use std::{fs, net::SocketAddr, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use common::{LocalServer, TestNode, config, members_of, verify_json};
use poet_proto::{
    certificate::{Certifier, TrustedKeys, parse_public_key},
    member::NodeId,
    receipt::Receipt,
};
use poet_service::config::Config;
use prost_reflect::{
    DescriptorPool, DynamicMessage, MethodDescriptor, SerializeOptions, Value as Reflected,
    prost::{Message as _, bytes::Buf as _},
    prost_types::FileDescriptorProto,
};
use serde_json::{Value, json};
use tonic::{
    Code, Request, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    codegen::{http::uri::PathAndQuery, tokio_stream},
    transport::{Channel, Endpoint},
};
use tonic_reflection::pb::{v1, v1alpha};

const POET: &str = "rpc.api.v1.PoetService";
const CONFIGURATION: &str = "rpc.api.v1.ConfigurationService";
const HEALTH: &str = "grpc.health.v1.Health";

/// Messages whose types are known only at run time.
#[derive(Clone)]
struct DynamicCodec(MethodDescriptor);

impl Codec for DynamicCodec {
    type Encode = DynamicMessage;
    type Decode = DynamicMessage;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        self.clone()
    }

    fn decoder(&mut self) -> Self {
        self.clone()
    }
}

impl Encoder for DynamicCodec {
    type Item = DynamicMessage;
    type Error = Status;

    fn encode(
        &mut self,
        message: DynamicMessage,
        buffer: &mut EncodeBuf<'_>,
    ) -> Result<(), Status> {
        message
            .encode(buffer)
            .map_err(|error| Status::internal(error.to_string()))
    }
}

impl Decoder for DynamicCodec {
    type Item = DynamicMessage;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<DynamicMessage>, Status> {
        let bytes = buffer.copy_to_bytes(buffer.remaining());
        DynamicMessage::decode(self.0.output(), bytes)
            .map(Some)
            .map_err(|error| Status::internal(error.to_string()))
    }
}

/// A client of one listener, and what reflection described to it.
struct Client {
    runtime: tokio::runtime::Runtime,
    channel: Channel,
    services: Vec<String>,
    pool: DescriptorPool,
}

impl Client {
    fn new(address: SocketAddr) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let (channel, services, files) = runtime.block_on(async {
            let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
            let channel = endpoint
                .timeout(Duration::from_secs(60))
                .connect()
                .await
                .unwrap();
            let (services, files) = reflect(channel.clone()).await;
            (channel, services, files)
        });
        let mut pool = DescriptorPool::new();
        pool.add_file_descriptor_protos(files).unwrap();
        Self {
            runtime,
            channel,
            services,
            pool,
        }
    }

    /// Calls a method with a request in the JSON mapping, and returns the response in it.
    fn call(&self, service: &str, method: &str, request: &Value) -> Result<Value, Status> {
        let method = self.method(service, method);
        let message = DynamicMessage::deserialize(method.input(), request).unwrap();
        self.send(method, message)
    }

    fn method(&self, service: &str, method: &str) -> MethodDescriptor {
        let service = self.pool.get_service_by_name(service).unwrap();
        service.methods().find(|m| m.name() == method).unwrap()
    }

    fn send(&self, method: MethodDescriptor, message: DynamicMessage) -> Result<Value, Status> {
        let service = method.parent_service().full_name().to_owned();
        let path = format!("/{service}/{}", method.name());
        let answer = self.runtime.block_on(async {
            let mut client = Grpc::new(self.channel.clone()).max_decoding_message_size(usize::MAX);
            client.ready().await.unwrap();
            let path = PathAndQuery::try_from(path).unwrap();
            client
                .unary(Request::new(message), path, DynamicCodec(method))
                .await
        })?;
        let options = SerializeOptions::new().skip_default_fields(false);
        Ok(answer
            .into_inner()
            .serialize_with_options(serde_json::value::Serializer, &options)
            .unwrap())
    }

    fn poet(&self, method: &str, request: &Value) -> Result<Value, Status> {
        self.call(POET, method, request)
    }

    #[track_caller]
    fn submit_fails(&self, request: &Value, code: Code, message: &str) {
        let status = self.poet("Submit", request).unwrap_err();
        assert_eq!((status.code(), status.message()), (code, message));
    }

    fn health(&self, service: &str) -> Result<Value, Code> {
        self.call(HEALTH, "Check", &json!({"service": service}))
            .map(|answer| answer["status"].clone())
            .map_err(|status| status.code())
    }
}

/// Returns the services of a listener and the files that describe them.
async fn reflect(channel: Channel) -> (Vec<String>, Vec<FileDescriptorProto>) {
    use v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };
    let mut client = ServerReflectionClient::new(channel);
    let mut ask = async |request| {
        let request = ServerReflectionRequest {
            host: String::new(),
            message_request: Some(request),
        };
        let stream = tokio_stream::once(request);
        let mut answers = client.server_reflection_info(stream).await.unwrap();
        let answer = answers.get_mut().message().await.unwrap().unwrap();
        answer.message_response.unwrap()
    };
    let MessageResponse::ListServicesResponse(list) =
        ask(MessageRequest::ListServices(String::new())).await
    else {
        panic!("no list of services");
    };
    let services: Vec<_> = list
        .service
        .into_iter()
        .map(|service| service.name)
        .collect();
    let mut files: Vec<FileDescriptorProto> = Vec::new();
    let mut wanted = Vec::new();
    for service in &services {
        wanted.push(MessageRequest::FileContainingSymbol(service.clone()));
    }
    while let Some(request) = wanted.pop() {
        let MessageResponse::FileDescriptorResponse(answer) = ask(request).await else {
            panic!("no description");
        };
        for bytes in answer.file_descriptor_proto {
            let file = FileDescriptorProto::decode(&*bytes).unwrap();
            if files.iter().all(|known| known.name != file.name) {
                wanted.extend(
                    file.dependency
                        .iter()
                        .cloned()
                        .map(MessageRequest::FileByFilename),
                );
                files.push(file);
            }
        }
    }
    (services, files)
}

fn server() -> (LocalServer, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    (LocalServer::start(config(folder.path()), 10), folder)
}

#[test]
fn the_messages_are_those_that_clients_know() {
    let (server, _folder) = server();
    let client = Client::new(server.addresses.grpc);
    assert!(client.services.iter().any(|name| name == POET));
    assert!(client.services.iter().any(|name| name == HEALTH));
    let service = client.pool.get_service_by_name(POET).unwrap();
    let methods: Vec<_> = service.methods().map(|m| m.name().to_owned()).collect();
    assert_eq!(methods, ["PowParams", "Submit", "Info", "Proof"]);
    let fields = |message: &str| -> Vec<String> {
        let message = client
            .pool
            .get_message_by_name(&format!("rpc.api.v1.{message}"))
            .unwrap();
        message
            .fields()
            .map(|field| {
                let list = if field.is_list() { "repeated " } else { "" };
                let kind = format!("{:?}", field.kind());
                format!("{list}{kind} {} {}", field.name(), field.number())
            })
            .collect()
    };
    for (message, expected) in [
        (
            "PowParams",
            &["uint32 difficulty 1", "bytes challenge 2"][..],
        ),
        ("PowParamsRequest", &[]),
        ("PowParamsResponse", &["rpc.api.v1.PowParams pow_params 1"]),
        (
            "SubmitRequest",
            &[
                "uint64 nonce 1",
                "rpc.api.v1.PowParams pow_params 2",
                "bytes prefix 3",
                "bytes challenge 4",
                "bytes pubkey 5",
                "bytes signature 6",
                "google.protobuf.Timestamp deadline 7",
                "rpc.api.v1.SubmitRequest.Certificate certificate 8",
                "bytes certificate_pubkey_hint 9",
            ],
        ),
        (
            "SubmitRequest.Certificate",
            &["bytes data 1", "bytes signature 2"],
        ),
        (
            "SubmitResponse",
            &[
                "string round_id 1",
                "google.protobuf.Duration round_end 3",
                "rpc.api.v1.Receipt receipt 100",
            ],
        ),
        (
            "Receipt",
            &[
                "string round_id 1",
                "bytes node_id 2",
                "bytes challenge 3",
                "google.protobuf.Timestamp time 4",
                "google.protobuf.Timestamp round_end 5",
                "bytes service_pubkey 6",
                "bytes signature 7",
                "uint64 index 8",
                "repeated bytes path 9",
            ],
        ),
        ("InfoRequest", &[]),
        (
            "InfoResponse",
            &[
                "bytes service_pubkey 3",
                "google.protobuf.Duration phase_shift 4",
                "google.protobuf.Duration cycle_gap 5",
                "rpc.api.v1.InfoResponse.Cerifier certifier 6",
            ],
        ),
        ("InfoResponse.Cerifier", &["string url 1", "bytes pubkey 2"]),
        ("ProofRequest", &["string round_id 1"]),
        (
            "ProofResponse",
            &["rpc.api.v1.PoetProof proof 1", "bytes pubkey 2"],
        ),
        (
            "PoetProof",
            &[
                "rpc.api.v1.MerkleProof proof 1",
                "repeated bytes members 2",
                "uint64 leaves 3",
            ],
        ),
        (
            "MerkleProof",
            &[
                "bytes root 1",
                "repeated bytes proven_leaves 2",
                "repeated bytes proof_nodes 3",
            ],
        ),
        (
            "MembershipProof",
            &["int32 index 1", "bytes root 2", "repeated bytes proof 3"],
        ),
    ] {
        assert_eq!(fields(message), expected, "{message}");
    }
}

#[test]
fn both_versions_of_reflection_answer_on_both_listeners() {
    let (server, _folder) = server();
    for (address, own, other) in [
        (server.addresses.grpc, POET, CONFIGURATION),
        (server.addresses.private, CONFIGURATION, POET),
    ] {
        let client = Client::new(address);
        let mut services = client.services.clone();
        services.sort();
        let old = client.runtime.block_on(async {
            let mut client = v1alpha::server_reflection_client::ServerReflectionClient::new(
                client.channel.clone(),
            );
            let request = v1alpha::ServerReflectionRequest {
                host: String::new(),
                message_request: Some(
                    v1alpha::server_reflection_request::MessageRequest::ListServices(String::new()),
                ),
            };
            let mut answers = client
                .server_reflection_info(tokio_stream::once(request))
                .await
                .unwrap();
            let answer = answers.get_mut().message().await.unwrap().unwrap();
            match answer.message_response.unwrap() {
                v1alpha::server_reflection_response::MessageResponse::ListServicesResponse(
                    list,
                ) => list
                    .service
                    .into_iter()
                    .map(|service| service.name)
                    .collect::<Vec<_>>(),
                answer => panic!("{answer:?}"),
            }
        });
        for services in [services, old] {
            assert!(services.iter().any(|name| name == own), "{services:?}");
            assert!(services.iter().all(|name| name != other), "{services:?}");
        }
    }
}

#[test]
fn every_method_answers_as_over_rest() {
    let (server, _folder) = server();
    let client = Client::new(server.addresses.grpc);
    let params = client.poet("PowParams", &json!({})).unwrap();
    assert_eq!(params, server.client.get("/v1/pow_params").json());
    let info = client.poet("Info", &json!({})).unwrap();
    // A missing message is `null` over REST and absent here.
    let mut over_rest = server.client.get("/v1/info").json();
    let certifier = over_rest.as_object_mut().unwrap().remove("certifier");
    assert_eq!(certifier, Some(json!(null)));
    assert_eq!(info, over_rest);

    let node = TestNode::new(1);
    let mut request = node.request(&server.client.pow_params());
    request["deadline"] = json!("2026-01-01T00:01:20Z");
    let submitted = client.poet("Submit", &request).unwrap();
    assert_eq!(submitted["roundId"], "0");
    assert_eq!(submitted["roundEnd"], "70s");
    Receipt::from_json(&submitted["receipt"]).unwrap();
    // The same registration again, this time over REST.
    assert_eq!(server.client.submit(&request).json(), submitted);

    server.at(30);
    server.await_work(0);
    server.at(80);
    let over_rest = server.client.await_proof(0).json();
    let proof = client.poet("Proof", &json!({"roundId": "0"})).unwrap();
    assert_eq!(proof, over_rest);
    assert_eq!(verify_json(&proof).members, members_of(&[node]));
}

#[test]
fn every_error_has_its_code_and_message() {
    let (server, _folder) = server();
    let client = Client::new(server.addresses.grpc);
    let params = server.client.pow_params();
    let node = TestNode::new(1);
    let valid = node.request(&params);
    let with = |changes: &[(&str, Value)]| {
        let mut request = valid.clone();
        for (field, value) in changes {
            request[*field] = value.clone();
        }
        request
    };
    let fails = |changes: &[(&str, Value)], code, message| {
        client.submit_fails(&with(changes), code, message);
    };
    let invalid = Code::InvalidArgument;
    fails(&[("pubkey", json!("AAAA"))], invalid, "invalid public key");
    fails(&[("signature", json!(""))], invalid, "invalid signature");
    let hint = ("certificatePubkeyHint", json!("AAAA"));
    fails(&[hint], invalid, "invalid certificate public key hint");
    let message = "invalid proof of work parameters";
    fails(&[("powParams", json!(null))], invalid, message);
    let nonce = (0..)
        .find(|nonce| {
            !poet_proto::pow::is_valid(&params, NodeId(node.id()), &node.challenge, *nonce)
        })
        .unwrap();
    let message = "invalid proof of work: invalid leading zero bits";
    fails(&[("nonce", json!(nonce.to_string()))], invalid, message);
    fails(
        &[("deadline", json!("2026-01-01T00:01:19Z"))],
        Code::FailedPrecondition,
        "too late to register for the desired round",
    );
    client.submit_fails(
        &node.request_for(&params, &[1; 31]),
        invalid,
        "invalid challenge length: 31, expected 32",
    );
    client.poet("Submit", &valid).unwrap();
    client.submit_fails(
        &node.with_challenge([9; 32]).request(&params),
        Code::AlreadyExists,
        "conflicting registration",
    );
    for id in ["0", "1", "", "pow_challenge", "+0", "00"] {
        let status = client.poet("Proof", &json!({"roundId": id})).unwrap_err();
        assert_eq!(status.code(), Code::NotFound, "{id}");
        assert_eq!(status.message(), "proof not found", "{id}");
    }
    // The limit of the body is that of REST.
    let long = with(&[("prefix", json!(STANDARD.encode(vec![0; 65_536])))]);
    client.submit_fails(
        &long,
        Code::ResourceExhausted,
        "request body larger than 65536 bytes",
    );
}

#[test]
fn deadlines_are_those_of_rest() {
    let (server, _folder) = server();
    let client = Client::new(server.addresses.grpc);
    let mut request = TestNode::new(1).request(&server.client.pow_params());
    for deadline in ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999999Z"] {
        request["deadline"] = json!(deadline);
        client.poet("Submit", &request).unwrap();
        assert_eq!(server.client.submit(&request).status, 200, "{deadline}");
    }
    // What JSON cannot represent is refused here, too.
    let submit = client.method(POET, "Submit");
    let valid = DynamicMessage::deserialize(submit.input(), &request).unwrap();
    for (seconds, nanos) in [
        (-62_135_596_801, 0),
        (253_402_300_800, 0),
        (i64::MAX, 0),
        (0, -1),
        (0, 1_000_000_000),
    ] {
        let mut request = valid.clone();
        let deadline = request.get_field_by_name_mut("deadline").unwrap();
        let deadline = deadline.as_message_mut().unwrap();
        deadline.set_field_by_name("seconds", Reflected::I64(seconds));
        deadline.set_field_by_name("nanos", Reflected::I32(nanos));
        let status = client.send(submit.clone(), request).unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{seconds} {nanos}");
        let message = "invalid value for google.protobuf.Timestamp field deadline";
        assert_eq!(status.message(), message);
    }
}

#[test]
fn what_is_no_message_is_the_clients_error() {
    let (server, _folder) = server();
    let client = Client::new(server.addresses.grpc);
    // Another message, in which the same fields have other types.
    let other = client.pool.get_message_by_name("rpc.api.v1.PoetProof");
    let message = DynamicMessage::deserialize(other.unwrap(), json!({"leaves": "5"})).unwrap();
    let service = client.pool.get_service_by_name(POET).unwrap();
    for (method, expected) in [
        ("Submit", Code::InvalidArgument),
        // Unknown fields are ignored.
        ("Proof", Code::NotFound),
        ("Info", Code::Ok),
    ] {
        let descriptor = service.methods().find(|m| m.name() == method).unwrap();
        let path = PathAndQuery::try_from(format!("/{POET}/{method}")).unwrap();
        let answer = client.runtime.block_on(async {
            let mut grpc = Grpc::new(client.channel.clone());
            grpc.ready().await.unwrap();
            let request = Request::new(message.clone());
            grpc.unary(request, path, DynamicCodec(descriptor)).await
        });
        let code = answer.map_or_else(|status| status.code(), |_| Code::Ok);
        assert_eq!(code, expected, "{method}");
    }
}

#[test]
fn a_full_round_and_a_stuck_database() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path());
    config.rounds.rules.max_round_members = 1;
    let server = LocalServer::start(config, 10);
    let client = Client::new(server.addresses.grpc);
    let params = server.client.pow_params();
    let database = folder.path().join("db/poet.sqlite");
    let other = rusqlite::Connection::open(database).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let request = TestNode::new(1).request(&params);
    let message = "temporarily unavailable, try again later";
    client.submit_fails(&request, Code::Unavailable, message);
    other.execute_batch("ROLLBACK").unwrap();
    client.poet("Submit", &request).unwrap();
    let message = "maximum number of round members reached";
    let request = TestNode::new(2).request(&params);
    client.submit_fails(&request, Code::ResourceExhausted, message);
}

const CERTIFIER_KEY: &str = "V2j2EMp26MjC55ZVa9p/PpRBIgoM94JlHVSDR1LN+Ys=";

fn with_certifier(folder: &std::path::Path) -> Config {
    let keys = folder.join("keys");
    fs::create_dir(&keys).unwrap();
    let mut config = config(folder);
    config.rounds.rules.certifier = Some(Certifier {
        url: "http://certifier.example".to_owned(),
        pubkey: Some(parse_public_key(CERTIFIER_KEY).unwrap()),
        trusted: TrustedKeys::read(keys).unwrap(),
    });
    config
}

#[test]
fn certificates_are_checked_and_trusted_keys_reloaded() {
    let folder = tempfile::tempdir().unwrap();
    let server = LocalServer::start(with_certifier(folder.path()), 10);
    let client = Client::new(server.addresses.grpc);
    let info = client.poet("Info", &json!({})).unwrap();
    let certifier = json!({"url": "http://certifier.example", "pubkey": CERTIFIER_KEY});
    assert_eq!(info["certifier"], certifier);

    let node = TestNode::new(1);
    let mut request = node.request(&server.client.pow_params());
    request["certificate"] = json!({"data": "anVuaw==", "signature": "AAAA"});
    let message = "invalid certificate\nsignature mismatch";
    client.submit_fails(&request, Code::Unauthenticated, message);

    // A second certifier, whose key is not known yet.
    let (data, signature, key) = node.certificate(7);
    request["powParams"] = json!(null);
    request["certificate"] =
        json!({"data": STANDARD.encode(data), "signature": STANDARD.encode(signature)});
    request["certificatePubkeyHint"] = json!(STANDARD.encode(&key[..4]));
    let message = "invalid certificate\nno matching cert public keys";
    client.submit_fails(&request, Code::Unauthenticated, message);

    // With a bad file next to the good one nothing changes, and the error names the file.
    let keys = folder.path().join("keys");
    fs::write(keys.join("a.key"), STANDARD.encode(key)).unwrap();
    fs::write(keys.join("b.key"), "nonsense").unwrap();
    let operator = Client::new(server.addresses.private);
    let reload = || operator.call(CONFIGURATION, "ReloadTrustedKeys", &json!({}));
    let status = reload().unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("b.key"), "{status}");
    client.submit_fails(&request, Code::Unauthenticated, message);

    fs::remove_file(keys.join("b.key")).unwrap();
    assert_eq!(reload().unwrap(), json!({}));
    let submitted = client.poet("Submit", &request).unwrap();
    assert_eq!(submitted["roundId"], "0");
}

#[test]
fn only_the_private_listener_reloads_keys() {
    let folder = tempfile::tempdir().unwrap();
    let server = LocalServer::start(with_certifier(folder.path()), 10);
    let reload = "/v1/reload_trusted_keys";
    server
        .client
        .post(reload, "{}")
        .assert_error(404, 5, "Not Found");
    let private = common::Client::new(&format!("http://{}", server.addresses.private));
    assert_eq!(private.post(reload, "{}").json(), json!({}));
    // The public gRPC listener does not offer it, either.
    let client = Client::new(server.addresses.grpc);
    assert!(client.services.iter().all(|name| name != CONFIGURATION));
    let operator = Client::new(server.addresses.private);
    let misdirected = Client {
        pool: operator.pool.clone(),
        ..client
    };
    let status = misdirected
        .call(CONFIGURATION, "ReloadTrustedKeys", &json!({}))
        .unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);

    // Without a directory there is nothing to read.
    let (server, _folder) = self::server();
    let private = common::Client::new(&format!("http://{}", server.addresses.private));
    let answer = private.post(reload, "");
    let message = "the trusted keys are unchanged: no directory is configured: \
                   expected --trusted-pub-keys-dir-path";
    answer.assert_error(400, 9, message);
}

#[test]
fn web_pages_do_not_reach_the_private_listener() {
    use std::io::{Read as _, Write as _};
    let folder = tempfile::tempdir().unwrap();
    let server = LocalServer::start(with_certifier(folder.path()), 10);
    let address = server.addresses.private;
    let reload = |headers: &str| {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        let head = format!(
            "POST /v1/reload_trusted_keys HTTP/1.1\r\n{headers}connection: close\r\n\
             content-length: 0\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let port = address.port();
    for headers in [
        format!("host: {address}\r\n"),
        "host: localhost\r\n".to_owned(),
        // A forwarded port.
        "host: localhost:6000\r\n".to_owned(),
        format!("host: localhost:{port}\r\norigin: http://localhost:{port}\r\n"),
    ] {
        let answer = reload(&headers);
        assert!(answer.starts_with("HTTP/1.1 200 "), "{headers}: {answer}");
    }
    for (headers, message) in [
        // A name that resolves to this address, as with DNS rebinding.
        (
            format!("host: evil.example:{port}\r\n"),
            "this host is not served",
        ),
        ("host: 192.0.2.1\r\n".to_owned(), "this host is not served"),
        (
            format!("host: {address}\r\norigin: http://evil.example\r\n"),
            "requests from web pages",
        ),
        (
            format!("host: localhost:{port}\r\norigin: http://localhost:3000\r\n"),
            "requests from web pages",
        ),
        (
            format!("host: {address}\r\norigin: null\r\n"),
            "requests from web pages",
        ),
    ] {
        let answer = reload(&headers);
        assert!(answer.starts_with("HTTP/1.1 403 "), "{headers}: {answer}");
        assert!(
            answer.contains("\"code\":7") && answer.contains(message),
            "{answer}"
        );
    }
    // Over gRPC, where the authority is the name.
    let operator = Client::new(address);
    let call = |name: &str| {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
        let endpoint = endpoint.origin(format!("http://{name}").parse().unwrap());
        let channel = operator.runtime.block_on(endpoint.connect()).unwrap();
        let service = operator.pool.get_service_by_name(CONFIGURATION).unwrap();
        let method = service.methods().next().unwrap();
        let request = Request::new(DynamicMessage::new(method.input()));
        let path = PathAndQuery::try_from(format!("/{CONFIGURATION}/{}", method.name())).unwrap();
        let answer = operator.runtime.block_on(async {
            let mut grpc = Grpc::new(channel);
            grpc.ready().await.unwrap();
            grpc.unary(request, path, DynamicCodec(method)).await
        });
        answer.map_or_else(|status| status.code(), |_| Code::Ok)
    };
    assert_eq!(call("localhost:6000"), Code::Ok);
    assert_eq!(
        call(&format!("evil.example:{port}")),
        Code::PermissionDenied
    );
    // The public listeners have many names.
    let status = |address: SocketAddr| {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        let head = b"GET /v1/info HTTP/1.1\r\nhost: poet.example\r\norigin: http://a\r\n\
                     connection: close\r\n\r\n";
        stream.write_all(head).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.split(' ').nth(1).map(str::to_owned)
    };
    assert_eq!(status(server.addresses.rest).as_deref(), Some("200"));
}

#[test]
fn the_longest_message_is_configured_and_rest_has_no_limit() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path());
    config.listeners.max_grpc_response_bytes = 1000;
    let server = LocalServer::start(config, 10);
    server.at(30);
    server.await_work(0);
    server.at(80);
    let bytes = server.client.await_proof(0).body.len();
    assert!(bytes > 1000);
    let client = Client::new(server.addresses.grpc);
    let status = client.poet("Proof", &json!({"roundId": "0"})).unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    let message = "trying to send message larger than max (";
    assert!(status.message().starts_with(message), "{status}");
    assert!(status.message().ends_with(" vs. 1000)"), "{status}");
}

#[test]
fn calls_are_counted() {
    let (server, _folder) = server();
    let client = Client::new(server.addresses.grpc);
    for _ in 0..3 {
        client.poet("Info", &json!({})).unwrap();
    }
    client.poet("Submit", &json!({})).unwrap_err();
    client.poet("Proof", &json!({"roundId": "7"})).unwrap_err();
    let operator = Client::new(server.addresses.private);
    let reload = operator.call(CONFIGURATION, "ReloadTrustedKeys", &json!({}));
    reload.unwrap_err();
    let text = server.monitoring().get("/metrics").body;
    for (service, method, code, count) in [
        (POET, "Info", "OK", 3),
        (POET, "Submit", "InvalidArgument", 1),
        (POET, "Proof", "NotFound", 1),
        (CONFIGURATION, "ReloadTrustedKeys", "FailedPrecondition", 1),
    ] {
        let method =
            format!("grpc_service=\"{service}\",grpc_method=\"{method}\",grpc_type=\"unary\"");
        for sample in [
            format!("grpc_server_handled_total{{{method},grpc_code=\"{code}\"}} {count}"),
            format!("grpc_server_handling_seconds_count{{{method}}} {count}"),
        ] {
            assert!(text.lines().any(|line| line == sample), "{sample}: {text}");
        }
    }
}

#[test]
fn health_is_told_for_each_listener() {
    let (server, _folder) = server();
    let client = Client::new(server.addresses.grpc);
    assert_eq!(client.health(""), Ok(json!("SERVING")));
    assert_eq!(client.health(POET), Ok(json!("SERVING")));
    assert_eq!(client.health(CONFIGURATION), Err(Code::NotFound));
    let operator = Client::new(server.addresses.private);
    assert_eq!(operator.health(CONFIGURATION), Ok(json!("SERVING")));
}

#[test]
fn health_follows_readiness() {
    let (server, folder) = server();
    let client = Client::new(server.addresses.grpc);
    let operator = Client::new(server.addresses.private);
    let await_health = |expected: &str| {
        for (client, service) in [(&client, POET), (&operator, CONFIGURATION)] {
            for service in ["", service] {
                common::await_some(expected, || {
                    (client.health(service).unwrap() == expected).then_some(())
                });
            }
        }
    };
    await_health("SERVING");
    // Another program locks the database.
    let database = folder.path().join("db/poet.sqlite");
    let other = rusqlite::Connection::open(database).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    await_health("NOT_SERVING");
    // What is not stored is not acknowledged, and the code says to try again.
    let request = TestNode::new(1).request(&server.client.pow_params());
    let message = "temporarily unavailable, try again later";
    client.submit_fails(&request, Code::Unavailable, message);
    other.execute_batch("ROLLBACK").unwrap();
    await_health("SERVING");
}

#[test]
fn rules_that_are_configured_have_their_errors() {
    let folder = tempfile::tempdir().unwrap();
    let mut full = config(folder.path());
    full.rounds.rules.max_round_members = 0;
    let server = LocalServer::start(full, 10);
    let client = Client::new(server.addresses.grpc);
    let request = TestNode::new(1).request(&server.client.pow_params());
    let message = "maximum number of round members reached";
    client.submit_fails(&request, Code::ResourceExhausted, message);

    let folder = tempfile::tempdir().unwrap();
    let mut certified = with_certifier(folder.path());
    certified.rounds.rules.pow = false;
    let server = LocalServer::start(certified, 10);
    let client = Client::new(server.addresses.grpc);
    let request = TestNode::new(1).request(&server.client.pow_params());
    let message = "registration by proof of work is switched off: expected a certificate";
    client.submit_fails(&request, Code::FailedPrecondition, message);
}

#[test]
fn requests_are_named() {
    let (server, _folder) = server();
    let client = Client::new(server.addresses.grpc);
    let named = |given: Option<&'static str>, method: &str| {
        let descriptor = client.pool.get_service_by_name(POET).unwrap();
        let method = descriptor.methods().find(|m| m.name() == method).unwrap();
        let mut request = Request::new(DynamicMessage::new(method.input()));
        if let Some(id) = given {
            let id = id.parse().unwrap();
            request.metadata_mut().insert("x-request-id", id);
        }
        let path = PathAndQuery::try_from(format!("/{POET}/{}", method.name())).unwrap();
        let answer = client.runtime.block_on(async {
            let mut client = Grpc::new(client.channel.clone());
            client.ready().await.unwrap();
            client.unary(request, path, DynamicCodec(method)).await
        });
        let metadata = match &answer {
            Ok(answer) => answer.metadata(),
            Err(status) => status.metadata(),
        };
        let id = metadata.get("x-request-id").unwrap();
        id.to_str().unwrap().to_owned()
    };
    // A success and an error: nothing is registered, nothing is there.
    for method in ["Info", "Submit", "Proof"] {
        assert_eq!(named(Some("trace-7"), method), "trace-7");
        assert_ne!(named(None, method), named(None, method));
    }
}

#[test]
fn garbage_gets_no_further_than_its_connection() {
    use std::{
        io::{Read as _, Write as _},
        net::TcpStream,
    };
    let (server, _folder) = server();
    for address in [server.addresses.grpc, server.addresses.private] {
        for garbage in [
            &b"GET / HTTP/1.0\r\n\r\n"[..],
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 and much more than a preface",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff",
            &[0; 4096],
        ] {
            let mut stream = TcpStream::connect(address).unwrap();
            stream
                .set_read_timeout(Some(Duration::from_secs(60)))
                .unwrap();
            let _ = stream.write_all(garbage);
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer);
            let answer = String::from_utf8_lossy(&answer);
            assert!(!answer.contains(" 200 "), "{answer}");
        }
    }
    let client = Client::new(server.addresses.grpc);
    assert!(client.poet("Info", &json!({})).is_ok());
}
