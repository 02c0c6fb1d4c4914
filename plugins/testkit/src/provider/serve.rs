//! What the provider answers.

use super::{CLIENT, Endpoint, Fault, Shared, lock};
use crate::token::{Alg, TokenSpec};
use base64::Engine;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH, LOCATION};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

pub(super) async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    // Connections end with the set, and the set with this task.
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { return };
        while connections.try_join_next().is_some() {}
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            let service = service_fn(move |request| {
                let shared = Arc::clone(&shared);
                async move { Ok::<_, Infallible>(shared.respond(request).await) }
            });
            // A client that goes away in the middle is the client's business.
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

type Reply = Response<Full<Bytes>>;

impl Shared {
    async fn respond(&self, request: Request<Incoming>) -> Reply {
        let path = request.uri().path().strip_prefix(self.path.as_str()).unwrap_or_default();
        let endpoint = match path {
            "/.well-known/openid-configuration" => Endpoint::Discovery,
            "/jwks" => Endpoint::Jwks,
            "/token" => Endpoint::Token,
            _ => return status(StatusCode::NOT_FOUND),
        };
        let (fault, delay) = self.arrived(endpoint);
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        match fault {
            None => self.answer(endpoint, request).await,
            Some(Fault::PlainText) => {
                let mut reply = self.answer(endpoint, request).await;
                reply.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static("text/plain"));
                reply
            }
            Some(fault) => misbehave(fault).await,
        }
    }

    /// Counts the request and says what to do with it.
    fn arrived(&self, endpoint: Endpoint) -> (Option<Fault>, Duration) {
        let mut state = lock(&self.state);
        *state.seen.entry(endpoint).or_default() += 1;
        let delay = state.delay;
        let fault = match state.faults.get_mut(&endpoint) {
            Some((_, Some(0))) | None => None,
            Some((fault, None)) => Some(fault.clone()),
            Some((fault, Some(times))) => {
                *times -= 1;
                Some(fault.clone())
            }
        };
        (fault, delay)
    }

    async fn answer(&self, endpoint: Endpoint, request: Request<Incoming>) -> Reply {
        match endpoint {
            Endpoint::Discovery => self.document(&request, &self.discovery()),
            Endpoint::Jwks => match self.tokens.jwks() {
                Ok(set) => self.document(&request, &set),
                Err(_) => status(StatusCode::INTERNAL_SERVER_ERROR),
            },
            Endpoint::Token => self.grant(request).await,
        }
    }

    fn discovery(&self) -> Value {
        let issuer = self.tokens.issuer();
        let algs: Vec<&str> = self.tokens.algs().iter().map(|alg| alg.as_str()).collect();
        let mut document = json!({
            "issuer": issuer,
            "authorization_endpoint": format!("{issuer}/auth"),
            "token_endpoint": format!("{issuer}/token"),
            "jwks_uri": format!("{issuer}/jwks"),
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": algs,
            "grant_types_supported": ["client_credentials"],
            "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
        });
        for (name, value) in &lock(&self.state).discovery {
            document[name.as_str()] = value.clone();
        }
        if let Some(members) = document.as_object_mut() {
            members.retain(|_, value| !value.is_null());
        }
        document
    }

    /// A document that can be asked for conditionally.
    fn document(&self, request: &Request<Incoming>, document: &Value) -> Reply {
        if request.method() != Method::GET {
            return status(StatusCode::METHOD_NOT_ALLOWED);
        }
        let body = document.to_string();
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, body.as_bytes());
        let tag = format!("\"{}\"", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(digest.as_ref()));
        let unchanged = request.headers().get(IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes());
        let mut state = lock(&self.state);
        let mut reply = if unchanged {
            state.not_modified += 1;
            status(StatusCode::NOT_MODIFIED)
        } else {
            json_reply(StatusCode::OK, body)
        };
        let mut set = |name, value: &str| {
            if let Ok(value) = value.parse() {
                reply.headers_mut().insert(name, value);
            }
        };
        set(ETAG, &tag);
        if let Some(value) = &state.cache_control {
            set(CACHE_CONTROL, value);
        }
        reply
    }

    /// RFC 6749, section 4.4. `resource` (RFC 8707) or `audience` names the audience.
    async fn grant(&self, request: Request<Incoming>) -> Reply {
        let refuse = |code: StatusCode, error: &str| json_reply(code, json!({ "error": error }).to_string());
        if request.method() != Method::POST {
            return status(StatusCode::METHOD_NOT_ALLOWED);
        }
        let basic = request.headers().get(AUTHORIZATION).and_then(|value| basic_credentials(value.to_str().ok()?));
        let Ok(body) = request.into_body().collect().await else { return status(StatusCode::BAD_REQUEST) };
        let form = parse_form(&body.to_bytes());
        let field = |name: &str| form.get(name).cloned();
        let (id, secret) = basic.or_else(|| Some((field("client_id")?, field("client_secret")?))).unwrap_or_default();
        if (id.as_str(), secret.as_str()) != CLIENT {
            return refuse(StatusCode::UNAUTHORIZED, "invalid_client");
        }
        if field("grant_type").as_deref() != Some("client_credentials") {
            return refuse(StatusCode::BAD_REQUEST, "unsupported_grant_type");
        }
        let alg = field("alg").and_then(|name| Alg::ALL.iter().copied().find(|alg| alg.as_str() == name)).unwrap_or(Alg::Rs256);
        let mut spec = TokenSpec::new().alg(alg).subject(&id).claim("client_id", id.as_str());
        if let Some(audience) = field("resource").or_else(|| field("audience")) {
            spec = spec.audience(&audience);
        }
        if let Some(scope) = field("scope") {
            spec = spec.scope(&scope);
        }
        match self.tokens.issue(&spec) {
            Ok(token) => {
                let body = json!({ "access_token": token, "token_type": "Bearer", "expires_in": 300, "scope": field("scope") });
                json_reply(StatusCode::OK, body.to_string())
            }
            Err(_) => status(StatusCode::INTERNAL_SERVER_ERROR),
        }
    }
}

