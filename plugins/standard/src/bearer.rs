//! Access tokens in HTTP (RFC 6750, and RFC 9449 for the DPoP scheme): where they may stand, and how a refusal is worded.

use portcullis_plugin::{Headers, RequestHead};

/// How a token was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TokenScheme {
    Bearer,
    /// With a proof of possession (RFC 9449).
    Dpop,
}

impl TokenScheme {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Bearer => "Bearer",
            Self::Dpop => "DPoP",
        }
    }

    fn of(name: &[u8]) -> Option<Self> {
        [Self::Bearer, Self::Dpop].into_iter().find(|scheme| scheme.name().as_bytes().eq_ignore_ascii_case(name))
    }
}

/// The token of a request, once `oidc` has verified it and taken it out of the request's headers, with what its sender
/// has proven. It has no `Debug`, so that it ends up in no log.
#[derive(Clone)]
pub(crate) struct VerifiedToken {
    token: String,
    scheme: TokenScheme,
}

impl VerifiedToken {
    /// A token of the scheme `Dpop` only together with a good proof.
    pub(crate) fn new(token: String, scheme: TokenScheme) -> Self {
        Self { token, scheme }
    }

    /// For the upstream, and for another filter that verifies it.
    pub(crate) fn expose(&self) -> &str {
        &self.token
    }

    pub(crate) fn scheme(&self) -> TokenScheme {
        self.scheme
    }
}

/// What the `Authorization` header holds.
#[derive(PartialEq, Eq)]
pub(crate) enum Presented<'a> {
    Nothing,
    Token(TokenScheme, &'a str),
    /// Another scheme; the text says which, if it is a known one.
    OtherScheme(&'static str),
    /// What is wrong; never the value.
    Malformed(&'static str),
}

/// Reads the one place where a token is looked for.
pub(crate) fn read(headers: &Headers) -> Presented<'_> {
    let mut all = headers.get_all("authorization");
    let Some(value) = all.next() else { return Presented::Nothing };
    if all.next().is_some() {
        return Presented::Malformed("more than one Authorization header");
    }
    let Some((scheme, rest)) = split_scheme(value) else {
        // Without a scheme, the whole value may be a secret: nothing of it is repeated.
        return Presented::OtherScheme("an Authorization header without the Bearer scheme");
    };
    let Some(scheme) = TokenScheme::of(scheme) else { return Presented::OtherScheme(known_scheme(scheme)) };
    let token = rest.trim_ascii_start();
    if token.is_empty() {
        return Presented::Malformed("no token after the scheme");
    }
    // b64token of RFC 6750, section 2.1: no comma, no quote, no second word.
    let body = token.iter().position(|b| *b == b'=').unwrap_or(token.len());
    let (body, padding) = token.split_at(body);
    let good = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~' | b'+' | b'/');
    let text = std::str::from_utf8(token)
        .ok()
        .filter(|_| !body.is_empty() && body.iter().all(good) && padding.iter().all(|b| *b == b'='));
    text.map_or_else(|| Presented::Malformed(misspelt(token)), |token| Presented::Token(scheme, token))
}

/// What is probably wrong with what is no token.
fn misspelt(value: &[u8]) -> &'static str {
    let word = value.split(|b| *b == b' ').next().unwrap_or_default();
    if TokenScheme::of(word.trim_ascii_end()).is_some() {
        return "the scheme twice, as in `Bearer Bearer`";
    }
    match value {
        [b'"' | b'\'' | b'<' | b'{', ..] => "a token in quotation marks or brackets",
        _ => "characters that no token has (RFC 6750, section 2.1)",
    }
}

/// The scheme and what follows its first space. A lone `Bearer` or `DPoP` is the scheme without a token.
fn split_scheme(value: &[u8]) -> Option<(&[u8], &[u8])> {
    match value.iter().position(|b| *b == b' ') {
        Some(space) => Some((value.get(..space)?, value.get(space + 1..)?)),
        None if TokenScheme::of(value).is_some() => Some((value, b"")),
        None => None,
    }
}

/// What is observed of an API key where a token belongs.
pub(crate) const API_KEY_SCHEME: &str = "an Authorization header with the ApiKey scheme";

fn known_scheme(scheme: &[u8]) -> &'static str {
    const KNOWN: &[(&str, &str)] = &[
        ("apikey", API_KEY_SCHEME),
        ("basic", "an Authorization header with the Basic scheme"),
        ("digest", "an Authorization header with the Digest scheme"),
        ("negotiate", "an Authorization header with the Negotiate scheme"),
    ];
    KNOWN
        .iter()
        .find(|(name, _)| name.as_bytes().eq_ignore_ascii_case(scheme))
        .map_or("an Authorization header with another scheme", |(_, text)| text)
}

