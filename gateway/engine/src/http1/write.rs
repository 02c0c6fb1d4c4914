//! Writes heads in the one form that every HTTP/1 parser reads alike.

use crate::normalise::{BodyLength, Framing, is_of_this_hop};
use portcullis_plugin::headers::{Lengths, is_named};
use portcullis_plugin::{RequestHead, ResponseHead, Version};

/// Appends the head to `out`, for a parser behind this one. The framing fields are written from `framing`, and from nothing
/// else; `Connection` says what the client's said.
pub fn write_head(head: &RequestHead, framing: &Framing, out: &mut Vec<u8>) {
    let http10 = head.version() == Version::Http10;
    out.extend_from_slice(head.method().as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(head.target().as_bytes());
    out.extend_from_slice(if http10 { b" HTTP/1.0\r\n" } else { b" HTTP/1.1\r\n" });
    if !head.authority().is_empty() {
        field(out, "Host", head.authority().as_bytes());
    }
    head.headers().driver_write_lines(out, Lengths::ALL, is_of_this_hop);
    match framing.body {
        BodyLength::None => {}
        BodyLength::Exact(length) => field(out, "Content-Length", itoa::Buffer::new().format(length).as_bytes()),
        BodyLength::Chunked => field(out, "Transfer-Encoding", b"chunked"),
    }
    if framing.upgrade {
        out.extend_from_slice(b"Connection: Upgrade\r\nUpgrade: websocket\r\n");
    } else if http10 && framing.keep_alive {
        field(out, "Connection", b"keep-alive");
    } else if !http10 && !framing.keep_alive {
        field(out, "Connection", b"close");
    }
    if framing.expect_continue {
        field(out, "Expect", b"100-continue");
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends the head of a request as the direct driver sends it to a backend: HTTP/1.1 whatever the client spoke, and the framing
/// from `body` alone. An empty `host` is left out only for HTTP/1.0 clients, who may name none.
pub fn write_upstream(head: &RequestHead, host: &str, body: BodyLength, out: &mut Vec<u8>) {
    out.extend_from_slice(head.method().as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(head.target().as_bytes());
    // A server of HTTP/1.1 refuses a request without a host, and this is the version such a request is allowed in.
    out.extend_from_slice(if host.is_empty() { b" HTTP/1.0\r\n" } else { b" HTTP/1.1\r\n" });
    if !host.is_empty() {
        field(out, "Host", host.as_bytes());
    }
    // What the normaliser put back of the framing is written below; a filter can set none of these.
    head.headers().driver_write_lines(out, const { Lengths::of(&["content-length", "te"]) }, |name| {
        is_named(name, b"content-length") || is_named(name, b"te")
    });
    match body {
        BodyLength::None => {}
        BodyLength::Exact(length) => field(out, "Content-Length", itoa::Buffer::new().format(length).as_bytes()),
        BodyLength::Chunked => field(out, "Transfer-Encoding", b"chunked"),
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends the head of a response. `chunked` frames the body anew; `connection` is what the client is told of the connection.
/// `Transfer-Encoding` of `head` is never taken over, `Content-Length` only without `chunked`.
pub fn write_response(head: &ResponseHead, chunked: bool, connection: Option<&str>, out: &mut Vec<u8>) {
    let status = head.status();
    if status == 200 {
        // What nearly all of them say.
        out.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
    } else {
        out.extend_from_slice(b"HTTP/1.1 ");
        out.extend_from_slice(itoa::Buffer::new().format(status).as_bytes());
        out.push(b' ');
        let reason = http::StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
        out.extend_from_slice(reason.unwrap_or_default().as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    head.headers().driver_write_lines(out, const { Lengths::of(&["transfer-encoding", "content-length"]) }, |name| {
        is_named(name, b"transfer-encoding") || chunked && is_named(name, b"content-length")
    });
    if chunked {
        field(out, "Transfer-Encoding", b"chunked");
    }
    if let Some(connection) = connection {
        field(out, "Connection", connection.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
}

fn field(out: &mut Vec<u8>, name: impl AsRef<[u8]>, value: &[u8]) {
    out.extend_from_slice(name.as_ref());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}
