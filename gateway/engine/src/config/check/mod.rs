//! What can be judged by looking at the raw configuration alone: that names are unique and lead somewhere, that values
//! make sense together, and that nothing in it is without effect.
//!
//! Each struct is taken apart field by field, so that a new key cannot be forgotten; `_` marks what is judged where it
//! is compiled.

mod listener;
pub mod needs;
mod pool;
mod route;
mod values;

use super::findings::Findings;
use super::raw::{self, Config};
use portcullis_plugin::{ConfigError, Needs};
use values::{at_least_one, check_name, not_empty, unique_names};

/// Judges the whole configuration.
pub fn check(raw: &Config, findings: &mut Findings) {
    let Config {
        include: _,
        listeners,
        admin,
        trusted_proxies,
        access_log,
        audit_log: _,
        issuers,
        assertion: _,
        pools,
        routes,
        shutdown,
    } = raw;
    if listeners.is_empty() {
        findings.error(
            ConfigError::new("no listener is configured").help("add one: `listeners: [{ name: http, address: 127.0.0.1:8080 }]`"),
        );
    }
    findings.within("listeners", |findings| {
        unique_names(listeners.iter().map(|listener| listener.name.as_str()), "listener", findings);
        for (index, listener) in listeners.iter().enumerate() {
            findings.within(index, |findings| {
                listener::check_listener(listener, findings);
                listener::check_client_cert(listener.client_cert.as_ref(), trusted_proxies.is_empty(), findings);
            });
        }
    });
    listener::check_addresses(listeners, admin.as_ref(), findings);
    if let Some(admin) = admin {
        findings.within("admin", |findings| listener::check_admin(admin, findings));
    }
    if let Some(raw::AccessLog { path, buffer, principal: _ }) = access_log {
        findings.within("access_log", |findings| {
            not_empty("path", path, findings);
            at_least_one("buffer", *buffer, findings);
        });
    }
    findings.within("issuers", |findings| {
        for (name, issuer) in issuers {
            check_name(name, name, findings);
            if let Some(doubt) = portcullis_identity::doubt(issuer) {
                findings.warning(doubt.at(name.as_str()));
            }
        }
    });
    findings.within("pools", |findings| {
        for (name, pool) in pools {
            check_name(name, name, findings);
            findings.within(name.as_str(), |findings| pool::check_pool(pool, findings));
        }
    });
    route::check_routes(routes, listeners, pools, findings);
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
