//! Small helpers for values that a configuration writes as text.

use portcullis_plugin::{Attribute, Exchange};
use serde::de::{Deserialize, Deserializer};

/// Why a caller's groups are not in its token, and what to do.
pub(crate) const GROUPS_UNKNOWN: &str = "Entra left the groups out of the token, as there are too many: have it send application roles, or only groups assigned to the application";

/// Reads a key that was given, so that `None` only ever means "the key is absent". `key:` with nothing after it is
/// then an empty list or an error, and never "no rule".
pub(crate) fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// A value that a configuration writes wrongly: what is wrong, and how to write it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextError(String);

impl TextError {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

impl std::fmt::Display for TextError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for TextError {}

/// Makes a type with `FromStr` readable from a configuration, so that a bad value is refused where it is written.
macro_rules! textual {
    ($type:ident, $description:literal) => {
        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }

        impl schemars::JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "description": $description })
            }
        }
    };
}
pub(crate) use textual;

/// What to do about a fact that a caller does not have.
pub(crate) fn missing_fact(fact: &Attribute, exchange: &Exchange) -> String {
    match (fact, exchange.principal()) {
        (Attribute::Certificate(_), _) if exchange.certificate().verified().is_some() => {
            "the client's certificate is verified and has none: have its CA put it in, or name another fact".to_owned()
        }
        (Attribute::Certificate(_), _) => {
            "no client certificate is verified: put `client_cert` before this filter, or name another fact".to_owned()
        }
        (_, Some(caller)) => format!(
            "the caller is known, by {}, and what was sent does not say this: have the issuer put it in, or name another fact",
            caller.method
        ),
        (_, None) => "nobody is known: put a filter that authenticates before this one".to_owned(),
    }
}

/// The first few of many, for a message that somebody reads.
pub(crate) fn first_few<T: ToString>(items: impl IntoIterator<Item = T>, total: usize) -> String {
    few(items, total, ", ")
}

pub(crate) fn few<T: ToString>(items: impl IntoIterator<Item = T>, total: usize, between: &str) -> String {
    const SHOWN: usize = 4;
    let shown: Vec<String> = items.into_iter().take(SHOWN).map(|item| item.to_string()).collect();
    match total.saturating_sub(shown.len()) {
        _ if shown.is_empty() => "none".to_owned(),
        0 => shown.join(between),
        more => format!("{} and {more} more", shown.join(between)),
    }
}
