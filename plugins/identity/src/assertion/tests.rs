use super::*;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use portcullis_plugin::env::Kept;
use portcullis_plugin::prometheus::Registry;
use portcullis_plugin::{CertificateFacts, ConfigError, DecisionId, Env, Method, Principal};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

struct Place {
    folder: tempfile::TempDir,
    env: Env,
}

impl Place {
    /// With the keys `a.pem`, `b.pem` and `c.pem`.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a.pem", "b.pem", "c.pem"] {
            std::fs::write(folder.path().join(name), rcgen::KeyPair::generate().unwrap().serialize_pem()).unwrap();
        }
        let env = Env::new(folder.path(), Registry::new(), Arc::new(Kept::default()));
        Self { folder, env }
    }

    fn signer(&self, more: Value) -> Result<AssertionSigner, ConfigError> {
        let mut config = json!({ "issuer": "https://edge.test", "keys": ["a.pem"] });
        more.as_object().unwrap().iter().for_each(|(key, value)| config[key] = value.clone());
        AssertionSigner::compile_at(&serde_json::from_value(config).unwrap(), &self.env, now())
    }

    fn error(&self, more: Value) -> String {
        self.signer(more).err().unwrap().to_string()
    }

    fn kid(&self, file: &str) -> String {
        kids(&self.signer(json!({ "keys": [file] })).unwrap(), now()).remove(0)
    }
}

/// 2027-01-15T08:00:00Z
fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn after(seconds: u64) -> SystemTime {
    now() + Duration::from_secs(seconds)
}

fn moment(seconds: u64) -> String {
    Moment(after(seconds)).to_string()
}

fn kids(signer: &AssertionSigner, now: SystemTime) -> Vec<String> {
    let set: Value = serde_json::from_slice(&signer.jwks(now)).unwrap();
    set["keys"].as_array().unwrap().iter().map(|key| key["kid"].as_str().unwrap().to_owned()).collect()
}

fn alice() -> Arc<Principal> {
    Arc::new(Principal::new("bearer", "alice"))
}

fn statement<'a>(purpose: &'a Purpose, principal: &'a Arc<Principal>, seconds: u64) -> Statement<'a> {
    let decision = DecisionId::random();
    Statement { purpose, route: None, method: &Method::Get, decision, now: after(seconds), principal, certificate: None }
}

fn part(assertion: &str, at: usize) -> Value {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(assertion.split('.').nth(at).unwrap()).unwrap()).unwrap()
}

fn signed_by(signer: &AssertionSigner, seconds: u64) -> String {
    let purpose = signer.purpose("orders", Vec::new());
    let signed = signer.sign(&statement(&purpose, &alice(), seconds)).unwrap();
    part(&signed, 0)["kid"].as_str().unwrap().to_owned()
}

#[test]
fn a_key_is_published_before_it_signs_and_for_a_while_after() {
    let place = Place::new();
    let (a, b) = (place.kid("a.pem"), place.kid("b.pem"));
    let change = moment(3600);
    let keys = json!([{ "file": "b.pem", "from": change }, { "file": "a.pem", "until": change }]);
    let signer = place.signer(json!({ "keys": keys, "overlap": "2m" })).unwrap();
    for (seconds, signs, published) in [
        (0, &a, vec![&b, &a]),
        (3599, &a, vec![&b, &a]),
        (3600, &b, vec![&b, &a]),
        (3719, &b, vec![&b, &a]),
        (3720, &b, vec![&b]),
        (1 << 33, &b, vec![&b]),
    ] {
        assert_eq!(signed_by(&signer, seconds), *signs, "{seconds}");
        assert_eq!(kids(&signer, after(seconds)).iter().collect::<Vec<_>>(), published, "{seconds}");
    }
    // Whatever was signed can be verified as long as it is good, also by a clock that is 5 s late.
    let last =
        part(&signer.sign(&statement(&signer.purpose("x", Vec::new()), &alice(), 3599)).unwrap(), 1)["exp"].as_u64().unwrap();
    assert!(kids(&signer, SystemTime::UNIX_EPOCH + Duration::from_secs(last + 5)).contains(&a));
}

