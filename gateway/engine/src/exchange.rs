//! What happens to a request: one piece of code that knows neither Pingora nor sockets.
//!
//! A driver reads a head, hands it to [`Run`], does what it is told (send a reply, or send the request to a pool), shows
//! it the response, and says when it is over. `portcullis explain` does the same with no network at all.

use crate::access_log::{FinalVerdict, Record, RecordTls};
use crate::causes;
use crate::chain::{Chain, Ending, Step, Waiting};
use crate::config::snapshot::{Action, ListenerPlan, Snapshot};
use crate::decisions::would_refuse;
use crate::forwarded_cert::client_certificate;
use crate::normalise::Framing;
use crate::pool::{BackendId, Pool, Selected};
use crate::rescue::{self, Cause};
use crate::route::Lookup;
use bytes::Bytes;
use portcullis_plugin::{
    CertificateStatus, Connection, Denial, Exchange, Finding, ReasonCode, Reply, RequestHead, ResponseHead, reason,
};
use smallvec::SmallVec;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// What a driver has to do next.
pub enum Next {
    /// Send the request to a backend of this pool.
    Forward(Arc<Pool>),
    /// Answer the client. The response filters have not run yet: see [`Run::reply`].
    Reply(Reply),
}

/// The way of one request through the gateway. Dropped unfinished, it is logged as broken off.
pub struct Run {
    snapshot: Arc<Snapshot>,
    plan: Arc<ListenerPlan>,
    request: RequestHead,
    framing: Framing,
    exchange: Exchange,
    /// Of the connection's own handshake. That of the exchange is the client's, which a trusted proxy may have handed on.
    handshake: CertificateStatus,
    /// Index into the listener's routes.
    route: Option<usize>,
    /// How many filters' request stages ran, so that exactly their response stages do.
    ran_listener: usize,
    ran_route: usize,
    outcome: FinalVerdict,
    reason: Option<ReasonCode>,
    started: Instant,
    upstream: Upstream,
    traffic: Traffic,
    finished: bool,
    ended: Option<Instant>,
}

/// What became of the way to the backends.
#[derive(Default)]
pub struct Upstream {
    pub pool: Option<Arc<Pool>>,
    pub backend: Option<Arc<str>>,
    /// Rarely more than two.
    pub tried: SmallVec<[BackendId; 4]>,
    pub attempts: u32,
    /// From the choice of the backend to the head of its response.
    pub duration: Option<Duration>,
    /// What went wrong with the last backend, for whoever asks why. No value of a field is in it.
    pub trouble: Option<String>,
}

/// Body bytes.
#[derive(Default, Clone, Copy)]
pub struct Traffic {
    pub bytes_in: u64,
    pub bytes_out: u64,
}

impl Run {
    /// `handshake` is the certificate of the connection. `now` is the one reading of the clock that all checks of this request use.
    pub fn new(
        snapshot: Arc<Snapshot>,
        plan: Arc<ListenerPlan>,
        connection: Arc<Connection>,
        handshake: CertificateStatus,
        request: RequestHead,
        framing: Framing,
        now: SystemTime,
    ) -> Self {
        let proxies = &snapshot.trusted_proxies;
        let client = proxies.client(&connection, request.headers());
        let (certificate, origin) = client_certificate(&plan, proxies, &connection, request.headers(), &handshake, now);
        let mut exchange = Exchange::new(connection, client, certificate, now);
        exchange.driver_set_certificate_origin(origin);
        Self {
            exchange,
            handshake,
            snapshot,
            plan,
            request,
            framing,
            route: None,
            ran_listener: 0,
            ran_route: 0,
            outcome: FinalVerdict::Allow,
            reason: None,
            started: Instant::now(),
            upstream: Upstream::default(),
            traffic: Traffic::default(),
            finished: false,
            ended: None,
        }
    }

    /// When the response had ended.
    pub fn ended(&self) -> Option<Instant> {
        self.ended
    }

    pub fn request(&self) -> &RequestHead {
        &self.request
    }

    pub fn framing(&self) -> &Framing {
        &self.framing
    }

    pub fn exchange(&self) -> &Exchange {
        &self.exchange
    }

    pub fn exchange_mut(&mut self) -> &mut Exchange {
        &mut self.exchange
    }

    pub fn plan(&self) -> &Arc<ListenerPlan> {
        &self.plan
    }

