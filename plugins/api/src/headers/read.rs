//! Fields on their way from a connection into [`Headers`].

use super::{FIELDS, Field, HeaderError, Headers, tag};
use crate::recycle::BYTES;
use std::ops::Range;

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

    /// The field with its name and its value there. The caller knows by [`name_len`](super::name_len) that the name is one, and makes sure by
    /// [`count_controls`](super::count_controls) or [`is_value`](super::is_value) of the value.
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
