//! Answers with the public keys of the gateway's assertions, for services to fetch.
//!
//! ```yaml
//! routes:
//!   - name: keys
//!     match: { path_exact: /.well-known/portcullis-keys.json }
//!     filters:
//!       - assertion_keys: { max_age: 5m }
//!     respond: { status: 404 }
//! ```
//!
//! It answers GET and HEAD with a JWK Set (RFC 7517), and leaves other methods to the route. Only public halves are in
//! it; filters before it may ask for whatever they like.

use crate::signed_identity::signer;
use portcullis_identity::assertion::signer::at;
use portcullis_plugin::units::TimeSpan;
use portcullis_plugin::{Build, ConfigError, Env, Exchange, Filter, Method, Needs, Reply, RequestHead, Verdict};
use schemars::JsonSchema;
use serde::Deserialize;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// How the keys are given out.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// How long services may keep the keys (`Cache-Control: max-age`), at most 1d: so long before it signs must a new key
    /// be published. Default: 5m.
    #[serde(default = "default_max_age")]
    pub max_age: TimeSpan,
}

fn default_max_age() -> TimeSpan {
    TimeSpan::secs(300)
}

/// From when on which reply is given.
pub struct AssertionKeys(Vec<(SystemTime, Reply)>);

impl Build for AssertionKeys {
    const NAME: &'static str = "assertion_keys";
    const EXAMPLE: &'static str = "{ max_age: 5m }";
    type Config = Config;

    fn build(config: Config, env: &Env) -> Result<Self, ConfigError> {
        let Config { max_age } = config;
        if max_age.get() > Duration::from_secs(24 * 3600) {
            return Err(ConfigError::new(format!("services would not see a new key for {max_age}"))
                .help("at most 1d")
                .at("max_age"));
        }
        let reply = |(start, keys): &(SystemTime, Arc<[u8]>)| {
            let mut reply = Reply::new(200).body("application/jwk-set+json", keys.to_vec());
            reply
                .headers
                .set("cache-control", format!("public, max-age={}", max_age.get().as_secs()))
                .map_err(|error| ConfigError::new(error.to_string()).at("max_age"))?;
            Ok((*start, reply))
        };
        signer(env)?.published().iter().map(reply).collect::<Result<_, _>>().map(Self)
    }
}

impl Filter for AssertionKeys {
    fn request(&self, request: &mut RequestHead, exchange: &mut Exchange) -> Verdict {
        match (request.method(), at(&self.0, exchange.now())) {
            (Method::Get | Method::Head, Some(reply)) => Verdict::Respond(reply.clone()),
            _ => Verdict::Continue,
        }
    }

    fn needs(&self) -> Needs {
        Needs { summary: Some("keys of assertions".to_owned()), ..Needs::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::{Call, build, error, values};
    use serde_json::Value;

    #[test]
    fn the_public_halves_are_given_out_and_nothing_else() {
        let filter = build::<AssertionKeys>("{ max_age: 1m }");
        let reply = Call::get("/").replied(&filter);
        assert_eq!(values(&reply.headers, "cache-control"), ["public, max-age=60"]);
        let set: Value = serde_json::from_slice(&reply.body).unwrap();
        let keys = set["keys"].as_array().unwrap();
        assert!(keys.len() == 2 && keys.iter().all(|key| key.get("d").is_none() && key["use"] == "sig"), "{set}");
        assert!(Call::new(Method::Post, "/").run(&filter).is_continue());
        assert!(error::<AssertionKeys>("{ max_age: 2d }").contains("at most 1d"));
    }
}
