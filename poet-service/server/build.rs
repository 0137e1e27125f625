//! Finds the commit that is built.

use std::{env, error::Error, process::Command};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    // A build for tests would be repeated after each commit.
    let commit = match env::var("PROFILE").as_deref() {
        Ok("release") => commit(),
        _ => None,
    };
    let commit = commit.unwrap_or_default();
    println!("cargo:rustc-env=POET_COMMIT={commit}");
    let version = env::var("CARGO_PKG_VERSION")?;
    match commit.as_str() {
        "" => println!("cargo:rustc-env=POET_VERSION={version}"),
        commit => println!("cargo:rustc-env=POET_VERSION={version} ({commit})"),
    }
    Ok(())
}

/// Returns the commit of the repository that contains this crate, if there is one.
fn commit() -> Option<String> {
    // Not the commit of another repository into which this was copied.
    git(&["ls-files", "--error-unmatch", "build.rs"])?;
    // Written when another commit is checked out or created.
    let log = git(&["rev-parse", "--git-path", "logs/HEAD"])?;
    println!("cargo:rerun-if-changed={log}");
    git(&["rev-parse", "--short=12", "HEAD"])
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