    pub fn reason(&self) -> Option<ReasonCode> {
        self.reason
    }

    pub fn outcome(&self) -> FinalVerdict {
        self.outcome
    }

    pub fn upstream(&self) -> &Upstream {
        &self.upstream
    }

    pub fn upstream_mut(&mut self) -> &mut Upstream {
        &mut self.upstream
    }

    pub fn traffic(&self) -> Traffic {
        self.traffic
    }

    pub fn traffic_mut(&mut self) -> &mut Traffic {
        &mut self.traffic
    }

    /// For `explain`: every check is kept, and nothing is counted or logged.
    pub fn rehearse(&mut self) {
        self.exchange.driver_explain();
        self.finished = true;
    }

    /// Whether a filter changes bodies, so that their length is not known beforehand.
    pub fn rewrites_request_body(&self) -> bool {
        self.plan.chain.rewrites_request_body() || self.route_chain().is_some_and(Chain::rewrites_request_body)
    }

    /// Whether a filter looks at a body, of either way.
    pub fn looks_at_bodies(&self) -> bool {
        let looks = |chain: &Chain| {
            chain.reads_request_body()
                || chain.rewrites_request_body()
                || chain.reads_response_body()
                || chain.rewrites_response_body()
        };
        looks(&self.plan.chain) || self.route_chain().is_some_and(looks)
    }

    pub fn reads_request_body(&self) -> bool {
        self.plan.chain.reads_request_body() || self.route_chain().is_some_and(Chain::reads_request_body)
    }

    pub fn rewrites_response_body(&self) -> bool {
        self.plan.chain.rewrites_response_body() || self.route_chain().is_some_and(Chain::rewrites_response_body)
    }

    fn route_chain(&self) -> Option<&Chain> {
        self.route.map(|at| &self.plan.routes[at].route.chain)
    }

    /// Judges the request: the listener's filters, the route, the route's filters.
    pub async fn judge(&mut self) -> Next {
        // Before anything else looks: what only the gateway may say is not the client's to say.
        self.snapshot.owned.strip(self.request.headers_mut());
        if let Some(error) = self.snapshot.audit.unavailable() {
            return Next::Reply(self.cannot_record(error));
        }
        if self.plan.is_misdirected(&self.request, self.exchange.connection()) {
            return Next::Reply(self.fail(Cause::Misdirected));
        }
        if let Some(reason) = self.lacks_certificate() {
            return Next::Reply(self.fail(Cause::Refused { status: 403, reason }));
        }
        let plan = Arc::clone(&self.plan);
        let step = plan.chain.request(&mut self.request, &mut self.exchange);
        if let Some((at, ending)) = self.follow(&plan.chain, step).await {
            self.ran_listener = at + 1;
            return Next::Reply(self.end(plan.chain.entries()[at].name, ending));
        }
        self.ran_listener = plan.chain.len();

        let (at, only_filters) = match plan.router.find(&self.request) {
            Lookup::Found(at) => (at, None),
            Lookup::Preflight { route, allow } => (route, Some(allow)),
            Lookup::MethodNotAllowed { allow } => return Next::Reply(self.fail(Cause::MethodNotAllowed { allow })),
            Lookup::None => return Next::Reply(self.fail(Cause::NoRoute)),
        };
        self.route = Some(at);
        let route = Arc::clone(&plan.routes[at].route);
        self.exchange.driver_set_route(Arc::clone(&route.name));
        // After routing, so that a route may match on them; before the route's filters, so that theirs are the last word.
        let (connection, id) = (Arc::clone(self.exchange.connection()), self.exchange.decision_id());
        self.snapshot.trusted_proxies.rewrite(&mut self.request, &connection, id);

        let step = route.chain.request(&mut self.request, &mut self.exchange);
        if let Some((at, ending)) = self.follow(&route.chain, step).await {
            self.ran_route = at + 1;
            return Next::Reply(self.end(route.chain.entries()[at].name, ending));
        }
        self.ran_route = route.chain.len();
        if let Some(allow) = only_filters {
            // The route took it for its filters to answer; `OPTIONS` itself is not one of its methods.
            return Next::Reply(self.fail(Cause::MethodNotAllowed { allow }));
        }
        match &route.action {
            Action::Pool(pool) => self.forward(Arc::clone(pool)),
            Action::Split(split) => self.forward(Arc::clone(split.choose())),
            Action::Respond(reply) => Next::Reply(reply.clone()),
            Action::Redirect(redirect) => Next::Reply(redirect.reply(&self.request)),
        }
    }

