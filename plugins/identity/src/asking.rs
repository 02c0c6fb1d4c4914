//! What a configuration says about asking an issuer about tokens, checked and taken apart.

use crate::config::{AskedTokens, ClientAuthentication, IntrospectionConfig};
use crate::fetch::Client;
use crate::introspection::{Credentials, Endpoint, Settings};
use crate::mapping::Mapping;
use crate::pace::Pace;
use crate::settings::Network;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use portcullis_plugin::{ConfigError, Env};
use std::sync::Arc;
use std::time::Duration;
use url::form_urlencoded::byte_serialize;

/// Longer is no answer of now.
const LONGEST_TTL: Duration = Duration::from_secs(3600);

/// Paths of errors start below `introspection`.
pub(crate) fn compile(
    raw: &IntrospectionConfig,
    network: &Network<'_>,
    pace: &Pace,
    mapping: &Mapping,
    env: &Env,
) -> Result<Settings, ConfigError> {
    let IntrospectionConfig {
        tokens,
        endpoint,
        client_id,
        client_secret_file,
        client_secret_env,
        auth,
        ttl,
        inactive_ttl,
        cache,
        concurrent,
        require_audience,
    } = raw;
    if client_id.is_empty() {
        return Err(ConfigError::new("an empty client id").at("client_id"));
    }
    for (key, span) in [("ttl", ttl), ("inactive_ttl", inactive_ttl)] {
        if span.get() > LONGEST_TTL {
            return Err(ConfigError::new(format!("an answer that is {span} old says nothing of now")).help("at most 1h").at(key));
        }
    }
    if !(1..=1000).contains(concurrent) {
        return Err(ConfigError::new(format!("{concurrent} questions at the same time")).help("1 to 1000").at("concurrent"));
    }
    let secret = secret(client_secret_file.as_deref(), client_secret_env.as_deref(), env)?;
    let endpoint = match endpoint {
        Some(text) => Endpoint::Known(network.address("endpoint", text)?),
        None => {
            let (key, text) = network.document();
            let document = network.address(key, &text).map_err(|_| {
                ConfigError::new("the issuer has no discovery document that could name the endpoint").help("give `endpoint`")
            })?;
            Endpoint::Discovered { document, issuer: Arc::from(network.issuer) }
        }
    };
    let roots = network.roots(env)?;
    let client = Client::keeping(usize::from(*concurrent), roots.as_deref(), network.trust())
        .map_err(|error| ConfigError::new(format!("the CAs cannot be used: {error}")))?;
    Ok(Settings {
        endpoint,
        client,
        credentials: credentials(*auth, client_id, secret)?,
        all: *tokens == AskedTokens::All,
        ttl: ttl.get(),
        inactive_ttl: inactive_ttl.get(),
        cache: cache.0,
        concurrent: usize::from(*concurrent),
        require_audience: *require_audience,
        mapping: mapping.clone(),
        timeout: pace.timeout,
        max_wait: pace.max_wait,
    })
}

/// No error shows it, and it cannot stand in the configuration itself, whose lines errors do show.
fn secret(file: Option<&str>, variable: Option<&str>, env: &Env) -> Result<String, ConfigError> {
    let (key, text) = match (file, variable) {
        (Some(path), None) => {
            let content = env.read(path).map_err(|error| error.at("client_secret_file"))?;
            let line = content.split(|byte| *byte == b'\n').next().unwrap_or_default().trim_ascii();
            ("client_secret_file", String::from_utf8(line.to_vec()).ok())
        }
        (None, Some(name)) => ("client_secret_env", std::env::var(name).ok()),
        (Some(_), Some(_)) => {
            return Err(ConfigError::new("the secret is given twice").help("leave one of them out").at("client_secret_env"));
        }
        (None, None) => {
            return Err(ConfigError::new("the client has no secret, and issuers tell nothing to strangers")
                .help("give `client_secret_file` or `client_secret_env`"));
        }
    };
    text.filter(|text| !text.is_empty() && !text.chars().any(char::is_control)).ok_or_else(|| {
        let what = if key == "client_secret_env" { "the variable is not set, or what it holds" } else { "the first line" };
        ConfigError::new(format!("{what} is no secret: it is empty, not UTF-8, or has control characters")).at(key)
    })
}

fn credentials(auth: ClientAuthentication, client_id: &str, secret: String) -> Result<Credentials, ConfigError> {
    match auth {
        ClientAuthentication::Post => Ok(Credentials::Post { client_id: client_id.to_owned(), secret }),
        ClientAuthentication::Basic => {
            let encode = |text: &str| byte_serialize(text.as_bytes()).collect::<String>();
            let pair = STANDARD.encode(format!("{}:{}", encode(client_id), encode(&secret)));
            let mut value = HeaderValue::try_from(format!("Basic {pair}"))
                .map_err(|_| ConfigError::new("it does not fit into a header").at("client_id"))?;
            value.set_sensitive(true);
            Ok(Credentials::Basic(value))
        }
    }
}
