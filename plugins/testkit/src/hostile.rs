//! Every token that must not be accepted, with the reasons that a refusal may give.

use crate::error::Error;
use crate::token::{Alg, SignWith, Tamper, TokenIssuer, TokenSpec};
use portcullis_plugin::ReasonCode;
use portcullis_plugin::reason::{
    TOKEN_ALG_REFUSED, TOKEN_AUDIENCE_MISMATCH, TOKEN_BINDING_MISMATCH, TOKEN_CRIT_REFUSED, TOKEN_EXPIRED, TOKEN_ISSUER_MISMATCH,
    TOKEN_KID_UNKNOWN, TOKEN_MALFORMED, TOKEN_NOT_YET_VALID, TOKEN_SIGNATURE_INVALID, TOKEN_TYP_REFUSED,
};
use serde_json::{Value, json};

/// A token that must be refused.
#[derive(Debug, Clone)]
pub struct Hostile {
    /// What is wrong with it.
    pub name: String,
    pub token: String,
    /// The reasons that fit. More than one where two checks fail and either may come first.
    pub reasons: &'static [ReasonCode],
}

const ALG: &[ReasonCode] = &[TOKEN_ALG_REFUSED];
const ALG_OR_FORM: &[ReasonCode] = &[TOKEN_ALG_REFUSED, TOKEN_MALFORMED];
const SIGNATURE: &[ReasonCode] = &[TOKEN_SIGNATURE_INVALID];
const SIGNATURE_OR_FORM: &[ReasonCode] = &[TOKEN_SIGNATURE_INVALID, TOKEN_MALFORMED];
const KID: &[ReasonCode] = &[TOKEN_KID_UNKNOWN];
const KID_OR_SIGNATURE: &[ReasonCode] = &[TOKEN_KID_UNKNOWN, TOKEN_SIGNATURE_INVALID, TOKEN_ALG_REFUSED];
const CRIT: &[ReasonCode] = &[TOKEN_CRIT_REFUSED];
const CRIT_OR_FORM: &[ReasonCode] = &[TOKEN_CRIT_REFUSED, TOKEN_MALFORMED];
const FORM: &[ReasonCode] = &[TOKEN_MALFORMED];
const TYP: &[ReasonCode] = &[TOKEN_TYP_REFUSED];
const ISSUER: &[ReasonCode] = &[TOKEN_ISSUER_MISMATCH];
const ISSUER_OR_FORM: &[ReasonCode] = &[TOKEN_ISSUER_MISMATCH, TOKEN_MALFORMED];
const AUDIENCE: &[ReasonCode] = &[TOKEN_AUDIENCE_MISMATCH];
const AUDIENCE_OR_FORM: &[ReasonCode] = &[TOKEN_AUDIENCE_MISMATCH, TOKEN_MALFORMED];
const EXPIRED: &[ReasonCode] = &[TOKEN_EXPIRED];
const EXPIRED_OR_FORM: &[ReasonCode] = &[TOKEN_EXPIRED, TOKEN_MALFORMED];
const EARLY: &[ReasonCode] = &[TOKEN_NOT_YET_VALID];
const EARLY_OR_FORM: &[ReasonCode] = &[TOKEN_NOT_YET_VALID, TOKEN_MALFORMED];
const BOUND: &[ReasonCode] = &[TOKEN_BINDING_MISMATCH];

type Case = (&'static str, TokenSpec, &'static [ReasonCode]);

impl TokenIssuer {
    /// Variants of `good`, a token that would be accepted, each wrong in one way. `good` decides the algorithm, the
    /// audience and the scopes.
    ///
    /// # Errors
    /// If a key cannot be made.
    pub fn hostile(&self, good: &TokenSpec) -> Result<Vec<Hostile>, Error> {
        let mut cases = signatures(good);
        cases.extend(headers(good, &self.foreign_jwk(Alg::Rs256)?));
        cases.extend(forms(good));
        cases.extend(claims(good, self.issuer()));
        let mut all = Vec::with_capacity(cases.len());
        for (name, spec, reasons) in cases {
            all.push(Hostile { name: name.to_owned(), token: self.issue(&spec)?, reasons });
        }
        Ok(all)
    }
}

