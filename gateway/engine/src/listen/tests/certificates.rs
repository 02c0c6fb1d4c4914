//! What is said about certificates, keys and protocols that cannot be used.

use super::pki::{Ca, Files, certificate, tls};
use crate::config::raw;
use portcullis_plugin::ConfigError;

fn error(files: &Files, raw: raw::Tls) -> ConfigError {
    match files.compile(raw) {
        Ok(_) => panic!("it compiles"),
        Err(error) => error,
    }
}

/// The error's place and text for one certificate made of these files.
fn of(cert: impl AsRef<[u8]>, key: impl AsRef<[u8]>) -> (String, String) {
    let files = Files::new();
    files.write("edge.pem", cert);
    files.write("edge.key", key);
    let error = error(&files, tls(vec![certificate("edge")]));
    (error.dotted_path(), error.to_string())
}

#[test]
fn a_file_that_cannot_be_used_is_named_with_the_cause() {
    let ca = Ca::new("ca");
    let (edge, other) = (ca.server(&["a.test"]), ca.server(&["b.test"]));
    let (pem, key) = (edge.cert.pem(), edge.key.serialize_pem());
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let legacy = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nAAAA\n-----END RSA PRIVATE KEY-----\n";
    let upside_down = format!("{}{pem}", ca.pem);
    let reversed = format!("{}{pem}", other.cert.pem());
    for (cert, key, place, says) in [
        (pem.as_bytes(), other.key.serialize_pem().as_str(), "key", "does not belong to the first certificate of edge.pem"),
        (reversed.as_bytes(), &key, "key", "put the leaf first"),
        (upside_down.as_bytes(), &key, "key", "put the leaf first"),
        (pem.as_bytes(), encrypted, "key", "encrypted with a passphrase"),
        (pem.as_bytes(), legacy, "key", "encrypted with a passphrase"),
        (pem.as_bytes(), "", "key", "edge.key holds no private key"),
        (pem.as_bytes(), &pem, "key", "edge.key holds no private key"),
        (pem.as_bytes(), &format!("{key}{key}"), "key", "more than one private key"),
        (b"", &key, "cert", "edge.pem holds no certificate"),
        (edge.cert.der(), &key, "cert", "it seems to be DER"),
        (b"-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n", &key, "cert", "not well-formed PEM"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", &key, "cert", "cannot be read"),
    ] {
        let (path, text) = of(cert, key);
        assert_eq!(path, format!("certificates[0].{place}"), "{text}");
        assert!(text.contains(says), "{text}");
        assert!(!text.contains("AAAA"), "{text}");
    }
    let missing = error(&Files::new(), tls(vec![certificate("edge")]));
    assert!(missing.to_string().contains("edge.pem"), "{missing}");
    assert_eq!(missing.dotted_path(), "certificates[0].cert");
}

#[test]
fn a_name_has_one_certificate_and_every_certificate_a_name() {
    let (files, ca) = (Files::new(), Ca::new("ca"));
    let first = files.identity("first", &ca.server(&["a.test", "*.b.test"]));
    let second = files.identity("second", &ca.server(&["c.test", "*.B.test"]));
    let twice = error(&files, tls(vec![first, second]));
    assert_eq!(twice.dotted_path(), "certificates[1].cert");
    assert!(twice.to_string().contains("second.pem is for `*.b.test`, and so is first.pem"), "{twice}");

    let nameless = files.identity("nameless", &ca.server(&["192.0.2.1"]));
    let unreachable = error(&files, tls(vec![certificate("first"), nameless]));
    assert!(unreachable.to_string().contains("no client can choose it"), "{unreachable}");
    assert!(files.compile(tls(vec![certificate("nameless"), certificate("first")])).is_ok());
}

#[test]
fn the_list_of_protocols_and_of_certificates_is_not_empty() {
    let (files, ca) = (Files::new(), Ca::new("ca"));
    files.identity("edge", &ca.server(&["a.test"]));
    assert_eq!(error(&files, tls(vec![])).dotted_path(), "certificates");
    for (alpn, place) in [(vec![], "alpn"), (vec![raw::Alpn::H2, raw::Alpn::H2], "alpn[1]")] {
        assert_eq!(error(&files, raw::Tls { alpn, ..tls(vec![certificate("edge")]) }).dotted_path(), place);
    }
}

#[test]
fn client_cas_and_lists_are_read_now_and_not_at_the_first_client() {
    let (files, ca) = (Files::new(), Ca::new("ca"));
    files.identity("edge", &ca.server(&["a.test"]));
    for (ca_file, crl_file, place) in [
        ("not a ca", ca.crl(&[]), "client_auth.ca"),
        ("", ca.crl(&[]), "client_auth.ca"),
        (ca.pem.as_str(), "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n".to_owned(), "client_auth.crl"),
    ] {
        let client_auth = files.client_auth(&ca, &[], raw::ClientAuthMode::Request);
        files.write("clients.pem", ca_file);
        files.write("clients.crl", crl_file);
        let refused = error(&files, raw::Tls { client_auth: Some(client_auth), ..tls(vec![certificate("edge")]) });
        assert_eq!(refused.dotted_path(), place, "{refused}");
    }
}

#[test]
fn what_is_only_unwise_is_a_warning() {
    let (files, ca) = (Files::new(), Ca::new("ca"));
    let edge = ca.server(&["a.test"]);
    files.identity("edge", &edge);
    let warnings = |files: &Files| {
        let settings = files.compile(tls(vec![certificate("edge")])).unwrap();
        settings.warnings().iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(warnings(&files), Vec::<String>::new());

    files.mode("edge.key", 0o644);
    let [open] = &warnings(&files)[..] else { panic!("one warning") };
    assert!(open.starts_with("certificates[0].key: every user of this machine can read"), "{open}");

    files.identity("edge", &ca.expired_server(&["a.test"]));
    let [expired] = &warnings(&files)[..] else { panic!("one warning") };
    assert!(expired.contains("expired on"), "{expired}");

    files.identity("edge", &edge);
    files.write("edge.pem", format!("{}{}", edge.cert.pem(), Ca::new("stranger").pem));
    let [order] = &warnings(&files)[..] else { panic!("one warning") };
    assert!(order.contains("out of order"), "{order}");
}

#[test]
fn every_file_is_watched() {
    let (files, ca) = (Files::new(), Ca::new("ca"));
    files.identity("edge", &ca.server(&["a.test"]));
    let client_auth = Some(files.client_auth(&ca, &[], raw::ClientAuthMode::Request));
    let env = files.env();
    crate::listen::TlsSettings::compile(raw::Tls { client_auth, ..tls(vec![certificate("edge")]) }, &env).unwrap();
    let mut names: Vec<_> = env.files().iter().filter_map(|path| path.file_name()?.to_str().map(str::to_owned)).collect();
    names.sort();
    assert_eq!(names, ["clients.crl", "clients.pem", "edge.key", "edge.pem"]);
}
