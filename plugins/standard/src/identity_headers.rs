//! Tells the upstream who is calling, in headers that nobody else can set.
//!
//! ```yaml
//! - identity_headers:
//!     headers: { x-user: sub, x-roles: roles, x-client-cert-subject: cert.subject }
//!     on_missing: deny
//!     optional: [x-roles]
//! ```
//!
//! The gateway owns every name that stands here: what a client sends under it, in any spelling, is removed from every
//! request of every route. Values come from the verified principal and certificate only.
//!
//! **Encoding.** A value is sent as it is, but for bytes outside of visible ASCII and space, spaces at its ends, and
//! `%`: these are percent-encoded (RFC 3986, section 2.1). The items of a list are joined by `,`; a comma within an item
//! is percent-encoded too. So a reader splits first and decodes then, and no value can pose as two.
//!
//! **Templates.** A value with names in braces, such as `"user:{sub}@{iss}"`, is a text with facts in it. A fact in a template
//! keeps letters, digits and those of `-._~` that the text itself does not have; all else of it is percent-encoded, so that no
//! value can pose as the text around it. If any of its facts is not known, the whole header has no value.
//!
//! **The token.** `oidc` takes the bearer token out of the request once it is verified. `forward_token: true` puts that
//! token back; otherwise a request on this route goes on without any bearer token, verified or not.

use crate::bearer::{self, VerifiedToken};
use crate::header_rules::{RESERVED, check_name, folded, is_look_alike, is_one_of};
use crate::header_template::{HeaderValue, push_encoded};
use crate::text::missing_fact;
use portcullis_plugin::attribute::AttributeValue;
use portcullis_plugin::error::unknown_name;
use portcullis_plugin::units::ByteSize;
use portcullis_plugin::{
    Attribute, Build, ConfigError, Env, Exchange, Filter, Finding, HeaderError, Needs, RequestHead, Verdict, reason,
};
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::BTreeMap;

/// Which facts about the caller the upstream gets.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Header name to a fact about the caller, or to a text with facts in braces: `user:{sub}@{iss}`.
    #[serde(default)]
    pub headers: BTreeMap<String, HeaderValue>,
    /// What to do if a fact is not known; also if it is only one of several in a text. Default: `omit`.
    #[serde(default)]
    pub on_missing: OnMissing,
    /// Headers that may be absent although `on_missing` is `deny`.
    #[serde(default)]
    pub optional: Vec<String>,
    /// Send the verified bearer token to the upstream. Default: false.
    #[serde(default)]
    pub forward_token: bool,
    /// The longest value, once encoded. A request with a longer one is refused: nothing is cut off. Default: 8KiB.
    #[serde(default = "default_max_value")]
    pub max_value: ByteSize,
}

