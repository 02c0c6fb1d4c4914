use super::*;
use portcullis_plugin::{Finding, reason};

fn record<'a>(id: &'a str, verdict: FinalVerdict) -> Record<'a> {
    let peer = "192.0.2.7:1234".parse().unwrap();
    Record { verdict, status: 401, reason: Some(reason::TOKEN_EXPIRED), ..Record::new(SystemTime::UNIX_EPOCH, id, "https", peer) }
}

fn check(name: &'static str, text: &str) -> Check {
    let finding = Finding::new(text, text).hint(text);
    Check::failed("oidc", name, reason::TOKEN_EXPIRED, finding)
}

fn decisions(capacity: usize) -> Arc<Decisions> {
    let decisions = Decisions::off();
    decisions.resize(capacity);
    decisions
}

fn newest(decisions: &Decisions, count: usize) -> Vec<Arc<Decision>> {
    decisions.select(&Selection::parse(&format!("limit={count}"), SystemTime::UNIX_EPOCH).unwrap())
}

fn refuse(decisions: &Decisions) -> DecisionId {
    let id = DecisionId::random();
    decisions.record(id, &record(id.as_str(), FinalVerdict::Deny), &[check("expiry", "x")]);
    id
}

#[test]
fn the_oldest_goes_first() {
    let decisions = decisions(3);
    let ids: Vec<_> = (0..5).map(|_| refuse(&decisions)).collect();
    let kept: Vec<_> = newest(&decisions, 10).iter().map(|decision| decision.decision_id.clone()).collect();
    assert_eq!(kept, [&ids[4], &ids[3], &ids[2]].map(ToString::to_string));
    assert!(decisions.find(ids[1].as_str()).is_none());
    assert_eq!(decisions.find(ids[2].as_str()).unwrap().decision_id, ids[2].as_str());
    assert_eq!(newest(&decisions, 1).len(), 1);
}

#[test]
fn allowed_requests_are_not_kept_and_errors_are() {
    let decisions = decisions(3);
    for (verdict, len) in [(FinalVerdict::Allow, 0), (FinalVerdict::Error, 1), (FinalVerdict::Deny, 2)] {
        let id = DecisionId::random();
        decisions.record(id, &record(id.as_str(), verdict), &[]);
        assert_eq!(newest(&decisions, 9).len(), len);
    }
}

#[test]
fn another_size_keeps_the_newest_and_none_is_off() {
    let decisions = decisions(4);
    let ids: Vec<_> = (0..4).map(|_| refuse(&decisions)).collect();
    decisions.resize(2);
    assert!(decisions.find(ids[1].as_str()).is_none() && decisions.find(ids[2].as_str()).is_some());
    decisions.resize(3);
    refuse(&decisions);
    assert!(decisions.find(ids[2].as_str()).is_some());
    decisions.resize(0);
    refuse(&decisions);
    assert!(newest(&decisions, 9).is_empty());
    decisions.resize(usize::MAX);
    assert_eq!(decisions.capacity(), MAX_KEPT);
}

#[test]
fn whatever_a_client_sends_a_decision_has_a_bounded_size() {
    let decisions = decisions(1);
    let (id, long) = (DecisionId::random(), "ü".repeat(50_000));
    let text = Some(long.as_bytes());
    let checks: Vec<_> = (0..40).map(|_| check("many", &long)).chain([check("last", "short")]).collect();
    let full = Record { method: text, host: text, path: text, query: text, ..record(id.as_str(), FinalVerdict::Deny) };
    decisions.record(id, &full, &checks);
    let kept = decisions.find(id.as_str()).unwrap();
    assert!(serde_json::to_string(&*kept).unwrap().len() < 12 << 10);
    // The one that decided is there, whole, and the others are counted.
    let last = kept.checks.last().unwrap();
    assert_eq!((last.check, last.observed.as_str()), ("last", "short"));
    assert_eq!(kept.checks.len() + kept.checks_left_out, checks.len());
    assert!(kept.host.as_ref().unwrap().len() <= MAX_TEXT && kept.host.as_ref().unwrap().ends_with(CUT));
}

#[test]
fn secrets_in_the_target_are_replaced_and_any_bytes_are_text() {
    let decisions = decisions(1);
    let id = DecisionId::random();
    let target = Record {
        path: Some(b"/a/\xff"),
        query: Some(b"access_token=hunter2hunter2&page=2"),
        ..record(id.as_str(), FinalVerdict::Deny)
    };
    decisions.record(id, &target, &[]);
    let json = serde_json::to_value(&*decisions.find(id.as_str()).unwrap()).unwrap();
    assert!(!json.to_string().contains("hunter2") && json["query"].as_str().unwrap().contains("page=2"), "{json}");
    assert_eq!((&json["path"], &json["time"]), (&"/a/\u{fffd}".into(), &"1970-01-01T00:00:00.000Z".into()));
    assert_eq!((&json["method"], &json["reason"], &json["status"]), (&().into(), &"token.expired".into(), &401.into()));
}

#[test]
fn a_rule_that_is_tried_out_pushes_no_refusal_out() {
    let decisions = decisions(2);
    let refused = refuse(&decisions);
    let shadow = |verdict| [Shadowed { filter: "oidc", verdict, reason: Some(reason::TOKEN_EXPIRED) }];
    let allowed = |verdict| {
        let id = DecisionId::random();
        let shadow = shadow(verdict);
        let record = Record { shadow: &shadow, reason: None, status: 200, ..record(id.as_str(), FinalVerdict::Allow) };
        decisions.record(id, &record, &[check("expiry", "x")]);
        id
    };
    let ids: Vec<_> = (0..5).map(|_| allowed("deny")).collect();
    assert!(decisions.find(refused.as_str()).is_some() && decisions.find(ids[2].as_str()).is_none());
    let kept = decisions.find(ids[4].as_str()).unwrap();
    assert_eq!((kept.verdict, kept.shadow[0].reason, kept.checks.len()), ("allow", Some(reason::TOKEN_EXPIRED), 1));
    // The order is that of their coming, whichever they are.
    let again = refuse(&decisions);
    let listed: Vec<_> = newest(&decisions, 10).iter().map(|decision| decision.decision_id.clone()).collect();
    assert_eq!(listed, [&again, &ids[4], &ids[3], &refused].map(ToString::to_string));
    // One that would have answered itself refuses nobody; one that would have failed does.
    let (answering, failing) = (allowed("respond"), allowed("fault"));
    assert!(decisions.find(answering.as_str()).is_none() && decisions.find(failing.as_str()).is_some());
    decisions.resize(1);
    assert_eq!(newest(&decisions, 10).len(), 2);
}
