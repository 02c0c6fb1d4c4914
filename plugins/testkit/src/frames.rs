//! HTTP/2 frames (RFC 9113) made by hand, for requests that no proper client would send: connection fields, upper-case
//! names, pseudo-fields twice or in the wrong place, fields with line breaks in them.

use crate::client::Client;
use crate::error::Error;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

// Types of frames (RFC 9113, section 6).
pub const DATA: u8 = 0x0;
pub const HEADERS: u8 = 0x1;
pub const RST_STREAM: u8 = 0x3;
pub const SETTINGS: u8 = 0x4;
pub const PING: u8 = 0x6;
pub const GOAWAY: u8 = 0x7;
pub const WINDOW_UPDATE: u8 = 0x8;

const ACK: u8 = 0x1;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;

/// What a server made of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answered {
    Status(u16),
    /// The stream was reset, with this error code.
    Reset(u32),
    /// The connection was given up, with this error code.
    GoneAway(u32),
    /// The connection ended without a word.
    Closed,
}

impl Answered {
    /// Whether the request was turned away: by a 4xx status, or on the HTTP/2 level.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Status(status) => (400..500).contains(status),
            Self::Reset(_) | Self::GoneAway(_) | Self::Closed => true,
        }
    }
}

/// The four pseudo-fields of a GET, to which a test adds.
pub fn get<'a>(authority: &'a str, path: &'a str) -> Vec<(&'a [u8], &'a [u8])> {
    vec![
        (b":method".as_slice(), b"GET".as_slice()),
        (b":scheme", b"http"),
        (b":authority", authority.as_bytes()),
        (b":path", path.as_bytes()),
    ]
}

/// Sends these fields as stream 1 of a fresh connection, with `body` if there is one, and says what came of it.
///
/// # Errors
/// If the server does nothing at all, or answers in a way this reader does not know.
pub async fn exchange(client: &mut Client, fields: &[(&[u8], &[u8])], body: Option<&[u8]>) -> Result<Answered, Error> {
    let mut bytes = PREFACE.to_vec();
    bytes.extend(frame(SETTINGS, 0, 0, &[]));
    let end = if body.is_none() { END_STREAM } else { 0 };
    bytes.extend(frame(HEADERS, END_HEADERS | end, 1, &block(fields)));
    if let Some(body) = body {
        bytes.extend(frame(DATA, END_STREAM, 1, body));
    }
    // A server may hang up before it has read all.
    let _ = client.send(bytes).await;
    answer(client).await
}

/// A frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(9 + payload.len());
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    frame.extend_from_slice(length.get(1..).unwrap_or_default());
    frame.extend_from_slice(&[kind, flags]);
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// A field block: every field a literal that is not indexed, without Huffman coding (RFC 7541, section 6.2.2).
pub fn block(fields: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            length(text.len(), &mut block);
            block.extend_from_slice(text);
        }
    }
    block
}

/// An integer with a prefix of seven bits (RFC 7541, section 5.1).
fn length(len: usize, out: &mut Vec<u8>) {
    match u8::try_from(len) {
        Ok(len) if len < 0x7F => out.push(len),
        _ => {
            out.push(0x7F);
            let mut rest = len - 0x7F;
            while rest >= 0x80 {
                out.push((rest & 0x7F) as u8 | 0x80);
                rest >>= 7;
            }
            out.push(rest as u8);
        }
    }
}

async fn answer(client: &mut Client) -> Result<Answered, Error> {
    loop {
        let Ok(head) = client.bytes(9).await else { return Ok(Answered::Closed) };
        let [l1, l2, l3, kind, flags, _, _, _, stream] = head[..] else { return Ok(Answered::Closed) };
        let len = u64::from(u32::from_be_bytes([0, l1, l2, l3]));
        let Ok(payload) = client.bytes(len).await else { return Ok(Answered::Closed) };
        match (kind, stream) {
            (HEADERS, 1) => return status(&payload).map(Answered::Status),
            (RST_STREAM, 1) => return Ok(Answered::Reset(number(&payload, 0))),
            (GOAWAY, _) => return Ok(Answered::GoneAway(number(&payload, 4))),
            (SETTINGS, _) if flags & ACK == 0 => {
                let _ = client.send(frame(SETTINGS, ACK, 0, &[])).await;
            }
            (PING, _) if flags & ACK == 0 => {
                let _ = client.send(frame(PING, ACK, 0, &payload)).await;
            }
            _ => {}
        }
    }
}

