//! A gateway with an issuer, a certificate authority and an upstream around it; and one view of what a request came to:
//! on the wire, in the access log, and explained offline from the same file.

use crate::support::builder;
use portcullis::Handle;
use portcullis::config::inspect::{self, Inspection};
use portcullis::explain::{Query, explain};
use portcullis_testkit::pki::{Identity, Pki, client_config};
use portcullis_testkit::{Alg, Client, Provider, Response, Upstream, until};
use serde_json::Value;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Stands for the issuer's identifier in a test's configuration.
const ISSUER: &str = "{ISSUER}";

/// What every test's configuration begins with; `LISTENERS` may be replaced as a whole.
const LISTENERS: &str = r"
listeners:
  - { name: http, address: 127.0.0.1:0, h2c: true }
  - name: https
    address: 127.0.0.1:0
    tls:
      certificates: [{ cert: edge.pem, key: edge.key }]
      client_auth: { ca: clients-ca.pem, crl: clients.crl }
";

const COMMON: &str = r#"
admin: { address: 127.0.0.1:0 }
access_log: { path: access.jsonl, principal: {LOGGED} }
pools:
  up: { backends: [{ address: "{UPSTREAM}" }] }
"#;

/// The host that the server certificate is for.
pub const HOST: &str = "api.example.test";

pub struct Builder {
    listeners: String,
    watch: bool,
    issuer_down: bool,
    algs: &'static [Alg],
    logged: &'static str,
}

impl Builder {
    /// What the access log says of the principal beside who it is: a YAML list.
    pub fn logged(mut self, members: &'static str) -> Self {
        self.logged = members;
        self
    }

    /// Other listeners than a plain one called `http` and a TLS one called `https`.
    pub fn listeners(mut self, yaml: &str) -> Self {
        self.listeners = yaml.to_owned();
        self
    }

    /// Reload when a file changes.
    pub fn watch(mut self) -> Self {
        self.watch = true;
        self
    }

    /// The issuer has keys for these algorithms only: RSA keys take long to make.
    pub fn algs(mut self, algs: &'static [Alg]) -> Self {
        self.algs = algs;
        self
    }

    /// The issuer is away from the beginning.
    pub fn issuer_down(mut self) -> Self {
        self.issuer_down = true;
        self
    }

    /// `config` is everything but listeners, admin, access log and pools.
    pub async fn start(self, config: &str) -> Stage {
        self.start_with_files(config, &[]).await
    }

    /// With these files beside the configuration.
    pub async fn start_with_files(self, config: &str, files: &[(&str, &str)]) -> Stage {
        let folder = tempfile::tempdir().unwrap();
        files.iter().for_each(|(name, content)| std::fs::write(folder.path().join(name), content).unwrap());
        let provider = Provider::builder().algs(self.algs).start().await.unwrap();
        // Made now: an RSA key takes its time, and the first request is to wait for a fetch only.
        provider.tokens().jwks().unwrap();
        let upstream = Upstream::start().await.unwrap();
        let (servers, clients) = (Pki::named("Servers").unwrap(), Pki::named("Clients").unwrap());
        servers.server(&[HOST, "partners.example.test"]).unwrap().write_to(&folder, "edge").unwrap();
        clients.write_ca(folder.path().join("clients-ca.pem")).unwrap();
        clients.crl(&[]).unwrap().write_to(folder.path().join("clients.crl")).unwrap();
        if self.issuer_down {
            provider.go_down().await;
        }
        let begin = format!("{}{COMMON}", self.listeners)
            .replace("{UPSTREAM}", &upstream.address().to_string())
            .replace("{LOGGED}", self.logged);
        let path = folder.path().join("edge.yaml");
        let text = format!("{begin}{}", config.replace(ISSUER, provider.issuer()));
        std::fs::write(&path, super::support::driven(&text)).unwrap();
        let gateway = match builder().config_file(&path).watch_files(self.watch).start().await {
            Ok(gateway) => gateway,
            Err(error) => panic!("{error}"),
        };
        Stage { gateway, provider, upstream, servers, clients, folder, begin }
    }
}

pub struct Stage {
    pub gateway: Handle,
    pub provider: Provider,
    pub upstream: Upstream,
    pub servers: Pki,
    pub clients: Pki,
    folder: tempfile::TempDir,
    begin: String,
}

impl Stage {
    pub fn builder() -> Builder {
        Builder { listeners: LISTENERS.to_owned(), watch: false, issuer_down: false, algs: Alg::ALL, logged: "[]" }
    }

    pub async fn start(config: &str) -> Self {
        Self::builder().start(config).await
    }

