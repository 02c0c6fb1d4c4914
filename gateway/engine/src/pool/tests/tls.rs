use super::*;
use pingora::connectors::TransportConnector;
use pingora::protocols::ALPN;
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

/// A CA that issues what a test asks for.
pub struct Authority {
    certificate: rcgen::Certificate,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        Self { certificate, issuer: Issuer::new(params, key) }
    }

    pub fn pem(&self) -> String {
        self.certificate.pem()
    }

    /// Certificate and key, in PEM.
    fn issue(&self, params: CertificateParams) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    fn server(&self, names: &[&str]) -> (String, String) {
        self.issue(server_params(names))
    }

    pub fn client(&self, name: &str) -> (String, String) {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(params)
    }
}

fn server_params(names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params
}

/// What the server saw of one connection: the SNI, or why there was none.
type Seen = Result<Option<String>, String>;

/// A TLS server that asks for a client certificate if it has a CA for it.
async fn serve(
    (cert, key): (String, String),
    clients: Option<&Authority>,
    alpn: &[&str],
) -> (SocketAddr, mpsc::UnboundedReceiver<Seen>) {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let chain = vec![CertificateDer::from_pem_slice(cert.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let builder = match clients {
        None => rustls::ServerConfig::builder().with_no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add(authority.certificate.der().clone()).unwrap();
            let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build().unwrap();
            rustls::ServerConfig::builder().with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_single_cert(chain, key).unwrap();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (send, receive) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let (acceptor, send) = (acceptor.clone(), send.clone());
            tokio::spawn(async move {
                match acceptor.accept(socket).await {
                    Ok(mut stream) => {
                        let _ = send.send(Ok(stream.get_ref().1.server_name().map(str::to_owned)));
                        let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
                    }
                    Err(error) => drop(send.send(Err(error.to_string()))),
                }
            });
        }
    });
    (address, receive)
}

fn config(address: SocketAddr, tls: Value) -> Value {
    json!({ "backends": [{ "address": address.to_string() }], "tls": tls })
}

/// Connects as a request would.
async fn connect(pool: &Pool, upgrade: bool) -> Result<pingora::protocols::Stream, String> {
    let peer = select(pool).unwrap().peer(upgrade).unwrap();
    TransportConnector::new(None).new_stream(&peer).await.map_err(|error| error.to_string())
}

#[tokio::test]
async fn a_certificate_is_verified_in_every_respect() {
    let gateway = Gateway::new();
    let (ours, foreign) = (Authority::new("ours"), Authority::new("foreign"));
    gateway.file("ca.pem", &ours.pem());
    let mut expired = server_params(&["app.a.example"]);
    expired.not_before = rcgen::date_time_ymd(2001, 1, 1);
    expired.not_after = rcgen::date_time_ymd(2002, 1, 1);
    let mut early = server_params(&["app.a.example"]);
    early.not_before = rcgen::date_time_ymd(3001, 1, 1);
    early.not_after = rcgen::date_time_ymd(3002, 1, 1);
    let with_name = json!({ "ca": "ca.pem", "server_name": "app.a.example" });
    let by_address = json!({ "ca": "ca.pem" });
    let by_ip_name = json!({ "ca": "ca.pem", "server_name": "127.0.0.1" });
    for (what, certificate, tls, good) in [
        ("good", ours.server(&["app.a.example"]), &with_name, true),
        ("wildcard", ours.server(&["*.a.example"]), &with_name, true),
        ("address in the certificate", ours.server(&["127.0.0.1"]), &by_address, true),
        ("address as the name", ours.server(&["127.0.0.1"]), &by_ip_name, true),
        ("foreign CA", foreign.server(&["app.a.example"]), &with_name, false),
        ("other name", ours.server(&["other.a.example"]), &with_name, false),
        ("name below", ours.server(&["x.app.a.example"]), &with_name, false),
        ("expired", ours.issue(expired), &with_name, false),
        ("not yet valid", ours.issue(early), &with_name, false),
        ("client certificate", ours.client("app.a.example"), &with_name, false),
        ("no address in the certificate", ours.server(&["app.a.example"]), &by_address, false),
        ("other address", ours.server(&["127.0.0.2"]), &by_address, false),
    ] {
        let (address, mut seen) = serve(certificate, None, &[]).await;
        let pool = gateway.pool(config(address, tls.clone()));
        let result = connect(&pool, false).await;
        assert_eq!(result.is_ok(), good, "{what}: {:?}", result.err());
        let seen = seen.recv().await.unwrap();
        if good {
            // An address is no server name (RFC 6066, section 3), and is verified all the same.
            let sni = (tls == &with_name).then(|| "app.a.example".to_owned());
            assert_eq!(seen, Ok(sni), "{what}");
        }
    }
}

