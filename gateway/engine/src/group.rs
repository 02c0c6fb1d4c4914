//! Filters combined into one: `any_of`, alternatives of which one must pass, and `all_of`, members that must all pass.
//!
//! ```yaml
//! - any_of:
//!     - all_of: [{ client_cert: { san_dns: "*.partner.example" } }, { oidc: { issuer: main } }]
//!     - api_key: { file: api-keys.txt }
//! ```
//!
//! To its chain a group is one filter: it has one mode and one verdict, and a panic of a member is a fault of the group.
//!
//! What is decided here, and why, is in `docs/decisions/0023-combined-policies.md`.

use crate::metrics::FilterMetrics;
use portcullis_plugin::exchange::Mark;
use portcullis_plugin::verdict::Resume;
use portcullis_plugin::{
    Credential, Denial, Exchange, Filter, FilterError, Finding, Needs, ReasonCode, RequestHead, Verdict, reason,
};
use std::sync::Arc;

/// Members of one group, at most.
pub const MAX_MEMBERS: usize = 8;
/// Groups within each other.
pub const MAX_DEPTH: usize = 3;

/// How members are combined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Combination {
    AnyOf,
    AllOf,
}

impl Combination {
    pub const ALL: [Self; 2] = [Self::AnyOf, Self::AllOf];

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|combination| combination.name() == name)
    }

    /// The key in a configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::AnyOf => "any_of",
            Self::AllOf => "all_of",
        }
    }

    /// What it does, for the schema and the reference.
    pub fn description(self) -> &'static str {
        match self {
            Self::AnyOf => {
                "Alternatives, of which one must pass: two to eight filters that judge a request (such as `client_cert`, `oidc`, \
                 `api_key`, `authorize`, `ip_allow`, and your own that say so), or groups of them. Those whose credential the \
                 request has are tried first, in order; the first that passes decides."
            }
            Self::AllOf => {
                "Filters of which every one must pass, run in order: two to eight of those that `any_of` takes. Of use within `any_of`."
            }
        }
    }
}

/// A filter in a group.
pub struct Member {
    pub name: &'static str,
    /// Where it stands, from the outermost group on: `any_of/1`, `any_of/0/all_of/1`. Its checks say so.
    pub place: Arc<str>,
    pub filter: Arc<dyn Filter>,
    pub metrics: Arc<FilterMetrics>,
}

impl Member {
    fn count(&self, verdict: &Verdict) {
        match verdict {
            Verdict::Continue => self.metrics.allow(),
            Verdict::Respond(_) => self.metrics.respond(),
            Verdict::Deny(denial) => self.metrics.deny(denial.reason()),
            Verdict::Fault(_) => self.metrics.fault(),
            Verdict::Wait(_) => {}
        }
    }

    fn enter(&self, exchange: &mut Exchange) {
        exchange.driver_enter_member(self.name, Some(&self.place));
    }

    /// What `check` and findings call it.
    fn summary(&self) -> String {
        self.filter.needs().summary.unwrap_or_else(|| self.name.to_owned())
    }
}

/// The filter that stands for the group. `place`: where that stands in another.
pub fn group(combination: Combination, place: Option<Arc<str>>, members: Vec<Member>) -> Arc<dyn Filter> {
    match combination {
        Combination::AnyOf => Arc::new(AnyOf(Arc::new(Alternatives { members, place }))),
        Combination::AllOf => Arc::new(AllOf(members.into())),
    }
}

fn summary(word: &str, members: &[Member]) -> String {
    format!("{word} ({})", members.iter().map(Member::summary).collect::<Vec<_>>().join(", "))
}

fn owned_headers(members: &[Member]) -> Vec<String> {
    members.iter().flat_map(|member| member.filter.needs().owned_headers).collect()
}

struct AllOf(Arc<[Member]>);

impl Filter for AllOf {
    fn request(&self, request: &mut RequestHead, exchange: &mut Exchange) -> Verdict {
        all_from(&self.0, 0, request, exchange)
    }

    /// It cannot pass while one of them is absent.
    fn credential(&self, request: &RequestHead, exchange: &Exchange) -> Credential {
        let mut found = Credential::NotRead;
        for member in self.0.iter() {
            match member.filter.credential(request, exchange) {
                Credential::Absent => return Credential::Absent,
                Credential::Present => found = Credential::Present,
                Credential::NotRead => {}
            }
        }
        found
    }

    fn withhold(&self, request: &mut RequestHead) -> Result<(), FilterError> {
        self.0.iter().try_for_each(|member| member.filter.withhold(request))
    }

