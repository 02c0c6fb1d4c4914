//! What runs: immutable, made by `compile` alone, and swapped as a whole. A request keeps the one it started with.

use crate::access_log::AccessLog;
use crate::admin::AdminSettings;
use crate::audit::AuditLog;
use crate::chain::Chain;
use crate::config::raw;
use crate::decisions::Decisions;
use crate::forwarded::TrustedProxies;
use crate::forwarded_cert::ForwardedCertificates;
use crate::http1::HeadLimits;
use crate::listen::ListenerSettings;
use crate::metrics::{ListenerMetrics, RouteMetrics};
use crate::normalise::Policy;
use crate::owned::OwnedHeaders;
use crate::pool::{Pool, split::Split};
use crate::route::Router;
use portcullis_identity::Issuers;
use portcullis_identity::assertion::AssertionSigner;
use portcullis_plugin::env::Contents;
use portcullis_plugin::{Connection, Reply, RequestHead, Scheme};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub struct Snapshot {
    pub generation: u64,
    pub listeners: Vec<Arc<ListenerPlan>>,
    pub routes: Vec<Arc<RoutePlan>>,
    pub pools: Vec<Arc<Pool>>,
    pub issuers: Arc<Issuers>,
    pub owned: OwnedHeaders,
    pub trusted_proxies: TrustedProxies,
    pub admin: Option<AdminSettings>,
    pub access_log: AccessLog,
    pub audit: AuditLog,
    /// What signs assertions, if the configuration has it.
    pub assertion: Option<Arc<AssertionSigner>>,
    /// Of the YAML files it was made from.
    pub sha256: String,
    /// The gateway's own, over all generations.
    pub decisions: Arc<Decisions>,
    pub drain: Duration,
    /// Every file it was made from: a change of one compiles it anew.
    pub files: Vec<PathBuf>,
    /// Of those that the YAML files name.
    pub contents: Contents,
}

/// A listener, ready to serve.
pub struct ListenerPlan {
    pub settings: Arc<ListenerSettings>,
    pub address: SocketAddr,
    pub policy: Policy,
    pub head_limits: HeadLimits,
    pub body_limit: Option<u64>,
    pub driver: raw::Driver,
    /// `None`: a client's certificate comes in the handshake.
    pub forwarded: Option<ForwardedCertificates>,
    /// Runs before a route is chosen.
    pub chain: Chain,
    /// Finds an index into `routes`.
    pub router: Router,
    pub routes: Vec<ListenerRoute>,
    /// For requests that no route took.
    pub unrouted: Arc<RouteMetrics>,
    pub metrics: Arc<ListenerMetrics>,
}

/// A route as one listener serves it.
pub struct ListenerRoute {
    pub route: Arc<RoutePlan>,
    pub metrics: Arc<RouteMetrics>,
}

pub struct RoutePlan {
    pub name: Arc<str>,
    pub chain: Chain,
    pub action: Action,
}

pub enum Action {
    Pool(Arc<Pool>),
    Split(Split),
    Redirect(RedirectPlan),
    Respond(Reply),
}

impl Snapshot {
    pub fn listener(&self, name: &str) -> Option<&Arc<ListenerPlan>> {
        self.listeners.iter().find(|plan| &*plan.settings.name == name)
    }

    /// Takes over: from now on as many decisions are kept as this configuration says, and what works in the background
    /// does so: health checks, name resolution, key refresh.
    pub fn start(&self) {
        self.audit.begin();
        // With no admin listener, nobody can ask for one.
        self.decisions.resize(self.admin.as_ref().map_or(0, AdminSettings::decisions));
        self.issuers.start();
        for pool in &self.pools {
            pool.start();
        }
    }
}

impl ListenerPlan {
    /// Whether the request's host belongs to another certificate than the name its connection was opened for, where
    /// client certificates are asked for: HTTP/2 clients reuse connections across names, and what was proven for one
    /// name says nothing about another (RFC 9110, section 15.5.20).
    pub fn is_misdirected(&self, request: &RequestHead, connection: &Connection) -> bool {
        let (Some(tls), Some(facts)) = (&self.settings.tls, &connection.tls) else { return false };
        let Some(sni) = &facts.sni else { return false };
        tls.client_cas().is_some()
            && &**sni != request.host()
            && tls.certificate_index_for(sni) != tls.certificate_index_for(request.host())
    }
}

pub struct RedirectPlan {
    pub status: u16,
    pub scheme: Option<Scheme>,
    pub host: Option<String>,
    pub port: Option<u16>,
    pub path: Option<String>,
    pub keep_query: bool,
}

impl RedirectPlan {
    pub fn reply(&self, request: &RequestHead) -> Reply {
        let scheme = self.scheme.unwrap_or(request.scheme());
        let host = self.host.as_deref().unwrap_or(request.host());
        // A client of HTTP/1.0 may name no host: the reference is then relative (RFC 9110, section 10.2.2).
        let mut location = if host.is_empty() { String::new() } else { format!("{}://{host}", scheme.as_str()) };
        match self.port {
            Some(port) if !host.is_empty() => location.push_str(&format!(":{port}")),
            // The request's own port belongs to the request's own scheme and host.
            None if self.host.is_none() && scheme == request.scheme() => {
                location.push_str(&request.authority()[request.host().len()..])
            }
            _ => {}
        }
        location.push_str(self.path.as_deref().unwrap_or(request.path()));
        if let (true, Some(query)) = (self.keep_query, request.query()) {
            location.push('?');
            location.push_str(query);
        }
        let mut reply = Reply::new(self.status);
        // The parts are a validated host, a normalised path and a checked query: always a header value.
        let _ = reply.headers.set("location", location);
        reply
    }
}