    /// Nothing is decided that could not be recorded.
    fn cannot_record(&mut self, error: String) -> Reply {
        self.exchange.driver_enter("audit_log");
        self.exchange.check("writable", reason::AUDIT_UNAVAILABLE, false, || {
            Finding::new("an audit log that can be written", error)
                .hint("it goes on by itself once it can; `audit_log.on_failure: drop` serves meanwhile, and counts what is lost")
        });
        self.fail(Cause::AuditUnavailable)
    }

    /// Why the client certificate does not do on a listener that requires one. The handshake has seen to it, but since then
    /// the certificate may have ended, a revocation list have come, or the listener have begun to require one.
    fn lacks_certificate(&mut self) -> Option<ReasonCode> {
        if !self.plan.settings.tls.as_ref().is_some_and(|tls| tls.requires_client_certificate()) {
            return None;
        }
        self.exchange.driver_enter("client_auth");
        let (reason, finding) = match &self.handshake {
            CertificateStatus::Verified(_) => return None,
            CertificateStatus::Missing => (reason::CERT_MISSING, Finding::new("a client certificate", "none")),
            CertificateStatus::Refused(refusal) => {
                let finding = Finding::new(refusal.expected.as_str(), refusal.observed.as_str());
                (refusal.reason, Finding { hint: refusal.hint.clone(), ..finding })
            }
        };
        self.exchange.check("certificate", reason, false, || finding);
        Some(reason)
    }

    fn forward(&mut self, pool: Arc<Pool>) -> Next {
        self.upstream.pool = Some(Arc::clone(&pool));
        Next::Forward(pool)
    }

    async fn follow(&mut self, chain: &Chain, mut step: Step) -> Option<(usize, Ending)> {
        loop {
            step = match step {
                Step::Passed => return None,
                Step::Ended(at, ending) => return Some((at, ending)),
                Step::Waiting(waiting) => self.wait(chain, waiting).await,
            };
        }
    }

    async fn wait(&mut self, chain: &Chain, waiting: Waiting) -> Step {
        chain.resume(waiting, &mut self.request, &mut self.exchange).await
    }

    /// Turns a filter's ending into the reply, and remembers why.
    fn end(&mut self, filter: &'static str, ending: Ending) -> Reply {
        match ending {
            Ending::Respond(reply) => reply,
            Ending::Deny(denial) => self.deny(&denial),
            Ending::Fault(error) => {
                tracing::error!(decision_id = %self.exchange.decision_id(), filter, %error, "a filter failed; the request was refused");
                self.exchange.driver_enter(filter);
                // The error itself may hold anything.
                self.exchange.check("verdict", reason::FILTER_FAULT, false, || {
                    Finding::new("a verdict of the filter", "it failed or panicked")
                        .hint("the gateway's own log has the error under this decision id")
                });
                self.fail(Cause::FilterFault)
            }
        }
    }

    fn deny(&mut self, denial: &Denial) -> Reply {
        self.outcome = if denial.status_code() >= 500 { FinalVerdict::Error } else { FinalVerdict::Deny };
        self.reason = Some(denial.reason());
        rescue::reply_for_denial(denial, self.exchange.decision_id())
    }

    /// A refusal or fault of the gateway's own.
    pub fn fail(&mut self, cause: Cause) -> Reply {
        self.outcome = cause.verdict();
        self.reason = Some(cause.reason());
        let facts = causes::Facts {
            plan: &self.plan,
            request: &self.request,
            exchange: &self.exchange,
            upstream: &self.upstream,
            traffic: self.traffic,
        };
        if let Some((by, check, finding)) = causes::finding(&cause, &facts) {
            self.exchange.driver_enter(by);
            self.exchange.check(check, cause.reason(), false, || finding);
        }
        cause.reply(self.exchange.decision_id())
    }

