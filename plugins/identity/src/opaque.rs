//! The verdict on a token that the issuer was asked about: the same checks as on a JWT, made on the issuer's answer.

use crate::claims::{self, Clocks, Judgement};
use crate::introspection::{Answer, Introspector, Told};
use crate::issuers::Issuer;
use crate::kind::IdTokens;
use crate::verify::{Obtained, Verification, VerifiedToken};
use portcullis_plugin::reason::{self, ReasonCode};
use portcullis_plugin::{Exchange, Finding};
use std::sync::Arc;

type Decided = Result<Arc<VerifiedToken>, ReasonCode>;

impl Issuer {
    /// Of a token that only the issuer can read.
    pub(crate) fn verify_opaque(
        &self,
        asked: &Arc<Introspector>,
        token: &str,
        id_tokens: IdTokens,
        exchange: &mut Exchange,
    ) -> Verification {
        if token.len() > crate::jose::MOST_BYTES {
            exchange.check("form", reason::TOKEN_MALFORMED, false, || {
                let most = crate::jose::MOST_BYTES;
                Finding::new(format!("a token of at most {most} bytes"), format!("{} bytes", token.len()))
            });
            return Verification::Refused(reason::TOKEN_MALFORMED);
        }
        if let Some(answer) = asked.remembered(token) {
            return self.judge_answer(asked, &answer, id_tokens, exchange).into();
        }
        match asked.silent() {
            Some(why) => Verification::Refused(unavailable(&why, exchange)),
            None => Verification::Wait(ask(asked, token)),
        }
    }

    pub(crate) fn verify_opaque_after_wait(
        &self,
        asked: &Introspector,
        told: &Told,
        id_tokens: IdTokens,
        exchange: &mut Exchange,
    ) -> Decided {
        match told {
            Ok(answer) => self.judge_answer(asked, answer, id_tokens, exchange),
            Err(why) => Err(unavailable(why, exchange)),
        }
    }

    fn judge_answer(&self, asked: &Introspector, answer: &Arc<Answer>, id_tokens: IdTokens, exchange: &mut Exchange) -> Decided {
        let now = exchange.now();
        let still = |verified: &&Arc<VerifiedToken>| {
            self.takes(verified, id_tokens)
                && now < verified.expires_at()
                && verified.not_before().is_none_or(|start| start <= now)
        };
        if let Some(verified) = answer.verified.get().filter(|_| !exchange.explaining()).filter(still) {
            return Ok(Arc::clone(verified));
        }
        let Some(claims) = &answer.claims else { return Err(inactive(exchange)) };
        let mut judgement = Judgement::new(exchange.explaining());
        active(&mut judgement);
        let settings = self.settings();
        // The answer comes from the issuer itself; `iss` may be left out, but if it is there, it counts.
        if claims.contains_key("iss") {
            claims::judge_issuer(claims, settings, &mut judgement);
        }
        let clocks = Clocks { now, ahead: self.store().ahead() };
        let read = claims::judge_answer(claims, (settings, id_tokens), asked.settings(), clocks, &mut judgement);
        let refused = judgement.reason();
        judgement.record(exchange);
        if let Some(reason) = refused {
            return Err(reason);
        }
        // An answer without an end holds for as long as it is remembered.
        let until = read.expires_at.unwrap_or(now + asked.settings().ttl);
        let verified = self.principal_of(claims.clone(), read, &asked.settings().mapping, until);
        let Some(verified) = verified else { return Err(reason::TOKEN_MALFORMED) };
        let _ = answer.verified.set(Arc::clone(&verified));
        Ok(verified)
    }

    /// Of a JWT that was verified here: does the issuer still stand by it?
    pub(crate) fn confirm(
        &self,
        asked: &Arc<Introspector>,
        token: &str,
        exchange: &mut Exchange,
        judgement: Judgement,
        verified: Arc<VerifiedToken>,
    ) -> Verification {
        match asked.remembered(token) {
            Some(answer) => confirmed(&Ok(answer), exchange, judgement, verified).into(),
            None => match asked.silent() {
                Some(why) => confirmed(&Err(why), exchange, judgement, verified).into(),
                None => Verification::Wait(ask(asked, token)),
            },
        }
    }
}

/// The answer says only whether the token is active: everything else stands in the token, signed.
pub(crate) fn confirmed(told: &Told, exchange: &mut Exchange, judgement: Judgement, verified: Arc<VerifiedToken>) -> Decided {
    judgement.record(exchange);
    match told {
        Ok(answer) if answer.claims.is_some() => {
            let mut judgement = Judgement::new(exchange.explaining());
            active(&mut judgement);
            judgement.record(exchange);
            Ok(verified)
        }
        Ok(_) => Err(inactive(exchange)),
        Err(why) => Err(unavailable(why, exchange)),
    }
}

fn ask(asked: &Arc<Introspector>, token: &str) -> futures::future::BoxFuture<'static, Obtained> {
    let (asked, token) = (Arc::clone(asked), Box::from(token));
    Box::pin(async move { Obtained::told(asked.ask(token).await) })
}

fn active(judgement: &mut Judgement) {
    judgement.check("active", reason::TOKEN_INACTIVE, true, || Finding::new("a token that is active", "the issuer says so"));
}

fn inactive(exchange: &mut Exchange) -> ReasonCode {
    exchange.check("active", reason::TOKEN_INACTIVE, false, || {
        Finding::new("a token that is active", "the issuer says it is not")
            .hint("it has expired or was revoked, is another issuer's, or the issuer does not let this gateway's client see it")
    });
    reason::TOKEN_INACTIVE
}

fn unavailable(why: &str, exchange: &mut Exchange) -> ReasonCode {
    exchange.check("active", reason::ISSUER_UNAVAILABLE, false, || {
        let finding = Finding::new("the issuer's word on the token", "none");
        // The issuer refuses the gateway itself, not the token.
        let ours = [" 401", " 403"].iter().any(|status| why.contains(status));
        finding.hint(if ours { format!("{why}: check the credentials in `introspection`") } else { why.to_owned() })
    });
    reason::ISSUER_UNAVAILABLE
}

impl From<Decided> for Verification {
    fn from(decided: Decided) -> Self {
        match decided {
            Ok(verified) => Self::Verified(verified),
            Err(reason) => Self::Refused(reason),
        }
    }
}
