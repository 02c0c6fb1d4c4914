//! An upstream's response head: refused if two clients could read it differently.
//!
//! The same holds for what comes over HTTP/2, because it may go on over HTTP/1.

use super::fields::content_length;
use super::refusal::{Refusal, shown};
use portcullis_plugin::Headers;
use portcullis_plugin::headers::{is_name, is_value};

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
    judge(status, headers.into_iter().map(|(name, value)| (name.as_bytes(), value)), is_name)
}

/// As [`response`], of fields whose names have been checked.
///
/// # Errors
/// As [`response`].
pub fn response_of_checked_names(status: u16, headers: &Headers) -> Result<ResponseFraming, Refusal> {
    judge(status, headers.driver_iter(), |_| true)
}

fn judge<'a>(
    status: u16,
    headers: impl Iterator<Item = (&'a [u8], &'a [u8])>,
    is_name: impl Fn(&[u8]) -> bool,
) -> Result<ResponseFraming, Refusal> {
    if !(100..=599).contains(&status) {
        return Err(Refusal::upstream("a status from 100 to 599", status.to_string()));
    }
    let mut length = None;
    let mut chunked = false;
    for (name, value) in headers {
        if !is_name(name) {
            return Err(Refusal::upstream("a field name that is a token", shown(name)));
        }
        if !is_value(value) {
            return Err(Refusal::upstream("a field value without control characters", shown(name)));
        }
        if name.eq_ignore_ascii_case(b"content-length") {
            if length.is_some() {
                return Err(Refusal::upstream("Content-Length once", "more than once"));
            }
            let value = content_length(value.trim_ascii())
                .map_err(|refusal| Refusal::upstream(refusal.finding.expected, refusal.finding.observed))?;
            length = Some(value);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if chunked || !value.trim_ascii().eq_ignore_ascii_case(b"chunked") {
                return Err(Refusal::upstream(
                    "`Transfer-Encoding: chunked` once",
                    format!("Transfer-Encoding {}", shown(value)),
                ));
            }
            chunked = true;
        }
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
    Ok(ResponseFraming { length, chunked })
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
