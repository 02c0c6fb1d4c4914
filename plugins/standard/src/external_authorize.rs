//! Asks a service whether a request may pass: over HTTP, as Envoy's `ext_authz`, nginx's `auth_request` and Traefik's
//! `ForwardAuth` do, or over gRPC, as Envoy's `ext_authz` does.
//!
//! ```yaml
//! - external_authorize:
//!     url: https://authz.internal/check
//!     request_headers: [x-tenant]
//!     response_headers: [x-plan]
//! ```
//!
//! **The question**, over HTTP, is a GET of `url`, without a body. It says what the request is about, and nothing that the
//! client could have written under the same name:
//!
//! | field | value |
//! |---|---|
//! | `X-Forwarded-Method` | the request's method |
//! | `X-Forwarded-Proto` | `http` or `https`, as the client reached the gateway |
//! | `X-Forwarded-Host` | the request's host, with the port if it named one |
//! | `X-Forwarded-Uri` | path and query, normalised: what the upstream gets |
//! | `X-Forwarded-For` | the real client's address, alone |
//! | `X-Decision-Id` | the request's decision id |
//! | `X-Principal-Subject`, `-Issuer`, `-Method` | the caller that a filter before this one has verified; absent if there is none. Encoded as `identity_headers` does |
//!
//! Of the client's own fields, those in `request_headers` are sent, and no others: neither `Authorization` nor a cookie
//! leaves the gateway unless it is named there. `authorization` also means a token that `oidc` has verified and taken out.
//!
//! **The answer** is the status. 2xx: the request passes, with the fields of `response_headers` that the answer has. 401 and
//! 403: the client gets that status. Anything else, redirects included, is a failure, as is no answer within `timeout`, and
//! never an allowance. `on_failure` says what becomes of the request then.
//!
//! With `protocol: grpc`, the service is `envoy.service.auth.v3.Authorization`. It is told the same in the fields of a
//! `CheckRequest`. A `CheckResponse` allows with the status OK, and refuses with any other; then `denied_response` may choose
//! any status of 4xx and 5xx. What an allowance asks for and is not done here (fields to be removed, another query, fields for
//! the client) refuses the request.
//!
//! The gateway owns every name in `response_headers`: what a client sends under it, in any spelling, is removed from every
//! request of every route, whatever the service says, and in shadow mode too.
//!
//! Nothing is asked by `explain`, `test` and `replay`: they say that nobody was.

use crate::bearer::{Challenge, TokenScheme};
use crate::external_config::{address, names};
use crate::external_question::{OURS, Question};
use crate::external_service::{Answer, Failure, MOST_HEAD, Protocol, Refusal, Service};
use crate::header_rules::{RESERVED, folded, is_look_alike, is_one_of};
use crate::text::given;
use http::StatusCode;
use http::header::{HeaderMap, HeaderName};
use portcullis_identity::outbound;
use portcullis_plugin::prometheus::IntCounter;
use portcullis_plugin::units::{OneOrMany, TimeSpan};
use portcullis_plugin::{
    Build, ConfigError, Denial, Env, Exchange, Filter, Finding, Needs, RequestHead, Resume, Verdict, reason,
};
use schemars::JsonSchema;
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;

/// What a client is told to wait when the service is away.
const RETRY_AFTER: &str = "5";
const SHORTEST: Duration = Duration::from_millis(10);
const LONGEST: Duration = Duration::from_secs(10);
const MOST_CONCURRENT: u16 = 10_000;

/// Which service is asked, and what it is told.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where the service is asked: `https://`, or `http://` on this machine. For gRPC without a path.
    pub url: String,
    /// How it is asked. Default: `http`.
    #[serde(default)]
    pub protocol: Protocol,
    /// Let `url` be plain HTTP to another machine. Default: false.
    #[serde(default)]
    pub insecure_http: bool,
    /// A PEM file with the CAs that the service's certificate may come from. Default: the public CAs.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "String")]
    pub ca: Option<String>,
    /// For one question, connecting included: 10ms to 10s. Default: 500ms.
    #[serde(default = "default_timeout")]
    pub timeout: TimeSpan,
    /// The client's fields that the service is told, as they came. Whoever runs the service sees what is named here: name
    /// `authorization`, `cookie` or the header of an API key only if it is to judge by them. Default: none.
    #[serde(default)]
    pub request_headers: OneOrMany<String>,
    /// Fields of an allowing answer that the upstream gets. A client's own are always removed. Default: none.
    #[serde(default)]
    pub response_headers: OneOrMany<String>,
    /// Fields of a refusing answer that the client gets, such as `www-authenticate`; a 401 without one says `Bearer`. Default: none.
    #[serde(default)]
    pub deny_headers: OneOrMany<String>,
    /// What becomes of a request when there is no answer. Default: `deny`.
    #[serde(default)]
    pub on_failure: OnFailure,
    /// Questions at the same time, 1 to 10000: one more is a failure at once. Default: 100.
    #[serde(default = "default_concurrent")]
    pub max_concurrent: u16,
}

