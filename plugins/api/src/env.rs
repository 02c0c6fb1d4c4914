//! What a filter may ask for while it is built.

use crate::error::ConfigError;
use parking_lot::Mutex;
use prometheus::core::Collector;
use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry};
use std::any::{Any, TypeId};
use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

type Shared = Arc<dyn Any + Send + Sync>;

const METRIC: &str = "metric/";

/// State that outlives a reload, by name and type.
#[derive(Default)]
pub struct Kept {
    values: Mutex<HashMap<(String, TypeId), (Shared, bool)>>,
    ending: Mutex<Vec<Weak<dyn AtEnd>>>,
    /// For the contents of files: nobody outside can make two that look alike.
    digests: RandomState,
}

/// What the files were that were read, to tell what a reload changed. Says nothing of them to anybody else.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Contents(BTreeMap<PathBuf, u64>);

impl Contents {
    /// The files that were read before too, and were others.
    pub fn changed_since(&self, before: &Self) -> Vec<PathBuf> {
        let changed = self.0.iter().filter(|(path, digest)| before.0.get(*path).is_some_and(|known| known != *digest));
        changed.map(|(path, _)| path.clone()).collect()
    }
}

/// State that has something to do before the gateway ends, such as to write what it has counted.
pub trait AtEnd: Send + Sync {
    /// Every request has ended, or was broken off. It may block, and the process waits for it.
    fn at_end(&self);
}

impl Kept {
    /// Before a configuration is compiled: nothing is in use yet.
    pub fn begin(&self) {
        self.values.lock().values_mut().for_each(|(_, used)| *used = false);
    }

    /// When the gateway ends.
    pub fn end(&self) {
        let ending = std::mem::take(&mut *self.ending.lock());
        ending.iter().filter_map(Weak::upgrade).for_each(|state| state.at_end());
    }

    /// After it has taken effect: what it did not ask for is dropped. Metrics stay: their registry keeps them, and a
    /// counter that comes back goes on where it was.
    pub fn sweep(&self) {
        self.values.lock().retain(|(key, _), (_, used)| *used || key.starts_with(METRIC));
    }
}

/// The surroundings of a filter that is being built.
pub struct Env {
    base: PathBuf,
    scope: String,
    registry: Registry,
    kept: Arc<Kept>,
    services: Vec<(TypeId, Shared)>,
    files: Arc<Mutex<Vec<PathBuf>>>,
    contents: Arc<Mutex<Contents>>,
}

impl Env {
    /// `base` is the folder that relative paths start from.
    pub fn new(base: impl Into<PathBuf>, registry: Registry, kept: Arc<Kept>) -> Self {
        Self {
            base: base.into(),
            scope: String::new(),
            registry,
            kept,
            services: Vec::new(),
            files: Arc::default(),
            contents: Arc::default(),
        }
    }

    /// Offers a service to filters; one per type.
    pub fn offer<T: Any + Send + Sync>(&mut self, service: Arc<T>) {
        let id = TypeId::of::<T>();
        self.services.retain(|(key, _)| *key != id);
        self.services.push((id, service));
    }

    /// The same surroundings for the part of a configuration that `scope` names, such as `route orders/1`.
    #[must_use]
    pub fn scoped(&self, scope: impl Into<String>) -> Self {
        Self {
            base: self.base.clone(),
            scope: scope.into(),
            registry: self.registry.clone(),
            kept: Arc::clone(&self.kept),
            services: self.services.clone(),
            files: Arc::clone(&self.files),
            contents: Arc::clone(&self.contents),
        }
    }

    /// The part of the configuration that is built, such as `route orders/1`. No other has the same.
    pub fn scope(&self) -> &str {
        &self.scope
    }

