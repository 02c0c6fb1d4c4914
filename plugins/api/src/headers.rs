//! Header fields: one owned buffer and a table of offsets into it.
//!
//! Order, case and bytes are kept as received. New values are appended to the same buffer; a removed field stays as a
//! tombstone, so that no operation moves bytes. Names compare without regard to ASCII case.

use crate::recycle::{BYTES, Spares};
use std::fmt;
use std::ops::Range;

/// Fields that say where a message ends or how a hop behaves. The gateway owns them: a filter can read them, and
/// cannot change them.
pub const FRAMING: &[&str] =
    &["connection", "content-length", "host", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"];

/// What a line of HTTP/1 has beside name and value.
const LINE: usize = 4;

/// The number of fields a head may have unless the listener says otherwise.
pub const DEFAULT_MAX_FIELDS: usize = 100;

/// Why a field was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    #[error("a header name is one or more letters, digits or !#$%&'*+-.^_`|~")]
    Name,
    #[error("a header value has no control characters but tab")]
    Value,
    #[error("the gateway itself sets this header: it frames the message or belongs to one hop")]
    Framing,
    #[error("the head has as many fields as it may")]
    TooMany,
}

#[derive(Debug, Clone, Copy)]
struct Field {
    name: u32,
    value: u32,
    value_len: u32,
    name_len: u16,
    /// Length, first and last letter folded: rejects nearly every other name without touching the buffer.
    tag: u16,
    dead: bool,
    /// The buffer has it as a line of HTTP/1: name, colon, one space, value, CR LF.
    line: bool,
}

/// Where in its buffer a field has its name, and where its value.
pub type Places = (Range<usize>, Range<usize>);

thread_local! {
    static FIELDS: Spares<Field> = const { Spares::new() };
}

/// The header fields of one message.
#[derive(Clone)]
pub struct Headers {
    buffer: Vec<u8>,
    fields: Vec<Field>,
    live: usize,
    max_fields: usize,
}

impl Drop for Headers {
    fn drop(&mut self) {
        let (buffer, fields) = (std::mem::take(&mut self.buffer), std::mem::take(&mut self.fields));
        // A thread that ends keeps nothing.
        let _ = BYTES.try_with(|spares| spares.give(buffer));
        let _ = FIELDS.try_with(|spares| spares.give(fields));
    }
}

impl Default for Headers {
    fn default() -> Self {
        Self::new()
    }
}

fn tag(name: &[u8]) -> u16 {
    match (name.first(), name.last()) {
        (Some(first), Some(last)) => {
            let fold = |b: u8| u16::from(b | 0x20);
            (name.len() as u16) ^ (fold(*first) << 5) ^ (fold(*last) << 8)
        }
        _ => 0,
    }
}

/// RFC 9110, section 5.6.2.
pub const fn is_token_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric()
        || matches!(b, b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~')
}

/// [`is_token_byte`] of every byte: names are looked at for each message.
const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = is_token_byte(byte as u8);
        byte += 1;
    }
    table
};

/// RFC 9110, section 5.5: visible ASCII, space, tab, and bytes above 0x7F.
pub const fn is_value_byte(b: u8) -> bool {
    b == b'\t' || (b >= b' ' && b != 0x7F)
}

/// Whether `name` could be a field's name.
pub fn is_name(name: &[u8]) -> bool {
    !name.is_empty() && name.len() <= usize::from(u16::MAX) && name.iter().all(|b| TOKEN[usize::from(*b)])
}

/// Whether a name, of which the caller knows that it is one, is `lower` but for case. `lower` is of lower-case letters and `-`: of
/// a name's bytes, no other has one of these when a letter's case is taken off.
#[inline]
pub fn is_named(name: &[u8], lower: &[u8]) -> bool {
    name.len() == lower.len() && name.iter().zip(lower).fold(0, |differ, (a, b)| differ | ((a | 0x20) ^ b)) == 0
}

