//! Real providers of other makes, set up by scripts in `providers/`: Glewlwyd, with JWTs, and Django OAuth Toolkit, with opaque
//! tokens. What one product serves is no measure for the others.
//!
//! `scripts/test-peers.sh` installs both in CI. Elsewhere, tests skip where they are missing, and say so.

use crate::client::Client;
use crate::error::Error;
use crate::op::{missing, peers_dir, program};
use crate::wait::within;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// What a script says of its provider.
#[derive(Debug, Deserialize)]
struct About {
    issuer: String,
    token_endpoint: String,
    introspection_endpoint: String,
    revocation_endpoint: Option<String>,
}

/// A running provider. It is ended when it is dropped.
pub struct OtherProvider {
    child: Child,
    /// Its end ends the script, and with it the provider.
    commands: Option<ChildStdin>,
    answers: mpsc::Receiver<String>,
    about: About,
}

/// How long a provider may take to come up: Python makes an RSA key and a database first.
const START: Duration = Duration::from_secs(30);

impl OtherProvider {
    /// Glewlwyd: RS256 tokens as RFC 9068 has them, for the audience `https://api.example.test/rs256`. `None` if it is not
    /// installed: the test is then to return.
    ///
    /// # Panics
    /// If it is installed and does not start, or is not installed and `CI` is `true`.
    pub async fn glewlwyd() -> Option<Self> {
        program("glewlwyd")?;
        program("openssl")?;
        Some(Self::run(program("python3")?, "glewlwyd.py").await)
    }

    /// Django OAuth Toolkit: opaque tokens. The client `rs` (`rs-secret`) may ask about them. `None` if it is not installed:
    /// the test is then to return.
    ///
    /// # Panics
    /// If it is installed and does not start, or is not installed and `CI` is `true`.
    pub async fn django() -> Option<Self> {
        program("openssl")?;
        let python = peers_dir().join("django/bin/python");
        if !python.is_file() {
            return missing(&format!(
                "no Django OAuth Toolkit in {}; run scripts/test-peers.sh with CI=true",
                peers_dir().display()
            ));
        }
        Some(Self::run(python, "django_toolkit.py").await)
    }

    async fn run(python: PathBuf, script: &'static str) -> Self {
        let started = tokio::task::spawn_blocking(move || Self::start(&python, script)).await;
        match started {
            Ok(Ok(provider)) => provider,
            Ok(Err(error)) => panic!("{script}: {error}"),
            Err(error) => panic!("{script}: {error}"),
        }
    }

    fn start(python: &Path, script: &str) -> Result<Self, Error> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("providers").join(script);
        let mut child = Command::new(python)
            .arg(&script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(Error::file(python))?;
        let commands = child.stdin.take();
        let stdout = child.stdout.take().ok_or_else(|| Error::Peer("a script without output".to_owned()))?;
        let (send, answers) = mpsc::channel();
        std::thread::spawn(move || {
            // A reader of its own, so that waiting for an answer has an end.
            BufReader::new(stdout).lines().map_while(Result::ok).try_for_each(|line| send.send(line))
        });
        let mut provider = Self {
            child,
            commands,
            answers,
            about: About {
                issuer: String::new(),
                token_endpoint: String::new(),
                introspection_endpoint: String::new(),
                revocation_endpoint: None,
            },
        };
        let about = provider.answer()?;
        provider.about = serde_json::from_str(&about).map_err(|error| Error::Peer(format!("{about}: {error}")))?;
        Ok(provider)
    }

    fn answer(&self) -> Result<String, Error> {
        self.answers.recv_timeout(START).map_err(|_| Error::Timeout("an answer of the provider's script".to_owned()))
    }

    /// The issuer's identifier.
    pub fn issuer(&self) -> &str {
        &self.about.issuer
    }

    /// Where tokens are asked about (RFC 7662).
    pub fn introspection_endpoint(&self) -> &str {
        &self.about.introspection_endpoint
    }

    /// A token for the client `m2m`, by client credentials. `resource` is its audience (RFC 8707).
    ///
    /// # Errors
    /// If the provider refuses.
    pub async fn token(&self, scope: &str, resource: &str) -> Result<String, Error> {
        let body = format!("grant_type=client_credentials&scope={}&resource={}", form(scope), form(resource));
        let response = self.post(&self.about.token_endpoint, &body).await?;
        let token = response.get("access_token").and_then(Value::as_str).map(str::to_owned);
        token.ok_or_else(|| Error::Peer(format!("the provider gave no token: {response}")))
    }

    /// Takes a token back (RFC 7009).
    ///
    /// # Errors
    /// If the provider refuses, or has no way to do it.
    pub async fn revoke(&self, token: &str) -> Result<(), Error> {
        let endpoint = self.about.revocation_endpoint.as_deref();
        let endpoint = endpoint.ok_or_else(|| Error::Peer("the provider revokes nothing".to_owned()))?;
        self.post(endpoint, &format!("token={}", form(token))).await.map(drop)
    }

    /// Gives the provider a new key; the old one is no longer published.
    ///
    /// # Errors
    /// If it does not.
    pub fn rotate(&mut self) -> Result<(), Error> {
        let commands = self.commands.as_mut().ok_or_else(|| Error::Peer("the provider takes no commands".to_owned()))?;
        commands.write_all(b"rotate\n").and_then(|()| commands.flush()).map_err(Error::io("a command to the provider"))?;
        self.answer().map(drop)
    }

    async fn post(&self, url: &str, body: &str) -> Result<Value, Error> {
        let rest = url.strip_prefix("http://").unwrap_or(url);
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let address = authority.parse().map_err(|_| Error::Peer(format!("`{authority}` is no address")))?;
        let credentials = format!("Basic {}", STANDARD.encode("m2m:m2m-secret"));
        let fields = [("authorization", &*credentials), ("content-type", "application/x-www-form-urlencoded")];
        let target = format!("/{path}");
        let exchange = async {
            let mut client = Client::connect(address).await?;
            client.post(authority, &target, &fields, body.as_bytes()).await
        };
        let response = within("an answer of the provider", exchange).await??;
        if response.status != 200 {
            return Err(Error::Peer(format!("{url} answers {}: {}", response.status, response.text())));
        }
        // A revocation is answered with nothing.
        if response.text().is_empty() { Ok(Value::Null) } else { response.json() }
    }
}

impl Drop for OtherProvider {
    fn drop(&mut self) {
        // The script ends its server when nobody speaks to it any more; killed, it could not.
        drop(self.commands.take());
        let _ = self.child.wait();
    }
}

fn form(text: &str) -> String {
    text.replace(':', "%3A").replace('/', "%2F").replace(' ', "+")
}
