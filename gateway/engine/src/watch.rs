//! Reloads when a file that the configuration was made from changes.
//!
//! Folders are watched, not files: editors and Kubernetes replace a file or a link by renaming another into its place,
//! and a watch on the file would stay with the old one. Content decides, not time stamps: a touched file reloads nothing.

use crate::gateway::Inner;
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Weak;
use std::time::{Duration, SystemTime};
use tokio::sync::{mpsc, watch};

/// Changes that come within this time are one: a certificate and its key are two files.
const SETTLE: Duration = Duration::from_millis(250);
/// Where the system cannot tell of changes (some network file systems), this is how long one may go unnoticed.
const POLL: Duration = Duration::from_secs(30);

pub struct Watcher {
    task: tokio::task::JoinHandle<()>,
}

impl Watcher {
    /// `None` if there is nothing to watch.
    pub(crate) fn start(gateway: Weak<Inner>, mut stopping: watch::Receiver<bool>) -> Option<Self> {
        gateway.upgrade()?;
        let (changed, mut changes) = mpsc::channel(1);
        let notifier = notify::recommended_watcher(move |_| {
            // One waiting notice is enough.
            let _ = changed.try_send(());
        });
        let mut notifier = match notifier {
            Ok(notifier) => Some(notifier),
            Err(error) => {
                tracing::warn!(%error, "file changes are noticed by polling only");
                None
            }
        };
        // Before the first await: what changes from now on is noticed.
        let mut folders = BTreeSet::new();
        let mut seen = follow(&gateway, notifier.as_mut(), &mut folders)?;
        let task = tokio::spawn(async move {
            let mut again = false;
            loop {
                tokio::select! {
                    _ = stopping.wait_for(|stop| *stop) => return,
                    Some(()) = changes.recv() => {}
                    () = tokio::time::sleep(if again { Duration::ZERO } else { POLL }) => {}
                }
                tokio::time::sleep(SETTLE).await;
                while changes.try_recv().is_ok() {}
                let Some(inner) = gateway.upgrade() else { return };
                if fingerprint(&watched(&inner)) == seen {
                    continue;
                }
                // Whether it succeeds or not, this content has been tried; the log and the metrics say how it went.
                let tried = fingerprint(&watched(&inner));
                let began = SystemTime::now();
                let _ = inner.reload().await;
                drop(inner);
                let Some(now) = follow(&gateway, notifier.as_mut(), &mut folders) else { return };
                (seen, again) = seen_by(now, &tried, began);
            }
        });
        Some(Self { task })
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn watched(inner: &Inner) -> Vec<PathBuf> {
    let mut files = inner.files();
    files.extend(inner.config_path().map(Path::to_owned));
    files.sort();
    files.dedup();
    files
}

/// What a reload that began then has seen of the files there are `now`, and whether there is something that it may have missed.
fn seen_by(now: BTreeMap<PathBuf, u64>, tried: &BTreeMap<PathBuf, u64>, began: SystemTime) -> (BTreeMap<PathBuf, u64>, bool) {
    let all = now.len();
    let seen: BTreeMap<_, _> = now
        .into_iter()
        .filter_map(|(path, hash)| match tried.get(&path) {
            // What was tried counts as seen, not what a file became in the meantime: that is the next round's.
            Some(tried) => Some((path, *tried)),
            // Nobody watched it while the reload read it, or did not find it.
            None if changed_since(&path, began) => None,
            None => Some((path, hash)),
        })
        .collect();
    let again = seen.len() < all;
    (seen, again)
}

/// Whether the file was written, or put in its place, since then.
fn changed_since(path: &Path, then: SystemTime) -> bool {
    // The clock of files goes in steps; what led to the reload is older than this, by `SETTLE`.
    let then = then.checked_sub(SETTLE / 4).unwrap_or(then);
    #[cfg(unix)]
    let changed = |about: &std::fs::Metadata| {
        use std::os::unix::fs::MetadataExt;
        let since = Duration::new(u64::try_from(about.ctime()).ok()?, u32::try_from(about.ctime_nsec()).ok()?);
        SystemTime::UNIX_EPOCH.checked_add(since)
    };
    #[cfg(not(unix))]
    let changed = |about: &std::fs::Metadata| about.modified().ok();
    std::fs::metadata(path).ok().and_then(|about| changed(&about)).is_some_and(|changed| changed >= then)
}

/// Watches every folder that a file, or a link on the way to it, lies in.
fn follow(
    gateway: &Weak<Inner>,
    notifier: Option<&mut RecommendedWatcher>,
    folders: &mut BTreeSet<PathBuf>,
) -> Option<BTreeMap<PathBuf, u64>> {
    let files = watched(&*gateway.upgrade()?);
    if files.is_empty() {
        return None;
    }
    if let Some(notifier) = notifier {
        for file in &files {
            let real = std::fs::canonicalize(file).ok();
            for path in [Some(file), real.as_ref()].into_iter().flatten() {
                let folder = if path.is_dir() { Some(path.as_path()) } else { path.parent() };
                let Some(folder) = folder.map(|folder| if folder.as_os_str().is_empty() { Path::new(".") } else { folder })
                else {
                    continue;
                };
                if folders.insert(folder.to_owned())
                    && let Err(error) = notifier.watch(folder, RecursiveMode::NonRecursive)
                {
                    tracing::warn!(folder = %folder.display(), %error, "changes in this folder are noticed by polling only");
                }
            }
        }
    }
    Some(fingerprint(&files))
}

/// A hash of each file's content; of a folder, the names of its entries.
fn fingerprint(files: &[PathBuf]) -> BTreeMap<PathBuf, u64> {
    files
        .iter()
        .map(|path| {
            let mut hasher = std::hash::DefaultHasher::new();
            if path.is_dir() {
                let mut names: Vec<_> =
                    std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.file_name()).collect();
                names.sort();
                names.hash(&mut hasher);
            } else {
                std::fs::read(path).ok().hash(&mut hasher);
            }
            (path.clone(), hasher.finish())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Between the moment when a reload misses a file and the one from which it is watched, it may come.
    #[test]
    fn a_file_that_came_while_a_reload_missed_it_is_not_taken_for_seen() {
        let folder = tempfile::tempdir().unwrap();
        let [known, late, missing] = ["known.yaml", "late.yaml", "missing.yaml"].map(|name| folder.path().join(name));
        std::fs::write(&known, "a").unwrap();
        let tried = fingerprint(std::slice::from_ref(&known));
        let began = SystemTime::now();
        std::fs::write(&known, "b").unwrap();
        std::fs::write(&late, "c").unwrap();
        let now = fingerprint(&[known.clone(), late.clone(), missing.clone()]);
        let (seen, again) = seen_by(now.clone(), &tried, began);
        assert!(again && !seen.contains_key(&late) && seen.contains_key(&missing));
        assert_eq!(seen[&known], tried[&known], "what it became is the next round's");
        // One that was there before is seen, and the reload is not repeated for it.
        let (seen, again) = seen_by(now.clone(), &tried, SystemTime::now() + Duration::from_secs(60));
        assert!(!again && seen[&late] == now[&late]);
    }
}