/// How many of the first bytes could be a name's.
pub fn name_len(line: &[u8]) -> usize {
    line.iter().position(|b| !TOKEN[usize::from(*b)]).unwrap_or(line.len())
}

/// Whether `value` could be a field's value. Eight bytes are looked at in one step.
pub fn is_value(value: &[u8]) -> bool {
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    const HIGH: u64 = u64::from_le_bytes([0x80; 8]);
    // Whether one of them is below the blank, or is DEL. A tab is, and is looked at again.
    let suspicious = |word: u64| {
        let low = word.wrapping_sub(ONES * 0x20) & !word;
        let delete = word ^ (ONES * 0x7F);
        (low | (delete.wrapping_sub(ONES) & !delete)) & HIGH != 0
    };
    let (words, rest) = value.as_chunks::<8>();
    let all = |word: &[u8; 8]| !suspicious(u64::from_le_bytes(*word)) || word.iter().all(|b| is_value_byte(*b));
    // The last bytes together with some before them, which were looked at already.
    words.iter().all(all) && value.last_chunk().map_or_else(|| rest.iter().all(|b| is_value_byte(*b)), all)
}

/// How many of the bytes could be no value's: in a head, those that end its lines and no others.
pub fn count_controls(bytes: &[u8]) -> usize {
    // Few enough for their number to fit into a byte, so that many are counted at a time.
    let count = |chunk: &[u8]| chunk.iter().fold(0_u8, |count, b| count + u8::from(!is_value_byte(*b)));
    bytes.chunks(128).map(|chunk| usize::from(count(chunk))).sum()
}

fn is_framing(name: &str) -> bool {
    FRAMING.iter().any(|framing| framing.eq_ignore_ascii_case(name))
}

fn trim(value: &[u8]) -> &[u8] {
    let blank = |b: &u8| *b == b' ' || *b == b'\t';
    let start = value.iter().position(|b| !blank(b)).unwrap_or(value.len());
    let end = value.iter().rposition(|b| !blank(b)).map_or(start, |last| last + 1);
    &value[start..end]
}

impl Headers {
    pub fn new() -> Self {
        Self::with_limit(DEFAULT_MAX_FIELDS)
    }

    /// Fields beyond `max_fields` are refused.
    pub fn with_limit(max_fields: usize) -> Self {
        Self { buffer: Vec::new(), fields: Vec::new(), live: 0, max_fields }
    }

    /// The number of fields.
    pub fn len(&self) -> usize {
        self.live
    }

    pub fn is_empty(&self) -> bool {
        self.live == 0
    }

