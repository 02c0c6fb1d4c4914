//! What can be judged by looking at the raw configuration alone: that names are unique and lead somewhere, that values
//! make sense together, and that nothing in it is without effect.
//!
//! Each struct is taken apart field by field, so that a new key cannot be forgotten; `_` marks what is judged where it
//! is compiled.

use super::findings::Findings;
use super::raw::{self, Config};
use portcullis_plugin::error::unknown_name;
use portcullis_plugin::units::TimeSpan;
use portcullis_plugin::{ConfigError, Needs};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;

/// A head smaller than this holds no real request.
const MIN_HEADER_BYTES: u64 = 1024;

/// Judges the whole configuration.
pub fn check(raw: &Config, findings: &mut Findings) {
    let Config { include: _, listeners, admin, trusted_proxies: _, access_log, issuers, pools, routes, shutdown } = raw;
    if listeners.is_empty() {
        findings.error(
            ConfigError::new("no listener is configured").help("add one: `listeners: [{ name: http, address: 127.0.0.1:8080 }]`"),
        );
    }
    findings.within("listeners", |findings| {
        unique_names(listeners.iter().map(|listener| listener.name.as_str()), "listener", findings);
        for (index, listener) in listeners.iter().enumerate() {
            findings.within(index, |findings| check_listener(listener, findings));
        }
    });
    check_addresses(listeners, admin.as_ref(), findings);
    if let Some(admin) = admin {
        findings.within("admin", |findings| check_admin(admin, findings));
    }
    if let Some(raw::AccessLog { path, buffer }) = access_log {
        findings.within("access_log", |findings| {
            not_empty("path", path, findings);
            at_least_one("buffer", *buffer, findings);
        });
    }
    findings.within("issuers", |findings| issuers.keys().for_each(|name| check_name(name, name, findings)));
    findings.within("pools", |findings| {
        for (name, pool) in pools {
            check_name(name, name, findings);
            findings.within(name.as_str(), |findings| check_pool(pool, findings));
        }
    });
    check_routes(routes, listeners, pools, findings);
    // Zero is meant: stop without waiting.
    let raw::Shutdown { drain: _ } = shutdown;
}

/// Warns if a filter reads who is calling before any filter, of the listener or of the route, has found it out.
/// `filters` are those of one chain in order, by name; the client certificate counts as found before the first.
pub fn check_filter_order<'a>(
    already_authenticated: bool,
    filters: impl IntoIterator<Item = (&'a str, &'a Needs)>,
    findings: &mut Findings,
) {
    let filters: Vec<_> = filters.into_iter().collect();
    let mut authenticated = already_authenticated;
    for (index, (name, needs)) in filters.iter().enumerate() {
        authenticated |= needs.authenticates;
        let later = filters.iter().skip(index + 1).find(|(_, needs)| needs.authenticates);
        if let (true, false, Some((later, _))) = (needs.reads_identity, authenticated, later) {
            let warning =
                ConfigError::new(format!("`{name}` reads who is calling, and `{later}`, which finds it out, comes after it"))
                    .help(format!("put `{later}` before `{name}`"));
            findings.warning(warning.at(*name).at(index).at("filters"));
        }
    }
}

fn unique_names<'a>(names: impl Iterator<Item = &'a str>, what: &str, findings: &mut Findings) {
    let mut seen = HashMap::new();
    for (index, name) in names.enumerate() {
        findings.within(index, |findings| check_name("name", name, findings));
        if let Some(first) = seen.insert(name, index) {
            let message = format!("there are two {what}s named `{name}`");
            findings.error(ConfigError::new(message).help(format!("the other is number {}", first + 1)).at("name").at(index));
        }
    }
}

