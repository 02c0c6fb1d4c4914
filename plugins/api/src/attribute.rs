//! How a configuration names a fact about the caller: `sub`, `roles`, `cert.subject`, `claims.tenant.id`.

use crate::exchange::Exchange;
use crate::principal::Principal;
use serde_json::Value;
use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

/// A fact about a verified caller, resolved when the configuration is loaded.
///
/// | name | value |
/// |---|---|
/// | `sub`, `iss`, `client_id` | of the principal |
/// | `scope` | the scopes, separated by spaces |
/// | `roles`, `groups` | each role or group |
/// | `method` | how the caller was verified |
/// | `cert.subject`, `cert.issuer`, `cert.serial`, `cert.sha256`, `cert.san_dns`, `cert.san_uri`, `cert.san_email`, `cert.spiffe_id` | of the verified client certificate |
/// | `client.ip` | the real client's address |
/// | `decision.id` | this request's decision id |
/// | `claims.a.b` | the member `b` of the claim `a` |
/// | any other word | the claim of that name |
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attribute {
    Subject,
    Issuer,
    ClientId,
    Scope,
    Roles,
    Groups,
    Method,
    Claim(Vec<String>),
    Certificate(CertificateAttribute),
    ClientIp,
    DecisionId,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificateAttribute {
    Subject,
    Issuer,
    Serial,
    Sha256,
    SanDns,
    SanUri,
    SanEmail,
    SpiffeId,
}

/// Takes the value of an attribute piece by piece, so that nothing is made only to be copied.
pub trait ValueWriter: fmt::Write {
    /// Stands between two items of a list.
    fn next_item(&mut self);
}

/// What an attribute is for one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttributeValue<'a> {
    One(Cow<'a, str>),
    Many(Vec<Cow<'a, str>>),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` names no fact about a caller; use a claim's name, `claims.a.b`, or one of cert.{{subject,issuer,serial,sha256,san_dns,san_uri,san_email,spiffe_id}}, client.ip, decision.id"
)]
pub struct UnknownAttribute(String);

impl FromStr for Attribute {
    type Err = UnknownAttribute;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let unknown = || UnknownAttribute(name.to_owned());
        if let Some(field) = name.strip_prefix("cert.") {
            return Ok(Self::Certificate(match field {
                "subject" => CertificateAttribute::Subject,
                "issuer" => CertificateAttribute::Issuer,
                "serial" => CertificateAttribute::Serial,
                "sha256" => CertificateAttribute::Sha256,
                "san_dns" => CertificateAttribute::SanDns,
                "san_uri" => CertificateAttribute::SanUri,
                "san_email" => CertificateAttribute::SanEmail,
                "spiffe_id" => CertificateAttribute::SpiffeId,
                _ => return Err(unknown()),
            }));
        }
        if let Some(path) = name.strip_prefix("claims.") {
            let path: Vec<String> = path.split('.').map(str::to_owned).collect();
            return if path.iter().any(String::is_empty) { Err(unknown()) } else { Ok(Self::Claim(path)) };
        }
        match name {
            "sub" => Ok(Self::Subject),
            "iss" => Ok(Self::Issuer),
            "client_id" => Ok(Self::ClientId),
            "scope" => Ok(Self::Scope),
            "roles" => Ok(Self::Roles),
            "groups" => Ok(Self::Groups),
            "method" => Ok(Self::Method),
            "client.ip" => Ok(Self::ClientIp),
            "decision.id" => Ok(Self::DecisionId),
            _ if name.is_empty() || name.contains(['.', ' ']) => Err(unknown()),
            claim => Ok(Self::Claim(vec![claim.to_owned()])),
        }
    }
}

impl Attribute {
    /// Whether its value comes from a verified identity.
    pub fn is_identity(&self) -> bool {
        !matches!(self, Self::ClientIp | Self::DecisionId)
    }