    /// A file beside the configuration.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes another configuration in the place of the running one. It does not reload.
    pub fn rewrite(&self, config: &str) {
        let text = format!("{}{}", self.begin, config.replace(ISSUER, self.provider.issuer()));
        std::fs::write(self.file("edge.yaml"), super::support::driven(&text)).unwrap();
    }

    pub fn http(&self) -> SocketAddr {
        self.gateway.address("http").unwrap()
    }

    pub fn https(&self) -> SocketAddr {
        self.gateway.address("https").unwrap()
    }

    /// The value of a metric, summed over all series that carry these labels.
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        metric(&self.gateway.metrics(), name, labels)
    }

    /// The configuration as `explain` sees it, with the issuer's keys of now: an explanation knows nothing of what a
    /// running gateway remembers.
    pub fn inspect(&self) -> Inspection {
        let keys = self.provider.tokens().jwks().unwrap().to_string();
        inspect::inspect(&self.file("edge.yaml"), &portcullis_plugins::table(), Some(keys.as_bytes())).unwrap()
    }

    /// As [`inspect`](Self::inspect), but explanations ask the issuer for its keys.
    pub fn inspect_online(&self) -> Inspection {
        inspect::inspect(&self.file("edge.yaml"), &portcullis_plugins::table(), None).unwrap()
    }

    /// Sends a request on a connection of its own.
    pub async fn send(&self, call: &Call<'_>) -> Response {
        let mut client = self.connect(call).await;
        client.request(call.bytes()).await.unwrap()
    }

    pub async fn connect(&self, call: &Call<'_>) -> Client {
        if call.https {
            let tls = client_config(&[&self.servers], call.certificate, &["http/1.1"]).unwrap();
            Client::connect_tls(self.https(), call.host, tls).await.unwrap()
        } else {
            Client::connect_from(call.client, self.http()).await.unwrap()
        }
    }

    /// Sends a request and finds its line in the access log.
    pub async fn log(&self, call: &Call<'_>) -> (Response, Value) {
        let response = self.send(call).await;
        let line = self.line(&response).await;
        (response, line)
    }

    /// The access log's line about a response.
    pub async fn line(&self, response: &Response) -> Value {
        line_in(&self.file("access.jsonl"), response).await
    }

    /// Sends a request, finds its line in the log, explains it offline, and holds all three against each other.
    pub async fn judge(&self, call: &Call<'_>) -> Judged {
        self.judge_by(&self.inspect(), call).await
    }

    /// As [`judge`](Self::judge), for many requests to one configuration.
    pub async fn judge_by(&self, inspection: &Inspection, call: &Call<'_>) -> Judged {
        let (response, line) = self.log(call).await;
        let explanation = explain(inspection.snapshot(), &call.query()).await.unwrap();
        let judged = Judged { response, line, explanation: serde_json::to_value(explanation).unwrap() };
        judged.tell_one_story(call);
        judged
    }

    /// No part of these secrets stands in the access log or the metrics.
    pub fn assert_kept_secret(&self, tokens: &[String]) {
        let log = std::fs::read_to_string(self.file("access.jsonl")).unwrap();
        let metrics = self.gateway.metrics();
        for token in tokens {
            // The header of a token is the same for many and tells nothing; what follows it does.
            for part in token.split('.').skip(1).filter(|part| part.len() > 8) {
                assert!(!log.contains(part), "in the access log: {part}");
                assert!(!metrics.contains(part), "in the metrics: {part}");
            }
        }
    }
}

/// The access log's line about a response.
pub async fn line_in(log: &Path, response: &Response) -> Value {
    let id = response.header("x-decision-id").expect("every response has a decision id");
    let mut found = None;
    let find = || {
        let text = std::fs::read_to_string(log).unwrap_or_default();
        // The last line may be half written.
        let mut lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        found = lines.find(|line| line["decision_id"] == id.as_str());
        found.is_some()
    };
    until(&format!("the access log's line about {id}"), find).await.unwrap();
    found.unwrap()
}

/// The value of a metric in Prometheus text, summed over all series that carry these labels.
pub fn metric(text: &str, name: &str, labels: &[(&str, &str)]) -> f64 {
    let carries = |series: &str| labels.iter().all(|(label, value)| series.contains(&format!("{label}=\"{value}\"")));
    let series = text.lines().filter_map(|line| line.rsplit_once(' '));
    let named = series.filter(|(series, _)| series.split('{').next() == Some(name) && carries(series));
    named.map(|(_, value)| value.parse::<f64>().unwrap()).sum()
}

/// A request.
#[derive(Clone)]
pub struct Call<'a> {
    https: bool,
    method: &'a str,
    host: &'a str,
    target: String,
    fields: Vec<(String, Vec<u8>)>,
    certificate: Option<&'a Identity>,
    client: IpAddr,
}

