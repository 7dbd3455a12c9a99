//! The operator's own templates.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::{BUILT_IN, InvalidTemplates};

/// A template of the operator's.
pub(super) struct Override {
    /// The file, for errors.
    pub(super) path: PathBuf,
    /// What it says.
    pub(super) source: String,
}

/// Reads the templates of a folder, by name. A template file under a name that is none is an error: it would never be
/// shown, and nobody would know why.
pub(super) fn read(folder: &Path) -> Result<HashMap<&'static str, Override>, InvalidTemplates> {
    let mut found = HashMap::new();
    for name in template_files(folder)? {
        let path = folder.join(&name);
        let Some((name, _)) = BUILT_IN.iter().find(|(known, _)| Path::new(known) == name) else {
            let names = BUILT_IN.map(|(name, _)| name).join(", ");
            return Err(InvalidTemplates::Unknown { path, names });
        };
        let source = fs::read_to_string(&path).map_err(unreadable(&path))?;
        found.insert(*name, Override { path, source });
    }
    Ok(found)
}

/// The `.j2` files in the folder and one level below, relative to it.
fn template_files(folder: &Path) -> Result<Vec<PathBuf>, InvalidTemplates> {
    let mut files = Vec::new();
    for entry in entries(folder)? {
        if entry.is_dir() {
            files.extend(entries(&entry)?);
        } else {
            files.push(entry);
        }
    }
    files.retain(|path| path.extension().is_some_and(|extension| extension == "j2"));
    Ok(files.iter().filter_map(|path| path.strip_prefix(folder).ok()).map(Path::to_owned).collect())
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, InvalidTemplates> {
    let entries = fs::read_dir(folder).map_err(unreadable(folder))?;
    entries.map(|entry| entry.map(|entry| entry.path()).map_err(unreadable(folder))).collect()
}

fn unreadable(path: &Path) -> impl Fn(std::io::Error) -> InvalidTemplates + '_ {
    |source| InvalidTemplates::Unreadable { path: path.to_owned(), source }
}
