//! A real, certified OpenID provider, run with Node, for tests that must not depend on our own idea of one; and the data
//! that tests share.
//!
//! What it needs is installed by `scripts/test-peers.sh`. Where that was not run, tests skip, and say so; under `CI=true`
//! they fail.

use crate::client::{Client, Response, head};
use crate::error::Error;
use crate::port::Port;
use crate::token::Rotation;
use crate::wait::PATIENCE;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Ends the provider when the test's process is gone, however it went: its end of the pipe then closes.
const EXIT_WITH_PARENT: &str =
    "data:text/javascript,process.stdin.on('end',()=>process.exit()).on('error',()=>process.exit()).resume()";

/// The folder of shared test data: `SHARED_DIR`, or `shared` beside the repository.
pub fn shared_dir() -> PathBuf {
    std::env::var_os("SHARED_DIR").map_or_else(|| workspace().join("../shared"), PathBuf::from)
}

/// A file or folder of the shared test data. `None` if it is missing: the test is then to return.
///
/// # Panics
/// If it is missing and `CI` is `true`.
pub fn shared_file(name: &str) -> Option<PathBuf> {
    let path = shared_dir().join(name);
    if path.exists() { Some(path) } else { missing(&format!("{} is missing; set SHARED_DIR", path.display())) }
}

/// The folder into which `scripts/test-peers.sh` installs: `PEERS_DIR`, or `target/peers` of the workspace.
pub fn peers_dir() -> PathBuf {
    std::env::var_os("PEERS_DIR").map_or_else(|| workspace().join("target/peers"), PathBuf::from)
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Skips a test for want of something, or fails it in CI.
///
/// # Panics
/// If `CI` is `true`.
pub fn missing<T>(what: &str) -> Option<T> {
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{what} (CI=true: this test must not be skipped)");
    eprintln!("SKIPPED: {what}");
    None
}

/// The path of a program, if it is installed. `None` if not: the test is then to return.
///
/// # Panics
/// If it is missing and `CI` is `true`.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Servers are often in sbin, which is on no user's path.
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    let found = folders.map(|folder| folder.join(name)).find(|path| path.is_file());
    found.or_else(|| missing(&format!("`{name}` is not installed; run scripts/test-peers.sh")))
}

/// A running oidc-provider. It is ended when it is dropped.
pub struct RealProvider {
    child: Child,
    port: Port,
    admin: Port,
}

impl RealProvider {
    /// Starts it on a free port and waits until it serves. `None` if it cannot be run here: the test is then to return.
    ///
    /// # Panics
    /// If it is installed and does not start, or is not installed and `CI` is `true`.
    pub async fn start() -> Option<Self> {
        Self::start_on(Port::reserve()).await
    }

    /// As [`start`](Self::start), on a port that a configuration names: `start_on(Port::of(9400))`.
    ///
    /// # Panics
    /// As [`start`](Self::start), or if there is no such port.
    pub async fn start_on(port: Result<Port, Error>) -> Option<Self> {
        let script = shared_file("idp/op.mjs")?;
        let node = program("node")?;
        let peers = peers_dir();
        if !peers.join("node_modules/oidc-provider").is_dir() || !peers.join("node_modules/jose").is_dir() {
            return missing(&format!("no oidc-provider in {}; run scripts/test-peers.sh", peers.display()));
        }
        let provider = Self::launch(&node, &script, &peers, port).await;
        Some(provider.unwrap_or_else(|error| panic!("oidc-provider does not start: {error}")))
    }

