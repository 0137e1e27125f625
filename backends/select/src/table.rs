//! The table of backends, one row each.

use poet_backend_generic::{Generic, GenericHaraka};
use poet_engine::{Chain, Sha256, WorkFunction};

/// A backend, for the selection.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) function: WorkFunction,
    pub(crate) roles: Roles,
    /// The CPU features that the backend needs and the CPU lacks.
    pub(crate) missing: fn() -> Vec<&'static str>,
    /// The kernels, if the CPU has all features.
    pub(crate) get: fn() -> Option<BackendKernels>,
}

/// The roles in which a backend is worth timing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Roles {
    /// One chain, and many.
    Both,
    /// Many chains only: a single one would leave most of its lanes empty.
    #[cfg_attr(
        not(any(test, target_arch = "x86_64")),
        expect(
            dead_code,
            reason = "only vectors have lanes, so far only those of x86-64"
        )
    )]
    Throughput,
}

/// The kernels of a backend.
#[derive(Clone, Copy)]
pub(crate) struct BackendKernels {
    pub(crate) chain: &'static dyn Chain,
    /// The compression function; only backends for SHA-256 have it.
    pub(crate) sha256: Option<&'static dyn Sha256>,
}

/// Makes the row of a token.
#[cfg(any(
    target_arch = "x86_64",
    all(target_arch = "aarch64", target_endian = "little")
))]
macro_rules! row {
    ($token:ty, $function:ident, $roles:ident, $kernel:ident) => {
        Row {
            name: <$token>::NAME,
            function: WorkFunction::$function,
            roles: Roles::$roles,
            missing: || <$token>::missing().collect(),
            get: || <$token>::get().map($kernel),
        }
    };
}

fn sha256<K: Sha256 + Chain>(kernel: &'static K) -> BackendKernels {
    BackendKernels {
        chain: kernel,
        sha256: Some(kernel),
    }
}

fn haraka256<K: Chain>(kernel: &'static K) -> BackendKernels {
    BackendKernels {
        chain: kernel,
        sha256: None,
    }
}

/// All backends of this architecture. In each role, a backend is preferred to those after it if
/// nothing is measured.
pub(crate) const ROWS: &[Row] = &[
    #[cfg(target_arch = "x86_64")]
    row!(poet_backend_sha_ni::Avx512, Sha256, Throughput, sha256),
    #[cfg(target_arch = "x86_64")]
    row!(poet_backend_sha_ni::ShaNiAvx, Sha256, Both, sha256),
    #[cfg(target_arch = "x86_64")]
    row!(poet_backend_sha_ni::ShaNiAvx512, Sha256, Both, sha256),
    #[cfg(target_arch = "x86_64")]
    row!(poet_backend_sha_ni::ShaNi, Sha256, Both, sha256),
    #[cfg(target_arch = "x86_64")]
    row!(poet_backend_sha_ni::Avx2, Sha256, Throughput, sha256),
    #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
    row!(poet_backend_armv8::Armv8Sha2, Sha256, Both, sha256),
    Row {
        name: Generic::NAME,
        function: WorkFunction::Sha256,
        roles: Roles::Both,
        missing: Vec::new,
        get: || Some(sha256(Generic::get())),
    },
    #[cfg(target_arch = "x86_64")]
    row!(poet_backend_aes_ni::Vaes, Haraka256, Throughput, haraka256),
    #[cfg(target_arch = "x86_64")]
    row!(poet_backend_aes_ni::AesNi, Haraka256, Both, haraka256),
    #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
    row!(poet_backend_armv8::Armv8Aes, Haraka256, Both, haraka256),
    Row {
        name: GenericHaraka::NAME,
        function: WorkFunction::Haraka256,
        roles: Roles::Both,
        missing: Vec::new,
        get: || Some(haraka256(GenericHaraka::get())),
    },
];
