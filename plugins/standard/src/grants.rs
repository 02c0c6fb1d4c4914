//! What was granted, where a route looked for it, and where it stands instead: for the finding of a refusal.

use crate::text::first_few;
use portcullis_identity::Issuer;
use portcullis_plugin::{Finding, Principal};
use serde_json::{Map, Value};
use std::sync::Arc;

/// What is looked for.
#[derive(Clone, Copy)]
pub(crate) enum Grant {
    Scope,
    Role,
}

impl Grant {
    fn of(self, principal: &Principal) -> &[Arc<str>] {
        match self {
            Self::Scope => &principal.scopes,
            Self::Role => &principal.roles,
        }
    }

    const fn names(self) -> &'static str {
        match self {
            Self::Scope => "scopes",
            Self::Role => "roles",
        }
    }
}

/// That `wanted` is not among what the caller was granted. `issuer` is the one that says where that stands.
pub(crate) fn missing(
    grant: Grant,
    expected: String,
    wanted: &[&String],
    principal: &Principal,
    issuer: Option<&Arc<Issuer>>,
) -> Finding {
    let granted = grant.of(principal);
    let finding = Finding::new(expected, first_few(granted, granted.len()));
    let places = issuer.map(|issuer| match grant {
        Grant::Scope => issuer.scope_places(),
        Grant::Role => issuer.role_places(),
    });
    let names = grant.names();
    let read = places.map(|places| format!("; {names} are read from {places}, see the issuer's `kind` and `claims.{names}`"));
    let read = read.unwrap_or_default();
    match wanted.iter().find_map(|name| Some((name, place_of(&principal.claims, name)?))) {
        Some((name, place)) => finding.hint(match client_of(&place) {
            Some(client) => {
                format!("`{name}` is a role of the client `{client}`, whose roles say nothing about this service{read}")
            }
            None => format!("`{name}` stands in `{place}`{read}"),
        }),
        None if granted.is_empty() => finding.hint(format!("the token has no {names}{read}")),
        None => finding,
    }
}

/// Claims that say what somebody may do or belongs to, by a part of their names.
const KINDS: &[&str] = &["role", "scope", "scp", "permission", "group", "authorit", "entitlement", "privilege"];

/// The way to the claim that has `name` in it.
fn place_of(claims: &Map<String, Value>, name: &str) -> Option<String> {
    claims.iter().find_map(|(claim, value)| {
        let lower = claim.to_ascii_lowercase();
        let of_kind = KINDS.iter().any(|kind| lower.contains(kind));
        match value {
            _ if of_kind && has(value, name) => Some(plain(claim)),
            // As Keycloak has them: `realm_access.roles`, `resource_access.CLIENT.roles`.
            Value::Object(members) => place_of(members, name).map(|rest| format!("{}.{rest}", plain(claim))),
            _ => None,
        }
    })
}

fn has(value: &Value, name: &str) -> bool {
    match value {
        Value::String(text) => text.split(' ').any(|word| word == name),
        Value::Array(items) => items.iter().any(|item| item.as_str() == Some(name)),
        // As Zitadel has them: the roles are the names of members.
        Value::Object(members) => members.contains_key(name),
        _ => false,
    }
}

fn client_of(place: &str) -> Option<&str> {
    place.strip_prefix("resource_access.")?.strip_suffix(".roles")
}

/// A claim's name as it may stand in a finding.
fn plain(name: &str) -> String {
    const MOST: usize = 60;
    name.chars().filter(|c| !c.is_control()).take(MOST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_grant_is_found_where_products_put_it_and_not_in_a_name() {
        let place = |claims: Value| place_of(claims.as_object().unwrap(), "admin");
        for (claims, expected) in [
            (json!({ "resource_access": { "other": { "roles": ["x", "admin"] } } }), Some("resource_access.other.roles")),
            (json!({ "realm_access": { "roles": ["admin"] } }), Some("realm_access.roles")),
            (json!({ "cognito:groups": ["admin"] }), Some("cognito:groups")),
            (json!({ "scp": "openid admin" }), Some("scp")),
            (json!({ "urn:zitadel:iam:org:project:roles": { "admin": {} } }), Some("urn:zitadel:iam:org:project:roles")),
            (json!({ "sub": "admin", "preferred_username": "admin", "aud": ["admin"] }), None),
            (json!({ "roles": ["Admin", "administrator"], "scope": "admin:read" }), None),
        ] {
            assert_eq!(place(claims.clone()).as_deref(), expected, "{claims}");
        }
    }
}