fn number(payload: &[u8], at: usize) -> u32 {
    let bytes = payload.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).unwrap_or_default();
    u32::from_be_bytes(bytes)
}

/// The status is the first field of a response on a fresh connection: indexed, or a literal under the name's index.
fn status(block: &[u8]) -> Result<u16, Error> {
    let unknown = || Error::Http(format!("field block {block:02x?}"));
    // A change of the dynamic table's size may come first (RFC 7541, section 6.3).
    let skip = block.iter().take_while(|byte| *byte & 0xE0 == 0x20).count();
    let block = block.get(skip..).unwrap_or_default();
    let (first, rest) = block.split_first().ok_or_else(unknown)?;
    if let Some(status) = [200, 204, 206, 304, 400, 404, 500].get(usize::from(*first).wrapping_sub(0x88)) {
        return Ok(*status);
    }
    let index = if first & 0x40 == 0 { first & 0x0F } else { first & 0x3F };
    let (len, rest) = rest.split_first().ok_or_else(unknown)?;
    let value = rest.get(..usize::from(len & 0x7F)).ok_or_else(unknown)?;
    if !(8..=14).contains(&index) {
        return Err(unknown());
    }
    let digits = if len & 0x80 == 0 { Some(value.to_vec()) } else { huffman_digits(value) };
    let text = digits.and_then(|digits| String::from_utf8(digits).ok()).ok_or_else(unknown)?;
    text.parse().map_err(|_| unknown())
}

/// The digits' part of RFC 7541, appendix B: 0 to 2 have five bits, 3 to 9 have six.
fn huffman_digits(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut bits = bytes.iter().flat_map(|byte| (0..8).rev().map(move |at| (byte >> at) & 1));
    let mut digits = Vec::new();
    while digits.len() < 3 {
        let mut code = 0;
        for _ in 0..5 {
            code = (code << 1) | bits.next()?;
        }
        digits.push(match code {
            0..=2 => b'0' + code,
            _ => match (code << 1) | bits.next()? {
                code @ 0x19..=0x1F => b'3' + (code - 0x19),
                _ => return None,
            },
        });
    }
    Some(digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_read_in_every_coding() {
        assert_eq!(status(&[0x88]).unwrap(), 200);
        assert_eq!(status(&[0x8D]).unwrap(), 404);
        // RFC 7541, appendix C.6.1: `:status: 302`, indexed name, Huffman coded; C.5.1: the same as plain text.
        assert_eq!(status(&[0x48, 0x82, 0x64, 0x02]).unwrap(), 302);
        assert_eq!(status(&[0x48, 0x03, b'3', b'0', b'2']).unwrap(), 302);
        // C.6.2: `307`.
        assert_eq!(status(&[0x48, 0x83, 0x64, 0x0E, 0xFF]).unwrap(), 307);
        assert_eq!(status(&[0x20, 0x08, 0x03, b'4', b'2', b'1']).unwrap(), 421);
        for bad in [&[][..], &[0x48], &[0x48, 0x83, 0x64], &[0xFF, 0x00], &[0x00, 0x01, b'x']] {
            assert!(status(bad).is_err(), "{bad:02x?}");
        }
    }

    #[test]
    fn long_literals_have_a_long_length() {
        let mut out = Vec::new();
        // RFC 7541, appendix C.1.2, with a prefix of seven bits.
        length(1337, &mut out);
        assert_eq!(out, [0x7F, 0xBA, 0x09]);
    }
}
