//! Where the demo keeps its files.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A folder for one demo: the one that was named, which stays, or a new one, which goes with the demo.
#[derive(Debug)]
pub(crate) struct DemoFolder {
    path: PathBuf,
    is_ours: bool,
}

impl DemoFolder {
    /// Makes the folder that was named, if it is not there, or a new one among the temporary files.
    ///
    /// # Errors
    /// What the file system says.
    pub(crate) fn open(named: Option<PathBuf>) -> io::Result<Self> {
        if let Some(path) = named {
            fs::create_dir_all(&path)?;
            return Ok(Self { path, is_ours: false });
        }
        let process = std::process::id();
        for turn in 0_u16.. {
            let path = std::env::temp_dir().join(format!("threepid-demo-{process}-{turn}"));
            // A folder that is there already may be somebody else's.
            match create_private(&path) {
                Ok(()) => return Ok(Self { path, is_ours: true }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    /// The folder.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it goes with the demo.
    pub(crate) fn is_ours(&self) -> bool {
        self.is_ours
    }
}

impl Drop for DemoFolder {
    fn drop(&mut self) {
        if self.is_ours {
            // What cannot be removed is left to the system's own cleaning of temporary files.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

#[cfg(unix)]
fn create_private(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    fs::DirBuilder::new().mode(0o700).create(path)
}

#[cfg(not(unix))]
fn create_private(path: &Path) -> io::Result<()> {
    fs::create_dir(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_of_its_own_goes_with_the_demo_and_a_named_one_stays() -> io::Result<()> {
        let own = DemoFolder::open(None)?;
        let path = own.path().to_owned();
        assert!(path.is_dir() && own.is_ours());
        drop(own);
        assert!(!path.exists());

        let parent = tempfile::tempdir()?;
        let named = parent.path().join("demo");
        drop(DemoFolder::open(Some(named.clone()))?);
        assert!(named.is_dir());
        Ok(())
    }

    #[test]
    fn two_demos_do_not_share_a_folder() -> io::Result<()> {
        let (one, other) = (DemoFolder::open(None)?, DemoFolder::open(None)?);
        assert_ne!(one.path(), other.path());
        Ok(())
    }
}
