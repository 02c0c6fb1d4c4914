//! A client that binds its tokens to a key, and proves that it has it (RFC 9449).

use crate::error::Error;
use crate::keys::{Alg, Key};
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Makes proofs with an ES256 key of its own.
pub struct Prover {
    key: Key,
    made: AtomicU64,
}

impl Prover {
    /// # Errors
    /// If the system gives no random bytes.
    pub fn new() -> Result<Self, Error> {
        Ok(Self { key: Key::generate(Alg::Es256)?, made: AtomicU64::new(0) })
    }

    /// For the token's `cnf.jkt` (RFC 7638).
    pub fn thumbprint(&self) -> String {
        let jwk = self.jwk();
        let text = |name: &str| jwk.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        hash(format!(r#"{{"crv":"P-256","kty":"EC","x":"{}","y":"{}"}}"#, text("x"), text("y")).as_bytes())
    }

    /// A proof for one request, made now; each has its own `jti`.
    ///
    /// # Errors
    /// If it cannot be signed.
    pub fn proof(&self, token: &str, method: &str, url: &str) -> Result<String, Error> {
        self.with_nonce(token, method, url, None)
    }

    /// As [`proof`](Self::proof), with a nonce of the server.
    ///
    /// # Errors
    /// If it cannot be signed.
    pub fn with_nonce(&self, token: &str, method: &str, url: &str, nonce: Option<&str>) -> Result<String, Error> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        let mut claims = json!({
            "jti": format!("{number}-{}", self.thumbprint()), "htm": method, "htu": url, "iat": now, "ath": hash(token.as_bytes())
        });
        if let Some(nonce) = nonce {
            claims["nonce"] = nonce.into();
        }
        let header = json!({ "typ": "dpop+jwt", "alg": "ES256", "jwk": self.jwk() });
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&header), part(&claims));
        let signature = self.key.sign(Alg::Es256, signed.as_bytes())?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    fn jwk(&self) -> Value {
        self.key.jwk(Alg::Es256, "proof")
    }
}

/// SHA-256 as JOSE writes it: `ath`, `jkt`, `x5t#S256`.
pub fn hash(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(digest(&SHA256, bytes))
}