#[test]
fn of_keys_without_a_time_the_first_signs_and_all_are_published() {
    let place = Place::new();
    let signer = place.signer(json!({ "keys": ["b.pem", { "file": "a.pem" }] })).unwrap();
    assert_eq!(signed_by(&signer, 0), place.kid("b.pem"));
    assert_eq!(kids(&signer, SystemTime::UNIX_EPOCH).len(), 2);
    // A key that has ended long ago is in nobody's way: a gateway starts again with yesterday's configuration.
    let old = json!([{ "file": "a.pem", "until": "2020-01-01T00:00:00Z" }, "b.pem"]);
    let signer = place.signer(json!({ "keys": old })).unwrap();
    assert_eq!((signed_by(&signer, 0), kids(&signer, now())), (place.kid("b.pem"), vec![place.kid("b.pem")]));
}

#[test]
fn a_time_without_a_key_is_found_before_it_comes() {
    let place = Place::new();
    let (soon, later) = (moment(60), moment(120));
    for (keys, parts) in [
        (json!([{ "file": "a.pem", "from": soon }]), vec!["assertion.keys:", "no key signs now", &soon]),
        (json!([{ "file": "a.pem", "until": "2020-01-01T00:00:00Z" }]), vec!["no key signs now", "needs no `until`"]),
        (json!([{ "file": "a.pem", "until": soon }]), vec!["no key signs from", &soon, "needs no `until`"]),
        (
            json!([{ "file": "a.pem", "until": soon }, { "file": "b.pem", "from": later }]),
            vec!["no key signs from", &soon, &later],
        ),
        (
            json!([{ "file": "a.pem", "until": soon }, { "file": "b.pem", "from": soon, "until": later }]),
            vec!["no key signs from", &later],
        ),
        (
            json!([{ "file": "a.pem", "from": later, "until": soon }, "b.pem"]),
            vec!["assertion.keys[0].until:", "before it begins"],
        ),
        (json!([]), vec!["no key to sign with", "openssl"]),
    ] {
        let error = place.error(json!({ "keys": keys }));
        assert!(parts.iter().all(|part| error.contains(part)), "{keys}: {error}");
    }
    // Three in turn, given in any order.
    let keys = json!([
        { "file": "c.pem", "from": later },
        { "file": "a.pem", "until": soon },
        { "file": "b.pem", "from": soon, "until": later },
    ]);
    assert!(place.signer(json!({ "keys": keys })).is_ok());
}

#[test]
fn spans_that_do_not_fit_together_are_refused() {
    let place = Place::new();
    for (more, parts) in [
        (json!({ "overlap": "64s" }), ["assertion.overlap:", "65s"]),
        (json!({ "lifetime": "5m", "overlap": "5m" }), ["assertion.overlap:", "305s"]),
        (json!({ "reuse": "31s" }), ["assertion.reuse:", "half of its 1m"]),
        (json!({ "reuse": "0s" }), ["assertion.reuse:", "1s to half"]),
    ] {
        let error = place.error(more);
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    }
    assert!(place.signer(json!({ "overlap": "65s", "reuse": "30s" })).is_ok());
    let parse = |key: Value| serde_json::from_value::<AssertionKey>(key).map_err(|error| error.to_string());
    assert_eq!(parse(json!("a.pem")).unwrap(), AssertionKey::from("a.pem"));
    for (key, part) in [
        (json!({ "file": "a.pem", "from": "2026-12-01" }), "2026-12-01T00:00:00Z"),
        (json!({ "file": "a.pem", "form": "2026-12-01T00:00:00Z" }), "unknown field `form`"),
        (json!({ "until": "2026-12-01T00:00:00Z" }), "missing field `file`"),
        (json!(7), "the path of a key's file"),
    ] {
        assert!(parse(key.clone()).unwrap_err().contains(part), "{key}: {:?}", parse(key.clone()));
    }
    drop(place.folder);
}

