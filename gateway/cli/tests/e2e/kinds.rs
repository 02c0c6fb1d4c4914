//! Which kind of token is which: ID tokens for the audience of an API, of each product, on the wire and explained; and keys
//! that stand where everybody logs.

use crate::stage::{Call, Stage};
use crate::why_catalogue::why;
use portcullis_testkit::token::{Alg, TokenSpec};
use serde_json::{Value, json};

const KEY: &str = "pc_9nXygT3vK8sQ1bWc7RzLmPq4HdJ6fYtUaXeN2oVgCi5BkES0wZ";

const CONFIG: &str = r#"
issuers:
  generic: { issuer: "{ISSUER}", audiences: [https://api.example.test], algorithms: [ES256] }
  entra: { issuer: "{ISSUER}", kind: entra, audiences: [https://api.example.test], algorithms: [ES256] }
  okta: { issuer: "{ISSUER}", kind: okta, audiences: [https://api.example.test], algorithms: [ES256] }
  ping: { issuer: "{ISSUER}", kind: ping, audiences: [https://api.example.test], algorithms: [ES256] }
  auth0: { issuer: "{ISSUER}", kind: auth0, audiences: [https://api.example.test], algorithms: [ES256] }
routes:
  - { name: generic, match: { path: /generic }, filters: [{ oidc: { issuer: generic } }], pool: up }
  - { name: entra, match: { path: /entra }, filters: [{ oidc: { issuer: entra, roles: [Admin] } }], pool: up }
  - { name: okta, match: { path: /okta }, filters: [{ oidc: { issuer: okta } }], pool: up }
  - { name: ping, match: { path: /ping }, filters: [{ oidc: { issuer: ping } }], pool: up }
  - { name: auth0, match: { path: /auth0 }, filters: [{ oidc: { issuer: auth0 } }], pool: up }
  - { name: signed_in, match: { path: /signed-in }, filters: [{ oidc: { issuer: entra, accept_id_tokens: true } }], pool: up }
  - { name: key, match: { path: /key }, filters: [{ api_key: { header: x-api-key, file: keys.txt } }], pool: up }
"#;

const KEYS: &str = "one sha256:40fb5749bc150b2dd1cb35fd9e8a93eb15b3e8292baddbe3ec4742b0b79f08f4 owner=a\n";

async fn start() -> Stage {
    Stage::builder().algs(&[Alg::Es256]).start_with_files(CONFIG, &[("keys.txt", KEYS)]).await
}

/// With a `typ` that says nothing, and nothing of a scope.
fn token(stage: &Stage, claims: &Value) -> String {
    let bare = TokenSpec::new().alg(Alg::Es256).header("typ", "JWT").without("scope").without("client_id");
    let claims = claims.as_object().unwrap().iter();
    stage.provider.issue(&claims.fold(bare, |spec, (name, value)| spec.claim(name, value.clone()))).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_token_for_the_audience_of_the_api_opens_nothing() {
    let stage = start().await;
    let signed_in = json!({ "name": "Alice", "email": "a@b.example", "preferred_username": "a", "auth_time": 1, "amr": ["pwd"] });
    let with = |more: Value| {
        let mut all = signed_in.clone();
        more.as_object().unwrap().iter().for_each(|(name, value)| all[name] = value.clone());
        all
    };
    for (path, claims) in [
        ("/entra", with(json!({ "ver": "2.0", "oid": "o", "roles": ["Admin"] }))),
        ("/entra", with(json!({ "ver": "2.0", "oid": "o", "roles": ["Admin"], "nonce": "n" }))),
        ("/okta", with(json!({ "jti": "ID.x", "ver": 1 }))),
        ("/ping", with(json!({ "env": "e", "org": "o" }))),
        ("/auth0", with(json!({ "nickname": "a", "azp": "https://api.example.test" }))),
        ("/generic", with(json!({ "azp": "https://api.example.test" }))),
        ("/generic", with(json!({ "roles": ["Admin"] }))),
    ] {
        let token = token(&stage, &claims);
        let call = Call::get(path).bearer(&token);
        let judged = stage.judge(&call).await;
        judged.refused(401, "token.typ.refused");
        let text = why(&stage, &judged.response, "token.typ.refused").await;
        assert!(text.contains("an ID token (") && text.contains("accept_id_tokens: true"), "{text}");
    }
    assert_eq!(stage.upstream.count(), 0);
    // What the products' access tokens have, beside all that.
    for (path, claims) in [
        ("/entra", with(json!({ "azp": "app", "roles": ["Admin"] }))),
        ("/okta", with(json!({ "cid": "app", "scp": ["openid"] }))),
        ("/ping", with(json!({ "client_id": "app" }))),
        ("/auth0", with(json!({ "azp": "app" }))),
        ("/generic", with(json!({ "client_id": "app" }))),
        ("/generic", json!({})),
    ] {
        stage.judge(&Call::get(path).bearer(&token(&stage, &claims))).await.allowed(200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_that_takes_id_tokens_opens_no_other_that_shares_its_issuer() {
    let stage = start().await;
    let token = token(&stage, &json!({ "ver": "2.0", "name": "Alice", "roles": ["Admin"], "nonce": "n" }));
    // Twice each: what one route verified is remembered for all.
    for _ in 0..2 {
        stage.judge(&Call::get("/signed-in").bearer(&token)).await.allowed(200);
        stage.judge(&Call::get("/entra").bearer(&token)).await.refused(401, "token.typ.refused");
    }
    assert_eq!(stage.upstream.count(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_in_the_path_is_written_nowhere_and_one_in_the_wrong_place_is_found() {
    let stage = start().await;
    for target in [format!("/key/{KEY}"), format!("/key/a;v={KEY}/b"), format!("/key/{}", KEY.replace('_', "%5f"))] {
        let response = stage.send(&Call::get(&target)).await;
        let text = why(&stage, &response, "api_key.missing").await;
        assert!(text.contains("[redacted]") && !text.contains("9nXyg"), "{text}");
        assert!(stage.line(&response).await["path"].as_str().unwrap().contains("[redacted]"));
    }
    let response = stage.send(&Call::get("/key").field("Authorization", format!("Bearer {KEY}"))).await;
    let text = why(&stage, &response, "api_key.missing").await;
    assert!(text.contains("a key was found in the header `authorization` after another scheme than `ApiKey`"), "{text}");
    let response = stage.send(&Call::get("/generic").field("Authorization", format!("Bearer {KEY}"))).await;
    assert!(why(&stage, &response, "token.malformed").await.contains("an API key is no token"));
    let log = std::fs::read_to_string(stage.file("access.jsonl")).unwrap();
    assert!(!log.contains("9nXyg"), "{log}");
}
