//! A list of filters, run in order on the request and in reverse on the response.
//!
//! This is the one place where modes are applied and panics are caught, so that no driver and no filter can get
//! either wrong.

use crate::metrics::FilterMetrics;
use bytes::Bytes;
use portcullis_plugin::verdict::{Denial, FilterError, Reply, Resume};
use portcullis_plugin::{Body, BodyAccess, Exchange, Filter, Mode, RequestHead, ResponseHead, Shadowed, Verdict, reason};
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;

/// One filter in its place.
pub struct Entry {
    pub name: &'static str,
    pub mode: Mode,
    pub filter: Arc<dyn Filter>,
    pub metrics: Arc<FilterMetrics>,
    request_body: BodyAccess,
    response_body: BodyAccess,
}

impl Entry {
    pub fn new(name: &'static str, mode: Mode, filter: Arc<dyn Filter>, metrics: Arc<FilterMetrics>) -> Self {
        let needs = filter.needs();
        Self { name, mode, filter, metrics, request_body: needs.request_body, response_body: needs.response_body }
    }

    fn counts(&self) -> bool {
        self.mode == Mode::Enforce
    }

    /// The checks that follow are this filter's.
    fn enter(&self, exchange: &mut Exchange) {
        exchange.driver_enter(self.name);
        if !self.counts() {
            exchange.driver_shadowing();
        }
    }

    /// Runs filter code. A panic becomes a fault: the door closes, and the process goes on.
    fn guarded(&self, call: impl FnOnce(&dyn Filter) -> Verdict) -> Verdict {
        match catch_unwind(AssertUnwindSafe(|| call(&*self.filter))) {
            Ok(verdict) => verdict,
            Err(panic) => {
                self.metrics.panicked();
                let text = panic
                    .downcast_ref::<&str>()
                    .map(|text| (*text).to_owned())
                    .or_else(|| panic.downcast_ref::<String>().cloned());
                Verdict::Fault(FilterError::new(format!("panicked: {}", text.as_deref().unwrap_or("no message"))))
            }
        }
    }
}

/// Where a chain ended, if not at its end.
#[derive(Debug)]
pub enum Ending {
    Respond(Reply),
    Deny(Denial),
    Fault(FilterError),
}

/// What a stretch of the request stage came to.
pub enum Step {
    /// All filters passed.
    Passed,
    /// The filter at this position ended it.
    Ended(usize, Ending),
    /// The filter at this position needs I/O. Continue with [`Chain::resume`].
    Waiting(Waiting),
}

/// A filter that waits, and what shadow mode has to put back afterwards.
pub struct Waiting {
    at: usize,
    future: Pin<Box<dyn Future<Output = Resume> + Send>>,
    before: Option<Before>,
}

/// The request and the principal as they were before a shadowed filter saw them.
struct Before {
    request: RequestHead,
    principal: Option<Arc<portcullis_plugin::Principal>>,
}

/// How often one filter may wait in one request; more is a loop. A group waits as often as its members do.
const MAX_WAITS: usize = 64;

#[derive(Default)]
pub struct Chain {
    entries: Vec<Entry>,
    reads_request_body: bool,
    reads_response_body: bool,
    rewrites_request_body: bool,
    rewrites_response_body: bool,
}

impl Chain {
    /// Filters that are off are left out.
    pub fn new(entries: Vec<Entry>) -> Self {
        let entries: Vec<Entry> = entries.into_iter().filter(|entry| entry.mode != Mode::Off).collect();
        let any = |access: fn(&Entry) -> BodyAccess, least: BodyAccess| entries.iter().any(|entry| access(entry) >= least);
        Self {
            reads_request_body: any(|entry| entry.request_body, BodyAccess::Read),
            reads_response_body: any(|entry| entry.response_body, BodyAccess::Read),
            // A shadowed filter changes nothing, so it cannot rewrite.
            rewrites_request_body: entries.iter().any(|entry| entry.counts() && entry.request_body == BodyAccess::Rewrite),
            rewrites_response_body: entries.iter().any(|entry| entry.counts() && entry.response_body == BodyAccess::Rewrite),
            entries,
        }
    }

    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn reads_request_body(&self) -> bool {
        self.reads_request_body
    }

    pub fn reads_response_body(&self) -> bool {
        self.reads_response_body
    }

    /// Whether a filter that counts answers CORS preflights.
    pub fn answers_preflights(&self) -> bool {
        self.entries.iter().any(|entry| entry.counts() && entry.filter.needs().answers_preflights)
    }

