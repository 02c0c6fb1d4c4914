//! The filters of a replay: what a log line cannot tell them, they take from what was decided then, and say so.
//!
//! An access log has no tokens, keys, certificates or headers. So a filter that judges by address, method, host, path or
//! query runs as it is, and so does a rule about the caller, where the line has every fact that it reads; one that judges a
//! credential is taken to decide as it did; and where neither is possible, nobody can tell, and the replay says why.

use super::facts::Facts;
use portcullis_plugin::filter::Needs;
use portcullis_plugin::{
    Build, ConfigError, Denial, Env, Exchange, Filter, FilterFactory, FilterTable, Method, Principal, ReasonCode, RequestHead,
    Verdict, reason,
};
use portcullis_plugins as built_in;
use std::sync::{Arc, Mutex, PoisonError};

/// The filter before which a replay has to stop.
pub const UNKNOWN: ReasonCode = ReasonCode::new("replay.unknown");

/// What the log line says of the caller and of the decision.
pub struct Then {
    /// The verdict was `deny`, for this.
    pub refused: Option<ReasonCode>,
    pub facts: Facts,
    pub found: Arc<Mutex<Found>>,
}

/// What the filters say beside their verdicts.
#[derive(Debug, Default)]
pub struct Found {
    /// The filters that were taken to decide as they did.
    pub assumed: Vec<&'static str>,
    /// The filter that nobody can speak for.
    pub unknown: Option<Unknown>,
}

#[derive(Debug)]
pub struct Unknown {
    pub filter: &'static str,
    /// Which fact it lacks, and why, if it is a certain one.
    pub lacks: Option<String>,
}

