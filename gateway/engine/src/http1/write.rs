//! Writes a normalised request head in the one form that every HTTP/1 parser reads alike.

use crate::normalise::{BodyLength, Framing, is_of_this_hop};
use portcullis_plugin::{RequestHead, Version};

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
    for (name, value) in head.headers().iter() {
        if !is_of_this_hop(name) {
            field(out, name, value);
        }
    }
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

fn field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}
