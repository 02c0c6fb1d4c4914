//! From YAML events to the tree.
//!
//! What configurations do not need and people misread is refused with its place, rather than given a meaning: several
//! documents in one file, the same key twice, merge keys, tags, and keys that are not text. Aliases are copies, within a
//! budget, so that a few bytes cannot become gigabytes.

use super::document::{Entry, Fault, Kind, MAX_BYTES, MAX_DEPTH, Node, NodeId, Scalar, SourceId, Span};
use granit_parser::{ErrorKind, Event, Parser, ScalarStyle, ScanError};
use std::collections::HashMap;

const NO_TABS: &str = "indent with spaces; YAML does not allow tabs there";
/// What all aliases of a file may add to it.
const MAX_COPIED_NODES: usize = 100_000;
const MAX_COPIED_BYTES: usize = 4 << 20;

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
                let is_text = self.check_tag(tag.as_deref(), at);
                // The parser makes a `~` of nothing; a written one takes up space.
                let nothing = style == ScalarStyle::Plain && span.start == span.end;
                let plain = style == ScalarStyle::Plain && !is_text;
                let id = self.id();
                let as_key = self.expects_key();
                let kind = match text.as_ref() {
                    _ if nothing => Kind::Null { implicit: true },
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

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(text: &str) -> Result<Node, Vec<String>> {
        let mut faults = Vec::new();
        let tree = parse(text, SourceId(0), &mut faults);
        let messages: Vec<String> = faults.into_iter().map(|fault| fault.message).collect();
        tree.filter(|_| messages.is_empty()).ok_or(messages)
    }

    fn is_implicit_null(node: Option<&Node>) -> bool {
        matches!(node.map(|node| &node.kind), Some(Kind::Null { implicit: true }))
    }

    #[test]
    fn nothing_written_is_told_from_null() {
        let tree = tree("a:\nb: &x\nc: *x\nd: ~\ne: !!str\nf: \"\"\ng: '~'\nh: [a, ]\ni: {j: , k}\n").unwrap();
        for key in ["a", "b", "c", "e"] {
            assert!(is_implicit_null(tree.get(key)), "{key}");
        }
        assert!(matches!(tree.get("d").map(|node| &node.kind), Some(Kind::Null { implicit: false })));
        assert_eq!(tree.get("f").and_then(Node::scalar).map(|scalar| scalar.text.as_str()), Some(""));
        assert_eq!(tree.get("g").and_then(Node::scalar).map(|scalar| scalar.text.as_str()), Some("~"));
        assert_eq!(tree.get("h").map(|node| node.items().len()), Some(1));
        let inner = tree.get("i").unwrap();
        assert!(is_implicit_null(inner.get("j")) && is_implicit_null(inner.get("k")));
    }

    #[test]
    fn scalars_keep_their_text_and_place() {
        let text = "é: 0123\nlist:\n- 'it''s'\n- |\n  two\n  lines\n";
        let tree = tree(text).unwrap();
        let first = &tree.entries()[0];
        assert_eq!((first.name(), first.value.span.line, first.value.span.column), ("é", 1, 4));
        assert_eq!(&text[first.value.span.start..first.value.span.end], "0123");
        let items = tree.get("list").unwrap().items();
        assert_eq!(items[0].scalar().unwrap().text, "it's");
        assert_eq!(items[1].scalar().unwrap().text, "two\nlines\n");
        assert!(!items[0].scalar().unwrap().plain);
    }

    #[test]
    fn a_chain_of_anchors_counts_as_often_as_it_is_kept() {
        // Each anchor keeps all that is within it: without a budget, twenty levels of a large list are twenty lists.
        let list = format!("[{}]", vec!["x"; 20_000].join(","));
        let nested = (0..20).fold(list, |inner, level| format!("&l{level} [{inner}]"));
        assert_eq!(tree(&format!("a: {nested}\n")).err().unwrap(), ["the aliases of this file stand for too much"]);
        assert!(tree("a: &a {x: 1}\nb: *a\nc: [*a, *a]\n*a : no\n").is_err());
        assert!(tree("a: &a x\n*a : yes\n").is_ok());
    }

    #[test]
    fn a_file_that_is_too_long_is_refused() {
        assert!(tree(&"#".repeat(MAX_BYTES + 1)).is_err());
    }
}
