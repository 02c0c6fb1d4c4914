//! Between our heads and those of Pingora and the h2 library. The only place that knows both.

use crate::rescue;
use bytes::Bytes;
use pingora::{Error, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use portcullis_plugin::headers::{Lengths, is_named};
use portcullis_plugin::{Headers, Method, RequestHead, ResponseHead};
use std::io;

/// What Pingora decides about how a request is framed on its way up. Everything else in an upstream request is ours.
const FRAMING: &[&str] = &["content-length", "transfer-encoding", "connection", "upgrade"];

/// Makes `upstream` exactly the request that was judged: the target, the host and every field but the framing.
///
/// This runs after Pingora has applied `Connection` nominations, so that nothing a client nominates can remove what the
/// gateway says.
pub fn write_request(request: &RequestHead, host: &str, streamed: bool, upstream: &mut RequestHeader) -> Result<()> {
    // Made anew, which costs less than taking every field out of the old one.
    let mut fresh =
        RequestHeader::build(upstream.method.clone(), request.target().as_bytes(), Some(request.headers().len() + 8))?;
    fresh.set_version(upstream.version);
    if let Some(ends) = upstream.send_end_stream() {
        fresh.set_send_end_stream(ends);
    }
    for name in FRAMING {
        for value in upstream.headers.get_all(*name) {
            fresh.append_header(*name, value.clone())?;
        }
    }
    *upstream = fresh;
    // HTTP/1.0 may do without; an empty one would be another request.
    if !host.is_empty() {
        upstream.insert_header("Host", host)?;
    }
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

/// Whether it is one of these, whatever its bytes.
fn is_one(name: &[u8], known: &[&str]) -> bool {
    known.iter().any(|known| known.len() == name.len() && known.as_bytes().eq_ignore_ascii_case(name))
}

/// Takes out what a backend says of its own connection: the client has another one, and none of its business there (RFC
/// 9110, section 7.6.1). `Transfer-Encoding` stays, because Pingora frames the message by it, and so do the fields that
/// make a 101 or a 426 what it is.
pub fn strip_hop_fields(response: &mut ResponseHead) {
    const OF_ONE_HOP: &[&str] = &["keep-alive", "proxy-connection", "proxy-authenticate", "te"];
    const HOP_LENGTHS: Lengths = Lengths::of(OF_ONE_HOP).and("connection".len()).and("upgrade".len());
    // The last two are no names of fields, and what most backends send.
    const NEVER_NOMINATED: &[&str] = &["connection", "content-length", "transfer-encoding", "upgrade", "keep-alive", "close"];
    let mut nominated: Vec<String> = Vec::new();
    for value in response.headers().get_all("connection") {
        for name in value.split(|b| *b == b',').map(<[u8]>::trim_ascii) {
            if !name.is_empty() && !is_one(name, NEVER_NOMINATED) {
                nominated.push(String::from_utf8_lossy(name).to_ascii_lowercase());
            }
        }
    }
    let status = response.status();
    let lengths = if nominated.is_empty() { HOP_LENGTHS } else { Lengths::ALL };
    response.headers_mut().driver_strip(lengths, |name| {
        if is_named(name, b"connection") {
            return status != 101;
        }
        if is_named(name, b"upgrade") {
            return !matches!(status, 101 | 426);
        }
        is_one(name, OF_ONE_HOP) || nominated.iter().any(|known| known.as_bytes().eq_ignore_ascii_case(name))
    });
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

/// The head of a response to an HTTP/2 client, which is told nothing of connections (RFC 9113, section 8.2.2).
///
/// # Errors
/// If a field is none that the library would send.
pub fn http2_response(head: ResponseHead) -> io::Result<http::Response<()>> {
    const OF_CONNECTIONS: &[&str] = &["transfer-encoding", "connection", "upgrade", "keep-alive", "proxy-connection"];
    let invalid = |_| io::Error::from(io::ErrorKind::InvalidData);
    let status = http::StatusCode::from_u16(head.status()).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    let mut fields = head.driver_into_headers();
    // All values are pieces of one buffer.
    let buffer = Bytes::from(fields.driver_take_buffer());
    let mut headers = http::HeaderMap::with_capacity(fields.len());
    for (name, value) in fields.driver_places() {
        let name = buffer.get(name).unwrap_or_default();
        if matches!(name.len(), 7 | 10 | 16 | 17) && is_one(name, OF_CONNECTIONS) {
            continue;
        }
        let name = http::HeaderName::from_bytes(name).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
        let mut value = http::HeaderValue::from_maybe_shared(buffer.slice(value)).map_err(invalid)?;
        // No two are the same: remembered for compression (RFC 7541, section 7.1.3), it would only push out what comes again.
        value.set_sensitive(name == rescue::DECISION_ID);
        headers.append(name, value);
    }
    let mut response = http::Response::new(());
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    Ok(response)
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

/// Whether a response has a body (RFC 9110, section 6.4.1).
pub fn has_body(method: &Method, status: u16) -> bool {
    *method != Method::Head && !matches!(status, 204 | 304)
}

/// A filter may have given a response a status that has no body, though the backend's had one, or the other way round. Says whether
/// it has; the response then has no body, and says so.
pub fn frame_anew(method: &Method, sent: u16, head: &mut ResponseHead) -> bool {
    let has = has_body(method, head.status());
    let changed = has_body(method, sent) != has;
    if changed {
        let headers = head.headers_mut();
        headers.driver_remove("content-length");
        if has {
            // It takes the place of another, or there is room: a response may have more fields than are ever sent.
            let _ = headers.driver_set("content-length", b"0");
        }
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stripped(status: u16, fields: &[(&str, &str)]) -> Vec<String> {
        let mut headers = Headers::new();
        for (name, value) in fields {
            headers.driver_append(name, value.as_bytes()).unwrap();
        }
        let mut response = ResponseHead::new(status, headers);
        strip_hop_fields(&mut response);
        response.headers().iter().map(|(name, _)| name.to_ascii_lowercase()).collect()
    }

    #[test]
    fn what_a_backend_says_of_its_connection_stays_with_it() {
        let fields = [
            ("Connection", "close, X-Internal"),
            ("connection", "Content-Length, Transfer-Encoding"),
            ("Keep-Alive", "timeout=5"),
            ("Proxy-Connection", "keep-alive"),
            ("Proxy-Authenticate", "Basic"),
            ("Upgrade", "h2c"),
            ("TE", "trailers"),
            ("X-Internal", "1"),
            ("Transfer-Encoding", "chunked"),
            ("X-Other", "1"),
        ];
        assert_eq!(stripped(200, &fields), ["transfer-encoding", "x-other"]);
    }

    #[test]
    fn a_switch_of_protocols_keeps_what_it_is_made_of() {
        let fields = [("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Accept", "x"), ("Keep-Alive", "1")];
        assert_eq!(stripped(101, &fields), ["connection", "upgrade", "sec-websocket-accept"]);
        assert_eq!(stripped(426, &[("Upgrade", "websocket"), ("Connection", "Upgrade")]), ["upgrade"]);
    }
}
