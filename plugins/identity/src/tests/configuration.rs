//! Configurations that are refused, and what they say; and the keys of a file and of a private HTTPS.

use super::provider::Provider;
use super::signer::{Signer, jwks};
use super::{AUDIENCE, ISSUER, World, verdict};
use crate::{IssuerConfig, Issuers};
use portcullis_plugin::env::Kept;
use portcullis_plugin::prometheus::Registry;
use portcullis_plugin::{ConfigError, Env, reason};
use rcgen::{CertificateParams, IsCa, KeyPair};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

fn merged(changes: &Value) -> Value {
    super::signer::merged(json!({ "issuer": ISSUER, "audiences": [AUDIENCE] }), changes)
}

fn compile(changes: &Value) -> Result<Arc<Issuers>, ConfigError> {
    let config: IssuerConfig = serde_json::from_value(merged(changes)).unwrap_or_else(|error| panic!("{changes}: {error}"));
    Issuers::compile(&BTreeMap::from([("main".to_owned(), config)]), &World::default().env())
}

#[test]
fn what_cannot_work_or_has_no_effect_is_refused_with_its_place() {
    for (changes, path, part) in [
        (json!({ "issuer": "" }), "issuer", "empty"),
        (json!({ "issuer": " https://a.example" }), "issuer", "spaces"),
        (json!({ "issuer": "accounts.google.com" }), "issuer", "`jwks_uri`"),
        (json!({ "issuer": "http://sso.example.com" }), "issuer", "plain HTTP"),
        (json!({ "issuer": "http://localhost.example.com" }), "issuer", "plain HTTP"),
        (json!({ "issuer": "ftp://a.example" }), "issuer", "neither"),
        (json!({ "jwks_uri": "http://10.0.0.1/keys" }), "jwks_uri", "insecure_http"),
        (json!({ "jwks_uri": "keys" }), "jwks_uri", "not an address"),
        (json!({ "jwks_uri": "http://bob:pw@127.0.0.1/keys" }), "jwks_uri", "a user or a password"),
        (json!({ "discovery": "https://bob@a.example/" }), "discovery", "a user or a password"),
        (json!({ "issuer": "https://bob:pw@a.example" }), "issuer", "a user or a password"),
        (
            json!({ "introspection": { "client_id": "a", "endpoint": "https://a:b@a.example/", "client_secret_file": "Cargo.toml" } }),
            "introspection.endpoint",
            "a user or a password",
        ),
        (json!({ "discovery": "http://10.0.0.1/" }), "discovery", "plain HTTP"),
        (json!({ "jwks_uri": "https://a.example", "discovery": "https://a.example" }), "discovery", "no effect"),
        (json!({ "audiences": [] }), "audiences", "no audience"),
        (json!({ "audiences": ["a", ""] }), "audiences[1]", "empty"),
        (json!({ "algorithms": [] }), "algorithms", "no algorithm"),
        (json!({ "token_types": [] }), "token_types", "no token type"),
        (json!({ "leeway": "6m" }), "leeway", "at most 5m"),
        (json!({ "refresh": "0s" }), "refresh", "zero"),
        (json!({ "max_wait": "0ms" }), "max_wait", "zero"),
        (json!({ "refresh": "2h", "max_stale": "1h" }), "max_stale", "at least"),
        (json!({ "claims": { "roles": "" } }), "claims.roles", "empty"),
        (json!({ "ca": "nowhere.pem" }), "ca", "cannot read"),
        (json!({ "jwks_file": "nowhere.json" }), "jwks_file", "cannot read"),
        (json!({ "jwks_file": "k", "jwks_uri": "https://a.example" }), "jwks_uri", "no effect"),
        (json!({ "jwks_file": "k", "ca": "c" }), "ca", "no effect"),
        (json!({ "jwks_file": "k", "insecure_http": true }), "insecure_http", "no effect"),
        (json!({ "jwks_file": "k", "refresh": "1m" }), "refresh", "no effect"),
    ] {
        let error = compile(&changes).err().unwrap_or_else(|| panic!("{changes} is accepted"));
        assert_eq!(error.dotted_path(), format!("issuers.main.{path}"), "{changes}: {error}");
        assert!(error.to_string().contains(part), "{changes}: {error}");
    }
}

/// What should have been percent-encoded makes an address unreadable, and is a password.
#[test]
fn an_address_that_cannot_be_read_is_not_repeated() {
    for address in ["https://bob:s3cret/x@a.example/", "https://bob:s3cret#x@a.example/", "https://bob:s3cret?x@a.example/"] {
        for key in ["issuer", "discovery", "jwks_uri"] {
            let error = compile(&json!({ key: address })).err().unwrap();
            assert_eq!(error.dotted_path(), format!("issuers.main.{key}"), "{error}");
            assert!(!error.to_string().contains("s3cret"), "{error}");
        }
    }
}

