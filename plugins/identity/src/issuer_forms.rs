//! Identifiers of issuers that no token can have: what people copy from a provider's pages instead.

use crate::config::IssuerConfig;
use crate::tenants::is_guid;
use portcullis_plugin::ConfigError;

const WELL_KNOWN: &str = "/.well-known/";

/// What is doubtful about an issuer's identifier. No error: whoever runs an issuer may call it anything.
pub fn doubt(config: &IssuerConfig) -> Option<ConfigError> {
    let issuer = config.issuer.as_str();
    if let Some((before, _)) = issuer.split_once(WELL_KNOWN) {
        let doubt = ConfigError::new("this is the address of the issuer's discovery document: no token has it as its `iss`");
        return Some(doubt.help(format!("write the document's own `issuer`, probably `{before}`")).at("issuer"));
    }
    let tenant = |host: &str| issuer.strip_prefix(host).map(|rest| rest.split('/').next().unwrap_or_default());
    let v2 = tenant("https://login.microsoftonline.com/");
    let tenant = v2.or_else(|| tenant("https://sts.windows.net/"))?;
    let doubt = match tenant {
        "common" | "organizations" | "consumers" => {
            ConfigError::new(format!("no token of Entra has `{tenant}` in its `iss`: it has the id of the tenant"))
                .help("write `{tenantid}` in its place, and the ids of those who may in `tenants`")
        }
        tenant if !is_guid(tenant) && tenant != "{tenantid}" => {
            ConfigError::new(format!("no token of Entra has `{tenant}` in its `iss`: it has the id of the tenant"))
                .help("write the id (a GUID), as the discovery document's `issuer` has it")
        }
        _ if v2.is_none() && !issuer.ends_with('/') => {
            ConfigError::new("tokens of this issuer have a `/` at the end of their `iss`").help(format!("write `{issuer}/`"))
        }
        _ => return None,
    };
    Some(doubt.at("issuer"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TENANT: &str = "72f988bf-86f1-41af-91ab-2d7cd011db47";

    fn told(issuer: &str) -> Option<String> {
        let config = serde_json::json!({ "issuer": issuer, "audiences": ["a"] });
        doubt(&serde_json::from_value(config).unwrap()).map(|doubt| doubt.to_string())
    }

    #[test]
    fn what_people_copy_instead_of_the_issuer_is_known() {
        for (issuer, says) in [
            ("https://sso.example.com/.well-known/openid-configuration", "probably `https://sso.example.com`"),
            ("https://login.microsoftonline.com/common/v2.0", "write `{tenantid}`"),
            ("https://login.microsoftonline.com/contoso.onmicrosoft.com/v2.0", "a GUID"),
            ("https://sts.windows.net/72f988bf-86f1-41af-91ab-2d7cd011db47", "db47/`"),
            ("https://sts.windows.net/contoso.com/", "a GUID"),
        ] {
            let told = told(issuer).unwrap_or_else(|| panic!("{issuer}"));
            assert!(told.starts_with("issuer: ") && told.contains(says), "{issuer}: {told}");
        }
    }

    #[test]
    fn what_tokens_have_is_not_doubted() {
        for issuer in [
            "https://sso.example.com/",
            "http://127.0.0.1:9400",
            "https://sso/realms/common",
            "https://login.microsoftonline.com/{tenantid}/v2.0",
            "https://sts.windows.net/{tenantid}/",
            &format!("https://login.microsoftonline.com/{TENANT}/v2.0"),
            &format!("https://sts.windows.net/{TENANT}/"),
        ] {
            assert_eq!(told(issuer), None, "{issuer}");
        }
    }
}
