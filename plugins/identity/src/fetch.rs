//! The one HTTP client, for discovery documents, keys and questions about tokens.
//!
//! Strict where it protects: a total deadline, a size cap, no redirects, no plain HTTP beyond this machine unless
//! asked for. Lenient where real providers are sloppy: the content type is not looked at.

use crate::outbound::{self, AddressError, HttpClient, innermost, shown};
pub(crate) use crate::outbound::{Trust, TrustError};
use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use std::time::{Duration, SystemTime};
use url::Url;

/// The largest document that is read. Entra's key sets, the largest seen, have about 20 KiB.
pub(crate) const MOST_BYTES: usize = 512 << 10;

const USER_AGENT: &str = concat!("portcullis/", env!("CARGO_PKG_VERSION"));

/// Why a fetch gave nothing.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum FetchError {
    #[error("{0}: whoever can change that traffic could forge every token")]
    InsecureAddress(AddressError),
    #[error("{0}")]
    Refused(AddressError),
    #[error("{} is plain HTTP, but the issuer is HTTPS", shown(.0))]
    Downgrade(Url),
    #[error("cannot reach {}: {cause}", shown(url))]
    Connect { url: Url, cause: String },
    #[error("{} did not answer within {within:?}", shown(url))]
    Timeout { url: Url, within: Duration },
    #[error("{} answered {status}", shown(url))]
    Status { url: Url, status: StatusCode },
    #[error("{} answered {status} and points elsewhere; redirects are not followed, configure the final address", shown(url))]
    Redirect { url: Url, status: StatusCode },
    #[error("{} answered more than {MOST_BYTES} bytes", shown(url))]
    TooLarge { url: Url },
    #[error("{} answered what cannot be used: {cause}", shown(url))]
    Unusable { url: Url, cause: String },
}

/// An answer.
pub(crate) enum Fetched {
    Fresh { body: Bytes, etag: Option<Box<str>>, max_age: Option<Duration>, date: Option<SystemTime> },
    NotModified { max_age: Option<Duration>, date: Option<SystemTime> },
}

impl Fetched {
    /// Of a first question, to which there is no "not modified".
    pub fn body(self, url: &Url) -> Result<Bytes, FetchError> {
        match self {
            Self::Fresh { body, .. } => Ok(body),
            Self::NotModified { .. } => {
                Err(FetchError::Unusable { url: url.clone(), cause: "304 to a first question".to_owned() })
            }
        }
    }
}

/// Whether `url` may be asked at all.
pub(crate) fn allowed(url: &Url, trust: Trust) -> Result<(), FetchError> {
    outbound::allowed(url, trust).map_err(|error| match error {
        AddressError::Insecure(_) => FetchError::InsecureAddress(error),
        AddressError::Scheme(_) | AddressError::User(_) => FetchError::Refused(error),
    })
}

/// Cheap to clone.
#[derive(Clone)]
pub(crate) struct Client {
    http: HttpClient,
    trust: Trust,
}

impl Client {
    /// `roots` is a PEM bundle; without it, the public CAs.
    pub fn new(roots: Option<&[u8]>, trust: Trust) -> Result<Self, TrustError> {
        // No idle connections: fetches are minutes apart, and a connection must not outlive the runtime that made it.
        Self::keeping(0, roots, trust)
    }

    /// As `new`, for questions that follow each other closely: up to `idle` connections are kept for the next one.
    pub fn keeping(idle: usize, roots: Option<&[u8]>, trust: Trust) -> Result<Self, TrustError> {
        Ok(Self { http: outbound::client(idle, roots)?, trust })
    }

    pub fn trust(&self) -> Trust {
        self.trust
    }

    /// One GET. `etag` is of the answer that is still at hand.
    pub async fn get(&self, url: &Url, etag: Option<&str>, within: Duration) -> Result<Fetched, FetchError> {
        allowed(url, self.trust)?;
        match tokio::time::timeout(within, self.exchange(url, etag)).await {
            Ok(result) => result,
            Err(_) => Err(FetchError::Timeout { url: url.clone(), within }),
        }
    }

    /// One POST of a form. It is sent a second time if the connection breaks, for a kept one may have been closed at
    /// that very moment: only for what may be asked twice.
    pub async fn post(
        &self,
        url: &Url,
        authorization: Option<&HeaderValue>,
        form: String,
        within: Duration,
    ) -> Result<Bytes, FetchError> {
        allowed(url, self.trust)?;
        let form = Bytes::from(form);
        let sent = async {
            match self.send_form(url, authorization, form.clone()).await {
                Err(FetchError::Connect { .. }) => self.send_form(url, authorization, form).await,
                other => other,
            }
        };
        match tokio::time::timeout(within, sent).await {
            Ok(result) => result,
            Err(_) => Err(FetchError::Timeout { url: url.clone(), within }),
        }
    }

