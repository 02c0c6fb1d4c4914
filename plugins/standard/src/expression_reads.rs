//! What an expression reads of a request.

use std::collections::BTreeSet;

/// Fields that hold credentials: an expression cannot read them, so neither can a decision's record.
pub(crate) const HIDDEN_HEADERS: &[&str] = &["authorization", "cookie", "proxy-authorization"];

/// Which entries of a map an expression can read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Names {
    pub(crate) all: bool,
    pub(crate) some: BTreeSet<String>,
}

impl Names {
    pub(crate) fn all(&self) -> bool {
        self.all
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.all || self.some.contains(name)
    }
}

/// What an expression reads, so that a request pays for nothing else.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reads {
    /// Members of records, such as `path` of `request`. Variables are members of ``.
    pub(crate) names: BTreeSet<(&'static str, &'static str)>,
    pub(crate) query: Names,
    pub(crate) headers: Names,
    pub(crate) claims: Names,
    /// The patterns of `matches`.
    pub(crate) patterns: BTreeSet<String>,
}

impl Reads {
    pub(crate) fn has(&self, name: &str) -> bool {
        self.member("", name)
    }

    pub(crate) fn member(&self, record: &str, member: &str) -> bool {
        self.names.contains(&(record, member))
    }

    /// All that is read, as an expression writes it; of maps the entries, where they are known.
    pub(crate) fn facts(&self) -> impl Iterator<Item = String> {
        let maps = [("request.query", &self.query), ("request.headers", &self.headers), ("principal.claims", &self.claims)];
        let entries = maps.into_iter().flat_map(|(map, names)| names.some.iter().map(move |name| format!("{map}.{name}")));
        let whole = move |fact: &String| maps.iter().all(|(map, names)| map != fact || names.all);
        let members = self.names.iter().map(|(record, member)| match record.is_empty() {
            true => (*member).to_owned(),
            false => format!("{record}.{member}"),
        });
        members.filter(whole).chain(entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_map_the_entries_are_told_and_the_whole_only_where_it_is_read() {
        let mut reads = Reads::default();
        reads.names.extend([("", "request"), ("request", "query"), ("request", "headers"), ("", "now")]);
        reads.query.some.insert("tenant".to_owned());
        reads.headers.some.insert("x-a".to_owned());
        let facts = |reads: &Reads| {
            let mut facts: Vec<_> = reads.facts().collect();
            facts.sort_unstable();
            facts
        };
        assert_eq!(facts(&reads), ["now", "request", "request.headers.x-a", "request.query.tenant"]);
        assert!(reads.query.has("tenant") && !reads.query.has("other"));
        reads.query.all = true;
        assert_eq!(facts(&reads), ["now", "request", "request.headers.x-a", "request.query", "request.query.tenant"]);
        assert!(reads.query.has("other") && !reads.headers.has("other") && !reads.claims.has("tenant"));
    }
}
