//! What a log line tells a filter that judges by facts: which it has, and why it has not the others.

use super::REDACTED;
use super::line::{Line, Told, is_cut};
use portcullis_plugin::{CertificateFacts, CertificateStatus, Principal};
use std::sync::Arc;
use std::time::SystemTime;

/// The facts of one line.
pub struct Facts {
    principal: Option<super::line::Principal>,
    /// Of the certificate that was verified then.
    certificate: Option<String>,
    /// The certificates of clients come in a header, which is not in the log.
    forwards: bool,
    /// A secret was taken out of the query.
    query_in_part: bool,
}

impl Facts {
    /// `forwards`: where certificates come in a header, that of the connection may be the proxy's own.
    pub fn of(line: &Line, forwards: bool) -> Self {
        let of_connection = line.tls.as_ref().and_then(|tls| tls.client_cert_sha256.clone());
        Self {
            principal: line.principal.clone(),
            certificate: of_connection.filter(|_| !forwards),
            forwards,
            query_in_part: line.query.as_ref().is_some_and(|query| query.contains(REDACTED)),
        }
    }

    /// The certificate, of which nothing but its hash is known. It was believed then.
    pub fn certificate(&self) -> Option<CertificateStatus> {
        let sha256 = self.certificate.clone()?;
        Some(CertificateStatus::Verified(Arc::new(CertificateFacts {
            subject: String::new(),
            issuer: String::new(),
            serial: String::new(),
            sha256,
            san_dns: Vec::new(),
            san_uri: Vec::new(),
            san_email: Vec::new(),
            san_ip: Vec::new(),
            spiffe_id: None,
            not_before: SystemTime::UNIX_EPOCH,
            not_after: SystemTime::UNIX_EPOCH,
            chain: Vec::new(),
            der: Arc::from([]),
        })))
    }

    /// Whether a certificate of the client was verified then.
    pub fn has_certificate(&self) -> bool {
        self.certificate.is_some() || self.principal.as_ref().is_some_and(|known| known.method == "certificate")
    }

    /// The caller, if a filter of this method had verified one. What is not known of them is empty: see [`lacks`](Self::lacks).
    pub fn principal(&self, method: &'static str) -> Option<Arc<Principal>> {
        let known = self.principal.as_ref().filter(|known| known.method == method)?;
        let mut principal = Principal::new(method, known.sub.as_str());
        principal.issuer = known.issuer.as_deref().map(Into::into);
        principal.client_id = known.client_id.as_ref().and_then(|told| told.as_deref().map(Into::into));
        let texts = |told: &Told<Vec<String>>| told.iter().flatten().flatten().map(|text| text.as_str().into()).collect();
        (principal.scopes, principal.roles, principal.groups) = (texts(&known.scopes), texts(&known.roles), texts(&known.groups));
        Some(Arc::new(principal))
    }

    /// Why this fact, as an expression writes it, cannot be told from the line; `None` if it can. `who`: somebody is known
    /// by now, so that the principal has members at all.
    pub fn lacks(&self, fact: &str, who: bool) -> Option<String> {
        let never = || Some(format!("{fact}, which is not in the log"));
        match fact {
            "request" | "principal" | "connection" | "route" | "now" => None,
            "request.method" | "request.scheme" | "request.host" | "request.path" => None,
            "connection.client_ip" | "connection.listener" | "connection.tls" => None,
            _ if self.forwards && fact.starts_with("connection.cert") => never(),
            "connection.cert" | "connection.cert.sha256" => None,
            _ if fact.starts_with("request.query") => {
                self.query_in_part.then(|| format!("{fact}, and a secret was taken out of the query in the log"))
            }
            _ if fact.starts_with("connection.cert.") => {
                if self.has_certificate() {
                    never()
                } else {
                    None
                }
            }
            _ if fact.starts_with("principal.") => {
                if who {
                    self.lacks_of_principal(fact)
                } else {
                    None
                }
            }
            // Whatever a later version knows more.
            _ => never(),
        }
    }

    fn lacks_of_principal(&self, fact: &str) -> Option<String> {
        // Set by a filter that is taken to have passed, and so it is the one of the line.
        let known = self.principal.as_ref()?;
        let cut = |text: &str| is_cut(text).then(|| format!("{fact}, which is longer than the log keeps"));
        let list = |told: &Told<Vec<String>>, name: &str| match told {
            None => Some(format!("{fact}, which is not in the log: `access_log.principal: [{name}]` would have put it there")),
            Some(None) => Some(format!("{fact}, of which the log says that it was not known as a whole")),
            Some(Some(_)) => None,
        };
        match fact {
            "principal.method" => None,
            "principal.sub" => cut(&known.sub),
            "principal.issuer" => known.issuer.as_deref().and_then(cut),
            "principal.client_id" => match &known.client_id {
                None => {
                    Some(format!("{fact}, which is not in the log: `access_log.principal: [client_id]` would have put it there"))
                }
                Some(told) => told.as_deref().and_then(cut),
            },
            "principal.scopes" => list(&known.scopes, "scopes"),
            "principal.roles" => list(&known.roles, "roles"),
            "principal.groups" => list(&known.groups, "groups"),
            _ => Some(format!("{fact}, which is never in the log")),
        }
    }
}
