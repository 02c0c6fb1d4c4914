//! Reading the ClientHello before a TLS configuration is chosen, so that the server name can choose it.

use super::early::Early;
use super::proxy_protocol::{HeaderError, Start, looks_like_header};
use super::refusal::Refusal;
use rustls::server::{Accepted, Acceptor};
use std::io;
use tokio::io::AsyncWriteExt;

/// Real ClientHellos have 200 bytes to 4 KiB, with post-quantum keys and every extension.
const MAX_BYTES: usize = 16 << 10;

/// The record type of every TLS handshake's first byte.
const HANDSHAKE: u8 = 0x16;

/// Reads up to the end of the ClientHello. `None` if the client left without sending a byte. The caller sets the
/// deadline.
pub(super) async fn read(early: &mut Early) -> Result<Option<Accepted>, Refusal> {
    let mut acceptor = Acceptor::default();
    let mut fed = 0;
    let mut checked = false;
    loop {
        if early.ahead().is_empty() && !early.more(MAX_BYTES - fed).await? {
            return if fed == 0 { Ok(None) } else { Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()) };
        }
        if !checked {
            match first_bytes(early.ahead())? {
                Start::SoFar => {
                    if !early.more(MAX_BYTES).await? {
                        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
                    }
                    continue;
                }
                Start::Yes | Start::No => checked = true,
            }
        }
        let mut fresh = early.ahead();
        fed += fresh.len();
        while !fresh.is_empty() {
            // The only error is a full buffer: a single record larger than TLS allows.
            acceptor.read_tls(&mut fresh).map_err(|_| Refusal::ClientHelloTooLarge(MAX_BYTES))?;
        }
        early.clear();
        match acceptor.accept() {
            Ok(Some(accepted)) => return Ok(Some(accepted)),
            Ok(None) if fed >= MAX_BYTES => return Err(Refusal::ClientHelloTooLarge(MAX_BYTES)),
            Ok(None) => {}
            Err((error, mut alert)) => {
                let mut bytes = Vec::new();
                if alert.write_all(&mut bytes).is_ok() {
                    // The alert is a courtesy; whether it arrives changes nothing.
                    let _ = early.tcp().write_all(&bytes).await;
                }
                return Err(match error {
                    rustls::Error::InvalidMessage(_) => Refusal::ClientHello(error),
                    other => Refusal::Tls(other),
                });
            }
        }
    }
}

/// Names the two things that are often sent here and are not TLS; everything else is rustls' to judge.
fn first_bytes(bytes: &[u8]) -> Result<Start, Refusal> {
    match bytes.first() {
        None | Some(&HANDSHAKE) => return Ok(Start::Yes),
        Some(_) => {}
    }
    match looks_like_header(bytes) {
        Start::Yes => return Err(HeaderError::Untrusted.into()),
        Start::SoFar => return Ok(Start::SoFar),
        Start::No => {}
    }
    const METHODS: &[&[u8]] = &[b"GET ", b"HEAD ", b"POST ", b"PUT ", b"DELETE ", b"OPTIONS ", b"PATCH ", b"CONNECT ", b"PRI * "];
    if METHODS.iter().any(|method| bytes.starts_with(method)) {
        return Err(Refusal::PlainHttp);
    }
    Ok(Start::No)
}
