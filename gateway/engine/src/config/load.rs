//! From files to one tree, and from the tree to the raw configuration.
//!
//! A configuration is one file, or the `*.yaml` and `*.yml` of a folder in the order of their names; each may `include`
//! more. Lists of several files are joined, issuers and pools are united, and whatever else is given twice is refused:
//! nothing overrides silently.

use super::decode;
use super::diagnostic::{Diagnostic, Diagnostics, Severity, Sources};
use super::document::{Entry, Fault, Kind, MAX_BYTES, Node, SourceId, Span};
use super::environment::{self, Environment};
use super::findings::Findings;
use super::parse::parse;
use super::raw;
use portcullis_plugin::{ConfigError, FilterTable};
use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Includes within includes.
const MAX_INCLUDE_DEPTH: usize = 16;
const MAX_FILES: usize = 1_000;

/// A configuration as it was written, and where.
pub struct Loaded {
    pub raw: raw::Config,
    /// All files as one tree, references to the environment replaced.
    pub tree: Node,
    pub sources: Sources,
    /// What relative paths of the configuration start from.
    pub base: PathBuf,
    /// What was read, folders included: a change of any may change the configuration.
    pub files: Vec<PathBuf>,
}

impl Loaded {
    /// Puts a finding of the compile step to its place.
    pub fn error(&self, error: &ConfigError) -> Diagnostic {
        self.diagnostic(Severity::Error, error)
    }

    pub fn warning(&self, warning: &ConfigError) -> Diagnostic {
        self.diagnostic(Severity::Warning, warning)
    }

    /// A finding that already knows its place, such as those of [`decode::decode_filter`].
    pub fn fault(&self, fault: Fault) -> Diagnostic {
        self.sources.error(fault)
    }

    pub fn diagnostics(&self, findings: &Findings) -> Diagnostics {
        let errors = self.in_order(findings.errors()).into_iter().map(|error| self.error(error));
        let warnings = self.in_order(findings.warnings()).into_iter().map(|warning| self.warning(warning));
        Diagnostics::new(errors.chain(warnings).collect(), self.files.clone())
    }

    fn in_order<'f>(&self, found: &'f [ConfigError]) -> Vec<&'f ConfigError> {
        let mut found: Vec<_> = found.iter().collect();
        found.sort_by_cached_key(|error| {
            let span = self.tree.locate(error.path());
            (span.source.0, span.start)
        });
        found
    }

    fn diagnostic(&self, severity: Severity, error: &ConfigError) -> Diagnostic {
        located(&self.sources, &self.tree, severity, error)
    }
}

/// Puts a finding about a tree to its place.
pub(super) fn located(sources: &Sources, tree: &Node, severity: Severity, error: &ConfigError) -> Diagnostic {
    let mut fault = Fault::new(error.message(), tree.locate(error.path()));
    if let Some(within) = error.place() {
        match tree.at(error.path()).and_then(|node| sources.within(node, within.offset)) {
            Some(span) => fault.span = Some(span),
            None => fault.message = format!("{}, {}", fault.message, within.words),
        }
    }
    fault.help = error.help_text().map(str::to_owned);
    let mut diagnostic = sources.diagnostic(severity, fault);
    diagnostic.path = Some(error.dotted_path()).filter(|path| !path.is_empty());
    diagnostic
}

/// Reads a configuration file, or a folder of them.
///
/// # Errors
/// Everything that is wrong with what the files say, each with its place.
pub fn load(path: &Path, environment: &Environment<'_>) -> Result<Loaded, Diagnostics> {
    Loader::new(environment).load(path)
}

/// Reads a configuration from a text, with the environment of this process; `base` is the folder that its paths start
/// from.
///
/// # Errors
/// As [`load`].
pub fn load_str(name: &str, text: &str, base: &Path) -> Result<Loaded, Diagnostics> {
    Loader::new(&|name| std::env::var(name).ok()).load_str(name, text, base)
}

/// Loads, and says more when loading fails.
#[derive(Clone, Copy)]
pub struct Loader<'a> {
    environment: &'a Environment<'a>,
    table: Option<&'a FilterTable>,
}

impl<'a> Loader<'a> {
    pub fn new(environment: &'a Environment<'a>) -> Self {
        Self { environment, table: None }
    }

    /// When something else is wrong, look at the filters too, so that all is said at once. When nothing is, the compile
    /// step does.
    #[must_use]
    pub fn filters(self, table: &'a FilterTable) -> Self {
        Self { table: Some(table), ..self }
    }

    /// # Errors
    /// As [`load`].
    pub fn load(self, path: &Path) -> Result<Loaded, Diagnostics> {
        let mut reader = Reader::new(self.environment);
        let base = if path.is_dir() {
            reader.folder(path);
            path.to_owned()
        } else {
            reader.file(path, None);
            folder_of(path)
        };
        self.finish(reader, base)
    }

    /// # Errors
    /// As [`load`].
    pub fn load_str(self, name: &str, text: &str, base: &Path) -> Result<Loaded, Diagnostics> {
        let mut reader = Reader::new(self.environment);
        let source = reader.sources.add(name, text);
        reader.text(text, source, base);
        self.finish(reader, base.to_owned())
    }

