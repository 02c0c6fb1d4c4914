//! A YAML text as a tree in which every key and every value knows where it stands.
//!
//! What configurations do not need and people misread is refused with its place, rather than given a meaning: several
//! documents in one file, the same key twice, merge keys, tags, and keys that are not text. Aliases are copies, within a
//! budget, so that a few bytes cannot become gigabytes.

use granit_parser::{ErrorKind, Event, Parser, ScalarStyle, ScanError};
use portcullis_plugin::error::Segment;
use std::collections::HashMap;

/// A configuration file is at most this long.
pub const MAX_BYTES: usize = 16 << 20;
/// Lists and mappings within each other.
pub const MAX_DEPTH: usize = 64;
const NO_TABS: &str = "indent with spaces; YAML does not allow tabs there";
/// What all aliases of a file may add to it.
const MAX_COPIED_NODES: usize = 100_000;
const MAX_COPIED_BYTES: usize = 4 << 20;

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
pub struct NodeId(SourceId, u32);

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

/// Reads one file. What can be read past is added to `faults` and reading goes on; `None` if it cannot.
pub fn parse(text: &str, source: SourceId, faults: &mut Vec<Fault>) -> Option<Node> {
    if text.len() > MAX_BYTES {
        faults.push(Fault::new(format!("the file is longer than {} MiB", MAX_BYTES >> 20), None));
        return None;
    }
    let mut builder = Builder {
        source,
        faults,
        stack: Vec::new(),
        anchors: HashMap::new(),
        open_anchors: Vec::new(),
        root: None,
        documents: 0,
        next_id: 1,
        copied_nodes: 0,
        copied_bytes: 0,
    };
    let options = granit_parser::options! {
        emit_comments: false,
        flow_nesting_limit: MAX_DEPTH,
        block_nesting_limit: MAX_DEPTH,
    };
    for event in Parser::new_from_str_with_options(text, options) {
        let step = match event {
            Ok((event, span)) => builder.event(event, span),
            Err(error) => Err(syntax_fault(&error, text, source)),
        };
        if let Err(fault) = step {
            builder.faults.push(fault);
            return None;
        }
    }
    Some(builder.root.unwrap_or_else(|| Node::empty(source)))
}

fn syntax_fault(error: &ScanError, text: &str, source: SourceId) -> Fault {
    let marker = error.marker();
    let start = marker.byte_offset().unwrap_or(0).min(text.len());
    let span = Span { source, start, end: start, line: marker.line().max(1), column: marker.col() + 1 };
    let line = text.lines().nth(span.line - 1).unwrap_or_default();
    let fault = Fault::new(format!("not valid YAML: {}", error.info()), span);
    match error.kind() {
        ErrorKind::RecursionLimitExceeded => fault.help(format!("lists and mappings nest at most {MAX_DEPTH} deep")),
        ErrorKind::TabNotAllowed
        | ErrorKind::TabInBlockIndentation
        | ErrorKind::TabInIndentation
        | ErrorKind::TabAtBlockScalarStart => fault.help(NO_TABS),
        ErrorKind::UnclosedQuotedScalar => fault.help("the quote that opens here is never closed"),
        ErrorKind::InvalidQuotedScalarIndent => fault.help("is a quote before this never closed?"),
        ErrorKind::UnknownAnchor => {
            fault.help("an alias `*name` needs an anchor `&name` before it; to begin a text with `*`, quote it")
        }
        _ if line.contains("${") => fault.help("within `{ … }` and `[ … ]`, write environment references in quotes: \"${NAME}\""),
        kind if kind.to_string().contains("a tab") => fault.help(NO_TABS),
        _ => fault,
    }
}

/// A list or mapping that is not yet at its end.
struct Open {
    span: Span,
    id: NodeId,
    anchor: usize,
    children: Children,
}

enum Children {
    Items(Vec<Node>),
    Entries { entries: Vec<Entry>, seen: HashMap<String, Span>, key: Option<Key> },
}

struct Key {
    node: Node,
    /// Given before: said so, and left out.
    repeated: bool,
}

struct Anchored {
    node: Node,
    nodes: usize,
    bytes: usize,
    depth: usize,
}

