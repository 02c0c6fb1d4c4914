//! The built-in filters, in the order in which a route usually names them.
//!
//! - [`request_id`]: an id for each request
//! - [`ip_allow`]: who may come, by address
//! - [`cors`]: pages of other origins
//! - [`client_cert`]: client certificates, and the names they must carry
//! - [`oidc`]: bearer tokens, and what they must grant
//! - [`rate_limit`]: how often
//! - [`identity_headers`]: what the upstream learns of the caller
//! - [`headers`]: any other header, in both directions
//!
//! A filter of this crate touches two places: its own file, and one line of [`table`].
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod client_cert;
pub mod cors;
pub mod headers;
pub mod identity_headers;
pub mod ip_allow;
pub mod oidc;
pub mod rate_limit;
pub mod request_id;

mod bearer;
mod certificate_names;
mod claim_rule;
mod gcra;
mod header_rules;
mod network_set;
mod text;

#[cfg(test)]
mod test_support;

use portcullis_plugin::{FilterFactory, FilterTable};

/// Every built-in filter.
pub fn table() -> FilterTable {
    FilterTable::new([
        FilterFactory::of::<request_id::RequestId>(),
        FilterFactory::of::<ip_allow::IpAllow>(),
        FilterFactory::of::<cors::Cors>(),
        FilterFactory::of::<client_cert::ClientCert>(),
        FilterFactory::of::<oidc::Oidc>(),
        FilterFactory::of::<rate_limit::RateLimit>(),
        FilterFactory::of::<identity_headers::IdentityHeaders>(),
        FilterFactory::of::<headers::EditHeaders>(),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_example_is_a_configuration_that_can_be_built() {
        for factory in table().iter() {
            let deserializer = serde_yaml::Deserializer::from_str(factory.example);
            let pending = factory
                .decode(&mut <dyn erased_serde::Deserializer<'_>>::erase(deserializer))
                .unwrap_or_else(|error| panic!("{}: {error}", factory.name));
            pending(&test_support::env()).map(|_| ()).unwrap_or_else(|error| panic!("{}: {error}", factory.name));
        }
    }

    #[test]
    fn every_key_is_described() {
        let mut generator = schemars::SchemaGenerator::default();
        for factory in table().iter() {
            factory.schema(&mut generator);
        }
        let definitions = serde_json::to_value(generator.definitions()).unwrap();
        for (name, definition) in definitions.as_object().unwrap() {
            for (key, property) in definition["properties"].as_object().into_iter().flatten() {
                assert!(property.get("description").is_some(), "{name}.{key} has no description");
            }
        }
    }

    #[test]
    fn no_filter_takes_a_key_it_does_not_know() {
        for factory in table().iter() {
            let yaml = format!("{{ no_such_key: 1, {}", factory.example.trim_start_matches('{'));
            let deserializer = serde_yaml::Deserializer::from_str(&yaml);
            let decoded = factory.decode(&mut <dyn erased_serde::Deserializer<'_>>::erase(deserializer));
            assert!(decoded.err().is_some_and(|error| error.to_string().contains("no_such_key")), "{}", factory.name);
        }
    }
}
