//! Tokens that only their sender may use, through the whole gateway: on the wire, in the log, and explained offline.

use crate::stage::{Call, HOST, Stage};
use portcullis_testkit::dpop::hash;
use portcullis_testkit::{Alg, Http2Client, Prover, TokenSpec};
use serde_json::json;

const CONFIG: &str = r#"
issuers:
  main: { issuer: "{ISSUER}", audiences: [https://api.example.test] }
routes:
  - name: proven
    match: { path: /proven }
    filters: [{ oidc: { issuer: main, binding: { dpop: {} } } }]
    pool: up
  - name: other
    match: { path: /proven, headers: { x-route: other } }
    filters: [{ oidc: { issuer: main, binding: { dpop: {} } } }]
    pool: up
  - name: nonce
    match: { path: /nonce }
    filters: [{ oidc: { issuer: main, binding: { require: dpop, dpop: { nonce: {} } } } }]
    pool: up
  - name: plain
    filters: [{ oidc: { issuer: main } }]
    pool: up
"#;

const URL: &str = "http://api.example.test/proven";

async fn start() -> Stage {
    Stage::builder().algs(&[Alg::Es256]).start(CONFIG).await
}

fn issue(stage: &Stage, cnf: serde_json::Value) -> String {
    stage.provider.issue(&TokenSpec::new().alg(Alg::Es256).claim("cnf", cnf)).unwrap()
}

fn dpop(target: &str, token: &str, proof: &str) -> Call<'static> {
    Call::get(target).field("Authorization", format!("DPoP {token}")).field("DPoP", proof)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proof_lets_one_request_through_and_goes_no_further() {
    let stage = start().await;
    let prover = Prover::new().unwrap();
    let token = issue(&stage, json!({ "jkt": prover.thumbprint() }));
    let proof = prover.proof(&token, "GET", URL).unwrap();
    stage.judge(&dpop("/proven?x=1", &token, &proof)).await.allowed(200);
    let seen = stage.upstream.last().unwrap();
    assert!(seen.header("authorization").is_none() && seen.header("dpop").is_none());

    // Again: at the same route, at another that the same address leads to, and after a reload.
    let again = async |call: Call<'static>| stage.log(&call).await.1["reason"].clone();
    assert_eq!(again(dpop("/proven", &token, &proof)).await, "dpop.replay");
    assert_eq!(again(dpop("/proven", &token, &proof).field("X-Route", "other")).await, "dpop.replay");
    stage.gateway.reload().await.unwrap();
    assert_eq!(again(dpop("/proven", &token, &proof)).await, "dpop.replay");
    assert_eq!(stage.upstream.count(), 1);

    // The address as the client sent it, which the gateway writes with fewer slashes; and one that it did not send.
    let doubled = prover.proof(&token, "GET", "http://api.example.test//proven").unwrap();
    assert_eq!(again(dpop("/proven", &token, &doubled)).await, "dpop.proof.invalid");
    stage.judge(&dpop("//proven", &token, &doubled)).await.allowed(200);
    stage.assert_kept_secret(&[token, proof]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stolen_token_is_refused_everywhere() {
    let stage = start().await;
    let (owner, thief) = (Prover::new().unwrap(), Prover::new().unwrap());
    let token = issue(&stage, json!({ "jkt": owner.thumbprint() }));
    for target in ["/proven", "/nonce", "/elsewhere"] {
        stage.judge(&Call::get(target).bearer(&token)).await.refused(401, "token.binding.mismatch");
    }
    let proof = |prover: &Prover, token: &str, url: &str| prover.proof(token, "GET", url).unwrap();
    stage.judge(&dpop("/proven", &token, &proof(&thief, &token, URL))).await.refused(401, "token.binding.mismatch");
    let elsewhere = proof(&owner, &token, "http://evil.test/proven");
    let judged = stage.judge(&dpop("/proven", &token, &elsewhere)).await;
    judged.refused(401, "dpop.proof.invalid");
    assert!(judged.response.header("www-authenticate").unwrap().contains("error=\"invalid_dpop_proof\""));
    assert!(!judged.response.text().contains("evil.test"), "the client learns no more than the status");
    // `explain` names the part that is wrong.
    let checks = judged.explanation["checks"].as_array().unwrap();
    let failed: Vec<_> = checks.iter().filter(|check| check["ok"] == false).collect();
    assert!(failed.len() == 1 && failed[0]["check"] == "proof_url", "{failed:?}");
    assert_eq!(stage.upstream.count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_is_led_to_its_nonce() {
    let stage = start().await;
    let prover = Prover::new().unwrap();
    let token = issue(&stage, json!({ "jkt": prover.thumbprint() }));
    let url = "http://api.example.test/nonce";
    let first = stage.judge(&dpop("/nonce", &token, &prover.proof(&token, "GET", url).unwrap())).await;
    first.refused(401, "dpop.nonce.required");
    let challenge = first.response.header("www-authenticate").unwrap();
    assert!(challenge.starts_with("DPoP ") && challenge.contains("error=\"use_dpop_nonce\""), "{challenge}");
    let nonce = first.response.header("dpop-nonce").unwrap();
    // Over HTTP/2, and after a reload: it is still the same gateway.
    stage.gateway.reload().await.unwrap();
    let proof = prover.with_nonce(&token, "GET", url, Some(&nonce)).unwrap();
    let authorization = format!("DPoP {token}");
    let mut client = Http2Client::connect(stage.http()).await.unwrap();
    let fields = [("authorization", authorization.as_str()), ("dpop", proof.as_str())];
    assert_eq!(client.get(HOST, "/nonce", &fields).await.unwrap().status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_bound_to_a_certificate_is_good_on_connections_with_it() {
    let stage = start().await;
    let (mine, other) = (stage.clients.client("mine").unwrap(), stage.clients.client("other").unwrap());
    let token = issue(&stage, json!({ "x5t#S256": hash(mine.chain()[0].as_ref()) }));
    let call = |certificate| Call::get("/").over_tls(certificate).bearer(&token);
    stage.judge(&call(Some(&mine))).await.allowed(200);
    for certificate in [None, Some(&other)] {
        stage.judge(&call(certificate)).await.refused(401, "token.binding.mismatch");
    }
    stage.judge(&Call::get("/").bearer(&token)).await.refused(401, "token.binding.mismatch");
    assert_eq!(stage.upstream.count(), 1);
}
