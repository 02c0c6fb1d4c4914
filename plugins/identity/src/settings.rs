//! An issuer's configuration, checked and taken apart: nothing is decoded per request.

use crate::algorithm::Algorithm;
use crate::asking;
use crate::config::{IssuerConfig, IssuerKind, TokenType};
use crate::fetch::{self, Client, FetchError, Trust};
use crate::introspection;
use crate::jwks;
use crate::keyfile::KeyFile;
use crate::mapping::Mapping;
use crate::outbound::AddressError;
use crate::pace::Pace;
use crate::store::{KeyIdentity, Source};
use crate::tenants::{self, Template};
use portcullis_plugin::units::TimeSpan;
use portcullis_plugin::{ConfigError, Env};
use std::sync::Arc;
use std::time::Duration;
use url::Url;

/// Longer is not a difference between clocks.
const MOST_LEEWAY: Duration = Duration::from_secs(300);
const WELL_KNOWN: &str = "/.well-known/openid-configuration";

/// What a token of this issuer is held against.
pub(crate) struct Settings {
    pub issuer: Arc<str>,
    /// If the issuer stands for several tenants.
    pub template: Option<Template>,
    pub audiences: Vec<Box<str>>,
    pub algorithms: Vec<Algorithm>,
    pub kind: IssuerKind,
    pub mapping: Mapping,
    pub token_types: Vec<TokenType>,
    pub accept_id_tokens: bool,
    pub leeway: Duration,
    pub pace: Pace,
    pub cache: u64,
}

/// Where the keys come from, before anything is fetched.
pub(crate) enum KeyOrigin {
    /// Fetched; the identity tells whether the keys of before a reload may go on being used. The file is for a restart.
    Network(Box<Source>, KeyIdentity, Option<Arc<KeyFile>>),
    File(jwks::Parsed),
}

/// An issuer, checked.
pub(crate) struct Compiled {
    pub settings: Settings,
    pub keys: KeyOrigin,
    pub introspection: Option<introspection::Settings>,
}

