//! Generates `ffi/include/poet.h` from the sources of libpoet and compares it with the existing
//! file. With `UPDATE_HEADER=1` in the environment it replaces the file.
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::ExitCode;
use std::{env, fs};

fn main() -> ExitCode {
    let library = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let config = cbindgen::Config::from_file(library.join("cbindgen.toml"));
    let generated = config
        .map_err(|why| format!("cbindgen.toml: {why}"))
        .and_then(|config| {
            cbindgen::Builder::new()
                .with_config(config)
                .with_src(library.join("src/lib.rs"))
                .generate()
                .map_err(|why| format!("the header cannot be generated: {why}"))
        });
    let mut header = Vec::new();
    match generated {
        Ok(bindings) => bindings.write(&mut header),
        Err(why) => {
            eprintln!("{why}");
            return ExitCode::FAILURE;
        }
    }
    let header = String::from_utf8_lossy(&header);
    let header = for_readers_of_c(&header);
    let path = library.join("include/poet.h");
    if fs::read_to_string(&path).is_ok_and(|committed| committed == header) {
        println!("include/poet.h is up to date");
        return ExitCode::SUCCESS;
    }
    if env::var_os("UPDATE_HEADER").is_some_and(|value| value == "1") {
        if let Err(why) = fs::write(&path, header) {
            eprintln!("cannot write {}: {why}", path.display());
            return ExitCode::FAILURE;
        }
        println!("include/poet.h was written");
        return ExitCode::SUCCESS;
    }
    eprintln!("include/poet.h is not what the sources make: run this with UPDATE_HEADER=1");
    ExitCode::FAILURE
}

/// Removes the sections of the documentation for readers of the Rust source.
fn for_readers_of_c(header: &str) -> String {
    let section = " *\n * # Safety\n * As the header says of pointers.\n";
    header.replace(section, "")
}
