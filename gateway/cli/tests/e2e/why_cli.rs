//! `portcullis why`: what a running gateway remembers of the requests it refused.

use crate::stage::{Call, Stage, line_in};
use assert_cmd::Command;
use portcullis_testkit::token::TokenSpec;
use portcullis_testkit::{Client, Response};
use serde_json::Value;
use std::process::Output;

const ROUTES: &str = r#"
issuers:
  main: { issuer: "{ISSUER}", audiences: [https://api.example.test] }
routes:
  - name: orders
    match: { path: /orders }
    filters:
      - oidc: { issuer: main, scopes: ["orders:write"] }
    pool: up
  - name: trial
    match: { path: /trial }
    filters:
      - oidc: { issuer: main }
        mode: shadow
    pool: up
  - name: open
    match: { path: /open }
    pool: up
"#;

async fn why(arguments: &[&str]) -> Output {
    let arguments: Vec<_> = arguments.iter().map(ToString::to_string).collect();
    let run = move || Command::new(env!("CARGO_BIN_EXE_portcullis")).arg("why").args(arguments).output().unwrap();
    tokio::task::spawn_blocking(run).await.unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn admin(stage: &Stage) -> String {
    format!("http://{}", stage.gateway.admin_address().unwrap())
}

/// The answer about a response's decision, once the gateway has finished with the request.
async fn asked(stage: &Stage, response: &Response, more: &[&str]) -> Output {
    let id = response.header("x-decision-id").unwrap();
    stage.line(response).await;
    let admin = admin(stage);
    why(&[&[id.as_str(), "--admin", &admin], more].concat()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_token_is_explained_by_the_id_alone_and_without_the_token() {
    let stage = Stage::start(ROUTES).await;
    let token = stage.provider.issue(&TokenSpec::new().subject("alice").scope("orders:read")).unwrap();
    let response = stage.send(&Call::get("/orders/1?access_token=hunter2hunter2&page=2").bearer(&token)).await;
    assert_eq!(response.status, 403);
    let output = asked(&stage, &response, &[]).await;
    let text = stdout(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    for part in [
        "refused: token.scope.missing, the client got 403",
        &response.header("x-decision-id").unwrap(),
        "GET api.example.test/orders/1?",
        "page=2",
        "route orders",
        "no  oidc",
        "orders:write",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    let json: Value = serde_json::from_slice(&asked(&stage, &response, &["--json"]).await.stdout).unwrap();
    assert_eq!((&json["verdict"], &json["status"], &json["route"]), (&"deny".into(), &403.into(), &"orders".into()));
    let failing = json["checks"].as_array().unwrap().iter().find(|check| check["ok"] == false).unwrap();
    assert_eq!(failing["reason"], "token.scope.missing");
    for secret in token.split('.').skip(1).chain(["hunter2"]) {
        assert!(!text.contains(secret) && !json.to_string().contains(secret), "{secret}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_never_reach_a_route_and_upstreams_that_break_are_kept_too() {
    let stage = Stage::start(ROUTES).await;
    let mut client = Client::connect(stage.http()).await.unwrap();
    let ambiguous = client.request("GET /open HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n").await.unwrap();
    assert_eq!(ambiguous.status, 400);
    let text = stdout(&asked(&stage, &ambiguous, &[]).await);
    assert!(text.contains("refused: request.ambiguous") && text.contains("expected: "), "{text}");

    let nowhere = stage.send(&Call::get("/nowhere")).await;
    let text = stdout(&asked(&stage, &nowhere, &[]).await);
    assert!(text.contains("refused: route.none") && text.contains("GET api.example.test/nowhere"), "{text}");

    let address = stage.upstream.address().to_string();
    stage.upstream.go_down().await;
    let broken = stage.send(&Call::get("/open")).await;
    assert!(broken.status >= 500, "{}", broken.status);
    let text = stdout(&asked(&stage, &broken, &[]).await);
    assert!(text.starts_with("failed: ") && text.contains(&address), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_shadow_mode_would_have_refused_can_be_asked_about_and_pushes_nothing_out() {
    let stage = Stage::start(ROUTES).await;
    let refused = stage.send(&Call::get("/orders")).await;
    let expired = stage.provider.issue(&TokenSpec::new().expires_in(-3600)).unwrap();
    let tried = stage.send(&Call::get("/trial").bearer(&expired)).await;
    assert_eq!((refused.status, tried.status), (401, 200));
    let text = stdout(&asked(&stage, &tried, &[]).await);
    for part in [
        "allowed, the client got 200",
        "oidc, in shadow mode, would have refused it: token.expired",
        "no  oidc expiry",
        "expected: ",
        "hint: ",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    assert!(!text.contains(expired.split('.').next_back().unwrap()), "{text}");
    // More than are kept, by a client that the rule does not know; the one real refusal stays.
    for _ in 0..1001 {
        stage.send(&Call::get("/trial")).await;
    }
    let output = asked(&stage, &refused, &[]).await;
    assert!(stdout(&output).contains("refused: token.missing"), "{output:?}");
    let gone = asked(&stage, &tried, &[]).await;
    assert_eq!(gone.status.code(), Some(1), "{gone:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_has_what_was_asked_for() {
    let stage = Stage::start(ROUTES).await;
    let expired = stage.provider.issue(&TokenSpec::new().expires_in(-3600)).unwrap();
    // A request ends only behind its response: the next one waits for it, or their order would be anybody's guess.
    let send = async |call: Call<'_>| {
        let response = stage.send(&call).await;
        stage.line(&response).await;
        response
    };
    let missing = send(Call::get("/orders/1")).await;
    let late = send(Call::get("/orders/2").bearer(&expired)).await;
    let nowhere = send(Call::get("/nowhere")).await;
    let tried = send(Call::get("/trial")).await;
    let admin = admin(&stage);
    let list = async |options: &[&str]| {
        let output = why(&[&["--list", "--admin", &admin], options].concat()).await;
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        stdout(&output)
    };
    let ids = async |options: &[&str]| {
        let text = list(options).await;
        text.lines().map(|line| line.split(' ').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let of = |responses: &[&Response]| -> Vec<_> {
        responses.iter().map(|response| response.header("x-decision-id").unwrap()).collect()
    };
    assert_eq!(ids(&[]).await, of(&[&tried, &nowhere, &late, &missing]));
    assert_eq!(ids(&["--reason", "token.", "--route", "orders"]).await, of(&[&late, &missing]));
    assert_eq!(ids(&["--reason", "token.missing"]).await, of(&[&tried, &missing]));
    assert_eq!(ids(&["--reason", "token.missing", "--shadow", "false"]).await, of(&[&missing]));
    assert_eq!(ids(&["--shadow"]).await, of(&[&tried]));
    assert_eq!(ids(&["--client", "127.0.0.0/8", "--since", "1h", "--limit", "2"]).await, of(&[&tried, &nowhere]));
    assert_eq!(list(&["--client", "10.0.0.0/8"]).await, "no such decision is kept\n");
    let text = list(&["--reason", "route.none"]).await;
    assert!(text.contains("404  route.none  GET api.example.test/nowhere  listener http, from 127.0.0.1"), "{text}");
    let json: Value = serde_json::from_str(&list(&["--shadow", "--json"]).await).unwrap();
    assert_eq!(json["decisions"][0]["shadow"][0]["reason"], "token.missing");
    // The gateway says what it does not understand.
    for options in [
        ["--reason", "token"],
        ["--reason", "token.expird"],
        ["--since", "yesterday"],
        ["--limit", "0"],
        ["--client", "10.0.0.1/8"],
    ] {
        let output = why(&[&["--list", "--admin", &admin], &options[..]].concat()).await;
        let told = String::from_utf8_lossy(&output.stderr).contains(&format!("`{}`", &options[0][2..]));
        assert!(output.status.code() == Some(2) && told && output.stdout.is_empty(), "{output:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_allowed_request_and_an_unknown_id_are_1() {
    let stage = Stage::start(ROUTES).await;
    let response = stage.send(&Call::get("/open")).await;
    assert_eq!(response.status, 200);
    let output = asked(&stage, &response, &[]).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("only those of refused requests"), "{output:?}");
    let mut operator = Client::connect(stage.gateway.admin_address().unwrap()).await.unwrap();
    let listing = operator.request("GET /decisions HTTP/1.1\r\nHost: admin\r\n\r\n").await.unwrap();
    assert_eq!(listing.json().unwrap()["decisions"], serde_json::json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_asked_is_2() {
    let stage = Stage::start(ROUTES).await;
    let (admin, id) = (admin(&stage), "0123456789abcdef01234567");
    let data_plane = format!("http://{}", stage.http());
    let config = stage.file("edge.yaml").display().to_string();
    for arguments in [
        vec!["0123", "--admin", &admin],
        vec!["../../../metrics/0123456", "--admin", &admin],
        vec![id, "--admin", "https://127.0.0.1:1"],
        // Nobody listens there, or somebody else does.
        vec![id, "--admin", "http://127.0.0.1:1"],
        vec![id, "--admin", &data_plane],
        vec![id, "--admin", &admin, "-c", &config],
        // Port 0: which one it became is not in the file.
        vec![id, "-c", &config],
        vec![id, "-c", "/nowhere/edge.yaml"],
        vec![id, "--admin", &admin, "--token-file", "/nowhere/token"],
        vec![],
        // A list, or one decision.
        vec!["--list", id, "--admin", &admin],
        vec![id, "--reason", "token.", "--admin", &admin],
    ] {
        let output = why(&arguments).await;
        assert_eq!(output.status.code(), Some(2), "{arguments:?} {output:?}");
        assert!(!output.stderr.is_empty() && output.stdout.is_empty(), "{arguments:?} {output:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_configuration_names_the_admin_listener_and_its_token() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edge.yaml");
    std::fs::write(folder.path().join("token"), "0123456789abcdef0123456789abcdef\n").unwrap();
    // Port 0, since another may be taken before the gateway has it; then the file says which one it became.
    let config = |port: u16| {
        format!(
            "listeners: [{{ name: http, address: 127.0.0.1:0 }}]\n\
             admin: {{ address: \"127.0.0.1:{port}\", token_file: token }}\n\
             access_log: {{ path: access.jsonl }}\n\
             routes: [{{ name: shut, match: {{ path: /x }}, respond: {{ status: 200 }} }}]\n"
        )
    };
    std::fs::write(&path, config(0)).unwrap();
    let gateway = portcullis::Gateway::builder().config_file(&path).watch_files(false).start().await.unwrap();
    let admin = gateway.admin_address().unwrap();
    std::fs::write(&path, config(admin.port())).unwrap();
    let mut client = Client::connect(gateway.address("http").unwrap()).await.unwrap();
    let refused = client.request("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let id = refused.header("x-decision-id").unwrap();
    line_in(&folder.path().join("access.jsonl"), &refused).await;

    let path = path.display().to_string();
    let output = why(&[&id, "-c", &path]).await;
    assert!(output.status.success() && stdout(&output).contains("refused: route.none"), "{output:?}");
    // Without the token, nothing is told.
    let url = format!("http://{admin}");
    let output = why(&[&id, "--admin", &url]).await;
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--token-file"), "{output:?}");
    std::fs::write(folder.path().join("wrong"), "another-token-of-some-length").unwrap();
    let wrong = folder.path().join("wrong").display().to_string();
    let output = why(&[&id, "--admin", &url, "--token-file", &wrong]).await;
    assert_eq!(output.status.code(), Some(2));
    assert!(!String::from_utf8_lossy(&output.stderr).contains("another-token"), "{output:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_keeps_the_decisions_and_their_number_is_reloaded() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edge.yaml");
    let write = |decisions: usize| {
        let text = format!(
            "listeners: [{{ name: http, address: 127.0.0.1:0 }}]\n\
             admin: {{ address: 127.0.0.1:0, decisions: {decisions} }}\n\
             access_log: {{ path: access.jsonl }}\n\
             routes: [{{ name: shut, match: {{ path: /x }}, respond: {{ status: 200 }} }}]\n"
        );
        std::fs::write(&path, text).unwrap();
    };
    write(2);
    let gateway = portcullis::Gateway::builder().config_file(&path).watch_files(false).start().await.unwrap();
    let listed = async || {
        let mut client = Client::connect(gateway.admin_address().unwrap()).await.unwrap();
        let listing = client.request("GET /decisions HTTP/1.1\r\nHost: admin\r\n\r\n").await.unwrap().json().unwrap();
        let rows = listing["decisions"].as_array().unwrap().clone();
        rows.iter().map(|row| row["decision_id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let mut client = Client::connect(gateway.address("http").unwrap()).await.unwrap();
    let mut ids = Vec::new();
    for _ in 0..3 {
        let refused = client.request("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        line_in(&folder.path().join("access.jsonl"), &refused).await;
        ids.push(refused.header("x-decision-id").unwrap());
    }
    assert_eq!(listed().await, [ids[2].clone(), ids[1].clone()]);
    write(1);
    gateway.reload().await.unwrap();
    assert_eq!(listed().await, [ids[2].clone()]);
    write(0);
    gateway.reload().await.unwrap();
    assert!(listed().await.is_empty());
    write(100_001);
    assert!(gateway.reload().await.is_err());
}
