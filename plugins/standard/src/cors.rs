//! Lets pages of other origins call this route from a browser (Fetch standard, CORS protocol).
//!
//! ```yaml
//! - cors: { origins: ["https://app.example.com"], methods: [GET, POST], headers: [content-type, authorization], max_age: 10m }
//! ```
//!
//! Put it before filters that authenticate: a preflight is an `OPTIONS` request without credentials. A route whose `match`
//! names methods takes the preflights for these methods too. It is answered here, with 204 or, if it asks for anything
//! that is not listed, with 403. Other requests go on; only what the browser lets the page read depends on their origin.
//! The upstream's own `Access-Control-*` headers are replaced, so that there is one policy.
//!
//! Origins compare to the letter. CORS protects readers of a response, not the route: use an authenticating filter for
//! that.

use crate::header_rules::check_name;
use crate::text::{TextError, textual};
use portcullis_plugin::units::{OneOrMany, TimeSpan};
use portcullis_plugin::{
    Build, ConfigError, Denial, Env, Exchange, Filter, FilterError, Finding, HeaderError, Headers, Method, Needs, Reply,
    RequestHead, ResponseHead, Verdict, reason,
};
use schemars::JsonSchema;
use serde::Deserialize;
use std::fmt;
use std::str::FromStr;

/// Who may call this route from a page, and how.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Origins as browsers send them: `https://app.example.com`, with a port only if it is not the scheme's own;
    /// `https://*.example.com` for exactly one label; `null`; or `*` alone for every origin.
    pub origins: OneOrMany<OriginPattern>,
    /// Methods that a preflight may ask for. Default: `[GET, HEAD, POST]`.
    #[serde(default = "default_methods")]
    pub methods: OneOrMany<String>,
    /// Request headers that a preflight may ask for. Default: none beyond those that need no preflight.
    #[serde(default)]
    pub headers: OneOrMany<String>,
    /// Response headers that the page may read. Default: none beyond those that it may read anyway.
    #[serde(default)]
    pub expose: OneOrMany<String>,
    /// Let the browser send cookies and client certificates. Not with `*` or `null`. Default: false.
    #[serde(default)]
    pub credentials: bool,
    /// How long the browser may keep the answer to a preflight. Default: its own default, 5 seconds.
    pub max_age: Option<TimeSpan>,
}

fn default_methods() -> OneOrMany<String> {
    OneOrMany(["GET", "HEAD", "POST"].map(str::to_owned).into())
}

/// One or more origins, as a configuration writes them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OriginPattern {
    Any,
    Null,
    Exact(String),
    /// `before` is the scheme with `://`, `after` begins with the dot after the label.
    Wildcard {
        before: String,
        after: String,
    },
}

impl FromStr for OriginPattern {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        let refuse = |why: &str| {
            TextError::new(format!("`{text}` is not an origin: {why}; write https://app.example.com as a browser sends it"))
        };
        match text {
            "*" => return Ok(Self::Any),
            "null" => return Ok(Self::Null),
            _ => {}
        }
        let (scheme, rest) = text.split_once("://").ok_or_else(|| refuse("it has no scheme"))?;
        let good_scheme = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.');
        if !scheme.starts_with(|c: char| c.is_ascii_lowercase()) || !scheme.bytes().all(good_scheme) {
            return Err(refuse("its scheme is not lower-case letters"));
        }
        let (wildcard, rest) = match rest.strip_prefix("*.") {
            Some(rest) => (true, rest),
            None => (false, rest),
        };
        if rest.contains('/') {
            return Err(refuse("it has a path, or a slash at its end"));
        }
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, Some(port)),
            _ => (rest, None),
        };
        let ipv6 = host.starts_with('[') && host.ends_with(']') && !wildcard;
        let good_host = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_');
        if !ipv6 && !host.split('.').all(|label| !label.is_empty() && label.bytes().all(good_host)) {
            return Err(refuse("its host is not lower-case letters, digits, - and dots (a `*` is the whole leftmost label)"));
        }
        match port {
            Some(port) if port.parse::<u16>().map_or(true, |number| number.to_string() != port) => {
                return Err(refuse("its port is not a number"));
            }
            Some("443") if scheme == "https" => return Err(refuse("browsers leave the port 443 out")),
            Some("80") if scheme == "http" => return Err(refuse("browsers leave the port 80 out")),
            _ => {}
        }
        if wildcard {
            Ok(Self::Wildcard { before: format!("{scheme}://"), after: format!(".{rest}") })
        } else {
            Ok(Self::Exact(text.to_owned()))
        }
    }
}

impl OriginPattern {
    fn matches(&self, origin: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Null => origin == "null",
            Self::Exact(exact) => origin == exact,
            Self::Wildcard { before, after } => origin
                .strip_prefix(before.as_str())
                .and_then(|rest| rest.strip_suffix(after.as_str()))
                .is_some_and(|label| !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')),
        }
    }
}

