//! Documents, key sets and tokens as real products make them.

use super::signer::{Signer, jwks};
use super::{NOW, exchange_at, offline, shared};
use crate::fetch::Trust;
use crate::{ClaimPaths, Issuer, IssuerConfig, IssuerKind, Verification, VerifiedToken, discovery};
use portcullis_plugin::ReasonCode;
use portcullis_plugin::reason;
use portcullis_plugin::units::OneOrMany;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

const BASE: &str = "https://sso.example.com";

/// Fills in what the files leave open.
fn filled(value: &Value, kid: &str) -> Value {
    match value {
        Value::String(text) => match text.as_str() {
            "{now}" => NOW.into(),
            "{exp}" => (NOW + 300).into(),
            "{kid}" => kid.into(),
            text => text.replace("{base}", BASE).replace("{realm}", "demo").replace("{yourOktaDomain}", "acme.okta.com").into(),
        },
        Value::Array(items) => items.iter().map(|item| filled(item, kid)).collect(),
        Value::Object(members) => members.iter().map(|(name, value)| (name.clone(), filled(value, kid))).collect(),
        other => other.clone(),
    }
}

fn shape(name: &str, kid: &str) -> Option<Value> {
    let text = shared(&format!("idp-shapes/{name}.json"))?;
    Some(filled(&serde_json::from_str(&text).unwrap(), kid))
}

struct Product {
    issuer: Arc<Issuer>,
    key: &'static Signer,
    tokens: BTreeMap<String, Value>,
}

impl Product {
    fn new(file: &str, config: IssuerConfig) -> Option<Self> {
        let key = Signer::shared_rsa();
        let file = shape(file, &key.kid)?;
        let tokens =
            file["tokens"].as_array().unwrap().iter().map(|token| (token["name"].as_str().unwrap().to_owned(), token.clone()));
        // As Entra publishes keys: without `alg`.
        Some(Self { issuer: offline(config, &jwks(&[key.bare_jwk()])), key, tokens: tokens.collect() })
    }

    /// The token whose name begins so, signed with the issuer's key, a moment after it was issued.
    fn verdict(&self, name: &str) -> Result<Arc<VerifiedToken>, ReasonCode> {
        let (_, token) =
            self.tokens.iter().find(|(known, _)| known.starts_with(name)).unwrap_or_else(|| panic!("no token {name}"));
        let mut header = token["header"].clone();
        header["kid"] = self.key.kid.as_str().into();
        let issued = token["claims"]["iat"].as_u64().unwrap_or(NOW);
        let mut exchange = exchange_at(UNIX_EPOCH + Duration::from_secs(issued + 10));
        match self.issuer.verify(&self.key.token_with(&header, &token["claims"]), &mut exchange) {
            Verification::Verified(verified) => Ok(verified),
            Verification::Refused(reason) => Err(reason),
            Verification::Wait(_) => panic!("{name} waits"),
        }
    }
}

fn config(kind: IssuerKind, issuer: &str, audiences: &[&str]) -> IssuerConfig {
    let mut config = IssuerConfig::new(issuer, audiences.iter().copied());
    config.kind = kind;
    config
}

fn list(items: &[Arc<str>]) -> Vec<&str> {
    items.iter().map(|item| &**item).collect()
}

#[test]
fn keycloak() {
    let config = config(IssuerKind::Keycloak, "https://sso.example.com/realms/demo", &["orders-api"]);
    let Some(product) = Product::new("keycloak", config) else { return };
    let verified = product.verdict("user access token").unwrap();
    let principal = verified.principal();
    assert_eq!(principal.client_id.as_deref(), Some("gateway"));
    assert_eq!(list(&principal.scopes), ["openid", "email", "profile"]);
    let roles = list(&principal.roles);
    assert!(roles.contains(&"admin") && roles.contains(&"orders:read") && !roles.contains(&"manage-account"), "{roles:?}");
    assert_eq!(product.verdict("service account").unwrap().principal().client_id.as_deref(), Some("m2m"));
    for (name, expected) in [
        ("user access token, aud only", reason::TOKEN_AUDIENCE_MISMATCH),
        ("ID token", reason::TOKEN_TYP_REFUSED),
        ("refresh token", reason::TOKEN_ALG_REFUSED),
        ("logout token", reason::TOKEN_TYP_REFUSED),
        ("DPoP-bound", reason::TOKEN_BINDING_MISMATCH),
        ("mTLS-bound", reason::TOKEN_BINDING_MISMATCH),
        ("lightweight", reason::TOKEN_AUDIENCE_MISMATCH),
    ] {
        assert_eq!(product.verdict(name).map(|_| ()).unwrap_err(), expected, "{name}");
    }
}

