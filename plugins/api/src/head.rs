//! Request and response heads, after normalisation.

use crate::headers::{Headers, is_name};
use crate::recycle::give_text;
use std::fmt;

/// A request method. Methods are case-sensitive (RFC 9110, section 9.1).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Method {
    Get,
    Head,
    Post,
    Put,
    Delete,
    Patch,
    Options,
    Trace,
    Connect,
    Other(Box<str>),
}

impl Method {
    /// `None` if it is not a token.
    pub fn parse(name: &[u8]) -> Option<Self> {
        Some(match name {
            b"GET" => Self::Get,
            b"HEAD" => Self::Head,
            b"POST" => Self::Post,
            b"PUT" => Self::Put,
            b"DELETE" => Self::Delete,
            b"PATCH" => Self::Patch,
            b"OPTIONS" => Self::Options,
            b"TRACE" => Self::Trace,
            b"CONNECT" => Self::Connect,
            other if is_name(other) => Self::Other(std::str::from_utf8(other).ok()?.into()),
            _ => return None,
        })
    }

    pub fn as_str(&self) -> &str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
            Self::Patch => "PATCH",
            Self::Options => "OPTIONS",
            Self::Trace => "TRACE",
            Self::Connect => "CONNECT",
            Self::Other(name) => name,
        }
    }

    /// Whether sending it twice means the same as sending it once (RFC 9110, section 9.2.2).
    pub fn is_idempotent(&self) -> bool {
        matches!(self, Self::Get | Self::Head | Self::Put | Self::Delete | Self::Options | Self::Trace)
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    Http10,
    Http11,
    Http2,
}

impl Version {
    /// As the access log writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http10 => "HTTP/1.0",
            Self::Http11 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
        }
    }
}

/// How the client reached the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    Http,
    Https,
}

impl Scheme {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// A path or query that cannot be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a path starts with `/`, and neither it nor the query has spaces, control characters or `#`")]
pub struct TargetError;

/// What the client asks for. Path and host are normalised: what a filter reads here is exactly what the upstream gets.
#[derive(Debug, Clone)]
pub struct RequestHead {
    method: Method,
    scheme: Scheme,
    version: Version,
    /// Lower-case, with the port if one was given.
    authority: String,
    host_len: usize,
    /// Path and query.
    target: String,
    path_len: usize,
    merged_slashes: bool,
    headers: Headers,
}

impl Drop for RequestHead {
    fn drop(&mut self) {
        give_text(std::mem::take(&mut self.authority));
        give_text(std::mem::take(&mut self.target));
    }
}

impl RequestHead {
    /// For the normaliser, which has checked all parts; anyone else goes through it. `authority` may be empty only on
    /// HTTP/1.0.
    pub fn new(method: Method, scheme: Scheme, version: Version, authority: String, target: String, headers: Headers) -> Self {
        let host_len = host_len(&authority);
        let path_len = target.find('?').unwrap_or(target.len());
        Self { method, scheme, version, authority, host_len, target, path_len, merged_slashes: false, headers }
    }

    pub fn method(&self) -> &Method {
        &self.method
    }

    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    pub fn version(&self) -> Version {
        self.version
    }

    /// Host and port as the client named them, lower-case.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// The host alone, lower-case; an IPv6 address in brackets.
    pub fn host(&self) -> &str {
        &self.authority[..self.host_len]
    }

    pub fn path(&self) -> &str {
        &self.target[..self.path_len]
    }

    /// What follows the `?`, without it.
    pub fn query(&self) -> Option<&str> {
        self.target.get(self.path_len + 1..)
    }

    /// Path and query, as the upstream gets them.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// Whether the client sent more slashes in the path than there are now. For what speaks of the address as it was sent.
    pub fn has_merged_slashes(&self) -> bool {
        self.merged_slashes
    }

