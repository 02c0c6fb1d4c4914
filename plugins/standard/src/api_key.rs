//! Verifies API keys against a file of their hashes.
//!
//! ```yaml
//! - api_key: { header: x-api-key, file: api-keys.txt }
//! ```
//!
//! The file has one key a line, and is read again when it changes. It holds no key, only SHA-256 hashes:
//!
//! ```text
//! # id       SHA-256 of the key                                                       what it stands for
//! billing-1  sha256:b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9  owner=billing scopes=orders:read,orders:write roles=batch expires=2027-01-31T00:00:00Z
//! ```
//!
//! `owner` is needed; `scopes`, `roles` and `expires` are not. `portcullis apikey new` makes a key and its line, and
//! `portcullis apikey hash` the line of a key that was made elsewhere.
//!
//! A key has 32 to 256 visible ASCII characters, and must be random: a fast hash is enough for what cannot be guessed, and
//! for nothing else. A shorter one is refused even if its hash is in the file.
//!
//! The key is taken from one place, exactly one time. It is taken out of the request, unless `forward` says otherwise, and
//! stands in no log, error or decision. The caller becomes the principal, in place of one that an earlier filter set:
//! method `api_key`, subject `owner/id`, client id the owner, claims `owner` and `key_id`.
//!
//! `authorization: true` takes it from `Authorization: ApiKey KEY`; the scheme has no case. `Authorization` with another
//! scheme is no key, and stays for the filter that reads it.
//!
//! A key in the query (`query: api_key` instead of `header`) ends up in the history of browsers and the logs of other
//! machines: for clients that cannot send a header. Its name must be one by which logs, the gateway's own among them, know
//! a secret.
//!
//! A refusal is 401 with the challenge `ApiKey`. That scheme is not registered with IANA, as no scheme for keys is; HTTP
//! wants a challenge with each 401 (RFC 9110, section 15.5.2), and this one says which header or parameter is meant.

use crate::api_key_file::{KeyDigest, KeyTextError, Keys};
pub use crate::api_key_file::{MAX_LENGTH, MIN_LENGTH, hash};
use crate::api_key_new::is_mistyped;
pub use crate::api_key_new::{Entry, Line, NewKey, NoLine};
use crate::bearer;
use crate::header_rules::{check_name, folded, is_look_alike};
use crate::text::given;
use percent_encoding::percent_decode_str;
use portcullis_plugin::{
    Build, ConfigError, Credential, Denial, Env, Exchange, Filter, FilterError, Finding, Needs, ReasonCode, RequestHead, Verdict,
    reason,
};
use schemars::JsonSchema;
use serde::Deserialize;
use std::sync::Arc;

const DEFAULT_HEADER: &str = "x-api-key";

const SCHEME: &[u8] = b"ApiKey";

/// Parts of a parameter's name by which the access log knows that its value is a secret.
const SECRET_NAMES: &[&str] = &["apikey", "accesskey", "authkey", "secret", "token"];

/// Where a key is sent, and which keys there are.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The header that holds the key. Default: `x-api-key`, if there is neither `query` nor `authorization`. With several
    /// places, a request may use any of them, and not two at once.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "String")]
    pub header: Option<String>,
    /// The query parameter that holds the key. Its name has `key`, `api_key`, `token` or the like in it. Default: none.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "String")]
    pub query: Option<String>,
    /// Take the key from `Authorization: ApiKey KEY`. Default: false.
    #[serde(default)]
    pub authorization: bool,
    /// The file with the hashes of all keys. It is read again when it changes.
    pub file: String,
    /// Leave the key in what the upstream gets. Default: false.
    #[serde(default)]
    pub forward: bool,
    /// Let requests without a key pass, without a principal. A key that is there must be good. Default: false.
    #[serde(default)]
    pub optional: bool,
}

pub struct ApiKey {
    header: Option<String>,
    query: Option<String>,
    authorization: bool,
    keys: Keys,
    forward: bool,
    optional: bool,
    /// Where a key belongs, for people.
    place: String,
}

impl Build for ApiKey {
    const NAME: &'static str = "api_key";
    const EXAMPLE: &'static str = "{ header: x-api-key, file: api-keys.txt }";
    type Config = Config;