#[test]
fn entra_v2() {
    let issuer = "https://login.microsoftonline.com/72f988bf-86f1-41af-91ab-2d7cd011db47/v2.0";
    let config = config(IssuerKind::Entra, issuer, &["6e74172b-be56-4843-9ff4-e66a39bb12e3"]);
    let Some(product) = Product::new("entra-v2", config) else { return };
    let user = product.verdict("user v2").unwrap();
    assert_eq!(list(&user.principal().scopes), ["access_as_user"]);
    assert_eq!(user.principal().client_id.as_deref(), Some("6e74172b-be56-4843-9ff4-e66a39bb12e3"));
    assert_eq!(list(&product.verdict("app-only").unwrap().principal().roles), ["Orders.Read.All"]);
    for name in ["group overage", "hasgroups"] {
        let verified = product.verdict(name).unwrap();
        assert!(verified.groups_unknown() && verified.principal().groups.is_empty(), "{name}");
    }
    let inline = product.verdict("groups inline").unwrap();
    assert!(!inline.groups_unknown() && inline.principal().groups.len() > 100);
    for name in ["other tenant", "tid/iss mismatch", "iss literally"] {
        assert_eq!(product.verdict(name).map(|_| ()).unwrap_err(), reason::TOKEN_ISSUER_MISMATCH, "{name}");
    }
}

#[test]
fn entra_for_several_tenants() {
    let template = "https://login.microsoftonline.com/{tenantid}/v2.0";
    let (ours, other) = ("72f988bf-86f1-41af-91ab-2d7cd011db47", "11111111-2222-3333-4444-555555555555");
    let issuer_of = |tenant: &str| template.replace("{tenantid}", tenant);
    let mut configured = config(IssuerKind::Entra, template, &[super::AUDIENCE]);
    let allow = |tenants: &[&str]| Some(OneOrMany(tenants.iter().map(|one| (*one).to_owned()).collect()));
    configured.tenants = allow(&[ours]);
    // As Entra publishes them: most keys for everybody, some for one tenant.
    let (common, bound) = (Signer::new("common"), Signer::new("bound"));
    let mut keys = [common.bare_jwk(), bound.bare_jwk()];
    keys[0]["issuer"] = template.into();
    keys[1]["issuer"] = issuer_of(other).into();
    let judge = |tenants: &[&str], signer: &Signer, changes: Value| {
        let mut configured = configured.clone();
        configured.tenants = allow(tenants);
        let issuer = offline(configured, &jwks(&keys));
        let (result, checks) = super::explained(&issuer, &signer.token(&changes));
        let why = checks.iter().find(|check| !check.ok).map(|check| check.check).unwrap_or_default();
        result.map(|verified| verified.principal().issuer.as_deref().unwrap().to_owned()).map_err(|reason| (reason, why))
    };
    let of = |iss: &str, tid: &str| json!({ "iss": issuer_of(iss), "tid": tid });
    let refused = |why| Err((reason::TOKEN_ISSUER_MISMATCH, why));
    assert_eq!(judge(&[ours], &common, of(ours, ours)), Ok(issuer_of(ours)), "the principal is of its tenant");
    assert_eq!(judge(&[ours], &common, of(other, other)), refused("tenants"));
    assert_eq!(judge(&["any"], &common, of(other, other)), Ok(issuer_of(other)));
    // A tenant of one's own, and the name of another.
    assert_eq!(judge(&[ours], &common, of(ours, other)), refused("tenant"));
    assert_eq!(judge(&[ours], &common, of(other, ours)), refused("tenant"));
    assert_eq!(judge(&["any"], &common, of(ours, other)), refused("tenant"));
    assert_eq!(judge(&[ours], &common, json!({ "iss": issuer_of(ours) })), refused("tenant"));
    assert_eq!(judge(&["any"], &common, of("{tenantid}", "{tenantid}")), refused("issuer"));
    assert_eq!(judge(&["any"], &common, of("common", "common")), refused("issuer"));
    let v1 = json!({ "iss": format!("https://sts.windows.net/{ours}/"), "tid": ours });
    assert_eq!(judge(&["any"], &common, v1), refused("issuer"));
    // A token that names two tenants is told apart from one of another.
    let mut one = configured.clone();
    (one.issuer, one.tenants) = (issuer_of(ours), None);
    let one = offline(one, &jwks(&keys));
    for (iss, tid, part) in [(ours, other, "name two tenants"), (other, other, "a token of another tenant")] {
        let (_, checks) = super::explained(&one, &common.token(&of(iss, tid)));
        let hint = checks.iter().find(|check| check.check == "tenant").and_then(|check| check.finding.hint.clone());
        assert!(hint.as_ref().is_some_and(|hint| hint.contains(part)), "{iss} {tid}: {hint:?}");
    }
    // A key of one tenant signs for no other.
    assert_eq!(judge(&["any"], &bound, of(other, other)), Ok(issuer_of(other)));
    assert_eq!(judge(&["any"], &bound, of(ours, ours)), refused("key"));
}