    /// Chooses a backend that was not tried yet. `failed` is how the last one ended. `Err`: the reply for when there is none.
    ///
    /// # Errors
    /// If the pool has no healthy backend left.
    pub fn select(&mut self, pool: &Arc<Pool>, failed: Option<Cause>) -> Result<Selected, Reply> {
        match pool.select(&self.request, &self.exchange, &self.upstream.tried) {
            Some(selected) => {
                self.upstream.attempts += 1;
                self.upstream.tried.push(selected.id());
                self.upstream.backend = Some(selected.shared_label());
                self.upstream.trouble = None;
                Ok(selected)
            }
            // What went wrong with those that were tried is the cause then, not the health of others.
            None => Err(self.fail(failed.unwrap_or(Cause::NoHealthyBackend))),
        }
    }

    /// Runs the response filters over an upstream's response. `Some`: the response is replaced by this reply.
    pub fn response(&mut self, response: &mut ResponseHead) -> Option<Reply> {
        // An upstream cannot speak for the gateway.
        response.headers_mut().driver_remove("x-decision-id");
        let replaced = self.response_stages(response);
        self.stamp(response);
        replaced
    }

    /// Runs the response filters over a reply of the gateway's own, and gives what is to be sent.
    pub fn reply(&mut self, reply: Reply) -> (ResponseHead, Bytes) {
        let mut body = reply.body;
        let mut head = ResponseHead::new(reply.status, reply.headers);
        // Each replacement is shown to the filters that come before the one that made it; the list only gets shorter.
        while let Some(replacement) = self.response_stages(&mut head) {
            head = ResponseHead::new(replacement.status, replacement.headers);
            body = replacement.body;
        }
        self.stamp(&mut head);
        (head, body)
    }

    fn response_stages(&mut self, response: &mut ResponseHead) -> Option<Reply> {
        let plan = Arc::clone(&self.plan);
        if let Some(at) = self.route {
            let chain = &plan.routes[at].route.chain;
            let ran = std::mem::take(&mut self.ran_route);
            if let Some((at, ending)) = chain.response(ran, response, &mut self.exchange) {
                self.ran_route = at;
                return Some(self.end(chain.entries()[at].name, ending));
            }
        }
        let ran = std::mem::take(&mut self.ran_listener);
        let (at, ending) = plan.chain.response(ran, response, &mut self.exchange)?;
        self.ran_listener = at;
        Some(self.end(plan.chain.entries()[at].name, ending))
    }

    fn stamp(&self, response: &mut ResponseHead) {
        // Fits: a full head loses nothing but this convenience.
        let _ = response.headers_mut().driver_put("x-decision-id", self.exchange.decision_id().as_bytes());
    }

    /// Counts so many bytes of the request body, which no filter looks at.
    ///
    /// # Errors
    /// The reply, if the body is too large.
    pub fn count_request_body(&mut self, bytes: u64) -> Result<(), Reply> {
        self.traffic.bytes_in += bytes;
        // What goes through a tunnel is no request body.
        if !self.framing.upgrade && self.plan.body_limit.is_some_and(|limit| self.traffic.bytes_in > limit) {
            return Err(self.fail(Cause::BodyTooLarge));
        }
        Ok(())
    }

    /// Counts a piece of the request body, and shows it to the filters that asked for it.
    ///
    /// # Errors
    /// The reply, if the body is too large or a filter refuses it.
    pub fn request_body(&mut self, data: &mut Option<Bytes>, last: bool) -> Result<(), Reply> {
        self.count_request_body(data.as_ref().map_or(0, |data| data.len() as u64))?;
        let plan = Arc::clone(&self.plan);
        if plan.chain.reads_request_body()
            && let Some((at, ending)) = plan.chain.request_body(plan.chain.len(), data, last, &mut self.exchange)
        {
            return Err(self.end(plan.chain.entries()[at].name, ending));
        }
        let Some(at) = self.route else { return Ok(()) };
        let chain = &plan.routes[at].route.chain;
        if chain.reads_request_body()
            && let Some((at, ending)) = chain.request_body(chain.len(), data, last, &mut self.exchange)
        {
            return Err(self.end(chain.entries()[at].name, ending));
        }
        Ok(())
    }

