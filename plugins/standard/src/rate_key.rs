//! What a rate limit counts requests by.

use crate::slots::{Key, Keyed};
use crate::text::{TextError, textual};
use portcullis_plugin::attribute::AttributeValue;
use portcullis_plugin::{Attribute, ConfigError, Exchange, RequestHead};
use std::cell::Cell;
use std::fmt;
use std::hash::Hasher;
use std::net::IpAddr;
use std::str::FromStr;

/// What requests are counted by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    Client,
    Route,
    Identity(Attribute),
    Header(String),
}

impl FromStr for KeySource {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        let refuse = || {
            TextError::new(format!(
                "`{text}` is nothing to count by; use client, route, principal.sub (or another fact), cert.sha256 or header.NAME"
            ))
        };
        if let Some(name) = text.strip_prefix("header.") {
            return if portcullis_plugin::headers::is_name(name.as_bytes()) {
                Ok(Self::Header(name.to_ascii_lowercase()))
            } else {
                Err(refuse())
            };
        }
        match text {
            "client" => Ok(Self::Client),
            "route" => Ok(Self::Route),
            _ => {
                let attribute = match text.strip_prefix("principal.") {
                    Some(name) => name.parse().ok().filter(|attribute| !matches!(attribute, Attribute::Certificate(_))),
                    None => text.parse().ok().filter(|attribute| matches!(attribute, Attribute::Certificate(_))),
                };
                attribute.filter(Attribute::is_identity).map(Self::Identity).ok_or_else(refuse)
            }
        }
    }
}

impl fmt::Display for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client => f.write_str("client"),
            Self::Route => f.write_str("route"),
            Self::Identity(attribute @ Attribute::Certificate(_)) => attribute.fmt(f),
            Self::Identity(attribute) => write!(f, "principal.{attribute}"),
            Self::Header(name) => write!(f, "header.{name}"),
        }
    }
}

textual!(KeySource, "What is counted: client, route, principal.NAME, cert.NAME or header.NAME.");

impl KeySource {
    /// The caller's own word, which nobody has verified.
    fn is_header(&self) -> bool {
        matches!(self, Self::Header(_))
    }

    /// Whether some requests may have no value for it.
    fn may_be_missing(&self) -> bool {
        matches!(self, Self::Identity(_) | Self::Header(_))
    }
}

/// What is counted by, together. At least one.
pub(crate) struct Keys {
    sources: Vec<KeySource>,
    ipv6_mask: u128,
}

impl fmt::Display for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, source) in self.sources.iter().enumerate() {
            write!(f, "{}{source}", if at > 0 { "+" } else { "" })?;
        }
        Ok(())
    }
}

impl Keys {
    pub(crate) fn compile(sources: Vec<KeySource>) -> Result<Self, ConfigError> {
        if sources.is_empty() {
            return Err(ConfigError::new("the list is empty").help("name what is counted, such as `client`"));
        }
        let twin = |(at, source)| sources.iter().take(at).any(|earlier| earlier == source);
        if let Some((at, _)) = sources.iter().enumerate().find(|found| twin(*found)) {
            return Err(ConfigError::new("the same is named twice").at(at));
        }
        if sources.len() > 1
            && let Some(at) = sources.iter().position(|source| *source == KeySource::Route)
        {
            return Err(ConfigError::new("`route` adds nothing to other keys: each filter counts for its route alone").at(at));
        }
        Ok(Self { sources, ipv6_mask: u128::MAX })
    }

    /// IPv6 addresses count by their first bits, 1 to 128.
    pub(crate) fn with_ipv6_prefix(self, bits: u8) -> Self {
        Self { ipv6_mask: u128::MAX << (128 - u32::from(bits.clamp(1, 128))), ..self }
    }

    pub(crate) fn sources(&self) -> &[KeySource] {
        &self.sources
    }

    pub(crate) fn has_address(&self) -> bool {
        self.sources.iter().any(|source| matches!(source, KeySource::Client | KeySource::Header(_)))
    }

    pub(crate) fn has_header(&self) -> bool {
        self.sources.iter().any(KeySource::is_header)
    }

