//! The suite that every backend passes.
#![cfg(target_arch = "x86_64")]

use poet_backend_sha_ni::{Avx2, Avx512, ShaNi, ShaNiAvx, ShaNiAvx512};
use poet_conformance::suite;
use poet_engine::WorkFunction;

macro_rules! conforms {
    ($($test:ident: $kernel:ident,)*) => {
        $(
            #[test]
            fn $test() {
                if let Some(backend) = suite::supported($kernel::NAME, $kernel::get()) {
                    suite::sha256(backend);
                    suite::chain(backend, WorkFunction::Sha256);
                }
            }
        )*
    };
}

conforms! {
    sha_ni: ShaNi,
    sha_ni_avx: ShaNiAvx,
    sha_ni_avx512: ShaNiAvx512,
    avx2: Avx2,
    avx512: Avx512,
}
