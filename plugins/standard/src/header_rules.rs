//! Which header names a configuration may give to a filter.

use portcullis_plugin::ConfigError;
use portcullis_plugin::headers::{FRAMING, is_name, is_value_byte};

/// Beside [`FRAMING`]: what the gateway takes off a request and answers or sends itself.
const OF_ONE_HOP: &[&str] = &["expect", "http2-settings"];

/// Names that may not be given a value of the caller: they mean something else to upstreams or to the gateway.
pub(crate) const RESERVED: &[&str] = &[
    "accept",
    "accept-encoding",
    "authorization",
    "content-encoding",
    "content-type",
    "cookie",
    "date",
    "forwarded",
    "origin",
    "proxy-authenticate",
    "proxy-authorization",
    "range",
    "set-cookie",
    "x-decision-id",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "x-forwarded-proto",
    "x-forwarded-server",
];

/// Refuses what is not a header name, and what the gateway itself sets.
pub(crate) fn check_name(name: &str) -> Result<(), ConfigError> {
    if !is_name(name.as_bytes()) {
        return Err(
            ConfigError::new(format!("`{name}` is not a header name")).help("letters, digits and -, without spaces or colon")
        );
    }
    if is_one_of(name, FRAMING) || is_one_of(name, OF_ONE_HOP) {
        return Err(ConfigError::new(format!("the gateway itself sets `{name}`: it frames the message or belongs to one hop"))
            .help("leave it out"));
    }
    Ok(())
}

pub(crate) fn check_value(name: &str, value: &str) -> Result<(), ConfigError> {
    if value.bytes().all(is_value_byte) {
        Ok(())
    } else {
        Err(ConfigError::new(format!("the value of `{name}` has a line break or another control character")))
    }
}

pub(crate) fn is_one_of(name: &str, names: &[&str]) -> bool {
    names.iter().any(|known| known.eq_ignore_ascii_case(name))
}

/// The same for all spellings that some upstream takes for one name: case, and `_` for `-`.
pub(crate) fn folded(name: &str) -> String {
    name.to_ascii_lowercase().replace('_', "-")
}

pub(crate) fn is_look_alike(name: &str, other: &str) -> bool {
    let fold = |b: u8| if b == b'_' { b'-' } else { b.to_ascii_lowercase() };
    name.len() == other.len() && name.bytes().map(fold).eq(other.bytes().map(fold))
}