/// Names appear in metrics, logs and on terminals.
fn check_name(key: &str, name: &str, findings: &mut Findings) {
    if name.trim().is_empty() {
        findings.refuse(key, "a name must not be empty", "it appears in metrics and logs");
    } else if name.len() > 128 || name.chars().any(char::is_control) {
        findings.refuse(key, "the name is not printable, or longer than 128 bytes", "it appears in metrics and logs");
    }
}

fn not_empty(key: &str, value: &str, findings: &mut Findings) {
    if value.is_empty() {
        findings.refuse(key, format!("`{key}` is empty"), "give it a value, or remove it");
    }
}

fn at_least_one(key: &str, value: usize, findings: &mut Findings) {
    if value == 0 {
        findings.refuse(key, format!("`{key}` must be at least 1"), "leave it out for the default");
    }
}

fn takes_time(key: &str, value: TimeSpan, findings: &mut Findings) {
    if value.get().is_zero() {
        findings.refuse(key, format!("`{key}` must be longer than 0"), "leave it out for the default");
    }
}

fn absolute_path(key: &str, path: &str, findings: &mut Findings) {
    let clean = path.bytes().all(|b| b.is_ascii_graphic()) && !path.contains('#');
    if !path.starts_with('/') || !clean {
        findings.refuse(
            key,
            format!("`{path}` is not a path"),
            "write it as it stands in a request: it begins with `/`, and spaces and non-ASCII are percent-encoded",
        );
    }
}

fn check_listener(listener: &raw::Listener, findings: &mut Findings) {
    let raw::Listener { name: _, address: _, tls, proxy_protocol, h2c, filters: _, limits, normalise: _ } = listener;
    if let Some(tls) = tls {
        if *h2c {
            findings.refuse(
                "h2c",
                "`h2c` is HTTP/2 without TLS, and this listener has `tls`",
                "remove `h2c`: `tls.alpn` offers h2 by default",
            );
        }
        findings.within("tls", |findings| check_tls(tls, findings));
    }
    if let Some(raw::ProxyProtocol { trust }) = proxy_protocol
        && trust.is_empty()
    {
        findings.within("proxy_protocol", |findings| {
            findings.refuse(
                "trust",
                "nobody is trusted to send the header",
                "list the networks of the balancers in front, or remove `proxy_protocol`",
            );
        });
    }
    findings.within("limits", |findings| check_limits(limits, findings));
}

fn check_tls(tls: &raw::Tls, findings: &mut Findings) {
    let raw::Tls { certificates, client_auth, min_version: _, alpn } = tls;
    if certificates.is_empty() {
        findings.refuse(
            "certificates",
            "there is no certificate",
            "add one: `certificates: [{ cert: edge.pem, key: edge.key }]`",
        );
    }
    for (index, raw::Certificate { cert, key }) in certificates.iter().enumerate() {
        findings.within("certificates", |findings| {
            findings.within(index, |findings| {
                not_empty("cert", cert, findings);
                not_empty("key", key, findings);
            });
        });
    }
    if let Some(raw::ClientAuth { ca, crl, mode: _ }) = client_auth {
        findings.within("client_auth", |findings| {
            not_empty("ca", ca, findings);
            crl.iter().for_each(|crl| not_empty("crl", crl, findings));
        });
    }
    if alpn.is_empty() {
        findings.refuse("alpn", "no protocol is offered", "leave it out for `[h2, http/1.1]`");
    }
    if alpn.iter().enumerate().any(|(index, protocol)| alpn[..index].contains(protocol)) {
        findings.refuse("alpn", "a protocol is offered twice", "remove one of them");
    }
}

