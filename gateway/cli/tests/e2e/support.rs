//! A gateway with its folder, its log and its metrics.

use portcullis::{Builder, Gateway, Handle};
use portcullis_testkit::pki::{Identity, Pki, client_config};
use portcullis_testkit::{Client, Http2Client, PATIENCE, until};
use serde_json::Value;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

/// The name in the certificate that [`Setup::tls`] makes.
pub const NAME: &str = "edge.test";

/// What a gateway is to be started with.
pub struct Setup {
    folder: TempDir,
    config: String,
    authority: Option<Pki>,
    watch: bool,
}

/// A configuration; `NAME`s in capital letters are filled in by [`Setup::with`].
pub fn edge(config: &str) -> Setup {
    Setup { folder: TempDir::new().unwrap(), config: config.to_owned(), authority: None, watch: false }
}

/// With `PORTCULLIS_TEST_DRIVER=pingora`, every listener of a configuration that says nothing of drivers is Pingora's: the same
/// tests then run over it.
pub fn driven(config: &str) -> String {
    let Ok(driver) = std::env::var("PORTCULLIS_TEST_DRIVER") else { return config.to_owned() };
    if config.contains("driver:") {
        return config.to_owned();
    }
    let mut listeners = false;
    let mut lines = Vec::new();
    for line in config.lines() {
        if line.starts_with(|first: char| first.is_ascii_alphabetic()) {
            listeners = line.starts_with("listeners:");
        }
        let at = line.find("address:").filter(|_| listeners);
        lines.push(match at {
            Some(at) if line.contains('{') => format!("{}driver: {driver}, {}", &line[..at], &line[at..]),
            Some(at) => format!("{}driver: {driver}\n{}{}", &line[..at], " ".repeat(at), &line[at..]),
            None => line.to_owned(),
        });
    }
    lines.join("\n") + "\n"
}

/// With `PORTCULLIS_TEST_PARK=0`, every connection is parked as soon as it waits.
pub fn builder() -> Builder {
    let builder = Gateway::builder();
    match std::env::var("PORTCULLIS_TEST_PARK") {
        Ok(millis) => builder.park_after(Duration::from_millis(millis.parse().unwrap())),
        Err(_) => builder,
    }
}

impl Setup {
    /// Puts `value` in the place of every `name`.
    pub fn with(mut self, name: &str, value: impl ToString) -> Self {
        assert!(self.config.contains(name), "the configuration has no {name}");
        self.config = self.config.replace(name, &value.to_string());
        self
    }

    pub fn file(self, name: &str, content: impl AsRef<[u8]>) -> Self {
        std::fs::write(self.folder.path().join(name), content).unwrap();
        self
    }

    /// Writes `<stem>.pem` and `<stem>.key`.
    pub fn identity(self, stem: &str, identity: &Identity) -> Self {
        identity.write_to(self.folder.path(), stem).unwrap();
        self
    }

    /// Writes `edge.pem` and `edge.key` for [`NAME`], by a CA that [`Edge::tls`] trusts.
    pub fn tls(mut self) -> Self {
        let authority = Pki::new().unwrap();
        self = self.identity("edge", &authority.server(&[NAME]).unwrap());
        self.authority = Some(authority);
        self
    }

    /// Reloads by itself when a file changes.
    pub fn watched(mut self) -> Self {
        self.watch = true;
        self
    }

    pub async fn start(self) -> Edge {
        self.start_with(|builder| builder).await
    }

    pub async fn start_with(self, with: impl FnOnce(Builder) -> Builder) -> Edge {
        let (folder, path) = self.write();
        let builder = with(builder()).config_file(&path).watch_files(folder.2);
        let handle = builder.start().await.unwrap_or_else(|error| panic!("{error}"));
        Edge { handle, folder: folder.0, authority: folder.1 }
    }

    /// The configuration in its file, for the command.
    pub fn written(self) -> (TempDir, PathBuf) {
        let (parts, path) = self.write();
        (parts.0, path)
    }

