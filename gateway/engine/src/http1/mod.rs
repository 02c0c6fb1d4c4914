//! HTTP/1 on the wire: the strict parsers of request and response heads, and the writers of what they have become.

mod lines;
mod parse;
mod response;
mod write;

pub use parse::{Parsed, Parser, RawHead, parse};
pub use response::{Response, ResponseParser};
pub use write::{write_head, write_response, write_upstream};

use crate::config::raw;
use crate::normalise::Refusal;

/// Fields that the gateway may add to a head that is as full as a client's may be.
pub(crate) const FIELD_ROOM: usize = 64;

/// How large a request head may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadLimits {
    /// From the first byte of the request line to the last of the empty line.
    pub bytes: usize,
    pub fields: usize,
}

impl From<&raw::Limits> for HeadLimits {
    fn from(limits: &raw::Limits) -> Self {
        Self { bytes: usize::try_from(limits.header_bytes.0).unwrap_or(usize::MAX), fields: limits.header_fields }
    }
}

impl HeadLimits {
    pub(crate) fn exceeded(&self) -> Refusal {
        Refusal::too_large(format!("a head of at most {} bytes and {} fields", self.bytes, self.fields), "a larger one")
    }
}
