//! Asks every request for its tenant, and tells the upstream the tenant's plan.
//!
//! ```yaml
//! - tenant: { header: x-tenant, plans: { acme: gold, globex: silver } }
//! ```
//!
//! With `claim: tenant`, the tenant comes from that claim of the verified token instead, and a header that says otherwise
//! is refused.

use portcullis::plugin::attribute::AttributeValue;
use portcullis::plugin::prometheus::IntCounterVec;
use portcullis::plugin::schemars::JsonSchema;
use portcullis::plugin::serde::Deserialize;
use portcullis::plugin::{
    Attribute, Build, ConfigError, Env, Exchange, Filter, Finding, Needs, ReasonCode, RequestHead, Verdict,
};
use std::collections::BTreeMap;

// Codes of your own begin with a word of your own. Codes that are not in the gateway's table are 403.
pub const TENANT_MISSING: ReasonCode = ReasonCode::new("acme.tenant.missing");
pub const TENANT_UNKNOWN: ReasonCode = ReasonCode::new("acme.tenant.unknown");
pub const TENANT_MISMATCH: ReasonCode = ReasonCode::new("acme.tenant.mismatch");

/// The header that carries the plan. The gateway owns it: a client's own never arrives.
const PLAN: &str = "x-tenant-plan";

/// Which tenants there are, and where a request says which one it is for.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(crate = "portcullis::plugin::serde", deny_unknown_fields)]
#[schemars(crate = "portcullis::plugin::schemars")]
pub struct Config {
    /// Tenant to plan. At least one.
    pub plans: BTreeMap<String, String>,
    /// The header in which a client names its tenant. Default: `x-tenant`.
    #[serde(default = "default_header")]
    pub header: String,
    /// The claim of a verified token that holds the tenant. Default: none, the header is believed.
    #[serde(default)]
    pub claim: Option<Attribute>,
}

fn default_header() -> String {
    "x-tenant".to_owned()
}

pub struct Tenant {
    plans: BTreeMap<String, String>,
    header: String,
    claim: Option<Attribute>,
    requests: IntCounterVec,
}

impl Build for Tenant {
    const NAME: &'static str = "tenant";
    const EXAMPLE: &'static str = "{ plans: { acme: gold, globex: silver } }";
    type Config = Config;

    fn build(config: Config, env: &Env) -> Result<Self, ConfigError> {
        let Config { plans, header, claim } = config;
        if plans.is_empty() {
            return Err(ConfigError::new("no tenant is named").help("give `plans`, such as `{ acme: gold }`").at("plans"));
        }
        // What cannot be sent is found now, not when the first request of that tenant comes.
        if let Some((tenant, _)) = plans.iter().find(|(_, plan)| !plan.bytes().all(|b| b.is_ascii_graphic())) {
            return Err(ConfigError::new("the plan is not a word that a header can carry").at(tenant.as_str()).at("plans"));
        }
        let requests = env.counter("acme_tenant_requests_total", "Requests that named a known tenant.", &["tenant"])?;
        Ok(Self { plans, header, claim, requests })
    }
}

impl Tenant {
    /// The tenant that a verified claim or, without one configured, the header names.
    fn tenant(&self, request: &RequestHead, exchange: &mut Exchange) -> Result<String, ReasonCode> {
        let named = request.headers().get_str(&self.header).map(str::to_owned);
        let Some(claim) = &self.claim else {
            exchange.check("tenant", TENANT_MISSING, named.is_some(), || {
                Finding::new(format!("the header {}", self.header), named.as_deref().unwrap_or("none"))
            });
            return named.ok_or(TENANT_MISSING);
        };
        let claimed = match claim.read(exchange) {
            Some(AttributeValue::One(tenant)) => Some(tenant.into_owned()),
            _ => None,
        };
        exchange.check("tenant", TENANT_MISSING, claimed.is_some(), || {
            Finding::new(format!("the claim {claim}"), claimed.as_deref().unwrap_or("none"))
        });
        let claimed = claimed.ok_or(TENANT_MISSING)?;
        let agrees = named.as_ref().is_none_or(|named| *named == claimed);
        exchange.check("agreement", TENANT_MISMATCH, agrees, || {
            Finding::new(format!("{claimed}, as the token says"), named.unwrap_or_else(|| "no header".to_owned()))
        });
        if agrees { Ok(claimed) } else { Err(TENANT_MISMATCH) }
    }
}

