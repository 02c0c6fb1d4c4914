//! Asks for a client certificate, and for the names it must carry.
//!
//! ```yaml
//! - client_cert: { san_dns: ["*.partner.example"], issuer: "CN=Partner CA,O=Partner,C=DE" }
//! ```
//!
//! The listener has verified the certificate (`tls.client_auth`, or `client_cert` for one that a trusted proxy hands on); this filter decides whether a route needs one. Of
//! the names in one list, any may match; every list must hold. A certificate without a name of the kind that is asked
//! for does not match.
//!
//! With `require: false`, a client without a certificate passes, and so does one whose certificate did not verify: both
//! have no identity. A certificate that did verify must still carry the names.
//!
//! A certificate that passes becomes the principal (method `certificate`), unless an earlier filter has set one; a token or
//! key that a later filter verifies takes its place. The certificate's own facts (`cert.subject` and so on) stay within
//! reach of every filter either way. What the principal is called and may do, `principal` says:
//!
//! ```yaml
//! - client_cert: { issuer: "CN=Partner CA,O=Partner,C=DE", principal: { subject: san_uri, roles: [partner] } }
//! ```

use crate::certificate_names::{DnPattern, DnsPattern, EmailPattern, Fingerprint, SpiffePattern, UriName};
use crate::text::{first_few, given};
use portcullis_plugin::units::OneOrMany;
use portcullis_plugin::{
    Build, CertificateFacts, CertificateOrigin, CertificateStatus, ConfigError, Credential, Env, Exchange, Filter, Finding,
    Needs, Principal, RequestHead, Verdict, reason,
};
use schemars::JsonSchema;
use serde::Deserialize;
use std::fmt::{self, Display};
use std::sync::Arc;

/// What is asked of a client certificate. Lists have at least one entry.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Refuse a client that has no valid certificate. Default: true.
    #[serde(default = "default_require")]
    pub require: bool,
    /// Distinguished names of the subject, most specific part first: `CN=billing,O=Partner,C=DE`. The value `*` stands
    /// for any one value of an attribute.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "OneOrMany<DnPattern>")]
    pub subject: Option<OneOrMany<DnPattern>>,
    /// DNS names. A leading `*.` stands for exactly one label.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "OneOrMany<DnsPattern>")]
    pub san_dns: Option<OneOrMany<DnsPattern>>,
    /// URIs, compared to the letter.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "OneOrMany<UriName>")]
    pub san_uri: Option<OneOrMany<UriName>>,
    /// Mail addresses. `*@` stands for any mailbox of the domain.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "OneOrMany<EmailPattern>")]
    pub san_email: Option<OneOrMany<EmailPattern>>,
    /// Distinguished names of the CA that signed the certificate, written as `subject` is.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "OneOrMany<DnPattern>")]
    pub issuer: Option<OneOrMany<DnPattern>>,
    /// SHA-256 of the DER certificate: 64 hexadecimal digits, with or without colons.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "OneOrMany<Fingerprint>")]
    pub fingerprint_sha256: Option<OneOrMany<Fingerprint>>,
    /// SPIFFE ids. A trailing `/*` stands for one or more path segments.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "OneOrMany<SpiffePattern>")]
    pub spiffe_id: Option<OneOrMany<SpiffePattern>>,
    /// What the certificate is as a principal.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "PrincipalConfig")]
    pub principal: Option<PrincipalConfig>,
}

/// What a certificate that passes is as a principal. At least one key.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PrincipalConfig {
    /// The name that the caller is called by (`sub`). A certificate with none of that kind, or with several, is refused.
    /// Default: the SPIFFE id; else the subject; else the first alternative name, with its kind.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "SubjectName")]
    pub subject: Option<SubjectName>,
    /// Roles that every certificate has which passes. Default: none.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "OneOrMany<String>")]
    pub roles: Option<OneOrMany<String>>,
    /// Groups that it is in. Default: none.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "OneOrMany<String>")]
    pub groups: Option<OneOrMany<String>>,
    /// Scopes that it has. Default: none.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "OneOrMany<String>")]
    pub scopes: Option<OneOrMany<String>>,
}

