//! The file of an audit log: locked, and continued where it ends.

use super::chain::{Hash, Head, Seal};
use std::fs::{File, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Bytes of one line. Ours are far shorter.
pub(super) const MAX_LINE: u64 = 1 << 20;

/// Why a file cannot be an audit log's.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unusable {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("it is not an ordinary file")]
    NotAFile,
    #[error("another gateway writes to it")]
    Locked,
    #[error("its last line is no record that this configuration seals: it was changed, or sealed with another key")]
    Foreign,
    #[error("it ends in another chain")]
    OtherChain,
}

/// What a crash left at the end of a file.
pub(super) struct Torn {
    pub(super) bytes: Vec<u8>,
    pub(super) sha256: Hash,
}

/// Where records end up.
pub(super) trait Store: Send {
    /// Appends all of `bytes` and sees them to the disk, or leaves the place as it was.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Opens the place anew under its name, if it was moved away. Says whether it was. What is there already must be empty
    /// or end in `head`.
    fn reopen(&mut self, seal: &Seal, head: Head) -> Result<bool, Unusable>;
}

pub(super) struct ChainFile {
    path: PathBuf,
    file: File,
}

/// A file that was just opened, and where its chain ends.
pub(super) struct Opened {
    pub(super) file: ChainFile,
    pub(super) head: Head,
    pub(super) torn: Option<Torn>,
    /// It was not there before.
    pub(super) created: bool,
}

impl ChainFile {
    /// Opens, locks and reads the end. Half a line at the end is taken out, and given back to be recorded.
    pub(super) fn open(path: &Path, seal: &Seal) -> Result<Opened, Unusable> {
        // Opening a pipe would wait until somebody reads it.
        if std::fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
            return Err(Unusable::NotAFile);
        }
        // Who called what is not for everybody on this machine.
        let mut options = File::options();
        options.read(true).append(true).mode(0o640);
        let (mut file, created) = match options.clone().create_new(true).open(path) {
            Ok(file) => (file, true),
            // Or a link to nowhere, which is followed.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => (options.create(true).open(path)?, false),
            Err(error) => return Err(error.into()),
        };
        match file.try_lock() {
            // Whoever had it until now may have taken its name away, and then nobody would find what is written to it.
            Ok(()) if !is_at(&file, path)? => return Err(Unusable::Locked),
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Unusable::Locked),
            Err(TryLockError::Error(error)) => return Err(error.into()),
        }
        let (head, torn) = mend(&mut file, seal)?;
        Ok(Opened { file: Self { path: path.to_owned(), file }, head, torn, created })
    }
}

impl Store for ChainFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let before = self.file.metadata()?.len();
        let written = self.file.write_all(bytes).and_then(|()| self.file.sync_data());
        if written.is_err() {
            // What was written of it would be half a record; if this fails too, `mend` finds it at the next start.
            let _ = self.file.set_len(before);
        }
        written
    }

    fn reopen(&mut self, seal: &Seal, head: Head) -> Result<bool, Unusable> {
        if is_at(&self.file, &self.path)? {
            return Ok(false);
        }
        let opened = Self::open(&self.path, seal)?;
        if opened.head != Head::default() && opened.head != head {
            return Err(Unusable::OtherChain);
        }
        self.file = opened.file.file;
        Ok(true)
    }
}

/// Whether this file is the one of this name.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let here = file.metadata()?;
    Ok(std::fs::metadata(path).is_ok_and(|there| (there.dev(), there.ino()) == (here.dev(), here.ino())))
}

/// Removes a file that was made for a log that never began. Its lock is still held: nobody else writes to it.
pub(super) fn withdraw(path: &Path) {
    if std::fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.len() == 0)
        && let Err(error) = std::fs::remove_file(path)
    {
        tracing::warn!(path = %path.display(), %error, "an audit log that never began cannot be removed");
    }
}

/// Finds the last record, and takes out what stands after it.
fn mend(file: &mut File, seal: &Seal) -> Result<(Head, Option<Torn>), Unusable> {
    let len = file.seek(SeekFrom::End(0))?;
    let start = len.saturating_sub(2 * MAX_LINE);
    file.seek(SeekFrom::Start(start))?;
    let mut end = Vec::new();
    file.read_to_end(&mut end)?;
    let whole = memchr::memrchr(b'\n', &end).map_or(0, |at| at + 1);
    let (lines, rest) = end.split_at(whole);
    let head = match lines.strip_suffix(b"\n") {
        None if start > 0 => return Err(Unusable::Foreign),
        None => Head::default(),
        Some(lines) => {
            let begin = memchr::memrchr(b'\n', lines).map_or(0, |at| at + 1);
            let link = seal.read_line(lines.get(begin..).unwrap_or_default()).filter(|link| link.holds);
            link.ok_or(Unusable::Foreign)?.head()
        }
    };
    if rest.is_empty() {
        return Ok((head, None));
    }
    if let Some(link) = seal.read_line(rest).filter(|link| link.follows(head)) {
        // A whole record that lacks its line feed.
        file.write_all(b"\n")?;
        file.sync_data()?;
        return Ok((link.head(), None));
    }
    file.set_len(start + whole as u64)?;
    Ok((head, Some(Torn { sha256: Hash::of(rest), bytes: rest.to_vec() })))
}
