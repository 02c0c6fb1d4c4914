//! One request and its response: the facts that cross stages, and every check made.

use crate::connection::{CertificateOrigin, CertificateStatus, Connection};
use crate::id::DecisionId;
use crate::principal::Principal;
use crate::reason::ReasonCode;
use std::any::{Any, TypeId};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

/// What a check expected and what it saw. Made only for a check that failed, or when somebody asked for all.
///
/// Neither a token nor a secret belongs here: it is shown in `explain`, the log and on the admin listener.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    pub expected: String,
    pub observed: String,
    /// What to do, if that is known.
    pub hint: Option<String>,
}

impl Finding {
    pub fn new(expected: impl Into<String>, observed: impl Into<String>) -> Self {
        Self { expected: expected.into(), observed: observed.into(), hint: None }
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// One check of one filter.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Check {
    /// The filter's name in the configuration.
    pub filter: &'static str,
    /// What was looked at: `audience`, `expiry`, `allow`.
    pub check: &'static str,
    pub ok: bool,
    /// The reason it would refuse for.
    pub reason: ReasonCode,
    /// Where the filter stands in a group: `any_of/1` is the group's second member, as paths of a configuration count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<Box<str>>,
    /// The filter is in shadow mode: whatever the check came to, it refused nothing.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub shadow: bool,
    #[serde(flatten)]
    pub finding: Finding,
}

impl Check {
    /// One that failed, of a filter that stands in no group.
    pub fn failed(filter: &'static str, check: &'static str, reason: ReasonCode, finding: Finding) -> Self {
        Self { filter, check, ok: false, reason, group: None, shadow: false, finding }
    }

    /// `oidc expiry`; of a member of a group `any_of/1/oidc expiry`.
    pub fn name(&self) -> String {
        match &self.group {
            Some(group) => format!("{group}/{} {}", self.filter, self.check),
            None => format!("{} {}", self.filter, self.check),
        }
    }
}

/// What a filter in shadow mode would have done, where that is not to let the request pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Shadowed {
    pub filter: &'static str,
    /// `deny`, `respond` or `fault`, as in the metrics.
    pub verdict: &'static str,
    /// Of a denial or a fault.
    pub reason: Option<ReasonCode>,
}

/// The facts of one request that filters and the gateway share.
pub struct Exchange {
    decision_id: DecisionId,
    connection: Arc<Connection>,
    client: IpAddr,
    certificate: CertificateStatus,
    origin: CertificateOrigin,
    now: SystemTime,
    route: Option<Arc<str>>,
    principal: Option<Arc<Principal>>,
    explaining: bool,
    filter: &'static str,
    group: Option<Arc<str>>,
    shadow: bool,
    checks: Vec<Check>,
    shadowed: Vec<Shadowed>,
    extensions: Vec<(TypeId, Box<dyn Any + Send + Sync>)>,
    /// Extensions before this one are not replaced, only hidden, since what hides them may be undone.
    replaceable: usize,
}

/// Where [`Exchange::driver_undo`] goes back to.
pub struct Mark {
    principal: Option<Arc<Principal>>,
    extensions: usize,
    replaceable: usize,
}

impl Exchange {
    /// For drivers, `explain` and the testkit.
    pub fn new(connection: Arc<Connection>, client: IpAddr, certificate: CertificateStatus, now: SystemTime) -> Self {
        Self {
            decision_id: DecisionId::random(),
            connection,
            client: client.to_canonical(),
            certificate,
            origin: CertificateOrigin::Handshake,
            now,
            route: None,
            principal: None,
            explaining: false,
            filter: "",
            group: None,
            shadow: false,
            checks: Vec::new(),
            shadowed: Vec::new(),
            extensions: Vec::new(),
            replaceable: 0,
        }
    }

    pub fn decision_id(&self) -> DecisionId {
        self.decision_id
    }

    pub fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// The real client: the connection's source, or what trusted proxies say of it. IPv4-mapped addresses are IPv4.
    pub fn client(&self) -> IpAddr {
        self.client
    }

    pub fn certificate(&self) -> &CertificateStatus {
        &self.certificate
    }

    /// How the certificate came here; if there is none, how it would have.
    pub fn certificate_origin(&self) -> CertificateOrigin {
        self.origin
    }

    /// When the request arrived. One reading for all checks, so that they agree.
    pub fn now(&self) -> SystemTime {
        self.now
    }

    /// The route's name, once one is chosen.
    pub fn route(&self) -> Option<&Arc<str>> {
        self.route.as_ref()
    }

    pub fn principal(&self) -> Option<&Arc<Principal>> {
        self.principal.as_ref()
    }

    /// Only a filter that has verified the credential calls this.
    pub fn set_principal(&mut self, principal: Arc<Principal>) {
        self.principal = Some(principal);
    }

    /// Whether passed checks are wanted too. They cost an allocation each; failed ones are always kept.
    pub fn explaining(&self) -> bool {
        self.explaining
    }

    /// Records a check and gives `ok` back. `finding` is called only if somebody will read it.
    pub fn check(&mut self, check: &'static str, reason: ReasonCode, ok: bool, finding: impl FnOnce() -> Finding) -> bool {
        if !ok || self.explaining {
            let (filter, group, shadow) = (self.filter, self.group.as_deref().map(Box::from), self.shadow);
            self.checks.push(Check { filter, check, ok, reason, group, shadow, finding: finding() });
        }
        ok
    }