    fn build(config: Config, env: &Env) -> Result<Self, ConfigError> {
        let Config { header, query, authorization, file, forward, optional } = config;
        let elsewhere = query.is_some() || authorization;
        let header = header.or_else(|| (!elsewhere).then(|| DEFAULT_HEADER.to_owned()));
        if let Some(name) = &header {
            check_key_header(name).map_err(|error| error.at("header"))?;
        }
        if let Some(name) = &query {
            check_parameter(name).map_err(|error| error.at("query"))?;
        }
        let bytes = env.read(&file).map_err(|error| error.at("file"))?;
        let keys = Keys::parse(&bytes).map_err(|(line, problem)| {
            ConfigError::new(format!("{}:{line}: {problem}", env.resolve(&file).display())).at("file")
        })?;
        let mut places: Vec<String> = [("header", &header), ("query parameter", &query)]
            .into_iter()
            .filter_map(|(kind, name)| name.as_ref().map(|name| format!("{kind} `{name}`")))
            .collect();
        places.extend(authorization.then(|| "header `Authorization` after `ApiKey`".to_owned()));
        Ok(Self { header, query, authorization, keys, forward, optional, place: places.join(" or ") })
    }
}

fn check_key_header(name: &str) -> Result<(), ConfigError> {
    check_name(name)?;
    let folded = folded(name);
    if matches!(folded.as_str(), "authorization" | "proxy-authorization" | "cookie") {
        let help = match folded.as_str() {
            "authorization" => "`authorization: true` takes a key from `Authorization: ApiKey KEY`",
            _ => "use a header of its own, such as x-api-key",
        };
        return Err(ConfigError::new(format!("`{name}` holds credentials of another form")).help(help));
    }
    Ok(())
}

fn check_parameter(name: &str) -> Result<(), ConfigError> {
    if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')) {
        return Err(ConfigError::new(format!("`{name}` is not the name of a parameter")).help("letters, digits, -, _ and ."));
    }
    let plain: String = name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect();
    if plain != "key" && !SECRET_NAMES.iter().any(|part| plain.contains(part)) {
        return Err(ConfigError::new(format!("logs would not know that `{name}` holds a secret"))
            .help("name it api_key, key or the like"));
    }
    Ok(())
}

/// What of a key a request has.
enum Presented {
    Nothing,
    Key(Vec<u8>),
    /// What is wrong with how it was sent.
    Unclear(&'static str),
}

impl Filter for ApiKey {
    fn request(&self, request: &mut RequestHead, exchange: &mut Exchange) -> Verdict {
        let presented = self.read(request);
        // Whatever comes of it: what goes on to the upstream has no key.
        if !self.forward && self.remove(request).is_err() {
            return self.refuse(reason::API_KEY_UNKNOWN, "a query that cannot be sent on without the key", request, exchange);
        }
        let text = match presented {
            Presented::Nothing if self.optional => return Verdict::Continue,
            Presented::Nothing => return self.refuse(reason::API_KEY_MISSING, NO_KEY, request, exchange),
            Presented::Unclear(what) => return self.refuse(reason::API_KEY_UNKNOWN, what, request, exchange),
            Presented::Key(text) => text,
        };
        let found = match KeyDigest::of(&text) {
            Ok(digest) => self.keys.get(&digest),
            Err(problem) => return self.refuse(reason::API_KEY_UNKNOWN, unusable(problem), request, exchange),
        };
        let Some(key) = found else {
            let observed = match is_mistyped(&text) {
                true => MISTYPED,
                false => NOT_LISTED,
            };
            return self.refuse(reason::API_KEY_UNKNOWN, observed, request, exchange);
        };
        let principal = &key.principal;
        // Not before the key is known to be one: whether an id exists, and until when, is nobody else's business.
        let now = exchange.now();
        let good = key.expires.is_none_or(|expires| now < expires);
        if !exchange.check("expiry", reason::API_KEY_EXPIRED, good, || expiry(&principal.subject, key.expires)) {
            return self.deny(reason::API_KEY_EXPIRED, request);
        }
        exchange.check("key", reason::API_KEY_UNKNOWN, true, || Finding::new("a known key", principal.subject.to_string()));
        exchange.set_principal(Arc::clone(principal));
        Verdict::Continue
    }

    fn credential(&self, request: &RequestHead, _exchange: &Exchange) -> Credential {
        let header =
            self.header.as_ref().is_some_and(|name| request.headers().iter().any(|(field, _)| is_look_alike(field, name)));
        let query = || self.query.as_ref().is_some_and(|name| parameters(request).any(|(found, _)| is_parameter(found, name)));
        let authorization = || self.authorization && request.headers().get_all("authorization").any(is_api_key);
        if header || query() || authorization() { Credential::Present } else { Credential::Absent }
    }

    /// Also with `forward`, which is about keys that are good.
    fn withhold(&self, request: &mut RequestHead) -> Result<(), FilterError> {
        self.remove(request).map_err(|_| FilterError::new("a query that cannot be sent on without the API key"))
    }

