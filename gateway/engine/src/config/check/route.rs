//! Routes: where they lead, and whether a request can reach them.

use super::values::{absolute_path, is_token, not_empty, unique_names};
use crate::config::findings::Findings;
use crate::config::raw;
use portcullis_plugin::ConfigError;
use portcullis_plugin::error::unknown_name;
use std::collections::{BTreeMap, BTreeSet, HashMap};

pub(super) fn check_routes(
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
