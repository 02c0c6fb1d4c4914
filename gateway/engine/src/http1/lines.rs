//! What the heads of requests and responses have in common: lines (RFC 9112, sections 2.2 and 5).

use memchr::memchr;
use portcullis_plugin::headers::name_len;
use std::ops::Range;

/// The bytes of a line's end.
pub(super) const LINE_END: usize = 2;

/// The lines, without their line ends, and where each begins. `Err` for one that ends with a bare LF. What follows the last line end
/// is no line.
pub(super) fn lines(head: &[u8]) -> impl Iterator<Item = Result<(usize, &[u8]), BareLf>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let rest = head.get(at..)?;
        let len = memchr(b'\n', rest)?;
        let start = at;
        at += len + 1;
        Some(rest.get(..len).and_then(|line| line.strip_suffix(b"\r")).map(|line| (start, line)).ok_or(BareLf))
    })
}

/// A line that does not end with CR LF.
#[derive(Debug)]
pub(super) struct BareLf;

/// Where in a field's line the name ends, and where the value is, without the blanks around it. `None` if the line does not begin
/// with a name and a colon.
pub(super) fn split_field(line: &[u8]) -> Option<(usize, Range<usize>)> {
    let colon = name_len(line);
    if colon == 0 || line.get(colon) != Some(&b':') {
        return None;
    }
    let is_blank = |at: usize| matches!(line.get(at), Some(b' ' | b'\t'));
    let (mut start, mut end) = (colon + 1, line.len());
    while start < end && is_blank(start) {
        start += 1;
    }
    while end > start && is_blank(end - 1) {
        end -= 1;
    }
    Some((colon, start..end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_split_at_its_first_colon_and_trimmed() {
        let split = |line: &'static [u8]| split_field(line).map(|(name, value)| (&line[..name], &line[value]));
        assert_eq!(split(b"A:b"), Some((&b"A"[..], &b"b"[..])));
        assert_eq!(split(b"A: \t b c\t "), Some((&b"A"[..], &b"b c"[..])));
        assert_eq!(split(b"A:"), Some((&b"A"[..], &b""[..])));
        assert_eq!(split(b"A: \t "), Some((&b"A"[..], &b""[..])));
        assert_eq!(split(b"A::b"), Some((&b"A"[..], &b":b"[..])));
        for line in [&b": b"[..], b"", b" A: b", b"A : b", b"A b: c", b"A", b"\xC3: b"] {
            assert_eq!(split_field(line), None, "{}", line.escape_ascii());
        }
    }

    #[test]
    fn lines_have_places_and_bare_lfs_are_told() {
        let all: Vec<_> = lines(b"x\r\nab\r\n\r\nrest").map(Result::unwrap).collect();
        assert_eq!(all, [(0, &b"x"[..]), (3, b"ab"), (7, b"")]);
        assert!(lines(b"a\r\nb\n").nth(1).unwrap().is_err());
    }
}