/// Who signed it, if anybody.
fn signatures(good: &TokenSpec) -> Vec<Case> {
    let signed = |signer| good.clone().sign_with(signer);
    let tampered = |tamper| good.clone().tamper(tamper);
    vec![
        ("alg none", signed(SignWith::Nobody), ALG_OR_FORM),
        ("alg None", signed(SignWith::Nobody).header("alg", "None"), ALG_OR_FORM),
        ("alg NONE with a signature", good.clone().header("alg", "NONE"), ALG_OR_FORM),
        ("HS256 with the public key as PEM", signed(SignWith::PublicKeyPem), ALG),
        ("HS256 with the public key as DER", signed(SignWith::PublicKeyDer), ALG),
        ("HS256 with an empty secret", signed(SignWith::Secret(Vec::new())), ALG),
        ("alg is a number", good.clone().header("alg", 256), ALG_OR_FORM),
        ("no alg", good.clone().without_header("alg"), ALG_OR_FORM),
        ("an alg that nobody knows", good.clone().header("alg", "RS257"), ALG_OR_FORM),
        ("foreign key under our kid", signed(SignWith::Foreign), SIGNATURE),
        ("foreign key under its own kid", signed(SignWith::Foreign).kid("foreign-0"), KID),
        ("foreign key without kid", signed(SignWith::Foreign).without_header("kid"), KID_OR_SIGNATURE),
        ("kid is a path", signed(SignWith::Foreign).kid("../../../../dev/null"), KID),
        ("kid is SQL", signed(SignWith::Foreign).kid("x' UNION SELECT 'secret"), KID),
        ("kid is a number", good.clone().header("kid", 0), &[TOKEN_KID_UNKNOWN, TOKEN_MALFORMED]),
        ("kid of another algorithm's key", other_kid(good), KID_OR_SIGNATURE),
        ("changed claims", tampered(Tamper::Subject), SIGNATURE),
        ("a flipped bit", tampered(Tamper::SignatureBit), SIGNATURE),
        ("a short signature", tampered(Tamper::SignatureShort), SIGNATURE_OR_FORM),
        ("a signature of zeros", tampered(Tamper::SignatureZero), SIGNATURE),
        ("an empty signature", tampered(Tamper::SignatureEmpty), SIGNATURE_OR_FORM),
    ]
}

fn other_kid(good: &TokenSpec) -> TokenSpec {
    good.clone().alg(Alg::Rs256).kid("es256-0")
}

/// Headers that would change how the token is verified.
fn headers(good: &TokenSpec, foreign: &Value) -> Vec<Case> {
    let forged = || good.clone().alg(Alg::Rs256).sign_with(SignWith::Foreign);
    let elsewhere = "https://attacker.example/keys";
    vec![
        ("its own key in jwk", forged().header("jwk", foreign.clone()), CRIT),
        ("its own key in jwk, under its own kid", forged().kid("foreign").header("jwk", foreign.clone()), CRIT),
        ("jku", forged().header("jku", elsewhere), CRIT),
        ("x5u", forged().header("x5u", elsewhere), CRIT),
        ("x5c", forged().header("x5c", json!(["MIIB"])), CRIT),
        ("crit with a known name", good.clone().header("crit", json!(["exp"])), CRIT),
        ("crit with an unknown name", good.clone().header("crit", json!(["x"])).header("x", true), CRIT),
        ("crit empty", good.clone().header("crit", json!([])), CRIT_OR_FORM),
        ("crit is text", good.clone().header("crit", "exp"), CRIT_OR_FORM),
        ("b64 false", good.clone().header("b64", false), CRIT),
        ("b64 false and crit", good.clone().header("b64", false).header("crit", json!(["b64"])), CRIT),
        ("an ID token's typ", good.clone().header("typ", "id+jwt"), TYP),
        ("a logout token's typ", good.clone().header("typ", "logout+jwt"), TYP),
        ("a DPoP proof's typ", good.clone().header("typ", "dpop+jwt"), TYP),
        ("typ is a list", good.clone().header("typ", json!(["at+jwt"])), &[TOKEN_TYP_REFUSED, TOKEN_MALFORMED]),
    ]
}

