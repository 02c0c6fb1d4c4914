//! The routes of one host, by what they say of the path.

use ahash::AHashMap;
use memchr::memrchr;

/// What a route says of the path, as far as it decides where to look for the route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PathKey {
    Exact(Box<str>),
    Prefix(Prefix),
    Regex,
    Any,
}

/// A path and all below it. `/a/` asks for the slash: it covers `/a/` and `/a/b`, and not `/a`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Prefix {
    /// Without the slash at the end; empty for `/`.
    base: Box<str>,
    only_below: bool,
}

impl Prefix {
    pub fn new(path: &str) -> Self {
        match path.strip_suffix('/') {
            Some(base) => Self { base: base.into(), only_below: true },
            None => Self { base: path.into(), only_below: false },
        }
    }

    pub fn covers(&self, path: &str) -> bool {
        path.strip_prefix(&*self.base).is_some_and(|rest| rest.starts_with('/') || (rest.is_empty() && !self.only_below))
    }
}

/// Places in the list of routes, the most specific first.
#[derive(Debug, Default)]
pub(super) struct Paths {
    exact: AHashMap<Box<str>, Vec<usize>>,
    prefix: AHashMap<Box<str>, PrefixPlaces>,
    /// How long and how deep prefixes are: a longer request path is not searched beyond.
    longest: usize,
    deepest: usize,
    regex: Vec<usize>,
    any: Vec<usize>,
}

#[derive(Debug, Default)]
struct PrefixPlaces {
    /// Of routes that ask for the slash, so they are more specific.
    below: Vec<usize>,
    at: Vec<usize>,
}

impl Paths {
    pub fn add(&mut self, place: usize, key: &PathKey) {
        match key {
            PathKey::Exact(path) => self.exact.entry(path.clone()).or_default().push(place),
            PathKey::Prefix(Prefix { base, only_below }) => {
                self.longest = self.longest.max(base.len());
                self.deepest = self.deepest.max(slashes(base));
                let places = self.prefix.entry(base.clone()).or_default();
                if *only_below { places.below.push(place) } else { places.at.push(place) }
            }
            PathKey::Regex => self.regex.push(place),
            PathKey::Any => self.any.push(place),
        }
    }

    /// Puts more conditions first. The sort is stable: the order of the configuration decides the rest.
    pub fn sort(&mut self, conditions: impl Fn(usize) -> usize) {
        let prefixes = self.prefix.values_mut().flat_map(|places| [&mut places.below, &mut places.at]);
        for places in self.exact.values_mut().chain(prefixes).chain([&mut self.regex, &mut self.any]) {
            places.sort_by_key(|place| std::cmp::Reverse(conditions(*place)));
        }
    }

    /// Offers the routes that may serve `path`, the most specific first, until one is taken.
    pub fn candidates<T>(&self, path: &str, take: &mut impl FnMut(usize) -> Option<T>) -> Option<T> {
        let mut first = |places: &[usize]| places.iter().find_map(|place| take(*place));
        if let Some(found) = self.exact.get(path).and_then(|places| first(places)) {
            return Some(found);
        }
        if let Some(found) = self.prefixes(path, &mut first) {
            return Some(found);
        }
        first(&self.regex).or_else(|| first(&self.any))
    }

    /// From the longest prefix to the shortest, a hash look-up for each. The depth of the configuration bounds the work, not
    /// that of the request.
    fn prefixes<T>(&self, path: &str, first: &mut impl FnMut(&[usize]) -> Option<T>) -> Option<T> {
        if self.prefix.is_empty() {
            return None;
        }
        let bytes = path.as_bytes();
        if path.len() <= self.longest
            && let Some(found) = self.prefix.get(path).and_then(|places| first(&places.at))
        {
            return Some(found);
        }
        // Look only where a prefix can end: before a slash, after at most `deepest` others, within the longest.
        let window = bytes.get(..=self.longest).unwrap_or(bytes);
        let mut end = memchr::memchr_iter(b'/', window).nth(self.deepest).map_or(window.len(), |slash| slash + 1);
        while let Some(slash) = window.get(..end).and_then(|searched| memrchr(b'/', searched)) {
            if let Some(places) = path.get(..slash).and_then(|base| self.prefix.get(base))
                && let Some(found) = first(&places.below).or_else(|| first(&places.at))
            {
                return Some(found);
            }
            end = slash;
        }
        None
    }
}

fn slashes(path: &str) -> usize {
    path.bytes().filter(|b| *b == b'/').count()
}
