//! Returns memory that the allocator keeps to the system.
//!
//! The allocator of glibc returns free memory only from the end of its heaps, so a process that
//! once held many small blocks stays as large as it was then. Other allocators return it by
//! themselves.

/// Returns free memory to the system. Threads that allocate meanwhile wait for some milliseconds.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn trim() {
    // SAFETY: `malloc_trim` takes a number and no pointer, may be called from any thread at any time
    // (it takes the locks of the heaps), and changes only pages that no allocated block touches.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Does nothing: this system has another allocator.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn trim() {}

#[cfg(all(test, target_os = "linux", target_env = "gnu"))]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;

    fn resident_mb() -> u64 {
        let statm = fs::read_to_string("/proc/self/statm").unwrap();
        let pages: u64 = statm.split(' ').nth(1).unwrap().parse().unwrap();
        pages * 4 / 1024
    }

    #[test]
    fn free_memory_between_blocks_goes_back() {
        let before = resident_mb();
        let mut blocks: Vec<_> = (0..100_000).map(|_| Some(Box::new([1_u8; 1000]))).collect();
        // One in a thousand stays.
        for (index, block) in blocks.iter_mut().enumerate() {
            if index % 1000 != 999 {
                *block = None;
            }
        }
        let kept = resident_mb();
        assert!(kept > before + 80, "{before} MB, then {kept} MB");
        super::trim();
        let left = resident_mb();
        assert!(left < before + 20, "{before} MB, {kept} MB, then {left} MB");
    }
}