    /// A service such as the issuers. `None` if the gateway offers none of that type.
    pub fn service<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        let id = TypeId::of::<T>();
        let (_, service) = self.services.iter().find(|(key, _)| *key == id)?;
        Arc::clone(service).downcast().ok()
    }

    /// Where a path of the configuration leads: relative paths start from the configuration's folder.
    pub fn resolve(&self, path: impl AsRef<Path>) -> PathBuf {
        self.base.join(path)
    }

    /// Reads a file. The gateway watches it from now on: when it changes, the configuration is compiled again, and a
    /// file that cannot be used then leaves the running configuration in place.
    ///
    /// # Errors
    /// If it cannot be read; the error names the path and the cause.
    pub fn read(&self, path: impl AsRef<Path>) -> Result<Vec<u8>, ConfigError> {
        let full = self.resolve(&path);
        self.files.lock().push(full.clone());
        let bytes = std::fs::read(&full).map_err(|error| {
            ConfigError::new(format!("cannot read {}: {error}", full.display()))
                .help("relative paths start from the folder of the configuration file")
        })?;
        self.contents.lock().0.insert(full, self.kept.digests.hash_one(&bytes));
        Ok(bytes)
    }

    /// What the files read so far were. Comparable with those of any other configuration of the same [`Kept`].
    pub fn contents(&self) -> Contents {
        self.contents.lock().clone()
    }

    /// The files read so far.
    pub fn files(&self) -> Vec<PathBuf> {
        self.files.lock().clone()
    }

    /// State that outlives a reload, such as the buckets of a rate limit. The same `key` at the same place of the
    /// configuration gives the same value; put whatever changes its meaning into the key.
    pub fn keep<T: Any + Send + Sync>(&self, key: &str, make: impl FnOnce() -> T) -> Arc<T> {
        let key = (format!("{}/{key}", self.scope), TypeId::of::<T>());
        let mut values = self.kept.values.lock();
        let (value, used) = values.entry(key).or_insert_with(|| (Arc::new(make()), true));
        *used = true;
        // The type is part of the key, so the cast holds; a fresh value would only lose state.
        Arc::clone(value).downcast().unwrap_or_else(|_| unreachable!("the key holds the type"))
    }

    /// Tells `state` when the gateway ends, if it still is there. Only a gateway that serves ends: nobody is told by
    /// `check`, `explain` and the like.
    pub fn at_end(&self, state: Weak<dyn AtEnd>) {
        let mut ending = self.kept.ending.lock();
        ending.retain(|state| state.strong_count() > 0);
        ending.push(state);
    }

    /// A counter of your own; the same name gives the same counter after a reload. Names start with your own prefix.
    ///
    /// # Errors
    /// If the name or a label is not one Prometheus allows, or the name is taken with other labels.
    pub fn counter(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, ConfigError> {
        self.register(name, || IntCounterVec::new(Opts::new(name, help), labels))
    }

    /// A gauge of your own.
    ///
    /// # Errors
    /// As [`counter`](Self::counter).
    pub fn gauge(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, ConfigError> {
        self.register(name, || IntGaugeVec::new(Opts::new(name, help), labels))
    }

    /// A histogram of your own, in seconds unless the name says otherwise.
    ///
    /// # Errors
    /// As [`counter`](Self::counter).
    pub fn histogram(&self, name: &str, help: &str, labels: &[&str]) -> Result<HistogramVec, ConfigError> {
        self.register(name, || HistogramVec::new(HistogramOpts::new(name, help), labels))
    }

    fn register<M: Collector + Clone + Send + Sync + 'static>(
        &self,
        name: &str,
        make: impl FnOnce() -> prometheus::Result<M>,
    ) -> Result<M, ConfigError> {
        let refuse = |error: prometheus::Error| ConfigError::new(format!("metric `{name}`: {error}"));
        let key = (format!("{METRIC}{name}"), TypeId::of::<M>());
        let mut values = self.kept.values.lock();
        if let Some((known, used)) = values.get_mut(&key) {
            *used = true;
            if let Some(metric) = known.downcast_ref::<M>() {
                return Ok(metric.clone());
            }
        }
        let metric = make().map_err(refuse)?;
        self.registry.register(Box::new(metric.clone())).map_err(refuse)?;
        values.insert(key, (Arc::new(metric.clone()), true));
        Ok(metric)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(kept: &Arc<Kept>, registry: &Registry) -> Env {
        Env::new(".", registry.clone(), Arc::clone(kept))
    }

    #[test]
    fn state_lives_as_long_as_configurations_ask_for_it() {
        let (kept, registry) = (Arc::new(Kept::default()), Registry::new());
        let first = env(&kept, &registry).scoped("route a").keep("buckets", || 1_u32);
        kept.begin();
        let second = env(&kept, &registry).scoped("route a").keep("buckets", || 2_u32);
        kept.sweep();
        assert!(Arc::ptr_eq(&first, &second));
        assert_eq!(*env(&kept, &registry).scoped("route b").keep("buckets", || 3_u32), 3);
        kept.begin();
        kept.sweep();
        assert_eq!(*env(&kept, &registry).scoped("route a").keep("buckets", || 4_u32), 4);
    }

    #[test]
    fn the_files_whose_content_a_reload_changed_are_known() {
        let folder = tempfile::tempdir().unwrap();
        let (kept, registry) = (Arc::new(Kept::default()), Registry::new());
        let read = |names: &[&str]| {
            let env = Env::new(folder.path(), registry.clone(), Arc::clone(&kept));
            names.iter().for_each(|name| drop(env.scoped("route a").read(name).unwrap()));
            env.contents()
        };
        std::fs::write(folder.path().join("a"), "1").unwrap();
        std::fs::write(folder.path().join("b"), "1").unwrap();
        let before = read(&["a", "b"]);
        assert_eq!(read(&["a", "b"]).changed_since(&before), Vec::<PathBuf>::new());
        std::fs::write(folder.path().join("b"), "2").unwrap();
        std::fs::write(folder.path().join("c"), "2").unwrap();
        assert_eq!(read(&["a", "b", "c"]).changed_since(&before), [folder.path().join("b")]);
    }

    #[test]
    fn state_that_is_still_there_is_told_of_the_end_once() {
        struct Told(Mutex<u32>);
        impl AtEnd for Told {
            fn at_end(&self) {
                *self.0.lock() += 1;
            }
        }
        let (kept, registry) = (Arc::new(Kept::default()), Registry::new());
        let [here, gone] = [0, 0].map(|count| Arc::new(Told(Mutex::new(count))));
        for state in [&here, &gone] {
            let state: Weak<dyn AtEnd> = Arc::<Told>::downgrade(state);
            env(&kept, &registry).at_end(state);
        }
        drop(gone);
        kept.end();
        kept.end();
        assert_eq!(*here.0.lock(), 1);
    }

    #[test]
    fn a_filter_that_was_removed_gets_its_counter_back() {
        let (kept, registry) = (Arc::new(Kept::default()), Registry::new());
        env(&kept, &registry).counter("acme_total", "help", &["tenant"]).unwrap().with_label_values(&["a"]).inc();
        kept.begin();
        kept.sweep();
        let again = env(&kept, &registry).counter("acme_total", "help", &["tenant"]).unwrap();
        assert_eq!(again.with_label_values(&["a"]).get(), 1);
        assert!(
            env(&kept, &registry)
                .counter("acme_total", "help", &["other"])
                .is_ok_and(|same| same.with_label_values(&["a"]).get() == 1)
        );
        assert!(env(&kept, &registry).gauge("acme_total", "help", &[]).is_err());
    }
}
