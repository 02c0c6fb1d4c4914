//! The keys of an issuer at one time, and how one set follows another.

use crate::algorithm::{Algorithm, Family};
use crate::jose::safe;
use crate::jwks::Key;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Never changed: another one takes its place.
pub(crate) struct KeySet {
    published: Vec<Arc<Key>>,
    retired: Vec<Retired>,
    /// The last good answer.
    fetched_at: Instant,
}

/// No longer published, still accepted.
#[derive(Clone)]
struct Retired {
    key: Arc<Key>,
    /// The first answer without it.
    missing_since: Instant,
}

/// What is looked for.
#[derive(Clone)]
pub(crate) struct Wanted {
    pub kid: Option<Box<str>>,
    pub algorithm: Algorithm,
}

pub(crate) enum Lookup {
    Found(Arc<Key>),
    /// The key is there, for another algorithm.
    OtherAlgorithm(Arc<Key>),
    Unknown {
        /// A key of another kind has the id.
        other_family: Option<Family>,
        /// How many keys a token without key id could mean.
        candidates: usize,
    },
    /// No keys, or too old ones.
    NoKeys,
}

/// A set, and what it changed.
pub(crate) struct Succession {
    pub set: KeySet,
    pub added: Vec<Arc<Key>>,
    /// No longer accepted.
    pub removed: Vec<Arc<Key>>,
}

impl KeySet {
    pub fn first(published: Vec<Arc<Key>>, fetched_at: Instant) -> Self {
        Self { published, retired: Vec::new(), fetched_at }
    }

    pub fn fetched_at(&self) -> Instant {
        self.fetched_at
    }

    pub fn len(&self) -> usize {
        self.published.len() + self.retired.len()
    }

    /// The same answer once more.
    pub fn confirmed(&self, now: Instant, retire_after: Duration) -> Succession {
        Self::succeed(Some(self), self.published.clone(), now, retire_after)
    }

    /// `published` takes the place of `before`.
    pub fn succeed(before: Option<&Self>, published: Vec<Arc<Key>>, now: Instant, retire_after: Duration) -> Succession {
        let (known, already_retired) = before.map_or((&[][..], &[][..]), |set| (&set.published[..], &set.retired[..]));
        let missing = known.iter().map(|key| Retired { key: Arc::clone(key), missing_since: now });
        let (mut retired, mut removed) = (Vec::new(), Vec::new());
        for old in already_retired.iter().cloned().chain(missing) {
            if published.iter().any(|key| key.is(&old.key)) {
                continue;
            }
            // A new key of the same id says that the old one is over.
            let replaced = published.iter().any(|key| key.kid() == old.key.kid() && key.family() == old.key.family());
            if now.saturating_duration_since(old.missing_since) < retire_after && !replaced {
                retired.push(old);
            } else {
                removed.push(old.key);
            }
        }
        let is_known = |key: &Key| known.iter().chain(already_retired.iter().map(|old| &old.key)).any(|other| other.is(key));
        let added = published.iter().filter(|key| !is_known(key)).cloned().collect();
        Succession { set: Self { published, retired, fetched_at: now }, added, removed }
    }

    /// For a finding: which there are.
    pub fn published(&self) -> &[Arc<Key>] {
        &self.published
    }

    pub fn find(&self, wanted: &Wanted) -> Lookup {
        let family = wanted.algorithm.family();
        let all = || self.published.iter().chain(self.retired.iter().map(|old| &old.key));
        let mut fitting = self.published.iter().filter(|key| key.allows(wanted.algorithm));
        let found = match wanted.kid.as_deref() {
            Some(kid) => all().find(|key| key.kid() == Some(kid) && key.family() == family),
            // Without a key id, only a set that leaves no choice names the key.
            None => fitting.next().filter(|_| fitting.next().is_none()),
        };
        match found {
            Some(key) if key.allows(wanted.algorithm) => Lookup::Found(Arc::clone(key)),
            Some(key) => Lookup::OtherAlgorithm(Arc::clone(key)),
            None => {
                let of_that_name = all().find(|key| wanted.kid.is_some() && key.kid() == wanted.kid.as_deref());
                let candidates = self.published.iter().filter(|key| key.allows(wanted.algorithm)).count();
                Lookup::Unknown { other_family: of_that_name.map(|key| key.family()), candidates }
            }
        }
    }
}

/// For the log.
pub(crate) fn names(keys: &[Arc<Key>]) -> String {
    keys.iter().map(|key| safe(key.kid().unwrap_or("(no kid)"))).collect::<Vec<_>>().join(" ")
}
