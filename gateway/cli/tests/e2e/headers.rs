//! What a client says about itself in headers, and what the upstream gets to see of it.

use crate::stage::{Call, HOST, Stage};
use portcullis_testkit::frames::{self, Answered};
use portcullis_testkit::pki::client_config;
use portcullis_testkit::token::{Alg, TokenSpec};
use portcullis_testkit::upstream::Recorded;
use portcullis_testkit::{Client, Http2Client};

const CONFIG: &str = r#"
issuers:
  main: { issuer: "{ISSUER}", audiences: [https://api.example.test] }
routes:
  - name: orders
    match: { path: /orders }
    filters:
      - oidc: { issuer: main }
      - identity_headers: { headers: { x-auth-user-id: sub, x-auth-roles: roles } }
    pool: up
  - name: forwarding
    match: { path: /forwarding }
    filters:
      - oidc: { issuer: main }
      - identity_headers: { headers: { x-auth-user-id: sub }, forward_token: true }
    pool: up
  - name: plain
    match: { path: /plain }
    pool: up
"#;

/// Names that an upstream might take for `X-Auth-User-Id`.
const SPELLINGS: &[&str] = &[
    "x-auth-user-id",
    "X-Auth-User-Id",
    "X-AUTH-USER-ID",
    "x_auth_user_id",
    "X_Auth_User_Id",
    "x-auth_user-id",
    "x.auth.user.id",
    "X-Auth.User_Id",
    "x~auth~user~id",
];

fn folded(name: &str) -> String {
    name.bytes().map(|b| if b.is_ascii_alphanumeric() { b.to_ascii_lowercase() as char } else { '-' }).collect()
}

/// All values that the upstream got under a name or a look-alike of it.
fn alike(seen: &Recorded, name: &str) -> Vec<String> {
    let alike = seen.headers.iter().filter(|(field, _)| folded(field) == name);
    alike.map(|(_, value)| String::from_utf8_lossy(value).into_owned()).collect()
}

fn token(stage: &Stage) -> String {
    stage.provider.issue(&TokenSpec::new().alg(Alg::Es256).roles(&["reader"])).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hole_look_alikes_of_identity_headers_go_through() {
    let stage = Stage::start(CONFIG).await;
    let bearer = token(&stage);
    let inspection = stage.inspect();
    for spelling in SPELLINGS {
        let spoofed = |path: &str| {
            Call::get(path).bearer(&bearer).field(spelling, "root").field(spelling, "root2").field("X-Auth-Roles", "admin")
        };
        let judged = stage.judge_by(&inspection, &spoofed("/orders/1")).await;
        judged.allowed(200);
        let seen = stage.upstream.last().unwrap();
        assert_eq!(alike(&seen, "x-auth-user-id"), ["alice"], "{spelling}");
        assert_eq!(alike(&seen, "x-auth-roles"), ["reader"], "{spelling}");
        assert_eq!(judged.explanation["upstream_headers"]["x-auth-user-id"], "alice");
        // The names are the gateway's on every route, also on one without a filter.
        stage.judge_by(&inspection, &spoofed("/plain")).await.allowed(200);
        let seen = stage.upstream.last().unwrap();
        assert_eq!(alike(&seen, "x-auth-user-id"), Vec::<String>::new(), "{spelling}");
        assert_eq!(alike(&seen, "x-auth-roles"), Vec::<String>::new(), "{spelling}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hole_a_header_value_that_is_not_ascii_is_skipped_by_the_stripper() {
    let stage = Stage::start(CONFIG).await;
    let bearer = token(&stage);
    for value in [&b"root\xA0"[..], b"\xFF", "r\u{f6}\u{f6}t".as_bytes(), b"a\tb", b""] {
        for path in ["/orders/1", "/plain"] {
            let call = Call::get(path).bearer(&bearer).field("X-Auth-User-Id", value).field("x_auth_roles", value);
            let response = stage.send(&call).await;
            assert_eq!(response.status, 200, "{value:?}");
            let seen = stage.upstream.last().unwrap();
            let expected: &[&str] = if path == "/plain" { &[] } else { &["alice"] };
            assert_eq!(alike(&seen, "x-auth-user-id"), expected, "{value:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hole_connection_nominates_the_identity_header_and_it_is_deleted() {
    let stage = Stage::start(CONFIG).await;
    let bearer = token(&stage);
    for nominated in [
        "x-auth-user-id",
        "X-Auth-User-Id, x-auth-roles",
        "keep-alive, x-auth-user-id",
        "close, X-AUTH-USER-ID",
        "x-decision-id, x-auth-user-id",
    ] {
        let call = Call::get("/orders/1").bearer(&bearer).field("Connection", nominated).field("X-Auth-User-Id", "root");
        stage.judge(&call).await.allowed(200);
        let seen = stage.upstream.last().unwrap();
        assert_eq!(alike(&seen, "x-auth-user-id"), ["alice"], "{nominated}");
        assert_eq!(alike(&seen, "x-auth-roles"), ["reader"], "{nominated}");
        assert_eq!((alike(&seen, "x-forwarded-for").len(), alike(&seen, "x-decision-id").len()), (1, 1), "{nominated}");
        assert!(!seen.header_all("connection").iter().any(|value| folded(value).contains("x-auth")), "{nominated}");
    }
    // A field that somebody decides by cannot be nominated away at all.
    for nominated in ["authorization", "x-forwarded-for", "close, Content-Length", "host", "cookie"] {
        let call = Call::get("/orders/1").bearer(&bearer).field("Connection", nominated);
        stage.judge(&call).await.refused(400, "request.ambiguous");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn identity_headers_hold_on_http_2() {
    let stage = Stage::start(CONFIG).await;
    let bearer = format!("Bearer {}", token(&stage));
    let tls = client_config(&[&stage.servers], None, &["h2"]).unwrap();
    let mut client = Http2Client::connect_tls(stage.https(), HOST, tls).await.unwrap();
    for spelling in SPELLINGS.iter().map(|name| name.to_ascii_lowercase()) {
        let fields = [("authorization", bearer.as_str()), (&spelling, "root"), (&spelling, "root2"), ("x_auth_roles", "admin")];
        for (path, user) in [("/orders/1", &["alice"][..]), ("/plain", &[])] {
            let response = client.get(HOST, path, &fields).await.unwrap();
            assert_eq!(response.status, 200, "{spelling}");
            assert_eq!(alike(&stage.upstream.last().unwrap(), "x-auth-user-id"), user, "{spelling}");
        }
    }
    // By hand, what a proper client would not send.
    for value in [&b"root\xA0"[..], b"\xFF\xFE"] {
        for name in [&b"x-auth-user-id"[..], b"x_auth_user_id"] {
            let mut fields = frames::get(HOST, "/orders/1");
            fields.extend([(&b"authorization"[..], bearer.as_bytes()), (name, value)]);
            let mut raw = Client::connect(stage.http()).await.unwrap();
            assert_eq!(frames::exchange(&mut raw, &fields, None).await.unwrap(), Answered::Status(200));
            assert_eq!(alike(&stage.upstream.last().unwrap(), "x-auth-user-id"), ["alice"]);
        }
    }
    let before = stage.upstream.count();
    for bad in [(&b"connection"[..], &b"x-auth-user-id"[..]), (b"X-Auth-User-Id", b"root")] {
        let mut fields = frames::get(HOST, "/orders/1");
        fields.extend([(&b"authorization"[..], bearer.as_bytes()), bad]);
        let mut raw = Client::connect(stage.http()).await.unwrap();
        assert!(frames::exchange(&mut raw, &fields, None).await.unwrap().is_refusal());
    }
    assert_eq!(stage.upstream.count(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_token_goes_on_only_where_the_route_says_so() {
    let stage = Stage::start(CONFIG).await;
    let bearer = token(&stage);
    for (path, expected) in [("/orders/1", None), ("/forwarding", Some(format!("Bearer {bearer}")))] {
        let judged = stage.judge(&Call::get(path).bearer(&bearer)).await;
        judged.allowed(200);
        let seen = stage.upstream.last().unwrap();
        assert_eq!(seen.header_all("authorization"), expected.into_iter().collect::<Vec<_>>());
        assert!(!judged.explanation.to_string().contains(bearer.split('.').nth(2).unwrap()), "explain shows no credentials");
    }
    // A route with no policy is a plain proxy.
    stage.judge(&Call::get("/plain").field("Authorization", "Basic dTpw")).await.allowed(200);
    assert_eq!(stage.upstream.last().unwrap().header_all("authorization"), ["Basic dTpw"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hole_a_spoofed_x_forwarded_prefix_bypasses_authentication() {
    let stage = Stage::start(CONFIG).await;
    let stories = [
        ("X-Forwarded-Prefix", "/plain"),
        ("X-Original-URL", "/plain"),
        ("X-Rewrite-URL", "/plain"),
        ("X-Forwarded-Uri", "/plain"),
        ("X-Forwarded-Method", "OPTIONS"),
        ("X-HTTP-Method-Override", "OPTIONS"),
    ];
    for (name, value) in stories {
        stage.judge(&Call::get("/orders/1").field(name, value)).await.refused(401, "token.missing");
    }
    assert_eq!(stage.upstream.count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_strangers_story_about_its_way_here_is_replaced_in_every_spelling() {
    let stage = Stage::start(CONFIG).await;
    let tls = client_config(&[&stage.servers], None, &["h2"]).unwrap();
    let mut http2 = Http2Client::connect_tls(stage.https(), HOST, tls).await.unwrap();
    let fields = [
        ("x-forwarded-for", "10.0.0.1"),
        ("x-forwarded-for", "10.0.0.2"),
        ("x-forwarded-proto", "gopher"),
        ("x-forwarded-host", "admin.internal"),
        ("x-forwarded-prefix", "/admin"),
        ("forwarded", "for=10.0.0.1"),
        ("x-real-ip", "10.0.0.1"),
        ("x-decision-id", "0000"),
        ("x_decision_id", "0001"),
        ("x.decision.id", "0002"),
        ("true_client_ip", "10.0.0.1"),
    ];
    let mut call = Call::get("/plain");
    for (name, value) in fields {
        call = call.field(name, value);
    }
    let response = stage.send(&call).await;
    assert_eq!(response.status, 200);
    check(&stage.upstream.last().unwrap(), "http", &response.header("x-decision-id").unwrap());
    let response = http2.get(HOST, "/plain", &fields).await.unwrap();
    assert_eq!(response.status, 200);
    check(&stage.upstream.last().unwrap(), "https", &response.header("x-decision-id").unwrap());
    // What stands for one of them to some servers and for nothing to others is ambiguous.
    let before = stage.upstream.count();
    for name in ["x_forwarded_for", "x.forwarded.for", "X-Forwarded_Host", "x~real~ip", "X_Original_URL"] {
        stage.judge(&Call::get("/plain").field(name, "10.0.0.1")).await.refused(400, "request.ambiguous");
        let refused = http2.get(HOST, "/plain", &[(&*name.to_ascii_lowercase(), "10.0.0.1")]).await.unwrap();
        assert_eq!(refused.status, 400, "{name}");
    }
    assert_eq!(stage.upstream.count(), before);

    fn check(seen: &Recorded, proto: &str, id: &str) {
        assert_eq!(alike(seen, "x-forwarded-for"), ["127.0.0.1"]);
        assert_eq!(alike(seen, "x-forwarded-proto"), [proto]);
        assert_eq!(alike(seen, "x-forwarded-host"), [HOST]);
        assert_eq!(alike(seen, "x-decision-id"), [id]);
        for name in ["x-forwarded-prefix", "forwarded", "x-real-ip", "true-client-ip"] {
            assert_eq!(alike(seen, name), Vec::<String>::new(), "{name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trusted_proxys_story_is_continued() {
    let stage = Stage::start(&format!("trusted_proxies: [127.0.0.1]\n{CONFIG}")).await;
    let call = Call::get("/plain").field("X-Forwarded-For", "198.51.100.7").field("X-Forwarded-Proto", "https");
    stage.judge(&call).await.allowed(200);
    let seen = stage.upstream.last().unwrap();
    assert_eq!(alike(&seen, "x-forwarded-for"), ["198.51.100.7, 127.0.0.1"]);
    assert_eq!(alike(&seen, "x-forwarded-proto"), ["https"]);
}
