//! Where a backend is: `host:port`, with an IPv6 address in brackets.

use portcullis_plugin::ConfigError;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

/// The address of a backend as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// The whole, in one spelling: lower-case names, short IPv6.
    pub label: Arc<str>,
    pub host: Host,
    pub port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    Ip(IpAddr),
    /// Lower-case, without a final dot.
    Name(Arc<str>),
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(ip) => ip.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

impl Address {
    /// # Errors
    /// If it is not `host:port`.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let refuse = |what: &str| {
            ConfigError::new(format!("`{text}` is not the address of a backend: {what}"))
                .help("write host:port, such as 10.0.0.1:8080, app.internal:8080 or [2001:db8::1]:8080")
        };
        if text.contains("://") {
            return Err(refuse("it has a scheme").help("write host:port; `tls` of the pool turns TLS on"));
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(|| refuse("it has no port"))?;
        if port.is_empty() || !port.bytes().all(|b| b.is_ascii_digit()) {
            return Err(refuse("the port is not a number"));
        }
        let port = port.parse::<u16>().ok().filter(|port| *port != 0).ok_or_else(|| refuse("a port is 1 to 65535"))?;
        let host = parse_host(host).map_err(refuse)?;
        let label = match &host {
            Host::Ip(IpAddr::V6(ip)) => format!("[{ip}]:{port}"),
            other => format!("{other}:{port}"),
        };
        Ok(Self { label: label.into(), host, port })
    }
}

fn parse_host(host: &str) -> Result<Host, &'static str> {
    if let Some(inner) = host.strip_prefix('[') {
        let inner = inner.strip_suffix(']').ok_or("a bracket is not closed")?;
        return inner.parse::<Ipv6Addr>().map(|ip| Host::Ip(ip.into())).map_err(|_| "brackets hold an IPv6 address");
    }
    if host.contains(':') {
        return Err("an IPv6 address stands in brackets");
    }
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(Host::Ip(ip));
    }
    let name = host.strip_suffix('.').unwrap_or(host);
    check_name(name)?;
    Ok(Host::Name(name.to_ascii_lowercase().into()))
}

/// Whether `name` is a host name (RFC 1123; underscores are common and allowed here).
pub(super) fn check_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() {
        return Err("the host is empty");
    }
    if name.len() > 253 {
        return Err("the name is too long");
    }
    let label_ok = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    if !name.split('.').all(label_ok) {
        return Err("the host is neither an address nor a host name");
    }
    // `10.0.0.300` is a mistake in an address, not a name: no top-level domain is a number.
    if name.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit())) {
        return Err("it is not an IPv4 address, and no name ends in a number");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_kinds() {
        let label = |text: &str| Address::parse(text).map(|a| a.label.to_string());
        assert_eq!(label("10.0.0.1:80").unwrap(), "10.0.0.1:80");
        assert_eq!(label("[2001:DB8:0::1]:80").unwrap(), "[2001:db8::1]:80");
        assert_eq!(label("App.Internal.:80").unwrap(), "app.internal:80");
        assert_eq!(label("my_app-1:8080").unwrap(), "my_app-1:8080");
    }

    #[test]
    fn what_is_no_address_is_refused_with_the_cause() {
        for (text, cause) in [
            ("10.0.0.1", "no port"),
            ("10.0.0.1:", "not a number"),
            ("10.0.0.1:0", "1 to 65535"),
            ("10.0.0.1:65536", "1 to 65535"),
            ("10.0.0.1:+80", "not a number"),
            ("10.0.0.300:80", "no name ends in a number"),
            ("::1:80", "brackets"),
            ("[::1:80", "not closed"),
            ("[10.0.0.1]:80", "IPv6"),
            (":80", "empty"),
            ("http://a:80", "scheme"),
            ("a b:80", "neither"),
            ("a..b:80", "neither"),
            ("-a:80", "neither"),
            ("a/b:80", "neither"),
        ] {
            let error = Address::parse(text).unwrap_err().to_string();
            assert!(error.contains(cause), "{text}: {error}");
        }
    }
}