    /// Counts a piece of the response body, and shows it to the filters that asked for it.
    ///
    /// # Errors
    /// If a filter refuses it. The head is already sent: the response is to be broken off.
    pub fn response_body(&mut self, data: &mut Option<Bytes>, last: bool) -> Result<(), ReasonCode> {
        let plan = Arc::clone(&self.plan);
        let mut ended = None;
        if let Some(at) = self.route
            && plan.routes[at].route.chain.reads_response_body()
        {
            let chain = &plan.routes[at].route.chain;
            ended = chain
                .response_body(chain.len(), data, last, &mut self.exchange)
                .map(|(at, ending)| (chain.entries()[at].name, ending));
        }
        if ended.is_none() && plan.chain.reads_response_body() {
            let chain = &plan.chain;
            ended = chain
                .response_body(chain.len(), data, last, &mut self.exchange)
                .map(|(at, ending)| (chain.entries()[at].name, ending));
        }
        self.traffic.bytes_out += data.as_ref().map_or(0, |data| data.len() as u64);
        match ended {
            None => Ok(()),
            Some((filter, ending)) => {
                self.end(filter, ending);
                Err(self.reason.unwrap_or(reason::FILTER_FAULT))
            }
        }
    }

    /// The response ended with `status` (0: none was sent).
    pub fn finish(&mut self, status: u16) {
        if std::mem::replace(&mut self.finished, true) {
            return;
        }
        let plan = Arc::clone(&self.plan);
        if let Some(at) = self.route {
            plan.routes[at].route.chain.done(plan.routes[at].route.chain.len(), &self.exchange);
        }
        plan.chain.done(plan.chain.len(), &self.exchange);
        let ended = Instant::now();
        self.ended = Some(ended);
        let elapsed = ended - self.started;
        let metrics = self.route.map_or(&plan.unrouted, |at| &plan.routes[at].metrics);
        metrics.finished(status, elapsed);
        if let (Some(pool), Some(duration)) = (&self.upstream.pool, self.upstream.duration) {
            pool.metrics().upstream_duration.observe(duration.as_secs_f64());
        }
        // A client that goes away was not refused, and there is no check to show for it.
        let keep = self.outcome != FinalVerdict::Allow && self.reason != Some(reason::CLIENT_GONE);
        let audit = self.snapshot.audit.wants(keep);
        let shadowed = self.outcome == FinalVerdict::Allow && would_refuse(self.exchange.shadowed());
        if keep || shadowed || audit || self.snapshot.access_log.is_on() {
            self.tell(status, elapsed, keep || shadowed, audit);
        }
    }

    /// Logs the request, keeps the decision if it is one to ask about, and records it if it is one to account for.
    fn tell(&self, status: u16, elapsed: Duration, keep: bool, audit: bool) {
        let connection = self.exchange.connection();
        let certificate = self.handshake.verified();
        let id = self.exchange.decision_id();
        let record = Record {
            time: self.exchange.now(),
            decision_id: id.as_str(),
            listener: &connection.listener,
            client: self.exchange.client(),
            peer: connection.peer,
            tls: connection.tls.as_ref().map(|tls| RecordTls {
                version: tls.version,
                cipher: tls.cipher,
                sni: tls.sni.as_deref(),
                client_cert_sha256: certificate.map(|facts| facts.sha256.as_str()),
            }),
            method: Some(self.request.method().as_str().as_bytes()),
            host: Some(self.request.authority().as_bytes()),
            path: Some(self.request.path().as_bytes()),
            query: self.request.query().map(str::as_bytes),
            protocol: Some(self.request.version().as_str()),
            status,
            route: self.exchange.route().map(|route| &**route),
            verdict: self.outcome,
            reason: self.reason,
            principal: self.exchange.principal().map(|principal| &**principal),
            pool: self.upstream.pool.as_ref().map(|pool| &**pool.name()),
            backend: self.upstream.backend.as_deref(),
            attempts: self.upstream.attempts,
            duration: elapsed,
            upstream: self.upstream.duration,
            bytes_in: self.traffic.bytes_in,
            bytes_out: self.traffic.bytes_out,
            shadow: self.exchange.shadowed(),
        };
        // First, so that whoever reads the line can ask.
        if keep {
            self.snapshot.decisions.record(id, &record, self.exchange.checks());
        }
        if audit {
            self.snapshot.audit.decision(&record, self.exchange.checks());
        }
        self.snapshot.access_log.log(&record);
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if !self.finished {
            // Cancelled, or a panic on the way: the client got no whole response.
            if self.reason.is_none() {
                self.reason = Some(if std::thread::panicking() { reason::GATEWAY_FAULT } else { reason::CLIENT_GONE });
                self.outcome = FinalVerdict::Error;
            }
            self.finish(0);
        }
    }
}
