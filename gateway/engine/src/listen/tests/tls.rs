//! Server names, versions, protocols, and clients that do TLS badly.

use super::harness::{BOTH, EACH, Listening, Trickle, client, closes, echoes, impatient, tls_over, with_tls};
use super::pki::{Ca, Files, tls};
use crate::config::raw;
use crate::listen::TlsSettings;
use rustls::client::WebPkiServerVerifier;
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, HandshakeKind, RootCertStore, version};
use rustls_pki_types::{CertificateDer, ServerName};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

fn served(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    stream.get_ref().1.peer_certificates().unwrap()[0].clone()
}

fn one(names: &[&str]) -> (Files, Arc<TlsSettings>) {
    let files = Files::new();
    let settings = files.compile(tls(vec![files.identity("edge", &Ca::new("ca").server(names))])).unwrap();
    (files, settings)
}

#[tokio::test]
async fn the_server_name_chooses_the_certificate() {
    let (files, ca) = (Files::new(), Ca::new("ca"));
    let identities = [ca.server(&["first.test"]), ca.server(&["second.test", "also.test"]), ca.server(&["*.wild.test"])];
    let raw = identities.iter().enumerate().map(|(i, identity)| files.identity(&format!("cert{i}"), identity)).collect();
    let settings = files.compile(tls(raw)).unwrap();
    let mut listening = Listening::new(with_tls(settings));
    let config = Arc::new(client(BOTH, None));
    for (name, index) in [
        ("first.test", 0),
        ("second.test", 1),
        ("also.test", 1),
        ("SECOND.test", 1),
        ("a.wild.test", 2),
        ("wild.test", 0),
        ("a.b.wild.test", 0),
        ("stranger.test", 0),
    ] {
        let stream = listening.tls(&config, name).await.unwrap();
        assert_eq!(&served(&stream), identities[index].cert.der(), "{name}");
        let tls = listening.seen().await.connection.tls.clone().unwrap();
        assert_eq!(tls.sni.as_deref(), Some(&*name.to_ascii_lowercase()));
    }
    let mut silent = client(BOTH, None);
    silent.enable_sni = false;
    let stream = listening.tls(&Arc::new(silent), "second.test").await.unwrap();
    assert_eq!(&served(&stream), identities[0].cert.der());
    assert_eq!(listening.seen().await.connection.tls.clone().unwrap().sni, None);
}

#[tokio::test]
async fn both_versions_are_served_and_named_as_the_iana_does() {
    let (_files, settings) = one(&["a.test"]);
    let mut listening = Listening::new(with_tls(settings));
    for (versions, name) in EACH.into_iter().zip(["TLSv1.2", "TLSv1.3"]) {
        let mut stream = listening.tls(&Arc::new(client(versions, None)), "a.test").await.unwrap();
        echoes(&mut stream).await.unwrap();
        let seen = listening.seen().await;
        let tls = seen.connection.tls.as_ref().unwrap();
        assert_eq!(tls.version, name);
        assert!(tls.cipher.starts_with("TLS_") && tls.cipher.contains("_GCM_SHA"), "{}", tls.cipher);
        assert!(!seen.http2);
        assert!(seen.certificate.is_none());
        assert_eq!(seen.connection.local, listening.address);
        assert_eq!(seen.connection.peer, seen.connection.source);
    }
    assert!(listening.finish().await.is_empty());
}

#[tokio::test]
async fn a_client_below_the_lowest_version_is_told_so() {
    let (files, ca) = (Files::new(), Ca::new("ca"));
    let raw = raw::Tls { min_version: raw::TlsVersion::Tls13, ..tls(vec![files.identity("edge", &ca.server(&["a.test"]))]) };
    let mut listening = Listening::new(with_tls(files.compile(raw).unwrap()));
    let refused = listening.tls(&Arc::new(client(&[&version::TLS12], None)), "a.test").await.unwrap_err();
    assert!(refused.to_string().contains("ProtocolVersion"), "{refused}");
    assert_eq!(listening.failure().await, "tls.no_shared_version");
    listening.tls(&Arc::new(client(&[&version::TLS13], None)), "a.test").await.unwrap();
}

