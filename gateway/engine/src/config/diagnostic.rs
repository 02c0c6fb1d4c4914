//! Findings with their place in a file, as people and programs read them.

use super::document::{Fault, Node, SourceId, Span};
use super::within;
use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};
use serde_json::{Value, json};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// A line longer than this is not shown: nobody reads it, and it is work to lay out.
const MAX_SHOWN_LINE: usize = 2_000;
/// Values from the environment that are shorter are taken for words, not for secrets.
const MIN_SECRET: usize = 6;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    Error,
    Warning,
}

impl Severity {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// A file that was read, under the name in which it is shown.
#[derive(Debug)]
pub struct Source {
    pub name: String,
    pub text: String,
}

/// The files of one configuration, and what of their values must not be shown.
#[derive(Default, Clone)]
pub struct Sources {
    files: Vec<Arc<Source>>,
    secrets: Vec<Secret>,
}

/// A value that came from the environment, and how the file refers to it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    pub value: String,
    pub written: String,
}

impl Sources {
    pub fn add(&mut self, name: impl Into<String>, text: impl Into<String>) -> SourceId {
        // More files than fit cannot be opened.
        let id = SourceId(u32::try_from(self.files.len()).unwrap_or(u32::MAX));
        self.files.push(Arc::new(Source { name: name.into(), text: text.into() }));
        id
    }

    pub fn get(&self, id: SourceId) -> Option<&Arc<Source>> {
        self.files.get(usize::try_from(id.0).ok()?)
    }

    /// Over names and content of all files, in hexadecimal. What the environment put in the place of references is not
    /// part of it.
    pub fn sha256(&self) -> String {
        let mut digest = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
        for part in self.files.iter().flat_map(|file| [&file.name, &file.text]) {
            // With its length first: two files are not one that has the bytes of both.
            digest.update(&(part.len() as u64).to_be_bytes());
            digest.update(part.as_bytes());
        }
        digest.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// From now on, no finding shows this value.
    pub fn hide(&mut self, secret: Secret) {
        if secret.value.len() >= MIN_SECRET && !self.secrets.contains(&secret) {
            self.secrets.push(secret);
        }
    }

    pub fn locate(&self, span: Span) -> Option<Location> {
        let source = Arc::clone(self.get(span.source)?);
        Some(Location { source, start: span.start, end: span.end, line: span.line, column: span.column })
    }

    /// Where the file has what stands at `offset` of this text. `None`, if that cannot be told without doubt.
    pub fn within(&self, node: &Node, offset: usize) -> Option<Span> {
        within::span(&self.get(node.span.source)?.text, node, offset)
    }

    pub fn error(&self, fault: Fault) -> Diagnostic {
        self.diagnostic(Severity::Error, fault)
    }

    pub fn diagnostic(&self, severity: Severity, fault: Fault) -> Diagnostic {
        let Fault { message, help, span, related } = fault;
        Diagnostic {
            severity,
            message: self.redact(message),
            help: help.map(|help| self.redact(help)),
            location: span.and_then(|span| self.locate(span)),
            path: None,
            related: related
                .into_iter()
                .filter_map(|(message, span)| Some(Related { message: self.redact(message), location: self.locate(span)? }))
                .collect(),
        }
    }

    fn redact(&self, mut text: String) -> String {
        for secret in &self.secrets {
            if text.contains(&secret.value) {
                text = text.replace(&secret.value, &secret.written);
            }
        }
        text
    }
}

/// A place in a file.
#[derive(Clone)]
pub struct Location {
    source: Arc<Source>,
    start: usize,
    end: usize,
    line: usize,
    column: usize,
}

impl Location {
    pub fn file(&self) -> &str {
        &self.source.name
    }

    /// From 1.
    pub fn line(&self) -> usize {
        self.line
    }

    /// In characters, from 1.
    pub fn column(&self) -> usize {
        self.column
    }

    /// The line as it stands in the file, and what of it is meant, in bytes.
    fn shown(&self) -> Option<(&str, std::ops::Range<usize>)> {
        let text = &self.source.text;
        let start = text.floor_char_boundary(self.start.min(text.len()));
        let begin = text[..start].rfind(['\n', '\r']).map_or(0, |at| at + 1);
        let finish = text[start..].find(['\n', '\r']).map_or(text.len(), |at| start + at);
        if finish - begin > MAX_SHOWN_LINE || has_credentials(&text[begin..finish]) {
            return None;
        }
        let end = text.ceil_char_boundary(self.end.clamp(start, finish));
        Some((&text[begin..finish], start - begin..end - begin))
    }
}

/// Whether an address in the line may have a password or a key in it: a user, or what could be the rest of one that is not
/// written as it should be; or a query.
fn has_credentials(line: &str) -> bool {
    let addressed = |rest: &str| rest.contains(['@', '?']);
    line.split_once("://").is_some_and(|(_, rest)| addressed(rest))
        || ["http:", "https:"].iter().filter_map(|scheme| line.split_once(scheme)).any(|(_, rest)| rest.contains('@'))
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file(), self.line, self.column)
    }
}

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Another place that belongs to a finding.
#[derive(Debug, Clone)]
pub struct Related {
    pub message: String,
    pub location: Location,
}

/// What is wrong, or doubtful, where, and what to do about it.
#[derive(Debug, Clone)]
pub struct Diagnostic {
    pub severity: Severity,
    pub message: String,
    pub help: Option<String>,
    pub location: Option<Location>,
    /// The place in the configuration's own terms, such as `routes[2].pool`, where it is known.
    pub path: Option<String>,
    pub related: Vec<Related>,
}

