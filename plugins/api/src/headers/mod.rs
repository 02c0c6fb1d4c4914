//! Header fields: one owned buffer and a table of offsets into it.
//!
//! Order, case and bytes are kept as received. New values are appended to the same buffer; a removed field stays as a
//! tombstone, so that no operation moves bytes. Names compare without regard to ASCII case.

mod bytes;
mod read;

pub use bytes::{Lengths, count_controls, is_name, is_named, is_token_byte, is_value, is_value_byte, name_len};
pub use read::ReadFields;

use crate::recycle::{BYTES, Spares};
use bytes::trim;
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

fn is_framing(name: &str) -> bool {
    FRAMING.iter().any(|framing| framing.eq_ignore_ascii_case(name))
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
mod tests;
