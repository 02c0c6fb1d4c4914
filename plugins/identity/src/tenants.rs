//! An issuer that is one for each tenant of Entra: `https://login.microsoftonline.com/{tenantid}/v2.0`.
//!
//! Anybody can have a tenant, and Entra signs for all of them with the same keys. So a signature says nothing about whose
//! token it is; the tenant does, and it is allowed by name.

use crate::config::IssuerKind;
use portcullis_plugin::ConfigError;

const PLACE: &str = "{tenantid}";
const ANY: &str = "any";

/// An issuer's identifier with a place for the tenant, and who may stand there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Template {
    before: Box<str>,
    after: Box<str>,
    allowed: Allowed,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Allowed {
    Any,
    Only(Vec<Box<str>>),
}

impl Template {
    /// `None` for an issuer without such a place.
    pub fn compile(issuer: &str, kind: IssuerKind, tenants: Option<&[String]>) -> Result<Option<Self>, ConfigError> {
        let Some((before, after)) = issuer.split_once(PLACE) else {
            return match tenants {
                Some(_) => Err(ConfigError::new("`tenants` has no effect: the issuer is that of one tenant")
                    .help("write `{tenantid}` in `issuer` where the tenant stands")
                    .at("tenants")),
                None => Ok(None),
            };
        };
        if kind != IssuerKind::Entra {
            return Err(ConfigError::new("`{tenantid}` stands for a tenant of Entra").help("say `kind: entra`").at("issuer"));
        }
        // The tenant must be a whole segment, or one tenant's identifier could begin like another's.
        if !before.ends_with('/') || !(after.is_empty() || after.starts_with('/')) || after.contains(PLACE) {
            return Err(ConfigError::new("`{tenantid}` must be one whole segment of the path").at("issuer"));
        }
        let allowed = match tenants {
            None => {
                return Err(ConfigError::new("no tenant is allowed: anybody can have a tenant, and Entra signs for them all")
                    .help("list the ids in `tenants`; `tenants: any` if everybody with a Microsoft account is meant")
                    .at("issuer"));
            }
            Some([]) => return Err(ConfigError::new("the list is empty, so no token could be accepted").at("tenants")),
            Some([only]) if only == ANY => Allowed::Any,
            Some(tenants) => Allowed::Only(tenants.iter().enumerate().map(|(at, id)| tenant(id, at)).collect::<Result<_, _>>()?),
        };
        Ok(Some(Self { before: before.into(), after: after.into(), allowed }))
    }

    /// The tenant in an identifier of this form.
    pub fn tenant_in<'i>(&self, issuer: &'i str) -> Option<&'i str> {
        let tenant = issuer.strip_prefix(&*self.before)?.strip_suffix(&*self.after)?;
        is_guid(tenant).then_some(tenant)
    }

    pub fn allows(&self, tenant: &str) -> bool {
        match &self.allowed {
            Allowed::Any => true,
            Allowed::Only(tenants) => tenants.iter().any(|allowed| **allowed == *tenant),
        }
    }
}

/// Where the discovery document for all tenants is.
pub(crate) fn common_document(issuer: &str, well_known: &str) -> Option<String> {
    let (before, _) = issuer.split_once(PLACE)?;
    // The tokens of v1 have an issuer on a host that has no documents.
    let base = if before == "https://sts.windows.net/" {
        "https://login.microsoftonline.com/common".to_owned()
    } else {
        issuer.replace(PLACE, "common")
    };
    Some(format!("{}{well_known}", base.trim_end_matches('/')))
}

/// Whether `owner`, which an issuer's key set names with a key, is one of the tenants that `issuer` stands for.
pub(crate) fn is_one_of(owner: &str, issuer: &str) -> bool {
    let Some((before, after)) = issuer.split_once(PLACE) else { return false };
    owner.strip_prefix(before).and_then(|rest| rest.strip_suffix(after)).is_some_and(is_guid)
}

fn tenant(id: &str, at: usize) -> Result<Box<str>, ConfigError> {
    let lower = id.to_ascii_lowercase();
    if is_guid(&lower) {
        return Ok(lower.into());
    }
    let error = if lower == ANY {
        ConfigError::new("`any` stands alone").help("write `tenants: any`, or the ids only")
    } else {
        ConfigError::new(format!("`{id}` is not the id of a tenant"))
            .help("an id such as 72f988bf-86f1-41af-91ab-2d7cd011db47, not a domain: domains change hands")
    };
    Err(error.at(at).at("tenants"))
}

/// In the one spelling that Entra uses.
pub(crate) fn is_guid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TENANT: &str = "72f988bf-86f1-41af-91ab-2d7cd011db47";

    fn compile(issuer: &str, tenants: Option<&[&str]>) -> Result<Option<Template>, String> {
        let tenants: Option<Vec<String>> = tenants.map(|tenants| tenants.iter().map(|one| (*one).to_owned()).collect());
        Template::compile(issuer, IssuerKind::Entra, tenants.as_deref()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_template_without_a_list_or_a_list_without_a_template_is_refused() {
        let v2 = "https://login.microsoftonline.com/{tenantid}/v2.0";
        assert_eq!(compile("https://login.microsoftonline.com/t/v2.0", None), Ok(None));
        for (issuer, tenants, part) in [
            (v2, None, "no tenant is allowed"),
            (v2, Some(&[][..]), "empty"),
            (v2, Some(&["acme.onmicrosoft.com"][..]), "not the id"),
            (v2, Some(&[TENANT, "any"][..]), "stands alone"),
            ("https://a.example", Some(&[TENANT][..]), "no effect"),
            ("https://a.example/x{tenantid}/", Some(&[TENANT][..]), "whole segment"),
            ("https://a.example/{tenantid}x/", Some(&[TENANT][..]), "whole segment"),
            ("https://a.example/{tenantid}/{tenantid}", Some(&[TENANT][..]), "whole segment"),
        ] {
            let error = compile(issuer, tenants).unwrap_err();
            assert!(error.contains(part), "{issuer} {tenants:?}: {error}");
        }
        assert!(Template::compile(v2, IssuerKind::Generic, Some(&["any".to_owned()])).is_err());
    }

    #[test]
    fn only_an_id_stands_where_the_tenant_does() {
        let template =
            compile("https://login.microsoftonline.com/{tenantid}/v2.0", Some(&[&TENANT.to_uppercase()])).unwrap().unwrap();
        let of = |tenant: &str| format!("https://login.microsoftonline.com/{tenant}/v2.0");
        assert_eq!(template.tenant_in(&of(TENANT)), Some(TENANT));
        assert!(template.allows(TENANT) && !template.allows("9188040d-6c67-4c5b-b112-36a304b66dad"));
        for tenant in ["{tenantid}", "common", "", &format!("{TENANT}/x"), &TENANT.to_uppercase(), &format!("x/{TENANT}")] {
            assert_eq!(template.tenant_in(&of(tenant)), None, "{tenant}");
        }
    }

    #[test]
    fn the_common_document_is_found() {
        for (issuer, document) in [
            ("https://login.microsoftonline.com/{tenantid}/v2.0", "https://login.microsoftonline.com/common/v2.0/w"),
            ("https://sts.windows.net/{tenantid}/", "https://login.microsoftonline.com/common/w"),
        ] {
            assert_eq!(common_document(issuer, "/w").as_deref(), Some(document));
        }
    }
}
