//! Proofs of possession (DPoP, RFC 9449): the client signs method, URL, time and token of each request with the key
//! that its token is bound to.
//!
//! - [`ProofRules`]: the verdict on a proof
//! - `proof`: a proof, read strictly
//! - `url`: when two addresses are the same
//! - [`nonce`]: nonces of this gateway that a proof must name
//! - [`replay`]: which proofs were seen
//!
//! Everything cheap comes first. A signature is verified only for a proof of the very key that the token is bound to,
//! so nobody without that key can make the gateway work.

pub mod nonce;
mod proof;
pub mod replay;
mod url;

pub use nonce::Nonces;
pub use url::normalised as normalised_url;

use crate::algorithm::Algorithm;
use crate::jose::safe;
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::{digest, hmac, rand};
use portcullis_plugin::reason::{self, ReasonCode};
use portcullis_plugin::{ConfigError, Exchange, Finding};
use proof::{Claims, Proof};
use replay::{Replays, Seen};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

/// What outlives one request: the proofs seen, and the key of nonces unless a file gives one.
pub struct ProofState {
    replays: Replays,
    nonce_key: hmac::Key,
}

impl ProofState {
    pub(crate) fn new() -> Result<Self, ConfigError> {
        let nonce_key = hmac::Key::generate(hmac::HMAC_SHA256, &rand::SystemRandom::new())
            .map_err(|_| ConfigError::new("the system gives no random bytes"))?;
        Ok(Self { replays: Replays::new(replay::MOST), nonce_key })
    }

    /// Of this process alone: another replica does not know it.
    pub fn nonce_key(&self) -> hmac::Key {
        self.nonce_key.clone()
    }
}

/// What a proof is held against.
pub struct ProofRules {
    algorithms: Vec<Algorithm>,
    max_age: Duration,
    leeway: Duration,
    nonces: Option<Nonces>,
    state: Arc<ProofState>,
}

/// The request that a proof is to be for.
pub struct Asked<'a> {
    pub method: &'a str,
    /// Normalised, without query; none if the request has no address that a proof could name.
    pub urls: &'a [String],
    /// The client sent more slashes in the path than `urls` have: its proof names the address as it was sent.
    pub merged_slashes: bool,
    pub token: &'a str,
    /// The thumbprint that the token is bound to.
    pub key: &'a [u8; 32],
}

impl ProofRules {
    pub fn new(
        algorithms: Vec<Algorithm>,
        max_age: Duration,
        leeway: Duration,
        nonces: Option<Nonces>,
        state: Arc<ProofState>,
    ) -> Self {
        // A proof must be remembered for as long as any route would take it.
        state.replays.cover(max_age);
        Self { algorithms, max_age, leeway, nonces, state }
    }

    pub fn algorithms(&self) -> &[Algorithm] {
        &self.algorithms
    }

    pub fn nonces(&self) -> Option<&Nonces> {
        self.nonces.as_ref()
    }

    /// Judges the value of a `DPoP` header. `Ok(true)` if the client should be given a new nonce.
    ///
    /// # Errors
    /// The reason of the first check that failed. All failed checks go to `exchange`.
    pub fn judge(&self, text: &[u8], asked: &Asked<'_>, exchange: &mut Exchange) -> Result<bool, ReasonCode> {
        let proof = match std::str::from_utf8(text).map_err(|_| "bytes that no JWT has".to_owned()).and_then(Proof::parse) {
            Ok(proof) => proof,
            Err(what) => {
                exchange.check("proof_form", reason::DPOP_PROOF_INVALID, false, || Finding::new("a DPoP proof", what));
                return Err(reason::DPOP_PROOF_INVALID);
            }
        };
        let mut judged = Judged { exchange, first: None };
        self.judge_header(&proof, &mut judged);
        self.judge_claims(&proof.claims, asked, &mut judged);
        let bound = verify_slices_are_equal(&proof.thumbprint, asked.key).is_ok();
        judged.check("proof_binding", reason::TOKEN_BINDING_MISMATCH, bound, || {
            let finding =
                Finding::new("a proof of the key that the token is bound to", if bound { "it is" } else { "another key" });
            if bound {
                finding
            } else {
                finding.hint("the token was issued to another client, or the client has changed its key since")
            }
        });
        let renew = self.judge_nonce(&proof.claims, &mut judged);
        if let Some(reason) = judged.first {
            return Err(reason);
        }
        let good = proof.verify();
        judged.check("proof_signature", reason::DPOP_PROOF_INVALID, good, || {
            Finding::new("a signature of that key", if good { "it is" } else { "it does not verify" })
        });
        if judged.first.is_none() {
            self.judge_replay(&proof, &mut judged);
        }
        judged.first.map_or(Ok(renew), Err)
    }

