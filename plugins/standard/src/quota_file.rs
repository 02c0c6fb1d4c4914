//! Counts of quotas in a file, so that they outlive the process.
//!
//! A key is not in it, only 64 bits of a SHA-256 with a secret seed, which is in the file too. The file is written whole and
//! put in its place at once. It ends with its own SHA-256: one that was cut off, or mixed up, is not read in part, because a
//! count that is missing is a quota that begins anew.

use aws_lc_rs::digest::{SHA256, digest};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

const MAGIC: &[u8] = b"portcullis quotas 1\n";
const SEED: usize = 32;
const ENTRY: usize = 17;
const SUM: usize = 32;
/// Of a table for [`MAX_KEYS`]: sets are half full at that number, and there may be counts by the day and by the month.
const MAX_ENTRIES: usize = 5 * MAX_KEYS;
/// A table of this size has 16 bytes a slot here and is written once a second at most.
pub(crate) const MAX_KEYS: usize = 1_000_000;

/// One count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) by_month: bool,
    /// Never 0.
    pub(crate) tag: u64,
    pub(crate) period: u32,
    pub(crate) used: u32,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("others than its owner can write to it, and could so give away quotas")]
    Writable,
    #[error("it is damaged, or no file of quotas")]
    Damaged,
}

/// The seed of the keys' hashes, and the counts.
type Content = ([u8; SEED], Vec<Entry>);

pub(crate) struct QuotaFile {
    folder: PathBuf,
    path: PathBuf,
}

impl QuotaFile {
    /// `of`: what is counted there, and where. Each has its own file in the folder.
    pub(crate) fn new(folder: PathBuf, of: &str) -> Self {
        let sum = digest(&SHA256, of.as_bytes());
        let name = sum.as_ref().iter().take(16).fold(String::new(), |name, byte| format!("{name}{byte:02x}"));
        Self { path: folder.join(format!("{name}.quotas")), folder }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// `None` if there is no file yet.
    pub(crate) fn read(&self) -> Result<Option<Content>, FileError> {
        match std::fs::metadata(&self.folder) {
            Ok(found) if !found.is_dir() => return Err(io::Error::from(io::ErrorKind::NotADirectory).into()),
            Ok(found) => owner_only(&found)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        let file = match std::fs::File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        owner_only(&file.metadata()?)?;
        let most = MAGIC.len() + SEED + ENTRY * MAX_ENTRIES + SUM;
        let mut bytes = Vec::new();
        file.take(most as u64 + 1).read_to_end(&mut bytes)?;
        if bytes.len() > most {
            return Err(FileError::Damaged);
        }
        parse(&bytes).ok_or(FileError::Damaged).map(Some)
    }

    /// Takes the place of the file at once or not at all.
    pub(crate) fn write(&self, seed: &[u8; SEED], entries: &[Entry]) -> Result<(), FileError> {
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(&self.folder)?;
        owner_only(&std::fs::metadata(&self.folder)?)?;
        // Made for its owner alone.
        let mut file = tempfile::NamedTempFile::new_in(&self.folder)?;
        file.write_all(&written(seed, entries))?;
        file.as_file().sync_all()?;
        file.persist(&self.path).map_err(|error| error.error)?;
        Ok(())
    }
}

fn written(seed: &[u8; SEED], entries: &[Entry]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(MAGIC.len() + SEED + ENTRY * entries.len() + SUM);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(seed);
    for entry in entries {
        bytes.push(u8::from(entry.by_month));
        bytes.extend_from_slice(&entry.tag.to_le_bytes());
        bytes.extend_from_slice(&entry.period.to_le_bytes());
        bytes.extend_from_slice(&entry.used.to_le_bytes());
    }
    let sum = digest(&SHA256, &bytes);
    bytes.extend_from_slice(sum.as_ref());
    bytes
}

fn parse(bytes: &[u8]) -> Option<Content> {
    let (content, sum) = bytes.split_last_chunk::<SUM>()?;
    if digest(&SHA256, content).as_ref() != sum {
        return None;
    }
    let (seed, rest) = content.strip_prefix(MAGIC)?.split_first_chunk::<SEED>()?;
    let (entries, []) = rest.as_chunks::<ENTRY>() else { return None };
    Some((*seed, entries.iter().map(entry).collect::<Option<_>>()?))
}

fn entry(bytes: &[u8; ENTRY]) -> Option<Entry> {
    let (kind, rest) = bytes.split_first()?;
    let (tag, rest) = rest.split_first_chunk()?;
    let (period, rest) = rest.split_first_chunk()?;
    let tag = u64::from_le_bytes(*tag);
    let by_month = match kind {
        0 => false,
        1 => true,
        _ => return None,
    };
    let used = u32::from_le_bytes(rest.try_into().ok()?);
    (tag != 0).then_some(Entry { by_month, tag, period: u32::from_le_bytes(*period), used })
}

#[cfg(unix)]
fn owner_only(found: &std::fs::Metadata) -> Result<(), FileError> {
    use std::os::unix::fs::PermissionsExt;
    if found.permissions().mode() & 0o022 == 0 { Ok(()) } else { Err(FileError::Writable) }
}

#[cfg(not(unix))]
fn owner_only(_: &std::fs::Metadata) -> Result<(), FileError> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entries() -> Vec<Entry> {
        vec![
            Entry { by_month: true, tag: 1, period: 24_324, used: 7 },
            Entry { by_month: false, tag: u64::MAX, period: u32::MAX, used: u32::MAX },
        ]
    }

    #[test]
    fn what_is_written_is_read_and_every_change_of_it_is_seen() {
        let whole = written(&[9; SEED], &entries());
        assert_eq!(parse(&whole), Some(([9; SEED], entries())));
        assert_eq!(parse(&written(&[9; SEED], &[])), Some(([9; SEED], Vec::new())));
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            assert_eq!(parse(&changed), None, "byte {at}");
            assert_eq!(parse(&whole[..at]), None, "cut off at {at}");
        }
        assert_eq!(parse(&[whole.as_slice(), b"x"].concat()), None);
    }

    #[test]
    fn each_place_has_its_own_file() {
        let name = |of: &str| QuotaFile::new("a".into(), of).path().to_owned();
        assert_eq!(name("x"), name("x"));
        assert_ne!(name("x"), name("y"));
    }

    proptest! {
        #[test]
        fn no_file_breaks_it(bytes in any::<Vec<u8>>(), seed in any::<[u8; SEED]>()) {
            let _ = parse(&bytes);
            let _ = parse(&[MAGIC, &bytes].concat());
            // With a good sum, so that what is inside is looked at.
            let content = [MAGIC, &seed, &bytes].concat();
            let _ = parse(&[content.as_slice(), digest(&SHA256, &content).as_ref()].concat());
        }
    }
}