    /// The first field of that name.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.position(name).map(|at| self.value(&self.fields[at]))
    }

    /// The first field of that name, if it is visible ASCII.
    pub fn get_str(&self, name: &str) -> Option<&str> {
        self.get(name).filter(|value| value.is_ascii()).and_then(|value| std::str::from_utf8(value).ok())
    }

    /// Every field of that name, in order.
    pub fn get_all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let tag = tag(name.as_bytes());
        self.fields.iter().filter(move |field| self.is(field, tag, name)).map(|field| self.value(field))
    }

    pub fn contains(&self, name: &str) -> bool {
        self.position(name).is_some()
    }

    /// Name and value of every field, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.fields.iter().filter(|field| !field.dead).map(|field| (self.name(field), self.value(field)))
    }

    /// Replaces every field of that name by one.
    ///
    /// # Errors
    /// If the name or the value is not one HTTP allows, frames the message, or does not fit.
    pub fn set(&mut self, name: &str, value: impl AsRef<[u8]>) -> Result<(), HeaderError> {
        let value = checked(name, value.as_ref())?;
        self.drop_named(name);
        self.add(name, value)
    }

    /// Adds a field after all others.
    ///
    /// # Errors
    /// As [`set`](Self::set).
    pub fn append(&mut self, name: &str, value: impl AsRef<[u8]>) -> Result<(), HeaderError> {
        let value = checked(name, value.as_ref())?;
        self.add(name, value)
    }

    /// Removes every field of that name and says how many there were. Framing fields stay.
    pub fn remove(&mut self, name: &str) -> usize {
        if is_framing(name) { 0 } else { self.drop_named(name) }
    }

    /// Removes every field for which `keep` says no. Framing fields stay.
    pub fn retain(&mut self, mut keep: impl FnMut(&str, &[u8]) -> bool) {
        for at in 0..self.fields.len() {
            let field = self.fields[at];
            if !field.dead && !keep(self.name(&field), self.value(&field)) && !is_framing(self.name(&field)) {
                self.fields[at].dead = true;
                self.live -= 1;
            }
        }
    }

    fn position(&self, name: &str) -> Option<usize> {
        let tag = tag(name.as_bytes());
        self.fields.iter().position(|field| self.is(field, tag, name))
    }

    fn is(&self, field: &Field, tag: u16, name: &str) -> bool {
        field.tag == tag && !field.dead && self.name_bytes(field).eq_ignore_ascii_case(name.as_bytes())
    }

    fn name(&self, field: &Field) -> &str {
        // Only token bytes come in, and those are ASCII.
        std::str::from_utf8(self.name_bytes(field)).unwrap_or_default()
    }

    fn name_bytes(&self, field: &Field) -> &[u8] {
        let start = field.name as usize;
        &self.buffer[start..start + usize::from(field.name_len)]
    }

    fn value(&self, field: &Field) -> &[u8] {
        let start = field.value as usize;
        &self.buffer[start..start + field.value_len as usize]
    }

    fn drop_named(&mut self, name: &str) -> usize {
        let tag = tag(name.as_bytes());
        let mut dropped = 0;
        for at in 0..self.fields.len() {
            if self.is(&self.fields[at], tag, name) {
                self.fields[at].dead = true;
                dropped += 1;
            }
        }
        self.live -= dropped;
        dropped
    }

    fn add(&mut self, name: &str, value: &[u8]) -> Result<(), HeaderError> {
        let at = self.buffer.len();
        self.buffer.reserve(name.len() + value.len() + LINE);
        self.buffer.extend_from_slice(name.as_bytes());
        self.buffer.extend_from_slice(b": ");
        self.buffer.extend_from_slice(value);
        self.buffer.extend_from_slice(b"\r\n");
        let value_at = at + name.len() + 2;
        self.push(at..at + name.len(), value_at..value_at + value.len(), true)
    }

    fn push(&mut self, name: Range<usize>, value: Range<usize>, line: bool) -> Result<(), HeaderError> {
        if self.live >= self.max_fields {
            return Err(HeaderError::TooMany);
        }
        let small = |n: usize| u32::try_from(n).map_err(|_| HeaderError::TooMany);
        self.fields.push(Field {
            tag: tag(self.buffer.get(name.clone()).unwrap_or_default()),
            name: small(name.start)?,
            value: small(value.start)?,
            value_len: small(value.len())?,
            name_len: name.len() as u16,
            dead: false,
            line,
        });
        self.live += 1;
        Ok(())
    }
}

/// For the code that reads messages from and writes them to a connection. A filter has no use for these.
impl Headers {
    /// Without fields, and with room for so many bytes of them.
    pub fn driver_with_room(bytes: usize, max_fields: usize) -> Self {
        let buffer = BYTES.with(|spares| spares.take(bytes));
        Self { buffer, fields: FIELDS.with(|spares| spares.take(24)), live: 0, max_fields }
    }

