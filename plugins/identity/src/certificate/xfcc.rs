//! `X-Forwarded-Client-Cert`, as Envoy's documentation describes it ("HTTP header manipulation", section of that name).
//!
//! Elements are separated by `,`, the pairs of one by `;`, and a value that has one of `,;=` stands in double quotes, with
//! `\"` for a quote. Each proxy appends an element about the client of its own connection. So the last one is from the proxy
//! that is connected here, and what stands before it is what others say, perhaps the client itself: it is read only to find
//! where it ends.
//!
//! Whether a proxy writes a backslash as `\\` or as it is, is not the same everywhere. Where the two readings would end a value
//! at different places, the header is refused.

use super::MOST_CHAIN_BYTES;
use super::forwarded::{Malformed, check_length, too_large};
use aws_lc_rs::digest::{SHA256, digest};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

const MARK: &str = "-----BEGIN ";

/// The certificate in the last element and its chain, leaf first.
pub(super) fn chain(header: &[u8]) -> Result<Vec<CertificateDer<'static>>, Malformed> {
    let text = std::str::from_utf8(header).ok().filter(|text| text.bytes().all(|b| b == b' ' || b.is_ascii_graphic()));
    let text = text.ok_or_else(|| Malformed::new("visible ASCII", "other bytes"))?;
    let Element { cert, chain, hash } = last_element(text)?;
    let mut found = match (cert.map(certificates).transpose()?, chain.map(certificates).transpose()?) {
        (None, None) => {
            return Err(Malformed::new("`Cert` or `Chain` in the last element, which the proxy appended", "neither")
                .hint("the proxy must hand on the certificate itself: with Envoy, `set_current_client_cert_details` with `cert` or `chain`"));
        }
        (Some(cert), _) if cert.len() != 1 => return Err(Malformed::new("one certificate in `Cert`", "several")),
        (Some(cert), Some(chain)) if cert.first() != chain.first() => {
            return Err(Malformed::new("`Chain` to begin with the certificate of `Cert`", "another one"));
        }
        (_, Some(chain)) => chain,
        (Some(cert), None) => cert,
    };
    check_length(found.len())?;
    let bytes: usize = found.iter().map(|certificate| certificate.len()).sum();
    if bytes > MOST_CHAIN_BYTES {
        return Err(too_large());
    }
    let is_of = |hash: &str, leaf: &[u8]| {
        let hex: String = digest(&SHA256, leaf).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        hex.eq_ignore_ascii_case(hash)
    };
    match (hash, found.first()) {
        (Some(hash), Some(leaf)) if !is_of(hash, leaf) => Err(Malformed::new("`Hash` of the certificate", "that of another")),
        (_, Some(_)) => Ok(std::mem::take(&mut found)),
        (_, None) => Err(Malformed::new("a certificate", "none")),
    }
}

/// What of an element is used. Values are as they stand between the quotes.
#[derive(Debug, Default, PartialEq, Eq)]
struct Element<'a> {
    cert: Option<&'a str>,
    chain: Option<&'a str>,
    hash: Option<&'a str>,
}

/// All elements must be well-formed, or nobody could say where the last one begins.
fn last_element(text: &str) -> Result<Element<'_>, Malformed> {
    let mut element = Element::default();
    let mut rest = text.trim_start_matches(' ');
    loop {
        let (key, after) = rest.split_once('=').ok_or_else(|| broken("a key without a value"))?;
        if key.is_empty() || !key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') {
            return Err(broken("a key that is none"));
        }
        let (value, after) = value(after)?;
        let place = match key {
            _ if key.eq_ignore_ascii_case("cert") => Some(&mut element.cert),
            _ if key.eq_ignore_ascii_case("chain") => Some(&mut element.chain),
            _ if key.eq_ignore_ascii_case("hash") => Some(&mut element.hash),
            _ => None,
        };
        if place.is_some_and(|place| place.replace(value).is_some()) {
            return Err(broken("a key twice in one element"));
        }
        let after = after.trim_start_matches(' ');
        if after.is_empty() {
            return Ok(element);
        }
        if let Some(next) = after.strip_prefix(';') {
            rest = next;
        } else if let Some(next) = after.strip_prefix(',') {
            element = Element::default();
            rest = next.trim_start_matches(' ');
        } else {
            return Err(broken("something behind a value in quotes"));
        }
    }
}

/// A value, and what follows it.
fn value(text: &str) -> Result<(&str, &str), Malformed> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ';']).unwrap_or(text.len());
        let (value, after) = text.split_at(end);
        return if value.contains('"') {
            Err(broken("a quote within a value"))
        } else {
            Ok((value.trim_end_matches(' '), after))
        };
    };
    let mut backslashes = 0;
    for (at, byte) in quoted.bytes().enumerate() {
        match byte {
            b'\\' => backslashes += 1,
            b'"' if backslashes == 0 => return Ok((&quoted[..at], &quoted[at + 1..])),
            // To some the value ends here, to others not.
            b'"' if backslashes > 1 => return Err(broken("`\\\\\"`, which is not the same to all")),
            _ => backslashes = 0,
        }
    }
    Err(broken("a quote that is not closed"))
}