    /// Whether its value may be a list: that of a claim is known only when it comes.
    pub fn may_be_list(&self) -> bool {
        use CertificateAttribute::{SanDns, SanEmail, SanUri};
        matches!(self, Self::Roles | Self::Groups | Self::Claim(_) | Self::Certificate(SanDns | SanUri | SanEmail))
    }

    /// Writes what [`read`](Self::read) gives, and allocates nothing. `false` if there is no such fact: what was written by
    /// then means nothing.
    pub fn write(&self, exchange: &Exchange, out: &mut dyn ValueWriter) -> bool {
        self.try_write(exchange, out).is_some()
    }

    fn try_write(&self, exchange: &Exchange, out: &mut dyn ValueWriter) -> Option<()> {
        match self {
            Self::ClientIp => return write!(out, "{}", exchange.client()).ok(),
            Self::DecisionId => return out.write_str(exchange.decision_id().as_str()).ok(),
            Self::Certificate(attribute) => {
                let facts = exchange.certificate().verified()?;
                let mut list = |items: &[String]| write_items(out, items.iter().map(String::as_str));
                return match attribute {
                    CertificateAttribute::Subject => out.write_str(&facts.subject).ok(),
                    CertificateAttribute::Issuer => out.write_str(&facts.issuer).ok(),
                    CertificateAttribute::Serial => out.write_str(&facts.serial).ok(),
                    CertificateAttribute::Sha256 => out.write_str(&facts.sha256).ok(),
                    CertificateAttribute::SanDns => list(&facts.san_dns),
                    CertificateAttribute::SanUri => list(&facts.san_uri),
                    CertificateAttribute::SanEmail => list(&facts.san_email),
                    CertificateAttribute::SpiffeId => out.write_str(facts.spiffe_id.as_deref()?).ok(),
                };
            }
            _ => {}
        }
        let principal = exchange.principal()?;
        match self {
            Self::Subject => out.write_str(&principal.subject).ok(),
            Self::Issuer => out.write_str(principal.issuer.as_deref()?).ok(),
            Self::ClientId => out.write_str(principal.client_id.as_deref()?).ok(),
            Self::Scope => {
                for (at, scope) in principal.scopes.iter().enumerate() {
                    out.write_str(if at > 0 { " " } else { "" }).ok()?;
                    out.write_str(scope).ok()?;
                }
                (!principal.scopes.is_empty()).then_some(())
            }
            Self::Roles => write_items(out, principal.roles.iter().map(|role| &**role)),
            Self::Groups => write_items(out, principal.groups.iter().map(|group| &**group)),
            Self::Method => out.write_str(principal.method).ok(),
            Self::Claim(path) => write_claim(out, claim(principal, path)?),
            Self::Certificate(_) | Self::ClientIp | Self::DecisionId => None,
        }
    }

    /// The value for this request. `None` if there is no such fact; never an empty list.
    pub fn read<'a>(&self, exchange: &'a Exchange) -> Option<AttributeValue<'a>> {
        let one = |text: &'a str| Some(AttributeValue::One(Cow::Borrowed(text)));
        let many = |items: Vec<Cow<'a, str>>| (!items.is_empty()).then_some(AttributeValue::Many(items));
        match self {
            Self::ClientIp => return Some(AttributeValue::One(exchange.client().to_string().into())),
            Self::DecisionId => return Some(AttributeValue::One(exchange.decision_id().to_string().into())),
            Self::Certificate(attribute) => {
                let facts = exchange.certificate().verified()?;
                let list = |items: &'a [String]| many(items.iter().map(|item| item.as_str().into()).collect());
                return match attribute {
                    CertificateAttribute::Subject => one(&facts.subject),
                    CertificateAttribute::Issuer => one(&facts.issuer),
                    CertificateAttribute::Serial => one(&facts.serial),
                    CertificateAttribute::Sha256 => one(&facts.sha256),
                    CertificateAttribute::SanDns => list(&facts.san_dns),
                    CertificateAttribute::SanUri => list(&facts.san_uri),
                    CertificateAttribute::SanEmail => list(&facts.san_email),
                    CertificateAttribute::SpiffeId => facts.spiffe_id.as_deref().and_then(one),
                };
            }
            _ => {}
        }
        let principal = exchange.principal()?;
        match self {
            Self::Subject => one(&principal.subject),
            Self::Issuer => principal.issuer.as_deref().and_then(one),
            Self::ClientId => principal.client_id.as_deref().and_then(one),
            Self::Scope if principal.scopes.is_empty() => None,
            Self::Scope => Some(AttributeValue::One(principal.scopes.join(" ").into())),
            Self::Roles => many(principal.roles.iter().map(|role| Cow::Borrowed(&**role)).collect()),
            Self::Groups => many(principal.groups.iter().map(|group| Cow::Borrowed(&**group)).collect()),
            Self::Method => one(principal.method),
            Self::Claim(path) => claim_value(claim(principal, path)?),
            Self::Certificate(_) | Self::ClientIp | Self::DecisionId => None,
        }
    }
}

