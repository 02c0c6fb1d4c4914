//! Reason codes: the stable, dotted names of why a request was decided as it was.
//!
//! The same code appears in the access log, the metrics, the audit record and `portcullis explain`. A code is never
//! renamed; a new cause gets a new code.

use std::fmt;

/// A stable, dotted, lower-case name such as `token.audience.mismatch`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReasonCode(&'static str);

impl ReasonCode {
    /// A code of your own. Use a first segment that is yours (`acme.quota.exceeded`), so that it cannot meet one of
    /// the gateway's.
    ///
    /// # Panics
    /// At compile time when used in a `const`, if the name is not `segment(.segment)+` of `a-z`, `0-9` and `_`.
    pub const fn new(name: &'static str) -> Self {
        let bytes = name.as_bytes();
        let mut i = 0;
        let mut dots = 0;
        let mut segment = 0;
        while i < bytes.len() {
            let b = bytes[i];
            if b == b'.' {
                assert!(segment > 0, "a reason code has no empty segment");
                dots += 1;
                segment = 0;
            } else {
                assert!(b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_', "a reason code is a-z, 0-9, _ and dots");
                segment += 1;
            }
            i += 1;
        }
        assert!(dots > 0 && segment > 0, "a reason code has at least two segments");
        Self(name)
    }

    pub const fn as_str(self) -> &'static str {
        self.0
    }
}

impl fmt::Display for ReasonCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl fmt::Debug for ReasonCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl serde::Serialize for ReasonCode {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0)
    }
}

/// One row of the published table of reason codes.
#[derive(Debug, Clone, Copy)]
pub struct ReasonInfo {
    pub code: ReasonCode,
    /// The status a client sees.
    pub status: u16,
    /// What it means, in one sentence.
    pub meaning: &'static str,
    /// What the operator does about it.
    pub remedy: &'static str,
}

