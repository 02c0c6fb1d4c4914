//! Who the client is when other proxies stand before this one, and what upstreams are told about it.

use portcullis_plugin::headers::Lengths;
use portcullis_plugin::units::Network;
use portcullis_plugin::{Connection, DecisionId, Headers, RequestHead};
use std::net::IpAddr;
use std::sync::Arc;

/// The proxies whose word is believed.
#[derive(Debug, Clone, Default)]
pub struct TrustedProxies(Arc<[Network]>);

impl TrustedProxies {
    pub fn new(networks: Vec<Network>) -> Self {
        Self(networks.into())
    }

    pub fn trusts(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(address))
    }

    /// The real client: walks `X-Forwarded-For` from the right while each speaker is trusted. An entry that is no
    /// address ends the walk at the proxy that passed it on: what stands left of it cannot be judged.
    pub fn client(&self, connection: &Connection, headers: &Headers) -> IpAddr {
        let mut client = connection.source.ip().to_canonical();
        if !self.trusts(client) {
            return client;
        }
        let lines: Vec<&[u8]> = headers.get_all("x-forwarded-for").collect();
        let entries = lines.iter().rev().flat_map(|line| line.rsplit(|b| *b == b','));
        for entry in entries {
            let Some(address) = std::str::from_utf8(entry).ok().and_then(forwarded_address) else { break };
            client = address;
            if !self.trusts(client) {
                break;
            }
        }
        client
    }

    /// Replaces what the client said about its own way here by what this gateway knows. A trusted proxy's words are
    /// kept and added to.
    pub fn rewrite(&self, request: &mut RequestHead, connection: &Connection, id: DecisionId) {
        let source = connection.source.ip().to_canonical();
        let trusted = self.trusts(source);
        let scheme = request.scheme().as_str();
        let chain = if trusted {
            let mut chain = request.headers().get_all("x-forwarded-for").collect::<Vec<_>>().join(&b", "[..]);
            if !chain.is_empty() {
                chain.extend_from_slice(b", ");
            }
            chain
        } else {
            Vec::new()
        };
        let proto = request.headers().get_str("x-forwarded-proto").filter(|proto| trusted && matches!(*proto, "http" | "https"));
        let proto = if proto == Some("https") || (proto.is_none() && scheme == "https") { "https" } else { "http" };
        let host = request.headers().get("x-forwarded-host").filter(|_| trusted).map(<[u8]>::to_vec);
        request.headers_mut().driver_strip(Lengths::ALL, |name| is_forwarding(name, trusted));
        let (authority, headers) = request.driver_authority_and_headers();
        let mut space = [0; LONGEST_ADDRESS];
        let address = address_text(source, &mut space);
        // These fit: the values are addresses and words of our own, or were header values before. A head that is full
        // to its last field loses information about the way, never about identity.
        // Whatever had one of these names is gone.
        let _ = if chain.is_empty() {
            headers.driver_add("x-forwarded-for", address)
        } else {
            headers.driver_append("x-forwarded-for", &[&chain, address].concat())
        };
        let _ = headers.driver_add("x-forwarded-proto", proto.as_bytes());
        let _ = match host {
            Some(host) => headers.driver_append("x-forwarded-host", &host),
            None => headers.driver_add("x-forwarded-host", authority.as_bytes()),
        };
        let _ = headers.driver_add("x-decision-id", id.as_bytes());
    }
}

/// An IPv6 address with an IPv4 one in its end.
const LONGEST_ADDRESS: usize = 46;

/// The address as text. For IPv4 a sixth of what the formatter takes, on every request.
fn address_text(address: IpAddr, space: &mut [u8; LONGEST_ADDRESS]) -> &[u8] {
    let mut len = 0;
    let mut put = |bytes: &[u8]| {
        if let Some(place) = space.get_mut(len..len + bytes.len()) {
            place.copy_from_slice(bytes);
            len += bytes.len();
        }
    };
    match address {
        IpAddr::V4(address) => {
            for (at, octet) in address.octets().into_iter().enumerate() {
                if at > 0 {
                    put(b".");
                }
                put(itoa::Buffer::new().format(octet).as_bytes());
            }
        }
        IpAddr::V6(address) => put(address.to_string().as_bytes()),
    }
    space.get(..len).unwrap_or_default()
}

/// `a.b.c.d`, `a.b.c.d:port`, `::1` or `[::1]:port`, as proxies write them.
fn forwarded_address(entry: &str) -> Option<IpAddr> {
    let entry = entry.trim_matches([' ', '\t']);
    let address = entry.parse().ok().or_else(|| entry.parse::<std::net::SocketAddr>().ok().map(|socket| socket.ip()));
    let bare = || entry.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    address.or_else(bare).map(|address: IpAddr| address.to_canonical())
}

