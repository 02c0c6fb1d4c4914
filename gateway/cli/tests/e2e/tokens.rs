//! Bearer tokens over HTTP: which are accepted, how a refusal looks from outside, and what is written down of it.

use crate::stage::{Call, Judged, Stage};
use portcullis_plugin::reason;
use portcullis_testkit::token::{Alg, Rotation, SignWith, TokenSpec};

const CONFIG: &str = r#"
issuers:
  main:
    issuer: "{ISSUER}"
    audiences: [https://api.example.test]
    algorithms: [RS256, PS256, ES256, ES384, EdDSA]
  narrow:
    issuer: "{ISSUER}"
    audiences: [https://api.example.test]
    algorithms: [ES256]
routes:
  - name: orders
    match: { path: /orders }
    filters:
      - oidc: { issuer: main, scopes: ["orders:read"] }
      - identity_headers: { headers: { x-user: sub, x-scope: scope } }
    pool: up
  - name: admins
    match: { path: /admins }
    filters: [{ oidc: { issuer: main, roles: [admin] } }]
    pool: up
  - name: narrow
    match: { path: /narrow }
    filters: [{ oidc: { issuer: narrow } }]
    pool: up
"#;

fn good() -> TokenSpec {
    TokenSpec::new().alg(Alg::Es256).scope("orders:read orders:write")
}

fn denials(stage: &Stage, filter: &str, reason: &str) -> f64 {
    let labels = [("route", "orders"), ("filter", filter), ("verdict", "deny"), ("reason", reason), ("mode", "enforce")];
    stage.metric("portcullis_verdicts_total", &labels)
}

fn challenge(judged: &Judged) -> String {
    judged.response.header("www-authenticate").unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_listed_algorithm_is_accepted() {
    let stage = Stage::start(CONFIG).await;
    let inspection = stage.inspect();
    for alg in Alg::ALL {
        let token = stage.provider.issue(&good().alg(*alg).subject(alg.as_str())).unwrap();
        let judged = stage.judge_by(&inspection, &Call::get("/orders/1").bearer(&token)).await;
        judged.allowed(200);
        let seen = stage.upstream.last().unwrap();
        assert_eq!(seen.header_all("x-user"), [alg.as_str()]);
        assert_eq!(seen.header_all("x-scope"), ["orders:read orders:write"]);
        assert_eq!(seen.header_all("authorization"), Vec::<String>::new());
        assert_eq!(judged.explanation["upstream_headers"]["x-user"], alg.as_str());
        let principal = &judged.line["principal"];
        assert_eq!((&principal["sub"], &principal["method"]), (&alg.as_str().into(), &"bearer".into()));
        assert_eq!(principal["issuer"], stage.provider.issuer());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hole_the_algorithm_is_taken_from_the_token() {
    let stage = Stage::start(CONFIG).await;
    let inspection = stage.inspect();
    for alg in Alg::ALL {
        // The key is published and the signature is good; only the configuration decides.
        let call = Call::get("/narrow").bearer(&stage.provider.token(*alg, "").unwrap());
        let judged = stage.judge_by(&inspection, &call).await;
        if *alg == Alg::Es256 {
            judged.allowed(200)
        } else {
            judged.refused(401, "token.alg.refused")
        };
    }
    for signer in [SignWith::PublicKeyPem, SignWith::PublicKeyDer, SignWith::Nobody, SignWith::Secret(b"secret".to_vec())] {
        let call = Call::get("/narrow").bearer(&stage.provider.issue(&good().sign_with(signer)).unwrap());
        stage.judge_by(&inspection, &call).await.refused(401, "token.alg.refused");
    }
    assert_eq!(stage.upstream.count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hole_the_reason_of_a_refusal_is_lost() {
    // Each has its own, and it is the same on the wire, in the log, in the metrics and offline.
    let stage = Stage::start(CONFIG).await;
    let inspection = stage.inspect();
    let hostile = stage.provider.tokens().hostile(&good()).unwrap();
    assert!(hostile.len() > 60);
    let mut tokens = Vec::new();
    for case in hostile {
        let before: f64 = case.reasons.iter().map(|reason| denials(&stage, "oidc", reason.as_str())).sum();
        let judged = stage.judge_by(&inspection, &Call::get("/orders/1").bearer(&case.token)).await;
        let seen = judged.line["reason"].as_str().unwrap_or_default().to_owned();
        let expected = case.reasons.iter().find(|reason| reason.as_str() == seen);
        let expected = expected.unwrap_or_else(|| panic!("{}: {seen}", case.name));
        judged.refused(reason::info(*expected).unwrap().status, &seen);
        assert_eq!(judged.line["verdict"], "deny", "{}", case.name);
        assert!(challenge(&judged).contains("error=\"invalid_token\""), "{}: {}", case.name, challenge(&judged));
        let after: f64 = case.reasons.iter().map(|reason| denials(&stage, "oidc", reason.as_str())).sum();
        assert_eq!(after, before + 1.0, "{}: counted once", case.name);
        tokens.push(case.token);
    }
    assert_eq!(stage.upstream.count(), 0, "nothing reached the upstream");
    stage.assert_kept_secret(&tokens);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hole_401_without_www_authenticate_or_with_more_than_rfc_6750_asks_for() {
    let stage = Stage::start(CONFIG).await;
    let issue = |spec: TokenSpec| stage.provider.issue(&spec).unwrap();
    let bearer = |spec: TokenSpec| Call::get("/orders/1").bearer(&issue(spec));
    let realm = "Bearer realm=\"api.example.test\"";
    let invalid = |what: &str| format!("{realm}, error=\"invalid_token\", error_description=\"{what}\"");
    let here = "The token is not valid here";
    let scope = "error=\"insufficient_scope\", error_description=\"The token does not grant access to this\"";
    let cases = [
        (Call::get("/orders/1"), 401, "token.missing", realm.to_owned()),
        (Call::get("/orders/1").field("Authorization", "Basic dTpw"), 401, "token.missing", realm.to_owned()),
        (Call::get("/orders/1").field("Authorization", "Bearer"), 401, "token.malformed", invalid(here)),
        (Call::get("/orders/1").bearer("not.a.token"), 401, "token.malformed", invalid(here)),
        (bearer(good().expires_in(-41)), 401, "token.expired", invalid("The token has expired")),
        (bearer(good().not_before_in(3600)), 401, "token.not_yet_valid", invalid(here)),
        (bearer(good().audience("https://other.example")), 401, "token.audience.mismatch", invalid(here)),
        (bearer(good().claim("iss", "https://other.example")), 401, "token.issuer.mismatch", invalid(here)),
        (bearer(good().sign_with(SignWith::Foreign)), 401, "token.signature.invalid", invalid(here)),
        (bearer(good().kid("nobody's")), 401, "token.kid.unknown", invalid(here)),
        (bearer(good().scope("orders:write")), 403, "token.scope.missing", format!("{realm}, {scope}, scope=\"orders:read\"")),
        (Call::get("/admins").bearer(&issue(good())), 403, "token.role.missing", format!("{realm}, {scope}")),
    ];
    for (call, status, reason, expected) in cases {
        let judged = stage.judge(&call).await;
        judged.refused(status, reason);
        assert_eq!(challenge(&judged), expected, "{reason}");
        let shown = format!("{:?}{}", judged.response.headers, judged.response.text());
        for inside in ["alice", "other.example", "https://", "127.0.0.1:", "es256", "narrow", reason] {
            assert!(!shown.contains(inside), "{reason}: the client learns `{inside}`: {shown}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_authorization_headers_are_refused_whichever_is_good() {
    let stage = Stage::start(CONFIG).await;
    let token = stage.provider.issue(&good()).unwrap();
    for (first, second) in [("Authorization", "authorization"), ("Authorization", "Authorization")] {
        let call = Call::get("/orders/1").field(first, format!("Bearer {token}")).field(second, "Bearer other");
        stage.judge(&call).await.refused(400, "request.ambiguous");
        let call = Call::get("/orders/1").field(first, "Basic dTpw").field(second, format!("Bearer {token}"));
        stage.judge(&call).await.refused(400, "request.ambiguous");
    }
    // One field with two in it is not one token either.
    let call = Call::get("/orders/1").field("Authorization", format!("Bearer {token}, Bearer {token}"));
    stage.judge(&call).await.refused(401, "token.malformed");
    assert_eq!(stage.upstream.count(), 0);
    stage.assert_kept_secret(&[token]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_anywhere_but_in_authorization_is_no_token_and_is_not_written_down() {
    let stage = Stage::start(CONFIG).await;
    let token = stage.provider.issue(&good()).unwrap();
    let calls = [
        Call::get(&format!("/orders/1?access_token={token}")),
        Call::get(&format!("/orders/1?page=2&Token={token}")),
        Call::get("/orders/1").field("Cookie", format!("access_token={token}")),
        Call::get("/orders/1").field("X-Access-Token", &token),
        Call::get("/orders/1").field("Proxy-Authorization", format!("Bearer {token}")),
        Call::get("/orders/1").field("X_Authorization", format!("Bearer {token}")),
        Call::get("/orders/1").field("Authorization2", format!("Bearer {token}")),
    ];
    for call in calls {
        let judged = stage.judge(&call).await;
        judged.refused(401, "token.missing");
        assert!(!challenge(&judged).contains("error"), "without credentials there is no error: {}", challenge(&judged));
        assert!(!judged.response.text().contains(&token));
        assert!(!judged.explanation.to_string().contains(token.split('.').nth(2).unwrap()), "{:#}", judged.explanation);
    }
    assert_eq!(stage.upstream.count(), 0);
    stage.assert_kept_secret(&[token]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_token_or_secret_is_written_down_of_what_is_allowed_either() {
    let stage = Stage::start(CONFIG).await;
    let token = stage.provider.issue(&good()).unwrap();
    let target = "/orders/1?client_secret=hunter2hunter2&api_key=sk_live_12345678&page=2";
    let judged = stage.judge(&Call::get(target).bearer(&token).field("Cookie", "session=opensesame1234")).await;
    judged.allowed(200);
    stage.assert_kept_secret(&[token]);
    let log = std::fs::read_to_string(stage.file("access.jsonl")).unwrap();
    for secret in ["hunter2", "sk_live", "opensesame"] {
        assert!(!log.contains(secret) && !stage.gateway.metrics().contains(secret), "{secret}");
    }
    assert_eq!(judged.line["path"], "/orders/1");
    assert!(stage.upstream.last().unwrap().target.contains("hunter2"), "the upstream gets what the client sent");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hole_denied_requests_lack_fields_in_the_log_and_their_policy_is_none() {
    let stage = Stage::start(CONFIG).await;
    let token = stage.provider.issue(&good().scope("other")).unwrap();
    let allowed = stage.judge(&Call::get("/orders/1").bearer(&stage.provider.issue(&good()).unwrap())).await;
    let denied = stage.judge(&Call::get("/orders/1").bearer(&token)).await;
    denied.refused(403, "token.scope.missing");
    assert_eq!(crate::stage::members(&allowed.line), crate::stage::members(&denied.line));
    let line = &denied.line;
    assert_eq!((&line["route"], &line["verdict"]), (&"orders".into(), &"deny".into()));
    assert_eq!((&line["method"], &line["host"], &line["path"]), (&"GET".into(), &"api.example.test".into(), &"/orders/1".into()));
    assert_eq!((&line["client"], &line["protocol"], &line["attempts"]), (&"127.0.0.1".into(), &"HTTP/1.1".into(), &0.into()));
    // Also of a request that was refused before it had a route, as far as it can be told.
    let ambiguous = stage.judge(&Call::get("/orders/..;/1?access_token=sesame").field("Expect", "200-ok")).await;
    ambiguous.refused(400, "request.ambiguous");
    let line = &ambiguous.line;
    assert_eq!(
        (&line["method"], &line["host"], &line["path"]),
        (&"GET".into(), &"api.example.test".into(), &"/orders/..;/1".into())
    );
    assert!(!line.to_string().contains("sesame"), "{line}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hole_sixty_seconds_of_skew_surprise_the_services_behind() {
    let stage = Stage::start(CONFIG).await;
    // The default is 30 s, and the explanation says by how much it was missed.
    stage.judge(&Call::get("/orders/1").bearer(&stage.provider.issue(&good().expires_in(-10)).unwrap())).await.allowed(200);
    let judged = stage.judge(&Call::get("/orders/1").bearer(&stage.provider.issue(&good().expires_in(-45)).unwrap())).await;
    judged.refused(401, "token.expired");
    let checks = judged.explanation["checks"].as_array().unwrap();
    let expiry = checks.iter().find(|check| check["ok"] == false).unwrap();
    assert!(expiry["observed"].as_str().unwrap().contains("expired 4"), "{expiry}");
    assert!(expiry.to_string().contains("30s") || expiry.to_string().contains("30 s"), "{expiry}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hole_a_token_without_kid_picks_any_key() {
    let stage = Stage::start(CONFIG).await;
    // With one key of the kind there is nothing to pick; with two there is, and nothing is guessed.
    let anonymous = || good().without_header("kid");
    stage.judge(&Call::get("/orders/1").bearer(&stage.provider.issue(&anonymous()).unwrap())).await.allowed(200);
    stage.provider.rotate(Rotation::Overlap);
    // The new key becomes known through a token that names it.
    stage.judge(&Call::get("/orders/1").bearer(&stage.provider.issue(&good()).unwrap())).await.allowed(200);
    for signer in [SignWith::Current, SignWith::Generation(0), SignWith::Foreign] {
        let token = stage.provider.issue(&anonymous().sign_with(signer).subject("bob")).unwrap();
        stage.judge(&Call::get("/orders/1").bearer(&token)).await.refused(401, "token.kid.unknown");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hole_a_request_with_upgrade_skips_the_filters() {
    let stage = Stage::start(CONFIG).await;
    let upgrade = |call: Call<'static>| {
        call.field("Connection", "Upgrade")
            .field("Upgrade", "websocket")
            .field("Sec-WebSocket-Version", "13")
            .field("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
    };
    stage.judge(&upgrade(Call::get("/orders/1"))).await.refused(401, "token.missing");
    let expired = stage.provider.issue(&good().expires_in(-3600)).unwrap();
    stage.judge(&upgrade(Call::get("/orders/1").bearer(&expired))).await.refused(401, "token.expired");
    assert_eq!(stage.upstream.count(), 0);
    let mut client = portcullis_testkit::Client::connect(stage.http()).await.unwrap();
    let bearer = format!("Bearer {}", stage.provider.issue(&good()).unwrap());
    let spoofed = [("authorization", bearer.as_str()), ("x-user", "root")];
    let response = client.websocket("api.example.test", "/orders/1", &spoofed).await.unwrap();
    assert_eq!(response.status, 101);
    assert_eq!(client.echo("hello").await.unwrap(), "hello");
    let seen = stage.upstream.last().unwrap();
    assert_eq!(seen.header_all("x-user"), ["alice"]);
    assert_eq!(seen.header_all("authorization"), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shadowed_filter_refuses_nobody_and_counts() {
    let stage = Stage::start(
        &CONFIG.replace("      - oidc: { issuer: main, scopes", "      - mode: shadow\n        oidc: { issuer: main, scopes"),
    )
    .await;
    let judged = stage.judge(&Call::get("/orders/1").field("X-User", "root")).await;
    judged.allowed(200);
    assert_eq!(stage.upstream.last().unwrap().header_all("x-user"), Vec::<String>::new());
    let labels = [("route", "orders"), ("filter", "oidc"), ("verdict", "deny"), ("reason", "token.missing"), ("mode", "shadow")];
    assert_eq!(stage.metric("portcullis_verdicts_total", &labels), 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn developers_see_which_check_failed_and_nobody_else_does() {
    let config = r#"
issuers:
  main: { issuer: "{ISSUER}", audiences: [https://api.example.test], algorithms: [ES256] }
routes:
  - name: orders
    match: { path: /orders }
    filters: [{ debug: { allow: [127.0.0.2] } }, { oidc: { issuer: main } }]
    pool: up
"#;
    let stage = Stage::builder().algs(&[Alg::Es256]).start(config).await;
    let token = stage.provider.issue(&TokenSpec::new().alg(Alg::Es256).audience("https://other.example.test")).unwrap();
    let call = Call::get("/orders/1").bearer(&token);
    let shown = |judged: &Judged| judged.response.header_all("x-decision-checks");
    let developer = stage.judge(&call.clone().from("127.0.0.2")).await;
    let checks = shown(developer.refused(401, "token.audience.mismatch"));
    assert_eq!(checks.len(), 1);
    assert!(checks[0].starts_with("\"oidc audience\";reason=\"token.audience.mismatch\";expected="), "{checks:?}");
    let other = stage.judge(&call).await;
    assert_eq!(shown(other.refused(401, "token.audience.mismatch")), Vec::<String>::new());
    for part in token.split('.') {
        assert!(!checks[0].contains(part));
    }
}
