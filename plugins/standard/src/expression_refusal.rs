//! Why an expression did not hold: which of its parts, and what they read.
//!
//! Made of a refusal only. Shown is what was verified of the caller and its connection, and what a decision tells of a request
//! anyway. What a client wrote into its query and its headers may be a secret: of that, only whether it is there.

use crate::expression_reads::Reads;
use cel::common::ast::{Expr, IdedExpr, operators};
use portcullis_plugin::{Exchange, Principal, RequestHead};
use serde_json::Value as Json;
use std::sync::Arc;

/// Facts of one refusal, at most.
const FACTS: usize = 8;
/// Characters of one value.
const SHOWN: usize = 80;

/// One of the conditions that an expression joins by `&&`.
pub(crate) struct Part {
    pub(crate) text: String,
    pub(crate) root: IdedExpr,
    pub(crate) reads: Reads,
}

/// How many conditions the root joins.
pub(crate) fn conditions(root: &IdedExpr) -> usize {
    let (mut waiting, mut found) = (vec![root], 0);
    while let Some(node) = waiting.pop() {
        match &node.expr {
            Expr::Call(call) if call.func_name == operators::LOGICAL_AND => waiting.extend(&call.args),
            _ => found += 1,
        }
    }
    found
}

/// The text between the `&&` that are in no bracket and in no quotes. Only a proposal: raw texts and comments are not known
/// here, so whoever asks parses each, and counts them.
pub(crate) fn split(source: &str) -> Vec<&str> {
    let (mut parts, mut start, mut depth) = (Vec::new(), 0, 0_i32);
    let mut quote = None;
    let mut bytes = source.bytes().enumerate().peekable();
    while let Some((at, byte)) = bytes.next() {
        match (quote, byte) {
            (Some(_), b'\\') => drop(bytes.next()),
            (Some(open), _) if byte == open => quote = None,
            (Some(_), _) => {}
            (None, b'"' | b'\'') => quote = Some(byte),
            (None, b'(' | b'[' | b'{') => depth += 1,
            (None, b')' | b']' | b'}') => depth -= 1,
            (None, b'&') if depth == 0 && bytes.next_if(|(_, next)| *next == b'&').is_some() => {
                parts.extend(source.get(start..at));
                start = at + 2;
            }
            _ => {}
        }
    }
    parts.extend(source.get(start..));
    parts
}

/// `principal.claims.tenant = "other", request.query.tenant is absent`; empty if there is nothing to say.
pub(crate) fn observed<'r>(reads: impl IntoIterator<Item = &'r Reads>, request: &RequestHead, exchange: &Exchange) -> String {
    let mut known: Vec<String> = Vec::new();
    let mut more = 0;
    for fact in reads.into_iter().flat_map(Reads::facts) {
        match fact_of(&fact, request, exchange) {
            Some(text) if !known.contains(&text) => {
                if known.len() < FACTS {
                    known.push(text)
                } else {
                    more += 1
                }
            }
            _ => {}
        }
    }
    match more {
        0 => known.join(", "),
        more => format!("{} and {more} more", known.join(", ")),
    }
}