    pub fn rewrites_request_body(&self) -> bool {
        self.rewrites_request_body
    }

    pub fn rewrites_response_body(&self) -> bool {
        self.rewrites_response_body
    }

    /// Runs the request stage, to its end or to the first filter that ends or delays it.
    pub fn request(&self, request: &mut RequestHead, exchange: &mut Exchange) -> Step {
        self.request_from(0, request, exchange)
    }

    fn request_from(&self, start: usize, request: &mut RequestHead, exchange: &mut Exchange) -> Step {
        for at in start..self.entries.len() {
            let entry = &self.entries[at];
            let before = (!entry.counts()).then(|| Before { request: request.clone(), principal: exchange.principal().cloned() });
            entry.enter(exchange);
            let verdict = entry.guarded(|filter| filter.request(request, exchange));
            match self.settle(at, verdict, before, request, exchange) {
                Step::Passed => {}
                ended => return ended,
            }
        }
        Step::Passed
    }

    /// Waits for the filter, takes its verdict, and runs the rest of the request stage.
    pub async fn resume(&self, waiting: Waiting, request: &mut RequestHead, exchange: &mut Exchange) -> Step {
        let at = waiting.at;
        let mut next = waiting;
        for _ in 0..MAX_WAITS {
            let Waiting { future, before, .. } = next;
            let entry = &self.entries[at];
            // A panic while polling is caught too: the future is the filter's code.
            let resume = match CatchUnwind(future).await {
                Ok(resume) => resume,
                Err(()) => {
                    entry.metrics.panicked();
                    let fault = Verdict::Fault(FilterError::new("panicked while it waited"));
                    return self.settle(at, fault, before, request, exchange);
                }
            };
            entry.enter(exchange);
            let verdict = entry.guarded(|_| resume(request, exchange));
            match self.settle(at, verdict, before, request, exchange) {
                Step::Passed => return self.request_from(at + 1, request, exchange),
                Step::Waiting(again) => next = again,
                ended @ Step::Ended(..) => return ended,
            }
        }
        self.settle(at, Verdict::Fault(FilterError::new("waited too often")), next.before, request, exchange)
    }

    /// Counts a verdict and applies the filter's mode to it.
    fn settle(
        &self,
        at: usize,
        verdict: Verdict,
        before: Option<Before>,
        request: &mut RequestHead,
        exchange: &mut Exchange,
    ) -> Step {
        let entry = &self.entries[at];
        let ending = match verdict {
            Verdict::Wait(future) => return Step::Waiting(Waiting { at, future, before }),
            Verdict::Continue => {
                entry.metrics.allow();
                None
            }
            Verdict::Respond(reply) => {
                entry.metrics.respond();
                Some(Ending::Respond(reply))
            }
            Verdict::Deny(denial) => {
                entry.metrics.deny(denial.reason());
                Some(Ending::Deny(denial))
            }
            Verdict::Fault(error) => {
                entry.metrics.fault();
                Some(Ending::Fault(error))
            }
        };
        if let Some(before) = before {
            *request = before.request;
            exchange.driver_restore_principal(before.principal);
            if let Some(ending) = &ending {
                shadowed(entry.name, ending, exchange);
            }
            return Step::Passed;
        }
        match ending {
            None => Step::Passed,
            Some(ending) => Step::Ended(at, ending),
        }
    }

    /// Runs the response stage of the first `ran` filters, last first. A refusal replaces the response.
    pub fn response(&self, ran: usize, response: &mut ResponseHead, exchange: &mut Exchange) -> Option<(usize, Ending)> {
        let ran = ran.min(self.entries.len());
        for (at, entry) in self.entries[..ran].iter().enumerate().rev() {
            entry.enter(exchange);
            let before = (!entry.counts()).then(|| response.clone());
            let verdict = entry.guarded(|filter| filter.response(response, exchange));
            let ending = match verdict {
                Verdict::Continue => None,
                Verdict::Respond(reply) => Some(Ending::Respond(reply)),
                Verdict::Deny(denial) => {
                    entry.metrics.deny(denial.reason());
                    Some(Ending::Deny(denial))
                }
                Verdict::Fault(error) => {
                    entry.metrics.fault();
                    Some(Ending::Fault(error))
                }
                Verdict::Wait(_) => Some(Ending::Fault(FilterError::new("only the request stage may wait"))),
            };
            match (before, ending) {
                (Some(before), ending) => {
                    *response = before;
                    if let Some(ending) = &ending {
                        shadowed(entry.name, ending, exchange);
                    }
                }
                (None, Some(ending)) => return Some((at, ending)),
                (None, None) => {}
            }
        }
        None
    }

