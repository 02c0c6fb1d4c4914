//! Who is calling: the one shape that every kind of credential becomes.

use std::sync::Arc;
use std::time::SystemTime;

/// A verified caller. Only a filter that verified a credential makes one.
#[derive(Debug, Clone)]
pub struct Principal {
    /// How it was verified: `bearer`, `certificate`, `api_key`, or a name of your own filter's.
    pub method: &'static str,
    /// Unique within `issuer`; never re-used by it for somebody else.
    pub subject: Arc<str>,
    /// Who vouches for it: the issuer's identifier, or the CA's distinguished name.
    pub issuer: Option<Arc<str>>,
    /// The application that acts, where the credential says.
    pub client_id: Option<Arc<str>>,
    pub scopes: Vec<Arc<str>>,
    pub roles: Vec<Arc<str>>,
    pub groups: Vec<Arc<str>>,
    /// All claims of the credential.
    pub claims: Arc<serde_json::Map<String, serde_json::Value>>,
    /// When the credential ends; nothing derived from it may be kept longer.
    pub expires_at: Option<SystemTime>,
}

impl Principal {
    pub fn new(method: &'static str, subject: impl Into<Arc<str>>) -> Self {
        Self {
            method,
            subject: subject.into(),
            issuer: None,
            client_id: None,
            scopes: Vec::new(),
            roles: Vec::new(),
            groups: Vec::new(),
            claims: Arc::default(),
            expires_at: None,
        }
    }
}
