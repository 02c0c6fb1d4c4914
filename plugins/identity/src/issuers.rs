//! The issuers of a configuration, and the tasks that keep their keys fresh.

use crate::cache::TokenCache;
use crate::config::IssuerConfig;
use crate::dpop::ProofState;
use crate::guesses::Guesses;
use crate::introspection::{self, Introspector};
use crate::jwks;
use crate::keyfile::KeyFile;
use crate::pace::Pace;
use crate::revocation::{self, NotRevoked, Revocations, Revoked, Told};
use crate::settings::{self, Compiled, KeyOrigin, Settings};
use crate::store::{KeyStore, Outcomes};
use portcullis_plugin::{ConfigError, Env, Exchange};
use prometheus::{IntGauge, IntGaugeVec};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

/// How often a task looks whether a fetch is due, and brings the metrics up to date.
const TICK: Duration = Duration::from_secs(1);

/// The issuers of one configuration, by name.
pub struct Issuers {
    issuers: BTreeMap<String, Arc<Issuer>>,
    proofs: Arc<ProofState>,
    revocations: Arc<Revocations>,
    /// The issuers in the order of their places in the guesses; both are empty if there is nothing to guess.
    guessed: Vec<Arc<Issuer>>,
    guesses: Option<Arc<Guesses>>,
}

/// One issuer: what its tokens are held against, and its keys.
pub struct Issuer {
    name: Arc<str>,
    settings: Settings,
    store: Arc<KeyStore>,
    cache: Option<TokenCache>,
    introspector: Option<Arc<Introspector>>,
    revocations: Arc<Revocations>,
    /// Where to note what this issuer verified, and as which; nowhere if it is the only one.
    guesses: Option<(Arc<Guesses>, usize)>,
    key_file: Option<Arc<KeyFile>>,
    gauges: Option<Arc<Gauges>>,
    started: AtomicBool,
    /// Which start of an issuer of this name it was.
    turn: AtomicU64,
}

impl Issuers {
    /// Compiles the `issuers` of a configuration. Fetches nothing: an issuer that is away is no error of the
    /// configuration. Keys that are already known stay known, if what says where they come from has not changed.
    ///
    /// # Errors
    /// The path of an error starts with `issuers`.
    pub fn compile(configs: &BTreeMap<String, IssuerConfig>, env: &Env) -> Result<Arc<Self>, ConfigError> {
        Self::compile_with(configs, env, |_| {})
    }

    /// As [`compile`](Self::compile), for somebody who wants to know and no client that waits: a slow issuer is waited for
    /// until `timeout` says that it will not answer, not until `max_wait`. For `explain`.
    ///
    /// # Errors
    /// As `compile`.
    pub fn patient(configs: &BTreeMap<String, IssuerConfig>, env: &Env) -> Result<Arc<Self>, ConfigError> {
        // The discovery document, then the keys.
        Self::compile_with(configs, env, |pace| pace.max_wait = pace.max_wait.max(pace.timeout.saturating_mul(2) + TICK))
    }

    fn compile_with(
        configs: &BTreeMap<String, IssuerConfig>,
        env: &Env,
        change: impl Fn(&mut Pace),
    ) -> Result<Arc<Self>, ConfigError> {
        let issuers = configs
            .iter()
            .map(|(name, config)| match Issuer::compile(name, config, env) {
                Ok(mut issuer) => {
                    change(&mut issuer.settings.pace);
                    Ok((name.clone(), issuer))
                }
                Err(error) => Err(error.at(name.as_str()).at("issuers")),
            })
            .collect::<Result<_, _>>()?;
        let fresh = ProofState::new()?;
        let proofs = env.keep("dpop", || Arc::new(fresh)).as_ref().clone();
        let fresh = Revocations::counted(env)?;
        let revocations = env.keep("revocations", || Arc::new(fresh)).as_ref().clone();
        Ok(Arc::new(Self::new(issuers, proofs, revocations)))
    }

