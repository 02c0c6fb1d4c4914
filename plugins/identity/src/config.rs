//! What a configuration says about an issuer. Durations are written with their unit (`30s`, `5m`, `24h`), sizes
//! likewise (`16MiB`).

use crate::algorithm::Algorithm;
use portcullis_plugin::units::{ByteSize, OneOrMany, TimeSpan};
use schemars::JsonSchema;
use serde::Deserialize;

/// Who issues tokens, and which of them are accepted.
///
/// The keys come from the issuer's discovery document (`issuer` + `/.well-known/openid-configuration`), unless
/// `jwks_uri` or `jwks_file` says otherwise.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IssuerConfig {
    /// The issuer's identifier, exactly as it stands in a token's `iss`: a trailing slash matters. With `kind: entra`,
    /// `{tenantid}` may stand where the tenant does (`https://login.microsoftonline.com/{tenantid}/v2.0`); see `tenants`.
    pub issuer: String,
    /// Whose tokens are accepted, where `issuer` has `{tenantid}`: ids of tenants, or `any` for everybody who has an account
    /// with Microsoft, personal ones too. A token's `iss` and `tid` must then name the same tenant. Required there.
    pub tenants: Option<OneOrMany<String>>,
    /// A token must name at least one of these in its `aud`. With `kind: cognito`, whose access tokens have no `aud`,
    /// its `client_id`.
    pub audiences: Vec<String>,
    /// The signature algorithms that are accepted: RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, ES512, EdDSA. What
    /// a token says about itself never widens this list. Default: RS256, PS256, ES256, ES384, EdDSA.
    #[serde(default = "default_algorithms")]
    pub algorithms: Vec<Algorithm>,
    /// The product that issues the tokens; it decides in which claims roles, groups, scopes and the client stand.
    /// Default: `generic`.
    #[serde(default)]
    pub kind: IssuerKind,
    /// Where facts stand in a token, if not where `kind` says.
    #[serde(default)]
    pub claims: ClaimPaths,
    /// The accepted values of a token's `typ` header (RFC 9068); `absent` stands for a token without one. ID tokens
    /// are refused all the same unless `accept_id_tokens` says otherwise, and logout tokens always. Default: at+jwt, jwt, absent.
    #[serde(default = "default_token_types")]
    pub token_types: Vec<TokenType>,
    /// Accepts ID tokens too: who signed in, not what the application may do. `audiences` then names the applications
    /// whose sign-ins count; where a token has an `azp`, it must be one of them. An `oidc` filter may say otherwise for
    /// its routes. Default: false; true with `kind: google`, which issues no other JWTs.
    pub accept_id_tokens: Option<bool>,
    /// How far the clocks of the issuer and of this machine may differ. At most 5m. Default: 30s.
    #[serde(default = "default_leeway")]
    pub leeway: TimeSpan,
    /// The address of the discovery document, if it is not under `issuer`. Its `issuer` must still be the configured
    /// one, to the letter.
    pub discovery: Option<String>,
    /// The address of the issuer's key set (JWKS), for an issuer without discovery document.
    pub jwks_uri: Option<String>,
    /// A file with the issuer's key set (JWKS). Nothing is fetched then; the file is read again when it changes.
    pub jwks_file: Option<String>,
    /// PEM file with the CAs that the issuer's HTTPS certificate must lead to. Default: the public CAs.
    pub ca: Option<String>,
    /// Allows `http://` to other hosts than this machine: whoever can change that traffic can then forge every token.
    /// Default: false.
    #[serde(default)]
    pub insecure_http: bool,
    /// How often the keys are fetched again. An answer with a shorter `Cache-Control: max-age` is fetched again after
    /// that time, but not within 30s. Default: 5m.
    pub refresh: Option<TimeSpan>,
    /// How long known keys may be used when the issuer does not answer, counted from its last good answer; then requests
    /// are refused with 503 and `issuer.unavailable`. At least `refresh`. Default: 24h.
    pub max_stale: Option<TimeSpan>,
    /// A folder in which the last good keys are kept, so that a gateway that starts while the issuer is away still verifies
    /// its tokens, within `max_stale` of that answer. Made if it is not there; nobody else may be able to write to it. A
    /// file that does not fit is ignored, with a warning. Default: none; keys live in memory.
    pub key_cache: Option<String>,
    /// How long a key that the issuer no longer publishes is still accepted: until the first answer after this time. Default: 0s; with `kind: entra` 15m, because
    /// its servers answer with different sets from one fetch to the next.
    pub retire_after: Option<TimeSpan>,
    /// For one fetch, from the connection to the last byte. Default: 5s.
    pub timeout: Option<TimeSpan>,
    /// How long a request may wait for keys that it needs. Default: 2s.
    pub max_wait: Option<TimeSpan>,
    /// A token with an unknown key id causes a fetch out of turn. A few may follow each other at once, on average there
    /// is one in this time at most; a fetch that brings new keys does not count. Default: 10s.
    pub refetch_interval: Option<TimeSpan>,
    /// Memory for tokens that have been verified, so that each is verified once. A token is never taken from there after
    /// its `exp`, or once its key is no longer published. `0B` turns it off. Default: 16MiB.
    #[serde(default = "default_cache")]
    pub cache: ByteSize,
    /// Asks the issuer about tokens (RFC 7662). Default: nothing is asked, and an opaque token is refused.
    pub introspection: Option<IntrospectionConfig>,
}

