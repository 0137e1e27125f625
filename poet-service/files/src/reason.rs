//! Why the system refused an operation, in words.

use std::{error::Error, io};

/// Returns why an operation on a file failed, for people: without Rust's error texts and numbers.
#[must_use]
pub fn reason(error: &io::Error) -> String {
    use io::ErrorKind as Kind;

    let known = match error.kind() {
        Kind::NotFound => "there is no such file or directory",
        Kind::PermissionDenied => "permission denied",
        Kind::AlreadyExists => "it exists already",
        Kind::IsADirectory => "it is a directory",
        Kind::NotADirectory => "a part of its path is not a directory",
        Kind::StorageFull => "no space left on the device",
        Kind::QuotaExceeded => "the disk quota is used up",
        Kind::FileTooLarge => "the file would be larger than the system allows",
        Kind::ReadOnlyFilesystem => "the file system is mounted read-only",
        Kind::BrokenPipe => "its reader has closed it",
        Kind::InvalidFilename => "the name is too long or has characters that the system refuses",
        Kind::TimedOut => "the system did not answer in time",
        Kind::UnexpectedEof => "it ends too early",
        Kind::InvalidData => "it is damaged",
        Kind::WriteZero => "nothing more could be written",
        _ => {
            let text = error.to_string();
            // The system's own text, to which Rust appends a number.
            return match text.split_once(" (os error ") {
                Some((words, _)) => words.to_owned(),
                None => text,
            };
        }
    };
    known.to_owned()
}

/// Describes an error with its causes in one line, those of the system as [`reason`] does.
#[must_use]
pub fn explain(error: &(dyn Error + 'static)) -> String {
    let describe = |error: &(dyn Error + 'static)| match error.downcast_ref() {
        Some(error) => reason(error),
        None => error.to_string(),
    };
    let mut line = describe(error);
    let mut cause = error.source();
    while let Some(error) = cause {
        line = format!("{line}: {}", describe(error));
        cause = error.source();
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_words() {
        // Numbers that are the same on every Unix.
        for (number, words) in [
            (2, "there is no such file or directory"),
            (5, "Input/output error"),
            (13, "permission denied"),
            (28, "no space left on the device"),
            (32, "its reader has closed it"),
        ] {
            assert_eq!(reason(&io::Error::from_raw_os_error(number)), words);
        }
        assert_eq!(reason(&io::Error::other("made up")), "made up");
    }
    #[test]
    fn causes_follow_an_error() {
        #[derive(Debug)]
        struct Failed(io::Error);

        impl std::fmt::Display for Failed {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("cannot read x")
            }
        }

        impl Error for Failed {
            fn source(&self) -> Option<&(dyn Error + 'static)> {
                Some(&self.0)
            }
        }

        let error = Failed(io::Error::from_raw_os_error(13));
        assert_eq!(explain(&error), "cannot read x: permission denied");
        assert_eq!(explain(&error.0), "permission denied");
    }
}