#[tokio::test]
async fn protocols_are_agreed_on_or_the_handshake_fails() {
    let (files, ca) = (Files::new(), Ca::new("ca"));
    let edge = || vec![super::pki::certificate("edge")];
    files.identity("edge", &ca.server(&["a.test"]));
    let offering = |protocols: &[&str]| {
        let mut config = client(BOTH, None);
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        Arc::new(config)
    };
    let mut listening = Listening::new(with_tls(files.compile(tls(edge())).unwrap()));
    for (offered, http2) in [(&["http/1.1", "h2"][..], true), (&["http/1.1"], false), (&["spdy/1", "h2"], true), (&[], false)] {
        listening.tls(&offering(offered), "a.test").await.unwrap();
        assert_eq!(listening.seen().await.http2, http2, "{offered:?}");
    }
    let refused = listening.tls(&offering(&["spdy/1"]), "a.test").await.unwrap_err();
    assert!(refused.to_string().contains("NoApplicationProtocol"), "{refused}");
    assert_eq!(listening.failure().await, "tls.no_shared_protocol");

    // A listener for HTTP/2 only does not fall back to what it may not speak.
    let h2_only = files.compile(raw::Tls { alpn: vec![raw::Alpn::H2], ..tls(edge()) }).unwrap();
    listening.reload(with_tls(h2_only));
    assert!(listening.tls(&offering(&["http/1.1"]), "a.test").await.is_err());
    assert_eq!(listening.failure().await, "tls.no_shared_protocol");
    let mut silent = listening.tls(&offering(&[]), "a.test").await.unwrap();
    closes(&mut silent).await;
    assert_eq!(listening.failure().await, "tls.no_shared_protocol");
}

#[tokio::test]
async fn no_cipher_in_common_and_no_trust_have_reasons_of_their_own() {
    let (_files, settings) = one(&["a.test"]);
    let mut listening = Listening::new(with_tls(settings));
    // The listener's key is ECDSA; this client only takes RSA.
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites.retain(|suite| suite.suite().as_str().is_some_and(|name| name.contains("_RSA_")));
    let rsa_only = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&version::TLS12])
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    assert!(listening.tls(&Arc::new(rsa_only), "a.test").await.is_err());
    assert_eq!(listening.failure().await, "tls.no_shared_cipher");

    let mut roots = RootCertStore::empty();
    let stranger = Ca::new("stranger");
    let pem = rustls_pki_types::pem::PemObject::from_pem_slice(stranger.pem.as_bytes());
    roots.add(pem.unwrap()).unwrap();
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build().unwrap();
    let distrustful = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(BOTH)
        .unwrap()
        .with_webpki_verifier(verifier)
        .with_no_client_auth();
    assert!(listening.tls(&Arc::new(distrustful), "a.test").await.is_err());
    assert_eq!(listening.failure().await, "tls.alert");
}

