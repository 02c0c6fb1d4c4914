//! Sets, adds and removes headers of the request and of the response.
//!
//! ```yaml
//! - headers:
//!     request: { set: { x-edge: portcullis }, remove: [x-debug] }
//!     response: { set: { strict-transport-security: max-age=31536000 }, remove: [server] }
//! ```
//!
//! Values are written as they are sent. First `remove`, then `set`, then `add`. Response edits also apply to replies
//! that the gateway makes itself. For facts about the caller there is `identity_headers`.

use crate::header_rules::{check_name, check_value, is_one_of};
use portcullis_plugin::units::OneOrMany;
use portcullis_plugin::{
    Build, ConfigError, Env, Exchange, Filter, FilterError, Finding, HeaderError, Headers, Needs, RequestHead, ResponseHead,
    Verdict, reason,
};
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::BTreeMap;

/// Edits of the headers in both directions. At least one edit is needed.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// What the upstream gets.
    pub request: Edits,
    /// What the client gets.
    pub response: Edits,
}

/// Edits of one message.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Edits {
    /// Header name to value; replaces all fields of that name.
    pub set: BTreeMap<String, String>,
    /// Header name to a value or a list of values; existing fields stay.
    pub add: BTreeMap<String, OneOrMany<String>>,
    /// Header names.
    pub remove: OneOrMany<String>,
}

pub struct EditHeaders {
    request: Compiled,
    response: Compiled,
}

struct Compiled {
    set: Vec<(String, String)>,
    add: Vec<(String, String)>,
    remove: Vec<String>,
}

impl Build for EditHeaders {
    const NAME: &'static str = "headers";
    const EXAMPLE: &'static str =
        "{ request: { remove: [x-debug] }, response: { set: { x-content-type-options: nosniff }, remove: [server] } }";
    type Config = Config;

    fn build(config: Config, _env: &Env) -> Result<Self, ConfigError> {
        let Config { request, response } = config;
        let filter = Self {
            request: compile(request).map_err(|error| error.at("request"))?,
            response: compile(response).map_err(|error| error.at("response"))?,
        };
        if filter.request.is_empty() && filter.response.is_empty() {
            return Err(
                ConfigError::new("this filter changes nothing").help("give `set`, `add` or `remove` in `request` or `response`")
            );
        }
        Ok(filter)
    }
}

fn compile(edits: Edits) -> Result<Compiled, ConfigError> {
    let Edits { set, add, remove } = edits;
    for (at, name) in remove.iter().enumerate() {
        check_editable(name).map_err(|error| error.at(at).at("remove"))?;
        if set.keys().any(|other| other.eq_ignore_ascii_case(name)) {
            return Err(ConfigError::new(format!("`{name}` is both removed and set"))
                .help("`set` replaces what is there, so leave it out here")
                .at(at)
                .at("remove"));
        }
    }
    let mut seen: Vec<&String> = Vec::new();
    for (name, value) in &set {
        let checked = check_editable(name).and_then(|()| check_value(name, value)).and_then(|()| {
            match seen.iter().any(|other| other.eq_ignore_ascii_case(name)) {
                true => Err(ConfigError::new(format!("`{name}` is set twice")).help("header names have no case")),
                false => Ok(()),
            }
        });
        checked.map_err(|error| error.at(name.as_str()).at("set"))?;
        seen.push(name);
    }
    for (name, values) in &add {
        let checked = check_editable(name).and_then(|()| values.iter().try_for_each(|value| check_value(name, value)));
        checked.map_err(|error| error.at(name.as_str()).at("add"))?;
    }
    Ok(Compiled {
        set: set.into_iter().collect(),
        add: add
            .into_iter()
            .flat_map(|(name, OneOrMany(values))| values.into_iter().map(move |value| (name.clone(), value)))
            .collect(),
        remove: remove.0,
    })
}

/// The decision id is on every response, and nothing else may pose as it.
fn check_editable(name: &str) -> Result<(), ConfigError> {
    check_name(name)?;
    if is_one_of(name, &["x-decision-id"]) {
        return Err(ConfigError::new("the gateway itself sets `x-decision-id` on every response").help("leave it out"));
    }
    Ok(())
}

impl Compiled {
    fn is_empty(&self) -> bool {
        self.set.is_empty() && self.add.is_empty() && self.remove.is_empty()
    }