    /// Appends every field to `out` as a line of HTTP/1, but for those of which `skip` says so by their name; names of other `lengths`
    /// are not asked for. Lines that follow one another in the buffer are copied together.
    pub fn driver_write_lines(&self, out: &mut Vec<u8>, lengths: Lengths, mut skip: impl FnMut(&[u8]) -> bool) {
        let mut run = 0..0;
        for field in &self.fields {
            if field.dead || lengths.has(usize::from(field.name_len)) && skip(self.name_bytes(field)) {
                continue;
            }
            let start = field.name as usize;
            if field.line && start == run.end {
                run.end = (field.value + field.value_len) as usize + 2;
                continue;
            }
            out.extend_from_slice(self.buffer.get(run).unwrap_or_default());
            if field.line {
                run = start..(field.value + field.value_len) as usize + 2;
                continue;
            }
            run = 0..0;
            for part in [self.name_bytes(field), b": ", self.value(field), b"\r\n"] {
                out.extend_from_slice(part);
            }
        }
        out.extend_from_slice(self.buffer.get(run).unwrap_or_default());
    }

    /// Replaces a field by one of the gateway's own.
    ///
    /// # Errors
    /// If there are too many fields.
    pub fn driver_put(&mut self, name: &'static str, value: &[u8]) -> Result<(), HeaderError> {
        debug_assert!(checked_bytes(name, value) == Ok(value));
        self.drop_named(name);
        self.add(name, value)
    }

    /// Adds a field whose name and value are the gateway's own, or were checked.
    ///
    /// # Errors
    /// If there are too many fields.
    pub fn driver_add(&mut self, name: &'static str, value: &[u8]) -> Result<(), HeaderError> {
        debug_assert!(checked_bytes(name, value) == Ok(value));
        self.add(name, value)
    }

    /// Adds any field, framing or not, after checking its bytes.
    ///
    /// # Errors
    /// As [`set`](Self::set), but for framing names.
    pub fn driver_append(&mut self, name: &str, value: &[u8]) -> Result<(), HeaderError> {
        let value = checked_bytes(name, value)?;
        self.add(name, value)
    }

    /// Replaces any field, framing or not.
    ///
    /// # Errors
    /// As [`driver_append`](Self::driver_append).
    pub fn driver_set(&mut self, name: &str, value: &[u8]) -> Result<(), HeaderError> {
        let value = checked_bytes(name, value)?;
        self.drop_named(name);
        self.add(name, value)
    }

    /// Removes any field, framing or not.
    pub fn driver_remove(&mut self, name: &str) -> usize {
        self.drop_named(name)
    }

    /// Where in the buffer each field has its name and its value.
    pub fn driver_places(&self) -> impl Iterator<Item = Places> {
        let span = |start: u32, len: usize| start as usize..start as usize + len;
        let live = self.fields.iter().filter(|field| !field.dead);
        live.map(move |field| (span(field.name, usize::from(field.name_len)), span(field.value, field.value_len as usize)))
    }

    /// Gives the buffer away. What is left has places, and neither names nor values.
    pub fn driver_take_buffer(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.buffer)
    }

    /// As [`iter`](Self::iter), without looking at each name once more to know that it is text.
    pub fn driver_iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.fields.iter().filter(|field| !field.dead).map(|field| (self.name_bytes(field), self.value(field)))
    }

    /// Removes every field, framing or not, for which `goes` says so by its name. Names of other `lengths` stay unasked.
    pub fn driver_strip(&mut self, lengths: Lengths, mut goes: impl FnMut(&[u8]) -> bool) {
        for at in 0..self.fields.len() {
            let field = self.fields[at];
            if !field.dead && lengths.has(usize::from(field.name_len)) && goes(self.name_bytes(&field)) {
                self.fields[at].dead = true;
                self.live -= 1;
            }
        }
    }
}

/// Lengths of names: by these alone most fields are told from those that are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lengths(u64);

impl Lengths {
    pub const ALL: Self = Self(u64::MAX);
    pub const NONE: Self = Self(0);

    pub const fn of(names: &[&str]) -> Self {
        let (mut lengths, mut at) = (Self::NONE, 0);
        while at < names.len() {
            lengths = lengths.and(names[at].len());
            at += 1;
        }
        lengths
    }