/// How the issuer is asked about a token. Who it is then told about is judged as the claims of a JWT are: issuer (if the
/// answer names it), audience, expiry, subject, binding. An issuer that does not answer gives 503, never 401. `ca`,
/// `insecure_http`, `timeout` and `max_wait` of the issuer hold here too.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IntrospectionConfig {
    /// About which tokens. Default: `opaque`.
    #[serde(default)]
    pub tokens: AskedTokens,
    /// Where. Default: `introspection_endpoint` of the issuer's discovery document.
    pub endpoint: Option<String>,
    /// As whom. The issuer must allow this client to see tokens that it gave to others.
    pub client_id: String,
    /// A file whose first line is the client's secret. It is read again when it changes.
    pub client_secret_file: Option<String>,
    /// The environment variable that holds the client's secret, instead of a file.
    pub client_secret_env: Option<String>,
    /// How client and secret are sent. Default: `basic`.
    #[serde(default)]
    pub auth: ClientAuthentication,
    /// For how long an answer about an active token is used again, and no longer than its `exp`. A token that is revoked
    /// is accepted until then; with `0s` the issuer is asked for every request. Default: 30s.
    #[serde(default = "default_ttl")]
    pub ttl: TimeSpan,
    /// For how long a token that is not active is refused without asking. Default: 10s.
    #[serde(default = "default_inactive_ttl")]
    pub inactive_ttl: TimeSpan,
    /// Memory for answers. `0B` keeps none. Default: 4MiB.
    #[serde(default = "default_answers")]
    pub cache: ByteSize,
    /// Questions to the issuer at the same time, 1 to 1000; further ones wait, for `max_wait` at most. Default: 64.
    #[serde(default = "default_concurrent")]
    pub concurrent: u16,
    /// Whether an answer must name one of `audiences`. `false` also accepts answers that name no audience at all: then
    /// tokens for every other service of the issuer are accepted too, unless scopes keep them out. Default: true.
    #[serde(default = "default_true")]
    pub require_audience: bool,
}

/// About which tokens the issuer is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AskedTokens {
    /// Those that are no JWTs. JWTs are verified here.
    #[default]
    Opaque,
    /// JWTs too, once they are verified here: so that a revoked one is refused before it expires.
    All,
}

/// How a client shows who it is (RFC 6749, section 2.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ClientAuthentication {
    /// In the `Authorization` header.
    #[default]
    Basic,
    /// In the body.
    Post,
}

