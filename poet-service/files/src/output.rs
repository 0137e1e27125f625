//! A file named on a command line.

use std::{
    fmt, fs,
    fs::OpenOptions,
    io::{self, Write},
    path::{Path, PathBuf},
};

use crate::{
    durable::{Access, parent, replace},
    reason::reason,
};

/// The most links that Linux follows.
const MAX_LINKS: usize = 40;

/// The destination of a program's result, named by the user.
///
/// A regular file, or the target of a symbolic link, is replaced as a whole and durably. Everything
/// else is written in place: `-` and `/dev/stdout`, devices, pipes, descriptors of a shell.
#[derive(Clone, Debug)]
pub struct Output {
    option: &'static str,
    /// The path as the user gave it.
    path: PathBuf,
    target: Target,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Target {
    Stdout,
    Stderr,
    /// A regular file, or a new one. The path is not a symbolic link.
    File(PathBuf),
    /// A destination that cannot be replaced.
    Special(PathBuf),
}

/// Why an output cannot be written, in one sentence.
#[derive(Debug)]
pub struct OutputError {
    name: String,
    reason: String,
}

impl fmt::Display for OutputError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot write {}: {}", self.name, self.reason)
    }
}

impl std::error::Error for OutputError {}

impl Output {
    /// Checks that `path`, the value of `option`, can be written, so that a program fails before a
    /// long computation rather than after it. Changes nothing.
    ///
    /// # Errors
    /// Fails if it cannot be written.
    pub fn open(option: &'static str, path: &Path) -> Result<Self, OutputError> {
        let target = if path == Path::new("-") {
            Ok(Target::Stdout)
        } else {
            resolve(path)
        };
        Self::tried(option, path, target)
    }

    /// As [`Output::open`], for a file that the program reads again: refuses `-`, devices and
    /// pipes.
    ///
    /// # Errors
    /// Fails if it cannot be written, or is not a regular file.
    pub fn open_file(option: &'static str, path: &Path) -> Result<Self, OutputError> {
        let target = resolve(path).and_then(|target| match target {
            Target::File(_) => Ok(target),
            _ => Err("it is not a regular file".to_owned()),
        });
        Self::tried(option, path, target)
    }

    fn tried(
        option: &'static str,
        path: &Path,
        target: Result<Target, String>,
    ) -> Result<Self, OutputError> {
        let result = target.and_then(|target| match &target {
            Target::File(path) => try_file(path).map(|()| target),
            Target::Special(path) => try_special(path).map(|()| target),
            Target::Stdout | Target::Stderr => Ok(target),
        });
        match result {
            Ok(target) => Ok(Self {
                option,
                path: path.to_owned(),
                target,
            }),
            Err(reason) => Err(OutputError {
                name: format!("{option} {}", path.display()),
                reason,
            }),
        }
    }

    /// Writes the whole content. A replaced file is durable when this returns.
    ///
    /// # Errors
    /// Fails if it cannot be written; a regular file is then unchanged.
    pub fn write(&self, content: &[u8]) -> Result<(), OutputError> {
        let written = match &self.target {
            Target::Stdout => write_all(&mut io::stdout().lock(), content),
            Target::Stderr => write_all(&mut io::stderr().lock(), content),
            Target::File(path) => replace(path, content, Access::Default),
            Target::Special(path) => OpenOptions::new()
                // Keeps what a redirection has written so far.
                .append(true)
                .open(path)
                .and_then(|mut file| write_all(&mut file, content)),
        };
        written.map_err(|error| OutputError {
            name: self.to_string(),
            reason: reason(&error),
        })
    }

    /// Returns whether [`Output::write`] replaces earlier content, so that it may be called for
    /// each result that is better than the last.
    #[must_use]
    pub fn is_replaced(&self) -> bool {
        matches!(self.target, Target::File(_))
    }

    /// Returns whether this is the program's standard output.
    #[must_use]
    pub fn is_stdout(&self) -> bool {
        self.target == Target::Stdout
    }

    /// Returns the regular file that will be replaced or created.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        match &self.target {
            Target::File(path) => Some(path),
            _ => None,
        }
    }

    /// Returns whether this would overwrite `input`, a file that the program reads.
    #[must_use]
    pub fn overwrites(&self, input: &Path) -> bool {
        match (&self.target, resolve(input)) {
            (Target::File(output), Ok(Target::File(input))) => same_name(output, &input),
            _ => false,
        }
    }

    /// Returns whether two outputs would overwrite each other, or be interleaved in one stream.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        match (&self.target, &other.target) {
            (Target::File(one), Target::File(other)) => same_name(one, other),
            (one, other) => one == other,
        }
    }
}

