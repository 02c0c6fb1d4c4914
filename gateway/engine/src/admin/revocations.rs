//! `POST /revocations`: whoever has the secret says which tokens are revoked, in the form of RFC 7009, section 2.1.
//!
//! ```text
//! token=…                     the token, as clients send it
//! iss=…&jti=…[&exp=…]         its issuer and its id, and when it ends (seconds since 1970)
//! ```
//!
//! Closed unless `admin.revocations` is configured, and with a secret of its own: who may end a token is not who may read
//! what was decided. The token itself is shown nowhere, neither in an answer nor in a log.

use super::routes::{bearer, json_body};
use super::{AdminToken, Shared};
use crate::audit::Event;
use crate::config::raw;
use axum::body::to_bytes;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use portcullis_identity::{NotRevoked, Revoked};
use portcullis_plugin::{ConfigError, Env};
use serde_json::json;
use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use url::form_urlencoded;

/// Of the form. A token is hardly longer than a request's head.
const MOST_BYTES: usize = 64 << 10;
/// Of an issuer's identifier or a token's id.
const LONGEST_NAME: usize = 1024;

const SHORTEST_KEEP: Duration = Duration::from_secs(3600);
const LONGEST_KEEP: Duration = Duration::from_secs(366 * 86_400);
const MOST_ENTRIES: usize = 10_000_000;

/// Who may tell, and how much is remembered.
#[derive(Debug)]
pub(super) struct Settings {
    secret: AdminToken,
    keep: Duration,
    most: usize,
}

impl Settings {
    pub fn compile(raw: raw::Revocations, env: &Env) -> Result<Self, ConfigError> {
        let raw::Revocations { secret_file, keep, max_entries } = raw;
        if !(SHORTEST_KEEP..=LONGEST_KEEP).contains(&keep.get()) {
            return Err(ConfigError::new(format!("a revocation is remembered for {keep}")).help("1h to 366d").at("keep"));
        }
        if !(1..=MOST_ENTRIES).contains(&max_entries) {
            let error = ConfigError::new(format!("room for {max_entries} revocations"));
            return Err(error.help(format!("1 to {MOST_ENTRIES}")).at("max_entries"));
        }
        let secret = AdminToken::read(&secret_file, env).map_err(|error| error.at("secret_file"))?;
        Ok(Self { secret, keep: keep.get(), most: max_entries })
    }
}

/// What the form says. It has no `Debug` but in tests, so that it ends up in no log.
#[cfg_attr(test, derive(Debug, PartialEq, Eq))]
#[derive(Default)]
struct Form<'a> {
    token: Option<Cow<'a, str>>,
    issuer: Option<Cow<'a, str>>,
    jti: Option<Cow<'a, str>>,
    exp: Option<u64>,
}

pub(super) async fn tell(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let Some(settings) = shared.revocations.load_full() else {
        // As everywhere where there is nothing.
        return if shared.is_open_to(request.headers()) {
            StatusCode::NOT_FOUND.into_response()
        } else {
            super::routes::closed(&shared, &request)
        };
    };
    if !bearer(request.headers()).is_some_and(|only| settings.secret.is_in(only)) {
        return super::routes::closed(&shared, &request);
    }
    if request.method() != Method::POST {
        return (StatusCode::METHOD_NOT_ALLOWED, [(header::ALLOW, "POST")]).into_response();
    }
    if !is_form(request.headers()) {
        return refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, "the content type is not application/x-www-form-urlencoded");
    }
    let Ok(body) = to_bytes(request.into_body(), MOST_BYTES).await else {
        return refuse(StatusCode::PAYLOAD_TOO_LARGE, "the form is too long, or it broke off");
    };
    match read(&body) {
        Ok(form) => form.tell(&shared, &settings),
        Err(what) => refuse(StatusCode::BAD_REQUEST, &what),
    }
}

fn is_form(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = value.split(';').next().unwrap_or_default().trim();
    kind.eq_ignore_ascii_case("application/x-www-form-urlencoded")
}

