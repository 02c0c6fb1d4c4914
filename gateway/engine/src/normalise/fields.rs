//! The fields of a request: one pass that finds all that frames the message, names its host or belongs to one hop, and
//! then a second that takes these fields out.
//!
//! Refused as ambiguous:
//! - a second copy of a field that servers use for decisions and that has one value (`SINGLE`), even an equal one;
//! - a look-alike with `_` for `-` of any field known here: CGI and WSGI servers read both under one name;
//! - a `Connection` field that nominates what is not its to nominate: identity, content, framing, or the client's address.

use super::host;
use super::refusal::{Refusal, shown};
use portcullis_plugin::headers::{Lengths, is_name};
use portcullis_plugin::{HeaderError, Headers, Version};

/// Fields that have one value and on which somebody decides. Each may come once.
const SINGLE: &[&str] = &[
    "authorization",
    "proxy-authorization",
    "content-type",
    "content-encoding",
    "content-range",
    "dpop",
    "origin",
    "access-control-request-method",
    "sec-websocket-key",
    "sec-websocket-version",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "x-forwarded-proto",
    "x-forwarded-server",
    "x-http-method-override",
    "x-original-url",
    "x-real-ip",
    "x-rewrite-url",
];

/// What the gateway knows of a field by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    Host,
    ContentLength,
    TransferEncoding,
    Connection,
    Upgrade,
    Te,
    Expect,
    Cookie,
    /// Of one hop, and of no meaning to the gateway.
    Hop,
    /// At most one, by its place in `SINGLE`.
    Single(usize),
    /// `Forwarded` and `X-Forwarded-*`: lists, written by proxies.
    Forwarded,
}

/// `Connection` may nominate this many fields: each is compared with every field of the head.
const MOST_NOMINATED: usize = 16;

/// The longest name that is known here.
const LONGEST_KNOWN: usize = 32;

/// The names that are known here, besides those in `SINGLE`.
const OTHERS: &[(&str, Known)] = &[
    ("host", Known::Host),
    ("content-length", Known::ContentLength),
    ("transfer-encoding", Known::TransferEncoding),
    ("connection", Known::Connection),
    ("upgrade", Known::Upgrade),
    ("te", Known::Te),
    ("expect", Known::Expect),
    ("cookie", Known::Cookie),
    ("keep-alive", Known::Hop),
    ("proxy-connection", Known::Hop),
    ("trailer", Known::Hop),
    ("http2-settings", Known::Hop),
    ("proxy-authenticate", Known::Hop),
    ("forwarded", Known::Forwarded),
];

/// What begins so is known, too.
const FORWARDED: &str = "x-forwarded-";

/// For each length of a name, the first letters that known names of this length have, a bit for each.
const FIRST_LETTERS: [u32; LONGEST_KNOWN + 1] = {
    const fn add(letters: &mut [u32; LONGEST_KNOWN + 1], name: &str) {
        letters[name.len()] |= 1 << (name.as_bytes()[0] & 31);
    }
    let mut letters = [0; LONGEST_KNOWN + 1];
    let mut at = 0;
    while at < SINGLE.len() {
        add(&mut letters, SINGLE[at]);
        at += 1;
    }
    at = 0;
    while at < OTHERS.len() {
        add(&mut letters, OTHERS[at].0);
        at += 1;
    }
    let mut length = FORWARDED.len();
    while length < letters.len() {
        letters[length] |= 1 << (b'x' & 31);
        length += 1;
    }
    letters
};

