//! A service behind the gateway that verifies who is calling.

#[cfg(test)]
mod tests;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode};
use portcullis_identity::assertion::{AssertionVerifier, HEADER};
use std::error::Error;
use std::sync::Arc;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, issuer, audience, keys] = &arguments[..] else {
        return Err("usage: assertion-service ADDRESS ISSUER AUDIENCE KEYS-URL".into());
    };
    let verifier = AssertionVerifier::builder(issuer, audience).jwks_uri(keys).build()?;
    axum::serve(tokio::net::TcpListener::bind(address).await?, service(verifier)).await?;
    Ok(())
}

fn service(verifier: AssertionVerifier) -> Router {
    Router::new().fallback(greet).with_state(Arc::new(verifier))
}

async fn greet(
    State(verifier): State<Arc<AssertionVerifier>>,
    method: Method,
    headers: HeaderMap,
) -> Result<String, (StatusCode, &'static str)> {
    let unknown = (StatusCode::UNAUTHORIZED, "who is calling?\n");
    let mut all = headers.get_all(HEADER).iter();
    // Two of them would be two answers.
    let (Some(assertion), None) = (all.next(), all.next()) else { return Err(unknown) };
    let assertion = assertion.to_str().map_err(|_| unknown)?;
    let caller = verifier.verify(assertion, method.as_str()).await.map_err(|error| {
        eprintln!("not believed: {error}");
        if error.is_unavailable() { (StatusCode::SERVICE_UNAVAILABLE, "try again\n") } else { unknown }
    })?;
    let tenant = caller.claim("tenant").map_or(String::new(), |tenant| format!(" tenant={tenant}"));
    Ok(format!("subject={} method={method}{tenant}\n", caller.subject()))
}
