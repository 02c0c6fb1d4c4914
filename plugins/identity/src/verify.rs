//! The verdict on a token.
//!
//! Every check that can be made is made and told. The reason of a refusal is the first failing check in this order:
//!
//! 1. form (`token.malformed`), algorithm (`token.alg.refused`), header (`token.crit.refused`)
//! 2. issuer (`token.issuer.mismatch`): whose token it says it is decides which keys count
//! 3. key (`token.kid.unknown`, or `issuer.unavailable`) and signature (`token.signature.invalid`)
//! 4. type, audience, expiry, not-before, issued-at, binding, subject
//!
//! With one exception: a token that no key could save is refused for what is wrong with it, without asking the issuer
//! for keys. So old tokens cause no fetches, and an issuer's outage turns no expired token into a 503.

use crate::algorithm::Algorithm;
use crate::binding::Binding;
use crate::claims::{self, Clocks, Judgement, Read};
use crate::introspection::Told;
use crate::issuers::Issuer;
use crate::jose::{self, Header, Malformed, Token};
use crate::keyset::{Lookup, Wanted};
use crate::kind::IdTokens;
use crate::mapping::Mapping;
use crate::opaque;
use crate::spoken::span;
use futures::future::BoxFuture;
use portcullis_plugin::reason::{self, ReasonCode};
use portcullis_plugin::{Exchange, Finding, Principal};
use serde_json::{Map, Value};
use std::sync::Arc;
use std::time::SystemTime;

/// The answer to a token.
pub enum Verification {
    Verified(Arc<VerifiedToken>),
    Refused(ReasonCode),
    /// The issuer must be asked first. Await it (it ends within the issuer's `max_wait` for each of keys and token,
    /// whatever comes), then call [`Issuer::verify_after_wait`] (or its `bound` twin), which never waits again. Nothing has
    /// been recorded yet.
    Wait(BoxFuture<'static, Obtained>),
}

/// What was waited for.
#[derive(Default)]
pub struct Obtained(Option<Told>);

impl Obtained {
    pub(crate) fn told(told: Told) -> Self {
        Self(Some(told))
    }
}

/// A token that is good for its issuer. What a route asks of it beyond that is the filter's business.
#[derive(Debug)]
pub struct VerifiedToken {
    principal: Arc<Principal>,
    audiences: Vec<Box<str>>,
    groups_unknown: bool,
    expires_at: SystemTime,
    not_before: Option<SystemTime>,
    binding: Option<Binding>,
    is_id: bool,
}

impl VerifiedToken {
    /// The caller, `method` is `bearer`.
    pub fn principal(&self) -> &Arc<Principal> {
        &self.principal
    }

    /// All that the token names, for a route that accepts fewer than the issuer's.
    pub fn audiences(&self) -> impl Iterator<Item = &str> {
        self.audiences.iter().map(|audience| &**audience)
    }

    /// The issuer left the groups out of the token (Entra does when there are many): `groups` is empty because they
    /// are unknown. A rule that refuses members of a group must refuse here too.
    pub fn groups_unknown(&self) -> bool {
        self.groups_unknown
    }

    pub fn expires_at(&self) -> SystemTime {
        self.expires_at
    }

    /// What the sender of this token has to prove with each request; `None` if whoever has the token may use it.
    pub fn binding(&self) -> Option<&Binding> {
        self.binding.as_ref()
    }

    /// For callers that check no proofs.
    fn refuse_bound(&self, exchange: &mut Exchange) -> Result<(), ReasonCode> {
        let Some(binding) = &self.binding else { return Ok(()) };
        exchange.check("binding", reason::TOKEN_BINDING_MISMATCH, false, || {
            Finding::new("a token that is not bound", format!("a token bound to {binding}"))
                .hint("nothing here checks the proof, and without it the token may be stolen")
        });
        Err(reason::TOKEN_BINDING_MISMATCH)
    }

    pub(crate) fn not_before(&self) -> Option<SystemTime> {
        self.not_before
    }
}

/// What the second look may do.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Attempt {
    First,
    Last,
}

