//! Listeners, and the addresses of all sockets.

use super::values::{at_least_one, not_empty, takes_time};
use crate::config::findings::Findings;
use crate::config::raw;
use crate::decisions::MAX_KEPT;
use portcullis_plugin::ConfigError;
use std::net::SocketAddr;

/// What Pingora reads of a head; beyond it, requests would be refused with nothing counted.
const MAX_HEADER_FIELDS: usize = 256;
const MAX_HEADER_BYTES: u64 = 1_000 << 10;

/// A head smaller than this holds no real request.
const MIN_HEADER_BYTES: u64 = 1024;

pub(super) fn check_listener(listener: &raw::Listener, findings: &mut Findings) {
    let raw::Listener {
        name: _,
        address: _,
        tls,
        client_cert: _,
        proxy_protocol,
        h2c,
        driver: _,
        filters: _,
        limits,
        normalise: _,
    } = listener;
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

pub(super) fn check_client_cert(client_cert: Option<&raw::ClientCert>, nobody_trusted: bool, findings: &mut Findings) {
    let Some(raw::ClientCert { from_header: _, ca, crl, bound_tokens: _ }) = client_cert else { return };
    if nobody_trusted {
        findings.refuse(
            "client_cert",
            "no proxy is trusted, so no certificate would be taken from the header",
            "list the networks of the proxies in front in `trusted_proxies`",
        );
    }
    findings.within("client_cert", |findings| {
        not_empty("ca", ca, findings);
        crl.iter().for_each(|crl| not_empty("crl", crl, findings));
    });
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
    if header_bytes.0 > MAX_HEADER_BYTES {
        findings.refuse("header_bytes", "`header_bytes` is more than can be read", "give it at most 1000KiB");
    }
    if *header_fields > MAX_HEADER_FIELDS {
        findings.refuse("header_fields", "`header_fields` is more than can be read", "give it at most 256");
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

pub(super) fn check_admin(admin: &raw::Admin, findings: &mut Findings) {
    let raw::Admin { address, token_file, decisions, revocations: _ } = admin;
    if *decisions > MAX_KEPT {
        findings.refuse(
            "decisions",
            format!("`decisions` is at most {MAX_KEPT}: they are kept in memory"),
            "the access log has them all",
        );
    }
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
pub(super) fn check_addresses(listeners: &[raw::Listener], admin: Option<&raw::Admin>, findings: &mut Findings) {
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