fn claim<'a>(principal: &'a Principal, path: &[String]) -> Option<&'a Value> {
    let (first, rest) = path.split_first()?;
    rest.iter().try_fold(principal.claims.get(first)?, |value, key| value.get(key))
}

fn write_items<'a>(out: &mut dyn ValueWriter, items: impl Iterator<Item = &'a str>) -> Option<()> {
    let mut any = None;
    for item in items {
        if any.replace(()).is_some() {
            out.next_item();
        }
        out.write_str(item).ok()?;
    }
    any
}

/// As [`claim_value`].
fn write_claim(out: &mut dyn ValueWriter, value: &Value) -> Option<()> {
    fn scalar(out: &mut dyn ValueWriter, value: &Value) -> Option<()> {
        match value {
            Value::String(text) => out.write_str(text).ok(),
            Value::Number(number) => write!(out, "{number}").ok(),
            Value::Bool(flag) => out.write_str(if *flag { "true" } else { "false" }).ok(),
            _ => None,
        }
    }
    let Value::Array(items) = value else { return scalar(out, value) };
    for (at, item) in items.iter().enumerate() {
        if at > 0 {
            out.next_item();
        }
        scalar(out, item)?;
    }
    (!items.is_empty()).then_some(())
}

/// Text, numbers and booleans as they are; lists of them; nothing else has a form every reader would agree on.
fn claim_value(value: &Value) -> Option<AttributeValue<'_>> {
    fn scalar(value: &Value) -> Option<Cow<'_, str>> {
        match value {
            Value::String(text) => Some(Cow::Borrowed(text)),
            Value::Number(number) => Some(number.to_string().into()),
            Value::Bool(flag) => Some(Cow::Borrowed(if *flag { "true" } else { "false" })),
            _ => None,
        }
    }
    match value {
        Value::Array(items) if items.is_empty() => None,
        Value::Array(items) => items.iter().map(scalar).collect::<Option<Vec<_>>>().map(AttributeValue::Many),
        other => scalar(other).map(AttributeValue::One),
    }
}

impl fmt::Display for Attribute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Subject => "sub",
            Self::Issuer => "iss",
            Self::ClientId => "client_id",
            Self::Scope => "scope",
            Self::Roles => "roles",
            Self::Groups => "groups",
            Self::Method => "method",
            Self::ClientIp => "client.ip",
            Self::DecisionId => "decision.id",
            Self::Claim(path) => return write!(f, "claims.{}", path.join(".")),
            Self::Certificate(attribute) => match attribute {
                CertificateAttribute::Subject => "cert.subject",
                CertificateAttribute::Issuer => "cert.issuer",
                CertificateAttribute::Serial => "cert.serial",
                CertificateAttribute::Sha256 => "cert.sha256",
                CertificateAttribute::SanDns => "cert.san_dns",
                CertificateAttribute::SanUri => "cert.san_uri",
                CertificateAttribute::SanEmail => "cert.san_email",
                CertificateAttribute::SpiffeId => "cert.spiffe_id",
            },
        })
    }
}

