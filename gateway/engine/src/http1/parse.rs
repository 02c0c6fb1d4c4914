//! The strict parser of HTTP/1 request heads (RFC 9112).
//!
//! It takes what every server reads alike, and refuses the rest: bare CR or LF, several spaces in the request line, folded
//! lines, blanks before a colon, names that are not tokens, control characters, versions other than 1.0 and 1.1. One
//! empty line before the request line is skipped, because old clients send one after a body (RFC 9112, section 2.2).
//! Bytes above 0x7F pass in values, as they are, and nowhere else.
//!
//! Each line is looked at once, however the bytes arrive. The fields are copied once, into the buffer that [`Headers`]
//! then owns; nothing is copied before the head is complete.

use super::lines::{BareLf, LINE_END, lines, split_field};
use super::{FIELD_ROOM, HeadLimits};
use crate::normalise::{LONGEST_TARGET, Refusal, shown};
use memchr::memchr;
use portcullis_plugin::headers::{ReadFields, count_controls, is_token_byte, is_value};
use portcullis_plugin::{Headers, Method, Version, driver_text};
use std::ops::Range;

/// Room behind the fields as received, so that filters add some without moving them.
const BYTES_FOR_NEW_FIELDS: usize = 512;

/// A head as received: well-formed, and not yet read in one way only. The normaliser does that.
#[derive(Debug, Clone)]
pub struct RawHead {
    pub method: Method,
    /// Visible ASCII.
    pub target: String,
    /// `Http10` or `Http11`.
    pub version: Version,
    /// All fields as received.
    pub headers: Headers,
}

/// What the bytes so far amount to.
#[derive(Debug, Clone)]
pub enum Parsed {
    /// Not yet a whole head.
    Partial,
    Complete {
        head: RawHead,
        /// The bytes that the head takes up; the body, if any, follows.
        len: usize,
    },
}

/// Parses a head that may not be complete. For bytes that arrive piecemeal, keep a [`Parser`].
///
/// # Errors
/// What is not a strictly written head, or is larger than `limits`.
pub fn parse(buffer: &[u8], limits: &HeadLimits) -> Result<Parsed, Refusal> {
    Parser::default().parse(buffer, limits)
}

/// Remembers how far it has come in a head that is still arriving.
#[derive(Debug, Default)]
pub struct Parser {
    /// Where the current line starts.
    line: usize,
    /// Up to where there is no line end.
    searched: usize,
    /// Lines since the request line.
    fields: usize,
    request: Option<RequestLine>,
}

#[derive(Debug)]
struct RequestLine {
    method: Method,
    target: Range<usize>,
    version: Version,
    /// Where the next line starts.
    end: usize,
}

impl Parser {
    /// Goes on where it stopped. `buffer` holds the head from its first byte, and only ever grows until the head is
    /// complete or refused; after that the parser is ready for the next head.
    ///
    /// # Errors
    /// What is not a strictly written head, or is larger than `limits`. It is said as soon as it is seen.
    pub fn parse(&mut self, buffer: &[u8], limits: &HeadLimits) -> Result<Parsed, Refusal> {
        let result = self.advance(buffer, limits);
        if !matches!(result, Ok(Parsed::Partial)) {
            *self = Self::default();
        }
        result
    }

    fn advance(&mut self, buffer: &[u8], limits: &HeadLimits) -> Result<Parsed, Refusal> {
        let window = buffer.get(..limits.bytes).unwrap_or(buffer);
        if self.searched == 0
            && let Some(parsed) = at_once(window, limits)
        {
            return Ok(parsed);
        }
        loop {
            if self.request.is_none() {
                check_first_byte(window.get(self.line))?;
            }
            let Some(offset) = memchr(b'\n', window.get(self.searched..).unwrap_or_default()) else {
                self.searched = window.len();
                // The end of the head would be beyond the limit.
                return if buffer.len() >= limits.bytes { Err(limits.exceeded()) } else { Ok(Parsed::Partial) };
            };
            let end = self.searched + offset;
            let line = window.get(self.line..end).unwrap_or_default();
            let line = line.strip_suffix(b"\r").ok_or_else(|| bare_lf(BareLf))?;
            let start = std::mem::replace(&mut self.line, end + 1);
            self.searched = self.line;
            match self.request.take() {
                None if line.is_empty() && start == 0 => {}
                None => self.request = Some(request_line(line, start, self.line)?),
                Some(request) if line.is_empty() => {
                    let head = assemble(request, buffer, start, limits)?;
                    return Ok(Parsed::Complete { head, len: self.line });
                }
                Some(request) => {
                    check_bytes(line)?;
                    self.request = Some(request);
                    self.fields += 1;
                    if self.fields > limits.fields {
                        return Err(limits.exceeded());
                    }
                }
            }
        }
    }
}

