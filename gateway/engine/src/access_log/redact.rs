//! Removes from a path or a query what looks like a secret, before anything of it is logged.
//!
//! When in doubt, it is removed: a log line that says less is a smaller loss than a credential in a log. What stays are
//! ordinary names, numbers, words and UUIDs.

use percent_encoding::percent_decode;
use std::borrow::Cow;

/// Stands in the place of what was removed.
pub const REDACTED: &str = "[redacted]";

/// A value may be encoded several times over, as in a redirect within a redirect.
const MAX_DECODINGS: usize = 4;

/// Bytes that are looked at. A longer text is cut before the part that crosses the line: a part's looks need all of it,
/// and looking must not cost more than the request itself did.
const MAX_INPUT: usize = 4096;

/// Names that say their value is a secret, when they are the whole name. Lower-case, without `-`, `_` and `.`.
const NAMES: &[&str] = &[
    "auth",
    "code",
    "codeverifier",
    "devicecode",
    "hmac",
    "key",
    "mac",
    "nonce",
    "otp",
    "pass",
    "pin",
    "pwd",
    "sid",
    "sig",
    "ticket",
    "totp",
    "usercode",
];

/// Parts of a name that say so wherever they stand in it.
const PARTS: &[&str] = &[
    "accesskey",
    "apikey",
    "assertion",
    "authkey",
    "authoriz",
    "bearer",
    "cookie",
    "credential",
    "csrf",
    "jwt",
    "passphrase",
    "passw",
    "privatekey",
    "saml",
    "secret",
    "session",
    "sessid",
    "signature",
    "signingkey",
    "token",
    "xsrf",
];

/// How keys begin whose makers want them to be found, each ending in `_`, `-` or `.`, and how many letters and digits follow
/// at least. The first is that of the gateway's own API keys.
const KEYS: &[(&[u8], usize)] = &[
    (b"pc_", 20),
    (b"ghp_", 20),
    (b"gho_", 20),
    (b"ghu_", 20),
    (b"ghs_", 20),
    (b"ghr_", 20),
    (b"github_pat_", 16),
    (b"glpat-", 0),
    (b"sk_live_", 0),
    (b"sk_test_", 0),
    (b"rk_live_", 0),
    (b"rk_test_", 0),
    (b"whsec_", 0),
    (b"sk-", 20),
    (b"sk-ant-", 0),
    (b"sk-proj-", 0),
    (b"xoxa-", 0),
    (b"xoxb-", 0),
    (b"xoxe-", 0),
    (b"xoxp-", 0),
    (b"xoxs-", 0),
    (b"xapp-", 0),
    (b"npm_", 20),
    (b"hf_", 20),
    (b"shpat_", 20),
    (b"dop_v1_", 20),
    (b"hvs.", 20),
    (b"ya29.", 0),
];

/// No key is shorter behind its beginning: what is, needs no closer look.
const LEAST_KEY: usize = 16;

/// The path, with segments that look like a token or a key and parameters (`;jsessionid=…`) that name a secret replaced. A target in
/// absolute form loses its user and password.
pub fn path(path: &[u8]) -> Cow<'_, [u8]> {
    clipped(path, b"/", clean_path)
}

/// The query, with every value that has a secret's name or a secret's looks replaced. Names, order and separators stay.
pub fn query(query: &[u8]) -> Cow<'_, [u8]> {
    clipped(query, b"&;", clean_query)
}

fn clipped<'t>(text: &'t [u8], separators: &[u8], clean: fn(&'t [u8]) -> Cow<'t, [u8]>) -> Cow<'t, [u8]> {
    let Some(start) = text.get(..MAX_INPUT).filter(|start| start.len() < text.len()) else { return clean(text) };
    let end = start.iter().rposition(|b| separators.contains(b)).unwrap_or(0);
    let mut out = clean(start.get(..end).unwrap_or_default()).into_owned();
    out.extend_from_slice("…".as_bytes());
    Cow::Owned(out)
}

fn clean_path(path: &[u8]) -> Cow<'_, [u8]> {
    if !path.iter().any(|b| matches!(b, b'%' | b';' | b'@' | b'=')) && !contains_token(path) && !contains_key(path) {
        return Cow::Borrowed(path);
    }
    let (scheme, rest) = split_user(path);
    let rest: Cow<'_, [u8]> = rewrite(
        rest,
        |b| b == b'/',
        |segment| {
            let clean = rewrite(
                segment,
                |b| b == b';',
                |part| match split_pair(part) {
                    Some((name, _, _)) if names_a_secret(name) => Some(replaced(part)),
                    _ if decodings(part).any(|text| contains_token(&text) || contains_key(&text)) => Some(REDACTED.into()),
                    _ => None,
                },
            );
            matches!(clean, Cow::Owned(_)).then(|| clean.into_owned())
        },
    );
    match scheme {
        Some(scheme) => Cow::Owned([scheme, REDACTED.as_bytes(), b"@", &rest].concat()),
        None => rest,
    }
}

