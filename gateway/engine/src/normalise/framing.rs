//! Where a request ends, and what becomes of its connection.

use super::fields::{Survey, UpgradeTo};
use super::refusal::Refusal;
use portcullis_plugin::{Headers, Method, Version};

/// How the body of a request is delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyLength {
    /// There is no body. Never of an HTTP/2 request: its head does not say so.
    None,
    /// As many bytes as `Content-Length` says; perhaps none.
    Exact(u64),
    /// Not known beforehand: the chunked coding, or on HTTP/2 the end of the stream.
    Chunked,
}

/// What the head says about the message and its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Framing {
    pub body: BodyLength,
    /// Whether the client would send another request on this connection.
    pub keep_alive: bool,
    /// A well-formed WebSocket handshake.
    pub upgrade: bool,
    /// The client waits for `100 Continue` before it sends the body.
    pub expect_continue: bool,
}

pub(super) fn decide(method: &Method, version: Version, survey: &Survey, headers: &Headers) -> Result<Framing, Refusal> {
    let body = match (survey.chunked, survey.content_length) {
        (true, Some(_)) => return Err(Refusal::ambiguous("Transfer-Encoding or Content-Length", "both")),
        (false, Some(length)) => BodyLength::Exact(length),
        (true, None) => BodyLength::Chunked,
        (false, None) if version == Version::Http2 => BodyLength::Chunked,
        (false, None) => BodyLength::None,
    };
    let keep_alive = match version {
        Version::Http10 => survey.keep_alive && !survey.close,
        Version::Http11 => !survey.close,
        Version::Http2 => true,
    };
    let expect_continue = survey.expect_continue && body != BodyLength::None && body != BodyLength::Exact(0);
    let upgrade = match survey.upgrade_to() {
        UpgradeTo::Nothing => false,
        UpgradeTo::Unclear => return Err(Refusal::upgrade("`Upgrade: websocket` alone", "more than that")),
        UpgradeTo::WebSocket => {
            check_websocket(method, version, survey, headers, body, keep_alive)?;
            true
        }
    };
    // After the handshake the connection is a tunnel, so an announced body of no bytes is left out.
    let body = if upgrade { BodyLength::None } else { body };
    Ok(Framing { body, keep_alive, upgrade, expect_continue })
}

/// RFC 6455, section 4.2.1. Whoever gets this wrong is no browser, and perhaps somebody who wants a tunnel.
fn check_websocket(
    method: &Method,
    version: Version,
    survey: &Survey,
    headers: &Headers,
    body: BodyLength,
    keep_alive: bool,
) -> Result<(), Refusal> {
    let wrong = if version != Version::Http11 {
        version.as_str()
    } else if *method != Method::Get {
        "another method"
    } else if !matches!(body, BodyLength::None | BodyLength::Exact(0)) {
        "a body"
    } else if !survey.connection_upgrade {
        "`Connection` without `upgrade`"
    } else if !keep_alive {
        "`Connection: close`"
    } else if !survey.is_websocket_handshake(headers) {
        "no `Sec-WebSocket-Version: 13`, or not one `Sec-WebSocket-Key` of 16 bytes"
    } else {
        return Ok(());
    };
    Err(Refusal::upgrade("a WebSocket handshake: GET of HTTP/1.1 with no body, `Connection: upgrade`, key and version", wrong))
}