fn default_timeout() -> TimeSpan {
    TimeSpan::millis(500)
}

fn default_concurrent() -> u16 {
    100
}

/// What becomes of a request that the service said nothing about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// It is refused with 503.
    #[default]
    Deny,
    /// It passes unasked: **fail-open**. Whoever can overload or cut off the service then passes without its word. What it did
    /// answer refuses all the same, also where that is no verdict: a redirect, a 4xx other than 408 and 429, a contradiction.
    Allow,
}

pub struct ExternalAuthorize(Arc<Rules>);

/// Shared with the requests that wait for an answer.
struct Rules {
    service: Service,
    protocol: Protocol,
    question: Question,
    /// Host and port of it, for people and for metrics.
    name: String,
    taken: Vec<HeaderName>,
    handed_on: Vec<HeaderName>,
    on_failure: OnFailure,
    outcomes: Outcomes,
}

/// Answers, and failures by what became of the request.
struct Outcomes {
    allowed: IntCounter,
    denied: IntCounter,
    unavailable: IntCounter,
    failed_open: IntCounter,
}

impl Build for ExternalAuthorize {
    const NAME: &'static str = "external_authorize";
    const EXAMPLE: &'static str =
        "{ url: \"https://authz.internal/check\", request_headers: [x-tenant], response_headers: [x-plan] }";
    type Config = Config;

    fn build(config: Config, env: &Env) -> Result<Self, ConfigError> {
        let Config {
            url: text,
            protocol,
            insecure_http,
            ca,
            timeout,
            request_headers,
            response_headers,
            deny_headers,
            on_failure,
            max_concurrent,
        } = config;
        let (url, uri) = address(&text, protocol, insecure_http)?;
        if ca.is_some() && url.scheme() == "http" {
            return Err(ConfigError::new("`ca` has no effect with http").help("leave it out").at("ca"));
        }
        if !(SHORTEST..=LONGEST).contains(&timeout.get()) {
            return Err(ConfigError::new(format!("{timeout} for a question that requests wait for"))
                .help("10ms to 10s")
                .at("timeout"));
        }
        if !(1..=MOST_CONCURRENT).contains(&max_concurrent) {
            let error = ConfigError::new(format!("{max_concurrent} questions at the same time"));
            return Err(error.help("1 to 10000").at("max_concurrent"));
        }
        let roots = ca.map(|path| env.read(&path)).transpose().map_err(|error| error.at("ca"))?;
        let concurrent = usize::from(max_concurrent);
        let client = match protocol {
            Protocol::Http => outbound::http1_client(concurrent, roots.as_deref(), MOST_HEAD as usize),
            Protocol::Grpc => outbound::http2_client(roots.as_deref(), MOST_HEAD),
        };
        let client = client.map_err(|error| ConfigError::new(format!("the CAs cannot be used: {error}")).at("ca"))?;
        let sent = names("request_headers", &request_headers.0, |name| {
            let ours = OURS.iter().any(|ours| is_look_alike(name, ours.as_str()));
            ours.then_some("the gateway itself tells the service this")
        })?;
        let taken = names("response_headers", &response_headers.0, |name| {
            is_one_of(&folded(name), RESERVED).then_some("it has another meaning: choose a name of your own, such as x-plan")
        })?;
        if let Some(at) = sent.iter().position(|name| taken.iter().any(|taken| is_look_alike(name.as_str(), taken.as_str()))) {
            return Err(ConfigError::new(format!("`{}` is in `response_headers` too", sent[at]))
                .help("a client's own is always removed, so there would be nothing to tell")
                .at(at)
                .at("request_headers"));
        }
        let handed_on = names("deny_headers", &deny_headers.0, |name| match &*folded(name) {
            "x-decision-id" => Some("the gateway itself sets it on every response"),
            "content-type" | "content-encoding" | "content-range" => Some("the answer's body is not handed on"),
            _ => None,
        })?;
        let name = url[url::Position::BeforeHost..url::Position::AfterPort].to_owned();
        let sent = request_headers.0.into_iter().zip(sent).collect();
        let question = match protocol {
            Protocol::Http => Question::http(uri, sent),
            Protocol::Grpc => Question::grpc(uri, timeout.get(), sent)
                .ok_or_else(|| ConfigError::new("this is not an address that can be asked").at("url"))?,
        };
        Ok(Self(Arc::new(Rules {
            service: Service::new(client, protocol, timeout.get(), concurrent),
            outcomes: Outcomes::new(&name, env)?,
            protocol,
            question,
            name,
            taken,
            handed_on,
            on_failure,
        })))
    }
}