    fn write(self) -> ((TempDir, Option<Pki>, bool), PathBuf) {
        let path = self.folder.path().join("edge.yaml");
        std::fs::write(&path, driven(&self.config)).unwrap();
        ((self.folder, self.authority, self.watch), path)
    }
}

/// A running gateway. Its access log, if the configuration writes one, is `access.jsonl`.
pub struct Edge {
    pub handle: Handle,
    folder: TempDir,
    authority: Option<Pki>,
}

impl Edge {
    /// The gateway, to be ended, and the folder, which is gone once it is dropped.
    pub fn into_parts(self) -> (Handle, TempDir) {
        (self.handle, self.folder)
    }

    /// Of the listener `http`.
    pub fn address(&self) -> SocketAddr {
        self.listener("http")
    }

    pub fn listener(&self, name: &str) -> SocketAddr {
        self.handle.address(name).unwrap_or_else(|| panic!("no listener {name}"))
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// What signed the certificate of [`Setup::tls`].
    pub fn authority(&self) -> &Pki {
        self.authority.as_ref().unwrap()
    }

    pub fn rewrite(&self, config: &str) {
        std::fs::write(self.folder.path().join("edge.yaml"), driven(config)).unwrap();
    }

    /// A connection to the listener `http`.
    pub async fn client(&self) -> Client {
        Client::connect(self.address()).await.unwrap()
    }

    /// A TLS connection to the listener `https` that offers `http/1.1`.
    pub async fn tls(&self) -> Client {
        let config = client_config(&[self.authority()], None, &["http/1.1"]).unwrap();
        Client::connect_tls(self.listener("https"), NAME, config).await.unwrap()
    }

    /// An HTTP/2 connection to the listener `https`.
    pub async fn h2(&self) -> Http2Client {
        let config = client_config(&[self.authority()], None, &["h2", "http/1.1"]).unwrap();
        Http2Client::connect_tls(self.listener("https"), NAME, config).await.unwrap()
    }

    /// The sum of a metric's series that have all of these labels.
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        metric(&self.handle.metrics(), name, labels)
    }

    pub async fn metric_reaches(&self, name: &str, labels: &[(&str, &str)], least: f64) {
        until(&format!("{name}{labels:?} >= {least}"), || self.metric(name, labels) >= least).await.unwrap();
    }

    pub fn log(&self) -> Vec<Value> {
        log(&self.folder.path().join("access.jsonl"))
    }

    /// Waits for the access log's line that `is` it.
    pub async fn logged(&self, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        let mut found = None;
        let mut look = || {
            found = self.log().into_iter().find(|line| is(line));
            found.is_some()
        };
        if until(what, &mut look).await.is_err() {
            panic!("no line for {what} within {PATIENCE:?}, only {:#?}", self.log());
        }
        found.unwrap()
    }

    /// The line of the response with this decision id.
    pub async fn line(&self, response: &portcullis_testkit::Response) -> Value {
        let id = response.header("x-decision-id").expect("every response has a decision id");
        let path = self.folder.path().join("access.jsonl");
        let mut found = None;
        let look = || {
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            found = text.split_inclusive('\n').find(|line| line.contains(&id) && line.ends_with('\n')).map(str::to_owned);
            found.is_some()
        };
        until(&format!("a log line for {id}"), look).await.unwrap();
        serde_json::from_str(&found.unwrap()).unwrap()
    }
}

pub fn log(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    // The last line may still be on its way.
    text.split_inclusive('\n').filter(|line| line.ends_with('\n')).map(|line| serde_json::from_str(line).unwrap()).collect()
}

pub fn metric(text: &str, name: &str, labels: &[(&str, &str)]) -> f64 {
    let of_name = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
    let has_labels = |line: &&str| labels.iter().all(|(label, value)| line.contains(&format!("{label}=\"{value}\"")));
    let value = |line: &str| line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok()).unwrap();
    text.lines().filter(of_name).filter(has_labels).map(value).sum()
}
