//! Each check of what a token says. All are made, in a fixed order, whatever the others find; the first that fails
//! gives the reason.

use crate::binding::Binding;
use crate::config::{IssuerKind, TokenType};
use crate::hints;
use crate::introspection;
use crate::jose::{Header, safe};
use crate::kind::{self, IdTokens, Other};
use crate::mapping::{self, Mapping};
use crate::settings::Settings;
use crate::spoken;
use crate::tenants::Template;
use portcullis_plugin::reason::{self, ReasonCode};
use portcullis_plugin::{Exchange, Finding};
use serde_json::{Map, Value};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

type Claims = Map<String, Value>;

/// The end of the year 9999. Whoever means a later time writes milliseconds.
const LAST_SECOND: f64 = 253_402_300_799.0;

/// The checks of one token, in the order in which they count.
pub(crate) struct Judgement {
    explaining: bool,
    checks: Vec<Judged>,
}

struct Judged {
    check: &'static str,
    reason: ReasonCode,
    ok: bool,
    /// Whether it decides, or is only told: a key that was not asked for cannot be the reason.
    decides: bool,
    finding: Option<Finding>,
}

impl Judgement {
    pub fn new(explaining: bool) -> Self {
        Self { explaining, checks: Vec::new() }
    }

    pub fn check(&mut self, check: &'static str, reason: ReasonCode, ok: bool, finding: impl FnOnce() -> Finding) -> bool {
        self.push(check, reason, ok, true, finding)
    }

    /// Told, but never the reason.
    pub fn note(&mut self, check: &'static str, reason: ReasonCode, finding: impl FnOnce() -> Finding) {
        self.push(check, reason, false, false, finding);
    }

    fn push(
        &mut self,
        check: &'static str,
        reason: ReasonCode,
        ok: bool,
        decides: bool,
        finding: impl FnOnce() -> Finding,
    ) -> bool {
        if !ok || self.explaining {
            self.checks.push(Judged { check, reason, ok, decides, finding: Some(finding()) });
        }
        ok
    }

    pub fn is_explaining(&self) -> bool {
        self.explaining
    }

    pub fn failed(&self) -> bool {
        self.reason().is_some()
    }

    pub fn reason(&self) -> Option<ReasonCode> {
        self.checks.iter().find(|judged| !judged.ok && judged.decides).map(|judged| judged.reason)
    }

    /// Puts `later`'s checks behind these.
    pub fn append(&mut self, later: Self) {
        self.checks.extend(later.checks);
    }

    pub fn record(self, exchange: &mut Exchange) {
        for Judged { check, reason, ok, finding, .. } in self.checks {
            exchange.check(check, reason, ok, || finding.unwrap_or_default());
        }
    }
}

/// What the checks read on their way.
pub(crate) struct Read {
    pub subject: Option<Box<str>>,
    pub audiences: Vec<Box<str>>,
    pub expires_at: Option<SystemTime>,
    pub not_before: Option<SystemTime>,
    pub binding: Option<Binding>,
    /// An ID token, where those are accepted.
    pub is_id: bool,
}

/// The issuer comes first: its keys are looked for among those of the configured issuer only.
pub(crate) fn judge_issuer(claims: &Claims, settings: &Settings, judgement: &mut Judgement) {
    let expected = &*settings.issuer;
    match claims.get("iss") {
        Some(Value::String(observed)) => {
            if let Some(template) = &settings.template {
                return judge_tenant_of_many(claims, observed, template, settings, judgement);
            }
            judgement.check("issuer", reason::TOKEN_ISSUER_MISMATCH, observed == expected, || {
                with_hint(
                    Finding::new(expected, safe(observed)),
                    hints::issuer(expected, observed).filter(|_| observed != expected),
                )
            });
        }
        None => {
            judgement.check("issuer", reason::TOKEN_ISSUER_MISMATCH, false, || Finding::new(expected, "no `iss`"));
        }
        Some(other) => {
            wrong_form(judgement, "issuer", "`iss` as one text", other);
        }
    }
    judge_tenant(claims, settings, judgement);
}

const TWO_TENANTS: &str =
    "the token's `iss` and `tid` name two tenants, and Entra writes one and the same into both: look at who made this token";