impl fmt::Display for OriginPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Null => f.write_str("null"),
            Self::Exact(exact) => f.write_str(exact),
            Self::Wildcard { before, after } => write!(f, "{before}*{after}"),
        }
    }
}

textual!(OriginPattern, "An origin: https://app.example.com, https://*.example.com, null or *.");

pub struct Cors {
    origins: Vec<OriginPattern>,
    any_origin: bool,
    methods: Vec<String>,
    /// Lower-case.
    headers: Vec<String>,
    credentials: bool,
    // The values of response headers, ready to be sent; `None` if the header is not.
    allow_methods: String,
    allow_headers: Option<String>,
    expose: Option<String>,
    max_age: Option<String>,
}

/// The origin that the response names; `None` inside if the request's is not allowed.
struct Granted(Option<String>);

impl Build for Cors {
    const NAME: &'static str = "cors";
    const EXAMPLE: &'static str =
        "{ origins: [\"https://app.example.com\"], methods: [GET, POST], headers: [content-type, authorization], max_age: 10m }";
    type Config = Config;

    fn build(config: Config, _env: &Env) -> Result<Self, ConfigError> {
        let Config { origins: OneOrMany(origins), methods, headers, expose, credentials, max_age } = config;
        check_origins(&origins, credentials).map_err(|error| error.at("origins"))?;
        for (at, method) in methods.iter().enumerate() {
            let good =
                Method::parse(method.as_bytes()).is_some() && method != "*" && !method.bytes().any(|b| b.is_ascii_lowercase());
            if !good {
                return Err(ConfigError::new(format!("`{method}` is not a method"))
                    .help("name each, in capital letters")
                    .at(at)
                    .at("methods"));
            }
        }
        if methods.is_empty() {
            return Err(ConfigError::new("no method is allowed").help("name at least one, or leave the key out").at("methods"));
        }
        for (key, names) in [("headers", &headers), ("expose", &expose)] {
            for (at, name) in names.iter().enumerate() {
                let checked = if name == "*" {
                    Err(ConfigError::new("`*` is not a header name").help("name each header"))
                } else {
                    check_name(name)
                };
                checked.map_err(|error| error.at(at).at(key))?;
            }
        }
        let list = |names: &[String]| (!names.is_empty()).then(|| names.join(", "));
        let headers: Vec<String> = headers.iter().map(|name| name.to_ascii_lowercase()).collect();
        Ok(Self {
            any_origin: origins.contains(&OriginPattern::Any),
            origins,
            credentials,
            allow_methods: methods.join(", "),
            allow_headers: list(&headers),
            expose: list(&expose),
            max_age: max_age.map(|span| span.get().as_secs().to_string()),
            methods: methods.0,
            headers,
        })
    }
}

fn check_origins(origins: &[OriginPattern], credentials: bool) -> Result<(), ConfigError> {
    if origins.is_empty() {
        return Err(ConfigError::new("no origin is allowed").help("name at least one, or leave the filter out"));
    }
    if origins.len() > 1 && origins.contains(&OriginPattern::Any) {
        return Err(
            ConfigError::new("`*` allows every origin, so the others mean nothing").help("write `*` alone, or leave it out")
        );
    }
    for open in [OriginPattern::Any, OriginPattern::Null] {
        if credentials && origins.contains(&open) {
            return Err(ConfigError::new(format!("with `credentials`, `{open}` would let every page act as its visitor"))
                .help("name the origins, or leave `credentials` out"));
        }
    }
    Ok(())
}

impl Filter for Cors {
    fn request(&self, request: &mut RequestHead, exchange: &mut Exchange) -> Verdict {
        let headers = request.headers();
        let mut origins = headers.get_all("origin");
        let (first, more) = (origins.next(), origins.next());
        let Some(origin) = first else {
            exchange.insert_extension(Granted(None));
            return Verdict::Continue;
        };
        // Two origins, or one that is not text, is none that could be in the list.
        let origin = if more.is_some() { None } else { std::str::from_utf8(origin).ok() };
        let granted = origin.filter(|origin| self.origins.iter().any(|pattern| pattern.matches(origin)));
        let asked = headers.get("access-control-request-method");
        let verdict = match asked.filter(|_| *request.method() == Method::Options) {
            None => Verdict::Continue,
            Some(method) => self.preflight(origin, granted, method, headers, exchange),
        };
        exchange.insert_extension(Granted(granted.map(str::to_owned)));
        verdict
    }

    fn response(&self, response: &mut ResponseHead, exchange: &mut Exchange) -> Verdict {
        let granted = exchange.extension::<Granted>().and_then(|Granted(origin)| origin.as_deref());
        match self.mark(response.headers_mut(), granted) {
            Ok(()) => Verdict::Continue,
            Err(error) => Verdict::Fault(FilterError::new(format!("the CORS headers cannot be added: {error}"))),
        }
    }