    /// As [`compile`](Self::compile), but nothing will ever be fetched: `jwks` holds the keys of every issuer that has no
    /// `jwks_file`. Without it such issuers have none, and answer `issuer.unavailable`. For `explain`.
    ///
    /// # Errors
    /// As `compile`; and if `jwks` gives an issuer no usable key.
    pub fn offline(configs: &BTreeMap<String, IssuerConfig>, env: &Env, jwks: Option<&[u8]>) -> Result<Arc<Self>, ConfigError> {
        let mut issuers = BTreeMap::new();
        for (name, config) in configs {
            let compiled = settings::compile(config, env).map_err(|error| error.at(name.as_str()).at("issuers"))?;
            let Compiled { settings, keys: origin, introspection } = compiled;
            let keys = match (origin, jwks) {
                (KeyOrigin::File(parsed), _) => Some(parsed),
                (KeyOrigin::Network(..), None) => None,
                (KeyOrigin::Network(..), Some(bytes)) => Some(jwks::parse(bytes, &config.issuer).map_err(|error| {
                    ConfigError::new(format!("the keys that were given for it (`--jwks`) cannot be used: {error}"))
                        .help("give a key set as the issuer publishes it, or leave `--jwks` out")
                        .at(name.as_str())
                        .at("issuers")
                })?),
            };
            let store = Arc::new(KeyStore::given(name.as_str().into(), keys));
            let introspector = introspection.map(|settings| Introspector::offline(name.as_str().into(), settings));
            issuers.insert(name.clone(), Issuer::new(name, settings, store, introspector, None));
        }
        Ok(Arc::new(Self::new(issuers, Arc::new(ProofState::new()?), Arc::new(Revocations::new()))))
    }

    fn new(mut issuers: BTreeMap<String, Issuer>, proofs: Arc<ProofState>, revocations: Arc<Revocations>) -> Self {
        let guesses = (issuers.len() > 1).then(|| Arc::new(Guesses::new()));
        for (place, issuer) in issuers.values_mut().enumerate() {
            issuer.revocations = Arc::clone(&revocations);
            issuer.guesses = guesses.clone().map(|guesses| (guesses, place));
        }
        let issuers: BTreeMap<_, _> = issuers.into_iter().map(|(name, issuer)| (name, Arc::new(issuer))).collect();
        let guessed = if guesses.is_some() { issuers.values().cloned().collect() } else { Vec::new() };
        Self { issuers, proofs, revocations, guessed, guesses }
    }

    /// The issuer that has verified this token and still accepts it, found without reading the token. `None` says nothing:
    /// then the token's `iss` tells whom to ask. Always `None` while explaining, when everything is looked at anew.
    pub fn who_knows(&self, token: &str, exchange: &Exchange) -> Option<&Arc<Issuer>> {
        let issuer = self.guessed.get(self.guesses.as_ref()?.guess(token)?)?;
        issuer.recall(token, exchange).is_some().then_some(issuer)
    }

    pub fn get(&self, name: &str) -> Option<Arc<Issuer>> {
        self.issuers.get(name).cloned()
    }

    /// What is remembered of DPoP proofs: one memory for all issuers and routes, over reloads.
    pub fn proofs(&self) -> &Arc<ProofState> {
        &self.proofs
    }

    /// What is remembered of revocations: one memory for all issuers, over reloads.
    pub fn revocations(&self) -> &Arc<Revocations> {
        &self.revocations
    }

    /// Somebody who may says so: whatever was decided about the token before is forgotten, and it is refused from now on. `keep`
    /// is how long what has no end of its own is remembered, and `most` the number of revocations that may be.
    ///
    /// # Errors
    /// If there is no room, or nobody here is that issuer. What was decided about a token is forgotten all the same.
    pub fn revoke(&self, revoked: Revoked<'_>, now: SystemTime, keep: Duration, most: usize) -> Result<Told, NotRevoked> {
        let mut end: Option<SystemTime> = None;
        match revoked {
            Revoked::Token(token) => {
                for issuer in self.issuers.values() {
                    if let Some(cache) = &issuer.cache {
                        cache.remove(token);
                    }
                    let told = issuer.introspector.as_ref().and_then(|asked| asked.forget(token));
                    end = end.max(told.and_then(revocation::after_the_end));
                }
            }
            // An id that nobody's tokens have would be a revocation without effect.
            Revoked::Id { issuer, .. } if !self.issuers.values().any(|known| known.is_named(issuer)) => {
                return Err(NotRevoked::UnknownIssuer(issuer.chars().filter(|c| !c.is_control()).take(200).collect()));
            }
            Revoked::Id { .. } => {}
        }
        self.revocations.revoke(revoked, now, keep, end, most)
    }

