//! The upstream's connections.

use super::answer::Content;
use super::{Answer, Behaviour, KEPT, Recorded, Shared, lock};
use crate::error::Error;
use crate::message::{Body, Field, Head, Io, Reader};
use crate::wait::PATIENCE;
use crate::websocket;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

pub(super) async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    // Connections end with the set, and the set with this task.
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { return };
        while connections.try_join_next().is_some() {}
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            let number = shared.counters.connections.fetch_add(1, Ordering::SeqCst) + 1;
            let _open = Counted::new(&shared.counters.open, None);
            // A peer that goes away, or sends what is not HTTP, ends its connection; what it sent is recorded.
            let _ = connection(stream, number, &shared).await;
        });
    }
}

/// Counts while it lives.
struct Counted<'a>(&'a AtomicU64);

impl<'a> Counted<'a> {
    fn new(counter: &'a AtomicU64, most: Option<&AtomicU64>) -> Self {
        let now = counter.fetch_add(1, Ordering::SeqCst) + 1;
        if let Some(most) = most {
            most.fetch_max(now, Ordering::SeqCst);
        }
        Self(counter)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn connection(stream: TcpStream, number: u64, shared: &Shared) -> Result<(), Error> {
    stream.set_nodelay(true).map_err(Error::io("TCP_NODELAY"))?;
    let mut template = Recorded { connection: number, ..Recorded::default() };
    let Some(config) = &shared.tls else { return requests(Reader::new(Box::new(stream)), template, shared).await };
    let handshake = tokio_rustls::TlsAcceptor::from(Arc::clone(config)).accept(stream);
    let stream = match tokio::time::timeout(PATIENCE, handshake).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(_)) | Err(_) => {
            shared.counters.handshake_failures.fetch_add(1, Ordering::SeqCst);
            return Ok(());
        }
    };
    let (_, session) = stream.get_ref();
    template.sni = session.server_name().map(str::to_owned);
    template.client_certificate = session.peer_certificates().and_then(|chain| Some(chain.first()?.to_vec()));
    requests(Reader::new(Box::new(stream)), template, shared).await
}

type Connection = Reader<Box<dyn Io>>;

async fn requests(mut reader: Connection, template: Recorded, shared: &Shared) -> Result<(), Error> {
    while let Some(bytes) = reader.head().await? {
        let head = Head::parse(&bytes)?;
        let path = head.first[1].split('?').next().unwrap_or_default();
        let keep_open = if path == shared.health_path {
            shared.counters.health_checks.fetch_add(1, Ordering::SeqCst);
            let answer = Answer::new(if shared.healthy.load(Ordering::SeqCst) { 200 } else { 503 });
            send(&mut reader, &answer, &head, shared).await?
        } else {
            request(&mut reader, bytes, head, &template, shared).await?
        };
        if !keep_open {
            break;
        }
    }
    // A clean end, so that what was sent arrives before the close.
    let _ = reader.stream.shutdown().await;
    Ok(())
}

/// Records and answers one request; says whether the connection goes on.
async fn request(
    reader: &mut Connection,
    bytes: Vec<u8>,
    head: Head,
    template: &Recorded,
    shared: &Shared,
) -> Result<bool, Error> {
    let _in_flight = Counted::new(&shared.counters.in_flight, Some(&shared.counters.most_in_flight));
    let [method, target, version] = head.first.clone();
    let mut seen = Recorded { head: bytes, method, target, version, headers: head.fields.clone(), ..template.clone() };
    seen.sequence = shared.counters.requests.fetch_add(1, Ordering::SeqCst);
    remember(&seen, shared);

    let mut behaviour = lock(&shared.behaviour).clone();
    let early = matches!(&behaviour, Behaviour::Answer(answer) if answer.early);
    if !early {
        read_body(reader, &head, &mut seen, shared).await?;
    }
    while let Behaviour::Script(decide) = behaviour {
        behaviour = decide(&seen);
    }
    let keep_open = match behaviour {
        Behaviour::Echo if head.lists("upgrade", "websocket") => {
            websocket::echo(reader, &head, &shared.name).await?;
            false
        }
        Behaviour::Echo => {
            let answer = Answer::new(200).header("content-type", "application/json").body(account(&seen, shared).to_string());
            send(reader, &answer, &head, shared).await?
        }
        Behaviour::Answer(answer) => send(reader, &answer, &head, shared).await?,
        Behaviour::Raw { bytes, close } => {
            write(reader, &bytes).await?;
            !close
        }
        Behaviour::Close | Behaviour::Script(_) => false,
        Behaviour::Hang => {
            // Until the other end gives up.
            reader.until_end(&mut crate::message::Bytes::default()).await?;
            false
        }
    };
    if early && keep_open {
        read_body(reader, &head, &mut seen, shared).await?;
    }
    Ok(keep_open)
}

fn remember(seen: &Recorded, shared: &Shared) {
    let mut recorded = lock(&shared.recorded);
    if let Some(known) = recorded.iter_mut().rev().find(|known| known.sequence == seen.sequence && known.head == seen.head) {
        known.clone_from(seen);
    } else if !seen.complete {
        if recorded.len() >= KEPT {
            recorded.pop_front();
        }
        recorded.push_back(seen.clone());
    }
}

