//! The bearer token of the admin listener.

use portcullis_plugin::{ConfigError, Env};
use std::fmt;
use subtle::ConstantTimeEq;

/// Characters that a token has at least: shorter ones can be guessed.
const MIN_LENGTH: usize = 16;
const MAX_LENGTH: usize = 4096;

/// A secret. It is shown nowhere.
pub struct AdminToken(Box<str>);

impl AdminToken {
    /// The first line of a file.
    ///
    /// # Errors
    /// If the file cannot be read or its first line is no token. The error never shows the line.
    pub fn read(path: &str, env: &Env) -> Result<Self, ConfigError> {
        Self::parse(&env.read(path)?)
    }

    fn parse(content: &[u8]) -> Result<Self, ConfigError> {
        let line = content.split(|b| *b == b'\n').next().unwrap_or_default().trim_ascii();
        let refuse = |what: String| ConfigError::new(what).help("write a random one with `openssl rand -hex 32`");
        match std::str::from_utf8(line) {
            Ok(token) if !line.iter().all(u8::is_ascii_graphic) || token.len() > MAX_LENGTH => {
                Err(refuse(format!("the first line is no token: it has visible ASCII characters only, and at most {MAX_LENGTH}")))
            }
            Ok(token) if token.len() < MIN_LENGTH => {
                Err(refuse(format!("the token has {} characters, and at least {MIN_LENGTH} are needed", token.len())))
            }
            Ok(token) => Ok(Self(token.into())),
            Err(_) => Err(refuse("the first line is no token: it is not UTF-8".to_owned())),
        }
    }

    /// Whether an `Authorization` header brings this token. How long that takes does not depend on where they differ.
    pub(super) fn is_in(&self, authorization: &[u8]) -> bool {
        let Some((scheme, token)) = authorization.iter().position(|b| *b == b' ').map(|at| authorization.split_at(at)) else {
            return false;
        };
        scheme.eq_ignore_ascii_case(b"bearer") && bool::from(token.trim_ascii().ct_eq(self.0.as_bytes()))
    }
}

impl fmt::Debug for AdminToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AdminToken(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_is_the_token() {
        for content in ["0123456789abcdef", "0123456789abcdef\n", "0123456789abcdef\r\nrest\n", " 0123456789abcdef \n"] {
            let token = AdminToken::parse(content.as_bytes()).unwrap();
            assert!(token.is_in(b"Bearer 0123456789abcdef") && token.is_in(b"bearer  0123456789abcdef"), "{content:?}");
            assert_eq!(format!("{token:?}"), "AdminToken(..)");
        }
    }

    #[test]
    fn what_is_no_token_is_refused_and_not_shown() {
        for content in [
            &b""[..],
            b"\n0123456789abcdef",
            b"short-secret",
            b"0123456789 abcdef",
            b"0123456789abcdef\xff",
            "0123456789abcdefü".as_bytes(),
            &[b'a'; 5000],
        ] {
            let error = AdminToken::parse(content).unwrap_err().to_string();
            assert!(!error.contains("short-secret") && !error.contains("0123456789"), "{error}");
        }
    }

    #[test]
    fn only_the_whole_token_after_bearer_opens() {
        let token = AdminToken::parse(b"0123456789abcdef").unwrap();
        for authorization in [
            "",
            "Bearer",
            "Bearer ",
            "Bearer 0123456789abcde",
            "Bearer 0123456789abcdeff",
            "Bearer 0123456789ABCDEF",
            "Basic 0123456789abcdef",
            "0123456789abcdef",
            "Bearer0123456789abcdef",
            "Bearer 0123456789abcdef, x",
        ] {
            assert!(!token.is_in(authorization.as_bytes()), "{authorization}");
        }
    }
}
