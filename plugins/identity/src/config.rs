//! What a configuration says about an issuer.

use portcullis_plugin::units::TimeSpan;
use schemars::JsonSchema;
use serde::Deserialize;

/// Who issues tokens, and which of them are accepted.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IssuerConfig {
    /// The issuer's identifier, exactly as it stands in a token's `iss`.
    pub issuer: String,
    /// A token must name at least one of these in its `aud`.
    pub audiences: Vec<String>,
    /// How far clocks may differ. Default: 30s.
    #[serde(default = "default_leeway")]
    pub leeway: TimeSpan,
}

fn default_leeway() -> TimeSpan {
    TimeSpan::secs(30)
}
