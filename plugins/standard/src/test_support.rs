//! What the tests of all filters share: a request without a socket, and a filter from a piece of YAML.

use aws_lc_rs::digest;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use portcullis_identity::assertion::{AssertionConfig, AssertionSigner};
use portcullis_identity::{IssuerConfig, Issuers};
use portcullis_plugin::env::Kept;
use portcullis_plugin::prometheus::Registry;
use portcullis_plugin::units::TimeSpan;
use portcullis_plugin::{
    Build, CertificateFacts, CertificateRefusal, CertificateStatus, Connection, Denial, Env, Exchange, Headers, Method,
    Principal, ReasonCode, Reply, RequestHead, ResponseHead, Scheme, Verdict, Version,
};
use serde_json::{Value, json};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// A request on its way through filters. Its peer is another balancer at 127.0.0.1.
pub struct Call {
    pub request: RequestHead,
    pub exchange: Exchange,
}

impl Call {
    pub fn get(target: &str) -> Self {
        Self::new(Method::Get, target)
    }

    pub fn new(method: Method, target: &str) -> Self {
        let connection = Connection {
            listener: "https".into(),
            peer: ([127, 0, 0, 1], 40_000).into(),
            source: ([127, 0, 0, 1], 40_000).into(),
            local: ([127, 0, 0, 1], 8443).into(),
            tls: None,
        };
        let request = RequestHead::new(
            method,
            Scheme::Https,
            Version::Http11,
            "api.example.test".to_owned(),
            target.to_owned(),
            Headers::new(),
        );
        let client = IpAddr::from([192, 0, 2, 1]);
        let mut exchange = Exchange::new(Arc::new(connection), client, CertificateStatus::Missing, now());
        exchange.driver_set_route("orders".into());
        Self { request, exchange }
    }

    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.request.headers_mut().append(name, value).unwrap();
        self
    }

    pub fn client(mut self, client: &str) -> Self {
        let connection = Arc::clone(self.exchange.connection());
        self.exchange = Exchange::new(connection, client.parse().unwrap(), self.exchange.certificate().clone(), now());
        self
    }

    pub fn certificate(mut self, facts: CertificateFacts) -> Self {
        self.exchange.driver_set_certificate(CertificateStatus::Verified(Arc::new(facts)));
        self
    }

    pub fn refused_certificate(mut self, reason: ReasonCode) -> Self {
        self.exchange.driver_set_certificate(CertificateStatus::Refused(Arc::new(CertificateRefusal {
            reason,
            expected: "a certificate that is valid".into(),
            observed: "one that is not".into(),
            hint: Some("renew it".into()),
        })));
        self
    }

    pub fn routed(mut self, route: &str) -> Self {
        self.exchange.driver_set_route(route.into());
        self
    }

    pub fn at(mut self, now: SystemTime) -> Self {
        let connection = Arc::clone(self.exchange.connection());
        self.exchange = Exchange::new(connection, self.exchange.client(), self.exchange.certificate().clone(), now);
        self
    }

    pub fn principal(mut self, principal: Principal) -> Self {
        self.exchange.set_principal(Arc::new(principal));
        self
    }

    pub fn run<F: Build>(&mut self, filter: &F) -> Verdict {
        self.exchange.driver_enter(F::NAME);
        filter.request(&mut self.request, &mut self.exchange)
    }

    #[track_caller]
    pub fn denied<F: Build>(&mut self, filter: &F) -> Denial {
        match self.run(filter) {
            Verdict::Deny(denial) => denial,
            other => panic!("expected a denial, got {other:?}"),
        }
    }

    #[track_caller]
    pub fn replied<F: Build>(&mut self, filter: &F) -> Reply {
        match self.run(filter) {
            Verdict::Respond(reply) => reply,
            other => panic!("expected a reply, got {other:?}"),
        }
    }

    /// What the client gets when the upstream answers with `headers`.
    #[track_caller]
    pub fn response<F: Build>(&mut self, filter: &F, headers: &[(&str, &str)]) -> Headers {
        let mut response = ResponseHead::new(200, self::headers(headers));
        assert!(filter.response(&mut response, &mut self.exchange).is_continue());
        response.headers().clone()
    }

    /// All values of a request header, as text.
    pub fn sent(&self, name: &str) -> Vec<String> {
        values(self.request.headers(), name)
    }

    pub fn failed_checks(&self) -> Vec<(&'static str, ReasonCode)> {
        self.exchange.checks().iter().filter(|check| !check.ok).map(|check| (check.check, check.reason)).collect()
    }
}