fn clean_query(query: &[u8]) -> Cow<'_, [u8]> {
    rewrite(
        query,
        |b| b == b'&' || b == b';',
        |part| match split_pair(part) {
            // A name that looks like a secret is one too: `?eyJ…=`.
            Some((name, _, value)) => {
                if looks_secret(name) {
                    Some(REDACTED.into())
                } else {
                    (!value.is_empty() && (names_a_secret(name) || looks_secret(value))).then(|| replaced(part))
                }
            }
            None => looks_secret(part).then(|| REDACTED.into()),
        },
    )
}

/// `text` with each part between separators replaced by what `change` gives for it.
fn rewrite(text: &[u8], separates: impl Fn(u8) -> bool, change: impl Fn(&[u8]) -> Option<Vec<u8>>) -> Cow<'_, [u8]> {
    let mut out: Option<Vec<u8>> = None;
    let mut start = 0;
    for part in text.split(|b| separates(*b)) {
        let changed = change(part);
        if out.is_none() && changed.is_some() {
            out = Some(text.get(..start).unwrap_or_default().to_vec());
        }
        let end = start + part.len();
        if let Some(out) = &mut out {
            out.extend_from_slice(changed.as_deref().unwrap_or(part));
            out.extend_from_slice(text.get(end..=end).unwrap_or_default());
        }
        start = end + 1;
    }
    out.map_or(Cow::Borrowed(text), Cow::Owned)
}

/// `name=[redacted]`
fn replaced(pair: &[u8]) -> Vec<u8> {
    let name = split_pair(pair).map_or(&b""[..], |(name, _, _)| name);
    [name, b"=", REDACTED.as_bytes()].concat()
}

fn split_pair(part: &[u8]) -> Option<(&[u8], u8, &[u8])> {
    let at = memchr::memchr(b'=', part)?;
    Some((part.get(..at)?, b'=', part.get(at + 1..)?))
}

/// `http://user:password@host/…` as `http://` and `host/…`; a target without a user whole, with nothing before.
fn split_user(target: &[u8]) -> (Option<&[u8]>, &[u8]) {
    let authority = memchr::memmem::find(target, b"://").map_or(0, |at| at + 3);
    let (scheme, rest) = target.split_at(authority);
    let end = memchr::memchr(b'/', rest).unwrap_or(rest.len());
    match memchr::memrchr(b'@', rest.get(..end).unwrap_or_default()) {
        Some(at) => (Some(scheme), rest.get(at + 1..).unwrap_or_default()),
        None => (None, target),
    }
}

/// `text` as it is, and what comes out as its percent-encoding is taken off again and again.
fn decodings(text: &[u8]) -> impl Iterator<Item = Cow<'_, [u8]>> {
    std::iter::successors(Some(Cow::Borrowed(text)), |text| {
        // As most texts are: nothing to take off, nothing to copy.
        memchr::memchr(b'%', text)?;
        let decoded = Cow::from(percent_decode(text)).into_owned();
        (decoded.len() < text.len()).then_some(Cow::Owned(decoded))
    })
    .take(MAX_DECODINGS)
}

fn names_a_secret(name: &[u8]) -> bool {
    decodings(name).any(|name| {
        // Real names fit into `short`; for them, nothing is allocated.
        let (mut short, mut long) = ([0; 64], Vec::new());
        let letters = name.iter().filter(|b| b.is_ascii_alphanumeric()).map(u8::to_ascii_lowercase);
        let folded = if name.len() <= short.len() {
            let used = short.iter_mut().zip(letters).map(|(place, letter)| *place = letter).count();
            short.get(..used).unwrap_or(&short)
        } else {
            long.extend(letters);
            &long
        };
        // It is ASCII; were it not, it would count as a secret.
        std::str::from_utf8(folded)
            .map_or(true, |folded| NAMES.contains(&folded) || PARTS.iter().any(|part| folded.contains(part)))
    })
}

fn looks_secret(value: &[u8]) -> bool {
    decodings(value).any(|text| {
        contains_token(&text)
            || contains_key(&text)
            || has_scheme(&text)
            || has_named_secret(&text)
            || has_user(&text)
            || has_opaque_run(&text)
    })
}

