//! API keys that the command makes, and what they, applications and tenants may use in a day or month.

use crate::stage::{Call, Stage};
use assert_cmd::Command;
use portcullis_testkit::token::{Alg, TokenSpec};
use serde_json::Value;
use std::path::Path;
use std::process::Output;

const CONFIG: &str = r#"
issuers:
  main: { issuer: "{ISSUER}", audiences: [https://api.example.test], algorithms: [ES256] }
  other: { issuer: "https://other.example.test", audiences: [https://api.example.test], jwks_file: jwks.json }
routes:
  - name: keyed
    match: { path: /keyed }
    filters:
      - api_key: { authorization: true, header: x-api-key, file: keys.txt }
      - identity_headers: { headers: { x-user: sub } }
      - rate_limit: { key: principal.client_id, quota: 3/month, overrides: [{ key: trusted, verified_by: api_key, quota: 5/month }] }
    pool: up
  - name: planned
    match: { path: /planned }
    filters:
      - oidc: { issuer: main }
      - rate_limit:
          key: principal.claims.tenant
          missing: deny
          rate: 2/h
          tiers:
            - { name: gold, when: { issuer: main, claims: { plan: gold } }, rate: 4/h }
    pool: up
  - name: applications
    match: { path: /applications }
    filters:
      - oidc: { issuer: main }
      - rate_limit: { key: principal.client_id, quota: 2/day }
    pool: up
  - name: either
    match: { path: /either }
    filters:
      - any_of: [{ oidc: { issuer: main } }, { api_key: { authorization: true, file: keys.txt } }]
      - identity_headers: { headers: { x-user: sub, x-method: method } }
    pool: up
  - name: people
    match: { path: /people }
    filters:
      - oidc: { issuer: main }
      - rate_limit: { key: principal.sub, quota: 2/month }
    pool: up
"#;

/// The public key of RFC 8037, appendix A.
const JWKS: &str = r#"{ "keys": [{ "kty": "OKP", "crv": "Ed25519", "kid": "1", "use": "sig", "alg": "EdDSA", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" }] }"#;

async fn stage(keys: &str) -> Stage {
    Stage::builder().algs(&[Alg::Es256]).start_with_files(CONFIG, &[("keys.txt", keys), ("jwks.json", JWKS)]).await
}

async fn portcullis(arguments: &[&str], stdin: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    command.args(arguments).write_stdin(stdin);
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

async fn new_key(arguments: &[&str]) -> (String, String) {
    let output = portcullis(&[&["apikey", "new", "--json"], arguments].concat(), "").await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let made: Value = serde_json::from_slice(&output.stdout).unwrap();
    (made["key"].as_str().unwrap().to_owned(), made["line"].as_str().unwrap().to_owned())
}

fn with_key(key: &str) -> Call<'static> {
    Call::get("/keyed").field("Authorization", format!("ApiKey {key}"))
}

/// In no file of the folder.
fn assert_nowhere(folder: &Path, secrets: &[&str]) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read(&path).unwrap_or_default();
        for secret in secrets {
            assert!(!text.windows(secret.len()).any(|part| part == secret.as_bytes()), "in {}", path.display());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_the_command_makes_opens_the_door_until_its_owners_quota_is_used_up() {
    let (key, line) = new_key(&["--owner", "acme", "--id", "first", "--scope", "orders:read", "--expires", "90d"]).await;
    let (second, second_line) = new_key(&["--owner", "acme"]).await;
    let (trusted, trusted_line) = new_key(&["--owner", "trusted"]).await;
    let stage = stage(&format!("{line}\n{second_line}\n{trusted_line}\n")).await;

    let (response, logged) = stage.log(&with_key(&key)).await;
    assert_eq!((response.status, &logged["principal"]["sub"]), (200, &Value::from("acme/first")), "{logged}");
    let seen = stage.upstream.last().unwrap();
    assert_eq!(seen.header_all("x-user"), ["acme/first"]);
    assert!(seen.header("authorization").is_none(), "the key went on to the upstream");
    assert_eq!(stage.send(&Call::get("/keyed").field("authorization", format!("apikey {second}"))).await.status, 200);
    assert_eq!(stage.send(&Call::get("/keyed").field("X-Api-Key", &key)).await.status, 200);

    let twice = with_key(&key).field("Authorization", format!("ApiKey {key}"));
    stage.judge(&twice).await.refused(400, "request.ambiguous");
    let both = with_key(&key).field("X-Api-Key", &key);
    stage.judge(&both).await.refused(401, "api_key.unknown");
    let mistyped = with_key(&key[..key.len() - 1]);
    let judged = stage.judge(&mistyped).await;
    judged.refused(401, "api_key.unknown");
    assert!(judged.explanation.to_string().contains("checksum is wrong"), "{}", judged.explanation);

    for key in [&key, &second] {
        let (response, logged) = stage.log(&with_key(key)).await;
        assert_eq!((response.status, &logged["reason"]), (429, &Value::from("rate.quota.exhausted")), "two keys, one owner");
        crate::stage::assert_refusal(&response);
        let wait: u64 = response.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=31 * 86_400).contains(&wait), "{wait}");
        assert_eq!(response.header_all("ratelimit-policy"), ["\"principal.client_id 3/month\";q=3"]);
    }
    stage.rewrite(&CONFIG.replace("path: /people", "path: /persons"));
    stage.gateway.reload().await.unwrap();
    assert_eq!(stage.send(&with_key(&key)).await.status, 429, "a reload forgives nobody");
    for count in 1..=6 {
        let response = stage.send(&with_key(&trusted)).await;
        assert_eq!(response.status, if count <= 5 { 200 } else { 429 }, "an override, request {count}");
    }

    std::fs::write(stage.file("keys.txt"), &second_line).unwrap();
    stage.gateway.reload().await.unwrap();
    assert_eq!(stage.send(&with_key(&key)).await.status, 401, "a revoked key");
    let metrics = stage.gateway.metrics();
    for secret in [&key, &second, &trusted] {
        assert!(!metrics.contains(secret.as_str()));
    }
    assert_nowhere(stage.file("keys.txt").parent().unwrap(), &[&key, &second, &trusted]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_of_another_make_gets_its_line_from_standard_input_alone() {
    const KEY: &str = "0f1e2d3c4b5a69788796a5b4c3d2e1f00123456789abcdeffedcba9876543210";
    let output = portcullis(&["apikey", "hash", "--owner", "acme", "--role", "reader"], &format!("{KEY}\n")).await;
    assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0), "{output:?}");
    let line = String::from_utf8(output.stdout).unwrap();
    assert!(line.ends_with(" owner=acme roles=reader\n") && !line.contains(KEY), "{line}");
    let stage = stage(&line).await;
    assert_eq!(stage.send(&with_key(KEY)).await.status, 200);

    let two = format!("{KEY}\n{KEY}\n");
    for (arguments, stdin, code, says) in [
        (&["apikey", "hash", "--owner", "acme", KEY][..], "", 2, "never from an argument"),
        (&["apikey", "hash", "--owner", "acme", "x", KEY], "", 2, "never from an argument"),
        (&["apikey", "hash", "--owner", "acme"], "", 2, "no key came"),
        (&["apikey", "hash", "--owner", "acme"], "\n", 2, "no key came"),
        (&["apikey", "hash", "--owner", "a b"], KEY, 2, "the owner is not"),
        (&["apikey", "hash"], KEY, 2, "--owner <NAME>"),
        (&["apikey", "hash", "--owner", "acme", "--scope", "a b"], KEY, 2, "`scopes` has"),
        (&["apikey", "hash", "--owner", "acme", "--expires", "2020-01-01T00:00:00Z"], KEY, 2, "has passed"),
        (&["apikey", "hash", "--owner", "acme"], "hunter2-hunter2", 1, "shorter than 32"),
        (&["apikey", "hash", "--owner", "acme"], &two, 1, "characters that are no visible ASCII"),
        (&["apikey", "hash", "--owner", "acme"], &"a".repeat(40), 1, "too few different"),
        (&["apikey", "hash", "--owner", "acme"], &KEY.repeat(100), 1, "longer than 256"),
        (&["apikey", "hash", "--owner", "acme"], &format!("pc_{}", &KEY[..49]), 1, "its checksum is wrong"),
        (&["apikey", "new"], "", 2, "--owner <NAME>"),
        (&["apikey", "new", "--owner", "acme", "--expires", "soon"], "", 2, "neither a time from now"),
        (&["apikey", "new", "--owner", "acme", "--expires", "0s"], "", 2, "has passed"),
        (&["apikey"], "", 2, "new"),
    ] {
        let output = portcullis(arguments, stdin).await;
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(said.contains(says), "{arguments:?}: {said}");
        assert!(!said.contains(&KEY[..20]) && !said.contains("hunter2") && output.stdout.is_empty(), "{arguments:?}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_shown_once_with_its_line_and_no_two_are_the_same() {
    let first = portcullis(&["apikey", "new", "--owner", "acme"], "").await;
    let text = String::from_utf8(first.stdout).unwrap();
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let (key, line) = (lines[1], lines[3]);
    assert_eq!((lines.len(), key.len(), first.status.code()), (4, 52, Some(0)), "{text}");
    assert!(text.matches(key).count() == 1 && line.ends_with(" owner=acme"), "{text}");
    let output = portcullis(&["apikey", "hash", "--owner", "acme"], key).await;
    assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), line, "the same line again");
    assert_ne!(new_key(&["--owner", "acme"]).await.0, key);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_is_what_the_issuer_says_and_nothing_else() {
    let stage = stage("").await;
    let issue = |spec: TokenSpec| stage.provider.issue(&spec.alg(Alg::Es256)).unwrap();
    let tenant = |tenant: &str| TokenSpec::new().claim("tenant", tenant);
    let planned = |token: &str| Call::get("/planned").bearer(token);

    let gold = issue(tenant("acme").claim("plan", "gold"));
    let judged = stage.judge(&planned(&gold)).await;
    judged.allowed(200);
    assert!(judged.explanation.to_string().contains("at most 4/h by principal.claims.tenant, 4 at once (tier gold)"));
    assert_eq!(judged.response.header_all("ratelimit"), ["\"principal.claims.tenant 4/h\";r=3;t=900"]);

    let plain = issue(tenant("other"));
    let mallory = issue(tenant("other").claim("plan", "Gold"));
    let pleading = |token: &str| planned(token).field("plan", "gold").field("x-plan", "gold").field("x-tier", "gold");
    for (token, status) in [(&plain, 200), (&mallory, 200), (&plain, 429), (&mallory, 429)] {
        let (response, line) = stage.log(&pleading(token)).await;
        assert_eq!(response.status, status, "{line}");
        assert_eq!(response.header_all("ratelimit-policy"), ["\"principal.claims.tenant 2/h\";q=2;w=3600"]);
    }
    // Another issuer's word, also where the gateway knows that issuer.
    for issuer in ["https://other.example.test", "https://evil.example.test"] {
        let forged = issue(tenant("acme").claim("plan", "gold").claim("iss", issuer));
        stage.judge(&planned(&forged)).await.refused(401, "token.issuer.mismatch");
    }
    stage.judge(&planned(&issue(TokenSpec::new().claim("plan", "gold")))).await.refused(403, "identity.missing");
    // A tenant of nearly 8 KiB is counted like any other, and its name is repeated nowhere.
    let long = "long-tenant-".repeat(600);
    let token = issue(tenant(&long));
    for status in [200, 200, 429] {
        let (response, line) = stage.log(&planned(&token)).await;
        assert_eq!(response.status, status, "{line}");
        assert!(!line.to_string().contains("long-tenant-long-tenant-"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_header_brings_a_key_or_a_token_and_neither_goes_on() {
    let (key, line) = new_key(&["--owner", "acme", "--id", "first"]).await;
    let stage = stage(&line).await;
    let token = stage.provider.issue(&TokenSpec::new().alg(Alg::Es256).subject("ann")).unwrap();
    let with = |value: String| Call::get("/either").field("Authorization", value);
    for (value, user, method) in [
        (format!("ApiKey {key}"), "acme/first", "api_key"),
        (format!("APIKEY {key}"), "acme/first", "api_key"),
        (format!("Bearer {token}"), "ann", "bearer"),
    ] {
        stage.judge(&with(value)).await.allowed(200);
        let seen = stage.upstream.last().unwrap();
        assert_eq!((seen.header_all("x-user"), seen.header_all("x-method")), (vec![user.to_owned()], vec![method.to_owned()]));
        assert!(seen.header("authorization").is_none());
    }
    // The one in the place of the other, and both in one line, are neither.
    for (value, reason) in [
        (format!("Bearer {key}"), "token.malformed"),
        (format!("ApiKey {token}"), "api_key.unknown"),
        (format!("ApiKey {key}, Bearer {token}"), "api_key.unknown"),
        (format!("Bearer {token}, ApiKey {key}"), "token.malformed"),
        (format!("Basic {key}"), "token.missing"),
    ] {
        stage.judge(&with(value)).await.refused(401, reason);
    }
    let challenges = stage.send(&Call::get("/either")).await.header_all("www-authenticate");
    assert!(challenges.iter().any(|one| one.starts_with("Bearer ")) && challenges.iter().any(|one| one.starts_with("ApiKey ")));
    stage.assert_kept_secret(&[token]);
}

const LASTING: &str = r#"
listeners: [{ name: http, address: "127.0.0.1:0" }]
access_log: { path: access.jsonl }
routes:
  - name: keyed
    filters:
      - api_key: { authorization: true, file: keys.txt }
      - rate_limit: { key: principal.claims.owner, quota: 3/month, state: quotas }
    respond: { status: 200 }
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quota_outlives_the_gateway_and_a_damaged_file_is_not_ignored() {
    let (key, line) = new_key(&["--owner", "acme"]).await;
    let edge = crate::support::edge(LASTING).file("keys.txt", line).start().await;
    let field = format!("ApiKey {key}");
    let ask = async |address| {
        let mut client = portcullis_testkit::Client::connect(address).await.unwrap();
        client.get("a.test", "/", &[("authorization", &field)]).await.unwrap().status
    };
    assert_eq!((ask(edge.address()).await, ask(edge.address()).await), (200, 200));
    let (gateway, folder) = edge.into_parts();
    assert!(gateway.drain().await);
    let config = folder.path().join("edge.yaml");
    let start = || portcullis::Gateway::builder().config_file(&config).watch_files(false).start();
    let again = start().await.unwrap_or_else(|error| panic!("{error}"));
    let address = again.address("http").unwrap();
    assert_eq!((ask(address).await, ask(address).await), (200, 429));
    assert!(again.drain().await);

    let quotas = folder.path().join("quotas");
    let file = std::fs::read_dir(&quotas).unwrap().next().unwrap().unwrap().path();
    assert_nowhere(&quotas, &[&key, "acme"]);
    let good = std::fs::read(&file).unwrap();
    std::fs::write(&file, &good[..good.len() - 1]).unwrap();
    let error = start().await.err().unwrap().to_string();
    assert!(error.contains("edge.yaml:8:") && error.contains("it is damaged"), "{error}");
    let checked = portcullis(&["check", "-c", config.to_str().unwrap()], "").await;
    assert_eq!(checked.status.code(), Some(1), "{checked:?}");
    std::fs::remove_file(&file).unwrap();
    let anew = start().await.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(ask(anew.address("http").unwrap()).await, 200);
    assert!(anew.drain().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn applications_and_people_have_quotas_of_their_own() {
    let stage = stage("").await;
    let issue = |subject: &str, client: &str| {
        stage.provider.issue(&TokenSpec::new().alg(Alg::Es256).subject(subject).claim("client_id", client)).unwrap()
    };
    for (path, callers) in [
        (
            "/applications",
            [("ann", "web", 200), ("ben", "web", 200), ("cyd", "web", 429), ("cyd", "ios", 200), ("ann", "WEB", 200)],
        ),
        ("/people", [("ann", "web", 200), ("ann", "ios", 200), ("ann", "new", 429), ("Ann", "web", 200), ("ben", "web", 200)]),
    ] {
        for (subject, client, status) in callers {
            let (response, line) = stage.log(&Call::get(path).bearer(&issue(subject, client))).await;
            assert_eq!(response.status, status, "{path} {subject} {client}: {line}");
            if status == 429 {
                assert_eq!(line["reason"], "rate.quota.exhausted");
            }
        }
    }
}
