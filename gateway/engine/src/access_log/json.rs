//! One JSON object on one line, straight into a byte buffer.
//!
//! Whatever bytes a text has, the line stays one line of valid JSON in UTF-8: nobody can forge a line, and no viewer is
//! told to turn, hide or break one.

use std::fmt::Display;
use std::io::Write;

/// Bytes of one text in a line. A longer one is cut and ends in `…`: what a client sends must not fill the disk faster than
/// its own requests.
pub(crate) const MAX_TEXT: usize = 2048;

/// Texts of one list.
const MAX_TEXTS: usize = 128;

/// An object that is being written: its members in the order of the calls.
pub(crate) struct Object<'o> {
    out: &'o mut Vec<u8>,
    first: bool,
}

impl<'o> Object<'o> {
    pub(crate) fn begin(out: &'o mut Vec<u8>) -> Self {
        out.push(b'{');
        Self { out, first: true }
    }

    pub(crate) fn end(self) {
        self.out.push(b'}');
    }

    /// `name` is one of ours, with nothing in it to escape.
    fn name(&mut self, name: &'static str) -> &mut Vec<u8> {
        if !std::mem::take(&mut self.first) {
            self.out.push(b',');
        }
        self.out.push(b'"');
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
        self.out
    }

    /// `null` if there is none.
    pub(crate) fn text(&mut self, name: &'static str, value: Option<impl AsRef<[u8]>>) {
        let out = self.name(name);
        match value {
            Some(value) => text(out, value.as_ref()),
            None => out.extend_from_slice(b"null"),
        }
    }

    /// A value whose text has nothing to escape, such as an address.
    pub(crate) fn plain(&mut self, name: &'static str, value: impl Display) {
        let out = self.name(name);
        // Writing to memory cannot fail.
        let _ = write!(out, "\"{value}\"");
    }

    pub(crate) fn time(&mut self, name: &'static str, value: std::time::SystemTime) {
        let out = self.name(name);
        out.push(b'"');
        super::timestamp::write(out, value);
        out.push(b'"');
    }

    pub(crate) fn number(&mut self, name: &'static str, value: Option<u64>) {
        let out = self.name(name);
        match value {
            Some(value) => out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes()),
            None => out.extend_from_slice(b"null"),
        }
    }

    pub(crate) fn flag(&mut self, name: &'static str, value: bool) {
        self.name(name).extend_from_slice(if value { b"true" } else { b"false" });
    }

    /// `null` if they are not known, or are so many that a part of them could be taken for all.
    pub(crate) fn texts(&mut self, name: &'static str, values: Option<&[impl AsRef<str>]>) {
        let bytes = |values: &[_]| values.iter().map(|value: &_| AsRef::<str>::as_ref(value).len()).sum::<usize>();
        let out = self.name(name);
        match values.filter(|values| values.len() <= MAX_TEXTS && bytes(values) <= MAX_TEXT) {
            Some(values) => {
                out.push(b'[');
                for (at, value) in values.iter().enumerate() {
                    if at > 0 {
                        out.push(b',');
                    }
                    text(out, value.as_ref().as_bytes());
                }
                out.push(b']');
            }
            None => out.extend_from_slice(b"null"),
        }
    }

    pub(crate) fn objects<T>(
        &mut self,
        name: &'static str,
        values: impl IntoIterator<Item = T>,
        mut write: impl FnMut(T, &mut Object<'_>),
    ) {
        let out = self.name(name);
        out.push(b'[');
        for (at, value) in values.into_iter().enumerate() {
            if at > 0 {
                out.push(b',');
            }
            let mut object = Object::begin(out);
            write(value, &mut object);
            object.end();
        }
        out.push(b']');
    }

    pub(crate) fn object<T>(&mut self, name: &'static str, value: Option<T>, write: impl FnOnce(T, &mut Object<'_>)) {
        let out = self.name(name);
        match value {
            Some(value) => {
                let mut object = Object::begin(out);
                write(value, &mut object);
                object.end();
            }
            None => out.extend_from_slice(b"null"),
        }
    }
}

fn text(out: &mut Vec<u8>, bytes: &[u8]) {
    let (bytes, cut) = match bytes.get(..MAX_TEXT) {
        Some(start) if bytes.len() > MAX_TEXT => (whole_characters(start), true),
        _ => (bytes, false),
    };
    out.push(b'"');
    if bytes.iter().all(|b| is_plain(*b)) {
        out.extend_from_slice(bytes);
    } else {
        for chunk in bytes.utf8_chunks() {
            escaped(out, chunk.valid());
            if !chunk.invalid().is_empty() {
                out.extend_from_slice("\u{FFFD}".as_bytes());
            }
        }
    }
    if cut {
        out.extend_from_slice("…".as_bytes());
    }
    out.push(b'"');
}