enum Outcome {
    Decided(Result<Arc<VerifiedToken>, ReasonCode>),
    NeedsKey(Wanted),
}

/// What the key and the signature say.
enum KeyVerdict {
    Verified,
    Failed,
    /// There is no such key, and it might be fetched.
    Missing(Wanted),
}

impl Issuer {
    /// Judges a token as it stands in `Authorization: Bearer`, without the scheme. Failed checks go to `exchange`, passed
    /// ones too if it is explaining. The principal is not set; that is for the filter, when its own rules have passed.
    ///
    /// A token that only its sender may use (`cnf`) is refused: see [`verify_bound`](Self::verify_bound).
    pub fn verify(self: &Arc<Self>, token: &str, exchange: &mut Exchange) -> Verification {
        match self.verify_bound(token, IdTokens::AsIssuer, exchange) {
            Verification::Verified(verified) => match verified.refuse_bound(exchange) {
                Ok(()) => Verification::Verified(verified),
                Err(reason) => Verification::Refused(reason),
            },
            other => other,
        }
    }

    /// As [`verify_bound_after_wait`](Self::verify_bound_after_wait), and refuses bound tokens.
    ///
    /// # Errors
    /// The reason of the refusal.
    pub fn verify_after_wait(
        &self,
        token: &str,
        obtained: Obtained,
        exchange: &mut Exchange,
    ) -> Result<Arc<VerifiedToken>, ReasonCode> {
        let verified = self.verify_bound_after_wait(token, IdTokens::AsIssuer, obtained, exchange)?;
        verified.refuse_bound(exchange)?;
        Ok(verified)
    }

    /// As [`verify`](Self::verify), but a bound token is good too. Whoever calls this **must** look at
    /// [`VerifiedToken::binding`], and refuse the request if it does not prove what is asked for there.
    pub fn verify_bound(self: &Arc<Self>, token: &str, id_tokens: IdTokens, exchange: &mut Exchange) -> Verification {
        if let Err(reason) = self.refuse_revoked(token, exchange) {
            return Verification::Refused(reason);
        }
        match self.verify_now(token, id_tokens, exchange) {
            Verification::Verified(verified) => self.refuse_revoked_id(verified, exchange).into(),
            other => other,
        }
    }

    /// Before anything is asked or computed: somebody has said what is to become of this very token.
    fn refuse_revoked(&self, token: &str, exchange: &mut Exchange) -> Result<(), ReasonCode> {
        match self.revocations().of_token(token, exchange.now()) {
            None => Ok(()),
            Some(until) => Err(revoked("the token", until, exchange)),
        }
    }

    /// The issuer and the id are known once the token is verified.
    fn refuse_revoked_id(&self, verified: Arc<VerifiedToken>, exchange: &mut Exchange) -> Result<Arc<VerifiedToken>, ReasonCode> {
        if self.revocations().is_open() && exchange.explaining() {
            exchange.check("revoked", reason::TOKEN_REVOKED, true, || {
                Finding::new("a token that is not revoked", "not known here")
                    .hint("what a running gateway was told at its /revocations, it alone knows")
            });
        }
        if !self.revocations().has_ids() {
            return Ok(verified);
        }
        let principal = &verified.principal;
        let issuer = principal.issuer.as_deref().unwrap_or(&self.settings().issuer);
        let jti = principal.claims.get("jti").and_then(Value::as_str);
        match jti.and_then(|jti| self.revocations().of_id(issuer, jti, exchange.now())) {
            None => Ok(verified),
            Some(until) => Err(revoked("the token with its `jti`", until, exchange)),
        }
    }