    async fn launch(node: &Path, script: &Path, peers: &Path, port: Result<Port, Error>) -> Result<Self, Error> {
        // Node looks for packages from where the script lies.
        let local = tempfile::Builder::new().suffix(".mjs").tempfile_in(peers).map_err(Error::file(peers))?;
        std::fs::copy(script, local.path()).map_err(Error::file(script))?;
        let (port, admin) = (port?, Port::reserve()?);
        let child = Command::new(node)
            .args(["--import", EXIT_WITH_PARENT])
            .arg(local.path())
            .env("PORT", port.address().port().to_string())
            .env("ADMIN_PORT", admin.address().port().to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(Error::file(node));
        let mut provider = Self { child: child?, port, admin };
        // The copy is removed with `local`: it has been read by then, or never will be.
        provider.served().await.map(|()| provider)
    }

    async fn served(&mut self) -> Result<(), Error> {
        let start = Instant::now();
        loop {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(Error::Peer(format!("node ended with {status}")));
            }
            if self.get(&self.port, "/.well-known/openid-configuration").await.is_ok() {
                return Ok(());
            }
            if start.elapsed() > PATIENCE {
                return Err(Error::Timeout("discovery".to_owned()));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The issuer's identifier.
    pub fn issuer(&self) -> String {
        format!("http://{}", self.port.address())
    }

    /// The audience of tokens of an algorithm: `audience("rs256")`. Also `short` (five seconds) and `opaque`.
    pub fn audience(resource: &str) -> String {
        format!("https://api.example.test/{resource}")
    }

    /// A token by client credentials, for a resource as [`audience`](Self::audience) names them (`rs256`, `ps256`,
    /// `es256`, `es384`, `es512`, `eddsa`, `short`, `opaque`), with scopes among `api:read` and `api:write`.
    ///
    /// # Errors
    /// If the provider refuses.
    pub async fn token(&self, resource: &str, scope: &str) -> Result<String, Error> {
        let encode = |text: &str| text.replace(':', "%3A").replace('/', "%2F").replace(' ', "+");
        let body =
            format!("grant_type=client_credentials&resource={}&scope={}", encode(&Self::audience(resource)), encode(scope));
        let response = self.post("/token", &body).await?;
        let token = response.json()?.get("access_token").and_then(Value::as_str).map(str::to_owned);
        token.ok_or_else(|| Error::Peer(format!("the provider gave no token: {}", response.text())))
    }

    /// Revokes a token that [`token`](Self::token) gave (RFC 7009).
    ///
    /// # Errors
    /// If the provider refuses.
    pub async fn revoke(&self, token: &str) -> Result<(), Error> {
        let response = self.post("/token/revocation", &format!("token={token}")).await?;
        match response.status {
            200 => Ok(()),
            status => Err(Error::Peer(format!("the provider answers {status} to a revocation: {}", response.text()))),
        }
    }

    /// As the client that tokens are given to.
    async fn post(&self, path: &str, form: &str) -> Result<Response, Error> {
        // m2m:m2m-secret
        let fields = [("authorization", "Basic bTJtOm0ybS1zZWNyZXQ="), ("content-type", "application/x-www-form-urlencoded")];
        let address = self.port.address();
        let mut client = Client::connect(address).await?;
        client.post(&address.to_string(), path, &fields, form.as_bytes()).await
    }

    /// Makes new keys: [`Rotation::Overlap`] keeps the old ones published, [`Rotation::HardCut`] does not.
    ///
    /// # Errors
    /// If the provider does not answer, or for [`Rotation::SameKid`], which it cannot do.
    pub async fn rotate(&self, rotation: Rotation) -> Result<(), Error> {
        let mode = match rotation {
            Rotation::Overlap => "add",
            Rotation::HardCut => "replace",
            Rotation::SameKid => return Err(Error::Peer("oidc-provider gives each key its own id".to_owned())),
        };
        self.get(&self.admin, &format!("/rotate?mode={mode}")).await.map(drop)
    }

    /// The next `times` requests for paths that start with `path` get `status`.
    ///
    /// # Errors
    /// If the provider does not answer.
    pub async fn fail(&self, path: &str, status: u16, times: usize) -> Result<(), Error> {
        self.get(&self.admin, &format!("/fail?code={status}&path={path}&n={times}")).await.map(drop)
    }

    /// Ends what [`fail`](Self::fail) began.
    ///
    /// # Errors
    /// If the provider does not answer.
    pub async fn heal(&self) -> Result<(), Error> {
        self.get(&self.admin, "/heal").await.map(drop)
    }

    /// How many requests came for a path, such as `/jwks`.
    ///
    /// # Errors
    /// If the provider does not answer.
    pub async fn requests(&self, path: &str) -> Result<usize, Error> {
        let log: Value = serde_json::from_str(&self.get(&self.admin, "/log").await?)
            .map_err(|error| Error::Peer(format!("the provider's log: {error}")))?;
        let entries = log.as_array().map(Vec::as_slice).unwrap_or_default();
        Ok(entries.iter().filter(|entry| entry.get("u").and_then(Value::as_str) == Some(path)).count())
    }

    async fn get(&self, port: &Port, target: &str) -> Result<String, Error> {
        let address = port.address();
        let response = crate::client::once(address, head("GET", &address.to_string(), target, &[])).await?;
        if response.status == 200 {
            Ok(response.text())
        } else {
            Err(Error::Peer(format!("{target} answers {}", response.status)))
        }
    }
}

impl Drop for RealProvider {
    fn drop(&mut self) {
        // Already gone is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