/// Removes every access token from `Authorization`; other schemes stay.
pub(crate) fn remove(headers: &mut Headers) {
    let is_token = |value: &[u8]| split_scheme(value).is_some_and(|(scheme, _)| TokenScheme::of(scheme).is_some());
    headers.retain(|name, value| !(name.eq_ignore_ascii_case("authorization") && is_token(value)));
}

/// Where a client put its token instead of in `Authorization`, for a hint. Names a place, never a value.
pub(crate) fn elsewhere(request: &RequestHead) -> Option<String> {
    const PARAMETERS: &[&str] = &["access_token", "token", "id_token", "jwt", "bearer", "authorization"];
    const FIELDS: &[&str] = &[
        "x-access-token",
        "x-auth-token",
        "x-id-token",
        "x-jwt",
        "x-forwarded-access-token",
        "x-forwarded-authorization",
        "token",
    ];
    let known = |name: &str| PARAMETERS.iter().find(|known| known.eq_ignore_ascii_case(name));
    if let Some(name) = pairs(request.query().unwrap_or_default(), '&').find_map(|(name, _)| known(name)) {
        return Some(format!("the query parameter `{name}`"));
    }
    if let Some((name, _)) = pairs(request.query().unwrap_or_default(), '&').find(|(_, value)| is_like_a_jwt(value.as_bytes())) {
        return Some(parameter(name));
    }
    for cookies in request.headers().get_all("cookie").filter_map(|value| std::str::from_utf8(value).ok()) {
        if let Some(name) = pairs(cookies, ';').find_map(|(name, _)| known(name)) {
            return Some(format!("the cookie `{name}`"));
        }
        if pairs(cookies, ';').any(|(_, value)| is_like_a_jwt(value.as_bytes())) {
            return Some("a cookie".to_owned());
        }
    }
    let field = |(name, value): &(&str, &[u8])| {
        !name.eq_ignore_ascii_case("authorization")
            && (FIELDS.iter().any(|known| known.eq_ignore_ascii_case(name))
                || is_like_a_jwt(split_scheme(value).map_or(*value, |(_, rest)| rest)))
    };
    request.headers().iter().find(field).map(|(name, _)| format!("the header `{}`", name.to_ascii_lowercase()))
}

/// A parameter's name is the client's own text, and may be a secret itself.
pub(crate) fn parameter(name: &str) -> String {
    let plain = name.len() <= 24 && name.bytes().all(|b| b.is_ascii_lowercase() || matches!(b, b'-' | b'_'));
    if plain { format!("the query parameter `{name}`") } else { "a query parameter".to_owned() }
}

pub(crate) fn pairs(text: &str, separator: char) -> impl Iterator<Item = (&str, &str)> {
    text.split(separator).filter_map(|pair| pair.trim().split_once('='))
}

/// The header of every JWT is a JSON object, and `{"` begins `eyJ` in base64.
fn is_like_a_jwt(value: &[u8]) -> bool {
    value.starts_with(b"eyJ") && value.iter().filter(|b| **b == b'.').count() >= 2
}

/// A `WWW-Authenticate` value. What the client learns is one of a few fixed sentences, and never a value.
pub(crate) struct Challenge<'a> {
    pub(crate) scheme: TokenScheme,
    /// The host that was asked: it is what the client named itself.
    pub(crate) realm: &'a str,
    /// `error` and `error_description` of RFC 6750, section 3.1; none if there were no credentials at all.
    pub(crate) error: Option<(&'static str, &'static str)>,
    /// The scopes needed, separated by spaces; only for `insufficient_scope`.
    pub(crate) scope: Option<&'a str>,
    /// The algorithms that a proof may be signed with, separated by spaces (RFC 9449, section 7.1).
    pub(crate) algs: Option<&'a str>,
}

