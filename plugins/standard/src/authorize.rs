//! Decides what a caller may do: a table of roles, groups and scopes for the plain cases, an expression for the others.
//!
//! ```yaml
//! - authorize:
//!     allow:
//!       - { roles: [orders-admin] }
//!       - { scopes: ["orders:read"], methods: [GET, HEAD], paths: [/orders] }
//!     expression: >-
//!       principal.claims.tenant == request.query.tenant && !request.path.startsWith("/internal/")
//! ```
//!
//! Of `allow`, one entry must hold; of an entry, every key. If there is an expression too, it must also be true. Anything
//! else than true denies: false, another value, an error such as a claim that the caller does not have.
//!
//! Expressions are CEL (<https://cel.dev>) over these variables. What may be absent is null; a member of null is an error.
//!
//! | variable | members |
//! |---|---|
//! | `request` | `method`, `scheme`, `host`, `path`, `query` and `headers` (maps of texts; header names are lower-case) |
//! | `principal` | `method`, `sub`, `issuer`, `client_id`, `scopes`, `roles`, `groups`, `claims`; null if nobody is known |
//! | `connection` | `client_ip`, `listener`, `tls` (`version`, `cipher`, `sni`), `cert` (`subject`, `issuer`, `serial`, `sha256`, `san_dns`, `san_uri`, `san_email`, `spiffe_id`; null unless verified) |
//! | `route` | the route's name |
//! | `now` | seconds since 1970 |
//!
//! Beside the operators there are `has`, `exists`, `all`, `exists_one`, `size`, `contains`, `startsWith`, `endsWith`,
//! `matches` (with a literal pattern), `string`, `int`, `uint`, `double` and `bool`. All names and types are checked when
//! the configuration is loaded; of claims only a request knows the types.
//!
//! Some things are denied because they cannot be told apart from an attack: a query parameter that the expression reads
//! and that came twice, and more than 1024 items to look at. Several headers of one name are one text, joined by `, `.
//! `authorization`, `proxy-authorization` and `cookie` cannot be read.
//!
//! A denial is 403, for a caller who is known or where nobody needs to be. It is 401 with a challenge if the rule asks
//! about the principal and the request has none (a filter with `optional: true` let it pass): credentials would help.

use crate::bearer::{Challenge, TokenScheme};
use crate::expression::{Expression, shortened};
use crate::text::{few, first_few, given};
use portcullis_plugin::units::OneOrMany;
use portcullis_plugin::{
    Build, ConfigError, Denial, Env, Exchange, Filter, Finding, Method, Needs, Principal, RequestHead, Verdict, reason,
};
use schemars::JsonSchema;
use serde::Deserialize;
use std::sync::Arc;

/// Who may pass. At least one of the keys is needed; with both, both must hold.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Entries of which one must hold.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "Vec<Allow>")]
    pub allow: Option<Vec<Allow>>,
    /// An expression in CEL that must be true, of at most 4096 bytes.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "String")]
    pub expression: Option<String>,
}

/// One entry: each key that is there must hold.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Allow {
    /// Roles of which the caller must have at least one.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "OneOrMany<String>")]
    pub roles: Option<OneOrMany<String>>,
    /// Scopes that the caller must have, all of them.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "OneOrMany<String>")]
    pub scopes: Option<OneOrMany<String>>,
    /// Groups of which the caller must be in at least one.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "OneOrMany<String>")]
    pub groups: Option<OneOrMany<String>>,
    /// Methods that the entry is about, in upper case. Default: all.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "OneOrMany<String>")]
    pub methods: Option<OneOrMany<String>>,
    /// Paths that the entry is about, each with all that is below it: `/orders` is `/orders` and `/orders/1`, and not
    /// `/orders-old`. Default: all.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "OneOrMany<String>")]
    pub paths: Option<OneOrMany<String>>,
}

pub struct Authorize {
    /// `None`: there is no table. Never empty.
    allow: Option<Vec<Rule>>,
    expression: Option<Expression>,
}

struct Rule {
    roles: Vec<String>,
    scopes: Vec<String>,
    groups: Vec<String>,
    methods: Vec<Method>,
    /// Without a `/` at the end.
    paths: Vec<String>,
}

impl Build for Authorize {
    const NAME: &'static str = "authorize";
    const EXAMPLE: &'static str = "{ allow: [{ roles: [orders-admin] }, { scopes: [\"orders:read\"], methods: [GET, HEAD] }], expression: \"principal.claims.tenant == 'acme'\" }";
    type Config = Config;

    fn build(config: Config, _env: &Env) -> Result<Self, ConfigError> {
        let Config { allow, expression } = config;
        if allow.is_none() && expression.is_none() {
            return Err(ConfigError::new("this filter says nothing of who may pass").help("give `allow`, `expression` or both"));
        }
        let allow = allow.map(rules).transpose().map_err(|error| error.at("allow"))?;
        let expression =
            expression.map(|source| Expression::compile(&source)).transpose().map_err(|error| error.at("expression"))?;
        Ok(Self { allow, expression })
    }
}