/// A kind of name in a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SubjectName {
    SpiffeId,
    SanUri,
    SanDns,
    SanEmail,
    /// The subject's distinguished name.
    Subject,
    /// SHA-256 of the DER certificate, 64 lower-case hexadecimal digits.
    Sha256,
}

impl SubjectName {
    fn key(self) -> &'static str {
        match self {
            Self::SpiffeId => "spiffe_id",
            Self::SanUri => "san_uri",
            Self::SanDns => "san_dns",
            Self::SanEmail => "san_email",
            Self::Subject => "subject",
            Self::Sha256 => "sha256",
        }
    }

    fn names(self, facts: &CertificateFacts) -> Names<'_> {
        match self {
            Self::SpiffeId => Names::One(facts.spiffe_id.as_deref()),
            Self::SanUri => Names::Many(&facts.san_uri),
            Self::SanDns => Names::Many(&facts.san_dns),
            Self::SanEmail => Names::Many(&facts.san_email),
            Self::Subject => Names::One(Some(facts.subject.as_str()).filter(|subject| !subject.is_empty())),
            Self::Sha256 => Names::One(Some(&facts.sha256)),
        }
    }
}

fn default_require() -> bool {
    true
}

/// One list: any of its patterns may match any of the certificate's names of that kind.
struct Rule {
    /// The configuration's key.
    key: &'static str,
    expected: String,
    names: fn(&CertificateFacts) -> Names<'_>,
    matches: Box<dyn Fn(&str) -> bool + Send + Sync>,
}

/// The names of one kind that a certificate carries.
enum Names<'a> {
    One(Option<&'a str>),
    Many(&'a [String]),
}

impl<'a> Names<'a> {
    /// The name, if there is exactly one.
    fn only(&self) -> Option<&'a str> {
        match self {
            Self::One(name) => *name,
            Self::Many([name]) => Some(name),
            Self::Many(_) => None,
        }
    }

    fn any(&self, test: &dyn Fn(&str) -> bool) -> bool {
        match self {
            Self::One(name) => name.is_some_and(test),
            Self::Many(names) => names.iter().any(|name| test(name)),
        }
    }
}

impl fmt::Display for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&match self {
            Self::One(name) => first_few(*name, 1),
            Self::Many(names) => first_few(*names, names.len()),
        })
    }
}

pub struct ClientCert {
    require: bool,
    rules: Vec<Rule>,
    subject: Option<SubjectName>,
    roles: Vec<Arc<str>>,
    groups: Vec<Arc<str>>,
    scopes: Vec<Arc<str>>,
}

impl Build for ClientCert {
    const NAME: &'static str = "client_cert";
    const EXAMPLE: &'static str = "{ require: true, san_dns: [\"*.partner.example\"] }";
    type Config = Config;

    fn build(config: Config, _env: &Env) -> Result<Self, ConfigError> {
        let Config { require, subject, san_dns, san_uri, san_email, issuer, fingerprint_sha256, spiffe_id, principal } = config;
        let mut rules = Vec::new();
        add(&mut rules, "subject", subject, DnPattern::matches, |facts| Names::One(Some(&facts.subject)))?;
        add(&mut rules, "san_dns", san_dns, DnsPattern::matches, |facts| Names::Many(&facts.san_dns))?;
        add(&mut rules, "san_uri", san_uri, UriName::matches, |facts| Names::Many(&facts.san_uri))?;
        add(&mut rules, "san_email", san_email, EmailPattern::matches, |facts| Names::Many(&facts.san_email))?;
        add(&mut rules, "issuer", issuer, DnPattern::matches, |facts| Names::One(Some(&facts.issuer)))?;
        add(&mut rules, "fingerprint_sha256", fingerprint_sha256, Fingerprint::matches, |facts| Names::One(Some(&facts.sha256)))?;
        add(&mut rules, "spiffe_id", spiffe_id, SpiffePattern::matches, |facts| Names::One(facts.spiffe_id.as_deref()))?;
        let mut filter = Self { require, rules, subject: None, roles: Vec::new(), groups: Vec::new(), scopes: Vec::new() };
        if let Some(PrincipalConfig { subject, roles, groups, scopes }) = principal {
            if subject.is_none() && roles.is_none() && groups.is_none() && scopes.is_none() {
                return Err(ConfigError::new("it says nothing")
                    .help("give `subject`, `roles`, `groups` or `scopes`, or leave it out")
                    .at("principal"));
            }
            filter.subject = subject;
            for (key, given, list) in [
                ("roles", roles, &mut filter.roles),
                ("groups", groups, &mut filter.groups),
                ("scopes", scopes, &mut filter.scopes),
            ] {
                *list = granted(given).map_err(|error| error.at(key).at("principal"))?;
            }
        }
        Ok(filter)
    }
}