fn check_limits(limits: &raw::Limits, findings: &mut Findings) {
    let raw::Limits {
        connections,
        header_bytes,
        header_fields,
        body: _,
        handshake_timeout,
        header_timeout,
        idle_timeout,
        body_timeout,
        write_timeout,
        h2_streams,
    } = limits;
    at_least_one("connections", *connections, findings);
    at_least_one("header_fields", *header_fields, findings);
    if header_bytes.0 < MIN_HEADER_BYTES {
        findings.refuse("header_bytes", "`header_bytes` leaves no room for a request", "give it at least 1KiB");
    }
    takes_time("handshake_timeout", *handshake_timeout, findings);
    takes_time("header_timeout", *header_timeout, findings);
    takes_time("idle_timeout", *idle_timeout, findings);
    takes_time("body_timeout", *body_timeout, findings);
    takes_time("write_timeout", *write_timeout, findings);
    if *h2_streams == 0 {
        findings.refuse("h2_streams", "`h2_streams` must be at least 1", "to turn HTTP/2 off, leave `h2` out of `tls.alpn`");
    }
}

fn check_admin(admin: &raw::Admin, findings: &mut Findings) {
    let raw::Admin { address, token_file } = admin;
    match token_file {
        Some(file) => not_empty("token_file", file, findings),
        None if address.ip().to_canonical().is_loopback() => {}
        None => findings.refuse(
            "address",
            "the admin listener is reachable from other machines and asks for no authentication",
            "set `token_file`, or use a loopback address such as 127.0.0.1:9090",
        ),
    }
}

/// Two sockets cannot have the same address, nor one of them all addresses and the other one of these.
fn check_addresses(listeners: &[raw::Listener], admin: Option<&raw::Admin>, findings: &mut Findings) {
    let mut taken: Vec<(SocketAddr, &str)> = Vec::new();
    for (index, listener) in listeners.iter().enumerate() {
        if let Some(message) = collision(&taken, listener.address) {
            findings.error(ConfigError::new(message).at("address").at(index).at("listeners"));
        }
        taken.push((listener.address, &listener.name));
    }
    if let Some(message) = admin.and_then(|admin| collision(&taken, admin.address)) {
        findings.error(ConfigError::new(message).at("address").at("admin"));
    }
}

fn collision(taken: &[(SocketAddr, &str)], address: SocketAddr) -> Option<String> {
    let (known, name) = taken.iter().find(|(known, _)| {
        let (a, b) = (known.ip(), address.ip());
        let overlap = a == b || (a.is_ipv4() == b.is_ipv4() && (a.is_unspecified() || b.is_unspecified()));
        address.port() != 0 && known.port() == address.port() && overlap
    })?;
    Some(if *known == address {
        format!("the address {address} is already that of the listener `{name}`")
    } else {
        format!("the address {address} overlaps with {known} of the listener `{name}`")
    })
}

