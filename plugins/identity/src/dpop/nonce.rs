//! Nonces of this gateway (RFC 9449, sections 8 and 9), without a memory of which were given out: each holds the time
//! it is good for and a keyed hash of it. It bounds how long before its use a proof can have been made, whatever the
//! client's clock says.

use crate::jose;
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const TAG: usize = 16;

/// Gives nonces and knows them again.
pub struct Nonces {
    key: hmac::Key,
    /// How long the same nonce is given out: half of the longest time for which it is accepted.
    turn: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Fresh,
    /// Still good, but the client should be given the next one.
    Old,
    Bad,
}

impl Nonces {
    /// A nonce is accepted for at least half of `lifetime`, and never longer than all of it. At least 2 s.
    pub fn new(key: hmac::Key, lifetime: Duration) -> Self {
        Self { key, turn: (lifetime.as_secs() / 2).max(1) }
    }

    /// Replicas with the same secret know each other's.
    pub fn with_secret(secret: &[u8], lifetime: Duration) -> Self {
        Self::new(hmac::Key::new(hmac::HMAC_SHA256, secret), lifetime)
    }

    pub fn current(&self, now: SystemTime) -> String {
        URL_SAFE_NO_PAD.encode(self.of_turn(self.turn_at(now)))
    }

    pub fn judge(&self, nonce: &str, now: SystemTime) -> State {
        let Ok(presented) = jose::base64url(nonce) else { return State::Bad };
        let turn = self.turn_at(now);
        let is = |turn| verify_slices_are_equal(&self.of_turn(turn), &presented).is_ok();
        match turn {
            _ if is(turn) => State::Fresh,
            _ if turn > 0 && is(turn - 1) => State::Old,
            _ => State::Bad,
        }
    }

    fn turn_at(&self, now: SystemTime) -> u64 {
        now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() / self.turn
    }

    fn of_turn(&self, turn: u64) -> Vec<u8> {
        let mut context = hmac::Context::with_key(&self.key);
        // Another use of the same secret, or another lifetime, gives other nonces.
        context.update(b"dpop-nonce");
        context.update(&self.turn.to_be_bytes());
        context.update(&turn.to_be_bytes());
        context.sign().as_ref().iter().take(TAG).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nonce_is_good_for_its_turn_and_the_next_and_then_never_again() {
        let nonces = Nonces::with_secret(&[7; 32], Duration::from_secs(60));
        let start = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let at = |seconds| start + Duration::from_secs(seconds);
        let nonce = nonces.current(start);
        let states: Vec<State> = [0, 29, 30, 59, 60, 3600].map(|seconds| nonces.judge(&nonce, at(seconds))).into();
        assert_eq!(states, [State::Fresh, State::Fresh, State::Old, State::Old, State::Bad, State::Bad]);
        assert_eq!(nonces.judge(&nonces.current(at(60)), start), State::Bad, "of the future");
        assert_eq!(Nonces::with_secret(&[8; 32], Duration::from_secs(60)).judge(&nonce, start), State::Bad);
        for forged in ["", "AAAA", &nonce[1..], &format!("{nonce}A")] {
            assert_eq!(nonces.judge(forged, start), State::Bad, "{forged}");
        }
    }
}