struct Builder<'f> {
    source: SourceId,
    faults: &'f mut Vec<Fault>,
    stack: Vec<Open>,
    anchors: HashMap<usize, Anchored>,
    open_anchors: Vec<usize>,
    root: Option<Node>,
    documents: usize,
    next_id: u32,
    copied_nodes: usize,
    copied_bytes: usize,
}

impl Builder<'_> {
    fn event(&mut self, event: Event<'_>, at: granit_parser::Span) -> Result<(), Fault> {
        let span = self.span(at);
        match event {
            Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
            Event::DocumentStart(..) => {
                self.documents += 1;
                if self.documents > 1 {
                    return Err(Fault::new("a second document begins here, and a configuration file has one", span)
                        .help("remove the `---`, or put the parts into files of their own and `include` them"));
                }
                Ok(())
            }
            Event::Scalar(text, style, anchor, tag) => {
                let quoted_by_tag = self.check_tag(tag.as_deref(), at);
                let plain = style == ScalarStyle::Plain && !quoted_by_tag;
                let id = self.id();
                let as_key = self.expects_key();
                let kind = match text.as_ref() {
                    // The parser makes a `~` of nothing; a written one takes up space.
                    _ if plain && span.start == span.end => Kind::Null { implicit: true },
                    "~" | "null" | "Null" | "NULL" if plain && !as_key => Kind::Null { implicit: false },
                    text => Kind::Scalar(Scalar { text: text.to_owned(), plain, written: None }),
                };
                self.anchored(Node { kind, span, id }, anchor)
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.check_tag(tag.as_deref(), at);
                self.open(span, anchor, Children::Items(Vec::new()))
            }
            Event::MappingStart(_, anchor, tag) => {
                self.check_tag(tag.as_deref(), at);
                self.open(span, anchor, Children::Entries { entries: Vec::new(), seen: HashMap::new(), key: None })
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(span),
            Event::Alias(anchor) => self.alias(anchor, span),
            // The options ask for none of these, and a later version's are not known.
            _ => Err(Fault::new("this YAML construct is not supported", span)),
        }
    }

    fn span(&self, at: granit_parser::Span) -> Span {
        let start = at.start.byte_offset().unwrap_or(0);
        Span {
            source: self.source,
            start,
            end: at.end.byte_offset().unwrap_or(start).max(start),
            line: at.start.line().max(1),
            column: at.start.col() + 1,
        }
    }

    fn id(&mut self) -> NodeId {
        let id = NodeId(self.source, self.next_id);
        // A file of MAX_BYTES cannot have so many nodes.
        self.next_id = self.next_id.saturating_add(1);
        id
    }

    /// Whether the tag says that the scalar is text.
    fn check_tag(&mut self, tag: Option<&granit_parser::Tag>, at: granit_parser::Span) -> bool {
        let Some(tag) = tag else { return false };
        if tag.is_yaml_core_schema_tag("str") {
            return true;
        }
        let span = self.span(at.tag_span().unwrap_or(at));
        self.faults.push(
            Fault::new(format!("the tag `{}` has no meaning here", tag.original()), span)
                .help("to begin a text with `!`, quote it"),
        );
        false
    }

    fn expects_key(&self) -> bool {
        matches!(self.stack.last(), Some(Open { children: Children::Entries { key: None, .. }, .. }))
    }

    fn open(&mut self, span: Span, anchor: usize, children: Children) -> Result<(), Fault> {
        if self.expects_key() {
            return Err(Fault::new("a key must be text", span).help("to begin a text with `{` or `[`, quote it"));
        }
        if self.stack.len() >= MAX_DEPTH {
            return Err(too_deep(span));
        }
        let id = self.id();
        if anchor != 0 {
            self.open_anchors.push(anchor);
        }
        self.stack.push(Open { span, id, anchor, children });
        Ok(())
    }

    fn close(&mut self, end: Span) -> Result<(), Fault> {
        let Some(open) = self.stack.pop() else { return Ok(()) };
        if open.anchor != 0 {
            self.open_anchors.retain(|anchor| *anchor != open.anchor);
        }
        let kind = match open.children {
            Children::Items(items) => Kind::Sequence(items),
            Children::Entries { entries, .. } => Kind::Mapping(entries),
        };
        let span = Span { end: end.end.max(open.span.end), ..open.span };
        self.anchored(Node { kind, span, id: open.id }, open.anchor)
    }

    fn anchored(&mut self, node: Node, anchor: usize) -> Result<(), Fault> {
        if anchor != 0 {
            let (nodes, bytes, depth) = weigh(&node);
            self.charge(nodes, bytes, node.span)?;
            self.anchors.insert(anchor, Anchored { node: node.clone(), nodes, bytes, depth });
        }
        self.place(node)
    }

    fn alias(&mut self, anchor: usize, span: Span) -> Result<(), Fault> {
        if self.open_anchors.contains(&anchor) {
            return Err(Fault::new("the alias is within what it stands for", span));
        }
        let Some((nodes, bytes, depth)) = self.anchors.get(&anchor).map(|known| (known.nodes, known.bytes, known.depth)) else {
            return Err(Fault::new("the alias has no anchor before it", span));
        };
        if self.stack.len() + depth > MAX_DEPTH {
            return Err(too_deep(span));
        }
        self.charge(nodes, bytes, span)?;
        match self.anchors.get(&anchor).map(|known| known.node.clone()) {
            // A key is shown where it is used; a value where it is written, which is what must be mended.
            Some(node) if self.expects_key() => self.place(Node { span, ..node }),
            Some(node) => self.place(node),
            None => Ok(()),
        }
    }

    fn charge(&mut self, nodes: usize, bytes: usize, span: Span) -> Result<(), Fault> {
        self.copied_nodes = self.copied_nodes.saturating_add(nodes);
        self.copied_bytes = self.copied_bytes.saturating_add(bytes);
        if self.copied_nodes > MAX_COPIED_NODES || self.copied_bytes > MAX_COPIED_BYTES {
            return Err(Fault::new("the aliases of this file stand for too much", span).help(format!(
                "together they may repeat at most {MAX_COPIED_NODES} values and {} MiB of text",
                MAX_COPIED_BYTES >> 20
            )));
        }
        Ok(())
    }

    fn place(&mut self, node: Node) -> Result<(), Fault> {
        let Some(open) = self.stack.last_mut() else {
            self.root = Some(if matches!(node.kind, Kind::Null { implicit: true }) { Node::empty(self.source) } else { node });
            return Ok(());
        };
        match &mut open.children {
            Children::Items(items) => items.push(node),
            Children::Entries { entries, seen, key } => match key.take() {
                Some(Key { repeated: true, .. }) => {}
                Some(Key { node: key, repeated: false }) => entries.push(Entry { key, value: node }),
                None => {
                    let repeated = is_repeated(&node, seen, self.faults)?;
                    *key = Some(Key { node, repeated });
                }
            },
        }
        Ok(())
    }
}

