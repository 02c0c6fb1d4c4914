//! The traits a filter implements, and the table entry that makes it available to configurations.

use crate::body::{Body, BodyAccess};
use crate::env::Env;
use crate::error::ConfigError;
use crate::exchange::Exchange;
use crate::head::{RequestHead, ResponseHead};
use crate::verdict::{FilterError, Verdict};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::DeserializeOwned;
use std::sync::Arc;

/// A filter, built and ready. It is shared by all requests of its route.
///
/// Filters run in the order of the configuration on the request, and in the reverse order on the response, also on a
/// response that the gateway itself makes. A panic is a 500 for that request, counted and logged.
pub trait Filter: Send + Sync + 'static {
    /// Judges, and may change, the request.
    fn request(&self, _request: &mut RequestHead, _exchange: &mut Exchange) -> Verdict {
        Verdict::Continue
    }

    /// Judges, and may change, the response. Runs for each filter whose request stage ran.
    fn response(&self, _response: &mut ResponseHead, _exchange: &mut Exchange) -> Verdict {
        Verdict::Continue
    }

    /// Sees each piece of the request body, if [`needs`](Self::needs) says so.
    fn request_body(&self, _body: &mut Body<'_>, _exchange: &mut Exchange) -> Verdict {
        Verdict::Continue
    }

    /// Sees each piece of the response body, if [`needs`](Self::needs) says so. The head is already sent: a refusal
    /// breaks the response off.
    fn response_body(&self, _body: &mut Body<'_>, _exchange: &mut Exchange) -> Verdict {
        Verdict::Continue
    }

    /// Whether the request has a credential of the kind that the filter reads, good or not. For a filter that
    /// [combines](Needs::combines); it is asked before [`request`](Self::request), and must be cheap.
    fn credential(&self, _request: &RequestHead, _exchange: &Exchange) -> Credential {
        Credential::NotRead
    }

    /// Takes the credential that the filter reads out of the request, because another alternative of an `any_of` has
    /// decided and nobody has verified this one. What the connection holds stays.
    ///
    /// # Errors
    /// If the request cannot be sent on without it; it is then refused.
    fn withhold(&self, _request: &mut RequestHead) -> Result<(), FilterError> {
        Ok(())
    }

    /// After the response, however it ended.
    fn done(&self, _exchange: &Exchange) {}

    /// Which bodies the filter looks at, and which header names it owns. Asked once, when the filter is built.
    fn needs(&self) -> Needs {
        Needs::default()
    }
}

/// Whether a request has what a filter judges callers by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Credential {
    /// The filter reads no credential: it judges by something that every request has.
    NotRead,
    Absent,
    Present,
}

/// What a filter asks of the gateway.
#[derive(Debug, Clone, Default)]
pub struct Needs {
    pub request_body: BodyAccess,
    pub response_body: BodyAccess,
    /// Request header names that only the gateway may send to an upstream. What a client sent under such a name, in
    /// any case and with `_` for `-`, is removed from every request of every route.
    pub owned_headers: Vec<String>,
    /// The filter authenticates the caller: `check` shows it, and warns if a filter that needs a principal comes
    /// before it.
    pub authenticates: bool,
    /// The filter sets a principal where a request has a credential, and may let others pass. Whoever
    /// [authenticates](Self::authenticates) need not say so.
    pub may_authenticate: bool,
    /// With the settings it has, the filter refuses every request that has no principal by then: `check` warns if nothing
    /// before it finds one out.
    pub requires_principal: bool,
    /// With the settings it has, the filter refuses every request without a client certificate: `check` warns if no listener
    /// of its route asks for one.
    pub requires_certificate: bool,
    /// What the filter does to refusals of others is done only to those of filters after it: `check` warns if one comes
    /// before.
    pub comes_first: bool,
    /// The filter reads the principal or the client certificate.
    pub reads_identity: bool,
    /// The filter answers CORS preflights: its route then also takes those that ask for one of the route's methods, though
    /// they come as `OPTIONS`. One that is let pass all the same gets 405.
    pub answers_preflights: bool,
    /// The filter may be a member of `any_of` and `all_of`: it judges in the request stage alone, and with the settings it
    /// has it refuses a request without the credential that it reads.
    pub combines: bool,
    /// How `check` sums the filter up in its table of effective security, such as `token(main; api:read)`.
    pub summary: Option<String>,
}