fn rules(entries: Vec<Allow>) -> Result<Vec<Rule>, ConfigError> {
    if entries.is_empty() {
        return Err(
            ConfigError::new("the list is empty, so nobody could pass").help("name at least one entry, or leave the key out")
        );
    }
    entries.into_iter().enumerate().map(|(at, entry)| rule(entry).map_err(|error| error.at(at))).collect()
}

fn rule(entry: Allow) -> Result<Rule, ConfigError> {
    let Allow { roles, scopes, groups, methods, paths } = entry;
    if roles.is_none() && scopes.is_none() && groups.is_none() && methods.is_none() && paths.is_none() {
        return Err(ConfigError::new("the entry asks for nothing, so everybody could pass")
            .help("give at least one of `roles`, `scopes`, `groups`, `methods` and `paths`"));
    }
    Ok(Rule {
        roles: names("roles", roles)?,
        scopes: names("scopes", scopes)?,
        groups: names("groups", groups)?,
        methods: names("methods", methods)?
            .iter()
            .enumerate()
            .map(|(at, name)| method(name).map_err(|error| error.at(at).at("methods")))
            .collect::<Result<_, _>>()?,
        paths: names("paths", paths)?
            .iter()
            .enumerate()
            .map(|(at, path)| prefix(path).map_err(|error| error.at(at).at("paths")))
            .collect::<Result<_, _>>()?,
    })
}

/// Requests come with their path in one spelling; what is not written in it would never match.
fn prefix(path: &str) -> Result<String, ConfigError> {
    let plain = path.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'?' | b'#' | b'*' | b'\\'));
    let dots = path.split('/').any(|segment| matches!(segment, "." | ".."));
    if !path.starts_with('/') || path.contains("//") || !plain || dots {
        return Err(ConfigError::new(format!("`{path}` is not a path"))
            .help("start it with `/`; no query, no `*`, no `..`: what is below it is meant anyway"));
    }
    Ok(path.trim_end_matches('/').to_owned())
}

fn names(key: &'static str, names: Option<OneOrMany<String>>) -> Result<Vec<String>, ConfigError> {
    let Some(OneOrMany(names)) = names else { return Ok(Vec::new()) };
    if names.is_empty() {
        return Err(ConfigError::new("the list is empty").help("name at least one, or leave the key out").at(key));
    }
    match names.iter().position(|name| name.trim() != name || name.is_empty()) {
        Some(at) => Err(ConfigError::new("a name is empty, or has spaces at its ends").at(at).at(key)),
        None => Ok(names),
    }
}

fn method(name: &str) -> Result<Method, ConfigError> {
    let method = Method::parse(name.as_bytes()).ok_or_else(|| ConfigError::new(format!("`{name}` is not a method")))?;
    let upper = name.to_ascii_uppercase();
    if upper != name && !matches!(Method::parse(upper.as_bytes()), None | Some(Method::Other(_))) {
        return Err(
            ConfigError::new(format!("methods have a case, so `{name}` would never match")).help(format!("write `{upper}`"))
        );
    }
    Ok(method)
}

impl Filter for Authorize {
    fn request(&self, request: &mut RequestHead, exchange: &mut Exchange) -> Verdict {
        let mut allowed = true;
        let principal = exchange.principal().map(Arc::clone);
        let principal = principal.as_deref();
        if let Some(rules) = &self.allow {
            let ok = rules.iter().any(|rule| rule.holds(request, principal));
            allowed &= exchange.check("allow", reason::AUTHORIZE_DENIED, ok, || {
                let one_of = if rules.len() > 1 { "one of: " } else { "" };
                let finding = Finding::new(format!("{one_of}{}", alternatives(rules)), observed(request.method(), principal));
                let by_group = !ok && rules.iter().any(|rule| !rule.groups.is_empty());
                match principal {
                    Some(principal) if by_group && portcullis_identity::groups_unknown(principal) => {
                        finding.hint(crate::text::GROUPS_UNKNOWN)
                    }
                    _ => finding,
                }
            });
        }
        if let Some(expression) = &self.expression {
            let ok = expression.holds(request, exchange).is_ok();
            let observed = if ok { None } else { Some(expression.refusal(request, exchange)) };
            allowed &= exchange.check("expression", reason::AUTHORIZE_DENIED, ok, || {
                let observed = observed.unwrap_or_else(|| "true".to_owned());
                let finding = Finding::new(format!("`{}` is true", shortened(expression.source())), observed);
                match principal {
                    None if expression.reads_principal() => finding.hint("the request has no principal"),
                    _ => finding,
                }
            });
        }
        if allowed { Verdict::Continue } else { self.deny(principal, request) }
    }

    fn needs(&self) -> Needs {
        let mut parts = Vec::new();
        if let Some(rules) = &self.allow {
            parts.push(alternatives(rules));
        }
        if let Some(expression) = &self.expression {
            parts.push(format!("cel: {}", shortened(expression.source())));
        }
        let reads_certificate = self.expression.as_ref().is_some_and(Expression::reads_certificate);
        // Of an expression nobody can tell: `principal == null` may be what it asks.
        let requires_principal = self.allow.as_ref().is_some_and(|rules| rules.iter().all(Rule::asks_who));
        Needs {
            requires_principal,
            reads_identity: self.asks_who() || reads_certificate,
            combines: true,
            summary: Some(format!("authorize({})", parts.join("; and "))),
            ..Needs::default()
        }
    }
}

