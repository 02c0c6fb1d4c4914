//! What can go wrong in the testkit itself. A refusal by the filter under test is not an error: it is an
//! [`Outcome`](crate::Outcome).

use std::io;
use std::path::Path;

/// Why a helper could not do its work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// `what` says what was being done.
    #[error("{what}: {source}")]
    Io { what: String, source: io::Error },
    #[error("certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    #[error("key: cannot {0}")]
    Key(&'static str),
    /// The request that a test describes is not one a gateway would pass to a filter.
    #[error("this is no request: {0}")]
    Request(String),
    #[error("the filter waits: within a runtime, use `run_async`")]
    Waits,
    /// The filter refuses its configuration.
    #[error("filter `{filter}`: {message}")]
    Filter { filter: String, message: String },
    /// What came over a connection is not HTTP.
    #[error("not HTTP: {0}")]
    Http(String),
    #[error("{0} did not happen in time")]
    Timeout(String),
    /// An external program behaves otherwise than expected.
    #[error("{0}")]
    Peer(String),
}

impl Error {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    pub(crate) fn file(path: &Path) -> impl FnOnce(io::Error) -> Self {
        Self::io(path.display().to_string())
    }
}
