//! What the gateway keeps of an open connection.

use crate::config::snapshot::{ListenerPlan, Snapshot};
use crate::gateway::Current;
use crate::listen::ClientChain;
use portcullis_plugin::{CertificateStatus, Connection};
use std::sync::Arc;
use std::time::SystemTime;

/// A client at the other end of a connection. All requests of the connection share it.
pub struct Client {
    pub connection: Arc<Connection>,
    chain: Option<Arc<ClientChain>>,
    current: Arc<Current>,
    /// The plan it was accepted under, for a listener that a reload has removed since.
    accepted: Arc<ListenerPlan>,
}

impl Client {
    pub fn new(
        connection: Arc<Connection>,
        chain: Option<Arc<ClientChain>>,
        current: Arc<Current>,
        accepted: Arc<ListenerPlan>,
    ) -> Self {
        Self { connection, chain, current, accepted }
    }

    /// The configuration that a request arriving now is served by, from its first byte to its last.
    pub fn current(&self) -> (Arc<Snapshot>, Arc<ListenerPlan>) {
        let snapshot = self.current.snapshot();
        let plan = snapshot.listener(&self.connection.listener).unwrap_or(&self.accepted);
        let plan = Arc::clone(plan);
        (snapshot, plan)
    }

    /// Whether the listener still exists, and speaks TLS or not as it did then. Connections of one that is gone end after
    /// the request in progress.
    pub fn is_listed(&self) -> bool {
        let snapshot = self.current.snapshot();
        let plan = snapshot.listener(&self.connection.listener);
        plan.is_some_and(|plan| plan.settings.tls.is_some() == self.connection.tls.is_some())
    }

    /// The client certificate, judged now: by today's CAs and revocation lists, also on a connection opened before.
    pub fn certificate_status(&self, plan: &ListenerPlan, now: SystemTime) -> CertificateStatus {
        plan.settings.certificate_status(self.chain.as_deref(), now)
    }
}
