//! The server's key: 32 random bytes that every token and every keyed hash depends on.
//!
//! Whoever has it can prove any address, and whoever loses it makes every open session void. It is written nowhere but
//! in its own file, which only the server's user may read.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use ring::hmac;
use ring::rand::SystemRandom;

use super::{hex, random};

/// The key's length in bytes.
const LENGTH: usize = 32;

/// A key file is one line; more is some other file.
const LONGEST_FILE: u64 = 4096;

/// Both base64 alphabets are read, padded or not.
const LENIENT: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);

/// The server's key. Its `Debug` hides it.
#[derive(Clone)]
pub struct ServerKey([u8; LENGTH]);

/// A key that cannot be used. Each text is one line that says what to do, and holds nothing of the key.
#[derive(Debug, thiserror::Error)]
pub enum ServerKeyError {
    /// The text is no key.
    #[error("the server key must be 32 bytes, written as 64 hexadecimal digits or in base64")]
    Malformed,
    /// The file's text is no key.
    #[error(
        "the key file {} does not hold 32 bytes as 64 hexadecimal digits or in base64; restore it from a backup",
        .0.display()
    )]
    MalformedFile(PathBuf),
    /// Other users could read the file.
    #[error("the key file {} can be read by other users (mode {mode:03o}); run: chmod 600 {}", .path.display(), .path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file cannot be read or made.
    #[error("the key file {} cannot be {doing}: {source}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried: "read" or "created".
        doing: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

impl ServerKey {
    /// A new key of the operating system's randomness.
    pub fn generate() -> Self {
        Self(random(&SystemRandom::new()))
    }

    /// Reads a key: 64 hexadecimal digits, or 32 bytes in base64 (either alphabet, padded or not). White space around
    /// it is dropped.
    ///
    /// # Errors
    /// [`ServerKeyError::Malformed`].
    pub fn parse(text: &str) -> Result<Self, ServerKeyError> {
        let text = text.trim();
        let bytes = from_hex(text).or_else(|| {
            [alphabet::STANDARD, alphabet::URL_SAFE]
                .iter()
                .find_map(|alphabet| GeneralPurpose::new(alphabet, LENIENT).decode(text).ok())
        });
        let bytes = bytes.and_then(|bytes| <[u8; LENGTH]>::try_from(bytes).ok());
        bytes.map(Self).ok_or(ServerKeyError::Malformed)
    }

    /// Reads the key file at `path`, or makes it with a new key: whole at once and readable by its owner alone. Where
    /// two processes make it at the same time, both use the one that was first.
    ///
    /// # Errors
    /// [`ServerKeyError::Exposed`], [`ServerKeyError::MalformedFile`], [`ServerKeyError::Io`].
    pub fn load_or_create(path: &Path) -> Result<Self, ServerKeyError> {
        match Self::load(path) {
            Err(ServerKeyError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            loaded => return loaded,
        }
        match create(path, &Self::generate()) {
            // What is read back is what the next start will read.
            Ok(()) => Self::load(path),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Self::load(path),
            Err(source) => Err(ServerKeyError::Io { path: path.to_owned(), doing: "created", source }),
        }
    }

    /// Reads the key file at `path`.
    ///
    /// # Errors
    /// [`ServerKeyError::Exposed`], [`ServerKeyError::MalformedFile`], [`ServerKeyError::Io`].
    pub fn load(path: &Path) -> Result<Self, ServerKeyError> {
        let unreadable = |source| ServerKeyError::Io { path: path.to_owned(), doing: "read", source };
        let file = File::open(path).map_err(unreadable)?;
        // The open file is judged, not its name, which could have changed hands in between.
        if let Some(mode) = exposed_mode(&file).map_err(unreadable)? {
            return Err(ServerKeyError::Exposed { path: path.to_owned(), mode });
        }
        let mut bytes = Vec::new();
        file.take(LONGEST_FILE).read_to_end(&mut bytes).map_err(unreadable)?;
        let text = std::str::from_utf8(&bytes).unwrap_or_default();
        Self::parse(text).map_err(|_| ServerKeyError::MalformedFile(path.to_owned()))
    }

    /// Sixteen hexadecimal digits that tell keys apart without telling the key.
    pub fn fingerprint(&self) -> String {
        let tag = self.derive("fingerprint");
        hex(tag.as_ref().get(..8).unwrap_or_default())
    }

    /// The key of one purpose.
    pub(super) fn key_for(&self, purpose: &str) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, self.derive(purpose).as_ref())
    }

    fn derive(&self, purpose: &str) -> hmac::Tag {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.0);
        hmac::sign(&key, format!("threepid/v1/{purpose}").as_bytes())
    }
}

