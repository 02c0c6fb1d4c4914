//! A YAML file that goes with a configuration, such as a table of expected decisions: read as strictly, and with its
//! findings at their places.

use super::decode::decode;
use super::diagnostic::{Diagnostic, Diagnostics, Severity, Sources};
use super::document::{MAX_BYTES, Node};
use super::environment::{self, Environment};
use super::load;
use super::parse::parse;
use portcullis_plugin::ConfigError;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};

/// A file as a `T`, and where in it each part stands.
pub struct Document<T> {
    pub value: T,
    /// What relative paths in it start from.
    pub base: PathBuf,
    tree: Node,
    sources: Sources,
}

impl<T: DeserializeOwned> Document<T> {
    /// Reads one file. References to the environment are replaced as in a configuration.
    ///
    /// # Errors
    /// Everything that keeps it from being a `T`.
    pub fn read(path: &Path, environment: &Environment<'_>) -> Result<Self, Diagnostics> {
        let name = path.display().to_string();
        let refuse = |message: String| Diagnostics::from(Diagnostic::error(message));
        let bytes = load::read(path).map_err(|error| refuse(format!("cannot read {name}: {error}")))?;
        if bytes.len() > MAX_BYTES {
            return Err(refuse(format!("{name} is longer than {} MiB", MAX_BYTES >> 20)));
        }
        let text = String::from_utf8(bytes).map_err(|_| refuse(format!("{name} is not UTF-8")))?;
        let (mut sources, mut faults) = (Sources::default(), Vec::new());
        let source = sources.add(name, text.as_str());
        let tree = parse(&text, source, &mut faults).map(|mut tree| {
            environment::expand(&mut tree, environment, &mut sources, &mut faults);
            tree
        });
        let decoded = match tree {
            Some(tree) if faults.is_empty() => decode(&tree).map(|value| (value, tree)),
            _ => Err(faults),
        };
        match decoded {
            Ok((value, tree)) => Ok(Self { value, base: load::folder_of(path), tree, sources }),
            Err(faults) => {
                Err(Diagnostics::new(faults.into_iter().map(|fault| sources.error(fault)).collect(), vec![path.to_owned()]))
            }
        }
    }
}

impl<T> Document<T> {
    /// Puts a finding to its place.
    pub fn error(&self, error: &ConfigError) -> Diagnostic {
        load::located(&self.sources, &self.tree, Severity::Error, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Table {
        rows: Vec<usize>,
    }

    fn read(text: &[u8]) -> Result<Document<Table>, Diagnostics> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("table.yaml");
        std::fs::write(&path, text).unwrap();
        Document::read(&path, &|name| (name == "ROW").then(|| "7".to_owned()))
    }

    #[test]
    fn a_file_is_read_with_the_environment_and_its_findings_have_places() {
        let document = read(b"rows:\n  - 1\n  - ${ROW}\n").unwrap();
        assert_eq!(document.value.rows, [1, 7]);
        let error = document.error(&ConfigError::new("too odd").at(1).at("rows"));
        assert!(error.to_string().contains("table.yaml:3:5: too odd"), "{error}");
    }

    #[test]
    fn what_is_no_such_table_is_refused_with_its_place() {
        for (text, expected) in [
            (&b"rows: [1]\nrow: 2\n"[..], "table.yaml:2:1: "),
            (b"rows: [one]\n", "table.yaml:1:8: "),
            (b"rows: [${NONE}]\n", "table.yaml:1:"),
            (b"rows: [1]\nrows: [2]\n", "table.yaml:2:1: "),
            (b"rows: [1\n", "table.yaml:"),
            (b"", "rows"),
            (b"\xff", "not UTF-8"),
        ] {
            let error = read(text).err().map(|errors| errors.to_string()).unwrap_or_default();
            assert!(error.contains(expected), "{:?}: {error}", String::from_utf8_lossy(text));
        }
        assert!(Document::<Table>::read(Path::new("/nowhere/table.yaml"), &|_| None).is_err());
    }
}
