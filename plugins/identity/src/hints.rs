//! What probably went wrong: the common causes of a mismatch, recognised from both sides of it.

use crate::issuers::Issuer;
use std::borrow::Cow;
use std::sync::Arc;

/// Why two issuers that should be one are not.
pub(crate) fn issuer(expected: &str, observed: &str) -> Option<Cow<'static, str>> {
    ranked(expected, observed).map(|(_, hint)| hint)
}

/// As [`issuer`], of several that a token could be of: of the one that it probably is. Says which.
pub fn nearest_issuer(issuers: &[Arc<Issuer>], observed: &str) -> Option<String> {
    let all = issuers.iter().filter_map(|issuer| Some((issuer, ranked(issuer.identifier(), observed)?)));
    let (issuer, (_, hint)) = all.min_by_key(|(_, (rank, _))| *rank)?;
    Some(format!("it is nearly that of `{}`, {}: {hint}", issuer.name(), issuer.identifier()))
}

/// The lower the number, the nearer they are to each other.
fn ranked(expected: &str, observed: &str) -> Option<(u8, Cow<'static, str>)> {
    let (one, other) = (Parts::of(expected), Parts::of(observed));
    if one.rest == other.rest && (one.scheme, one.slash) != (other.scheme, other.slash) {
        return Some((0, spelling(&one, &other)));
    }
    if expected.eq_ignore_ascii_case(observed) {
        return (expected != observed).then_some((1, "they differ by case".into()));
    }
    let entra = |text: &str| text.contains("login.microsoftonline.com/");
    if text_is_v1(observed) && entra(expected) {
        let hint =
            "a v1 token of Entra where v2 is configured: set `accessTokenAcceptedVersion: 2` in the API's app registration";
        return Some((if same_tenant(expected, observed) { 2 } else { 6 }, hint.into()));
    }
    if text_is_v1(expected) && entra(observed) {
        let hint = "a v2 token of Entra where v1 is configured: use the issuer that ends in /v2.0";
        return Some((if same_tenant(expected, observed) { 2 } else { 6 }, hint.into()));
    }
    if entra(expected) && entra(observed) {
        let hint = "another tenant of Entra, or none (`{tenantid}`, `common`): configure the tenant's own issuer; for several, `{tenantid}` in `issuer` and a list of `tenants`";
        return Some((7, hint.into()));
    }
    if one.rest.replacen("/auth/realms/", "/realms/", 1) == other.rest.replacen("/auth/realms/", "/realms/", 1) {
        return Some((3, "they differ by /auth, which Keycloak dropped in version 17".into()));
    }
    let path = |rest: &str| rest.split_once('/').map(|(_, path)| path.to_owned());
    if path(one.rest).is_some() && path(one.rest) == path(other.rest) {
        let hint = "the same path on another host: the provider was reached under another name when it issued the token; fix its public address";
        return Some((4, hint.into()));
    }
    None
}

/// An identifier in its parts.
struct Parts<'t> {
    scheme: Option<&'static str>,
    rest: &'t str,
    slash: bool,
}

impl<'t> Parts<'t> {
    fn of(text: &'t str) -> Self {
        let schemes = ["https", "http"].into_iter();
        let found = schemes.filter_map(|scheme| Some((scheme, text.strip_prefix(scheme)?.strip_prefix("://")?))).next();
        let (scheme, rest) = found.map_or((None, text), |(scheme, rest)| (Some(scheme), rest));
        Self { scheme, rest: rest.trim_end_matches('/'), slash: rest.ends_with('/') }
    }
}

/// They are one but for how they are written.
fn spelling(expected: &Parts<'_>, observed: &Parts<'_>) -> Cow<'static, str> {
    let schemes = match (expected.scheme, observed.scheme) {
        (one, other) if one == other => None,
        (Some("https"), Some(_)) => Some((
            "they differ by http and https",
            "the provider probably does not know that it is behind TLS: fix its public address",
        )),
        (Some(_), Some(_)) => Some(("they differ by http and https", "configure `issuer` with https, as the token has it")),
        _ => Some((
            "one of them has no https://, and Google writes its issuer both ways",
            "configure `issuer` exactly as the token has it, with `jwks_uri`",
        )),
    };
    match (schemes, expected.slash != observed.slash) {
        (None, _) => "they differ by a trailing slash; configure `issuer` exactly as the token has it".into(),
        (Some((differ, what)), false) => format!("{differ}; {what}").into(),
        (Some((differ, what)), true) => format!("{differ}, and by a trailing slash as well; {what}").into(),
    }
}

