//! The certificates are what they claim to be: judged by webpki and read by x509-parser.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use portcullis_testkit::pki::{Identity, Leaf, Pki, Usage, client_config};
use portcullis_testkit::{Client, TestEnv, Upstream};
use rustls::pki_types::{CertificateRevocationListDer, UnixTime, pem::PemObject};
use rustls::server::WebPkiClientVerifier;
use rustls::{CertificateError, Error};
use std::sync::Arc;
use std::time::SystemTime;
use x509_parser::prelude::*;

/// What rustls thinks of a client certificate.
fn judge(ca: &Pki, identity: &Identity, crls: &[CertificateRevocationListDer<'static>]) -> Result<(), Error> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca.ca_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).with_crls(crls.to_vec());
    let verifier = builder.only_check_end_entity_revocation().build().unwrap();
    let (leaf, chain) = identity.chain().split_first().unwrap();
    verifier.verify_client_cert(leaf, chain, UnixTime::now()).map(drop)
}

fn certificate_error(result: Result<(), Error>) -> String {
    match result {
        Err(Error::InvalidCertificate(error)) => format!("{error:?}"),
        other => panic!("expected a refusal of the certificate, got {other:?}"),
    }
}

#[test]
fn good_and_bad_client_certificates() {
    let (ca, foreign) = (Pki::new().unwrap(), Pki::new().unwrap());
    judge(&ca, &ca.client("orders").unwrap(), &[]).unwrap();
    judge(&ca, &ca.leaf("any use").usage(Usage::Unstated).issue().unwrap(), &[]).unwrap();
    judge(&ca, &ca.intermediate("Below").unwrap().client("orders").unwrap(), &[]).unwrap();

    let refused = |leaf: Leaf<'_>| certificate_error(judge(&ca, &leaf.issue().unwrap(), &[]));
    assert!(refused(ca.leaf("old").expired()).starts_with("Expired"));
    assert!(refused(ca.leaf("young").not_yet_valid()).starts_with("NotValidYet"));
    assert!(refused(ca.leaf("server").usage(Usage::Server)).starts_with("InvalidPurpose"));
    assert!(refused(ca.leaf("code").usage(Usage::Neither)).starts_with("InvalidPurpose"));
    // Of the same name as ours, with another key.
    let error = certificate_error(judge(&ca, &foreign.client("orders").unwrap(), &[]));
    assert!(matches!(error.as_str(), "BadSignature" | "UnknownIssuer"), "{error}");
    let other = Pki::named("Another CA").unwrap();
    assert_eq!(certificate_error(judge(&ca, &other.client("orders").unwrap(), &[])), "UnknownIssuer");
}

#[test]
fn a_revocation_list_names_the_revoked_and_nobody_else() {
    let ca = Pki::new().unwrap();
    let (good, bad) = (ca.client("good").unwrap(), ca.client("bad").unwrap());
    let crl = ca.crl(&[&bad]).unwrap();
    judge(&ca, &good, std::slice::from_ref(&crl.der)).unwrap();
    assert!(matches!(
        judge(&ca, &bad, std::slice::from_ref(&crl.der)),
        Err(Error::InvalidCertificate(CertificateError::Revoked))
    ));
    let read = CertificateRevocationListDer::from_pem_slice(crl.pem.as_bytes()).unwrap();
    assert_eq!(read, crl.der);
    let (_, parsed) = parse_x509_crl(&crl.der).unwrap();
    assert_eq!(parsed.iter_revoked_certificates().count(), 1);
}

#[test]
fn facts_are_what_a_parser_finds() {
    let ca = Pki::named("Partners, \"CA\"").unwrap();
    let id = "spiffe://example.test/ns/default/sa/orders";
    let leaf = ca.leaf("a+b").dns("a.partner.example").dns("b.partner.example").uri(id).email("ops@partner.example");
    let identity = leaf.ip("10.0.0.1".parse().unwrap()).issue().unwrap();
    let facts = identity.facts();
    let (_, parsed) = parse_x509_certificate(&facts.der).unwrap();

    assert_eq!(facts.subject, "CN=a\\+b,O=Portcullis Test");
    assert_eq!(facts.issuer, "CN=Partners\\, \\\"CA\\\",O=Portcullis Test");
    assert_eq!(parsed.subject().iter_common_name().next().unwrap().as_str(), Ok("a+b"));
    assert_eq!(facts.serial, parsed.raw_serial_as_string().replace(':', "").to_uppercase());
    assert_eq!(facts.not_after, SystemTime::from(parsed.validity().not_after.to_datetime()));
    assert_eq!(facts.not_before, SystemTime::from(parsed.validity().not_before.to_datetime()));
    let names = &parsed.subject_alternative_name().unwrap().unwrap().value.general_names;
    assert_eq!(names.len(), 5);
    for name in names {
        match name {
            GeneralName::DNSName(name) => assert!(facts.san_dns.iter().any(|known| known == name)),
            GeneralName::URI(uri) => assert_eq!(facts.san_uri, [*uri]),
            GeneralName::RFC822Name(address) => assert_eq!(facts.san_email, [*address]),
            GeneralName::IPAddress(bytes) => assert_eq!(*bytes, [10, 0, 0, 1]),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(facts.spiffe_id.as_deref(), Some(id));
    let two = ca.leaf("two").uri(id).uri("https://example.test").issue().unwrap();
    assert_eq!(two.facts().spiffe_id, None, "one of two URIs is no SPIFFE id");
}

#[test]
fn files_are_written_and_the_key_is_private() {
    use std::os::unix::fs::PermissionsExt;
    let env = TestEnv::new().unwrap();
    let below = Pki::new().unwrap().intermediate("Below").unwrap();
    let (cert, key) = below.client("orders").unwrap().write_to(env.folder(), "client").unwrap();
    assert_eq!(std::fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    let chain = std::fs::read(cert).unwrap();
    assert_eq!(rustls::pki_types::CertificateDer::pem_slice_iter(&chain).count(), 2);
    rustls::pki_types::PrivateKeyDer::from_pem_file(key).unwrap();
    below.write_ca(env.folder().join("tls/ca.pem")).unwrap();
}

#[tokio::test]
async fn certificates_serve_on_both_ends_of_tls() {
    let ca = Pki::new().unwrap();
    let server = ca.server(&["localhost", "127.0.0.1"]).unwrap();
    let upstream = Upstream::builder().tls(server.server_config(Some(&ca), &["http/1.1"]).unwrap()).start().await.unwrap();
    let client = ca.client("gateway").unwrap();
    let config = client_config(&[&ca], Some(&client), &["http/1.1"]).unwrap();
    let mut connection = Client::connect_tls(upstream.address(), "localhost", config).await.unwrap();
    assert_eq!(connection.alpn().as_deref(), Some("http/1.1"));
    assert_eq!(connection.get("localhost", "/", &[]).await.unwrap().status, 200);
    let seen = upstream.last().unwrap();
    assert_eq!(seen.sni.as_deref(), Some("localhost"));
    assert_eq!(seen.client_certificate.as_deref(), Some(&*client.facts().der));

    let anonymous = client_config(&[&ca], None, &[]).unwrap();
    let refused = match Client::connect_tls(upstream.address(), "localhost", anonymous).await {
        // In TLS 1.3 the client learns of it with the first read.
        Ok(mut connection) => connection.get("localhost", "/", &[]).await.is_err(),
        Err(_) => true,
    };
    assert!(refused);
    let stranger = client_config(&[&Pki::new().unwrap()], Some(&client), &[]).unwrap();
    assert!(Client::connect_tls(upstream.address(), "localhost", stranger).await.is_err());
    portcullis_testkit::until("failed handshakes", || upstream.handshake_failures() == 2).await.unwrap();
}