    fn needs(&self) -> Needs {
        Needs {
            answers_preflights: true,
            summary: Some(format!("cors({})", crate::text::first_few(&self.origins, self.origins.len()))),
            ..Needs::default()
        }
    }
}

impl Cors {
    fn preflight(
        &self,
        origin: Option<&str>,
        granted: Option<&str>,
        method: &[u8],
        headers: &Headers,
        exchange: &mut Exchange,
    ) -> Verdict {
        let all_origins = || crate::text::first_few(&self.origins, self.origins.len());
        let origin_ok = exchange.check("origin", reason::CORS_DENIED, granted.is_some(), || {
            Finding::new(format!("one of {}", all_origins()), origin.unwrap_or("more than one, or not text"))
                .hint("add the origin to `origins`, to the letter with scheme and port, if its pages may call this route")
        });
        let method_ok = self.methods.iter().any(|known| known.as_bytes() == method);
        let method_ok = exchange.check("method", reason::CORS_DENIED, method_ok, || {
            Finding::new(format!("one of {}", self.allow_methods), String::from_utf8_lossy(method))
                .hint("add it to `methods`, if pages may use it here")
        });
        let refused = self.refused_headers(headers);
        let headers_ok = exchange.check("headers", reason::CORS_DENIED, refused.is_empty(), || {
            let expected = format!("only {}", self.allow_headers.as_deref().unwrap_or("headers that need no preflight"));
            Finding::new(expected, crate::text::first_few(&refused, refused.len()))
                .hint("add them to `headers`, if pages may send them here")
        });
        if !(origin_ok && method_ok && headers_ok) {
            return Verdict::Deny(Denial::new(reason::CORS_DENIED));
        }
        let mut reply = Reply::new(204);
        let fields = [
            ("access-control-allow-methods", Some(&self.allow_methods)),
            ("access-control-allow-headers", self.allow_headers.as_ref()),
            ("access-control-max-age", self.max_age.as_ref()),
        ];
        for (name, value) in fields {
            if let Some(Err(error)) = value.map(|value| reply.headers.set(name, value)) {
                return Verdict::Fault(FilterError::new(format!("the preflight cannot be answered: {error}")));
            }
        }
        if let Err(error) = self.mark(&mut reply.headers, granted) {
            return Verdict::Fault(FilterError::new(format!("the preflight cannot be answered: {error}")));
        }
        Verdict::Respond(reply)
    }

    /// What `Access-Control-Request-Headers` asks for beyond what is allowed.
    fn refused_headers(&self, headers: &Headers) -> Vec<String> {
        headers
            .get_all("access-control-request-headers")
            .flat_map(|value| value.split(|b| *b == b','))
            .map(|name| String::from_utf8_lossy(name.trim_ascii()).to_ascii_lowercase())
            .filter(|name| !name.is_empty() && !self.headers.contains(name))
            .collect()
    }

    /// On every response of the route. The answer to a preflight has all that it needs already, and stays the same.
    fn mark(&self, headers: &mut Headers, granted: Option<&str>) -> Result<(), HeaderError> {
        // The names that the answer to a preflight has; an upstream's are not kept.
        let ours = |name: &str| {
            ["access-control-allow-methods", "access-control-allow-headers", "access-control-max-age"].contains(&name)
        };
        headers.retain(|name, value| {
            let name = name.to_ascii_lowercase();
            !name.starts_with("access-control-") || (ours(&name) && self.is_own(&name, value))
        });
        // A response that depends on the origin says so even when it grants nothing, or a cache would serve it to all.
        if !self.any_origin {
            vary(headers, "Origin")?;
        }
        let Some(origin) = granted else { return Ok(()) };
        headers.set("access-control-allow-origin", if self.any_origin { "*" } else { origin })?;
        if self.credentials {
            headers.set("access-control-allow-credentials", "true")?;
        }
        match &self.expose {
            Some(names) => headers.set("access-control-expose-headers", names),
            None => Ok(()),
        }
    }

    /// Whether a field is what `preflight` writes: the same for every grant, so an upstream's equal one does no harm.
    fn is_own(&self, name: &str, value: &[u8]) -> bool {
        let own = match name {
            "access-control-allow-methods" => Some(&self.allow_methods),
            "access-control-allow-headers" => self.allow_headers.as_ref(),
            _ => self.max_age.as_ref(),
        };
        own.is_some_and(|own| own.as_bytes() == value)
    }
}

fn vary(headers: &mut Headers, name: &str) -> Result<(), HeaderError> {
    let listed = headers
        .get_all("vary")
        .flat_map(|value| value.split(|b| *b == b','))
        .any(|item| item.trim_ascii().eq_ignore_ascii_case(name.as_bytes()) || item.trim_ascii() == b"*");
    if listed { Ok(()) } else { headers.append("vary", name) }
}

#[cfg(test)]
#[path = "cors_tests.rs"]
mod tests;
