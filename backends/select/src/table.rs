//! The kernels there are, one row each.

use poet_engine::{Chain, Sha256, WorkFunction};

/// A kernel, for the selection.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) function: WorkFunction,
    pub(crate) roles: Roles,
    /// The CPU features that the kernel needs and the CPU lacks.
    pub(crate) missing: fn() -> Vec<&'static str>,
    /// The kernel, if the CPU has everything.
    pub(crate) get: fn() -> Option<Kernel>,
}

/// What a kernel is worth trying for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Roles {
    /// One chain, and many.
    Both,
    /// Many chains only: a single one would leave most of its lanes empty.
    Throughput,
}

/// What a kernel computes.
#[derive(Clone, Copy)]
pub(crate) struct Kernel {
    pub(crate) chain: &'static dyn Chain,
    /// The compression function; only kernels of SHA-256 have it.
    pub(crate) sha256: Option<&'static dyn Sha256>,
}

/// A row for a kernel of SHA-256 with the functions `get` and `missing` of a token.
#[cfg(target_arch = "x86_64")]
macro_rules! sha256_row {
    ($kernel:ty, $roles:expr) => {
        Row {
            name: <$kernel>::NAME,
            function: WorkFunction::Sha256,
            roles: $roles,
            missing: || <$kernel>::missing().collect(),
            get: || {
                <$kernel>::get().map(|kernel| Kernel {
                    chain: kernel,
                    sha256: Some(kernel),
                })
            },
        }
    };
}

/// All kernels of this architecture. In each role, a kernel is preferred to those after it where
/// nothing is measured.
pub(crate) const ROWS: &[Row] = &[
    #[cfg(target_arch = "x86_64")]
    sha256_row!(poet_backend_sha_ni::Avx512, Roles::Throughput),
    #[cfg(target_arch = "x86_64")]
    sha256_row!(poet_backend_sha_ni::ShaNiAvx, Roles::Both),
    #[cfg(target_arch = "x86_64")]
    sha256_row!(poet_backend_sha_ni::ShaNiAvx512, Roles::Both),
    #[cfg(target_arch = "x86_64")]
    sha256_row!(poet_backend_sha_ni::ShaNi, Roles::Both),
    #[cfg(target_arch = "x86_64")]
    sha256_row!(poet_backend_sha_ni::Avx2, Roles::Throughput),
    Row {
        name: poet_backend_generic::Generic::NAME,
        function: WorkFunction::Sha256,
        roles: Roles::Both,
        missing: Vec::new,
        get: || {
            let kernel = poet_backend_generic::Generic::get();
            Some(Kernel {
                chain: kernel,
                sha256: Some(kernel),
            })
        },
    },
];