fn granted(names: Option<OneOrMany<String>>) -> Result<Vec<Arc<str>>, ConfigError> {
    let Some(OneOrMany(names)) = names else { return Ok(Vec::new()) };
    if names.is_empty() {
        return Err(ConfigError::new("the list is empty").help("name at least one, or leave the key out"));
    }
    match names.iter().position(|name| name.trim() != name || name.is_empty()) {
        Some(at) => Err(ConfigError::new("a name is empty, or has spaces at its ends").at(at)),
        None => Ok(names.into_iter().map(Into::into).collect()),
    }
}

fn add<P: Display + Send + Sync + 'static>(
    rules: &mut Vec<Rule>,
    key: &'static str,
    patterns: Option<OneOrMany<P>>,
    matches: fn(&P, &str) -> bool,
    names: fn(&CertificateFacts) -> Names<'_>,
) -> Result<(), ConfigError> {
    let Some(OneOrMany(patterns)) = patterns else { return Ok(()) };
    if patterns.is_empty() {
        return Err(ConfigError::new("the list is empty, so no certificate could match")
            .help("name at least one, or leave the key out")
            .at(key));
    }
    let expected = first_few(&patterns, patterns.len());
    let matches = Box::new(move |name: &str| patterns.iter().any(|pattern| matches(pattern, name)));
    rules.push(Rule { key, expected, names, matches });
    Ok(())
}

impl Filter for ClientCert {
    fn request(&self, _request: &mut RequestHead, exchange: &mut Exchange) -> Verdict {
        let status = exchange.certificate().clone();
        match &status {
            CertificateStatus::Verified(facts) => self.judge(facts, exchange),
            CertificateStatus::Missing => {
                let (reason, observed, hint) = match exchange.certificate_origin() {
                    CertificateOrigin::Forwarded { header, .. } => (
                        reason::CERT_FORWARDED_MISSING,
                        format!("none in {header}"),
                        "the trusted proxy handed none on: the client must send one to it; the proxy's own certificate is not the client's",
                    ),
                    CertificateOrigin::Handshake if exchange.connection().tls.is_none() => (
                        reason::CERT_MISSING,
                        "none".to_owned(),
                        "the listener has no TLS, so only a proxy could hand one on, if `trusted_proxies` has its address and the listener `client_cert`",
                    ),
                    CertificateOrigin::Handshake => (
                        reason::CERT_MISSING,
                        "none".to_owned(),
                        "send one in the handshake; the listener asks for one only if it has `client_auth`; a header is believed from `trusted_proxies` alone",
                    ),
                };
                self.without_identity(exchange, reason, || Finding::new("a client certificate", observed).hint(hint))
            }
            CertificateStatus::Refused(refusal) => self.without_identity(exchange, refusal.reason, || Finding {
                expected: refusal.expected.clone(),
                observed: refusal.observed.clone(),
                hint: refusal.hint.clone(),
            }),
        }
    }

    fn credential(&self, _request: &RequestHead, exchange: &Exchange) -> Credential {
        match exchange.certificate() {
            CertificateStatus::Missing => Credential::Absent,
            CertificateStatus::Verified(_) | CertificateStatus::Refused(_) => Credential::Present,
        }
    }

    fn needs(&self) -> Needs {
        let mut parts: Vec<&str> = self.rules.iter().map(|rule| rule.key).collect();
        if !self.require {
            parts.insert(0, "optional");
        }
        let summary = if parts.is_empty() { "cert".to_owned() } else { format!("cert({})", parts.join(", ")) };
        Needs {
            authenticates: self.require,
            may_authenticate: true,
            requires_certificate: self.require,
            combines: self.require,
            reads_identity: true,
            summary: Some(summary),
            ..Needs::default()
        }
    }
}