#[tokio::test]
async fn what_is_not_tls_is_closed_with_its_reason() {
    let (_files, settings) = one(&["a.test"]);
    let mut listening = Listening::new(with_tls(settings));
    // A record of 16 KiB that says it holds the begin of a ClientHello of 64 KiB.
    let mut huge = vec![0x16, 3, 1, 0x40, 0, 1, 0, 0xff, 0xff];
    huge.resize(5 + 0x4000, 0);
    let endless = [&huge[..], &huge].concat();
    for (bytes, reason) in [
        (&b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"[..], "client_hello.plain_http"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "client_hello.plain_http"),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n", "proxy_header.untrusted"),
        (b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0", "proxy_header.untrusted"),
        (b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", "client_hello.malformed"),
        (b"SSH-2.0-OpenSSH_9.9\r\n", "client_hello.malformed"),
        // Records that are no ClientHello: an alert, application data, a ServerHello.
        (b"\x15\x03\x03\0\x02\x02\x28", "client_hello.malformed"),
        (b"\x17\x03\x03\0\x05hello", "client_hello.malformed"),
        (&endless, "client_hello.too_large"),
    ] {
        let mut tcp = listening.connect().await;
        tcp.write_all(bytes).await.unwrap();
        closes(&mut tcp).await;
        let got = listening.failure().await;
        let fits = got == reason || (reason == "client_hello.malformed" && got == "tls.protocol");
        assert!(fits, "{got}, not {reason}: {}", String::from_utf8_lossy(&bytes[..bytes.len().min(40)]));
    }
}

/// A ClientHello as rustls writes it.
fn hello() -> Vec<u8> {
    let config = Arc::new(client(BOTH, None));
    let mut connection = rustls::ClientConnection::new(config, ServerName::try_from("a.test").unwrap()).unwrap();
    let mut bytes = Vec::new();
    connection.write_tls(&mut bytes).unwrap();
    bytes
}

#[tokio::test]
async fn a_slow_client_hello_ends_with_the_deadline() {
    let (_files, settings) = one(&["a.test"]);
    let mut listening = Listening::new(impatient(with_tls(settings)));
    let hello = hello();
    // All at once but for the end; and a byte now and then, each of which a timeout per read would forgive.
    let mut tcp = listening.connect().await;
    tcp.write_all(&hello[..hello.len() - 1]).await.unwrap();
    closes(&mut tcp).await;
    assert_eq!(listening.failure().await, "timeout");

    let mut tcp = listening.connect().await;
    tcp.set_nodelay(true).unwrap();
    let mut end = [0];
    for byte in hello.iter().cycle() {
        tokio::select! {
            read = tcp.read(&mut end) => {
                assert!(matches!(read, Ok(0) | Err(_)), "it is closed without an answer");
                break;
            }
            () = tokio::time::sleep(Duration::from_millis(10)) => {}
        }
        if tcp.write_all(&[*byte]).await.is_err() {
            break;
        }
    }
    assert_eq!(listening.failure().await, "timeout");

    // After the ClientHello the same deadline still runs.
    let mut tcp = listening.connect().await;
    tcp.write_all(&hello).await.unwrap();
    closes(&mut tcp).await;
    assert_eq!(listening.failure().await, "timeout");
    listening.open(0).await;
}

#[tokio::test]
async fn fragments_do_not_matter() {
    let (_files, settings) = one(&["a.test"]);
    let listening = Listening::new(with_tls(settings));
    for versions in EACH {
        let mut stream =
            tls_over(Trickle::new(listening.connect().await), &Arc::new(client(versions, None)), "a.test").await.unwrap();
        echoes(&mut stream).await.unwrap();
    }
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_is_io_and_one_that_said_nothing_is_nothing() {
    let (_files, settings) = one(&["a.test"]);
    let mut listening = Listening::new(with_tls(settings));
    let mut tcp = listening.connect().await;
    tcp.write_all(&hello()[..20]).await.unwrap();
    drop(tcp);
    assert_eq!(listening.failure().await, "io");
    drop(listening.connect().await);
    listening.open(0).await;
    assert!(listening.finish().await.is_empty());
}

#[tokio::test]
async fn a_new_certificate_serves_the_next_connection_and_disturbs_no_other() {
    let (files, ca) = (Files::new(), Ca::new("ca"));
    let (old, new) = (ca.server(&["a.test"]), ca.server(&["a.test"]));
    let listening = Listening::new(with_tls(files.compile(tls(vec![files.identity("edge", &old)])).unwrap()));
    let config = Arc::new(client(BOTH, None));
    let mut before = listening.tls(&config, "a.test").await.unwrap();
    echoes(&mut before).await.unwrap();
    assert_eq!(&served(&before), old.cert.der());

    listening.reload(with_tls(files.compile(tls(vec![files.identity("edge", &new)])).unwrap()));
    // Also a client that could resume gets the new certificate: tickets belong to the old one.
    let mut after = listening.tls(&config, "a.test").await.unwrap();
    echoes(&mut after).await.unwrap();
    assert_eq!(after.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
    assert_eq!(&served(&after), new.cert.der());
    echoes(&mut before).await.unwrap();
}

#[tokio::test]
async fn sessions_resume_also_after_a_reload_that_changed_nothing() {
    let (files, ca) = (Files::new(), Ca::new("ca"));
    let raw = || tls(vec![super::pki::certificate("edge")]);
    files.identity("edge", &ca.server(&["a.test"]));
    for versions in EACH {
        let listening = Listening::new(with_tls(files.compile(raw()).unwrap()));
        let config = Arc::new(client(versions, None));
        for kind in [HandshakeKind::Full, HandshakeKind::Resumed, HandshakeKind::Resumed] {
            let mut stream = listening.tls(&config, "a.test").await.unwrap();
            echoes(&mut stream).await.unwrap();
            assert_eq!(stream.get_ref().1.handshake_kind(), Some(kind));
            listening.reload(with_tls(files.compile(raw()).unwrap()));
        }
    }
}

#[tokio::test]
async fn a_session_of_one_name_does_not_resume_under_another() {
    let (files, ca) = (Files::new(), Ca::new("ca"));
    let raw = vec![files.identity("a", &ca.server(&["a.test", "a2.test"])), files.identity("b", &ca.server(&["b.test"]))];
    let listening = Listening::new(with_tls(files.compile(tls(raw)).unwrap()));
    for (versions, other) in [(EACH[0], "b.test"), (EACH[1], "b.test"), (EACH[0], "a2.test"), (EACH[1], "a2.test")] {
        let mut config = client(versions, None);
        config.resumption = rustls::client::Resumption::store(Arc::new(OneForAll::default()));
        let config = Arc::new(config);
        echoes(&mut listening.tls(&config, "a.test").await.unwrap()).await.unwrap();
        let mut stream = listening.tls(&config, other).await.unwrap();
        echoes(&mut stream).await.unwrap();
        assert_eq!(stream.get_ref().1.handshake_kind(), Some(HandshakeKind::Full), "{other}");
    }
}

/// A client's session store that offers what it has to every server.
#[derive(Debug, Default)]
struct OneForAll {
    tls12: parking_lot::Mutex<Option<rustls::client::Tls12ClientSessionValue>>,
    tls13: parking_lot::Mutex<Vec<rustls::client::Tls13ClientSessionValue>>,
}

impl rustls::client::ClientSessionStore for OneForAll {
    fn set_kx_hint(&self, _: ServerName<'static>, _: rustls::NamedGroup) {}

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<rustls::NamedGroup> {
        None
    }

    fn set_tls12_session(&self, _: ServerName<'static>, value: rustls::client::Tls12ClientSessionValue) {
        *self.tls12.lock() = Some(value);
    }

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<rustls::client::Tls12ClientSessionValue> {
        self.tls12.lock().clone()
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, _: ServerName<'static>, value: rustls::client::Tls13ClientSessionValue) {
        self.tls13.lock().push(value);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<rustls::client::Tls13ClientSessionValue> {
        self.tls13.lock().pop()
    }
}

#[tokio::test]
async fn names_of_one_policy_have_one_index() {
    let (files, ca) = (Files::new(), Ca::new("ca"));
    let raw = vec![files.identity("a", &ca.server(&["a.test", "*.a.test"])), files.identity("b", &ca.server(&["b.test"]))];
    let settings = files.compile(tls(raw)).unwrap();
    let index = |name| settings.certificate_index_for(name);
    assert_eq!([index("a.test"), index("x.a.test"), index("B.test"), index("stranger.test")], [0, 0, 1, 0]);
    let names: Vec<_> = settings.certificates().map(|summary| summary.names.join(" ")).collect();
    assert_eq!(names, ["a.test *.a.test", "b.test"]);
}
