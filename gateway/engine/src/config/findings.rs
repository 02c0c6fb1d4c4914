//! Several findings at once: whoever mends a configuration wants to see all of them.

use portcullis_plugin::ConfigError;
use portcullis_plugin::error::Segment;

/// What a check or the compile step has found so far.
#[derive(Debug, Default)]
pub struct Findings {
    errors: Vec<ConfigError>,
    warnings: Vec<ConfigError>,
}

impl Findings {
    pub fn error(&mut self, error: ConfigError) {
        self.errors.push(error);
    }

    pub fn warning(&mut self, warning: ConfigError) {
        self.warnings.push(warning);
    }

    /// The value, or `None` with the error noted.
    pub fn take<T>(&mut self, result: Result<T, ConfigError>) -> Option<T> {
        result.map_err(|error| self.error(error)).ok()
    }

    /// What `look` finds, is found within `segment`.
    pub fn within<T>(&mut self, segment: impl Into<Segment>, look: impl FnOnce(&mut Self) -> T) -> T {
        let segment = segment.into();
        let mut inner = Self::default();
        let value = look(&mut inner);
        let Self { errors, warnings } = inner;
        self.errors.extend(errors.into_iter().map(|error| error.at(segment.clone())));
        self.warnings.extend(warnings.into_iter().map(|warning| warning.at(segment.clone())));
        value
    }

    /// An error with its help, at a key of the part that is looked at.
    pub fn refuse(&mut self, key: impl Into<Segment>, message: impl Into<String>, help: impl Into<String>) {
        self.error(ConfigError::new(message).help(help).at(key));
    }

    /// Lets go of errors whose cause is told already.
    pub fn drop_consequences(&mut self) {
        let (mut consequences, causes): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.errors).into_iter().partition(|error| error.is_consequence());
        consequences.retain(|error| !causes.iter().any(|cause| error.follows_from(cause)));
        self.errors = causes;
        self.errors.append(&mut consequences);
    }

    pub fn errors(&self) -> &[ConfigError] {
        &self.errors
    }

    pub fn warnings(&self) -> &[ConfigError] {
        &self.warnings
    }

    pub fn is_ok(&self) -> bool {
        self.errors.is_empty()
    }
}
