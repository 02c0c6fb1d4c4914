//! Consistent hashing (Ketama): the same key goes to the same backend, and a change of backends moves few keys.

use super::any_from;
use crate::pool::backend::Backend;
use pingora_load_balancing::Backend as RingBackend;
use pingora_load_balancing::selection::consistent::KetamaHashing;
use pingora_load_balancing::selection::{BackendIter, BackendSelection};
use portcullis_plugin::headers::is_name;
use portcullis_plugin::{ConfigError, Exchange, RequestHead};
use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// What is hashed. A request without the header or the cookie is hashed by its client's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HashKey {
    Client,
    Header(Box<str>),
    Cookie(Box<str>),
}

impl HashKey {
    /// # Errors
    /// If it is not `client`, `header.NAME` or `cookie.NAME`.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let named = |name: &str| is_name(name.as_bytes()).then(|| name.into());
        let key = match text.split_once('.') {
            None if text == "client" => Some(Self::Client),
            Some(("header", name)) => named(name).map(Self::Header),
            Some(("cookie", name)) => named(name).map(Self::Cookie),
            _ => None,
        };
        key.ok_or_else(|| ConfigError::new(format!("`{text}` cannot be hashed")).help("write client, header.NAME or cookie.NAME"))
    }

    /// Calls `then` with the key of a request.
    pub(super) fn with<T>(&self, request: &RequestHead, exchange: &Exchange, then: impl FnOnce(&[u8]) -> T) -> T {
        let value = match self {
            Self::Client => None,
            Self::Header(name) => request.headers().get(name),
            Self::Cookie(name) => cookie(request, name.as_bytes()),
        };
        match (value, exchange.client()) {
            (Some(value), _) if !value.is_empty() => then(value),
            (_, IpAddr::V4(ip)) => then(&ip.octets()),
            (_, IpAddr::V6(ip)) => then(&ip.octets()),
        }
    }
}

/// The value of the first cookie called `name` (RFC 6265, section 4.2.1).
fn cookie<'a>(request: &'a RequestHead, name: &[u8]) -> Option<&'a [u8]> {
    request.headers().get_all("cookie").flat_map(|field| field.split(|b| *b == b';')).find_map(|pair| {
        let pair = pair.trim_ascii();
        let equals = pair.iter().position(|b| *b == b'=')?;
        let (found, value) = pair.split_at_checked(equals)?;
        (found == name).then(|| value.get(1..)).flatten()
    })
}

/// Points on the ring for a weight of one; the algorithm is nginx's.
const POINTS: u64 = 160;
/// A ring has no more units of weight than this, so that it stays within some megabytes. Beyond it, shares are rounded.
const MOST_UNITS: u64 = 1 << 13;
/// Steps on the ring before everyone is asked in turn: only when nearly all are down or full.
const MOST_STEPS: u64 = 1 << 10;
/// The ring numbers its nodes with 16 bits.
const MOST_NODES: usize = u16::MAX as usize;

/// The ring of a pool's backends, the ones that are down included: a key's next backend is the next on the ring.
pub(super) struct Ring {
    ring: Arc<KetamaHashing>,
    /// Where an address stands among the pool's backends.
    indexes: HashMap<SocketAddr, usize, ahash::RandomState>,
    points: u64,
}

impl Ring {
    pub(super) fn new(members: &[Arc<Backend>]) -> Self {
        let mut indexes = HashMap::default();
        // Two entries may lead to one address, which has one place on the ring and both weights.
        let mut units: HashMap<SocketAddr, u64> = HashMap::new();
        for (index, backend) in members.iter().enumerate().filter(|(_, backend)| backend.weight() > 0) {
            if indexes.len() < MOST_NODES || indexes.contains_key(&backend.address()) {
                indexes.entry(backend.address()).or_insert(index);
                *units.entry(backend.address()).or_default() += u64::from(backend.weight());
            }
        }
        scale(&mut units);
        let nodes: BTreeSet<RingBackend> = units
            .iter()
            .filter_map(|(address, weight)| {
                RingBackend::new_with_weight(&address.to_string(), usize::try_from(*weight).ok()?).ok()
            })
            .collect();
        let points = units.values().sum::<u64>() * POINTS;
        Self { ring: Arc::new(KetamaHashing::build(&nodes)), indexes, points }
    }

    /// The first on the ring from `key` on that `take` takes.
    pub(super) fn choose<'a>(
        &self,
        members: &'a [Arc<Backend>],
        key: &[u8],
        take: impl Fn(&Backend) -> bool,
    ) -> Option<&'a Arc<Backend>> {
        let mut around = self.ring.iter(key);
        let mut last = None;
        for _ in 0..self.points.min(MOST_STEPS) {
            let index = self.indexes.get(around.next()?.addr.as_inet()?).copied();
            if last == index {
                continue;
            }
            last = index;
            if let Some(backend) = index.and_then(|index| members.get(index))
                && take(backend)
            {
                return Some(backend);
            }
        }
        any_from(members, last? + 1, |backend| backend.weight() > 0 && take(backend))
    }
}

/// Reduces weights to what a ring can hold.
fn scale(units: &mut HashMap<SocketAddr, u64>) {
    let divisor = units.values().fold(0, |a, b| gcd(a, *b)).max(1);
    units.values_mut().for_each(|weight| *weight /= divisor);
    let sum: u64 = units.values().sum();
    if sum > MOST_UNITS {
        units.values_mut().for_each(|weight| *weight = (*weight * MOST_UNITS / sum).max(1));
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_parsed_and_others_refused() {
        assert_eq!(HashKey::parse("client").unwrap(), HashKey::Client);
        assert_eq!(HashKey::parse("header.x-user").unwrap(), HashKey::Header("x-user".into()));
        assert_eq!(HashKey::parse("cookie.sid").unwrap(), HashKey::Cookie("sid".into()));
        for text in ["", "header", "header.", "header.a b", "client.x", "Header.x", "query.a"] {
            assert!(HashKey::parse(text).is_err(), "{text}");
        }
    }
}
