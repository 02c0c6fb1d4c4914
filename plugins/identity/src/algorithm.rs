//! The signature algorithms of RFC 7518 and RFC 8037 that a token may use.
//!
//! Symmetric ones (`HS256`…) and `none` have no value here, so no code path can accept them.

use aws_lc_rs::signature as crypto;
use std::fmt;

/// A signature algorithm, by its JOSE name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, schemars::JsonSchema)]
pub enum Algorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    #[schemars(rename = "RS256")]
    Rs256,
    #[schemars(rename = "RS384")]
    Rs384,
    #[schemars(rename = "RS512")]
    Rs512,
    /// RSASSA-PSS with SHA-256.
    #[schemars(rename = "PS256")]
    Ps256,
    #[schemars(rename = "PS384")]
    Ps384,
    #[schemars(rename = "PS512")]
    Ps512,
    /// ECDSA with P-256 and SHA-256.
    #[schemars(rename = "ES256")]
    Es256,
    /// ECDSA with P-384 and SHA-384.
    #[schemars(rename = "ES384")]
    Es384,
    /// ECDSA with P-521 and SHA-512.
    #[schemars(rename = "ES512")]
    Es512,
    /// Ed25519; also known as `Ed25519` since RFC 9864.
    #[schemars(rename = "EdDSA")]
    EdDsa,
}

/// The kind of key that an algorithm needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Family {
    Rsa,
    P256,
    P384,
    P521,
    Ed25519,
}

impl Algorithm {
    pub(crate) const ALL: [Self; 10] = [
        Self::Rs256,
        Self::Rs384,
        Self::Rs512,
        Self::Ps256,
        Self::Ps384,
        Self::Ps512,
        Self::Es256,
        Self::Es384,
        Self::Es512,
        Self::EdDsa,
    ];

    /// The name in a token's `alg`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Rs384 => "RS384",
            Self::Rs512 => "RS512",
            Self::Ps256 => "PS256",
            Self::Ps384 => "PS384",
            Self::Ps512 => "PS512",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::Es512 => "ES512",
            Self::EdDsa => "EdDSA",
        }
    }

    /// Names are case-sensitive, as RFC 7515 says.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        // RFC 9864 gives EdDSA with Ed25519 a name of its own; issuers begin to use it.
        if name == "Ed25519" {
            return Some(Self::EdDsa);
        }
        Self::ALL.into_iter().find(|algorithm| algorithm.name() == name)
    }

    pub(crate) const fn family(self) -> Family {
        match self {
            Self::Rs256 | Self::Rs384 | Self::Rs512 | Self::Ps256 | Self::Ps384 | Self::Ps512 => Family::Rsa,
            Self::Es256 => Family::P256,
            Self::Es384 => Family::P384,
            Self::Es512 => Family::P521,
            Self::EdDsa => Family::Ed25519,
        }
    }

    pub(crate) const fn rsa_parameters(self) -> Option<&'static crypto::RsaParameters> {
        match self {
            Self::Rs256 => Some(&crypto::RSA_PKCS1_2048_8192_SHA256),
            Self::Rs384 => Some(&crypto::RSA_PKCS1_2048_8192_SHA384),
            Self::Rs512 => Some(&crypto::RSA_PKCS1_2048_8192_SHA512),
            Self::Ps256 => Some(&crypto::RSA_PSS_2048_8192_SHA256),
            Self::Ps384 => Some(&crypto::RSA_PSS_2048_8192_SHA384),
            Self::Ps512 => Some(&crypto::RSA_PSS_2048_8192_SHA512),
            Self::Es256 | Self::Es384 | Self::Es512 | Self::EdDsa => None,
        }
    }
}

impl Family {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Rsa => "RSA",
            Self::P256 => "EC P-256",
            Self::P384 => "EC P-384",
            Self::P521 => "EC P-521",
            Self::Ed25519 => "Ed25519",
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl<'de> serde::Deserialize<'de> for Algorithm {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = std::borrow::Cow::<str>::deserialize(deserializer)?;
        Self::from_name(&name).ok_or_else(|| serde::de::Error::custom(refusal(&name)))
    }
}

/// Why `name` cannot stand in a configuration.
fn refusal(name: &str) -> String {
    let known = || Algorithm::ALL.map(Algorithm::name).join(", ");
    match name.to_ascii_uppercase().as_str() {
        "NONE" => "`none` is no signature and is never accepted".to_owned(),
        "HS256" | "HS384" | "HS512" => format!(
            "`{name}` is symmetric: whoever can verify such a token can also forge it, so it is never accepted; have the issuer sign with one of {}",
            known()
        ),
        "ES256K" => format!("`{name}` is not supported; known: {}", known()),
        upper => match Algorithm::ALL.iter().find(|known| known.name().eq_ignore_ascii_case(upper)) {
            Some(meant) => format!("unknown algorithm `{name}`; did you mean `{meant}`?"),
            None => format!("unknown algorithm `{name}`; known: {}", known()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_asymmetric_is_refused_with_the_reason() {
        for (name, part) in [
            ("none", "never accepted"),
            ("HS256", "symmetric"),
            ("ES256K", "not supported"),
            ("rs256", "did you mean `RS256`"),
            ("XX", "known:"),
        ] {
            let error = serde_json::from_value::<Algorithm>(name.into()).unwrap_err().to_string();
            assert!(error.contains(part), "{name}: {error}");
        }
        assert_eq!(Algorithm::from_name("Ed25519"), Some(Algorithm::EdDsa));
    }
}