    fn judge_header(&self, proof: &Proof<'_>, judged: &mut Judged<'_>) {
        judged.check("proof_type", reason::DPOP_PROOF_INVALID, proof.typ == "dpop+jwt", || {
            Finding::new("`typ` dpop+jwt", safe(&proof.typ))
        });
        let algorithm = self.algorithms.iter().any(|accepted| proof.algorithm == Some(*accepted));
        judged.check("proof_algorithm", reason::DPOP_PROOF_INVALID, algorithm, || {
            let names: Vec<&str> = self.algorithms.iter().map(|algorithm| algorithm.name()).collect();
            Finding::new(format!("`alg` one of {}", names.join(", ")), safe(&proof.alg))
        });
    }

    fn judge_claims(&self, claims: &Claims, asked: &Asked<'_>, judged: &mut Judged<'_>) {
        judged.check("proof_method", reason::DPOP_PROOF_INVALID, claims.htm == asked.method, || {
            Finding::new(format!("`htm` {}", safe(asked.method)), safe(&claims.htm))
        });
        let url = normalised_url(&claims.htu);
        let same = url.as_ref().is_some_and(|url| {
            asked.urls.contains(url) || (asked.merged_slashes && asked.urls.contains(&url::with_merged_slashes(url)))
        });
        judged.check("proof_url", reason::DPOP_PROOF_INVALID, same, || {
            let expected = if asked.urls.is_empty() { "an address of this gateway".to_owned() } else { asked.urls.join(" or ") };
            // Without its query, which may hold anything.
            let finding =
                Finding::new(format!("`htu` {expected}"), url.map_or("no http or https address".to_owned(), |url| safe(&url)));
            if same {
                finding
            } else {
                finding.hint("the address as the client sees it; if another proxy changes it, set `origin` of `binding.dpop`")
            }
        });
        let now = judged.exchange.now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let age = now - claims.iat;
        let timely = age <= self.max_age.as_secs_f64() && -age <= self.leeway.as_secs_f64();
        judged.check("proof_time", reason::DPOP_PROOF_INVALID, timely, || {
            let expected = format!("`iat` at most {} s ago, or {} s ahead", self.max_age.as_secs(), self.leeway.as_secs());
            let finding =
                Finding::new(expected, if age < 0.0 { format!("{:.0} s ahead", -age) } else { format!("{age:.0} s ago") });
            if timely { finding } else { finding.hint("the client makes a proof for each request; check its clock") }
        });
        let hash = digest::digest(&digest::SHA256, asked.token.as_bytes());
        let same = verify_slices_are_equal(hash.as_ref(), &claims.ath).is_ok();
        judged.check("proof_token", reason::DPOP_PROOF_INVALID, same, || {
            Finding::new("`ath` with the SHA-256 of this token", if same { "it is" } else { "of another token, or none" })
        });
    }

    fn judge_nonce(&self, claims: &Claims, judged: &mut Judged<'_>) -> bool {
        let Some(nonces) = &self.nonces else { return false };
        let state = claims.nonce.as_deref().map_or(nonce::State::Bad, |nonce| nonces.judge(nonce, judged.exchange.now()));
        judged.check("proof_nonce", reason::DPOP_NONCE_REQUIRED, state != nonce::State::Bad, || {
            let observed = match (&claims.nonce, state) {
                (None, _) => "none",
                (Some(_), nonce::State::Bad) => "one that is too old, or not of this gateway",
                (Some(_), _) => "it is",
            };
            Finding::new("a `nonce` of this gateway", observed)
        });
        state == nonce::State::Old
    }