#[test]
fn entra_v1() {
    let config = config(IssuerKind::Entra, "https://sts.windows.net/72f988bf-86f1-41af-91ab-2d7cd011db47/", &["api://orders"]);
    let Some(product) = Product::new("entra-v1", config) else { return };
    let verified = product.verdict("v1 with api").unwrap();
    assert_eq!(verified.principal().client_id.as_deref(), Some("75dbe77f-10a3-4e59-85fd-8c127544f17c"));
    assert_eq!(product.verdict("v2 token").map(|_| ()).unwrap_err(), reason::TOKEN_ISSUER_MISMATCH);
}

#[test]
fn okta() {
    let mut config = config(IssuerKind::Okta, "https://acme.okta.com/oauth2/default", &["api://default"]);
    config.claims = ClaimPaths { groups: Some("GroupsClaim".into()), ..ClaimPaths::default() };
    let Some(product) = Product::new("okta", config) else { return };
    let user = product.verdict("user, custom AS").unwrap();
    assert_eq!(list(&user.principal().scopes), ["openid", "email"]);
    assert_eq!(user.principal().client_id.as_deref(), Some("0oaipnnzumvqt5tiu1d6"));
    assert_eq!(list(&product.verdict("groups claim").unwrap().principal().groups), ["Midwest Sales", "Everyone"]);
    assert_eq!(list(&product.verdict("client_credentials").unwrap().principal().scopes), ["orders.read"]);
    assert!(product.verdict("scp array").unwrap().principal().scopes.is_empty(), "nothing is granted by splitting");
    assert_eq!(product.verdict("DPoP").map(|_| ()).unwrap_err(), reason::TOKEN_BINDING_MISMATCH);
}

#[test]
fn ping() {
    let one = config(IssuerKind::Ping, "https://auth.pingone.com/11111111-2222-3333-4444-555555555555/as", &["orders-api"]);
    let Some(product) = Product::new("ping", one) else { return };
    let user = product.verdict("pingone user").unwrap();
    assert_eq!(list(&user.principal().roles), ["orders:read"]);
    assert_eq!(&*user.principal().subject, "u0000000-0000-0000-0000-000000000001");
    assert_eq!(
        &*product.verdict("pingone client_credentials").unwrap().principal().subject,
        "c0000000-0000-0000-0000-000000000001"
    );
    let federate = config(IssuerKind::Ping, "https://pf.example.com:9031", &["orders"]);
    let product = Product::new("ping", federate).unwrap();
    assert_eq!(list(&product.verdict("pingfederate").unwrap().principal().scopes), ["openid", "orders:read"]);
}

#[test]
fn discovery_documents() {
    for (file, member) in [
        ("keycloak", "discovery"),
        ("okta", "discovery"),
        ("entra-v1", "discovery"),
        ("entra-v2", "discovery_tenant"),
        ("entra-v2", "discovery_common"),
        ("ping", "pingone_discovery"),
        ("ping", "pingfederate_discovery"),
    ] {
        let Some(shape) = shape(file, "k") else { return };
        let document = &shape[member];
        let issuer = document["issuer"].as_str().unwrap();
        let at = "https://sso.example.com/.well-known/openid-configuration".parse().unwrap();
        let read = |issuer: &str| discovery::keys_address(document.to_string().as_bytes(), &at, issuer, Trust::LoopbackHttp);
        assert_eq!(
            read(issuer).unwrap_or_else(|error| panic!("{file}: {error}")).as_str(),
            document["jwks_uri"].as_str().unwrap()
        );
        assert!(read(&format!("{issuer}/")).is_err() && read(&issuer[..issuer.len() - 1]).is_err(), "{file}");
    }
}

#[test]
fn key_sets_as_they_changed_over_years() {
    for (file, issuer, least) in [
        ("jwks-history-entra-common", "https://login.microsoftonline.com/72f988bf-86f1-41af-91ab-2d7cd011db47/v2.0", 3),
        ("jwks-history-google", "https://accounts.google.com", 2),
    ] {
        let Some(text) = shared(&format!("idp-shapes/{file}.json")) else { return };
        let file: Value = serde_json::from_str(&text).unwrap();
        for entry in file["history"].as_array().unwrap() {
            let parsed = crate::jwks::parse(entry["jwks"].to_string().as_bytes(), issuer)
                .unwrap_or_else(|error| panic!("{}: {error}", entry["at"]));
            assert!(parsed.keys.len() >= least, "{}: {} keys, {:?}", entry["at"], parsed.keys.len(), parsed.dropped);
            assert!(parsed.dropped.iter().all(|key| key.why == "it is for another issuer"), "{:?}", parsed.dropped);
        }
    }
}

