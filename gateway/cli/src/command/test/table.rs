//! The table of expected decisions as it is written, and the requests it comes to.

use crate::command::input;
use portcullis::config::Diagnostics;
use portcullis::config::file::Document;
use portcullis::explain::{Query, is_shown};
use portcullis::plugin::ConfigError;
use portcullis::plugin::units::OneOrMany;
use serde::{Deserialize, Deserializer};
use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    /// The configuration, from the folder of this file; as are all paths.
    config: PathBuf,
    /// Keys to verify tokens with, instead of asking the issuers.
    jwks: Option<PathBuf>,
    /// The time to judge by. Default: now.
    at: Option<String>,
    cases: Vec<Case>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    request: Request,
    expect: Expect,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    url: String,
    #[serde(default = "get")]
    method: String,
    #[serde(default)]
    headers: BTreeMap<String, OneOrMany<String>>,
    #[serde(default = "loopback")]
    client_ip: IpAddr,
    client_cert: Option<PathBuf>,
    token: Option<String>,
    token_file: Option<PathBuf>,
    /// Default: the first that speaks the URL's scheme.
    listener: Option<String>,
    /// Default: the table's.
    at: Option<String>,
}

fn get() -> String {
    "GET".into()
}

fn loopback() -> IpAddr {
    Ipv4Addr::LOCALHOST.into()
}

/// What is to come of a request. What is not written is not judged; `null` is written, and means that there is none.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Expect {
    #[serde(deserialize_with = "written")]
    pub verdict: Option<Verdict>,
    /// What the gateway answers; `null` if the upstream does.
    #[serde(deserialize_with = "written")]
    pub status: Option<Option<u16>>,
    #[serde(deserialize_with = "written")]
    pub reason: Option<Option<String>>,
    #[serde(deserialize_with = "written")]
    pub route: Option<Option<String>>,
    #[serde(deserialize_with = "written")]
    pub pool: Option<Option<String>>,
    pub upstream_headers: BTreeMap<String, Option<String>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Allow,
    Deny,
    Error,
}

impl Verdict {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Error => "error",
        }
    }
}

/// Tells `null` from nothing.
fn written<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// A table that holds together, with everything it names read.
pub struct Plan {
    document: Document<Table>,
    pub config: PathBuf,
    pub keys: Option<Vec<u8>>,
    pub cases: Vec<Planned>,
}

pub struct Planned {
    pub name: String,
    pub query: Query,
    pub expect: Expect,
}

impl Plan {
    /// # Errors
    /// Everything that is wrong with the file and what it names.
    pub fn read(path: &Path) -> Result<Self, Diagnostics> {
        let document: Document<Table> = Document::read(path, &|name| std::env::var(name).ok())?;
        let Table { config, jwks, at, cases } = &document.value;
        let mut reader = Reader { base: &document.base, errors: Vec::new() };
        let keys = jwks.as_ref().and_then(|file| {
            let keys = input::read(&reader.base.join(file)).map_err(|error| ConfigError::new(error).at("jwks"));
            reader.take(keys)
        });
        let now = SystemTime::now();
        let at = reader.time(at.as_deref(), now, &|error| error.at("at"));
        if cases.is_empty() {
            reader.errors.push(ConfigError::new("the table has no case, and so expects nothing").at("cases"));
        }
        let mut names = HashSet::new();
        let cases = cases.iter().enumerate().filter_map(|(index, case)| {
            if !names.insert(case.name.as_str()) {
                let error = ConfigError::new(format!("there are two cases named `{}`", case.name));
                reader.errors.push(error.at("name").at(index).at("cases"));
            }
            reader.case(index, case, at)
        });
        let cases: Vec<_> = cases.collect();
        let (config, errors) = (document.base.join(config), reader.errors);
        if errors.is_empty() {
            return Ok(Self { config, keys, cases, document });
        }
        Err(Diagnostics::new(errors.iter().map(|error| document.error(error)).collect(), vec![path.to_owned()]))
    }

    /// Something that is wrong with the request of one case.
    pub fn error(&self, case: usize, message: impl Into<String>) -> Diagnostics {
        self.document.error(&ConfigError::new(message).at("request").at(case).at("cases")).into()
    }
}

struct Reader<'a> {
    base: &'a Path,
    errors: Vec<ConfigError>,
}

impl Reader<'_> {
    fn take<T>(&mut self, result: Result<T, ConfigError>) -> Option<T> {
        result.map_err(|error| self.errors.push(error)).ok()
    }

    fn time(&mut self, text: Option<&str>, default: SystemTime, place: &dyn Fn(ConfigError) -> ConfigError) -> SystemTime {
        let time = text.map(|text| input::time(text).map_err(|error| place(ConfigError::new(error))));
        time.and_then(|time| self.take(time)).unwrap_or(default)
    }

    fn case(&mut self, index: usize, case: &Case, at: SystemTime) -> Option<Planned> {
        let Case { name, request, expect } = case;
        let Request { url, method, headers, client_ip, client_cert, token, token_file, listener, at: own } = request;
        let place = |key: &str, message: String| ConfigError::new(message).at(key).at("request").at(index).at("cases");
        let mut sent: Vec<(String, Vec<u8>)> = Vec::new();
        for (name, values) in headers {
            sent.extend(values.iter().map(|value| (name.clone(), value.as_bytes().to_vec())));
        }
        let token = match (token, token_file) {
            (Some(_), Some(_)) => {
                self.errors.push(place("token_file", "give `token` or `token_file`, not both".into()));
                None
            }
            (Some(token), None) => Some(token.clone()),
            (None, Some(file)) => {
                let token = input::token(&self.base.join(file)).map_err(|error| place("token_file", error));
                self.take(token)
            }
            (None, None) => None,
        };
        sent.extend(token.map(|token| input::bearer(&token)));
        let certificate = client_cert.as_ref().and_then(|file| {
            let chain = input::certificates(&self.base.join(file)).map_err(|error| place("client_cert", error));
            self.take(chain)
        });
        let at = self.time(own.as_deref(), at, &|error| error.at("at").at("request").at(index).at("cases"));
        self.expectation(index, expect);
        Some(Planned {
            name: name.clone(),
            query: Query {
                url: url.clone(),
                method: method.clone(),
                headers: sent,
                certificate: certificate.unwrap_or_default(),
                client: *client_ip,
                at,
                listener: listener.clone(),
            },
            expect: expect.clone(),
        })
    }

    fn expectation(&mut self, index: usize, expect: &Expect) {
        if *expect == Expect::default() {
            let error = ConfigError::new("the case expects nothing, and so would always pass").help("give a `verdict`");
            self.errors.push(error.at("expect").at(index).at("cases"));
        }
        for (name, value) in &expect.upstream_headers {
            if value.is_some() && !is_shown(&name.to_ascii_lowercase()) {
                let error = ConfigError::new(format!("the value of `{name}` is not shown, and so cannot be compared"))
                    .help("`null` expects that the upstream does not get it");
                self.errors.push(error.at(name.as_str()).at("upstream_headers").at("expect").at(index).at("cases"));
            }
        }
    }
}
