//! The path: one spelling for every way to write it, and no way to write what servers read differently.
//!
//! In this order, because each step could bring forth what the next one looks for:
//!
//! 1. Percent-encoding: unreserved characters are decoded, the others keep upper-case escapes, characters that a path may
//!    not hold get one. Refused: broken escapes, encoded control characters, overlong UTF-8 (`%C0%AE`), a backslash,
//!    non-ASCII bytes; `%2F` and `%5C` unless the listener keeps them.
//! 2. Slashes and dot segments, as the listener says. Refused always: a step above the root, and dots that only some
//!    servers take for a dot segment (`..;x`, `..%3Bx`, `a%2F..%2Fb`).
//!
//! Nothing is decoded twice: `%252e` stays `%252e`.

use super::Policy;
use super::refusal::{Refusal, shown_path};
use crate::config::raw::{DotSegments, DuplicateSlashes, EncodedSlashes};
use std::borrow::Cow;

/// RFC 3986, section 2.3: a character that means the same encoded and not.
const fn is_unreserved(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~')
}

/// RFC 3986, section 3.3: what a path holds without an escape.
const fn is_path_byte(b: u8) -> bool {
    is_unreserved(b)
        || matches!(b, b'/' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' | b':' | b'@')
}

/// The path in its one spelling; borrowed if it was already in it.
pub(crate) fn normalise<'a>(path: &'a str, policy: &Policy) -> Result<Cow<'a, str>, Refusal> {
    if !path.starts_with('/') {
        return Err(refuse("a path that starts with `/`", path));
    }
    if is_plain(path.as_bytes()) {
        return Ok(Cow::Borrowed(path));
    }
    let spelled = spell(path, policy)?;
    resolve(&spelled, path, policy).map(Cow::Owned)
}

fn refuse(expected: &str, path: &str) -> Refusal {
    Refusal::ambiguous(expected, format!("path {}", shown_path(path.as_bytes())))
}

/// Whether there is nothing to do or to refuse. It may say no too often: `/.well-known` takes the long way.
fn is_plain(path: &[u8]) -> bool {
    let mut after_slash = false;
    path.iter().all(|b| {
        let plain = is_path_byte(*b) && !(after_slash && matches!(b, b'/' | b'.'));
        after_slash = *b == b'/';
        plain
    })
}

fn spell(path: &str, policy: &Policy) -> Result<String, Refusal> {
    let mut out = String::with_capacity(path.len() + 16);
    let mut rest = path.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        match *byte {
            b'%' => {
                let value = escape(rest).ok_or_else(|| refuse("two hexadecimal digits after `%`", path))?;
                rest = rest.get(2..).unwrap_or_default();
                if is_overlong(value, rest) {
                    return Err(refuse("UTF-8 in its shortest form", path));
                }
                match value {
                    0..0x20 | 0x7F => return Err(refuse("no encoded control characters", path)),
                    b'/' | b'\\' if policy.encoded_slashes == EncodedSlashes::Refuse => {
                        return Err(refuse("no encoded slash or backslash", path));
                    }
                    plain if is_unreserved(plain) => out.push(char::from(plain)),
                    other => push_escape(&mut out, other),
                }
            }
            b'\\' => return Err(refuse("no backslash", path)),
            plain if is_path_byte(plain) => out.push(char::from(plain)),
            // Browsers send some of `"<>[]^`{|}` bare, though no path may hold them. Encoded, they mean the same.
            odd if odd.is_ascii_graphic() && !matches!(odd, b'#' | b'?') => push_escape(&mut out, odd),
            _ => return Err(refuse("visible ASCII without `#`", path)),
        }
    }
    Ok(out)
}

pub(super) fn push_escape(out: &mut String, value: u8) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    out.push('%');
    out.push(char::from(DIGITS[usize::from(value >> 4)]));
    out.push(char::from(DIGITS[usize::from(value & 15)]));
}

/// The value of the two digits that `rest` starts with.
pub(crate) fn escape(rest: &[u8]) -> Option<u8> {
    let digit = |at: usize| rest.get(at).and_then(|b| char::from(*b).to_digit(16));
    u8::try_from(digit(0)? * 16 + digit(1)?).ok()
}

/// Whether an encoded byte starts a longer form of a character than UTF-8 allows. Lenient decoders find dots and slashes
/// in such forms.
fn is_overlong(value: u8, rest: &[u8]) -> bool {
    let next = || rest.strip_prefix(b"%").and_then(escape);
    match value {
        0xC0 | 0xC1 => true,
        0xE0 => next().is_some_and(|next| (0x80..0xA0).contains(&next)),
        0xF0 => next().is_some_and(|next| (0x80..0x90).contains(&next)),
        _ => false,
    }
}

/// Slashes and dot segments (RFC 3986, section 5.2.4). `given` is what the client sent, for the finding.
fn resolve(path: &str, given: &str, policy: &Policy) -> Result<String, Refusal> {
    let mut out = String::with_capacity(path.len());
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            "" if last => out.push('/'),
            "" => match policy.duplicate_slashes {
                DuplicateSlashes::Merge => {}
                DuplicateSlashes::Keep => out.push('/'),
                DuplicateSlashes::Refuse => return Err(refuse("no duplicate slash", given)),
            },
            "." | ".." if policy.dot_segments == DotSegments::Refuse => return Err(refuse("no dot segment", given)),
            "." | ".." => {
                if segment == ".." {
                    let parent = out.rfind('/').ok_or_else(|| refuse("no step above the root", given))?;
                    out.truncate(parent);
                }
                if last {
                    out.push('/');
                }
            }
            hidden if hides_dots(hidden) => return Err(refuse("no dot segment with a parameter or an encoded slash", given)),
            plain => {
                out.push('/');
                out.push_str(plain);
            }
        }
    }
    // Where slashes are kept, `//host/path` would read as a host to whoever resolves the target as a URI reference.
    if out.starts_with("//") { Err(refuse("a path that starts with one slash", given)) } else { Ok(out) }
}

/// Whether a server that decodes slashes, cuts off parameters, or both, would find a dot segment here.
fn hides_dots(segment: &str) -> bool {
    let without_parameters = |part: &str| {
        let end = part.find(';').into_iter().chain(part.find("%3B")).min().unwrap_or(part.len());
        matches!(part.get(..end), Some("." | ".."))
    };
    segment.contains([';', '%']) && segment.split("%2F").flat_map(|part| part.split("%5C")).any(without_parameters)
}

#[cfg(test)]
#[path = "path_tests.rs"]
mod tests;