/// What is not a signed JWT at all.
fn forms(good: &TokenSpec) -> Vec<Case> {
    let tampered = |tamper| good.clone().tamper(tamper);
    vec![
        ("two parts", tampered(Tamper::NoSignaturePart), FORM),
        ("four parts", tampered(Tamper::ExtraPart), FORM),
        ("padding", tampered(Tamper::Padded), &[TOKEN_MALFORMED, TOKEN_SIGNATURE_INVALID]),
        ("claims are no JSON", tampered(Tamper::Payload(b"sub=alice".to_vec())), FORM),
        ("claims are a list", tampered(Tamper::Payload(b"[]".to_vec())), FORM),
        ("claims are empty", tampered(Tamper::Payload(Vec::new())), FORM),
        ("claims are no UTF-8", tampered(Tamper::Payload(b"{\"sub\":\"\xFF\"}".to_vec())), FORM),
        ("header is no JSON", tampered(Tamper::Header(b"RS256".to_vec())), FORM),
        ("header is a list", tampered(Tamper::Header(b"[\"RS256\"]".to_vec())), FORM),
        ("header is nested too deep", tampered(Tamper::Header([b'['; 5_000].to_vec())), FORM),
    ]
}

fn claims(good: &TokenSpec, issuer: &str) -> Vec<Case> {
    let with = |name: &str, value: Value| good.clone().claim(name, value);
    vec![
        ("no iss", good.clone().without("iss"), ISSUER_OR_FORM),
        ("another iss", with("iss", "https://attacker.example".into()), ISSUER),
        ("iss with a slash more", with("iss", format!("{issuer}/").into()), ISSUER),
        ("iss in capitals", with("iss", issuer.to_ascii_uppercase().into()), ISSUER),
        ("iss is a list with ours in it", with("iss", json!([issuer, "https://attacker.example"])), ISSUER_OR_FORM),
        ("iss is a number", with("iss", 7.into()), ISSUER_OR_FORM),
        ("no aud", good.clone().without("aud"), AUDIENCE_OR_FORM),
        ("another aud", with("aud", "https://other.example".into()), AUDIENCE),
        ("aud is empty", with("aud", json!([])), AUDIENCE_OR_FORM),
        ("aud is a number", with("aud", 1.into()), AUDIENCE_OR_FORM),
        ("aud is true", with("aud", true.into()), AUDIENCE_OR_FORM),
        ("expired", good.clone().expires_in(-3600).not_before_in(-7200).issued_in(-7200), EXPIRED),
        ("no exp", good.clone().without("exp"), EXPIRED_OR_FORM),
        ("exp is text", with("exp", "9999999999".into()), EXPIRED_OR_FORM),
        ("exp is negative", with("exp", (-1).into()), EXPIRED_OR_FORM),
        ("exp is zero", with("exp", 0.into()), EXPIRED),
        ("not valid yet", good.clone().not_before_in(3600), EARLY),
        ("issued in the future", good.clone().issued_in(3600), EARLY),
        ("nbf is text", with("nbf", "0".into()), EARLY_OR_FORM),
        ("bound to a certificate", with("cnf", json!({ "x5t#S256": "bwcK0esc3ACC3DB2Y5_lESsXE8o9ltc05O89jdN-dg2" })), BOUND),
        ("bound to a key", with("cnf", json!({ "jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I" })), BOUND),
        ("bound to something unknown", with("cnf", json!({ "x": "y" })), BOUND),
    ]
}
