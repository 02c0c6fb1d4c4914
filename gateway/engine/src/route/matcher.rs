//! One route's conditions, compiled: what must hold beside host and path, and the checks that nothing is asked for which
//! could never be.

use super::paths::{PathKey, Prefix};
use crate::config::raw::{DotSegments, DuplicateSlashes, EncodedSlashes, Match};
use crate::normalise::path::escape;
use crate::normalise::{Policy, check_method as is_served, host, is_of_this_hop, path};
use portcullis_plugin::headers::{is_name, is_value_byte};
use portcullis_plugin::{ConfigError, Method, RequestHead};
use regex::{Regex, RegexBuilder};
use std::fmt;

/// A regular expression may take this much memory.
const REGEX_SIZE: usize = 1 << 20;

/// A route, as far as matching goes.
#[derive(Debug)]
pub(super) struct Entry {
    route: usize,
    methods: Methods,
    regex: Option<Regex>,
    headers: Vec<(Box<str>, Expected)>,
    query: Vec<(Box<str>, Expected)>,
    conditions: usize,
    answers_preflights: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Expected {
    Any,
    Exactly(Box<[u8]>),
}

/// What of a request decides between routes beside its host, path and method.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Hinges {
    pub headers: bool,
    pub query: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Judgement {
    Holds,
    ButForTheMethod,
    No,
}

/// The methods of a route. None means all.
#[derive(Debug, Default)]
pub(super) struct Methods(Vec<Method>);

impl Methods {
    fn allow(&self, method: &Method) -> bool {
        self.0.is_empty() || self.0.contains(method)
    }

    fn add(&mut self, method: Method) {
        if !self.0.contains(&method) {
            self.0.push(method);
        }
    }

    pub fn merge(&mut self, other: &Self) {
        other.0.iter().for_each(|method| self.add(method.clone()));
    }
}

impl fmt::Display for Methods {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, method) in self.0.iter().enumerate() {
            if place > 0 {
                f.write_str(", ")?;
            }
            f.write_str(method.as_str())?;
        }
        Ok(())
    }
}

impl Entry {
    pub fn route(&self) -> usize {
        self.route
    }

    pub fn methods(&self) -> &Methods {
        &self.methods
    }

    pub fn answers_preflights(&mut self, answers: bool) {
        self.answers_preflights = answers;
    }

    /// Whether a preflight that asks for `method` is this route's to answer.
    pub fn takes_preflight(&self, method: &Method) -> bool {
        self.answers_preflights && self.methods.allow(method)
    }

    /// How many conditions there are beside host and path.
    pub fn conditions(&self) -> usize {
        self.conditions
    }

    /// Whether the route holds, or would, but for its conditions on headers and on the query: which of the two it has.
    pub fn hinges_on(&self, request: &RequestHead) -> Hinges {
        let holds = self.regex.as_ref().is_none_or(|regex| regex.is_match(request.path()));
        Hinges { headers: holds && !self.headers.is_empty(), query: holds && !self.query.is_empty() }
    }

    /// Whether the rest holds too: host and path do, but for the expression.
    pub fn judge(&self, request: &RequestHead) -> Judgement {
        let holds = self.headers.iter().all(|(name, expected)| header_holds(request, name, expected))
            && self.query.iter().all(|(name, expected)| query_holds(request.query(), name.as_bytes(), expected))
            && self.regex.as_ref().is_none_or(|regex| regex.is_match(request.path()));
        match (holds, self.methods.allow(request.method())) {
            (false, _) => Judgement::No,
            (true, true) => Judgement::Holds,
            (true, false) => Judgement::ButForTheMethod,
        }
    }
}

/// A field that comes more than once has a value only if all its copies are equal: an upstream might read any of them.
fn header_holds(request: &RequestHead, name: &str, expected: &Expected) -> bool {
    match expected {
        Expected::Any => request.headers().contains(name),
        Expected::Exactly(value) => {
            let mut copies = request.headers().get_all(name).peekable();
            copies.peek().is_some() && copies.all(|copy| copy == &**value)
        }
    }
}

/// As for headers. Names and values are compared decoded; one with a broken escape equals nothing. `+` is itself.
fn query_holds(query: Option<&str>, name: &[u8], expected: &Expected) -> bool {
    let pairs = query.unwrap_or_default().split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let mut values = pairs.filter(|(key, _)| decodes_to(key, name)).map(|(_, value)| value).peekable();
    values.peek().is_some()
        && match expected {
            Expected::Any => true,
            Expected::Exactly(wanted) => values.all(|value| decodes_to(value, wanted)),
        }
}