async fn misbehave(fault: Fault) -> Reply {
    match fault {
        Fault::Status(code) => status(StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)),
        Fault::Html => {
            let mut reply = Response::new(Full::from("<!doctype html><title>Sign in</title>"));
            reply.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static("text/html"));
            reply
        }
        Fault::CutOff => json_reply(StatusCode::OK, "{\"keys\":[{\"kty\":\"RS".to_owned()),
        Fault::EmptyObject => json_reply(StatusCode::OK, "{}".to_owned()),
        Fault::NoKeys => json_reply(StatusCode::OK, "{\"keys\":[]}".to_owned()),
        Fault::Huge(bytes) => json_reply(StatusCode::OK, format!("{{\"keys\":[],\"x\":\"{}\"}}", "x".repeat(bytes))),
        Fault::Redirect(to) => {
            let mut reply = status(StatusCode::FOUND);
            if let Ok(to) = to.parse() {
                reply.headers_mut().insert(LOCATION, to);
            }
            reply
        }
        Fault::Hang | Fault::PlainText => std::future::pending().await,
    }
}

fn status(code: StatusCode) -> Reply {
    let mut reply = Response::new(Full::default());
    *reply.status_mut() = code;
    reply
}

fn json_reply(code: StatusCode, body: String) -> Reply {
    let mut reply = Response::new(Full::from(body));
    *reply.status_mut() = code;
    reply.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    reply
}

fn basic_credentials(header: &str) -> Option<(String, String)> {
    let (scheme, encoded) = header.split_once(' ')?;
    let decoded = base64::engine::general_purpose::STANDARD.decode(encoded.trim()).ok()?;
    let text = String::from_utf8(decoded).ok()?;
    let (id, secret) = text.split_once(':')?;
    scheme.eq_ignore_ascii_case("basic").then(|| (id.to_owned(), secret.to_owned()))
}

/// `application/x-www-form-urlencoded`.
fn parse_form(body: &[u8]) -> HashMap<String, String> {
    let text = String::from_utf8_lossy(body);
    let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (decode(name), decode(value))).collect()
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'+' => bytes.push(b' '),
            b'%' => {
                let digits: Vec<u8> = rest.by_ref().take(2).collect();
                let value = std::str::from_utf8(&digits).ok().and_then(|digits| u8::from_str_radix(digits, 16).ok());
                bytes.push(value.unwrap_or(b'?'));
            }
            other => bytes.push(other),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
