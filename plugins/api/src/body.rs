//! Bodies, a chunk at a time.

use bytes::Bytes;

/// What a filter does with a body. Said once, when the filter is built, so that a body nobody looks at costs nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum BodyAccess {
    #[default]
    None,
    /// Sees every chunk and changes none.
    Read,
    /// May change chunks: the body's length is then unknown beforehand, and `Content-Length` is not sent on.
    Rewrite,
}

/// A piece of a body on its way through. Chunk borders mean nothing.
#[derive(Debug)]
pub struct Body<'a> {
    data: &'a mut Option<Bytes>,
    last: bool,
}

impl<'a> Body<'a> {
    pub fn new(data: &'a mut Option<Bytes>, last: bool) -> Self {
        Self { data, last }
    }

    pub fn data(&self) -> &[u8] {
        self.data.as_deref().unwrap_or_default()
    }

    /// Whether this is the end of the body. The last piece may be empty.
    pub fn is_last(&self) -> bool {
        self.last
    }

    /// Puts `data` in the place of this piece. Only for a filter that said [`BodyAccess::Rewrite`].
    pub fn replace(&mut self, data: Bytes) {
        *self.data = if data.is_empty() { None } else { Some(data) };
    }
}