    /// The checks kept so far, in order.
    pub fn checks(&self) -> &[Check] {
        &self.checks
    }

    /// What filters in shadow mode would have done so far, in order.
    pub fn shadowed(&self) -> &[Shadowed] {
        &self.shadowed
    }

    /// A filter's own state, from its request stage to its response stage. One value per type.
    pub fn extension<T: Any + Send + Sync>(&self) -> Option<&T> {
        let id = TypeId::of::<T>();
        self.extensions.iter().rev().find(|(key, _)| *key == id).and_then(|(_, value)| value.downcast_ref())
    }

    pub fn extension_mut<T: Any + Send + Sync>(&mut self) -> Option<&mut T> {
        let id = TypeId::of::<T>();
        self.extensions.iter_mut().rev().find(|(key, _)| *key == id).and_then(|(_, value)| value.downcast_mut())
    }

    pub fn insert_extension<T: Any + Send + Sync>(&mut self, value: T) {
        let id = TypeId::of::<T>();
        let mut at = 0..;
        let replaceable = self.replaceable;
        self.extensions.retain(|(key, _)| at.next().is_some_and(|at| at < replaceable) || *key != id);
        self.extensions.push((id, Box::new(value)));
    }
}

/// For the code that runs filters. A filter has no use for these.
impl Exchange {
    pub fn driver_set_route(&mut self, route: Arc<str>) {
        self.route = Some(route);
    }

    pub fn driver_explain(&mut self) {
        self.explaining = true;
    }

    /// Names the filter whose checks follow. It counts, and stands in no group.
    pub fn driver_enter(&mut self, filter: &'static str) {
        self.filter = filter;
        self.group = None;
        self.shadow = false;
    }

    /// The checks that follow are of a filter in shadow mode, until another is entered.
    pub fn driver_shadowing(&mut self) {
        self.shadow = true;
    }

    /// Names the member of a group whose checks follow, and where it stands: see [`Check::group`]. The mode is the group's.
    pub fn driver_enter_member(&mut self, filter: &'static str, group: Option<&Arc<str>>) {
        self.filter = filter;
        self.group = group.cloned();
    }

    /// For shadow mode: what a filter did to the principal is undone.
    pub fn driver_restore_principal(&mut self, principal: Option<Arc<Principal>>) {
        self.principal = principal;
    }

    /// For alternatives: what is set from here on can be undone, or kept.
    pub fn driver_mark(&mut self) -> Mark {
        let mark = Mark { principal: self.principal.clone(), extensions: self.extensions.len(), replaceable: self.replaceable };
        self.replaceable = self.extensions.len();
        mark
    }

    /// The principal and the extensions are as they were at the mark. Checks stay.
    pub fn driver_undo(&mut self, mark: Mark) {
        self.principal = mark.principal;
        self.extensions.truncate(mark.extensions);
        self.replaceable = mark.replaceable;
    }

    pub fn driver_keep(&mut self, mark: &Mark) {
        self.replaceable = mark.replaceable;
    }

    pub fn driver_set_certificate(&mut self, certificate: CertificateStatus) {
        self.certificate = certificate;
    }

    pub fn driver_set_certificate_origin(&mut self, origin: CertificateOrigin) {
        self.origin = origin;
    }

    /// For the chain. A body stage may say the same of each piece: it is kept once.
    pub fn driver_shadow(&mut self, shadowed: Shadowed) {
        if !self.shadowed.contains(&shadowed) {
            self.shadowed.push(shadowed);
        }
    }

    pub fn driver_take_checks(&mut self) -> Vec<Check> {
        std::mem::take(&mut self.checks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exchange() -> Exchange {
        let address = ([127, 0, 0, 1], 1).into();
        let connection = Connection { listener: "a".into(), peer: address, source: address, local: address, tls: None };
        Exchange::new(Arc::new(connection), address.ip(), CertificateStatus::Missing, SystemTime::UNIX_EPOCH)
    }

    #[test]
    fn what_is_undone_leaves_the_extension_it_hid() {
        let mut exchange = exchange();
        exchange.insert_extension(1_u8);
        exchange.insert_extension(2_u8);
        let outer = exchange.driver_mark();
        exchange.set_principal(Arc::new(Principal::new("bearer", "mallory")));
        let inner = exchange.driver_mark();
        exchange.insert_extension(3_u8);
        exchange.insert_extension("three");
        assert_eq!(exchange.extension::<u8>(), Some(&3));
        exchange.driver_undo(inner);
        assert_eq!((exchange.extension::<u8>(), exchange.extension::<&str>()), (Some(&2), None));
        exchange.insert_extension(4_u8);
        exchange.driver_undo(outer);
        assert_eq!((exchange.extension::<u8>(), exchange.principal().is_none()), (Some(&2), true));
        let kept = exchange.driver_mark();
        exchange.insert_extension(5_u8);
        exchange.driver_keep(&kept);
        assert_eq!(exchange.extension::<u8>(), Some(&5));
        exchange.insert_extension(6_u8);
        assert_eq!(exchange.extensions.len(), 1, "after that, it replaces again");
    }
}
