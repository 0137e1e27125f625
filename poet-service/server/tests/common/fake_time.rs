//! A wall clock of a process's own.

use std::path::PathBuf;

/// The library that fakes the time of a process; `None`, and says so, where there is none.
pub(crate) fn fake_time() -> Option<String> {
    let places = ["/usr/lib", "/usr/lib64", "/usr/local/lib"].map(PathBuf::from);
    let multiarch = format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH);
    let library = places
        .into_iter()
        .chain([multiarch.into()])
        .map(|place| place.join("faketime/libfaketimeMT.so.1"))
        .find(|library| library.exists());
    let Some(library) = library else {
        let ci = std::env::var_os("CI").is_some_and(|ci| !ci.is_empty());
        assert!(!ci, "CI must have libfaketime");
        eprintln!("skipped: libfaketime is not installed (apt install faketime)");
        return None;
    };
    Some(library.to_str().unwrap().to_owned())
}
