//! The homeserver's signing key, with which an unbind is signed as the homeserver.
//!
//! Two formats are read: Synapse's (`ed25519 a_AbCd <unpadded base64 of the seed>`, one key a line, the first counts)
//! and Dendrite's (PEM, `MATRIX PRIVATE KEY`, with a `Key-ID` header). Whoever holds this key is the homeserver, so a
//! file that others than its owner may read is refused.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use pkcs8::ObjectIdentifier;
use ruma_common::CanonicalJsonObject;
use ruma_signatures::Ed25519KeyPair;
use threepid_domain::model::IdentityServerName;

/// Ed25519 ([RFC 8410](https://www.rfc-editor.org/rfc/rfc8410#section-3)).
const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");

/// No key file is longer, in bytes.
const LONGEST: u64 = 16 * 1024;

/// Base64 with or without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// What stands around Dendrite's key.
const PEM_BEGIN: &str = "-----BEGIN MATRIX PRIVATE KEY-----";
const PEM_END: &str = "-----END MATRIX PRIVATE KEY-----";

/// A homeserver's name and signing key. `Debug` shows the name and the key's identifier.
pub struct SigningKey {
    homeserver: String,
    pair: Ed25519KeyPair,
}

/// Why a key file is not used.
#[derive(Debug, thiserror::Error)]
pub enum SigningKeyError {
    /// There is no such file.
    #[error("the signing key {0} is not there")]
    Missing(PathBuf),
    /// It is no regular file, or this process may not read it.
    #[error("the signing key {path} cannot be read: {why}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// Others than its owner may read or change it.
    #[error("the signing key {path} may be used by others (mode {mode:04o}); run chmod 600 on it")]
    OpenToOthers {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It holds no key in a known format.
    #[error(
        "the signing key {path} is neither Synapse's (`ed25519 <id> <base64>`) nor Dendrite's (PEM, MATRIX PRIVATE KEY): {why}"
    )]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, without its contents.
        why: &'static str,
    },
    /// The homeserver's name is none.
    #[error("{0:?} is not a homeserver's name")]
    Homeserver(String),
}

impl SigningKey {
    /// Reads the key of `homeserver`, the name that its users' IDs end with.
    ///
    /// # Errors
    /// [`SigningKeyError`].
    pub fn read(path: &Path, homeserver: &str) -> Result<Self, SigningKeyError> {
        if IdentityServerName::parse(homeserver).is_err() {
            return Err(SigningKeyError::Homeserver(homeserver.to_owned()));
        }
        let pair = pair(&read_guarded(path)?);
        let pair = pair.map_err(|why| SigningKeyError::Format { path: path.to_owned(), why })?;
        Ok(Self { homeserver: homeserver.to_owned(), pair })
    }

    /// The key that a file of this text holds, and the public one.
    #[cfg(test)]
    pub(super) fn of_text(text: &str, homeserver: &str) -> Result<(Self, [u8; 32]), &'static str> {
        let pair = pair(text)?;
        let public = pair.public_key();
        Ok((Self { homeserver: homeserver.to_owned(), pair }, public))
    }

    /// The homeserver's name.
    pub fn homeserver(&self) -> &str {
        &self.homeserver
    }

    /// The key's identifier, `ed25519:…`.
    pub fn id(&self) -> String {
        format!("ed25519:{}", self.pair.version())
    }

    /// Signs an object's [canonical JSON]; the signature is unpadded base64. `None` if it cannot be signed.
    ///
    /// [canonical JSON]: https://spec.matrix.org/v1.18/appendices/#signing-json
    pub(super) fn sign(&self, mut object: CanonicalJsonObject) -> Option<String> {
        ruma_signatures::sign_json(&self.homeserver, &self.pair, &mut object).ok()?;
        let signatures = object.get("signatures")?.as_object()?.get(&self.homeserver)?.as_object()?;
        Some(signatures.get(&self.id())?.as_str()?.to_owned())
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey")
            .field("homeserver", &self.homeserver)
            .field("id", &self.id())
            .finish_non_exhaustive()
    }
}

