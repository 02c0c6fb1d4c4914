//! A configuration looked at without running it: for `check` and `explain`.

use super::compile::{Context, Purpose, compile};
use super::diagnostic::{Diagnostic, Diagnostics};
use super::load::Loader;
use super::raw;
use super::snapshot::{Action, Snapshot};
use crate::metrics::Metrics;
use portcullis_plugin::env::Kept;
use portcullis_plugin::{FilterTable, Mode};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;

/// A configuration that holds, and what it comes to.
pub struct Inspection {
    name: String,
    snapshot: Arc<Snapshot>,
    warnings: Vec<Diagnostic>,
    routes: Vec<RouteSummary>,
}

/// One route's effective security.
#[derive(Debug, Clone)]
pub struct RouteSummary {
    pub name: String,
    pub listeners: Vec<String>,
    /// What it matches, in one line.
    pub matches: String,
    /// What each filter asks for. Empty: the route is open to anyone.
    pub security: Vec<String>,
    pub action: String,
}

impl Inspection {
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    pub fn warnings(&self) -> &[Diagnostic] {
        &self.warnings
    }

    pub fn routes(&self) -> &[RouteSummary] {
        &self.routes
    }

    pub fn to_json(&self) -> Value {
        let routes: Vec<_> = self
            .routes
            .iter()
            .map(|route| json!({ "name": route.name, "listeners": route.listeners, "matches": route.matches, "security": route.security, "action": route.action }))
            .collect();
        json!({ "ok": true, "findings": self.warnings.iter().map(Diagnostic::to_json).collect::<Vec<_>>(), "routes": routes })
    }
}

/// Compiles the configuration at `path` without opening or binding anything. `keys` stand for every issuer's own.
///
/// # Errors
/// If it does not compile.
pub fn inspect(path: &Path, table: &FilterTable, keys: Option<&[u8]>) -> Result<Inspection, Diagnostics> {
    let loaded = Loader::new(&|name| std::env::var(name).ok()).filters(table).load(path)?;
    let summaries: Vec<_> = loaded.raw.routes.iter().map(|route| (matches(&route.matches), route.listeners.clone())).collect();
    let (metrics, kept) = (Metrics::new(), Arc::new(Kept::default()));
    let context = Context { table, metrics: &metrics, kept: &kept, generation: 0, purpose: Purpose::Inspect { keys } };
    let (snapshot, warnings) = compile(loaded, &context)?;
    let routes = snapshot.routes.iter().zip(summaries).map(|(route, (matches, listeners))| {
        let everywhere = || snapshot.listeners.iter().map(|plan| plan.settings.name.to_string()).collect();
        let listeners: Vec<String> = if listeners.is_empty() { everywhere() } else { listeners };
        // A route is no more open than every listener that serves it.
        let before = snapshot.listeners.iter().filter(|plan| listeners.iter().any(|name| **name == *plan.settings.name));
        let before = before.flat_map(|plan| plan.chain.entries().iter().map(|entry| (Some(&plan.settings.name), entry)));
        let own = route.chain.entries().iter().map(|entry| (None, entry));
        let security = before.chain(own).filter_map(|(listener, entry)| {
            let summary = entry.filter.needs().summary?;
            let shadow = if entry.mode == Mode::Shadow { " (shadow: not enforced)" } else { "" };
            let place = listener.map_or(String::new(), |name| format!(" (listener {name})"));
            Some(format!("{summary}{place}{shadow}"))
        });
        RouteSummary {
            name: route.name.to_string(),
            matches,
            security: security.collect(),
            action: action(&route.action),
            listeners,
        }
    });
    let routes = routes.collect();
    Ok(Inspection { name: path.display().to_string(), snapshot: Arc::new(snapshot), warnings, routes })
}

fn action(action: &Action) -> String {
    match action {
        Action::Pool(pool) => format!("pool {}", pool.name()),
        Action::Split(split) => {
            format!("split {}", split.pools().iter().map(|pool| pool.name().to_string()).collect::<Vec<_>>().join(", "))
        }
        Action::Redirect(redirect) => format!("redirect {}", redirect.status),
        Action::Respond(reply) => format!("respond {}", reply.status),
    }
}

fn matches(matches: &raw::Match) -> String {
    let raw::Match { host, path, path_exact, path_regex, methods, headers, query } = matches;
    let mut parts = Vec::new();
    if !methods.is_empty() {
        parts.push(methods.join("|"));
    }
    let hosts = host.join("|");
    let path = match (path_exact, path, path_regex) {
        (Some(exact), _, _) => format!("={exact}"),
        (None, Some(prefix), _) => format!("{}/*", prefix.trim_end_matches('/')),
        (None, None, Some(regex)) => format!("~{regex}"),
        (None, None, None) => "/*".to_owned(),
    };
    parts.push(format!("{hosts}{path}"));
    parts.extend(headers.iter().map(|(name, value)| format!("{name}: {value}")));
    parts.extend(query.iter().map(|(name, value)| format!("?{name}={value}")));
    parts.join(" ")
}