    pub(crate) fn reads_identity(&self) -> bool {
        self.sources.iter().any(|source| matches!(source, KeySource::Identity(_)))
    }

    /// Whether one of the values is of the principal, and of nothing else.
    pub(crate) fn reads_principal(&self) -> bool {
        let apart =
            |attribute: &Attribute| matches!(attribute, Attribute::Certificate(_) | Attribute::ClientIp | Attribute::DecisionId);
        self.sources.iter().any(|source| matches!(source, KeySource::Identity(attribute) if !apart(attribute)))
    }

    pub(crate) fn may_be_missing(&self) -> bool {
        self.sources.iter().any(KeySource::may_be_missing)
    }

    /// `Err`: what has no value. A header that is not there counts for the client's address, apart from those that have it,
    /// unless `headers_needed`.
    pub(crate) fn of(
        &self,
        keyed: &Keyed,
        headers_needed: bool,
        request: &RequestHead,
        exchange: &Exchange,
    ) -> Result<Key, &KeySource> {
        let missing = Cell::new(None);
        let key = keyed.key(|hasher| {
            for source in &self.sources {
                let value = match source {
                    KeySource::Header(name) if headers_needed && !request.headers().contains(name) => None,
                    _ => self.feed(source, request, exchange, hasher),
                };
                if value.is_none() {
                    missing.set(Some(source));
                }
            }
        });
        missing.get().map_or(Ok(key), Err)
    }

    /// For a request that lacks a value, the key of its client address, apart from every other.
    pub(crate) fn of_client(&self, keyed: &Keyed, exchange: &Exchange) -> Key {
        keyed.key(|hasher| {
            // No text is as long, so nothing else begins so.
            hasher.write_usize(usize::MAX);
            self.feed_address(exchange.client(), hasher);
        })
    }

    fn feed(&self, source: &KeySource, request: &RequestHead, exchange: &Exchange, hasher: &mut dyn Hasher) -> Option<()> {
        match source {
            // The buckets belong to one place of the configuration, so this is all that the route's key has to say.
            KeySource::Route => {}
            KeySource::Client => self.feed_address(exchange.client(), hasher),
            KeySource::Header(name) if request.headers().contains(name) => {
                // All of them: the upstream may look at another than we do.
                hasher.write_usize(request.headers().get_all(name).count());
                request.headers().get_all(name).for_each(|value| feed_bytes(value, hasher));
            }
            KeySource::Header(_) => {
                hasher.write_usize(0);
                self.feed_address(exchange.client(), hasher);
            }
            KeySource::Identity(attribute) => {
                let value = attribute.read(exchange)?;
                // A subject is unique for its issuer only; the same goes for whatever else an issuer says.
                let issuer = match attribute {
                    Attribute::Certificate(_) => exchange.certificate().verified().map(|facts| facts.issuer.as_str()),
                    _ => exchange.principal().and_then(|principal| principal.issuer.as_deref()),
                };
                feed_bytes(issuer.unwrap_or_default().as_bytes(), hasher);
                match &value {
                    AttributeValue::One(text) => feed_bytes(text.as_bytes(), hasher),
                    AttributeValue::Many(items) => {
                        hasher.write_usize(items.len());
                        items.iter().for_each(|item| feed_bytes(item.as_bytes(), hasher));
                    }
                }
            }
        }
        Some(())
    }

    fn feed_address(&self, client: IpAddr, hasher: &mut dyn Hasher) {
        match self.network(client) {
            IpAddr::V4(v4) => hasher.write_u32(v4.to_bits()),
            IpAddr::V6(v6) => hasher.write_u128(v6.to_bits()),
        }
    }

    /// What of an address counts.
    pub(crate) fn network(&self, client: IpAddr) -> IpAddr {
        match client {
            IpAddr::V4(_) => client,
            IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() & self.ipv6_mask).into()),
        }
    }
}

/// With its length, so that `ab` and `c` are not `a` and `bc`.
fn feed_bytes(bytes: &[u8], hasher: &mut dyn Hasher) {
    hasher.write_usize(bytes.len());
    hasher.write(bytes);
}
