//! The configuration as a tree in which every key and every value knows where it stands. `parse` makes it.

use portcullis_plugin::error::Segment;

/// A configuration file is at most this long.
pub const MAX_BYTES: usize = 16 << 20;
/// Lists and mappings within each other.
pub const MAX_DEPTH: usize = 64;

/// Which of the files that were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct SourceId(pub u32);

/// Where something stands: byte offsets for the snippet, line and column (of characters, from 1) for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Span {
    pub source: SourceId,
    pub start: usize,
    pub end: usize,
    pub line: usize,
    pub column: usize,
}

/// A finding that knows its place, before the place has a file name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub message: String,
    pub help: Option<String>,
    pub span: Option<Span>,
    /// Other places that belong to it, each with what it is.
    pub related: Vec<(String, Span)>,
}

impl Fault {
    pub fn new(message: impl Into<String>, span: impl Into<Option<Span>>) -> Self {
        Self { message: message.into(), help: None, span: span.into(), related: Vec::new() }
    }

    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    #[must_use]
    pub fn related(mut self, what: impl Into<String>, span: Span) -> Self {
        self.related.push((what.into(), span));
        self
    }
}

/// A node of the written tree. Copies that an alias makes share it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct NodeId(pub(super) SourceId, pub(super) u32);

/// A value and its place. It has no `Debug`, since a value may be a secret.
#[derive(Clone)]
pub struct Node {
    pub kind: Kind,
    pub span: Span,
    pub id: NodeId,
}

#[derive(Clone)]
pub enum Kind {
    /// `implicit`: nothing was written at all, as after `pools:`.
    Null {
        implicit: bool,
    },
    Scalar(Scalar),
    Sequence(Vec<Node>),
    Mapping(Vec<Entry>),
}

#[derive(Clone)]
pub struct Scalar {
    pub text: String,
    /// Not quoted: it may be a number or a boolean where one is asked for.
    pub plain: bool,
    /// What the file says, if `text` has values from the environment in it. They may be secrets and are never shown.
    pub written: Option<String>,
}

/// A key with its value.
#[derive(Clone)]
pub struct Entry {
    pub key: Node,
    pub value: Node,
}

impl Scalar {
    /// Whether it may be a number or a boolean. One from the environment may, although quoted: within `{ … }` a reference
    /// can only be written in quotes.
    pub fn may_be_literal(&self) -> bool {
        self.plain || self.written.is_some()
    }
}

impl Entry {
    pub fn name(&self) -> &str {
        match &self.key.kind {
            Kind::Scalar(scalar) => &scalar.text,
            // The parser makes keys from scalars only.
            _ => "",
        }
    }
}

impl Node {
    /// A mapping without entries, for a file that says nothing.
    pub fn empty(source: SourceId) -> Self {
        let span = Span { source, line: 1, column: 1, ..Span::default() };
        Self { kind: Kind::Mapping(Vec::new()), span, id: NodeId(source, 0) }
    }

    pub fn entries(&self) -> &[Entry] {
        match &self.kind {
            Kind::Mapping(entries) => entries,
            _ => &[],
        }
    }

    pub fn items(&self) -> &[Node] {
        match &self.kind {
            Kind::Sequence(items) => items,
            _ => &[],
        }
    }

    pub fn entry(&self, name: &str) -> Option<&Entry> {
        self.entries().iter().find(|entry| entry.name() == name)
    }

    pub fn get(&self, name: &str) -> Option<&Node> {
        self.entry(name).map(|entry| &entry.value)
    }

    pub fn scalar(&self) -> Option<&Scalar> {
        match &self.kind {
            Kind::Scalar(scalar) => Some(scalar),
            _ => None,
        }
    }

    /// What `path` leads to.
    pub fn at(&self, path: &[Segment]) -> Option<&Node> {
        path.iter().try_fold(self, |node, segment| node.step(segment))
    }

    /// What the longest existing part of `path` leads to: the parent of a key that is missing.
    pub fn nearest(&self, path: &[Segment]) -> &Node {
        let mut node = self;
        for segment in path {
            match node.step(segment) {
                Some(next) => node = next,
                None => break,
            }
        }
        node
    }

    /// What to underline for a finding about `path`: a value, or for what spans lines, its key. For a key that is
    /// missing, that of what should have it.
    pub fn locate(&self, path: &[Segment]) -> Span {
        let (mut node, mut mark) = (self, self.mark());
        for segment in path {
            let Some(next) = node.step(segment) else { break };
            mark = match (segment, &next.kind) {
                (Segment::Key(name), Kind::Mapping(_) | Kind::Sequence(_) | Kind::Null { implicit: true }) => {
                    node.entry(name).map_or(next.mark(), |entry| entry.key.span)
                }
                _ => next.mark(),
            };
            node = next;
        }
        mark
    }

    fn step(&self, segment: &Segment) -> Option<&Node> {
        match segment {
            Segment::Key(key) => self.get(key),
            Segment::Index(index) => self.items().get(*index),
        }
    }

    /// What to underline for this node: of a list or mapping that spans lines, only how it begins.
    pub fn mark(&self) -> Span {
        match &self.kind {
            Kind::Mapping(entries) => match entries.first() {
                Some(first) if first.key.span.start == self.span.start => first.key.span,
                _ => self.span,
            },
            _ => self.span,
        }
    }
}
