//! What a configuration of [`external_authorize`](crate::external_authorize) may say: addresses, and lists of header names.

use crate::external_service::Protocol;
use crate::header_rules::{check_name, is_look_alike};
use http::header::HeaderName;
use portcullis_identity::outbound::{self, Trust};
use portcullis_plugin::ConfigError;
use url::Url;

/// Names in one list.
const MOST_NAMES: usize = 32;

/// Where the service is asked.
pub(crate) fn address(text: &str, protocol: Protocol, insecure_http: bool) -> Result<(Url, http::Uri), ConfigError> {
    let refuse = |what: &str| ConfigError::new(what).at("url");
    let url = Url::parse(text)
        .map_err(|_| refuse("this is not the address of a service").help("write one such as https://authz.internal/check"))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(refuse("credentials in an address end up in logs").help("leave them out; the service may judge by addresses"));
    }
    if url.fragment().is_some() {
        return Err(refuse("a fragment is never sent").help("leave out what follows the `#`"));
    }
    let trust = if insecure_http { Trust::AnyHttp } else { Trust::LoopbackHttp };
    outbound::allowed(&url, trust).map_err(|error| {
        refuse(&format!("{error}: whoever can change that traffic could let every request pass"))
            .help("use https://; or say `insecure_http: true` if the network between is yours alone")
    })?;
    if insecure_http && url.scheme() == "https" {
        return Err(ConfigError::new("`insecure_http` has no effect with https").help("leave it out").at("insecure_http"));
    }
    if protocol == Protocol::Grpc && (url.path() != "/" || url.query().is_some()) {
        return Err(refuse("a service that is asked over gRPC has no path").help(
            "write https://host:port alone: the method is always /envoy.service.auth.v3.Authorization/Check; \
             or leave out `protocol: grpc`, if this is a service that is asked over HTTP",
        ));
    }
    let uri = url.as_str().parse().map_err(|_| refuse("this is not an address that can be asked"))?;
    Ok((url, uri))
}

/// The names of a list. `reserved` says why a name may not stand in the list.
pub(crate) fn names(
    key: &'static str,
    given: &[String],
    reserved: impl Fn(&str) -> Option<&'static str>,
) -> Result<Vec<HeaderName>, ConfigError> {
    if given.len() > MOST_NAMES {
        return Err(ConfigError::new(format!("{} names, and {MOST_NAMES} are the most", given.len())).at(key));
    }
    let mut seen: Vec<HeaderName> = Vec::new();
    for (at, name) in given.iter().enumerate() {
        let here = |error: ConfigError| error.at(at).at(key);
        check_name(name).map_err(here)?;
        if let Some(why) = reserved(name) {
            return Err(here(ConfigError::new(format!("`{name}` cannot be named here")).help(why)));
        }
        if seen.iter().any(|other| is_look_alike(name, other.as_str())) {
            let error = ConfigError::new(format!("`{name}` is named twice"));
            return Err(here(error.help("names that differ in case or `_` and `-` are one")));
        }
        let parsed = HeaderName::from_bytes(name.as_bytes());
        seen.push(parsed.map_err(|_| here(ConfigError::new(format!("`{name}` is not a header name"))))?);
    }
    Ok(seen)
}
