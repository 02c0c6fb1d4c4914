use super::*;
use std::path::Path;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

const SECRET: &str = "revoke-0123456789abcdef";

struct Running {
    admin: Admin,
    readiness: Readiness,
    metrics: Arc<Metrics>,
    decisions: Arc<Decisions>,
    stop: watch::Sender<bool>,
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

fn env(folder: &Path) -> Env {
    Env::new(folder, prometheus::Registry::new(), Arc::default())
}

fn settings(token: Option<&str>) -> AdminSettings {
    settings_with(token, None)
}

fn settings_with(token: Option<&str>, revocations: Option<raw::Revocations>) -> AdminSettings {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("revocation-secret"), SECRET).unwrap();
    let token_file = token.map(|token| {
        std::fs::write(folder.path().join("token"), token).unwrap();
        "token".to_owned()
    });
    AdminSettings::compile(
        raw::Admin { address: "127.0.0.1:0".parse().unwrap(), token_file, decisions: 1000, revocations },
        &env(folder.path()),
    )
    .unwrap()
}

async fn start(token: Option<&str>) -> Running {
    start_with(settings(token)).await
}

async fn start_with(settings: AdminSettings) -> Running {
    let (metrics, readiness) = (Metrics::new(), Readiness::new());
    let decisions = Decisions::off();
    decisions.resize(1000);
    let (stop, stopped) = watch::channel(false);
    let admin = Admin::start(&settings, shown(&metrics, &readiness, &decisions), stopped).await.unwrap();
    Running { admin, readiness, metrics, decisions, stop }
}

fn issuers() -> Arc<Issuers> {
    let config = portcullis_identity::IssuerConfig::new("https://sso.example.com", ["api"]);
    Issuers::offline(&[("main".to_owned(), config)].into(), &env(Path::new(".")), None).unwrap()
}

fn shown(metrics: &Arc<Metrics>, readiness: &Readiness, decisions: &Arc<Decisions>) -> Shown {
    let (metrics, decisions, issuers) = (Arc::clone(metrics), Arc::clone(decisions), issuers());
    Shown {
        metrics,
        readiness: readiness.clone(),
        decisions,
        audit: Arc::default(),
        assertion: Arc::default(),
        issuers: Arc::new(move || Arc::clone(&issuers)),
    }
}

impl Running {
    async fn send(&self, request: &str) -> Answer {
        let mut stream = TcpStream::connect(self.admin.address()).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await.unwrap();
        let text = String::from_utf8(bytes).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        Answer { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
    }

    async fn ask(&self, method: &str, path: &str, headers: &str) -> Answer {
        self.send(&format!("{method} {path} HTTP/1.1\r\nhost: admin\r\n{headers}\r\n")).await
    }

    async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, "").await
    }
}

#[tokio::test]
async fn metrics_are_prometheus_text() {
    let running = start(None).await;
    running.metrics.config_started(7);
    let answer = running.get("/metrics").await;
    assert_eq!(answer.status, 200);
    assert!(answer.head.contains("content-type: text/plain; version=0.0.4"), "{}", answer.head);
    assert!(answer.head.contains("cache-control: no-store"), "{}", answer.head);
    assert!(answer.body.contains("\nportcullis_config_generation 7\n"), "{}", answer.body);
}

#[tokio::test]
async fn the_gateway_is_ready_only_while_it_serves() {
    let running = start(None).await;
    let ready = async || {
        let answer = running.get("/readyz").await;
        (answer.status, answer.body)
    };
    assert_eq!(ready().await, (503, "{\"status\":\"starting\"}\n".to_owned()));
    running.readiness.serving();
    assert_eq!(ready().await, (200, "{\"status\":\"serving\"}\n".to_owned()));
    running.readiness.draining();
    assert_eq!(ready().await, (503, "{\"status\":\"draining\"}\n".to_owned()));
    // A listener that comes up late does not undo the end.
    running.readiness.serving();
    assert_eq!(ready().await, (503, "{\"status\":\"draining\"}\n".to_owned()));
    assert_eq!(running.get("/healthz").await.status, 200);
}