    fn apply(&self, headers: &mut Headers) -> Result<(), HeaderError> {
        for name in &self.remove {
            headers.remove(name);
        }
        for (name, value) in &self.set {
            headers.set(name, value)?;
        }
        self.add.iter().try_for_each(|(name, value)| headers.append(name, value))
    }
}

impl Filter for EditHeaders {
    fn request(&self, request: &mut RequestHead, exchange: &mut Exchange) -> Verdict {
        // Names and values were checked when the filter was built: what is left is a head that has no room.
        match self.request.apply(request.headers_mut()) {
            Ok(()) => Verdict::Continue,
            Err(error) => {
                exchange.check("fields", reason::REQUEST_HEADERS_TOO_LARGE, false, || {
                    Finding::new("room for the headers that this route adds", error.to_string())
                });
                Verdict::deny(reason::REQUEST_HEADERS_TOO_LARGE)
            }
        }
    }

    fn response(&self, response: &mut ResponseHead, _exchange: &mut Exchange) -> Verdict {
        // A response without the headers that the route promises (HSTS, say) is not sent.
        match self.response.apply(response.headers_mut()) {
            Ok(()) => Verdict::Continue,
            Err(error) => Verdict::Fault(FilterError::new(format!("the response's headers cannot be edited: {error}"))),
        }
    }

    fn needs(&self) -> Needs {
        Needs::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::{Call, build, error, headers, values};

    #[test]
    fn edits_the_request() {
        let filter = build::<EditHeaders>("{ request: { set: { X-Edge: one }, add: { x-via: [a, b] }, remove: [x-debug] } }");
        let mut call =
            Call::get("/").header("x-edge", "spoofed").header("X-EDGE", "twice").header("X-Debug", "1").header("X-Via", "0");
        assert!(call.run(&filter).is_continue());
        assert_eq!(call.sent("x-edge"), ["one"]);
        assert_eq!(call.sent("x-via"), ["0", "a", "b"]);
        assert!(call.sent("x-debug").is_empty());
    }

    #[test]
    fn edits_the_response() {
        let filter = build::<EditHeaders>("{ response: { set: { x-frame-options: DENY }, remove: server } }");
        let mut call = Call::get("/");
        let response = call.response(&filter, &[("Server", "nginx"), ("X-Frame-Options", "ALLOWALL"), ("a", "b")]);
        assert_eq!(values(&response, "x-frame-options"), ["DENY"]);
        assert!(!response.contains("server") && response.contains("a"));
    }

    #[test]
    fn framing_and_injection_are_refused_when_the_configuration_is_read() {
        for (yaml, place) in [
            ("{ request: { set: { Content-Length: '0' } } }", "request.set.Content-Length: "),
            ("{ request: { add: { transfer-encoding: chunked } } }", "request.add.transfer-encoding: "),
            ("{ request: { set: { host: other } } }", "request.set.host: "),
            ("{ response: { remove: [a, Connection] } }", "response.remove[1]: "),
            ("{ response: { set: { 'a b': c } } }", "response.set.a b: "),
            ("{ response: { set: { a: \"b\\r\\nset-cookie: c\" } } }", "response.set.a: "),
            ("{ response: { add: { a: [b, \"c\\0\"] } } }", "response.add.a: "),
            ("{ response: { remove: x-decision-id } }", "response.remove[0]: "),
            ("{ request: { set: { a: b }, remove: [A] } }", "request.remove[0]: "),
            ("{ request: { set: { a: b, A: c } } }", "request.set.a: "),
        ] {
            let error = error::<EditHeaders>(yaml);
            assert!(error.starts_with(place), "{yaml}: {error}");
        }
        assert!(error::<EditHeaders>("{}").contains("changes nothing"));
        assert!(error::<EditHeaders>("{ request: { sett: {} } }").contains("unknown field"));
    }

    #[test]
    fn a_full_head_is_refused_and_not_sent_without_the_edit() {
        let filter = build::<EditHeaders>("{ request: { set: { x-edge: one } }, response: { set: { x-edge: one } } }");
        let mut call = Call::get("/");
        for n in 0..portcullis_plugin::headers::DEFAULT_MAX_FIELDS {
            call = call.header(&format!("h{n}"), "v");
        }
        assert_eq!(call.denied(&filter).status_code(), 431);
        let mut full = ResponseHead::new(200, headers(&vec![("a", "b"); portcullis_plugin::headers::DEFAULT_MAX_FIELDS]));
        assert!(matches!(filter.response(&mut full, &mut call.exchange), Verdict::Fault(_)));
    }
}