/// Names under which clients and proxies describe the way of a request, spellings with other punctuation included. From a peer that
/// is not trusted all of them go; from a trusted one only those that this gateway writes anew, and look-alikes.
fn is_forwarding(name: &[u8], trusted: bool) -> bool {
    // The longest of these names; what is longer is told by its beginning.
    let mut folded = [0_u8; 32];
    let first = name.first().map(u8::to_ascii_lowercase);
    if !matches!(first, Some(b'x' | b'f' | b't')) {
        return false;
    }
    let len = name.len().min(folded.len());
    for (to, from) in folded.iter_mut().zip(name) {
        *to = if from.is_ascii_alphanumeric() { from.to_ascii_lowercase() } else { b'-' };
    }
    let look_alike = name.iter().any(|b| !b.is_ascii_alphanumeric() && *b != b'-');
    match &folded[..len] {
        // A client's own is gone already: this one is a filter's.
        b"x-forwarded-client-cert" => look_alike,
        b"x-forwarded-for" | b"x-forwarded-proto" | b"x-forwarded-host" | b"x-decision-id" => true,
        b"forwarded"
        | b"x-real-ip"
        | b"x-original-forwarded-for"
        | b"true-client-ip"
        | b"x-client-ip"
        | b"x-cluster-client-ip"
        | b"x-original-url"
        | b"x-rewrite-url"
        | b"x-original-host"
        | b"x-envoy-external-address" => !trusted || look_alike,
        other => other.starts_with(b"x-forwarded-") && (!trusted || look_alike),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis_plugin::{Method, Scheme, Version};

    fn connection(source: &str) -> Connection {
        let source = format!("{source}:1").parse().unwrap();
        Connection { listener: "test".into(), peer: source, source, local: source, tls: None }
    }

    fn request(fields: &[(&str, &str)]) -> RequestHead {
        let mut headers = Headers::new();
        for (name, value) in fields {
            headers.append(name, value).unwrap();
        }
        RequestHead::new(Method::Get, Scheme::Http, Version::Http11, "a.example".into(), "/".into(), headers)
    }

    fn trusted() -> TrustedProxies {
        TrustedProxies::new(vec!["10.0.0.0/8".parse().unwrap()])
    }

    fn client(source: &str, forwarded: &[&str]) -> String {
        let fields: Vec<_> = forwarded.iter().map(|value| ("X-Forwarded-For", *value)).collect();
        trusted().client(&connection(source), request(&fields).headers()).to_string()
    }

    #[test]
    fn a_stranger_is_not_believed() {
        assert_eq!(client("203.0.113.9", &["10.1.1.1"]), "203.0.113.9");
    }

    #[test]
    fn the_walk_goes_from_right_to_left_through_trusted_proxies() {
        assert_eq!(client("10.0.0.1", &["198.51.100.7"]), "198.51.100.7");
        assert_eq!(client("10.0.0.1", &["1.1.1.1, 198.51.100.7, 10.0.0.2"]), "198.51.100.7");
        assert_eq!(client("10.0.0.1", &["1.1.1.1", "198.51.100.7"]), "198.51.100.7");
        assert_eq!(client("10.0.0.1", &["::ffff:198.51.100.7"]), "198.51.100.7");
        assert_eq!(client("10.0.0.1", &["198.51.100.7:4711"]), "198.51.100.7");
    }

    #[test]
    fn what_is_no_address_ends_the_walk_at_who_passed_it_on() {
        assert_eq!(client("10.0.0.1", &["198.51.100.7, unknown, 10.0.0.2"]), "10.0.0.2");
        assert_eq!(client("10.0.0.1", &["127.0.0.1, ' or 1=1"]), "10.0.0.1");
    }

    #[test]
    fn a_strangers_story_is_replaced_in_every_spelling() {
        let mut head = request(&[
            ("X-Forwarded-For", "127.0.0.1"),
            ("x_forwarded_for", "127.0.0.1"),
            ("X.Forwarded.For", "127.0.0.1"),
            ("X-Forwarded-Prefix", "/admin"),
            ("Forwarded", "for=127.0.0.1"),
            ("X-Forwarded-Proto", "https"),
            ("X-Decision-Id", "forged"),
            ("X-Real-IP", "127.0.0.1"),
        ]);
        let id = DecisionId::random();
        trusted().rewrite(&mut head, &connection("203.0.113.9"), id);
        let seen: Vec<_> = head.headers().iter().map(|(n, v)| format!("{n}: {}", String::from_utf8_lossy(v))).collect();
        assert_eq!(
            seen,
            [
                "x-forwarded-for: 203.0.113.9",
                "x-forwarded-proto: http",
                "x-forwarded-host: a.example",
                &format!("x-decision-id: {id}")
            ]
        );
    }

    #[test]
    fn a_trusted_proxys_story_is_continued() {
        let mut head =
            request(&[("X-Forwarded-For", "198.51.100.7"), ("X-Forwarded-Proto", "https"), ("X-Forwarded-Prefix", "/p")]);
        trusted().rewrite(&mut head, &connection("10.0.0.1"), DecisionId::random());
        assert_eq!(head.headers().get_str("x-forwarded-for"), Some("198.51.100.7, 10.0.0.1"));
        assert_eq!(head.headers().get_str("x-forwarded-proto"), Some("https"));
        assert_eq!(head.headers().get_str("x-forwarded-prefix"), Some("/p"));
    }
}
