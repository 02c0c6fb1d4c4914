//! Reading one of the listener's own certificates and its key, and saying everything that is wrong with them.

use super::names::Name;
use portcullis_plugin::{ConfigError, Env};
use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// How long before its end a certificate is warned about.
const SOON: Duration = Duration::from_secs(7 * 24 * 3600);

/// A certificate chain with its key, and the names it is for.
pub(super) struct OwnCertificate {
    pub(super) key: Arc<CertifiedKey>,
    pub(super) names: Vec<Name>,
    pub(super) not_after: SystemTime,
    /// What does not stop it from being used.
    pub(super) warnings: Vec<ConfigError>,
}

/// Reads and checks `cert` and `key`. Errors and warnings are at `cert` or `key`.
pub(super) fn read(cert: &str, key: &str, env: &Env, provider: &CryptoProvider) -> Result<OwnCertificate, ConfigError> {
    let mut warnings = Vec::new();
    let chain = read_chain(cert, env).map_err(|error| error.at("cert"))?;
    let private = read_key(key, env, &mut warnings).map_err(|error| error.at("key"))?;

    let leaf = chain.first().ok_or_else(|| ConfigError::new(format!("{cert} holds no certificate")).at("cert"))?;
    let (_, parsed) = X509Certificate::from_der(leaf)
        .map_err(|_| ConfigError::new(format!("the first certificate of {cert} cannot be read")).at("cert"))?;
    let names = names(&parsed, cert, &mut warnings).map_err(|error| error.at("cert"))?;
    let not_after = check_validity(&parsed, cert, SystemTime::now(), &mut warnings);
    check_order(&chain, cert, &mut warnings);

    let signing = provider
        .key_provider
        .load_private_key(private)
        .map_err(|_| ConfigError::new(format!("the key of {key} is of a kind or size that TLS cannot use")).at("key"))?;
    let certified = CertifiedKey::new(chain, signing);
    match certified.keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {}
        Err(rustls::Error::InconsistentKeys(_)) => return Err(mismatch(&certified, cert, key)),
        Err(error) => {
            return Err(ConfigError::new(format!("the first certificate of {cert} cannot be used: {error}")).at("cert"));
        }
    }
    Ok(OwnCertificate { key: Arc::new(certified), names, not_after, warnings })
}

fn read_chain(file: &str, env: &Env) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    let bytes = env.read(file)?;
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&bytes)
        .collect::<Result<_, _>>()
        .map_err(|error| ConfigError::new(format!("{file} is not well-formed PEM: {error}")))?;
    if chain.is_empty() {
        let help = match bytes.first() {
            Some(0x30) => "it seems to be DER; convert it: openssl x509 -inform der -in FILE -out FILE.pem",
            _ => "it must be PEM: `-----BEGIN CERTIFICATE-----`, the leaf first, then its intermediates",
        };
        return Err(ConfigError::new(format!("{file} holds no certificate")).help(help));
    }
    Ok(chain)
}

fn read_key(file: &str, env: &Env, warnings: &mut Vec<ConfigError>) -> Result<PrivateKeyDer<'static>, ConfigError> {
    let bytes = env.read(file)?;
    // Nothing of the content goes into an error: it may be the key.
    let contains = |text: &[u8]| memchr::memmem::find(&bytes, text).is_some();
    if contains(b"BEGIN ENCRYPTED PRIVATE KEY") || contains(b"Proc-Type: 4,ENCRYPTED") {
        return Err(ConfigError::new(format!("the key of {file} is encrypted with a passphrase"))
            .help("decrypt it (openssl pkey -in FILE -out FILE.plain) and protect the file by its permissions"));
    }
    let mut keys = PrivateKeyDer::pem_slice_iter(&bytes);
    let key = match keys.next() {
        Some(Ok(key)) => key,
        Some(Err(_)) => return Err(ConfigError::new(format!("{file} is not well-formed PEM"))),
        None => {
            return Err(ConfigError::new(format!("{file} holds no private key"))
                .help("it must be PEM: `-----BEGIN PRIVATE KEY-----`, `BEGIN RSA PRIVATE KEY` or `BEGIN EC PRIVATE KEY`"));
        }
    };
    if keys.next().is_some() {
        return Err(
            ConfigError::new(format!("{file} holds more than one private key")).help("give each certificate a file of its own")
        );
    }
    if readable_by_all(file, env) {
        warnings.push(
            ConfigError::new(format!("every user of this machine can read the private key {file}"))
                .help("chmod 640 or 600, owned by the gateway's user or group")
                .at("key"),
        );
    }
    Ok(key)
}