    fn finish(self, reader: Reader<'_>, base: PathBuf) -> Result<Loaded, Diagnostics> {
        let Reader { sources, mut faults, merged, mut files, .. } = reader;
        files.sort();
        files.dedup();
        let tree = Node { kind: Kind::Mapping(merged), ..Node::empty(SourceId::default()) };
        let mut decoded = decode::decode::<raw::Config>(&tree);
        if let (Some(table), true) = (self.table, decoded.is_err() || !faults.is_empty()) {
            let found = decode::filter_faults(&tree, table);
            decoded = decoded.map_or_else(|known| Err(known.into_iter().chain(found.clone()).collect()), |_| Err(found.clone()));
        }
        match decoded {
            Ok(raw) if faults.is_empty() => return Ok(Loaded { raw, tree, sources, base, files }),
            Ok(_) => {}
            // A value that could not even be read needs no second finding about its type.
            Err(found) => {
                let known: Vec<_> = faults.iter().filter_map(|fault| fault.span).collect();
                faults.extend(found.into_iter().filter(|fault| !fault.span.is_some_and(|span| known.contains(&span))));
            }
        }
        faults.sort_by_key(|fault| fault.span.map(|span| (span.source.0, span.start)));
        Err(Diagnostics::new(faults.into_iter().map(|fault| sources.error(fault)).collect(), files))
    }
}

struct Reader<'a> {
    environment: &'a Environment<'a>,
    sources: Sources,
    faults: Vec<Fault>,
    merged: Vec<Entry>,
    files: Vec<PathBuf>,
    /// The files whose includes are being read, outermost first.
    open: Vec<PathBuf>,
    /// Where each file was first asked for; `None` if from outside.
    seen: HashMap<PathBuf, Option<Span>>,
}

impl<'a> Reader<'a> {
    fn new(environment: &'a Environment<'a>) -> Self {
        Self {
            environment,
            sources: Sources::default(),
            faults: Vec::new(),
            merged: Vec::new(),
            files: Vec::new(),
            open: Vec::new(),
            seen: HashMap::new(),
        }
    }

    fn folder(&mut self, folder: &Path) {
        let is_yaml = |name: &str| name.ends_with(".yaml") || name.ends_with(".yml");
        let files = self.list(folder, is_yaml, None);
        if files.is_empty() && self.faults.is_empty() {
            self.faults.push(Fault::new(format!("the folder {} has no *.yaml or *.yml", folder.display()), None));
        }
        for file in files {
            self.file(&file, None);
        }
    }

    /// The files of a folder whose names are wanted, in order. Hidden ones are not: editors and Kubernetes put files of
    /// their own there.
    fn list(&mut self, folder: &Path, wanted: impl Fn(&str) -> bool, from: Option<Span>) -> Vec<PathBuf> {
        self.files.push(folder.to_owned());
        let listing = std::fs::read_dir(folder).and_then(|entries| {
            let mut files = Vec::new();
            for entry in entries {
                let entry = entry?;
                let name = entry.file_name();
                let name = name.to_string_lossy();
                // A link counts as what it leads to, and a broken one as a file, so that reading it says so.
                let path = entry.path();
                if !name.starts_with('.') && wanted(&name) && !path.is_dir() {
                    files.push(path);
                }
            }
            files.sort();
            Ok(files)
        });
        listing.unwrap_or_else(|error| {
            self.faults.push(Fault::new(format!("cannot list the folder {}: {error}", folder.display()), from));
            Vec::new()
        })
    }

    fn file(&mut self, path: &Path, from: Option<Span>) {
        self.files.push(path.to_owned());
        let (identity, bytes) = match std::fs::canonicalize(path).and_then(|identity| Ok((identity, read(path)?))) {
            Ok(read) => read,
            Err(error) => return self.faults.push(Fault::new(format!("cannot read {}: {error}", path.display()), from)),
        };
        if let Some(begin) = self.open.iter().position(|open| *open == identity) {
            let circle: Vec<_> = self.open.iter().skip(begin).chain([&identity]).filter_map(|path| path.file_name()).collect();
            let circle: Vec<_> = circle.iter().map(|name| name.to_string_lossy()).collect();
            return self.faults.push(Fault::new(format!("the includes lead in a circle: {}", circle.join(" → ")), from));
        }
        if let Some(first) = self.seen.get(&identity) {
            let fault = Fault::new(format!("{} is read twice", path.display()), from);
            return self.faults.push(match first {
                Some(first) => fault.related("first included here", *first),
                None => fault,
            });
        }
        if self.open.len() >= MAX_INCLUDE_DEPTH || self.seen.len() >= MAX_FILES {
            let message = format!("at most {MAX_FILES} files, included at most {MAX_INCLUDE_DEPTH} deep, make a configuration");
            return self.faults.push(Fault::new(message, from));
        }
        self.seen.insert(identity.clone(), from);
        let name = path.display().to_string();
        match String::from_utf8(bytes) {
            Ok(text) if text.len() <= MAX_BYTES => {
                let source = self.sources.add(name, text.as_str());
                self.open.push(identity);
                self.text(&text, source, path.parent().unwrap_or(Path::new("")));
                self.open.pop();
            }
            Ok(_) => {
                let message = format!("{name} is longer than {} MiB", MAX_BYTES >> 20);
                self.faults.push(Fault::new(message, from));
            }
            Err(error) => {
                let valid = error.utf8_error().valid_up_to();
                let text = String::from_utf8_lossy(error.as_bytes()).into_owned();
                let span = end_of(text.get(..valid).unwrap_or_default(), self.sources.add(name, text.as_str()));
                self.faults.push(Fault::new("the file is not UTF-8", span));
            }
        }
    }

