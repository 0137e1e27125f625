//! What the user gives: files, and whole numbers on the command line.

use std::{
    fmt::Display,
    fs::File,
    io::{self, ErrorKind, Read as _},
    ops::RangeInclusive,
    path::Path,
};

use anyhow::anyhow;
use poet_files::reason;

/// Reads up to `limit` bytes of a file. `name` is what messages call it.
///
/// # Errors
/// Fails if it cannot be read.
pub(crate) fn read(name: impl Display, path: &Path, limit: u64) -> anyhow::Result<Vec<u8>> {
    read_bytes(path, limit).map_err(|error| anyhow!("cannot read {name}: {}", reason(&error)))
}

/// Like [`read`], but returns `None` if there is no such file.
///
/// # Errors
/// Fails if it cannot be read.
pub(crate) fn read_if_exists(
    name: impl Display,
    path: &Path,
    limit: u64,
) -> anyhow::Result<Option<Vec<u8>>> {
    match read_bytes(path, limit) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(anyhow!("cannot read {name}: {}", reason(&error))),
        Ok(bytes) => Ok(Some(bytes)),
    }
}

fn read_bytes(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Returns a parser of whole numbers in `range`, for an option.
pub(crate) fn whole_number<N: TryFrom<u64>>(
    range: RangeInclusive<u64>,
) -> impl Fn(&str) -> Result<N, String> + Clone + Send + Sync {
    move |text| {
        let number = text.parse().ok().filter(|number| range.contains(number));
        number
            .and_then(|number| N::try_from(number).ok())
            .ok_or_else(|| match (range.start(), range.end()) {
                (0, &u64::MAX) => "expected a whole number".to_owned(),
                (least, &u64::MAX) => format!("expected a whole number, at least {least}"),
                (least, most) => format!("expected a whole number from {least} to {most}"),
            })
    }
}