    fn needs(&self) -> Needs {
        let needs: Vec<Needs> = self.0.iter().map(|member| member.filter.needs()).collect();
        let first = needs.iter().position(|needs| needs.authenticates).unwrap_or(needs.len());
        Needs {
            authenticates: needs.iter().any(|needs| needs.authenticates),
            may_authenticate: needs.iter().any(|needs| needs.may_authenticate),
            requires_principal: needs.iter().take(first).any(|needs| needs.requires_principal),
            requires_certificate: needs.iter().any(|needs| needs.requires_certificate),
            // What comes after the member that finds it out reads it from there.
            reads_identity: needs.iter().take(first).any(|needs| needs.reads_identity),
            owned_headers: owned_headers(&self.0),
            combines: true,
            summary: Some(summary("all of", &self.0)),
            ..Needs::default()
        }
    }
}

fn all_from(members: &Arc<[Member]>, start: usize, request: &mut RequestHead, exchange: &mut Exchange) -> Verdict {
    for (at, member) in members.iter().enumerate().skip(start) {
        member.enter(exchange);
        let verdict = member.filter.request(request, exchange);
        if let Some(ended) = all_settle(members, at, verdict) {
            return ended;
        }
    }
    Verdict::Continue
}

/// `None`: the member passed.
fn all_settle(members: &Arc<[Member]>, at: usize, verdict: Verdict) -> Option<Verdict> {
    let member = members.get(at)?;
    member.count(&verdict);
    match verdict {
        Verdict::Continue => None,
        Verdict::Wait(future) => {
            let members = Arc::clone(members);
            Some(Verdict::wait(async move {
                let resume = future.await;
                let resumed: Resume = Box::new(move |request, exchange| {
                    if let Some(member) = members.get(at) {
                        member.enter(exchange);
                    }
                    let verdict = resume(request, exchange);
                    all_settle(&members, at, verdict).unwrap_or_else(|| all_from(&members, at + 1, request, exchange))
                });
                resumed
            }))
        }
        ended => Some(ended),
    }
}

struct AnyOf(Arc<Alternatives>);

struct Alternatives {
    members: Vec<Member>,
    place: Option<Arc<str>>,
}

impl Filter for AnyOf {
    fn request(&self, request: &mut RequestHead, exchange: &mut Exchange) -> Verdict {
        let mut search = Search::default();
        for (at, member) in self.0.members.iter().enumerate() {
            match member.filter.credential(request, exchange) {
                Credential::Present => search.present |= 1 << at,
                Credential::Absent => search.absent |= 1 << at,
                Credential::NotRead => {}
            }
        }
        self.0.proceed(search, request, exchange)
    }

    fn credential(&self, request: &RequestHead, exchange: &Exchange) -> Credential {
        let all = || self.0.members.iter().map(|member| member.filter.credential(request, exchange));
        if all().any(|found| found == Credential::Present) {
            Credential::Present
        } else if all().any(|found| found == Credential::NotRead) {
            Credential::NotRead
        } else {
            Credential::Absent
        }
    }

    fn withhold(&self, request: &mut RequestHead) -> Result<(), FilterError> {
        self.0.members.iter().try_for_each(|member| member.filter.withhold(request))
    }

    fn needs(&self) -> Needs {
        let needs: Vec<Needs> = self.0.members.iter().map(|member| member.filter.needs()).collect();
        Needs {
            authenticates: needs.iter().all(|needs| needs.authenticates),
            may_authenticate: needs.iter().any(|needs| needs.may_authenticate),
            requires_principal: needs.iter().all(|needs| needs.requires_principal),
            requires_certificate: needs.iter().all(|needs| needs.requires_certificate),
            reads_identity: needs.iter().any(|needs| needs.reads_identity),
            owned_headers: owned_headers(&self.0.members),
            combines: true,
            summary: Some(summary("any of", &self.0.members)),
            ..Needs::default()
        }
    }
}

/// How far the alternatives have been tried. Sets of members are bits.
#[derive(Default)]
struct Search {
    present: u32,
    absent: u32,
    tried: u32,
    /// Of those tried, in that order.
    refusals: Vec<(usize, Denial)>,
}

/// What an alternative that fails must not have changed.
struct Before {
    request: RequestHead,
    mark: Mark,
}

impl Search {
    /// Those whose credential is absent come last: they are only there to say what would have helped, and so cost nothing
    /// when another passes.
    fn next(&mut self, members: usize) -> Option<usize> {
        let open = |at: &usize| self.tried & (1 << at) == 0;
        let likely = (0..members).filter(open).find(|at| self.absent & (1 << at) == 0);
        let at = likely.or_else(|| (0..members).find(open))?;
        self.tried |= 1 << at;
        Some(at)
    }

