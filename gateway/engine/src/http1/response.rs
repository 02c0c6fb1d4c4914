//! The strict parser of HTTP/1 response heads (RFC 9112, section 4): what a backend says is read in one way, or not at all.
//!
//! Bare CR or LF, folded lines, blanks before a colon, control characters and versions other than 1.0 and 1.1 are refused, as
//! in requests.

use super::lines::{BareLf, LINE_END, lines, split_field};
use crate::normalise::{Refusal, ResponseFraming, ResponseSurvey, shown};
use memchr::memchr;
use portcullis_plugin::ResponseHead;
use portcullis_plugin::headers::{ReadFields, count_controls, is_value};

/// From the first byte of the status line to the last of the empty line.
const MAX_BYTES: usize = 128 << 10;
/// A backend may send more fields than a client may; the limit is only against memory.
const MAX_FIELDS: usize = 1000;

/// A response head in its one reading.
#[derive(Debug, Clone)]
pub struct Response {
    pub head: ResponseHead,
    pub framing: ResponseFraming,
    /// Whether the backend would take another request on the connection.
    pub keep_alive: bool,
    /// The bytes that the head takes up; the body, if any, follows.
    pub len: usize,
}

/// Remembers how far it has come in a head that is still arriving.
#[derive(Debug, Default)]
pub struct ResponseParser {
    /// Where the current line starts.
    line: usize,
    /// Up to where there is no line end.
    searched: usize,
}

impl ResponseParser {
    /// Goes on where it stopped. `buffer` holds the head from its first byte, and only ever grows until the head is complete or
    /// refused; after that the parser is ready for the next head.
    ///
    /// # Errors
    /// `upstream.invalid`.
    pub fn parse(&mut self, buffer: &[u8]) -> Result<Option<Response>, Refusal> {
        if let Some(expected) = b"HTTP/1.".get(..buffer.len().min(7))
            && !buffer.starts_with(expected)
        {
            return Err(Refusal::upstream("HTTP/1.0 or HTTP/1.1", "something else"));
        }
        if self.searched == 0
            && let Some(response) = assemble(buffer.get(..MAX_BYTES).unwrap_or(buffer))?
        {
            return Ok(Some(response));
        }
        while let Some(offset) = memchr(b'\n', buffer.get(self.searched..).unwrap_or_default()) {
            let end = self.searched + offset;
            let line = buffer.get(self.line..end).and_then(|line| line.strip_suffix(b"\r")).ok_or_else(|| bare_lf(BareLf))?;
            self.line = end + 1;
            self.searched = self.line;
            if self.line > MAX_BYTES {
                return Err(too_large());
            }
            if line.is_empty() {
                let len = self.line;
                *self = Self::default();
                return assemble(buffer.get(..len).unwrap_or_default());
            }
        }
        self.searched = buffer.len();
        if buffer.len() >= MAX_BYTES { Err(too_large()) } else { Ok(None) }
    }
}

fn bare_lf(BareLf: BareLf) -> Refusal {
    Refusal::upstream("lines that end with CR LF", "a bare LF")
}

fn too_large() -> Refusal {
    Refusal::upstream(format!("a head of at most {MAX_BYTES} bytes and {MAX_FIELDS} fields"), "a larger one")
}

/// Reads a head that is there to its end, as nearly all are as soon as the first of their bytes are. `None`: it is not.
fn assemble(buffer: &[u8]) -> Result<Option<Response>, Refusal> {
    let Some(first) = lines(buffer).next() else { return Ok(None) };
    let (_, first) = first.map_err(bare_lf)?;
    let (status, http10) = status_line(first)?;
    let start = first.len() + LINE_END;
    let section = buffer.get(start..).unwrap_or_default();
    let mut fields = ReadFields::new(section, MAX_FIELDS);
    let mut survey = ResponseSurvey::default();
    let mut count = 0;
    let mut end = None;
    for line in lines(section) {
        let (at, line) = line.map_err(bare_lf)?;
        if line.is_empty() {
            end = Some(at);
            break;
        }
        let Some((name, value)) = split_field(line) else { return Err(no_field(line)) };
        survey.take_checked(line.get(..name).unwrap_or_default(), line.get(value.clone()).unwrap_or_default())?;
        fields.add(at..at + name, at + value.start..at + value.end).map_err(|_| too_large())?;
        count += 1;
    }
    let Some(end) = end else { return Ok(None) };
    // All values at once: every line ends with two control characters, and there are to be no more.
    if count_controls(section.get(..end).unwrap_or_default()) != LINE_END * count
        && let Some((name, _)) = fields.iter().find(|(_, value)| !is_value(value))
    {
        return Err(Refusal::upstream("a field value without control characters", shown(name)));
    }
    // Room for the decision id and a few fields of filters.
    let headers = fields.finish(end, 256).map_err(|_| too_large())?;
    let framing = survey.framing(status)?;
    if http10 && framing.chunked {
        return Err(Refusal::upstream("Transfer-Encoding in HTTP/1.1 only", "HTTP/1.0"));
    }
    let keep_alive = !survey.close && (!http10 || survey.keep_alive);
    Ok(Some(Response { head: ResponseHead::new(status, headers), framing, keep_alive, len: start + end + LINE_END }))
}

