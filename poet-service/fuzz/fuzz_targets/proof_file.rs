//! Any file given to `verify` is a proof, or refused with one sentence that says what is wrong.
//! Writing a proof and reading it again gives the same proof.
#![no_main]

// The reader belongs to the program, not to the library.
#[path = "../../server/src/cli/proof_file.rs"]
#[allow(dead_code)]
mod proof_file;

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use poet_engine::{LABEL_DEPTH, MAX_PROOF_NODES, MAX_PROVEN_LEAVES, Work, WorkFunction};

/// What the reader needs from the program.
fn is_spacemesh(_work: &Work) -> bool {
    true
}

static WORK: LazyLock<Work> = LazyLock::new(|| {
    let selection = poet_backends::select(WorkFunction::Sha256, Some("generic"));
    selection
        .expect("a backend")
        .work(LABEL_DEPTH)
        .expect("a depth")
});

fuzz_target!(|json: &[u8]| {
    let file = match proof_file::parse(json, None) {
        Ok(file) => file,
        Err(wrong) => {
            assert!(!wrong.is_empty() && !wrong.contains('\n'), "{wrong}");
            return;
        }
    };
    let proof = &file.proof;
    assert!(proof.proven_leaves.len() <= MAX_PROVEN_LEAVES);
    assert!(proof.proof_nodes.len() <= MAX_PROOF_NODES);
    let indices = file.indices.clone().unwrap_or_default();
    let written = proof_file::to_json(&WORK, &file.statement, file.leaves, indices.clone(), proof);
    let again = proof_file::parse(written.expect("text").as_bytes(), None).expect("just written");
    assert_eq!(
        (again.statement, again.leaves, &again.proof, again.indices),
        (file.statement, file.leaves, proof, Some(indices))
    );
});
