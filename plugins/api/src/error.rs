//! What is wrong with a configuration, and where.

use std::fmt;

/// One step from the root of a configuration to a value in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Segment {
    Key(String),
    Index(usize),
}

impl From<&str> for Segment {
    fn from(key: &str) -> Self {
        Self::Key(key.to_owned())
    }
}

impl From<usize> for Segment {
    fn from(index: usize) -> Self {
        Self::Index(index)
    }
}

/// A finding in a configuration: what is wrong, where, and what to do.
///
/// `at` is given from the inside out: a filter names the key within its own configuration, and whoever holds that
/// configuration puts its own place in front. The gateway turns the whole path into file, line and column.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    message: String,
    help: Option<String>,
    path: Vec<Segment>,
    within: Option<Within>,
    follows: Option<&'static str>,
}

/// A place within the text that a path leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Within {
    /// In bytes of the text as it was read.
    pub offset: usize,
    /// For where the file has the text otherwise, such as with escapes: `at line 2, column 8 of the expression`.
    pub words: String,
}

impl ConfigError {
    /// `message` says what is wrong, without a full stop and without secrets.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), help: None, path: Vec::new(), within: None, follows: None }
    }

    /// What to do about it.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Puts one step in front of the path.
    #[must_use]
    pub fn at(mut self, segment: impl Into<Segment>) -> Self {
        self.path.insert(0, segment.into());
        self
    }

    /// Says where within the text that the path leads to. `words` say the same where nobody can find it in the file.
    #[must_use]
    pub fn within(mut self, offset: usize, words: impl Into<String>) -> Self {
        self.within = Some(Within { offset, words: words.into() });
        self
    }

    /// It comes of what is wrong at this key of the configuration's root, and is told only if nothing else is wrong there.
    #[must_use]
    pub fn follows(mut self, key: &'static str) -> Self {
        self.follows = Some(key);
        self
    }

    pub fn is_consequence(&self) -> bool {
        self.follows.is_some()
    }

    /// Whether it says nothing that `other` does not say better: the cause is told there.
    pub fn follows_from(&self, other: &Self) -> bool {
        match (self.follows, other.path.first()) {
            (Some(key), Some(Segment::Key(at))) => key == at,
            _ => false,
        }
    }

    pub fn place(&self) -> Option<&Within> {
        self.within.as_ref()
    }

    pub fn message(&self) -> &str {
        &self.message
    }

    pub fn help_text(&self) -> Option<&str> {
        self.help.as_deref()
    }

    pub fn path(&self) -> &[Segment] {
        &self.path
    }

    /// The path as people write it: `routes[2].filters[0].oidc.issuer`.
    pub fn dotted_path(&self) -> String {
        let mut text = String::new();
        for segment in &self.path {
            match segment {
                Segment::Key(key) if text.is_empty() => text.push_str(key),
                Segment::Key(key) => {
                    text.push('.');
                    text.push_str(key);
                }
                Segment::Index(index) => text.push_str(&format!("[{index}]")),
            }
        }
        text
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", self.dotted_path())?;
        }
        f.write_str(&self.message)?;
        if let Some(within) = &self.within {
            write!(f, ", {}", within.words)?;
        }
        if let Some(help) = &self.help {
            write!(f, " ({help})")?;
        }
        Ok(())
    }
}

/// `value` among `known`, or an error that says which was probably meant.
pub fn unknown_name<'a>(what: &str, value: &str, known: impl IntoIterator<Item = &'a str>) -> ConfigError {
    let known: Vec<&str> = known.into_iter().collect();
    let error = ConfigError::new(format!("unknown {what} `{value}`"));
    match closest(value, &known) {
        Some(name) => error.help(format!("did you mean `{name}`?")),
        None if known.is_empty() => error.help(format!("no {what} is configured")),
        None => error.help(format!("known: {}", known.join(", "))),
    }
}

/// The name that `value` was probably meant to be.
pub fn closest<'a>(value: &str, known: &[&'a str]) -> Option<&'a str> {
    known
        .iter()
        .map(|name| (distance(value, name), *name))
        .filter(|(distance, name)| *distance <= 1 + name.len() / 4)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// Edits (insert, delete, replace, swap neighbours) between two short names.
fn distance(a: &str, b: &str) -> usize {
    strsim::osa_distance(&a.to_lowercase(), &b.to_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_built_from_the_inside_out() {
        let error = ConfigError::new("no such issuer").at("issuer").at("oidc").at(0).at("filters").at(2).at("routes");
        assert_eq!(error.dotted_path(), "routes[2].filters[0].oidc.issuer");
    }

    #[test]
    fn a_consequence_follows_from_what_is_wrong_at_its_cause_and_from_nothing_else() {
        let error = ConfigError::new("nothing to sign with").follows("assertion").at("routes");
        assert!(error.is_consequence());
        assert!(error.follows_from(&ConfigError::new("no key").at("keys").at("assertion")));
        assert!(!error.follows_from(&ConfigError::new("no key").at("assertion").at("routes")));
        assert!(!error.follows_from(&ConfigError::new("nothing at all")));
    }

    #[test]
    fn a_typo_is_recognised_and_a_stranger_is_not() {
        assert_eq!(closest("isuer", &["issuer", "scopes"]), Some("issuer"));
        assert_eq!(closest("banana", &["issuer", "scopes"]), None);
    }
}
