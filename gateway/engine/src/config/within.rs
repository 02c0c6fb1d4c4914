//! A place within a text of a configuration, such as in an expression of several lines.
//!
//! YAML folds, indents and quotes. Whatever it does to white space, what else a text has stands in the file in the same order,
//! unless there are escapes; so the characters that are no white space are counted, and compared.

use super::document::{Node, Span};

/// Where the file has what stands at `offset` of the text of `node`. `None`, if the file has the text otherwise.
pub fn span(source: &str, node: &Node, offset: usize) -> Option<Span> {
    let scalar = node.scalar()?;
    // What came from the environment is not in the file.
    if scalar.written.is_some() {
        return None;
    }
    let before = dense(scalar.text.get(..offset)?).count();
    // A value may have begun before its anchor or tag; the text itself may have a quote or a header line before it.
    let slice = source.get(node.span.start..)?;
    let starts = [0, 1, slice.find('\n').map_or(0, |end| end + 1)];
    let written = starts.into_iter().filter_map(|start| slice.get(start..)).find(|rest| {
        let mut rest = dense(rest);
        dense(&scalar.text).all(|(_, c)| rest.next().is_some_and(|(_, there)| there == c))
    })?;
    let mut there = dense(written);
    let at = match before.checked_sub(1).map(|last| there.nth(last)) {
        // What is missing at the end of a text is marked there.
        Some(last) if dense(&scalar.text).count() == before => last.map(|(at, c)| at + c.len_utf8())?,
        _ => there.next()?.0,
    };
    let start = source.len() - written.len() + at;
    let rest = source.get(start..)?;
    let word = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
    let end = start + word.max(rest.chars().next().filter(|c| !c.is_whitespace()).map_or(0, char::len_utf8));
    let line = node.span.line + source.get(node.span.start..start)?.matches('\n').count();
    let column = source.get(..start)?.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    Some(Span { start, end, line, column, ..node.span })
}

fn dense(text: &str) -> impl Iterator<Item = (usize, char)> {
    text.char_indices().filter(|(_, c)| !c.is_whitespace())
}

#[cfg(test)]
mod tests {
    use super::super::document::SourceId;
    use super::super::parse::parse;
    use super::*;

    /// Line and column of the first `bad` of the value of `x`, and what is underlined.
    fn place(yaml: &str) -> Option<(usize, usize, String)> {
        let tree = parse(yaml, SourceId(0), &mut Vec::new()).unwrap();
        let node = tree.get("x").unwrap();
        let offset = node.scalar().unwrap().text.find("bad").unwrap();
        span(yaml, node, offset).map(|span| (span.line, span.column, yaml[span.start..span.end].to_owned()))
    }

    #[test]
    fn a_place_within_a_text_is_found_however_it_is_written() {
        for (yaml, line, column) in [
            ("x: bad_1 == 2\n", 1, 4),
            ("x: a && bad_1\ny: bad_1\n", 1, 9),
            ("{ x: \"é && bad_1\", y: 1 }\n", 1, 12),
            ("x: 'a && bad_1'\n", 1, 10),
            ("x: |\n  a &&\n    bad_1\n", 3, 5),
            ("x: |- # bad\n\n  a &&\n\n  bad_1\n", 5, 3),
            ("x: >-\n  a &&\n  bad_1 &&\n  c\n", 3, 3),
            ("x: a &&\n  bad_1\n", 2, 3),
            ("x: \"a &&\n  bad_1\"\n", 2, 3),
            ("x: &anchor |\r\n  a &&\r\n  bad_1\r\n", 3, 3),
            ("x: !!str bad_1\n", 1, 10),
        ] {
            assert_eq!(place(yaml), Some((line, column, "bad_1".to_owned())), "{yaml}");
        }
    }

    #[test]
    fn where_the_file_has_the_text_otherwise_nothing_is_guessed() {
        for yaml in ["x: \"a == '\\t' && bad\"\n", "x: 'a == ''b'' && bad'\n", "x: \"a \\\n  && bad\"\n"] {
            assert_eq!(place(yaml), None, "{yaml}");
        }
    }

    #[test]
    fn the_end_of_a_text_is_a_place_too() {
        let yaml = "x: 'a =='\ny: 1\n";
        let tree = parse(yaml, SourceId(0), &mut Vec::new()).unwrap();
        let node = tree.get("x").unwrap();
        let found = span(yaml, node, 4).unwrap();
        assert_eq!((found.line, found.column), (1, 9));
        assert!(span(yaml, node, 5).is_none());
    }
}