fn broken(observed: &'static str) -> Malformed {
    Malformed::new("elements of `key=value`, with `;` between pairs and `,` between elements", observed)
}

/// PEM in URL encoding. A `+` is a `+`: it is base64's, not a form's space.
fn certificates(value: &str) -> Result<Vec<CertificateDer<'static>>, Malformed> {
    const EXPECTED: &str = "certificates in PEM, URL-encoded";
    // Three characters for each byte at most, and base64 on top.
    if value.len() > MOST_CHAIN_BYTES * 5 {
        return Err(too_large());
    }
    let pem = decoded(value).ok_or_else(|| Malformed::new(EXPECTED, "another encoding"))?;
    let found = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
    let found = found.map_err(|_| Malformed::new(EXPECTED, "PEM that cannot be read"))?;
    let text = String::from_utf8_lossy(&pem);
    let framed =
        text.trim_start().starts_with("-----BEGIN CERTIFICATE-----") && text.trim_end().ends_with("-----END CERTIFICATE-----");
    // A key, or something that is left out in silence, is not what the proxy was to write.
    if !framed || text.matches(MARK).count() != found.len() {
        return Err(Malformed::new(EXPECTED, "something else in it"));
    }
    Ok(found)
}

fn decoded(value: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(value.len());
    let mut bytes = value.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let mut digit = || bytes.next().and_then(|b| char::from(b).to_digit(16)).and_then(|digit| u8::try_from(digit).ok());
            let (high, low) = (digit()?, digit()?);
            out.push(high << 4 | low);
        } else {
            out.push(byte);
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cert(text: &str) -> Result<Option<&str>, String> {
        last_element(text).map(|element| element.cert).map_err(|error| error.observed)
    }

    #[test]
    fn only_the_last_element_counts() {
        assert_eq!(cert("Cert=a"), Ok(Some("a")));
        assert_eq!(cert("By=x;Hash=00;cert=\"a\";Subject=\"CN=\\\"b\\\",O=c;d\";URI=spiffe://x;URI=y;DNS="), Ok(Some("a")));
        assert_eq!(cert("Cert=forged,By=x;Cert=a"), Ok(Some("a")));
        assert_eq!(cert("Cert=forged, By=x"), Ok(None), "what another element says is not taken instead");
        assert_eq!(cert("Subject=\",Cert=forged\";CERT=a"), Ok(Some("a")));
        assert_eq!(cert("Subject=\"a\\\",Cert=forged\";Cert=a"), Ok(Some("a")));
        assert_eq!(cert("Cert=a,Subject=\"\\\",Cert=b\""), Ok(None));
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_refused() {
        for header in [
            "",
            ",",
            "Cert",
            "=a",
            "Cert=a,",
            ",Cert=a",
            "Cert=a;",
            "Cert=a;;By=x",
            "Cert=a,,Cert=b",
            "Ce rt=a",
            " ;Cert=a",
            // The client left a quote open, to swallow what the proxy appends; or closed its own too early.
            "Subject=\",By=x;Cert=\"a\"",
            "Subject=\"a\\,By=x;Cert=\"a\"",
            "Subject=a\",By=x;Cert=\"a\"",
            "Subject=\"a\"b;Cert=a",
            // Two readings of a backslash before a quote.
            "Cert=a;Subject=\"CN=x\\\\\",Cert=forged\"",
            "Subject=\"CN=x\\\\\";Cert=a",
            // Twice.
            "Cert=a;Cert=a",
            "Cert=a;cert=b",
            "Chain=a;CHAIN=b",
            "Hash=a;Hash=b",
        ] {
            assert!(last_element(header).is_err(), "{header:?}");
        }
    }

    #[test]
    fn url_encoding_is_read_to_the_letter() {
        assert_eq!(decoded("a+b%2B%0a").unwrap(), b"a+b+\n");
        for bad in ["%", "%2", "%2g", "%%20", "a%"] {
            assert_eq!(decoded(bad), None, "{bad}");
        }
    }

    proptest::proptest! {
        /// Whatever a client sends, the proxy's element is what counts, or nothing is.
        #[test]
        fn no_client_can_speak_for_the_proxy(sent in "[\",;=\\\\a-cCert %]{0,40}") {
            let header = format!("{sent},By=x;Hash=00;Cert=\"-----BEGIN%20a\";Subject=\"CN=b,O=\\\"c\\\"\"");
            if let Ok(element) = last_element(&header) {
                proptest::prop_assert_eq!(element.cert, Some("-----BEGIN%20a"));
            }
        }
    }
}