/// The product behind an issuer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum IssuerKind {
    /// `scope` or `scp`; `roles`; `groups`; `client_id` or `azp`.
    #[default]
    Generic,
    /// Roles of the realm (`realm_access`) and, of the clients named in `audiences`, their roles (`resource_access`).
    Keycloak,
    /// Microsoft Entra ID: `scp`, `roles`, `groups`, `azp` or `appid`.
    Entra,
    /// `scp` as a list, `cid`, `groups`.
    Okta,
    /// PingOne and PingFederate: `p1.permissions` as roles; tokens of applications have no `sub`, the `client_id` stands in.
    Ping,
    /// `permissions` as roles, `azp`.
    Auth0,
    /// Access tokens have no `aud`: their `client_id` is compared with `audiences`. `cognito:groups`.
    Cognito,
    /// Google issues JWTs only as ID tokens, so these are accepted; see `accept_id_tokens`.
    Google,
}

/// Where facts stand in a token: the name of a claim, or the way to a member of it (`realm_access.roles`). A claim of
/// the whole name wins over the way.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ClaimPaths {
    /// A list, or one value. Default: as `kind` says.
    pub roles: Option<String>,
    /// A list, or one value. Default: as `kind` says.
    pub groups: Option<String>,
    /// A list, or a text with spaces between scopes. Default: as `kind` says.
    pub scopes: Option<String>,
    /// Default: as `kind` says.
    pub client_id: Option<String>,
    /// Must be unique within the issuer and never change hands. Default: `sub`.
    pub subject: Option<String>,
}

/// A value of a token's `typ` header, lower-case and without a leading `application/`; or `absent`.
#[derive(Debug, Clone, PartialEq, Eq, JsonSchema)]
#[schemars(with = "String")]
pub struct TokenType(pub(crate) String);

impl TokenType {
    pub(crate) const ABSENT: &'static str = "absent";

    /// As RFC 7515, section 4.1.9 compares: without case, and `application/` may be left out.
    pub(crate) fn normalised(typ: &str) -> String {
        let lower = typ.to_ascii_lowercase();
        lower.strip_prefix("application/").map(str::to_owned).unwrap_or(lower)
    }
}

impl<'de> Deserialize<'de> for TokenType {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        match TokenType::normalised(&name) {
            typ if typ.is_empty() => Err(serde::de::Error::custom("an empty `typ`; write `absent` for tokens without one")),
            typ if typ == "logout+jwt" || typ == "dpop+jwt" => {
                Err(serde::de::Error::custom(format!("`{typ}` is no access token and is never accepted")))
            }
            typ => Ok(Self(typ)),
        }
    }
}

impl IssuerConfig {
    /// With every default. For tests and for gateways that are configured by code.
    pub fn new(issuer: impl Into<String>, audiences: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            issuer: issuer.into(),
            tenants: None,
            audiences: audiences.into_iter().map(Into::into).collect(),
            algorithms: default_algorithms(),
            kind: IssuerKind::default(),
            claims: ClaimPaths::default(),
            token_types: default_token_types(),
            accept_id_tokens: None,
            leeway: default_leeway(),
            discovery: None,
            jwks_uri: None,
            jwks_file: None,
            ca: None,
            insecure_http: false,
            refresh: None,
            max_stale: None,
            key_cache: None,
            retire_after: None,
            timeout: None,
            max_wait: None,
            refetch_interval: None,
            cache: default_cache(),
            introspection: None,
        }
    }
}

fn default_algorithms() -> Vec<Algorithm> {
    vec![Algorithm::Rs256, Algorithm::Ps256, Algorithm::Es256, Algorithm::Es384, Algorithm::EdDsa]
}

fn default_token_types() -> Vec<TokenType> {
    ["at+jwt", "jwt", TokenType::ABSENT].map(|typ| TokenType(typ.to_owned())).to_vec()
}

fn default_leeway() -> TimeSpan {
    TimeSpan::secs(30)
}

fn default_ttl() -> TimeSpan {
    TimeSpan::secs(30)
}

fn default_inactive_ttl() -> TimeSpan {
    TimeSpan::secs(10)
}

fn default_answers() -> ByteSize {
    ByteSize(4 << 20)
}

fn default_concurrent() -> u16 {
    64
}

fn default_true() -> bool {
    true
}

fn default_cache() -> ByteSize {
    ByteSize(16 << 20)
}