#[tokio::test]
async fn only_get_and_head_and_only_what_exists() {
    let running = start(None).await;
    for path in ["/", "/metrics/", "/metrics/../metrics", "//metrics", "/decisions/1", "/%6detrics"] {
        assert_eq!(running.get(path).await.status, 404, "{path}");
    }
    for path in ["/metrics", "/decisions", "/decisions/1", "/audit/head", "/jwks", "/healthz", "/readyz"] {
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "X"] {
            assert_eq!(running.ask(method, path, "content-length: 0\r\n").await.status, 405, "{method} {path}");
        }
    }
    let head = running.ask("HEAD", "/metrics", "").await;
    assert_eq!((head.status, head.body.as_str()), (200, ""));
}

#[tokio::test]
async fn the_token_opens_everything_but_the_probes_which_are_open() {
    let running = start(Some(TOKEN)).await;
    let with = |token: &str| format!("authorization: Bearer {token}\r\n");
    assert_eq!(running.ask("GET", "/metrics", &with(TOKEN)).await.status, 200);
    assert_eq!(running.ask("GET", "/nothing", &with(TOKEN)).await.status, 404);
    let wrong = with("0123456789abcdef0123456789abcdee");
    let twice = format!("{}{}", with(TOKEN), with(TOKEN));
    let basic = format!("authorization: Basic {TOKEN}\r\n");
    for headers in ["", "authorization:\r\n", &wrong, &twice, &basic] {
        for path in [
            "/metrics",
            "/nothing",
            "/metrics?token=x",
            "/decisions",
            "/decisions/0123456789abcdef01234567",
            "/audit/head",
            "/jwks",
        ] {
            let answer = running.ask("GET", path, headers).await;
            assert_eq!((answer.status, answer.body.as_str()), (401, ""), "{path} {headers}");
            assert!(answer.head.contains("www-authenticate: bearer"), "{}", answer.head);
        }
        assert_eq!(running.ask("POST", "/metrics", headers).await.status, 401);
        assert_eq!(running.ask("GET", "/healthz", headers).await.status, 200);
        assert_eq!(running.ask("GET", "/readyz", headers).await.status, 503);
    }
}

#[tokio::test]
async fn a_reloaded_token_takes_the_place_of_the_old_one() {
    let running = start(Some(TOKEN)).await;
    assert!(running.admin.update(&settings(Some("another-token-of-length"))));
    assert_eq!(running.ask("GET", "/metrics", &format!("authorization: Bearer {TOKEN}\r\n")).await.status, 401);
    assert_eq!(running.ask("GET", "/metrics", "authorization: Bearer another-token-of-length\r\n").await.status, 200);
    let elsewhere = AdminSettings { address: "127.0.0.1:1".parse().unwrap(), token: None, decisions: 0, revocations: None };
    assert!(!running.admin.update(&elsewhere));
    assert_eq!(running.get("/metrics").await.status, 401);
}

#[tokio::test]
async fn a_large_head_and_noise_are_refused() {
    let running = start(None).await;
    let large = format!("x-large: {}\r\n", "a".repeat(64 << 10));
    let status = running.ask("GET", "/metrics", &large).await.status;
    assert!(matches!(status, 0 | 400 | 431), "{status}");
    assert!(matches!(running.send("\x16\x03\x01\r\n\r\n").await.status, 0 | 400));
    assert_eq!(running.get("/healthz").await.status, 200);
}

#[tokio::test]
async fn a_connection_serves_one_request() {
    let running = start(None).await;
    let request = "GET /healthz HTTP/1.1\r\nhost: admin\r\n\r\n";
    let answer = running.send(&request.repeat(2)).await;
    assert!(answer.head.contains("connection: close"), "{}", answer.head);
    assert!(!answer.body.contains("HTTP/1.1"), "{}", answer.body);
}

/// With time stopped, the deadlines pass at once when nothing else can happen.
#[tokio::test(start_paused = true)]
async fn clients_that_say_nothing_do_not_lock_others_out() {
    let running = start(None).await;
    let mut silent = Vec::new();
    for i in 0..200 {
        let mut stream = TcpStream::connect(running.admin.address()).await.unwrap();
        if i % 2 == 0 {
            stream.write_all(b"GET /healthz HTTP/1.1\r\n").await.unwrap();
        }
        silent.push(stream);
    }
    assert_eq!(running.get("/healthz").await.status, 200);
    for mut stream in silent {
        let mut rest = Vec::new();
        // Closed or reset by the gateway, which is all that matters.
        let _ = stream.read_to_end(&mut rest).await;
    }
}