/// The option and its value, for messages.
impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.option, self.path.display())
    }
}

fn write_all(target: &mut impl Write, content: &[u8]) -> io::Result<()> {
    target.write_all(content)?;
    target.flush()
}

/// Follows symbolic links to what will be written.
fn resolve(path: &Path) -> Result<Target, String> {
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        if path.file_name().is_none() || is_directory_name(&path) {
            return Err("it is the name of a directory".to_owned());
        }
        let metadata = match fs::symlink_metadata(&path) {
            Ok(metadata) => metadata,
            // The check in `open` reports which part of the path is missing.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Target::File(path));
            }
            Err(error) => return Err(reason(&error)),
        };
        if metadata.is_symlink() {
            if let Some(target) = descriptor(&path) {
                return Ok(target);
            }
            let link = fs::read_link(&path).map_err(|error| reason(&error))?;
            path = parent(&path).join(link);
        } else if metadata.is_file() {
            return Ok(Target::File(path));
        } else if metadata.is_dir() {
            return Err("it is a directory".to_owned());
        } else {
            return Ok(Target::Special(path));
        }
    }
    Err("its symbolic links lead in a circle".to_owned())
}

/// Returns whether the last component is empty: `Path` would ignore the slash.
fn is_directory_name(path: &Path) -> bool {
    let bytes = path.as_os_str().as_encoded_bytes();
    bytes.ends_with(b"/") || bytes.ends_with(b"/.")
}

/// Resolves a link of `/proc`: it names an open file, which must not be replaced.
fn descriptor(link: &Path) -> Option<Target> {
    let folder = parent(link).canonicalize().ok()?;
    if !(folder.starts_with("/proc") && folder.ends_with("fd")) {
        return None;
    }
    let own = folder.starts_with(format!("/proc/{}", std::process::id()));
    // Uses the program's own handles, so that its output stays in order.
    Some(match link.file_name()?.to_str()? {
        "1" if own => Target::Stdout,
        "2" if own => Target::Stderr,
        _ => Target::Special(link.to_owned()),
    })
}

/// Returns whether two paths, neither of which is a symbolic link, name the same file.
fn same_name(one: &Path, other: &Path) -> bool {
    one.file_name() == other.file_name()
        && match (parent(one).canonicalize(), parent(other).canonicalize()) {
            (Ok(one), Ok(other)) => one == other,
            _ => one == other,
        }
}

fn try_file(path: &Path) -> Result<(), String> {
    let folder = parent(path);
    let name = folder.display();
    match fs::metadata(folder) {
        Ok(metadata) if metadata.is_dir() => {}
        Ok(_) => return Err(format!("{name} is not a directory")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(format!("the directory {name} does not exist"));
        }
        Err(error) => return Err(format!("the directory {name}: {}", reason(&error))),
    }
    // The file never has a name where the system supports that.
    let tried = tempfile::tempfile_in(folder).and_then(|_| fs::File::open(folder));
    if let Err(error) = tried {
        let error = reason(&error);
        return Err(format!("no file can be created in {name}: {error}"));
    }
    if path.exists() {
        // It could be replaced nevertheless, but somebody has protected it.
        may_write(path)?;
    }
    Ok(())
}

fn try_special(path: &Path) -> Result<(), String> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt as _;
        let metadata = fs::metadata(path).map_err(|error| reason(&error))?;
        if metadata.file_type().is_socket() && !path.is_symlink() {
            return Err("it is a socket".to_owned());
        }
    }
    may_write(path)
}

#[cfg(unix)]
fn may_write(path: &Path) -> Result<(), String> {
    use rustix::fs::{Access, AtFlags, CWD, accessat};

    accessat(CWD, path, Access::WRITE_OK, AtFlags::EACCESS)
        .map_err(|error| reason(&io::Error::from(error)))
}

#[cfg(not(unix))]
fn may_write(path: &Path) -> Result<(), String> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.permissions().readonly() => Err("it is read-only".to_owned()),
        Ok(_) => Ok(()),
        Err(error) => Err(reason(&error)),
    }
}
