//! Reading HTTP/1.1 leniently and exactly: what came is kept byte for byte, and nothing is corrected. A test must see
//! what a gateway really sent.

use crate::error::Error;
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

/// A connection, plain or TLS.
pub(crate) trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// Heads beyond this are not ours to test.
const MAX_HEAD: usize = 4 << 20;
/// Of a body, this much is kept; the rest is only counted.
const KEPT: usize = 4 << 20;

/// Name and value of a field, in the case and order of the wire.
pub type Field = (String, Vec<u8>);

/// A body, or the start of one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Bytes {
    pub kept: Vec<u8>,
    pub total: u64,
}

impl Bytes {
    fn push(&mut self, data: &[u8]) {
        self.total += data.len() as u64;
        let room = KEPT.saturating_sub(self.kept.len()).min(data.len());
        self.kept.extend_from_slice(data.get(..room).unwrap_or_default());
    }
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Body {
    /// Without the framing.
    pub data: Bytes,
    /// With it.
    pub raw: Bytes,
    pub trailers: Vec<Field>,
}

/// The first line and the fields of a message.
#[derive(Debug, Clone, Default)]
pub(crate) struct Head {
    /// The parts of the first line: method, target, version; or version, status, reason.
    pub first: [String; 3],
    pub fields: Vec<Field>,
}

impl Head {
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let mut lines = bytes.split(|b| *b == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        let line = text(lines.next().unwrap_or_default());
        let mut parts = line.splitn(3, ' ').map(str::to_owned);
        let mut part = || parts.next().unwrap_or_default();
        let first = [part(), part(), part()];
        if first[1].is_empty() {
            return Err(Error::Http(format!("first line `{line}`")));
        }
        Ok(Self { first, fields: parse_fields(lines)? })
    }

    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields
            .iter()
            .find(|(field, _)| field.eq_ignore_ascii_case(name))
            .and_then(|(_, value)| std::str::from_utf8(value).ok())
    }

    /// Whether a comma-separated field has this member.
    pub fn lists(&self, name: &str, member: &str) -> bool {
        self.fields
            .iter()
            .filter(|(field, _)| field.eq_ignore_ascii_case(name))
            .any(|(_, value)| String::from_utf8_lossy(value).split(',').any(|item| item.trim().eq_ignore_ascii_case(member)))
    }
}

fn parse_fields<'a>(lines: impl Iterator<Item = &'a [u8]>) -> Result<Vec<Field>, Error> {
    let mut fields = Vec::new();
    for line in lines.take_while(|line| !line.is_empty()) {
        let colon = line.iter().position(|b| *b == b':');
        let Some((name, value)) = colon.and_then(|at| Some((line.get(..at)?, line.get(at + 1..)?))) else {
            return Err(Error::Http(format!("field `{}`", String::from_utf8_lossy(line))));
        };
        fields.push((String::from_utf8_lossy(name).into_owned(), value.trim_ascii().to_owned()));
    }
    Ok(fields)
}

/// A connection with what was read and not yet used.
pub(crate) struct Reader<S> {
    pub stream: S,
    buffer: Vec<u8>,
}

impl<S: AsyncRead + Unpin> Reader<S> {
    pub fn new(stream: S) -> Self {
        Self { stream, buffer: Vec::new() }
    }

    /// Whether bytes are waiting that nobody has used.
    pub fn pending(&self) -> &[u8] {
        &self.buffer
    }

    /// Reads more; false at the end.
    async fn more(&mut self) -> io::Result<bool> {
        self.buffer.reserve(16 << 10);
        Ok(self.stream.read_buf(&mut self.buffer).await? > 0)
    }

    fn use_up(&mut self, len: usize) -> Vec<u8> {
        let rest = self.buffer.split_off(len.min(self.buffer.len()));
        std::mem::replace(&mut self.buffer, rest)
    }

    /// A head up to and with its empty line. `None` if the other end closed before its first byte.
    pub async fn head(&mut self) -> Result<Option<Vec<u8>>, Error> {
        let mut searched: usize = 0;
        loop {
            let from = searched.saturating_sub(3);
            let found = self.buffer.get(from..).and_then(|rest| rest.windows(4).position(|window| window == b"\r\n\r\n"));
            if let Some(at) = found {
                return Ok(Some(self.use_up(from + at + 4)));
            }
            searched = self.buffer.len();
            if searched > MAX_HEAD {
                return Err(Error::Http("a head without end".to_owned()));
            }
            if !self.more().await.map_err(Error::io("read a head"))? {
                return if self.buffer.is_empty() {
                    Ok(None)
                } else {
                    Err(Error::Http(format!("the connection ended within a head: {}", self.buffer.escape_ascii())))
                };
            }
        }
    }

    /// A line with its end.
    async fn line(&mut self) -> Result<Vec<u8>, Error> {
        loop {
            if let Some(at) = self.buffer.iter().position(|b| *b == b'\n') {
                return Ok(self.use_up(at + 1));
            }
            if !self.more().await.map_err(Error::io("read a line"))? {
                return Err(Error::Http("the connection ended within a line".to_owned()));
            }
        }
    }

    /// `len` bytes, or an error with `into` holding what came.
    pub async fn exactly(&mut self, mut len: u64, into: &mut [&mut Bytes]) -> Result<(), Error> {
        while len > 0 {
            if self.buffer.is_empty() && !self.more().await.map_err(Error::io("read a body"))? {
                return Err(Error::Http(format!("the connection ended {len} bytes before the end of a body")));
            }
            let piece = self.use_up(usize::try_from(len).unwrap_or(usize::MAX));
            len -= piece.len() as u64;
            into.iter_mut().for_each(|bytes| bytes.push(&piece));
        }
        Ok(())
    }

    /// A chunked body (RFC 9112, section 7.1), with `body` holding what came, also on an error.
    pub async fn chunked(&mut self, body: &mut Body) -> Result<(), Error> {
        loop {
            let line = self.line().await?;
            body.raw.push(&line);
            let text = String::from_utf8_lossy(&line);
            let digits = text.split(';').next().unwrap_or_default().trim();
            let size = u64::from_str_radix(digits, 16).map_err(|_| Error::Http(format!("chunk size `{digits}`")))?;
            if size == 0 {
                break;
            }
            self.exactly(size, &mut [&mut body.raw, &mut body.data]).await?;
            let end = self.line().await?;
            body.raw.push(&end);
        }
        let mut lines = Vec::new();
        loop {
            let line = self.line().await?;
            body.raw.push(&line);
            let line = line.trim_ascii_end().to_owned();
            if line.is_empty() {
                break;
            }
            lines.push(line);
        }
        body.trailers = parse_fields(lines.iter().map(Vec::as_slice))?;
        Ok(())
    }

    /// Everything up to the end of the connection.
    pub async fn until_end(&mut self, into: &mut Bytes) -> Result<(), Error> {
        loop {
            let piece = self.use_up(usize::MAX);
            into.push(&piece);
            if !self.more().await.map_err(Error::io("read to the end"))? {
                return Ok(());
            }
        }
    }
}