    fn verify_now(self: &Arc<Self>, token: &str, id_tokens: IdTokens, exchange: &mut Exchange) -> Verification {
        let asked = self.introspector();
        if let Some(asked) = asked.filter(|_| !jose::is_like_a_jwt(token)) {
            return self.verify_opaque(asked, token, id_tokens, exchange);
        }
        let asked = asked.filter(|asked| asked.settings().all);
        let (outcome, judgement) = self.judge(token, id_tokens, exchange, Attempt::First);
        match (outcome, asked) {
            (Outcome::Decided(Ok(verified)), Some(asked)) => self.confirm(asked, token, exchange, judgement, verified),
            (Outcome::Decided(decided), _) => {
                judgement.record(exchange);
                decided.into()
            }
            (Outcome::NeedsKey(wanted), asked) => {
                let (store, pace) = (Arc::clone(self.store()), self.settings().pace.clone());
                let asked = asked.map(|asked| (Arc::clone(asked), Box::from(token)));
                Verification::Wait(Box::pin(async move {
                    let within = pace.max_wait;
                    // Too late is told by the second look, which finds no key.
                    let _ = tokio::time::timeout(within, store.obtain(wanted, pace)).await;
                    match asked {
                        Some((asked, token)) => Obtained::told(asked.ask(token).await),
                        None => Obtained::default(),
                    }
                }))
            }
        }
    }

    /// As [`verify_bound`](Self::verify_bound), with the keys of now and what was obtained for this very token.
    ///
    /// # Errors
    /// The reason of the refusal.
    pub fn verify_bound_after_wait(
        &self,
        token: &str,
        id_tokens: IdTokens,
        obtained: Obtained,
        exchange: &mut Exchange,
    ) -> Result<Arc<VerifiedToken>, ReasonCode> {
        // It may have been revoked while the request waited.
        self.refuse_revoked(token, exchange)?;
        let verified = self.verify_at_last(token, id_tokens, obtained, exchange)?;
        self.refuse_revoked_id(verified, exchange)
    }

    fn verify_at_last(
        &self,
        token: &str,
        id_tokens: IdTokens,
        obtained: Obtained,
        exchange: &mut Exchange,
    ) -> Result<Arc<VerifiedToken>, ReasonCode> {
        let told = || obtained.0.unwrap_or_else(|| Err("nothing was asked".into()));
        let asked = self.introspector();
        if let Some(asked) = asked.filter(|_| !jose::is_like_a_jwt(token)) {
            return self.verify_opaque_after_wait(asked, &told(), id_tokens, exchange);
        }
        let (outcome, judgement) = self.judge(token, id_tokens, exchange, Attempt::Last);
        match outcome {
            Outcome::Decided(Ok(verified)) if asked.is_some_and(|asked| asked.settings().all) => {
                opaque::confirmed(&told(), exchange, judgement, verified)
            }
            Outcome::Decided(decided) => {
                judgement.record(exchange);
                decided
            }
            // The last look never asks for more; if it did, the door stays closed.
            Outcome::NeedsKey(_) => Err(reason::ISSUER_UNAVAILABLE),
        }
    }

    /// What was verified before and still holds.
    pub(crate) fn recall(&self, token: &str, exchange: &Exchange) -> Option<Arc<VerifiedToken>> {
        let cache = self.cache().filter(|_| !exchange.explaining())?;
        // Keys that are too old decide nothing, also not through what they verified before.
        self.store().usable(&self.settings().pace)?;
        cache.get(token, self.store().removals(), exchange.now())
    }

    /// What one route accepts is remembered for all, and looked at again by each.
    pub(crate) fn takes(&self, verified: &VerifiedToken, id_tokens: IdTokens) -> bool {
        !verified.is_id || id_tokens.accepted(self.settings().accept_id_tokens)
    }