/// Whether a segment of one, its tenant, stands in the other.
fn same_tenant(one: &str, other: &str) -> bool {
    one.split('/').any(|part| part.len() == 36 && other.split('/').any(|other| other == part))
}

fn text_is_v1(issuer: &str) -> bool {
    issuer.starts_with("https://sts.windows.net/")
}

/// Why none of `observed` is among `expected`. `client` is the application that the token was issued to.
pub(crate) fn audience(expected: &[Box<str>], observed: &[&str], client: Option<&str>) -> Option<&'static str> {
    let any = |same: &dyn Fn(&str, &str) -> bool| expected.iter().any(|one| observed.iter().any(|other| same(one, other)));
    let bare = |text: &str| text.strip_prefix("api://").unwrap_or(text).to_owned();
    if any(&|one, other| bare(one) == bare(other)) {
        return Some("they differ by `api://`: Entra v2 tokens have the bare client id, v1 tokens the App ID URI");
    }
    if any(&|one, other| one.trim_end_matches('/') == other.trim_end_matches('/')) {
        return Some("they differ by a trailing slash");
    }
    if any(&|one, other| one.eq_ignore_ascii_case(other)) {
        return Some("they differ by case");
    }
    if observed == ["account"] {
        return Some("Keycloak's default: add an audience mapper for this API to the client or to a client scope");
    }
    if observed.contains(&"00000003-0000-0000-c000-000000000000") || observed.contains(&"https://graph.microsoft.com") {
        return Some("a token for Microsoft Graph: have the client ask for a scope of this API (`api://…/.default`)");
    }
    if client.is_some_and(|client| observed == [client]) {
        return Some("the audience is the client itself: probably an ID token, send the access token");
    }
    if observed.is_empty() {
        return Some("the token names no audience: have the client ask for this API (`audience` or `resource`)");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_issuer_mistakes_are_recognised() {
        for (expected, observed, part) in [
            ("https://a.example/r", "https://a.example/r/", "trailing slash"),
            ("https://a.example/r", "http://a.example/r", "behind TLS"),
            ("http://a.example/r", "https://a.example/r", "with https, as the token"),
            ("http://a.example/r", "https://a.example/r/", "http and https, and by a trailing slash as well; configure"),
            ("https://a.example/r/", "http://a.example/r", "a trailing slash as well; the provider"),
            ("https://accounts.google.com", "accounts.google.com", "both ways"),
            ("https://a.example/R", "https://a.example/r", "case"),
            ("https://login.microsoftonline.com/t/v2.0", "https://sts.windows.net/t/", "v1 token"),
            ("https://sts.windows.net/t/", "https://login.microsoftonline.com/t/v2.0", "v2 token"),
            ("https://sso.example/realms/a", "https://sso.example/auth/realms/a", "/auth"),
            ("https://sso.example/realms/a", "http://keycloak:8080/realms/a", "another host"),
        ] {
            assert!(issuer(expected, observed).is_some_and(|hint| hint.contains(part)), "{expected} {observed}");
        }
        for (expected, observed) in [("https://a.example", "https://b.example"), ("https://a.example/", "https://a.example/")] {
            assert_eq!(issuer(expected, observed), None);
        }
        // Not the other way round: the gateway asks without TLS, and the token is right.
        assert!(!issuer("http://a.example", "https://a.example").unwrap().contains("behind TLS"));
    }

    #[test]
    fn common_audience_mistakes_are_recognised() {
        let expected: &[Box<str>] = &["api://orders".into()];
        for (observed, client, part) in [
            (vec!["orders"], None, "api://"),
            (vec!["api://orders/"], None, "trailing slash"),
            (vec!["account"], None, "Keycloak"),
            (vec!["web"], Some("web"), "ID token"),
            (vec![], None, "no audience"),
        ] {
            assert!(audience(expected, &observed, client).is_some_and(|hint| hint.contains(part)), "{observed:?}");
        }
        assert_eq!(audience(expected, &["x"], Some("y")), None);
    }
}
