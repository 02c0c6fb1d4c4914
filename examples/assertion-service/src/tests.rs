//! Gateway, identity provider and service in one process.

use crate::service;
use portcullis::{Gateway, Handle};
use portcullis_identity::assertion::{AssertionVerifier, HEADER};
use portcullis_testkit::token::TokenSpec;
use portcullis_testkit::{Alg, Client, Provider, Response, Upstream};
use std::error::Error;
use std::net::SocketAddr;
use std::path::Path;
use tempfile::TempDir;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const KEYS: [(&str, &str); 3] = [
    (
        "a.pem",
        "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIOhhRETuVeBh9F9DSIcXFc4hv71DfqLjkkvMU/3xD6sk\n-----END PRIVATE KEY-----\n",
    ),
    (
        "b.pem",
        "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgbIba8KKxKO7wGJWZ\n/BBvHz+vMJdNqzYHR5ahK8r8dGWhRANCAATK/8GklidY8sRr0YFeLJxn45+BjH+B\nVqNc8Cr/47Wqz5OsgPdai6DCRVsn4pwNrWMFkk4bD/ka2oi4Dlh78Ntx\n-----END PRIVATE KEY-----\n",
    ),
    (
        "c.pem",
        "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEID+C/VgcOQGwzW1Jy8vOQYwgsHcdJDHIo816HphZlu4s\n-----END PRIVATE KEY-----\n",
    ),
];

struct Stage {
    folder: TempDir,
    config: String,
    gateway: Handle,
    provider: Provider,
    service: SocketAddr,
}

impl Stage {
    /// The example's own configuration, but for its addresses; the service takes `orders`' assertions only.
    async fn start() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        KEYS.iter().try_for_each(|(name, pem)| std::fs::write(folder.path().join(name), pem))?;
        let provider = Provider::builder().algs(&[Alg::Es256]).start().await?;
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let config = include_str!("../edge.yaml")
            .replace("127.0.0.1:8080", "127.0.0.1:0")
            .replace("127.0.0.1:9001", &address.to_string())
            .replace("https://sso.example.com/realms/acme", provider.issuer());
        write(folder.path(), &config, "a.pem")?;
        let builder = Gateway::builder().config_file(folder.path().join("edge.yaml"));
        let gateway = builder.start().await?;
        let keys = format!("http://{}/.well-known/portcullis-keys.json", entrance(&gateway));
        let verifier =
            AssertionVerifier::builder("https://edge.example.com", "orders").route("orders").jwks_uri(&keys).build()?;
        tokio::spawn(async move { axum::serve(listener, service(verifier)).await });
        Ok(Self { folder, config, gateway, provider, service: address })
    }

    async fn get(&self, target: &str, fields: &[(&str, &str)]) -> Result<Response> {
        let token = self.provider.issue(&TokenSpec::new().alg(Alg::Es256).claim("tenant", "acme"))?;
        let bearer = format!("Bearer {token}");
        let mut all = vec![("authorization", bearer.as_str())];
        all.extend(fields);
        Ok(Client::connect(entrance(&self.gateway)).await?.get("api.example.test", target, &all).await?)
    }

    async fn change_keys(&self, keys: &str) -> Result<()> {
        write(self.folder.path(), &self.config, keys)?;
        self.gateway.reload().await?;
        Ok(())
    }
}

fn entrance(gateway: &Handle) -> SocketAddr {
    gateway.address("http").unwrap_or_else(|| panic!("the listener has no address"))
}

fn write(folder: &Path, config: &str, keys: &str) -> std::io::Result<()> {
    std::fs::write(folder.join("edge.yaml"), config.replace("keys: [assertion.pem]", &format!("keys: [{keys}]")))
}

#[tokio::test]
async fn the_service_knows_who_is_calling_and_believes_nobody_else() -> Result<()> {
    let stage = Stage::start().await?;
    let response = stage.get("/orders/1", &[(HEADER, "forged"), ("X_Portcullis_Assertion", "forged")]).await?;
    assert_eq!((response.status, response.text().as_str()), (200, "subject=alice method=GET tenant=\"acme\"\n"));

    // Past the gateway: with nothing, with something made up, with two.
    for fields in [&[][..], &[(HEADER, "e30.e30.e30")], &[(HEADER, "a"), (HEADER, "b")]] {
        let response = Client::connect(stage.service).await?.get("orders", "/orders/1", fields).await?;
        assert_eq!(response.status, 401, "{fields:?}");
    }
    assert_eq!(stage.get("/reports/1", &[]).await?.status, 401, "an assertion for another route");
    stage.gateway.stop().await;
    Ok(())
}

#[tokio::test]
async fn an_assertion_that_was_overheard_is_of_no_use_for_anything_else() -> Result<()> {
    let stage = Stage::start().await?;
    // The same gateway before an upstream that keeps what it gets.
    let spy = Upstream::start().await?;
    let config = stage.config.replace(&stage.service.to_string(), &spy.address().to_string());
    write(stage.folder.path(), &config, "a.pem")?;
    stage.gateway.reload().await?;
    assert_eq!(stage.get("/orders/1", &[]).await?.status, 200);
    let received = spy.last().ok_or("nothing came")?;
    assert!(received.header("authorization").is_none(), "the token itself stays at the gateway");
    let assertion = received.header(HEADER).unwrap_or_default();

    let mut direct = Client::connect(stage.service).await?;
    assert_eq!(direct.get("orders", "/orders/1", &[(HEADER, &assertion)]).await?.status, 200, "as it was made");
    assert_eq!(direct.post("orders", "/orders/1", &[(HEADER, &assertion)], b"").await?.status, 401, "another method");
    stage.gateway.stop().await;
    Ok(())
}

#[tokio::test]
async fn keys_change_and_no_request_fails() -> Result<()> {
    let stage = Stage::start().await?;
    // In order, and then at one blow: the service asks for a key that it does not know.
    for keys in ["a.pem", "a.pem, b.pem", "b.pem, a.pem", "b.pem", "c.pem"] {
        stage.change_keys(keys).await?;
        for _ in 0..3 {
            let response = stage.get("/orders/1", &[]).await?;
            assert_eq!(response.status, 200, "with {keys}: {}", response.text());
        }
    }
    stage.gateway.stop().await;
    Ok(())
}
