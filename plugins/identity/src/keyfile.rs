//! The last good answer with an issuer's keys, in a file: what a restart goes on with while the issuer is away.
//!
//! Whoever can write the file can forge every token of the issuer. So others must not be able to write to its folder,
//! and what is read is judged as a fresh answer is. The time of the answer is in the file, and counts.

use crate::jose;
use crate::jwks::{self, JwksError, Parsed};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// An answer of the largest size, with every byte of it escaped.
const MOST_BYTES: u64 = 7 * crate::fetch::MOST_BYTES as u64;
/// Clocks are set back by a little now and then.
const FUTURE: Duration = Duration::from_secs(60);
const FORM: u64 = 1;

/// Why a file gives no keys, or cannot be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeyFileError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("others than its owner can write to it, and could so forge tokens")]
    Writable,
    #[error("it is not a key cache: {0}")]
    Form(String),
    #[error("it is of another issuer, or from another address")]
    Foreign,
    #[error("it was written in the future; the clocks were changed")]
    Future,
    #[error("its keys are {} old, more than `max_stale`", crate::spoken::span(*.0))]
    Stale(Duration),
    #[error("{0}")]
    Keys(#[from] JwksError),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    form: u64,
    issuer: String,
    /// Everything that decides which keys are fetched, as a digest.
    source: String,
    /// Seconds since 1970.
    fetched_at: u64,
    /// The answer, to the letter.
    jwks: String,
}

pub(crate) struct KeyFile {
    path: PathBuf,
    issuer: String,
    source: String,
}

impl KeyFile {
    /// `source`: the digest of everything that decides which keys are fetched; the name of the file.
    ///
    /// # Errors
    /// If the folder is there and cannot be trusted, or is none.
    pub fn new(folder: &Path, issuer: &str, source: &str) -> Result<Self, KeyFileError> {
        match std::fs::metadata(folder) {
            Ok(found) if !found.is_dir() => return Err(io::Error::from(io::ErrorKind::NotADirectory).into()),
            Ok(found) => owner_only(&found)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
        let path = folder.join(format!("{source}.json"));
        Ok(Self { path, issuer: issuer.to_owned(), source: source.to_owned() })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The keys and their age. `None` if there is no file yet.
    pub fn read(&self, now: SystemTime, max_stale: Duration) -> Result<Option<(Parsed, Duration)>, KeyFileError> {
        let file = match std::fs::File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        owner_only(&file.metadata()?)?;
        let mut bytes = Vec::new();
        file.take(MOST_BYTES + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MOST_BYTES {
            return Err(KeyFileError::Form(format!("more than {MOST_BYTES} bytes")));
        }
        let strict = jose::object("file", &bytes).map_err(|error| KeyFileError::Form(error.to_string()))?;
        let content: Content =
            serde_json::from_value(Value::Object(strict)).map_err(|error| KeyFileError::Form(jose::safe(&error.to_string())))?;
        if content.form != FORM {
            return Err(KeyFileError::Form("written by another version".to_owned()));
        }
        if content.issuer != self.issuer || content.source != self.source {
            return Err(KeyFileError::Foreign);
        }
        let fetched_at = UNIX_EPOCH.checked_add(Duration::from_secs(content.fetched_at)).ok_or(KeyFileError::Future)?;
        let age = match now.duration_since(fetched_at) {
            Ok(age) => age,
            Err(ahead) if ahead.duration() <= FUTURE => Duration::ZERO,
            Err(_) => return Err(KeyFileError::Future),
        };
        if age > max_stale {
            return Err(KeyFileError::Stale(Duration::from_secs(age.as_secs())));
        }
        Ok(Some((jwks::parse(content.jwks.as_bytes(), &self.issuer)?, age)))
    }

    /// Takes the place of the file at once or not at all.
    pub fn write(&self, answer: &[u8], fetched_at: SystemTime) -> Result<(), KeyFileError> {
        let folder = self.path.parent().unwrap_or(Path::new("."));
        create_folder(folder)?;
        owner_only(&std::fs::metadata(folder)?)?;
        let content = Content {
            form: FORM,
            issuer: self.issuer.clone(),
            source: self.source.clone(),
            fetched_at: fetched_at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
            jwks: String::from_utf8_lossy(answer).into_owned(),
        };
        let text = serde_json::to_vec(&content).map_err(|error| KeyFileError::Form(error.to_string()))?;
        // Made for its owner alone.
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(&text)?;
        file.as_file().sync_all()?;
        file.persist(&self.path).map_err(|error| error.error)?;
        Ok(())
    }
}

#[cfg(unix)]
fn owner_only(found: &std::fs::Metadata) -> Result<(), KeyFileError> {
    use std::os::unix::fs::PermissionsExt;
    if found.permissions().mode() & 0o022 == 0 { Ok(()) } else { Err(KeyFileError::Writable) }
}

#[cfg(not(unix))]
fn owner_only(_: &std::fs::Metadata) -> Result<(), KeyFileError> {
    Ok(())
}

fn create_folder(folder: &Path) -> io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}