    fn needs(&self) -> Needs {
        let mut parts = vec![self.place.replace('`', ""), format!("{} keys", self.keys.len())];
        parts.extend(self.optional.then(|| "optional".to_owned()));
        Needs {
            authenticates: !self.optional,
            may_authenticate: true,
            combines: !self.optional,
            summary: Some(format!("api_key({})", parts.join("; "))),
            ..Needs::default()
        }
    }
}

impl ApiKey {
    fn read(&self, request: &RequestHead) -> Presented {
        let mut found = None;
        if let Some(name) = &self.header {
            // A spelling that some upstream takes for the header counts as it.
            for (field, value) in request.headers().iter().filter(|(field, _)| is_look_alike(field, name)) {
                if !field.eq_ignore_ascii_case(name) {
                    return Presented::Unclear("a header that some servers take for the one with the key");
                }
                if found.replace(value.to_vec()).is_some() {
                    return Presented::Unclear("more than one header with a key");
                }
            }
        }
        if let Some(name) = &self.query {
            for (_, value) in parameters(request).filter(|(parameter, _)| is_parameter(parameter, name)) {
                let value = percent_decode_str(value).collect();
                if found.replace(value).is_some() {
                    return Presented::Unclear("more than one key, in the query or in a header too");
                }
            }
        }
        if self.authorization {
            match authorization(request) {
                Presented::Nothing => {}
                Presented::Key(_) if found.is_some() => return Presented::Unclear("more than one key, in two places"),
                Presented::Key(value) => found = Some(value),
                unclear @ Presented::Unclear(_) => return unclear,
            }
        }
        found.map_or(Presented::Nothing, Presented::Key)
    }

    fn remove(&self, request: &mut RequestHead) -> Result<(), portcullis_plugin::head::TargetError> {
        if let Some(name) = &self.header {
            request.headers_mut().retain(|field, _| !is_look_alike(field, name));
        }
        if self.authorization {
            request.headers_mut().retain(|field, value| !(field.eq_ignore_ascii_case("authorization") && is_api_key(value)));
        }
        let Some(name) = &self.query else { return Ok(()) };
        if !parameters(request).any(|(parameter, _)| is_parameter(parameter, name)) {
            return Ok(());
        }
        let rest: Vec<&str> = request
            .query()
            .unwrap_or_default()
            .split('&')
            .filter(|pair| !is_parameter(pair.split_once('=').map_or(*pair, |(parameter, _)| parameter), name))
            .collect();
        let rest = rest.join("&");
        request.set_query(Some(rest.as_str()).filter(|rest| !rest.is_empty()))
    }

    fn refuse(&self, reason: ReasonCode, observed: &'static str, request: &RequestHead, exchange: &mut Exchange) -> Verdict {
        exchange.check("key", reason, false, || {
            let finding = Finding::new(format!("one key in the {}", self.place), observed);
            match observed {
                NO_KEY => match elsewhere(request) {
                    Some(place) => finding.hint(format!("a key was found in {place}; it is read from the {} only", self.place)),
                    None => finding.hint(format!("the client sends its key in the {}", self.place)),
                },
                MISTYPED => finding.hint("the client sends the whole key, as it was shown when it was made"),
                NOT_LISTED => finding
                    .hint("the key was withdrawn, or is another gateway's; `portcullis apikey hash` makes its line for the file"),
                _ => finding,
            }
        });
        self.deny(reason, request)
    }

    /// A client learns no more than that its key will not do.
    fn deny(&self, reason: ReasonCode, request: &RequestHead) -> Verdict {
        let mut denial = Denial::new(reason);
        let realm: String = request.host().chars().filter(|c| c.is_ascii_graphic() && !matches!(c, '"' | '\\')).collect();
        for (place, name) in [("header", &self.header), ("query", &self.query)] {
            if let Some(name) = name {
                denial = denial.header("www-authenticate", format!("ApiKey realm=\"{realm}\", in=\"{place}\", name=\"{name}\""));
            }
        }
        if self.authorization {
            // As RFC 9110, section 11.6.1, has it: what answers this stands in Authorization.
            denial = denial.header("www-authenticate", format!("ApiKey realm=\"{realm}\""));
        }
        Verdict::Deny(denial)
    }
}

/// The key in `Authorization`. A credential of another scheme is none of ours.
fn authorization(request: &RequestHead) -> Presented {
    let mut all = request.headers().get_all("authorization");
    let Some(value) = all.next() else { return Presented::Nothing };
    if all.next().is_some() {
        return Presented::Unclear("more than one Authorization header");
    }
    match value.get(SCHEME.len()..) {
        _ if !is_api_key(value) => Presented::Nothing,
        Some([b' ', key @ ..]) => Presented::Key(key.trim_ascii_start().to_vec()),
        _ => Presented::Unclear("`ApiKey` without a space and a key after it"),
    }
}

/// Whether a value of `Authorization` is of our scheme, however badly it goes on.
fn is_api_key(value: &[u8]) -> bool {
    let after = value.get(SCHEME.len()).copied().unwrap_or(b' ');
    value.get(..SCHEME.len()).is_some_and(|scheme| scheme.eq_ignore_ascii_case(SCHEME))
        && !(after.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&after))
}