/// Makes a [`Filter`] from its configuration.
pub trait Build: Filter + Sized {
    /// The key under which a configuration names the filter.
    const NAME: &'static str;
    /// A configuration that shows the filter at work, as YAML for what follows the key. The tests of the gateway parse
    /// it.
    const EXAMPLE: &'static str;
    /// Use `#[serde(deny_unknown_fields)]`, and types that refuse a bad value while they are read: the error then
    /// names its line and column. The doc comments become the reference.
    type Config: DeserializeOwned + JsonSchema + Send + 'static;

    /// Everything is decoded, compiled and looked up here; nothing per request.
    ///
    /// # Errors
    /// If the configuration cannot be enforced in full.
    fn build(config: Self::Config, env: &Env) -> Result<Self, ConfigError>;
}

/// Whether a filter's verdict counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize, serde::Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The verdict holds.
    #[default]
    Enforce,
    /// The filter is evaluated, counted and logged; the request goes on as if the filter were not there.
    Shadow,
    /// The filter is checked for errors and then left out.
    Off,
}

impl Mode {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Shadow => "shadow",
            Self::Off => "off",
        }
    }
}

/// A filter whose configuration has been read and which is not yet built.
pub type Pending = Box<dyn FnOnce(&Env) -> Result<Arc<dyn Filter>, ConfigError> + Send>;

/// How a filter of one kind is read, built and described.
#[derive(Clone, Copy)]
pub struct FilterFactory {
    pub name: &'static str,
    pub example: &'static str,
    decode: fn(&mut dyn erased_serde::Deserializer<'_>) -> Result<Pending, erased_serde::Error>,
    schema: fn(&mut SchemaGenerator) -> Schema,
}

impl FilterFactory {
    pub const fn of<F: Build>() -> Self {
        Self {
            name: F::NAME,
            example: F::EXAMPLE,
            decode: |deserializer| {
                let config: F::Config = erased_serde::deserialize(deserializer)?;
                Ok(Box::new(move |env| F::build(config, env).map(|filter| Arc::new(filter) as Arc<dyn Filter>)))
            },
            schema: |generator| generator.subschema_for::<F::Config>(),
        }
    }

    /// Reads the filter's configuration.
    ///
    /// # Errors
    /// If it is not of the filter's type.
    pub fn decode(&self, deserializer: &mut dyn erased_serde::Deserializer<'_>) -> Result<Pending, erased_serde::Error> {
        (self.decode)(deserializer)
    }

    pub fn schema(&self, generator: &mut SchemaGenerator) -> Schema {
        (self.schema)(generator)
    }
}

/// The filters that a configuration may name. A later entry replaces an earlier one of the same name.
#[derive(Clone, Default)]
pub struct FilterTable {
    factories: Vec<FilterFactory>,
}

impl FilterTable {
    pub fn new(factories: impl IntoIterator<Item = FilterFactory>) -> Self {
        let mut table = Self::default();
        for factory in factories {
            table.add(factory);
        }
        table
    }

    pub fn add(&mut self, factory: FilterFactory) {
        self.factories.retain(|known| known.name != factory.name);
        self.factories.push(factory);
    }

    pub fn get(&self, name: &str) -> Option<&FilterFactory> {
        self.factories.iter().find(|factory| factory.name == name)
    }

    pub fn iter(&self) -> impl Iterator<Item = &FilterFactory> {
        self.factories.iter()
    }

    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.factories.iter().map(|factory| factory.name)
    }
}