#[test]
fn an_encryption_key_verifies_nothing_even_if_it_is_named() {
    // Keycloak publishes two RSA keys, the second for encryption.
    let (signing, encryption) = (Signer::shared_rsa(), Signer::rsa("enc"));
    let mut other = encryption.bare_jwk();
    other["use"] = "enc".into();
    other["alg"] = "RSA-OAEP".into();
    let keys = jwks(&[signing.jwk(), other]);
    let issuer = offline(IssuerConfig::new(super::ISSUER, [super::AUDIENCE]), &keys);
    let verdict = |token: String| match issuer.verify(&token, &mut super::exchange()) {
        Verification::Verified(_) => Ok(()),
        Verification::Refused(reason) => Err(reason),
        Verification::Wait(_) => panic!("waits"),
    };
    assert_eq!(verdict(encryption.token(&json!({}))), Err(reason::TOKEN_KID_UNKNOWN));
    assert_eq!(verdict(signing.token_headed(&json!({ "kid": null }))), Ok(()), "the only one that it can mean");
}

#[test]
fn an_id_token_is_accepted_only_where_that_is_said_and_only_of_the_applications_that_are_named() {
    let key = Signer::new("a");
    let id = |changes: Value| {
        key.token_with(&json!({ "alg": "ES256", "kid": "a", "typ": "JWT" }), &{
            let claims = super::signer::merged(super::signer::claims(), &json!({ "scope": null, "at_hash": "x", "nonce": "n" }));
            super::signer::merged(claims, &changes)
        })
    };
    let judge = |accept: Option<bool>, kind: IssuerKind, token: String| {
        let mut config = config(kind, super::ISSUER, &[super::AUDIENCE]);
        config.accept_id_tokens = accept;
        super::explained(&offline(config, &jwks(&[key.jwk()])), &token).0.map(|_| ())
    };
    let generic = IssuerKind::Generic;
    for accept in [None, Some(false)] {
        assert_eq!(judge(accept, generic, id(json!({}))), Err(reason::TOKEN_TYP_REFUSED));
    }
    assert_eq!(judge(Some(true), generic, id(json!({}))), Ok(()));
    assert_eq!(judge(Some(true), generic, id(json!({ "azp": super::AUDIENCE }))), Ok(()));
    // Made for another application that named this one as a second audience.
    let shared = json!({ "aud": [super::AUDIENCE, "other"], "azp": "other" });
    assert_eq!(judge(Some(true), generic, id(shared.clone())), Err(reason::TOKEN_AUDIENCE_MISMATCH));
    assert_eq!(judge(Some(true), generic, id(json!({ "aud": "other" }))), Err(reason::TOKEN_AUDIENCE_MISMATCH));
    // What is never an access token stays refused.
    for never in [json!({ "typ": "Refresh" }), json!({ "events": { "http://schemas.openid.net/event/backchannel-logout": {} } })]
    {
        assert_eq!(judge(Some(true), generic, id(never)), Err(reason::TOKEN_TYP_REFUSED));
    }
    assert_eq!(judge(None, IssuerKind::Google, id(json!({}))), Ok(()));
    assert_eq!(judge(None, IssuerKind::Google, id(shared)), Err(reason::TOKEN_AUDIENCE_MISMATCH));
    assert_eq!(judge(Some(false), IssuerKind::Google, id(json!({}))), Err(reason::TOKEN_TYP_REFUSED));
}

#[test]
fn the_client_in_place_of_an_audience_is_no_mark_of_an_id_token() {
    let key = Signer::new("a");
    let hint = |kind: IssuerKind, changes: Value| {
        let issuer = offline(config(kind, super::ISSUER, &[super::AUDIENCE]), &jwks(&[key.jwk()]));
        let (_, checks) = super::explained(&issuer, &key.token(&changes));
        checks.into_iter().find(|check| check.check == "audience").and_then(|check| check.finding.hint)
    };
    assert_eq!(hint(IssuerKind::Cognito, json!({ "aud": null, "client_id": "web", "token_use": "access" })), None);
    let id = hint(IssuerKind::Generic, json!({ "aud": "web", "client_id": "web" }));
    assert!(id.is_some_and(|hint| hint.contains("ID token")));
}