impl std::fmt::Display for Challenge<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let realm: String = self.realm.chars().filter(|c| c.is_ascii_graphic() && !matches!(c, '"' | '\\')).collect();
        write!(f, "{} realm=\"{realm}\"", self.scheme.name())?;
        if let Some((error, description)) = self.error {
            write!(f, ", error=\"{error}\", error_description=\"{description}\"")?;
        }
        if let Some(scope) = self.scope {
            write!(f, ", scope=\"{scope}\"")?;
        }
        match self.algs {
            Some(algs) => write!(f, ", algs=\"{algs}\""),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::{Call, headers};

    fn presented(value: &str) -> String {
        match read(&headers(&[("Authorization", value)])) {
            Presented::Nothing => "nothing".into(),
            Presented::Token(TokenScheme::Bearer, token) => format!("token {token}"),
            Presented::Token(TokenScheme::Dpop, token) => format!("dpop token {token}"),
            Presented::OtherScheme(what) => format!("other: {what}"),
            Presented::Malformed(what) => format!("malformed: {what}"),
        }
    }

    #[test]
    fn the_scheme_has_no_case_and_the_token_its_alphabet() {
        for value in ["Bearer a.b-_~+/c", "bearer a.b-_~+/c", "BEARER   a.b-_~+/c"] {
            assert_eq!(presented(value), "token a.b-_~+/c");
        }
        assert_eq!(presented("Bearer abc=="), "token abc==");
        for value in
            ["Bearer a b", "Bearer a,b", "Bearer a\"b", "Bearer a=b", "Bearer =", "Bearer é", "Bearer a, Basic b", "Bearer a\tb"]
        {
            assert!(presented(value).starts_with("malformed: characters"), "{value}");
        }
        for value in ["Bearer Bearer abc", "bearer  BEARER  abc", "Bearer DPoP abc"] {
            assert!(presented(value).starts_with("malformed: the scheme twice"), "{value}");
        }
        for value in ["Bearer \"abc\"", "Bearer 'abc'", "Bearer <abc>", "Bearer {abc}"] {
            assert!(presented(value).starts_with("malformed: a token in quotation marks"), "{value}");
        }
        assert_eq!(presented("Bearer"), "malformed: no token after the scheme");
        assert_eq!(presented("Bearer "), "malformed: no token after the scheme");
    }

    #[test]
    fn other_schemes_are_named_and_their_values_are_not() {
        assert_eq!(presented("apikey pc_x"), "other: an Authorization header with the ApiKey scheme");
        assert_eq!(presented("Basic dTpw"), "other: an Authorization header with the Basic scheme");
        for value in ["eyJhbGciOi.secret.sig", "sk_live_secret", "Token secret", "Bearersecret x"] {
            let text = presented(value);
            assert!(text.starts_with("other: ") && !text.contains("secret"), "{text}");
        }
    }

    #[test]
    fn two_headers_are_never_one_token() {
        let two = headers(&[("Authorization", "Bearer good"), ("authorization", "Bearer other")]);
        assert!(matches!(read(&two), Presented::Malformed(_)));
        assert!(matches!(read(&headers(&[])), Presented::Nothing));
        // A look-alike is another header.
        assert!(matches!(read(&headers(&[("x_authorization", "Bearer a")])), Presented::Nothing));
    }

    #[test]
    fn a_token_in_another_place_is_found_for_the_hint() {
        let jwt = "eyJhbGciOiJub25lIn0.e30.c2ln";
        for (call, place) in [
            (Call::get(&format!("/?a=b&access_token={jwt}")), "the query parameter `access_token`"),
            (Call::get(&format!("/?a=b&at={jwt}")), "the query parameter `at`"),
            (Call::get(&format!("/?{jwt}={jwt}")), "a query parameter"),
            (Call::get("/").header("cookie", format!("a=b; access_token={jwt}")), "the cookie `access_token`"),
            (Call::get("/").header("cookie", format!("session={jwt}")), "a cookie"),
            (Call::get("/").header("X-Access-Token", "opaque"), "the header `x-access-token`"),
            (Call::get("/").header("X-My-Token", format!("Bearer {jwt}")), "the header `x-my-token`"),
        ] {
            assert_eq!(elsewhere(&call.request).as_deref(), Some(place));
        }
        assert_eq!(elsewhere(&Call::get("/?a=b").header("cookie", "a=b").header("accept", "x").request), None);
    }

    #[test]
    fn only_bearer_tokens_are_removed() {
        let mut fields = headers(&[("Authorization", "BEARER a"), ("authorization", "Basic b"), ("authorization", "bearer")]);
        remove(&mut fields);
        assert_eq!(crate::test_support::values(&fields, "authorization"), ["Basic b"]);
    }

    proptest::proptest! {
        #[test]
        fn whatever_is_a_token_has_only_its_alphabet(value in proptest::collection::vec(0x20_u8.., 0..60)) {
            let mut fields = Headers::new();
            let value = [b"Bearer ".as_slice(), &value].concat();
            if fields.append("authorization", &value).is_ok() && let Presented::Token(_, token) = read(&fields) {
                proptest::prop_assert!(token.bytes().all(|b| b.is_ascii_graphic() && !b",;\"\\".contains(&b)));
            }
        }
    }

    #[test]
    fn a_challenge_cannot_be_broken_out_of() {
        let challenge = Challenge { scheme: TokenScheme::Bearer, realm: "a\"b\\\r\n", error: None, scope: None, algs: None };
        assert_eq!(challenge.to_string(), "Bearer realm=\"ab\"");
    }
}