impl Authorize {
    /// The facts by which a request like this one is judged, as an expression writes them: `principal.roles`,
    /// `request.headers.x-tenant`. For whoever knows only some of them, such as a log.
    pub fn reads(&self, request: &RequestHead) -> Vec<String> {
        let about: Vec<&Rule> = self.allow.iter().flatten().filter(|rule| rule.is_about(request)).collect();
        let mut facts = Vec::new();
        // One that asks for nothing more holds, whoever calls.
        if about.iter().all(|rule| rule.asks_who()) {
            let any = |names: fn(&Rule) -> &[String]| about.iter().any(|rule| !names(rule).is_empty());
            let read = [
                ("principal.roles", any(|rule| &rule.roles)),
                ("principal.scopes", any(|rule| &rule.scopes)),
                ("principal.groups", any(|rule| &rule.groups)),
            ];
            facts.extend(read.into_iter().filter(|(_, read)| *read).map(|(fact, _)| fact.to_owned()));
        }
        facts.extend(self.expression.iter().flat_map(Expression::facts));
        facts
    }

    /// Whether knowing the caller could make a difference.
    fn asks_who(&self) -> bool {
        self.allow.iter().flatten().any(Rule::asks_who) || self.expression.as_ref().is_some_and(Expression::reads_principal)
    }

    fn deny(&self, principal: Option<&Principal>, request: &RequestHead) -> Verdict {
        let denial = Denial::new(reason::AUTHORIZE_DENIED);
        if principal.is_some() || !self.asks_who() {
            return Verdict::Deny(denial);
        }
        // RFC 9110, section 15.5.2: a 401 has a challenge. Without credentials, RFC 6750 names no error.
        let challenge = Challenge { scheme: TokenScheme::Bearer, realm: request.host(), error: None, scope: None, algs: None };
        Verdict::Deny(denial.status(401).header("www-authenticate", challenge.to_string()))
    }
}

impl Rule {
    fn asks_who(&self) -> bool {
        !(self.roles.is_empty() && self.scopes.is_empty() && self.groups.is_empty())
    }

    fn is_about(&self, request: &RequestHead) -> bool {
        if !self.methods.is_empty() && !self.methods.contains(request.method()) {
            return false;
        }
        let below = |prefix: &String| {
            request.path().strip_prefix(prefix.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        self.paths.is_empty() || self.paths.iter().any(below)
    }

    fn holds(&self, request: &RequestHead, principal: Option<&Principal>) -> bool {
        if !self.is_about(request) {
            return false;
        }
        let has = |granted: &[Arc<str>], wanted: &String| granted.iter().any(|granted| **granted == **wanted);
        match principal {
            None => !self.asks_who(),
            Some(principal) => {
                (self.roles.is_empty() || self.roles.iter().any(|role| has(&principal.roles, role)))
                    && (self.groups.is_empty() || self.groups.iter().any(|group| has(&principal.groups, group)))
                    && self.scopes.iter().all(|scope| has(&principal.scopes, scope))
            }
        }
    }

    /// `(role a or b) and scope c and method GET`
    fn describe(&self) -> String {
        let one_of =
            |what: &str, names: &[&str]| (!names.is_empty()).then(|| (format!("{what} {}", names.join(" or ")), names.len() > 1));
        let paths: Vec<String> = self.paths.iter().map(|path| format!("{path}/*")).collect();
        let conditions: Vec<(String, bool)> = [
            one_of("role", &texts(&self.roles)),
            one_of("group", &texts(&self.groups)),
            (!self.scopes.is_empty()).then(|| (format!("scope {}", self.scopes.join(" and ")), false)),
            one_of("method", &self.methods.iter().map(Method::as_str).collect::<Vec<_>>()),
            one_of("path", &texts(&paths)),
        ]
        .into_iter()
        .flatten()
        .collect();
        let alone = conditions.len() == 1;
        let bracketed = |(text, several)| if several && !alone { format!("({text})") } else { text };
        conditions.into_iter().map(bracketed).collect::<Vec<_>>().join(" and ")
    }
}

fn texts(names: &[String]) -> Vec<&str> {
    names.iter().map(String::as_str).collect()
}

/// What one entry asks for is joined by `and`, so it takes more than a comma to tell it from the next.
fn alternatives(rules: &[Rule]) -> String {
    few(rules.iter().map(Rule::describe), rules.len(), "; or ")
}

fn observed(method: &Method, principal: Option<&Principal>) -> String {
    let Some(principal) = principal else { return format!("{method} by nobody known") };
    let names = |items: &[Arc<str>]| first_few(items, items.len());
    let [roles, groups, scopes] = [&principal.roles, &principal.groups, &principal.scopes].map(|items| names(items));
    format!("{method} with roles {roles}; groups {groups}; scopes {scopes}")
}

#[cfg(test)]
#[path = "authorize_tests.rs"]
mod tests;
