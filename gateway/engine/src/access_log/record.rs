//! What the access log says about one request.

use super::json::Object;
use super::redact;
use crate::config::raw;
use portcullis_plugin::{Principal, ReasonCode, Shadowed};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime};

/// How a request was decided in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FinalVerdict {
    /// It was answered as the route says.
    Allow,
    /// It was refused.
    Deny,
    /// The gateway or a backend could not answer it.
    Error,
}

impl FinalVerdict {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Error => "error",
        }
    }
}

/// One line. What is not known is `None`, and `null` in the line: every line of a configuration has the same members, in
/// this order.
///
/// A request that was refused before it could be read may hold any bytes in its texts.
#[derive(Clone, Copy)]
pub struct Record<'a> {
    /// When the request arrived.
    pub time: SystemTime,
    pub decision_id: &'a str,
    pub listener: &'a str,
    /// The real client.
    pub client: IpAddr,
    /// The other end of the socket.
    pub peer: SocketAddr,
    pub tls: Option<RecordTls<'a>>,
    pub method: Option<&'a [u8]>,
    pub host: Option<&'a [u8]>,
    /// As matched and sent upstream; secrets in it are replaced here.
    pub path: Option<&'a [u8]>,
    /// What follows the `?`; secrets in it are replaced here.
    pub query: Option<&'a [u8]>,
    /// `HTTP/1.1`, `HTTP/2`.
    pub protocol: Option<&'a str>,
    /// What the client got.
    pub status: u16,
    pub route: Option<&'a str>,
    pub verdict: FinalVerdict,
    pub reason: Option<ReasonCode>,
    pub principal: Option<&'a Principal>,
    pub pool: Option<&'a str>,
    /// `host:port` as configured.
    pub backend: Option<&'a str>,
    /// Backends tried.
    pub attempts: u32,
    pub duration: Duration,
    /// From the choice of the backend that answered to the head of its response.
    pub upstream: Option<Duration>,
    /// Of the request's body.
    pub bytes_in: u64,
    /// Of the response's body.
    pub bytes_out: u64,
    /// What filters in shadow mode would have done.
    pub shadow: &'a [Shadowed],
}

#[derive(Debug, Clone, Copy)]
pub struct RecordTls<'a> {
    pub version: &'a str,
    pub cipher: &'a str,
    pub sni: Option<&'a str>,
    pub client_cert_sha256: Option<&'a str>,
}

/// What a line says of the principal beside who it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tells {
    pub client_id: bool,
    pub scopes: bool,
    pub roles: bool,
    pub groups: bool,
}

impl Tells {
    pub(super) fn new(members: &[raw::PrincipalMember]) -> Self {
        let has = |member| members.contains(&member);
        Self {
            client_id: has(raw::PrincipalMember::ClientId),
            scopes: has(raw::PrincipalMember::Scopes),
            roles: has(raw::PrincipalMember::Roles),
            groups: has(raw::PrincipalMember::Groups),
        }
    }

    fn write(self, principal: &Principal, object: &mut Object<'_>) {
        let Self { client_id, scopes, roles, groups } = self;
        if client_id {
            object.text("client_id", principal.client_id.as_deref());
        }
        if scopes {
            object.texts("scopes", Some(&principal.scopes));
        }
        if roles {
            object.texts("roles", Some(&principal.roles));
        }
        if groups {
            // Groups that the token leaves out are not none.
            let known = !portcullis_identity::groups_unknown(principal);
            object.texts("groups", known.then_some(&*principal.groups));
        }
    }
}

impl<'a> Record<'a> {
    /// Of a request or connection of which no more is known; the rest is set by name.
    pub fn new(time: SystemTime, decision_id: &'a str, listener: &'a str, peer: SocketAddr) -> Self {
        Self {
            time,
            decision_id,
            listener,
            client: peer.ip().to_canonical(),
            peer,
            tls: None,
            method: None,
            host: None,
            path: None,
            query: None,
            protocol: None,
            status: 0,
            route: None,
            verdict: FinalVerdict::Error,
            reason: None,
            principal: None,
            pool: None,
            backend: None,
            attempts: 0,
            duration: Duration::ZERO,
            upstream: None,
            bytes_in: 0,
            bytes_out: 0,
            shadow: &[],
        }
    }

    /// Appends the line, with its line feed.
    pub fn write(&self, out: &mut Vec<u8>, tells: Tells) {
        let mut line = Object::begin(out);
        line.time("time", self.time);
        self.members(&mut line, tells);
        line.end();
        out.push(b'\n');
    }

    /// Everything but the time.
    pub(crate) fn members(&self, line: &mut Object<'_>, tells: Tells) {
        let Self {
            time: _,
            decision_id,
            listener,
            client,
            peer,
            tls,
            method,
            host,
            path,
            query,
            protocol,
            status,
            route,
            verdict,
            reason,
            principal,
            pool,
            backend,
            attempts,
            duration,
            upstream,
            bytes_in,
            bytes_out,
            shadow,
        } = *self;
        line.text("decision_id", Some(decision_id));
        line.text("listener", Some(listener));
        line.plain("client", client.to_canonical());
        line.plain("peer", SocketAddr::new(peer.ip().to_canonical(), peer.port()));
        line.object("tls", tls, |tls, object| {
            object.text("version", Some(tls.version));
            object.text("cipher", Some(tls.cipher));
            object.text("sni", tls.sni);
            object.text("client_cert_sha256", tls.client_cert_sha256);
        });
        line.text("method", method);
        line.text("host", host);
        line.text("path", path.map(redact::path));
        line.text("query", query.map(redact::query));
        line.text("protocol", protocol);
        line.number("status", Some(status.into()));
        line.text("route", route);
        line.text("verdict", Some(verdict.as_str()));
        line.text("reason", reason.map(ReasonCode::as_str));
        line.object("principal", principal, |principal, object| {
            object.text("sub", Some(&*principal.subject));
            object.text("issuer", principal.issuer.as_deref());
            object.text("method", Some(principal.method));
            tells.write(principal, object);
        });
        line.text("pool", pool);
        line.text("backend", backend);
        line.number("attempts", Some(attempts.into()));
        line.number("duration_us", Some(microseconds(duration)));
        line.number("upstream_us", upstream.map(microseconds));
        line.number("bytes_in", Some(bytes_in));
        line.number("bytes_out", Some(bytes_out));
        line.objects("shadow", shadow, |shadowed, object| {
            object.text("filter", Some(shadowed.filter));
            object.text("verdict", Some(shadowed.verdict));
            object.text("reason", shadowed.reason.map(ReasonCode::as_str));
        });
    }
}

fn microseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