impl Filter for Tenant {
    fn request(&self, request: &mut RequestHead, exchange: &mut Exchange) -> Verdict {
        let tenant = match self.tenant(request, exchange) {
            Ok(tenant) => tenant,
            Err(reason) => return Verdict::deny(reason),
        };
        let plan = self.plans.get(&tenant);
        let known = exchange.check("plan", TENANT_UNKNOWN, plan.is_some(), || {
            Finding::new("a tenant with a plan", tenant.as_str()).hint("add it to `plans`, if it should be served")
        });
        let (true, Some(plan)) = (known, plan) else { return Verdict::deny(TENANT_UNKNOWN) };
        // Only known tenants become labels: a client cannot make new series.
        self.requests.with_label_values(&[tenant.as_str()]).inc();
        match request.headers_mut().set(PLAN, plan) {
            Ok(()) => Verdict::Continue,
            // No request goes on without what the route promises.
            Err(_) => Verdict::deny(portcullis::plugin::reason::REQUEST_HEADERS_TOO_LARGE),
        }
    }

    fn needs(&self) -> Needs {
        Needs {
            owned_headers: vec![PLAN.to_owned()],
            reads_identity: self.claim.is_some(),
            summary: Some(format!("tenant({})", self.plans.keys().cloned().collect::<Vec<_>>().join(", "))),
            ..Needs::default()
        }
    }
}

/// No socket is needed to test a filter.
#[cfg(test)]
mod tests {
    use super::*;
    use portcullis::plugin::Principal;
    use portcullis_testkit::{Error, TestEnv, filter, request, run};
    use std::sync::Arc;

    const PLANS: &str = "plans: { acme: gold, globex: silver }";

    fn orders() -> portcullis_testkit::Request {
        request("GET", "https://api.example.test/orders")
    }

    fn of_tenant(tenant: &str) -> Principal {
        let mut principal = Principal::new("bearer", "alice");
        Arc::make_mut(&mut principal.claims).insert("tenant".to_owned(), tenant.into());
        principal
    }

    #[test]
    fn a_known_tenant_passes_with_its_plan_and_is_counted() -> Result<(), Error> {
        let env = TestEnv::new()?;
        let tenant: Tenant = env.filter(PLANS)?;
        let outcome = run(&tenant, orders().header("x-tenant", "acme").header("x_tenant_plan", "platinum"));
        assert!(outcome.verdict.is_continue());
        assert_eq!(outcome.request.headers().get_all(PLAN).collect::<Vec<_>>(), [b"gold"]);
        assert!(!outcome.request.headers().contains("x_tenant_plan"), "the gateway owns the name, in every spelling");
        assert_eq!(env.metric("acme_tenant_requests_total", &[("tenant", "acme")]), Some(1.0));
        Ok(())
    }

    #[test]
    fn no_tenant_and_an_unknown_one_are_refused_for_different_reasons() -> Result<(), Error> {
        let tenant: Tenant = filter(PLANS)?;
        run(&tenant, orders()).denied_with(TENANT_MISSING);
        let outcome = run(&tenant, orders().header("x-tenant", "initech"));
        outcome.denied_with(TENANT_UNKNOWN);
        Ok(())
    }

    #[test]
    fn a_header_cannot_contradict_the_token() -> Result<(), Error> {
        let tenant: Tenant = filter("{ plans: { acme: gold, globex: silver }, claim: tenant }")?;
        run(&tenant, orders().principal(of_tenant("acme"))).allowed();
        run(&tenant, orders().principal(of_tenant("acme")).header("x-tenant", "globex")).denied_with(TENANT_MISMATCH);
        run(&tenant, orders().header("x-tenant", "acme")).denied_with(TENANT_MISSING);
        Ok(())
    }

    #[test]
    fn an_explanation_shows_what_passed_too() -> Result<(), Error> {
        let tenant: Tenant = filter(PLANS)?;
        let outcome = run(&tenant, orders().header("x-tenant", "initech").explaining());
        let shown: Vec<_> = outcome.checks.iter().map(|check| (check.check, check.ok, check.finding.observed.as_str())).collect();
        assert_eq!(shown, [("tenant", true, "initech"), ("plan", false, "initech")]);
        Ok(())
    }

    #[test]
    fn a_configuration_that_names_nobody_is_an_error() {
        assert!(filter::<Tenant>("plans: {}").is_err());
        assert!(filter::<Tenant>("{ plans: { acme: gold }, plan: gold }").is_err(), "no key is ignored");
    }
}
