//! An issuer's discovery document (OpenID Connect Discovery 1.0, RFC 8414).

use crate::fetch::{self, FetchError, Trust};
use openidconnect::{IntrospectionUrl, IssuerUrl, JsonWebKeySetUrl};
use serde::Deserialize;
use url::Url;

/// The part of a discovery document that verifying tokens needs. The library's whole document type asks for members
/// that issuers without a login page (Kubernetes, CI systems) do not have.
#[derive(Deserialize)]
struct Document {
    issuer: IssuerUrl,
    jwks_uri: JsonWebKeySetUrl,
}

/// The part that asking about tokens needs (RFC 8414).
#[derive(Deserialize)]
struct AskingDocument {
    issuer: IssuerUrl,
    introspection_endpoint: Option<IntrospectionUrl>,
}

/// Where the keys are, if the document is this issuer's own.
pub(crate) fn keys_address(bytes: &[u8], at: &Url, issuer: &str, trust: Trust) -> Result<Url, FetchError> {
    let document: Document = read(bytes, at)?;
    is_of(issuer, &document.issuer, at)?;
    address(document.jwks_uri.url(), at, trust)
}

/// Where to ask about tokens, if the document is this issuer's own and says so.
pub(crate) fn introspection_address(bytes: &[u8], at: &Url, issuer: &str, trust: Trust) -> Result<Url, FetchError> {
    let document: AskingDocument = read(bytes, at)?;
    is_of(issuer, &document.issuer, at)?;
    match document.introspection_endpoint {
        Some(endpoint) => address(endpoint.url(), at, trust),
        None => Err(unusable(at, "it names no `introspection_endpoint`; configure `introspection.endpoint`".to_owned())),
    }
}

fn unusable(at: &Url, cause: String) -> FetchError {
    FetchError::Unusable { url: at.clone(), cause }
}

fn read<'d, D: Deserialize<'d>>(bytes: &'d [u8], at: &Url) -> Result<D, FetchError> {
    serde_json::from_slice(bytes).map_err(|error| unusable(at, format!("not a discovery document: {error}")))
}

/// To the letter: a document for another issuer, even one that differs by a slash, speaks of other tokens.
fn is_of(issuer: &str, named: &IssuerUrl, at: &Url) -> Result<(), FetchError> {
    if named.as_str() == issuer {
        return Ok(());
    }
    let hint = crate::hints::issuer(issuer, named.as_str());
    let hint = hint.map(|hint| format!(" ({hint})")).unwrap_or_default();
    Err(unusable(at, format!("its issuer is `{}`, not `{issuer}`{hint}", named.as_str())))
}

fn address(url: &Url, at: &Url, trust: Trust) -> Result<Url, FetchError> {
    let url = url.clone();
    fetch::allowed(&url, trust)?;
    if at.scheme() == "https" && url.scheme() != "https" && trust != Trust::AnyHttp {
        return Err(FetchError::Downgrade(url));
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(document: &str, issuer: &str) -> Result<Url, FetchError> {
        keys_address(document.as_bytes(), &"https://sso.example.com/x".parse().unwrap(), issuer, Trust::LoopbackHttp)
    }

    #[test]
    fn the_issuer_is_compared_to_the_letter() {
        let document = r#"{"issuer":"https://sso.example.com/","jwks_uri":"https://keys.example.com/jwks"}"#;
        assert_eq!(keys(document, "https://sso.example.com/").unwrap().as_str(), "https://keys.example.com/jwks");
        let error = keys(document, "https://sso.example.com").unwrap_err().to_string();
        assert!(error.contains("trailing slash"), "{error}");
    }

    #[test]
    fn keys_are_not_fetched_over_a_weaker_channel_than_the_document() {
        for uri in [
            "http://127.0.0.1/jwks",
            "http://keys.example.com/jwks",
            "file:///etc/passwd",
            "https://bob:pw@keys.example.com/jwks",
        ] {
            let document = format!(r#"{{"issuer":"https://a.example","jwks_uri":"{uri}"}}"#);
            assert!(keys(&document, "https://a.example").is_err(), "{uri}");
        }
    }

    #[test]
    fn tokens_are_not_shown_over_a_weaker_channel_or_to_another_issuer() {
        let ask = |document: &str| {
            introspection_address(
                document.as_bytes(),
                &"https://a.example/x".parse().unwrap(),
                "https://a.example",
                Trust::LoopbackHttp,
            )
        };
        assert!(ask(r#"{"issuer":"https://a.example","introspection_endpoint":"https://b.example/i"}"#).is_ok());
        for (document, part) in [
            (r#"{"issuer":"https://a.example","introspection_endpoint":"http://127.0.0.1/i"}"#, "HTTPS"),
            (r#"{"issuer":"https://b.example","introspection_endpoint":"https://a.example/i"}"#, "its issuer is"),
            (r#"{"issuer":"https://a.example"}"#, "introspection.endpoint"),
        ] {
            let error = ask(document).unwrap_err().to_string();
            assert!(error.contains(part), "{document}: {error}");
        }
    }

    #[test]
    fn html_and_halves_are_no_document() {
        for text in ["<html></html>", "", "{}", "[]", r#"{"issuer":"https://a.example"}"#, r#"{"issuer":1,"jwks_uri":2}"#] {
            assert!(keys(text, "https://a.example").is_err(), "{text}");
        }
    }
}