pub fn headers(fields: &[(&str, &str)]) -> Headers {
    let mut headers = Headers::new();
    for (name, value) in fields {
        headers.append(name, value).unwrap();
    }
    headers
}

pub fn values(headers: &Headers, name: &str) -> Vec<String> {
    headers.get_all(name).map(|value| String::from_utf8_lossy(value).into_owned()).collect()
}

/// The time of every request in these tests.
pub fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

/// A verified certificate that has a name of each kind.
pub fn facts() -> CertificateFacts {
    CertificateFacts {
        subject: "CN=billing,OU=Payments,O=Partner\\, Inc.,C=DE".into(),
        issuer: "CN=Partner CA,O=Partner\\, Inc.,C=DE".into(),
        serial: "0A".into(),
        sha256: "ab".repeat(32),
        san_dns: vec!["billing.partner.example".into()],
        san_uri: vec!["spiffe://partner.example/ns/prod/sa/billing".into()],
        san_email: vec!["billing@partner.example".into()],
        san_ip: Vec::new(),
        spiffe_id: Some("spiffe://partner.example/ns/prod/sa/billing".into()),
        not_before: now() - Duration::from_secs(3600),
        not_after: now() + Duration::from_secs(3600),
        der: Arc::new([]),
        chain: Vec::new(),
    }
}

/// With two issuers, `main` and `other`, whose tokens [`Signer`] makes, and the files that examples name.
pub fn env() -> Env {
    let mut env = Env::new(concat!(env!("CARGO_MANIFEST_DIR"), "/testdata"), Registry::new(), Arc::new(Kept::default()));
    env.offer(issuers(&env));
    let assertion = AssertionConfig {
        issuer: "https://edge.example.test".into(),
        keys: vec!["assertion-p256.pem".into(), "assertion-ed25519.pem".into()],
        overlap: TimeSpan::secs(600),
        lifetime: TimeSpan::secs(60),
        reuse: None,
    };
    env.offer(Arc::new(AssertionSigner::compile(&assertion, &env).unwrap()));
    env
}

/// Ed25519, because a key is made in no time.
pub struct Signer {
    key: Ed25519KeyPair,
    issuer: &'static str,
}

impl Signer {
    fn of(issuer: &'static str, seed: u8) -> Self {
        Self { key: Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap(), issuer }
    }

    pub fn main() -> Self {
        Self::of("https://main.example.test", 1)
    }

    pub fn other() -> Self {
        Self::of("https://other.example.test/", 2)
    }

    pub fn stranger() -> Self {
        Self::of("https://main.example.test", 3)
    }

    /// A JWKS with this key alone.
    pub fn jwks(&self) -> String {
        let x = URL_SAFE_NO_PAD.encode(self.key.public_key().as_ref());
        json!({ "keys": [{ "kty": "OKP", "crv": "Ed25519", "kid": "1", "use": "sig", "alg": "EdDSA", "x": x }] }).to_string()
    }

    /// A good token of five minutes, with `claims` over its own.
    pub fn token(&self, claims: Value) -> String {
        let now = now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let mut all =
            json!({ "iss": self.issuer, "aud": "api", "sub": "alice", "iat": now, "exp": now + 300, "scope": "api:read openid" });
        let members = all.as_object_mut().unwrap();
        claims.as_object().unwrap().iter().for_each(|(name, value)| drop(members.insert(name.clone(), value.clone())));
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&json!({ "alg": "EdDSA", "kid": "1", "typ": "at+jwt" })), part(&all));
        let signature = URL_SAFE_NO_PAD.encode(self.key.sign(signed.as_bytes()));
        format!("{signed}.{signature}")
    }
}

/// Makes DPoP proofs with a key of its own.
pub struct Prover(ProverKey);

