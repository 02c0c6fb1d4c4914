//! What is told of a refusal or a failure of the gateway's own, where no filter made a check: what was expected, what was
//! seen, and what to do. [`rescue`](crate::rescue) says what the client learns of it.

use crate::access_log::redact;
use crate::config::snapshot::ListenerPlan;
use crate::exchange::{Traffic, Upstream};
use crate::rescue::Cause;
use portcullis_plugin::{Exchange, Finding, RequestHead};

/// What was known when it happened.
pub struct Facts<'a> {
    pub plan: &'a ListenerPlan,
    pub request: &'a RequestHead,
    pub exchange: &'a Exchange,
    pub upstream: &'a Upstream,
    pub traffic: Traffic,
}

/// Who checked (in the place of a filter's name), what, and what came of it. `None`: the check is there already, or there
/// is nothing to know.
pub fn finding(cause: &Cause, facts: &Facts<'_>) -> Option<(&'static str, &'static str, Finding)> {
    let Facts { plan, request, exchange, .. } = facts;
    let told = match cause {
        Cause::NoRoute => {
            let expected = format!("a route of listener {} for this host and path", plan.settings.name);
            let hint = "compare with what `portcullis check` says each route matches; a path is a prefix by whole segments";
            ("route", "match", Finding::new(expected, target(request)).hint(hint))
        }
        Cause::MethodNotAllowed { allow } => {
            let hint = "the rest of the route's `match` holds: add the method to its `methods`, if it is meant";
            ("route", "method", Finding::new(format!("one of {allow}"), request.method().to_string()).hint(hint))
        }
        Cause::Misdirected => {
            let sni = exchange.connection().tls.as_ref().and_then(|tls| tls.sni.as_deref()).unwrap_or("none");
            let observed = format!("host {}, on a connection opened for {sni}", request.host());
            let hint = "the two have certificates of their own, so the client opens another connection, which browsers do by \
                        themselves; else look for a proxy in front that mixes them";
            ("listener", "server_name", Finding::new("a host of the connection's own certificate", observed).hint(hint))
        }
        Cause::RequestTimeout => {
            let observed = format!("a longer silence after {} bytes", facts.traffic.bytes_in);
            let expected = format!("the next piece of the body within {:?}", plan.settings.limits.body_timeout.get());
            (
                "listener",
                "body_timeout",
                Finding::new(expected, observed).hint("raise `limits.body_timeout`, if such clients are meant"),
            )
        }
        Cause::BodyTooLarge => {
            let expected = format!("a body of at most {} bytes", plan.body_limit.unwrap_or_default());
            let observed = match facts.traffic.bytes_in {
                0 => "a longer one, by its `Content-Length`".to_owned(),
                bytes => format!("{bytes} bytes, and perhaps more"),
            };
            (
                "listener",
                "body",
                Finding::new(expected, observed).hint("raise the listener's `limits.body`, if such requests are meant"),
            )
        }
        cause => return upstream(cause, facts),
    };
    Some(told)
}

fn upstream(cause: &Cause, facts: &Facts<'_>) -> Option<(&'static str, &'static str, Finding)> {
    let pool = facts.upstream.pool.as_ref();
    let name = pool.map_or("?", |pool| pool.name());
    let backend = facts.upstream.backend.as_deref().unwrap_or("?");
    let attempts = facts.upstream.attempts;
    let trouble = |otherwise: &str| facts.upstream.trouble.clone().unwrap_or_else(|| otherwise.to_owned());
    let tried = if attempts > 1 { format!(", the last of {attempts} that were tried") } else { String::new() };
    let told = match cause {
        Cause::NoHealthyBackend => {
            let hint = "the gateway's own log says when and why each went down; portcullis_backend_up shows it now";
            let observed = if attempts == 0 { "none" } else { "none but those that were tried" };
            ("pool", "healthy", Finding::new(format!("a healthy backend in pool {name}"), observed).hint(hint))
        }
        Cause::Connect => {
            let limit = pool.map(|pool| format!(" within {:?}", pool.timeouts().connect)).unwrap_or_default();
            let hint = "does it listen, is it reachable from here, and does its TLS fit the pool's `tls`? The gateway's log has more \
                        at PORTCULLIS_LOG=debug";
            let expected = format!("a connection to {backend}{limit}");
            ("pool", "connect", Finding::new(expected, format!("{}{tried}", trouble("it failed, or took longer"))).hint(hint))
        }
        Cause::UpstreamTimeout => {
            let limits = pool.map(|pool| pool.timeouts()).map(|timeouts| match timeouts.total {
                Some(total) => format!(", each read within {:?} and all of it within {total:?}", timeouts.read),
                None => format!(", each read within {:?}", timeouts.read),
            });
            let expected = format!("an answer from {backend}{}", limits.unwrap_or_default());
            let hint = "look at the backend under the decision id; raise the pool's `timeouts`, if it may take longer";
            ("pool", "timeout", Finding::new(expected, format!("{}{tried}", trouble("it took longer"))).hint(hint))
        }
        Cause::UpstreamReset => {
            let hint = "look at the backend's log under the decision id: it crashed, restarted, or closes idle connections sooner than the \
                        pool's `keepalive` does";
            let expected = format!("a whole response from {backend}");
            ("pool", "response", Finding::new(expected, format!("the connection ended before{tried}")).hint(hint))
        }
        Cause::UpstreamInvalid => {
            let expected = format!("one HTTP response from {backend} that can be read in one way only");
            let hint =
                "ask the backend without the gateway (`curl -v`): look for two lengths, a broken header, or no HTTP at all";
            ("pool", "response", Finding::new(expected, trouble("what it sent is not that")).hint(hint))
        }
        _ => return None,
    };
    Some(told)
}

/// `GET api.example.com/orders`, with what looks like a secret replaced.
fn target(request: &RequestHead) -> String {
    let path = redact::path(request.path().as_bytes());
    format!("{} {}{}", request.method(), request.host(), String::from_utf8_lossy(&path))
}
