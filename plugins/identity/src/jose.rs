//! A token's three parts (RFC 7515, RFC 7519), read so strictly that no other reader can see something else in it.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use std::fmt;

/// The longest token that is looked at. Real ones rarely exceed 4 KiB; a request head is hardly larger than this.
pub(crate) const MOST_BYTES: usize = 16 << 10;

/// Header members that change how a token must be verified, or bring a key along. Each is refused.
const FORBIDDEN: [&str; 7] = ["crit", "jwk", "jku", "x5u", "x5c", "b64", "zip"];

/// A token, taken apart. Nothing of it is verified.
pub(crate) struct Token<'t> {
    pub header: Header,
    /// What the signature covers.
    pub signed: &'t str,
    pub payload: Vec<u8>,
    pub signature: Vec<u8>,
}

pub(crate) struct Header {
    pub alg: String,
    pub kid: Option<String>,
    pub typ: Option<String>,
    /// The members of [`FORBIDDEN`] that are there.
    pub forbidden: Vec<&'static str>,
    /// Microsoft Graph's tokens carry one, and only Graph can verify them.
    pub has_nonce: bool,
}

/// Whether a token is to be read here, or only by whoever issued it. The header of every JWT is a JSON object, and `{"`
/// begins `eyJ` in base64.
pub(crate) fn is_like_a_jwt(token: &str) -> bool {
    token.starts_with("eyJ") && token.bytes().filter(|byte| *byte == b'.').count() == 2
}

/// What is wrong with the form of a token. Names the part, never shows it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("{0} bytes, more than {MOST_BYTES}")]
    TooLong(usize),
    #[error("{0} parts between dots instead of 3")]
    Parts(usize),
    #[error("a text that begins as API keys of this gateway do (`pc_`)")]
    ApiKey,
    #[error("the {0} is not canonical base64url without padding")]
    Base64(&'static str),
    #[error("the {part} is not strict JSON: {cause}")]
    Json { part: &'static str, cause: String },
    #[error("the {0} is not a JSON object")]
    NotAnObject(&'static str),
    #[error("the header's `{0}` is missing or not a text")]
    HeaderMember(&'static str),
}

impl Malformed {
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Parts(1) => {
                Some("an opaque token: configure `introspection`, or have the issuer give out JWT access tokens for this API")
            }
            Self::ApiKey => Some(
                "an API key is no token: the client sends a token, or the route has an `api_key` filter, which reads its keys elsewhere",
            ),
            Self::Parts(5) => Some("an encrypted token (JWE): have the issuer sign without encrypting"),
            Self::TooLong(_) => Some("a token of this size often lists all groups of a user: have the issuer leave them out"),
            _ => None,
        }
    }
}

/// The three parts of a signed JWT in compact form, decoded.
pub(crate) struct Parts<'t> {
    pub header: Vec<u8>,
    /// What the signature covers.
    pub signed: &'t str,
    pub payload: Vec<u8>,
    pub signature: Vec<u8>,
}

impl<'t> Parts<'t> {
    pub fn split(token: &'t str) -> Result<Self, Malformed> {
        if token.len() > MOST_BYTES {
            return Err(Malformed::TooLong(token.len()));
        }
        let mut parts = token.split('.');
        let (Some(header), Some(payload), Some(signature), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(if token.starts_with("pc_") { Malformed::ApiKey } else { Malformed::Parts(token.split('.').count()) });
        };
        let signed = token.get(..header.len() + 1 + payload.len()).unwrap_or_default();
        let decode = |part, text| base64url(text).map_err(|_| Malformed::Base64(part));
        Ok(Self {
            header: decode("header", header)?,
            signed,
            payload: decode("payload", payload)?,
            signature: decode("signature", signature)?,
        })
    }
}

impl<'t> Token<'t> {
    pub fn parse(token: &'t str) -> Result<Self, Malformed> {
        let Parts { header, signed, payload, signature } = Parts::split(token)?;
        Ok(Self { header: Header::parse(&header)?, signed, payload, signature })
    }