/// The field of that name with any punctuation read as `-`, as CGI-like servers do, and whether it had other than `-`.
fn known(name: &[u8]) -> Option<(Known, bool)> {
    // Nearly every other field is told by its length and first letter.
    let first = name.first().map_or(0, |first| 1_u32 << (first & 31));
    if FIRST_LETTERS.get(name.len()).is_none_or(|letters| letters & first == 0) {
        return None;
    }
    let mut folded = [0u8; LONGEST_KNOWN];
    let folded = folded.get_mut(..name.len())?;
    let mut look_alike = false;
    for (to, from) in folded.iter_mut().zip(name) {
        let punctuation = !from.is_ascii_alphanumeric();
        look_alike |= punctuation && *from != b'-';
        *to = if punctuation { b'-' } else { from.to_ascii_lowercase() };
    }
    let folded: &[u8] = folded;
    let known = match OTHERS.iter().find(|(other, _)| other.as_bytes() == folded) {
        Some((_, known)) => *known,
        None => match SINGLE.iter().position(|single| single.as_bytes() == folded) {
            Some(place) => Known::Single(place),
            None if folded.starts_with(FORWARDED.as_bytes()) => Known::Forwarded,
            None => return None,
        },
    };
    Some((known, look_alike))
}

/// Whether the field never leaves the normaliser: it frames the message or belongs to one hop. `Content-Length` and
/// `TE: trailers` are put back where they hold.
pub(crate) fn is_of_this_hop(name: &[u8]) -> bool {
    match known(name) {
        Some((known, false)) => match known {
            Known::Host
            | Known::ContentLength
            | Known::TransferEncoding
            | Known::Connection
            | Known::Upgrade
            | Known::Te
            | Known::Expect
            | Known::Hop => true,
            Known::Single(place) => SINGLE.get(place) == Some(&"proxy-authorization"),
            Known::Cookie | Known::Forwarded => false,
        },
        _ => false,
    }
}

/// What the `Upgrade` fields ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum UpgradeTo {
    /// Nothing, or what a server may ignore (RFC 9110, section 7.8), such as `h2c`.
    Nothing,
    WebSocket,
    /// WebSocket in a list, with a version, or twice.
    Unclear,
}

/// What the fields say about the message itself.
#[derive(Debug, Default)]
pub(super) struct Survey {
    pub host: Option<String>,
    pub content_length: Option<u64>,
    pub chunked: bool,
    pub close: bool,
    pub keep_alive: bool,
    pub connection_upgrade: bool,
    pub expect_continue: bool,
    /// Protocols that `Upgrade` names, and how many of them are WebSocket, with a version or without.
    protocols: usize,
    websockets: usize,
    websocket_version: bool,
    te_trailers: bool,
    cookies: usize,
    /// Lower-case names that `Connection` nominates.
    nominated: Vec<String>,
    seen: u32,
    te_seen: bool,
    host_seen: bool,
}

const _: () = assert!(SINGLE.len() <= u32::BITS as usize, "a bit of `seen` for each");

/// Reads all fields, and refuses those that could be read differently.
pub(super) fn survey(headers: &Headers, version: Version) -> Result<Survey, Refusal> {
    let mut survey = Survey::default();
    for (name, value) in headers.driver_iter() {
        let Some((known, look_alike)) = known(name) else { continue };
        let name = std::str::from_utf8(name).unwrap_or_default();
        if look_alike {
            return Err(Refusal::ambiguous(
                "`-` and no other punctuation in the name of a field that servers act upon",
                shown(name.as_bytes()),
            ));
        }
        survey.take(known, name, value, version)?;
    }
    Ok(survey)
}

impl Survey {
    fn take(&mut self, known: Known, name: &str, value: &[u8], version: Version) -> Result<(), Refusal> {
        match known {
            Known::Host if std::mem::replace(&mut self.host_seen, true) => return Err(duplicate(name)),
            Known::Host => self.host = Some(host::normalise(value)?),
            Known::ContentLength if self.content_length.is_some() => return Err(duplicate(name)),
            Known::ContentLength => self.content_length = Some(content_length(value)?),
            Known::TransferEncoding => self.transfer_encoding(value, version)?,
            Known::Connection | Known::Hop | Known::Upgrade if version == Version::Http2 && is_connection_specific(name) => {
                return Err(Refusal::ambiguous("no connection-specific field in HTTP/2", shown(name.as_bytes())));
            }
            Known::Connection => self.connection(value)?,
            Known::Upgrade => self.upgrade(value),
            Known::Te => self.te(name, value, version)?,
            Known::Expect => self.expect(value, version)?,
            Known::Cookie => self.cookies += 1,
            Known::Single(place) => {
                let bit = 1 << place;
                if self.seen & bit != 0 {
                    return Err(duplicate(name));
                }
                self.seen |= bit;
            }
            Known::Hop | Known::Forwarded => {}
        }
        Ok(())
    }

