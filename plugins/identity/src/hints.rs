//! What probably went wrong: the common causes of a mismatch, recognised from both sides of it.

/// Why two issuers that should be one are not.
pub(crate) fn issuer(expected: &str, observed: &str) -> Option<&'static str> {
    let slash = |text: &str| text.trim_end_matches('/').to_owned();
    let bare = |text: &str| {
        let text = slash(text);
        text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).map(str::to_owned).unwrap_or(text)
    };
    if slash(expected) == slash(observed) {
        return Some("they differ by a trailing slash; configure `issuer` exactly as the token has it");
    }
    if bare(expected) == bare(observed) {
        return Some("they differ by http and https; the provider probably does not know that it is behind TLS");
    }
    if expected.eq_ignore_ascii_case(observed) {
        return Some("they differ by case");
    }
    let entra = |text: &str| text.contains("login.microsoftonline.com/");
    if text_is_v1(observed) && entra(expected) {
        return Some(
            "a v1 token of Entra where v2 is configured: set `accessTokenAcceptedVersion: 2` in the API's app registration",
        );
    }
    if text_is_v1(expected) && entra(observed) {
        return Some("a v2 token of Entra where v1 is configured: use the issuer that ends in /v2.0");
    }
    if entra(expected) && entra(observed) {
        return Some(
            "another tenant of Entra, or none (`{tenantid}`, `common`): configure the tenant's own issuer; for several, `{tenantid}` in `issuer` and a list of `tenants`",
        );
    }
    if bare(expected).replacen("/auth/realms/", "/realms/", 1) == bare(observed).replacen("/auth/realms/", "/realms/", 1) {
        return Some("they differ by /auth, which Keycloak dropped in version 17");
    }
    let path = |text: &str| bare(text).split_once('/').map(|(_, path)| path.to_owned());
    if path(expected).is_some() && path(expected) == path(observed) {
        return Some(
            "the same path on another host: the provider was reached under another name when it issued the token; fix its public address",
        );
    }
    None
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
            ("https://a.example/r", "http://a.example/r", "http and https"),
            ("https://a.example/R", "https://a.example/r", "case"),
            ("https://login.microsoftonline.com/t/v2.0", "https://sts.windows.net/t/", "v1 token"),
            ("https://sts.windows.net/t/", "https://login.microsoftonline.com/t/v2.0", "v2 token"),
            ("https://sso.example/realms/a", "https://sso.example/auth/realms/a", "/auth"),
            ("https://sso.example/realms/a", "http://keycloak:8080/realms/a", "another host"),
        ] {
            assert!(issuer(expected, observed).is_some_and(|hint| hint.contains(part)), "{expected} {observed}");
        }
        assert_eq!(issuer("https://a.example", "https://b.example"), None);
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
