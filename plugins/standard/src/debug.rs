//! Shows developers which checks failed, in a header of the response.
//!
//! ```yaml
//! - debug: { allow: [10.0.0.0/8] }
//! ```
//!
//! A refused client learns a status and a decision id, and no more. For those whom `allow` names, the response also has
//! `x-decision-checks`: each failed check with its filter, its reason, what was expected and what was observed, as a list of
//! strings with parameters (RFC 9651):
//!
//! ```text
//! x-decision-checks: "oidc expiry";reason="token.expired";expected="`exp` after …";observed="… expired 41 s ago"
//! ```
//!
//! `allow` is a list of networks, by the client's address; or an expression in CEL over `principal`, `connection`, `route` and
//! `now`, as in [`authorize`](crate::authorize). A caller who was refused before anybody knew who it is has no principal: an
//! expression about it is false then, and only networks help.
//!
//! It speaks of the filters behind it, so it comes first. What a filter in shadow mode would have refused for is shown too. An
//! upstream's own header of the name is removed, on every response of the route.

use crate::expression::Expression;
use crate::network_set::NetworkSet;
use portcullis_plugin::units::Network;
use portcullis_plugin::{
    Build, Check, ConfigError, Env, Exchange, Filter, Headers, Method, Needs, RequestHead, ResponseHead, Scheme, Verdict, Version,
};
use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::value::SeqAccessDeserializer;
use serde::de::{self, SeqAccess, Visitor};
use std::borrow::Cow;
use std::fmt;

/// The header. Also the only name under which it is known.
pub const HEADER: &str = "x-decision-checks";

/// Bytes of one text, and of the whole header: it has to fit beside the others, whatever a client had us observe.
const MAX_TEXT: usize = 200;
const MAX_HEADER: usize = 2048;

/// Who may see why.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// A list of networks, or an expression in CEL over `principal`, `connection`, `route` and `now`, of at most 4096 bytes.
    pub allow: Readers,
}

/// Networks in CIDR notation or single addresses, as a list; or an expression, as a text.
#[derive(Debug)]
pub enum Readers {
    Networks(Vec<Network>),
    Expression(String),
}

impl<'de> Deserialize<'de> for Readers {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Readers;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of networks, or an expression")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Readers, E> {
                // Nobody means the expression `10.0.0.0/8`.
                match text.parse::<Network>() {
                    Ok(_) => Err(E::custom(format!("networks are a list: `[{text}]`"))),
                    Err(_) => Ok(Readers::Expression(text.to_owned())),
                }
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Readers, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(list)).map(Readers::Networks)
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl JsonSchema for Readers {
    fn schema_name() -> Cow<'static, str> {
        "Readers".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let networks = generator.subschema_for::<Vec<Network>>();
        schemars::json_schema!({
            "description": "A list of networks, or an expression.",
            "anyOf": [networks, { "type": "string" }]
        })
    }
}

pub struct Debug {
    readers: Compiled,
}

enum Compiled {
    Networks(NetworkSet),
    /// With the request that it does not read.
    Expression(Box<Expression>, Box<RequestHead>),
}

impl Build for Debug {
    const NAME: &'static str = "debug";
    const EXAMPLE: &'static str = "{ allow: [10.0.0.0/8] }";
    type Config = Config;

    fn build(config: Config, _env: &Env) -> Result<Self, ConfigError> {
        let Config { allow } = config;
        let readers = match allow {
            Readers::Networks(networks) if networks.is_empty() => {
                return Err(ConfigError::new("the list is empty, so nobody would see anything")
                    .help("name networks, or leave the filter out")
                    .at("allow"));
            }
            Readers::Networks(networks) => {
                let set = NetworkSet::new(&networks);
                if set.is_everybody() {
                    return Err(ConfigError::new(format!("`{set}` is everybody: any attacker would see which check to work on"))
                        .help("name the networks of those who develop")
                        .at("allow"));
                }
                Compiled::Networks(set)
            }
            Readers::Expression(source) => {
                let expression = Expression::compile(&source).map_err(|error| error.at("allow"))?;
                if expression.reads_request() {
                    return Err(ConfigError::new("`request` is what the client wrote, and does not say who it is")
                        .help("use `principal` and `connection`")
                        .at("allow"));
                }
                if !expression.reads_principal() && !expression.reads_connection() {
                    return Err(ConfigError::new("the expression does not ask who is calling")
                        .help("use `principal` or `connection`, or a list of networks")
                        .at("allow"));
                }
                let none =
                    RequestHead::new(Method::Get, Scheme::Http, Version::Http11, String::new(), "/".to_owned(), Headers::new());
                Compiled::Expression(Box::new(expression), Box::new(none))
            }
        };
        Ok(Self { readers })
    }
}

impl Filter for Debug {
    fn response(&self, response: &mut ResponseHead, exchange: &mut Exchange) -> Verdict {
        response.headers_mut().remove(HEADER);
        if exchange.checks().iter().all(|check| check.ok) || !self.may_see(exchange) {
            return Verdict::Continue;
        }
        // A head that is full goes without.
        let _ = response.headers_mut().set(HEADER, list(exchange.checks()));
        Verdict::Continue
    }

    fn needs(&self) -> Needs {
        let readers = match &self.readers {
            Compiled::Networks(networks) => format!("{networks}"),
            Compiled::Expression(expression, _) => expression.source().to_owned(),
        };
        Needs { summary: Some(format!("debug(shown to {readers})")), comes_first: true, ..Needs::default() }
    }
}

impl Debug {
    fn may_see(&self, exchange: &Exchange) -> bool {
        match &self.readers {
            Compiled::Networks(networks) => networks.contains(exchange.client()),
            Compiled::Expression(expression, request) => {
                // `principal == null` would be everybody.
                (exchange.principal().is_some() || expression.reads_connection()) && expression.holds(request, exchange).is_ok()
            }
        }
    }
}

/// The failed checks as a list of strings with parameters (RFC 9651, section 3.1). What does not fit is left out whole.
fn list(checks: &[Check]) -> String {
    let mut out = String::new();
    for check in checks.iter().filter(|check| !check.ok) {
        let separator = if out.is_empty() { "" } else { ", " };
        let mut item = format!("{separator}{};reason={}", string(&check.name()), string(check.reason.as_str()));
        if check.shadow {
            item.push_str(";shadow");
        }
        for (key, text) in [
            ("expected", Some(&check.finding.expected)),
            ("observed", Some(&check.finding.observed)),
            ("hint", check.finding.hint.as_ref()),
        ] {
            if let Some(text) = text.filter(|text| !text.is_empty()) {
                item.push_str(&format!(";{key}={}", string(text)));
            }
        }
        if out.len() + item.len() > MAX_HEADER {
            break;
        }
        out.push_str(&item);
    }
    out
}

/// A quoted string of printable ASCII (RFC 9651, section 3.3.3). Anything else becomes `?`.
fn string(text: &str) -> String {
    let mut out = String::with_capacity(text.len().min(MAX_TEXT) + 2);
    out.push('"');
    for (at, c) in text.chars().enumerate() {
        if at == MAX_TEXT {
            out.push_str("...");
            break;
        }
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '…' => out.push_str("..."),
            ' '..='~' => out.push(c),
            _ => out.push('?'),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
#[path = "debug_tests.rs"]
mod tests;
