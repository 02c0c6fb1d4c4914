//! An upstream's response head: refused if two clients could read it differently.
//!
//! The same holds for what comes over HTTP/2, because it may go on over HTTP/1.

use super::fields::content_length;
use super::refusal::{Refusal, shown};
use portcullis_plugin::headers::{is_name, is_named, is_value};

/// What a response head says of where its body ends. At most one of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ResponseFraming {
    pub length: Option<u64>,
    pub chunked: bool,
}

/// Checks status, names, values and framing of a response head.
///
/// # Errors
/// `upstream.invalid`, with the offending part in the finding.
pub fn response<'a>(status: u16, headers: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Result<ResponseFraming, Refusal> {
    let mut survey = ResponseSurvey::default();
    for (name, value) in headers {
        if !is_name(name.as_bytes()) {
            return Err(Refusal::upstream("a field name that is a token", shown(name.as_bytes())));
        }
        survey.take(name.as_bytes(), value)?;
    }
    survey.framing(status)
}

/// What the fields say about the message itself, one after the other.
#[derive(Debug, Default)]
pub struct ResponseSurvey {
    framing: ResponseFraming,
    /// What `Connection` says.
    pub close: bool,
    pub keep_alive: bool,
}

impl ResponseSurvey {
    /// Takes a field whose name is a token.
    ///
    /// # Errors
    /// If its value is none, or it contradicts another.
    pub fn take(&mut self, name: &[u8], value: &[u8]) -> Result<(), Refusal> {
        if !is_value(value) {
            return Err(Refusal::upstream("a field value without control characters", shown(name)));
        }
        self.take_checked(name, value)
    }

    /// As [`take`](Self::take), for a value whose bytes the caller looks at.
    ///
    /// # Errors
    /// If it contradicts another.
    pub fn take_checked(&mut self, name: &[u8], value: &[u8]) -> Result<(), Refusal> {
        // By its length first: nearly every field has another.
        match name.len() {
            14 if is_named(name, b"content-length") => self.content_length(value),
            17 if is_named(name, b"transfer-encoding") => self.transfer_encoding(value),
            10 if is_named(name, b"connection") => {
                for option in value.split(|b| *b == b',').map(<[u8]>::trim_ascii) {
                    self.close |= option.eq_ignore_ascii_case(b"close");
                    self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn content_length(&mut self, value: &[u8]) -> Result<(), Refusal> {
        if self.framing.length.is_some() {
            return Err(Refusal::upstream("Content-Length once", "more than once"));
        }
        let value = content_length(value.trim_ascii())
            .map_err(|refusal| Refusal::upstream(refusal.finding.expected, refusal.finding.observed))?;
        self.framing.length = Some(value);
        Ok(())
    }

    fn transfer_encoding(&mut self, value: &[u8]) -> Result<(), Refusal> {
        if self.framing.chunked || !value.trim_ascii().eq_ignore_ascii_case(b"chunked") {
            return Err(Refusal::upstream("`Transfer-Encoding: chunked` once", format!("Transfer-Encoding {}", shown(value))));
        }
        self.framing.chunked = true;
        Ok(())
    }

    /// What all of them come to, with this status.
    ///
    /// # Errors
    /// If that has two readings.
    pub fn framing(&self, status: u16) -> Result<ResponseFraming, Refusal> {
        let ResponseFraming { length, chunked } = self.framing;
        if !(100..=599).contains(&status) {
            return Err(Refusal::upstream("a status from 100 to 599", status.to_string()));
        }
        if chunked && length.is_some() {
            return Err(Refusal::upstream("Transfer-Encoding or Content-Length", "both"));
        }
        // RFC 9112, section 6: these have no body, whatever their fields say. Clients that believe the fields wait for one.
        // `Content-Length: 0` is wrong there too, common, and harmless.
        let has_no_body = status < 200 || status == 204;
        if has_no_body && (chunked || length.is_some_and(|length| length > 0)) {
            return Err(Refusal::upstream("no body", format!("a body announced with status {status}")));
        }
        Ok(self.framing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(status: u16, fields: &[(&str, &str)]) -> Result<(), Refusal> {
        response(status, fields.iter().map(|(name, value)| (*name, value.as_bytes()))).map(|_| ())
    }

    #[test]
    fn honest_responses_pass() {
        for (status, fields) in [
            (200, &[("content-length", "5"), ("set-cookie", "a"), ("set-cookie", "b")][..]),
            (200, &[("Transfer-Encoding", "Chunked")]),
            (200, &[]),
            (204, &[("content-length", "0")]),
            (304, &[("content-length", "10")]),
            (101, &[("upgrade", "websocket"), ("connection", "upgrade")]),
            (200, &[("x", "\u{e9}")]),
        ] {
            assert_eq!(check(status, fields), Ok(()), "{fields:?}");
        }
    }

    #[test]
    fn ambiguous_responses_are_refused() {
        for (status, fields) in [
            (200, &[("content-length", "5"), ("Content-Length", "5")][..]),
            (200, &[("content-length", "5"), ("content-length", "6")]),
            (200, &[("content-length", "5, 5")]),
            (200, &[("content-length", "+5")]),
            (200, &[("content-length", "")]),
            (200, &[("content-length", "5"), ("transfer-encoding", "chunked")]),
            (200, &[("transfer-encoding", "gzip, chunked")]),
            (200, &[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")]),
            (200, &[("transfer-encoding", "identity")]),
            (204, &[("transfer-encoding", "chunked")]),
            (204, &[("content-length", "3")]),
            (103, &[("content-length", "3")]),
            (99, &[]),
            (600, &[]),
            (200, &[("x y", "1")]),
            (200, &[("", "1")]),
            (200, &[("x", "a\r\nset-cookie: b")]),
            (200, &[("x", "a\0")]),
        ] {
            let refusal = check(status, fields).expect_err(&format!("{fields:?}"));
            assert_eq!((refusal.status, refusal.reason.as_str()), (502, "upstream.invalid"));
        }
    }
}