macro_rules! reasons {
    ($($konst:ident = $name:literal, $status:literal, $meaning:literal, $remedy:literal;)*) => {
        $(#[doc = $meaning] pub const $konst: ReasonCode = ReasonCode::new($name);)*
        /// Every reason code of the gateway and its built-in filters, with its meaning.
        pub const TABLE: &[ReasonInfo] = &[$(ReasonInfo { code: $konst, status: $status, meaning: $meaning, remedy: $remedy },)*];
    };
}

reasons! {
    IP_DENIED = "ip.denied", 403, "The client's address is denied, or is in no allowed network.", "Compare the address with the route's ip_allow lists; behind another proxy, check `trusted_proxies`.";
    CERT_MISSING = "cert.missing", 403, "The route requires a client certificate and the client presented none.", "Send a certificate in the TLS handshake; check that the listener has `client_auth`.";
    CERT_UNTRUSTED = "cert.untrusted", 403, "The client certificate's chain does not lead to a trusted CA, or may not be used for client authentication.", "Compare the issuer with the CA bundle of `client_auth`.";
    CERT_EXPIRED = "cert.expired", 403, "The client certificate is past its validity, or not yet in it.", "Renew the certificate, or check the clocks.";
    CERT_REVOKED = "cert.revoked", 403, "The client certificate is on the CRL.", "Issue a new certificate.";
    CERT_NAME_MISMATCH = "cert.name.mismatch", 403, "The client certificate is valid, but matches none of the names the route asks for.", "Compare the certificate's names with those of the route's client_cert filter.";
    CERT_FORWARDED_MISSING = "cert.forwarded.missing", 403, "The route requires a client certificate, and the trusted proxy handed none on.", "Have the client send one to the proxy, and the proxy hand it on in the header of the listener's `client_cert`.";
    CERT_FORWARDED_INVALID = "cert.forwarded.invalid", 403, "The header in which the trusted proxy hands the client certificate on cannot be read without doubt.", "The proxy must replace what clients send under that name, and write it once; the failed check names what cannot be read.";
    CERT_FORWARDED_UNTRUSTED = "cert.forwarded.untrusted", 403, "The chain of the client certificate that a trusted proxy handed on does not lead to a trusted CA, or may not be used for client authentication.", "Compare the issuer with the CA bundle of `client_cert`; the proxy must hand on the intermediate certificates too.";
    CERT_FORWARDED_EXPIRED = "cert.forwarded.expired", 403, "The client certificate that a trusted proxy handed on is past its validity, or not yet in it.", "Renew the certificate, or check the clocks.";
    CERT_FORWARDED_REVOKED = "cert.forwarded.revoked", 403, "The client certificate that a trusted proxy handed on is on the CRL.", "Issue a new certificate.";
    CERT_FORWARDED_NAME_MISMATCH = "cert.forwarded.name.mismatch", 403, "The client certificate that a trusted proxy handed on is valid, but matches none of the names the route asks for.", "Compare the certificate's names with those of the route's client_cert filter.";
    TOKEN_MISSING = "token.missing", 401, "No bearer token was sent.", "Send `Authorization: Bearer …`.";
    TOKEN_MALFORMED = "token.malformed", 401, "What was sent is not a well-formed signed JWT.", "The failed check names the part that cannot be read.";
    TOKEN_ALG_REFUSED = "token.alg.refused", 401, "The token's algorithm is not one the issuer is configured for.", "Add the algorithm to the issuer's `algorithms`, if it should be trusted.";
    TOKEN_CRIT_REFUSED = "token.crit.refused", 401, "The token has a header that changes how it must be verified (`crit`, `jwk`, `jku`, `x5u`, `x5c`, `b64`).", "Have the issuer leave the header out.";
    TOKEN_TYP_REFUSED = "token.typ.refused", 401, "The token is of another type than an access token.", "Send the access token, not the ID token or a logout token.";
    TOKEN_KID_UNKNOWN = "token.kid.unknown", 401, "No key of the issuer has the token's key id, also after asking the issuer again.", "Check that the token comes from this issuer and that its keys are published.";
    TOKEN_SIGNATURE_INVALID = "token.signature.invalid", 401, "The signature does not verify with the issuer's key.", "The token was altered, or signed with another key of the same id.";
    TOKEN_ISSUER_MISMATCH = "token.issuer.mismatch", 401, "The token's `iss` is not the configured issuer, to the letter.", "Compare both: a trailing slash, http against https, or v1 against v2 are the common causes.";
    TOKEN_AUDIENCE_MISMATCH = "token.audience.mismatch", 401, "None of the token's audiences is accepted here.", "Request the token for this API, or add the audience to the issuer or route.";
    TOKEN_EXPIRED = "token.expired", 401, "The token is past its `exp`, leeway included.", "Refresh the token; if the difference is small, check the clocks.";
    TOKEN_NOT_YET_VALID = "token.not_yet_valid", 401, "The token's `nbf` or `iat` lies in the future, leeway included.", "Check the clocks of the issuer and of this machine.";
    TOKEN_SCOPE_MISSING = "token.scope.missing", 403, "The token is valid, but lacks a required scope.", "Have the client request the scope.";
    TOKEN_ROLE_MISSING = "token.role.missing", 403, "The token is valid, but its user has none of the required roles.", "Grant the role, or check the issuer's role mapping.";
    TOKEN_CLAIM_MISMATCH = "token.claim.mismatch", 403, "The token is valid, but a claim has not the required value.", "Have the issuer put a value that is expected into the claim, or correct the route's `claims`.";
    TOKEN_BINDING_MISMATCH = "token.binding.mismatch", 401, "The token is bound to a key or certificate (`cnf`) that this request does not prove, or that this route cannot check.", "Send the proof, or use a token without binding.";
    DPOP_PROOF_INVALID = "dpop.proof.invalid", 401, "The request has no DPoP proof, or one that is not good for this request and this token (RFC 9449, section 4.3).", "The failed check names the part: method, URL, time, token, key or signature; the client makes a new proof for each request.";
    DPOP_NONCE_REQUIRED = "dpop.nonce.required", 401, "The DPoP proof has no nonce of this gateway, or one that is too old.", "The client repeats the request with the nonce from `DPoP-Nonce`; nothing, unless there are many.";
    DPOP_REPLAY = "dpop.replay", 401, "The DPoP proof was used before.", "The client makes a new proof for each request, retries included; else somebody repeats what they have overheard.";
    DPOP_REPLAY_FULL = "dpop.replay.full", 503, "There is no room to remember another DPoP proof, so a replay of it could not be told.", "Lower `max_age` of `binding.dpop`, add replicas, and look for a client that makes proofs without end.";
    TOKEN_INACTIVE = "token.inactive", 401, "The issuer says the token is no longer active.", "Obtain a new token.";
    TOKEN_REVOKED = "token.revoked", 401, "This gateway was told that the token is revoked.", "Obtain a new token. The audit log has the revocation as a record `token.revoked`.";
    API_KEY_MISSING = "api_key.missing", 401, "No API key was sent.", "Send the key where `expected` says.";
    API_KEY_UNKNOWN = "api_key.unknown", 401, "What was sent is not one API key that is known here.", "Check that the client sends one whole key, and that its hash is in the file of the route's api_key filter.";
    API_KEY_EXPIRED = "api_key.expired", 401, "The API key is known, but past its `expires`.", "Issue a new key.";
    ISSUER_UNAVAILABLE = "issuer.unavailable", 503, "The issuer is needed and cannot be had: it never gave keys, its last keys are older than allowed, or it does not say whether a token is active.", "Check the issuer, the way to it and the credentials of `introspection`; see portcullis_issuer_keys_age_seconds.";
    IDENTITY_MISSING = "identity.missing", 403, "A header or key that must come from a verified identity has no value, or one that is too long.", "Put an authenticating filter before, have the issuer say more or less, or make the header optional.";
    AUTHORIZE_DENIED = "authorize.denied", 403, "The route's rule does not allow this request; 401 instead of 403 if the rule asks who is calling and nobody is known.", "Compare the rule with the request and the principal; `portcullis explain` says what another request would come to.";
    AUTHORIZE_EXTERNAL_DENIED = "authorize.external.denied", 403, "The authorization service that the route asks does not allow this request; another status instead of 403 if that is what the service answered.", "Look into the service's own log under the decision id, which it is told as `X-Decision-Id`, and over gRPC as `request.http.id`.";
    AUTHORIZE_EXTERNAL_UNAVAILABLE = "authorize.external.unavailable", 503, "The authorization service that the route asks gave no answer that counts: none in time, or none that allows or refuses.", "Check the service, the way to it, and `timeout` and `max_concurrent` of the route's external_authorize filter.";
    RATE_EXCEEDED = "rate.exceeded", 429, "The caller has used up its rate.", "Wait for `Retry-After` seconds.";
    RATE_QUOTA_EXHAUSTED = "rate.quota.exhausted", 429, "The caller has used up its quota of the day or month (UTC).", "Wait for the period's end, which `Retry-After` says, or give the caller a larger quota: see `tiers` and `overrides` of rate_limit.";
    CORS_DENIED = "cors.denied", 403, "The preflight asks for an origin, method or header that the route does not allow.", "Add it to the route's cors filter, if it should be allowed.";
    REQUEST_AMBIGUOUS = "request.ambiguous", 400, "Two HTTP parsers could read this request differently, or it is not HTTP.", "The failed check names the offending part; the client or a proxy before this one is at fault.";
    REQUEST_TOO_LARGE = "request.too_large", 413, "The body is larger than allowed.", "Raise `limits.body`, if such requests are meant.";
    REQUEST_HEADERS_TOO_LARGE = "request.headers.too_large", 431, "The request head has too many bytes or fields.", "Raise `limits.header_bytes` or `limits.header_fields`, if such requests are meant.";
    REQUEST_TIMEOUT = "request.timeout", 408, "The client did not send its request in time.", "The client is slow or attacking; see `limits.header_timeout`.";
    REQUEST_MISDIRECTED = "request.misdirected", 421, "The request's host does not belong to the TLS name of its connection, and their certificate rules differ.", "The client opens a new connection by itself.";
    REQUEST_UPGRADE_REFUSED = "request.upgrade.refused", 400, "The upgrade asked for is malformed or not supported.", "Only WebSocket over HTTP/1.1 is forwarded.";
    ROUTE_NONE = "route.none", 404, "No route matches the request.", "`portcullis check` shows what each route matches.";
    METHOD_NOT_ALLOWED = "route.method", 405, "A route matches but for the method.", "Add the method to the route's `methods`.";
    POOL_NO_HEALTHY_BACKEND = "pool.no_healthy_backend", 503, "Every backend of the pool is down.", "See portcullis_backend_up and the health check's last error.";
    UPSTREAM_CONNECT = "upstream.connect", 502, "No connection to a backend could be made.", "Check that the backend listens, and its TLS settings.";
    UPSTREAM_TIMEOUT = "upstream.timeout", 504, "The backend did not answer in time.", "Check the backend, or raise the pool's timeouts.";
    UPSTREAM_RESET = "upstream.reset", 502, "The backend closed or broke the connection before its response was complete.", "Check the backend's log under the decision id.";
    UPSTREAM_INVALID = "upstream.invalid", 502, "The backend's response is ambiguous or not HTTP.", "Check what the backend sends.";
    CLIENT_GONE = "client.gone", 499, "The client went away before its response was complete.", "Nothing, unless there are many.";
    FILTER_FAULT = "filter.fault", 500, "A filter failed or panicked; the request was refused.", "See the log under the decision id: this is a bug in the filter.";
    GATEWAY_FAULT = "gateway.fault", 500, "The gateway itself failed.", "See the log under the decision id, and report it.";
    AUDIT_UNAVAILABLE = "audit.unavailable", 503, "Decisions cannot be recorded in the audit log, and the configuration does not say to go on without.", "Make room on the disk, or mend it: the log goes on by itself. See portcullis_audit_failing; `audit_log.on_failure` says what happens meanwhile.";
}

/// The row of `code`, if it is one of the gateway's own.
pub fn info(code: ReasonCode) -> Option<&'static ReasonInfo> {
    TABLE.iter().find(|row| row.code == code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique() {
        let mut names: Vec<_> = TABLE.iter().map(|row| row.code.as_str()).collect();
        names.sort_unstable();
        let before = names.len();
        names.dedup();
        assert_eq!(before, names.len());
    }

    #[test]
    #[should_panic(expected = "two segments")]
    fn a_code_has_two_segments() {
        let _ = ReasonCode::new("denied");
    }
}
