//! The two configurations of the contract, unchanged, through the real command.
//!
//! They name their ports, so this one test owns them: 8443, 8080, 9090, 9001 to 9003 and 9400 of 127.0.0.1. It runs
//! everything in turn, and says so if somebody else has one of them.

use crate::stage::{HOST, assert_refusal, line_in, members, metric};
use portcullis_testkit::client::{head, once};
use portcullis_testkit::pki::{Identity, Pki, Usage, client_config};
use portcullis_testkit::token::{Alg, SignWith, TokenSpec};
use portcullis_testkit::{Client, Port, Provider, RealProvider, Response, Upstream, shared_file, until, within};
use serde_json::Value;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

const PORTS: [u16; 7] = [8443, 8080, 9090, 9001, 9002, 9003, 9400];
const AUDIENCE: &str = "https://api.example.test/rs256";
const PARTNERS: &str = "partners.example.test";

fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

fn own_the_ports() {
    for port in PORTS {
        if let Err(error) = std::net::TcpListener::bind(local(port)) {
            panic!(
                "127.0.0.1:{port} is taken ({error}): the contract's configurations name their ports, and this test needs all of {PORTS:?}"
            );
        }
    }
}

async fn upstream(port: u16) -> Upstream {
    Upstream::builder().port(&Port::of(port).unwrap()).start().await.unwrap()
}

/// The command, running in a folder of its own.
struct Running {
    child: Child,
    folder: PathBuf,
}