    /// Reads one text, and what it includes from `folder`, into the merged configuration.
    fn text(&mut self, text: &str, source: SourceId, folder: &Path) {
        let Some(mut root) = parse(text, source, &mut self.faults) else { return };
        environment::expand(&mut root, self.environment, &mut self.sources, &mut self.faults);
        let mark = root.mark();
        let Kind::Mapping(entries) = root.kind else {
            let fault = Fault::new("a configuration is keys with values, such as `listeners:`", mark);
            return self.faults.push(fault);
        };
        for entry in entries {
            let includes: Vec<(String, Span)> = match entry.name() {
                "include" => entry
                    .value
                    .items()
                    .iter()
                    .filter_map(|item| item.scalar().map(|scalar| (scalar.text.clone(), item.span)))
                    .collect(),
                _ => Vec::new(),
            };
            self.merge(entry);
            // In the place where the key stands, since the order of routes may matter.
            for (pattern, span) in includes {
                self.include(folder, &pattern, span);
            }
        }
    }

    fn include(&mut self, folder: &Path, pattern: &str, span: Span) {
        let path = folder.join(pattern);
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let parent = path.parent().unwrap_or(Path::new("")).to_owned();
        if parent.strip_prefix(folder).unwrap_or(&parent).to_string_lossy().contains('*') {
            let fault = Fault::new("`*` is possible in the last part of a path only", span);
            return self.faults.push(fault);
        }
        if name.contains('*') {
            let parent = if parent.as_os_str().is_empty() { PathBuf::from(".") } else { parent };
            for file in self.list(&parent, |candidate| matches(&name, candidate), Some(span)) {
                self.file(&file, Some(span));
            }
        } else if path.is_dir() {
            let fault = Fault::new(format!("{} is a folder", path.display()), span);
            self.faults.push(fault.help(format!("write `{}/*.yaml`", pattern.trim_end_matches('/'))));
        } else {
            self.file(&path, Some(span));
        }
    }

    fn merge(&mut self, entry: Entry) {
        let Some(known) = self.merged.iter_mut().find(|known| known.name() == entry.name()) else {
            return self.merged.push(entry);
        };
        let unites = matches!(entry.name(), "issuers" | "pools");
        let (first, again) = (known.key.span, entry.key.span);
        let name = entry.name().to_owned();
        match (&mut known.value.kind, entry.value.kind) {
            (Kind::Sequence(items), Kind::Sequence(more)) => items.extend(more),
            (Kind::Mapping(entries), Kind::Mapping(more)) if unites => {
                let places: HashMap<String, Span> =
                    entries.iter().map(|entry| (entry.name().to_owned(), entry.key.span)).collect();
                for entry in more {
                    if let Some(first) = places.get(entry.name()) {
                        let what = name.trim_end_matches('s');
                        let message = format!("the {what} `{}` is defined twice", entry.name());
                        self.faults.push(Fault::new(message, entry.key.span).related("first defined here", *first));
                    } else {
                        entries.push(entry);
                    }
                }
            }
            _ => self.faults.push(
                Fault::new(format!("`{name}` is given in two files"), again)
                    .related("first given here", first)
                    .help("lists, issuers and pools of several files are joined; anything else stands in one of them"),
            ),
        }
    }
}

pub(super) fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

pub(super) fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // One more than allowed, so that the caller can tell.
    File::open(path)?.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn end_of(text: &str, source: SourceId) -> Span {
    let line = text.rsplit('\n').next().unwrap_or_default();
    Span { source, start: text.len(), end: text.len(), line: text.matches('\n').count() + 1, column: line.chars().count() + 1 }
}

/// Whether `name` is of the pattern, in which `*` stands for any characters.
fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| name.strip_prefix(first)) else { return false };
    let mut parts = parts.peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.is_empty()
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn a_star_stands_for_any_characters() {
        for (pattern, name) in
            [("*.yaml", "a.yaml"), ("a*b*c", "abc"), ("a*b*c", "a1b2c"), ("*", "x"), ("routes-*.yml", "routes-.yml")]
        {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [("*.yaml", "a.yml"), ("a*b*c", "acb"), ("a*a", "a"), ("*.yaml", "a.yaml~")] {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
    }
}
