//! Files that are there as a whole or not at all.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use tempfile::{Builder, NamedTempFile};

/// A file that will be written.
#[derive(Debug)]
pub struct Output {
    path: PathBuf,
}

impl Output {
    /// Finds out whether a file can be written, so that nobody waits for a result in vain.
    ///
    /// # Errors
    /// When it cannot.
    pub fn new(path: PathBuf) -> Result<Self> {
        let output = Self { path };
        output.check().with_context(|| output.failure())?;
        Ok(output)
    }

    fn check(&self) -> Result<()> {
        let metadata = self.path.metadata();
        ensure!(metadata.is_err() || self.path.is_file(), "it is not a file");
        self.temporary()?;
        Ok(())
    }

    /// Writes the file beside its place, and then puts it there.
    ///
    /// # Errors
    /// When that fails; then nothing has changed.
    pub fn write(&self, content: &str) -> Result<()> {
        let write = || -> Result<()> {
            let mut file = self.temporary()?;
            file.write_all(content.as_bytes())?;
            file.as_file().sync_all()?;
            file.persist(&self.path)?;
            Ok(())
        };
        write().with_context(|| self.failure())
    }

    fn temporary(&self) -> Result<NamedTempFile> {
        ensure!(
            self.path.file_name().is_some(),
            "it is not the name of a file"
        );
        let parent = self.path.parent().filter(|parent| *parent != Path::new(""));
        let mut builder = Builder::new();
        builder.prefix(".poet-bench");
        // As any new file, and not for the owner only.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        Ok(builder.tempfile_in(parent.unwrap_or(Path::new(".")))?)
    }

    fn failure(&self) -> String {
        format!("cannot write {}", self.path.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn whole_files_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report.json");
        let output = Output::new(path.clone()).unwrap();
        assert!(!path.exists());
        output.write("old").unwrap();
        output.write("new").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);

        for bad in [
            folder.path().to_owned(),
            folder.path().join("none/x"),
            "/".into(),
        ] {
            assert!(Output::new(bad.clone()).is_err(), "{}", bad.display());
        }
    }
}