    /// One bit for each length, the last one for all from 63 on.
    #[must_use]
    pub const fn and(self, length: usize) -> Self {
        Self(self.0 | 1 << if length < 63 { length } else { 63 })
    }

    pub const fn has(self, length: usize) -> bool {
        self.0 & 1 << (if length < 63 { length } else { 63 }) != 0
    }
}

/// The fields of a head that is being read: each is named by its place, and all are copied together once the end is found.
pub struct ReadFields<'h> {
    section: &'h [u8],
    headers: Headers,
}

impl<'h> ReadFields<'h> {
    /// `section` begins with the first field's line, and may go on behind the last one's.
    pub fn new(section: &'h [u8], max_fields: usize) -> Self {
        let fields = FIELDS.with(|spares| spares.take(24));
        Self { section, headers: Headers { buffer: Vec::new(), fields, live: 0, max_fields } }
    }

    /// The field with its name and its value there. The caller knows by [`name_len`] that the name is one, and makes sure by
    /// [`count_controls`] or [`is_value`] of the value.
    ///
    /// # Errors
    /// If there are too many fields, or they are not within the section.
    pub fn add(&mut self, name: Range<usize>, value: Range<usize>) -> Result<(), HeaderError> {
        let headers = &mut self.headers;
        let Some(name_bytes) = self.section.get(name.clone()) else { return Err(HeaderError::Name) };
        let (Ok(name_len), Ok(end)) = (u16::try_from(name_bytes.len()), u32::try_from(value.end)) else {
            return Err(HeaderError::TooMany);
        };
        if value.start > value.end || value.end > self.section.len() || name.end > value.start {
            return Err(HeaderError::Value);
        }
        if headers.live >= headers.max_fields {
            return Err(HeaderError::TooMany);
        }
        let line =
            self.section.get(name.end..value.start) == Some(b": ") && self.section.get(value.end..value.end + 2) == Some(b"\r\n");
        headers.fields.push(Field {
            tag: tag(name_bytes),
            // They end before `end`, which fits.
            name: name.start as u32,
            value: value.start as u32,
            value_len: end - value.start as u32,
            name_len,
            dead: false,
            line,
        });
        headers.live += 1;
        Ok(())
    }

    /// Name and value of every field so far.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.headers.fields.iter().map(|field| {
            let (name, value) = (field.name as usize, field.value as usize);
            let within = |start: usize, len: usize| self.section.get(start..start + len).unwrap_or_default();
            (within(name, usize::from(field.name_len)), within(value, field.value_len as usize))
        })
    }

    /// Copies the section up to `end`, where the last field's line ends, with room for `more` bytes of fields that are added.
    ///
    /// # Errors
    /// If a field goes beyond that.
    pub fn finish(mut self, end: usize, more: usize) -> Result<Headers, HeaderError> {
        let section = self.section.get(..end).ok_or(HeaderError::Value)?;
        let beyond = |field: &Field| (field.value + field.value_len) as usize + if field.line { 2 } else { 0 } > end;
        if self.headers.fields.last().is_some_and(beyond) {
            return Err(HeaderError::Value);
        }
        let mut buffer = BYTES.with(|spares| spares.take(section.len() + more));
        buffer.extend_from_slice(section);
        self.headers.buffer = buffer;
        Ok(self.headers)
    }
}

fn checked<'v>(name: &str, value: &'v [u8]) -> Result<&'v [u8], HeaderError> {
    if is_framing(name) { Err(HeaderError::Framing) } else { checked_bytes(name, value) }
}

fn checked_bytes<'v>(name: &str, value: &'v [u8]) -> Result<&'v [u8], HeaderError> {
    if !is_name(name.as_bytes()) {
        return Err(HeaderError::Name);
    }
    let value = trim(value);
    if is_value(value) { Ok(value) } else { Err(HeaderError::Value) }
}

