//! Client certificates, good and not, against CAs made here.

use super::now;
use crate::certificate::{CertificateHeader, ClientCaError, ClientCas, ForwardedCas, facts_from_der};
use base64::Engine;
use portcullis_plugin::reason::{self, ReasonCode};
use portcullis_plugin::{CertificateStatus, Headers};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationList, CertificateRevocationListParams, CustomExtension,
    DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType,
    SerialNumber,
};
use rustls_pki_types::CertificateDer;
use std::time::Duration;
use time::OffsetDateTime;

fn day(offset: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(super::NOW as i64).unwrap() + time::Duration::days(offset)
}

struct Ca {
    params: CertificateParams,
    key: KeyPair,
    der: CertificateDer<'static>,
    pem: String,
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Partner");
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

impl Ca {
    fn root(name: &str) -> Self {
        let (params, key) = (ca_params(name), KeyPair::generate().unwrap());
        let certificate = params.self_signed(&key).unwrap();
        Self { params, key, der: certificate.der().clone(), pem: certificate.pem() }
    }

    fn intermediate(&self, name: &str) -> Self {
        let (mut params, key) = (ca_params(name), KeyPair::generate().unwrap());
        params.serial_number = Some(SerialNumber::from(77u64));
        let certificate = params.signed_by(&key, &self.issuer()).unwrap();
        Self { params, key, der: certificate.der().clone(), pem: certificate.pem() }
    }

    fn issuer(&self) -> rcgen::Issuer<'_, &KeyPair> {
        rcgen::Issuer::from_params(&self.params, &self.key)
    }

    fn leaf(&self, change: impl FnOnce(&mut CertificateParams)) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CountryName, "DE");
        params.distinguished_name.push(DnType::OrganizationName, "Client, Inc.");
        params.distinguished_name.push(DnType::CommonName, "orders");
        (params.not_before, params.not_after) = (day(-1), day(30));
        params.serial_number = Some(SerialNumber::from(vec![0x0b, 0xad]));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        params.signed_by(&KeyPair::generate().unwrap(), &self.issuer()).unwrap().der().clone()
    }

    fn list(&self, revoked: &[&[u8]], until: OffsetDateTime) -> CertificateRevocationList {
        let revoked_certs = revoked
            .iter()
            .map(|serial| RevokedCertParams {
                serial_number: SerialNumber::from_slice(serial),
                revocation_time: day(-2),
                reason_code: None,
                invalidity_date: None,
            })
            .collect();
        CertificateRevocationListParams {
            this_update: day(-20),
            next_update: until,
            crl_number: SerialNumber::from(1u64),
            issuing_distribution_point: None,
            revoked_certs,
            key_identifier_method: KeyIdMethod::Sha256,
        }
        .signed_by(&self.issuer())
        .unwrap()
    }

    fn trusted(&self) -> ClientCas {
        ClientCas::new(self.pem.as_bytes(), &[]).unwrap()
    }

    fn trusted_with(&self, lists: &[&CertificateRevocationList]) -> ClientCas {
        let lists: Vec<Vec<u8>> = lists.iter().map(|list| list.der().to_vec()).collect();
        ClientCas::new(self.pem.as_bytes(), &lists).unwrap()
    }
}

fn refusal(status: &CertificateStatus) -> (ReasonCode, String) {
    match status {
        CertificateStatus::Refused(refusal) => (
            refusal.reason,
            format!("{} | {} | {}", refusal.expected, refusal.observed, refusal.hint.as_deref().unwrap_or_default()),
        ),
        CertificateStatus::Verified(facts) => panic!("verified: {}", facts.subject),
        CertificateStatus::Missing => panic!("missing"),
    }
}