#[test]
fn unless_it_is_asked_for_each_request_has_an_assertion_of_its_own() {
    let place = Place::new();
    let (signer, alice) = (place.signer(json!({})).unwrap(), alice());
    let purpose = signer.purpose("orders", Vec::new());
    let ids: Vec<_> = (0..2).map(|_| part(&signer.sign(&statement(&purpose, &alice, 0)).unwrap(), 1)["jti"].clone()).collect();
    assert_ne!(ids[0], ids[1]);
}

#[test]
fn an_assertion_is_sent_again_for_the_same_credential_service_route_method_and_certificate_only() {
    let place = Place::new();
    let (signer, alice) = (place.signer(json!({ "reuse": "20s" })).unwrap(), alice());
    let (orders, billing) = (signer.purpose("orders", Vec::new()), signer.purpose("billing", Vec::new()));
    let first = signer.sign(&statement(&orders, &alice, 0)).unwrap();
    let again = |statement: &Statement<'_>| matches!(signer.sign(statement).unwrap(), Signed::Again(text) if *text == *first);
    assert!(matches!(first, Signed::New(_)) && again(&statement(&orders, &alice, 0)) && again(&statement(&orders, &alice, 19)));

    let facts = CertificateFacts {
        subject: String::new(),
        issuer: String::new(),
        serial: String::new(),
        sha256: "ab".into(),
        san_dns: Vec::new(),
        san_uri: Vec::new(),
        san_email: Vec::new(),
        san_ip: Vec::new(),
        spiffe_id: None,
        not_before: now(),
        not_after: now(),
        der: Arc::new([]),
        chain: Vec::new(),
    };
    let (route, mallory) = ("admin".into(), Arc::new(Principal::new("bearer", "mallory")));
    // Another token of the same caller may say less, or end sooner.
    let other_token = Arc::new((*alice).clone());
    for other in [
        statement(&billing, &alice, 1),
        statement(&orders, &mallory, 1),
        statement(&orders, &other_token, 1),
        Statement { route: Some(&route), ..statement(&orders, &alice, 1) },
        Statement { method: &Method::Delete, ..statement(&orders, &alice, 1) },
        Statement { certificate: Some(&facts), ..statement(&orders, &alice, 1) },
    ] {
        assert!(!again(&other));
    }
    // None of those has taken its place; time does.
    assert!(again(&statement(&orders, &alice, 19)) && !again(&statement(&orders, &alice, 20)));
    // A clock that was set back signs anew: the old one would be of the future.
    assert!(!again(&Statement { now: now() - Duration::from_secs(1), ..statement(&orders, &alice, 0) }));
}

#[test]
fn half_of_its_life_is_left_to_whoever_gets_it_last() {
    let place = Place::new();
    let signer = place.signer(json!({ "reuse": "30s" })).unwrap();
    let purpose = signer.purpose("orders", Vec::new());
    let mut alice = Principal::new("bearer", "alice");
    alice.expires_at = Some(after(10));
    let alice = Arc::new(alice);
    let sign = |seconds| signer.sign(&statement(&purpose, &alice, seconds)).unwrap();
    let first = sign(0);
    assert_eq!(part(&first, 1)["exp"], 1_800_000_010);
    assert!(matches!(sign(4), Signed::Again(_)) && matches!(sign(5), Signed::New(_)));
}

#[test]
fn what_is_kept_has_a_bound() {
    let reuse = super::reuse::Reuse::new(Duration::from_secs(20));
    let place = Place::new();
    let purpose = place.signer(json!({})).unwrap().purpose("orders", Vec::new());
    let long = "x".repeat(8 << 10);
    let callers: Vec<_> = (0..4000).map(|_| alice()).collect();
    for caller in &callers {
        reuse.keep(&statement(&purpose, caller, 0), &long, after(60));
    }
    assert!(reuse.weight() <= 16 << 20, "{}", reuse.weight());
    assert!(reuse.weight() > 0);
}