    /// Last, so that only proofs which are good in every other way take up memory.
    fn judge_replay(&self, proof: &Proof<'_>, judged: &mut Judged<'_>) {
        let now = judged.exchange.now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let seen = self.state.replays.see(proof.id(), proof.claims.iat as u64, judged.exchange.decision_id(), now);
        let reason = if seen == Seen::Full { reason::DPOP_REPLAY_FULL } else { reason::DPOP_REPLAY };
        judged.check("proof_replay", reason, seen == Seen::New, || {
            Finding::new(
                "a proof that was not used before",
                match seen {
                    Seen::New => "it was not",
                    Seen::Again => "it was",
                    Seen::Full => "no room to remember it",
                },
            )
        });
    }
}

/// The checks of one proof: all are told, the first that fails is the reason.
struct Judged<'a> {
    exchange: &'a mut Exchange,
    first: Option<ReasonCode>,
}

impl Judged<'_> {
    fn check(&mut self, check: &'static str, reason: ReasonCode, ok: bool, finding: impl FnOnce() -> Finding) {
        if !self.exchange.check(check, reason, ok, finding) {
            self.first.get_or_insert(reason);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::exchange_at;

    /// RFC 9449, section 7.1 (figures 12 and 13): a proof that another implementation made.
    const TOKEN: &str = "Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU";
    const PROOF: &str = "eyJ0eXAiOiJkcG9wK2p3dCIsImFsZyI6IkVTMjU2IiwiandrIjp7Imt0eSI6IkVDIiwieCI6Imw4dEZyaHgtMzR0VjNoUklDUkRZOXpDa0RscEJoRjQyVVFVZldWQVdCRnMiLCJ5IjoiOVZFNGpmX09rX282NHpiVFRsY3VOSmFqSG10NnY5VERWclUwQ2R2R1JEQSIsImNydiI6IlAtMjU2In19.eyJqdGkiOiJlMWozVl9iS2ljOC1MQUVCIiwiaHRtIjoiR0VUIiwiaHR1IjoiaHR0cHM6Ly9yZXNvdXJjZS5leGFtcGxlLm9yZy9wcm90ZWN0ZWRyZXNvdXJjZSIsImlhdCI6MTU2MjI2MjYxOCwiYXRoIjoiZlVIeU8ycjJaM0RaNTNFc05yV0JiMHhXWG9hTnk1OUlpS0NBcWtzbVFFbyJ9.2oW9RP35yRqzhrtNP86L-Ey71EOptxRimPPToA1plemAgR6pxHF8y6-yqyVnmcw6Fy1dqd-jfxSYoMxhAJpLjA";
    const THUMBPRINT: &str = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I";

    #[test]
    fn the_proof_of_the_rfc_is_good_for_its_request() {
        let rules = |algorithms| {
            let minute = Duration::from_secs(60);
            ProofRules::new(algorithms, minute, Duration::from_secs(5), None, Arc::new(ProofState::new().unwrap()))
        };
        let key: [u8; 32] = crate::jose::base64url(THUMBPRINT).unwrap().try_into().unwrap();
        let judge = |rules: &ProofRules, proof: &str, url: &str, after: u64| {
            let urls = [normalised_url(url).unwrap()];
            let asked = Asked { method: "GET", urls: &urls, merged_slashes: false, token: TOKEN, key: &key };
            let now = UNIX_EPOCH + Duration::from_secs(1_562_262_618 + after);
            rules.judge(proof.as_bytes(), &asked, &mut exchange_at(now))
        };
        let url = "https://resource.example.org/protectedresource";
        let es256 = rules(vec![Algorithm::Es256]);
        assert_eq!(judge(&es256, PROOF, url, 3), Ok(false));
        assert_eq!(judge(&es256, PROOF, url, 4), Err(reason::DPOP_REPLAY));
        assert_eq!(judge(&es256, PROOF, url, 61), Err(reason::DPOP_PROOF_INVALID));
        assert_eq!(judge(&es256, PROOF, "https://resource.example.org/other", 3), Err(reason::DPOP_PROOF_INVALID));
        assert_eq!(judge(&rules(vec![Algorithm::EdDsa]), PROOF, url, 3), Err(reason::DPOP_PROOF_INVALID));
        let altered = PROOF.replace("LjA", "LjQ");
        assert_eq!(judge(&rules(vec![Algorithm::Es256]), &altered, url, 3), Err(reason::DPOP_PROOF_INVALID));
    }
}
