//! As much of WebSocket (RFC 6455) as an echo and its client need.

use crate::error::Error;
use crate::message::{Bytes, Head, Io, Reader};
use base64::Engine;
use tokio::io::AsyncWriteExt;

/// RFC 6455, section 1.3.
const MAGIC: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xA;

/// What `Sec-WebSocket-Accept` must say.
pub fn accept_key(key: &str) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, format!("{key}{MAGIC}").as_bytes());
    base64::engine::general_purpose::STANDARD.encode(digest.as_ref())
}

/// Accepts the handshake and echoes frames until the client closes.
pub(crate) async fn echo(reader: &mut Reader<Box<dyn Io>>, head: &Head, name: &str) -> Result<(), Error> {
    let accept = accept_key(head.field("sec-websocket-key").unwrap_or_default());
    let reply = format!(
        "HTTP/1.1 101 Switching Protocols\r\nx-upstream: {name}\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\
         sec-websocket-accept: {accept}\r\n\r\n"
    );
    write(reader, reply.as_bytes()).await?;
    loop {
        let (first, payload) = frame(reader).await?;
        let opcode = first & 0x0F;
        let first = if opcode == PING { (first & 0xF0) | PONG } else { first };
        write(reader, &unmasked(first, &payload)).await?;
        if opcode == CLOSE {
            return Ok(());
        }
    }
}

async fn write(reader: &mut Reader<Box<dyn Io>>, bytes: &[u8]) -> Result<(), Error> {
    reader.stream.write_all(bytes).await.map_err(Error::io("write"))?;
    reader.stream.flush().await.map_err(Error::io("write"))
}

async fn bytes(reader: &mut Reader<Box<dyn Io>>, len: u64) -> Result<Vec<u8>, Error> {
    let mut bytes = Bytes::default();
    reader.exactly(len, &mut [&mut bytes]).await?;
    Ok(bytes.kept)
}

/// The first byte of a frame, and its payload without the mask (RFC 6455, section 5.2).
pub(crate) async fn frame(reader: &mut Reader<Box<dyn Io>>) -> Result<(u8, Vec<u8>), Error> {
    let start = bytes(reader, 2).await?;
    let [first, second] = start[..] else { return Err(Error::Http("a frame of no length".to_owned())) };
    let extended = match second & 0x7F {
        126 => bytes(reader, 2).await?,
        127 => bytes(reader, 8).await?,
        short => vec![short],
    };
    let len = extended.iter().fold(0_u64, |len, byte| (len << 8) | u64::from(*byte));
    if len > 1 << 20 {
        return Err(Error::Http(format!("a frame of {len} bytes")));
    }
    let mask = if second & 0x80 == 0 { vec![0; 4] } else { bytes(reader, 4).await? };
    let payload = bytes(reader, len).await?;
    Ok((first, payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect()))
}

fn unmasked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = start(first, payload.len(), 0);
    frame.extend_from_slice(payload);
    frame
}

/// A client's frame: the whole message in one, masked (RFC 6455, section 5.3).
pub fn masked(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0x37, 0xFA, 0x21, 0x3D];
    let mut frame = start(0x80 | opcode, payload.len(), 0x80);
    frame.extend_from_slice(&mask);
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

fn start(first: u8, len: usize, masked: u8) -> Vec<u8> {
    let mut start = vec![first];
    match (u8::try_from(len), u16::try_from(len)) {
        (Ok(len @ 0..126), _) => start.push(masked | len),
        (_, Ok(len)) => {
            start.push(masked | 126);
            start.extend_from_slice(&len.to_be_bytes());
        }
        _ => {
            start.push(masked | 127);
            start.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    start
}
