//! A log is opened with exactly its whole entries, whatever follows them; or it is refused, and the
//! file is unchanged. The tree that grows from it is that of section 3.
#![no_main]

use std::fs::File;
use std::io::{Read, Seek, Write};

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use poet_conformance::reference;
use poet_engine::file::FileLog;
use poet_engine::{LogHeader, LogRead, Node, RoundWork, SubtreeHeight, Work, WorkFunction};
use poet_fuzz::KERNELS;

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    wanted: Header<'a>,
    /// The header of the log; the expected one if absent.
    found: Option<Header<'a>>,
    /// A flipped bit of the header.
    flip: Option<(u8, u8)>,
    /// How much of the header is present.
    keep: Option<u8>,
    /// The bytes after the header.
    rest: &'a [u8],
}

#[derive(Arbitrary, Clone, Copy, Debug)]
struct Header<'a> {
    haraka: bool,
    depth: u8,
    subtree_height: u8,
    statement: &'a [u8],
}

impl Header<'_> {
    fn work(&self) -> Work {
        let function = match self.haraka {
            true => WorkFunction::Haraka256,
            false => WorkFunction::Sha256,
        };
        let (_, _, kernels) = KERNELS[0];
        Work::new(function, u32::from(self.depth) + 1, kernels).expect("a small depth")
    }

    fn subtree_height(&self) -> SubtreeHeight {
        SubtreeHeight::new(u32::from(self.subtree_height % 25)).expect("up to 24")
    }

    fn header(&self) -> [u8; LogHeader::BYTES] {
        let work = self.work();
        RoundWork::new(&work, self.statement, self.subtree_height()).header_bytes()
    }
}

fn file(content: &[u8]) -> File {
    let file = memfd::MemfdOptions::new().create("log").expect("memory");
    let mut file = file.into_file();
    file.write_all(content).expect("memory");
    file
}

fn content(file: &mut File) -> Vec<u8> {
    let mut content = Vec::new();
    file.rewind().expect("memory");
    file.read_to_end(&mut content).expect("memory");
    content
}

fuzz_target!(|input: Input| {
    let work = input.wanted.work();
    let wanted = RoundWork::new(&work, input.wanted.statement, input.wanted.subtree_height());
    let header = wanted.header_bytes();
    let mut bytes = input.found.unwrap_or(input.wanted).header().to_vec();
    if let Some((at, bit)) = input.flip {
        bytes[usize::from(at) % LogHeader::BYTES] ^= 1 << (bit % 8);
    }
    match input.keep {
        Some(keep) => bytes.truncate(usize::from(keep)),
        None => bytes.extend_from_slice(input.rest),
    }

    let mut copy = file(&bytes);
    let opened = FileLog::in_file(copy.try_clone().expect("a handle"), &wanted);
    let Ok(mut log) = opened else {
        assert!(!bytes.starts_with(&header) && !header.starts_with(&bytes));
        assert_eq!(content(&mut copy), bytes, "a refused log was changed");
        return;
    };
    let behind = match bytes.strip_prefix(&header) {
        Some(behind) => behind,
        None => {
            assert!(header.starts_with(&bytes), "a foreign log was opened");
            &[]
        }
    };
    let entries: &[Node] = behind.as_chunks().0;
    assert_eq!(log.entries(), entries.len() as u64);
    let mut read = vec![[0; 32]; entries.len()];
    log.read(0, &mut read).expect("memory");
    assert_eq!(read, entries);
    assert!(log.read(0, &mut vec![[0; 32]; entries.len() + 1]).is_err());
    let cut = [header.as_slice(), entries.as_flattened()].concat();
    assert_eq!(content(&mut copy), cut);

    let statement = input.wanted.statement;
    let tree = wanted.resume(&mut log).expect("a short log");
    assert_eq!(tree.parked(), reference::parked(statement, entries));

    log.append(&[[1; 32], [2; 32]]).expect("memory");
    let appended = [cut.as_slice(), &[1; 32], &[2; 32]].concat();
    assert_eq!(content(&mut copy), appended);
});