impl<'a> Call<'a> {
    /// Over plain HTTP.
    pub fn get(target: &str) -> Self {
        Self {
            https: false,
            method: "GET",
            host: HOST,
            target: target.to_owned(),
            fields: Vec::new(),
            certificate: None,
            client: Ipv4Addr::LOCALHOST.into(),
        }
    }

    /// Over TLS, with this client certificate if any.
    pub fn over_tls(mut self, certificate: Option<&'a Identity>) -> Self {
        self.https = true;
        self.certificate = certificate;
        self
    }

    pub fn field(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.fields.push((name.to_owned(), value.as_ref().to_owned()));
        self
    }

    pub fn bearer(self, token: &str) -> Self {
        self.field("Authorization", format!("Bearer {token}"))
    }

    /// From another address of this machine.
    pub fn from(mut self, client: &str) -> Self {
        self.client = client.parse().unwrap();
        self
    }

    /// As it goes over the wire.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = format!("{} {} HTTP/1.1\r\nHost: {}\r\n", self.method, self.target, self.host).into_bytes();
        for (name, value) in &self.fields {
            for part in [name.as_bytes(), b": ", value, b"\r\n"] {
                bytes.extend_from_slice(part);
            }
        }
        bytes.extend_from_slice(b"\r\n");
        bytes
    }

    /// As `explain` is asked about it.
    pub fn query(&self) -> Query {
        Query {
            url: format!("{}://{}{}", if self.https { "https" } else { "http" }, self.host, self.target),
            method: self.method.to_owned(),
            headers: self.fields.clone(),
            certificate: self.certificate.map(|identity| identity.chain().to_vec()).unwrap_or_default(),
            client: self.client,
            at: SystemTime::now(),
            listener: None,
        }
    }
}

/// One request in three views.
pub struct Judged {
    pub response: Response,
    pub line: Value,
    pub explanation: Value,
}

impl Judged {
    /// What the client saw, what the log says and what the explanation says are the same.
    fn tell_one_story(&self, call: &Call<'_>) {
        let Self { response, line, explanation } = self;
        let about = || format!("{} {}\nlog: {line}\nexplained: {explanation:#}", call.method, call.target);
        assert_eq!(line["status"], response.status, "{}", about());
        for member in ["verdict", "reason", "route"] {
            assert_eq!(line[member], explanation[member], "{member}: {}", about());
        }
        if explanation["verdict"] != "allow" {
            assert_eq!(explanation["status"], response.status, "{}", about());
            let failed = explanation["checks"].as_array().unwrap().iter().any(|check| check["ok"] == false);
            assert!(failed || explanation["reason"].as_str().unwrap().starts_with("route."), "nothing failed: {}", about());
            assert_refusal(response);
        }
    }

    /// Allowed, and answered with this status.
    #[track_caller]
    pub fn allowed(&self, status: u16) -> &Self {
        assert_eq!(self.line["verdict"], "allow", "{}\n{:#}", self.line, self.explanation);
        assert_eq!(self.response.status, status);
        self
    }

    /// Refused with this status, for this reason.
    #[track_caller]
    pub fn refused(&self, status: u16, reason: &str) -> &Self {
        let seen = (self.response.status, self.line["reason"].as_str());
        assert_eq!(seen, (status, Some(reason)), "{}\n{:#}", self.line, self.explanation);
        self
    }
}

/// A refusal is a problem document with three members, and tells nothing more.
#[track_caller]
pub fn assert_refusal(response: &Response) {
    let id = response.header("x-decision-id").expect("a decision id");
    assert_eq!(response.header_all("x-decision-id").len(), 1);
    assert_eq!(response.header_all("content-type"), ["application/problem+json"]);
    let body = response.json().unwrap();
    assert_eq!(body["status"], response.status);
    assert_eq!(body["decision_id"], id);
    assert!(!body["title"].as_str().unwrap().is_empty());
    assert_eq!(body.as_object().unwrap().len(), 3, "{body}");
    let challenge = response.header_all("www-authenticate");
    match response.status {
        401 => assert!(!challenge.is_empty(), "a 401 has a challenge"),
        403 => {}
        _ => assert_eq!(challenge, Vec::<String>::new()),
    }
    assert_eq!(response.header("retry-after").is_some(), matches!(response.status, 503 | 429));
}

/// The members of an object, sorted.
pub fn members(object: &Value) -> Vec<&str> {
    let mut names: Vec<&str> = object.as_object().unwrap().keys().map(String::as_str).collect();
    names.sort_unstable();
    names
}
