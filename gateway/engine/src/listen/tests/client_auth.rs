//! Client certificates: proven in the handshake, judged at every request.

use super::harness::{EACH, Listening, client, closes, echoes, with_tls};
use super::pki::{Ca, Files, Identity, certificate, tls};
use crate::config::raw;
use crate::config::raw::ClientAuthMode::{Request, Require};
use crate::listen::{ClientChain, ListenerSettings};
use portcullis_plugin::{CertificateStatus, ReasonCode, reason};
use rustls::crypto::aws_lc_rs;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, HandshakeKind, SupportedProtocolVersion};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// The serial numbers of a client in good standing, and of one that is revoked.
const GOOD: u64 = 1001;
const REVOKED: u64 = 1002;

struct World {
    files: Files,
    ca: Ca,
}

impl World {
    fn new() -> Self {
        let world = Self { files: Files::new(), ca: Ca::new("clients") };
        world.files.identity("edge", &Ca::new("servers").server(&["a.test"]));
        world
    }

    fn settings(&self, revoked: &[u64], mode: raw::ClientAuthMode) -> ListenerSettings {
        let client_auth = Some(self.files.client_auth(&self.ca, revoked, mode));
        with_tls(self.files.compile(raw::Tls { client_auth, ..tls(vec![certificate("edge")]) }).unwrap())
    }
}

/// The reason a chain gives no identity, now; `None` if it does.
fn judge(settings: &ListenerSettings, chain: Option<&Arc<ClientChain>>) -> Option<ReasonCode> {
    judge_at(settings, chain, SystemTime::now())
}

fn judge_at(settings: &ListenerSettings, chain: Option<&Arc<ClientChain>>, now: SystemTime) -> Option<ReasonCode> {
    match settings.certificate_status(chain.map(|chain| &**chain), now) {
        CertificateStatus::Verified(_) => None,
        CertificateStatus::Missing => Some(reason::CERT_MISSING),
        CertificateStatus::Refused(refusal) => Some(refusal.reason),
    }
}

/// Every kind of client, and the reason it has no identity.
fn clients(ca: &Ca) -> Vec<(Option<Identity>, Option<ReasonCode>)> {
    vec![
        (Some(ca.client(GOOD)), None),
        (Some(ca.client(REVOKED)), Some(reason::CERT_REVOKED)),
        (Some(ca.expired_client()), Some(reason::CERT_EXPIRED)),
        (Some(Ca::new("foreign").client(GOOD)), Some(reason::CERT_UNTRUSTED)),
        // Same name as the trusted CA, another key.
        (Some(Ca::new("clients").client(GOOD)), Some(reason::CERT_UNTRUSTED)),
        (Some(ca.server(&["client.test"])), Some(reason::CERT_UNTRUSTED)),
        (None, Some(reason::CERT_MISSING)),
    ]
}

#[tokio::test]
async fn request_lets_every_client_in_and_judges_it() {
    let world = World::new();
    let settings = world.settings(&[REVOKED], Request);
    let mut listening = Listening::new(settings.clone());
    for versions in EACH {
        for (identity, expected) in clients(&world.ca) {
            let config = Arc::new(client(versions, identity.as_ref()));
            let mut stream = listening.tls(&config, "a.test").await.unwrap();
            echoes(&mut stream).await.unwrap();
            let seen = listening.seen().await;
            assert_eq!(judge(&settings, seen.certificate.as_ref()), expected);
            // Whatever it is worth, nothing else than what was presented is judged.
            let presented = seen.certificate.as_ref().map(|chain| chain.certificates().to_vec());
            assert_eq!(presented, identity.map(|identity| identity.chain()));
        }
    }
    assert!(listening.finish().await.is_empty());
}

#[tokio::test]
async fn require_lets_only_valid_certificates_in() {
    let world = World::new();
    let mut listening = Listening::new(world.settings(&[REVOKED], Require));
    for versions in EACH {
        for (identity, expected) in clients(&world.ca) {
            let config = Arc::new(client(versions, identity.as_ref()));
            // In TLS 1.3 the client has finished its part before it is judged: it learns with the first read.
            let outcome = match listening.tls(&config, "a.test").await {
                Ok(mut stream) => echoes(&mut stream).await,
                Err(error) => Err(error),
            };
            assert_eq!(outcome.is_err(), expected.is_some(), "{expected:?}: {outcome:?}");
            if expected.is_some() {
                assert_eq!(listening.failure().await, "tls.client_certificate");
            } else {
                assert!(listening.seen().await.certificate.is_some());
            }
        }
    }
    assert!(listening.finish().await.is_empty());
}

/// A client that presents `chain` and signs with another key.
fn impostor(versions: &[&'static SupportedProtocolVersion], victim: &Identity, own: &Identity) -> ClientConfig {
    let provider = aws_lc_rs::default_provider();
    let key = provider.key_provider.load_private_key(own.private()).unwrap();
    let mut config = client(versions, None);
    config.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(CertifiedKey::new(victim.chain(), key)));
    config
}

#[tokio::test]
async fn a_certificate_without_its_key_fails_the_handshake_in_both_modes() {
    let world = World::new();
    let (victim, own) = (world.ca.client(GOOD), world.ca.client(GOOD + 1));
    for mode in [Request, Require] {
        let mut listening = Listening::new(world.settings(&[], mode));
        for versions in EACH {
            let config = Arc::new(impostor(versions, &victim, &own));
            if let Ok(mut stream) = listening.tls(&config, "a.test").await {
                assert!(echoes(&mut stream).await.is_err());
            }
            assert_eq!(listening.failure().await, "tls.client_certificate");
        }
        assert!(listening.finish().await.is_empty());
    }
}

