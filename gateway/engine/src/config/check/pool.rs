//! Pools, their backends and health checks.

use super::values::{absolute_path, at_least_one, is_token, not_empty, takes_time};
use crate::config::findings::Findings;
use crate::config::raw;
use portcullis_plugin::ConfigError;
use std::collections::BTreeSet;
use std::net::SocketAddr;

pub(super) fn check_pool(pool: &raw::Pool, findings: &mut Findings) {
    let raw::Pool {
        backends,
        balance,
        hash_key,
        health,
        timeouts,
        retries: _,
        tls,
        protocol: _,
        host,
        resolve_interval,
        keepalive: _,
    } = pool;
    check_backends(backends, findings);
    check_hash_key(*balance, hash_key.as_deref(), findings);
    if let Some(health) = health {
        findings.within("health", |findings| check_health(health, findings));
    }
    let raw::Timeouts { connect, read, write, total, tunnel } = timeouts;
    findings.within("timeouts", |findings| {
        takes_time("connect", *connect, findings);
        takes_time("read", *read, findings);
        takes_time("write", *write, findings);
        takes_time("tunnel", *tunnel, findings);
        total.iter().for_each(|total| takes_time("total", *total, findings));
    });
    if let Some(raw::UpstreamTls { ca, server_name, client_certificate }) = tls {
        findings.within("tls", |findings| {
            ca.iter().for_each(|ca| not_empty("ca", ca, findings));
            server_name.iter().for_each(|name| not_empty("server_name", name, findings));
            if let Some(raw::Certificate { cert, key }) = client_certificate {
                findings.within("client_certificate", |findings| {
                    not_empty("cert", cert, findings);
                    not_empty("key", key, findings);
                });
            }
        });
    }
    host.iter().for_each(|host| not_empty("host", host, findings));
    takes_time("resolve_interval", *resolve_interval, findings);
}

fn check_backends(backends: &[raw::Backend], findings: &mut Findings) {
    if backends.is_empty() {
        findings.refuse("backends", "the pool has no backend", "add one: `backends: [{ address: 127.0.0.1:9001 }]`");
    } else if backends.iter().all(|backend| backend.weight == 0) {
        findings.refuse("backends", "every backend has weight 0, so none gets requests", "give one of them a weight");
    }
    let mut seen = BTreeSet::new();
    for (index, raw::Backend { address, weight: _, max_requests }) in backends.iter().enumerate() {
        findings.within("backends", |findings| {
            findings.within(index, |findings| {
                if !is_host_and_port(address) {
                    findings.refuse(
                        "address",
                        format!("`{address}` is not an address with a port"),
                        "write `host:port`, `10.0.0.1:8080` or `[2001:db8::1]:8080`",
                    );
                } else if !seen.insert(address.to_ascii_lowercase()) {
                    findings.refuse(
                        "address",
                        format!("the backend `{address}` is listed twice"),
                        "to give it a larger share, raise its `weight`",
                    );
                }
                max_requests.iter().for_each(|most| at_least_one("max_requests", *most, findings));
            });
        });
    }
}

fn is_host_and_port(address: &str) -> bool {
    if let Ok(address) = address.parse::<SocketAddr>() {
        return address.port() != 0;
    }
    let Some((host, port)) = address.rsplit_once(':') else { return false };
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    let name = host.len() <= 253 && host.split('.').all(label);
    // `10.0.0.300` is not a name: it is an address with a slip.
    let numeric = host.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
    let digits = port.bytes().all(|b| b.is_ascii_digit());
    name && !numeric && digits && port.parse::<u16>().is_ok_and(|port| port != 0)
}

fn check_hash_key(balance: raw::Balance, hash_key: Option<&str>, findings: &mut Findings) {
    const HELP: &str = "write `client`, `header.NAME` or `cookie.NAME`";
    let Some(key) = hash_key else {
        if balance == raw::Balance::Hash {
            findings.refuse("balance", "`balance: hash` needs a `hash_key`", HELP);
        }
        return;
    };
    if balance != raw::Balance::Hash {
        findings.refuse(
            "hash_key",
            "`hash_key` has no effect without `balance: hash`",
            "add `balance: hash`, or remove `hash_key`",
        );
    }
    let name = key.strip_prefix("header.").or_else(|| key.strip_prefix("cookie."));
    if key != "client" && !name.is_some_and(is_token) {
        findings.refuse("hash_key", format!("`{key}` is nothing to hash"), HELP);
    }
}

fn check_health(health: &raw::Health, findings: &mut Findings) {
    let raw::Health { http, interval, timeout, healthy_after, unhealthy_after, start: _ } = health;
    takes_time("interval", *interval, findings);
    takes_time("timeout", *timeout, findings);
    for (key, value) in [("healthy_after", *healthy_after), ("unhealthy_after", *unhealthy_after)] {
        if value == 0 {
            findings.refuse(key, format!("`{key}` must be at least 1"), "1 believes a single check");
        }
    }
    if let Some(raw::HttpCheck { path, host, status, port }) = http {
        findings.within("http", |findings| {
            absolute_path("path", path, findings);
            host.iter().for_each(|host| not_empty("host", host, findings));
            for (index, status) in status.iter().enumerate() {
                if !(200..=599).contains(status) {
                    let error = ConfigError::new(format!("{status} is not the status of a response")).help("200 to 599");
                    findings.error(error.at(index).at("status"));
                }
            }
            if *port == Some(0) {
                findings.refuse("port", "port 0 cannot be asked", "leave it out for the backend's own port");
            }
        });
    }
}
