//! The keys of one issuer: which are known, how old they may be, and when to ask for them again.
//!
//! The rules, in the order of what they protect:
//!
//! 1. Only an answer with usable keys takes the place of known ones. An error status, HTML, an empty set never does.
//! 2. Known keys go on verifying while the issuer is away, for a bounded time.
//! 3. At most one fetch is under way; whoever needs keys waits for that one, for a bounded time.
//! 4. A token with an unknown key id may cause a fetch, from a budget that a flood of such tokens cannot exceed.

use crate::discovery;
use crate::fetch::{Client, FetchError, Fetched};
use crate::jose;
use crate::jwks::{self, Dropped, Key};
use crate::keyfile::KeyFile;
use crate::keyset::{self, KeySet, Lookup, Succession, Wanted};
use crate::pace::{self, Budget, Clock, Pace};
use crate::spoken;
use arc_swap::ArcSwapOption;
use aws_lc_rs::digest;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use parking_lot::Mutex;
use prometheus::IntCounter;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::oneshot;
use url::Url;

/// Where keys come from.
pub(crate) enum Source {
    /// The address stands in the issuer's discovery document.
    Discovery {
        document: Url,
        issuer: Arc<str>,
        client: Client,
    },
    Keys {
        url: Url,
        issuer: Arc<str>,
        client: Client,
    },
    /// Given once: a file, or the key set of `explain`. Never asked for, never old.
    Given,
}

/// Everything that decides which keys are fetched. As long as it stays the same, keys survive a reload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeyIdentity(String);