impl Running {
    async fn start(folder: &Path, config: &str) -> Self {
        let errors = std::fs::File::create(folder.join("stderr")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_portcullis"))
            .args(["run", "-c", config])
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(errors)
            .spawn()
            .unwrap();
        let mut running = Self { child, folder: folder.to_owned() };
        let ready = async {
            loop {
                if let Some(status) = running.child.try_wait().unwrap() {
                    panic!("portcullis ended with {status}: {}", running.said());
                }
                if let Ok(response) = once(local(9090), head("GET", "127.0.0.1", "/readyz", &[])).await
                    && response.status == 200
                {
                    return;
                }
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        within("readiness", ready).await.unwrap();
        running
    }

    fn said(&self) -> String {
        std::fs::read_to_string(self.folder.join("stderr")).unwrap()
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    async fn end(mut self) -> (ExitStatus, String) {
        self.signal("TERM");
        let mut status = None;
        let ended = || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        };
        until("the end after SIGTERM", ended).await.unwrap();
        (status.unwrap(), self.said())
    }

    async fn metrics(&self) -> String {
        let response = once(local(9090), head("GET", "127.0.0.1", "/metrics", &[])).await.unwrap();
        assert_eq!(response.status, 200);
        assert!(response.header("content-type").unwrap().starts_with("text/plain"), "{:?}", response.headers);
        response.text()
    }

    async fn line(&self, response: &Response) -> Value {
        line_in(&self.folder.join("access.jsonl"), response).await
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What lies in `tls/`, and who holds the keys.
struct Certificates {
    servers: Pki,
    clients: Pki,
    partner: Identity,
    revoked: Identity,
}

impl Certificates {
    fn write(folder: &Path) -> Self {
        let tls = folder.join("tls");
        let (servers, clients) = (Pki::named("Servers").unwrap(), Pki::named("Clients").unwrap());
        servers.server(&[HOST, PARTNERS]).unwrap().write_to(&tls, "edge").unwrap();
        let partner = clients.leaf("Acme").dns("acme.partner.example").issue().unwrap();
        let revoked = clients.leaf("Gone").dns("gone.partner.example").issue().unwrap();
        clients.write_ca(tls.join("clients-ca.pem")).unwrap();
        clients.crl(&[&revoked]).unwrap().write_to(tls.join("clients.crl")).unwrap();
        Self { servers, clients, partner, revoked }
    }

    async fn connect(&self, host: &str, identity: Option<&Identity>) -> Client {
        let tls = client_config(&[&self.servers], identity, &["http/1.1"]).unwrap();
        Client::connect_tls(local(8443), host, tls).await.unwrap()
    }
}

/// Runs `explain --json` and gives its exit code and answer.
fn explained(folder: &Path, arguments: &[&str]) -> (i32, Value) {
    let output = Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(["explain", "-c", "edge.yaml", "--json"])
        .args(arguments)
        .current_dir(folder)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let answer = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}{}", String::from_utf8_lossy(&output.stderr)));
    (output.status.code().unwrap(), answer)
}

/// What explain says of the same request must be what the wire and the log said.
fn assert_same(folder: &Path, line: &Value, arguments: &[&str]) {
    let (code, answer) = explained(folder, arguments);
    for member in ["verdict", "reason", "route"] {
        assert_eq!(answer[member], line[member], "{member}: {line}\n{answer:#}");
    }
    assert_eq!(code, i32::from(line["verdict"] != "allow"));
    assert!(answer["status"].is_null() || answer["status"] == line["status"], "{line}\n{answer:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_configurations_of_the_contract_run_unchanged() {
    let (Some(edge), Some(minimal)) = (shared_file("contract/edge.yaml"), shared_file("contract/minimal.yaml")) else { return };
    own_the_ports();
    let upstreams = [upstream(9001).await, upstream(9002).await, upstream(9003).await];
    with_a_real_provider(&edge, &upstreams).await;
    edge_yaml(&edge, &upstreams).await;
    minimal_yaml(&minimal, &upstreams).await;
}

/// Tokens that somebody else's software has issued.
async fn with_a_real_provider(edge: &Path, upstreams: &[Upstream]) {
    let Some(provider) = RealProvider::start_on(Port::of(9400)).await else { return };
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(edge, folder.path().join("edge.yaml")).unwrap();
    let certificates = Certificates::write(folder.path());
    let running = Running::start(folder.path(), "edge.yaml").await;
    let mut client = certificates.connect(HOST, None).await;
    for (resource, scope, status, reason) in [
        ("rs256", "api:read", 200, Value::Null),
        ("rs256", "api:read api:write", 200, Value::Null),
        ("rs256", "api:write", 403, "token.scope.missing".into()),
        ("ps256", "api:read", 401, "token.audience.mismatch".into()),
        ("opaque", "api:read", 401, "token.malformed".into()),
    ] {
        let token = provider.token(resource, scope).await.unwrap();
        let response = client.get(HOST, "/orders/1", &[("authorization", &format!("Bearer {token}"))]).await.unwrap();
        assert_eq!(response.status, status, "{resource} {scope}");
        let line = running.line(&response).await;
        assert_eq!(line["reason"], reason);
        assert_same(folder.path(), &line, &["--url", "https://api.example.test/orders/1", "--token", &token]);
        if status == 200 {
            let asked = upstreams.iter().find_map(|upstream| upstream.requests().last().cloned()).unwrap();
            assert_eq!((asked.header_all("x-scope").len(), asked.header_all("authorization").len()), (1, 0));
        }
        assert!(!running.said().contains(token.rsplit('.').next().unwrap()));
    }
    assert!(running.end().await.0.success());
    upstreams.iter().for_each(Upstream::forget);
}

async fn edge_yaml(edge: &Path, upstreams: &[Upstream]) {
    let provider = Provider::builder().port(&Port::of(9400).unwrap()).audience(AUDIENCE).start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    std::fs::copy(edge, path.join("edge.yaml")).unwrap();
    let certificates = Certificates::write(path);
    let running = Running::start(path, "edge.yaml").await;
    let tokens = the_orders_route(&running, &certificates, &provider, upstreams).await;
    the_partners_route(&running, &certificates, upstreams).await;
    routing(&running, &certificates).await;
    the_internal_listener(&running, &provider).await;
    health_checks(&running, &certificates, &provider, upstreams).await;
    the_record(&running, &certificates, &provider).await;
    admin_and_signals(running, path, &tokens).await;
}

fn good() -> TokenSpec {
    TokenSpec::new().scope("api:read").roles(&["admin", "staff"])
}

async fn the_orders_route(
    running: &Running,
    certificates: &Certificates,
    provider: &Provider,
    upstreams: &[Upstream],
) -> Vec<String> {
    let mut client = certificates.connect(HOST, None).await;
    let issue = |spec: TokenSpec| provider.issue(&spec).unwrap();
    let cases = [
        (issue(good()), 200, Value::Null),
        (issue(good().alg(Alg::Ps256)), 200, Value::Null),
        (issue(good().alg(Alg::Es256)), 200, Value::Null),
        (issue(good().alg(Alg::EdDsa)), 200, Value::Null),
        (issue(good().alg(Alg::Es384)), 401, "token.alg.refused".into()),
        (issue(good().expires_in(-41)), 401, "token.expired".into()),
        (issue(good().audience("https://api.example.test")), 401, "token.audience.mismatch".into()),
        (issue(good().claim("iss", "http://127.0.0.1:9400/")), 401, "token.issuer.mismatch".into()),
        (issue(good().scope("api:write")), 403, "token.scope.missing".into()),
        (issue(good().sign_with(SignWith::Foreign)), 401, "token.signature.invalid".into()),
        (issue(good().sign_with(SignWith::Nobody)), 401, "token.alg.refused".into()),
        (issue(good().header("crit", serde_json::json!(["exp"]))), 401, "token.crit.refused".into()),
        ("nonsense".to_owned(), 401, "token.malformed".into()),
    ];
    for (token, status, reason) in &cases {
        let spoofed =
            [("authorization", &*format!("Bearer {token}")), ("x-user", "root"), ("X_Roles", "root"), ("connection", "x-user")];
        let response = client.get(HOST, "/orders/1", &spoofed).await.unwrap();
        assert_eq!(response.status, *status, "{reason}");
        let line = running.line(&response).await;
        assert_eq!(line["reason"], *reason);
        assert_same(&running.folder, &line, &["--url", "https://api.example.test/orders/1", "--token", token]);
        if *status == 200 {
            let seen = upstreams.iter().flat_map(Upstream::requests).last().unwrap();
            assert_eq!(
                (seen.header_all("x-user"), seen.header_all("x-roles")),
                (vec!["alice".into()], vec!["admin,staff".into()])
            );
            assert_eq!((seen.header_all("x-scope"), seen.header_all("authorization")), (vec!["api:read".into()], vec![]));
        } else {
            assert_refusal(&response);
            assert!(response.header("www-authenticate").unwrap().starts_with("Bearer "));
        }
    }
    // Three to one.
    upstreams.iter().for_each(Upstream::forget);
    let bearer = format!("Bearer {}", cases[0].0);
    for _ in 0..40 {
        assert_eq!(client.get(HOST, "/orders", &[("authorization", &bearer)]).await.unwrap().status, 200);
    }
    assert_eq!((upstreams[0].requests().len(), upstreams[1].requests().len()), (30, 10));
    cases.into_iter().map(|(token, ..)| token).collect()
}

async fn the_partners_route(running: &Running, certificates: &Certificates, upstreams: &[Upstream]) {
    let clients = &certificates.clients;
    let acme = || clients.leaf("Acme").dns("acme.partner.example");
    let foreign = Pki::named("Clients").unwrap();
    let others = [
        (acme().expired().issue().unwrap(), "cert.expired"),
        (acme().usage(Usage::Server).issue().unwrap(), "cert.untrusted"),
        (foreign.leaf("Acme").dns("acme.partner.example").issue().unwrap(), "cert.untrusted"),
        (clients.leaf("Acme").dns("acme.example").issue().unwrap(), "cert.name.mismatch"),
        (clients.client("nameless").unwrap(), "cert.name.mismatch"),
    ];
    let mut cases = vec![
        (None, Some("cert.missing")),
        (Some(&certificates.partner), None),
        (Some(&certificates.revoked), Some("cert.revoked")),
    ];
    cases.extend(others.iter().map(|(identity, reason)| (Some(identity), Some(*reason))));
    for (identity, reason) in cases {
        let mut client = certificates.connect(PARTNERS, identity).await;
        let response = client.get(PARTNERS, "/", &[("x-client-cert-subject", "CN=root")]).await.unwrap();
        let line = running.line(&response).await;
        assert_eq!((response.status, line["reason"].as_str()), (if reason.is_some() { 403 } else { 200 }, reason));
        let mut arguments = vec!["--url", "https://partners.example.test/"];
        let pem = running.folder.join("client.pem");
        if let Some(identity) = identity {
            std::fs::write(&pem, identity.cert_pem()).unwrap();
            arguments.extend(["--client-cert", pem.to_str().unwrap()]);
        }
        assert_same(&running.folder, &line, &arguments);
        if reason.is_none() {
            let (seen, facts) = (upstreams[2].last().unwrap(), identity.unwrap().facts());
            assert_eq!(seen.header_all("x-client-cert-sha256"), std::slice::from_ref(&facts.sha256));
            let subject = seen.header_all("x-client-cert-subject");
            assert!(subject.len() == 1 && subject[0].starts_with("CN=Acme"), "{subject:?}");
            assert_eq!(line["tls"]["client_cert_sha256"], facts.sha256);
            assert_eq!(client.post(PARTNERS, "/in", &[], b"order").await.unwrap().status, 200);
            let refused = client.request(head("DELETE", PARTNERS, "/", &[])).await.unwrap();
            assert_eq!(refused.status, 405);
            let allow = refused.header("allow").unwrap();
            assert!(allow.contains("GET") && allow.contains("POST") && !allow.contains("DELETE"), "{allow}");
        } else {
            assert_refusal(&response);
            // A route that asks for none is not disturbed by it.
            let mut client = certificates.connect(HOST, identity).await;
            assert_eq!(client.get(HOST, "/healthz", &[]).await.unwrap().status, 200);
        }
    }
}

async fn routing(running: &Running, certificates: &Certificates) {
    let mut client = certificates.connect(HOST, None).await;
    for (host, target, status, route) in [
        (HOST, "/orders", 401, "orders".into()),
        ("API.Example.TEST", "/orders/1?x=1", 401, "orders".into()),
        ("api.example.test:8443", "/orders/", 401, "orders".into()),
        (HOST, "/ordersX", 404, Value::Null),
        (HOST, "/Orders", 404, Value::Null),
        (HOST, "/", 404, Value::Null),
        (HOST, "/healthz", 200, "health".into()),
        (HOST, "/healthz/", 404, Value::Null),
        (HOST, "/other/../orders", 401, "orders".into()),
        (HOST, "//orders", 401, "orders".into()),
        (HOST, "/%6frders", 401, "orders".into()),
    ] {
        let response = client.get(host, target, &[]).await.unwrap();
        let line = running.line(&response).await;
        assert_eq!((response.status, &line["route"]), (status, &route), "{host} {target}");
        if status == 404 {
            assert_eq!(line["reason"], "route.none");
            assert_refusal(&response);
        }
        if status == 200 {
            assert_eq!((response.text().as_str(), response.header("x-decision-id").is_some()), ("ok\n", true));
        }
        assert_same(&running.folder, &line, &["--url", &format!("https://{host}{target}")]);
    }
    for target in ["/orders%2f..%2fadmin", "/orders/..;/x", "/orders/%00"] {
        let mut client = certificates.connect(HOST, None).await;
        let response = client.get(HOST, target, &[]).await.unwrap();
        assert_eq!((response.status, &running.line(&response).await["reason"]), (400, &"request.ambiguous".into()), "{target}");
    }
}

/// Port 8080 expects a PROXY header, and IP rules judge who stands in it.
async fn the_internal_listener(running: &Running, provider: &Provider) {
    let bearer = format!("Bearer {}", provider.issue(&good()).unwrap());
    for (source, status, reason) in [("127.0.0.7", 200, Value::Null), ("203.0.113.9", 403, "ip.denied".into())] {
        let mut client = Client::connect(local(8080)).await.unwrap();
        client.send(format!("PROXY TCP4 {source} 127.0.0.1 4711 8080\r\n")).await.unwrap();
        let response = client.get(HOST, "/orders/1", &[("authorization", &bearer)]).await.unwrap();
        assert_eq!(response.status, status);
        let line = running.line(&response).await;
        assert_eq!((&line["client"], &line["reason"], &line["listener"]), (&source.into(), &reason, &"internal".into()));
        assert_eq!(line["tls"], Value::Null);
        let token = bearer.trim_start_matches("Bearer ");
        assert_same(
            &running.folder,
            &line,
            &["--url", "http://api.example.test/orders/1", "--client-ip", source, "--token", token],
        );
    }
    // No certificate can come over a connection without TLS, whatever is said.
    let mut client = Client::connect(local(8080)).await.unwrap();
    client.send("PROXY TCP4 127.0.0.7 127.0.0.1 4711 8080\r\n").await.unwrap();
    let response = client.get(PARTNERS, "/", &[("x-client-cert-subject", "CN=Acme")]).await.unwrap();
    assert_eq!((response.status, &running.line(&response).await["reason"]), (403, &"cert.missing".into()));
    let mut bare = Client::connect(local(8080)).await.unwrap();
    let _ = bare.send(head("GET", HOST, "/healthz", &[])).await;
    assert!(bare.is_closed().await.unwrap(), "who must send a PROXY header and sends none is not served");
}

async fn health_checks(running: &Running, certificates: &Certificates, provider: &Provider, upstreams: &[Upstream]) {
    let mut client = certificates.connect(HOST, None).await;
    let bearer = format!("Bearer {}", provider.issue(&good()).unwrap());
    let up = async |backend: &str| {
        metric(&running.metrics().await, "portcullis_backend_up", &[("pool", "orders"), ("backend", backend)])
    };
    for healthy in [false, true] {
        upstreams[0].health(healthy);
        let wanted = f64::from(u8::from(healthy));
        within("the health check", async { while up("127.0.0.1:9001").await != wanted {} }).await.unwrap();
        let before = upstreams[0].count();
        for _ in 0..8 {
            assert_eq!(client.get(HOST, "/orders", &[("authorization", &bearer)]).await.unwrap().status, 200);
        }
        assert_eq!(upstreams[0].count() > before, healthy);
    }
    upstreams[0].health(false);
    upstreams[1].health(false);
    within("both down", async { while up("127.0.0.1:9001").await + up("127.0.0.1:9002").await != 0.0 {} }).await.unwrap();
    let response = client.get(HOST, "/orders", &[("authorization", &bearer)]).await.unwrap();
    assert_refusal(&response);
    let line = running.line(&response).await;
    assert_eq!((response.status, &line["reason"], &line["verdict"]), (503, &"pool.no_healthy_backend".into(), &"error".into()));
    upstreams[0].health(true);
    upstreams[1].health(true);
    within("both up", async { while up("127.0.0.1:9001").await + up("127.0.0.1:9002").await != 2.0 {} }).await.unwrap();
}

const LINE: [&str; 23] = [
    "time",
    "decision_id",
    "listener",
    "client",
    "peer",
    "tls",
    "method",
    "host",
    "path",
    "protocol",
    "status",
    "route",
    "verdict",
    "reason",
    "principal",
    "pool",
    "backend",
    "attempts",
    "duration_us",
    "upstream_us",
    "bytes_in",
    "bytes_out",
    "shadow",
];

const METRICS: &[(&str, &[&str])] = &[
    ("portcullis_requests_total", &["listener", "route", "status"]),
    ("portcullis_request_duration_seconds_bucket", &["route", "le"]),
    ("portcullis_upstream_duration_seconds_bucket", &["pool", "le"]),
    ("portcullis_verdicts_total", &["route", "filter", "verdict", "reason", "mode"]),
    ("portcullis_backend_up", &["pool", "backend"]),
    ("portcullis_backend_requests_total", &["pool", "backend", "outcome"]),
    ("portcullis_connections", &["listener"]),
    ("portcullis_handshake_failures_total", &["listener", "reason"]),
    ("portcullis_issuer_keys", &["issuer"]),
    ("portcullis_issuer_keys_age_seconds", &["issuer"]),
    ("portcullis_config_generation", &[]),
    ("portcullis_config_last_reload_success", &[]),
    ("process_cpu_seconds_total", &[]),
    ("process_resident_memory_bytes", &[]),
];

async fn the_record(running: &Running, certificates: &Certificates, provider: &Provider) {
    let mut client = certificates.connect(HOST, None).await;
    let bearer = format!("Bearer {}", provider.issue(&good()).unwrap());
    let allowed = client.post(HOST, "/orders/1?page=2", &[("authorization", &bearer)], b"12345").await.unwrap();
    let denied = client.get(HOST, "/orders/1", &[]).await.unwrap();
    for response in [&allowed, &denied] {
        let line = running.line(response).await;
        for member in LINE {
            assert!(line.get(member).is_some(), "{member} is missing: {line}");
        }
        assert_eq!(members(&line["tls"]), ["cipher", "client_cert_sha256", "sni", "version"]);
        let time = line["time"].as_str().unwrap();
        assert!(time.len() == "2026-01-31T12:00:00.000Z".len() && time.ends_with('Z'), "{time}");
        assert_eq!((&line["listener"], &line["route"], &line["tls"]["sni"]), (&"https".into(), &"orders".into(), &HOST.into()));
    }
    let line = running.line(&allowed).await;
    assert_eq!(members(&line["principal"]), ["issuer", "method", "sub"]);
    assert_eq!(line["principal"]["issuer"], "http://127.0.0.1:9400");
    assert_eq!((&line["pool"], &line["attempts"], &line["bytes_in"]), (&"orders".into(), &1.into(), &5.into()));
    assert!(line["backend"].as_str().unwrap().starts_with("127.0.0.1:900"));
    assert!(line["upstream_us"].as_u64().unwrap() <= line["duration_us"].as_u64().unwrap());

    let text = running.metrics().await;
    for (name, labels) in METRICS {
        let series = text.lines().find(|line| line.split(['{', ' ']).next() == Some(name));
        let series = series.unwrap_or_else(|| panic!("no series of {name}:\n{text}"));
        let mut found: Vec<&str> = match series.split_once('{') {
            Some((_, rest)) => rest.split("\",").filter_map(|label| label.split('=').next()).collect(),
            None => Vec::new(),
        };
        let mut expected = labels.to_vec();
        found.sort_unstable();
        expected.sort_unstable();
        assert_eq!(found, expected, "{series}");
    }
    assert_eq!(metric(&text, "portcullis_config_generation", &[]), 1.0);
    let expired =
        [("route", "orders"), ("filter", "oidc"), ("verdict", "deny"), ("reason", "token.expired"), ("mode", "enforce")];
    assert_eq!(metric(&text, "portcullis_verdicts_total", &expired), 1.0);
}

async fn admin_and_signals(running: Running, folder: &Path, tokens: &[String]) {
    for (target, status) in [("/healthz", 200), ("/readyz", 200), ("/metrics", 200), ("/", 404)] {
        assert_eq!(once(local(9090), head("GET", "127.0.0.1", target, &[])).await.unwrap().status, status, "{target}");
    }
    running.signal("HUP");
    let generation = async { while metric(&running.metrics().await, "portcullis_config_generation", &[]) != 2.0 {} };
    within("the reload", generation).await.unwrap();
    let metrics = running.metrics().await;
    let (status, said) = running.end().await;
    assert!(status.success(), "{status}: {said}");
    let log = std::fs::read_to_string(folder.join("access.jsonl")).unwrap();
    for part in tokens.iter().flat_map(|token| token.split('.').skip(1)).filter(|part| part.len() > 8) {
        assert!(!log.contains(part) && !said.contains(part) && !metrics.contains(part), "written down: {part}");
    }
}

async fn minimal_yaml(minimal: &Path, upstreams: &[Upstream]) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(minimal, folder.path().join("minimal.yaml")).unwrap();
    upstreams.iter().for_each(Upstream::forget);
    let running = Running::start(folder.path(), "minimal.yaml").await;
    let mut client = Client::connect(local(8080)).await.unwrap();
    for at in 0..40 {
        let response = client.get("anything.example", &format!("/{at}"), &[]).await.unwrap();
        assert_eq!((response.status, response.header("x-decision-id").is_some()), (200, true));
    }
    assert_eq!((upstreams[0].requests().len(), upstreams[1].requests().len()), (30, 10));
    let labels = [("listener", "http"), ("route", "everything"), ("status", "200")];
    assert_eq!(metric(&running.metrics().await, "portcullis_requests_total", &labels), 40.0);
    let (status, said) = running.end().await;
    assert!(status.success(), "{status}: {said}");
    assert!(!folder.path().join("access.jsonl").exists(), "without `access_log` none is written");
}