impl Outcomes {
    fn new(service: &str, env: &Env) -> Result<Self, ConfigError> {
        let counter = env.counter(
            "portcullis_external_authorizations_total",
            "Questions to an authorization service, by outcome: allow, deny, unavailable (the request was refused), or \
             fail_open (there was no answer, and the request passed).",
            &["service", "outcome"],
        )?;
        let of = |outcome| counter.with_label_values(&[service, outcome]);
        Ok(Self { allowed: of("allow"), denied: of("deny"), unavailable: of("unavailable"), failed_open: of("fail_open") })
    }
}

/// Every request has a host, which is not among its headers here.
fn has_like(request: &RequestHead, name: &str) -> bool {
    name == "host" || request.headers().iter().any(|(given, _)| is_look_alike(given, name))
}

impl Filter for ExternalAuthorize {
    fn request(&self, request: &mut RequestHead, exchange: &mut Exchange) -> Verdict {
        let rules = &self.0;
        // The gateway has done so before, on every route; this holds wherever else the filter is run.
        request.headers_mut().retain(|name, _| !rules.taken.iter().any(|taken| is_look_alike(name, taken.as_str())));
        if exchange.explaining() {
            return rules.not_asked(exchange);
        }
        let question = match rules.question.put(request, exchange) {
            Ok(question) => question,
            Err(failure) => return rules.failed(&failure, exchange),
        };
        let rules = Arc::clone(rules);
        Verdict::wait(async move {
            let answer = rules.service.ask(question).await;
            let resume: Resume = Box::new(move |request, exchange| rules.conclude(answer, request, exchange));
            resume
        })
    }

    fn needs(&self) -> Needs {
        let rules = &self.0;
        let open = if rules.on_failure == OnFailure::Allow { "; fail-open" } else { "" };
        Needs {
            owned_headers: rules.taken.iter().map(|name| name.as_str().to_owned()).collect(),
            // One that passes unasked would pass for every other alternative.
            combines: rules.on_failure == OnFailure::Deny,
            // Before the filter that finds it out, the service is told of nobody.
            reads_identity: true,
            summary: Some(match rules.protocol {
                Protocol::Http => format!("external({}{open})", rules.name),
                Protocol::Grpc => format!("external(grpc {}{open})", rules.name),
            }),
            ..Needs::default()
        }
    }
}

impl Rules {
    fn conclude(&self, answer: Result<Answer, Failure>, request: &mut RequestHead, exchange: &mut Exchange) -> Verdict {
        match answer {
            Ok(Answer::Allowed(fields)) => self.allow(&fields, request, exchange),
            Ok(Answer::Denied(refusal)) => self.refuse(&refusal, request, exchange),
            Err(failure) => self.failed(&failure, exchange),
        }
    }

    fn refuse(&self, refusal: &Refusal, request: &RequestHead, exchange: &mut Exchange) -> Verdict {
        self.outcomes.denied.inc();
        let status = refusal.status;
        exchange.check("answer", reason::AUTHORIZE_EXTERNAL_DENIED, false, || {
            let told = if self.protocol == Protocol::Http { "`X-Decision-Id`" } else { "`request.http.id`" };
            Finding::new(format!("{} of {}", self.allowance(), self.name), refusal.to_string())
                .hint(format!("the service's own log has the cause: it is told the decision id as {told}"))
        });
        let mut denial = Denial::new(reason::AUTHORIZE_EXTERNAL_DENIED).status(status.as_u16());
        for name in &self.handed_on {
            for value in refusal.fields.get_all(name) {
                denial = denial.header(name.as_str(), value.as_bytes());
            }
        }
        if status == StatusCode::UNAUTHORIZED && !denial.headers().contains("www-authenticate") {
            // RFC 9110, section 15.5.2: a 401 has a challenge.
            let (scheme, realm) = (TokenScheme::Bearer, request.host());
            let challenge = Challenge { scheme, realm, error: None, scope: None, algs: None };
            denial = denial.header("www-authenticate", challenge.to_string());
        }
        Verdict::Deny(denial)
    }