impl KeyIdentity {
    pub fn new(issuer: &str, how: &str, address: &str, roots: Option<&[u8]>, insecure: bool) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        for part in [issuer.as_bytes(), how.as_bytes(), address.as_bytes(), roots.unwrap_or_default()] {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        context.update(&[u8::from(roots.is_some()), u8::from(insecure)]);
        Self(context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

type Done = Shared<BoxFuture<'static, ()>>;

/// Shared by all snapshots of a configuration that use the issuer.
pub(crate) struct KeyStore {
    name: Arc<str>,
    source: Source,
    current: ArcSwapOption<KeySet>,
    removals: AtomicU64,
    hasher: ahash::RandomState,
    clock: Clock,
    outcomes: Option<Outcomes>,
    /// By how many seconds this machine's clock is ahead of the issuer's; [`UNKNOWN`] before its first answer.
    ahead: AtomicI64,
    writing: tokio::sync::Mutex<()>,
    state: Mutex<State>,
}

/// Fetches, counted.
pub(crate) struct Outcomes {
    pub good: IntCounter,
    pub failed: IntCounter,
}

struct State {
    in_flight: Option<Done>,
    next_refresh: Instant,
    failures: u32,
    last_error: Option<Arc<str>>,
    document_error: Option<Arc<str>>,
    budget: Budget,
    /// Key ids that the issuer was asked for and does not have, by hash; and since when that is known.
    unknown: HashMap<u64, Instant>,
    discovered: Option<Discovered>,
    keys_etag: Option<(Url, Box<str>)>,
    dropped: Vec<Dropped>,
    /// The last good answer, for the file.
    answer: Option<Bytes>,
    file: Option<Arc<KeyFile>>,
    file_error: Option<String>,
}

#[derive(Clone)]
struct Discovered {
    keys: Url,
    read_at: Instant,
}

/// A discovery document is read again after this time, or when the keys cannot be fetched where it says.
const DISCOVERY_AGE: Duration = Duration::from_secs(3600);
const MOST_UNKNOWN: usize = 1024;
const UNKNOWN: i64 = i64::MIN;

impl KeyStore {
    pub fn fetched(name: Arc<str>, source: Source, outcomes: Option<Outcomes>) -> Self {
        let clock = Clock::default();
        let now = clock.now();
        Self {
            name,
            source,
            current: ArcSwapOption::empty(),
            removals: AtomicU64::new(0),
            hasher: ahash::RandomState::new(),
            state: Mutex::new(State {
                in_flight: None,
                next_refresh: now,
                failures: 0,
                last_error: None,
                document_error: None,
                budget: Budget::full(now),
                unknown: HashMap::new(),
                discovered: None,
                keys_etag: None,
                dropped: Vec::new(),
                answer: None,
                file: None,
                file_error: None,
            }),
            clock,
            outcomes,
            ahead: AtomicI64::new(UNKNOWN),
            writing: tokio::sync::Mutex::default(),
        }
    }

    /// Keys that are given once. `None`: there are none, and nobody to ask.
    pub fn given(name: Arc<str>, keys: Option<jwks::Parsed>) -> Self {
        let store = Self::fetched(name, Source::Given, None);
        if let Some(parsed) = keys {
            store.log_dropped(&parsed.dropped);
            store.current.store(Some(Arc::new(KeySet::first(parsed.keys, store.clock.now()))));
        }
        store
    }

    /// Begins with the keys of a file, if they are good and young enough. The issuer is asked at once all the same.
    pub fn restore(&self, file: &KeyFile, pace: &Pace) {
        let path = file.path().display();
        match file.read(SystemTime::now(), pace.max_stale) {
            Ok(None) => {}
            Ok(Some((parsed, age))) => {
                let Some(fetched_at) = self.clock.now().checked_sub(age) else { return };
                self.log_dropped(&parsed.dropped);
                let age = Duration::from_secs(age.as_secs());
                tracing::info!(issuer = %self.name, keys = parsed.keys.len(), ?age, "begins with the keys of the key cache");
                self.current.store(Some(Arc::new(KeySet::first(parsed.keys, fetched_at))));
            }
            Err(error) => tracing::warn!(issuer = %self.name, file = %path, %error, "the key cache is ignored"),
        }
    }

    /// Where good answers are written down from now on.
    pub fn keep_in(&self, file: Option<Arc<KeyFile>>) {
        self.state.lock().file = file;
    }

    async fn write_down(&self) {
        // In turn, so that an older answer never takes the place of a newer one.
        let _turn = self.writing.lock().await;
        let (file, answer) = {
            let state = self.state.lock();
            (state.file.clone(), state.answer.clone())
        };
        let (Some(file), Some(answer)) = (file, answer) else { return };
        let written = tokio::task::spawn_blocking(move || file.write(&answer, SystemTime::now()).map_err(|error| (file, error)));
        let failed = match written.await {
            Ok(Err((file, error))) => Some(format!("{}: {error}", file.path().display())),
            Ok(Ok(())) | Err(_) => None,
        };
        let mut state = self.state.lock();
        // One line for each cause: an answer comes every few minutes.
        if let Some(error) = failed.as_ref().filter(|_| state.file_error != failed) {
            tracing::warn!(issuer = %self.name, %error, "the key cache cannot be written");
        }
        state.file_error = failed;
    }

    fn compare_clocks(&self, date: Option<SystemTime>) {
        let Some(date) = date else { return };
        let now = SystemTime::now();
        let seconds = |span: Duration| i64::try_from(span.as_secs()).unwrap_or(i64::MAX);
        let ahead = now.duration_since(date).map_or_else(|behind| -seconds(behind.duration()), seconds);
        self.ahead.store(ahead, Ordering::Relaxed);
    }

    /// By how many seconds this machine's clock was ahead of the issuer's at its last answer. A few seconds are nothing:
    /// `Date` has whole ones, and the answer took its time.
    pub fn ahead(&self) -> Option<i64> {
        Some(self.ahead.load(Ordering::Relaxed)).filter(|ahead| *ahead != UNKNOWN)
    }

    fn is_given(&self) -> bool {
        matches!(self.source, Source::Given)
    }

    /// Grows whenever a key ceases to be accepted; whoever verified something before must do it again.
    pub fn removals(&self) -> u64 {
        self.removals.load(Ordering::Acquire)
    }

    /// The keys, if they are not older than allowed.
    pub fn usable(&self, pace: &Pace) -> Option<arc_swap::Guard<Option<Arc<KeySet>>>> {
        let guard = self.current.load();
        let set = guard.as_ref()?;
        (self.is_given() || self.age_of(set) <= pace.max_stale).then_some(guard)
    }

    pub fn count(&self) -> usize {
        self.current.load().as_ref().map_or(0, |set| set.len())
    }

    /// The time since the last good answer; `None` if there was none, or if the keys were given.
    pub fn age(&self) -> Option<Duration> {
        if self.is_given() {
            return None;
        }
        self.current.load().as_ref().map(|set| self.age_of(set))
    }

    fn age_of(&self, set: &KeySet) -> Duration {
        self.clock.now().saturating_duration_since(set.fetched_at())
    }

    pub fn last_error(&self) -> Option<Arc<str>> {
        self.state.lock().last_error.clone()
    }

    /// Why the discovery document cannot be used, though keys were fetched from where it said before.
    pub fn document_error(&self) -> Option<Arc<str>> {
        self.state.lock().document_error.clone()
    }

    /// Whether a fetch is under way.
    pub fn is_asking(&self) -> bool {
        self.state.lock().in_flight.is_some()
    }

    /// For a finding: the ids of the first few published keys, and how old that answer is.
    pub fn published(&self) -> String {
        const SHOWN: usize = 5;
        let guard = self.current.load();
        let Some(set) = guard.as_ref() else { return "none".to_owned() };
        let shown: Vec<String> =
            set.published().iter().take(SHOWN).map(|key| jose::safe(key.kid().unwrap_or("(no kid)"))).collect();
        let more = set.published().len() - shown.len();
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let age = self.age().map(|age| format!(", fetched {} ago", spoken::span(age))).unwrap_or_default();
        format!("{}{more}{age}", shown.join(", "))
    }

    /// Why a published key of that id is not used.
    pub fn why_dropped(&self, kid: &str) -> Option<&'static str> {
        let kid = jose::safe(kid);
        self.state.lock().dropped.iter().find(|key| key.kid == kid).map(|key| key.why)
    }

    pub fn find(&self, wanted: &Wanted, pace: &Pace) -> Lookup {
        match self.usable(pace).as_deref() {
            Some(Some(set)) => set.find(wanted),
            _ => Lookup::NoKeys,
        }
    }

    /// Whether waiting could bring what is wanted.
    pub fn may_ask(&self, wanted: &Wanted, pace: &Pace) -> bool {
        if self.is_given() || tokio::runtime::Handle::try_current().is_err() {
            return false;
        }
        let state = self.state.lock();
        state.in_flight.is_some() || self.may_start(&state, wanted, pace)
    }

    /// The last attempt failed or is not over: what is missing may well exist.
    pub fn is_away(&self) -> bool {
        let state = self.state.lock();
        state.failures > 0 || state.in_flight.is_some()
    }

    /// Remembers that the issuer was asked and does not have it.
    pub fn remember_unknown(&self, wanted: &Wanted) {
        let now = self.clock.now();
        let hash = self.hash(wanted);
        let mut state = self.state.lock();
        if state.unknown.len() < MOST_UNKNOWN {
            state.unknown.insert(hash, now);
        }
    }

    /// Waits until what is wanted is there, or cannot be had for now. Bounded by the caller.
    pub async fn obtain(self: Arc<Self>, wanted: Wanted, pace: Pace) {
        // Twice: a fetch that was already under way may have started before the key was published.
        for _ in 0..2 {
            let (done, own) = {
                let mut state = self.state.lock();
                match state.in_flight.clone() {
                    Some(done) => (done, false),
                    None => {
                        if !self.may_start(&state, &wanted, &pace) {
                            return;
                        }
                        if self.usable(&pace).is_some() {
                            state.budget.take(self.clock.now(), pace.refetch_interval);
                        }
                        (self.start(&mut state, &pace), true)
                    }
                }
            };
            done.await;
            if own || !matches!(self.find(&wanted, &pace), Lookup::Unknown { .. } | Lookup::NoKeys) {
                return;
            }
        }
    }

    /// A signature did not fit a key of that id: the issuer may have put another key under the same id. Nobody waits.
    pub fn suspect(self: &Arc<Self>, pace: &Pace) {
        if self.is_given() || tokio::runtime::Handle::try_current().is_err() {
            return;
        }
        let now = self.clock.now();
        let mut state = self.state.lock();
        let backing_off = state.failures > 0 && now < state.next_refresh;
        if state.in_flight.is_none() && !backing_off && state.budget.take(now, pace.refetch_interval) {
            drop(self.start(&mut state, pace));
        }
    }

    /// Starts the regular fetch if it is due; the future ends with it.
    pub fn refresh_if_due(self: &Arc<Self>, pace: &Pace) -> Option<Done> {
        if self.is_given() {
            return None;
        }
        let mut state = self.state.lock();
        if state.in_flight.is_some() || self.clock.now() < state.next_refresh {
            return None;
        }
        Some(self.start(&mut state, pace))
    }

    fn may_start(&self, state: &State, wanted: &Wanted, pace: &Pace) -> bool {
        let now = self.clock.now();
        if state.failures > 0 && now < state.next_refresh {
            return false;
        }
        if self.usable(pace).is_none() {
            return true;
        }
        let asked =
            state.unknown.get(&self.hash(wanted)).is_some_and(|at| now.saturating_duration_since(*at) < pace.refetch_interval);
        !asked && state.budget.has_one(now, pace.refetch_interval)
    }

    fn hash(&self, wanted: &Wanted) -> u64 {
        self.hasher.hash_one((&wanted.kid, wanted.algorithm.family()))
    }

    /// The fetch is a task of its own: a client that goes away does not end what others wait for.
    fn start(self: &Arc<Self>, state: &mut State, pace: &Pace) -> Done {
        let (finished, done) = oneshot::channel::<()>();
        let done: Done = done.map(|_| ()).boxed().shared();
        state.in_flight = Some(done.clone());
        let flight = Flight { store: Arc::clone(self), finished: Some(finished) };
        let pace = pace.clone();
        tokio::spawn(async move {
            let result = flight.store.fetch(&pace).await;
            let good = result.is_ok();
            flight.store.land(result, &pace);
            // Nobody waits for a disk.
            let store = Arc::clone(&flight.store);
            drop(flight);
            if good {
                store.write_down().await;
            }
        });
        done
    }

    async fn fetch(&self, pace: &Pace) -> Result<Answer, FetchError> {
        let (client, issuer, url) = match &self.source {
            Source::Given => return Ok(Answer::Unchanged { max_age: None }),
            Source::Keys { url, issuer, client } => (client, issuer, url.clone()),
            Source::Discovery { document, issuer, client } => {
                (client, issuer, self.discovered_address(document, issuer, client, pace).await?)
            }
        };
        let etag = {
            let state = self.state.lock();
            let known = state.keys_etag.as_ref().filter(|(at, _)| *at == url).map(|(_, etag)| etag.clone());
            known.filter(|_| self.current.load().is_some())
        };
        match client.get(&url, etag.as_deref(), pace.timeout).await? {
            Fetched::NotModified { max_age, date } => {
                self.compare_clocks(date);
                Ok(Answer::Unchanged { max_age })
            }
            Fetched::Fresh { body, etag, max_age, date } => {
                let parsed = jwks::parse(&body, issuer)
                    .map_err(|error| FetchError::Unusable { url: url.clone(), cause: error.to_string() })?;
                self.compare_clocks(date);
                let etag = etag.map(|etag| (url, etag));
                Ok(Answer::Keys { parsed, body, etag, max_age })
            }
        }
    }

    async fn discovered_address(&self, document: &Url, issuer: &str, client: &Client, pace: &Pace) -> Result<Url, FetchError> {
        let known = {
            let state = self.state.lock();
            let fresh = |found: &Discovered| self.clock.now().saturating_duration_since(found.read_at) < DISCOVERY_AGE;
            match &state.discovered {
                Some(found) if state.failures == 0 && fresh(found) => return Ok(found.keys.clone()),
                other => other.clone(),
            }
        };
        let read = client
            .get(document, None, pace.timeout)
            .await
            .and_then(|fetched| fetched.body(document))
            .and_then(|body| discovery::keys_address(&body, document, issuer, client.trust()));
        match (read, known) {
            (Ok(keys), _) => {
                let read_at = self.clock.now();
                let mut state = self.state.lock();
                state.discovered = Some(Discovered { keys: keys.clone(), read_at });
                state.document_error = None;
                Ok(keys)
            }
            // The keys may be had though the document is not, where it last said.
            (Err(error), Some(found)) => {
                tracing::warn!(issuer = %self.name, %error, "the discovery document cannot be read; asking for keys at the last known address");
                self.state.lock().document_error = Some(error.to_string().into());
                Ok(found.keys)
            }
            (Err(error), None) => Err(error),
        }
    }

    fn land(&self, result: Result<Answer, FetchError>, pace: &Pace) {
        let now = self.clock.now();
        if let Some(outcomes) = &self.outcomes {
            let counter = if result.is_ok() { &outcomes.good } else { &outcomes.failed };
            counter.inc();
        }
        let news = match result {
            Ok(answer) => {
                let (news, max_age, etag) = match answer {
                    Answer::Unchanged { max_age } => (self.unchanged(now, pace), max_age, None),
                    Answer::Keys { parsed, body, etag, max_age } => {
                        self.state.lock().answer = Some(body);
                        self.log_dropped(&parsed.dropped);
                        (self.replace(parsed.keys, now, pace), max_age, Some(etag))
                    }
                };
                let mut state = self.state.lock();
                if state.failures > 0 {
                    tracing::info!(issuer = %self.name, failures = state.failures, "the issuer answers again");
                }
                state.failures = 0;
                state.last_error = None;
                state.next_refresh = now + pace.next_refresh(max_age);
                if let Some(etag) = etag {
                    state.keys_etag = etag;
                }
                news
            }
            Err(error) => {
                let mut state = self.state.lock();
                state.failures = state.failures.saturating_add(1);
                let retry = pace::retry_after(state.failures);
                state.next_refresh = now + retry;
                state.last_error = Some(error.to_string().into());
                tracing::warn!(issuer = %self.name, %error, failures = state.failures, ?retry, known_keys = self.count(), "keys cannot be fetched");
                false
            }
        };
        let mut state = self.state.lock();
        if news {
            state.budget.refund();
            state.unknown.clear();
        }
        state.unknown.retain(|_, at| now.saturating_duration_since(*at) < pace.refetch_interval);
    }

    /// The same keys, confirmed.
    fn unchanged(&self, now: Instant, pace: &Pace) -> bool {
        let before = self.current.load_full();
        before.is_some_and(|set| self.follow(set.confirmed(now, pace.retire_after)))
    }

    fn replace(&self, published: Vec<Arc<Key>>, now: Instant, pace: &Pace) -> bool {
        let before = self.current.load_full();
        self.follow(KeySet::succeed(before.as_deref(), published, now, pace.retire_after))
    }

    /// True if a key is new.
    fn follow(&self, Succession { set, added, removed }: Succession) -> bool {
        if !added.is_empty() || !removed.is_empty() {
            let (added, removed) = (keyset::names(&added), keyset::names(&removed));
            tracing::info!(issuer = %self.name, %added, %removed, "the issuer's keys have changed");
        }
        self.current.store(Some(Arc::new(set)));
        // After the keys: whoever reads the new number cannot have verified with the old keys.
        if !removed.is_empty() {
            self.removals.fetch_add(1, Ordering::AcqRel);
        }
        !added.is_empty()
    }

    /// One line for each, and only when it changes: a set is fetched every few minutes.
    fn log_dropped(&self, dropped: &[Dropped]) {
        let mut state = self.state.lock();
        for key in dropped.iter().filter(|key| !state.dropped.contains(key)) {
            tracing::warn!(issuer = %self.name, kid = %key.kid, why = key.why, "a published key is not used");
        }
        state.dropped = dropped.to_vec();
    }

    #[cfg(test)]
    pub fn clock(&self) -> &Clock {
        &self.clock
    }
}

enum Answer {
    Unchanged { max_age: Option<Duration> },
    Keys { parsed: jwks::Parsed, body: Bytes, etag: Option<(Url, Box<str>)>, max_age: Option<Duration> },
}

/// However the task ends, also by a panic or with its runtime, the way is free for the next fetch.
struct Flight {
    store: Arc<KeyStore>,
    finished: Option<oneshot::Sender<()>>,
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.store.state.lock().in_flight = None;
        if let Some(finished) = self.finished.take() {
            let _ = finished.send(());
        }
    }
}
