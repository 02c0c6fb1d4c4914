//! What commands are given, as what they work with.

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use std::path::Path;
use std::time::SystemTime;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

pub fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))
}

/// A file's token; `-` is standard input. What is wrong with it is said without showing it.
pub fn token(path: &Path) -> Result<String, String> {
    let text = if path.as_os_str() == "-" {
        std::io::read_to_string(std::io::stdin()).map_err(|error| format!("cannot read the token: {error}"))?
    } else {
        String::from_utf8(read(path)?).map_err(|_| format!("{} is not text", path.display()))?
    };
    Ok(text.trim().to_owned())
}

/// The header that brings a token.
pub fn bearer(token: &str) -> (String, Vec<u8>) {
    ("Authorization".into(), format!("Bearer {}", token.trim()).into_bytes())
}

/// A chain in a PEM file, leaf first.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let refuse = || format!("{} has no PEM certificate", path.display());
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&read(path)?).collect::<Result<_, _>>().map_err(|_| refuse())?;
    if chain.is_empty() { Err(refuse()) } else { Ok(chain) }
}

pub fn time(text: &str) -> Result<SystemTime, String> {
    let time = OffsetDateTime::parse(text, &Rfc3339);
    Ok(time.map_err(|_| format!("`{text}` is not a time; write one such as 2026-01-31T12:00:00Z"))?.into())
}
