//! RSA keys that must not be trusted though they are long enough: the ROCA fingerprint (CVE-2017-15361).
//!
//! The flawed generator made primes `k * M + (65537^a mod M)`. So, for every small prime of `M`, the modulus is a power
//! of 65537; a modulus of another origin passes all of these tests with a probability of about 2^-27.

const PRIMES: [u32; 38] = [
    3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97, 101, 103, 107, 109, 113, 127,
    131, 137, 139, 149, 151, 157, 163, 167,
];

/// `modulus` is big-endian.
pub(crate) fn has_roca_fingerprint(modulus: &[u8]) -> bool {
    PRIMES.iter().all(|prime| is_power_of_65537(remainder(modulus, *prime), *prime))
}

fn remainder(number: &[u8], by: u32) -> u32 {
    number.iter().fold(0, |rest, byte| (rest * 256 + u32::from(*byte)) % by)
}

fn is_power_of_65537(value: u32, prime: u32) -> bool {
    let base = 65_537 % prime;
    let mut power = 1;
    for _ in 0..prime {
        if power == value {
            return true;
        }
        power = power * base % prime;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ordinary_modulus_has_no_fingerprint() {
        assert_eq!(remainder(&[1, 0, 1], 7), 65_537 % 7);
        assert!(!has_roca_fingerprint(&[0xff; 256]));
        // 65537 itself is a power of itself for every prime.
        assert!(has_roca_fingerprint(&[1, 0, 1]));
    }
}
