//! What an expression sees of a request: `request`, `principal`, `connection`, `route`, `now`.
//!
//! Only what the expression reads is made. What cannot be told without doubt, and what is too much, is an error and so a
//! denial: an expression that says who may *not* pass must not be satisfied by leaving something out.

use crate::expression_reads::{HIDDEN_HEADERS, Reads};
use cel::Value;
use cel::objects::Key;
use percent_encoding::percent_decode_str;
use portcullis_plugin::{CertificateFacts, Connection, Exchange, Principal, RequestHead};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

/// Items of all lists and maps that one request may bring into an expression: it bounds what a loop costs.
pub(crate) const MAX_ITEMS: usize = 1024;

/// Why there is no value to judge by. Fixed texts and names of the configuration: never what a client sent.
pub(crate) type Unclear = String;

/// The variables that the expression reads.
pub(crate) fn variables(
    reads: &Reads,
    request: &RequestHead,
    exchange: &Exchange,
) -> Result<Vec<(&'static str, Value)>, Unclear> {
    let mut facts = Facts { reads, left: MAX_ITEMS };
    let mut variables = Vec::with_capacity(5);
    if reads.has("request") {
        variables.push(("request", facts.request(request)?));
    }
    if reads.has("principal") {
        let value = exchange.principal().map_or(Ok(Value::Null), |principal| facts.principal(principal))?;
        variables.push(("principal", value));
    }
    if reads.has("connection") {
        variables.push(("connection", facts.connection(exchange)?));
    }
    if reads.has("route") {
        variables.push(("route", exchange.route().map_or(Value::Null, |route| text(route))));
    }
    if reads.has("now") {
        let now = exchange.now().duration_since(SystemTime::UNIX_EPOCH).map_err(|_| "a clock before 1970".to_owned())?;
        variables.push(("now", Value::Int(i64::try_from(now.as_secs()).unwrap_or(i64::MAX))));
    }
    Ok(variables)
}

type Entries = HashMap<Key, Value>;

struct Facts<'r> {
    reads: &'r Reads,
    left: usize,
}