impl fmt::Debug for ServerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServerKey(…)")
    }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    if text.len() != 2 * LENGTH || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let digits = (0..LENGTH).map(|i| text.get(2 * i..2 * i + 2));
    digits.map(|pair| u8::from_str_radix(pair?, 16).ok()).collect()
}

/// Writes the key beside its place and links it there: a reader sees the whole file or none, and an existing file is
/// never replaced.
fn create(path: &Path, key: &ServerKey) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let draft = folder.join(format!(".threepid-key-{}", hex(&random::<8>(&SystemRandom::new()))));
    let written = write_private(&draft, &format!("{}\n", hex(&key.0)))
        .and_then(|()| fs::hard_link(&draft, path))
        .and_then(|()| sync_folder(folder));
    // The draft may never have come to be; the error that counts is the first one.
    let _ = fs::remove_file(&draft);
    written
}

fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(unix)]
fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(not(unix))]
fn sync_folder(_folder: &Path) -> io::Result<()> {
    Ok(())
}

/// The file's permission bits where they let others in.
#[cfg(unix)]
fn exposed_mode(file: &File) -> io::Result<Option<u32>> {
    let mode = std::os::unix::fs::MetadataExt::mode(&file.metadata()?) & 0o777;
    Ok((mode & 0o077 != 0).then_some(mode))
}

#[cfg(not(unix))]
fn exposed_mode(_file: &File) -> io::Result<Option<u32>> {
    Ok(None)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that meets an error has failed")]

    use super::*;

    const HEX: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

    #[test]
    fn a_key_is_read_from_hexadecimal_and_from_either_base64() {
        let fingerprint = ServerKey::parse(HEX).unwrap().fingerprint();
        for same in [
            HEX.to_uppercase().as_str(),
            &format!(" {HEX}\n"),
            "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
            "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8",
        ] {
            assert_eq!(ServerKey::parse(same).unwrap().fingerprint(), fingerprint, "{same}");
        }
        let standard = ServerKey::parse("//////////////////////////////////////////8=").unwrap();
        let url_safe = ServerKey::parse("__________________________________________8").unwrap();
        assert_eq!(standard.fingerprint(), url_safe.fingerprint());
    }

    #[test]
    fn what_is_no_32_bytes_is_no_key() {
        let short = &HEX[2..];
        let long = format!("{HEX}00");
        for bad in ["", "secret", short, &long, "AAECAwQFBgcICQoLDA0ODw==", "ß"] {
            assert!(matches!(ServerKey::parse(bad), Err(ServerKeyError::Malformed)), "{bad}");
        }
    }

    #[test]
    fn debug_tells_no_key() {
        assert_eq!(format!("{:?}", ServerKey::parse(HEX).unwrap()), "ServerKey(…)");
    }

    #[test]
    fn a_key_file_is_made_once_and_read_from_then_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let made = ServerKey::load_or_create(&path).unwrap();
        let read = ServerKey::load_or_create(&path).unwrap();
        assert_eq!(made.fingerprint(), read.fingerprint());
        let names: Vec<_> =
            fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["key"], "no draft is left behind");
    }

    #[test]
    fn processes_that_start_together_share_one_key() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let fingerprints: Vec<String> = std::thread::scope(|scope| {
            let starts: Vec<_> = (0..8).map(|_| scope.spawn(|| ServerKey::load_or_create(&path))).collect();
            starts.into_iter().map(|start| start.join().unwrap().unwrap().fingerprint()).collect()
        });
        assert!(fingerprints.windows(2).all(|pair| pair[0] == pair[1]), "{fingerprints:?}");
    }

    #[cfg(unix)]
    #[test]
    fn a_key_file_is_for_its_owner_alone() {
        use std::os::unix::fs::PermissionsExt as _;

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        ServerKey::load_or_create(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        for mode in [0o644, 0o640, 0o604] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let said = ServerKey::load_or_create(&path).unwrap_err().to_string();
            assert!(said.contains(&format!("mode {mode:03o}")) && said.contains("chmod 600"), "{said}");
        }
    }

    #[test]
    fn a_broken_key_file_is_refused_and_never_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        for text in ["", "deadbeef\n", "\u{0}"] {
            let _ = fs::remove_file(&path);
            write_private(&path, text).unwrap();
            let refused = ServerKey::load_or_create(&path).unwrap_err();
            assert!(matches!(refused, ServerKeyError::MalformedFile(_)), "{refused}");
            assert!(!refused.to_string().contains("deadbeef"));
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let said = ServerKey::load_or_create(&folder.path().join("no/key")).unwrap_err().to_string();
        assert!(said.contains("no/key cannot be created"), "{said}");
    }
}