impl ClientCert {
    fn without_identity(
        &self,
        exchange: &mut Exchange,
        reason: portcullis_plugin::ReasonCode,
        finding: impl FnOnce() -> Finding,
    ) -> Verdict {
        if exchange.check("certificate", reason, !self.require, finding) { Verdict::Continue } else { Verdict::deny(reason) }
    }

    fn judge(&self, facts: &Arc<CertificateFacts>, exchange: &mut Exchange) -> Verdict {
        let origin = exchange.certificate_origin();
        let (missing, mismatch) = match origin {
            CertificateOrigin::Handshake => (reason::CERT_MISSING, reason::CERT_NAME_MISMATCH),
            CertificateOrigin::Forwarded { .. } => (reason::CERT_FORWARDED_MISSING, reason::CERT_FORWARDED_NAME_MISMATCH),
        };
        exchange.check("certificate", missing, true, || {
            let observed = match origin {
                CertificateOrigin::Handshake => facts.subject.clone(),
                CertificateOrigin::Forwarded { header, .. } => format!("{}, by a proxy's word in {header}", facts.subject),
            };
            Finding::new("a client certificate", observed)
        });
        let mut all = true;
        for rule in &self.rules {
            let names = (rule.names)(facts);
            let ok = names.any(&rule.matches);
            all &= exchange.check(rule.key, mismatch, ok, || {
                let observed = match names {
                    Names::Many([]) => format!("none in the certificate of {}", facts.subject),
                    names => names.to_string(),
                };
                Finding::new(format!("one of {}", rule.expected), observed)
                    .hint(format!("name the certificate in the route's `{}`, or issue one with such a name", rule.key))
            });
        }
        let name = match self.subject {
            None => Some(subject(facts)),
            Some(kind) => {
                let names = kind.names(facts);
                let only = names.only();
                // Which of several is meant is not ours to choose.
                all &= exchange.check("principal", mismatch, only.is_some(), || {
                    Finding::new(format!("exactly one {} to be called by", kind.key()), names.to_string())
                });
                only.map(str::to_owned)
            }
        };
        let Some(name) = name.filter(|_| all) else { return Verdict::deny(mismatch) };
        if exchange.principal().is_none() {
            exchange.set_principal(Arc::new(self.principal(name, facts)));
        }
        Verdict::Continue
    }

    fn principal(&self, name: String, facts: &CertificateFacts) -> Principal {
        let mut principal = Principal::new("certificate", name);
        principal.roles.clone_from(&self.roles);
        principal.groups.clone_from(&self.groups);
        principal.scopes.clone_from(&self.scopes);
        principal.issuer = Some(facts.issuer.as_str().into());
        principal.expires_at = Some(facts.not_after);
        principal
    }
}