    /// RFC 9112, section 6.1. Lists such as `gzip, chunked` are legal and are what smuggling is made of; nobody needs them.
    fn transfer_encoding(&mut self, value: &[u8], version: Version) -> Result<(), Refusal> {
        if version != Version::Http11 {
            return Err(Refusal::ambiguous("Transfer-Encoding in HTTP/1.1 only", version.as_str()));
        }
        if self.chunked {
            return Err(duplicate("Transfer-Encoding"));
        }
        if !value.eq_ignore_ascii_case(b"chunked") {
            return Err(Refusal::ambiguous("`Transfer-Encoding: chunked`", format!("Transfer-Encoding {}", shown(value))));
        }
        self.chunked = true;
        Ok(())
    }

    fn connection(&mut self, value: &[u8]) -> Result<(), Refusal> {
        for option in list(value) {
            if !is_name(option) {
                return Err(Refusal::ambiguous("tokens in `Connection`", shown(option)));
            }
            if option.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if option.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive = true;
            } else if option.eq_ignore_ascii_case(b"upgrade") {
                self.connection_upgrade = true;
            } else {
                self.nominate(option)?;
            }
        }
        Ok(())
    }

    fn nominate(&mut self, option: &[u8]) -> Result<(), Refusal> {
        match known(option) {
            // They go anyway. A proxy's own credentials are for one hop, so nominating them is only right.
            Some((Known::Hop | Known::Te | Known::Connection | Known::Upgrade, _)) => Ok(()),
            Some((Known::Single(place), _)) if SINGLE.get(place) == Some(&"proxy-authorization") => Ok(()),
            None if self.nominated.len() >= MOST_NOMINATED => {
                Err(Refusal::ambiguous(format!("at most {MOST_NOMINATED} fields that `Connection` nominates"), "more"))
            }
            None if !carries_content(option) && !carries_a_certificate(option) => {
                self.nominated.push(String::from_utf8_lossy(option).to_ascii_lowercase());
                Ok(())
            }
            _ => Err(Refusal::ambiguous(
                "`Connection` that nominates no field of identity, content, framing or origin",
                format!("Connection {}", shown(option)),
            )),
        }
    }

    fn upgrade(&mut self, value: &[u8]) {
        for protocol in list(value) {
            self.protocols += 1;
            let (name, version) = protocol.split_at(protocol.iter().position(|b| *b == b'/').unwrap_or(protocol.len()));
            if name.trim_ascii().eq_ignore_ascii_case(b"websocket") {
                self.websockets += 1;
                self.websocket_version |= !version.is_empty();
            }
        }
    }

    pub fn upgrade_to(&self) -> UpgradeTo {
        match (self.websockets, self.protocols, self.websocket_version) {
            (0, _, _) => UpgradeTo::Nothing,
            (1, 1, false) => UpgradeTo::WebSocket,
            _ => UpgradeTo::Unclear,
        }
    }

    fn te(&mut self, name: &str, value: &[u8], version: Version) -> Result<(), Refusal> {
        if std::mem::replace(&mut self.te_seen, true) && version == Version::Http2 {
            return Err(duplicate(name));
        }
        if version == Version::Http2 {
            if !value.eq_ignore_ascii_case(b"trailers") {
                return Err(Refusal::ambiguous("`te: trailers` and nothing else in HTTP/2", format!("te {}", shown(value))));
            }
            self.te_trailers = true;
        }
        Ok(())
    }

    /// RFC 9110, section 10.1.1.
    fn expect(&mut self, value: &[u8], version: Version) -> Result<(), Refusal> {
        if self.expect_continue {
            return Err(duplicate("Expect"));
        }
        if !value.eq_ignore_ascii_case(b"100-continue") {
            return Err(Refusal::ambiguous("`Expect: 100-continue`", format!("Expect {}", shown(value))));
        }
        // A client of HTTP/1.0 could not read the interim response.
        self.expect_continue = version != Version::Http10;
        Ok(())
    }

    /// Whether exactly one well-formed key and version of RFC 6455, section 4.1 will go on.
    pub fn is_websocket_handshake(&self, headers: &Headers) -> bool {
        let is_key = |key: &[u8]| {
            // 16 bytes in base64: 22 digits and the padding.
            key.strip_suffix(b"==").is_some_and(|digits| {
                digits.len() == 22 && digits.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/'))
            })
        };
        headers.get("sec-websocket-version") == Some(b"13") && headers.get("sec-websocket-key").is_some_and(is_key)
    }

    /// Takes out what belongs to this hop, and gives the rest its one form.
    pub fn clean(&self, headers: &mut Headers, content_length: Option<u64>) -> Result<(), HeaderError> {
        headers.driver_strip(Lengths::ALL, |name| {
            is_of_this_hop(name) || self.nominated.iter().any(|nominated| name.eq_ignore_ascii_case(nominated.as_bytes()))
        });
        if self.cookies > 1 {
            // RFC 9113, section 8.2.3. Also for HTTP/1, where servers differ in which of several lines they read.
            let joined = headers.get_all("cookie").filter(|crumb| !crumb.is_empty()).collect::<Vec<_>>().join(&b"; "[..]);
            headers.driver_set("cookie", &joined)?;
        }
        if let Some(length) = content_length {
            headers.driver_append("content-length", itoa::Buffer::new().format(length).as_bytes())?;
        }
        if self.te_trailers {
            // gRPC servers answer only those who say that they read trailers.
            headers.driver_append("te", b"trailers")?;
        }
        Ok(())
    }
}