impl Diagnostic {
    pub fn error(message: impl Into<String>) -> Self {
        Self { severity: Severity::Error, message: message.into(), help: None, location: None, path: None, related: Vec::new() }
    }

    /// In one line, without the line of the file.
    pub fn summary(&self) -> String {
        match &self.location {
            Some(location) => format!("{}:{}:{}: {}", location.file(), location.line(), location.column(), self.message),
            None => self.message.clone(),
        }
    }

    /// With the line itself and a mark under what is meant.
    pub fn render(&self, color: bool) -> String {
        let renderer = if color { Renderer::styled() } else { Renderer::plain() };
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let mut group = Group::with_title(level.primary_title(self.message.as_str()));
        if let Some(location) = &self.location {
            group = place(group, location, AnnotationKind::Primary, None);
        }
        for related in &self.related {
            group = place(group, &related.location, AnnotationKind::Context, Some(&related.message));
        }
        if let Some(help) = &self.help {
            group = group.element(Level::HELP.message(help.as_str()));
        }
        renderer.render(&[group])
    }

    pub fn to_json(&self) -> Value {
        let place = |location: &Location| json!({ "file": location.file(), "line": location.line, "column": location.column });
        let mut value = json!({ "severity": self.severity.as_str(), "message": self.message });
        if let Some(help) = &self.help {
            value["help"] = json!(help);
        }
        if let Some(location) = &self.location {
            value["location"] = place(location);
        }
        if let Some(path) = &self.path {
            value["path"] = json!(path);
        }
        if !self.related.is_empty() {
            value["related"] = self
                .related
                .iter()
                .map(|related| json!({ "message": related.message, "location": place(&related.location) }))
                .collect();
        }
        value
    }
}

fn place<'a>(group: Group<'a>, location: &'a Location, kind: AnnotationKind, label: Option<&'a str>) -> Group<'a> {
    match location.shown() {
        Some((line, range)) => group.element(
            Snippet::source(line).path(location.file()).line_start(location.line).annotation(kind.span(range).label(label)),
        ),
        None => group.element(Origin::path(location.file()).line(location.line).char_column(location.column)),
    }
}

/// On one line: `edge.yaml:12:7: unknown key `isuer`; did you mean `issuer`?`
impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(location) = &self.location {
            write!(f, "{location}: ")?;
        }
        if self.severity == Severity::Warning {
            f.write_str("warning: ")?;
        }
        one_line(f, &self.message)?;
        for related in &self.related {
            write!(f, "; {}: {}", related.message, related.location)?;
        }
        if let Some(help) = &self.help {
            f.write_str("; ")?;
            one_line(f, help)?;
        }
        Ok(())
    }
}

/// Other libraries' messages span lines, and a quoted value may hold anything: a log line stays one line.
fn one_line(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    for (index, part) in text.split(char::is_control).filter(|part| !part.trim().is_empty()).enumerate() {
        if index > 0 {
            f.write_str(" ")?;
        }
        f.write_str(part.trim())?;
    }
    Ok(())
}

/// All findings of a configuration, in the order of the files.
#[derive(Debug, Default, Clone)]
pub struct Diagnostics {
    items: Vec<Diagnostic>,
    files: Vec<PathBuf>,
}

impl Diagnostics {
    /// `files` are those to watch: when one changes, trying again may help.
    pub fn new(items: Vec<Diagnostic>, files: Vec<PathBuf>) -> Self {
        let mut all = Self { items, files };
        // A value that aliases repeat is one finding.
        let mut seen = std::collections::HashSet::new();
        all.items.retain(|item| seen.insert(item.to_string()));
        all
    }

    /// Something that went wrong with no place in any file.
    pub fn bug(message: impl Into<String>) -> Self {
        Diagnostic::error(message).into()
    }

    pub fn items(&self) -> &[Diagnostic] {
        &self.items
    }

    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    pub fn push(&mut self, diagnostic: Diagnostic) {
        self.items.push(diagnostic);
    }

    /// More files to watch.
    pub fn watch(&mut self, files: impl IntoIterator<Item = PathBuf>) {
        self.files.extend(files);
    }

    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub fn has_errors(&self) -> bool {
        self.errors().next().is_some()
    }

    pub fn errors(&self) -> impl Iterator<Item = &Diagnostic> {
        self.items.iter().filter(|item| item.severity == Severity::Error)
    }

    pub fn warnings(&self) -> impl Iterator<Item = &Diagnostic> {
        self.items.iter().filter(|item| item.severity == Severity::Warning)
    }

    /// For a terminal.
    pub fn render(&self, color: bool) -> String {
        self.items.iter().map(|item| item.render(color) + "\n").collect::<Vec<_>>().join("\n")
    }

    pub fn to_json(&self) -> Value {
        self.items.iter().map(Diagnostic::to_json).collect()
    }
}

impl From<Diagnostic> for Diagnostics {
    fn from(diagnostic: Diagnostic) -> Self {
        Self { items: vec![diagnostic], files: Vec::new() }
    }
}

impl Extend<Diagnostic> for Diagnostics {
    fn extend<I: IntoIterator<Item = Diagnostic>>(&mut self, items: I) {
        self.items.extend(items);
    }
}

/// One finding a line.
impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, item) in self.items.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            item.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}
