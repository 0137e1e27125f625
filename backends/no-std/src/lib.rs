//! A program without std that does work, proves it and verifies the proof, on the engine and the
//! portable backend.
//!
//! It has its own panic handler. If any of its code used std, there would be two, which is an
//! error: so if it builds, the engine needs only `core` and `alloc`.
#![no_std]

extern crate alloc;

use alloc::vec::Vec;
use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use poet_backend_generic::Generic;
use poet_engine::{
    Kernels, ProveProgress, RoundWork, SubtreeHeight, T, Tree, Work, WorkFunction, prove, run,
    verify,
};

const ARENA_BYTES: usize = 16 << 20;

/// Memory that is allocated once and never freed.
struct Arena {
    bytes: UnsafeCell<[u8; ARENA_BYTES]>,
    used: AtomicUsize,
}

#[global_allocator]
static ARENA: Arena = Arena {
    bytes: UnsafeCell::new([0; ARENA_BYTES]),
    used: AtomicUsize::new(0),
};

// SAFETY: the bytes are reached only through `alloc`, which gives every caller different ones.
unsafe impl Sync for Arena {}

// SAFETY: `alloc` returns null or a block within the arena with the layout's size and alignment
// that no other call gets: `used` only grows, in one atomic step.
unsafe impl GlobalAlloc for Arena {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let start = self.bytes.get().cast::<u8>();
        // The start and end of the block, given the bytes already used.
        let place = |used: usize| {
            let skip = start.wrapping_add(used).align_offset(layout.align());
            let begin = used.checked_add(skip)?;
            let end = begin.checked_add(layout.size())?;
            (end <= ARENA_BYTES).then_some((begin, end))
        };
        self.used
            .fetch_update(Relaxed, Relaxed, |used| Some(place(used)?.1))
            .ok()
            .and_then(place)
            .map_or(null_mut(), |(begin, _)| start.wrapping_add(begin))
    }

    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {
        core::hint::spin_loop();
    }
}

/// Makes a proof and verifies it, and a wrong one: returns 0 if every step was right, otherwise the
/// number of the step that was not.
/// SAFETY: no other function of the program has this name.
#[unsafe(no_mangle)]
pub extern "C" fn poet_no_std() -> i32 {
    match round() {
        Ok(()) => 0,
        Err(step) => step,
    }
}

fn round() -> Result<(), i32> {
    let generic = Generic::get();
    let kernels = Kernels {
        sha256: generic,
        chain: generic,
        wide_sha256: generic,
        wide_chain: generic,
    };
    let work = Work::new(WorkFunction::Sha256, 20, kernels).map_err(|_| 1)?;
    let statement = b"no std";
    let height = SubtreeHeight::new(3).map_err(|_| 2)?;
    let (leaves, progress) = (777, AtomicU64::new(0));

    let mut log = Vec::new();
    let mut tree = Tree::new(&work, statement);
    let target = AtomicU64::new(leaves);
    run(&mut tree, height, &target, &progress, |root| log.push(root));

    let again = RoundWork::new(&work, statement, height)
        .resume(&mut log.as_slice())
        .map_err(|_| 3)?;
    if !tree.parked().ends_with(again.parked()) {
        return Err(4);
    }
    let progress = ProveProgress::default();
    let mut proof = prove(&tree, height, &mut log.as_slice(), T, 2, &progress).map_err(|_| 5)?;
    verify(&work, statement, leaves, T, &proof).map_err(|_| 6)?;
    proof.root[0] ^= 1;
    match verify(&work, statement, leaves, T, &proof) {
        Ok(()) => Err(7),
        Err(_) => Ok(()),
    }
}