    fn judge(&self, token: &str, id_tokens: IdTokens, exchange: &Exchange, attempt: Attempt) -> (Outcome, Judgement) {
        let now = exchange.now();
        let removals = self.store().removals();
        if let Some(verified) = self.recall(token, exchange).filter(|verified| self.takes(verified, id_tokens)) {
            return (Outcome::Decided(Ok(verified)), Judgement::new(false));
        }
        let cache = self.cache().filter(|_| !exchange.explaining());

        let mut judgement = Judgement::new(exchange.explaining());
        let outcome = self.examine(token, (now, id_tokens), attempt, &mut judgement);
        let outcome = match outcome {
            Examined::Good(verified) => {
                if let Some(cache) = cache.filter(|_| now < verified.expires_at()) {
                    cache.insert(token, &verified, removals);
                    self.note_mine(token);
                }
                Outcome::Decided(Ok(verified))
            }
            Examined::NeedsKey(wanted) => Outcome::NeedsKey(wanted),
            Examined::Bad => {
                // A refusal without a failed check cannot be; if it were, it would still be a refusal.
                Outcome::Decided(Err(judgement.reason().unwrap_or(reason::TOKEN_MALFORMED)))
            }
        };
        (outcome, judgement)
    }

    fn examine(
        &self,
        text: &str,
        (now, id_tokens): (SystemTime, IdTokens),
        attempt: Attempt,
        judgement: &mut Judgement,
    ) -> Examined {
        let token = match Token::parse(text) {
            Ok(token) => token,
            Err(malformed) => return judge_form(judgement, &malformed),
        };
        let algorithm = self.judge_algorithm(&token.header, judgement);
        judge_header(&token.header, judgement);
        let claims = match token.claims() {
            Ok(claims) => claims,
            Err(malformed) => return judge_form(judgement, &malformed),
        };
        judgement.check("form", reason::TOKEN_MALFORMED, true, || Finding::new("a signed JWT", "a signed JWT"));
        claims::judge_issuer(&claims, self.settings(), judgement);
        // Judged now, told after the key: whether a key is worth asking for depends on them.
        let mut later = Judgement::new(judgement.is_explaining());
        let clocks = Clocks { now, ahead: self.store().ahead() };
        let read = claims::judge(&claims, &token.header, (self.settings(), id_tokens), clocks, &mut later);

        if let Some(algorithm) = algorithm {
            let doomed = judgement.failed() || later.failed();
            let iss = claims.get("iss").and_then(Value::as_str);
            if let KeyVerdict::Missing(wanted) = self.judge_key(&token, (algorithm, iss), doomed, attempt, judgement) {
                return Examined::NeedsKey(wanted);
            }
        }
        judgement.append(later);
        if judgement.failed() { Examined::Bad } else { self.accept(claims, read) }
    }

    /// The configuration alone says which algorithms there are.
    fn judge_algorithm(&self, header: &Header, judgement: &mut Judgement) -> Option<Algorithm> {
        let accepted = &self.settings().algorithms;
        let algorithm = Algorithm::from_name(&header.alg).filter(|algorithm| accepted.contains(algorithm));
        judgement.check("algorithm", reason::TOKEN_ALG_REFUSED, algorithm.is_some(), || {
            let expected = accepted.iter().map(|algorithm| algorithm.name()).collect::<Vec<_>>().join(", ");
            let finding = Finding::new(format!("`alg` one of {expected}"), jose::safe(&header.alg));
            match header.alg.to_ascii_lowercase().as_str() {
                "none" => finding.hint("the token is not signed"),
                "hs256" | "hs384" | "hs512" => {
                    finding.hint("symmetric signatures are never accepted; a refresh token of Keycloak has one")
                }
                _ => finding,
            }
        });
        algorithm
    }

