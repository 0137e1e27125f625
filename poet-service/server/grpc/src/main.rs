//! Generates `src/api/generated` from `../proto/rpc`, without a `protoc` of the system, and
//! compares it with the files in the tree. With `UPDATE_GRPC=1` in the environment it replaces
//! them.
#![forbid(unsafe_code)]

use std::{
    env,
    error::Error,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use protox::prost::Message as _;

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let server = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let made = tempfile::tempdir()?;
    generate(&server.join("../proto"), made.path())?;
    let update = env::var_os("UPDATE_GRPC").is_some_and(|value| value == "1");
    let mut current = true;
    for file in fs::read_dir(made.path())? {
        let file = file?;
        let committed: PathBuf = server.join("src/api/generated").join(file.file_name());
        let made = fs::read(file.path())?;
        if fs::read(&committed).is_ok_and(|committed| committed == made) {
            continue;
        }
        if update {
            fs::write(&committed, made)?;
            println!("{} was written", committed.display());
        } else {
            eprintln!("{} is not what the .proto file makes", committed.display());
            current = false;
        }
    }
    if !current {
        eprintln!("run this with UPDATE_GRPC=1");
        return Ok(ExitCode::FAILURE);
    }
    println!("the code of the gRPC interface is up to date");
    Ok(ExitCode::SUCCESS)
}

fn generate(proto: &Path, out: &Path) -> Result<(), Box<dyn Error>> {
    let mut files = protox::compile(["rpc/api/v1/api.proto"], [proto])?;
    // Reflection shows these descriptors.
    fs::write(out.join("descriptors.bin"), files.encode_to_vec())?;
    // Proofs are sent from buffers that are encoded once. Generated code would encode and copy them
    // for each client.
    for service in files.file.iter_mut().flat_map(|file| &mut file.service) {
        service.method.retain(|method| method.name() != "Proof");
    }
    tonic_prost_build::configure()
        .build_client(false)
        .build_transport(false)
        .out_dir(out)
        .compile_fds(files)?;
    Ok(())
}
