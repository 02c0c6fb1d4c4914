//! Combined policies: a certificate and a token, or a key; and what the wrong combination gets.

use super::stage::{Call, Stage};
use portcullis_plugins::api_key::hash;
use portcullis_testkit::token::{Alg, TokenSpec};

const KEY: &str = "0f1e2d3c4b5a69788796a5b4c3d2e1f00123456789abcdeffedcba9876543210";

const CONFIG: &str = r#"
issuers: { main: { issuer: "{ISSUER}", audiences: [https://api.example.test] } }
routes:
  - name: orders
    match: { path: /orders }
    filters:
      - any_of:
          - all_of:
              - client_cert: { san_dns: "*.partner.example", principal: { subject: san_dns, roles: [partner] } }
              - oidc: { issuer: main }
          - api_key: { file: keys.txt }
          - all_of: [{ ip_allow: { allow: [127.0.0.9] } }, { authorize: { allow: [{ methods: GET, paths: /orders/public }] } }]
      - identity_headers: { headers: { x-user: sub, x-method: method, x-cert: cert.san_dns }, forward_token: true }
    pool: up
  - name: certificates
    match: { path: /certificates }
    filters:
      - client_cert: { principal: { subject: san_dns, roles: [partner] } }
      - authorize: { allow: [{ roles: partner, paths: [/certificates/a] }] }
      - identity_headers: { headers: { x-user: sub, x-roles: roles } }
      - client_cert_header: { require: true }
    pool: up
"#;

async fn start(issuer_down: bool) -> Stage {
    let builder = Stage::builder().algs(&[Alg::Es256]);
    let builder = if issuer_down { builder.issuer_down() } else { builder };
    let stage = builder.start("routes: [{ name: none, pool: up }]").await;
    let line = format!("ci sha256:{} owner=acme\n", hash(KEY).unwrap().trim_start_matches("sha256:"));
    std::fs::write(stage.file("keys.txt"), line).unwrap();
    stage.rewrite(CONFIG);
    stage.gateway.reload().await.unwrap();
    stage
}

fn spec() -> TokenSpec {
    TokenSpec::new().alg(Alg::Es256)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_and_a_token_or_a_key() {
    let stage = start(false).await;
    let inspection = stage.inspect();
    let good = stage.provider.issue(&spec()).unwrap();
    let expired = stage.provider.issue(&spec().expires_in(-600)).unwrap();
    let partner = stage.clients.leaf("Acme").dns("acme.partner.example").issue().unwrap();
    let stranger = stage.clients.leaf("Other").dns("other.example").issue().unwrap();
    let tls = |identity| Call::get("/orders").over_tls(identity);

    // All of one alternative: the token is who it is, and the certificate stays within reach.
    stage.judge_by(&inspection, &tls(Some(&partner)).bearer(&good)).await.allowed(200);
    let seen = stage.upstream.last().unwrap();
    assert_eq!(
        (seen.header_all("x-method"), seen.header_all("x-cert")),
        (vec!["bearer".into()], vec!["acme.partner.example".into()])
    );
    assert_eq!(seen.header_all("authorization"), [format!("Bearer {good}")]);

    // Half of it, and halves of two.
    for (call, status, reason) in [
        (tls(Some(&partner)), 401, "token.missing"),
        (tls(None).bearer(&good), 403, "cert.missing"),
        (tls(Some(&stranger)).bearer(&good), 403, "cert.name.mismatch"),
        (tls(Some(&partner)).bearer(&expired), 401, "token.expired"),
        (tls(Some(&partner)).field("x-api-key", "x"), 401, "api_key.unknown"),
        (Call::get("/orders"), 403, "cert.missing"),
    ] {
        let judged = stage.judge_by(&inspection, &call).await;
        judged.refused(status, reason);
        let challenges = judged.response.header_all("www-authenticate").join(" ");
        assert!(challenges.contains("ApiKey "), "{challenges}");
    }

    // A key opens the door for itself: the token beside it, good or not, and the identity of the other alternative do not
    // come along, though the route forwards verified tokens.
    for token in [&good, &expired] {
        for identity in [None, Some(&stranger)] {
            stage.judge_by(&inspection, &tls(identity).bearer(token).field("x-api-key", KEY)).await.allowed(200);
            let seen = stage.upstream.last().unwrap();
            assert_eq!(
                (seen.header_all("x-user"), seen.header_all("x-method")),
                (vec!["acme/ci".into()], vec!["api_key".into()])
            );
            assert!(seen.header("authorization").is_none() && seen.header("x-api-key").is_none());
        }
    }

    // An alternative without any credential.
    stage.judge_by(&inspection, &Call::get("/orders/public/1").from("127.0.0.9").bearer(&good)).await.allowed(200);
    let seen = stage.upstream.last().unwrap();
    assert!(seen.header("x-user").is_none() && seen.header("authorization").is_none());
    stage.judge_by(&inspection, &Call::get("/orders/1").from("127.0.0.9")).await.refused(403, "cert.missing");

    let denied = |filter, reason| {
        stage.metric("portcullis_verdicts_total", &[("route", "orders"), ("filter", filter), ("reason", reason)])
    };
    assert_eq!(denied("any_of", "token.expired"), 1.0);
    assert!(denied("any_of/all_of/oidc", "token.expired") >= 1.0);
    assert!(denied("any_of/all_of", "token.expired") >= 1.0);
    stage.assert_kept_secret(&[good, expired, format!("{KEY}.{KEY}")]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_is_no_verdict_on_the_caller_and_a_key_needs_no_issuer() {
    let stage = start(true).await;
    let partner = stage.clients.leaf("Acme").dns("acme.partner.example").issue().unwrap();
    let token = stage.provider.issue(&spec()).unwrap();
    let call = || Call::get("/orders").over_tls(Some(&partner)).bearer(&token);
    // Waits for the issuer within the group.
    let (response, line) = stage.log(&call().field("x-api-key", "wrong")).await;
    assert_eq!((response.status, &line["reason"]), (503, &"issuer.unavailable".into()));
    let (response, _) = stage.log(&call().field("x-api-key", KEY)).await;
    assert_eq!(response.status, 200);
    assert_eq!(stage.upstream.last().unwrap().header_all("x-user"), ["acme/ci"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_a_principal_with_roles() {
    let stage = start(false).await;
    let inspection = stage.inspect();
    let partner = stage.clients.leaf("Acme").dns("acme.partner.example").issue().unwrap();
    let two = stage.clients.leaf("Acme").dns("a.partner.example").dns("b.partner.example").issue().unwrap();
    let call =
        Call::get("/certificates/a/1").over_tls(Some(&partner)).field("Client-Cert", ":AA==:").field("client_cert", ":AA==:");
    stage.judge_by(&inspection, &call).await.allowed(200);
    let seen = stage.upstream.last().unwrap();
    let sent = seen.header_all("client-cert");
    let length = partner.facts().der.len().div_ceil(3) * 4 + 2;
    assert!(sent.len() == 1 && sent[0].starts_with(":MII") && sent[0].len() == length, "{sent:?}");
    assert!(seen.header("client_cert").is_none());
    assert_eq!(
        (seen.header_all("x-user"), seen.header_all("x-roles")),
        (vec!["acme.partner.example".into()], vec!["partner".into()])
    );
    let elsewhere = Call::get("/certificates/ab").over_tls(Some(&partner));
    stage.judge_by(&inspection, &elsewhere).await.refused(403, "authorize.denied");
    let ambiguous = Call::get("/certificates/a").over_tls(Some(&two));
    stage.judge_by(&inspection, &ambiguous).await.refused(403, "cert.name.mismatch");
}
