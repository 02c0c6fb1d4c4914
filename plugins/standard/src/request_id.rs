//! Gives each request an id that upstreams log.
//!
//! ```yaml
//! - request_id: {}
//! ```
//!
//! The id is the decision id: the same as in `x-decision-id`, the access log and `explain`. With `trust_client: true`,
//! a client's own id is kept if it is one value of 1 to 128 letters, digits and `-_.:=+/@`; anything else is replaced.

use crate::header_rules::{check_name, is_look_alike, is_one_of};
use portcullis_plugin::{
    Build, ConfigError, Env, Exchange, Filter, FilterError, Finding, Headers, Needs, RequestHead, ResponseHead, Verdict, reason,
};
use schemars::JsonSchema;
use serde::Deserialize;

const MAX_LENGTH: usize = 128;

/// An id for each request.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The header that carries it. Default: `x-request-id`.
    pub header: String,
    /// Keep the id that the client sends. Default: false.
    pub trust_client: bool,
    /// Send it back to the client too. Default: true.
    pub response: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self { header: "x-request-id".to_owned(), trust_client: false, response: true }
    }
}

pub struct RequestId {
    header: String,
    trust_client: bool,
    response: bool,
}

/// A client's own id that was kept. Without it, the id is the decision id.
struct ClientId(String);

impl Build for RequestId {
    const NAME: &'static str = "request_id";
    const EXAMPLE: &'static str = "{ header: x-request-id, trust_client: false }";
    type Config = Config;

    fn build(config: Config, _env: &Env) -> Result<Self, ConfigError> {
        let Config { header, trust_client, response } = config;
        check_name(&header).map_err(|error| error.at("header"))?;
        if is_one_of(&header, &["authorization", "cookie", "set-cookie", "x-decision-id"]) {
            return Err(ConfigError::new(format!("`{header}` has another meaning"))
                .help("x-request-id is the usual name")
                .at("header"));
        }
        Ok(Self { header, trust_client, response })
    }
}

impl RequestId {
    /// The client's id, if it is one that may be kept.
    fn clients<'a>(&self, headers: &'a Headers) -> Option<&'a str> {
        let mut all = headers.iter().filter(|(name, _)| is_look_alike(name, &self.header));
        let (name, id) = all.next().filter(|_| self.trust_client)?;
        let sane = |b: &u8| b.is_ascii_alphanumeric() || b"-_.:=+/@".contains(b);
        let one = all.next().is_none() && name.eq_ignore_ascii_case(&self.header);
        let id = std::str::from_utf8(id).ok()?;
        (one && (1..=MAX_LENGTH).contains(&id.len()) && id.as_bytes().iter().all(sane)).then_some(id)
    }
}

impl Filter for RequestId {
    fn request(&self, request: &mut RequestHead, exchange: &mut Exchange) -> Verdict {
        if let Some(id) = self.clients(request.headers()) {
            let id = id.to_owned();
            if self.response {
                exchange.insert_extension(ClientId(id));
            }
            return Verdict::Continue;
        }
        let id = exchange.decision_id();
        request.headers_mut().retain(|name, _| !is_look_alike(name, &self.header));
        match request.headers_mut().set(&self.header, id.as_str()) {
            Ok(()) => Verdict::Continue,
            Err(error) => {
                exchange.check("fields", reason::REQUEST_HEADERS_TOO_LARGE, false, || {
                    Finding::new("room for the request id", error.to_string())
                });
                Verdict::deny(reason::REQUEST_HEADERS_TOO_LARGE)
            }
        }
    }

    fn response(&self, response: &mut ResponseHead, exchange: &mut Exchange) -> Verdict {
        if !self.response {
            return Verdict::Continue;
        }
        let decision = exchange.decision_id();
        let id = exchange.extension::<ClientId>().map_or(decision.as_str(), |ClientId(id)| id);
        match response.headers_mut().set(&self.header, id) {
            Ok(()) => Verdict::Continue,
            Err(error) => Verdict::Fault(FilterError::new(format!("the request id cannot be added: {error}"))),
        }
    }

    fn needs(&self) -> Needs {
        Needs::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::{Call, build, error, values};

    #[test]
    fn it_is_the_decision_id_in_both_directions() {
        let filter = build::<RequestId>("{}");
        let mut call =
            Call::get("/").header("X-Request-Id", "mine").header("x_request_id", "mine").header("x-request-id", "again");
        assert!(call.run(&filter).is_continue());
        let id = call.exchange.decision_id().to_string();
        assert_eq!((call.sent("x-request-id"), call.sent("x_request_id")), (vec![id.clone()], vec![]));
        assert_eq!(values(&call.response(&filter, &[("x-request-id", "upstream's")]), "x-request-id"), [id]);
    }

    #[test]
    fn a_trusted_client_keeps_a_sane_id() {
        let filter = build::<RequestId>("{ trust_client: true }");
        let mut call = Call::get("/").header("X-Request-Id", "req-1.2:3");
        assert!(call.run(&filter).is_continue());
        assert_eq!(call.sent("x-request-id"), ["req-1.2:3"]);
        assert_eq!(values(&call.response(&filter, &[]), "x-request-id"), ["req-1.2:3"]);
    }

    #[test]
    fn an_id_that_is_not_sane_is_replaced_even_from_a_trusted_client() {
        let filter = build::<RequestId>("{ trust_client: true }");
        let long = "a".repeat(129);
        for value in ["", "a b", "a\"}", "${jndi:ldap://x}", "<script>", "é", long.as_str()] {
            let mut call = Call::get("/").header("x-request-id", value);
            assert!(call.run(&filter).is_continue());
            assert_eq!(call.sent("x-request-id"), [call.exchange.decision_id().to_string()], "{value}");
        }
        for (first, second) in [("x-request-id", "X-Request-Id"), ("x-request-id", "x_request_id"), ("x_request-id", "other")] {
            let mut call = Call::get("/").header(first, "a").header(second, "b");
            assert!(call.run(&filter).is_continue());
            assert_eq!(call.sent("x-request-id"), [call.exchange.decision_id().to_string()], "{first} and {second}");
            assert!(call.sent("x_request_id").is_empty() && call.sent("x_request-id").is_empty());
        }
    }

    #[test]
    fn the_response_is_left_alone_if_asked() {
        let filter = build::<RequestId>("{ response: false }");
        let mut call = Call::get("/");
        assert!(call.run(&filter).is_continue());
        assert!(call.response(&filter, &[]).is_empty());
    }

    #[test]
    fn headers_with_another_meaning_are_refused() {
        for name in ["host", "Content-Length", "authorization", "Cookie", "x-decision-id", "a b", "''"] {
            assert!(error::<RequestId>(&format!("{{ header: {name} }}")).starts_with("header: "), "{name}");
        }
    }
}
