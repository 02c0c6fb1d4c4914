//! Decision ids: one per request, the same in the response, the log, the metrics' exemplars and `portcullis why`.

use std::fmt;

/// 96 random bits as 24 lower-case hexadecimal digits. It names a decision; it is not a secret.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct DecisionId([u8; 24]);

impl DecisionId {
    pub fn random() -> Self {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let mut text = [0; 24];
        let bits = fastrand::u128(..).to_le_bytes();
        for (digits, byte) in text.as_chunks_mut::<2>().0.iter_mut().zip(bits) {
            *digits = [HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]];
        }
        Self(text)
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub fn as_str(&self) -> &str {
        // Only `random` makes one, from ASCII digits.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Display for DecisionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for DecisionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_differ_and_are_hex() {
        let (a, b) = (DecisionId::random(), DecisionId::random());
        assert_ne!(a, b);
        assert!(a.as_str().len() == 24 && a.as_str().bytes().all(|c| c.is_ascii_hexdigit()));
    }
}