#[cfg(unix)]
fn readable_by_all(file: &str, env: &Env) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(env.resolve(file)).is_ok_and(|metadata| metadata.permissions().mode() & 0o004 != 0)
}

#[cfg(not(unix))]
fn readable_by_all(_: &str, _: &Env) -> bool {
    false
}

/// The DNS names. A common name is not one: no client has looked at it for years.
fn names(leaf: &X509Certificate<'_>, file: &str, warnings: &mut Vec<ConfigError>) -> Result<Vec<Name>, ConfigError> {
    let extension = leaf
        .subject_alternative_name()
        .map_err(|_| ConfigError::new(format!("the subject alternative names of {file} cannot be read")))?;
    let mut names = Vec::new();
    for general in extension.map(|extension| extension.value.general_names.as_slice()).unwrap_or_default() {
        let GeneralName::DNSName(text) = general else {
            continue;
        };
        match Name::new(text) {
            Some(name) => names.push(name),
            None => warnings.push(
                ConfigError::new(format!("{file}: the name `{text}` is never chosen"))
                    .help("only plain names and a leading `*.` are matched")
                    .at("cert"),
            ),
        }
    }
    names.sort();
    names.dedup();
    Ok(names)
}

/// A certificate out of its time is served all the same: an edge that starts with it can still serve its other names,
/// and its clients say clearly what is wrong. But nobody should learn it from them first.
fn check_validity(leaf: &X509Certificate<'_>, file: &str, now: SystemTime, warnings: &mut Vec<ConfigError>) -> SystemTime {
    let time = |asn1: x509_parser::time::ASN1Time| {
        SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(asn1.timestamp()).unwrap_or(0))
    };
    let (not_before, not_after) = (time(leaf.validity().not_before), time(leaf.validity().not_after));
    let dates = leaf.validity();
    let warning = if now < not_before {
        Some(format!("the certificate {file} is not valid before {}", dates.not_before))
    } else if now > not_after {
        Some(format!("the certificate {file} expired on {}", dates.not_after))
    } else if now + SOON > not_after {
        Some(format!("the certificate {file} expires soon, on {}", dates.not_after))
    } else {
        None
    };
    warnings.extend(warning.map(|text| ConfigError::new(text).at("cert")));
    not_after
}

/// Each certificate should be followed by its issuer's; many clients cannot sort.
fn check_order(chain: &[CertificateDer<'_>], file: &str, warnings: &mut Vec<ConfigError>) {
    let follows = |pair: &[CertificateDer<'_>]| match pair {
        [this, next] => match (X509Certificate::from_der(this), X509Certificate::from_der(next)) {
            (Ok((_, this)), Ok((_, next))) => this.issuer().as_raw() == next.subject().as_raw(),
            _ => false,
        },
        _ => true,
    };
    if !chain.windows(2).all(follows) {
        warnings.push(
            ConfigError::new(format!("the chain of {file} is out of order, or has a certificate that does not belong to it"))
                .help("the leaf first, then each one's issuer")
                .at("cert"),
        );
    }
}

/// Key and certificate do not belong together; often because the chain is upside down.
fn mismatch(certified: &CertifiedKey, cert: &str, key: &str) -> ConfigError {
    let elsewhere = certified.cert.iter().skip(1).any(|other| {
        let alone = CertifiedKey::new(vec![other.clone()], Arc::clone(&certified.key));
        alone.keys_match().is_ok()
    });
    let error = ConfigError::new(format!("the key {key} does not belong to the first certificate of {cert}")).at("key");
    if elsewhere { error.help("it belongs to a later one: put the leaf first") } else { error }
}
