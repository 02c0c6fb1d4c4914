use super::*;
use crate::chain::{Chain, Ending, Entry, Step};
use crate::metrics::Metrics;
use portcullis_plugin::{CertificateStatus, Connection, Headers, Method, Mode, Principal, Scheme, Version};
use std::future::ready;
use std::time::SystemTime;

const FOREIGN: ReasonCode = reason::TOKEN_ISSUER_MISMATCH;

/// Reads the header `x-NAME`: `good` passes, anything else is refused for the reason it names.
struct Reads {
    name: &'static str,
    waits: bool,
}

struct Left(&'static str);

fn judge(name: &'static str, request: &mut RequestHead, exchange: &mut Exchange) -> Verdict {
    let field = format!("x-{name}");
    let sent = request.headers().get_str(&field).map(str::to_owned);
    // Whatever comes of it, it leaves traces.
    request.headers_mut().set("x-trace", name).unwrap();
    request.headers_mut().remove(&field);
    exchange.set_principal(Arc::new(Principal::new("test", name)));
    exchange.insert_extension(Left(name));
    let (reason, status) = match sent.as_deref() {
        Some("good") => return Verdict::Continue,
        Some("panic") => panic!("told to"),
        Some("fault") => return Verdict::Fault(FilterError::new("told to")),
        Some("foreign") => (FOREIGN, 401),
        Some("down") => (reason::ISSUER_UNAVAILABLE, 503),
        Some("weak") => (reason::TOKEN_SCOPE_MISSING, 403),
        Some(_) => (reason::TOKEN_EXPIRED, 401),
        None => (reason::TOKEN_MISSING, 401),
    };
    exchange.check("credential", reason, false, || Finding::new(name, "not it"));
    Verdict::Deny(Denial::new(reason).status(status).header("www-authenticate", name))
}

impl Filter for Reads {
    fn request(&self, request: &mut RequestHead, exchange: &mut Exchange) -> Verdict {
        let name = self.name;
        if !self.waits {
            return judge(name, request, exchange);
        }
        let resume: Resume = Box::new(move |request, exchange| judge(name, request, exchange));
        Verdict::wait(ready(resume))
    }

    fn credential(&self, request: &RequestHead, _: &Exchange) -> Credential {
        if request.headers().contains(&format!("x-{}", self.name)) { Credential::Present } else { Credential::Absent }
    }

    fn withhold(&self, request: &mut RequestHead) -> Result<(), FilterError> {
        request.headers_mut().remove(&format!("x-{}", self.name));
        Ok(())
    }

    fn needs(&self) -> Needs {
        Needs { authenticates: true, combines: true, summary: Some(self.name.to_owned()), ..Needs::default() }
    }
}

fn member(name: &'static str, filter: Arc<dyn Filter>) -> Member {
    Member { name, place: format!("at/{name}").into(), filter, metrics: Metrics::new().filter("r", name, Mode::Enforce) }
}

fn reads(name: &'static str) -> Member {
    member(name, Arc::new(Reads { name, waits: false }))
}

fn waits(name: &'static str) -> Member {
    member(name, Arc::new(Reads { name, waits: true }))
}

fn any(members: Vec<Member>) -> Member {
    member("any_of", group(Combination::AnyOf, None, members))
}

fn all(members: Vec<Member>) -> Member {
    member("all_of", group(Combination::AllOf, None, members))
}

struct Outcome {
    request: RequestHead,
    exchange: Exchange,
    ending: Option<Ending>,
}

impl Outcome {
    fn passed_as(&self) -> Option<&str> {
        let left = self.exchange.extension::<Left>().map(|left| left.0);
        let principal = self.exchange.principal().map(|principal| &*principal.subject);
        assert_eq!(left, principal, "what failed left something behind");
        if self.ending.is_some() { None } else { principal }
    }

    #[track_caller]
    fn denial(&self) -> &Denial {
        match &self.ending {
            Some(Ending::Deny(denial)) => denial,
            other => panic!("expected a denial, got {other:?}"),
        }
    }

    fn challenges(&self) -> Vec<&[u8]> {
        self.denial().headers().get_all("www-authenticate").collect()
    }
}

async fn run(group: Member, fields: &[(&str, &str)]) -> Outcome {
    let address = ([127, 0, 0, 1], 1).into();
    let connection = Connection { listener: "a".into(), peer: address, source: address, local: address, tls: None };
    let mut exchange = Exchange::new(Arc::new(connection), address.ip(), CertificateStatus::Missing, SystemTime::UNIX_EPOCH);
    let mut headers = Headers::new();
    fields.iter().for_each(|(name, value)| headers.append(name, value).unwrap());
    let mut request = RequestHead::new(Method::Get, Scheme::Https, Version::Http11, "a".to_owned(), "/".to_owned(), headers);
    let chain = Chain::new(vec![Entry::new(group.name, Mode::Enforce, group.filter, group.metrics)]);
    let mut step = chain.request(&mut request, &mut exchange);
    let ending = loop {
        step = match step {
            Step::Passed => break None,
            Step::Ended(_, ending) => break Some(ending),
            Step::Waiting(waiting) => chain.resume(waiting, &mut request, &mut exchange).await,
        };
    };
    Outcome { request, exchange, ending }
}

#[tokio::test]
async fn one_alternative_is_enough_and_the_first_that_passes_decides() {
    for make in [reads as fn(&'static str) -> Member, waits] {
        let group = || any(vec![make("a"), make("b"), make("c")]);
        for (fields, passes) in [
            (&[("x-a", "good")][..], "a"),
            (&[("x-b", "good")], "b"),
            (&[("x-b", "good"), ("x-a", "good")], "a"),
            (&[("x-a", "bad"), ("x-b", "weak"), ("x-c", "good")], "c"),
        ] {
            let outcome = run(group(), fields).await;
            assert_eq!(outcome.passed_as(), Some(passes), "{fields:?}");
            assert_eq!(outcome.request.headers().get_str("x-trace"), Some(passes));
        }
    }
}

/// The attack: a good credential of one's own opens the door, and beside it goes one that nobody looked at, for an upstream
/// that believes the gateway to have done so.
#[tokio::test]
async fn a_credential_that_nobody_verified_does_not_go_on() {
    for second in ["good", "bad", "foreign"] {
        let outcome = run(any(vec![reads("a"), all(vec![reads("b"), reads("c")])]), &[("x-a", "good"), ("x-b", second)]).await;
        assert_eq!(outcome.passed_as(), Some("a"));
        assert!(!outcome.request.headers().contains("x-b"));
        let outcome = run(any(vec![reads("b"), reads("a")]), &[("x-a", "good"), ("x-b", "bad")]).await;
        assert_eq!(outcome.passed_as(), Some("a"));
        assert!(!outcome.request.headers().contains("x-b"), "what was put back when it failed is taken out all the same");
    }
}

#[tokio::test]
async fn halves_of_two_alternatives_make_no_whole() {
    let group = || any(vec![all(vec![reads("a"), waits("b")]), all(vec![waits("c"), reads("d")])]);
    for fields in [&[("x-a", "good"), ("x-d", "good")][..], &[("x-b", "good"), ("x-c", "good")], &[("x-a", "good")], &[]] {
        let outcome = run(group(), fields).await;
        assert_eq!(outcome.denial().reason(), reason::TOKEN_MISSING, "{fields:?}");
        assert!(outcome.passed_as().is_none() && outcome.exchange.principal().is_none());
        assert!(!outcome.request.headers().contains("x-trace"));
    }
    let outcome = run(group(), &[("x-a", "good"), ("x-c", "good"), ("x-d", "good")]).await;
    assert_eq!(outcome.passed_as(), Some("d"));
    assert!(!outcome.request.headers().contains("x-a"));
}

#[tokio::test]
async fn the_refusal_is_about_what_was_sent_and_every_way_in_is_offered() {
    let group = || any(vec![reads("a"), waits("b"), reads("c")]);
    for (fields, reason, status) in [
        (&[][..], reason::TOKEN_MISSING, 401),
        (&[("x-c", "weak")], reason::TOKEN_SCOPE_MISSING, 403),
        (&[("x-b", "bad"), ("x-c", "weak")], reason::TOKEN_EXPIRED, 401),
        (&[("x-a", "foreign"), ("x-c", "weak")], reason::TOKEN_SCOPE_MISSING, 403),
        (&[("x-a", "foreign")], FOREIGN, 401),
        // Whether the caller may pass is not known: never a 401.
        (&[("x-a", "bad"), ("x-b", "down")], reason::ISSUER_UNAVAILABLE, 503),
    ] {
        let outcome = run(group(), fields).await;
        assert_eq!((outcome.denial().reason(), outcome.denial().status_code()), (reason, status), "{fields:?}");
        let mut challenges = outcome.challenges();
        challenges.sort_unstable();
        let offered: &[&[u8]] = if status < 500 { &[b"a", b"b", b"c"] } else { &[b"b"] };
        assert_eq!(challenges, offered, "{fields:?}");
        let checks = outcome.exchange.checks();
        assert_eq!(checks.len(), 4, "each alternative's, and the group's");
        let last = checks.last().unwrap();
        assert_eq!((last.filter, last.reason, last.finding.expected.as_str()), ("any_of", reason, "any of (a, b, c)"));
    }
}

#[tokio::test]
async fn what_could_not_have_passed_costs_an_allowed_request_nothing() {
    let outcome = run(any(vec![reads("a"), reads("b"), reads("c")]), &[("x-c", "good")]).await;
    assert_eq!(outcome.passed_as(), Some("c"));
    assert!(outcome.exchange.checks().is_empty());
}

#[tokio::test]
async fn a_member_that_fails_closes_the_door_whatever_else_would_open_it() {
    for how in ["panic", "fault"] {
        for group in [any(vec![reads("a"), reads("b")]), any(vec![waits("a"), reads("b")])] {
            let outcome = run(group, &[("x-a", how), ("x-b", "good")]).await;
            assert!(matches!(outcome.ending, Some(Ending::Fault(_))), "{how}");
        }
    }
}

#[test]
fn a_group_sums_up_its_members() {
    let group = any(vec![all(vec![reads("a"), reads("b")]), reads("c")]);
    let needs = group.filter.needs();
    assert_eq!(needs.summary.as_deref(), Some("any of (all of (a, b), c)"));
    assert!(needs.authenticates && needs.combines);
}

#[tokio::test]
async fn checks_say_which_member_made_them_also_when_it_waits_and_of_the_group_which_group() {
    for make in [reads as fn(&'static str) -> Member, waits] {
        let outcome = run(any(vec![all(vec![make("a"), make("b")]), make("c")]), &[("x-a", "good"), ("x-b", "bad")]).await;
        let names: Vec<_> = outcome.exchange.checks().iter().map(portcullis_plugin::Check::name).collect();
        assert_eq!(names, ["at/b/b credential", "at/c/c credential", "any_of alternatives"]);
    }
}