/// Entra names the tenant a second time. Where the two differ, the token is of another tenant, whatever `iss` says.
fn judge_tenant(claims: &Claims, settings: &Settings, judgement: &mut Judgement) {
    let Some(tid) = claims.get("tid").filter(|_| settings.kind == IssuerKind::Entra) else { return };
    let Value::String(tid) = tid else { return wrong_form(judgement, "tenant", "`tid` as a text", tid) };
    let ok = settings.issuer.split('/').any(|part| part == tid);
    judgement.check("tenant", reason::TOKEN_ISSUER_MISMATCH, ok, || {
        let finding = Finding::new(format!("a `tid` that is part of {}", settings.issuer), safe(tid));
        let same = claims.get("iss").and_then(Value::as_str).is_some_and(|iss| iss.split('/').any(|part| part == tid));
        match (ok, same) {
            (true, _) => finding,
            (false, true) => {
                finding.hint("a token of another tenant: configure that tenant's own issuer, if its users are meant to come in")
            }
            (false, false) => finding.hint(TWO_TENANTS),
        }
    });
}

/// One of many tenants: `iss` is the template with the tenant that `tid` names, and that tenant is allowed.
fn judge_tenant_of_many(claims: &Claims, iss: &str, template: &Template, settings: &Settings, judgement: &mut Judgement) {
    let tenant = template.tenant_in(iss);
    let named = judgement.check("issuer", reason::TOKEN_ISSUER_MISMATCH, tenant.is_some(), || {
        let finding = Finding::new(&*settings.issuer, safe(iss));
        with_hint(finding, hints::issuer(&settings.issuer, iss).filter(|_| tenant.is_none()))
    });
    let tid = claims.get("tid").and_then(Value::as_str);
    let ok = tid.is_some() && (tid == tenant || !named);
    judgement.check("tenant", reason::TOKEN_ISSUER_MISMATCH, ok, || {
        let finding = Finding::new("a `tid` that is the tenant in `iss`", tid.map_or_else(|| "no `tid`".to_owned(), safe));
        if ok { finding } else { finding.hint(TWO_TENANTS) }
    });
    if let Some(tenant) = tenant {
        judgement.check("tenants", reason::TOKEN_ISSUER_MISMATCH, template.allows(tenant), || {
            let finding = Finding::new("a tenant of the issuer's `tenants`", tenant);
            if template.allows(tenant) { finding } else { finding.hint("add it to `tenants`, if its users are meant to come in") }
        });
    }
}

/// Everything else, in this order: type, audience, expiry, not-before, issued-at, binding, subject.
pub(crate) fn judge(
    claims: &Claims,
    header: &Header,
    (settings, id_tokens): (&Settings, IdTokens),
    clocks: Clocks,
    judgement: &mut Judgement,
) -> Read {
    let is_id = judge_type(claims, header, settings, id_tokens, judgement);
    let required = Required { audience: true, expiry: true };
    Read { is_id, ..judge_rest(claims, settings, &settings.mapping, required, clocks, judgement) }
}

/// As [`judge`], of what an issuer answers about a token (RFC 7662, section 2.2).
pub(crate) fn judge_answer(
    claims: &Claims,
    (settings, id_tokens): (&Settings, IdTokens),
    asked: &introspection::Settings,
    clocks: Clocks,
    judgement: &mut Judgement,
) -> Read {
    // A refresh token is active too.
    let named = claims.get("token_type");
    let bearer = named.is_none_or(|named| {
        // One that must be proved says so itself, and the check of its binding decides.
        let known: &[&str] =
            if claims.contains_key("cnf") { &["bearer", "access_token", "dpop"] } else { &["bearer", "access_token"] };
        named.as_str().is_some_and(|named| known.iter().any(|known| known.eq_ignore_ascii_case(named)))
    });
    judgement.check("type", reason::TOKEN_TYP_REFUSED, bearer, || {
        let observed = named.map_or("none", |named| named.as_str().unwrap_or(form(named)));
        Finding::new("`token_type` Bearer, or none", safe(observed))
    });
    let other = kind::other_than_access_by_answer(claims, settings.kind);
    let is_id = judge_kind(claims, other, settings, id_tokens, judgement);
    // The issuer has compared the expiry with its own clock; where it tells it, it is compared with this one as well.
    let required = Required { audience: asked.require_audience, expiry: false };
    Read { is_id, ..judge_rest(claims, settings, &asked.mapping, required, clocks, judgement) }
}