#[track_caller]
fn refused(cas: &ClientCas, chain: &[CertificateDer<'_>], reason: ReasonCode, part: &str) {
    let (got, text) = refusal(&cas.judge(chain, now()));
    assert_eq!(got, reason, "{text}");
    assert!(text.contains(part), "{text}");
}

#[test]
fn a_good_certificate_gives_its_facts() {
    let root = Ca::root("Root");
    let leaf = root.leaf(|params| {
        params.subject_alt_names = vec![
            SanType::DnsName("orders.partner.example".try_into().unwrap()),
            SanType::URI("spiffe://partner.example/ns/prod/sa/orders".try_into().unwrap()),
            SanType::Rfc822Name("ops@partner.example".try_into().unwrap()),
            SanType::IpAddress("10.0.0.7".parse().unwrap()),
        ];
    });
    let status = root.trusted().judge(std::slice::from_ref(&leaf), now());
    let facts = status.verified().unwrap_or_else(|| panic!("{:?}", refusal(&status)));
    assert_eq!(facts.subject, r"CN=orders,O=Client\, Inc.,C=DE");
    assert_eq!(facts.issuer, "CN=Root,O=Partner");
    assert_eq!(facts.serial, "0BAD");
    assert_eq!(facts.san_dns, ["orders.partner.example"]);
    assert_eq!(facts.san_email, ["ops@partner.example"]);
    assert_eq!(facts.san_ip, ["10.0.0.7".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!(facts.spiffe_id.as_deref(), Some("spiffe://partner.example/ns/prod/sa/orders"));
    assert_eq!(facts.sha256.len(), 64);
    assert_eq!(&*facts.der, leaf.as_ref());
    assert!(facts.not_before < now() && now() < facts.not_after);
}

#[test]
fn two_uri_names_are_no_spiffe_id() {
    let root = Ca::root("Root");
    let leaf = root.leaf(|params| {
        let uri = |text: &str| SanType::URI(text.try_into().unwrap());
        params.subject_alt_names = vec![uri("spiffe://a.example/x"), uri("spiffe://a.example/y")];
    });
    let facts = facts_from_der(&leaf).unwrap();
    assert_eq!((facts.spiffe_id, facts.san_uri.len()), (None, 2));
}

#[test]
fn chains_that_lead_nowhere_are_untrusted() {
    let (root, foreign, namesake) = (Ca::root("Root"), Ca::root("Foreign"), Ca::root("Root"));
    let cas = root.trusted();
    let untrusted = reason::CERT_UNTRUSTED;
    refused(&cas, &[foreign.leaf(|_| {})], untrusted, "issued by CN=Foreign,O=Partner");
    refused(&cas, &[foreign.leaf(|_| {}), foreign.der.clone()], untrusted, "CN=Foreign");
    refused(&cas, &[namesake.leaf(|_| {})], untrusted, "CN=Root");
    let middle = root.intermediate("Middle");
    refused(&cas, &[middle.leaf(|_| {})], untrusted, "intermediate");
    assert!(cas.judge(&[middle.leaf(|_| {}), middle.der.clone()], now()).verified().is_some());
    // A leaf that is no CA cannot issue.
    let own = KeyPair::generate().unwrap();
    let mut params = ca_params("orders");
    params.is_ca = IsCa::NoCa;
    let middleman =
        Ca { der: params.signed_by(&own, &root.issuer()).unwrap().der().clone(), params, key: own, pem: String::new() };
    refused(&cas, &[middleman.leaf(|_| {}), middleman.der.clone()], untrusted, "");
    // Its own issuer, garbage, too many.
    refused(&cas, &[Ca::root("orders").der], untrusted, "");
    refused(&cas, &[CertificateDer::from(vec![0x30, 0x03, 1, 2, 3])], untrusted, "X.509");
    let mut trailing = root.leaf(|_| {}).to_vec();
    trailing.push(0);
    refused(&cas, &[CertificateDer::from(trailing)], untrusted, "behind");
    refused(&cas, &vec![root.leaf(|_| {}); 11], untrusted, "at most 10");
    assert!(matches!(cas.judge(&[], now()), CertificateStatus::Missing));
}

#[test]
fn a_certificate_for_servers_is_not_one_for_clients() {
    let root = Ca::root("Root");
    let server = root.leaf(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]);
    refused(&root.trusted(), &[server], reason::CERT_UNTRUSTED, "clientAuth");
    let unlimited = root.leaf(|params| params.extended_key_usages.clear());
    assert!(root.trusted().judge(&[unlimited], now()).verified().is_some());
}

#[test]
fn validity_is_judged_at_the_time_of_the_request() {
    let root = Ca::root("Root");
    let cas = root.trusted();
    let leaf = [root.leaf(|_| {})];
    let at = |days: u64| cas.judge(&leaf, now() + Duration::from_secs(days * 86_400));
    assert!(at(29).verified().is_some());
    let (reason, text) = refusal(&at(31));
    assert!(reason == reason::CERT_EXPIRED && text.contains("expired 1 day ago"), "{text}");
    let early = [root.leaf(|params| params.not_before = day(2))];
    refused(&cas, &early, reason::CERT_EXPIRED, "begins in 2 days");
}

#[test]
fn revoked_certificates_are_told_apart() {
    let root = Ca::root("Root");
    let leaf = [root.leaf(|_| {})];
    let list = root.list(&[&[0x0b, 0xad]], day(1));
    refused(&root.trusted_with(&[&list]), &leaf, reason::CERT_REVOKED, "serial 0BAD");
    let pem = ClientCas::new(root.pem.as_bytes(), &[list.pem().unwrap().into_bytes()]).unwrap();
    refused(&pem, &leaf, reason::CERT_REVOKED, "serial 0BAD");
    let other = root.list(&[&[0x0b, 0xae]], day(1));
    assert!(root.trusted_with(&[&other]).judge(&leaf, now()).verified().is_some());
    // The CA above may be revoked, too.
    let middle = root.intermediate("Middle");
    let cas = root.trusted_with(&[&root.list(&[&[77]], day(1))]);
    refused(&cas, &[middle.leaf(|_| {}), middle.der.clone()], reason::CERT_REVOKED, "a CA above it");
}

#[test]
fn a_list_that_has_ended_closes_the_door() {
    let root = Ca::root("Root");
    let cas = root.trusted_with(&[&root.list(&[], day(-1))]);
    refused(&cas, &[root.leaf(|_| {})], reason::CERT_UNTRUSTED, "nextUpdate");
}

#[test]
fn a_second_list_of_the_same_ca_counts_as_much_as_the_first() {
    let root = Ca::root("Root");
    let (empty, full) = (root.list(&[], day(1)), root.list(&[&[0x0b, 0xad]], day(2)));
    let leaf = [root.leaf(|_| {})];
    refused(&root.trusted_with(&[&empty, &full]), &leaf, reason::CERT_REVOKED, "serial");
    refused(&root.trusted_with(&[&full, &empty]), &leaf, reason::CERT_REVOKED, "serial");
    let both = [empty.pem().unwrap(), full.pem().unwrap()].concat().into_bytes();
    refused(&ClientCas::new(root.pem.as_bytes(), &[both]).unwrap(), &leaf, reason::CERT_REVOKED, "serial");
}

#[test]
fn a_list_of_one_ca_says_nothing_of_another_and_a_forged_one_closes_the_door() {
    let (root, other, namesake) = (Ca::root("Root"), Ca::root("Other"), Ca::root("Root"));
    let leaf = [root.leaf(|_| {})];
    let lists = [other.list(&[&[0x0b, 0xad]], day(1)).der().to_vec()];
    let cas = ClientCas::new([root.pem.as_str(), &other.pem].concat().as_bytes(), &lists).unwrap();
    assert!(cas.judge(&leaf, now()).verified().is_some());
    assert_eq!(cas.root_subjects().len(), 2);
    refused(&root.trusted_with(&[&namesake.list(&[], day(1))]), &leaf, reason::CERT_UNTRUSTED, "not signed by the CA");
}

#[test]
fn names_that_readers_take_for_others_make_a_certificate_worthless() {
    let root = Ca::root("Root");
    for name in [&b"a.partner.example\0.evil.example"[..], b"a b", b"a\r\nx-role: admin", b""] {
        let mut content = vec![0x30, name.len() as u8 + 2, 0x82, name.len() as u8];
        content.extend_from_slice(name);
        let leaf = root.leaf(|params| params.custom_extensions.push(CustomExtension::from_oid_content(&[2, 5, 29, 17], content)));
        refused(&root.trusted(), &[leaf], reason::CERT_UNTRUSTED, "name");
    }
}

#[test]
fn bundles_and_lists_that_cannot_be_read_are_errors_and_not_half_read() {
    let root = Ca::root("Root");
    let broken = root.pem.replacen('M', "!", 1);
    assert_eq!(ClientCas::new(b"", &[]).err(), Some(ClientCaError::NoCa));
    assert_eq!(ClientCas::new(b"hello", &[]).err(), Some(ClientCaError::NoCa));
    assert!(matches!(ClientCas::new([root.pem.as_str(), &broken].concat().as_bytes(), &[]), Err(ClientCaError::Ca(1, _))));
    for list in [&b""[..], b"hello", b"-----BEGIN X509 CRL-----\n!\n-----END X509 CRL-----\n", root.pem.as_bytes(), &root.der] {
        let good = root.list(&[], day(1)).der().to_vec();
        let result = ClientCas::new(root.pem.as_bytes(), &[good, list.to_vec()]);
        assert!(matches!(result, Err(ClientCaError::Crl(1, _))), "{:?}", result.err());
    }
}

#[test]
fn a_judgement_holds_for_a_while_and_for_its_cas_only() {
    let root = Ca::root("Root");
    let (cas, renewed) = (root.trusted(), root.trusted());
    let ends_soon = [root.leaf(|params| params.not_after = day(0) + time::Duration::seconds(20))];
    let judgement = cas.judgement(&ends_soon, now());
    assert!(judgement.status.verified().is_some());
    let after = |seconds| now() + Duration::from_secs(seconds);
    assert!(judgement.holds(&cas, after(19)) && !judgement.holds(&cas, after(20)));
    assert!(!judgement.holds(&cas, now() - Duration::from_secs(1)), "the clock was set back");
    assert!(!judgement.holds(&renewed, now()));
    assert_ne!(cas.generation(), renewed.generation());
    let long = cas.judgement(&[root.leaf(|_| {})], now());
    assert!(long.holds(&cas, after(59)) && !long.holds(&cas, after(60)));
    let with_list = root.trusted_with(&[&root.list(&[], day(0) + time::Duration::seconds(30))]);
    let judgement = with_list.judgement(&[root.leaf(|_| {})], now());
    assert!(judgement.holds(&with_list, after(29)) && !judgement.holds(&with_list, after(30)));
}

#[test]
fn a_certificate_in_a_header_is_judged_anew_when_its_time_has_come() {
    let root = Ca::root("Clients");
    let middle = root.intermediate("Middle");
    let leaf = middle.leaf(|params| params.not_after = day(1));
    let cas = ForwardedCas::new(CertificateHeader::ClientCert, root.pem.as_bytes(), &[]).unwrap();
    let item = |der: &CertificateDer<'_>| format!(":{}:", base64::engine::general_purpose::STANDARD.encode(der));
    let mut headers = Headers::new();
    headers.append("Client-Cert", item(&leaf)).unwrap();
    let reason = |headers: &Headers, days: i64| match cas.judge(headers, std::time::SystemTime::from(day(days))) {
        CertificateStatus::Verified(facts) => {
            assert_eq!((facts.der.as_ref(), facts.chain.len()), (leaf.as_ref(), 1));
            None
        }
        CertificateStatus::Missing => panic!("missing"),
        CertificateStatus::Refused(refusal) => Some(refusal.reason),
    };
    assert_eq!(reason(&headers, 0), Some(reason::CERT_FORWARDED_UNTRUSTED), "without the intermediate");
    headers.append("client-cert-chain", item(&middle.der)).unwrap();
    for (days, expected) in [(0, None), (0, None), (2, Some(reason::CERT_FORWARDED_EXPIRED)), (0, None)] {
        assert_eq!(reason(&headers, days), expected, "{days}");
    }
    headers.append("Client-Cert", item(&leaf)).unwrap();
    assert_eq!(reason(&headers, 0), Some(reason::CERT_FORWARDED_INVALID));
    assert!(matches!(cas.judge(&Headers::new(), now()), CertificateStatus::Missing));
}

/// One header for all cases: a key takes its time.
fn forwarded() -> &'static (ForwardedCas, String, Vec<u8>) {
    static ONE: std::sync::OnceLock<(ForwardedCas, String, Vec<u8>)> = std::sync::OnceLock::new();
    ONE.get_or_init(|| {
        let root = Ca::root("Clients");
        let leaf = root.leaf(|_| {});
        let base64 = base64::engine::general_purpose::STANDARD.encode(&leaf).replace('+', "%2B").replace('=', "%3D");
        let pem = format!("-----BEGIN%20CERTIFICATE-----%0A{base64}%0A-----END%20CERTIFICATE-----%0A");
        let header = format!("By=x,Hash=0;Cert=forged,By=spiffe://proxy;Cert=\"{pem}\";Subject=\"CN=a,O=\\\"b\\\"\";DNS=a");
        (ForwardedCas::new(CertificateHeader::Xfcc, root.pem.as_bytes(), &[]).unwrap(), header, leaf.to_vec())
    })
}

proptest::proptest! {
    /// Whatever happens to a header on its way: it is the proxy's certificate, or none.
    #[test]
    fn no_damage_makes_another_certificate_of_a_header(
        at in proptest::prelude::any::<proptest::sample::Index>(),
        cut in 0_usize..4,
        put in "[\",;=%\\\\ -~]{0,6}",
    ) {
        let (cas, header, leaf) = forwarded();
        let at = at.index(header.len());
        let end = (at + cut).min(header.len());
        let damaged = format!("{}{put}{}", &header[..at], &header[end..]);
        let mut headers = Headers::new();
        headers.append("X-Forwarded-Client-Cert", &damaged).unwrap();
        match cas.judge(&headers, now()) {
            CertificateStatus::Verified(facts) => proptest::prop_assert_eq!(&*facts.der, leaf.as_slice()),
            CertificateStatus::Refused(refusal) => {
                proptest::prop_assert!(refusal.reason.as_str().starts_with("cert.forwarded."));
                proptest::prop_assert!(!refusal.observed.contains("forged"));
            }
            CertificateStatus::Missing => proptest::prop_assert!(false, "there is a header"),
        }
    }
}
