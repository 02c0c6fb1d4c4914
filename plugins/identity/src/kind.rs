//! What kind of token it is. One issuer signs several kinds with the same keys, and where an application and its API share
//! one registration, with the same audience: what keeps them apart is what only one of them says.

use crate::config::{IssuerKind, TokenType};
use serde_json::{Map, Value};

type Claims = Map<String, Value>;

/// What a route says about ID tokens, beyond its issuer's `accept_id_tokens`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IdTokens {
    #[default]
    AsIssuer,
    Accepted,
    Refused,
}

impl IdTokens {
    pub(crate) fn accepted(self, by_issuer: bool) -> bool {
        match self {
            Self::AsIssuer => by_issuer,
            Self::Accepted => true,
            Self::Refused => false,
        }
    }
}

/// What is no access token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Other {
    Id(&'static str),
    /// Whatever is configured.
    Never(&'static str),
}

/// What was granted, and to whom, by the names that products use. Not `roles`: Entra, and whoever maps claims, put them into
/// ID tokens too. Not `azp`: OpenID Connect has it in ID tokens.
const GRANTED: &[&str] = &["scope", "scp", "client_id", "cid", "appid"];

/// How somebody signed in, and who that is: what an ID token is for.
const SIGNED_IN: &[&str] = &[
    "nonce",
    "auth_time",
    "amr",
    "acr",
    "email",
    "email_verified",
    "preferred_username",
    "name",
    "given_name",
    "family_name",
    "nickname",
    "picture",
];

/// What a token is, if it is not an access token. RFC 9068's `at+jwt` settles it; without it, each product has marks.
pub(crate) fn other_than_access(claims: &Claims, typ: &str, kind: IssuerKind) -> Option<Other> {
    if let Some(said) = said_by_itself(claims, kind) {
        return said;
    }
    if typ == "at+jwt" {
        return None;
    }
    let has = |name: &&str| claims.get(*name).is_some_and(|value| !value.is_null());
    if ["at_hash", "c_hash", "s_hash"].iter().any(has) {
        return Some(Other::Id("an ID token (`at_hash`, `c_hash` or `s_hash`)"));
    }
    let any = |marks: &[&str]| marks.iter().any(has);
    let unless = |access: bool, what| (!access).then_some(Other::Id(what));
    // Entra's tokens say whose they are, also where the configuration does not.
    let kind = if kind == IssuerKind::Generic && has(&"tid") && has(&"ver") { IssuerKind::Entra } else { kind };
    match kind {
        IssuerKind::Google => Some(Other::Id("an ID token (Google's JWTs are)")),
        // Entra reserves these names: no mapping of claims puts them into an ID token.
        IssuerKind::Entra => unless(
            any(&["scp", "azp", "appid"]),
            "an ID token (none of `scp`, `azp`, `appid`, which access tokens of Entra have)",
        ),
        IssuerKind::Okta => unless(any(&["cid"]), "an ID token (no `cid`, which access tokens of Okta have)"),
        IssuerKind::Ping => unless(
            any(&["client_id", "scope"]),
            "an ID token (neither `client_id` nor `scope`, which access tokens of Ping have)",
        ),
        IssuerKind::Auth0 => unless(
            any(&["scope", "permissions", "gty", "client_id"]) || is_for_an_api(claims),
            "an ID token (no `scope`, and no `azp` beside the `aud` of an API, which access tokens of Auth0 have)",
        ),
        IssuerKind::Generic | IssuerKind::Keycloak | IssuerKind::Cognito => {
            // A type of its own that the configuration names says what it is.
            let untyped = typ == TokenType::ABSENT || typ == "jwt";
            let okta = claims.get("jti").and_then(Value::as_str).is_some_and(|id| id.starts_with("ID."));
            let signed_in = (any(SIGNED_IN) || okta) && !any(GRANTED);
            unless(
                !(untyped && signed_in),
                "an ID token (it says who signed in, and has no `scope` and no `client_id`, as access tokens have)",
            )
        }
    }
}

/// As [`other_than_access`], of what an issuer answers about a token: whatever the product, the answer's names are those of
/// RFC 7662.
pub(crate) fn other_than_access_by_answer(claims: &Claims, kind: IssuerKind) -> Option<Other> {
    let kind = match kind {
        IssuerKind::Google | IssuerKind::Cognito => kind,
        _ => IssuerKind::Generic,
    };
    other_than_access(claims, TokenType::ABSENT, kind)
}

/// The marks of products that name the kind. `Some(None)`: it is an access token.
fn said_by_itself(claims: &Claims, kind: IssuerKind) -> Option<Option<Other>> {
    let events = claims.get("events").and_then(Value::as_object);
    if events.is_some_and(|events| events.keys().any(|key| key.ends_with("backchannel-logout"))) {
        return Some(Some(Other::Never("a logout token (`events`)")));
    }
    match claims.get("token_use").and_then(Value::as_str) {
        Some("id") => return Some(Some(Other::Id("an ID token (`token_use`)"))),
        Some("access") => return Some(None),
        _ if kind == IssuerKind::Cognito => {
            return Some(Some(Other::Never("not an access token of Cognito (`token_use`)")));
        }
        _ => {}
    }
    // Keycloak writes the kind of token into a claim `typ`.
    match claims.get("typ").and_then(Value::as_str) {
        Some("ID") => Some(Some(Other::Id("an ID token (claim `typ`)"))),
        Some("Refresh" | "Offline") => Some(Some(Other::Never("a refresh token (claim `typ`)"))),
        Some("Logout") => Some(Some(Other::Never("a logout token (claim `typ`)"))),
        Some("Bearer" | "DPoP") => Some(None),
        _ => None,
    }
}

/// An application that asks for an API is named beside it; in an ID token, it is the audience itself.
fn is_for_an_api(claims: &Claims) -> bool {
    let Some(party) = claims.get("azp").and_then(Value::as_str) else { return false };
    match claims.get("aud") {
        Some(Value::String(one)) => one != party,
        Some(Value::Array(list)) => !list.is_empty() && list.iter().all(|one| one.as_str().is_some_and(|one| one != party)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const USER: &str = "9fe9e06a";

    fn kind_of(kind: IssuerKind, typ: &str, claims: Value) -> Option<Other> {
        let mut all = json!({ "iss": "https://sso.example.com", "aud": "api", "sub": USER, "iat": 1, "exp": 2 });
        for (name, value) in claims.as_object().unwrap() {
            all[name] = value.clone();
        }
        other_than_access(all.as_object().unwrap(), typ, kind)
    }

    const ALL: [IssuerKind; 6] =
        [IssuerKind::Generic, IssuerKind::Keycloak, IssuerKind::Entra, IssuerKind::Okta, IssuerKind::Ping, IssuerKind::Auth0];

    #[test]
    fn an_id_token_is_known_without_a_nonce_and_whatever_roles_it_has() {
        for (what, claims) in [
            ("entra", json!({ "ver": "2.0", "tid": "t", "oid": "o", "name": "Abe", "preferred_username": "abe@example" })),
            ("entra, roles", json!({ "ver": "2.0", "tid": "t", "nonce": "n", "name": "Abe", "roles": ["Admin"] })),
            ("okta", json!({ "ver": 1, "jti": "ID.x", "amr": ["pwd"], "auth_time": 1, "idp": "i", "name": "Joe" })),
            ("okta, bare", json!({ "ver": 1, "jti": "ID.x" })),
            ("auth0", json!({ "nickname": "joe", "picture": "p", "email": "joe@example", "sid": "s" })),
            ("ping", json!({ "auth_time": 1, "acr": "Single_Factor", "env": "e", "org": "o", "sid": "s", "groups": ["a"] })),
            ("roles by a mapper", json!({ "email": "joe@example", "roles": ["admin"], "groups": ["admin"] })),
        ] {
            for kind in ALL {
                for typ in ["jwt", TokenType::ABSENT] {
                    let seen = kind_of(kind, typ, claims.clone());
                    assert!(matches!(seen, Some(Other::Id(_))), "{what} {kind:?} {typ} {seen:?}");
                }
            }
        }
        // Without a name, and where nobody has said that it is Entra's.
        let bare = json!({ "ver": "2.0", "tid": "t", "roles": ["Admin"] });
        assert!(kind_of(IssuerKind::Generic, "jwt", bare.clone()).is_some());
        let mut app = bare;
        app["azp"] = "app".into();
        assert_eq!(kind_of(IssuerKind::Generic, "jwt", app), None);
        // An empty word is no grant.
        assert!(kind_of(IssuerKind::Entra, "jwt", json!({ "scp": null, "roles": ["Admin"] })).is_some());
        // The application itself as its own audience, and an audience beside it.
        for aud in [json!("app"), json!(["app"]), json!(["app", "other"]), json!([])] {
            assert!(kind_of(IssuerKind::Auth0, "jwt", json!({ "aud": aud, "azp": "app" })).is_some(), "{aud}");
        }
        assert!(kind_of(IssuerKind::Generic, "jwt", json!({ "azp": "app", "auth_time": 1 })).is_some());
    }

    #[test]
    fn access_tokens_of_each_product_are_known() {
        use IssuerKind::{Auth0, Entra, Generic, Keycloak, Okta, Ping};
        for (kind, claims) in [
            (Entra, json!({ "ver": "2.0", "azp": "app", "azpacr": "1", "roles": ["Orders.Read.All"] })),
            (Entra, json!({ "ver": "2.0", "azp": "app", "scp": "access_as_user", "name": "Abe", "preferred_username": "abe" })),
            (Entra, json!({ "ver": "1.0", "appid": "app", "appidacr": "1", "amr": ["wia"], "email": "abe@example" })),
            (Okta, json!({ "ver": 1, "jti": "AT.x", "cid": "app", "scp": ["openid"], "auth_time": 1 })),
            (Ping, json!({ "client_id": "app", "scope": "openid", "auth_time": 1, "acr": "Single_Factor", "sid": "s" })),
            (Ping, json!({ "scope": ["openid"], "Username": "joe" })),
            (Auth0, json!({ "azp": "app", "aud": ["api", "https://acme.auth0.com/userinfo"] })),
            (Auth0, json!({ "azp": "app", "gty": "client-credentials" })),
            (Auth0, json!({ "azp": "app", "scope": "openid email", "https://acme.example/email": "joe@example" })),
            (
                Keycloak,
                json!({ "typ": "Bearer", "azp": "app", "auth_time": 1, "acr": "1", "email": "joe@example", "nonce": "n" }),
            ),
            // Of a server of one's own, with little in it: nothing says otherwise.
            (Generic, json!({})),
            (Generic, json!({ "roles": ["admin"], "tenant": "acme" })),
            (Generic, json!({ "client_id": "app", "scp": ["openid"], "auth_time": 1 })),
            (Generic, json!({ "scope": "openid email", "email": "joe@example", "name": "Joe", "nonce": "n" })),
            // AD FS.
            (Generic, json!({ "appid": "app", "apptype": "Public", "authmethod": "urn:…", "auth_time": 1 })),
        ] {
            assert_eq!(kind_of(kind, "jwt", claims.clone()), None, "{kind:?} {claims}");
        }
    }

    #[test]
    fn a_type_that_names_access_tokens_settles_it() {
        // RFC 9068, section 2.2.1, has these in access tokens.
        let claims = json!({ "auth_time": 1, "acr": "1", "amr": ["pwd"], "email": "joe@example", "roles": ["admin"] });
        for kind in ALL {
            assert_eq!(kind_of(kind, "at+jwt", claims.clone()), None, "{kind:?}");
        }
        assert_eq!(kind_of(IssuerKind::Generic, "acme+jwt", claims), None);
        // What a token says of itself outweighs its type.
        let said = json!({ "token_use": "id" });
        assert!(kind_of(IssuerKind::Generic, "at+jwt", said).is_some());
    }

    #[test]
    fn an_answer_about_a_token_is_judged_by_its_standard_names() {
        let answer = json!({ "active": true, "client_id": "app", "username": "joe", "email": "joe@example" });
        for kind in ALL {
            assert_eq!(other_than_access_by_answer(answer.as_object().unwrap(), kind), None, "{kind:?}");
        }
        let id = json!({ "active": true, "email": "joe@example", "auth_time": 1 });
        assert!(other_than_access_by_answer(id.as_object().unwrap(), IssuerKind::Okta).is_some());
    }
}