fn decodes_to(encoded: &str, plain: &[u8]) -> bool {
    let mut rest = encoded.as_bytes();
    for wanted in plain {
        let (byte, after) = match rest {
            [b'%', after @ ..] => match escape(after) {
                Some(byte) => (byte, after.get(2..).unwrap_or_default()),
                None => return false,
            },
            [byte, after @ ..] => (*byte, after),
            [] => return false,
        };
        if byte != *wanted {
            return false;
        }
        rest = after;
    }
    rest.is_empty()
}

/// The conditions, the hosts (none means all) and where the path is to be looked for.
pub(super) fn compile(route: usize, raw: &Match) -> Result<(Entry, Vec<String>, PathKey), ConfigError> {
    let Match { host, path, path_exact, path_regex, methods, headers, query } = raw;
    let mut hosts: Vec<String> = Vec::new();
    for (place, pattern) in host.0.iter().enumerate() {
        // One host may be written without a list, so only of several the place is named.
        let located = |error: ConfigError| if host.0.len() > 1 { error.at(place).at("host") } else { error.at("host") };
        let pattern = check_host(pattern).map_err(located)?;
        if !hosts.contains(&pattern) {
            hosts.push(pattern);
        }
    }
    let prefix =
        path.as_deref().map(|path| check_path(path).map(|()| Prefix::new(path))).transpose().map_err(|error| error.at("path"))?;
    path_exact.as_deref().map_or(Ok(()), check_path).map_err(|error| error.at("path_exact"))?;
    let regex = path_regex.as_deref().map(whole_path).transpose().map_err(|error| error.at("path_regex"))?;
    let (key, regex, path_conditions) = path_key(prefix, path_exact.as_deref(), regex)?;
    let methods = check_methods(methods)?;
    let headers = check_headers(headers).map_err(|error| error.at("headers"))?;
    let query = check_query(query).map_err(|error| error.at("query"))?;
    let conditions = path_conditions + usize::from(!methods.0.is_empty()) + headers.len() + query.len();
    Ok((Entry { route, methods, regex, headers, query, conditions, answers_preflights: false }, hosts, key))
}

/// The most specific of the path's conditions says where the route is found; the others are settled here, or remain.
fn path_key(
    prefix: Option<Prefix>,
    exact: Option<&str>,
    regex: Option<Regex>,
) -> Result<(PathKey, Option<Regex>, usize), ConfigError> {
    let Some(exact) = exact else {
        return Ok(match (prefix, regex) {
            (Some(prefix), regex) => {
                let conditions = usize::from(regex.is_some());
                (PathKey::Prefix(prefix), regex, conditions)
            }
            (None, Some(regex)) => (PathKey::Regex, Some(regex), 0),
            (None, None) => (PathKey::Any, None, 0),
        });
    };
    let never = |other: &str| {
        Err(ConfigError::new(format!("`path_exact` and `{other}` never hold together"))
            .help(format!("leave `{other}` out"))
            .at("path_exact"))
    };
    if prefix.as_ref().is_some_and(|prefix| !prefix.covers(exact)) {
        return never("path");
    }
    if regex.as_ref().is_some_and(|regex| !regex.is_match(exact)) {
        return never("path_regex");
    }
    let conditions = usize::from(prefix.is_some()) + usize::from(regex.is_some());
    Ok((PathKey::Exact(exact.into()), None, conditions))
}

fn check_host(pattern: &str) -> Result<String, ConfigError> {
    let (star, name) = match pattern.strip_prefix("*.") {
        Some(name) => ("*.", name),
        None => ("", pattern),
    };
    if pattern == "*" {
        return Err(ConfigError::new("`*` is no host").help("leave `host` out to match every host"));
    }
    let spelled = host::normalise(name.as_bytes()).map_err(|_| {
        let error = ConfigError::new(format!("`{pattern}` is no host"));
        if name.contains('*') {
            error.help("`*` stands only at the start, as in `*.example.com`")
        } else if name.is_ascii() {
            error.help("a host is a name such as `api.example.com`, `*.example.com`, or an address")
        } else {
            error.help("write an international name in its ASCII form, `xn--…`, as clients send it")
        }
    })?;
    if spelled.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']')) {
        return Err(ConfigError::new(format!("`{pattern}` has a port, and ports do not matter to a route"))
            .help("leave the port out; a route serves certain listeners through `listeners`"));
    }
    if !star.is_empty() && spelled.starts_with('[') {
        return Err(ConfigError::new("an address has no names below it").help("leave `*.` out"));
    }
    Ok(format!("{star}{spelled}"))
}