fn default_max_value() -> ByteSize {
    ByteSize(8 * 1024)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnMissing {
    /// The header is absent; the client's own is removed all the same.
    #[default]
    Omit,
    /// The request is refused.
    Deny,
}

pub struct IdentityHeaders {
    headers: Vec<Header>,
    forward_token: bool,
    max_value: usize,
}

struct Header {
    name: String,
    value: HeaderValue,
    required: bool,
}

impl Build for IdentityHeaders {
    const NAME: &'static str = "identity_headers";
    const EXAMPLE: &'static str =
        "{ headers: { x-user: sub, x-roles: roles, x-client-cert-subject: cert.subject }, forward_token: false }";
    type Config = Config;

    fn build(config: Config, _env: &Env) -> Result<Self, ConfigError> {
        let Config { headers, on_missing, optional, forward_token, max_value } = config;
        if headers.is_empty() && !forward_token {
            return Err(ConfigError::new("no header is named").help("give `headers`, such as `{ x-user: sub }`"));
        }
        check_names(&headers)?;
        for (at, name) in optional.iter().enumerate() {
            let error = if on_missing == OnMissing::Omit {
                ConfigError::new("every header is optional already").help("use `optional` with `on_missing: deny`")
            } else if headers.keys().any(|known| known.eq_ignore_ascii_case(name)) {
                continue;
            } else {
                unknown_name("header", name, headers.keys().map(String::as_str))
            };
            return Err(error.at(at).at("optional"));
        }
        if max_value.0 == 0 || max_value.0 > 1 << 20 {
            return Err(ConfigError::new("a value has 1 byte to 1MiB").at("max_value"));
        }
        let required =
            |name: &str| on_missing == OnMissing::Deny && !optional.iter().any(|optional| optional.eq_ignore_ascii_case(name));
        Ok(Self {
            headers: headers.into_iter().map(|(name, value)| Header { required: required(&name), name, value }).collect(),
            forward_token,
            max_value: max_value.0 as usize,
        })
    }
}

impl Header {
    /// `Err`: the fact that is not known.
    fn value(&self, exchange: &Exchange) -> Result<String, &Attribute> {
        match &self.value {
            HeaderValue::Fact(attribute) => attribute.read(exchange).map(|value| encode(&value)).ok_or(attribute),
            HeaderValue::Template(template) => template.write(exchange),
        }
    }

    fn missing(&self, fact: &Attribute) -> Finding {
        let within = match &self.value {
            HeaderValue::Fact(_) => String::new(),
            template @ HeaderValue::Template(_) => format!(" in {template}"),
        };
        Finding::new(format!("{fact} for {}{within}", self.name), "no such fact about the caller")
    }
}

fn check_names(headers: &BTreeMap<String, HeaderValue>) -> Result<(), ConfigError> {
    let mut seen: Vec<String> = Vec::new();
    for name in headers.keys() {
        let here = |error: ConfigError| error.at(name.as_str()).at("headers");
        check_name(name).map_err(here)?;
        let fold = folded(name);
        if is_one_of(&fold, RESERVED) {
            return Err(here(
                ConfigError::new(format!("`{name}` has another meaning")).help("choose a name of your own, such as x-user"),
            ));
        }
        if seen.contains(&fold) {
            return Err(here(
                ConfigError::new(format!("`{name}` is named twice")).help("names that differ in case or `_` and `-` are one"),
            ));
        }
        seen.push(fold);
    }
    Ok(())
}

impl Filter for IdentityHeaders {
    fn request(&self, request: &mut RequestHead, exchange: &mut Exchange) -> Verdict {
        // All of them first: no way out of here may leave a client's own copy in place. The gateway has done the same
        // before, on every route; this holds wherever else the filter is run.
        request.headers_mut().retain(|name, _| !self.headers.iter().any(|header| is_look_alike(name, &header.name)));
        if !self.forward_token {
            bearer::remove(request.headers_mut());
        }
        let mut complete = true;
        for header in &self.headers {
            let value = match header.value(exchange) {
                Ok(value) => value,
                Err(missing) => {
                    let hint = header.required.then(|| missing_fact(missing, exchange));
                    complete &= exchange.check("present", reason::IDENTITY_MISSING, !header.required, || {
                        let finding = header.missing(missing);
                        match hint {
                            Some(hint) => finding.hint(format!("{hint}; or name the header in `optional`")),
                            None => finding,
                        }
                    });
                    continue;
                }
            };
            let fits = exchange.check("length", reason::IDENTITY_MISSING, value.len() <= self.max_value, || {
                let expected = format!("at most {} bytes of {} for {}", self.max_value, header.value, header.name);
                Finding::new(expected, format!("{} bytes", value.len())).hint("raise `max_value`, or have the issuer say less")
            });
            complete &= fits;
            if let Err(error) = if fits { request.headers_mut().set(&header.name, &value) } else { Ok(()) } {
                return no_room(exchange, error);
            }
        }
        if let Some(Err(error)) = self.forward_token.then(|| restore_token(request, exchange)) {
            return no_room(exchange, error);
        }
        if complete { Verdict::Continue } else { Verdict::deny(reason::IDENTITY_MISSING) }
    }

    fn needs(&self) -> Needs {
        let names: Vec<String> = self.headers.iter().map(|header| header.name.clone()).collect();
        let token = if self.forward_token { "; token" } else { "" };
        Needs {
            summary: Some(format!("headers({}{token})", names.join(", "))),
            owned_headers: names,
            reads_identity: self.forward_token || self.headers.iter().any(|header| header.value.is_identity()),
            ..Needs::default()
        }
    }
}

fn restore_token(request: &mut RequestHead, exchange: &Exchange) -> Result<(), HeaderError> {
    match exchange.extension::<VerifiedToken>() {
        Some(token) => request.headers_mut().set("authorization", format!("{} {}", token.scheme().name(), token.expose())),
        None => Ok(()),
    }
}

/// A client that fills the head up gets no request through without its identity.
fn no_room(exchange: &mut Exchange, error: HeaderError) -> Verdict {
    exchange.check("fields", reason::REQUEST_HEADERS_TOO_LARGE, false, || {
        Finding::new("room for the identity headers", error.to_string())
    });
    Verdict::deny(reason::REQUEST_HEADERS_TOO_LARGE)
}

fn encode(value: &AttributeValue<'_>) -> String {
    let mut out = String::new();
    match value {
        AttributeValue::One(text) => encode_into(&mut out, text, false),
        AttributeValue::Many(items) => {
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                encode_into(&mut out, item, true);
            }
        }
    }
    out
}

/// See the encoding in this file's documentation.
pub(crate) fn encode_into(out: &mut String, text: &str, in_list: bool) {
    let inner = text.trim_matches(' ');
    let start = text.len() - text.trim_start_matches(' ').len();
    let edge = |at: usize| at < start || at >= start + inner.len();
    out.reserve(text.len());
    for (at, byte) in text.bytes().enumerate() {
        let plain = match byte {
            b'%' => false,
            b',' => !in_list,
            b' ' => !edge(at),
            _ => byte.is_ascii_graphic(),
        };
        if plain {
            out.push(char::from(byte));
        } else {
            push_encoded(out, byte);
        }
    }
}

#[cfg(test)]
#[path = "identity_headers_tests.rs"]
mod tests;