fn fact_of(fact: &str, request: &RequestHead, exchange: &Exchange) -> Option<String> {
    let is = |value: Json| Some(format!("{fact} = {}", clipped(&value)));
    let there = |times: usize| {
        Some(match times {
            0 => format!("{fact} is absent"),
            1 => format!("{fact} is there"),
            more => format!("{fact} is there {more} times"),
        })
    };
    let connection = exchange.connection();
    match fact {
        "request.method" => return is(request.method().as_str().into()),
        "request.scheme" => return is(request.scheme().as_str().into()),
        "request.host" => return is(request.host().into()),
        "route" => return is(exchange.route().map_or(Json::Null, |route| (**route).into())),
        "connection.client_ip" => return is(exchange.client().to_string().into()),
        "connection.listener" => return is((*connection.listener).into()),
        "principal" if exchange.principal().is_none() => return is(Json::Null),
        "connection.tls" if connection.tls.is_none() => return is(Json::Null),
        "connection.cert" if exchange.certificate().verified().is_none() => return is(Json::Null),
        _ => {}
    }
    if let Some(name) = fact.strip_prefix("request.query.") {
        return there(crate::expression_facts::parameters(request, name));
    }
    if let Some(name) = fact.strip_prefix("request.headers.") {
        return there(request.headers().get_all(name).count());
    }
    if let Some(member) = fact.strip_prefix("principal.") {
        let principal = exchange.principal()?;
        if let Some(name) = member.strip_prefix("claims.") {
            return principal.claims.get(name).map_or_else(|| there(0), |value| is(value.clone()));
        }
        return is(of_principal(principal, member)?);
    }
    if let Some(member) = fact.strip_prefix("connection.tls.") {
        let tls = connection.tls.as_ref()?;
        return is(match member {
            "version" => tls.version.into(),
            "cipher" => tls.cipher.into(),
            "sni" => tls.sni.as_deref().into(),
            _ => return None,
        });
    }
    if let Some(member) = fact.strip_prefix("connection.cert.") {
        let cert = exchange.certificate().verified()?;
        return is(match member {
            "subject" => cert.subject.as_str().into(),
            "issuer" => cert.issuer.as_str().into(),
            "serial" => cert.serial.as_str().into(),
            "sha256" => cert.sha256.as_str().into(),
            "spiffe_id" => cert.spiffe_id.as_deref().into(),
            "san_dns" => cert.san_dns.clone().into(),
            "san_uri" => cert.san_uri.clone().into(),
            "san_email" => cert.san_email.clone().into(),
            _ => return None,
        });
    }
    // The path stands in every decision, cleaned of secrets; of a map that is read as a whole there is no end.
    None
}

fn of_principal(principal: &Principal, member: &str) -> Option<Json> {
    let texts = |items: &[Arc<str>]| Json::from(items.iter().map(|item| &**item).collect::<Vec<_>>());
    Some(match member {
        "method" => principal.method.into(),
        "sub" => (*principal.subject).into(),
        "issuer" => principal.issuer.as_deref().into(),
        "client_id" => principal.client_id.as_deref().into(),
        "scopes" => texts(&principal.scopes),
        "roles" => texts(&principal.roles),
        "groups" if !portcullis_identity::groups_unknown(principal) => texts(&principal.groups),
        _ => return None,
    })
}

/// As JSON, and not longer than somebody reads. A token within a token opens doors.
fn clipped(value: &Json) -> String {
    let text = value.to_string();
    if text.contains("eyJ") {
        return "(not shown)".to_owned();
    }
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_split_where_conditions_are_joined_and_nowhere_else() {
        assert_eq!(split("a && b"), ["a ", " b"]);
        assert_eq!(split("a"), ["a"]);
        assert_eq!(split("(a && b) && [c && d][0] && {'e': f && g}['e']"), ["(a && b) ", " [c && d][0] ", " {'e': f && g}['e']"]);
        assert_eq!(split(r#"a == "x && \" && y" && b == ' && "'"#), [r#"a == "x && \" && y" "#, r#" b == ' && "'"#]);
        assert_eq!(split("ä && 'ü' && ö"), ["ä ", " 'ü' ", " ö"]);
    }

    #[test]
    fn a_value_is_clipped_and_a_token_is_not_shown() {
        assert_eq!(clipped(&serde_json::json!(["a", 1, null])), r#"["a",1,null]"#);
        assert_eq!(clipped(&serde_json::json!({ "act": "eyJhbGciOiJub25lIn0.e30." })), "(not shown)");
        let long = clipped(&Json::from("ä".repeat(200)));
        assert_eq!((long.chars().count(), long.chars().next_back()), (SHOWN + 1, Some('…')));
    }
}