/// Checks everything. Takes the configuration apart field by field, so that a new key cannot be forgotten.
pub(crate) fn compile(config: &IssuerConfig, env: &Env) -> Result<Compiled, ConfigError> {
    let IssuerConfig {
        issuer,
        tenants,
        audiences,
        algorithms,
        kind,
        claims,
        token_types,
        accept_id_tokens,
        leeway,
        discovery,
        jwks_uri,
        jwks_file,
        ca,
        insecure_http,
        refresh,
        max_stale,
        key_cache,
        retire_after,
        timeout,
        max_wait,
        refetch_interval,
        cache,
        introspection,
    } = config;

    if issuer.trim() != issuer || issuer.is_empty() {
        return Err(ConfigError::new("the issuer's identifier is empty, or has spaces around it").at("issuer"));
    }
    if audiences.is_empty() {
        return Err(ConfigError::new("no audience: a token for any other service of the issuer would be accepted")
            .help("name at least one value of `aud` that stands for this service")
            .at("audiences"));
    }
    if let Some(index) = audiences.iter().position(|audience| audience.is_empty()) {
        return Err(ConfigError::new("an empty audience").at(index).at("audiences"));
    }
    if algorithms.is_empty() {
        return Err(ConfigError::new("no algorithm: no token could be accepted").at("algorithms"));
    }
    if token_types.is_empty() {
        return Err(ConfigError::new("no token type: no token could be accepted").at("token_types"));
    }
    if leeway.get() > MOST_LEEWAY {
        return Err(ConfigError::new(format!("a leeway of {leeway} is more than clocks differ"))
            .help("at most 5m; set the clocks instead")
            .at("leeway"));
    }

    let template = Template::compile(issuer, *kind, tenants.as_ref().map(|tenants| tenants.0.as_slice()))?;
    if template.is_some() && introspection.is_some() {
        return Err(ConfigError::new("an opaque token does not say which tenant it is of").at("introspection"));
    }
    let mapping = Mapping::new(*kind, claims, audiences).map_err(|error| error.at("claims"))?;
    let network = Network { issuer, discovery, jwks_uri, ca, key_cache, insecure_http: *insecure_http };
    let paces = [
        ("refresh", refresh),
        ("max_stale", max_stale),
        ("retire_after", retire_after),
        ("timeout", timeout),
        ("max_wait", max_wait),
        ("refetch_interval", refetch_interval),
    ];
    let pace = pace(&paces, *kind)?;
    let asked = match introspection {
        Some(raw) => {
            let compiled = asking::compile(raw, &network, &pace, &mapping.of_answers(claims), env);
            Some(compiled.map_err(|error| error.at("introspection"))?)
        }
        None => None,
    };
    let keys = match jwks_file {
        Some(path) => {
            // Asking about tokens still needs a network.
            let idle =
                |key: &str| asked.is_none() || !matches!(key, "ca" | "insecure_http" | "discovery" | "timeout" | "max_wait");
            network.refuse_all("jwks_file", idle)?;
            if let Some((key, _)) = paces.iter().find(|(key, value)| value.is_some() && idle(key)) {
                return Err(ConfigError::new(format!("`{key}` has no effect with `jwks_file`: nothing is fetched")).at(*key));
            }
            let bytes = env.read(path).map_err(|error| error.at("jwks_file"))?;
            let parsed = jwks::parse(&bytes, issuer)
                .map_err(|error| ConfigError::new(format!("{path} gives no keys: {error}")).at("jwks_file"))?;
            KeyOrigin::File(parsed)
        }
        None => network.compile(env)?,
    };
    let settings = Settings {
        issuer: issuer.as_str().into(),
        template,
        audiences: audiences.iter().map(|audience| audience.as_str().into()).collect(),
        algorithms: algorithms.clone(),
        kind: *kind,
        mapping,
        token_types: token_types.clone(),
        accept_id_tokens: accept_id_tokens.unwrap_or(*kind == IssuerKind::Google),
        leeway: leeway.get(),
        pace,
        cache: cache.0,
    };
    Ok(Compiled { settings, keys, introspection: asked })
}