    /// For the normaliser.
    #[must_use]
    pub fn driver_merged_slashes(mut self, merged: bool) -> Self {
        self.merged_slashes = merged;
        self
    }

    /// Rewrites the path that the upstream gets; the query stays. The route is already chosen.
    ///
    /// # Errors
    /// If it is not a path.
    pub fn set_path(&mut self, path: &str) -> Result<(), TargetError> {
        if !path.starts_with('/') || path.contains('?') || !is_target(path) {
            return Err(TargetError);
        }
        self.target.replace_range(..self.path_len, path);
        self.path_len = path.len();
        Ok(())
    }

    /// Rewrites or removes the query that the upstream gets.
    ///
    /// # Errors
    /// If it is not a query.
    pub fn set_query(&mut self, query: Option<&str>) -> Result<(), TargetError> {
        if query.is_some_and(|query| !is_target(query)) {
            return Err(TargetError);
        }
        self.target.truncate(self.path_len);
        if let Some(query) = query {
            self.target.push('?');
            self.target.push_str(query);
        }
        Ok(())
    }

    /// The request line alone. For drivers.
    #[must_use]
    pub fn without_headers(&self) -> Self {
        let (authority, target) = (self.authority.clone(), self.target.clone());
        let head = Self::new(self.method.clone(), self.scheme, self.version, authority, target, Headers::new());
        head.driver_merged_slashes(self.merged_slashes)
    }

    pub fn headers(&self) -> &Headers {
        &self.headers
    }

    /// For the code that says where a request came from.
    pub fn driver_authority_and_headers(&mut self) -> (&str, &mut Headers) {
        (&self.authority, &mut self.headers)
    }

    pub fn headers_mut(&mut self) -> &mut Headers {
        &mut self.headers
    }
}

fn is_target(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_graphic() && b != b'#')
}

/// The length of the host in `host[:port]`.
fn host_len(authority: &str) -> usize {
    match authority.rfind(':') {
        Some(colon) if !authority[colon..].contains(']') => colon,
        _ => authority.len(),
    }
}

/// A response on its way to the client: an upstream's, or the gateway's own.
#[derive(Debug, Clone)]
pub struct ResponseHead {
    status: u16,
    headers: Headers,
}

impl ResponseHead {
    pub fn new(status: u16, headers: Headers) -> Self {
        Self { status, headers }
    }

    pub fn status(&self) -> u16 {
        self.status
    }

    /// A final status: 200 to 599. Others are left alone.
    pub fn set_status(&mut self, status: u16) {
        if (200..=599).contains(&status) {
            self.status = status;
        }
    }

    /// For the code that sends the response.
    pub fn driver_into_headers(self) -> Headers {
        self.headers
    }

    pub fn headers(&self) -> &Headers {
        &self.headers
    }

    pub fn headers_mut(&mut self) -> &mut Headers {
        &mut self.headers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(authority: &str, target: &str) -> RequestHead {
        RequestHead::new(Method::Get, Scheme::Http, Version::Http11, authority.into(), target.into(), Headers::new())
    }

    #[test]
    fn the_host_has_no_port() {
        assert_eq!(head("a.example:80", "/").host(), "a.example");
        assert_eq!(head("[::1]:80", "/").host(), "[::1]");
        assert_eq!(head("[::1]", "/").host(), "[::1]");
    }

    #[test]
    fn path_and_query_are_rewritten_apart() {
        let mut head = head("a", "/one?x=1");
        head.set_path("/two/three").unwrap();
        assert_eq!((head.target(), head.path(), head.query()), ("/two/three?x=1", "/two/three", Some("x=1")));
        head.set_query(None).unwrap();
        assert_eq!((head.target(), head.query()), ("/two/three", None));
        assert_eq!(head.set_path("two"), Err(TargetError));
        assert_eq!(head.set_path("/a b"), Err(TargetError));
        assert_eq!(head.set_path("/a\r\nx"), Err(TargetError));
    }
}
