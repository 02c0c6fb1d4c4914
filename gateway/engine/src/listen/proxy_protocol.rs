//! The PROXY protocol, versions 1 and 2, as <https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt> defines it.
//!
//! The header decides whose address every later rule sees. So only what the document allows is read, to the letter;
//! whatever else a trusted peer sends ends the connection. (Ready-made parsers let through `PROXYxTCP4`, ports with a
//! sign, and wrong checksums.)

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

const V1_START: &[u8] = b"PROXY ";
/// The longest line of version 1, line end included.
const V1_MAX: usize = 107;
const V2_START: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const V2_FIXED: usize = 16;
/// The longest header of version 2 that is read. The format allows 64 KiB; real ones, with every extension that load
/// balancers add, have some hundred bytes.
pub const V2_MAX: usize = 4096;
const V2_CHECKSUM: u8 = 0x03;

/// What a header says about where the connection comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The client. `None` for connections the peer made for itself, such as its health checks, or whose origin has no
    /// IP address: then the peer's own address counts.
    pub source: Option<SocketAddr>,
    /// The bytes of the header; what follows belongs to the client.
    pub length: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    #[error("a peer that must send a PROXY header sent none")]
    Missing,
    #[error("the PROXY header is malformed")]
    Malformed,
    #[error("the PROXY header is too long")]
    TooLong,
    #[error("the checksum of the PROXY header does not hold")]
    Checksum,
    #[error("a PROXY header from a peer that is not trusted with one")]
    Untrusted,
}

impl HeaderError {
    #[cfg(test)]
    pub(super) const ALL: &[Self] = &[Self::Missing, Self::Malformed, Self::TooLong, Self::Checksum, Self::Untrusted];

    pub fn reason(&self) -> &'static str {
        match self {
            Self::Missing => "proxy_header.missing",
            Self::Malformed => "proxy_header.malformed",
            Self::TooLong => "proxy_header.too_long",
            Self::Checksum => "proxy_header.checksum",
            Self::Untrusted => "proxy_header.untrusted",
        }
    }
}

/// How far bytes agree with what something starts with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    No,
    /// As far as they go.
    SoFar,
    Yes,
}

pub(super) fn starts(bytes: &[u8], with: &[u8]) -> Start {
    if bytes.starts_with(with) {
        Start::Yes
    } else if with.starts_with(bytes) {
        Start::SoFar
    } else {
        Start::No
    }
}

/// Whether these first bytes of a connection are a PROXY header's.
pub(super) fn looks_like_header(bytes: &[u8]) -> Start {
    match (starts(bytes, V1_START), starts(bytes, V2_START)) {
        (Start::Yes, _) | (_, Start::Yes) => Start::Yes,
        (Start::No, Start::No) => Start::No,
        _ => Start::SoFar,
    }
}

/// Reads the header that `bytes` begin with; `None` if more bytes are needed.
///
/// # Errors
/// If they begin with none, or with one that cannot be read.
pub fn parse(bytes: &[u8]) -> Result<Option<Header>, HeaderError> {
    match (starts(bytes, V1_START), starts(bytes, V2_START)) {
        (Start::Yes, _) => parse_v1(bytes),
        (_, Start::Yes) => parse_v2(bytes),
        (Start::No, Start::No) => Err(HeaderError::Missing),
        _ => Ok(None),
    }
}

fn parse_v1(bytes: &[u8]) -> Result<Option<Header>, HeaderError> {
    let window = &bytes[..bytes.len().min(V1_MAX)];
    let Some(end) = window.iter().position(|b| *b == b'\n') else {
        return if bytes.len() >= V1_MAX { Err(HeaderError::TooLong) } else { Ok(None) };
    };
    let line = window[V1_START.len()..end].strip_suffix(b"\r").ok_or(HeaderError::Malformed)?;
    let length = end + 1;
    // "UNKNOWN": whatever stands between it and the line end is to be ignored.
    if line == b"UNKNOWN" || line.starts_with(b"UNKNOWN ") {
        return Ok(Some(Header { source: None, length }));
    }
    let line = std::str::from_utf8(line).map_err(|_| HeaderError::Malformed)?;
    let source = match line.split_once(' ') {
        Some(("TCP4", rest)) => v1_source::<Ipv4Addr>(rest),
        Some(("TCP6", rest)) => v1_source::<Ipv6Addr>(rest),
        _ => None,
    };
    Ok(Some(Header { source: Some(source.ok_or(HeaderError::Malformed)?), length }))
}

