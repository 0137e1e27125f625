//! Reads small files of the kernel.

use std::{fs, path::Path};

use crate::MAX_CORES;

/// Returns the trimmed content of a file; `None` if it cannot be read.
pub(crate) fn text(root: &Path, path: &str) -> Option<String> {
    Some(fs::read_to_string(root.join(path)).ok()?.trim().to_owned())
}

pub(crate) fn number(root: &Path, path: &str) -> Option<u64> {
    text(root, path)?.parse().ok()
}

/// Returns the numbers n for which `folder` has an entry named `prefix` followed by n, in order.
pub(crate) fn numbered(root: &Path, folder: &str, prefix: &str) -> Vec<usize> {
    let entries = fs::read_dir(root.join(folder))
        .into_iter()
        .flatten()
        .flatten();
    let number = |name: String| name.strip_prefix(prefix)?.parse().ok();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut numbers: Vec<usize> = names.filter_map(number).collect();
    numbers.sort_unstable();
    numbers
}

/// Parses a list of cores in the kernel's format: `0-3,8` is 0, 1, 2, 3 and 8. Skips malformed
/// items and numbers from [`MAX_CORES`] on.
pub(crate) fn parse_list(text: &str) -> Vec<usize> {
    let ranges = text.trim().split(',').filter_map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let first: usize = first.trim().parse().ok()?;
        let last: usize = last.trim().parse().ok()?;
        (last < MAX_CORES).then_some(first..=last)
    });
    // Bounded even if the list repeats cores.
    ranges.flatten().take(MAX_CORES).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Unpacks a tree: a line `== path` is followed by the content of that file. A range `{0-3}` in
    /// a path creates one file for each number.
    pub(crate) fn unpack(tree: &str) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for file in tree.split("\n== ").skip(1) {
            let (path, content) = file.split_once('\n').unwrap_or((file, ""));
            let paths = match path.split_once('{') {
                None => vec![path.to_owned()],
                Some((before, after)) => {
                    let (range, after) = after.split_once('}').unwrap();
                    let name = |number| format!("{before}{number}{after}");
                    parse_list(range).into_iter().map(name).collect()
                }
            };
            for path in paths {
                let path = root.path().join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, content).unwrap();
            }
        }
        root
    }

    #[test]
    fn lists_are_read_and_bounded() {
        assert_eq!(parse_list("0\n"), [0]);
        assert_eq!(parse_list("0-2,8,10-11\n"), [0, 1, 2, 8, 10, 11]);
        for none in ["", "(null)", "0-18446744073709551615", "5-3", "-1"] {
            assert!(parse_list(none).is_empty(), "{none}");
        }
        assert_eq!(parse_list("x,3,9999999"), [3]);
        assert_eq!(parse_list(&"0-1023,".repeat(100)).len(), MAX_CORES);
    }
}