#[test]
fn what_cannot_be_meant_does_not_even_parse() {
    for (changes, part) in [
        (json!({ "algorithms": ["none"] }), "never accepted"),
        (json!({ "algorithms": ["HS256"] }), "symmetric"),
        (json!({ "algorithms": ["ES256K"] }), "not supported"),
        (json!({ "token_types": ["logout+jwt"] }), "never accepted"),
        (json!({ "audience": "x" }), "unknown field"),
        (json!({ "claims": { "role": "x" } }), "unknown field"),
        (json!({ "kind": "okto" }), "unknown variant"),
    ] {
        let error = serde_json::from_value::<IssuerConfig>(merged(&changes)).unwrap_err().to_string();
        assert!(error.contains(part), "{changes}: {error}");
    }
}

#[test]
fn what_is_sensible_compiles() {
    for changes in [
        json!({}),
        json!({ "issuer": "http://127.0.0.1:9400" }),
        json!({ "issuer": "http://keycloak:8080/realms/a", "insecure_http": true }),
        json!({ "discovery": "https://keycloak.internal/realms/a/.well-known/openid-configuration" }),
        json!({ "issuer": "kubernetes/serviceaccount", "jwks_uri": "https://kubernetes.default/openid/v1/jwks" }),
        json!({ "kind": "entra", "claims": { "subject": "oid" }, "token_types": ["JWT"], "cache": "0B", "max_stale": "7d" }),
    ] {
        let issuers = compile(&changes).unwrap_or_else(|error| panic!("{changes}: {error}"));
        assert_eq!(issuers.names().collect::<Vec<_>>(), ["main"]);
        assert!(issuers.get("mian").is_none());
    }
}

#[tokio::test]
async fn keys_of_a_file_need_no_network_and_are_read_again() {
    let (first, second) = (Signer::new("a"), Signer::new("b"));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.json");
    std::fs::write(&file, jwks(&[first.jwk()])).unwrap();
    let mut config = IssuerConfig::new(ISSUER, [AUDIENCE]);
    config.jwks_file = Some("keys.json".into());
    let configs = BTreeMap::from([("main".to_owned(), config)]);
    let (kept, registry) = (Arc::new(Kept::default()), Registry::new());
    let env = || Env::new(folder.path(), registry.clone(), Arc::clone(&kept));
    let compile = || {
        let env = env();
        let issuers = Issuers::compile(&configs, &env);
        assert_eq!(env.files(), std::slice::from_ref(&file), "watched");
        issuers
    };
    let issuers = compile().unwrap();
    let issuer = issuers.get("main").unwrap();
    verdict(&issuer, &first.token(&json!({}))).await.unwrap();
    assert_eq!(verdict(&issuer, &second.token(&json!({}))).await.unwrap_err(), reason::TOKEN_KID_UNKNOWN);
    std::fs::write(&file, jwks(&[second.jwk()])).unwrap();
    let issuer = compile().unwrap().get("main").unwrap();
    verdict(&issuer, &second.token(&json!({}))).await.unwrap();
    assert_eq!(verdict(&issuer, &first.token(&json!({}))).await.unwrap_err(), reason::TOKEN_KID_UNKNOWN);
    for bad in ["", "{}", r#"{"keys":[]}"#, "<html>"] {
        std::fs::write(&file, bad).unwrap();
        assert_eq!(compile().err().unwrap().dotted_path(), "issuers.main.jwks_file");
    }
}

#[tokio::test]
async fn a_private_ca_is_believed_only_where_it_is_named() {
    let key = Signer::new("a");
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
    let server_key = KeyPair::generate().unwrap();
    let server = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let server = server.signed_by(&server_key, &rcgen::Issuer::from_params(&ca, &ca_key)).unwrap();
    let provider = Provider::start_tls(&[&key], server.der().clone(), server_key.serialize_der()).await;

    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("ca.pem"), ca_pem).unwrap();
    let with = |ca: Option<&str>| {
        let mut config = IssuerConfig::new(provider.issuer(), [AUDIENCE]);
        config.ca = ca.map(str::to_owned);
        let env = Env::new(folder.path(), Registry::new(), Arc::default());
        Issuers::compile(&BTreeMap::from([("main".to_owned(), config)]), &env).unwrap().get("main").unwrap()
    };
    let token = key.token(&json!({ "iss": provider.issuer() }));
    verdict(&with(Some("ca.pem")), &token).await.unwrap();
    let public = with(None);
    assert_eq!(verdict(&public, &token).await.unwrap_err(), reason::ISSUER_UNAVAILABLE);
    assert!(public.store().last_error().unwrap().contains("certificate"), "{:?}", public.store().last_error());
}