/// `source destination source-port destination-port`, each separated by one space.
fn v1_source<A: FromStr + Into<IpAddr>>(rest: &str) -> Option<SocketAddr> {
    let mut words = rest.split(' ');
    let source: A = words.next()?.parse().ok()?;
    words.next()?.parse::<A>().ok()?;
    let port = v1_port(words.next()?)?;
    v1_port(words.next()?)?;
    if words.next().is_some() {
        return None;
    }
    Some(canonical(source.into(), port))
}

/// Decimal digits only, and no leading zeros: the number type's own parser would also take `+80`.
fn v1_port(word: &str) -> Option<u16> {
    let plain = word.bytes().all(|b| b.is_ascii_digit()) && (word == "0" || !word.starts_with('0'));
    if plain { word.parse().ok() } else { None }
}

fn parse_v2(bytes: &[u8]) -> Result<Option<Header>, HeaderError> {
    let Some(&[version_command, family, high, low]) = bytes.get(V2_START.len()..V2_FIXED) else {
        return Ok(None);
    };
    let local = match version_command {
        0x20 => true,
        0x21 => false,
        _ => return Err(HeaderError::Malformed),
    };
    let rest = usize::from(u16::from_be_bytes([high, low]));
    let length = V2_FIXED + rest;
    if length > V2_MAX {
        return Err(HeaderError::TooLong);
    }
    // Of the address families that are defined, with stream or datagram: unspecified, IPv4, IPv6, UNIX. A local
    // connection's family and addresses are to be ignored, whatever they are.
    let addresses = match family {
        _ if local => 0,
        0x00 => 0,
        0x11 | 0x12 => 12,
        0x21 | 0x22 => 36,
        0x31 | 0x32 => 216,
        _ => return Err(HeaderError::Malformed),
    };
    let Some(header) = bytes.get(..length) else {
        return Ok(None);
    };
    if local {
        return Ok(Some(Header { source: None, length }));
    }
    let (block, extensions) = header[V2_FIXED..].split_at_checked(addresses).ok_or(HeaderError::Malformed)?;
    check_extensions(header, extensions)?;
    let source = match family {
        0x11 | 0x12 => v2_source::<4>(block),
        0x21 | 0x22 => v2_source::<16>(block),
        _ => None,
    };
    Ok(Some(Header { source, length }))
}

/// Both addresses of `N` bytes, then both ports.
fn v2_source<const N: usize>(block: &[u8]) -> Option<SocketAddr>
where
    [u8; N]: Into<IpAddr>,
{
    let address: [u8; N] = *block.first_chunk()?;
    let port: [u8; 2] = *block.get(2 * N..)?.first_chunk()?;
    Some(canonical(address.into(), u16::from_be_bytes(port)))
}

/// The extensions must fill their space exactly, and a checksum among them must hold.
fn check_extensions(header: &[u8], mut extensions: &[u8]) -> Result<(), HeaderError> {
    while let [kind, high, low, rest @ ..] = extensions {
        let size = usize::from(u16::from_be_bytes([*high, *low]));
        let (value, next) = rest.split_at_checked(size).ok_or(HeaderError::Malformed)?;
        if *kind == V2_CHECKSUM {
            let stated: [u8; 4] = value.try_into().map_err(|_| HeaderError::Malformed)?;
            let at = header.len() - rest.len();
            let zeroed = header.iter().enumerate().map(|(i, b)| if (at..at + 4).contains(&i) { 0 } else { *b });
            if crc32c(zeroed) != u32::from_be_bytes(stated) {
                return Err(HeaderError::Checksum);
            }
        }
        extensions = next;
    }
    if extensions.is_empty() { Ok(()) } else { Err(HeaderError::Malformed) }
}

