//! The description of a response.

use crate::message::Field;
use std::time::Duration;

/// A response of the test's choice.
#[derive(Debug, Clone)]
pub struct Answer {
    pub(super) status: u16,
    pub(super) headers: Vec<Field>,
    pub(super) content: Content,
    pub(super) delay: Duration,
    pub(super) early: bool,
    pub(super) close: bool,
}

#[derive(Debug, Clone)]
pub(super) enum Content {
    /// With `Content-Length`.
    Sized(Vec<u8>),
    /// So many bytes, with `Content-Length`, never held in memory at once.
    Filler(u64),
    /// Announces more than it sends, then ends the connection.
    Short {
        announced: u64,
        sent: Vec<u8>,
    },
    Chunked {
        chunks: Vec<Vec<u8>>,
        pause: Duration,
        trailers: Vec<Field>,
        finish: bool,
    },
    /// Until the end of the connection.
    UntilClose(Vec<u8>),
}

impl Answer {
    /// With an empty body.
    pub fn new(status: u16) -> Self {
        let content = Content::Sized(Vec::new());
        Self { status, headers: Vec::new(), content, delay: Duration::ZERO, early: false, close: false }
    }

    #[must_use]
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers.push((name.to_owned(), value.as_ref().to_owned()));
        self
    }

    #[must_use]
    pub fn body(mut self, body: impl AsRef<[u8]>) -> Self {
        self.content = Content::Sized(body.as_ref().to_owned());
        self
    }

    /// A body of so many bytes.
    #[must_use]
    pub fn filler(mut self, bytes: u64) -> Self {
        self.content = Content::Filler(bytes);
        self
    }

    /// Announces `announced` bytes, sends fewer, and ends the connection.
    #[must_use]
    pub fn short(mut self, announced: u64, sent: impl AsRef<[u8]>) -> Self {
        self.content = Content::Short { announced, sent: sent.as_ref().to_owned() };
        self
    }

    /// A chunked body, with a pause before each chunk but the first.
    #[must_use]
    pub fn chunks<C: AsRef<[u8]>>(mut self, chunks: impl IntoIterator<Item = C>, pause: Duration) -> Self {
        let chunks = chunks.into_iter().map(|chunk| chunk.as_ref().to_owned()).collect();
        self.content = Content::Chunked { chunks, pause, trailers: Vec::new(), finish: true };
        self
    }

    /// A field after the last chunk.
    #[must_use]
    pub fn trailer(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        if let Content::Chunked { trailers, .. } = &mut self.content {
            trailers.push((name.to_owned(), value.as_ref().to_owned()));
        }
        self
    }

    /// Ends the connection where the last chunk should come.
    #[must_use]
    pub fn unfinished(mut self) -> Self {
        if let Content::Chunked { finish, .. } = &mut self.content {
            *finish = false;
        }
        self
    }

    /// A body that ends with the connection.
    #[must_use]
    pub fn until_close(mut self, body: impl AsRef<[u8]>) -> Self {
        self.content = Content::UntilClose(body.as_ref().to_owned());
        self
    }

    /// Waits before the first byte.
    #[must_use]
    pub fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// Answers before it has read the request's body.
    #[must_use]
    pub fn early(mut self) -> Self {
        self.early = true;
        self
    }

    /// Says `Connection: close`, and does.
    #[must_use]
    pub fn closing(mut self) -> Self {
        self.close = true;
        self
    }
}