impl Facts<'_> {
    fn request(&mut self, request: &RequestHead) -> Result<Value, Unclear> {
        let mut record = self.record("request");
        record.put("method", || text(request.method().as_str()));
        record.put("scheme", || text(request.scheme().as_str()));
        record.put("host", || text(request.host()));
        record.put("path", || text(request.path()));
        let mut entries = record.entries;
        if self.reads.member("request", "query") {
            entries.insert("query".into(), self.query(request.query().unwrap_or_default())?);
        }
        if self.reads.member("request", "headers") {
            entries.insert("headers".into(), self.headers(request)?);
        }
        Ok(entries.into())
    }

    /// A parameter that comes twice has no one value: the upstream may take the first where we took the last.
    fn query(&mut self, query: &str) -> Result<Value, Unclear> {
        let names = &self.reads.query;
        let mut entries = Entries::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = form_decoded(name);
            if !names.has(&name) {
                continue;
            }
            self.take(1)?;
            if entries.insert(name.clone().into(), form_decoded(value).into()).is_some() {
                return Err(match names.all() {
                    true => "a query parameter came more than once".to_owned(),
                    false => format!("the query parameter `{name}` came more than once"),
                });
            }
        }
        Ok(entries.into())
    }

    /// Fields of one name are one list (RFC 9110, section 5.3), so two of them are never equal to one.
    fn headers(&mut self, request: &RequestHead) -> Result<Value, Unclear> {
        let names = &self.reads.headers;
        let mut joined: HashMap<String, String> = HashMap::new();
        for (name, value) in request.headers().iter() {
            let name = name.to_ascii_lowercase();
            if !names.has(&name) || HIDDEN_HEADERS.contains(&name.as_str()) {
                continue;
            }
            self.take(1)?;
            let value = String::from_utf8_lossy(value);
            match joined.get_mut(&name) {
                Some(before) => {
                    before.push_str(", ");
                    before.push_str(&value);
                }
                None => drop(joined.insert(name, value.into_owned())),
            }
        }
        Ok(joined.into())
    }

    fn principal(&mut self, principal: &Principal) -> Result<Value, Unclear> {
        let mut record = self.record("principal");
        record.put("method", || text(principal.method));
        record.put("sub", || text(&principal.subject));
        record.put("issuer", || optional(principal.issuer.as_deref()));
        record.put("client_id", || optional(principal.client_id.as_deref()));
        let mut entries = record.entries;
        if self.reads.member("principal", "groups") && portcullis_identity::groups_unknown(principal) {
            return Err(format!("the groups are not known: {}", crate::text::GROUPS_UNKNOWN));
        }
        for (member, items) in [("scopes", &principal.scopes), ("roles", &principal.roles), ("groups", &principal.groups)] {
            if self.reads.member("principal", member) {
                entries.insert(member.into(), self.texts(items)?);
            }
        }
        if self.reads.member("principal", "claims") {
            let names = &self.reads.claims;
            let mut claims = Entries::new();
            for (name, value) in principal.claims.iter().filter(|(name, _)| names.has(name)) {
                self.take(1)?;
                claims.insert(name.as_str().into(), self.json(value)?);
            }
            entries.insert("claims".into(), claims.into());
        }
        Ok(entries.into())
    }

    fn connection(&mut self, exchange: &Exchange) -> Result<Value, Unclear> {
        let connection: &Connection = exchange.connection();
        let mut record = self.record("connection");
        record.put("client_ip", || exchange.client().to_string().into());
        record.put("listener", || text(&connection.listener));
        let mut entries = record.entries;
        if self.reads.member("connection", "tls") {
            let tls = connection.tls.as_ref().map_or(Value::Null, |tls| {
                let mut record = self.record("connection.tls");
                record.put("version", || text(tls.version));
                record.put("cipher", || text(tls.cipher));
                record.put("sni", || optional(tls.sni.as_deref()));
                record.entries.into()
            });
            entries.insert("tls".into(), tls);
        }
        if self.reads.member("connection", "cert") {
            let cert = exchange.certificate().verified().map_or(Ok(Value::Null), |facts| self.certificate(facts))?;
            entries.insert("cert".into(), cert);
        }
        Ok(entries.into())
    }

    fn certificate(&mut self, facts: &CertificateFacts) -> Result<Value, Unclear> {
        let mut record = self.record("connection.cert");
        record.put("subject", || text(&facts.subject));
        record.put("issuer", || text(&facts.issuer));
        record.put("serial", || text(&facts.serial));
        record.put("sha256", || text(&facts.sha256));
        record.put("spiffe_id", || optional(facts.spiffe_id.as_deref()));
        let mut entries = record.entries;
        for (member, items) in [("san_dns", &facts.san_dns), ("san_uri", &facts.san_uri), ("san_email", &facts.san_email)] {
            if self.reads.member("connection.cert", member) {
                entries.insert(member.into(), self.texts(items)?);
            }
        }
        Ok(entries.into())
    }

    fn texts<T: AsRef<str>>(&mut self, items: &[T]) -> Result<Value, Unclear> {
        self.take(items.len())?;
        Ok(Value::List(Arc::new(items.iter().map(|item| text(item.as_ref())).collect())))
    }

    /// The depth is that of the JSON parser, which has a limit of its own.
    fn json(&mut self, value: &serde_json::Value) -> Result<Value, Unclear> {
        use serde_json::Value as Json;
        Ok(match value {
            Json::Null => Value::Null,
            Json::Bool(flag) => Value::Bool(*flag),
            Json::String(string) => text(string),
            Json::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
                (Some(number), ..) => Value::Int(number),
                (_, Some(number), _) => Value::UInt(number),
                (_, _, Some(number)) => Value::Float(number),
                _ => return Err("a claim with a number that has no value".to_owned()),
            },
            Json::Array(items) => {
                self.take(items.len())?;
                Value::List(Arc::new(items.iter().map(|item| self.json(item)).collect::<Result<_, _>>()?))
            }
            Json::Object(members) => {
                self.take(members.len())?;
                let members: Result<Entries, Unclear> =
                    members.iter().map(|(name, value)| Ok((name.as_str().into(), self.json(value)?))).collect();
                members?.into()
            }
        })
    }

    fn take(&mut self, items: usize) -> Result<(), Unclear> {
        self.left = self.left.checked_sub(items).ok_or_else(|| format!("more than {MAX_ITEMS} items to look at"))?;
        Ok(())
    }

    fn record(&self, name: &'static str) -> RecordOf<'_> {
        RecordOf { reads: self.reads, name, entries: Entries::new() }
    }
}

struct RecordOf<'r> {
    reads: &'r Reads,
    name: &'static str,
    entries: Entries,
}

impl RecordOf<'_> {
    fn put(&mut self, member: &'static str, value: impl FnOnce() -> Value) {
        if self.reads.member(self.name, member) {
            self.entries.insert(member.into(), value());
        }
    }
}

fn text(text: &str) -> Value {
    text.into()
}

fn optional(value: Option<&str>) -> Value {
    value.map_or(Value::Null, text)
}

/// How often a parameter of this name came.
pub(crate) fn parameters(request: &RequestHead, name: &str) -> usize {
    let names = request.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
    names.filter(|pair| form_decoded(pair.split('=').next().unwrap_or_default()) == name).count()
}

/// As forms are encoded: `+` is a space. Bytes that are no UTF-8 stay visible as replacement characters.
fn form_decoded(text: &str) -> String {
    percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned()
}
