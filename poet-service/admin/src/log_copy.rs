//! Copies tree logs.

use std::{
    fs::File,
    io::{self, Write as _},
};

use poet_engine::{LogError, LogRead, Node};

/// Entries to copy at once: 128 KiB.
const CHUNK_ENTRIES: u64 = 1 << 12;

/// Writes a tree log to an empty file: `header`, and the first `entries` entries of `log`.
pub(crate) fn write(
    target: &mut File,
    header: &[u8],
    log: &mut dyn LogRead,
    entries: u64,
) -> io::Result<()> {
    target.write_all(header)?;
    let mut chunk = vec![Node::default(); CHUNK_ENTRIES.min(entries) as usize];
    let mut done = 0;
    while done < entries {
        chunk.truncate((entries - done) as usize);
        log.read(done, &mut chunk).map_err(cause)?;
        target.write_all(chunk.as_flattened())?;
        done += chunk.len() as u64;
    }
    Ok(())
}

/// Returns why a log cannot be read, for callers that name the file.
pub(crate) fn cause(error: LogError) -> io::Error {
    match error {
        LogError::Io { cause, .. } => cause,
        other => io::Error::other(other),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn logs_of_any_length_are_copied() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let nodes: Vec<Node> = (0..=2 * CHUNK_ENTRIES)
            .map(|number| {
                let mut node = [7; 32];
                node[..8].copy_from_slice(&number.to_le_bytes());
                node
            })
            .collect();
        for entries in [0, 1, CHUNK_ENTRIES - 1, CHUNK_ENTRIES, nodes.len() as u64] {
            let mut file = File::create(&path).unwrap();
            write(&mut file, b"header", &mut &nodes[..], entries).unwrap();
            let expected = [b"header", nodes[..entries as usize].as_flattened()].concat();
            assert!(fs::read(&path).unwrap() == expected, "{entries}");
        }
        let mut file = File::create(&path).unwrap();
        let missing = write(&mut file, b"", &mut &nodes[..], nodes.len() as u64 + 1);
        let error = missing.unwrap_err().to_string();
        assert!(error.contains("is needed"), "{error}");
    }
}
