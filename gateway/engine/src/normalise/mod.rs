//! One reading of every request, before anything is decided about it.
//!
//! HTTP/1 and HTTP/2 heads come out as the same [`RequestHead`]: path, host and fields in one spelling, framing apart in
//! [`Framing`]. What two parsers could read differently is refused, never guessed. What routing and filters see is exactly
//! what goes to the upstream.
//!
//! - `target` and `path`: what is asked for
//! - `host`: of whom
//! - `fields`: what frames the message or belongs to this hop, which never reaches a filter
//! - `framing`: where the request ends
//! - `response`: the same care for what an upstream says

mod fields;
mod framing;
pub(crate) mod host;
pub(crate) mod path;
mod refusal;
mod response;
mod target;

pub use framing::{BodyLength, Framing};
pub use refusal::Refusal;
pub(crate) use refusal::shown;
pub use response::{ResponseFraming, ResponseSurvey, response};

pub(crate) use fields::is_of_this_hop;
pub(crate) use target::LONGEST as LONGEST_TARGET;

use crate::config::raw;
use crate::http1::{FIELD_ROOM, HeadLimits, RawHead};
use portcullis_plugin::headers::is_name;
use portcullis_plugin::reason::GATEWAY_FAULT;
use portcullis_plugin::{Finding, HeaderError, Headers, Method, RequestHead, Scheme, Version, driver_text};

/// What a listener does with the spellings of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Policy {
    pub(crate) dot_segments: raw::DotSegments,
    pub(crate) duplicate_slashes: raw::DuplicateSlashes,
    pub(crate) encoded_slashes: raw::EncodedSlashes,
}

impl From<&raw::Normalise> for Policy {
    fn from(raw: &raw::Normalise) -> Self {
        let raw::Normalise { dot_segments, duplicate_slashes, encoded_slashes } = raw;
        Self { dot_segments: *dot_segments, duplicate_slashes: *duplicate_slashes, encoded_slashes: *encoded_slashes }
    }
}

impl From<raw::Normalise> for Policy {
    fn from(raw: raw::Normalise) -> Self {
        Self::from(&raw)
    }
}

/// The longest method: it appears in logs and metrics.
const LONGEST_METHOD: usize = 32;

/// A head as [`crate::http1::parse`] gives it, in its one reading. `scheme` is the connection's.
///
/// # Errors
/// What may not be read in one way only.
pub fn http1(raw: RawHead, scheme: Scheme, policy: &Policy) -> Result<(RequestHead, Framing), Refusal> {
    let RawHead { method, target, version, mut headers } = raw;
    check_method(&method)?;
    let survey = fields::survey(&headers, version)?;
    let merged = target::merges_slashes(&target, policy);
    let target = target::parse(&method, target, policy)?;
    let framing = framing::decide(&method, version, &survey, &headers)?;
    clean(&survey, &mut headers, framing)?;
    let authority = host::reconcile(target.authority, survey.host, version)?;
    let head = RequestHead::new(method, scheme, version, authority, target.path_and_query, headers);
    Ok((head.driver_merged_slashes(merged), framing))
}

/// The head of an HTTP/2 request, in its one reading. `conn_scheme` is the connection's; the client's `scheme` only has to
/// be one of the web.
///
/// Without `content-length` the body is [`BodyLength::Chunked`]: whether there is one, only the stream says.
/// `te: trailers` stays among the headers, because gRPC servers ask for it.
///
/// # Errors
/// What may not be read in one way only.
#[allow(clippy::too_many_arguments)] // The pseudo-header fields, one by one.
pub fn http2<'a>(
    method: &str,
    scheme: Option<&str>,
    authority: Option<&str>,
    path: &str,
    headers: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    limits: &HeadLimits,
    conn_scheme: Scheme,
    policy: &Policy,
) -> Result<(RequestHead, Framing), Refusal> {
    let method = Method::parse(method.as_bytes())
        .ok_or_else(|| Refusal::ambiguous("a method that is a token", format!("method {}", shown(method.as_bytes()))))?;
    check_method(&method)?;
    if let Some(scheme) = scheme.filter(|scheme| !target::is_scheme(scheme)) {
        return Err(Refusal::ambiguous("`:scheme` of http or https", shown(scheme.as_bytes())));
    }
    let mut headers = collect(headers, path.len() + authority.map_or(0, str::len), limits)?;
    let survey = fields::survey(&headers, Version::Http2)?;
    let merged = target::merges_slashes(path, policy);
    let target = target::origin(&method, driver_text(path), policy)?;
    let framing = framing::decide(&method, Version::Http2, &survey, &headers)?;
    clean(&survey, &mut headers, framing)?;
    let authority = authority.map(|authority| host::normalise(authority.as_bytes())).transpose()?;
    let authority = host::reconcile(authority, survey.host, Version::Http2)?;
    let head = RequestHead::new(method, conn_scheme, Version::Http2, authority, target, headers);
    Ok((head.driver_merged_slashes(merged), framing))
}

fn clean(survey: &fields::Survey, headers: &mut Headers, framing: Framing) -> Result<(), Refusal> {
    let length = if let BodyLength::Exact(length) = framing.body { Some(length) } else { None };
    // It takes out more than it puts in, so a failure is the gateway's own.
    survey.clean(headers, length).map_err(|error| Refusal {
        status: 500,
        reason: GATEWAY_FAULT,
        finding: Finding::new("a head that can be normalised", error.to_string()),
    })
}

/// Whether a request with this method is served at all.
pub(crate) fn check_method(method: &Method) -> Result<(), Refusal> {
    // `PRI` begins HTTP/2's preface, and has no other use (RFC 9113, section 11.6).
    const NEVER_IN_OTHER_CASE: [&str; 10] =
        ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "PRI"];
    match method {
        Method::Connect | Method::Trace => Err(Refusal::method(method.as_str())),
        Method::Other(name) if name.len() > LONGEST_METHOD => {
            Err(Refusal::ambiguous(format!("a method of at most {LONGEST_METHOD} bytes"), format!("{} bytes", name.len())))
        }
        // Another method by the letter, and the same one to servers that do not look closely.
        Method::Other(name) if NEVER_IN_OTHER_CASE.iter().any(|known| known.eq_ignore_ascii_case(name)) => {
            Err(Refusal::ambiguous("a method in upper case", format!("method {}", shown(name.as_bytes()))))
        }
        _ => Ok(()),
    }
}

/// RFC 9113, section 8.2: what HTTP/2 could carry and HTTP/1 could not is refused.
fn collect<'a>(
    fields: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    mut bytes: usize,
    limits: &HeadLimits,
) -> Result<Headers, Refusal> {
    let mut headers = Headers::driver_with_room(1024, limits.fields.saturating_add(FIELD_ROOM));
    for (name, value) in fields {
        bytes = bytes.saturating_add(name.len() + value.len());
        if headers.len() >= limits.fields || bytes > limits.bytes {
            return Err(limits.exceeded());
        }
        if !is_name(name.as_bytes()) || name.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(Refusal::ambiguous(
                "a field name that is a lower-case token",
                format!("field name {}", shown(name.as_bytes())),
            ));
        }
        if value.trim_ascii().len() != value.len() {
            return Err(Refusal::ambiguous(
                "a field value without blanks around it",
                format!("field {}", shown(name.as_bytes())),
            ));
        }
        headers.driver_append(name, value).map_err(|error| match error {
            HeaderError::TooMany => limits.exceeded(),
            _ => Refusal::ambiguous("a field value without control characters", format!("field {}", shown(name.as_bytes()))),
        })?;
    }
    Ok(headers)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