/// CRC-32C (Castagnoli). Few headers carry one and they are short: bit by bit is fast enough.
fn crc32c(bytes: impl Iterator<Item = u8>) -> u32 {
    !bytes.fold(!0, |crc: u32, byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 })
    })
}

/// `::ffff:a.b.c.d` is the IPv4 client that it is.
fn canonical(address: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(address.to_canonical(), port)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proxy_header::{ProxiedAddress, ProxyHeader, Tlv};

    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = V2_START.to_vec();
        bytes.extend([command, family]);
        bytes.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
        bytes.extend(body);
        bytes
    }

    fn source(bytes: &[u8]) -> Result<Option<SocketAddr>, HeaderError> {
        parse(bytes).map(|header| header.expect("the header is complete").source)
    }

    #[test]
    fn version_1_to_the_letter() {
        assert_eq!(source(b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n"), Ok(Some("192.0.2.1:56324".parse().unwrap())));
        assert_eq!(source(b"PROXY TCP6 2001:db8::1 ::1 1 65535\r\n"), Ok(Some("[2001:db8::1]:1".parse().unwrap())));
        assert_eq!(source(b"PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n"), Ok(Some("192.0.2.1:1".parse().unwrap())));
        assert_eq!(source(b"PROXY UNKNOWN\r\n"), Ok(None));
        assert_eq!(source(b"PROXY UNKNOWN ffff::1 what ever \xff\r\n"), Ok(None));
        for bad in [
            &b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\n"[..],
            b"PROXY  TCP4 192.0.2.1 198.51.100.1 56324 443\r\n",
            b"PROXY TCP4  192.0.2.1 198.51.100.1 56324 443\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 443 \r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 443 1\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.1 +56324 443\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.1 056324 443\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.1 65536 443\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.1 56324\r\n",
            b"PROXY TCP4 192.0.2.01 198.51.100.1 56324 443\r\n",
            b"PROXY TCP4 192.0.2.1 example.com 56324 443\r\n",
            b"PROXY TCP4 2001:db8::1 ::1 56324 443\r\n",
            b"PROXY TCP6 192.0.2.1 198.51.100.1 56324 443\r\n",
            b"PROXY tcp4 192.0.2.1 198.51.100.1 56324 443\r\n",
            b"PROXY UNKNOWNTCP4\r\n",
            b"PROXY UDP4 192.0.2.1 198.51.100.1 56324 443\r\n",
            b"PROXY TCP4 192.0.2.1\xff 198.51.100.1 56324 443\r\n",
            b"PROXY \r\n",
        ] {
            assert_eq!(source(bad), Err(HeaderError::Malformed), "{}", String::from_utf8_lossy(bad));
        }
        assert_eq!(parse(b"PROXYxTCP4 192.0.2.1 198.51.100.1 56324 443\r\n"), Err(HeaderError::Missing));
        let endless = [b"PROXY UNKNOWN ".as_slice(), &[b'x'; 200]].concat();
        assert_eq!(parse(&endless), Err(HeaderError::TooLong));
        assert_eq!(parse(&endless[..V1_MAX - 1]), Ok(None));
    }

    #[test]
    fn only_the_header_is_taken_and_what_follows_is_the_clients() {
        for header in [&b"PROXY TCP4 192.0.2.1 198.51.100.1 1 2\r\n"[..], &v2(0x21, 0x11, &[1; 12])] {
            let with_request = [header, b"GET / HTTP/1.1\r\n\r\n"].concat();
            assert_eq!(parse(&with_request).unwrap().unwrap().length, header.len());
            for end in 0..header.len() {
                assert_eq!(parse(&header[..end]), Ok(None), "{end}");
            }
        }
    }

    #[test]
    fn version_2_commands_and_families() {
        let v4 = [192, 0, 2, 1, 198, 51, 100, 1, 0xdc, 0x04, 1, 0xbb];
        assert_eq!(source(&v2(0x21, 0x11, &v4)), Ok(Some("192.0.2.1:56324".parse().unwrap())));
        assert_eq!(source(&v2(0x21, 0x12, &v4)), Ok(Some("192.0.2.1:56324".parse().unwrap())));
        // The peer's own connection (a health check), with or without addresses that mean nothing.
        assert_eq!(source(&v2(0x20, 0x00, &[])), Ok(None));
        assert_eq!(source(&v2(0x20, 0x11, &v4)), Ok(None));
        assert_eq!(source(&v2(0x20, 0x77, &v4)), Ok(None));
        // No IP address to be had: unspecified and UNIX.
        assert_eq!(source(&v2(0x21, 0x00, &[])), Ok(None));
        assert_eq!(source(&v2(0x21, 0x31, &[0; 216])), Ok(None));
        for (command, family, body) in [
            (0x11, 0x11, &v4[..]),
            (0x22, 0x11, &v4),
            (0x21, 0x13, &v4),
            (0x21, 0x41, &v4),
            (0x21, 0x11, &v4[..11]),
            (0x21, 0x21, &v4),
        ] {
            assert_eq!(source(&v2(command, family, body)), Err(HeaderError::Malformed), "{command:x} {family:x}");
        }
        assert_eq!(parse(&v2(0x21, 0x11, &[0; V2_MAX])[..V2_FIXED]), Err(HeaderError::TooLong));
    }

    #[test]
    fn extensions_fill_their_space_and_a_checksum_must_hold() {
        let mut body = vec![192, 0, 2, 1, 198, 51, 100, 1, 0, 1, 0, 2];
        body.extend([0x02, 0, 3, b'a', b'.', b'b', V2_CHECKSUM, 0, 4, 0, 0, 0, 0]);
        let crc = crc32c(v2(0x21, 0x11, &body).into_iter());
        let at = body.len() - 4;
        body[at..].copy_from_slice(&crc.to_be_bytes());
        assert!(source(&v2(0x21, 0x11, &body)).unwrap().is_some());
        body[0] ^= 1;
        assert_eq!(source(&v2(0x21, 0x11, &body)), Err(HeaderError::Checksum));
        for tail in [&[0x02, 0, 4, 0][..], &[0x02, 0], &[V2_CHECKSUM, 0, 1, 9]] {
            assert_eq!(source(&v2(0x21, 0x11, &[&[1; 12], tail].concat())), Err(HeaderError::Malformed));
        }
        // The check value that every description of CRC-32C gives.
        assert_eq!(crc32c(b"123456789".iter().copied()), 0xe306_9283);
    }

    proptest! {
        #[test]
        fn what_another_implementation_writes_is_read(address: SocketAddr, to: SocketAddr, authority in "[a-z]{0,20}") {
            prop_assume!(address.is_ipv4() == to.is_ipv4());
            let expected = Some(SocketAddr::new(address.ip().to_canonical(), address.port()));
            let mut header = ProxyHeader::with_address(ProxiedAddress::stream(address, to));
            let mut bytes = Vec::new();
            header.encode_v1(&mut bytes).unwrap();
            prop_assert_eq!(source(&bytes), Ok(expected));
            header.append_tlv(Tlv::Authority(authority.into()));
            bytes.clear();
            header.encode_v2(&mut bytes).unwrap();
            prop_assert_eq!(source(&bytes), Ok(expected));
        }

        #[test]
        fn no_bytes_make_it_panic_or_take_more_than_there_are(tail: Vec<u8>, version_2: bool) {
            let start = if version_2 { V2_START } else { V1_START };
            let bytes = [start, &tail].concat();
            if let Ok(Some(header)) = parse(&bytes) {
                prop_assert!(header.length <= bytes.len());
            }
        }
    }
}
