//! The endpoints.

use super::serve::Peer;
use super::{Phase, Shared, revocations};
use crate::audit::Event;
use crate::decisions::Selection;
use crate::metrics;
use axum::Router;
use axum::extract::{Path, RawQuery, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::SystemTime;

/// What a listing says of a decision: every member by its name in the decision itself.
const LISTED: [&str; 12] =
    ["decision_id", "time", "listener", "route", "verdict", "status", "reason", "client", "method", "host", "path", "shadow"];

/// `get` answers HEAD too, and any other method with 405.
pub(super) fn router(shared: Arc<Shared>) -> Router {
    let probes = Router::new().route("/healthz", get(healthz)).route("/readyz", get(readyz));
    // It has a secret of its own.
    let revocations = Router::new().route("/revocations", any(revocations::tell));
    protected(&shared).merge(probes).merge(revocations).layer(middleware::map_response(no_store)).with_state(shared)
}

/// Everything but the probes. The token is asked for before anything else, also where there is nothing: whoever has none
/// does not learn what exists.
fn protected(shared: &Arc<Shared>) -> Router<Arc<Shared>> {
    Router::new()
        .route("/metrics", get(expose))
        .route("/decisions", get(latest))
        .route("/decisions/{id}", get(decision))
        .route("/audit/head", get(audit_head))
        .route("/jwks", get(jwks))
        .fallback(|| async { StatusCode::NOT_FOUND })
        .layer(middleware::from_fn_with_state(Arc::clone(shared), authenticate))
}

async fn authenticate(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    if shared.is_open_to(request.headers()) { next.run(request).await } else { closed(&shared, &request) }
}

/// What the one `Authorization` field says. Two of them would be two readings of who asks.
pub(super) fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let mut fields = headers.get_all(header::AUTHORIZATION).iter();
    match (fields.next(), fields.next()) {
        (Some(only), None) => Some(only.as_bytes()),
        _ => None,
    }
}

/// Whoever tries secrets is on the record. What they tried is not.
pub(super) fn closed(shared: &Shared, request: &Request) -> Response {
    let client = request.extensions().get::<Peer>().map(|Peer(address)| address.ip());
    let tried = request.headers().contains_key(header::AUTHORIZATION);
    let path = crate::access_log::redact::path(request.uri().path().as_bytes()).into_owned();
    shared.shown.audit.load().event(&Event::AdminRefused { client, method: request.method().as_str(), path: &path, tried });
    (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Bearer realm=\"portcullis admin\"")]).into_response()
}

async fn no_store(mut response: Response) -> Response {
    response.headers_mut().insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    response
}

async fn healthz() -> Response {
    status(StatusCode::OK, "alive")
}

async fn readyz(State(shared): State<Arc<Shared>>) -> Response {
    let phase = shared.shown.readiness.phase();
    let code = if phase == Phase::Serving { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    status(code, phase.as_str())
}

fn status(code: StatusCode, status: &'static str) -> Response {
    // One of our own words: nothing to escape.
    (code, [(header::CONTENT_TYPE, "application/json")], format!("{{\"status\":\"{status}\"}}\n")).into_response()
}

async fn expose(State(shared): State<Arc<Shared>>) -> Response {
    match tokio::task::spawn_blocking(move || shared.shown.metrics.render()).await {
        Ok(text) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "the metrics cannot be exposed");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// The newest first, each with enough to find the one that is meant.
async fn latest(State(shared): State<Arc<Shared>>, RawQuery(query): RawQuery) -> Response {
    let selection = match Selection::parse(query.as_deref().unwrap_or_default(), SystemTime::now()) {
        Ok(selection) => selection,
        Err(message) => return json_body(StatusCode::BAD_REQUEST, &json!({ "error": message })),
    };
    let decisions = shared.shown.decisions.select(&selection);
    let rows = decisions.iter().map(|decision| {
        let mut whole = serde_json::to_value(&**decision).unwrap_or_default();
        LISTED.into_iter().map(|name| (name.to_owned(), whole[name].take())).collect::<Value>()
    });
    let rows: Vec<Value> = rows.collect();
    json_body(StatusCode::OK, &json!({ "decisions": rows }))
}

async fn decision(State(shared): State<Arc<Shared>>, Path(id): Path<String>) -> Response {
    if let Some(decision) = shared.shown.decisions.find(&id) {
        return json_body(StatusCode::OK, &*decision);
    }
    let message = match shared.shown.decisions.capacity() {
        0 => "no decisions are kept: `admin.decisions` is 0".to_owned(),
        capacity => format!(
            "no decision with this id is kept: only those of refused requests are, the newest {capacity}, and as many that a \
             filter in shadow mode would have refused, since this gateway started"
        ),
    };
    json_body(StatusCode::NOT_FOUND, &json!({ "error": message }))
}

/// The last record of the audit log: what `portcullis audit verify --expect-last` is to find at the end.
async fn audit_head(State(shared): State<Arc<Shared>>) -> Response {
    match shared.shown.audit.load().status() {
        Some(status) => json_body(StatusCode::OK, &status),
        None => json_body(StatusCode::NOT_FOUND, &json!({ "error": "the configuration has no `audit_log`" })),
    }
}

/// The keys of assertions that are published now.
async fn jwks(State(shared): State<Arc<Shared>>) -> Response {
    match &*shared.shown.assertion.load() {
        Some(signer) => {
            let keys = signer.jwks(SystemTime::now()).to_vec();
            ([(header::CONTENT_TYPE, "application/jwk-set+json")], keys).into_response()
        }
        None => json_body(StatusCode::NOT_FOUND, &json!({ "error": "the configuration has no `assertion`" })),
    }
}

pub(super) fn json_body(code: StatusCode, value: &impl serde::Serialize) -> Response {
    match serde_json::to_string_pretty(value) {
        Ok(text) => (code, [(header::CONTENT_TYPE, "application/json")], text + "\n").into_response(),
        Err(error) => {
            tracing::error!(%error, "an answer cannot be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