impl<'de> serde::Deserialize<'de> for Attribute {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        name.parse().map_err(serde::de::Error::custom)
    }
}

impl schemars::JsonSchema for Attribute {
    fn schema_name() -> Cow<'static, str> {
        "Attribute".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "description": "A fact about the verified caller: a claim's name, `claims.a.b`, `cert.subject` and the like."
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CertificateFacts, CertificateStatus, Connection};
    use serde_json::json;
    use std::sync::Arc;
    use std::time::SystemTime;

    struct Pieces(Vec<String>);

    impl fmt::Write for Pieces {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            if self.0.is_empty() {
                self.0.push(String::new());
            }
            self.0.last_mut().unwrap().push_str(text);
            Ok(())
        }
    }

    impl ValueWriter for Pieces {
        fn next_item(&mut self) {
            self.0.push(String::new());
        }
    }

    fn exchange(known: bool) -> Exchange {
        let address = ([192, 0, 2, 7], 1).into();
        let connection = Connection { listener: "a".into(), peer: address, source: address, local: address, tls: None };
        let facts = CertificateFacts {
            subject: "CN=a".into(),
            issuer: "CN=b".into(),
            serial: "0A".into(),
            sha256: "ab".repeat(32),
            san_dns: vec!["a.example".into(), "b.example".into()],
            san_uri: vec!["spiffe://a".into()],
            san_email: Vec::new(),
            san_ip: Vec::new(),
            spiffe_id: Some("spiffe://a".into()),
            not_before: SystemTime::UNIX_EPOCH,
            not_after: SystemTime::UNIX_EPOCH,
            der: Arc::new([]),
            chain: Vec::new(),
        };
        let certificate = if known { CertificateStatus::Verified(Arc::new(facts)) } else { CertificateStatus::Missing };
        let mut exchange = Exchange::new(Arc::new(connection), address.ip(), certificate, SystemTime::UNIX_EPOCH);
        if known {
            let mut principal = Principal::new("bearer", "alice");
            principal.issuer = Some("https://idp.example".into());
            principal.scopes = vec!["a".into(), "b".into()];
            principal.roles = vec!["admin".into(), "user".into()];
            let claims = json!({ "n": 7, "yes": true, "list": ["a", 1, false], "none": [], "mixed": ["a", {}], "o": { "t": "x" }, "null": null });
            principal.claims = Arc::new(claims.as_object().unwrap().clone());
            exchange.set_principal(Arc::new(principal));
        }
        exchange
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        let names = "sub iss client_id scope roles groups method n yes list none mixed o o.t claims.o.t claims.n.x null cert.subject \
                     cert.issuer cert.serial cert.sha256 cert.san_dns cert.san_uri cert.san_email cert.spiffe_id client.ip decision.id";
        for exchange in [exchange(true), exchange(false)] {
            for attribute in names.split_whitespace().filter_map(|name| name.parse::<Attribute>().ok()) {
                let mut written = Pieces(Vec::new());
                let there = attribute.write(&exchange, &mut written);
                match attribute.read(&exchange) {
                    None => assert!(!there, "{attribute}"),
                    Some(AttributeValue::One(one)) => assert!(there && written.0 == [one], "{attribute}: {:?}", written.0),
                    Some(AttributeValue::Many(many)) => {
                        assert!(there && written.0 == many && attribute.may_be_list(), "{attribute}: {:?}", written.0);
                    }
                }
            }
        }
    }

    #[test]
    fn names_round_trip() {
        for name in ["sub", "roles", "cert.sha256", "client.ip", "claims.tenant.id"] {
            assert_eq!(name.parse::<Attribute>().unwrap().to_string(), name);
        }
        assert_eq!("tenant".parse::<Attribute>().unwrap(), Attribute::Claim(vec!["tenant".into()]));
        for name in ["", "cert.subjekt", "claims.", "a.b", "claims.a..b"] {
            assert!(name.parse::<Attribute>().is_err(), "{name}");
        }
    }
}