#[tokio::test]
async fn without_a_bundle_only_public_cas_count() {
    let (address, _seen) = serve(Authority::new("ours").server(&["app.a.example"]), None, &[]).await;
    match Gateway::new().compile(config(address, json!({ "server_name": "app.a.example" }))) {
        Ok(pool) => assert!(connect(&pool, false).await.is_err()),
        // A machine without public CAs says so instead of trusting nobody in silence.
        Err(error) => assert!(error.to_string().contains("public CAs"), "{error}"),
    }
}

#[tokio::test]
async fn the_client_certificate_is_presented() {
    let gateway = Gateway::new();
    let (ours, foreign) = (Authority::new("ours"), Authority::new("foreign"));
    gateway.file("ca.pem", &ours.pem());
    for (name, authority) in [("good", &ours), ("foreign", &foreign)] {
        let (cert, key) = authority.client("gateway.example");
        gateway.file(&format!("{name}.pem"), &cert);
        gateway.file(&format!("{name}.key"), &key);
    }
    for (client, good) in [(Some("good"), true), (Some("foreign"), false), (None, false)] {
        let (address, mut seen) = serve(ours.server(&["127.0.0.1"]), Some(&ours), &[]).await;
        let certificate = client.map(|name| json!({ "cert": format!("{name}.pem"), "key": format!("{name}.key") }));
        let pool = gateway.pool(config(address, json!({ "ca": "ca.pem", "client_certificate": certificate })));
        let _stream = connect(&pool, false).await;
        let seen = seen.recv().await.unwrap();
        assert_eq!(seen.is_ok(), good, "{client:?}: {seen:?}");
    }
}

#[tokio::test]
async fn http2_is_agreed_on_and_an_upgrade_gets_http1() {
    let gateway = Gateway::new();
    let ours = Authority::new("ours");
    gateway.file("ca.pem", &ours.pem());
    let (address, _seen) = serve(ours.server(&["127.0.0.1"]), None, &["h2", "http/1.1"]).await;
    let pool = gateway.pool(config(address, json!({ "ca": "ca.pem" })));
    assert_eq!(connect(&pool, false).await.unwrap().selected_alpn_proto(), Some(ALPN::H2));
    assert_eq!(connect(&pool, true).await.unwrap().selected_alpn_proto(), Some(ALPN::H1));
}

#[tokio::test]
async fn a_check_verifies_as_requests_do() {
    let gateway = Gateway::new();
    let (ours, foreign) = (Authority::new("ours"), Authority::new("foreign"));
    gateway.file("ca.pem", &ours.pem());
    for (authority, good) in [(&ours, true), (&foreign, false)] {
        let (address, mut seen) = serve(authority.server(&["127.0.0.1"]), None, &[]).await;
        let mut config = config(address, json!({ "ca": "ca.pem" }));
        config["health"] = json!({ "interval": "5ms", "healthy_after": 1, "start": "unhealthy" });
        let pool = gateway.pool(config);
        pool.start();
        if good {
            until("it is up", || pool.any_healthy()).await;
        } else {
            for _ in 0..3 {
                let _failed_handshake = seen.recv().await.unwrap();
            }
            assert!(!pool.any_healthy());
        }
    }
}
