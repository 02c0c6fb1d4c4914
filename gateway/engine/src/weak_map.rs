//! Values by key, each for as long as somebody else holds it: what outlives a reload because both sides of it use it.

use ahash::AHashMap;
use parking_lot::Mutex;
use std::hash::Hash;
use std::sync::{Arc, Weak};

/// Fewer entries are not worth looking through for ended ones.
const SMALL: usize = 64;

pub(crate) struct WeakMap<K, V>(Mutex<Entries<K, V>>);

struct Entries<K, V> {
    known: AHashMap<K, Weak<V>>,
    /// With so many entries, the ended ones are removed. Twice what was left the last time: looked through for each new
    /// key, ten thousand keys would take a hundred million looks.
    sweep_at: usize,
}

impl<K, V> Default for WeakMap<K, V> {
    fn default() -> Self {
        Self(Mutex::new(Entries { known: AHashMap::new(), sweep_at: SMALL }))
    }
}

impl<K: Eq + Hash, V> WeakMap<K, V> {
    /// The value that is in use under this key, or a new one.
    pub(crate) fn get(&self, key: K, make: impl FnOnce() -> V) -> Arc<V> {
        let mut entries = self.0.lock();
        if let Some(value) = entries.known.get(&key).and_then(Weak::upgrade) {
            return value;
        }
        if entries.known.len() >= entries.sweep_at {
            entries.known.retain(|_, value| value.strong_count() > 0);
            entries.sweep_at = (entries.known.len() * 2).max(SMALL);
        }
        let value = Arc::new(make());
        entries.known.insert(key, Arc::downgrade(&value));
        value
    }

    /// Every value that somebody holds.
    pub(crate) fn all(&self) -> Vec<Arc<V>> {
        self.0.lock().known.values().filter_map(Weak::upgrade).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_one_value_as_long_as_somebody_holds_it() {
        let map = WeakMap::default();
        let first = map.get("a", || 1);
        assert!(Arc::ptr_eq(&first, &map.get("a", || 2)));
        drop(first);
        assert_eq!(*map.get("a", || 3), 3);
    }

    #[test]
    fn ended_values_do_not_pile_up_and_held_ones_stay() {
        let map = WeakMap::default();
        let held: Vec<_> = (0..1_000).map(|key| map.get(key, || key)).collect();
        for key in 1_000..100_000 {
            map.get(key, || key);
            assert!(map.0.lock().known.len() <= 2 * held.len());
        }
        assert!(held.iter().all(|value| Arc::ptr_eq(value, &map.get(**value, || usize::MAX))));
    }

    #[test]
    fn many_keys_are_looked_through_a_few_times_only() {
        let map = WeakMap::default();
        let (mut sweeps, mut before) = (0, SMALL);
        let _held: Vec<_> = (0..10_000)
            .map(|key| {
                let value = map.get(key, || key);
                let now = map.0.lock().sweep_at;
                sweeps += usize::from(std::mem::replace(&mut before, now) != now);
                value
            })
            .collect();
        assert!((1..=8).contains(&sweeps), "{sweeps}");
    }
}