    /// In alphabetical order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.issuers.keys().map(String::as_str)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Issuer>> {
        self.issuers.values()
    }

    /// Starts fetching, now and from then on. To be called on a tokio runtime, once the configuration takes effect; a
    /// second call does nothing. Each task ends within a second after its issuer is dropped.
    pub fn start(&self) {
        for issuer in self.issuers.values() {
            issuer.start();
        }
    }
}

impl Issuer {
    fn compile(name: &str, config: &IssuerConfig, env: &Env) -> Result<Self, ConfigError> {
        let Compiled { settings, keys, introspection } = settings::compile(config, env)?;
        let gauges = Gauges::new(name, env)?;
        let mut key_file = None;
        let store = match keys {
            KeyOrigin::File(parsed) => Arc::new(KeyStore::given(name.into(), Some(parsed))),
            KeyOrigin::Network(source, identity, file) => {
                let fetches = env.counter(
                    "portcullis_issuer_fetches_total",
                    "Fetches of an issuer's keys, by outcome (ok or error).",
                    &["issuer", "outcome"],
                )?;
                let outcomes = Outcomes {
                    good: fetches.with_label_values(&[name, "ok"]),
                    failed: fetches.with_label_values(&[name, "error"]),
                };
                let store = env.keep(&format!("issuer/{name}/keys/{}", identity.as_str()), || {
                    let store = KeyStore::fetched(name.into(), *source, Some(outcomes));
                    if let Some(file) = &file {
                        store.restore(file, &settings.pace);
                    }
                    Arc::new(store)
                });
                key_file = file;
                store.as_ref().clone()
            }
        };
        let introspector = match introspection {
            Some(settings) => Some(Introspector::new(name.into(), settings, Some(introspection_outcomes(name, env)?))),
            None => None,
        };
        Ok(Self { key_file, ..Self::new(name, settings, store, introspector, Some(gauges)) })
    }

    fn new(
        name: &str,
        settings: Settings,
        store: Arc<KeyStore>,
        introspector: Option<Introspector>,
        gauges: Option<Arc<Gauges>>,
    ) -> Self {
        Self {
            name: name.into(),
            cache: TokenCache::new(settings.cache),
            settings,
            store,
            introspector: introspector.map(Arc::new),
            // Replaced by the one of all of them.
            revocations: Arc::new(Revocations::new()),
            guesses: None,
            key_file: None,
            gauges,
            started: AtomicBool::new(false),
            turn: AtomicU64::new(0),
        }
    }

    /// The name in the configuration.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The identifier, as in `iss`; with `{tenantid}` in it if it stands for several tenants.
    pub fn identifier(&self) -> &Arc<str> {
        &self.settings.issuer
    }

    /// Whether it stands for several tenants.
    pub fn is_template(&self) -> bool {
        self.settings.template.is_some()
    }

    /// Whether it judges tokens with this `iss`.
    pub fn is_named(&self, iss: &str) -> bool {
        match &self.settings.template {
            Some(template) => template.tenant_in(iss).is_some(),
            None => *self.settings.issuer == *iss,
        }
    }

    pub fn audiences(&self) -> impl Iterator<Item = &str> {
        self.settings.audiences.iter().map(|audience| &**audience)
    }

    /// Where the scopes of its tokens are read, for a finding.
    pub fn scope_places(&self) -> String {
        self.settings.mapping.scope_places()
    }

    /// As [`scope_places`](Self::scope_places), of the roles.
    pub fn role_places(&self) -> String {
        self.settings.mapping.role_places()
    }

    /// Whether there are keys that may be used now.
    pub fn is_ready(&self) -> bool {
        self.store.usable(&self.settings.pace).is_some()
    }

    /// Whether it judges tokens that are no JWTs, by asking the issuer.
    pub fn introspects(&self) -> bool {
        self.introspector.is_some()
    }

    pub(crate) fn introspector(&self) -> Option<&Arc<Introspector>> {
        self.introspector.as_ref()
    }