/// Requests are matched after their path was normalised, so another spelling would never match.
fn check_path(given: &str) -> Result<(), ConfigError> {
    if given.contains('?') {
        return Err(ConfigError::new("a path has no query").help("use `query` for what follows the `?`"));
    }
    if !given.starts_with('/') {
        return Err(ConfigError::new(format!("`{given}` is no path: it does not start with `/`")));
    }
    // What some listener may let through.
    let policy = Policy {
        dot_segments: DotSegments::Resolve,
        duplicate_slashes: DuplicateSlashes::Keep,
        encoded_slashes: EncodedSlashes::Keep,
    };
    match path::normalise(given, &policy) {
        Ok(spelling) if spelling == given => Ok(()),
        Ok(spelling) => Err(ConfigError::new(format!("`{given}` would never match: paths are normalised first"))
            .help(format!("write `{spelling}`"))),
        Err(refusal) => Err(ConfigError::new(format!("`{given}` would never match: such a request is refused"))
            .help(format!("a request has {}", refusal.finding.expected))),
    }
}

fn whole_path(pattern: &str) -> Result<Regex, ConfigError> {
    let compile = |pattern: &str| RegexBuilder::new(pattern).size_limit(REGEX_SIZE).build();
    // First alone: `a)|(b` is an error, and must not become an expression that is not for the whole path.
    compile(pattern)
        .and_then(|_| compile(&format!(r"\A(?:{pattern})\z")))
        .map_err(|error| ConfigError::new(format!("not a regular expression: {}", last_line(&error))))
}

/// The line that says what is wrong; those before show where, which the loader does better.
fn last_line(error: &regex::Error) -> String {
    let text = error.to_string();
    text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned()
}

fn check_methods(names: &[String]) -> Result<Methods, ConfigError> {
    let mut methods = Methods::default();
    for (place, name) in names.iter().enumerate() {
        let method = check_method(name).map_err(|error| error.at(place).at("methods"))?;
        let is_get = method == Method::Get;
        methods.add(method);
        if is_get {
            methods.add(Method::Head);
        }
    }
    Ok(methods)
}

fn check_method(name: &str) -> Result<Method, ConfigError> {
    if name == "*" {
        return Err(ConfigError::new("`*` is no method").help("leave `methods` out to match every method"));
    }
    match Method::parse(name.as_bytes()) {
        None => Err(ConfigError::new(format!("`{name}` is no method"))),
        Some(Method::Other(_)) if name.bytes().any(|b| b.is_ascii_lowercase()) => {
            Err(ConfigError::new(format!("`{name}` is no method that clients send: methods tell case apart"))
                .help(format!("write `{}`", name.to_ascii_uppercase())))
        }
        Some(method) if is_served(&method).is_err() => Err(ConfigError::new(format!("`{name}` is never served"))),
        Some(method) => Ok(method),
    }
}

type Conditions = Vec<(Box<str>, Expected)>;

fn check_headers(raw: &std::collections::BTreeMap<String, String>) -> Result<Conditions, ConfigError> {
    let condition = |(name, value): (&String, &String)| {
        let fail = |message: String| ConfigError::new(message).at(name.as_str());
        if !is_name(name.as_bytes()) {
            return Err(fail(format!("`{name}` is no header name")));
        }
        if name.eq_ignore_ascii_case("host") {
            return Err(fail("`Host` is matched by `host`".to_owned()).help("write it as `host` in `match`"));
        }
        if is_of_this_hop(name.as_bytes()) && !name.eq_ignore_ascii_case("content-length") {
            return Err(fail(format!("`{name}` belongs to the connection and is gone when routes are matched")));
        }
        if value.trim_ascii() != value || !value.bytes().all(is_value_byte) {
            return Err(fail("no header has such a value: it has blanks around it, or control characters".to_owned()));
        }
        Ok((name.as_str().into(), expected(value)))
    };
    raw.iter().map(condition).collect()
}

fn check_query(raw: &std::collections::BTreeMap<String, String>) -> Result<Conditions, ConfigError> {
    let condition = |(name, value): (&String, &String)| {
        if name.is_empty() {
            Err(ConfigError::new("a query parameter has a name"))
        } else {
            Ok((name.as_str().into(), expected(value)))
        }
    };
    raw.iter().map(condition).collect()
}

fn expected(value: &str) -> Expected {
    if value == "*" { Expected::Any } else { Expected::Exactly(value.as_bytes().into()) }
}