/// Names only: values may be secrets.
impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter().map(|(name, _)| name)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_one_byte_for_byte() {
        for len in [1, 7, 8, 9, 16, 21] {
            for at in 0..len {
                for byte in 0..=255 {
                    let mut value = vec![b'x'; len];
                    value[at] = byte;
                    assert_eq!(is_value(&value), is_value_byte(byte), "{byte} at {at} of {len}");
                    value[0] = b'\t';
                    assert_eq!(is_value(&value), at == 0 || is_value_byte(byte), "{byte} at {at} of {len}, behind a tab");
                }
            }
        }
    }

    #[test]
    fn controls_are_counted_wherever_they_are() {
        for byte in 0..=255 {
            for at in [0, 15, 127, 128, 300, 511] {
                let mut bytes = [b'x'; 512];
                bytes[at] = byte;
                assert_eq!(count_controls(&bytes), usize::from(!is_value_byte(byte)), "{byte} at {at}");
            }
        }
        assert_eq!(count_controls(&[0; 1000]), 1000);
    }

    fn written(headers: &Headers, skip: impl FnMut(&[u8]) -> bool) -> String {
        let mut out = Vec::new();
        headers.driver_write_lines(&mut out, Lengths::ALL, skip);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn lines_are_written_as_they_came_and_others_anew() {
        let section = b"A: 1\r\nB:2\r\nC:  3\r\nD: 4 \r\nE: 5\r\nF: 6\r\n";
        let mut fields = ReadFields::new(section, 10);
        for (name, value) in [(0..1, 3..4), (6..7, 8..9), (11..12, 15..16), (18..19, 21..22), (25..26, 28..29), (31..32, 34..35)]
        {
            fields.add(name, value).unwrap();
        }
        let mut headers = fields.finish(section.len(), 0).unwrap();
        assert_eq!(written(&headers, |_| false), "A: 1\r\nB: 2\r\nC: 3\r\nD: 4\r\nE: 5\r\nF: 6\r\n");
        assert_eq!(written(&headers, |name| name == b"E"), "A: 1\r\nB: 2\r\nC: 3\r\nD: 4\r\nF: 6\r\n");
        headers.set("c", "new").unwrap();
        headers.remove("f");
        headers.append("G", "").unwrap();
        assert_eq!(written(&headers, |_| false), "A: 1\r\nB: 2\r\nD: 4\r\nE: 5\r\nc: new\r\nG: \r\n");
        assert_eq!(written(&headers, |_| true), "");
    }

    #[test]
    fn only_what_is_within_a_head_is_read_from_it() {
        let section = b"A: 1\r\nB: 2\r\n\r\nsecret";
        let fields = || ReadFields::new(section, 1);
        assert_eq!(fields().add(0..1, 3..99), Err(HeaderError::Value));
        assert_eq!(fields().add(90..99, 100..101), Err(HeaderError::Name));
        assert_eq!(fields().add(3..4, 0..1), Err(HeaderError::Value));
        let mut fields = fields();
        fields.add(6..7, 9..10).unwrap();
        assert_eq!(fields.add(0..1, 3..4), Err(HeaderError::TooMany));
        assert_eq!(fields.iter().collect::<Vec<_>>(), [(&b"B"[..], &b"2"[..])]);
        let headers = fields.finish(12, 0).unwrap();
        assert_eq!((headers.get("b"), headers.len()), (Some(&b"2"[..]), 1));
        let mut beyond = ReadFields::new(section, 1);
        beyond.add(6..7, 9..10).unwrap();
        assert!(beyond.finish(11, 0).is_err());
    }

    #[test]
    fn only_names_of_the_lengths_are_looked_at() {
        let long = "x".repeat(70);
        let lengths = Lengths::of(&["te", &long]);
        assert_eq!(
            [0, 1, 2, 3, 62, 63, 64, 70, 999].map(|length| lengths.has(length)),
            [false, false, true, false, false, true, true, true, true]
        );
        assert!(Lengths::ALL.has(0) && !Lengths::NONE.has(63));
        let mut headers = sample();
        headers.driver_strip(Lengths::of(&["x-user", "content-length"]), |name| !is_named(name, b"accept"));
        assert_eq!(headers.iter().map(|(name, _)| name).collect::<Vec<_>>(), ["Accept"]);
        assert_eq!(headers.len(), 1);
        let mut out = Vec::new();
        headers.driver_write_lines(&mut out, Lengths::of(&["te"]), |_| true);
        assert_eq!(out, b"Accept: a\r\n");
    }

    #[test]
    fn names_are_compared_whole() {
        for (name, lower, same) in [
            (&b"Content-Length"[..], &b"content-length"[..], true),
            (b"CONTENT-LENGTH", b"content-length", true),
            (b"Content_Length", b"content-length", false),
            (b"Content-Lengt", b"content-length", false),
            (b"Content-Lengths", b"content-length", false),
            (b"tE", b"te", true),
            (b"td", b"te", false),
        ] {
            assert_eq!(is_named(name, lower), same, "{}", name.escape_ascii());
        }
    }

    #[test]
    fn a_field_that_did_not_fit_is_not_written_with_the_next() {
        let mut headers = Headers::with_limit(2);
        headers.append("a", "1").unwrap();
        headers.append("b", "2").unwrap();
        assert_eq!(headers.append("secret", "3"), Err(HeaderError::TooMany));
        headers.remove("a");
        headers.append("c", "4").unwrap();
        assert_eq!(written(&headers, |_| false), "b: 2\r\nc: 4\r\n");
    }

    fn sample() -> Headers {
        let mut headers = Headers::new();
        headers.append("Accept", "a").unwrap();
        headers.append("X-User", "one").unwrap();
        headers.append("x-user", "two").unwrap();
        headers.driver_append("Content-Length", b"3").unwrap();
        headers
    }

    #[test]
    fn names_compare_without_case_and_keep_order() {
        let headers = sample();
        assert_eq!(headers.get("ACCEPT"), Some(&b"a"[..]));
        assert_eq!(headers.get_all("X-USER").collect::<Vec<_>>(), [b"one", b"two"]);
        assert_eq!(headers.iter().map(|(name, _)| name).collect::<Vec<_>>(), ["Accept", "X-User", "x-user", "Content-Length"]);
    }

    #[test]
    fn set_replaces_all_and_remove_counts() {
        let mut headers = sample();
        headers.set("x-user", "three").unwrap();
        assert_eq!(headers.get_all("x-user").count(), 1);
        assert_eq!((headers.len(), headers.remove("x-user"), headers.len()), (3, 1, 2));
    }

    #[test]
    fn framing_is_out_of_reach() {
        let mut headers = sample();
        assert_eq!(headers.set("content-length", "9"), Err(HeaderError::Framing));
        assert_eq!(headers.append("Transfer-Encoding", "chunked"), Err(HeaderError::Framing));
        assert_eq!(headers.remove("Content-Length"), 0);
        headers.retain(|_, _| false);
        assert_eq!(headers.get("content-length"), Some(&b"3"[..]));
    }

    #[test]
    fn nothing_can_be_injected() {
        let mut headers = Headers::new();
        for value in ["a\r\nx: y", "a\nb", "a\0", "\x7f"] {
            assert_eq!(headers.set("x", value), Err(HeaderError::Value));
        }
        for name in ["", "a b", "a:", "a\r\n", "é"] {
            assert_eq!(headers.set(name, "v"), Err(HeaderError::Name));
        }
    }

    #[test]
    fn the_number_of_fields_is_limited() {
        let mut headers = Headers::with_limit(1);
        headers.append("a", "").unwrap();
        assert_eq!(headers.append("b", ""), Err(HeaderError::TooMany));
        headers.set("a", "again").unwrap();
    }

    #[test]
    fn debug_shows_no_value() {
        let mut headers = Headers::new();
        headers.set("authorization", "Bearer secret").unwrap();
        assert!(!format!("{headers:?}").contains("secret"));
    }
}
