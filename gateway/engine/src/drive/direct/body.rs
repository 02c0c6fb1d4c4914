//! One way of a message: a body is read by its framing and written on by another, with no more of it in memory than one buffer.

use crate::drive::chunked::{ChunkError, Scanner};
use crate::drive::spare::Spare;
use bytes::{Buf, BytesMut};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::AsyncWrite;

/// Bytes that are copied behind a head, so that both go out in one write. What comes later of an unchunked body is not copied.
const COPIED: usize = 16 << 10;

/// How much is left of the body that is being read.
#[derive(Debug)]
pub enum Body {
    Done,
    Exact(u64),
    Chunked(Scanner),
    /// All that comes until the connection ends.
    UntilClosed,
}

impl Body {
    pub fn exact(length: u64) -> Self {
        if length == 0 { Self::Done } else { Self::Exact(length) }
    }

    pub fn is_done(&self) -> bool {
        matches!(self, Self::Done)
    }

    /// How many bytes are still to come, if that is known.
    pub fn left(&self) -> Option<u64> {
        match self {
            Self::Done => Some(0),
            Self::Exact(left) => Some(*left),
            Self::Chunked(_) | Self::UntilClosed => None,
        }
    }

    /// Takes what belongs to the body off the front of `input`, up to the end of a run of body bytes, and shows these to `sink`.
    /// Says how many they were.
    ///
    /// # Errors
    /// If the chunked coding is broken.
    pub fn take(&mut self, input: &mut BytesMut, sink: &mut impl FnMut(&[u8])) -> Result<usize, ChunkError> {
        let plain = self.plain(input.len());
        if plain > 0 {
            sink(&input[..plain]);
            input.advance(plain);
            self.took(plain);
            return Ok(plain);
        }
        let Self::Chunked(scanner) = self else { return Ok(0) };
        let step = scanner.next(input)?;
        let data = step.data.len();
        if data > 0 {
            sink(&input[step.data]);
        }
        input.advance(step.used);
        if step.ended {
            *self = Self::Done;
        }
        Ok(data)
    }

    /// How many of `available` bytes are the body's, as they stand.
    pub fn plain(&self, available: usize) -> usize {
        match self {
            Self::Exact(left) => usize::try_from(*left).unwrap_or(usize::MAX).min(available),
            Self::UntilClosed => available,
            Self::Done | Self::Chunked(_) => 0,
        }
    }

    pub fn took(&mut self, len: usize) {
        if let Self::Exact(left) = self {
            *self = Self::exact(*left - len as u64);
        }
    }
}

/// How a body is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    Plain,
    Chunked,
    /// Nothing is written: a response to HEAD, or one without a body.
    Nothing,
}

impl Coding {
    pub fn write(self, data: &[u8], out: &mut Vec<u8>) {
        match self {
            Self::Nothing => {}
            Self::Plain => out.extend_from_slice(data),
            Self::Chunked if data.is_empty() => {}
            Self::Chunked => {
                let mut size = [0; 16];
                let mut left = data.len();
                let mut at = size.len();
                while left > 0 {
                    at -= 1;
                    size[at] = b"0123456789abcdef"[left & 15];
                    left >>= 4;
                }
                out.extend_from_slice(&size[at..]);
                out.extend_from_slice(b"\r\n");
                out.extend_from_slice(data);
                out.extend_from_slice(b"\r\n");
            }
        }
    }

    pub fn end(self, out: &mut Vec<u8>) {
        if self == Self::Chunked {
            out.extend_from_slice(b"0\r\n\r\n");
        }
    }
}

/// A message on its way: its head first, then its body.
pub struct Flow {
    pub body: Body,
    pub coding: Coding,
    /// Ready to be written; begins with the head.
    out: Spare<Vec<u8>>,
    written: usize,
    /// The end of the body is in `out`.
    ended: bool,
    unflushed: bool,
    /// Bytes of the body that were taken off the input.
    pub bytes: u64,
    /// Bytes that the sink has taken, head and coding included.
    pub sent: u64,
}

/// Why [`Flow::poll_push`] stopped.
pub enum Push {
    /// All that there is was written; the input has to bring more.
    Hungry,
    /// The message is written to its end.
    Complete,
}

impl Flow {
    /// `out` holds the head.
    pub fn new(body: Body, coding: Coding, out: Spare<Vec<u8>>) -> Self {
        Self { body, coding, out, written: 0, ended: false, unflushed: false, bytes: 0, sent: 0 }
    }

    /// Whether something is on its way into `out`'s sink.
    pub fn is_writing(&self) -> bool {
        !self.out.is_empty() || self.unflushed
    }