/// The time, and how far that of the issuer is from it.
#[derive(Clone, Copy)]
pub(crate) struct Clocks {
    pub now: SystemTime,
    /// Seconds by which this machine's clock is ahead of the issuer's, if that is known.
    pub ahead: Option<i64>,
}

/// Smaller differences may come from the way of the answer that told them.
const SAME_TIME: i64 = 5;

impl Clocks {
    /// What `ahead` says about a token that came too late or too early.
    fn hint(self, late: bool) -> Option<String> {
        let ahead = self.ahead?;
        let told = |what| {
            let by = span(ahead.unsigned_abs() as f64);
            Some(format!("this machine's clock is {by} {what} the issuer's, by the `Date` of its last answer: set the clocks"))
        };
        match late {
            true if ahead >= SAME_TIME => told("ahead of"),
            false if ahead <= -SAME_TIME => told("behind"),
            _ => None,
        }
    }
}

/// What must be there; what is there is judged in any case.
#[derive(Clone, Copy)]
struct Required {
    audience: bool,
    expiry: bool,
}

fn judge_rest(
    claims: &Claims,
    settings: &Settings,
    mapping: &Mapping,
    required: Required,
    clocks: Clocks,
    judgement: &mut Judgement,
) -> Read {
    let audiences =
        if required.audience || claims.contains_key("aud") { judge_audience(claims, settings, judgement) } else { Vec::new() };
    let now = clocks.now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let leeway = settings.leeway;
    let must_end = required.expiry || claims.contains_key("exp");
    let expires_at = if must_end { judge_expiry(claims, now, leeway, clocks, judgement) } else { None };
    let not_before = judge_start(claims, ("nbf", "not_before"), now, leeway, clocks, judgement);
    let issued_at = judge_start(claims, ("iat", "issued_at"), now, leeway, clocks, judgement);
    let binding = judge_binding(claims, judgement);
    let subject = judge_subject(claims, mapping, judgement);
    let time = |seconds: Option<f64>| seconds.and_then(|seconds| UNIX_EPOCH.checked_add(Duration::from_secs_f64(seconds)));
    let later = match (not_before, issued_at) {
        (Some(a), Some(b)) => Some(a.max(b)),
        (a, b) => a.or(b),
    };
    Read { subject, audiences, expires_at: time(expires_at), not_before: time(later), binding, is_id: false }
}

/// Only the form: whether the request proves what `cnf` asks for is judged for each request, by who asks for the token.
fn judge_binding(claims: &Claims, judgement: &mut Judgement) -> Option<Binding> {
    match Binding::read(claims.get("cnf")?) {
        Ok(binding) => Some(binding),
        Err(observed) => {
            judgement.check("binding", reason::TOKEN_BINDING_MISMATCH, false, || {
                Finding::new("`cnf` with `jkt` (RFC 9449), `x5t#S256` (RFC 8705) or both, and nothing else", observed)
                    .hint("what is not understood cannot be checked, and without the check the token may be stolen")
            });
            None
        }
    }
}

fn judge_type(claims: &Claims, header: &Header, settings: &Settings, id_tokens: IdTokens, judgement: &mut Judgement) -> bool {
    let typ = header.typ.as_deref().map(TokenType::normalised);
    let seen = typ.as_deref().unwrap_or(TokenType::ABSENT);
    let accepted = settings.token_types.iter().any(|accepted| accepted.0 == seen);
    judgement.check("type", reason::TOKEN_TYP_REFUSED, accepted, || {
        let expected = settings.token_types.iter().map(|typ| typ.0.as_str()).collect::<Vec<_>>().join(", ");
        Finding::new(format!("`typ` one of {expected}"), safe(seen))
    });
    judge_kind(claims, kind::other_than_access(claims, seen, settings.kind), settings, id_tokens, judgement)
}

