//! Files and directories whose content and names are on the disk.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write as _},
    path::Path,
};

use tempfile::{Builder, NamedTempFile};

/// Who may read a new file or directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Access {
    /// Everybody whom the umask allows, as for most programs.
    #[default]
    Default,
    /// Only the owner: for keys, and for a server's own files.
    Private,
}

impl Access {
    fn file_mode(self) -> u32 {
        match self {
            Self::Default => 0o666,
            Self::Private => 0o600,
        }
    }

    fn directory_mode(self) -> u32 {
        match self {
            Self::Default => 0o777,
            Self::Private => 0o700,
        }
    }

    /// Returns options that create a file with this access, which the umask can only reduce.
    #[must_use]
    pub fn open_options(self) -> OpenOptions {
        let mut options = OpenOptions::new();
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, self.file_mode());
        options
    }
}

/// Replaces the file at `path`, or creates it. Readers, and the disk after a power failure, have
/// the old content or the new one.
///
/// An existing file keeps its mode, unless `access` is private, and its owner if the system
/// permits. A symbolic link at `path` is itself replaced; [`Output`](crate::Output) follows it.
///
/// # Errors
/// Fails if the file cannot be written. It is then unchanged, unless only syncing its directory
/// failed.
pub fn replace(path: &Path, content: &[u8], access: Access) -> io::Result<()> {
    let old = path.symlink_metadata().ok().filter(fs::Metadata::is_file);
    temporary(path, content, access, old.as_ref())?.persist(path)?;
    sync_parent(path)
}

/// Replaces the file at `path`, or creates it, as [`replace`] does, but with the mode of a new file
/// and through the file `part` in the same file system: for long content, and where a file that a
/// killed process leaves must have a known name. An existing `part` is overwritten.
///
/// # Errors
/// Fails if `write` does, or the file cannot be written. It is then unchanged, unless only syncing
/// its directory failed, and there is no `part`.
pub fn replace_through(
    part: &Path,
    path: &Path,
    write: impl FnOnce(&mut File) -> io::Result<()>,
) -> io::Result<()> {
    let mut file = File::create(part)?;
    let written = write(&mut file).and_then(|()| file.sync_all());
    let replaced = written.and_then(|()| rename_into_place(part, path));
    if replaced.is_err() {
        // If it has its name already, there is nothing to remove.
        drop(fs::remove_file(part));
    }
    replaced
}

/// Creates the file at `path`, as [`replace`] does.
///
/// # Errors
/// Fails with `AlreadyExists` if `path` exists, even as a broken link, and otherwise as [`replace`]
/// does.
pub fn create_new(path: &Path, content: &[u8], access: Access) -> io::Result<()> {
    temporary(path, content, access, None)?.persist_noclobber(path)?;
    sync_parent(path)
}

/// Renames a file or directory within its file system, replacing a file at `to`, durably. The
/// content must have been synced.
///
/// # Errors
/// Fails if the rename or the sync fails.
pub fn rename_into_place(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    sync_parent(to)?;
    if parent(from) == parent(to) {
        return Ok(());
    }
    sync_parent(from)
}

/// Creates a directory and its missing parents, durably. Existing ones keep their mode.
///
/// # Errors
/// Fails if a directory cannot be created or synced, or `path` is empty; with `NotADirectory` if
/// something else exists there.
pub fn create_directory(path: &Path, access: Access) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = parent(path);
    if parent == path {
        return Err(io::ErrorKind::NotFound.into());
    }
    create_directory(parent, access)?;
    let mut builder = DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, access.directory_mode());
    match builder.create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    if path.is_dir() {
        sync_directory(parent)
    } else {
        Err(io::ErrorKind::NotADirectory.into())
    }
}

/// Makes the entries of a directory durable.
///
/// # Errors
/// Fails if the sync fails.
pub fn sync_directory(path: &Path) -> io::Result<()> {
    // Elsewhere, directories cannot be opened.
    if cfg!(unix) {
        match File::open(path)?.sync_all() {
            // Some network file systems cannot sync a directory, and need not.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {}
            synced => synced?,
        }
    }
    Ok(())
}

/// Makes a file's name durable.
fn sync_parent(path: &Path) -> io::Result<()> {
    sync_directory(parent(path))
}

/// Returns the directory that contains a file.
pub(crate) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        // The root, and the empty path.
        None => path,
    }
}

/// Creates a file with this content next to `path`, with owner and mode of `old`. The content is durable.
/// The file is removed unless it is persisted.
fn temporary(
    path: &Path,
    content: &[u8],
    access: Access,
    old: Option<&fs::Metadata>,
) -> io::Result<NamedTempFile> {
    let mut builder = Builder::new();
    builder.prefix(".poet-").suffix(".tmp");
    let mut cause = None;
    // Not the builder's own method, which is private whatever the umask allows.
    let create = |path: &Path| {
        let mut options = access.open_options();
        let file = options.read(true).write(true).create_new(true).open(path);
        file.inspect_err(|error| cause = error.raw_os_error())
    };
    let created = builder.make_in(parent(path), create);
    // Without the name of the temporary file, which means nothing to the user.
    let mut file = created.map_err(|error| cause.map_or(error, io::Error::from_raw_os_error))?;
    file.write_all(content)?;
    if let Some(old) = old {
        keep_owner_and_mode(&file, old, access)?;
    }
    file.as_file().sync_all()?;
    Ok(file)
}

#[cfg(unix)]
fn keep_owner_and_mode(file: &NamedTempFile, old: &fs::Metadata, access: Access) -> io::Result<()> {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, fchown};

    let file = file.as_file();
    let new = file.metadata()?;
    if (new.uid(), new.gid()) != (old.uid(), old.gid()) {
        // Only root may give files away; otherwise the owner changes, as with any editor.
        drop(fchown(file, Some(old.uid()), Some(old.gid())));
    }
    if access == Access::Default {
        let mode = fs::Permissions::from_mode(old.mode() & 0o777);
        file.set_permissions(mode)?;
    }
    Ok(())
}

/// Elsewhere, files have neither.
#[cfg(not(unix))]
fn keep_owner_and_mode(_: &NamedTempFile, _: &fs::Metadata, _: Access) -> io::Result<()> {
    Ok(())
}