/// `bytes` without the first part of a character that was cut in two.
fn whole_characters(bytes: &[u8]) -> &[u8] {
    let tail = bytes.iter().rev().take(3).take_while(|b| **b & 0xC0 == 0x80).count();
    let start = bytes.len().saturating_sub(tail + 1);
    match bytes.get(start..) {
        Some(last) if last.first().is_some_and(|b| *b >= 0xC0) && std::str::from_utf8(last).is_err() => {
            bytes.get(..start).unwrap_or_default()
        }
        _ => bytes,
    }
}

/// Printable ASCII but for the two that JSON escapes.
fn is_plain(b: u8) -> bool {
    matches!(b, b' '..=b'~') && b != b'"' && b != b'\\'
}

fn escaped(out: &mut Vec<u8>, text: &str) {
    let mut rest = text;
    while let Some(at) = rest.find(needs_escape) {
        let (plain, from) = rest.split_at(at);
        out.extend_from_slice(plain.as_bytes());
        let Some(c) = from.chars().next() else { return };
        match c {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            '\n' => out.extend_from_slice(b"\\n"),
            '\r' => out.extend_from_slice(b"\\r"),
            '\t' => out.extend_from_slice(b"\\t"),
            // All others that are escaped are below U+10000: four digits each.
            other => {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                let code = u32::from(other) as usize;
                let digit = |shift: u32| HEX[code >> shift & 15];
                out.extend_from_slice(&[b'\\', b'u', digit(12), digit(8), digit(4), digit(0)]);
            }
        }
        rest = from.get(c.len_utf8()..).unwrap_or_default();
    }
    out.extend_from_slice(rest.as_bytes());
}

/// What JSON does not allow, what ends a line for JavaScript or a terminal, and what turns or hides the text after it.
fn needs_escape(c: char) -> bool {
    matches!(c,
        '"' | '\\'
        | '\0'..='\x1F' | '\x7F'..='\u{9F}'
        | '\u{2028}' | '\u{2029}'
        | '\u{061C}' | '\u{200B}'..='\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2060}'..='\u{206F}' | '\u{FEFF}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn breaks_a_line(c: char) -> bool {
        c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')
    }

    fn line(bytes: &[u8]) -> String {
        let mut out = Vec::new();
        text(&mut out, bytes);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn nothing_ends_or_turns_a_line() {
        for (bytes, expected) in [
            (&b"plain"[..], r#""plain""#),
            (b"a\"b\\c", r#""a\"b\\c""#),
            (b"a\r\nb\tc\x00\x1b[31m\x7f", r#""a\r\nb\tc\u0000\u001b[31m\u007f""#),
            ("a\u{2028}b\u{2029}c\u{85}d".as_bytes(), r#""a\u2028b\u2029c\u0085d""#),
            ("\u{202E}gpj\u{feff}".as_bytes(), r#""\u202egpj\ufeff""#),
            ("grün🙂".as_bytes(), "\"grün🙂\""),
            (b"a\xffb\xc3", "\"a\u{FFFD}b\u{FFFD}\""),
        ] {
            assert_eq!(line(bytes), expected);
        }
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        let cut = format!("\"{}…\"", "a".repeat(MAX_TEXT));
        assert_eq!(line("a".repeat(MAX_TEXT + 1).as_bytes()), cut);
        assert_eq!(line("a".repeat(MAX_TEXT).as_bytes()).len(), MAX_TEXT + 2);
        for pad in 0..4 {
            let text = format!("{}{}", "a".repeat(pad), "🙂".repeat(MAX_TEXT));
            let cut = line(text.as_bytes());
            assert!(cut.ends_with("🙂…\"") && !cut.contains('\u{FFFD}'), "{pad}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_give_one_line_of_json_with_the_same_text(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let line = line(&bytes);
            prop_assert!(!line.chars().any(breaks_a_line));
            let read: String = serde_json::from_str(&line).unwrap();
            prop_assert_eq!(read, String::from_utf8_lossy(&bytes));
        }

        #[test]
        fn any_text_is_read_back(text in any::<String>()) {
            let read: String = serde_json::from_str(&line(text.as_bytes())).unwrap();
            prop_assert_eq!(read, text);
        }
    }
}
