//! Filters from the text of a configuration, as the gateway builds them, and the surroundings they are built in.

use crate::error::Error;
use portcullis_plugin::env::Kept;
use portcullis_plugin::prometheus::Registry;
use portcullis_plugin::prometheus::proto::MetricType;
use portcullis_plugin::{Build, Env, Filter, FilterTable};
use std::any::Any;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;

/// A filter from what follows its name in a configuration (YAML or JSON), with nothing around it.
///
/// # Errors
/// If the text is not a configuration of the filter, or the filter refuses it.
pub fn filter<F: Build>(config: &str) -> Result<F, Error> {
    TestEnv::new()?.filter(config)
}

/// A filter by its name in a table.
///
/// # Errors
/// If the table has none of that name, or as [`filter`].
pub fn filter_by_name(table: &FilterTable, name: &str, config: &str, env: &Env) -> Result<Arc<dyn Filter>, Error> {
    let refuse = |message: String| Error::Filter { filter: name.to_owned(), message };
    let factory = table.get(name).ok_or_else(|| refuse("the table has no such filter".to_owned()))?;
    // The inner error holds the filter's own words; the outer one only the parser's.
    let pending = serde_saphyr::with_deserializer_from_str_with_options(config, options(), |deserializer| {
        let mut erased = <dyn erased_serde::Deserializer<'_>>::erase(deserializer);
        factory.decode(&mut erased).map_err(serde::de::Error::custom)
    });
    let pending = pending.map_err(|error: serde_saphyr::Error| refuse(error.to_string()))?;
    pending(env).map_err(|error| refuse(error.to_string()))
}

/// As the gateway reads its configuration: `yes` and `on` are text.
fn options() -> serde_saphyr::Options {
    serde_saphyr::options! { strict_booleans: true }
}

/// What a filter may ask for while it is built: a folder of its own, metrics, services, and state that outlives a
/// reload.
pub struct TestEnv {
    folder: TempDir,
    registry: Registry,
    kept: Arc<Kept>,
    env: Env,
}

impl TestEnv {
    /// # Errors
    /// If there is no place for temporary files.
    pub fn new() -> Result<Self, Error> {
        let folder = tempfile::Builder::new().prefix("portcullis-").tempdir().map_err(Error::io("temporary folder"))?;
        let (registry, kept) = (Registry::new(), Arc::new(Kept::default()));
        let env = Env::new(folder.path(), registry.clone(), Arc::clone(&kept));
        Ok(Self { folder, registry, kept, env })
    }

    /// Offers a service, such as the issuers.
    pub fn offer<T: Any + Send + Sync>(&mut self, service: Arc<T>) {
        self.env.offer(service);
    }

    /// The folder that relative paths start from. It is removed with the `TestEnv`.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Puts a file into the folder, with the folders it needs.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> Result<PathBuf, Error> {
        let path = self.folder.path().join(name);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(Error::file(parent))?;
        }
        std::fs::write(&path, content).map_err(Error::file(&path))?;
        Ok(path)
    }

    pub fn env(&self) -> &Env {
        &self.env
    }

    /// Builds a filter from what follows its name in a configuration.
    ///
    /// # Errors
    /// If the text is not a configuration of the filter, or the filter refuses it.
    pub fn filter<F: Build>(&self, config: &str) -> Result<F, Error> {
        let refuse = |message: String| Error::Filter { filter: F::NAME.to_owned(), message };
        let config: F::Config =
            serde_saphyr::from_str_with_options(config, options()).map_err(|error| refuse(error.to_string()))?;
        F::build(config, &self.env).map_err(|error| refuse(error.to_string()))
    }

    /// Builds something as a reload does: state that `build` does not ask for is dropped when it is done.
    pub fn reload<T>(&self, build: impl FnOnce(&Self) -> T) -> T {
        self.kept.begin();
        let built = build(self);
        self.kept.sweep();
        built
    }

    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The value of a counter or gauge with exactly these labels.
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == name)?;
        let metric = family.get_metric().iter().find(|metric| {
            let pairs = metric.get_label();
            let has = |(name, value): &(&str, &str)| pairs.iter().any(|pair| pair.name() == *name && pair.value() == *value);
            pairs.len() == labels.len() && labels.iter().all(has)
        })?;
        match family.get_field_type() {
            MetricType::COUNTER => Some(metric.get_counter().get_value()),
            MetricType::GAUGE => Some(metric.get_gauge().get_value()),
            _ => None,
        }
    }
}