/// A head that is there to its end, and nothing is wrong with it. Of any other, what there is to say is said line by line.
fn at_once(window: &[u8], limits: &HeadLimits) -> Option<Parsed> {
    let (_, first) = lines(window).next()?.ok()?;
    let start = first.len() + LINE_END;
    let request = request_line(first, 0, start).ok()?;
    let (headers, end) = fields(window.get(start..)?, limits).ok()??;
    let (fields, target) = (window.get(start..start + end)?, window.get(request.target.clone())?);
    // All lines at once: each ends with two control characters, and there are to be no more.
    if headers.len() > limits.fields || count_controls(fields) != LINE_END * headers.len() {
        return None;
    }
    let RequestLine { method, version, .. } = request;
    let head = RawHead { method, target: text(target), version, headers };
    Some(Parsed::Complete { head, len: start + end + LINE_END })
}

/// Says early that this is not HTTP, such as a TLS handshake: it might never send a line end.
fn check_first_byte(first: Option<&u8>) -> Result<(), Refusal> {
    match first {
        Some(b) if !is_token_byte(*b) && !matches!(b, b'\r' | b'\n') => {
            Err(Refusal::ambiguous("a method", format!("the byte {}", shown(&[*b]))))
        }
        _ => Ok(()),
    }
}

/// RFC 9112, section 3: three parts with one space between them.
fn request_line(line: &[u8], start: usize, end: usize) -> Result<RequestLine, Refusal> {
    let refuse =
        |expected: &str, observed: &[u8]| Err(Refusal::ambiguous(expected, format!("request line with {}", shown(observed))));
    let (Some(first), Some(last)) = (memchr(b' ', line), memchr::memrchr(b' ', line)) else {
        return refuse("method, target and version", line.get(..16).unwrap_or(line));
    };
    let (method, version) = (&line[..first], &line[last + 1..]);
    let Some(method) = Method::parse(method) else {
        return refuse("a method that is a token", method);
    };
    let version = match version {
        b"HTTP/1.1" => Version::Http11,
        b"HTTP/1.0" => Version::Http10,
        other => return refuse("HTTP/1.0 or HTTP/1.1", other),
    };
    // The target itself is not shown: its query may hold a secret.
    let target = line.get(first + 1..last).unwrap_or_default();
    if let Some(byte) = target.iter().find(|b| !b.is_ascii_graphic()) {
        return refuse("a target of visible ASCII", &[*byte]);
    }
    if target.is_empty() {
        return refuse("one space between method, target and version", b"no target");
    }
    if target.len() > LONGEST_TARGET {
        return Err(Refusal::too_large(format!("a target of at most {LONGEST_TARGET} bytes"), format!("{} bytes", target.len())));
    }
    Ok(RequestLine { method, target: start + first + 1..start + last, version, end })
}

/// The head, of which all lines but the names and colons in them were looked at. The fields end where the empty line starts.
fn assemble(request: RequestLine, buffer: &[u8], end: usize, limits: &HeadLimits) -> Result<RawHead, Refusal> {
    let RequestLine { method, target, version, end: start } = request;
    let section = buffer.get(start..end + LINE_END).unwrap_or_default();
    let Some((headers, _)) = fields(section, limits)? else { return Err(limits.exceeded()) };
    Ok(RawHead { method, target: text(buffer.get(target).unwrap_or_default()), version, headers })
}

/// Reads the fields up to the empty line, and says where that is. `None`: it is not there.
fn fields(section: &[u8], limits: &HeadLimits) -> Result<Option<(Headers, usize)>, Refusal> {
    let mut fields = ReadFields::new(section, limits.fields.saturating_add(FIELD_ROOM));
    for line in lines(section) {
        let (at, line) = line.map_err(bare_lf)?;
        if line.is_empty() {
            return fields.finish(at, BYTES_FOR_NEW_FIELDS).map(|headers| Some((headers, at))).map_err(|_| limits.exceeded());
        }
        let Some((name, value)) = split_field(line) else { return Err(no_field(line)) };
        fields.add(at..at + name, at + value.start..at + value.end).map_err(|_| limits.exceeded())?;
    }
    Ok(None)
}

/// A target, which is visible ASCII.
fn text(target: &[u8]) -> String {
    driver_text(std::str::from_utf8(target).unwrap_or_default())
}

fn bare_lf(BareLf: BareLf) -> Refusal {
    Refusal::ambiguous("lines that end with CR LF", "a bare LF")
}

/// Control characters in a field, as soon as its line is there: a bare CR could pass for its end.
fn check_bytes(line: &[u8]) -> Result<(), Refusal> {
    if !is_value(line) {
        // A line without a colon may be the rest of a secret, so it is not shown.
        let name = memchr(b':', line).and_then(|colon| line.get(..colon)).unwrap_or_default();
        return Err(Refusal::ambiguous("a field without control characters", format!("field {}", shown(name))));
    }
    Ok(())
}

/// What is wrong with a line that does not begin with a name and a colon.
fn no_field(line: &[u8]) -> Refusal {
    if matches!(line.first(), Some(b' ' | b'\t')) {
        return Refusal::ambiguous("a field on one line", "a folded line");
    }
    match memchr(b':', line).and_then(|colon| line.get(..colon)) {
        // Not shown: the line may be what is left of a secret.
        None => Refusal::ambiguous("a colon in each field", "a line without one"),
        Some(name) => {
            Refusal::ambiguous("a field name that is a token, right before its colon", format!("field name {}", shown(name)))
        }
    }
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