    pub fn claims(&self) -> Result<Map<String, Value>, Malformed> {
        object("payload", &self.payload)
    }
}

impl Header {
    fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut members = object("header", bytes)?;
        let mut text = |name: &'static str| match members.remove(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(Malformed::HeaderMember(name)),
        };
        let alg = text("alg")?.ok_or(Malformed::HeaderMember("alg"))?;
        let (kid, typ) = (text("kid")?, text("typ")?);
        let forbidden = FORBIDDEN.into_iter().filter(|name| members.contains_key(*name)).collect();
        Ok(Self { alg, kid, typ, forbidden, has_nonce: members.contains_key("nonce") })
    }
}

/// Canonical: no padding, no characters of other alphabets, no stray bits at the end. Otherwise one token would have
/// many spellings, and a list of revoked ones none.
pub(crate) fn base64url(text: &str) -> Result<Vec<u8>, base64::DecodeError> {
    URL_SAFE_NO_PAD.decode(text)
}

pub(crate) fn object(part: &'static str, bytes: &[u8]) -> Result<Map<String, Value>, Malformed> {
    match serde_json::from_slice(bytes) {
        Ok(StrictJson(Value::Object(members))) => Ok(members),
        Ok(_) => Err(Malformed::NotAnObject(part)),
        Err(error) => Err(Malformed::Json { part, cause: safe(&error.to_string()) }),
    }
}

/// Text from outside as it may stand in a finding or a log: short, and without control characters.
pub(crate) fn safe(text: &str) -> String {
    const MOST: usize = 120;
    let mut out: String =
        text.chars().take(MOST).map(|c| if c.is_control() || is_bidi_control(c) { '\u{fffd}' } else { c }).collect();
    if text.chars().nth(MOST).is_some() {
        out.push('…');
    }
    out
}

/// They make a log line read differently from what it says.
fn is_bidi_control(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Any JSON in which no object has two members of one name: readers differ in which of them counts.
pub(crate) struct StrictJson(pub Value);

impl<'de> Deserialize<'de> for StrictJson {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(StrictJson)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(StrictJson(item)) = seq.next_element()? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut members = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            let StrictJson(value) = map.next_value()?;
            if members.contains_key(&name) {
                return Err(de::Error::custom(format_args!("two members are named `{}`", safe(&name))));
            }
            members.insert(name, value);
        }
        Ok(Value::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strict(text: &str) -> Result<Value, String> {
        serde_json::from_str::<StrictJson>(text).map(|json| json.0).map_err(|error| error.to_string())
    }

    #[test]
    fn a_member_named_twice_is_refused_at_every_depth() {
        assert!(strict(r#"{"a":1,"b":{"c":[{"d":1}]}}"#).is_ok());
        for text in
            [r#"{"a":1,"a":1}"#, r#"{"a":{"b":1,"b":2}}"#, r#"{"a":[{"b":1,"\u0062":2}]}"#, r#"{"alg":"RS256","alg":"none"}"#]
        {
            assert!(strict(text).unwrap_err().contains("two members"), "{text}");
        }
        for text in ["{} {}", "{\"a\":1e999}", "[1,]", "{\"a\":NaN}", &"[".repeat(100_000)] {
            assert!(strict(text).is_err());
        }
    }

    #[test]
    fn one_token_has_one_spelling() {
        assert!(base64url("Zm9v").is_ok());
        for text in ["Zm9vYg==", "Zm9vYh", "Zm9v\n", "Zm+v", "Zm/v", "Zm9 v", "Z"] {
            assert!(base64url(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_came_from_outside_is_short_and_harmless() {
        assert_eq!(safe("a\r\nb\u{202e}c"), "a\u{fffd}\u{fffd}b\u{fffd}c");
        assert_eq!(safe(&"x".repeat(500)).chars().count(), 121);
    }
}
