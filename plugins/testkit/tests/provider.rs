//! The provider serves, fails and comes back as told.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use portcullis_testkit::client::{head, once};
use portcullis_testkit::provider::{CLIENT, Endpoint, Fault};
use portcullis_testkit::{Alg, Client, Provider, Response, Rotation};
use serde_json::{Value, json};
use std::time::Duration;

async fn get(provider: &Provider, target: &str) -> Response {
    once(provider.address(), head("GET", "provider", target, &[("connection", "close")])).await.unwrap()
}

#[tokio::test]
async fn discovery_leads_to_the_keys() {
    let provider = Provider::builder().path("/realms/acme").algs(&[Alg::Es256, Alg::EdDsa]).start().await.unwrap();
    let document = get(&provider, "/realms/acme/.well-known/openid-configuration").await.json().unwrap();
    assert_eq!(document["issuer"], provider.issuer());
    assert_eq!(document["jwks_uri"], provider.jwks_uri());
    let set = get(&provider, "/realms/acme/jwks").await.json().unwrap();
    assert_eq!(set["keys"].as_array().unwrap().len(), 2);
    assert_eq!(set, provider.tokens().jwks().unwrap());
    assert_eq!((provider.discovery_fetches(), provider.jwks_fetches()), (1, 1));
    assert_eq!(get(&provider, "/jwks").await.status, 404);
    provider.rotate(Rotation::Overlap);
    assert_eq!(get(&provider, "/realms/acme/jwks").await.json().unwrap()["keys"].as_array().unwrap().len(), 4);
}

#[tokio::test]
async fn tokens_are_granted_to_the_client_and_nobody_else() {
    let provider = Provider::builder().algs(&[Alg::Es256]).start().await.unwrap();
    let ask = async |fields: &[(&str, &str)], form: String| {
        let mut client = Client::connect(provider.address()).await.unwrap();
        client.post("provider", "/token", fields, form.as_bytes()).await.unwrap()
    };
    let good = "grant_type=client_credentials&alg=ES256&resource=https%3A%2F%2Fapi.example.test%2Fx&scope=api%3Aread+api%3Awrite";
    let granted = ask(&[("authorization", "Basic bTJtOm0ybS1zZWNyZXQ=")], good.to_owned()).await.json().unwrap();
    let token = granted["access_token"].as_str().unwrap().to_owned();
    let claims = token.split('.').nth(1).unwrap();
    let claims: Value = serde_json::from_slice(&base64_url(claims)).unwrap();
    assert_eq!((&claims["aud"], &claims["scope"]), (&json!("https://api.example.test/x"), &json!("api:read api:write")));

    let posted = format!("{good}&client_id={}&client_secret={}", CLIENT.0, CLIENT.1);
    assert_eq!(ask(&[], posted).await.status, 200);
    assert_eq!(ask(&[], good.to_owned()).await.status, 401);
    let wrong = ask(&[("authorization", "Basic bTJtOm0ybS1zZWNyZXQ=")], "grant_type=password".to_owned()).await;
    assert_eq!((wrong.status, wrong.json().unwrap()["error"].clone()), (400, json!("unsupported_grant_type")));
    assert_eq!(provider.token_requests(), 4);
}

fn base64_url(text: &str) -> Vec<u8> {
    use base64::Engine;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(text).unwrap()
}

#[tokio::test]
async fn faults_come_as_often_as_told() {
    let provider = Provider::builder().algs(&[Alg::EdDsa]).start().await.unwrap();
    provider.fail(503, 2);
    assert_eq!(get(&provider, "/jwks").await.status, 503);
    assert_eq!(get(&provider, "/.well-known/openid-configuration").await.status, 503);
    assert_eq!(get(&provider, "/jwks").await.status, 503);
    assert_eq!(get(&provider, "/jwks").await.status, 200);
    assert_eq!(provider.jwks_fetches(), 3);

    provider.serve_garbage(Fault::Html);
    for _ in 0..3 {
        assert_eq!(get(&provider, "/jwks").await.header("content-type").as_deref(), Some("text/html"));
    }
    provider.serve_garbage(Fault::CutOff);
    assert!(get(&provider, "/jwks").await.json().is_err());
    provider.serve_garbage(Fault::NoKeys);
    assert_eq!(get(&provider, "/jwks").await.json().unwrap(), json!({ "keys": [] }));
    provider.serve_garbage(Fault::Huge(5 << 20));
    assert!(get(&provider, "/jwks").await.body_len > 5 << 20);
    provider.serve_garbage(Fault::Redirect("http://127.0.0.1:1/".to_owned()));
    assert_eq!(get(&provider, "/jwks").await.header("location").as_deref(), Some("http://127.0.0.1:1/"));
    provider.serve_garbage(Fault::PlainText);
    let plain = get(&provider, "/jwks").await;
    assert_eq!(plain.header("content-type").as_deref(), Some("text/plain"));
    assert_eq!(plain.json().unwrap(), provider.tokens().jwks().unwrap());

    provider.fault(Endpoint::Discovery, Fault::Hang, None);
    let hanging = get(&provider, "/.well-known/openid-configuration");
    assert!(tokio::time::timeout(Duration::from_millis(100), hanging).await.is_err());
    provider.heal();
    provider.discovery("issuer", "https://other.example");
    provider.discovery("jwks_uri", Value::Null);
    let document = get(&provider, "/.well-known/openid-configuration").await.json().unwrap();
    assert_eq!((&document["issuer"], document.get("jwks_uri")), (&json!("https://other.example"), None));
}

#[tokio::test]
async fn an_unchanged_set_is_not_sent_again() {
    let provider = Provider::builder().algs(&[Alg::EdDsa]).start().await.unwrap();
    provider.cache_control("max-age=60");
    let first = get(&provider, "/jwks").await;
    assert_eq!(first.header("cache-control").as_deref(), Some("max-age=60"));
    let tag = first.header("etag").unwrap();
    let again = || async {
        let fields = [("if-none-match", tag.as_str()), ("connection", "close")];
        once(provider.address(), head("GET", "provider", "/jwks", &fields)).await.unwrap().status
    };
    assert_eq!((again().await, provider.not_modified()), (304, 1));
    provider.rotate(Rotation::HardCut);
    assert_eq!(again().await, 200);
}

#[tokio::test]
async fn it_goes_away_and_comes_back_on_its_port() {
    let provider = Provider::builder().algs(&[Alg::EdDsa]).start().await.unwrap();
    let mut open = Client::connect(provider.address()).await.unwrap();
    assert_eq!(open.get("provider", "/jwks", &[]).await.unwrap().status, 200);
    provider.go_down().await;
    assert!(open.is_closed().await.unwrap(), "open connections end");
    assert!(Client::connect(provider.address()).await.is_err(), "new ones are refused");
    provider.come_back().unwrap();
    provider.come_back().unwrap();
    assert_eq!(get(&provider, "/jwks").await.status, 200);
    let address = provider.address();
    drop(provider);
    portcullis_testkit::until("the end of the listener", || std::net::TcpStream::connect(address).is_err()).await.unwrap();
}
