//! Published vectors (Wycheproof, RFC 7520) as bearer tokens over HTTP. None of them is an access token, so none may be
//! accepted, however good its signature is; and none may be answered with a fault of ours.

use crate::stage::{Call, Stage};
use portcullis_testkit::upstream::{Answer, Behaviour};
use portcullis_testkit::{Upstream, shared_file};
use serde_json::{Value, json};
use std::fmt::Write;

/// The distinct key sets, and each vector's token with the place of its set.
struct Vectors {
    sets: Vec<Value>,
    tokens: Vec<(String, usize, String)>,
}

impl Vectors {
    fn read() -> Option<Self> {
        let mut vectors = Self { sets: Vec::new(), tokens: Vec::new() };
        for file in ["jose/wycheproof-raw.jsonl", "jose/rfc7520.jsonl"] {
            let text = std::fs::read_to_string(shared_file(file)?).unwrap();
            text.lines().for_each(|line| vectors.add(&serde_json::from_str(line).unwrap()));
        }
        Some(vectors)
    }

    fn add(&mut self, vector: &Value) {
        assert_eq!(vector["http_expect"], 401, "{}", vector["id"]);
        let mut keys = match (&vector["jwks"]["keys"], &vector["key"]) {
            (Value::Array(keys), _) => keys.clone(),
            (_, Value::Array(keys)) => keys.clone(),
            (_, Value::Null) => Vec::new(),
            (_, key) => vec![key.clone()],
        };
        // What an issuer publishes is public.
        for key in keys.iter_mut().filter_map(Value::as_object_mut) {
            key.remove("d");
        }
        let set = json!({ "keys": keys });
        let at = self.sets.iter().position(|known| *known == set).unwrap_or_else(|| {
            self.sets.push(set);
            self.sets.len() - 1
        });
        let compact = vector["token"].as_str().or(vector["compact"].as_str()).map(str::to_owned);
        let texts = compact.into_iter().chain(vector["json"].is_object().then(|| vector["json"].to_string()));
        for text in texts {
            self.tokens.push((vector["id"].to_string(), at, text));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_published_vector_is_accepted_and_none_is_our_fault() {
    let Some(vectors) = Vectors::read() else { return };
    assert!(vectors.tokens.len() > 440 && vectors.sets.len() > 50, "{} of {}", vectors.tokens.len(), vectors.sets.len());
    // Each set is one issuer's; a good key beside it keeps the issuer answering where a set has none to be used.
    let issuers = portcullis_testkit::TokenIssuer::new("https://a.example");
    let filler = issuers.jwks().unwrap()["keys"][0].clone();
    let sets: Vec<String> = vectors
        .sets
        .iter()
        .map(|set| {
            let mut keys = set["keys"].as_array().unwrap().clone();
            let mut filler = filler.clone();
            filler["kid"] = "filler".into();
            keys.push(filler);
            json!({ "keys": keys }).to_string()
        })
        .collect();
    let count = sets.len();
    let publisher = Upstream::start().await.unwrap();
    publisher.behave(Behaviour::script(move |request| {
        let at: usize = request.target.trim_start_matches('/').parse().unwrap();
        Answer::new(200).header("content-type", "application/json").body(&sets[at]).into()
    }));
    let mut config = "issuers:\n".to_owned();
    let mut routes = "routes:\n".to_owned();
    let all = "RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, ES512, EdDSA";
    for at in 0..count {
        let jwks = format!("http://{}/{at}", publisher.address());
        writeln!(
            config,
            "  set{at}: {{ issuer: \"https://a.example/{at}\", audiences: [any], algorithms: [{all}], jwks_uri: \"{jwks}\" }}"
        )
        .unwrap();
        writeln!(
            routes,
            "  - {{ name: set{at}, match: {{ path_exact: /{at} }}, filters: [{{ oidc: {{ issuer: set{at} }} }}], pool: up }}"
        )
        .unwrap();
    }
    let stage = Stage::start(&format!("{config}{routes}")).await;
    let inspection = stage.inspect_online();
    let mut tokens = Vec::new();
    for (id, at, token) in vectors.tokens {
        let judged = stage.judge_by(&inspection, &Call::get(&format!("/{at}")).bearer(&token)).await;
        assert_eq!(judged.response.status, 401, "{id}: {token}");
        let challenge = judged.response.header("www-authenticate").unwrap_or_default();
        assert!(challenge.contains("error=\"invalid_token\""), "{id}: {challenge}");
        tokens.push(token);
    }
    assert_eq!(stage.upstream.count(), 0);
    let denied = stage.metric("portcullis_verdicts_total", &[("filter", "oidc"), ("verdict", "deny")]);
    assert_eq!(denied, tokens.len() as f64);
}