#[tokio::test]
async fn stopping_ends_the_listener_and_idle_connections() {
    let running = start(None).await;
    let address = running.admin.address();
    let mut idle = TcpStream::connect(address).await.unwrap();
    assert_eq!(running.get("/healthz").await.status, 200);
    running.stop.send(true).unwrap();
    running.admin.stopped().await;
    assert!(TcpStream::connect(address).await.is_err());
    assert_eq!(idle.read(&mut [0; 1]).await.unwrap_or(0), 0);
}

#[tokio::test]
async fn a_taken_address_is_an_error_that_names_it() {
    let running = start(None).await;
    let taken = AdminSettings { address: running.admin.address(), token: None, decisions: 0, revocations: None };
    let (_stop, stopped) = watch::channel(false);
    let error = Admin::start(&taken, shown(&Metrics::new(), &Readiness::new(), &Decisions::off()), stopped).await.err().unwrap();
    assert_eq!(error.dotted_path(), "admin.address");
    assert!(error.message().contains(&taken.address.to_string()), "{error}");
}

#[test]
fn other_machines_need_a_token() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("token"), TOKEN).unwrap();
    std::fs::write(folder.path().join("short"), "too-short\n").unwrap();
    let compile = |address: &str, token_file: Option<&str>| {
        let raw = raw::Admin {
            address: address.parse().unwrap(),
            token_file: token_file.map(str::to_owned),
            decisions: 0,
            revocations: None,
        };
        AdminSettings::compile(raw, &env(folder.path()))
    };
    for address in ["127.0.0.1:9090", "127.8.8.8:0", "[::1]:9090", "[::ffff:127.0.0.1]:9090"] {
        assert!(!compile(address, None).unwrap().needs_token(), "{address}");
    }
    for address in ["0.0.0.0:9090", "[::]:9090", "10.0.0.1:9090", "[::ffff:10.0.0.1]:9090"] {
        assert_eq!(compile(address, None).err().unwrap().dotted_path(), "admin.address", "{address}");
        assert!(compile(address, Some("token")).unwrap().needs_token(), "{address}");
    }
    for file in ["missing", "short"] {
        let error = compile("127.0.0.1:0", Some(file)).err().unwrap();
        assert_eq!(error.dotted_path(), "admin.token_file");
        assert!(!error.to_string().contains("too-short"), "{error}");
    }
}

fn refuse(running: &Running, reason: portcullis_plugin::ReasonCode) -> String {
    let id = portcullis_plugin::DecisionId::random();
    let peer = "192.0.2.1:1000".parse().unwrap();
    let record = crate::access_log::Record {
        verdict: crate::access_log::FinalVerdict::Deny,
        status: 403,
        reason: Some(reason),
        route: Some("orders"),
        ..crate::access_log::Record::new(std::time::SystemTime::UNIX_EPOCH, id.as_str(), "https", peer)
    };
    running.decisions.record(id, &record, &[]);
    id.to_string()
}

#[tokio::test]
async fn a_refused_request_can_be_asked_about_by_its_id() {
    use portcullis_plugin::reason;
    let running = start(None).await;
    let ids = [refuse(&running, reason::IP_DENIED), refuse(&running, reason::TOKEN_EXPIRED)];
    let answer = running.get(&format!("/decisions/{}", ids[0])).await;
    assert!(answer.head.contains("application/json") && answer.head.contains("no-store"), "{}", answer.head);
    let decision: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!((answer.status, &decision["reason"], &decision["client"]), (200, &"ip.denied".into(), &"192.0.2.1".into()));
    let listing: serde_json::Value = serde_json::from_str(&running.get("/decisions").await.body).unwrap();
    let listed: Vec<_> = listing["decisions"].as_array().unwrap().iter().map(|row| row["decision_id"].clone()).collect();
    assert_eq!(listed, [&*ids[1], &*ids[0]]);
    let newest = &listing["decisions"][0];
    assert_eq!(
        (&newest["route"], &newest["status"], &newest["reason"]),
        (&"orders".into(), &403.into(), &"token.expired".into())
    );
}