/// No error repeats a value.
fn read(body: &[u8]) -> Result<Form<'_>, String> {
    let mut form = Form::default();
    let mut hinted = false;
    for (name, value) in form_urlencoded::parse(body) {
        let twice = match &*name {
            "token" => form.token.replace(value).is_some(),
            "iss" => form.issuer.replace(value).is_some(),
            "jti" => form.jti.replace(value).is_some(),
            "exp" => {
                let exp = value.parse().map_err(|_| "`exp` is not a whole number of seconds since 1970".to_owned())?;
                form.exp.replace(exp).is_some()
            }
            // RFC 7009 lets clients send it. Tokens of every kind are looked for in any case.
            "token_type_hint" => std::mem::replace(&mut hinted, true),
            _ => return Err("a parameter that is not known: there are token, token_type_hint, iss, jti and exp".to_owned()),
        };
        if twice {
            return Err(format!("`{name}` is there twice"));
        }
    }
    if let Some(token) = &form.token
        && !is_token(token)
    {
        return Err("`token` is empty, or has characters that no token has; a `+` in it is written %2B".to_owned());
    }
    for (name, value) in [("iss", &form.issuer), ("jti", &form.jti)] {
        let good = |text: &str| {
            !text.is_empty() && text.len() <= LONGEST_NAME && !text.chars().any(|c| c.is_control() || c == '\u{fffd}')
        };
        if value.as_deref().is_some_and(|text| !good(text)) {
            return Err(format!("`{name}` is empty, longer than {LONGEST_NAME} bytes, or not UTF-8 without control characters"));
        }
    }
    match (&form.token, &form.issuer, &form.jti) {
        (None, None, None) => Err("nothing is named: give `token`, or `iss` and `jti`".to_owned()),
        (_, Some(_), None) | (_, None, Some(_)) => {
            Err("`iss` and `jti` are given together: an id is unique within its issuer".to_owned())
        }
        (Some(_), None, None) if form.exp.is_some() => Err("`exp` belongs to `jti`: the end of a token is in it".to_owned()),
        _ => Ok(form),
    }
}

/// RFC 6750, section 2.1, as where requests bring it.
fn is_token(text: &str) -> bool {
    let body = text.trim_end_matches('=');
    !body.is_empty() && body.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~' | b'+' | b'/'))
}

impl Form<'_> {
    fn tell(&self, shared: &Shared, settings: &Settings) -> Response {
        let id = self.issuer.as_deref().zip(self.jti.as_deref());
        let told =
            [self.token.as_deref().map(Revoked::Token), id.map(|(issuer, jti)| Revoked::Id { issuer, jti, exp: self.exp })];
        let issuers = (shared.shown.issuers)();
        let mut until: Option<SystemTime> = None;
        for revoked in told.into_iter().flatten() {
            let result = issuers.revoke(revoked, SystemTime::now(), settings.keep, settings.most);
            let id = match revoked {
                Revoked::Token(_) => None,
                Revoked::Id { .. } => id,
            };
            let sha256 = result.as_ref().ok().and_then(|told| told.sha256.as_deref());
            let (end, error) = (result.as_ref().ok().map(|told| told.until), result.as_ref().err().map(ToString::to_string));
            shared.shown.audit.load().event(&Event::TokenRevoked { id, sha256, until: end, error: error.as_deref() });
            match result {
                Ok(told) => until = until.max(Some(told.until)),
                Err(error @ NotRevoked::Full(_)) => {
                    tracing::error!(%error, "a revocation was not taken: the token may go on being accepted");
                    return refuse(
                        StatusCode::SERVICE_UNAVAILABLE,
                        &format!("not taken: {error}; raise `admin.revocations.max_entries`"),
                    );
                }
                Err(error @ NotRevoked::UnknownIssuer(_)) => {
                    return refuse(StatusCode::BAD_REQUEST, &format!("not taken: {error}"));
                }
            }
        }
        let seconds = |until: SystemTime| OffsetDateTime::from(until).replace_nanosecond(0).ok()?.format(&Rfc3339).ok();
        let until = until.and_then(seconds);
        tracing::info!(by_token = self.token.is_some(), by_id = self.jti.is_some(), until, "told of a revocation");
        json_body(StatusCode::OK, &json!({ "revoked": true, "until": until }))
    }
}

fn refuse(status: StatusCode, message: &str) -> Response {
    json_body(status, &json!({ "error": message }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_names_a_token_or_an_id_and_nothing_that_is_not_understood() {
        let form = read(b"token=a.b%2Bc%3D%3D&token_type_hint=access_token").unwrap();
        assert_eq!(form, Form { token: Some("a.b+c==".into()), ..Form::default() });
        let form = read(b"iss=https%3A%2F%2Fa.example%2F&jti=7&exp=1800000000").unwrap();
        assert_eq!(
            (form.issuer.as_deref(), form.jti.as_deref(), form.exp),
            (Some("https://a.example/"), Some("7"), Some(1_800_000_000))
        );
        assert!(read(b"token=t&iss=i&jti=j&exp=1").is_ok());
        for bad in [
            "",
            "token=",
            "token=a b",
            "token=a+b",
            "token=%zz",
            "token=%ff",
            "token=a&token=b",
            "token=a&token_type_hint=x&token_type_hint=y",
            "token=a&exp=1",
            "token=a&jti=b",
            "jti=b",
            "iss=b",
            "exp=1",
            "iss=&jti=b",
            "iss=a&jti=%00",
            "iss=a&jti=%ff",
            "iss=a&jti=b&exp=-1",
            "iss=a&jti=b&exp=1.5",
            "token=a&client_secret=hunter2hunter2",
        ] {
            let error = read(bad.as_bytes()).unwrap_err();
            assert!(!error.contains("hunter2"), "{bad}: {error}");
        }
        let long = format!("iss=a&jti={}", "b".repeat(LONGEST_NAME + 1));
        assert!(read(long.as_bytes()).is_err());
    }
}