#[tokio::test]
async fn a_chain_too_large_for_a_ticket_fails_the_handshake() {
    let world = World::new();
    let mut listening = Listening::new(world.settings(&[], Request));
    let identity = world.ca.client(GOOD);
    let mut chain = identity.chain();
    chain.extend(std::iter::repeat_n(chain[0].clone(), 100));
    let key = aws_lc_rs::default_provider().key_provider.load_private_key(identity.private()).unwrap();
    let mut config = client(EACH[1], None);
    config.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(CertifiedKey::new(chain, key)));
    if let Ok(mut stream) = listening.tls(&Arc::new(config), "a.test").await {
        assert!(echoes(&mut stream).await.is_err());
    }
    assert_eq!(listening.failure().await, "tls.client_certificate");
}

#[tokio::test]
async fn a_resumed_session_is_judged_by_the_list_of_now() {
    for versions in EACH {
        let world = World::new();
        let before = world.settings(&[], Request);
        let mut listening = Listening::new(before.clone());
        let config = Arc::new(client(versions, Some(&world.ca.client(GOOD))));
        let mut first = listening.tls(&config, "a.test").await.unwrap();
        echoes(&mut first).await.unwrap();
        let old = listening.seen().await.certificate;
        assert_eq!(judge(&before, old.as_ref()), None);

        let after = world.settings(&[GOOD], Request);
        listening.reload(after.clone());
        let mut second = listening.tls(&config, "a.test").await.unwrap();
        echoes(&mut second).await.unwrap();
        assert_eq!(second.get_ref().1.handshake_kind(), Some(HandshakeKind::Resumed));
        let resumed = listening.seen().await.certificate;
        assert!(resumed.is_some(), "the chain comes back with the session");
        assert_eq!(judge(&after, resumed.as_ref()), Some(reason::CERT_REVOKED));
        // The connection that was open all the while is judged likewise.
        assert_eq!(judge(&after, old.as_ref()), Some(reason::CERT_REVOKED));
        assert_eq!(judge(&before, old.as_ref()), None, "a request keeps the snapshot it began with");
    }
}

#[tokio::test]
async fn a_revoked_client_cannot_resume_where_a_certificate_is_required() {
    for versions in EACH {
        let world = World::new();
        let mut listening = Listening::new(world.settings(&[], Require));
        let config = Arc::new(client(versions, Some(&world.ca.client(GOOD))));
        echoes(&mut listening.tls(&config, "a.test").await.unwrap()).await.unwrap();
        listening.seen().await;

        listening.reload(world.settings(&[GOOD], Require));
        if let Ok(mut stream) = listening.tls(&config, "a.test").await {
            assert_eq!(stream.get_ref().1.handshake_kind(), Some(HandshakeKind::Resumed), "the case that is meant");
            closes(&mut stream).await;
        }
        assert_eq!(listening.failure().await, "tls.client_certificate");
        assert!(listening.finish().await.is_empty());
    }
}

#[tokio::test]
async fn a_ticket_from_before_certificates_were_required_does_not_open() {
    for versions in EACH {
        let world = World::new();
        let mut listening = Listening::new(world.settings(&[], Request));
        let config = Arc::new(client(versions, None));
        echoes(&mut listening.tls(&config, "a.test").await.unwrap()).await.unwrap();
        listening.seen().await;
        listening.reload(world.settings(&[], Require));
        if let Ok(mut stream) = listening.tls(&config, "a.test").await {
            closes(&mut stream).await;
        }
        assert_eq!(listening.failure().await, "tls.client_certificate");
    }
}

#[tokio::test]
async fn a_verdict_ends_with_the_certificate_and_not_with_the_connection() {
    let world = World::new();
    let settings = world.settings(&[], Request);
    let chain = Some(Arc::new(ClientChain::new(world.ca.client(GOOD).chain()).unwrap()));
    // Valid from the begin of 2020 to the begin of 2090, the last second included.
    let (begin, end) = (at(1_577_836_800), at(3_786_912_000));
    let verdict = |now| judge_at(&settings, chain.as_ref(), now);
    let second = Duration::from_secs(1);
    for _ in 0..2 {
        assert_eq!(verdict(begin), None);
        assert_eq!(verdict(end), None);
        assert_eq!(verdict(end + second / 2), None);
        assert_eq!(verdict(end + second), Some(reason::CERT_EXPIRED));
        assert_eq!(verdict(begin - second), Some(reason::CERT_EXPIRED));
    }
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

#[tokio::test]
async fn a_verdict_is_kept_while_nothing_changes() {
    let world = World::new();
    let settings = world.settings(&[], Request);
    let chain = ClientChain::new(world.ca.client(GOOD).chain()).unwrap();
    let facts = |settings: &ListenerSettings, now| match settings.certificate_status(Some(&chain), now) {
        CertificateStatus::Verified(facts) => facts,
        other => panic!("{other:?}"),
    };
    let first = facts(&settings, at(2_000_000_000));
    assert!(Arc::ptr_eq(&first, &facts(&settings, at(2_000_000_001))), "judged once");
    assert!(!Arc::ptr_eq(&first, &facts(&world.settings(&[], Request), at(2_000_000_001))), "other CAs judge anew");
}

#[test]
fn without_client_auth_a_chain_is_worth_nothing() {
    let world = World::new();
    let without = with_tls(world.files.compile(tls(vec![certificate("edge")])).unwrap());
    let chain = Some(Arc::new(ClientChain::new(world.ca.client(GOOD).chain()).unwrap()));
    assert_eq!(judge(&without, chain.as_ref()), Some(reason::CERT_MISSING));
    assert_eq!(judge(&super::harness::plain(), chain.as_ref()), Some(reason::CERT_MISSING));
    assert!(ClientChain::new(Vec::new()).is_none());
}