/// RFC 9112, section 4. The reason phrase says nothing, and may be missing together with its space.
fn status_line(line: &[u8]) -> Result<(u16, bool), Refusal> {
    let refuse = || Refusal::upstream("a status line of HTTP/1.0 or HTTP/1.1", shown(line.get(..32).unwrap_or(line)));
    let http10 = match line.get(..9) {
        Some(b"HTTP/1.1 ") => false,
        Some(b"HTTP/1.0 ") => true,
        _ => return Err(refuse()),
    };
    let (Some([a, b, c]), rest) = (line.get(9..12), line.get(12..).unwrap_or_default()) else { return Err(refuse()) };
    if ![a, b, c].iter().all(|digit| digit.is_ascii_digit()) || !(rest.is_empty() || rest.starts_with(b" ")) || !is_value(rest) {
        return Err(refuse());
    }
    let digit = |byte: &u8| u16::from(byte - b'0');
    Ok((digit(a) * 100 + digit(b) * 10 + digit(c), http10))
}

/// What is wrong with a line that does not begin with a name and a colon.
fn no_field(line: &[u8]) -> Refusal {
    if matches!(line.first(), Some(b' ' | b'\t')) {
        return Refusal::upstream("a field on one line", "a folded line");
    }
    match memchr(b':', line) {
        None => Refusal::upstream("a colon in each field", "a line without one"),
        Some(colon) => Refusal::upstream("a field name that is a token, right before its colon", shown(&line[..colon])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(raw: &[u8]) -> Result<Option<Response>, Refusal> {
        let whole = ResponseParser::default().parse(raw);
        // Byte by byte must say the same.
        let mut parser = ResponseParser::default();
        let mut single = Ok(None);
        for end in 1..=raw.len() {
            single = parser.parse(&raw[..end]);
            if !matches!(single, Ok(None)) {
                break;
            }
        }
        let shape = |result: &Result<Option<Response>, Refusal>| match result {
            Ok(Some(response)) => Ok(Some((response.head.status(), response.head.headers().len(), response.len))),
            Ok(None) => Ok(None),
            Err(refusal) => Err(refusal.status),
        };
        assert_eq!(shape(&whole), shape(&single), "{}", raw.escape_ascii());
        whole
    }

    #[test]
    fn an_honest_response_is_read() {
        let response = parse(b"HTTP/1.1 200 Fine\r\nServer: x\r\nContent-Length:  5 \r\nX-\xC3: a\r\n\r\nhello".get(..).unwrap());
        assert!(response.is_err(), "a name that is no token");
        let response = parse(b"HTTP/1.1 200 Fine\r\nServer: \xE9\r\nContent-Length:  5 \r\n\r\nhello").unwrap().unwrap();
        assert_eq!(
            (response.head.status(), response.framing.length, response.keep_alive, response.len),
            (200, Some(5), true, 53)
        );
        assert_eq!(response.head.headers().get("server"), Some(&b"\xE9"[..]));
        for (raw, keep_alive) in [
            (&b"HTTP/1.1 404\r\n\r\n"[..], true),
            (b"HTTP/1.1 404 \r\n\r\n", true),
            (b"HTTP/1.1 200 OK\r\nconnection: x, Close\r\n\r\n", false),
            (b"HTTP/1.0 200 OK\r\n\r\n", false),
            (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\n", true),
            (b"HTTP/1.0 200 OK\r\nConnection: keep-alive, close\r\n\r\n", false),
        ] {
            assert_eq!(parse(raw).unwrap().unwrap().keep_alive, keep_alive, "{}", raw.escape_ascii());
        }
        assert!(parse(b"HTTP/1.1 200 OK\r\nA: b\r\n").unwrap().is_none());
    }

    #[test]
    fn what_two_parsers_could_read_differently_is_refused() {
        for raw in [
            &b"HTTP/1.1 200 OK\n\n"[..],
            b"HTTP/1.1 200 OK\r\nA: b\n\r\n",
            b"HTTP/1.1 200 OK\r\nA: b\rc\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nA\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n: b\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nA: \0\r\n\r\n",
            b"HTTP/1.1 2000 OK\r\n\r\n",
            b"HTTP/1.1 20 OK\r\n\r\n",
            b"HTTP/1.1 +20 OK\r\n\r\n",
            b"HTTP/1.1  200 OK\r\n\r\n",
            b"HTTP/1.1 200 O\x00K\r\n\r\n",
            b"HTTP/1.1 600 X\r\n\r\n",
            b"HTTP/2 200\r\n\r\n",
            b"HTTP/0.9 200 OK\r\n\r\n",
            b"ICY 200 OK\r\n\r\n",
            b"\r\nHTTP/1.1 200 OK\r\n\r\n",
            b"<html>",
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"HTTP/1.1 204 No\r\nTransfer-Encoding: chunked\r\n\r\n",
        ] {
            let refusal = parse(raw).expect_err(&raw.escape_ascii().to_string());
            assert_eq!((refusal.status, refusal.reason.as_str()), (502, "upstream.invalid"));
        }
    }

    #[test]
    fn a_head_has_its_limits() {
        let endless = [b"HTTP/1.1 200 OK\r\nA: ", &vec![b'x'; MAX_BYTES][..]].concat();
        assert!(ResponseParser::default().parse(&endless).is_err());
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(MAX_FIELDS + 1));
        assert!(ResponseParser::default().parse(many.as_bytes()).is_err());
    }
}