fn too_deep(span: Span) -> Fault {
    Fault::new(format!("lists and mappings nest at most {MAX_DEPTH} deep"), span)
}

fn is_repeated(key: &Node, seen: &mut HashMap<String, Span>, faults: &mut Vec<Fault>) -> Result<bool, Fault> {
    let Kind::Scalar(scalar) = &key.kind else {
        return Err(Fault::new("a key must be text, and there is none before the `:`", key.span));
    };
    if scalar.plain && scalar.text == "<<" {
        return Err(Fault::new("merge keys (`<<`) are not supported", key.span)
            .help("repeat the keys, or use an alias for the whole value: what holds here should stand here"));
    }
    if let Some(first) = seen.get(&scalar.text) {
        faults
            .push(Fault::new(format!("the key `{}` is given twice", scalar.text), key.span).related("first given here", *first));
        return Ok(true);
    }
    seen.insert(scalar.text.clone(), key.span);
    Ok(false)
}

/// How many nodes, bytes of text, and levels a node has. Its depth is bounded by the parser.
fn weigh(node: &Node) -> (usize, usize, usize) {
    let mut total = (1, 0, 0);
    let mut add = |node: &Node| {
        let (nodes, bytes, depth) = weigh(node);
        total = (total.0 + nodes, total.1 + bytes, total.2.max(depth));
    };
    match &node.kind {
        Kind::Null { .. } => {}
        Kind::Scalar(scalar) => return (1, scalar.text.len(), 0),
        Kind::Sequence(items) => items.iter().for_each(&mut add),
        Kind::Mapping(entries) => {
            for entry in entries {
                add(&entry.key);
                add(&entry.value);
            }
        }
    }
    (total.0, total.1, total.2 + 1)
}
