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
use std::time::Duration;
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
        let again = changed.clone();
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
            loop {
                tokio::select! {
                    _ = stopping.wait_for(|stop| *stop) => return,
                    Some(()) = changes.recv() => {}
                    () = tokio::time::sleep(POLL) => {}
                }
                tokio::time::sleep(SETTLE).await;
                while changes.try_recv().is_ok() {}
                let Some(inner) = gateway.upgrade() else { return };
                if fingerprint(&watched(&inner)) == seen {
                    continue;
                }
                // Whether it succeeds or not, this content has been tried; the log and the metrics say how it went.
                let tried = fingerprint(&watched(&inner));
                let failed = inner.reload().await.is_err();
                drop(inner);
                let Some(now) = follow(&gateway, notifier.as_mut(), &mut folders) else { return };
                // A file that was missing may have come before its folder was watched: then it is not seen yet.
                let missed = failed && now.keys().any(|path| !tried.contains_key(path));
                // What was tried counts as seen, not what a file became in the meantime: that is the next round's.
                seen = now
                    .into_iter()
                    .map(|(path, hash)| {
                        let hash = tried.get(&path).copied().unwrap_or(if missed { 0 } else { hash });
                        (path, hash)
                    })
                    .collect();
                if missed {
                    let _ = again.try_send(());
                }
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
