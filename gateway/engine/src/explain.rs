//! What would happen to one request, and why: the same exchange as on the wire, with no network behind it.

use crate::config::snapshot::{ListenerPlan, Snapshot};
use crate::exchange::{Next, Run};
use crate::http1::{self, Parsed};
use crate::normalise;
use crate::refusals;
use crate::route::Hinges;
use portcullis_plugin::{CertificateStatus, Check, Connection, Exchange, RequestHead, Scheme, Shadowed, TlsFacts};
use rustls_pki_types::CertificateDer;
use serde::Serialize;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::SystemTime;

/// A request to be explained.
#[derive(Debug, Clone)]
pub struct Query {
    /// `http://` or `https://`, host, path and query.
    pub url: String,
    pub method: String,
    /// Name and value, as they would be sent.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The client's certificate chain, leaf first; empty for none.
    pub certificate: Vec<CertificateDer<'static>>,
    pub client: IpAddr,
    /// The time by which expiry is judged.
    pub at: SystemTime,
    /// The listener it arrives at. Default: the first that speaks the URL's scheme, on its port if it names one.
    pub listener: Option<String>,
}

/// The answer. Serialised, it is what the contract promises.
#[derive(Debug, Clone, Serialize)]
pub struct Explanation {
    /// For people; the contract's JSON has no such member.
    #[serde(skip)]
    pub listener: String,
    pub route: Option<String>,
    /// `allow`, `deny` or `error`.
    pub verdict: &'static str,
    /// What the gateway itself would answer. `None`: the upstream answers.
    pub status: Option<u16>,
    pub reason: Option<&'static str>,
    pub checks: Vec<Check>,
    /// What filters in shadow mode would have done; where there is none, no member of the JSON.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub shadow: Vec<Shadowed>,
    /// What the upstream would get. Credentials are not shown.
    pub upstream_headers: BTreeMap<String, serde_json::Value>,
    pub pool: Option<String>,
    /// What of the request the choice of the route hinged on.
    #[serde(skip)]
    pub hinges: Hinges,
}

