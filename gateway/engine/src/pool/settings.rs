//! A pool's configuration, checked: what it is allowed to say, and what follows from it.

use super::address::Address;
use super::balance::hash::HashKey;
use super::health::Check;
use super::peer::Peers;
use crate::config::raw;
use portcullis_plugin::units::TimeSpan;
use portcullis_plugin::{ConfigError, Env};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

/// More are refused: it would be a mistake in a generated file.
const MOST_BACKENDS: usize = 10_000;

/// What a pool is, apart from its backends.
pub(super) struct Settings {
    pub(super) balance: Balance,
    pub(super) health: Option<Arc<Check>>,
    pub(super) timeouts: Timeouts,
    pub(super) retries: usize,
    pub(super) host: Option<String>,
    pub(super) resolve_interval: Duration,
    pub(super) peers: Peers,
}

/// How long a backend may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeouts {
    /// For a connection, TLS included.
    pub connect: Duration,
    /// For one read.
    pub read: Duration,
    /// For one write.
    pub write: Duration,
    /// From the choice of a backend to the end of its response, retries included.
    pub total: Option<Duration>,
    /// For silence on an upgraded connection.
    pub tunnel: Duration,
}

pub(super) enum Balance {
    RoundRobin,
    LeastRequests,
    Random,
    Hash(HashKey),
}

/// One line of `backends`, read.
pub(super) struct Line {
    pub(super) address: Address,
    pub(super) weight: u32,
    pub(super) max_requests: Option<usize>,
}

impl Settings {
    pub(super) fn compile(name: &str, raw: raw::Pool, env: &Env) -> Result<(Self, Vec<Line>), ConfigError> {
        let raw::Pool {
            backends,
            balance,
            hash_key,
            health,
            timeouts,
            retries,
            tls,
            protocol,
            host,
            resolve_interval,
            keepalive,
        } = raw;
        let backends = lines(backends).map_err(|error| error.at("backends"))?;
        let balance = Balance::compile(balance, hash_key)?;
        let timeouts = Timeouts::compile(timeouts).map_err(|error| error.at("timeouts"))?;
        if let Some(host) = &host {
            check_authority(host).map_err(|error| error.at("host"))?;
        }
        let resolve_interval = positive(resolve_interval).map_err(|error| error.at("resolve_interval"))?;
        let keepalive = positive(keepalive).map_err(|error| error.at("keepalive"))?;
        let peers = Peers::compile(name, tls, protocol, &timeouts, keepalive, env)?;
        for (index, line) in backends.iter().enumerate() {
            peers.check(&line.address.host).map_err(|error| error.at("address").at(index).at("backends"))?;
        }
        let health = match health {
            Some(health) => {
                Some(Check::compile(health, host.as_deref(), &peers).map(Arc::new).map_err(|error| error.at("health"))?)
            }
            None => None,
        };
        Ok((Self { balance, health, timeouts, retries, host, resolve_interval, peers }, backends))
    }
}

fn lines(raw: Vec<raw::Backend>) -> Result<Vec<Line>, ConfigError> {
    if raw.is_empty() {
        return Err(ConfigError::new("a pool needs at least one backend"));
    }
    if raw.len() > MOST_BACKENDS {
        return Err(ConfigError::new(format!("{} backends are more than the {MOST_BACKENDS} a pool may have", raw.len())));
    }
    let mut seen = HashSet::new();
    let mut lines = Vec::with_capacity(raw.len());
    for (index, raw::Backend { address, weight, max_requests }) in raw.into_iter().enumerate() {
        let address = Address::parse(&address).map_err(|error| error.at("address").at(index))?;
        if !seen.insert(Arc::clone(&address.label)) {
            return Err(ConfigError::new(format!("`{}` is listed twice", address.label))
                .help("list it once, with the sum of the weights")
                .at("address")
                .at(index));
        }
        if max_requests == Some(0) {
            return Err(ConfigError::new("a backend that may have no request never gets one")
                .help("write `weight: 0` to take it out of service")
                .at("max_requests")
                .at(index));
        }
        lines.push(Line { address, weight, max_requests });
    }
    if lines.iter().all(|line| line.weight == 0) {
        return Err(ConfigError::new("every weight is 0: no backend would get a request").at("weight").at(0));
    }
    Ok(lines)
}

impl Balance {
    fn compile(raw: raw::Balance, hash_key: Option<String>) -> Result<Self, ConfigError> {
        let balance = match raw {
            raw::Balance::RoundRobin => Self::RoundRobin,
            raw::Balance::LeastRequests => Self::LeastRequests,
            raw::Balance::Random => Self::Random,
            raw::Balance::Hash => {
                let key = hash_key.ok_or_else(|| {
                    ConfigError::new("`balance: hash` needs `hash_key`")
                        .help("write client, header.NAME or cookie.NAME")
                        .at("balance")
                })?;
                return HashKey::parse(&key).map(Self::Hash).map_err(|error| error.at("hash_key"));
            }
        };
        match hash_key {
            None => Ok(balance),
            Some(_) => Err(ConfigError::new("`hash_key` does nothing without `balance: hash`").at("hash_key")),
        }
    }
}

impl Timeouts {
    fn compile(raw: raw::Timeouts) -> Result<Self, ConfigError> {
        let raw::Timeouts { connect, read, write, total, tunnel } = raw;
        Ok(Self {
            connect: positive(connect).map_err(|error| error.at("connect"))?,
            read: positive(read).map_err(|error| error.at("read"))?,
            write: positive(write).map_err(|error| error.at("write"))?,
            total: total.map(positive).transpose().map_err(|error| error.at("total"))?,
            tunnel: positive(tunnel).map_err(|error| error.at("tunnel"))?,
        })
    }
}

/// A length of time that is not none at all.
pub(super) fn positive(span: TimeSpan) -> Result<Duration, ConfigError> {
    match span.get() {
        Duration::ZERO => Err(ConfigError::new("this must be longer than 0").help("write a time such as 500ms or 30s")),
        length => Ok(length),
    }
}

/// Whether `host` can be sent as `Host`.
pub(super) fn check_authority(host: &str) -> Result<(), ConfigError> {
    let good = http::uri::Authority::try_from(host).is_ok_and(|authority| !authority.as_str().contains('@'));
    if good { Ok(()) } else { Err(ConfigError::new(format!("`{host}` is not a host")).help("write host or host:port")) }
}
