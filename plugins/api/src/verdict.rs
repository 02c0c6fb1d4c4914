//! What a filter answers.

use crate::exchange::Exchange;
use crate::head::RequestHead;
use crate::headers::Headers;
use crate::reason::{self, ReasonCode};
use bytes::Bytes;
use std::fmt;
use std::future::Future;
use std::pin::Pin;

/// A filter's answer. A refusal is a value; only [`Fault`](Self::Fault) is an error, and it closes the door.
pub enum Verdict {
    /// Go on to the next filter.
    Continue,
    /// Answer the client with this; it is not a refusal (a redirect, a preflight, a cached reply).
    Respond(Reply),
    /// Refuse, for a stated reason.
    Deny(Denial),
    /// Needs I/O first. Only the request stage may wait; a filter that never does allocates nothing for it.
    Wait(Pin<Box<dyn Future<Output = Resume> + Send>>),
    /// The filter could not do its work. The client sees 500, and nothing of the cause.
    Fault(FilterError),
}

/// What to do when the awaited has come: it gets the same request and exchange, and gives the verdict.
pub type Resume = Box<dyn FnOnce(&mut RequestHead, &mut Exchange) -> Verdict + Send>;

impl Verdict {
    /// Refuses with the status that belongs to `reason`.
    pub fn deny(reason: ReasonCode) -> Self {
        Self::Deny(Denial::new(reason))
    }

    pub fn wait(future: impl Future<Output = Resume> + Send + 'static) -> Self {
        Self::Wait(Box::pin(future))
    }

    pub fn is_continue(&self) -> bool {
        matches!(self, Self::Continue)
    }
}

impl fmt::Debug for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Continue => f.write_str("Continue"),
            Self::Respond(reply) => f.debug_tuple("Respond").field(&reply.status).finish(),
            Self::Deny(denial) => f.debug_tuple("Deny").field(denial).finish(),
            Self::Wait(_) => f.write_str("Wait"),
            Self::Fault(error) => f.debug_tuple("Fault").field(error).finish(),
        }
    }
}

/// A response made by a filter or the gateway.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: u16,
    pub headers: Headers,
    pub body: Bytes,
}

impl Reply {
    pub fn new(status: u16) -> Self {
        Self { status, headers: Headers::new(), body: Bytes::new() }
    }

    #[must_use]
    pub fn body(mut self, content_type: &str, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        // A content type that is not a header value is left out: the body still says what it is to a reader.
        let _ = self.headers.set("content-type", content_type);
        self
    }
}

/// A refusal: the reason, and the little of it the client may see.
#[derive(Debug, Clone)]
pub struct Denial {
    reason: ReasonCode,
    status: u16,
    headers: Headers,
}

impl Denial {
    /// With the status of the reason's row in the table; 403 for a code of your own.
    pub fn new(reason: ReasonCode) -> Self {
        let status = reason::info(reason).map_or(403, |info| info.status);
        Self { reason, status, headers: Headers::new() }
    }

    /// Any status from 400 to 599; others become 403.
    #[must_use]
    pub fn status(mut self, status: u16) -> Self {
        self.status = if (400..=599).contains(&status) { status } else { 403 };
        self
    }

    /// A header for the client, such as `WWW-Authenticate` or `Retry-After`. One that cannot be sent is left out.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        let _ = self.headers.append(name, value);
        self
    }

    pub fn reason(&self) -> ReasonCode {
        self.reason
    }

    pub fn status_code(&self) -> u16 {
        self.status
    }

    pub fn headers(&self) -> &Headers {
        &self.headers
    }
}

/// A filter's own failure. For the log, never for the client.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct FilterError {
    message: String,
}

impl FilterError {
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_denial_takes_the_status_of_its_reason() {
        assert_eq!(Denial::new(reason::TOKEN_MISSING).status_code(), 401);
        assert_eq!(Denial::new(reason::ISSUER_UNAVAILABLE).status_code(), 503);
        assert_eq!(Denial::new(ReasonCode::new("acme.closed")).status_code(), 403);
        assert_eq!(Denial::new(reason::IP_DENIED).status(200).status_code(), 403);
    }
}