/// The file's text, if nobody but its owner can use it.
fn read_guarded(path: &Path) -> Result<String, SigningKeyError> {
    let failed = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => SigningKeyError::Missing(path.to_owned()),
        _ => SigningKeyError::Unreadable { path: path.to_owned(), why: error.to_string() },
    };
    // Opening a pipe would wait for its writer.
    if !std::fs::metadata(path).map_err(failed)?.is_file() {
        return Err(SigningKeyError::Unreadable { path: path.to_owned(), why: "no regular file".to_owned() });
    }
    let file = File::open(path).map_err(failed)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(SigningKeyError::OpenToOthers { path: path.to_owned(), mode });
        }
    }
    let mut bytes = Vec::new();
    file.take(LONGEST + 1).read_to_end(&mut bytes).map_err(failed)?;
    let format = |why| SigningKeyError::Format { path: path.to_owned(), why };
    if bytes.len() as u64 > LONGEST {
        return Err(format("it is too long"));
    }
    String::from_utf8(bytes).map_err(|_| format("it is not text"))
}

/// The first key of a file's text; an error says what is wrong without the text.
fn pair(text: &str) -> Result<Ed25519KeyPair, &'static str> {
    let (version, seed) = match text.contains(PEM_BEGIN) {
        true => dendrite(text),
        false => synapse(text),
    }?;
    if version.is_empty() || !version.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        return Err("the key's identifier is not made of letters, digits and underscores");
    }
    let seed = BASE64.decode(seed).map_err(|_| "the key is not base64")?;
    let seed: [u8; 32] = seed.try_into().map_err(|_| "the key has not 32 bytes")?;
    Ed25519KeyPair::new(ED25519, &seed, None, version).map_err(|_| "the key is no Ed25519 seed")
}

/// Identifier and base64 of the first line that is not empty.
fn synapse(text: &str) -> Result<(String, String), &'static str> {
    let line = text.lines().map(str::trim).find(|line| !line.is_empty()).ok_or("it is empty")?;
    let mut words = line.split_whitespace();
    match (words.next(), words.next(), words.next(), words.next()) {
        (Some("ed25519"), Some(version), Some(seed), None) => Ok((version.to_owned(), seed.to_owned())),
        _ => Err("its first line is not `ed25519 <id> <base64>`"),
    }
}

/// Identifier and base64 of the first block.
fn dendrite(text: &str) -> Result<(String, String), &'static str> {
    let (_, block) = text.split_once(PEM_BEGIN).ok_or("no MATRIX PRIVATE KEY in it")?;
    let (block, _) = block.split_once(PEM_END).ok_or("the block has no end")?;
    let mut version = None;
    let mut seed = String::new();
    for line in block.lines().map(str::trim) {
        match line.split_once(':') {
            Some((name, value)) if name.eq_ignore_ascii_case("Key-ID") => version = Some(value.trim()),
            Some(_another_header) => {}
            None => seed.push_str(line),
        }
    }
    let version = version.ok_or("the block has no Key-ID")?;
    let version = version.strip_prefix("ed25519:").ok_or("its Key-ID does not begin with ed25519:")?;
    Ok((version.to_owned(), seed))
}

#[cfg(test)]
#[expect(clippy::expect_used, reason = "a test fails where what it prepares fails")]
mod tests {
    use std::fmt::Write as _;
    use std::os::unix::fs::PermissionsExt;

    use serde_json::json;
    use tempfile::TempDir;

    use super::*;

    const SEED: &str = "YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1";

