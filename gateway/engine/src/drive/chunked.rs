//! Where a chunked body ends (RFC 9112, section 7.1), read strictly: CRLF only, no padding, bounded extensions.

use std::ops::{ControlFlow, Range};

/// Bytes of one chunk's extensions.
const MAX_EXTENSION: usize = 256;
/// Bytes of all trailer fields.
const MAX_TRAILER: usize = 8 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChunkError {
    #[error("a chunk size is not 1 to 15 hexadecimal digits")]
    Size,
    #[error("a chunk extension is too long or has a control character")]
    Extension,
    #[error("a line of the chunked coding does not end with CRLF")]
    LineEnd,
    #[error("the trailer section is too long or has a control character")]
    Trailer,
}

#[derive(Debug, Clone, Copy, Default)]
enum State {
    #[default]
    SizeStart,
    Size {
        size: u64,
        digits: u8,
    },
    Extension {
        size: u64,
        len: usize,
    },
    SizeLf {
        size: u64,
    },
    Data {
        left: u64,
    },
    DataCr,
    DataLf,
    TrailerStart,
    Trailer,
    TrailerLf,
    LastLf,
}

/// What [`Scanner::next`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Bytes of the piece that are done with.
    pub used: usize,
    /// The body bytes among them.
    pub data: Range<usize>,
    /// The body ends here.
    pub ended: bool,
}

/// Follows a chunked body through as many pieces as it comes in.
#[derive(Debug, Default)]
pub struct Scanner {
    state: State,
    trailer: usize,
}

impl Scanner {
    /// Reads on. `Some(n)`: the body ends `n` bytes into `piece`.
    ///
    /// # Errors
    /// If the coding is not exactly what the RFC's grammar allows.
    pub fn scan(&mut self, piece: &[u8]) -> Result<Option<usize>, ChunkError> {
        let mut at = 0;
        while at < piece.len() {
            if let State::Data { left } = self.state {
                let take = left.min((piece.len() - at) as u64);
                at += take as usize;
                self.state = if left == take { State::DataCr } else { State::Data { left: left - take } };
                continue;
            }
            let byte = piece[at];
            at += 1;
            if self.step(byte)?.is_break() {
                return Ok(Some(at));
            }
        }
        Ok(None)
    }

    /// Reads on to the end of the next run of body bytes, or of `piece`. Extensions and trailer fields are checked and left
    /// behind.
    ///
    /// # Errors
    /// As [`scan`](Self::scan).
    pub fn next(&mut self, piece: &[u8]) -> Result<Step, ChunkError> {
        let mut at = 0;
        while at < piece.len() {
            if let State::Data { left } = self.state {
                let take = left.min((piece.len() - at) as u64);
                let end = at + take as usize;
                self.state = if left == take { State::DataCr } else { State::Data { left: left - take } };
                return Ok(Step { used: end, data: at..end, ended: false });
            }
            let byte = piece[at];
            at += 1;
            if self.step(byte)?.is_break() {
                return Ok(Step { used: at, data: at..at, ended: true });
            }
        }
        Ok(Step { used: at, data: at..at, ended: false })
    }

    fn step(&mut self, byte: u8) -> Result<ControlFlow<()>, ChunkError> {
        self.state = match (self.state, byte) {
            (State::SizeStart, b) => State::Size { size: hex(b).ok_or(ChunkError::Size)?, digits: 1 },
            (State::Size { size, .. }, b'\r') => State::SizeLf { size },
            (State::Size { size, .. }, b';') => State::Extension { size, len: 0 },
            (State::Size { size, digits }, b) if digits < 15 => {
                State::Size { size: size << 4 | hex(b).ok_or(ChunkError::Size)?, digits: digits + 1 }
            }
            (State::Size { .. }, _) => return Err(ChunkError::Size),
            (State::Extension { size, .. }, b'\r') => State::SizeLf { size },
            (State::Extension { size, len }, b) if len < MAX_EXTENSION && is_text(b) => State::Extension { size, len: len + 1 },
            (State::Extension { .. }, _) => return Err(ChunkError::Extension),
            (State::SizeLf { size: 0 }, b'\n') => State::TrailerStart,
            (State::SizeLf { size }, b'\n') => State::Data { left: size },
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => State::SizeStart,
            (State::TrailerStart, b'\r') => State::LastLf,
            (State::Trailer, b'\r') => State::TrailerLf,
            (State::TrailerLf, b'\n') => State::TrailerStart,
            (State::TrailerStart | State::Trailer, b) if self.trailer < MAX_TRAILER && is_text(b) => {
                self.trailer += 1;
                State::Trailer
            }
            (State::TrailerStart | State::Trailer, _) => return Err(ChunkError::Trailer),
            (State::LastLf, b'\n') => return Ok(ControlFlow::Break(())),
            (State::SizeLf { .. } | State::DataCr | State::DataLf | State::TrailerLf | State::LastLf | State::Data { .. }, _) => {
                return Err(ChunkError::LineEnd);
            }
        };
        Ok(ControlFlow::Continue(()))
    }
}

fn hex(byte: u8) -> Option<u64> {
    (byte as char).to_digit(16).map(u64::from)
}

fn is_text(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7F)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(body: &[u8]) -> Result<Option<usize>, ChunkError> {
        let whole = Scanner::default().scan(body);
        // Byte by byte must say the same.
        let mut scanner = Scanner::default();
        let mut single = Ok(None);
        for (at, byte) in body.iter().enumerate() {
            single = scanner.scan(std::slice::from_ref(byte)).map(|end| end.map(|end| at + end));
            if single != Ok(None) {
                break;
            }
        }
        assert_eq!(whole, single);
        whole
    }

    #[test]
    fn a_body_ends_where_it_ends() {
        assert_eq!(scan(b"5\r\nhello\r\n0\r\n\r\nGET /next"), Ok(Some(15)));
        assert_eq!(scan(b"A;name=\"v\"\r\n0123456789\r\n0\r\nX-T: 1\r\n\r\n"), Ok(Some(37)));
        assert_eq!(scan(b"5\r\nhel"), Ok(None));
        assert_eq!(scan(b"0\r\n\r\n"), Ok(Some(5)));
    }

    #[test]
    fn what_another_parser_could_read_differently_is_refused() {
        for (body, error) in [
            (&b"5\nhello\r\n0\r\n\r\n"[..], ChunkError::Size),
            (b"0x5\r\n", ChunkError::Size),
            (b"+5\r\n", ChunkError::Size),
            (b" 5\r\n", ChunkError::Size),
            (b"5 \r\n", ChunkError::Size),
            (b"\r\n", ChunkError::Size),
            (b"FFFFFFFFFFFFFFFF\r\n", ChunkError::Size),
            (b"5;a\nhello", ChunkError::Extension),
            (b"5\r\nhello0\r\n", ChunkError::LineEnd),
            (b"5\r\nhello\n", ChunkError::LineEnd),
            (b"5\rhello", ChunkError::LineEnd),
            (b"0\r\nX: 1\n\r\n", ChunkError::Trailer),
            (b"0\r\n\rX", ChunkError::LineEnd),
        ] {
            assert_eq!(scan(body), Err(error), "{}", body.escape_ascii());
        }
    }
}