/// The parameters of the query as they were sent.
fn parameters(request: &RequestHead) -> impl Iterator<Item = (&str, &str)> {
    request.query().unwrap_or_default().split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

/// Where a client put its key instead, for a hint. The places where a key belongs have none. Names a place, never a value.
fn elsewhere(request: &RequestHead) -> Option<String> {
    // As `apikey new` makes them, whole or not.
    let like_a_key = |value: &[u8]| value.starts_with(b"pc_") && value.len() >= MIN_LENGTH;
    let named = |name: &str| {
        let plain = || name.bytes().filter(u8::is_ascii_alphanumeric).map(|b| b.to_ascii_lowercase());
        NAMES.iter().any(|known| plain().eq(known.bytes()))
    };
    let (mut headers, query) = (request.headers().iter(), request.query().unwrap_or_default());
    let header = |(name, value): &(&str, &[u8])| {
        let after = value.iter().position(|b| *b == b' ').and_then(|space| value.get(space + 1..)).unwrap_or(value);
        named(name) || like_a_key(after.trim_ascii()) || (name.eq_ignore_ascii_case("authorization") && is_api_key(value))
    };
    if let Some((name, value)) = headers.find(header) {
        let scheme = match value.iter().position(|b| *b == b' ') {
            Some(_) if !name.eq_ignore_ascii_case("authorization") => "",
            Some(_) if is_api_key(value) => " after `ApiKey`",
            Some(_) => " after another scheme than `ApiKey`",
            None => "",
        };
        return Some(format!("the header `{}`{scheme}", name.to_ascii_lowercase()));
    }
    if let Some((name, _)) = bearer::pairs(query, '&').find(|(name, value)| named(name) || like_a_key(value.as_bytes())) {
        return Some(bearer::parameter(name));
    }
    let mut cookies = request.headers().get_all("cookie").filter_map(|value| std::str::from_utf8(value).ok());
    let cookie = |(name, value): (&str, &str)| named(name) || like_a_key(value.as_bytes());
    cookies.any(|value| bearer::pairs(value, ';').any(cookie)).then(|| "a cookie".to_owned())
}

/// Names under which keys are often sent, in lower case and without `-` and `_`.
const NAMES: &[&str] = &["apikey", "xapikey", "apitoken", "xapitoken", "accesskey", "xaccesskey", "authkey", "xauthkey"];

/// Whether an upstream would take a parameter's name for `name`. Some do not mind its case: such a one has no key that
/// counts twice, nor one that goes on.
fn is_parameter(parameter: &str, name: &str) -> bool {
    percent_decode_str(parameter).map(|b| b.to_ascii_lowercase()).eq(name.bytes().map(|b| b.to_ascii_lowercase()))
}

const NO_KEY: &str = "no key";
const MISTYPED: &str = "a key whose checksum is wrong: it was cut off or mistyped";
const NOT_LISTED: &str = "a key whose hash is not in the file";

fn unusable(problem: KeyTextError) -> &'static str {
    match problem {
        KeyTextError::Short => "a key that is shorter than any may be",
        KeyTextError::Long => "a key that is longer than any may be",
        KeyTextError::Characters | KeyTextError::NotRandom => "a key with characters that no key has",
    }
}

fn expiry(subject: &str, expires: Option<std::time::SystemTime>) -> Finding {
    use time::{OffsetDateTime, format_description::well_known::Rfc3339};
    let until = expires.and_then(|expires| OffsetDateTime::from(expires).format(&Rfc3339).ok());
    match until {
        Some(until) => Finding::new("a key within its time", format!("the key {subject}, until {until}")).hint("issue a new key"),
        None => Finding::new("a key within its time", format!("the key {subject}, without an end")),
    }
}

#[cfg(test)]
#[path = "api_key_tests.rs"]
mod tests;
