//! Compiles the gRPC interface, without a `protoc` of the system.

use std::{env, error::Error, fs, path::PathBuf};

use protox::prost::Message as _;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=../proto/rpc");
    let mut files = protox::compile(["rpc/api/v1/api.proto"], ["../proto"])?;
    // Reflection shows the interface as it is.
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    fs::write(out.join("descriptors.bin"), files.encode_to_vec())?;
    // Proofs are sent from buffers that are encoded once; generated code would encode them, and
    // copy them, for everyone who asks.
    for service in files.file.iter_mut().flat_map(|file| &mut file.service) {
        service.method.retain(|method| method.name() != "Proof");
    }
    tonic_prost_build::configure()
        .build_client(false)
        .build_transport(false)
        .compile_fds(files)?;
    Ok(())
}
