//! From the claims of a verified token to the facts of a principal: where each product puts them.

use crate::config::{ClaimPaths, IssuerKind};
use portcullis_plugin::{ConfigError, Principal};
use serde_json::{Map, Value};
use std::sync::Arc;

type Claims = Map<String, Value>;

/// Where a fact stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Path(Vec<String>);

impl Path {
    fn claim(name: &str) -> Self {
        Self(vec![name.to_owned()])
    }

    fn members(names: &[&str]) -> Self {
        Self(names.iter().map(|name| (*name).to_owned()).collect())
    }

    fn get<'c>(&self, claims: &'c Claims) -> Option<&'c Value> {
        let (first, rest) = self.0.split_first()?;
        rest.iter().try_fold(claims.get(first)?, |value, name| value.get(name))
    }
}

/// Several places for one fact.
#[derive(Debug, Clone)]
enum Places {
    /// The first that is there.
    First(Vec<Path>),
    /// Whatever stands in any.
    All(Vec<Path>),
    /// `sub`; without it the client, if no user is named.
    SubjectOrClient,
}

impl Places {
    fn first(names: &[&str]) -> Self {
        Self::First(names.iter().map(|name| Path::claim(name)).collect())
    }

    fn values<'c>(&self, claims: &'c Claims) -> impl Iterator<Item = &'c Value> {
        let (paths, most) = match self {
            Self::First(paths) => (paths.as_slice(), 1),
            Self::All(paths) => (paths.as_slice(), usize::MAX),
            Self::SubjectOrClient => (&[][..], 0),
        };
        let subject = matches!(self, Self::SubjectOrClient).then(|| {
            let client = || claims.get("client_id").filter(|_| !claims.contains_key("username"));
            claims.get("sub").or_else(client)
        });
        paths.iter().filter_map(|path| path.get(claims)).take(most).chain(subject.flatten())
    }

    fn told(&self) -> String {
        let (paths, or) = match self {
            Self::First(paths) => (paths, " or "),
            Self::All(paths) => (paths, " and "),
            Self::SubjectOrClient => {
                return "`sub`, or `client_id` if there is no `username` (`claims.subject` names another)".to_owned();
            }
        };
        let mut names: Vec<String> = paths.iter().map(|path| path.0.join(".")).collect();
        // A path that is configured is looked for as one name and as a way.
        names.dedup();
        names.join(or)
    }

    fn text<'c>(&self, claims: &'c Claims) -> Option<&'c Value> {
        self.values(claims).next()
    }

    fn list(&self, claims: &Claims, form: Form) -> Vec<Arc<str>> {
        let mut out: Vec<Arc<str>> = Vec::new();
        for value in self.values(claims) {
            for item in items(value, form) {
                if !out.iter().any(|known| **known == *item) {
                    out.push(item.into());
                }
            }
        }
        out
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Words: a text has several of them between spaces.
    Scopes,
    /// Names: a text is one of them, and spaces belong to it.
    Names,
}

/// What does not have the expected form counts as nothing: a right must never come out of a misreading.
fn items(value: &Value, form: Form) -> Vec<&str> {
    match value {
        Value::String(text) if form == Form::Scopes => text.split(' ').filter(|word| !word.is_empty()).collect(),
        Value::String(text) if !text.is_empty() => vec![text],
        Value::Array(list) => match list.iter().map(Value::as_str).collect::<Option<Vec<_>>>() {
            // A scope with a space in it would be read as two by whoever gets the list as text.
            Some(list) => list
                .into_iter()
                .filter(|item| !item.is_empty() && (form == Form::Names || !item.contains(char::is_whitespace)))
                .collect(),
            None => Vec::new(),
        },
        _ => Vec::new(),
    }
}

/// Where the facts of an issuer's tokens stand.
#[derive(Debug, Clone)]
pub(crate) struct Mapping {
    subject: Places,
    client_id: Places,
    scopes: Places,
    roles: Places,
    groups: Places,
}