fn check_pool(pool: &raw::Pool, findings: &mut Findings) {
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
    let raw::Timeouts { connect, read, write, total } = timeouts;
    findings.within("timeouts", |findings| {
        takes_time("connect", *connect, findings);
        takes_time("read", *read, findings);
        takes_time("write", *write, findings);
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

/// RFC 9110, section 5.6.2.
fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
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

fn check_routes(
    routes: &[raw::Route],
    listeners: &[raw::Listener],
    pools: &BTreeMap<String, raw::Pool>,
    findings: &mut Findings,
) {
    if routes.is_empty() {
        findings.warning(ConfigError::new("there is no route, so every request is answered with 404").at("routes"));
    }
    let listener_names: Vec<&str> = listeners.iter().map(|listener| listener.name.as_str()).collect();
    let mut used = BTreeSet::new();
    findings.within("routes", |findings| {
        unique_names(routes.iter().map(|route| route.name.as_str()), "route", findings);
        for (index, route) in routes.iter().enumerate() {
            findings.within(index, |findings| check_route(route, &listener_names, pools, &mut used, findings));
        }
        check_reachable(routes, findings);
    });
    for name in pools.keys().filter(|name| !used.contains(name.as_str())) {
        let warning = ConfigError::new(format!("no route sends requests to the pool `{name}`"));
        findings.warning(warning.at(name.as_str()).at("pools"));
    }
    for (index, listener) in listeners.iter().enumerate() {
        let served = routes.iter().any(|route| route.listeners.is_empty() || route.listeners.contains(&listener.name));
        if !served && !routes.is_empty() {
            let message =
                format!("no route serves the listener `{}`, so every request to it is answered with 404", listener.name);
            findings.warning(ConfigError::new(message).at("name").at(index).at("listeners"));
        }
    }
}

fn check_route<'r>(
    route: &'r raw::Route,
    listener_names: &[&str],
    pools: &BTreeMap<String, raw::Pool>,
    used: &mut BTreeSet<&'r str>,
    findings: &mut Findings,
) {
    let raw::Route { name, matches, listeners, filters: _, pool, split, redirect, respond } = route;
    for (index, listener) in listeners.iter().enumerate() {
        if !listener_names.contains(&listener.as_str()) {
            findings.error(unknown_name("listener", listener, listener_names.iter().copied()).at(index).at("listeners"));
        } else if listeners[..index].contains(listener) {
            findings.error(ConfigError::new(format!("the listener `{listener}` is listed twice")).at(index).at("listeners"));
        }
    }
    check_match(matches, findings);
    let targets =
        [("pool", pool.is_some()), ("split", split.is_some()), ("redirect", redirect.is_some()), ("respond", respond.is_some())];
    let given: Vec<&str> = targets.iter().filter(|(_, given)| *given).map(|(key, _)| *key).collect();
    match given.as_slice() {
        [_] => {}
        [] => findings.error(
            ConfigError::new(format!("the route `{name}` leads nowhere"))
                .help("give it one of `pool`, `split`, `redirect` and `respond`"),
        ),
        [first, second, ..] => findings.refuse(
            *second,
            format!("the route `{name}` has both `{first}` and `{second}`"),
            "a route has one of `pool`, `split`, `redirect` and `respond`",
        ),
    }
    if let Some(pool) = pool {
        check_pool_name("pool", pool, pools, used, findings);
    }
    if let Some(shares) = split {
        check_split(shares, pools, used, findings);
    }
    if let Some(redirect) = redirect {
        findings.within("redirect", |findings| check_redirect(redirect, findings));
    }
    if let Some(respond) = respond {
        findings.within("respond", |findings| check_respond(respond, findings));
    }
}

fn check_pool_name<'r>(
    key: &str,
    name: &'r str,
    pools: &BTreeMap<String, raw::Pool>,
    used: &mut BTreeSet<&'r str>,
    findings: &mut Findings,
) {
    if pools.contains_key(name) {
        used.insert(name);
    } else {
        findings.error(unknown_name("pool", name, pools.keys().map(String::as_str)).at(key));
    }
}

/// What the router, which compiles it, has no reason to ask.
fn check_match(matches: &raw::Match, findings: &mut Findings) {
    let raw::Match { host: _, path, path_exact, path_regex: _, methods: _, headers: _, query: _ } = matches;
    findings.within("match", |findings| {
        path.iter().for_each(|path| absolute_path("path", path, findings));
        path_exact.iter().for_each(|path| absolute_path("path_exact", path, findings));
    });
}

fn check_split<'r>(
    shares: &'r [raw::Share],
    pools: &BTreeMap<String, raw::Pool>,
    used: &mut BTreeSet<&'r str>,
    findings: &mut Findings,
) {
    if shares.iter().all(|share| share.weight == 0) {
        findings.refuse("split", "no pool of the split gets requests", "give one of them a weight");
    }
    let mut seen = BTreeSet::new();
    for (index, raw::Share { pool, weight: _ }) in shares.iter().enumerate() {
        findings.within("split", |findings| {
            findings.within(index, |findings| {
                check_pool_name("pool", pool, pools, used, findings);
                if !seen.insert(pool) {
                    findings.refuse("pool", format!("the pool `{pool}` is listed twice"), "add up its weights");
                }
            });
        });
    }
}