    /// Whose refusal is the group's. An outage of something that might have let the caller in is no verdict on the caller.
    /// Then come the credentials that were sent, and of those, one that the alternative knows.
    fn decides(&self) -> Option<usize> {
        let rank = |(at, denial): &(usize, Denial)| {
            let sent = self.present & (1 << at) != 0;
            let foreign = matches!(denial.reason(), reason::TOKEN_ISSUER_MISMATCH | reason::API_KEY_UNKNOWN);
            match (denial.status_code() >= 500, sent, foreign) {
                (true, ..) => 0,
                (_, true, false) => 1,
                (_, true, true) => 2,
                (_, false, _) => 3,
            }
        };
        // Within a rank it is the order of the configuration, not the one of trying.
        let order = |index: &usize| self.refusals.get(*index).map(|refusal| (rank(refusal), refusal.0));
        (0..self.refusals.len()).min_by_key(order)
    }
}

impl Alternatives {
    fn proceed(self: &Arc<Self>, mut search: Search, request: &mut RequestHead, exchange: &mut Exchange) -> Verdict {
        while let Some(at) = search.next(self.members.len()) {
            let Some(member) = self.members.get(at) else { break };
            let before = Before { request: request.clone(), mark: exchange.driver_mark() };
            member.enter(exchange);
            let verdict = member.filter.request(request, exchange);
            match self.settle(at, verdict, before, search, request, exchange) {
                Ok(ended) => return ended,
                Err(go_on) => search = go_on,
            }
        }
        self.refuse(search, exchange)
    }

    /// `Err`: the alternative failed and has left nothing behind; the next is to be tried.
    fn settle(
        self: &Arc<Self>,
        at: usize,
        verdict: Verdict,
        before: Before,
        mut search: Search,
        request: &mut RequestHead,
        exchange: &mut Exchange,
    ) -> Result<Verdict, Search> {
        let Some(member) = self.members.get(at) else { return Err(search) };
        member.count(&verdict);
        match verdict {
            Verdict::Deny(denial) => {
                *request = before.request;
                exchange.driver_undo(before.mark);
                search.refusals.push((at, denial));
                Err(search)
            }
            Verdict::Continue => {
                exchange.driver_keep(&before.mark);
                Ok(self.pass(at, request, exchange))
            }
            Verdict::Wait(future) => {
                let this = Arc::clone(self);
                Ok(Verdict::wait(async move {
                    let resume = future.await;
                    let resumed: Resume = Box::new(move |request, exchange| {
                        if let Some(member) = this.members.get(at) {
                            member.enter(exchange);
                        }
                        let verdict = resume(request, exchange);
                        this.settle(at, verdict, before, search, request, exchange)
                            .unwrap_or_else(|search| this.proceed(search, request, exchange))
                    });
                    resumed
                }))
            }
            // A filter that fails gives no verdict, and one that answers has given it.
            ended @ (Verdict::Fault(_) | Verdict::Respond(_)) => Ok(ended),
        }
    }

    /// What the others read has been verified by nobody, so it does not go on.
    fn pass(&self, passed: usize, request: &mut RequestHead, exchange: &mut Exchange) -> Verdict {
        for (_, member) in self.members.iter().enumerate().filter(|(at, _)| *at != passed) {
            if let Err(error) = member.filter.withhold(request) {
                return Verdict::Fault(error);
            }
        }
        exchange.driver_enter_member(Combination::AnyOf.name(), self.place.as_ref());
        exchange.check("alternatives", reason::AUTHORIZE_DENIED, true, || {
            Finding::new(summary("any of", &self.members), self.members.get(passed).map(Member::summary).unwrap_or_default())
        });
        Verdict::Continue
    }

    fn refuse(&self, mut search: Search, exchange: &mut Exchange) -> Verdict {
        let Some(index) = search.decides() else {
            // A group has members, and each has been tried; without a refusal nobody may pass either.
            return Verdict::deny(reason::AUTHORIZE_DENIED);
        };
        let (_, mut denial) = search.refusals.remove(index);
        exchange.driver_enter_member(Combination::AnyOf.name(), self.place.as_ref());
        exchange.check("alternatives", denial.reason(), false, || {
            let others = search.refusals.iter().map(|(_, other)| other.reason());
            let all: Vec<&str> = std::iter::once(denial.reason()).chain(others).map(ReasonCode::as_str).collect();
            Finding::new(summary("any of", &self.members), all.join(", "))
        });
        if denial.status_code() >= 500 {
            return Verdict::Deny(denial);
        }
        // RFC 9110, section 11.6.1: a challenge for each way in, and one may stand with 403 too.
        for (_, other) in &search.refusals {
            for challenge in other.headers().get_all("www-authenticate") {
                if !denial.headers().get_all("www-authenticate").any(|known| known == challenge) {
                    denial = denial.header("www-authenticate", challenge);
                }
            }
        }
        Verdict::Deny(denial)
    }
}

#[cfg(test)]
#[path = "group_tests.rs"]
mod tests;
