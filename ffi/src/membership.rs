//! The membership root.

use poet_engine::{Node, membership};

use crate::boundary::call;
use crate::poet_status;
use crate::pointer::{self, Out};

/// The most challenges in a membership root.
pub const POET_MAX_CHALLENGES: usize = 1 << 24;

/// Computes the root of the membership tree, which is the statement of a round: BLAKE3 over the
/// challenges in increasing byte order of their node ids. Without members it is empty; with one
/// member it is the challenge itself.
///
/// challenges: count * 32 bytes, in order; count: at most POET_MAX_CHALLENGES.
/// root: room for 32 bytes. root_bytes: receives how many were written, 0 or 32.
///
/// Returns OK, NULL_POINTER, INVALID_LENGTH, PANIC. Any thread.
///
/// # Safety
/// As the header says of pointers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn poet_membership_root(
    challenges: *const u8,
    count: usize,
    root: *mut u8,
    root_bytes: *mut usize,
) -> poet_status {
    call(|| {
        // SAFETY: the header requires it of the caller.
        let (challenges, root, root_bytes) = unsafe {
            (
                pointer::slice(
                    challenges.cast::<Node>(),
                    count,
                    POET_MAX_CHALLENGES,
                    "challenges",
                )?,
                pointer::out_node(root, "root")?,
                Out::new(root_bytes, "root_bytes")?,
            )
        };
        let made = membership::root(challenges);
        if let Ok(node) = Node::try_from(made.as_slice()) {
            root.write(node);
        }
        root_bytes.write(made.len());
        Ok(())
    })
}
