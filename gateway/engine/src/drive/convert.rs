//! Between our heads and Pingora's. The only place that knows both.

use bytes::Bytes;
use pingora::{Error, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use portcullis_plugin::{Headers, RequestHead, ResponseHead};

/// What Pingora decides about how a request is framed on its way up. Everything else in an upstream request is ours.
const FRAMING: &[&str] = &["content-length", "transfer-encoding", "connection", "upgrade"];

/// Makes `upstream` exactly the request that was judged: the target, the host and every field but the framing.
///
/// This runs after Pingora has applied `Connection` nominations, so that nothing a client nominates can remove what the
/// gateway says.
pub fn write_request(request: &RequestHead, host: &str, streamed: bool, upstream: &mut RequestHeader) -> Result<()> {
    let foreign: Vec<http::HeaderName> =
        upstream.headers.keys().filter(|name| !FRAMING.contains(&name.as_str())).cloned().collect();
    for name in &foreign {
        upstream.remove_header(name);
    }
    upstream.set_raw_path(request.target().as_bytes())?;
    upstream.insert_header("Host", host)?;
    let http2 = upstream.version == http::Version::HTTP_2;
    for (name, value) in request.headers().iter() {
        // `te: trailers`, which gRPC servers insist on, is of one hop: on HTTP/1.1 trailers are not forwarded.
        if name.eq_ignore_ascii_case("te") && !http2 {
            continue;
        }
        if !FRAMING.iter().any(|framing| framing.eq_ignore_ascii_case(name)) {
            upstream.append_header(name.to_owned(), value)?;
        }
    }
    if streamed && upstream.remove_header("content-length").is_some() && !http2 {
        upstream.insert_header("Transfer-Encoding", "chunked")?;
    }
    Ok(())
}

/// Reads an upstream's response head. Fields are copied: filters may change them.
pub fn read_response(upstream: &ResponseHeader) -> Result<ResponseHead> {
    // An upstream may send more fields than a client may; the limit is only against memory.
    let mut headers = Headers::with_limit(1000);
    for (name, value) in upstream.case_header_iter() {
        let name = std::str::from_utf8(name.as_slice()).map_err(|_| invalid("a header name"))?;
        headers.driver_append(name, value.as_bytes()).map_err(|_| invalid("a header field"))?;
    }
    Ok(ResponseHead::new(upstream.status.as_u16(), headers))
}

fn invalid(what: &str) -> Box<Error> {
    Error::explain(ErrorType::InvalidHTTPHeader, format!("{what} of the response is invalid"))
}

/// Puts what the filters left of a response head back. Framing stays as the upstream said.
pub fn write_response(head: &ResponseHead, target: &mut ResponseHeader) -> Result<()> {
    if head.status() != target.status.as_u16() {
        target.set_status(head.status())?;
    }
    // RFC 9112, section 2.3: the version is that of whoever sends the message, not of the backend behind it.
    if target.version < http::Version::HTTP_11 {
        target.set_version(http::Version::HTTP_11);
    }
    let names: Vec<http::HeaderName> = target.headers.keys().cloned().collect();
    for name in &names {
        target.remove_header(name);
    }
    for (name, value) in head.headers().iter() {
        target.append_header(name.to_owned(), value)?;
    }
    Ok(())
}

/// A response of the gateway's own, ready to send.
pub fn own_response(head: &ResponseHead, body: &Bytes) -> Result<ResponseHeader> {
    let mut response = ResponseHeader::build(head.status(), Some(head.headers().len() + 2))?;
    for (name, value) in head.headers().iter() {
        response.append_header(name.to_owned(), value)?;
    }
    if !matches!(head.status(), 204 | 304) {
        response.insert_header("Content-Length", body.len())?;
    }
    Ok(response)
}