/// RFC 9113, section 8.2.2. `Transfer-Encoding` is refused where it is read.
fn is_connection_specific(name: &str) -> bool {
    ["connection", "keep-alive", "proxy-connection", "upgrade"].iter().any(|specific| name.eq_ignore_ascii_case(specific))
}

fn carries_content(name: &[u8]) -> bool {
    name.get(..8).is_some_and(|start| start.eq_ignore_ascii_case(b"content-") || start.eq_ignore_ascii_case(b"content_"))
}

/// `X-Forwarded-Client-Cert` is among the known.
fn carries_a_certificate(name: &[u8]) -> bool {
    let fold = |b: &u8| if b.is_ascii_alphanumeric() { b.to_ascii_lowercase() } else { b'-' };
    [&b"client-cert"[..], b"client-cert-chain"].into_iter().any(|known| name.iter().map(fold).eq(known.iter().copied()))
}

/// The elements of a comma-separated list (RFC 9110, section 5.6.1), without empty ones.
pub(super) fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|b| *b == b',').map(<[u8]>::trim_ascii).filter(|element| !element.is_empty())
}

fn duplicate(name: &str) -> Refusal {
    Refusal::ambiguous("the field once", format!("{} more than once", shown(name.as_bytes())))
}

/// RFC 9110, section 8.6: digits, and only those. A leading zero is octal to some; beyond 63 bits, some count backwards.
pub(super) fn content_length(value: &[u8]) -> Result<u64, Refusal> {
    let digits = std::str::from_utf8(value).ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
    digits
        .filter(|digits| digits.len() == 1 || !digits.starts_with('0'))
        .and_then(|digits| digits.parse::<i64>().ok())
        .and_then(|length| u64::try_from(length).ok())
        .ok_or_else(|| Refusal::ambiguous("`Content-Length` of digits", format!("Content-Length {}", shown(value))))
}