impl Mapping {
    pub fn new(kind: IssuerKind, overrides: &ClaimPaths, audiences: &[String]) -> Result<Self, ConfigError> {
        let mut mapping = Self::of(kind, audiences);
        let ClaimPaths { roles, groups, scopes, client_id, subject } = overrides;
        for (key, path, place) in [
            ("roles", roles, &mut mapping.roles),
            ("groups", groups, &mut mapping.groups),
            ("scopes", scopes, &mut mapping.scopes),
            ("client_id", client_id, &mut mapping.client_id),
            ("subject", subject, &mut mapping.subject),
        ] {
            let Some(path) = path else { continue };
            if path.is_empty() {
                return Err(ConfigError::new("an empty claim name").at(key));
            }
            let mut ways = vec![Path::claim(path)];
            let members: Vec<&str> = path.split('.').collect();
            if members.len() > 1 && members.iter().all(|member| !member.is_empty()) {
                ways.push(Path::members(&members));
            }
            *place = Places::First(ways);
        }
        Ok(mapping)
    }

    fn of(kind: IssuerKind, audiences: &[String]) -> Self {
        let first = Places::first;
        let generic = Self {
            subject: first(&["sub"]),
            client_id: first(&["client_id", "azp"]),
            scopes: first(&["scope", "scp"]),
            roles: first(&["roles"]),
            groups: first(&["groups"]),
        };
        match kind {
            IssuerKind::Generic => generic,
            IssuerKind::Keycloak => {
                // Roles of other clients say nothing about this service, even if they are called the same.
                let clients = audiences.iter().map(|audience| Path::members(&["resource_access", audience, "roles"]));
                let roles = std::iter::once(Path::members(&["realm_access", "roles"])).chain(clients).collect();
                Self { client_id: first(&["azp", "client_id"]), roles: Places::All(roles), ..generic }
            }
            IssuerKind::Entra => Self { client_id: first(&["azp", "appid"]), scopes: first(&["scp"]), ..generic },
            IssuerKind::Okta => Self { client_id: first(&["cid"]), scopes: first(&["scp"]), ..generic },
            IssuerKind::Ping => Self {
                subject: first(&["sub", "client_id"]),
                client_id: first(&["client_id"]),
                roles: first(&["p1.permissions", "roles"]),
                ..generic
            },
            IssuerKind::Auth0 => Self { client_id: first(&["azp", "client_id"]), roles: first(&["permissions"]), ..generic },
            IssuerKind::Cognito => Self {
                client_id: first(&["client_id"]),
                roles: first(&["cognito:roles"]),
                groups: first(&["cognito:groups"]),
                ..generic
            },
            IssuerKind::Google => Self { client_id: first(&["azp"]), ..generic },
        }
    }

    /// For what an issuer answers about a token (RFC 7662): whatever the product, scopes and client have standard names
    /// there. Without a `sub`, the token belongs to the client, unless the answer names a user: then who it is must be
    /// configured, for a user name may change hands. Places that are configured stay the only ones.
    pub fn of_answers(&self, overrides: &ClaimPaths) -> Self {
        let mut mapping = self.clone();
        for (given, place, name) in
            [(&overrides.scopes, &mut mapping.scopes, "scope"), (&overrides.client_id, &mut mapping.client_id, "client_id")]
        {
            if let (None, Places::First(paths)) = (given, place) {
                paths.push(Path::claim(name));
            }
        }
        if overrides.subject.is_none() {
            mapping.subject = Places::SubjectOrClient;
        }
        mapping
    }

