//! An issuer's discovery document (OpenID Connect Discovery 1.0, RFC 8414).

use crate::fetch::{self, FetchError, Trust};
use openidconnect::{IssuerUrl, JsonWebKeySetUrl};
use serde::Deserialize;
use url::Url;

/// The part of a discovery document that verifying tokens needs. The library's whole document type asks for members
/// that issuers without a login page (Kubernetes, CI systems) do not have.
#[derive(Deserialize)]
struct Document {
    issuer: IssuerUrl,
    jwks_uri: JsonWebKeySetUrl,
}

/// Where the keys are, if the document is this issuer's own.
pub(crate) fn keys_address(bytes: &[u8], at: &Url, issuer: &str, trust: Trust) -> Result<Url, FetchError> {
    let unusable = |cause: String| FetchError::Unusable { url: at.clone(), cause };
    let document: Document =
        serde_json::from_slice(bytes).map_err(|error| unusable(format!("not a discovery document: {error}")))?;
    // To the letter: a document for another issuer, even one that differs by a slash, speaks of other tokens.
    if document.issuer.as_str() != issuer {
        let hint = crate::hints::issuer(issuer, document.issuer.as_str());
        let hint = hint.map(|hint| format!(" ({hint})")).unwrap_or_default();
        return Err(unusable(format!("its issuer is `{}`, not `{issuer}`{hint}", document.issuer.as_str())));
    }
    let url = document.jwks_uri.url().clone();
    fetch::allowed(&url, trust)?;
    if at.scheme() == "https" && url.scheme() != "https" && trust != Trust::AnyHttp {
        return Err(FetchError::Downgrade(url));
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(document: &str, issuer: &str) -> Result<Url, FetchError> {
        keys_address(document.as_bytes(), &"https://sso.example.com/x".parse().unwrap(), issuer, Trust::LoopbackHttp)
    }

    #[test]
    fn the_issuer_is_compared_to_the_letter() {
        let document = r#"{"issuer":"https://sso.example.com/","jwks_uri":"https://keys.example.com/jwks"}"#;
        assert_eq!(read(document, "https://sso.example.com/").unwrap().as_str(), "https://keys.example.com/jwks");
        let error = read(document, "https://sso.example.com").unwrap_err().to_string();
        assert!(error.contains("trailing slash"), "{error}");
    }

    #[test]
    fn keys_are_not_fetched_over_a_weaker_channel_than_the_document() {
        for uri in ["http://127.0.0.1/jwks", "http://keys.example.com/jwks", "file:///etc/passwd"] {
            let document = format!(r#"{{"issuer":"https://a.example","jwks_uri":"{uri}"}}"#);
            assert!(read(&document, "https://a.example").is_err(), "{uri}");
        }
    }

    #[test]
    fn html_and_halves_are_no_document() {
        for text in ["<html></html>", "", "{}", "[]", r#"{"issuer":"https://a.example"}"#, r#"{"issuer":1,"jwks_uri":2}"#] {
            assert!(read(text, "https://a.example").is_err(), "{text}");
        }
    }
}
