//! The crate from outside in: a provider on a real socket, tokens signed here, the shapes of real products, and the
//! published vectors.

mod certificates;
mod configuration;
mod hostile;
mod introspection;
mod keyfile;
mod outage;
mod provider;
mod revocation;
mod rotation;
mod shapes;
pub(crate) mod signer;
mod vectors;

use crate::{Issuer, IssuerConfig, Issuers, Obtained, Verification, VerifiedToken};
use portcullis_plugin::env::Kept;
use portcullis_plugin::prometheus::Registry;
use portcullis_plugin::{CertificateStatus, Check, Connection, Env, Exchange, ReasonCode};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub(crate) const ISSUER: &str = "https://sso.example.com/realms/acme";
pub(crate) const AUDIENCE: &str = "orders-api";
/// Every test's present, so that none depends on the clock.
pub(crate) const NOW: u64 = 1_800_000_000;

pub(crate) fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(NOW)
}

/// What outlives reloads in a gateway.
#[derive(Default)]
pub(crate) struct World {
    pub kept: Arc<Kept>,
    pub registry: Registry,
}

impl World {
    pub fn env(&self) -> Env {
        Env::new(".", self.registry.clone(), Arc::clone(&self.kept))
    }

    /// Compiles as a reload does.
    pub fn load(&self, config: IssuerConfig) -> Arc<Issuers> {
        self.kept.begin();
        let issuers = Issuers::compile(&BTreeMap::from([("main".to_owned(), config)]), &self.env()).unwrap();
        self.kept.sweep();
        issuers
    }

    /// A metric's value as it is scraped.
    pub fn metric(&self, name: &str) -> Option<f64> {
        let family = self.registry.gather().into_iter().find(|family| family.name() == name)?;
        family.get_metric().first().map(|metric| metric.get_gauge().get_value())
    }
}

pub(crate) fn exchange_at(now: SystemTime) -> Exchange {
    let address = "127.0.0.1:1".parse().unwrap();
    let connection = Connection { listener: "test".into(), peer: address, source: address, local: address, tls: None };
    Exchange::new(Arc::new(connection), address.ip(), CertificateStatus::Missing, now)
}

pub(crate) fn exchange() -> Exchange {
    exchange_at(now())
}

/// An issuer with these keys and no network.
pub(crate) fn offline(config: IssuerConfig, jwks: &str) -> Arc<Issuer> {
    let configs = BTreeMap::from([("main".to_owned(), config)]);
    Issuers::offline(&configs, &World::default().env(), Some(jwks.as_bytes())).unwrap().get("main").unwrap()
}

/// The verdict, with the wait if one is asked for.
pub(crate) async fn verdict(issuer: &Arc<Issuer>, token: &str) -> Result<Arc<VerifiedToken>, ReasonCode> {
    let mut exchange = exchange();
    match issuer.verify(token, &mut exchange) {
        Verification::Verified(verified) => Ok(verified),
        Verification::Refused(reason) => Err(reason),
        Verification::Wait(keys) => {
            assert!(exchange.checks().is_empty(), "nothing may be recorded before the wait");
            let obtained = keys.await;
            issuer.verify_after_wait(token, obtained, &mut exchange)
        }
    }
}

/// The verdict and all checks, passed ones too.
pub(crate) fn explained(issuer: &Arc<Issuer>, token: &str) -> (Result<Arc<VerifiedToken>, ReasonCode>, Vec<Check>) {
    let mut exchange = exchange();
    exchange.driver_explain();
    let result = issuer.verify_after_wait(token, Obtained::default(), &mut exchange);
    (result, exchange.driver_take_checks())
}

/// Waits for a condition; a test that would wait for ever fails.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(60), waiting).await.is_ok(), "{what} did not come");
}

/// Data that is shared by several projects and not part of this one.
pub(crate) fn shared(path: &str) -> Option<String> {
    let base = std::env::var_os("SHARED_DIR")
        .map(PathBuf::from)
        .unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared"));
    match std::fs::read_to_string(base.join(path)) {
        Ok(text) => Some(text),
        Err(error) if std::env::var("CI").is_ok_and(|ci| ci == "true") => panic!("{path}: {error}"),
        Err(error) => {
            eprintln!("SKIPPED: {path} is not there ({error}); set SHARED_DIR");
            None
        }
    }
}