    fn file(text: impl AsRef<[u8]>, mode: u32) -> (TempDir, PathBuf) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("signing.key");
        std::fs::write(&path, text).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("permitted");
        (folder, path)
    }

    fn read(text: impl AsRef<[u8]>) -> Result<SigningKey, SigningKeyError> {
        let (_folder, path) = file(text, 0o600);
        SigningKey::read(&path, "hs.example:8448")
    }

    fn dendrite_pem(headers: &str, seed: &str) -> String {
        format!("{PEM_BEGIN}\n{headers}\n\n{seed}\n{PEM_END}\n")
    }

    #[test]
    fn a_key_is_read_as_synapse_and_as_dendrite_write_it() {
        let padded = format!("{SEED}=");
        let synapse = format!("ed25519 a_uTBo {SEED}\n");
        let several = format!("\n{synapse}ed25519 a_Old {}\n", "A".repeat(43));
        let pem = dendrite_pem("Key-ID: ed25519:uTBo12", &padded);
        let public = |key: &SigningKey| key.pair.public_key();
        let first = read(&synapse).expect("Synapse's");
        assert_eq!(first.id(), "ed25519:a_uTBo");
        for (text, id) in [(several, "ed25519:a_uTBo"), (pem, "ed25519:uTBo12")] {
            let key = read(&text).expect("a key");
            assert_eq!((key.id().as_str(), public(&key)), (id, public(&first)));
            assert_eq!(key.homeserver(), "hs.example:8448");
        }
    }

    #[test]
    fn what_is_no_key_is_refused_in_one_line_that_tells_no_key() {
        for (text, why) in [
            (String::new(), "it is empty"),
            ("-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIA==\n".to_owned(), "first line"),
            (format!("ed25519 a_uTBo {SEED} more"), "first line"),
            (format!("curve25519 a_uTBo {SEED}"), "first line"),
            (format!("ed25519 a:b {SEED}"), "identifier"),
            (format!("ed25519 a\"b {SEED}"), "identifier"),
            ("ed25519 a_uTBo !!!".to_owned(), "base64"),
            (format!("ed25519 a_uTBo {SEED}{SEED}"), "32 bytes"),
            ("ed25519 a_uTBo AAAA".to_owned(), "32 bytes"),
            (dendrite_pem("", SEED), "no Key-ID"),
            (dendrite_pem("Key-ID: rsa:1", SEED), "ed25519:"),
            (format!("{PEM_BEGIN}\nKey-ID: ed25519:1\n\n{SEED}"), "no end"),
            ("a".repeat(20_000), "too long"),
        ] {
            let error = read(&text).expect_err(&text);
            let line = error.to_string();
            assert!(matches!(error, SigningKeyError::Format { .. }), "{line}");
            assert!(line.contains(why) && !line.contains('\n') && !line.contains(SEED), "{line}");
        }
        assert!(matches!(read([0xff, 0xfe]), Err(SigningKeyError::Format { why: "it is not text", .. })));
    }

    #[test]
    fn a_file_that_is_missing_no_file_or_open_to_others_is_refused() {
        let (folder, path) = file(format!("ed25519 a_uTBo {SEED}"), 0o600);
        let read = |path: &Path| SigningKey::read(path, "hs.example").expect_err("refused");
        assert!(matches!(read(&folder.path().join("other")), SigningKeyError::Missing(_)));
        assert!(matches!(read(folder.path()), SigningKeyError::Unreadable { .. }));
        for mode in [0o640, 0o604, 0o660, 0o644, 0o777, 0o620, 0o610] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("permitted");
            let line = read(&path).to_string();
            assert!(line.contains(&format!("{mode:04o}")) && line.contains("chmod 600"), "{line}");
        }
        for mode in [0o600, 0o400] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("permitted");
            assert!(SigningKey::read(&path, "hs.example").is_ok());
        }
        for name in ["", "https://hs.example", "hs.example/", "a\"b"] {
            assert!(matches!(SigningKey::read(&path, name), Err(SigningKeyError::Homeserver(_))), "{name}");
        }
    }

    #[test]
    fn debug_tells_no_key() {
        let mut shown = String::new();
        write!(shown, "{:?}", read(format!("ed25519 a_uTBo {SEED}"))).expect("written");
        assert_eq!(shown, r#"Ok(SigningKey { homeserver: "hs.example:8448", id: "ed25519:a_uTBo", .. })"#);
    }

    #[test]
    fn the_signature_is_of_the_canonical_json() {
        let key = read(format!("ed25519 a_uTBo {SEED}")).expect("a key");
        let object = serde_json::from_value(json!({"b": {"z": "é", "a": 1}, "a": ["x", null]}));
        let signature = key.sign(object.expect("an object")).expect("signed");
        let public =
            ring::signature::UnparsedPublicKey::new(&ring::signature::ED25519, key.pair.public_key());
        let bytes = BASE64.decode(&signature).expect("base64");
        assert!(!signature.ends_with('='));
        let canonical = r#"{"a":["x",null],"b":{"a":1,"z":"é"}}"#;
        assert!(public.verify(canonical.as_bytes(), &bytes).is_ok());
    }
}