    /// The value, whatever it is; whether it can be a subject is judged with the other claims.
    pub fn subject<'c>(&self, claims: &'c Claims) -> Option<&'c Value> {
        self.subject.text(claims)
    }

    /// Names of the places that were looked at, for a finding.
    pub fn subject_places(&self) -> String {
        self.subject.told()
    }

    pub fn scope_places(&self) -> String {
        self.scopes.told()
    }

    pub fn role_places(&self) -> String {
        self.roles.told()
    }

    pub fn client_id(&self, claims: &Claims) -> Option<Arc<str>> {
        self.client_id.text(claims).and_then(Value::as_str).filter(|id| !id.is_empty()).map(Arc::from)
    }

    pub fn scopes(&self, claims: &Claims) -> Vec<Arc<str>> {
        self.scopes.list(claims, Form::Scopes)
    }

    pub fn roles(&self, claims: &Claims) -> Vec<Arc<str>> {
        self.roles.list(claims, Form::Names)
    }

    pub fn groups(&self, claims: &Claims) -> Vec<Arc<str>> {
        self.groups.list(claims, Form::Names)
    }
}

/// Whether the caller's groups are not all in the token, so that not being in `groups` says nothing. A rule that refuses
/// members of a group must refuse such a caller too.
pub fn groups_unknown(principal: &Principal) -> bool {
    groups_are_elsewhere(&principal.claims)
}

/// Entra leaves the groups out when there are many, and says where to ask. Whether somebody is in a group is then
/// unknown, which is not the same as no.
pub(crate) fn groups_are_elsewhere(claims: &Claims) -> bool {
    claims.get("_claim_names").is_some_and(|names| names.get("groups").is_some())
        || matches!(claims.get("hasgroups"), Some(Value::Bool(true)))
        || matches!(claims.get("hasgroups"), Some(Value::String(text)) if text == "true")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn claims(value: Value) -> Claims {
        value.as_object().unwrap().clone()
    }

    fn mapping(kind: IssuerKind, audiences: &[&str]) -> Mapping {
        let audiences: Vec<String> = audiences.iter().map(|audience| (*audience).to_owned()).collect();
        Mapping::new(kind, &ClaimPaths::default(), &audiences).unwrap()
    }

    fn list(items: &[Arc<str>]) -> Vec<&str> {
        items.iter().map(|item| &**item).collect()
    }

    #[test]
    fn a_scope_with_a_space_never_becomes_two() {
        let generic = mapping(IssuerKind::Okta, &[]);
        assert_eq!(list(&generic.scopes(&claims(json!({"scp": ["openid orders.write", "email"]})))), ["email"]);
        assert_eq!(list(&generic.scopes(&claims(json!({"scp": "openid  email"})))), ["openid", "email"]);
        assert!(generic.scopes(&claims(json!({"scp": ["a", 1]}))).is_empty());
        assert!(generic.scopes(&claims(json!({"scp": {"a": true}}))).is_empty());
    }

    #[test]
    fn keycloak_roles_of_other_clients_do_not_count() {
        let token = claims(json!({
            "realm_access": {"roles": ["staff"]},
            "resource_access": {"orders-api": {"roles": ["orders:read"]}, "account": {"roles": ["admin"]}},
            "roles": ["self-made"],
        }));
        assert_eq!(list(&mapping(IssuerKind::Keycloak, &["orders-api"]).roles(&token)), ["staff", "orders:read"]);
    }

    #[test]
    fn names_keep_their_spaces_and_claims_their_dots() {
        let okta =
            ClaimPaths { groups: Some("GroupsClaim".into()), roles: Some("https://a.example/r".into()), ..ClaimPaths::default() };
        let mapping = Mapping::new(IssuerKind::Okta, &okta, &[]).unwrap();
        let token = claims(json!({"GroupsClaim": ["Midwest Sales", "Everyone"], "https://a.example/r": "boss"}));
        assert_eq!(list(&mapping.groups(&token)), ["Midwest Sales", "Everyone"]);
        assert_eq!(list(&mapping.roles(&token)), ["boss"]);
    }

    #[test]
    fn overage_is_noticed() {
        assert!(groups_are_elsewhere(&claims(json!({"_claim_names": {"groups": "src1"}}))));
        assert!(groups_are_elsewhere(&claims(json!({"hasgroups": true}))));
        assert!(!groups_are_elsewhere(&claims(json!({"groups": []}))));
    }
}