    /// `doomed`: the token will be refused in any case.
    fn judge_key(
        &self,
        token: &Token<'_>,
        (algorithm, iss): (Algorithm, Option<&str>),
        doomed: bool,
        attempt: Attempt,
        judgement: &mut Judgement,
    ) -> KeyVerdict {
        let pace = &self.settings().pace;
        let wanted = Wanted { kid: token.header.kid.as_deref().map(Box::from), algorithm };
        let named = || match &wanted.kid {
            Some(kid) => format!("`kid` {}", jose::safe(kid)),
            None => "no `kid`".to_owned(),
        };
        let (other_family, candidates, missing) = match self.store().find(&wanted, pace) {
            Lookup::Found(key) => {
                if let Some(owner) = key.is_of_another(iss) {
                    judgement.check("key", reason::TOKEN_ISSUER_MISMATCH, false, || {
                        let expected = format!("a token of {}, the only one that its key signs for", jose::safe(owner));
                        Finding::new(expected, jose::safe(iss.unwrap_or("none")))
                    });
                    return KeyVerdict::Failed;
                }
                judgement.check("key", reason::TOKEN_KID_UNKNOWN, true, || Finding::new("a key of the issuer", named()));
                let good = key.verify(algorithm, token.signed.as_bytes(), &token.signature);
                if !good {
                    self.store().suspect(pace);
                }
                judgement.check("signature", reason::TOKEN_SIGNATURE_INVALID, good, || signature_finding(&token.header, good));
                return if good { KeyVerdict::Verified } else { KeyVerdict::Failed };
            }
            Lookup::OtherAlgorithm(key) => {
                judgement.check("key", reason::TOKEN_ALG_REFUSED, false, || {
                    let only = key.only().map_or("another algorithm", Algorithm::name);
                    Finding::new(format!("`alg` {only}, which the issuer published the key for"), algorithm.name())
                });
                return KeyVerdict::Failed;
            }
            Lookup::Unknown { other_family, candidates } => (other_family, candidates, reason::TOKEN_KID_UNKNOWN),
            Lookup::NoKeys => (None, 0, reason::ISSUER_UNAVAILABLE),
        };
        // Somebody who wants to know everything about a token waits for the key all the same.
        let asks = !doomed || judgement.is_explaining();
        if asks && attempt == Attempt::First && self.store().may_ask(&wanted, pace) {
            return KeyVerdict::Missing(wanted);
        }
        if doomed {
            // Nothing is told of a key that nobody looked for.
            if asks {
                let hint = "there is none now; the token is refused in any case";
                judgement.note("key", missing, || Finding::new("a key of the issuer", named()).hint(hint));
            }
            return KeyVerdict::Failed;
        }
        let away = missing == reason::ISSUER_UNAVAILABLE || self.store().is_away();
        if away {
            judgement.check("key", reason::ISSUER_UNAVAILABLE, false, || self.unavailable_finding(named()));
            return KeyVerdict::Failed;
        }
        if attempt == Attempt::Last {
            self.store().remember_unknown(&wanted);
        }
        judgement.check("key", reason::TOKEN_KID_UNKNOWN, false, || {
            let store = self.store();
            let finding = Finding::new(format!("a key that the issuer publishes: {}", store.published()), named());
            let dropped = wanted.kid.as_deref().and_then(|kid| store.why_dropped(kid));
            let hint = match (other_family, dropped, &wanted.kid) {
                (Some(family), ..) => {
                    format!("the issuer's key of that id is {}, which does not fit {algorithm}", family.name())
                }
                (None, Some(why), _) => format!("the issuer publishes a key of that id, which verifies nothing: {why}"),
                (None, None, None) if candidates > 1 => {
                    format!("the token names no key, and the issuer has {candidates} that it could mean")
                }
                _ => "the token comes from another issuer, or its key was withdrawn".to_owned(),
            };
            // Where the keys are asked for at an old address, they may be old themselves.
            match store.document_error() {
                Some(error) => {
                    finding.hint(format!("{hint}; or the keys have moved, for the discovery document cannot be used: {error}"))
                }
                None => finding.hint(hint),
            }
        });
        KeyVerdict::Failed
    }

    fn unavailable_finding(&self, named: String) -> Finding {
        let (store, pace) = (self.store(), &self.settings().pace);
        let observed = match store.age() {
            Some(age) if age > pace.max_stale => {
                format!("{named}; the last keys are {} old, more than `max_stale` ({}) allows", span(age), span(pace.max_stale))
            }
            Some(age) => format!("{named}; the last keys are {} old", span(age)),
            None => format!("{named}; there are no keys yet"),
        };
        let finding = Finding::new("keys of the issuer", observed);
        match store.last_error() {
            Some(error) => finding.hint(format!("the last attempt failed: {error}")),
            None if store.is_asking() => finding.hint(format!(
                "the issuer has not answered within `max_wait` ({:?}); the fetch goes on until `timeout` ({:?}), and the client may try again",
                pace.max_wait, pace.timeout
            )),
            None if store.count() == 0 => finding.hint("no keys were given or fetched; `explain` takes them from --jwks"),
            None => finding.hint("the issuer is being asked; the client may try again"),
        }
    }