/// The SPIFFE id; else the distinguished name; else, for a certificate whose subject is empty (RFC 5280, section
/// 4.1.2.6), its first alternative name, with its kind so that two kinds never meet.
fn subject(facts: &CertificateFacts) -> String {
    let first = |kind: &str, names: &[String]| names.first().map(|name| format!("{kind}:{name}"));
    facts
        .spiffe_id
        .clone()
        .or_else(|| (!facts.subject.is_empty()).then(|| facts.subject.clone()))
        .or_else(|| first("uri", &facts.san_uri))
        .or_else(|| first("dns", &facts.san_dns))
        .or_else(|| first("email", &facts.san_email))
        .unwrap_or_else(|| format!("sha256:{}", facts.sha256))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::{Call, build, error, facts};

    fn with(yaml: &str, facts: CertificateFacts) -> Verdict {
        Call::get("/").certificate(facts).run(&build::<ClientCert>(yaml))
    }

    #[test]
    fn none_is_refused_as_missing() {
        let filter = build::<ClientCert>("{}");
        assert_eq!(Call::get("/").denied(&filter).reason(), reason::CERT_MISSING);
        // A header that poses as one, from the network, changes nothing.
        let mut spoofed =
            Call::get("/").header("x-client-cert", "CN=billing").header("x-forwarded-client-cert", "Subject=\"CN=billing\"");
        assert_eq!(spoofed.denied(&filter).reason(), reason::CERT_MISSING);
        assert!(spoofed.exchange.principal().is_none());
    }

    #[test]
    fn refusals_say_that_a_proxy_handed_it_on() {
        let filter = build::<ClientCert>("{ san_dns: '*.other.example' }");
        let origin = CertificateOrigin::Forwarded { header: "Client-Cert", proves_tokens: false };
        for (mut call, reason) in [
            (Call::get("/"), reason::CERT_FORWARDED_MISSING),
            (Call::get("/").certificate(facts()), reason::CERT_FORWARDED_NAME_MISMATCH),
        ] {
            call.exchange.driver_set_certificate_origin(origin);
            assert_eq!(call.denied(&filter).reason(), reason);
            assert_eq!(call.failed_checks().len(), 1);
            assert_eq!(call.failed_checks()[0].1, reason);
        }
    }

    #[test]
    fn an_invalid_one_is_refused_for_its_own_reason_and_finding() {
        let filter = build::<ClientCert>("{ san_dns: '*.partner.example' }");
        for reason in [reason::CERT_EXPIRED, reason::CERT_REVOKED, reason::CERT_UNTRUSTED] {
            let mut call = Call::get("/").refused_certificate(reason);
            assert_eq!(call.denied(&filter).reason(), reason);
            assert_eq!(
                call.exchange.checks()[0].finding,
                Finding::new("a certificate that is valid", "one that is not").hint("renew it")
            );
        }
    }

    #[test]
    fn every_kind_of_name_can_be_asked_for() {
        for (good, bad) in [
            ("subject: 'CN=billing, OU=*, O=Partner\\, Inc., C=DE'", "subject: 'CN=billing'"),
            ("san_dns: ['x.example', '*.partner.example']", "san_dns: partner.example"),
            ("san_uri: spiffe://partner.example/ns/prod/sa/billing", "san_uri: spiffe://partner.example/ns/prod"),
            ("san_email: '*@partner.example'", "san_email: '*@other.example'"),
            ("issuer: 'CN=Partner CA,O=Partner\\, Inc.,C=DE'", "issuer: 'CN=Other CA'"),
            (
                "fingerprint_sha256: abababababababababababababababababababababababababababababababab",
                "fingerprint_sha256: cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd",
            ),
            ("spiffe_id: 'spiffe://partner.example/ns/prod/*'", "spiffe_id: 'spiffe://partner.example/ns/test/*'"),
        ] {
            assert!(with(&format!("{{ {good} }}"), facts()).is_continue(), "{good}");
            let mut call = Call::get("/").certificate(facts());
            assert_eq!(call.denied(&build::<ClientCert>(&format!("{{ {bad} }}"))).reason(), reason::CERT_NAME_MISMATCH, "{bad}");
            assert!(call.exchange.principal().is_none());
        }
    }

    #[test]
    fn any_of_one_list_and_all_of_the_lists() {
        let yaml = "{ san_dns: [a.example, '*.partner.example'], san_email: nobody@partner.example, issuer: 'CN=Other' }";
        let mut call = Call::get("/").certificate(facts());
        assert_eq!(call.denied(&build::<ClientCert>(yaml)).reason(), reason::CERT_NAME_MISMATCH);
        let failed: Vec<_> = call.failed_checks().into_iter().map(|(check, _)| check).collect();
        assert_eq!(failed, ["san_email", "issuer"], "every list is looked at, not only the first that fails");
    }

    #[test]
    fn a_certificate_without_alternative_names_does_not_match_a_list_of_them() {
        let bare = CertificateFacts { san_dns: vec![], san_uri: vec![], san_email: vec![], spiffe_id: None, ..facts() };
        for yaml in [
            "{ san_dns: '*.partner.example' }",
            "{ san_uri: 'a:b' }",
            "{ san_email: '*@partner.example' }",
            "{ spiffe_id: 'spiffe://partner.example/*' }",
        ] {
            for require in ["", "require: false, "] {
                let yaml = yaml.replace("{ ", &format!("{{ {require}"));
                assert!(matches!(with(&yaml, bare.clone()), Verdict::Deny(_)), "{yaml}");
            }
        }
        // The common name is not a DNS name, whatever it looks like.
        let posing = CertificateFacts { subject: "CN=billing.partner.example".into(), ..bare };
        assert!(matches!(with("{ san_dns: '*.partner.example' }", posing), Verdict::Deny(_)));
    }

    #[test]
    fn an_empty_list_is_an_error_and_never_everybody() {
        for key in ["subject", "san_dns", "san_uri", "san_email", "issuer", "fingerprint_sha256", "spiffe_id"] {
            assert!(error::<ClientCert>(&format!("{{ {key}: [] }}")).starts_with(&format!("{key}: the list is empty")));
            assert!(crate::test_support::try_build::<ClientCert>(&format!("{{ {key}: }}")).is_err(), "{key}");
        }
    }

    #[test]
    fn not_required_passes_without_identity_but_names_still_count() {
        let filter = build::<ClientCert>("{ require: false, san_dns: '*.partner.example' }");
        for mut call in [Call::get("/"), Call::get("/").refused_certificate(reason::CERT_REVOKED)] {
            assert!(call.run(&filter).is_continue());
            assert!(call.exchange.principal().is_none(), "no identity without a valid certificate");
        }
        let other = CertificateFacts { san_dns: vec!["other.example".into()], ..facts() };
        assert!(matches!(Call::get("/").certificate(other).run(&filter), Verdict::Deny(_)));
        assert!(!filter.needs().authenticates);
    }

    #[test]
    fn it_becomes_the_principal_unless_there_is_one() {
        let filter = build::<ClientCert>("{}");
        let mut call = Call::get("/").certificate(facts());
        assert!(call.run(&filter).is_continue());
        let principal = call.exchange.principal().unwrap();
        assert_eq!((principal.method, &*principal.subject), ("certificate", "spiffe://partner.example/ns/prod/sa/billing"));
        assert_eq!(principal.issuer.as_deref(), Some("CN=Partner CA,O=Partner\\, Inc.,C=DE"));
        assert_eq!(principal.expires_at, Some(facts().not_after));

        let mut call = Call::get("/").certificate(facts()).principal(Principal::new("bearer", "alice"));
        assert!(call.run(&filter).is_continue());
        assert_eq!(&*call.exchange.principal().unwrap().subject, "alice");
    }

    #[test]
    fn a_chosen_name_must_be_there_once() {
        for (kind, name) in [
            ("spiffe_id", "spiffe://partner.example/ns/prod/sa/billing"),
            ("san_dns", "billing.partner.example"),
            ("san_email", "billing@partner.example"),
            ("subject", "CN=billing,OU=Payments,O=Partner\\, Inc.,C=DE"),
        ] {
            let filter =
                build::<ClientCert>(&format!("{{ principal: {{ subject: {kind}, roles: [partner, eu], scopes: read }} }}"));
            let mut call = Call::get("/").certificate(facts());
            assert!(call.run(&filter).is_continue(), "{kind}");
            let principal = call.exchange.principal().unwrap();
            assert_eq!((&*principal.subject, principal.roles.len(), &*principal.scopes[0]), (name, 2, "read"));

            let bare = CertificateFacts {
                subject: String::new(),
                san_dns: vec![],
                san_email: vec!["a@b.example".into(), "c@d.example".into()],
                spiffe_id: None,
                ..facts()
            };
            let mut call = Call::get("/").certificate(bare);
            assert_eq!(call.denied(&filter).reason(), reason::CERT_NAME_MISMATCH, "{kind}");
            assert_eq!((call.failed_checks()[0].0, call.exchange.principal().is_none()), ("principal", true));
        }
        assert!(error::<ClientCert>("{ principal: {} }").starts_with("principal: it says nothing"));
        assert!(error::<ClientCert>("{ principal: { roles: [] } }").starts_with("principal.roles: the list is empty"));
        assert!(error::<ClientCert>("{ principal: { roles: ['a ', b] } }").starts_with("principal.roles[0]: "));
    }

    #[test]
    fn the_subject_of_the_principal_is_never_empty() {
        let mut facts = CertificateFacts { spiffe_id: None, ..facts() };
        assert_eq!(subject(&facts), facts.subject);
        facts.subject.clear();
        facts.san_uri.clear();
        assert_eq!(subject(&facts), "dns:billing.partner.example");
        facts.san_dns.clear();
        facts.san_email.clear();
        assert_eq!(subject(&facts), format!("sha256:{}", "ab".repeat(32)));
    }
}