fn check_redirect(redirect: &raw::Redirect, findings: &mut Findings) {
    let raw::Redirect { status, scheme, host, port, path, keep_query: _ } = redirect;
    if !matches!(status, 301 | 302 | 303 | 307 | 308) {
        findings.refuse("status", format!("{status} is not the status of a redirect"), "301, 302, 303, 307 or 308");
    }
    if scheme.is_none() && host.is_none() && port.is_none() && path.is_none() {
        findings.error(
            ConfigError::new("the redirect leads back to the same place")
                .help("change one of `scheme`, `host`, `port` and `path`"),
        );
    }
    host.iter().for_each(|host| not_empty("host", host, findings));
    if *port == Some(0) {
        findings.refuse("port", "port 0 is no place to go", "leave it out for the scheme's own port");
    }
    path.iter().for_each(|path| absolute_path("path", path, findings));
}

fn check_respond(respond: &raw::Respond, findings: &mut Findings) {
    let raw::Respond { status, body, content_type, headers } = respond;
    if !(200..=599).contains(status) {
        findings.refuse("status", format!("{status} is not the status of a response"), "200 to 599");
    }
    if matches!(status, 204 | 205 | 304) && !body.is_empty() {
        findings.refuse("body", format!("a response of status {status} has no body"), "remove `body`, or choose another status");
    }
    let is_value = |value: &str| value.bytes().all(|b| b == b'\t' || b == b' ' || b.is_ascii_graphic() || b >= 0x80);
    if let Some(value) = content_type
        && (value.is_empty() || !is_value(value))
    {
        findings.refuse("content_type", "this is not a content type", "such as `application/json`");
    }
    findings.within("headers", |findings| {
        for (name, value) in headers {
            // The gateway writes these itself; two that disagree split the response in two.
            let framing = ["connection", "content-length", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"];
            let lower = name.to_ascii_lowercase();
            if !is_token(name) {
                findings.refuse(name.as_str(), format!("`{name}` is not the name of a header"), "letters, digits and `-`");
            } else if framing.contains(&lower.as_str()) {
                findings.refuse(name.as_str(), format!("`{name}` is written by the gateway itself"), "remove it");
            } else if lower == "content-type" {
                findings.refuse(name.as_str(), "the content type has a key of its own", "use `content_type`");
            } else if !is_value(value) {
                findings.refuse(
                    name.as_str(),
                    format!("the value of `{name}` has characters that a header cannot have"),
                    "such as line breaks",
                );
            }
        }
    });
}

/// Among routes that match the same, the first in the file wins.
fn check_reachable(routes: &[raw::Route], findings: &mut Findings) {
    let mut earlier: HashMap<String, Vec<&raw::Route>> = HashMap::new();
    for (index, route) in routes.iter().enumerate() {
        let same = earlier.entry(match_key(&route.matches)).or_default();
        let covers = |first: &&&raw::Route| {
            first.listeners.is_empty()
                || (!route.listeners.is_empty() && route.listeners.iter().all(|name| first.listeners.contains(name)))
        };
        if let Some(first) = same.iter().find(covers) {
            let message =
                format!("the route `{}` is never reached: `{}` before it matches the same requests", route.name, first.name);
            findings.warning(ConfigError::new(message).at("name").at(index));
        }
        same.push(route);
    }
}

/// The same text for matches that mean the same.
fn match_key(matches: &raw::Match) -> String {
    let raw::Match { host, path, path_exact, path_regex, methods, headers, query } = matches;
    let hosts: BTreeSet<String> = host.iter().map(|host| host.to_ascii_lowercase()).collect();
    let methods: BTreeSet<&String> = methods.iter().collect();
    let headers: BTreeMap<String, &String> = headers.iter().map(|(name, value)| (name.to_ascii_lowercase(), value)).collect();
    format!("{:?}", (hosts, path, path_exact, path_regex, methods, headers, query))
}