async fn read_body(reader: &mut Connection, head: &Head, seen: &mut Recorded, shared: &Shared) -> Result<(), Error> {
    if head.lists("expect", "100-continue") {
        write(reader, b"HTTP/1.1 100 Continue\r\n\r\n").await?;
    }
    let mut body = Body::default();
    let result = if head.lists("transfer-encoding", "chunked") {
        reader.chunked(&mut body).await
    } else {
        let length = head.field("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        reader.exactly(length, &mut [&mut body.raw, &mut body.data]).await
    };
    (seen.body, seen.body_len, seen.raw_body) = (body.data.kept, body.data.total, body.raw.kept);
    seen.trailers = body.trailers;
    seen.complete = result.is_ok();
    remember(seen, shared);
    if seen.complete {
        shared.counters.complete.fetch_add(1, Ordering::SeqCst);
    }
    result
}

/// What the upstream saw, for a reader.
fn account(seen: &Recorded, shared: &Shared) -> Value {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let headers: Vec<Value> = seen.headers.iter().map(|(name, value)| json!([name, text(value)])).collect();
    json!({
        "upstream": shared.name,
        "method": seen.method,
        "target": seen.target,
        "version": seen.version,
        "headers": headers,
        "body": text(seen.body.get(..seen.body.len().min(64 << 10)).unwrap_or_default()),
        "body_bytes": seen.body_len,
        "connection": seen.connection,
    })
}

async fn write(reader: &mut Connection, bytes: &[u8]) -> Result<(), Error> {
    reader.stream.write_all(bytes).await.map_err(Error::io("write"))?;
    reader.stream.flush().await.map_err(Error::io("write"))
}

fn put_fields(out: &mut Vec<u8>, fields: &[Field]) {
    for (name, value) in fields {
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value);
        out.extend_from_slice(b"\r\n");
    }
}

/// Sends a response; says whether the connection goes on.
async fn send(reader: &mut Connection, answer: &Answer, head: &Head, shared: &Shared) -> Result<bool, Error> {
    if !answer.delay.is_zero() {
        tokio::time::sleep(answer.delay).await;
    }
    let asked_to_close = head.lists("connection", "close") || head.first[2] == "HTTP/1.0";
    let close = asked_to_close || answer.close || matches!(answer.content, Content::Short { .. } | Content::UntilClose(_));
    let mut out = format!("HTTP/1.1 {} Test\r\nx-upstream: {}\r\n", answer.status, shared.name).into_bytes();
    put_fields(&mut out, &answer.headers);
    let bodiless = matches!(answer.status, 100..=199 | 204 | 304);
    match &answer.content {
        Content::Sized(body) if !bodiless => out.extend(format!("content-length: {}\r\n", body.len()).bytes()),
        Content::Filler(len) | Content::Short { announced: len, .. } => out.extend(format!("content-length: {len}\r\n").bytes()),
        Content::Chunked { .. } => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        Content::Sized(_) | Content::UntilClose(_) => {}
    }
    if close {
        out.extend_from_slice(b"connection: close\r\n");
    }
    out.extend_from_slice(b"\r\n");
    if head.first[0] == "HEAD" || bodiless {
        write(reader, &out).await?;
        return Ok(!close);
    }
    let finished = send_content(reader, &answer.content, out).await?;
    Ok(finished && !close)
}

/// Sends the head in `out` and the body; says whether the body came to its end.
async fn send_content(reader: &mut Connection, content: &Content, mut out: Vec<u8>) -> Result<bool, Error> {
    match content {
        Content::Sized(body) | Content::UntilClose(body) | Content::Short { sent: body, .. } => {
            out.extend_from_slice(body);
            write(reader, &out).await?;
        }
        Content::Filler(len) => {
            write(reader, &out).await?;
            let block = [b'x'; 64 << 10];
            let mut left = *len;
            while left > 0 {
                let piece = block.get(..usize::try_from(left).unwrap_or(usize::MAX).min(block.len())).unwrap_or(&block);
                reader.stream.write_all(piece).await.map_err(Error::io("write"))?;
                left -= piece.len() as u64;
            }
            reader.stream.flush().await.map_err(Error::io("write"))?;
        }
        Content::Chunked { chunks, pause, trailers, finish } => {
            write(reader, &out).await?;
            for (at, chunk) in chunks.iter().enumerate() {
                if at > 0 && !pause.is_zero() {
                    tokio::time::sleep(*pause).await;
                }
                let mut framed = format!("{:x}\r\n", chunk.len()).into_bytes();
                framed.extend_from_slice(chunk);
                framed.extend_from_slice(b"\r\n");
                write(reader, &framed).await?;
            }
            if !finish {
                return Ok(false);
            }
            let mut end = b"0\r\n".to_vec();
            put_fields(&mut end, trailers);
            end.extend_from_slice(b"\r\n");
            write(reader, &end).await?;
        }
    }
    Ok(true)
}