/// By what a filter judges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Basis {
    /// By what a log line says: it runs.
    Line,
    /// As `Line`, but for preflights, which are judged by their headers.
    LineUnlessPreflight,
    /// By a credential that becomes a principal of this method, and refuses for reasons that begin so.
    Credential { method: &'static str, reasons: &'static [&'static str] },
    /// By the client certificate.
    Certificate,
    /// By how many requests came before: it is taken to have room, unless it had none. And by who is counted, as `Identity`.
    Count,
    /// It refuses only what the filters before it have let pass without an identity, or without the part of it that it
    /// needs.
    Identity,
    /// By what somebody else said then.
    Elsewhere,
    /// By facts that it names: where the line has them all, it runs.
    Facts,
}

/// A built-in filter, as a replay has it.
trait Replayable: Build {
    const BASIS: Basis;

    /// The facts by which it judges a request like this one, if that is its basis.
    fn facts(&self, _request: &RequestHead) -> Vec<String> {
        Vec::new()
    }

    /// Whether, as it is configured, it can refuse for want of an identity. If not, that was another filter.
    fn asks_for_identity(&self) -> bool {
        true
    }
}

macro_rules! bases {
    ($($filter:ty => $basis:expr $(, reads $facts:ident)? $(, asks $asks:ident)?;)*) => {
        $(impl Replayable for $filter {
            const BASIS: Basis = $basis;
            $(fn facts(&self, request: &RequestHead) -> Vec<String> { self.$facts(request) })?
            $(fn asks_for_identity(&self) -> bool { self.$asks() })?
        })*

        /// The table of a replay: every built-in filter, by the same configuration.
        pub fn table() -> FilterTable {
            FilterTable::new([$(FilterFactory::of::<Recorded<$filter>>(),)*])
        }
    };
}

bases! {
    built_in::request_id::RequestId => Basis::Line;
    built_in::debug::Debug => Basis::Line;
    built_in::ip_allow::IpAllow => Basis::Line;
    built_in::cors::Cors => Basis::LineUnlessPreflight;
    built_in::client_cert::ClientCert => Basis::Certificate;
    built_in::oidc::Oidc => Basis::Credential { method: "bearer", reasons: &["token.", "dpop."] };
    built_in::api_key::ApiKey => Basis::Credential { method: "api_key", reasons: &["api_key."] };
    built_in::authorize::Authorize => Basis::Facts, reads reads;
    // Nobody is asked again about what is over.
    built_in::external_authorize::ExternalAuthorize => Basis::Elsewhere;
    built_in::rate_limit::RateLimit => Basis::Count, asks asks_for_identity;
    built_in::identity_headers::IdentityHeaders => Basis::Identity;
    built_in::signed_identity::SignedIdentity => Basis::Identity;
    built_in::assertion_keys::AssertionKeys => Basis::Line;
    built_in::client_cert_header::ClientCertHeader => Basis::Identity, asks asks_for_identity;
    built_in::headers::EditHeaders => Basis::Line;
}

struct Recorded<F>(F);

impl<F: Replayable> Build for Recorded<F> {
    const NAME: &'static str = F::NAME;
    const EXAMPLE: &'static str = F::EXAMPLE;
    type Config = F::Config;

    fn build(config: F::Config, env: &Env) -> Result<Self, ConfigError> {
        F::build(config, env).map(Self)
    }
}

impl<F: Replayable> Filter for Recorded<F> {
    fn request(&self, request: &mut RequestHead, exchange: &mut Exchange) -> Verdict {
        let Some(then) = exchange.extension::<Then>() else { return self.0.request(request, exchange) };
        let mut found = then.found.lock().unwrap_or_else(PoisonError::into_inner);
        let refused_for =
            |prefixes: &[&str]| then.refused.filter(|reason| prefixes.iter().any(|prefix| reason.as_str().starts_with(prefix)));
        let for_identity = || then.refused.filter(|reason| *reason == reason::IDENTITY_MISSING && self.0.asks_for_identity());
        let mut lacks = None;
        let answer = match F::BASIS {
            Basis::Line => None,
            Basis::LineUnlessPreflight => (*request.method() == Method::Options).then_some(Answer::Unknown),
            Basis::Credential { method, reasons } => Some(match (refused_for(reasons), then.facts.principal(method)) {
                (Some(reason), _) => Answer::Refused(reason),
                (None, Some(who)) => Answer::Passed(Some(who)),
                (None, None) => Answer::Unknown,
            }),
            Basis::Certificate => Some(match refused_for(&["cert."]) {
                Some(reason) => Answer::Refused(reason),
                // Its own principal, unless one was known before.
                None if then.facts.has_certificate() => {
                    Answer::Passed(then.facts.principal("certificate").filter(|_| exchange.principal().is_none()))
                }
                None => Answer::Unknown,
            }),
            Basis::Elsewhere => Some(Answer::Unknown),
            Basis::Count => Some(refused_for(&["rate."]).or_else(for_identity).map_or(Answer::Passed(None), Answer::Refused)),
            Basis::Identity => Some(for_identity().map_or(Answer::Passed(None), Answer::Refused)),
            Basis::Facts => {
                let facts = self.0.facts(request);
                let who = exchange.principal().is_some();
                lacks = facts.iter().find_map(|fact| then.facts.lacks(fact, who));
                if lacks.is_none() && then.facts.has_certificate() && facts.iter().any(|fact| fact.starts_with("connection.cert"))
                {
                    found.assumed.push("client_auth");
                }
                lacks.as_ref().map(|_| Answer::Unknown)
            }
        };
        let Some(answer) = answer else {
            drop(found);
            return self.0.request(request, exchange);
        };
        match answer {
            Answer::Unknown => {
                found.unknown = Some(Unknown { filter: F::NAME, lacks });
                Verdict::Deny(Denial::new(UNKNOWN))
            }
            Answer::Refused(reason) => {
                found.assumed.push(F::NAME);
                Verdict::Deny(Denial::new(reason))
            }
            Answer::Passed(principal) => {
                found.assumed.push(F::NAME);
                drop(found);
                if let Some(principal) = principal {
                    exchange.set_principal(principal);
                }
                Verdict::Continue
            }
        }
    }

    fn needs(&self) -> Needs {
        self.0.needs()
    }
}

enum Answer {
    Passed(Option<Arc<Principal>>),
    Refused(ReasonCode),
    Unknown,
}

/// The gateway's own code of this name.
pub fn reason_named(name: &str) -> Option<ReasonCode> {
    reason::TABLE.iter().map(|row| row.code).find(|code| code.as_str() == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_built_in_filter_has_a_place_in_a_replay() {
        let names = |table: &FilterTable| table.names().collect::<Vec<_>>();
        assert_eq!(names(&table()), names(&built_in::table()));
    }
}
