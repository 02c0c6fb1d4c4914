//! Which requests go where, and what is asked of them.

use crate::config::filter_entry::FilterEntry;
use portcullis_plugin::units::OneOrMany;
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::BTreeMap;

/// Which requests, what is asked of them, and where they go: exactly one of `pool`, `split`, `redirect` and `respond`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Unique; appears in metrics and logs.
    pub name: String,
    /// Without it, every request.
    #[serde(default, rename = "match")]
    pub matches: Match,
    /// The listeners it serves. Default: all.
    #[serde(default)]
    pub listeners: Vec<String>,
    /// Run in this order on the request, and in reverse on the response.
    #[serde(default)]
    pub filters: Vec<FilterEntry>,
    /// Send to this pool.
    pub pool: Option<String>,
    /// Share out between pools by weight.
    pub split: Option<Vec<Share>>,
    pub redirect: Option<Redirect>,
    pub respond: Option<Respond>,
}

/// All that are given must hold.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Match {
    /// Exact, or with a leading `*.` for one or more labels. Case and port do not matter.
    pub host: OneOrMany<String>,
    /// A prefix by whole segments: `/orders` matches `/orders` and `/orders/1`, not `/ordersX`.
    pub path: Option<String>,
    /// The whole path.
    pub path_exact: Option<String>,
    /// A regular expression for the whole path.
    pub path_regex: Option<String>,
    /// `GET` includes `HEAD`.
    pub methods: Vec<String>,
    /// Header name to exact value; `*` for any value.
    pub headers: BTreeMap<String, String>,
    /// Query parameter to exact value; `*` for any value.
    pub query: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Share {
    pub pool: String,
    pub weight: u32,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308. Default: 308.
    #[serde(default = "default_redirect")]
    pub status: u16,
    /// Default: the request's.
    pub scheme: Option<RedirectScheme>,
    /// Default: the request's.
    pub host: Option<String>,
    /// Default: none for `scheme`'s own port.
    pub port: Option<u16>,
    /// The whole path. Default: the request's.
    pub path: Option<String>,
    /// Default: true.
    #[serde(default = "default_true")]
    pub keep_query: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RedirectScheme {
    Http,
    Https,
}

fn default_redirect() -> u16 {
    308
}

fn default_true() -> bool {
    true
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Respond {
    /// 200 to 599.
    pub status: u16,
    #[serde(default)]
    pub body: String,
    /// Default: `text/plain; charset=utf-8`.
    pub content_type: Option<String>,
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
}
