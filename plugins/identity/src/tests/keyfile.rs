//! Keys that outlive the process; and the issuer's clock.

use super::provider::{Answer, Provider};
use super::signer::{Signer, jwks};
use super::{AUDIENCE, NOW, World, explained, until, verdict};
use crate::{IssuerConfig, Issuers};
use portcullis_plugin::reason;
use portcullis_plugin::units::TimeSpan;
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

fn config(provider: &Provider, folder: &Path) -> IssuerConfig {
    let mut config = IssuerConfig::new(provider.issuer(), [AUDIENCE]);
    config.key_cache = Some(folder.to_str().unwrap().to_owned());
    config.max_stale = Some(TimeSpan::secs(3600));
    config.timeout = Some(TimeSpan::millis(300));
    config
}

/// A process that begins with this folder.
fn process(config: IssuerConfig) -> Arc<Issuers> {
    World::default().load(config)
}

fn files(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder).map(|entries| entries.map(|entry| entry.unwrap().path()).collect()).unwrap_or_default()
}

fn token(signer: &Signer, provider: &Provider) -> String {
    signer.token(&json!({ "iss": provider.issuer() }))
}

fn seconds_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// A file as a gateway has written it while the provider was there. It is gone afterwards.
async fn written(folder: &Path) -> (Signer, Provider, PathBuf) {
    let key = Signer::new("a");
    let mut provider = Provider::start(&[&key]).await;
    let issuers = process(config(&provider, folder));
    assert!(files(folder).is_empty(), "what does not run writes nothing");
    issuers.start();
    until("the file", || files(folder).iter().any(|file| file.extension().is_some_and(|ext| ext == "json"))).await;
    provider.stop().await;
    let file = files(folder).remove(0);
    (key, provider, file)
}

#[tokio::test]
async fn a_gateway_that_starts_while_its_provider_is_down_verifies_with_the_keys_of_before() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("new/keys");
    let (key, mut provider, file) = written(&folder).await;
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
    let issuers = process(config(&provider, &folder));
    let issuer = issuers.get("main").unwrap();
    assert!(issuer.is_ready());
    verdict(&issuer, &token(&key, &provider)).await.unwrap();
    let stranger = Signer::new("a");
    assert_eq!(verdict(&issuer, &token(&stranger, &provider)).await.unwrap_err(), reason::TOKEN_SIGNATURE_INVALID);
    // The time that counts is that of the answer.
    issuer.store().clock().advance(std::time::Duration::from_secs(3601));
    assert_eq!(verdict(&issuer, &token(&key, &provider)).await.unwrap_err(), reason::ISSUER_UNAVAILABLE);

    // The provider comes back with other keys: those of the file are over.
    let new = Signer::new("new");
    provider.publish(&[&new]);
    provider.restart().await;
    let issuers = process(config(&provider, &folder));
    issuers.start();
    let issuer = issuers.get("main").unwrap();
    until("the new keys", || issuer.store().age().is_some_and(|age| age.as_secs() < 1) && !issuer.store().is_away()).await;
    verdict(&issuer, &token(&new, &provider)).await.unwrap();
    assert_eq!(verdict(&issuer, &token(&key, &provider)).await.unwrap_err(), reason::TOKEN_KID_UNKNOWN);
}

#[tokio::test]
async fn a_file_that_does_not_fit_is_as_good_as_none() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("keys");
    let (key, provider, file) = written(&folder).await;
    let good = std::fs::read_to_string(&file).unwrap();
    let attacker = jwks(&[Signer::new("a").jwk()]);
    let with = |name: &str, value: Value| {
        let mut content: Value = serde_json::from_str(&good).unwrap();
        content[name] = value;
        content.to_string()
    };
    let ready = |text: &str| {
        std::fs::write(&file, text).unwrap();
        process(config(&provider, &folder)).get("main").unwrap().is_ready()
    };
    assert!(ready(&good) && ready(&with("fetched_at", (seconds_now() - 3500).into())));
    for (name, text) in [
        ("empty", String::new()),
        ("half", good[..good.len() / 2].to_owned()),
        ("another issuer's", with("issuer", "https://other.example".into())),
        ("from another address", with("source", "00".into())),
        ("too old", with("fetched_at", (seconds_now() - 3700).into())),
        ("from the future", with("fetched_at", (seconds_now() + 3600).into())),
        ("out of time", with("fetched_at", u64::MAX.into())),
        ("without keys", with("jwks", r#"{"keys":[]}"#.into())),
        ("of another version", with("form", 2.into())),
        ("with more in it", with("more", 1.into())),
        ("two answers", good.replacen('{', &format!("{{\"jwks\":{},", json!(attacker)), 1)),
        ("huge", good.clone() + &" ".repeat(7 * crate::fetch::MOST_BYTES)),
    ] {
        assert!(!ready(&text), "{name}");
    }
    assert!(ready(&good));
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o666)).unwrap();
    assert!(!ready(&good), "anybody could have written it");
    let issuers = process(config(&provider, &folder));
    assert_eq!(verdict(&issuers.get("main").unwrap(), &token(&key, &provider)).await.unwrap_err(), reason::ISSUER_UNAVAILABLE);
}

#[tokio::test]
async fn a_folder_that_others_can_write_to_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let provider = Provider::start(&[]).await;
    let refused = |folder: &Path| {
        let configs = [("main".to_owned(), config(&provider, folder))].into();
        let error = Issuers::compile(&configs, &World::default().env()).err().unwrap();
        assert_eq!(error.dotted_path(), "issuers.main.key_cache");
        error.to_string()
    };
    let folder = root.path().join("keys");
    std::fs::create_dir(&folder).unwrap();
    for mode in [0o777, 0o770, 0o1777] {
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(mode)).unwrap();
        assert!(refused(&folder).contains("forge"));
    }
    let file = root.path().join("file");
    std::fs::write(&file, "").unwrap();
    refused(&file);
}

#[tokio::test]
async fn a_clock_that_differs_from_the_issuers_is_named() {
    let key = Signer::new("a");
    let late = json!({ "exp": NOW - 90 });
    let early = json!({ "nbf": NOW + 90 });
    for (by, changes, hint) in [
        (-95, &late, "95 s ahead of the issuer's"),
        (95, &early, "95 s behind the issuer's"),
        // The other way around the clocks are not what is wrong; nor if they agree.
        (95, &late, "refresh the token earlier"),
        (0, &late, "refresh the token earlier"),
    ] {
        let provider = Provider::start(&[&key]).await;
        provider.answer_keys(Answer::Dated(jwks(&[key.jwk()]), by));
        let issuer = process(IssuerConfig::new(provider.issuer(), [AUDIENCE])).get("main").unwrap();
        verdict(&issuer, &token(&key, &provider)).await.unwrap();
        let mut claims = changes.clone();
        claims["iss"] = provider.issuer().into();
        let (result, checks) = explained(&issuer, &key.token(&claims));
        assert!(result.is_err());
        let failed: Vec<_> = checks.iter().filter(|check| !check.ok).collect();
        assert_eq!(failed.len(), 1);
        let shown = format!("{:?}", failed[0]).replace("96 s", "95 s").replace("94 s", "95 s");
        assert!(shown.contains(hint), "{by}: {shown}");
    }
}