enum ProverKey {
    Es256(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl Prover {
    pub fn es256() -> Self {
        Self(ProverKey::Es256(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap()))
    }

    pub fn ed25519() -> Self {
        Self(ProverKey::Ed25519(Ed25519KeyPair::generate().unwrap()))
    }

    pub fn jwk(&self) -> Value {
        let b64 = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        match &self.0 {
            ProverKey::Es256(key) => {
                let (x, y) = key.public_key().as_ref()[1..].split_at(32);
                json!({ "kty": "EC", "crv": "P-256", "x": b64(x), "y": b64(y) })
            }
            ProverKey::Ed25519(key) => json!({ "kty": "OKP", "crv": "Ed25519", "x": b64(key.public_key().as_ref()) }),
        }
    }

    pub fn thumbprint(&self) -> String {
        let jwk = self.jwk();
        let text = |name: &str| jwk[name].as_str().unwrap().to_owned();
        let canonical = match &self.0 {
            ProverKey::Es256(_) => format!(r#"{{"crv":"P-256","kty":"EC","x":"{}","y":"{}"}}"#, text("x"), text("y")),
            ProverKey::Ed25519(_) => format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{}"}}"#, text("x")),
        };
        URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, canonical.as_bytes()))
    }

    /// For a GET of /orders, unless `claims` say otherwise; null takes a claim away. A `jti` that follows from the rest.
    pub fn proof(&self, token: &str, claims: Value) -> String {
        self.proof_headed(token, json!({}), claims)
    }

    pub fn proof_headed(&self, token: &str, header: Value, claims: Value) -> String {
        let over = |mut base: Value, over: &Value| {
            let members = base.as_object_mut().unwrap();
            over.as_object().unwrap().iter().for_each(|(name, value)| drop(members.insert(name.clone(), value.clone())));
            members.retain(|_, value| !value.is_null());
            base
        };
        let alg = if matches!(self.0, ProverKey::Es256(_)) { "ES256" } else { "EdDSA" };
        let ath = URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, token.as_bytes()));
        let seconds = now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let base = json!({
            "jti": claims.to_string(), "htm": "GET", "htu": "https://api.example.test/orders", "iat": seconds, "ath": ath
        });
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let header = over(json!({ "typ": "dpop+jwt", "alg": alg, "jwk": self.jwk() }), &header);
        let signed = format!("{}.{}", part(&header), part(&over(base, &claims)));
        let signature = match &self.0 {
            ProverKey::Es256(key) => key.sign(&SystemRandom::new(), signed.as_bytes()).unwrap().as_ref().to_vec(),
            ProverKey::Ed25519(key) => key.sign(signed.as_bytes()).as_ref().to_vec(),
        };
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

fn issuers(env: &Env) -> Arc<Issuers> {
    let folder = tempfile::tempdir().unwrap();
    let configs = [("main", Signer::main()), ("other", Signer::other())].map(|(name, signer)| {
        let file = folder.path().join(format!("{name}.json"));
        std::fs::write(&file, signer.jwks()).unwrap();
        let mut config = IssuerConfig::new(signer.issuer, ["api"]);
        config.jwks_file = Some(file.display().to_string());
        (name.to_owned(), config)
    });
    Issuers::offline(&configs.into(), env, None).unwrap()
}

/// Reads YAML with the library and the options of the gateway.
pub fn read<T: serde::de::DeserializeOwned>(yaml: &str) -> Result<T, String> {
    let options = serde_saphyr::options! { strict_booleans: true };
    serde_saphyr::from_str_with_options(yaml, options).map_err(|error| error.to_string())
}

pub fn build_in<F: Build>(env: &Env, yaml: &str) -> Result<F, String> {
    let config: F::Config = read(yaml)?;
    F::build(config, env).map_err(|error| error.to_string())
}

pub fn try_build<F: Build>(yaml: &str) -> Result<F, String> {
    build_in(&env(), yaml)
}

#[track_caller]
pub fn build<F: Build>(yaml: &str) -> F {
    try_build(yaml).unwrap_or_else(|error| panic!("{yaml}: {error}"))
}

/// Why `yaml` is no configuration of the filter.
#[track_caller]
pub fn error<F: Build>(yaml: &str) -> String {
    match try_build::<F>(yaml) {
        Ok(_) => panic!("{yaml}: accepted"),
        Err(error) => error,
    }
}

/// A folder for the files a filter reads.
pub struct Folder {
    folder: tempfile::TempDir,
    env: Env,
}

impl Folder {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let env = Env::new(folder.path(), Registry::new(), Arc::new(Kept::default()));
        Self { folder, env }
    }

    pub fn write(&self, name: &str, content: &str) {
        self.write_bytes(name, content.as_bytes());
    }

    pub fn write_bytes(&self, name: &str, content: &[u8]) {
        std::fs::write(self.folder.path().join(name), content).unwrap();
    }

    pub fn env(&self) -> &Env {
        &self.env
    }

    pub fn build<F: Build>(&self, yaml: &str) -> Result<F, String> {
        build_in(&self.env, yaml)
    }
}