    fn allowance(&self) -> &'static str {
        if self.protocol == Protocol::Http { "2xx" } else { "OK" }
    }

    /// Everything that is an answer.
    fn answers(&self) -> String {
        format!("{} of {}", if self.protocol == Protocol::Http { "2xx, 401 or 403" } else { "OK or a refusal" }, self.name)
    }

    fn allow(&self, fields: &HeaderMap, request: &mut RequestHead, exchange: &mut Exchange) -> Verdict {
        // An answer over HTTP has fields of all kinds; one over gRPC has those that the request is to have.
        if self.protocol == Protocol::Grpc
            && let Some(name) = fields.keys().find(|name| !self.taken.contains(name) && has_like(request, name.as_str()))
        {
            let condition = format!("that the request's `{name}` is replaced, which is not in `response_headers`");
            return self.failed(&Failure::Condition(condition), exchange);
        }
        for name in &self.taken {
            let mut values = fields.get_all(name).iter();
            let Some(value) = values.next() else { continue };
            if values.next().is_some() {
                // None of them then: one that was set already is the service's word too, but only half of it.
                request.headers_mut().retain(|name, _| !self.taken.iter().any(|taken| is_look_alike(name, taken.as_str())));
                return self.failed(&Failure::Twice(name.as_str().to_owned()), exchange);
            }
            if let Err(error) = request.headers_mut().set(name.as_str(), value.as_bytes()) {
                exchange.check("fields", reason::REQUEST_HEADERS_TOO_LARGE, false, || {
                    Finding::new("room for the fields of the service's answer", error.to_string())
                });
                return Verdict::deny(reason::REQUEST_HEADERS_TOO_LARGE);
            }
        }
        self.outcomes.allowed.inc();
        Verdict::Continue
    }

    fn failed(&self, failure: &Failure, exchange: &mut Exchange) -> Verdict {
        let open = self.on_failure == OnFailure::Allow && !failure.refuses();
        // What a client chose to send says nothing of the service.
        if !matches!(failure, Failure::Unsendable(_))
            && let Some(failures) = self.service.log().failed()
        {
            let becomes = if open { "pass unasked (on_failure: allow)" } else { "are refused" };
            tracing::warn!(
                service = self.name, decision_id = %exchange.decision_id(), failures, failure = failure.to_string(),
                "an authorization service gives no answer that counts; requests {becomes}"
            );
        }
        exchange.check("answer", reason::AUTHORIZE_EXTERNAL_UNAVAILABLE, false, || {
            let hint = match failure {
                _ if open => "the request passed unasked: `on_failure` is `allow`",
                Failure::Unsendable(_) => "the client's request is at fault",
                Failure::Condition(_) => "have the service allow without it, or have a filter of the route do it",
                Failure::NotHttp2(_) | Failure::NotGrpc(_) => {
                    "is this the address of the gRPC service? Over HTTP it is `protocol: http`"
                }
                Failure::NoStatus | Failure::Contradiction(_) => "the service is at fault: it has to say one thing clearly",
                _ => "check the service and the way to it; nothing passes until it answers",
            };
            Finding::new(self.answers(), failure.to_string()).hint(hint)
        });
        if open {
            self.outcomes.failed_open.inc();
            return Verdict::Continue;
        }
        self.outcomes.unavailable.inc();
        Verdict::Deny(Denial::new(reason::AUTHORIZE_EXTERNAL_UNAVAILABLE).header("retry-after", RETRY_AFTER))
    }

    /// Whoever explains a request is not to set anything off elsewhere, and without an answer nothing passes.
    fn not_asked(&self, exchange: &mut Exchange) -> Verdict {
        exchange.check("answer", reason::AUTHORIZE_EXTERNAL_UNAVAILABLE, false, || {
            Finding::new(self.answers(), "not asked")
                .hint("only a running gateway asks the service: what it would have said is not known here")
        });
        Verdict::deny(reason::AUTHORIZE_EXTERNAL_UNAVAILABLE)
    }
}

#[cfg(test)]
#[path = "external_authorize_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "external_authorize_grpc_tests.rs"]
mod grpc_tests;