/// The start of a base64url-encoded JSON object, and enough after it to be one: a JWT, a JWE, or a session in a cookie's
/// shape. Whether the rest is complete does not matter.
fn contains_token(text: &[u8]) -> bool {
    memchr::memmem::find_iter(text, b"eyJ").any(|at| {
        let run = text.get(at..).unwrap_or_default();
        run.iter().take(16).take_while(|b| is_base64(**b) || **b == b'.').count() == 16
    })
}

/// A key that begins as one of [`KEYS`], wherever it begins. Whether it is whole does not matter.
fn contains_key(text: &[u8]) -> bool {
    let ends = text.len().saturating_sub(LEAST_KEY);
    let mut marks = text.iter().take(ends).enumerate().filter(|(_, b)| matches!(b, b'_' | b'-' | b'.'));
    marks.any(|(at, _)| {
        let (begin, rest) = text.split_at(at + 1);
        rest.iter().take(LEAST_KEY).all(|b| is_base64(*b)) && {
            let plain = rest.iter().take_while(|b| b.is_ascii_alphanumeric()).count();
            KEYS.iter().any(|(prefix, least)| plain >= *least && begin.ends_with(prefix))
        }
    })
}

/// `Bearer …` and the like, or a PEM block.
fn has_scheme(text: &[u8]) -> bool {
    let starts = |scheme: &[u8]| text.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme));
    [&b"bearer "[..], b"bearer+", b"basic ", b"basic+", b"dpop ", b"dpop+", b"-----begin"].into_iter().any(starts)
}

/// A secret's name followed by `=` or `:` within the value: a nested URL, or JSON.
fn has_named_secret(text: &[u8]) -> bool {
    let is_word = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    let mut rest = text;
    while let Some(start) = rest.iter().position(is_word) {
        rest = &rest[start..];
        let (word, after) = rest.split_at(rest.iter().position(|b| !is_word(b)).unwrap_or(rest.len()));
        let assigned = after.iter().find(|b| !matches!(b, b'"' | b'\'' | b'\\' | b' ' | b'+' | b']'));
        if matches!(assigned, Some(b'=' | b':')) && names_a_secret(word) {
            return true;
        }
        rest = after;
    }
    false
}

/// `://user:password@`
fn has_user(text: &[u8]) -> bool {
    memchr::memmem::find_iter(text, b"://").any(|at| {
        let authority = text.get(at + 3..).unwrap_or_default();
        authority.iter().take_while(|b| !matches!(b, b'/' | b'?' | b'#')).any(|b| *b == b'@')
    })
}

/// A long run of characters that no word, number or UUID has.
fn has_opaque_run(text: &[u8]) -> bool {
    text.split(|b| !is_base64(*b)).any(is_opaque)
}

fn is_base64(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'+' | b'=')
}

fn is_opaque(run: &[u8]) -> bool {
    let count = |is: fn(&u8) -> bool| run.iter().filter(|b| is(b)).count();
    let (digits, upper, lower) = (count(u8::is_ascii_digit), count(u8::is_ascii_uppercase), count(u8::is_ascii_lowercase));
    if run.len() < 20 || digits == run.len() || is_uuid(run) {
        return false;
    }
    // Hexadecimal keys and digests.
    if run.len() >= 32 && run.iter().all(u8::is_ascii_hexdigit) {
        return true;
    }
    // Letters of both cases mixed with digits, as random text in base64 is and words are not.
    if digits >= 2 && upper >= 2 && lower >= 2 && bits_per_byte(run) >= 3.4 {
        return true;
    }
    // Very long and without anything that would separate words.
    run.len() >= 40 && digits + upper + lower == run.len() && bits_per_byte(run) >= 3.8
}

/// 8-4-4-4-12 hexadecimal digits: names a thing, and says nothing by itself.
fn is_uuid(run: &[u8]) -> bool {
    run.len() == 36
        && run.iter().enumerate().all(|(at, b)| if matches!(at, 8 | 13 | 18 | 23) { *b == b'-' } else { b.is_ascii_hexdigit() })
}

/// Shannon's entropy of the bytes' frequencies.
fn bits_per_byte(run: &[u8]) -> f64 {
    let mut counts = [0u32; 256];
    for b in run {
        counts[usize::from(*b)] += 1;
    }
    let len = run.len() as f64;
    counts.iter().filter(|count| **count > 0).map(|count| f64::from(*count) / len).map(|p| -p * p.log2()).sum()
}

#[cfg(test)]
#[path = "redact_tests.rs"]
mod tests;
