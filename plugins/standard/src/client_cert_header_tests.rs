use super::*;
use crate::test_support::{Call, build, error, facts};
use portcullis_plugin::CertificateFacts;

fn posing() -> Call {
    Call::get("/").header("Client-Cert", ":AAAA:").header("client_cert", ":BBBB:").header("Client-Cert-Chain", ":CCCC:")
}

#[test]
fn a_verified_certificate_is_one_byte_sequence_whatever_is_in_it() {
    let der: std::sync::Arc<[u8]> = (0..=255).collect::<Vec<u8>>().into();
    let mut call = posing().certificate(CertificateFacts { der: std::sync::Arc::clone(&der), ..facts() });
    assert!(call.run(&build::<ClientCertHeader>("{}")).is_continue());
    let sent = call.sent("client-cert");
    assert_eq!(sent.len(), 1);
    let inner = sent[0].strip_prefix(':').and_then(|rest| rest.strip_suffix(':')).unwrap();
    assert_eq!(STANDARD.decode(inner).unwrap(), *der);
    assert!(call.sent("client_cert").is_empty() && call.sent("client-cert-chain").is_empty());
}

#[test]
fn the_chain_is_a_list_without_the_certificate_itself() {
    let (leaf, chain) = (vec![1_u8, 2, 3], vec![[4_u8, 5].into(), [6_u8].into()]);
    let with = || CertificateFacts { der: leaf.clone().into(), chain: chain.clone(), ..facts() };
    let mut call = posing().certificate(with());
    assert!(call.run(&build::<ClientCertHeader>("{ chain: true }")).is_continue());
    assert_eq!((call.sent(FIELD), call.sent(CHAIN)), (vec![":AQID:".to_owned()], vec![":BAU=:, :Bg==:".to_owned()]));
    for (yaml, facts) in [("{}", with()), ("{ chain: true }", CertificateFacts { chain: Vec::new(), ..with() })] {
        let mut call = posing().certificate(facts);
        assert!(call.run(&build::<ClientCertHeader>(yaml)).is_continue());
        assert_eq!((call.sent(FIELD), call.sent(CHAIN)), (vec![":AQID:".to_owned()], vec![]), "{yaml}");
    }
}

fn element(yaml: &str, facts: CertificateFacts) -> String {
    let mut call = posing().header("X-Forwarded-Client-Cert", "Cert=forged").certificate(facts);
    assert!(call.run(&build::<ClientCertHeader>(yaml)).is_continue());
    assert!(call.sent(FIELD).is_empty() && call.sent(CHAIN).is_empty());
    let sent = call.sent(XFCC);
    assert_eq!(sent.len(), 1);
    sent.into_iter().next().unwrap()
}

#[test]
fn an_element_is_as_envoy_writes_it() {
    let hash = "ab".repeat(32);
    let names = "URI=spiffe://partner.example/ns/prod/sa/billing;DNS=billing.partner.example";
    let subject = "Subject=\"CN=billing,OU=Payments,O=Partner\\2C Inc.,C=DE\"";
    assert_eq!(element("{ format: xfcc }", facts()), format!("Hash={hash};{subject};{names}"));
    let der = || CertificateFacts { der: [0xfb, 0xef, 0xbf, 0].into(), chain: vec![[0xff].into()], ..facts() };
    let pem = |base64: &str| format!("-----BEGIN%20CERTIFICATE-----%0A{base64}%0A-----END%20CERTIFICATE-----%0A");
    let (one, two) = (pem("%2B%2B%2B%2FAA%3D%3D"), pem("%2Fw%3D%3D"));
    let yaml = "{ format: xfcc, by: 'spiffe://example.org/edge?a=b', cert: true, chain: true }";
    let by = "By=\"spiffe://example.org/edge?a=b\"";
    assert_eq!(element(yaml, der()), format!("{by};Hash={hash};Cert=\"{one}\";Chain=\"{one}{two}\";{subject};{names}"));
    let bare = CertificateFacts { subject: String::new(), san_uri: Vec::new(), san_dns: Vec::new(), ..facts() };
    assert_eq!(element("{ format: xfcc }", bare), format!("Hash={hash};Subject=\"\""));
}

#[test]
fn no_name_can_break_out_of_its_value() {
    let subject = |subject: &str| {
        let bare = CertificateFacts { subject: subject.into(), san_uri: Vec::new(), san_dns: Vec::new(), ..facts() };
        let element = element("{ format: xfcc }", bare);
        let start = element.find(";Subject=\"").unwrap() + 10;
        element[start..].strip_suffix('"').unwrap().to_owned()
    };
    for (name, written) in [
        // As RFC 4514 writes: a";Cert=x, and b\
        ("CN=a\\\"\\;Cert=x,O=b\\\\", "CN=a\\22\\3BCert=x,O=b\\5C"),
        ("CN=\\,By=root\\+", "CN=\\2CBy=root\\2B"),
        ("CN=\\ a\\ ", "CN=\\20a\\20"),
        ("CN=a\\0Db", "CN=a\\0Db"),
        ("CN=\u{e4}\u{2028}", "CN=\\C3\\A4\\E2\\80\\A8"),
        // None of these comes from a certificate.
        ("CN=\"\\", "CN=\\22\\5C"),
    ] {
        assert_eq!(subject(name), written);
    }
    let with_uri = |uri: &str| CertificateFacts { san_uri: vec![uri.into()], san_dns: Vec::new(), ..facts() };
    let quoted = element("{ format: xfcc }", with_uri("spiffe://a/b,Cert=c;By=d"));
    assert!(quoted.ends_with(";URI=\"spiffe://a/b,Cert=c;By=d\""), "{quoted}");
    for uri in ["spiffe://a\",Cert=b", "spiffe://a\\"] {
        let mut call = posing().certificate(with_uri(uri));
        assert_eq!(call.denied(&build::<ClientCertHeader>("{ format: xfcc }")).reason(), reason::IDENTITY_MISSING);
        assert!(call.sent(XFCC).is_empty());
    }
}

#[test]
fn keys_of_the_other_format_are_errors() {
    for (yaml, problem) in [
        ("{ cert: true }", "cert: `cert` is part of"),
        ("{ format: rfc9440, by: a }", "by: `by` is part of"),
        ("{ format: xfcc, by: '' }", "by: `` is not a URI"),
        ("{ format: xfcc, by: 'a;Cert=b' }", "by: "),
        ("{ format: xfcc, by: 'a\"' }", "by: "),
        ("{ format: envoy }", "unknown variant"),
    ] {
        let error = error::<ClientCertHeader>(yaml);
        assert!(error.contains(problem), "{yaml}: {error}");
    }
}

#[test]
fn one_that_did_not_verify_is_none_and_the_clients_own_word_goes() {
    for (yaml, passes) in [("{}", true), ("{ require: true }", false)] {
        for mut call in [posing(), posing().refused_certificate(reason::CERT_REVOKED)] {
            assert_eq!(call.run(&build::<ClientCertHeader>(yaml)).is_continue(), passes, "{yaml}");
            for name in ["client-cert", "client_cert", "client-cert-chain"] {
                assert!(call.sent(name).is_empty(), "{name}");
            }
        }
    }
    assert_eq!(posing().denied(&build::<ClientCertHeader>("{ require: true }")).reason(), reason::IDENTITY_MISSING);
}
