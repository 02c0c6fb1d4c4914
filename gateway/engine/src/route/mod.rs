//! Which route serves a request.
//!
//! Routes are found by what they ask for, not one after the other: first by host, then by path, so that ten thousand of
//! them cost what ten do. Within one host and one path, those with more conditions come first, then those that stand
//! earlier in the configuration. A more specific route that does not hold in full leaves the request to the next.
//!
//! - `matcher`: one route's conditions, compiled
//! - `paths`: the routes of one host, by path

mod matcher;
mod paths;

use crate::config::raw;
use ahash::AHashMap;
pub use matcher::Hinges;
use matcher::{Entry, Judgement};
use paths::Paths;
use portcullis_plugin::{ConfigError, Method, RequestHead};

/// All routes of a listener.
#[derive(Debug)]
pub struct Router {
    /// In the order of the configuration.
    entries: Vec<Entry>,
    exact: AHashMap<Box<str>, Paths>,
    /// By what follows `*.`.
    wildcard: AHashMap<Box<str>, Paths>,
    any: Paths,
}

/// What there is for a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup {
    /// The index that the route was given with.
    Found(usize),
    /// A CORS preflight for this route, whose own methods lack `OPTIONS`: its filters may answer, and nothing else.
    /// `allow` is for when none does.
    Preflight {
        route: usize,
        allow: String,
    },
    /// Routes match but for the method; `allow` lists theirs, as `Allow` wants it.
    MethodNotAllowed {
        allow: String,
    },
    None,
}

impl Router {
    /// Compiles the routes' `match` blocks, given with their index in `routes`.
    ///
    /// # Errors
    /// What could never match, or not be enforced. The path is whole: `routes[2].match.path_regex`.
    pub fn new(routes: Vec<(usize, &raw::Match)>) -> Result<Self, ConfigError> {
        let mut router = Self { entries: Vec::new(), exact: AHashMap::new(), wildcard: AHashMap::new(), any: Paths::default() };
        for (index, raw) in routes {
            router.add(index, raw).map_err(|error| error.at("match").at(index).at("routes"))?;
        }
        let entries = &router.entries;
        for paths in router.exact.values_mut().chain(router.wildcard.values_mut()).chain([&mut router.any]) {
            paths.sort(|place| entries.get(place).map_or(0, Entry::conditions));
        }
        Ok(router)
    }

    /// These routes, by their index in `routes`, have a filter that answers CORS preflights. A preflight comes as
    /// `OPTIONS` and asks for another method; these routes take it by the method it asks for.
    #[must_use]
    pub fn answering_preflights(mut self, answers: impl Fn(usize) -> bool) -> Self {
        for entry in &mut self.entries {
            entry.answers_preflights(answers(entry.route()));
        }
        self
    }

    fn add(&mut self, index: usize, raw: &raw::Match) -> Result<(), ConfigError> {
        let (entry, hosts, path) = matcher::compile(index, raw)?;
        let place = self.entries.len();
        self.entries.push(entry);
        if hosts.is_empty() {
            self.any.add(place, &path);
        }
        for host in hosts {
            let (map, name) = match host.strip_prefix("*.") {
                Some(suffix) => (&mut self.wildcard, suffix),
                None => (&mut self.exact, host.as_str()),
            };
            map.entry(name.into()).or_default().add(place, &path);
        }
        Ok(())
    }

    /// The most specific route that holds in full.
    pub fn find(&self, request: &RequestHead) -> Lookup {
        let mut blocked = false;
        let asked = preflight_for(request);
        let mut by_asked = false;
        let found = self.candidates(request, |entry| match entry.judge(request) {
            Judgement::Holds => true,
            Judgement::ButForTheMethod if asked.as_ref().is_some_and(|method| entry.takes_preflight(method)) => {
                by_asked = true;
                true
            }
            Judgement::ButForTheMethod => {
                blocked = true;
                false
            }
            Judgement::No => false,
        });
        match found {
            Some(entry) if by_asked => Lookup::Preflight { route: entry.route(), allow: entry.methods().to_string() },
            Some(entry) => Lookup::Found(entry.route()),
            // Only now, because collecting them allocates.
            None if blocked => Lookup::MethodNotAllowed { allow: self.allowed(request) },
            None => Lookup::None,
        }
    }

    /// What decided that [`find`](Self::find) finds what it finds. For who knows a request only in part.
    pub fn hinges_on(&self, request: &RequestHead) -> Hinges {
        let mut hinges = Hinges::default();
        self.candidates(request, |entry| {
            let more = entry.hinges_on(request);
            hinges.headers |= more.headers;
            hinges.query |= more.query;
            entry.judge(request) == Judgement::Holds
        });
        hinges
    }

    fn allowed(&self, request: &RequestHead) -> String {
        let mut methods = matcher::Methods::default();
        self.candidates(request, |entry| {
            if entry.judge(request) == Judgement::ButForTheMethod {
                methods.merge(entry.methods());
            }
            false
        });
        methods.to_string()
    }

    /// Shows `take` the routes for this host and path, the most specific first, until it takes one.
    fn candidates(&self, request: &RequestHead, mut take: impl FnMut(&Entry) -> bool) -> Option<&Entry> {
        let path = request.path();
        let mut take = |place: usize| self.entries.get(place).filter(|entry| take(entry));
        let host = request.host();
        if let Some(found) = self.exact.get(host).and_then(|paths| paths.candidates(path, &mut take)) {
            return Some(found);
        }
        if !self.wildcard.is_empty() {
            // From the longest suffix to the shortest.
            let mut rest = host;
            while let Some((_, suffix)) = rest.split_once('.') {
                if let Some(found) = self.wildcard.get(suffix).and_then(|paths| paths.candidates(path, &mut take)) {
                    return Some(found);
                }
                rest = suffix;
            }
        }
        self.any.candidates(path, &mut take)
    }
}

/// The method that a CORS preflight asks for (Fetch standard, CORS-preflight request).
fn preflight_for(request: &RequestHead) -> Option<Method> {
    let headers = request.headers();
    if *request.method() != Method::Options || !headers.contains("origin") {
        return None;
    }
    let mut asked = headers.get_all("access-control-request-method");
    let method = asked.next().and_then(Method::parse)?;
    asked.next().is_none().then_some(method)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
