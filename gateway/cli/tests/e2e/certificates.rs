//! Client certificates: what is believed, what reaches the upstream, and what a change of the revocation list does to
//! connections that are open.

use crate::stage::{Call, HOST, Stage};
use portcullis_testkit::pki::{Identity, Pki, Usage, client_config, client_config_for};
use portcullis_testkit::{Client, Http2Client, until, within};

const CONFIG: &str = r#"
routes:
  - name: partners
    match: { path: /partners }
    filters:
      - client_cert: { san_dns: ["*.partner.example"] }
      - identity_headers: { headers: { x-cert-subject: cert.subject, x-cert-sha256: cert.sha256 } }
    pool: up
  - name: open
    match: { path: /open }
    filters:
      - identity_headers: { headers: { x-cert-subject: cert.subject } }
    pool: up
"#;

fn partner(pki: &Pki) -> Identity {
    pki.leaf("Acme").dns("acme.partner.example").issue().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_certificate_gets_the_reason_that_fits_and_only_a_verified_one_becomes_an_identity() {
    let stage = Stage::start(CONFIG).await;
    let pki = &stage.clients;
    let acme = || pki.leaf("Acme").dns("acme.partner.example");
    let revoked = partner(pki);
    pki.crl(&[&revoked]).unwrap().write_to(stage.file("clients.crl")).unwrap();
    stage.gateway.reload().await.unwrap();
    let foreign = Pki::named("Clients").unwrap();
    let cases: Vec<(&str, Option<Identity>, Option<&str>)> = vec![
        ("good", Some(partner(pki)), None),
        ("any use", Some(acme().usage(Usage::Unstated).issue().unwrap()), None),
        ("none", None, Some("cert.missing")),
        ("expired", Some(acme().expired().issue().unwrap()), Some("cert.expired")),
        ("not yet valid", Some(acme().not_yet_valid().issue().unwrap()), Some("cert.expired")),
        ("revoked", Some(revoked), Some("cert.revoked")),
        ("of a foreign CA of the same name", Some(partner(&foreign)), Some("cert.untrusted")),
        ("for servers", Some(acme().usage(Usage::Server).issue().unwrap()), Some("cert.untrusted")),
        ("for code", Some(acme().usage(Usage::Neither).issue().unwrap()), Some("cert.untrusted")),
        ("of another name", Some(pki.leaf("Acme").dns("acme.other.example").issue().unwrap()), Some("cert.name.mismatch")),
        ("a level deeper", Some(pki.leaf("A").dns("a.b.partner.example").issue().unwrap()), Some("cert.name.mismatch")),
        ("the name only in the subject", Some(pki.client("acme.partner.example").unwrap()), Some("cert.name.mismatch")),
    ];
    let inspection = stage.inspect();
    for (name, identity, reason) in &cases {
        let over_tls = |path: &str| Call::get(path).over_tls(identity.as_ref()).field("X-Cert-Subject", "CN=root");
        let judged = stage.judge_by(&inspection, &over_tls("/partners")).await;
        let valid = matches!(reason, None | Some("cert.name.mismatch"));
        let facts = identity.as_ref().map(Identity::facts);
        match reason {
            None => {
                judged.allowed(200);
                let seen = stage.upstream.last().unwrap();
                assert_eq!(seen.header_all("x-cert-sha256"), [facts.unwrap().sha256.clone()]);
                assert_eq!(seen.header_all("x-cert-subject").len(), 1);
                assert_eq!(judged.line["principal"]["method"], "certificate");
                assert_eq!(judged.line["tls"]["client_cert_sha256"], facts.unwrap().sha256);
            }
            Some(reason) => {
                judged.refused(403, reason);
                assert_eq!(judged.line["principal"], serde_json::Value::Null, "{name}");
            }
        }
        // A route that asks for none is not disturbed, and learns of none that does not verify.
        let judged = stage.judge_by(&inspection, &over_tls("/open")).await;
        judged.allowed(200);
        let expected = if valid { vec![facts.unwrap().subject.clone()] } else { Vec::new() };
        let seen = stage.upstream.last().unwrap().header_all("x-cert-subject");
        assert_eq!(seen.len(), expected.len(), "{name}: {seen:?}");
        assert!(!seen.iter().any(|subject| subject == "CN=root"), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_intermediate_is_accepted_with_its_chain_and_over_every_version() {
    let stage = Stage::start(CONFIG).await;
    let identity = partner(&stage.clients.intermediate("Intermediate").unwrap());
    stage.judge(&Call::get("/partners").over_tls(Some(&identity))).await.allowed(200);
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let tls = client_config_for(&[&stage.servers], Some(&identity), &["http/1.1"], &[version]).unwrap();
        let mut client = Client::connect_tls(stage.https(), HOST, tls).await.unwrap();
        assert_eq!(client.get(HOST, "/partners", &[]).await.unwrap().status, 200);
    }
    for (identity, status) in [(Some(&identity), 200), (None, 403)] {
        let tls = client_config(&[&stage.servers], identity, &["h2"]).unwrap();
        let mut client = Http2Client::connect_tls(stage.https(), HOST, tls).await.unwrap();
        assert_eq!(client.get(HOST, "/partners", &[]).await.unwrap().status, status);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hole_a_client_certificate_header_from_the_network_is_believed() {
    let stage = Stage::start(CONFIG).await;
    let pem = partner(&stage.clients).cert_pem().replace('\n', "%0A");
    for https in [false, true] {
        let base = if https { Call::get("/partners").over_tls(None) } else { Call::get("/partners") };
        let call = base
            .field("X-Forwarded-Client-Cert", format!("By=x;Hash=y;Cert=\"{pem}\";Subject=\"CN=Acme\""))
            .field("X-Client-Cert", &pem)
            .field("X-SSL-Client-Verify", "SUCCESS")
            .field("X-SSL-Client-S-DN", "CN=Acme")
            .field("Client-Cert", format!(":{}:", pem.len()))
            .field("X-Cert-Subject", "CN=Acme")
            .field("X-Cert-Sha256", "00");
        stage.judge(&call).await.refused(403, "cert.missing");
    }
    assert_eq!(stage.upstream.count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hole_the_list_of_names_is_skipped_when_there_are_no_names() {
    let stage = Stage::start(CONFIG).await;
    let nameless = stage.clients.client("Acme").unwrap();
    stage.judge(&Call::get("/partners").over_tls(Some(&nameless))).await.refused(403, "cert.name.mismatch");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_mode_require_a_client_without_a_valid_certificate_fails_the_handshake() {
    const REQUIRE: &str = r"
listeners:
  - name: https
    address: 127.0.0.1:0
    tls:
      certificates: [{ cert: edge.pem, key: edge.key }]
      client_auth: { ca: clients-ca.pem, crl: clients.crl, mode: require }
";
    let stage = Stage::builder().listeners(REQUIRE).start(CONFIG).await;
    let pki = &stage.clients;
    let good = partner(pki);
    let revoked = partner(pki);
    pki.crl(&[&revoked]).unwrap().write_to(stage.file("clients.crl")).unwrap();
    stage.gateway.reload().await.unwrap();
    stage.judge(&Call::get("/partners").over_tls(Some(&good))).await.allowed(200);
    let acme = || pki.leaf("Acme").dns("acme.partner.example");
    let foreign = Pki::named("Clients").unwrap();
    let bad = [
        None,
        Some(revoked),
        Some(acme().expired().issue().unwrap()),
        Some(acme().usage(Usage::Server).issue().unwrap()),
        Some(partner(&foreign)),
    ];
    let failures = || stage.metric("portcullis_handshake_failures_total", &[("listener", "https")]);
    for (at, identity) in bad.iter().enumerate() {
        let before = failures();
        let tls = client_config(&[&stage.servers], identity.as_ref(), &["http/1.1"]).unwrap();
        // With TLS 1.3 the client thinks it is done before the server has judged: the refusal may come a read later.
        if let Ok(mut client) = Client::connect_tls(stage.https(), HOST, tls).await {
            client.get(HOST, "/open", &[]).await.unwrap_err();
        }
        until(&format!("failure {at} is counted"), || failures() > before).await.unwrap();
    }
    assert_eq!(stage.upstream.count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_revocation_list_counts_on_connections_that_are_open_and_a_reload_breaks_none_of_them() {
    let stage = Stage::builder().watch().start(CONFIG).await;
    let (identity, other) = (partner(&stage.clients), partner(&stage.clients));
    let tls = |identity| client_config(&[&stage.servers], Some(identity), &["http/1.1"]).unwrap();
    let mut open = Client::connect_tls(stage.https(), HOST, tls(&identity)).await.unwrap();
    let mut bystander = Client::connect_tls(stage.https(), HOST, tls(&other)).await.unwrap();
    let mut http2 = {
        let tls = client_config(&[&stage.servers], Some(&identity), &["h2"]).unwrap();
        Http2Client::connect_tls(stage.https(), HOST, tls).await.unwrap()
    };
    assert_eq!(open.get(HOST, "/partners", &[]).await.unwrap().status, 200);
    for (revoked, status) in [(vec![&identity], 403), (vec![], 200)] {
        stage.clients.crl(&revoked).unwrap().write_to(stage.file("clients.crl")).unwrap();
        let changed = async {
            loop {
                assert_eq!(bystander.get(HOST, "/partners", &[]).await.unwrap().status, 200);
                let response = open.get(HOST, "/partners", &[]).await.unwrap();
                if response.status == status {
                    return response;
                }
            }
        };
        let response = within("the new list counts", changed).await.unwrap();
        assert_eq!(http2.get(HOST, "/partners", &[]).await.unwrap().status, status);
        if status == 403 {
            assert_eq!(stage.line(&response).await["reason"], "cert.revoked");
        }
        assert_eq!(open.get(HOST, "/open", &[]).await.unwrap().status, 200, "where none is asked for, nothing changes");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resumed_session_keeps_its_certificate_and_is_judged_by_the_list_of_now() {
    let stage = Stage::start(CONFIG).await;
    let identity = partner(&stage.clients);
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        stage.clients.crl(&[]).unwrap().write_to(stage.file("clients.crl")).unwrap();
        stage.gateway.reload().await.unwrap();
        let tls = client_config_for(&[&stage.servers], Some(&identity), &["http/1.1"], &[version]).unwrap();
        let connect = || Client::connect_tls(stage.https(), HOST, tls.clone());
        let mut first = connect().await.unwrap();
        assert!(!first.resumed());
        assert_eq!(first.get(HOST, "/partners", &[]).await.unwrap().status, 200);
        let mut second = connect().await.unwrap();
        assert!(second.resumed(), "{version:?}");
        assert_eq!(second.get(HOST, "/partners", &[]).await.unwrap().status, 200);
        assert_eq!(stage.upstream.last().unwrap().header_all("x-cert-sha256"), [identity.facts().sha256.clone()]);
        stage.clients.crl(&[&identity]).unwrap().write_to(stage.file("clients.crl")).unwrap();
        stage.gateway.reload().await.unwrap();
        let mut third = connect().await.unwrap();
        let response = third.get(HOST, "/partners", &[]).await.unwrap();
        assert_eq!(response.status, 403);
        assert_eq!(stage.line(&response).await["reason"], "cert.revoked");
    }
}