    /// Shows a piece of the request body to the filters that asked for it.
    pub fn request_body(
        &self,
        ran: usize,
        data: &mut Option<Bytes>,
        last: bool,
        exchange: &mut Exchange,
    ) -> Option<(usize, Ending)> {
        let ran = ran.min(self.entries.len());
        self.bodies(
            0..ran,
            |entry| entry.request_body,
            data,
            last,
            exchange,
            |filter, body, exchange| filter.request_body(body, exchange),
        )
    }

    /// Shows a piece of the response body to the filters that asked for it, last first.
    pub fn response_body(
        &self,
        ran: usize,
        data: &mut Option<Bytes>,
        last: bool,
        exchange: &mut Exchange,
    ) -> Option<(usize, Ending)> {
        let ran = ran.min(self.entries.len());
        self.bodies(
            (0..ran).rev(),
            |entry| entry.response_body,
            data,
            last,
            exchange,
            |filter, body, exchange| filter.response_body(body, exchange),
        )
    }

    fn bodies(
        &self,
        order: impl Iterator<Item = usize>,
        access: impl Fn(&Entry) -> BodyAccess,
        data: &mut Option<Bytes>,
        last: bool,
        exchange: &mut Exchange,
        call: impl Fn(&dyn Filter, &mut Body<'_>, &mut Exchange) -> Verdict,
    ) -> Option<(usize, Ending)> {
        for at in order {
            let entry = &self.entries[at];
            let access = access(entry);
            if access == BodyAccess::None {
                continue;
            }
            entry.enter(exchange);
            // A filter that only reads, or is shadowed, works on a copy of the handle: what it puts there is dropped.
            let mut copy = data.clone();
            let target = if entry.counts() && access == BodyAccess::Rewrite { &mut *data } else { &mut copy };
            let verdict = entry.guarded(|filter| call(filter, &mut Body::new(target, last), exchange));
            let ending = match verdict {
                Verdict::Continue => continue,
                Verdict::Deny(denial) => {
                    entry.metrics.deny(denial.reason());
                    Ending::Deny(denial)
                }
                Verdict::Fault(error) => {
                    entry.metrics.fault();
                    Ending::Fault(error)
                }
                Verdict::Respond(_) | Verdict::Wait(_) => {
                    Ending::Fault(FilterError::new("a body stage continues, denies or fails"))
                }
            };
            if entry.counts() {
                return Some((at, ending));
            }
            shadowed(entry.name, &ending, exchange);
        }
        None
    }

    /// Tells every filter that the request is over. `done` gives no verdict, so a panic is only counted.
    pub fn done(&self, ran: usize, exchange: &Exchange) {
        for entry in &self.entries[..ran.min(self.entries.len())] {
            if catch_unwind(AssertUnwindSafe(|| entry.filter.done(exchange))).is_err() {
                entry.metrics.panicked();
            }
        }
    }
}

/// What a shadowed filter would have done goes to the access log, and with an error's text to the gateway's own.
fn shadowed(filter: &'static str, ending: &Ending, exchange: &mut Exchange) {
    let (verdict, reason) = match ending {
        Ending::Respond(_) => ("respond", None),
        Ending::Deny(denial) => ("deny", Some(denial.reason())),
        Ending::Fault(_) => ("fault", Some(reason::FILTER_FAULT)),
    };
    exchange.driver_shadow(Shadowed { filter, verdict, reason });
    let what = match ending {
        Ending::Respond(reply) => format!("would answer {}", reply.status),
        Ending::Deny(denial) => format!("would deny: {}", denial.reason()),
        Ending::Fault(error) => format!("would fail: {error}"),
    };
    tracing::info!(decision_id = %exchange.decision_id(), route = exchange.route().map_or("", |route| route), filter, "shadow: {what}");
}

/// Polls a filter's future and turns a panic into an error.
struct CatchUnwind(Pin<Box<dyn Future<Output = Resume> + Send>>);

impl Future for CatchUnwind {
    type Output = Result<Resume, ()>;

    fn poll(mut self: Pin<&mut Self>, context: &mut std::task::Context<'_>) -> std::task::Poll<Self::Output> {
        match catch_unwind(AssertUnwindSafe(|| self.0.as_mut().poll(context))) {
            Ok(poll) => poll.map(Ok),
            Err(_) => std::task::Poll::Ready(Err(())),
        }
    }
}