#[tokio::test]
async fn a_listing_has_what_was_asked_for_and_nothing_is_guessed() {
    use portcullis_plugin::reason;
    let running = start(None).await;
    let ids = [refuse(&running, reason::IP_DENIED), refuse(&running, reason::TOKEN_EXPIRED)];
    let listed = async |query: &str| {
        let answer = running.get(&format!("/decisions?{query}")).await;
        assert_eq!(answer.status, 200, "{query} {}", answer.body);
        let listing: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
        let rows = listing["decisions"].as_array().unwrap().clone();
        rows.iter().map(|row| row["decision_id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(listed("reason=token.&route=orders&client=192.0.2.0/24").await, ids[1..]);
    assert_eq!(listed("reason=ip.denied").await, ids[..1]);
    assert_eq!(listed("limit=1").await, ids[1..]);
    assert!(listed("since=2026-01-01T00:00:00Z").await.is_empty());
    for query in ["resaon=x", "limit=0", "limit=1&limit=2", "client=10.0.0.1/8", "since=%ff"] {
        let answer = running.get(&format!("/decisions?{query}")).await;
        assert!(answer.status == 400 && answer.body.contains("\"error\""), "{query} {}", answer.body);
    }
}

#[tokio::test]
async fn without_assertions_there_are_no_keys_to_show() {
    let answer = start(None).await.get("/jwks").await;
    assert!(answer.status == 404 && answer.body.contains("no `assertion`"), "{}", answer.body);
}

#[tokio::test]
async fn an_unknown_decision_is_said_to_be_unknown() {
    let running = start(None).await;
    let id = refuse(&running, portcullis_plugin::reason::IP_DENIED);
    for path in ["0123456789abcdef01234567", "%00", "%ff", "..%2f..", &id.to_uppercase(), &format!("{id}0")] {
        assert!(matches!(running.get(&format!("/decisions/{path}")).await.status, 400 | 404), "{path}");
    }
    let answer = running.get("/decisions/0123456789abcdef01234567").await;
    assert!(answer.status == 404 && answer.body.contains("the newest 1000"), "{}", answer.body);
    running.decisions.resize(0);
    let answer = running.get(&format!("/decisions/{id}")).await;
    assert!(answer.status == 404 && answer.body.contains("`admin.decisions` is 0"), "{}", answer.body);
}

fn telling(max_entries: usize) -> Option<raw::Revocations> {
    let keep = portcullis_plugin::units::TimeSpan::secs(3600);
    Some(raw::Revocations { secret_file: "revocation-secret".to_owned(), keep, max_entries })
}

impl Running {
    async fn tell(&self, secret: &str, form: &str) -> Answer {
        let kind = "content-type: application/x-www-form-urlencoded; charset=utf-8";
        let request = format!(
            "POST /revocations HTTP/1.1\r\nhost: admin\r\nauthorization: Bearer {secret}\r\n{kind}\r\ncontent-length: {}\r\n\r\n{form}",
            form.len()
        );
        self.send(&request).await
    }
}

#[tokio::test]
async fn nobody_tells_of_revocations_unless_the_configuration_says_who() {
    for token in [None, Some(TOKEN)] {
        let running = start(token).await;
        let hidden = if token.is_some() { 401 } else { 404 };
        assert_eq!(running.tell(SECRET, "token=a").await.status, hidden);
        assert_eq!(running.get("/revocations").await.status, hidden);
        assert_eq!(running.tell(TOKEN, "token=a").await.status, 404, "there is nothing behind it");
    }
}

#[tokio::test]
async fn only_the_secret_of_its_own_opens_it_and_it_opens_nothing_else() {
    let running = start_with(settings_with(Some(TOKEN), telling(10))).await;
    for wrong in ["", TOKEN, "revoke-0123456789abcdee", "revoke-0123456789abcdef2"] {
        let answer = running.tell(wrong, "token=a").await;
        assert_eq!((answer.status, answer.body.as_str()), (401, ""), "{wrong}");
    }
    let twice = format!("authorization: Bearer {SECRET}\r\nauthorization: Bearer {SECRET}\r\n");
    for headers in ["", "authorization: Basic revoke-0123456789abcdef\r\n", &twice] {
        assert_eq!(running.ask("POST", "/revocations", &format!("{headers}content-length: 0\r\n")).await.status, 401);
    }
    let with = format!("authorization: Bearer {SECRET}\r\n");
    assert_eq!(running.ask("GET", "/decisions", &with).await.status, 401);
    for method in ["GET", "PUT", "DELETE", "HEAD"] {
        let answer = running.ask(method, "/revocations", &with).await;
        assert!(answer.status == 405 && answer.head.contains("allow: post"), "{method}: {}", answer.head);
    }
    assert_eq!(running.tell(SECRET, "token=a").await.status, 200);
}

#[tokio::test]
async fn a_revocation_is_told_with_its_end_and_what_is_not_understood_is_not_taken() {
    let running = start_with(settings_with(None, telling(2))).await;
    let answer = running.tell(SECRET, "token=opaque-token&token_type_hint=access_token").await;
    let told: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
    assert!(
        answer.status == 200 && told["revoked"] == true && told["until"].as_str().unwrap().len() == "2026-01-31T12:00:00Z".len(),
        "{}",
        answer.body
    );
    assert!(answer.head.contains("no-store") && !answer.body.contains("opaque-token"), "{}", answer.head);
    for (form, says) in [
        ("token=a&tokem=b", "not known"),
        ("", "nothing is named"),
        ("iss=https%3A%2F%2Fother.example&jti=1", "no issuer of the configuration is `https://other.example`"),
    ] {
        let answer = running.tell(SECRET, form).await;
        assert!(answer.status == 400 && answer.body.contains(says), "{form}: {} {}", answer.status, answer.body);
    }
    let headers = format!("authorization: Bearer {SECRET}\r\ncontent-type: application/json\r\ncontent-length: 0\r\n");
    assert_eq!(running.ask("POST", "/revocations", &headers).await.status, 415);
    assert_eq!(running.tell(SECRET, &format!("token={}", "a".repeat(70_000))).await.status, 413);
    assert_eq!(running.tell(SECRET, "iss=https%3A%2F%2Fsso.example.com&jti=1&exp=4000000000").await.status, 200);
    // There is room for two.
    let full = running.tell(SECRET, "token=another").await;
    assert!(full.status == 503 && full.body.contains("not taken: 2 revocations are remembered already"), "{}", full.body);
    assert_eq!(running.tell(SECRET, "token=opaque-token").await.status, 200, "it is remembered already");
}

#[tokio::test]
async fn a_reload_opens_and_closes_it() {
    let running = start(None).await;
    assert_eq!(running.tell(SECRET, "token=a").await.status, 404);
    assert!(running.admin.update(&settings_with(None, telling(10))));
    assert_eq!(running.tell(SECRET, "token=a").await.status, 200);
    assert!(running.admin.update(&settings(None)));
    assert_eq!(running.tell(SECRET, "token=b").await.status, 404);
}

#[test]
fn a_secret_that_can_be_guessed_and_bounds_that_mean_nothing_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("good"), SECRET).unwrap();
    std::fs::write(folder.path().join("short"), "too-short\n").unwrap();
    for (file, hours, max_entries, place) in [
        ("short", 1, 1, "secret_file"),
        ("missing", 1, 1, "secret_file"),
        ("good", 0, 1, "keep"),
        ("good", 24 * 367, 1, "keep"),
        ("good", 1, 0, "max_entries"),
    ] {
        let keep = portcullis_plugin::units::TimeSpan::secs(hours * 3600);
        let revocations = Some(raw::Revocations { secret_file: file.to_owned(), keep, max_entries });
        let raw = raw::Admin { address: "127.0.0.1:0".parse().unwrap(), token_file: None, decisions: 0, revocations };
        let error = AdminSettings::compile(raw, &env(folder.path())).err().unwrap();
        assert_eq!(error.dotted_path(), format!("admin.revocations.{place}"));
        assert!(!error.to_string().contains("too-short"), "{error}");
    }
}