impl Explanation {
    pub fn is_allowed(&self) -> bool {
        self.verdict == "allow"
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    #[error("`{0}` is not an http or https URL; write one such as https://api.example.com/orders?x=1")]
    Url(String),
    #[error("no listener is called `{0}`")]
    UnknownListener(String),
    #[error("the configuration has no listener that speaks {0}")]
    NoListener(&'static str),
}

/// Judges `query` by `snapshot`.
///
/// # Errors
/// If the query itself cannot be used. A request that would be refused is an answer, not an error.
pub async fn explain(snapshot: &Arc<Snapshot>, query: &Query) -> Result<Explanation, ExplainError> {
    rehearse(snapshot, query, |_| {}).await
}

/// As [`explain`], for filters that are to find something in the exchange.
///
/// # Errors
/// As [`explain`].
pub async fn rehearse(
    snapshot: &Arc<Snapshot>,
    query: &Query,
    prepare: impl FnOnce(&mut Exchange),
) -> Result<Explanation, ExplainError> {
    let refuse = || ExplainError::Url(query.url.clone());
    let (scheme, rest) = query.url.split_once("://").ok_or_else(refuse)?;
    let scheme = match scheme {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        _ => return Err(refuse()),
    };
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, target) = rest.split_at(end);
    if authority.is_empty() {
        return Err(refuse());
    }
    let target = target.split('#').next().unwrap_or_default();
    let target = if target.starts_with('/') { target.to_owned() } else { format!("/{target}") };
    let plan = listener(snapshot, query, scheme, authority)?;
    // As on the wire, the connection says what the scheme is.
    let scheme = if plan.settings.tls.is_some() { Scheme::Https } else { Scheme::Http };

    let mut head = format!("{} {target} HTTP/1.1\r\n", query.method).into_bytes();
    if !query.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        head.extend_from_slice(format!("Host: {authority}\r\n").as_bytes());
    }
    for (name, value) in &query.headers {
        head.extend_from_slice(name.as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value);
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    let normalised = match http1::Parser::default().parse(&head, &plan.head_limits) {
        Ok(Parsed::Complete { head, .. }) => normalise::http1(head, scheme, &plan.policy),
        // A value with a line break of its own.
        Ok(Parsed::Partial) => Err(normalise::Refusal::ambiguous("one request head", "a broken one")),
        Err(refusal) => Err(refusal),
    };
    let (request, framing) = match normalised {
        Ok(normalised) => normalised,
        Err(refusal) => {
            return Ok(Explanation {
                listener: plan.settings.name.to_string(),
                route: None,
                verdict: "deny",
                status: Some(refusal.status),
                reason: Some(refusal.reason.as_str()),
                checks: vec![refusals::check(refusal)],
                shadow: Vec::new(),
                upstream_headers: BTreeMap::new(),
                pool: None,
                hinges: Hinges::default(),
            });
        }
    };
    let hinges = plan.router.hinges_on(&request);
    let (connection, certificate) = connection(&plan, &request, query);
    let mut run = Run::new(Arc::clone(snapshot), plan, connection, certificate, request, framing, query.at);
    run.rehearse();
    prepare(run.exchange_mut());
    let next = run.judge().await;
    let (status, pool, upstream_headers) = match next {
        Next::Forward(pool) => {
            let host = pool.host().unwrap_or_else(|| run.request().authority());
            (None, Some(pool.name().to_string()), upstream_headers(run.request(), host))
        }
        Next::Reply(reply) => (Some(run.reply(reply).0.status()), None, BTreeMap::new()),
    };
    Ok(Explanation {
        listener: run.plan().settings.name.to_string(),
        route: run.exchange().route().map(ToString::to_string),
        verdict: run.outcome().as_str(),
        status,
        reason: run.reason().map(portcullis_plugin::ReasonCode::as_str),
        checks: run.exchange_mut().driver_take_checks(),
        shadow: run.exchange().shadowed().to_vec(),
        upstream_headers,
        pool,
        hinges,
    })
}

fn listener(snapshot: &Snapshot, query: &Query, scheme: Scheme, authority: &str) -> Result<Arc<ListenerPlan>, ExplainError> {
    if let Some(name) = &query.listener {
        return snapshot.listener(name).cloned().ok_or_else(|| ExplainError::UnknownListener(name.clone()));
    }
    let speaks = |plan: &&Arc<ListenerPlan>| plan.settings.tls.is_some() == (scheme == Scheme::Https);
    let port = authority.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
    let on_port = |plan: &&Arc<ListenerPlan>| port == Some(plan.address.port());
    let candidates = || snapshot.listeners.iter().filter(speaks);
    let plan = candidates().find(on_port).or_else(|| candidates().next());
    // Behind a balancer that ends TLS, an https URL arrives at a plain listener.
    plan.or_else(|| snapshot.listeners.first()).cloned().ok_or(ExplainError::NoListener(scheme.as_str()))
}

fn connection(plan: &ListenerPlan, request: &RequestHead, query: &Query) -> (Arc<Connection>, CertificateStatus) {
    let tls = plan.settings.tls.as_ref();
    let source = SocketAddr::new(query.client, 0);
    let facts = tls.map(|_| TlsFacts { version: "TLSv1.3", cipher: "TLS_AES_256_GCM_SHA384", sni: Some(request.host().into()) });
    // Where a balancer speaks the PROXY protocol, it has named this client.
    let peer = SocketAddr::new(query.client, u16::from(plan.settings.proxy_trust.is_some()));
    let connection = Connection { listener: Arc::clone(&plan.settings.name), peer, source, local: plan.address, tls: facts };
    let certificate = match tls.and_then(|tls| tls.client_cas()) {
        Some(cas) if !query.certificate.is_empty() => cas.judge(&query.certificate, query.at),
        _ => CertificateStatus::Missing,
    };
    (Arc::new(connection), certificate)
}

/// Whether an explanation shows the value of an upstream header, by its lower-case name.
pub fn is_shown(name: &str) -> bool {
    !matches!(name, "authorization" | "cookie" | "proxy-authorization" | "x-api-key")
}

/// A token opens doors under any name: a signed assertion is one.
fn is_like_a_jwt(value: &[u8]) -> bool {
    value.starts_with(b"eyJ") && value.iter().filter(|byte| **byte == b'.').count() == 2
}

/// What would be sent up, without what opens doors.
fn upstream_headers(request: &RequestHead, host: &str) -> BTreeMap<String, serde_json::Value> {
    let mut shown: BTreeMap<String, serde_json::Value> = BTreeMap::new();
    shown.insert("host".into(), host.into());
    for (name, value) in request.headers().iter() {
        let name = name.to_ascii_lowercase();
        let value = if is_shown(&name) && !is_like_a_jwt(value) {
            String::from_utf8_lossy(value).into_owned()
        } else {
            "(not shown)".into()
        };
        match shown.get_mut(&name) {
            Some(serde_json::Value::Array(list)) => list.push(value.into()),
            Some(first) => *first = serde_json::Value::Array(vec![first.take(), value.into()]),
            None => {
                shown.insert(name, value.into());
            }
        }
    }
    shown
}