/// Whether it is an ID token.
fn judge_kind(
    claims: &Claims,
    other: Option<Other>,
    settings: &Settings,
    id_tokens: IdTokens,
    judgement: &mut Judgement,
) -> bool {
    let accepted = match &other {
        None => true,
        Some(Other::Id(_)) => id_tokens.accepted(settings.accept_id_tokens),
        Some(Other::Never(_)) => false,
    };
    judgement.check("kind", reason::TOKEN_TYP_REFUSED, accepted, || match other {
        Some(Other::Id(what)) if accepted => Finding::new("an access token or an ID token", what),
        Some(Other::Id(what)) => Finding::new("an access token", what)
            .hint("send the access token of the same answer of the issuer; or say `accept_id_tokens: true`, of the issuer or on the route"),
        Some(Other::Never(what)) => {
            Finding::new("an access token", what).hint("send the access token of the same answer of the issuer")
        }
        None => Finding::new("an access token", "nothing says otherwise"),
    });
    // OpenID Connect Core, section 3.1.3.7: an ID token for several applications says which of them it was made for.
    if let Some(party) = claims.get("azp").filter(|_| accepted && matches!(other, Some(Other::Id(_)))) {
        let ok = party.as_str().is_some_and(|party| settings.audiences.iter().any(|audience| **audience == *party));
        judgement.check("authorized_party", reason::TOKEN_AUDIENCE_MISMATCH, ok, || {
            let observed = party.as_str().map_or_else(|| form(party).to_owned(), safe);
            Finding::new(format!("`azp` one of {}", settings.audiences.join(" or ")), observed)
        });
    }
    matches!(other, Some(Other::Id(_)))
}

fn judge_audience(claims: &Claims, settings: &Settings, judgement: &mut Judgement) -> Vec<Box<str>> {
    let observed: Vec<&str> = match claims.get("aud") {
        Some(Value::String(one)) => vec![one],
        Some(list @ Value::Array(items)) => match items.iter().map(Value::as_str).collect::<Option<Vec<_>>>() {
            Some(items) => items,
            None => {
                wrong_form(judgement, "audience", "`aud` as a text or a list of texts", list);
                return Vec::new();
            }
        },
        None if settings.kind == IssuerKind::Cognito => claims.get("client_id").and_then(Value::as_str).into_iter().collect(),
        None => Vec::new(),
        Some(other) => {
            wrong_form(judgement, "audience", "`aud` as a text or a list of texts", other);
            return Vec::new();
        }
    };
    let ok = settings.audiences.iter().any(|accepted| observed.contains(&&**accepted));
    judgement.check("audience", reason::TOKEN_AUDIENCE_MISMATCH, ok, || {
        let expected = settings.audiences.join(" or ");
        let seen = if observed.is_empty() { "no audience".to_owned() } else { safe(&observed.join(", ")) };
        // Cognito's access tokens have no `aud`: the client is compared in its place.
        let client = settings.mapping.client_id(claims).filter(|_| settings.kind != IssuerKind::Cognito);
        let hint = hints::audience(&settings.audiences, &observed, client.as_deref()).filter(|_| !ok);
        with_hint(Finding::new(expected, seen), hint)
    });
    observed.into_iter().map(Box::from).collect()
}

fn judge_expiry(claims: &Claims, now: f64, leeway: Duration, clocks: Clocks, judgement: &mut Judgement) -> Option<f64> {
    let exp = numeric_date(claims, "exp", "expiry", judgement).ok()?;
    let Some(exp) = exp else {
        judgement.check("expiry", reason::TOKEN_MALFORMED, false, || {
            Finding::new("`exp`", "no `exp`").hint("a token that never ends is not accepted")
        });
        return None;
    };
    judgement.check("expiry", reason::TOKEN_EXPIRED, now < exp + leeway.as_secs_f64(), || {
        let expected = format!("`exp` after {}, leeway {}", instant(now), span(leeway.as_secs_f64()));
        if now < exp {
            return Finding::new(expected, format!("{}: valid for {}", instant(exp), span(exp - now)));
        }
        let finding = Finding::new(
            expected,
            format!("{}: expired {} ago, leeway {}", instant(exp), span(now - exp), span(leeway.as_secs_f64())),
        );
        if let Some(hint) = clocks.hint(true) {
            finding.hint(hint)
        } else if now - exp < 300.0 {
            finding.hint("a small difference: refresh the token earlier, or check the clocks")
        } else {
            finding
        }
    });
    Some(exp)
}

