//! The built-in filters, in the order in which a route usually names them.
//!
//! - [`request_id`]: an id for each request
//! - [`debug`]: which checks failed, for developers
//! - [`ip_allow`]: who may come, by address
//! - [`cors`]: pages of other origins
//! - [`client_cert`]: client certificates, and the names they must carry
//! - [`oidc`]: bearer tokens, and what they must grant
//! - [`api_key`]: API keys, by their hashes
//! - [`authorize`]: what a caller may do
//! - [`external_authorize`]: the same, as a service of your own says
//! - [`rate_limit`]: how often
//! - [`identity_headers`]: what the upstream learns of the caller
//! - [`signed_identity`]: the same, signed, for upstreams that verify it; with [`assertion_keys`]
//! - [`client_cert_header`]: the client certificate itself, for the upstream
//! - [`headers`]: any other header, in both directions
//!
//! A filter of this crate touches two places: its own file, and one line of [`table`].
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod api_key;
pub mod assertion_keys;
pub mod authorize;
pub mod client_cert;
pub mod client_cert_header;
pub mod cors;
pub mod debug;
pub mod external_authorize;
pub mod headers;
pub mod identity_headers;
pub mod ip_allow;
pub mod oidc;
pub mod rate_limit;
pub mod request_id;
pub mod signed_identity;

mod api_key_file;
mod api_key_new;
mod bearer;
mod calendar;
mod certificate_names;
mod claim_rule;
mod expression;
mod expression_check;
mod expression_facts;
mod expression_reads;
mod expression_refusal;
mod expression_syntax;
mod expression_types;
mod external_config;
mod external_grpc;
mod external_messages;
mod external_question;
mod external_service;
mod gcra;
mod grants;
mod header_rules;
pub mod header_template;
mod network_set;
mod quota_file;
mod rate_amount;
mod rate_key;
mod rate_state;
mod rate_tiers;
mod rate_who;
mod sender;
mod slots;
mod text;

#[cfg(test)]
mod external_scripted;
#[cfg(test)]
mod test_support;

use portcullis_plugin::{FilterFactory, FilterTable};

/// Every built-in filter.
pub fn table() -> FilterTable {
    FilterTable::new([
        FilterFactory::of::<request_id::RequestId>(),
        FilterFactory::of::<debug::Debug>(),
        FilterFactory::of::<ip_allow::IpAllow>(),
        FilterFactory::of::<cors::Cors>(),
        FilterFactory::of::<client_cert::ClientCert>(),
        FilterFactory::of::<oidc::Oidc>(),
        FilterFactory::of::<api_key::ApiKey>(),
        FilterFactory::of::<authorize::Authorize>(),
        FilterFactory::of::<external_authorize::ExternalAuthorize>(),
        FilterFactory::of::<rate_limit::RateLimit>(),
        FilterFactory::of::<identity_headers::IdentityHeaders>(),
        FilterFactory::of::<signed_identity::SignedIdentity>(),
        FilterFactory::of::<assertion_keys::AssertionKeys>(),
        FilterFactory::of::<client_cert_header::ClientCertHeader>(),
        FilterFactory::of::<headers::EditHeaders>(),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis_plugin::filter::Pending;

    fn decode(factory: &FilterFactory, yaml: &str) -> Result<Pending, String> {
        let options = serde_saphyr::options! { strict_booleans: true };
        serde_saphyr::with_deserializer_from_str_with_options(yaml, options, |deserializer| {
            let mut erased = <dyn erased_serde::Deserializer<'_>>::erase(deserializer);
            factory.decode(&mut erased).map_err(serde::de::Error::custom)
        })
        .map_err(|error: serde_saphyr::Error| error.to_string())
    }

    #[test]
    fn every_example_is_a_configuration_that_can_be_built() {
        for factory in table().iter() {
            let pending = decode(factory, factory.example).unwrap_or_else(|error| panic!("{}: {error}", factory.name));
            pending(&test_support::env()).map(|_| ()).unwrap_or_else(|error| panic!("{}: {error}", factory.name));
        }
    }

    #[test]
    fn the_filters_of_the_published_configurations_are_read_as_they_stand() {
        for (name, yaml) in [
            ("ip_allow", "{ allow: [127.0.0.0/8, \"::1/128\"] }"),
            ("oidc", "{ issuer: main, scopes: [\"api:read\"] }"),
            ("identity_headers", "headers: { x-user: sub, x-roles: roles, x-scope: scope }\nforward_token: false\n"),
            ("client_cert", "{ require: true, san_dns: [\"*.partner.example\"] }"),
            ("identity_headers", "{ headers: { x-client-cert-subject: cert.subject, x-client-cert-sha256: cert.sha256 } }"),
        ] {
            let pending = decode(table().get(name).unwrap(), yaml).unwrap_or_else(|error| panic!("{name}: {error}"));
            pending(&test_support::env()).map(|_| ()).unwrap_or_else(|error| panic!("{name}: {error}"));
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
            let decoded = decode(factory, &yaml);
            assert!(decoded.err().is_some_and(|error| error.contains("no_such_key")), "{}", factory.name);
        }
    }
}