fn pace(given: &[(&'static str, &Option<TimeSpan>); 6], kind: IssuerKind) -> Result<Pace, ConfigError> {
    let get = |wanted: &str, default: Duration| {
        given.iter().find(|(key, _)| *key == wanted).and_then(|(_, value)| value.map(TimeSpan::get)).unwrap_or(default)
    };
    let retire_default = if kind == IssuerKind::Entra { Duration::from_secs(15 * 60) } else { Duration::ZERO };
    let pace = Pace {
        refresh: get("refresh", Duration::from_secs(300)),
        max_stale: get("max_stale", Duration::from_secs(24 * 3600)),
        retire_after: get("retire_after", retire_default),
        timeout: get("timeout", Duration::from_secs(5)),
        max_wait: get("max_wait", Duration::from_secs(2)),
        refetch_interval: get("refetch_interval", Duration::from_secs(10)),
    };
    for (key, value) in [
        ("refresh", pace.refresh),
        ("max_stale", pace.max_stale),
        ("timeout", pace.timeout),
        ("max_wait", pace.max_wait),
        ("refetch_interval", pace.refetch_interval),
    ] {
        if value.is_zero() {
            return Err(ConfigError::new(format!("`{key}` cannot be zero")).at(key));
        }
    }
    if pace.max_stale < pace.refresh {
        return Err(ConfigError::new("keys would become too old before they are fetched again")
            .help("make `max_stale` at least `refresh`")
            .at("max_stale"));
    }
    Ok(pace)
}

/// The keys that say where and how to fetch.
pub(crate) struct Network<'a> {
    pub issuer: &'a str,
    discovery: &'a Option<String>,
    jwks_uri: &'a Option<String>,
    ca: &'a Option<String>,
    key_cache: &'a Option<String>,
    insecure_http: bool,
}

impl Network<'_> {
    /// The keys of which `idle` says that they would have no effect.
    fn refuse_all(&self, beside: &str, idle: impl Fn(&str) -> bool) -> Result<(), ConfigError> {
        let given = [
            ("discovery", self.discovery.is_some()),
            ("jwks_uri", self.jwks_uri.is_some()),
            ("ca", self.ca.is_some()),
            ("key_cache", self.key_cache.is_some()),
            ("insecure_http", self.insecure_http),
        ];
        match given.iter().find(|(key, given)| *given && idle(key)) {
            Some((key, _)) => {
                Err(ConfigError::new(format!("`{key}` has no effect with `{beside}`: nothing is fetched")).at(*key))
            }
            None => Ok(()),
        }
    }

    fn compile(self, env: &Env) -> Result<KeyOrigin, ConfigError> {
        let (key, text) = match (self.jwks_uri, self.discovery) {
            (Some(_), Some(_)) => {
                return Err(ConfigError::new("`discovery` has no effect with `jwks_uri`").at("discovery"));
            }
            (Some(uri), None) => ("jwks_uri", uri.clone()),
            (None, _) => self.document(),
        };
        let trust = self.trust();
        let url = self.address(key, &text)?;
        let roots = self.roots(env)?;
        let client = Client::new(roots.as_deref(), trust)
            .map_err(|error| ConfigError::new(format!("the CAs cannot be used: {error}")).at("ca"))?;
        let source = if key == "jwks_uri" {
            Source::Keys { url, issuer: Arc::from(self.issuer), client }
        } else {
            Source::Discovery { document: url, issuer: Arc::from(self.issuer), client }
        };
        let identity = KeyIdentity::new(self.issuer, key, &text, roots.as_deref(), self.insecure_http);
        let file = match self.key_cache {
            None => None,
            Some(folder) => {
                let file = KeyFile::new(&env.resolve(folder), self.issuer, identity.as_str());
                let file = file.map_err(|error| {
                    ConfigError::new(format!("{folder}: {error}"))
                        .help("give a folder of the gateway's own user, with `chmod go-w`")
                        .at("key_cache")
                })?;
                Some(Arc::new(file))
            }
        };
        Ok(KeyOrigin::Network(Box::new(source), identity, file))
    }

    pub(crate) fn trust(&self) -> Trust {
        if self.insecure_http { Trust::AnyHttp } else { Trust::LoopbackHttp }
    }

    pub(crate) fn roots(&self, env: &Env) -> Result<Option<Vec<u8>>, ConfigError> {
        self.ca.as_ref().map(|path| env.read(path).map_err(|error| error.at("ca"))).transpose()
    }

    /// Where the discovery document is, and the key that says so.
    pub(crate) fn document(&self) -> (&'static str, String) {
        match self.discovery {
            Some(uri) => ("discovery", uri.clone()),
            None => {
                let own = || format!("{}{WELL_KNOWN}", self.issuer.trim_end_matches('/'));
                ("issuer", tenants::common_document(self.issuer, WELL_KNOWN).unwrap_or_else(own))
            }
        }
    }

    pub(crate) fn address(&self, key: &'static str, text: &str) -> Result<Url, ConfigError> {
        let url = Url::parse(text).map_err(|_| {
            // Not repeated where a password could stand in it: one with a `/` or a `#` is what makes it unreadable.
            let told = if text.contains(['@', '?', '#']) { "this".to_owned() } else { format!("`{text}`") };
            let error = ConfigError::new(format!("{told} is not an address that keys can be fetched from")).at(key);
            if key == "issuer" { error.help("give `jwks_uri`, `discovery` or `jwks_file`") } else { error }
        })?;
        fetch::allowed(&url, self.trust()).map_err(|refused| {
            let help = match refused {
                FetchError::Refused(AddressError::User(_)) => {
                    "an address is told in logs and hints; issuers publish their keys to everybody"
                }
                _ => "use https://; or say `insecure_http: true` if the network between is yours alone",
            };
            ConfigError::new(refused.to_string()).help(help).at(key)
        })?;
        Ok(url)
    }
}
