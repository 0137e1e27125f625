//! Kernels as tokens: types whose values exist only on a CPU that can run them.
//!
//! Calling code for an instruction set that the CPU lacks is undefined. A kernel made by [`token!`]
//! has no public constructor; its `get` checks the CPU (and the operating system, which must save
//! the registers). So a reference to one proves that its code may be called.
#![no_std]

#[doc(hidden)]
pub use cpufeatures;

/// Makes a kernel a token: its type, its `NAME`, and `get` and `missing`, which check for the CPU
/// features in brackets (a name for the macro's own use, and the name of the feature).
///
/// A kernel must list all features that the compiler assumes in its code, not only those it uses:
/// `avx512f` implies `avx2`, `fma` and `f16c`. The last one cannot be checked here, but every CPU
/// with `avx2` and `fma` has it.
///
/// ```
/// # #[cfg(target_arch = "x86_64")]
/// poet_backend_token::token! {
///     /// A kernel that needs AES-NI.
///     Kernel, "kernel", [aes: "aes"]
/// }
/// # #[cfg(target_arch = "x86_64")]
/// assert_eq!(Kernel::get().is_some(), Kernel::missing().next().is_none());
/// ```
#[macro_export]
macro_rules! token {
    ($(#[$doc:meta])* $kernel:ident, $name:literal, [$($module:ident: $feature:tt),+]) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $kernel(());

        impl $kernel {
            /// The name of the backend that this kernel implements.
            pub const NAME: &'static str = $name;

            /// Returns the kernel, if this CPU and the operating system have what it needs.
            #[must_use]
            pub fn get() -> Option<&'static Self> {
                static KERNEL: $kernel = $kernel(());
                Self::missing().next().is_none().then_some(&KERNEL)
            }

            /// Returns the names of the CPU features that this kernel needs and the CPU lacks.
            pub fn missing() -> impl Iterator<Item = &'static str> {
                $($crate::cpufeatures::new!($module, $feature);)+
                [$(($feature, $module::get as fn() -> bool)),+]
                    .into_iter()
                    .filter(|(_, has)| !has())
                    .map(|(name, _)| name)
            }
        }
    };
}