    /// Codes what `input` has of the body, as far as `out` has room. `sink` is shown the body's bytes.
    ///
    /// # Errors
    /// If the chunked coding is broken.
    pub fn stage(&mut self, input: &mut BytesMut, sink: &mut impl FnMut(&[u8])) -> Result<(), ChunkError> {
        while !self.body.is_done() && !input.is_empty() && self.out.len() < COPIED {
            self.out.lend();
            let (coding, out) = (self.coding, &mut *self.out);
            let taken = self.body.take(input, &mut |data| {
                coding.write(data, out);
                sink(data);
            })?;
            self.bytes += taken as u64;
        }
        self.end_if_done();
        Ok(())
    }

    /// The connection that the body came from has ended, and with it the body.
    pub fn end_of_stream(&mut self) {
        self.body = Body::Done;
        self.end_if_done();
    }

    fn end_if_done(&mut self) {
        if self.body.is_done() && !self.ended {
            self.ended = true;
            self.coding.end(&mut self.out);
        }
    }

    /// Codes what `input` has, unless [`poll_push`](Self::poll_push) writes it as it stands.
    ///
    /// # Errors
    /// If the chunked coding is broken.
    pub fn refill(&mut self, input: &mut BytesMut, copied: bool, sink: &mut impl FnMut(&[u8])) -> Result<(), ChunkError> {
        if self.coding != Coding::Plain || copied || matches!(self.body, Body::Chunked(_)) {
            self.stage(input, sink)?;
        }
        Ok(())
    }

    /// Writes what there is. Of a body that goes on as it comes, `input` is written from where it is: not with `copied`, which a
    /// body that may have to be sent again needs.
    ///
    /// # Errors
    /// As the sink.
    pub fn poll_push(
        &mut self,
        context: &mut Context<'_>,
        input: &mut BytesMut,
        sink: &mut (impl AsyncWrite + Unpin),
        copied: bool,
    ) -> Poll<io::Result<Push>> {
        loop {
            while let Some(rest @ [_, ..]) = self.out.get(self.written..) {
                match ready!(Pin::new(&mut *sink).poll_write(context, rest))? {
                    0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    len => {
                        self.written += len;
                        self.sent += len as u64;
                    }
                }
                self.unflushed = true;
            }
            self.out.give_back();
            self.written = 0;
            let plain = if self.coding == Coding::Plain && !copied { self.body.plain(input.len()) } else { 0 };
            if plain == 0 {
                break;
            }
            let len = ready!(Pin::new(&mut *sink).poll_write(context, &input[..plain]))?;
            if len == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.unflushed = true;
            self.sent += len as u64;
            input.advance(len);
            self.body.took(len);
            self.bytes += len as u64;
            self.end_if_done();
        }
        // TLS may hold back what it has taken.
        if self.unflushed {
            ready!(Pin::new(&mut *sink).poll_flush(context))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(if self.ended { Push::Complete } else { Push::Hungry }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recoded(body: Body, coding: Coding, input: &[u8]) -> (String, usize, bool) {
        let mut flow = Flow::new(body, coding, Spare::default());
        let mut input = BytesMut::from(input);
        flow.stage(&mut input, &mut |_| {}).unwrap();
        (String::from_utf8(flow.out.to_vec()).unwrap(), input.len(), flow.body.is_done())
    }

    #[test]
    fn a_body_is_taken_to_its_end_and_no_further() {
        assert_eq!(recoded(Body::exact(5), Coding::Plain, b"helloGET /"), ("hello".into(), 5, true));
        assert_eq!(recoded(Body::exact(5), Coding::Chunked, b"hello"), ("5\r\nhello\r\n0\r\n\r\n".into(), 0, true));
        assert_eq!(recoded(Body::exact(0), Coding::Chunked, b"GET"), ("0\r\n\r\n".into(), 3, true));
        assert_eq!(recoded(Body::exact(9), Coding::Plain, b"hello"), ("hello".into(), 0, false));
        assert_eq!(
            recoded(Body::UntilClosed, Coding::Chunked, b"0123456789abcdef"),
            ("10\r\n0123456789abcdef\r\n".into(), 0, false)
        );
    }

    #[test]
    fn chunks_are_written_anew_without_extensions_and_trailer() {
        let chunked = || Body::Chunked(Scanner::default());
        let input = b"5;a=b\r\nhello\r\n0\r\nX-Trailer: 1\r\n\r\nGET /";
        assert_eq!(recoded(chunked(), Coding::Chunked, input), ("5\r\nhello\r\n0\r\n\r\n".into(), 5, true));
        assert_eq!(recoded(chunked(), Coding::Plain, input), ("hello".into(), 5, true));
        assert_eq!(recoded(chunked(), Coding::Chunked, b"5\r\nhel"), ("3\r\nhel\r\n".into(), 0, false));
    }

    #[test]
    fn a_broken_coding_is_an_error() {
        let mut flow = Flow::new(Body::Chunked(Scanner::default()), Coding::Chunked, Spare::default());
        assert!(flow.stage(&mut BytesMut::from(&b"5\nhello"[..]), &mut |_| {}).is_err());
    }
}
