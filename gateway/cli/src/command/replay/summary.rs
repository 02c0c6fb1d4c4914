//! What a replay comes to, for people and as JSON.

use super::line::{Decision, Line};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;

/// What became of one request.
pub enum Outcome {
    /// It is decided as it was; these filters were taken to decide as they did.
    Same {
        assumed: Vec<&'static str>,
    },
    Changed {
        then: Decision,
        now: Decision,
        assumed: Vec<&'static str>,
    },
    CannotTell(String),
}

/// One request to look at.
struct Example {
    line: u64,
    decision_id: String,
    request: String,
}

#[derive(Default)]
struct Group {
    count: u64,
    examples: Vec<Example>,
}

/// At most so many unreadable lines are named.
const MAX_UNREADABLE: usize = 20;

pub struct Summary {
    examples: usize,
    same: u64,
    assumed: u64,
    /// Filter to requests.
    assumptions: BTreeMap<&'static str, u64>,
    changes: BTreeMap<(Decision, Decision), Group>,
    cannot_tell: BTreeMap<String, Group>,
    unreadable: u64,
    named: Vec<(u64, String)>,
}

impl Summary {
    /// With so many examples for each kind of change.
    pub fn new(examples: usize) -> Self {
        Self {
            examples,
            same: 0,
            assumed: 0,
            assumptions: BTreeMap::new(),
            changes: BTreeMap::new(),
            cannot_tell: BTreeMap::new(),
            unreadable: 0,
            named: Vec::new(),
        }
    }

    pub fn add(&mut self, number: u64, line: &Line, outcome: Outcome) {
        let assumed = match &outcome {
            Outcome::Same { assumed } | Outcome::Changed { assumed, .. } => assumed.as_slice(),
            Outcome::CannotTell(_) => &[],
        };
        for filter in assumed {
            *self.assumptions.entry(filter).or_default() += 1;
        }
        let group = match outcome {
            Outcome::Same { assumed } if assumed.is_empty() => {
                self.same += 1;
                return;
            }
            Outcome::Same { .. } => {
                self.assumed += 1;
                return;
            }
            Outcome::Changed { then, now, .. } => self.changes.entry((then, now)).or_default(),
            Outcome::CannotTell(cause) => self.cannot_tell.entry(cause).or_default(),
        };
        group.count += 1;
        if group.examples.len() < self.examples {
            let text = |part: &Option<String>| part.clone().unwrap_or_else(|| "-".to_owned());
            let request = format!("{} {}{} from {}", text(&line.method), text(&line.host), text(&line.path), line.client);
            group.examples.push(Example { line: number, decision_id: line.decision_id.clone(), request });
        }
    }

    pub fn unreadable(&mut self, number: u64, error: &serde_json::Error) {
        self.unreadable += 1;
        if self.named.len() < MAX_UNREADABLE {
            // The category only: the message could quote the line.
            let what = if error.is_data() { "not a line of the access log" } else { "not whole JSON" };
            self.named.push((number, what.to_owned()));
        }
    }

    /// Whether a request is decided otherwise, or a line could not be read.
    pub fn has_findings(&self) -> bool {
        !self.changes.is_empty() || self.unreadable > 0
    }

    fn changed(&self) -> u64 {
        self.changes.values().map(|group| group.count).sum()
    }

    fn unknown(&self) -> u64 {
        self.cannot_tell.values().map(|group| group.count).sum()
    }

    fn requests(&self) -> u64 {
        self.same + self.assumed + self.changed() + self.unknown()
    }

    pub fn to_json(&self) -> Value {
        let decision = |decision: &Decision| {
            let verdict = if decision.allowed { "allow" } else { "deny" };
            json!({ "verdict": verdict, "reason": decision.reason, "route": decision.route, "pool": decision.pool, "status": decision.status })
        };
        let examples = |group: &Group| -> Vec<Value> {
            let one = |example: &Example| json!({ "line": example.line, "decision_id": example.decision_id, "request": example.request });
            group.examples.iter().map(one).collect()
        };
        let changes = self.changes.iter().map(|((then, now), group)| {
            json!({ "then": decision(then), "now": decision(now), "count": group.count, "examples": examples(group) })
        });
        let cannot_tell = self
            .cannot_tell
            .iter()
            .map(|(cause, group)| json!({ "cause": cause, "count": group.count, "examples": examples(group) }));
        let named = self.named.iter().map(|(line, what)| json!({ "line": line, "error": what }));
        json!({
            "ok": !self.has_findings(),
            "requests": self.requests(),
            "same": self.same,
            "same_if_assumed": self.assumed,
            "changed": self.changed(),
            "unknown": self.unknown(),
            "unreadable": self.unreadable,
            "assumptions": self.assumptions,
            "changes": changes.collect::<Vec<_>>(),
            "cannot_tell": cannot_tell.collect::<Vec<_>>(),
            "unreadable_lines": named.collect::<Vec<_>>(),
        })
    }

    pub fn render(&self, name: &str) -> String {
        let mut out = format!("{name}: {}\n", times(self.requests()));
        let mut count = |number: u64, what: &str| {
            let _ = writeln!(out, "  {number:>8}  {what}");
        };
        count(self.same, "decided as before");
        if self.assumed > 0 {
            let filters: Vec<_> = self.assumptions.keys().map(|filter| format!("`{filter}`")).collect();
            count(self.assumed, &format!("decided as before, if {} would decide as then", filters.join(", ")));
        }
        count(self.changed(), "decided otherwise");
        if self.unknown() > 0 {
            count(self.unknown(), "cannot tell");
        }
        if self.unreadable > 0 {
            count(self.unreadable, if self.unreadable == 1 { "line that cannot be read" } else { "lines that cannot be read" });
        }
        for ((then, now), group) in &self.changes {
            let _ = write!(out, "\notherwise, {}:\n  then  {then}\n  now   {now}\n", times(group.count));
            show(&mut out, group);
        }
        for (cause, group) in &self.cannot_tell {
            let _ = write!(out, "\ncannot tell, {}: {cause}\n", times(group.count));
            show(&mut out, group);
        }
        for (line, what) in &self.named {
            let _ = write!(out, "\nline {line}: {what}");
        }
        if !self.named.is_empty() {
            out.push('\n');
        }
        out
    }
}

fn times(count: u64) -> String {
    if count == 1 { "1 request".to_owned() } else { format!("{count} requests") }
}

fn show(out: &mut String, group: &Group) {
    for Example { line, decision_id, request } in &group.examples {
        let _ = writeln!(out, "    line {line}  {request}  ({decision_id})");
    }
}
