//! What the CPU has, and the tokens that prove it.

/// The name of a CPU feature, and whether this CPU (and the operating system, where registers must
/// be saved) has it.
pub(crate) type Feature = (&'static str, fn() -> bool);

macro_rules! feature {
    ($constant:ident, $module:ident, $name:tt) => {
        cpufeatures::new!($module, $name);
        pub(crate) const $constant: Feature = ($name, $module::get);
    };
}

feature!(SSSE3, ssse3, "ssse3");
feature!(SSE4_1, sse4_1, "sse4.1");
feature!(SHA, sha, "sha");
feature!(AVX, avx, "avx");
feature!(AVX2, avx2, "avx2");
feature!(AVX512F, avx512f, "avx512f");
feature!(AVX512VL, avx512vl, "avx512vl");

/// Makes `$kernel` a token: a type of which a value exists only on a CPU with all of the features.
macro_rules! token {
    ($(#[$doc:meta])* $kernel:ident, $name:literal, [$($feature:ident),+]) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $kernel(());

        impl $kernel {
            /// The name that selects this kernel.
            pub const NAME: &'static str = $name;

            /// The kernel, if this CPU and the operating system have what it needs.
            #[must_use]
            pub fn get() -> Option<&'static Self> {
                static KERNEL: $kernel = $kernel(());
                Self::missing().next().is_none().then_some(&KERNEL)
            }

            /// The names of the CPU features that this kernel needs and the CPU lacks.
            pub fn missing() -> impl Iterator<Item = &'static str> {
                const NEEDED: &[$crate::features::Feature] = &[$($crate::features::$feature),+];
                NEEDED.iter().filter(|(_, has)| !has()).map(|(name, _)| *name)
            }
        }
    };
}