    async fn send_form(&self, url: &Url, authorization: Option<&HeaderValue>, form: Bytes) -> Result<Bytes, FetchError> {
        let broken = |cause: String| FetchError::Connect { url: url.clone(), cause };
        let mut request = Request::post(url.as_str())
            .header(header::ACCEPT, "application/json")
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(header::USER_AGENT, USER_AGENT);
        if let Some(value) = authorization {
            request = request.header(header::AUTHORIZATION, value);
        }
        let request = request.body(Full::new(form)).map_err(|error| broken(error.to_string()))?;
        let response = self.http.request(request).await.map_err(|error| broken(innermost(&error)))?;
        expect_ok(url, response.status())?;
        whole_body(url, response).await
    }

    async fn exchange(&self, url: &Url, etag: Option<&str>) -> Result<Fetched, FetchError> {
        let broken = |cause: String| FetchError::Connect { url: url.clone(), cause };
        let mut request = Request::get(url.as_str())
            .header(header::ACCEPT, "application/json, application/jwk-set+json, */*;q=0.1")
            .header(header::USER_AGENT, USER_AGENT);
        if let Some(etag) = etag {
            request = request.header(header::IF_NONE_MATCH, etag);
        }
        let request = request.body(Full::default()).map_err(|error| broken(error.to_string()))?;
        let response = self.http.request(request).await.map_err(|error| broken(innermost(&error)))?;
        let (max_age, date) = (max_age(response.headers()), date(response.headers()));
        let status = response.status();
        if status == StatusCode::NOT_MODIFIED && etag.is_some() {
            return Ok(Fetched::NotModified { max_age, date });
        }
        expect_ok(url, status)?;
        let etag = response.headers().get(header::ETAG).and_then(|value| value.to_str().ok()).map(Box::from);
        Ok(Fetched::Fresh { body: whole_body(url, response).await?, etag, max_age, date })
    }
}

fn expect_ok(url: &Url, status: StatusCode) -> Result<(), FetchError> {
    if status.is_redirection() {
        return Err(FetchError::Redirect { url: url.clone(), status });
    }
    if status != StatusCode::OK {
        return Err(FetchError::Status { url: url.clone(), status });
    }
    Ok(())
}

async fn whole_body(url: &Url, response: http::Response<hyper::body::Incoming>) -> Result<Bytes, FetchError> {
    match Limited::new(response.into_body(), MOST_BYTES).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => Err(FetchError::TooLarge { url: url.clone() }),
        Err(error) => Err(FetchError::Connect { url: url.clone(), cause: error.to_string() }),
    }
}

/// What the server's clock says now: a cache on the way keeps the `Date` of the answer, and tells its `Age`.
fn date(headers: &http::HeaderMap) -> Option<SystemTime> {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let date = httpdate::parse_http_date(text(header::DATE)?).ok()?;
    match text(header::AGE) {
        None => Some(date),
        Some(age) => date.checked_add(Duration::from_secs(age.trim().parse().ok()?)),
    }
}

/// `no-store` and `no-cache` say nothing about how soon the content changes, so they count as nothing said.
fn max_age(headers: &http::HeaderMap) -> Option<Duration> {
    headers
        .get_all(header::CACHE_CONTROL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .find_map(|directive| {
            let (name, value) = directive.split_once('=')?;
            if !name.trim().eq_ignore_ascii_case("max-age") {
                return None;
            }
            value.trim().trim_matches('"').parse().ok().map(Duration::from_secs)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_went_wrong_is_told_without_what_may_be_a_secret() {
        let url = || Url::parse("https://keys.example.com/jwks?api_key=s3cret").unwrap();
        let (cause, within, status) = (String::new(), Duration::from_secs(1), StatusCode::BAD_GATEWAY);
        for error in [
            FetchError::Downgrade(url()),
            FetchError::Connect { url: url(), cause: cause.clone() },
            FetchError::Timeout { url: url(), within },
            FetchError::Status { url: url(), status },
            FetchError::Redirect { url: url(), status },
            FetchError::TooLarge { url: url() },
            FetchError::Unusable { url: url(), cause },
        ] {
            let text = error.to_string();
            assert!(text.contains("https://keys.example.com/jwks?…") && !text.contains("s3cret"), "{text}");
        }
    }

    #[test]
    fn max_age_is_found_among_directives() {
        let headers = |value: &str| {
            let mut headers = http::HeaderMap::new();
            headers.insert(header::CACHE_CONTROL, value.parse().unwrap());
            headers
        };
        assert_eq!(max_age(&headers("public, max-age=19845, must-revalidate")), Some(Duration::from_secs(19_845)));
        assert_eq!(max_age(&headers("no-store")), None);
        assert_eq!(max_age(&headers("max-age=-1")), None);
    }
}