    pub(crate) fn revocations(&self) -> &Revocations {
        &self.revocations
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(crate) fn store(&self) -> &Arc<KeyStore> {
        &self.store
    }

    pub(crate) fn cache(&self) -> Option<&TokenCache> {
        self.cache.as_ref()
    }

    /// For the next time that the token comes, and nobody knows yet whose it is.
    pub(crate) fn note_mine(&self, token: &str) {
        if let Some((guesses, place)) = &self.guesses {
            guesses.note(token, *place);
        }
    }

    fn start(self: &Arc<Self>) {
        if self.started.swap(true, Ordering::AcqRel) {
            return;
        }
        if let Some(gauges) = &self.gauges {
            self.turn.store(gauges.turn.fetch_add(1, Ordering::AcqRel) + 1, Ordering::Release);
        }
        if tokio::runtime::Handle::try_current().is_err() {
            tracing::error!(issuer = %self.name, "not on a tokio runtime: keys will not be fetched");
            return;
        }
        // Only a configuration that runs writes: `check` and `explain` leave no files behind.
        self.store.keep_in(self.key_file.clone());
        self.publish();
        tokio::spawn(keep_fresh(Arc::downgrade(self)));
    }

    /// Only the issuer that was started last speaks for its name: one of an earlier configuration may still be in use
    /// by long requests.
    fn publish(&self) {
        if let Some(gauges) = &self.gauges
            && gauges.turn.load(Ordering::Acquire) == self.turn.load(Ordering::Acquire)
        {
            gauges.set(self.store.count(), self.store.age());
        }
    }
}

fn introspection_outcomes(name: &str, env: &Env) -> Result<introspection::Outcomes, ConfigError> {
    let counter = env.counter(
        "portcullis_issuer_introspections_total",
        "Questions to an issuer about a token, by outcome (active, inactive or error).",
        &["issuer", "outcome"],
    )?;
    let of = |outcome| counter.with_label_values(&[name, outcome]);
    Ok(introspection::Outcomes { active: of("active"), inactive: of("inactive"), failed: of("error") })
}

/// Holds the issuer only for moments, so that a reload can drop it at any time.
async fn keep_fresh(issuer: Weak<Issuer>) {
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let Some(strong) = issuer.upgrade() else { return };
        let fetch = strong.store.refresh_if_due(&strong.settings.pace);
        strong.publish();
        drop(strong);
        if let Some(fetch) = fetch {
            fetch.await;
            if let Some(strong) = issuer.upgrade() {
                strong.publish();
            }
        }
    }
}

/// The metrics of one issuer. Kept over reloads; gone with the last configuration that has the issuer.
struct Gauges {
    name: String,
    keys: IntGaugeVec,
    age: IntGaugeVec,
    /// Resolved once: no look-up by name afterwards.
    keys_here: IntGauge,
    turn: AtomicU64,
}

impl Gauges {
    fn new(name: &str, env: &Env) -> Result<Arc<Self>, ConfigError> {
        let keys = env.gauge("portcullis_issuer_keys", "Keys of an issuer that can verify tokens.", &["issuer"])?;
        let age = env.gauge(
            "portcullis_issuer_keys_age_seconds",
            "Seconds since an issuer last gave its keys; absent if it never did, or if they come from a file.",
            &["issuer"],
        )?;
        let kept = env.keep(&format!("issuer/{name}/gauges"), || {
            Arc::new(Self {
                name: name.to_owned(),
                keys_here: keys.with_label_values(&[name]),
                keys,
                age,
                turn: AtomicU64::new(0),
            })
        });
        Ok(kept.as_ref().clone())
    }

    fn set(&self, keys: usize, age: Option<Duration>) {
        self.keys_here.set(i64::try_from(keys).unwrap_or(i64::MAX));
        match age {
            Some(age) => self.age.with_label_values(&[&self.name]).set(i64::try_from(age.as_secs()).unwrap_or(i64::MAX)),
            None => {
                let _ = self.age.remove_label_values(&[&self.name]);
            }
        }
    }
}

impl Drop for Gauges {
    fn drop(&mut self) {
        let _ = self.keys.remove_label_values(&[&self.name]);
        let _ = self.age.remove_label_values(&[&self.name]);
    }
}