    fn accept(&self, claims: Map<String, Value>, read: Read) -> Examined {
        let Some(expires_at) = read.expires_at else { return Examined::Bad };
        match self.principal_of(claims, read, &self.settings().mapping, expires_at) {
            Some(verified) => Examined::Good(verified),
            None => Examined::Bad,
        }
    }

    /// `until`: the end of what is known, where the claims name none.
    pub(crate) fn principal_of(
        &self,
        claims: Map<String, Value>,
        read: Read,
        mapping: &Mapping,
        until: SystemTime,
    ) -> Option<Arc<VerifiedToken>> {
        let subject = read.subject?;
        let mut principal = Principal::new("bearer", Arc::<str>::from(subject));
        // Of many tenants, the one: a subject is only unique within it.
        let own = self.settings().template.as_ref().and_then(|_| claims.get("iss")).and_then(Value::as_str);
        principal.issuer = Some(own.map_or_else(|| Arc::clone(&self.settings().issuer), Arc::from));
        principal.client_id = mapping.client_id(&claims);
        principal.scopes = mapping.scopes(&claims);
        principal.roles = mapping.roles(&claims);
        principal.groups = mapping.groups(&claims);
        principal.expires_at = read.expires_at;
        let groups_unknown = claims::groups_unknown(&claims);
        principal.claims = Arc::new(claims);
        Some(Arc::new(VerifiedToken {
            principal: Arc::new(principal),
            audiences: read.audiences,
            groups_unknown,
            expires_at: until,
            not_before: read.not_before,
            binding: read.binding,
            is_id: read.is_id,
        }))
    }
}

fn revoked(what: &str, until: SystemTime, exchange: &mut Exchange) -> ReasonCode {
    exchange.check("revoked", reason::TOKEN_REVOKED, false, || {
        let until = humantime::format_rfc3339_seconds(until);
        Finding::new("a token that is not revoked", format!("this gateway was told that {what} is revoked")).hint(format!(
            "the client obtains a new one; this one is refused until {until}; the audit log, if there is one, has the \
                 revocation as a record `token.revoked`"
        ))
    });
    reason::TOKEN_REVOKED
}

enum Examined {
    Good(Arc<VerifiedToken>),
    Bad,
    NeedsKey(Wanted),
}

fn judge_form(judgement: &mut Judgement, malformed: &Malformed) -> Examined {
    judgement.check("form", reason::TOKEN_MALFORMED, false, || {
        let finding = Finding::new("a signed JWT in compact form", malformed.to_string());
        match malformed.hint() {
            Some(hint) => finding.hint(hint),
            None => finding,
        }
    });
    Examined::Bad
}

fn judge_header(header: &Header, judgement: &mut Judgement) {
    judgement.check("header", reason::TOKEN_CRIT_REFUSED, header.forbidden.is_empty(), || {
        let observed = if header.forbidden.is_empty() { "none of them".to_owned() } else { header.forbidden.join(", ") };
        Finding::new("a header without crit, jwk, jku, x5u, x5c, b64, zip", observed)
    });
}

fn signature_finding(header: &Header, good: bool) -> Finding {
    if good {
        return Finding::new("a signature of the issuer's key", "it is");
    }
    let finding = Finding::new("a signature of the issuer's key", "it does not verify");
    if header.has_nonce {
        return finding.hint("a token with `nonce` in its header is for Microsoft Graph, and only Graph can verify it; have the client ask for a scope of this API");
    }
    finding.hint("the token was altered, or signed with another key of the same id")
}