fn judge_start(
    claims: &Claims,
    (claim, check): (&'static str, &'static str),
    now: f64,
    leeway: Duration,
    clocks: Clocks,
    judgement: &mut Judgement,
) -> Option<f64> {
    let start = numeric_date(claims, claim, check, judgement).ok()??;
    judgement.check(check, reason::TOKEN_NOT_YET_VALID, start <= now + leeway.as_secs_f64(), || {
        let expected = format!("`{claim}` not after {}, leeway {}", instant(now), span(leeway.as_secs_f64()));
        if start <= now {
            return Finding::new(expected, format!("{}: {} ago", instant(start), span(now - start)));
        }
        let observed = format!("{}: in {}, leeway {}", instant(start), span(start - now), span(leeway.as_secs_f64()));
        let otherwise = || "the issuer's clock is ahead of this machine's, or this machine's is behind".to_owned();
        Finding::new(expected, observed).hint(clocks.hint(false).unwrap_or_else(otherwise))
    });
    Some(start)
}

/// `Err` if it is there and cannot be a time; the judgement then says so.
fn numeric_date(claims: &Claims, claim: &'static str, check: &'static str, judgement: &mut Judgement) -> Result<Option<f64>, ()> {
    let Some(value) = claims.get(claim) else { return Ok(None) };
    match value.as_f64() {
        Some(seconds) if (0.0..=LAST_SECOND).contains(&seconds) => Ok(Some(seconds)),
        Some(seconds) => {
            judgement.check(check, reason::TOKEN_MALFORMED, false, || {
                let finding = Finding::new(format!("`{claim}` in seconds since 1970"), "a number out of range");
                if seconds > LAST_SECOND { finding.hint("it looks like milliseconds") } else { finding }
            });
            Err(())
        }
        None => {
            wrong_form(judgement, check, "a number of seconds since 1970", value);
            Err(())
        }
    }
}

fn judge_subject(claims: &Claims, mapping: &Mapping, judgement: &mut Judgement) -> Option<Box<str>> {
    // `sub` itself must make sense even where the subject is taken from another claim.
    if let Some(other) = claims.get("sub").filter(|sub| !sub.is_string()) {
        wrong_form(judgement, "subject", "`sub` as a text", other);
        return None;
    }
    let subject = mapping.subject(claims);
    let text = subject.and_then(Value::as_str).filter(|text| !text.is_empty() && !text.chars().any(char::is_control));
    judgement.check("subject", reason::TOKEN_MALFORMED, text.is_some(), || {
        let expected = format!("a text in {}", mapping.subject_places());
        let observed = match (subject, text) {
            (_, Some(text)) => safe(text),
            (None, _) => "none".to_owned(),
            (Some(Value::String(text)), _) if text.is_empty() => "an empty text".to_owned(),
            (Some(Value::String(_)), _) => "a text with control characters".to_owned(),
            (Some(other), _) => form(other).to_owned(),
        };
        Finding::new(expected, observed)
    });
    text.map(Box::from)
}

fn wrong_form(judgement: &mut Judgement, check: &'static str, expected: &str, observed: &Value) {
    judgement.check(check, reason::TOKEN_MALFORMED, false, || Finding::new(expected, form(observed)));
}

fn form(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn with_hint(finding: Finding, hint: Option<impl Into<String>>) -> Finding {
    match hint {
        Some(hint) => finding.hint(hint),
        None => finding,
    }
}

fn instant(seconds: f64) -> String {
    match UNIX_EPOCH.checked_add(Duration::from_secs_f64(seconds.clamp(0.0, LAST_SECOND))) {
        Some(time) => humantime::format_rfc3339_seconds(time).to_string(),
        None => "an impossible time".to_owned(),
    }
}

fn span(seconds: f64) -> String {
    spoken::span(Duration::from_secs(seconds.max(0.0) as u64))
}

/// Whether a token's groups are not all in it.
pub(crate) fn groups_unknown(claims: &Claims) -> bool {
    mapping::groups_are_elsewhere(claims)
}
